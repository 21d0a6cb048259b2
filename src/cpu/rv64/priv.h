/*
 * priv.h: inside the privileged half of the rv64 engine: constants of the privileged specification and the
 * calls between its files.
 *
 *   engine.c  run loop, contract          csr.c   control and status registers
 *   irq.c     pending interrupts, time    imsic.c interrupt files (AIA)
 *   trap.c    traps, returns, system instructions
 *   mmu.c     translation                 tlb.c   software TLB
 *   pmp.c     physical memory protection
 *   sbi.c     built-in firmware           state.c described state
 */
#ifndef LODGE_CPU_RV64_PRIV_H
#define LODGE_CPU_RV64_PRIV_H

#include <pthread.h>

#include "base/util.h"
#include "cpu/rv64/hart.h"

#define BIT(n) (1ull << (n))
#define S_IRQS (BIT(IRQ_SSI) | BIT(IRQ_STI) | BIT(IRQ_SEI))
#define M_IRQS (BIT(IRQ_MSI) | BIT(IRQ_MTI) | BIT(IRQ_MEI))

#define MSTATUS_SIE BIT(1)
#define MSTATUS_MIE BIT(3)
#define MSTATUS_SPIE BIT(5)
#define MSTATUS_MPIE BIT(7)
#define MSTATUS_SPP BIT(8)
#define MSTATUS_MPP_SHIFT 11
#define MSTATUS_MPP (3ull << MSTATUS_MPP_SHIFT)
#define MSTATUS_FS_SHIFT 13
#define MSTATUS_FS (3ull << MSTATUS_FS_SHIFT)
#define MSTATUS_MPRV BIT(17)
#define MSTATUS_SUM BIT(18)
#define MSTATUS_MXR BIT(19)
#define MSTATUS_TVM BIT(20)
#define MSTATUS_TW BIT(21)
#define MSTATUS_TSR BIT(22)
#define MSTATUS_UXL (2ull << 32)
#define MSTATUS_SXL (2ull << 34)
#define MSTATUS_SD BIT(63)

#define ENVCFG_FIOM BIT(0)
#define ENVCFG_CBIE (3ull << 4)
#define ENVCFG_CBCFE BIT(6)
#define ENVCFG_CBZE BIT(7)
#define MENVCFG_ADUE BIT(61)
#define MENVCFG_PBMTE BIT(62)
#define MENVCFG_STCE BIT(63)

#define SATP_BARE 0ull
#define SATP_SV39 8ull
#define SATP_SV48 9ull

#define CBO_BLOCK 64u

struct rv64_vcpu {
	struct vcpu_head head;
	struct hart h;
};

struct rv64_vm {
	struct cpu_vm_opts o;
	struct rv64_vcpu *vcpus[CPU_MAX_VCPUS];
	unsigned nvcpus;
	uint64_t exts; /* of decode.h */
	char isa[256];
	struct jit *jit; /* NULL: interpreted */
	struct tracker *code_writes; /* of pages that code was translated of */
	_Atomic uint64_t
		watched; /* times that harts were told to drop cached write permission for it */
	struct space_listener listener;
	/* time = stopped_at, or (host ns - origin_ns) in ticks */
	bool time_stopped;
	uint64_t time_at_stop, origin_ns;
	struct rv64_ring *rings; /* shared memory, one for each vCPU */
	const struct rv64_causes *causes;
	uint64_t intercept; /* exceptions that leave, by cause */
	uint8_t type_of[2][RV64_CAUSES]; /* enum cpu_type of exceptions, interrupts */
	_Atomic bool notes; /* somebody wants to hear of what is not an exit */
	/* For tests: between what a hart posts and what the monitor takes. */
	void (*tamper)(void *ctx, unsigned vcpu, struct rv64_ring *ring);
	void *tamper_ctx;
	/* described state of the VM */
	uint64_t saved_time, saved_exts;
};

