/*
 * emit_int.c: integer instructions. The rows of insn.def say what each means; here each has the host's way of doing it.
 *
 * Results are made in the destination's own host register where it has one and the sources allow it, else in rax.
 * Constants are followed through a block (lui + addi and the like), so that li and la cost one instruction.
 */
#include "cpu/rv64/jit/inside.h"

unsigned jit_reads_low(const struct jit_tr *t, const struct rv64_insn *in)
{
	bool both = t->sx >> in->rs1 & 1 && t->sx >> in->rs2 & 1;

	switch (in->id) {
	case RV_addw:
	case RV_subw:
	case RV_mulw:
	case RV_sllw:
	case RV_srlw:
	case RV_sraw:
	case RV_rolw:
	case RV_rorw:
	case RV_divw:
	case RV_divuw:
	case RV_remw:
	case RV_remuw:
		return 3;
	case RV_addiw:
	case RV_slliw:
	case RV_srliw:
	case RV_sraiw:
	case RV_roriw:
	case RV_add_uw:
	case RV_sh1add_uw:
	case RV_sh2add_uw:
	case RV_sh3add_uw:
	case RV_slli_uw:
	case RV_zext_h:
	case RV_sext_b:
	case RV_sext_h:
		return 1;
	case RV_slli: /* the upper half is shifted out */
		return in->imm >= 32;
	case RV_and: /* of sign-extended values is one, and its low half is that of theirs */
	case RV_or:
	case RV_xor:
		return both ? 3 : 0;
	case RV_andi:
		return in->imm >= 0 || t->sx >> in->rs1 & 1;
	case RV_ori:
	case RV_xori:
		return t->sx >> in->rs1 & 1;
	case RV_sb:
	case RV_sh:
	case RV_sw:
		return 2;
	default:
		return 0;
	}
}

/* The flags say whether `d` is 0, for a branch right behind. */
static void tells_zero(struct jit_tr *t, int d)
{
	t->zero_at = t->a.p;
	t->zero_reg = d;
}

static bool sext(struct jit_tr *t, unsigned rd)
{
	jit_put_low(t, rd, RAX);
	return true;
}

static bool put_rax(struct jit_tr *t, unsigned rd)
{
	jit_put(t, rd, RAX);
	return true;
}

/* and, or, xor. */
static bool logic(struct jit_tr *t, const struct rv64_insn *in, enum x86_alu op)
{
	uint32_t sources = 1u << in->rs1 | 1u << in->rs2;
	bool sx = (t->sx & sources) == sources, low = t->low & sources;
	unsigned w = low ? X86_32 : X86_64;
	int d = jit_dst(t, in->rd, RAX), other = in->rs2;

	if (d != RAX && d == t->map[in->rs2]) {
		other = in->rs1;
	} else if (d != t->map[in->rs1] || d == RAX) {
		if (t->map[in->rs1])
			x86_load(&t->a, w, d, x86_reg(t->map[in->rs1]));
		else
			jit_get(t, d, in->rs1);
	}
	x86_alu(&t->a, w, op, d, jit_x(t, (unsigned)other));
	tells_zero(t, d);
	if (low) {
		jit_put_low(t, in->rd, d);
	} else {
		jit_put(t, in->rd, d);
		t->sx |= (uint32_t)sx << in->rd;
	}
	return true;
}

/* rd = rs1 op rs2. */
static bool alu(struct jit_tr *t, const struct rv64_insn *in, enum x86_alu op)
{
	struct x86 *a = &t->a;
	int d = jit_dst(t, in->rd, RAX), r1 = t->map[in->rs1], r2 = t->map[in->rs2];

	if (op == ALU_AND || op == ALU_OR || op == ALU_XOR)
		return logic(t, in, op);
	if (d != RAX && d == r2 && in->rd != in->rs1) {
		if (op != ALU_SUB) {
			x86_alu(a, X86_64, op, d, jit_x(t, in->rs1));
			jit_put(t, in->rd, d);
			return true;
		}
		d = RAX;
	}
	if (op == ALU_ADD && r1 && r2 && d != r1) {
		x86_lea(a, d, x86_sib(r1, r2, 0, 0));
	} else {
		jit_get(t, d, in->rs1);
		x86_alu(a, X86_64, op, d, jit_x(t, in->rs2));
	}
	jit_put(t, in->rd, d);
	return true;
}

