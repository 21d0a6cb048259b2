#include "disk/disk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/size.h"
#include "base/spell.h"
#include "base/util.h"
#include "disk/dirty.h"
#include "disk/format.h"
#include "disk/gate.h"
#include "disk/moment/moment.h"
#include "disk/tool.h"

#define LOOKS 25u /* at a disk that another process writes to, 20 ms apart */

static const struct disk_format *const formats[] = {
	&disk_raw,
	&disk_qcow2,
	&disk_lodgefs,
};

static const struct disk_store_format *const stores[] = {
	&disk_store_lodgefs,
};

const struct disk_store_format *disk_store_at(unsigned i)
{
	return i < ARRAY_SIZE(stores) ? stores[i] : NULL;
}

/* Lives until libuv has closed its handle, which is after the disk is gone. */
struct disk_ready {
	uv_idle_t idle;
	struct disk *disk;
	struct disk_req *first, **last;
};

const char *disk_op_name(enum disk_op op)
{
	static const char *const names[] = {"read", "write", "flush", "discard", "write_zeroes"};

	return op < DISK_OPS ? names[op] : "?";
}

const struct disk_format *disk_format_at(unsigned i)
{
	return i < ARRAY_SIZE(formats) ? formats[i] : NULL;
}

const struct disk_format *disk_format_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (name && !strcmp(formats[i]->name, name))
			return formats[i];
	return NULL;
}

static const struct disk_format *find_format(const char *path, const char *name, struct err *e)
{
	char list[128] = "";

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		size_t n = strlen(list);

		if (name && !strcmp(formats[i]->name, name))
			return formats[i];
		snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", formats[i]->name);
	}
	if (!name || !*name)
		err_set(e, -EINVAL,
			"disk %s: no format: name one of: %s (formats are never guessed)", path,
			list);
	else
		err_set(e, -EINVAL, "disk %s: there is no format '%s'; there is: %s", path, name,
			list);
	return NULL;
}

/* ---- ends ---- */

static void count(struct disk *d, const struct disk_req *r)
{
	struct disk_op_stats *s = &d->stats.op[r->op];
	uint64_t ns = clock_mono_ns() - r->start_ns, us = ns / 1000;
	unsigned b = us ? 63 - (unsigned)__builtin_clzll(us) : 0;

	if (r->result)
		s->errors++;
	else
		s->bytes += r->len;
	s->ops++;
	s->total_ns += ns;
	s->max_ns = MAX(s->max_ns, ns);
	s->latency[MIN(b, DISK_LATENCY_BUCKETS - 1u)]++;
}

void disk_done(struct disk_req *r, int result)
{
	struct disk *d = r->disk;

	if (d->dirty && !r->flushing)
		disk_dirty_mark(d, r);
	if (r->then_flush && !result) {
		r->then_flush = false;
		r->flushing = true;
		r->was = r->op;
		r->op = DISK_FLUSH;
		d->format->submit(d, r);
		return;
	}
	r->result = result;
	if (result && d->gate && r->start_ns && gate_failed(d->gate, r))
		return;
	if (r->flushing)
		r->op = r->was;
	if (r->start_ns) /* else a part of another one */
		count(d, r);
	d->in_flight--;
	r->done(r);
}

static void on_batch(void *ctx)
{
	const struct disk *d = ctx;

	if (d->o.client.batch)
		d->o.client.batch(d->o.client.ctx);
}

void disk_batch(struct disk *d)
{
	if (d->files->batch)
		d->files->batch(d->files->ctx);
}

static void run_ready(struct disk *d)
{
	struct disk_req *r = d->ready->first;

	if (!r)
		return;
	d->ready->first = NULL;
	d->ready->last = &d->ready->first;
	while (r) {
		struct disk_req *next = r->next;

		disk_done(r, r->result);
		r = next;
	}
	disk_batch(d);
}

static void on_idle(uv_idle_t *h)
{
	struct disk_ready *q = container_of(h, struct disk_ready, idle);

	run_ready(q->disk);
	if (!q->first)
		uv_idle_stop(h);
}

