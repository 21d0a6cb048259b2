/* Page faults served by the process itself, over a shared memory file as frames.h has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "memory/frames.h"
#include "memory/uffd.h"
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 8u

struct server {
	struct uffd *u;
	unsigned faults[8];
	uint8_t page[PAGE_SIZE];
};

static void serve(void *ctx, const struct uffd_fault *f)
{
	struct server *s = ctx;

	__atomic_fetch_add(&s->faults[f->kind], 1, __ATOMIC_SEQ_CST);
	switch (f->kind) {
	case UFFD_MISSING:
		uffd_fill(s->u, (void *)f->page, s->page);
		return;
	case UFFD_WP:
		uffd_protect(s->u, (void *)f->page, PAGE_SIZE, false);
		return;
	case UFFD_MINOR:
		uffd_continue(s->u, (void *)f->page);
		return;
	}
}

static uint8_t *memory(struct server *s, unsigned mode, uint8_t **other)
{
	int fd = memfd_create("uffd", MFD_CLOEXEC);
	uint8_t *p;
	struct err e = {0};

	if (!(uffd_modes() & mode)) {
		print_message("SKIP: no userfaultfd of mode %u for us\n", mode);
		skip();
	}
	assert_int_equal(ftruncate(fd, PAGES * PAGE_SIZE), 0);
	p = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	*other = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (uffd_open(&s->u, mode, &e) || uffd_register(s->u, p, PAGES * PAGE_SIZE, mode, &e) ||
		uffd_serve(s->u, serve, s, &e))
		fail_msg("%s", err_msg(&e));
	return p;
}

static void done(struct server *s, uint8_t *p, uint8_t *other)
{
	uffd_unregister(s->u, p, PAGES * PAGE_SIZE);
	uffd_close(s->u);
	munmap(p, PAGES * PAGE_SIZE);
	munmap(other, PAGES * PAGE_SIZE);
}

static void test_missing(void **state)
{
	struct server s = {0};
	uint8_t *other, *p = memory(&s, UFFD_MISSING, &other);

	memset(s.page, 0x5a, sizeof(s.page));
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(*(volatile uint8_t *)(p + i * PAGE_SIZE + 7), 0x5a);
	assert_int_equal(s.faults[UFFD_MISSING], PAGES);
	assert_int_equal(other[PAGE_SIZE], 0x5a);
	assert_true(uffd_fill(s.u, p, s.page) < 0); /* already there */
	done(&s, p, other);
}

static void test_wp(void **state)
{
	struct server s = {0};
	uint8_t *other, *p = memory(&s, UFFD_WP, &other);

	p[0] = 1;
	assert_int_equal(uffd_protect(s.u, p, PAGES * PAGE_SIZE, true), 0);
	assert_int_equal(p[0], 1); /* reading is free */
	assert_int_equal(s.faults[UFFD_WP], 0);
	p[0] = 2;
	p[1] = 3;
	p[3 * PAGE_SIZE] = 4; /* never touched before */
	assert_int_equal(s.faults[UFFD_WP], 2);
	assert_int_equal(uffd_protect(s.u, p, PAGE_SIZE, true), 0);
	p[0] = 5;
	assert_int_equal(s.faults[UFFD_WP], 3);
	assert_int_equal(other[3 * PAGE_SIZE], 4);
	done(&s, p, other);
}

static void test_minor(void **state)
{
	struct server s = {0};
	uint8_t *other, *p = memory(&s, UFFD_MINOR, &other);

	for (unsigned i = 0; i < PAGES; i++)
		other[i * PAGE_SIZE] = (uint8_t)(i + 1);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(*(volatile uint8_t *)(p + i * PAGE_SIZE), i + 1);
	assert_int_equal(s.faults[UFFD_MINOR], PAGES);
	done(&s, p, other);
}

struct stuck {
	uint8_t *p;
	_Atomic unsigned faults;
};

static void ignore(void *ctx, const struct uffd_fault *f)
{
	((struct stuck *)ctx)->faults++;
}

static void *write_one(void *ctx)
{
	((struct stuck *)ctx)->p[0] = 1;
	return NULL;
}

/* Who waits for a fault that nobody has served goes on when the range is given up: also where only writes are served. */
static void test_unregister(void **state)
{
	struct stuck s = {0};
	struct err e = {0};
	struct uffd *u;
	pthread_t t;

	if (!(uffd_modes() & UFFD_WP)) {
		print_message("SKIP: no userfaultfd for us\n");
		skip();
	}
	s.p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(uffd_open(&u, UFFD_WP, &e), 0);
	assert_int_equal(uffd_register(u, s.p, PAGE_SIZE, UFFD_WP, &e), 0);
	assert_int_equal(uffd_serve(u, ignore, &s, &e), 0);
	assert_int_equal(uffd_protect(u, s.p, PAGE_SIZE, true), 0);
	pthread_create(&t, NULL, write_one, &s);
	while (!s.faults)
		usleep(1000);
	uffd_unregister(u, s.p, PAGE_SIZE);
	pthread_join(t, NULL);
	assert_int_equal(s.p[0], 1);
	uffd_close(u);
	munmap(s.p, PAGE_SIZE);
}

