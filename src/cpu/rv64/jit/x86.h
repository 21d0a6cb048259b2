/*
 * x86.h: encoder of the host's instructions. Bytes go to a buffer; when it is full, `full` is set and nothing more is written, so
 * that callers look once, at the end.
 *
 * Each write of up to eight bytes is one store, so the last sixteen bytes of a buffer stay unused.
 *
 * An operand that may be a register or memory is a struct x86_rm: x86_reg(RAX), x86_mem(RBP, 16), x86_sib(RAX, RCX, 3, 0).
 * Instructions are named by their opcode, as the manual's tables have them: 0x03 is add r, r/m; 0x0fb6 is movzx. The
 * ones that the translator uses most have inline functions below.
 *
 * Source: Intel SDM volume 2, chapter 2 (prefixes, ModRM, SIB, VEX) and the opcode map in its appendix A.
 * Threads: none; a buffer belongs to its caller.
 */
#ifndef LODGE_CPU_RV64_JIT_X86_H
#define LODGE_CPU_RV64_JIT_X86_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct x86 {
	uint8_t *p, *end;
	bool full;
};

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

enum x86_cc {
	CC_O,
	CC_NO,
	CC_B,
	CC_AE,
	CC_E,
	CC_NE,
	CC_BE,
	CC_A,
	CC_S,
	CC_NS,
	CC_P,
	CC_NP,
	CC_L,
	CC_GE,
	CC_LE,
	CC_G
};

struct x86_rm {
	bool mem;
	int8_t base; /* or the register itself */
	int8_t index; /* -1: none */
	uint8_t scale; /* 0..3 */
	int32_t disp;
};

static inline struct x86_rm x86_reg(int r)
{
	return (struct x86_rm){.base = (int8_t)r, .index = -1};
}

static inline struct x86_rm x86_mem(int base, int32_t disp)
{
	return (struct x86_rm){.mem = true, .base = (int8_t)base, .index = -1, .disp = disp};
}

static inline struct x86_rm x86_sib(int base, int index, unsigned scale, int32_t disp)
{
	return (struct x86_rm){.mem = true,
		.base = (int8_t)base,
		.index = (int8_t)index,
		.scale = (uint8_t)scale,
		.disp = disp};
}

/* The n bytes of v, 8 at most. */
static inline void x86_put(struct x86 *a, uint64_t v, unsigned n)
{
	uint8_t *p = a->p;

	if (a->end - p < 16) {
		a->full = true;
		return;
	}
	memcpy(p, &v, 8);
	a->p = p + n;
}

static inline void x86_u8(struct x86 *a, unsigned v)
{
	x86_put(a, v, 1);
}

static inline void x86_bytes(struct x86 *a, const void *v, unsigned n)
{
	if ((uintptr_t)(a->end - a->p) < n) {
		a->full = true;
		return;
	}
	memcpy(a->p, v, n);
	a->p += n;
}

static inline void x86_u32(struct x86 *a, uint32_t v)
{
	x86_put(a, v, 4);
}

static inline void x86_u64(struct x86 *a, uint64_t v)
{
	x86_put(a, v, 8);
}

static inline bool x86_fits8(int64_t v)
{
	return v == (int8_t)v;
}

static inline bool x86_fits32(int64_t v)
{
	return v == (int32_t)v;
}

/*
 * An instruction on its way: bytes are gathered in a register and written in one piece, since each write through a byte pointer makes the
 * compiler read the buffer's own fields again. Up to the displacement they are eight at most.
 */
struct x86_text {
	uint64_t v;
	unsigned n; /* bits */
};

static inline void x86_add(struct x86_text *i, unsigned byte)
{
	i->v |= (uint64_t)(byte & 0xff) << i->n;
	i->n += 8;
}

/* Writes it, with ModRM, SIB, displacement, and an immediate of so many bytes. */
static inline void x86_modrm_i(
	struct x86 *a, struct x86_text i, int reg, struct x86_rm m, int32_t imm, unsigned bytes)
{
	unsigned r = ((unsigned)reg & 7) << 3, base = (unsigned)m.base & 7, mod = 0xc0, len = 0;
	uint8_t *p = a->p;

	if (a->end - p < 16) {
		a->full = true;
		return;
	}
	if (m.mem) {
		/* rbp and r13 as a base have no form without displacement */
		mod = !m.disp && base != RBP ? 0 : x86_fits8(m.disp) ? 0x40 : 0x80;
		len = mod == 0x40 ? 1 : mod == 0x80 ? 4 : 0;
	}
	if (m.mem && (m.index >= 0 || base == RSP)) {
		unsigned index = m.index >= 0 ? (unsigned)m.index & 7 : 4;

		x86_add(&i, mod | r | 4);
		x86_add(&i, (unsigned)m.scale << 6 | index << 3 | base);
	} else {
		x86_add(&i, mod | r | base);
	}
	memcpy(p, &i.v, 8);
	p += i.n / 8;
	memcpy(p, &m.disp, 4);
	p += len;
	memcpy(p, &imm, 4);
	a->p = p + bytes;
}

