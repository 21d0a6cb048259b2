/*
 * emit_fp.c: floating point, in the host's SSE unit.
 *
 * What fp_host.h does in C, as host code; that header says where x86 and RISC-V differ. MXCSR is the guest's all the time, so rounding
 * and flags cost nothing. This code is made for a context in which mstatus.FS is dirty and frm is t->frm: no test of
 * FS, and an instruction whose rounding mode MXCSR does not hold is not made here.
 *
 * NaN results: compared with themselves; out of line, replaced by the canonical NaN (and for a fused multiply-add, the invalid that x86
 * does not raise for inf * 0 + quiet NaN). Not at once: an operation on a NaN gives a NaN, so that a result that is none says the
 * same of its sources, and a source that is overwritten needs no test at all. A result is tested (t->fp_late.nan) before its bits go
 * somewhere: memory, an integer register, another format, the block's end; and out of line, wherever that leaves.
 *
 * Boxes: registers hold 64 bits, singles with ones above. The VEX forms copy what is above the low element from the first source, so
 * results are boxed by themselves when the sources are. A single from memory has no box at first (t->fp_late.loose): it gets one
 * when somebody could see that. t->boxed says for which registers a single is known; others are
 * tested, and then known too: an operand that has no box is out of line, where the interpreter does this one instruction, and
 * the block is left behind it.
 *
 * xmm0-2, rax, rcx, rdx: free for each instruction. Results are made in the destination's own register unless something out of line
 * still needs what was there.
 */
#include "cpu/rv64/jit/inside.h"
#include "cpu/rv64/jit/x86_sse.h"

enum rounding {
	ANY_MODE, /* no field */
	EXACT, /* a field that changes nothing, unless it is reserved */
	MODE, /* has to be MXCSR's */
	MODE_OR_CUT, /* the same, or towards zero */
	STATIC_TOO, /* emit knows how to do others */
};

struct fp_row {
	bool (*emit)(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row);
	uint8_t op; /* host opcode, or a number that emit knows */
	bool d; /* double */
	uint8_t rounding;
};

static bool mode_fits(const struct jit_tr *t, const struct rv64_insn *in, enum rounding r)
{
	unsigned rm = in->rm == FP_DYN ? t->frm : in->rm;

	switch (r) {
	case ANY_MODE:
		return true;
	case EXACT:
	case STATIC_TOO:
		return rm <= FP_RMM;
	default:
		return (r == MODE_OR_CUT && rm == FP_RTZ) || (rm < FP_RMM && rm == t->frm);
	}
}

/* ---- registers ---- */

static int src(struct jit_tr *t, unsigned r, int tmp)
{
	if (t->fmap[r])
		return t->fmap[r];
	x86_fload(&t->a, true, tmp, jit_f(t, r));
	return tmp;
}

static int dst(const struct jit_tr *t, unsigned r, int tmp)
{
	return t->fmap[r] ? t->fmap[r] : tmp;
}

/* Before r gets another value. */
static void forget(struct jit_tr *t, unsigned r)
{
	t->fp_late.nan &= ~(1u << r);
	t->fp_late.loose &= ~(1u << r);
	for (unsigned i = 0; i < 32; i++)
		t->nan_of[i] &= ~(1u << r);
}

static void put(struct jit_tr *t, unsigned r, int reg, bool d)
{
	forget(t, r);
	if (t->fmap[r])
		x86_fmov(&t->a, t->fmap[r], reg);
	else
		x86_fstore(&t->a, true, jit_f(t, r), reg);
	t->boxed = d ? t->boxed & ~(1u << r) : t->boxed | 1u << r;
}

/* ---- what is late ---- */

/* xmm0 = ones above the low 32 bits. */
static void box(struct jit_tr *t)
{
	x86_fones(&t->a, 0);
	x86_fshl(&t->a, 0, 0, 32);
}

/* Gives `which` their boxes. */
static void tighten(struct jit_tr *t, uint32_t which)
{
	which &= t->fp_late.loose;
	if (!which)
		return;
	t->fp_late.loose &= ~which;
	box(t);
	for (; which; which &= which - 1) {
		int r = t->fmap[__builtin_ctz(which)];

		x86_fbits(&t->a, BITS_OR, r, r, x86_reg(0));
	}
}

