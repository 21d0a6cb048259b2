/* refcount.c: which clusters of the file are in use, and finding free ones. All of it under q->meta. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/util.h"
#include "disk/qcow2/qcow2.h"

#define RESERVE_FIRST 16ull /* clusters */
#define RESERVE_MAX 4096ull
#define RESERVE_BYTES (256ull << 20)
#define AHEAD_BYTES (1ull << 20)

uint64_t q_refcount_in(const void *block, unsigned order, uint64_t i)
{
	const uint8_t *p = block;

	switch (order) {
	case 0:
	case 1:
	case 2: {
		unsigned bits = 1u << order, per = 8 / bits;

		return p[i / per] >> (i % per * bits) & ((1u << bits) - 1);
	}
	case 3:
		return p[i];
	case 4:
		return get_be16(p + i * 2);
	case 5:
		return get_be32(p + i * 4);
	default:
		return get_be64(p + i * 8);
	}
}

void q_refcount_put(void *block, unsigned order, uint64_t i, uint64_t v)
{
	uint8_t *p = block;

	switch (order) {
	case 0:
	case 1:
	case 2: {
		unsigned bits = 1u << order, per = 8 / bits, shift = (unsigned)(i % per) * bits;
		uint8_t mask = (uint8_t)(((1u << bits) - 1) << shift);

		p[i / per] = (uint8_t)((p[i / per] & ~mask) | (uint8_t)(v << shift));
		return;
	}
	case 3:
		p[i] = (uint8_t)v;
		return;
	case 4:
		put_be16(p + i * 2, (uint16_t)v);
		return;
	case 5:
		put_be32(p + i * 4, (uint32_t)v);
		return;
	default:
		put_be64(p + i * 8, v);
	}
}

/* Where counts stand: a slice, the number in it of the cluster's count, and how many follow in the slice. */
struct counts {
	struct q_slice *s;
	uint64_t i, left;
};

static uint64_t per_slice(const struct qcow2 *q)
{
	return 8ull << q->slice_bits >> q->h.refcount_order;
}

/* 1: there is no block for it. */
static int counts_get(struct qcow2 *q, uint64_t cluster, struct counts *k)
{
	uint64_t rti = cluster >> q->rb_bits, in = cluster & ((1ull << q->rb_bits) - 1);
	uint64_t per = per_slice(q);
	int rc;

	k->s = NULL;
	if (rti >= q->rt_entries || !q->rt[rti])
		return 1;
	k->i = in % per;
	k->left = per - k->i;
	rc = q_slice_get(q, Q_REFS, q->rt[rti] + (in / per << q->slice_bits), &k->s);
	return rc;
}

static uint64_t count_of(const struct qcow2 *q, const struct counts *k, uint64_t i)
{
	return q_refcount_in(k->s->data, q->h.refcount_order, k->i + i);
}

static void set_counts(struct qcow2 *q, struct counts *k, uint64_t n, uint64_t v)
{
	unsigned order = q->h.refcount_order;
	uint64_t first = k->i << order >> 3, last = (k->i + n - 1) << order >> 3;

	for (uint64_t i = 0; i < n; i++)
		q_refcount_put(k->s->data, order, k->i + i, v);
	q_slice_dirty(q, k->s, first, last - first + 1);
}

int q_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *out)
{
	struct counts k;
	int rc = counts_get(q, cluster, &k);

	*out = 0;
	if (rc)
		return rc < 0 ? rc : 0;
	*out = count_of(q, &k, 0);
	q_slice_put(k.s);
	return 0;
}

int q_refcount_add(struct qcow2 *q, uint64_t cluster, uint64_t n, int delta)
{
	while (n) {
		struct counts k;
		int rc = counts_get(q, cluster, &k);
		uint64_t v;

		if (rc)
			return rc < 0 ? rc : q_damaged(q);
		v = count_of(q, &k, 0);
		if (delta < 0 ? v < (uint64_t)-delta : v > q->refcount_max - (uint64_t)delta) {
			q_slice_put(k.s);
			return delta < 0 ? q_damaged(q) : -EOVERFLOW;
		}
		v += (uint64_t)(int64_t)delta;
		set_counts(q, &k, 1, v);
		q_slice_put(k.s);
		if (!v) {
			/* A table may have been there, and another may come. */
			q_cache_drop(q, cluster << q->cluster_bits);
			q->free_at = MIN(q->free_at, cluster);
			q->stats.freed++;
			if (q->packed_at && (q->packed_end - 1) >> q->cluster_bits == cluster)
				q->packed_at = q->packed_end = 0;
		}
		cluster++;
		n--;
	}
	return 0;
}

