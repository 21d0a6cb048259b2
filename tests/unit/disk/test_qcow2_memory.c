/*
 * test_qcow2_memory.c: memory runs out while the disk gets a table of its own (the program is linked with --wrap=realloc). The request fails, and nothing
 * else is the worse for it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"
#include "expect.h"

#define SIZE (4 * MiB)
#define CLUSTER (64 * KiB)

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);

static unsigned left; /* until one fails; 0: none does */

void *__wrap_realloc(void *p, size_t n)
{
	return left && !--left ? NULL : __real_realloc(p, n);
}

/* The n-th array that is to grow does not. Returns whether there was one. */
static bool without(unsigned n)
{
	static uint8_t buf[CLUSTER], back[CLUSTER];
	struct memdevs devs = {0};
	struct disk_check c;
	struct err e = {0};
	struct disk *d;
	uv_loop_t loop;
	bool hit;
	int rc;

	uv_loop_init(&loop);
	ok(disk_create("qcow2",
		   &(struct disk_create_opts){.path = "a",
			   .size = SIZE,
			   .loop = &loop,
			   .open_file = memdevs_open,
			   .open_ctx = &devs},
		   &e),
		&e, "create");
	ok(disk_open(&d,
		   &(struct disk_opts){.path = "a",
			   .format = "qcow2",
			   .offline = true,
			   .loop = &loop,
			   .open_file = memdevs_open,
			   .open_ctx = &devs},
		   &e),
		&e, "open");
	memset(buf, 1, sizeof(buf));
	ok(disk_rw(d, DISK_WRITE, 0, buf, CLUSTER, &e), &e, "write");
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	memset(buf, 2, sizeof(buf));
	left = n;
	rc = disk_rw(d, DISK_WRITE, 0, buf, 4096, &e);
	hit = !left;
	left = 0;
	assert_true(!rc || rc == -ENOMEM);
	for (uint64_t at = rc ? 0 : CLUSTER; at < 32 * CLUSTER; at += CLUSTER)
		ok(disk_rw(d, DISK_WRITE, at, buf, 4096, &e), &e, "what comes later");
	ok(disk_rw(d, DISK_READ, 0, back, CLUSTER, &e), &e, "read");
	assert_memory_equal(back, buf, 4096);
	memset(buf, 1, sizeof(buf));
	assert_memory_equal(back + 4096, buf, CLUSTER - 4096);
	ok(d->format->check(d, false, NULL, &c, &e), &e, "check");
	assert_int_equal(c.errors, 0);
	disk_close(d);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
	memdevs_free(&devs);
	return hit;
}

static void each_array(void **state)
{
	unsigned n = 1;

	(void)state;
	while (without(n))
		n++;
	assert_true(n > 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
