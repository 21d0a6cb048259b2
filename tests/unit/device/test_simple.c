/* test_simple.c: UART, RTC, test finisher and the character channel. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "cpu/exit.h"
#include "device/chardev.h"
#include "device/device.h"
#include "device/finisher.h"
#include "device/clock/rtc.h"
#include "device/uart.h"

#define UART 0x10000000ull
#define RTC 0x101000ull
#define RTC_FIXED 0x102000ull
#define FIN 0x100000ull

static struct rig {
	struct bus *b;
	struct device_env env;
	struct chardev *c;
	struct device *uart, *rtc, *rtc_fixed, *fin;
	uv_loop_t loop;
	uv_async_t keep; /* devices do not keep a loop alive */
	bool line[3];
	int event;
	uint64_t code;
	unsigned events, outputs, rooms;
} rig;

static void line_set(void *ctrl, unsigned pin, bool level)
{
	rig.line[pin] = level;
}

static void on_event(void *ctx, int event, uint64_t code)
{
	rig.event = event;
	rig.code = code;
	rig.events++;
}

static void on_output(void *ctx)
{
	rig.outputs++;
}

static void on_room(void *ctx)
{
	rig.rooms++;
}

static uint64_t rd(uint64_t addr, unsigned size)
{
	uint64_t v;

	assert_int_equal(bus_access(rig.b, BUS_MMIO, addr, size, false, &v), 0);
	return v;
}

static void wr(uint64_t addr, unsigned size, uint64_t v)
{
	assert_int_equal(bus_access(rig.b, BUS_MMIO, addr, size, true, &v), 0);
}

static int setup(void **state)
{
	struct err e = {0};

	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	uv_async_init(&rig.loop, &rig.keep, NULL);
	assert_int_equal(bus_create(&rig.b, &e), 0);
	assert_int_equal(chardev_create(&rig.c, 64, 64, &e), 0);
	chardev_attach_back(rig.c, &(struct chardev_back){.output = on_output, .room = on_room});
	rig.env = (struct device_env){.bus = rig.b, .loop = &rig.loop, .system_event = on_event};
	assert_int_equal(device_create(&rig.uart, "uart-16550", "uart.0", &rig.env,
				 &(struct uart_opts){UART, {line_set, NULL, 0}, rig.c}, &e),
		0);
	assert_int_equal(device_create(&rig.rtc, "rtc-goldfish", "rtc.0", &rig.env,
				 &(struct rtc_opts){.base = RTC, .irq = {line_set, NULL, 1}}, &e),
		0);
	assert_int_equal(device_create(&rig.rtc_fixed, "rtc-goldfish", "rtc.1", &rig.env,
				 &(struct rtc_opts){.base = RTC_FIXED,
					 .irq = {line_set, NULL, 2},
					 .fixed_ns = 1000000000000000000ull},
				 &e),
		0);
	assert_int_equal(device_create(&rig.fin, "test-finisher", "finisher.0", &rig.env,
				 &(struct finisher_opts){FIN}, &e),
		0);
	rig.uart->cls->reset(rig.uart);
	rig.rtc->cls->reset(rig.rtc);
	rig.rtc_fixed->cls->reset(rig.rtc_fixed);
	rig.fin->cls->reset(rig.fin);
	return 0;
}

static int teardown(void **state)
{
	device_destroy(rig.fin);
	device_destroy(rig.rtc_fixed);
	device_destroy(rig.rtc);
	device_destroy(rig.uart);
	chardev_destroy(rig.c);
	bus_destroy(rig.b);
	uv_close((uv_handle_t *)&rig.keep, NULL);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	return 0;
}

static void uart_sends_and_reports_an_empty_transmitter(void **state)
{
	char buf[8] = {0};

	assert_int_equal(rd(UART + 5, 1), 0x60);
	assert_int_equal(rd(UART + 2, 1), 1);
	wr(UART, 1, 'h');
	wr(UART, 4, 'i');
	assert_int_equal(chardev_take(rig.c, buf, 8), 2);
	assert_string_equal(buf, "hi");
	assert_int_equal(rig.outputs, 1);
	assert_false(rig.line[0]);
	wr(UART + 1, 1, 2);
	assert_true(rig.line[0]);
	assert_int_equal(rd(UART + 2, 1), 2);
	assert_false(rig.line[0]);
	wr(UART, 1, 'x');
	assert_true(rig.line[0]);
}

