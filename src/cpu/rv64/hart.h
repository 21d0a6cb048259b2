/*
 * hart.h: one RISC-V hart, and the line between the two halves of the rv64 engine.
 *
 *   engine.c   the cpu_engine_ops; vcpu_run(): interrupts? -> blocks -> exits
 *   isa half   insn.def (the one instruction table, D9) -> decode.c -> block.c (decoded-block cache) -> interp_*.c
 *   priv half  mmu.c (software TLB, walks, PMP) csr.c trap.c imsic.c sbi.c irq.c (and timers)
 *
 * Data flow of one step, all in the vCPU's thread:
 *   run loop: if (h->poll) serve interrupts, kicks, time
 *   block = block_find(h)           jump cache (va) -> physical table (pa) -> decode; may trap (fetch fault)
 *   block->ops[0].fn(h, ops)        handlers tail-call the next op's fn; the last one sets h->pc and returns
 *   load/store handlers: inline TLB hit, else mem_load()/mem_store() (mmu.c), false = trap taken or exit posted
 *
 * Handlers return to the run loop in three ways: end of block (h->pc is the next instruction); trap taken (rv64_trap() has
 * set pc to the vector); exit posted (h->posted, h->st; pc is the instruction that will be made again or completed).
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
#include <stdbool.h>

#include "cpu/cpu.h"
#include "cpu/rv64/exits/exits.h"
#include "cpu/rv64/fp_host.h"

struct hart;
struct rv64_block;
struct rv64_vm;

/* One decoded instruction; 16 bytes. `imm` also carries rm | rs3 << 8 (FP), aq/rl, csr number: see insn.def. */
struct rv64_op {
	void (*fn)(struct hart *h, const struct rv64_op *op);
	int32_t imm;
	uint8_t rd, rs1, rs2;
	uint8_t pc2; /* offset of this instruction from the block's start, in halfwords */
};

enum rv64_priv { PRIV_U = 0, PRIV_S = 1, PRIV_M = 3 };

/*
 * Software TLB: direct-mapped tables, one for each (address space, regime): priv.h. A regime is what decides permission beside
 * the entry: effective privilege with SUM, MPRV. The inline hit is one compare and one add:
 *	e = &h->cur->r[(va >> 12) & MASK];  if ((va & (~PAGE_MASK | (size - 1))) == e->tag) p = va + e->add;
 * so that a misaligned access misses and goes the slow way. Write entries exist only where space_page() said write_free and the
 * PTE is dirty. Tags of empty entries are all ones.
 */
#define TLB_BITS 10
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_USED 127u
struct tlb_entry {
	uint64_t tag;
	uint64_t add; /* host address - va */
};
struct tlb {
	struct tlb_entry r[TLB_SIZE], w[TLB_SIZE];
	/* The rest is for tlb.c. */
	uint64_t large_2m[4],
		large_1g[4]; /* large pages in which entries lie that come of leaves of more than 4 KiB, by hash */
	bool large, huge; /* there are such; one is larger than 1 GiB */
	bool local; /* an entry is not global */
	bool made; /* was in use before */
	uint16_t
		nused; /* entries filled since it was emptied; TLB_USED + 1: more than `used` holds */
	uint16_t used[TLB_USED];
};
enum tlb_regime { REGIME_U, REGIME_S, REGIME_S_SUM, REGIME_M, REGIMES };

/* Bits of hart.poll: reasons to leave block chaining. Set by any thread (atomic or), cleared by the run loop. */
enum {
	POLL_KICK = 1, /* leave run() */
	POLL_IRQ = 2, /* interrupt state changed: look again */
	POLL_TLB_W = 4, /* drop cached write permission */
	POLL_TLB_ALL = 8, /* drop every translation */
	POLL_FENCE_I = 16, /* instruction memory may have changed */
	POLL_ASKED = 32, /* forget what hart.asks names */
	POLL_SOON =
		64, /* with others: somebody waits for it. The hart takes short slices for a while */
};

/* What others want forgotten: like POLL_TLB_*, but only what it is about (irq.c). */
#define RV64_ASKS 8u
struct rv64_asks {
	_Atomic bool busy; /* lock of the rest */
	bool writes, all; /* more than there was room for: all write entries, everything */
	unsigned n;
	struct rv64_ask {
		const void *host; /* write entries of this page; NULL: */
		uint64_t va, pages; /* these, or with 0 pages all, */
		uint64_t asid; /* of this address space; UINT64_MAX: of all */
	} ask[RV64_ASKS];
};

