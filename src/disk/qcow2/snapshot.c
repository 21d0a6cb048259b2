#include "disk/qcow2/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/qcow2/bitmap.h"
#include "disk/qcow2/check.h"

#define FIXED 40u
#define KNOWN_EXTRA 24u
#define EXTRA_MAX 1024u
#define TABLE_MAX (64u << 20)
#define WINDOW (256u << 10) /* more than the largest entry */

/* ---- the table ---- */

void q_snaps_free(struct q_snap *s, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		free(s[i].extra);
		free(s[i].id);
		free(s[i].name);
	}
	free(s);
}

static int bad_entry(struct qcow2 *q, unsigned i, struct err *e)
{
	return err_set(
		e, -EUCLEAN, "disk %s: entry %u of the snapshot table is damaged", q->d->o.path, i);
}

static char *take_text(const uint8_t *p, unsigned len)
{
	char *t = malloc(len + 1u);

	if (t) {
		memcpy(t, p, len);
		t[len] = 0;
	}
	return t;
}

/* A part of the file in memory. */
struct window {
	uint8_t *buf;
	uint64_t at, len;
};

static int look(struct qcow2 *q, struct window *w, uint64_t at, uint64_t len, const uint8_t **out,
	struct err *e)
{
	int rc = 0;

	if (at < w->at || at + len > w->at + w->len) {
		w->at = at;
		w->len = MIN(q->file->size - at, WINDOW);
		rc = file_read(q->file, at, w->buf, w->len, e);
	}
	*out = w->buf + (at - w->at);
	return rc;
}

/* One entry at *at, which is moved behind it. */
static int load_one(struct qcow2 *q, struct window *w, struct q_snap *s, unsigned i, uint64_t *at,
	struct err *e)
{
	uint64_t end = q->file->size, mask = q->cluster_size - 1;
	uint32_t extra, id, name, known;
	const uint8_t *fix, *rest;
	int rc;

	if (*at + FIXED > end || *at - q->h.snapshots_off > TABLE_MAX)
		return bad_entry(q, i, e);
	rc = look(q, w, *at, FIXED, &fix, e);
	if (rc)
		return rc;
	extra = get_be32(fix + 36);
	id = get_be16(fix + 12);
	name = get_be16(fix + 14);
	if (extra > EXTRA_MAX || *at + FIXED + extra + id + name > end)
		return bad_entry(q, i, e);
	rc = look(q, w, *at, FIXED + extra + id + name, &fix, e);
	if (rc)
		return rc;
	rest = fix + FIXED;
	*s = (struct q_snap){.l1_off = get_be64(fix),
		.l1_size = get_be32(fix + 8),
		.date_s = get_be32(fix + 16),
		.date_ns = get_be32(fix + 20),
		.clock_ns = get_be64(fix + 24),
		.vm_size = extra >= 8 ? get_be64(rest) : get_be32(fix + 32),
		.size = extra >= 16 ? get_be64(rest + 8) : q->h.size,
		.icount = extra >= 24 ? get_be64(rest + 16) : UINT64_MAX,
		.id = take_text(rest + extra, id),
		.name = take_text(rest + extra + id, name)};
	known = MIN(extra, KNOWN_EXTRA);
	s->extra_len = extra - known;
	s->extra = malloc(s->extra_len + 1u);
	if (!s->id || !s->name || !s->extra)
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	memcpy(s->extra, rest + known, s->extra_len);
	if ((s->l1_off & mask) || s->l1_off > end || s->l1_size > QCOW2_L1_MAX / 8 ||
		s->l1_size * 8ull > end - s->l1_off || (s->l1_size && !s->l1_off) ||
		s->size >= 1ull << 62)
		return bad_entry(q, i, e);
	*at = align_up(*at + FIXED + extra + id + name, 8);
	return 0;
}