static void uart_receives_through_the_fifo_without_loss(void **state)
{
	char text[64], got[65] = {0};

	for (unsigned i = 0; i < 64; i++)
		text[i] = (char)('0' + i % 64);
	wr(UART + 2, 1, 0xc1); /* FIFO, trigger at 14 */
	wr(UART + 1, 1, 1);
	assert_int_equal(chardev_give(rig.c, text, 3), 3);
	assert_true(rig.line[0]);
	assert_int_equal(rd(UART + 2, 1), 0xcc);
	assert_int_equal(chardev_give(rig.c, text + 3, 61), 61);
	assert_int_equal(rd(UART + 2, 1), 0xc4);
	assert_int_equal(chardev_give(rig.c, text, 64), 64 - (64 - 16));
	for (unsigned i = 0; i < 64; i++) {
		assert_int_equal(rd(UART + 5, 1) & 3, 1);
		got[i] = (char)rd(UART, 1);
	}
	assert_memory_equal(got, text, 64);
	assert_true(rig.rooms >= 1);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(rd(UART, 1), text[i]);
	assert_int_equal(rd(UART + 5, 1), 0x60);
	assert_false(rig.line[0]);
	assert_int_equal(rd(UART, 1), 0);
}

static void uart_without_fifo_holds_one_byte(void **state)
{
	chardev_give(rig.c, "ab", 2);
	assert_int_equal(rd(UART + 5, 1), 0x61);
	assert_int_equal(rd(UART, 1), 'a');
	assert_int_equal(rd(UART, 1), 'b');
	assert_int_equal(rd(UART + 5, 1), 0x60);
}

static void uart_loopback_and_modem_lines(void **state)
{
	assert_int_equal(rd(UART + 6, 1), 0xb0);
	wr(UART + 4, 1, 0x1a); /* loop, OUT2, RTS: what drivers use to find a port */
	assert_int_equal(rd(UART + 6, 1) & 0xf0, 0x90);
	wr(UART, 1, 'q');
	assert_int_equal(rd(UART + 5, 1), 0x61);
	wr(UART, 1, 'r');
	assert_int_equal(rd(UART + 5, 1), 0x63);
	assert_int_equal(rd(UART + 5, 1), 0x61);
	assert_int_equal(rd(UART, 1), 'q');
	wr(UART + 4, 1, 0);
	assert_int_equal(rd(UART + 6, 1), 0xb2);
	assert_int_equal(rd(UART + 6, 1), 0xb0);
}

static void uart_keeps_its_registers(void **state)
{
	wr(UART + 7, 1, 0x5a);
	assert_int_equal(rd(UART + 7, 1), 0x5a);
	wr(UART + 1, 1, 0xff);
	assert_int_equal(rd(UART + 1, 1), 0x0f);
	wr(UART + 3, 1, 0x83);
	wr(UART, 1, 0x34);
	wr(UART + 1, 1, 0x12);
	assert_int_equal(rd(UART, 1), 0x34);
	assert_int_equal(rd(UART + 1, 1), 0x12);
	wr(UART + 3, 1, 3);
	assert_int_equal(rd(UART + 1, 1), 0x0f);
	assert_int_equal(rd(UART + 0x80, 8), 0);
	wr(UART + 0x80, 8, UINT64_MAX);
}

static void uart_never_waits_for_a_reader(void **state)
{
	struct chardev_stat st;
	char buf[100];

	for (unsigned i = 0; i < 100; i++)
		wr(UART, 1, i);
	chardev_stat(rig.c, &st);
	assert_int_equal(st.lost, 36);
	assert_int_equal(chardev_take(rig.c, buf, 100), 64);
	assert_int_equal(buf[0], 36);
	assert_int_equal(buf[63], 99);
}

static void uart_state_goes_round(void **state)
{
	struct state_obj o = {"uart.0", rig.uart->cls->state, rig.uart};
	struct err e = {0};
	uint8_t *buf;
	size_t len;

	wr(UART + 2, 1, 1);
	wr(UART + 1, 1, 1);
	wr(UART + 7, 1, 0x77);
	chardev_give(rig.c, "abc", 3);
	assert_int_equal(state_save(&o, 1, &buf, &len, &e), 0);
	rig.uart->cls->reset(rig.uart);
	assert_false(rig.line[0]);
	assert_int_equal(state_load(&o, 1, buf, len, &e), 0);
	assert_true(rig.line[0]);
	assert_int_equal(rd(UART + 7, 1), 0x77);
	assert_int_equal(rd(UART, 1), 'a');
	assert_int_equal(rd(UART, 1), 'b');
	free(buf);
}

