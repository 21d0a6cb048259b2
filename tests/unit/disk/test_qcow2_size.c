/*
 * test_qcow2_size.c: a qcow2 disk that becomes shorter: its files end behind what is in use, whatever was there, and at every power cut. That, and snapshots, are
 * stopped wherever they look whether to go on.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
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
#include "images.h"

#define SIZE (10 * MiB) /* with clusters of 4 KiB two refcount blocks and five L2 tables */
#define LESS MiB

static void make(const char *name, uint64_t size, const struct disk_kv *kv)
{
	ok(disk_create("qcow2",
		   &(struct disk_create_opts){.path = name,
			   .size = size,
			   .kv = kv,
			   .loop = &rig.loop,
			   .open_file = memdevs_open,
			   .open_ctx = &rig.devs},
		   &rig.e),
		&rig.e, "create");
}

/* Lets so many looks pass, and says stop from then on. */
static bool stop(void *ctx, uint64_t done, uint64_t of)
{
	unsigned *left = ctx;

	assert_true(done <= of);
	return *left && --*left;
}

static void on_bitmap_lost(void *ctx, const struct err *what)
{
	fail_msg("%s", err_msg(what));
}

static unsigned looks;
static const struct disk_watch watch = {.progress = stop, .ctx = &looks};

static struct disk *get(struct memdevs *devs, const char *name, bool force)
{
	struct disk *d;

	ok(disk_open(&d,
		   &(struct disk_opts){.path = name,
			   .format = "qcow2",
			   .readonly = force,
			   .force = force,
			   .offline = true,
			   .discard = true,
			   .watch = looks ? &watch : NULL,
			   .client = {.bitmap_lost = on_bitmap_lost},
			   .loop = &rig.loop,
			   .open_file = memdevs_open,
			   .open_ctx = devs},
		   &rig.e),
		&rig.e, "open");
	return d;
}

static void fill(struct disk *d, uint64_t from, uint64_t to, int byte)
{
	char *buf = malloc(MiB);

	memset(buf, byte, MiB);
	for (; from < to; from += MiB)
		ok(disk_rw(d, DISK_WRITE, from, buf, MIN(MiB, to - from), &rig.e), &rig.e, "write");
	free(buf);
}

static void has(struct disk *d, uint64_t from, uint64_t to, int byte)
{
	char *buf = malloc(to - from);

	ok(disk_rw(d, DISK_READ, from, buf, to - from, &rig.e), &rig.e, "read");
	for (uint64_t i = 0; i < to - from; i++)
		if (buf[i] != (char)byte)
			fail_msg("byte %llu is %d, not %d", (unsigned long long)(from + i), buf[i],
				byte);
	free(buf);
}

static void check(struct memdevs *devs, const char *name, bool leaks_too)
{
	struct disk *d = get(devs, name, true);
	struct disk_check c;

	ok(d->format->check(d, false, NULL, &c, &rig.e), &rig.e, "check");
	assert_int_equal(c.errors, 0);
	if (leaks_too)
		assert_int_equal(c.leaks, 0);
	disk_close(d);
}

struct kind {
	struct disk_kv kv[3];
	uint64_t cluster;
	const char *data;
};

static const struct kind kinds[] = {
	{{{"cluster-size", "4K"}}, 4096, NULL},
	{{{"cluster-size", "64K"}}, 65536, NULL},
	{{{"cluster-size", "2M"}}, 2 * MiB, NULL},
	{{{"cluster-size", "16K"}, {"extended-l2", "on"}}, 16384, NULL},
	{{{"cluster-size", "4K"}, {"compat", "0.10"}}, 4096, NULL},
	{{{"cluster-size", "4K"}, {"lazy-refcounts", "on"}}, 4096, NULL},
	{{{"data-file", "data"}}, 65536, "data"},
	{{{"data-file", "data"}, {"data-file-raw", "on"}}, 65536, "data"},
};

