#include "vm/console.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/list.h"
#include "base/util.h"
#include "vm/rpc.h"

#define CHUNK 16384u
#define INPUT_MAX 65536u

struct reader {
	struct list link;
	struct console *con;
	struct rpc_conn *conn;
	unsigned long long pos; /* next byte to send, counted from the first ever written */
};

struct console {
	uv_async_t async;
	pthread_mutex_t lock; /* ring and head */
	unsigned char ring[CONSOLE_HISTORY];
	unsigned long long head; /* bytes written ever */
	unsigned long long logged;
	int log_fd;
	struct list readers;
	struct console_device dev; /* take is NULL: none */
	unsigned char input[INPUT_MAX]; /* what the device had no room for */
	size_t input_len;
	bool closing;
};

/* Copies from `*pos` on into buf; skips what the ring no longer holds and says how much that was. */
static size_t ring_read(struct console *c, unsigned long long *pos, unsigned char *buf, size_t max,
	unsigned long long *lost)
{
	size_t n, at, first;

	pthread_mutex_lock(&c->lock);
	*lost = c->head - *pos > CONSOLE_HISTORY ? c->head - CONSOLE_HISTORY - *pos : 0;
	*pos += *lost;
	n = MIN((unsigned long long)max, c->head - *pos);
	at = *pos % CONSOLE_HISTORY;
	first = MIN(n, CONSOLE_HISTORY - at);
	memcpy(buf, c->ring + at, first);
	memcpy(buf + first, c->ring, n - first);
	pthread_mutex_unlock(&c->lock);
	*pos += n;
	return n;
}

static void feed_reader(struct reader *r)
{
	unsigned char buf[CHUNK];
	unsigned long long lost;
	size_t n;

	while (rpc_conn_queued(r->conn) < 4 * CHUNK &&
		(n = ring_read(r->con, &r->pos, buf, sizeof(buf), &lost))) {
		if (lost) {
			char text[80];
			int len = snprintf(
				text, sizeof(text), "\r\n[console: %llu bytes lost]\r\n", lost);

			rpc_conn_write(r->conn, text, (size_t)len);
		}
		rpc_conn_write(r->conn, buf, n);
	}
}

static void feed_log(struct console *c)
{
	unsigned char buf[CHUNK];
	unsigned long long lost;
	size_t n;

	while (c->log_fd >= 0 && (n = ring_read(c, &c->logged, buf, sizeof(buf), &lost)))
		if (write(c->log_fd, buf, n) < 0) {
			/* Disk full: the machine goes on without its console log. */
			close(c->log_fd);
			c->log_fd = -1;
		}
}

static void offer_input(struct console *c)
{
	size_t took;

	if (!c->input_len || !c->dev.give)
		return;
	took = c->dev.give(c->dev.ctx, c->input, c->input_len);
	memmove(c->input, c->input + took, c->input_len - took);
	c->input_len -= took;
}

static void ring_append(struct console *c, const unsigned char *p, size_t len)
{
	pthread_mutex_lock(&c->lock);
	while (len) {
		size_t at = c->head % CONSOLE_HISTORY;
		size_t n = MIN(len, CONSOLE_HISTORY - at);

		memcpy(c->ring + at, p, n);
		c->head += n;
		p += n;
		len -= n;
	}
	pthread_mutex_unlock(&c->lock);
}

static void take_output(struct console *c)
{
	unsigned char buf[CHUNK];
	size_t n;

	while (c->dev.take && (n = c->dev.take(c->dev.ctx, buf, sizeof(buf)))) {
		ring_append(c, buf, n);
		feed_log(c);
	}
}

static void pump(struct console *c)
{
	take_output(c);
	feed_log(c);
	list_for_each_safe (it, tmp, &c->readers)
		feed_reader(list_entry(it, struct reader, link));
	offer_input(c);
}

static void on_async(uv_async_t *a)
{
	pump(container_of(a, struct console, async));
}

int console_create(struct console **out, uv_loop_t *loop, int log_fd, struct err *e)
{
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "console: out of memory");
	rc = uv_async_init(loop, &c->async, on_async);
	if (rc) {
		free(c);
		return err_set(e, rc, "console: %s", uv_strerror(rc));
	}
	pthread_mutex_init(&c->lock, NULL);
	list_init(&c->readers);
	c->log_fd = log_fd;
	*out = c;
	return 0;
}