static void chardev_flow_control(void **state)
{
	char buf[200];

	memset(buf, 'z', sizeof(buf));
	assert_int_equal(chardev_write(rig.c, buf, 200), 64);
	assert_int_equal(chardev_write(rig.c, buf, 1), 0);
	assert_int_equal(chardev_take(rig.c, buf, 10), 10);
	assert_int_equal(chardev_write(rig.c, buf, 200), 10);
	chardev_write_lossy(rig.c, buf, 200);
	assert_int_equal(chardev_take(rig.c, buf, 200), 64);
	assert_int_equal(chardev_take(rig.c, buf, 200), 0);
	assert_int_equal(chardev_create(&(struct chardev *){0}, 15, 64, NULL), -EINVAL);
}

static uint64_t rtc_time(uint64_t base)
{
	uint64_t low = rd(base, 4);

	return rd(base + 4, 4) << 32 | low;
}

static void rtc_tells_and_keeps_time(void **state)
{
	uint64_t before = clock_wall_ns(), t = rtc_time(RTC);

	assert_true(before <= t && t <= clock_wall_ns());
	before = clock_mono_ns();
	wr(RTC + 4, 4, 1000);
	wr(RTC, 4, 0);
	t = rtc_time(RTC);
	assert_true(t >= 1000ull << 32 && t - (1000ull << 32) <= clock_mono_ns() - before);
	rig.rtc->cls->reset(rig.rtc);
	assert_true(rtc_time(RTC) < 1001ull << 32);
}

/* On a clock of its own: somebody may set the host's wall clock meanwhile. */
static void rtc_alarm_fires_from_the_loop(void **state)
{
	uint64_t at = rtc_time(RTC_FIXED) + 30000000, deadline = clock_mono_ns() + 30000000000ull;

	wr(RTC_FIXED + 0x10, 4, 1);
	wr(RTC_FIXED + 0xc, 4, at >> 32);
	wr(RTC_FIXED + 8, 4, at & 0xffffffff);
	assert_true(rd(RTC_FIXED + 0x18, 4) || rtc_time(RTC_FIXED) >= at);
	while (!rig.line[2] && clock_mono_ns() < deadline) {
		uv_run(&rig.loop, UV_RUN_NOWAIT);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	assert_true(rig.line[2]);
	assert_true(rtc_time(RTC_FIXED) >= at);
	wr(RTC_FIXED + 0x1c, 4, 1);
	assert_false(rig.line[2]);
	/* past: at once */
	wr(RTC_FIXED + 0xc, 4, 0);
	wr(RTC_FIXED + 8, 4, 1);
	assert_true(rig.line[2]);
	assert_int_equal(rd(RTC_FIXED + 0x18, 4), 0);
}

static void finisher_speaks_once_for_each_store(void **state)
{
	wr(FIN, 4, 0x5555);
	assert_int_equal(rig.event, CPU_SYSTEM_SHUTDOWN);
	assert_int_equal(rig.code, 0);
	wr(FIN, 4, 0x3333 | 7 << 16);
	assert_int_equal(rig.event, CPU_SYSTEM_CRASH);
	assert_int_equal(rig.code, 7);
	wr(FIN, 4, 0x7777);
	assert_int_equal(rig.event, CPU_SYSTEM_REBOOT);
	wr(FIN, 4, 0x1234);
	wr(FIN + 4, 4, 0x5555);
	wr(FIN, 2, 0x5555);
	assert_int_equal(rig.events, 4);
	assert_int_equal(rd(FIN, 4), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(uart_sends_and_reports_an_empty_transmitter),
		T(uart_receives_through_the_fifo_without_loss),
		T(uart_without_fifo_holds_one_byte),
		T(uart_loopback_and_modem_lines),
		T(uart_keeps_its_registers),
		T(uart_never_waits_for_a_reader),
		T(uart_state_goes_round),
		T(chardev_flow_control),
		T(rtc_tells_and_keeps_time),
		T(rtc_alarm_fires_from_the_loop),
		T(finisher_speaks_once_for_each_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
