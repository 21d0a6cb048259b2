/*
 * virtio_input.h: the machine's power button.
 */
#ifndef LODGE_DEVICE_VIRTIO_INPUT_H
#define LODGE_DEVICE_VIRTIO_INPUT_H

struct device;
struct err;

/* Presses and releases the key. Event loop thread. -ENOTCONN while the guest has no driver for it. */
int virtio_input_power(struct device *d, struct err *e);

#endif
