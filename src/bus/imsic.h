/*
 * imsic.h: the memory-mapped pages of the harts' interrupt files.
 *
 * One page a hart: a 32-bit store to offset 0 (seteipnum_le) makes that identity pending in the
 * hart's file; offset 4 is the big-endian port, which a little-endian machine does not have. Everything else
 * reads as zero and ignores writes. Reads of both ports are zero. The files themselves (pending, enabled,
 * threshold) are in the engine, which a hart reaches through CSRs.
 *
 *	machine level: m_base + hart << 12		supervisor level: s_base + hart << 12
 *
 * No lock: stores go straight to the engine. This is where bus_msi() ends. There is no state here.
 *
 * Source: RISC-V Advanced Interrupt Architecture 1.0, sections 3.5 and 3.6.
 */
#ifndef LODGE_BUS_IMSIC_H
#define LODGE_BUS_IMSIC_H

#include <stdint.h>

#include "bus/irq_cpus.h"

struct bus;
struct err;
struct imsic;

struct imsic_opts {
	const struct irq_cpus *cpus;
	uint64_t m_base, s_base; /* 0: no files of that level */
};

int imsic_create(struct imsic **out, struct bus *b, const struct imsic_opts *o, struct err *e);
void imsic_destroy(struct imsic *i);

#endif
