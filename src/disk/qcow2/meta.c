/* meta.c: L2 tables and refcount blocks in memory, and the transaction that writes them (order: qcow2.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/util.h"
#include "disk/qcow2/qcow2.h"

#define FREES_MAX 256u /* runs of clusters */

/* ---- sets of numbers ---- */

static uint64_t mix(uint64_t v)
{
	return (v ^ v >> 29) * 0x9e3779b97f4a7c15ull >> 20;
}

static uint64_t slot_of(const struct q_set *s, uint64_t v)
{
	uint64_t i = mix(v) & (s->size - 1);

	while (s->slot[i] && s->slot[i] != v + 1)
		i = (i + 1) & (s->size - 1);
	return i;
}

bool q_set_has(const struct q_set *s, uint64_t v)
{
	return s->size && s->slot[slot_of(s, v)];
}

static int set_grow(struct q_set *s)
{
	struct q_set more = {.size = s->size ? s->size * 2 : 64, .used = s->used};

	more.slot = calloc(more.size, sizeof(*more.slot));
	if (!more.slot)
		return -ENOMEM;
	for (uint64_t i = 0; i < s->size; i++)
		if (s->slot[i])
			more.slot[slot_of(&more, s->slot[i] - 1)] = s->slot[i];
	free(s->slot);
	*s = more;
	return 0;
}

int q_set_add(struct q_set *s, uint64_t v)
{
	uint64_t i;

	if (s->used * 2 >= s->size && set_grow(s))
		return -ENOMEM;
	i = slot_of(s, v);
	if (s->slot[i])
		return 1;
	s->slot[i] = v + 1;
	s->used++;
	return 0;
}

void q_set_del(struct q_set *s, uint64_t v)
{
	uint64_t i, j;

	if (!q_set_has(s, v))
		return;
	i = j = slot_of(s, v);
	s->slot[i] = 0;
	s->used--;
	/* What was pushed behind it moves up. */
	for (;;) {
		uint64_t home;

		j = (j + 1) & (s->size - 1);
		if (!s->slot[j])
			return;
		home = mix(s->slot[j] - 1) & (s->size - 1);
		if (((j - home) & (s->size - 1)) >= ((j - i) & (s->size - 1))) {
			s->slot[i] = s->slot[j];
			s->slot[j] = 0;
			i = j;
		}
	}
}

int q_frees_add(struct q_frees *f, uint64_t cluster, uint64_t n, bool punch)
{
	struct q_free *last = f->n ? &f->a[f->n - 1] : NULL;

	if (last && last->cluster + last->n == cluster && last->punch == punch) {
		last->n += n;
		return 0;
	}
	if (f->n == f->cap) {
		size_t cap = f->cap ? f->cap * 2 : 16;
		struct q_free *a = realloc(f->a, cap * sizeof(*a));

		if (!a)
			return -ENOMEM;
		f->a = a;
		f->cap = cap;
	}
	f->a[f->n++] = (struct q_free){cluster, n, punch};
	return 0;
}

int q_frees_append(struct q_frees *to, struct q_frees *from)
{
	int rc = 0;

	for (size_t i = 0; i < from->n; i++)
		rc = q_frees_add(to, from->a[i].cluster, from->a[i].n, from->a[i].punch) ?: rc;
	free(from->a);
	*from = (struct q_frees){0};
	return rc;
}

/* ---- cache ---- */

static uint64_t slice_size(const struct qcow2 *q)
{
	return 1ull << q->slice_bits;
}

static uint64_t grain(const struct qcow2 *q)
{
	return MIN(slice_size(q), (uint64_t)Q_GRAIN);
}

int q_cache_init(struct qcow2 *q)
{
	struct q_cache *c = &q->cache;

	c->max = Q_CACHE_BYTES >> q->slice_bits;
	while (1u << c->hash_bits < c->max)
		c->hash_bits++;
	c->hash = calloc(1u << c->hash_bits, sizeof(*c->hash));
	list_init(&c->lru);
	list_init(&c->changed);
	return c->hash ? 0 : -ENOMEM;
}

static struct q_slice **bucket(struct qcow2 *q, uint64_t off)
{
	return &q->cache.hash[mix(off >> q->slice_bits) & ((1u << q->cache.hash_bits) - 1)];
}

