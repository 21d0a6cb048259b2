/*
 * kernel.h: the kernel and the few modules of it that a virtual machine needs, out of the
 * linux-image package; and initial RAM file systems made from them.
 *
 * The package has 112 MB; it is read once, and what was wanted of it is kept in the cache beside it:
 *
 *	CACHE/kernel/<digest of the .deb>/vmlinux	a RISC-V Image (Documentation/arch/riscv/boot-image-header), or a bzImage
 *					/release	its `uname -r`
 *					/config
 *					/modules/NAME.ko	uncompressed; /modules/order: NAME deps...
 */
#ifndef LODGE_IMAGE_KERNEL_H
#define LODGE_IMAGE_KERNEL_H

#include "image/text.h"

struct kmodule {
	char *name; /* "virtio_blk": '-' in file names is '_' here */
	char *file; /* "virtio_blk.ko" */
	char *deps; /* names with blanks between, in the order that modprobe wants them gone from */
};

struct kernel {
	char *dir; /* in the cache */
	char *release;
	struct kmodule *mod; /* a module comes after those that it depends on */
	size_t nmod;
};

/* Takes the kernel from the cache, or from the package file `deb` whose digest is `sha256`. */
int kernel_load(struct kernel *k, const char *cache, const char *deb, const char *sha256,
	const char *arch, struct err *e);
void kernel_free(struct kernel *k); /* fit for cleanup() */

/*
 * Writes an initramfs (cpio newc, not compressed: a guest that is interpreted unpacks nothing
 * faster than what is not packed). busybox is the content of the static busybox, agent that of lodge-agent (empty: none).
 * debian:mini's own: */
int initramfs_mini(const struct kernel *k, const struct buf *busybox, const struct buf *agent,
	const char *path, struct err *e);

/* One that mounts root= and goes on there; with "lodge.stage2" on the command line it runs the second stage. */
int initramfs_disk(
	const struct kernel *k, const struct buf *busybox, const char *path, struct err *e);

/* The applets that this busybox binary has, as names with a '\n' behind each, found in its table. */
int busybox_applets(const struct buf *busybox, struct buf *names, struct err *e);

#endif