void disk_done_soon(struct disk_req *r, int result)
{
	struct disk_ready *q = r->disk->ready;

	r->result = result;
	r->next = NULL;
	*q->last = r;
	q->last = &r->next;
	uv_idle_start(&q->idle, on_idle);
}

/* ---- requests ---- */

static int check_range(const struct disk *d, uint64_t offset, uint64_t len)
{
	if (offset % DISK_SECTOR || len % DISK_SECTOR)
		return -EINVAL;
	return len > d->size || offset > d->size - len ? -ERANGE : 0;
}

static int check_ranges(const struct disk *d, const struct disk_req *r)
{
	uint64_t total = 0;

	if (r->op != DISK_WRITE)
		return -EINVAL;
	for (unsigned i = 0; i < r->nranges; i++) {
		int rc = check_range(d, r->ranges[i].offset, r->ranges[i].len);

		if (rc)
			return rc;
		if (__builtin_add_overflow(total, r->ranges[i].len, &total))
			return -EINVAL;
	}
	return total == r->len ? 0 : -EINVAL;
}

static int check(const struct disk *d, const struct disk_req *r)
{
	uint64_t total = 0;
	int rc;

	if (r->op >= DISK_OPS)
		return -EINVAL;
	if (r->op == DISK_FLUSH)
		return 0;
	if (d->o.readonly && r->op != DISK_READ)
		return -EROFS;
	rc = r->nranges ? check_ranges(d, r) : check_range(d, r->offset, r->len);
	if (rc)
		return rc;
	if (r->op != DISK_READ && r->op != DISK_WRITE)
		return 0;
	for (unsigned i = 0; i < r->niov; i++)
		if (__builtin_add_overflow(total, r->iov[i].iov_len, &total))
			return -EINVAL;
	return total == r->len ? 0 : -EINVAL;
}

/* ---- scattered writes, for formats that have no use for them as a whole ---- */

struct scatter {
	struct disk_req *r;
	unsigned at;
	uint64_t from; /* in the iovecs */
	struct disk_req part;
	struct iovec iov[];
};

static void next_range(struct scatter *s);

static void range_done(struct disk_req *part)
{
	struct scatter *s = container_of(part, struct scatter, part);
	struct disk_req *r = s->r;

	if (!part->result && ++s->at < r->nranges) {
		next_range(s);
		return;
	}
	disk_done(r, part->result);
	free(s);
}

/* One after the other: what overlaps keeps its order. */
static void next_range(struct scatter *s)
{
	const struct disk_range *range = &s->r->ranges[s->at];

	s->part = (struct disk_req){.op = DISK_WRITE,
		.fua = s->r->fua,
		.offset = range->offset,
		.len = range->len,
		.iov = s->iov,
		.done = range_done,
		.disk = s->r->disk};
	s->part.niov = iov_slice(s->iov, s->r->niov, s->r->iov, s->r->niov, s->from, range->len);
	s->from += range->len;
	s->r->disk->in_flight++;
	s->r->disk->format->submit(s->r->disk, &s->part);
}

static void submit_ranges(struct disk *d, struct disk_req *r)
{
	struct scatter *s = calloc(1, sizeof(*s) + r->niov * sizeof(s->iov[0]));

	if (!s) {
		disk_done_soon(r, -ENOMEM);
		return;
	}
	s->r = r;
	next_range(s);
}

void disk_submit(struct disk *d, struct disk_req *r)
{
	int rc = check(d, r);

	r->disk = d;
	r->start_ns = clock_mono_ns();
	r->priv = NULL;
	r->then_flush = r->flushing = false;
	r->fua |= d->o.cache == DISK_CACHE_WRITETHROUGH;
	d->in_flight++;
	d->stats.in_flight_max = MAX(d->stats.in_flight_max, d->in_flight);
	if (r->op >= DISK_OPS)
		r->op = DISK_READ; /* for the statistics; it fails */
	/* A reader's flush has nothing to do, and a request without bytes neither. */
	if (rc || (r->op == DISK_FLUSH ? d->o.readonly : !r->len))
		disk_done_soon(r, rc);
	else if (!d->gate || gate_enter(d->gate, r))
		disk_pass(r);
}

