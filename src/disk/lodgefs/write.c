/*
 * write.c: what the sorter asks of lodgefs. A block is 1 MiB of the disk, an entry of a leaf.
 *
 * A sub-block that has data in a block which only this disk refers to is written in place, without any metadata. Everything else is a
 * transaction: a sub-block of the disk's own block becomes valid, or a block is taken and what was there stays in `base`, so that neither the
 * first write to a block nor the first one after a snapshot copies or zeroes more than the rest of its 4 KiB.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define SECTOR 512u
#define ALL 0xffu /* sectors of a sub-block */

/* ---- jobs ---- */

void lf_start_job(struct lf *fs, void (*fn)(void *), void (*after)(void *), void *arg)
{
	if (co_start(&fs->cs, fn, after, arg)) {
		fs->failed = fs->failed ?: -ENOMEM;
		after(arg);
	}
}

/* ---- one entry ---- */

struct look {
	struct lf_entry e;
	bool own; /* `own` may be written in place */
	bool base_own; /* and so may `base` */
};

static void look_at(struct lf_disk *l, uint64_t mib, struct look *k)
{
	struct lf *fs = l->fs;
	bool path;
	const struct lf_entry *e = lf_find(fs, l->rec, mib, &path);

	*k = (struct look){0};
	if (!e)
		return;
	k->e = *e;
	k->own = path && lf_alone(fs, e->own);
	k->base_own = path && lf_alone(fs, e->base);
}

/* Where sub-block i has its data: byte address, 0: nowhere. */
static uint64_t source(const struct lf *fs, const struct look *k, unsigned i, bool *own)
{
	if (lf_bit(k->e.own_valid, i)) {
		*own = k->own;
		return lf_block_at(fs, k->e.own - 1) + i * LF_SUB;
	}
	*own = k->base_own;
	return lf_bit(k->e.base_valid, i) ? lf_block_at(fs, k->e.base - 1) + i * LF_SUB : 0;
}

static void set_bit(uint64_t *map, unsigned i, bool on)
{
	map[i / 64] = (map[i / 64] & ~(1ull << (i % 64))) | (uint64_t)on << (i % 64);
}

/* ---- resolve ---- */

static enum sorter_where where(const struct lf_disk *l, const struct look *k,
	const struct sorter_elem *el, uint64_t off, uint64_t len, uint64_t *addr)
{
	unsigned i = (unsigned)(off % LF_BLOCK / LF_SUB);
	bool own, whole = len == LF_SUB;
	uint64_t src = source(l->fs, k, i, &own);

	*addr = src ? src + off % LF_SUB : 0;
	if (el->kind == SORT_DATA)
		return src && own ? SORT_PLAIN : SORT_META;
	if (!src || (el->kind == SORT_DISCARD && (!l->d->can_discard || !whole)))
		return SORT_NOTHING;
	return whole || !own ? SORT_META : SORT_PLAIN;
}

/* Decides the first stretch of element n that is of one sort; cuts off the rest. */
static int resolve_elem(struct lf_disk *l, const struct look *k, struct sorter_set *set, unsigned n)
{
	struct sorter_elem *el = &set->elem[n];
	uint64_t at = el->off, end = el->off + el->len, addr, first = 0;
	enum sorter_where w;
	int rc = 0;

	for (uint64_t len; at < end; at += len) {
		len = MIN(end, (at / LF_SUB + 1) * LF_SUB) - at;
		w = where(l, k, el, at, len, &addr);
		if (at == el->off) {
			first = addr;
			el->where = w;
			el->file = l->fs->f;
			el->addr = addr;
		} else if (w != el->where || (w == SORT_PLAIN && addr != first + (at - el->off))) {
			rc = sorter_cut(set, n, at - el->off);
			break;
		}
	}
	return rc;
}

static bool readonly_range(const struct lf_record *r, uint64_t mib)
{
	for (unsigned i = 0; i < r->nranges; i++)
		if (mib >= r->ranges[i].at && mib - r->ranges[i].at < r->ranges[i].len)
			return true;
	return false;
}

