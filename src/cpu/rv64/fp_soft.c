#include "cpu/rv64/fp_soft.h"

/*
 * Everything below is written once for all formats and inlined into the calls at the end of the file with the format as a
 * constant, so that the compiler makes a version for each.
 */
#define GENERIC static inline __attribute__((always_inline))

typedef unsigned __int128 u128;

/* An interchange format: widths of its fraction and its exponent. The generic code is right up to frac == 60. */
struct fmt {
	int frac, exp;
};
#define F32 ((struct fmt){23, 8})
#define F64 ((struct fmt){52, 11})

enum kind { ZERO, FINITE, INF, QNAN, SNAN };

/* A FINITE number is sig * 2^(exp - 63), bit 63 of sig set; subnormal operands are normalised too. */
struct num {
	uint64_t sig;
	int exp;
	bool sign;
	enum kind kind;
};

GENERIC int bias(struct fmt f)
{
	return (1 << (f.exp - 1)) - 1;
}

GENERIC int emin(struct fmt f)
{
	return 1 - bias(f);
}

GENERIC uint64_t pack_zero(struct fmt f, bool sign)
{
	return (uint64_t)sign << (f.frac + f.exp);
}

GENERIC uint64_t pack_inf(struct fmt f, bool sign)
{
	return pack_zero(f, sign) | ((1ull << f.exp) - 1) << f.frac;
}

GENERIC uint64_t pack_nan(struct fmt f)
{
	return pack_inf(f, false) | 1ull << (f.frac - 1);
}

GENERIC uint64_t invalid(struct fmt f, uint32_t *flags)
{
	*flags |= FP_NV;
	return pack_nan(f);
}

GENERIC struct num unpack(struct fmt f, uint64_t bits)
{
	uint64_t frac = bits & ((1ull << f.frac) - 1);
	int exp = bits >> f.frac & ((1u << f.exp) - 1);
	struct num n = {.sign = bits >> (f.frac + f.exp) & 1, .kind = FINITE};

	if (exp == (1 << f.exp) - 1) {
		n.kind = !frac ? INF : frac >> (f.frac - 1) ? QNAN : SNAN;
	} else if (exp) {
		n.sig = (1ull << f.frac | frac) << (63 - f.frac);
		n.exp = exp - bias(f);
	} else if (frac) {
		int zeros = __builtin_clzll(frac);

		n.sig = frac << zeros;
		n.exp = emin(f) - f.frac + 63 - zeros;
	} else {
		n.kind = ZERO;
	}
	return n;
}

GENERIC bool is_nan(struct num n)
{
	return n.kind >= QNAN;
}

/* Shifts right; what falls out stays visible as a one in bit 0. */
GENERIC uint64_t shift_jam64(uint64_t v, unsigned n)
{
	if (!n)
		return v;
	return n < 64 ? v >> n | !!(v << (64 - n)) : !!v;
}

GENERIC u128 shift_jam128(u128 v, unsigned n)
{
	if (!n)
		return v;
	return n < 128 ? v >> n | !!(v << (128 - n)) : !!v;
}

/* Does the magnitude grow, when the bits `rest` of 2 * half are cut off? */
GENERIC bool rounds_away(unsigned rm, bool sign, bool odd, uint64_t rest, uint64_t half)
{
	switch (rm) {
	case FP_RNE:
		return rest > half || (rest == half && odd);
	case FP_RDN:
		return rest && sign;
	case FP_RUP:
		return rest && !sign;
	case FP_RMM:
		return rest >= half;
	default:
		return false;
	}
}

GENERIC uint64_t overflow(struct fmt f, bool sign, unsigned rm, uint32_t *flags)
{
	bool to_inf = rm == FP_RNE || rm == FP_RMM || rm == (sign ? FP_RDN : FP_RUP);

	*flags |= FP_OF | FP_NX;
	return pack_inf(f, sign) - !to_inf;
}

/* Rounds sig * 2^(exp - 63), bit 63 of sig set and bit 0 sticky, into the format. The one place where numbers are rounded. */
GENERIC uint64_t round_pack(
	struct fmt f, bool sign, int exp, uint64_t sig, unsigned rm, uint32_t *flags)
{
	unsigned drop = 63 - f.frac;
	uint64_t half = 1ull << (drop - 1), mask = 2 * half - 1;
	bool tiny = false;
	uint64_t rest, bits;

