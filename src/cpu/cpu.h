/*
 * cpu.h: the engine contract. The seam: everything above it is the same for every engine.
 *
 *   vm/ ---> cpu_engine_ops (rv64 | kvm | fake) ---> space (memory/)
 *    ^                |
 *    +-- cpu_exit ----+      device/, bus/ --- irq, msi ---> engine (any thread)
 *
 * Threads. A vCPU is run by one thread at a time (cpu/sched.h makes sure). Calls marked ANY may come from any thread at any
 * time and never block on a running vCPU. Calls marked STOPPED need every vCPU of the VM outside run(), or, for calls on one vCPU, that
 * vCPU. Everything else belongs to the thread that runs the vCPU.
 *
 * Ownership. The engine owns cpu_vm and vcpu; the space must outlive them.
 *
 * Not called yet above the seam, by tests only: what a debugger will want (vcpu_debug, vcpu_translate, vcpu_reg_*, vcpu_nmi,
 * cpu_vm_opts.intercept), further views (vm_view), and devices in other processes (doorbell_*, irqfd_*).
 */
#ifndef LODGE_CPU_CPU_H
#define LODGE_CPU_CPU_H

#include <errno.h>

#include "base/state.h"
#include "cpu/exit.h"
#include "memory/space.h"

struct err;
struct log;
struct cpu_vm; /* engine's view of a VM; begins with struct cpu_vm_head */
struct vcpu; /* begins with struct vcpu_head */

#define CPU_MAX_VCPUS 128

/* Wired interrupt inputs of a vCPU, by meaning rather than number. */
enum cpu_irq {
	CPU_IRQ_M_SOFT, /* ACLINT MSIP */
	CPU_IRQ_M_TIMER, /* ACLINT MTIMER; level, made by the engine from CPU_TIMER_M */
	CPU_IRQ_M_EXT,
	CPU_IRQ_S_EXT,
	CPU_IRQS
};

/* Message interrupt files of a vCPU. */
enum cpu_msi_file { CPU_MSI_M, CPU_MSI_S, CPU_MSI_GUEST1 /* + n */ };
#define CPU_MSI_FROM_VCPU (1u << 31)

enum cpu_clock { CPU_CLOCK_HOST, CPU_CLOCK_MODEL };

/* Where an x86 machine's interrupt controllers are. SPLIT: only the local APICs in the kernel. AUTO: by what the host has. */
enum cpu_irqchip { CPU_IRQCHIP_AUTO, CPU_IRQCHIP_FULL, CPU_IRQCHIP_SPLIT };

/* How an engine that runs guests on hardware finds out what they wrote (write tracking). */
enum cpu_dirty { CPU_DIRTY_BITMAP, CPU_DIRTY_RING };

/* Translation of guest code, for engines that interpret. AUTO: where the host can. */
enum cpu_jit { CPU_JIT_AUTO, CPU_JIT_OFF };
/* ALL: hot code is translated again, better, by a thread. FIRST: it is not. AT_ONCE: everything is, at its first translation: for tests. */
enum cpu_tiers { CPU_TIERS_ALL, CPU_TIERS_FIRST, CPU_TIERS_AT_ONCE };

struct cpu_vm_opts {
	struct space *space;
	struct log *log;
	unsigned vcpus;
	unsigned timebase_hz; /* of the guest's time counter; 10,000,000 on rv64; 0: nanoseconds */
	enum cpu_clock clock;
	enum cpu_jit jit;
	const char *
		perf_map; /* names of translated code for perf, by this System.map ("-": without symbols); NULL: none */
	enum cpu_tiers jit_tiers;
	bool jit_alone; /* code is not translated together with what it branches to */
	uint64_t jit_cache; /* bytes of translated code; 0: the engine's default */
	const char *cpu_model; /* "rv64" or "rv64,zbb=off"; NULL: everything */
	bool builtin_firmware; /* rv64: the engine serves SBI; kernels start in S-mode */
	enum cpu_irqchip irqchip; /* x86 */
	enum cpu_dirty dirty; /* kvm */
	unsigned
		ring_pages; /* CPU_DIRTY_RING: how many a vCPU's ring holds, 2^n, at least 1024; 0: 4096 */
	uint64_t
		halt_poll_ns; /* kvm: a halted vCPU is polled for as long, before its thread sleeps; 0: as the host does */
	bool own_cpus; /* kvm: HLT, PAUSE and MWAIT stay inside the guest; for vCPUs that have processors of their own */
	unsigned cores,
		threads; /* cores a package, threads a core; 0: one package of cores without siblings */
	uint64_t seed; /* what the engine makes up (seed CSR) follows from it */
	uint32_t
		intercept; /* bit n: exceptions of vector n (enum cpu_vector) are exits where the engine can; else the guest takes them itself */
	/*
	 * The guest was given something without an exit; in the vCPU's thread inside vcpu_run(), at its end; must not call back. None is
	 * lost: the engine leaves (budget) before there are too many. May be NULL.
	 */
	void (*note)(void *ctx, unsigned vcpu, const struct cpu_note *n);
	void *note_ctx;
	/* A vCPU that was idle or stopped has something to do. ANY thread; must not call back. */
	void (*wake)(void *ctx, unsigned vcpu);
	void *wake_ctx;
};

