/* test_gate.c: limits of a disk's rate, and the three policies for what the host fails, on a raw disk over a device in memory. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"

#define SIZE (4 * MiB)

static struct rig {
	uv_loop_t loop;
	struct memdevs devs;
	struct disk *d;
	unsigned failed, resized;
	int why;
} rig;

static void on_failed(void *ctx, const struct disk_req *r)
{
	rig.failed++;
	rig.why = r->result;
}

static void start(enum disk_on_error on_error, struct disk_limits limits)
{
	struct err e = {0};
	char last = 0;

	memdev_poke(&rig.devs, "raw", SIZE - 1, &last, 1);
	if (disk_open(&rig.d,
		    &(struct disk_opts){.path = "raw",
			    .format = "raw",
			    .loop = &rig.loop,
			    .limits = limits,
			    .on_error = on_error,
			    .client = {.failed = on_failed},
			    .open_file = memdevs_open,
			    .open_ctx = &rig.devs},
		    &e))
		fail_msg("%s", err_msg(&e));
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	return 0;
}

static int teardown(void **state)
{
	disk_close(rig.d);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	memdevs_free(&rig.devs);
	return 0;
}

struct call {
	struct disk_req r;
	struct iovec iov;
	char buf[4096];
	unsigned order;
	bool done;
};

static unsigned done_count;

static void on_done(struct disk_req *r)
{
	struct call *c = container_of(r, struct call, r);

	assert_false(c->done);
	c->done = true;
	c->order = ++done_count;
}

static void submit(struct call *c, enum disk_op op, uint64_t off)
{
	*c = (struct call){.iov = {c->buf, sizeof(c->buf)}};
	memset(c->buf, 0x5a, sizeof(c->buf));
	c->r = (struct disk_req){.op = op,
		.offset = off,
		.len = op == DISK_FLUSH ? 0 : 4096,
		.iov = &c->iov,
		.niov = 1,
		.done = on_done};
	disk_submit(rig.d, &c->r);
}

static void fault(unsigned ops, int error, unsigned count)
{
	rig.devs.fault[0] = (struct memdev_fault){
		.ops = ops, .off = 8192, .len = 4096, .error = error, .count = count};
	rig.devs.nfaults = 1;
}

/* 40 requests at 200 a second, 10 at once: the last one after 30/200 s. */
static void rate_of_requests(void **state)
{
	struct call *c = calloc(40, sizeof(*c));
	struct disk_stats st;
	uint64_t t0, ns, late;
	unsigned due;

	done_count = 0;
	start(DISK_ERROR_REPORT, (struct disk_limits){.ops = 200, .ops_burst = 10});
	t0 = clock_mono_ns();
	for (unsigned i = 0; i < 40; i++)
		submit(&c[i], DISK_WRITE, i * 4096ull);
	/* A busy host may keep us from submitting them at once. */
	late = clock_mono_ns() - t0;
	due = (unsigned)MIN(late / 5000000, 20u);
	while (done_count < 40)
		uv_run(&rig.loop, UV_RUN_ONCE);
	ns = clock_mono_ns() - t0;
	if (ns < 130000000ull)
		fail_msg("40 requests took %llu ns", (unsigned long long)ns);
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(c[i].order, i + 1); /* in order */
	disk_stats(rig.d, &st);
	assert_true(st.delayed + due >= 25 && st.delayed <= 31);
	/* Waiting is part of the latency. */
	assert_true(st.op[DISK_WRITE].max_ns + late >= 130000000ull);
	free(c);
}

static void rate_of_bytes(void **state)
{
	struct call *c = calloc(32, sizeof(*c));
	uint64_t t0;

	done_count = 0;
	start(DISK_ERROR_REPORT, (struct disk_limits){.bytes = 1 * MiB, .bytes_burst = 4096});
	t0 = clock_mono_ns();
	for (unsigned i = 0; i < 32; i++)
		submit(&c[i], DISK_READ, i * 4096ull); /* 128 KiB: 1/8 s */
	while (done_count < 32)
		uv_run(&rig.loop, UV_RUN_ONCE);
	assert_true(clock_mono_ns() - t0 > 100000000ull);
	free(c);
}

/* Nothing is moved by a discard: who trims a disk does not stop it. */
static void discards_are_requests(void **state)
{
	struct call c, next;
	uint64_t t0;

	start(DISK_ERROR_REPORT, (struct disk_limits){.bytes = 64 * KiB, .bytes_burst = 4096});
	c = (struct call){.r = {.op = DISK_DISCARD, .len = SIZE, .done = on_done}};
	t0 = clock_mono_ns();
	disk_submit(rig.d, &c.r);
	submit(&next, DISK_READ, 0);
	while (!c.done || !next.done)
		uv_run(&rig.loop, UV_RUN_ONCE);
	assert_int_equal(c.r.result, 0);
	assert_true(clock_mono_ns() - t0 < 10000000000ull); /* it would be paid for in 64 s */
}

