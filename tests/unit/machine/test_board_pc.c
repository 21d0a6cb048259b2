/* test_board_pc.c: the `pc` board with an engine that runs nothing: map, interrupts, boot states, tables, power, reset, state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/system_event.h"
#include "base/util.h"
#include "bus/pci.h"
#include "device/ged.h"
#include "machine/board.h"
#include "machine/pc_map.h"
#include "machine/topology.h"
#include "stub_machine.h"

static struct rig {
	uv_loop_t loop;
	char kernel[64];
	struct cpu_engine_ops engine;
	struct board_opts o;
	int event;
	uint64_t msi_addr;
	uint32_t msi_data;
	unsigned edges[PC_GSIS];
	bool level[PC_GSIS];
} rig;

static void on_event(void *ctx, int event, uint64_t code)
{
	rig.event = event;
}

static void on_irq(struct cpu_vm *vm, unsigned gsi, bool level)
{
	assert_true(gsi < PC_GSIS);
	rig.edges[gsi] += level && !rig.level[gsi];
	rig.level[gsi] = level;
}

static void on_msi(struct cpu_vm *vm, uint64_t addr, uint32_t data)
{
	rig.msi_addr = addr;
	rig.msi_data = data;
}

static unsigned hw_id(struct cpu_vm *vm, unsigned index)
{
	return index * 2;
}

static int setup(void **state)
{
	static uint8_t bz[1024 + 4096];
	int fd;

	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	bz[0x1f1] = 1;
	put_le32(bz + 0x1f4, 256);
	put_le16(bz + 0x1fe, 0xaa55);
	bz[0x201] = 0x6a;
	memcpy(bz + 0x202, "HdrS", 4);
	put_le16(bz + 0x206, 0x20f);
	bz[0x211] = 1;
	put_le32(bz + 0x22c, 0x7fffffff);
	put_le32(bz + 0x230, 0x200000);
	bz[0x234] = 1;
	put_le16(bz + 0x236, 1);
	put_le32(bz + 0x238, 2047);
	put_le64(bz + 0x258, 0x1000000);
	put_le32(bz + 0x260, 0x10000);
	strcpy(rig.kernel, "/tmp/lodge-board-pc-XXXXXX");
	fd = mkstemp(rig.kernel);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bz, sizeof(bz)), sizeof(bz));
	close(fd);
	rig.engine = stub_engine;
	rig.engine.isa = "x86-64";
	rig.engine.vm_irq = on_irq;
	rig.engine.vm_msi = on_msi;
	rig.engine.vcpu_hw_id = hw_id;
	rig.o = (struct board_opts){.engine = &rig.engine,
		.vcpus = 3,
		.memory = 64 * MiB,
		.nodes = 1,
		.seed = 7,
		.kernel = rig.kernel,
		.append = "console=ttyS0",
		.loop = &rig.loop,
		.system_event = on_event};
	return 0;
}

static int teardown(void **state)
{
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	unlink(rig.kernel);
	return 0;
}

static struct board *make(void)
{
	struct board *b = NULL;
	struct err e = {0};

	if (board_create(&b, board_for("x86-64"), &rig.o, &e))
		fail_msg("%s", err_msg(&e));
	return b;
}

static uint64_t in(struct board *b, enum bus_space sp, uint64_t addr, unsigned size)
{
	uint64_t v = 0;

	assert_int_equal(bus_access(b->bus, sp, addr, size, false, &v), 0);
	return size < 8 ? v & ((1ull << 8 * size) - 1) : v;
}

static void out(struct board *b, enum bus_space sp, uint64_t addr, unsigned size, uint64_t v)
{
	assert_int_equal(bus_access(b->bus, sp, addr, size, true, &v), 0);
}

static void starts_in_long_mode(void **state)
{
	struct board *b = make();
	struct cpu_boot *boot = &b->vcpus[0]->boot;
	uint8_t rsdp[8];

	assert_int_equal(board_boot(b, NULL), 0);
	assert_int_equal(boot->mode, CPU_BOOT_LONG);
	assert_int_equal(boot->pc, 0x1000200);
	assert_int_equal(boot->arg0, PC_ZERO_PAGE);
	assert_int_equal(boot->tables, PC_PAGE_TABLES);
	assert_true(boot->running);
	assert_false(b->vcpus[1]->boot.running);
	space_read(b->space, gpa(PC_ACPI), rsdp, 8);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	/* And again, as after a reboot. */
	board_reset(b);
	assert_false(boot->running);
	assert_int_equal(board_boot(b, NULL), 0);
	assert_true(boot->running);
	board_destroy(b);
}

