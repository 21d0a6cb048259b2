/*
 * test_batches.c: what the sorter is for, on lodgefs and on qcow2 alike: one scattered write is one transaction; what is there already needs none; the
 * last of overlapping elements counts; no space, a full journal and a power cut in the middle leave nothing half done and lose no block.
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
#include "power.h"
#include "expect.h"

#define PART 4096u
#define PARTS 64u

struct way {
	const char *format, *path;
	uint64_t block;
	const char *plain; /* what its statistics call elements that need no metadata */
};

static const struct way qcow2 = {"qcow2", "image", 64 * KiB, "elements_in_place"};
static const struct way lodgefs = {"lodgefs", "store/a", MiB, "plain_elements"};

struct fix {
	const struct way *w;
	uv_loop_t loop;
	struct memdevs devs;
	struct err e;
};

static void good(struct fix *f, int rc, const char *what)
{
	if (rc)
		fail_msg("%s: %s: %d %s", f->w->format, what, rc, err_msg(&f->e));
}

static struct disk_create_opts creating(
	struct fix *f, const char *path, uint64_t size, const struct disk_kv *kv)
{
	return (struct disk_create_opts){.path = path,
		.size = size,
		.kv = kv,
		.loop = &f->loop,
		.open_file = memdevs_open,
		.open_ctx = &f->devs};
}

static struct fix *begin(const struct way *w, uint64_t store, const char *journal)
{
	const struct disk_kv kv[] = {{"journal", journal}, {0}};
	struct fix *f = calloc(1, sizeof(*f));
	struct disk_create_opts o;

	f->w = w;
	uv_loop_init(&f->loop);
	o = creating(f, "store", store, kv);
	if (w == &lodgefs)
		good(f, disk_store_lodgefs.create(&o, &f->e), "store");
	o = creating(f, w->path, 256 * MiB, NULL);
	good(f, disk_create(w->format, &o, &f->e), "create");
	return f;
}

static struct disk *get(struct fix *f, struct memdevs *devs, const char *key, const char *value)
{
	const struct disk_kv kv[] = {{key, value}, {0}};
	struct disk_opts o = {.path = f->w->path,
		.format = f->w->format,
		.discard = true,
		.kv = key ? kv : NULL,
		.loop = &f->loop,
		.open_file = memdevs_open,
		.open_ctx = devs};
	struct disk *d;

	good(f, disk_open(&d, &o, &f->e), "open");
	return d;
}

static void check(struct fix *f, struct memdevs *devs, bool leaks_too)
{
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = devs};
	struct disk_check c;

	if (f->w == &lodgefs) {
		good(f, disk_store_lodgefs.check(&fs, "store", false, NULL, &c, &f->e), "check");
	} else {
		struct disk *d = get(f, devs, NULL, NULL);

		good(f, disk_qcow2.check(d, false, NULL, &c, &f->e), "check");
		disk_close(d);
	}
	assert_int_equal(c.errors, 0);
	if (leaks_too)
		assert_int_equal(c.leaks, 0);
}

static void put(struct fix *f, struct disk *d)
{
	disk_close(d);
	uv_run(&f->loop, UV_RUN_NOWAIT);
}

static void end(struct fix *f, struct disk *d)
{
	put(f, d);
	check(f, &f->devs, true);
	uv_run(&f->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&f->loop), 0);
	memdevs_free(&f->devs);
	free(f);
}

static void on_done(struct disk_req *r)
{
}

/* PARTS parts of one write: part i, filled with first + i, at place i * 37 mod `places`. */
static int scatter(struct fix *f, struct disk *d, unsigned places, int first)
{
	struct disk_range range[PARTS];
	char *buf = malloc((size_t)PARTS * PART);
	struct iovec v = {buf, (size_t)PARTS * PART};
	struct disk_req r = {.op = DISK_WRITE,
		.len = v.iov_len,
		.iov = &v,
		.niov = 1,
		.ranges = range,
		.nranges = PARTS,
		.done = on_done};

	for (unsigned i = 0; i < PARTS; i++) {
		range[i] = (struct disk_range){i * 37 % places * f->w->block, PART};
		memset(buf + (size_t)i * PART, first + (int)i, PART);
	}
	disk_submit(d, &r);
	disk_drain(d);
	free(buf);
	return r.result;
}

/* Of the parts at place p the last one: what it was filled with; -1: it has not one value. */
static int value_at(struct fix *f, struct disk *d, uint64_t place)
{
	uint8_t buf[PART];

	good(f, disk_rw(d, DISK_READ, place * f->w->block, buf, PART, &f->e), "read");
	for (unsigned i = 1; i < PART; i++)
		if (buf[i] != buf[0])
			return -1;
	return buf[0];
}

