/*
 * interp.h: how handlers are written. Inside the engine only.
 *
 * A handler does one instruction and continues with the next by a tail call (NEXT), so the whole of a block, and the blocks linked to
 * it, run in one stack frame with the host's branch predictor seeing one indirect jump a handler. Compilers do this at -O2
 * for calls of the same type; the folder is always built so. Where they do not promise it (sanitizers) RV64_CHAIN is 0: blocks
 * return to the run loop at their end, and the depth of calls is bounded by BLOCK_MAX.
 *
 * A handler that must call a function puts the call into a separate one (the slow twin), so that its own fast path needs no
 * stack frame.
 */
#ifndef LODGE_CPU_RV64_INTERP_H
#define LODGE_CPU_RV64_INTERP_H

#include "base/util.h"
#include "cpu/rv64/block.h"

/* RV64_CHAIN comes from the build: 0 under sanitizers and without optimisation. */
#ifdef __clang__
#define TAIL __attribute__((musttail)) return
#else
#define TAIL return
#endif

#define HANDLER(id) void do_##id(struct hart *h, const struct rv64_op *op)
#define SLOW static __attribute__((noinline)) void
#define NEXT TAIL op[1].fn(h, op + 1)

typedef void rv64_fn(struct hart *h, const struct rv64_op *op);

/* Every row of the table that is not a 16-bit encoding has a handler of its name. */
#define INSN(id, text, match, mask, fmt, ext) rv64_fn do_##id;
#include "cpu/rv64/insn.def"

/* Not in the table: made by block.c. */
rv64_fn do_illegal, do_stop, do_end, do_nop, do_mv, do_li;
rv64_fn chain_taken, chain_fall, chain_jump;

#define RD (h->x[op->rd])
#define RS1 (h->x[op->rs1])
#define RS2 (h->x[op->rs2])
#define LINKS(op) ((struct rv64_links *)((op) + 1))

static inline uint64_t sext32(uint64_t v)
{
	return (uint64_t)(int64_t)(int32_t)v;
}

static inline void *tlb_read(struct hart *h, uint64_t va, unsigned size, bool *hit)
{
	const struct tlb_entry *t = &h->cur->r[(va >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	*hit = t->tag == (va & (~PAGE_MASK | (size - 1)));
	return (void *)(va + t->add);
}

static inline void *tlb_write(struct hart *h, uint64_t va, unsigned size, bool *hit)
{
	const struct tlb_entry *t = &h->cur->w[(va >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	*hit = t->tag == (va & (~PAGE_MASK | (size - 1)));
	return (void *)(va + t->add);
}

#endif
