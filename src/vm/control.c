#include "vm/control.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/fdlist.h"
#include "base/hex.h"
#include "base/util.h"
#include "disk/tool.h"
#include "vm/console.h"
#include "vm/migrate/migrate.h"
#include "vm/migrate/receive.h"
#include "vm/nets.h"
#include "vm/rpc.h"
#include "vm/snapshot/snapshot.h"
#include "vm/vm.h"

#define HISTORY 64

struct control {
	struct rpc_server *server;
	struct vm *vm;
	json_t *history; /* the last events, oldest first: a late subscriber sees what happened */
	unsigned long long nevents;
	int (*update)(void *ctx, struct rpc_conn *conn, int sock, struct err *e);
	const char *no_update;
	void *update_ctx;
	struct rpc_conn *asked; /* whose answer another process left to us */
	char name[64];
};

static int need_vm(struct control *c, struct err *e)
{
	return c->vm ? 0 : err_set(e, -EBUSY, "machine %s is still being built", c->name);
}

static bool flag(const json_t *params, const char *key)
{
	return json_is_true(json_object_get(params, key));
}

static void name_us(const struct control *c, json_t *status)
{
	json_object_set_new(status, "name", json_string(c->name));
	json_object_set_new(status, "pid", json_integer(getpid()));
}

static int m_status(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	*res = vm_status(c->vm);
	name_us(c, *res);
	return 0;
}

static int m_pause(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e) ?: vm_pause(c->vm, e);
}

static int m_resume(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e) ?: vm_resume(c->vm, e);
}

static int m_stop(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e) ?: vm_power_button(c->vm, e);
}

static int m_balloon(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	const json_t *target = json_object_get(p, "target");
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	if (!json_is_integer(target) || json_integer_value(target) < 0)
		return err_set(e, -EINVAL, "balloon: \"target\" must be a number of bytes");
	return vm_balloon(c->vm, (uint64_t)json_integer_value(target), e);
}

static int m_reset(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e) ?: vm_reset(c->vm, e);
}

static int m_kill(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	vm_kill(c->vm);
	return 0;
}

static int m_stats(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	*res = vm_stats(c->vm);
	return 0;
}

static int m_exits(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e)
		       ?: vm_trace_exits(c->vm, conn,
				  json_string_value(json_object_get(p, "types")) ?: "",
				  flag(p, "stop"), res, e);
}

static int m_inspect(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;
	int rc = need_vm(c, e) ?: vm_inspect(c->vm, res, e);

	if (!rc)
		name_us(c, json_object_get(*res, "status"));
	return rc;
}

static int m_acpi(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e) ?: vm_acpi(c->vm, res, e);
}

static int m_console(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	return console_attach(vm_console(c->vm), conn, flag(p, "history"), e);
}

static int m_events(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (flag(p, "follow"))
		rpc_conn_subscribe(conn);
	*res = json_pack("{s:O}", "events", c->history);
	return 0;
}

/* Who asked for the snapshot has gone, or has hung up: nobody would give it its name. */
static void snapshot_orphan(void *ctx)
{
	struct control *c = ctx;

	if (c->vm)
		vm_snapshot_cancel(c->vm);
}

static int m_snapshot_create(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	static const char *const modes[] = {"auto", "memory-only", "with-disks", "copy"};
	const char *mode = json_string_value(json_object_get(p, "disks")) ?: "auto";
	struct vm_snapshot_opts o = {.name = json_string_value(json_object_get(p, "name")),
		.queue_bytes = (uint64_t)json_integer_value(json_object_get(p, "queue")),
		.pack_percent = (unsigned)json_integer_value(json_object_get(p, "pack_percent"))};
	struct control *c = ctx;
	unsigned i = 0;
	int rc, fd;

	if (need_vm(c, e))
		return -EBUSY;
	while (i < ARRAY_SIZE(modes) && strcmp(mode, modes[i]))
		i++;
	o.disks = (enum vm_snapshot_disks)i;
	o.fd = rpc_conn_take_fd(conn);
	if (!o.name || i == ARRAY_SIZE(modes) || o.fd < 0) {
		if (o.fd >= 0)
			close(o.fd);
		return err_set(e, -EINVAL,
			"snapshot_create wants \"name\", an open file passed with the request, and "
			"\"disks\": auto, memory-only, with-disks, or copy, with a file for each");
	}
	while (o.ncopies < VM_SNAPSHOT_COPIES && o.disks == VM_SNAPSHOT_COPY_DISKS &&
		(fd = rpc_conn_take_fd(conn)) >= 0)
		o.copy_fd[o.ncopies++] = fd;
	rc = vm_snapshot_start(c->vm, &o, e);
	if (rc)
		return rc;
	rpc_conn_watch(conn, snapshot_orphan, c);
	*res = vm_snapshot_status(c->vm);
	return 0;
}

