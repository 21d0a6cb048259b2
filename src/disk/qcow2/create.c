/*
 * create.c: new images.
 *
 *   header | refcount table | refcount blocks | L1 table
 *
 * The header is written last, behind a barrier: a file that begins with the magic number has its tables.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "disk/qcow2/qcow2.h"
#include "disk/tool.h"

const struct disk_key q_create_keys[] = {
	{"cluster-size", "512..2M", "unit of allocation (64K)"},
	{"refcount-bits", "1..64", "width of the reference counts (16)"},
	{"compat", "0.10|1.1", "version 2 or 3 of the format (1.1)"},
	{"lazy-refcounts", "on|off", "counts may be stale after a crash; repaired when opened"},
	{"extended-l2", "on|off", "32 subclusters in each cluster"},
	{"compression-type", "zlib|zstd", "of compressed clusters (zlib)"},
	{"data-file", "FILE", "guest data goes there, uncounted"},
	{"data-file-raw", "on|off", "the data file is a raw image by itself"},
	{"preallocation", "off|metadata|falloc|full",
		"tables, also space, also zeroes written to it, for the whole disk (off)"},
	{0},
};

struct create {
	const struct disk_create_opts *o;
	struct qcow2_header h;
	struct files fs;
	struct file *file, *data;
	uint64_t blocks, l1_clusters;
	enum fill fill;
};

/* ---- options ---- */

static int take_options(struct create *c, struct err *e)
{
	static const char *const compats[] = {"0.10", "1.1"}, *const types[] = {"zlib", "zstd"};
	const struct disk_create_opts *o = c->o;
	static const char *const widths[] = {"1", "2", "4", "8", "16", "32", "64"};
	uint64_t cluster = 64 * KiB;
	unsigned compat = 1, type = 0, fill = FILL_OFF, order = 4;
	bool lazy = false, extended = false, raw = false;
	struct qcow2_header *h = &c->h;
	const char *data = disk_kv_get(o->kv, "data-file");
	int rc = disk_kv_size(o->kv, "cluster-size", 512, 2 * MiB, true, &cluster, e);

	rc = rc ?: disk_kv_choice(o->kv, "refcount-bits", widths, ARRAY_SIZE(widths), &order, e);
	rc = rc ?: disk_kv_choice(o->kv, "compat", compats, 2, &compat, e);
	rc = rc ?: disk_kv_choice(o->kv, "compression-type", types, 2, &type, e);
	rc = rc ?: disk_kv_choice(o->kv, "preallocation", fill_names, FILL_VALUES, &fill, e);
	rc = rc ?: disk_kv_bool(o->kv, "lazy-refcounts", &lazy, e);
	rc = rc ?: disk_kv_bool(o->kv, "extended-l2", &extended, e);
	rc = rc ?: disk_kv_bool(o->kv, "data-file-raw", &raw, e);
	if (rc)
		return rc;
	if (!compat && (order != 4 || lazy || extended || type || data))
		return err_set(e, -EINVAL,
			"compat=0.10 has none of refcount-bits, lazy-refcounts, extended-l2, "
			"compression-type and data-file: take compat=1.1");
	if (extended && cluster < 16 * KiB)
		return err_set(e, -EINVAL, "extended-l2: clusters have to be 16K or larger");
	if (raw && (!data || o->backing))
		return err_set(e, -EINVAL,
			"data-file-raw: needs data-file, and no backing file goes with it");
	if (fill && (o->backing || data))
		return err_set(e, -EINVAL,
			"preallocation: not with a backing file or an external data file");
	h->version = compat ? 3 : 2;
	h->cluster_bits = (unsigned)__builtin_ctzll(cluster);
	h->refcount_order = order;
	h->compression = type;
	h->compatible = lazy ? QCOW2_LAZY_REFCOUNTS : 0;
	h->incompatible = (extended ? QCOW2_EXTENDED_L2 : 0) | (type ? QCOW2_COMPRESSION : 0) |
			  (data ? QCOW2_DATA_FILE : 0);
	h->autoclear = raw ? QCOW2_DATA_FILE_RAW : 0;
	c->fill = fill;
	h->data_file = data ? disk_backing_name(data) : NULL;
	h->backing = o->backing ? disk_backing_name(o->backing) : NULL;
	h->backing_format = o->backing_format ? strdup(o->backing_format) : NULL;
	if ((data && !h->data_file) || (o->backing && !h->backing))
		return err_set(e, -ENOMEM, "out of memory");
	if (h->backing && !h->backing_format)
		return err_set(e, -EINVAL,
			"the backing file %s needs its format: it is never guessed", h->backing);
	return 0;
}

