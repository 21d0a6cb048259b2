/*
 * fp_host.h: RISC-V floating point on the host's SSE unit.
 *
 * While a vCPU runs guest code, the host's MXCSR belongs to the guest: MXCSR.RC is its frm, and the exceptions of its instructions
 * gather in MXCSR's sticky bits, at no cost, until somebody reads fflags. The run loop brackets guest execution:
 *
 *	fp_host_enter(&h->fp);
 *	... handlers ...
 *	fp_host_leave(&h->fp);
 *
 * and in between no C code may use `float` or `double`, nor call what does (printf of a double): it would be rounded the guest's way
 * and leave its flags in the guest's fflags. Signal handlers may: the kernel gives them an MXCSR of their own. Handlers look so:
 *
 *	if (likely(fp_host_fits(&h->fp, rm)))		// rm: the instruction's field, 7 for dynamic
 *		d = fp64_add(a, b);
 *	else if (fp_host_rm(&h->fp, rm) > FP_RMM)
 *		illegal instruction: frm holds a reserved value
 *	else
 *		d = fp64_add_rm(a, b, fp_host_rm(&h->fp, rm));
 *
 * The quick calls (fp64_add...) use the rounding mode that MXCSR holds. fp_host_fits() says whether that is the one that the
 * instruction wants; it is not when frm is RMM, which x86 has not, or when a static mode differs from frm. The _rm calls take
 * any mode and compute in fp_soft; their flags too end in MXCSR. Calls without rounding mode in the ISA (min, max, comparisons, fclass,
 * single to double) exist once. Both ways give the same bits and flags for all operands: tests/unit/cpu/test_fp.c.
 *
 * All of it is asm volatile: volatile statements keep their order among themselves, so that the compiler neither moves
 * an addition over a change of MXCSR, nor folds it, nor drops one whose result is not used but whose flags are.
 *
 * Where x86 and RISC-V differ, and what is done:
 *   NaN results        x86 keeps payloads: replaced by the canonical NaN. The test is ucomis of the result with itself, which raises
 *                      nothing: a result is never a signalling NaN.
 *   fma                x86 does not raise invalid for inf * 0 + quiet NaN: looked for when the result is a NaN. fp_host_fits_fma(),
 *                      which handlers ask instead of fp_host_fits(), says no on hosts without FMA3: the _rm call serves.
 *   min, max           x86's are not IEEE's: done with integers.
 *   to integer         x86 returns the most negative number for all that does not fit, RISC-V saturates: that one value is looked
 *                      at again out of line. The flags are the same. Unsigned results go quickly when they surely fit.
 *   tininess           both after rounding. DAZ and FTZ are off; x86's denormal-operand flag is never shown to the guest.
 *
 * Operands and results are bits, singles without their NaN box (fp_soft.h: fp32_box, fp32_unbox).
 *
 * Threads: a context belongs to the vCPU; MXCSR is the thread's, so a vCPU must leave before it moves to another thread.
 *
 * Source: as fp_soft.h; Intel SDM volume 1, sections 10.2.3 (MXCSR), 11.5 (SIMD exceptions), 14.5 (FMA).
 */
#ifndef LODGE_CPU_RV64_FP_HOST_H
#define LODGE_CPU_RV64_FP_HOST_H

#include <string.h>

#include "base/util.h"
#include "cpu/rv64/fp_soft.h"

/* The guest's floating-point environment. Zeroed memory + fp_host_init() is the reset state: frm 0, no flags. */
struct fp_host {
	uint8_t frm; /* as written: may be a reserved value, 5..7 */
	uint8_t fits; /* bit rm: instructions with this rm field may use the quick calls */
	uint8_t flags; /* fflags, less what is still in MXCSR */
	uint8_t fits_fma; /* the same for the fused multiply-adds: 0 on hosts without FMA3 */
	bool fma; /* the host has FMA3, and the kernel lets us use it */
	bool inside; /* between enter and leave */
	uint32_t host; /* the host's MXCSR, while inside */
};

/* Looks what the host can do. Sets frm and flags to zero. */
void fp_host_init(struct fp_host *c);

/* Guest execution begins and ends. Not nested. */
void fp_host_enter(struct fp_host *c);
void fp_host_leave(struct fp_host *c);

/* The CSRs. Right inside and outside; the vCPU's thread only, or while it stands still. */
void fp_host_set_frm(struct fp_host *c, unsigned frm); /* low three bits */
void fp_host_set_flags(struct fp_host *c, unsigned fflags);
unsigned fp_host_flags(const struct fp_host *c);

/* ORs exceptions (enum fp_flag) into MXCSR. Inside only. */
void fp_host_raise(uint32_t flags);

/* May an instruction with this rm field use the quick calls? */
static inline bool fp_host_fits(const struct fp_host *c, unsigned rm)
{
	return c->fits >> rm & 1;
}

