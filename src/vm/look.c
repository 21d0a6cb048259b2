/* look.c: what others see of a running machine: its state, its counters, its exits one by one, every field of it. */
#include <errno.h>
#include <jansson.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/util.h"
#include "machine/topology.h"
#include "vm/build.h"
#include "vm/config/config.h"
#include "vm/internal.h"
#include "vm/migrate/migrate.h"

json_t *vm_status(struct vm *vm)
{
	json_t *j = json_pack("{s:s, s:i, s:I, s:I, s:s}", "state",
		vm->owner == VM_COMING ? "receiving" : vm_migrate_state(vm) ?: vm_state_name(vm->state),
		"vcpus", (int)vm->nvcpus,
		"memory", (json_int_t)vm->o.cfg->memory, "reboots", (json_int_t)vm->reboots,
		"engine", vm->board->engine->name);

	if (vm->coming)
		json_object_set_new(j, "coming", vm_migrate_status(vm));
	if (vm->started_ns)
		json_object_set_new(j, "uptime_ms",
			json_integer((json_int_t)((clock_mono_ns() - vm->started_ns) / 1000000)));
	if (vm->state == VM_ENDED) {
		json_object_set_new(j, "cause", json_string(vm_cause_name(vm->cause)));
		json_object_set_new(j, "code", json_integer(vm->code));
	}
	return j;
}

static void add_counter(void *ctx, const char *name, uint64_t value)
{
	json_object_set_new(ctx, name, json_integer((json_int_t)value));
}

static json_t *vcpu_stats(struct vm *vm, struct vm_vcpu *vc)
{
	struct cpu_stats st = {0};
	struct sched_task_stat ts = {0};
	json_t *exits = json_object(), *types = json_object();
	json_t *j;

	vm->board->engine->vcpu_stats(vc->cpu, &st);
	if (vc->task)
		sched_task_stat(vc->task, &ts);
	for (unsigned i = 0; i < CPU_EXIT_REASONS; i++)
		json_object_set_new(
			exits, cpu_exit_name(i), json_integer((json_int_t)vc->exits[i]));
	for (unsigned i = 0; i < CPU_TYPES; i++)
		if (vc->types[i] || st.delivered[i])
			json_object_set_new(types, cpu_type_name(i),
				json_pack("{s:I, s:I}", "exits", (json_int_t)vc->types[i], "given",
					(json_int_t)st.delivered[i]));
	j = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "instructions", (json_int_t)st.instructions,
		"traps", (json_int_t)st.traps, "interrupts", (json_int_t)st.interrupts,
		"tlb_misses", (json_int_t)st.tlb_misses, "page_walks", (json_int_t)st.page_walks,
		"blocks_decoded", (json_int_t)st.blocks_decoded);
	json_object_set_new(j, "run_ms", json_real((double)ts.run_ns / 1e6));
	json_object_set_new(j, "wait_ms", json_real((double)ts.wait_ns / 1e6));
	json_object_set_new(j, "idle_ms", json_real((double)ts.idle_ns / 1e6));
	json_object_set_new(j, "exits", exits);
	json_object_set_new(j, "types", types);
	return j;
}

/* The second-level map that every vCPU begins with: how large its leaves are. */
static json_t *map_stats(struct space *s)
{
	unsigned in = space_hold(s);
	struct view_stat st;

	view_stat(space_view(s, 0), &st);
	space_release(s, in);
	return json_pack("{s:I, s:I, s:I, s:I}", "tables", (json_int_t)st.tables, "leaves_4k",
		(json_int_t)st.leaves_4k, "leaves_2m", (json_int_t)st.leaves_2m, "leaves_1g",
		(json_int_t)st.leaves_1g);
}

