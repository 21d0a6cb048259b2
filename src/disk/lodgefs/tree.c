/*
 * tree.c: trees of pointer pages, and what is in use.
 *
 * Trees share pages: a page with more than one reference is never changed, but copied by whoever wants to, and then each of its children has one
 * reference more. So making a snapshot is one more reference to a root, however large the disk.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

/* ---- blocks ---- */

static struct lf_page *bitmap_page(const struct lf *fs, uint64_t block)
{
	return fs->bitmap[block / LF_BITS];
}

bool lf_bitmap_get(const struct lf *fs, uint64_t block)
{
	const struct lf_page *p = bitmap_page(fs, block);

	return bitmap_test((const uint64_t *)(const void *)(p->data + LF_HEAD), block % LF_BITS);
}

void lf_bitmap_put(struct lf *fs, uint64_t block, bool used)
{
	struct lf_page *p = bitmap_page(fs, block);
	uint64_t *map = (uint64_t *)(void *)(p->data + LF_HEAD), bit = block % LF_BITS;

	if (used)
		bitmap_set(map, bit);
	else
		bitmap_clear(map, bit);
	lf_touch(fs, p, (unsigned)(LF_HEAD + bit / 64 * 8), 8);
}

static bool in_use(const struct lf_block *b)
{
	return b->refs || b->hold || b->pages;
}

void lf_count_free(struct lf *fs)
{
	fs->free_blocks = 0;
	for (uint64_t i = 0; i < fs->s.blocks; i++)
		fs->free_blocks += !in_use(&fs->block[i]);
}

int lf_alloc(struct lf *fs, uint32_t *block)
{
	if (!fs->free_blocks)
		(void)lf_unpunch(fs);
	if (!fs->free_blocks)
		return lf_ready_take(fs, block) ? 0 : -ENOSPC;
	for (uint64_t n = 0; n < fs->s.blocks; n++) {
		uint64_t i = fs->cursor;

		fs->cursor = i + 1 < fs->s.blocks ? i + 1 : 0;
		if (in_use(&fs->block[i]))
			continue;
		fs->block[i].hold = 1;
		fs->free_blocks--;
		*block = (uint32_t)i;
		return 0;
	}
	return -ENOSPC;
}

#define REACH (64 * MiB)

void lf_reach_over(struct lf *fs, uint32_t block)
{
	uint64_t end = lf_block_at(fs, block) + LF_BLOCK,
		 size = MIN(end + REACH, lf_block_at(fs, fs->s.blocks));

	if (fs->f->block_device || end <= fs->f->size)
		return;
	/* What is on its way has not made it longer yet. */
	(void)file_truncate(fs->f, MAX(size, fs->f->reach), NULL);
}

void lf_release(struct lf *fs, uint32_t block)
{
	fs->block[block].hold--;
	if (!in_use(&fs->block[block]))
		fs->free_blocks++;
}

static void ref_get(struct lf *fs, uint32_t ref)
{
	if (ref && !fs->block[ref - 1].refs++)
		lf_bitmap_put(fs, ref - 1, true);
}

static void ref_put(struct lf *fs, uint32_t ref)
{
	if (!ref)
		return;
	if (!--fs->block[ref - 1].refs)
		lf_bitmap_put(fs, ref - 1, false);
	lf_hold(fs, ref - 1);
}

/* ---- trees ---- */

uint64_t lf_span(unsigned height)
{
	uint64_t n = LF_LEAF_ENTRIES;

	while (height--)
		n *= LF_NODE_ENTRIES;
	return n;
}

struct lf_entry *lf_find(struct lf *fs, const struct lf_record *r, uint64_t mib, bool *own)
{
	uint64_t at = r->root, span = lf_span(r->height);
	struct lf_page *p;

	*own = true;
	if (mib >= span)
		return NULL;
	for (;;) {
		p = at ? lf_page_at(fs, at) : NULL;
		if (!p)
			return NULL;
		*own &= p->refs == 1 && p->gone <= fs->marked;
		if (!p->level)
			return lf_leaf(p, mib);
		span /= LF_NODE_ENTRIES;
		at = *lf_node(p, mib / span);
		mib %= span;
	}
}

void lf_tree_get(struct lf *fs, uint64_t root)
{
	if (root)
		lf_page_at(fs, root)->refs++;
}

