#include "vm/rpc.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/list.h"
#include "base/spell.h"
#include "base/unix_socket.h"
#include "base/util.h"

#define BACKLOG 16

enum {
	RPC_PARSE = -32700,
	RPC_REQUEST = -32600,
	RPC_METHOD = -32601,
	RPC_PARAMS = -32602,
	RPC_FAILED = -32000,
};

struct rpc_server {
	uv_pipe_t pipe;
	struct rpc_service service;
	struct list conns;
	unsigned nconns;
	bool forgotten; /* the socket's file is another process's */
	char *path;
};

struct rpc_conn {
	uv_pipe_t pipe;
	struct rpc_server *server;
	struct list link;
	bool subscribed, closing, finishing, is_raw;
	struct rpc_raw raw;
	int fds[RPC_FDS_MAX];
	unsigned nfds;
	void (*gone)(void *ctx);
	void *gone_ctx;
	json_t *later; /* id of the request whose answer waits */
	char *line; /* what has come without a newline so far */
	size_t line_len, line_cap;
	char rbuf[16384];
};

struct rpc_write {
	uv_write_t req;
	struct rpc_conn *conn;
	char data[];
};

int rpc_conn_take_fd(struct rpc_conn *c)
{
	int fd = c->nfds ? c->fds[0] : -1;

	if (c->nfds)
		memmove(c->fds, c->fds + 1, --c->nfds * sizeof(c->fds[0]));
	return fd;
}

void rpc_conn_watch(struct rpc_conn *c, void (*gone)(void *ctx), void *ctx)
{
	c->gone = gone;
	c->gone_ctx = ctx;
}

static void close_fds(struct rpc_conn *c)
{
	for (int fd; (fd = rpc_conn_take_fd(c)) >= 0;)
		close(fd);
}

static void conn_closed(uv_handle_t *h)
{
	struct rpc_conn *c = container_of((uv_pipe_t *)h, struct rpc_conn, pipe);

	json_decref(c->later);
	free(c->line);
	free(c);
}

void rpc_conn_close(struct rpc_conn *c)
{
	if (c->closing)
		return;
	c->closing = true;
	list_del(&c->link);
	if (c->server)
		c->server->nconns--;
	if (c->is_raw && c->raw.closed)
		c->raw.closed(c->raw.ctx, c);
	if (c->gone)
		c->gone(c->gone_ctx);
	close_fds(c);
	uv_close((uv_handle_t *)&c->pipe, conn_closed);
}

static void write_done(uv_write_t *req, int status)
{
	struct rpc_write *w = container_of(req, struct rpc_write, req);
	struct rpc_conn *c = w->conn;

	free(w);
	if (c->finishing && !rpc_conn_queued(c))
		rpc_conn_close(c);
	if (c->is_raw && !c->closing && c->raw.drained && !rpc_conn_queued(c))
		c->raw.drained(c->raw.ctx, c);
}

void rpc_conn_write(struct rpc_conn *c, const void *buf, size_t len)
{
	struct rpc_write *w;
	uv_buf_t b;

	if (c->closing || !len)
		return;
	if (uv_stream_get_write_queue_size((uv_stream_t *)&c->pipe) + len > RPC_QUEUE_MAX) {
		rpc_conn_close(c);
		return;
	}
	w = malloc(sizeof(*w) + len);
	if (!w) {
		rpc_conn_close(c);
		return;
	}
	w->conn = c;
	memcpy(w->data, buf, len);
	b = uv_buf_init(w->data, (unsigned)len);
	if (uv_write(&w->req, (uv_stream_t *)&c->pipe, &b, 1, write_done)) {
		free(w);
		rpc_conn_close(c);
	}
}

void rpc_conn_finish(struct rpc_conn *c)
{
	c->finishing = true;
	uv_read_stop((uv_stream_t *)&c->pipe);
	if (!rpc_conn_queued(c))
		rpc_conn_close(c);
}

size_t rpc_conn_queued(const struct rpc_conn *c)
{
	return uv_stream_get_write_queue_size((const uv_stream_t *)&c->pipe);
}

