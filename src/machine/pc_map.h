/*
 * pc_map.h: the address map of the amd64 `pc` board, for the board, its tables and its tests.
 *
 * Addresses and interrupt numbers are those of QEMU's `microvm` board with PCIe and ACPI, so that our tables can be tried there and
 * there is something to compare with. What is Lodge's own lies where that board has nothing.
 */
#ifndef LODGE_MACHINE_PC_MAP_H
#define LODGE_MACHINE_PC_MAP_H

#include <stdint.h>

#include "base/util.h"

enum pc_region {
	PC_LOW_RAM, /* base 0; len: the most that lies below the hole */
	PC_PCI_MEM,
	PC_ECAM,
	PC_FINISHER,
	PC_RTC_MMIO,
	PC_VMGENID, /* Lodge's own */
	PC_GED, /* event selector, and from +0x200 on the sleep and reset registers */
	PC_IOAPIC,
	PC_LAPIC,
	PC_HIGH_RAM, /* len: the most that a machine may have there */
	PC_REGIONS
};

struct pc_range {
	uint64_t base, len;
};

static const struct pc_range pc_map[PC_REGIONS] = {
	[PC_LOW_RAM] = {0, 3 * GiB},
	[PC_PCI_MEM] = {0xc0000000, 0x20000000},
	[PC_ECAM] = {0xe0000000, 0x10000000},
	[PC_FINISHER] = {0xfe000000, 0x1000},
	[PC_RTC_MMIO] = {0xfe001000, 0x1000},
	[PC_VMGENID] = {0xfe002000, 0x1000},
	[PC_GED] = {0xfea00000, 0x1000},
	[PC_IOAPIC] = {0xfec00000, 0x1000},
	[PC_LAPIC] = {0xfee00000, 0x100000},
	[PC_HIGH_RAM] = {4 * GiB, 4096 * GiB},
};

/* Ports. */
enum {
	PC_PORT_RTC = 0x70,
	PC_PORT_FINISHER = 0xf4, /* as the test finisher, for code that has no page tables yet */
	PC_PORT_UART = 0x3f8,
	PC_PORT_PM = 0x600, /* only where the tables are not hardware-reduced */
	PC_PORT_PCI = 0xcf8, /* address, data at +4; reset at +1 */
	PC_PORT_PCI_IO = 0x1000, /* what PCI functions get */
};

/* Global system interrupts: pins of the IOAPIC. */
enum {
	PC_GSI_UART = 4,
	PC_GSI_RTC = 8,
	PC_GSI_GED = 9,
	PC_GSI_RTC_MMIO = 11,
	PC_GSI_PCI = 12, /* to 15: pins A to D, swizzled by slot */
	PC_GSIS = 24,
};

#define PC_PCI_BUSES 256u

/* Below 1 MiB: what the board puts there at boot. Linux takes only what it needs from here before it has read the memory map. */
#define PC_START_INFO 0x6000ull /* PVH */
#define PC_ZERO_PAGE 0x7000ull /* struct boot_params */
#define PC_STACK 0x8ff0ull
#define PC_PAGE_TABLES 0x9000ull /* 1 + 1 + 4 pages: 4 GiB, one to one */
#define PC_CMDLINE 0x20000ull
#define PC_CMDLINE_MAX 0x10000ull
#define PC_LOW_END 0x9fc00ull /* usable memory below the video memory ends here */
#define PC_ACPI 0xe0000ull /* root pointer first, where it is searched for too */
#define PC_ACPI_MAX 0x10000ull
#define PC_KERNEL 0x100000ull

/* The window for 64-bit BARs: 16 GiB, at the first multiple of 16 GiB behind RAM. */
#define PC_PCI_HIGH_LEN (16 * GiB)
static inline uint64_t pc_pci_high(uint64_t ram_end)
{
	return align_up(ram_end, PC_PCI_HIGH_LEN);
}

#endif
