/*
 * write.c: what the sorter asks of qcow2. A block is a cluster.
 *
 * The unit of allocation is the cluster, with extended L2 entries the subcluster: what of a unit a write does not cover is filled, from
 * its old content or with zeroes, before the entry changes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/qcow2/bitmap.h"

/* ---- readers and reuse ---- */

uint64_t q_enter(struct qcow2 *q)
{
	return q->sorter ? sorter_enter(q->sorter) : 0;
}

void q_leave(struct qcow2 *q, uint64_t epoch)
{
	if (q->sorter)
		sorter_leave(q->sorter, epoch);
}

struct quarantine {
	struct sorter_quarantine sq;
	struct qcow2 *q;
	struct q_frees frees;
};

static void quarantine_over(struct sorter_quarantine *sq)
{
	struct quarantine *k = container_of(sq, struct quarantine, sq);

	/* No memory: they stay counted, which is harmless. */
	(void)q_frees_append(&k->q->idle, &k->frees);
	free(k);
}

void q_quarantine(struct qcow2 *q, struct q_frees *frees)
{
	struct quarantine *k;

	if (!frees->n)
		return;
	if (!q->sorter) {
		(void)q_frees_append(&q->idle, frees);
		return;
	}
	k = calloc(1, sizeof(*k));
	if (!k) {
		free(frees->a);
		*frees = (struct q_frees){0};
		return;
	}
	k->sq.free = quarantine_over;
	k->q = q;
	k->frees = *frees;
	*frees = (struct q_frees){0};
	sorter_quarantine(q->sorter, &k->sq);
}

/* ---- jobs ---- */

struct job {
	struct qcow2 *q;
	void (*fn)(struct job *j);
	union {
		struct sorter_set *set;
		struct sorter_tx *tx;
		struct sorter_fill *fill;
		struct sorter_batch *batch;
		void *any;
	};
	void (*answer)(void *what, int rc);
	int rc;
};

static void job_run(void *arg)
{
	struct job *j = arg;

	j->fn(j);
}

static void job_after(void *arg)
{
	struct job *j = arg;
	void (*answer)(void *, int) = j->answer;
	void *what = j->any;
	int rc = j->rc;

	j->q->jobs--;
	free(j);
	answer(what, rc);
}

static void start(
	struct qcow2 *q, void (*fn)(struct job *), void *what, void (*answer)(void *, int))
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j) {
		answer(what, -ENOMEM);
		return;
	}
	*j = (struct job){.q = q, .fn = fn, .any = what, .answer = answer};
	q->jobs++;
	if (co_start(&q->cs, job_run, job_after, j)) {
		j->rc = -ENOMEM;
		job_after(j);
	}
}

static void answer_set(void *set, int rc)
{
	sorter_resolved(set, rc);
}

static void answer_tx(void *tx, int rc)
{
	sorter_prepared(tx, rc);
}

static void answer_fill(void *fill, int rc)
{
	sorter_filled(fill, rc);
}

static void answer_batch(void *batch, int rc)
{
	sorter_committed(batch, rc);
}

/* ---- one cluster ---- */

struct cluster {
	uint64_t entry, bitmap, host;
	enum q_type type;
	bool own; /* `host` may be written in place */
	uint32_t valid; /* units of it that hold what the disk shows */
	uint32_t zero; /* units that read as zeroes without looking anywhere */
};

static unsigned unit_bits(const struct qcow2 *q)
{
	return q->extended ? q->sub_bits : q->cluster_bits;
}

static uint32_t all_units(const struct qcow2 *q)
{
	return q->extended ? ~0u : 1;
}

static bool hole_is_zero(const struct qcow2 *q, uint64_t off)
{
	return !q->d->hard_zeroes && (!q->d->backing || off >= disk_size(q->d->backing));
}

static void look(const struct qcow2 *q, struct cluster *c, const uint8_t *p)
{
	*c = (struct cluster){0};
	if (!p)
		return;
	c->entry = get_be64(p);
	c->bitmap = q->extended ? get_be64(p + 8) : 0;
	c->type = q_entry_type(q, c->entry);
	if (c->type == Q_PACKED)
		return;
	c->host = c->entry & Q_OFFSET;
	c->own = (c->entry & Q_COPIED) && (c->host || q->data_file);
	if (q->extended) {
		c->valid = (uint32_t)c->bitmap;
		c->zero = (uint32_t)(c->bitmap >> 32);
	} else {
		c->valid = c->type == Q_NORMAL;
		c->zero = c->type == Q_ZEROES;
	}
}