/* As long as one that never was longer; what was cut off does not come back. */
static void shorter(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct kind *k = &kinds[i];
		uint64_t least;
		struct disk *d;

		make("small", LESS, k->kv);
		d = get(&rig.devs, "small", false);
		fill(d, 0, LESS, 1);
		disk_close(d);
		least = memdev_size(&rig.devs, "small");
		memdevs_free(&rig.devs);
		memset(&rig.devs, 0, sizeof(rig.devs));
		make("a", SIZE, k->kv);
		d = get(&rig.devs, "a", false);
		fill(d, 0, SIZE, 1);
		ok(disk_resize(d, LESS, &rig.e), &rig.e, "resize");
		/* The L1 table, and what was allocated before its end, may stay where they are. */
		if (memdev_size(&rig.devs, "a") > least + 4 * k->cluster)
			fail_msg("kind %u: %llu bytes are left of the file, and %llu are in use", i,
				(unsigned long long)memdev_size(&rig.devs, "a"),
				(unsigned long long)least);
		if (k->data)
			assert_int_equal(memdev_size(&rig.devs, k->data), LESS);
		has(d, 0, LESS, 1);
		fill(d, 0, MiB / 2, 2);
		ok(disk_resize(d, SIZE, &rig.e), &rig.e, "and longer again");
		has(d, LESS, SIZE, 0);
		fill(d, SIZE - 2 * MiB, SIZE, 3);
		disk_close(d);
		check(&rig.devs, "a", true);
		d = get(&rig.devs, "a", false);
		has(d, 0, MiB / 2, 2);
		has(d, MiB / 2, LESS, 1);
		has(d, LESS, SIZE - 2 * MiB, 0);
		has(d, SIZE - 2 * MiB, SIZE, 3);
		disk_close(d);
		memdevs_free(&rig.devs);
		memset(&rig.devs, 0, sizeof(rig.devs));
	}
}

/* What a snapshot has stays, and the file as long as it needs. */
static void snapshot_stays(void **state)
{
	struct disk_kv kv[] = {{"cluster-size", "4K"}, {0}};
	struct disk *d;

	make("a", SIZE, kv);
	d = get(&rig.devs, "a", false);
	fill(d, 0, SIZE, 1);
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), &rig.e, "snapshot");
	fill(d, SIZE - MiB, SIZE, 2);
	ok(disk_resize(d, LESS, &rig.e), &rig.e, "resize");
	assert_true(memdev_size(&rig.devs, "a") > SIZE);
	has(d, 0, LESS, 1);
	ok(disk_snapshot(d, DISK_SNAP_APPLY, "s", &rig.e), &rig.e, "apply");
	has(d, 0, SIZE, 1);
	ok(disk_snapshot(d, DISK_SNAP_DELETE, "s", &rig.e), &rig.e, "delete");
	ok(disk_resize(d, LESS, &rig.e), &rig.e, "resize");
	has(d, 0, LESS, 1);
	disk_close(d);
	check(&rig.devs, "a", true);
}

/* Nothing is damaged, and what the smaller disk has is there, wherever the power goes. */
static void power(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		bool cut = false;
		uint64_t was;
		struct disk *d;

		make("a", SIZE, kinds[i].kv);
		d = get(&rig.devs, "a", false);
		fill(d, 0, SIZE, 1);
		disk_close(d);
		was = memdev_size(&rig.devs, "a");
		assert_int_equal(memdevs_record(&rig.devs), 0);
		d = get(&rig.devs, "a", false);
		ok(disk_resize(d, LESS, &rig.e), &rig.e, "resize");
		disk_close(d);
		for (uint64_t p = 0; p <= memdevs_events(&rig.devs); p++)
			for (uint64_t v = 0; v < 3; v++) {
				struct memdevs after = {0};

				assert_int_equal(memdevs_crash(&rig.devs, p, v, &after), 0);
				cut |= memdev_size(&after, "a") < was;
				/* What is not counted yet, or still, is mended where the image is opened. */
				d = get(&after, "a", false);
				has(d, 0, LESS, 1);
				fill(d, 0, MiB / 4, 2);
				disk_close(d);
				check(&after, "a", false);
				d = get(&after, "a", false);
				has(d, MiB / 4, LESS, 1);
				disk_close(d);
				uv_run(&rig.loop, UV_RUN_NOWAIT);
				memdevs_free(&after);
			}
		assert_true(cut || kinds[i].data);
		memdevs_free(&rig.devs);
		memset(&rig.devs, 0, sizeof(rig.devs));
	}
}

static unsigned snapshots(struct disk *d)
{
	struct disk_snapshot *list;
	unsigned n;

	ok(disk_snapshots(d, &list, &n, &rig.e), &rig.e, "snapshots");
	free(list);
	return n;
}