enum { WANT_MARK = 1, WANT_RECORD = 2, WANT_PAGES = 4, WANT_ROOM = 8 };

/* What WANT_ROOM is about: pages; or the checksums of a block (+ 1). */
struct lacks {
	unsigned pages, spare;
	uint32_t block;
};

static bool here(const struct lf_disk *l, uint64_t block)
{
	return lf_here(l->fs, l->rec, block) && (!l->track || lf_here(l->fs, l->track, block));
}

static int pin(struct lf_disk *l, uint64_t block, struct lf_pins *pins)
{
	int rc = lf_pins_way(l->fs, pins, l->rec, block);

	return rc || !l->track ? rc : lf_pins_way(l->fs, pins, l->track, block);
}

/* WANT_*: that has to come first. */
static int resolve_set(struct lf_disk *l, struct sorter_set *set)
{
	struct look k;
	int rc = l->fs->failed, wait = 0;

	if (!rc && l->rec->nranges && readonly_range(l->rec, set->block))
		rc = -EROFS;
	if (rc)
		return rc;
	if (!here(l, set->block))
		return WANT_PAGES;
	look_at(l, set->block, &k);
	for (unsigned i = 0; i < set->n && !rc; i++) {
		rc = resolve_elem(l, &k, set, i);
		if (rc || set->elem[i].where == SORT_NOTHING)
			continue;
		if (set->elem[i].where != SORT_PLAIN)
			continue;
		wait |= lf_overwrites(l->fs, set->elem[i].addr, set->elem[i].len) ? WANT_MARK : 0;
		if (l->track && !lf_track_has(l, set->elem[i].off, set->elem[i].len))
			wait |= WANT_RECORD;
		if (l->fs->sums && !lf_sums_clear_of(l->fs, set->elem[i].addr, set->elem[i].len))
			wait |= WANT_RECORD;
	}
	return rc ?: wait;
}

struct job {
	struct lf_disk *l;
	union {
		struct sorter_set *set;
		struct sorter_tx *tx;
		struct sorter_batch *batch;
	};
	struct lacks lacks;
	int rc;
};

static struct job *job_make(struct lf_disk *l)
{
	struct job *j = calloc(1, sizeof(*j));

	if (j)
		j->l = l;
	return j;
}

static int record_set(struct lf_disk *l, struct sorter_set *set)
{
	struct lf_ahead a = {.l = l, .set = set};

	for (unsigned i = 0; l->fs->sums && i < set->n; i++)
		if (set->elem[i].where == SORT_PLAIN)
			lf_sums_want(l->fs, &a.want, set->elem[i].addr, set->elem[i].len);
	return lf_track_ahead(&a);
}

static void resolve_job(void *arg)
{
	struct job *j = arg;

	while (j->rc > 0) {
		int rc = j->rc & WANT_PAGES
				 ? lf_bring_both(j->l->fs, j->l->rec, j->l->track, j->set->block)
			 : j->rc & WANT_RECORD ? record_set(j->l, j->set)
					       : lf_mark(j->l->fs);

		j->rc = rc ?: resolve_set(j->l, j->set);
	}
}

static void resolve_after(void *arg)
{
	struct job *j = arg;
	struct sorter_set *set = j->set;
	int rc = j->rc;

	free(j);
	sorter_resolved(set, rc);
}

static void resolve(void *ctx, struct sorter_set *set)
{
	struct lf_disk *l = ctx;
	int rc = resolve_set(l, set);
	struct job *j;

	lf_sums_relieve(l->fs);
	if (rc <= 0) {
		sorter_resolved(set, rc);
		return;
	}
	j = job_make(l);
	if (!j) {
		sorter_resolved(set, -ENOMEM);
		return;
	}
	j->set = set;
	j->rc = rc;
	lf_start_job(l->fs, resolve_job, resolve_after, j);
}

/* ---- prepare ---- */

struct plan {
	struct lf_entry now;
	uint32_t taken; /* block + 1 */
	unsigned pages;
	bool change; /* of the entry */
};

/* Which sectors of each sub-block are written, and which become zero. */
struct cover {
	uint8_t data[LF_SUBS], zero[LF_SUBS];
	unsigned from, to; /* sub-blocks [from, to) */
};

