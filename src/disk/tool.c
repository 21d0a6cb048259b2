/* tool.c: see tool.h. What works on one open disk; copying and comparing is in tool_copy.c. */
#include "disk/tool.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/util.h"

int disk_split_name(const char *text, char **path, const char **format, struct err *e)
{
	const char *colon = strrchr(text, ':');
	const struct disk_format *f = colon ? disk_format_by_name(colon + 1) : NULL;
	char list[128] = "";

	for (unsigned i = 0; disk_format_at(i); i++) {
		size_t n = strlen(list);

		snprintf(
			list + n, sizeof(list) - n, "%s%s", n ? ", " : "", disk_format_at(i)->name);
	}
	if (!colon || colon == text)
		return err_set(e, -EINVAL,
			"'%s' names no format: write %s:FORMAT; there is: %s (formats are never "
			"guessed)",
			text, !*text || *text == ':' ? "FILE" : text, list);
	if (!f)
		return err_set(e, -EINVAL, "'%s': there is no format '%s'; there is: %s", text,
			colon + 1, list);
	*format = f->name;
	*path = strndup(text, (size_t)(colon - text));
	return *path ? 0 : err_set(e, -ENOMEM, "out of memory");
}

int disk_may_create(const struct disk_format *f, const struct disk_create_opts *o, struct err *e)
{
	bool sized = o->size || o->backing;
	int rc;

	if (!f || !f->create)
		return err_set(e, -EOPNOTSUPP, "disks of the format '%s' cannot be made",
			f ? f->name : "");
	rc = disk_kv_known(o->kv, f->create_keys, f->name, &sized, e);
	if (rc)
		return rc;
	if (!sized)
		return err_set(e, -EINVAL, "how large? add --size 8G");
	if (o->size > INT64_MAX)
		return err_set(e, -EINVAL, "no disk has so many bytes");
	if (o->size % DISK_SECTOR)
		return err_set(e, -EINVAL, "a size of %llu bytes is not a multiple of %u",
			(unsigned long long)o->size, DISK_SECTOR);
	return 0;
}

int disk_create(const char *format, const struct disk_create_opts *o, struct err *e)
{
	const struct disk_format *f = disk_format_by_name(format);

	if (disk_may_create(f, o, e))
		return err_wrap(e, "disk %s", o->path);
	return f->create(o, e);
}

int disk_remove(const char *format, const char *path, struct uv_loop_s *loop, struct err *e)
{
	const char *slash = strrchr(path, '/');
	cleanup(free_ptr) char *store = NULL;
	struct stat st;

	for (unsigned i = 0; disk_store_at(i); i++)
		if (!strcmp(disk_store_at(i)->name, format)) {
			store = slash ? strndup(path, (size_t)(slash - path)) : NULL;
			return store ? disk_store_at(i)->remove(
					       &(struct files){.loop = loop}, store, slash + 1, e)
				     : err_set(e, -EINVAL, "disk %s: names no store", path);
		}
	if (!lstat(path, &st) && !S_ISREG(st.st_mode))
		return 0;
	return unlink(path) ? err_sys(e, -errno, "disk %s", path) : 0;
}

/* ---- one request ---- */

struct waited {
	struct disk_req r;
	struct iovec iov;
	bool done;
};

static void waited_done(struct disk_req *r)
{
	container_of(r, struct waited, r)->done = true;
}

int disk_rw(struct disk *d, enum disk_op op, uint64_t off, void *buf, uint64_t len, struct err *e)
{
	struct waited w = {.r = {.op = op,
				   .offset = off,
				   .len = len,
				   .iov = &w.iov,
				   .niov = 1,
				   .unmap = true,
				   .waited = true,
				   .done = waited_done},
		.iov = {buf, len}};

	disk_submit(d, &w.r);
	if (!w.done)
		disk_drain(d);
	return w.r.result
		       ? err_sys(e, w.r.result, "disk %s: %s of %llu bytes at %llu", d->o.path,
				 disk_op_name(op), (unsigned long long)len, (unsigned long long)off)
		       : 0;
}

/* ---- what consists of what ---- */

