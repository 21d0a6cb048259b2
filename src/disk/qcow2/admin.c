/* admin.c: what is done to images beside reading and writing: size, backing file, and what to say about them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "disk/qcow2/admin.h"
#include "disk/qcow2/bitmap.h"
#include "disk/qcow2/check.h"

#define SECTOR 512u /* what a medium writes as a whole or not at all */

/* ---- size ---- */

static void zero_done(struct disk_req *r)
{
}

/* Through the front door: nothing is in flight. */
static int zero(struct disk *d, uint64_t off, uint64_t end)
{
	struct disk_req r = {.op = DISK_WRITE_ZEROES,
		.waited = true,
		.offset = off,
		.len = end - off,
		.done = zero_done};

	if (end <= off)
		return 0;
	disk_submit(d, &r);
	disk_drain(d);
	return r.result;
}

#define LOOKS 64u /* clusters between two looks at whether to go on */

/* may_stop: it says how far it is, and may end early. */
static int cut(struct qcow2 *q, uint64_t from, uint64_t end, bool may_stop)
{
	uint64_t first = (from + q->cluster_size - 1) >> q->cluster_bits;
	uint64_t last = (end + q->cluster_size - 1) >> q->cluster_bits;
	int rc = 0;

	for (uint64_t c = first, n = 0; c < last && !rc; n++) {
		struct q_slice *s;
		struct q_map m;
		uint64_t at, entry;

		if (may_stop && n % LOOKS == 0 &&
			!disk_go_on(q->d, (c - first) << q->cluster_bits,
				(last - first) << q->cluster_bits))
			return q_commit(q) ?: -ECANCELED;
		rc = q_map(q, c << q->cluster_bits, end - (c << q->cluster_bits), false, &m);
		if (!rc && m.type == Q_UNALLOCATED && !m.host && m.len >= q->cluster_size) {
			c += m.len >> q->cluster_bits;
			continue;
		}
		rc = rc ?: q_l2_make(q, c, &s, &at);
		if (rc)
			return rc;
		entry = get_be64(s->data + at);
		memset(s->data + at, 0, q->l2_entry);
		q_slice_dirty(q, s, at, q->l2_entry);
		rc = q_release_entry(q, entry, q->d->o.discard);
		q_slice_put(s);
		if (!rc && q->cache.dirty_bytes > Q_DIRTY_BYTES)
			rc = q_commit(q);
		c++;
	}
	return rc ?: q_commit(q);
}

int q_empty(struct disk *d, struct err *e)
{
	struct qcow2 *q = d->priv;
	int rc;

	if (!q->writable || q->corrupt)
		return err_set(e, -EROFS, "disk %s: is not open for writing", d->o.path);
	if (q->data_file)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: its data is in a file of its own, which is not emptied",
			d->o.path);
	q->unpacked_entry = 0;
	rc = cut(q, 0, d->size, false);
	return rc ? err_sys(e, rc, "disk %s: cannot be emptied", d->o.path) : 0;
}

static int set_size(struct qcow2 *q, uint64_t size)
{
	int rc = q_header_field(q, QCOW2_AT_SIZE, size, 8);

	rc = rc ?: q_sync(q);
	if (!rc)
		q->h.size = q->d->size = size;
	return rc;
}

/* What is cut off does not come back when it grows again: not what the disk itself has there, nor what lies below. */
static int shrink(struct qcow2 *q, uint64_t size, uint64_t back)
{
	struct disk *d = q->d;
	uint64_t old = d->size, end = MIN(old, align_up(size, q->cluster_size));
	bool zeroes;
	int rc;

	/* Where the backing file would be seen while entries go one by one, zeroes stand in their places first. Version 2 has no entries that say so. */
	if (q->v3 && back > size)
		end = MAX(end, MIN(old, align_up(back, q->cluster_size)));
	rc = zero(d, size, end);
	rc = rc ?: q_bitmaps_resize(q, size);
	if (rc)
		return rc;
	/* Of data no entry is left behind the new end: who grows the disk again would see it. */
	zeroes = end > align_up(size, q->cluster_size);
	rc = cut(q, zeroes ? end : size, old, true) ?: set_size(q, size);
	if (!rc)
		return zeroes ? cut(q, size, old, false) : 0;
	/* It keeps its size, and bitmaps theirs. */
	if (!q_bitmaps_resize(q, old))
		q_bitmaps_mark(q, size, old - size);
	return rc;
}

