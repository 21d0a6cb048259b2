/*
 * board_virt.c: the rv64 `virt` board (docs/machine-virt.md; addresses in virt_map.h).
 *
 * Built by a table of steps. A step that fails has undone its own part; the steps before it are then undone in reverse. The same
 * table, from its end, takes the machine apart.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/size.h"
#include "base/util.h"
#include "bus/aclint.h"
#include "bus/aplic.h"
#include "bus/imsic.h"
#include "bus/pci.h"
#include "device/finisher.h"
#include "device/clock/rtc.h"
#include "device/uart.h"
#include "device/vmgenid/vmgenid.h"
#include "machine/board_class.h"
#include "machine/board_parts.h"
#include "machine/fdt.h"
#include "machine/loader.h"
#include "machine/topology.h"
#include "machine/virt_map.h"

#define KERNEL_OFFSET 0x200000ull /* where a kernel goes; firmware lies before it */
#define DTB_SLACK (64 * KiB) /* firmware edits the tree in place */
#define FW_DYNAMIC_MAGIC 0x4942534full
#define FW_DYNAMIC_S_MODE 1

struct virt {
	struct board_parts p; /* first */
	struct irq_cpus cpus;
	struct imsic *imsic;
	struct aplic *aplic;
	struct aclint *aclint;
};

static struct virt *of(struct board_parts *p)
{
	return container_of(p, struct virt, p);
}

/* Steps. */

static int shape_up(struct board_parts *parts, struct err *e)
{
	struct virt *v = of(parts);
	const struct board_opts *o = v->p.opts;
	int rc = topology_init(
		&v->p.topology, o->vcpus, o->nodes, virt_map[VIRT_DRAM].base, o->memory, e);

	v->p.board.topology = &v->p.topology;
	return rc ?: parts_check_memory(&v->p, virt_map[VIRT_DRAM].len, e);
}

static int cpus_up(struct board_parts *parts, struct err *e)
{
	struct virt *v = of(parts);
	struct board *b = &v->p.board;
	struct cpu_vm_opts vo = {
		.timebase_hz = VIRT_TIMEBASE_HZ, .builtin_firmware = !parts_given(&v->p.firmware)};
	int rc = parts_cpus_up(&v->p, &vo, e);

	if (!rc)
		v->cpus = (struct irq_cpus){b->engine, b->cpu_vm, b->vcpus, b->nvcpus};
	return rc;
}

static int imsic_up(struct board_parts *parts, struct err *e)
{
	struct virt *v = of(parts);
	struct imsic_opts o = {&v->cpus, virt_map[VIRT_IMSIC_M].base, virt_map[VIRT_IMSIC_S].base};

	return imsic_create(&v->imsic, v->p.board.bus, &o, e);
}

static void imsic_down(struct board_parts *parts)
{
	imsic_destroy(of(parts)->imsic);
}

static int aplic_up(struct board_parts *parts, struct err *e)
{
	struct virt *v = of(parts);
	struct aplic_opts o = {
		.m_base = virt_map[VIRT_APLIC_M].base,
		.s_base = virt_map[VIRT_APLIC_S].base,
		.sources = VIRT_IRQ_SOURCES,
		.preset = !parts_given(&v->p.firmware),
		.imsic_m = virt_map[VIRT_IMSIC_M].base,
		.imsic_s = virt_map[VIRT_IMSIC_S].base,
	};

	while (1u << o.hart_bits < v->cpus.count)
		o.hart_bits++;
	return aplic_create(&v->aplic, v->p.board.bus, &o, e);
}

static void aplic_down(struct board_parts *parts)
{
	aplic_destroy(of(parts)->aplic);
}

static int aclint_up(struct board_parts *parts, struct err *e)
{
	struct virt *v = of(parts);

	return aclint_create(&v->aclint, v->p.board.bus, virt_map[VIRT_ACLINT].base, &v->cpus, e);
}

static void aclint_down(struct board_parts *parts)
{
	aclint_destroy(of(parts)->aclint);
}

static int pci_up(struct board_parts *parts, struct err *e)
{
	struct virt *v = of(parts);
	const struct virt_range *mem = &virt_map[VIRT_PCI_MEM];
	struct pci_host_opts o = {
		.ecam = virt_map[VIRT_ECAM].base,
		.buses = VIRT_PCI_BUSES,
		.io_window = virt_map[VIRT_PCI_IO].base,
		.io_len = virt_map[VIRT_PCI_IO].len,
		.mem = {{BUS_MMIO, mem->base, mem->len},
			{BUS_MMIO, virt_pci_high(topology_ram_end(&v->p.topology)),
				VIRT_PCI_HIGH_LEN}},
	};

	for (unsigned i = 0; i < 4; i++)
		o.intx[i] = aplic_line(v->aplic, VIRT_PCI_IRQ + i);
	return pci_host_create(&v->p.board.pci, v->p.board.bus, &o, e);
}

