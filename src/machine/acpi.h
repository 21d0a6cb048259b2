/*
 * acpi.h: the ACPI tables of the `pc` board, made from the topology (decision D12).
 *
 *	RSDP -> XSDT -> FADT -> DSDT (and FACS, where the machine is not hardware-reduced)
 *	             -> MADT     processors by APIC id, IOAPIC, overrides, NMI
 *	             -> MCFG     ECAM
 *	             -> SRAT     processors and memory by node
 *	             -> SLIT     distances, where there is more than one node
 *
 * One blob for one place in memory: addresses in it are final and checksums right. Same inputs, same bytes.
 *
 * Hardware-reduced is what the machine is (FADT flag 20): no PM blocks, no SCI; sleep and reset are registers of the event device
 * (device/ged.h), and events come through it as an ACPI0013 device. The full form is for guests that do not know the reduced one: fixed PM1
 * registers and the PM timer at PC_PORT_PM, and an SCI.
 *
 * Source: ACPI 6.3 (chapter 5: tables; 6: resources and _OSC; 19 and 20: AML); PCI Firmware 3.2, section 4.1.2 (MCFG).
 */
#ifndef LODGE_MACHINE_ACPI_H
#define LODGE_MACHINE_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/cpu.h"

struct err;
struct topology;

struct acpi_opts {
	const struct topology *topology;
	uint64_t
		base; /* guest-physical address of the blob; the RSDP comes first. 64-byte aligned */
	uint64_t max; /* bytes that there are */
	uint64_t pci_high, pci_high_len; /* the window for 64-bit BARs; len 0: none */
	bool full; /* not hardware-reduced */
	uint32_t apic_id[CPU_MAX_VCPUS];
};

#define ACPI_TABLES 10

struct acpi_table {
	char name[5]; /* signature; "RSDP" for the root pointer */
	uint32_t off, len; /* in the blob */
};

struct acpi_tables {
	uint8_t *blob; /* malloc'ed */
	size_t len;
	struct acpi_table table[ACPI_TABLES]; /* the RSDP first */
	unsigned n;
};

/* -E2BIG: more than `max`. -EINVAL: an APIC id twice. */
int acpi_build(const struct acpi_opts *o, struct acpi_tables *out, struct err *e);
void acpi_free(struct acpi_tables *t);

#endif
