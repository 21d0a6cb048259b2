#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "vm/build.h"
#include "vm/internal.h"
#include "vm/migrate/migrate.h"
#include "vm/needs.h"
#include "vm/nets.h"
#include "vm/snapshot/restore.h"
#include "vm/snapshot/snapshot.h"

const char *vm_state_name(enum vm_state s)
{
	static const char *const names[] = {"built", "running", "paused", "ended"};

	return names[s];
}

const char *vm_cause_name(enum vm_cause c)
{
	static const char *const names[] = {
		"none", "shutdown", "crash", "error", "killed", "migrated"};

	return names[c];
}

enum vm_state vm_state(const struct vm *vm)
{
	return vm->state;
}

const struct cpu_engine_ops *vm_engine(const struct vm *vm)
{
	return vm->board->engine;
}

struct console *vm_console(struct vm *vm)
{
	return vm->console;
}

struct vm_nets *vm_nets(struct vm *vm)
{
	return vm->nets;
}

/* Steals params. */
void vm_emit(struct vm *vm, const char *name, json_t *params)
{
	char *text = json_dumps(params, JSON_COMPACT);

	log_info(vm->o.log, "vm", "%s %s", name, text ?: "");
	free(text);
	if (vm->o.event)
		vm->o.event(vm->o.ctx, name, params);
	json_decref(params);
}

/* ---- vCPUs as tasks: in the workers' threads ---- */

/* A vCPU that is held back (vm_throttle()) runs so long, and then rests as long as vm->throttle says. */
#define THROTTLE_RUN_NS 250000ull

static bool resting(struct vm_vcpu *vc, uint64_t *deadline_ns)
{
	if (!vc->vm->throttle || clock_mono_ns() >= vc->rest_until)
		return false;
	*deadline_ns = vc->rest_until;
	return true;
}

static bool must_rest(struct vm_vcpu *vc, uint64_t *deadline_ns)
{
	unsigned permille = vc->vm->throttle;

	if (!permille || vc->vm->halted)
		return false;
	*deadline_ns = vc->rest_until = clock_mono_ns() +
					THROTTLE_RUN_NS * permille / (1000 - permille);
	return true;
}

void vm_throttle(struct vm *vm, unsigned permille)
{
	vm->throttle = MIN(permille, 999u);
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		vm->board->engine->vcpu_kick(vm->vcpus[i].cpu);
		if (!permille && vm->vcpus[i].task)
			sched_wake(vm->vcpus[i].task);
	}
}

static enum sched_verdict vcpu_slice(void *ctx, uint64_t budget_ns, uint64_t *deadline_ns)
{
	struct vm_vcpu *vc = ctx;
	const struct cpu_engine_ops *ops = vc->vm->board->engine;
	bool held_back = vc->vm->throttle;
	uint64_t end = held_back	  ? clock_mono_ns() + MIN(budget_ns, THROTTLE_RUN_NS)
		       : vc->vm->unsliced ? CPU_BUDGET_NONE
					  : clock_mono_ns() + budget_ns;
	struct cpu_exit x;

	if (held_back && resting(vc, deadline_ns))
		return VERDICT_IDLE;
	for (;;) {
		uint64_t left = CPU_BUDGET_NONE;

		if (end != CPU_BUDGET_NONE) {
			uint64_t now = clock_mono_ns();

			left = now < end ? end - now : 0;
		}
		/* An answered access is always completed (budget 0), so that nothing is half done between slices. */
		ops->vcpu_run(vc->cpu, vc->vm->halted ? 0 : left, &x);
		switch (exit_handle(vc, &x)) {
		case EXIT_GO_ON:
			continue;
		case EXIT_AGAIN:
			if (held_back && must_rest(vc, deadline_ns))
				return VERDICT_IDLE;
			return vc->vm->halted ? VERDICT_STOP : VERDICT_AGAIN;
		case EXIT_YIELD:
			return VERDICT_YIELD;
		case EXIT_IDLE:
			*deadline_ns = x.idle.deadline_ns;
			return VERDICT_IDLE;
		case EXIT_PARK:
			return VERDICT_STOP;
		}
	}
}

static void vcpu_kick(void *ctx)
{
	struct vm_vcpu *vc = ctx;

	vc->vm->board->engine->vcpu_kick(vc->cpu);
}

static void on_wake(void *ctx, unsigned vcpu)
{
	struct vm *vm = ctx;

	if (vm->vcpus && vcpu < vm->nvcpus && vm->vcpus[vcpu].task)
		sched_wake(vm->vcpus[vcpu].task);
}