/* Steals msg. */
static void send_json(struct rpc_conn *c, json_t *msg)
{
	char *text = json_dumps(msg, JSON_COMPACT);
	size_t len;

	json_decref(msg);
	if (!text) {
		rpc_conn_close(c);
		return;
	}
	len = strlen(text);
	text[len] = '\n'; /* over the NUL: the length travels */
	rpc_conn_write(c, text, len + 1);
	free(text);
}

static void send_error(struct rpc_conn *c, json_t *id, int code, const char *text, int errnum)
{
	json_t *err = json_pack("{s:i, s:s}", "code", code, "message", text);

	if (errnum)
		json_object_set_new(
			err, "data", json_pack("{s:s}", "errno", strerrorname_np(errnum) ?: "EIO"));
	send_json(c, json_pack("{s:s, s:O?, s:o}", "jsonrpc", "2.0", "id", id, "error", err));
}

/* NULL: there is none; *near is the one whose name is nearest, or NULL. */
static const struct rpc_method *method_find(
	const struct rpc_service *s, const char *name, const char **near)
{
	struct spell sp = {0};

	for (unsigned i = 0; s->tables[i]; i++)
		for (const struct rpc_method *m = s->tables[i]; m->name; m++) {
			if (!strcmp(m->name, name))
				return m;
			spell_offer(&sp, name, m->name);
		}
	*near = sp.best;
	return NULL;
}

/* Steals `result`. Without an id it was a notification, which wants no answer. */
static void answer(struct rpc_conn *c, json_t *id, int rc, json_t *result, const struct err *e)
{
	if (!id)
		json_decref(result);
	else if (rc)
		send_error(c, id, rc == -EINVAL ? RPC_PARAMS : RPC_FAILED, err_msg(e), -rc);
	else
		send_json(c, json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", id, "result",
				     result ?: json_object()));
}

static void dispatch(struct rpc_conn *c, json_t *req)
{
	const char *name = json_string_value(json_object_get(req, "method"));
	const char *version = json_string_value(json_object_get(req, "jsonrpc"));
	json_t *id = json_object_get(req, "id");
	json_t *params = json_object_get(req, "params");
	const struct rpc_service *s = &c->server->service;
	struct rpc_request q = {s->ctx, NULL, c, params};
	const char *near = NULL;
	json_t *result = NULL;
	struct err e = {0};
	char text[192];
	int rc;

	if (!name || !version || strcmp(version, "2.0")) {
		send_error(c, id, RPC_REQUEST,
			"not a JSON-RPC 2.0 request: \"jsonrpc\": \"2.0\" and \"method\" are "
			"needed",
			0);
		return;
	}
	if (params && !json_is_object(params)) {
		send_error(c, id, RPC_PARAMS, "\"params\" must be an object", 0);
		return;
	}
	q.method = method_find(s, name, &near);
	if (!q.method) {
		snprintf(text, sizeof(text), "no method \"%.64s\"%s%s%s", name,
			near ? "; did you mean " : "", near ?: "", near ? "?" : "");
		send_error(c, id, RPC_METHOD, text, 0);
		return;
	}
	rc = s->admit ? s->admit(&q, &e) : 0;
	rc = rc ?: q.method->call(&q, &result, &e);
	close_fds(c);
	if (c->closing) {
		json_decref(result);
		return;
	}
	if (rc == RPC_LATER)
		c->later = json_incref(id);
	else
		answer(c, id, rc, result, &e);
}

void rpc_conn_answer(struct rpc_conn *c, int rc, json_t *result, struct err *e)
{
	json_t *id = c->later;

	c->later = NULL;
	answer(c, id, rc, result, e);
	json_decref(id);
}

static void take_line(struct rpc_conn *c, const char *line, size_t len)
{
	json_error_t je;
	json_t *req;

	if (!len)
		return;
	req = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
	if (!json_is_object(req))
		send_error(c, NULL, req ? RPC_REQUEST : RPC_PARSE,
			req ? "a request is one JSON object a line" : je.text, 0);
	else
		dispatch(c, req);
	json_decref(req);
}

