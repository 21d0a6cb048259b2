/*
 * bitmap.h: persistent dirty bitmaps of a qcow2 image.
 *
 * Bitmaps that track (flag `auto`) are read into memory when the disk is opened for writing and marked as in use in the file, are set by
 * every write, and are written and unmarked when the disk is closed: a process that ends otherwise leaves them marked, which
 * says that they are not complete. Others are left as they are. A bitmap of unknown kind, or larger than Q_BITMAP_MAX in memory, or one more than
 * Q_BITMAPS_MAX has room for, is not tracked and stays marked once the disk was written to.
 *
 * Source: qcow2.rst, "Bitmaps".
 */
#ifndef LODGE_DISK_QCOW2_BITMAP_H
#define LODGE_DISK_QCOW2_BITMAP_H

#include "disk/qcow2/qcow2.h"

#define Q_BITMAP_MAX (64u << 20) /* bytes */
#define Q_BITMAPS_MAX (256u << 20) /* of all of an image that are in memory */

struct q_bitmap {
	uint64_t table_off, entry_off; /* entry_off: of its directory entry in the file */
	uint32_t table_size, flags;
	uint8_t type, bits; /* bits: log2 of the granularity */
	char *name;
	uint8_t *extra;
	uint32_t extra_len;
	uint8_t *map; /* in memory; NULL: not tracked */
	uint64_t map_bytes;
	bool ours; /* marked in the file by us: who closes it without having written it tells */
	int why; /* it is not tracked; 0: it is */
};

int q_bitmaps_load(struct qcow2 *q, struct err *e);
void q_bitmaps_free(struct qcow2 *q);
/* For a writer, after q_bitmaps_load(). */
int q_bitmaps_begin(struct qcow2 *q, struct err *e);
void q_bitmaps_mark(struct qcow2 *q, uint64_t off, uint64_t len);
/* The disk has other contents: that of a snapshot. */
void q_bitmaps_mark_all(struct qcow2 *q);
/* The disk will be `size` bytes long. */
int q_bitmaps_resize(struct qcow2 *q, uint64_t size);
/* Before the disk is closed; nothing in flight. Tells the client (disk_client.bitmap_lost) which could not be written. */
int q_bitmaps_save(struct qcow2 *q);
/* Tells fn of each stretch of the file that bitmaps occupy. */
int q_bitmaps_clusters(struct qcow2 *q, int (*fn)(void *ctx, uint64_t off, uint64_t bytes),
	void *ctx, struct err *e);

int q_bitmap_op(struct disk *d, enum disk_bitmap_op op, const char *name, uint64_t granularity,
	struct err *e);
int q_bitmap_set(struct disk *d, const char *name, uint64_t off, uint64_t len, struct err *e);
int q_bitmap_list(struct disk *d, struct disk_bitmap **out, unsigned *n, struct err *e);
int q_bitmap_status(
	struct disk *d, const char *name, uint64_t off, uint64_t *len, bool *dirty, struct err *e);

#endif
