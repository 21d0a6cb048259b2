/*
 * emit_mem.c: loads, stores, atomics.
 *
 * The way to memory is address.c's. A miss, an access across pages, MMIO: out of line, to jit_slow_mem() in runtime.c. Atomics
 * that miss or are misaligned: to the interpreter.
 */
#include "cpu/rv64/jit/inside.h"
#include "cpu/rv64/jit/x86_sse.h"
#include "cpu/rv64/priv.h"

static bool load(
	struct jit_tr *t, const struct rv64_insn *in, unsigned w, uint32_t op, unsigned how)
{
	struct x86_rm m;
	struct jit_cold *c = jit_emit_access(t, in->rs1, in->imm, how & MEM_SIZE, false,
		jit_access(how, in->rd ? in->rd : 32, false), &m);
	int d = jit_dst(t, in->rd, RAX);

	x86_op(&t->a, w, op, d, m);
	jit_put(t, in->rd, d);
	if (in->id != RV_ld && in->id != RV_lwu)
		t->sx |= 1u << in->rd;
	jit_back(t, c);
	return true;
}

static bool store(
	struct jit_tr *t, const struct rv64_insn *in, unsigned w, uint32_t op, unsigned size)
{
	struct x86_rm m;
	struct jit_cold *c = jit_emit_access(
		t, in->rs1, in->imm, size, true, jit_access(size, in->rs2, true), &m);

	x86_op(&t->a, w, op, jit_src(t, in->rs2, RDX), m);
	jit_back(t, c);
	return true;
}

/*
 * The host's lock in front of a read-modify-write, 20 cycles. With one hart nobody else makes atomic accesses to this memory: words
 * that devices write are ones that drivers only read, and no interrupt comes in the middle of an instruction. So it is left out, but
 * where the guest asks for order on both sides (aq and rl): that holds for what devices see, too.
 */
static void lock(struct jit_tr *t, const struct rv64_insn *in)
{
	if (t->j->nharts > 1 || in->rm == 3)
		x86_u8(&t->a, 0xf0);
}

/* The result of an atomic, in `reg`. */
static void put_old(struct jit_tr *t, const struct rv64_insn *in, unsigned size, int reg)
{
	int d = size == 4 ? jit_dst(t, in->rd, reg) : reg;

	if (size == 4)
		x86_op(&t->a, X86_64, 0x63, d, x86_reg(reg)); /* movsxd */
	jit_put(t, in->rd, d);
}

/* xadd (0x0fc1) and xchg (0x87) give the old value back. */
static bool exchange(struct jit_tr *t, const struct rv64_insn *in, unsigned size, uint32_t op)
{
	struct x86 *a = &t->a;
	struct jit_cold *c = jit_emit_aligned(t, in->rs1, size, true);

	jit_get(t, RDX, in->rs2);
	if (op == 0x0fc1)
		lock(t, in);
	x86_op(a, size == 8, op, RDX, x86_mem(RAX, 0));
	put_old(t, in, size, RDX);
	jit_back(t, c);
	return true;
}

/* What the host has no instruction for: cc is the condition, old against rs2, on which the old value stays; CC_NONE: op. */
#define CC_NONE 16
static bool loop(
	struct jit_tr *t, const struct rv64_insn *in, unsigned size, enum x86_alu op, unsigned cc)
{
	struct x86 *a = &t->a;
	struct jit_cold *c = jit_emit_aligned(t, in->rs1, size, true);
	const uint8_t *again;

	x86_mov(a, RCX, RAX);
	x86_load(a, size == 8, RAX, x86_mem(RCX, 0));
	again = a->p;
	jit_get(t, RDX, in->rs2);
	if (cc == CC_NONE) {
		x86_alu(a, size == 8, op, RDX, x86_reg(RAX));
	} else {
		x86_alu(a, size == 8, ALU_CMP, RAX, x86_reg(RDX));
		x86_cmov(a, X86_64, (enum x86_cc)cc, RDX, x86_reg(RAX));
	}
	lock(t, in);
	x86_op(a, size == 8, 0x0fb1, RDX, x86_mem(RCX, 0)); /* cmpxchg */
	x86_jcc(a, CC_NE, again);
	put_old(t, in, size, RAX);
	jit_back(t, c);
	return true;
}

/* amoand, amoor, amoxor: short when nobody wants the old value. */
static bool logic(struct jit_tr *t, const struct rv64_insn *in, unsigned size, enum x86_alu op)
{
	struct jit_cold *c;

	if (in->rd)
		return loop(t, in, size, op, CC_NONE);
	c = jit_emit_aligned(t, in->rs1, size, true);
	jit_get(t, RDX, in->rs2);
	lock(t, in);
	x86_alu_to(&t->a, size == 8, op, x86_mem(RAX, 0), RDX);
	jit_back(t, c);
	return true;
}

static bool load_reserved(struct jit_tr *t, const struct rv64_insn *in, unsigned size)
{
	struct x86 *a = &t->a;
	struct jit_cold *c = jit_emit_aligned(t, in->rs1, size, false);

	x86_op(a, X86_64, size == 8 ? 0x8b : 0x63, RDX, x86_mem(RAX, 0));
	jit_get(t, RCX, in->rs1);
	x86_store(a, X86_64, HART(resv_va), RCX);
	x86_store(a, X86_64, HART(resv_val), RDX);
	jit_put(t, in->rd, RDX);
	jit_back(t, c);
	return true;
}

