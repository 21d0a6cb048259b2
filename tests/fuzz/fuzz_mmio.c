/*
 * fuzz_mmio.c: a hostile guest at every register of the `virt` board: any width and misalignment at any region and over ECAM,
 * mixed with interrupts from a PCI function, resets, and save and load. Never a crash, a hang or an access outside.
 *
 * Input: records of 16 bytes {what, region, width, -, offset (4), value (8)}.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/machine/stub_machine.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "bus/pci.h"
#include "machine/board.h"

#define RECORD 16
#define MAX_RECORDS 512
#define MAX_REGIONS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct rig {
	struct board *b;
	struct pci_func f;
	struct bus_region at[MAX_REGIONS];
	unsigned regions;
	uint64_t sum;
};

static uint64_t bar_read(void *dev, uint64_t off, unsigned size)
{
	return off;
}

static void bar_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct rig *r = dev;

	r->sum += val;
	pci_msix_notify(&r->f, (unsigned)val);
	pci_intx_set(&r->f, val & 1);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write, .unaligned = true};

static void on_event(void *ctx, int event, uint64_t code)
{
}

static void must(int rc, const struct err *e)
{
	if (rc)
		abort();
}

static void build(struct rig *r)
{
	struct board_opts o = {.engine = &stub_engine,
		.vcpus = 3,
		.memory = 4 * MiB,
		.nodes = 1,
		.seed = 1,
		.firmware = "/proc/self/exe", /* opened, never loaded */
		.system_event = on_event};
	struct pci_func_opts fo = {
		.name = "fuzz", .vendor = 1, .device = 2, .slot = 3, .intx = true};
	struct err e = {0};

	must(board_create(&r->b, "virt", &o, &e), &e);
	must(pci_func_add(&r->f, r->b->pci, &fo, &e), &e);
	must(pci_bar_add(
		     &r->f, 0, &(struct pci_bar_opts){"a", 64, PCI_BAR_IO, &bar_ops, r, NULL}, &e),
		&e);
	must(pci_msix_init(&r->f, 1, 65, &e), &e);
	must(pci_bar_add(&r->f, 2, &(struct pci_bar_opts){"b", 4096, 0, &bar_ops, r, NULL}, &e),
		&e);
	must(pci_bar_add(
		     &r->f, 4, &(struct pci_bar_opts){"c", MiB, PCI_BAR_64, &bar_ops, r, NULL}, &e),
		&e);
	must(pci_pm_init(&r->f, &e), &e);
	pci_func_publish(&r->f);
}

static void note(void *ctx, const struct bus_region *reg)
{
	struct rig *r = ctx;

	if (r->regions < MAX_REGIONS)
		r->at[r->regions++] = *reg;
}

/* What is saved must load again, whatever the guest has done. */
static void save_and_load(struct rig *r)
{
	struct state_obj *objs;
	struct err e = {0};
	uint8_t *buf;
	size_t len;
	unsigned n;

	must(board_state(r->b, &objs, &n), &e);
	must(state_save(objs, n, &buf, &len, &e), &e);
	must(state_load(objs, n, buf, len, &e), &e);
	free(buf);
	free(objs);
}

static void step(struct rig *r, const uint8_t *rec)
{
	static const uint8_t widths[8] = {1, 2, 4, 8, 4, 4, 3, 0};
	uint64_t val = get_le64(rec + 8), addr;
	unsigned width = widths[rec[2] % 8];
	const struct bus_region *reg;

	r->regions = 0;
	bus_each(r->b->bus, note, r);
	reg = &r->at[rec[1] % r->regions];
	addr = reg->base + get_le32(rec + 4) % (reg->len + 8);
	switch (rec[0] % 16) {
	case 0:
		pci_intx_set(&r->f, val & 1);
		break;
	case 1:
		pci_msix_notify(&r->f, (unsigned)val);
		break;
	case 2:
		bus_msi(r->b->bus, addr, (uint32_t)val);
		break;
	case 3:
		save_and_load(r);
		break;
	case 4:
		if (val % 8 == 0)
			board_reset(r->b);
		break;
	case 5: /* the function's config space, where BARs and capabilities are */
	case 6:
	case 7:
		addr = 0x30000000 + (3 << 15) + get_le32(rec + 4) % 0x110;
		bus_access(r->b->bus, BUS_MMIO, addr, width, true, &val);
		break;
	case 8:
		bus_access(r->b->bus, reg->space, val, width, rec[3] & 1, &val);
		break;
	default:
		bus_access(r->b->bus, reg->space, addr, width, rec[0] & 1, &val);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		abort();
	build(r);
	for (size_t i = 0; i < MAX_RECORDS && (i + 1) * RECORD <= size; i++)
		step(r, data + i * RECORD);
	save_and_load(r);
	pci_func_remove(&r->f);
	board_destroy(r->b);
	free(r);
	return 0;
}