static void on_note(void *ctx, unsigned vcpu, const struct cpu_note *n)
{
	struct vm *vm = ctx;

	if (trace_on(vm->trace))
		trace_note(vm->trace, vcpu, n);
}

static void wake_all(struct vm *vm)
{
	for (unsigned i = 0; vm->sched && i < vm->nvcpus; i++)
		sched_wake(vm->vcpus[i].task);
}

/* ---- what workers and devices want of the event loop ---- */

void vm_post_event(struct vm *vm, int event, uint64_t code, const char *text)
{
	pthread_mutex_lock(&vm->post_lock);
	if (!vm->post.set) {
		vm->post.set = true;
		vm->post.event = event;
		vm->post.code = code;
		snprintf(vm->post.text, sizeof(vm->post.text), "%s", text ?: "");
	}
	pthread_mutex_unlock(&vm->post_lock);
	vm->halted = true;
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vm->board->engine->vcpu_kick(vm->vcpus[i].cpu);
	uv_async_send(&vm->async);
}

static void on_system_event(void *ctx, int event, uint64_t code)
{
	vm_post_event(ctx, event, code, NULL);
}

static void on_report(void *ctx, const char *device, const char *text)
{
	struct vm *vm = ctx;

	/* Any thread: only the log is safe from here. */
	log_warn(vm->o.log, device, "%s", text);
}

static void on_stop(void *ctx, const char *device, const char *text)
{
	struct vm *vm = ctx;

	log_warn(vm->o.log, device, "%s: the machine is paused; resume tries again", text);
	pthread_mutex_lock(&vm->post_lock);
	if (!vm->stop_wanted) {
		vm->stop_wanted = true;
		snprintf(vm->stop_device, sizeof(vm->stop_device), "%s", device);
		snprintf(vm->stop_text, sizeof(vm->stop_text), "%s", text);
	}
	pthread_mutex_unlock(&vm->post_lock);
	uv_async_send(&vm->async);
}

/*
 * Harts leave reset together. On fewer workers than vCPUs some would be milliseconds late, and firmware that draws lots for its boot hart
 * (OpenSBI's fw_jump: a late hart overwrites the word by which the winner says that it is done) would lose them. So each
 * takes its first few hundred instructions here, one after the other, before the workers start.
 */
static void start_together(struct vm *vm)
{
	uint64_t deadline;

	if (vm->board->engine->idle_inside)
		return; /* a worker each: none is late */
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_slice(&vm->vcpus[i], 1, &deadline);
}

static void hold(struct vm *vm)
{
	if (vm->held || !vm->sched)
		return;
	sched_pause(vm->sched);
	vm->board->engine->time_stop(vm->board->cpu_vm);
	vm->held = true;
}

void vm_let_go(struct vm *vm)
{
	if (!vm->held)
		return;
	vm->board->engine->time_start(vm->board->cpu_vm);
	vm->held = false;
	sched_resume(vm->sched);
}

void vm_stand_still(struct vm *vm)
{
	if (!vm->held && vm->sched)
		sched_pause(vm->sched);
}

void vm_go_on(struct vm *vm)
{
	if (!vm->held && vm->sched)
		sched_resume(vm->sched);
}

void vm_clock_forward(struct vm *vm, uint64_t ns)
{
	const struct board *b = vm->board;

	b->engine->time_set(b->cpu_vm,
		b->engine->time_get(b->cpu_vm) +
			(uint64_t)((unsigned __int128)ns * b->timebase_hz / 1000000000u));
}

void vm_end(struct vm *vm, enum vm_cause cause, int code, const char *text)
{
	if (vm->state == VM_ENDED)
		return;
	/* A vCPU may wait for a page that is not here: who ends the process does not wait for it. */
	if (!vm->coming)
		hold(vm);
	vm->state = VM_ENDED;
	vm->cause = cause;
	vm->code = code;
	vm_emit(vm, "ended",
		json_pack("{s:s, s:i, s:s}", "cause", vm_cause_name(cause), "code", code, "text",
			text ?: ""));
	if (vm->o.ended)
		vm->o.ended(vm->o.ctx, cause, code);
}

int vm_reset(struct vm *vm, struct err *e)
{
	int rc;

	hold(vm);
	/* What another vCPU has asked for since belongs to the machine that was. */
	pthread_mutex_lock(&vm->post_lock);
	vm->post.set = false;
	pthread_mutex_unlock(&vm->post_lock);
	vm->reboots++;
	board_reset(vm->board);
	rc = board_boot(vm->board, e);
	if (rc)
		return rc;
	vm->halted = false;
	vm_emit(vm, "reboot", json_pack("{s:I}", "count", (json_int_t)vm->reboots));
	wake_all(vm);
	if (vm->state == VM_RUNNING) {
		start_together(vm);
		vm_let_go(vm);
	}
	return 0;
}

