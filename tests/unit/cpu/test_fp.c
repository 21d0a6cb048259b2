/*
 * Floating point: fp_soft against exact integers (every mode, results and flags judged by what IEEE 754 says a rounded result is),
 * fp_host against fp_soft (so: fp_soft against the processor), and the guest's environment in MXCSR.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "cpu/rv64/fp_host.h"
#include "fp_exact.h"

static uint64_t rnd(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Operands that make trouble: both ends of every range, and fractions of runs of ones and zeros. */
static uint64_t operand(uint64_t *s, int width)
{
	int frac = width == 32 ? 23 : 52, ebits = width - 1 - frac;
	uint64_t r = rnd(s), v = rnd(s), fmask = (1ull << frac) - 1, emax = (1ull << ebits) - 1;
	uint64_t bias = emax >> 1, e = v >> frac & emax, f = v & fmask;

	switch (r >> 8 & 7) {
	case 0:
		f = 0;
		break;
	case 1:
		f = fmask << (r >> 16) % frac & fmask;
		break;
	case 2:
		f = fmask >> (r >> 16) % (frac + 1);
		break;
	case 3:
		f = 1ull << (r >> 16) % frac;
		break;
	case 4:
		f &= fmask << (frac - 8);
		break;
	}
	switch (r & 15) {
	case 0:
		e = 0;
		break;
	case 1:
		e = emax;
		break;
	case 2:
		e = 1 + (r >> 32) % 3;
		break;
	case 3:
		e = emax - 1 - (r >> 32) % 3;
		break;
	case 4:
	case 5:
		e = bias + (r >> 32) % 66;
		break;
	case 6:
	case 7:
	case 8:
		e = bias - 3 + (r >> 32) % 7;
		break;
	case 9:
		e = bias / 2 + (r >> 32) % 4 - 2; /* squares at the edge of the subnormals */
		break;
	case 10:
		e = 0;
		f = 0;
		break;
	}
	return (r >> 62 & 1) << (width - 1) | e << frac | f;
}

static uint64_t integer(uint64_t *s)
{
	uint64_t v = rnd(s);
	unsigned n = rnd(s) & 63;

	switch (rnd(s) & 3) {
	case 0:
		return v >> n;
	case 1:
		return (uint64_t)((int64_t)v >> n);
	case 2:
		return (1ull << n) - (v & 1) + (v >> 1 & 1);
	default:
		return UINT64_MAX << n ^ (v & 3);
	}
}

typedef uint64_t soft_fn(uint64_t a, uint64_t b, uint64_t c, unsigned rm, uint32_t *fl);
typedef uint64_t host_fn(const struct fp_host *h, uint64_t a, uint64_t b, uint64_t c);
typedef uint64_t rm_fn(uint64_t a, uint64_t b, uint64_t c, unsigned rm);

struct op {
	const char *name;
	int from, to; /* widths of operands and result; 0: an integer */
	host_fn *host; /* in MXCSR's mode */
	soft_fn *soft;
	rm_fn *any; /* NULL: no rounding mode */
	enum fp_exact exact;
	int signs; /* of the product (1) and the addend (2) for EXACT_FMA; enum fp_int for conversions */
	bool rtz; /* rounds towards zero, whatever MXCSR says */
};

