/*
 * exit.h: the one exit syndrome (decision D3).
 *
 * A vCPU leaves the guest for a reason. Each engine turns what its ISA reports into this struct, in the terms
 * of the primary ISA (x86: the VMX basic exit reasons are the model), and keeps the raw code beside it. One table of handlers above
 * the seam (vm/exits/exits.c) serves every engine; no handler asks which engine it was.
 *
 *   raw code of the guest's ISA --the engine's table--> struct cpu_code (primary ISA)
 *        --cpu_code_type(), here--> enum cpu_type --cpu_type_reason()--> enum cpu_exit_reason --> handler (vm/exits/exits.c)
 *
 * An engine fills `code` and calls cpu_exit_identify(), which sets type and reason: what an exit is follows from its primary code alone.
 *
 * Lifetime: filled by vcpu_run(); valid until the next vcpu_run() of the same vCPU. For reasons marked "answer" the
 * handler writes its answer into the struct, and the engine completes the instruction when the vCPU next
 * enters. State saved in between is whole: the pending access is part of the vCPU's described state, and the
 * instruction is made again after load (it has not retired).
 */
#ifndef LODGE_CPU_EXIT_H
#define LODGE_CPU_EXIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/system_event.h"
#include "memory/addr.h"

enum cpu_exit_reason {
	CPU_EXIT_BUDGET, /* time slice used up, or kicked: nothing to handle */
	CPU_EXIT_IDLE, /* nothing to do until an interrupt or `deadline_ns` (host monotonic; UINT64_MAX: none) */
	CPU_EXIT_PAUSE, /* the guest spins (pause, wrs.nto): let another vCPU run */
	CPU_EXIT_STOPPED, /* this vCPU is parked (HSM stopped, INIT) until another starts it */
	CPU_EXIT_MMIO, /* answer: mmio.data for reads, mmio.error for both */
	CPU_EXIT_PIO, /* answer, as MMIO; mmio.gpa is the port */
	CPU_EXIT_VIEW_FAULT, /* second-level permission or absence on RAM that the VM knows of */
	CPU_EXIT_HYPERCALL, /* answer: hcall.ret; calls that the engine does not serve itself */
	CPU_EXIT_CONSOLE, /* answer: console.done bytes moved (SBI DBCN) */
	CPU_EXIT_SYSTEM, /* shutdown, reboot, suspend: system.event; after a suspend the next vcpu_run() wakes the guest */
	CPU_EXIT_DEBUG, /* answer: exc.reflect; breakpoint, watchpoint or single step */
	CPU_EXIT_EXCEPTION, /* answer: exc.reflect; one that cpu_vm_opts.intercept asked for */
	CPU_EXIT_ERROR, /* the engine cannot go on: `text` says why; the VM is paused and reported, never aborted */
	CPU_EXIT_REASONS
};

/*
 * Basic exit reasons: the numbers of VMX (Intel SDM volume 3, appendix C), on SVM hosts too, because KVM reports neither: they are our
 * names. CPU_BASIC_UNKNOWN: the engine's table has no row for the raw code.
 */
enum cpu_basic {
	CPU_BASIC_EXCEPTION = 0, /* code.vector, code.error; qual: the address of a page fault */
	CPU_BASIC_EXTINT = 1, /* code.vector: CPU_VEC_*; qual: the identity, if there is one */
	CPU_BASIC_TRIPLE = 2, /* the engine fills `system` */
	CPU_BASIC_INIT = 3,
	CPU_BASIC_SIPI = 4,
	CPU_BASIC_WINDOW = 7,
	CPU_BASIC_HLT = 12,
	CPU_BASIC_VMCALL = 18, /* qual: enum cpu_call */
	CPU_BASIC_IO = 30, /* qual: as VMX has it: size - 1, bit 3 in, port << 16 */
	CPU_BASIC_ENTRY_FAIL = 33,
	CPU_BASIC_PAUSE = 40,
	CPU_BASIC_EPT_VIOLATION = 48, /* qual: CPU_QUAL_* */
	CPU_BASIC_EPT_MISCONFIG = 49, /* qual: CPU_QUAL_*; no memory there: MMIO */
	CPU_BASIC_UNKNOWN = 0xffff,
};

enum {
	CPU_QUAL_R = 1,
	CPU_QUAL_W = 2,
	CPU_QUAL_X = 4
}; /* SDM, table "Exit Qualification for EPT Violations" */

/* Vectors 0-31 are exceptions (SDM volume 3, table "Protected-Mode Exceptions and Interrupts"); of interrupts, those that Linux uses. */
enum cpu_vector {
	CPU_VEC_DE = 0,
	CPU_VEC_DB = 1,
	CPU_VEC_NMI = 2,
	CPU_VEC_BP = 3,
	CPU_VEC_UD = 6,
	CPU_VEC_DF = 8,
	CPU_VEC_GP = 13,
	CPU_VEC_PF = 14,
	CPU_VEC_AC = 17,
	CPU_VEC_MC = 18,
	CPU_VEC_VE = 20, /* virtualization exception */
	CPU_VEC_CP = 21, /* control protection */
	CPU_VEC_EXTERNAL = 0x20, /* every device */
	CPU_VEC_TIMER = 0xec,
	CPU_VEC_PMI = 0xf0,
	CPU_VEC_IPI = 0xfd,
};

