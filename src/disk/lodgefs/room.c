/*
 * room.c: metadata has its space of the host before it is promised.
 *
 * A checkpoint writes pages to their places. Where the host's file has a hole there, that takes space of the host, and a host that is full would fail it, and with it
 * recovery: nobody could remove a disk any more, which is what makes room. So:
 *
 *   journal, directory, bitmap      have it from the beginning (store.c)
 *   pages of pointers and changes   lf_reserve(): a block is written with zeroes before it is one that holds pages
 *   checksums                       lf_room_sums(): 1 MiB of them, before the first of its 768 blocks is given to somebody
 *   what a sparse copy has lost     lf_room_all(): when the store is opened for writing, as far as the host has it
 *
 * What is let go goes back to a host that is short of space within a second of a flush, without waiting for the next record (lf_flush(), share.c). And of the pages that are reserved some are left to requests that only let go (LF_PAGES_SPARE): where a snapshot shares its pages a discard wants copies of them.
 */
#include <errno.h>

#include "base/bitmap.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define CHUNK LF_BLOCK_PAGES /* pages of checksums */
#define LEAST GiB

bool lf_room_short(struct lf *fs)
{
	return file_room(fs->f) < LEAST;
}

/* Holes read as zeroes before and after; nobody writes there meanwhile. */
static int fill_holes(struct lf *fs, uint64_t at, uint64_t len)
{
	int rc = 0;

	for (uint64_t n; len && !rc; at += n, len -= n) {
		bool data = true;

		n = len;
		if (file_extent(fs->f, at, &n, &data) || !n)
			return 0; /* the host does not tell */
		if (!data)
			rc = lf_io(fs, FILE_ZERO, at, NULL, n);
	}
	return rc;
}

int lf_room_block(struct lf *fs, uint32_t block, uint64_t *wrote)
{
	uint64_t at = lf_block_at(fs, block), len = LF_BLOCK;
	bool data;

	/* It was in use before, and the host has kept what it had. */
	if (!file_extent(fs->f, at, &len, &data) && data && len == LF_BLOCK)
		return 0;
	*wrote += LF_BLOCK;
	return lf_io(fs, FILE_FILL, at, NULL, LF_BLOCK);
}

static uint64_t chunk_of(uint64_t block)
{
	return block / LF_SUM_BLOCKS / CHUNK;
}

bool lf_room_has_sums(const struct lf *fs, uint32_t block)
{
	return !fs->sums || bitmap_test(fs->sums_room, chunk_of(block));
}

int lf_room_sums(struct lf *fs, uint32_t block)
{
	uint64_t chunk = chunk_of(block), first = chunk * CHUNK;
	uint64_t n = MIN(fs->s.sum_pages - first, (uint64_t)CHUNK);
	int rc = 0;

	/* With the lock no checkpoint writes there. */
	lf_lock(fs, &fs->lock);
	if (!lf_room_has_sums(fs, block))
		rc = fill_holes(fs, fs->s.sums_at + first * LF_PAGE, n * LF_PAGE);
	if (!rc)
		bitmap_set(fs->sums_room, chunk);
	co_unlock(&fs->lock);
	return rc;
}

void lf_room_all(struct lf *fs)
{
	uint64_t end = fs->s.bitmap_at + fs->s.bitmap_pages * LF_PAGE;
	int rc = fill_holes(fs, fs->s.journal_at, end - fs->s.journal_at);

	for (uint64_t i = 0; i < fs->s.blocks && !rc; i++)
		if (fs->block[i].pages)
			rc = fill_holes(fs, lf_block_at(fs, i), LF_BLOCK);
}