static bool alu_w(struct jit_tr *t, const struct rv64_insn *in, enum x86_alu op)
{
	int d = jit_dst(t, in->rd, RAX);

	if (d != RAX && d == t->map[in->rs2] && in->rd != in->rs1) {
		if (op == ALU_ADD) {
			x86_alu(&t->a, X86_32, op, d, jit_x(t, in->rs1));
			jit_put_low(t, in->rd, d);
			return true;
		}
		d = RAX;
	}
	if (d == RAX || d != t->map[in->rs1])
		x86_load(&t->a, X86_32, d, jit_x(t, in->rs1));
	x86_alu(&t->a, X86_32, op, d, jit_x(t, in->rs2));
	jit_put_low(t, in->rd, d);
	return true;
}

static bool alu_i(struct jit_tr *t, const struct rv64_insn *in, enum x86_alu op)
{
	struct x86 *a = &t->a;
	int d = jit_dst(t, in->rd, RAX), r1 = t->map[in->rs1];
	bool sx = op != ALU_ADD && t->sx >> in->rs1 & 1;

	/* With a mask that is not negative, the low half is all that counts, and the result is whole. */
	if (sx && t->low >> in->rs1 & 1 && !(op == ALU_AND && in->imm >= 0)) {
		if (d != r1)
			x86_load(a, X86_32, d, x86_reg(r1));
		x86_alu_i(a, X86_32, op, x86_reg(d), in->imm);
		jit_put_low(t, in->rd, d);
		return true;
	}
	sx |= op == ALU_AND && in->imm >= 0;
	if (op == ALU_XOR && in->imm == -1) {
		jit_get(t, d, in->rs1);
		x86_op(a, X86_64, 0xf7, 2, x86_reg(d)); /* not */
	} else if (op == ALU_AND && in->imm == 255) {
		x86_op(a, X86_32 | X86_BYTE, 0x0fb6, d, jit_x(t, in->rs1));
	} else if (op == ALU_AND && in->imm >= 0) {
		if (d == RAX || d != r1)
			x86_load(a, X86_32, d, jit_x(t, in->rs1));
		x86_alu_i(a, X86_32, op, x86_reg(d), in->imm);
		tells_zero(t, d);
	} else if (op == ALU_ADD && r1 && d != r1) {
		x86_lea(a, d, x86_mem(r1, in->imm));
	} else {
		jit_get(t, d, in->rs1);
		x86_alu_i(a, X86_64, op, x86_reg(d), in->imm);
		tells_zero(t, d);
	}
	jit_put(t, in->rd, d);
	t->sx |= in->rd ? (uint32_t)sx << in->rd : 0;
	return true;
}

static bool addi(struct jit_tr *t, const struct rv64_insn *in)
{
	if (t->known >> in->rs1 & 1) {
		jit_put_const(t, in->rd, t->value[in->rs1] + (uint64_t)(int64_t)in->imm);
		return true;
	}
	if (!in->imm) {
		int d = jit_dst(t, in->rd, RAX);

		if (d == RAX && t->map[in->rs1])
			d = t->map[in->rs1];
		else
			jit_get(t, d, in->rs1);
		jit_put(t, in->rd, d);
		return true;
	}
	if (in->rd == in->rs1 && !t->map[in->rd]) {
		x86_alu_i(&t->a, X86_64, ALU_ADD, jit_x(t, in->rd), in->imm);
		jit_put(t, in->rd, -1);
		return true;
	}
	return alu_i(t, in, ALU_ADD);
}