/* clang-format off */
#define HOST(id, expr) static uint64_t host_##id(const struct fp_host *h, uint64_t a, uint64_t b, uint64_t c) { return expr; }
#define SOFT(id, expr) static uint64_t soft_##id(uint64_t a, uint64_t b, uint64_t c, unsigned rm, uint32_t *fl) { return expr; }
#define ANY(id, expr) static uint64_t any_##id(uint64_t a, uint64_t b, uint64_t c, unsigned rm) { return expr; }
#define FUSED(h, quick, any) (fp_host_fits_fma(h, FP_DYN) ? quick : any)
#define FORMAT(N, A, B, C, SIGN) \
	HOST(add##N, fp##N##_add(A, B)) SOFT(add##N, fp##N##_soft_add(A, B, rm, fl)) ANY(add##N, fp##N##_add_rm(A, B, rm)) \
	HOST(sub##N, fp##N##_sub(A, B)) SOFT(sub##N, fp##N##_soft_sub(A, B, rm, fl)) ANY(sub##N, fp##N##_sub_rm(A, B, rm)) \
	HOST(mul##N, fp##N##_mul(A, B)) SOFT(mul##N, fp##N##_soft_mul(A, B, rm, fl)) ANY(mul##N, fp##N##_mul_rm(A, B, rm)) \
	HOST(div##N, fp##N##_div(A, B)) SOFT(div##N, fp##N##_soft_div(A, B, rm, fl)) ANY(div##N, fp##N##_div_rm(A, B, rm)) \
	HOST(sqrt##N, fp##N##_sqrt(A)) SOFT(sqrt##N, fp##N##_soft_sqrt(A, rm, fl)) ANY(sqrt##N, fp##N##_sqrt_rm(A, rm)) \
	HOST(fmadd##N, FUSED(h, fp##N##_fmadd(A, B, C), fp##N##_fma_rm(A, B, C, h->frm))) SOFT(fmadd##N, fp##N##_soft_fma(A, B, C, rm, fl)) ANY(fmadd##N, fp##N##_fma_rm(A, B, C, rm)) \
	HOST(fmsub##N, FUSED(h, fp##N##_fmsub(A, B, C), fp##N##_fma_rm(A, B, C ^ SIGN, h->frm))) SOFT(fmsub##N, fp##N##_soft_fma(A, B, C ^ SIGN, rm, fl)) \
	HOST(fnmsub##N, FUSED(h, fp##N##_fnmsub(A, B, C), fp##N##_fma_rm(A ^ SIGN, B, C, h->frm))) SOFT(fnmsub##N, fp##N##_soft_fma(A ^ SIGN, B, C, rm, fl)) \
	HOST(fnmadd##N, FUSED(h, fp##N##_fnmadd(A, B, C), fp##N##_fma_rm(A ^ SIGN, B, C ^ SIGN, h->frm))) SOFT(fnmadd##N, fp##N##_soft_fma(A ^ SIGN, B, C ^ SIGN, rm, fl)) \
	HOST(min##N, fp##N##_min(A, B)) SOFT(min##N, fp##N##_soft_min(A, B, fl)) \
	HOST(max##N, fp##N##_max(A, B)) SOFT(max##N, fp##N##_soft_max(A, B, fl)) \
	HOST(eq##N, fp##N##_eq(A, B)) SOFT(eq##N, fp##N##_soft_eq(A, B, fl)) \
	HOST(lt##N, fp##N##_lt(A, B)) SOFT(lt##N, fp##N##_soft_lt(A, B, fl)) \
	HOST(le##N, fp##N##_le(A, B)) SOFT(le##N, fp##N##_soft_le(A, B, fl)) \
	TO_INT(N, A, w, FP_W) TO_INT(N, A, wu, FP_WU) TO_INT(N, A, l, FP_L) TO_INT(N, A, lu, FP_LU) \
	FROM_INT(N, w, FP_W) FROM_INT(N, wu, FP_WU) FROM_INT(N, l, FP_L) FROM_INT(N, lu, FP_LU)
#define TO_INT(N, A, t, T) \
	HOST(to_##t##N, fp##N##_to_##t(A)) SOFT(to_##t##N, fp##N##_soft_to_int(A, T, rm, fl)) ANY(to_##t##N, fp##N##_to_int_rm(A, T, rm)) \
	HOST(to_##t##_rtz##N, fp##N##_to_##t##_rtz(A))
#define FROM_INT(N, t, T) \
	HOST(from_##t##N, fp##N##_from_##t(a)) SOFT(from_##t##N, fp##N##_soft_from_int(a, T, rm, fl)) ANY(from_##t##N, fp##N##_from_int_rm(a, T, rm))
FORMAT(32, (uint32_t)a, (uint32_t)b, (uint32_t)c, FP32_SIGN)
FORMAT(64, a, b, c, FP64_SIGN)
HOST(widen, fp64_from_f32((uint32_t)a)) SOFT(widen, fp64_soft_from_f32((uint32_t)a, fl))
HOST(narrow, fp32_from_f64(a)) SOFT(narrow, fp32_soft_from_f64(a, rm, fl)) ANY(narrow, fp32_from_f64_rm(a, rm))

#define ROW(id, N, how, signs) {#id #N, N, N, host_##id##N, soft_##id##N, any_##id##N, how, signs, false},
#define ROW_FMA(id, N, signs) {#id #N, N, N, host_##id##N, soft_##id##N, NULL, EXACT_FMA, signs, false},
#define ROW_PLAIN(id, N) {#id #N, N, N, host_##id##N, soft_##id##N, NULL, EXACT_NOT, 0, false},
#define ROW_TO(t, N, T) {"to_" #t #N, N, 0, host_to_##t##N, soft_to_##t##N, any_to_##t##N, EXACT_TO_INT, T, false}, \
	{"to_" #t "_rtz" #N, N, 0, host_to_##t##_rtz##N, soft_to_##t##N, NULL, EXACT_NOT, T, true},
#define ROW_FROM(t, N, T) {"from_" #t #N, 0, N, host_from_##t##N, soft_from_##t##N, any_from_##t##N, EXACT_FROM_INT, T, false},
#define ROWS(N) ROW(add, N, EXACT_ADD, 0) ROW(sub, N, EXACT_SUB, 0) ROW(mul, N, EXACT_MUL, 0) ROW(div, N, EXACT_DIV, 0) \
	ROW(sqrt, N, EXACT_SQRT, 0) ROW(fmadd, N, EXACT_FMA, 0) ROW_FMA(fmsub, N, 2) ROW_FMA(fnmsub, N, 1) ROW_FMA(fnmadd, N, 3) \
	ROW_PLAIN(min, N) ROW_PLAIN(max, N) ROW_PLAIN(eq, N) ROW_PLAIN(lt, N) ROW_PLAIN(le, N) \
	ROW_TO(w, N, FP_W) ROW_TO(wu, N, FP_WU) ROW_TO(l, N, FP_L) ROW_TO(lu, N, FP_LU) \
	ROW_FROM(w, N, FP_W) ROW_FROM(wu, N, FP_WU) ROW_FROM(l, N, FP_L) ROW_FROM(lu, N, FP_LU)
static const struct op ops[] = {
	ROWS(32) ROWS(64)
	{"widen", 32, 64, host_widen, soft_widen, NULL, EXACT_WIDEN, 0, false},
	{"narrow", 64, 32, host_narrow, soft_narrow, any_narrow, EXACT_NARROW, 0, false},
};
/* clang-format on */

static void draw(const struct op *o, uint64_t *s, uint64_t v[3])
{
	for (int i = 0; i < 3; i++)
		v[i] = o->from ? operand(s, o->from) : integer(s);
	if (o->exact == EXACT_FMA && !(rnd(s) & 3)) {
		/* An addend near the product: cancellation. */
		uint32_t ignored = 0;
		uint64_t near = o->soft(v[0], v[1], 0, rnd(s) % 5, &ignored);

		v[2] = near ^ (rnd(s) & 1) << (o->from - 1) ^ (rnd(s) & rnd(s) & 3);
	} else if (!(rnd(s) & 7)) {
		v[1] = v[0] ^ (rnd(s) & rnd(s) & 3) ^ (o->from ? (rnd(s) & 1) << (o->from - 1) : 0);
	}
	if (o->exact == EXACT_SQRT && rnd(s) & 7)
		v[0] &= ~(1ull << (o->from - 1));
}

static void disagree(const char *what, const struct op *o, unsigned rm, const uint64_t v[3],
	uint64_t want, uint32_t want_flags, uint64_t got, uint32_t got_flags)
{
	fail_msg("%s: %s mode %u of %llx %llx %llx: want %llx flags %02x, got %llx flags %02x",
		what, o->name, rm, (long long)v[0], (long long)v[1], (long long)v[2],
		(long long)want, want_flags, (long long)got, got_flags);
}

static void compare(struct fp_host *h, const struct op *o, unsigned rm, const uint64_t v[3])
{
	uint32_t soft_flags = 0, host_flags;
	uint64_t soft = o->soft(v[0], v[1], v[2], o->rtz ? FP_RTZ : rm, &soft_flags), host;

	fp_host_set_flags(h, 0);
	host = o->host(h, v[0], v[1], v[2]);
	host_flags = fp_host_flags(h);
	if (soft != host || soft_flags != host_flags) {
		fp_host_leave(h);
		disagree("host, soft", o, rm, v, host, host_flags, soft, soft_flags);
	}
}

static void host_against_soft(bool fma, double limit)
{
	struct fp_host h;
	uint64_t seed = 1, n = 0;
	double end = seconds() + limit;

	fp_host_init(&h);
	h.fma &= fma;
	for (int round = 0; round < 3000 && seconds() < end; round++) {
		for (unsigned rm = FP_RNE; rm <= FP_RUP; rm++) {
			fp_host_set_frm(&h, rm);
			fp_host_enter(&h);
			for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
				for (int k = 0; k < 50; k++, n++) {
					uint64_t v[3];

					draw(&ops[i], &seed, v);
					compare(&h, &ops[i], rm, v);
				}
			}
			fp_host_leave(&h);
		}
	}
	print_message("%llu comparisons, fma %d\n", (long long)n, h.fma);
	assert_true(n > 0);
}

static void soft_is_what_the_processor_says(void **state)
{
	host_against_soft(true, 2.5);
}

static void hosts_without_fma_get_the_same(void **state)
{
	host_against_soft(false, 0.5);
}

/* All pairs of a list of special values. */
static void special_values_agree(void **state)
{
	static const uint32_t s32[] = {0, 1, 2, 0x7fffff, 0x800000, 0x800001, 0x3f800000,
		0x3f800001, 0x3f7fffff, 0x40000000, 0x4effffff, 0x4f000000, 0x4f7fffff, 0x4f800000,
		0x5effffff, 0x5f000000, 0x5f7fffff, 0x5f800000, 0x7f7fffff, 0x7f800000, 0x7f800001,
		0x7fbfffff, 0x7fc00000, 0x7fffffff, 0x3effffff, 0x3f000000, 0x3fc00000, 0x40200000};
	static const uint64_t s64[] = {0, 1, 0xfffffffffffff, 0x10000000000000, 0x10000000000001,
		0x3ff0000000000000, 0x3ff0000000000001, 0x3fefffffffffffff, 0x3fe0000000000000,
		0x3ff8000000000000, 0x4004000000000000, 0x41dfffffffc00000, 0x41dfffffffe00000,
		0x41e0000000000000, 0x41e0000000100000, 0x41efffffffe00000, 0x41efffffffefffff,
		0x41effffffff00000, 0x41f0000000000000, 0x43dfffffffffffff, 0x43e0000000000000,
		0x43efffffffffffff, 0x43f0000000000000, 0x47efffffe0000000, 0x47efffffefffffff,
		0x47effffff0000000, 0x36a0000000000000, 0x3690000000000000, 0x380fffffe0000000,
		0x380ffffff0000000, 0x380fffffffffffff, 0x7fefffffffffffff, 0x7ff0000000000000,
		0x7ff0000000000001, 0x7ff7ffffffffffff, 0x7ff8000000000000, 0x7fffffffffffffff};
	struct fp_host h;

	fp_host_init(&h);
	for (unsigned rm = FP_RNE; rm <= FP_RUP; rm++) {
		fp_host_set_frm(&h, rm);
		fp_host_enter(&h);
		for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
			bool narrow = ops[i].from == 32;
			unsigned n = 2 * (narrow ? ARRAY_SIZE(s32) : ARRAY_SIZE(s64));
			unsigned third = ops[i].exact == EXACT_FMA ? n : 1;

			for (unsigned k = 0; k < n * n * third; k++) {
				unsigned at[3] = {k % n, k / n % n, k / n / n};
				uint64_t v[3];

				for (int j = 0; j < 3; j++)
					v[j] = narrow ? s32[at[j] / 2] | (uint64_t)(at[j] & 1) << 31
						      : s64[at[j] / 2] | (uint64_t)at[j] << 63;
				compare(&h, &ops[i], rm, v);
			}
		}
		fp_host_leave(&h);
	}
}

static void soft_is_exactly_rounded(void **state)
{
	uint64_t seed = 2, n = 0;
	double end = seconds() + 2.5;

	for (int round = 0; round < 20000 && seconds() < end; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
			const struct op *o = &ops[i];
			uint32_t flags = 0;
			unsigned rm = round % 5;
			uint64_t v[3], got;
			const char *why;

			if (o->exact == EXACT_NOT)
				continue;
			draw(o, &seed, v);
			got = o->soft(v[0], v[1], v[2], rm, &flags);
			why = fp_exact_judge(o->exact, o->signs, o->from, o->to, v, rm, got, flags);
			if (why)
				disagree(why, o, rm, v, 0, 0, got, flags);
			n++;
		}
	}
	print_message("%llu judged\n", (long long)n);
	assert_true(n > 0);
}

/* A judge that lets everything pass is worth nothing. */
static void judge_sees_wrong_results(void **state)
{
	uint64_t seed = 3;
	unsigned caught = 0, tried = 0;

	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
			const struct op *o = &ops[i];
			uint32_t flags = 0;
			uint64_t v[3], got;

			if (o->exact == EXACT_NOT)
				continue;
			draw(o, &seed, v);
			got = o->soft(v[0], v[1], v[2], round % 5, &flags);
			if (!fp_exact_applies(o->exact, o->from, v))
				continue;
			tried += 3;
			caught += !!fp_exact_judge(
				o->exact, o->signs, o->from, o->to, v, round % 5, got + 1, flags);
			caught += !!fp_exact_judge(
				o->exact, o->signs, o->from, o->to, v, round % 5, got - 1, flags);
			caught += !!fp_exact_judge(o->exact, o->signs, o->from, o->to, v, round % 5,
				got, flags ^ 1u << round % 3);
		}
	}
	assert_true(tried > 1000);
	assert_int_equal(caught, tried);
}

static void any_mode_leaves_its_flags_in_mxcsr(void **state)
{
	struct fp_host h;
	uint64_t seed = 4;

	fp_host_init(&h);
	fp_host_set_frm(&h, FP_RDN);
	fp_host_enter(&h);
	for (int round = 0; round < 2000; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
			const struct op *o = &ops[i];
			unsigned rm = round % 5;
			uint32_t flags = 0, got_flags;
			uint64_t v[3], want, got;

			if (!o->any)
				continue;
			draw(o, &seed, v);
			want = o->soft(v[0], v[1], v[2], rm, &flags);
			fp_host_set_flags(&h, 0);
			got = o->any(v[0], v[1], v[2], rm);
			got_flags = fp_host_flags(&h);
			if (got != want || got_flags != flags) {
				fp_host_leave(&h);
				disagree("any mode", o, rm, v, want, flags, got, got_flags);
			}
		}
	}
	fp_host_leave(&h);
}

static uint32_t mxcsr(void)
{
	uint32_t v;

	asm volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static void environment_follows_the_guest(void **state)
{
	const uint64_t one = 0x3ff0000000000000, three = 0x4008000000000000;
	struct fp_host h;
	uint32_t before = mxcsr();
	uint64_t down, up;

	fp_host_init(&h);
	assert_int_equal(fp_host_flags(&h), 0);
	fp_host_set_flags(&h, FP_DZ | 0x20);
	fp_host_set_frm(&h, FP_RDN | 8);
	assert_int_equal(h.frm, FP_RDN);
	fp_host_enter(&h);
	assert_int_equal(fp_host_flags(&h), FP_DZ);
	down = fp64_div(one, three);
	assert_int_equal(fp_host_flags(&h), FP_DZ | FP_NX);
	fp_host_set_frm(&h, FP_RUP);
	assert_int_equal(fp_host_flags(&h), FP_DZ | FP_NX);
	up = fp64_div(one, three);
	fp_host_set_flags(&h, 0);
	assert_int_equal(fp_host_flags(&h), 0);
	fp_host_raise(FP_OF);
	fp_host_raise(FP_UF);
	fp_host_leave(&h);
	assert_int_equal(mxcsr(), before);
	assert_int_equal(fp_host_flags(&h), FP_OF | FP_UF);
	assert_int_equal(up, down + 1);
	assert_int_equal(down, 0x3fd5555555555555);

	for (unsigned frm = 0; frm < 8; frm++) {
		fp_host_set_frm(&h, frm);
		assert_int_equal(fp_host_rm(&h, FP_DYN), frm);
		for (unsigned rm = 0; rm < 8; rm++) {
			bool fits = fp_host_fits(&h, rm);

			/* Quick only in the mode that MXCSR then has; reserved ones and RMM never. */
			if (fits)
				assert_true(fp_host_rm(&h, rm) < FP_RMM);
			if (frm < FP_RMM)
				assert_int_equal(fits, rm == frm || rm == FP_DYN);
		}
	}
}

static void specification_by_example(void **state)
{
	const uint32_t qnan = 0xffc12345, snan = 0x7f800001;
	uint32_t fl = 0;

	assert_int_equal(fp32_soft_fma(FP32_INF, 0, qnan, FP_RNE, &fl), FP32_NAN);
	assert_int_equal(fl, FP_NV);
	fl = 0;
	assert_int_equal(fp32_soft_add(qnan, 0, FP_RNE, &fl), FP32_NAN);
	assert_int_equal(fl, 0);
	assert_int_equal(fp32_soft_min(0, FP32_SIGN, &fl), FP32_SIGN);
	assert_int_equal(fp32_soft_max(FP32_SIGN, 0, &fl), 0);
	assert_int_equal(fp32_soft_max(qnan, 5, &fl), 5);
	assert_int_equal(fp32_soft_max(qnan, qnan, &fl), FP32_NAN);
	assert_false(fp32_soft_eq(qnan, qnan, &fl));
	assert_true(fp32_soft_eq(0, FP32_SIGN, &fl));
	assert_int_equal(fl, 0);
	assert_int_equal(fp32_soft_min(snan, 5, &fl), 5);
	assert_int_equal(fl, FP_NV);
	fl = 0;
	assert_false(fp32_soft_le(qnan, qnan, &fl));
	assert_int_equal(fl, FP_NV);
	/* (1 - 2^-24) * 2^-126 has 24 bits and is tiny, though it rounds to the least normal number; 2^-126 less a
	 * hair would round to 2^-126 whatever the exponent range, so it is not. */
	fl = 0;
	assert_int_equal(fp32_soft_div(0x00ffffff, 0x40000000, FP_RNE, &fl), 0x00800000);
	assert_int_equal(fl, FP_NX | FP_UF);
	fl = 0;
	assert_int_equal(fp32_soft_from_f64(0x380fffffffffffff, FP_RNE, &fl), 0x00800000);
	assert_int_equal(fl, FP_NX);
	/* The table of conversions: -1 to unsigned, NaN, infinities; -0.5 is 0 and only inexact. */
	fl = 0;
	assert_int_equal(fp32_soft_to_int(0xbf000000, FP_WU, FP_RTZ, &fl), 0);
	assert_int_equal(fl, FP_NX);
	fl = 0;
	assert_int_equal(fp32_soft_to_int(0xbf800000, FP_LU, FP_RNE, &fl), 0);
	assert_int_equal(fp32_soft_to_int(qnan, FP_W, FP_RNE, &fl), INT32_MAX);
	assert_int_equal(fp32_soft_to_int(qnan, FP_WU, FP_RNE, &fl), UINT64_MAX);
	assert_int_equal(
		fp32_soft_to_int(FP32_INF | FP32_SIGN, FP_W, FP_RNE, &fl), (uint64_t)INT32_MIN);
	assert_int_equal(fp32_soft_to_int(0x4f800000, FP_WU, FP_RNE, &fl), UINT64_MAX);
	assert_int_equal(fl, FP_NV);
	fl = 0;
	assert_int_equal(fp32_soft_to_int(0x4f7fffff, FP_WU, FP_RNE, &fl), 0xffffffffffffff00);
	assert_int_equal(fl, 0);

	assert_int_equal(fp32_unbox(fp32_box(0x3f800000)), 0x3f800000);
	assert_int_equal(fp32_unbox(0x3f800000), FP32_NAN);
}

static void classes_are_the_ten(void **state)
{
	static const uint64_t of[10] = {0xfff0000000000000, 0xc000000000000000, 0x8000000000000001,
		0x8000000000000000, 0, 0xfffffffffffff, 0x10000000000000, 0x7ff0000000000000,
		0xfff0000000000001, 0xfff8000000000000};
	static const uint32_t single[10] = {0xff800000, 0x80800000, 0x807fffff, 0x80000000, 0, 1,
		0x7f7fffff, 0x7f800000, 0x7fbfffff, 0x7fc00000};

	for (int i = 0; i < 10; i++) {
		assert_int_equal(fp64_soft_class(of[i]), 1 << i);
		assert_int_equal(fp32_soft_class(single[i]), 1 << i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(specification_by_example),
		cmocka_unit_test(classes_are_the_ten),
		cmocka_unit_test(environment_follows_the_guest),
		cmocka_unit_test(special_values_agree),
		cmocka_unit_test(soft_is_what_the_processor_says),
		cmocka_unit_test(hosts_without_fma_get_the_same),
		cmocka_unit_test(any_mode_leaves_its_flags_in_mxcsr),
		cmocka_unit_test(judge_sees_wrong_results),
		cmocka_unit_test(soft_is_exactly_rounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
