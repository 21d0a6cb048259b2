/*
 * test_qcow2_mend.c: a repair of a version 2 image, which has no mark for one that is interrupted: whatever a power cut or Ctrl-C leaves of it, a check says
 * truly whether something is wrong (a count of its own, below, is the witness), and the repair done again ends well.
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

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"
#include "expect.h"

#define SIZE (8 * MiB)
#define CLUSTER 4096u
#define ENTRIES (CLUSTER / 8)
#define DATA 64u /* clusters of it */
#define COPIED (1ull << 63)
#define OFFSET 0x00fffffffffffe00ull

static uv_loop_t loop;
static struct err e;

static uint64_t be64(struct memdevs *devs, uint64_t at)
{
	uint8_t b[8] = {0};

	assert_int_equal(memdev_peek(devs, "a", at, b, 8), 0);
	return get_be64(b);
}

static void poke(struct memdevs *devs, uint64_t at, uint64_t v)
{
	uint8_t b[8];

	put_be64(b, v);
	assert_int_equal(memdev_poke(devs, "a", at, b, 8), 0);
}

static struct disk *get(struct memdevs *devs, bool readonly)
{
	struct disk *d;

	ok(disk_open(&d,
		   &(struct disk_opts){.path = "a",
			   .format = "qcow2",
			   .readonly = readonly,
			   .force = true,
			   .offline = true,
			   .loop = &loop,
			   .open_file = memdevs_open,
			   .open_ctx = devs},
		   &e),
		&e, "open");
	return d;
}

static unsigned looks;

static bool stop(void *ctx, uint64_t done, uint64_t of)
{
	return !looks || --looks;
}

static int check(struct memdevs *devs, bool repair, struct disk_check *c)
{
	const struct disk_watch w = {.progress = stop};
	struct disk *d = get(devs, !repair);
	int rc = d->format->check(d, repair, &w, c, &e);

	disk_close(d);
	return rc;
}

static uint64_t count_of(struct memdevs *devs, uint64_t cluster)
{
	uint64_t rt = be64(devs, 48), block = be64(devs, rt + cluster / (CLUSTER / 2) * 8);
	uint8_t b[2] = {0};

	if (block)
		assert_int_equal(
			memdev_peek(devs, "a", block + cluster % (CLUSTER / 2) * 2, b, 2), 0);
	return get_be16(b);
}

/* Clusters that are counted too low, entries that point nowhere, and flags that do not fit: of an image with one L1 table and nothing else. */
static unsigned wrong(struct memdevs *devs)
{
	uint64_t n = (memdev_size(devs, "a") + CLUSTER - 1) / CLUSTER, l1 = be64(devs, 40),
		 rt = be64(devs, 48);
	unsigned *refs = calloc(n + 1, sizeof(*refs)), bad = 0;
	uint32_t l1_size = (uint32_t)be64(devs, 36 - 4),
		 rt_clusters = (uint32_t)(be64(devs, 56) >> 32);

	refs[0]++;
	for (uint64_t c = 0; c < (l1_size * 8ull + CLUSTER - 1) / CLUSTER; c++)
		refs[l1 / CLUSTER + c]++;
	for (uint64_t c = 0; c < rt_clusters; c++)
		refs[rt / CLUSTER + c]++;
	for (uint64_t i = 0; i < rt_clusters * ENTRIES; i++)
		refs[MIN(be64(devs, rt + i * 8) / CLUSTER, n)] += be64(devs, rt + i * 8) != 0;
	for (unsigned pass = 0; pass < 2; pass++)
		for (uint64_t i = 0; i < l1_size; i++) {
			uint64_t table = be64(devs, l1 + i * 8) & OFFSET;

			if (!table)
				continue;
			if (!pass)
				refs[MIN(table / CLUSTER, n)]++;
			else
				bad += (refs[MIN(table / CLUSTER, n)] == 1) !=
				       !!(be64(devs, l1 + i * 8) & COPIED);
			for (unsigned k = 0; k < ENTRIES; k++) {
				uint64_t entry = be64(devs, table + k * 8),
					 c = (entry & OFFSET) / CLUSTER;

				if (!c)
					continue;
				if (!pass)
					refs[MIN(c, n)]++;
				else
					bad += c >= n || (refs[c] == 1) != !!(entry & COPIED);
			}
		}
	for (uint64_t c = 0; c < n; c++)
		bad += count_of(devs, c) < refs[c];
	free(refs);
	return bad;
}

