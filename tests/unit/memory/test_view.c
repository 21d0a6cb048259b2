#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static void errors_change_nothing(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct view *v;
	struct view_leaf l;
	struct err e = {0};

	assert_int_equal(view_create(&v, f, 0, 3, &e), 0);
	assert_int_equal(view_tag(v), 3);
	assert_int_equal(view_map(v, gpa(RAM + 8192), mfn(0), 4096, VIEW_R, &e), 0);
	/* All or nothing: the third page is taken. */
	assert_int_equal(view_map(v, gpa(RAM), mfn(1), 4 * 4096, VIEW_R, &e), -EEXIST);
	assert_int_equal(view_lookup(v, gpa(RAM), &l), -ENOENT);
	assert_int_equal(view_map(v, gpa(RAM + 1), mfn(1), 4096, VIEW_R, &e), -EINVAL);
	assert_int_equal(view_map(v, gpa(RAM), mfn(1), 100, VIEW_R, &e), -EINVAL);
	assert_int_equal(view_map(v, gpa(RAM), mfn(1), 0, VIEW_R, &e), -EINVAL);
	assert_int_equal(view_map(v, gpa(RAM), mfn(frames_count(f)), 4096, VIEW_R, &e), -EINVAL);
	assert_int_equal(view_map(v, gpa(RAM), mfn(UINT64_MAX), 8192, VIEW_R, &e), -EINVAL);
	assert_int_equal(view_map(v, gpa((1ull << 50) - 4096), mfn(1), 8192, VIEW_R, &e), -EINVAL);
	assert_int_equal(view_map(v, gpa((1ull << 50) - 4096), mfn(1), 4096, VIEW_R, &e), 0);
	assert_int_equal(view_lookup(v, gpa((1ull << 50) - 1), &l), 0);
	assert_int_equal(view_lookup(v, gpa(1ull << 50), &l), -ENOENT);
	assert_int_equal(view_remap(v, gpa(RAM), mfn(2), VIEW_R, &e), -ENOENT);
	assert_int_equal(view_remap(v, gpa(RAM + 8192), mfn(1ull << 40), VIEW_R, &e), -EINVAL);
	assert_int_equal(view_unmap(v, gpa(RAM), 16 * MiB, &e), 0); /* holes are allowed */
	assert_int_equal(view_lookup(v, gpa(RAM + 8192), &l), -ENOENT);
	view_destroy(v);
	frames_destroy(f);
}

static void a_map_that_runs_out_of_frames_is_undone(void **state)
{
	struct frames *f = rig_frames(1, 2 * MiB);
	struct view *v;
	struct view_leaf l;
	struct view_stat st;
	struct err e = {0};
	mfn_t m;

	assert_int_equal(view_create(&v, f, 0, 0, &e), 0);
	while (rig_free(f) > 3)
		assert_int_equal(frames_alloc_table(f, 0, 0, &m), 0);
	/* Each page needs three tables of its own: the second one cannot be had. */
	assert_int_equal(view_map(v, gpa(RAM), mfn(0), 4096, VIEW_R, &e), 0);
	assert_int_equal(view_unmap(v, gpa(RAM), 4096, &e), 0);
	assert_int_equal(rig_free(f), 0); /* kept back: readers may be inside */
	assert_int_equal(view_map(v, gpa(RAM), mfn(0), 4096, VIEW_R, &e), -ENOMEM);
	assert_int_equal(view_lookup(v, gpa(RAM), &l), -ENOENT);
	view_stat(v, &st);
	assert_int_equal(st.tables, 1);
	view_destroy(v);
	assert_int_equal(rig_free(f), 3 + 4);
	frames_destroy(f);
}

static int count(void *ctx, gpa_t a, uint64_t len, const struct view_leaf *l)
{
	uint64_t *at = ctx;

	assert_true(a.v >= *at);
	*at = a.v + len;
	return l->perm == VIEW_X ? 77 : 0;
}

static void walks_go_in_address_order_and_stop_when_told(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct view *v;
	struct err e = {0};
	uint64_t at = 0;

	assert_int_equal(view_create(&v, f, 0, 0, &e), 0);
	view_map(v, gpa(RAM), mfn(0), 6 * MiB + 8192, VIEW_R, &e);
	view_map(v, gpa(1ull << 45), mfn(5), 4096, VIEW_RWX, &e);
	assert_int_equal(view_walk(v, count, &at), 0);
	assert_int_equal(at, (1ull << 45) + 4096);
	view_protect(v, gpa(RAM + 4 * MiB), 4096, VIEW_X, &e);
	at = 0;
	assert_int_equal(view_walk(v, count, &at), 77);
	assert_int_equal(at, RAM + 4 * MiB + 4096);
	view_destroy(v);
	frames_destroy(f);
}

