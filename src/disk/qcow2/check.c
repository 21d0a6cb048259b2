#include "disk/qcow2/check.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/qcow2/bitmap.h"
#include "disk/qcow2/snapshot.h"

#define CHUNK 16u /* log2 of the counters that are made at once */
#define SAID_MAX 50u /* findings that are put into words */
#define BEHIND 4u /* clusters, that compressed data may reach behind the end */
#define FILE_MAX (1ull << 40) /* clusters */
#define TAKE_MAX (1ull << 20) /* clusters that a repair takes for what shares its own with others */

/* What is known of a cluster beside how often it is referred to. */
#define CLAIMED (1u << 31) /* something of the disk as it is now has it */
#define TABLE (1u << 30) /* metadata, but for the disk's L2 tables */
#define ACTIVE (1u << 29) /* an L2 table of the disk */
#define COUNT_MAX (ACTIVE - 1)

struct check {
	struct qcow2 *q;
	const struct disk_watch *w;
	struct disk_check *out;
	struct err *e;
	enum q_check_kind kind;
	uint64_t n; /* clusters that may be referred to */
	uint64_t limit,
		end; /* up to where entries point somewhere: the file's end, and that with what was taken */
	uint32_t **count; /* by chunks */
	uint64_t *tables; /* L2 tables as often as they are referred to, in order */
	uint64_t *old; /* those that snapshots refer to */
	size_t ntables, nold, cap;
	bool rebuild; /* refcount blocks are not sound, or missing */
	bool unsafe; /* counts that are too low */
	bool damaged,
		overlap; /* there are entries that point nowhere; clusters that two things have */
	unsigned said;
	uint64_t stays; /* errors that a repair leaves */
	uint64_t taken, take_max, free_at; /* clusters for what moves */
	struct q_set left; /* L2 tables that are something else, too: nothing is written there */
	uint8_t *buf, *copy; /* a cluster each */
	uint64_t work, of; /* progress */
};