void disk_pass(struct disk_req *r)
{
	struct disk *d = r->disk;

	if (d->moment && r->op != DISK_READ && r->op != DISK_FLUSH && moment_holds(d->moment, r))
		return;
	if (r->fua && !d->format->fua && !r->flushing) {
		r->then_flush = r->op == DISK_WRITE || r->op == DISK_WRITE_ZEROES;
		r->fua = false;
	}
	if (r->nranges && !r->flushing && !d->format->scattered)
		submit_ranges(d, r);
	else
		d->format->submit(d, r);
}

void disk_read_aside(struct disk *d, struct disk_req *r)
{
	int rc;

	r->op = DISK_READ;
	r->ranges = NULL;
	r->nranges = 0;
	rc = check(d, r);
	r->disk = d;
	r->start_ns = 0;
	r->priv = NULL;
	r->fua = r->then_flush = r->flushing = false;
	d->in_flight++;
	if (rc)
		disk_done_soon(r, rc);
	else
		d->format->submit(d, r);
}

void disk_drain(struct disk *d)
{
	if (d->format->kick)
		d->format->kick(d);
	while (d->in_flight > gate_held(d->gate)) {
		if (d->gate)
			gate_open(d->gate);
		for (struct disk *i = d; i; i = i->backing)
			run_ready(i);
		if (d->format->kick)
			d->format->kick(d);
		files_drain(d->files);
	}
}

void disk_memory(struct disk *d, const struct iovec *mem)
{
	disk_drain(d);
	files_memory(d->files, mem);
}

unsigned disk_held(const struct disk *d)
{
	return gate_held(d->gate);
}

void disk_retry(struct disk *d)
{
	struct disk_req *r = d->gate ? gate_take_held(d->gate) : NULL, *next;

	for (; r; r = next) {
		next = r->next;
		disk_pass(r);
	}
}

void disk_fail_held(struct disk *d)
{
	struct disk_req *r = d->gate ? gate_take_held(d->gate) : NULL, *next;

	for (; r; r = next) {
		next = r->next;
		if (r->flushing)
			r->op = r->was;
		count(d, r);
		d->in_flight--;
		r->done(r);
	}
	disk_batch(d);
}

unsigned disk_in_flight(const struct disk *d)
{
	return d->in_flight;
}

/* ---- life ---- */

static void ready_closed(uv_handle_t *h)
{
	free(container_of((uv_idle_t *)h, struct disk_ready, idle));
}

static int ready_create(struct disk *d, struct err *e)
{
	struct disk_ready *q = calloc(1, sizeof(*q));

	if (!q)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	q->disk = d;
	q->last = &q->first;
	uv_idle_init(d->o.loop, &q->idle);
	d->ready = q;
	return 0;
}

void disk_close(struct disk *d)
{
	int lost;

	if (!d)
		return;
	disk_drain(d);
	if (disk_held(d))
		disk_fail_held(d);
	lost = d->format->close(d);
	if (lost && d->o.client.lost)
		d->o.client.lost(d->o.client.ctx, lost);
	disk_dirty_stop(d);
	gate_destroy(d->gate);
	disk_close(d->backing);
	free(d->own_files);
	if (d->ready)
		uv_close((uv_handle_t *)&d->ready->idle, ready_closed);
	free(d->backing_path);
	free(d->backing_format);
	free((char *)d->o.path);
	free(d);
}

static int make_files(struct disk *d, struct disk *above, struct err *e)
{
	if (above) {
		d->files = above->files;
		d->depth = above->depth + 1;
		return 0;
	}
	d->files = d->own_files = calloc(1, sizeof(*d->files));
	if (!d->files)
		return err_set(e, -ENOMEM, "disk: out of memory");
	*d->files = (struct files){.loop = d->o.loop,
		.io = d->o.io,
		.shelf = d->o.stores ? &d->o.stores->shelf : NULL,
		.batch = on_batch,
		.ctx = d,
		.open = d->o.open_file,
		.open_ctx = d->o.open_ctx};
	return 0;
}

