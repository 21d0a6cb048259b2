/*
 * give.c: the old process of a live update.
 *
 *   start: refuse what cannot move --> wait for "hello" --> "offer" --> wait for "ready" --> the moment:
 *   flush disks; vCPUs out; quiesce; state; disks sleep; "moment" --> wait for "done", or for the end of the other one --> the shared word decides
 *
 * Until the moment everything happens in turns of the event loop while the guest runs. The moment itself blocks the loop.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/state.h"
#include "base/util.h"
#include "device/vsock/virtio_vsock.h"
#include "memory/frames.h"
#include "net/net.h"
#include "vm/console.h"
#include "vm/control/control.h"
#include "vm/internal.h"
#include "vm/migrate/migrate.h"
#include "vm/migrate/disks.h"
#include "vm/migrate/shape.h"
#include "vm/needs.h"
#include "vm/nets.h"
#include "vm/rpc.h"
#include "vm/update/carry.h"
#include "vm/update/channel.h"
#include "vm/update/settle.h"
#include "vm/update/update.h"

#define RETRY_MS 100

#define PATIENCE_MS 1000 /* how often the other one is told to wait on */

enum step { WAIT_HELLO, WAIT_READY, SETTLING, WAKING };

struct update_giver {
	struct update_parts p;
	int sock;
	struct rpc_conn *conn; /* who asked; NULL: has gone */
	enum step step;
	uv_poll_t poll;
	uv_timer_t timer;
	uv_idle_t idle;
	struct settle
		*settle; /* memory that is being written to the file that goes over; or NULL */
	uint64_t told; /* to wait, when */
	struct update_page *page;
	struct blob blob;
	int nat[VM_MAX_NETS];
	json_t *carried;
	unsigned handles;
	bool over;
};

/* ---- the end ---- */

static void closed(uv_handle_t *h)
{
	struct update_giver *g = h->data;

	if (!--g->handles)
		free(g);
}

static void free_giver(struct update_giver *g)
{
	if (g->conn)
		rpc_conn_watch(g->conn, NULL, NULL);
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		if (g->nat[i] > 0)
			close(g->nat[i]);
	if (g->blob.fd >= 0)
		close(g->blob.fd);
	if (g->sock >= 0) {
		uv_poll_stop(&g->poll);
		close(g->sock);
	}
	settle_end(g->settle, true);
	update_page_unmap(g->page);
	json_decref(g->carried);
	uv_close((uv_handle_t *)&g->poll, closed);
	uv_close((uv_handle_t *)&g->timer, closed);
	uv_close((uv_handle_t *)&g->idle, closed);
}

static void hang_up(struct update_giver *g)
{
	if (g->sock < 0)
		return;
	uv_poll_stop(&g->poll);
	close(g->sock);
	g->sock = -1;
}

static void answer(struct update_giver *g, int rc, struct err *e)
{
	if (!g->conn)
		return;
	rpc_conn_watch(g->conn, NULL, NULL);
	rpc_conn_answer(g->conn, rc, NULL, e);
	g->conn = NULL;
}

/* Nothing has been taken from the guest, or it has been given back. */
static void give_up(struct update_giver *g, int rc, struct err *e)
{
	struct update_parts p = g->p;

	log_warn(p.vm->o.log, "update", "%s", err_msg(e));
	hang_up(g);
	answer(g, rc, e);
	free_giver(g);
	vm_emit(p.vm, "update", json_pack("{s:s, s:s}", "state", "failed", "error", err_msg(e)));
	p.kept(p.ctx);
}

/* ---- before ---- */

static int refuse(struct vm *vm, struct err *e)
{
	if (vm_need(vm,
		    VM_NEED_LIVE | VM_NEED_UNMOVED | VM_NEED_OURS | VM_NEED_WHOLE |
			    VM_NEED_UNSNAPPED | VM_NEED_STEADY,
		    e))
		return err_wrap(e, "update");
	return mig_disks_can(vm->board, e) ? err_wrap(e, "update") : 0;
}

static struct device *vsock_device(struct vm *vm)
{
	for (unsigned i = 0; i < vm->board->ndevices; i++)
		if (virtio_vsock_listening(vm->board->devices[i]) >= 0)
			return vm->board->devices[i];
	return NULL;
}

static json_t *nets_json(struct vm *vm, struct fdlist *fds)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < vm->nets->n; i++) {
		struct net_backend *b = vm->nets->opts[i].net;

		json_array_append_new(
			all, json_pack("{s:s, s:i, s:i}", "kind", b->ops->name, "fd",
				     fdlist_add(fds, net_fd(b)), "accepts", (int)b->can_accept));
	}
	return all;
}

