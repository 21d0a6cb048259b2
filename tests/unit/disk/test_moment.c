/*
 * test_moment.c: the copy of what a disk held at a moment, while every kind of request changes the disk: it is that moment's to the byte, each
 * request ends once, and reads see what was written last. Raw, qcow2, lodgefs; and what happens when one of the two sides fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/moment/moment.h"
#include "disk/tool.h"
#include "expect.h"
#include "random.h"

#define SIZE (8 * MiB + 12288) /* the last piece is a short one */
#define UNIT 4096u
#define UNITS ((unsigned)(SIZE / UNIT))
#define CALLS 64

struct call {
	struct disk_req r;
	struct iovec iov;
	struct disk_range range[2];
	uint8_t *buf;
	bool busy;
};

static struct rig {
	uv_loop_t loop;
	struct memdevs devs;
	struct disk_stores stores;
	struct disk *d;
	struct disk_moment *m;
	int fd; /* of the copy */
	unsigned over;
	uint8_t *was, *is;
	struct call call[CALLS];
	uint64_t rng;
	bool busy[UNITS]; /* a request for it is on its way: the order of two would not be said */
} rig;

static uint64_t rnd(uint64_t n)
{
	return random_below(&rig.rng, n);
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	rig.fd = -1;
	rig.rng = RANDOM_SEED;
	rig.was = calloc(1, SIZE);
	rig.is = calloc(1, SIZE);
	for (unsigned i = 0; i < CALLS; i++)
		rig.call[i].buf = malloc(64 * UNIT);
	return 0;
}

static int teardown(void **state)
{
	disk_moment_free(rig.m);
	disk_close(rig.d);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	disk_stores_clear(&rig.stores);
	memdevs_free(&rig.devs);
	for (unsigned i = 0; i < CALLS; i++)
		free(rig.call[i].buf);
	free(rig.was);
	free(rig.is);
	close(rig.fd);
	return 0;
}

static void make_store(void)
{
	struct err e = {0};

	ok(disk_store_lodgefs.create(&(struct disk_create_opts){.path = "store",
					     .size = 64 * MiB,
					     .loop = &rig.loop,
					     .open_file = memdevs_open,
					     .open_ctx = &rig.devs},
		   &e),
		&e, "store");
}

static void start(const char *format)
{
	const char *path = !strcmp(format, "lodgefs") ? "store/d" : "d";
	struct err e = {0};
	char last = 0;

	if (!strcmp(format, "raw")) {
		memdev_poke(&rig.devs, "d", SIZE - 1, &last, 1);
	} else {
		if (!strcmp(format, "lodgefs"))
			make_store();
		ok(disk_create(format,
			   &(struct disk_create_opts){.path = path,
				   .size = SIZE,
				   .loop = &rig.loop,
				   .stores = &rig.stores,
				   .open_file = memdevs_open,
				   .open_ctx = &rig.devs},
			   &e),
			&e, "create");
	}
	ok(disk_open(&rig.d,
		   &(struct disk_opts){.path = path,
			   .format = format,
			   .discard = true,
			   .loop = &rig.loop,
			   .stores = &rig.stores,
			   .open_file = memdevs_open,
			   .open_ctx = &rig.devs},
		   &e),
		&e, "open");
	/* A third of it has something. */
	for (unsigned i = 0; i < UNITS; i++) {
		if (rnd(3))
			continue;
		memset(rig.is + (size_t)i * UNIT, 1 + (int)rnd(255), UNIT);
		ok(disk_rw(rig.d, DISK_WRITE, (uint64_t)i * UNIT, rig.is + (size_t)i * UNIT, UNIT,
			   &e),
			&e, "fill");
	}
}

static void on_over(void *ctx)
{
	rig.over++;
}

static void prepare(void)
{
	struct err e = {0};

	rig.fd = memfd_create("copy", MFD_ALLOW_SEALING);
	ok(disk_moment_create(&rig.m, rig.d, dup(rig.fd), on_over, NULL, &e), &e, "moment");
}

static void arm(void)
{
	disk_drain(rig.d);
	memcpy(rig.was, rig.is, SIZE);
	disk_moment_arm(rig.m);
}

static void each_unit(const struct call *c, bool busy)
{
	for (unsigned k = 0; k < MAX(c->r.nranges, 1u); k++) {
		uint64_t off = c->r.nranges ? c->range[k].offset : c->r.offset;
		uint64_t len = c->r.nranges ? c->range[k].len : c->r.len;

		for (uint64_t u = off / UNIT; u < (off + len) / UNIT; u++)
			rig.busy[u] = busy;
	}
}

