#include "device/classes.h"

const struct device_class *const device_classes[] = {
	&finisher_class,
	&rtc_class,
	&uart_class,
	NULL,
};
