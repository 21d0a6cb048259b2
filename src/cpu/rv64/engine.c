/*
 * engine.c: the rv64 engine behind the contract of cpu/cpu.h, and its run loop.
 *
 *   vcpu_run: complete what the last exit left open -> [ poll? interrupt? time? -> blocks ]* -> exit
 *
 * The clock is read after each slice of instructions; that bounds how late a timer or the end of the budget is seen. A slice is as long as
 * takes some tens of microseconds, and cold code ends it sooner (jit/runtime.c). Everything else that must be seen at once comes through
 * hart.poll.
 */
#include "cpu/rv64/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/spell.h"
#include "cpu/rv64/block.h"
#include "cpu/rv64/jit/jit.h"
#include "cpu/rv64/priv.h"

#define SLICE 8192u /* instructions, at first */
#define SLICE_MIN 1024u
#define SLICE_MAX 65536u
#define SLICE_QUICK_NS 15000u /* shorter: half as many more the next time */
#define SLICE_SLOW_NS 40000u /* longer: half of them */
/* Budgets too short for that: somebody wants a few instructions only. */
#define SHORT_NS 1000u
#define SHORT 256u

static struct rv64_vcpu *of(struct vcpu *v)
{
	return (struct rv64_vcpu *)v;
}

static struct rv64_vm *vm_of(struct cpu_vm *vm)
{
	return (struct rv64_vm *)vm;
}

static int available(struct err *e)
{
	return 0; /* runs on every host that Lodge is built for */
}

static int features(void (*each)(void *ctx, const char *name, int value, const char *serves,
			    const char *without),
	void *ctx, struct err *e)
{
	const char *name;
	bool there;

	for (unsigned i = 0; i < jit_needs(i, &name, &there); i++)
		each(ctx, name, there, "translation of guest code (JIT)",
			"guest code is only interpreted");
	return 0;
}

/* ---- the ISA of this VM ---- */

/* Every extension that an ISA string names, beside the base. Order: RISC-V unprivileged specification, "ISA Extension Naming Conventions". */
static const char *const always[] = {
	"zicntr", "zihpm", "smaia", "ssaia", "sstc", "svadu", "svnapot", "svpbmt"};

static const char *const order[] = {"zicbom", "zicboz", "zicntr", "zicond", "zicsr", "zifencei",
	"zihintpause", "zihpm", "zawrs", "zba", "zbb", "zbs", "smaia", "ssaia", "sstc", "svadu",
	"svinval", "svnapot", "svpbmt"};

static bool has(const struct rv64_vm *vm, const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(always); i++)
		if (!strcmp(always[i], name))
			return true;
	for (unsigned i = 0; i < EXTS; i++)
		if (rv64_ext_name(i) && !strcmp(rv64_ext_name(i), name))
			return vm->exts >> i & 1;
	return false;
}

static void make_isa_string(struct rv64_vm *vm)
{
	size_t n = (size_t)snprintf(vm->isa, sizeof(vm->isa), "rv64imafdc");

	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		if (has(vm, order[i]))
			n += (size_t)snprintf(vm->isa + n, sizeof(vm->isa) - n, "_%s", order[i]);
}