/* Tables of the disk that lead behind its end, where nothing stands in them any more. */
static int drop_tables(struct qcow2 *q, uint64_t size)
{
	int rc = 0;

	for (uint64_t i = qcow2_l1_entries(size, q->cluster_bits, q->extended);
		i < q->h.l1_size && !rc; i++) {
		uint64_t table = q->l1[i] & Q_OFFSET;

		if (!table)
			continue;
		q->l1[i] = 0;
		bitmap_set(q->l1_dirty, i / 64);
		q_set_del(&q->meta_set, table >> q->cluster_bits);
		rc = q_release(q, table, 1, q->d->o.discard);
	}
	return rc;
}

/*
 * The files end behind what is in use, after the header says the smaller size: entries are gone durably, then counts, then the end of the file. Each is whole
 * without what comes after it.
 */
static int cut_files(struct qcow2 *q, uint64_t size)
{
	uint64_t data = q->raw_data ? size : align_up(size, q->cluster_size);
	int rc = cut(q, size, q->h.l1_size * (q->cluster_size << q->l2_bits), false);

	rc = rc ?: drop_tables(q, size);
	rc = rc ?: q_cut_file(q);
	/* What a cluster of the disk has in an external data file has the same place there. */
	if (!rc && q->data != q->file && !q->data->block_device && q->data->size > data)
		rc = file_truncate(q->data, data, NULL) ?: q_sync(q);
	return rc;
}

/*
 * The guest may not see what the backing file has beyond the old end: zeroes are there before the size says so. Nor the state of a machine that QEMU has put behind
 * the end of its disk: that goes.
 */
static int grow(struct qcow2 *q, uint64_t size, uint64_t back)
{
	uint64_t n = qcow2_l1_entries(size, q->cluster_bits, q->extended), old = q->d->size;
	int rc = n > QCOW2_L1_MAX / 8 ? -EFBIG : q_bitmaps_resize(q, size);

	if (!rc)
		rc = cut(q, old, q->h.l1_size * (q->cluster_size << q->l2_bits), false);
	if (!rc && n > q->h.l1_size)
		rc = q_resize_l1(q, (uint32_t)n, old);
	if (rc)
		return rc;
	if (back > old) {
		q->d->size = size;
		rc = zero(q->d, old, MIN(size, back));
		rc = rc ?: q_commit(q);
		q->d->size = old;
	}
	return rc ?: set_size(q, size);
}

/* A device with the disk's data does not become longer, and what it has behind the old end is none of the disk's. */
static int device_room(struct qcow2 *q, uint64_t size, struct err *e)
{
	uint64_t old = q->d->size;
	int rc;

	if (!q->data_file || !q->data->block_device)
		return 0;
	rc = q->data->ops->measure(q->data, &q->data->size, e);
	if (!rc && size > q->data->size)
		rc = err_set(e, -ENOSPC, "disk %s: the device for its data, %s, has %llu bytes",
			q->d->o.path, q->data->path, (unsigned long long)q->data->size);
	/* Before anybody can see it. */
	if (!rc && q->raw_data && size > old)
		rc = file_zero(q->data, old, size - old, false, e) ?: file_flush(q->data, e);
	return rc;
}

