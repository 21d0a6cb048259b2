#include "vm/migrate/disks_out.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/err.h"
#include "base/pages.h"
#include "base/util.h"
#include "device/virtio_blk.h"
#include "disk/dirty.h"
#include "disk/tool.h"
#include "machine/board.h"

#define SLOTS 8u /* pieces that are read or wait to be sent */
#define LOOKS 64u /* at block status in one turn of the loop: the guest's requests want it too */

struct slot {
	struct disks_piece p; /* first: it is what is handed out */
	struct disks_out *o;
	struct disk_req r;
	struct iovec iov;
	uint8_t *buf; /* MIG_PIECE */
	struct slot *next;
};

struct one {
	struct disk *d;
	const char *id; /* the device's */
	uint64_t size, at; /* at: how far the present pass has come */
	_Atomic uint64_t data, sent, zero, left;
};

struct disks_out {
	uv_async_t async;
	struct one disk[MIG_DISKS_MAX];
	unsigned n;
	struct slot slot[SLOTS];
	void *mem;

	/* the loop's */
	enum disks_pass pass;
	unsigned cur, reading;
	bool at_end; /* nothing more to be read in this pass */

	pthread_mutex_t lock; /* below */
	pthread_cond_t cond;
	bool asked, over, cancelled;
	enum disks_pass want;
	struct slot *free, *ready, **last;
	int rc;
	struct err e;
};

/* ---- the loop's side ---- */

static struct slot *take_free(struct disks_out *o)
{
	struct slot *s;

	pthread_mutex_lock(&o->lock);
	s = o->rc || o->cancelled ? NULL : o->free;
	if (s)
		o->free = s->next;
	pthread_mutex_unlock(&o->lock);
	return s;
}

static void hand_out(struct slot *s)
{
	struct disks_out *o = s->o;

	pthread_mutex_lock(&o->lock);
	s->next = NULL;
	*o->last = s;
	o->last = &s->next;
	pthread_cond_broadcast(&o->cond);
	pthread_mutex_unlock(&o->lock);
}

static void fail(struct disks_out *o, int rc, const struct err *e)
{
	pthread_mutex_lock(&o->lock);
	if (!o->rc) {
		o->rc = rc;
		o->e = *e;
	}
	pthread_cond_broadcast(&o->cond);
	pthread_mutex_unlock(&o->lock);
}

/* The guest may have marked more meanwhile: that is the next pass's. */
static void finish_pass(struct disks_out *o)
{
	pthread_mutex_lock(&o->lock);
	o->over = true;
	pthread_cond_broadcast(&o->cond);
	pthread_mutex_unlock(&o->lock);
}

static void was_read(struct disk_req *r)
{
	struct slot *s = container_of(r, struct slot, r);
	struct disks_out *o = s->o;
	struct err e = {0};

	o->reading--;
	if (r->result) {
		err_sys(&e, r->result, "disk %s: reading %llu bytes at %llu", o->disk[s->p.disk].id,
			(unsigned long long)r->len, (unsigned long long)r->offset);
		fail(o, r->result, &e);
	} else {
		hand_out(s);
	}
	if (o->at_end && !o->reading)
		finish_pass(o);
}

static void start_read(struct disks_out *o, struct slot *s)
{
	s->p.data = s->buf;
	s->iov = (struct iovec){s->buf, s->p.len};
	s->r = (struct disk_req){
		.offset = s->p.off, .len = s->p.len, .iov = &s->iov, .niov = 1, .done = was_read};
	o->reading++;
	disk_read_aside(o->disk[s->p.disk].d, &s->r);
}

/* What comes next of this disk: 1: a piece; 0: nothing more. In the pass MEASURE there are no pieces: 1 means that there is more to look at. */
static int next_by_status(struct disks_out *o, struct slot *s, struct err *e)
{
	struct one *k = &o->disk[o->cur];
	struct disk_extent x;
	int rc;

	if (k->at >= k->size)
		return 0;
	rc = disk_block_status(k->d, k->at, k->size - k->at, &x, e);
	if (rc)
		return rc;
	if (o->pass == DISKS_MEASURE) {
		k->data += x.flags & DISK_EXT_DATA ? x.len : 0;
		k->at += x.len;
		return 1;
	}
	if (x.flags & DISK_EXT_DATA)
		x.len = MIN(x.len, MIG_PIECE - k->at % MIG_PIECE);
	s->p = (struct disks_piece){.disk = o->cur, .off = k->at, .len = x.len};
	k->at += x.len;
	k->left = k->size - k->at;
	if (x.flags & DISK_EXT_DATA)
		start_read(o, s);
	else
		hand_out(s);
	return 1;
}

