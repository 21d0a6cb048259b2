#include "machine/fdt.h"

#include <errno.h>
#include <libfdt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "machine/topology.h"
#include "machine/virt_map.h"

/* Phandles. A hart's is 1 + its id, its interrupt controller's HART_INTC + its id. */
enum { HART = 1, HART_INTC = 0x1000, IMSIC_M = 0x2000, IMSIC_S, APLIC_M, APLIC_S, FINISHER };
enum { IRQ_EDGE_RISING = 1, IRQ_LEVEL_HIGH = 4 }; /* second cell of an APLIC interrupt */
enum { HART_M_SOFT = 3, HART_M_TIMER = 7, HART_S_EXT = 9, HART_M_EXT = 11 };

/* The first error sticks; later calls do nothing, and one check at the end is enough. */
struct writer {
	const struct fdt_opts *o;
	char *buf;
	int rc;
};

static void keep(struct writer *w, int rc)
{
	if (!w->rc)
		w->rc = rc;
}

static void begin(struct writer *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void begin(struct writer *w, const char *fmt, ...)
{
	char name[48];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	if (!w->rc)
		keep(w, fdt_begin_node(w->buf, name));
}

static void end(struct writer *w)
{
	if (!w->rc)
		keep(w, fdt_end_node(w->buf));
}

static void bytes(struct writer *w, const char *name, const void *p, size_t len)
{
	if (!w->rc)
		keep(w, fdt_property(w->buf, name, p, (int)len));
}

static void text(struct writer *w, const char *name, const char *s)
{
	bytes(w, name, s, strlen(s) + 1);
}

static void flag(struct writer *w, const char *name)
{
	bytes(w, name, NULL, 0);
}

static void u32(struct writer *w, const char *name, uint32_t v)
{
	uint8_t cell[4];

	put_be32(cell, v);
	bytes(w, name, cell, sizeof(cell));
}

static void u32s(struct writer *w, const char *name, const uint32_t *v, size_t n)
{
	uint8_t *cells = NULL;

	if (!w->rc)
		keep(w, fdt_property_placeholder(w->buf, name, (int)(4 * n), (void **)&cells));
	for (size_t i = 0; !w->rc && i < n; i++)
		put_be32(cells + 4 * i, v[i]);
}

#define CELLS(w, name, ...) \
	u32s(w, name, (const uint32_t[]){__VA_ARGS__}, \
		sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))
#define HI(v) (uint32_t)((uint64_t)(v) >> 32)
#define LO(v) (uint32_t)(v)

static void reg(struct writer *w, uint64_t base, uint64_t len)
{
	CELLS(w, "reg", HI(base), LO(base), HI(len), LO(len));
}

static void region(struct writer *w, enum virt_region r)
{
	reg(w, virt_map[r].base, virt_map[r].len);
}

static void numa(struct writer *w, unsigned node)
{
	if (w->o->topology->nodes > 1)
		u32(w, "numa-node-id", node);
}

static bool has_ext(const char *isa, const char *ext)
{
	size_t n = strlen(ext);

	for (const char *p = strchr(isa, '_'); p; p = strchr(p + 1, '_'))
		if (!strncmp(p + 1, ext, n) && (!p[1 + n] || p[1 + n] == '_'))
			return true;
	return false;
}

/* "rv64imac_zba_zbb" -> "i\0m\0a\0c\0zba\0zbb" */
static void isa_extensions(struct writer *w, const char *isa)
{
	char list[2048];
	size_t n = 0;
	const char *p = isa + 4;

	for (; *p && *p != '_' && n + 2 < sizeof(list); p++) {
		list[n++] = *p;
		list[n++] = 0;
	}
	while (*p == '_' && n + 2 < sizeof(list)) {
		for (p++; *p && *p != '_' && n + 2 < sizeof(list); p++)
			list[n++] = *p;
		list[n++] = 0;
	}
	bytes(w, "riscv,isa-extensions", list, n);
}