static inline bool fp_host_fits_fma(const struct fp_host *c, unsigned rm)
{
	return c->fits_fma >> rm & 1;
}

/* The mode that it wants; above FP_RMM: reserved, the instruction is illegal. */
static inline unsigned fp_host_rm(const struct fp_host *c, unsigned rm)
{
	return rm == FP_DYN ? c->frm : rm;
}

/* Any rounding mode, out of line. */
uint32_t fp32_add_rm(uint32_t a, uint32_t b, unsigned rm);
uint32_t fp32_sub_rm(uint32_t a, uint32_t b, unsigned rm);
uint32_t fp32_mul_rm(uint32_t a, uint32_t b, unsigned rm);
uint32_t fp32_div_rm(uint32_t a, uint32_t b, unsigned rm);
uint32_t fp32_sqrt_rm(uint32_t a, unsigned rm);
uint32_t fp32_fma_rm(uint32_t a, uint32_t b, uint32_t c, unsigned rm);
uint64_t fp32_to_int_rm(uint32_t a, enum fp_int type, unsigned rm);
uint32_t fp32_from_int_rm(uint64_t v, enum fp_int type, unsigned rm);
uint32_t fp32_from_f64_rm(uint64_t a, unsigned rm);
uint64_t fp64_add_rm(uint64_t a, uint64_t b, unsigned rm);
uint64_t fp64_sub_rm(uint64_t a, uint64_t b, unsigned rm);
uint64_t fp64_mul_rm(uint64_t a, uint64_t b, unsigned rm);
uint64_t fp64_div_rm(uint64_t a, uint64_t b, unsigned rm);
uint64_t fp64_sqrt_rm(uint64_t a, unsigned rm);
uint64_t fp64_fma_rm(uint64_t a, uint64_t b, uint64_t c, unsigned rm);
uint64_t fp64_to_int_rm(uint64_t a, enum fp_int type, unsigned rm);
uint64_t fp64_from_int_rm(uint64_t v, enum fp_int type, unsigned rm);

/* Out-of-line ends of the quick calls below; not for others. The mode is the one in MXCSR. */
uint64_t fp32_to_int_soft(uint32_t a, enum fp_int type);
uint64_t fp64_to_int_soft(uint64_t a, enum fp_int type);

/* Bits in an SSE register and back. */
static inline float fp32_reg(uint32_t v)
{
	float r;

	memcpy(&r, &v, sizeof(r));
	return r;
}

static inline double fp64_reg(uint64_t v)
{
	double r;

	memcpy(&r, &v, sizeof(r));
	return r;
}

static inline uint32_t fp32_bits(float r)
{
	uint32_t v;

	memcpy(&v, &r, sizeof(v));
	return v;
}

static inline uint64_t fp64_bits(double r)
{
	uint64_t v;

	memcpy(&v, &r, sizeof(v));
	return v;
}

/* Bits as integers that order all but NaNs, -0 below +0. */
static inline int32_t fp32_order(uint32_t v)
{
	return (int32_t)(v ^ ((uint32_t)((int32_t)v >> 31) >> 1));
}

static inline int64_t fp64_order(uint64_t v)
{
	return (int64_t)(v ^ ((uint64_t)((int64_t)v >> 63) >> 1));
}

/*
 * The quick calls, by format: N is its width, S the letter of its instructions, REAL the C type that lives in an SSE register.
 *
 *	uintN_t fpN_add(uintN_t a, uintN_t b)		sub, mul, div
 *	uintN_t fpN_sqrt(uintN_t a)
 */
