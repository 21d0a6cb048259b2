/*
 * rtc.h: Goldfish real-time clock: nanoseconds since 1970 with one alarm.
 *
 *	0x00 time low (reading it latches the high half)   0x04 time high
 *	0x08 alarm low (writing it arms the alarm)	   0x0c alarm high
 *	0x10 interrupt enable	0x14 clear alarm	   0x18 alarm is armed	  0x1c clear interrupt
 *
 * 32-bit accesses. Time is the host's wall clock plus an offset that the guest sets by writing time high, then time low.
 * An alarm in the past fires at once. Alarms need env->loop; without one (some tests) they fire when a
 * register is touched.
 *
 * Source: Android's goldfish-virtual-hardware notes; Linux drivers/rtc/rtc-goldfish.c names the registers.
 */
#ifndef LODGE_DEVICE_CLOCK_RTC_H
#define LODGE_DEVICE_CLOCK_RTC_H

#include <stdint.h>

#include "bus/bus.h"

#define RTC_SIZE 0x1000ull

struct rtc_opts {
	uint64_t base;
	struct irq_line irq;
	uint64_t
		fixed_ns; /* not 0: the clock starts there and counts the host's monotonic time (repeatable runs) */
};

#endif