enum cpu_boot_mode {
	CPU_BOOT_NATIVE, /* as the ISA's harts start. x86: real mode at the reset vector (pc is not used) */
	/* x86, "x86/HVM direct boot ABI" (PVH): 32-bit protected mode, flat segments, paging off; ebx = arg0 (start info) */
	CPU_BOOT_PVH,
	/*
	 * x86, Linux' "64-bit boot protocol": long mode, flat segments 0x10 and 0x18, cr3 = tables (made by the board), rsp = stack; rsi =
	 * arg0 (boot_params), rdi = arg1, rdx = arg2
	 */
	CPU_BOOT_LONG,
};

struct cpu_boot {
	uint64_t pc;
	uint64_t arg0, arg1, arg2; /* rv64: a0 hart id, a1 device tree, a2 (fw_dynamic info) */
	bool running; /* false: parked until started by another vCPU (HSM, SIPI) */
	enum cpu_boot_mode mode;
	uint64_t tables, stack; /* CPU_BOOT_LONG */
};

/*
 * Guest-physical addresses that an x86 engine needs for itself or answers in the kernel. A board puts neither RAM nor devices there. RESERVED
 * is never seen by a guest (a task segment and an identity map that VMX wants on old processors).
 */
#define CPU_X86_IOAPIC 0xfec00000ull /* 4 KiB; 24 pins = GSI 0..23 */
#define CPU_X86_LAPIC 0xfee00000ull /* 1 MiB: registers, and message interrupts as stores */
#define CPU_X86_RESERVED 0xfeffc000ull
#define CPU_X86_RESERVED_LEN 0x4000ull

/*
 * A doorbell: a guest's store of this address (and value) signals an eventfd; the store does not come out as an exit. It must lie
 * where a bus region answers too: on engines that have none, and for other widths, the store comes there.
 */
struct cpu_doorbell {
	bool pio;
	uint64_t addr;
	uint8_t size; /* 1, 2, 4, 8; 0: any */
	bool match; /* only stores of `value` */
	uint64_t value;
	int fd; /* eventfd; the caller's, open until the doorbell is gone */
};

/* An interrupt eventfd: who signals it raises an interrupt, without this process. */
struct cpu_irqfd {
	int fd; /* eventfd; the caller's, open until it is gone */
	bool wired; /* an edge on `gsi`; else the message (addr, data) */
	unsigned gsi;
	uint64_t addr;
	uint32_t data;
};

/* A range of ioctl() requests that the engine makes after the sandbox is up, and why. */
struct cpu_ioctl {
	unsigned long nr;
	const char *why;
};

#define CPU_BUDGET_NONE UINT64_MAX /* until there is something to do, or a kick */

struct cpu_stats {
	uint64_t instructions, cycles;
	uint64_t exits[CPU_EXIT_REASONS];
	uint64_t traps, interrupts;
	uint64_t delivered
		[CPU_TYPES]; /* what the guest was given without an exit; interrupts as messages, see cpu_note.count */
	uint64_t tlb_misses, page_walks, blocks_decoded;
};

#define CPU_DEBUG_POINTS 4
struct cpu_debug {
	bool step; /* stop after the next instruction */
	bool soft; /* breakpoint instructions of the guest stop it, instead of reaching the guest */
	struct cpu_debug_point {
		uint64_t gva;
		uint8_t len; /* 0: not used; instructions: 1 */
		uint8_t access; /* enum mem_access: MEM_EXEC alone, MEM_WRITE, or MEM_READ|MEM_WRITE */
	} point[CPU_DEBUG_POINTS];
};

struct cpu_engine_ops {
	const char *name; /* "rv64" */
	const char *isa; /* of its guests: "riscv64" */

	/* 0 when this host can run it; otherwise says what is missing and how to get it. */
	int (*available)(struct err *e);
	/*
	 * How many times the host's own time a loop takes in the guest's most privileged mode, measured anew in some milliseconds: 1 on hardware. Some
	 * hosts' KVM interprets it. NULL: an engine that needs nothing of the host.
	 */
	int (*privileged)(double *slower, struct err *e);
	/*
	 * Calls `each` for what this host offers the engine beyond what it cannot do without: `value` 0: not there, and then `without` says
	 * which way is gone instead. NULL: the engine asks for nothing.
	 */
	int (*features)(void (*each)(void *ctx, const char *name, int value, const char *serves,
				const char *without),
		void *ctx, struct err *e);