/* "rv64", or "rv64,zbb=off,zba=on". */
static int parse_model(struct rv64_vm *vm, const char *model, struct err *e)
{
	const char *p = strchrnul(model, ',');

	if (strncmp(model, "rv64", 4) || p != model + 4)
		return err_set(e, -EINVAL, "CPU model \"%s\": rv64 is the one there is", model);
	while (*p) {
		char name[32];
		const char *eq = strchr(++p, '='), *end = strchrnul(p, ',');
		struct spell near = {0};
		bool found = false, on;

		if (!eq || eq > end || (size_t)(eq - p) >= sizeof(name))
			return err_set(e, -EINVAL,
				"CPU model \"%s\": write EXTENSION=on or EXTENSION=off", model);
		snprintf(name, sizeof(name), "%.*s", (int)(eq - p), p);
		on = end - eq == 3 && !strncmp(eq, "=on", 3);
		if (!on && !(end - eq == 4 && !strncmp(eq, "=off", 4)))
			return err_set(
				e, -EINVAL, "CPU model \"%s\": %s is on or off", model, name);
		for (unsigned i = 0; i < EXTS; i++) {
			if (!rv64_ext_name(i))
				continue;
			spell_offer(&near, name, rv64_ext_name(i));
			if (strcmp(name, rv64_ext_name(i)))
				continue;
			found = true;
			vm->exts = on ? vm->exts | BIT(i) : vm->exts & ~BIT(i);
		}
		if (!found)
			return err_set(e, -EINVAL,
				"CPU model \"%s\": extension %s cannot be switched%s%s%s", model,
				name, near.best ? " (did you mean " : "", near.best ?: "",
				near.best ? "?)" : "");
		p = end;
	}
	return 0;
}

/* ---- life ---- */

static void invalidate(
	struct space_listener *l, unsigned view_tag, gpa_t a, uint64_t len, unsigned what)
{
	struct rv64_vm *vm = container_of(l, struct rv64_vm, listener);

	bool code = what & MEM_EXEC && vm->jit;

	/* Translations go before harts look again, and once more for what they made until then. */
	if (code)
		jit_drop(vm->jit, a.v, len);
	rv64_broadcast(
		vm, NULL, NULL, what == MEM_WRITE ? POLL_TLB_W : POLL_TLB_ALL | POLL_FENCE_I);
	if (code)
		jit_drop(vm->jit, a.v, len);
}

/* ---- translated code and who writes to it ---- */

static void code_written(void *ctx, gpa_t page, const void *host)
{
	jit_written(ctx, page.v);
}

static uint64_t code_watch(void *ctx, struct hart *h, uint64_t page)
{
	struct rv64_vm *vm = ctx;
	struct space_page pg;
	bool here = !space_page(vm->o.space, 0, gpa(page), MEM_EXEC, &pg);
	uint64_t stamp;

	tracker_arm(vm->code_writes, gpa(page));
	stamp = rv64_ask_no_writes(vm, h, here ? pg.host : NULL);
	if (!h)
		return stamp;
	if (here)
		mmu_drop_writes_to(h, pg.host);
	/* Not over what others have asked of this hart and it has yet to do. */
	if (atomic_load(&h->j.w_flushed) == stamp - 1)
		atomic_store(&h->j.w_flushed, stamp);
	return stamp;
}

static const void *code_memory(void *ctx, uint64_t page)
{
	struct rv64_vm *vm = ctx;
	struct space_page pg;

	return space_page(vm->o.space, 0, gpa(page), MEM_EXEC, &pg) ? NULL : pg.host;
}

static bool code_settled(void *ctx, uint64_t stamp)
{
	struct rv64_vm *vm = ctx;

	/* A hart outside run() serves its poll bits before it stores anything. */
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		struct hart *h = &vm->vcpus[i]->h;

		if (atomic_load(&h->in_run) && atomic_load(&h->j.w_flushed) < stamp)
			return false;
	}
	return true;
}

static int start_jit(struct rv64_vm *vm, struct err *e)
{
	struct jit_opts jo = {.cache_bytes = vm->o.jit_cache,
		.exts = vm->exts,
		.alone = vm->o.jit_alone,
		.tiers = vm->o.jit_tiers == CPU_TIERS_FIRST	? JIT_TIERS_ONE
			 : vm->o.jit_tiers == CPU_TIERS_AT_ONCE ? JIT_TIERS_NOW
								: JIT_TIERS_TWO,
		.perf_map = vm->o.perf_map,
		.watch = code_watch,
		.settled = code_settled,
		.memory = code_memory,
		.ctx = vm};
	struct tracker_ops ops = {.before = code_written};
	int rc = jit_create(&vm->jit, &jo, e);

	vm->o.perf_map = NULL;
	ops.ctx = vm->jit;
	if (!rc)
		rc = tracker_start_quiet(&vm->code_writes, vm->o.space, &ops, e);
	if (rc)
		jit_destroy(vm->jit);
	return rc;
}

