#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/space.h"

#define RAM 0x80000000ull

static struct frames *frames(unsigned nodes, uint64_t bytes)
{
	struct frames *f;
	struct frames_opts o = {.nodes = nodes, .name = "test"};
	struct err e = {0};

	for (unsigned i = 0; i < nodes; i++)
		o.node_bytes[i] = bytes;
	assert_int_equal(frames_create(&f, &o, &e), 0);
	return f;
}

static void frames_come_zeroed_aligned_and_from_their_node(void **state)
{
	struct frames *f = frames(2, 8 * MiB);
	mfn_t a, b, c;

	assert_int_equal(frames_alloc(f, 1, FRAME_ORDER_2M, &a), 0);
	assert_int_equal(frames_node_of(f, a), 1);
	assert_int_equal(a.n % 512, 0);
	memset(frames_ptr(f, a), 0xaa, 2 * MiB);
	frames_free(f, a, FRAME_ORDER_2M);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(frames_alloc(f, 1, FRAME_ORDER_2M, &b), 0);
		for (unsigned k = 0; k < 2 * MiB; k += 4096)
			assert_int_equal(((char *)frames_ptr(f, b))[k], 0);
	}
	assert_int_equal(frames_alloc(f, 1, FRAME_ORDER_4K, &c), -ENOMEM);
	assert_int_equal(frames_alloc(f, 0, FRAME_ORDER_4K, &c), 0);
	assert_int_equal(frames_alloc(f, 0, 2, &a), 0);
	assert_int_equal(a.n % 4, 0);
	assert_int_equal(frames_alloc(f, 2, 0, &c), -EINVAL);
	frames_destroy(f);
}

static void maps_use_the_largest_leaves_and_split_and_join(void **state)
{
	struct frames *f = frames(1, 32 * MiB);
	struct view *v;
	struct view_leaf l;
	struct view_stat st;
	struct err e = {0};
	mfn_t m;
	uint64_t tables;

	assert_int_equal(view_create(&v, f, 0, 0, &e), 0);
	assert_int_equal(frames_alloc(f, 0, 11, &m), 0); /* 8 MiB */
	assert_int_equal(view_map(v, gpa(RAM), m, 8 * MiB, VIEW_RWX, &e), 0);
	view_stat(v, &st);
	assert_int_equal(st.leaves_2m, 4);
	assert_int_equal(st.leaves_4k, 0);
	tables = st.tables;
	assert_int_equal(view_map(v, gpa(RAM + MiB), m, 4096, VIEW_R, &e), -EEXIST);
	assert_int_equal(view_protect(v, gpa(RAM + 2 * MiB + 4096), 4096, VIEW_R, &e), 0);
	assert_int_equal(view_lookup(v, gpa(RAM + 2 * MiB + 4096), &l), 0);
	assert_int_equal(l.perm, VIEW_R);
	assert_int_equal(l.order, FRAME_ORDER_4K);
	assert_int_equal(l.mfn.n, m.n + 513);
	view_lookup(v, gpa(RAM + 2 * MiB + 8192), &l);
	assert_int_equal(l.perm, VIEW_RWX);
	assert_int_equal(l.mfn.n, m.n + 514);
	assert_int_equal(view_coalesce(v, gpa(RAM), 8 * MiB), 0);
	view_protect(v, gpa(RAM + 2 * MiB + 4096), 4096, VIEW_RWX, &e);
	assert_int_equal(view_coalesce(v, gpa(RAM), 8 * MiB), 1);
	view_stat(v, &st);
	assert_int_equal(st.leaves_2m, 4);
	assert_int_equal(st.tables, tables);
	/* No access at all is still mapped. */
	assert_int_equal(view_protect(v, gpa(RAM), 4096, 0, &e), 0);
	assert_int_equal(view_lookup(v, gpa(RAM), &l), 0);
	assert_int_equal(l.perm, 0);
	assert_int_equal(view_remap(v, gpa(RAM), mfn(m.n + 7), VIEW_R, &e), 0);
	view_lookup(v, gpa(RAM), &l);
	assert_int_equal(l.mfn.n, m.n + 7);
	assert_int_equal(view_unmap(v, gpa(RAM), 8 * MiB, &e), 0);
	assert_int_equal(view_lookup(v, gpa(RAM), &l), -ENOENT);
	view_stat(v, &st);
	assert_int_equal(st.tables, 1);
	assert_int_equal(view_map(v, gpa(1ull << 50), m, 4096, VIEW_R, &e), -EINVAL);
	assert_int_equal(view_map(v, gpa(-4096ull), m, 8192, VIEW_R, &e), -EINVAL);
	view_destroy(v);
	frames_destroy(f);
}