	int (*vm_create)(struct cpu_vm **out, const struct cpu_vm_opts *o, struct err *e);
	void (*vm_destroy)(struct cpu_vm *vm); /* STOPPED; destroys the vCPUs too */
	int (*vcpu_create)(struct vcpu **out, struct cpu_vm *vm, unsigned index, struct err *e);

	/* STOPPED. Puts the vCPU into its reset state, then applies `boot`. */
	void (*vcpu_reset)(struct vcpu *v, const struct cpu_boot *boot);

	/*
	 * Runs the guest until something is to be done, at most about `budget_ns` (0: just finish the pending access; CPU_BUDGET_NONE: no limit).
	 * Always fills *x.
	 */
	void (*vcpu_run)(struct vcpu *v, uint64_t budget_ns, struct cpu_exit *x);
	/* ANY. run() returns soon (CPU_EXIT_BUDGET), or at once when next called. */
	void (*vcpu_kick)(struct vcpu *v);

	/* ANY. Level of a wired input. */
	void (*vcpu_irq)(struct vcpu *v, enum cpu_irq line, bool level);
	/*
	 * ANY. Sets `id` pending in an interrupt file. Ids that do not exist are ignored, as hardware does. CPU_MSI_FROM_VCPU is or'ed to the id of
	 * a message that a vCPU wrote itself: it is counted as an IPI.
	 */
	void (*vcpu_msi)(struct vcpu *v, enum cpu_msi_file file, uint32_t id);
	/* ANY. ACLINT MTIMECMP: raises CPU_IRQ_M_TIMER when the guest's time reaches it. */
	void (*vcpu_mtimecmp)(struct vcpu *v, uint64_t when);
	uint64_t (*vcpu_mtimecmp_get)(struct vcpu *v);

	/* ANY. The guest's time counter, in timebase ticks. */
	uint64_t (*time_get)(struct cpu_vm *vm);
	/* STOPPED. Continues counting from `t`, and every other clock of the guest (x86: TSC) moves on by as much. */
	void (*time_set)(struct cpu_vm *vm, uint64_t t);
	/* STOPPED: the counter stands still between stop and start (pause, save). */
	void (*time_stop)(struct cpu_vm *vm);
	void (*time_start)(struct cpu_vm *vm);

	/* Described state; STOPPED. vm_state covers what no single vCPU owns (time, SBI state). */
	const struct state_desc *(*vcpu_state)(void);
	const struct state_desc *(*vm_state)(void);
	void *(*vcpu_state_obj)(struct vcpu *v);
	void *(*vm_state_obj)(struct cpu_vm *vm);

	/* ANY, may be a little stale while running. */
	void (*vcpu_stats)(struct vcpu *v, struct cpu_stats *st);

	/*
	 * ANY. Whether cpu_vm_opts.note is called; off at first. May be NULL: the engine cannot see what its guests are given.
	 */
	void (*vm_notes)(struct cpu_vm *vm, bool on);

	/*
	 * ANY. What the engine counts of itself beside that, by name; of rv64: its translator. May be NULL, or call nothing. Not while
	 * vm_destroy() runs.
	 */
	void (*vm_counters)(struct cpu_vm *vm,
		void (*each)(void *ctx, const char *name, uint64_t value), void *ctx);

	/*
	 * Snapshots: which code is worth translating again. get: fills at most `max` words, each of which says where translated code begins
	 * (a guest-physical address with bits of the engine's beside it), the most used first, and answers how many; any thread, not
	 * while vm_destroy() runs. put: STOPPED, after a load: translate these while the guest runs, before it meets them. The list may come from
	 * anywhere. Both may be NULL: an engine that has nothing of the kind.
	 */
	size_t (*hot_code_get)(struct cpu_vm *vm, uint64_t *gpa, size_t max);
	void (*hot_code_put)(struct cpu_vm *vm, const uint64_t *gpa, size_t n);

	/* STOPPED. Debuggers: translate a guest-virtual address as this vCPU would now. */
	int (*vcpu_translate)(struct vcpu *v, uint64_t gva, enum mem_access acc, gpa_t *out);
	/* STOPPED. By number in gdb's order for the ISA. -ENOENT beyond the last. */
	int (*vcpu_reg_get)(struct vcpu *v, unsigned regno, uint64_t *val);
	int (*vcpu_reg_set)(struct vcpu *v, unsigned regno, uint64_t val);

