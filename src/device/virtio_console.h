/*
 * virtio_console.h: options of the class "virtio-console".
 */
#ifndef LODGE_DEVICE_VIRTIO_CONSOLE_H
#define LODGE_DEVICE_VIRTIO_CONSOLE_H

struct chardev;

struct virtio_console_opts {
	struct chardev *chardev; /* NULL: nobody listens. Must outlive the device */
};

#endif
