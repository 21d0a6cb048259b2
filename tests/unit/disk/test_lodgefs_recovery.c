/*
 * test_lodgefs_recovery.c: recovery that does not get to its end: it fails, its process is killed, the power goes. Whoever opens the store then finds what
 * the first one would have found.
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
#define JOURNAL_AT 16384u
#define PAGES_AT (JOURNAL_AT + 2 * MiB) /* directory, bitmap, blocks */

/* What is where: flushed; acknowledged, and all of it in the journal. The last one is in a leaf that only its record, which comes late, has. */
#define PLACES 6u
static const uint64_t at[PLACES] = {0, MiB, 2 * MiB, 3 * MiB, 4 * MiB, 101 * MiB};
static const uint8_t flushed[PLACES] = {1, 1, 0, 0, 0, 0}, acked[PLACES] = {1, 7, 8, 4, 5, 6};

/* A process that was killed behind its last acknowledgement: records whose data was written over in place, and nobody has flushed. */
static struct fix *killed(struct memdevs *after)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct err e = {0};
	struct disk *d;

	ok(make(f, "store/a", 128 * MiB, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	write_now(d, 100 * MiB, SUB, 1);
	put(f, d);
	d = get_batch(f, "store/a");
	write_now(d, 0, SUB, 1);
	write_now(d, MiB, SUB, 1);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	assert_int_equal(memdevs_record(&f->devs), 0);
	write_now(d, MiB, SUB, 7); /* makes a mark: before the others */
	write_now(d, 2 * MiB, SUB, 2);
	write_now(d, 3 * MiB, SUB, 3);
	for (unsigned i = 3; i < PLACES; i++)
		write_now(d, at[i], SUB, (uint8_t)(i + 1));
	write_now(d, 2 * MiB, SUB, 8); /* its record does not fit it any more */
	assert_int_equal(memdevs_crash(&f->devs, memdevs_events(&f->devs), 1, after), 0);
	put(f, d);
	return f;
}

static struct disk *open_again(struct fix *f, struct memdevs *devs)
{
	struct err e = {0};
	struct disk *d;

	ok(open_in(f, devs, &d, "store/a", NULL, false, &e), &e, "open");
	return d;
}

static void all_there(struct fix *f, struct memdevs *devs)
{
	struct disk *d = open_again(f, devs);

	assert_int_equal(stat_of(d, "dropped"), 0);
	for (unsigned i = 0; i < PLACES; i++)
		is_now(d, at[i], SUB, acked[i]);
	put(f, d);
	check_in(f, devs, true);
}

/* Each write to where pages are fails once; and all from there on. Then the cause is gone. */
static void fails(void **state)
{
	(void)state;
	for (unsigned i = 0, opened = 0; !opened; i++) {
		struct memdevs devs = {0};
		struct fix *f = killed(&devs);
		struct err e = {0};
		struct disk *d;

		devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
			.off = PAGES_AT,
			.len = GiB,
			.after = i,
			.error = -EIO};
		devs.nfaults = 1;
		opened = !open_in(f, &devs, &d, "store/a", NULL, false, &e);
		devs.nfaults = 0;
		if (opened)
			put(f, d);
		assert_true(opened ? i > 1 : i < 50);
		all_there(f, &devs);
		memdevs_free(&devs);
		end(f);
	}
}

/* Variants of memdevs_crash(): 1 is a process that was killed, all others are a power cut. */
static void look(struct fix *f, struct memdevs *devs, unsigned variant)
{
	struct disk *d;

	if (variant == 1) {
		all_there(f, devs);
		return;
	}
	lose_power(devs);
	check_in(f, devs, true);
	d = open_again(f, devs);
	for (unsigned i = 0; i < PLACES; i++) { /* what was written, or what was flushed */
		uint8_t buf[SUB];
		struct err e = {0};

		ok(disk_rw(d, DISK_READ, at[i], buf, SUB, &e), &e, "read");
		if (buf[0] != flushed[i] && buf[0] != acked[i] && buf[0] != i)
			fail_msg("place %u has %u", i, buf[0]);
	}
	is_now(d, 0, SUB, flushed[0]);
	put(f, d);
	check_in(f, devs, true);
}