static void cover(struct cover *c, const struct sorter_tx *tx)
{
	memset(c, 0, sizeof(*c));
	c->from = LF_SUBS;
	for (unsigned i = 0; i < tx->n; i++) {
		const struct sorter_elem *el = &tx->elem[i];
		uint64_t at = el->off % LF_BLOCK, end = at + el->len;

		c->from = MIN(c->from, (unsigned)(at / LF_SUB));
		c->to = MAX(c->to, (unsigned)((end + LF_SUB - 1) / LF_SUB));
		while (at < end) {
			uint64_t stop = MIN(end, (at / LF_SUB + 1) * LF_SUB);
			unsigned lo = (unsigned)(at % LF_SUB / SECTOR),
				 n = (unsigned)((stop - at) / SECTOR);
			uint8_t m = (uint8_t)(((1u << n) - 1) << lo);

			/* A discard of less than a sub-block has lost the rest to what came after it, and may have taken what came before. */
			if (el->kind == SORT_DATA)
				c->data[at / LF_SUB] |= m;
			else
				c->zero[at / LF_SUB] |= m;
			at = stop;
		}
	}
}

/* Fills of one sub-block: runs of sectors that are alike. */
static int fill_sub(struct lf_disk *l, struct sorter_tx *tx, unsigned i, uint8_t need, uint8_t zero,
	uint64_t old, uint64_t to)
{
	uint64_t off = tx->block * LF_BLOCK + i * LF_SUB;

	for (unsigned s = 0, e; s < 8; s = e) {
		bool copy = old && !(zero >> s & 1);
		int rc;

		e = s + 1;
		if (!(need >> s & 1))
			continue;
		while (e < 8 && (need >> e & 1) && (old && !(zero >> e & 1)) == copy)
			e++;
		rc = sorter_add_fill(tx, off + s * SECTOR, (e - s) * SECTOR, copy, l->fs->f,
			to + s * SECTOR, old + s * SECTOR);
		if (rc)
			return rc;
	}
	return 0;
}

/* What `base` will be when `own` becomes another block: the one of the two that has more. The rest is copied: *copy. */
static void choose_base(const struct look *k, struct lf_entry *now, uint64_t *copy)
{
	unsigned n[2] = {0, 0};
	uint64_t live[4];

	for (unsigned w = 0; w < 4; w++) {
		live[w] = k->e.base_valid[w] & ~k->e.own_valid[w];
		n[0] += (unsigned)__builtin_popcountll(k->e.own_valid[w]);
		n[1] += (unsigned)__builtin_popcountll(live[w]);
	}
	now->base = n[0] >= n[1] ? k->e.own : k->e.base;
	for (unsigned w = 0; w < 4; w++) {
		now->base_valid[w] = n[0] >= n[1] ? k->e.own_valid[w] : live[w];
		copy[w] = n[0] >= n[1] ? live[w] : k->e.own_valid[w];
	}
	if (lf_none(now->base_valid))
		now->base = 0;
}

/* The block that gets the data. */
static int choose_own(struct lf_disk *l, const struct sorter_tx *tx, const struct look *k,
	struct plan *p, uint64_t *copy)
{
	uint32_t block;
	bool ready;
	int rc;

	memset(copy, 0, 32);
	p->now = k->e;
	if (k->e.own && k->own)
		return 0;
	if (!k->e.own && k->base_own) {
		p->now = (struct lf_entry){.own = k->e.base};
		memcpy(p->now.own_valid, k->e.base_valid, 32);
		return 0;
	}
	ready = lf_ready_wanted(tx) && lf_ready_take(l->fs, &block);
	rc = ready ? 0 : lf_alloc(l->fs, &block);
	if (rc)
		return rc;
	p->taken = block + 1;
	p->now = (struct lf_entry){.own = block + 1};
	choose_base(k, &p->now, copy);
	return 0;
}

