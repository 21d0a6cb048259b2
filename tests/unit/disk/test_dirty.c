/*
 * test_dirty.c: a copy by disk/dirty.h of a disk that is written to all the time ends as the disk is, in every format: writes of any size, scattered ones,
 * zeroes and discards, in flight while their blocks are taken and read.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/dirty.h"
#include "disk/memdev.h"
#include "disk/tool.h"

#define SIZE (4 * MiB + 3 * DISK_SECTOR) /* the last block is not whole */
#define IN_FLIGHT 16u
#define WRITES 3000u
#define LEN_MAX (96 * KiB)

struct world;

struct one {
	struct world *w;
	struct disk_req r;
	struct disk_range range[3];
	struct iovec iov;
	uint8_t *buf;
	bool busy;
};

struct world {
	uv_loop_t loop;
	char dir[64], path[96];
	struct disk *d;
	struct one one[IN_FLIGHT];
	unsigned started, busy;
	uint64_t seed;
	uint8_t *copy, *now;
};

static uint64_t next(struct world *w)
{
	w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
	return w->seed >> 33;
}

static void done(struct disk_req *r)
{
	struct one *o = container_of(r, struct one, r);

	assert_int_equal(r->result, 0);
	o->busy = false;
	o->w->busy--;
}

/* Never two at once in one place: what they leave is not said. */
static bool clashes(const struct world *w, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		for (unsigned k = 0; k < 3 && w->one[i].busy; k++)
			if (w->one[i].range[k].len &&
				off < w->one[i].range[k].offset + w->one[i].range[k].len &&
				w->one[i].range[k].offset < off + len)
				return true;
	return false;
}

static bool choose(struct world *w, struct disk_range *r)
{
	r->len = (1 + next(w) % (LEN_MAX / DISK_SECTOR)) * DISK_SECTOR;
	r->offset = next(w) % ((SIZE - r->len) / DISK_SECTOR + 1) * DISK_SECTOR;
	if (clashes(w, r->offset, r->len)) {
		r->len = 0;
		return false;
	}
	return true;
}

static void start(struct world *w, struct one *o)
{
	static const enum disk_op ops[] = {
		DISK_WRITE, DISK_WRITE, DISK_WRITE_ZEROES, DISK_DISCARD, DISK_WRITE, DISK_FLUSH};
	unsigned n = next(w) % 4 ? 1 : 3;

	memset(o->range, 0, sizeof(o->range));
	o->r = (struct disk_req){.op = ops[next(w) % ARRAY_SIZE(ops)],
		.unmap = next(w) & 1,
		.fua = next(w) % 8 == 0,
		.done = done};
	if (o->r.op != DISK_WRITE)
		n = 1;
	for (unsigned i = 0; i < n; i++) {
		if (!choose(w, &o->range[i]))
			return;
		o->r.len += o->range[i].len;
		/* Its own ranges must not meet either. */
		for (unsigned k = 0; k < i; k++)
			if (o->range[k].offset < o->range[i].offset + o->range[i].len &&
				o->range[i].offset < o->range[k].offset + o->range[k].len)
				return;
	}
	o->r.offset = o->range[0].offset;
	if (o->r.op == DISK_FLUSH)
		o->r.offset = o->r.len = o->range[0].len = 0;
	if (n > 1) {
		o->r.ranges = o->range;
		o->r.nranges = n;
	}
	memset(o->buf, (int)next(w), o->r.len);
	o->iov = (struct iovec){o->buf, o->r.len};
	o->r.iov = &o->iov;
	o->r.niov = 1;
	o->busy = true;
	w->busy++;
	w->started++;
	disk_submit(w->d, &o->r);
}

static void write_some(struct world *w)
{
	for (unsigned i = 0; i < IN_FLIGHT && w->started < WRITES; i++)
		if (!w->one[i].busy && next(w) % 2)
			start(w, &w->one[i]);
}

static bool was_read;

static void read_done(struct disk_req *r)
{
	assert_int_equal(r->result, 0);
	was_read = true;
}

/* Writes go on while it waits. */
static void read_piece(struct world *w, uint64_t off, uint64_t len)
{
	struct iovec iov = {w->copy + off, len};
	struct disk_req r = {.offset = off, .len = len, .iov = &iov, .niov = 1, .done = read_done};

	was_read = false;
	disk_read_aside(w->d, &r);
	write_some(w);
	while (!was_read)
		uv_run(&w->loop, UV_RUN_ONCE);
}

static void pass(struct world *w)
{
	struct disk_range r;

	for (uint64_t at = 0; disk_dirty_take(w->d, at, 128 * KiB, &r); at = r.offset + r.len) {
		assert_true(r.len <= 128 * KiB && r.offset >= at && r.offset + r.len <= SIZE);
		read_piece(w, r.offset, r.len);
	}
}

