/*
 * classes.h: every device class that this build has, for table.c. One line a class.
 */
#ifndef LODGE_DEVICE_CLASSES_H
#define LODGE_DEVICE_CLASSES_H

#include "device/device.h"

extern const struct device_class finisher_class;
extern const struct device_class ged_class;
extern const struct device_class rtc_class;
extern const struct device_class rtc_cmos_class;
extern const struct device_class uart_class;
extern const struct device_class virtio_balloon_class;
extern const struct device_class virtio_blk_class;
extern const struct device_class virtio_console_class;
extern const struct device_class virtio_input_class;
extern const struct device_class virtio_net_class;
extern const struct device_class virtio_rng_class;
extern const struct device_class virtio_vsock_class;
extern const struct device_class vmgenid_class;

#endif