/* The units that [off, off + len) touches. */
static uint32_t units_of(const struct qcow2 *q, uint64_t off, uint64_t len)
{
	unsigned first = (unsigned)(q_in_cluster(q, off) >> unit_bits(q));
	unsigned last = (unsigned)(q_in_cluster(q, off + len - 1) >> unit_bits(q));

	return (uint32_t)((2ull << last) - (1ull << first));
}

/* All of the cluster that the disk has. */
static bool is_whole(const struct qcow2 *q, uint64_t off, uint64_t len)
{
	uint64_t end = MIN(align_down(off, q->cluster_size) + q->cluster_size, q->d->size);

	return !q_in_cluster(q, off) && off + len >= end;
}

static bool reads_zero(const struct qcow2 *q, const struct cluster *c, uint64_t off, uint64_t len)
{
	uint32_t units = units_of(q, off, len);
	uint64_t first = align_down(off, q->cluster_size);

	if (c->type == Q_PACKED)
		return false;
	return !(units & ~c->zero & (c->valid | (hole_is_zero(q, first) ? 0 : ~0u)));
}

static enum sorter_where where_zero(
	const struct qcow2 *q, const struct cluster *c, const struct sorter_elem *el)
{
	bool whole = is_whole(q, el->off, el->len);

	if (reads_zero(q, c, el->off, el->len) && !(whole && el->unmap && c->host && !q->data_file))
		return SORT_NOTHING;
	if (whole && q->v3 && !q->raw_data)
		return SORT_META;
	return c->own && !(units_of(q, el->off, el->len) & ~c->valid) ? SORT_PLAIN : SORT_META;
}

static enum sorter_where where_discard(
	const struct qcow2 *q, const struct cluster *c, const struct sorter_elem *el)
{
	uint64_t first = align_down(el->off, q->cluster_size);

	if (!q->d->o.discard || q->data_file || !is_whole(q, el->off, el->len))
		return SORT_NOTHING;
	if (c->type == Q_UNALLOCATED && !c->bitmap && !c->host)
		return SORT_NOTHING;
	/* Without a zero bit the old content of the backing file would come up again. */
	if (!q->v3 && !hole_is_zero(q, first))
		return SORT_NOTHING;
	return SORT_META;
}

static int resolve_now(struct qcow2 *q, struct sorter_set *set)
{
	struct q_slice *s;
	struct cluster c;
	uint64_t at;
	int rc = q_l2_get(q, set->block, &s, &at);

	if (rc)
		return rc;
	look(q, &c, s ? s->data + at : NULL);
	rc = q_entry_check(q, c.entry, c.bitmap, set->block);
	q_slice_put(s);
	if (rc)
		return rc;
	for (unsigned i = 0; i < set->n; i++) {
		struct sorter_elem *el = &set->elem[i];

		if (el->kind == SORT_ZERO)
			el->where = where_zero(q, &c, el);
		else if (el->kind == SORT_DISCARD)
			el->where = where_discard(q, &c, el);
		else
			el->where = c.own && !(units_of(q, el->off, el->len) & ~c.valid)
					    ? SORT_PLAIN
					    : SORT_META;
		el->file = q->data;
		el->addr = c.host + q_in_cluster(q, el->off);
	}
	return 0;
}

static void resolve_job(struct job *j)
{
	/* Nothing is in place while the entry that says so is not in the file. */
	j->rc = j->q->link_failed ? q_link(j->q) : 0;
	j->rc = j->rc ?: resolve_now(j->q, j->set);
}

/* In memory, so that nothing has to be waited for? */
static bool table_at_hand(struct qcow2 *q, uint64_t cluster)
{
	uint64_t l1 = cluster >> q->l2_bits, table;
	struct q_slice *s;

	table = l1 < q->h.l1_size ? q->l1[l1] & Q_OFFSET : 0;
	if (!table)
		return true;
	s = q_slice_try(q, table + (cluster & ((1ull << q->l2_bits) - 1)) * q->l2_entry);
	if (s)
		q_slice_put(s);
	return s;
}

