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
		print_message("skipped: this host has no userfaultfd of mode %u for us\n", mode);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_wp),
		cmocka_unit_test(test_minor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