static void cpu(struct writer *w, unsigned h)
{
	const char *isa = w->o->isa;

	begin(w, "cpu@%x", h);
	text(w, "device_type", "cpu");
	u32(w, "reg", h);
	text(w, "status", "okay");
	text(w, "compatible", "riscv");
	text(w, "riscv,isa", isa);
	text(w, "riscv,isa-base", "rv64i");
	isa_extensions(w, isa);
	if (has_ext(isa, "zicbom"))
		u32(w, "riscv,cbom-block-size", 64);
	if (has_ext(isa, "zicboz"))
		u32(w, "riscv,cboz-block-size", 64);
	if (has_ext(isa, "zicbop"))
		u32(w, "riscv,cbop-block-size", 64);
	text(w, "mmu-type", w->o->mmu);
	numa(w, w->o->topology->hart[h].node);
	u32(w, "phandle", HART + h);
	begin(w, "interrupt-controller");
	u32(w, "#address-cells", 0);
	u32(w, "#interrupt-cells", 1);
	flag(w, "interrupt-controller");
	text(w, "compatible", "riscv,cpu-intc");
	u32(w, "phandle", HART_INTC + h);
	end(w);
	end(w);
}

static void cpus(struct writer *w)
{
	const struct topology *t = w->o->topology;

	begin(w, "cpus");
	u32(w, "#address-cells", 1);
	u32(w, "#size-cells", 0);
	u32(w, "timebase-frequency", VIRT_TIMEBASE_HZ);
	for (unsigned h = 0; h < t->harts; h++)
		cpu(w, h);
	begin(w, "cpu-map");
	for (unsigned n = 0; n < t->nodes; n++) {
		if (!t->node[n].harts)
			continue;
		begin(w, "cluster%u", n);
		for (unsigned c = 0; c < t->node[n].harts; c++) {
			begin(w, "core%u", c);
			u32(w, "cpu", HART + t->node[n].first_hart + c);
			end(w);
		}
		end(w);
	}
	end(w);
	end(w);
}

static void memory(struct writer *w)
{
	const struct topology *t = w->o->topology;
	uint32_t map[3 * TOPOLOGY_NODES * TOPOLOGY_NODES];
	unsigned k = 0;

	for (unsigned n = 0; n < t->nodes; n++) {
		begin(w, "memory@%llx", (unsigned long long)t->node[n].base);
		text(w, "device_type", "memory");
		reg(w, t->node[n].base, t->node[n].len);
		numa(w, n);
		end(w);
	}
	if (t->nodes < 2)
		return;
	for (unsigned n = 0; n < t->nodes; n++)
		for (unsigned m = 0; m < t->nodes; m++) {
			map[k++] = n;
			map[k++] = m;
			map[k++] = t->distance[n][m];
		}
	begin(w, "distance-map");
	text(w, "compatible", "numa-distance-map-v1");
	u32s(w, "distance-matrix", map, k);
	end(w);
}

static void chosen(struct writer *w)
{
	const struct fdt_opts *o = w->o;
	uint64_t stop = o->initrd + o->initrd_len;

	begin(w, "chosen");
	text(w, "stdout-path", "/soc/serial@10000000");
	if (o->bootargs)
		text(w, "bootargs", o->bootargs);
	if (o->initrd_len) {
		CELLS(w, "linux,initrd-start", HI(o->initrd), LO(o->initrd));
		CELLS(w, "linux,initrd-end", HI(stop), LO(stop));
	}
	bytes(w, "rng-seed", o->rng_seed, sizeof(o->rng_seed));
	end(w);
	begin(w, "aliases");
	text(w, "serial0", "/soc/serial@10000000");
	end(w);
}

static void power(struct writer *w, const char *name, const char *compatible, uint32_t value)
{
	begin(w, "%s", name);
	text(w, "compatible", compatible);
	u32(w, "regmap", FINISHER);
	u32(w, "offset", 0);
	u32(w, "value", value);
	end(w);
}

static void harts_extended(struct writer *w, const uint32_t *lines, unsigned per_hart)
{
	uint32_t list[4 * CPU_MAX_VCPUS];
	unsigned n = 0;

	for (unsigned h = 0; h < w->o->topology->harts; h++)
		for (unsigned i = 0; i < per_hart; i++) {
			list[n++] = HART_INTC + h;
			list[n++] = lines[i];
		}
	u32s(w, "interrupts-extended", list, n);
}