static void unhash(struct qcow2 *q, struct q_slice *s)
{
	struct q_slice **p = bucket(q, s->off);

	while (*p && *p != s)
		p = &(*p)->hnext;
	if (*p)
		*p = s->hnext;
	list_del(&s->lru);
	list_del(&s->changed);
	q->cache.count--;
	if (s->dirty)
		q->cache.dirty_bytes -= (uint64_t)__builtin_popcount(s->dirty) * grain(q);
	s->dirty = 0;
	s->dead = true;
}

static void slice_free(struct q_slice *s)
{
	free(s->data);
	free(s);
}

void q_cache_free(struct qcow2 *q)
{
	struct q_cache *c = &q->cache;

	if (!c->hash)
		return;
	list_for_each_safe (it, tmp, &c->lru)
		slice_free(list_entry(it, struct q_slice, lru));
	free(c->hash);
	c->hash = NULL;
}

/* The cache may grow beyond its size while everything in it is in use or dirty: a transaction is started before that is much. */
static void evict(struct qcow2 *q)
{
	struct q_cache *c = &q->cache;

	if (c->count < c->max)
		return;
	list_for_each_safe (it, tmp, &c->lru) {
		struct q_slice *s = list_entry(it, struct q_slice, lru);

		if (s->pins || s->dirty || s->writing)
			continue;
		unhash(q, s);
		slice_free(s);
		if (c->count < c->max)
			return;
	}
}

static struct q_slice *find(struct qcow2 *q, uint64_t off)
{
	struct q_slice *s = *bucket(q, off);

	while (s && s->off != off)
		s = s->hnext;
	return s;
}

static struct q_slice *take(struct qcow2 *q, struct q_slice *s)
{
	s->pins++;
	list_del(&s->lru);
	list_add_tail(&q->cache.lru, &s->lru);
	q->stats.cache_hits++;
	return s;
}

struct q_slice *q_slice_try(struct qcow2 *q, uint64_t off)
{
	struct q_slice *s = find(q, align_down(off, slice_size(q)));

	return s && !s->loading ? take(q, s) : NULL;
}

void q_slice_put(struct q_slice *s)
{
	if (s && !--s->pins && s->dead)
		slice_free(s);
}

static struct q_slice *insert(struct qcow2 *q, enum q_kind kind, uint64_t off)
{
	struct q_slice *s = calloc(1, sizeof(*s)), **b = bucket(q, off);

	if (!s)
		return NULL;
	s->data = malloc(slice_size(q));
	if (!s->data) {
		free(s);
		return NULL;
	}
	s->off = off;
	s->kind = kind;
	s->pins = 1;
	list_init(&s->changed);
	s->hnext = *b;
	*b = s;
	list_add_tail(&q->cache.lru, &s->lru);
	q->cache.count++;
	return s;
}

int q_slice_get(struct qcow2 *q, enum q_kind kind, uint64_t off, struct q_slice **out)
{
	struct q_slice *s;
	int rc;

	*out = NULL;
	off = align_down(off, slice_size(q));
	while ((s = find(q, off)) && s->loading) {
		s->pins++;
		q_pause(q, &s->waiters);
		q_slice_put(s);
	}
	if (s) {
		*out = take(q, s);
		return 0;
	}
	evict(q);
	s = insert(q, kind, off);
	if (!s)
		return -ENOMEM;
	q->stats.cache_misses++;
	s->loading = true;
	rc = q_pread(q, q->file, off, s->data, slice_size(q));
	s->loading = false;
	if (rc && !s->dead)
		unhash(q, s);
	co_queue_wake_all(&s->waiters);
	if (rc || s->dead) {
		q_slice_put(s);
		return rc ?: -EAGAIN;
	}
	*out = s;
	return 0;
}

void q_slice_dirty(struct qcow2 *q, struct q_slice *s, uint64_t at, uint64_t len)
{
	uint64_t g = grain(q);

	if (!s->dirty)
		list_add_tail(&q->cache.changed, &s->changed);
	for (uint64_t i = at / g; i <= (at + len - 1) / g; i++) {
		if (!(s->dirty >> i & 1))
			q->cache.dirty_bytes += g;
		s->dirty |= 1u << i;
	}
}

void q_cache_drop(struct qcow2 *q, uint64_t cluster_off)
{
	for (uint64_t off = 0; off < q->cluster_size; off += slice_size(q)) {
		struct q_slice *s = find(q, cluster_off + off);

		if (!s)
			continue;
		unhash(q, s);
		if (!s->pins)
			slice_free(s);
	}
}

