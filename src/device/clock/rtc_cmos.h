/*
 * rtc_cmos.h: the real-time clock of a PC: MC146818 behind an index and a data port, with its battery-backed memory.
 *
 *	0x00..0x09 seconds, their alarm, minutes, alarm, hours, alarm, day of the week, of the month, month, year; 0x32 century
 *	0x0a rate   0x0b enables, formats   0x0c what happened (reading clears)   0x0d valid   0x0e.. memory
 *
 * Byte accesses. Time is the host's wall clock (UTC) plus an offset that the guest sets, as with rtc.h. Binary or BCD, 24 or
 * 12 hours. Alarm, update and periodic interrupts; the periodic one not faster than each millisecond. There is never an update in
 * progress. Interrupts need env->loop; without one (some tests) they come when a register is touched.
 *
 * Source: Motorola MC146818A data sheet.
 */
#ifndef LODGE_DEVICE_CLOCK_RTC_CMOS_H
#define LODGE_DEVICE_CLOCK_RTC_CMOS_H

#include <stdint.h>

#include "bus/bus.h"

#define RTC_CMOS_PORTS 2ull

struct rtc_cmos_opts {
	uint64_t port;
	struct irq_line irq;
	uint64_t fixed_ns; /* as rtc_opts.fixed_ns */
};

#endif
