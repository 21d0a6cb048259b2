/*
 * test_lodgefs_races.c: requests of which one overtakes the other: what is written in place while a transaction copies what was there, what is written on
 * what a record says that is not written yet. Each has its order made by delays, and looks whether what was acknowledged is there.
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
#include "power.h"
#include "expect.h"
#include "store.h"

#define SUB 4096u
#define SECTOR 512u

/* A write of one byte all through. */
struct call {
	struct disk_req r;
	struct iovec iov;
	uint8_t buf[16 * SUB];
	bool done;
};

static void on_done(struct disk_req *r)
{
	container_of(r, struct call, r)->done = true;
}

static void write_soon(struct disk *d, struct call *c, uint64_t off, uint64_t len, uint8_t byte)
{
	memset(c->buf, byte, len);
	c->iov = (struct iovec){c->buf, len};
	c->r = (struct disk_req){.op = DISK_WRITE,
		.offset = off,
		.len = len,
		.iov = &c->iov,
		.niov = 1,
		.done = on_done};
	c->done = false;
	disk_submit(d, &c->r);
}

static void await(struct fix *f, const struct call *c)
{
	while (!c->done)
		uv_run(&f->loop, UV_RUN_ONCE);
	assert_int_equal(c->r.result, 0);
}

/* Writes to blocks take long from now on: the next `count` of them. */
static void delay_data(struct fix *f, unsigned count)
{
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
		.off = 16384 + 2 * MiB + MiB, /* behind journal and tables */
		.len = GiB,
		.count = count,
		.turns = 2000};
	f->devs.nfaults = 1;
	f->devs.faults_hit = 0;
}

static void until_delayed(struct fix *f)
{
	while (!f->devs.faults_hit)
		uv_run(&f->loop, UV_RUN_ONCE);
}

/*
 * store/a with an entry whose `own` (sub-block 1, value 2) a clone has too, while `base` (sub-block 0, value 1) is of this disk alone: what is in `base` may
 * be written in place, and whatever needs a new block copies it.
 */
static struct fix *two_blocks(void)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct err e = {0};
	struct disk *d;

	f->devs.seed = 7;
	ok(make(f, "store/a", 4 * MiB, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	write_now(d, 0, SUB, 1);
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	write_now(d, SUB, SUB, 2);
	ok(disk_snapshot(d, DISK_SNAP_DELETE, "s", &e), &e, "delete");
	put(f, d);
	ok(make(f, "store/b", 0, "clone", "a", &e), &e, "b");
	d = get(f, "store/b");
	write_now(d, 2 * SUB, SUB, 3);
	put(f, d);
	return f;
}

/* What is written in place is not lost to a transaction that has read it before, and takes it to another block. */
static void written_behind_a_copy(void **state)
{
	struct fix *f = two_blocks();
	struct call *w = calloc(2, sizeof(*w));
	struct disk *d = get(f, "store/a");

	(void)state;
	delay_data(f, 1);
	write_soon(d, &w[0], 3 * SUB, SUB, 4);
	until_delayed(f);
	write_soon(d, &w[1], 0, SUB, 5);
	await(f, &w[1]);
	await(f, &w[0]);
	is_now(d, 0, SUB, 5);
	is_now(d, SUB, SUB, 2);
	is_now(d, 3 * SUB, SUB, 4);
	put(f, d);
	d = get(f, "store/b");
	is_now(d, 0, SUB, 1);
	is_now(d, SUB, SUB, 2);
	put(f, d);
	check_in(f, &f->devs, true);
	free(w);
	end(f);
}

/* The other way around: what was sent before has not arrived when the transaction copies. Also where both are of one request. */
static void written_before_a_copy(void **state)
{
	(void)state;
	for (unsigned together = 0; together < 2; together++) {
		struct fix *f = two_blocks();
		struct call *w = calloc(2, sizeof(*w));
		struct disk *d = get(f, "store/a");

		delay_data(f, 1);
		if (together) {
			write_soon(d, &w[0], 0, 4 * SUB, 5);
			w[1].done = true;
		} else {
			write_soon(d, &w[0], 0, SUB, 5);
			until_delayed(f);
			write_soon(d, &w[1], SUB, 3 * SUB, 5);
		}
		await(f, &w[1]);
		await(f, &w[0]);
		is_now(d, 0, 4 * SUB, 5);
		put(f, d);
		check_in(f, &f->devs, true);
		free(w);
		end(f);
	}
}

/* While a transaction copies what two disks have, it becomes one's own. */
static void becomes_own_behind_a_copy(void **state)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct call *w = calloc(2, sizeof(*w));
	struct err e = {0};
	struct disk *a, *b;

	(void)state;
	f->devs.seed = 7;
	ok(make(f, "store/a", 4 * MiB, NULL, NULL, &e), &e, "a");
	a = get(f, "store/a");
	write_now(a, 0, SUB, 1);
	put(f, a);
	ok(make(f, "store/b", 0, "clone", "a", &e), &e, "b");
	a = get(f, "store/a");
	b = get(f, "store/b");
	write_now(a, 2 * MiB, SUB, 9); /* each has a leaf of its own */
	delay_data(f, 1);
	write_soon(a, &w[0], 0, SECTOR, 2);
	until_delayed(f);
	f->devs.nfaults = 0;
	w[1].r = (struct disk_req){
		.op = DISK_WRITE_ZEROES, .len = MiB, .unmap = true, .done = on_done};
	disk_submit(b, &w[1].r);
	await(f, &w[1]);
	for (unsigned i = 0; i < 3; i++) { /* until that is known to be durable */
		write_soon(b, &w[1], (1 + i) * MiB, SUB, 1);
		await(f, &w[1]);
		w[1] = (struct call){.r = {.op = DISK_FLUSH, .done = on_done}};
		disk_submit(b, &w[1].r);
		await(f, &w[1]);
	}
	assert_false(w[0].done);
	write_soon(a, &w[1], SECTOR, SECTOR, 3);
	await(f, &w[1]);
	await(f, &w[0]);
	is_now(a, 0, SECTOR, 2);
	is_now(a, SECTOR, SECTOR, 3);
	is_now(a, 2 * SECTOR, SUB - 2 * SECTOR, 1);
	put(f, b);
	put(f, a);
	check_in(f, &f->devs, true);
	free(w);
	end(f);
}

