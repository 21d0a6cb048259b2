#include "vm/snapshot/snapshot.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "device/virtio_blk.h"
#include "disk/moment/moment.h"
#include "disk/tool.h"
#include "vm/config/config.h"
#include "vm/internal.h"
#include "vm/migrate/migrate.h"
#include "vm/snapshot/live.h"

#define HOT_MAX 65536u

struct vm_snapshot {
	struct vm *vm;
	struct snaplive *live;
	uv_async_t async;
	char name[256];
	uint64_t began_ns;
	/* How long the vCPUs stood still, and for what. */
	uint64_t pause_ns, stop_ns, quiet_ns, state_ns, disks_ns, arm_ns;
	struct disk *disks[DISK_TOGETHER]; /* that have a snapshot of this name now */
	unsigned ndisks;
	struct disk_moment *copies[VM_SNAPSHOT_COPIES]; /* of disks */
	unsigned ncopies;
	_Atomic bool memory_over; /* set by the writer's thread */
	bool cancelled;
};

/* ---- before the moment ---- */

static int check_disk(struct vm_snapshot *s, struct device *dev, const struct vm_snapshot_opts *o,
	unsigned *can, struct err *e)
{
	struct disk *d = virtio_blk_disk(dev);

	if (!d || d->o.readonly || o->disks == VM_SNAPSHOT_MEMORY_ONLY)
		return 0;
	if (o->disks != VM_SNAPSHOT_COPY_DISKS && !d->format->snapshot)
		return err_set(e, -EOPNOTSUPP,
			"snapshot %s: disk %s: %s has no snapshots (qcow2 and lodgefs have). "
			"--memory-only leaves disks out: then nothing may write to %s until the "
			"snapshot is restored",
			s->name, dev->id, d->format->name, d->o.path);
	++*can;
	return 0;
}

/* Everything that can be refused, while the guest runs. */
static int check(struct vm_snapshot *s, const struct vm_snapshot_opts *o, struct err *e)
{
	struct board *b = s->vm->board;
	unsigned can = 0;
	int rc = 0;

	for (unsigned i = 0; !rc && i < b->ndevices; i++)
		rc = check_disk(s, b->devices[i], o, &can, e);
	if (!rc && o->disks == VM_SNAPSHOT_WITH_DISKS && !can)
		return err_set(e, -EINVAL,
			"snapshot %s: --with-disks, and this machine has no disk that it writes to",
			s->name);
	if (!rc && o->disks == VM_SNAPSHOT_COPY_DISKS && can != o->ncopies)
		return err_set(e, -EINVAL,
			"snapshot %s: the machine writes to %u disks, and there are files for %u",
			s->name, can, o->ncopies);
	if (!rc && can > DISK_TOGETHER)
		return err_set(
			e, -E2BIG, "snapshot %s: more than %u disks", s->name, DISK_TOGETHER);
	return rc;
}

/* What the disks hold back goes out now, so that the moment does not wait for it. */
static int flush_disks(struct vm_snapshot *s, const struct vm_snapshot_opts *o, struct err *e)
{
	struct board *b = s->vm->board;

	if (o->disks == VM_SNAPSHOT_MEMORY_ONLY || o->disks == VM_SNAPSHOT_COPY_DISKS)
		return 0;
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (d && !d->o.readonly && disk_rw(d, DISK_FLUSH, 0, NULL, 0, e))
			return err_wrap(e, "snapshot %s: disk %s", s->name, b->devices[i]->id);
	}
	return 0;
}

/* In a turn of the loop of its own: a disk may tell from anywhere. */
static void copied(void *ctx)
{
	struct vm_snapshot *s = ctx;

	uv_async_send(&s->async);
}

static void drop_copies(struct vm_snapshot *s)
{
	while (s->ncopies)
		disk_moment_free(s->copies[--s->ncopies]);
}