void q_cache_clear(struct qcow2 *q)
{
	list_for_each_safe (it, tmp, &q->cache.lru) {
		struct q_slice *s = list_entry(it, struct q_slice, lru);

		unhash(q, s);
		if (!s->pins)
			slice_free(s);
	}
}

/* ---- the transaction ---- */

struct copy {
	struct q_xfer x;
	uint8_t *data;
	uint64_t off, len;
	struct q_slice *s; /* NULL: L1 or refcount table */
	uint32_t mask;
};

enum { PHASE_REFS, PHASE_RT, PHASE_L2, PHASES };

struct tx {
	struct copy *c[PHASES];
	size_t n[PHASES], cap[PHASES];
	struct q_frees frees;
};

static struct copy *add_copy(struct tx *t, unsigned phase, uint64_t off, uint64_t len)
{
	struct copy *c;

	if (t->n[phase] == t->cap[phase]) {
		size_t cap = t->cap[phase] ? t->cap[phase] * 2 : 32;

		c = realloc(t->c[phase], cap * sizeof(*c));
		if (!c)
			return NULL;
		t->c[phase] = c;
		t->cap[phase] = cap;
	}
	c = &t->c[phase][t->n[phase]];
	memset(c, 0, sizeof(*c));
	c->data = malloc(len);
	c->off = off;
	c->len = len;
	if (!c->data)
		return NULL;
	t->n[phase]++;
	return c;
}

static int copy_slice(struct qcow2 *q, struct tx *t, struct q_slice *s)
{
	unsigned phase = s->kind == Q_REFS ? PHASE_REFS : PHASE_L2, i = 0;
	uint64_t g = grain(q);

	while (s->dirty >> i) {
		unsigned n = 1;
		struct copy *c;

		if (!(s->dirty >> i & 1)) {
			i++;
			continue;
		}
		while (i + n < 32 && s->dirty >> (i + n) & 1)
			n++;
		c = add_copy(t, phase, s->off + i * g, n * g);
		if (!c)
			return -ENOMEM;
		memcpy(c->data, s->data + i * g, n * g);
		c->s = s;
		c->mask = (n == 32 ? ~0u : (1u << n) - 1) << i;
		s->pins++;
		s->writing |= c->mask;
		s->dirty &= ~c->mask;
		q->cache.dirty_bytes -= n * g;
		i += n;
		if (i >= 32)
			break;
	}
	list_del(&s->changed);
	return 0;
}

/* Tables that are whole in memory: 64 entries are one sector. */
static int copy_table(struct tx *t, unsigned phase, const uint64_t *table, uint64_t entries,
	uint64_t *dirty, uint64_t off)
{
	uint64_t groups = (entries + 63) / 64;

	for (size_t i = bitmap_next(dirty, groups, 0); i < groups;
		i = bitmap_next(dirty, groups, i)) {
		size_t end = MIN(bitmap_next_clear(dirty, groups, i), i + 128);
		uint64_t first = i * 64, n = MIN(end * 64, entries) - first;
		struct copy *c = add_copy(t, phase, off + first * 8, n * 8);

		if (!c)
			return -ENOMEM;
		for (uint64_t k = 0; k < n; k++)
			put_be64(c->data + k * 8, table[first + k]);
		bitmap_clear_range(dirty, i, end - i);
		i = end;
	}
	return 0;
}

static int collect(struct qcow2 *q, struct tx *t)
{
	int rc = 0;

	list_for_each_safe (it, tmp, &q->cache.changed) {
		rc = copy_slice(q, t, list_entry(it, struct q_slice, changed));
		if (rc)
			break;
	}
	if (!rc)
		rc = copy_table(t, PHASE_RT, q->rt, q->rt_entries, q->rt_dirty, q->h.rt_off);
	if (!rc)
		rc = copy_table(t, PHASE_L2, q->l1, q->h.l1_size, q->l1_dirty, q->h.l1_off);
	t->frees = q->frees;
	q->frees = (struct q_frees){0};
	return rc;
}

