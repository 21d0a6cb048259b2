/*
 * sums.c: checksums of data, in stores that were made with `sums=on`.
 *
 * A sub-block of the store (not of a disk: snapshots and clones share it with its place) has a checksum in a page of a region of its own. 0: none is
 * known. What is written to a new place gets its checksum in the record that makes it count. A write in place cannot change data and checksum at
 * once, so the checksum goes first:
 *
 *	sum known --lf_sums_clear() in a record, flushed--> none --data is written in place, any number of times--> none
 *	    ^                                                                                            |
 *	    +---- lf_sums_settle(): nobody is writing it, it is flushed, read once more, summed <---------+
 *
 * So whatever a power cut leaves, a checksum that is there fits. Pages of checksums are read when they are wanted; those that nothing has changed
 * are given up when there are too many.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define CACHED 16384u /* pages: 64 MiB, for 48 GiB of data */
#define WROTE_MAX 16384u /* sub-blocks without a checksum before they are read again */
#define CHUNK \
	16u /* sub-blocks that lose their checksum together: the next write in place there need not wait */
#define PAGE_SUBS (LF_SUM_BLOCKS * LF_SUBS)

uint32_t lf_sum(const void *sub)
{
	return crc32c(0, sub, LF_SUB) ?: UINT32_MAX;
}

static uint64_t sub_of(const struct lf *fs, uint64_t addr)
{
	return (addr - fs->s.data_at) / LF_SUB;
}

static uint64_t addr_of(const struct lf *fs, uint64_t sub)
{
	return fs->s.data_at + sub * LF_SUB;
}

static struct lf_sums *have(const struct lf *fs, uint64_t sub)
{
	return fs->sums[sub / PAGE_SUBS];
}

static uint32_t *slot(struct lf_sums *s, uint64_t sub)
{
	return (uint32_t *)(void *)(s->page->data + LF_HEAD) + sub % PAGE_SUBS;
}

/* What it is called among what is vouched for: its checksum went in a record that is not marked. */
static uint64_t fresh_key(uint64_t sub)
{
	return 1ull << 61 | sub;
}

static void note_wrote(struct lf *fs, struct lf_sums *s, uint64_t sub, bool on)
{
	unsigned i = (unsigned)(sub % PAGE_SUBS);

	if (lf_bit(s->wrote, i) == on)
		return;
	s->wrote[i / 64] ^= 1ull << (i % 64);
	fs->sums_wrote += on ? 1 : (uint64_t)-1;
}

static void set(struct lf *fs, struct lf_sums *s, uint64_t sub, uint32_t sum)
{
	uint32_t *p = slot(s, sub);

	if (*p == sum)
		return;
	*p = sum;
	lf_touch(fs, s->page, (unsigned)((uint8_t *)p - s->page->data), 4);
}

/* ---- pages ---- */

static bool any(const uint64_t *map)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < PAGE_SUBS / 64; i++)
		v |= map[i];
	return v;
}

static void drop_one(struct lf *fs)
{
	for (uint64_t n = 0; n < fs->s.sum_pages; n++) {
		struct lf_sums **at = &fs->sums[fs->sums_hand], *s = *at;

		fs->sums_hand = (fs->sums_hand + 1) % fs->s.sum_pages;
		if (!s || s->page->dirty || s->page->touched || s->page->pins || any(s->wrote) ||
			any(s->old))
			continue;
		*at = NULL;
		lf_page_free(s->page);
		free(s);
		fs->sums_in--;
		return;
	}
}

int lf_sums_adopt(struct lf *fs, struct lf_page *p)
{
	struct lf_sums *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	p->refs = 1;
	s->page = p;
	fs->sums[p->at - fs->s.sums_at / LF_PAGE] = s;
	fs->sums_in++;
	return 0;
}

static int load(struct lf *fs, uint64_t i)
{
	uint64_t at = fs->s.sums_at / LF_PAGE + i;
	static const uint8_t none[LF_HEAD];
	struct lf_page *p = NULL;
	void *buf;
	int rc;

	if (posix_memalign(&buf, LF_PAGE, LF_PAGE))
		return -ENOMEM;
	rc = lf_io(fs, FILE_READ, at * LF_PAGE, buf, LF_PAGE);
	if (!rc && !memcmp(buf, none, LF_HEAD)) /* nobody has written it yet */
		p = lf_page_make(fs, at, LF_T_SUMS, 0);
	else if (!rc)
		rc = lf_load_page(fs, at, LF_T_SUMS, 0, buf, &p, NULL) ? -EIO : 0;
	free(buf);
	/* Damaged, and a check has counted it: without checksums the data can be read. */
	if (!rc && !p)
		p = lf_page_make(fs, at, LF_T_SUMS, 0);
	if (rc || !p)
		return rc ?: -ENOMEM;
	rc = lf_sums_adopt(fs, p);
	if (rc)
		lf_page_free(p);
	return rc;
}