/* Takes the files over as far as it comes. */
static int prepare_copies(struct vm_snapshot *s, struct vm_snapshot_opts *o, struct err *e)
{
	struct board *b = s->vm->board;
	int rc = 0;

	for (unsigned i = 0; o->ncopies && i < b->ndevices && !rc; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (!d || d->o.readonly)
			continue;
		rc = disk_moment_create(
			&s->copies[s->ncopies], d, o->copy_fd[s->ncopies], copied, s, e);
		o->copy_fd[s->ncopies] = -1;
		s->ncopies += !rc;
	}
	return rc ? err_wrap(e, "snapshot %s", s->name) : 0;
}

/* ---- the moment ---- */

static void undo_disks(struct vm_snapshot *s)
{
	while (s->ndisks)
		disk_snapshot(s->disks[--s->ndisks], DISK_SNAP_DELETE, s->name, NULL);
}

/* Nothing of one disk lies between the snapshots of two: all of them are quiet, and have theirs, or none has. */
static int snap_disks(struct vm_snapshot *s, const struct vm_snapshot_opts *o, struct err *e)
{
	struct board *b = s->vm->board;
	unsigned n = 0;
	int rc;

	for (unsigned i = 0; i < s->ncopies; i++)
		disk_moment_arm(s->copies[i]);
	if (o->disks == VM_SNAPSHOT_MEMORY_ONLY || o->disks == VM_SNAPSHOT_COPY_DISKS)
		return 0;
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (d && !d->o.readonly)
			s->disks[n++] = d;
	}
	rc = disk_snapshot_all(s->disks, n, s->name, e);
	if (rc)
		return err_wrap(e, "snapshot %s", s->name);
	s->ndisks = n;
	return 0;
}

static bool has_snapshot(const struct vm_snapshot *s, const struct disk *d)
{
	for (unsigned i = 0; i < s->ndisks; i++)
		if (s->disks[i] == d)
			return true;
	return false;
}

static json_t *disks_json(struct vm_snapshot *s)
{
	struct board *b = s->vm->board;
	json_t *list = json_array();

	for (unsigned i = 0; i < b->ndevices; i++) {
		struct disk *d = virtio_blk_disk(b->devices[i]);

		if (d)
			json_array_append_new(
				list, json_pack("{s:s, s:s, s:s, s:b, s:I, s:s?}", "id",
					      b->devices[i]->id, "file", d->o.path, "format",
					      d->format->name, "readonly", d->o.readonly, "size",
					      (json_int_t)disk_size(d), "snapshot",
					      has_snapshot(s, d) ? s->name : NULL));
	}
	return list;
}

static char *manifest(struct vm_snapshot *s)
{
	struct vm *vm = s->vm;
	const struct cpu_engine_ops *ops = vm->board->engine;
	cleanup(json_drop) json_t *j = json_pack(
		"{s:i, s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:I, s:I, s:s, s:o?, s:o}",
		"manifest", 1, "lodge", LODGE_VERSION, "name", s->name, "machine",
		vm->o.cfg->name ?: "", "created_ns", (json_int_t)clock_wall_ns(), "engine",
		ops->name, "isa", ops->isa, "cpu",
		ops->isa_string ? ops->isa_string(vm->board->cpu_vm) : "", "vcpus", (int)vm->nvcpus,
		"memory", (json_int_t)vm->o.cfg->memory, "guest_time",
		(json_int_t)ops->time_get(vm->board->cpu_vm), "directory", vm->directory,
		"definition", vm_config_to_json(vm->o.cfg), "disks", disks_json(s));

	return j ? json_dumps(j, JSON_INDENT(1)) : NULL;
}

static uint64_t *hot_code(struct vm *vm, size_t *n)
{
	const struct cpu_engine_ops *ops = vm->board->engine;
	uint64_t *list = ops->hot_code_get ? calloc(HOT_MAX, sizeof(*list)) : NULL;

	*n = list ? ops->hot_code_get(vm->board->cpu_vm, list, HOT_MAX) : 0;
	return list;
}

static uint64_t lap(uint64_t *at)
{
	uint64_t now = clock_mono_ns(), spent = now - *at;

	*at = now;
	return spent;
}

