/*
 * A: load-reserved, store-conditional and atomic read-modify-write.
 *
 * SC succeeds when the address is that of the last LR and memory still holds the value that LR saw (a host
 * compare-exchange). A store of the same value by another hart in between goes unnoticed; volume I allows no such thing in its
 * letter, but no program can build on the difference without a second location, and every interpreter of
 * this kind does so. Traps, returns from traps and changes of address space drop the reservation (priv half).
 *
 * All are sequentially consistent on the host, which covers aq and rl.
 */
#include "cpu/rv64/interp.h"

#define CAUSE_MISALIGNED_LOAD 4
#define RESV_NONE UINT64_MAX

#define LR(id, type) \
	SLOW slow_##id(struct hart *h, const struct rv64_op *op) \
	{ \
		uint64_t va = RS1; \
		h->resv_va = RESV_NONE; \
		if (va & (sizeof(type) - 1)) { \
			rv64_trap(h, op_leave(h, op), CAUSE_MISALIGNED_LOAD, va); \
			return; \
		} \
		if (!mem_load(h, op, va, sizeof(type) | MEM_LR, &h->resv_val)) \
			return; \
		h->resv_va = va; \
		RD = h->resv_val = (uint64_t)(type)h->resv_val; \
		NEXT; \
	} \
	HANDLER(id) \
	{ \
		uint64_t va = RS1; \
		bool hit; \
		const type *p = tlb_read(h, va, sizeof(type), &hit); \
		type v; \
		if (unlikely(!hit)) \
			TAIL slow_##id(h, op); \
		v = __atomic_load_n(p, __ATOMIC_SEQ_CST); \
		h->resv_va = va; \
		h->resv_val = (uint64_t)v; \
		RD = (uint64_t)v; \
		NEXT; \
	}
LR(lr_w, int32_t)
LR(lr_d, int64_t)

/* Permission comes first: an SC that fails still traps where a store would. */
#define SC(id, type) \
	HANDLER(id) \
	{ \
		uint64_t va = RS1; \
		type want = (type)h->resv_val; \
		bool hit, ours = h->resv_va == va; \
		type *p = tlb_write(h, va, sizeof(type), &hit); \
		if (!hit) \
			p = mem_amo(h, op, va, sizeof(type)); \
		if (!p) \
			return; \
		h->resv_va = RESV_NONE; \
		RD = !(ours && __atomic_compare_exchange_n(p, &want, (type)RS2, false, \
				       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)); \
		NEXT; \
	}
SC(sc_w, int32_t)
SC(sc_d, int64_t)

#define AMO_SWAP old = __atomic_exchange_n(p, b, __ATOMIC_SEQ_CST)
#define AMO_ADD old = __atomic_fetch_add(p, b, __ATOMIC_SEQ_CST)
#define AMO_LOOP(expr) \
	old = __atomic_load_n(p, __ATOMIC_RELAXED); \
	do { \
		a = old; \
	} while (!__atomic_compare_exchange_n( \
		p, &old, (expr), true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))

#define AMO(id, text, match, type, how) \
	HANDLER(id) \
	{ \
		type a, old, b = (type)RS2; \
		bool hit; \
		type *p = tlb_write(h, RS1, sizeof(type), &hit); \
		if (!hit) \
			p = mem_amo(h, op, RS1, sizeof(type)); \
		if (!p) \
			return; \
		how; \
		(void)a; \
		RD = (uint64_t)old; \
		NEXT; \
	}
#include "cpu/rv64/insn.def"