int q_snaps_load(struct qcow2 *q, struct q_snap **out, unsigned *n, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = malloc(WINDOW);
	struct window w = {.buf = buf};
	unsigned have = 0, cap = 0;
	struct q_snap *s = NULL;
	uint64_t at = q->h.snapshots_off;
	int rc = buf ? 0 : err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);

	while (have < q->h.nb_snapshots && !rc) {
		if (have == cap) {
			struct q_snap *more = realloc(s, (cap = cap * 2 + 16) * sizeof(*s));

			if (!more) {
				rc = err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
				break;
			}
			s = more;
		}
		s[have] = (struct q_snap){0};
		rc = load_one(q, &w, &s[have], have, &at, e);
		have++;
	}
	if (rc) {
		q_snaps_free(s, have);
		return rc;
	}
	q->snapshots_bytes = at - q->h.snapshots_off;
	*out = s;
	*n = have;
	return 0;
}

static uint64_t snaps_bytes(const struct q_snap *s, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += align_up(
			FIXED + KNOWN_EXTRA + s[i].extra_len + strlen(s[i].id) + strlen(s[i].name),
			8);
	return bytes;
}

static void put_snaps(uint8_t *p, const struct q_snap *s, unsigned n)
{
	for (unsigned i = 0; i < n; i++, s++) {
		size_t id = strlen(s->id), name = strlen(s->name), at = FIXED;

		put_be64(p, s->l1_off);
		put_be32(p + 8, s->l1_size);
		put_be16(p + 12, (uint16_t)id);
		put_be16(p + 14, (uint16_t)name);
		put_be32(p + 16, s->date_s);
		put_be32(p + 20, s->date_ns);
		put_be64(p + 24, s->clock_ns);
		put_be32(p + 32, s->vm_size > UINT32_MAX ? 0 : (uint32_t)s->vm_size);
		put_be32(p + 36, KNOWN_EXTRA + s->extra_len);
		put_be64(p + at, s->vm_size);
		put_be64(p + at + 8, s->size);
		put_be64(p + at + 16, s->icount);
		at += KNOWN_EXTRA;
		memcpy(p + at, s->extra, s->extra_len);
		at += s->extra_len;
		memcpy(p + at, s->id, id);
		memcpy(p + at + id, s->name, name);
		p += align_up(at + id + name, 8);
	}
}

static int switch_table(struct qcow2 *q, uint64_t host, unsigned n)
{
	uint8_t field[12];

	put_be32(field, n);
	put_be64(field + 4, host);
	return q_header_switch(q, QCOW2_AT_NB_SNAPSHOTS, field, sizeof(field));
}

/*
 * Puts one more behind those that are there, in the cluster that the table ends in; nobody sees it before the header says so. 1: it does not fit. Else each of
 * many snapshots would write all of the table, and leave a hole where that was.
 */
static int append(struct qcow2 *q, const struct q_snap *s, unsigned n)
{
	uint64_t bytes = snaps_bytes(s, 1), at = q->snapshots_bytes;
	cleanup(free_ptr) uint8_t *buf = NULL;
	int rc;

	if (!at || q_in_cluster(q, at) == 0 || q_in_cluster(q, at) + bytes > q->cluster_size)
		return 1;
	buf = calloc(1, bytes);
	if (!buf)
		return -ENOMEM;
	put_snaps(buf, s, 1);
	rc = q_pwrite(q, q->file, q->h.snapshots_off + at, buf, bytes);
	rc = rc ?: q_commit(q);
	rc = rc ?: switch_table(q, q->h.snapshots_off, n);
	if (rc)
		return rc;
	q->h.nb_snapshots = n;
	q->snapshots_bytes += bytes;
	return 0;
}

/* Writes a table of n beside the one that is there, and points the header to it. What it refers to is durable before. */
static int store(struct qcow2 *q, const struct q_snap *s, unsigned n)
{
	uint64_t bytes = snaps_bytes(s, n), clusters, host = 0;
	uint64_t old = q->h.snapshots_off, old_bytes = q->snapshots_bytes;
	cleanup(free_ptr) uint8_t *buf = NULL;
	bool zero;
	int rc = 0;

	if (bytes > TABLE_MAX)
		return -EFBIG;
	clusters = (bytes + q->cluster_size - 1) >> q->cluster_bits;
	if (clusters) {
		buf = calloc(clusters, q->cluster_size);
		rc = buf ? q_alloc_exact(q, clusters, &host, &zero) : -ENOMEM;
		if (rc)
			return rc;
		put_snaps(buf, s, n);
		rc = q_pwrite(q, q->file, host, buf, clusters << q->cluster_bits);
	}
	rc = rc ?: q_commit(q);
	rc = rc ?: switch_table(q, host, n);
	if (rc)
		return rc;
	for (uint64_t c = 0; c < clusters; c++)
		if (q_set_add(&q->meta_set, (host >> q->cluster_bits) + c) < 0)
			return -ENOMEM;
	q->h.nb_snapshots = n;
	q->h.snapshots_off = host;
	q->snapshots_bytes = bytes;
	clusters = (old_bytes + q->cluster_size - 1) >> q->cluster_bits;
	for (uint64_t c = 0; c < clusters; c++)
		q_set_del(&q->meta_set, (old >> q->cluster_bits) + c);
	return clusters ? q_release(q, old, clusters, false) : 0;
}