static void a_gigabyte_costs_two_tables(void **state)
{
	struct frames *f = rig_frames(1, GiB + space_spare_bytes(GiB));
	struct space *s = rig_space(f, GiB);
	struct view_stat st;
	struct view_leaf l;

	view_stat(space_view(s, 0), &st);
	assert_int_equal(st.leaves_1g, 1);
	assert_int_equal(st.leaves_2m + st.leaves_4k, 0);
	assert_int_equal(st.tables, 2);
	/* And what was set aside is enough to split it to the last page. */
	for (uint64_t off = 0; off < GiB; off += 2 * MiB)
		assert_int_equal(
			view_protect(space_view(s, 0), gpa(RAM + off), 4096, VIEW_R, NULL), 0);
	assert_int_equal(view_lookup(space_view(s, 0), gpa(RAM + GiB - 4096), &l), 0);
	assert_int_equal(l.order, FRAME_ORDER_4K);
	space_destroy(s);
	frames_destroy(f);
}

/*
 * Readers beside a writer. Page i of the range is always mapped, to frame i or to frame i + PAGES; the writer splits, joins,
 * remaps and changes permissions. A reader that sees anything else, or a hole, was in a table that was not there any more.
 */
#define PAGES 1024u

struct race {
	struct space *s;
	struct view *v;
	mfn_t base;
	_Atomic bool stop;
	_Atomic uint64_t looks;
};

static void *reader(void *arg)
{
	struct race *r = arg;
	uint64_t seed = (uintptr_t)&seed, n = 0;

	while (!r->stop) {
		uint64_t i = rig_random(&seed) % PAGES, was;
		struct view_leaf l;
		unsigned hold;
		int rc;

		hold = space_hold(r->s);
		rc = view_lookup(r->v, gpa(RAM + i * 4096), &l);
		space_release(r->s, hold);
		if (rc)
			return "a hole";
		if (l.mfn.n != r->base.n + i && l.mfn.n != r->base.n + i + PAGES)
			return "another page's frame";
		if (space_read(r->s, gpa(RAM + i * 4096 + 8), &was, 8) || was != i)
			return "another page's contents";
		r->looks = ++n;
	}
	return NULL;
}

static void readers_see_the_old_or_the_new_leaf(void **state)
{
	struct frames *f = rig_frames(1, 24 * MiB);
	struct race r = {0};
	struct err e = {0};
	pthread_t th[2];
	uint64_t seed = 5;
	void *bad;

	assert_int_equal(space_create(&r.s, f, &e), 0);
	r.v = space_view(r.s, 0);
	assert_int_equal(frames_alloc(f, 0, 11, &r.base), 0);
	for (uint64_t i = 0; i < 2 * PAGES; i++)
		((uint64_t *)frames_ptr(f, mfn(r.base.n + i)))[1] = i % PAGES;
	assert_int_equal(view_map(r.v, gpa(RAM), r.base, PAGES * 4096, VIEW_RWX, &e), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&th[i], NULL, reader, &r), 0);
	for (unsigned n = 0; n < 3000 || (r.looks < 10000 && n < 1000000); n++) {
		uint64_t i = rig_random(&seed) % PAGES;
		gpa_t a = gpa(RAM + i * 4096);

		if (n % 64 == 63) {
			for (i = 0; i < PAGES; i++)
				view_remap(
					r.v, gpa(RAM + i * 4096), mfn(r.base.n + i), VIEW_RWX, &e);
			view_coalesce(r.v, gpa(RAM), PAGES * 4096);
			/* Joined tables are freed here and get other contents at once. */
			space_invalidate(r.s, 0, gpa(RAM), PAGES * 4096, VIEW_RWX);
			continue;
		}
		assert_int_equal(view_remap(r.v, a, mfn(r.base.n + i + PAGES), VIEW_RWX, &e), 0);
		view_protect(r.v, a, 4096, n % 2 ? VIEW_R : VIEW_RWX, &e);
	}
	r.stop = true;
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(th[i], &bad);
		assert_null(bad);
	}
	space_destroy(r.s);
	frames_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_change_nothing),
		cmocka_unit_test(a_map_that_runs_out_of_frames_is_undone),
		cmocka_unit_test(walks_go_in_address_order_and_stop_when_told),
		cmocka_unit_test(a_gigabyte_costs_two_tables),
		cmocka_unit_test(readers_see_the_old_or_the_new_leaf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
