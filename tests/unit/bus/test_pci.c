#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/pci.h"

#define ECAM 0x30000000ull
#define WIN 0x40000000ull
#define WIN64 0x400000000ull

struct rig {
	struct bus *b;
	struct pci_host *h;
	bool line[4];
	unsigned msi_count;
	uint32_t msi_data;
	unsigned accesses;
	struct bus_region sink;
	struct pci_func f;
};

static void line_set(void *ctrl, unsigned pin, bool level)
{
	((struct rig *)ctrl)->line[pin] = level;
}

static void sink_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct rig *r = dev;

	r->msi_count++;
	r->msi_data = (uint32_t)val;
}

static uint64_t bar_read(void *dev, uint64_t off, unsigned size)
{
	((struct rig *)dev)->accesses++;
	return off;
}

static void bar_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	((struct rig *)dev)->accesses++;
}

static const struct bus_ops sink_ops = {.write = sink_write, .msi_sink = true};
static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

static uint64_t rd(struct rig *r, unsigned devfn, unsigned off, unsigned size)
{
	uint64_t v;

	assert_int_equal(
		bus_access(r->b, BUS_MMIO, ECAM + devfn * 4096ull + off, size, false, &v), 0);
	return v;
}

static void wr(struct rig *r, unsigned devfn, unsigned off, unsigned size, uint64_t v)
{
	assert_int_equal(
		bus_access(r->b, BUS_MMIO, ECAM + devfn * 4096ull + off, size, true, &v), 0);
}

static int mem(struct rig *r, uint64_t addr, uint64_t *v)
{
	return bus_access(r->b, BUS_MMIO, addr, 4, false, v);
}

static int setup(void **state)
{
	static struct rig rig;
	struct rig *r = &rig;
	struct pci_host_opts o = {.ecam = ECAM,
		.buses = 2,
		.io_window = 0x3000000,
		.io_len = 0x10000,
		.mem = {{BUS_MMIO, WIN, 0x40000000}, {BUS_MMIO, WIN64, 0x400000000}}};
	struct pci_func_opts fo = {.name = "t",
		.vendor = 0x1af4,
		.device = 0x1042,
		.subvendor = 0x1af4,
		.subdevice = 0x40,
		.class_code = 0x010000,
		.revision = 1,
		.slot = 3,
		.intx = true};
	struct err e = {0};

	memset(r, 0, sizeof(*r));
	for (unsigned i = 0; i < 4; i++)
		o.intx[i] = (struct irq_line){line_set, r, i};
	assert_int_equal(bus_create(&r->b, &e), 0);
	assert_int_equal(pci_host_create(&r->h, r->b, &o, &e), 0);
	r->sink = (struct bus_region){
		.name = "sink", .ops = &sink_ops, .dev = r, .base = 0x28000000, .len = 4096};
	assert_int_equal(bus_claim(r->b, &r->sink, &e), 0);
	assert_int_equal(pci_func_add(&r->f, r->h, &fo, &e), 0);
	assert_int_equal(pci_bar_add(&r->f, 0,
				 &(struct pci_bar_opts){.name = "io",
					 .size = 32,
					 .flags = PCI_BAR_IO,
					 .ops = &bar_ops,
					 .dev = r},
				 &e),
		0);
	assert_int_equal(pci_msix_init(&r->f, 1, 3, &e), 0);
	assert_int_equal(pci_bar_add(&r->f, 4,
				 &(struct pci_bar_opts){.name = "mem",
					 .size = 0x4000,
					 .flags = PCI_BAR_64 | PCI_BAR_PREFETCH,
					 .ops = &bar_ops,
					 .dev = r},
				 &e),
		0);
	assert_int_equal(pci_pm_init(&r->f, &e), 0);
	pci_func_publish(&r->f);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	pci_func_remove(&r->f);
	pci_func_remove(&r->f);
	pci_host_destroy(r->h);
	bus_destroy(r->b);
	return 0;
}

#define DEV PCI_DEVFN(3, 0)