int q_snap_l1(struct qcow2 *q, const struct q_snap *s, uint64_t **out, struct err *e)
{
	uint64_t *l1 = calloc(MAX(s->l1_size, 1u), 8);
	int rc;

	if (!l1)
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	rc = s->l1_size ? file_read(q->file, s->l1_off, l1, s->l1_size * 8ull, e) : 0;
	for (uint32_t i = 0; i < s->l1_size; i++)
		l1[i] = get_be64(&l1[i]);
	*out = rc ? NULL : l1;
	if (rc)
		free(l1);
	return rc;
}

/* ---- counts of everything that a table reaches ---- */

static int breathe(struct qcow2 *q)
{
	return q->cache.dirty_bytes > Q_DIRTY_BYTES ? q_commit(q) : 0;
}

static int entry_refs(struct qcow2 *q, uint64_t entry, int delta)
{
	uint64_t first = entry & Q_OFFSET, n = 1;

	if (entry & Q_COMPRESSED) {
		uint64_t host = q_packed_host(q, entry);

		first = host;
		n = ((host + q_packed_len(q, entry) - 1) >> q->cluster_bits) -
		    (host >> q->cluster_bits) + 1;
	}
	return first ? q_refcount_add(q, first >> q->cluster_bits, n, delta) : 0;
}

static int table_refs(struct qcow2 *q, uint64_t table, int delta)
{
	uint64_t size = 1ull << q->slice_bits;
	int rc = 0;

	for (uint64_t off = 0; off < q->cluster_size && !rc; off += size) {
		struct q_slice *s;

		rc = q_slice_get(q, Q_L2, table + off, &s);
		for (uint64_t at = 0; at < size && !rc; at += q->l2_entry)
			rc = entry_refs(q, get_be64(s->data + at), delta);
		q_slice_put(s);
	}
	return rc;
}

/* ---- how far it is ---- */

static uint64_t tables_in(const uint64_t *l1, uint64_t n)
{
	uint64_t all = 0;

	while (n--)
		all += (l1[n] & Q_OFFSET) != 0;
	return all;
}

/* Another table is done. -ECANCELED: it is to stop, and can. */
static int step(struct qcow2 *q)
{
	bool go = disk_go_on(
		q->d, ++q->steps.done << q->cluster_bits, q->steps.of << q->cluster_bits);

	return go || !q->steps.stops ? 0 : -ECANCELED;
}

/* What was counted up of these tables is counted down again when it is stopped: then all is as it was. */
static int tree_refs(struct qcow2 *q, const uint64_t *l1, uint64_t n, int delta)
{
	int rc = 0;

	for (uint64_t i = 0; i < n && !rc; i++) {
		uint64_t table = l1[i] & Q_OFFSET;

		if (!table)
			continue;
		if ((table & (q->cluster_size - 1)) || table >= q_end(q))
			return q_damaged(q);
		rc = table_refs(q, table, delta);
		rc = rc ?: q_refcount_add(q, table >> q->cluster_bits, 1, delta);
		rc = rc ?: breathe(q);
		rc = rc ?: step(q);
		if (rc == -ECANCELED) {
			q->steps.stops = false;
			return tree_refs(q, l1, i + 1, -delta) ?: rc;
		}
	}
	return rc;
}