	/* What firmware tables say of this CPU: rv64: the ISA string and extension list for the device tree. */
	const char *(*isa_string)(
		struct cpu_vm *vm); /* "rv64imafdc_zba_..."; x86: the CPU model's name */
	const char *(*mmu_type)(struct cpu_vm *vm); /* "riscv,sv48" */
	unsigned (*msi_ids)(struct cpu_vm *vm); /* highest id of an interrupt file: 255 */

	/*
	 * An idle vCPU stays inside run(), because what wakes it never comes to this process (a local APIC in the kernel). Such vCPUs want a
	 * worker each, and CPU_BUDGET_NONE where they have one; with fewer workers an idle vCPU uses up its slices.
	 */
	bool idle_inside;

	/* ---- Engines that have the machine's interrupt controllers inside. NULL: the board has them. Use the helpers below. ---- */

	/* ANY. Level of a global input: GSI, pin of the IOAPIC. An edge is true, then false. */
	void (*vm_irq)(struct cpu_vm *vm, unsigned gsi, bool level);
	/* ANY. A message interrupt: a store of `data` at `addr`. What nobody listens for is lost. */
	void (*vm_msi)(struct cpu_vm *vm, uint64_t addr, uint32_t data);
	/* ANY. Non-maskable interrupt. */
	void (*vcpu_nmi)(struct vcpu *v);
	/* -EOPNOTSUPP: not here; the bus region serves the store. -EEXIST. */
	int (*doorbell_add)(struct cpu_vm *vm, const struct cpu_doorbell *d, struct err *e);
	void (*doorbell_remove)(struct cpu_vm *vm, const struct cpu_doorbell *d);
	/* An id >= 0, or -EOPNOTSUPP: the owner watches the eventfd and calls vm_irq() or vm_msi(). -ENOSPC. */
	int (*irqfd_add)(struct cpu_vm *vm, const struct cpu_irqfd *f, struct err *e);
	/* The same eventfd from now on means another message. No interrupt is lost or made up. */
	int (*irqfd_change)(struct cpu_vm *vm, int id, uint64_t addr, uint32_t data, struct err *e);
	void (*irqfd_remove)(struct cpu_vm *vm, int id);
	/* x86: the APIC id of a vCPU, for firmware tables. NULL: its index. */
	unsigned (*vcpu_hw_id)(struct cpu_vm *vm, unsigned index);
	/* STOPPED. Every vCPU now sees guest-physical memory through this view. NULL: -EOPNOTSUPP. */
	int (*vm_view)(struct cpu_vm *vm, unsigned tag, struct err *e);
	/* STOPPED. Stops of a debugger; NULL: none. `n` hardware points. */
	int (*vcpu_debug)(struct vcpu *v, const struct cpu_debug *d, struct err *e);
	/*
	 * Before the machine is started: fills the second-level tables, or at least the host's, for [a, a+len), so that its first touch of
	 * them does not fault. -EFAULT: no memory there. NULL: nothing to fill.
	 */
	int (*vcpu_prefill)(struct vcpu *v, gpa_t a, uint64_t len, struct err *e);
	/* What the sandbox has to let through while the machine runs. NULL: nothing. */
	const struct cpu_ioctl *(*ioctls)(unsigned *n);
};

struct vcpu_head {
	const struct cpu_engine_ops *ops;
	unsigned index;
};

/* The optional calls, for everybody who does not want to ask whether an engine has them. */
static inline int cpu_doorbell_add(const struct cpu_engine_ops *ops, struct cpu_vm *vm,
	const struct cpu_doorbell *d, struct err *e)
{
	return ops->doorbell_add ? ops->doorbell_add(vm, d, e) : -EOPNOTSUPP;
}

static inline void cpu_doorbell_remove(
	const struct cpu_engine_ops *ops, struct cpu_vm *vm, const struct cpu_doorbell *d)
{
	if (ops->doorbell_remove)
		ops->doorbell_remove(vm, d);
}

static inline int cpu_irqfd_add(const struct cpu_engine_ops *ops, struct cpu_vm *vm,
	const struct cpu_irqfd *f, struct err *e)
{
	return ops->irqfd_add ? ops->irqfd_add(vm, f, e) : -EOPNOTSUPP;
}

static inline unsigned cpu_hw_id(
	const struct cpu_engine_ops *ops, struct cpu_vm *vm, unsigned index)
{
	return ops->vcpu_hw_id ? ops->vcpu_hw_id(vm, index) : index;
}

/* One static table of engines (cpu/engines.c). NULL when there is none of that name. */
const struct cpu_engine_ops *cpu_engine_find(const char *name);
const struct cpu_engine_ops *cpu_engine_at(unsigned i);

#endif
