/*
 * board_virt.c: the rv64 `virt` board (docs/machine-virt.md; addresses in virt_map.h).
 *
 * Built by a table of steps. A step that fails has undone its own part; the steps before it are then undone in reverse. The same
 * table, from its end, takes the machine apart.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sysinfo.h>

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
#include "device/rtc.h"
#include "device/uart.h"
#include "machine/board_class.h"
#include "machine/fdt.h"
#include "machine/loader.h"
#include "machine/topology.h"
#include "machine/virt_map.h"
#include "memory/frames.h"

#define PLATFORM_DEVICES 3u
#define KERNEL_OFFSET 0x200000ull /* where a kernel goes; firmware lies before it */
#define DTB_SLACK (64 * KiB) /* firmware edits the tree in place */
#define FW_DYNAMIC_MAGIC 0x4942534full
#define FW_DYNAMIC_S_MODE 1

struct virt {
	struct board board;
	const struct board_opts *opts; /* during creation only */
	struct topology topology;
	struct boot_file kernel, initrd, firmware;
	char *append;
	struct irq_cpus cpus;
	struct imsic *imsic;
	struct aplic *aplic;
	struct aclint *aclint;
	uint64_t seed, boots;
};

static bool given(const struct boot_file *f)
{
	return f->path;
}

/* Steps. */

static int shape_up(struct virt *v, struct err *e)
{
	const struct board_opts *o = v->opts;
	char a[SIZE_TEXT], b[SIZE_TEXT];
	struct sysinfo si;
	uint64_t host;
	int rc = topology_init(
		&v->topology, o->vcpus, o->nodes, virt_map[VIRT_DRAM].base, o->memory, e);

	if (rc)
		return rc;
	host = sysinfo(&si) ? UINT64_MAX : ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
	if (o->memory > host || o->memory > virt_map[VIRT_DRAM].len)
		return err_set(e, -ENOMEM, "memory %s: this host has %s; give less with --memory",
			size_text(a, o->memory), size_text(b, align_down(host, MiB)));
	v->board.topology = &v->topology;
	v->seed = o->seed;
	return 0;
}

static void files_down(struct virt *v)
{
	boot_file_close(&v->kernel);
	boot_file_close(&v->initrd);
	boot_file_close(&v->firmware);
	free(v->append);
	v->append = NULL;
}

static int files_up(struct virt *v, struct err *e)
{
	const struct board_opts *o = v->opts;
	int rc = 0;

	if (!o->kernel && !o->firmware)
		return err_set(e, -EINVAL, "nothing to boot: give --kernel or --firmware");
	if (o->initrd && !o->kernel)
		return err_set(e, -EINVAL, "initrd %s: there is no kernel to use it; give --kernel",
			o->initrd);
	if (o->kernel)
		rc = boot_file_open(&v->kernel, "kernel", o->kernel, e);
	if (!rc && o->initrd)
		rc = boot_file_open(&v->initrd, "initrd", o->initrd, e);
	if (!rc && o->firmware)
		rc = boot_file_open(&v->firmware, "firmware", o->firmware, e);
	if (!rc && o->append) {
		v->append = strdup(o->append);
		if (!v->append)
			rc = err_set(e, -ENOMEM, "no memory");
	}
	if (rc)
		files_down(v);
	return rc;
}

/* Frames for RAM, and for the tables of second-level maps. */
static int frames_up(struct virt *v, struct err *e)
{
	struct frames_opts fo = {.nodes = v->topology.nodes, .name = "lodge-ram"};

	for (unsigned n = 0; n < fo.nodes; n++) {
		uint64_t ram = v->topology.node[n].len;

		fo.node_bytes[n] = ram + space_spare_bytes(ram);
	}
	return frames_create(&v->board.frames, &fo, e);
}

static void frames_down(struct virt *v)
{
	frames_destroy(v->board.frames);
}

static int space_up(struct virt *v, struct err *e)
{
	return space_create(&v->board.space, v->board.frames, e);
}

static void space_down(struct virt *v)
{
	space_destroy(v->board.space);
}