static int table_flags(struct qcow2 *q, uint64_t table)
{
	uint64_t size = 1ull << q->slice_bits;
	int rc = 0;

	for (uint64_t off = 0; off < q->cluster_size && !rc; off += size) {
		struct q_slice *s;

		rc = q_slice_get(q, Q_L2, table + off, &s);
		for (uint64_t at = 0; at < size && !rc; at += q->l2_entry) {
			uint64_t entry = get_be64(s->data + at), v, now;

			if ((entry & Q_COMPRESSED) || !(entry & Q_OFFSET))
				continue;
			rc = q_refcount(q, (entry & Q_OFFSET) >> q->cluster_bits, &v);
			now = (entry & ~Q_COPIED) | (v == 1 ? Q_COPIED : 0);
			if (rc || now == entry)
				continue;
			put_be64(s->data + at, now);
			q_slice_dirty(q, s, at, 8);
		}
		q_slice_put(s);
	}
	return rc;
}

/* Sets COPIED in the active tables where a count is one, and only there. */
static int flags(struct qcow2 *q)
{
	int rc = 0;

	for (uint64_t i = 0; i < q->h.l1_size && !rc; i++) {
		uint64_t table = q->l1[i] & Q_OFFSET, v, now;

		if (!table)
			continue;
		rc = table_flags(q, table);
		rc = rc ?: q_refcount(q, table >> q->cluster_bits, &v);
		if (rc)
			break;
		now = table | (v == 1 ? Q_COPIED : 0);
		if (now != q->l1[i])
			bitmap_set(q->l1_dirty, i / 64);
		q->l1[i] = now;
		rc = breathe(q) ?: step(q);
	}
	return rc;
}

static int write_l1(struct qcow2 *q, const uint64_t *l1, uint64_t n, uint64_t keep, uint64_t *host)
{
	uint64_t clusters = MAX((n * 8 + q->cluster_size - 1) >> q->cluster_bits, 1ull);
	cleanup(free_ptr) uint8_t *buf = calloc(clusters, q->cluster_size);
	bool zero;
	int rc = buf ? q_alloc_exact(q, clusters, host, &zero) : -ENOMEM;

	for (uint64_t i = 0; i < n && !rc; i++)
		put_be64(buf + i * 8, l1[i] & (Q_OFFSET | keep));
	return rc ?: q_pwrite(q, q->file, *host, buf, clusters << q->cluster_bits);
}

/* ---- operations ---- */

/* The table while a writer works on it: nobody else changes it. */
struct q_snaps {
	struct q_snap *s;
	uint32_t *key; /* of each name, of each id: there may be tens of thousands */
	unsigned n;
	uint64_t last; /* the highest id */
};

static uint32_t key_of(const char *text)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	while (*text)
		h = (h ^ (uint8_t)*text++) * 16777619u;
	return h;
}

static int set_keys(struct q_snaps *t, unsigned from)
{
	uint32_t *key = realloc(t->key, MAX(t->n, 1u) * 2 * sizeof(*key));

	if (!key)
		return -ENOMEM;
	t->key = key;
	for (unsigned i = from; i < t->n; i++) {
		key[2 * i] = key_of(t->s[i].name);
		key[2 * i + 1] = key_of(t->s[i].id);
	}
	return 0;
}

void q_snaps_forget(struct qcow2 *q)
{
	struct q_snaps *t = steal_ptr(q->snaps);

	if (!t)
		return;
	q_snaps_free(t->s, t->n);
	free(t->key);
	free(t);
}

static int remember(struct qcow2 *q, struct err *e)
{
	struct q_snaps *t;
	int rc;

	if (q->snaps)
		return 0;
	t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	rc = q_snaps_load(q, &t->s, &t->n, e);
	q->snaps = t;
	if (!rc && set_keys(t, 0))
		rc = err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	for (unsigned i = 0; i < t->n && !rc; i++)
		t->last = MAX(t->last, strtoull(t->s[i].id, NULL, 10));
	if (rc)
		q_snaps_forget(q);
	return rc;
}

static int find(const struct q_snaps *t, const char *name)
{
	uint32_t key = key_of(name);

	for (unsigned i = 0; i < t->n; i++)
		if (t->key[2 * i] == key && !strcmp(t->s[i].name, name))
			return (int)i;
	for (unsigned i = 0; i < t->n; i++)
		if (t->key[2 * i + 1] == key && !strcmp(t->s[i].id, name))
			return (int)i;
	return -1;
}