/* Out of line, where jit_fp_mend() has done all. */
static void cold_mended(struct jit_tr *t, struct jit_cold *c)
{
	x86_jmp(&t->a, c->back);
}

/* Makes results canonical: those first that tell of others. */
static void clean(struct jit_tr *t, uint32_t which)
{
	while (which &= t->fp_late.nan) {
		uint32_t told = 0, first;
		unsigned r;

		for (uint32_t left = which; left; left &= left - 1)
			told |= t->nan_of[__builtin_ctz(left)];
		first = which & ~told ? which & ~told : which;
		r = (unsigned)__builtin_ctz(first);
		x86_ucomis(&t->a, !(t->fp_late.single >> r & 1), t->fmap[r], x86_reg(t->fmap[r]));
		jit_cold(t, COLD_CUSTOM, x86_jcc(&t->a, CC_P, NULL))->custom = cold_mended;
		t->fp_late.nan &= ~(1u << r | t->nan_of[r]);
	}
}

void jit_fp_settle(struct jit_tr *t)
{
	clean(t, t->fp_late.nan);
	tighten(t, t->fp_late.loose);
}

void jit_fp_mend(struct jit_tr *t, const struct jit_fp *late)
{
	struct x86 *a = &t->a;

	for (uint32_t left = late->nan; left; left &= left - 1) {
		unsigned r = (unsigned)__builtin_ctz(left);
		bool d = !(late->single >> r & 1);
		uint8_t *good;

		x86_ucomis(a, d, t->fmap[r], x86_reg(t->fmap[r]));
		good = x86_jcc8(a, CC_NP);
		x86_mov_i(a, RDX, d ? FP64_NAN : fp32_box(FP32_NAN));
		x86_fmov_from(a, X86_64, t->fmap[r], x86_reg(RDX));
		x86_here8(a, good);
	}
	if (late->loose)
		box(t);
	for (uint32_t left = late->loose; left; left &= left - 1) {
		int r = t->fmap[__builtin_ctz(left)];

		x86_fbits(a, BITS_OR, r, r, x86_reg(0));
	}
}

/* The result of an operation on `sources` is in rd's own register, `s` that of the first source. */
static void put_late(struct jit_tr *t, unsigned rd, uint32_t sources, bool d, bool loose)
{
	uint32_t told = sources & t->fp_late.nan;

	for (uint32_t left = sources; left; left &= left - 1)
		told |= t->nan_of[__builtin_ctz(left)];
	put(t, rd, t->fmap[rd], d);
	t->nan_of[rd] = told & t->fp_late.nan;
	t->fp_late.nan |= 1u << rd;
	t->fp_late.loose |= (uint32_t)loose << rd;
	t->fp_late.single = (t->fp_late.single & ~(1u << rd)) | (uint32_t)!d << rd;
}

/* rd = a single in `reg`, which has the box of rs1, or none. */
static void put_single(struct jit_tr *t, unsigned rd, int reg, bool loose)
{
	put(t, rd, reg, false);
	t->fp_late.loose |= (uint32_t)loose << rd;
	t->fp_late.single |= 1u << rd;
}

static bool is_loose(const struct jit_tr *t, unsigned r)
{
	return t->fp_late.loose >> r & 1;
}

/* ---- boxes ---- */

/* Behind an instruction that the interpreter did: leave. The op comes next in the list, and finds its way back set. */
static void cold_leave(struct jit_tr *t, struct jit_cold *c)
{
	unsigned undone = c->a >> 12 & 0xff, next = (c->a & 0xfff) + (c->a >> 20 & 0xf);

	c[1].back = t->a.p;
	if (undone > 1)
		x86_alu_i(&t->a, X86_32, ALU_ADD, x86_reg(JIT_FUEL), (int32_t)undone - 1);
	jit_swap_out(t);
	x86_mov_i(&t->a, RAX, next);
	x86_jmp(&t->a, t->j->leave_pc);
}