static void the_map_answers(void **state)
{
	struct board *b = make();
	uint64_t v;

	assert_int_equal(in(b, BUS_MMIO, pc_map[PC_ECAM].base, 4), 0x00081b36);
	assert_int_equal(in(b, BUS_PIO, PC_PORT_UART + 5, 1), 0x60);
	out(b, BUS_PIO, PC_PORT_RTC, 1, 0x0d);
	assert_int_equal(in(b, BUS_PIO, PC_PORT_RTC + 1, 1), 0x80);
	in(b, BUS_MMIO, pc_map[PC_RTC_MMIO].base, 4);
	assert_int_equal(bus_access(b->bus, BUS_MMIO, 0xd0000000, 4, false, &v), -ENXIO);
	assert_int_equal(bus_access(b->bus, BUS_PIO, 0x80, 1, false, &v), -ENXIO);
	/* The port pair reaches the same register, byte by byte too; disabled it reaches nothing. */
	out(b, BUS_PIO, 0xcf8, 4, 0x80000000);
	assert_int_equal(in(b, BUS_PIO, 0xcfc, 4), 0x00081b36);
	assert_int_equal(in(b, BUS_PIO, 0xcfe, 2), 0x0008);
	assert_int_equal(in(b, BUS_PIO, 0xcf8, 4), 0x80000000);
	out(b, BUS_PIO, 0xcf8, 4, 0);
	assert_int_equal(in(b, BUS_PIO, 0xcfc, 4), 0xffffffff);
	out(b, BUS_PIO, 0xcf8, 4, 0x8000f800);
	assert_int_equal(in(b, BUS_PIO, 0xcfc, 4), 0xffffffff);
	board_destroy(b);
}

static void power_and_reset(void **state)
{
	struct board *b = make();
	struct device *ged = NULL;

	out(b, BUS_MMIO, pc_map[PC_GED].base + 0x200, 1, 5 << 2 | 0x20);
	assert_int_equal(rig.event, CPU_SYSTEM_SHUTDOWN);
	out(b, BUS_MMIO, pc_map[PC_GED].base + 0x202, 1, 0x42);
	assert_int_equal(rig.event, CPU_SYSTEM_REBOOT);
	rig.event = -1;
	out(b, BUS_PIO, 0xcf9, 1, 2);
	assert_int_equal(rig.event, -1);
	out(b, BUS_PIO, 0xcf9, 1, 6);
	assert_int_equal(rig.event, CPU_SYSTEM_REBOOT);
	out(b, BUS_PIO, PC_PORT_FINISHER, 4, 0x5555);
	assert_int_equal(rig.event, CPU_SYSTEM_SHUTDOWN);
	out(b, BUS_MMIO, pc_map[PC_FINISHER].base, 4, 0x3333 | 7 << 16);
	assert_int_equal(rig.event, CPU_SYSTEM_CRASH);
	for (unsigned i = 0; i < b->ndevices; i++)
		if (b->devices[i]->cls->power_button)
			ged = b->devices[i];
	assert_non_null(ged);
	assert_int_equal(ged->cls->power_button(ged, NULL), 0);
	assert_int_equal(rig.edges[PC_GSI_GED], 1);
	assert_int_equal(in(b, BUS_MMIO, pc_map[PC_GED].base, 4), 2);
	assert_int_equal(in(b, BUS_MMIO, pc_map[PC_GED].base, 4), 0);
	board_destroy(b);
}

/* A machine that became another one has another identifier, and an event says so. */
static void another_generation(void **state)
{
	uint64_t at = pc_map[PC_VMGENID].base, was[2];
	struct board *b = make();

	was[0] = in(b, BUS_MMIO, at, 8);
	was[1] = in(b, BUS_MMIO, at + 8, 8);
	out(b, BUS_MMIO, at, 8, ~was[0]);
	assert_int_equal(in(b, BUS_MMIO, at, 8), was[0]);
	assert_int_equal(in(b, BUS_MMIO, at + 3, 1), was[0] >> 24 & 0xff);
	board_reset(b);
	assert_int_equal(in(b, BUS_MMIO, at, 8), was[0]);
	assert_int_equal(rig.edges[PC_GSI_GED], 0);
	for (unsigned i = 0; i < b->ndevices; i++)
		if (b->devices[i]->cls->reborn)
			assert_int_equal(b->devices[i]->cls->reborn(b->devices[i], NULL), 0);
	assert_true(in(b, BUS_MMIO, at, 8) != was[0] && in(b, BUS_MMIO, at + 8, 8) != was[1]);
	assert_int_equal(rig.edges[PC_GSI_GED], 1);
	assert_int_equal(in(b, BUS_MMIO, pc_map[PC_GED].base, 4), GED_GENERATION);
	assert_int_equal(in(b, BUS_MMIO, pc_map[PC_GED].base, 4), 0);
	board_destroy(b);
}

