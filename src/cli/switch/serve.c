#include "cli/switch/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "net/switch/switch.h"
#include "net/wire.h"
#include "vm/rpc.h"
#include "vm/switchdir.h"

/* Names of ports that are switches begin with it; machines' names cannot. */
#define UPLINK '+'

struct serve {
	uv_loop_t loop;
	uv_signal_t signals[3];
	uv_async_t keep; /* nothing else keeps the loop alive */
	struct net_switch *sw;
	struct net_wire_listener *wires;
	struct rpc_server *rpc;
	int lock_fd;
};

static void end(struct serve *v)
{
	uv_stop(&v->loop);
}

static void on_signal(uv_signal_t *h, int signum)
{
	end(h->data);
}

static void nothing(uv_async_t *a)
{
}

static void on_plugged(void *ctx, const char *name, struct net_backend *b)
{
	struct serve *v = ctx;
	struct net_port *port;
	struct err e = {0};

	/* A second machine of the same name and card: the first one stays. */
	if (net_switch_add(v->sw, name, b, &port, &e)) {
		fprintf(stderr, "lodge: %s\n", err_msg(&e));
		net_close(b);
	} else if (*name == UPLINK) {
		net_port_trunk(port, false);
	}
}

static int call_status(const struct rpc_request *q, json_t **res, struct err *e)
{
	struct serve *v = q->ctx;

	*res = net_switch_describe(v->sw);
	return 0;
}

static int call_capture(const struct rpc_request *q, json_t **res, struct err *e)
{
	const char *path = json_string_value(json_object_get(q->params, "path"));
	struct serve *v = q->ctx;
	int fd;

	if (!path)
		return net_switch_capture(v->sw, -1, e);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, -errno, "capture: %s", path);
	return net_switch_capture(v->sw, fd, e);
}

static int call_stop(const struct rpc_request *q, json_t **res, struct err *e)
{
	end(q->ctx);
	return 0;
}

static const struct rpc_method methods[] = {
	{"status", 0, call_status, "ports, addresses and counters", NULL},
	{"capture", 0, call_capture, "writes every frame into a file; without path: ends that",
		"{\"path\": text}"},
	{"stop", 0, call_stop, "ends the switch", NULL},
	{0},
};
static const struct rpc_method *const tables[] = {methods, NULL};

/* A cable to another switch; there it is a port of our name. */
static int add_uplink(struct serve *v, const char *self, const char *to, struct err *e)
{
	char path[PATH_MAX], name[NET_WIRE_NAME], local[NET_WIRE_NAME];
	struct net_backend *b;
	struct net_port *port;
	int rc = switch_path(to, "sock", path, sizeof(path), e);

	snprintf(name, sizeof(name), "%c%.40s", UPLINK, self);
	snprintf(local, sizeof(local), "%c%.40s", UPLINK, to);
	rc = rc ?: net_wire_open(&b, &(struct net_wire_opts){to, name, path, &v->loop}, e);
	if (rc)
		return rc;
	rc = net_switch_add(v->sw, local, b, &port, e);
	if (rc)
		net_close(b);
	else
		net_port_trunk(port, true);
	return rc;
}

static int add_ports(struct serve *v, const struct switch_opts *o, struct err *e)
{
	struct net_backend *b;
	struct net_port *port;
	int rc = 0;

	if (o->user) {
		rc = net_user_open(&b, &(struct net_user_opts){.id = "user", .loop = &v->loop}, e);
		rc = rc ?: net_switch_add(v->sw, "user", b, &port, e);
		if (!rc)
			net_port_trunk(port, true);
	}
	for (unsigned i = 0; !rc && i < o->ntaps; i++) {
		rc = net_tap_open(
			&b, &(struct net_tap_opts){o->taps[i].name, &v->loop, o->taps[i].name}, e);
		if (!rc && (rc = net_switch_add(v->sw, o->taps[i].name, b, &port, e)))
			net_close(b);
		if (!rc)
			net_port_trunk(port, true);
	}
	for (unsigned i = 0; !rc && i < o->nuplinks; i++)
		rc = add_uplink(v, o->name, o->uplinks[i].name, e);
	return rc;
}

static int open_all(struct serve *v, const struct switch_opts *o, struct err *e)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
	const struct rpc_service service = {tables, NULL, v};
	char path[PATH_MAX];
	int rc = switch_claim(o->name, &v->lock_fd, e);

	rc = rc ?: net_switch_create(&v->sw, &(struct net_switch_opts){0}, e) ?: add_ports(v, o, e);
	rc = rc ?: switch_path(o->name, "sock", path, sizeof(path), e);
	rc = rc ?: net_wire_listen(&v->wires, path, &v->loop, on_plugged, v, e);
	rc = rc ?: switch_path(o->name, "ctl", path, sizeof(path), e);
	rc = rc ?: rpc_server_create(&v->rpc, &v->loop, path, &service, e);
	for (size_t i = 0; !rc && i < ARRAY_SIZE(signals); i++) {
		uv_signal_init(&v->loop, &v->signals[i]);
		v->signals[i].data = v;
		uv_signal_start(&v->signals[i], on_signal, signals[i]);
	}
	return rc;
}

static void close_handle(uv_handle_t *h, void *arg)
{
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

int switch_serve(const struct switch_opts *o, struct err *e)
{
	struct serve v = {.lock_fd = -1};
	char path[PATH_MAX];
	int rc;

	uv_loop_init(&v.loop);
	uv_async_init(&v.loop, &v.keep, nothing);
	rc = open_all(&v, o, e);
	if (!rc) {
		if (o->ready_fd >= 0)
			close(o->ready_fd);
		uv_run(&v.loop, UV_RUN_DEFAULT);
		uv_run(&v.loop, UV_RUN_NOWAIT); /* the answer to `stop` */
	}
	net_wire_listener_close(v.wires);
	net_switch_destroy(v.sw);
	if (v.rpc)
		rpc_server_close(v.rpc);
	uv_run(&v.loop, UV_RUN_NOWAIT);
	uv_walk(&v.loop, close_handle, NULL);
	uv_run(&v.loop, UV_RUN_DEFAULT);
	uv_loop_close(&v.loop);
	if (v.lock_fd >= 0) {
		if (!switch_path(o->name, "lock", path, sizeof(path), NULL))
			unlink(path);
		close(v.lock_fd);
	}
	return rc;
}
