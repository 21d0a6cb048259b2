/*
 * A snapshot while memory is written: by the checked accessors, as a device does by DMA, as a vCPU does, and by a balloon. What is in the
 * file is exactly what was there at the moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "memory/space.h"
#include "vm/snapshot/file.h"
#include "vm/snapshot/live.h"

#define BASE 0x80000000ull
#define PAGES 1024u
#define WRITERS 4
#define SHARE (PAGES / WRITERS)

struct rig {
	struct frames *f;
	struct space *s;
	pthread_rwlock_t moment; /* writers hold it for reading while they change one page */
	uint64_t now[PAGES], then[PAGES]; /* what each page holds: 0, or a number all over it */
	_Atomic bool stop;
	_Atomic uint64_t writes;
	sem_t done;
};

struct writer {
	struct rig *r;
	unsigned kind;
	pthread_t thread;
};

static void fill(void *p, uint64_t v)
{
	uint64_t *q = p;

	for (unsigned i = 0; i < 512; i++)
		q[i] = v;
}

static void by_accessor(struct rig *r, gpa_t a, uint64_t v)
{
	uint64_t page[512];

	fill(page, v);
	assert_int_equal(space_write(r->s, a, page, sizeof(page)), 0);
}

static void by_dma(struct rig *r, gpa_t a, uint64_t v)
{
	struct iovec iov[2];
	unsigned n = 0;

	assert_int_equal(space_span(r->s, a, PAGE_SIZE, MEM_WRITE, iov, &n, 2), 0);
	fill(iov[0].iov_base, v);
	space_announce(r->s, a, PAGE_SIZE);
}

static void by_vcpu(struct rig *r, gpa_t a, uint64_t v)
{
	struct space_page pg;
	unsigned in = space_hold(r->s);

	assert_int_equal(space_page(r->s, 0, a, MEM_WRITE, &pg), 0);
	fill(pg.host, v);
	space_release(r->s, in);
}

static uint64_t write_page(struct rig *r, unsigned kind, gpa_t a, uint64_t v)
{
	switch (kind) {
	case 0:
		by_accessor(r, a, v);
		return v;
	case 1:
		by_dma(r, a, v);
		return v;
	case 2:
		by_vcpu(r, a, v);
		return v;
	default:
		if (v % 3) {
			by_accessor(r, a, v);
			return v;
		}
		space_announce(r->s, a, PAGE_SIZE);
		assert_int_equal(space_discard(r->s, a, PAGE_SIZE), 0);
		return 0;
	}
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct rig *r = w->r;

	/* The last eighth of each share is left alone, for the sweep. */
	for (uint64_t v = 1; !r->stop; v++)
		for (unsigned i = 0; i < SHARE * 7 / 8 && !r->stop; i++) {
			unsigned page = w->kind * SHARE + i;

			pthread_rwlock_rdlock(&r->moment);
			r->now[page] = write_page(r, w->kind, gpa(BASE + page * PAGE_SIZE), v);
			pthread_rwlock_unlock(&r->moment);
			r->writes++;
		}
	return NULL;
}

static void on_done(void *ctx)
{
	struct rig *r = ctx;

	sem_post(&r->done);
}

static struct rig *make_rig(void)
{
	struct frames_opts fo = {1, {64 * MiB}, "test"};
	struct rig *r = calloc(1, sizeof(*r));
	pthread_rwlockattr_t attr;
	struct err e = {0};

	assert_int_equal(frames_create(&r->f, &fo, &e), 0);
	assert_int_equal(space_create(&r->s, r->f, &e), 0);
	assert_int_equal(space_add_ram(r->s, gpa(BASE), PAGES * PAGE_SIZE, 0, "ram", &e), 0);
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&r->moment, &attr);
	pthread_rwlockattr_destroy(&attr);
	sem_init(&r->done, 0, 0);
	return r;
}

static void free_rig(struct rig *r)
{
	space_destroy(r->s);
	frames_destroy(r->f);
	pthread_rwlock_destroy(&r->moment);
	sem_destroy(&r->done);
	free(r);
}

static struct snaplive *take(struct rig *r, int fd, uint64_t queue)
{
	struct snaplive_opts o = {
		.space = r->s, .fd = fd, .queue_bytes = queue, .done = on_done, .ctx = r};
	struct snaplive *l;
	struct err e = {0};