static int create(struct qcow2 *q, struct q_snaps *t, const char *name)
{
	struct q_snap *more = realloc(t->s, (t->n + 1) * sizeof(*more)), *s;
	uint64_t now = clock_wall_ns();
	char text[24];
	int rc;

	if (!more)
		return -ENOMEM;
	t->s = more;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)++t->last);
	s = &t->s[t->n];
	/* A disk of 0 bytes may have a table of no entries, but a table takes a cluster, which nobody would count. */
	*s = (struct q_snap){.l1_size = MAX(q->h.l1_size, 1u),
		.date_s = (uint32_t)(now / 1000000000),
		.date_ns = (uint32_t)(now % 1000000000),
		.size = q->h.size,
		.icount = UINT64_MAX,
		.extra = malloc(1),
		.id = strdup(text),
		.name = strdup(name)};
	t->n++;
	if (!s->id || !s->name || !s->extra || set_keys(t, t->n - 1))
		return -ENOMEM;
	q->steps.of = 2 * tables_in(q->l1, q->h.l1_size);
	q->steps.stops = true;
	rc = tree_refs(q, q->l1, q->h.l1_size, 1);
	q->steps.stops = false;
	rc = rc ?: write_l1(q, q->l1, s->l1_size, 0, &s->l1_off);
	rc = rc ?: flags(q);
	rc = rc ?: append(q, s, t->n);
	return rc <= 0 ? rc : store(q, t->s, t->n);
}

static int delete (struct qcow2 *q, struct q_snaps *t, unsigned i, struct err *e)
{
	struct q_snap gone = t->s[i];
	uint64_t *l1 = NULL;
	int rc = q_snap_l1(q, &gone, &l1, e);

	if (rc)
		return rc;
	q->steps.of = tables_in(l1, gone.l1_size) + tables_in(q->l1, q->h.l1_size);
	memmove(&t->s[i], &t->s[i + 1], (t->n - i - 1) * sizeof(*t->s));
	memmove(&t->key[2 * i], &t->key[2 * i + 2], (t->n - i - 1) * 2 * sizeof(*t->key));
	t->n--;
	rc = store(q, t->s, t->n);
	rc = rc ?: tree_refs(q, l1, gone.l1_size, -1);
	rc = rc
		     ?: q_release(q, gone.l1_off,
				(gone.l1_size * 8ull + q->cluster_size - 1) >> q->cluster_bits,
				false);
	rc = rc ?: flags(q);
	free(l1);
	free(gone.extra);
	free(gone.id);
	free(gone.name);
	return rc;
}

/* Makes `l1` the active table, at `host`, of a disk of `size` bytes. One write of the header, behind a barrier. */
static int switch_l1(struct qcow2 *q, uint64_t *l1, uint32_t n, uint64_t host, uint64_t size)
{
	uint64_t old = q->h.l1_off, cs = q->cluster_size;
	uint64_t oldn = (q->h.l1_size * 8ull + cs - 1) >> q->cluster_bits;
	uint64_t newn = MAX((n * 8ull + cs - 1) >> q->cluster_bits, 1ull);
	uint64_t *dirty = calloc(BITMAP_WORDS((n + 63ull) / 64) + 1, 8);
	uint8_t field[24] = {0};
	int rc = dirty ? q_commit(q) : -ENOMEM;

	put_be64(field, size);
	put_be32(field + 12, n);
	put_be64(field + 16, host);
	rc = rc ?: q_header_switch(q, QCOW2_AT_SIZE, field, sizeof(field));
	if (rc) {
		free(dirty);
		return rc;
	}
	for (uint64_t c = 0; c < oldn; c++)
		q_set_del(&q->meta_set, (old >> q->cluster_bits) + c);
	for (uint64_t c = 0; c < newn; c++)
		if (q_set_add(&q->meta_set, (host >> q->cluster_bits) + c) < 0)
			rc = -ENOMEM;
	free(q->l1);
	free(q->l1_dirty);
	q->l1 = l1;
	q->l1_dirty = dirty;
	q->h.l1_off = host;
	q->h.l1_size = n;
	q->h.size = q->d->size = size;
	return rc ?: oldn ? q_release(q, old, oldn, false) : 0;
}