/* Every register of `need` holds a boxed single, or this is not reached. */
static void need_boxed(struct jit_tr *t, uint32_t need)
{
	struct x86 *a = &t->a;
	uint32_t unknown = need & ~t->boxed;
	struct jit_cold *c;
	uint8_t *from;
	int both = -1;

	if (!unknown)
		return;
	t->boxed |= unknown;
	if (!(unknown & (unknown - 1)) && !t->fmap[__builtin_ctz(unknown)]) {
		struct x86_rm m = jit_f(t, (unsigned)__builtin_ctz(unknown));

		m.disp += 4;
		x86_alu_i(a, X86_32, ALU_CMP, m, -1);
	} else {
		for (; unknown; unknown &= unknown - 1) {
			int s = src(t, (unsigned)__builtin_ctz(unknown), both < 0 ? 0 : 1);

			if (both >= 0)
				x86_fbits(a, BITS_AND, 0, both, x86_reg(s));
			both = both < 0 ? s : 0;
		}
		x86_fextract(a, x86_reg(RAX), both, 1);
		x86_alu_i(a, X86_32, ALU_CMP, x86_reg(RAX), -1);
	}
	from = x86_jcc(a, CC_NE, NULL);
	c = jit_cold(t, COLD_CUSTOM, from);
	c->custom = cold_leave;
	c->fp = (struct jit_fp){0}; /* the other one's way there has mended it */
	jit_cold(t, COLD_OP, from);
}

static void need_boxed_if(struct jit_tr *t, bool d, uint32_t need)
{
	if (!d)
		need_boxed(t, need);
}

/* ---- NaNs ---- */

enum { NAN_DOUBLE = 0x100, NAN_FUSED = 0x200 };

/* inf * 0: the product of these two raises invalid and nothing else. arg[1]: guest registers of the factors. */
static void raise_inf_zero(struct jit_tr *t, unsigned r1, unsigned r2, bool d)
{
	struct x86 *a = &t->a;
	uint8_t *other, *first, *neither;

	if (t->fmap[r1])
		x86_fmov_to(a, d, x86_reg(RAX), t->fmap[r1]);
	else
		x86_load(a, d, RAX, jit_f(t, r1));
	if (t->fmap[r2])
		x86_fmov_to(a, d, x86_reg(RCX), t->fmap[r2]);
	else
		x86_load(a, d, RCX, jit_f(t, r2));
	/* Without signs, one is 0 and the sum is infinity; or a quiet NaN, which does no harm. */
	x86_alu(a, d, ALU_ADD, RAX, x86_reg(RAX));
	x86_alu(a, d, ALU_ADD, RCX, x86_reg(RCX));
	x86_lea(a, RDX, x86_sib(RAX, RCX, 0, 0));
	x86_shift_i(a, d, SHIFT_SHR, x86_reg(RDX), d ? 52 : 23);
	x86_alu_i(a, X86_32, ALU_CMP, x86_reg(RDX), d ? 0xffe : 0x1fe);
	other = x86_jcc8(a, CC_NE);
	x86_test(a, d, RAX, RAX);
	first = x86_jcc8(a, CC_E);
	x86_test(a, d, RCX, RCX);
	neither = x86_jcc8(a, CC_NE);
	x86_here8(a, first);
	x86_fp(a, d, FP_OP_MUL, 0, src(t, r1, 1), jit_f(t, r2));
	x86_here8(a, neither);
	x86_here8(a, other);
}

static void cold_nan(struct jit_tr *t, struct jit_cold *c)
{
	bool d = c->arg[0] & NAN_DOUBLE;

	if (c->arg[0] & NAN_FUSED)
		raise_inf_zero(t, c->arg[1] & 31, c->arg[1] >> 8, d);
	x86_mov_i(&t->a, RAX, d ? FP64_NAN : fp32_box(FP32_NAN));
	x86_fmov_from(&t->a, X86_64, c->arg[0] & 15, x86_reg(RAX));
	x86_jmp(&t->a, c->back);
}

/*
 * The result of an arithmetic instruction on `sources` is in `reg`: canonical, at once or later, then where it belongs. Fused: at once,
 * while the factors are there.
 */
static bool settle(
	struct jit_tr *t, const struct rv64_insn *in, int reg, bool d, uint32_t sources, bool loose)
{
	bool fused = !sources;
	struct jit_cold *c;

	if (!fused && t->fmap[in->rd]) {
		put_late(t, in->rd, sources, d, loose);
		return true;
	}

