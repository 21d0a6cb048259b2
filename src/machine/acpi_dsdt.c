/*
 * acpi_dsdt.c: what the machine has that cannot be found by looking: processors, the PCI host bridge, serial port, clock, power button.
 */
#include <stdio.h>

#include "device/ged.h"
#include "machine/acpi_priv.h"
#include "machine/pc_map.h"
#include "machine/topology.h"

#define UUID_PCI_OSC "33db4d5b-1ff7-401c-9657-7441c03dd766"
#define OSC_GRANTED \
	0x14u /* PME events, PCI Express capability; nothing is plugged while the machine runs */

/* Present, enabled, shown, working (6.3.7). */
static void present(struct aml *a)
{
	aml_name(a, "_STA");
	aml_int(a, 0xf);
}

static void processors(struct aml *a, const struct topology *t)
{
	for (unsigned h = 0; h < t->harts; h++) {
		char name[8];

		snprintf(name, sizeof(name), "C%03X", h & 0xfffu);
		aml_device(a, name);
		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name(a, "_UID");
		aml_int(a, h);
		present(a);
		if (t->nodes > 1) {
			aml_name(a, "_PXM");
			aml_int(a, t->hart[h].node);
		}
		aml_end(a);
	}
}

/* A link device for each pin: a routing entry by itself would say "active low" (6.2.13), and the pins are active high. */
static void pci_links(struct aml *a)
{
	for (unsigned pin = 0; pin < 4; pin++) {
		char name[] = "LNKA";

		name[3] = (char)('A' + pin);
		aml_device(a, name);
		aml_name(a, "_HID");
		aml_eisaid(a, "PNP0C0F");
		aml_name(a, "_UID");
		aml_int(a, pin);
		present(a);
		aml_name(a, "_PRS");
		aml_resources(a);
		aml_res_irq(a, PC_GSI_PCI + pin, AML_IRQ_LEVEL_SHARED);
		aml_end(a);
		aml_name(a, "_CRS");
		aml_resources(a);
		aml_res_irq(a, PC_GSI_PCI + pin, AML_IRQ_LEVEL_SHARED);
		aml_end(a);
		aml_method(a, "_SRS", 1, false); /* there is nothing to choose */
		aml_end(a);
		aml_method(a, "_DIS", 0, false);
		aml_end(a);
		aml_end(a);
	}
}

/* Four pins of each slot that has a device: nothing is plugged while the machine runs. */
static void pci_routes(struct aml *a, const struct topology *t)
{
	unsigned slots = 0;

	for (unsigned i = 0; i < t->devices; i++)
		slots += t->device[i].slot >= 0;
	aml_name(a, "_PRT");
	aml_package(a, slots * 4);
	for (unsigned i = 0; i < t->devices * 4; i++) {
		int slot = t->device[i / 4].slot;
		unsigned pin = i % 4;
		char link[] = "LNKA";

		if (slot < 0)
			continue;
		link[3] = (char)('A' + ((unsigned)slot + pin) % 4);
		aml_package(a, 4);
		aml_int(a, (uint64_t)slot << 16 | 0xffff);
		aml_int(a, pin);
		aml_path(a, link);
		aml_int(a, 0);
		aml_end(a);
	}
	aml_end(a);
}

/* What of PCI Express the guest may drive itself (6.2.11.3). */
static void pci_osc(struct aml *a)
{
	aml_method(a, "_OSC", 4, true);
	aml_dword_field(a, 3, 0, "CDW1");
	aml_if(a);
	aml_equal(a);
	aml_arg(a, 0);
	aml_uuid(a, UUID_PCI_OSC);
	aml_dword_field(a, 3, 8, "CDW3");
	aml_store(a);
	aml_path(a, "CDW3");
	aml_local(a, 0);
	aml_and(a);
	aml_local(a, 0);
	aml_int(a, OSC_GRANTED);
	aml_path(a, "CDW3");
	aml_if(a);
	aml_not(a);
	aml_equal(a);
	aml_path(a, "CDW3");
	aml_local(a, 0);
	aml_or(a);
	aml_path(a, "CDW1");
	aml_int(a, 0x10); /* not all was granted */
	aml_path(a, "CDW1");
	aml_end(a);
	aml_if(a);
	aml_not(a);
	aml_equal(a);
	aml_arg(a, 1);
	aml_int(a, 1);
	aml_or(a);
	aml_path(a, "CDW1");
	aml_int(a, 0x08); /* another revision */
	aml_path(a, "CDW1");
	aml_end(a);
	aml_end(a);
	aml_else(a);
	aml_or(a);
	aml_path(a, "CDW1");
	aml_int(a, 0x04); /* another UUID */
	aml_path(a, "CDW1");
	aml_end(a);
	aml_return(a);
	aml_arg(a, 3);
	aml_end(a);
}

