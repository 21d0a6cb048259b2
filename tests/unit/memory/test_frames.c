#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/uffd.h"

static void nonsense_is_refused(void **state)
{
	struct frames_opts none = {0}, many = {.nodes = FRAMES_MAX_NODES + 1},
			   odd = {.nodes = 1, .node_bytes = {2 * MiB + 4096}},
			   empty = {.nodes = 2, .node_bytes = {2 * MiB}},
			   wraps = {.nodes = 2, .node_bytes = {1ull << 63, 1ull << 63}};
	struct frames *f;
	struct err e = {0};

	assert_int_equal(frames_create(&f, &none, &e), -EINVAL);
	assert_int_equal(frames_create(&f, &many, &e), -EINVAL);
	assert_int_equal(frames_create(&f, &odd, &e), -EINVAL);
	assert_int_equal(frames_create(&f, &empty, &e), -EINVAL);
	assert_true(frames_create(&f, &wraps, &e) < 0);
	assert_true(e.msg[0]);
}

static void a_named_node_is_strict_and_any_is_not(void **state)
{
	struct frames *f = rig_frames(2, 4 * MiB);
	mfn_t m;

	assert_int_equal(frames_alloc(f, 0, 10, &m), 0);
	assert_int_equal(frames_alloc(f, 0, 0, &m), -ENOMEM);
	assert_int_equal(frames_alloc(f, 0, FRAME_ORDER_2M, &m), -ENOMEM);
	assert_int_equal(frames_alloc(f, FRAMES_NODE_ANY, FRAME_ORDER_2M, &m), 0);
	assert_int_equal(frames_node_of(f, m), 1);
	assert_int_equal(frames_alloc(f, FRAMES_NODE_ANY, FRAME_ORDER_1G, &m), -ENOMEM);
	assert_int_equal(frames_alloc(f, FRAMES_NODE_ANY, 19, &m), -EINVAL);
	assert_int_equal(frames_alloc(f, -2, 0, &m), -EINVAL);
	assert_int_equal(frames_discard(f, mfn(frames_count(f)), 1), -EINVAL);
	assert_int_equal(frames_discard(f, mfn(1), UINT64_MAX), -EINVAL);
	assert_int_equal(frames_discard(f, mfn(frames_count(f)), 0), 0);
	frames_destroy(f);
}

static void discard_reads_as_zero_and_keeps_the_frame(void **state)
{
	struct frames *f = rig_frames(1, 4 * MiB);
	uint64_t before;
	mfn_t m;

	assert_int_equal(frames_alloc(f, 0, 3, &m), 0);
	memset(frames_ptr(f, m), 7, 8 * PAGE_SIZE);
	before = rig_free(f);
	assert_int_equal(frames_discard(f, mfn(m.n + 2), 3), 0);
	assert_int_equal(rig_free(f), before);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(*(uint8_t *)frames_ptr(f, mfn(m.n + i)), i >= 2 && i < 5 ? 0 : 7);
	assert_ptr_equal((char *)frames_base(f) + m.n * PAGE_SIZE, frames_ptr(f, m));
	frames_destroy(f);
}

/* Touched before or not; and they are mapped then, and can be written to, without a fault each. */
static void what_is_filled_is_there(void **state)
{
	enum { N = 64 };
	struct frames *f = rig_frames(1, 4 * MiB);
	uint8_t *from = malloc(N * PAGE_SIZE), *at;
	struct err e = {0};
	struct uffd *u;
	mfn_t m;

	assert_non_null(from);
	for (unsigned i = 0; i < N * PAGE_SIZE; i++)
		from[i] = (uint8_t)(i % 251);
	assert_int_equal(frames_alloc(f, 0, FRAME_ORDER_2M, &m), 0);
	at = frames_ptr(f, m);
	at[5 * PAGE_SIZE] = 99;
	assert_int_equal(frames_fill(f, m, N, from), -ENOTSUP);
	assert_int_equal(uffd_open(&u, UFFD_MISSING | UFFD_USER, &e), 0);
	assert_int_equal(frames_fill_begin(f, u, &e), 0);
	assert_int_equal(frames_fill(f, m, N, from), 0);
	assert_memory_equal(at, from, N * PAGE_SIZE);
	memset(at, 7, PAGE_SIZE);
	assert_int_equal(frames_touched(f, m, 512), N);
	assert_int_equal(frames_fill(f, mfn(frames_count(f)), 1, from), -EINVAL);
	/* What somebody else touches meanwhile is made for him. */
	assert_int_equal(at[N * PAGE_SIZE], 0);
	assert_int_equal(frames_touched(f, m, 512), N + 1);
	frames_fill_end(f);
	assert_int_equal(frames_fill(f, mfn(m.n + 2 * N), 1, from), -ENOTSUP);
	assert_int_equal(at[3 * N * PAGE_SIZE], 0);
	assert_int_equal(at[0], 7);
	frames_destroy(f);
	free(from);
}