static int next_dirty(struct disks_out *o, struct slot *s)
{
	struct one *k = &o->disk[o->cur];
	struct disk_range r;

	if (k->at >= k->size || !disk_dirty_take(k->d, k->at, MIG_PIECE, &r)) {
		k->left = 0;
		return 0;
	}
	s->p = (struct disks_piece){.disk = o->cur, .off = r.offset, .len = r.len};
	k->at = r.offset + r.len;
	k->left = disk_dirty_bytes(k->d);
	start_read(o, s);
	return 1;
}

/* False: not now, since no slot is free (disks_out_put() goes on), or never, since it has failed. */
static bool step(struct disks_out *o, unsigned *looks)
{
	struct slot *s = o->pass == DISKS_MEASURE ? NULL : take_free(o);
	struct err e = {0};
	int rc;

	if (!s && o->pass != DISKS_MEASURE)
		return false;
	++*looks;
	rc = o->pass == DISKS_DIRTY ? next_dirty(o, s) : next_by_status(o, s, &e);
	if (rc <= 0 && s) {
		pthread_mutex_lock(&o->lock);
		s->next = o->free;
		o->free = s;
		pthread_mutex_unlock(&o->lock);
	}
	if (rc < 0)
		fail(o, rc, &e);
	else if (!rc)
		o->cur++;
	return rc >= 0;
}

static int begin_pass(struct disks_out *o, enum disks_pass pass, struct err *e)
{
	int rc = 0;

	o->pass = pass;
	o->cur = 0;
	o->at_end = false;
	for (unsigned i = 0; i < o->n && !rc; i++) {
		o->disk[i].at = 0;
		o->disk[i].left = pass == DISKS_DIRTY ? disk_dirty_bytes(o->disk[i].d)
						      : o->disk[i].size;
		if (pass == DISKS_ALL)
			rc = disk_dirty_start(o->disk[i].d, e);
	}
	return rc;
}

static void pump(uv_async_t *a)
{
	struct disks_out *o = container_of(a, struct disks_out, async);
	unsigned looks = 0;
	struct err e = {0};
	bool asked;
	int rc;

	pthread_mutex_lock(&o->lock);
	asked = o->asked;
	o->asked = false;
	pthread_mutex_unlock(&o->lock);
	if (asked) {
		rc = begin_pass(o, o->want, &e);
		if (rc)
			fail(o, rc, &e);
	}
	while (!o->at_end && o->cur < o->n && looks < LOOKS && step(o, &looks))
		;
	if (!o->at_end && o->cur == o->n) {
		o->at_end = true;
		if (!o->reading)
			finish_pass(o);
	} else if (looks == LOOKS) {
		uv_async_send(&o->async);
	}
}

/* ---- life ---- */

static bool listed(const json_t *list, const char *id)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j)
	{
		if (!strcmp(json_string_value(j) ?: "", id))
			return true;
	}
	return false;
}

static int choose(struct disks_out *o, struct board *b, const json_t *shared, struct err *e)
{
	size_t left = json_array_size(shared);

	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (!d)
			continue;
		if (listed(shared, b->devices[i]->id)) {
			left--;
			continue;
		}
		if (o->n == MIG_DISKS_MAX)
			return err_set(e, -E2BIG, "more than %u disks", MIG_DISKS_MAX);
		o->disk[o->n].d = d;
		o->disk[o->n].id = b->devices[i]->id;
		o->disk[o->n++].size = disk_size(d);
	}
	if (left)
		return err_set(e, -ENOENT,
			"one of the disks that are shared is none of this machine's: `lodge "
			"inspect` lists their ids");
	return o->n ? 0 : err_set(e, -EINVAL, "there is no disk to be copied");
}

int disks_out_create(struct disks_out **out, struct board *b, uv_loop_t *loop, const json_t *shared,
	struct err *e)
{
	struct disks_out *o = calloc(1, sizeof(*o));
	int rc;

