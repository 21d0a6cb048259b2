/*
 * trap.c: traps, interrupts, returns and the system instructions (privileged specification, chapters "Machine-Level ISA" and
 * "Supervisor-Level ISA").
 */
#include <sched.h>
#include <xmmintrin.h>

#include "base/clock.h"
#include "cpu/rv64/block.h"
#include "cpu/rv64/priv.h"

void rv64_update_regime(struct hart *h)
{
	unsigned eff = h->priv;
	unsigned r;

	if (h->mstatus & MSTATUS_MPRV)
		eff = (h->mstatus & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT;
	if (eff == PRIV_M)
		r = REGIME_M;
	else if (eff == PRIV_U)
		r = REGIME_U;
	else
		r = h->mstatus & MSTATUS_SUM ? REGIME_S_SUM : REGIME_S;
	h->regime = r;
	h->may_zero = mem_may_zero(h);
	mmu_choose(h);
}

void rv64_set_priv(struct hart *h, unsigned priv)
{
	h->priv = priv;
	rv64_code_mode(h, priv);
	rv64_update_regime(h);
}

static void enter_s(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval)
{
	h->c.scause = cause;
	h->c.sepc = pc;
	h->c.stval = tval;
	h->mstatus = (h->mstatus & ~(MSTATUS_SPP | MSTATUS_SPIE | MSTATUS_SIE)) |
		     (h->priv == PRIV_U ? 0 : MSTATUS_SPP) |
		     (h->mstatus & MSTATUS_SIE ? MSTATUS_SPIE : 0);
	h->pc = h->c.stvec & ~3ull;
	if (h->c.stvec & 1 && cause & CAUSE_IRQ)
		h->pc += 4 * (cause & ~CAUSE_IRQ);
	rv64_set_priv(h, PRIV_S);
}

static void enter_m(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval)
{
	h->c.mcause = cause;
	h->c.mepc = pc;
	h->c.mtval = tval;
	h->mstatus = (h->mstatus & ~(MSTATUS_MPP | MSTATUS_MPIE | MSTATUS_MIE)) |
		     ((uint64_t)h->priv << MSTATUS_MPP_SHIFT) |
		     (h->mstatus & MSTATUS_MIE ? MSTATUS_MPIE : 0);
	h->pc = h->c.mtvec & ~3ull;
	if (h->c.mtvec & 1 && cause & CAUSE_IRQ)
		h->pc += 4 * (cause & ~CAUSE_IRQ);
	rv64_set_priv(h, PRIV_M);
}

/* ---- leaving ---- */

struct rv64_status *rv64_leave(struct hart *h, uint64_t cause, uint64_t tval)
{
	h->posted = true;
	h->st = (struct rv64_status){.cause = cause, .tval = tval, .pc = h->pc};
	return &h->st;
}

void rv64_leave_idle(struct hart *h)
{
	rv64_leave(h, CAUSE_VIRTUAL_INSN, INSN_WFI)->reg[0] = rv64_next_deadline(h);
}

static uint64_t trap_flags(const struct hart *h)
{
	return (h->priv == PRIV_U ? RV64_FLAG_USER : 0) |
	       (h->fault_present ? RV64_FLAG_PRESENT : 0);
}

/* An exception that the monitor wants to see first, or that nobody in the guest can take. */
static void leave_as_trap(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval)
{
	h->pc = pc;
	h->pend = (struct rv64_pending){
		.active = true, .kind = PEND_TRAP, .cause = cause, .va = tval};
	rv64_leave(h, cause, tval)->flags = trap_flags(h);
}

/* ---- taking traps ---- */

static __attribute__((noinline)) void note(
	struct hart *h, uint64_t cause, uint64_t tval, uint64_t pc, uint64_t count)
{
	struct rv64_status st = {.cause = cause,
		.tval = tval,
		.pc = pc,
		.flags = trap_flags(h),
		.reg = {count, clock_mono_ns()}};

	if (cause == CAUSE_LOAD_ACCESS || cause == CAUSE_STORE_ACCESS)
		st.htinst = cause == CAUSE_LOAD_ACCESS ? 0x03 : 0x23;
	rv64_post(h->ring, &h->nposted, (uint16_t)h->id, RV64_RECORD_NOTE, &st);
	if (rv64_ring_full(h->ring, h->nposted))
		atomic_fetch_or_explicit(&h->poll, POLL_KICK, memory_order_relaxed);
}

void rv64_count(struct hart *h, uint64_t cause, uint64_t tval, uint64_t pc, uint64_t count)
{
	h->stats.delivered[h->vm->type_of[cause >> 63][cause & 63]] += count;
	if (unlikely(atomic_load_explicit(&h->vm->notes, memory_order_relaxed)))
		note(h, cause, tval, pc, count);
}

/* A message that an interrupt file holds counts when it is claimed (imsic.c): one trap may claim many. */
static bool from_file(const struct hart *h, uint64_t cause)
{
	unsigned file = cause == (CAUSE_IRQ | IRQ_SEI) ? CPU_MSI_S : CPU_MSI_M;

	if (cause != (CAUSE_IRQ | IRQ_SEI) && cause != (CAUSE_IRQ | IRQ_MEI))
		return false;
	return h->imsic[file].delivery == 1 && imsic_top(&h->imsic[file]);
}

/*
 * A kernel that knows the AIA does not look at the cause: it asks stopi again and again what there is (AIA, "Supervisor top interrupt CSR"), so that
 * one trap may bring several, and each answer is one. Kernels that do look never ask. So a trap counts when the next one comes, unless
 * stopi has told of it meanwhile.
 */
static void count_taken(struct hart *h, uint64_t pc, uint64_t cause)
{
	if (h->irq_open)
		rv64_count(h, h->irq_open, 0, pc, 1);
	h->irq_open = 0;
	if (from_file(h, cause))
		return;
	if (cause == (CAUSE_IRQ | IRQ_STI) || cause == (CAUSE_IRQ | IRQ_SSI))
		h->irq_open = cause;
	else
		rv64_count(h, cause, 0, pc, 1);
}

void rv64_told(struct hart *h, unsigned irq)
{
	if (irq != IRQ_STI && irq != IRQ_SSI)
		return;
	if (h->irq_open == (CAUSE_IRQ | irq))
		h->irq_open = 0;
	rv64_count(h, CAUSE_IRQ | irq, 0, h->c.sepc, 1);
}

void rv64_deliver(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval)
{
	uint64_t deleg = cause & CAUSE_IRQ ? h->mideleg : h->medeleg;

	h->resv_va = UINT64_MAX;
	if (cause & CAUSE_IRQ)
		h->stats.interrupts++;
	else
		h->stats.traps++;
	if (cause & CAUSE_IRQ)
		count_taken(h, pc, cause);
	else
		rv64_count(h, cause, tval, pc, 1);
	/* Beneath a kernel on the built-in firmware there is nobody: whatever comes is its own. */
	if (h->priv != PRIV_M && (deleg >> (cause & 63) & 1 || h->vm->o.builtin_firmware))
		enter_s(h, pc, cause, tval);
	else
		enter_m(h, pc, cause, tval);
}

void rv64_trap(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval)
{
	bool irq = cause & CAUSE_IRQ;
	uint64_t deleg = irq ? h->mideleg : h->medeleg;

	if (unlikely(!irq && h->vm->intercept >> (cause & 63) & 1))
		leave_as_trap(h, pc, cause, tval);
	/* All that a kernel can do is delegated to it, or is a call; what is not, is for the monitor to explain. */
	else if (unlikely(h->vm->o.builtin_firmware && !(deleg >> (cause & 63) & 1)))
		leave_as_trap(h, pc, cause, tval);
	else
		rv64_deliver(h, pc, cause, tval);
}

unsigned rv64_interrupt(struct hart *h)
{
	/* Highest first (privileged specification, "Machine Interrupt Registers"). */
	static const uint8_t order[] = {IRQ_MEI, IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI};
	uint64_t may = 0, mip, pending;

	if (h->priv != PRIV_M || h->mstatus & MSTATUS_MIE)
		may = ~h->mideleg;
	if (h->priv == PRIV_U || (h->priv == PRIV_S && h->mstatus & MSTATUS_SIE))
		may |= h->mideleg;
	may &= h->mie;
	if (!may)
		return 0;
	mip = rv64_mip(h);
	h->irq_unsure = (mip & h->mie) != 0;
	pending = mip & may;
	/* What goes to M-mode comes before all that was delegated. */
	if (pending & ~h->mideleg)
		pending &= ~h->mideleg;
	for (unsigned i = 0; i < ARRAY_SIZE(order) && pending; i++)
		if (pending >> order[i] & 1)
			return order[i];
	return 0;
}

bool rv64_take_interrupt(struct hart *h)
{
	unsigned cause = rv64_interrupt(h);

	if (cause)
		rv64_trap(h, h->pc, CAUSE_IRQ | cause, 0);
	return cause;
}

void rv64_illegal(struct hart *h, const struct rv64_op *op)
{
	rv64_trap(h, op_leave(h, op), CAUSE_ILLEGAL, rv64_op_raw(op));
}

void op_ecall(struct hart *h, const struct rv64_op *op)
{
	static const uint8_t cause[] = {CAUSE_ECALL_U, CAUSE_ECALL_S, 0, CAUSE_ECALL_M};
	uint64_t pc = op_leave(h, op);

	if (h->priv == PRIV_S && h->vm->o.builtin_firmware)
		sbi_call(h);
	else
		rv64_trap(h, pc, cause[h->priv], 0);
}

void op_ebreak(struct hart *h, const struct rv64_op *op)
{
	uint64_t pc = op_leave(h, op);

	rv64_trap(h, pc, CAUSE_BREAK, pc);
}

void op_mret(struct hart *h, const struct rv64_op *op)
{
	unsigned to;

	if (h->priv != PRIV_M) {
		rv64_illegal(h, op);
		return;
	}
	op_leave(h, op);
	h->instret++;
	to = (h->mstatus & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT;
	h->mstatus = (h->mstatus & ~(MSTATUS_MIE | MSTATUS_MPP)) | MSTATUS_MPIE |
		     (h->mstatus & MSTATUS_MPIE ? MSTATUS_MIE : 0);
	if (to != PRIV_M)
		h->mstatus &= ~MSTATUS_MPRV;
	h->pc = h->c.mepc;
	h->resv_va = UINT64_MAX;
	rv64_set_priv(h, to);
	rv64_irq_allowed(h);
}

void op_sret(struct hart *h, const struct rv64_op *op)
{
	unsigned to;

	if (h->priv == PRIV_U || (h->priv == PRIV_S && h->mstatus & MSTATUS_TSR)) {
		rv64_illegal(h, op);
		return;
	}
	op_leave(h, op);
	h->instret++;
	to = h->mstatus & MSTATUS_SPP ? PRIV_S : PRIV_U;
	h->mstatus = (h->mstatus & ~(MSTATUS_SIE | MSTATUS_SPP | MSTATUS_MPRV)) | MSTATUS_SPIE |
		     (h->mstatus & MSTATUS_SPIE ? MSTATUS_SIE : 0);
	h->pc = h->c.sepc;
	h->resv_va = UINT64_MAX;
	rv64_set_priv(h, to);
	rv64_irq_allowed(h);
}

/*
 * A hart that others keep busy, with messages that make it flush its TLB above all, sleeps for some microseconds each time, and one that waits for
 * a disk for some more; waking it takes the host much longer than that, while the sender waits. Whoever waited no longer than SHORT_WAIT_NS the
 * last time, waking included, stays awake for DOZE_NS the next time. If that was in vain, it sleeps until it had a short wait again.
 */
#define SHORT_WAIT_NS 200000u
#define DOZE_NS 150000u

/* Wakes for what is enabled in mie, whether or not it may be taken. */
static bool wakes(struct hart *h)
{
	return rv64_mip(h) & h->mie;
}

static bool doze(struct hart *h, uint64_t now)
{
	uint64_t end;

	if (!h->dozes)
		return false;
	end = MIN(now + DOZE_NS, rv64_next_deadline(h));
	do {
		for (unsigned i = 0; i < 32; i++) {
			if (atomic_load_explicit(&h->poll, memory_order_relaxed))
				return wakes(h);
			_mm_pause();
		}
		sched_yield(); /* who is to wake it may want this processor */
	} while (clock_mono_ns() < end);
	return false;
}

void rv64_slept(struct hart *h)
{
	h->dozes = clock_mono_ns() - h->asleep_since < SHORT_WAIT_NS;
	h->asleep_since = 0;
}

bool op_wfi(struct hart *h, const struct rv64_op *op)
{
	uint64_t now;

	if (h->priv == PRIV_U || (h->priv == PRIV_S && h->mstatus & MSTATUS_TW)) {
		rv64_illegal(h, op);
		return false;
	}
	now = clock_mono_ns();
	if (wakes(h) || doze(h, now)) {
		h->irq_unsure = true; /* the timer, perhaps */
		return true;
	}
	h->asleep_since = now;
	op_done(h, op);
	rv64_leave_idle(h);
	return false;
}

static bool yield(struct hart *h, const struct rv64_op *op, uint32_t word)
{
	op_done(h, op);
	h->pauses = 0;
	rv64_leave(h, CAUSE_VIRTUAL_INSN, word);
	return false;
}

/* A spinning guest may be waiting for a vCPU that has no worker: after a while let others run. */
bool op_pause(struct hart *h, const struct rv64_op *op)
{
	if (++h->pauses < 512)
		return true;
	return yield(h, op, INSN_PAUSE);
}

bool op_wrs(struct hart *h, const struct rv64_op *op, bool timeout)
{
	if (!timeout && h->priv != PRIV_M && h->mstatus & MSTATUS_TW) {
		rv64_illegal(h, op);
		return false;
	}
	if (h->resv_va == UINT64_MAX || ++h->pauses < 64)
		return true;
	return yield(h, op, timeout ? INSN_WRS_STO : INSN_WRS_NTO);
}

bool op_sfence_vma(struct hart *h, const struct rv64_op *op, bool has_va, uint64_t va,
	bool has_asid, uint64_t asid)
{
	if (h->priv == PRIV_U || (h->priv == PRIV_S && h->mstatus & MSTATUS_TVM)) {
		rv64_illegal(h, op);
		return false;
	}
	if (has_va) {
		mmu_flush_va(h, va, has_asid ? &asid : NULL);
		rv64_code_flush_va(h, va);
	} else if (has_asid) {
		mmu_flush_asid(h, asid);
		rv64_code_flush_asid(h, asid);
	} else {
		mmu_flush(h);
		rv64_code_flush(h);
	}
	return true;
}

bool op_sinval_order(struct hart *h, const struct rv64_op *op)
{
	if (h->priv == PRIV_U) {
		rv64_illegal(h, op);
		return false;
	}
	return true;
}