static int write_phase(struct qcow2 *q, struct tx *t, unsigned phase)
{
	struct q_wait w = {.q = q};

	for (size_t i = 0; i < t->n[phase]; i++) {
		struct copy *c = &t->c[phase][i];

		c->x.one = (struct iovec){c->data, c->len};
		c->x.req = (struct file_req){.op = FILE_WRITE,
			.off = c->off,
			.len = c->len,
			.iov = &c->x.one,
			.niov = 1};
		q_xfer_start(&w, &c->x, q->file);
		q->stats.meta_writes++;
		q->stats.meta_bytes += c->len;
	}
	return q_wait_all(&w);
}

static int barrier(struct qcow2 *q)
{
	int rc = q_sync(q);

	if (!rc)
		q->behind = false;
	return rc;
}

/*
 * Counts are durable before the entries that need them. Data is durable before its entry only where something else than zeroes would be
 * read in its place. With the dirty bit set counts are made anew after a crash: nothing has to wait for them.
 */
static int write_all(struct qcow2 *q, struct tx *t, bool data_first)
{
	bool l2 = t->n[PHASE_L2], rt = t->n[PHASE_RT];
	int rc;

	if (t->n[PHASE_REFS])
		q->behind = true;
	rc = write_phase(q, t, PHASE_REFS);
	if (!rc && rt && q->behind && !q->dirty_set)
		rc = barrier(q);
	if (!rc && rt) {
		q->behind = true;
		rc = write_phase(q, t, PHASE_RT);
	}
	if (!rc && l2 && (data_first || (q->behind && !q->dirty_set)))
		rc = barrier(q);
	return rc ?: write_phase(q, t, PHASE_L2);
}

static void mark_table(uint64_t *dirty, uint64_t table, const struct copy *c)
{
	bitmap_set_range(dirty, (c->off - table) / 512, (c->len + 511) / 512);
}

/* What was not written is dirty again; in any case the copies go. */
static void settle(struct qcow2 *q, struct tx *t, bool failed)
{
	for (unsigned phase = 0; phase < PHASES; phase++) {
		for (size_t i = 0; i < t->n[phase]; i++) {
			struct copy *c = &t->c[phase][i];

			free(c->data);
			if (!c->s) {
				if (failed && phase == PHASE_RT)
					mark_table(q->rt_dirty, q->h.rt_off, c);
				else if (failed)
					mark_table(q->l1_dirty, q->h.l1_off, c);
				continue;
			}
			c->s->writing &= ~c->mask;
			if (failed && !c->s->dead)
				q_slice_dirty(q, c->s, c->off - c->s->off, c->len);
			q_slice_put(c->s);
		}
		free(t->c[phase]);
	}
}

/* Clusters that were allocated and not written (they are to read as zeroes) lie in the file when something refers to them. */
static int cover_end(struct qcow2 *q, bool *longer)
{
	if (q->zero_from == UINT64_MAX || q->zero_from <= q->file->size)
		return 0;
	*longer = true;
	return file_truncate(q->file, q->zero_from, NULL);
}

/* Under `commit`. */
static int transaction(struct qcow2 *q)
{
	bool any, data_first = q->data_first;
	struct tx t = {.frees = {0}};
	int rc;

	rc = collect(q, &t);
	any = t.n[PHASE_REFS] || t.n[PHASE_RT] || t.n[PHASE_L2];
	q->unlinked = false;
	if (t.n[PHASE_L2])
		q->data_first = false;
	if (!rc && t.n[PHASE_L2])
		rc = cover_end(q, &data_first);
	rc = rc ?: write_all(q, &t, data_first);
	settle(q, &t, rc);
	q->link_failed = rc;
	if (rc) {
		q->data_first = q->unlinked = true;
		(void)q_frees_append(&q->frees, &t.frees);
		return rc;
	}
	q->stats.transactions += any;
	return q_frees_append(&q->unflushed, &t.frees);
}

void q_lock(struct qcow2 *q, struct co_mutex *m)
{
	if (co_self(&q->cs)) {
		co_lock(&q->cs, m);
		return;
	}
	while (m->held)
		files_drain(q->d->files);
	m->held = true;
}

int q_link(struct qcow2 *q)
{
	int rc;

	q_lock(q, &q->commit);
	rc = transaction(q);
	co_unlock(&q->commit);
	return rc;
}

