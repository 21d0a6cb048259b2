#include "device/vsock/vsock_host.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/fdlist.h"
#include "base/hex.h"
#include "base/list.h"
#include "base/unix_socket.h"
#include "base/util.h"

#define PATH_ROOM (UNIX_PATH_LONGEST - 10) /* and "_4294967295" has room behind it */
#define GREETING_MAX 32 /* "CONNECT 4294967295\n" */

struct vsock_host {
	struct vsock_host_ops ops;
	struct uv_loop_s *loop;
	uv_poll_t poll;
	int fd;
	struct list asking; /* streams whose program has not said yet what it wants */
	unsigned streams; /* from programs of the host */
	bool forgotten; /* another process has the socket's path */
	char path[PATH_ROOM];
};

struct vsock_stream {
	struct vsock_host *host;
	struct list link; /* in host->asking */
	uv_poll_t poll;
	int fd;
	void *owner;
	bool from_host; /* a program asked for it */
	bool asked; /* and said for which port */
	bool want, end, broken;
	uint8_t nline;
	char line[GREETING_MAX + 1];
	uint8_t *ring; /* VSOCK_RING, when something had to wait */
	size_t head, len;
	size_t ours; /* bytes at its front that are not the guest's: no credit comes of them */
};

static void on_stream(uv_poll_t *p, int status, int events);

static void rearm(struct vsock_stream *s)
{
	int ev = (s->want ? UV_READABLE : 0) | (s->len && !s->broken ? UV_WRITABLE : 0);

	if (ev)
		uv_poll_start(&s->poll, ev, on_stream);
	else
		uv_poll_stop(&s->poll);
}

static struct vsock_stream *stream_new(struct vsock_host *h, int fd)
{
	struct vsock_stream *s = calloc(1, sizeof(*s));

	if (!s || uv_poll_init(h->loop, &s->poll, fd)) {
		free(s);
		return NULL;
	}
	uv_unref((uv_handle_t *)&s->poll);
	s->poll.data = s;
	s->host = h;
	s->fd = fd;
	list_init(&s->link);
	return s;
}

static void stream_free(uv_handle_t *h)
{
	struct vsock_stream *s = h->data;

	free(s->ring);
	free(s);
}

void vsock_stream_close(struct vsock_stream *s)
{
	if (s->from_host)
		s->host->streams--;
	list_del(&s->link);
	uv_poll_stop(&s->poll);
	close(s->fd);
	uv_close((uv_handle_t *)&s->poll, stream_free);
}

void vsock_stream_owner_set(struct vsock_stream *s, void *owner)
{
	s->owner = owner;
}

void *vsock_stream_owner(const struct vsock_stream *s)
{
	return s->owner;
}

size_t vsock_stream_queued(const struct vsock_stream *s)
{
	return s->len;
}

ssize_t vsock_stream_read(struct vsock_stream *s, void *buf, size_t len)
{
	ssize_t n;

	do
		n = recv(s->fd, buf, len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

void vsock_stream_want(struct vsock_stream *s, bool readable)
{
	if (s->want == readable)
		return;
	s->want = readable;
	rearm(s);
}

/* Sends what the kernel takes now. */
static size_t push(struct vsock_stream *s)
{
	size_t sum = 0;

	while (s->len && !s->broken) {
		size_t first = MIN(s->len, VSOCK_RING - s->head);
		struct iovec iov[2] = {{s->ring + s->head, first}, {s->ring, s->len - first}};
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = s->len > first ? 2 : 1};
		ssize_t n = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			s->broken = true;
			s->len = 0;
			break;
		}
		sum += (size_t)n;
		s->head = (s->head + (size_t)n) % VSOCK_RING;
		s->len -= (size_t)n;
	}
	if (s->end && !s->len && !s->broken)
		shutdown(s->fd, SHUT_WR);
	return sum;
}

bool vsock_stream_write(struct vsock_stream *s, const void *buf, size_t len)
{
	size_t at, first;

	if (s->broken)
		return true; /* drained() says so */
	if (len > VSOCK_RING - s->len)
		return false;
	if (!s->ring)
		s->ring = malloc(VSOCK_RING);
	if (!s->ring)
		return false;
	at = (s->head + s->len) % VSOCK_RING;
	first = MIN(len, VSOCK_RING - at);
	memcpy(s->ring + at, buf, first);
	memcpy(s->ring, (const uint8_t *)buf + first, len - first);
	s->len += len;
	rearm(s);
	return true;
}

void vsock_stream_end(struct vsock_stream *s)
{
	s->end = true;
	if (!s->len && !s->broken)
		shutdown(s->fd, SHUT_WR);
}

