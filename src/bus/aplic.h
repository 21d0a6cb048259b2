/*
 * aplic.h: the advanced PLIC: wired interrupts become messages.
 *
 *   device --irq_line--> source i --> M domain (root) --delegated?--> S domain
 *                                        |                              |
 *                                        +--- MSI to the M file         +--- MSI to the S file of a hart
 *
 * Two domains, machine (root) and its child, supervisor. Delivery by MSI only (domaincfg.DM reads as
 * one), little-endian only. sourcecfg.D of the root hands a source to the child; taking it back clears
 * everything that the child knew of it. mmsiaddrcfg and smsiaddrcfg of the root are writable until mmsiaddrcfgh.L locks them.
 *
 * `preset` makes reset leave the root as firmware would: every source delegated, addresses set and locked. It is
 * for machines that start kernels in S-mode with no firmware in the guest.
 *
 * Pending bits follow section 4.7 "Precise effects on interrupt-pending bits" and, for level sources in MSI
 * mode, 4.9.2. Where the specification leaves a choice: a write to sourcecfg that makes a level source's rectified
 * input high sets its pending bit; `target` of a source that becomes active is zero; genmsi is never busy.
 *
 * Threads: aplic lines may be set from any thread, with device locks held. The APLIC's lock is inside all of them; under
 * it only interrupt files are called.
 *
 * Source: RISC-V Advanced Interrupt Architecture 1.0, chapter 4.
 */
#ifndef LODGE_BUS_APLIC_H
#define LODGE_BUS_APLIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"
#include "bus/bus.h"

#define APLIC_MAX_SOURCES 127u
#define APLIC_SIZE 0x8000ull

struct aplic;
struct err;

struct aplic_opts {
	uint64_t m_base, s_base; /* both domains exist */
	unsigned sources; /* 1..APLIC_MAX_SOURCES; numbered from 1 */
	bool preset;
	uint64_t imsic_m, imsic_s; /* for preset: interrupt files of hart 0, one page a hart */
	unsigned hart_bits; /* for preset: width of a hart index */
};

int aplic_create(struct aplic **out, struct bus *b, const struct aplic_opts *o, struct err *e);
void aplic_destroy(struct aplic *a);
void aplic_reset(struct aplic *a);
/* The line of source `source`; valid as long as the APLIC. Sources that do not exist give a line that does nothing. */
struct irq_line aplic_line(struct aplic *a, unsigned source);
extern const struct state_desc aplic_state; /* object: the aplic */

#endif
