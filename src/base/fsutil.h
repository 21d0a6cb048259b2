/*
 * fsutil.h: whole files, directories, and where Lodge keeps its things.
 *
 * All functions answer 0 or -errno with a message that names the path. Thread-safe, except that
 * fs_place_path() reads the environment (do not setenv at the same time).
 */
#ifndef LODGE_BASE_FSUTIL_H
#define LODGE_BASE_FSUTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct err;

/*
 * Reads a regular file (or what can be read like one, as /proc files) of at most `max` bytes; more
 * is -EFBIG. *out is malloc'ed, has a NUL after the data, and belongs to the caller; len may be
 * NULL.
 */
int fs_read_file(const char *path, size_t max, char **out, size_t *len, struct err *e);

/* All of it, whatever interrupts; waits where fd does not (O_NONBLOCK). A negative errno. */
int fs_write_all(int fd, const void *buf, size_t len);
/*
 * Replaces the file in one step: a reader, or the next start after a crash, sees the old content or
 * the new one. Written beside it, synced, renamed, directory synced. What went wrong leaves no
 * temporary file.
 */
int fs_write_file_atomic(
	const char *path, const void *data, size_t len, mode_t mode, struct err *e);
/* The same in one step, and not synced: for files that say something of a process, and mean nothing after a crash of the host. */
int fs_write_file_volatile(
	const char *path, const void *data, size_t len, mode_t mode, struct err *e);

/* Makes the directory and its parents with `mode`; those that are there are left as they are. */
int fs_mkdir_p(const char *path, mode_t mode, struct err *e);

/* Syncs the directory that holds `path`, so that a rename or unlink in it lasts. */
int fs_sync_parent(const char *path, struct err *e);

/*
 * For the first lines of main(): where standard input, output or error is closed, a descriptor is put there on which reading or
 * writing fails. Else the next file that is opened would be there: a disk, into which messages go.
 */
void fs_hold_stdio(void);

struct fs_names {
	char **v; /* sorted */
	size_t n;
};

/*
 * The names in a directory that `accept` takes; it may shorten a name in place, or remove what the name stands for. Names that
 * begin with a dot are left out. A directory that is not there holds none. The caller frees with fs_names_free(), whatever the
 * answer.
 */
int fs_list(const char *path, bool (*accept)(char *name), struct fs_names *out, struct err *e);
void fs_names_free(struct fs_names *names); /* fit for cleanup() */

enum fs_place {
	FS_RUNTIME, /* sockets, pid files; gone after a reboot */
	FS_DATA, /* images, machines, disks */
	FS_CACHE, /* may be deleted at any time */
};

/*
 * The path of a place, not made yet: $XDG_RUNTIME_DIR/lodge, $XDG_DATA_HOME/lodge,
 * $XDG_CACHE_HOME/lodge where these are set; else for root /run/lodge, /var/lib/lodge,
 * /var/cache/lodge and for others /tmp/lodge-UID, ~/.local/share/lodge, ~/.cache/lodge.
 * $LODGE_HOME, when set, replaces them all: $LODGE_HOME/run, /data, /cache. (The image store does not ask here: src/image/image.h.)
 * -ENOENT when HOME is needed and not set; -ENAMETOOLONG.
 */
int fs_place_path(enum fs_place place, char *path, size_t size, struct err *e);

/*
 * As fs_place_path(), then makes it (0700; 0755 for root's data and cache) and checks that it is
 * ours and not a link.
 */
int fs_place_make(enum fs_place place, char *path, size_t size, struct err *e);

#endif
