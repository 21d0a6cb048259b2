/*
 * serve.h: the process of one switch: an event loop with a struct net_switch, its cables, and calls on its control socket:
 *
 *   status  -> net_switch_describe()      capture {path} -> {}, {} ends it      stop -> {}
 *
 * Threads: one.
 */
#ifndef LODGE_CLI_SWITCH_SERVE_H
#define LODGE_CLI_SWITCH_SERVE_H

#include <stdbool.h>

struct err;

struct switch_tap {
	char *name;
};

struct switch_opts {
	const char *name;
	bool user; /* NAT for everybody on the switch */
	const struct switch_tap *taps;
	unsigned ntaps;
	const struct switch_tap *uplinks; /* switches that a cable goes to */
	unsigned nuplinks;
	int ready_fd; /* closed when it serves; -1: none */
};

/* Serves until it is told to stop, by the call or by SIGTERM, SIGINT, SIGHUP. */
int switch_serve(const struct switch_opts *o, struct err *e);

#endif