static void on_done(struct disk_req *r)
{
	struct call *c = container_of(r, struct call, r);

	assert_true(c->busy);
	assert_int_equal(r->result, 0);
	c->busy = false;
	each_unit(c, false);
	if (r->op == DISK_READ)
		assert_memory_equal(c->buf, rig.is + r->offset, r->len);
}

static bool is_free(uint64_t off, uint64_t len)
{
	for (uint64_t u = off / UNIT; u < (off + len) / UNIT; u++)
		if (rig.busy[u])
			return false;
	return true;
}

/* One request of any kind, unless what it would touch is busy. */
static void one(struct call *c)
{
	static const enum disk_op ops[] = {
		DISK_READ, DISK_WRITE, DISK_WRITE, DISK_WRITE, DISK_WRITE_ZEROES, DISK_DISCARD};
	uint64_t n = 1 + rnd(rnd(8) ? 4 : 64), off = rnd(UNITS - n) * UNIT, len = n * UNIT;

	if (!is_free(off, len))
		return;
	*c = (struct call){.buf = c->buf, .busy = true};
	c->r = (struct disk_req){.op = ops[rnd(ARRAY_SIZE(ops))],
		.offset = off,
		.len = len,
		.iov = &c->iov,
		.niov = 1,
		.unmap = rnd(2),
		.fua = !rnd(8),
		.done = on_done};
	c->iov = (struct iovec){c->buf, len};
	memset(c->buf, 1 + (int)rnd(255), len);
	if (c->r.op == DISK_WRITE && n > 1 && rnd(2)) { /* scattered, the wrong way round */
		c->range[0] = (struct disk_range){off + UNIT, len - UNIT};
		c->range[1] = (struct disk_range){off, UNIT};
		c->r.ranges = c->range;
		c->r.nranges = 2;
	}
	if (c->r.op == DISK_DISCARD) /* what it reads as is not said: it is written over first */
		c->r.op = DISK_FLUSH, c->r.len = 0;
	if (c->r.op == DISK_WRITE)
		memcpy(rig.is + off, c->buf, len);
	else if (c->r.op == DISK_WRITE_ZEROES)
		memset(rig.is + off, 0, len);
	each_unit(c, true);
	disk_submit(rig.d, &c->r);
}

static bool any_busy(void)
{
	for (unsigned i = 0; i < CALLS; i++)
		if (rig.call[i].busy)
			return true;
	return false;
}

static void until_quiet(bool copied)
{
	while (any_busy() || (copied && !rig.over))
		uv_run(&rig.loop, UV_RUN_ONCE);
}

static void same(const uint8_t *want, bool copy)
{
	uint8_t *got = malloc(SIZE);
	struct err e = {0};

	if (copy)
		assert_int_equal(pread(rig.fd, got, SIZE, 0), SIZE);
	else
		ok(disk_rw(rig.d, DISK_READ, 0, got, SIZE, &e), &e, "read");
	for (unsigned u = 0; u < UNITS; u++)
		if (memcmp(got + (size_t)u * UNIT, want + (size_t)u * UNIT, UNIT))
			fail_msg("unit %u of the %s is not what it was", u, copy ? "copy" : "disk");
	free(got);
}

static void exact(const char *format)
{
	start(format);
	prepare();
	/* What is on its way at the moment belongs to it. */
	for (unsigned i = 0; i < 16; i++)
		one(&rig.call[i]);
	arm();
	for (unsigned round = 0; round < 400; round++) {
		for (unsigned i = 0; i < CALLS; i++)
			if (!rig.call[i].busy && !rnd(4))
				one(&rig.call[i]);
		if (!rnd(8))
			disk_drain(
				rig.d); /* does not wait for the sweep, and nobody waits for ever */
		uv_run(&rig.loop, UV_RUN_NOWAIT);
	}
	until_quiet(true);
	assert_int_equal(rig.over, 1);
	assert_true(disk_moment_over(rig.m));
	assert_int_equal(disk_moment_result(rig.m, NULL), 0);
	same(rig.was, true);
	same(rig.is, false);
	disk_moment_free(steal_ptr(rig.m));
	same(rig.is, false);
}

static void exact_raw(void **state)
{
	exact("raw");
}

static void exact_qcow2(void **state)
{
	exact("qcow2");
}

static void exact_lodgefs(void **state)
{
	exact("lodgefs");
}