int q_resize(struct disk *d, uint64_t size, struct err *e)
{
	struct qcow2 *q = d->priv;
	uint64_t old = d->size, back = d->backing ? disk_size(d->backing) : 0;
	int rc;

	if (!size)
		return 0;
	if (!q->writable || q->corrupt)
		return err_set(e, -EROFS, "disk %s: is not open for writing", d->o.path);
	if (size < old && q->h.nb_snapshots && !q->v3)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: has snapshots, which in version 2 are as large as the disk",
			d->o.path);
	rc = device_room(q, size, e);
	if (rc)
		return rc;
	rc = size < old ? shrink(q, size, back) : size > old ? grow(q, size, back) : 0;
	if (!rc && q->raw_data && size > old && !q->data->block_device)
		rc = file_truncate(q->data, size, e);
	if (rc == -ECANCELED)
		return disk_stopped(d, size, e);
	if (rc)
		return err_sys(e, rc, "disk %s: cannot be made %llu bytes long", d->o.path,
			(unsigned long long)size);
	rc = size < old ? cut_files(q, size) : 0;
	return rc ? err_sys(e, rc,
			    "disk %s: has %llu bytes now; but the end of its file, which nothing "
			    "uses any more, could not be cut off",
			    d->o.path, (unsigned long long)size)
		  : 0;
}

/* ---- backing file ---- */

static int write_sure(struct qcow2 *q, uint64_t off, const void *buf, uint64_t len, struct err *e)
{
	return file_write(q->file, off, buf, len, e) ?: file_flush(q->file, e);
}

/* Somewhere behind all extensions that are there or will be, and beside the name that is there. */
static uint64_t place_of_name(
	const struct qcow2 *q, const uint8_t *was, uint64_t end, uint64_t name_len)
{
	uint64_t name = get_be64(was + 8), name_end = name + get_be32(was + 16);
	uint64_t at = align_up(
		MAX(MAX(end, qcow2_header_end(was, q->cluster_size)), (uint64_t)SECTOR), 8);

	return name && at < name_end && name < at + name_len ? align_up(name_end, 8) : at;
}

/* Sector 0 becomes another one. When that fails, it is as it was, or nothing is written any more. */
static int switch_sector(struct qcow2 *q, const uint8_t *was, const uint8_t *now, struct err *e)
{
	int rc = write_sure(q, 0, now, SECTOR, e);

	if (rc && write_sure(q, 0, was, SECTOR, NULL))
		q->corrupt = true;
	return rc;
}

/*
 * A power cut may leave some sectors and not others. So a header that does not need any other sector than the first one becomes the present one in between:
 * with the backing file's name in a place where nothing was, and without the names of features.
 */
static int write_by_sectors(
	struct qcow2 *q, const uint8_t *was, uint8_t *brief, uint8_t *full, struct err *e)
{
	uint64_t len = q->h.backing ? strlen(q->h.backing) : 0, at, end;
	int rc = qcow2_header_build(&q->h, full, 0, false, &end, q->d->o.path, e);

	if (rc)
		return rc;
	if (!memcmp(was + SECTOR, full + SECTOR, q->cluster_size - SECTOR))
		return switch_sector(q, was, full, e);
	at = place_of_name(q, was, end, len);
	if (qcow2_header_build(&q->h, brief, at, true, &end, q->d->o.path, NULL) || end > SECTOR)
		return write_sure(
			q, 0, full, q->cluster_size, e); /* too many extensions, or names */
	rc = qcow2_header_build(&q->h, full, at, false, &end, q->d->o.path, e);
	if (len)
		rc = rc ?: write_sure(q, at, full + at, len, e);
	rc = rc ?: switch_sector(q, was, brief, e);
	/* It is there; the rest only explains. */
	if (!rc && !write_sure(q, SECTOR, full + SECTOR, q->cluster_size - SECTOR, NULL))
		(void)write_sure(q, 0, full, SECTOR, NULL);
	return rc;
}

int q_write_header(struct qcow2 *q, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = calloc(3, q->cluster_size);
	int rc = buf ? file_read(q->file, 0, buf, MIN(q->cluster_size, q->file->size), e)
		     : err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);

	return rc ?: write_by_sectors(q, buf, buf + q->cluster_size, buf + 2 * q->cluster_size, e);
}