/* What is not referred to through any bit is not referred to. */
static void tidy(struct lf_entry *e)
{
	uint64_t live = 0;

	for (unsigned w = 0; w < 4; w++) {
		e->base_valid[w] &= ~e->own_valid[w];
		live |= e->base_valid[w];
	}
	if (!live)
		e->base = 0;
	if (lf_none(e->own_valid))
		e->own = 0;
}

static int plan_sub(struct lf_disk *l, struct sorter_tx *tx, const struct look *k,
	const struct cover *c, const uint64_t *copy, unsigned i, struct plan *p)
{
	uint8_t data = c->data[i], zero = c->zero[i];
	uint64_t to = lf_block_at(l->fs, p->now.own - 1) + i * LF_SUB, old;
	bool own, here;

	if (!data && zero == ALL) {
		set_bit(p->now.own_valid, i, false);
		set_bit(p->now.base_valid, i, false);
		return 0;
	}
	if (!data && !zero && !lf_bit(copy, i))
		return 0;
	old = source(l->fs, k, i, &own);
	here = old == to;
	if (!data && !old) /* zeroes on zeroes */
		return 0;
	set_bit(p->now.own_valid, i, true);
	return fill_sub(
		l, tx, i, here ? zero & (uint8_t)~data : (uint8_t)~data, zero, here ? 0 : old, to);
}

static bool any_data(const struct cover *c)
{
	for (unsigned i = c->from; i < c->to; i++)
		if (c->data[i] || (c->zero[i] && c->zero[i] != ALL))
			return true;
	return false;
}

/* Of sub-blocks that were let go, what they are called among what is vouched for. */
#define GONE (1ull << 62)

/* In a transaction. Sub-blocks that become free inside of blocks that stay: until that is durable a power cut may bring them back. */
static void note_gone(struct lf *fs, const struct lf_entry *old, const struct lf_entry *now)
{
	const uint32_t ref[] = {old->own, old->base};
	const uint64_t *map[] = {old->own_valid, old->base_valid};

	for (unsigned r = 0; r < 2; r++) {
		if (!ref[r] || (ref[r] != now->own && ref[r] != now->base))
			continue;
		for (unsigned i = 0; i < LF_SUBS; i++) {
			bool stays = (ref[r] == now->own && lf_bit(now->own_valid, i)) ||
				     (ref[r] == now->base && lf_bit(now->base_valid, i));

			if (lf_bit(map[r], i) && !stays &&
				lf_fresh_put(fs, GONE | ((ref[r] - 1ull) * LF_SUBS + i)))
				fs->failed = fs->failed ?: -ENOMEM;
		}
	}
}

/* What is written where a sub-block was that a power cut may bring back changes the disk: that has to be recorded before. */
static bool over_gone(struct lf_disk *l, uint64_t off, uint64_t len, uint64_t addr)
{
	uint64_t first = (addr - l->fs->s.data_at) / LF_SUB,
		 last = (addr - l->fs->s.data_at + len - 1) / LF_SUB;

	for (uint64_t i = first; i <= last; i++)
		if (lf_fresh_seq(l->fs, GONE | i) > l->fs->flushed)
			return !lf_track_has(l, off, len);
	return false;
}

/* A block that was taken has no checksums that count. */
static int want_place(struct lf_disk *l, const struct plan *p, uint64_t addr, uint64_t len)
{
	if (!l->fs->sums || p->taken || lf_sums_clear_of(l->fs, addr, len))
		return 0;
	return WANT_RECORD;
}

static int plan_places(struct lf_disk *l, struct sorter_tx *tx, const struct plan *p)
{
	int wait = 0;

	for (unsigned i = 0; i < tx->n; i++) {
		struct sorter_elem *el = &tx->elem[i];

		el->file = el->kind == SORT_DATA ? l->fs->f : NULL;
		el->addr = p->now.own ? lf_block_at(l->fs, p->now.own - 1) + el->off % LF_BLOCK : 0;
		if (el->kind != SORT_DATA)
			continue;
		wait |= lf_overwrites(l->fs, el->addr, el->len);
		wait |= l->track && over_gone(l, el->off, el->len, el->addr);
		wait |= want_place(l, p, el->addr, el->len);
	}
	for (unsigned i = 0; i < tx->nfill; i++) {
		const struct sorter_fill *f = &tx->fill[i];

		wait |= lf_overwrites(l->fs, f->addr, f->len);
		wait |= l->track && over_gone(l, f->off, f->len, f->addr);
		wait |= want_place(l, p, f->addr, f->len);
	}
	return wait;
}

