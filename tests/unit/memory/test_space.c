#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static void ram_is_in_address_order_and_does_not_overlap(void **state)
{
	struct frames *f = rig_frames(2, 8 * MiB);
	struct space *s = rig_space(f, 4 * MiB);
	struct err e = {0};
	uint64_t left;

	assert_int_equal(space_add_ram(s, gpa(MiB), 12 * KiB, 1, "low", &e), 0);
	assert_string_equal(space_ram(s, 0)->name, "low");
	assert_int_equal(space_ram(s, 0)->node, 1);
	assert_int_equal(space_ram(s, 1)->base.v, RAM);
	assert_null(space_ram(s, 2));
	assert_int_equal(
		space_add_ram(s, gpa(RAM + 4 * MiB - 4096), 8192, 0, "twice", &e), -EEXIST);
	assert_int_equal(space_add_ram(s, gpa(RAM + 1), 4096, 0, "odd", &e), -EINVAL);
	assert_int_equal(space_add_ram(s, gpa(-4096ull), 8192, 0, "wraps", &e), -EINVAL);
	/* Too much: what had been taken is given back, and nothing is mapped. */
	left = rig_free(f);
	assert_int_equal(space_add_ram(s, gpa(2 * RAM), 32 * MiB, 1, "big", &e), -ENOMEM);
	space_invalidate(s, 0, gpa(2 * RAM), 32 * MiB, VIEW_RWX);
	assert_int_equal(rig_free(f), left);
	assert_int_equal(space_read(s, gpa(2 * RAM), &left, 8), -EFAULT);
	space_destroy(s);
	frames_destroy(f);
}

/* Leaves may have been split, removed, replaced: the frames that come back are those that were taken. */
static void all_frames_come_back_whatever_happened_to_the_map(void **state)
{
	struct frames *f = rig_frames(2, 8 * MiB);
	uint64_t all = rig_free(f);
	struct space *s = rig_space(f, 4 * MiB + 4096);
	struct err e = {0};
	struct view *v = space_view(s, 0);
	mfn_t mine;

	assert_int_equal(frames_alloc(f, FRAMES_NODE_ANY, 0, &mine), 0);
	assert_int_equal(view_protect(v, gpa(RAM + 4096), 4096, VIEW_R, &e), 0);
	assert_int_equal(view_unmap(v, gpa(RAM + 2 * MiB), 8192, &e), 0);
	assert_int_equal(view_remap(v, gpa(RAM + 8192), mine, VIEW_RWX, &e), 0);
	space_destroy(s);
	assert_int_equal(rig_free(f), all - 1);
	frames_free(f, mine, 0);
	frames_destroy(f);
}

static void copies_cross_leaves_or_do_nothing(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct space *s = rig_space(f, 4 * MiB);
	struct view *v = space_view(s, 0);
	uint8_t buf[3 * 4096], back[sizeof(buf)];
	struct err e = {0};
	uint64_t w;

	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7 + 1);
	assert_int_equal(view_protect(v, gpa(RAM + 4096), 4096, VIEW_R | VIEW_W, &e), 0);
	assert_int_equal(space_write(s, gpa(RAM + 2000), buf, sizeof(buf) - 2000), 0);
	assert_int_equal(space_read(s, gpa(RAM + 2000), back, sizeof(buf) - 2000), 0);
	assert_memory_equal(buf, back, sizeof(buf) - 2000);
	/* The page in the middle may not be written: nothing is. */
	assert_int_equal(view_protect(v, gpa(RAM + 4096), 4096, VIEW_R, &e), 0);
	assert_int_equal(space_fill(s, gpa(RAM), 0xee, sizeof(buf)), -EFAULT);
	assert_int_equal(space_write(s, gpa(RAM + 4090), back, 12), -EFAULT);
	assert_int_equal(space_read(s, gpa(RAM + 2000), back, sizeof(buf) - 2000), 0);
	assert_memory_equal(buf, back, sizeof(buf) - 2000);
	/* No permission at all. */
	assert_int_equal(view_protect(v, gpa(RAM + 4096), 4096, 0, &e), 0);
	assert_int_equal(space_read(s, gpa(RAM + 4090), back, 12), -EFAULT);
	assert_int_equal(space_load64(s, gpa(RAM + 4096), &w), -EFAULT);
	assert_int_equal(space_read(s, gpa(RAM + 4 * MiB - 2), back, 2), 0);
	assert_int_equal(space_read(s, gpa(RAM + 4 * MiB - 2), back, 3), -EFAULT);
	assert_int_equal(space_read(s, gpa(-2ull), back, 3), -EINVAL);
	assert_int_equal(space_read(s, gpa(12), back, 0), 0);
	assert_int_equal(space_write(s, gpa(RAM), back, UINT64_MAX), -EINVAL);
	assert_int_equal(space_write(s, gpa(RAM), back, UINT64_MAX - RAM), -EFAULT);
	space_destroy(s);
	frames_destroy(f);
}

