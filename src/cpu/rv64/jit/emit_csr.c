/*
 * emit_csr.c: what kernels do to CSRs all the time: scratch registers of trap handlers, and interrupts off and on.
 *
 * Code does not know the mode that it will run in, so each looks at it; in U-mode, and wherever more would have to be done than to
 * read and write a word of the hart, the interpreter makes the instruction. Letting interrupts in is one word more when nothing that may come
 * was pending at the hart's last look and nothing but the timer has moved since (hart.irq_unsure); timers are seen at the slice's end.
 */
#include "cpu/rv64/jit/inside.h"
#include "cpu/rv64/priv.h"

#define CSR_SSTATUS 0x100
#define CSR_SSCRATCH 0x140
#define CSR_SEPC 0x141
#define CSR_SCAUSE 0x142
#define CSR_STVAL 0x143

/* Those that are a word of the hart: its place. */
static bool is_word(unsigned csr, struct x86_rm *m)
{
	switch (csr) {
	case CSR_SSCRATCH:
		*m = HART(c.sscratch);
		return true;
	case CSR_SEPC:
		*m = HART(c.sepc);
		return true;
	case CSR_SCAUSE:
		*m = HART(c.scause);
		return true;
	case CSR_STVAL:
		*m = HART(c.stval);
		return true;
	default:
		return false;
	}
}

static struct jit_cold *not_in_user_mode(struct jit_tr *t)
{
	x86_alu_i(&t->a, X86_32, ALU_CMP, HART(priv), PRIV_U);
	return jit_cold(t, COLD_OP, x86_jcc(&t->a, CC_E, NULL));
}

static bool read_word(struct jit_tr *t, const struct rv64_insn *in, struct x86_rm m)
{
	struct jit_cold *c = not_in_user_mode(t);
	int d = jit_dst(t, in->rd, RAX);

	if (in->rd) {
		x86_load(&t->a, X86_64, d, m);
		jit_put(t, in->rd, d);
	}
	jit_back(t, c);
	return true;
}

static bool exchange_word(struct jit_tr *t, const struct rv64_insn *in, struct x86_rm m)
{
	struct jit_cold *c = not_in_user_mode(t);
	int src = jit_src(t, in->rs1, RCX);

	if (in->rd)
		x86_load(&t->a, X86_64, RAX, m);
	if (in->imm == CSR_SEPC) {
		x86_mov(&t->a, RDX, src);
		x86_alu_i(&t->a, X86_64, ALU_AND, x86_reg(RDX), -2);
		src = RDX;
	}
	x86_store(&t->a, X86_64, m, src);
	jit_put(t, in->rd, RAX);
	jit_back(t, c);
	return true;
}

/* rax = sstatus (csr.c). Changes rdx. */
static void read_status(struct jit_tr *t)
{
	struct x86 *a = &t->a;

	_Static_assert(MSTATUS_UXL == BIT(33) && MSTATUS_SD == BIT(63), "bits that are made here");
	x86_load(a, X86_32, RAX, HART(fs));
	x86_lea(a, RDX, x86_mem(RAX, 1)); /* dirty is 3: bit 2 */
	x86_shift_i(a, X86_64, SHIFT_SHR, x86_reg(RDX), 2);
	x86_shift_i(a, X86_64, SHIFT_SHL, x86_reg(RDX), 63 - 33);
	x86_alu_i(a, X86_64, ALU_ADD, x86_reg(RDX), 1);
	x86_shift_i(a, X86_64, SHIFT_SHL, x86_reg(RDX), 33);
	x86_shift_i(a, X86_64, SHIFT_SHL, x86_reg(RAX), MSTATUS_FS_SHIFT);
	x86_alu(a, X86_64, ALU_OR, RAX, x86_reg(RDX));
	x86_load(a, X86_32, RDX, HART(mstatus));
	x86_alu_i(a, X86_32, ALU_AND, x86_reg(RDX),
		MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_SUM | MSTATUS_MXR);
	x86_alu(a, X86_64, ALU_OR, RAX, x86_reg(RDX));
}

static bool interrupts_off(struct jit_tr *t, const struct rv64_insn *in)
{
	struct jit_cold *c = not_in_user_mode(t);

	if (in->rd)
		read_status(t);
	x86_alu_i(&t->a, X86_64, ALU_AND, HART(mstatus), ~(int32_t)MSTATUS_SIE);
	jit_put(t, in->rd, RAX);
	jit_back(t, c);
	return true;
}

/* `src`: register with the bits, of which SIE may be the only one; 0: SIE. */
static bool interrupts_on(struct jit_tr *t, const struct rv64_insn *in, unsigned src)
{
	struct x86 *a = &t->a;
	struct jit_cold *c;

	if (src) {
		jit_get(t, RCX, src);
		x86_mov(a, RDX, RCX);
		x86_alu_i(a, X86_64, ALU_AND, x86_reg(RDX), ~(int32_t)MSTATUS_SIE);
	}
	x86_alu_i(a, X86_32, ALU_CMP, HART(priv), PRIV_U + 1);
	x86_alu(a, X86_32, ALU_SBB, RAX, x86_reg(RAX)); /* not 0 in U-mode */
	x86_alu(a, X86_32, ALU_OR, RAX, HART(poll));
	x86_alu(a, X86_32, ALU_OR, RAX, HART(irq_unsure));
	if (src)
		x86_alu(a, X86_64, ALU_OR, RAX, x86_reg(RDX));
	c = jit_cold(t, COLD_OP, x86_jcc(a, CC_NE, NULL));
	if (in->rd)
		read_status(t);
	if (src)
		x86_alu_to(a, X86_64, ALU_OR, HART(mstatus), RCX);
	else
		x86_alu_i(a, X86_64, ALU_OR, HART(mstatus), (int32_t)MSTATUS_SIE);
	jit_put(t, in->rd, RAX);
	jit_back(t, c);
	return true;
}

static bool status(struct jit_tr *t, const struct rv64_insn *in)
{
	bool known = t->known >> in->rs1 & 1;
	uint64_t bits = known ? t->value[in->rs1] : 0;

	if ((in->id == RV_csrrs || in->id == RV_csrrc) && !in->rs1) {
		struct jit_cold *c = not_in_user_mode(t);

		read_status(t);
		jit_put(t, in->rd, RAX);
		jit_back(t, c);
		return true;
	}
	switch (in->id) {
	case RV_csrrci:
		return in->rs1 == MSTATUS_SIE && interrupts_off(t, in);
	case RV_csrrc:
		return known && bits == MSTATUS_SIE && interrupts_off(t, in);
	case RV_csrrsi:
		return in->rs1 == MSTATUS_SIE && interrupts_on(t, in, 0);
	case RV_csrrs:
		if (known)
			return bits == MSTATUS_SIE && interrupts_on(t, in, 0);
		return interrupts_on(t, in, in->rs1);
	default:
		return false;
	}
}

bool jit_emit_csr(struct jit_tr *t, const struct rv64_insn *in)
{
	unsigned fmt = rv64_row(in->id)->fmt;
	struct x86_rm m;

	if (fmt != FMT_CSR && fmt != FMT_CSRI)
		return false;
	if (in->imm == CSR_SSTATUS)
		return status(t, in);
	if (!is_word((unsigned)in->imm, &m))
		return false;
	if (in->id == RV_csrrw)
		return exchange_word(t, in, m);
	/* Set and clear without a bit are how they are read. */
	return (in->id == RV_csrrs || in->id == RV_csrrc) && !in->rs1 && read_word(t, in, m);
}