/*
 * Any legacy instruction with ModRM. `op`: one to three bytes, 0x03, 0x0fb6, 0x0f38f0; with a mandatory prefix in bits 31:24 (0x66, 0xf2,
 * 0xf3). `w`: 64-bit operands. X86_BYTE in w: sil and dil and the like need a REX prefix of their own.
 */
enum { X86_32 = 0, X86_64 = 1, X86_BYTE = 2 };

static inline void x86_op_i(struct x86 *a, unsigned w, uint32_t op, int reg, struct x86_rm m,
	int32_t imm, unsigned bytes)
{
	unsigned rex = (w & 1) << 3 | ((unsigned)reg >> 3 & 1) << 2 |
		       (m.index >= 0 ? ((unsigned)m.index >> 3 & 1) << 1 : 0) |
		       ((unsigned)m.base >> 3 & 1);
	bool byte = w & X86_BYTE && ((reg & 15) > RBX || (!m.mem && (m.base & 15) > RBX));
	struct x86_text i = {0};

	if (op >> 24)
		x86_add(&i, op >> 24);
	if (rex || byte)
		x86_add(&i, 0x40 | rex);
	if (op >> 16 & 0xff)
		x86_add(&i, op >> 16);
	if (op >> 8 & 0xffff)
		x86_add(&i, op >> 8);
	x86_add(&i, op);
	x86_modrm_i(a, i, reg, m, imm, bytes);
}

static inline void x86_op(struct x86 *a, unsigned w, uint32_t op, int reg, struct x86_rm m)
{
	x86_op_i(a, w, op, reg, m, 0, 0);
}

/*
 * Any VEX instruction. pp: 0 none, 1 66, 2 f3, 3 f2; map: 1 0f, 2 0f38, 3 0f3a; vvvv: the register that is not in ModRM (0 where
 * there is none: it is inverted here, so that 0 stands for "1111b").
 */
static inline void x86_vex(struct x86 *a, unsigned w, unsigned l, unsigned pp, unsigned map,
	unsigned op, int reg, int vvvv, struct x86_rm m)
{
	unsigned r = (~(unsigned)reg >> 3 & 1) << 7;
	unsigned x = (m.index >= 0 ? ~(unsigned)m.index >> 3 & 1 : 1) << 6;
	unsigned b = (~(unsigned)m.base >> 3 & 1) << 5;
	unsigned v = (~(unsigned)vvvv & 15) << 3;
	struct x86_text i = {0};

	if (map == 1 && !w && x && b) {
		x86_add(&i, 0xc5);
		x86_add(&i, r | v | l << 2 | pp);
	} else {
		x86_add(&i, 0xc4);
		x86_add(&i, r | x | b | map);
		x86_add(&i, w << 7 | v | l << 2 | pp);
	}
	x86_add(&i, op);
	x86_modrm_i(a, i, reg, m, 0, 0);
}

/* ---- the common ones; 64-bit unless said ---- */

enum x86_alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };

static inline void x86_alu(struct x86 *a, unsigned w, enum x86_alu op, int reg, struct x86_rm m)
{
	x86_op(a, w, (uint32_t)op * 8 + 3, reg, m);
}

/* Into m. */
static inline void x86_alu_to(struct x86 *a, unsigned w, enum x86_alu op, struct x86_rm m, int reg)
{
	x86_op(a, w, (uint32_t)op * 8 + 1, reg, m);
}

static inline void x86_alu_i(
	struct x86 *a, unsigned w, enum x86_alu op, struct x86_rm m, int32_t imm)
{
	bool small = x86_fits8(imm);

	x86_op_i(a, w, small ? 0x83 : 0x81, (int)op, m, imm, small ? 1 : 4);
}

static inline void x86_load(struct x86 *a, unsigned w, int reg, struct x86_rm m)
{
	x86_op(a, w, 0x8b, reg, m);
}

static inline void x86_store(struct x86 *a, unsigned w, struct x86_rm m, int reg)
{
	x86_op(a, w, 0x89, reg, m);
}

static inline void x86_mov(struct x86 *a, int to, int from)
{
	if (to != from)
		x86_load(a, X86_64, to, x86_reg(from));
}

/* A constant, in the shortest form that leaves the flags alone. */
static inline void x86_mov_i(struct x86 *a, int reg, uint64_t v)
{
	if (v <= UINT32_MAX) {
		uint64_t text = 0xb8 | ((unsigned)reg & 7) | v << 8;

		if (reg >> 3)
			x86_put(a, text << 8 | 0x41, 6);
		else
			x86_put(a, text, 5);
	} else if (x86_fits32((int64_t)v)) {
		x86_op_i(a, X86_64, 0xc7, 0, x86_reg(reg), (int32_t)v, 4);
	} else {
		x86_u8(a, 0x48 | (unsigned)reg >> 3);
		x86_u8(a, 0xb8 | ((unsigned)reg & 7));
		x86_u64(a, v);
	}
}

/* Zero; changes the flags. */
static inline void x86_zero(struct x86 *a, int reg)
{
	x86_alu(a, X86_32, ALU_XOR, reg, x86_reg(reg));
}