static bool addiw(struct jit_tr *t, const struct rv64_insn *in)
{
	int d = jit_dst(t, in->rd, RAX);

	if (t->known >> in->rs1 & 1) {
		jit_put_const(t, in->rd,
			(uint64_t)(int64_t)(int32_t)(t->value[in->rs1] + (uint32_t)in->imm));
		return true;
	}
	/* sext.w */
	if (!in->imm && in->rd == in->rs1 && t->sx >> in->rs1 & 1)
		return true;
	if (!in->imm && !(t->low >> in->rs1 & 1)) {
		x86_op(&t->a, X86_64, 0x63, d, jit_x(t, in->rs1));
		jit_put(t, in->rd, d);
		t->sx |= 1u << in->rd;
		return true;
	}
	if (d == RAX || in->rd != in->rs1)
		x86_load(&t->a, X86_32, d, jit_x(t, in->rs1));
	if (in->imm)
		x86_alu_i(&t->a, X86_32, ALU_ADD, x86_reg(d), in->imm);
	jit_put_low(t, in->rd, d);
	return true;
}

static bool shift_i(struct jit_tr *t, const struct rv64_insn *in, enum x86_shift op)
{
	int d = jit_dst(t, in->rd, RAX);

	if (op == SHIFT_SHL && t->known >> in->rs1 & 1) {
		jit_put_const(t, in->rd, t->value[in->rs1] << (in->imm & 63));
		return true;
	}
	jit_get(t, d, in->rs1);
	if (in->imm & 63)
		x86_shift_i(&t->a, X86_64, op, x86_reg(d), (unsigned)in->imm & 63);
	jit_put(t, in->rd, d);
	return true;
}

static bool shift_iw(struct jit_tr *t, const struct rv64_insn *in, enum x86_shift op)
{
	int d = jit_dst(t, in->rd, RAX);

	if (d == RAX || d != t->map[in->rs1])
		x86_load(&t->a, X86_32, d, jit_x(t, in->rs1));
	if (in->imm & 31)
		x86_shift_i(&t->a, X86_32, op, x86_reg(d), (unsigned)in->imm & 31);
	jit_put_low(t, in->rd, d);
	return true;
}

static bool shift(struct jit_tr *t, const struct rv64_insn *in, enum x86_shift op)
{
	int by = jit_src(t, in->rs2, RCX), d = jit_dst(t, in->rd, RAX);

	x86_shift_x(&t->a, 1, op, d, jit_x(t, in->rs1), by);
	jit_put(t, in->rd, d);
	return true;
}

static bool shift_w(struct jit_tr *t, const struct rv64_insn *in, enum x86_shift op)
{
	int d = jit_dst(t, in->rd, RAX);

	x86_shift_x(&t->a, 0, op, d, jit_x(t, in->rs1), jit_src(t, in->rs2, RCX));
	jit_put_low(t, in->rd, d);
	return true;
}

static bool rotate(struct jit_tr *t, const struct rv64_insn *in, enum x86_shift op, unsigned w)
{
	jit_get(t, RCX, in->rs2);
	x86_load(&t->a, w, RAX, jit_x(t, in->rs1));
	x86_shift_cl(&t->a, w, op, x86_reg(RAX));
	return w == X86_64 ? put_rax(t, in->rd) : sext(t, in->rd);
}

static bool rotate_i(struct jit_tr *t, const struct rv64_insn *in, unsigned w)
{
	int d = jit_dst(t, in->rd, RAX);

	x86_rorx(&t->a, w, d, jit_x(t, in->rs1), (unsigned)in->imm & (w == X86_64 ? 63 : 31));
	if (w == X86_64)
		jit_put(t, in->rd, d);
	else
		jit_put_low(t, in->rd, d);
	return true;
}

/* rd = the condition, after a comparison. */
static bool flag(struct jit_tr *t, unsigned rd, enum x86_cc cc)
{
	int d = jit_dst(t, rd, RAX);

	x86_setcc(&t->a, cc, RAX);
	x86_op(&t->a, X86_32, 0x0fb6, d, x86_reg(RAX));
	jit_put(t, rd, d);
	t->sx |= 1u << rd;
	return true;
}

