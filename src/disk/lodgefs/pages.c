/*
 * pages.c: pages of pointers and of changes: where there is room for one, and which of them are in memory.
 *
 * Of each page there is a struct lf_page, with its number of references. Its 4 KiB are there from when they are changed until the next checkpoint has
 * written them, while they are pinned, and as long as there is room: of those that are as they are in their places, fs->pages_max at most stay, and the one
 * goes that nobody has wanted for long. Those, and only those, are on the list; the others do not count, as they cannot make room for anything.
 *
 * Who waits (lf_page_pin(), lf_pins_way(), lf_bring(), and everything else that does I/O) may lose any page that he has not pinned. Who does not wait
 * loses none. So a request first brings the way to its entry, again when the tree was changed meanwhile, and then works on it without waiting. Who has the
 * lock pins all the ways that he wants: nobody changes the trees.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

struct lf_page *lf_page_at(const struct lf *fs, uint64_t at)
{
	uint64_t first = fs->s.data_at / LF_PAGE, n = at - first;
	const struct lf_pages *b;

	if (at < first || n / LF_BLOCK_PAGES >= fs->s.blocks)
		return NULL;
	b = fs->block[n / LF_BLOCK_PAGES].pages;
	return b ? b->page[n % LF_BLOCK_PAGES] : NULL;
}

void lf_page_free(struct lf_page *p)
{
	if (p)
		free(p->data);
	free(p);
}

void lf_page_gone(struct lf_page *p)
{
	if (!p->refs && !p->dirty && !p->touched && !p->pins)
		lf_page_free(p);
}

struct lf_page *lf_page_make(struct lf *fs, uint64_t at, unsigned type, unsigned level)
{
	struct lf_page *p = calloc(1, sizeof(*p));
	struct lf_page_head *h;
	void *data;

	if (!p || posix_memalign(&data, LF_PAGE, LF_PAGE)) {
		free(p);
		return NULL;
	}
	list_init(&p->lru);
	memset(data, 0, LF_PAGE);
	h = data;
	h->magic = LF_PAGE_MAGIC;
	h->at = at;
	h->salt = fs->s.salt;
	h->type = p->type = (uint8_t)type;
	h->level = p->level = (uint8_t)level;
	p->at = at;
	p->data = data;
	return p;
}

/* ---- what is in memory ---- */

void lf_page_may_go(struct lf *fs, struct lf_page *p)
{
	if (p->type != LF_T_POINTERS && p->type != LF_T_TRACK)
		return;
	list_add_tail(&fs->pages_lru, &p->lru);
	fs->pages_clean++;
}

void lf_page_stays(struct lf *fs, struct lf_page *p)
{
	if (list_empty(&p->lru))
		return;
	list_del(&p->lru);
	fs->pages_clean--;
}

void lf_make_way(struct lf *fs)
{
	for (uint64_t n = 2 * fs->pages_clean; n && fs->pages_clean >= fs->pages_max; n--) {
		struct lf_page *p = list_entry(fs->pages_lru.next, struct lf_page, lru);

		fs->stats.page_looks++;
		lf_page_stays(fs, p);
		if (p->pins || p->wanted) {
			p->wanted = false;
			lf_page_may_go(fs, p);
			continue;
		}
		free(steal_ptr(p->data));
		fs->pages_in--;
	}
}

static int read_page(struct lf *fs, struct lf_page *p)
{
	struct lf_page there = *p; /* it may be dropped meanwhile */
	void *data;
	int rc;

	if (posix_memalign(&data, LF_PAGE, LF_PAGE))
		return -ENOMEM;
	rc = lf_io(fs, FILE_READ, p->at * LF_PAGE, data, LF_PAGE);
	there.data = data;
	if (!rc && p->refs && lf_page_wrong(fs, &there, p->type, p->level, true))
		rc = -EIO;
	if (rc || !p->refs || p->data) {
		free(data);
		return rc;
	}
	lf_make_way(fs);
	p->data = data;
	lf_page_may_go(fs, p);
	fs->pages_in++;
	fs->stats.page_reads++;
	return 0;
}

