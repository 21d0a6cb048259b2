/* dirty.c: see dirty.h. */
#include "disk/dirty.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"

struct disk_dirty {
	uint64_t blocks;
	_Atomic uint64_t marked; /* how many */
	uint64_t word[]; /* a bit a block */
};

int disk_dirty_start(struct disk *d, struct err *e)
{
	uint64_t n = (d->size + DISK_DIRTY_BLOCK - 1) / DISK_DIRTY_BLOCK;

	if (d->dirty)
		return err_set(e, -EBUSY, "disk %s: is being copied already", d->o.path);
	d->dirty = calloc(1, sizeof(*d->dirty) + (n + 63) / 64 * sizeof(uint64_t));
	if (!d->dirty)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	d->dirty->blocks = n;
	return 0;
}

void disk_dirty_stop(struct disk *d)
{
	free(d->dirty);
	d->dirty = NULL;
}

static void mark(struct disk_dirty *t, uint64_t off, uint64_t len)
{
	uint64_t last;

	/* What was refused for its place has changed nothing. */
	if (!len || __builtin_add_overflow(off, len - 1, &last) ||
		last / DISK_DIRTY_BLOCK >= t->blocks)
		return;
	for (uint64_t i = off / DISK_DIRTY_BLOCK; i <= last / DISK_DIRTY_BLOCK; i++) {
		t->marked += !(t->word[i / 64] >> (i % 64) & 1);
		t->word[i / 64] |= 1ull << (i % 64);
	}
}

void disk_dirty_mark(struct disk *d, const struct disk_req *r)
{
	if (r->op == DISK_READ || r->op == DISK_FLUSH)
		return;
	for (unsigned i = 0; i < r->nranges; i++)
		mark(d->dirty, r->ranges[i].offset, r->ranges[i].len);
	if (!r->nranges)
		mark(d->dirty, r->offset, r->len);
}

static bool is_marked(const struct disk_dirty *t, uint64_t i)
{
	return t->word[i / 64] >> (i % 64) & 1;
}

bool disk_dirty_take(struct disk *d, uint64_t from, uint64_t max, struct disk_range *out)
{
	struct disk_dirty *t = d->dirty;
	uint64_t i = from / DISK_DIRTY_BLOCK, n = 0;

	while (i < t->blocks && !is_marked(t, i))
		i = t->word[i / 64] >> (i % 64) ? i + 1 : align_down(i, 64) + 64;
	if (i >= t->blocks)
		return false;
	for (; i + n < t->blocks && n < max / DISK_DIRTY_BLOCK && is_marked(t, i + n); n++)
		t->word[(i + n) / 64] &= ~(1ull << ((i + n) % 64));
	t->marked -= n;
	out->offset = i * DISK_DIRTY_BLOCK;
	out->len = MIN(n * DISK_DIRTY_BLOCK, d->size - out->offset);
	return n;
}

uint64_t disk_dirty_bytes(const struct disk *d)
{
	return d->dirty ? d->dirty->marked * DISK_DIRTY_BLOCK : 0;
}
