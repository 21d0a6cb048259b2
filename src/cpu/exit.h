/*
 * exit.h: the one exit syndrome (decisions D3, system S09).
 *
 * A vCPU leaves the guest for a reason. Each engine turns what its ISA reports into this struct, in the terms
 * of the primary ISA (x86: the VMX basic exit reasons are the model), and keeps the raw code beside it. One table of handlers above
 * the seam (vm/exits.c) serves every engine; no handler asks which engine it was.
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
	CPU_EXIT_DEBUG, /* breakpoint, watchpoint or single step asked for by a debugger */
	CPU_EXIT_ERROR, /* the engine cannot go on: `text` says why; the VM is paused and reported, never aborted */
	CPU_EXIT_REASONS
};

struct cpu_exit {
	enum cpu_exit_reason reason;
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
		} fault;
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

const char *cpu_exit_name(enum cpu_exit_reason r);

#endif
