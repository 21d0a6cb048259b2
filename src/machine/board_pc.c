/*
 * board_pc.c: the amd64 `pc` board (docs/machine-pc.md; addresses in pc_map.h).
 *
 * Built by a table of steps, as board_virt.c. It has no interrupt controllers: they are inside the engine, and are reached by global
 * interrupt number (wired) and by address and data (messages).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/pci.h"
#include "device/finisher.h"
#include "device/ged.h"
#include "device/clock/rtc.h"
#include "device/clock/rtc_cmos.h"
#include "device/uart.h"
#include "device/vmgenid/vmgenid.h"
#include "machine/acpi.h"
#include "machine/board_class.h"
#include "machine/board_parts.h"
#include "machine/loader_x86.h"
#include "machine/pc_map.h"
#include "machine/pc_ports.h"

_Static_assert(CPU_X86_IOAPIC == 0xfec00000 && CPU_X86_LAPIC == 0xfee00000, "pc_map.h");

struct pc {
	struct board_parts p; /* first */
	struct pc_ports *ports;
	struct bus_region msi; /* where message interrupts are stored to */
};

static struct pc *of(struct board_parts *p)
{
	return container_of(p, struct pc, p);
}

/* Steps. */

static int shape_up(struct board_parts *parts, struct err *e)
{
	struct pc *c = of(parts);
	const struct board_opts *o = c->p.opts;
	const struct topology_range hole = {
		pc_map[PC_LOW_RAM].len, pc_map[PC_HIGH_RAM].base - pc_map[PC_LOW_RAM].len};
	int rc = topology_init_hole(
		&c->p.topology, o->vcpus, o->nodes, pc_map[PC_LOW_RAM].base, o->memory, &hole, e);

	c->p.board.topology = &c->p.topology;
	if (!rc && o->firmware)
		rc = err_set(e, -ENOTSUP,
			"firmware %s: the pc board starts kernels directly; give --kernel",
			o->firmware);
	if (!rc && (!o->engine->vm_irq || !o->engine->vm_msi))
		rc = err_set(e, -ENOTSUP,
			"engine %s has no interrupt controllers, which the pc board needs",
			o->engine->name);
	return rc ?: parts_check_memory(&c->p, pc_map[PC_HIGH_RAM].len, e);
}

/* As many cores a package as divide every node: a package never lies in two nodes. */
static unsigned package_cores(const struct topology *t)
{
	unsigned a = t->node[0].harts;

	for (unsigned n = 1; n < t->nodes; n++)
		for (unsigned b = t->node[n].harts; b;) {
			unsigned rest = a % b;

			a = b;
			b = rest;
		}
	return a;
}

static int cpus_up(struct board_parts *parts, struct err *e)
{
	struct pc *c = of(parts);
	struct cpu_vm_opts vo = {.cores = package_cores(&c->p.topology)};

	return parts_cpus_up(&c->p, &vo, e);
}

/* vCPUs have their local APIC inside the engine: what comes here is sent by devices. */
static uint64_t msi_read(void *dev, uint64_t off, unsigned size)
{
	return 0;
}

static void msi_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pc *c = dev;

	c->p.board.engine->vm_msi(c->p.board.cpu_vm, CPU_X86_LAPIC + off, (uint32_t)val);
}

static const struct bus_ops msi_ops = {
	.read = msi_read, .write = msi_write, .min_size = 4, .max_size = 4, .msi_sink = true};

static int msi_up(struct board_parts *parts, struct err *e)
{
	struct pc *c = of(parts);

	c->msi = (struct bus_region){.name = "lapic-messages",
		.ops = &msi_ops,
		.dev = c,
		.base = pc_map[PC_LAPIC].base,
		.len = pc_map[PC_LAPIC].len};
	return bus_claim(c->p.board.bus, &c->msi, e);
}

static void msi_down(struct board_parts *parts)
{
	bus_release(parts->board.bus, &of(parts)->msi);
}