static int m_snapshot_status(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	*res = vm_snapshot_status(c->vm);
	return 0;
}

static int m_snapshot_cancel(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	vm_snapshot_cancel(c->vm);
	return 0;
}

/* Who asked has gone. */
static void migrate_orphan(void *ctx)
{
	struct control *c = ctx;

	if (c->vm)
		vm_migrate_cancel(c->vm);
}

static int m_migrate_start(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;
	int rc = need_vm(c, e) ?: vm_migrate_rpc(c->vm, conn, p, e);

	if (rc)
		return rc;
	rpc_conn_watch(conn, migrate_orphan, c);
	*res = vm_migrate_status(c->vm);
	return 0;
}

static int m_migrate_status(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	*res = vm_migrate_status(c->vm);
	return 0;
}

static int m_migrate_cancel(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	if (need_vm(c, e))
		return -EBUSY;
	return vm_migrate_cancel(c->vm) ? 0 : err_set(e, -ENOENT, "no migration is under way");
}

static int m_migrate_take_back(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e) ?: vm_migrate_take_back(c->vm, true, e) ?: vm_resume(c->vm, e);
}

static int m_receive_recover(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;
	int fd = rpc_conn_take_fd(conn);

	if (fd >= 0 && !need_vm(c, e))
		return receive_recover(c->vm, fd, e);
	if (fd >= 0)
		close(fd);
	return err_set(e, -EINVAL, "receive_recover wants a listening socket with the request");
}

static int m_disk_resize(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;
	const char *id = json_string_value(json_object_get(p, "id"));
	json_t *size = json_object_get(p, "size");

	if (need_vm(c, e))
		return -EBUSY;
	if (!id || !json_is_integer(size) || json_integer_value(size) < 0)
		return err_set(e, -EINVAL,
			"disk_resize wants \"id\", the name of a disk, and \"size\" in bytes (0: "
			"what "
			"its file has now)");
	return vm_disk_resize(c->vm, id, (uint64_t)json_integer_value(size), e);
}

static int want_disk(struct control *c, const json_t *p, struct disk **d, struct err *e)
{
	return need_vm(c, e) ? -EBUSY
			     : vm_disk(c->vm, json_string_value(json_object_get(p, "id")), d, e);
}

static int m_disk_info(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct disk *d;
	int rc = want_disk(ctx, p, &d, e);

	return rc ?: disk_describe(d, res, e);
}

/* Of several disks at one instant. */
static int snapshot_ids(struct control *c, const json_t *ids, const char *name, struct err *e)
{
	struct disk *d[DISK_TOGETHER];
	unsigned n = (unsigned)json_array_size(ids);
	int rc = need_vm(c, e) ? -EBUSY : 0;

	if (!rc && (!n || n > DISK_TOGETHER))
		return err_set(
			e, -EINVAL, "disk_snapshot: \"ids\" names 1 to %u disks", DISK_TOGETHER);
	for (unsigned i = 0; i < n && !rc; i++)
		rc = vm_disk(c->vm, json_string_value(json_array_get(ids, i)), &d[i], e);
	for (unsigned i = 0; i < n && !rc; i++)
		for (unsigned k = 0; k < i && !rc; k++)
			if (d[k] == d[i])
				rc = err_set(e, -EINVAL, "disk_snapshot: a disk is named twice");
	return rc ?: disk_snapshot_all(d, n, name, e);
}