static int make_rings(struct rv64_vm *vm, struct err *e)
{
	void *p = mmap(NULL, vm->o.vcpus * sizeof(struct rv64_ring), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return err_sys(e, -errno, "rv64 engine: exit records of %u vCPUs", vm->o.vcpus);
	vm->rings = p;
	return 0;
}

void rv64_set_causes(struct rv64_vm *vm, const struct rv64_causes *t)
{
	struct cpu_exit x;

	vm->causes = t;
	vm->intercept = 0;
	for (unsigned i = 0; i < RV64_CAUSES; i++) {
		const struct rv64_cause *c = rv64_cause(t, i);
		struct rv64_status st = {
			.cause = i, .htinst = i == CAUSE_LOAD_ACCESS ? 0x03 : 0x23};

		if (c && c->basic == CPU_BASIC_EXCEPTION && c->vector < 32 &&
			vm->o.intercept >> c->vector & 1)
			vm->intercept |= BIT(i);
		rv64_translate(t, &st, &x);
		vm->type_of[0][i] = (uint8_t)x.type;
		st.cause |= CAUSE_IRQ;
		rv64_translate(t, &st, &x);
		vm->type_of[1][i] = (uint8_t)x.type;
	}
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vm->vcpus[i]->h.reader.causes = t;
}

static int vm_create(struct cpu_vm **out, const struct cpu_vm_opts *o, struct err *e)
{
	struct err why = {0};
	struct rv64_vm *vm;
	int rc;

	if (o->clock != CPU_CLOCK_HOST)
		return err_set(e, -ENOTSUP,
			"clock model: the rv64 engine has no cycle model yet; use --clock host");
	if (!o->vcpus || o->vcpus > CPU_MAX_VCPUS)
		return err_set(
			e, -EINVAL, "%u vCPUs: 1 to %d are possible", o->vcpus, CPU_MAX_VCPUS);
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_set(e, -ENOMEM, "rv64 engine: out of memory");
	vm->o = *o;
	vm->exts = RV64_EXT_ALL;
	rc = o->cpu_model ? parse_model(vm, o->cpu_model, e) : 0;
	if (rc) {
		free(vm);
		return rc;
	}
	vm->o.cpu_model = NULL;
	make_isa_string(vm);
	if (o->jit == CPU_JIT_AUTO) {
		rc = jit_available(&why);
		if (rc)
			log_warn(o->log, "rv64", "guest code is only interpreted: %s",
				err_msg(&why));
		rc = rc ? 0 : start_jit(vm, e);
		if (rc) {
			free(vm);
			return rc;
		}
	}
	rc = make_rings(vm, e);
	if (rc) {
		tracker_stop(vm->code_writes);
		jit_destroy(vm->jit);
		free(vm);
		return rc;
	}
	rv64_set_causes(vm, &rv64_causes);
	vm->origin_ns = clock_mono_ns();
	vm->listener.invalidate = invalidate;
	space_listen(o->space, &vm->listener);
	*out = (struct cpu_vm *)vm;
	return 0;
}

static void vm_destroy(struct cpu_vm *v)
{
	struct rv64_vm *vm = vm_of(v);

	if (!vm)
		return;
	space_unlisten(vm->o.space, &vm->listener);
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		rv64_icache_destroy(vm->vcpus[i]->h.ic);
		mmu_destroy(&vm->vcpus[i]->h);
		jit_hart_destroy(&vm->vcpus[i]->h);
		free(vm->vcpus[i]);
	}
	tracker_stop(vm->code_writes);
	jit_destroy(vm->jit);
	munmap(vm->rings, vm->o.vcpus * sizeof(*vm->rings));
	free(vm);
}

