/*
 * fp_soft.h: IEEE 754 arithmetic as RISC-V defines it, made of integers only.
 *
 * Every call takes and returns the bits of a number, takes the rounding mode as an argument and ORs the exceptions that
 * it raises into *flags. There is no other state, so any thread may call anything, and the host's floating-point unit is
 * neither read nor changed. This is the definition that fp_host.h (the quick way) is measured against, and what it
 * falls back to.
 *
 * Every operation unpacks its operands, makes the exact result (or enough leading bits of it and one "sticky" bit that says
 * whether anything non-zero follows) and rounds once, in one function that all formats share.
 *
 * What RISC-V leaves no choice about, and is so here:
 *   - a NaN result is the canonical NaN, whatever the operands' payloads were;
 *   - tininess is detected after rounding; UF is raised only together with NX;
 *   - inf * 0 + quiet NaN raises NV;
 *   - min and max are minimumNumber and maximumNumber of IEEE 754-2019; -0 is less than +0 for them;
 *   - eq is quiet, lt and le signal;
 *   - a conversion to an integer that cannot hold the rounded value saturates and raises NV alone; NaN converts as +infinity.
 *
 * `rm` is one of FP_RNE..FP_RMM; the decoder refuses others before they come here.
 *
 * Source: The RISC-V Instruction Set Manual, volume I, chapters "F" (version 2.2) and "D" (version 2.2).
 */
#ifndef LODGE_CPU_RV64_FP_SOFT_H
#define LODGE_CPU_RV64_FP_SOFT_H

#include <stdbool.h>
#include <stdint.h>

/* Rounding modes, as in frm and in the rm field of instructions. */
enum fp_rm {
	FP_RNE, /* nearest, ties to even */
	FP_RTZ, /* towards zero */
	FP_RDN, /* down */
	FP_RUP, /* up */
	FP_RMM, /* nearest, ties to the larger magnitude */
	FP_DYN = 7, /* in an instruction: as frm says */
};

/* Exceptions, as in fflags. */
enum fp_flag {
	FP_NX = 1, /* inexact */
	FP_UF = 2, /* underflow */
	FP_OF = 4, /* overflow */
	FP_DZ = 8, /* division by zero */
	FP_NV = 16, /* invalid operation */
	FP_FLAGS = 31,
};

/* Integer types, numbered as in the rs2 field of the conversions. */
enum fp_int { FP_W, FP_WU, FP_L, FP_LU };

#define FP32_SIGN 0x80000000u
#define FP32_INF 0x7f800000u
#define FP32_NAN 0x7fc00000u /* canonical */
#define FP64_SIGN 0x8000000000000000ull
#define FP64_INF 0x7ff0000000000000ull
#define FP64_NAN 0x7ff8000000000000ull

/*
 * A single in a 64-bit register has ones above it ("NaN-boxing"); anything else reads as the canonical NaN, except by
 * stores and by fmv.x.w, which take the low half as it is (chapter D, "NaN Boxing of Narrower Values").
 */
static inline uint64_t fp32_box(uint32_t v)
{
	return v | 0xffffffff00000000ull;
}

static inline uint32_t fp32_unbox(uint64_t f)
{
	return f >> 32 == 0xffffffffu ? (uint32_t)f : FP32_NAN;
}

static inline bool fp32_is_nan(uint32_t v)
{
	return (v & ~FP32_SIGN) > FP32_INF;
}

static inline bool fp64_is_nan(uint64_t v)
{
	return (v & ~FP64_SIGN) > FP64_INF;
}

/* Sign injection: no flags, NaNs are values like others. */
static inline uint32_t fp32_sgnj(uint32_t a, uint32_t b)
{
	return (a & ~FP32_SIGN) | (b & FP32_SIGN);
}

static inline uint32_t fp32_sgnjn(uint32_t a, uint32_t b)
{
	return fp32_sgnj(a, ~b);
}

static inline uint32_t fp32_sgnjx(uint32_t a, uint32_t b)
{
	return a ^ (b & FP32_SIGN);
}

static inline uint64_t fp64_sgnj(uint64_t a, uint64_t b)
{
	return (a & ~FP64_SIGN) | (b & FP64_SIGN);
}

static inline uint64_t fp64_sgnjn(uint64_t a, uint64_t b)
{
	return fp64_sgnj(a, ~b);
}

static inline uint64_t fp64_sgnjx(uint64_t a, uint64_t b)
{
	return a ^ (b & FP64_SIGN);
}

/* Single precision. */
uint32_t fp32_soft_add(uint32_t a, uint32_t b, unsigned rm, uint32_t *flags);
uint32_t fp32_soft_sub(uint32_t a, uint32_t b, unsigned rm, uint32_t *flags);
uint32_t fp32_soft_mul(uint32_t a, uint32_t b, unsigned rm, uint32_t *flags);
uint32_t fp32_soft_div(uint32_t a, uint32_t b, unsigned rm, uint32_t *flags);
uint32_t fp32_soft_sqrt(uint32_t a, unsigned rm, uint32_t *flags);
/*
 * a * b + c, rounded once. The other three come from changed signs: fmsub (a, b, -c), fnmsub (-a, b, c), fnmadd (-a, b, -c); the
 * specification negates the product, not the sum, so this is exact for zeros too.
 */
uint32_t fp32_soft_fma(uint32_t a, uint32_t b, uint32_t c, unsigned rm, uint32_t *flags);
uint32_t fp32_soft_min(uint32_t a, uint32_t b, uint32_t *flags);
uint32_t fp32_soft_max(uint32_t a, uint32_t b, uint32_t *flags);
bool fp32_soft_eq(uint32_t a, uint32_t b, uint32_t *flags);
bool fp32_soft_lt(uint32_t a, uint32_t b, uint32_t *flags);
bool fp32_soft_le(uint32_t a, uint32_t b, uint32_t *flags);
/* What fclass writes: one bit of ten. */
unsigned fp32_soft_class(uint32_t a);
/* What the integer register gets: 32-bit results, unsigned ones too, are sign-extended. */
uint64_t fp32_soft_to_int(uint32_t a, enum fp_int type, unsigned rm, uint32_t *flags);
/* The 32-bit types look at the low half of v only. */
uint32_t fp32_soft_from_int(uint64_t v, enum fp_int type, unsigned rm, uint32_t *flags);
uint32_t fp32_soft_from_f64(uint64_t a, unsigned rm, uint32_t *flags);

/* Double precision. */
uint64_t fp64_soft_add(uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_sub(uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_mul(uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_div(uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_sqrt(uint64_t a, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_fma(uint64_t a, uint64_t b, uint64_t c, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_min(uint64_t a, uint64_t b, uint32_t *flags);
uint64_t fp64_soft_max(uint64_t a, uint64_t b, uint32_t *flags);
bool fp64_soft_eq(uint64_t a, uint64_t b, uint32_t *flags);
bool fp64_soft_lt(uint64_t a, uint64_t b, uint32_t *flags);
bool fp64_soft_le(uint64_t a, uint64_t b, uint32_t *flags);
unsigned fp64_soft_class(uint64_t a);
uint64_t fp64_soft_to_int(uint64_t a, enum fp_int type, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_from_int(uint64_t v, enum fp_int type, unsigned rm, uint32_t *flags);
uint64_t fp64_soft_from_f32(uint32_t a, uint32_t *flags);

#endif
