/* qcow2.c: opening and closing images, and requests on their way to the parts (qcow2.h). */
#include "disk/qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/qcow2/admin.h"
#include "disk/qcow2/bitmap.h"
#include "disk/qcow2/check.h"
#include "disk/qcow2/snapshot.h"

/* ---- opening ---- */

static int read_header(struct qcow2 *q, struct err *e)
{
	const char *path = q->d->o.path;
	cleanup(free_ptr) uint8_t *buf = NULL;
	uint8_t first[QCOW2_V2_LENGTH] = {0};
	uint64_t size = q->file->size, len;
	unsigned bits;
	int rc;

	rc = file_read(q->file, 0, first, MIN(size, (uint64_t)sizeof(first)), e);
	if (rc)
		return rc;
	rc = qcow2_header_peek(&bits, first, MIN(size, sizeof(first)), path, e);
	if (rc)
		return rc;
	len = MIN(size, 1ull << bits);
	buf = calloc(1, len);
	if (!buf)
		return err_set(e, -ENOMEM, "disk %s: out of memory", path);
	rc = file_read(q->file, 0, buf, len, e);
	return rc ?: qcow2_header_parse(&q->h, buf, len, size, path, e);
}

static void geometry(struct qcow2 *q)
{
	const struct qcow2_header *h = &q->h;

	q->v3 = h->version > 2;
	q->cluster_bits = h->cluster_bits;
	q->cluster_size = 1ull << h->cluster_bits;
	q->extended = h->incompatible & QCOW2_EXTENDED_L2;
	q->data_file = h->incompatible & QCOW2_DATA_FILE;
	q->raw_data = q->data_file && (h->autoclear & QCOW2_DATA_FILE_RAW);
	q->lazy = h->compatible & QCOW2_LAZY_REFCOUNTS;
	q->l2_entry = q->extended ? 16 : 8;
	q->l2_bits = h->cluster_bits - (q->extended ? 4 : 3);
	q->sub_bits = h->cluster_bits - 5;
	q->slice_bits = MIN(h->cluster_bits, (unsigned)__builtin_ctz(Q_SLICE_MAX));
	q->rb_bits = h->cluster_bits + 3 - h->refcount_order;
	q->refcount_max = h->refcount_order == 6 ? UINT64_MAX >> 1
						 : (1ull << (1u << h->refcount_order)) - 1;
	q->rt_entries = (uint64_t)h->rt_clusters << (h->cluster_bits - 3);
	q->zero_from = q->file->block_device ? UINT64_MAX
					     : align_up(q->file->size, q->cluster_size);
}

static int read_table(struct qcow2 *q, uint64_t off, uint64_t entries, uint64_t **out,
	uint64_t **dirty, struct err *e)
{
	uint64_t *t = calloc(MAX(entries, 1ull), 8);
	int rc;

	*out = t;
	*dirty = calloc(BITMAP_WORDS((entries + 63) / 64) + 1, 8);
	if (!t || !*dirty)
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	rc = entries ? file_read(q->file, off, t, entries * 8, e) : 0;
	for (uint64_t i = 0; i < entries && !rc; i++)
		t[i] = get_be64(&t[i]);
	return rc;
}

static int damaged_at(struct qcow2 *q, struct err *e, const char *what, uint64_t i)
{
	return err_set(e, -EUCLEAN,
		"disk %s: entry %llu of the %s is damaged (it points outside the file or to other "
		"metadata): `lodge disk repair %s:qcow2`",
		q->d->o.path, (unsigned long long)i, what, q->d->o.path);
}

/* Notes [off, off + bytes) as metadata. 1: something else is there. */
static int note(struct qcow2 *q, uint64_t off, uint64_t bytes)
{
	int taken = 0;

	for (uint64_t c = off >> q->cluster_bits; c << q->cluster_bits < off + bytes; c++) {
		int rc = q_set_add(&q->meta_set, c);

		if (rc < 0)
			return rc;
		taken |= rc;
	}
	return taken;
}

