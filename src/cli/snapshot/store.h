/*
 * store.h: where snapshots are kept: <data place>/snapshots/NAME.snap, each a container (vm/snapshot/file.h).
 *
 * A snapshot that is being written has no name: it is a file without a link (O_TMPFILE), which goes when everybody who has it
 * open has gone. Publishing gives it the name in one step, readonly. So there is never half of one.
 *
 * One thread. Errors: -ENOENT (with the nearest name), -EEXIST.
 */
#ifndef LODGE_CLI_SNAPSHOT_STORE_H
#define LODGE_CLI_SNAPSHOT_STORE_H

#include <jansson.h>
#include <limits.h>
#include <stddef.h>

struct err;
struct fs_names;
struct snapfile;

/* <data place>/snapshots/NAME.snap; makes nothing. */
int snapstore_path(const char *name, char *path, size_t size, struct err *e);
/* The caller frees them. */
int snapstore_names(struct fs_names *names, struct err *e);

/* A file without a name, next to where it will be. -EEXIST when the name is taken already. */
int snapstore_create(const char *name, int *fd, struct err *e);
/* The same for a path of the user's. */
int snapstore_create_at(const char *path, int *fd, struct err *e);
/* Gives it its name, durably. -EEXIST: somebody else was quicker. */
int snapstore_publish(int fd, const char *name, struct err *e);
int snapstore_publish_at(int fd, const char *path, struct err *e);

int snapstore_remove(const char *name, struct err *e);

struct snapopen {
	char path[PATH_MAX]; /* absolute */
	struct snapfile *file;
	json_t *manifest;
};
/* A name in the store, or a path (with a '/' in it; /proc/PID/fd/N for one without a name). */
int snapstore_open(const char *arg, struct snapopen *out, struct err *e);
void snapopen_close(struct snapopen *s); /* fit for cleanup() after a zeroed or opened one */

#endif