int lf_page_pin(struct lf *fs, struct lf_page *p)
{
	int rc = 0;

	p->pins++;
	if (!p->data) {
		lf_lock(fs, &fs->pages_lock);
		if (!p->data && p->refs)
			rc = read_page(fs, p);
		co_unlock(&fs->pages_lock);
	}
	if (rc)
		lf_page_unpin(p);
	return rc;
}

void lf_page_unpin(struct lf_page *p)
{
	p->pins--;
	lf_page_gone(p);
}

int lf_pins_add(struct lf *fs, struct lf_pins *pins, struct lf_page *p)
{
	int rc;

	if (pins->n == pins->cap) {
		unsigned cap = MAX(16u, 2 * pins->cap);
		struct lf_page **more = realloc(pins->page, cap * sizeof(struct lf_page *));

		if (!more)
			return -ENOMEM;
		pins->page = more;
		pins->cap = cap;
	}
	rc = lf_page_pin(fs, p);
	if (!rc)
		pins->page[pins->n++] = p;
	return rc;
}

void lf_pins_drop(struct lf_pins *pins)
{
	while (pins->n)
		lf_page_unpin(pins->page[--pins->n]);
	free(pins->page);
	*pins = (struct lf_pins){0};
}

uint64_t lf_rec_span(const struct lf_record *r)
{
	return r->type == LF_TRACK ? lf_track_span(r->height) : lf_span(r->height);
}

int lf_pins_way(struct lf *fs, struct lf_pins *pins, const struct lf_record *r, uint64_t mib)
{
	uint64_t at = r->root, span = lf_rec_span(r);
	int level = r->height;

	for (; at && mib < span; level--) {
		struct lf_page *p = lf_page_at(fs, at);
		int rc = p ? lf_pins_add(fs, pins, p) : 0;

		/* Without the lock it may be another one's meanwhile, or nobody's. */
		if (rc || !p || !p->data || p->level != level)
			return rc;
		p->wanted = true;
		if (!level)
			break;
		span /= LF_NODE_ENTRIES;
		at = *lf_node(p, mib / span);
		mib %= span;
	}
	return 0;
}

bool lf_here(const struct lf *fs, const struct lf_record *r, uint64_t mib)
{
	uint64_t at = r->root, span = lf_rec_span(r);

	while (at && mib < span) {
		struct lf_page *p = lf_page_at(fs, at);

		if (!p || !p->data)
			return !p;
		p->wanted = true;
		if (!p->level)
			break;
		span /= LF_NODE_ENTRIES;
		at = *lf_node(p, mib / span);
		mib %= span;
	}
	return true;
}

int lf_bring_both(struct lf *fs, const struct lf_record *a, const struct lf_record *b, uint64_t mib)
{
	int rc = 0;

	while (!rc && !(lf_here(fs, a, mib) && (!b || lf_here(fs, b, mib)))) {
		cleanup(lf_pins_drop) struct lf_pins pins = {0};

		rc = lf_pins_way(fs, &pins, a, mib);
		rc = rc || !b ? rc : lf_pins_way(fs, &pins, b, mib);
	}
	return rc;
}

int lf_bring(struct lf *fs, const struct lf_record *r, uint64_t mib)
{
	return lf_bring_both(fs, r, NULL, mib);
}

uint64_t lf_hole(const struct lf *fs, const struct lf_record *r, uint64_t mib)
{
	uint64_t at = r->root, span = lf_rec_span(r), in = mib;

	if (mib >= span)
		return UINT64_MAX - mib;
	while (at) {
		const struct lf_page *p = lf_page_at(fs, at);

		if (!p || !p->data || !p->level)
			return 0;
		span /= LF_NODE_ENTRIES;
		at = *((const uint64_t *)lf_body(p) + in / span);
		in %= span;
	}
	return span - in;
}

/* ---- room for pages ---- */

static void list_pages(struct lf *fs, struct lf_pages *b)
{
	if (b->listed)
		return;
	b->listed = true;
	b->next = fs->roomy;
	fs->roomy = b;
}

static struct lf_pages *pages_of(struct lf *fs, uint64_t block)
{
	struct lf_pages *b = fs->block[block].pages;

	if (b)
		return b;
	b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->block = block;
	fs->block[block].pages = b;
	fs->pages_free += LF_BLOCK_PAGES;
	fs->page_blocks++;
	list_pages(fs, b);
	return b;
}