/* ---- trap.c ---- */
/* The hart leaves: fills h->st, all else of which is zero, with the hart's pc. The caller adds what the cause has beside. */
struct rv64_status *rv64_leave(struct hart *h, uint64_t cause, uint64_t tval);
/* It waits for a message or its timer: deadline and cause of that. */
void rv64_leave_idle(struct hart *h);
/* It is back from there. */
void rv64_slept(struct hart *h);
/* The trap that left, or that an answer brings: whatever is intercepted. */
void rv64_deliver(struct hart *h, uint64_t pc, uint64_t cause, uint64_t tval);
/* stopi told the guest of this interrupt. */
void rv64_told(struct hart *h, unsigned irq);
/* The guest was given `count` of that without an exit: counts them, and says so to who wants to hear of each. */
void rv64_count(struct hart *h, uint64_t cause, uint64_t tval, uint64_t pc, uint64_t count);
void rv64_set_priv(struct hart *h, unsigned priv);
/* mstatus or the mode changed: which regime do data accesses use now? */
void rv64_update_regime(struct hart *h);
/* The cause of the interrupt that may be taken now; 0: none. */
unsigned rv64_interrupt(struct hart *h);
/* Takes it. */
bool rv64_take_interrupt(struct hart *h);
/* Leaves the block behind `op`, which has retired. */
static inline void op_done(struct hart *h, const struct rv64_op *op)
{
	uint64_t next = op_pc(h, op) + op_len(op);

	h->instret += op_index(op) + 1;
	h->pc = next;
}
void rv64_illegal(struct hart *h, const struct rv64_op *op);

/* ---- irq.c ---- */
uint64_t rv64_time(const struct rv64_vm *vm);
/* Host monotonic time at which the guest's time counter reaches `t`; UINT64_MAX: never. */
uint64_t rv64_time_to_host(const struct rv64_vm *vm, uint64_t t);
/* mip as software reads it: with timers and interrupt files. */
uint64_t rv64_mip(struct hart *h);
/* Something about interrupts changed in this hart's own thread: make the run loop look when one may be taken. */
void rv64_irq_changed(struct hart *h);
/* The same where only the mode, or SIE or MIE, did: more may be taken now than before. */
void rv64_irq_allowed(struct hart *h);
/* From any thread. */
void rv64_poke(struct hart *h, uint32_t poll_bits);
/* Earliest timer that could wake the hart. */
uint64_t rv64_next_deadline(struct hart *h);
/* Does what poll asks for about memory; returns the other bits. */
uint32_t rv64_serve_poll(struct hart *h);
/* Makes every hart of the mask (bit i: hart base + i; NULL vm mask: all) do it, and waits until none can run on without having. */
void rv64_broadcast(
	struct rv64_vm *vm, struct hart *self, const uint64_t mask[2], uint32_t poll_bits);

/*
 * sfence.vma on the harts of the mask, done on return as with rv64_broadcast(): of [va, va + size), or everything when size is 0 or UINT64_MAX; of
 * one address space, or all (UINT64_MAX).
 */
void rv64_fence_others(struct rv64_vm *vm, struct hart *self, const uint64_t mask[2], uint64_t va,
	uint64_t size, uint64_t asid);
/*
 * All harts but `self`: to drop write entries of a page (NULL: everything). Does not wait: who has done it has at least the returned number in
 * j.w_flushed.
 */
uint64_t rv64_ask_no_writes(struct rv64_vm *vm, struct hart *self, const void *host);

/* ---- imsic.c ---- */
unsigned imsic_top(const struct imsic_file *f); /* pending, enabled, above the threshold; 0: none */
/* A hart sends it that message: any thread, before imsic_set(). */
void imsic_sent(struct hart *h, unsigned file, uint32_t id);
/* An identity was claimed: it counts as what it came as. */
void imsic_claimed(struct hart *h, unsigned file, unsigned id);
bool imsic_set(struct imsic_file *f, uint32_t id); /* any thread; false: no such identity */
bool imsic_reg(
	struct imsic_file *f, unsigned sel, bool write, uint64_t val, uint64_t mask, uint64_t *old);

/* ---- tlb.c ---- */

/*
 * The pool of software TLB tables of one hart (tlb.c).
 *
 *	satp --> space (one of TLB_SPACES) --> a table for each way to use it (regime, MXR), made when first wanted
 *	h->cur --> the table of the current space and regime
 *
 * A change of mode or of space is a change of h->cur. S-mode without SUM sees no U pages, so one table serves it in all spaces: kernels mark what
 * they map there as global (G), and where one does not, the table is emptied when the space changes. When tables run out, the space that
 * was left longest ago gives its own back.
 *
 * What must be emptied is found by lists, not by looking at everything: a table remembers its first entries, and in which large pages
 * (by hash) entries lie that come of a leaf larger than 4 KiB, so that sfence.vma of one address finds all entries of its leaf.
 *
 * Threads: the hart's own, but for creation. About 0.8 MiB a hart, touched as it is used.
 */
#define TLB_TABLES 24u
#define TLB_SPACES 16u
#define TLB_USES 8u /* regime, MXR */
#define TLB_WALKS 64u
#define TLB_RAMS 256u /* 2 MiB pieces of RAM whose host addresses are known */

