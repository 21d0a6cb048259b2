/*
 * ready.c: a block that has been written with zeroes before it is wanted.
 *
 * A write that makes the store's file longer, or fills a hole in it, costs its host more than one over what is there: ext4 takes the file for itself, so that the
 * ring hands the write to a thread, and a flush has the new extent to make durable, too. Who writes small pieces one behind the other pays that for each of them.
 * So when a block has been filled to half in that way, another one is taken and written with zeroes as a whole, in the background:
 *
 *   change_entry() --lf_ready_note(): what a block got, and how--> enough? --> job: lf_alloc(), zeroes --> fs->ready
 *   choose_own(): who begins a MiB with a small write --lf_ready_take()--> has the block, and its hold
 *   lf_alloc(): when no other block is free, too; lf_space(): waits for the job before anybody is told that there is none
 *   lf_close(), and a job that failed: the block is let go, and its space goes back to the host
 *
 * Nothing of it is in a record. The block is one that nobody refers to, durably, and held, like one that a transaction has taken and not committed: a power cut
 * or a kill leaves it free. The zeroes are for the host, not for readers: what of a block is data its entries say (own_valid), and who writes a part of a 4 KiB
 * fills the rest of it; so what lies in the block beside, be it zeroes, something older, or half of each after a power cut, is never read.
 *
 * No more than 1 MiB is written ahead for 512 KiB that came in small pieces, in order, into one block: got. Who jumps about gets nothing, and takes nothing.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define SMALL (16 * KiB) /* of a transaction */
#define HALF (LF_SUBS / 2)
#define FLUSHES 16u /* through a cache: one for so many sub-blocks, at least */
#define FREE_LEAST 64u /* blocks */

static bool small(const struct sorter_tx *tx)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < tx->n; i++)
		n += tx->elem[i].len;
	return n <= SMALL;
}

/* ---- writing it ---- */

static void write_end(struct lf *fs, int rc)
{
	struct lf_ready *r = &fs->ready;
	uint32_t block = r->busy - 1;

	r->busy = 0;
	/* Whose data goes there is told of what the host cannot do. */
	if (rc)
		lf_give_back(fs, block);
	else
		r->block[r->n++] = block;
	co_queue_wake_all(&r->waiters);
}

static void write_job(void *arg)
{
	struct lf *fs = arg;

	lf_reach_over(fs, fs->ready.busy - 1);
	write_end(fs, lf_room_block(fs, fs->ready.busy - 1, &fs->stats.ahead_bytes));
}

static void write_after(void *arg)
{
	((struct lf *)arg)->jobs--;
}

/* Neither the store nor its host may be short of space because of it. A device has all its blocks. */
static void make_ready(struct lf *fs)
{
	uint32_t block;

	if (fs->failed || fs->f->block_device || fs->free_blocks < FREE_LEAST ||
		lf_room_short(fs) || lf_alloc(fs, &block))
		return;
	fs->ready.busy = block + 1;
	fs->jobs++;
	if (co_start(&fs->cs, write_job, write_after, fs)) {
		fs->jobs--;
		write_end(fs, -ENOMEM);
	}
}

/* ---- who wants one ---- */

static struct lf_stream *stream_of(struct lf_disk *l, uint32_t own)
{
	for (unsigned i = 0; i < LF_STREAMS; i++)
		if (l->stream[i].own == own)
			return &l->stream[i];
	return NULL;
}

/* The one that got nothing for longest makes way. */
static struct lf_stream *stream_begin(struct lf_disk *l, uint32_t own)
{
	struct lf_stream *s = &l->stream[0];

	for (unsigned i = 1; i < LF_STREAMS; i++)
		if (l->stream[i].turn < s->turn)
			s = &l->stream[i];
	*s = (struct lf_stream){.own = own, .flushed = l->fs->stats.flushes};
	return s;
}

/* The first n sub-blocks, and no other. */
static bool in_order(const uint64_t *valid, unsigned n)
{
	for (unsigned w = 0; w < 4; w++) {
		unsigned here = n > 64 * w ? MIN(n - 64 * w, 64u) : 0;

		if (valid[w] != (here == 64 ? UINT64_MAX : (1ull << here) - 1))
			return false;
	}
	return true;
}

void lf_ready_note(
	struct lf_disk *l, const struct sorter_tx *tx, const struct lf_entry *now, bool taken)
{
	struct lf *fs = l->fs;
	struct lf_stream *s = now->own ? stream_of(l, now->own) : NULL;
	unsigned n = 0;

	if (s && taken) { /* that block was another one's */
		*s = (struct lf_stream){0};
		s = NULL;
	}
	if (!s && taken && small(tx))
		s = stream_begin(l, now->own);
	if (!s)
		return;
	for (unsigned w = 0; w < 4; w++)
		n += (unsigned)__builtin_popcountll(now->own_valid[w]);
	s->turn = ++l->turns;
	s->got += small(tx) && n > s->n ? n - s->n : 0;
	s->flushes += fs->stats.flushes != s->flushed;
	s->flushed = fs->stats.flushes;
	s->n = n;
	if (fs->ready.busy || fs->ready.n == LF_READY || !small(tx) || s->got < HALF ||
		n == LF_SUBS || !in_order(now->own_valid, n))
		return;
	/* A cache takes small writes in as quickly wherever they go: there it is the flushes that gain. */
	if (fs->direct || s->flushes * FLUSHES >= s->got)
		make_ready(fs);
	s->got = s->flushes = 0;
}

void lf_ready_wait(struct lf *fs)
{
	while (fs->ready.busy)
		co_queue_wait(&fs->cs, &fs->ready.waiters);
}

bool lf_ready_wanted(const struct sorter_tx *tx)
{
	return tx->elem[0].off % LF_BLOCK < LF_SUB && small(tx);
}

bool lf_ready_take(struct lf *fs, uint32_t *block)
{
	struct lf_ready *r = &fs->ready;

	if (!r->n)
		return false;
	*block = r->block[0];
	memmove(r->block, r->block + 1, --r->n * sizeof(*r->block));
	return true;
}

void lf_ready_drop(struct lf *fs)
{
	uint32_t block;

	while (lf_ready_take(fs, &block))
		lf_give_back(fs, block);
}