static void header_reads_as_given(void **state)
{
	struct rig *r = *state;

	assert_int_equal(rd(r, DEV, 0, 4), 0x10421af4);
	assert_int_equal(rd(r, DEV, 8, 4), 0x01000001);
	assert_int_equal(rd(r, DEV, 0x2c, 4), 0x00401af4);
	assert_int_equal(rd(r, DEV, 0x3d, 1), 1);
	assert_int_equal(rd(r, 0, 0, 4), 0x00081b36);
	assert_int_equal(rd(r, PCI_DEVFN(4, 0), 0, 4), 0xffffffff);
	assert_int_equal(rd(r, 256 + DEV, 0, 4), 0xffffffff);
	wr(r, DEV, 0, 4, 0);
	assert_int_equal(rd(r, DEV, 0, 4), 0x10421af4);
}

static void capabilities_form_a_list(void **state)
{
	struct rig *r = *state;
	unsigned at = (unsigned)rd(r, DEV, PCI_CFG_CAPS, 1), n = 0;
	uint8_t ids[8] = {0};

	assert_true(rd(r, DEV, PCI_CFG_STATUS, 2) & PCI_STATUS_CAPS);
	for (; at && n < 8; n++) {
		ids[n] = (uint8_t)rd(r, DEV, at, 1);
		assert_int_equal(at % 4, 0);
		at = (unsigned)rd(r, DEV, at + 1, 1);
	}
	assert_int_equal(n, 3);
	assert_int_equal(ids[0], PCI_CAP_ID_EXP);
	assert_int_equal(ids[1], PCI_CAP_ID_MSIX);
	assert_int_equal(ids[2], PCI_CAP_ID_PM);
}

static void any_width_and_misalignment_is_safe(void **state)
{
	struct rig *r = *state;

	assert_int_equal(rd(r, DEV, 1, 2), 0x421a);
	assert_true(rd(r, DEV, 0, 8) == 0x0010000010421af4);
	/* Across the end of one function's space into a slot that is empty. */
	assert_int_equal(rd(r, DEV, 4094, 4), 0xffff0000);
	assert_true(rd(r, DEV, 4092, 8) == 0xffffffff00000000);
	wr(r, DEV, 4092, 8, UINT64_MAX);
	wr(r, DEV - 1, 4092, 8, 0);
	assert_int_equal(rd(r, DEV, 0, 4), 0x10421af4);
	assert_int_equal(pci_host_read(r->h, UINT64_MAX - 3, 8), UINT64_MAX);
	pci_host_write(r->h, UINT64_MAX - 3, 8, 0);
}

static void bars_size_and_move(void **state)
{
	struct rig *r = *state;
	uint64_t v;

	wr(r, DEV, 0x20, 4, 0xffffffff);
	wr(r, DEV, 0x24, 4, 0xffffffff);
	assert_int_equal(rd(r, DEV, 0x20, 4), 0xffffc00c);
	assert_int_equal(rd(r, DEV, 0x24, 4), 0xffffffff);
	wr(r, DEV, 0x10, 4, 0xffffffff);
	assert_int_equal(rd(r, DEV, 0x10, 4), 0xffffffe1);
	assert_int_equal(rd(r, DEV, 0x18, 4), 0);
	wr(r, DEV, 0x20, 4, 0x4000);
	wr(r, DEV, 0x24, 4, 4);
	assert_int_equal(mem(r, WIN64 + 0x4000, &v), -ENXIO);
	wr(r, DEV, 4, 2, PCI_CMD_MEM);
	assert_int_equal(mem(r, WIN64 + 0x4010, &v), 0);
	assert_int_equal(v, 0x10);
	wr(r, DEV, 0x20, 4, 0x8000);
	assert_int_equal(mem(r, WIN64 + 0x4010, &v), -ENXIO);
	assert_int_equal(mem(r, WIN64 + 0x8010, &v), 0);
	wr(r, DEV, 4, 2, 0);
	assert_int_equal(mem(r, WIN64 + 0x8010, &v), -ENXIO);
}