	x86_ucomis(&t->a, d, reg, x86_reg(reg));
	c = jit_cold(t, COLD_CUSTOM, x86_jcc(&t->a, CC_P, NULL));
	c->custom = cold_nan;
	c->fp = (struct jit_fp){0}; /* goes on here: xmm0 is in use */
	c->arg[0] = (unsigned)reg | (d ? NAN_DOUBLE : 0) | (fused ? NAN_FUSED : 0);
	c->arg[1] = in->rs1 | (unsigned)in->rs2 << 8;
	if (d)
		put(t, in->rd, reg, true);
	else
		put_single(t, in->rd, reg, loose);
	return true;
}

/* ---- arithmetic ---- */

static bool binary(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	int w = dst(t, in->rd, 0);

	need_boxed_if(t, row->d, 1u << in->rs1 | 1u << in->rs2);
	x86_fp(&t->a, row->d, row->op, w, src(t, in->rs1, 1), jit_f(t, in->rs2));
	return settle(t, in, w, row->d, 1u << in->rs1 | 1u << in->rs2, is_loose(t, in->rs1));
}

static bool square_root(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	int w = dst(t, in->rd, 0), s;

	need_boxed_if(t, row->d, 1u << in->rs1);
	s = src(t, in->rs1, 1);
	x86_fp(&t->a, row->d, row->op, w, s, x86_reg(s));
	return settle(t, in, w, row->d, 1u << in->rs1, is_loose(t, in->rs1));
}

static bool fused(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	/* Factors stay until it is known that the result is no NaN. */
	int w = in->rd == in->rs1 || in->rd == in->rs2 ? 0 : dst(t, in->rd, 0), s;

	need_boxed_if(t, row->d, 1u << in->rs1 | 1u << in->rs2 | 1u << in->rs3);
	s = src(t, in->rs1, 1);
	x86_fmov(&t->a, w, src(t, in->rs3, w));
	x86_fma(&t->a, row->d, row->op, w, s, jit_f(t, in->rs2));
	return settle(t, in, w, row->d, 0, is_loose(t, in->rs3));
}

/*
 * NaNs are for the interpreter; of a pair of zeros x86 gives the second one: both ways, and the bits of both. fmin wants the sign if one
 * has it, fmax if both have.
 */
static bool min_max(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	int w = dst(t, in->rd, 0), s1, s2;
	struct jit_cold *c;

	need_boxed_if(t, row->d, 1u << in->rs1 | 1u << in->rs2);
	s1 = src(t, in->rs1, 1);
	s2 = src(t, in->rs2, 2);
	x86_ucomis(a, row->d, s1, x86_reg(s2));
	c = jit_cold(t, COLD_OP, x86_jcc(a, CC_P, NULL));
	x86_fp(a, row->d, row->op, 0, s1, x86_reg(s2));
	if (in->rs1 == in->rs2) {
		w = 0;
	} else {
		int other = w ? w : 1;

		x86_fp(a, row->d, row->op, other, s2, x86_reg(s1));
		x86_fbits(a, row->op == FP_OP_MIN ? BITS_OR : BITS_AND, w, 0, x86_reg(other));
	}
	/* Here neither is a NaN. */
	t->fp_late.nan &= ~(1u << in->rs1 | 1u << in->rs2);
	if (row->d)
		put(t, in->rd, w, true);
	else
		put_single(t, in->rd, w, is_loose(t, in->rs1) || is_loose(t, in->rs2));
	jit_back(t, c);
	return true;
}

enum { SGNJ, SGNJN, SGNJX };

/* xmm r = the sign bit. */
static void sign_mask(struct jit_tr *t, int r, bool d)
{
	x86_fones(&t->a, r);
	x86_fshl(&t->a, r, r, 63);
	if (!d)
		x86_fshr(&t->a, r, r, 32);
}

/* What is above rs1's low element is above the result's. */
static void put_sign(struct jit_tr *t, const struct rv64_insn *in, int w, bool d)
{
	if (d)
		put(t, in->rd, w, true);
	else
		put_single(t, in->rd, w, is_loose(t, in->rs1));
}