/* Any mix of sizes: nothing is given out twice, all comes back, and what comes back can be had whole again. */
static void no_frame_is_given_out_twice(void **state)
{
	enum { HELD = 600 };
	static struct held {
		mfn_t m;
		unsigned order;
		uint32_t mark;
	} held[HELD];
	static const unsigned orders[] = {0, 0, 0, 1, 2, 4, 8, 9, 10};
	struct frames *f = rig_frames(2, 32 * MiB);
	uint64_t all = rig_free(f), seed = 1;
	unsigned n = 0, given = 0;
	mfn_t m;

	for (unsigned i = 0; i < 20000; i++) {
		unsigned k = n ? rig_random(&seed) % n : 0;

		if (n < HELD && rig_random(&seed) % 2) {
			struct held h = {
				.order = orders[rig_random(&seed) % ARRAY_SIZE(orders)], .mark = i};

			if (frames_alloc(f, (int)(rig_random(&seed) % 3) - 1, h.order, &h.m))
				continue;
			assert_int_equal(h.m.n & ((1ull << h.order) - 1), 0);
			/* First and last page: new ones are zero, and belong to nobody else. */
			for (unsigned e = 0; e < 2; e++) {
				uint32_t *p = frames_ptr(
					f, mfn(h.m.n + (e ? (1ull << h.order) - 1 : 0)));

				assert_true(*p == 0 || (e && !h.order));
				*p = i;
			}
			held[n++] = h;
			given++;
		} else if (n) {
			assert_int_equal(*(uint32_t *)frames_ptr(f, held[k].m), held[k].mark);
			frames_free(f, held[k].m, held[k].order);
			held[k] = held[--n];
		}
	}
	assert_true(given > 1000);
	while (n--)
		frames_free(f, held[n].m, held[n].order);
	assert_int_equal(rig_free(f), all);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(frames_alloc(f, FRAMES_NODE_ANY, FRAME_ORDER_2M, &m), 0);
	frames_destroy(f);
}

static void *take_and_give(void *arg)
{
	struct frames *f = arg;
	mfn_t m[64];

	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < 64; i++) {
			if (frames_alloc(f, FRAMES_NODE_ANY, i % 8 ? 0 : FRAME_ORDER_2M, &m[i]))
				m[i] = MFN_NONE;
			else
				*(uint64_t *)frames_ptr(f, m[i]) = (uintptr_t)&m[i];
		}
		for (unsigned i = 0; i < 64; i++) {
			if (!mfn_valid(m[i]))
				continue;
			if (*(uint64_t *)frames_ptr(f, m[i]) != (uintptr_t)&m[i])
				return "two owners";
			frames_free(f, m[i], i % 8 ? 0 : FRAME_ORDER_2M);
		}
	}
	return NULL;
}

static void threads_do_not_share_frames(void **state)
{
	struct frames *f = rig_frames(2, 32 * MiB);
	uint64_t all = rig_free(f);
	pthread_t th[3];
	void *bad;

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&th[i], NULL, take_and_give, f), 0);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(th[i], &bad);
		assert_null(bad);
	}
	assert_int_equal(rig_free(f), all);
	frames_destroy(f);
}

/* All of f's first 512 frames into its memory file. */
static void settle(struct frames *f, uint64_t from, uint64_t count, bool first)
{
	struct err e = {0};

	while (count) {
		int64_t n = frames_settle(f, mfn(from), count, first, &e);

		assert_true(n > 0);
		from += (uint64_t)n;
		count -= (uint64_t)n;
	}
}

static unsigned other_sees(const struct frames *f, uint64_t page)
{
	uint8_t b = 99;

	assert_int_equal(pread(frames_fd(f), &b, 1, (off_t)(page * PAGE_SIZE + 9)), 1);
	return b;
}

/* What lies over a file goes into the memory file, where another process sees it, and goes again when nobody wants it there. */
static void memory_over_a_file_can_be_settled(void **state)
{
	struct frames *f = rig_frames(1, 4 * MiB);
	int fd = memfd_create("file", MFD_CLOEXEC);
	uint8_t page[PAGE_SIZE], *base = frames_base(f);
	struct err e = {0};
	mfn_t m;

	for (unsigned i = 0; i < 100; i++) {
		memset(page, i == 40 ? 0 : (int)i + 1, sizeof(page));
		assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	}
	assert_int_equal(frames_alloc(f, 0, FRAME_ORDER_2M, &m), 0);
	assert_int_equal(m.n, 0);
	base[200 * PAGE_SIZE + 9] = 77;
	assert_int_equal(frames_map_file(f, mfn(10), 100, fd, 0, &e), 0);
	base[13 * PAGE_SIZE + 9] = 250;
	assert_int_equal(other_sees(f, 13), 0);
	settle(f, 0, 512, true);
	assert_int_equal(other_sees(f, 10), 1);
	assert_int_equal(other_sees(f, 13), 250);
	assert_int_equal(other_sees(f, 109), 100);
	assert_int_equal(other_sees(f, 200), 77);
	/* A page of zeros took no memory. */
	assert_int_equal(lseek(frames_fd(f), 50 * PAGE_SIZE, SEEK_HOLE), 50 * PAGE_SIZE);
	/* Again, what was written since; zeros now count. */
	memset(base + 14 * PAGE_SIZE, 0, PAGE_SIZE);
	base[15 * PAGE_SIZE + 9] = 251;
	settle(f, 14, 2, false);
	assert_int_equal(other_sees(f, 14), 0);
	assert_int_equal(other_sees(f, 15), 251);
	/* Not wanted: here everything is as it was, there nothing is left. */
	frames_unsettle(f);
	assert_int_equal(other_sees(f, 15), 0);
	assert_int_equal(other_sees(f, 200), 77);
	assert_int_equal(base[15 * PAGE_SIZE + 9], 251);
	assert_int_equal(base[13 * PAGE_SIZE + 9], 250);
	assert_int_equal(frames_discard(f, mfn(13), 1), 0);
	assert_int_equal(base[13 * PAGE_SIZE + 9], 0);
	frames_destroy(f);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(a_named_node_is_strict_and_any_is_not),
		cmocka_unit_test(what_is_filled_is_there),
		cmocka_unit_test(discard_reads_as_zero_and_keeps_the_frame),
		cmocka_unit_test(no_frame_is_given_out_twice),
		cmocka_unit_test(threads_do_not_share_frames),
		cmocka_unit_test(memory_over_a_file_can_be_settled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
