/* test_loader.c: kernels and firmware, right and wrong, into 16 MiB of memory. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <zlib.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "machine/loader.h"
#include "memory/space.h"

#define RAM 0x80000000ull
#define LEN (16 * MiB)

static const struct loader_place place = {RAM, RAM + LEN, RAM + 0x200000};

static struct rig {
	struct frames *f;
	struct space *s;
	uint8_t image[8192];
	uint8_t elf[4096];
	struct loaded out;
	struct err e;
} rig;

static void image_reset(void)
{
	memset(rig.image, 0xab, sizeof(rig.image));
	put_le64(rig.image + 8, 0x200000);
	put_le64(rig.image + 16, 0x4000);
	put_le64(rig.image + 24, 0);
	put_le32(rig.image + 0x38, 0x05435352);
}

static Elf64_Ehdr *eh(void)
{
	return (Elf64_Ehdr *)rig.elf;
}

static Elf64_Phdr *ph(unsigned i)
{
	return (Elf64_Phdr *)(rig.elf + 64) + i;
}

/* Two segments: text at RAM, and data with bss at RAM + 1 MiB. */
static void elf_reset(void)
{
	memset(rig.elf, 0xcd, sizeof(rig.elf));
	*eh() = (Elf64_Ehdr){.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = 243,
		.e_entry = RAM + 4,
		.e_phoff = 64,
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2};
	*ph(0) = (Elf64_Phdr){.p_type = PT_LOAD,
		.p_offset = 1024,
		.p_vaddr = RAM,
		.p_paddr = RAM,
		.p_filesz = 512,
		.p_memsz = 512};
	*ph(1) = (Elf64_Phdr){.p_type = PT_LOAD,
		.p_offset = 2048,
		.p_vaddr = RAM + MiB,
		.p_paddr = RAM + MiB,
		.p_filesz = 256,
		.p_memsz = 8192};
}

static int setup(void **state)
{
	struct frames_opts fo = {.nodes = 1, .node_bytes = {LEN + 4 * MiB}, .name = "t"};

	memset(&rig, 0, sizeof(rig));
	assert_int_equal(frames_create(&rig.f, &fo, &rig.e), 0);
	assert_int_equal(space_create(&rig.s, rig.f, &rig.e), 0);
	assert_int_equal(space_add_ram(rig.s, gpa(RAM), LEN, 0, "ram", &rig.e), 0);
	image_reset();
	elf_reset();
	return 0;
}

static int teardown(void **state)
{
	space_destroy(rig.s);
	frames_destroy(rig.f);
	return 0;
}

static int load(const void *bytes, size_t len, bool firmware)
{
	struct boot_file f;
	int rc;

	memset(&rig.e, 0, sizeof(rig.e));
	assert_int_equal(
		boot_file_memory(&f, firmware ? "firmware" : "kernel", bytes, len, NULL), 0);
	rc = firmware ? loader_firmware(rig.s, &f, &place, &rig.out, &rig.e)
		      : loader_kernel(rig.s, &f, &place, &rig.out, &rig.e);
	boot_file_close(&f);
	return rc;
}

static uint8_t peek(uint64_t at)
{
	uint8_t v;

	assert_int_equal(space_read(rig.s, gpa(at), &v, 1), 0);
	return v;
}

static void image_goes_where_it_says(void **state)
{
	assert_int_equal(load(rig.image, sizeof(rig.image), false), 0);
	assert_true(rig.out.entry == RAM + 0x200000);
	assert_true(rig.out.end == RAM + 0x204000);
	assert_int_equal(peek(RAM + 0x200000 + 8191), 0xab);
	assert_int_equal(peek(RAM + 0x200000 + 8192), 0);
	/* A header that says less than the file has does not make the next thing land inside it. */
	put_le64(rig.image + 16, 100);
	assert_int_equal(load(rig.image, sizeof(rig.image), false), 0);
	assert_true(rig.out.end == RAM + 0x202000);
	put_le64(rig.image + 8, 0);
	assert_int_equal(load(rig.image, sizeof(rig.image), false), 0);
	assert_true(rig.out.start == RAM + 0x200000);
	put_le64(rig.image + 8, 0x400000);
	assert_int_equal(load(rig.image, sizeof(rig.image), false), 0);
	assert_true(rig.out.start == RAM + 0x400000);
}

static void refuse(const void *bytes, size_t len, bool firmware, const char *words)
{
	assert_true(load(bytes, len, firmware) < 0);
	if (!strstr(err_msg(&rig.e), words))
		fail_msg("'%s' is not in '%s'", words, err_msg(&rig.e));
	assert_null(strchr(err_msg(&rig.e), '\n'));
}

