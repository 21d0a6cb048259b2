/* test_cmos.c: the clock of a PC: formats, setting, alarms and update interrupts, state. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "bus/bus.h"
#include "device/clock/rtc_cmos.h"
#include "device/device.h"

#define PORT 0x70
/* 2026-02-03 14:05:06.9 UTC, a Tuesday */
#define START (1770127506ull * 1000000000 + 900000000)

static struct rig {
	struct bus *b;
	struct device_env env;
	struct device *d;
	uv_loop_t loop;
	uv_async_t keep;
	bool line;
	unsigned edges;
} rig;

static void line_set(void *ctrl, unsigned pin, bool level)
{
	rig.edges += level && !rig.line;
	rig.line = level;
}

static uint8_t get(uint8_t reg)
{
	uint64_t v = reg;

	assert_int_equal(bus_access(rig.b, BUS_PIO, PORT, 1, true, &v), 0);
	assert_int_equal(bus_access(rig.b, BUS_PIO, PORT + 1, 1, false, &v), 0);
	return (uint8_t)v;
}

static void put(uint8_t reg, uint8_t val)
{
	uint64_t v = reg;

	assert_int_equal(bus_access(rig.b, BUS_PIO, PORT, 1, true, &v), 0);
	v = val;
	assert_int_equal(bus_access(rig.b, BUS_PIO, PORT + 1, 1, true, &v), 0);
}

static int setup(void **state)
{
	struct err e = {0};

	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	uv_async_init(&rig.loop, &rig.keep, NULL);
	assert_int_equal(bus_create(&rig.b, &e), 0);
	rig.env = (struct device_env){.bus = rig.b, .loop = &rig.loop};
	assert_int_equal(device_create(&rig.d, "rtc-cmos", "rtc.1", &rig.env,
				 &(struct rtc_cmos_opts){PORT, {line_set, NULL, 8}, START}, &e),
		0);
	rig.d->cls->reset(rig.d);
	return 0;
}

static int teardown(void **state)
{
	device_destroy(rig.d);
	bus_destroy(rig.b);
	uv_close((uv_handle_t *)&rig.keep, NULL);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	return 0;
}

static void stop(uv_timer_t *t)
{
	uv_stop(t->loop);
}

static void turn(unsigned ms)
{
	uv_timer_t t;

	uv_timer_init(&rig.loop, &t);
	uv_timer_start(&t, stop, ms, 0);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	uv_close((uv_handle_t *)&t, NULL);
	uv_run(&rig.loop, UV_RUN_NOWAIT);
}

static void tells_the_time(void **state)
{
	assert_int_equal(get(0x0d), 0x80);
	assert_int_equal(get(0x0a) & 0x80, 0);
	assert_int_equal(get(4), 0x14);
	assert_int_equal(get(2), 0x05);
	assert_int_equal(get(6), 3);
	assert_int_equal(get(7), 0x03);
	assert_int_equal(get(8), 0x02);
	assert_int_equal(get(9), 0x26);
	assert_int_equal(get(0x32), 0x20);
	put(0x0b, 0x06);
	assert_int_equal(get(9), 26);
	put(0x0b, 0x00); /* BCD, 12 hours */
	assert_int_equal(get(4), 0x82);
}

static void is_set(void **state)
{
	put(0x0b, 0x86);
	put(0, 58);
	put(2, 59);
	put(4, 23);
	put(7, 31);
	put(8, 12);
	put(9, 99);
	put(0x32, 19);
	assert_int_equal(get(9), 99);
	put(0x0b, 0x06);
	assert_int_equal(get(8), 12);
	assert_int_equal(get(0x32), 19);
	assert_true(get(0) == 58 || get(0) == 59);
	/* One register by itself, while the clock runs. */
	put(4, 3);
	assert_int_equal(get(4), 3);
	assert_int_equal(get(2), 59);
	/* A battery: reset changes no time and no memory. */
	put(0x50, 0xa5);
	rig.d->cls->reset(rig.d);
	assert_int_equal(get(4), 3);
	assert_int_equal(get(0x50), 0xa5);
}

static void interrupts(void **state)
{
	get(0x0c);
	assert_int_equal(get(0x0c), 0);
	put(0x0b, 0x12); /* updates: the second is over 0.1 s after the start */
	turn(300);
	assert_true(rig.line);
	assert_int_equal(get(0x0c) & 0x90, 0x90);
	assert_false(rig.line);
	assert_int_equal(rig.edges, 1);
	/* An alarm at each second of this minute: don't care. */
	put(1, 0xff);
	put(3, 0xff);
	put(5, 0xff);
	put(0x0b, 0x22);
	turn(1200);
	assert_int_equal(get(0x0c) & 0xa0, 0xa0);
	/* The periodic interrupt: 64 Hz. */
	put(0x0a, 0x2a);
	put(0x0b, 0x42);
	rig.edges = 0;
	for (unsigned i = 0; i < 5; i++) {
		turn(30);
		get(0x0c);
	}
	assert_true(rig.edges >= 4 && rig.edges <= 6);
}

static void hostile_state(void **state)
{
	struct state_obj obj = {"rtc.1", rig.d->cls->state, rig.d};
	struct err e = {0};
	uint8_t *buf;
	size_t len;

	put(0x60, 0x11);
	assert_int_equal(state_save(&obj, 1, &buf, &len, &e), 0);
	put(0x60, 0x22);
	assert_int_equal(state_load(&obj, 1, buf, len, &e), 0);
	assert_int_equal(get(0x60), 0x11);
	assert_int_equal(get(4), 0x14);
	free(buf);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(tells_the_time),
		T(is_set),
		T(interrupts),
		T(hostile_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
