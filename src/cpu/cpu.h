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
 */
#ifndef LODGE_CPU_CPU_H
#define LODGE_CPU_CPU_H

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

enum cpu_clock { CPU_CLOCK_HOST, CPU_CLOCK_MODEL };

/* Translation of guest code, for engines that interpret. AUTO: where the host can. */
enum cpu_jit { CPU_JIT_AUTO, CPU_JIT_OFF };

struct cpu_vm_opts {
	struct space *space;
	struct log *log;
	unsigned vcpus;
	unsigned timebase_hz; /* of the guest's time counter; 10,000,000 on rv64 */
	enum cpu_clock clock;
	enum cpu_jit jit;
	const char *
		perf_map; /* names of translated code for perf, by this System.map ("-": without symbols); NULL: none */
	uint64_t jit_cache; /* bytes of translated code; 0: the engine's default */
	const char *cpu_model; /* "rv64" or "rv64,zbb=off"; NULL: everything */
	bool builtin_firmware; /* rv64: the engine serves SBI; kernels start in S-mode */
	uint64_t seed; /* what the engine makes up (seed CSR) follows from it */
	/* A vCPU that was idle or stopped has something to do. ANY thread; must not call back. */
	void (*wake)(void *ctx, unsigned vcpu);
	void *wake_ctx;
};

struct cpu_boot {
	uint64_t pc;
	uint64_t arg0, arg1, arg2; /* rv64: a0 hart id, a1 device tree, a2 (fw_dynamic info) */
	bool running; /* false: parked until started by another vCPU (HSM, SIPI) */
};

struct cpu_stats {
	uint64_t instructions, cycles;
	uint64_t exits[CPU_EXIT_REASONS];
	uint64_t traps, interrupts;
	uint64_t tlb_misses, page_walks, blocks_decoded;
};

struct cpu_engine_ops {
	const char *name; /* "rv64" */
	const char *isa; /* of its guests: "riscv64" */

	/* 0 when this host can run it; otherwise says what is missing and how to get it. */
	int (*available)(struct err *e);

	int (*vm_create)(struct cpu_vm **out, const struct cpu_vm_opts *o, struct err *e);
	void (*vm_destroy)(struct cpu_vm *vm); /* STOPPED; destroys the vCPUs too */
	int (*vcpu_create)(struct vcpu **out, struct cpu_vm *vm, unsigned index, struct err *e);

	/* STOPPED. Puts the vCPU into its reset state, then applies `boot`. */
	void (*vcpu_reset)(struct vcpu *v, const struct cpu_boot *boot);

	/*
	 * Runs the guest until something is to be done, at most about `budget_ns` (0: just finish the pending access).
	 * Always fills *x.
	 */
	void (*vcpu_run)(struct vcpu *v, uint64_t budget_ns, struct cpu_exit *x);
	/* ANY. run() returns soon (CPU_EXIT_BUDGET), or at once when next called. */
	void (*vcpu_kick)(struct vcpu *v);

	/* ANY. Level of a wired input. */
	void (*vcpu_irq)(struct vcpu *v, enum cpu_irq line, bool level);
	/* ANY. Sets `id` pending in an interrupt file. Ids that do not exist are ignored, as hardware does. */
	void (*vcpu_msi)(struct vcpu *v, enum cpu_msi_file file, uint32_t id);
	/* ANY. ACLINT MTIMECMP: raises CPU_IRQ_M_TIMER when the guest's time reaches it. */
	void (*vcpu_mtimecmp)(struct vcpu *v, uint64_t when);
	uint64_t (*vcpu_mtimecmp_get)(struct vcpu *v);

	/* ANY. The guest's time counter, in timebase ticks. */
	uint64_t (*time_get)(struct cpu_vm *vm);
	/* STOPPED. Continues counting from `t`. */
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
	 * ANY. What the engine counts of itself beside that, by name; of rv64: its translator. May be NULL, or call nothing. Not while
	 * vm_destroy() runs.
	 */
	void (*vm_counters)(struct cpu_vm *vm,
		void (*each)(void *ctx, const char *name, uint64_t value), void *ctx);

	/* STOPPED. Debuggers: translate a guest-virtual address as this vCPU would now. */
	int (*vcpu_translate)(struct vcpu *v, uint64_t gva, enum mem_access acc, gpa_t *out);
	/* STOPPED. By number in gdb's order for the ISA. -ENOENT beyond the last. */
	int (*vcpu_reg_get)(struct vcpu *v, unsigned regno, uint64_t *val);
	int (*vcpu_reg_set)(struct vcpu *v, unsigned regno, uint64_t val);

	/* What firmware tables say of this CPU: rv64: the ISA string and extension list for the device tree. */
	const char *(*isa_string)(struct cpu_vm *vm); /* "rv64imafdc_zba_..." */
	const char *(*mmu_type)(struct cpu_vm *vm); /* "riscv,sv48" */
	unsigned (*msi_ids)(struct cpu_vm *vm); /* highest id of an interrupt file: 255 */
};

struct vcpu_head {
	const struct cpu_engine_ops *ops;
	unsigned index;
};

/* One static table of engines (cpu/engines.c). NULL when there is none of that name. */
const struct cpu_engine_ops *cpu_engine_find(const char *name);
const struct cpu_engine_ops *cpu_engine_at(unsigned i);

#endif
