/*
 * late.c: instructions that are made together with a later one, in the second tier.
 *
 * Shifts wait for somebody who wants their result (jit_tr.late): guests without rotations make them of two shifts and an or, which is one
 * instruction here, and the shifts are not made at all when their registers get other values first. Out of line, wherever that
 * leaves, they are made first (jit_late_make()), as in front of instructions that read them or change what they are made of.
 *
 * Pairs that follow each other, the second taking the register of the first for itself: shift and add is an address, two shifts
 * widen a number; in both tiers, the upper and the lower part of a constant or an address.
 */
#include "cpu/rv64/jit/inside.h"

/* ---- shifts that wait ---- */

/* The general registers that an instruction reads; all, if it is none that is known here. */
static uint32_t sources(const struct rv64_insn *in)
{
	uint32_t rs1 = 1u << in->rs1, rs2 = 1u << in->rs2;

	switch (rv64_row(in->id)->fmt) {
	case FMT_R:
	case FMT_B:
	case FMT_STORE:
		return rs1 | rs2;
	case FMT_I:
	case FMT_SH6:
	case FMT_SH5:
	case FMT_UNA:
	case FMT_LOAD:
	case FMT_FLOAD:
	case FMT_FSTORE:
	case FMT_FX:
	case FMT_FX_RM:
		return rs1;
	case FMT_U:
	case FMT_R4:
	case FMT_FR:
	case FMT_FR_RM:
	case FMT_FF_RM:
	case FMT_XF:
	case FMT_XF_RM:
	case FMT_XFF:
		return 0;
	default:
		return UINT32_MAX;
	}
}

static struct jit_late *find(struct jit_tr *t, unsigned rd)
{
	for (struct jit_late *l = t->late; l < t->late + t->nlate; l++)
		if (l->rd == rd)
			return l;
	return NULL;
}

void jit_late_drop(struct jit_tr *t, unsigned rd)
{
	struct jit_late *l = find(t, rd);

	if (l)
		*l = t->late[--t->nlate];
}

static void make(struct jit_tr *t, struct jit_late l)
{
	unsigned w = l.wide ? X86_64 : X86_32;
	int d = jit_dst(t, l.rd, RAX);

	if (l.wide)
		jit_full(t, l.src);
	x86_load(&t->a, w, d, jit_x(t, l.src));
	x86_shift_i(&t->a, w, l.right ? SHIFT_SHR : SHIFT_SHL, x86_reg(d), l.by);
	/* This ends the waiting. */
	if (l.wide)
		jit_put(t, l.rd, d);
	else
		jit_put_low(t, l.rd, d);
}

void jit_late_make_all(struct jit_tr *t)
{
	while (t->nlate)
		make(t, t->late[0]);
}

void jit_late_need(struct jit_tr *t, unsigned rd)
{
	struct jit_late *l = find(t, rd);

	if (l)
		make(t, *l);
}

void jit_late_cold(struct jit_tr *t, const struct jit_cold *c)
{
	struct x86 *a = &t->a;

	for (const struct jit_late *l = c->late; l < c->late + c->nlate; l++) {
		enum x86_shift op = l->right ? SHIFT_SHR : SHIFT_SHL;
		struct x86_rm d = jit_x(t, l->rd), s = jit_x(t, l->src);
		unsigned w = l->wide ? X86_64 : X86_32;

		/* rax, rcx and rdx are in use. */
		if (!d.mem) {
			x86_load(a, w, d.base, s);
			x86_shift_i(a, w, op, d, l->by);
			if (!l->wide)
				x86_op(a, X86_64, 0x63, d.base, d); /* movsxd */
			continue;
		}
		x86_store(a, X86_64, d, s.base);
		if (l->wide) {
			x86_shift_i(a, X86_64, op, d, l->by);
		} else {
			x86_shift_i(a, X86_64, SHIFT_SHL, d, l->right ? 32 : 32 + l->by);
			x86_shift_i(a, X86_64, l->right ? SHIFT_SHR : SHIFT_SAR, d,
				l->right ? 32 + l->by : 32);
		}
	}
}

/* Two shifts of one register to both sides that together are a rotation. */
static bool rotation(struct jit_tr *t, const struct rv64_insn *in)
{
	struct jit_late *x = find(t, in->rs1), *y = find(t, in->rs2), l;
	int d = jit_dst(t, in->rd, RAX);

	if (!in->rd || !x || !y || x->src != y->src || x->right == y->right || x->wide != y->wide ||
		x->by + y->by != (x->wide ? 64 : 32))
		return false;
	l = x->right ? *x : *y;
	if (l.wide && in->id == RV_addw)
		return false;
	if (l.wide)
		jit_full(t, l.src);
	for (unsigned i = t->nlate; i-- > 0;)
		if (t->late[i].src == in->rd && t->late[i].rd != in->rd)
			jit_late_need(t, t->late[i].rd), i = t->nlate;
	x86_rorx(&t->a, l.wide ? X86_64 : X86_32, d, jit_x(t, l.src), l.by);
	if (l.wide)
		jit_put(t, in->rd, d);
	else
		jit_put_low(t, in->rd, d);
	return true;
}

