/*
 * F and D over fp_host.h: the host's SSE unit holds the guest's rounding mode and flags while guest code runs.
 *
 * Each handler with a rounding mode has a slow twin for modes that the host is not set to: RMM, static modes other than
 * frm, and reserved values of frm, which make the instruction illegal. Every instruction that may change an FP register or a flag
 * marks mstatus.FS dirty.
 *
 * Source: volume I, chapters "F" and "D" (NaN boxing: "D", section 2).
 */
#include "cpu/rv64/interp.h"

#define CAUSE_ILLEGAL 2
#define FS_DIRTY 3

SLOW fp_illegal(struct hart *h, const struct rv64_op *op)
{
	uint32_t raw = rv64_op_raw(op);

	rv64_trap(h, op_leave(h, op), CAUSE_ILLEGAL, raw);
}

#define NEED_FP \
	do { \
		if (unlikely(!h->fs)) \
			TAIL fp_illegal(h, op); \
	} while (0)
#define RM ((unsigned)op->imm & 7)
#define NEED_RM(fits, twin) \
	do { \
		if (unlikely(!fits(&h->fp, RM))) \
			TAIL twin(h, op); \
	} while (0)

static inline uint32_t get32(const struct hart *h, unsigned r)
{
	return fp32_unbox(h->f[r]);
}

static inline uint64_t get64(const struct hart *h, unsigned r)
{
	return h->f[r];
}

static inline void put32(struct hart *h, unsigned r, uint32_t v)
{
	h->f[r] = fp32_box(v);
	h->fs = FS_DIRTY;
}

static inline void put64(struct hart *h, unsigned r, uint64_t v)
{
	h->f[r] = v;
	h->fs = FS_DIRTY;
}

/* Integer results of instructions that may raise flags. */
static inline void putx(struct hart *h, unsigned r, uint64_t v)
{
	h->x[r] = v;
	h->fs = FS_DIRTY;
}

#define A(N) get##N(h, op->rs1)
#define B(N) get##N(h, op->rs2)
#define C(N) get##N(h, (unsigned)op->imm >> 8)