static int vcpu_create(struct vcpu **out, struct cpu_vm *v, unsigned index, struct err *e)
{
	struct rv64_vm *vm = vm_of(v);
	struct rv64_vcpu *c;
	int rc;

	if (index != vm->nvcpus || index >= vm->o.vcpus)
		return err_set(e, -EINVAL, "vCPU %u: they are made in order, and there are %u",
			index, vm->o.vcpus);
	c = aligned_alloc(64, align_up(sizeof(*c), 64));
	if (!c)
		return err_set(e, -ENOMEM, "vCPU %u: out of memory", index);
	memset(c, 0, sizeof(*c));
	c->h.slice = SLICE;
	rc = rv64_icache_create(&c->h.ic, vm->exts, vm->jit ? BLOCK_ARENA_COLD : BLOCK_ARENA, e);
	if (!rc)
		rc = mmu_create(&c->h, e);
	if (!rc && vm->jit)
		rc = jit_hart_init(vm->jit, &c->h, e);
	if (rc) {
		mmu_destroy(&c->h);
		rv64_icache_destroy(c->h.ic);
		free(c);
		return rc;
	}
	c->head.ops = &rv64_engine;
	c->head.index = index;
	c->h.head = &c->head;
	c->h.vm = vm;
	c->h.id = index;
	c->h.ring = &vm->rings[index];
	c->h.reader = (struct rv64_reader){
		.ring = c->h.ring, .causes = vm->causes, .vcpu = (uint16_t)index};
	vm->vcpus[vm->nvcpus++] = c;
	rv64_engine.vcpu_reset((struct vcpu *)c, &(struct cpu_boot){0});
	*out = (struct vcpu *)c;
	return 0;
}

static void vcpu_reset(struct vcpu *v, const struct cpu_boot *boot)
{
	struct hart *h = &of(v)->h;

	memset(h->x, 0, sizeof(h->x));
	memset(h->f, 0, sizeof(h->f));
	memset(&h->c, 0, sizeof(h->c));
	memset(&h->pend, 0, sizeof(h->pend));
	memset(h->imsic, 0, sizeof(h->imsic));
	memset(h->ipis, 0, sizeof(h->ipis));
	h->irq_open = 0;
	h->mstatus = 0;
	h->fs = 0;
	h->mip = 0;
	h->mie = h->mideleg = h->medeleg = 0;
	fp_host_init(&h->fp);
	h->mtimecmp = UINT64_MAX;
	h->c.stimecmp = UINT64_MAX;
	h->resv_va = UINT64_MAX;
	h->posted = false;
	h->pauses = 0;
	h->poll = 0;
	h->c.instret_base = h->c.cycle_base =
		-h->instret; /* counters start at zero; statistics go on */
	pmp_update(h);
	mmu_space(h);
	rv64_code_space(h, 0);
	rv64_code_flush(h);
	rv64_code_fence_i(h);
	h->pc = boot->pc;
	h->x[10] = boot->arg0;
	h->x[11] = boot->arg1;
	h->x[12] = boot->arg2;
	rv64_set_priv(h, PRIV_M);
	h->hsm.system = false;
	atomic_store(&h->hsm.state, boot->running ? HSM_STARTED : HSM_STOPPED);
	if (h->vm->o.builtin_firmware)
		sbi_reset(h, boot->running);
}

/* ---- running ---- */

static void finish_pending(struct hart *h, const struct cpu_exit *x)
{
	if (!h->pend.active)
		return;
	switch ((enum rv64_pend)h->pend.kind) {
	case PEND_CONSOLE:
	case PEND_CALL:
		sbi_complete(h, x);
		return;
	case PEND_VIEW:
		h->pend.active = false;
		if (x->fault.error)
			rv64_deliver(h, h->pc, h->pend.cause, h->pend.va);
		return;
	case PEND_TRAP:
		h->pend.active = false;
		if (x->exc.reflect)
			rv64_deliver(h, h->pc, h->pend.cause, h->pend.va);
		return;
	case PEND_MMIO:
		h->pend.data = x->mmio.data;
		mmu_complete(h, x->mmio.error);
		return;
	}
}