int lf_page_adopt(struct lf *fs, struct lf_page *p)
{
	uint64_t n = p->at - fs->s.data_at / LF_PAGE;
	struct lf_pages *b = pages_of(fs, n / LF_BLOCK_PAGES);

	if (!b)
		return -ENOMEM;
	b->page[n % LF_BLOCK_PAGES] = p;
	b->used++;
	fs->pages_used++;
	fs->pages_free--;
	fs->pages_in++;
	if (!p->dirty) {
		lf_make_way(fs);
		lf_page_may_go(fs, p);
	}
	return 0;
}

int lf_reserve_now(struct lf *fs, unsigned n, unsigned spare)
{
	if (fs->pages_used + fs->pages_reserved + n > LF_PAGES_MAX)
		return -ENOSPC;
	if (fs->pages_free < fs->pages_reserved + n + spare)
		return -EAGAIN;
	fs->pages_reserved += n;
	return 0;
}

/* Another block for pages, with its space. */
static int more_pages(struct lf *fs)
{
	uint32_t block;
	int rc = lf_alloc(fs, &block);

	if (rc)
		return rc;
	rc = lf_room_block(fs, block, &fs->stats.room_bytes);
	if (!rc && !pages_of(fs, block))
		rc = -ENOMEM;
	if (rc)
		lf_give_back(fs, block);
	else
		fs->block[block].hold--; /* its pages keep it from now on */
	return rc;
}

int lf_reserve(struct lf *fs, unsigned n, unsigned spare)
{
	int rc = lf_reserve_now(fs, n, spare);

	while (rc == -EAGAIN) {
		lf_lock(fs, &fs->room_lock);
		rc = lf_reserve_now(fs, n, spare); /* others have seen to it meanwhile */
		if (rc == -EAGAIN)
			rc = more_pages(fs) ?: -EAGAIN;
		co_unlock(&fs->room_lock);
	}
	return rc;
}

void lf_unreserve(struct lf *fs, unsigned n)
{
	fs->pages_reserved -= n;
}

struct lf_page *lf_page_new(struct lf *fs, unsigned type, unsigned level)
{
	struct lf_pages *b;
	struct lf_page *p;
	unsigned i = 0;

	while ((b = fs->roomy) && b->used == LF_BLOCK_PAGES) {
		fs->roomy = b->next;
		b->listed = false;
	}
	if (!b)
		return NULL;
	while (b->page[i])
		i++;
	p = lf_page_make(fs, fs->s.data_at / LF_PAGE + b->block * LF_BLOCK_PAGES + i, type, level);
	if (!p)
		return NULL;
	p->refs = 1;
	b->page[i] = p;
	fs->pages_in++;
	if (!b->used++)
		lf_bitmap_put(fs, b->block, true);
	fs->pages_used++;
	fs->pages_free--;
	lf_touch(fs, p, 0, LF_PAGE);
	return p;
}

static void unlist(struct lf *fs, struct lf_pages *b)
{
	struct lf_pages **p = &fs->roomy;

	while (b->listed && *p != b)
		p = &(*p)->next;
	if (b->listed)
		*p = b->next;
}

void lf_page_drop(struct lf *fs, struct lf_page *p)
{
	uint64_t n = p->at - fs->s.data_at / LF_PAGE, block = n / LF_BLOCK_PAGES;
	struct lf_pages *b = fs->block[block].pages;

	b->page[n % LF_BLOCK_PAGES] = NULL;
	b->used--;
	fs->pages_used--;
	fs->pages_free++;
	list_pages(fs, b);
	lf_page_stays(fs, p);
	fs->pages_in -= p->data != NULL;
	lf_page_gone(p); /* else when the list is walked next: it has no references */
	if (b->used)
		return;
	lf_bitmap_put(fs, block, false);
	if (fs->pages_free - LF_BLOCK_PAGES < fs->pages_reserved)
		return;
	unlist(fs, b);
	fs->block[block].pages = NULL;
	fs->pages_free -= LF_BLOCK_PAGES;
	fs->page_blocks--;
	free(b);
	lf_hold(fs, (uint32_t)block);
}