/* A drain does not wait for the clock, and a flush for nobody: that would be 19 s. */
static void drain_opens(void **state)
{
	struct call *c = calloc(21, sizeof(*c));
	uint64_t t0 = clock_mono_ns();

	done_count = 0;
	start(DISK_ERROR_REPORT, (struct disk_limits){.ops = 1, .ops_burst = 1});
	for (unsigned i = 0; i < 20; i++)
		submit(&c[i], DISK_WRITE, i * 4096ull);
	submit(&c[20], DISK_FLUSH, 0);
	while (!c[20].done)
		uv_run(&rig.loop, UV_RUN_ONCE);
	disk_drain(rig.d);
	assert_int_equal(done_count, 21);
	assert_true(clock_mono_ns() - t0 < 10000000000ull);
	free(c);
}

static void report(void **state)
{
	struct call c;

	start(DISK_ERROR_REPORT, (struct disk_limits){0});
	fault(1 << FILE_WRITE, -ENOSPC, 0);
	submit(&c, DISK_WRITE, 8192);
	disk_drain(rig.d);
	assert_int_equal(c.r.result, -ENOSPC);
	assert_int_equal(rig.failed, 0);
}

static void pause_and_retry(void **state)
{
	struct disk_stats st;
	struct call c, other;

	start(DISK_ERROR_PAUSE, (struct disk_limits){0});
	fault(1 << FILE_WRITE, -ENOSPC, 2);
	submit(&c, DISK_WRITE, 8192);
	submit(&other, DISK_WRITE, 0);
	disk_drain(rig.d); /* comes back though one is held */
	assert_false(c.done);
	assert_true(other.done);
	assert_int_equal(rig.failed, 1);
	assert_int_equal(rig.why, -ENOSPC);
	assert_int_equal(disk_held(rig.d), 1);
	disk_retry(rig.d); /* fails once more */
	disk_drain(rig.d);
	assert_int_equal(rig.failed, 2);
	disk_retry(rig.d);
	disk_drain(rig.d);
	assert_true(c.done);
	assert_int_equal(c.r.result, 0);
	disk_stats(rig.d, &st);
	assert_int_equal(st.op[DISK_WRITE].errors, 0);
	assert_int_equal(st.held, 0);
	{
		char got[4096];

		memdev_peek(&rig.devs, "raw", 8192, got, 4096);
		assert_memory_equal(got, c.buf, 4096);
	}
}

static void pause_and_give_up(void **state)
{
	struct call c;

	start(DISK_ERROR_PAUSE, (struct disk_limits){0});
	fault(1 << FILE_READ, -EIO, 0);
	submit(&c, DISK_READ, 8192);
	disk_drain(rig.d);
	assert_false(c.done);
	disk_fail_held(rig.d);
	assert_int_equal(c.r.result, -EIO);
}

/* A request that is held when the disk is closed is still ended. */
static void pause_and_close(void **state)
{
	struct call c;

	start(DISK_ERROR_PAUSE, (struct disk_limits){0});
	fault(1 << FILE_WRITE, -EIO, 0);
	submit(&c, DISK_WRITE, 8192);
	disk_drain(rig.d);
	disk_close(rig.d);
	rig.d = NULL;
	assert_true(c.done);
	assert_int_equal(c.r.result, -EIO);
}

/* What somebody waits for is not the guest's: he is told, and nothing of it is held. */
static void pause_and_wait(void **state)
{
	struct err e = {0};

	start(DISK_ERROR_PAUSE, (struct disk_limits){.ops = 1, .ops_burst = 1});
	rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_FLUSH, .error = -EIO};
	rig.devs.nfaults = 1;
	assert_int_equal(disk_resize(rig.d, 2 * SIZE, &e), -EIO);
	assert_int_equal(disk_rw(rig.d, DISK_FLUSH, 0, NULL, 0, &e), -EIO);
	assert_int_equal(disk_held(rig.d), 0);
	assert_int_equal(rig.failed, 0);
	rig.devs.nfaults = 0;
	disk_retry(rig.d);
	assert_int_equal(disk_rw(rig.d, DISK_FLUSH, 0, NULL, 0, &e), 0);
}

static void on_resized(void *ctx)
{
	rig.resized++;
}

