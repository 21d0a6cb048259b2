/*
 * x86_sse.h: encoder of the host's floating point, AVX's three-operand forms only: scalar arithmetic, conversions, comparisons, fused
 * multiply-add (FMA3), and what bits need. Builds on x86.h.
 *
 * `d`: double precision, else single. Registers are plain numbers 0..15, xmm unless the comment says general; an operand
 * `m` is a register or memory. A scalar instruction writes the low element; the bits above it, up to 127, come from
 * `s` (the first source), and those above 127 become 0. That is what keeps a NaN-boxed single boxed without an instruction of its own.
 *
 * Source: Intel SDM volume 2: section 2.3 (VEX) and each instruction's page; FMA in volume 1, section 14.5.
 * Threads: as x86.h.
 */
#ifndef LODGE_CPU_RV64_JIT_X86_SSE_H
#define LODGE_CPU_RV64_JIT_X86_SSE_H

#include "cpu/rv64/jit/x86.h"

/* pp and map as x86_vex() wants them */
enum { VEX_NONE, VEX_66, VEX_F3, VEX_F2 };
enum { VEX_0F = 1, VEX_0F38, VEX_0F3A };

enum x86_fp {
	FP_OP_SQRT = 0x51, /* of m; s gives the bits above */
	FP_OP_ADD = 0x58,
	FP_OP_MUL = 0x59,
	FP_OP_SUB = 0x5c,
	FP_OP_MIN = 0x5d,
	FP_OP_DIV = 0x5e,
	FP_OP_MAX = 0x5f,
};

/* r = s op m. */
static inline void x86_fp(struct x86 *a, bool d, enum x86_fp op, int r, int s, struct x86_rm m)
{
	x86_vex(a, 0, 0, d ? VEX_F2 : VEX_F3, VEX_0F, op, r, s, m);
}

enum x86_bits { BITS_AND = 0x54, BITS_ANDN = 0x55, BITS_OR = 0x56, BITS_XOR = 0x57 };

/* r = s op m, all 128 bits: memory must have 16 bytes there. andn: ~s & m. */
static inline void x86_fbits(struct x86 *a, enum x86_bits op, int r, int s, struct x86_rm m)
{
	x86_vex(a, 0, 0, VEX_NONE, VEX_0F, op, r, s, m);
}

/* All bits of a register. */
static inline void x86_fmov(struct x86 *a, int r, int s)
{
	if (r != s)
		x86_vex(a, 0, 0, VEX_NONE, VEX_0F, 0x28, r, 0, x86_reg(s));
}

/* From memory: the bits above become 0. */
static inline void x86_fload(struct x86 *a, bool d, int r, struct x86_rm m)
{
	x86_vex(a, 0, 0, d ? VEX_F2 : VEX_F3, VEX_0F, 0x10, r, 0, m);
}

static inline void x86_fstore(struct x86 *a, bool d, struct x86_rm m, int r)
{
	x86_vex(a, 0, 0, d ? VEX_F2 : VEX_F3, VEX_0F, 0x11, r, 0, m);
}

/* All 256 bits of r: the upper half is 0 after any instruction here. */
static inline void x86_fstore_32(struct x86 *a, struct x86_rm m, int r)
{
	x86_vex(a, 0, 1, VEX_NONE, VEX_0F, 0x11, r, 0, m); /* vmovups */
}

/* Compares into ZF, PF, CF as the unsigned comparison of integers does; unordered: all three set. Invalid for signalling NaNs only. */
static inline void x86_ucomis(struct x86 *a, bool d, int r, struct x86_rm m)
{
	x86_vex(a, 0, 0, d ? VEX_66 : VEX_NONE, VEX_0F, 0x2e, r, 0, m);
}

/* The same; invalid for all NaNs. */
static inline void x86_comis(struct x86 *a, bool d, int r, struct x86_rm m)
{
	x86_vex(a, 0, 0, d ? VEX_66 : VEX_NONE, VEX_0F, 0x2f, r, 0, m);
}

/* r = the integer m (a general register or memory), 64-bit when w. */
static inline void x86_from_int(struct x86 *a, bool d, unsigned w, int r, int s, struct x86_rm m)
{
	x86_vex(a, w, 0, d ? VEX_F2 : VEX_F3, VEX_0F, 0x2a, r, s, m);
}

