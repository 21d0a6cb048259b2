/*
 * test_lodgefs_limits.c: what is too large is refused, and nothing else is: sizes, composed disks, a small journal beside a large directory; what is asked of
 * disks with more places than anybody can look at.
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
#include <jansson.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"
#include "expect.h"
#include "store.h"

#define SUB 4096u

/* A disk of a size that there is not is refused however it is asked for: its record would make the store one that does not open. */
static void sizes(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	static const uint64_t large[] = {
		(1ull << 56) + 512, 1ull << 57, 1ull << 61, 1ull << 62, INT64_MAX / 512 * 512};
	struct err e = {0};
	struct disk *d;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(large); i++) {
		assert_int_equal(make(f, "store/x", large[i], NULL, NULL, &e), -EINVAL);
		assert_int_equal(make(f, "store/x", large[i], "compose", "-/1M", &e), -EINVAL);
		assert_non_null(strstr(err_msg(&e), "64 PiB"));
	}
	assert_int_equal(make(f, "store/x", 0, "compose", "-/65536T+-/1M", &e), -EINVAL);
	assert_int_equal(make(f, "store/x", 0, "compose", "-/8388608T+-/8388608T", &e), -EINVAL);
	ok(make(f, "store/a", 4 * MiB, NULL, NULL, &e), &e, "a");
	/* 1 + 2^44 - 1 MiB are none, in 64 bits. */
	assert_int_equal(
		make(f, "store/x", 0, "compose", "a/1M/18446744073708503040B", &e), -ERANGE);
	assert_int_equal(make(f, "store/x", 0, "compose", "a/3M/2M", &e), -ERANGE);
	assert_int_equal(make(f, "store/x", 0, "compose", "-/8192T+a/0/1M/ro", &e), -E2BIG);
	ok(make(f, "store/b", 1ull << 56, "compose", "a/3M/1M", &e), &e, "64 PiB");
	d = get(f, "store/b");
	assert_int_equal(disk_size(d), 1ull << 56);
	assert_int_equal(disk_resize(d, (1ull << 56) + 512, &e), -EFBIG);
	write_now(d, (1ull << 56) - SUB, SUB, 1);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

