/*
 * fp_cases.h: every floating-point instruction of F and D over operands that make trouble, in every rounding mode, static and dynamic.
 *
 * For each instruction and mode one line, `fadd.s rne 0123456789abcdef`: a hash over results and flags. The guest program fp.c makes the lines
 * by executing the instructions; tests/unit/cpu/fp_lines.c makes them with fp_soft. Equal lines: equal results and flags everywhere.
 *
 * Who includes this makes from FP_TABLE a function for each row and a list of struct fp_case, defines fp_line() and calls fp_cases().
 */
#ifndef GUEST_FP_CASES_H
#define GUEST_FP_CASES_H

#include <stdint.h>

enum fp_src { SRC_S, SRC_D, SRC_X };
/* Modes of a row: static ones 0..4 (frm is set to another), dynamic ones 5..9 (frm = mode - 5). */
enum { FP_MODES = 10 };

/*
 * id, text, where the result comes (F: ft3, X: an integer register), arguments in assembler (%0 result, %2 first operand in
 * an integer register), type of the operands, their number, is there a rounding mode, the same for the host: A, B, C
 * are the operands as registers hold them, SA, SB, SC read as singles.
 */
#define FP_TABLE(CASE) \
	FP_FORMAT(CASE, s, S, 32, SA, SB, SC, fp32_box, FP32_SIGN) \
	FP_FORMAT(CASE, d, D, 64, A, B, C, (uint64_t), FP64_SIGN) \
	CASE(fcvt_d_s, "fcvt.d.s", F, "ft3, ft0", S, 1, 0, fp64_soft_from_f32(SA, fl)) \
	CASE(fcvt_s_d, "fcvt.s.d", F, "ft3, ft0", D, 1, 1, \
		fp32_box(fp32_soft_from_f64(A, rm, fl))) \
	CASE(fcvt_s_w, "fcvt.s.w", F, "ft3, %2", X, 1, 1, \
		fp32_box(fp32_soft_from_int(A, FP_W, rm, fl))) \
	CASE(fcvt_s_wu, "fcvt.s.wu", F, "ft3, %2", X, 1, 1, \
		fp32_box(fp32_soft_from_int(A, FP_WU, rm, fl))) \
	CASE(fcvt_d_w, "fcvt.d.w", F, "ft3, %2", X, 1, 0, fp64_soft_from_int(A, FP_W, 0, fl)) \
	CASE(fcvt_d_wu, "fcvt.d.wu", F, "ft3, %2", X, 1, 0, fp64_soft_from_int(A, FP_WU, 0, fl)) \
	CASE(fmv_x_w, "fmv.x.w", X, "%0, ft0", S, 1, 0, (uint64_t)(int64_t)(int32_t)A) \
	CASE(fmv_w_x, "fmv.w.x", F, "ft3, %2", X, 1, 0, fp32_box((uint32_t)A))

