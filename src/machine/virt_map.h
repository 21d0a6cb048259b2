/*
 * virt_map.h: the address map of the rv64 `virt` board, for the board and for its device tree.
 *
 * The addresses are those of QEMU's `virt` board, so that firmware and tests built for it run.
 */
#ifndef LODGE_MACHINE_VIRT_MAP_H
#define LODGE_MACHINE_VIRT_MAP_H

#include <stdint.h>

#include "base/util.h"

enum virt_region {
	VIRT_FINISHER,
	VIRT_RTC,
	VIRT_VMGENID, /* Lodge's own: QEMU's board has nothing there */
	VIRT_ACLINT,
	VIRT_PCI_IO,
	VIRT_APLIC_M,
	VIRT_APLIC_S,
	VIRT_UART,
	VIRT_IMSIC_M,
	VIRT_IMSIC_S,
	VIRT_ECAM,
	VIRT_PCI_MEM,
	VIRT_DRAM, /* len: the most that a machine may have */
	VIRT_REGIONS
};

struct virt_range {
	uint64_t base, len;
};

static const struct virt_range virt_map[VIRT_REGIONS] = {
	[VIRT_FINISHER] = {0x100000, 0x1000},
	[VIRT_RTC] = {0x101000, 0x1000},
	[VIRT_VMGENID] = {0x102000, 0x1000},
	[VIRT_ACLINT] = {0x2000000, 0x10000},
	[VIRT_PCI_IO] = {0x3000000, 0x10000},
	[VIRT_APLIC_M] = {0xc000000, 0x8000},
	[VIRT_APLIC_S] = {0xd000000, 0x8000},
	[VIRT_UART] = {0x10000000, 0x100},
	[VIRT_IMSIC_M] = {0x24000000, 0x4000000}, /* one page a hart is used */
	[VIRT_IMSIC_S] = {0x28000000, 0x4000000},
	[VIRT_ECAM] = {0x30000000, 0x10000000},
	[VIRT_PCI_MEM] = {0x40000000, 0x40000000},
	[VIRT_DRAM] = {0x80000000, 4096 * GiB},
};

#define VIRT_UART_IRQ 10u
#define VIRT_RTC_IRQ 11u
#define VIRT_VMGENID_IRQ 12u
#define VIRT_PCI_IRQ 32u /* to 35: pins A to D */
#define VIRT_IRQ_SOURCES 96u
#define VIRT_PCI_BUSES 256u
#define VIRT_TIMEBASE_HZ 10000000u
#define VIRT_UART_CLOCK_HZ 3686400u

/* The window for 64-bit BARs: 16 GiB, at the first multiple of 16 GiB behind RAM. */
#define VIRT_PCI_HIGH_LEN (16 * GiB)
static inline uint64_t virt_pci_high(uint64_t ram_end)
{
	return align_up(ram_end, VIRT_PCI_HIGH_LEN);
}

#endif
