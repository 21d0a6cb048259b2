/*
 * launch.h: starts a lodge-vm for a definition and waits until its machine runs.
 *
 * One thread. The child gets the definition on an inherited descriptor; nothing of it is on its command line. In the
 * foreground it is told to end when this process dies; in the background it has a session of its own.
 */
#ifndef LODGE_CLI_LAUNCH_H
#define LODGE_CLI_LAUNCH_H

#include <stdbool.h>
#include <sys/types.h>

struct err;
struct vm_config;

struct launch {
	const struct vm_config *cfg; /* with its name set */
	const char *dir; /* of the machine: console.log, machine.log */
	bool background;
};

/* On success *pid is the child. On failure the child has been waited for, and the message is the machine's own. */
int launch_machine(const struct launch *l, pid_t *pid, struct err *e);
/* The guest's exit code once it has ended: 0..255; what a signal ended is 128 + its number. */
int launch_wait(pid_t pid);

/* <data place>/vms/NAME; made when `make`. */
int launch_dir(const char *name, bool make, char *path, size_t size, struct err *e);

#endif