static bool store_conditional(struct jit_tr *t, const struct rv64_insn *in, unsigned size)
{
	struct x86 *a = &t->a;
	struct jit_cold *c = jit_emit_aligned(t, in->rs1, size, true);
	uint8_t *other;

	x86_mov(a, RCX, RAX);
	jit_get(t, RAX, in->rs1);
	x86_alu(a, X86_64, ALU_CMP, RAX, HART(resv_va));
	x86_store_i(a, X86_64, HART(resv_va), -1);
	x86_mov_i(a, RAX, 1);
	other = x86_jcc8(a, CC_NE);
	jit_get(t, RDX, in->rs2);
	x86_load(a, X86_64, RAX, HART(resv_val));
	lock(t, in);
	x86_op(a, size == 8, 0x0fb1, RDX, x86_mem(RCX, 0)); /* cmpxchg */
	x86_setcc(a, CC_NE, RAX);
	x86_op(a, X86_32, 0x0fb6, RAX, x86_reg(RAX));
	x86_here8(a, other);
	jit_put(t, in->rd, RAX);
	jit_back(t, c);
	return true;
}

static bool atomic(struct jit_tr *t, const struct rv64_insn *in)
{
	switch (in->id) {
	case RV_amoadd_w:
		return exchange(t, in, 4, 0x0fc1);
	case RV_amoadd_d:
		return exchange(t, in, 8, 0x0fc1);
	case RV_amoswap_w:
		return exchange(t, in, 4, 0x87);
	case RV_amoswap_d:
		return exchange(t, in, 8, 0x87);
	case RV_amoand_w:
		return logic(t, in, 4, ALU_AND);
	case RV_amoand_d:
		return logic(t, in, 8, ALU_AND);
	case RV_amoor_w:
		return logic(t, in, 4, ALU_OR);
	case RV_amoor_d:
		return logic(t, in, 8, ALU_OR);
	case RV_amoxor_w:
		return logic(t, in, 4, ALU_XOR);
	case RV_amoxor_d:
		return logic(t, in, 8, ALU_XOR);
	case RV_amomin_w:
		return loop(t, in, 4, ALU_CMP, CC_L);
	case RV_amomin_d:
		return loop(t, in, 8, ALU_CMP, CC_L);
	case RV_amomax_w:
		return loop(t, in, 4, ALU_CMP, CC_G);
	case RV_amomax_d:
		return loop(t, in, 8, ALU_CMP, CC_G);
	case RV_amominu_w:
		return loop(t, in, 4, ALU_CMP, CC_B);
	case RV_amominu_d:
		return loop(t, in, 8, ALU_CMP, CC_B);
	case RV_amomaxu_w:
		return loop(t, in, 4, ALU_CMP, CC_A);
	case RV_amomaxu_d:
		return loop(t, in, 8, ALU_CMP, CC_A);
	case RV_lr_w:
		return load_reserved(t, in, 4);
	case RV_lr_d:
		return load_reserved(t, in, 8);
	case RV_sc_w:
		return store_conditional(t, in, 4);
	case RV_sc_d:
		return store_conditional(t, in, 8);
	default:
		return false;
	}
}

/* Kernels clear pages with it: 64 in a row. */
static bool zero_block(struct jit_tr *t, const struct rv64_insn *in)
{
	struct x86 *a = &t->a;
	struct jit_cold *refused, *c;

	x86_op(a, X86_32, 0x80, ALU_CMP, HART(may_zero));
	x86_u8(a, 0);
	refused = jit_cold(t, COLD_OP, x86_jcc(a, CC_E, NULL));
	c = jit_emit_aligned(t, in->rs1, CBO_BLOCK, true);
	x86_fzero(a, 0);
	x86_fstore_32(a, x86_mem(RAX, 0), 0);
	x86_fstore_32(a, x86_mem(RAX, 32), 0);
	jit_back(t, refused);
	jit_back(t, c);
	return true;
}

bool jit_emit_mem(struct jit_tr *t, const struct rv64_insn *in)
{
	switch (in->id) {
	case RV_lb:
		return load(t, in, X86_64, 0x0fbe, 1 | MEM_SIGNED);
	case RV_lh:
		return load(t, in, X86_64, 0x0fbf, 2 | MEM_SIGNED);
	case RV_lw:
		return load(t, in, X86_64, 0x63, 4 | MEM_SIGNED);
	case RV_ld:
		return load(t, in, X86_64, 0x8b, 8);
	case RV_lbu:
		return load(t, in, X86_32, 0x0fb6, 1);
	case RV_lhu:
		return load(t, in, X86_32, 0x0fb7, 2);
	case RV_lwu:
		return load(t, in, X86_32, 0x8b, 4);
	case RV_sb:
		return store(t, in, X86_BYTE, 0x88, 1);
	case RV_sh:
		return store(t, in, X86_32, 0x66000089, 2);
	case RV_sw:
		return store(t, in, X86_32, 0x89, 4);
	case RV_sd:
		return store(t, in, X86_64, 0x89, 8);
	case RV_cbo_zero:
		return zero_block(t, in);
	default:
		return atomic(t, in);
	}
}
