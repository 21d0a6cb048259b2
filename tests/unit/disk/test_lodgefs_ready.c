/*
 * test_lodgefs_ready.c: blocks that are written with zeroes before they are wanted: who gets one, who never does, and that nobody loses anything by it.
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
#include "expect.h"
#include "store.h"

#define SUB 4096u
#define SUBS 256u
#define STORE (256 * MiB)
#define RECORDS (128 * KiB) /* of the journal, and pages, that come to places where nothing was */
#define TABLES (3 * MiB) /* and the journal: blocks begin there */

/* Sub-blocks [from, to) of the disk, one behind the other. */
static void fill(struct fix *f, struct disk *d, unsigned from, unsigned to, uint8_t byte)
{
	for (unsigned i = from; i < to; i++)
		assert_int_equal(send_now(f, d, DISK_WRITE, (uint64_t)i * SUB, byte), 0);
}

static void rest(struct disk *d)
{
	while (files_drain(d->files))
		;
}

static uint64_t ahead(struct disk *d)
{
	return stat_of(d, "zeroes_ahead");
}

static uint64_t place(struct disk *d, uint64_t off)
{
	struct disk_extent x;
	struct err e = {0};

	ok(disk_block_status(d, off, SUB, &x, &e), &e, "place");
	assert_true(x.flags & DISK_EXT_PLACE);
	return x.addr;
}

static struct disk *get_direct(struct fix *f, const char *path)
{
	return get_as(f, (struct disk_opts){.path = path,
				 .offline = true,
				 .cache = DISK_CACHE_NONE,
				 .stores = &f->stores});
}