static bool keep_rest(struct rpc_conn *c, const char *buf, size_t len)
{
	if (c->line_len + len > RPC_LINE_MAX)
		return false;
	if (c->line_len + len > c->line_cap) {
		size_t cap = MAX(4096ul, 2 * (c->line_len + len));
		char *p = realloc(c->line, cap);

		if (!p)
			return false;
		c->line = p;
		c->line_cap = cap;
	}
	memcpy(c->line + c->line_len, buf, len);
	c->line_len += len;
	return true;
}

static void take_bytes(struct rpc_conn *c, const char *buf, size_t len)
{
	while (len && !c->closing && !c->finishing) {
		const char *nl;
		size_t part;

		if (c->is_raw) {
			if (c->raw.data)
				c->raw.data(c->raw.ctx, c, buf, len);
			return;
		}
		nl = memchr(buf, '\n', len);
		part = nl ? (size_t)(nl - buf) : len;
		if (!keep_rest(c, buf, part)) {
			send_error(c, NULL, RPC_REQUEST, "line too long", 0);
			rpc_conn_close(c);
			return;
		}
		if (nl) {
			size_t n = c->line_len;

			c->line_len = 0;
			take_line(c, c->line, n);
			part++;
		}
		buf += part;
		len -= part;
	}
}

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *b)
{
	struct rpc_conn *c = container_of((uv_pipe_t *)h, struct rpc_conn, pipe);

	*b = uv_buf_init(c->rbuf, sizeof(c->rbuf));
}

static void carrier_closed(uv_handle_t *h)
{
	free(h);
}

/* libuv hands descriptors out as streams only; a copy of the number is what we want. */
static void take_passed(struct rpc_conn *c)
{
	while (uv_pipe_pending_count(&c->pipe) > 0) {
		uv_pipe_t *carrier = calloc(1, sizeof(*carrier));
		uv_os_fd_t fd;

		if (!carrier || uv_pipe_init(c->pipe.loop, carrier, 0)) {
			free(carrier);
			return;
		}
		if (!uv_accept((uv_stream_t *)&c->pipe, (uv_stream_t *)carrier) &&
			!uv_fileno((uv_handle_t *)carrier, &fd) && c->nfds < RPC_FDS_MAX) {
			fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
			if (fd >= 0)
				c->fds[c->nfds++] = fd;
		}
		uv_close((uv_handle_t *)carrier, carrier_closed);
	}
}

static void on_read(uv_stream_t *st, ssize_t n, const uv_buf_t *b)
{
	struct rpc_conn *c = container_of((uv_pipe_t *)st, struct rpc_conn, pipe);

	if (n >= 0)
		take_passed(c);
	if (n < 0)
		rpc_conn_close(c);
	else
		take_bytes(c, b->base, (size_t)n);
}

static struct rpc_conn *conn_new(struct rpc_server *s)
{
	struct rpc_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->server = s;
	list_init(&c->link);
	uv_pipe_init(s->pipe.loop, &c->pipe, 1); /* descriptors may come with a request */
	list_add_tail(&s->conns, &c->link);
	s->nconns++;
	return c;
}

static void on_connect(uv_stream_t *st, int status)
{
	struct rpc_server *s = container_of((uv_pipe_t *)st, struct rpc_server, pipe);
	struct rpc_conn *c = status ? NULL : conn_new(s);

	if (c && (uv_accept(st, (uv_stream_t *)&c->pipe) || s->nconns > RPC_CONNS_MAX ||
			 uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read)))
		rpc_conn_close(c);
}

void rpc_conn_subscribe(struct rpc_conn *c)
{
	c->subscribed = true;
}

void rpc_conn_raw(struct rpc_conn *c, const struct rpc_raw *raw)
{
	c->raw = *raw;
	c->is_raw = true;
}

void rpc_notify(struct rpc_server *s, const char *event, json_t *params)
{
	list_for_each_safe (it, tmp, &s->conns) {
		struct rpc_conn *c = list_entry(it, struct rpc_conn, link);

		if (c->subscribed)
			send_json(c, json_pack("{s:s, s:s, s:O}", "jsonrpc", "2.0", "method", event,
					     "params", params));
	}
	json_decref(params);
}