int lf_sums_get(struct lf *fs, uint64_t sub, struct lf_sums **out)
{
	int rc = 0;

	if (!have(fs, sub)) {
		lf_lock(fs, &fs->sums_lock);
		if (!have(fs, sub)) {
			if (fs->sums_in >= CACHED)
				drop_one(fs);
			rc = load(fs, sub / PAGE_SUBS);
		}
		co_unlock(&fs->sums_lock);
	}
	*out = have(fs, sub);
	return rc;
}

void lf_sums_free(struct lf *fs)
{
	for (uint64_t i = 0; fs->sums && i < fs->s.sum_pages; i++) {
		if (!fs->sums[i])
			continue;
		lf_page_free(fs->sums[i]->page);
		free(fs->sums[i]);
	}
	free(fs->sums);
	free(fs->sums_room);
}

/* ---- reading ---- */

int lf_sums_verify(struct lf *fs, uint64_t addr, const void *buf, uint64_t len, uint64_t *bad)
{
	for (uint64_t at = 0; at < len; at += LF_SUB) {
		uint64_t sub = sub_of(fs, addr + at);
		struct lf_sums *s;
		int rc = lf_sums_get(fs, sub, &s);

		if (rc)
			return rc;
		if (!*slot(s, sub) || *slot(s, sub) == lf_sum((const uint8_t *)buf + at))
			continue;
		*bad = addr + at;
		return -EBADMSG;
	}
	return 0;
}

/* ---- before a write in place ---- */

bool lf_sums_clear_of(struct lf *fs, uint64_t addr, uint64_t len)
{
	uint64_t first = sub_of(fs, addr), last = sub_of(fs, addr + len - 1);

	for (uint64_t i = first; i <= last; i++) {
		struct lf_sums *s = have(fs, i);

		/* The record has to be on the medium: a power cut must not bring the checksum back. */
		if (!s || *slot(s, i) || lf_fresh_seq(fs, fresh_key(i)) > fs->flushed)
			return false;
	}
	for (uint64_t i = first; i <= last; i++)
		note_wrote(fs, have(fs, i), i, true);
	return true;
}

void lf_sums_want(struct lf *fs, struct lf_sum_want *w, uint64_t addr, uint64_t len)
{
	uint64_t block = sub_of(fs, addr) / LF_SUBS;
	unsigned k = 0;

	while (k < w->n && w->block[k].number != block)
		k++;
	if (k == ARRAY_SIZE(w->block)) /* a set is of one entry: `own` and `base` */
		abort(); /* broken invariant */
	w->n = MAX(w->n, k + 1);
	w->block[k].number = block;
	for (uint64_t end = addr + len, next; addr < end; addr = next) {
		unsigned i = (unsigned)(sub_of(fs, addr) % LF_SUBS);

		next = MIN(end, align_down(addr, LF_SUB) + LF_SUB);
		w->block[k].part[i / 64] |= 1ull << (i % 64);
		if (next - addr == LF_SUB)
			w->block[k].whole[i / 64] |= 1ull << (i % 64);
	}
}

/* A file ends behind what was written last. */
static int read_some(struct lf *fs, uint64_t addr, uint8_t *buf, uint64_t len)
{
	uint64_t there = addr < fs->f->size ? MIN(len, fs->f->size - addr) : 0;

	memset(buf + there, 0, len - there);
	return there ? lf_io(fs, FILE_READ, addr, buf, there) : 0;
}

/* Reads the chunk, and sees which of its checksums may go. -EBADMSG: something that a write would keep does not fit its checksum. */
static int look_once(struct lf *fs, struct lf_sum_block *b, unsigned first, uint8_t *buf)
{
	uint64_t sub = b->number * LF_SUBS + first;
	struct lf_sums *s;
	int rc = read_some(fs, addr_of(fs, sub), buf, CHUNK * LF_SUB);

	rc = rc ?: lf_sums_get(fs, sub, &s);
	for (unsigned i = first; i < first + CHUNK && !rc; i++, sub++, buf += LF_SUB) {
		/* Others may have taken it away meanwhile. */
		if (!*slot(s, sub))
			continue;
		if (lf_bit(b->whole, i) || *slot(s, sub) == lf_sum(buf))
			b->may[i / 64] |= 1ull << (i % 64);
		else if (lf_bit(b->part, i))
			rc = -EBADMSG;
	}
	return rc;
}