void vsock_stream_accepted(struct vsock_stream *s, uint32_t port)
{
	char line[GREETING_MAX];
	size_t n = (size_t)snprintf(line, sizeof(line), "OK %u\n", port);

	if (vsock_stream_write(s, line, n))
		s->ours = n;
}

/* Reads exactly the first line, byte by byte: what follows it is the guest's. */
static bool greeting(struct vsock_stream *s, uint32_t *port, bool *bad)
{
	unsigned long v;
	char *end;

	*bad = true;
	while (s->nline < GREETING_MAX) {
		ssize_t n = vsock_stream_read(s, s->line + s->nline, 1);

		if (n == -EAGAIN) {
			*bad = false;
			return false;
		}
		if (n <= 0)
			return false;
		if (s->line[s->nline++] == '\n')
			break;
	}
	if (s->line[s->nline - 1] != '\n')
		return false;
	s->line[s->nline - 1] = 0;
	if (strncmp(s->line, "CONNECT ", 8) || s->line[8] < '0' || s->line[8] > '9')
		return false;
	errno = 0;
	v = strtoul(s->line + 8, &end, 10);
	*port = (uint32_t)v;
	return !*end && !errno && v < UINT32_MAX;
}

static void greet(struct vsock_stream *s)
{
	uint32_t port;
	bool bad;

	if (greeting(s, &port, &bad)) {
		s->asked = true;
		list_del(&s->link);
		vsock_stream_want(s, false);
		s->host->ops.asked(s->host->ops.ctx, s, port);
	} else if (bad) {
		vsock_stream_close(s);
	}
}

static void on_stream(uv_poll_t *p, int status, int events)
{
	struct vsock_stream *s = p->data;
	struct vsock_host *h = s->host;

	if (s->from_host && !s->asked)
		return greet(s);
	/* Each callback may close the stream, so at most one a turn; the loop comes back for the other. */
	if (s->len && (status < 0 || (events & UV_WRITABLE))) {
		size_t n = push(s), ours = MIN(n, s->ours);

		s->ours -= ours;
		n -= ours;
		rearm(s);
		h->ops.drained(h->ops.ctx, s, n, !s->broken);
	} else if (s->want) {
		h->ops.readable(h->ops.ctx, s);
	}
}