/* ---- making room for counts ---- */

/* Where c is counted that will be block `rti`, at `host`, which the table does not name yet. */
static int counts_home(struct qcow2 *q, uint64_t rti, uint64_t c, uint64_t host, struct counts *k)
{
	uint64_t in = c & ((1ull << q->rb_bits) - 1), per = per_slice(q);
	int rc;

	if (c >> q->rb_bits != rti) {
		rc = counts_get(q, c, k);
		return rc > 0 ? -EIO : rc;
	}
	k->i = in % per;
	k->left = per - k->i;
	return q_slice_get(q, Q_REFS, host + (in / per << q->slice_bits), &k->s);
}

/* Takes cluster c, which is free, for block `rti`. It is counted in that block, or in another that is there. */
static int make_block(struct qcow2 *q, uint64_t rti, uint64_t c)
{
	uint64_t host = c << q->cluster_bits;
	struct counts k;
	int rc = 0;

	if (q_set_has(&q->meta_set, c))
		return q_damaged(q);
	if (host < q->zero_from)
		rc = q_make_zero(q, q->file, host, q->cluster_size, false);
	if (rc)
		return rc;
	if (q->zero_from != UINT64_MAX)
		q->zero_from = MAX(q->zero_from, host + q->cluster_size);
	q_cache_drop(q, host);
	if (q_set_add(&q->meta_set, c) < 0)
		return -ENOMEM;
	rc = counts_home(q, rti, c, host, &k);
	if (rc) {
		q_set_del(&q->meta_set, c);
		return rc;
	}
	/* Both without waiting in between: a transaction would write one without the other. */
	q->rt[rti] = host;
	bitmap_set(q->rt_dirty, rti / 64);
	set_counts(q, &k, 1, 1);
	q_slice_put(k.s);
	return 0;
}

/*
 * A longer refcount table. It and the blocks that count it lie together behind all clusters that the old one can count, so that
 * nothing of the old state is touched until the header, in one sector, names the new table.
 */
struct grow {
	uint64_t start, clusters, entries, blocks;
	uint64_t *rt;
	uint64_t *dirty;
	uint8_t *buf;
};

static int grow_plan(const struct qcow2 *q, struct grow *g, uint64_t cluster)
{
	uint64_t per = 1ull << q->rb_bits, per_cluster = q->cluster_size / 8;
	uint64_t most = QCOW2_RT_MAX >> q->cluster_bits;

	g->start = q->rt_entries << q->rb_bits;
	g->clusters = q->h.rt_clusters;
	do {
		if (g->clusters >= most)
			return -EFBIG;
		g->clusters = MIN(g->clusters + g->clusters / 2 + 1, most);
		g->blocks = 1;
		while (g->blocks * per < g->clusters + g->blocks)
			g->blocks++;
		g->entries = g->clusters * per_cluster;
	} while (g->entries < q->rt_entries + g->blocks || g->entries <= cluster >> q->rb_bits);
	g->rt = calloc(g->entries, 8);
	g->dirty = calloc(BITMAP_WORDS((g->entries + 63) / 64), 8);
	g->buf = malloc(MAX(g->clusters << q->cluster_bits, q->cluster_size));
	return g->rt && g->dirty && g->buf ? 0 : -ENOMEM;
}