static bool wait(struct jit_tr *t, const struct rv64_insn *in)
{
	bool wide = in->id == RV_slli || in->id == RV_srli;

	if (!wide && in->id != RV_slliw && in->id != RV_srliw)
		return false;
	if (t->tier < 2 || !in->rd || !in->rs1 || in->rd == in->rs1 || t->known >> in->rs1 & 1 ||
		!(in->imm & (wide ? 63 : 31)) || t->nlate == ARRAY_SIZE(t->late) ||
		(!t->map[in->rd] && !t->map[in->rs1]))
		return false;
	jit_put(t, in->rd, -1);
	t->late[t->nlate++] = (struct jit_late){.rd = in->rd,
		.src = in->rs1,
		.by = (uint8_t)(in->imm & (wide ? 63 : 31)),
		.right = in->id == RV_srli || in->id == RV_srliw,
		.wide = wide};
	return true;
}

bool jit_late_take(struct jit_tr *t, const struct rv64_insn *in)
{
	uint32_t want = sources(in);

	if (t->nlate &&
		(in->id == RV_or || in->id == RV_xor || in->id == RV_add || in->id == RV_addw) &&
		rotation(t, in))
		return true;
	/* An instruction that writes an FP register names no general one by rd; one made too early does no harm. */
	for (unsigned i = 0; i < t->nlate;) {
		if (want >> t->late[i].rd & 1 || (t->late[i].src == in->rd && in->rd)) {
			make(t, t->late[i]);
			i = 0;
		} else {
			i++;
		}
	}
	return wait(t, in);
}

/* ---- pairs ---- */

/* rd = the lowest `bits` of rs1, widened. */
static void widen(struct jit_tr *t, unsigned rd, unsigned rs1, unsigned bits, bool is_signed)
{
	struct x86_rm m = jit_x(t, rs1);
	int d = jit_dst(t, rd, RAX);

	if (bits == 32 && !is_signed)
		x86_load(&t->a, X86_32, d, m);
	else if (bits == 32)
		x86_op(&t->a, X86_64, 0x63, d, m);
	else
		x86_op(&t->a, (is_signed ? X86_64 : X86_32) | (bits == 8 ? X86_BYTE : 0),
			(is_signed ? 0x0fbe : 0x0fb6) + (bits == 16), d, m);
	jit_put(t, rd, d);
	if (is_signed || bits < 32)
		t->sx |= 1u << rd;
}

/* slli d, x, n; srli or srai d, d, m. The same of words. */
static bool shifts(struct jit_tr *t, const struct rv64_insn *in, const struct rv64_insn *next)
{
	bool wide = in->id == RV_slli;
	unsigned n = (unsigned)in->imm, m = (unsigned)next->imm, size = wide ? 64 : 32;
	bool is_signed = next->id == (wide ? RV_srai : RV_sraiw);

	if (!is_signed && next->id != (wide ? RV_srli : RV_srliw))
		return false;
	if (next->rd != in->rd || next->rs1 != in->rd)
		return false;
	if (n == m && (size - n == 8 || size - n == 16 || size - n == 32)) {
		widen(t, in->rd, in->rs1, size - n, is_signed);
		return true;
	}
	if (wide && n == 32 && m < 32 && m && !is_signed) {
		int d = jit_dst(t, in->rd, RAX);

		x86_load(&t->a, X86_32, d, jit_x(t, in->rs1));
		x86_shift_i(&t->a, X86_64, SHIFT_SHL, x86_reg(d), 32 - m);
		jit_put(t, in->rd, d);
		return true;
	}
	return false;
}

/* slli d, x, 1 to 3; add d, d, y. */
static bool scaled(struct jit_tr *t, const struct rv64_insn *in, const struct rv64_insn *next)
{
	unsigned y = next->rs1 == in->rd ? next->rs2 : next->rs1;
	int s1, s2, d = jit_dst(t, in->rd, RAX);

	if (in->id != RV_slli || in->imm < 1 || in->imm > 3 || next->id != RV_add ||
		next->rd != in->rd || y == in->rd || !y ||
		(next->rs1 != in->rd && next->rs2 != in->rd))
		return false;
	jit_late_need(t, y);
	jit_full(t, y);
	jit_full(t, in->rs1);
	s1 = jit_src(t, in->rs1, RAX);
	s2 = jit_src(t, y, RCX);
	x86_lea(&t->a, d, x86_sib(s2, s1, (unsigned)in->imm, 0));
	jit_put(t, in->rd, d);
	return true;
}

/* lui or auipc d; addi or addiw d, d. */
static bool halves(struct jit_tr *t, const struct rv64_insn *in, const struct rv64_insn *next)
{
	int64_t v = (int64_t)in->imm + next->imm;

	if (next->rd != in->rd || next->rs1 != in->rd)
		return false;
	if (in->id == RV_lui && (next->id == RV_addi || next->id == RV_addiw)) {
		jit_put_const(t, in->rd,
			next->id == RV_addi ? (uint64_t)v : (uint64_t)(int64_t)(int32_t)v);
		return true;
	}
	if (in->id != RV_auipc || next->id != RV_addi || !x86_fits32(v) ||
		!x86_fits32(v + (int64_t)PAGE_SIZE))
		return false;
	jit_emit_auipc(t, in->rd, v);
	return true;
}

bool jit_emit_pair(struct jit_tr *t, const struct rv64_insn *in, const struct rv64_insn *next)
{
	bool upper = in->id == RV_lui || in->id == RV_auipc;
	bool shift = t->tier > 1 && (in->id == RV_slli || in->id == RV_slliw) && in->rs1 &&
		     !(t->known >> in->rs1 & 1);

	if ((!upper && !shift) || !in->rd)
		return false;
	if (shift)
		jit_late_need(t, in->rs1);
	for (unsigned i = 0; i < t->nlate; i++)
		if (t->late[i].src == in->rd)
			return false;
	return upper ? halves(t, in, next) : shifts(t, in, next) || scaled(t, in, next);
}