/* Behind each event of the recovery the process is killed, or the power goes: what is found then is found again. */
static void is_interrupted(void **state)
{
	struct memdevs devs = {0};
	struct fix *f = killed(&devs);
	unsigned cuts = 0;

	(void)state;
	devs.seed = 3;
	assert_int_equal(memdevs_record(&devs), 0);
	put(f, open_again(f, &devs));
	for (uint64_t point = 0; point <= memdevs_events(&devs); point++)
		for (unsigned variant = 0; variant < 6; variant++, cuts++) {
			struct memdevs after = {0};

			assert_int_equal(memdevs_crash(&devs, point, variant, &after), 0);
			look(f, &after, variant);
			memdevs_free(&after);
		}
	print_message("%u ends of a recovery\n", cuts);
	assert_true(cuts > 100);
	memdevs_free(&devs);
	end(f);
}

/* Also a store that was loaded anew by who had it open tells the next one what it knows. */
static void loaded_anew(void **state)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct memdevs after = {0};
	struct err e = {0};
	struct disk *d;
	uint8_t buf[SUB] = {1};

	(void)state;
	ok(make(f, "store/a", 8 * MiB, NULL, NULL, &e), &e, "a");
	d = get_batch(f, "store/a");
	assert_int_equal(memdevs_record(&f->devs), 0);
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
		.off = JOURNAL_AT,
		.len = 2 * MiB,
		.count = 1,
		.error = -EIO};
	f->devs.nfaults = 1;
	assert_int_equal(disk_rw(d, DISK_WRITE, 5 * MiB, buf, SUB, &e), -EIO);
	f->devs.nfaults = 0;
	usleep(120000);
	for (unsigned i = 0; i < 4; i++)
		write_now(d, i * MiB, SUB, 1);
	write_now(d, 0, SUB, 2);
	assert_int_equal(memdevs_crash(&f->devs, memdevs_events(&f->devs), 1, &after), 0);
	put(f, d);
	d = open_again(f, &after);
	assert_int_equal(stat_of(d, "dropped"), 0);
	for (unsigned i = 0; i < 4; i++)
		is_now(d, i * MiB, SUB, i ? 1 : 2);
	put(f, d);
	memdevs_free(&after);
	end(f);
}

/* Either copy of the superblock is enough, also when the other one cannot be read. */
static void one_superblock(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct memdevs devs = {0};
		struct fix *f = killed(&devs);
		uint64_t copy = i / 2 * 4096;

		if (i % 2) {
			devs.fault[0] = (struct memdev_fault){
				.ops = 1u << FILE_READ, .off = copy, .len = 4096, .error = -EIO};
			devs.nfaults = 1;
		} else {
			memdev_poke(&devs, "store", copy + 100, "x", 1);
		}
		all_there(f, &devs);
		memdevs_free(&devs);
		end(f);
	}
}

/* Power went behind a flush: what it promised rests on data that has to be read to be proved. */
static struct fix *to_be_proved(struct memdevs *after)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"journal", "2M"}, {0}});
	struct err e = {0};
	struct disk *d;

	ok(make(f, "store/a", 8 * MiB, NULL, NULL, &e), &e, "a");
	d = get(f, "store/a");
	assert_int_equal(memdevs_record(&f->devs), 0);
	write_now(d, 0, SUB, 1);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	assert_int_equal(memdevs_crash(&f->devs, memdevs_events(&f->devs), 0, after), 0);
	lose_power(after);
	put(f, d);
	after->fault[0] = (struct memdev_fault){
		.ops = 1u << FILE_READ, .off = 3 * MiB, .len = GiB, .count = 1, .error = -EIO};
	after->nfaults = 1;
	return f;
}

/* What cannot be read now is not dropped for good; only who mends the store decides that. */
static void cannot_be_read(void **state)
{
	for (unsigned repair = 0; repair < 2; repair++) {
		struct memdevs devs = {0};
		struct fix *f = to_be_proved(&devs);
		struct files fs = {.loop = &f->loop, .open = memdevs_open, .open_ctx = &devs};
		struct disk_check c;
		struct err e = {0};
		struct disk *d;

		(void)state;
		if (repair) {
			ok(disk_store_lodgefs.check(&fs, "store", true, NULL, &c, &e), &e,
				"repair");
			assert_int_equal(c.errors, 1);
		} else {
			assert_int_equal(open_in(f, &devs, &d, "store/a", NULL, false, &e), -EIO);
		}
		assert_int_equal(devs.faults_hit, 1);
		d = open_again(f, &devs);
		is_now(d, 0, SUB, repair ? 0 : 1);
		put(f, d);
		check_in(f, &devs, true);
		memdevs_free(&devs);
		end(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fails),
		cmocka_unit_test(is_interrupted),
		cmocka_unit_test(loaded_anew),
		cmocka_unit_test(one_superblock),
		cmocka_unit_test(cannot_be_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
