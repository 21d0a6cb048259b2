/* test_qcow2_size.c: a qcow2 disk that becomes shorter: its files end behind what is in use, whatever was there, and at every power cut. */
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

#define SIZE (10 * MiB) /* with clusters of 4 KiB two refcount blocks and five L2 tables */
#define LESS MiB

static struct rig {
	uv_loop_t loop;
	struct memdevs devs;
	struct err e;
} rig;

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	uv_loop_init(&rig.loop);
	return 0;
}

static int teardown(void **state)
{
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	memdevs_free(&rig.devs);
	return 0;
}

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(shorter, setup, teardown),
		cmocka_unit_test_setup_teardown(snapshot_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(power, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
