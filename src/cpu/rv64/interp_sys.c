/*
 * System instructions: thin, the work is the priv half's. Each ends its block, so an end op follows, which looks at h->poll and at
 * the generation again.
 */
#include "cpu/rv64/interp.h"

#define CAUSE_ILLEGAL 2

HANDLER(illegal)
{
	rv64_trap(h, op_leave(h, op), CAUSE_ILLEGAL, (uint32_t)op->imm);
}

/* Behind a single instruction that translated code asked for. */
HANDLER(stop)
{
	h->instret++;
	h->pc += 2u * op->rd;
	h->j.stopped = 1;
}

HANDLER(fence_i)
{
	rv64_code_fence_i(h);
	NEXT;
}

HANDLER(ecall)
{
	op_ecall(h, op);
}

HANDLER(ebreak)
{
	op_ebreak(h, op);
}

HANDLER(mret)
{
	op_mret(h, op);
}

HANDLER(sret)
{
	op_sret(h, op);
}

HANDLER(wfi)
{
	if (op_wfi(h, op))
		NEXT;
}

HANDLER(pause)
{
	if (op_pause(h, op))
		NEXT;
}

HANDLER(wrs_nto)
{
	if (op_wrs(h, op, false))
		NEXT;
}

HANDLER(wrs_sto)
{
	if (op_wrs(h, op, true))
		NEXT;
}

HANDLER(sfence_vma)
{
	if (op_sfence_vma(h, op, op->rs1 != 0, RS1, op->rs2 != 0, RS2))
		NEXT;
}

/* Doing the work at once is allowed: the two fences around it only bound when it must have happened. */
HANDLER(sinval_vma)
{
	if (op_sfence_vma(h, op, op->rs1 != 0, RS1, op->rs2 != 0, RS2))
		NEXT;
}

HANDLER(sfence_w_inval)
{
	if (op_sinval_order(h, op))
		NEXT;
}

HANDLER(sfence_inval_ir)
{
	if (op_sinval_order(h, op))
		NEXT;
}

#define CBO(id, kind) \
	HANDLER(id) \
	{ \
		if (mem_cbo(h, op, RS1, kind)) \
			NEXT; \
	}
CBO(cbo_inval, CBO_INVAL)
CBO(cbo_clean, CBO_CLEAN)
CBO(cbo_flush, CBO_FLUSH)
CBO(cbo_zero, CBO_ZERO)

/* csrrs and csrrc with x0 (or a zero immediate) do not write at all. */
#define CSR(id, kind, write, value) \
	HANDLER(id) \
	{ \
		if (!csr_access(h, op, (unsigned)op->imm, kind, write, value, &h->tmp)) \
			return; \
		RD = h->tmp; \
		NEXT; \
	}
CSR(csrrw, CSR_RW, true, RS1)
CSR(csrrs, CSR_RS, op->rs1 != 0, RS1)
CSR(csrrc, CSR_RC, op->rs1 != 0, RS1)
CSR(csrrwi, CSR_RW, true, op->rs1)
CSR(csrrsi, CSR_RS, op->rs1 != 0, op->rs1)
CSR(csrrci, CSR_RC, op->rs1 != 0, op->rs1)