static int last_at(unsigned place, unsigned places, int first)
{
	int v = 0;

	for (unsigned i = 0; i < PARTS; i++)
		if (i * 37 % places == place)
			v = first + (int)i;
	return v;
}

static void all_there(struct fix *f, struct disk *d, unsigned places, int first)
{
	for (unsigned p = 0; p < places; p++)
		assert_int_equal(value_at(f, d, p), last_at(p, places, first));
}

static const struct way *way(void **state)
{
	return *state;
}

/* ---- */

static void one_transaction(void **state)
{
	const struct way *w = way(state);
	const char *key[] = {"commit", "sorter"}, *value[] = {"batch", "off"};
	uint64_t bytes[2], transactions[2], flushes[2];

	for (unsigned i = 0; i < 2; i++) {
		struct fix *f = begin(w, 128 * MiB, "8M");
		struct disk *d = get(f, &f->devs, key[i], value[i]);
		const char *meta = w == &lodgefs ? "journal_bytes" : "meta_bytes";
		uint64_t before = stat_of(d, meta), flushed = f->devs.ops[FILE_FLUSH];

		good(f, scatter(f, d, PARTS, 1), "write");
		transactions[i] = stat_of(d, "physical_transactions");
		assert_int_equal(stat_of(d, "logical_transactions"), PARTS);
		bytes[i] = stat_of(d, meta) - before;
		/* What is there already needs none. */
		good(f, scatter(f, d, PARTS, 100), "write");
		assert_int_equal(stat_of(d, w->plain), PARTS);
		assert_int_equal(stat_of(d, "physical_transactions"), transactions[i]);
		assert_int_equal(stat_of(d, meta) - before, bytes[i]);
		good(f, disk_rw(d, DISK_FLUSH, 0, NULL, 0, &f->e), "flush");
		flushes[i] = f->devs.ops[FILE_FLUSH] - flushed;
		all_there(f, d, PARTS, 100);
		end(f, d);
	}
	print_message("%s: 64 elements: %d transaction, %d without the sorter; %d and %d bytes of "
		      "metadata; %d and %d flushes\n",
		w->format, (int)transactions[0], (int)transactions[1], (int)bytes[0], (int)bytes[1],
		(int)flushes[0], (int)flushes[1]);
	assert_int_equal(transactions[0], 1);
	assert_int_equal(transactions[1], PARTS);
	assert_true(2 * bytes[0] < bytes[1]);
	assert_true(flushes[0] <= flushes[1]);
}

/* One address eight times in a write: the last one counts, whether its place is there or not. */
static void one_address_twice(void **state)
{
	struct fix *f = begin(way(state), 128 * MiB, "2M");
	struct disk *d = get(f, &f->devs, "commit", "batch");

	good(f, scatter(f, d, 8, 1), "write");
	all_there(f, d, 8, 1);
	assert_int_equal(stat_of(d, "physical_transactions"), 1);
	assert_int_equal(stat_of(d, "logical_transactions"), 8);
	good(f, scatter(f, d, 8, 100), "write");
	all_there(f, d, 8, 100);
	/* Half of the places are there. */
	good(f, scatter(f, d, 16, 50), "write");
	all_there(f, d, 16, 50);
	assert_int_equal(stat_of(d, "physical_transactions"), 2);
	end(f, d);
}

/* There is room for some of the blocks: none of them is taken. */
static void no_space(void **state)
{
	struct fix *f = begin(way(state), 24 * MiB, "2M");
	struct disk *d = get(f, &f->devs, "commit", "batch");

	good(f, scatter(f, d, 4, 1), "write");
	if (f->w == &qcow2)
		f->devs.capacity = memdev_size(&f->devs, f->w->path) + 8 * f->w->block;
	for (unsigned i = 0; i < 4; i++) /* again and again: nothing leaks */
		assert_int_equal(scatter(f, d, PARTS, 100), -ENOSPC);
	for (unsigned p = 4; p < PARTS; p++) {
		int v = value_at(f, d, p);

		/* qcow2's data goes out beside its tables: what found room may be there. */
		assert_true(!v || (f->w == &qcow2 && v == last_at(p, PARTS, 100)));
	}
	f->devs.capacity = 0;
	good(f, scatter(f, d, 8, 50), "there is room for that");
	all_there(f, d, 8, 50);
	end(f, d);
}

