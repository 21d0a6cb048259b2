/* raw.c: a file or block device whose bytes are the disk's bytes. */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/fill.h"

struct raw {
	struct file *file;
};

static void on_done(struct file_req *f)
{
	disk_done(container_of(f, struct disk_req, file), f->result);
}

static void raw_submit(struct disk *d, struct disk_req *r)
{
	static const enum file_op ops[] = {[DISK_READ] = FILE_READ,
		[DISK_WRITE] = FILE_WRITE,
		[DISK_FLUSH] = FILE_FLUSH,
		[DISK_DISCARD] = FILE_DISCARD,
		[DISK_WRITE_ZEROES] = FILE_ZERO};
	struct raw *w = d->priv;
	struct file_req *f = &r->file;

	f->op = ops[r->op];
	f->fua = r->fua;
	f->unmap = r->unmap;
	f->off = r->offset;
	f->len = r->len;
	f->iov = r->iov;
	f->niov = r->niov;
	f->done = on_done;
	file_submit(w->file, f);
}

static int check_size(const struct disk *d, uint64_t size, struct err *e)
{
	if (!size)
		return err_set(e, -EINVAL,
			"disk %s is empty; `truncate -s 8G %s` makes it 8 GiB large", d->o.path,
			d->o.path);
	if (size % DISK_SECTOR)
		return err_set(e, -EINVAL,
			"disk %s: %llu bytes are not a multiple of %u: is the file cut off? Was it "
			"copied completely? Is it a raw image?",
			d->o.path, (unsigned long long)size, DISK_SECTOR);
	return 0;
}

static int raw_open(struct disk *d, struct err *e)
{
	struct raw *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	d->priv = w;
	rc = disk_file(d, NULL, DISK_FILE_RAW, &w->file, e);
	if (!rc)
		rc = check_size(d, w->file->size, e);
	if (rc)
		return rc;
	d->size = w->file->size;
	d->physical = w->file->physical;
	d->can_discard = d->o.discard && !d->o.readonly;
	return 0;
}

static int raw_close(struct disk *d)
{
	struct raw *w = d->priv;

	if (w)
		file_close(w->file);
	free(w);
	return 0;
}

static int raw_resize(struct disk *d, uint64_t size, struct err *e)
{
	struct raw *w = d->priv;
	uint64_t now = 0;
	int rc = w->file->ops->measure(w->file, &now, e);

	if (!rc)
		rc = check_size(d, now, e);
	if (rc)
		return rc;
	if (!size && now < d->size)
		return err_set(e, -EINVAL,
			"disk %s has shrunk from %llu to %llu bytes under its machine", d->o.path,
			(unsigned long long)d->size, (unsigned long long)now);
	if (size && (size > now || d->o.offline))
		rc = file_truncate(w->file, size, e);
	else
		w->file->size = now;
	if (!rc)
		d->size = size ?: now;
	return rc;
}

static int raw_status(
	struct disk *d, uint64_t off, uint64_t len, struct disk_extent *out, struct err *e)
{
	struct raw *w = d->priv;
	bool data = true;
	int rc = file_extent(w->file, off, &len, &data);

	if (rc && rc != -EOPNOTSUPP)
		return err_sys(e, rc, "disk %s: where its data is cannot be read", d->o.path);
	*out = (struct disk_extent){.offset = off,
		.len = len,
		.flags = DISK_EXT_HERE | (rc || data ? DISK_EXT_DATA | DISK_EXT_PLACE : 0u),
		.file = w->file,
		.addr = off};
	return 0;
}

static const struct disk_key create_keys[] = {
	{"preallocation", "off|falloc|full",
		"space from the beginning; full: zeroes are written to it (off)"},
	{0},
};

static int take_fill(const struct disk_create_opts *o, unsigned *how, struct err *e)
{
	int rc;

	*how = FILL_OFF;
	rc = disk_kv_choice(o->kv, "preallocation", fill_names, FILL_VALUES, how, e);
	if (!rc && *how == FILL_METADATA)
		rc = err_set(e, -EINVAL,
			"preallocation: the raw format has no tables; there is: off, falloc, full");
	return rc;
}

static int fill(struct file *f, enum fill how, const struct disk_create_opts *o, struct err *e)
{
	int rc;

	if (f->block_device)
		return err_set(e, -EINVAL,
			"disk %s: is a block device, which has its space: preallocation is of "
			"files",
			o->path);
	rc = fill_file(f, how, 0, o->size, 0, o->size, o->watch, e);
	return rc && rc != -ECANCELED ? err_sys(e, rc, "disk %s: cannot be preallocated", o->path)
				      : rc;
}

static int raw_create(const struct disk_create_opts *o, struct err *e)
{
	struct files fs = {
		.loop = o->loop, .io = IO_THREADS, .open = o->open_file, .open_ctx = o->open_ctx};
	struct file *f = NULL;
	unsigned how;
	int rc = take_fill(o, &how, e);

	if (rc)
		return err_wrap(e, "disk %s", o->path);
	if (o->backing)
		return err_set(e, -EINVAL,
			"disk %s: the raw format has no backing files: qcow2 has", o->path);
	rc = file_make(&f, &fs, o->path, o->overwrite, e);
	if (rc)
		return rc;
	if (!f->block_device) {
		rc = o->overwrite ? file_truncate(f, 0, e) : 0;
		if (!rc)
			rc = file_truncate(f, o->size, e);
	} else if (f->size < o->size) {
		rc = err_set(e, -ENOSPC, "disk %s: the device has %llu bytes", o->path,
			(unsigned long long)f->size);
	}
	if (!rc && how)
		rc = fill(f, how, o, e);
	if (!rc)
		rc = file_flush(f, e);
	return file_made(f, rc);
}

static int raw_measure(
	const struct disk_create_opts *o, struct disk *from, struct disk_amount *out, struct err *e)
{
	unsigned how;

	(void)from;
	out->required = out->full = o->size;
	return take_fill(o, &how, e);
}

const struct disk_format disk_raw = {
	.name = "raw",
	.help = "the file's bytes are the disk's",
	.create_keys = create_keys,
	.open = raw_open,
	.close = raw_close,
	.submit = raw_submit,
	.create = raw_create,
	.measure = raw_measure,
	.resize = raw_resize,
	.block_status = raw_status,
	.fua = true,
};
