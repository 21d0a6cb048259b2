/*
 * deb.h: what is inside a .deb file.
 *
 * A .deb is an ar archive with debian-binary, control.tar.* and data.tar.* (deb(5)). libarchive
 * reads both levels; the members are streamed, never stored. The file's digest was checked
 * before, yet names and sizes in it are still not trusted.
 */
#ifndef LODGE_IMAGE_APT_DEB_H
#define LODGE_IMAGE_APT_DEB_H

#include <archive.h>
#include <archive_entry.h>

#include "image/text.h"

enum deb_part { DEB_CONTROL, DEB_DATA };

/*
 * Called for each member with its name made plain: no "./" in front, no final slash; "" is the root
 * itself. Its content may be read from `a` with archive_read_data(). A positive return ends the
 * walk early with success, a negative one with that error.
 */
typedef int (*deb_entry_fn)(
	void *ctx, struct archive *a, struct archive_entry *ent, const char *name, struct err *e);

/* -EBADMSG when it is no .deb or breaks off. */
int deb_walk(const char *path, enum deb_part part, deb_entry_fn fn, void *ctx, struct err *e);

/* Reads the current member whole. */
int deb_read(struct archive *a, size_t max, struct buf *out, struct err *e);

/* Decompresses memory or a file of one compressed stream (xz, gzip, zstd or none). */
int unpack_mem(const void *p, size_t n, size_t max, struct buf *out, struct err *e);
int unpack_file(const char *path, size_t max, struct buf *out, struct err *e);

#endif