static void wired(void *ctrl, unsigned gsi, bool level)
{
	struct pc *c = ctrl;

	c->p.board.engine->vm_irq(c->p.board.cpu_vm, gsi, level);
}

static struct irq_line line(struct pc *c, unsigned gsi)
{
	return (struct irq_line){wired, c, gsi};
}

static int pci_up(struct board_parts *parts, struct err *e)
{
	struct pc *c = of(parts);
	const struct pc_range *mem = &pc_map[PC_PCI_MEM];
	struct pci_host_opts o = {
		.ecam = pc_map[PC_ECAM].base,
		.buses = PC_PCI_BUSES,
		.io_len = 0x10000,
		.mem = {{BUS_MMIO, mem->base, mem->len},
			{BUS_MMIO, pc_pci_high(topology_ram_end(&c->p.topology)), PC_PCI_HIGH_LEN}},
	};

	for (unsigned i = 0; i < 4; i++)
		o.intx[i] = line(c, PC_GSI_PCI + i);
	return pci_host_create(&c->p.board.pci, c->p.board.bus, &o, e);
}

static int ports_up(struct board_parts *parts, struct err *e)
{
	struct pc *c = of(parts);
	struct pc_ports_opts o = {c->p.board.bus, c->p.board.pci, PC_PORT_PCI,
		c->p.opts->system_event, c->p.opts->ctx};

	return pc_ports_create(&c->ports, &o, e);
}

static void ports_down(struct board_parts *parts)
{
	pc_ports_destroy(of(parts)->ports);
}

/* What other devices have to say through the event device, which is the first of the list. */
static void event(void *ctrl, unsigned what, bool level)
{
	const struct pc *c = ctrl;
	struct irq_line l = ged_line(c->p.board.devices[0], what);

	irq_set(&l, level);
}

static int devices_up(struct board_parts *parts, struct err *e)
{
	struct pc *c = of(parts);
	struct finisher_opts fin = {pc_map[PC_FINISHER].base, BUS_MMIO};
	struct finisher_opts fin_port = {PC_PORT_FINISHER, BUS_PIO};
	struct rtc_opts rtc = {.base = pc_map[PC_RTC_MMIO].base, .irq = line(c, PC_GSI_RTC_MMIO)};
	struct rtc_cmos_opts cmos = {.port = PC_PORT_RTC, .irq = line(c, PC_GSI_RTC)};
	struct uart_opts uart = {PC_PORT_UART, line(c, PC_GSI_UART), c->p.opts->uart, BUS_PIO};
	struct ged_opts ged = {pc_map[PC_GED].base, line(c, PC_GSI_GED)};
	struct vmgenid_opts gen = {pc_map[PC_VMGENID].base, {event, c, GED_GENERATION}};
	const struct board_device platform[] = {
		{"acpi-ged", "ged.0", &ged},
		{"vmgenid", "vmgenid.0", &gen},
		{"test-finisher", "finisher.0", &fin},
		{"test-finisher", "finisher.1", &fin_port},
		{"rtc-goldfish", "rtc.0", &rtc},
		{"rtc-cmos", "rtc.1", &cmos},
		{"uart-16550", "uart.0", &uart},
	};

	return parts_devices_up(&c->p, platform, ARRAY_SIZE(platform), e);
}

static const struct board_step steps[] = {
	{shape_up, NULL},
	{parts_files_up, parts_files_down},
	{parts_memory_up, parts_memory_down},
	{cpus_up, parts_cpus_down},
	{parts_bus_up, parts_bus_down},
	{msi_up, msi_down},
	{pci_up, parts_pci_down},
	{ports_up, ports_down},
	{devices_up, parts_devices_down},
};

static void pc_destroy(struct board *b)
{
	parts_take_down(b, steps, ARRAY_SIZE(steps));
}

static int pc_create(struct board **out, const struct board_opts *o, struct err *e)
{
	return parts_build(out, &board_pc, sizeof(struct pc), steps, ARRAY_SIZE(steps), o, e);
}