int q_resize_l1(struct qcow2 *q, uint32_t n, uint64_t size)
{
	uint64_t host, *l1 = calloc(n, 8);
	int rc = l1 ? 0 : -ENOMEM;

	if (!rc)
		memcpy(l1, q->l1, MIN(n, q->h.l1_size) * 8ull);
	rc = rc ?: q_commit(q);
	rc = rc ?: write_l1(q, l1, n, Q_COPIED, &host);
	rc = rc ?: switch_l1(q, l1, n, host, size);
	if (rc && q->l1 != l1)
		free(l1);
	return rc ?: q_commit(q);
}

static int note_tables(struct qcow2 *q, const uint64_t *l1, uint64_t n, bool add)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t c = (l1[i] & Q_OFFSET) >> q->cluster_bits;

		if (c && add && q_set_add(&q->meta_set, c) < 0)
			return -ENOMEM;
		if (c && !add)
			q_set_del(&q->meta_set, c);
	}
	return 0;
}

static int apply(struct qcow2 *q, const struct q_snap *s, struct err *e)
{
	uint32_t n = MAX(
		s->l1_size, (uint32_t)qcow2_l1_entries(s->size, q->cluster_bits, q->extended));
	cleanup(free_ptr) uint64_t *old = NULL;
	uint64_t *l1 = NULL, *more, host = 0, oldn = q->h.l1_size;
	int rc = q_snap_l1(q, s, &l1, e);

	if (rc)
		return rc;
	n = MAX(n, 1u);
	more = calloc(n, 8);
	old = calloc(MAX(oldn, 1ull), 8);
	rc = more && old ? 0 : -ENOMEM;
	if (!rc) {
		memcpy(more, l1, s->l1_size * 8ull);
		memcpy(old, q->l1, oldn * 8);
		q->steps.of = 2 * tables_in(more, n) + tables_in(old, oldn);
	}
	q->steps.stops = true;
	rc = rc ?: tree_refs(q, more, n, 1);
	q->steps.stops = false;
	rc = rc ?: q_bitmaps_resize(q, s->size);
	rc = rc ?: write_l1(q, more, n, 0, &host);
	rc = rc ?: switch_l1(q, more, n, host, s->size);
	free(l1);
	if (rc) {
		if (q->l1 != more)
			free(more);
		return rc;
	}
	q_bitmaps_mark_all(q); /* anything may be another than it was */
	rc = note_tables(q, old, oldn, false);
	rc = rc ?: note_tables(q, more, n, true);
	rc = rc ?: tree_refs(q, old, oldn, -1);
	return rc ?: flags(q);
}

/* With it the image could not be opened any more. */
static bool bad_size(const struct qcow2 *q, uint64_t size)
{
	return size % 512 ||
	       qcow2_l1_entries(size, q->cluster_bits, q->extended) > QCOW2_L1_MAX / 8;
}

static int refuse(struct qcow2 *q, enum disk_snap_op op, struct q_snaps *t, const char *name, int i,
	struct err *e)
{
	const char *path = q->d->o.path;

	if (q->data_file)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: snapshots and an external data file exclude each other", path);
	if (!q->writable || q->corrupt)
		return err_set(e, -EROFS, "disk %s: is not open for writing", path);
	if (op != DISK_SNAP_CREATE && i < 0)
		return err_set(e, -ENOENT, "disk %s: there is no snapshot %s", path, name);
	if (op == DISK_SNAP_APPLY && bad_size(q, t->s[i].size))
		return err_set(e, -EUCLEAN,
			"disk %s: snapshot %s is damaged: no disk has %llu bytes", path, name,
			(unsigned long long)t->s[i].size);
	/* QEMU takes a bitmap without a table for damage. */
	if (op == DISK_SNAP_APPLY && !t->s[i].size && q->nbitmaps)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: had 0 bytes in snapshot %s, of which there are no bitmaps: "
			"remove them first (lodge disk bitmap --remove)",
			path, name);
	if (op != DISK_SNAP_CREATE)
		return 0;
	if (i >= 0)
		return err_set(e, -EEXIST,
			"disk %s: there is a snapshot with the name or id %s already", path, name);
	if (!*name || strlen(name) > 255)
		return err_set(e, -EINVAL, "disk %s: names of snapshots have 1 to 255 bytes", path);
	if (t->n >= QCOW2_SNAPSHOTS_MAX)
		return err_set(
			e, -EFBIG, "disk %s: at most %u snapshots", path, QCOW2_SNAPSHOTS_MAX);
	if (t->n + 2ull > q->refcount_max)
		return err_set(e, -EOVERFLOW,
			"disk %s: its counts of %u bits have no room for another snapshot: delete "
			"one, or convert it to refcount-bits=16",
			path, 1u << q->h.refcount_order);
	return 0;
}

