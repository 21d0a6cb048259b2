/*
 * text.h: slices, growable strings and small files, as the image builder needs them.
 *
 * A slice points into memory that somebody else owns and is not terminated. A struct buf owns its
 * memory, is always terminated, and after a failed allocation stays empty with `oom` set, so that a
 * writer checks once at the end (buf_err()). No threads are involved.
 */
#ifndef LODGE_IMAGE_TEXT_H
#define LODGE_IMAGE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/types.h>

#include "base/err.h"

struct slice {
	const char *p;
	size_t n;
};

#define SLICE_FMT "%.*s"
#define SLICE_ARG(s) (int)(s).n, (s).p ?: ""

static inline struct slice slice_of(const char *s)
{
	return (struct slice){s, s ? strlen(s) : 0};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n));
}

static inline bool slice_is(struct slice a, const char *s)
{
	return slice_eq(a, slice_of(s));
}

/* Without blanks, tabs and line ends at both ends. */
struct slice slice_trim(struct slice s);

/* Takes the next word (separated by blanks, tabs, line ends) off the front; false when none is left. */
bool slice_word(struct slice *rest, struct slice *word);

/* A terminated copy; NULL without memory. The caller frees it. */
char *slice_dup(struct slice s);

/* Bytewise order, shorter first. */
int slice_cmp(struct slice a, struct slice b);

struct buf {
	char *p; /* NULL while nothing was written */
	size_t n, cap;
	bool oom;
};

void buf_add(struct buf *b, const void *p, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_slice(struct buf *b, struct slice s);
void buf_fmt(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_free(struct buf *b); /* fit for cleanup() */
int buf_err(const struct buf *b, struct err *e);

/* asprintf() that returns the string, or NULL without memory. */
char *text_fmt(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Reads a whole file, at most `max` bytes (-EFBIG beyond). The result is terminated. */
int whole_file_read(const char *path, size_t max, struct buf *out, struct err *e);

/*
 * Writes a file under a temporary name beside it and renames it, so that readers see the old or the
 * new content. `sync` asks for fsync() before the rename.
 */
int whole_file_write(
	const char *path, const void *p, size_t n, mode_t mode, bool sync, struct err *e);

/* Writes all of it or fails: a full disk says how to go on. `path` is for the message. */
int fd_write_all(int fd, const void *p, size_t n, const char *path, struct err *e);

/* mkdir -p. */
int dir_make(const char *path, mode_t mode, struct err *e);

/* rm -rf that follows no link and crosses into nothing it cannot open. Absent is success. */
int dir_remove(const char *path, struct err *e);

#endif