static void images_that_lie_are_refused(void **state)
{
	static const uint64_t sizes[] = {
		LEN, LEN - 0x200000 + 1, INT64_MAX, 1ull << 63, UINT64_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		image_reset();
		put_le64(rig.image + 16, sizes[i]);
		refuse(rig.image, sizeof(rig.image), false, i < 3 ? "needs" : "damaged");
		image_reset();
		put_le64(rig.image + 8, sizes[i]);
		refuse(rig.image, sizeof(rig.image), false, i == 0 ? "needs" : "damaged");
	}
	image_reset();
	put_le64(rig.image + 16, 0);
	refuse(rig.image, sizeof(rig.image), false, "damaged");
	image_reset();
	put_le64(rig.image + 24, 1);
	refuse(rig.image, sizeof(rig.image), false, "big-endian");
	image_reset();
	for (size_t n = 0; n < 64; n++)
		refuse(rig.image, n, false, "no riscv64 Image");
	assert_int_equal(peek(RAM + 0x200000), 0);
}

static void a_stubbed_image_that_was_cut_is_noticed(void **state)
{
	uint8_t *pe = rig.image + 0x40, *section = pe + 24 + 16;

	memcpy(rig.image, "MZ", 2);
	put_le32(rig.image + 0x3c, 0x40);
	memcpy(pe, "PE\0", 4);
	put_le16(pe + 6, 1);
	put_le16(pe + 20, 16);
	put_le32(section + 16, 0x1000);
	put_le32(section + 20, 0x1000);
	assert_int_equal(load(rig.image, sizeof(rig.image), false), 0);
	refuse(rig.image, sizeof(rig.image) - 1, false, "cut short");
	put_le16(pe + 6, 0xffff);
	put_le16(pe + 20, 0xffff);
	assert_int_equal(load(rig.image, sizeof(rig.image), false), 0);
	put_le32(rig.image + 0x3c, UINT32_MAX);
	assert_int_equal(load(rig.image, sizeof(rig.image), false), 0);
}