static bool sign(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	bool same = in->rs1 == in->rs2;
	int w = dst(t, in->rd, 0), s1, s2;

	need_boxed_if(t, row->d, 1u << in->rs1 | 1u << in->rs2);
	if (same && row->op == SGNJ) {
		put_sign(t, in, src(t, in->rs1, w), row->d);
		return true;
	}
	sign_mask(t, 0, row->d);
	s1 = src(t, in->rs1, 1);
	if (same) {
		x86_fbits(a, row->op == SGNJN ? BITS_XOR : BITS_ANDN, w, 0, x86_reg(s1));
		put_sign(t, in, w, row->d);
		return true;
	}
	s2 = src(t, in->rs2, 2);
	if (row->op == SGNJX) {
		x86_fbits(a, BITS_AND, 0, 0, x86_reg(s2));
		x86_fbits(a, BITS_XOR, w, 0, x86_reg(s1));
	} else {
		/* xmm2 = the sign that is wanted, xmm1 = the rest */
		if (row->op == SGNJ)
			x86_fbits(a, BITS_AND, 2, s2, x86_reg(0));
		else
			x86_fbits(a, BITS_ANDN, 2, s2, x86_reg(0));
		x86_fbits(a, BITS_ANDN, 1, 0, x86_reg(s1));
		x86_fbits(a, BITS_OR, w, 1, x86_reg(2));
	}
	put_sign(t, in, w, row->d);
	return true;
}

/* ---- to integer registers ---- */

enum { EQ, LT, LE };

static bool compare(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	int d = jit_dst(t, in->rd, RAX);

	need_boxed_if(t, row->d, 1u << in->rs1 | 1u << in->rs2);
	if (row->op == EQ) {
		x86_ucomis(a, row->d, src(t, in->rs1, 0), jit_f(t, in->rs2));
		x86_setcc(a, CC_E, RAX);
		x86_setcc(a, CC_NP, RCX);
		x86_alu(a, X86_32, ALU_AND, RAX, x86_reg(RCX));
	} else {
		/* The other way round, so that unordered is false. */
		x86_comis(a, row->d, src(t, in->rs2, 0), jit_f(t, in->rs1));
		x86_setcc(a, row->op == LT ? CC_A : CC_AE, RAX);
	}
	x86_op(a, X86_32, 0x0fb6, d, x86_reg(RAX));
	jit_put(t, in->rd, d);
	return true;
}

/* rd = rax, or its low half sign-extended. */
static void put_int(struct jit_tr *t, unsigned rd, bool wide)
{
	int d = wide ? RAX : jit_dst(t, rd, RAX);

	if (!wide)
		x86_op(&t->a, X86_64, 0x63, d, x86_reg(RAX));
	jit_put(t, rd, d);
}

/* Does MXCSR hold another mode than the instruction wants? floor() and the like are made of such. */
static bool other_mode(const struct jit_tr *t, const struct rv64_insn *in)
{
	return t->frm >= FP_RMM || (in->rm != FP_DYN && in->rm != t->frm);
}

/*
 * What does not fit gives x86's most negative number, the only one that has no predecessor: the interpreter looks again. In a mode of the
 * instruction's own: made integral first, which raises inexact; where that is wrong, because the integer does not fit, there are no digits
 * behind the point to lose, but for doubles as 32 bits: not here.
 */
static bool to_signed(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	static const uint8_t mode[] = {[FP_RNE] = 0, [FP_RTZ] = 3, [FP_RDN] = 1, [FP_RUP] = 2};
	bool wide = row->op == FP_L, cut = in->rm == FP_RTZ;
	struct x86_rm m = jit_f(t, in->rs1);
	struct jit_cold *c;

	if (!cut && other_mode(t, in)) {
		if (in->rm >= FP_RMM || (row->d && !wide))
			return false;
		need_boxed_if(t, row->d, 1u << in->rs1);
		x86_round(&t->a, row->d, mode[in->rm], 0, 0, m);
		m = x86_reg(0);
		cut = true;
	}
	need_boxed_if(t, row->d, 1u << in->rs1);
	x86_to_int(&t->a, row->d, wide, cut, RAX, m);
	x86_alu_i(&t->a, wide, ALU_CMP, x86_reg(RAX), 1);
	c = jit_cold(t, COLD_OP, x86_jcc(&t->a, CC_O, NULL));
	put_int(t, in->rd, wide);
	jit_back(t, c);
	return true;
}

