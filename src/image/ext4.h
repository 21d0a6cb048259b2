/*
 * ext4.h: the ext4 image of a root file system, made by the programs of e2fsprogs.
 *
 * mke2fs fills the image from the directory, whose files belong to whoever runs us; debugfs then sets the
 * owners, groups and modes that the packages want. Neither needs privileges, mounts or namespaces.
 */
#ifndef LODGE_IMAGE_EXT4_H
#define LODGE_IMAGE_EXT4_H

#include "image/rootfs.h"

/* Makes `path` (sparse) of `size` bytes. `work` is for intermediate files. The table of r is sorted by this. */
int ext4_make(struct rootfs *r, const char *path, uint64_t size, const char *label,
	const char *work, struct err *e);

/* Reads a file of an image that nobody has mounted. -ENOENT when it is not there. */
int ext4_read(
	const char *image, const char *file, const char *work, struct buf *out, struct err *e);

/* Runs debugfs commands, one a line; any complaint is an error. */
int ext4_edit(const char *image, const struct buf *commands, const char *work, struct err *e);

/* -EUCLEAN when e2fsck finds anything to repair. */
int ext4_check(const char *image, struct err *e);

#endif