/* As the call that it waits in would look. */
static void leave_waiting(struct hart *h, uint64_t fid)
{
	struct rv64_status *st = rv64_leave(h, CAUSE_ECALL_S, 0);

	st->reg[0] = fid == HSM_STOP ? UINT64_MAX : rv64_next_deadline(h);
	st->reg[6] = fid;
	st->reg[7] = EXT_HSM;
}

/* What came after the hart's last look: there is something to do after all. */
static void look_again(struct hart *h)
{
	bool waits = h->st.cause == CAUSE_ECALL_S && h->st.reg[7] == EXT_HSM;
	bool stopped = waits && h->st.reg[6] == HSM_STOP;
	bool idle = (waits && !stopped) ||
		    (h->st.cause == CAUSE_VIRTUAL_INSN && h->st.tval == INSN_WFI);

	if ((idle && rv64_mip(h) & h->mie) ||
		(stopped && atomic_load(&h->hsm.state) == HSM_START_PENDING))
		rv64_leave(h, CAUSE_IRQ | IRQ_SSI, 0);
}

static void give_note(void *ctx, const struct cpu_note *n)
{
	const struct hart *h = ctx;

	if (h->vm->o.note)
		h->vm->o.note(h->vm->o.note_ctx, h->id, n);
}

#define DAMAGED_MAX 16u /* in a row, and it is no accident any more */

/* The monitor's end of it. */
static void take_exit(struct hart *h, struct cpu_exit *x)
{
	if (unlikely(h->vm->tamper))
		h->vm->tamper(h->vm->tamper_ctx, h->id, h->ring);
	if (likely(rv64_take(&h->reader, x, give_note, h))) {
		h->damaged = 0;
		return;
	}
	log_warn(h->vm->o.log, "cpu", "vCPU %u: exit record %llu is damaged (%s): dropped", h->id,
		(unsigned long long)h->nposted - 1, h->reader.why);
	/* What it was about has not retired: the hart goes there again. */
	h->pend.active = false;
	rv64_agree(&h->reader, h->nposted);
	*x = (struct cpu_exit){.raw = h->st.cause,
		.pc = h->pc,
		.code = {.basic = CPU_BASIC_EXTINT, .vector = CPU_VEC_IPI}};
	cpu_exit_identify(x);
	if (++h->damaged < DAMAGED_MAX)
		return;
	x->code.basic = CPU_BASIC_UNKNOWN;
	cpu_exit_identify(x);
	x->text = "its exit records come damaged, one after the other";
}

/* True while the guest may go on; false: h->st says why not. */
static bool ready_to_run(struct hart *h)
{
	uint32_t poll = rv64_serve_poll(h);

	/* Who is interrupted once is likely to be again, by somebody who waits: a guest's kernel that makes others flush their TLBs. */
	if (poll & POLL_SOON)
		h->slice = SLICE_MIN;
	if (poll & POLL_IRQ)
		h->irq_unsure = true;
	if (poll & POLL_KICK) {
		atomic_fetch_and(&h->poll, ~(uint32_t)POLL_KICK);
		rv64_leave(h, CAUSE_IRQ | IRQ_SSI, 0);
		return false;
	}
	if (unlikely(atomic_load_explicit(&h->hsm.state, memory_order_acquire) != HSM_STARTED) &&
		!sbi_may_run(h)) {
		leave_waiting(h, h->hsm.state == HSM_SUSPENDED ? HSM_SUSPEND : HSM_STOP);
		return false;
	}
	rv64_take_interrupt(h);
	return !h->posted;
}

/* Blocks until poll bits, an exit, or the end of the slice: true. */
static bool interpret(struct hart *h, uint64_t *entries)
{
	while (!h->posted && h->instret < h->instret_stop && *entries &&
		!atomic_load_explicit(&h->poll, memory_order_relaxed)) {
		rv64_block_run(h);
		--*entries;
	}
	return !*entries || h->instret >= h->instret_stop;
}