/* Error code of a page fault (SDM volume 3, "Page-Fault Exceptions"). */
enum { CPU_PF_P = 1, CPU_PF_W = 2, CPU_PF_U = 4, CPU_PF_I = 16 };

/* What a VMCALL asks of the VMM. */
enum cpu_call {
	CPU_CALL_OTHER,
	CPU_CALL_CONSOLE,
	CPU_CALL_SYSTEM,
	CPU_CALL_USER /* a program asks its kernel */
};

struct cpu_code {
	uint16_t basic; /* enum cpu_basic */
	uint8_t vector; /* enum cpu_vector; with CPU_BASIC_EXCEPTION and _EXTINT */
	uint32_t error; /* error code of the vector */
	uint64_t qual; /* exit qualification */
};

/* What happened, finer than who handles it. */
enum cpu_type {
	CPU_TYPE_UNKNOWN,
	CPU_TYPE_TIMER,
	CPU_TYPE_IPI,
	CPU_TYPE_EXTERNAL,
	CPU_TYPE_PMI,
	CPU_TYPE_IDLE,
	CPU_TYPE_PAUSE,
	CPU_TYPE_STOPPED,
	CPU_TYPE_MMIO,
	CPU_TYPE_PIO,
	CPU_TYPE_VIEW_FAULT,
	CPU_TYPE_HYPERCALL,
	CPU_TYPE_CONSOLE,
	CPU_TYPE_SYSTEM,
	CPU_TYPE_CRASH, /* entry failure */
	CPU_TYPE_BREAKPOINT,
	CPU_TYPE_DEBUG,
	CPU_TYPE_INVALID_OPCODE,
	CPU_TYPE_PAGE_FAULT,
	CPU_TYPE_ALIGNMENT,
	CPU_TYPE_PROTECTION,
	CPU_TYPE_SYSCALL,
	CPU_TYPE_HARDWARE,
	CPU_TYPES
};

struct cpu_exit {
	enum cpu_exit_reason reason;
	enum cpu_type type;
	struct cpu_code code; /* in the primary ISA's terms */
	uint64_t raw; /* the code of the guest's ISA (mcause, KVM exit reason) */
	uint64_t pc; /* of the instruction that left */
	uint64_t gva; /* guest-virtual address involved, if any */
	union {
		struct {
			gpa_t gpa;
			uint8_t size; /* 1, 2, 4, 8 */
			bool write;
			bool error; /* answer: nobody there; the guest takes an access fault */
			uint64_t data;
		} mmio;
		struct {
			gpa_t gpa;
			unsigned access; /* enum mem_access that failed */
			unsigned view;
			bool error; /* answer: the guest takes an access fault; else it tries again */
		} fault;
		struct {
			uint64_t info; /* stval: the word of an illegal instruction */
			bool reflect; /* answer: the guest takes it; else it goes on at pc */
		} exc;
		struct {
			uint64_t nr, args[6], ret[2];
		} hcall;
		struct {
			gpa_t gpa;
			uint64_t len, done;
			bool write; /* true: guest to console */
			bool byte; /* one byte, and gpa is not its address but the byte itself */
		} console;
		struct {
			enum cpu_system_event event;
			uint64_t code; /* exit code or reset reason */
		} system;
		struct {
			uint64_t deadline_ns;
		} idle;
		const char *text;
	};
};

/* Something that an engine gave the guest itself, without an exit: cpu_engine_ops.vcpu_notes. */
struct cpu_note {
	enum cpu_type type;
	struct cpu_code code;
	uint64_t raw, pc, gva;
	uint64_t time_ns; /* host monotonic, when it was given */
	uint64_t count; /* of interrupts that came as one: messages of the same identity */
};

const char *cpu_exit_name(enum cpu_exit_reason r);
const char *cpu_type_name(enum cpu_type t);

/* One table: total, so every code is of a type, if only CPU_TYPE_UNKNOWN. */
enum cpu_type cpu_code_type(const struct cpu_code *c);
enum cpu_exit_reason cpu_type_reason(enum cpu_type t);

/*
 * Sets type and reason of what is in x->code. A code of no known type becomes CPU_EXIT_ERROR with a text, which pauses the
 * machine; the union is then the text.
 */
void cpu_exit_identify(struct cpu_exit *x);

/* "#PF error 0x6", "EPT violation qualification 0x2": for people. `out` has CPU_CODE_TEXT bytes; returns it. */
#define CPU_CODE_TEXT 64
const char *cpu_code_text(char *out, const struct cpu_code *c);

#endif