static void imsic(struct writer *w, enum virt_region r, uint32_t phandle, uint32_t line)
{
	unsigned harts = w->o->topology->harts, bits = 0;

	while (1u << bits < harts)
		bits++;
	begin(w, "interrupt-controller@%llx", (unsigned long long)virt_map[r].base);
	text(w, "compatible", "riscv,imsics");
	reg(w, virt_map[r].base, (uint64_t)harts << 12);
	u32(w, "#address-cells", 0);
	u32(w, "#interrupt-cells", 0);
	flag(w, "interrupt-controller");
	flag(w, "msi-controller");
	u32(w, "#msi-cells", 0);
	harts_extended(w, &line, 1);
	u32(w, "riscv,num-ids", w->o->msi_ids);
	u32(w, "riscv,hart-index-bits", bits);
	u32(w, "phandle", phandle);
	end(w);
}

static void aplic(struct writer *w, enum virt_region r, uint32_t phandle, uint32_t msi_parent)
{
	begin(w, "interrupt-controller@%llx", (unsigned long long)virt_map[r].base);
	text(w, "compatible", "riscv,aplic");
	region(w, r);
	u32(w, "#interrupt-cells", 2);
	u32(w, "#address-cells", 0);
	flag(w, "interrupt-controller");
	u32(w, "msi-parent", msi_parent);
	u32(w, "riscv,num-sources", VIRT_IRQ_SOURCES);
	if (phandle == APLIC_M) {
		u32(w, "riscv,children", APLIC_S);
		/* Linux' binding, and the name by which older firmware knows it. */
		CELLS(w, "riscv,delegation", APLIC_S, 1, VIRT_IRQ_SOURCES);
		CELLS(w, "riscv,delegate", APLIC_S, 1, VIRT_IRQ_SOURCES);
	}
	u32(w, "phandle", phandle);
	end(w);
}

static void machine_level(struct writer *w)
{
	static const uint32_t lines[] = {HART_M_SOFT, HART_M_TIMER};

	imsic(w, VIRT_IMSIC_M, IMSIC_M, HART_M_EXT);
	aplic(w, VIRT_APLIC_M, APLIC_M, IMSIC_M);
	begin(w, "clint@%llx", (unsigned long long)virt_map[VIRT_ACLINT].base);
	bytes(w, "compatible", "sifive,clint0\0riscv,clint0", 27);
	region(w, VIRT_ACLINT);
	harts_extended(w, lines, 2);
	end(w);
}

static void pci_interrupts(struct writer *w)
{
	uint32_t map[4 * 4 * 7];
	unsigned n = 0;

	for (uint32_t slot = 0; slot < 4; slot++)
		for (uint32_t pin = 0; pin < 4; pin++) {
			map[n++] = slot << 11;
			map[n++] = 0;
			map[n++] = 0;
			map[n++] = pin + 1;
			map[n++] = APLIC_S;
			map[n++] = VIRT_PCI_IRQ + (slot + pin) % 4;
			map[n++] = IRQ_LEVEL_HIGH;
		}
	u32s(w, "interrupt-map", map, n);
	CELLS(w, "interrupt-map-mask", 0x1800, 0, 0, 7);
}

static void pci(struct writer *w)
{
	const struct virt_range *io = &virt_map[VIRT_PCI_IO], *mem = &virt_map[VIRT_PCI_MEM];
	uint64_t high = virt_pci_high(topology_ram_end(w->o->topology));

	begin(w, "pci@%llx", (unsigned long long)virt_map[VIRT_ECAM].base);
	text(w, "compatible", "pci-host-ecam-generic");
	text(w, "device_type", "pci");
	u32(w, "#address-cells", 3);
	u32(w, "#size-cells", 2);
	u32(w, "#interrupt-cells", 1);
	u32(w, "linux,pci-domain", 0);
	CELLS(w, "bus-range", 0, VIRT_PCI_BUSES - 1);
	region(w, VIRT_ECAM);
	flag(w, "dma-coherent");
	u32(w, "msi-parent", IMSIC_S);
	CELLS(w, "ranges", 0x1000000, 0, 0, HI(io->base), LO(io->base), HI(io->len), LO(io->len),
		0x2000000, HI(mem->base), LO(mem->base), HI(mem->base), LO(mem->base), HI(mem->len),
		LO(mem->len), 0x3000000, HI(high), LO(high), HI(high), LO(high),
		HI(VIRT_PCI_HIGH_LEN), LO(VIRT_PCI_HIGH_LEN));
	pci_interrupts(w);
	numa(w, 0);
	end(w);
}