static bool set_less(struct jit_tr *t, const struct rv64_insn *in, enum x86_cc cc)
{
	x86_alu(&t->a, X86_64, ALU_CMP, jit_src(t, in->rs1, RAX), jit_x(t, in->rs2));
	return flag(t, in->rd, cc);
}

static bool set_less_i(struct jit_tr *t, const struct rv64_insn *in, enum x86_cc cc)
{
	x86_alu_i(&t->a, X86_64, ALU_CMP, jit_x(t, in->rs1), in->imm);
	return flag(t, in->rd, cc);
}

static bool mul(struct jit_tr *t, const struct rv64_insn *in)
{
	int d = jit_dst(t, in->rd, RAX);

	if (d != RAX && d == t->map[in->rs2] && in->rd != in->rs1) {
		x86_op(&t->a, X86_64, 0x0faf, d, jit_x(t, in->rs1));
	} else {
		jit_get(t, d, in->rs1);
		x86_op(&t->a, X86_64, 0x0faf, d, jit_x(t, in->rs2));
	}
	jit_put(t, in->rd, d);
	return true;
}

static bool mul_high(struct jit_tr *t, const struct rv64_insn *in)
{
	struct x86 *a = &t->a;

	jit_get(t, RAX, in->rs1);
	x86_op(a, X86_64, 0xf7, in->id == RV_mulh ? 5 : 4, jit_x(t, in->rs2));
	if (in->id == RV_mulhsu) {
		jit_get(t, RAX, in->rs1);
		x86_shift_i(a, X86_64, SHIFT_SAR, x86_reg(RAX), 63);
		x86_alu(a, X86_64, ALU_AND, RAX, jit_x(t, in->rs2));
		x86_alu(a, X86_64, ALU_SUB, RDX, x86_reg(RAX));
	}
	jit_put(t, in->rd, RDX);
	return true;
}

/* Divisors 0 and -1 (which the host may trap on) go out of line. */
static bool divide(
	struct jit_tr *t, const struct rv64_insn *in, unsigned w, bool is_signed, bool rem)
{
	struct x86 *a = &t->a;
	int r = rem ? RDX : RAX;

	x86_load(a, w, RCX, jit_x(t, in->rs2));
	if (is_signed) {
		/* 0 and -1 are those whose successor is at most 1 */
		x86_lea(a, RDX, x86_mem(RCX, 1));
		x86_alu_i(a, w, ALU_CMP, x86_reg(RDX), 1);
		jit_cold_op(t, x86_jcc(a, CC_BE, NULL));
	} else {
		x86_test(a, w, RCX, RCX);
		jit_cold_op(t, x86_jcc(a, CC_E, NULL));
	}
	x86_load(a, w, RAX, jit_x(t, in->rs1));
	if (is_signed) {
		if (w)
			x86_u8(a, 0x48);
		x86_u8(a, 0x99); /* cqo, cdq */
	} else {
		x86_zero(a, RDX);
	}
	x86_op(a, w, 0xf7, is_signed ? 7 : 6, x86_reg(RCX));
	if (w == X86_32)
		x86_op(a, X86_64, 0x63, r, x86_reg(r));
	jit_put(t, in->rd, r);
	t->colds[t->ncolds - 1].back = a->p;
	return true;
}

/* rd = (rs1 << n) + rs2; `uw`: rs1's low half. */
static bool shift_add(struct jit_tr *t, const struct rv64_insn *in, unsigned n, bool uw)
{
	struct x86 *a = &t->a;
	int s1, s2 = jit_src(t, in->rs2, RCX), d = jit_dst(t, in->rd, RAX);

	if (uw) {
		x86_load(a, X86_32, RAX, jit_x(t, in->rs1));
		s1 = RAX;
	} else {
		s1 = jit_src(t, in->rs1, RAX);
	}
	x86_lea(a, d, x86_sib(s2, s1, n, 0));
	jit_put(t, in->rd, d);
	return true;
}