/* [m] = imm, sign-extended */
static inline void x86_store_i(struct x86 *a, unsigned w, struct x86_rm m, int32_t imm)
{
	x86_op_i(a, w, 0xc7, 0, m, imm, 4);
}

static inline void x86_lea(struct x86 *a, int reg, struct x86_rm m)
{
	x86_op(a, X86_64, 0x8d, reg, m);
}

enum x86_shift { SHIFT_ROL = 0, SHIFT_ROR = 1, SHIFT_SHL = 4, SHIFT_SHR = 5, SHIFT_SAR = 7 };

static inline void x86_shift_i(
	struct x86 *a, unsigned w, enum x86_shift op, struct x86_rm m, unsigned n)
{
	x86_op_i(a, w, 0xc1, (int)op, m, (int32_t)n, 1);
}

/* By cl. */
static inline void x86_shift_cl(struct x86 *a, unsigned w, enum x86_shift op, struct x86_rm m)
{
	x86_op(a, w, 0xd3, (int)op, m);
}

/* BMI2: to = m shifted by the low bits of `by`; flags stay. pp: 1 shl, 3 shr, 2 sar. */
static inline void x86_shift_x(
	struct x86 *a, unsigned w, enum x86_shift op, int to, struct x86_rm m, int by)
{
	x86_vex(a, w, 0, op == SHIFT_SHL ? 1 : op == SHIFT_SHR ? 3 : 2, 2, 0xf7, to, by, m);
}

/* BMI2: to = m rotated right by n. */
static inline void x86_rorx(struct x86 *a, unsigned w, int to, struct x86_rm m, unsigned n)
{
	x86_vex(a, w, 0, 3, 3, 0xf0, to, 0, m);
	x86_u8(a, n);
}

static inline void x86_setcc(struct x86 *a, enum x86_cc cc, int reg)
{
	x86_op(a, X86_BYTE, 0x0f90 + cc, 0, x86_reg(reg));
}

static inline void x86_cmov(struct x86 *a, unsigned w, enum x86_cc cc, int reg, struct x86_rm m)
{
	x86_op(a, w, 0x0f40 + cc, reg, m);
}

static inline void x86_test(struct x86 *a, unsigned w, int r, int s)
{
	x86_op(a, w, 0x85, s, x86_reg(r));
}

static inline void x86_push(struct x86 *a, int reg)
{
	if (reg >> 3)
		x86_u8(a, 0x41);
	x86_u8(a, 0x50 | ((unsigned)reg & 7));
}

static inline void x86_pop(struct x86 *a, int reg)
{
	if (reg >> 3)
		x86_u8(a, 0x41);
	x86_u8(a, 0x58 | ((unsigned)reg & 7));
}

static inline void x86_ret(struct x86 *a)
{
	x86_u8(a, 0xc3);
}

/*
 * Jumps within the buffer: so many bytes of opcode, and rel32. To a place that is not known yet: `to` NULL; the answer is where its
 * rel32 is, for x86_here().
 */
static inline uint8_t *x86_rel32(struct x86 *a, uint64_t op, unsigned bytes, const uint8_t *to)
{
	uint8_t *at = a->p + bytes;
	uint32_t rel = to ? (uint32_t)(to - (at + 4)) : 0;

	x86_put(a, op | (uint64_t)rel << 8 * bytes, bytes + 4);
	return at;
}

static inline uint8_t *x86_jmp(struct x86 *a, const uint8_t *to)
{
	return x86_rel32(a, 0xe9, 1, to);
}

static inline uint8_t *x86_jcc(struct x86 *a, enum x86_cc cc, const uint8_t *to)
{
	return x86_rel32(a, 0x0f | (0x80 + cc) << 8, 2, to);
}

static inline uint8_t *x86_call(struct x86 *a, const uint8_t *to)
{
	return x86_rel32(a, 0xe8, 1, to);
}

/* What jumped with rel32 at `at` arrives at `to`. */
static inline void x86_patch(uint8_t *at, const uint8_t *to)
{
	uint32_t rel = (uint32_t)(to - (at + 4));

	memcpy(at, &rel, 4);
}

static inline void x86_here(struct x86 *a, uint8_t *at)
{
	if (!a->full)
		x86_patch(at, a->p);
}

/* Short forward jumps, over a few instructions. */
static inline uint8_t *x86_jcc8(struct x86 *a, enum x86_cc cc)
{
	x86_u8(a, 0x70 + cc);
	x86_u8(a, 0);
	return a->p - 1;
}

static inline void x86_here8(struct x86 *a, uint8_t *at)
{
	if (!a->full)
		*at = (uint8_t)(a->p - (at + 1));
}

static inline void x86_jmp_rm(struct x86 *a, struct x86_rm m)
{
	x86_op(a, X86_32, 0xff, 4, m);
}

static inline void x86_call_rm(struct x86 *a, struct x86_rm m)
{
	x86_op(a, X86_32, 0xff, 2, m);
}

#endif