static void frees_drop(struct q_frees *f)
{
	free(f->a);
	*f = (struct q_frees){0};
}

/* Half done: what the tables say is right, and the counts are made so. Else no more writes; opened again it is repaired. */
static int give_up(struct qcow2 *q, int code, struct err *e)
{
	uint64_t rt = q->h.rt_off;
	int rc = q->corrupt ? -EIO : q_commit(q);

	q->reserve = (struct q_reserve){0};
	rc = rc ?: q_check(q, Q_RECOVER, NULL, NULL, NULL);
	/* The counts are exact now: nothing waits to be counted down. */
	frees_drop(&q->frees);
	frees_drop(&q->unflushed);
	frees_drop(&q->idle);
	q->free_at = 0;
	q->packed_at = q->packed_end = 0;
	if (rc || rt != q->h.rt_off)
		q->corrupt = true;
	if (code == -EOVERFLOW)
		return err_set(e, code,
			"disk %s: its counts of %u bits have no room for another snapshot: delete "
			"one, or convert it to refcount-bits=16",
			q->d->o.path, 1u << q->h.refcount_order);
	return err_sys(e, code, "disk %s: the snapshot could not be finished%s", q->d->o.path,
		q->corrupt ? "; the disk is repaired when it is opened again" : "");
}

int q_snapshot(struct disk *d, enum disk_snap_op op, const char *name, struct err *e)
{
	struct qcow2 *q = d->priv;
	bool was_dirty = q->dirty_set, stopped;
	int rc = remember(q, e), i;

	if (rc)
		return rc;
	i = find(q->snaps, name);
	rc = refuse(q, op, q->snaps, name, i, e);
	if (rc)
		return rc;
	rc = q_settle(q);
	rc = rc ?: q_set_incompatible(q, QCOW2_DIRTY, 0);
	q->dirty_set = q->v3;
	q->steps.done = q->steps.of = 0;
	if (!rc)
		rc = op == DISK_SNAP_CREATE   ? create(q, q->snaps, name)
		     : op == DISK_SNAP_DELETE ? delete (q, q->snaps, (unsigned)i, e)
					      : apply(q, &q->snaps->s[i], e);
	stopped = rc == -ECANCELED;
	rc = stopped ? q_settle(q) : rc ?: q_settle(q);
	q->dirty_set = was_dirty;
	if (!rc && !was_dirty)
		rc = q_set_incompatible(q, 0, QCOW2_DIRTY);
	if (!rc && !stopped)
		return 0;
	q_snaps_forget(q);
	if (!rc)
		return err_set(e, -ECANCELED, "disk %s: stopped: it is as it was before%s",
			d->o.path, op == DISK_SNAP_CREATE ? ", without a new snapshot" : "");
	return give_up(q, rc, e);
}

int q_snapshots(struct disk *d, struct disk_snapshot **out, unsigned *n, struct err *e)
{
	struct qcow2 *q = d->priv;
	struct q_snap *s;
	int rc = q_snaps_load(q, &s, n, e);

	if (rc)
		return rc;
	*out = calloc(MAX(*n, 1u), sizeof(**out));
	for (unsigned i = 0; *out && i < *n; i++) {
		struct disk_snapshot *o = &(*out)[i];

		snprintf(o->id, sizeof(o->id), "%s", s[i].id);
		snprintf(o->name, sizeof(o->name), "%s", s[i].name);
		o->size = s[i].size;
		o->vm_size = s[i].vm_size;
		o->date = s[i].date_s;
		o->clock_ns = s[i].clock_ns;
	}
	q_snaps_free(s, *n);
	return *out ? 0 : err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
}