/* For a writer: no table lies in another, so that writing one cannot damage another. */
static int note_all(struct qcow2 *q, struct err *e)
{
	const struct qcow2_header *h = &q->h;
	uint64_t mask = q->cluster_size - 1;
	int rc = note(q, 0, q->cluster_size);

	rc = rc ?: note(q, h->l1_off, h->l1_size * 8ull);
	rc = rc ?: note(q, h->rt_off, (uint64_t)h->rt_clusters << h->cluster_bits);
	if (!rc && h->nb_snapshots)
		rc = note(q, h->snapshots_off, 1);
	if (!rc && h->has_bitmaps)
		rc = note(q, h->bitmaps_off, h->bitmaps_size);
	if (rc)
		return damaged_at(q, e, "header (tables overlap)", 0);
	for (uint64_t i = 0; i < q->rt_entries; i++) {
		uint64_t off = q->rt[i];

		if (off && ((off & mask) || off >= q->file->size || note(q, off, q->cluster_size)))
			return damaged_at(q, e, "refcount table", i);
	}
	for (uint64_t i = 0; i < h->l1_size; i++) {
		uint64_t off = q->l1[i] & Q_OFFSET;

		if ((q->l1[i] & Q_L1_RESERVED) || (off && ((off & mask) || off >= q->file->size ||
								  note(q, off, q->cluster_size))))
			return damaged_at(q, e, "L1 table", i);
	}
	return 0;
}

static int open_data(struct qcow2 *q, struct err *e)
{
	struct disk *d = q->d;
	cleanup(free_ptr) char *path = NULL;
	const char *name = disk_kv_get(d->o.kv, "data-file") ?: q->h.data_file;
	int rc;

	q->data = q->file;
	if (!q->data_file)
		return 0;
	q->data = NULL;
	if (!name)
		return err_set(e, -EINVAL,
			"disk %s: its data is in another file whose name it does not have: "
			"%s:qcow2,data-file=FILE says it",
			d->o.path, d->o.path);
	path = disk_backing_path(d->o.path, name);
	if (!path)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	rc = disk_file(d, path, 0, &q->data, e);
	if (rc == -ENOENT)
		return err_set(e, rc,
			"disk %s: its data file %s is not there: put it back under that name",
			d->o.path, path);
	return rc ? err_wrap(e, "disk %s: its data file", d->o.path) : 0;
}

static int load(struct qcow2 *q, struct err *e)
{
	int rc;

	if (q_cache_init(q))
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	rc = read_table(q, q->h.l1_off, q->h.l1_size, &q->l1, &q->l1_dirty, e);
	rc = rc ?: read_table(q, q->h.rt_off, q->rt_entries, &q->rt, &q->rt_dirty, e);
	return rc;
}

/* Its tables instead of the present ones. Nobody writes: the file is locked against that. */
static int show_snapshot(struct qcow2 *q, const char *name, struct err *e)
{
	struct q_snap *s = NULL;
	uint64_t *l1 = NULL;
	unsigned n = 0, i;
	int rc;

	if (!q->d->o.readonly)
		return err_set(e, -EROFS, "disk %s: a snapshot is only read", q->d->o.path);
	rc = q_snaps_load(q, &s, &n, e);
	if (rc)
		return rc;
	for (i = 0; i < n && strcmp(s[i].name, name); i++)
		;
	if (i == n)
		for (i = 0; i < n && strcmp(s[i].id, name); i++)
			;
	rc = i < n ? q_snap_l1(q, &s[i], &l1, e)
		   : err_set(e, -ENOENT, "disk %s: there is no snapshot %s", q->d->o.path, name);
	if (!rc) {
		free(q->l1);
		q->l1 = l1;
		q->h.l1_size = s[i].l1_size;
		q->h.size = q->d->size = s[i].size;
	}
	q_snaps_free(s, n);
	return rc;
}

static int write_options(struct qcow2 *q, struct err *e)
{
	const char *when = disk_kv_get(q->d->o.kv, "commit");
	bool sorter = true;
	int rc = disk_kv_bool(q->d->o.kv, "sorter", &sorter, e);

	if (!rc && when && strcmp(when, "batch") && strcmp(when, "flush"))
		rc = err_set(e, -EINVAL, "commit: '%s' is neither batch nor flush", when);
	q->one_by_one = !sorter;
	q->late = sorter && (!when || !strcmp(when, "flush"));
	return rc;
}