static void resolve(void *ctx, struct sorter_set *set)
{
	struct qcow2 *q = ctx;

	if (table_at_hand(q, set->block) && !q->link_failed)
		sorter_resolved(set, resolve_now(q, set));
	else
		start(q, resolve_job, set, answer_set);
}

/* ---- prepare: where it will be ---- */

struct plan {
	struct q_slice *s;
	uint64_t at;
	uint64_t entry, bitmap; /* new ones */
	uint64_t old; /* entry that loses its reference; 0: none */
	uint64_t host;
	bool allocated, punch;
	bool data_first; /* without its data something else than before would be read */
};

static void plan_zero(const struct qcow2 *q, const struct cluster *c, struct plan *p, bool unmap)
{
	bool keep = c->own && !unmap;

	if (q->data_file) {
		p->entry = c->entry | (q->extended ? 0 : Q_ZERO);
	} else if (keep) {
		p->entry = c->host | Q_COPIED | (q->extended ? 0 : Q_ZERO);
	} else {
		p->entry = q->extended ? 0 : Q_ZERO;
		p->old = c->entry;
		p->punch = unmap && q->d->o.discard;
	}
	p->bitmap = q->extended ? 0xffffffffull << 32 : 0;
}

static void plan_discard(
	const struct qcow2 *q, const struct cluster *c, struct plan *p, uint64_t first)
{
	if (!hole_is_zero(q, first)) {
		plan_zero(q, c, p, true);
		return;
	}
	p->entry = p->bitmap = 0;
	p->old = c->entry;
	p->punch = true;
}

/* Fills [off, end) of the disk, with zeroes beyond its end. */
static int fill(struct qcow2 *q, struct sorter_tx *tx, const struct plan *p, uint64_t off,
	uint64_t end, bool copy)
{
	uint64_t cut = MAX(off, MIN(end, q->d->size));
	int rc = 0;

	if (copy && cut > off)
		rc = sorter_add_fill(
			tx, off, cut - off, true, q->data, p->host + q_in_cluster(q, off), 0);
	else
		cut = off;
	if (!rc && end > cut)
		rc = sorter_add_fill(
			tx, cut, end - cut, false, q->data, p->host + q_in_cluster(q, cut), 0);
	return rc;
}

/* The rest of one unit: what no data of the tx covers. `valid`: the host's bytes there are right already. */
static int fill_unit(struct qcow2 *q, struct sorter_tx *tx, const struct plan *p, unsigned unit,
	bool valid, bool old_zero, bool fresh)
{
	uint64_t base = tx->block << q->cluster_bits, size = 1ull << unit_bits(q);
	uint64_t at = base + unit * size, end = at + size;
	int rc = 0;

	for (unsigned i = 0; i <= tx->n && !rc; i++) {
		const struct sorter_elem *el = i < tx->n ? &tx->elem[i] : NULL;
		uint64_t from = el ? MIN(MAX(el->off, at), end) : end;
		uint64_t to = el ? MIN(MAX(el->off + el->len, at), end) : end;

		if (el && el->kind == SORT_DISCARD)
			continue;
		if (from > at && !valid && !(old_zero && fresh))
			rc = fill(q, tx, p, at, from, !old_zero);
		if (!rc && el && el->kind == SORT_ZERO && to > from && !fresh)
			rc = fill(q, tx, p, from, to, false);
		at = MAX(at, to);
	}
	return rc;
}