static int send_offer(struct update_giver *g, struct err *e)
{
	struct vm *vm = g->p.vm;
	struct device *vsock = vsock_device(vm);
	struct fdlist fds = {0};
	json_t *j = json_pack("{s:s, s:i, s:s, s:s, s:o, s:o, s:o, s:i, s:i, s:i, s:i, s:i, s:o}",
		"t", "offer", "protocol", UPDATE_PROTOCOL, "version", LODGE_VERSION, "name",
		g->p.name, "definition", vm_config_to_json(g->p.cfg), "shape", mig_shape(vm),
		"layout", carry_layout(vm), "ram", fdlist_add(&fds, frames_fd(vm->board->frames)),
		"lock", fdlist_add(&fds, g->p.lock_fd), "console_log",
		fdlist_add(&fds, console_log_fd(vm->console)), "control",
		fdlist_add(&fds, control_fd(g->p.control)), "vsock",
		vsock ? fdlist_add(&fds, virtio_vsock_listening(vsock)) : -1, "nets",
		nets_json(vm, &fds));
	int rc = j ? channel_send(g->sock, j, &fds, e)
		   : err_set(e, -ENOMEM, "update: out of memory");

	fdlist_free(&fds);
	return rc;
}

static int take_hello(struct update_giver *g, const json_t *msg, struct fdlist *fds, struct err *e)
{
	const char *version = json_string_value(json_object_get(msg, "version")) ?: "?";
	json_int_t newest = json_integer_value(json_object_get(msg, "protocol"));
	json_int_t oldest = json_integer_value(json_object_get(msg, "oldest"));
	int page = fdlist_take(fds, 0);

	g->blob.fd = fdlist_take(fds, 1);
	g->page = page < 0 ? NULL : update_page_map(page);
	if (page >= 0)
		close(page);
	if (UPDATE_PROTOCOL < oldest)
		return err_set(e, -ENOTSUP,
			"update: the new lodge-vm (%s) takes over from builds that speak %lld or "
			"later, "
			"and this one (" LODGE_VERSION
			") speaks %d: update to a build in between first",
			version, (long long)oldest, UPDATE_PROTOCOL);
	if (UPDATE_PROTOCOL > newest)
		return err_set(e, -ENOTSUP,
			"update: the new lodge-vm (%s) speaks %lld at most, and this one "
			"(" LODGE_VERSION ") %d: it is older; nothing goes back",
			version, (long long)newest, UPDATE_PROTOCOL);
	if (!g->page || g->blob.fd < 0)
		return err_set(e, -EPROTO,
			"update: the new lodge-vm (%s) brought no memory to write to", version);
	state_prepare();
	return send_offer(g, e);
}

/* ---- the moment ---- */

/* State, and what goes with it, into the memory file; the message. The machine is quiet. */
static json_t *write_moment(
	struct update_giver *g, uint64_t began, struct fdlist *fds, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	cleanup(free_ptr) uint8_t *state = NULL;
	struct vm *vm = g->p.vm;
	uint64_t quiet_at = clock_mono_ns(), state_at;
	json_t *j = NULL;
	size_t len;
	unsigned n;
	int rc = board_state(vm->board, &objs, &n);

	state_at = clock_mono_ns();
	rc = rc ? err_set(e, rc, "update: machine state") : state_save(objs, n, &state, &len, e);
	if (rc)
		return NULL;
	g->carried = carry_out(vm, g->p.control, &g->blob, fds);
	if (g->carried) {
		char *text = json_dumps(g->carried, JSON_COMPACT);

		j = json_pack("{s:s, s:I, s:I, s:I, s:o, s:o}", "t", "moment", "began",
			(json_int_t)began, "quiet_at", (json_int_t)quiet_at, "state_at",
			(json_int_t)state_at, "state", blob_put(&g->blob, state, len), "carried",
			text ? blob_put(&g->blob, text, strlen(text)) : NULL);
		free(text);
	}
	if (!j)
		err_set(e, -ENOMEM, "update: out of memory");
	return j;
}