int disk_block_status(
	struct disk *d, uint64_t off, uint64_t len, struct disk_extent *out, struct err *e)
{
	unsigned depth = 0;
	int rc;

	if (off >= d->size)
		return err_set(e, -ERANGE, "disk %s: %llu is behind its end", d->o.path,
			(unsigned long long)off);
	len = MIN(len, d->size - off);
	for (struct disk *i = d;; i = i->backing, depth++) {
		if (off >= i->size) { /* a backing file that is shorter */
			*out = (struct disk_extent){.offset = off, .len = len, .depth = depth};
			return 0;
		}
		len = MIN(len, i->size - off);
		*out = (struct disk_extent){
			.offset = off, .len = len, .flags = DISK_EXT_HERE | DISK_EXT_DATA};
		rc = i->format->block_status ? i->format->block_status(i, off, len, out, e) : 0;
		out->depth = depth;
		if (rc || (out->flags & DISK_EXT_HERE) || !i->backing)
			return rc;
		len = MIN(len, out->len);
	}
}

static int cannot(const struct disk *d, const char *what, struct err *e)
{
	return err_set(e, -EOPNOTSUPP, "disk %s: the format %s has no %s", d->o.path,
		d->format->name, what);
}

static int may_snapshot(const struct disk *d, enum disk_snap_op op, const char *name, struct err *e)
{
	if (!d->format->snapshot)
		return cannot(d, "snapshots: qcow2 and lodgefs have", e);
	if (d->o.readonly)
		return err_set(e, -EROFS, "disk %s: is readonly", d->o.path);
	if (op == DISK_SNAP_APPLY && !d->o.offline)
		return err_set(e, -EBUSY,
			"disk %s: a machine runs on it: a snapshot is gone back to when it has "
			"stopped",
			d->o.path);
	if (!name || !*name || strlen(name) >= sizeof(((struct disk_snapshot *)0)->name))
		return err_set(e, -EINVAL, "disk %s: the name of a snapshot has 1 to 255 bytes",
			d->o.path);
	return 0;
}

/* What ends on one disk may begin something on another. */
static void drain_all(struct disk *const *d, unsigned n)
{
	bool busy;

	do {
		busy = false;
		for (unsigned i = 0; i < n; i++) {
			busy |= disk_in_flight(d[i]) > disk_held(d[i]);
			disk_drain(d[i]);
		}
	} while (busy);
}

/* Disk i, with those behind it that are in one store with it. */
static int snapshot_store(
	struct disk *const *d, unsigned n, bool *made, unsigned i, const char *name, struct err *e)
{
	const void *store = d[i]->format->store ? d[i]->format->store(d[i]) : NULL;
	struct disk *group[DISK_TOGETHER];
	unsigned k = 0;
	int rc;

	if (!store)
		rc = d[i]->format->snapshot(d[i], DISK_SNAP_CREATE, name, e);
	for (unsigned j = i; j < n && store; j++)
		if (d[j]->format == d[i]->format && d[j]->format->store(d[j]) == store)
			group[k++] = d[j];
	if (store)
		rc = d[i]->format->snapshot_all(group, k, name, e);
	for (unsigned j = i; j < n && !rc; j++)
		made[j] |= j == i || (store && d[j]->format == d[i]->format &&
					     d[j]->format->store(d[j]) == store);
	return rc;
}

int disk_snapshot_all(struct disk *const *d, unsigned n, const char *name, struct err *e)
{
	bool made[DISK_TOGETHER] = {false};
	int rc = 0;

	if (n > DISK_TOGETHER)
		return err_set(
			e, -E2BIG, "a snapshot of more than %u disks at once", DISK_TOGETHER);
	for (unsigned i = 0; i < n && !rc; i++)
		rc = may_snapshot(d[i], DISK_SNAP_CREATE, name, e);
	if (rc)
		return rc;
	drain_all(d, n);
	for (unsigned i = 0; i < n && !rc; i++)
		if (!made[i])
			rc = snapshot_store(d, n, made, i, name, e);
	for (unsigned i = 0; i < n && rc; i++)
		if (made[i])
			(void)d[i]->format->snapshot(d[i], DISK_SNAP_DELETE, name, NULL);
	return rc;
}

