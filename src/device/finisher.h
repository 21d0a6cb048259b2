/*
 * finisher.h: the test finisher: a 32-bit store ends the machine.
 *
 *	0x5555			shut down, code 0
 *	0x3333 | code << 16	the guest failed with `code` (0 counts as 1): CPU_SYSTEM_CRASH
 *	0x7777			reboot
 *
 * Other values are ignored; reads are zero. Widths 2 and 4 (a half-word store has code 0). Source: SiFive's test
 * device as QEMU's `virt` board has it; the device tree calls it sifive,test0 and syscon.
 */
#ifndef LODGE_DEVICE_FINISHER_H
#define LODGE_DEVICE_FINISHER_H

#include "bus/bus.h"

#define FINISHER_SIZE 0x1000ull
#define FINISHER_PORTS 4ull
#define FINISHER_PASS 0x5555u
#define FINISHER_FAIL 0x3333u
#define FINISHER_RESET 0x7777u

struct finisher_opts {
	uint64_t base;
	enum bus_space space;
};

#endif
