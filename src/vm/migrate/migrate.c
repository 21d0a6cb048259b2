#include "vm/migrate/migrate.h"
#include "vm/nets.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/json.h"
#include "base/log.h"
#include "base/util.h"
#include "device/virtio_blk.h"
#include "disk/tool.h"
#include "vm/internal.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/disks.h"
#include "vm/migrate/disks_out.h"
#include "vm/migrate/postcopy.h"
#include "vm/migrate/shape.h"
#include "vm/migrate/source.h"
#include "vm/needs.h"

struct vm_migration {
	struct vm *vm;
	struct source *source;
	struct disks_out *disks; /* that are copied; NULL: none */
	uv_async_t async;
	_Atomic bool stop_wanted, end_wanted, post_wanted;
	bool post; /* what is left after a broken connection can be asked for */
	uint8_t id[MIG_ID];
	bool stopped; /* the machine stands still for us, its disks sleep */
	uint64_t stop_ns, quiet_ns, state_ns, disks_ns; /* what the standing still was for */
};

/* ---- the moment ---- */

static uint64_t lap(uint64_t *at)
{
	uint64_t now = clock_mono_ns(), spent = now - *at;

	*at = now;
	return spent;
}

static int can_stop(struct vm *vm, struct err *e)
{
	if (vm->halted)
		return err_set(e, -EAGAIN, "the machine is about to end or to reboot");
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return err_set(e, -EBUSY, "the machine is %s", vm_state_name(vm->state));
	return 0;
}

/* The vCPUs stand still. What fails is undone. */
static int take_state(struct vm_migration *m, struct source_moment *to, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	struct vm *vm = m->vm;
	uint64_t at = clock_mono_ns();
	unsigned n;
	int rc = board_quiesce(vm->board, e);

	if (rc)
		return rc;
	m->quiet_ns = lap(&at);
	to->saved = at;
	rc = board_state(vm->board, &objs, &n);
	rc = rc ? err_set(e, rc, "machine state") : state_save(objs, n, &to->state, &to->len, e);
	m->state_ns = lap(&at);
	if (rc)
		board_resume(vm->board);
	return rc;
}

/* What its guest says is learned in the loop's thread, hence not while this one is in stop(). */
static char *neighbours(struct vm *vm)
{
	cleanup(json_drop) json_t *j = vm_announce_addresses(vm);

	return json_object_size(j) ? json_dumps(j, JSON_COMPACT) : NULL;
}

static void stop(struct vm_migration *m)
{
	struct vm *vm = m->vm;
	struct source_moment now = {.was_paused = vm->state == VM_PAUSED};
	uint64_t at;
	struct err e = {0};
	int rc = can_stop(vm, &e) ?: mig_disks_flush(vm->board, &e);

	now.neighbours = rc ? NULL : neighbours(vm);
	at = now.since = clock_mono_ns();
	if (!rc) {
		vm_stand_still(vm);
		m->stop_ns = lap(&at);
		rc = take_state(m, &now, &e);
		if (rc)
			vm_go_on(vm);
		/* From here on the other side says where it is. */
		vm_announce_hold(vm, !rc);
		m->stopped = !rc;
	}
	if (rc) {
		free(steal_ptr(now.state));
		free(steal_ptr(now.neighbours));
	}
	source_stopped(m->source, rc, &e, &now);
	if (rc)
		return;
	/* Meanwhile the last pages go over. */
	at = clock_mono_ns();
	rc = mig_disks_sleep(vm->board, m->disks, &e);
	m->disks_ns = lap(&at);
	source_disks_free(m->source, rc, &e);
}

/* ---- afterwards ---- */

