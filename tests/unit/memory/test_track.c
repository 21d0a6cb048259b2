#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 512u
#define WRITERS 3u

/*
 * Pre-copy in miniature: writer threads change pages through the accessors; the collector copies each page that it is told of. When all is
 * done the copy must be equal: a page that was written and never told of differs.
 */
struct copy {
	struct space *s;
	uint8_t *to;
	_Atomic bool stop;
	_Atomic uint64_t writes;
	_Atomic unsigned go;
};

static void *writer(void *arg)
{
	struct copy *c = arg;
	uint64_t seed = c->writes + (uintptr_t)pthread_self();

	while (!c->stop) {
		uint64_t page = rig_random(&seed) % PAGES, off = rig_random(&seed) % 4000;
		gpa_t a = gpa(RAM + page * 4096 + off);
		uint8_t buf[96];
		unsigned n = 0;
		struct iovec iov[4];

		memset(buf, (int)rig_random(&seed), sizeof(buf));
		switch (rig_random(&seed) % 5) {
		case 0:
			space_store64(c->s, gpa(a.v & ~7ull), seed);
			break;
		case 1:
			space_store16(c->s, gpa(a.v & ~1ull), (uint16_t)seed);
			break;
		case 2: /* as a device does: pointers first, announced again when the data is there */
			if (space_span(c->s, a, sizeof(buf), MEM_WRITE, iov, &n, 4))
				return "no span";
			for (unsigned i = 0; i < n; i++)
				memset(iov[i].iov_base, (int)seed, iov[i].iov_len);
			space_announce(c->s, a, sizeof(buf));
			break;
		default:
			space_write(c->s, a, buf, sizeof(buf));
			break;
		}
		c->writes++;
	}
	return NULL;
}

static void copy_page(void *ctx, gpa_t page)
{
	struct copy *c = ctx;

	assert_int_equal(space_read(c->s, page, c->to + (page.v - RAM), 4096), 0);
}

static void several_writers_lose_no_page(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct copy c = {.s = rig_space(f, PAGES * 4096), .to = malloc(PAGES * 4096)};
	uint8_t *now = malloc(PAGES * 4096);
	struct tracker *t;
	pthread_t th[WRITERS];
	struct err e = {0};
	void *bad;

	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&th[i], NULL, writer, &c), 0);
	while (c.writes < 100)
		sched_yield();
	/* Writers are at work when it starts: from here on, everything is told. */
	assert_int_equal(tracker_start(&t, c.s, NULL, &e), 0);
	assert_int_equal(space_read(c.s, gpa(RAM), c.to, PAGES * 4096), 0);
	for (unsigned n = 0; n < 300 || (c.writes < 10000 && n < 5000); n++)
		tracker_collect(t, copy_page, &c);
	c.stop = true;
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(th[i], &bad);
		assert_null(bad);
	}
	tracker_collect(t, copy_page, &c);
	assert_int_equal(tracker_collect(t, NULL, NULL), 0);
	space_read(c.s, gpa(RAM), now, PAGES * 4096);
	for (unsigned i = 0; i < PAGES; i++)
		if (memcmp(now + i * 4096, c.to + i * 4096, 4096))
			fail_msg("page %u was lost", i);
	tracker_stop(t);
	free(now);
	free(c.to);
	space_destroy(c.s);
	frames_destroy(f);
}

/* One long write a round, with collects falling between its announcement and its last byte; nobody writes the pages again. */
static void *long_writer(void *arg)
{
	struct copy *c = arg;

	for (unsigned round = 1; !c->stop; round++) {
		while (c->go < round && !c->stop)
			sched_yield();
		space_fill(c->s, gpa(RAM), (uint8_t)round, PAGES * 4096);
		c->writes = round;
	}
	return NULL;
}

static void a_collect_in_the_middle_of_a_write_loses_nothing(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct copy c = {.s = rig_space(f, PAGES * 4096), .to = calloc(PAGES, 4096)};
	struct tracker *t;
	struct err e = {0};
	pthread_t th;

	assert_int_equal(tracker_start(&t, c.s, NULL, &e), 0);
	assert_int_equal(pthread_create(&th, NULL, long_writer, &c), 0);
	for (unsigned round = 1; round < 100; round++) {
		c.go = round;
		do
			tracker_collect(t, copy_page, &c);
		while (c.writes < round);
		tracker_collect(t, copy_page, &c);
		for (unsigned i = 0; i < PAGES; i++)
			if (c.to[i * 4096] != (uint8_t)round ||
				c.to[i * 4096 + 4095] != (uint8_t)round)
				fail_msg("round %u: page %u was lost", round, i);
	}
	c.stop = true;
	pthread_join(th, NULL);
	tracker_stop(t);
	free(c.to);
	space_destroy(c.s);
	frames_destroy(f);
}

/* A snapshot at T0: the hook copies what was there before the first write; together with untouched pages that is exactly T0. */
struct snap {
	uint8_t *old;
	_Atomic uint8_t have[PAGES];
};