/* By the signed conversion, when the value is known to fit: as bits, negative ones are above all others. Limits as in fp_host.h. */
static bool to_unsigned(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	bool wide = row->op == FP_LU;
	struct jit_cold *c;

	need_boxed_if(t, row->d, 1u << in->rs1);
	if (t->fmap[in->rs1])
		x86_fmov_to(a, row->d, x86_reg(RCX), t->fmap[in->rs1]);
	else
		x86_load(a, row->d, RCX, jit_f(t, in->rs1));
	if (row->d) {
		x86_mov_i(a, RAX, wide ? 0x43dfffffffffffff : 0x41efffffffe00000);
		x86_alu(a, X86_64, ALU_CMP, RCX, x86_reg(RAX));
	} else {
		x86_alu_i(a, X86_32, ALU_CMP, x86_reg(RCX), wide ? 0x5effffff : 0x4f7fffff);
	}
	c = jit_cold(t, COLD_OP, x86_jcc(a, CC_A, NULL));
	x86_to_int(a, row->d, X86_64, in->rm == FP_RTZ, RAX, jit_f(t, in->rs1));
	put_int(t, in->rd, wide);
	jit_back(t, c);
	return true;
}

static bool move_to_x(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86_rm m = jit_f(t, in->rs1);
	int d = jit_dst(t, in->rd, RAX);

	if (!in->rd)
		return true;
	if (!m.mem) {
		x86_fmov_to(&t->a, row->d, x86_reg(d), m.base);
		m = x86_reg(d);
	}
	if (!row->d)
		x86_op(&t->a, X86_64, 0x63, d, m);
	else if (m.mem)
		x86_load(&t->a, X86_64, d, m);
	jit_put(t, in->rd, d);
	return true;
}

enum {
	CLASS_NORMAL = 1 << 6 | 1 << 1 << 8,
	CLASS_ZERO = 1 << 4 | 1 << 3 << 8
}; /* positive, and negative above it */

/* Zeros and normal numbers; the others are the interpreter's. */
static bool classify(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	unsigned w = row->d;
	struct jit_cold *c;
	uint8_t *zero;

	need_boxed_if(t, row->d, 1u << in->rs1);
	if (t->fmap[in->rs1])
		x86_fmov_to(a, w, x86_reg(RDX), t->fmap[in->rs1]);
	else
		x86_load(a, w, RDX, jit_f(t, in->rs1));
	x86_load(a, w, RCX, x86_reg(RDX));
	x86_mov_i(a, RAX, CLASS_ZERO);
	x86_alu(a, w, ALU_ADD, RCX, x86_reg(RCX));
	zero = x86_jcc8(a, CC_E);
	/* Exponents 0 and the highest are others'. */
	x86_shift_i(a, w, SHIFT_SHR, x86_reg(RCX), row->d ? 53 : 24);
	x86_alu_i(a, X86_32, ALU_SUB, x86_reg(RCX), 1);
	x86_alu_i(a, X86_32, ALU_CMP, x86_reg(RCX), row->d ? 0x7fe : 0xfe);
	c = jit_cold(t, COLD_OP, x86_jcc(a, CC_AE, NULL));
	x86_mov_i(a, RAX, CLASS_NORMAL);
	x86_here8(a, zero);
	x86_shift_i(a, w, SHIFT_SHR, x86_reg(RDX), row->d ? 63 : 31);
	x86_shift_i(a, X86_32, SHIFT_SHL, x86_reg(RDX), 3);
	x86_shift_x(a, 0, SHIFT_SHR, RAX, x86_reg(RAX), RDX);
	x86_op(a, X86_32, 0x0fb6, RAX, x86_reg(RAX));
	jit_put(t, in->rd, RAX);
	jit_back(t, c);
	return true;
}

/* ---- from integer registers, and between formats ---- */

/* xmm0: what a conversion's result has above it. Ones are a box; zeros only save waiting for what was there. */
static void above(struct jit_tr *t, bool d)
{
	if (d)
		x86_fzero(&t->a, 0);
	else
		x86_fones(&t->a, 0);
}

/* In no mode is anything lost of an integer that has no more bits than the format. Those that have: the answer, which leads away. */
static struct jit_cold *need_exact(struct jit_tr *t, int reg, bool d)
{
	struct x86 *a = &t->a;

	if (d) {
		x86_mov_i(a, RDX, 1ull << 53);
		x86_alu(a, X86_64, ALU_ADD, RDX, x86_reg(reg));
		x86_shift_i(a, X86_64, SHIFT_SHR, x86_reg(RDX), 54);
	} else {
		x86_lea(a, RDX, x86_mem(reg, 1 << 24));
		x86_shift_i(a, X86_64, SHIFT_SHR, x86_reg(RDX), 25);
	}
	return jit_cold(t, COLD_OP, x86_jcc(a, CC_NE, NULL));
}