static void on_listen(uv_poll_t *p, int status, int events)
{
	struct vsock_host *h = p->data;
	struct vsock_stream *s;
	int fd = accept4(h->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	s = h->streams < VSOCK_HOST_STREAMS ? stream_new(h, fd) : NULL;
	if (!s) {
		close(fd);
		return;
	}
	h->streams++;
	s->from_host = true;
	list_add_tail(&h->asking, &s->link);
	vsock_stream_want(s, true);
}

struct vsock_stream *vsock_stream_open(struct vsock_host *h, uint32_t port, void *owner)
{
	char path[UNIX_PATH_LONGEST + 1];
	struct vsock_stream *s;
	int fd;

	snprintf(path, sizeof(path), "%s_%u", h->path, port);
	fd = unix_connect(path, SOCK_STREAM | SOCK_NONBLOCK, NULL);
	s = fd < 0 ? NULL : stream_new(h, fd);
	if (!s) {
		if (fd >= 0)
			close(fd);
		errno = fd < 0 ? -fd : ENOMEM;
		return NULL;
	}
	s->owner = owner;
	return s;
}

static void host_free(uv_handle_t *p)
{
	free(p->data);
}

static int check_path(const char *path, struct err *e)
{
	return strlen(path) < PATH_ROOM ? 0
					: err_set(e, -EINVAL,
						  "vsock: %s: the path of a Unix socket may have "
						  "%u bytes: take a shorter name, or --vsock off",
						  path, PATH_ROOM - 1);
}

int vsock_host_adopt(struct vsock_host **out, int fd, const char *path, struct uv_loop_s *loop,
	const struct vsock_host_ops *ops, struct err *e)
{
	int rc = check_path(path, e);
	struct vsock_host *h = rc ? NULL : calloc(1, sizeof(*h));

	if (!h)
		return rc ?: err_set(e, -ENOMEM, "vsock: out of memory");
	h->ops = *ops;
	h->loop = loop;
	list_init(&h->asking);
	memcpy(h->path, path, strlen(path) + 1);
	h->fd = fd;
	rc = uv_poll_init(loop, &h->poll, fd);
	if (rc) {
		free(h);
		return err_set(e, rc, "vsock: %s: %s", path, uv_strerror(rc));
	}
	h->poll.data = h;
	uv_unref((uv_handle_t *)&h->poll);
	uv_poll_start(&h->poll, UV_READABLE, on_listen);
	*out = h;
	return 0;
}

int vsock_host_open(struct vsock_host **out, const char *path, struct uv_loop_s *loop,
	const struct vsock_host_ops *ops, struct err *e)
{
	cleanup(close_fd) int fd = -1;
	int rc = check_path(path, e);

	if (rc)
		return rc;
	fd = unix_listen(path, SOCK_STREAM | SOCK_NONBLOCK, 64, e);
	if (fd < 0)
		return err_wrap(e, "vsock");
	rc = vsock_host_adopt(out, fd, path, loop, ops, e);
	if (rc)
		unlink(path);
	else
		steal_fd(&fd);
	return rc;
}

void vsock_host_close(struct vsock_host *h)
{
	if (!h)
		return;
	while (!list_empty(&h->asking))
		vsock_stream_close(list_entry(h->asking.next, struct vsock_stream, link));
	uv_poll_stop(&h->poll);
	close(h->fd);
	if (!h->forgotten)
		unlink(h->path);
	uv_close((uv_handle_t *)&h->poll, host_free);
}

/* ---- from one process to another ---- */

void vsock_host_forget(struct vsock_host *h)
{
	h->forgotten = true;
}

int vsock_host_fd(const struct vsock_host *h)
{
	return h->fd;
}

json_t *vsock_stream_hand_over(struct vsock_stream *s, struct fdlist *fds)
{
	cleanup(free_ptr) char *bytes = malloc(2 * s->len + 1);
	cleanup(free_ptr) char *line = malloc(2 * s->nline + 1u);
	size_t first = MIN(s->len, VSOCK_RING - s->head);

	if (!bytes || !line)
		return NULL;
	bytes[0] = 0;
	if (s->len) {
		hex_put(bytes, s->ring + s->head, first);
		hex_put(bytes + 2 * first, s->ring, s->len - first);
	}
	hex_put(line, s->line, s->nline);
	return json_pack("{s:i, s:b, s:b, s:b, s:b, s:b, s:I, s:s, s:s}", "fd",
		fdlist_add(fds, s->fd), "from_host", s->from_host, "asked", s->asked, "want",
		s->want, "end", s->end, "broken", s->broken, "ours", (json_int_t)s->ours, "line",
		line, "ring", bytes);
}

struct vsock_stream *vsock_stream_take_over(
	struct vsock_host *h, const json_t *j, struct fdlist *fds, void *owner)
{
	const char *line = json_string_value(json_object_get(j, "line")) ?: "";
	const char *ring = json_string_value(json_object_get(j, "ring")) ?: "";
	json_int_t ours = json_integer_value(json_object_get(j, "ours"));
	const json_t *place = json_object_get(j, "fd");
	int fd = json_is_integer(place) ? fdlist_take_stream(fds, json_integer_value(place)) : -1;
	struct vsock_stream *s = fd < 0 ? NULL : stream_new(h, fd);

	if (!s) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	s->owner = owner;
	s->from_host = json_is_true(json_object_get(j, "from_host"));
	h->streams += s->from_host;
	s->asked = json_is_true(json_object_get(j, "asked"));
	s->end = json_is_true(json_object_get(j, "end"));
	s->broken = json_is_true(json_object_get(j, "broken"));
	s->want = json_is_true(json_object_get(j, "want"));
	s->len = strlen(ring) / 2;
	s->nline = (uint8_t)MIN(strlen(line) / 2, (size_t)GREETING_MAX);
	s->ring = s->len ? malloc(VSOCK_RING) : NULL;
	s->ours = (size_t)ours;
	/* Who has not said yet what it wants belongs to nobody, and nobody else does. */
	if ((s->from_host && !s->asked) != !owner || ours < 0 || s->ours > s->len ||
		s->len > VSOCK_RING || (s->len && !s->ring) ||
		(s->len && hex_get(s->ring, s->len, ring)) || hex_get(s->line, s->nline, line)) {
		vsock_stream_close(s);
		return NULL;
	}
	rearm(s);
	return s;
}

json_t *vsock_host_hand_over(struct vsock_host *h, struct fdlist *fds)
{
	json_t *asking = json_array();

	list_for_each (it, &h->asking) {
		json_array_append_new(asking,
			vsock_stream_hand_over(list_entry(it, struct vsock_stream, link), fds));
	}
	return json_pack("{s:o}", "asking", asking);
}

int vsock_host_take_over(struct vsock_host *h, const json_t *j, struct fdlist *fds, struct err *e)
{
	const json_t *asking = json_object_get(j, "asking"), *one;
	size_t i;

	json_array_foreach(asking, i, one)
	{
		struct vsock_stream *s = vsock_stream_take_over(h, one, fds, NULL);

		if (!s)
			return err_set(e, -EINVAL, "vsock: a connection that cannot be taken over");
		list_add_tail(&h->asking, &s->link);
	}
	return 0;
}
