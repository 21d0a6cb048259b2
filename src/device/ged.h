/*
 * ged.h: registers behind an ACPI generic event device (ACPI0013), and the sleep and reset registers of a hardware-reduced machine.
 *
 *	0x000  32 bits  what happened since the last read: GED_POWER_BUTTON, GED_GENERATION; reading clears
 *	0x200   8 bits  sleep control: type << 2 | 0x20; type 5 (\_S5) powers off
 *	0x201   8 bits  sleep status: zero
 *	0x202   8 bits  reset: GED_RESET_VALUE reboots
 *
 * An event raises an edge on the interrupt; the AML that the guest runs then reads what it was. Sources: ACPI 6.3, sections 4.8.3.7
 * (sleep registers), 4.8.3.6 (reset register) and 5.6.9 (generic event device); QEMU's docs/specs/acpi_hw_reduced_hotplug.rst has the
 * event selector.
 */
#ifndef LODGE_DEVICE_GED_H
#define LODGE_DEVICE_GED_H

#include "bus/bus.h"

#define GED_SIZE 0x1000ull
#define GED_POWER_BUTTON 0x02u
#define GED_GENERATION 0x10000u /* Lodge's own: the VM generation identifier has changed */
#define GED_SLEEP_CONTROL 0x200u
#define GED_RESET 0x202u
#define GED_RESET_VALUE 0x42u

struct ged_opts {
	uint64_t base;
	struct irq_line irq;
};

struct device;
/* The line of another device that is reported as an event: each rising edge. `ged` is of this class. */
struct irq_line ged_line(struct device *ged, uint32_t event);

#endif
