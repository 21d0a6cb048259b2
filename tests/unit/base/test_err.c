#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"

static int inner(struct err *e)
{
	return err_set(e, -EINVAL, "size %d is odd", 3);
}

static void wraps_in_front(void **state)
{
	struct err e = {0};

	assert_int_equal(inner(&e), -EINVAL);
	assert_int_equal(err_wrap(&e, "disk %s", "a.raw"), -EINVAL);
	assert_string_equal(err_msg(&e), "disk a.raw: size 3 is odd");
}

static void says_it_once_and_in_one_line(void **state)
{
	struct err e = {0};

	err_set(&e, -EEXIST, "disk %s: is there already", "a\nb\033[31m\177");
	assert_string_equal(err_msg(&e), "disk a?b?[31m?: is there already");
	assert_int_equal(err_wrap(&e, "disk %s", "a\nb\033[31m\177"), -EEXIST);
	assert_string_equal(err_msg(&e), "disk a?b?[31m?: is there already");
	err_wrap(&e, "dis");
	assert_string_equal(err_msg(&e), "dis: disk a?b?[31m?: is there already");
	err_sys(&e, -ENOENT, "%s", "a\tb");
	assert_string_equal(err_msg(&e), "a?b: No such file or directory");
	/* An 8-bit control, as a byte and in UTF-8; text of all lengths stays; what is cut, or a surrogate, is none. */
	err_set(&e, -EIO, "%s",
		"a\x9b[31m b\xc2\x9b c\xc2\xa0\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 d\xe2\x82 "
		"\xed\xa0\x80 \xf0\x9f");
	assert_string_equal(
		err_msg(&e), "a?[31m b?? c\xc2\xa0\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 d?? ??? ??");
}

static void long_messages_are_cut_not_overrun(void **state)
{
	struct err e = {0};

	err_set(&e, -EIO, "%600s", "x");
	err_wrap(&e, "%600s", "y");
	assert_int_equal(e.msg[sizeof(e.msg) - 1], 0);
}

static void null_is_allowed(void **state)
{
	assert_int_equal(inner(NULL), -EINVAL);
	assert_int_equal(err_sys(NULL, -ENOENT, "x"), -ENOENT);
}

static void sys_names_the_cause(void **state)
{
	struct err e = {0};

	err_sys(&e, -ENOENT, "open %s", "a");
	assert_string_equal(err_msg(&e), "open a: No such file or directory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wraps_in_front),
		cmocka_unit_test(says_it_once_and_in_one_line),
		cmocka_unit_test(long_messages_are_cut_not_overrun),
		cmocka_unit_test(null_is_allowed),
		cmocka_unit_test(sys_names_the_cause),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
