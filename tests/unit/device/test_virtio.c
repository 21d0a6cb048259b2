/* What hostile drivers do to rings, and what must come of it: the device asks for reset, and others work on. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/util.h"
#include "device/virtio.h"
#include "vdriver.h"

#define INDIRECT (1ull << 28)
#define EVENT_IDX (1ull << 29)
#define SIZE 16

struct rig {
	struct vdriver d;
	struct device *dev[2];
};

static int open_rig(void **state)
{
	static struct rig r;

	vd_machine(&r.d);
	r.dev[0] = vd_add(&r.d, "virtio-rng", "other", NULL, 1);
	r.dev[1] = vd_add(&r.d, "virtio-rng", "victim", NULL, 2);
	*state = &r;
	return 0;
}

static int close_rig(void **state)
{
	struct rig *r = *state;

	vd_close(&r->d, r->dev, 2);
	return 0;
}

/* A good request works: 32 bytes of entropy, and no byte beyond. */
static void serve_one(struct vdriver *d)
{
	uint8_t buf[40] = {0}, zero[32] = {0};
	uint16_t before = vd_used(d);

	space_fill(d->space, gpa(VD_DATA), 0, sizeof(buf));
	vd_desc(d, 0, VD_DATA, 32, VD_WRITE, 0);
	vd_submit(d, SIZE, 0);
	assert_int_equal(vd_used(d), (uint16_t)(before + 1));
	assert_int_equal(vd_used_len(d, SIZE, before), 32);
	space_read(d->space, gpa(VD_DATA), buf, sizeof(buf));
	assert_memory_not_equal(buf, zero, 32);
	assert_memory_equal(buf + 32, zero, 8);
}

static void good_requests_work(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	for (int i = 0; i < 3 * SIZE; i++)
		serve_one(&r->d);
	vd_start(&r->d, INDIRECT | EVENT_IDX, SIZE);
	for (int i = 0; i < 3 * SIZE; i++)
		serve_one(&r->d);
	/* Through an indirect table, in two pieces. */
	vd_desc_at(&r->d, VD_DATA + 0x1000, 0, VD_DATA, 8, VD_WRITE | VD_NEXT, 1);
	vd_desc_at(&r->d, VD_DATA + 0x1000, 1, VD_DATA + 0x100, 8, VD_WRITE, 0);
	vd_desc(&r->d, 3, VD_DATA + 0x1000, 32, VD_INDIRECT, 0);
	vd_submit(&r->d, SIZE, 3);
	assert_int_equal(vd_used_len(&r->d, SIZE, (uint16_t)(vd_used(&r->d) - 1)), 16);
	assert_int_equal(r->d.reports, 0);
}

/* The driver has done something that makes no sense: the victim stops, says so once, writes nothing, and lives again after reset. */
static void is_broken(struct rig *r)
{
	struct vdriver *d = &r->d;
	uint16_t used = vd_used(d);
	unsigned slot = d->slot;
	uint64_t bar = d->bar;

	assert_true(vd_status(d) & VD_NEEDS_RESET);
	assert_int_equal(d->reports, 1);
	vd_desc(d, 0, VD_DATA, 32, VD_WRITE, 0);
	vd_submit(d, SIZE, 0);
	assert_int_equal(vd_used(d), used);
	d->slot = 1;
	d->bar = VD_BAR + 0x10000;
	vd_start(d, 0, SIZE);
	serve_one(d);
	d->slot = slot;
	d->bar = bar;
	vd_start(d, 0, SIZE);
	assert_int_equal(vd_status(d), 0xf);
	serve_one(d);
}

static void chains_that_loop(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	for (unsigned i = 0; i < SIZE; i++)
		vd_desc(&r->d, i, VD_DATA, 1, VD_WRITE | VD_NEXT, (uint16_t)((i + 1) % SIZE));
	vd_submit(&r->d, SIZE, 0);
	is_broken(r);
}

static void a_descriptor_that_is_its_own_next(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	vd_desc(&r->d, 0, VD_DATA, 1, VD_WRITE | VD_NEXT, 0);
	vd_submit(&r->d, SIZE, 0);
	is_broken(r);
}

static void buffers_outside_ram(void **state)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
	} bad[] = {{0, 16}, {VD_RAM - 8, 16}, {VD_RAM + VD_RAM_LEN - 8, 16}, {UINT64_MAX - 3, 16},
		{VD_RAM, UINT32_MAX}, {0x30000000, 4}, {VD_BAR, 64}};
	struct rig *r = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		r->d.reports = 0;
		vd_start(&r->d, 0, SIZE);
		vd_desc(&r->d, 0, bad[i].addr, bad[i].len, VD_WRITE, 0);
		vd_submit(&r->d, SIZE, 0);
		is_broken(r);
	}
}