static void plan_drop(struct lf *fs, struct plan *p)
{
	if (p->taken)
		lf_release(fs, p->taken - 1);
	lf_unreserve(fs, p->pages);
	free(p);
}

/* WANT_*: that has to come first. */
static int plan_make(struct lf_disk *l, struct sorter_tx *tx, struct plan *p, struct lacks *lacks)
{
	uint64_t copy[4] = {0};
	struct cover c;
	struct look k;
	bool data;
	int rc = l->fs->failed;

	if (!rc && !here(l, tx->block))
		rc = WANT_PAGES;
	if (rc)
		return rc;
	cover(&c, tx);
	data = any_data(&c);
	*lacks = (struct lacks){.pages = l->rec->height + 1u + lf_track_pages(l),
		.spare = data ? LF_PAGES_SPARE : 0};
	rc = lf_reserve_now(l->fs, lacks->pages, lacks->spare);
	if (rc)
		return rc == -EAGAIN ? WANT_ROOM : rc;
	p->pages = lacks->pages;
	look_at(l, tx->block, &k);
	p->now = k.e;
	if (data)
		rc = choose_own(l, tx, &k, p, copy);
	if (!rc && p->taken && !lf_room_has_sums(l->fs, p->taken - 1)) {
		*lacks = (struct lacks){.block = p->taken};
		return WANT_ROOM;
	}
	/*
	 * Writes inside a file can go on side by side, those that make it longer cannot. One alone, as all those are that lie in one block, is
	 * better off at the end: what it writes into a hole ext4 converts behind it, in a thread that has to get a processor first.
	 */
	if (!rc && p->now.own && tx->batch->ntx > 2)
		lf_reach_over(l->fs, p->now.own - 1);
	if (!lf_none(copy)) {
		c.from = 0;
		c.to = LF_SUBS;
	}
	for (unsigned i = c.from; i < c.to && !rc; i++)
		rc = plan_sub(l, tx, &k, &c, copy, i, p);
	if (rc)
		return rc;
	rc = plan_places(l, tx, p);
	tidy(&p->now);
	p->change = memcmp(&p->now, &k.e, sizeof(k.e));
	return rc;
}

/* *want: the places, where WANT_RECORD is the answer; or NULL. */
static int prepare_once(
	struct lf_disk *l, struct sorter_tx *tx, struct lf_sum_want *want, struct lacks *lacks)
{
	struct plan *p = calloc(1, sizeof(*p));
	int rc = p ? plan_make(l, tx, p, lacks) : -ENOMEM;

	for (unsigned i = 0; want && rc > 0 && rc & WANT_RECORD && i < tx->n; i++)
		if (tx->elem[i].kind == SORT_DATA)
			lf_sums_want(l->fs, want, tx->elem[i].addr, tx->elem[i].len);
	for (unsigned i = 0; want && rc > 0 && rc & WANT_RECORD && i < tx->nfill; i++)
		lf_sums_want(l->fs, want, tx->fill[i].addr, tx->fill[i].len);
	if (rc && p) {
		plan_drop(l->fs, p);
		p = NULL;
		tx->nfill = 0;
	}
	tx->priv = p;
	return rc;
}

/* What was let go may be there in a while. */
static bool space_comes(const struct lf *fs)
{
	return fs->freed || fs->punching || fs->ready.busy;
}

static int make_room(struct lf *fs, const struct lacks *lacks)
{
	int rc;

	if (lacks->block)
		return lf_room_sums(fs, lacks->block - 1);
	rc = lf_reserve(fs, lacks->pages, lacks->spare);
	if (!rc)
		lf_unreserve(fs, lacks->pages);
	return rc;
}