json_t *vm_stats(struct vm *vm)
{
	json_t *vcpus = json_array();
	json_t *devices = json_object();
	json_t *engine = json_object();
	json_t *j = vm_status(vm);
	json_int_t shared;

	for (unsigned i = 0; i < vm->nvcpus; i++)
		json_array_append_new(vcpus, vcpu_stats(vm, &vm->vcpus[i]));
	for (unsigned i = 0; i < vm->board->ndevices; i++) {
		struct device *d = vm->board->devices[i];
		json_t *dj;

		if (!d->cls->stats)
			continue;
		dj = json_object();
		d->cls->stats(d, dj);
		json_object_set_new(devices, d->id, dj);
	}
	if (vm->board->engine->vm_counters)
		vm->board->engine->vm_counters(vm->board->cpu_vm, add_counter, engine);
	json_object_set_new(j, "engine", engine);
	json_object_set_new(j, "vcpu", vcpus);
	json_object_set_new(j, "devices", devices);
	json_object_set_new(j, "map", map_stats(vm->board->space));
	shared = json_integer_value(json_object_get(engine, "cache_resident"));
	json_object_set_new(j, "host", build_host_stats(vm, (uint64_t)shared));
	return j;
}

static void trace_off(struct vm *vm)
{
	const struct cpu_engine_ops *ops = vm->board->engine;

	trace_stop(vm->trace);
	if (ops->vm_notes)
		ops->vm_notes(vm->board->cpu_vm, false);
	vm->tracer = NULL;
	uv_timer_stop(&vm->trace_timer);
}

static void on_trace_timer(uv_timer_t *t)
{
	struct vm *vm = container_of(t, struct vm, trace_timer);

	if (vm->tracer && clock_mono_ns() - vm->traced_ns >= TRACE_KEEP_NS)
		trace_off(vm);
}

int vm_trace_exits(
	struct vm *vm, const void *who, const char *types, bool stop, json_t **out, struct err *e)
{
	uint64_t mask;
	const struct cpu_engine_ops *ops = vm->board->engine;
	bool fresh = !vm->tracer && !stop;

	if (vm->tracer && vm->tracer != who)
		return err_set(
			e, -EBUSY, "somebody else follows this machine's exits: one can at a time");
	if (fresh) {
		int rc = trace_types(types, &mask, e) ?: trace_start(vm->trace, mask, e);

		if (rc)
			return rc;
		if (ops->vm_notes)
			ops->vm_notes(vm->board->cpu_vm, true);
		vm->tracer = who;
		uv_timer_start(&vm->trace_timer, on_trace_timer, 1000, 1000);
	}
	vm->traced_ns = clock_mono_ns();
	*out = trace_take(vm->trace);
	/* Who had asked before has missed something: he was too late for TRACE_KEEP_NS. */
	json_object_set_new(*out, "fresh", json_boolean(fresh));
	if (stop && vm->tracer)
		trace_off(vm);
	return 0;
}

static void put_table(void *ctx, const char *name, const void *bytes, size_t len)
{
	cleanup(free_ptr) char *text = malloc(2 * len + 1);

	if (!text)
		return;
	hex_put(text, bytes, len);
	json_object_set_new(ctx, name, json_string(text));
}

int vm_acpi(struct vm *vm, json_t **out, struct err *e)
{
	json_t *all = json_object();
	int rc = board_tables(vm->board, put_table, all, e);

	if (rc)
		json_decref(all);
	else
		*out = all;
	return rc;
}

/* The vCPUs stand still. */
static int look_inside(struct vm *vm, json_t **out, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	json_t *about;
	unsigned n;
	int rc = board_quiesce(vm->board, e);

	if (!rc)
		rc = board_state(vm->board, &objs, &n);
	if (rc)
		return err_wrap(e, "inspect");
	about = json_object();
	for (unsigned i = 0; i < vm->board->ndevices; i++) {
		struct device *d = vm->board->devices[i];
		json_t *dj = json_object();

		json_object_set_new(dj, "class", json_string(d->cls->name));
		if (d->cls->describe)
			d->cls->describe(d, dj);
		json_object_set_new(about, d->id, dj);
	}
	*out = json_pack("{s:o, s:o, s:o, s:o}", "status", vm_status(vm), "topology",
		topology_json(vm->board->topology), "about", about, "state", state_json(objs, n));
	board_resume(vm->board);
	return 0;
}

int vm_inspect(struct vm *vm, json_t **out, struct err *e)
{
	int rc;

	if (!vm->held && vm->state != VM_RUNNING)
		return err_set(e, -EBUSY, "machine is %s", vm_state_name(vm->state));
	if (!vm->held && (vm_migrate_idle(vm, e) || vm_migrate_whole(vm, true, e)))
		return -EBUSY;
	vm_stand_still(vm);
	rc = look_inside(vm, out, e);
	vm_go_on(vm);
	return rc;
}