static int grow_write(struct qcow2 *q, struct grow *g)
{
	uint64_t per = 1ull << q->rb_bits, total = g->clusters + g->blocks;
	unsigned cb = q->cluster_bits;
	uint8_t field[12];
	int rc = 0;

	memcpy(g->rt, q->rt, q->rt_entries * 8);
	for (uint64_t b = 0; b < g->blocks && !rc; b++) {
		uint64_t at = (g->start + g->clusters + b) << cb;

		memset(g->buf, 0, q->cluster_size);
		for (uint64_t i = 0; i < per && b * per + i < total; i++)
			q_refcount_put(g->buf, q->h.refcount_order, i, 1);
		g->rt[q->rt_entries + b] = at;
		q_cache_drop(q, at);
		rc = q_pwrite(q, q->file, at, g->buf, q->cluster_size);
	}
	for (uint64_t i = 0; i < g->entries; i++)
		put_be64(g->buf + i * 8, g->rt[i]);
	rc = rc ?: q_pwrite(q, q->file, g->start << cb, g->buf, g->clusters << cb);
	rc = rc ?: q_sync(q);
	put_be64(field, g->start << cb);
	put_be32(field + 8, (uint32_t)g->clusters);
	return rc ?: q_header_switch(q, QCOW2_AT_RT, field, sizeof(field));
}

static int grow_table(struct qcow2 *q, uint64_t cluster)
{
	uint64_t old = q->h.rt_off >> q->cluster_bits, nold = q->h.rt_clusters;
	struct grow g = {0};
	int rc = grow_plan(q, &g, cluster);

	/* Afterwards no entry of the table is newer than the file's. */
	rc = rc ?: q_commit(q);
	rc = rc ?: grow_write(q, &g);
	free(g.buf);
	if (rc) {
		free(g.rt);
		free(g.dirty);
		return rc;
	}
	for (uint64_t i = 0; i < nold; i++)
		q_set_del(&q->meta_set, old + i);
	for (uint64_t i = 0; i < g.clusters + g.blocks; i++)
		if (q_set_add(&q->meta_set, g.start + i) < 0)
			rc = -ENOMEM;
	free(q->rt);
	free(q->rt_dirty);
	q->rt = g.rt;
	q->rt_dirty = g.dirty;
	q->rt_entries = g.entries;
	q->h.rt_off = g.start << q->cluster_bits;
	q->h.rt_clusters = (uint32_t)g.clusters;
	if (q->zero_from != UINT64_MAX)
		q->zero_from = MAX(
			q->zero_from, (g.start + g.clusters + g.blocks) << q->cluster_bits);
	return rc ?: q_release(q, old << q->cluster_bits, nold, false);
}

/* Makes sure that there are counts for c. 1: `home`, which is free, was taken for them. */
static int cover(struct qcow2 *q, uint64_t c, uint64_t home)
{
	int rc;

	if (c >= 1ull << (56 - q->cluster_bits))
		return -EFBIG;
	if (c >> q->rb_bits >= q->rt_entries) {
		rc = grow_table(q, c);
		if (rc)
			return rc;
	}
	if (q->rt[c >> q->rb_bits])
		return 0;
	rc = make_block(q, c >> q->rb_bits, home);
	return rc ?: 1;
}

/* ---- allocation ---- */

static bool is_zero(struct qcow2 *q, uint64_t first, uint64_t n)
{
	uint64_t host = first << q->cluster_bits, end = (first + n) << q->cluster_bits;
	bool zero = host >= q->zero_from;

	if (q->zero_from != UINT64_MAX)
		q->zero_from = MAX(q->zero_from, end);
	return zero;
}

/* Counts up to n clusters in a row. */
static int find_run(struct qcow2 *q, uint64_t n, uint64_t *first, uint64_t *got, bool *zero)
{
	uint64_t c = q->free_at;

	for (;;) {
		struct counts k;
		uint64_t i, run = 0;
		int rc = cover(q, c, c);

		if (rc < 0)
			return rc;
		if (rc) {
			c++;
			continue;
		}
		rc = counts_get(q, c, &k);
		if (rc)
			return rc < 0 ? rc : -EIO;
		for (i = 0; i < k.left && count_of(q, &k, i); i++)
			;
		while (i + run < k.left && run < n && !count_of(q, &k, i + run) &&
			!q_set_has(&q->meta_set, c + i + run))
			run++;
		if (run) {
			k.i += i;
			set_counts(q, &k, run, 1);
			q_slice_put(k.s);
			c += i;
			q->free_at = c + run;
			*first = c;
			*got = run;
			*zero = is_zero(q, c, run);
			return 0;
		}
		q_slice_put(k.s);
		/* Counted as free and in use by the tables. */
		if (i < k.left)
			return q_damaged(q);
		c += i;
		q->free_at = c;
	}
}

