/*
 * take.c: the new process of a live update: says hello, builds the machine over the old one's memory, and waits for the moment.
 *
 * Nothing here turns the event loop before the machine is taken: descriptors that both processes have are served by the old one until then.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/state.h"
#include "base/util.h"
#include "memory/frames.h"
#include "vm/control/control.h"
#include "vm/internal.h"
#include "vm/migrate/disks.h"
#include "vm/migrate/shape.h"
#include "vm/update/carry.h"
#include "vm/update/channel.h"
#include "vm/update/update.h"

#define STATE_MAX (256u << 20)
#define HELLO_MS 30000

struct update_taker {
	int sock, blob;
	struct update_page *page;
	json_t *offer;
	struct fdlist fds; /* of the offer */
	struct vm_handed handed;
	/* Moments of the pause, both sides': the clock is the same. */
	struct {
		uint64_t began, quiet, state, saved, sent, came, loaded, carried, runs;
	} at;
	int nat[VM_MAX_NETS]; /* the old process's ends; 0: none */
};

void update_taker_free(struct update_taker *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		if (t->nat[i] > 0)
			close(t->nat[i]);
	if (t->sock >= 0)
		close(t->sock);
	if (t->blob >= 0)
		close(t->blob);
	fdlist_close(&t->fds);
	update_page_unmap(t->page);
	json_decref(t->offer);
	free(t);
}

static int say_hello(struct update_taker *t, int page, struct err *e)
{
	struct fdlist fds = {0};
	int rc;

	fdlist_add(&fds, page);
	fdlist_add(&fds, t->blob);
	rc = channel_send(t->sock,
		json_pack("{s:s, s:i, s:i, s:s}", "t", "hello", "protocol", UPDATE_PROTOCOL,
			"oldest", UPDATE_PROTOCOL_OLDEST, "version", LODGE_VERSION),
		&fds, e);
	fdlist_free(&fds);
	return rc;
}

static int offered(struct update_taker *t, const char *key)
{
	const json_t *place = json_object_get(t->offer, key);

	return json_is_integer(place) ? fdlist_take(&t->fds, json_integer_value(place)) : -1;
}

int update_fd(struct update_taker *t, const char *what)
{
	return offered(t, what);
}

const json_t *update_definition(const struct update_taker *t)
{
	return json_object_get(t->offer, "definition");
}

const struct vm_handed *update_handed(const struct update_taker *t)
{
	return &t->handed;
}

/* Networks: what the old process has of each; for user networking a cable, whose other end it gets. */
static int take_nets(struct update_taker *t, struct err *e)
{
	const json_t *nets = json_object_get(t->offer, "nets"), *one;
	size_t i;

	json_array_foreach(nets, i, one)
	{
		const char *kind = json_string_value(json_object_get(one, "kind")) ?: "";
		const json_t *place = json_object_get(one, "fd");
		int pair[2];

		if (i >= VM_MAX_NETS)
			return err_set(e, -EINVAL, "update: more networks than a machine can have");
		t->handed.net_accepts[i] = (unsigned)json_integer_value(
			json_object_get(one, "accepts"));
		if (strcmp(kind, "user")) {
			if (json_is_integer(place))
				t->handed.net[i] = MAX(
					fdlist_take(&t->fds, json_integer_value(place)), 0);
			continue;
		}
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
			return err_sys(e, -errno, "update: network %zu", i);
		t->handed.net[i] = pair[0];
		t->nat[i] = pair[1];
	}
	return 0;
}

/* What no machine will be made of. */
static void drop_handed(struct update_taker *t)
{
	close(t->handed.ram);
	if (t->handed.vsock > 0)
		close(t->handed.vsock);
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		if (t->handed.net[i] > 0)
			close(t->handed.net[i]);
}

static int take_offer(struct update_taker *t, struct err *e)
{
	int rc = channel_receive(t->sock, HELLO_MS, &t->offer, &t->fds, e);
	const char *what = json_string_value(json_object_get(t->offer, "t")) ?: "";

	if (rc)
		return rc;
	if (strcmp(what, "offer") || !json_is_object(update_definition(t)))
		return err_set(e, -EPROTO, "update: the running lodge-vm offered nothing");
	t->handed.ram = offered(t, "ram");
	if (t->handed.ram < 0)
		return err_set(e, -EPROTO, "update: the running lodge-vm gave no memory");
	t->handed.vsock = MAX(offered(t, "vsock"), 0);
	rc = take_nets(t, e);
	if (rc)
		drop_handed(t);
	return rc;
}