static void wired(struct writer *w, uint32_t source, uint32_t kind)
{
	u32(w, "interrupt-parent", APLIC_S);
	CELLS(w, "interrupts", source, kind);
}

static void soc(struct writer *w)
{
	begin(w, "soc");
	u32(w, "#address-cells", 2);
	u32(w, "#size-cells", 2);
	text(w, "compatible", "simple-bus");
	flag(w, "ranges");
	if (w->o->firmware)
		machine_level(w);
	imsic(w, VIRT_IMSIC_S, IMSIC_S, HART_S_EXT);
	aplic(w, VIRT_APLIC_S, APLIC_S, IMSIC_S);
	begin(w, "serial@%llx", (unsigned long long)virt_map[VIRT_UART].base);
	text(w, "compatible", "ns16550a");
	region(w, VIRT_UART);
	u32(w, "clock-frequency", VIRT_UART_CLOCK_HZ);
	wired(w, VIRT_UART_IRQ, IRQ_LEVEL_HIGH);
	end(w);
	begin(w, "rtc@%llx", (unsigned long long)virt_map[VIRT_RTC].base);
	text(w, "compatible", "google,goldfish-rtc");
	region(w, VIRT_RTC);
	wired(w, VIRT_RTC_IRQ, IRQ_LEVEL_HIGH);
	end(w);
	begin(w, "rng@%llx", (unsigned long long)virt_map[VIRT_VMGENID].base);
	text(w, "compatible", "microsoft,vmgenid");
	region(w, VIRT_VMGENID);
	wired(w, VIRT_VMGENID_IRQ, IRQ_EDGE_RISING);
	end(w);
	begin(w, "test@%llx", (unsigned long long)virt_map[VIRT_FINISHER].base);
	bytes(w, "compatible", "sifive,test1\0sifive,test0\0syscon", 33);
	region(w, VIRT_FINISHER);
	u32(w, "phandle", FINISHER);
	end(w);
	pci(w);
	end(w);
}

static int write_tree(const struct fdt_opts *o, char *buf, size_t size)
{
	struct writer w = {.o = o, .buf = buf};

	keep(&w, fdt_create(buf, (int)size));
	if (!w.rc)
		keep(&w, fdt_finish_reservemap(buf));
	begin(&w, "%s", "");
	u32(&w, "#address-cells", 2);
	u32(&w, "#size-cells", 2);
	text(&w, "compatible", "riscv-virtio");
	text(&w, "model", "riscv-virtio,lodge");
	chosen(&w);
	memory(&w);
	cpus(&w);
	soc(&w);
	power(&w, "poweroff", "syscon-poweroff", 0x5555);
	power(&w, "reboot", "syscon-reboot", 0x7777);
	end(&w);
	if (!w.rc)
		keep(&w, fdt_finish(buf));
	return w.rc;
}

int fdt_virt(const struct fdt_opts *o, void **out, size_t *len, struct err *e)
{
	int rc = -FDT_ERR_NOSPACE;

	if (strncmp(o->isa, "rv64", 4))
		return err_set(e, -EINVAL, "device tree: '%s' is no RV64 instruction set", o->isa);
	for (size_t size = 64 * KiB; size <= FDT_MAX && rc == -FDT_ERR_NOSPACE; size *= 2) {
		cleanup(free_ptr) char *buf = calloc(1, size);

		if (!buf)
			return err_set(e, -ENOMEM, "device tree: no memory");
		rc = write_tree(o, buf, size);
		if (!rc) {
			*len = fdt_totalsize(buf);
			*out = steal_ptr(buf);
			return 0;
		}
	}
	if (rc == -FDT_ERR_NOSPACE)
		return err_set(e, -E2BIG,
			"device tree: more than %u MiB (is the command line so long?)",
			FDT_MAX >> 20);
	return err_set(e, -EINVAL, "device tree: %s", fdt_strerror(rc));
}
