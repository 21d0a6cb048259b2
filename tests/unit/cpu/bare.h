/*
 * bare.h: a tiny VM for tests of the rv64 engine's privileged half: RAM, harts, no devices, no board.
 *
 * Test code ends in an ecall; traps to M-mode go to a handler that stores to BARE_STOP, where nothing is, so that the
 * vCPU leaves with an MMIO exit. What the trap was is then in the hart's CSRs.
 */
#ifndef LODGE_TESTS_UNIT_CPU_BARE_H
#define LODGE_TESTS_UNIT_CPU_BARE_H

#include <pthread.h>

#include "cpu/rv64/block.h"
#include "cpu/rv64/engine.h"
#include "cpu/rv64/priv.h"

#define RAM 0x80000000ull
#define RAM_SIZE (16ull << 20)
#define BARE_STOP 0x100000ull
#define CODE (RAM + 0x1000)
#define VECTOR (RAM + 0x2000) /* of M-mode */
#define SVECTOR (RAM + 0x3000) /* of S-mode: ecall */
#define ECALL 0x00000073u

struct bare {
	struct frames *frames;
	struct space *space;
	struct cpu_vm *vm;
	struct vcpu *v[4];
	struct hart *h; /* of vCPU 0 */
	_Atomic unsigned woken;
};

struct bare *bare_new(unsigned harts, bool builtin_firmware);
struct bare *bare_new_jit(unsigned harts, bool builtin_firmware, enum cpu_jit jit);
void bare_free(struct bare *b);
struct hart *bare_hart(struct bare *b, unsigned i);

void bare_put(struct bare *b, uint64_t pa, uint32_t word);
void bare_put64(struct bare *b, uint64_t pa, uint64_t v);
uint64_t bare_get64(struct bare *b, uint64_t pa);

/* Runs vCPU i until it leaves for anything but its budget. */
void bare_exit(struct bare *b, unsigned i, struct cpu_exit *x);
/* Runs hart 0 from its pc until a trap reaches M-mode; returns mcause. */
uint64_t bare_trap(struct bare *b);
/* The word alone, then an ecall, in mode `priv` at CODE: the cause of its trap, or -1 when it had none. */
int64_t bare_one(struct bare *b, unsigned priv, uint32_t word);
void bare_satp(struct bare *b, uint64_t v);

static inline uint32_t enc(unsigned id, unsigned rd, unsigned rs1, unsigned rs2)
{
	return rv64_row(id)->match | rd << 7 | rs1 << 15 | rs2 << 20;
}

static inline uint32_t enc_csr(unsigned id, unsigned rd, unsigned csr, unsigned rs1)
{
	return rv64_row(id)->match | rd << 7 | rs1 << 15 | csr << 20;
}

/* In M-mode: reads, or writes and reads back. */
uint64_t bare_csr(struct bare *b, unsigned csr);
uint64_t bare_csr_write(struct bare *b, unsigned csr, uint64_t v);

#endif