/* The name of another file, which is as the image has it: relative to the image. */
static int not_itself(const struct create *c, const char *name, const char *what, struct err *e)
{
	cleanup(free_ptr) char *path = disk_backing_path(c->o->path, name);
	struct stat a, b;

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	if (strcmp(path, c->o->path) && (stat(path, &a) || stat(c->o->path, &b) ||
						a.st_dev != b.st_dev || a.st_ino != b.st_ino))
		return 0;
	return err_set(e, -EINVAL, "an image cannot be its own %s", what);
}

static int backing_size(const struct disk_create_opts *o, uint64_t *size, struct err *e)
{
	cleanup(free_ptr) char *path = disk_backing_path(o->path, o->backing);
	struct disk_opts d = {.path = path,
		.format = o->backing_format,
		.readonly = true,
		.io = IO_THREADS,
		.loop = o->loop,
		.open_file = o->open_file,
		.open_ctx = o->open_ctx};
	struct disk *disk;
	int rc = path ? disk_open(&disk, &d, e) : err_set(e, -ENOMEM, "out of memory");

	if (rc)
		return err_wrap(e, "the backing file");
	*size = disk_size(disk);
	disk_close(disk);
	return 0;
}

/* ---- layout ---- */

static int lay_out(struct create *c, struct err *e)
{
	struct qcow2_header *h = &c->h;
	unsigned cb = h->cluster_bits;
	uint64_t cs = 1ull << cb, per = cs * 8 >> h->refcount_order;
	bool extended = h->incompatible & QCOW2_EXTENDED_L2;
	uint64_t entries = qcow2_l1_entries(h->size, cb, extended), total, want;
	char size[SIZE_TEXT];

	if (entries > QCOW2_L1_MAX / 8)
		return err_set(e, -EINVAL,
			"%s is too large for clusters of %llu bytes: take larger ones (-o "
			"cluster-size)",
			size_text(size, h->size), (unsigned long long)cs);
	h->l1_size = (uint32_t)MAX(entries, 1ull);
	c->l1_clusters = (h->l1_size * 8ull + cs - 1) >> cb;
	/* Room in the table for a full disk, so that it need not grow. */
	want = (h->size >> cb) + entries + c->l1_clusters + 16;
	want += want / per;
	want = (want / per + 1) * 8;
	want = MIN(want, (uint64_t)QCOW2_RT_MAX);
	h->rt_clusters = (uint32_t)((want + cs - 1) >> cb);
	c->blocks = 1;
	do {
		total = 1 + h->rt_clusters + c->blocks + c->l1_clusters;
	} while (c->blocks * per < total && ++c->blocks);
	if (c->blocks > (uint64_t)h->rt_clusters * cs / 8)
		return err_set(e, -EINVAL,
			"%s is too large for clusters of %llu bytes: take larger ones",
			size_text(size, h->size), (unsigned long long)cs);
	h->rt_off = cs;
	h->l1_off = (1 + h->rt_clusters + c->blocks) << cb;
	return 0;
}

static int write_tables(struct create *c, struct err *e)
{
	const struct qcow2_header *h = &c->h;
	unsigned cb = h->cluster_bits;
	uint64_t cs = 1ull << cb, per = cs * 8 >> h->refcount_order, left;
	uint64_t table = (uint64_t)h->rt_clusters << cb, end;
	cleanup(free_ptr) uint8_t *buf = calloc(1, MAX(table, cs));
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "disk %s: out of memory", c->o->path);
	for (uint64_t i = 0; i < c->blocks; i++)
		put_be64(buf + i * 8, (1 + h->rt_clusters + i) << cb);
	rc = file_write(c->file, h->rt_off, buf, table, e);
	left = 1 + h->rt_clusters + c->blocks + c->l1_clusters;
	for (uint64_t i = 0; i < c->blocks && !rc; i++) {
		memset(buf, 0, cs);
		for (uint64_t k = 0; k < MIN(left, per); k++)
			q_refcount_put(buf, h->refcount_order, k, 1);
		left -= MIN(left, per);
		rc = file_write(c->file, (1 + h->rt_clusters + i) << cb, buf, cs, e);
	}
	rc = rc ?: file_zero(c->file, h->l1_off, c->l1_clusters << cb, false, e);
	if (!c->file->block_device)
		rc = rc ?: file_truncate(c->file, h->l1_off + (c->l1_clusters << cb), e);
	rc = rc ?: file_flush(c->file, e);
	memset(buf, 0, cs);
	rc = rc ?: qcow2_header_build(h, buf, 0, false, &end, c->o->path, e);
	rc = rc ?: file_write(c->file, 0, buf, cs, e);
	return rc ?: file_flush(c->file, e);
}