	if (exp > bias(f))
		return overflow(f, sign, rm, flags);
	if (exp < emin(f)) {
		/* After rounding: not tiny if rounding with unbounded exponent range would carry to 2^emin. */
		tiny = exp < emin(f) - 1 || (sig | mask) != UINT64_MAX ||
		       !rounds_away(rm, sign, true, sig & mask, half);
		sig = shift_jam64(sig, emin(f) - exp);
		exp = emin(f);
	}
	rest = sig & mask;
	sig >>= drop;
	/* The leading one, if there is one, adds itself to the exponent field; so does a carry from rounding. */
	bits = ((uint64_t)(exp - emin(f)) << f.frac) + sig;
	bits += rounds_away(rm, sign, sig & 1, rest, half);
	if (bits >= pack_inf(f, false))
		return overflow(f, sign, rm, flags);
	if (rest)
		*flags |= tiny ? FP_UF | FP_NX : FP_NX;
	return pack_zero(f, sign) | bits;
}

/* The same for 128 bits with any leading one; value sig * 2^(exp - 126). */
GENERIC uint64_t round_pack128(
	struct fmt f, bool sign, int exp, u128 sig, unsigned rm, uint32_t *flags)
{
	uint64_t hi = sig >> 64;
	int zeros = hi ? __builtin_clzll(hi) : 64 + __builtin_clzll((uint64_t)sig);

	sig <<= zeros;
	return round_pack(f, sign, exp + 1 - zeros, sig >> 64 | !!(uint64_t)sig, rm, flags);
}

/* A finite operand of a sum: sig * 2^(exp - 126), bit 126 set. */
struct wide {
	u128 sig;
	int exp;
	bool sign;
};

GENERIC struct wide widen(struct num n)
{
	return (struct wide){(u128)n.sig << 63, n.exp, n.sign};
}

GENERIC struct wide product(struct num a, struct num b)
{
	struct wide w = {(u128)a.sig * b.sig, a.exp + b.exp, a.sign ^ b.sign};

	/* Two operands of at most 61 bits: the low bits of the product are zero, so nothing is lost here. */
	if (w.sig >> 127) {
		w.sig >>= 1;
		w.exp++;
	}
	return w;
}

/*
 * The smaller operand is moved right under the larger one. Where bits fall out, the distance is so large that at most one leading bit
 * cancels, and bit 0 is far below what rounding looks at; so one sticky bit is enough in subtraction too.
 */
GENERIC uint64_t sum(struct fmt f, struct wide a, struct wide b, unsigned rm, uint32_t *flags)
{
	u128 sig;

	if (a.exp < b.exp || (a.exp == b.exp && a.sig < b.sig)) {
		struct wide t = a;

		a = b;
		b = t;
	}
	sig = shift_jam128(b.sig, a.exp - b.exp);
	sig = a.sign == b.sign ? a.sig + sig : a.sig - sig;
	if (!sig)
		return pack_zero(f, rm == FP_RDN);
	return round_pack128(f, a.sign, a.exp, sig, rm, flags);
}

GENERIC uint64_t g_add(struct fmt f, uint64_t x, uint64_t y, unsigned rm, uint32_t *flags)
{
	struct num a = unpack(f, x), b = unpack(f, y);

	if (a.kind == FINITE && b.kind == FINITE)
		return sum(f, widen(a), widen(b), rm, flags);
	if (is_nan(a) || is_nan(b)) {
		*flags |= a.kind == SNAN || b.kind == SNAN ? FP_NV : 0;
		return pack_nan(f);
	}
	if (a.kind == INF || b.kind == INF) {
		if (a.kind == b.kind && a.sign != b.sign)
			return invalid(f, flags);
		return a.kind == INF ? x : y;
	}
	if (a.kind == ZERO && b.kind == ZERO)
		return a.sign == b.sign ? x : pack_zero(f, rm == FP_RDN);
	return a.kind == ZERO ? y : x;
}

GENERIC uint64_t g_sub(struct fmt f, uint64_t x, uint64_t y, unsigned rm, uint32_t *flags)
{
	return g_add(f, x, y ^ pack_zero(f, true), rm, flags);
}

