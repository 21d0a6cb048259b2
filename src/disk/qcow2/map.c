/* map.c: L1 and L2 tables, subclusters: where a byte of the disk lies in the file. */
#include <errno.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/util.h"
#include "disk/qcow2/qcow2.h"

/* ---- entries ---- */

uint64_t q_packed_host(const struct qcow2 *q, uint64_t entry)
{
	unsigned x = 62 - (q->cluster_bits - 8);

	return entry & ((1ull << x) - 1);
}

uint64_t q_packed_len(const struct qcow2 *q, uint64_t entry)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t sectors = (entry & (Q_COMPRESSED - 1)) >> x;

	return (sectors + 1) * 512 - (q_packed_host(q, entry) & 511);
}

enum q_type q_entry_type(const struct qcow2 *q, uint64_t entry)
{
	if (entry & Q_COMPRESSED)
		return Q_PACKED;
	if (!q->extended && (entry & Q_ZERO))
		return Q_ZEROES;
	/* Offset 0 is a place in an external data file only. */
	if (!(entry & Q_OFFSET) && !(q->data_file && (entry & Q_COPIED)))
		return Q_UNALLOCATED;
	return Q_NORMAL;
}

/* 0, or marks the image as damaged. `cluster` is the guest's. */
int q_entry_check(struct qcow2 *q, uint64_t entry, uint64_t bitmap, uint64_t cluster)
{
	uint64_t host = entry & Q_OFFSET;

	if (entry & Q_COMPRESSED) {
		if (q->data_file || (entry & Q_COPIED) ||
			q_packed_host(q, entry) >= MIN(q_end(q), 1ull << 56))
			return q_damaged(q);
		return 0;
	}
	if (host & (q->cluster_size - 1))
		return q_damaged(q);
	if (q->extended && (bitmap >> 32 & bitmap & 0xffffffff))
		return q_damaged(q);
	if (q->extended && (uint32_t)bitmap && q_entry_type(q, entry) != Q_NORMAL)
		return q_damaged(q);
	if (q->data_file) {
		if (q_entry_type(q, entry) == Q_NORMAL && host != cluster << q->cluster_bits)
			return q_damaged(q);
		return 0;
	}
	if (host && q_set_has(&q->meta_set, host >> q->cluster_bits))
		return q_damaged(q);
	return 0;
}

/* ---- tables ---- */

static uint64_t l1_index(const struct qcow2 *q, uint64_t cluster)
{
	return cluster >> q->l2_bits;
}

static uint64_t entry_offset(const struct qcow2 *q, uint64_t cluster)
{
	return (cluster & ((1ull << q->l2_bits) - 1)) * q->l2_entry;
}

int q_l2_get(struct qcow2 *q, uint64_t cluster, struct q_slice **out, uint64_t *at)
{
	uint64_t l1 = l1_index(q, cluster), off = entry_offset(q, cluster), table;

	*out = NULL;
	*at = off & ((1ull << q->slice_bits) - 1);
	if (l1 >= q->h.l1_size)
		return 0;
	table = q->l1[l1] & Q_OFFSET;
	if (!table)
		return 0;
	if ((table & (q->cluster_size - 1)) || table >= q_end(q))
		return q_damaged(q);
	return q_slice_get(q, Q_L2, table + off, out);
}

static int copy_table(struct qcow2 *q, uint64_t from, uint64_t to, bool zero)
{
	uint64_t size = 1ull << q->slice_bits;
	int rc = 0;

	if (!from)
		return zero ? 0 : q_make_zero(q, q->file, to, q->cluster_size, false);
	for (uint64_t at = 0; at < q->cluster_size && !rc; at += size) {
		struct q_slice *s;

		rc = q_slice_get(q, Q_L2, from + at, &s);
		if (rc)
			return rc;
		rc = q_pwrite(q, q->file, to + at, s->data, size);
		q_slice_put(s);
	}
	return rc;
}

int q_l2_make(struct qcow2 *q, uint64_t cluster, struct q_slice **out, uint64_t *at)
{
	uint64_t l1 = l1_index(q, cluster), old, host;
	bool zero;
	int rc;

	if (l1 >= q->h.l1_size)
		return -ERANGE;
	old = q->l1[l1];
	if ((old & Q_COPIED) && (old & Q_OFFSET))
		return q_l2_get(q, cluster, out, at);
	old &= Q_OFFSET;
	/* Its content is in the file before the L1 entry is. */
	rc = q_alloc_exact(q, 1, &host, &zero);
	if (rc)
		return rc;
	rc = copy_table(q, old, host, zero);
	if (!rc && q_set_add(&q->meta_set, host >> q->cluster_bits) < 0)
		rc = -ENOMEM;
	if (!rc && old)
		rc = q_release(q, old, 1, false);
	if (rc) {
		q_set_del(&q->meta_set, host >> q->cluster_bits);
		q_unalloc(q, host, 1);
		return rc;
	}
	if (old) {
		q_cache_drop(q, old);
		q_set_del(&q->meta_set, old >> q->cluster_bits);
	}
	q->data_first |= old || !zero;
	q->l1[l1] = host | Q_COPIED;
	bitmap_set(q->l1_dirty, l1 / 64);
	rc = q_l2_get(q, cluster, out, at);
	/* Written as a whole, once: a host that has to find blocks for its pieces one by one has to make each of these durable. */
	if (!rc && !old)
		q_slice_dirty(q, *out, 0, 1ull << q->slice_bits);
	return rc;
}