static void other_kernels_are_named(void **state)
{
	static const struct {
		size_t off;
		const char *magic, *words;
	} kinds[] = {
		{0x202, "HdrS", "x86"},
		{0x38, "ARM\x64", "arm64"},
		{0,
			"\xfd"
			"7zXZ",
			"xz -d"},
		{0, "\x28\xb5\x2f\xfd", "zstd -d"},
		{0, "\xd0\x0d\xfe\xed", "device tree"},
		{0, "070701", "cpio"},
		{0, "#!/bin/sh", "no riscv64 Image"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		memset(rig.image, 0x11, sizeof(rig.image));
		memcpy(rig.image + kinds[i].off, kinds[i].magic, strlen(kinds[i].magic));
		refuse(rig.image, sizeof(rig.image), false, kinds[i].words);
	}
}

static size_t zip(const void *bytes, size_t len, uint8_t *out, size_t room)
{
	z_stream z = {.next_in = (void *)bytes,
		.avail_in = (uInt)len,
		.next_out = out,
		.avail_out = (uInt)room};

	assert_int_equal(
		deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

static void gzip_is_unpacked_and_bounded(void **state)
{
	static uint8_t packed[256 * KiB];
	uint8_t *bomb = calloc(1, 32 * MiB);
	size_t n = zip(rig.image, sizeof(rig.image), packed, sizeof(packed));

	assert_int_equal(load(packed, n, false), 0);
	assert_true(rig.out.gzip);
	assert_int_equal(peek(RAM + 0x200000 + 8191), 0xab);
	refuse(packed, n - 9, false, "damaged");
	packed[n / 2] ^= 0x55;
	refuse(packed, n, false, "");
	n = zip(rig.elf, sizeof(rig.elf), packed, sizeof(packed));
	assert_int_equal(load(packed, n, false), 0);
	assert_true(rig.out.entry == RAM + 4);
	n = zip(bomb, 32 * MiB, packed, sizeof(packed));
	refuse(packed, n, false, "larger than the machine's memory");
	refuse(packed, n, true, "compressed");
	free(bomb);
}

static void elf_segments_land_and_bss_is_zero(void **state)
{
	uint8_t junk = 0xee;

	assert_int_equal(space_write(rig.s, gpa(RAM + MiB + 300), &junk, 1), 0);
	assert_int_equal(load(rig.elf, sizeof(rig.elf), true), 0);
	assert_true(rig.out.entry == RAM + 4);
	assert_true(rig.out.start == RAM && rig.out.end == RAM + MiB + 8192);
	assert_int_equal(peek(RAM + 511), 0xcd);
	assert_int_equal(peek(RAM + MiB + 255), 0xcd);
	assert_int_equal(peek(RAM + MiB + 300), 0);
	/* virtual entry */
	ph(0)->p_vaddr = 0xffffffff80000000;
	eh()->e_entry = 0xffffffff80000010;
	assert_int_equal(load(rig.elf, sizeof(rig.elf), false), 0);
	assert_true(rig.out.entry == RAM + 0x10);
	/* the linker has put the headers into a page before RAM */
	elf_reset();
	ph(0)->p_offset = 0;
	ph(0)->p_vaddr = ph(0)->p_paddr = RAM - 1024;
	ph(0)->p_filesz = ph(0)->p_memsz = 1024 + 512;
	assert_int_equal(load(rig.elf, sizeof(rig.elf), true), 0);
	assert_true(rig.out.start == RAM && rig.out.entry == RAM + 4);
	assert_int_equal(peek(RAM), 0xcd);
	ph(0)->p_offset = 8;
	assert_true(load(rig.elf, sizeof(rig.elf), true) < 0);
	/* position-independent, linked at 0 */
	elf_reset();
	eh()->e_type = ET_DYN;
	eh()->e_entry = 0;
	ph(0)->p_vaddr = ph(0)->p_paddr = 0;
	ph(1)->p_vaddr = ph(1)->p_paddr = 0x1000;
	assert_int_equal(load(rig.elf, sizeof(rig.elf), true), 0);
	assert_true(rig.out.entry == RAM && rig.out.end == RAM + 0x3000);
}

static void elf_that_lies_is_refused(void **state)
{
#define LIE(change, words) \
	do { \
		elf_reset(); \
		change; \
		refuse(rig.elf, sizeof(rig.elf), true, words); \
	} while (0)
	LIE(eh()->e_machine = EM_X86_64, "x86-64");
	LIE(eh()->e_machine = EM_AARCH64, "arm64");
	LIE(eh()->e_ident[EI_CLASS] = ELFCLASS32, "32-bit");
	LIE(eh()->e_ident[EI_DATA] = ELFDATA2MSB, "big-endian");
	LIE(eh()->e_type = ET_REL, "link it");
	LIE(eh()->e_phnum = 0, "program headers");
	LIE(eh()->e_phnum = 65, "program headers");
	LIE(eh()->e_phentsize = 55, "program headers");
	LIE(eh()->e_phoff = 4095, "outside the file");
	LIE(eh()->e_phoff = UINT64_MAX - 10, "outside the file");
	LIE(eh()->e_entry = 0, "in no segment");
	LIE(eh()->e_entry = RAM + 512, "in no segment");
	LIE(ph(0)->p_filesz = 4096, "longer than the file");
	LIE(ph(0)->p_offset = UINT64_MAX, "longer than the file");
	LIE((ph(0)->p_memsz = 100), "longer than the file");
	LIE(ph(1)->p_memsz = UINT64_MAX, "wants");
	LIE(ph(1)->p_memsz = LEN, "wants");
	LIE(ph(1)->p_paddr = RAM - 1, "wants");
	LIE(ph(1)->p_paddr = UINT64_MAX - 4096, "wants");
	LIE((ph(0)->p_type = ph(1)->p_type = PT_NOTE), "nothing to load");
	elf_reset();
	for (size_t n = 4; n < 64 + 56; n++)
		refuse(rig.elf, n, true, "");
	/* Nothing was written by any of these, not even by the good first segment. */
	assert_int_equal(peek(RAM), 0);
}

static void raw_firmware_goes_to_the_start(void **state)
{
	uint8_t *big = calloc(1, LEN + 1);

	assert_int_equal(load("\x13\x00\x00\x00rest", 8, true), 0);
	assert_true(rig.out.entry == RAM && rig.out.end == RAM + 8);
	assert_int_equal(peek(RAM), 0x13);
	refuse(big, LEN + 1, true, "larger");
	assert_int_equal(load(big, LEN, true), 0);
	free(big);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(image_goes_where_it_says),
		T(images_that_lie_are_refused),
		T(a_stubbed_image_that_was_cut_is_noticed),
		T(other_kernels_are_named),
		T(gzip_is_unpacked_and_bounded),
		T(elf_segments_land_and_bss_is_zero),
		T(elf_that_lies_is_refused),
		T(raw_firmware_goes_to_the_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