/* All at once or none of it, of what one write changed in metadata; and of data, never anything else than before or after. */
static void power_cut(void **state)
{
	struct fix *f = begin(way(state), 128 * MiB, "2M");
	struct disk *d = get(f, &f->devs, "commit", "batch");
	unsigned cuts = 0, before = 0, after_it = 0;

	good(f, disk_rw(d, DISK_FLUSH, 0, NULL, 0, &f->e), "flush");
	assert_int_equal(memdevs_record(&f->devs), 0);
	good(f, scatter(f, d, PARTS, 1), "write");
	good(f, disk_rw(d, DISK_FLUSH, 0, NULL, 0, &f->e), "flush");
	put(f, d);
	for (uint64_t point = 1; point <= memdevs_events(&f->devs); point++)
		for (unsigned variant = 0; variant < 4; variant++, cuts++) {
			struct memdevs after = {0};
			unsigned there = 0;

			if (point > 1 && !memdevs_is_write(&f->devs, point - 1))
				break;
			assert_int_equal(memdevs_crash(&f->devs, point, variant, &after), 0);
			lose_power(&after);
			check(f, &after, false);
			d = get(f, &after, NULL, NULL);
			for (unsigned p = 0; p < PARTS; p++) {
				int v = value_at(f, d, p);

				there += v == last_at(p, PARTS, 1);
				if (f->w == &lodgefs)
					assert_true(!v || v == last_at(p, PARTS, 1));
			}
			if (f->w == &lodgefs)
				assert_true(!there || there == PARTS);
			before += !there;
			after_it += there == PARTS;
			put(f, d);
			memdevs_free(&after);
		}
	print_message("%s: %u power cuts: %u before the write, %u after it\n", f->w->format, cuts,
		before, after_it);
	assert_true(before && after_it);
	d = get(f, &f->devs, NULL, NULL);
	all_there(f, d, PARTS, 1);
	end(f, d);
}

/* Records of many times the journal's size; and one time its end cannot be moved on, because the host fails. */
static void journal_full(void **state)
{
	struct fix *f = begin(&lodgefs, 256 * MiB, "1M");
	struct disk *d = get(f, &f->devs, "commit", "batch");
	unsigned failed = 0;

	for (unsigned i = 0; i < 240; i++) {
		int rc;

		if (i == 100) {
			f->devs.fault[0] = (struct memdev_fault){
				.ops = 1 << FILE_WRITE, .len = 16384, .error = -EIO};
			f->devs.nfaults = 1; /* superblocks */
		}
		rc = scatter(f, d, PARTS, (int)(1 + i % 100));
		failed += rc != 0;
		assert_true(!rc || (rc == -EIO && i >= 100));
		if (f->devs.nfaults && failed) {
			f->devs.nfaults = 0;
			/* It goes on by itself: at most ten times a second it looks. */
			while (scatter(f, d, PARTS, 1))
				;
		}
		/* New places each time. */
		if (i % 2)
			good(f, disk_rw(d, DISK_DISCARD, 0, NULL, PARTS * MiB, &f->e), "discard");
	}
	assert_true(failed);
	print_message("a journal of 1 MiB: %d KiB written to it, %d checkpoints\n",
		(int)(stat_of(d, "journal_bytes") / KiB), (int)stat_of(d, "checkpoints"));
	assert_true(stat_of(d, "journal_bytes") > MiB);
	assert_true(stat_of(d, "checkpoints") > 1);
	good(f, scatter(f, d, PARTS, 9), "write");
	all_there(f, d, PARTS, 9);
	end(f, d);
}

/* Requests of many blocks, which change few pages: they fit into a small journal. */
static void large_request(void **state)
{
	struct fix *f = begin(&lodgefs, 256 * MiB, "1M");
	uint64_t size = 150 * MiB;
	char *buf = malloc(size);

	memset(buf, 7, size);
	for (unsigned late = 0; late < 2; late++) {
		struct disk *d = late ? get(f, &f->devs, NULL, NULL)
				      : get(f, &f->devs, "commit", "batch");

		good(f, disk_rw(d, DISK_WRITE, 3 * MiB, buf, size, &f->e), "write");
		good(f, disk_rw(d, DISK_DISCARD, 0, NULL, size, &f->e), "discard");
		good(f, disk_rw(d, DISK_WRITE_ZEROES, 0, NULL, d->size, &f->e), "zeroes");
		if (late)
			end(f, d);
		else
			put(f, d);
	}
	free(buf);
}

int main(void)
{
#define BOTH(fn) \
	{.name = #fn " (lodgefs)", .test_func = fn, .initial_state = (void *)&lodgefs}, \
	{ \
		.name = #fn " (qcow2)", .test_func = fn, .initial_state = (void *)&qcow2 \
	}
	const struct CMUnitTest tests[] = {
		BOTH(one_transaction),
		BOTH(one_address_twice),
		BOTH(no_space),
		BOTH(power_cut),
		cmocka_unit_test(journal_full),
		cmocka_unit_test(large_request),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
