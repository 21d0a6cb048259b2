/*
 * test_lodgefs_pages.c: stores that have more pages of pointers than there is memory for. What waits for a page ends, whatever else is in memory; who does not
 * wait finds it missing; what fails meanwhile changes nothing.
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
#include <jansson.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"
#include "power.h"
#include "expect.h"
#include "store.h"

#define STORE (6 * GiB)
#define SIZE (16384 * GiB)
#define PLACES 2500u
#define APART (5 * GiB) /* each has a leaf of its own */
#define FEW 1024u /* pages: metadata=4M */
#define JOURNAL_AT 16384u
#define BEHIND_JOURNAL (JOURNAL_AT + 32 * MiB)

/* With little memory. */
static struct disk *get_from(struct fix *f, struct memdevs *devs, bool offline)
{
	struct disk_kv kv[] = {{"metadata", "4M"}, {0}};

	return get_as(f, (struct disk_opts){.path = "store/a",
				 .offline = offline,
				 .kv = kv,
				 .stores = devs == &f->devs ? &f->stores : NULL,
				 .open_ctx = devs});
}

static struct disk *get_small(struct fix *f)
{
	return get_from(f, &f->devs, true);
}

static void bytes(uint8_t *buf, unsigned i, unsigned round)
{
	memset(buf, (int)(1 + (i * 7 + round) % 250), 4096);
}

static void fill(struct disk *d, unsigned from, unsigned to, uint64_t off, unsigned round)
{
	struct err e = {0};
	uint8_t buf[4096];

	for (unsigned i = from; i < to; i++) {
		bytes(buf, i, round);
		ok(disk_rw(d, DISK_WRITE, i * APART + off, buf, 4096, &e), &e, "write");
	}
}

static void look(struct disk *d, unsigned from, unsigned to, uint64_t off, unsigned round)
{
	struct err e = {0};
	uint8_t buf[4096], want[4096];

	for (unsigned i = from; i < to; i++) {
		ok(disk_rw(d, DISK_READ, i * APART + off, buf, 4096, &e), &e, "read");
		bytes(want, i, round);
		assert_memory_equal(buf, want, 4096);
	}
}

/* A disk with PLACES leaves, of which those of the last FEW places are in memory. */
static struct disk *begin_full(struct fix *f, bool offline)
{
	struct disk *d;
	struct err e = {0};

	ok(make(f, "store/a", SIZE, NULL, NULL, &e), &e, "create");
	d = get_small(f);
	fill(d, 0, PLACES, 0, 0);
	put(f, d);
	return get_from(f, &f->devs, offline);
}

/*
 * A journal that has room for more pages than the memory is for. What was changed stays, and must leave room for what has only to be
 * looked at: the way there.
 */
