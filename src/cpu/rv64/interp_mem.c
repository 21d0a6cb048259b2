/*
 * Loads, stores and fences. An aligned access that hits the software TLB is one host access (so other vCPUs see it whole);
 * everything else is mmu.c's.
 *
 * Guest memory order on an x86-64 host: TSO is stronger than RVWMO except that a store may pass a later load, so only
 * fences that order W before R need an instruction (RVWMO: volume I, chapter "RVWMO Memory Consistency Model").
 */
#include "cpu/rv64/interp.h"

#define LD(id, text, match, type) \
	SLOW slow_##id(struct hart *h, const struct rv64_op *op) \
	{ \
		unsigned how = sizeof(type) | ((type)-1 < (type)1 ? MEM_SIGNED : 0); \
		if (!mem_load(h, op, RS1 + (uint64_t)(int64_t)op->imm, how, &h->tmp)) \
			return; \
		RD = (uint64_t)(type)h->tmp; \
		NEXT; \
	} \
	HANDLER(id) \
	{ \
		bool hit; \
		const type *p = tlb_read(h, RS1 + (uint64_t)(int64_t)op->imm, sizeof(type), &hit); \
		if (unlikely(!hit)) \
			TAIL slow_##id(h, op); \
		RD = (uint64_t)__atomic_load_n(p, __ATOMIC_RELAXED); \
		NEXT; \
	}
#define ST(id, text, match, type) \
	SLOW slow_##id(struct hart *h, const struct rv64_op *op) \
	{ \
		if (!mem_store(h, op, RS1 + (uint64_t)(int64_t)op->imm, sizeof(type), (type)RS2)) \
			return; \
		NEXT; \
	} \
	HANDLER(id) \
	{ \
		bool hit; \
		type *p = tlb_write(h, RS1 + (uint64_t)(int64_t)op->imm, sizeof(type), &hit); \
		if (unlikely(!hit)) \
			TAIL slow_##id(h, op); \
		__atomic_store_n(p, (type)RS2, __ATOMIC_RELAXED); \
		NEXT; \
	}
#include "cpu/rv64/insn.def"

HANDLER(fence)
{
	/* pred has W or O, succ has R or I */
	if ((op->imm & 0x50) && (op->imm & 0x0a))
		atomic_thread_fence(memory_order_seq_cst);
	else
		atomic_signal_fence(memory_order_seq_cst);
	NEXT;
}

HANDLER(fence_tso)
{
	atomic_signal_fence(memory_order_seq_cst);
	NEXT;
}
