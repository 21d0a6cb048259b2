/*
 * dirty.h: which blocks of a disk were changed since this was last asked, in memory only: for who copies a disk while its user writes.
 *
 *   user --disk_submit()--> format --done--> dirty.c marks --> user's done()
 *   copier: disk_dirty_take() a run, disk_read_aside() it, send it; again until little is left; the user stands still; the rest
 *
 * A change (WRITE, DISCARD, WRITE_ZEROES, each range of a scattered one, also one that failed) is marked when it has ended and before its user hears
 * of it. So what is read after its block was taken either holds the change, or the block is marked again; and when nothing is in flight, all
 * that was ever changed is marked or was taken. Formats need not know: it is the same for all, and what they keep of changes for
 * backups (bitmaps, generations) is left alone.
 *
 * Costs a bit a block, and 64 blocks a word looked at by disk_dirty_take(). Threads: the disk's loop, but for disk_dirty_bytes().
 */
#ifndef LODGE_DISK_DIRTY_H
#define LODGE_DISK_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

struct disk;
struct disk_range;
struct disk_req;
struct err;

#define DISK_DIRTY_BLOCK 16384u

/* Nothing is marked at first. -EBUSY: somebody does that already; -ENOMEM. The disk does not change its size meanwhile. */
int disk_dirty_start(struct disk *d, struct err *e);
void disk_dirty_stop(struct disk *d);
/* The first run of marked blocks at or behind `from`, at most `max` bytes of it (a multiple of the block): no longer marked. False: there is none. */
bool disk_dirty_take(struct disk *d, uint64_t from, uint64_t max, struct disk_range *out);
/* Bytes that are marked. Any thread, between start and stop. */
uint64_t disk_dirty_bytes(const struct disk *d);

/* A READ that is none of the disk's user: neither held back by limits, nor counted, nor held when the host fails it. As disk_submit() else. */
void disk_read_aside(struct disk *d, struct disk_req *r);

/* For disk.c: a request has ended. */
void disk_dirty_mark(struct disk *d, const struct disk_req *r);

#endif