static int prepare_wait(struct job *j)
{
	struct lf *fs = j->l->fs;
	struct lf_ahead a = {.l = j->l};
	int want = j->rc;

	/* It changes between two looks: which places it needs is asked right before. */
	if (want & WANT_RECORD)
		j->rc = prepare_once(j->l, j->tx, &a.want, &j->lacks);
	if (j->rc <= 0)
		return j->rc;
	return want & WANT_PAGES    ? lf_bring_both(fs, j->l->rec, j->l->track, j->tx->block)
	       : want & WANT_ROOM   ? make_room(fs, &j->lacks)
	       : want & WANT_RECORD ? lf_track_ahead(&a)
				    : lf_mark(fs);
}

static void prepare_job(void *arg)
{
	struct job *j = arg;
	struct lf *fs = j->l->fs;
	bool full = false;

	for (;;) {
		/*
		 * Space that was freed is there again when that is durable and its readers are gone; and the host has got it, or not begun to. So is a block that
		 * is being made ready.
		 */
		if (j->rc == -ENOSPC && !full && space_comes(fs)) {
			full = true;
			j->rc = WANT_MARK;
		}
		if (j->rc <= 0)
			return;
		j->rc = prepare_wait(j);
		if (full)
			lf_space(fs);
		if (!j->rc && !j->tx->priv)
			j->rc = prepare_once(j->l, j->tx, NULL, &j->lacks);
	}
}

static void prepare_after(void *arg)
{
	struct job *j = arg;
	struct sorter_tx *tx = j->tx;
	int rc = j->rc;

	free(j);
	sorter_prepared(tx, rc);
}

static void prepare(void *ctx, struct sorter_tx *tx)
{
	struct lf_disk *l = ctx;
	struct lacks lacks;
	int rc = prepare_once(l, tx, NULL, &lacks);
	struct job *j;

	if (rc > 0 || (rc == -ENOSPC && space_comes(l->fs))) {
		j = job_make(l);
		if (j) {
			j->tx = tx;
			j->rc = rc;
			j->lacks = lacks;
			lf_start_job(l->fs, prepare_job, prepare_after, j);
			return;
		}
		rc = -ENOMEM;
	}
	sorter_prepared(tx, rc);
}

static void abort_tx(void *ctx, struct sorter_tx *tx)
{
	struct lf_disk *l = ctx;

	if (tx->priv)
		plan_drop(l->fs, tx->priv);
	tx->priv = NULL;
}

struct filling {
	struct lf_disk *l;
	struct sorter_fill *f;
	int rc;
};

/* Damage must not get a good checksum by being copied. */
static void fill_job(void *arg)
{
	struct filling *x = arg;
	struct sorter_fill *f = x->f;
	uint64_t from = align_down(f->tag, LF_SUB), to = align_up(f->tag + f->len, LF_SUB), bad;
	cleanup(free_ptr) uint8_t *buf = NULL;

	x->rc = posix_memalign((void **)&buf, LF_PAGE, to - from) ? -ENOMEM : -EBADMSG;
	for (unsigned try = 0; try < 3 && x->rc == -EBADMSG; try++) {
		x->rc = lf_io(x->l->fs, FILE_READ, from, buf, to - from);
		x->rc = x->rc ?: lf_sums_verify(x->l->fs, from, buf, to - from, &bad);
	}
	if (x->rc == -EBADMSG) {
		x->l->fs->stats.sum_errors++;
		x->rc = -EIO;
	}
	if (!x->rc)
		memcpy(f->buf, buf + (f->tag - from), f->len);
}

static void fill_after(void *arg)
{
	struct filling x = *(struct filling *)arg;

	free(arg);
	sorter_filled(x.f, x.rc);
}

static void read_proved(struct lf_disk *l, struct sorter_fill *f)
{
	struct filling *x = calloc(1, sizeof(*x));

	if (!x) {
		sorter_filled(f, -ENOMEM);
		return;
	}
	*x = (struct filling){.l = l, .f = f, .rc = -ENOMEM};
	lf_start_job(l->fs, fill_job, fill_after, x);
}

static void read_old(void *ctx, struct sorter_fill *f)
{
	struct lf_disk *l = ctx;

	if (l->fs->sums)
		read_proved(l, f);
	else
		sorter_fill_from(f, l->fs->f, f->tag);
}