static int m_disk_snapshot(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	const char *name = json_string_value(json_object_get(p, "name"));
	bool gone = json_is_true(json_object_get(p, "delete"));
	const json_t *ids = json_object_get(p, "ids");
	struct disk *d;
	int rc;

	if (ids && !gone)
		return snapshot_ids(ctx, ids, name, e);
	rc = want_disk(ctx, p, &d, e);
	return rc ?: disk_snapshot(d, gone ? DISK_SNAP_DELETE : DISK_SNAP_CREATE, name, e);
}

static int m_disk_bitmap(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	static const char *const ops[] = {"add", "remove", "enable", "disable", "clear"};
	const char *name = json_string_value(json_object_get(p, "name"));
	const char *op = json_string_value(json_object_get(p, "op"));
	uint64_t grain = (uint64_t)json_integer_value(json_object_get(p, "granularity"));
	struct disk *d;
	int rc = want_disk(ctx, p, &d, e);

	for (unsigned i = 0; i < ARRAY_SIZE(ops) && !rc && name && op; i++)
		if (!strcmp(op, ops[i]))
			return disk_bitmap(d, (enum disk_bitmap_op)i, name, grain ?: 64 * KiB, e);
	return rc
		       ?: err_set(e, -EINVAL,
				  "disk_bitmap wants \"id\", \"name\", and \"op\": add, remove, "
				  "enable, "
				  "disable or clear");
}

/* Begins a new generation (`next`), then tells what has changed since one. */
static int m_disk_changes(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	json_int_t since = json_integer_value(json_object_get(p, "since"));
	struct disk_generation g;
	struct disk *d;
	int rc = want_disk(ctx, p, &d, e);

	if (!rc)
		rc = disk_generation(d, json_is_true(json_object_get(p, "next")), &g, e);
	return rc
		       ?: disk_changes_json(d, since > 0 ? (uint64_t)since : g.now,
				  (uint64_t)json_integer_value(json_object_get(p, "offset")), res,
				  e);
}

static int m_announce(
	void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;

	return need_vm(c, e) ?: vm_announce(c->vm, NULL, e);
}

static int m_update(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	struct control *c = ctx;
	int sock = rpc_conn_take_fd(conn), rc;

	rc = need_vm(c, e);
	if (!rc && sock < 0)
		rc = err_set(e, -EINVAL,
			"update wants the channel of the new process, passed with the request: "
			"lodge update %s",
			c->name);
	if (!rc && !c->update)
		rc = err_set(e, -EOPNOTSUPP, "update: %s", c->no_update ?: "not here");
	if (rc) {
		if (sock >= 0)
			close(sock);
		return rc;
	}
	return c->update(c->update_ctx, conn, sock, e) ?: RPC_LATER;
}

static int m_methods(void *ctx, struct rpc_conn *conn, const json_t *p, json_t **res, struct err *e)
{
	*res = control_methods();
	return 0;
}