GENERIC uint64_t g_fma(
	struct fmt f, uint64_t x, uint64_t y, uint64_t z, unsigned rm, uint32_t *flags)
{
	struct num a = unpack(f, x), b = unpack(f, y), c = unpack(f, z);
	bool sign = a.sign ^ b.sign;

	if (a.kind == FINITE && b.kind == FINITE && c.kind == FINITE)
		return sum(f, product(a, b), widen(c), rm, flags);
	/* Before the quiet NaNs: this is invalid even when the addend is one. */
	if ((a.kind == INF && b.kind == ZERO) || (a.kind == ZERO && b.kind == INF))
		return invalid(f, flags);
	if (is_nan(a) || is_nan(b) || is_nan(c)) {
		*flags |= a.kind == SNAN || b.kind == SNAN || c.kind == SNAN ? FP_NV : 0;
		return pack_nan(f);
	}
	if (a.kind == INF || b.kind == INF) {
		if (c.kind == INF && c.sign != sign)
			return invalid(f, flags);
		return pack_inf(f, sign);
	}
	if (c.kind == INF)
		return z;
	if (a.kind == ZERO || b.kind == ZERO) {
		if (c.kind == ZERO)
			return pack_zero(f, c.sign == sign ? sign : rm == FP_RDN);
		return z;
	}
	{
		struct wide p = product(a, b);

		return round_pack128(f, sign, p.exp, p.sig, rm, flags);
	}
}

GENERIC uint64_t g_mul(struct fmt f, uint64_t x, uint64_t y, unsigned rm, uint32_t *flags)
{
	struct num a = unpack(f, x), b = unpack(f, y);
	bool sign = a.sign ^ b.sign;

	if (a.kind == FINITE && b.kind == FINITE) {
		struct wide p = product(a, b);

		return round_pack128(f, sign, p.exp, p.sig, rm, flags);
	}
	if (is_nan(a) || is_nan(b)) {
		*flags |= a.kind == SNAN || b.kind == SNAN ? FP_NV : 0;
		return pack_nan(f);
	}
	if (a.kind == INF || b.kind == INF) {
		if (a.kind == ZERO || b.kind == ZERO)
			return invalid(f, flags);
		return pack_inf(f, sign);
	}
	return pack_zero(f, sign);
}

GENERIC uint64_t g_div(struct fmt f, uint64_t x, uint64_t y, unsigned rm, uint32_t *flags)
{
	struct num a = unpack(f, x), b = unpack(f, y);
	bool sign = a.sign ^ b.sign;

	if (a.kind == FINITE && b.kind == FINITE) {
		u128 n = (u128)a.sig << 63;
		uint64_t q = n / b.sig; /* 2^62 < q < 2^64 */
		int zeros = __builtin_clzll(q);
		bool more = (u128)q * b.sig != n;

		return round_pack(f, sign, a.exp - b.exp - zeros, q << zeros | more, rm, flags);
	}
	if (is_nan(a) || is_nan(b)) {
		*flags |= a.kind == SNAN || b.kind == SNAN ? FP_NV : 0;
		return pack_nan(f);
	}
	if (a.kind == b.kind) /* inf / inf, 0 / 0 */
		return invalid(f, flags);
	if (a.kind == ZERO || b.kind == INF)
		return pack_zero(f, sign);
	if (a.kind == FINITE)
		*flags |= FP_DZ;
	return pack_inf(f, sign);
}

GENERIC uint64_t g_sqrt(struct fmt f, uint64_t x, unsigned rm, uint32_t *flags)
{
	struct num a = unpack(f, x);
	uint64_t hi, lo, rest = 0, root = 0;
	int bits = f.frac + 3;

	if (a.kind == SNAN || (a.sign && (a.kind == FINITE || a.kind == INF)))
		return invalid(f, flags);
	if (a.kind == QNAN)
		return pack_nan(f);
	if (a.kind != FINITE)
		return x;
	/*
	 * Bit by bit, as by hand: each step brings down two bits of sig * 2^63 (2^64 when the exponent is odd, so that the root has 64
	 * bits) and finds one of the root. `bits` are as many as rounding looks at; the rest of the root is zeros and what
	 * remains says whether that is exact. All of sig's bits have come down by then: it has frac + 1.
	 */
	hi = a.exp & 1 ? a.sig : a.sig >> 1;
	lo = a.exp & 1 ? 0 : a.sig << 63;
	for (int i = 0; i < bits; i++) {
		uint64_t trial = root << 2 | 1;
		uint64_t one; /* as a mask: a branch on it would be wrong half of the time */

		rest = rest << 2 | hi >> 62;
		hi = hi << 2 | lo >> 62;
		lo <<= 2;
		one = -(uint64_t)(rest >= trial);
		rest -= trial & one;
		root = root << 1 | (one & 1);
	}
	return round_pack(f, false, a.exp >> 1, root << (64 - bits) | !!rest, rm, flags);
}