/* What is composed costs what is in it, not how large it is. */
static void composed(void **state)
{
	struct fix *f = begin(4 * GiB, NULL);
	struct err e = {0};
	struct disk *d;

	(void)state;
	ok(make(f, "store/a", 16384 * GiB, NULL, NULL, &e), &e, "a");
	ok(make(f, "store/empty", 1ull << 50, NULL, NULL, &e), &e, "empty");
	d = get(f, "store/a");
	for (unsigned i = 0; i < 16; i++)
		write_now(d, i * 1024 * GiB + MiB, SUB, (uint8_t)(i + 1));
	put(f, d);
	ok(make(f, "store/b", 0, "compose", "a/0/200G+-/100T+a/1T/15T+empty/0/1024T", &e), &e,
		"compose");
	d = get(f, "store/b");
	is_now(d, MiB, SUB, 1);
	for (unsigned i = 1; i < 16; i++)
		is_now(d, 200 * GiB + 100 * 1024 * GiB + (i - 1) * 1024 * GiB + MiB, SUB,
			(uint8_t)(i + 1));
	write_now(d, 200 * GiB + 50 * 1024 * GiB, SUB, 99);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

/* A directory with more pages than the journal has room for: only those count that are changed. Also where there is no page left to record changes in. */
static void large_directory(void **state)
{
	struct fix *f = begin(
		48 * MiB, (struct disk_kv[]){{"journal", "1M"}, {"entries", "4000"}, {0}});
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	struct err e = {0};
	struct disk *d;
	char *buf = calloc(1, MiB), name[16];
	struct disk_generation g;
	uint64_t n = 0, len = MiB;
	bool dirty;

	(void)state;
	ok(make(f, "store/b", MiB, "track", "on", &e), &e, "b");
	d = get(f, "store/b");
	write_now(d, 0, SUB, 1);
	put(f, d);
	ok(make(f, "store/a", 56 * MiB, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	while (!disk_rw(d, DISK_WRITE, n * MiB, buf, MiB, &e))
		n++;
	for (unsigned i = 0; i < 500; i++) { /* each takes a page, while there are any */
		snprintf(name, sizeof(name), "s%u", i);
		ok(disk_snapshot(d, DISK_SNAP_CREATE, name, &e), &e, "snapshot");
		(void)disk_rw(d, DISK_DISCARD, i % 200 * SUB + i / 200 * MiB, NULL, SUB, &e);
	}
	put(f, d);
	d = get(f, "store/b");
	ok(disk_generation(d, true, &g, &e), &e, "generation");
	write_now(d, 0, SUB, 2);
	ok(disk_changed(d, g.now, 0, &len, &dirty, &e), &e, "changed");
	assert_true(dirty && len == MiB); /* all of it counts as changed */
	put(f, d);
	/* 500 records lie in 72 pages. */
	ok(disk_store_lodgefs.remove(&fs, "store", "a", &e), &e, "remove");
	check_in(f, &f->devs, true);
	free(buf);
	end(f);
}

/* As a machine has it. */
static struct disk *get_running(struct fix *f, const char *path)
{
	return get_as(f, (struct disk_opts){.path = path});
}

/* All ranges of the disk that have changed; as many answers as that takes. */
static json_t *changes(struct disk *d, uint64_t since, unsigned *answers)
{
	json_t *all = json_array(), *one, *more;
	struct err e = {0};
	uint64_t from = 0;

	for (*answers = 0, more = all; more; ++*answers) {
		ok(disk_changes_json(d, since, from, &one, &e), &e, "changes");
		json_array_extend(all, json_object_get(one, "changed"));
		more = json_object_get(one, "more");
		if (more)
			assert_true((uint64_t)json_integer_value(more) > from);
		from = (uint64_t)json_integer_value(more);
		json_decref(one);
	}
	return all;
}

/* What has changed in a disk of which there is little, and much of that. A machine is told in pieces. */
static void changes_of_much(void **state)
{
	struct fix *f = begin(2 * GiB, NULL);
	struct disk_bitmap *b;
	struct err e = {0};
	unsigned n, answers;
	json_t *all, *same;
	struct disk *d;

	(void)state;
	ok(make(f, "store/a", 1ull << 55, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	ok(disk_bitmap(d, DISK_BITMAP_ADD, "b", 64 * KiB, &e), &e, "bitmap");
	write_now(d, (1ull << 55) - 2 * SUB, SUB, 1);
	for (unsigned i = 0; i < 5000; i++)
		write_now(d, i * 2 * 64 * KiB + SUB, SUB, 1);
	all = changes(d, 2, &answers);
	assert_int_equal(answers, 1);
	assert_int_equal(json_array_size(all), 5001);
	ok(disk_bitmaps(d, &b, &n, &e), &e, "bitmaps");
	assert_int_equal(b[0].dirty, 5001 * 64 * KiB);
	free(b);
	put(f, d);
	d = get_running(f, "store/a");
	same = changes(d, 2, &answers);
	assert_true(answers > 1);
	for (unsigned i = 0; i < json_array_size(same); i++)
		assert_true(json_equal(json_array_get(same, i), json_array_get(all, i)));
	assert_int_equal(json_array_size(same), 5001);
	ok(disk_bitmaps(d, &b, &n, &e), &e, "bitmaps");
	assert_true(b[0].dirty == DISK_DIRTY_UNKNOWN);
	free(b);
	put(f, d);
	json_decref(all);
	json_decref(same);
	end(f);
}

/* What is let go goes back to the host behind the guest's back: few requests at a time, for neighbours together, and no flush waits for them. */
static void space_goes_back(void **state)
{
	struct fix *f = begin(512 * MiB, NULL);
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	uint64_t all, discards;
	struct err e = {0};
	struct disk *d;

	(void)state;
	f->devs.seed = 7; /* what is delayed lets others pass */
	ok(make(f, "store/a", 400 * MiB, NULL, NULL, &e), &e, "a");
	d = get_running(f, "store/a");
	for (unsigned i = 0; i < 300; i++)
		write_now(d, i * MiB, 64 * KiB, 1);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	all = memdev_allocated(&f->devs, "store");
	discards = f->devs.ops[FILE_DISCARD];
	ok(disk_rw(d, DISK_DISCARD, 0, NULL, 300 * MiB, &e), &e, "discard");
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_DISCARD, .turns = 1000000000};
	f->devs.nfaults = 1;
	for (unsigned i = 0; i < 4; i++) { /* by the third the first is marked */
		assert_int_equal(send_now(f, d, DISK_WRITE, (300 + i) * MiB, 1), 0);
		assert_int_equal(send_now(f, d, DISK_FLUSH, 0, 0), 0);
	}
	assert_in_range(f->devs.ops[FILE_DISCARD] - discards, 1, 8);
	assert_true(memdev_allocated(&f->devs, "store") >= all);
	put(f, d); /* waits for them */
	f->devs.nfaults = 0;
	assert_true(memdev_allocated(&f->devs, "store") + 250 * 64 * KiB < all);
	check_in(f, &f->devs, true);
	/* Also of a disk that is removed. */
	d = get(f, "store/a");
	for (unsigned i = 0; i < 300; i++)
		write_now(d, i * MiB, 64 * KiB, 1);
	put(f, d);
	all = memdev_allocated(&f->devs, "store");
	ok(disk_store_lodgefs.remove(&fs, "store", "a", &e), &e, "remove");
	assert_true(memdev_allocated(&f->devs, "store") + 250 * 64 * KiB < all);
	end(f);
}

/* What nobody gave back: blocks and parts of blocks. The disks, their snapshots and clones stay as they are. */
static void trimmed(void **state)
{
	struct fix *f = begin(512 * MiB, NULL);
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	uint64_t all, given;
	struct err e = {0};
	struct disk *d;

	(void)state;
	ok(make(f, "store/a", 64 * MiB, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	for (unsigned i = 0; i < 20; i++)
		write_now(d, i * MiB, MiB, (uint8_t)(1 + i));
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	for (unsigned i = 20; i < 40; i++)
		write_now(d, i * MiB, MiB, (uint8_t)(1 + i));
	write_now(d, 0, 64 * KiB, 77); /* the rest of it is the snapshot's */
	put(f, d);
	ok(make(f, "store/b", 0, "clone", "a", &e), &e, "b");
	/* With discard=off nothing goes back. */
	ok(disk_open(&d,
		   &(struct disk_opts){.path = "store/b",
			   .format = "lodgefs",
			   .loop = &f->loop,
			   .open_file = memdevs_open,
			   .open_ctx = &f->devs},
		   &e),
		&e, "open");
	for (unsigned i = 50; i < 60; i++)
		write_now(d, i * MiB, MiB, 3);
	all = memdev_allocated(&f->devs, "store");
	for (unsigned i = 50; i < 60; i++)
		ok(disk_rw(d, DISK_WRITE_ZEROES, i * MiB + 64 * KiB, NULL, MiB / (i < 55 ? 1 : 2),
			   &e),
			&e, "zeroes");
	put(f, d);
	assert_true(memdev_allocated(&f->devs, "store") + MiB > all);
	all = memdev_allocated(&f->devs, "store");
	ok(disk_store_lodgefs.trim(&fs, "store", NULL, &given, &e), &e, "trim");
	assert_in_range(given, 7 * MiB, 8 * MiB);
	assert_int_equal(memdev_allocated(&f->devs, "store"), all - given);
	ok(disk_store_lodgefs.trim(&fs, "store", NULL, &given, &e), &e, "trim");
	assert_int_equal(given, 0);
	check_in(f, &f->devs, true);
	for (const char *const *p = (const char *const[]){"store/a", "store/b", NULL}; *p; p++) {
		d = get(f, *p);
		is_now(d, 0, 64 * KiB, 77);
		is_now(d, 64 * KiB, MiB - 64 * KiB, 1);
		for (unsigned i = 1; i < 40; i++)
			is_now(d, i * MiB, MiB, (uint8_t)(1 + i));
		if (!strcmp(*p, "store/b"))
			is_now(d, 56 * MiB, 64 * KiB, 3);
		put(f, d);
	}
	d = get(f, "store/a");
	ok(disk_snapshot(d, DISK_SNAP_APPLY, "s", &e), &e, "apply");
	is_now(d, 0, MiB, 1);
	put(f, d);
	end(f);
}

/* Two records with one id: which of them do its snapshots belong to? */
static void twins(void **state)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	uint8_t page[4096];
	struct disk_check c;
	struct err e = {0};
	struct disk *d;

	(void)state;
	ok(make(f, "store/a", 8 * MiB, "track", "on", &e), &e, "a");
	ok(make(f, "store/b", 8 * MiB, NULL, NULL, &e), &e, "b");
	memdev_peek(&f->devs, "store", 16384 + 2 * MiB, page, sizeof(page));
	memcpy(page + 64 + 2 * 576, page + 64, 8);
	memset(page + 4, 0, 4);
	put_le32(page + 4, crc32c(0, page, sizeof(page)));
	memdev_poke(&f->devs, "store", 16384 + 2 * MiB, page, sizeof(page));
	assert_int_equal(open_in(f, &f->devs, &d, "store/a", NULL, false, &e), -EUCLEAN);
	assert_non_null(strstr(err_msg(&e), "the id"));
	ok(disk_store_lodgefs.check(&fs, "store", true, NULL, &c, &e), &e, "repair");
	assert_int_equal(c.errors, 1);
	check_in(f, &f->devs, true);
	put(f, get(f, "store/a"));
	put(f, get(f, "store/b"));
	end(f);
}

/* A lease that is damaged is made anew by who says which numbers were given out. */
static void damaged_lease(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	struct err e = {0};
	struct disk *d;
	uint64_t now;

	(void)state;
	ok(make(f, "store/a", 8 * MiB, NULL, NULL, &e), &e, "a");
	memdev_poke(&f->devs, "store", 8192 + 30, "x", 1);
	assert_int_equal(open_in(f, &f->devs, &d, "store/a", NULL, false, &e), -EUCLEAN);
	assert_non_null(strstr(err_msg(&e), "--fence"));
	assert_int_equal(disk_store_lodgefs.take(&fs, "store", 0, &now, &e), -EUCLEAN);
	ok(disk_store_lodgefs.take(&fs, "store", 100, &now, &e), &e, "take");
	assert_int_equal(now, 100);
	put(f, get(f, "store/a"));
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(composed),
		cmocka_unit_test(large_directory),
		cmocka_unit_test(changes_of_much),
		cmocka_unit_test(space_goes_back),
		cmocka_unit_test(trimmed),
		cmocka_unit_test(twins),
		cmocka_unit_test(damaged_lease),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