/* A longer disk whose flush fails: its user is not told, and sees the old end until one succeeds. */
static void resize_fails(void **state)
{
	struct disk_info info;
	struct err e = {0};

	start(DISK_ERROR_REPORT, (struct disk_limits){0});
	rig.d->o.client.resized = on_resized;
	for (unsigned i = 0; i < 2; i++) {
		rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_FLUSH, .error = -EIO};
		rig.devs.nfaults = 1;
		assert_int_equal(disk_resize(rig.d, 2 * SIZE, &e), -EIO);
		assert_non_null(strstr(err_msg(&e), "could not be made durable"));
		assert_int_equal(disk_size(rig.d), SIZE);
		disk_info(rig.d, &info);
		assert_int_equal(info.size, SIZE);
		assert_int_equal(rig.resized, 0);
	}
	rig.devs.nfaults = 0;
	assert_int_equal(disk_resize(rig.d, 2 * SIZE, &e), 0);
	assert_int_equal(disk_size(rig.d), 2 * SIZE);
	assert_int_equal(rig.resized, 1);
	assert_int_equal(disk_resize(rig.d, 2 * SIZE, &e), 0);
	assert_int_equal(rig.resized, 1);
}

static void ignore(void **state)
{
	struct disk_stats st;
	struct call c;

	start(DISK_ERROR_IGNORE, (struct disk_limits){0});
	fault(1 << FILE_WRITE | 1 << FILE_READ, -EIO, 0);
	submit(&c, DISK_WRITE, 8192);
	disk_drain(rig.d);
	assert_int_equal(c.r.result, 0);
	submit(&c, DISK_READ, 8192);
	disk_drain(rig.d);
	assert_int_equal(c.r.result, 0);
	assert_int_equal(c.buf[100], 0);
	disk_stats(rig.d, &st);
	assert_int_equal(st.ignored, 2);
	/* The user's own mistakes are told in any case. */
	submit(&c, DISK_READ, SIZE);
	disk_drain(rig.d);
	assert_int_equal(c.r.result, -ERANGE);
}

/* A guest is told that all went well, and who asked for a longer disk that it could not be made durable. */
static void ignore_and_wait(void **state)
{
	struct err e = {0};
	struct call c;

	start(DISK_ERROR_IGNORE, (struct disk_limits){0});
	rig.d->o.client.resized = on_resized;
	rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_FLUSH, .error = -EIO};
	rig.devs.nfaults = 1;
	assert_int_equal(disk_resize(rig.d, 2 * SIZE, &e), -EIO);
	assert_non_null(strstr(err_msg(&e), "could not be made durable"));
	assert_int_equal(disk_size(rig.d), SIZE);
	assert_int_equal(rig.resized, 0);
	submit(&c, DISK_FLUSH, 0);
	disk_drain(rig.d);
	assert_int_equal(c.r.result, 0);
	rig.devs.nfaults = 0;
	assert_int_equal(disk_resize(rig.d, 2 * SIZE, &e), 0);
	assert_int_equal(rig.resized, 1);
}

/* What was not flushed may be lost, torn, or there; what was flushed is there. */
static void power_cut(void **state)
{
	bool seen_old = false, seen_new = false, seen_torn = false;
	struct call a, b, f;
	char got[8192];
	uint64_t flushed;

	start(DISK_ERROR_REPORT, (struct disk_limits){0});
	memdevs_record(&rig.devs);
	submit(&a, DISK_WRITE, 0);
	disk_drain(rig.d);
	submit(&f, DISK_FLUSH, 0);
	disk_drain(rig.d);
	flushed = memdevs_events(&rig.devs);
	submit(&b, DISK_WRITE, 4096);
	disk_drain(rig.d);
	for (uint64_t p = 0; p <= memdevs_events(&rig.devs); p++)
		for (uint64_t v = 0; v < 12; v++) {
			struct memdevs after = {0};
			unsigned old = 0;

			assert_int_equal(memdevs_crash(&rig.devs, p, v, &after), 0);
			assert_int_equal(memdev_peek(&after, "raw", 0, got, 8192), 0);
			for (unsigned s = 0; s < 8; s++)
				old += got[4096 + s * 512] == 0;
			assert_true(p < flushed || !memcmp(got, a.buf, 4096));
			assert_true(p > flushed || old == 8);
			seen_old |= p > flushed && old == 8;
			seen_new |= old == 0;
			seen_torn |= old && old < 8;
			memdevs_free(&after);
		}
	assert_true(seen_old && seen_new && seen_torn);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(rate_of_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(rate_of_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(discards_are_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(drain_opens, setup, teardown),
		cmocka_unit_test_setup_teardown(report, setup, teardown),
		cmocka_unit_test_setup_teardown(pause_and_retry, setup, teardown),
		cmocka_unit_test_setup_teardown(pause_and_give_up, setup, teardown),
		cmocka_unit_test_setup_teardown(pause_and_close, setup, teardown),
		cmocka_unit_test_setup_teardown(pause_and_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(resize_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(ignore, setup, teardown),
		cmocka_unit_test_setup_teardown(ignore_and_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(power_cut, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
