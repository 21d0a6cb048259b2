/*
 * test_lodgefs_memory.c: memory runs out in the middle of a change (the program is linked with --wrap=calloc). Who shared the record with it is told so.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"
#include "expect.h"
#include "store.h"

#define SUB 4096u

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

static size_t fails; /* arrays of so many, and more */

void *__wrap_calloc(size_t n, size_t size)
{
	return fails && n >= fails ? NULL : __real_calloc(n, size);
}

static void in_the_middle(void **state)
{
	struct fix *f = begin(512 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	uint8_t buf[SUB] = {2}, back[SUB];
	unsigned n = 0;

	(void)state;
	ok(make(f, "store/a", 400 * MiB, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	write_now(d, 0, SUB, 1);
	/* What is vouched for has to have a larger table: that is not to be had. */
	fails = 2048;
	while (!disk_rw(d, DISK_WRITE, ++n * SUB, buf, SUB, &e))
		assert_true(n < 4096);
	fails = 0;
	usleep(120000);
	/* The one that failed was alone to fail, but others were not in the journal yet. */
	assert_int_equal(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), -ENOMEM);
	ok(disk_rw(d, DISK_READ, 0, back, SUB, &e), &e, "read");
	write_now(d, 0, SUB, 3);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	is_now(d, 0, SUB, 3);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
