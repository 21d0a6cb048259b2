/*
 * images.h: images in memory, for tests of a format: a loop and the devices that stand for files, made anew for each test.
 */
#ifndef LODGE_TESTS_IMAGES_H
#define LODGE_TESTS_IMAGES_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "disk/memdev.h"

static struct rig {
	uv_loop_t loop;
	struct memdevs devs;
	struct err e;
} rig;

static inline int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	return 0;
}

static inline int teardown(void **state)
{
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	memdevs_free(&rig.devs);
	return 0;
}

#endif