static json_t *status_of(struct vm_migration *m)
{
	struct source_stat st;
	json_t *j;

	source_stat(m->source, &st);
	j = json_pack(
		"{s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:I, s:b}",
		"phase", mig_phase_name(st.phase), "round", (int)st.round, "throttle",
		(int)st.throttle, "streams", (int)st.streams, "pages", (json_int_t)st.pages,
		"asked", (json_int_t)st.asked, "touched", (json_int_t)st.touched, "left",
		(json_int_t)st.left, "of", (json_int_t)st.of, "zero", (json_int_t)st.sent[MIG_ZERO],
		"raw", (json_int_t)st.sent[MIG_RAW], "packed", (json_int_t)st.sent[MIG_ZSTD],
		"delta", (json_int_t)st.sent[MIG_DELTA], "wire", (json_int_t)st.wire, "rate",
		(json_int_t)st.rate, "page_rate", (json_int_t)st.page_rate, "dirty",
		(json_int_t)st.dirty, "predicted_us", (json_int_t)(st.predicted_ns / 1000),
		"total_ms", (json_int_t)(st.total_ns / 1000000), "zstd", st.zstd);
	if (m->disks) {
		json_object_set_new(j, "disks", disks_out_json(m->disks));
		json_object_set_new(j, "disk_data", json_integer((json_int_t)st.disk_data));
		json_object_set_new(j, "disk_rate", json_integer((json_int_t)st.disk_rate));
		json_object_set_new(j, "disk_dirty", json_integer((json_int_t)st.disk_dirty));
		json_object_set_new(j, "at_disks", json_boolean(st.disks));
	}
	if (m->stop_ns)
		json_object_set_new(j, "pause_for",
			json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "last_blocks",
				(json_int_t)(st.blocks_ns / 1000), "last_pages",
				(json_int_t)(st.last_ns / 1000), "load",
				(json_int_t)(st.load_ns / 1000), "go",
				(json_int_t)(st.go_ns / 1000), "stop",
				(json_int_t)(m->stop_ns / 1000), "quiesce",
				(json_int_t)(m->quiet_ns / 1000), "state",
				(json_int_t)(m->state_ns / 1000), "disks",
				(json_int_t)(m->disks_ns / 1000)));
	if (st.downtime_ns)
		json_object_set_new(
			j, "downtime_us", json_integer((json_int_t)(st.downtime_ns / 1000)));
	if (st.code) {
		json_object_set_new(j, "error", json_string(st.error));
		json_object_set_new(j, "errno", json_integer(-st.code));
	}
	return j;
}

static void closed(uv_handle_t *h)
{
	free(container_of((uv_async_t *)h, struct vm_migration, async));
}

static void put_away(struct vm_migration *m)
{
	m->vm->mig = NULL;
	source_free(m->source);
	m->source = NULL;
	disks_out_free(m->disks);
	m->disks = NULL;
	uv_close((uv_handle_t *)&m->async, closed);
}

/* The vCPUs stay where they are; whoever looks sees a paused machine. */
static void stay_still(struct vm *vm, enum vm_owner owner)
{
	if (!vm->held) {
		vm->board->engine->time_stop(vm->board->cpu_vm);
		vm->held = true;
	}
	vm->state = VM_PAUSED;
	vm->owner = owner;
}

static void go_on_here(struct vm_migration *m)
{
	struct vm *vm = m->vm;
	struct err e = {0};

	if (mig_disks_wake(vm->board, &e)) {
		stay_still(vm, VM_DISKLESS);
		log_error(vm->o.log, "migration", "%s", err_msg(&e));
		json_object_set_new(vm->last_mig, "paused",
			json_sprintf("the machine is here, paused: %s; `lodge resume` tries again",
				err_msg(&e)));
		vm_emit(vm, "error", json_pack("{s:s}", "text", err_msg(&e)));
		return;
	}
	board_resume(vm->board);
	vm_announce_hold(vm, false);
	vm_go_on(vm);
}

static void end(struct vm_migration *m)
{
	struct vm *vm = m->vm;
	bool stopped = m->stopped, post = m->post;
	struct source_stat st;

	source_stat(m->source, &st);
	json_decref(vm->last_mig);
	vm->last_mig = status_of(m);
	if (st.phase == MIG_LOST || st.phase == MIG_BROKEN) {
		stay_still(vm, st.phase == MIG_BROKEN ? VM_AWAY
			       : post		      ? VM_UNSURE_POST
						      : VM_UNSURE);
		memcpy(vm->post_id, m->id, sizeof(vm->post_id));
	} else if (st.phase == MIG_FAILED && stopped) {
		go_on_here(m);
	}
	put_away(m);
	vm_emit(vm, "migration", json_copy(vm->last_mig));
	if (st.phase == MIG_DONE)
		vm_end(vm, VM_CAUSE_MIGRATED, 0, "moved to another process");
}

static void on_async(uv_async_t *a)
{
	struct vm_migration *m = container_of(a, struct vm_migration, async);

	if (m->source && atomic_exchange(&m->stop_wanted, false))
		stop(m);
	if (m->source && atomic_exchange(&m->post_wanted, false))
		vm_emit(m->vm, "migration", status_of(m));
	if (m->source && atomic_exchange(&m->end_wanted, false))
		end(m);
}

/* ---- in the source's threads ---- */

static void ask_stop(void *ctx)
{
	struct vm_migration *m = ctx;

	atomic_store(&m->stop_wanted, true);
	uv_async_send(&m->async);
}