int disk_snapshot(struct disk *d, enum disk_snap_op op, const char *name, struct err *e)
{
	uint64_t old = d->size;
	int rc = may_snapshot(d, op, name, e);

	if (rc)
		return rc;
	disk_drain(d);
	rc = d->format->snapshot(d, op, name, e);
	if (!rc && d->size != old && d->o.client.resized)
		d->o.client.resized(d->o.client.ctx);
	return rc;
}

int disk_snapshots(struct disk *d, struct disk_snapshot **out, unsigned *n, struct err *e)
{
	*out = NULL;
	*n = 0;
	return d->format->snapshots ? d->format->snapshots(d, out, n, e) : 0;
}

int disk_bitmap(struct disk *d, enum disk_bitmap_op op, const char *name, uint64_t granularity,
	struct err *e)
{
	if (!d->format->bitmap)
		return cannot(d, "bitmaps of changes: qcow2 and lodgefs have", e);
	if (d->o.readonly)
		return err_set(e, -EROFS, "disk %s: is readonly", d->o.path);
	disk_drain(d);
	return d->format->bitmap(d, op, name, granularity, e);
}

int disk_bitmaps(struct disk *d, struct disk_bitmap **out, unsigned *n, struct err *e)
{
	*out = NULL;
	*n = 0;
	return d->format->bitmaps ? d->format->bitmaps(d, out, n, e) : 0;
}

int disk_bitmap_status(
	struct disk *d, const char *name, uint64_t off, uint64_t *len, bool *dirty, struct err *e)
{
	if (!d->format->bitmap_status)
		return cannot(d, "bitmaps of changes", e);
	return d->format->bitmap_status(d, name, off, len, dirty, e);
}

int disk_bitmap_merge(
	struct disk *d, const char *name, struct disk *from, const char *source, struct err *e)
{
	const struct disk_format *f = d->format;
	uint64_t end = MIN(d->size, from->size), len;
	bool dirty = false;
	int rc = 0;

	if (d->o.readonly)
		return err_set(e, -EROFS, "disk %s: is readonly", d->o.path);
	disk_drain(d);
	if (d == from && f->bitmap_merge)
		return f->bitmap_merge(d, name, source, e);
	if (!f->bitmap_set)
		return cannot(d, "bitmaps that take what others have: qcow2 has", e);
	rc = f->bitmap_set(d, name, 0, 0, e); /* it is there */
	for (uint64_t at = 0; at < end && !rc; at += len) {
		len = end - at;
		rc = disk_bitmap_status(from, source, at, &len, &dirty, e);
		if (!rc && dirty)
			rc = f->bitmap_set(d, name, at, len, e);
	}
	return rc;
}

/* ---- describing ---- */

int disk_generation(struct disk *d, bool next, struct disk_generation *out, struct err *e)
{
	if (!d->format->generation)
		return cannot(d, "generations of changes: lodgefs has", e);
	if (next && d->o.readonly)
		return err_set(e, -EROFS, "disk %s: is readonly", d->o.path);
	if (next)
		disk_drain(d);
	return d->format->generation(d, next, out, e);
}

int disk_changed(
	struct disk *d, uint64_t since, uint64_t off, uint64_t *len, bool *dirty, struct err *e)
{
	if (!d->format->changed)
		return cannot(d, "generations of changes: lodgefs has", e);
	return d->format->changed(d, since, off, len, dirty, e);
}

#define CHANGES_NS 20000000ull
#define CHANGES_MAX 4096u

static void add_range(json_t *list, uint64_t at, uint64_t len)
{
	json_t *last = json_array_get(list, json_array_size(list) - 1);
	json_int_t start = json_integer_value(json_object_get(last, "start")),
		   n = json_integer_value(json_object_get(last, "length"));

	if (last && (uint64_t)(start + n) == at)
		json_object_set_new(last, "length", json_integer(n + (json_int_t)len));
	else
		json_array_append_new(list, json_pack("{s:I, s:I}", "start", (json_int_t)at,
						    "length", (json_int_t)len));
}