static void keep_old(void *ctx, gpa_t page, const void *host)
{
	struct snap *sn = ctx;
	uint64_t i = (page.v - RAM) / 4096;

	if (sn->have[i])
		return;
	memcpy(sn->old + i * 4096, host, 4096);
	sn->have[i] = 1;
}

static void *announcing_writer(void *arg)
{
	struct copy *c = arg;
	uint8_t buf[4096];
	uint64_t seed = (uintptr_t)pthread_self();

	memset(buf, 0xff, sizeof(buf));
	while (!c->stop) {
		space_write(c->s, gpa(RAM + rig_random(&seed) % PAGES * 4096), buf, sizeof(buf));
		c->writes++;
	}
	return NULL;
}

static void the_hook_sees_what_was_there_at_the_start(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct copy c = {.s = rig_space(f, PAGES * 4096)};
	static struct snap sn;
	struct tracker *t;
	pthread_t th[WRITERS];
	struct err e = {0};
	unsigned pages = 0;

	sn.old = malloc(PAGES * 4096);
	for (unsigned i = 0; i < PAGES; i++)
		space_fill(c.s, gpa(RAM + i * 4096), (uint8_t)(i % 251), 4096);
	assert_int_equal(tracker_start(&t, c.s, &(struct tracker_ops){keep_old, &sn}, &e), 0);
	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&th[i], NULL, announcing_writer, &c), 0);
	while (c.writes < 20000)
		sched_yield();
	c.stop = true;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(th[i], NULL);
	for (unsigned i = 0; i < PAGES; i++) {
		uint8_t b;

		space_read(c.s, gpa(RAM + i * 4096), &b, 1);
		assert_int_equal(b, sn.have[i] ? 0xff : i % 251);
		pages += sn.have[i];
		for (unsigned k = 0; sn.have[i] && k < 4096; k++)
			assert_int_equal(sn.old[i * 4096 + k], i % 251);
	}
	assert_true(pages > PAGES / 2);
	tracker_stop(t);
	free(sn.old);
	space_destroy(c.s);
	frames_destroy(f);
}

/* Writers beside trackers that come and go: nothing is freed under them. */
static void trackers_come_and_go_beside_writers(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct copy c = {.s = rig_space(f, PAGES * 4096)};
	struct tracker *t[8];
	pthread_t th[WRITERS];
	struct err e = {0};
	unsigned n = 0;

	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&th[i], NULL, writer, &c), 0);
	for (unsigned round = 0; round < 20; round++) {
		for (n = 0; n < 8 && !tracker_start(&t[n], c.s, NULL, &e); n++)
			;
		assert_int_equal(n, 4);
		assert_int_equal(e.code, -EBUSY);
		assert_int_equal(space_add_ram(c.s, gpa(16 * RAM), 4096, 0, "late", NULL), -EBUSY);
		while (n)
			tracker_stop(t[--n]);
	}
	c.stop = true;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(th[i], NULL);
	space_destroy(c.s);
	frames_destroy(f);
}

static void note_page(void *ctx, gpa_t page)
{
	uint64_t *sum = ctx;

	*sum += page.v / 4096;
}

static void pages_are_named_across_ranges_and_by_each_tracker(void **state)
{
	struct frames *f = rig_frames(1, 16 * MiB);
	struct space *s = rig_space(f, 2 * MiB);
	struct tracker *a, *b;
	struct err e = {0};
	uint64_t sum = 0;

	assert_int_equal(space_add_ram(s, gpa(0x100000), 5 * 4096, 0, "low", &e), 0);
	assert_int_equal(tracker_start(&a, s, NULL, &e), 0);
	space_fill(s, gpa(0x100000 + 4 * 4096), 1, 1);
	assert_int_equal(tracker_start(&b, s, NULL, &e), 0);
	space_fill(s, gpa(RAM + 2 * MiB - 1), 1, 1);
	assert_int_equal(tracker_collect(b, note_page, &sum), 1);
	assert_int_equal(sum, (RAM + 2 * MiB) / 4096 - 1);
	assert_int_equal(tracker_collect(a, note_page, &sum), 2);
	assert_int_equal(sum, 2 * ((RAM + 2 * MiB) / 4096 - 1) + 0x104);
	tracker_stop(a);
	space_fill(s, gpa(RAM), 1, 8192);
	assert_int_equal(tracker_collect(b, NULL, NULL), 2);
	tracker_stop(b);
	space_destroy(s);
	frames_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(several_writers_lose_no_page),
		cmocka_unit_test(a_collect_in_the_middle_of_a_write_loses_nothing),
		cmocka_unit_test(the_hook_sees_what_was_there_at_the_start),
		cmocka_unit_test(trackers_come_and_go_beside_writers),
		cmocka_unit_test(pages_are_named_across_ranges_and_by_each_tracker),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