void lf_tree_put(struct lf *fs, uint64_t root)
{
	struct lf_page *p = root ? lf_page_at(fs, root) : NULL;

	int rc;

	if (!p)
		return;
	/* It becomes what others have for themselves when that is durable, not before. */
	p->gone = fs->seq;
	if (p->refs > 1) {
		p->refs--;
		return;
	}
	rc = lf_page_pin(fs, p);
	if (rc) {
		fs->failed = fs->failed ?: rc;
		return;
	}
	for (unsigned i = 0; p->level && i < LF_NODE_ENTRIES; i++)
		lf_tree_put(fs, *lf_node(p, i));
	for (unsigned i = 0; !p->level && p->type == LF_T_POINTERS && i < LF_LEAF_ENTRIES; i++) {
		ref_put(fs, lf_leaf(p, i)->own);
		ref_put(fs, lf_leaf(p, i)->base);
	}
	p->refs = 0;
	lf_page_drop(fs, p);
	lf_page_unpin(p);
}

/* A page that only we refer to, in place of the one at *at. */
static struct lf_page *make_own(struct lf *fs, uint64_t *at, unsigned level)
{
	struct lf_page *old = *at ? lf_page_at(fs, *at) : NULL, *p;

	if (old && old->refs == 1)
		return old;
	p = lf_page_new(fs, LF_T_POINTERS, level);
	if (!p)
		return NULL;
	*at = p->at;
	if (!old)
		return p;
	memcpy(lf_body(p), lf_body(old), LF_PAGE - LF_HEAD);
	old->refs--;
	for (unsigned i = 0; level && i < LF_NODE_ENTRIES; i++)
		lf_tree_get(fs, *lf_node(p, i));
	for (unsigned i = 0; !level && i < LF_LEAF_ENTRIES; i++) {
		ref_get(fs, lf_leaf(p, i)->own);
		ref_get(fs, lf_leaf(p, i)->base);
	}
	return p;
}

struct lf_entry *lf_find_own(
	struct lf *fs, struct lf_record *r, uint64_t mib, struct lf_page **leaf)
{
	uint64_t root = r->root, span = lf_span(r->height);
	struct lf_page *p = make_own(fs, &root, r->height);

	if (root != r->root) {
		r->root = root;
		lf_rec_touch(fs, r);
	}
	while (p && p->level) {
		struct lf_page *parent = p;
		uint64_t *slot, at;

		span /= LF_NODE_ENTRIES;
		slot = lf_node(parent, mib / span);
		mib %= span;
		at = *slot;
		p = make_own(fs, &at, parent->level - 1u);
		if (at != *slot) {
			*slot = at;
			lf_touch(fs, parent, (unsigned)((uint8_t *)slot - parent->data), 8);
		}
	}
	*leaf = p;
	return p ? lf_leaf(p, mib) : NULL;
}

void lf_set_entry(struct lf *fs, struct lf_record *r, uint64_t mib, const struct lf_entry *now)
{
	struct lf_page *leaf;
	struct lf_entry *e = lf_find_own(fs, r, mib, &leaf), old;

	if (!e) {
		fs->failed = fs->failed ?: -ENOMEM;
		return;
	}
	old = *e;
	ref_get(fs, now->own);
	ref_get(fs, now->base);
	*e = *now;
	lf_touch(fs, leaf, (unsigned)((uint8_t *)e - leaf->data), sizeof(*e));
	/* What stays is not a change: it must not be held. */
	if (old.own && (old.own == now->own || old.own == now->base))
		fs->block[old.own - 1].refs--;
	else
		ref_put(fs, old.own);
	if (old.base && (old.base == now->own || old.base == now->base))
		fs->block[old.base - 1].refs--;
	else
		ref_put(fs, old.base);
}

int lf_grow_tree(struct lf *fs, struct lf_record *r, uint64_t size)
{
	while (lf_span(r->height) < (size + LF_BLOCK - 1) / LF_BLOCK) {
		if (r->height >= LF_HEIGHT_MAX)
			return -EFBIG;
		if (r->root) {
			struct lf_page *p = lf_page_new(fs, LF_T_POINTERS, r->height + 1u);

			if (!p)
				return -ENOMEM;
			*lf_node(p, 0) = r->root;
			r->root = p->at;
		}
		r->height++;
	}
	lf_rec_touch(fs, r);
	return 0;
}
