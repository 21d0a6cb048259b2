#include "device/classes.h"

const struct device_class *const device_classes[] = {
	&finisher_class,
	&ged_class,
	&rtc_class,
	&rtc_cmos_class,
	&uart_class,
	&virtio_balloon_class,
	&virtio_blk_class,
	&virtio_console_class,
	&virtio_input_class,
	&virtio_net_class,
	&virtio_rng_class,
	&virtio_vsock_class,
	&vmgenid_class,
	NULL,
};
