#include "cpu/rv64/fp_host.h"

enum {
	/* Exceptions IE, DE, ZE, OE, UE, PE; their masks are the same six bits at 7. DAZ (6) and FTZ (15) stay 0. */
	MXCSR_FLAGS = 0x3f,
	MXCSR_MASKS = 0x3f << 7,
	MXCSR_RC_SHIFT = 13,
};

static uint32_t mxcsr_read(void)
{
	uint32_t v;

	asm volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static void mxcsr_write(uint32_t v)
{
	asm volatile("ldmxcsr %0" : : "m"(v));
}

/* MXCSR.RC of a mode that x86 has; RNE of all others. */
static uint32_t rc_of(unsigned rm)
{
	static const uint8_t rc[8] = {[FP_RNE] = 0, [FP_RDN] = 1, [FP_RUP] = 2, [FP_RTZ] = 3};

	return (uint32_t)rc[rm] << MXCSR_RC_SHIFT;
}

static unsigned current_rm(void)
{
	static const uint8_t rm[4] = {FP_RNE, FP_RDN, FP_RUP, FP_RTZ};

	return rm[mxcsr_read() >> MXCSR_RC_SHIFT & 3];
}

static unsigned flags_of(uint32_t mxcsr)
{
	return (mxcsr & 1 ? FP_NV : 0) | (mxcsr & 4 ? FP_DZ : 0) | (mxcsr & 8 ? FP_OF : 0) |
	       (mxcsr & 16 ? FP_UF : 0) | (mxcsr & 32 ? FP_NX : 0);
}

void fp_host_init(struct fp_host *c)
{
	*c = (struct fp_host){0};
	/* FMA is VEX-encoded: this asks cpuid for it and for AVX with the kernel's consent (XCR0). */
	__builtin_cpu_init();
	c->fma = __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx");
	fp_host_set_frm(c, FP_RNE);
}

void fp_host_enter(struct fp_host *c)
{
	c->host = mxcsr_read();
	c->inside = true;
	mxcsr_write(MXCSR_MASKS | rc_of(c->frm));
}

void fp_host_leave(struct fp_host *c)
{
	c->flags |= flags_of(mxcsr_read());
	c->inside = false;
	mxcsr_write(c->host);
}

void fp_host_set_frm(struct fp_host *c, unsigned frm)
{
	c->frm = frm & 7;
	if (c->frm < FP_RMM)
		c->fits = 1u << c->frm | 1u << FP_DYN;
	else
		c->fits = 1u << FP_RNE;
	c->fits_fma = c->fma ? c->fits : 0;
	if (c->inside)
		mxcsr_write((mxcsr_read() & MXCSR_FLAGS) | MXCSR_MASKS | rc_of(c->frm));
}

void fp_host_set_flags(struct fp_host *c, unsigned fflags)
{
	c->flags = fflags & FP_FLAGS;
	if (c->inside)
		mxcsr_write(MXCSR_MASKS | rc_of(c->frm));
}

unsigned fp_host_flags(const struct fp_host *c)
{
	return c->flags | (c->inside ? flags_of(mxcsr_read()) : 0);
}

void fp_host_raise(uint32_t flags)
{
	uint32_t old = mxcsr_read();
	uint32_t v = old | (flags & FP_NV ? 1 : 0) | (flags & FP_DZ ? 4 : 0) |
		     (flags & FP_OF ? 8 : 0) | (flags & FP_UF ? 16 : 0) | (flags & FP_NX ? 32 : 0);

	if (v != old) /* the write costs more than the look */
		mxcsr_write(v);
}

/* A soft call whose flags go to MXCSR. */
#define RAISED(type, call) \
	uint32_t flags = 0; \
	type r = call; \
\
	fp_host_raise(flags); \
	return r

#define BINARY(N, op) \
	uint##N##_t fp##N##_##op##_rm(uint##N##_t a, uint##N##_t b, unsigned rm) \
	{ \
		RAISED(uint##N##_t, fp##N##_soft_##op(a, b, rm, &flags)); \
	}

#define FORMAT(N) \
	BINARY(N, add) \
	BINARY(N, sub) \
	BINARY(N, mul) \
	BINARY(N, div) \
	uint##N##_t fp##N##_sqrt_rm(uint##N##_t a, unsigned rm) \
	{ \
		RAISED(uint##N##_t, fp##N##_soft_sqrt(a, rm, &flags)); \
	} \
	uint##N##_t fp##N##_fma_rm(uint##N##_t a, uint##N##_t b, uint##N##_t c, unsigned rm) \
	{ \
		RAISED(uint##N##_t, fp##N##_soft_fma(a, b, c, rm, &flags)); \
	} \
	uint64_t fp##N##_to_int_rm(uint##N##_t a, enum fp_int type, unsigned rm) \
	{ \
		RAISED(uint64_t, fp##N##_soft_to_int(a, type, rm, &flags)); \
	} \
	uint##N##_t fp##N##_from_int_rm(uint64_t v, enum fp_int type, unsigned rm) \
	{ \
		RAISED(uint##N##_t, fp##N##_soft_from_int(v, type, rm, &flags)); \
	} \
	uint64_t fp##N##_to_int_soft(uint##N##_t a, enum fp_int type) \
	{ \
		return fp##N##_to_int_rm(a, type, current_rm()); \
	}

FORMAT(32)
FORMAT(64)

uint32_t fp32_from_f64_rm(uint64_t a, unsigned rm)
{
	RAISED(uint32_t, fp32_soft_from_f64(a, rm, &flags));
}