static void single_accesses_are_aligned(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct space *s = rig_space(f, 4 * MiB);
	uint64_t w = 0;
	uint16_t h = 0;

	assert_int_equal(space_store64(s, gpa(RAM + 8), 0x1122334455667788), 0);
	assert_int_equal(space_load64(s, gpa(RAM + 8), &w), 0);
	assert_true(w == 0x1122334455667788);
	assert_int_equal(space_load64(s, gpa(RAM + 4), &w), -EFAULT);
	assert_int_equal(space_store64(s, gpa(RAM + 4 * MiB), 1), -EFAULT);
	assert_int_equal(space_store16(s, gpa(RAM + 10), 0xabcd), 0);
	assert_int_equal(space_load16(s, gpa(RAM + 10), &h), 0);
	assert_int_equal(h, 0xabcd);
	assert_int_equal(space_store16(s, gpa(RAM + 11), 0), -EFAULT);
	space_destroy(s);
	frames_destroy(f);
}

static void spans_are_joined_bounded_and_whole(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct space *s = rig_space(f, 4 * MiB);
	struct view *v = space_view(s, 0);
	struct iovec iov[4];
	struct err e = {0};
	unsigned n = 0;
	mfn_t mine;

	assert_int_equal(frames_alloc(f, 0, 0, &mine), 0);
	assert_int_equal(view_remap(v, gpa(RAM + 4096), mine, VIEW_RWX, &e), 0);
	assert_int_equal(space_span(s, gpa(RAM + 100), 3 * 4096, MEM_WRITE, iov, &n, 4), 0);
	assert_int_equal(n, 3);
	assert_int_equal(iov[0].iov_len, 4096 - 100);
	assert_ptr_equal(iov[1].iov_base, frames_ptr(f, mine));
	assert_int_equal(iov[2].iov_len, 4096 + 100);
	/* Does not join what another call put there, keeps *n when it fails. */
	assert_int_equal(space_span(s, gpa(RAM + 100), 3 * 4096, MEM_READ, iov, &n, 4), -E2BIG);
	assert_int_equal(n, 3);
	assert_int_equal(space_span(s, gpa(RAM - 1), 2, MEM_READ, iov, &n, 4), -EFAULT);
	assert_int_equal(space_span(s, gpa(-1ull), 2, MEM_READ, iov, &n, 4), -EINVAL);
	assert_int_equal(n, 3);
	space_destroy(s);
	frames_free(f, mine, 0);
	frames_destroy(f);
}

static void discard_takes_whole_pages(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct space *s = rig_space(f, 4 * MiB);
	struct tracker *t;
	struct err e = {0};
	uint8_t b;

	space_fill(s, gpa(RAM), 5, 4 * MiB);
	assert_int_equal(tracker_start(&t, s, NULL, &e), 0);
	assert_int_equal(space_discard(s, gpa(RAM + 100), 4096), -EINVAL);
	assert_int_equal(space_discard(s, gpa(RAM), 100), -EINVAL);
	assert_int_equal(space_discard(s, gpa(RAM + 4 * MiB - 4096), 8192), -EFAULT);
	assert_int_equal(tracker_collect(t, NULL, NULL), 0);
	assert_int_equal(space_discard(s, gpa(RAM + 8192), 3 * 4096), 0);
	for (unsigned i = 0; i < 8; i++) {
		space_read(s, gpa(RAM + i * 4096), &b, 1);
		assert_int_equal(b, i >= 2 && i < 5 ? 0 : 5);
	}
	/* It changed what is there: trackers hear of it. */
	assert_int_equal(tracker_collect(t, NULL, NULL), 3);
	tracker_stop(t);
	space_destroy(s);
	frames_destroy(f);
}

struct ear {
	struct space_listener l;
	unsigned calls, what;
	uint64_t a, len;
};

static void heard(struct space_listener *l, unsigned tag, gpa_t a, uint64_t len, unsigned what)
{
	struct ear *ear = container_of(l, struct ear, l);

	ear->calls++;
	ear->what = what;
	ear->a = a.v;
	ear->len = len;
}