static int ram_up(struct virt *v, struct err *e)
{
	int rc = 0;

	for (unsigned n = 0; !rc && n < v->topology.nodes; n++)
		rc = space_add_ram(v->board.space, gpa(v->topology.node[n].base),
			v->topology.node[n].len, (int)n, "ram", e);
	return rc; /* RAM goes with the space */
}

static void cpus_down(struct virt *v)
{
	v->board.engine->vm_destroy(v->board.cpu_vm);
}

static int cpus_up(struct virt *v, struct err *e)
{
	const struct board_opts *o = v->opts;
	struct board *b = &v->board;
	struct cpu_vm_opts vo = {
		.space = b->space,
		.log = o->log,
		.vcpus = o->vcpus,
		.timebase_hz = VIRT_TIMEBASE_HZ,
		.clock = o->clock,
		.jit = o->jit,
		.jit_cache = o->jit_cache,
		.perf_map = o->perf_map,
		.cpu_model = o->cpu_model,
		.builtin_firmware = !given(&v->firmware),
		.seed = o->seed,
		.wake = o->wake,
		.wake_ctx = o->ctx,
	};
	int rc = b->engine->vm_create(&b->cpu_vm, &vo, e);

	if (rc)
		return rc;
	for (; b->nvcpus < o->vcpus; b->nvcpus++) {
		rc = b->engine->vcpu_create(&b->vcpus[b->nvcpus], b->cpu_vm, b->nvcpus, e);
		if (rc) {
			cpus_down(v);
			return rc;
		}
	}
	v->cpus = (struct irq_cpus){b->engine, b->cpu_vm, b->vcpus, b->nvcpus};
	return 0;
}

static int bus_up(struct virt *v, struct err *e)
{
	return bus_create(&v->board.bus, e);
}

static void bus_down(struct virt *v)
{
	bus_destroy(v->board.bus);
}

static int imsic_up(struct virt *v, struct err *e)
{
	struct imsic_opts o = {&v->cpus, virt_map[VIRT_IMSIC_M].base, virt_map[VIRT_IMSIC_S].base};

	return imsic_create(&v->imsic, v->board.bus, &o, e);
}

static void imsic_down(struct virt *v)
{
	imsic_destroy(v->imsic);
}

static int aplic_up(struct virt *v, struct err *e)
{
	struct aplic_opts o = {
		.m_base = virt_map[VIRT_APLIC_M].base,
		.s_base = virt_map[VIRT_APLIC_S].base,
		.sources = VIRT_IRQ_SOURCES,
		.preset = !given(&v->firmware),
		.imsic_m = virt_map[VIRT_IMSIC_M].base,
		.imsic_s = virt_map[VIRT_IMSIC_S].base,
	};

	while (1u << o.hart_bits < v->cpus.count)
		o.hart_bits++;
	return aplic_create(&v->aplic, v->board.bus, &o, e);
}

static void aplic_down(struct virt *v)
{
	aplic_destroy(v->aplic);
}

static int aclint_up(struct virt *v, struct err *e)
{
	return aclint_create(&v->aclint, v->board.bus, virt_map[VIRT_ACLINT].base, &v->cpus, e);
}

static void aclint_down(struct virt *v)
{
	aclint_destroy(v->aclint);
}

static int pci_up(struct virt *v, struct err *e)
{
	const struct virt_range *mem = &virt_map[VIRT_PCI_MEM];
	struct pci_host_opts o = {
		.ecam = virt_map[VIRT_ECAM].base,
		.buses = VIRT_PCI_BUSES,
		.io_window = virt_map[VIRT_PCI_IO].base,
		.io_len = virt_map[VIRT_PCI_IO].len,
		.mem = {{BUS_MMIO, mem->base, mem->len},
			{BUS_MMIO, virt_pci_high(topology_ram_end(&v->topology)),
				VIRT_PCI_HIGH_LEN}},
	};

	for (unsigned i = 0; i < 4; i++)
		o.intx[i] = aplic_line(v->aplic, VIRT_PCI_IRQ + i);
	return pci_host_create(&v->board.pci, v->board.bus, &o, e);
}

static void pci_down(struct virt *v)
{
	pci_host_destroy(v->board.pci);
}

