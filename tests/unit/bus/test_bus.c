#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/bus.h"

struct probe {
	uint64_t off, val;
	unsigned size, reads, writes;
};

static uint64_t probe_read(void *dev, uint64_t off, unsigned size)
{
	struct probe *p = dev;

	p->off = off;
	p->size = size;
	p->reads++;
	return 0x1122334455667788;
}

static void probe_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct probe *p = dev;

	p->off = off;
	p->size = size;
	p->val = val;
	p->writes++;
}

static const struct bus_ops words = {
	.read = probe_read, .write = probe_write, .min_size = 4, .max_size = 4, .msi_sink = true};
static const struct bus_ops any = {.read = probe_read, .write = probe_write, .unaligned = true};
static const struct bus_ops read_only = {.read = probe_read};

static struct bus *make(void)
{
	struct err e = {0};
	struct bus *b;

	assert_int_equal(bus_create(&b, &e), 0);
	return b;
}

static void finds_the_region_and_checks_widths(void **state)
{
	struct bus *b = make();
	struct probe p = {0};
	struct bus_region r = {.name = "r", .ops = &words, .dev = &p, .base = 0x1000, .len = 0x10};
	uint64_t v = 7;

	assert_int_equal(bus_claim(b, &r, NULL), 0);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x1008, 4, false, &v), 0);
	assert_int_equal(p.off, 8);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x100c, 4, true, &v), 0);
	assert_int_equal(p.off, 12);
	for (unsigned size = 0; size < 20; size++) {
		if (size == 4)
			continue;
		assert_int_equal(bus_access(b, BUS_MMIO, 0x1000, size, false, &v), -ENXIO);
		assert_true(v == UINT64_MAX);
	}
	assert_int_equal(bus_access(b, BUS_MMIO, 0x1002, 4, false, &v), -ENXIO);
	assert_int_equal(bus_access(b, BUS_MMIO, 0xffc, 4, false, &v), -ENXIO);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x1010, 4, false, &v), -ENXIO);
	assert_int_equal(bus_access(b, BUS_PIO, 0x1008, 4, false, &v), -ENXIO);
	assert_int_equal(p.reads + p.writes, 2);
	bus_destroy(b);
}

static void no_access_crosses_a_region_end(void **state)
{
	struct bus *b = make();
	struct probe p = {0};
	struct bus_region r = {.name = "r", .ops = &any, .dev = &p, .base = 0x1000, .len = 0x10};
	struct bus_region top = {
		.name = "top", .ops = &any, .dev = &p, .base = UINT64_MAX - 15, .len = 16};
	uint64_t v = 0;

	assert_int_equal(bus_claim(b, &r, NULL), 0);
	assert_int_equal(bus_claim(b, &top, NULL), 0);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x1003, 8, false, &v), 0);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x1009, 8, false, &v), -ENXIO);
	assert_int_equal(bus_access(b, BUS_MMIO, UINT64_MAX - 7, 8, false, &v), 0);
	assert_int_equal(bus_access(b, BUS_MMIO, UINT64_MAX - 6, 8, false, &v), -ENXIO);
	bus_destroy(b);
}

static void overlap_is_refused_by_name(void **state)
{
	struct bus *b = make();
	struct bus_region a = {.name = "first", .ops = &any, .base = 0x1000, .len = 0x1000};
	struct bus_region c = {.name = "second", .ops = &any, .base = 0x1fff, .len = 1};
	struct bus_region wrap = {.name = "wrap", .ops = &any, .base = UINT64_MAX, .len = 2};
	struct err e = {0};

	assert_int_equal(bus_claim(b, &a, &e), 0);
	assert_int_equal(bus_claim(b, &c, &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "first"));
	c.base = 0xfff;
	c.len = 2;
	assert_int_equal(bus_claim(b, &c, &e), -EBUSY);
	c.len = 1;
	assert_int_equal(bus_claim(b, &c, &e), 0);
	assert_int_equal(bus_claim(b, &wrap, &e), -EINVAL);
	bus_release(b, &a);
	c.base = 0x1800;
	assert_int_equal(bus_move(b, &c, 0x1800), 0);
	bus_destroy(b);
}