/* put: where the result goes; quick: in the host's mode, where it fits; any: in mode rm. */
#define ROUNDED(id, put, quick, any) ROUNDED_IF(fp_host_fits, id, put, quick, any)
#define ROUNDED_IF(fits, id, put, quick, any) \
	SLOW rm_##id(struct hart *h, const struct rv64_op *op) \
	{ \
		unsigned rm = fp_host_rm(&h->fp, RM); \
		if (rm > FP_RMM) \
			TAIL fp_illegal(h, op); \
		put(h, op->rd, any); \
		NEXT; \
	} \
	HANDLER(id) \
	{ \
		NEED_FP; \
		NEED_RM(fits, rm_##id); \
		put(h, op->rd, quick); \
		NEXT; \
	}

/* No rounding mode in the instruction. */
#define PLAIN(id, put, expr) \
	HANDLER(id) \
	{ \
		NEED_FP; \
		put(h, op->rd, expr); \
		NEXT; \
	}

/* Results that no mode changes; but a reserved frm is illegal with these too. */
#define EXACT(id, put, expr) ROUNDED(id, put, expr, expr)

/* Conversions to integers: rounding towards zero, which C's casts want, is quick whatever frm is. */
#define TO_INT(id, N, name, type) \
	SLOW rm_##id(struct hart *h, const struct rv64_op *op) \
	{ \
		unsigned rm = fp_host_rm(&h->fp, RM); \
		if (rm > FP_RMM) \
			TAIL fp_illegal(h, op); \
		putx(h, op->rd, fp##N##_to_int_rm(A(N), type, rm)); \
		NEXT; \
	} \
	HANDLER(id) \
	{ \
		NEED_FP; \
		if (likely(RM == FP_RTZ)) { \
			putx(h, op->rd, fp##N##_to_##name##_rtz(A(N))); \
			NEXT; \
		} \
		NEED_RM(fp_host_fits, rm_##id); \
		putx(h, op->rd, fp##N##_to_##name(A(N))); \
		NEXT; \
	}

#define FUSED(id, N, quick, sign_a, sign_c) \
	ROUNDED_IF(fp_host_fits_fma, id, put##N, quick(A(N), B(N), C(N)), \
		fp##N##_fma_rm(A(N) ^ (sign_a), B(N), C(N) ^ (sign_c), rm))

#define ARITHMETIC(s, N) \
	ROUNDED(fadd_##s, put##N, fp##N##_add(A(N), B(N)), fp##N##_add_rm(A(N), B(N), rm)) \
	ROUNDED(fsub_##s, put##N, fp##N##_sub(A(N), B(N)), fp##N##_sub_rm(A(N), B(N), rm)) \
	ROUNDED(fmul_##s, put##N, fp##N##_mul(A(N), B(N)), fp##N##_mul_rm(A(N), B(N), rm)) \
	ROUNDED(fdiv_##s, put##N, fp##N##_div(A(N), B(N)), fp##N##_div_rm(A(N), B(N), rm)) \
	ROUNDED(fsqrt_##s, put##N, fp##N##_sqrt(A(N)), fp##N##_sqrt_rm(A(N), rm)) \
	FUSED(fmadd_##s, N, fp##N##_fmadd, 0, 0) \
	FUSED(fmsub_##s, N, fp##N##_fmsub, 0, FP##N##_SIGN) \
	FUSED(fnmsub_##s, N, fp##N##_fnmsub, FP##N##_SIGN, 0) \
	FUSED(fnmadd_##s, N, fp##N##_fnmadd, FP##N##_SIGN, FP##N##_SIGN) \
	PLAIN(fsgnj_##s, put##N, fp##N##_sgnj(A(N), B(N))) \
	PLAIN(fsgnjn_##s, put##N, fp##N##_sgnjn(A(N), B(N))) \
	PLAIN(fsgnjx_##s, put##N, fp##N##_sgnjx(A(N), B(N))) \
	PLAIN(fmin_##s, put##N, fp##N##_min(A(N), B(N))) \
	PLAIN(fmax_##s, put##N, fp##N##_max(A(N), B(N))) \
	PLAIN(feq_##s, putx, fp##N##_eq(A(N), B(N))) \
	PLAIN(flt_##s, putx, fp##N##_lt(A(N), B(N))) \
	PLAIN(fle_##s, putx, fp##N##_le(A(N), B(N))) \
	HANDLER(fclass_##s) \
	{ \
		NEED_FP; \
		RD = fp##N##_soft_class(A(N)); \
		NEXT; \
	} \
	TO_INT(fcvt_w_##s, N, w, FP_W) \
	TO_INT(fcvt_wu_##s, N, wu, FP_WU) \
	TO_INT(fcvt_l_##s, N, l, FP_L) \
	TO_INT(fcvt_lu_##s, N, lu, FP_LU) \
	ROUNDED(fcvt_##s##_l, put##N, fp##N##_from_l(RS1), fp##N##_from_int_rm(RS1, FP_L, rm)) \
	ROUNDED(fcvt_##s##_lu, put##N, fp##N##_from_lu(RS1), fp##N##_from_int_rm(RS1, FP_LU, rm))

ARITHMETIC(s, 32)
ARITHMETIC(d, 64)
ROUNDED(fcvt_s_w, put32, fp32_from_w(RS1), fp32_from_int_rm(RS1, FP_W, rm))
ROUNDED(fcvt_s_wu, put32, fp32_from_wu(RS1), fp32_from_int_rm(RS1, FP_WU, rm))
ROUNDED(fcvt_s_d, put32, fp32_from_f64(A(64)), fp32_from_f64_rm(A(64), rm))
EXACT(fcvt_d_w, put64, fp64_from_w(RS1))
EXACT(fcvt_d_wu, put64, fp64_from_wu(RS1))
EXACT(fcvt_d_s, put64, fp64_from_f32(A(32)))
PLAIN(fmv_w_x, put32, (uint32_t)RS1)
PLAIN(fmv_d_x, put64, RS1)

/* Moves take the low half as it is, boxed or not, and leave the FP state alone. */
HANDLER(fmv_x_w)
{
	NEED_FP;
	RD = sext32(h->f[op->rs1]);
	NEXT;
}

HANDLER(fmv_x_d)
{
	NEED_FP;
	RD = h->f[op->rs1];
	NEXT;
}

#define FP_LOAD(id, type, put) \
	SLOW slow_##id(struct hart *h, const struct rv64_op *op) \
	{ \
		if (!mem_load(h, op, RS1 + (uint64_t)(int64_t)op->imm, sizeof(type) | MEM_FP, \
			    &h->tmp)) \
			return; \
		put(h, op->rd, (type)h->tmp); \
		NEXT; \
	} \
	HANDLER(id) \
	{ \
		bool hit; \
		const type *p = tlb_read(h, RS1 + (uint64_t)(int64_t)op->imm, sizeof(type), &hit); \
		NEED_FP; \
		if (unlikely(!hit)) \
			TAIL slow_##id(h, op); \
		put(h, op->rd, __atomic_load_n(p, __ATOMIC_RELAXED)); \
		NEXT; \
	}
FP_LOAD(flw, uint32_t, put32)
FP_LOAD(fld, uint64_t, put64)

#define FP_STORE(id, type) \
	SLOW slow_##id(struct hart *h, const struct rv64_op *op) \
	{ \
		if (!mem_store(h, op, RS1 + (uint64_t)(int64_t)op->imm, sizeof(type), \
			    (type)h->f[op->rs2])) \
			return; \
		NEXT; \
	} \
	HANDLER(id) \
	{ \
		bool hit; \
		type *p = tlb_write(h, RS1 + (uint64_t)(int64_t)op->imm, sizeof(type), &hit); \
		NEED_FP; \
		if (unlikely(!hit)) \
			TAIL slow_##id(h, op); \
		__atomic_store_n(p, (type)h->f[op->rs2], __ATOMIC_RELAXED); \
		NEXT; \
	}
FP_STORE(fsw, uint32_t)
FP_STORE(fsd, uint64_t)