static void bars_outside_the_windows_do_not_decode(void **state)
{
	struct rig *r = *state;
	uint64_t v;

	wr(r, DEV, 4, 2, PCI_CMD_MEM | PCI_CMD_IO);
	wr(r, DEV, 0x24, 4, 0);
	wr(r, DEV, 0x20, 4, 0x28000000);
	assert_int_equal(mem(r, 0x28000010, &v), -ENXIO);
	wr(r, DEV, 0x20, 4, 0x80000000);
	assert_int_equal(mem(r, 0x80000000, &v), -ENXIO);
	wr(r, DEV, 0x20, 4, 0x7fffc000);
	assert_int_equal(mem(r, 0x7fffc000, &v), 0);
	wr(r, DEV, 0x10, 4, 0x10000);
	assert_int_equal(rd(r, DEV, 0x10, 4), 0x10001);
	wr(r, DEV, 0x10, 4, 0x1000);
	assert_int_equal(mem(r, 0x3001008, &v), 0);
	assert_int_equal(v, 8);
	assert_int_equal(mem(r, 0x3002008, &v), 0);
	assert_int_equal(v, 0xffffffff);
}

static void two_bars_that_meet_come_apart_again(void **state)
{
	struct rig *r = *state;
	uint64_t v;

	wr(r, DEV, 4, 2, PCI_CMD_MEM);
	wr(r, DEV, 0x14, 4, WIN);
	wr(r, DEV, 0x24, 4, 0);
	wr(r, DEV, 0x20, 4, WIN);
	assert_int_equal(mem(r, WIN, &v), 0);
	assert_int_equal(r->accesses, 0);
	wr(r, DEV, 0x14, 4, WIN + 0x100000);
	assert_int_equal(mem(r, WIN, &v), 0);
	assert_int_equal(r->accesses, 1);
}

static void msix_on(struct rig *r, unsigned ctrl)
{
	unsigned at = (unsigned)rd(r, DEV, PCI_CFG_CAPS, 1);

	while (rd(r, DEV, at, 1) != PCI_CAP_ID_MSIX)
		at = (unsigned)rd(r, DEV, at + 1, 1);
	assert_int_equal(rd(r, DEV, at + 2, 2) & 0x7ff, 2);
	wr(r, DEV, at + 2, 2, ctrl);
}

static void vector_set(struct rig *r, unsigned n, uint64_t addr, uint32_t data, uint32_t ctrl)
{
	uint64_t v = addr;

	assert_int_equal(bus_access(r->b, BUS_MMIO, WIN + n * 16, 8, true, &v), 0);
	v = data;
	assert_int_equal(bus_access(r->b, BUS_MMIO, WIN + n * 16 + 8, 4, true, &v), 0);
	v = ctrl;
	assert_int_equal(bus_access(r->b, BUS_MMIO, WIN + n * 16 + 12, 4, true, &v), 0);
}