static int plan_data(struct qcow2 *q, struct sorter_tx *tx, const struct cluster *c, struct plan *p)
{
	uint64_t first = tx->block << q->cluster_bits, got;
	uint32_t touched = 0, valid = c->own ? c->valid : 0, zero = c->zero;
	bool fresh = false, data = false;
	int rc;

	if (hole_is_zero(q, first) && c->type != Q_PACKED)
		zero |= ~c->valid;
	if (c->own) {
		p->host = c->host;
	} else if (q->data_file) {
		p->host = first;
	} else {
		rc = q_alloc(q, 1, &p->host, &got, &fresh);
		if (rc)
			return rc;
		p->allocated = true;
	}
	p->data_first = !fresh || !hole_is_zero(q, first) ||
			(c->type != Q_UNALLOCATED && c->type != Q_ZEROES);
	for (unsigned i = 0; i < tx->n; i++) {
		struct sorter_elem *el = &tx->elem[i];

		if (el->kind != SORT_DISCARD)
			touched |= units_of(q, el->off, el->len);
		data |= el->kind == SORT_DATA;
		el->file = q->data;
		el->addr = p->host + q_in_cluster(q, el->off);
	}
	/* Its place is given up: everything that was there comes along. */
	if (!c->own && c->type == Q_PACKED)
		touched = all_units(q);
	else if (!c->own)
		touched |= c->valid;
	for (unsigned u = 0; touched >> u; u++) {
		if (touched >> u & 1) {
			rc = fill_unit(q, tx, p, u, valid >> u & 1,
				zero >> u & 1 && c->type != Q_PACKED, fresh);
			if (rc)
				return rc;
		}
		if (u == 31)
			break;
	}
	/* Zeroes only, where the file has them by itself: it has to reach that far nevertheless. */
	if (fresh && !data && !tx->nfill) {
		got = first + (1ull << q->cluster_bits);
		rc = fill(q, tx, p, got - DISK_SECTOR, got, false);
		if (rc)
			return rc;
	}
	p->entry = p->host | Q_COPIED;
	if (q->extended)
		p->bitmap = (c->bitmap | touched) & ~((uint64_t)touched << 32);
	if (!c->own)
		p->old = c->entry;
	return 0;
}

static int plan_tx(struct qcow2 *q, struct sorter_tx *tx, struct plan *p)
{
	const struct sorter_elem *el = tx->elem;
	struct cluster c;
	int rc;

	if (q->lazy && !q->dirty_set) {
		rc = q_set_incompatible(q, QCOW2_DIRTY, 0);
		if (rc)
			return rc;
		q->dirty_set = true;
	}
	rc = q_reap(q);
	rc = rc ?: q_l2_make(q, tx->block, &p->s, &p->at);
	if (rc)
		return rc;
	look(q, &c, p->s->data + p->at);
	rc = q_entry_check(q, c.entry, c.bitmap, tx->block);
	if (rc || !tx->n)
		return rc;
	/* Older transactions of the same batch may have left nothing to do, or more than at first. */
	if (tx->n == 1 && el->kind == SORT_DISCARD)
		plan_discard(q, &c, p, tx->block << q->cluster_bits);
	else if (tx->n == 1 && el->kind == SORT_ZERO && is_whole(q, el->off, el->len) && q->v3 &&
		 !q->raw_data)
		plan_zero(q, &c, p, el->unmap);
	else
		return plan_data(q, tx, &c, p);
	return 0;
}

static void plan_drop(struct qcow2 *q, struct plan *p)
{
	if (p->allocated)
		q_unalloc(q, p->host, 1);
	q_slice_put(p->s);
	free(p);
}

static void prepare_job(struct job *j)
{
	struct plan *p = calloc(1, sizeof(*p));
	struct qcow2 *q = j->q;

	j->rc = -ENOMEM;
	if (!p)
		return;
	q_lock(q, &q->meta);
	j->rc = q->corrupt ? -EIO : plan_tx(q, j->tx, p);
	if (j->rc)
		plan_drop(q, p);
	else
		j->tx->priv = p;
	q_unlock(&q->meta);
}

static void prepare(void *ctx, struct sorter_tx *tx)
{
	tx->priv = NULL;
	start(ctx, prepare_job, tx, answer_tx);
}

static void abort_tx(void *ctx, struct sorter_tx *tx)
{
	if (tx->priv)
		plan_drop(ctx, tx->priv);
	tx->priv = NULL;
}

static void fill_job(struct job *j)
{
	j->rc = q_read(j->q, j->fill->off, j->fill->buf, j->fill->len);
}

static void read_old(void *ctx, struct sorter_fill *f)
{
	start(ctx, fill_job, f, answer_fill);
}

/* ---- commit: what it is from now on ---- */