int update_take(struct update_taker **out, int sock, struct err *e)
{
	struct update_taker *t = calloc(1, sizeof(*t));
	cleanup(json_drop) json_t *first = NULL;
	struct fdlist fds = {0};
	int page, rc;

	if (!t)
		return err_set(e, -ENOMEM, "update: out of memory");
	*out = t;
	t->sock = sock;
	update_stage("started");
	t->blob = memfd_create("update", MFD_CLOEXEC);
	if (t->blob < 0)
		return err_sys(e, -errno, "update");
	/* The keeper's word comes first. */
	rc = channel_receive(sock, HELLO_MS, &first, &fds, e);
	page = rc ? -1 : fdlist_take(&fds, 0);
	fdlist_close(&fds);
	if (rc)
		return rc;
	t->page = page < 0 ? NULL : update_page_map(page);
	rc = t->page ? say_hello(t, page, e)
		     : err_set(e, -EPROTO, "update: there is no page to decide by");
	if (page >= 0)
		close(page);
	update_stage("hello");
	return rc ?: take_offer(t, e);
}

/* ---- the moment ---- */

static int fits(struct update_taker *t, struct vm *vm, struct err *e)
{
	cleanup(json_drop) json_t *layout = carry_layout(vm);

	if (!json_equal(layout, json_object_get(t->offer, "layout")))
		return err_set(e, -EINVAL, "update: the new build lays memory out in another way");
	return mig_shape_fits(vm, json_object_get(t->offer, "shape"), e) ? err_wrap(e, "update")
									 : 0;
}

/* What the old process has of RAM is mapped here before it is wanted: a million page faults take long. */
static void touch_ram(struct vm *vm)
{
	struct frames *f = vm->board->frames;
	uint64_t count = frames_count(f);

	for (uint64_t at = frames_untouched(f, mfn(0), count); at < count;) {
		uint64_t n = frames_touched(f, mfn(at), count - at);

		if (!n)
			break;
		madvise(frames_ptr(f, mfn(at)), n * PAGE_SIZE, MADV_POPULATE_READ);
		at += n;
		at += at < count ? frames_untouched(f, mfn(at), count - at) : 0;
	}
}

static int say_ready(struct update_taker *t, struct err *e)
{
	struct fdlist fds = {0};
	json_t *nat = json_array();
	int rc;

	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		json_array_append_new(nat,
			t->nat[i] > 0 ? json_integer(fdlist_add(&fds, t->nat[i])) : json_null());
	rc = channel_send(t->sock, json_pack("{s:s, s:o}", "t", "ready", "nat", nat), &fds, e);
	fdlist_free(&fds);
	return rc;
}

static int load_state(struct update_taker *t, struct vm *vm, const json_t *range, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	cleanup(free_ptr) void *state = NULL;
	size_t len;
	unsigned n;
	int rc = blob_get(t->blob, range, STATE_MAX, &state, &len, e);

	if (!rc)
		rc = board_state(vm->board, &objs, &n);
	if (!rc)
		rc = state_load(objs, n, state, len, e);
	return rc ? err_wrap(e, "update: the new build cannot go on from this state") : 0;
}

static int take_moment(struct update_taker *t, struct vm *vm, struct control *control,
	const json_t *msg, struct fdlist *fds, bool *running, struct err *e)
{
	cleanup(json_drop) json_t *carried = NULL;
	cleanup(free_ptr) void *text = NULL;
	size_t len;
	int rc = load_state(t, vm, json_object_get(msg, "state"), e);

	t->at.loaded = clock_mono_ns();
	update_stage("loaded");
	if (!rc)
		rc = blob_get(t->blob, json_object_get(msg, "carried"), STATE_MAX, &text, &len, e);
	if (!rc)
		rc = json_parse(text, len, &carried, e);
	if (!rc)
		rc = carry_in(vm, control, carried, t->blob, fds, e);
	t->at.carried = clock_mono_ns();
	update_stage("carried");
	if (!rc)
		rc = mig_disks_wake(vm->board, e) ? err_wrap(e, "update") : 0;
	update_stage("woken");
	*running = json_is_true(json_object_get(carried, "running"));
	return rc;
}