static bool min_max(struct jit_tr *t, const struct rv64_insn *in, enum x86_cc take_b)
{
	jit_get(t, RAX, in->rs1);
	x86_alu(&t->a, X86_64, ALU_CMP, RAX, jit_x(t, in->rs2));
	x86_cmov(&t->a, X86_64, take_b, RAX, jit_x(t, in->rs2));
	return put_rax(t, in->rd);
}

static bool one_source(struct jit_tr *t, const struct rv64_insn *in, unsigned w, uint32_t op)
{
	int d = jit_dst(t, in->rd, RAX);

	x86_op(&t->a, w, op, d, jit_x(t, in->rs1));
	jit_put(t, in->rd, d);
	return true;
}

/* bts 0x0fab, btr 0x0fb3, btc 0x0fbb; with an immediate 0x0fba /5 /6 /7. */
static bool bit(struct jit_tr *t, const struct rv64_insn *in, uint32_t op)
{
	jit_get(t, RAX, in->rs1);
	x86_op(&t->a, X86_64, op, jit_src(t, in->rs2, RCX), x86_reg(RAX));
	return put_rax(t, in->rd);
}

static bool bit_i(struct jit_tr *t, const struct rv64_insn *in, int ext)
{
	jit_get(t, RAX, in->rs1);
	x86_op(&t->a, X86_64, 0x0fba, ext, x86_reg(RAX));
	x86_u8(&t->a, (unsigned)in->imm & 63);
	return put_rax(t, in->rd);
}

static bool conditional_zero(struct jit_tr *t, const struct rv64_insn *in, enum x86_cc zero_if)
{
	x86_mov_i(&t->a, RCX, 0);
	jit_get(t, RAX, in->rs1);
	x86_alu_i(&t->a, X86_64, ALU_CMP, jit_x(t, in->rs2), 0);
	x86_cmov(&t->a, X86_64, zero_if, RAX, x86_reg(RCX));
	return put_rax(t, in->rd);
}

void jit_emit_auipc(struct jit_tr *t, unsigned rd, int64_t imm)
{
	int d = jit_dst(t, rd, RAX);

	x86_load(&t->a, X86_64, d, HART(j.page));
	x86_alu_i(&t->a, X86_64, ALU_ADD, x86_reg(d), (int32_t)(t->insn->off + imm));
	jit_put(t, rd, d);
}

static bool auipc(struct jit_tr *t, const struct rv64_insn *in)
{
	if (!x86_fits32((int64_t)t->insn->off + in->imm))
		return false;
	jit_emit_auipc(t, in->rd, in->imm);
	return true;
}

/* TSO leaves only store to load: order that needs an instruction. A locked one is quicker than mfence and orders the same. */
static bool fence(struct jit_tr *t, const struct rv64_insn *in)
{
	if (in->id == RV_fence && in->imm & 0x50 && in->imm & 0x0a) {
		x86_u8(&t->a, 0xf0);
		x86_alu_i(&t->a, X86_32, ALU_OR, x86_mem(RSP, 0), 0);
	}
	return true;
}

static bool emit_m(struct jit_tr *t, const struct rv64_insn *in)
{
	switch (in->id) {
	case RV_mul:
		return mul(t, in);
	case RV_mulw:
		x86_load(&t->a, X86_32, RAX, jit_x(t, in->rs1));
		x86_op(&t->a, X86_32, 0x0faf, RAX, jit_x(t, in->rs2));
		return sext(t, in->rd);
	case RV_mulh:
	case RV_mulhu:
	case RV_mulhsu:
		return mul_high(t, in);
	case RV_div:
		return divide(t, in, X86_64, true, false);
	case RV_divu:
		return divide(t, in, X86_64, false, false);
	case RV_rem:
		return divide(t, in, X86_64, true, true);
	case RV_remu:
		return divide(t, in, X86_64, false, true);
	case RV_divw:
		return divide(t, in, X86_32, true, false);
	case RV_divuw:
		return divide(t, in, X86_32, false, false);
	case RV_remw:
		return divide(t, in, X86_32, true, true);
	case RV_remuw:
		return divide(t, in, X86_32, false, true);
	default:
		return false;
	}
}