/* Orders all but NaNs; both zeros are 0. */
GENERIC int64_t order(struct fmt f, uint64_t x)
{
	int64_t mag = x & (pack_zero(f, true) - 1);

	return x >> (f.frac + f.exp) & 1 ? -mag : mag;
}

GENERIC uint64_t g_minmax(struct fmt f, uint64_t x, uint64_t y, bool max, uint32_t *flags)
{
	struct num a = unpack(f, x), b = unpack(f, y);

	if (is_nan(a) || is_nan(b)) {
		*flags |= a.kind == SNAN || b.kind == SNAN ? FP_NV : 0;
		return !is_nan(a) ? x : !is_nan(b) ? y : pack_nan(f);
	}
	if (order(f, x) == order(f, y)) /* the same, or two zeros of which a sign decides */
		return max ? x & y : x | y;
	return (order(f, x) < order(f, y)) != max ? x : y;
}

enum cmp { EQ, LT, LE };

GENERIC bool g_cmp(struct fmt f, uint64_t x, uint64_t y, enum cmp how, uint32_t *flags)
{
	struct num a = unpack(f, x), b = unpack(f, y);

	if (is_nan(a) || is_nan(b)) {
		if (how != EQ || a.kind == SNAN || b.kind == SNAN)
			*flags |= FP_NV;
		return false;
	}
	switch (how) {
	case EQ:
		return order(f, x) == order(f, y);
	case LT:
		return order(f, x) < order(f, y);
	default:
		return order(f, x) <= order(f, y);
	}
}

GENERIC unsigned g_class(struct fmt f, uint64_t x)
{
	struct num a = unpack(f, x);

	switch (a.kind) {
	case ZERO:
		return 1u << (a.sign ? 3 : 4);
	case FINITE:
		if (a.exp < emin(f))
			return 1u << (a.sign ? 2 : 5);
		return 1u << (a.sign ? 1 : 6);
	case INF:
		return 1u << (a.sign ? 0 : 7);
	case SNAN:
		return 1u << 8;
	default:
		return 1u << 9;
	}
}

GENERIC uint64_t saturate(enum fp_int type, bool low, uint32_t *flags)
{
	*flags |= FP_NV;
	switch (type) {
	case FP_W:
		return low ? (uint64_t)INT32_MIN : INT32_MAX;
	case FP_L:
		return low ? (uint64_t)INT64_MIN : INT64_MAX;
	default:
		return low ? 0 : UINT64_MAX; /* of 32 bits too: sign-extended */
	}
}

GENERIC uint64_t g_to_int(struct fmt f, uint64_t x, enum fp_int type, unsigned rm, uint32_t *flags)
{
	bool is_signed = type == FP_W || type == FP_L;
	unsigned width = type == FP_W || type == FP_WU ? 32 : 64;
	struct num a = unpack(f, x);
	uint64_t mag = 0, rest = 0, limit;

	if (a.kind == ZERO)
		return 0;
	if (a.kind != FINITE || a.exp > 63)
		return saturate(type, a.sign && !is_nan(a), flags);
	/* mag.rest: 64 bits each, the last one sticky. */
	if (a.exp < 0) {
		rest = shift_jam64(a.sig, -1 - a.exp);
	} else {
		mag = a.sig >> (63 - a.exp);
		rest = a.sig << 1 << a.exp;
	}
	mag += rounds_away(rm, a.sign, mag & 1, rest, 1ull << 63);
	limit = is_signed ? (1ull << (width - 1)) - !a.sign
		: a.sign  ? 0
			  : UINT64_MAX >> (64 - width);
	if (mag > limit)
		return saturate(type, a.sign, flags);
	if (rest)
		*flags |= FP_NX;
	if (a.sign)
		mag = -mag;
	return width == 32 ? (uint64_t)(int64_t)(int32_t)mag : mag;
}