static void act(struct vm *vm, const struct vm_post *p)
{
	struct err e = {0};

	switch (p->event) {
	case CPU_SYSTEM_SHUTDOWN:
		vm_end(vm, VM_CAUSE_SHUTDOWN, (int)(p->code & 0xff), "guest powered off");
		return;
	case CPU_SYSTEM_CRASH:
		vm_end(vm, VM_CAUSE_CRASH, p->code ? (int)(p->code & 0xff) : 1,
			"guest reported a failure");
		return;
	case CPU_SYSTEM_REBOOT:
		if (vm_reset(vm, &e))
			vm_end(vm, VM_CAUSE_ERROR, 1, err_msg(&e));
		return;
	case CPU_SYSTEM_SUSPEND:
		hold(vm);
		vm->halted = false;
		vm->state = VM_PAUSED;
		wake_all(vm); /* resume is what wakes the guest: its vCPU was parked by the exit */
		vm_emit(vm, "suspended", json_object());
		return;
	default:
		/* Left as it is, so that it can be looked at (inspect) before it is killed. */
		hold(vm);
		vm->state = VM_PAUSED;
		vm_emit(vm, "error", json_pack("{s:s}", "text", p->text));
		log_error(vm->o.log, "vm", "%s", p->text);
		return;
	}
}

static void on_async(uv_async_t *a)
{
	struct vm *vm = container_of(a, struct vm, async);
	struct vm_post p;
	bool stop;

	pthread_mutex_lock(&vm->post_lock);
	p = vm->post;
	vm->post.set = false;
	stop = vm->stop_wanted;
	vm->stop_wanted = false;
	pthread_mutex_unlock(&vm->post_lock);
	if (vm->kill_wanted)
		vm_end(vm, VM_CAUSE_KILLED, 137, "killed");
	else if (p.set && vm->state != VM_ENDED)
		act(vm, &p);
	if (stop && vm->state == VM_RUNNING && !vm_pause(vm, NULL))
		vm_emit(vm, "device_failed",
			json_pack("{s:s, s:s}", "id", vm->stop_device, "text", vm->stop_text));
}

/* ---- life cycle ---- */

static void closed(uv_handle_t *h)
{
	struct vm *vm = container_of((uv_async_t *)h, struct vm, async);

	pthread_mutex_destroy(&vm->post_lock);
	free(vm->vcpus);
	free(vm);
}

static void timer_closed(uv_handle_t *h)
{
	struct vm *vm = container_of((uv_timer_t *)h, struct vm, trace_timer);

	uv_close((uv_handle_t *)&vm->async, closed);
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	vm_migrate_drop(vm);
	vm_snapshot_drop(vm);
	vm_restore_drop(vm);
	if (vm->sched) {
		hold(vm);
		sched_destroy(vm->sched);
		/* Devices finish what is in flight, and its interrupts wake nobody any more. */
		for (unsigned i = 0; vm->vcpus && i < vm->nvcpus; i++)
			vm->vcpus[i].task = NULL;
	}
	board_destroy(vm->board);
	trace_destroy(vm->trace);
	nets_close(vm->nets);
	vm_console_free(vm);
	uv_close((uv_handle_t *)&vm->trace_timer, timer_closed);
}

int vm_add_tasks(struct vm *vm, struct err *e)
{
	struct sched_opts so = {.workers = build_workers(vm->o.cfg), .name = "vcpu"};
	int rc;

	if (vm->board->engine->idle_inside && !vm->o.cfg->workers)
		so.workers = vm->nvcpus;
	vm->unsliced = vm->board->engine->idle_inside && so.workers >= vm->nvcpus;
	rc = sched_create(&vm->sched, &so, e);
	if (rc)
		return rc;
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		struct vm_vcpu *vc = &vm->vcpus[i];
		struct sched_task_ops ops = {vcpu_slice, vcpu_kick, vc};

		rc = sched_add(vm->sched, &ops, &vc->task, e);
		if (rc)
			return rc;
	}
	return 0;
}