static void link_tx(struct qcow2 *q, struct sorter_tx *tx)
{
	struct plan *p = tx->priv;
	uint8_t *e;

	if (!p)
		return;
	tx->priv = NULL;
	if (tx->n) {
		e = p->s->data + p->at;
		put_be64(e, p->entry);
		if (q->extended)
			put_be64(e + 8, p->bitmap);
		q_slice_dirty(q, p->s, p->at, q->l2_entry);
		q->data_first |= p->data_first;
		/* No memory: it stays counted. */
		if (p->old)
			(void)q_release_entry(q, p->old, p->punch);
	}
	q_slice_put(p->s);
	free(p);
}

/* Lives until libuv has closed its handle, which is after the disk is gone. */
struct q_later {
	uv_timer_t timer;
	struct qcow2 *q;
};

static void link_job(void *arg)
{
	(void)q_link(arg); /* what fails is told by the next write or flush: link_failed */
}

static void link_after(void *arg)
{
	struct qcow2 *q = arg;

	q->linking = false;
	q->jobs--;
	q->d->in_flight--;
}

void q_link_soon(struct qcow2 *q)
{
	if (!q->unlinked || q->linking || q->link_failed)
		return;
	q->linking = true;
	q->jobs++;
	q->d->in_flight++;
	if (co_start(&q->cs, link_job, link_after, q))
		link_after(q);
}

static void on_later(uv_timer_t *t)
{
	q_link_soon(container_of(t, struct q_later, timer)->q);
}

static void later_closed(uv_handle_t *h)
{
	free(container_of((uv_timer_t *)h, struct q_later, timer));
}

static void commit_job(struct job *j)
{
	struct qcow2 *q = j->q;

	j->rc = q_frees_wait(q) ? q_commit(q) : q_link(q);
}

static void commit(void *ctx, struct sorter_batch *b)
{
	struct qcow2 *q = ctx;

	for (struct sorter_tx *tx = b->first; tx; tx = tx->next)
		link_tx(q, tx);
	if (!q->late || q->cache.dirty_bytes > Q_DIRTY_BYTES || q_frees_wait(q)) {
		start(q, commit_job, b, answer_batch);
		return;
	}
	q->unlinked = true;
	if (!uv_is_active((uv_handle_t *)&q->later->timer))
		uv_timer_start(&q->later->timer, on_later, Q_LATER_MS, 0);
	/* The flush that follows waits for the rest of it only. */
	if (q_synced(q))
		q_link_soon(q);
	sorter_committed(b, 0);
}

/* New places that read as zeroes, as they did before: an entry without its data changes nothing. */
static bool unordered(void *ctx, const struct sorter_batch *b)
{
	const struct qcow2 *q = ctx;

	for (const struct sorter_tx *tx = b->first; tx; tx = tx->next) {
		const struct plan *p = tx->priv;

		if (!p || p->data_first)
			return false;
	}
	return !q->late;
}

static uint64_t skip(void *ctx, uint64_t off, uint64_t len)
{
	struct qcow2 *q = ctx;
	struct q_map m;

	if (q_map(q, off, len, true, &m) || m.type != Q_UNALLOCATED || m.host ||
		!hole_is_zero(q, align_down(off, q->cluster_size)))
		return 0;
	return m.len;
}

static const struct sorter_ops ops = {.resolve = resolve,
	.prepare = prepare,
	.read_old = read_old,
	.commit = commit,
	.unordered = unordered,
	.abort = abort_tx,
	.skip = skip};

int q_writer_create(struct qcow2 *q, struct err *e)
{
	struct sorter_opts o = {.disk = q->d,
		.block_size = q->cluster_size,
		.ops = &ops,
		.ctx = q,
		.one_by_one = q->one_by_one,
		.early = !q->late};
	struct q_later *l = calloc(1, sizeof(*l));

	if (!l)
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	l->q = q;
	uv_timer_init(q->d->o.loop, &l->timer);
	uv_unref((uv_handle_t *)&l->timer);
	q->later = l;
	return sorter_create(&q->sorter, &o, e);
}