struct aside {
	struct frames *f;
	struct uffd *u;
	_Atomic unsigned faults;
};

static void bring(void *ctx, const struct uffd_fault *fault)
{
	struct aside *a = ctx;
	mfn_t m = mfn((fault->page - (uintptr_t)frames_base(a->f)) / PAGE_SIZE);
	uint64_t n = 1;

	a->faults++;
	uffd_fill_missing(a->u, (void *)fault->page, frames_aside(a->f, m, &n), PAGE_SIZE, false);
}

static uint8_t at(struct aside *a, unsigned page)
{
	return *((volatile uint8_t *)frames_base(a->f) + page * PAGE_SIZE + 9);
}

/* Memory that lies over a file moves into the memory file, page by page as it is touched. */
static void test_aside(void **state)
{
	struct frames_opts o = {.nodes = 1, .node_bytes = {4 << 20}};
	struct aside a = {0};
	uint8_t page[PAGE_SIZE];
	struct err e = {0};
	uint64_t n = 512;
	uint8_t *base;
	int fd = memfd_create("file", MFD_CLOEXEC);
	mfn_t m;

	if (!(uffd_modes() & UFFD_MISSING)) {
		print_message("SKIP: no userfaultfd for us\n");
		skip();
	}
	for (unsigned i = 0; i < 512; i++) {
		memset(page, (int)(i % 200 + 1), sizeof(page));
		assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	}
	assert_int_equal(frames_create(&a.f, &o, &e), 0);
	assert_int_equal(frames_alloc(a.f, 0, FRAME_ORDER_2M, &m), 0);
	assert_int_equal(m.n, 0);
	base = frames_base(a.f);
	assert_null(frames_aside(a.f, m, &n));
	assert_int_equal(frames_map_file(a.f, m, 512, fd, 0, &e), 0);
	base[3 * PAGE_SIZE + 9] = 250; /* its own copy */
	assert_int_equal(frames_discard(a.f, mfn(5), 1), 0); /* the memory file's */
	assert_int_equal(frames_set_aside(a.f, m, 512, &e), 0);
	assert_int_equal(
		frames_set_aside(a.f, m, 1024, &e), 0); /* all that is to be done is done */
	n = 1024;
	assert_non_null(frames_aside(a.f, m, &n));
	assert_int_equal(n, 5);
	assert_null(frames_aside(a.f, mfn(5), &n));
	assert_int_equal(n, 1);
	n = 1024;
	assert_non_null(frames_aside(a.f, mfn(6), &n));
	assert_int_equal(n, 506);
	assert_int_equal(frames_untouched(a.f, m, 512), 0);
	assert_int_equal(uffd_open(&a.u, UFFD_MISSING, &e), 0);
	assert_int_equal(uffd_register(a.u, base, 5 * PAGE_SIZE, UFFD_MISSING, &e), 0);
	assert_int_equal(
		uffd_register(a.u, base + 6 * PAGE_SIZE, 506 * PAGE_SIZE, UFFD_MISSING, &e), 0);
	assert_int_equal(uffd_serve(a.u, bring, &a, &e), 0);
	assert_int_equal(at(&a, 0), 1);
	assert_int_equal(at(&a, 3), 250);
	assert_int_equal(at(&a, 5), 0);
	assert_int_equal(at(&a, 7), 8);
	assert_int_equal(a.faults, 3);
	/* Cleared, touched before or not. */
	assert_int_equal(frames_discard(a.f, mfn(7), 2), 0);
	assert_int_equal(at(&a, 7) | at(&a, 8), 0);
	base[10 * PAGE_SIZE + 9] = 251;
	/* The rest at once: what is there stays. */
	n = 506;
	assert_int_equal(
		uffd_fill_missing(a.u, base, frames_aside(a.f, m, &n), 5 * PAGE_SIZE, false), 0);
	assert_int_equal(uffd_fill_missing(a.u, base + 6 * PAGE_SIZE, frames_aside(a.f, mfn(6), &n),
				 506 * PAGE_SIZE, false),
		0);
	uffd_unregister(a.u, base, 2 << 20);
	frames_aside_end(a.f, m, 512);
	assert_null(frames_aside(a.f, m, &n));
	for (unsigned i = 0; i < 512; i++) {
		uint8_t want = i == 3			    ? 250
			       : i == 10		    ? 251
			       : i == 5 || i == 7 || i == 8 ? 0
							    : i % 200 + 1;

		assert_int_equal(at(&a, i), want);
		assert_int_equal(pread(frames_fd(a.f), page, 10, i * PAGE_SIZE), 10);
		assert_int_equal(page[9], want);
	}
	uffd_close(a.u);
	frames_destroy(a.f);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_wp),
		cmocka_unit_test(test_minor),
		cmocka_unit_test(test_unregister),
		cmocka_unit_test(test_aside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
