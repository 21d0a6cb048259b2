/* test_qcow2_tables.c: tables of an image at the largest size that the format has for them. */
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
#include "disk/qcow2/qcow2.h"
#include "disk/tool.h"
#include "expect.h"

#define CLUSTER 512u

struct fix {
	uv_loop_t loop;
	struct memdevs devs;
	struct err e;
	struct disk *d;
};

static void begin(struct fix *f, const struct disk_kv *kv)
{
	memset(f, 0, sizeof(*f));
	uv_loop_init(&f->loop);
	ok(disk_create("qcow2",
		   &(struct disk_create_opts){.path = "a",
			   .size = MiB,
			   .kv = kv,
			   .loop = &f->loop,
			   .open_file = memdevs_open,
			   .open_ctx = &f->devs},
		   &f->e),
		&f->e, "create");
	ok(disk_open(&f->d,
		   &(struct disk_opts){.path = "a",
			   .format = "qcow2",
			   .offline = true,
			   .loop = &f->loop,
			   .open_file = memdevs_open,
			   .open_ctx = &f->devs},
		   &f->e),
		&f->e, "open");
}

static void end(struct fix *f)
{
	disk_close(f->d);
	uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	memdevs_free(&f->devs);
}

/* A table grows by half, and stops at what is possible, not at the last half before that. */
static void refcount_table(void **state)
{
	const struct disk_kv kv[] = {{"cluster-size", "512B"}, {"refcount-bits", "64"}, {0}};
	uint8_t buf[CLUSTER], back[CLUSTER];
	struct disk_check c;
	struct qcow2 *q;
	struct fix f;
	uint64_t counts;

	(void)state;
	begin(&f, kv);
	q = f.d->priv;
	/* As many clusters as the longest table counts. */
	counts = (uint64_t)QCOW2_RT_MAX / 8 << q->rb_bits;
	q->free_at = counts - 1000;
	memset(buf, 1, sizeof(buf));
	ok(disk_rw(f.d, DISK_WRITE, 0, buf, CLUSTER, &f.e), &f.e, "write");
	ok(disk_rw(f.d, DISK_FLUSH, 0, NULL, 0, &f.e), &f.e, "flush");
	assert_int_equal((uint64_t)q->h.rt_clusters * CLUSTER, QCOW2_RT_MAX);
	ok(disk_rw(f.d, DISK_READ, 0, back, CLUSTER, &f.e), &f.e, "read");
	assert_memory_equal(back, buf, CLUSTER);
	/* And no further; the place of the table before this one is free by then. */
	ok(disk_rw(f.d, DISK_WRITE, CLUSTER, buf, CLUSTER, &f.e), &f.e, "write");
	q->free_at = counts;
	q->reserve.at = q->reserve.end;
	assert_int_equal(disk_rw(f.d, DISK_WRITE, 2ull * CLUSTER, buf, CLUSTER, NULL), -EFBIG);
	ok(f.d->format->check(f.d, false, NULL, &c, &f.e), &f.e, "check");
	assert_int_equal(c.errors, 0);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refcount_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