static void msix_sends_masks_and_remembers(void **state)
{
	struct rig *r = *state;
	uint64_t v;

	wr(r, DEV, 4, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
	wr(r, DEV, 0x14, 4, WIN);
	pci_msix_notify(&r->f, 1);
	assert_int_equal(mem(r, WIN + 0x800, &v), 0);
	assert_int_equal(v, 0);
	assert_false(pci_msix_on(&r->f));
	msix_on(r, 0x8000);
	assert_true(pci_msix_on(&r->f));
	vector_set(r, 1, 0x28000000, 33, 0);
	pci_msix_notify(&r->f, 1);
	assert_int_equal(r->msi_count, 1);
	assert_int_equal(r->msi_data, 33);
	pci_msix_notify(&r->f, 0);
	pci_msix_notify(&r->f, 3);
	pci_msix_notify(&r->f, 0xffff);
	assert_int_equal(r->msi_count, 1);
	mem(r, WIN + 0x800, &v);
	assert_int_equal(v, 1);
	vector_set(r, 0, 0x28000000, 44, 0);
	assert_int_equal(r->msi_count, 2);
	assert_int_equal(r->msi_data, 44);
	mem(r, WIN + 0x800, &v);
	assert_int_equal(v, 0);
	/* function mask */
	msix_on(r, 0xc000);
	pci_msix_notify(&r->f, 1);
	pci_msix_notify(&r->f, 1);
	assert_int_equal(r->msi_count, 2);
	msix_on(r, 0x8000);
	assert_int_equal(r->msi_count, 3);
	/* no bus mastering: it waits */
	wr(r, DEV, 4, 2, PCI_CMD_MEM);
	assert_false(pci_bus_master(&r->f));
	pci_msix_notify(&r->f, 1);
	assert_int_equal(r->msi_count, 3);
	wr(r, DEV, 4, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
	assert_int_equal(r->msi_count, 4);
}

static void a_vector_aimed_at_a_device_hits_nothing(void **state)
{
	struct rig *r = *state;

	wr(r, DEV, 4, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
	wr(r, DEV, 0x14, 4, WIN);
	wr(r, DEV, 0x24, 4, 0);
	wr(r, DEV, 0x20, 4, WIN + 0x4000);
	msix_on(r, 0x8000);
	vector_set(r, 0, WIN + 0x4000, 1, 0);
	vector_set(r, 1, ECAM, 1, 0);
	vector_set(r, 2, WIN + 12, 1, 0);
	for (unsigned i = 0; i < 3; i++)
		pci_msix_notify(&r->f, i);
	assert_int_equal(r->accesses, 0);
}

static void pins_are_swizzled_shared_and_disabled(void **state)
{
	struct rig *r = *state;
	struct pci_func_opts fo = {.name = "u", .slot = 7, .intx = true};
	struct pci_func u;

	assert_int_equal(pci_func_add(&u, r->h, &fo, NULL), 0);
	pci_func_publish(&u);
	pci_intx_set(&r->f, true);
	assert_true(r->line[3]);
	assert_false(r->line[0]);
	assert_true(rd(r, DEV, PCI_CFG_STATUS, 2) & PCI_STATUS_INTX);
	pci_intx_set(&u, true);
	pci_intx_set(&r->f, false);
	assert_true(r->line[3]);
	wr(r, PCI_DEVFN(7, 0), 4, 2, PCI_CMD_INTX_OFF);
	assert_false(r->line[3]);
	assert_true(rd(r, PCI_DEVFN(7, 0), PCI_CFG_STATUS, 2) & PCI_STATUS_INTX);
	wr(r, PCI_DEVFN(7, 0), 4, 2, 0);
	assert_true(r->line[3]);
	pci_func_remove(&u);
	assert_false(r->line[3]);
}

static void d3_stops_decoding_and_keeps_config(void **state)
{
	struct rig *r = *state;
	unsigned at = (unsigned)rd(r, DEV, PCI_CFG_CAPS, 1);
	uint64_t v;

	while (rd(r, DEV, at, 1) != PCI_CAP_ID_PM)
		at = (unsigned)rd(r, DEV, at + 1, 1);
	wr(r, DEV, 4, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
	wr(r, DEV, 0x14, 4, WIN);
	wr(r, DEV, at + 4, 2, 3);
	assert_int_equal(mem(r, WIN, &v), -ENXIO);
	assert_false(pci_bus_master(&r->f));
	wr(r, DEV, at + 4, 2, 0);
	assert_int_equal(mem(r, WIN, &v), 0);
	assert_true(pci_bus_master(&r->f));
}

static void reset_forgets_and_slots_are_given_once(void **state)
{
	struct rig *r = *state;
	struct pci_func_opts fo = {.name = "u", .slot = 3};
	static struct pci_func u[40];
	struct err e = {0};
	uint64_t v;
	unsigned n = 0;

	wr(r, DEV, 4, 2, PCI_CMD_MEM | PCI_CMD_MASTER);
	wr(r, DEV, 0x14, 4, WIN);
	pci_intx_set(&r->f, true);
	pci_func_reset(&r->f);
	assert_int_equal(rd(r, DEV, 4, 2), 0);
	assert_int_equal(rd(r, DEV, 0x14, 4), 0);
	assert_int_equal(mem(r, WIN, &v), -ENXIO);
	assert_false(r->line[3]);
	assert_int_equal(pci_func_add(&u[0], r->h, &fo, &e), -EBUSY);
	fo.function = 1;
	assert_int_equal(pci_func_add(&u[0], r->h, &fo, &e), 0);
	assert_int_equal(rd(r, DEV, PCI_CFG_HEADER, 1), 0);
	pci_func_publish(&u[0]);
	assert_int_equal(rd(r, DEV, PCI_CFG_HEADER, 1), 0x80);
	fo.function = 0;
	fo.slot = PCI_SLOT_ANY;
	while (n < 39 && !pci_func_add(&u[n + 1], r->h, &fo, &e))
		n++;
	assert_int_equal(n, 30);
	assert_int_equal(e.code, -ENOSPC);
	for (unsigned i = 0; i <= n; i++)
		pci_func_remove(&u[i]);
}

static void impossible_bars_are_refused(void **state)
{
	struct rig *r = *state;
	struct pci_func_opts fo = {.name = "u", .slot = 9};
	struct pci_bar_opts o = {.name = "x", .size = 24, .ops = &bar_ops};
	struct pci_func u;

	assert_int_equal(pci_func_add(&u, r->h, &fo, NULL), 0);
	assert_int_equal(pci_bar_add(&u, 0, &o, NULL), -EINVAL);
	o.size = 0;
	assert_int_equal(pci_bar_add(&u, 0, &o, NULL), -EINVAL);
	o.size = 4 * GiB;
	assert_int_equal(pci_bar_add(&u, 0, &o, NULL), -EINVAL);
	o.flags = PCI_BAR_64;
	assert_int_equal(pci_bar_add(&u, 5, &o, NULL), -EINVAL);
	assert_int_equal(pci_bar_add(&u, 0, &o, NULL), 0);
	o.flags = 0;
	o.size = 4096;
	assert_int_equal(pci_bar_add(&u, 1, &o, NULL), -EINVAL);
	assert_int_equal(pci_bar_add(&u, 6, &o, NULL), -EINVAL);
	assert_int_equal(pci_msix_init(&u, 2, 0, NULL), -EINVAL);
	assert_int_equal(pci_msix_init(&u, 2, 2049, NULL), -EINVAL);
	assert_int_equal(pci_msix_init(&u, 2, 2048, NULL), 0);
	pci_func_remove(&u);
}

static void post_load_refuses_another_device(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	uint64_t v;

	wr(r, DEV, 4, 2, PCI_CMD_MEM);
	wr(r, DEV, 0x14, 4, WIN);
	pci_func_state.pre_save(&r->f);
	pci_func_reset(&r->f);
	assert_int_equal(mem(r, WIN, &v), -ENXIO);
	assert_int_equal(pci_func_state.post_load(&r->f, 1, &e), 0);
	assert_int_equal(mem(r, WIN, &v), 0);
	r->f.saved[0] ^= 1;
	assert_int_equal(pci_func_state.post_load(&r->f, 1, &e), -EINVAL);
	r->f.saved[0] ^= 1;
	r->f.saved[PCI_CFG_CAPS] ^= 0x10;
	assert_int_equal(pci_func_state.post_load(&r->f, 1, &e), -EINVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(header_reads_as_given),
		T(capabilities_form_a_list),
		T(any_width_and_misalignment_is_safe),
		T(bars_size_and_move),
		T(bars_outside_the_windows_do_not_decode),
		T(two_bars_that_meet_come_apart_again),
		T(msix_sends_masks_and_remembers),
		T(a_vector_aimed_at_a_device_hits_nothing),
		T(pins_are_swizzled_shared_and_disabled),
		T(d3_stops_decoding_and_keeps_config),
		T(reset_forgets_and_slots_are_given_once),
		T(impossible_bars_are_refused),
		T(post_load_refuses_another_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
