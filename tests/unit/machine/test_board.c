/* test_board.c: the `virt` board with an engine that runs nothing: construction, unwinding, boot, reset, state. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <libfdt.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "bus/pci.h"
#include "device/finisher.h"
#include "machine/board.h"
#include "machine/topology.h"
#include "stub_machine.h"

#define DRAM 0x80000000ull

static struct rig {
	uv_loop_t loop;
	char dir[64], kernel[96], initrd[96], firmware[96];
	struct board_opts o;
	int event;
} rig;

static void on_event(void *ctx, int event, uint64_t code)
{
	rig.event = event;
}

static void put_file(char path[96], const char *name, const void *bytes, size_t len)
{
	FILE *f;

	snprintf(path, 96, "%s/%s", rig.dir, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	fclose(f);
}

static int setup(void **state)
{
	static uint8_t image[8192], initrd[5000], firmware[1000];

	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	strcpy(rig.dir, "/tmp/lodge-board-XXXXXX");
	assert_non_null(mkdtemp(rig.dir));
	put_le64(image + 8, 0x200000);
	put_le64(image + 16, 0x10000);
	put_le32(image + 0x38, 0x05435352);
	memset(initrd, 0x5a, sizeof(initrd));
	memset(firmware, 0x13, sizeof(firmware));
	put_file(rig.kernel, "Image", image, sizeof(image));
	put_file(rig.initrd, "initrd", initrd, sizeof(initrd));
	put_file(rig.firmware, "fw.bin", firmware, sizeof(firmware));
	rig.o = (struct board_opts){.engine = &stub_engine,
		.vcpus = 3,
		.memory = 64 * MiB,
		.nodes = 1,
		.seed = 7,
		.kernel = rig.kernel,
		.loop = &rig.loop,
		.system_event = on_event};
	return 0;
}

static int teardown(void **state)
{
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	unlink(rig.kernel);
	unlink(rig.initrd);
	unlink(rig.firmware);
	rmdir(rig.dir);
	return 0;
}

static struct board *make(void)
{
	struct board *b = NULL;
	struct err e = {0};

	if (board_create(&b, "virt", &rig.o, &e))
		fail_msg("%s", err_msg(&e));
	return b;
}

static void boot(struct board *b)
{
	struct err e = {0};

	if (board_boot(b, &e))
		fail_msg("%s", err_msg(&e));
}

static void *tree(struct board *b)
{
	uint64_t at = b->vcpus[0]->boot.arg1;
	uint8_t head[8];
	void *dtb;

	assert_int_equal(space_read(b->space, gpa(at), head, sizeof(head)), 0);
	dtb = malloc(get_be32(head + 4));
	assert_non_null(dtb);
	assert_int_equal(space_read(b->space, gpa(at), dtb, get_be32(head + 4)), 0);
	assert_int_equal(fdt_check_full(dtb, get_be32(head + 4)), 0);
	return dtb;
}

static void kernel_starts_in_s_mode_on_hart_0(void **state)
{
	struct board *b;
	uint8_t word[4];
	uint64_t start, stop;
	void *dtb;
	int chosen, len;

	rig.o.initrd = rig.initrd;
	rig.o.append = "console=ttyS0 root=/dev/vda1";
	b = make();
	assert_true(b->cpu_vm->opts.builtin_firmware);
	boot(b);
	assert_true(b->vcpus[0]->boot.running);
	assert_true(b->vcpus[0]->boot.pc == DRAM + 0x200000);
	assert_false(b->vcpus[1]->boot.running);
	assert_int_equal(b->vcpus[2]->boot.arg0, 2);
	assert_int_equal(space_read(b->space, gpa(DRAM + 0x200038), word, 4), 0);
	assert_int_equal(get_le32(word), 0x05435352);
	dtb = tree(b);
	chosen = fdt_path_offset(dtb, "/chosen");
	assert_string_equal(fdt_getprop(dtb, chosen, "bootargs", &len), rig.o.append);
	start = get_be64(fdt_getprop(dtb, chosen, "linux,initrd-start", &len));
	stop = get_be64(fdt_getprop(dtb, chosen, "linux,initrd-end", &len));
	assert_int_equal(stop - start, 5000);
	assert_true(start % 4096 == 0 && start >= DRAM + 0x210000);
	assert_int_equal(space_read(b->space, gpa(stop - 4), word, 4), 0);
	assert_int_equal(get_le32(word), 0x5a5a5a5a);
	assert_true(fdt_path_offset(dtb, "/soc/interrupt-controller@c000000") < 0);
	assert_true(fdt_path_offset(dtb, "/soc/interrupt-controller@d000000") > 0);
	free(dtb);
	board_destroy(b);
}

static void firmware_starts_every_hart_in_m_mode(void **state)
{
	struct board *b;
	uint8_t info[48];
	void *dtb;

	rig.o.firmware = rig.firmware;
	b = make();
	assert_false(b->cpu_vm->opts.builtin_firmware);
	boot(b);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(b->vcpus[i]->boot.running);
		assert_true(b->vcpus[i]->boot.pc == DRAM);
		assert_int_equal(b->vcpus[i]->boot.arg0, i);
	}
	assert_int_equal(space_read(b->space, gpa(b->vcpus[0]->boot.arg2), info, 48), 0);
	assert_true(get_le64(info) == 0x4942534f);
	assert_int_equal(get_le64(info + 8), 2);
	assert_true(get_le64(info + 16) == DRAM + 0x200000);
	assert_int_equal(get_le64(info + 24), 1);
	dtb = tree(b);
	assert_true(fdt_path_offset(dtb, "/soc/interrupt-controller@c000000") > 0);
	assert_true(fdt_path_offset(dtb, "/soc/clint@2000000") > 0);
	free(dtb);
	board_destroy(b);
}

static void the_map_answers_where_it_should(void **state)
{
	static const uint64_t at[] = {0x100000, 0x101000, 0x2000000, 0x3000000, 0xc000000,
		0xd000000, 0x10000000, 0x24000000, 0x28002000, 0x30000000, 0x3ffffffc};
	static const uint64_t not_at[] = {
		0, 0x1000, 0x24003000, 0x40000000, 0x7ffffffc, DRAM, 0x400000000};
	struct board *b = make();
	uint64_t v;

	for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
		assert_int_equal(bus_access(b->bus, BUS_MMIO, at[i], 4, false, &v), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(not_at); i++)
		assert_int_equal(bus_access(b->bus, BUS_MMIO, not_at[i], 4, false, &v), -ENXIO);
	v = 0x5555;
	assert_int_equal(bus_access(b->bus, BUS_MMIO, 0x100000, 4, true, &v), 0);
	assert_int_equal(rig.event, CPU_SYSTEM_SHUTDOWN);
	board_destroy(b);
}

static void an_uart_interrupt_reaches_an_interrupt_file(void **state)
{
	struct board *b = make();
	uint64_t v;

#define WR(a, val) \
	do { \
		v = (val); \
		assert_int_equal(bus_access(b->bus, BUS_MMIO, (a), 4, true, &v), 0); \
	} while (0)
	WR(0xd000000, 0x100);
	WR(0xd000000 + 4 * 10, 6);
	WR(0xd003000 + 4 * 10, 1 << 18 | 42);
	WR(0xd001edc, 10);
	WR(0x10000001 - 1, 'x');
	v = 2;
	assert_int_equal(bus_access(b->bus, BUS_MMIO, 0x10000001, 1, true, &v), 0);
	assert_int_equal(b->vcpus[1]->messages[CPU_MSI_S], 1);
	assert_int_equal(b->vcpus[1]->last[CPU_MSI_S], 42);
	board_reset(b);
	assert_int_equal(bus_access(b->bus, BUS_MMIO, 0xd001e00, 4, false, &v), 0);
	assert_int_equal(v, 0);
	board_destroy(b);
}

static void boots_again_without_opening_files(void **state)
{
	struct board *b = make();
	uint32_t junk = 0;
	uint8_t word[4];

	boot(b);
	unlink(rig.kernel);
	assert_int_equal(space_write(b->space, gpa(DRAM + 0x200038), &junk, 4), 0);
	board_reset(b);
	assert_false(b->vcpus[0]->boot.running);
	boot(b);
	assert_true(b->vcpus[0]->boot.running);
	assert_int_equal(space_read(b->space, gpa(DRAM + 0x200038), word, 4), 0);
	assert_int_equal(get_le32(word), 0x05435352);
	board_destroy(b);
}

static void nodes_split_memory_and_harts(void **state)
{
	struct board *b;
	void *dtb;
	int len, off;

	rig.o.nodes = 2;
	rig.o.vcpus = 4;
	b = make();
	boot(b);
	assert_non_null(space_ram(b->space, 1));
	dtb = tree(b);
	off = fdt_path_offset(dtb, "/memory@82000000");
	assert_int_equal(get_be32(fdt_getprop(dtb, off, "numa-node-id", &len)), 1);
	off = fdt_path_offset(dtb, "/cpus/cpu@2");
	assert_int_equal(get_be32(fdt_getprop(dtb, off, "numa-node-id", &len)), 1);
	off = fdt_path_offset(dtb, "/distance-map");
	assert_non_null(fdt_getprop(dtb, off, "distance-matrix", &len));
	assert_int_equal(len, 4 * 3 * 4);
	free(dtb);
	board_destroy(b);
}

static void seeds_repeat_and_differ(void **state)
{
	uint8_t first[32], again[32];
	int len;

	for (unsigned i = 0; i < 3; i++) {
		struct board *b;
		void *dtb;
		const void *p;

		rig.o.seed = i == 2 ? 8 : 7;
		b = make();
		boot(b);
		dtb = tree(b);
		p = fdt_getprop(dtb, fdt_path_offset(dtb, "/chosen"), "rng-seed", &len);
		assert_int_equal(len, 32);
		memcpy(i ? again : first, p, 32);
		if (i == 1)
			assert_memory_equal(first, again, 32);
		free(dtb);
		board_destroy(b);
	}
	assert_memory_not_equal(first, again, 32);
}

static void refuse(int code, const char *words)
{
	struct board *b = NULL;
	struct err e = {0};
	int rc = board_create(&b, "virt", &rig.o, &e);

	if (!rc) {
		rc = board_boot(b, &e);
		board_destroy(b);
	}
	assert_int_equal(rc, code);
	if (!strstr(err_msg(&e), words))
		fail_msg("'%s' is not in '%s'", words, err_msg(&e));
	assert_null(strchr(err_msg(&e), '\n'));
}

static void bad_shapes_are_refused(void **state)
{
	rig.o.vcpus = 0;
	refuse(-EINVAL, "1 to 128");
	rig.o.vcpus = 129;
	refuse(-EINVAL, "1 to 128");
	rig.o.vcpus = 1;
	rig.o.memory = 0;
	refuse(-EINVAL, "memory 0");
	rig.o.memory = 3;
	refuse(-EINVAL, "memory 3");
	rig.o.memory = 1ull << 60;
	refuse(-ENOMEM, "this host has");
	rig.o.memory = 64 * MiB;
	rig.o.nodes = 17;
	refuse(-EINVAL, "NUMA");
	rig.o.nodes = 1;
	rig.o.kernel = NULL;
	refuse(-EINVAL, "nothing to boot");
	rig.o.initrd = rig.initrd;
	rig.o.firmware = rig.firmware;
	refuse(-EINVAL, "no kernel");
}

static void bad_files_are_refused(void **state)
{
	char empty[96];

	rig.o.kernel = "/nonexistent/kernel";
	refuse(-ENOENT, "kernel /nonexistent/kernel");
	rig.o.kernel = "/";
	refuse(-EINVAL, "not a file");
	put_file(empty, "empty", "", 0);
	rig.o.kernel = empty;
	refuse(-EINVAL, "empty");
	unlink(empty);
	rig.o.kernel = "/bin/true";
	refuse(-EINVAL, "x86-64");
	rig.o.kernel = rig.initrd;
	refuse(-EINVAL, "riscv64");
}

static void what_does_not_fit_is_refused(void **state)
{
	char big[96];
	int fd;

	snprintf(big, sizeof(big), "%s/big", rig.dir);
	fd = open(big, O_CREAT | O_RDWR, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 70 * MiB), 0);
	close(fd);
	rig.o.initrd = big;
	refuse(-E2BIG, "do not fit");
	rig.o.initrd = NULL;
	rig.o.firmware = big;
	refuse(-E2BIG, "larger than the machine's memory");
	assert_int_equal(truncate(big, 3 * MiB), 0);
	refuse(-EINVAL, "over the kernel");
	unlink(big);
}

static void a_failing_step_unwinds(void **state)
{
	struct board_device twice[] = {
		{"test-finisher", "x.0", &(struct finisher_opts){0x50000000}},
		{"no-such", "y.0", NULL}};

	rig.o.cpu_model = "fail=2";
	refuse(-ENOMEM, "told to fail");
	rig.o.cpu_model = NULL;
	rig.o.devices = twice;
	rig.o.ndevices = 2;
	refuse(-ENOENT, "no-such");
	twice[1].cls = "test-finisher";
	twice[1].id = "x.0";
	refuse(-EEXIST, "x.0");
}

static void wrong_board_or_engine(void **state)
{
	struct cpu_engine_ops other = stub_engine;
	struct board *b;
	struct err e = {0};

	assert_int_equal(board_create(&b, "sparc", &rig.o, &e), -ENOENT);
	other.isa = "x86-64";
	rig.o.engine = &other;
	refuse(-EINVAL, "riscv64");
}

static void state_goes_round(void **state)
{
	struct state_obj *objs;
	struct board *b = make(), *c;
	struct err e = {0};
	unsigned n;
	uint8_t *buf, *buf2;
	size_t len, len2;
	uint64_t v = 0x5a;

	boot(b);
	assert_int_equal(bus_access(b->bus, BUS_MMIO, 0x10000007, 1, true, &v), 0);
	v = 1;
	assert_int_equal(bus_access(b->bus, BUS_MMIO, 0x2000004, 4, true, &v), 0);
	b->vcpus[2]->mtimecmp = 99;
	assert_int_equal(board_state(b, &objs, &n), 0);
	assert_int_equal(n, 1 + 3 + 3 + 4);
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(objs[i].id, objs[k].id);
	assert_int_equal(state_save(objs, n, &buf, &len, &e), 0);
	free(objs);
	board_destroy(b);
	c = make();
	assert_int_equal(board_state(c, &objs, &n), 0);
	if (state_load(objs, n, buf, len, &e))
		fail_msg("%s", err_msg(&e));
	assert_int_equal(bus_access(c->bus, BUS_MMIO, 0x10000007, 1, false, &v), 0);
	assert_int_equal(v, 0x5a);
	assert_true(c->vcpus[1]->irq[CPU_IRQ_M_SOFT]);
	assert_int_equal(c->vcpus[2]->mtimecmp, 99);
	assert_int_equal(state_save(objs, n, &buf2, &len2, &e), 0);
	assert_int_equal(len, len2);
	free(objs);
	free(buf);
	free(buf2);
	board_destroy(c);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(kernel_starts_in_s_mode_on_hart_0),
		T(firmware_starts_every_hart_in_m_mode),
		T(the_map_answers_where_it_should),
		T(an_uart_interrupt_reaches_an_interrupt_file),
		T(boots_again_without_opening_files),
		T(nodes_split_memory_and_harts),
		T(seeds_repeat_and_differ),
		T(bad_shapes_are_refused),
		T(bad_files_are_refused),
		T(what_does_not_fit_is_refused),
		T(a_failing_step_unwinds),
		T(wrong_board_or_engine),
		T(state_goes_round),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