static const struct rpc_method methods[] = {
	{"status", "state, uptime, shape of the machine", NULL, m_status},
	{"pause", "stops the vCPUs and the guest's clock", NULL, m_pause},
	{"resume", "lets them run on", NULL, m_resume},
	{"stop", "presses the power button: the guest shuts itself down", NULL, m_stop},
	{"reset", "resets the machine and boots it again", NULL, m_reset},
	{"balloon", "asks the guest to keep only so much memory", "{\"target\": bytes}", m_balloon},
	{"kill", "ends the machine at once; what the guest has not flushed is lost", NULL, m_kill},
	{"stats", "counters of vCPUs, devices, exits and the process", NULL, m_stats},
	{"exits",
		"why vCPUs left and what they were given, one by one, since this was last asked; "
		"ask "
		"every second or so",
		"{\"types\": text, \"stop\": bool}", m_exits},
	{"inspect",
		"topology, and every register and device field by name, of one moment in which the "
		"machine stands still",
		NULL, m_inspect},
	{"acpi", "the machine's ACPI tables by signature, in hexadecimal digits", NULL, m_acpi},
	{"console", "turns this connection into the console", "{\"history\": bool}", m_console},
	{"events", "what happened, and with follow what happens", "{\"follow\": bool}", m_events},
	{"snapshot_create",
		"starts a snapshot into a file that is passed with the request, and answers when "
		"the "
		"moment is over; it ends with the event \"snapshot\"; closing the connection "
		"before that cancels it",
		"{\"name\": text, \"disks\": text, \"queue\": bytes, \"pack_percent\": int}",
		m_snapshot_create},
	{"snapshot_status", "how far the present snapshot is, or how the last one went", NULL,
		m_snapshot_status},
	{"snapshot_cancel", "ends the present snapshot", NULL, m_snapshot_cancel},
	{"migrate_start",
		"begins to move the machine over the connected sockets that are passed with the "
		"request; it ends with the event \"migration\"; closing the connection before that "
		"cancels it",
		"{\"bandwidth\": bytes a second, \"downtime_us\": number, \"dry_run\": bool, "
		"\"throttle\": bool, \"post_copy\": \"after-round\" or \"at-once\", "
		"\"recover\": bool, \"copy_disks\": bool, \"shared\": [id of a disk that both "
		"hosts have], \"tls\": {\"cert\", \"key\", \"ca\", \"peer\"}}",
		m_migrate_start},
	{"migrate_status", "how far the present migration is, or how the last one went", NULL,
		m_migrate_status},
	{"migrate_cancel", "ends the present migration; the machine stays here", NULL,
		m_migrate_cancel},
	{"migrate_take_back",
		"runs a machine on that a broken migration has left here, which does not run at "
		"its "
		"destination",
		NULL, m_migrate_take_back},
	{"receive_recover",
		"takes a listening socket, passed with the request, to which the source of a "
		"post-copy migration makes a new connection",
		NULL, m_receive_recover},
	{"disk_resize", "grows a disk while the guest runs, and tells it",
		"{\"id\": text, \"size\": bytes}", m_disk_resize},
	{"disk_info", "what a disk is, with its snapshots and bitmaps", "{\"id\": text}",
		m_disk_info},
	{"disk_snapshot", "makes (or deletes) a snapshot of a disk while the guest runs",
		"{\"id\": text, \"name\": text, \"delete\": bool}, or \"ids\": of several disks at "
		"one instant",
		m_disk_snapshot},
	{"disk_bitmap", "records of changed blocks, while the guest runs",
		"{\"id\": text, \"name\": text, \"op\": text, \"granularity\": bytes}",
		m_disk_bitmap},
	{"disk_changes", "what has changed in a disk since a generation, while the guest runs",
		"{\"id\": text, \"since\": number, \"next\": bool: begins a new one first, "
		"\"offset\": bytes: where the answer before said \"more\"}",
		m_disk_changes},
	{"announce",
		"tells switches and neighbours where the guest's addresses are, until they have "
		"answered; events \"announce\" say how that went",
		NULL, m_announce},
	{"update",
		"another lodge-vm, whose channel is passed with the request, goes on with the "
		"machine: lodge update",
		NULL, m_update},
	{"methods", "this list", NULL, m_methods},
	{0},
};

json_t *control_methods(void)
{
	json_t *j = json_object();

	for (const struct rpc_method *m = methods; m->name; m++)
		json_object_set_new(j, m->name,
			json_pack("{s:s, s:s}", "help", m->help, "params", m->params ?: "{}"));
	return j;
}

int control_create(struct control **out, uv_loop_t *loop, const char *path, int listening,
	const char *name, struct err *e)
{
	struct control *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "control socket: out of memory");
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->history = json_array();
	rc = listening < 0 ? rpc_server_create(&c->server, loop, path, methods, c, e)
			   : rpc_server_adopt(&c->server, loop, listening, path, methods, c, e);
	if (rc) {
		json_decref(c->history);
		free(c);
		return rc;
	}
	*out = c;
	return 0;
}

void control_set_vm(struct control *c, struct vm *vm)
{
	c->vm = vm;
}

void control_event(struct control *c, const char *event, json_t *params)
{
	json_t *one = json_pack(
		"{s:s, s:I, s:O}", "event", event, "n", (json_int_t)++c->nevents, "params", params);

	json_array_append_new(c->history, one);
	if (json_array_size(c->history) > HISTORY)
		json_array_remove(c->history, 0);
	rpc_notify(c->server, event, json_incref(params));
}