static void zero_lengths_are_only_pointless(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	vd_desc(&r->d, 0, 0, 0, VD_WRITE | VD_NEXT, 1);
	vd_desc(&r->d, 1, VD_DATA, 0, VD_WRITE, 0);
	vd_submit(&r->d, SIZE, 0);
	assert_int_equal(vd_used(&r->d), 1);
	assert_int_equal(vd_used_len(&r->d, SIZE, 0), 0);
	assert_int_equal(r->d.reports, 0);
}

static void next_and_head_outside_the_table(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	vd_desc(&r->d, 0, VD_DATA, 1, VD_WRITE | VD_NEXT, SIZE);
	vd_submit(&r->d, SIZE, 0);
	is_broken(r);
	r->d.reports = 0;
	vd_start(&r->d, 0, SIZE);
	vd_submit(&r->d, SIZE, 0xffff);
	is_broken(r);
}

static void readable_after_writable(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	vd_desc(&r->d, 0, VD_DATA, 4, VD_WRITE | VD_NEXT, 1);
	vd_desc(&r->d, 1, VD_DATA, 4, 0, 0);
	vd_submit(&r->d, SIZE, 0);
	is_broken(r);
}

static void indirect_tables_that_make_no_sense(void **state)
{
	struct rig *r = *state;
	uint64_t table = VD_DATA + 0x1000;

	for (int i = 0; i < 7; i++) {
		r->d.reports = 0;
		vd_start(&r->d, i == 6 ? 0 : INDIRECT, SIZE);
		vd_desc_at(&r->d, table, 0, VD_DATA, 8,
			i == 0	 ? VD_INDIRECT
			: i == 1 ? VD_WRITE | VD_NEXT
				 : VD_WRITE,
			i == 1 ? 1 : 0);
		vd_desc(&r->d, 0, i == 2 ? VD_RAM - 16 : table,
			i == 3	 ? 17
			: i == 4 ? 0
			: i == 1 ? 16
				 : 32,
			VD_INDIRECT | (i == 5 ? VD_NEXT : 0), 1);
		vd_submit(&r->d, SIZE, 0);
		is_broken(r);
	}
	/* A table that continues at itself. */
	r->d.reports = 0;
	vd_start(&r->d, INDIRECT, SIZE);
	vd_desc_at(&r->d, table, 0, VD_DATA, 8, VD_WRITE | VD_NEXT, 0);
	vd_desc(&r->d, 0, table, 32, VD_INDIRECT, 0);
	vd_submit(&r->d, SIZE, 0);
	is_broken(r);
}

static void rings_outside_ram(void **state)
{
	static const uint64_t at[3][3] = {{VD_RAM - 0x10000, VD_AVAIL, VD_USED},
		{VD_DESC, VD_RAM + VD_RAM_LEN, VD_USED}, {VD_DESC, VD_AVAIL, UINT64_MAX - 0xfff}};
	struct rig *r = *state;

	for (unsigned i = 0; i < 3; i++) {
		r->d.reports = 0;
		vd_start(&r->d, 0, SIZE);
		vd_write(&r->d, 0x14, 1, 0);
		vd_write(&r->d, 0x14, 1, 3);
		vd_write(&r->d, 0x08, 4, 1);
		vd_write(&r->d, 0x0c, 4, 1);
		vd_write(&r->d, 0x14, 1, 0xb);
		vd_queue(&r->d, 0, SIZE, at[i][0], at[i][1], at[i][2]);
		vd_write(&r->d, 0x14, 1, 0xf);
		vd_desc(&r->d, 0, VD_DATA, 8, VD_WRITE, 0);
		vd_submit(&r->d, SIZE, 0);
		is_broken(r);
	}
}

static void sizes_that_are_no_powers_of_two(void **state)
{
	static const uint16_t bad[] = {0, 3, 15, 2048, 0xffff};
	struct rig *r = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		r->d.reports = 0;
		vd_start(&r->d, 0, bad[i]);
		is_broken(r);
	}
}

static void misaligned_rings(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	vd_write(&r->d, 0x14, 1, 0);
	vd_write(&r->d, 0x14, 1, 0xb);
	vd_queue(&r->d, 0, SIZE, VD_DESC + 8, VD_AVAIL, VD_USED);
	assert_true(vd_status(&r->d) & VD_NEEDS_RESET);
}

static void an_avail_index_that_jumps(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, SIZE);
	vd_desc(&r->d, 0, VD_DATA, 8, VD_WRITE, 0);
	r->d.avail_idx = SIZE + 1;
	vd_submit(&r->d, SIZE, 0);
	is_broken(r);
}

static void features_must_be_accepted_as_offered(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 1ull << 40, SIZE);
	assert_false(vd_status(&r->d) & 8);
	vd_start(&r->d, 0, SIZE);
	assert_true(vd_status(&r->d) & 8);
}

