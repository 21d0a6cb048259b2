/*
 * power.h: what a power cut changes beside what the device had not kept: the host is booted again, and its lease in a store says another boot
 * (docs/lodgefs.md, Lease). Without this an image is that of a process that was killed.
 */
#ifndef LODGE_TESTS_POWER_H
#define LODGE_TESTS_POWER_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "disk/memdev.h"

static inline void lose_power(struct memdevs *devs)
{
	uint8_t lease[512];

	if (memdev_peek(devs, "store", 8192, lease, sizeof(lease)) || get_le32(lease) != 0x736c664c)
		return;
	memset(lease + 120, 'x', 36);
	put_le32(lease + 4, 0);
	put_le32(lease + 4, crc32c(0, lease, sizeof(lease)));
	assert_int_equal(memdev_poke(devs, "store", 8192, lease, sizeof(lease)), 0);
}

#endif
