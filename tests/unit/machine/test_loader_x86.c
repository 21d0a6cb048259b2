/* test_loader_x86.c: amd64 kernels, right and wrong, into 64 MiB of memory, and what they are told. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "machine/loader_x86.h"
#include "machine/pc_map.h"
#include "machine/topology.h"
#include "memory/space.h"

#define LEN (64 * MiB)
#define PAYLOAD 8192u

static struct rig {
	struct frames *f;
	struct space *s;
	uint8_t bz[1024 + PAYLOAD];
	uint8_t elf[8192];
	struct x86_kernel k;
	struct err e;
} rig;

static void bz_reset(void)
{
	memset(rig.bz, 0xab, sizeof(rig.bz));
	memset(rig.bz + 0x1f1, 0, 0x290 - 0x1f1);
	rig.bz[0x1f1] = 1;
	put_le32(rig.bz + 0x1f4, PAYLOAD / 16);
	put_le16(rig.bz + 0x1fe, 0xaa55);
	rig.bz[0x201] = 0x6a;
	memcpy(rig.bz + 0x202, "HdrS", 4);
	put_le16(rig.bz + 0x206, 0x20f);
	rig.bz[0x211] = 1;
	put_le32(rig.bz + 0x22c, 0x7fffffff);
	put_le32(rig.bz + 0x230, 0x200000);
	rig.bz[0x234] = 1;
	put_le16(rig.bz + 0x236, 1);
	put_le32(rig.bz + 0x238, 2047);
	put_le64(rig.bz + 0x258, 0x1000000);
	put_le32(rig.bz + 0x260, 0x100000);
}

static Elf64_Ehdr *eh(void)
{
	return (Elf64_Ehdr *)rig.elf;
}

static Elf64_Phdr *ph(unsigned i)
{
	return (Elf64_Phdr *)(rig.elf + 64) + i;
}

/* Text at 16 MiB, and a note segment with another note in front of the one that counts. */
static void elf_reset(void)
{
	static const uint32_t notes[] = {4, 5, 1, 0x554e47, 0, 0, 4, 4, 18, 0x6e6558, 0x1000040};

	memset(rig.elf, 0xcd, sizeof(rig.elf));
	*eh() = (Elf64_Ehdr){.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_entry = 0x1000100,
		.e_phoff = 64,
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2};
	*ph(0) = (Elf64_Phdr){.p_type = PT_LOAD,
		.p_offset = 4096,
		.p_vaddr = 0x1000000,
		.p_paddr = 0x1000000,
		.p_filesz = 4096,
		.p_memsz = 8192};
	*ph(1) = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = 1024, .p_filesz = sizeof(notes)};
	memcpy(rig.elf + 1024, notes, sizeof(notes));
}