/* Guests differ by a hundred times in what they do in a nanosecond: memory that misses all caches, a loop in registers. */
static void fit_slice(struct hart *h, uint64_t took)
{
	if (took < SLICE_QUICK_NS && h->slice < SLICE_MAX)
		h->slice = MIN(h->slice + h->slice / 2, SLICE_MAX);
	else if (took > SLICE_SLOW_NS && h->slice > SLICE_MIN)
		h->slice /= 2;
}

static void run_loop(struct hart *h, uint64_t end, bool few)
{
	/*
	 * The slice goes on over polls, which a guest can bring about itself with every write of a CSR. Entries count too: a guest
	 * whose trap handler traps at once retires nothing. Either must see its timers, and leave in time.
	 */
	uint64_t slice = few ? SHORT : h->slice, stop = h->instret + slice, entries = slice;
	uint64_t began = clock_mono_ns();

	while (ready_to_run(h)) {
		uint64_t now;
		bool over;

		stop = MIN(stop, h->instret + h->slice); /* it may have become shorter */
		h->instret_stop = stop;
		over = h->j.jit ? jit_run(h, &entries) : interpret(h, &entries);
		if (h->posted)
			return;
		if (!over)
			continue;
		now = clock_mono_ns();
		if (now >= end) {
			rv64_leave(h, CAUSE_IRQ | IRQ_STI, 0);
			return;
		}
		if (!few) {
			/* Else it was cut short, which says nothing of its length. */
			if (entries)
				fit_slice(h, now - began);
			slice = h->slice;
			began = now;
		}
		stop = h->instret + slice;
		entries = slice;
	}
}

/* Posts what the hart's registers say, and takes it at the other end. */
static void leave(struct hart *h, struct cpu_exit *x)
{
	rv64_post(h->ring, &h->nposted, (uint16_t)h->id, RV64_RECORD_EXIT, &h->st);
	take_exit(h, x);
	h->stats.exits[x->reason]++;
	h->posted = false;
}

static void vcpu_run(struct vcpu *v, uint64_t budget_ns, struct cpu_exit *x)
{
	struct hart *h = &of(v)->h;
	uint64_t end = budget_ns == CPU_BUDGET_NONE ? budget_ns : clock_mono_ns() + budget_ns;

	h->posted = false;
	h->irq_unsure = true;
	if (h->asleep_since)
		rv64_slept(h);
	fp_host_enter(&h->fp);
	finish_pending(h, x);
	if (!h->posted && !budget_ns) {
		rv64_leave(h, CAUSE_IRQ | IRQ_STI, 0);
	} else if (!h->posted) {
		atomic_store(&h->in_run, true);
		run_loop(h, end, budget_ns < SHORT_NS);
		atomic_store(&h->in_run, false);
	}
	fp_host_leave(&h->fp);
	/*
	 * What came after the last look must not wait for a wake that nobody sends to a hart in run(): either the sender sees in_run false
	 * and wakes, or this look sees what it stored (irq.c has the proof).
	 */
	atomic_thread_fence(memory_order_seq_cst);
	look_again(h);
	leave(h, x);
}

/* ---- an exact number of instructions ---- */

#define STUCK 100000u /* entries without an instruction: a trap handler that traps at once */

/* Makes progress towards `target` without passing it: many instructions at a time where that cannot happen. */
static void towards(struct hart *h, uint64_t target)
{
	uint64_t left = target - h->instret, entries = STUCK;

	if (h->j.jit && left > JIT_BLOCK_INSNS) {
		h->instret_stop = target;
		jit_run(h, &entries);
	} else if (!h->j.jit && left > BLOCK_MAX) {
		h->instret_stop = target - BLOCK_MAX;
		rv64_block_run(h);
	} else {
		rv64_block_step(h);
	}
}

