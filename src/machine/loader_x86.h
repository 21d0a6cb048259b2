/*
 * loader_x86.h: amd64 kernels into guest memory, and what they are told at their start.
 *
 *	x86_kernel_load() -> x86_initrd_place() -> loader_blob() -> x86_boot_write() -> the vCPU starts in out->mode at out->entry
 *
 * Taken: bzImage (boot protocol 2.12 or later, by its 64-bit entry), ELF64 with a PVH note (32-bit entry), ELF64 without (64-bit
 * entry at its entry point), and any of them gzip'ed. Everything in a file is untrusted; each field that cannot be is refused by name.
 *
 * Where things go below 1 MiB: pc_map.h. The kernel gets a zero page (struct boot_params) or an hvm_start_info, with a memory map, the
 * command line, the initrd, the ACPI root pointer and a seed for its random numbers.
 *
 * Sources: Linux' Documentation/arch/x86/boot.rst and zero-page.rst; Xen's x86/HVM direct boot ABI (PVH).
 */
#ifndef LODGE_MACHINE_LOADER_X86_H
#define LODGE_MACHINE_LOADER_X86_H

#include "cpu/cpu.h"
#include "machine/loader.h"

struct topology;

#define X86_HEADER_MAX 0x9fu /* bytes of a setup header that the zero page takes */

struct x86_kernel {
	bool pvh; /* entered in 32-bit mode with a start info; else in 64-bit mode with a zero page */
	uint64_t start, end; /* of all memory that it needs before it looks at the memory map */
	uint64_t entry;
	uint64_t initrd_max; /* the last byte of an initrd may lie here */
	uint32_t cmdline_max; /* bytes, without the zero */
	uint8_t header[X86_HEADER_MAX]; /* as the zero page has it from 0x1f1 on */
	unsigned header_len;
};

/* Puts it into RAM [1 MiB, low_end). */
int x86_kernel_load(struct space *s, const struct boot_file *f, uint64_t low_end,
	struct x86_kernel *out, struct err *e);

/* As high as the kernel allows, page-aligned. -E2BIG with what to do. */
int x86_initrd_place(const struct x86_kernel *k, const struct boot_file *initrd, uint64_t low_end,
	uint64_t *at, struct err *e);

struct x86_boot {
	const struct topology *topology;
	const char *cmdline; /* NULL: empty */
	uint64_t initrd, initrd_len; /* len 0: none */
	uint64_t rsdp;
	uint8_t seed[32];
};

/* Page tables, command line, and zero page or start info. -E2BIG: a command line that the kernel does not take. */
int x86_boot_write(
	struct space *s, const struct x86_kernel *k, const struct x86_boot *b, struct err *e);

/* Looks at the setup header of a bzImage; `head` holds its first bytes (at least 0x290 where the file has them). */
struct x86_setup {
	uint32_t setup_bytes, payload, init_size, align;
	uint64_t pref_address;
	bool relocatable;
};
int x86_setup_parse(const char *path, const uint8_t *head, size_t len, uint64_t file_size,
	struct x86_setup *h, struct err *e);

#endif