int vm_create(struct vm **out, const struct vm_opts *o, struct err *e)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm)
		return err_set(e, -ENOMEM, "machine: out of memory");
	vm->o = *o;
	vm->proc_fd = -1;
	if (!getcwd(vm->directory, sizeof(vm->directory)))
		vm->directory[0] = 0;
	pthread_mutex_init(&vm->post_lock, NULL);
	rc = uv_async_init(o->loop, &vm->async, on_async);
	if (rc) {
		pthread_mutex_destroy(&vm->post_lock);
		free(vm);
		return err_set(e, rc, "machine: %s", uv_strerror(rc));
	}
	uv_timer_init(o->loop, &vm->trace_timer);
	uv_unref((uv_handle_t *)&vm->trace_timer);
	rc = vm_console_build(vm, e);
	if (!rc)
		rc = build_board(vm,
			&(struct board_opts){.wake = on_wake,
				.note = on_note,
				.system_event = on_system_event,
				.report = on_report,
				.stop = on_stop},
			e);
	if (!rc) {
		vm->vcpus = calloc(vm->board->nvcpus, sizeof(*vm->vcpus));
		if (!vm->vcpus)
			rc = err_set(e, -ENOMEM, "machine: out of memory");
		if (!rc)
			rc = trace_create(&vm->trace, vm->board->nvcpus, e);
	}
	if (!rc) {
		vm->nvcpus = vm->board->nvcpus;
		for (unsigned i = 0; i < vm->nvcpus; i++) {
			vm->vcpus[i].vm = vm;
			vm->vcpus[i].cpu = vm->board->vcpus[i];
		}
		vm->board->engine->time_stop(vm->board->cpu_vm);
		vm->held = true;
		/* What a restore brings is all there is to it: kernel and device tree are in its RAM. */
		if (o->restore)
			board_reset(vm->board);
		else
			rc = board_boot(vm->board, e);
	}
	if (rc) {
		vm_destroy(vm);
		return rc;
	}
	*out = vm;
	return 0;
}

int vm_start(struct vm *vm, bool paused, struct err *e)
{
	int rc;

	if (vm->state != VM_BUILT)
		return err_set(e, -EBUSY, "machine is %s, not new", vm_state_name(vm->state));
	rc = vm_add_tasks(vm, e);
	if (rc)
		return rc;
	vm->started_ns = clock_mono_ns();
	vm->state = paused ? VM_PAUSED : VM_RUNNING;
	vm_emit(vm, "started", json_pack("{s:b}", "paused", paused));
	vm_restore_started(vm);
	if (!paused) {
		if (!vm->restored)
			start_together(vm);
		vm_let_go(vm);
	}
	return 0;
}

int vm_pause(struct vm *vm, struct err *e)
{
	if (vm->state == VM_PAUSED)
		return 0;
	if (vm->state != VM_RUNNING)
		return err_set(e, -EBUSY, "machine is %s: only a running one can be paused",
			vm_state_name(vm->state));
	if (vm_need(vm, VM_NEED_LOOSE | VM_NEED_LINKED, e))
		return -EBUSY;
	hold(vm);
	vm->state = VM_PAUSED;
	vm_emit(vm, "paused", json_object());
	return 0;
}

int vm_resume(struct vm *vm, struct err *e)
{
	if (vm->state == VM_RUNNING)
		return 0;
	if (vm->state != VM_PAUSED)
		return err_set(e, -EBUSY, "machine is %s: only a paused one can be resumed",
			vm_state_name(vm->state));
	if (vm->halted)
		return err_set(
			e, -EIO, "machine stopped on an error and cannot go on: reset or kill it");
	if (vm->owner == VM_COMING)
		return err_set(e, -EBUSY, "machine is still coming from another process");
	if (vm_migrate_idle(vm, e) || vm_migrate_take_back(vm, false, e))
		return e ? e->code : -EBUSY;
	vm->state = VM_RUNNING;
	vm_emit(vm, "resumed", json_object());
	build_retry_disks(vm->board);
	vm_let_go(vm);
	return 0;
}

int vm_power_button(struct vm *vm, struct err *e)
{
	return build_power_button(vm->board, e);
}

int vm_disk_resize(struct vm *vm, const char *id, uint64_t size, struct err *e)
{
	int rc = build_disk_resize(vm->board, id, size, e);

	if (!rc)
		vm_emit(vm, "disk_resized",
			json_pack("{s:s, s:I}", "id", id, "size", (json_int_t)size));
	return rc;
}

int vm_disk(struct vm *vm, const char *id, struct disk **out, struct err *e)
{
	*out = id ? build_disk(vm->board, id) : NULL;
	return *out ? 0
		    : err_set(e, -ENOENT, "this machine has no disk %s", id ?: "without a name");
}

int vm_balloon(struct vm *vm, uint64_t target, struct err *e)
{
	return build_balloon(vm->board, vm->o.cfg, target, e);
}

void vm_kill(struct vm *vm)
{
	/* At the loop's next turn: who asked for it gets its answer first. */
	vm->kill_wanted = true;
	uv_async_send(&vm->async);
}