static bool from_int(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	int w = dst(t, in->rd, 0);
	struct jit_cold *c = NULL;
	struct x86_rm m = jit_x(t, in->rs1);

	if (row->op == FP_WU) {
		x86_load(a, X86_32, RAX, m);
		m = x86_reg(RAX);
	} else if (row->op == FP_LU) {
		m = x86_reg(jit_src(t, in->rs1, RAX));
		x86_test(a, X86_64, m.base, m.base);
		c = jit_cold(t, COLD_OP, x86_jcc(a, CC_S, NULL));
	} else if (row->rounding == STATIC_TOO && other_mode(t, in)) {
		x86_op(a, X86_64, row->op == FP_W ? 0x63 : 0x8b, RAX, m);
		m = x86_reg(RAX);
		c = need_exact(t, RAX, row->d);
	}
	above(t, row->d);
	x86_from_int(a, row->d, row->op != FP_W, w, 0, m);
	put(t, in->rd, w, row->d);
	if (c)
		jit_back(t, c);
	return true;
}

static bool move_from_x(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	int w = dst(t, in->rd, 0);

	if (!row->d) {
		x86_fones(a, 0);
		x86_finsert(a, w, 0, jit_x(t, in->rs1));
		put(t, in->rd, w, false);
	} else if (!w) {
		x86_store(a, X86_64, jit_f(t, in->rd), jit_src(t, in->rs1, RAX));
		t->boxed &= ~(1u << in->rd);
	} else {
		if (in->rs1)
			x86_fmov_from(a, X86_64, w, jit_x(t, in->rs1));
		else
			x86_fzero(a, w);
		put(t, in->rd, w, true);
	}
	return true;
}

static bool between(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	int w = dst(t, in->rd, 0), s;

	if (row->d) {
		need_boxed(t, 1u << in->rs1);
		s = src(t, in->rs1, 1);
		x86_to_double(&t->a, w, s, x86_reg(s));
	} else {
		above(t, false);
		x86_to_single(&t->a, w, 0, jit_f(t, in->rs1));
	}
	return settle(t, in, w, row->d, 1u << in->rs1, false);
}

/* ---- memory ---- */

static bool load(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	struct x86 *a = &t->a;
	unsigned size = row->d ? 8 : 4;
	struct x86_rm m;
	struct jit_cold *c = jit_emit_access(
		t, in->rs1, in->imm, size, false, jit_access(size | MEM_FP, in->rd, false), &m);
	int w = dst(t, in->rd, 0);

	if (row->d) {
		x86_fload(a, true, w, m);
		put(t, in->rd, w, true);
	} else if (w) {
		x86_fload(a, false, w, m);
		put_single(t, in->rd, w, true);
	} else {
		x86_fones(a, 0);
		x86_finsert(a, 0, 0, m);
		put(t, in->rd, 0, false);
	}
	jit_back(t, c);
	return true;
}

static bool store(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	unsigned size = row->d ? 8 : 4;
	struct x86_rm m;
	struct jit_cold *c = jit_emit_access(
		t, in->rs1, in->imm, size, true, jit_access(size | MEM_FP, in->rs2, true), &m);

	x86_fstore(&t->a, row->d, m, src(t, in->rs2, 0));
	jit_back(t, c);
	return true;
}

/* ---- the table ---- */