/* Exactly one process gets here with GIVEN. From then on the guest is ours. */
static int decide(struct update_taker *t, struct err *e)
{
	return update_page_decide(t->page, UPDATE_GIVEN) == UPDATE_GIVEN
		       ? 0
		       : err_set(e, -ECANCELED, "update: the running lodge-vm kept the machine");
}

static uint64_t time_of(const json_t *msg, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(msg, key));
}

static void take_times(struct update_taker *t, const json_t *msg)
{
	t->at.came = clock_mono_ns();
	t->at.began = time_of(msg, "began");
	t->at.quiet = time_of(msg, "quiet_at");
	t->at.state = time_of(msg, "state_at");
	t->at.saved = time_of(msg, "saved_at");
	t->at.sent = time_of(msg, "sent_at");
}

static json_int_t us(uint64_t from, uint64_t to)
{
	return (json_int_t)((to - from) / 1000);
}

/* The moment; the old process may be busy before it (settle.h), and says so. */
static int await(struct update_taker *t, json_t **msg, struct fdlist *fds, struct err *e)
{
	const char *what;
	int rc;

	do {
		json_decref(*msg);
		*msg = NULL;
		rc = channel_receive(t->sock, UPDATE_BUILD_MS, msg, fds, e);
		what = json_string_value(json_object_get(*msg, "t")) ?: "";
	} while (!rc && !strcmp(what, "wait"));
	return rc || !strcmp(what, "moment") ? rc
					     : err_set(e, -EPROTO, "update: there was no moment");
}

int update_go_on(struct update_taker *t, struct vm *vm, struct control *control, struct err *e)
{
	cleanup(json_drop) json_t *msg = NULL;
	struct fdlist fds = {0};
	bool running = false;
	int rc = fits(t, vm, e) ?: vm_add_tasks(vm, e);

	if (rc)
		return rc;
	touch_ram(vm);
	update_stage("ready");
	state_prepare();
	rc = say_ready(t, e) ?: await(t, &msg, &fds, e);
	update_stage("moment");
	take_times(t, msg);
	if (!rc)
		rc = take_moment(t, vm, control, msg, &fds, &running, e);
	fdlist_close(&fds);
	if (!rc)
		rc = decide(t, e);
	if (rc)
		return rc;
	frames_borrow(vm->board->frames, false);
	vm->state = running ? VM_RUNNING : VM_PAUSED;
	/* Before they run: on a full host they may take this thread's processor at once. */
	t->at.runs = clock_mono_ns();
	if (running) {
		vm_clock_forward(vm, clock_mono_ns() - t->at.state);
		vm_let_go(vm);
	}
	channel_send(t->sock, json_pack("{s:s}", "t", "done"), NULL, NULL);
	return 0;
}

void update_took(struct update_taker *t, struct vm *vm, struct control *control)
{
	json_t *j = json_pack("{s:s, s:s, s:i, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I}}",
		"version", LODGE_VERSION, "from",
		json_string_value(json_object_get(t->offer, "version")) ?: "?", "pid",
		(int)getpid(), "pause_us", us(t->at.began, t->at.runs), "pause_for", "quiesce",
		us(t->at.began, t->at.quiet), "save", us(t->at.quiet, t->at.saved), "disks",
		us(t->at.saved, t->at.sent), "way", us(t->at.sent, t->at.came), "load",
		us(t->at.came, t->at.loaded), "connections", us(t->at.loaded, t->at.carried),
		"wake", us(t->at.carried, t->at.runs));

	control_answer(control, json_copy(j));
	vm_emit(vm, "updated", j);
	update_taker_free(t);
}

void update_take_failed(struct update_taker *t, const struct err *e)
{
	if (t->page && atomic_load(&t->page->word) == UPDATE_GIVEN)
		return;
	channel_send(t->sock,
		json_pack("{s:s, s:i, s:s}", "t", "failed", "errno", -e->code, "error", err_msg(e)),
		NULL, NULL);
}