static void copy_while_written(struct world *w, const char *format)
{
	struct err e = {0};

	if (disk_dirty_start(w->d, &e))
		fail_msg("%s", err_msg(&e));
	assert_int_equal(disk_dirty_start(w->d, NULL), -EBUSY);
	for (uint64_t at = 0; at < SIZE; at += MIN(SIZE - at, 256 * KiB))
		read_piece(w, at, MIN(SIZE - at, 256 * KiB));
	while (w->started < WRITES || w->busy) {
		pass(w);
		write_some(w);
		uv_run(&w->loop, UV_RUN_NOWAIT);
	}
	pass(w);
	assert_int_equal(disk_dirty_bytes(w->d), 0);
	disk_dirty_stop(w->d);
	if (disk_rw(w->d, DISK_READ, 0, w->now, SIZE, &e))
		fail_msg("%s", err_msg(&e));
	for (uint64_t i = 0; i < SIZE; i++)
		if (w->now[i] != w->copy[i])
			fail_msg("%s: byte %llu is %#x, and was copied as %#x", format,
				(unsigned long long)i, w->now[i], w->copy[i]);
}

static void go(struct world *w, const char *format)
{
	struct disk_opts o = {.path = w->path, .format = format, .discard = true, .loop = &w->loop};
	struct err e = {0};

	if (disk_create(format,
		    &(struct disk_create_opts){.path = w->path, .size = SIZE, .loop = &w->loop},
		    &e) ||
		disk_open(&w->d, &o, &e))
		fail_msg("%s", err_msg(&e));
	copy_while_written(w, format);
}

static void test_raw(void **state)
{
	struct world *w = *state;

	snprintf(w->path, sizeof(w->path), "%s/d.raw", w->dir);
	go(w, "raw");
}

static void test_qcow2(void **state)
{
	struct world *w = *state;

	snprintf(w->path, sizeof(w->path), "%s/d.qcow2", w->dir);
	go(w, "qcow2");
}

static void test_lodgefs(void **state)
{
	struct world *w = *state;
	char store[80];
	struct err e = {0};

	snprintf(store, sizeof(store), "%s/s.lodge", w->dir);
	snprintf(w->path, sizeof(w->path), "%s/d", store);
	if (disk_store_lodgefs.create(
		    &(struct disk_create_opts){.path = store, .size = 64 * MiB, .loop = &w->loop},
		    &e))
		fail_msg("%s", err_msg(&e));
	go(w, "lodgefs");
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	strcpy(w->dir, "/tmp/lodge-dirty-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	uv_loop_init(&w->loop);
	w->copy = calloc(1, SIZE);
	w->now = calloc(1, SIZE);
	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		w->one[i].w = w;
		w->one[i].buf = malloc(3 * LEN_MAX);
	}
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	char cmd[128];

	disk_close(w->d);
	while (uv_loop_close(&w->loop) == UV_EBUSY)
		uv_run(&w->loop, UV_RUN_NOWAIT);
	snprintf(cmd, sizeof(cmd), "rm -r %s", w->dir);
	assert_int_equal(system(cmd), 0);
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		free(w->one[i].buf);
	free(w->copy);
	free(w->now);
	free(w);
	return 0;
}

/* A write that failed may have changed a part of what it was to change. */
static void failed(void **state)
{
	struct memdevs devs = {
		.nfaults = 1, .fault = {{.ops = 1 << FILE_WRITE, .error = -EIO, .torn = true}}};
	uint8_t buf[4096] = {1};
	struct disk_range range;
	uv_loop_t loop;
	struct disk *d;

	uv_loop_init(&loop);
	assert_int_equal(memdev_poke(&devs, "raw", MiB - 1, buf + 1, 1), 0);
	assert_int_equal(disk_open(&d,
				 &(struct disk_opts){.path = "raw",
					 .format = "raw",
					 .loop = &loop,
					 .open_file = memdevs_open,
					 .open_ctx = &devs},
				 NULL),
		0);
	assert_int_equal(disk_dirty_start(d, NULL), 0);
	assert_int_equal(
		disk_rw(d, DISK_WRITE, 5 * DISK_DIRTY_BLOCK, buf, sizeof(buf), NULL), -EIO);
	assert_true(disk_dirty_take(d, 0, MiB, &range));
	assert_int_equal(range.offset, 5 * DISK_DIRTY_BLOCK);
	disk_close(d);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
	memdevs_free(&devs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_raw, setup, teardown),
		cmocka_unit_test_setup_teardown(test_qcow2, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lodgefs, setup, teardown),
		cmocka_unit_test(failed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
