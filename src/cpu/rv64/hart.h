/*
 * hart.h: one RISC-V hart, and the line between the two halves of the rv64 engine.
 *
 *   engine.c   the cpu_engine_ops; vcpu_run(): interrupts? -> blocks -> exits
 *   isa half   insn.def (the one instruction table, D9) -> decode.c -> block.c (decoded-block cache) -> interp_*.c
 *   priv half  mmu.c (software TLB, walks, PMP) csr.c trap.c imsic.c sbi.c timer.c
 *
 * Data flow of one step, all in the vCPU's thread:
 *   run loop: if (h->poll) serve interrupts, kicks, time
 *   block = block_find(h)           jump cache (va) -> physical table (pa) -> decode; may trap (fetch fault)
 *   block->ops[0].fn(h, ops)        handlers tail-call the next op's fn; the last one sets h->pc and returns
 *   load/store handlers: inline TLB hit, else mem_load()/mem_store() (mmu.c), false = trap taken or exit posted
 *
 * Handlers return to the run loop in three ways: end of block (h->pc is the next instruction); trap taken (rv64_trap() has
 * set pc to the vector); exit posted (h->exit.reason set; pc is the instruction that will be made again or completed).
 * No longjmp anywhere.
 *
 * Precise state: inside a block h->pc is the pc of the block's first instruction; an op knows its own offset (pc2), so
 * op_pc(h, op) is exact at each op. instret likewise: h->instret is brought up to date at block end or trap from pc2's op index.
 *
 * Registers: x[0] is read as zero because nobody writes it: the decoder sends writes to x0 to x[32].
 */
#ifndef LODGE_CPU_RV64_HART_H
#define LODGE_CPU_RV64_HART_H

#include <stdatomic.h>

#include "cpu/cpu.h"
#include "cpu/rv64/fp_host.h"

struct hart;
struct rv64_block;

/* One decoded instruction; 16 bytes. `imm` also carries rm | rs3 << 8 (FP), aq/rl, csr number: see insn.def. */
struct rv64_op {
	void (*fn)(struct hart *h, const struct rv64_op *op);
	int32_t imm;
	uint8_t rd, rs1, rs2;
	uint8_t pc2; /* offset of this instruction from the block's start, in halfwords */
};

enum rv64_priv { PRIV_U = 0, PRIV_S = 1, PRIV_M = 3 };

/*
 * Software TLB: direct-mapped, one table for each (regime, access). A regime is what decides permission beside
 * the entry: effective privilege with SUM and MXR, MPRV. The inline hit is one compare and one add:
 *	e = &h->tlb[regime].r[(va >> 12) & MASK];  if ((va & (~PAGE_MASK | (size - 1))) == e->tag) p = va + e->add;
 * so that a misaligned access misses and goes the slow way. Write entries exist only where space_page() said write_free and the
 * PTE is dirty. Tags of empty entries are all ones.
 */
#define TLB_BITS 8
#define TLB_SIZE (1u << TLB_BITS)
struct tlb_entry {
	uint64_t tag;
	uint64_t add; /* host address - va */
};
struct tlb {
	struct tlb_entry r[TLB_SIZE], w[TLB_SIZE];
};
enum tlb_regime { REGIME_U, REGIME_S, REGIME_S_SUM, REGIME_M, REGIMES };

/* Bits of hart.poll: reasons to leave block chaining. Set by any thread (atomic or), cleared by the run loop. */
enum {
	POLL_KICK = 1, /* leave run() */
	POLL_IRQ = 2, /* interrupt state changed: look again */
	POLL_TLB_W = 4, /* drop cached write permission (acknowledge through tlb_ack) */
	POLL_TLB_ALL = 8, /* drop every translation */
	POLL_FENCE_I = 16, /* instruction memory may have changed */
	POLL_TIME = 32, /* a deadline may have passed */
};