/* What a device holds is no part of the disk; where its bytes are to be the disk's they have to be what the tables say. */
static int take_device(const struct create *c, const char *path, struct err *e)
{
	if (c->data->size < c->h.size)
		return err_set(e, -ENOSPC, "disk %s: the device %s for its data has %llu bytes",
			c->o->path, path, (unsigned long long)c->data->size);
	return c->h.autoclear & QCOW2_DATA_FILE_RAW ? file_zero(c->data, 0, c->h.size, false, e)
						    : 0;
}

static int make_data_file(struct create *c, struct err *e)
{
	cleanup(free_ptr) char *path = disk_backing_path(c->o->path, c->h.data_file);
	int rc;

	if (!path)
		return err_set(e, -ENOMEM, "disk %s: out of memory", c->o->path);
	rc = file_make(&c->data, &c->fs, path, c->o->overwrite, e);
	if (rc)
		return err_wrap(e, "disk %s: its data file", c->o->path);
	if (c->data->block_device) {
		rc = take_device(c, path, e);
	} else {
		rc = file_truncate(c->data, 0, e);
		rc = rc ?: file_truncate(c->data, c->h.size, e);
	}
	return rc ?: file_flush(c->data, e);
}

/* Opened like any other disk, it gets entries for all of its clusters. */
static int preallocate(const struct create *c, struct err *e)
{
	struct disk_opts o = {.path = c->o->path,
		.format = "qcow2",
		.io = IO_THREADS,
		.loop = c->o->loop,
		.open_file = c->o->open_file,
		.open_ctx = c->o->open_ctx};
	struct disk *d;
	int rc = disk_open(&d, &o, e);

	if (rc)
		return rc;
	rc = q_preallocate(d->priv, c->fill, c->o->watch, e);
	disk_close(d);
	return rc;
}

int q_preallocate(struct qcow2 *q, enum fill fill, const struct disk_watch *w, struct err *e)
{
	uint64_t end = 0, n = (q->d->size + q->cluster_size - 1) >> q->cluster_bits;
	int rc = 0;

	for (uint64_t c = 0; c < n && !rc;) {
		uint64_t at, host, got = 0, left;
		struct q_slice *s;
		bool zero;

		rc = q_l2_make(q, c, &s, &at);
		if (rc)
			break;
		left = MIN(((1ull << q->slice_bits) - at) / q->l2_entry, n - c);
		rc = q_alloc(q, left, &host, &got, &zero);
		if (!rc && (!zero || fill > FILL_METADATA))
			rc = fill_file(q->file, MAX(fill, FILL_SPACE), host, got << q->cluster_bits,
				c << q->cluster_bits, q->d->size, w, NULL);
		for (uint64_t i = 0; i < got && !rc; i++) {
			put_be64(s->data + at + i * q->l2_entry,
				(host + (i << q->cluster_bits)) | Q_COPIED);
			if (q->extended)
				put_be64(s->data + at + i * q->l2_entry + 8, 0xffffffff);
		}
		if (!rc)
			q_slice_dirty(q, s, at, got * q->l2_entry);
		q_slice_put(s);
		end = MAX(end, host + (got << q->cluster_bits));
		c += got;
		if (!rc && q->cache.dirty_bytes > Q_DIRTY_BYTES)
			rc = q_commit(q);
	}
	if (!rc && end > q->file->size && !q->file->block_device)
		rc = file_truncate(q->file, end, NULL);
	rc = rc ?: q_commit(q);
	if (rc == -ECANCELED)
		return err_set(e, rc, "stopped");
	return rc ? err_sys(e, rc, "disk %s: cannot be preallocated", q->d->o.path) : 0;
}

/* ---- measuring ---- */