static int setup(void **state)
{
	struct frames_opts fo = {.nodes = 1, .node_bytes = {LEN + 4 * MiB}, .name = "t"};

	memset(&rig, 0, sizeof(rig));
	bz_reset();
	elf_reset();
	assert_int_equal(frames_create(&rig.f, &fo, NULL), 0);
	assert_int_equal(space_create(&rig.s, rig.f, NULL), 0);
	assert_int_equal(space_add_ram(rig.s, gpa(0), LEN, 0, "ram", NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	space_destroy(rig.s);
	frames_destroy(rig.f);
	return 0;
}

static int load(const void *bytes, size_t n, uint64_t low_end)
{
	struct boot_file f;
	int rc;

	rig.e = (struct err){0};
	assert_int_equal(boot_file_memory(&f, "kernel", bytes, n, NULL), 0);
	rc = x86_kernel_load(rig.s, &f, low_end, &rig.k, &rig.e);
	boot_file_close(&f);
	return rc;
}

static void says(const char *what)
{
	if (!strstr(rig.e.msg, what))
		fail_msg("'%s' is not in: %s", what, rig.e.msg);
	assert_null(strchr(rig.e.msg, '\n'));
}

static void bzimage_goes_where_it_likes_to(void **state)
{
	uint8_t back[16];

	assert_int_equal(load(rig.bz, sizeof(rig.bz), LEN), 0);
	assert_false(rig.k.pvh);
	assert_int_equal(rig.k.start, 0x1000000);
	assert_int_equal(rig.k.end, 0x1100000);
	assert_int_equal(rig.k.entry, 0x1000200);
	assert_int_equal(rig.k.initrd_max, 0x7fffffff);
	space_read(rig.s, gpa(0x1000000 + PAYLOAD - 16), back, 16);
	assert_memory_equal(back, rig.bz + sizeof(rig.bz) - 16, 16);
	/* Little memory: it moves down. */
	assert_int_equal(load(rig.bz, sizeof(rig.bz), 8 * MiB), 0);
	assert_int_equal(rig.k.start, 0x200000);
	rig.bz[0x234] = 0;
	assert_int_equal(load(rig.bz, sizeof(rig.bz), 8 * MiB), -E2BIG);
	says("--memory");
}

static void bzimage_fields(void **state)
{
#define REFUSED(change, word) \
	do { \
		bz_reset(); \
		change; \
		assert_int_equal(load(rig.bz, sizeof(rig.bz), LEN), -EINVAL); \
		says(word); \
	} while (0)
	REFUSED(rig.bz[0x1fe] = 0, "boot_flag");
	REFUSED(rig.bz[0x202] = 0, "no bzImage");
	REFUSED(put_le16(rig.bz + 0x206, 0x20b), "2.11");
	REFUSED(rig.bz[0x211] = 0, "zImage");
	REFUSED(rig.bz[0x236] = 0, "32-bit");
	REFUSED(rig.bz[0x201] = 0x10, "length");
	REFUSED(put_le32(rig.bz + 0x1f4, 0), "cut short");
	REFUSED(put_le32(rig.bz + 0x1f4, PAYLOAD / 16 + 2), "cut short");
	REFUSED(rig.bz[0x1f1] = 200, "cut short");
	REFUSED(put_le32(rig.bz + 0x260, 100), "init_size");
	REFUSED(put_le32(rig.bz + 0x230, 0x300000), "kernel_alignment");
	REFUSED(put_le32(rig.bz + 0x230, 0), "kernel_alignment");
	REFUSED(put_le64(rig.bz + 0x258, 0), "pref_address");
	REFUSED(put_le64(rig.bz + 0x258, 0x1000001), "pref_address");
	REFUSED(put_le64(rig.bz + 0x258, 1ull << 40), "pref_address");
	REFUSED((memset(rig.bz, 0, 0x290), memcpy(rig.bz, "070701", 6)), "initrd");
	REFUSED((memset(rig.bz, 0, 0x290), memcpy(rig.bz + 0x38, "RSC\5", 4)), "riscv64");
	bz_reset();
	put_le32(rig.bz + 0x260, 0xfffffff0);
	assert_int_equal(load(rig.bz, sizeof(rig.bz), LEN), -E2BIG);
	bz_reset();
	assert_int_equal(load(rig.bz, 700, LEN), -EINVAL);
	assert_int_equal(load(rig.bz, 100, LEN), -EINVAL);
}

static void elf_by_its_note(void **state)
{
	assert_int_equal(load(rig.elf, sizeof(rig.elf), LEN), 0);
	assert_true(rig.k.pvh);
	assert_int_equal(rig.k.entry, 0x1000040);
	assert_int_equal(rig.k.end, 0x1002000);
	/* Without the note: its entry point, in 64-bit mode. */
	ph(1)->p_type = PT_NULL;
	assert_int_equal(load(rig.elf, sizeof(rig.elf), LEN), 0);
	assert_false(rig.k.pvh);
	assert_int_equal(rig.k.entry, 0x1000100);
	elf_reset();
	put_le32(rig.elf + 1024 + 40, 0x5000000);
	assert_int_equal(load(rig.elf, sizeof(rig.elf), LEN), -EINVAL);
	says("PVH");
	elf_reset();
	ph(1)->p_filesz = 1 << 20;
	assert_int_equal(load(rig.elf, sizeof(rig.elf), LEN), -EINVAL);
	says("note");
	elf_reset();
	eh()->e_machine = 243;
	assert_int_equal(load(rig.elf, sizeof(rig.elf), LEN), -EINVAL);
	says("RISC-V");
	elf_reset();
	ph(0)->p_paddr = 0x1000; /* below 1 MiB is the board's */
	assert_int_equal(load(rig.elf, sizeof(rig.elf), LEN), -EINVAL);
	says("segment 0");
}

static void initrd_obeys_the_kernel(void **state)
{
	static uint8_t bytes[5 * 4096 - 7];
	struct boot_file f;
	uint64_t at;

	assert_int_equal(boot_file_memory(&f, "initrd", bytes, sizeof(bytes), NULL), 0);
	assert_int_equal(load(rig.bz, sizeof(rig.bz), LEN), 0);
	assert_int_equal(x86_initrd_place(&rig.k, &f, LEN, &at, NULL), 0);
	assert_int_equal(at, LEN - 5 * 4096);
	rig.k.initrd_max = 0x1fffffe;
	assert_int_equal(x86_initrd_place(&rig.k, &f, LEN, &at, NULL), 0);
	assert_int_equal(at, 0x1fff000 - 5 * 4096);
	rig.k.initrd_max = rig.k.end + 4096;
	assert_int_equal(x86_initrd_place(&rig.k, &f, LEN, &at, &rig.e), -E2BIG);
	says("--memory");
	rig.k.initrd_max = 0;
	assert_int_equal(x86_initrd_place(&rig.k, &f, LEN, &at, NULL), -E2BIG);
	boot_file_close(&f);
}

static void told(void **state)
{
	static const struct topology_range hole = {3 * GiB, GiB};
	struct topology t;
	struct x86_boot b = {.topology = &t,
		.cmdline = "console=ttyS0",
		.initrd = 0x3000000,
		.initrd_len = 4096,
		.rsdp = PC_ACPI,
		.seed = {1, 2, 3}};
	uint8_t zp[4096], text[16];
	uint64_t ram = 0;

	assert_int_equal(topology_init_hole(&t, 1, 1, 0, 5 * GiB, &hole, NULL), 0);
	assert_int_equal(load(rig.bz, sizeof(rig.bz), LEN), 0);
	assert_int_equal(x86_boot_write(rig.s, &rig.k, &b, NULL), 0);
	space_read(rig.s, gpa(PC_ZERO_PAGE), zp, sizeof(zp));
	assert_memory_equal(zp + 0x202, "HdrS", 4);
	assert_int_equal(zp[0x210], 0xff);
	assert_int_equal(get_le32(zp + 0x218), b.initrd);
	assert_int_equal(get_le32(zp + 0x21c), b.initrd_len);
	assert_int_equal(get_le64(zp + 0x70), PC_ACPI);
	space_read(rig.s, gpa(get_le32(zp + 0x228)), text, 16);
	assert_string_equal((char *)text, "console=ttyS0");
	for (unsigned i = 0; i < zp[0x1e8]; i++) {
		const uint8_t *at = zp + 0x2d0 + 20 * i;

		if (i)
			assert_true(get_le64(at) >= get_le64(at - 20) + get_le64(at - 12));
		if (get_le32(at + 16) == 1)
			ram += get_le64(at + 8);
	}
	assert_int_equal(ram, 5 * GiB - (PC_KERNEL - PC_LOW_END));
	space_read(rig.s, gpa(get_le64(zp + 0x250)), zp, 48);
	assert_int_equal(get_le32(zp + 8), 9);
	assert_memory_equal(zp + 16, b.seed, 32);
	/* The tables map what they are at. */
	space_read(rig.s, gpa(PC_PAGE_TABLES + 5 * 4096 + 8 * 511), zp, 8);
	assert_int_equal(get_le64(zp), 0xffe00083);
	b.cmdline = rig.k.cmdline_max ? (char *)memset(malloc(4000), 'x', 3999) : NULL;
	((char *)(uintptr_t)b.cmdline)[3999] = 0;
	assert_int_equal(x86_boot_write(rig.s, &rig.k, &b, &rig.e), -E2BIG);
	says("3999");
	free((void *)(uintptr_t)b.cmdline);
}

static void told_by_pvh(void **state)
{
	struct topology t;
	struct x86_boot b = {
		.topology = &t, .initrd = 0x3000000, .initrd_len = 99, .rsdp = PC_ACPI};
	uint8_t si[56], v[32];

	assert_int_equal(topology_init(&t, 1, 1, 0, LEN, NULL), 0);
	assert_int_equal(load(rig.elf, sizeof(rig.elf), LEN), 0);
	assert_int_equal(x86_boot_write(rig.s, &rig.k, &b, NULL), 0);
	space_read(rig.s, gpa(PC_START_INFO), si, sizeof(si));
	assert_int_equal(get_le32(si), 0x336ec578);
	assert_int_equal(get_le32(si + 4), 1);
	assert_int_equal(get_le32(si + 12), 1);
	assert_int_equal(get_le64(si + 32), PC_ACPI);
	space_read(rig.s, gpa(get_le64(si + 16)), v, 32);
	assert_int_equal(get_le64(v), b.initrd);
	assert_int_equal(get_le64(v + 8), 99);
	space_read(rig.s, gpa(get_le64(si + 40) + 24 * (get_le32(si + 48) - 2)), v, 24);
	assert_int_equal(get_le64(v), PC_KERNEL);
	assert_int_equal(get_le64(v) + get_le64(v + 8), LEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(bzimage_goes_where_it_likes_to, setup, teardown),
		cmocka_unit_test_setup_teardown(bzimage_fields, setup, teardown),
		cmocka_unit_test_setup_teardown(elf_by_its_note, setup, teardown),
		cmocka_unit_test_setup_teardown(initrd_obeys_the_kernel, setup, teardown),
		cmocka_unit_test_setup_teardown(told, setup, teardown),
		cmocka_unit_test_setup_teardown(told_by_pvh, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