/* Twelve pairs of entries have one cluster each. */
static void damaged(struct memdevs *devs)
{
	struct disk_kv kv[] = {{"cluster-size", "4K"}, {"compat", "0.10"}, {0}};
	uint8_t *buf = malloc(DATA * CLUSTER);
	struct disk_check c;
	struct disk *d;
	uint64_t table;

	ok(disk_create("qcow2",
		   &(struct disk_create_opts){.path = "a",
			   .size = SIZE,
			   .kv = kv,
			   .loop = &loop,
			   .open_file = memdevs_open,
			   .open_ctx = devs},
		   &e),
		&e, "create");
	ok(disk_open(&d,
		   &(struct disk_opts){.path = "a",
			   .format = "qcow2",
			   .loop = &loop,
			   .open_file = memdevs_open,
			   .open_ctx = devs},
		   &e),
		&e, "open");
	for (unsigned i = 0; i < DATA; i++)
		memset(buf + i * CLUSTER, (int)i + 1, CLUSTER);
	ok(disk_rw(d, DISK_WRITE, 0, buf, DATA * CLUSTER, &e), &e, "write");
	ok(disk_rw(d, DISK_WRITE, 4 * MiB, buf, DATA * CLUSTER, &e), &e, "write");
	disk_close(d);
	free(buf);
	assert_int_equal(wrong(devs), 0);
	ok(check(devs, false, &c), &e, "check");
	assert_int_equal(c.errors + c.leaks, 0);
	table = be64(devs, be64(devs, 40)) & OFFSET;
	for (unsigned i = 0; i < 12; i++)
		poke(devs, table + (2 * i + 1) * 8, be64(devs, table + 2 * i * 8));
}

static void is_true(struct memdevs *devs, const char *where, uint64_t n)
{
	unsigned bad = wrong(devs);
	struct disk_check c;

	ok(check(devs, false, &c), &e, "check");
	if (!bad != !c.errors)
		fail_msg("%s %llu: a check finds %llu errors, and there are %u", where,
			(unsigned long long)n, (unsigned long long)c.errors, bad);
	ok(check(devs, true, &c), &e, "repair");
	assert_int_equal(c.errors, 0);
	assert_int_equal(wrong(devs), 0);
	ok(check(devs, false, &c), &e, "check");
	assert_int_equal(c.errors + c.leaks, 0);
}

static void power(void **state)
{
	struct memdevs devs = {0};
	unsigned with = 0, without = 0;
	struct disk_check c;

	uv_loop_init(&loop);
	damaged(&devs);
	assert_true(wrong(&devs) > 0);
	assert_int_equal(memdevs_record(&devs), 0);
	ok(check(&devs, true, &c), &e, "repair");
	for (uint64_t p = 0; p <= memdevs_events(&devs); p++)
		for (uint64_t v = 0; v < 6; v++) {
			struct memdevs after = {0};

			assert_int_equal(memdevs_crash(&devs, p, v, &after), 0);
			*(wrong(&after) ? &with : &without) += 1;
			is_true(&after, "behind event", p);
			uv_run(&loop, UV_RUN_NOWAIT);
			memdevs_free(&after);
		}
	assert_true(with > 20 && without > 0);
	memdevs_free(&devs);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
}

static void stopped(void **state)
{
	bool again = true;

	uv_loop_init(&loop);
	for (unsigned n = 1; again; n++) {
		struct memdevs devs = {0};
		struct disk_check c;
		int rc;

		damaged(&devs);
		looks = n;
		rc = check(&devs, true, &c);
		looks = 0;
		again = rc == -ECANCELED;
		assert_true(again || n > 2);
		is_true(&devs, "stopped at look", n);
		uv_run(&loop, UV_RUN_NOWAIT);
		memdevs_free(&devs);
	}
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power),
		cmocka_unit_test(stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