#define FIRST RV_flw
#define LAST RV_fmv_d_x
#define ROW(id, ...) [RV_##id - FIRST] = {__VA_ARGS__}
#define FORMAT(s, D) \
	ROW(fadd_##s, binary, FP_OP_ADD, D, MODE), ROW(fsub_##s, binary, FP_OP_SUB, D, MODE), \
		ROW(fmul_##s, binary, FP_OP_MUL, D, MODE), \
		ROW(fdiv_##s, binary, FP_OP_DIV, D, MODE), \
		ROW(fsqrt_##s, square_root, FP_OP_SQRT, D, MODE), \
		ROW(fmadd_##s, fused, FMA_MADD, D, MODE), \
		ROW(fmsub_##s, fused, FMA_MSUB, D, MODE), \
		ROW(fnmsub_##s, fused, FMA_NMADD, D, MODE), \
		ROW(fnmadd_##s, fused, FMA_NMSUB, D, MODE), \
		ROW(fmin_##s, min_max, FP_OP_MIN, D, ANY_MODE), \
		ROW(fmax_##s, min_max, FP_OP_MAX, D, ANY_MODE), \
		ROW(fsgnj_##s, sign, SGNJ, D, ANY_MODE), \
		ROW(fsgnjn_##s, sign, SGNJN, D, ANY_MODE), \
		ROW(fsgnjx_##s, sign, SGNJX, D, ANY_MODE), ROW(feq_##s, compare, EQ, D, ANY_MODE), \
		ROW(flt_##s, compare, LT, D, ANY_MODE), ROW(fle_##s, compare, LE, D, ANY_MODE), \
		ROW(fclass_##s, classify, 0, D, ANY_MODE), \
		ROW(fcvt_w_##s, to_signed, FP_W, D, STATIC_TOO), \
		ROW(fcvt_l_##s, to_signed, FP_L, D, STATIC_TOO), \
		ROW(fcvt_wu_##s, to_unsigned, FP_WU, D, MODE_OR_CUT), \
		ROW(fcvt_lu_##s, to_unsigned, FP_LU, D, MODE_OR_CUT), \
		ROW(fcvt_##s##_l, from_int, FP_L, D, STATIC_TOO), \
		ROW(fcvt_##s##_lu, from_int, FP_LU, D, MODE)

/* By instruction. Without a row: the interpreter. */
static const struct fp_row rows[LAST - FIRST + 1] = {
	FORMAT(s, false),
	FORMAT(d, true),
	ROW(fcvt_s_w, from_int, FP_W, false, STATIC_TOO),
	ROW(fcvt_s_wu, from_int, FP_WU, false, MODE),
	ROW(fcvt_d_w, from_int, FP_W, true, EXACT),
	ROW(fcvt_d_wu, from_int, FP_WU, true, EXACT),
	ROW(fcvt_s_d, between, 0, false, MODE),
	ROW(fcvt_d_s, between, 0, true, EXACT),
	ROW(fmv_x_w, move_to_x, 0, false, ANY_MODE),
	ROW(fmv_x_d, move_to_x, 0, true, ANY_MODE),
	ROW(fmv_w_x, move_from_x, 0, false, ANY_MODE),
	ROW(fmv_d_x, move_from_x, 0, true, ANY_MODE),
	ROW(flw, load, 0, false, ANY_MODE),
	ROW(fld, load, 0, true, ANY_MODE),
	ROW(fsw, store, 0, false, ANY_MODE),
	ROW(fsd, store, 0, true, ANY_MODE),
};

/*
 * Before an instruction: what is late of its sources, if it could see that. A copy takes it along only where it must be right at once.
 * Others see no difference between NaNs, nor a single's box.
 */
static void prepare(struct jit_tr *t, const struct rv64_insn *in, const struct fp_row *row)
{
	unsigned fmt = rv64_row(in->id)->fmt;
	bool d = row->emit == between ? !row->d : row->d;
	bool to_f = fmt == FMT_R4 || fmt == FMT_FR || fmt == FMT_FR_RM || fmt == FMT_FF_RM;
	uint32_t s = 0;

	switch (fmt) {
	case FMT_R4:
		s |= 1u << in->rs3;
		__attribute__((fallthrough));
	case FMT_FR:
	case FMT_FR_RM:
	case FMT_XFF:
		s |= 1u << in->rs2;
		__attribute__((fallthrough));
	case FMT_FF_RM:
	case FMT_XF:
	case FMT_XF_RM:
		s |= 1u << in->rs1;
		break;
	case FMT_FSTORE:
		s = 1u << in->rs2;
		break;
	}
	clean(t, s & (d ? t->fp_late.single : ~t->fp_late.single));
	if (row->emit == store || row->emit == move_to_x || row->emit == sign)
		clean(t, s);
	if (d || (to_f && !t->fmap[in->rd]))
		tighten(t, s);
}

bool jit_emit_fp(struct jit_tr *t, const struct rv64_insn *in)
{
	const struct fp_row *row;

	if (in->id < FIRST || in->id > LAST)
		return false;
	row = &rows[in->id - FIRST];
	if (!row->emit || !mode_fits(t, in, row->rounding))
		return false;
	prepare(t, in, row);
	return row->emit(t, in, row);
}