static void console_closed(uv_handle_t *h)
{
	struct console *c = container_of((uv_async_t *)h, struct console, async);

	pthread_mutex_destroy(&c->lock);
	free(c);
}

void console_close(struct console *c)
{
	if (!c || c->closing)
		return;
	c->closing = true;
	pump(c);
	list_for_each_safe (it, tmp, &c->readers) {
		struct reader *r = list_entry(it, struct reader, link);

		list_del(&r->link);
		r->con = NULL; /* the connection may outlive the console while it drains */
		rpc_conn_finish(r->conn);
	}
	if (c->log_fd >= 0)
		close(c->log_fd);
	uv_close((uv_handle_t *)&c->async, console_closed);
}

void console_output(struct console *c, const void *buf, size_t len)
{
	ring_append(c, buf, len);
	uv_async_send(&c->async);
}

void console_set_device(struct console *c, const struct console_device *d)
{
	c->dev = *d;
}

void console_poke(struct console *c)
{
	uv_async_send(&c->async);
}

void console_input(struct console *c, const void *buf, size_t len)
{
	size_t n = MIN(len, sizeof(c->input) - c->input_len);

	/* More than that typed ahead of a guest that does not read is dropped, as a terminal does. */
	memcpy(c->input + c->input_len, buf, n);
	c->input_len += n;
	offer_input(c);
}

static void reader_data(void *ctx, struct rpc_conn *conn, const char *buf, size_t len)
{
	struct reader *r = ctx;

	if (r->con)
		console_input(r->con, buf, len);
}

static void reader_closed(void *ctx, struct rpc_conn *conn)
{
	struct reader *r = ctx;

	list_del(&r->link);
	free(r);
}

static void reader_drained(void *ctx, struct rpc_conn *conn)
{
	struct reader *r = ctx;

	if (r->con)
		feed_reader(r);
}

int console_attach_at(
	struct console *c, struct rpc_conn *conn, unsigned long long pos, struct err *e)
{
	struct reader *r = calloc(1, sizeof(*r));

	if (!r)
		return err_set(e, -ENOMEM, "console: out of memory");
	r->con = c;
	r->conn = conn;
	r->pos = pos;
	list_add_tail(&c->readers, &r->link);
	rpc_conn_raw(conn, &(struct rpc_raw){reader_data, reader_closed, reader_drained, r});
	/* The reply goes out first: the history follows at the loop's next turn. */
	uv_async_send(&c->async);
	return 0;
}

int console_attach(struct console *c, struct rpc_conn *conn, bool history, struct err *e)
{
	unsigned long long head = console_written(c);
	unsigned long long first = head > CONSOLE_HISTORY ? head - CONSOLE_HISTORY : 0;

	return console_attach_at(c, conn, history ? first : head, e);
}

/* ---- from one process to another ---- */

int console_hand_over(struct console *c, struct console_state *st, unsigned char **ring)
{
	unsigned long long pos, lost;

	*ring = malloc(CONSOLE_HISTORY);
	if (!*ring)
		return -ENOMEM;
	take_output(c);
	feed_log(c);
	st->head = console_written(c);
	pos = st->head > CONSOLE_HISTORY ? st->head - CONSOLE_HISTORY : 0;
	st->ring = *ring;
	st->ring_len = ring_read(c, &pos, *ring, CONSOLE_HISTORY, &lost);
	st->input = c->input;
	st->input_len = c->input_len;
	return 0;
}

int console_take_over(struct console *c, const struct console_state *st, struct err *e)
{
	if (st->ring_len > CONSOLE_HISTORY || st->ring_len > st->head ||
		st->input_len > sizeof(c->input))
		return err_set(e, -EINVAL, "console: more than it can hold");
	c->head = st->head - st->ring_len;
	ring_append(c, st->ring, st->ring_len);
	c->logged = c->head;
	memcpy(c->input, st->input, st->input_len);
	c->input_len = st->input_len;
	return 0;
}

bool console_reader(struct console *c, const struct rpc_conn *conn, unsigned long long *pos)
{
	list_for_each (it, &c->readers) {
		const struct reader *r = list_entry(it, struct reader, link);

		if (r->conn == conn) {
			*pos = r->pos;
			return true;
		}
	}
	return false;
}

int console_log_fd(const struct console *c)
{
	return c->log_fd;
}

unsigned long long console_written(struct console *c)
{
	unsigned long long n;

	pthread_mutex_lock(&c->lock);
	n = c->head;
	pthread_mutex_unlock(&c->lock);
	return n;
}
