#include "net/wire.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/list.h"
#include "base/unix_socket.h"
#include "base/util.h"

#define HELLO "LODGE1 "
#define BATCH 64 /* frames of one turn of the event loop */
#define RETRY_MS 1000
#define ASKING_MAX 32u
#define SOCKET_BUFFER (1 << 20)
#define ETHER_MIN 14u

struct net_wire_listener {
	int fd;
	struct uv_loop_s *loop;
	uv_poll_t *poll;
	void (*plugged)(void *ctx, const char *name, struct net_backend *b);
	void *ctx;
	struct list asking; /* connections that have no name yet */
	unsigned nasking;
	char path[UNIX_PATH_LONGEST + 1];
};

struct wire {
	struct net_backend b;
	struct uv_loop_s *loop;
	int fd; /* -1: not connected */
	uv_poll_t *poll; /* lives until the loop has closed it */
	uv_timer_t timer; /* of the side that connects */
	struct list link; /* in asking->asking */
	struct net_wire_listener *asking; /* of the other side: it has not said its name yet */
	struct sockaddr_un sa;
	char name[NET_WIRE_NAME];
	size_t held; /* bytes of a frame in `in` that the front had no room for */
	uint8_t in[NET_HDR + NET_FRAME_MAX];
};

static struct wire *of(struct net_backend *b)
{
	return container_of(b, struct wire, b);
}

static void free_handle(uv_handle_t *h)
{
	free(h);
}

static void drop_poll(uv_poll_t **p)
{
	if (*p) {
		uv_poll_stop(*p);
		uv_close((uv_handle_t *)*p, free_handle);
	}
	*p = NULL;
}

static void unplug(struct wire *w)
{
	drop_poll(&w->poll);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	w->held = 0;
	/* Last: the front may close us. */
	net_link_set(&w->b, false);
}

static void on_poll(uv_poll_t *h, int status, int events);

static void wait_for(struct wire *w, int events)
{
	if (!w->poll)
		return;
	if (events)
		uv_poll_start(w->poll, events, on_poll);
	else
		uv_poll_stop(w->poll);
}

/* Into the front, with its checksum filled in where the front cannot. */
static bool deliver(struct wire *w)
{
	if (w->in[NET_H_FLAGS] & NET_NEEDS_CSUM && !(w->b.accepted & NET_OFF_CSUM) &&
		net_finish_csum(w->in, w->held)) {
		w->b.stats.rx_drops++;
		return true;
	}
	return net_deliver(&w->b, w->in, w->held);
}

static void wire_close(struct net_backend *b);

/* It has a name now, or will never have one. */
static void known(struct wire *w)
{
	list_del(&w->link);
	w->asking->nasking--;
	w->asking = NULL;
}

/* The first message of a side that connected: "LODGE1 name". False: it is let go. */
static bool hello(struct wire *w)
{
	struct net_wire_listener *l = w->asking;
	char buf[sizeof(HELLO) + NET_WIRE_NAME];
	size_t n = sizeof(HELLO) - 1;
	ssize_t got = recv(w->fd, buf, sizeof(buf) - 1, MSG_DONTWAIT | MSG_TRUNC);

	if (got <= (ssize_t)n || got >= (ssize_t)(n + NET_WIRE_NAME) || memcmp(buf, HELLO, n))
		return false;
	buf[got] = 0;
	for (char *p = buf; p < buf + got; p++)
		if (*p <= ' ' - (p < buf + n) || *p > '~' || *p == '"' || *p == '\\')
			return false;
	memcpy(w->name, buf + n, (size_t)got - n + 1);
	known(w);
	l->plugged(l->ctx, w->name, &w->b);
	return true;
}

static void on_poll(uv_poll_t *h, int status, int events)
{
	struct wire *w = h->data;

	if (w->asking) {
		if (status < 0 || !hello(w)) {
			known(w);
			wire_close(&w->b);
		}
		return; /* as a port it may be closed by now */
	}
	for (int i = 0; status >= 0 && i < BATCH; i++) {
		if (!w->held) {
			ssize_t n = recv(w->fd, w->in, sizeof(w->in), MSG_DONTWAIT | MSG_TRUNC);

			if (n < 0 && (errno == EAGAIN || errno == EINTR))
				break;
			/* The end, a frame that is none, or one that asks for what nobody offered. */
			if (n < (ssize_t)(NET_HDR + ETHER_MIN) || n > (ssize_t)sizeof(w->in) ||
				w->in[NET_H_GSO_TYPE] ||
				(w->in[NET_H_FLAGS] & ~(NET_NEEDS_CSUM | NET_DATA_VALID)))
				return unplug(w);
			w->held = (size_t)n;
		}
		if (!deliver(w))
			return wait_for(w, 0); /* the kernel's queue is the bounded one */
		w->held = 0;
	}
	if (status < 0)
		unplug(w);
	else
		wait_for(w, UV_READABLE);
}

static int wire_send(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len)
{
	struct wire *w = of(b);
	struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};
	ssize_t done;

	if (w->fd < 0)
		return -ENETDOWN;
	do
		done = sendmsg(w->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (done < 0 && errno == EINTR);
	return done < 0 ? -errno : 0;
}

static void wire_flush(struct net_backend *b)
{
	/* The loop comes back out of the caller's locks: it can be written, or there is something. */
	if (of(b)->held)
		wait_for(of(b), UV_READABLE | UV_WRITABLE);
}