/* vCPUs stand still. What fails here is undone here. */
static int take_moment(struct vm_snapshot *s, const struct vm_snapshot_opts *o, uint8_t **state,
	size_t *len, struct err *e)
{
	struct vm *vm = s->vm;
	cleanup(free_ptr) struct state_obj *objs = NULL;
	uint64_t at = clock_mono_ns(), began = at;
	unsigned n;
	int rc;

	vm_stand_still(vm);
	s->stop_ns = lap(&at);
	rc = board_quiesce(vm->board, e);
	if (rc) {
		vm_go_on(vm);
		return err_wrap(e, "snapshot %s", s->name);
	}
	s->quiet_ns = lap(&at);
	rc = board_state(vm->board, &objs, &n);
	rc = rc ? err_set(e, rc, "snapshot %s: machine state", s->name)
		: state_save(objs, n, state, len, e);
	s->state_ns = lap(&at);
	rc = rc ?: snap_disks(s, o, e);
	s->disks_ns = lap(&at);
	rc = rc ?: snaplive_arm(s->live, e);
	s->arm_ns = lap(&at);
	if (rc)
		undo_disks(s);
	board_resume(vm->board);
	vm_go_on(vm);
	s->pause_ns = clock_mono_ns() - began;
	return rc;
}

/* ---- after it ---- */

static json_t *status_of(struct vm_snapshot *s, const char *state)
{
	struct snaplive_stat st;
	uint64_t disks_done = 0, disks = 0;

	for (unsigned i = 0; i < s->ncopies; i++) {
		uint64_t done, of;

		disk_moment_progress(s->copies[i], &done, &of);
		disks_done += done;
		disks += of;
	}
	snaplive_stat(s->live, &st);
	return json_pack("{s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
			 "s:I, s:I, s:{s:I, s:I, s:I, s:I, s:I}}",
		"state", state, "disk_bytes", (json_int_t)disks, "disk_done",
		(json_int_t)disks_done, "name", s->name, "pages", (json_int_t)st.pages, "done",
		(json_int_t)st.done, "caught", (json_int_t)st.caught, "swept", (json_int_t)st.swept,
		"untouched", (json_int_t)st.untouched, "packed", (json_int_t)st.packed, "queue_max",
		(json_int_t)st.queue_max, "throttled", (json_int_t)st.throttled, "throttled_max_us",
		(json_int_t)(st.throttled_max_ns / 1000), "file_bytes", (json_int_t)st.file_bytes,
		"pause_us", (json_int_t)(s->pause_ns / 1000), "took_ms",
		(json_int_t)((clock_mono_ns() - s->began_ns) / 1000000), "pause_for", "stop",
		(json_int_t)(s->stop_ns / 1000), "quiesce", (json_int_t)(s->quiet_ns / 1000),
		"state", (json_int_t)(s->state_ns / 1000), "disks",
		(json_int_t)(s->disks_ns / 1000), "arm", (json_int_t)(s->arm_ns / 1000));
}

static void closed(uv_handle_t *h)
{
	free(container_of((uv_async_t *)h, struct vm_snapshot, async));
}

/* The threads are waited for; the machine has none any more. */
static void put_away(struct vm_snapshot *s)
{
	s->vm->snap = NULL;
	drop_copies(s);
	snaplive_free(s->live);
	s->live = NULL;
	uv_close((uv_handle_t *)&s->async, closed);
}

/* 1: something is still being written. Else how it went; what fails first ends the rest. */
static int result(struct vm_snapshot *s, struct err *e)
{
	bool memory_over = atomic_load(&s->memory_over), over = memory_over;
	int rc = s->cancelled ? err_set(e, -ECANCELED, "snapshot: was cancelled") : 0;

	for (unsigned i = 0; i < s->ncopies && !rc; i++) {
		over &= disk_moment_over(s->copies[i]);
		rc = disk_moment_result(s->copies[i], e);
	}
	if (!rc && memory_over)
		rc = snaplive_result(s->live, e);
	if (rc && !memory_over) {
		snaplive_cancel(s->live); /* its end follows */
		return 1;
	}
	return rc || over ? rc : 1;
}

