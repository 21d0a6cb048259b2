#include <string.h>

#include "cpu/rv64/fp_soft.h"
#include "fp_exact.h"

typedef unsigned __int128 u128;

enum { LIMBS = 72, LOW = 2200 }; /* fixed point: bit 0 is 2^-LOW */

struct big {
	uint64_t l[LIMBS];
};

/* m * 2^e, m >= 0 */
struct term {
	u128 m;
	int e;
};

static void big_add(struct big *b, struct term t)
{
	unsigned at = (unsigned)(t.e + LOW), shift = at % 64;
	uint64_t part[3] = {(uint64_t)t.m << shift, 0, 0};
	unsigned carry = 0;

	if (!t.m)
		return;
	part[1] = (uint64_t)(t.m >> 64 << shift) | (shift ? (uint64_t)t.m >> (64 - shift) : 0);
	part[2] = shift ? (uint64_t)(t.m >> 64) >> (64 - shift) : 0;
	for (unsigned i = 0, j = at / 64; j < LIMBS && (i < 3 || carry); i++, j++) {
		u128 s = (u128)b->l[j] + (i < 3 ? part[i] : 0) + carry;

		b->l[j] = (uint64_t)s;
		carry = s >> 64;
	}
}

static int big_cmp(const struct big *a, const struct big *b)
{
	for (int i = LIMBS - 1; i >= 0; i--)
		if (a->l[i] != b->l[i])
			return a->l[i] < b->l[i] ? -1 : 1;
	return 0;
}

struct format {
	int frac, emin; /* least exponent of a normal number */
	uint64_t inf;
};

static struct format format(int width)
{
	return width == 32 ? (struct format){23, -126, FP32_INF}
			   : (struct format){52, -1022, FP64_INF};
}

/* The magnitude that a sign-less pattern stands for; of "infinity": the number that would come next. */
static struct term value(struct format f, uint64_t mag)
{
	int e = (int)(mag >> f.frac);
	uint64_t frac = mag & ((1ull << f.frac) - 1);

	if (!e)
		return (struct term){frac, f.emin - f.frac};
	return (struct term){frac | 1ull << f.frac, e - 1 + f.emin - f.frac};
}

/* Half-way from a magnitude to the next. */
static struct term middle(struct format f, uint64_t mag)
{
	struct term t = value(f, mag);

	return (struct term){2 * t.m + 1, t.e - 1};
}

struct question {
	enum fp_exact op;
	int signs, from;
	const uint64_t *v;
	bool sign; /* the question is about x or -x */
};

static bool sign_of(int width, uint64_t v)
{
	return v >> (width - 1) & 1;
}

static struct term magnitude(int width, uint64_t v)
{
	return value(format(width),
		v & ~(1ull << (width - 1)) & (width == 32 ? UINT32_MAX : UINT64_MAX));
}

static struct term times(struct term a, struct term b)
{
	return (struct term){a.m * b.m, a.e + b.e};
}

/* Compares the exact result (negated if q->sign) with y >= 0: -1, 0, 1. */
static int against(const struct question *q, struct term y)
{
	struct big side[2] = {{{0}}, {{0}}}; /* what is positive; what is negative, and y */
	struct term a = {0}, b = {0}, c = {0};
	bool s = q->sign, sa = false, sb = false, sc = false;
	int w = q->from;

	if (q->op == EXACT_FROM_INT) {
		uint64_t v = q->v[0];

		if (q->signs == FP_W)
			v = (uint64_t)(int64_t)(int32_t)v;
		else if (q->signs == FP_WU)
			v = (uint32_t)v;
		sa = (q->signs == FP_W || q->signs == FP_L) && v >> 63;
		big_add(&side[s ^ sa], (struct term){sa ? -v : v, 0});
		big_add(&side[1], y);
		return big_cmp(&side[0], &side[1]);
	}
	a = magnitude(w, q->v[0]);
	b = magnitude(w, q->v[1]);
	c = magnitude(w, q->v[2]);
	sa = sign_of(w, q->v[0]);
	sb = sign_of(w, q->v[1]);
	sc = sign_of(w, q->v[2]);
	switch (q->op) {
	case EXACT_ADD:
	case EXACT_SUB:
		big_add(&side[s ^ sa], a);
		big_add(&side[s ^ sb ^ (q->op == EXACT_SUB)], b);
		break;
	case EXACT_MUL:
		big_add(&side[s ^ sa ^ sb], times(a, b));
		break;
	case EXACT_FMA:
		big_add(&side[s ^ sa ^ sb ^ (q->signs & 1)], times(a, b));
		big_add(&side[s ^ sc ^ (q->signs >> 1)], c);
		break;
	case EXACT_DIV: /* |b| > 0: a / b against y is a against y * b */
		big_add(&side[s ^ sa ^ sb], a);
		y = times(y, b);
		break;
	case EXACT_SQRT:
		big_add(&side[s], a);
		y = times(y, y);
		break;
	default: /* between formats */
		big_add(&side[s ^ sa], a);
		break;
	}
	big_add(&side[1], y);
	return big_cmp(&side[0], &side[1]);
}

static bool is_finite(int width, uint64_t v)
{
	struct format f = format(width);

	return (v & f.inf) != f.inf;
}

bool fp_exact_applies(enum fp_exact op, int from, const uint64_t v[3])
{
	if (op == EXACT_NOT)
		return false;
	if (op == EXACT_FROM_INT)
		return true;
	if (!is_finite(from, v[0]))
		return false;
	switch (op) {
	case EXACT_SQRT:
		return !sign_of(from, v[0]);
	case EXACT_DIV:
		return is_finite(from, v[1]) && magnitude(from, v[1]).m;
	case EXACT_ADD:
	case EXACT_SUB:
	case EXACT_MUL:
		return is_finite(from, v[1]);
	case EXACT_FMA:
		return is_finite(from, v[1]) && is_finite(from, v[2]);
	default:
		return true;
	}
}