/*
 * Counts have to be durable before entries that need them. Counting many clusters at a time makes that a barrier for many allocations; what
 * nobody took is counted down when the disk is closed, and leaks when it is not. The transaction that writes the counts makes the file reach over them.
 */
static int reserve(struct qcow2 *q)
{
	struct q_reserve *r = &q->reserve;
	uint64_t got, max = MIN(RESERVE_MAX, MAX(RESERVE_BYTES >> q->cluster_bits, 1ull));
	int rc;

	r->next = MIN(r->next ? r->next * 4 : RESERVE_FIRST, max);
	rc = find_run(q, r->next, &r->at, &got, &r->zero);
	r->end = rc ? r->at : r->at + got;
	r->ahead = r->ahead_end = 0;
	return rc;
}

/* ---- what is allocated and flushed, cluster by cluster ---- */

void q_count_flush(struct qcow2 *q)
{
	if (!q->recent)
		return;
	q->few = q->recent << q->cluster_bits <= Q_FEW_BYTES ? MIN(q->few + 1, Q_FEW_TIMES) : 0;
	q->recent = 0;
}

static bool ahead_busy(const struct q_reserve *r)
{
	return r->ahead_end > r->ahead;
}

static void ahead_job(void *arg)
{
	struct qcow2 *q = arg;
	const struct q_reserve *r = &q->reserve;
	uint64_t len = (r->ahead_end - r->ahead) << q->cluster_bits;

	q->stats.ahead_bytes += len;
	/* Whose data goes there is told of what the host cannot do. */
	if (q_fill(q, q->file, r->ahead << q->cluster_bits, len))
		q->few = q->filled = 0;
}

static void ahead_after(void *arg)
{
	struct qcow2 *q = arg;

	q->reserve.ahead = q->reserve.ahead_end;
	q->jobs--;
	q->d->in_flight--;
	co_queue_wake_all(&q->reserve.waiters);
}

/*
 * A flush after each allocation costs the host more than the data: its file system has to make the new extent, and the file's new size, durable as well,
 * in a journal. So clusters of the reserve are written with zeroes before they are needed, many at a time. They read as zeroes already, and what
 * nobody takes is cut off with the rest of the reserve.
 */
static void write_ahead(struct qcow2 *q)
{
	struct q_reserve *r = &q->reserve;
	uint64_t n = MAX(AHEAD_BYTES >> q->cluster_bits, 1ull), from = MAX(r->at, r->ahead);

	if (!(q_synced(q) || q_filled(q)) || !r->zero || q->zero_from == UINT64_MAX ||
		ahead_busy(r) || from == r->end || from - r->at > n / 2)
		return;
	r->ahead = from;
	r->ahead_end = MIN(from + n, r->end);
	q->jobs++;
	q->d->in_flight++;
	if (co_start(&q->cs, ahead_job, ahead_after, q))
		ahead_after(q);
}

static void ahead_wait(struct qcow2 *q)
{
	while (ahead_busy(&q->reserve) && q->reserve.at >= q->reserve.ahead)
		q_pause(q, &q->reserve.waiters);
}

/*
 * Writes inside a file can go on side by side, those that make it longer cannot: for several the file is made to reach over the whole reserve at once. One
 * alone is better off at the end: ext4 has less to do there. Where it fails the transaction sees to it.
 */
static void reach_over(struct qcow2 *q)
{
	if (q->d->in_flight > 1 && q->zero_from != UINT64_MAX && q->zero_from > q->file->size)
		(void)file_truncate(q->file, q->zero_from, NULL);
}

static void count_filled(struct qcow2 *q, uint64_t clusters)
{
	q->filled = q->small >= (clusters << q->cluster_bits) / 2
			    ? MIN(q->filled + 1, Q_SMALL_TIMES)
			    : 0;
	q->small = 0;
}

uint64_t q_alloc_now(struct qcow2 *q, uint64_t n, uint64_t *host, bool *zero)
{
	struct q_reserve *r = &q->reserve;
	uint64_t got;

	ahead_wait(q);
	got = MIN(n, (ahead_busy(r) ? r->ahead : r->end) - r->at);
	if (got)
		reach_over(q);
	*host = r->at << q->cluster_bits;
	*zero = r->zero;
	r->at += got;
	q->recent += got;
	q->stats.allocated += got;
	if (got) {
		count_filled(q, got);
		write_ahead(q);
	}
	return got;
}

