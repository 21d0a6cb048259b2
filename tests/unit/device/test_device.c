#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "device/device.h"
#include "device/finisher.h"

static void every_class_is_complete(void **state)
{
	unsigned n = 0;

	for (const struct device_class *const *c = device_classes; *c; c++, n++) {
		struct err e = {0};

		if (device_class_check(*c, &e))
			fail_msg("%s", err_msg(&e));
		assert_ptr_equal(device_class_find((*c)->name), *c);
	}
	assert_true(n >= 3);
	assert_null(device_class_find("no-such"));
}

static void a_class_without_state_does_not_register(void **state)
{
	struct device_class c = *device_class_find("test-finisher");
	struct err e = {0};

	assert_int_equal(device_class_check(&c, &e), 0);
	c.state = NULL;
	assert_int_equal(device_class_check(&c, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "described state"));
}

static void failure_names_the_device_and_leaves_nothing(void **state)
{
	struct bus *b;
	struct device_env env = {0};
	struct finisher_opts o = {.base = 0x100000};
	struct device *d, *second;
	struct err e = {0};

	assert_int_equal(bus_create(&b, &e), 0);
	env.bus = b;
	assert_int_equal(device_create(&d, "no-such", "x", &env, &o, &e), -ENOENT);
	assert_int_equal(device_create(&d, "test-finisher", "", &env, &o, &e), -EINVAL);
	assert_int_equal(device_create(&d, "test-finisher",
				 "a-name-of-more-than-thirty-one-characters", &env, &o, &e),
		-EINVAL);
	assert_int_equal(device_create(&d, "test-finisher", "finisher.0", &env, &o, &e), 0);
	assert_int_equal(
		device_create(&second, "test-finisher", "finisher.1", &env, &o, &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "finisher.1"));
	device_destroy(d);
	assert_int_equal(device_create(&d, "test-finisher", "finisher.0", &env, &o, &e), 0);
	device_destroy(d);
	bus_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_class_is_complete),
		cmocka_unit_test(a_class_without_state_does_not_register),
		cmocka_unit_test(failure_names_the_device_and_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