static struct space *space(struct frames *f, uint64_t len)
{
	struct space *s;
	struct err e = {0};

	assert_int_equal(space_create(&s, f, &e), 0);
	assert_int_equal(space_add_ram(s, gpa(RAM), len, FRAMES_NODE_ANY, "dram", &e), 0);
	return s;
}

static void access_is_checked(void **state)
{
	struct frames *f = frames(1, 8 * MiB);
	struct space *s = space(f, 4 * MiB);
	struct iovec iov[4];
	char buf[8192] = "hello";
	unsigned n = 0;
	uint16_t h;

	assert_int_equal(space_write(s, gpa(RAM + 4 * MiB - 4096), buf, 4096), 0);
	assert_int_equal(space_write(s, gpa(RAM + 4 * MiB - 4096), buf, 4097), -EFAULT);
	assert_int_equal(space_read(s, gpa(RAM + 4 * MiB), buf, 1), -EFAULT);
	assert_int_equal(space_read(s, gpa(-1ull), buf, 2), -EINVAL);
	assert_int_equal(space_read(s, gpa(RAM - 1), buf, 2), -EFAULT);
	assert_int_equal(space_span(s, gpa(RAM + MiB), 3 * MiB, MEM_READ, iov, &n, 4), 0);
	assert_int_equal(n, 1); /* adjacent leaves are adjacent frames here */
	assert_int_equal(iov[0].iov_len, 3 * MiB);
	assert_int_equal(space_span(s, gpa(RAM), 5 * MiB, MEM_READ, iov, &n, 4), -EFAULT);
	assert_int_equal(n, 1);
	assert_int_equal(space_load16(s, gpa(RAM + 1), &h), -EFAULT);
	assert_int_equal(space_read(s, gpa(RAM + 4 * MiB - 4096), buf, 6), 0);
	assert_string_equal(buf, "hello");
	space_discard(s, gpa(RAM + 4 * MiB - 4096), 4096);
	space_read(s, gpa(RAM + 4 * MiB - 4096), buf, 6);
	assert_int_equal(buf[0], 0);
	space_destroy(s);
	frames_destroy(f);
}

/* Every writer announces; the hook sees the old contents; nothing is lost between collects. */
struct seen {
	unsigned char old[1024];
	unsigned pages;
};

static void before(void *ctx, gpa_t page, const void *host)
{
	struct seen *sn = ctx;

	sn->old[(page.v - RAM) / PAGE_SIZE] = *(const unsigned char *)host;
	sn->pages++;
}

static void tracking_sees_the_old_contents_first(void **state)
{
	struct frames *f = frames(1, 8 * MiB);
	struct space *s = space(f, 4 * MiB);
	struct seen sn = {{0}};
	struct tracker *t;
	struct space_page p;
	struct iovec iov[2];
	struct err e = {0};
	unsigned n = 0;

	space_fill(s, gpa(RAM), 1, 4 * MiB);
	assert_int_equal(tracker_start(&t, s, &(struct tracker_ops){before, &sn}, &e), 0);
	space_page(s, 0, gpa(RAM), MEM_READ, &p);
	assert_false(p.write_free);
	assert_int_equal(sn.pages, 0);
	space_fill(s, gpa(RAM + 4095), 2, 2); /* pages 0 and 1 */
	space_page(s, 0, gpa(RAM + 2 * 4096), MEM_WRITE, &p);
	assert_true(p.write_free);
	space_span(s, gpa(RAM + 3 * 4096), 4096, MEM_WRITE, iov, &n, 2);
	space_store64(s, gpa(RAM + 4 * 4096), 3);
	space_fill(s, gpa(RAM), 9, 1);
	assert_int_equal(sn.pages, 5);
	for (int i = 0; i < 5; i++)
		assert_int_equal(sn.old[i], 1);
	assert_int_equal(tracker_collect(t, NULL, NULL), 5);
	assert_int_equal(tracker_collect(t, NULL, NULL), 0);
	space_fill(s, gpa(RAM), 4, 1);
	assert_int_equal(tracker_collect(t, NULL, NULL), 1);
	tracker_stop(t);
	space_page(s, 0, gpa(RAM), MEM_READ, &p);
	assert_true(p.write_free);
	space_destroy(s);
	frames_destroy(f);
}