static void server_closed(uv_handle_t *h)
{
	struct rpc_server *s = container_of((uv_pipe_t *)h, struct rpc_server, pipe);

	free(s->path);
	free(s);
}

int rpc_server_adopt(struct rpc_server **out, uv_loop_t *loop, int listening, const char *path,
	const struct rpc_service *service, struct err *e)
{
	struct rpc_server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s || !(s->path = strdup(path))) {
		free(s);
		return err_set(e, -ENOMEM, "control socket: out of memory");
	}
	list_init(&s->conns);
	s->service = *service;
	uv_pipe_init(loop, &s->pipe, 0);
	rc = uv_pipe_open(&s->pipe, listening)
		     ?: uv_listen((uv_stream_t *)&s->pipe, BACKLOG, on_connect);
	if (rc) {
		uv_close((uv_handle_t *)&s->pipe, server_closed);
		return err_set(e, rc, "control socket %s: %s", path, uv_strerror(rc));
	}
	*out = s;
	return 0;
}

int rpc_server_create(struct rpc_server **out, uv_loop_t *loop, const char *path,
	const struct rpc_service *service, struct err *e)
{
	int fd;

	if (unix_clear(path) == -EADDRINUSE)
		return err_set(
			e, -EADDRINUSE, "control socket %s: another machine answers there", path);
	/* Not by libuv: that would remove the file when it closes, also where another process goes on with it. */
	fd = unix_listen(path, SOCK_STREAM | SOCK_NONBLOCK, BACKLOG, e);
	if (fd < 0)
		return err_wrap(e, "control socket");
	return rpc_server_adopt(out, loop, fd, path, service, e);
}

void rpc_server_close(struct rpc_server *s)
{
	if (!s)
		return;
	list_for_each_safe (it, tmp, &s->conns) {
		struct rpc_conn *c = list_entry(it, struct rpc_conn, link);

		/* It may outlive the server while its last lines go out. */
		list_del(&c->link);
		c->server = NULL;
		rpc_conn_finish(c);
	}
	if (!s->forgotten)
		unlink(s->path);
	uv_close((uv_handle_t *)&s->pipe, server_closed);
}

/* ---- from one process to another ---- */

int rpc_server_fd(const struct rpc_server *s)
{
	uv_os_fd_t fd;

	return uv_fileno((const uv_handle_t *)&s->pipe, &fd) ? -1 : fd;
}

void rpc_server_forget(struct rpc_server *s)
{
	s->forgotten = true;
}

void rpc_server_each(struct rpc_server *s,
	void (*fn)(void *ctx, struct rpc_conn *c, const struct rpc_conn_state *st), void *ctx)
{
	list_for_each_safe (it, tmp, &s->conns) {
		struct rpc_conn *c = list_entry(it, struct rpc_conn, link);
		struct rpc_conn_state st = {.subscribed = c->subscribed,
			.raw = c->is_raw,
			.line = c->line,
			.line_len = c->line_len,
			.later = c->later};

		if (!c->finishing && !rpc_conn_queued(c) &&
			!uv_fileno((const uv_handle_t *)&c->pipe, &st.fd))
			fn(ctx, c, &st);
	}
}

int rpc_conn_adopt(struct rpc_server *s, const struct rpc_conn_state *st, struct rpc_conn **out)
{
	struct rpc_conn *c = conn_new(s);

	if (!c) {
		close(st->fd);
		return -ENOMEM;
	}
	c->subscribed = st->subscribed;
	if (uv_pipe_open(&c->pipe, st->fd)) {
		close(st->fd);
		rpc_conn_close(c);
		return -EINVAL;
	}
	c->later = st->later ? json_incref(st->later) : NULL;
	if ((st->line_len && !keep_rest(c, st->line, st->line_len)) ||
		uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read)) {
		rpc_conn_close(c);
		return -ENOMEM;
	}
	*out = c;
	return 0;
}
