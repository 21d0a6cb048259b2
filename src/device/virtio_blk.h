/*
 * virtio_blk.h: options of the class "virtio-blk" (virtio 1.2, section 5.2): a disk (disk/disk.h) as a PCI device.
 *
 * The device opens the disk when it is realized and closes it when it goes. Whether a write is durable when it completes: where
 * the driver took the flush command or the cache switch, when it says so; else always (section 5.2.6.2).
 */
#ifndef LODGE_DEVICE_VIRTIO_BLK_H
#define LODGE_DEVICE_VIRTIO_BLK_H

#include <stdint.h>

#include "disk/disk.h"

struct device;
struct err;

#define VIRTIO_BLK_QUEUES_MAX 16
#define VIRTIO_BLK_ID_MAX 20

struct virtio_blk_opts {
	struct disk_opts disk; /* loop and client are set by the device */
	const char *
		serial; /* what the guest sees under /dev/disk/by-id; cut to 20 bytes; NULL: the device's id */
	unsigned queues; /* 1 to VIRTIO_BLK_QUEUES_MAX */
};

/* Grows the disk and tells the driver (disk_resize()). -EINVAL when d is not a virtio-blk. Loop thread, not under the device's lock. */
int virtio_blk_resize(struct device *d, uint64_t size, struct err *e);

/* The disk of a virtio-blk, or NULL; it stays the device's. */
struct disk *virtio_blk_disk(struct device *d);

#endif