/*
 * A vCPU in miniature: it writes through a cached translation while it may. Whatever it wrote last must be found by
 * the collect after it.
 */
struct vcpu {
	struct space_listener l;
	struct space *s;
	_Atomic bool stop, drop, dropped_once;
	_Atomic uint64_t written;
	pthread_mutex_t in; /* held while "inside the guest" */
};

static void drop_writes(
	struct space_listener *l, unsigned tag, gpa_t a, uint64_t len, unsigned what)
{
	struct vcpu *v = container_of(l, struct vcpu, l);

	v->drop = true;
	pthread_mutex_lock(
		&v->in); /* it leaves the guest soon, and looks at `drop` before it goes in again */
	pthread_mutex_unlock(&v->in);
}

static void *guest(void *arg)
{
	struct vcpu *v = arg;
	struct space_page p = {0};
	bool cached = false;

	for (uint64_t i = 1; !v->stop; i++) {
		pthread_mutex_lock(&v->in);
		if (atomic_exchange(&v->drop, false))
			cached = false;
		if (!cached) {
			space_page(v->s, 0, gpa(RAM), MEM_WRITE, &p);
			cached = p.write_free;
		}
		for (int k = 0; k < 100; k++)
			__atomic_store_n((uint64_t *)p.host, i, __ATOMIC_RELAXED);
		v->written = i;
		pthread_mutex_unlock(&v->in);
		sched_yield();
	}
	return NULL;
}

static void no_write_escapes_between_collects(void **state)
{
	struct frames *f = frames(1, 8 * MiB);
	struct space *s = space(f, 4 * MiB);
	struct vcpu v = {.l.invalidate = drop_writes, .s = s, .in = PTHREAD_MUTEX_INITIALIZER};
	struct tracker *t;
	pthread_t th;
	struct err e = {0};
	uint64_t copy = 0, now;

	space_listen(s, &v.l);
	assert_int_equal(tracker_start(&t, s, NULL, &e), 0);
	pthread_create(&th, NULL, guest, &v);
	for (int i = 0; i < 2000 || v.written < 500; i++)
		if (tracker_collect(t, NULL, NULL))
			space_read(s, gpa(RAM), &copy, 8);
	v.stop = true;
	pthread_join(th, NULL);
	if (tracker_collect(t, NULL, NULL))
		space_read(s, gpa(RAM), &copy, 8);
	space_read(s, gpa(RAM), &now, 8);
	assert_int_equal(copy, now);
	assert_true(now > 0);
	tracker_stop(t);
	space_unlisten(s, &v.l);
	space_destroy(s);
	frames_destroy(f);
}

static void two_views_of_one_address(void **state)
{
	struct frames *f = frames(1, 8 * MiB);
	struct space *s = space(f, 4 * MiB);
	struct view *v;
	struct view_leaf l;
	struct space_page p;
	struct err e = {0};

	view_lookup(space_view(s, 0), gpa(RAM + 4096), &l);
	assert_int_equal(space_view_add(s, &v, &e), 0);
	assert_int_equal(view_map(v, gpa(RAM), l.mfn, 4096, VIEW_R, &e), 0);
	assert_int_equal(space_page(s, 1, gpa(RAM), MEM_READ, &p), 0);
	assert_int_equal(p.mfn.n, l.mfn.n);
	assert_int_equal(space_page(s, 1, gpa(RAM), MEM_WRITE, &p), -EFAULT);
	assert_int_equal(p.perm, VIEW_R);
	assert_int_equal(space_page(s, 0, gpa(RAM), MEM_WRITE, &p), 0);
	assert_true(p.mfn.n != l.mfn.n);
	space_destroy(s);
	frames_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_come_zeroed_aligned_and_from_their_node),
		cmocka_unit_test(maps_use_the_largest_leaves_and_split_and_join),
		cmocka_unit_test(access_is_checked),
		cmocka_unit_test(tracking_sees_the_old_contents_first),
		cmocka_unit_test(no_write_escapes_between_collects),
		cmocka_unit_test(two_views_of_one_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
