/*
 * aclint.h: machine-level software interrupts and timer.
 *
 *	base + 0x0000 + 4 * hart  msip		bit 0 drives the hart's machine software interrupt
 *	base + 0x4000 + 8 * hart  mtimecmp	the machine timer interrupt is up while mtime >= mtimecmp
 *	base + 0xbff8		  mtime		the guest's time counter; stores are ignored
 *
 * The layout is that of SiFive's CLINT, which the ACLINT specification takes over (MSWI, then MTIMER 0x4000 behind).
 * Registers may be read and written by naturally aligned words and double words; the halves of mtimecmp may be written one by one.
 * The comparators live in the engine, which knows when time reaches them.
 *
 * Source: RISC-V ACLINT specification 1.0-rc4, chapters 2 and 3.
 * Threads: the region is called with the ACLINT's own lock. create, destroy, reset, state: vCPUs stopped.
 */
#ifndef LODGE_BUS_ACLINT_H
#define LODGE_BUS_ACLINT_H

#include <stdint.h>

#include "base/state.h"
#include "bus/irq_cpus.h"

#define ACLINT_SIZE 0x10000ull

struct aclint;
struct bus;
struct err;

int aclint_create(struct aclint **out, struct bus *b, uint64_t base, const struct irq_cpus *cpus,
	struct err *e);
void aclint_destroy(struct aclint *a);
void aclint_reset(struct aclint *a);
extern const struct state_desc aclint_state; /* object: the aclint */

#endif