	assert_int_equal(snaplive_create(&l, &o, &e), 0);
	pthread_rwlock_wrlock(&r->moment);
	assert_int_equal(snaplive_arm(l, &e), 0);
	memcpy(r->then, r->now, sizeof(r->now));
	pthread_rwlock_unlock(&r->moment);
	snaplive_run(l, strdup("{}"), (uint8_t *)strdup("s"), 1, NULL, 0);
	return l;
}

static int check_page(void *ctx, uint64_t i, const void *page, struct err *e)
{
	const struct rig *r = ctx;
	const uint64_t *q = page;

	for (unsigned k = 0; k < 512; k++)
		if (q[k] != r->then[i])
			fail_msg("page %u, word %u: %llu instead of %llu", (unsigned)i, k,
				(unsigned long long)q[k], (unsigned long long)r->then[i]);
	return 0;
}

static void check_file(struct rig *r, int fd)
{
	struct snapfile *s;
	struct err e = {0};

	assert_int_equal(snapfile_open(&s, fd, &e), 0);
	for (uint64_t i = 0; i < PAGES; i++) {
		enum snapfile_kind kind = snapfile_kind_of(s, i);
		uint64_t page[512] = {0};

		if (kind == SNAPFILE_RAW)
			assert_int_equal(pread(fd, page, 4096, (off_t)(s->store + i * 4096)), 4096);
		if (kind != SNAPFILE_PACKED)
			check_page(r, i, page, NULL);
	}
	assert_int_equal(snapfile_unpack(s, check_page, r, &e), 0);
	assert_int_equal(snapfile_verify(s, NULL, NULL, &e), 0);
	snapfile_close(s);
}

static void run_writers(struct rig *r, struct writer *w)
{
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){r, i, 0};
		pthread_create(&w[i].thread, NULL, writer_main, &w[i]);
	}
	while (r->writes < PAGES)
		sched_yield();
}

static void stop_writers(struct rig *r, struct writer *w)
{
	r->stop = true;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(w[i].thread, NULL);
}

static void test_exact(void **state)
{
	struct rig *r = make_rig();
	struct writer w[WRITERS];

	run_writers(r, w);
	for (unsigned n = 0; n < 4; n++) {
		int fd = memfd_create("snap", MFD_CLOEXEC);
		/* Small queues make writers wait. */
		struct snaplive *l = take(r, dup(fd), n % 2 ? 256 * KiB : 2 * MiB);
		struct snaplive_stat st;

		sem_wait(&r->done);
		snaplive_stat(l, &st);
		assert_int_equal(snaplive_result(l, NULL), 0);
		assert_int_equal(st.caught + st.swept, PAGES);
		assert_true(st.queue_max <= (n % 2 ? 64 : 512));
		snaplive_free(l);
		check_file(r, fd);
	}
	stop_writers(r, w);
	free_rig(r);
}

/* What is written first is the working set; what is given back is not. */
static void test_working_set(void **state)
{
	struct rig *r = make_rig();
	int fd = memfd_create("snap", MFD_CLOEXEC);
	struct snaplive_opts o = {.space = r->s, .fd = dup(fd), .done = on_done, .ctx = r};
	struct snaplive *l;
	struct snapfile *s;
	struct err e = {0};
	char *set;
	size_t len;

	for (unsigned i = 0; i < 16; i++)
		by_accessor(r, gpa(BASE + i * PAGE_SIZE), 1);
	assert_int_equal(snaplive_create(&l, &o, &e), 0);
	assert_int_equal(snaplive_arm(l, &e), 0);
	space_announce(r->s, gpa(BASE + 8 * PAGE_SIZE), 4 * PAGE_SIZE);
	assert_int_equal(space_discard(r->s, gpa(BASE + 8 * PAGE_SIZE), 4 * PAGE_SIZE), 0);
	by_vcpu(r, gpa(BASE + 5 * PAGE_SIZE), 2);
	by_accessor(r, gpa(BASE + 6 * PAGE_SIZE), 2);
	snaplive_run(l, strdup("{}"), (uint8_t *)strdup("s"), 1, NULL, 0);
	sem_wait(&r->done);
	assert_int_equal(snaplive_result(l, NULL), 0);
	snaplive_free(l);
	assert_int_equal(snapfile_open(&s, fd, &e), 0);
	assert_int_equal(snapfile_section(s, SNAPFILE_S_WORKING_SET, &set, &len, &e), 0);
	assert_int_equal(len, 16);
	assert_int_equal(get_le64((uint8_t *)set), 5);
	assert_int_equal(get_le32((uint8_t *)set + 8), 2);
	free(set);
	snapfile_close(s);
	free_rig(r);
}

