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
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

#define SNAPCHAIN_MAX 64u
/* A snapshot and those that it needs: s[0] itself, s[1] its parent ... The first one alone where it is whole. */
struct snapchain {
	struct snapopen *s; /* n of them */
	unsigned n;
};
/* Parents are looked for in the store, by their ids. -ENOENT: one is missing. */
int snapchain_open(const char *arg, struct snapchain *out, struct err *e);
void snapchain_close(struct snapchain *c); /* fit for cleanup() as well */
/* As snapstore_open(); one that needs others is joined with them into a file without a name, which is what *out then is. */
int snapstore_open_whole(const char *arg, struct snapopen *out,
	bool (*progress)(void *ctx, uint64_t done, uint64_t of), void *ctx, struct err *e);
/* The name of one that has this parent; NULL: there is none. Caller frees. */
char *snapstore_child(const struct snapfile *parent);
/* The snapshot of this name becomes that file, in one step. */
int snapstore_replace(int fd, const char *name, struct err *e);

#endif