/* A disk of which little is used is copied with its holes, and a discard does not take anything away from the copy. */
static void holes(void **state)
{
	struct disk_req r = {.op = DISK_DISCARD, .len = SIZE, .done = on_done};
	struct stat st;
	struct err e = {0};
	char last = 0, page[UNIT] = {1};

	memdev_poke(&rig.devs, "d", SIZE - 1, &last, 1);
	ok(disk_open(&rig.d,
		   &(struct disk_opts){.path = "d",
			   .format = "raw",
			   .discard = true,
			   .loop = &rig.loop,
			   .open_file = memdevs_open,
			   .open_ctx = &rig.devs},
		   &e),
		&e, "open");
	ok(disk_rw(rig.d, DISK_WRITE, MiB, page, UNIT, &e), &e, "write");
	rig.is[MiB] = 1;
	prepare();
	arm();
	rig.call[0] = (struct call){.r = r, .buf = rig.call[0].buf, .busy = true};
	disk_submit(rig.d, &rig.call[0].r);
	until_quiet(true);
	same(rig.was, true);
	assert_int_equal(fstat(rig.fd, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_true(st.st_blocks * 512 <= MOMENT_PIECE);
}

/* No room for the copy, or the disk cannot be read: who writes goes on, and it is said once. */
static void fails(bool source)
{
	struct err e = {0};

	start("raw");
	prepare();
	if (source) {
		rig.devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_READ,
			.off = 4 * MiB,
			.len = MiB,
			.error = -EIO,
			.count = 9};
		rig.devs.nfaults = 1;
	} else {
		assert_int_equal(fcntl(rig.fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	}
	arm();
	if (source) { /* what waits for a piece that cannot be read */
		struct call *c = &rig.call[0];

		*c = (struct call){.buf = c->buf, .busy = true, .iov = {c->buf, UNIT}};
		c->r = (struct disk_req){.op = DISK_WRITE,
			.offset = 4 * MiB,
			.len = UNIT,
			.iov = &c->iov,
			.niov = 1,
			.done = on_done};
		memset(c->buf, 7, UNIT);
		memset(rig.is + 4 * MiB, 7, UNIT);
		disk_submit(rig.d, &c->r);
	}
	for (unsigned i = 0; i < CALLS && !source; i++)
		one(&rig.call[i]);
	while (!rig.over)
		uv_run(&rig.loop, UV_RUN_ONCE);
	rig.devs.nfaults = 0;
	until_quiet(true);
	assert_int_equal(rig.over, 1);
	assert_int_equal(disk_moment_result(rig.m, &e), source ? -EIO : -EPERM);
	assert_non_null(strstr(err_msg(&e), source ? "reading it" : "writing its copy"));
	for (unsigned i = 0; i < CALLS; i++)
		one(&rig.call[i]);
	until_quiet(true);
	same(rig.is, false);
}

static void source_fails(void **state)
{
	fails(true);
}

static void target_fails(void **state)
{
	fails(false);
}

/* Given up half way: who waits goes on. */
static void given_up(void **state)
{
	struct disk_moment *other;
	struct err e = {0};

	start("qcow2");
	prepare();
	assert_int_equal(disk_moment_create(&other, rig.d, dup(rig.fd), on_over, NULL, &e), -EBUSY);
	arm();
	for (unsigned i = 0; i < CALLS; i++)
		one(&rig.call[i]);
	uv_run(&rig.loop, UV_RUN_NOWAIT);
	disk_moment_free(steal_ptr(rig.m));
	until_quiet(false);
	same(rig.is, false);
	assert_int_equal(rig.over, 0);
}

/* What a disk held at its own snapshot, without going back to it. */
static void snapshot_of(const char *format)
{
	static const struct disk_kv kv[] = {{"snapshot", "s"}, {0}},
				    none[] = {{"snapshot", "t"}, {0}};
	const char *path = !strcmp(format, "lodgefs") ? "store/d" : "d";
	struct disk_opts o = {.path = path,
		.format = format,
		.readonly = true,
		.loop = &rig.loop,
		.stores = &rig.stores,
		.kv = none,
		.open_file = memdevs_open,
		.open_ctx = &rig.devs};
	struct err e = {0};

	start(format);
	memcpy(rig.was, rig.is, SIZE);
	ok(disk_snapshot(rig.d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	for (unsigned i = 0; i < CALLS; i++)
		one(&rig.call[i]);
	until_quiet(false);
	disk_close(steal_ptr(rig.d));
	assert_int_equal(disk_open(&rig.d, &o, &e), -ENOENT);
	o.kv = kv;
	o.readonly = false;
	assert_int_equal(disk_open(&rig.d, &o, &e), -EROFS);
	o.readonly = true;
	ok(disk_open(&rig.d, &o, &e), &e, "open");
	same(rig.was, false);
}

static void snapshot_of_qcow2(void **state)
{
	snapshot_of("qcow2");
}

static void snapshot_of_lodgefs(void **state)
{
	snapshot_of("lodgefs");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {T(exact_raw), T(exact_qcow2), T(exact_lodgefs), T(holes),
		T(source_fails), T(target_fails), T(given_up), T(snapshot_of_qcow2),
		T(snapshot_of_lodgefs)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
