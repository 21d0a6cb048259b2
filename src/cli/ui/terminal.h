/*
 * terminal.h: the guest's console on this terminal.
 *
 * Bytes go both ways unchanged but for one escape, Ctrl-A:
 *	Ctrl-A x  leaves (from `lodge run`: ends the machine)    Ctrl-A d  detaches: the machine runs on
 *	Ctrl-A h  helps                                          Ctrl-A Ctrl-A  sends one Ctrl-A
 * Ctrl-A with another key sends both. The escape may come in pieces.
 *
 * The terminal is put into raw mode and back again on every way out. SIGTERM, SIGHUP, SIGINT and SIGQUIT end the
 * loop; SIGTSTP gives the terminal back for as long as this process is stopped. Standard input need not be a
 * terminal: at its end only input ends, and the console goes on until the machine does.
 *
 * One thread; the process's signal mask is changed while terminal_run() runs.
 */
#ifndef LODGE_CLI_TERMINAL_H
#define LODGE_CLI_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <termios.h>

struct client;

/* The escape, byte by byte. */
struct escape {
	bool pending; /* Ctrl-A was the last byte */
};
enum escape_action { ESCAPE_NONE, ESCAPE_LEAVE, ESCAPE_DETACH, ESCAPE_HELP };
/*
 * Filters in[0..n) into out (at least n + 1 bytes); *out_len bytes of it go to the guest. Stops behind the
 * first action; *used bytes were read.
 */
enum escape_action escape_filter(
	struct escape *s, const char *in, size_t n, char *out, size_t *out_len, size_t *used);

/* A terminal's mode, to be put back. */
struct terminal_mode {
	int fd;
	bool raw;
	struct termios old;
};
/* Does nothing where fd is no terminal. */
void terminal_raw(struct terminal_mode *m, int fd);
/* May be called twice, and from a background process group. */
void terminal_restore(struct terminal_mode *m);

enum terminal_end {
	TERMINAL_GONE, /* the machine has ended */
	TERMINAL_LEFT, /* Ctrl-A x */
	TERMINAL_DETACHED, /* Ctrl-A d */
	TERMINAL_SIGNAL, /* *signum says which */
	TERMINAL_NO_OUTPUT, /* nobody reads our standard output any more */
	TERMINAL_STUCK, /* the machine stopped on an error, and nobody is here to look at it */
};

struct terminal {
	struct client *console; /* raw (method console) */
	struct client *events; /* subscribed; NULL: none */
	const char *name;
	bool owner; /* `lodge run`: leaving ends the machine */
	int in, out, err; /* descriptors: 0, 1, 2 but in tests */
	int signum; /* set for TERMINAL_SIGNAL */
};
enum terminal_end terminal_run(struct terminal *t);

#endif