struct hart {
	uint64_t x[33]; /* x[32] is the sink for writes to x0 */
	uint64_t pc;
	_Atomic uint32_t poll;
	uint32_t
		fs; /* mstatus.FS itself: 0 off (FP instructions trap); handlers set it to 3, dirty */
	struct tlb *cur; /* data regime now: &tlb[...]; follows mode, SUM, MXR, MPRV */
	uint64_t f[32]; /* NaN-boxed */
	struct fp_host fp; /* rounding mode and flags */
	uint64_t instret; /* retired, exact at block ends */
	uint64_t
		instret_stop; /* blocks are not chained past this: the run loop looks at the clock */
	uint64_t code_gen; /* names the translations that code now runs under: block.h */
	struct rv64_icache *ic; /* decoded blocks: block.h */
	uint64_t
		tmp; /* out-arguments of handlers: the address of a local would forbid tail calls */
	uint64_t resv_va,
		resv_val; /* LR/SC: address (UINT64_MAX: none) and the value that LR saw */
	/* ... the priv half adds: privilege, CSRs, exit, pending access, timers, imsic files, block cache pointer,
	 * vcpu_head, statistics. Keep what handlers touch in the first cache lines. */
};

/* The pc of an op of the block that runs. */
static inline uint64_t op_pc(const struct hart *h, const struct rv64_op *op)
{
	return h->pc + 2u * op->pc2;
}

/* Its length in bytes. Not for jumps and branches, which end a block and never need it. */
static inline unsigned op_len(const struct rv64_op *op)
{
	return 2u * (uint8_t)(op[1].pc2 - op->pc2);
}

/* Number of the block's instructions before this one: ops and instructions correspond one to one, and only the first has pc2 0. */
static inline unsigned op_index(const struct rv64_op *op)
{
	unsigned n = 0;

	for (; op->pc2; op--)
		n++;
	return n;
}

/*
 * Leaves the block before `op` has retired: counts what has retired, sets h->pc to the op's own and returns it. Every helper
 * below that returns false has done this (once), then taken a trap or posted an exit.
 */
static inline uint64_t op_leave(struct hart *h, const struct rv64_op *op)
{
	h->instret += op_index(op);
	return h->pc = op_pc(h, op);
}

/* What the isa half needs of the priv half. */

/* Added to `size` in mem_load(): what a load that leaves as MMIO does with the answer. MEM_LR: never MMIO (access fault). */
enum { MEM_SIZE = 15, MEM_SIGNED = 16, MEM_FP = 32, MEM_LR = 64 };

/*
 * The slow paths: TLB miss, misaligned, across pages, MMIO. *out is zero-extended. False: trap taken or exit posted; the
 * handler returns at once.
 */
bool mem_load(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size, uint64_t *out);
bool mem_store(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size, uint64_t val);
/* Host address for an aligned atomic read-modify-write; NULL: trap taken. */
void *mem_amo(struct hart *h, const struct rv64_op *op, uint64_t va, unsigned size);
/*
 * Translates for instruction fetch: host address and guest-physical address of `va` itself, good to the end of its
 * 4 KiB page. *global: the PTE that maps it, or one above, has G set (false when nothing is translated). False: trap taken with
 * epc h->pc and tval `va`.
 */
bool mem_fetch_page(struct hart *h, uint64_t va, const void **host, gpa_t *out, bool *global);

enum cbo_kind { CBO_INVAL, CBO_CLEAN, CBO_FLUSH, CBO_ZERO = 4 };
bool mem_cbo(struct hart *h, const struct rv64_op *op, uint64_t va, enum cbo_kind kind);

/* Takes a trap. Leave the block first: rv64_trap(h, op_leave(h, op), cause, tval). */
void rv64_trap(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval);

enum csr_kind { CSR_RW, CSR_RS, CSR_RC };
/* `write` false: only read (csrrs with x0). Illegal: trap taken, false. */
bool csr_access(struct hart *h, const struct rv64_op *op, unsigned csr, enum csr_kind kind,
	bool write, uint64_t val, uint64_t *old);

/* System instructions. True: done, go on with the next op. False: as above. */
bool op_wfi(struct hart *h, const struct rv64_op *op);
bool op_wrs(struct hart *h, const struct rv64_op *op, bool timeout);
bool op_pause(struct hart *h, const struct rv64_op *op);
bool op_sfence_vma(struct hart *h, const struct rv64_op *op, bool has_va, uint64_t va,
	bool has_asid, uint64_t asid);
bool op_sinval_order(
	struct hart *h, const struct rv64_op *op); /* sfence.w.inval, sfence.inval.ir */
/* These always leave the block; a return counts as retired. */
void op_ecall(struct hart *h, const struct rv64_op *op);
void op_ebreak(struct hart *h, const struct rv64_op *op);
void op_mret(struct hart *h, const struct rv64_op *op);
void op_sret(struct hart *h, const struct rv64_op *op);

#endif