static void invalidation_reaches_every_listener_and_frees_tables(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct space *s = rig_space(f, 4 * MiB);
	struct view *v = space_view(s, 0);
	struct ear one = {.l.invalidate = heard}, two = {.l.invalidate = heard};
	struct err e = {0};
	uint64_t left = rig_free(f);

	space_listen(s, &one.l);
	space_listen(s, &two.l);
	assert_int_equal(view_protect(v, gpa(RAM), 4096, VIEW_R, &e), 0);
	assert_int_equal(view_protect(v, gpa(RAM + 2 * MiB), 4096, VIEW_R, &e), 0);
	assert_int_equal(rig_free(f), left - 2);
	view_protect(v, gpa(RAM), 4 * MiB, VIEW_RWX, &e);
	assert_int_equal(view_coalesce(v, gpa(RAM), 4 * MiB), 2);
	assert_int_equal(rig_free(f), left - 2);
	/* Only the range that was invalidated: the other table may still have readers. */
	space_invalidate(s, 0, gpa(RAM + 3 * MiB), 4096, VIEW_RWX);
	assert_int_equal(rig_free(f), left - 1);
	space_unlisten(s, &one.l);
	space_invalidate(s, 0, gpa(RAM), 4 * MiB, MEM_WRITE);
	assert_int_equal(rig_free(f), left);
	assert_int_equal(one.calls, 1);
	assert_int_equal(two.calls, 2);
	assert_int_equal(two.what, MEM_WRITE);
	assert_int_equal(two.len, 4 * MiB);
	space_unlisten(s, &two.l);
	space_destroy(s);
	frames_destroy(f);
}

static void views_are_few_and_numbered(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct space *s = rig_space(f, 2 * MiB);
	struct space_page p;
	struct view *v;
	struct err e = {0};
	unsigned n = 1;

	while (!space_view_add(s, &v, &e)) {
		assert_int_equal(view_tag(v), n);
		assert_ptr_equal(space_view(s, n), v);
		n++;
	}
	assert_int_equal(e.code, -E2BIG);
	assert_null(space_view(s, n));
	assert_int_equal(space_page(s, n, gpa(RAM), MEM_READ, &p), -EFAULT);
	assert_int_equal(space_page(s, 1, gpa(RAM), MEM_READ, &p), -EFAULT);
	assert_int_equal(p.perm, 0);
	space_destroy(s);
	frames_destroy(f);
}

/* A frame that is taken out of the map may be reused when the invalidation has returned: no accessor still writes to it. */
struct swap {
	struct space *s;
	_Atomic bool stop;
	_Atomic uint64_t writes;
};

static void *scribble(void *arg)
{
	struct swap *w = arg;
	uint8_t buf[4096];

	memset(buf, 0xaa, sizeof(buf));
	while (!w->stop) {
		if (space_write(w->s, gpa(RAM), buf, sizeof(buf)))
			return "a hole";
		w->writes++;
	}
	return NULL;
}

static void nobody_writes_a_frame_after_its_invalidation(void **state)
{
	struct frames *f = rig_frames(1, 8 * MiB);
	struct swap w = {.s = rig_space(f, 2 * MiB)};
	struct err e = {0};
	pthread_t th;
	mfn_t m[2];
	void *bad;

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(frames_alloc(f, 0, 0, &m[i]), 0);
	view_remap(space_view(w.s, 0), gpa(RAM), m[0], VIEW_RWX, &e);
	assert_int_equal(pthread_create(&th, NULL, scribble, &w), 0);
	for (unsigned n = 1; n < 3000 || (w.writes < 3000 && n < 1000000); n++) {
		uint8_t *old = frames_ptr(f, m[(n - 1) % 2]);

		view_remap(space_view(w.s, 0), gpa(RAM), m[n % 2], VIEW_RWX, &e);
		space_invalidate(w.s, 0, gpa(RAM), 4096, VIEW_RWX);
		memset(old, n % 2, 4096);
		if (n % 16 == 0)
			sched_yield();
		for (unsigned i = 0; i < 4096; i++)
			if (old[i] != n % 2)
				fail_msg("a late write, round %u", n);
	}
	w.stop = true;
	pthread_join(th, &bad);
	assert_null(bad);
	space_destroy(w.s);
	frames_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ram_is_in_address_order_and_does_not_overlap),
		cmocka_unit_test(all_frames_come_back_whatever_happened_to_the_map),
		cmocka_unit_test(copies_cross_leaves_or_do_nothing),
		cmocka_unit_test(single_accesses_are_aligned),
		cmocka_unit_test(spans_are_joined_bounded_and_whole),
		cmocka_unit_test(discard_takes_whole_pages),
		cmocka_unit_test(invalidation_reaches_every_listener_and_frees_tables),
		cmocka_unit_test(views_are_few_and_numbered),
		cmocka_unit_test(nobody_writes_a_frame_after_its_invalidation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