static void moving_onto_another_leaves_it_unclaimed(void **state)
{
	struct bus *b = make();
	struct probe p = {0}, q = {0};
	struct bus_region a = {.name = "a", .ops = &any, .dev = &p, .base = 0x1000, .len = 0x100};
	struct bus_region c = {.name = "c", .ops = &any, .dev = &q, .base = 0x2000, .len = 0x100};
	uint64_t v;

	bus_claim(b, &a, NULL);
	bus_claim(b, &c, NULL);
	assert_int_equal(bus_move(b, &a, 0x20ff), -EBUSY);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x1000, 1, false, &v), -ENXIO);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x20ff, 1, false, &v), 0);
	assert_int_equal(q.reads, 1);
	assert_int_equal(bus_move(b, &a, 0x2100), 0);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x2100, 1, false, &v), 0);
	assert_int_equal(p.reads, 1);
	bus_destroy(b);
}

static void count_up(void *ctx, const struct bus_region *r)
{
	uint64_t *last = ctx;

	assert_true(r->base >= *last);
	*last = r->base + 1;
}

static void many_regions_stay_sorted(void **state)
{
	static struct bus_region r[200];
	static struct probe p[200];
	struct bus *b = make();
	uint64_t v, last = 0;

	for (unsigned i = 0; i < 200; i++) {
		unsigned k = (i * 73) % 200;

		r[k] = (struct bus_region){
			.name = "x", .ops = &any, .dev = &p[k], .base = k * 0x100, .len = 0x80};
		assert_int_equal(bus_claim(b, &r[k], NULL), 0);
	}
	bus_each(b, count_up, &last);
	assert_int_equal(last, 199 * 0x100 + 1);
	for (unsigned k = 0; k < 200; k++) {
		assert_int_equal(bus_access(b, BUS_MMIO, k * 0x100 + 0x7f, 1, false, &v), 0);
		assert_int_equal(p[k].reads, 1);
		assert_int_equal(bus_access(b, BUS_MMIO, k * 0x100 + 0x80, 1, false, &v), -ENXIO);
	}
	bus_destroy(b);
}

static void messages_reach_only_sinks(void **state)
{
	struct bus *b = make();
	struct probe p = {0}, q = {0};
	struct bus_region a = {.name = "a", .ops = &any, .dev = &p, .base = 0x1000, .len = 0x100};
	struct bus_region c = {.name = "c", .ops = &words, .dev = &q, .base = 0x2000, .len = 0x100};
	struct bus_region ro = {.name = "ro", .ops = &read_only, .base = 0x3000, .len = 0x100};
	uint64_t v = 1;

	bus_claim(b, &a, NULL);
	bus_claim(b, &c, NULL);
	bus_claim(b, &ro, NULL);
	bus_msi(b, 0x1000, 1);
	bus_msi(b, 0x2002, 1);
	bus_msi(b, 0x5000, 1);
	bus_msi(b, UINT64_MAX, 1);
	assert_int_equal(p.writes + q.writes, 0);
	bus_msi(b, 0x2004, 5);
	assert_int_equal(q.writes, 1);
	assert_int_equal(q.val, 5);
	assert_int_equal(bus_access(b, BUS_MMIO, 0x3000, 4, true, &v), -ENXIO);
	bus_destroy(b);
}

struct mover {
	struct bus *b;
	struct bus_region *r;
	_Atomic bool stop;
};

static void *move_about(void *arg)
{
	struct mover *m = arg;

	for (unsigned i = 0; !m->stop; i++)
		bus_move(m->b, m->r, 0x10000 + (i % 7) * 0x1000);
	return NULL;
}

static void lookups_beside_moves_never_miss_what_stays(void **state)
{
	struct bus *b = make();
	struct probe p = {0}, q = {0};
	struct bus_region stays = {.name = "s", .ops = &any, .dev = &p, .base = 0x14800, .len = 16};
	struct bus_region moves = {.name = "m", .ops = &any, .dev = &q, .base = 0x10000, .len = 16};
	struct mover m = {.b = b, .r = &moves};
	pthread_t t;
	uint64_t v;

	bus_claim(b, &stays, NULL);
	bus_claim(b, &moves, NULL);
	pthread_create(&t, NULL, move_about, &m);
	for (unsigned i = 0; i < 200000; i++) {
		assert_int_equal(bus_access(b, BUS_MMIO, 0x14808, 8, false, &v), 0);
		bus_access(b, BUS_MMIO, 0x12000, 8, false, &v);
	}
	m.stop = true;
	pthread_join(t, NULL);
	assert_int_equal(p.reads, 200000);
	bus_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_region_and_checks_widths),
		cmocka_unit_test(no_access_crosses_a_region_end),
		cmocka_unit_test(overlap_is_refused_by_name),
		cmocka_unit_test(moving_onto_another_leaves_it_unclaimed),
		cmocka_unit_test(many_regions_stay_sorted),
		cmocka_unit_test(messages_reach_only_sinks),
		cmocka_unit_test(lookups_beside_moves_never_miss_what_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
