/*
 * loader.h: kernels, firmware and initrds from files into guest memory.
 *
 *	boot_file_open() ... loader_kernel() / loader_firmware() / loader_blob() -> space_write()
 *
 * Kernels: RISC-V Linux `Image` (Documentation/arch/riscv/boot-image-header.rst), also with an EFI stub in
 * front of it as Debian ships it; gzip'ed Image; ELF64 RISC-V programs. Firmware: ELF64, or a raw binary for the
 * start of DRAM. Everything in a file is untrusted: offsets and sizes are checked against the file and against where RAM is.
 *
 * Files are opened once and stay open, so that a machine can boot again after it has lost the right to open files. A
 * file is read again at each boot; one that has shrunk meanwhile is an error, not a crash.
 *
 * Each refusal is one line: what is wrong with which file, and what to give instead. Event loop thread.
 */
#ifndef LODGE_MACHINE_LOADER_H
#define LODGE_MACHINE_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct space;

struct boot_file {
	const char *what; /* "kernel"; static text */
	char *path; /* NULL: there is none */
	int fd; /* -1: `mem` holds the bytes */
	uint8_t *mem;
	uint64_t size;
};

/* An empty file, a directory or what cannot be read is refused. */
int boot_file_open(struct boot_file *f, const char *what, const char *path, struct err *e);
/* For tests and fuzzers: a copy of bytes in memory. */
int boot_file_memory(
	struct boot_file *f, const char *what, const void *bytes, uint64_t size, struct err *e);
void boot_file_close(struct boot_file *f);

/* Where guest RAM is, and where in it a kernel goes by default. */
struct loader_place {
	uint64_t ram, ram_end;
	uint64_t kernel; /* for images that do not say (and the least that they may say) */
	const char *isa; /* of ELF files: "riscv64" or "amd64"; NULL: riscv64 */
};

struct loaded {
	uint64_t start, end; /* of what the guest image occupies, with its bss */
	uint64_t entry;
	bool gzip;
};

/* riscv64 kernels; those for x86: loader_x86.h. */
int loader_kernel(struct space *s, const struct boot_file *f, const struct loader_place *p,
	struct loaded *out, struct err *e);
int loader_firmware(struct space *s, const struct boot_file *f, const struct loader_place *p,
	struct loaded *out, struct err *e);
/* The whole file to `at` (initrd); the caller knows that [at, at + size) is RAM. */
int loader_blob(struct space *s, const struct boot_file *f, uint64_t at, struct err *e);

struct image_header {
	uint64_t text_offset, image_size, flags;
};

/* Looks at the first bytes of a kernel (at least 64 where the file has them). -EINVAL says what it is instead. */
int image_header_parse(
	const char *path, const uint8_t *head, size_t len, struct image_header *h, struct err *e);

#endif
