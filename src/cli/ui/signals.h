/*
 * signals.h: what would end this program is read instead, so that it ends in order.
 *
 *	cleanup(close_fd) int fd = -1;
 *	rc = signals_hold(&fd, NULL, e);	// a signalfd: poll() it, or give it on
 *
 * SIGINT, SIGTERM and SIGHUP, but those that are ignored (nohup, a job in the background of a script): these stay so. The signal mask is the
 * process's; one thread.
 */
#ifndef LODGE_CLI_UI_SIGNALS_H
#define LODGE_CLI_UI_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

struct err;

/* From now on they wait, and those of `more` (0 ends it; NULL: none) too. Only before what has to be undone, or takes long. */
int signals_hold(int *fd, const int *more, struct err *e);
/* Those of the n that are not ignored: a mask would hold those back all the same, and a signalfd show them. */
void signals_not_ignored(sigset_t *set, const int *list, unsigned n);
/* Has one come? Takes nothing. */
bool signals_came(int fd);
/* They end this program again, also those that have waited. */
void signals_let_go(void);
/* For a child that becomes another program, which is asked to end by them: none is held back, or ignored because it is here. */
void signals_of_child(void);

#endif