/* What a writer has to see to before the first write. */
static int open_writer(struct qcow2 *q, struct err *e)
{
	struct disk *d = q->d;
	uint64_t keep = q->h.autoclear & QCOW2_AUTOCLEAR_KNOWN;
	int rc = 0;

	if (q->h.incompatible & QCOW2_CORRUPT)
		return err_set(e, -EUCLEAN,
			"disk %s: is marked as damaged and may only be read: `lodge disk repair "
			"%s:qcow2`, or take what is left: `lodge disk convert`",
			d->o.path, d->o.path);
	if (q->h.incompatible & QCOW2_DIRTY)
		rc = q_check(q, Q_RECOVER, NULL, NULL, e);
	rc = rc ?: note_all(q, e);
	if (rc)
		return rc;
	q->writable = true;
	if (keep != q->h.autoclear) {
		rc = q_header_field(q, QCOW2_AT_AUTOCLEAR, keep, 8) ?: q_sync(q);
		if (rc)
			return err_sys(e, rc, "disk %s: cannot be written to", d->o.path);
		q->h.autoclear = keep;
	}
	rc = q_bitmaps_load(q, e);
	rc = rc ?: q_bitmaps_begin(q, e);
	return rc ?: q_writer_create(q, e);
}

static int qcow2_open(struct disk *d, struct err *e)
{
	const char *snapshot = disk_kv_get(d->o.kv, "snapshot");
	struct qcow2 *q = calloc(1, sizeof(*q));
	int rc;

	if (!q)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	d->priv = q;
	q->d = d;
	rc = disk_file(d, NULL, 0, &q->file, e);
	rc = rc ?: read_header(q, e);
	if (rc)
		return rc;
	geometry(q);
	d->size = q->h.size;
	d->physical = q->file->physical;
	d->can_discard = d->o.discard && !d->o.readonly;
	rc = open_data(q, e);
	rc = rc ?: load(q, e);
	if (!rc && snapshot)
		rc = show_snapshot(q, snapshot, e);
	if (!rc && q->h.backing)
		rc = disk_open_backing(d, q->h.backing, q->h.backing_format, e);
	rc = rc ?: write_options(q, e);
	if (!rc && !d->o.readonly && !d->o.force)
		rc = open_writer(q, e);
	return rc;
}

/* ---- closing ---- */

/* What it answers is about the guest's data, which is there when its entries are. */
static int finish(struct qcow2 *q)
{
	int saved = q_bitmaps_save(q), rc = q_settle(q);

	if (!saved && !rc && q->dirty_set)
		(void)q_set_incompatible(q, 0, QCOW2_DIRTY);
	return q->late && q->unlinked ? rc : 0;
}

static int qcow2_close(struct disk *d)
{
	struct qcow2 *q = d->priv;
	int rc = 0;

	if (!q)
		return 0;
	while (q->jobs)
		files_drain(d->files);
	if (q->writable && q->corrupt)
		(void)q_bitmaps_save(q); /* which tells that they are not */
	if (q->writable)
		rc = !q->corrupt ? finish(q) : q->late && q->unlinked ? -EIO : 0;
	while (q->jobs)
		files_drain(d->files);
	q_writer_destroy(q);
	q_bitmaps_free(q);
	q_snaps_forget(q);
	q_cache_free(q);
	co_sched_destroy(&q->cs);
	if (q->data != q->file)
		file_close(q->data);
	file_close(q->file);
	qcow2_header_free(&q->h);
	free(q->unpacked);
	free(q->meta_set.slot);
	free(q->frees.a);
	free(q->unflushed.a);
	free(q->idle.a);
	free(q->l1);
	free(q->l1_dirty);
	free(q->rt);
	free(q->rt_dirty);
	free(q);
	d->priv = NULL;
	return rc;
}

/* ---- requests ---- */

struct flushing {
	struct qcow2 *q;
	struct disk_req *r;
	int rc;
	bool in_submit, ended;
};

static void flush_job(void *arg)
{
	struct flushing *f = arg;

	f->rc = q_commit(f->q);
}

