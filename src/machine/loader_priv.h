/*
 * loader_priv.h: what the files of the loader share. Not for others.
 */
#ifndef LODGE_MACHINE_LOADER_PRIV_H
#define LODGE_MACHINE_LOADER_PRIV_H

#include "machine/loader.h"

#define IMAGE_HEAD 4096u /* bytes of a kernel that are looked at to tell what it is */

/* -EINVAL when the file does not reach that far. */
int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len, struct err *e);
/* [off, off + len) of the file to guest memory at `at`, a piece at a time. */
int boot_file_copy(struct space *s, const struct boot_file *f, uint64_t off, uint64_t len,
	uint64_t at, struct err *e);

bool boot_file_starts(const struct boot_file *f, const char *magic, size_t len);
#define ELF_MAGIC "\177ELF"
#define GZIP_MAGIC "\037\213"

/* Unpacks the whole file, up to `max` bytes, into `out` (in memory; boot_file_close() it). */
int boot_file_gunzip(const struct boot_file *f, struct boot_file *out, uint64_t max, struct err *e);

/* What a file is that is no kernel of ours, as words ("an initrd"); NULL: not known. */
const char *kernel_mistaken(const uint8_t *head, size_t len);

int loader_elf(struct space *s, const struct boot_file *f, const struct loader_place *p,
	struct loaded *out, struct err *e);

#endif
