/*
 * pages.c: pages of pointers and of changes: where there is room for one, and which of them are in memory.
 *
 * Of each page there is a struct lf_page, with its number of references. Its 4 KiB are there while somebody may have changed them since the last
 * checkpoint, while they are wanted, and as long as there is room (fs->pages_max); then the one goes that nobody has wanted for long.
 *
 * Who waits for input (lf_page_load(), lf_bring()) may lose any page that he has not pinned. Who does not wait loses none. So a request first brings
 * the way to its entry, again and again until nothing of it is missing, and then works on it without waiting.
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

static void enter(struct lf *fs, struct lf_page *p)
{
	list_add_tail(&fs->pages_lru, &p->lru);
	fs->pages_in++;
}

static void leave(struct lf *fs, struct lf_page *p)
{
	if (list_empty(&p->lru))
		return;
	list_del(&p->lru);
	fs->pages_in--;
}

void lf_make_way(struct lf *fs)
{
	for (uint64_t n = 2 * fs->pages_in; n && fs->pages_in >= fs->pages_max; n--) {
		struct lf_page *p = list_entry(fs->pages_lru.next, struct lf_page, lru);

		if (p->dirty || p->touched || p->pins || p->wanted) {
			p->wanted = false;
			list_del(&p->lru);
			list_add_tail(&fs->pages_lru, &p->lru);
			continue;
		}
		leave(fs, p);
		free(steal_ptr(p->data));
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
	enter(fs, p);
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

/* The first page on the way to that MiB that is not in memory; `span`: of the tree. */
static struct lf_page *missing(const struct lf *fs, uint64_t at, uint64_t span, uint64_t mib)
{
	while (at && mib < span) {
		struct lf_page *p = lf_page_at(fs, at);

		if (!p || !p->data)
			return p;
		p->wanted = true;
		if (!p->level)
			break;
		span /= LF_NODE_ENTRIES;
		at = *lf_node(p, mib / span);
		mib %= span;
	}
	return NULL;
}

static struct lf_page *missing_of(const struct lf *fs, const struct lf_record *r, uint64_t mib)
{
	return missing(fs, r->root,
		r->type == LF_TRACK ? lf_track_span(r->height) : lf_span(r->height), mib);
}

bool lf_here(const struct lf *fs, const struct lf_record *r, uint64_t mib)
{
	return !missing_of(fs, r, mib);
}

int lf_bring(struct lf *fs, const struct lf_record *r, uint64_t mib, bool *waited)
{
	struct lf_page *p;
	int rc = 0;

	while (!rc && (p = missing_of(fs, r, mib))) {
		rc = lf_page_pin(fs, p);
		if (!rc)
			lf_page_unpin(p);
		*waited = true;
	}
	return rc;
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
	lf_make_way(fs);
	enter(fs, p);
	return 0;
}

int lf_reserve(struct lf *fs, unsigned n)
{
	if (fs->pages_used + fs->pages_reserved + n > LF_PAGES_MAX)
		return -ENOSPC;
	while (fs->pages_free < fs->pages_reserved + n) {
		uint32_t block;
		int rc = lf_alloc(fs, &block);

		if (!rc && !pages_of(fs, block))
			rc = -ENOMEM;
		if (!rc)
			fs->block[block].hold--; /* its pages keep it from now on */
		if (rc)
			return rc;
	}
	fs->pages_reserved += n;
	return 0;
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
	enter(fs, p);
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
	leave(fs, p);
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