static int device_add(
	struct virt *v, const char *cls, const char *id, const void *opts, int slot, struct err *e)
{
	struct board *b = &v->board;
	int rc = topology_add_device(&v->topology, id, cls, 0, slot, e);

	if (!rc)
		rc = device_create(&b->devices[b->ndevices], cls, id, &b->env, opts, e);
	if (!rc)
		b->ndevices++;
	return rc;
}

static void devices_down(struct virt *v)
{
	while (v->board.ndevices)
		device_destroy(v->board.devices[--v->board.ndevices]);
	free(v->board.devices);
}

static int devices_up(struct virt *v, struct err *e)
{
	const struct board_opts *o = v->opts;
	struct board *b = &v->board;
	struct finisher_opts fin = {virt_map[VIRT_FINISHER].base};
	struct rtc_opts rtc = {
		.base = virt_map[VIRT_RTC].base, .irq = aplic_line(v->aplic, VIRT_RTC_IRQ)};
	struct uart_opts uart = {
		virt_map[VIRT_UART].base, aplic_line(v->aplic, VIRT_UART_IRQ), o->uart};
	int rc;

	b->env = (struct device_env){o->loop, b->space, b->bus, b->pci, o->log, o->seed,
		o->system_event, o->report, o->ctx, o->stop};
	b->devices = calloc(PLATFORM_DEVICES + o->ndevices, sizeof(struct device *));
	if (!b->devices)
		return err_set(e, -ENOMEM, "no memory");
	rc = device_add(v, "test-finisher", "finisher.0", &fin, -1, e);
	if (!rc)
		rc = device_add(v, "rtc-goldfish", "rtc.0", &rtc, -1, e);
	if (!rc)
		rc = device_add(v, "uart-16550", "uart.0", &uart, -1, e);
	for (unsigned i = 0; !rc && i < o->ndevices; i++)
		rc = device_add(
			v, o->devices[i].cls, o->devices[i].id, o->devices[i].opts, (int)i + 1, e);
	if (!rc)
		rc = topology_check(&v->topology, e);
	if (rc)
		devices_down(v);
	return rc;
}

static const struct step {
	int (*up)(struct virt *v, struct err *e);
	void (*down)(struct virt *v);
} steps[] = {
	{shape_up, NULL},
	{files_up, files_down},
	{frames_up, frames_down},
	{space_up, space_down},
	{ram_up, NULL},
	{cpus_up, cpus_down},
	{bus_up, bus_down},
	{imsic_up, imsic_down},
	{aplic_up, aplic_down},
	{aclint_up, aclint_down},
	{pci_up, pci_down},
	{devices_up, devices_down},
};

static void take_down(struct virt *v, size_t built)
{
	while (built--)
		if (steps[built].down)
			steps[built].down(v);
	free(v);
}

static void virt_destroy(struct board *b)
{
	take_down(b->priv, ARRAY_SIZE(steps));
}

static int virt_create(struct board **out, const struct board_opts *o, struct err *e)
{
	struct virt *v = calloc(1, sizeof(*v));
	int rc;

	if (!v)
		return err_set(e, -ENOMEM, "machine: no memory");
	v->kernel.fd = v->initrd.fd = v->firmware.fd = -1;
	v->opts = o;
	v->board.cls = &board_virt;
	v->board.engine = o->engine;
	v->board.priv = v;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		rc = steps[i].up(v, e);
		if (rc) {
			take_down(v, i);
			return rc;
		}
	}
	v->opts = NULL;
	board_reset(&v->board);
	*out = &v->board;
	return 0;
}

/* Reset and boot. */

static void virt_reset(struct board *b)
{
	struct virt *v = b->priv;
	struct cpu_boot parked = {0};

	pci_host_reset(b->pci);
	aclint_reset(v->aclint);
	aplic_reset(v->aplic);
	for (unsigned i = 0; i < b->nvcpus; i++)
		b->engine->vcpu_reset(b->vcpus[i], &parked);
}