static void large_journal(void **state)
{
	struct fix *f = begin(STORE, NULL);
	struct disk *d = begin_full(f, true);

	(void)state;
	fill(d, 0, PLACES, 4096, 1); /* each changes a leaf, and none of the pages above */
	assert_int_equal(stat_of(d, "checkpoints"), 1);
	/* All leaves, and the ways to them. */
	assert_in_range(stat_of(d, "pages_in_memory"), PLACES, PLACES + FEW);
	look(d, 0, PLACES, 0, 0);
	look(d, 0, PLACES, 4096, 1);
	put(f, d);
	d = get_small(f);
	assert_in_range(stat_of(d, "pages_in_memory"), FEW / 2, FEW);
	look(d, 0, PLACES, 4096, 1);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

/* What the journal has is in memory until its first checkpoint, and is not looked at for each page of it: that is quadratic. */
static void recovery(void **state)
{
	struct fix *f = begin(STORE, NULL);
	struct memdevs after = {0};
	struct disk *d;
	struct err e = {0};

	(void)state;
	ok(make(f, "store/a", SIZE, NULL, NULL, &e), &e, "create");
	d = get_small(f);
	assert_int_equal(memdevs_record(&f->devs), 0);
	fill(d, 0, PLACES, 0, 0);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	assert_int_equal(memdevs_crash(&f->devs, memdevs_events(&f->devs), 1, &after), 0);
	put(f, d);
	lose_power(&after);
	d = get_from(f, &after, true);
	assert_true(stat_of(d, "replayed") > 0);
	assert_in_range(stat_of(d, "page_looks"), PLACES - FEW, 4 * PLACES);
	assert_in_range(stat_of(d, "pages_in_memory"), FEW / 2, FEW);
	look(d, 0, PLACES, 0, 0);
	put(f, d);
	memdevs_free(&after);
	end(f);
}

/* A page of the source that cannot be read is an error of whoever composes. */
static void unreadable_part(void **state)
{
	struct fix *f = begin(STORE, NULL);
	struct disk *d = begin_full(f, true);
	struct err e = {0};

	(void)state;
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_READ,
		.off = BEHIND_JOURNAL,
		.len = STORE,
		.count = 1,
		.error = -EIO};
	f->devs.nfaults = 1;
	assert_int_equal(make(f, "store/b", 0, "compose", "a/0/1M", &e), -EIO);
	assert_int_equal(f->devs.faults_hit, 1);
	f->devs.nfaults = 0;
	usleep(120000); /* so often it is tried whether the cause has gone */
	fill(d, 0, 1, 4096, 1);
	look(d, 0, PLACES, 0, 0);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

struct call {
	struct disk_req r;
	struct iovec iov;
	uint8_t buf[4096];
	unsigned *left;
};

static void called(struct disk_req *r)
{
	--*container_of(r, struct call, r)->left;
}

static void submit(
	struct disk *d, struct call *c, enum disk_op op, uint64_t off, uint64_t len, unsigned *left)
{
	c->iov = (struct iovec){c->buf, len};
	c->left = left;
	c->r = (struct disk_req){
		.op = op, .offset = off, .len = len, .iov = &c->iov, .niov = 1, .done = called};
	++*left;
	disk_submit(d, &c->r);
}

/* Reads of all other places: the first leaf makes room. Not by disk_rw(), which would wait for what is delayed. */
static void push_out(struct fix *f, struct disk *d)
{
	static struct call c[50];
	struct err e = {0};

	for (unsigned i = 1; i < PLACES; i += 50) {
		unsigned left = 0;

		for (unsigned k = 0; k < 50 && i + k < PLACES; k++)
			submit(d, &c[k], DISK_READ, (i + k) * APART, 4096, &left);
		while (left)
			uv_run(&f->loop, UV_RUN_NOWAIT);
		for (unsigned k = 0; k < 50 && i + k < PLACES; k++)
			ok(c[k].r.result, &e, "read");
	}
}

/*
 * A write has its data in the file and its page has gone again; while it is read, a flush beside it fails on the lease. Then the write has to
 * change nothing: its record would be written later, without its checks.
 */
static void fails_while_it_waits(void **state)
{
	struct fix *f = begin(STORE, NULL);
	struct disk *d = begin_full(f, false);
	struct call write = {.buf = {1}}, flush;
	unsigned left = 0;
	uint64_t reads;
	struct err e = {0};
	uint8_t back[4096];

	(void)state;
	f->devs.seed = 7; /* what is delayed does not delay what came after it */
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
		.off = BEHIND_JOURNAL,
		.len = STORE,
		.count = 1,
		.turns = 30000};
	f->devs.nfaults = 1;
	submit(d, &write, DISK_WRITE, 4096, 4096, &left);
	while (!f->devs.faults_hit)
		uv_run(&f->loop, UV_RUN_NOWAIT);
	push_out(f, d);
	assert_int_equal(left, 1);
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_READ,
		.off = 8192,
		.len = 512,
		.count = 1,
		.error = -EIO,
		.turns = 40000};
	f->devs.fault[1] = (struct memdev_fault){.ops = 1u << FILE_READ,
		.off = BEHIND_JOURNAL,
		.len = STORE,
		.count = 1,
		.turns = 80000};
	f->devs.nfaults = 2;
	submit(d, &flush, DISK_FLUSH, 0, 0, &left);
	reads = f->devs.ops[FILE_READ];
	while (left == 2)
		uv_run(&f->loop, UV_RUN_NOWAIT);
	assert_int_equal(flush.r.result, -EIO);
	assert_int_equal(f->devs.faults_hit, 3); /* the page is on its way */
	assert_int_equal(f->devs.ops[FILE_READ], reads + 1);
	while (left)
		uv_run(&f->loop, UV_RUN_NOWAIT);
	assert_int_equal(write.r.result, -EIO);
	usleep(120000);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	ok(disk_rw(d, DISK_READ, 4096, back, 4096, &e), &e, "read");
	assert_int_equal(back[0], 0);
	look(d, 0, PLACES, 0, 0);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

/* Where a machine's data lies is asked in its loop: what is not in memory is not waited for. */
static void status_does_not_wait(void **state)
{
	struct fix *f = begin(STORE, NULL);
	struct disk *d = begin_full(f, false);
	struct disk_extent x;
	struct err e = {0};
	uint8_t buf[4096];
	uint64_t reads = f->devs.ops[FILE_READ];

	(void)state;
	for (unsigned i = 0; i < PLACES; i++) {
		ok(disk_block_status(d, i * APART + 8192, SIZE, &x, &e), &e, "status");
		assert_true(x.len);
	}
	assert_int_equal(f->devs.ops[FILE_READ], reads);
	ok(disk_block_status(d, 8192, SIZE, &x, &e), &e, "status");
	assert_int_equal(x.flags, DISK_EXT_HERE | DISK_EXT_DATA);
	assert_int_equal(x.len, MiB - 8192);
	ok(disk_rw(d, DISK_READ, 8192, buf, 4096, &e), &e, "read");
	ok(disk_block_status(d, 8192, SIZE, &x, &e), &e, "status");
	assert_int_equal(x.flags, DISK_EXT_HERE);
	assert_true(x.len > MiB);
	ok(disk_block_status(d, 0, SIZE, &x, &e), &e, "status");
	assert_int_equal(x.flags, DISK_EXT_HERE | DISK_EXT_DATA | DISK_EXT_PLACE);
	assert_int_equal(x.len, 4096);
	put(f, d);
	/* Without a machine it is exact. */
	d = get_small(f);
	ok(disk_block_status(d, 8192, SIZE, &x, &e), &e, "status");
	assert_int_equal(x.flags, DISK_EXT_HERE);
	assert_int_equal(x.len, APART - 8192);
	put(f, d);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(large_journal),
		cmocka_unit_test(recovery),
		cmocka_unit_test(unreadable_part),
		cmocka_unit_test(fails_while_it_waits),
		cmocka_unit_test(status_does_not_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