void rv64_run_exactly(struct vcpu *v, uint64_t n, struct cpu_exit *x)
{
	struct hart *h = &of(v)->h;
	uint64_t target = h->instret + n, last = h->instret;
	unsigned entries = 0;
	bool ready;

	h->posted = false;
	h->irq_unsure = true;
	fp_host_enter(&h->fp);
	finish_pending(h, x);
	atomic_store(&h->in_run, true);
	ready = !h->posted && ready_to_run(h);
	while (ready && !h->posted && h->instret < target && entries < STUCK) {
		if (unlikely(atomic_load(&h->poll))) {
			ready = ready_to_run(h);
			continue;
		}
		towards(h, target);
		entries = h->instret == last ? entries + 1 : 0;
		last = h->instret;
	}
	atomic_store(&h->in_run, false);
	fp_host_leave(&h->fp);
	if (!h->posted)
		rv64_leave(h, CAUSE_IRQ | IRQ_STI, 0);
	leave(h, x);
}

static void vcpu_kick(struct vcpu *v)
{
	atomic_fetch_or(&of(v)->h.poll, POLL_KICK);
}

/* ---- interrupts and time, from anywhere ---- */

static void vcpu_irq(struct vcpu *v, enum cpu_irq line, bool level)
{
	static const uint8_t bits[CPU_IRQS] = {
		[CPU_IRQ_M_SOFT] = IRQ_MSI, [CPU_IRQ_M_EXT] = IRQ_MEI, [CPU_IRQ_S_EXT] = IRQ_SEI};
	struct hart *h = &of(v)->h;

	/* The timer's level is made here, of mtimecmp. */
	if (line == CPU_IRQ_M_TIMER)
		return;
	if (level)
		atomic_fetch_or(&h->lines, BIT(bits[line]));
	else
		atomic_fetch_and(&h->lines, ~BIT(bits[line]));
	rv64_poke(h, POLL_IRQ);
}

static void vcpu_msi(struct vcpu *v, enum cpu_msi_file file, uint32_t id)
{
	struct hart *h = &of(v)->h;

	if (file > CPU_MSI_S)
		return;
	if (id & CPU_MSI_FROM_VCPU) {
		id &= ~CPU_MSI_FROM_VCPU;
		imsic_sent(h, file, id);
	}
	if (imsic_set(&h->imsic[file], id))
		rv64_poke(h, POLL_IRQ);
}

static void vcpu_mtimecmp(struct vcpu *v, uint64_t when)
{
	struct hart *h = &of(v)->h;

	h->mtimecmp = when;
	rv64_poke(h, POLL_IRQ);
}

static uint64_t vcpu_mtimecmp_get(struct vcpu *v)
{
	return of(v)->h.mtimecmp;
}

static uint64_t time_get(struct cpu_vm *vm)
{
	return rv64_time(vm_of(vm));
}

void rv64_time_set(struct rv64_vm *vm, uint64_t t)
{
	vm->time_at_stop = t;
	vm->origin_ns = clock_mono_ns() -
			(uint64_t)((unsigned __int128)t * 1000000000u / vm->o.timebase_hz);
}

static void time_set(struct cpu_vm *vm, uint64_t t)
{
	rv64_time_set(vm_of(vm), t);
}

static void time_stop(struct cpu_vm *v)
{
	struct rv64_vm *vm = vm_of(v);

	vm->time_at_stop = rv64_time(vm);
	vm->time_stopped = true;
}

static void time_start(struct cpu_vm *v)
{
	struct rv64_vm *vm = vm_of(v);

	if (!vm->time_stopped)
		return;
	vm->time_stopped = false;
	rv64_time_set(vm, vm->time_at_stop);
	if (vm->jit)
		jit_go(vm->jit);
}

/* ---- state, debugging, description ---- */

static const struct state_desc *vcpu_state(void)
{
	return &rv64_hart_state;
}

static const struct state_desc *vm_state(void)
{
	return &rv64_vm_state;
}

static void *vcpu_state_obj(struct vcpu *v)
{
	return &of(v)->h;
}

static void *vm_state_obj(struct cpu_vm *vm)
{
	return vm;
}