#define PMP_ENTRIES 16
#define IMSIC_IDS 255

/* CSRs that are nothing but storage (csr.c says which bits can be written). */
struct rv64_csrs {
	uint64_t mtvec, mscratch, mepc, mcause, mtval, mcounteren, mcountinhibit, menvcfg, miselect;
	uint64_t stvec, sscratch, sepc, scause, stval, scounteren, senvcfg, siselect, satp,
		stimecmp;
	uint64_t pmpaddr[PMP_ENTRIES];
	uint64_t instret_base,
		cycle_base; /* added to the hart's count: what writes to minstret, mcycle made of them */
	uint8_t pmpcfg[PMP_ENTRIES];
};

/* A decoded PMP entry: [lo, hi] inclusive. */
struct pmp_range {
	uint64_t lo, hi;
	uint8_t cfg;
};

/* What left and waits for its answer: the next run() completes it. */
enum rv64_pend {
	PEND_MMIO,
	PEND_CONSOLE, /* an SBI call of the console */
	PEND_CALL, /* another call */
	PEND_VIEW, /* memory that the second-level map does not permit: the access is made again, or faults */
	PEND_TRAP, /* an exception: the guest takes it, or the instruction is made again */
};
struct rv64_pending {
	bool active, write, is_signed, fp;
	uint8_t kind; /* enum rv64_pend */
	uint8_t rd, size;
	uint64_t next_pc, gpa, data, va;
	uint64_t cause; /* PEND_VIEW, PEND_TRAP */
};

/* SBI hart state management; values are those of the SBI specification, chapter HSM. */
enum {
	HSM_STARTED,
	HSM_STOPPED,
	HSM_START_PENDING,
	HSM_STOP_PENDING,
	HSM_SUSPENDED,
	HSM_SUSPEND_PENDING,
	HSM_RESUME_PENDING
};
struct rv64_hsm {
	_Atomic uint32_t state;
	uint64_t pc, arg;
	bool retentive;
	bool system; /* suspended with the whole machine: whoever runs it again wakes it */
};

/* A hart's side of translated code (jit/jit.h). Addressed by that code, so close to the registers. */
struct jit_jump {
	uint64_t va;
	const void *code;
};
#define JIT_NEAR 8
#define JIT_SITES 1024
#define JIT_FILLED 192
struct jit_hart {
	int32_t fuel; /* instructions until instret_stop; charged block by block. In a register while translated code runs */
	uint32_t fp_live; /* guest FP registers are in the host's: FS is dirty */
	uint64_t page; /* virtual address of the page that runs */
	struct jit_jump *jumps; /* where indirect jumps look: of the context that runs */
	uint64_t host_sp; /* to which leaving unwinds */
	uint64_t near
		[JIT_NEAR]; /* host - guest address of pages that a block has looked up; 0: it has not */
	/*
	 * Pages that accesses of hot code found last, each access its own: jit/address.c. Forgotten whenever C has run: what is in the list of those
	 * that were filled since, or all when it is full. tag and add as a TLB entry's; limit: how far above the tag accesses that share a look
	 * may begin, 0: nothing is known. missed, failed: ever; failed: accesses that were to share a look could not.
	 */
	struct jit_found {
		uint64_t tag, limit, add;
		uint32_t missed, failed;
	} site[JIT_SITES];
	uint32_t nfilled, filled[JIT_FILLED];
	uint64_t stopped; /* set by the op after a single instruction: it was done */
	/* Not looked at by translated code. */
	struct jit *jit; /* NULL: interpreted only */
	struct jit_ctx *ctxs, *ctx; /* all, and the one whose jumps they are */
	uint64_t ctx_gen;
	uint32_t ctx_fp, ctx_clock;
	_Atomic uint64_t seen; /* removals of translations that this hart knows of */
	_Atomic bool inside; /* jit_run() */
	_Atomic uint64_t
		w_flushed; /* rv64_vm.watched, when cached write permission was last dropped */
	uint64_t fence; /* number of the fence.i that it has yet to see done; 0: none */
	uint64_t leaves, lookups, slow_mem, slow_op, cold_blocks, fences_owed;
};

/* One interrupt file of the hart's IMSIC (AIA chapter 3): 255 identities. */
struct imsic_file {
	_Atomic uint64_t eip[4], eie[4];
	uint64_t delivery, threshold;
};

/* Messages that harts sent: they are counted one by one, though they may be claimed as one. */
struct rv64_ipis {
	_Atomic uint64_t ids[4]; /* the identities that they ever used */
	_Atomic uint64_t waiting;
};