/* ---- commit ---- */

static uint32_t crc_zeroes(uint64_t len)
{
	static const uint8_t zeroes[LF_SUB];
	uint32_t c = 0;

	for (uint64_t n; len; len -= n) {
		n = MIN(len, sizeof(zeroes));
		c = crc32c(c, zeroes, n);
	}
	return c;
}

/* *all: of all data. */
static unsigned put_checks(const struct sorter_tx *tx, struct lf_rec_check *out, bool *all)
{
	unsigned n = 0;

	for (unsigned i = 0; i < tx->n; i++) {
		const struct sorter_elem *el = &tx->elem[i];

		if (el->kind == SORT_DATA && sorter_copied(el))
			out[n++] = (struct lf_rec_check){el->addr, (uint32_t)el->len,
				crc32c(0, el->copied.iov_base, el->len)};
		else if (el->kind == SORT_DATA)
			*all = false;
	}
	for (unsigned i = 0; i < tx->nfill; i++) {
		const struct sorter_fill *f = &tx->fill[i];

		out[n++] = (struct lf_rec_check){f->addr, (uint32_t)f->len,
			f->copy ? crc32c(0, f->buf, f->len) : crc_zeroes(f->len)};
	}
	return n;
}

static void change_entry(struct lf_disk *l, struct sorter_tx *tx)
{
	struct plan *p = tx->priv;
	const struct lf_entry *old;
	bool own;

	if (p->change && l->fs->sums) {
		static const struct lf_entry none;
		int rc;

		old = lf_find(l->fs, l->rec, tx->block, &own);
		rc = lf_sums_put(l->fs, tx, old ?: &none, &p->now, p->taken);
		if (rc)
			l->fs->failed = l->fs->failed ?: rc;
	}
	old = p->change && l->track ? lf_find(l->fs, l->rec, tx->block, &own) : NULL;
	if (old)
		note_gone(l->fs, old, &p->now);
	if (p->change)
		lf_set_entry(l->fs, l->rec, tx->block, &p->now);
	for (unsigned i = 0; l->track && i < tx->n; i++)
		lf_track_set(l, tx->elem[i].off, tx->elem[i].len);
	lf_ready_note(l, tx, &p->now, p->taken);
	plan_drop(l->fs, p);
	tx->priv = NULL;
}

/* With the lock: the pages that the batch changes are in memory from here on, so that nothing fails half way. */
static int pin_all(struct lf_disk *l, const struct sorter_batch *b, struct lf_pins *pins)
{
	int rc = 0;

	for (const struct sorter_tx *tx = b->first; tx && !rc; tx = tx->next) {
		const struct plan *p = tx->priv;
		struct lf_sums *s;

		rc = pin(l, tx->block, pins);
		if (rc || !l->fs->sums || !p->change || !p->now.own)
			continue;
		rc = lf_sums_get(l->fs, (p->now.own - 1ull) * LF_SUBS, &s);
		rc = rc ?: lf_pins_add(l->fs, pins, s->page);
	}
	return rc;
}

/* How many leaves of `entries` MiB each the batch's blocks lie in, at most. */
static unsigned leaves_of(const struct sorter_batch *b, unsigned entries)
{
	uint64_t last = UINT64_MAX;
	unsigned n = 0;

	for (const struct sorter_tx *tx = b->first; tx; tx = tx->next) {
		n += tx->block / entries != last;
		last = tx->block / entries;
	}
	return n;
}

/*
 * How many pages the batch changes, at most: the ways to its leaves, the records of the disk and of its changes, the bitmap (blocks that are taken, let
 * go, and taken for pages), and a page of checksums for each block.
 */
static unsigned pages_of(const struct lf_disk *l, const struct sorter_batch *b)
{
	unsigned n = leaves_of(b, LF_LEAF_ENTRIES) * (l->rec->height + 1u) + 2;

	if (l->track)
		n += leaves_of(b, LF_TRACK_ENTRIES) * lf_track_pages(l);
	return n + (unsigned)MIN(4ull * b->ntx, l->fs->s.bitmap_pages) + (l->fs->sums ? b->ntx : 0);
}