static void running_without_agreed_features(void **state)
{
	static const uint64_t wrong[] = {1ull << 40, 1ull << 34 | 1ull << 32, 0};
	struct rig *r = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		r->d.reports = 0;
		vd_write(&r->d, 0x14, 1, 0);
		vd_write(&r->d, 0x14, 1, 3);
		for (unsigned half = 0; half < 2; half++) {
			vd_write(&r->d, 0x08, 4, half);
			vd_write(&r->d, 0x0c, 4, wrong[i] >> (32 * half));
		}
		vd_queue(&r->d, 0, SIZE, VD_DESC, VD_AVAIL, VD_USED);
		/* At once, or without asking. */
		vd_write(&r->d, 0x14, 1, i == 1 ? 7 : 0xf);
		assert_false(vd_status(&r->d) & 4);
		vd_desc(&r->d, 0, VD_DATA, 32, VD_WRITE, 0);
		r->d.avail_idx = 0;
		is_broken(r);
	}
}

/* However much a driver has queued, the event loop comes round. */
static void a_full_queue_is_served_in_turns(void **state)
{
	enum { MANY = 1024 };
	struct rig *r = *state;
	struct vdriver *d = &r->d;
	struct virtio *v = (struct virtio *)r->dev[1];
	uint64_t before = v->requests;
	unsigned turns = 0;

	vd_start(d, 0, SIZE);
	vd_write(d, 0x14, 1, 0);
	vd_write(d, 0x14, 1, 3);
	vd_write(d, 0x08, 4, 1);
	vd_write(d, 0x0c, 4, 1);
	vd_write(d, 0x14, 1, 0xb);
	vd_queue(d, 0, MANY, VD_RAM + 0x10000, VD_RAM + 0x20000, VD_RAM + 0x30000);
	vd_write(d, 0x14, 1, 0xf);
	uv_run(&d->loop, UV_RUN_NOWAIT);
	vd_desc_at(d, VD_RAM + 0x10000, 0, VD_RAM + 0x40000, 1, VD_WRITE, 0);
	space_fill(d->space, gpa(VD_RAM + 0x20000), 0, 0x1000);
	space_store16(d->space, gpa(VD_RAM + 0x20002), MANY);
	vd_write(d, 0x3000, 4, 0);
	while (v->requests < before + MANY && turns < 100) {
		uint64_t was = v->requests;

		uv_run(&d->loop, UV_RUN_NOWAIT);
		assert_true(v->requests - was <= VIRTIO_TURN);
		turns++;
	}
	assert_int_equal(v->requests, before + MANY);
	assert_true(turns >= MANY / VIRTIO_TURN);
	assert_int_equal(d->reports, 0);
}

/* A guest that breaks its device in a circle: people are told, the log is not filled. */
static void breaking_all_day_is_not_reported_all_day(void **state)
{
	struct rig *r = *state;

	for (unsigned i = 0; i < 1000; i++) {
		vd_start(&r->d, 0, SIZE);
		vd_submit(&r->d, SIZE, 0xffff);
		assert_true(vd_status(&r->d) & VD_NEEDS_RESET);
	}
	assert_in_range(r->d.reports, 16, 32);
	vd_start(&r->d, 0, SIZE);
	serve_one(&r->d);
}

static void every_register_at_every_width(void **state)
{
	struct rig *r = *state;
	uint64_t x = 88172645463325252;

	for (unsigned i = 0; i < 200000; i++) {
		static const unsigned widths[] = {1, 2, 4, 8};

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		if (x & 0x100)
			vd_write(&r->d, (x >> 20) % 0x4008, widths[x & 3], x);
		else
			vd_read(&r->d, (x >> 20) % 0x4008, widths[x & 3]);
		if (i % 64 == 0)
			uv_run(&r->d.loop, UV_RUN_NOWAIT);
	}
	vd_start(&r->d, 0, SIZE);
	serve_one(&r->d);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, open_rig, close_rig)
	const struct CMUnitTest tests[] = {
		T(good_requests_work),
		T(chains_that_loop),
		T(a_descriptor_that_is_its_own_next),
		T(buffers_outside_ram),
		T(zero_lengths_are_only_pointless),
		T(next_and_head_outside_the_table),
		T(readable_after_writable),
		T(indirect_tables_that_make_no_sense),
		T(rings_outside_ram),
		T(sizes_that_are_no_powers_of_two),
		T(misaligned_rings),
		T(an_avail_index_that_jumps),
		T(features_must_be_accepted_as_offered),
		T(running_without_agreed_features),
		T(a_full_queue_is_served_in_turns),
		T(breaking_all_day_is_not_reported_all_day),
		T(every_register_at_every_width),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
