/*
 * store.h: how the image store and the cache lie on disk; for the files of this folder.
 *
 *	<data>/images/debian-mini/manifest.json, vmlinux, initrd, disk.raw
 *	<data>/images/.debian-mini.lock		flock(2): one pull or removal at a time
 *	<cache>/debs/<sha256>.deb		packages
 *	<cache>/index/<sha256>.xz		Packages files
 *	<cache>/kernel/<sha256>-<version>/	see kernel.h
 *	<cache>/built/<key>/			finished images, by what they were made from
 *	<cache>/making/debian-mini/		of the pull that holds the lock
 */
#ifndef LODGE_IMAGE_STORE_H
#define LODGE_IMAGE_STORE_H

#include "image/image.h"

/* <data>/images/<name with '-' for ':'>; NULL without memory. */
char *store_dir(const struct image_dirs *d, const char *name);

/* Takes the lock of a name; *fd keeps it until it is closed. -EBUSY names the holder. */
int store_lock(const struct image_dirs *d, const char *name, int *fd, struct err *e);

/* Reads dir/manifest.json. */
json_t *manifest_read(const char *dir, struct err *e);

/*
 * Puts a finished directory (of <cache>/built) into the store under its manifest's name: links or copies the
 * files to a new directory and exchanges it with what is there.
 */
int store_publish(const struct image_dirs *d, const char *name, const char *built, struct err *e);

/* A copy that shares blocks or keeps holes. `to` must not exist. On an error it is removed. */
int file_copy(const char *from, const char *to, mode_t mode, struct err *e);

#endif