#define FP_FORMAT(CASE, s, T, N, a, b, c, box, sign) \
	CASE(fadd_##s, "fadd." #s, F, "ft3, ft0, ft1", T, 2, 1, \
		box(fp##N##_soft_add(a, b, rm, fl))) \
	CASE(fsub_##s, "fsub." #s, F, "ft3, ft0, ft1", T, 2, 1, \
		box(fp##N##_soft_sub(a, b, rm, fl))) \
	CASE(fmul_##s, "fmul." #s, F, "ft3, ft0, ft1", T, 2, 1, \
		box(fp##N##_soft_mul(a, b, rm, fl))) \
	CASE(fdiv_##s, "fdiv." #s, F, "ft3, ft0, ft1", T, 2, 1, \
		box(fp##N##_soft_div(a, b, rm, fl))) \
	CASE(fsqrt_##s, "fsqrt." #s, F, "ft3, ft0", T, 1, 1, box(fp##N##_soft_sqrt(a, rm, fl))) \
	CASE(fmadd_##s, "fmadd." #s, F, "ft3, ft0, ft1, ft2", T, 3, 1, \
		box(fp##N##_soft_fma(a, b, c, rm, fl))) \
	CASE(fmsub_##s, "fmsub." #s, F, "ft3, ft0, ft1, ft2", T, 3, 1, \
		box(fp##N##_soft_fma(a, b, c ^ sign, rm, fl))) \
	CASE(fnmsub_##s, "fnmsub." #s, F, "ft3, ft0, ft1, ft2", T, 3, 1, \
		box(fp##N##_soft_fma(a ^ sign, b, c, rm, fl))) \
	CASE(fnmadd_##s, "fnmadd." #s, F, "ft3, ft0, ft1, ft2", T, 3, 1, \
		box(fp##N##_soft_fma(a ^ sign, b, c ^ sign, rm, fl))) \
	CASE(fmin_##s, "fmin." #s, F, "ft3, ft0, ft1", T, 2, 0, box(fp##N##_soft_min(a, b, fl))) \
	CASE(fmax_##s, "fmax." #s, F, "ft3, ft0, ft1", T, 2, 0, box(fp##N##_soft_max(a, b, fl))) \
	CASE(fsgnj_##s, "fsgnj." #s, F, "ft3, ft0, ft1", T, 2, 0, box(fp##N##_sgnj(a, b))) \
	CASE(fsgnjn_##s, "fsgnjn." #s, F, "ft3, ft0, ft1", T, 2, 0, box(fp##N##_sgnjn(a, b))) \
	CASE(fsgnjx_##s, "fsgnjx." #s, F, "ft3, ft0, ft1", T, 2, 0, box(fp##N##_sgnjx(a, b))) \
	CASE(feq_##s, "feq." #s, X, "%0, ft0, ft1", T, 2, 0, fp##N##_soft_eq(a, b, fl)) \
	CASE(flt_##s, "flt." #s, X, "%0, ft0, ft1", T, 2, 0, fp##N##_soft_lt(a, b, fl)) \
	CASE(fle_##s, "fle." #s, X, "%0, ft0, ft1", T, 2, 0, fp##N##_soft_le(a, b, fl)) \
	CASE(fclass_##s, "fclass." #s, X, "%0, ft0", T, 1, 0, fp##N##_soft_class(a)) \
	CASE(fcvt_w_##s, "fcvt.w." #s, X, "%0, ft0", T, 1, 1, \
		fp##N##_soft_to_int(a, FP_W, rm, fl)) \
	CASE(fcvt_wu_##s, "fcvt.wu." #s, X, "%0, ft0", T, 1, 1, \
		fp##N##_soft_to_int(a, FP_WU, rm, fl)) \
	CASE(fcvt_l_##s, "fcvt.l." #s, X, "%0, ft0", T, 1, 1, \
		fp##N##_soft_to_int(a, FP_L, rm, fl)) \
	CASE(fcvt_lu_##s, "fcvt.lu." #s, X, "%0, ft0", T, 1, 1, \
		fp##N##_soft_to_int(a, FP_LU, rm, fl)) \
	CASE(fcvt_##s##_l, "fcvt." #s ".l", F, "ft3, %2", X, 1, 1, \
		box(fp##N##_soft_from_int(A, FP_L, rm, fl))) \
	CASE(fcvt_##s##_lu, "fcvt." #s ".lu", F, "ft3, %2", X, 1, 1, \
		box(fp##N##_soft_from_int(A, FP_LU, rm, fl)))

/* Magnitudes; each is used with both signs. The first FP_FEW also as all triples. */
enum { FP_FEW = 11 };
static const uint32_t fp_singles[] = {0, 1, 0x7fffff, 0x800000, 0x3f800000, 0x3f800001, 0x3f7fffff,
	0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc01234, 2, 0x800001, 0x3f000000, 0x3effffff,
	0x3fc00000, 0x40200000, 0x20000000, 0x1fffffff, 0x4effffff, 0x4f000000, 0x4f7fffff,
	0x4f800000, 0x5effffff, 0x5f000000, 0x5f7fffff, 0x5f800000, 0x7fbfffff, 0x7fffffff,
	0x0badc0d};
static const uint64_t fp_doubles[] = {0, 1, 0xfffffffffffff, 0x10000000000000, 0x3ff0000000000000,
	0x3ff0000000000001, 0x3fefffffffffffff, 0x7fefffffffffffff, 0x7ff0000000000000,
	0x7ff0000000000001, 0x7ff8000000001234, 2, 0x10000000000001, 0x3fe0000000000000,
	0x3fdfffffffffffff, 0x3ff8000000000000, 0x4004000000000000, 0x1ff0000000000000,
	0x1fefffffffffffff, 0x41dfffffffc00000, 0x41dfffffffe00000, 0x41e0000000000000,
	0x41e0000000100000, 0x41efffffffe00000, 0x41effffffff00000, 0x41f0000000000000,
	0x43dfffffffffffff, 0x43e0000000000000, 0x43efffffffffffff, 0x43f0000000000000,
	0x47efffffe0000000, 0x47efffffefffffff, 0x47effffff0000000, 0x36a0000000000000,
	0x3690000000000000, 0x3690000000000001, 0x380fffffe0000000, 0x380ffffff0000000,
	0x380fffffffffffff, 0x7ff7ffffffffffff, 0x7fffffffffffffff, 0x3ca0badc0dec0de};
static const uint64_t fp_integers[] = {0, 1, 2, 0xffffff, 0x1000001, 0x1000003, 0x1ffffff,
	0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x1fffffffffffff, 0x20000000000001,
	0x20000000000003, 0x7fffffffffffffff, 0x7ffffffffffffdff, 0x7ffffffffffffe00,
	0x7ffffffffffffe01, 0x7fffffbfffffffff, 0x7fffffc000000000, 0x7fffffc000000001,
	0x123456789abcdef};
#define FP_COUNT(list) ((unsigned)(sizeof(list) / sizeof((list)[0])))

struct fp_case {
	const char *text;
	uint64_t (*run)(uint64_t a, uint64_t b, uint64_t c, unsigned mode, uint64_t *flags);
	uint8_t src, n, has_rm;
};

static void fp_line(const char *text, const char *mode, uint64_t hash);

static uint64_t fp_rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static unsigned fp_operands(unsigned src)
{
	return 2 * (src == SRC_S	  ? FP_COUNT(fp_singles)
			   : src == SRC_D ? FP_COUNT(fp_doubles)
					  : FP_COUNT(fp_integers));
}

static uint64_t fp_operand(unsigned src, unsigned i)
{
	switch (src) {
	case SRC_S:
		/* The last is not boxed and reads as a NaN. */
		return fp_singles[i / 2] | (uint64_t)(i & 1) << 31 |
		       (i / 2 == FP_COUNT(fp_singles) - 1 ? 0xfffffffeull << 32
							  : 0xffffffffull << 32);
	case SRC_D:
		return fp_doubles[i / 2] | (uint64_t)i << 63;
	default:
		return i & 1 ? -fp_integers[i / 2] : fp_integers[i / 2];
	}
}

/* Any bits, with an exponent near the middle every other time. */
static uint64_t fp_random(unsigned src, uint64_t *s)
{
	uint64_t v = fp_rnd(s), near = fp_rnd(s);

	switch (src) {
	case SRC_S:
		if (near & 1)
			v = (v & ~(0x7full << 23)) ^ (v >> 7 & 0x10 << 23);
		return v | 0xffffffffull << 32;
	case SRC_D:
		if (near & 1)
			v = (v & ~(0x7feull << 52)) | (0x3e0ull + (near >> 32 & 63)) << 52;
		return v;
	default:
		return (uint64_t)((int64_t)v >> (near & 63));
	}
}

static uint64_t fp_mix(
	uint64_t h, const struct fp_case *o, unsigned mode, uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t flags = 0, r = o->run(a, b, c, mode, &flags);

	h = (h ^ r) * 0x9e3779b97f4a7c15ull;
	h = (h ^ h >> 29 ^ flags) * 0xbf58476d1ce4e5b9ull;
	return h ^ h >> 32;
}

static uint64_t fp_hash(const struct fp_case *o, unsigned mode)
{
	unsigned few = 2 * FP_FEW, all = fp_operands(o->src);
	unsigned n = o->n == 3 ? few : all;
	uint64_t h = 1, seed = 88172645463325252ull;

	for (unsigned i = 0; i < n; i++) {
		uint64_t a = fp_operand(o->src, i);

		for (unsigned j = 0; j < (o->n > 1 ? n : 1); j++) {
			uint64_t b = fp_operand(o->src, j);

			for (unsigned k = 0; k < (o->n > 2 ? n : 1); k++)
				h = fp_mix(h, o, mode, a, b, fp_operand(o->src, k));
		}
	}
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t a = fp_random(o->src, &seed), b = fp_random(o->src, &seed);

		h = fp_mix(h, o, mode, a, b, fp_random(o->src, &seed));
	}
	return h;
}

static void fp_cases(const struct fp_case *list, unsigned count)
{
	static const char *const names[FP_MODES] = {"rne", "rtz", "rdn", "rup", "rmm", "dyn-rne",
		"dyn-rtz", "dyn-rdn", "dyn-rup", "dyn-rmm"};

	for (unsigned i = 0; i < count; i++) {
		const struct fp_case *o = &list[i];

		if (!o->has_rm)
			fp_line(o->text, "-", fp_hash(o, 0));
		for (unsigned mode = 0; o->has_rm && mode < FP_MODES; mode++)
			fp_line(o->text, names[mode], fp_hash(o, mode));
	}
}

#endif
