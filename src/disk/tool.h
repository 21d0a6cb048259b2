/*
 * tool.h: what is done to disks beside reading and writing them: making, copying, comparing, snapshots, chains.
 *
 * Everything here blocks and runs the disks' loop or drains them; the callers are `lodge disk`, `lodge image`, and a machine's control
 * socket for what may be done to a disk in use (snapshots, bitmaps, block status: all that is short).
 *
 * Two disks of one call may have one loop or two. Errors name the file; a format that cannot do what is asked says so
 * (-EOPNOTSUPP). Of what the caller stops by watch.progress, -ECANCELED.
 */
#ifndef LODGE_DISK_TOOL_H
#define LODGE_DISK_TOOL_H

#include "disk/format.h"

#define DISK_TOGETHER 64u /* disks in one disk_snapshot_all() */

/* NULL when there is none such; `i` counts from 0 up to a NULL. */
const struct disk_format *disk_format_by_name(const char *name);
const struct disk_format *disk_format_at(unsigned i);
/* "FILE:FORMAT" to its two parts (malloc'ed path; format is a name of the table). The last colon divides. -EINVAL. */
int disk_split_name(const char *text, char **path, const char **format, struct err *e);

int disk_create(const char *format, const struct disk_create_opts *o, struct err *e);
/* What one that disk_create() makes so would take, when all that `from` (NULL: nothing) holds was copied there. o->path need not be set. */
int disk_measure(const char *format, const struct disk_create_opts *o, struct disk *from,
	struct disk_amount *out, struct err *e);
/* -EINVAL: such a disk cannot be, whatever its format says to the values of its keys. */
int disk_may_create(const struct disk_format *f, const struct disk_create_opts *o, struct err *e);
/* In how many units of unit[i] bytes, for each of up to DISK_UNITS, `from` (NULL: none) has something, as far as it knows without reading. */
#define DISK_UNITS 16u
int disk_count_data(struct disk *from, const uint64_t *unit, uint64_t *count, unsigned n,
	const struct disk_watch *w, struct err *e);
/* What disk_create() has made goes again: a regular file, or a disk of a store. A block device stays. */
int disk_remove(const char *format, const char *path, struct uv_loop_s *loop, struct err *e);

/* ---- open disks ---- */

/* Waits for one request. */
int disk_rw(struct disk *d, enum disk_op op, uint64_t off, void *buf, uint64_t len, struct err *e);
/* As the format's, and down the chain: `depth` says which file of it. Where nobody has anything: no flags. Exact with disk_opts.offline only. */
int disk_block_status(
	struct disk *d, uint64_t off, uint64_t len, struct disk_extent *out, struct err *e);

int disk_snapshot(struct disk *d, enum disk_snap_op op, const char *name, struct err *e);
/*
 * A snapshot of several disks at one instant: no request of any of them lies between. Those of one lodgefs store are one transaction; where there are
 * several stores or files and one fails, those that were made are deleted again. What a power cut leaves is all or nothing for each store.
 */
int disk_snapshot_all(struct disk *const *d, unsigned n, const char *name, struct err *e);
int disk_snapshots(struct disk *d, struct disk_snapshot **out, unsigned *n, struct err *e);
int disk_bitmap(struct disk *d, enum disk_bitmap_op op, const char *name, uint64_t granularity,
	struct err *e);
/* What bitmap `source` of `from`, which may be `d` itself, has counts as changed in `name` of `d` as well, as far as `d` reaches. */
int disk_bitmap_merge(
	struct disk *d, const char *name, struct disk *from, const char *source, struct err *e);
int disk_bitmaps(struct disk *d, struct disk_bitmap **out, unsigned *n, struct err *e);
int disk_bitmap_status(
	struct disk *d, const char *name, uint64_t off, uint64_t *len, bool *dirty, struct err *e);

int disk_generation(struct disk *d, bool next, struct disk_generation *out, struct err *e);
int disk_changed(
	struct disk *d, uint64_t since, uint64_t off, uint64_t *len, bool *dirty, struct err *e);
/*
 * {"generation", "first", "id", "granularity", "since", "changed": [{"start", "length"} ...]} from byte `from` on. Of a machine's disk (not offline) as much as is
 * found in 20 ms, 4096 ranges at most; then "more" says where to go on.
 */
int disk_changes_json(struct disk *d, uint64_t since, uint64_t from, json_t **out, struct err *e);

/* {"file", "format", "size", "host_size", "allocated", "backing": {...}, and what the format adds}. */
int disk_describe(struct disk *d, json_t **out, struct err *e);

/* ---- whole disks ---- */

struct disk_copy {
	bool compress; /* the target's format can */
	bool no_sparse; /* writes zeroes too */
	bool only_here; /* leaves out what the source has from its backing file */
	bool blank; /* the target reads as zeroes everywhere */
	uint64_t rate; /* reads at most so many bytes a second; 0: as it can */
	struct disk_watch watch;
	uint64_t copied, skipped; /* set: bytes */
};
/* Writes to `to` what differs from what it shows already; it is at least as large. Flushes it. */
int disk_copy_differing(struct disk *from, struct disk *to, const struct disk_watch *w,
	uint64_t *copied, struct err *e);
/* The target is at least as large. Flushes the target. */
int disk_copy(struct disk *from, struct disk *to, struct disk_copy *c, struct err *e);

/* *at: the first byte that differs, or UINT64_MAX. What one has beyond the other's end is compared with zeroes. */
int disk_compare(
	struct disk *a, struct disk *b, const struct disk_watch *w, uint64_t *at, struct err *e);

/* Makes `d` a child of `now` (NULL: of nobody) with the same contents: what differs is copied into d. Does not name it: set_backing(). */
int disk_rebase(struct disk *d, struct disk *now, const struct disk_watch *w, uint64_t *copied,
	struct err *e);

#endif