static void flush_after(void *arg)
{
	struct flushing *f = arg;

	f->ended = true;
	if (f->in_submit)
		return;
	disk_done(f->r, f->rc);
	free(f);
}

static void submit_flush(struct qcow2 *q, struct disk_req *r)
{
	struct flushing *f = calloc(1, sizeof(*f));

	if (f) {
		*f = (struct flushing){.q = q, .r = r, .in_submit = true};
		if (!co_start(&q->cs, flush_job, flush_after, f) && !f->ended) {
			f->in_submit = false;
			return;
		}
	}
	disk_done_soon(r, f && f->ended ? f->rc : -ENOMEM);
	free(f);
}

/* Bits are set when a write begins: one too many does no harm. */
static void mark(struct qcow2 *q, const struct disk_req *r)
{
	for (unsigned i = 0; i < r->nranges; i++)
		q_bitmaps_mark(q, r->ranges[i].offset, r->ranges[i].len);
	if (!r->nranges)
		q_bitmaps_mark(q, r->offset, r->len);
}

static void qcow2_submit(struct disk *d, struct disk_req *r)
{
	struct qcow2 *q = d->priv;

	if (q->nbitmaps && r->op != DISK_READ && r->op != DISK_FLUSH)
		mark(q, r);
	if (r->op == DISK_READ)
		q_submit_read(q, r);
	else if (r->op == DISK_FLUSH)
		submit_flush(q, r);
	else
		q_submit_write(q, r);
}

static void qcow2_kick(struct disk *d)
{
	struct qcow2 *q = d->priv;

	if (!q)
		return;
	if (q->sorter)
		sorter_kick(q->sorter);
	q_link_soon(q);
}

/* ---- what is where ---- */

static int qcow2_status(
	struct disk *d, uint64_t off, uint64_t len, struct disk_extent *out, struct err *e)
{
	static const unsigned flags[] = {[Q_UNALLOCATED] = 0,
		[Q_ZEROES] = DISK_EXT_HERE,
		[Q_NORMAL] = DISK_EXT_HERE | DISK_EXT_DATA | DISK_EXT_PLACE,
		[Q_PACKED] = DISK_EXT_HERE | DISK_EXT_DATA | DISK_EXT_COMPRESSED};
	struct qcow2 *q = d->priv;
	struct q_map m;
	int rc = q_map(q, off, len, false, &m);

	if (rc)
		return err_sys(e, rc, "disk %s: the tables for offset 0x%llx", d->o.path,
			(unsigned long long)off);
	*out = (struct disk_extent){.offset = off, .len = m.len, .flags = flags[m.type]};
	if (m.type == Q_NORMAL) {
		out->file = q->data;
		out->addr = m.host;
	}
	return 0;
}

static const struct disk_key open_keys[] = {
	{"data-file", "FILE", "where the data of an image with an external data file is"},
	{"commit", "batch|flush",
		"when new table entries are written: before a write is acknowledged, or at the "
		"next flush and within a second"},
	{"sorter", "on|off", "off: a transaction for each cluster, to compare with"},
	{"snapshot", "NAME", "what the disk held then, by name or id; readonly"},
	{0},
};

const struct disk_format disk_qcow2 = {
	.name = "qcow2",
	.help = "QEMU's: grows as it is written to, backing files, snapshots, compression",
	.create_keys = q_create_keys,
	.open_keys = open_keys,
	.open = qcow2_open,
	.close = qcow2_close,
	.submit = qcow2_submit,
	.kick = qcow2_kick,
	.create = q_create,
	.measure = q_measure,
	.resize = q_resize,
	.block_status = qcow2_status,
	.snapshot = q_snapshot,
	.snapshots = q_snapshots,
	.bitmap = q_bitmap_op,
	.bitmaps = q_bitmap_list,
	.bitmap_status = q_bitmap_status,
	.bitmap_set = q_bitmap_set,
	.check = q_check_op,
	.info = q_info,
	.stats = q_stats,
	.set_backing = q_set_backing,
	.empty = q_empty,
	.write_compressed = q_write_compressed,
	.scattered = true,
};