static int devices_up(struct board_parts *parts, struct err *e)
{
	struct virt *v = of(parts);
	struct board_parts *p = &v->p;
	struct finisher_opts fin = {virt_map[VIRT_FINISHER].base};
	struct rtc_opts rtc = {
		.base = virt_map[VIRT_RTC].base, .irq = aplic_line(v->aplic, VIRT_RTC_IRQ)};
	struct uart_opts uart = {
		virt_map[VIRT_UART].base, aplic_line(v->aplic, VIRT_UART_IRQ), p->opts->uart};
	struct vmgenid_opts gen = {
		virt_map[VIRT_VMGENID].base, aplic_line(v->aplic, VIRT_VMGENID_IRQ)};
	const struct board_device platform[] = {
		{"test-finisher", "finisher.0", &fin},
		{"rtc-goldfish", "rtc.0", &rtc},
		{"uart-16550", "uart.0", &uart},
		{"vmgenid", "vmgenid.0", &gen},
	};

	return parts_devices_up(p, platform, ARRAY_SIZE(platform), e);
}

static const struct board_step steps[] = {
	{shape_up, NULL},
	{parts_files_up, parts_files_down},
	{parts_memory_up, parts_memory_down},
	{cpus_up, parts_cpus_down},
	{parts_bus_up, parts_bus_down},
	{imsic_up, imsic_down},
	{aplic_up, aplic_down},
	{aclint_up, aclint_down},
	{pci_up, parts_pci_down},
	{devices_up, parts_devices_down},
};

static void virt_destroy(struct board *b)
{
	parts_take_down(b, steps, ARRAY_SIZE(steps));
}

static int virt_create(struct board **out, const struct board_opts *o, struct err *e)
{
	return parts_build(out, &board_virt, sizeof(struct virt), steps, ARRAY_SIZE(steps), o, e);
}

/* Reset and boot. */

static void virt_reset(struct board *b)
{
	struct virt *v = b->priv;

	pci_host_reset(b->pci);
	aclint_reset(v->aclint);
	aplic_reset(v->aplic);
	parts_cpus_reset(&v->p);
}

struct layout {
	struct loaded kernel, firmware;
	uint64_t initrd, dtb, info;
};

static int no_room(struct virt *v, const struct layout *l, uint64_t tail, struct err *e)
{
	char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT];
	uint64_t used = MAX(l->kernel.end, l->firmware.end) - v->p.topology.base;

	return err_set(e, -E2BIG,
		"kernel and initrd do not fit: up to %s for the kernel, %s for initrd and device "
		"tree, "
		"and there is %s; give more with --memory",
		size_text(a, align_up(used, MiB)), size_text(b, align_up(tail, MiB)),
		size_text(c, v->p.topology.memory));
}

/*
 * From the end of RAM down: device tree with slack for firmware, firmware's info page, initrd. The tree is page-aligned, on
 * 2 MiB where there is memory enough, as Linux' early map likes it.
 */
static int place_tail(struct virt *v, struct layout *l, size_t dtb_len, struct err *e)
{
	uint64_t top = topology_ram_end(&v->p.topology), low = MAX(l->kernel.end, l->firmware.end);
	uint64_t align = v->p.topology.memory >= 64 * MiB ? 2 * MiB : PAGE_SIZE;
	uint64_t initrd = align_up(v->p.initrd.size, PAGE_SIZE);
	uint64_t dtb = align_up(dtb_len + DTB_SLACK, PAGE_SIZE) + PAGE_SIZE + align;

	low = align_up(MAX(low, v->p.topology.base), PAGE_SIZE);
	if (initrd > top - low || dtb > top - low - initrd)
		return no_room(v, l, initrd + dtb, e);
	l->dtb = align_down(top - dtb_len - DTB_SLACK, align);
	l->info = l->dtb - PAGE_SIZE;
	l->initrd = l->info - initrd;
	return 0;
}

