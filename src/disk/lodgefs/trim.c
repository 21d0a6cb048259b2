/*
 * trim.c: gives back to the host what nothing refers to. What is let go goes back by itself (journal.c), but not what a process still had to give back when it
 * was killed, nor what was let go while `discard` was off, nor parts of blocks.
 *
 * The store has just been opened: its journal is empty, all is durable, and nobody else is at work on it. So what fs->valid has no bit for is nothing.
 */
#include <errno.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define AT_ONCE 64u
#define RUN_MAX GiB

struct trim {
	struct lf *fs;
	struct lf_wait w;
	struct lf_xfer x[AT_ONCE];
	unsigned n;
	uint64_t from, to; /* a run that collects */
};

static int wait_all(struct trim *t)
{
	t->n = 0;
	return lf_wait_all(&t->w);
}

static int send_run(struct trim *t)
{
	uint64_t from = t->from, len = t->to - from;

	t->from = t->to = 0;
	if (!len)
		return 0;
	lf_start(&t->w, &t->x[t->n++], FILE_DISCARD, from, NULL, len);
	return t->n == AT_ONCE ? wait_all(t) : 0;
}

static int unused(struct trim *t, uint64_t at, uint64_t len)
{
	int rc = t->to != at || t->to - t->from >= RUN_MAX ? send_run(t) : 0;

	if (t->from == t->to)
		t->from = at;
	t->to = at + len;
	return rc;
}

static int trim_block(struct trim *t, uint64_t block)
{
	const struct lf *fs = t->fs;
	const uint64_t *valid = &fs->valid[4 * block];
	uint64_t at = lf_block_at(fs, block);
	int rc = 0;

	if (fs->block[block].pages)
		return 0;
	if (lf_none(valid))
		return unused(t, at, LF_BLOCK);
	for (unsigned i = 0; i < LF_SUBS && !rc; i++, at += LF_SUB)
		if (!lf_bit(valid, i))
			rc = unused(t, at, LF_SUB);
	return rc;
}

int lf_trim(struct lf *fs, struct err *e)
{
	struct trim t = {.fs = fs, .w.fs = fs};
	const struct disk_watch *w = fs->watch;
	uint64_t n = fs->s.blocks;
	int rc = 0;

	for (uint64_t i = 0; i < n && lf_block_at(fs, i) < fs->f->size && !rc; i++) {
		if (w && w->progress && !w->progress(w->ctx, i * LF_BLOCK, n * LF_BLOCK)) {
			(void)wait_all(&t);
			return err_set(e, -ECANCELED, "stopped");
		}
		rc = trim_block(&t, i);
	}
	rc = rc ?: send_run(&t);
	return lf_fail(fs, wait_all(&t) ?: rc, e);
}