struct light {
	struct rig *r;
	unsigned page;
	bool wrote;
};

static void *write_one(void *arg)
{
	struct light *l = arg;

	/* Threads are told apart by this. */
	l->wrote = (gettid() - getpid()) % 64 != 0;
	if (l->wrote)
		by_accessor(l->r, gpa(BASE + l->page * PAGE_SIZE), 2);
	return NULL;
}

/* Who writes little does not make room for who has filled the queue: nobody else does it here, the writer has not begun. */
static void test_light_writer(void **state)
{
	struct rig *r = make_rig();
	int fd = memfd_create("snap", MFD_CLOEXEC);
	struct snaplive_opts o = {.space = r->s,
		.fd = dup(fd),
		.queue_bytes = 256 * KiB,
		.pack_percent = 101,
		.done = on_done,
		.ctx = r};
	struct snaplive_stat st, then;
	struct snaplive *l;
	struct err e = {0};

	for (unsigned i = 0; i < PAGES; i++) {
		by_accessor(r, gpa(BASE + i * PAGE_SIZE), 1);
		r->then[i] = 1;
	}
	assert_int_equal(snaplive_create(&l, &o, &e), 0);
	assert_int_equal(snaplive_arm(l, &e), 0);
	for (unsigned i = 0; i < 704; i++) {
		struct light light = {r, i, false};
		pthread_t t;

		if (i % 11 != 10) {
			by_accessor(r, gpa(BASE + i * PAGE_SIZE), 2);
			continue;
		}
		snaplive_stat(l, &then);
		while (!light.wrote) {
			assert_int_equal(pthread_create(&t, NULL, write_one, &light), 0);
			pthread_join(t, NULL);
		}
		snaplive_stat(l, &st);
		assert_int_equal(st.caught, then.caught + 1);
		assert_int_equal(st.throttled, then.throttled);
	}
	assert_true(st.throttled > 0);
	snaplive_run(l, strdup("{}"), (uint8_t *)strdup("s"), 1, NULL, 0);
	sem_wait(&r->done);
	assert_int_equal(snaplive_result(l, NULL), 0);
	snaplive_free(l);
	check_file(r, fd);
	free_rig(r);
}

/* A target that cannot take it: writers that wait go on, and the next one works. */
static void test_fails(void **state)
{
	struct rig *r = make_rig();
	struct writer w[WRITERS];
	struct err e = {0};
	struct snaplive *l;
	uint64_t before;
	int fd;

	run_writers(r, w);
	l = take(r, open("/dev/full", O_RDWR | O_CLOEXEC), 256 * KiB);
	sem_wait(&r->done);
	assert_int_equal(snaplive_result(l, &e), -ENOSPC);
	snaplive_free(l);
	before = r->writes;
	while (r->writes < before + 2 * PAGES)
		sched_yield();
	l = take(r, memfd_create("snap", MFD_CLOEXEC), 256 * KiB);
	snaplive_cancel(l);
	sem_wait(&r->done);
	snaplive_free(l);
	before = r->writes;
	while (r->writes < before + 2 * PAGES)
		sched_yield();
	fd = memfd_create("snap", MFD_CLOEXEC);
	l = take(r, dup(fd), 0);
	sem_wait(&r->done);
	assert_int_equal(snaplive_result(l, &e), 0);
	snaplive_free(l);
	check_file(r, fd);
	stop_writers(r, w);
	free_rig(r);
}

/* Memory that nobody has touched is neither read nor made. */
static void test_untouched(void **state)
{
	struct rig *r = make_rig();
	int fd = memfd_create("snap", MFD_CLOEXEC);
	struct snaplive_stat st;
	struct snaplive *l;

	r->now[7] = 9;
	by_accessor(r, gpa(BASE + 7 * PAGE_SIZE), 9);
	l = take(r, dup(fd), 0);
	sem_wait(&r->done);
	snaplive_stat(l, &st);
	assert_true(st.untouched > PAGES - 200);
	assert_true(frames_untouched(r->f, mfn(512), 512) == 512);
	snaplive_free(l);
	check_file(r, fd);
	free_rig(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exact),
		cmocka_unit_test(test_working_set),
		cmocka_unit_test(test_light_writer),
		cmocka_unit_test(test_fails),
		cmocka_unit_test(test_untouched),
	};

	return cmocka_run_group_tests_name("vm/snaplive", tests, NULL, NULL);
}
