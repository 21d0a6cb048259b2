#include "device/chardev.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

struct ring {
	uint8_t *bytes;
	size_t size; /* a power of two */
	size_t head, tail; /* count up for ever; head - tail bytes are in it */
	bool was_full; /* the writer came away with less than it wanted */
};

struct chardev {
	pthread_mutex_t lock;
	struct ring out, in;
	struct chardev_front front;
	struct chardev_back back;
	struct chardev_stat stat;
};

static int ring_make(struct ring *r, size_t size)
{
	if (size < 16 || size > 16 * MiB)
		return -EINVAL;
	for (r->size = 16; r->size < size;)
		r->size *= 2;
	r->bytes = malloc(r->size);
	return r->bytes ? 0 : -ENOMEM;
}

static size_t ring_put(struct ring *r, const uint8_t *from, size_t len)
{
	size_t at, first;

	len = MIN(len, r->size - (r->head - r->tail));
	at = r->head & (r->size - 1);
	first = MIN(len, r->size - at);
	memcpy(r->bytes + at, from, first);
	memcpy(r->bytes, from + first, len - first);
	r->head += len;
	return len;
}

static size_t ring_get(struct ring *r, uint8_t *to, size_t len)
{
	size_t at, first;

	len = MIN(len, r->head - r->tail);
	at = r->tail & (r->size - 1);
	first = MIN(len, r->size - at);
	memcpy(to, r->bytes + at, first);
	memcpy(to + first, r->bytes, len - first);
	r->tail += len;
	return len;
}

int chardev_create(struct chardev **out, size_t out_ring, size_t in_ring, struct err *e)
{
	struct chardev *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "character channel: no memory");
	pthread_mutex_init(&c->lock, NULL);
	rc = ring_make(&c->out, out_ring);
	if (!rc)
		rc = ring_make(&c->in, in_ring);
	if (rc) {
		chardev_destroy(c);
		return err_sys(
			e, rc, "character channel: rings of %zu and %zu bytes", out_ring, in_ring);
	}
	*out = c;
	return 0;
}

void chardev_destroy(struct chardev *c)
{
	if (!c)
		return;
	free(c->out.bytes);
	free(c->in.bytes);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void chardev_attach_front(struct chardev *c, const struct chardev_front *f)
{
	pthread_mutex_lock(&c->lock);
	c->front = f ? *f : (struct chardev_front){0};
	pthread_mutex_unlock(&c->lock);
}

void chardev_attach_back(struct chardev *c, const struct chardev_back *b)
{
	pthread_mutex_lock(&c->lock);
	c->back = b ? *b : (struct chardev_back){0};
	pthread_mutex_unlock(&c->lock);
}

static void call(void (*fn)(void *ctx), void *ctx)
{
	if (fn)
		fn(ctx);
}

static size_t out_write(struct chardev *c, const uint8_t *buf, size_t len, bool lossy)
{
	struct chardev_back back;
	struct ring *r = &c->out;
	bool first;
	size_t n;

	pthread_mutex_lock(&c->lock);
	first = r->head == r->tail;
	if (lossy && len > r->size) {
		c->stat.lost += len - r->size;
		buf += len - r->size;
		len = r->size;
	}
	if (lossy && len > r->size - (r->head - r->tail)) {
		size_t drop = len - (r->size - (r->head - r->tail));

		r->tail += drop;
		c->stat.lost += drop;
	}
	n = ring_put(r, buf, len);
	c->stat.out_bytes += n;
	r->was_full |= n < len;
	back = c->back;
	pthread_mutex_unlock(&c->lock);
	if (first && n)
		call(back.output, back.ctx);
	return n;
}

size_t chardev_write(struct chardev *c, const void *buf, size_t len)
{
	return out_write(c, buf, len, false);
}

void chardev_write_lossy(struct chardev *c, const void *buf, size_t len)
{
	out_write(c, buf, len, true);
}

size_t chardev_read(struct chardev *c, void *buf, size_t len)
{
	struct chardev_back back;
	bool room;
	size_t n;

	pthread_mutex_lock(&c->lock);
	n = ring_get(&c->in, buf, len);
	room = n && c->in.was_full;
	if (room)
		c->in.was_full = false;
	back = c->back;
	pthread_mutex_unlock(&c->lock);
	if (room)
		call(back.room, back.ctx);
	return n;
}

size_t chardev_take(struct chardev *c, void *buf, size_t len)
{
	struct chardev_front front;
	bool room;
	size_t n;

	pthread_mutex_lock(&c->lock);
	n = ring_get(&c->out, buf, len);
	room = n && c->out.was_full;
	if (room)
		c->out.was_full = false;
	front = c->front;
	pthread_mutex_unlock(&c->lock);
	if (room)
		call(front.room, front.ctx);
	return n;
}

size_t chardev_give(struct chardev *c, const void *buf, size_t len)
{
	struct chardev_front front;
	size_t n;

	pthread_mutex_lock(&c->lock);
	n = ring_put(&c->in, buf, len);
	c->stat.in_bytes += n;
	c->in.was_full |= n < len;
	front = c->front;
	pthread_mutex_unlock(&c->lock);
	if (n)
		call(front.input, front.ctx);
	return n;
}

void chardev_stat(struct chardev *c, struct chardev_stat *st)
{
	pthread_mutex_lock(&c->lock);
	*st = c->stat;
	pthread_mutex_unlock(&c->lock);
}