/* vCPUs stand still and devices are quiet. What fails is undone by un_still(). */
static int hand_over(struct update_giver *g, uint64_t began, struct err *e)
{
	cleanup(json_drop) json_t *msg = NULL;
	struct fdlist fds = {0};
	int rc = g->settle ? settle_rest(g->settle, e) : 0;
	json_t *j = rc ? NULL : write_moment(g, began, &fds, e);
	uint64_t saved_at = clock_mono_ns();

	rc = j ? mig_disks_sleep(g->p.vm->board, NULL, e) : e->code;
	if (!rc) {
		json_object_set_new(j, "saved_at", json_integer((json_int_t)saved_at));
		json_object_set_new(j, "sent_at", json_integer((json_int_t)clock_mono_ns()));
	}
	if (!rc)
		rc = channel_send(g->sock, json_incref(j), &fds, e);
	json_decref(j);
	fdlist_free(&fds);
	if (!rc)
		rc = channel_receive(g->sock, UPDATE_WINDOW_MS, &msg, NULL, e);
	/* Whatever it said, or not: this decides. */
	if (update_page_decide(g->page, UPDATE_KEPT) == UPDATE_GIVEN)
		return 0;
	if (!rc)
		rc = err_set(e, -(int)json_integer_value(json_object_get(msg, "errno")) ?: -EIO,
			"%s", json_string_value(json_object_get(msg, "error")) ?: "update: failed");
	return rc;
}

static void run_on(struct update_giver *g)
{
	struct vm *vm = g->p.vm;

	board_resume(vm->board);
	vm_go_on(vm);
	for (unsigned i = 0; i < vm->nets->n; i++)
		net_accept(vm->nets->opts[i].net, vm->nets->opts[i].net->accepted);
	if (g->carried)
		carry_undo(vm, g->carried);
}

/* The new process has a disk's lock until its keeper has ended it. */
static void on_retry(uv_timer_t *t)
{
	struct update_giver *g = t->data;
	struct err e = {0};

	if (mig_disks_wake(g->p.vm->board, &e)) {
		log_warn(g->p.vm->o.log, "update", "%s", err_msg(&e));
		return;
	}
	run_on(g);
	e = (struct err){0};
	err_set(&e, -EIO, "update: failed; the disks were not free at once");
	give_up(g, -EIO, &e);
}

static void back(struct update_giver *g, int rc, struct err *e)
{
	struct err wake = {0};

	hang_up(g);
	/* Before the disks: who asked has the other process ended. */
	answer(g, rc, e);
	if (!mig_disks_wake(g->p.vm->board, &wake)) {
		run_on(g);
		give_up(g, rc, e);
		return;
	}
	log_warn(g->p.vm->o.log, "update", "%s; %s", err_msg(e), err_msg(&wake));
	g->step = WAKING;
	uv_timer_start(&g->timer, on_retry, RETRY_MS, RETRY_MS);
}

static void given(struct update_giver *g)
{
	struct update_parts p = g->p;
	int nat[VM_MAX_NETS];

	memcpy(nat, g->nat, sizeof(nat));
	memset(g->nat, 0, sizeof(g->nat));
	settle_end(steal_ptr(g->settle), false);
	free_giver(g);
	p.given(p.ctx, nat);
}

static void moment(struct update_giver *g)
{
	struct vm *vm = g->p.vm;
	struct err e = {0};
	uint64_t began;
	int rc = refuse(vm, &e) ?: mig_disks_flush(vm->board, &e);

	if (rc) {
		give_up(g, rc, &e);
		return;
	}
	began = clock_mono_ns();
	vm_stand_still(vm);
	rc = board_quiesce(vm->board, &e);
	if (rc) {
		vm_go_on(vm);
		err_wrap(&e, "update");
		give_up(g, rc, &e);
		return;
	}
	rc = hand_over(g, began, &e);
	if (rc)
		back(g, rc, &e);
	else
		given(g);
}

/* ---- turns of the loop ---- */

/* A step a turn: everybody else has his in between. */
static void on_idle(uv_idle_t *h)
{
	struct update_giver *g = h->data;
	uint64_t now = clock_mono_ns();
	struct err e = {0};
	bool enough;
	int rc = settle_step(g->settle, &enough, &e);

	if (!rc && now - g->told > PATIENCE_MS * 1000000ull) {
		g->told = now;
		rc = channel_send(g->sock, json_pack("{s:s}", "t", "wait"), NULL, &e);
	}
	if (!rc && !enough)
		return;
	uv_idle_stop(h);
	if (rc)
		give_up(g, rc, &e);
	else
		moment(g);
}

static void go(struct update_giver *g)
{
	struct err e = {0};
	int rc = settle_begin(&g->settle, g->p.vm, &e);

	uv_timer_stop(&g->timer);
	if (rc) {
		give_up(g, rc, &e);
	} else if (g->settle) {
		g->step = SETTLING;
		g->told = clock_mono_ns();
		uv_idle_start(&g->idle, on_idle);
	} else {
		moment(g);
	}
}

