/*
 * offline.h: the part of configuring packages that the host can do in the guest's place.
 *
 * A package is taken off the list of those that the second stage has to configure only where what its postinst does at
 * a first installation is done here or has no effect on a machine that has not been started yet.
 */
#ifndef LODGE_IMAGE_OFFLINE_H
#define LODGE_IMAGE_OFFLINE_H

#include "image/pull.h"
#include "image/rootfs.h"

/* Before rootfs_write_db() is final: it writes the database again. */
int offline_configure(struct pull *p, struct rootfs *r, struct err *e);

#endif