/* Is there an option without which it would be another disk after a sleep? */
static bool keys_stay(const struct disk_key *keys, const struct disk_kv *kv)
{
	for (; kv && kv->key; kv++)
		for (const struct disk_key *k = keys; k && k->key; k++)
			if (!strcmp(k->key, kv->key) && !k->once)
				return true;
	return false;
}

static int open_asleep(struct disk *d, struct err *e);

static int open_at(struct disk **out, const struct disk_format *f, const struct disk_opts *o,
	struct disk *above, struct err *e)
{
	struct disk *d;
	int rc = disk_kv_known(o->kv, f->open_keys, f->name, NULL, e);

	if (rc)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, -ENOMEM, "disk %s: out of memory", o->path);
	d->o = *o;
	d->o.format = f->name;
	d->o.path = strdup(o->path);
	d->format = f;
	d->physical = DISK_SECTOR;
	rc = d->o.path ? make_files(d, above, e) : err_set(e, -ENOMEM, "disk: out of memory");
	if (!rc)
		rc = ready_create(d, e);
	if (!rc && !above)
		rc = gate_create(&d->gate, d, e);
	if (!rc)
		rc = d->o.asleep && !above ? open_asleep(d, e) : f->open(d, e);
	d->has_keys = keys_stay(f->open_keys, d->o.kv);
	d->o.kv = NULL; /* the caller's; not looked at any more */
	d->o.at = NULL;
	if (rc) {
		disk_close(d);
		return rc;
	}
	*out = d;
	return 0;
}

/* ---- from one process to another ---- */

/* The format forgets everything; its files go to the shelf. */
static void put_down(struct disk *d)
{
	struct file_shelf *shelf = &d->o.stores->shelf;

	shelf->keep = true;
	(void)d->format->close(d); /* everything was flushed */
	d->priv = NULL;
	disk_close(d->backing);
	d->backing = NULL;
	shelf->keep = false;
	free(steal_ptr(d->backing_path));
	free(steal_ptr(d->backing_format));
}

/* Who has the disk writes to it meanwhile: what does not fit together may do so a moment later. */
static int open_asleep(struct disk *d, struct err *e)
{
	struct file_shelf *shelf = d->o.stores ? &d->o.stores->shelf : NULL;
	bool force = d->o.force;
	int rc = -EUCLEAN;

	if (!shelf)
		return err_set(e, -EINVAL, "disk %s: asleep, and without stores", d->o.path);
	d->writes = !d->o.readonly;
	d->o.readonly = d->o.force = true;
	for (unsigned i = 0; rc && i < LOOKS; i++) {
		if (i)
			nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
		shelf->look = true;
		rc = d->format->open(d, e);
		shelf->look = false;
		if (rc == -ENOENT || rc == -EACCES || rc == -EINVAL)
			return rc;
		if (!rc || i + 1 < LOOKS)
			put_down(d);
	}
	d->o.force = force;
	d->asleep = !rc;
	return rc;
}

int disk_sleep(struct disk *d, struct err *e)
{
	int rc = 0;

	if (d->asleep)
		return 0;
	if (!d->o.stores || d->has_keys)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: was opened in a way that cannot be repeated in another process",
			d->o.path);
	disk_drain(d);
	if (disk_held(d))
		return err_set(e, -EBUSY,
			"disk %s: has requests that the host failed: see to the disk, and resume "
			"the machine first",
			d->o.path);
	if (!d->o.readonly)
		rc = disk_rw(d, DISK_FLUSH, 0, NULL, 0, e);
	if (rc)
		return rc;
	d->writes = !d->o.readonly;
	put_down(d);
	d->asleep = true;
	return 0;
}

