/*
 * run.h: other programs (gpgv, mke2fs, debugfs, depmod, a machine for the second stage).
 */
#ifndef LODGE_IMAGE_RUN_H
#define LODGE_IMAGE_RUN_H

#include "image/text.h"

struct run_opts {
	const char *const *argv; /* NULL-terminated; argv[0] is looked up with run_find() */
	/* Instead of a program: what a forked child does, and ends with. The caller has no other threads. */
	int (*child)(void *child_ctx);
	void *child_ctx;
	const char *stdin_path; /* or NULL: /dev/null */
	/* Called for each line of stdout and stderr; non-zero ends the program and the call. */
	int (*line)(void *ctx, const char *line);
	void *ctx;
	unsigned int timeout_s; /* 0: none */
};

/* Absolute path of a program in PATH, or in the sbin directories that a user's PATH lacks. NULL: absent. */
char *run_find(const char *prog);

/*
 * Runs it to its end. 0 with the exit status in *status (128 + signal when killed); -ENOENT when the
 * program is missing, with the package that has it; -ETIME, -ECANCELED after it was ended.
 * A line longer than 4 KiB arrives in pieces.
 */
int run_prog(const struct run_opts *o, int *status, struct err *e);

/* As run_prog(), and a non-zero status is -EIO with the last line that the program wrote. */
int run_ok(const char *const *argv, const char *stdin_path, struct err *e);

/* The same with a forked child. */
int run_child(int (*child)(void *ctx), void *ctx, struct err *e);

#endif