int q_set_backing(struct disk *d, const char *path, const char *format, struct err *e)
{
	struct qcow2 *q = d->priv;
	char *was = q->h.backing, *was_format = q->h.backing_format;
	int rc;

	if (!q->writable || q->corrupt)
		return err_set(e, -EROFS, "disk %s: is not open for writing", d->o.path);
	if (path && q->raw_data)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: a backing file and a raw external data file exclude each other",
			d->o.path);
	if (path && !format)
		return err_set(e, -EINVAL, "disk %s: the backing file needs its format", d->o.path);
	q->h.backing = path ? disk_backing_name(path) : NULL;
	q->h.backing_format = path ? strdup(format) : NULL;
	if (path && (!q->h.backing || !q->h.backing_format))
		rc = err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	else
		rc = q_write_header(q, e);
	if (rc) {
		free(q->h.backing);
		free(q->h.backing_format);
		q->h.backing = was;
		q->h.backing_format = was_format;
		return rc;
	}
	free(was);
	free(was_format);
	return 0;
}

/* ---- what to say ---- */

static void set_flag(json_t *o, const char *key, bool v)
{
	json_object_set_new(o, key, json_boolean(v));
}

static void set_number(json_t *o, const char *key, uint64_t v)
{
	json_object_set_new(o, key, json_integer((json_int_t)v));
}

int q_info(struct disk *d, json_t *obj, struct err *e)
{
	const struct qcow2 *q = d->priv;
	const struct qcow2_header *h = &q->h;

	json_object_set_new(obj, "compat", json_string(q->v3 ? "1.1" : "0.10"));
	set_number(obj, "cluster_size", q->cluster_size);
	set_number(obj, "refcount_bits", 1u << h->refcount_order);
	json_object_set_new(obj, "compression_type",
		json_string(h->compression == QCOW2_ZSTD ? "zstd" : "zlib"));
	set_flag(obj, "lazy_refcounts", q->lazy);
	set_flag(obj, "extended_l2", q->extended);
	set_flag(obj, "dirty", h->incompatible & QCOW2_DIRTY);
	set_flag(obj, "corrupt", q->corrupt || (h->incompatible & QCOW2_CORRUPT));
	if (h->backing) {
		json_object_set_new(obj, "backing_file", json_text(h->backing));
		json_object_set_new(obj, "backing_format",
			h->backing_format ? json_text(h->backing_format) : json_null());
	}
	if (q->data_file) {
		json_object_set_new(
			obj, "data_file", h->data_file ? json_text(h->data_file) : json_null());
		set_flag(obj, "data_file_raw", q->raw_data);
	}
	return 0;
}

void q_stats(struct disk *d, json_t *obj)
{
	const struct qcow2 *q = d->priv;
	const struct q_stats *s = &q->stats;
	struct sorter_stats so = {0};

	if (q->sorter)
		sorter_stats(q->sorter, &so);
	set_number(obj, "requests", so.requests);
	set_number(obj, "elements", so.elements);
	set_number(obj, "elements_in_place", so.plain);
	set_number(obj, "logical_transactions", so.logical);
	set_number(obj, "batches", so.physical);
	set_number(obj, "physical_transactions", s->transactions);
	set_number(obj, "meta_writes", s->meta_writes);
	set_number(obj, "meta_bytes", s->meta_bytes);
	set_number(obj, "barriers", s->barriers);
	set_number(obj, "flushes", s->flushes);
	set_number(obj, "data_writes", so.data_writes);
	set_number(obj, "data_bytes", so.data_bytes);
	set_number(obj, "fill_bytes", so.fill_bytes);
	set_number(obj, "clusters_allocated", s->allocated);
	set_number(obj, "clusters_freed", s->freed);
	set_number(obj, "zeroes_ahead", s->ahead_bytes);
	set_number(obj, "cache_slices", q->cache.count);
	set_number(obj, "cache_hits", s->cache_hits);
	set_number(obj, "cache_misses", s->cache_misses);
	json_object_set_new(obj, "link_failed", json_boolean(q->link_failed));
}

int q_check_op(struct disk *d, bool repair, const struct disk_watch *w, struct disk_check *out,
	struct err *e)
{
	struct qcow2 *q = d->priv;
	int rc = q->writable && !q->corrupt ? q_settle(q) : 0;

	if (rc)
		return err_sys(e, rc, "disk %s: cannot be written to", d->o.path);
	/* A writer knows where tables are: they stay there. */
	return q_check(q, !repair ? Q_LOOK : q->writable ? Q_RECOVER : Q_REPAIR, w, out, e);
}
