/*
 * trap.c: traps, interrupts, returns and the system instructions (privileged specification, chapters "Machine-Level ISA" and
 * "Supervisor-Level ISA").
 */
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

void rv64_trap(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval)
{
	uint64_t deleg = cause & CAUSE_IRQ ? h->mideleg : h->medeleg;

	h->resv_va = UINT64_MAX;
	if (cause & CAUSE_IRQ)
		h->stats.interrupts++;
	else
		h->stats.traps++;
	if (h->priv != PRIV_M && deleg >> (cause & 63) & 1) {
		enter_s(h, pc, cause, tval);
		return;
	}
	if (h->vm->o.builtin_firmware) {
		/* Everything that a kernel can do is delegated to it, or is a call; so this is ours to explain. */
		h->pc = pc;
		h->posted = true;
		h->exit->reason = CPU_EXIT_ERROR;
		h->exit->raw = cause;
		h->exit->pc = pc;
		h->exit->gva = tval;
		h->exit->text = "a trap to M-mode, where the built-in firmware has no code";
		return;
	}
	enter_m(h, pc, cause, tval);
}

unsigned rv64_interrupt(struct hart *h)
{
	/* Highest first (privileged specification, "Machine Interrupt Registers"). */
	static const uint8_t order[] = {IRQ_MEI, IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI};
	uint64_t may = 0, pending;

	if (h->priv != PRIV_M || h->mstatus & MSTATUS_MIE)
		may = ~h->mideleg;
	if (h->priv == PRIV_U || (h->priv == PRIV_S && h->mstatus & MSTATUS_SIE))
		may |= h->mideleg;
	may &= h->mie;
	if (!may)
		return 0;
	pending = rv64_mip(h) & may;
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
	rv64_irq_changed(h);
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
	rv64_irq_changed(h);
}

bool op_wfi(struct hart *h, const struct rv64_op *op)
{
	if (h->priv == PRIV_U || (h->priv == PRIV_S && h->mstatus & MSTATUS_TW)) {
		rv64_illegal(h, op);
		return false;
	}
	/* Wakes for what is enabled in mie, whether or not it may be taken. */
	if (rv64_mip(h) & h->mie)
		return true;
	op_done(h, op);
	h->posted = true;
	h->exit->reason = CPU_EXIT_IDLE;
	h->exit->pc = h->pc;
	h->exit->idle.deadline_ns = rv64_next_deadline(h);
	return false;
}

static bool yield(struct hart *h, const struct rv64_op *op)
{
	op_done(h, op);
	h->pauses = 0;
	h->posted = true;
	h->exit->reason = CPU_EXIT_PAUSE;
	h->exit->pc = h->pc;
	return false;
}

/* A spinning guest may be waiting for a vCPU that has no worker: after a while let others run. */
bool op_pause(struct hart *h, const struct rv64_op *op)
{
	if (++h->pauses < 512)
		return true;
	return yield(h, op);
}

bool op_wrs(struct hart *h, const struct rv64_op *op, bool timeout)
{
	if (!timeout && h->priv != PRIV_M && h->mstatus & MSTATUS_TW) {
		rv64_illegal(h, op);
		return false;
	}
	if (h->resv_va == UINT64_MAX || ++h->pauses < 64)
		return true;
	return yield(h, op);
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