static void starts(const struct kind *k)
{
	struct disk *d;

	memdevs_free(&rig.devs);
	memset(&rig.devs, 0, sizeof(rig.devs));
	make("a", SIZE, k->kv);
	d = get(&rig.devs, "a", false);
	fill(d, 0, SIZE, 1);
	if (!k->data)
		ok(disk_bitmap(d, DISK_BITMAP_ADD, "b", 65536, &rig.e), &rig.e, "bitmap");
	disk_close(d);
}

/* Stopped at each place where it looks: the disk keeps its size, what is to stay is there, and its bitmap knows what is not; the same again goes to the end. */
static void shrinking_stops(void **state)
{
	const struct kind *k = &kinds[0];

	for (unsigned n = 1, stopped = 1; stopped; n++) {
		uint64_t len = SIZE - LESS;
		struct disk *d;
		bool dirty;

		starts(k);
		looks = n;
		d = get(&rig.devs, "a", false);
		stopped = disk_resize(d, LESS, &rig.e) == -ECANCELED;
		looks = 0;
		assert_true(stopped || n > 8);
		assert_true(!stopped ||
			    strstr(err_msg(&rig.e), "stopped: it has 10485760 bytes as before"));
		assert_int_equal(disk_size(d), stopped ? SIZE : LESS);
		has(d, 0, LESS, 1);
		disk_close(d);
		check(&rig.devs, "a", true);
		d = get(&rig.devs, "a", false);
		assert_int_equal(disk_size(d), stopped ? SIZE : LESS);
		has(d, 0, LESS, 1);
		if (stopped) {
			ok(disk_bitmap_status(d, "b", LESS, &len, &dirty, &rig.e), &rig.e,
				"bitmap");
			assert_true(dirty && len == SIZE - LESS);
			ok(disk_resize(d, LESS, &rig.e), &rig.e, "again");
			has(d, 0, LESS, 1);
		}
		disk_close(d);
		check(&rig.devs, "a", true);
	}
}

/* A snapshot that is stopped is none; going back that is stopped has not gone. What cannot be undone any more is finished. */
static void snapshots_stop(void **state)
{
	static const enum disk_snap_op ops[] = {
		DISK_SNAP_CREATE, DISK_SNAP_APPLY, DISK_SNAP_DELETE};
	const struct kind *k = &kinds[0];

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		unsigned n = 1, most = 0;

		for (bool stopped = true; stopped; n++) {
			bool create = ops[i] == DISK_SNAP_CREATE;
			struct disk *d;

			starts(k);
			d = get(&rig.devs, "a", false);
			if (!create) {
				ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), &rig.e,
					"create");
				fill(d, 2 * MiB, 4 * MiB, 2);
			}
			disk_close(d);
			looks = n;
			d = get(&rig.devs, "a", false);
			stopped = disk_snapshot(d, ops[i], "s", &rig.e) == -ECANCELED;
			looks = 0;
			most += stopped;
			assert_true(!stopped ||
				    strstr(err_msg(&rig.e), "stopped: it is as it was before"));
			assert_int_equal(
				snapshots(d), ops[i] == DISK_SNAP_DELETE ? 0 : !create || !stopped);
			has(d, 2 * MiB, 4 * MiB,
				create || (ops[i] == DISK_SNAP_APPLY && !stopped) ? 1 : 2);
			disk_close(d);
			check(&rig.devs, "a", true);
			d = get(&rig.devs, "a", false);
			fill(d, 0, MiB, 3);
			if (stopped)
				ok(disk_snapshot(d, ops[i], "s", &rig.e), &rig.e, "again");
			has(d, MiB, 2 * MiB, 1);
			disk_close(d);
			check(&rig.devs, "a", true);
		}
		/* Each of the five tables of the disk was a place to stop, but for what is finished. */
		assert_int_equal(most, ops[i] == DISK_SNAP_DELETE ? 0 : 5);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(shorter, setup, teardown),
		cmocka_unit_test_setup_teardown(snapshot_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(power, setup, teardown),
		cmocka_unit_test_setup_teardown(shrinking_stops, setup, teardown),
		cmocka_unit_test_setup_teardown(snapshots_stop, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
