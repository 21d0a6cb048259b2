/*
 * launch.h: starts a lodge-vm for a definition and waits until its machine runs.
 *
 *	lodge run ---fork---> keeper ---fork, exec---> lodge-vm
 *	     \---- leash ------/
 *
 * The keeper is a process in a session of its own that waits for the machine and clears up behind it: the
 * place of a machine without a chosen name, and the runtime directory when lodge-vm was killed. The leash ties
 * it to this process: when that ends, however it ends, the machine ends too, unless launch_release() came
 * first, or it came from elsewhere and has been promised to run here. lodge-vm gets the definition on an inherited descriptor; nothing of it is on its command line.
 *
 * One thread.
 */
#ifndef LODGE_CLI_LAUNCH_LAUNCH_H
#define LODGE_CLI_LAUNCH_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct err;
struct place;
struct vm_config;
struct vm_place;

/* A machine that is to come from another process. */
struct launch_receive {
	int fd; /* listens */
	bool own_definition; /* `cfg` is one, to which the machine must fit; else only its name counts */
	const char *cert, *key, *ca; /* files; NULL: no TLS */
	const struct vm_place
		*places; /* of its disks, where they are not those of its definition */
	unsigned nplaces;
	bool overwrite; /* disks that it brings along may take the place of files that are there */
};

struct launch {
	const struct vm_config *cfg; /* with its name set */
	struct place *place; /* open; the keeper holds its lock from then on */
	const char *restore; /* a snapshot to go on from; NULL: boot */
	bool paused; /* the guest waits for the method `resume` */
	const struct launch_receive *receive; /* NULL: it begins here */
	int signals; /* of signals_hold(): one that comes before the machine runs ends it: -ECANCELED, unless it was on its way here and has come; 0: none */
};

struct launched {
	pid_t keeper;
	int leash;
	bool ended; /* by launch_end(), or by a signal while it was launched */
	bool coming; /* from elsewhere: it runs, and memory of it is still to come */
	bool again; /* it failed since it was no more than a dry run */
};

/*
 * On success the machine is there and *out is to be given to launch_wait() or launch_release(). On failure
 * nothing is left of it, and the message is the machine's own.
 */
int launch_machine(const struct launch *l, struct launched *out, struct err *e);
/* Ends the machine at once, as when this process died. launch_wait() then says when it has gone. */
void launch_end(struct launched *m);
/* The machine goes on without this process. */
void launch_release(struct launched *m);
/* The guest's exit code once all is over: 0..255; 128 + the signal when one ended lodge-vm. */
int launch_wait(struct launched *m);

/* The lodge-vm that belongs to this program: beside it, as installed or in a build tree, or a name to look for in PATH. */
void launch_program(char *path, size_t size);

/* verb_run.c: the console of a machine that was launched paused is here until it ends, or somebody leaves. The exit code. */
int launch_foreground(const char *name, struct launched *m);

#endif