/* Zbs and Zicond. */
static bool emit_bits(struct jit_tr *t, const struct rv64_insn *in)
{
	struct x86 *a = &t->a;

	switch (in->id) {
	case RV_bext:
		x86_shift_x(a, 1, SHIFT_SHR, RAX, jit_x(t, in->rs1), jit_src(t, in->rs2, RCX));
		x86_alu_i(a, X86_32, ALU_AND, x86_reg(RAX), 1);
		return put_rax(t, in->rd);
	case RV_bexti:
		jit_get(t, RAX, in->rs1);
		x86_shift_i(a, X86_64, SHIFT_SHR, x86_reg(RAX), (unsigned)in->imm & 63);
		x86_alu_i(a, X86_32, ALU_AND, x86_reg(RAX), 1);
		return put_rax(t, in->rd);
	case RV_bset:
		return bit(t, in, 0x0fab);
	case RV_bclr:
		return bit(t, in, 0x0fb3);
	case RV_binv:
		return bit(t, in, 0x0fbb);
	case RV_bseti:
		return bit_i(t, in, 5);
	case RV_bclri:
		return bit_i(t, in, 6);
	case RV_binvi:
		return bit_i(t, in, 7);
	case RV_czero_eqz:
		return conditional_zero(t, in, CC_E);
	case RV_czero_nez:
		return conditional_zero(t, in, CC_NE);
	default:
		return false;
	}
}

/* Zba and Zbb. */
static bool emit_b(struct jit_tr *t, const struct rv64_insn *in)
{
	struct x86 *a = &t->a;
	int d = jit_dst(t, in->rd, RAX);

	switch (in->id) {
	case RV_add_uw:
		x86_load(a, X86_32, RAX, jit_x(t, in->rs1));
		x86_alu(a, X86_64, ALU_ADD, RAX, jit_x(t, in->rs2));
		return put_rax(t, in->rd);
	case RV_sh1add:
	case RV_sh2add:
	case RV_sh3add:
		return shift_add(t, in, 1u + (in->id - RV_sh1add), false);
	case RV_sh1add_uw:
	case RV_sh2add_uw:
	case RV_sh3add_uw:
		return shift_add(t, in, 1u + (in->id - RV_sh1add_uw), true);
	case RV_slli_uw:
		x86_load(a, X86_32, RAX, jit_x(t, in->rs1));
		if (in->imm & 63)
			x86_shift_i(a, X86_64, SHIFT_SHL, x86_reg(RAX), (unsigned)in->imm & 63);
		return put_rax(t, in->rd);
	case RV_andn:
		x86_vex(a, 1, 0, 0, 2, 0xf2, d, jit_src(t, in->rs2, RCX), jit_x(t, in->rs1));
		/* andn is ~vvvv & rm */
		jit_put(t, in->rd, d);
		return true;
	case RV_orn:
		jit_get(t, RAX, in->rs2);
		x86_op(a, X86_64, 0xf7, 2, x86_reg(RAX));
		x86_alu(a, X86_64, ALU_OR, RAX, jit_x(t, in->rs1));
		return put_rax(t, in->rd);
	case RV_xnor:
		jit_get(t, RAX, in->rs1);
		x86_alu(a, X86_64, ALU_XOR, RAX, jit_x(t, in->rs2));
		x86_op(a, X86_64, 0xf7, 2, x86_reg(RAX));
		return put_rax(t, in->rd);
	case RV_max:
		return min_max(t, in, CC_L);
	case RV_maxu:
		return min_max(t, in, CC_B);
	case RV_min:
		return min_max(t, in, CC_G);
	case RV_minu:
		return min_max(t, in, CC_A);
	case RV_rol:
		return rotate(t, in, SHIFT_ROL, X86_64);
	case RV_ror:
		return rotate(t, in, SHIFT_ROR, X86_64);
	case RV_rolw:
		return rotate(t, in, SHIFT_ROL, X86_32);
	case RV_rorw:
		return rotate(t, in, SHIFT_ROR, X86_32);
	case RV_rori:
		return rotate_i(t, in, X86_64);
	case RV_roriw:
		return rotate_i(t, in, X86_32);
	case RV_clz:
		return one_source(t, in, X86_64, 0xf3000fbd);
	case RV_ctz:
		return one_source(t, in, X86_64, 0xf3000fbc);
	case RV_cpop:
		return one_source(t, in, X86_64, 0xf3000fb8);
	case RV_clzw:
		return one_source(t, in, X86_32, 0xf3000fbd);
	case RV_ctzw:
		return one_source(t, in, X86_32, 0xf3000fbc);
	case RV_cpopw:
		return one_source(t, in, X86_32, 0xf3000fb8);
	case RV_sext_b:
		return one_source(t, in, X86_64 | X86_BYTE, 0x0fbe);
	case RV_sext_h:
		return one_source(t, in, X86_64, 0x0fbf);
	case RV_zext_h:
		return one_source(t, in, X86_32, 0x0fb7);
	case RV_rev8:
		jit_get(t, RAX, in->rs1);
		x86_u8(a, 0x48);
		x86_u8(a, 0x0f);
		x86_u8(a, 0xc8);
		return put_rax(t, in->rd);
	default:
		return emit_bits(t, in);
	}
}

