/*
 * host.h: the second stage without a machine: the packages are configured on the disk by this host's own kernel, where it is of the same
 * architecture and we are root.
 *
 *   child: namespaces of its own (mounts, processes, network, IPC, host name, cgroups), then process 1 in them:
 *     loop device --> ext4 --> pivot_root: nothing of the host's files is left; /dev with six nodes and devpts, /proc to be read only
 *     process 2: without the capabilities that reach beyond the disk: /var/lib/lodge/stage2
 *     all others end; the disk is remounted to be read only, which writes all of it
 *
 * What runs are maintainer scripts of packages whose signatures were checked, as `dpkg --root` or debootstrap run them, with less.
 */
#ifndef LODGE_IMAGE_STAGE2_HOST_H
#define LODGE_IMAGE_STAGE2_HOST_H

#include "image/image.h"

/* 0, or why not: another architecture, not root, namespaces or loop devices that are not to be had. */
int stage2_host_can(const char *arch, struct err *e);

/* An image_boot_fn: kernel, initrd and memory are not wanted. `ctx`: a directory to mount the disk at (char *). */
int stage2_host(void *ctx, const struct image_boot *b, struct err *e);

#endif
