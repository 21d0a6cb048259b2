/*
 * expect.h: what tests of disks expect of a call, and ask of a disk's statistics.
 */
#ifndef LODGE_TESTS_EXPECT_H
#define LODGE_TESTS_EXPECT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/err.h"
#include "disk/disk.h"

static inline void ok(int rc, const struct err *e, const char *what)
{
	if (rc)
		fail_msg("%s: %d %s", what, rc, err_msg(e));
}

/* What its statistics say under that name; it must be there. */
static inline uint64_t stat_of(struct disk *d, const char *name)
{
	json_t *o = json_object();
	uint64_t v;

	disk_format_stats(d, o);
	assert_non_null(json_object_get(o, name));
	v = (uint64_t)json_integer_value(json_object_get(o, name));
	json_decref(o);
	return v;
}

#endif