static void on_done(uv_async_t *a)
{
	struct vm_snapshot *s = container_of(a, struct vm_snapshot, async);
	struct vm *vm = s->vm;
	struct err e = {0};
	int rc;

	if (!s->live)
		return;
	rc = result(s, &e);
	if (rc > 0)
		return;
	json_decref(vm->last_snap);
	vm->last_snap = status_of(s, rc ? "failed" : "done");
	if (rc) {
		undo_disks(s);
		json_object_set_new(vm->last_snap, "error", json_string(err_msg(&e)));
		json_object_set_new(vm->last_snap, "errno", json_integer(-rc));
	}
	put_away(s);
	vm_emit(vm, "snapshot", json_copy(vm->last_snap));
}

/* In the writer's thread. */
static void done(void *ctx)
{
	struct vm_snapshot *s = ctx;

	atomic_store(&s->memory_over, true);
	uv_async_send(&s->async);
}

static int take(struct vm_snapshot *s, const struct vm_snapshot_opts *o, struct err *e)
{
	uint8_t *state = NULL;
	uint64_t *hot;
	size_t len = 0, nhot;
	char *text;
	int rc = take_moment(s, o, &state, &len, e);

	if (rc) {
		free(state);
		return rc;
	}
	text = manifest(s);
	if (!text) {
		free(state);
		undo_disks(s);
		return err_set(e, -ENOMEM, "snapshot %s: out of memory", s->name);
	}
	hot = hot_code(s->vm, &nhot);
	snaplive_run(s->live, text, state, len, hot, nhot);
	return 0;
}

static int start(struct vm_snapshot *s, struct vm_snapshot_opts *o, struct err *e)
{
	struct snaplive_opts lo = {.space = s->vm->board->space,
		.fd = o->fd,
		.queue_bytes = o->queue_bytes,
		.pack_percent = o->pack_percent,
		.done = done,
		.ctx = s};
	int rc = check(s, o, e) ?: prepare_copies(s, o, e) ?: flush_disks(s, o, e);

	if (rc) {
		close(o->fd);
		return rc;
	}
	rc = snaplive_create(&s->live, &lo, e);
	if (rc)
		return err_wrap(e, "snapshot %s", s->name);
	return take(s, o, e);
}

static int begin(struct vm *vm, struct vm_snapshot_opts *o, struct err *e)
{
	struct vm_snapshot *s = calloc(1, sizeof(*s));
	int rc = s ? uv_async_init(vm->o.loop, &s->async, on_done)
		   : err_set(e, -ENOMEM, "snapshot: out of memory");

	if (rc) {
		close(o->fd);
		free(s);
		return rc;
	}
	uv_unref((uv_handle_t *)&s->async);
	s->vm = vm;
	s->began_ns = clock_mono_ns();
	snprintf(s->name, sizeof(s->name), "%s", o->name);
	vm->snap = s;
	rc = start(s, o, e);
	if (rc)
		put_away(s);
	return rc;
}

int vm_snapshot_start(struct vm *vm, const struct vm_snapshot_opts *opts, struct err *e)
{
	struct vm_snapshot_opts o = *opts;
	int rc = begin(vm, &o, e);

	/* Those that nobody took. */
	for (unsigned i = 0; i < o.ncopies; i++)
		if (o.copy_fd[i] >= 0)
			close(o.copy_fd[i]);
	return rc;
}

json_t *vm_snapshot_status(struct vm *vm)
{
	if (vm->snap)
		return status_of(vm->snap, "writing");
	return vm->last_snap ? json_incref(vm->last_snap) : json_pack("{s:s}", "state", "none");
}

const char *vm_snapshot_name(const struct vm *vm)
{
	return vm->snap ? vm->snap->name : NULL;
}

void vm_snapshot_cancel(struct vm *vm)
{
	struct vm_snapshot *s = vm->snap;

	if (!s)
		return;
	s->cancelled = true;
	uv_async_send(&s->async);
}

void vm_snapshot_drop(struct vm *vm)
{
	if (vm->snap) {
		undo_disks(vm->snap);
		put_away(vm->snap);
	}
	json_decref(vm->last_snap);
	vm->last_snap = NULL;
}
