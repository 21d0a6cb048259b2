/* test_fdt.c: the tree, read back with libfdt. That Linux takes it is shown by the system tests. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <libfdt.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "machine/fdt.h"
#include "machine/topology.h"
#include "machine/virt_map.h"

static struct topology topo;

static void *make(unsigned harts, unsigned nodes, bool firmware, const char *args)
{
	struct fdt_opts o = {.topology = &topo,
		.isa = "rv64imac_zicbom_zba_ssaia",
		.mmu = "riscv,sv48",
		.msi_ids = 255,
		.firmware = firmware,
		.bootargs = args,
		.initrd = 0x90000000,
		.initrd_len = 0x1234};
	struct err e = {0};
	void *dtb;
	size_t len;

	assert_int_equal(
		topology_init(&topo, harts, nodes, virt_map[VIRT_DRAM].base, 256 * MiB, &e), 0);
	if (fdt_virt(&o, &dtb, &len, &e))
		fail_msg("%s", err_msg(&e));
	assert_int_equal(fdt_check_full(dtb, len), 0);
	return dtb;
}

static uint32_t cell(const void *dtb, const char *path, const char *prop, unsigned i)
{
	int len, node = fdt_path_offset(dtb, path);
	const uint8_t *p;

	if (node < 0)
		fail_msg("no node %s", path);
	p = fdt_getprop(dtb, node, prop, &len);
	if (!p || len < (int)(4 * i + 4))
		fail_msg("no cell %u of %s in %s", i, prop, path);
	return get_be32(p + 4 * i);
}

static void harts_carry_their_isa(void **state)
{
	void *dtb = make(3, 1, false, NULL);
	int node = fdt_path_offset(dtb, "/cpus/cpu@2"), len;

	assert_string_equal(fdt_getprop(dtb, node, "riscv,isa", &len), "rv64imac_zicbom_zba_ssaia");
	assert_int_equal(fdt_stringlist_count(dtb, node, "riscv,isa-extensions"), 7);
	assert_string_equal(fdt_stringlist_get(dtb, node, "riscv,isa-extensions", 3, &len), "c");
	assert_string_equal(
		fdt_stringlist_get(dtb, node, "riscv,isa-extensions", 6, &len), "ssaia");
	assert_int_equal(cell(dtb, "/cpus/cpu@2", "riscv,cbom-block-size", 0), 64);
	assert_null(fdt_getprop(dtb, node, "riscv,cboz-block-size", &len));
	assert_null(fdt_getprop(dtb, node, "numa-node-id", &len));
	assert_int_equal(cell(dtb, "/cpus", "timebase-frequency", 0), 10000000);
	assert_true(fdt_path_offset(dtb, "/cpus/cpu@3") < 0);
	free(dtb);
}

static void every_phandle_is_someones(void **state)
{
	static const struct {
		const char *path, *prop;
		unsigned first, stride;
	} refs[] = {
		{"/soc/interrupt-controller@28000000", "interrupts-extended", 0, 2},
		{"/soc/interrupt-controller@24000000", "interrupts-extended", 0, 2},
		{"/soc/clint@2000000", "interrupts-extended", 0, 2},
		{"/soc/interrupt-controller@d000000", "msi-parent", 0, 1},
		{"/soc/interrupt-controller@c000000", "msi-parent", 0, 1},
		{"/soc/interrupt-controller@c000000", "riscv,children", 0, 1},
		{"/soc/pci@30000000", "msi-parent", 0, 1},
		{"/soc/pci@30000000", "interrupt-map", 4, 7},
		{"/soc/serial@10000000", "interrupt-parent", 0, 1},
		{"/soc/rtc@101000", "interrupt-parent", 0, 1},
		{"/poweroff", "regmap", 0, 1},
		{"/cpus/cpu-map/cluster1/core0", "cpu", 0, 1},
	};
	void *dtb = make(128, 2, true, NULL);

	for (size_t i = 0; i < ARRAY_SIZE(refs); i++) {
		int len = 0, node = fdt_path_offset(dtb, refs[i].path);

		assert_true(node >= 0);
		assert_non_null(fdt_getprop(dtb, node, refs[i].prop, &len));
		for (unsigned k = refs[i].first; k < (unsigned)len / 4; k += refs[i].stride)
			assert_true(fdt_node_offset_by_phandle(
					    dtb, cell(dtb, refs[i].path, refs[i].prop, k)) >= 0);
	}
	assert_int_equal(
		cell(dtb, "/soc/interrupt-controller@28000000", "riscv,hart-index-bits", 0), 7);
	free(dtb);
}

static void machine_level_is_for_firmware_only(void **state)
{
	void *dtb = make(1, 1, false, "quiet");
	int len;

	assert_true(fdt_path_offset(dtb, "/soc/clint@2000000") < 0);
	assert_true(fdt_path_offset(dtb, "/soc/interrupt-controller@24000000") < 0);
	assert_string_equal(
		fdt_getprop(dtb, fdt_path_offset(dtb, "/chosen"), "bootargs", &len), "quiet");
	assert_int_equal(cell(dtb, "/chosen", "linux,initrd-end", 1), 0x90001234);
	assert_int_equal(
		cell(dtb, "/soc/interrupt-controller@28000000", "riscv,hart-index-bits", 0), 0);
	free(dtb);
}

static void pci_pins_are_swizzled_as_the_bridge_does(void **state)
{
	void *dtb = make(1, 1, false, NULL);

	for (unsigned slot = 0; slot < 4; slot++)
		for (unsigned pin = 0; pin < 4; pin++) {
			unsigned at = 7 * (4 * slot + pin);

			assert_int_equal(
				cell(dtb, "/soc/pci@30000000", "interrupt-map", at), slot << 11);
			assert_int_equal(
				cell(dtb, "/soc/pci@30000000", "interrupt-map", at + 3), pin + 1);
			assert_int_equal(cell(dtb, "/soc/pci@30000000", "interrupt-map", at + 5),
				32 + (slot + pin) % 4);
		}
	free(dtb);
}

static void long_arguments_fit_or_are_refused(void **state)
{
	char *args = malloc(3 * MiB);
	struct fdt_opts o = {.topology = &topo, .isa = "rv64i", .mmu = "riscv,sv39"};
	struct err e = {0};
	void *dtb;
	size_t len;

	memset(args, 'a', 3 * MiB);
	args[100000] = 0;
	free(make(1, 1, false, args));
	args[100000] = 'a';
	args[3 * MiB - 1] = 0;
	o.bootargs = args;
	assert_int_equal(fdt_virt(&o, &dtb, &len, &e), -E2BIG);
	o.bootargs = NULL;
	o.isa = "rv32i";
	assert_int_equal(fdt_virt(&o, &dtb, &len, &e), -EINVAL);
	free(args);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(harts_carry_their_isa),
		cmocka_unit_test(every_phandle_is_someones),
		cmocka_unit_test(machine_level_is_for_firmware_only),
		cmocka_unit_test(pci_pins_are_swizzled_as_the_bridge_does),
		cmocka_unit_test(long_arguments_fit_or_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
