/* test_gather.c: what is copied into one piece, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/util.h"
#include "disk/gather.h"

/* Time goes by as the test says, however busy the host is. */
static uint64_t now_us;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	*ts = (struct timespec){(time_t)(now_us / 1000000), (long)(now_us % 1000000) * 1000};
	return 0;
}

/* Of `n` requests of 1 MiB, one after the other, that take so long as they are and copied: how many were copied. */
static unsigned copied(
	struct gather *g, bool write, unsigned n, unsigned plain_us, unsigned copied_us)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n; i++) {
		struct gather_note note;
		void *mem = gather_begin(g, write, MiB, &note);

		if (mem)
			memset(mem, 1, MiB);
		now_us += mem ? copied_us : plain_us;
		gather_end(g, &note, mem, true);
		count += mem != NULL;
	}
	return count;
}

static void goes_the_quicker_way(void **state)
{
	struct gather *g = gather_create();

	assert_int_equal(copied(g, false, 24, 4000, 100), 0);
	assert_int_equal(copied(g, false, 24, 4000, 100), 24);
	assert_int_equal(copied(g, false, 64, 4000, 100), 64);
	/* Writes are another matter. */
	assert_int_equal(copied(g, true, 48, 100, 4000), 24);
	assert_int_equal(copied(g, true, 64, 100, 4000), 0);
	gather_destroy(g);
}

/* Some that take long, because something else holds the host up, do not decide. */
static void is_patient(void **state)
{
	struct gather *g = gather_create();

	(void)copied(g, false, 24, 2000, 10);
	(void)copied(g, false, 17, 2000, 10);
	assert_int_equal(copied(g, false, 7, 2000, 40000), 7);
	assert_int_equal(copied(g, false, 64, 2000, 10), 64);
	gather_destroy(g);
}

/* What failed was quick for another reason. */
static void failures_say_nothing(void **state)
{
	struct gather *g = gather_create();
	struct gather_note note;

	(void)copied(g, false, 24, 2000, 10);
	for (unsigned i = 0; i < 24; i++) {
		void *mem = gather_begin(g, false, MiB, &note);

		assert_non_null(mem);
		now_us += 100;
		gather_end(g, &note, mem, false);
	}
	assert_int_equal(copied(g, false, 64, 10, 10), 0);
	gather_destroy(g);
}

/* A host that changes its mind is asked again. */
static void looks_again(void **state)
{
	struct gather *g = gather_create();
	unsigned n;

	(void)copied(g, false, 48, 2000, 10);
	assert_int_equal(copied(g, false, 464, 10, 10), 464);
	(void)copied(g, false, 48, 10, 4000);
	n = copied(g, false, 100, 10, 4000);
	assert_int_equal(n, 0);
	gather_destroy(g);
}

static void not_all_can_be(void **state)
{
	struct gather *g = gather_create();
	struct gather_note note[9];
	void *mem[9];

	assert_null(gather_begin(g, false, 128 * KiB, &note[0]));
	assert_null(gather_begin(g, false, 2 * MiB, &note[0]));
	(void)copied(g, false, 24, 10, 10);
	for (unsigned i = 0; i < 9; i++) {
		mem[i] = gather_begin(g, false, MiB, &note[i]);
		assert_true(i == 8 ? !mem[i] : mem[i] != NULL);
		for (unsigned k = 0; k < i && mem[i]; k++)
			assert_true((char *)mem[i] >= (char *)mem[k] + MiB ||
				    (char *)mem[k] >= (char *)mem[i] + MiB);
	}
	gather_end(g, &note[3], mem[3], false);
	assert_ptr_equal(gather_begin(g, true, MiB, &note[8]), NULL); /* writes: their first */
	assert_ptr_equal(gather_begin(g, false, MiB, &note[8]), mem[3]);
	for (unsigned i = 0; i < 8; i++)
		gather_end(g, &note[i], mem[i], true);
	gather_destroy(g);
	gather_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_the_quicker_way),
		cmocka_unit_test(is_patient),
		cmocka_unit_test(failures_say_nothing),
		cmocka_unit_test(looks_again),
		cmocka_unit_test(not_all_can_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
