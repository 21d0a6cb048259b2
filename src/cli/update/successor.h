/*
 * successor.h: the keeper's part of a live update (docs/update.md): it starts the new lodge-vm, so that this one too is its child, and learns
 * from the shared word which of the two the machine is.
 *
 *   lodge update --- <place>/keeper.sock: "start" + program ---> keeper --fork, exec--> new lodge-vm
 *                <------- "started" + channel's end ------------/
 *
 * Who asks must not be in a sandbox that the keeper is not in: a guest that has broken out of its lodge-vm must not get programs started. When it
 * hangs up and the machine was not given, the new process is ended.
 *
 * One thread: the keeper's loop (cli/launch/keeper.c).
 */
#ifndef LODGE_CLI_UPDATE_SUCCESSOR_H
#define LODGE_CLI_UPDATE_SUCCESSOR_H

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

#define SUCCESSOR_SOCKET "keeper.sock" /* in the machine's place */
#define SUCCESSOR_POLLS 3

struct update_page;
struct successor {
	int listening, conn; /* -1: not open */
	pid_t pid; /* of the new process; 0: there is none */
	int pidfd;
	struct update_page *page;
};

/* Listens in the directory `place`. A keeper that cannot goes on without. */
void successor_open(struct successor *s, int place);
/* Fills p[0..SUCCESSOR_POLLS). */
void successor_poll(const struct successor *s, struct pollfd *p);
void successor_serve(struct successor *s, const struct pollfd *p);
/*
 * Has the new process the machine? Then *pid and *pidfd are its, now the caller's. `last`: the old process has ended, so that it is decided now.
 */
bool successor_has_it(struct successor *s, bool last, pid_t *pid, int *pidfd);
/* Ends what was started and has not got the machine. */
void successor_drop(struct successor *s);

#endif