/* splitmix64: the seed and the number of the boot give the guest's seed. */
static void make_seed(struct virt *v, uint8_t seed[32])
{
	uint64_t s = v->seed + (v->boots + 1) * 0x9e3779b97f4a7c15ull;

	if (!v->seed && getrandom(seed, 32, 0) == 32)
		return;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t z = (s += 0x9e3779b97f4a7c15ull);

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ z >> 27) * 0x94d049bb133111ebull;
		put_le64(seed + 8 * i, z ^ z >> 31);
	}
}

struct layout {
	struct loaded kernel, firmware;
	uint64_t initrd, dtb, info;
};

static int no_room(struct virt *v, const struct layout *l, uint64_t tail, struct err *e)
{
	char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT];
	uint64_t used = MAX(l->kernel.end, l->firmware.end) - v->topology.base;

	return err_set(e, -E2BIG,
		"kernel and initrd do not fit: up to %s for the kernel, %s for initrd and device "
		"tree, "
		"and there is %s; give more with --memory",
		size_text(a, align_up(used, MiB)), size_text(b, align_up(tail, MiB)),
		size_text(c, v->topology.memory));
}

/*
 * From the end of RAM down: device tree with slack for firmware, firmware's info page, initrd. The tree is page-aligned, on
 * 2 MiB where there is memory enough, as Linux' early map likes it.
 */
static int place_tail(struct virt *v, struct layout *l, size_t dtb_len, struct err *e)
{
	uint64_t top = topology_ram_end(&v->topology), low = MAX(l->kernel.end, l->firmware.end);
	uint64_t align = v->topology.memory >= 64 * MiB ? 2 * MiB : PAGE_SIZE;
	uint64_t initrd = align_up(v->initrd.size, PAGE_SIZE);
	uint64_t dtb = align_up(dtb_len + DTB_SLACK, PAGE_SIZE) + PAGE_SIZE + align;

	low = align_up(MAX(low, v->topology.base), PAGE_SIZE);
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
		.ram = v->topology.base, .ram_end = topology_ram_end(&v->topology)};
	int rc = 0;

	p.kernel = p.ram + KERNEL_OFFSET;
	if (given(&v->firmware))
		rc = loader_firmware(v->board.space, &v->firmware, &p, &l->firmware, e);
	if (!rc && given(&v->kernel))
		rc = loader_kernel(v->board.space, &v->kernel, &p, &l->kernel, e);
	if (!rc && given(&v->firmware) && given(&v->kernel) && l->firmware.end > l->kernel.start &&
		l->kernel.end > l->firmware.start)
		rc = err_set(e, -EINVAL,
			"firmware %s: it ends at 0x%llx, over the kernel at 0x%llx; use a smaller "
			"one",
			v->firmware.path, (unsigned long long)l->firmware.end,
			(unsigned long long)l->kernel.start);
	return rc;
}

static int load_tail(struct virt *v, struct layout *l, struct err *e)
{
	struct board *b = &v->board;
	struct fdt_opts fo = {
		.topology = &v->topology,
		.isa = b->engine->isa_string(b->cpu_vm),
		.mmu = b->engine->mmu_type(b->cpu_vm),
		.msi_ids = b->engine->msi_ids(b->cpu_vm),
		.firmware = given(&v->firmware),
		.bootargs = v->append,
		.initrd_len = v->initrd.size,
	};
	cleanup(free_ptr) void *dtb = NULL;
	size_t len = 0;
	int rc;

	make_seed(v, fo.rng_seed);
	rc = fdt_virt(&fo, &dtb, &len, e);
	if (!rc)
		rc = place_tail(v, l, len, e);
	if (rc)
		return rc;
	if (given(&v->initrd)) {
		/* Again, now that it is known where the initrd goes: same length. */
		fo.initrd = l->initrd;
		free_ptr(&dtb);
		dtb = NULL;
		rc = fdt_virt(&fo, &dtb, &len, e);
		if (!rc)
			rc = loader_blob(b->space, &v->initrd, l->initrd, e);
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
	if (space_write(v->board.space, gpa(l->info), info, sizeof(info)))
		return err_set(e, -EFAULT, "firmware info: no memory");
	return 0;
}

static int virt_boot(struct board *b, struct err *e)
{
	struct virt *v = b->priv;
	bool firmware = given(&v->firmware);
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
	v->boots++;
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