static void ask_end(void *ctx)
{
	struct vm_migration *m = ctx;

	atomic_store(&m->end_wanted, true);
	uv_async_send(&m->async);
}

static void tell_post(void *ctx)
{
	struct vm_migration *m = ctx;

	atomic_store(&m->post_wanted, true);
	uv_async_send(&m->async);
}

static size_t hot(void *ctx, uint64_t *gpa, size_t max)
{
	const struct vm_migration *m = ctx;
	const struct board *b = m->vm->board;

	return b->engine->hot_code_get ? b->engine->hot_code_get(b->cpu_vm, gpa, max) : 0;
}

static void throttle(void *ctx, unsigned permille)
{
	struct vm_migration *m = ctx;

	vm_throttle(m->vm, permille);
}

/* ---- starting ---- */

static int check(struct vm *vm, struct err *e)
{
	if (vm_need(vm,
		    VM_NEED_LIVE | VM_NEED_UNMOVED | VM_NEED_OURS | VM_NEED_WHOLE |
			    VM_NEED_UNSNAPPED,
		    e))
		return -EBUSY;
	return mig_disks_can(vm->board, e);
}

/* Instead of check(): is there anything to go on with? */
static int check_again(const struct vm *vm, struct err *e)
{
	if (vm->mig)
		return err_set(e, -EBUSY, "the connection has not broken: this machine is moving");
	if (vm->owner != VM_UNSURE_POST && vm->owner != VM_AWAY)
		return err_set(e, -EINVAL,
			"there is nothing to go on with: only a post-copy migration whose "
			"connection broke leaves pages behind");
	return 0;
}

static int say_hello(
	struct vm *vm, const struct vm_migrate_opts *o, struct source_opts *so, struct err *e)
{
	cleanup(json_drop) json_t *j = mig_shape(vm);
	char id[2 * MIG_ID + 1];

	if (getrandom(so->id, sizeof(so->id), 0) != sizeof(so->id))
		return err_set(e, -EIO, "no random numbers");
	hex_put(id, so->id, MIG_ID);
	if (!j || json_object_set_new(j, "id", json_string(id)) ||
		json_object_set_new(j, "neighbours", vm_announce_addresses(vm)) ||
		json_object_set_new(j, "streams", json_integer(o->nfds)) ||
		json_object_set_new(j, "post_copy", json_boolean(o->post)) ||
		json_object_set_new(j, "dry_run", json_boolean(o->dry_run)) ||
		(so->disks && json_object_set_new(j, "copy", disks_out_ids(so->disks))))
		return err_set(e, -ENOMEM, "out of memory");
	so->hello = json_dumps(j, JSON_COMPACT);
	return so->hello ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int start(struct vm_migration *m, const struct vm_migrate_opts *o, struct source_opts *so,
	struct err *e)
{
	int rc = o->recover ? check_again(m->vm, e) : check(m->vm, e);