/* commit=batch: nothing is acknowledged on top of what a record says that may fail yet. */
static void written_on_what_fails(void **state)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct call *w = calloc(2, sizeof(*w));
	struct err e = {0};
	struct disk *d;
	int rc;

	(void)state;
	f->devs.seed = 7;
	ok(make(f, "store/a", 4 * MiB, NULL, NULL, &e), &e, "a");
	d = get_batch(f, "store/a");
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
		.off = 16384,
		.len = 2 * MiB,
		.count = 1,
		.error = -EIO,
		.turns = 2000};
	f->devs.nfaults = 1;
	write_soon(d, &w[0], 0, SECTOR, 1);
	until_delayed(f);
	write_soon(d, &w[1], SECTOR, SECTOR, 2);
	while (!w[1].done || !w[0].done)
		uv_run(&f->loop, UV_RUN_ONCE);
	f->devs.nfaults = 0;
	assert_int_equal(w[0].r.result, -EIO);
	rc = w[1].r.result;
	usleep(120000);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	if (!rc)
		is_now(d, SECTOR, SECTOR, 2);
	put(f, d);
	check_in(f, &f->devs, true);
	free(w);
	end(f);
}

/* A discard that took what came before it, and of which what came after it has left less than a sub-block: what was there before both does not come back. */
static void discarded_between(void **state)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct call *w = calloc(3, sizeof(*w));
	struct err e = {0};
	struct disk *d;
	uint8_t buf[SUB];

	(void)state;
	ok(make(f, "store/a", 4 * MiB, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	write_now(d, 0, SUB, 1);
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	write_soon(d, &w[0], 0, SECTOR, 2);
	w[1].r = (struct disk_req){.op = DISK_DISCARD, .len = SUB, .done = on_done};
	disk_submit(d, &w[1].r);
	write_soon(d, &w[2], SUB - SECTOR, SECTOR, 3);
	for (unsigned i = 0; i < 3; i++)
		await(f, &w[i]);
	ok(disk_rw(d, DISK_READ, 0, buf, SUB, &e), &e, "read");
	assert_true(buf[0] == 0 || buf[0] == 2);
	is_now(d, SUB - SECTOR, SECTOR, 3);
	put(f, d);
	check_in(f, &f->devs, true);
	free(w);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(written_behind_a_copy),
		cmocka_unit_test(written_before_a_copy),
		cmocka_unit_test(becomes_own_behind_a_copy),
		cmocka_unit_test(written_on_what_fails),
		cmocka_unit_test(discarded_between),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