struct hart {
	uint64_t x[33]; /* x[32] is the sink for writes to x0 */
	uint64_t pc;
	struct jit_hart j; /* what translated code uses beside the registers: jit/jit.h */
	_Atomic uint32_t poll;
	uint32_t
		fs; /* mstatus.FS itself: 0 off (FP instructions trap); handlers set it to 3, dirty */
	struct tlb *cur; /* of data accesses now; follows satp, mode, SUM, MXR, MPRV */
	uint64_t f[32]; /* NaN-boxed */
	struct fp_host fp; /* rounding mode and flags */
	uint64_t instret; /* retired, exact at block ends */
	uint64_t
		instret_stop; /* blocks are not chained past this: the run loop looks at the clock */
	uint64_t code_gen; /* names the translations that code now runs under: block.h */
	uint64_t
		map_gen; /* the same, but outlives fence.i: for who knows otherwise that code has not changed */
	struct rv64_icache *ic; /* decoded blocks: block.h */
	uint64_t
		tmp; /* out-arguments of handlers: the address of a local would forbid tail calls */
	uint64_t resv_va,
		resv_val; /* LR/SC: address (UINT64_MAX: none) and the value that LR saw */

	/* The priv half. */
	uint64_t mstatus;
	_Atomic uint64_t
		mip; /* what software sets: SSIP, and its own SEIP, STIP; the rest is added by irq.c */
	_Atomic uint64_t lines; /* levels of the wired inputs: MSIP, MEIP, SEIP */
	uint64_t mie, mideleg, medeleg;
	uint32_t priv; /* enum rv64_priv */
	uint32_t regime; /* of data accesses now */
	uint32_t frm, fflags; /* copies for described state; fp has them */
	/*
	 * Not 0: the hart's last look found an interrupt pending that mie enables, or something but the timer has moved since. 0: letting interrupts in
	 * needs no look.
	 */
	uint32_t irq_unsure;
	bool may_zero; /* cbo.zero, as priv and the envcfg CSRs say: rv64_update_regime() */
	uint32_t slice; /* instructions between two looks at the clock */
	bool posted; /* the hart leaves: st says why, and run() returns that */
	bool fault_present; /* the last page fault was of a page that is there */
	struct rv64_status st;
	uint64_t nposted; /* records in its ring */
	uint64_t
		irq_open; /* cause of an interrupt that was taken and is not counted yet; 0: none */
	uint64_t fault_gpa; /* of the last access that a second-level map did not permit */
	struct rv64_ring *ring;
	struct rv64_reader reader; /* the monitor's end */
	unsigned damaged; /* records that came damaged, in a row */
	struct vcpu_head *head;
	struct rv64_vm *vm;
	struct mmu *mmu; /* priv.h, tlb.c */
	struct rv64_csrs c;
	struct rv64_pending pend;
	struct rv64_hsm hsm;
	struct imsic_file imsic[2]; /* CPU_MSI_M, CPU_MSI_S */
	struct rv64_ipis ipis[2]; /* the same files */
	_Atomic uint64_t mtimecmp;
	_Atomic bool in_run, in_service; /* irq.c */
	uint32_t id;
	uint32_t pauses;
	bool dozes; /* its last sleep was short: the next WFI waits a while before it leaves */
	uint64_t asleep_since; /* host time; 0: it is not */
	struct pmp_range pmp[PMP_ENTRIES]; /* decoded pmpcfg/pmpaddr; pmp_n of them are on */
	unsigned pmp_n;
	bool pmp_open; /* one entry lets everybody do everything: no checks needed */
	struct cpu_stats stats;
	struct rv64_asks asks;
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
/* Where code is. */
struct code_at {
	const void *host; /* of the address itself; good to the end of its 4 KiB page */
	gpa_t gpa;
	uint64_t
		span; /* bytes that the leaf maps: more than 4 KiB, and an sfence.vma of any of them means all; 0: not translated */
	bool global; /* the leaf, or a PTE above it, has G set */
	bool alone; /* PMP divides the page: only the two bytes at the address have been allowed */
};
/* Translates for instruction fetch. False: trap taken with epc h->pc and tval `va`. */
bool mem_fetch_page(struct hart *h, uint64_t va, struct code_at *out);

enum cbo_kind { CBO_INVAL, CBO_CLEAN, CBO_FLUSH, CBO_ZERO = 4 };
bool mem_cbo(struct hart *h, const struct rv64_op *op, uint64_t va, enum cbo_kind kind);
bool mem_may_zero(const struct hart *h); /* hart.may_zero, anew */

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