int q_alloc(struct qcow2 *q, uint64_t n, uint64_t *host, uint64_t *got, bool *zero)
{
	uint64_t first;
	int rc = 0;

	if (q->reserve.at == q->reserve.end && n < RESERVE_FIRST && q->sorter)
		rc = reserve(q);
	*got = rc ? 0 : q_alloc_now(q, n, host, zero);
	if (rc || *got)
		return rc;
	rc = find_run(q, n, &first, got, zero);
	if (!rc) {
		*host = first << q->cluster_bits;
		q->recent += *got;
		q->stats.allocated += *got;
	}
	return rc;
}

int q_reserve_return(struct qcow2 *q)
{
	struct q_reserve *r = &q->reserve;
	uint64_t at = r->at, n = r->end - r->at, end = at << q->cluster_bits;

	while (ahead_busy(r))
		q_pause(q, &r->waiters);
	*r = (struct q_reserve){0};
	if (!n)
		return 0;
	if (q->zero_from == (at + n) << q->cluster_bits && q->file->size > end) {
		q->zero_from = end;
		if (file_truncate(q->file, end, NULL))
			q->zero_from = (at + n) << q->cluster_bits;
	}
	q->stats.freed -= n;
	return q_refcount_add(q, at, n, -1);
}

int q_alloc_exact(struct qcow2 *q, uint64_t n, uint64_t *host, bool *zero)
{
	uint64_t c = q->free_at, run = 0;
	bool hole = false; /* that was too small */

	if (n == 1 && q_alloc_now(q, 1, host, zero))
		return 0;
	while (run < n) {
		uint64_t v = 0;
		int rc = cover(q, c + run, c);

		if (rc < 0)
			return rc;
		/* The block took the first of the run. A block for each few clusters must not end every run. */
		if (rc) {
			c++;
			run -= run > 0;
			continue;
		}
		rc = q_refcount(q, c + run, &v);
		if (rc)
			return rc;
		if (!v && q_set_has(&q->meta_set, c + run))
			return q_damaged(q);
		if (v) {
			hole |= run > 0;
			c += run + 1;
			run = 0;
		} else {
			run++;
		}
	}
	for (uint64_t i = 0; i < n; i++) {
		int rc = q_refcount_add(q, c + i, 1, 1);

		if (rc)
			return rc;
	}
	if (!hole)
		q->free_at = c + n;
	*host = c << q->cluster_bits;
	*zero = is_zero(q, c, n);
	q->stats.allocated += n;
	return 0;
}

int q_alloc_bytes(struct qcow2 *q, uint64_t n, uint64_t *host)
{
	uint64_t fresh, got, v = 0;
	bool zero;
	int rc;

	if (q->packed_at) {
		rc = q_refcount(q, (q->packed_end - 1) >> q->cluster_bits, &v);
		if (rc)
			return rc;
		if (!v || v >= q->refcount_max || q->packed_at == q->packed_end)
			q->packed_at = q->packed_end = 0;
	}
	if (q->packed_at && n <= q->packed_end - q->packed_at) {
		rc = q_refcount_add(q, (q->packed_end - 1) >> q->cluster_bits, 1, 1);
		if (rc)
			return rc;
		*host = q->packed_at;
		q->packed_at += n;
		return 0;
	}
	rc = q_alloc(q, 1, &fresh, &got, &zero);
	if (rc)
		return rc;
	if (q->packed_at && fresh == q->packed_end) {
		/* Begins in the cluster before. */
		rc = q_refcount_add(q, (q->packed_end - 1) >> q->cluster_bits, 1, 1);
		if (rc)
			return rc;
		*host = q->packed_at;
	} else {
		*host = fresh;
	}
	q->packed_at = *host + n;
	q->packed_end = fresh + q->cluster_size;
	return 0;
}

void q_unalloc(struct qcow2 *q, uint64_t host, uint64_t clusters)
{
	/* No memory: they stay counted, which is harmless. */
	(void)q_frees_add(&q->idle, host >> q->cluster_bits, clusters, false);
}