/* Of an image with so many L2 tables and clusters of data; each lies where the file ends when it is taken. */
static uint64_t image_bytes(const struct create *c, uint64_t tables, uint64_t data)
{
	const struct qcow2_header *h = &c->h;
	uint64_t per = 8ull << h->cluster_bits >> h->refcount_order, blocks = c->blocks;
	uint64_t n = 1 + h->rt_clusters + c->l1_clusters + tables + data;

	while (blocks * per < n + blocks)
		blocks = MAX((n + blocks + per - 1) / per, blocks + 1);
	return (n + blocks) << h->cluster_bits;
}

/* Each with all of its clusters, and the directory. */
static int bitmap_bytes(
	struct disk *from, uint64_t size, uint64_t cs, uint64_t *bytes, struct err *e)
{
	cleanup(free_ptr) struct disk_bitmap *list = NULL;
	uint64_t names = 0, own;
	unsigned n = 0;
	int rc = disk_bitmaps(from, &list, &n, e);

	for (unsigned i = 0; i < n && !rc; i++) {
		own = (size + 8 * list[i].granularity - 1) / (8 * list[i].granularity);
		own = align_up(own, cs);
		*bytes += own + align_up(own / cs * 8, cs);
		names += align_up(24 + strlen(list[i].name), 8);
	}
	*bytes += align_up(names, cs);
	return rc;
}

int q_measure(
	const struct disk_create_opts *o, struct disk *from, struct disk_amount *out, struct err *e)
{
	struct create c = {.o = o, .h.size = o->size};
	uint64_t cluster, unit[2], n[2], all[2];
	int rc = take_options(&c, e) ?: lay_out(&c, e);

	cluster = 1ull << c.h.cluster_bits;
	unit[0] = cluster;
	unit[1] = cluster * (cluster >> (c.h.incompatible & QCOW2_EXTENDED_L2 ? 4 : 3));
	rc = rc ?: disk_count_data(from, unit, n, 2, o->watch, e);
	if (!rc && from && c.h.version > 2)
		rc = bitmap_bytes(from, o->size, cluster, &out->bitmaps, e);
	for (unsigned i = 0; i < 2 && !rc; i++)
		all[i] = (o->size + unit[i] - 1) / unit[i];
	if (!rc) {
		out->full = image_bytes(&c, all[1], all[0]);
		out->required = c.fill ? out->full : image_bytes(&c, n[1], n[0]);
	}
	qcow2_header_free(&c.h);
	return rc;
}

/* ---- making ---- */

static int create_file(struct create *c, struct err *e)
{
	const struct disk_create_opts *o = c->o;
	int rc = file_make(&c->file, &c->fs, o->path, c->o->overwrite, e);

	if (rc)
		return rc;
	if (!c->file->block_device)
		rc = file_truncate(c->file, 0, e);
	return rc ?: write_tables(c, e);
}

int q_create(const struct disk_create_opts *o, struct err *e)
{
	struct create c = {.o = o,
		.fs = {.loop = o->loop,
			.io = IO_THREADS,
			.open = o->open_file,
			.open_ctx = o->open_ctx}};
	bool made;
	int rc = take_options(&c, e);

	c.h.size = o->size;
	if (!rc && c.h.data_file)
		rc = not_itself(&c, c.h.data_file, "data file", e);
	if (!rc && o->backing)
		rc = not_itself(&c, o->backing, "backing file", e);
	if (!rc && !o->size && o->backing)
		rc = backing_size(o, &c.h.size, e);
	if (!rc && (!c.h.size || c.h.size % DISK_SECTOR))
		rc = err_set(e, -EINVAL, "a size of %llu bytes is not a multiple of %u",
			(unsigned long long)c.h.size, DISK_SECTOR);
	rc = rc ?: lay_out(&c, e);
	/* From here on it is files, whose errors name them. */
	if (rc)
		err_wrap(e, "disk %s", o->path);
	if (!rc && c.h.data_file)
		rc = make_data_file(&c, e);
	rc = rc ?: create_file(&c, e);
	made = c.file && c.file->o.create && !o->open_file;
	(void)file_made(c.data, rc);
	(void)file_made(c.file, rc);
	if (!rc && c.fill) {
		rc = preallocate(&c, e);
		if (rc && made)
			(void)unlink(o->path);
	}
	qcow2_header_free(&c.h);
	return rc;
}