static int load_images(struct virt *v, struct layout *l, struct err *e)
{
	struct loader_place p = {
		.ram = v->p.topology.base, .ram_end = topology_ram_end(&v->p.topology)};
	int rc = 0;

	p.kernel = p.ram + KERNEL_OFFSET;
	if (parts_given(&v->p.firmware))
		rc = loader_firmware(v->p.board.space, &v->p.firmware, &p, &l->firmware, e);
	if (!rc && parts_given(&v->p.kernel))
		rc = loader_kernel(v->p.board.space, &v->p.kernel, &p, &l->kernel, e);
	if (!rc && parts_given(&v->p.firmware) && parts_given(&v->p.kernel) &&
		l->firmware.end > l->kernel.start && l->kernel.end > l->firmware.start)
		rc = err_set(e, -EINVAL,
			"firmware %s: it ends at 0x%llx, over the kernel at 0x%llx; use a smaller "
			"one",
			v->p.firmware.path, (unsigned long long)l->firmware.end,
			(unsigned long long)l->kernel.start);
	return rc;
}

static int load_tail(struct virt *v, struct layout *l, struct err *e)
{
	struct board *b = &v->p.board;
	struct fdt_opts fo = {
		.topology = &v->p.topology,
		.isa = b->engine->isa_string(b->cpu_vm),
		.mmu = b->engine->mmu_type(b->cpu_vm),
		.msi_ids = b->engine->msi_ids(b->cpu_vm),
		.firmware = parts_given(&v->p.firmware),
		.bootargs = v->p.append,
		.initrd_len = v->p.initrd.size,
	};
	cleanup(free_ptr) void *dtb = NULL;
	size_t len = 0;
	int rc;

	parts_boot_seed(&v->p, fo.rng_seed);
	rc = fdt_virt(&fo, &dtb, &len, e);
	if (!rc)
		rc = place_tail(v, l, len, e);
	if (rc)
		return rc;
	if (parts_given(&v->p.initrd)) {
		/* Again, now that it is known where the initrd goes: same length. */
		fo.initrd = l->initrd;
		free_ptr(&dtb);
		dtb = NULL;
		rc = fdt_virt(&fo, &dtb, &len, e);
		if (!rc)
			rc = loader_blob(b->space, &v->p.initrd, l->initrd, e);
		if (rc)
			return rc;
	}
	if (space_write(b->space, gpa(l->dtb), dtb, len))
		return err_set(
			e, -EFAULT, "device tree: no memory at 0x%llx", (unsigned long long)l->dtb);
	return 0;
}

/* OpenSBI's struct fw_dynamic_info, version 2 (docs/firmware/fw_dynamic.md). */
static int write_info(struct virt *v, const struct layout *l, struct err *e)
{
	uint8_t info[48];

	put_le64(info, FW_DYNAMIC_MAGIC);
	put_le64(info + 8, 2);
	put_le64(info + 16, l->kernel.entry);
	put_le64(info + 24, FW_DYNAMIC_S_MODE);
	put_le64(info + 32, 0); /* options */
	put_le64(info + 40, 0); /* hart 0 boots: no lot is drawn, which a late hart could spoil */
	if (space_write(v->p.board.space, gpa(l->info), info, sizeof(info)))
		return err_set(e, -EFAULT, "firmware info: no memory");
	return 0;
}

static int virt_boot(struct board *b, struct err *e)
{
	struct virt *v = b->priv;
	bool firmware = parts_given(&v->p.firmware);
	struct layout l = {0};
	int rc = load_images(v, &l, e);

	if (!rc)
		rc = load_tail(v, &l, e);
	if (!rc && firmware)
		rc = write_info(v, &l, e);
	if (rc)
		return rc;
	for (unsigned i = 0; i < b->nvcpus; i++) {
		struct cpu_boot boot = {
			.pc = firmware ? l.firmware.entry : l.kernel.entry,
			.arg0 = i,
			.arg1 = l.dtb,
			.arg2 = firmware ? l.info : 0,
			.running = firmware || !i,
		};

		b->engine->vcpu_reset(b->vcpus[i], &boot);
	}
	v->p.boots++;
	return 0;
}

static unsigned virt_state(struct board *b, struct state_obj *objs, unsigned max)
{
	struct virt *v = b->priv;

	objs[0] = (struct state_obj){"aplic", &aplic_state, v->aplic};
	objs[1] = (struct state_obj){"aclint", &aclint_state, v->aclint};
	objs[2] = (struct state_obj){"pci", &pci_host_state, b->pci};
	return 3;
}

const struct board_class board_virt = {
	.name = "virt",
	.isa = "riscv64",
	.create = virt_create,
	.destroy = virt_destroy,
	.boot = virt_boot,
	.reset = virt_reset,
	.state = virt_state,
};