struct tlb_space {
	uint64_t key; /* satp; 0 when bare; UINT64_MAX: none */
	uint64_t left; /* when it was last current */
	struct tlb *tab[TLB_USES];
	unsigned has; /* bit i: tab[i] is there */
};

/* 2 MiB of guest-physical memory that is one piece of host memory and may be read. */
struct tlb_ram {
	uint64_t number; /* address >> 21; UINT64_MAX: empty */
	char *host;
	unsigned perm;
};

/* What a walk found for 2 MiB of a space: the last-level page table, or a leaf that maps them all and perhaps more. */
struct tlb_walk {
	uint64_t number; /* address >> 21; UINT64_MAX: empty */
	uint64_t satp;
	uint64_t leaf; /* the leaf; 0: a table, */
	uint64_t pa; /* this one */
	char *host;
	uint8_t level; /* of the leaf */
	bool global; /* an entry above the table has G, or one down to the leaf */
};

struct mmu {
	void *room; /* of the tables */
	struct tlb *free[TLB_TABLES];
	unsigned nfree;
	uint64_t clock;
	struct tlb_space *now;
	uint32_t have; /* spaces with tables */
	struct tlb_space machine; /* M-mode */
	struct tlb_space super[2]; /* S-mode without SUM in all spaces of Sv39, of Sv48 */
	struct tlb_space spaces[TLB_SPACES];
	struct tlb_ram ram[TLB_RAMS];
	struct tlb_walk walks[TLB_WALKS];
	bool giant; /* one may be of a leaf larger than 2 MiB, which others are of, too */
};

/* Takes the translation of `page` into one side (`write`) of h->cur. `span`: bytes that its leaf maps; 0: none. */
void tlb_fill(
	struct hart *h, bool write, uint64_t page, const void *host, uint64_t span, bool global);

int mmu_create(struct hart *h, struct err *e);
void mmu_destroy(struct hart *h);
/* h->cur follows h->regime and mstatus.MXR. */
void mmu_choose(struct hart *h);
/* satp was written. */
void mmu_space(struct hart *h);
/* Every entry, and all that is known about where memory is. */
void mmu_flush(struct hart *h);
void mmu_flush_writes(struct hart *h);
/* Of one page, by its host address, under whatever address and in whatever space it may be written. */
void mmu_drop_writes_to(struct hart *h, const void *host);
/* sfence.vma: entries of this address space that are not global; entries of this address (of the page or large page around it) in all spaces or one. */
void mmu_flush_asid(struct hart *h, uint64_t asid);
void mmu_flush_va(struct hart *h, uint64_t va, const uint64_t *asid);

/* ---- mmu.c ---- */
/* For debuggers: 0 and the guest-physical address, or -EFAULT. No side effects on the guest. */
int mmu_probe(struct hart *h, uint64_t va, enum mem_access acc, gpa_t *out);
void mmu_complete(struct hart *h, bool error);

/* ---- pmp.c ---- */
void pmp_update(struct hart *h);
bool pmp_check(const struct hart *h, uint64_t pa, uint64_t len, unsigned acc, unsigned priv);
/* Permissions that hold for every byte of the page; *uniform false: they differ inside it. */
bool pmp_page_uniform(const struct hart *h, uint64_t pa);

/* ---- csr.c ---- */
void csr_sanitize(struct hart *h);

/* ---- sbi.c ---- */
/* ecall from S-mode: true when handled (pc is then behind it), or an exit was posted. */
void sbi_call(struct hart *h);
void sbi_reset(struct hart *h, bool running);
/* Before the guest runs: a hart that was started or resumed takes its new state. False: it is stopped. */
bool sbi_may_run(struct hart *h);
void sbi_complete(struct hart *h, const struct cpu_exit *x);

/* ---- engine.c ---- */
/*
 * Like vcpu_run(), for tests: at most n instructions, and exactly n when x->reason is CPU_EXIT_BUDGET on return (fewer: the hart was kicked,
 * or traps without end). Everything that happens in between depends on the guest's state alone, however its code is executed: interrupts
 * are looked at at the start and where the guest's own instructions ask for it, and never because of host time. With the time
 * counter stopped (time_stop) two harts that begin equal are equal after n instructions.
 */
void rv64_run_exactly(struct vcpu *v, uint64_t n, struct cpu_exit *x);
/* The table that the monitor translates by; also says what is intercepted. Tests take rows out. */
void rv64_set_causes(struct rv64_vm *vm, const struct rv64_causes *t);
void rv64_time_set(struct rv64_vm *vm, uint64_t t);

/* ---- state.c ---- */
extern const struct state_desc rv64_hart_state, rv64_vm_state;

#endif