static void pci(struct aml *a, const struct acpi_opts *o)
{
	const struct pc_range *mem = &pc_map[PC_PCI_MEM];

	pci_links(a);
	aml_device(a, "PCI0");
	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0A08");
	aml_name(a, "_CID");
	aml_eisaid(a, "PNP0A03");
	aml_name(a, "_SEG");
	aml_int(a, 0);
	aml_name(a, "_BBN");
	aml_int(a, 0);
	aml_name(a, "_UID");
	aml_int(a, 0);
	aml_name(a, "_CCA");
	aml_int(a, 1);
	if (o->topology->nodes > 1) {
		aml_name(a, "_PXM");
		aml_int(a, 0);
	}
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_bus_window(a, 0, PC_PCI_BUSES - 1);
	aml_res_io(a, PC_PORT_PCI, 8);
	aml_res_io_window(a, PC_PORT_PCI_IO, 0xffff);
	aml_res_memory_window(a, AML_WINDOW_MEM32, mem->base, mem->len);
	if (o->pci_high_len)
		aml_res_memory_window(a, AML_WINDOW_MEM64_PREFETCH, o->pci_high, o->pci_high_len);
	aml_end(a);
	pci_routes(a, o->topology);
	pci_osc(a);
	aml_end(a);
}

static void board_resources(struct aml *a, const struct acpi_opts *o)
{
	static const enum pc_region own[] = {PC_ECAM, PC_FINISHER, PC_RTC_MMIO, PC_VMGENID};

	aml_device(a, "MRES");
	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0C02");
	aml_name(a, "_UID");
	aml_int(a, 0);
	aml_name(a, "_CRS");
	aml_resources(a);
	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		aml_res_memory32(a, (uint32_t)pc_map[own[i]].base, (uint32_t)pc_map[own[i]].len);
	aml_res_io(a, PC_PORT_FINISHER, 4);
	if (o->full)
		aml_res_io(a, PC_PORT_PM, ACPI_PM_LEN);
	aml_end(a);
	aml_end(a);
}

static void legacy(struct aml *a)
{
	aml_device(a, "COM1");
	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0501");
	aml_name(a, "_UID");
	aml_int(a, 1);
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_io(a, PC_PORT_UART, 8);
	aml_res_irq(a, PC_GSI_UART, AML_IRQ_EDGE);
	aml_end(a);
	aml_end(a);
	aml_device(a, "RTC");
	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0B00");
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_io(a, PC_PORT_RTC, 2);
	aml_res_irq(a, PC_GSI_RTC, AML_IRQ_EDGE);
	aml_end(a);
	aml_end(a);
}

/*
 * "Virtual Machine Generation ID": found by its compatible names, the second of which is as long as ACPI allows; ADDR is where the
 * identifier is, low half first.
 */
static void generation(struct aml *a)
{
	aml_device(a, "VGEN");
	aml_name(a, "_HID");
	aml_string(a, "LODG0001");
	aml_name(a, "_CID");
	aml_package(a, 2);
	aml_string(a, "VM_Gen_Counter");
	aml_string(a, "VMGENCTR");
	aml_end(a);
	aml_name(a, "_DDN");
	aml_string(a, "VM_Gen_Counter");
	present(a);
	aml_name(a, "ADDR");
	aml_package(a, 2);
	aml_int(a, pc_map[PC_VMGENID].base);
	aml_int(a, 0);
	aml_end(a);
	aml_end(a);
}

static void notify_if(struct aml *a, uint32_t event, const char *device)
{
	aml_if(a);
	aml_and(a);
	aml_local(a, 0);
	aml_int(a, event);
	aml_no_target(a);
	aml_notify(a, device, 0x80);
	aml_end(a);
}

/* Generic event device (5.6.9): one interrupt, and a method that asks what it was. */
static void events(struct aml *a)
{
	generation(a);
	aml_device(a, "PWRB");
	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0C0C");
	aml_name(a, "_UID");
	aml_int(a, 0);
	aml_end(a);
	aml_device(a, "GED");
	aml_name(a, "_HID");
	aml_string(a, "ACPI0013");
	aml_name(a, "_UID");
	aml_int(a, 0);
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_irq(a, PC_GSI_GED, AML_IRQ_EDGE);
	aml_end(a);
	aml_region(a, "EREG", AML_SYSTEM_MEMORY, pc_map[PC_GED].base, 4);
	aml_field(a, "EREG", "ESEL", 32);
	aml_method(a, "_EVT", 1, true);
	aml_store(a);
	aml_path(a, "ESEL");
	aml_local(a, 0);
	notify_if(a, GED_POWER_BUTTON, "PWRB");
	notify_if(a, GED_GENERATION, "VGEN");
	aml_end(a);
	aml_end(a);
}

int acpi_dsdt(const struct acpi_opts *o, struct aml *a, struct err *e)
{
	aml_name(a, "\\_S5");
	aml_package(a, 4);
	for (unsigned i = 0; i < 4; i++)
		aml_int(a, i < 2 ? ACPI_S5_TYPE : 0);
	aml_end(a);
	aml_scope(a, "\\_SB");
	events(a);
	processors(a, o->topology);
	board_resources(a, o);
	pci(a, o);
	legacy(a);
	aml_end(a);
	return aml_finish(a, e);
}