/* What stays of the sub-blocks of this chunk has to be right before its checksums go. */
static int look_at_chunk(struct lf *fs, struct lf_sum_block *b, unsigned first, uint8_t *buf)
{
	int rc = -EBADMSG;

	/* A read that meets a write of the same place may fit neither checksum. */
	for (unsigned try = 0; try < 3 && rc == -EBADMSG; try++)
		rc = look_once(fs, b, first, buf);
	fs->stats.sum_errors += rc == -EBADMSG;
	return rc == -EBADMSG ? -EIO : rc;
}

int lf_sums_look(struct lf *fs, struct lf_sum_want *w)
{
	cleanup(free_ptr) void *buf = NULL;
	int rc = 0;

	if (posix_memalign(&buf, LF_PAGE, CHUNK * LF_SUB))
		return -ENOMEM;
	for (unsigned k = 0; k < w->n; k++)
		for (unsigned i = 0; i < LF_SUBS && !rc; i += CHUNK)
			if (w->block[k].part[i / 64] >> (i % 64) & ((1u << CHUNK) - 1))
				rc = look_at_chunk(fs, &w->block[k], i, buf);
	return rc;
}

int lf_sums_clear(struct lf *fs, const struct lf_sum_want *w)
{
	for (unsigned k = 0; k < w->n; k++)
		for (unsigned i = 0; i < LF_SUBS; i++) {
			uint64_t sub = w->block[k].number * LF_SUBS + i;
			struct lf_sums *s;
			int rc;

			if (!lf_bit(w->block[k].may, i))
				continue;
			rc = lf_sums_get(fs, sub, &s);
			if (!rc && *slot(s, sub))
				rc = lf_fresh_put(fs, fresh_key(sub));
			if (rc)
				return rc;
			set(fs, s, sub, 0);
			note_wrote(fs, s, sub, true);
		}
	return 0;
}

/* ---- new places ---- */

static uint32_t sum_new(const struct sorter_tx *tx, unsigned i)
{
	uint64_t from = tx->block * LF_BLOCK + i * LF_SUB, to = from + LF_SUB;
	uint8_t buf[LF_SUB] = {0};

	for (unsigned n = 0; n < tx->n && tx->elem[n].off < to; n++) {
		const struct sorter_elem *el = &tx->elem[n];
		uint64_t a = MAX(from, el->off), b = MIN(to, el->off + el->len);

		if (a < b && el->kind == SORT_DATA)
			sorter_elem_read(el, a - el->off, buf + (a - from), b - a);
	}
	for (unsigned n = 0; n < tx->nfill; n++) {
		const struct sorter_fill *f = &tx->fill[n];
		uint64_t a = MAX(from, f->off), b = MIN(to, f->off + f->len);

		if (a < b && f->copy)
			memcpy(buf + (a - from), (const uint8_t *)f->buf + (a - f->off), b - a);
	}
	return lf_sum(buf);
}

int lf_sums_put(struct lf *fs, const struct sorter_tx *tx, const struct lf_entry *old,
	const struct lf_entry *now, bool taken)
{
	uint64_t first = (now->own - 1ull) * LF_SUBS;
	const uint64_t *was = old->own == now->own    ? old->own_valid
			      : old->base == now->own ? old->base_valid
						      : NULL;
	struct lf_sums *s;
	int rc = now->own ? lf_sums_get(fs, first, &s) : 0;

	if (rc || !now->own)
		return rc;
	for (unsigned i = 0; i < LF_SUBS; i++) {
		if (lf_bit(now->own_valid, i) && !(was && lf_bit(was, i)))
			set(fs, s, first + i, sum_new(tx, i));
		else if (taken) /* what stands there is of whoever had it before */
			set(fs, s, first + i, 0);
		else
			continue;
		note_wrote(fs, s, first + i, false);
		s->old[(first + i) % PAGE_SUBS / 64] &= ~(1ull << ((first + i) % 64));
	}
	return 0;
}

/* ---- settling ---- */

struct leaving {
	struct sorter_quarantine q;
	struct lf_wait *w;
};

