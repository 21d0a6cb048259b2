/*
 * kvm_bare.h: the kvm engine over a space, no board: 4 MiB of RAM at 0, tables that map the first 4 GiB as they are, and guests
 * written in assembly beside the tests (GUEST), which run at CODE in long mode and ring 0.
 *
 * Ports of theirs: 0xf4 ends a test with the byte that is written; others are the test's.
 */
#ifndef KVM_BARE_H
#define KVM_BARE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cpu/kvm/caps.h"
#include "cpu/kvm/engine.h"
#include "cpu/kvm/sys.h"
#include "memory/frames.h"
#include "memory/space.h"

#define KB_TABLES 0x1000ull
#define KB_STACK 0xf000ull
#define KB_CODE 0x10000ull
/* Interrupts: KB_INTERRUPTS at a guest's start; then each vector has a handler that counts at KB_COUNT(vector) and says EOI. */
#define KB_GDT 0xa000ull
#define KB_IDT 0xb000ull
#define KB_STUBS 0xc000ull
#define KB_COUNT(vector) (0x20000ull + 8 * (vector))
#define KB_INTERRUPTS \
	"lgdt [0xa100]\n lidt [0xa110]\n mov ebx, 0xfee00000\n mov dword ptr [rbx + 0xf0], " \
	"0x1ff\n"
#define KB_RAM (4ull << 20)
#define KB_END 0xf4
#define KB_MAX 8

struct kvm_bare {
	struct frames *frames;
	struct space *space;
	struct cpu_vm *vm;
	struct vcpu *v[KB_MAX];
	unsigned n;
};

/*
 * A kernel that is not what it should be: it has not the capability `hide`, and the call number `fail_at` (from 1; of the request
 * `fail_nr`, or any when 0; KB_MAP: mapping a vCPU's memory) comes back with `fail_with`, `fail_times` times (0: once). `calls` counts.
 */
#define KB_MAP (~0ul)
struct kb_shim {
	const char *hide;
	unsigned long fail_nr;
	unsigned fail_at, fail_times;
	int fail_with, open_with, version;
	unsigned calls, failed, msrs;
	unsigned long last; /* the request that failed */
	uint64_t tsc_was, tsc_is; /* offsets: that was read last, that was set last */
	struct kvm_sys sys;
	uint8_t cpuid[16384]; /* of the last KVM_SET_CPUID2 */
};
const struct kvm_sys *kb_shim(struct kb_shim *s);
/* eax..edx that KVM was given for a leaf; NULL: none. */
uint32_t *kb_shim_leaf(struct kb_shim *s, uint32_t function, uint32_t index);

/* A guest: position-independent code between two labels. */
#define GUEST(name, text) \
	extern const uint8_t guest_##name[], guest_##name##_end[]; \
	__asm__(".pushsection .rodata\n.intel_syntax noprefix\n.globl guest_" #name \
		"\nguest_" #name ":\n" text "\n.globl guest_" #name "_end\nguest_" #name \
		"_end:\n.att_syntax prefix\n.popsection\n")

/* Skips the test, with the reason, where there is no KVM. */
struct kvm_bare *kb_new(unsigned vcpus);
struct kvm_bare *kb_new_with(const struct cpu_vm_opts *o, const struct kvm_sys *sys);
void kb_free(struct kvm_bare *b);
/* Puts code at KB_CODE and vCPU 0 at its start, in long mode; the others wait for SIPI. */
void kb_load(struct kvm_bare *b, const uint8_t *from, const uint8_t *to);
#define KB_LOAD(b, name) kb_load(b, guest_##name, guest_##name##_end)
/* Runs vCPU i to its next exit that is not BUDGET; fails the test when there is none for 5 s. */
void kb_exit(struct kvm_bare *b, unsigned i, struct cpu_exit *x);
/* ... which must be a store to KB_END: its byte. x: also the answer to the exit before. */
unsigned kb_end(struct kvm_bare *b, unsigned i, struct cpu_exit *x);
uint64_t kb_get(struct kvm_bare *b, uint64_t addr);
void kb_put(struct kvm_bare *b, uint64_t addr, uint64_t v);

#endif