/* The general register r = m as an integer, 64-bit when w: in MXCSR's rounding mode, or cut off. */
static inline void x86_to_int(struct x86 *a, bool d, unsigned w, bool cut, int r, struct x86_rm m)
{
	x86_vex(a, w, 0, d ? VEX_F2 : VEX_F3, VEX_0F, cut ? 0x2c : 0x2d, r, 0, m);
}

/* r = m made integral in a mode of its own: 0 nearest, 1 down, 2 up, 3 towards zero. Inexact as always. */
static inline void x86_round(struct x86 *a, bool d, unsigned mode, int r, int s, struct x86_rm m)
{
	x86_vex(a, 0, 0, VEX_66, VEX_0F3A, d ? 0x0b : 0x0a, r, s, m);
	x86_u8(a, mode);
}

/* r = m, which is of the other format than d says. */
static inline void x86_to_double(struct x86 *a, int r, int s, struct x86_rm m)
{
	x86_vex(a, 0, 0, VEX_F3, VEX_0F, 0x5a, r, s, m);
}

static inline void x86_to_single(struct x86 *a, int r, int s, struct x86_rm m)
{
	x86_vex(a, 0, 0, VEX_F2, VEX_0F, 0x5a, r, s, m);
}

/* r = +-(s * m) +- r: the order of operands that is called 231. x86's names: fnmadd is -(s * m) + r, fnmsub -(s * m) - r. */
enum x86_fma { FMA_MADD = 0xb9, FMA_MSUB = 0xbb, FMA_NMADD = 0xbd, FMA_NMSUB = 0xbf };

static inline void x86_fma(struct x86 *a, bool d, enum x86_fma op, int r, int s, struct x86_rm m)
{
	x86_vex(a, d, 0, VEX_66, VEX_0F38, op, r, s, m);
}

/* Between xmm r and a general register or memory m, 32 or 64 bits; the bits above become 0. */
static inline void x86_fmov_from(struct x86 *a, unsigned w, int r, struct x86_rm m)
{
	x86_vex(a, w, 0, VEX_66, VEX_0F, 0x6e, r, 0, m);
}

static inline void x86_fmov_to(struct x86 *a, unsigned w, struct x86_rm m, int r)
{
	x86_vex(a, w, 0, VEX_66, VEX_0F, 0x7e, r, 0, m);
}

/* All zeros, all ones: hosts know that these need no source. */
static inline void x86_fzero(struct x86 *a, int r)
{
	x86_fbits(a, BITS_XOR, r, r, x86_reg(r));
}

static inline void x86_fones(struct x86 *a, int r)
{
	x86_vex(a, 0, 0, VEX_66, VEX_0F, 0x76, r, r, x86_reg(r)); /* vpcmpeqd */
}

/* r = s, each 64 bits of it shifted. */
static inline void x86_fshl(struct x86 *a, int r, int s, unsigned n)
{
	x86_vex(a, 0, 0, VEX_66, VEX_0F, 0x73, 6, r, x86_reg(s)); /* vpsllq */
	x86_u8(a, n);
}

static inline void x86_fshr(struct x86 *a, int r, int s, unsigned n)
{
	x86_vex(a, 0, 0, VEX_66, VEX_0F, 0x73, 2, r, x86_reg(s)); /* vpsrlq */
	x86_u8(a, n);
}

/* 32 bits of r, numbered from the low end, to the general register m. */
static inline void x86_fextract(struct x86 *a, struct x86_rm m, int r, unsigned which)
{
	x86_vex(a, 0, 0, VEX_66, VEX_0F3A, 0x16, r, 0, m); /* vpextrd */
	x86_u8(a, which);
}

/* r = s, its low 32 bits replaced by those of memory or of the general register m. */
static inline void x86_finsert(struct x86 *a, int r, int s, struct x86_rm m)
{
	if (m.mem)
		x86_vex(a, 0, 0, VEX_66, VEX_0F3A, 0x21, r, s, m); /* vinsertps */
	else
		x86_vex(a, 0, 0, VEX_66, VEX_0F3A, 0x22, r, s, m); /* vpinsrd */
	x86_u8(a, 0);
}

#endif