GENERIC uint64_t g_from_int(
	struct fmt f, uint64_t v, enum fp_int type, unsigned rm, uint32_t *flags)
{
	bool sign;
	int zeros;

	if (type == FP_W)
		v = (uint64_t)(int64_t)(int32_t)v;
	else if (type == FP_WU)
		v = (uint32_t)v;
	sign = (type == FP_W || type == FP_L) && v >> 63;
	if (sign)
		v = -v;
	if (!v)
		return pack_zero(f, false);
	zeros = __builtin_clzll(v);
	return round_pack(f, sign, 63 - zeros, v << zeros, rm, flags);
}

GENERIC uint64_t g_convert(struct fmt to, struct fmt from, uint64_t x, unsigned rm, uint32_t *flags)
{
	struct num a = unpack(from, x);

	switch (a.kind) {
	case ZERO:
		return pack_zero(to, a.sign);
	case FINITE:
		return round_pack(to, a.sign, a.exp, a.sig, rm, flags);
	case INF:
		return pack_inf(to, a.sign);
	case SNAN:
		return invalid(to, flags);
	default:
		return pack_nan(to);
	}
}

/* The calls of one format. */
#define ARITHMETIC(N, op) \
	uint##N##_t fp##N##_soft_##op(uint##N##_t a, uint##N##_t b, unsigned rm, uint32_t *flags) \
	{ \
		return (uint##N##_t)g_##op(F##N, a, b, rm, flags); \
	}
#define MINMAX(N, op, max) \
	uint##N##_t fp##N##_soft_##op(uint##N##_t a, uint##N##_t b, uint32_t *flags) \
	{ \
		return (uint##N##_t)g_minmax(F##N, a, b, max, flags); \
	}
#define COMPARE(N, op, how) \
	bool fp##N##_soft_##op(uint##N##_t a, uint##N##_t b, uint32_t *flags) \
	{ \
		return g_cmp(F##N, a, b, how, flags); \
	}
#define FORMAT(N) \
	ARITHMETIC(N, add) \
	ARITHMETIC(N, sub) \
	ARITHMETIC(N, mul) \
	ARITHMETIC(N, div) \
	MINMAX(N, min, false) \
	MINMAX(N, max, true) \
	COMPARE(N, eq, EQ) \
	COMPARE(N, lt, LT) \
	COMPARE(N, le, LE) \
	uint##N##_t fp##N##_soft_sqrt(uint##N##_t a, unsigned rm, uint32_t *flags) \
	{ \
		return (uint##N##_t)g_sqrt(F##N, a, rm, flags); \
	} \
	uint##N##_t fp##N##_soft_fma( \
		uint##N##_t a, uint##N##_t b, uint##N##_t c, unsigned rm, uint32_t *flags) \
	{ \
		return (uint##N##_t)g_fma(F##N, a, b, c, rm, flags); \
	} \
	unsigned fp##N##_soft_class(uint##N##_t a) \
	{ \
		return g_class(F##N, a); \
	} \
	uint64_t fp##N##_soft_to_int( \
		uint##N##_t a, enum fp_int type, unsigned rm, uint32_t *flags) \
	{ \
		return g_to_int(F##N, a, type, rm, flags); \
	} \
	uint##N##_t fp##N##_soft_from_int( \
		uint64_t v, enum fp_int type, unsigned rm, uint32_t *flags) \
	{ \
		return (uint##N##_t)g_from_int(F##N, v, type, rm, flags); \
	}

FORMAT(32)
FORMAT(64)

uint32_t fp32_soft_from_f64(uint64_t a, unsigned rm, uint32_t *flags)
{
	return (uint32_t)g_convert(F32, F64, a, rm, flags);
}

uint64_t fp64_soft_from_f32(uint32_t a, uint32_t *flags)
{
	return g_convert(F64, F32, a, FP_RNE, flags); /* exact */
}