static void left(struct sorter_quarantine *q)
{
	struct lf_wait *w = container_of(q, struct leaving, q)->w;

	if (!--w->left && w->co)
		co_wake(w->co);
}

/* Outside of the loop: no turn of it will seal what has collected. */
static void kick_all(const struct lf *fs)
{
	for (const struct lf_disk *l = fs->disks; l; l = l->next)
		if (l->sorter)
			sorter_kick(l->sorter);
}

/* Everything that was written in place, or is on its way, has arrived. */
static int writers_gone(struct lf *fs)
{
	struct lf_wait w = {.fs = fs};
	struct leaving *all;
	unsigned n = 0;

	for (const struct lf_disk *l = fs->disks; l; l = l->next)
		n += l->sorter != NULL;
	all = calloc(MAX(n, 1u), sizeof(*all));
	if (!all)
		return -ENOMEM;
	w.left = 1 + n;
	n = 0;
	for (const struct lf_disk *l = fs->disks; l; l = l->next) {
		if (!l->sorter)
			continue;
		all[n].q.free = left;
		all[n].w = &w;
		sorter_quarantine(l->sorter, &all[n++].q);
	}
	w.left--;
	while (w.left && !co_self(&fs->cs)) {
		kick_all(fs);
		files_drain(fs->files);
	}
	(void)lf_wait_all(&w);
	free(all);
	return lf_flush(fs);
}

/* Is it to be read? Nobody has begun to write it since. */
static bool is_old(const struct lf *fs, uint64_t sub)
{
	const struct lf_sums *s = have(fs, sub);
	unsigned i = (unsigned)(sub % PAGE_SUBS);

	return lf_bit(s->old, i) && !lf_bit(s->wrote, i);
}

/* The checksums of those of the block from `first` on; 0 for the others. */
static int read_old(struct lf *fs, uint64_t first, uint32_t *sum, uint8_t *buf)
{
	uint64_t end = first + LF_SUBS;
	int rc;

	while (end > first && !is_old(fs, end - 1))
		end--;
	while (first < end && !is_old(fs, first)) {
		first++;
		sum++;
	}
	rc = first < end ? lf_io(fs, FILE_READ, addr_of(fs, first), buf, (end - first) * LF_SUB)
			 : 0;
	for (; first < end && !rc; first++, sum++, buf += LF_SUB)
		if (is_old(fs, first))
			*sum = lf_sum(buf);
	return rc;
}

static int settle_page(struct lf *fs, uint64_t page)
{
	uint64_t first = page * PAGE_SUBS;
	uint32_t sum[PAGE_SUBS] = {0};
	struct lf_sums *s = have(fs, first);
	cleanup(free_ptr) void *buf = NULL;
	int rc = posix_memalign(&buf, LF_PAGE, LF_BLOCK) ? -ENOMEM : 0;

	for (uint64_t i = 0; i < PAGE_SUBS && (first + i) / LF_SUBS < fs->s.blocks && !rc;
		i += LF_SUBS)
		rc = read_old(fs, first + i, sum + i, buf);
	if (!rc)
		rc = lf_begin(fs, lf_need(2));
	if (rc)
		return rc;
	for (unsigned i = 0; i < PAGE_SUBS; i++)
		if (sum[i] && is_old(fs, first + i) && !*slot(s, first + i))
			set(fs, s, first + i, sum[i]);
	memset(s->old, 0, sizeof(s->old));
	return lf_end(fs, NULL, 0);
}

int lf_sums_settle(struct lf *fs)
{
	int rc;

	/* Before a snapshot: what is being settled behind the writers is, and then the rest. */
	while (fs->settling && !co_self(&fs->cs)) {
		kick_all(fs);
		files_drain(fs->files);
	}
	if (!fs->sums || !fs->sums_wrote || fs->settling || fs->failed)
		return 0;
	fs->settling = true;
	for (uint64_t i = 0; i < fs->s.sum_pages; i++) {
		struct lf_sums *s = fs->sums[i];

		for (unsigned w = 0; s && w < PAGE_SUBS / 64; w++) {
			s->old[w] |= s->wrote[w];
			s->wrote[w] = 0;
		}
	}
	fs->sums_wrote = 0;
	rc = writers_gone(fs);
	for (uint64_t i = 0; i < fs->s.sum_pages && !rc; i++)
		if (fs->sums[i] && any(fs->sums[i]->old))
			rc = settle_page(fs, i);
	fs->settling = false;
	return rc;
}