	if (!o || !(o->mem = pages_alloc(SLOTS * MIG_PIECE))) {
		free(o);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	o->at_end = true;
	o->last = &o->ready;
	for (unsigned i = 0; i < SLOTS; i++) {
		o->slot[i].o = o;
		o->slot[i].buf = (uint8_t *)o->mem + (size_t)i * MIG_PIECE;
		o->slot[i].next = o->free;
		o->free = &o->slot[i];
	}
	rc = choose(o, b, shared, e);
	if (!rc && uv_async_init(loop, &o->async, pump))
		rc = err_set(e, -ENOMEM, "migration: out of memory");
	if (rc) {
		pages_free(o->mem, SLOTS * MIG_PIECE);
		free(o);
		return rc;
	}
	uv_unref((uv_handle_t *)&o->async);
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->cond, NULL);
	*out = o;
	return 0;
}

static void closed(uv_handle_t *h)
{
	struct disks_out *o = container_of((uv_async_t *)h, struct disks_out, async);

	pthread_cond_destroy(&o->cond);
	pthread_mutex_destroy(&o->lock);
	pages_free(o->mem, SLOTS * MIG_PIECE);
	free(o);
}

void disks_out_free(struct disks_out *o)
{
	if (!o)
		return;
	disks_out_cancel(o);
	for (unsigned i = 0; i < o->n; i++) {
		if (o->reading)
			disk_drain(o->disk[i].d);
		disk_dirty_stop(o->disk[i].d);
	}
	uv_close((uv_handle_t *)&o->async, closed);
}

void disks_out_cancel(struct disks_out *o)
{
	pthread_mutex_lock(&o->lock);
	o->cancelled = true;
	pthread_cond_broadcast(&o->cond);
	pthread_mutex_unlock(&o->lock);
}

bool disks_out_has(const struct disks_out *o, const struct disk *d)
{
	for (unsigned i = 0; o && i < o->n; i++)
		if (o->disk[i].d == d)
			return true;
	return false;
}

json_t *disks_out_ids(const struct disks_out *o)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < o->n; i++)
		json_array_append_new(list, json_string(o->disk[i].id));
	return list;
}

json_t *disks_out_json(struct disks_out *o)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < o->n; i++) {
		struct one *k = &o->disk[i];

		json_array_append_new(
			list, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "id", k->id, "file",
				      k->d->o.path, "size", (json_int_t)k->size, "data",
				      (json_int_t)k->data, "sent", (json_int_t)k->sent, "zero",
				      (json_int_t)k->zero, "left", (json_int_t)k->left));
	}
	return list;
}

/* ---- the sender's side ---- */

void disks_out_begin(struct disks_out *o, enum disks_pass pass)
{
	pthread_mutex_lock(&o->lock);
	o->want = pass;
	o->asked = true;
	o->over = false;
	pthread_mutex_unlock(&o->lock);
	uv_async_send(&o->async);
}

int disks_out_next(struct disks_out *o, struct disks_piece **piece, struct err *e)
{
	struct slot *s = NULL;
	int rc;

	pthread_mutex_lock(&o->lock);
	while (!o->ready && !o->over && !o->rc && !o->cancelled)
		pthread_cond_wait(&o->cond, &o->lock);
	rc = o->cancelled ? -ECANCELED : o->rc;
	if (!rc && o->ready) {
		s = o->ready;
		o->ready = s->next;
		if (!o->ready)
			o->last = &o->ready;
	}
	if (rc)
		*e = o->e;
	pthread_mutex_unlock(&o->lock);
	*piece = s ? &s->p : NULL;
	return rc == -ECANCELED ? err_set(e, rc, "cancelled") : rc;
}

void disks_out_put(struct disks_out *o, struct disks_piece *piece)
{
	struct slot *s = container_of(piece, struct slot, p);
	struct one *k = &o->disk[piece->disk];

	if (piece->data)
		k->sent += piece->len;
	else
		k->zero += piece->len;
	pthread_mutex_lock(&o->lock);
	s->next = o->free;
	o->free = s;
	pthread_mutex_unlock(&o->lock);
	uv_async_send(&o->async);
}

uint64_t disks_out_dirty(struct disks_out *o)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < o->n; i++)
		sum += disk_dirty_bytes(o->disk[i].d);
	return sum;
}

uint64_t disks_out_data(struct disks_out *o)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < o->n; i++)
		sum += o->disk[i].data;
	return sum;
}