	if (!rc && o->copy_disks && !o->recover)
		rc = disks_out_create(&m->disks, m->vm->board, m->vm->o.loop, o->shared, e);
	so->disks = m->disks;
	if (!o->recover)
		rc = rc ?: say_hello(m->vm, o, so, e);
	if (!rc && (o->post || o->recover) && o->nfds < 2)
		rc = err_set(e, -EINVAL, "post-copy wants two connections or more");
	if (!rc && o->recover) {
		memcpy(so->id, m->vm->post_id, sizeof(so->id));
		so->away = m->vm->owner == VM_AWAY;
		m->stopped = true;
	}
	memcpy(m->id, so->id, sizeof(m->id));
	m->post = o->post || o->recover;
	if (!rc)
		rc = uv_async_init(m->vm->o.loop, &m->async, on_async);
	if (rc) {
		for (unsigned i = 0; i < o->nfds; i++)
			close(o->fd[i]);
		chan_tls_free(o->tls);
		free(so->hello);
		disks_out_free(m->disks);
		free(m);
		return rc;
	}
	uv_unref((uv_handle_t *)&m->async);
	m->vm->mig = m;
	rc = source_create(&m->source, so, e);
	if (rc)
		put_away(m);
	return rc;
}

int vm_migrate_start(struct vm *vm, const struct vm_migrate_opts *o, struct err *e)
{
	struct vm_migration *m = calloc(1, sizeof(*m));
	struct source_opts so = {.nfds = o->nfds,
		.tls = o->tls,
		.space = vm->board->space,
		.bandwidth = o->bandwidth,
		.downtime_ns = o->downtime_ns ?: MIG_DOWNTIME_NS,
		.dry_run = o->dry_run,
		.no_throttle = o->no_throttle,
		.post = o->post,
		.recover = o->recover,
		.tell_post = tell_post,
		.ask_stop = ask_stop,
		.ask_end = ask_end,
		.throttle = throttle,
		.hot = hot,
		.ctx = m};

	memcpy(so.fd, o->fd, sizeof(so.fd));
	if (!m) {
		for (unsigned i = 0; i < o->nfds; i++)
			close(o->fd[i]);
		chan_tls_free(o->tls);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	m->vm = vm;
	return start(m, o, &so, e) ? err_wrap(e, "migration") : 0;
}

static json_t *coming_status(struct post_take *t)
{
	struct post_take_stat st;
	json_t *j;

	post_take_stat(t, &st);
	j = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "phase",
		st.broken ? "postcopy-paused" : "postcopy", "side", "destination", "of",
		(json_int_t)st.of, "left", (json_int_t)st.left, "asked", (json_int_t)st.asked,
		"zero", (json_int_t)st.zero, "worst_us", (json_int_t)(st.worst_ns / 1000));
	if (st.broken)
		json_object_set_new(j, "error", json_string(st.why));
	return j;
}

const char *vm_migrate_state(const struct vm *vm)
{
	struct post_take_stat st;
	struct source_stat out;

	if (vm->coming) {
		post_take_stat(vm->coming, &st);
		return st.broken ? "postcopy-paused" : NULL;
	}
	if (vm->mig) {
		source_stat(vm->mig->source, &out);
		return out.phase == MIG_POST || out.phase == MIG_BROKEN ? "postcopy" : NULL;
	}
	return vm->owner == VM_AWAY ? "postcopy-paused" : NULL;
}

int vm_migrate_whole(const struct vm *vm, bool broken, struct err *e)
{
	struct post_take_stat st;

	if (!vm->coming)
		return 0;
	post_take_stat(vm->coming, &st);
	if (!st.broken)
		return broken ? 0
			      : err_set(e, -EBUSY,
					"%llu MiB of this machine are still coming from where it "
					"was: wait until they are here",
					(unsigned long long)(st.left * MIG_PAGE / MiB + 1));
	return err_set(e, -EBUSY,
		"this machine waits for %llu MiB of its memory, and the connection to where they "
		"are is broken (%s): lodge migrate --recover there, or lodge kill here: then what "
		"the guest has done since it came is lost, but for its disks",
		(unsigned long long)(st.left * MIG_PAGE / MiB + 1), st.why);
}

json_t *vm_migrate_status(struct vm *vm)
{
	if (vm->mig)
		return status_of(vm->mig);
	if (vm->coming)
		return coming_status(vm->coming);
	return vm->last_mig ? json_incref(vm->last_mig) : json_pack("{s:s}", "phase", "none");
}

bool vm_migrate_cancel(struct vm *vm)
{
	if (vm->mig)
		source_cancel(vm->mig->source, false);
	return vm->mig;
}

int vm_migrate_take_back(struct vm *vm, bool force, struct err *e)
{
	int rc;

	if (vm->owner == VM_OURS || vm->owner == VM_COMING)
		return force ? err_set(e, -EINVAL, "it is here: there is nothing to take back") : 0;
	if (vm->mig)
		return err_set(
			e, -EBUSY, "the machine is moving: its connection is being made anew");
	if (vm->owner == VM_AWAY)
		return err_set(e, -EPERM,
			"this machine runs where it was migrated to, and waits there for pages "
			"that are here: lodge migrate --recover. What is here is older than what "
			"it has done since; if it has ended there, end it here: lodge kill, and "
			"start it anew from its disks");
	if (vm->owner != VM_DISKLESS && !force)
		return err_set(e, -EPERM,
			"the connection broke when the machine was to begin to run at its "
			"destination. Look there: if it runs, end it here (lodge kill); only if "
			"it does not, take it back: lodge migrate --take-back");
	rc = mig_disks_wake(vm->board, e);
	if (rc)
		return rc;
	board_resume(vm->board);
	vm_announce_hold(vm, false);
	vm->owner = VM_OURS;
	return 0;
}

int vm_migrate_idle(const struct vm *vm, struct err *e)
{
	return vm->mig && vm->mig->stopped
		       ? err_set(e, -EBUSY, "the machine is moving: it stands still just now")
		       : 0;
}

void vm_migrate_drop(struct vm *vm)
{
	struct vm_migration *m = vm->mig;

	if (m) {
		source_cancel(m->source, true);
		put_away(m);
	}
	json_decref(vm->last_mig);
	vm->last_mig = NULL;
}