int disk_wake(struct disk *d, struct err *e)
{
	uint64_t size = d->size;
	int rc;

	if (!d->asleep)
		return 0;
	d->o.readonly = !d->writes;
	d->o.stores->shelf.keep =
		true; /* a store that gets a writer closes what it has read from */
	rc = d->format->open(d, e);
	d->o.stores->shelf.keep = false;
	if (!rc && d->size != size)
		rc = err_set(e, -EINVAL, "disk %s: had %llu bytes and has %llu now", d->o.path,
			(unsigned long long)size, (unsigned long long)d->size);
	if (rc) {
		put_down(d);
		d->size = size;
		d->o.readonly = true;
		return rc;
	}
	d->asleep = false;
	return 0;
}

void disk_stores_clear(struct disk_stores *s)
{
	file_shelf_clear(&s->shelf);
}

int disk_open(struct disk **out, const struct disk_opts *o, struct err *e)
{
	const struct disk_format *f = find_format(o->path, o->format, e);

	return f ? open_at(out, f, o, NULL, e) : -EINVAL;
}

int disk_open_as(
	struct disk **out, const struct disk_format *f, const struct disk_opts *o, struct err *e)
{
	return open_at(out, f, o, NULL, e);
}

int disk_file(struct disk *d, const char *path, unsigned flags, struct file **out, struct err *e)
{
	struct file_opts o = {.path = path ?: d->o.path,
		.at = path ? NULL : d->o.at,
		.readonly = d->o.readonly || (flags & DISK_FILE_READONLY),
		.direct = d->o.cache == DISK_CACHE_NONE,
		.discard = d->o.discard,
		.strict = flags & DISK_FILE_RAW,
		.sectors = flags & DISK_FILE_RAW,
		.no_lock = flags & DISK_FILE_NO_LOCK};

	return file_open(out, d->files, &o, e);
}

/* ---- backing files ---- */

/* In names that stand in images QEMU takes what is before a colon for a protocol, unless a slash comes first. Of those there is one here, files. */
static bool has_protocol(const char *path)
{
	return path[strcspn(path, ":/")] == ':';
}

static bool is_file(const char *path)
{
	return !strncmp(path, "file:", 5);
}

char *disk_backing_path(const char *of, const char *path)
{
	const char *slash = strrchr(of, '/');
	char *out;

	/* As in QEMU, it is not the image's folder that such a name begins in. */
	if (is_file(path))
		return strdup(path + 5);
	if (*path == '/' || !slash)
		return strdup(path);
	return asprintf(&out, "%.*s/%s", (int)(slash - of), of, path) < 0 ? NULL : out;
}

char *disk_backing_name(const char *path)
{
	char *out;

	if (!has_protocol(path) || is_file(path))
		return strdup(path);
	return asprintf(&out, "./%s", path) < 0 ? NULL : out;
}

int disk_open_backing(struct disk *d, const char *path, const char *format, struct err *e)
{
	cleanup(free_ptr) char *full = NULL;
	const struct disk_format *f;
	struct disk_opts o = d->o;
	int rc;

	full = disk_backing_path(d->o.path, path);
	d->backing_path = full ? strdup(full) : NULL;
	d->backing_format = strdup(format ?: "");
	if (!d->backing_path || !d->backing_format)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	if (d->o.no_backing)
		return 0;
	if (!format || !*format)
		return err_set(e, -EINVAL,
			"disk %s: does not say of which format its backing file %s is, and formats "
			"are "
			"never guessed: `lodge disk rebase --unsafe` can name it",
			d->o.path, path);
	if (d->depth + 1 >= DISK_CHAIN_MAX)
		return err_set(e, -EINVAL,
			"disk %s: the chain of backing files is longer than %u: does it bite its "
			"own "
			"tail? `lodge disk commit` or `convert` makes a chain shorter",
			d->o.path, DISK_CHAIN_MAX);
	o.path = full;
	o.format = format;
	o.readonly = true;
	o.force = false;
	o.at = NULL;
	o.kv = NULL;
	o.client = (struct disk_client){0};
	f = find_format(full, format, e);
	rc = f ? open_at(&d->backing, f, &o, d, e) : -EINVAL;
	if (rc == -ENOENT && has_protocol(path) && !is_file(path))
		return err_set(e, -EOPNOTSUPP,
			"disk %s: its backing file '%s' is none of this host's files but something "
			"that QEMU reaches by a protocol, which is not supported",
			d->o.path, path);
	/* An empty one, which the file's own message offers, would be the wrong one. */
	if (rc == -ENOENT && access(full, F_OK))
		return err_set(e, rc,
			"disk %s: its backing file %s is not there: put it back, or say where it "
			"is now: `lodge disk rebase %s:%s --unsafe --backing FILE:%s`",
			d->o.path, full, d->o.path, d->format->name, format);
	/* Once for a chain: the message of where it breaks has to have room. */
	return rc && !d->depth ? err_wrap(e, "disk %s: its backing file", d->o.path) : rc;
}