static void settle_job(void *arg)
{
	(void)lf_sums_settle(arg); /* what failed stays without checksums */
}

static void settle_after(void *arg)
{
	((struct lf *)arg)->jobs--;
}

void lf_sums_relieve(struct lf *fs)
{
	if (fs->sums_wrote <= WROTE_MAX || fs->settling)
		return;
	fs->jobs++;
	lf_start_job(fs, settle_job, settle_after, fs);
}

/* ---- checking ---- */

/* The disk, or snapshot, that has this sub-block. */
static bool find_in(
	struct lf *fs, uint64_t root, uint32_t ref, unsigned i, uint64_t span, uint64_t *mib)
{
	struct lf_page *p = root ? lf_page_at(fs, root) : NULL;
	bool found = false;

	if (!p || lf_page_pin(fs, p))
		return false;
	for (unsigned k = 0; p->level && k < LF_NODE_ENTRIES && !found; k++) {
		found = find_in(fs, *lf_node(p, k), ref, i, span / LF_NODE_ENTRIES, mib);
		if (found)
			*mib += k * (span / LF_NODE_ENTRIES);
	}
	for (unsigned k = 0; !p->level && k < LF_LEAF_ENTRIES && !found; k++) {
		const struct lf_entry *x = lf_leaf(p, k);

		found = (x->own == ref && lf_bit(x->own_valid, i)) ||
			(x->base == ref && lf_bit(x->base_valid, i));
		if (found)
			*mib = k;
	}
	lf_page_unpin(p);
	return found;
}

static int report(struct lf *fs, uint64_t sub, struct err *e)
{
	for (uint64_t i = 0; i < fs->nrec; i++) {
		const struct lf_record *r = fs->rec[i], *d = r;
		uint64_t mib;

		if ((r->type != LF_DISK && r->type != LF_SNAPSHOT) ||
			!find_in(fs, r->root, (uint32_t)(sub / LF_SUBS + 1), sub % LF_SUBS,
				lf_span(r->height), &mib))
			continue;
		d = r->type == LF_SNAPSHOT ? lf_rec_by_id(fs, r->owner) : r;
		return lf_found(fs, true, e,
			"disk %s%s%s: 4096 bytes at %llu do not fit their checksum",
			d ? d->name : "", r->type == LF_SNAPSHOT ? "@" : "",
			r->type == LF_SNAPSHOT ? r->name : "",
			(unsigned long long)(mib * LF_BLOCK + sub % LF_SUBS * LF_SUB));
	}
	return 0;
}

/* A block: `valid` says what of it holds data. */
static int check_block(
	struct lf *fs, uint64_t block, const uint64_t *valid, uint8_t *buf, struct err *e)
{
	uint64_t first = block * LF_SUBS;
	struct lf_sums *s;
	int rc = lf_sums_get(fs, first, &s);

	if (rc)
		return err_sys(e, rc, "store %s: checksums of block %llu", fs->path,
			(unsigned long long)block);
	rc = read_some(fs, lf_block_at(fs, block), buf, LF_BLOCK);
	if (rc)
		err_sys(e, rc, "store %s: block %llu", fs->path, (unsigned long long)block);
	for (unsigned i = 0; i < LF_SUBS && !rc; i++) {
		uint32_t sum = *slot(s, first + i);

		if (!lf_bit(valid, i))
			continue;
		if (!sum && fs->repair)
			note_wrote(fs, s, first + i, true); /* settling gives it one */
		if (sum && sum != lf_sum(buf + i * LF_SUB)) {
			fs->unmended++;
			rc = report(fs, first + i, e);
		}
	}
	return rc;
}

int lf_sums_check(struct lf *fs, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = NULL;
	const struct disk_watch *w = fs->watch;
	int rc = 0;

	if (posix_memalign((void **)&buf, LF_PAGE, LF_BLOCK))
		return err_set(e, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < fs->s.blocks && !rc; i++) {
		if (w && w->progress && !w->progress(w->ctx, i * LF_BLOCK, fs->s.blocks * LF_BLOCK))
			return err_set(e, -ECANCELED, "stopped");
		if (fs->block[i].refs && !lf_none(&fs->valid[4 * i]))
			rc = check_block(fs, i, &fs->valid[4 * i], buf, e);
		if (!rc && fs->sums_wrote > WROTE_MAX)
			rc = lf_sums_settle(fs);
	}
	return rc;
}
