/*
 * crash.h: what the parts of test_crash share.
 *
 *   test_crash.c   kinds of disks, processes, counting
 *   crash_work.c   the workload: what is done, and what came of it
 *   crash_look.c   what a power cut may leave, and whether it is that
 */
#ifndef LODGE_TESTS_CRASH_H
#define LODGE_TESTS_CRASH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <uv.h>

#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "past.h"

#define SECTOR 512u
#define START (2 * MiB)
#define LARGEST (4 * MiB)
#define SECTORS (LARGEST / SECTOR)
#define TOGETHER 8
#define STEPS 24
#define FEW_STEPS 18
#define VOLUMES 3 /* a disk and its clones */
#define KINDS 64
#define NEAR (48 * KiB)
#define FILL (16 * KiB)
#define SUB 4096u
#define BITMAPS 6
#define PART (64 * KiB) /* is read at once: it stays in the processor's cache */

struct kind {
	const char *name, *format, *path;
	const char *file; /* the store in which it is; NULL: none */
	struct disk_kv create[4], open[3], store[3];
	bool backing, snapshots, clones, atomic, tracked, bitmaps;
	uint64_t backing_size;
	bool overlays; /* clones are overlays: only the last one is written to */
	unsigned packed; /* some is compressed, in clusters of so many bytes */
	bool dense; /* requests near each other, some of them late: what one copies another one writes */
	bool fills; /* small writes in order: blocks are made ready ahead of them */
	bool synced; /* a flush after each step that writes */
	bool unmended; /* no bit says that it wants to be mended: flags and counts may not fit, and it is used as it is */
	bool kill; /* what was acknowledged outlives the process, flushed or not */
};

struct span {
	uint64_t submitted, done; /* events */
};

struct made {
	char name[16];
	unsigned volume;
	struct span made, deleted; /* deleted.done 0: it was not */
	uint64_t *stamp; /* of each sector then */
	uint64_t size;
};

/* The disk went back to a snapshot. */
struct back {
	const struct made *to;
	unsigned volume;
	struct span when;
	unsigned *before; /* of each sector: how much of its history is older */
};

/* A bitmap of changes that was begun: those are marked that are not as they were then. */
struct bits {
	char name[16];
	struct span added, removed; /* removed.done 0: it was not */
	uint64_t cleared;
	uint64_t *stamp;
};

/* A generation that was begun. */
struct mark {
	uint64_t generation;
	struct span when;
	uint64_t *stamp;
};

/* A scattered write into blocks that nobody had touched. */
struct probe {
	unsigned volume;
	struct span when;
	uint64_t at[TOGETHER];
	unsigned n;
};

/* The disk that all begins with, or a clone. */
struct volume {
	char path[32];
	struct disk *d;
	struct span made; /* a clone */
	struct history *sector;
	struct span flush[STEPS * 18]; /* one for each four of in_order() */
	unsigned nflush;
	struct span size[STEPS + 1];
	uint64_t size_value[STEPS + 1];
	unsigned nsizes;
	uint64_t filled; /* up to there, from the beginning of its MiB on */
};

struct world {
	const struct kind *k;
	uv_loop_t loop;
	struct memdevs devs;
	struct disk_stores stores;
	uint64_t rng, seed, stamp, order;
	struct volume volume[VOLUMES];
	unsigned nvolumes;
	struct made made[2 * STEPS + VOLUMES];
	unsigned nmade;
	struct probe probe[STEPS];
	unsigned nprobes;
	struct mark mark[STEPS]; /* of the first volume */
	unsigned nmarks;
	struct back back[STEPS];
	unsigned nbacks;
	struct bits bits[BITMAPS]; /* of the first volume */
	unsigned nbits;
	uint64_t block;
	uint64_t *is, *again; /* stamps that were read */
	char *buf; /* PART */
};

static inline uint64_t now(struct world *w)
{
	return memdevs_events(&w->devs);
}

static inline uint64_t current(const struct volume *v, uint64_t sector)
{
	const struct history *h = &v->sector[sector];

	return h->n ? h->p[h->n - 1].stamp : 0;
}

/* ---- crash_work.c ---- */

/* Makes the disk, does the steps, closes it. */
void crash_run(struct world *w);
struct disk_opts crash_opts(
	struct world *w, const char *path, struct memdevs *devs, struct disk_stores *stores);

/* ---- crash_look.c ---- */

/* Behind each event that changes something, in three variants; how many that were. */
unsigned crash_cuts(struct world *w);

#endif