void q_writer_destroy(struct qcow2 *q)
{
	sorter_destroy(q->sorter);
	q->sorter = NULL;
	if (q->later)
		uv_close((uv_handle_t *)&q->later->timer, later_closed);
	q->later = NULL;
}

void q_submit_write(struct qcow2 *q, struct disk_req *r)
{
	struct q_map m;

	if (q->d->in_flight <= 2 && r->op == DISK_WRITE && r->len <= Q_SMALL_BYTES)
		q->small += r->len;
	if (q->corrupt || !q->sorter)
		disk_done_soon(r, q->corrupt ? -EIO : -EROFS);
	else if (r->op == DISK_WRITE && !r->nranges && !q->link_failed &&
		 !q_map(q, r->offset, r->len, true, &m) && m.type == Q_NORMAL && m.len == r->len &&
		 (m.entry & Q_COPIED) && sorter_bypass(q->sorter, r->offset, r->len))
		q_submit_plain(q, r, FILE_WRITE, m.host);
	else
		sorter_submit(q->sorter, r);
}

/* ---- compressed clusters: for tools, with nothing else in flight ---- */

static int write_one(struct qcow2 *q, uint64_t off, const uint8_t *data, uint8_t *packed)
{
	uint64_t cluster = off >> q->cluster_bits, host, at, got, entry, sectors;
	unsigned x = 62 - (q->cluster_bits - 8);
	struct q_slice *s;
	struct cluster c;
	bool zero;
	size_t n;
	int rc = q_pack(q, packed, &n, data), packs = rc;

	if (rc && rc != -ENOSPC)
		return rc;
	rc = q_reap(q);
	rc = rc ?: q_l2_make(q, cluster, &s, &at);
	if (rc)
		return rc;
	look(q, &c, s->data + at);
	rc = q_entry_check(q, c.entry, c.bitmap, cluster);
	if (!rc)
		rc = packs ? q_alloc(q, 1, &host, &got, &zero) : q_alloc_bytes(q, n, &host);
	if (!rc)
		rc = q_pwrite(q, q->file, host, packs ? data : packed, packs ? q->cluster_size : n);
	if (!rc && !packs) {
		sectors = (host + n - 1) / 512 - host / 512;
		entry = host | sectors << x | Q_COMPRESSED;
	} else {
		entry = host | Q_COPIED;
	}
	if (!rc && !packs && host >> MIN(x, 56u))
		rc = -EFBIG;
	if (!rc) {
		put_be64(s->data + at, entry);
		if (q->extended)
			put_be64(s->data + at + 8, packs ? 0xffffffff : 0);
		q_slice_dirty(q, s, at, q->l2_entry);
		q->data_first = true;
		rc = q_release_entry(q, c.entry, false);
	}
	q_slice_put(s);
	return rc;
}

int q_write_compressed(struct disk *d, uint64_t off, const void *buf, uint64_t len, struct err *e)
{
	struct qcow2 *q = d->priv;
	cleanup(free_ptr) uint8_t *packed = malloc(q->cluster_size);
	cleanup(free_ptr) uint8_t *last = calloc(1, q->cluster_size);
	int rc = packed && last ? 0 : -ENOMEM;

	if (q->data_file)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: an external data file cannot hold compressed clusters",
			d->o.path);
	if (q->corrupt || !q->writable)
		return err_set(e, -EIO, "disk %s: is damaged and not written to", d->o.path);
	if (q_in_cluster(q, off) || (q_in_cluster(q, len) && off + len != d->size))
		return err_set(e, -EINVAL,
			"disk %s: only whole clusters of %llu bytes can be compressed", d->o.path,
			(unsigned long long)q->cluster_size);
	q->unpacked_entry = 0;
	q_bitmaps_mark(q, off, len);
	for (uint64_t at = 0; at < len && !rc; at += q->cluster_size) {
		const uint8_t *data = (const uint8_t *)buf + at;

		if (len - at < q->cluster_size) {
			memcpy(last, data, len - at);
			data = last;
		}
		rc = write_one(q, off + at, data, packed);
		if (!rc && q->cache.dirty_bytes > Q_DIRTY_BYTES)
			rc = q_commit(q);
	}
	return rc ? err_sys(e, rc, "disk %s: cannot be written to", d->o.path) : 0;
}