void disk_read_backing(struct disk *d, struct disk_req *child)
{
	struct disk *b = d->backing;
	uint64_t have = !b || child->offset >= b->size ? 0
						       : MIN(child->len, b->size - child->offset);

	child->op = DISK_READ;
	child->ranges = NULL;
	child->nranges = 0;
	if (have < child->len) {
		iov_zero(child->iov, child->niov, have, child->len - have);
		child->niov = iov_slice((struct iovec *)(uintptr_t)child->iov, child->niov,
			child->iov, child->niov, 0, have);
		child->len = have;
	}
	if (b) {
		disk_submit(b, child);
		return;
	}
	child->disk = d;
	child->start_ns = 0;
	d->in_flight++;
	disk_done_soon(child, 0);
}

/* ---- options ---- */

static int no_option(
	const char *key, const struct disk_key *keys, const char *format, struct err *e)
{
	struct spell near = {0};

	for (; keys && keys->key; keys++)
		spell_offer(&near, key, keys->key);
	if (near.best)
		return err_set(e, -EINVAL, "%s has no option '%s': did you mean '%s'?", format, key,
			near.best);
	return err_set(
		e, -EINVAL, "%s has no option '%s': `lodge disk formats` lists them", format, key);
}

int disk_kv_known(const struct disk_kv *kv, const struct disk_key *keys, const char *format,
	bool *sized, struct err *e)
{
	for (; kv && kv->key; kv++) {
		const struct disk_key *k = keys;

		while (k && k->key && strcmp(k->key, kv->key))
			k++;
		if (!k || !k->key)
			return no_option(kv->key, keys, format, e);
		if (disk_kv_get(kv + 1, kv->key))
			return err_set(e, -EINVAL, "the option '%s' is there twice", kv->key);
		if (sized)
			*sized |= k->sized;
	}
	return 0;
}

const char *disk_kv_get(const struct disk_kv *kv, const char *key)
{
	for (; kv && kv->key; kv++)
		if (!strcmp(kv->key, key))
			return kv->value;
	return NULL;
}

int disk_kv_size(const struct disk_kv *kv, const char *key, uint64_t min, uint64_t max, bool pow2,
	uint64_t *out, struct err *e)
{
	const char *text = disk_kv_get(kv, key);
	char lo[SIZE_TEXT], hi[SIZE_TEXT];
	uint64_t v;
	int rc;

	if (!text)
		return 0;
	rc = size_parse(text, &v, e);
	if (rc)
		return err_wrap(e, "%s", key);
	if (v < min || v > max || (pow2 && !is_pow2(v)))
		return err_set(e, -EINVAL, "%s: %s is not %sfrom %s to %s", key, text,
			pow2 ? "a power of two " : "", size_text(lo, min), size_text(hi, max));
	*out = v;
	return 0;
}

int disk_kv_bool(const struct disk_kv *kv, const char *key, bool *out, struct err *e)
{
	const char *text = disk_kv_get(kv, key);

	if (!text)
		return 0;
	if (strcmp(text, "on") && strcmp(text, "off"))
		return err_set(e, -EINVAL, "%s: '%s' is neither on nor off", key, text);
	*out = !strcmp(text, "on");
	return 0;
}