int disk_changes_json(struct disk *d, uint64_t since, uint64_t from, json_t **out, struct err *e)
{
	struct disk_generation g;
	int rc = disk_generation(d, false, &g, e);
	uint64_t begun = clock_mono_ns(), at = from, len;
	json_t *list = json_array();
	char id[20];
	bool dirty;

	for (; at < d->size && !rc; at += len) {
		if (!d->o.offline && at > from &&
			(json_array_size(list) >= CHANGES_MAX ||
				clock_mono_ns() - begun > CHANGES_NS))
			break;
		len = d->size - at;
		rc = disk_changed(d, since, at, &len, &dirty, e);
		if (!rc && dirty)
			add_range(list, at, len);
	}
	if (rc) {
		json_decref(list);
		return rc;
	}
	snprintf(id, sizeof(id), "%016llx", (unsigned long long)g.id);
	*out = json_pack("{s:I, s:I, s:s, s:I, s:I, s:o}", "generation", (json_int_t)g.now, "first",
		(json_int_t)g.first, "id", id, "granularity", (json_int_t)g.granularity, "since",
		(json_int_t)since, "changed", list);
	if (at < d->size)
		json_object_set_new(*out, "more", json_integer((json_int_t)at));
	return 0;
}

static json_t *snapshots_json(struct disk *d)
{
	cleanup(free_ptr) struct disk_snapshot *s = NULL;
	json_t *list = json_array();
	unsigned n;

	if (disk_snapshots(d, &s, &n, NULL))
		return list;
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(list,
			json_pack("{s:o, s:o, s:I, s:I, s:I}", "id", json_text(s[i].id), "name",
				json_text(s[i].name), "size", (json_int_t)s[i].size, "vm_size",
				(json_int_t)s[i].vm_size, "date", (json_int_t)s[i].date));
	return list;
}

static json_t *bitmaps_json(struct disk *d)
{
	cleanup(free_ptr) struct disk_bitmap *b = NULL;
	json_t *list = json_array();
	unsigned n;

	if (disk_bitmaps(d, &b, &n, NULL))
		return list;
	for (unsigned i = 0; i < n; i++) {
		json_t *o = json_pack("{s:o, s:I, s:I, s:b, s:b}", "name", json_text(b[i].name),
			"granularity", (json_int_t)b[i].granularity, "generation",
			(json_int_t)b[i].generation, "enabled", b[i].enabled, "busy", b[i].busy);

		if (b[i].dirty != DISK_DIRTY_UNKNOWN)
			json_object_set_new(o, "dirty", json_integer((json_int_t)b[i].dirty));
		json_array_append_new(list, o);
	}
	return list;
}

static struct file *own_file(const struct disk *d)
{
	struct file *f = d->files->first;

	while (f && strcmp(f->path, d->o.path))
		f = f->next;
	return f;
}

int disk_describe(struct disk *d, json_t **out, struct err *e)
{
	json_t *o = json_pack("{s:o, s:s, s:I}", "file", json_text(d->o.path), "format",
		d->format->name, "size", (json_int_t)d->size);
	struct file *f = own_file(d);
	json_t *below = NULL;
	int rc = 0;

	if (!o)
		return err_set(e, -ENOMEM, "out of memory");
	if (f) {
		json_object_set_new(o, "host_size", json_integer((json_int_t)f->size));
		json_object_set_new(o, "allocated", json_integer((json_int_t)file_allocated(f)));
	}
	if (d->format->info)
		rc = d->format->info(d, o, e);
	if (d->format->snapshots)
		json_object_set_new(o, "snapshots", snapshots_json(d));
	if (d->format->bitmaps)
		json_object_set_new(o, "bitmaps", bitmaps_json(d));
	if (!rc && d->backing)
		rc = disk_describe(d->backing, &below, e);
	if (rc) {
		json_decref(o);
		return rc;
	}
	if (below)
		json_object_set_new(o, "backing", below);
	*out = o;
	return 0;
}
