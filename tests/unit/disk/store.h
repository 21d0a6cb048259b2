/*
 * store.h: a store in memory, for tests of lodgefs: made, opened, checked, closed. end() frees all of it.
 */
#ifndef LODGE_TESTS_STORE_H
#define LODGE_TESTS_STORE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
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
#include "random.h"

struct fix {
	uv_loop_t loop;
	struct memdevs devs;
	struct disk_stores stores; /* for disks that are open beside each other */
	uint64_t rng;
};

static inline uint64_t rnd(struct fix *f, uint64_t n)
{
	return random_below(&f->rng, n);
}

/* Whatever `o` leaves open is that of the store. */
static inline int make_as(struct fix *f, struct disk_create_opts o, struct err *e)
{
	o.loop = &f->loop;
	o.stores = &f->stores;
	o.open_file = memdevs_open;
	o.open_ctx = &f->devs;
	return disk_create("lodgefs", &o, e);
}

static inline int open_as(struct fix *f, struct disk **d, struct disk_opts o, struct err *e)
{
	o.format = "lodgefs";
	o.discard = true;
	o.loop = &f->loop;
	o.open_file = memdevs_open;
	o.open_ctx = o.open_ctx ?: &f->devs;
	return disk_open(d, &o, e);
}

static inline struct fix *begin(uint64_t size, const struct disk_kv *kv)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct err e = {0};

	uv_loop_init(&f->loop);
	f->rng = RANDOM_SEED;
	ok(disk_store_lodgefs.create(&(struct disk_create_opts){.path = "store",
					     .size = size,
					     .kv = kv,
					     .loop = &f->loop,
					     .open_file = memdevs_open,
					     .open_ctx = &f->devs},
		   &e),
		&e, "store");
	return f;
}

static inline void end(struct fix *f)
{
	uv_run(&f->loop, UV_RUN_DEFAULT);
	disk_stores_clear(&f->stores);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	memdevs_free(&f->devs);
	free(f);
}

static inline int make(struct fix *f, const char *path, uint64_t size, const char *key,
	const char *value, struct err *e)
{
	struct disk_kv kv[] = {{key, value}, {0}};

	return make_as(
		f, (struct disk_create_opts){.path = path, .size = size, .kv = key ? kv : NULL}, e);
}

static inline struct disk *get_as(struct fix *f, struct disk_opts o)
{
	struct disk *d;
	struct err e = {0};

	ok(open_as(f, &d, o, &e), &e, o.path);
	return d;
}

static inline struct disk *get(struct fix *f, const char *path)
{
	return get_as(f, (struct disk_opts){.path = path, .offline = true, .stores = &f->stores});
}

/* By another process, and in devices that may be others: what a power cut left. */
static inline int open_in(struct fix *f, struct memdevs *devs, struct disk **d, const char *path,
	const struct disk_kv *kv, bool readonly, struct err *e)
{
	return open_as(f, d,
		(struct disk_opts){.path = path,
			.offline = true,
			.readonly = readonly,
			.kv = kv,
			.open_ctx = devs},
		e);
}

/* Each write is in the journal before it is acknowledged. */
static inline struct disk *get_batch(struct fix *f, const char *path)
{
	struct disk_kv kv[] = {{"commit", "batch"}, {0}};

	return get_as(f,
		(struct disk_opts){.path = path, .offline = true, .kv = kv, .stores = &f->stores});
}

static inline void put(struct fix *f, struct disk *d)
{
	disk_close(d);
	uv_run(&f->loop, UV_RUN_NOWAIT);
}

static inline void found(void *ctx, bool error, const char *text)
{
	(void)ctx;
	print_message("%s: %s\n", error ? "error" : "leak", text);
}

static inline void check_in(struct fix *f, struct memdevs *devs, bool leaks_too)
{
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = devs};
	struct disk_watch w = {.found = found};
	struct disk_check c;
	struct err e = {0};

	ok(disk_store_lodgefs.check(&fs, "store", false, &w, &c, &e), &e, "check");
	assert_int_equal(c.errors, 0);
	if (leaks_too)
		assert_int_equal(c.leaks, 0);
}

static inline struct disk_store_space space(struct fix *f)
{
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	struct disk_store_space s;
	struct err e = {0};

	ok(disk_store_lodgefs.space(&fs, "store", &s, &e), &e, "space");
	return s;
}

/* One byte all through. */
static inline void write_now(struct disk *d, uint64_t off, uint64_t len, uint8_t byte)
{
	uint8_t *buf = malloc(len);
	struct err e = {0};

	memset(buf, byte, len);
	ok(disk_rw(d, DISK_WRITE, off, buf, len, &e), &e, "write");
	free(buf);
}

static inline void is_now(struct disk *d, uint64_t off, uint64_t len, uint8_t byte)
{
	uint8_t *buf = malloc(len);
	struct err e = {0};

	ok(disk_rw(d, DISK_READ, off, buf, len, &e), &e, "read");
	for (uint64_t i = 0; i < len; i++)
		if (buf[i] != byte)
			fail_msg("byte %llu is %u, not %u", (unsigned long long)(off + i), buf[i],
				byte);
	free(buf);
}

struct turn_call {
	struct disk_req r;
	struct iovec iov;
	uint8_t buf[4096];
	bool done;
};

static inline void turn_done(struct disk_req *r)
{
	container_of(r, struct turn_call, r)->done = true;
}

/* Turn by turn of the loop, as a guest does, so that what is delayed is late: nothing is drained. A write is of 4 KiB, one byte all through. */
static inline int send_now(
	struct fix *f, struct disk *d, enum disk_op op, uint64_t off, uint8_t byte)
{
	struct turn_call c = {.r = {.op = op, .done = turn_done}};

	memset(c.buf, byte, sizeof(c.buf));
	c.iov = (struct iovec){c.buf, sizeof(c.buf)};
	if (op == DISK_WRITE) {
		c.r.offset = off;
		c.r.len = sizeof(c.buf);
		c.r.iov = &c.iov;
		c.r.niov = 1;
	}
	disk_submit(d, &c.r);
	while (!c.done)
		uv_run(&f->loop, UV_RUN_ONCE);
	return c.r.result;
}

#endif
