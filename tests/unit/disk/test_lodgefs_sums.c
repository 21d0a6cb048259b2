/*
 * test_lodgefs_sums.c: checksums of data. Every byte that is turned over below a disk is seen, by whoever reads it and by a check, and never copied or
 * overwritten in part as if it were good; every way in which data comes to a place leaves a checksum; and nothing that is as it was written is refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"
#include "expect.h"
#include "store.h"

#define SUB 4096u

static struct fix *begin_sums(uint64_t size)
{
	return begin(size, (struct disk_kv[]){{"sums", "on"}, {"journal", "2M"}, {0}});
}

static void fill(char *buf, uint64_t len, unsigned what)
{
	for (uint64_t i = 0; i < len; i++)
		buf[i] = (char)(what * 31 + i / SUB * 7 + i % 251);
}

static void write_at(struct disk *d, uint64_t off, uint64_t len, unsigned what)
{
	char *buf = malloc(len);
	struct err e = {0};

	fill(buf, len, what);
	ok(disk_rw(d, DISK_WRITE, off, buf, len, &e), &e, "write");
	free(buf);
}

static int read_at(struct disk *d, uint64_t off, uint64_t len, unsigned what)
{
	char *buf = malloc(len), *want = malloc(len);
	int rc = disk_rw(d, DISK_READ, off, buf, len, NULL);

	fill(want, len, what);
	if (!rc)
		assert_memory_equal(buf, want, len);
	free(buf);
	free(want);
	return rc;
}

/* Turns over a bit of the data that the disk has there. */
static void spoil(struct fix *f, struct disk *d, uint64_t off)
{
	struct disk_extent x;
	struct err e = {0};
	uint8_t b;

	ok(d->format->block_status(d, off, 512, &x, &e), &e, "where");
	assert_true(x.flags & DISK_EXT_DATA);
	memdev_peek(&f->devs, "store", x.addr, &b, 1);
	b ^= 4;
	memdev_poke(&f->devs, "store", x.addr, &b, 1);
}

struct seen {
	char text[512];
};

static void note(void *ctx, bool error, const char *text)
{
	(void)error;
	snprintf(((struct seen *)ctx)->text, sizeof(((struct seen *)ctx)->text), "%s", text);
}

static struct disk_check check(struct fix *f, bool repair, struct seen *seen)
{
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	struct disk_watch w = {.found = note, .ctx = seen};
	struct disk_check c;
	struct err e = {0};

	seen->text[0] = 0;
	ok(disk_store_lodgefs.check(&fs, "store", repair, &w, &c, &e), &e, "check");
	return c;
}

/* Of the store's checksums, how many are known. */
static uint64_t known(struct fix *f)
{
	uint8_t super[4096], page[4096];
	uint64_t at, pages, n = 0;

	memdev_peek(&f->devs, "store", 0, super, sizeof(super));
	memcpy(&at, super + 160, 8);
	memcpy(&pages, super + 168, 8);
	for (uint64_t i = 0; i < pages; i++) {
		memdev_peek(&f->devs, "store", at + i * 4096, page, sizeof(page));
		for (unsigned k = 64; k < 64 + 3 * 1024; k += 4)
			n += *(uint32_t *)(void *)(page + k) != 0;
	}
	return n;
}

/* ---- */