static void say(struct check *k, bool error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void say(struct check *k, bool error, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (error)
		k->out->errors++;
	if (!k->w || !k->w->found || k->said > SAID_MAX)
		return;
	if (k->said++ == SAID_MAX) {
		k->w->found(k->w->ctx, error, "and more");
		return;
	}
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	k->w->found(k->w->ctx, error, text);
}

static bool go_on(struct check *k, uint64_t done)
{
	k->work += done;
	return !k->w || !k->w->progress || k->w->progress(k->w->ctx, MIN(k->work, k->of), k->of);
}

static int no_memory(struct check *k)
{
	return err_set(k->e, -ENOMEM, "disk %s: out of memory", k->q->d->o.path);
}

/* ---- counting ---- */

static uint32_t *counter(struct check *k, uint64_t c, bool make)
{
	uint32_t **chunk = &k->count[c >> CHUNK];

	if (!*chunk && make)
		*chunk = calloc(1u << CHUNK, sizeof(**chunk));
	return *chunk ? &(*chunk)[c & ((1u << CHUNK) - 1)] : NULL;
}

static uint32_t known(struct check *k, uint64_t c)
{
	const uint32_t *p = c < k->n ? counter(k, c, false) : NULL;

	return p ? *p : 0;
}

static uint32_t counted(struct check *k, uint64_t c)
{
	return known(k, c) & COUNT_MAX;
}

static int count_as(struct check *k, uint64_t cluster, uint64_t n, uint32_t by, uint32_t mark)
{
	for (; n; n--, cluster++) {
		uint32_t *p = cluster < k->n ? counter(k, cluster, true) : NULL;

		if (cluster >= k->n)
			return 0;
		if (!p)
			return no_memory(k);
		*p = (uint32_t)MIN((uint64_t)(*p & COUNT_MAX) + by, (uint64_t)COUNT_MAX) |
		     (*p & ~COUNT_MAX) | mark;
	}
	return 0;
}

static int count(struct check *k, uint64_t cluster, uint64_t n, uint32_t by)
{
	return count_as(k, cluster, n, by, 0);
}

static int mark(struct check *k, uint64_t cluster, uint32_t as)
{
	return count_as(k, cluster, 1, 0, as);
}

static void uncount(struct check *k, uint64_t cluster, uint32_t by)
{
	uint32_t *p = counter(k, cluster, false);

	if (p && (*p & COUNT_MAX) != COUNT_MAX)
		*p -= MIN(by, *p & COUNT_MAX);
}

/* Of tables. */
static int count_bytes(struct check *k, uint64_t off, uint64_t bytes)
{
	unsigned cb = k->q->cluster_bits;

	return bytes ? count_as(k, off >> cb, ((off + bytes - 1) >> cb) - (off >> cb) + 1, 1, TABLE)
		     : 0;
}

/* May there be a table? */
static bool place_ok(const struct check *k, uint64_t off)
{
	return off && !(off & (k->q->cluster_size - 1)) && off >> k->q->cluster_bits < k->limit;
}

static int add_table(struct check *k, uint64_t off)
{
	if (k->ntables == k->cap) {
		size_t cap = k->cap ? k->cap * 2 : 256;
		uint64_t *more = realloc(k->tables, cap * sizeof(*more));

		if (!more)
			return no_memory(k);
		k->tables = more;
		k->cap = cap;
	}
	k->tables[k->ntables++] = off;
	return 0;
}

/* The entries of one L1 table. `active`: the one in memory, which may be repaired. */
static int count_l1(struct check *k, uint64_t *l1, uint64_t n, const char *of, bool active)
{
	struct qcow2 *q = k->q;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t off = l1[i] & Q_OFFSET, c = off >> q->cluster_bits;
		bool bad = (l1[i] & Q_L1_RESERVED) || (off && !place_ok(k, off));
		int rc;

		if (bad) {
			say(k, true, "L1 entry %llu of %s points nowhere (0x%llx)",
				(unsigned long long)i, of, (unsigned long long)l1[i]);
			if (k->kind != Q_LOOK && active) {
				l1[i] = 0;
				bitmap_set(q->l1_dirty, i / 64);
			}
			k->stays += !active;
			continue;
		}
		if (!off)
			continue;
		rc = count_as(k, c, 1, 1, active ? ACTIVE : known(k, c) & ACTIVE ? 0 : TABLE);
		rc = rc ?: add_table(k, off);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- L2 tables ---- */

struct l2 {
	uint64_t off;
	uint32_t times;
	bool active;
	uint64_t next; /* expected place of the following cluster: fragmentation */
	uint64_t bad, first_bad; /* entries */
};

static bool bad_entry(const struct check *k, const uint8_t *p)
{
	const struct qcow2 *q = k->q;
	uint64_t entry = get_be64(p), bitmap = q->extended ? get_be64(p + 8) : 0;
	uint64_t host = entry & Q_OFFSET, at = q_packed_host(q, entry);

	if (entry & Q_COMPRESSED)
		return (entry & Q_COPIED) || q->data_file || !at ||
		       at >> q->cluster_bits >= k->limit;
	return (host & (q->cluster_size - 1)) ||
	       (!q->data_file && host >> q->cluster_bits >= k->limit) ||
	       (q->extended && (bitmap >> 32 & bitmap & 0xffffffff)) ||
	       (q->extended && (uint32_t)bitmap && q_entry_type(q, entry) != Q_NORMAL) ||
	       (!q->v3 && (entry & Q_ZERO));
}

static int count_entry(struct check *k, struct l2 *t, const uint8_t *p, uint64_t i)
{
	struct qcow2 *q = k->q;
	uint64_t entry = get_be64(p), host = entry & Q_OFFSET, c = host >> q->cluster_bits;

	if (bad_entry(k, p)) {
		t->first_bad = t->bad++ ? t->first_bad : i;
		return 0;
	}
	if (entry & Q_COMPRESSED) {
		uint64_t at = q_packed_host(q, entry);
		uint64_t end = ((at + q_packed_len(q, entry) - 1) >> q->cluster_bits) + 1;

		k->out->allocated += t->active;
		k->out->compressed += t->active;
		/* It may reach over the end of the file, where something will be put. */
		k->n = MAX(k->n, end);
		c = at >> q->cluster_bits;
		return count(k, c, end - c, t->times);
	}
	if (q_entry_type(q, entry) == Q_UNALLOCATED)
		return 0;
	if (t->active && q_entry_type(q, entry) == Q_NORMAL) {
		k->out->allocated++;
		k->out->fragmented += t->next && host != t->next;
		t->next = host + q->cluster_size;
	}
	if (q->data_file || !host)
		return 0;
	if (!t->active)
		return count(k, c, 1, t->times);
	k->overlap |= known(k, c) & (CLAIMED | TABLE);
	return count_as(k, c, 1, t->times, CLAIMED);
}

static int count_table(struct check *k, struct l2 *t)
{
	struct qcow2 *q = k->q;
	int rc = file_read(q->file, t->off, k->buf, q->cluster_size, k->e);

	for (uint64_t i = 0; i < q->cluster_size / q->l2_entry && !rc; i++)
		rc = count_entry(k, t, k->buf + i * q->l2_entry, i);
	if (!rc && t->bad) {
		k->damaged = true;
		k->out->errors += t->bad - 1;
		say(k, true,
			"the L2 table at 0x%llx has damaged entries: %llu, the first with number "
			"%llu (0x%llx)",
			(unsigned long long)t->off, (unsigned long long)t->bad,
			(unsigned long long)t->first_bad,
			(unsigned long long)get_be64(k->buf + t->first_bad * q->l2_entry));
	}
	if (!rc && !go_on(k, q->cluster_size))
		rc = err_set(k->e, -ECANCELED, "disk %s: the check was stopped", q->d->o.path);
	return rc;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* How often one of them follows another that is the same, from i on. */
static size_t alike(const uint64_t *tables, size_t n, size_t i)
{
	size_t same = 1;

	while (i + same < n && tables[i + same] == tables[i])
		same++;
	return same;
}

/* How often that table is referred to. */
static uint32_t times(const struct check *k, uint64_t off)
{
	size_t lo = 0, hi = k->ntables;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (k->tables[mid] < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < k->ntables && k->tables[lo] == off
		       ? (uint32_t)MIN(alike(k->tables, k->ntables, lo), (size_t)COUNT_MAX)
		       : 0;
}

/* The first of k->tables are those of the disk. */
static int sort_tables(struct check *k, size_t active, struct q_set *mine)
{
	for (size_t i = 0; i < active; i++) {
		int rc = q_set_add(mine, k->tables[i]);

		if (rc < 0)
			return no_memory(k);
		k->overlap |= rc;
	}
	k->nold = k->ntables - active;
	free(k->old);
	k->old = calloc(MAX(k->nold, (size_t)1), sizeof(*k->old));
	if (!k->old)
		return no_memory(k);
	if (k->nold)
		memcpy(k->old, k->tables + active, k->nold * sizeof(*k->old));
	qsort(k->old, k->nold, sizeof(*k->old), by_number);
	if (k->ntables)
		qsort(k->tables, k->ntables, sizeof(*k->tables), by_number);
	return 0;
}

static int count_tables(struct check *k, size_t active)
{
	unsigned cb = k->q->cluster_bits;
	uint64_t next = 0;
	struct q_set set = {0};
	int rc = sort_tables(k, active, &set);

	k->of = k->ntables * k->q->cluster_size;
	for (size_t i = 0, same; i < k->ntables && !rc; i += same) {
		struct l2 t = {.off = k->tables[i], .next = next};

		same = alike(k->tables, k->ntables, i);
		t.times = (uint32_t)MIN(same, (size_t)COUNT_MAX);
		t.active = q_set_has(&set, t.off);
		rc = count_table(k, &t);
		next = t.next;
	}
	for (size_t i = 0, same; i < k->ntables && !rc; i += same) {
		same = alike(k->tables, k->ntables, i);
		k->overlap |= counted(k, k->tables[i] >> cb) != MIN(same, (size_t)COUNT_MAX);
	}
	free(set.slot);
	return rc;
}

/* ---- what else is referred to ---- */

static int count_snapshots(struct check *k)
{
	struct qcow2 *q = k->q;
	struct q_snap *s;
	unsigned n;
	int rc;

	if (!q->h.nb_snapshots)
		return 0;
	rc = q_snaps_load(q, &s, &n, k->e);
	if (rc)
		return rc;
	rc = count_bytes(k, q->h.snapshots_off, q->snapshots_bytes);
	for (unsigned i = 0; i < n && !rc; i++) {
		uint64_t *l1 = NULL, first = s[i].l1_off >> q->cluster_bits;

		/* A table inside another would be read again and again. */
		if (s[i].l1_size && counted(k, first)) {
			say(k, true, "the L1 table of snapshot %s overlaps something else",
				s[i].name);
			k->stays++;
			continue;
		}
		rc = count_bytes(k, s[i].l1_off, s[i].l1_size * 8ull);
		rc = rc ?: q_snap_l1(q, &s[i], &l1, k->e);
		rc = rc ?: count_l1(k, l1, s[i].l1_size, s[i].name, false);
		free(l1);
	}
	q_snaps_free(s, n);
	return rc;
}

static int count_bitmap(void *ctx, uint64_t off, uint64_t bytes)
{
	return count_bytes(ctx, off, bytes);
}

/* The refcount table and its blocks; where these are not sound the counts are not looked at. */
static int count_refcounts(struct check *k)
{
	struct qcow2 *q = k->q;
	int rc = count_bytes(k, q->h.rt_off, (uint64_t)q->h.rt_clusters << q->cluster_bits);

	for (uint64_t i = 0; i < q->rt_entries && !rc; i++) {
		uint64_t off = q->rt[i];

		if (!off)
			continue;
		if ((off & 511) || !place_ok(k, off) || counted(k, off >> q->cluster_bits)) {
			say(k, true, "refcount block %llu is not sound (0x%llx)",
				(unsigned long long)i, (unsigned long long)off);
			k->rebuild = true;
			continue;
		}
		rc = count_bytes(k, off, 1);
	}
	return rc;
}

static int count_all(struct check *k, bool refcounts)
{
	struct qcow2 *q = k->q;
	size_t active;
	int rc = count_bytes(k, 0, 1);

	rc = rc ?: count_bytes(k, q->h.l1_off, q->h.l1_size * 8ull);
	rc = rc ?: refcounts ? count_refcounts(k) : 0;
	rc = rc ?: count_l1(k, q->l1, q->h.l1_size, "the disk", true);
	active = k->ntables;
	rc = rc ?: count_snapshots(k);
	rc = rc ?: q_bitmaps_clusters(q, count_bitmap, k, k->e);
	return rc ?: count_tables(k, active);
}

/* ---- comparing ---- */

static void compare_one(struct check *k, uint64_t c, uint64_t stored, uint64_t want)
{
	if (stored == want || want > k->q->refcount_max)
		return; /* what there is no room for is told of by look_at_width() */
	if (stored > want) {
		k->out->leaks++;
		say(k, false, "cluster %llu: its count is %llu, references to it: %llu",
			(unsigned long long)c, (unsigned long long)stored,
			(unsigned long long)want);
		return;
	}
	say(k, true, "cluster %llu: its count is %llu, references to it: %llu",
		(unsigned long long)c, (unsigned long long)stored, (unsigned long long)want);
}

static bool any_counted(struct check *k, uint64_t from, uint64_t n)
{
	for (uint64_t c = from; c < MIN(from + n, k->n);) {
		if (!k->count[c >> CHUNK])
			c = ((c >> CHUNK) + 1) << CHUNK;
		else if (counted(k, c))
			return true;
		else
			c++;
	}
	return false;
}

/* One block's worth; `fix` writes what was counted into it. */
static int compare_block(struct check *k, uint64_t i, bool fix)
{
	struct qcow2 *q = k->q;
	uint64_t per = 1ull << q->rb_bits, first = i << q->rb_bits;
	unsigned order = q->h.refcount_order;
	bool have = i < q->rt_entries && q->rt[i] && !k->rebuild, changed = false;
	int rc = 0;

	if (!have) {
		if (!any_counted(k, first, per))
			return 0;
		k->rebuild = true;
		for (uint64_t c = first; c < first + per && c < k->n; c++)
			if (!fix)
				compare_one(k, c, 0, counted(k, c));
		return 0;
	}
	rc = file_read(q->file, q->rt[i], k->buf, q->cluster_size, k->e);
	if (rc)
		return rc;
	for (uint64_t c = 0; c < per; c++) {
		uint64_t stored = q_refcount_in(k->buf, order, c);
		uint64_t want = MIN((uint64_t)counted(k, first + c), q->refcount_max);

		if (!fix) {
			compare_one(k, first + c, stored, counted(k, first + c));
		} else if (stored != want) {
			q_refcount_put(k->buf, order, c, want);
			changed = true;
		}
		if (want)
			k->out->end = MAX(k->out->end, (first + c + 1) << q->cluster_bits);
	}
	return changed ? file_write(q->file, q->rt[i], k->buf, q->cluster_size, k->e) : 0;
}

static int compare(struct check *k, bool fix)
{
	struct qcow2 *q = k->q;
	uint64_t blocks = MAX(q->rt_entries, (k->n >> q->rb_bits) + 1);
	int rc = 0;

	for (uint64_t i = 0; i < blocks && !rc; i++)
		rc = compare_block(k, i, fix);
	return rc;
}

/* A count that is too low would free what is still in use: that is left to who has the image. */
static void look_at_width(struct check *k)
{
	for (uint64_t c = 0; c < k->n && k->q->refcount_max < COUNT_MAX; c++) {
		if (!k->count[c >> CHUNK]) {
			c |= (1u << CHUNK) - 1;
			continue;
		}
		if (counted(k, c) <= k->q->refcount_max)
			continue;
		say(k, true,
			"cluster %llu: is referred to %u times, for which counts of %u bits have "
			"no room",
			(unsigned long long)c, counted(k, c), 1u << k->q->h.refcount_order);
		k->stays++;
		k->unsafe = true;
	}
}

/* ---- a place of its own for each ---- */

static int mark_corrupt(struct check *k)
{
	struct qcow2 *q = k->q;
	uint8_t field[8];
	int rc;

	if (!q->v3 || (q->h.incompatible & QCOW2_CORRUPT))
		return 0;
	put_be64(field, q->h.incompatible | QCOW2_CORRUPT);
	rc = file_write(q->file, QCOW2_AT_INCOMPATIBLE, field, sizeof(field), k->e);
	rc = rc ?: file_flush(q->file, k->e);
	if (!rc)
		q->h.incompatible |= QCOW2_CORRUPT;
	return rc;
}

/*
 * A cluster that nobody has, in *out; 0: there is none, or enough was taken: an image that was made with bad intentions may want any number. Until its count
 * is there, the image is marked.
 */
static int take(struct check *k, uint64_t *out)
{
	struct qcow2 *q = k->q;
	uint64_t c = k->n, end = q->file->size >> q->cluster_bits;

	*out = 0;
	if (k->taken == k->take_max)
		return 0;
	if (q->file->block_device) {
		for (c = MAX(k->free_at, 1ull); c < end && known(k, c); c++)
			;
		k->free_at = c + 1;
		if (c >= end)
			return 0;
	}
	k->n = MAX(k->n, c + 1);
	k->end = MAX(k->end, c + 1);
	k->rebuild |= c >> q->rb_bits >= q->rt_entries || !q->rt[c >> q->rb_bits];
	k->taken++;
	*out = c;
	return mark_corrupt(k);
}

/* An L2 table of the disk. */
struct own {
	uint64_t off;
	uint32_t times;
	bool changed, copied;
};

static int own_cluster(struct check *k, struct own *t, uint8_t *p)
{
	struct qcow2 *q = k->q;
	uint64_t entry = get_be64(p), host = entry & Q_OFFSET, to;
	int rc = take(k, &to);

	k->stays += !to;
	if (rc || !to)
		return rc;
	rc = file_read(q->file, host, k->copy, q->cluster_size, k->e);
	rc = rc ?: file_write(q->file, to << q->cluster_bits, k->copy, q->cluster_size, k->e);
	rc = rc ?: count_as(k, to, 1, t->times, CLAIMED);
	uncount(k, host >> q->cluster_bits, t->times);
	put_be64(p, (entry & ~(Q_OFFSET | Q_COPIED)) | to << q->cluster_bits |
			    (t->times == 1 ? Q_COPIED : 0));
	t->changed = t->copied = true;
	return rc;
}

static int own_entry(struct check *k, struct own *t, uint8_t *p, uint64_t i)
{
	struct qcow2 *q = k->q;
	uint64_t entry = get_be64(p), host = entry & Q_OFFSET, c = host >> q->cluster_bits;

	if (bad_entry(k, p)) {
		memset(p, 0, q->l2_entry); /* was told of when it was counted */
		t->changed = true;
		return 0;
	}
	if ((entry & Q_COMPRESSED) || q->data_file || !host)
		return 0;
	if (!(known(k, c) & (CLAIMED | TABLE)))
		return mark(k, c, CLAIMED);
	say(k, true,
		"entry %llu of the L2 table at 0x%llx: its cluster is something else, too (0x%llx)",
		(unsigned long long)i, (unsigned long long)t->off, (unsigned long long)host);
	if (k->kind == Q_REPAIR)
		return own_cluster(k, t, p);
	k->stays++;
	return 0;
}

/* A table that is something else, too, is not written to: that may be the guest's data. */
static int own_place(struct check *k, uint64_t i, uint64_t c, uint64_t *to)
{
	struct qcow2 *q = k->q;
	int rc = 0;

	say(k, true, "L1 entry %llu: its L2 table is something else, too (0x%llx)",
		(unsigned long long)i, (unsigned long long)c << q->cluster_bits);
	*to = 0;
	if (k->kind == Q_REPAIR)
		rc = take(k, to);
	if (rc)
		return rc;
	if (!*to) {
		k->stays++;
		return q_set_add(&k->left, c << q->cluster_bits) < 0 ? no_memory(k) : 0;
	}
	uncount(k, c, 1);
	q->l1[i] = *to << q->cluster_bits | Q_COPIED;
	bitmap_set(q->l1_dirty, i / 64);
	return count(k, *to, 1, 1);
}

static int own_table(struct check *k, uint64_t i)
{
	struct qcow2 *q = k->q;
	uint64_t off = q->l1[i] & Q_OFFSET, c = off >> q->cluster_bits, to = c;
	struct own t = {.off = off, .times = counted(k, c)};
	bool twice = known(k, c) & CLAIMED;
	int rc = 0;

	if (!off || !place_ok(k, off))
		return 0;
	if (twice && k->kind == Q_RECOVER && t.times == times(k, off))
		return 0; /* by another L1 entry, and nothing else: that one was dealt with */
	if (twice || t.times != times(k, off)) {
		rc = own_place(k, i, c, &to);
		t.times = 1;
	}
	if (rc || !to)
		return rc;
	rc = mark(k, to, CLAIMED);
	rc = rc ?: file_read(q->file, off, k->buf, q->cluster_size, k->e);
	for (uint64_t n = 0; n < q->cluster_size / q->l2_entry && !rc; n++)
		rc = own_entry(k, &t, k->buf + n * q->l2_entry, n);
	if (rc || k->kind == Q_LOOK || (!t.changed && to == c))
		return rc;
	if (t.copied)
		rc = file_flush(q->file, k->e);
	return rc ?: file_write(q->file, to << q->cluster_bits, k->buf, q->cluster_size, k->e);
}

/* What only snapshots have: entries that point nowhere go, and what shares a cluster with something else is left. */
static int empty_old(struct check *k, uint64_t off)
{
	struct qcow2 *q = k->q;
	bool changed = false;
	int rc = file_read(q->file, off, k->buf, q->cluster_size, k->e);

	for (uint64_t at = 0; at < q->cluster_size && !rc; at += q->l2_entry) {
		if (!bad_entry(k, k->buf + at))
			continue;
		memset(k->buf + at, 0, q->l2_entry);
		changed = true;
	}
	return changed && !rc ? file_write(q->file, off, k->buf, q->cluster_size, k->e) : rc;
}

static int old_tables(struct check *k)
{
	struct qcow2 *q = k->q;
	struct q_set mine = {0};
	int rc = 0;

	for (uint64_t i = 0; i < q->h.l1_size && !rc; i++)
		if (q->l1[i] & Q_OFFSET && q_set_add(&mine, q->l1[i] & Q_OFFSET) < 0)
			rc = no_memory(k);
	for (size_t i = 0, same; i < k->nold && !rc; i += same) {
		uint64_t off = k->old[i];

		same = alike(k->old, k->nold, i);
		if (q_set_has(&mine, off))
			continue;
		if (counted(k, off >> q->cluster_bits) == MIN(same, (size_t)COUNT_MAX)) {
			rc = k->kind == Q_LOOK ? 0 : empty_old(k, off);
			continue;
		}
		say(k, true, "the L2 table of a snapshot at 0x%llx is something else, too",
			(unsigned long long)off);
		k->stays++;
	}
	free(mine.slot);
	return rc;
}

static int write_l1(struct check *k)
{
	struct qcow2 *q = k->q;
	cleanup(free_ptr) uint8_t *buf = NULL;
	uint64_t groups = (q->h.l1_size + 63ull) / 64;

	if (!bitmap_count(q->l1_dirty, groups))
		return 0;
	buf = malloc(q->h.l1_size * 8ull);
	if (!buf)
		return no_memory(k);
	for (uint64_t i = 0; i < q->h.l1_size; i++)
		put_be64(buf + i * 8, q->l1[i]);
	bitmap_clear_range(q->l1_dirty, 0, groups);
	return file_write(q->file, q->h.l1_off, buf, q->h.l1_size * 8ull, k->e);
}

static void unclaim(struct check *k)
{
	for (uint64_t i = 0; i <= k->n >> CHUNK; i++)
		for (uint64_t n = 0; k->count[i] && n < 1u << CHUNK; n++)
			k->count[i][n] &= ~CLAIMED;
}

/*
 * Each table and each cluster of data has one owner in the disk, or gets a copy. Only a table that is nothing else is changed in place: in another the guest
 * may have data.
 */
static int own_all(struct check *k)
{
	int rc = 0;

	unclaim(k);
	k->copy = malloc(k->q->cluster_size);
	if (!k->copy)
		return no_memory(k);
	k->of += k->q->h.l1_size;
	for (uint64_t i = 0; i < k->q->h.l1_size && !rc; i++) {
		rc = own_table(k, i);
		if (!rc && !go_on(k, 1))
			rc = err_set(k->e, -ECANCELED, "disk %s: the check was stopped",
				k->q->d->o.path);
	}
	k->limit = k->end;
	/* What follows may change what was copied. */
	if (k->taken && !rc)
		rc = file_flush(k->q->file, k->e) ?: write_l1(k) ?: file_flush(k->q->file, k->e);
	return rc ?: old_tables(k);
}

/* ---- a new refcount table ---- */

static bool touches(uint64_t a, uint64_t n, uint64_t b, uint64_t m)
{
	return a < b + m && b < a + n;
}

/* Where n clusters in a row are free: behind the end of the file, or, as a block device does not become longer, inside. */
static int find_room(struct check *k, uint64_t n, uint64_t *start)
{
	struct qcow2 *q = k->q;
	uint64_t run = 0, end = q->file->size >> q->cluster_bits;

	*start = k->n;
	if (!q->file->block_device)
		return 0;
	for (uint64_t c = 1; c < end && run < n; c++) {
		run = counted(k, c) ? 0 : run + 1;
		*start = c + 1 - run;
	}
	if (run < n)
		return err_set(k->e, -ENOSPC,
			"disk %s: new counts need %llu bytes in a row, and nowhere on the device "
			"are so many free: make it longer, or take what is there with `lodge disk "
			"convert`",
			q->d->o.path, (unsigned long long)n << q->cluster_bits);
	return 0;
}

/* First the table, then the blocks in order. The counts of the old one are gone (counted again without). */
static int rebuild(struct check *k)
{
	struct qcow2 *q = k->q;
	unsigned cb = q->cluster_bits, order = q->h.refcount_order;
	uint64_t per = 1ull << q->rb_bits, start, blocks, used, clusters, at, b = 0, own;
	cleanup(free_ptr) uint64_t *rt = NULL;
	uint8_t field[12];
	int rc = 0;

	/* Blocks that are needed for what is used, and for the new structure itself. */
	used = 0;
	for (uint64_t i = 0; i << q->rb_bits < k->n; i++)
		used += any_counted(k, i << q->rb_bits, per);
	clusters = blocks = 1;
	for (uint64_t was = 0; was != clusters + blocks;) {
		was = clusters + blocks;
		blocks = used + was / per + 2;
		clusters = ((((k->n + was + blocks) >> q->rb_bits) + 1) * 8 + q->cluster_size -
				   1) >>
			   cb;
	}
	if (clusters << cb > QCOW2_RT_MAX)
		return err_set(k->e, -EFBIG, "disk %s: is too large for a new refcount table",
			q->d->o.path);
	rc = find_room(k, clusters + blocks, &start);
	if (rc)
		return rc;
	rt = calloc(clusters << cb, 1);
	if (!rt)
		return no_memory(k);
	at = start + clusters;
	used = 0;
	for (uint64_t i = 0; i < (clusters << cb) / 8; i++)
		used += touches(i << q->rb_bits, per, start, clusters + blocks) ||
			any_counted(k, i << q->rb_bits, per);
	own = clusters + used;
	for (uint64_t i = 0; i < (clusters << cb) / 8 && !rc; i++) {
		uint64_t first = i << q->rb_bits;

		if (!touches(first, per, start, clusters + blocks) && !any_counted(k, first, per))
			continue;
		for (uint64_t c = 0; c < per; c++) {
			bool mine = first + c >= start && first + c < start + own;

			q_refcount_put(k->buf, order, c,
				mine ? 1 : MIN((uint64_t)counted(k, first + c), q->refcount_max));
		}
		rc = file_write(q->file, (at + b) << cb, k->buf, q->cluster_size, k->e);
		put_be64(&rt[i], (at + b) << cb);
		b++;
	}
	rc = rc ?: file_write(q->file, start << cb, rt, clusters << cb, k->e);
	rc = rc ?: file_flush(q->file, k->e);
	put_be64(field, start << cb);
	put_be32(field + 8, (uint32_t)clusters);
	rc = rc ?: file_write(q->file, QCOW2_AT_RT, field, sizeof(field), k->e);
	rc = rc ?: file_flush(q->file, k->e);
	if (rc)
		return rc;
	q->h.rt_off = start << cb;
	q->h.rt_clusters = (uint32_t)clusters;
	return 0;
}

static int reload_table(struct check *k)
{
	struct qcow2 *q = k->q;
	uint64_t n = (uint64_t)q->h.rt_clusters << (q->cluster_bits - 3);
	uint64_t *rt = calloc(n, 8), *dirty = calloc(BITMAP_WORDS((n + 63) / 64) + 1, 8);
	int rc = rt && dirty ? file_read(q->file, q->h.rt_off, rt, n * 8, k->e) : no_memory(k);

	if (rc) {
		free(rt);
		free(dirty);
		return rc;
	}
	for (uint64_t i = 0; i < n; i++)
		rt[i] = get_be64(&rt[i]);
	free(q->rt);
	free(q->rt_dirty);
	q->rt = rt;
	q->rt_dirty = dirty;
	q->rt_entries = n;
	return 0;
}

/* ---- COPIED flags ---- */

static int flags_of_table(struct check *k, uint64_t off)
{
	struct qcow2 *q = k->q;
	bool changed = false;
	int rc = file_read(q->file, off, k->buf, q->cluster_size, k->e);

	for (uint64_t i = 0; i < q->cluster_size / q->l2_entry && !rc; i++) {
		uint8_t *p = k->buf + i * q->l2_entry;
		uint64_t entry = get_be64(p), host = entry & Q_OFFSET;
		bool one;

		if (entry & Q_COMPRESSED || q_entry_type(q, entry) == Q_UNALLOCATED ||
			(!host && !q->data_file))
			continue;
		/* In an external data file there are no counts. */
		one = q->data_file ? q_entry_type(q, entry) == Q_NORMAL || (entry & Q_COPIED)
				   : counted(k, host >> q->cluster_bits) == 1;
		if (one == !!(entry & Q_COPIED))
			continue;
		say(k, true, "entry %llu of the L2 table at 0x%llx: the COPIED flag is wrong",
			(unsigned long long)i, (unsigned long long)off);
		if (k->kind == Q_LOOK)
			continue;
		put_be64(p, entry ^ Q_COPIED);
		changed = true;
	}
	return changed && !rc ? file_write(q->file, off, k->buf, q->cluster_size, k->e) : rc;
}

static int check_flags(struct check *k)
{
	struct qcow2 *q = k->q;
	struct q_set seen = {0};
	int rc = 0;

	for (uint64_t i = 0; i < q->h.l1_size && !rc; i++) {
		uint64_t off = q->l1[i] & Q_OFFSET;
		bool one;

		if (!off || !place_ok(k, off))
			continue;
		one = counted(k, off >> q->cluster_bits) == 1;
		if (one != !!(q->l1[i] & Q_COPIED)) {
			say(k, true, "L1 entry %llu: the COPIED flag is wrong",
				(unsigned long long)i);
			if (k->kind != Q_LOOK) {
				q->l1[i] ^= Q_COPIED;
				bitmap_set(q->l1_dirty, i / 64);
			}
		}
		/* One that many entries refer to is read once. */
		rc = q_set_add(&seen, off);
		if (rc < 0)
			rc = no_memory(k);
		else
			rc = rc || q_set_has(&k->left, off) ? 0 : flags_of_table(k, off);
	}
	free(seen.slot);
	return rc;
}

/* ---- all of it ---- */

static void drop_counts(struct check *k)
{
	for (uint64_t i = 0; k->count && i <= k->n >> CHUNK; i++) {
		free(k->count[i]);
		k->count[i] = NULL;
	}
	k->ntables = 0;
}

static int clear_marks(struct check *k)
{
	struct qcow2 *q = k->q;
	uint64_t v = q->h.incompatible & ~(uint64_t)(QCOW2_DIRTY | QCOW2_CORRUPT);
	uint8_t field[8];
	int rc;

	if (k->unsafe)
		return mark_corrupt(k);
	if (v == q->h.incompatible)
		return 0;
	put_be64(field, v);
	rc = file_write(q->file, QCOW2_AT_INCOMPATIBLE, field, sizeof(field), k->e);
	rc = rc ?: file_flush(q->file, k->e);
	if (!rc)
		q->h.incompatible = v;
	return rc;
}

/* Once more, without the refcount structure, which will be another. What is wrong was said already. */
static int recount(struct check *k)
{
	struct disk_check quiet = {0}, *out = k->out;
	unsigned said = k->said;
	uint64_t stays = k->stays;
	int rc;

	drop_counts(k);
	k->limit = k->end;
	k->said = SAID_MAX + 1;
	k->out = &quiet;
	rc = count_all(k, false);
	k->out = out;
	k->said = said;
	k->stays = stays;
	return rc;
}

static int fix_counts(struct check *k)
{
	int rc = k->rebuild ? rebuild(k) : compare(k, true);

	return rc || !k->rebuild ? rc : reload_table(k);
}

/* What was found, divided into what is gone and what is still there. */
static void account(struct check *k)
{
	k->out->fixed_errors = k->out->errors - k->stays;
	k->out->fixed_leaks = k->out->leaks;
	k->out->errors = k->stays;
	k->out->leaks = 0;
}

/* A table or block that something else refers to, too, is none: counts that are written there would damage what it is. */
static void check_blocks(struct check *k)
{
	struct qcow2 *q = k->q;
	uint64_t first = q->h.rt_off >> q->cluster_bits;

	for (uint64_t i = 0; i < q->h.rt_clusters; i++) {
		if (counted(k, first + i) < 2)
			continue;
		say(k, true, "the refcount table is something else, too (0x%llx)",
			(unsigned long long)q->h.rt_off);
		k->rebuild = true;
		break;
	}
	for (uint64_t i = 0; i < q->rt_entries; i++) {
		uint64_t off = q->rt[i];

		if (!off || !place_ok(k, off) || counted(k, off >> q->cluster_bits) < 2)
			continue;
		say(k, true, "refcount block %llu is something else, too (0x%llx)",
			(unsigned long long)i, (unsigned long long)off);
		k->rebuild = true;
	}
}

/* What is not as it should be, each for itself. */
static int look(struct check *k)
{
	bool again;
	int rc = count_all(k, true);

	if (!rc)
		check_blocks(k);
	rc = rc ?: compare(k, false);
	if (!rc && k->kind != Q_LOOK && k->rebuild)
		rc = recount(k);
	again = !k->rebuild;
	if (!rc && (k->damaged || k->overlap))
		rc = own_all(k);
	/* Counts for what was taken have no place in the blocks that are there. */
	if (!rc && k->kind != Q_LOOK && k->rebuild && again)
		rc = recount(k);
	if (!rc)
		look_at_width(k);
	return rc ?: check_flags(k);
}

static int run(struct check *k)
{
	int rc = look(k);

	if (rc || k->kind == Q_LOOK)
		return rc;
	/* Data and entries first, then the counts, then what says that all is well. */
	rc = write_l1(k);
	rc = rc ?: file_flush(k->q->file, k->e);
	if (k->out->errors || k->out->leaks)
		rc = rc ?: fix_counts(k);
	rc = rc ?: file_flush(k->q->file, k->e);
	rc = rc ?: clear_marks(k);
	if (!rc)
		account(k);
	return rc;
}

int q_check(struct qcow2 *q, enum q_check_kind kind, const struct disk_watch *w,
	struct disk_check *out, struct err *e)
{
	struct disk_check none;
	struct check k = {.q = q, .w = w, .out = out ?: &none, .e = e, .kind = kind};
	int rc;

	k.n = k.limit = k.end = (q->file->size + q->cluster_size - 1) >> q->cluster_bits;
	k.take_max = MIN(k.n, TAKE_MAX);
	*k.out = (struct disk_check){.unit = q->cluster_size,
		.total = (q->h.size + q->cluster_size - 1) >> q->cluster_bits};
	if (k.n > FILE_MAX)
		return err_set(e, -EFBIG, "disk %s: a file of %llu clusters is too large",
			q->d->o.path, (unsigned long long)k.n);
	k.count = calloc(((k.n + k.take_max + BEHIND) >> CHUNK) + 1, sizeof(*k.count));
	k.buf = malloc(q->cluster_size);
	rc = k.count && k.buf ? run(&k) : no_memory(&k);
	drop_counts(&k);
	free(k.count);
	free(k.tables);
	free(k.old);
	free(k.left.slot);
	free(k.copy);
	free(k.buf);
	/* Tables that were changed here are not those in memory, and what is behind the old end is not zeroes any more. */
	q_cache_clear(q);
	if (q->zero_from != UINT64_MAX)
		q->zero_from = MAX(q->zero_from, align_up(q->file->size, q->cluster_size));
	return rc;
}