void control_close(struct control *c)
{
	if (!c)
		return;
	rpc_server_close(c->server);
	json_decref(c->history);
	free(c);
}

/* ---- from one process to another ---- */

void control_on_update(struct control *c,
	int (*update)(void *ctx, struct rpc_conn *conn, int sock, struct err *e),
	const char *why_not, void *ctx)
{
	c->update = update;
	c->no_update = why_not;
	c->update_ctx = ctx;
}

int control_fd(const struct control *c)
{
	return rpc_server_fd(c->server);
}

void control_forget(struct control *c)
{
	rpc_server_forget(c->server);
}

struct hand_over {
	struct control *c;
	struct fdlist *fds;
	json_t *conns;
};

static void conn_hand_over(void *ctx, struct rpc_conn *conn, const struct rpc_conn_state *st)
{
	struct hand_over *h = ctx;
	cleanup(free_ptr) char *line = malloc(2 * st->line_len + 1);
	unsigned long long pos;
	json_t *j;

	if (!line)
		return;
	hex_put(line, st->line, st->line_len);
	j = json_pack("{s:i, s:b, s:s, s:O?}", "fd", fdlist_add(h->fds, st->fd), "subscribed",
		st->subscribed, "line", line, "later", st->later);
	if (console_reader(vm_console(h->c->vm), conn, &pos))
		json_object_set_new(j, "console", json_integer((json_int_t)pos));
	json_array_append_new(h->conns, j);
}

json_t *control_hand_over(struct control *c, struct fdlist *fds)
{
	struct hand_over h = {c, fds, json_array()};

	rpc_server_each(c->server, conn_hand_over, &h);
	return json_pack("{s:i, s:o, s:O, s:I}", "listening",
		fdlist_add(fds, rpc_server_fd(c->server)), "conns", h.conns, "history", c->history,
		"events", (json_int_t)c->nevents);
}

static int conn_take_over(struct control *c, const json_t *j, struct fdlist *fds, struct err *e)
{
	const char *line = json_string_value(json_object_get(j, "line")) ?: "";
	const json_t *console = json_object_get(j, "console"), *place = json_object_get(j, "fd");
	size_t len = strlen(line) / 2;
	cleanup(free_ptr) char *raw = malloc(len + 1);
	struct rpc_conn_state st = {
		.fd = json_is_integer(place) ? fdlist_take_stream(fds, json_integer_value(place))
					     : -1,
		.subscribed = json_is_true(json_object_get(j, "subscribed")),
		.line = raw,
		.line_len = len,
		.later = json_object_get(j, "later")};
	struct rpc_conn *conn;

	if (st.fd < 0 || !raw || hex_get(raw, len, line)) {
		if (st.fd >= 0)
			close(st.fd);
		return err_set(
			e, -EINVAL, "control socket: a connection that cannot be taken over");
	}
	if (json_is_null(st.later))
		st.later = NULL;
	if (rpc_conn_adopt(c->server, &st, &conn))
		return 0; /* its peer has gone meanwhile */
	if (st.later)
		c->asked = conn;
	return json_is_integer(console)
		       ? console_attach_at(vm_console(c->vm), conn,
				 (unsigned long long)json_integer_value(console), e)
		       : 0;
}

int control_take_over(struct control *c, const json_t *j, struct fdlist *fds, struct err *e)
{
	const json_t *conns = json_object_get(j, "conns"), *one;
	json_t *history = json_object_get(j, "history");
	size_t i;
	int rc = 0;

	if (!json_is_array(conns) || !json_is_array(history))
		return err_set(e, -EINVAL, "control socket: not what one hands over");
	json_array_extend(c->history, history);
	c->nevents = (unsigned long long)json_integer_value(json_object_get(j, "events"));
	json_array_foreach(conns, i, one) rc = rc ?: conn_take_over(c, one, fds, e);
	return rc;
}

void control_answer(struct control *c, json_t *result)
{
	struct rpc_conn *conn = c->asked;

	c->asked = NULL;
	if (conn)
		rpc_conn_answer(conn, 0, result, NULL);
	else
		json_decref(result);
}