static int commit_batch(struct lf_disk *l, struct sorter_batch *b)
{
	cleanup(free_ptr) struct lf_rec_check *checks = NULL;
	cleanup(lf_pins_drop) struct lf_pins pins = {0};
	struct lf *fs = l->fs;
	bool all = true;
	uint64_t need, bytes;
	unsigned n = 0;
	int rc;

	for (struct sorter_tx *tx = b->first; tx; tx = tx->next)
		n += tx->n + tx->nfill;
	checks = malloc(MAX(n, 1u) * sizeof(*checks));
	need = lf_need(pages_of(l, b)) + n * sizeof(*checks);
	rc = !checks ? -ENOMEM : l->late ? lf_join(fs, need) : lf_begin(fs, need);
	if (!rc) {
		/* Others may have failed meanwhile. From here on nobody waits. */
		rc = pin_all(l, b, &pins) ?: fs->failed;
		if (rc)
			co_unlock(&fs->lock);
	}
	for (struct sorter_tx *tx = b->first; rc && tx; tx = tx->next)
		abort_tx(l, tx);
	if (rc)
		return rc;
	n = 0;
	fs->by = l->sorter;
	for (struct sorter_tx *tx = b->first; tx; tx = tx->next) {
		n += put_checks(tx, checks + n, &all);
		change_entry(l, tx);
	}
	bytes = fs->stats.journal_bytes;
	fs->ordered |= !all;
	rc = l->late ? lf_leave(fs, checks, n) : lf_end(fs, checks, n);
	sorter_account(l->sorter, fs->stats.journal_bytes - bytes, 0, 0, 0);
	return rc;
}

static void commit_job(void *arg)
{
	struct job *j = arg;

	j->rc = commit_batch(j->l, j->batch);
}

static void commit_after(void *arg)
{
	struct job *j = arg;
	struct sorter_batch *b = j->batch;
	int rc = j->rc;

	free(j);
	sorter_committed(b, rc);
}

static void commit(void *ctx, struct sorter_batch *b)
{
	struct lf_disk *l = ctx;
	struct job *j = job_make(l);

	if (j) {
		j->batch = b;
		lf_start_job(l->fs, commit_job, commit_after, j);
		return;
	}
	for (struct sorter_tx *tx = b->first; tx; tx = tx->next)
		abort_tx(l, tx);
	sorter_committed(b, -ENOMEM);
}

static uint64_t skip(void *ctx, uint64_t off, uint64_t len)
{
	struct lf_disk *l = ctx;
	uint64_t done = 0, addr;
	bool own;

	while (done < len && lf_here(l->fs, l->rec, (off + done) / LF_BLOCK)) {
		uint64_t n = lf_map(l->fs, l->rec, off + done, len - done, &addr, &own);

		if (addr)
			break;
		done += n;
	}
	/* Whole blocks: the sorter goes on from there. */
	return done < len ? align_down(off + done, LF_BLOCK) > off
				    ? align_down(off + done, LF_BLOCK) - off
				    : 0
			  : done;
}

static const struct sorter_ops ops = {.resolve = resolve,
	.prepare = prepare,
	.read_old = read_old,
	.commit = commit,
	.abort = abort_tx,
	.skip = skip};

int lf_writer_create(struct lf_disk *l, bool one_by_one, struct err *e)
{
	/* Two of the largest batches have to fit into the journal. */
	uint64_t txs = l->fs->s.journal_bytes / 4 /
		       (lf_need(2 * LF_HEIGHT_MAX + 6) + 2 * LF_BLOCK / SECTOR * 16);
	struct sorter_opts o = {.disk = l->d,
		.block_size = LF_BLOCK,
		.ops = &ops,
		.ctx = l,
		.stable = l->late && !l->fs->sums ? LF_CHECKED : UINT64_MAX,
		.one_by_one = one_by_one,
		.early = !l->late,
		.max_txs = (unsigned)MAX(1ull, MIN(txs, 256ull))};

	return sorter_create(&l->sorter, &o, e);
}
