/*
 * offline.h: the part of configuring packages that the host can do in the guest's place.
 *
 * Most of the second stage's time goes into a few maintainer scripts (certificates, debconf, timers). For
 * scripts that are known, by their digest, the host does what they do at a first installation, and the package counts as
 * installed. A script that is not known, because Debian changed it, runs in the second stage as all others do:
 * slower, never wrong. The kernel's and initramfs-tools' scripts are taken by name: all they do is run depmod, which the
 * host has done, and build an initramfs, which is ours.
 */
#ifndef LODGE_IMAGE_OFFLINE_H
#define LODGE_IMAGE_OFFLINE_H

#include "image/pull.h"
#include "image/rootfs.h"

/* After rootfs_write_db(): writes the database again. */
int offline_configure(struct pull *p, struct rootfs *r, struct err *e);

/* The bundle, the links by name and by hash, and the list: as update-ca-certificates(8) leaves them. */
int offline_certificates(struct rootfs *r, struct err *e);

#endif
