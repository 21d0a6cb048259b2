/*
 * fill.h: space of the host for what has no contents yet: `preallocation` of new disks.
 *
 * Blocking, for tools. Nothing is durable before a flush.
 */
#ifndef LODGE_DISK_FILL_H
#define LODGE_DISK_FILL_H

#include "disk/format.h"

/* Values of the key `preallocation`, in the order of fill_names[]. */
enum fill {
	FILL_OFF,
	FILL_METADATA, /* the format's tables only */
	FILL_SPACE, /* the host sets space aside */
	FILL_ZEROES, /* zeroes are written to it */
};
#define FILL_VALUES 4u
extern const char *const fill_names[FILL_VALUES];

/*
 * [off, off + len) of a file reads as zeroes and has its space, as FILL_SPACE or FILL_ZEROES say. `before`, `all`: bytes that were done before this call, and
 * that there are to be done in all, for w->progress. -ECANCELED, or what the file answered (with a message).
 */
int fill_file(struct file *f, enum fill how, uint64_t off, uint64_t len, uint64_t before,
	uint64_t all, const struct disk_watch *w, struct err *e);

#endif