/* While the medium works transactions go on: they are of the next flush. */
static int flush(struct qcow2 *q)
{
	uint64_t number = ++q->commit_begun;
	struct q_frees frees;
	int rc;

	q_count_flush(q);
	q_lock(q, &q->commit);
	rc = transaction(q);
	frees = q->unflushed;
	q->unflushed = (struct q_frees){0};
	co_unlock(&q->commit);
	q->stats.flushes++;
	rc = rc ?: q_sync(q);
	if (rc) {
		(void)q_frees_append(&q->unflushed, &frees);
		return rc;
	}
	q->commit_good = number;
	q_quarantine(q, &frees);
	return 0;
}

int q_commit(struct qcow2 *q)
{
	uint64_t ticket = q->commit_begun;
	int rc = 0;

	q_lock(q, &q->flush);
	/* One that began after we came has everything that we want. */
	if (q->commit_good <= ticket)
		rc = flush(q);
	co_unlock(&q->flush);
	return rc;
}

bool q_frees_wait(const struct qcow2 *q)
{
	return q->unflushed.n > FREES_MAX;
}

bool q_meta_dirty(const struct qcow2 *q)
{
	return q->cache.dirty_bytes || q->frees.n || q->unflushed.n || q->idle.n ||
	       q->reserve.at != q->reserve.end ||
	       bitmap_count(q->l1_dirty, (q->h.l1_size + 63) / 64) ||
	       bitmap_count(q->rt_dirty, (q->rt_entries + 63) / 64);
}

int q_settle(struct qcow2 *q)
{
	int rc = 0;

	while (q_meta_dirty(q) && !rc) {
		rc = q_commit(q);
		q_lock(q, &q->meta);
		rc = rc ?: q_reserve_return(q);
		rc = rc ?: q_reap(q);
		q_unlock(&q->meta);
	}
	return rc;
}

/* ---- the header ---- */

int q_header_field(struct qcow2 *q, unsigned at, uint64_t value, unsigned bytes)
{
	uint8_t b[8];

	if (bytes == 4)
		put_be32(b, (uint32_t)value);
	else
		put_be64(b, value);
	return q_pwrite(q, q->file, at, b, bytes);
}

int q_header_switch(struct qcow2 *q, unsigned at, const void *field, unsigned bytes)
{
	uint8_t was[QCOW2_AT_INCOMPATIBLE - QCOW2_AT_SIZE] = {0};
	int rc = q_pwrite(q, q->file, at, field, bytes) ?: q_sync(q);

	if (!rc)
		return 0;
	put_be64(was, q->h.size);
	put_be32(was + (QCOW2_AT_L1_SIZE - QCOW2_AT_SIZE), q->h.l1_size);
	put_be64(was + (QCOW2_AT_L1 - QCOW2_AT_SIZE), q->h.l1_off);
	put_be64(was + (QCOW2_AT_RT - QCOW2_AT_SIZE), q->h.rt_off);
	put_be32(was + (QCOW2_AT_RT_CLUSTERS - QCOW2_AT_SIZE), q->h.rt_clusters);
	put_be32(was + (QCOW2_AT_NB_SNAPSHOTS - QCOW2_AT_SIZE), q->h.nb_snapshots);
	put_be64(was + (QCOW2_AT_SNAPSHOTS - QCOW2_AT_SIZE), q->h.snapshots_off);
	if (q_pwrite(q, q->file, QCOW2_AT_SIZE, was, sizeof(was)) || q_sync(q))
		q->corrupt = true;
	return rc;
}

int q_set_incompatible(struct qcow2 *q, uint64_t set, uint64_t clear)
{
	uint64_t v = (q->h.incompatible | set) & ~clear;
	int rc;

	if (v == q->h.incompatible || !q->v3)
		return 0;
	rc = q_header_field(q, QCOW2_AT_INCOMPATIBLE, v, 8);
	rc = rc ?: q_sync(q);
	if (!rc)
		q->h.incompatible = v;
	return rc;
}

static void mark_corrupt(void *arg)
{
	struct qcow2 *q = arg;

	q_set_incompatible(q, QCOW2_CORRUPT, 0);
}

static void job_after(void *arg)
{
	((struct qcow2 *)arg)->jobs--;
}

int q_damaged(struct qcow2 *q)
{
	if (!q->corrupt && q->writable) {
		q->jobs++;
		if (co_start(&q->cs, mark_corrupt, job_after, q))
			q->jobs--;
	}
	q->corrupt = true;
	return -EIO;
}