int q_release(struct qcow2 *q, uint64_t host, uint64_t clusters, bool punch)
{
	return q_frees_add(&q->frees, host >> q->cluster_bits, clusters, punch);
}

/* How many clusters from c on, before `end`, nobody else refers to. */
static int only_ours(struct qcow2 *q, uint64_t c, uint64_t end, uint64_t *n)
{
	uint64_t v = 1;
	int rc = 0;

	for (*n = 0; c + *n < end; ++*n) {
		rc = q_refcount(q, c + *n, &v);
		if (rc || v != 1)
			break;
	}
	return rc;
}

/* What nobody else refers to goes back to the host in one piece, before somebody else can take it. */
static int reap_run(struct qcow2 *q, uint64_t c, uint64_t end, bool punch)
{
	uint64_t n;
	int rc = 0;

	for (; c < end && !rc; c += n) {
		n = end - c;
		if (punch)
			rc = only_ours(q, c, end, &n);
		/* A hint: whose write comes by here has nothing to do with it. */
		if (!rc && punch)
			(void)q_punch(q, q->file, c << q->cluster_bits, n << q->cluster_bits);
		n = MAX(n, 1ull);
		rc = rc ?: q_refcount_add(q, c, n, -1);
	}
	return rc;
}

int q_reap(struct qcow2 *q)
{
	struct q_frees f = q->idle;
	int rc = 0;

	q->idle = (struct q_frees){0};
	if (f.n)
		q->unpacked_entry = 0;
	for (size_t i = 0; i < f.n && !rc; i++)
		rc = reap_run(q, f.a[i].cluster, f.a[i].cluster + f.a[i].n, f.a[i].punch);
	free(f.a);
	return rc;
}

/* ---- the end of the file ---- */

/* *end: behind the highest cluster that block `rti` counts, but for cluster `but`; 0: it counts none. */
static int counted_end(struct qcow2 *q, uint64_t rti, uint64_t but, uint64_t *end)
{
	uint64_t per = per_slice(q), first = rti << q->rb_bits, c = first + (1ull << q->rb_bits);

	*end = 0;
	while (c > first && !*end) {
		struct counts k;
		int rc = counts_get(q, c -= per, &k);

		if (rc)
			return rc < 0 ? rc : 0;
		for (uint64_t i = per; i-- && !*end;)
			if (count_of(q, &k, i) && c + i != but)
				*end = c + i + 1;
		q_slice_put(k.s);
	}
	return 0;
}

/* Block `rti` goes when it counts nothing but itself: *end is 0 then. */
static int drop_block(struct qcow2 *q, uint64_t rti, uint64_t *end)
{
	uint64_t c = q->rt[rti] >> q->cluster_bits;
	bool inside = c >> q->rb_bits == rti;
	int rc = counted_end(q, rti, c, end);

	if (*end && inside)
		*end = MAX(*end, c + 1);
	if (rc || *end)
		return rc;
	q->rt[rti] = 0;
	bitmap_set(q->rt_dirty, rti / 64);
	q_set_del(&q->meta_set, c);
	q_cache_drop(q, c << q->cluster_bits);
	q->free_at = MIN(q->free_at, c);
	return inside ? 0 : q_release(q, c << q->cluster_bits, 1, false);
}

/* From the end, up to the first block that counts something. 1: some went. */
static int drop_blocks(struct qcow2 *q, uint64_t *end)
{
	int rc = 0, any = 0;

	*end = 0;
	for (uint64_t i = q->rt_entries; i-- && !rc && !*end;) {
		if (!q->rt[i])
			continue;
		rc = drop_block(q, i, end);
		any |= !rc && !*end;
	}
	return rc ?: any;
}

int q_cut_file(struct qcow2 *q)
{
	uint64_t end = 0;
	int rc = q_settle(q);

	if (q->file->block_device)
		return rc;
	while (!rc && (rc = drop_blocks(q, &end)) > 0)
		rc = q_settle(q);
	end <<= q->cluster_bits;
	if (rc || !end || end >= q->file->size)
		return rc;
	/* The counts, and everything that leads there, are durable: what is behind is nobody's, whether it goes or not. */
	rc = file_truncate(q->file, end, NULL) ?: q_sync(q);
	if (!rc)
		q->zero_from = end;
	return rc;
}