#define FP_BINARY(N, S, REAL, op) \
	static inline uint##N##_t fp##N##_##op(uint##N##_t a, uint##N##_t b) \
	{ \
		REAL r = fp##N##_reg(a); \
		bool nan; \
\
		asm volatile(#op "s" S " %2, %0\n\tucomis" S " %0, %0" \
			     : "+x"(r), "=@ccp"(nan) \
			     : "x"(fp##N##_reg(b))); \
		return unlikely(nan) ? FP##N##_NAN : fp##N##_bits(r); \
	}

#define FP_SQRT(N, S, REAL) \
	static inline uint##N##_t fp##N##_sqrt(uint##N##_t a) \
	{ \
		REAL r = fp##N##_reg(a); \
		bool nan; \
\
		asm volatile("sqrts" S " %0, %0\n\tucomis" S " %0, %0" : "+x"(r), "=@ccp"(nan)); \
		return unlikely(nan) ? FP##N##_NAN : fp##N##_bits(r); \
	}

/*
 *	uintN_t fpN_fmadd(uintN_t a, uintN_t b, uintN_t c)	only where fp_host_fits_fma()
 * fmadd a * b + c, fmsub a * b - c, fnmsub -(a * b) + c, fnmadd -(a * b) - c: the last two have each other's name on x86.
 * A NaN may be inf * 0 + NaN, which x86 finds valid: multiplying these two raises what is missing. No calls here: a handler
 * that calls nothing needs no stack frame.
 */
#define FP_FUSED(N, S, REAL, op, insn) \
	static inline uint##N##_t fp##N##_##op(uint##N##_t a, uint##N##_t b, uint##N##_t c) \
	{ \
		REAL r = fp##N##_reg(c); \
		bool nan; \
\
		asm volatile(insn "231s" S " %3, %2, %0\n\tucomis" S " %0, %0" \
			     : "+x"(r), "=@ccp"(nan) \
			     : "x"(fp##N##_reg(a)), "x"(fp##N##_reg(b))); \
		if (likely(!nan)) \
			return fp##N##_bits(r); \
		a &= ~FP##N##_SIGN; \
		b &= ~FP##N##_SIGN; \
		if ((a == FP##N##_INF && !b) || (b == FP##N##_INF && !a)) { \
			r = fp##N##_reg(a); \
			asm volatile("muls" S " %1, %0" : "+x"(r) : "x"(fp##N##_reg(b))); \
		} \
		return FP##N##_NAN; \
	}

/* uintN_t fpN_min(uintN_t a, uintN_t b), max. The quiet comparison of NaNs is there for what it raises. */
#define FP_MINMAX(N, S, op, cmp) \
	static inline uint##N##_t fp##N##_##op(uint##N##_t a, uint##N##_t b) \
	{ \
		if (likely(!fp##N##_is_nan(a) && !fp##N##_is_nan(b))) \
			return fp##N##_order(a) cmp fp##N##_order(b) ? a : b; \
		asm volatile("ucomis" S " %0, %1" : : "x"(fp##N##_reg(a)), "x"(fp##N##_reg(b))); \
		return !fp##N##_is_nan(a) ? a : !fp##N##_is_nan(b) ? b : FP##N##_NAN; \
	}

/* bool fpN_eq(uintN_t a, uintN_t b), lt, le. ucomis is quiet, comis signals. */
#define FP_COMPARE(N, S) \
	static inline bool fp##N##_eq(uint##N##_t a, uint##N##_t b) \
	{ \
		bool equal, ordered; \
\
		asm volatile("ucomis" S " %2, %3" \
			     : "=@cce"(equal), "=@ccnp"(ordered) \
			     : "x"(fp##N##_reg(a)), "x"(fp##N##_reg(b))); \
		return equal & ordered; \
	} \
	static inline bool fp##N##_lt(uint##N##_t a, uint##N##_t b) \
	{ \
		bool less; /* b above a: false for NaNs */ \
\
		asm volatile("comis" S " %1, %2" \
			     : "=@cca"(less) \
			     : "x"(fp##N##_reg(a)), "x"(fp##N##_reg(b))); \
		return less; \
	} \
	static inline bool fp##N##_le(uint##N##_t a, uint##N##_t b) \
	{ \
		bool less; \
\
		asm volatile("comis" S " %1, %2" \
			     : "=@ccae"(less) \
			     : "x"(fp##N##_reg(a)), "x"(fp##N##_reg(b))); \
		return less; \
	}

/*
 *	uint64_t fpN_to_w(uintN_t a)	to_wu, to_l, to_lu: in MXCSR's mode
 *	uint64_t fpN_to_w_rtz(...)	the same for FP_RTZ, whatever MXCSR says: this is what C's casts use
 * The signed ones: x86's answer INT_MIN may be an answer or an overflow (or NaN); the sign tells what RISC-V wants. The unsigned ones use the
 * signed 64-bit instruction for what surely fits: up to MAX_WU and MAX_LU, which as unsigned numbers are above all negative ones' bits.
 */
#define FP_TO_INT(N, S, suffix, insn, MAX_WU, MAX_LU, soft) \
	static inline uint64_t fp##N##_to_w##suffix(uint##N##_t a) \
	{ \
		int32_t r; \
\
		asm volatile(insn S "2si %1, %0" : "=r"(r) : "x"(fp##N##_reg(a))); \
		if (unlikely(r == INT32_MIN) && (!(a & FP##N##_SIGN) || fp##N##_is_nan(a))) \
			return INT32_MAX; \
		return (uint64_t)(int64_t)r; \
	} \
	static inline uint64_t fp##N##_to_l##suffix(uint##N##_t a) \
	{ \
		int64_t r; \
\
		asm volatile(insn S "2si %1, %0" : "=r"(r) : "x"(fp##N##_reg(a))); \
		if (unlikely(r == INT64_MIN) && (!(a & FP##N##_SIGN) || fp##N##_is_nan(a))) \
			return INT64_MAX; \
		return (uint64_t)r; \
	} \
	static inline uint64_t fp##N##_to_wu##suffix(uint##N##_t a) \
	{ \
		int64_t r; \
\
		if (unlikely(a > (MAX_WU))) \
			return soft(a, FP_WU); \
		asm volatile(insn S "2si %1, %0" : "=r"(r) : "x"(fp##N##_reg(a))); \
		return (uint64_t)(int64_t)(int32_t)r; \
	} \
	static inline uint64_t fp##N##_to_lu##suffix(uint##N##_t a) \
	{ \
		int64_t r; \
\
		if (unlikely(a > (MAX_LU))) \
			return soft(a, FP_LU); \
		asm volatile(insn S "2si %1, %0" : "=r"(r) : "x"(fp##N##_reg(a))); \
		return (uint64_t)r; \
	}

/*
 *	uintN_t fpN_from_w(uint64_t v)	from_wu, from_l, from_lu
 * Above INT64_MAX: half of v, its last bit kept as a sticky one, converted and doubled, which is exact.
 */
#define FP_FROM_INT(N, S, REAL) \
	static inline uint##N##_t fp##N##_from_w(uint64_t v) \
	{ \
		REAL r; \
\
		asm volatile("pxor %0, %0\n\tcvtsi2s" S "l %1, %0" : "=x"(r) : "r"((int32_t)v)); \
		return fp##N##_bits(r); \
	} \
	static inline uint##N##_t fp##N##_from_l(uint64_t v) \
	{ \
		REAL r; \
\
		asm volatile("pxor %0, %0\n\tcvtsi2s" S "q %1, %0" : "=x"(r) : "r"(v)); \
		return fp##N##_bits(r); \
	} \
	static inline uint##N##_t fp##N##_from_wu(uint64_t v) \
	{ \
		return fp##N##_from_l((uint32_t)v); \
	} \
	static inline uint##N##_t fp##N##_from_lu(uint64_t v) \
	{ \
		uint##N##_t half; \
\
		if (likely(!(v >> 63))) \
			return fp##N##_from_l(v); \
		half = fp##N##_from_l(v >> 1 | (v & 1)); \
		return fp##N##_add(half, half); \
	}

static inline uint64_t fp32_to_int_rtz(uint32_t a, enum fp_int type)
{
	return fp32_to_int_rm(a, type, FP_RTZ);
}

static inline uint64_t fp64_to_int_rtz(uint64_t a, enum fp_int type)
{
	return fp64_to_int_rm(a, type, FP_RTZ);
}

#define FP_CALLS(N, S, REAL, MAX_WU, MAX_LU) \
	FP_BINARY(N, S, REAL, add) \
	FP_BINARY(N, S, REAL, sub) \
	FP_BINARY(N, S, REAL, mul) \
	FP_BINARY(N, S, REAL, div) \
	FP_SQRT(N, S, REAL) \
	FP_FUSED(N, S, REAL, fmadd, "vfmadd") \
	FP_FUSED(N, S, REAL, fmsub, "vfmsub") \
	FP_FUSED(N, S, REAL, fnmsub, "vfnmadd") \
	FP_FUSED(N, S, REAL, fnmadd, "vfnmsub") \
	FP_MINMAX(N, S, min, <) \
	FP_MINMAX(N, S, max, >) \
	FP_COMPARE(N, S) \
	FP_TO_INT(N, S, , "cvts", MAX_WU, MAX_LU, fp##N##_to_int_soft) \
	FP_TO_INT(N, S, _rtz, "cvtts", MAX_WU, MAX_LU, fp##N##_to_int_rtz) \
	FP_FROM_INT(N, S, REAL)

/* The limits: the last single below 2^32, below 2^63; 2^32 - 1, the last double below 2^63. */
FP_CALLS(32, "s", float, 0x4f7fffffu, 0x5effffffu)
FP_CALLS(64, "d", double, 0x41efffffffe00000ull, 0x43dfffffffffffffull)

static inline uint64_t fp64_from_f32(uint32_t a)
{
	double r;
	bool nan;

	asm volatile("pxor %0, %0\n\tcvtss2sd %2, %0\n\tucomisd %0, %0"
		     : "=&x"(r), "=@ccp"(nan)
		     : "x"(fp32_reg(a)));
	return unlikely(nan) ? FP64_NAN : fp64_bits(r);
}

static inline uint32_t fp32_from_f64(uint64_t a)
{
	float r;
	bool nan;

	asm volatile("pxor %0, %0\n\tcvtsd2ss %2, %0\n\tucomiss %0, %0"
		     : "=&x"(r), "=@ccp"(nan)
		     : "x"(fp64_reg(a)));
	return unlikely(nan) ? FP32_NAN : fp32_bits(r);
}

#endif