/* Towards zero (-1), away from it (1), or to nearest (0), for a result of that sign? */
static int direction(unsigned rm, bool sign)
{
	switch (rm) {
	case FP_RTZ:
		return -1;
	case FP_RDN:
		return sign ? 1 : -1;
	case FP_RUP:
		return sign ? -1 : 1;
	default:
		return 0;
	}
}

static const char *judge_value(const struct question *q, struct format f, unsigned rm, uint64_t mag)
{
	bool ties_here = rm == FP_RNE && !(mag & 1), odd = rm == FP_RNE && mag & 1;
	int dir = direction(rm, q->sign), c;

	if (mag > f.inf)
		return "NaN";
	if (dir < 0) {
		if (mag == f.inf || against(q, value(f, mag)) < 0)
			return "not cut off";
		return mag + 1 < f.inf && against(q, value(f, mag + 1)) >= 0 ? "cut too much"
									     : NULL;
	}
	if (dir > 0) {
		if (mag < f.inf && against(q, value(f, mag)) > 0)
			return "not rounded away";
		return mag && against(q, value(f, mag - 1)) <= 0 ? "rounded away too far" : NULL;
	}
	if (mag) {
		c = against(q, middle(f, mag - 1));
		if (c < 0 || (!c && odd))
			return "a smaller one is nearer";
	}
	if (mag < f.inf) {
		c = against(q, middle(f, mag));
		if (c > 0 || (!c && !ties_here))
			return "a larger one is nearer";
	}
	return NULL;
}

static uint32_t flags_wanted(const struct question *q, struct format f, unsigned rm, uint64_t mag)
{
	int dir = direction(rm, q->sign), p = f.frac + 1;
	bool tiny;

	/* Overflow: what it would be with a larger exponent range is beyond the largest finite number. */
	if (mag == f.inf || (dir < 0 && against(q, value(f, f.inf)) >= 0))
		return FP_OF | FP_NX;
	if (!against(q, value(f, mag)))
		return 0;
	/* Tiny: what it would be with p bits and a larger exponent range is below 2^emin. */
	if (dir < 0)
		tiny = against(q, (struct term){1, f.emin}) < 0;
	else if (dir > 0)
		tiny = against(q, (struct term){((u128)1 << p) - 1, f.emin - p}) <= 0;
	else
		tiny = against(q, (struct term){((u128)2 << p) - 1, f.emin - p - 1}) < 0;
	return tiny ? FP_UF | FP_NX : FP_NX;
}

static const char *judge_integer(
	int width, enum fp_int type, uint64_t v, unsigned rm, uint64_t got, uint32_t flags)
{
	static const __int128 one = 1;
	bool is_signed = type == FP_W || type == FP_L;
	int bits = type == FP_W || type == FP_WU ? 32 : 64, vs_half = 0;
	__int128 max = (one << (bits - is_signed)) - 1, min = is_signed ? -max - 1 : 0, floor;
	struct term t = magnitude(width, v);
	bool neg = sign_of(width, v), exact = true, up = false;
	uint32_t want = 0;

	/* floor(x), and how the rest compares with a half */
	if (t.e >= 0) {
		floor = (__int128)(t.e > 70 ? (t.m ? (u128)1 << 120 : 0) : t.m << t.e);
		floor = neg ? -floor : floor;
	} else {
		int down = t.e < -100 ? 100 : -t.e; /* that far below, any rest is under a half */
		__int128 x = neg ? -(__int128)t.m : (__int128)t.m, rest;

		floor = x >> down;
		rest = x - floor * (one << down);
		exact = !rest;
		vs_half = rest < one << (down - 1) ? -1 : rest > one << (down - 1);
		if (t.e < -100 && !exact)
			vs_half = neg ? 1 : -1;
	}
	switch (rm) {
	case FP_RNE:
		up = vs_half > 0 || (!vs_half && floor & 1);
		break;
	case FP_RTZ:
		up = neg;
		break;
	case FP_RUP:
		up = true;
		break;
	case FP_RMM:
		up = vs_half > 0 || (!vs_half && !neg);
		break;
	}
	if (!exact && up)
		floor++;
	if (floor < min || floor > max) {
		floor = floor < min ? min : max;
		want = FP_NV;
	} else if (!exact) {
		want = FP_NX;
	}
	if (got != (bits == 32 ? (uint64_t)(int64_t)(int32_t)floor : (uint64_t)floor))
		return "integer";
	return flags != want ? "flags of integer" : NULL;
}

const char *fp_exact_judge(enum fp_exact op, int signs, int from, int to, const uint64_t v[3],
	unsigned rm, uint64_t got, uint32_t flags)
{
	struct question q = {op, signs, from, v, false};
	struct format f;
	const char *why;
	uint64_t mag;

	if (!fp_exact_applies(op, from, v))
		return NULL;
	if (op == EXACT_TO_INT)
		return judge_integer(from, (enum fp_int)signs, v[0], rm, got, flags);
	f = format(to);
	q.sign = sign_of(to, got);
	mag = got & ~(1ull << (to - 1));
	if (to == 32 && got >> 32)
		return "more than 32 bits";
	switch (against(&q, (struct term){0, 0})) {
	case 0:
		return mag || flags ? "exact zero" : NULL;
	case -1:
		return "sign";
	}
	why = judge_value(&q, f, rm, mag);
	if (why)
		return why;
	return flags != flags_wanted(&q, f, rm, mag) ? "flags" : NULL;
}