static bool emit_w(struct jit_tr *t, const struct rv64_insn *in)
{
	switch (in->id) {
	case RV_addiw:
		return addiw(t, in);
	case RV_slliw:
		return shift_iw(t, in, SHIFT_SHL);
	case RV_srliw:
		return shift_iw(t, in, SHIFT_SHR);
	case RV_sraiw:
		return shift_iw(t, in, SHIFT_SAR);
	case RV_addw:
		return alu_w(t, in, ALU_ADD);
	case RV_subw:
		return alu_w(t, in, ALU_SUB);
	case RV_sllw:
		return shift_w(t, in, SHIFT_SHL);
	case RV_srlw:
		return shift_w(t, in, SHIFT_SHR);
	case RV_sraw:
		return shift_w(t, in, SHIFT_SAR);
	default:
		return false;
	}
}

bool jit_emit_int(struct jit_tr *t, const struct rv64_insn *in)
{
	switch (in->id) {
	case RV_fence:
	case RV_fence_tso:
		return fence(t, in);
	case RV_lui:
		jit_put_const(t, in->rd, (uint64_t)(int64_t)in->imm);
		return true;
	case RV_auipc:
		return auipc(t, in);
	case RV_addi:
		return addi(t, in);
	case RV_slti:
		return set_less_i(t, in, CC_L);
	case RV_sltiu:
		return set_less_i(t, in, CC_B);
	case RV_xori:
		return alu_i(t, in, ALU_XOR);
	case RV_ori:
		return alu_i(t, in, ALU_OR);
	case RV_andi:
		return alu_i(t, in, ALU_AND);
	case RV_slli:
		return shift_i(t, in, SHIFT_SHL);
	case RV_srli:
		return shift_i(t, in, SHIFT_SHR);
	case RV_srai:
		return shift_i(t, in, SHIFT_SAR);
	case RV_add:
		return alu(t, in, ALU_ADD);
	case RV_sub:
		return alu(t, in, ALU_SUB);
	case RV_xor:
		return alu(t, in, ALU_XOR);
	case RV_or:
		return alu(t, in, ALU_OR);
	case RV_and:
		return alu(t, in, ALU_AND);
	case RV_sll:
		return shift(t, in, SHIFT_SHL);
	case RV_srl:
		return shift(t, in, SHIFT_SHR);
	case RV_sra:
		return shift(t, in, SHIFT_SAR);
	case RV_slt:
		return set_less(t, in, CC_L);
	case RV_sltu:
		return set_less(t, in, CC_B);
	default:
		return emit_w(t, in) || emit_m(t, in) || emit_b(t, in);
	}
}