static void damage(void **state)
{
	struct fix *f = begin_sums(64 * MiB);
	struct seen seen;
	struct err e = {0};
	struct disk *d;
	char buf[512] = {0};

	(void)state;
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	write_at(d, 3 * MiB, 64 * KiB, 1);
	assert_int_equal(read_at(d, 3 * MiB, 64 * KiB, 1), 0);
	spoil(f, d, 3 * MiB + 5 * SUB);
	assert_int_equal(read_at(d, 3 * MiB, 4 * SUB, 1), 0);
	assert_int_equal(read_at(d, 3 * MiB, 64 * KiB, 1), -EIO);
	assert_int_equal(disk_rw(d, DISK_READ, 3 * MiB + 6 * SUB - 512, buf, 512, NULL), -EIO);
	assert_true(stat_of(d, "checksum_errors") >= 2);
	/* A part of it is not written: that would make the rest good. Nor does it stop its neighbours. */
	assert_int_equal(disk_rw(d, DISK_WRITE, 3 * MiB + 5 * SUB + 512, buf, 512, NULL), -EIO);
	write_at(d, 3 * MiB + 6 * SUB, SUB, 9);
	assert_int_equal(read_at(d, 3 * MiB + 6 * SUB, SUB, 9), 0);
	assert_int_equal(read_at(d, 3 * MiB + 5 * SUB, SUB, 1), -EIO);
	put(f, d);
	assert_int_equal(check(f, false, &seen).errors, 1);
	assert_non_null(strstr(seen.text, "disk a: 4096 bytes at 3166208"));
	/* A repair cannot bring the data back, and does not call it good. */
	assert_int_equal(check(f, true, &seen).fixed_errors, 0);
	assert_int_equal(check(f, false, &seen).errors, 1);
	d = get(f, "store/a");
	assert_int_equal(read_at(d, 3 * MiB + 5 * SUB, SUB, 1), -EIO);
	write_at(d, 3 * MiB + 5 * SUB, SUB, 2); /* as a whole: what was there does not matter */
	assert_int_equal(read_at(d, 3 * MiB + 5 * SUB, SUB, 2), 0);
	put(f, d);
	assert_int_equal(check(f, false, &seen).errors, 0);
	end(f);
}

/* What snapshots and clones share is damaged for all of them, and a copy does not hide it. */
static void shared(void **state)
{
	struct fix *f = begin_sums(64 * MiB);
	struct seen seen;
	struct err e = {0};
	struct disk *d;
	char buf[512] = {0};

	(void)state;
	ok(make(f, "store/base", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/base");
	write_at(d, 0, MiB, 1);
	write_at(d, 8 * SUB, SUB,
		5); /* in place: its checksum has gone, and comes back with the snapshot */
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "v1", &e), &e, "snapshot");
	spoil(f, d, 8 * SUB);
	spoil(f, d, 20 * SUB);
	put(f, d);
	ok(make(f, "store/c", 0, "clone", "base@v1", &e), &e, "create");
	d = get(f, "store/c");
	assert_int_equal(read_at(d, 0, 4 * SUB, 1), 0);
	assert_int_equal(read_at(d, 8 * SUB, SUB, 5), -EIO);
	/* The rest of the 4 KiB would be copied. */
	assert_int_equal(disk_rw(d, DISK_WRITE, 20 * SUB, buf, 512, NULL), -EIO);
	write_at(d, 20 * SUB, SUB, 7);
	assert_int_equal(read_at(d, 20 * SUB, SUB, 7), 0);
	put(f, d);
	assert_int_equal(check(f, false, &seen).errors, 2);
	assert_non_null(strstr(seen.text, "base"));
	end(f);
}

/* Everything that a disk has has its checksum when it was closed, however it came there. */
static void all_known(void **state)
{
	struct fix *f = begin_sums(64 * MiB);
	struct err e = {0};
	struct seen seen;
	struct disk *d;
	char buf[8 * 512] = {1};

	(void)state;
	ok(make(f, "store/a", 16 * MiB, "track", "on", &e), &e, "create");
	d = get(f, "store/a");
	write_at(d, 0, 64 * KiB, 1);
	write_at(d, 100 * SUB + 512, 512, 1); /* the rest is filled */
	put(f, d);
	assert_int_equal(known(f), 17);
	d = get(f, "store/a");
	write_at(d, 3 * SUB, 2 * SUB, 2);
	write_at(d, 7 * SUB + 1024, 512, 3);
	ok(disk_rw(d, DISK_WRITE_ZEROES, 9 * SUB + 512, NULL, 512, &e), &e, "zeroes");
	put(f, d);
	assert_int_equal(known(f), 17);
	d = get(f, "store/a");
	assert_int_equal(read_at(d, 3 * SUB, 2 * SUB, 2), 0);
	/* Given up, and taken again, in the same block. */
	ok(disk_rw(d, DISK_DISCARD, 0, NULL, 8 * SUB, &e), &e, "discard");
	write_at(d, 2 * SUB, SUB, 4);
	assert_int_equal(read_at(d, 2 * SUB, SUB, 4), 0);
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	write_at(d, 9 * SUB, SUB, 4);
	ok(disk_rw(d, DISK_WRITE, 10 * SUB + 512, buf, sizeof(buf) - 512, &e), &e, "write");
	put(f, d);
	assert_int_equal(check(f, false, &seen).errors, 0);
	end(f);
}