/* ---- stretches ---- */

/* What one cluster, or one subcluster of it, is. */
static int piece(struct qcow2 *q, const uint8_t *p, uint64_t cluster, uint64_t in, struct q_map *m)
{
	uint64_t entry = get_be64(p), bitmap = q->extended ? get_be64(p + 8) : 0;
	uint64_t host = entry & Q_OFFSET;
	unsigned sub;
	int rc = q_entry_check(q, entry, bitmap, cluster);

	if (rc)
		return rc;
	m->entry = entry;
	m->type = q_entry_type(q, entry);
	m->len = q->cluster_size - in;
	m->host = host + in;
	if (m->type == Q_PACKED) {
		m->host = q_packed_host(q, entry);
		return 0;
	}
	if (q->extended) {
		sub = (unsigned)(in >> q->sub_bits);
		m->len = (1ull << q->sub_bits) - (in & ((1ull << q->sub_bits) - 1));
		m->type = bitmap >> (32 + sub) & 1 ? Q_ZEROES
			  : bitmap >> sub & 1	   ? Q_NORMAL
						   : Q_UNALLOCATED;
	}
	if (m->type == Q_UNALLOCATED || (m->type == Q_ZEROES && !host))
		m->host = 0;
	return 0;
}

static bool goes_on(const struct q_map *a, const struct q_map *b)
{
	if (a->type != b->type || a->type == Q_PACKED)
		return false;
	if (a->type == Q_NORMAL)
		return b->host == a->host + a->len && !((a->entry ^ b->entry) & Q_COPIED);
	return true;
}

static void hole(const struct qcow2 *q, uint64_t off, struct q_map *m)
{
	uint64_t table = q->cluster_size << q->l2_bits;

	*m = (struct q_map){.type = Q_UNALLOCATED, .len = table - (off & (table - 1))};
	/* What no L1 entry is for: an image can claim any size for a snapshot. */
	if (off / table >= q->h.l1_size)
		m->len = 1ull << 62;
}

int q_map(struct qcow2 *q, uint64_t off, uint64_t max, bool try, struct q_map *out)
{
	struct q_slice *s = NULL;
	uint64_t at = 0, slice = UINT64_MAX;
	bool first = true;
	int rc = 0;

	while (first || out->len < max) {
		uint64_t pos = first ? off : off + out->len, cluster = pos >> q->cluster_bits;
		uint64_t l1 = l1_index(q, cluster), table;
		struct q_map m;

		table = l1 < q->h.l1_size ? q->l1[l1] & Q_OFFSET : 0;
		if (!table) {
			hole(q, pos, &m);
		} else {
			uint64_t place = table + entry_offset(q, cluster);

			if (place >> q->slice_bits != slice) {
				q_slice_put(s);
				s = NULL;
				if (try && !(s = q_slice_try(q, place)))
					rc = first ? -EAGAIN : 1;
				else if (!s)
					rc = q_l2_get(q, cluster, &s, &at);
				if (rc)
					break;
				slice = place >> q->slice_bits;
			}
			at = place & ((1ull << q->slice_bits) - 1);
			rc = piece(q, s->data + at, cluster, q_in_cluster(q, pos), &m);
			if (rc)
				break;
		}
		if (first)
			*out = m;
		else if (goes_on(out, &m))
			out->len += m.len;
		else
			break;
		first = false;
	}
	q_slice_put(s);
	if (rc == 1)
		rc = 0;
	if (!rc)
		out->len = MIN(out->len, max);
	return rc;
}

int q_release_entry(struct qcow2 *q, uint64_t entry, bool punch)
{
	uint64_t first, last;

	if (q->data_file)
		return 0;
	if (entry & Q_COMPRESSED) {
		first = q_packed_host(q, entry);
		last = first + q_packed_len(q, entry) - 1;
		first >>= q->cluster_bits;
		last >>= q->cluster_bits;
		return q_frees_add(&q->frees, first, last - first + 1, false);
	}
	if (!(entry & Q_OFFSET))
		return 0;
	return q_frees_add(&q->frees, (entry & Q_OFFSET) >> q->cluster_bits, 1, punch);
}