static void wire_describe(struct net_backend *b, json_t *into)
{
	json_object_set_new(into, "wire", json_string(of(b)->name));
}

static void free_wire(uv_handle_t *h)
{
	free(container_of((uv_timer_t *)h, struct wire, timer));
}

static void wire_close(struct net_backend *b)
{
	struct wire *w = of(b);

	drop_poll(&w->poll);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	uv_timer_stop(&w->timer);
	uv_close((uv_handle_t *)&w->timer, free_wire);
}

static int wire_fd(struct net_backend *b)
{
	return of(b)->fd;
}

static const struct net_backend_ops ops = {
	.name = "wire",
	.send = wire_send,
	.flush = wire_flush,
	.describe = wire_describe,
	.close = wire_close,
	.fd = wire_fd,
};

static struct wire *wire_new(struct uv_loop_s *loop, const char *name)
{
	struct wire *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->b.ops = &ops;
	w->b.offers = w->b.can_accept = NET_OFF_CSUM;
	w->loop = loop;
	w->fd = -1;
	snprintf(w->name, sizeof(w->name), "%s", name);
	uv_timer_init(loop, &w->timer);
	uv_unref((uv_handle_t *)&w->timer);
	return w;
}

/* Takes the descriptor over when it succeeds. */
static int plug_in(struct wire *w, int fd)
{
	int size = SOCKET_BUFFER;

	w->poll = calloc(1, sizeof(*w->poll));
	if (!w->poll || uv_poll_init(w->loop, w->poll, fd)) {
		free(w->poll);
		w->poll = NULL;
		return -ENOMEM;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	uv_unref((uv_handle_t *)w->poll);
	w->poll->data = w;
	w->fd = fd;
	wait_for(w, UV_READABLE);
	net_link_set(&w->b, true);
	return 0;
}

static int try_connect(struct wire *w)
{
	char hello[sizeof(HELLO) + NET_WIRE_NAME];
	int n = snprintf(hello, sizeof(hello), HELLO "%s", w->name);
	int fd = unix_connect(w->sa.sun_path, SOCK_SEQPACKET | SOCK_NONBLOCK, NULL), rc;

	if (fd < 0)
		return fd;
	rc = send(fd, hello, (size_t)n, MSG_NOSIGNAL) == n ? plug_in(w, fd) : -errno;
	if (rc)
		close(fd);
	return rc;
}

static void on_retry(uv_timer_t *t)
{
	struct wire *w = container_of(t, struct wire, timer);

	if (w->fd < 0)
		try_connect(w);
}

int net_wire_open(struct net_backend **out, const struct net_wire_opts *o, struct err *e)
{
	struct wire *w = wire_new(o->loop, o->name);
	int rc = w ? 0 : err_set(e, -ENOMEM, "%s: out of memory", o->id);

	if (!rc && o->path)
		rc = unix_address(&w->sa, o->path, e);
	if (!rc) {
		rc = o->fd > 0 ? plug_in(w, o->fd) : try_connect(w);
		if (rc)
			err_sys(e, rc, "%s: no switch answers at %s", o->id, o->path ?: "its end");
	}
	if (rc) {
		if (w)
			wire_close(&w->b);
		return rc;
	}
	if (o->path)
		uv_timer_start(&w->timer, on_retry, RETRY_MS, RETRY_MS);
	*out = &w->b;
	return 0;
}

/* ---- the side that is connected to ---- */

static void on_connection(uv_poll_t *h, int status, int events)
{
	struct net_wire_listener *l = h->data;
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
	struct wire *w = fd >= 0 && l->nasking < ASKING_MAX ? wire_new(l->loop, "") : NULL;

	if (!w || plug_in(w, fd)) {
		if (fd >= 0)
			close(fd);
		if (w)
			wire_close(&w->b);
		return;
	}
	w->asking = l;
	list_add_tail(&l->asking, &w->link);
	l->nasking++;
}

int net_wire_listen(struct net_wire_listener **out, const char *path, struct uv_loop_s *loop,
	void (*plugged)(void *ctx, const char *name, struct net_backend *b), void *ctx,
	struct err *e)
{
	struct net_wire_listener *l = calloc(1, sizeof(*l));
	cleanup(close_fd) int fd = -1;
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	list_init(&l->asking);
	l->loop = loop;
	l->plugged = plugged;
	l->ctx = ctx;
	snprintf(l->path, sizeof(l->path), "%s", path);
	fd = unix_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, 64, e);
	rc = MIN(fd, 0);
	l->poll = rc ? NULL : calloc(1, sizeof(*l->poll));
	if (!rc) {
		rc = l->poll ? uv_poll_init(loop, l->poll, fd) : -ENOMEM;
		if (rc)
			err_sys(e, rc, "%s", path);
	}
	if (rc) {
		free(l->poll);
		free(l);
		return rc;
	}
	l->fd = steal_fd(&fd);
	l->poll->data = l;
	uv_unref((uv_handle_t *)l->poll);
	uv_poll_start(l->poll, UV_READABLE, on_connection);
	*out = l;
	return 0;
}

void net_wire_listener_close(struct net_wire_listener *l)
{
	if (!l)
		return;
	while (!list_empty(&l->asking)) {
		struct wire *w = list_entry(l->asking.next, struct wire, link);

		known(w);
		wire_close(&w->b);
	}
	drop_poll(&l->poll);
	close(l->fd);
	unlink(l->path);
	free(l);
}