static void vcpu_stats(struct vcpu *v, struct cpu_stats *st)
{
	struct hart *h = &of(v)->h;

	*st = h->stats;
	st->instructions = st->cycles = h->instret;
	st->blocks_decoded = h->ic->decoded;
}

static void vm_notes(struct cpu_vm *vm, bool on)
{
	vm_of(vm)->notes = on;
}

static size_t hot_code_get(struct cpu_vm *vm, uint64_t *gpa, size_t max)
{
	return vm_of(vm)->jit ? jit_hot_list(vm_of(vm)->jit, gpa, max) : 0;
}

static void hot_code_put(struct cpu_vm *vm, const uint64_t *gpa, size_t n)
{
	if (vm_of(vm)->jit)
		jit_warm(vm_of(vm)->jit, gpa, n);
}

static void vm_counters(
	struct cpu_vm *v, void (*each)(void *ctx, const char *name, uint64_t value), void *ctx)
{
	struct rv64_vm *vm = vm_of(v);

	uint64_t taken = 0, dropped = 0;

	for (unsigned i = 0; i < vm->nvcpus; i++) {
		taken += vm->vcpus[i]->h.reader.taken;
		dropped += vm->vcpus[i]->h.reader.dropped;
	}
	each(ctx, "exit_records", taken);
	each(ctx, "exit_records_dropped", dropped);
	if (vm->jit)
		jit_counters(vm->jit, each, ctx);
}

static int vcpu_translate(struct vcpu *v, uint64_t gva, enum mem_access acc, gpa_t *out)
{
	return mmu_probe(&of(v)->h, gva, acc, out);
}

/* gdb's numbering for riscv: 0-31 x, 32 pc, 33-64 f. */
static uint64_t *reg(struct hart *h, unsigned n)
{
	if (n < 32)
		return &h->x[n];
	if (n == 32)
		return &h->pc;
	return n < 65 ? &h->f[n - 33] : NULL;
}

static int vcpu_reg_get(struct vcpu *v, unsigned n, uint64_t *val)
{
	uint64_t *p = reg(&of(v)->h, n);

	if (!p)
		return -ENOENT;
	*val = *p;
	return 0;
}

static int vcpu_reg_set(struct vcpu *v, unsigned n, uint64_t val)
{
	uint64_t *p = reg(&of(v)->h, n);

	if (!p)
		return -ENOENT;
	if (n)
		*p = val;
	return 0;
}

static const char *isa_string(struct cpu_vm *vm)
{
	return vm_of(vm)->isa;
}

static const char *mmu_type(struct cpu_vm *vm)
{
	return "riscv,sv48";
}

static unsigned msi_ids(struct cpu_vm *vm)
{
	return IMSIC_IDS;
}

const struct cpu_engine_ops rv64_engine = {
	.name = "rv64",
	.isa = "riscv64",
	.available = available,
	.features = features,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_reset = vcpu_reset,
	.vcpu_run = vcpu_run,
	.vcpu_kick = vcpu_kick,
	.vcpu_irq = vcpu_irq,
	.vcpu_msi = vcpu_msi,
	.vcpu_mtimecmp = vcpu_mtimecmp,
	.vcpu_mtimecmp_get = vcpu_mtimecmp_get,
	.time_get = time_get,
	.time_set = time_set,
	.time_stop = time_stop,
	.time_start = time_start,
	.vcpu_state = vcpu_state,
	.vm_state = vm_state,
	.vcpu_state_obj = vcpu_state_obj,
	.vm_state_obj = vm_state_obj,
	.vcpu_stats = vcpu_stats,
	.vm_notes = vm_notes,
	.vm_counters = vm_counters,
	.hot_code_get = hot_code_get,
	.hot_code_put = hot_code_put,
	.vcpu_translate = vcpu_translate,
	.vcpu_reg_get = vcpu_reg_get,
	.vcpu_reg_set = vcpu_reg_set,
	.isa_string = isa_string,
	.mmu_type = mmu_type,
	.msi_ids = msi_ids,
};