static int take_ready(struct update_giver *g, const json_t *msg, struct fdlist *fds)
{
	const json_t *nat = json_object_get(msg, "nat");

	for (unsigned i = 0; i < VM_MAX_NETS; i++) {
		const json_t *place = json_array_get(nat, i);
		int fd = json_is_integer(place) ? fdlist_take(fds, json_integer_value(place)) : -1;

		g->nat[i] = MAX(fd, 0);
	}
	return 0;
}

static void on_message(struct update_giver *g)
{
	cleanup(json_drop) json_t *msg = NULL;
	struct fdlist fds = {0};
	struct err e = {0};
	int rc = channel_receive(g->sock, 1000, &msg, &fds, &e);
	const char *t = json_string_value(json_object_get(msg, "t")) ?: "";
	bool ready = false;

	if (!rc && !strcmp(t, "failed"))
		rc = err_set(&e, -(int)json_integer_value(json_object_get(msg, "errno")) ?: -EIO,
			"%s", json_string_value(json_object_get(msg, "error")) ?: "update: failed");
	else if (!rc && g->step == WAIT_HELLO && !strcmp(t, "hello"))
		rc = take_hello(g, msg, &fds, &e);
	else if (!rc && g->step == WAIT_READY && !strcmp(t, "ready"))
		ready = !take_ready(g, msg, &fds);
	else if (!rc)
		rc = err_set(&e, -EPROTO, "update: the new lodge-vm said \"%.20s\" out of turn", t);
	fdlist_close(&fds);
	if (rc == -EPIPE)
		rc = err_set(&e, -EPIPE,
			"update: the new lodge-vm ended %s: lodge logs %s --machine says "
			"why, if it said so",
			g->step == WAIT_HELLO ? "before it said hello"
					      : "while it built the machine",
			g->p.name);
	if (rc) {
		give_up(g, rc, &e);
	} else if (ready) {
		go(g);
	} else {
		g->step = WAIT_READY;
	}
}

static void on_poll(uv_poll_t *h, int status, int events)
{
	on_message(h->data);
}

static void on_late(uv_timer_t *t)
{
	struct update_giver *g = t->data;
	struct err e = {0};

	err_set(&e, -ETIMEDOUT, "update: the new lodge-vm was not ready in %d seconds",
		UPDATE_BUILD_MS / 1000);
	give_up(g, -ETIMEDOUT, &e);
}

static void on_asker_gone(void *ctx)
{
	struct update_giver *g = ctx;
	struct err e = {0};

	g->conn = NULL;
	if (g->step == WAKING)
		return;
	err_set(&e, -ECANCELED, "update: who asked for it has gone");
	give_up(g, -ECANCELED, &e);
}

int update_give(struct update_giver **out, const struct update_parts *p, int sock,
	struct rpc_conn *conn, struct err *e)
{
	struct update_giver *g;
	int rc = refuse(p->vm, e);

	g = rc ? NULL : calloc(1, sizeof(*g));
	if (!g) {
		close(sock);
		return rc ?: err_set(e, -ENOMEM, "update: out of memory");
	}
	g->p = *p;
	g->sock = sock;
	g->conn = conn;
	g->blob.fd = -1;
	g->poll.data = g->timer.data = g->idle.data = g;
	rc = uv_poll_init(p->loop, &g->poll, sock);
	if (rc) {
		close(sock);
		free(g);
		return err_set(e, rc, "update: %s", uv_strerror(rc));
	}
	uv_timer_init(p->loop, &g->timer);
	uv_idle_init(p->loop, &g->idle);
	g->handles = 3;
	uv_poll_start(&g->poll, UV_READABLE, on_poll);
	uv_timer_start(&g->timer, on_late, UPDATE_BUILD_MS, 0);
	rpc_conn_watch(conn, on_asker_gone, g);
	*out = g;
	return 0;
}

void update_give_cancel(struct update_giver *g)
{
	struct err e = {0};

	if (!g)
		return;
	err_set(&e, -ECANCELED, "update: the machine has ended");
	hang_up(g);
	answer(g, -ECANCELED, &e);
	free_giver(g);
}

void update_forget(struct vm *vm, struct control *control)
{
	frames_borrow(vm->board->frames, true);
	for (unsigned i = 0; i < vm->board->ndevices; i++)
		virtio_vsock_forget(vm->board->devices[i]);
	control_forget(control);
}