/* Reset and boot. */

static void pc_reset(struct board *b)
{
	struct pc *c = b->priv;

	pci_host_reset(b->pci);
	pc_ports_reset(c->ports);
	parts_cpus_reset(&c->p);
}

static int make_tables(struct board *b, struct acpi_tables *t, struct err *e)
{
	struct pc *c = b->priv;
	struct acpi_opts o = {.topology = &c->p.topology,
		.base = PC_ACPI,
		.max = PC_ACPI_MAX,
		.pci_high = pc_pci_high(topology_ram_end(&c->p.topology)),
		.pci_high_len = PC_PCI_HIGH_LEN};

	for (unsigned i = 0; i < b->nvcpus; i++)
		o.apic_id[i] = cpu_hw_id(b->engine, b->cpu_vm, i);
	return acpi_build(&o, t, e);
}

static int load_tables(struct board *b, struct err *e)
{
	struct acpi_tables t;
	int rc = make_tables(b, &t, e);

	if (!rc && space_write(b->space, gpa(PC_ACPI), t.blob, t.len))
		rc = err_set(e, -EFAULT, "ACPI tables: no memory at 0x%llx", PC_ACPI);
	acpi_free(&t);
	return rc;
}

static int load(struct board *b, struct x86_kernel *k, struct err *e)
{
	struct pc *c = b->priv;
	uint64_t low_end = topology_low_end(&c->p.topology);
	struct x86_boot boot = {.topology = &c->p.topology,
		.cmdline = c->p.append,
		.initrd_len = c->p.initrd.path ? c->p.initrd.size : 0,
		.rsdp = PC_ACPI};
	int rc = x86_kernel_load(b->space, &c->p.kernel, low_end, k, e);

	if (!rc && boot.initrd_len) {
		rc = x86_initrd_place(k, &c->p.initrd, low_end, &boot.initrd, e);
		if (!rc)
			rc = loader_blob(b->space, &c->p.initrd, boot.initrd, e);
	}
	if (!rc)
		rc = load_tables(b, e);
	if (rc)
		return rc;
	parts_boot_seed(&c->p, boot.seed);
	return x86_boot_write(b->space, k, &boot, e);
}

static int pc_boot(struct board *b, struct err *e)
{
	struct pc *c = b->priv;
	struct x86_kernel k;
	int rc = load(b, &k, e);

	if (rc)
		return rc;
	for (unsigned i = 0; i < b->nvcpus; i++) {
		struct cpu_boot boot = {
			.pc = k.entry,
			.arg0 = k.pvh ? PC_START_INFO : PC_ZERO_PAGE,
			.running = !i,
			.mode = k.pvh ? CPU_BOOT_PVH : CPU_BOOT_LONG,
			.tables = PC_PAGE_TABLES,
			.stack = PC_STACK,
		};

		b->engine->vcpu_reset(b->vcpus[i], &boot);
	}
	c->p.boots++;
	return 0;
}

static unsigned pc_state(struct board *b, struct state_obj *objs, unsigned max)
{
	struct pc *c = b->priv;

	objs[0] = (struct state_obj){"pci", &pci_host_state, b->pci};
	objs[1] = (struct state_obj){"pci-ports", &pc_ports_state, c->ports};
	return 2;
}

static int pc_tables(struct board *b,
	void (*each)(void *ctx, const char *name, const void *bytes, size_t len), void *ctx,
	struct err *e)
{
	struct acpi_tables t;
	int rc = make_tables(b, &t, e);

	for (unsigned i = 0; !rc && i < t.n; i++)
		each(ctx, t.table[i].name, t.blob + t.table[i].off, t.table[i].len);
	acpi_free(&t);
	return rc;
}

const struct board_class board_pc = {
	.name = "pc",
	.isa = "x86-64",
	.create = pc_create,
	.destroy = pc_destroy,
	.boot = pc_boot,
	.reset = pc_reset,
	.state = pc_state,
	.tables = pc_tables,
};
