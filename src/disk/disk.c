#include "disk/disk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"

static const struct disk_format *const formats[] = {
	&disk_raw,
};

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

	r->result = result;
	count(d, r);
	d->in_flight--;
	r->done(r);
}

void disk_batch(void *ctx)
{
	struct disk *d = ctx;

	if (d->o.client.batch)
		d->o.client.batch(d->o.client.ctx);
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

static int check(const struct disk *d, const struct disk_req *r)
{
	uint64_t total = 0;

	if (r->op >= DISK_OPS)
		return -EINVAL;
	if (r->op == DISK_FLUSH)
		return 0;
	if (d->o.readonly && r->op != DISK_READ)
		return -EROFS;
	if (r->offset % DISK_SECTOR || r->len % DISK_SECTOR)
		return -EINVAL;
	if (r->len > d->size || r->offset > d->size - r->len)
		return -ERANGE;
	if (r->op != DISK_READ && r->op != DISK_WRITE)
		return 0;
	for (unsigned i = 0; i < r->niov; i++)
		if (__builtin_add_overflow(total, r->iov[i].iov_len, &total))
			return -EINVAL;
	return total == r->len ? 0 : -EINVAL;
}

void disk_submit(struct disk *d, struct disk_req *r)
{
	int rc = check(d, r);

	r->disk = d;
	r->start_ns = clock_mono_ns();
	r->at = 0;
	r->bounce = NULL;
	r->step = 0;
	d->in_flight++;
	d->stats.in_flight_max = MAX(d->stats.in_flight_max, d->in_flight);
	if (r->op >= DISK_OPS)
		r->op = DISK_READ; /* for the statistics; it fails */
	/* A reader's flush has nothing to do, and a request without bytes neither. */
	if (rc || (r->op == DISK_FLUSH ? d->o.readonly : !r->len))
		disk_done_soon(r, rc);
	else
		d->format->submit(d, r);
}

void disk_drain(struct disk *d)
{
	while (d->in_flight) {
		run_ready(d);
		d->io->ops->drain(d->io);
	}
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
	if (!d)
		return;
	if (d->io)
		disk_drain(d);
	d->format->close(d);
	if (d->ready)
		uv_close((uv_handle_t *)&d->ready->idle, ready_closed);
	free((char *)d->o.path);
	free(d);
}

int disk_open(struct disk **out, const struct disk_opts *o, struct err *e)
{
	const struct disk_format *f = find_format(o->path, o->format, e);
	struct disk *d;
	int rc;

	if (!f)
		return -EINVAL;
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, -ENOMEM, "disk %s: out of memory", o->path);
	d->o = *o;
	d->o.format = f->name;
	d->o.path = strdup(o->path);
	d->format = f;
	d->physical = DISK_SECTOR;
	rc = d->o.path ? ready_create(d, e) : err_set(e, -ENOMEM, "disk: out of memory");
	if (!rc)
		rc = f->open(d, e);
	if (rc) {
		disk_close(d);
		return rc;
	}
	*out = d;
	return 0;
}

int disk_resize(struct disk *d, uint64_t size, struct err *e)
{
	uint64_t old = d->size;
	int rc;

	if (d->o.readonly && size)
		return err_set(e, -EROFS, "disk %s: is readonly and cannot be resized", d->o.path);
	if (size % DISK_SECTOR)
		return err_set(e, -EINVAL, "disk %s: a size of %llu bytes is not a multiple of %u",
			d->o.path, (unsigned long long)size, DISK_SECTOR);
	if (size && size < old)
		return err_set(e, -EINVAL,
			"disk %s: has %llu bytes and can only grow: %llu would cut it", d->o.path,
			(unsigned long long)old, (unsigned long long)size);
	rc = d->format->resize(d, size, e);
	if (!rc && d->size != old && d->o.client.resized)
		d->o.client.resized(d->o.client.ctx);
	return rc;
}

/* ---- what it is ---- */

uint64_t disk_size(const struct disk *d)
{
	return d->size;
}

void disk_info(const struct disk *d, struct disk_info *out)
{
	*out = (struct disk_info){.path = d->o.path,
		.format = d->format->name,
		.io = d->io->ops->name,
		.size = d->size,
		.readonly = d->o.readonly,
		.discard = d->can_discard,
		.cache = d->o.cache,
		.physical = d->physical};
}

void disk_stats(const struct disk *d, struct disk_stats *out)
{
	*out = d->stats;
	out->in_flight = d->in_flight;
}