int disk_kv_choice(const struct disk_kv *kv, const char *key, const char *const *names, unsigned n,
	unsigned *out, struct err *e)
{
	const char *v = disk_kv_get(kv, key);
	char list[80] = "";

	for (unsigned i = 0; v && i < n; i++)
		if (!strcmp(v, names[i])) {
			*out = i;
			return 0;
		}
	if (!v)
		return 0;
	for (unsigned i = 0; i < n; i++) {
		size_t len = strlen(list);

		snprintf(list + len, sizeof(list) - len, "%s%s", i ? ", " : "", names[i]);
	}
	return err_set(e, -EINVAL, "%s: there is no '%s'; there is: %s", key, v, list);
}

/* ---- what takes long ---- */

bool disk_go_on(const struct disk *d, uint64_t done, uint64_t of)
{
	const struct disk_watch *w = d->o.watch;

	return !w || !w->progress || w->progress(w->ctx, MIN(done, of), of);
}

int disk_stopped(const struct disk *d, uint64_t size, struct err *e)
{
	return err_set(e, -ECANCELED,
		"disk %s: stopped: it has %llu bytes as before, and what lies behind %llu is gone "
		"in part (the same again goes on)",
		d->o.path, (unsigned long long)d->size, (unsigned long long)size);
}

/* ---- size ---- */

/* What the format has made longer cannot always be taken back; but who uses the disk is not told, and sees what it saw. */
static int not_durable(struct disk *d, uint64_t old, int code, struct err *e)
{
	if (d->size > old)
		d->told = old;
	return err_sys(e, code,
		"disk %s: its new size of %llu bytes could not be made durable, and it is still "
		"used with %llu (ask for it again when the host's disk works)",
		d->o.path, (unsigned long long)d->size, (unsigned long long)old);
}

int disk_resize(struct disk *d, uint64_t size, struct err *e)
{
	uint64_t old = disk_size(d);
	int rc;

	if (d->o.readonly && size)
		return err_set(e, -EROFS, "disk %s: is readonly and cannot be resized", d->o.path);
	if (size % DISK_SECTOR)
		return err_set(e, -EINVAL, "disk %s: a size of %llu bytes is not a multiple of %u",
			d->o.path, (unsigned long long)size, DISK_SECTOR);
	if (size && size < old && !d->o.offline)
		return err_set(e, -EINVAL,
			"disk %s: has %llu bytes and can only grow: %llu would cut it", d->o.path,
			(unsigned long long)old, (unsigned long long)size);
	if (!d->format->resize)
		return err_set(e, -EOPNOTSUPP, "disk %s: the format %s cannot be resized",
			d->o.path, d->format->name);
	disk_drain(d);
	rc = d->format->resize(d, size, e);
	if (rc) {
		if (d->size > old)
			d->told = old;
		return rc;
	}
	/* The guest is told of a size that a power cut does not take back. */
	rc = d->o.readonly ? 0 : disk_rw(d, DISK_FLUSH, 0, NULL, 0, NULL);
	if (rc)
		return not_durable(d, old, rc, e);
	d->told = 0;
	if (d->size != old && d->o.client.resized)
		d->o.client.resized(d->o.client.ctx);
	return 0;
}

/* ---- what it is ---- */

uint64_t disk_size(const struct disk *d)
{
	return d->told ?: d->size;
}

void disk_info(const struct disk *d, struct disk_info *out)
{
	*out = (struct disk_info){.path = d->o.path,
		.format = d->format->name,
		.io = d->files->first ? d->files->first->kind : "none",
		.size = disk_size(d),
		.readonly = d->asleep ? !d->writes : d->o.readonly,
		.discard = d->can_discard,
		.cache = d->o.cache,
		.physical = d->physical};
}

void disk_stats(const struct disk *d, struct disk_stats *out)
{
	*out = d->stats;
	out->in_flight = d->in_flight;
	if (d->gate)
		gate_stats(d->gate, out);
}

void disk_format_stats(struct disk *d, struct json_t *into)
{
	if (d->format->stats)
		d->format->stats(d, into);
}