static struct fix *begin_with(uint64_t size)
{
	struct fix *f = begin(size, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct err e = {0};

	f->devs.seed = 7; /* what is late is overtaken */
	ok(make(f, "store/a", GiB, NULL, NULL, &e), &e, "a");
	return f;
}

static void finish(struct fix *f, struct disk *d)
{
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

/* Zeroes ahead take long from now on, or fail. */
static void hold_up(struct fix *f, int error)
{
	f->devs.fault[0] = (struct memdev_fault){
		.ops = 1u << FILE_FILL, .error = error, .turns = error ? 0 : 2000};
	f->devs.nfaults = 1;
	f->devs.faults_hit = 0;
}

/* A block that was filled to half by small writes has a successor, which who jumps does not get, and which takes writes without growing. */
static void taken(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get_direct(f, "store/a");
	uint64_t first, had;

	(void)state;
	fill(f, d, 0, SUBS / 2 - 1, 1);
	rest(d);
	assert_int_equal(ahead(d), 0);
	fill(f, d, SUBS / 2 - 1, SUBS / 2, 1);
	rest(d);
	assert_int_equal(ahead(d), MiB);
	first = place(d, 0);
	fill(f, d, SUBS / 2, SUBS, 1);
	rest(d);
	assert_int_equal(ahead(d), MiB);
	write_now(d, 20 * MiB + 5 * SUB, SUB, 2); /* jumps */
	write_now(d, 21 * MiB, MiB, 3); /* is large */
	assert_true(place(d, 20 * MiB + 5 * SUB) > first + 2 * MiB);
	assert_true(place(d, 21 * MiB) > first + 2 * MiB);
	had = memdev_allocated(&f->devs, "store");
	fill(f, d, SUBS, SUBS + SUBS / 2 - 1, 4);
	assert_int_equal(place(d, MiB), first + MiB);
	assert_in_range(memdev_allocated(&f->devs, "store"), had, had + RECORDS);
	fill(f, d, SUBS + SUBS / 2 - 1, 2 * SUBS, 4);
	fill(f, d, 2 * SUBS, 2 * SUBS + 1, 5);
	assert_int_equal(ahead(d), 2 * MiB);
	is_now(d, 0, MiB, 1);
	is_now(d, MiB, MiB, 4);
	is_now(d, 2 * MiB, SUB, 5);
	is_now(d, 2 * MiB + SUB, MiB - SUB, 0);
	is_now(d, 20 * MiB, 5 * SUB, 0);
	finish(f, d);
}

/* It is nobody's while it is being written, and nobody waits for it. */
static void not_before(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get_direct(f, "store/a");
	uint64_t first;

	(void)state;
	fill(f, d, 0, SUBS / 2 - 1, 1);
	rest(d);
	first = place(d, 0);
	hold_up(f, 0);
	f->devs.fault[0].off = first + MiB;
	f->devs.fault[0].len = MiB;
	fill(f, d, SUBS / 2 - 1, SUBS, 1);
	assert_int_equal(f->devs.faults_hit, 1);
	fill(f, d, SUBS, SUBS + 1, 2);
	assert_int_equal(f->devs.faults_hit, 1);
	assert_int_equal(place(d, MiB), first + 2 * MiB);
	f->devs.nfaults = 0;
	rest(d);
	/* The next one has it. */
	fill(f, d, SUBS + 1, 2 * SUBS + 1, 2);
	assert_int_equal(place(d, 2 * MiB), first + MiB);
	is_now(d, 0, MiB, 1);
	is_now(d, MiB, MiB + SUB, 2);
	finish(f, d);
}

/* What nobody took is free when the store is closed, and the host has its space; also when it is still being written. */
static void given_back(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get_direct(f, "store/a");
	uint64_t had;

	(void)state;
	fill(f, d, 0, SUBS / 2 - 1, 1);
	put(f, d);
	had = memdev_allocated(&f->devs, "store");
	d = get_direct(f, "store/a");
	fill(f, d, SUBS / 2 - 1, SUBS, 1); /* others had filled the first half */
	fill(f, d, SUBS, SUBS + SUBS / 2, 1);
	rest(d);
	assert_int_equal(ahead(d), MiB);
	put(f, d);
	check_in(f, &f->devs, true);
	assert_int_equal(space(f).used, 2 * MiB);
	had += (SUBS + 1ull) * SUB;
	assert_in_range(memdev_allocated(&f->devs, "store"), had - RECORDS, had + RECORDS);
	d = get_direct(f, "store/a");
	fill(f, d, 2 * SUBS, 2 * SUBS + SUBS / 2 - 1, 1);
	hold_up(f, 0);
	fill(f, d, 2 * SUBS + SUBS / 2 - 1, 2 * SUBS + SUBS / 2, 1);
	assert_int_equal(ahead(d), MiB);
	put(f, d);
	check_in(f, &f->devs, true);
	assert_int_equal(space(f).used, 3 * MiB);
	had += SUBS / 2 * SUB;
	assert_in_range(memdev_allocated(&f->devs, "store"), had - RECORDS, had + RECORDS);
	end(f);
}

/* A host that cannot is no matter of those who write; it is tried again with the next block. */
static void cannot(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get_direct(f, "store/a");
	uint64_t first;

	(void)state;
	fill(f, d, 0, SUBS / 2 - 1, 1);
	first = place(d, 0);
	hold_up(f, -ENOSPC);
	f->devs.fault[0].off = first + MiB;
	f->devs.fault[0].len = MiB;
	f->devs.fault[0].torn = true;
	fill(f, d, SUBS / 2 - 1, SUBS, 1);
	rest(d);
	assert_int_equal(f->devs.faults_hit, 1);
	assert_int_equal(ahead(d), MiB);
	f->devs.nfaults = 0;
	fill(f, d, SUBS, SUBS + 1, 2);
	assert_int_equal(place(d, MiB), first + 2 * MiB); /* the cursor had passed it */
	fill(f, d, SUBS + 1, 2 * SUBS + 1, 2);
	rest(d);
	assert_int_equal(ahead(d), 2 * MiB);
	assert_int_equal(place(d, 2 * MiB), first + 3 * MiB);
	is_now(d, 0, MiB, 1);
	is_now(d, MiB, MiB + SUB, 2);
	finish(f, d);
}

/* In a store with few free blocks, or on a host with little room, nothing is made ready. */
static void not_where_space_is_short(void **state)
{
	struct fix *f = begin_with(TABLES + 64 * MiB);
	struct disk *d = get_direct(f, "store/a");

	(void)state;
	fill(f, d, 0, 4 * SUBS, 1);
	assert_int_equal(ahead(d), 0);
	finish(f, d);
	f = begin_with(STORE);
	d = get_direct(f, "store/a");
	f->devs.capacity = GiB;
	fill(f, d, 0, 2 * SUBS, 1);
	assert_int_equal(ahead(d), 0);
	f->devs.capacity = 2 * GiB;
	fill(f, d, 2 * SUBS, 3 * SUBS, 1);
	assert_int_equal(ahead(d), MiB);
	f->devs.capacity = 0;
	finish(f, d);
}

/* The last block is given to whoever wants one; who wants it while it is being written waits rather than fail. */
static void last_block(void **state)
{
	(void)state;
	for (unsigned late = 0; late < 2; late++) {
		struct fix *f = begin_with(TABLES + 80 * MiB);
		struct disk *d = get_direct(f, "store/a");
		struct err e = {0};
		uint8_t *buf = malloc(MiB);
		uint64_t n = 8, first;

		memset(buf, 7, MiB);
		fill(f, d, 0, SUBS / 2 - 1, 1);
		first = place(d, 0);
		hold_up(f, 0);
		f->devs.fault[0].off = first + MiB;
		f->devs.fault[0].len = MiB;
		f->devs.nfaults = late;
		fill(f, d, SUBS / 2 - 1, SUBS / 2, 1);
		assert_int_equal(ahead(d), MiB);
		assert_int_equal(f->devs.faults_hit, late);
		if (!late)
			rest(d);
		/* A page block, and ours. */
		for (; n < 8 + 77; n++)
			assert_int_equal(send_now(f, d, DISK_WRITE, n * MiB + 9 * SUB, 2), 0);
		for (; !send_now(f, d, DISK_WRITE, n * MiB + 9 * SUB, 3); n++)
			assert_int_equal(place(d, n * MiB + 9 * SUB), first + MiB + 9 * SUB);
		assert_int_equal(n, 8 + 78);
		f->devs.nfaults = 0;
		assert_int_equal(disk_rw(d, DISK_WRITE, n * MiB, buf, SUB, &e), -ENOSPC);
		is_now(d, (n - 1) * MiB + 9 * SUB, SUB, 3);
		is_now(d, (n - 1) * MiB, 9 * SUB, 0);
		is_now(d, (n - 1) * MiB + 10 * SUB, MiB - 10 * SUB, 0);
		free(buf);
		finish(f, d);
	}
}

/* Whatever is not filled by small writes in order, by a disk whose writes gain from it. */
static void not_in_vain(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get_direct(f, "store/a");
	uint8_t *buf = malloc(MiB);
	struct err e = {0};

	(void)state;
	memset(buf, 1, MiB);
	/* All over 32 MiB until they are full; to and fro in one. */
	for (unsigned i = 0; i < 32 * SUBS; i++)
		ok(disk_rw(d, DISK_WRITE, rnd(f, 32 * SUBS) * SUB, buf, SUB, &e), &e, "write");
	for (unsigned i = 0; i < SUBS; i++)
		ok(disk_rw(d, DISK_WRITE, 32 * MiB + i * 37 % SUBS * SUB, buf, SUB, &e), &e,
			"write");
	/* In large pieces, and behind one. */
	for (uint64_t at = 40 * MiB; at < 44 * MiB; at += 32 * KiB)
		ok(disk_rw(d, DISK_WRITE, at, buf, 32 * KiB, &e), &e, "write");
	for (uint64_t mib = 44; mib < 48; mib++) {
		ok(disk_rw(d, DISK_WRITE, mib * MiB, buf, 600 * KiB, &e), &e, "write");
		for (uint64_t at = 600 * KiB; at < MiB; at += SUB)
			ok(disk_rw(d, DISK_WRITE, mib * MiB + at, buf, SUB, &e), &e, "write");
	}
	/* On what is there. */
	for (uint64_t at = 40 * MiB; at < 44 * MiB; at += SUB)
		ok(disk_rw(d, DISK_WRITE, at, buf, SUB, &e), &e, "write");
	assert_int_equal(ahead(d), 0);
	free(buf);
	finish(f, d);
}

/* Through a cache it is flushes that make writes dear: without any, nothing. */
static void through_a_cache(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get(f, "store/a");

	(void)state;
	fill(f, d, 0, 3 * SUBS, 1);
	assert_int_equal(ahead(d), 0);
	for (unsigned i = 3 * SUBS; i < 4 * SUBS; i++) {
		fill(f, d, i, i + 1, 1);
		assert_int_equal(send_now(f, d, DISK_FLUSH, 0, 0), 0);
	}
	assert_int_equal(ahead(d), MiB);
	finish(f, d);
}

/* A file and its journal, say: each of them that is filled so has its successor. */
static void several(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get_direct(f, "store/a");

	(void)state;
	for (unsigned i = 0; i < 4 * SUBS; i++) {
		fill(f, d, i, i + 1, 1);
		fill(f, d, 64 * SUBS + i, 64 * SUBS + i + 1, 2);
		if (i % 16 == 0)
			fill(f, d, (100 + i % 7) * SUBS + i, (100 + i % 7) * SUBS + i + 1, 3);
	}
	rest(d);
	assert_in_range(ahead(d), 6 * MiB, 8 * MiB);
	is_now(d, 0, 4 * MiB, 1);
	is_now(d, 64 * MiB, 4 * MiB, 2);
	finish(f, d);
}

/* A block that was in use, and that the host has not got back, is ready as it is. */
static void used_before(void **state)
{
	struct fix *f = begin_with(STORE);
	struct disk *d = get_direct(f, "store/a");
	struct err e = {0};
	uint64_t first;

	(void)state;
	write_now(d, 0, 4 * MiB, 1);
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_DISCARD, .error = -EIO};
	f->devs.nfaults = 1;
	ok(disk_rw(d, DISK_DISCARD, 0, NULL, 4 * MiB, &e), &e, "discard");
	put(f, d);
	d = get_direct(f, "store/a");
	fill(f, d, 0, SUBS / 2, 2);
	rest(d);
	write_now(d, 20 * MiB + 5 * SUB, SUB, 3); /* jumps */
	fill(f, d, SUBS / 2, SUBS + 1, 2);
	first = place(d, 0);
	assert_int_equal(place(d, MiB), first + MiB);
	assert_int_equal(place(d, 20 * MiB + 5 * SUB), first + 2 * MiB + 5 * SUB);
	assert_int_equal(ahead(d), 0);
	is_now(d, 0, MiB + SUB, 2);
	is_now(d, MiB + SUB, MiB - SUB, 0);
	finish(f, d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(taken),
		cmocka_unit_test(not_before),
		cmocka_unit_test(given_back),
		cmocka_unit_test(cannot),
		cmocka_unit_test(not_where_space_is_short),
		cmocka_unit_test(last_block),
		cmocka_unit_test(not_in_vain),
		cmocka_unit_test(through_a_cache),
		cmocka_unit_test(several),
		cmocka_unit_test(used_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