struct req {
	struct disk_req r;
	struct iovec iov;
	unsigned *left;
};

static void req_done(struct disk_req *r)
{
	assert_int_equal(r->result, 0);
	--*container_of(r, struct req, r)->left;
}

static void submit(struct disk *d, struct req *q, enum disk_op op, uint64_t off, uint64_t len,
	char *buf, unsigned *left)
{
	*q = (struct req){.iov = {buf, len}, .left = left};
	q->r = (struct disk_req){
		.op = op, .offset = off, .len = len, .iov = &q->iov, .niov = 1, .done = req_done};
	++*left;
	disk_submit(d, &q->r);
}

/* Reads and writes of one place at once, more in place than is kept without checksums, two disks: nothing of it is called damaged. */
static void races(void **state)
{
	struct fix *f = begin_sums(256 * MiB);
	struct seen seen;
	struct err e = {0};
	struct disk *d[2];
	char *buf = malloc(MiB);
	uint64_t most = 0;
	unsigned left = 0;

	(void)state;
	f->devs.seed = 7;
	ok(make(f, "store/a", 96 * MiB, NULL, NULL, &e), &e, "create");
	ok(make(f, "store/b", 96 * MiB, NULL, NULL, &e), &e, "create");
	d[0] = get(f, "store/a");
	d[1] = get(f, "store/b");
	fill(buf, MiB, 1);
	for (unsigned round = 0; round < 3; round++) {
		for (uint64_t m = 0; m < 80; m++) {
			struct req q[8];

			submit(d[0], &q[0], DISK_WRITE, m * MiB, MiB, buf, &left);
			for (unsigned i = 1; i < 4; i++)
				submit(d[0], &q[i], DISK_READ, m * MiB + i * 64 * KiB, 64 * KiB,
					malloc(64 * KiB), &left);
			submit(d[1], &q[4], DISK_WRITE, m * 4096, 4096, buf, &left);
			submit(d[1], &q[5], DISK_READ, m * 4096, 4096, malloc(4096), &left);
			submit(d[1], &q[6], m % 2 ? DISK_DISCARD : DISK_WRITE_ZEROES,
				4 * MiB + m * 4096, 8192, buf, &left);
			submit(d[1], &q[7], DISK_WRITE, 5 * MiB + m * 4096, 512, buf, &left);
			while (left)
				uv_run(&f->loop, UV_RUN_ONCE);
			most = MAX(most, stat_of(d[0], "without_checksum"));
			for (unsigned i = 1; i < 6; i++)
				if (i != 4)
					free(q[i].iov.iov_base);
		}
		if (round == 1)
			ok(disk_snapshot_all(d, 2, "both", &e), &e, "snapshot");
	}
	assert_int_equal(stat_of(d[0], "checksum_errors"), 0);
	assert_in_range(most, 15000, 24 * 1024); /* it got so many, and no more */
	put(f, d[0]);
	put(f, d[1]);
	assert_int_equal(check(f, false, &seen).errors, 0);
	free(buf);
	end(f);
}

/* A page of checksums that is damaged: what it covers is not handed out; a repair makes it anew from the data. */
static void damaged_page(void **state)
{
	struct fix *f = begin_sums(64 * MiB);
	struct seen seen;
	struct err e = {0};
	struct disk *d;
	uint8_t super[4096], b;
	uint64_t at;

	(void)state;
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	write_at(d, 0, MiB, 1);
	put(f, d);
	memdev_peek(&f->devs, "store", 0, super, sizeof(super));
	memcpy(&at, super + 160, 8);
	memdev_peek(&f->devs, "store", at + 200, &b, 1);
	b ^= 1;
	memdev_poke(&f->devs, "store", at + 200, &b, 1);
	d = get(f, "store/a");
	assert_int_equal(read_at(d, 0, SUB, 1), -EIO);
	put(f, d);
	assert_int_equal(check(f, false, &seen).errors, 1);
	assert_int_equal(check(f, true, &seen).fixed_errors, 1);
	assert_int_equal(check(f, false, &seen).errors, 0);
	assert_int_equal(known(f), 256);
	d = get(f, "store/a");
	assert_int_equal(read_at(d, 0, MiB, 1), 0);
	put(f, d);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damage),
		cmocka_unit_test(shared),
		cmocka_unit_test(all_known),
		cmocka_unit_test(races),
		cmocka_unit_test(damaged_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
