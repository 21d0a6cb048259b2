/*
 * vmgenid.h: VM generation identifier: 16 bytes that are different after a machine has become another one (restored from a snapshot, cloned).
 *
 *	0x00  16 bytes, readonly, any width: the identifier
 *
 * An edge on `irq` says that it has changed; what a guest makes of that: Linux reseeds its random number generators in the interrupt, so
 * that copies of a machine draw different numbers from the first one on. It stays the same through pause, reboot and
 * migration: the machine is the same one then.
 *
 * Sources: Microsoft, "Virtual Machine Generation ID" (2012); Linux' binding rng/microsoft,vmgenid.yaml. On the pc board an ACPI device names
 * the address and is notified through the generic event device (machine/acpi_dsdt.c).
 */
#ifndef LODGE_DEVICE_VMGENID_H
#define LODGE_DEVICE_VMGENID_H

#include "bus/bus.h"

#define VMGENID_SIZE 0x1000ull
#define VMGENID_BYTES 16u

struct vmgenid_opts {
	uint64_t base;
	struct irq_line irq;
};

#endif