static void interrupts_reach_the_engine(void **state)
{
	struct board *b = make();

	out(b, BUS_PIO, PC_PORT_UART + 1, 1, 2);
	assert_true(rig.level[PC_GSI_UART]);
	in(b, BUS_PIO, PC_PORT_UART + 2, 1);
	assert_false(rig.level[PC_GSI_UART]);
	bus_msi(b->bus, 0xfee01000, 0x4031);
	assert_int_equal(rig.msi_addr, 0xfee01000);
	assert_int_equal(rig.msi_data, 0x4031);
	rig.msi_addr = 0;
	bus_msi(b->bus, pc_map[PC_FINISHER].base, 0x5555);
	assert_int_equal(rig.msi_addr, 0);
	board_destroy(b);
}

static void memory_goes_on_behind_the_hole(void **state)
{
	struct board *b;
	uint64_t last = 5 * GiB - 8, v = 0x1122334455667788, w = 0;

	rig.o.memory = 4 * GiB;
	rig.o.nodes = 2;
	rig.o.vcpus = 4;
	b = make();
	assert_int_equal(b->cpu_vm->opts.cores, 2);
	assert_int_equal(space_write(b->space, gpa(last), &v, 8), 0);
	assert_int_equal(space_read(b->space, gpa(last), &w, 8), 0);
	assert_int_equal(w, v);
	assert_int_not_equal(space_write(b->space, gpa(3 * GiB), &v, 8), 0);
	assert_int_not_equal(space_write(b->space, gpa(last + 8), &v, 8), 0);
	board_destroy(b);
}

struct seen {
	unsigned n;
	uint8_t madt[1024];
};

static void each(void *ctx, const char *name, const void *bytes, size_t len)
{
	struct seen *s = ctx;

	s->n++;
	if (!strcmp(name, "APIC"))
		memcpy(s->madt, bytes, MIN(len, sizeof(s->madt)));
}

static void tables_have_the_engines_ids(void **state)
{
	struct board *b = make();
	struct seen s = {0};

	assert_int_equal(board_tables(b, each, &s, NULL), 0);
	assert_int_equal(s.n, 7);
	assert_int_equal(s.madt[44 + 3], 0);
	assert_int_equal(s.madt[52 + 3], 2);
	assert_int_equal(s.madt[60 + 3], 4);
	board_destroy(b);
}

static void refused(void **state)
{
	struct board *b;
	struct err e = {0};

	rig.o.firmware = rig.kernel;
	assert_int_equal(board_create(&b, "pc", &rig.o, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "--kernel"));
	rig.o.firmware = NULL;
	rig.engine.vm_irq = NULL;
	assert_int_equal(board_create(&b, "pc", &rig.o, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "interrupt controllers"));
	rig.engine.vm_irq = on_irq;
	rig.o.cpu_model = "fail=2";
	assert_int_equal(board_create(&b, "pc", &rig.o, &e), -ENOMEM);
	assert_int_equal(board_create(&b, "virt", &rig.o, &e), -EINVAL);
}

static void state_goes_round(void **state)
{
	struct board *b = make(), *c;
	struct state_obj *objs;
	struct err e = {0};
	uint8_t *buf;
	size_t len;
	unsigned n;

	out(b, BUS_PIO, 0xcf8, 4, 0x80000010);
	out(b, BUS_PIO, PC_PORT_RTC, 1, 0x40);
	out(b, BUS_PIO, PC_PORT_RTC + 1, 1, 0x77);
	assert_int_equal(board_state(b, &objs, &n), 0);
	assert_int_equal(n, 1 + 3 + 2 + 7);
	assert_int_equal(state_save(objs, n, &buf, &len, &e), 0);
	free(objs);
	board_destroy(b);
	c = make();
	assert_int_equal(board_state(c, &objs, &n), 0);
	if (state_load(objs, n, buf, len, &e))
		fail_msg("%s", err_msg(&e));
	assert_int_equal(in(c, BUS_PIO, 0xcf8, 4), 0x80000010);
	assert_int_equal(in(c, BUS_PIO, PC_PORT_RTC + 1, 1), 0x77);
	free(objs);
	free(buf);
	board_destroy(c);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(starts_in_long_mode),
		T(the_map_answers),
		T(power_and_reset),
		T(another_generation),
		T(interrupts_reach_the_engine),
		T(memory_goes_on_behind_the_hole),
		T(tables_have_the_engines_ids),
		T(refused),
		T(state_goes_round),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
