/*
 * test_crash.c: generated workloads on a device that a power cut may hit at every write.
 *
 * A workload is a sequence of steps: several requests in flight together (writes, scattered writes, zeroes, discards), flushes, also among these, snapshots
 * made, deleted and gone back to, the disk made longer and shorter, closed and opened, compressed data, bitmaps of changes, and in a store checkpoints, and
 * clones of it and of its snapshots, which are written to in turn with it; of a qcow2 image overlays, each of which is written to instead of what is below it. Requests that are in flight at
 * once do not overlap, but for the dense kind: there they are neighbours or overlap, in blocks of which others share some parts. In the filled kinds small
 * writes follow one another, with flushes between them, so that zeroes are written ahead of them, some of them late. What is made of requests that are apart
 * is apart as well: no two changes of the same bytes are ever in flight together. Each write has a stamp of
 * its own in each of its sectors, and what is read behind it is that, or what was in flight at the same time. The record
 * of the device then gives the images that a power cut may leave behind each event that changes something, in several variants (nothing that was
 * not flushed, all of it, some sectors). On each:
 *
 *   - it opens, and a check finds no error (and after that no leak); a store's check finds neither, at once and at the end;
 *     what no repair comes before (version 2 of qcow2) is written to as it is, and what snapshots hold stays;
 *   - each sector holds one value as a whole: the last one that was flushed, or one that was written later; where all is there that was
 *     sent to the host (a process that was killed), the last one that was acknowledged, or later;
 *   - zeroes or a value of this sector, never another sector's;
 *   - snapshots that were made are there with exactly what the disk held then; clones begin with that; a size that was set is set, and what was cut off
 *     does not come back; who goes back to a snapshot has gone or not, as a whole;
 *   - of a scattered write into untouched blocks, all is mapped or nothing, where the format promises that;
 *   - where changes are recorded: what is not as it was when a generation, or a bitmap that says it is complete, began is named as changed since then;
 *   - it is the same when it is opened again.
 *
 * Some images lose power once more, while they are opened and mended.
 *
 *	LODGE_CRASH_WORKLOADS=200 test_crash          how many for each kind (default: a few)
 *	LODGE_CRASH_SEED=17 LODGE_CRASH_KIND=qcow2    one alone
 *	LODGE_CRASH_JOBS=2                            in so many processes
 *	LODGE_CRASH_SAVE=DIR                          keeps one image in 50, as the power cut left it, and what Lodge reads from it, for
 *	                                              witnesses (tests/system/qcow2-crash.py), and the one that fails
 */
#include "crash.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk/tool.h"
#include "random.h"

/* *ahead: counts what was written ahead. */
static unsigned workload(const struct kind *k, uint64_t seed, uint64_t *ahead)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned n;

	w->k = k;
	w->seed = seed;
	w->rng = RANDOM_SEED + seed * 0x9e3779b97f4a7c15ull;
	w->devs.seed = seed + 1;
	w->block = 64 * KiB;
	w->is = calloc(SECTORS, sizeof(*w->is));
	w->again = calloc(SECTORS, sizeof(*w->again));
	w->buf = malloc(PART);
	uv_loop_init(&w->loop);
	crash_run(w);
	n = crash_cuts(w);
	*ahead += w->devs.ops[FILE_FILL];
	uv_run(&w->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	memdevs_free(&w->devs);
	for (unsigned i = 0; i < w->nvolumes; i++) {
		for (unsigned s = 0; s < SECTORS; s++)
			free(w->volume[i].sector[s].p);
		free(w->volume[i].sector);
	}
	for (unsigned i = 0; i < w->nmade; i++)
		free(w->made[i].stamp);
	for (unsigned i = 0; i < w->nmarks; i++)
		free(w->mark[i].stamp);
	for (unsigned i = 0; i < w->nbacks; i++)
		free(w->back[i].before);
	for (unsigned i = 0; i < w->nbits; i++)
		free(w->bits[i].stamp);
	free(w->is);
	free(w->again);
	free(w->buf);
	free(w);
	return n;
}

/* What the processes have done; one of its parts each. */
static struct total {
	char name[40];
	unsigned workloads, cuts;
} * total;
static unsigned jobs = 1, job;

static void count(const char *name, unsigned workloads, unsigned cuts)
{
	struct total *t = total + job * KINDS;

	while (t->name[0])
		t++;
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->workloads = workloads;
	t->cuts = cuts;
}

static void crash(const struct kind *k)
{
	const char *one = getenv("LODGE_CRASH_SEED"), *many = getenv("LODGE_CRASH_WORKLOADS");
	const char *only = getenv("LODGE_CRASH_KIND");
	uint64_t first = one ? strtoull(one, NULL, 10) : 1;
	uint64_t n = many ? strtoull(many, NULL, 10) : one || k->fills ? 1 : 2;
	unsigned cuts = 0, done = 0;
	uint64_t ahead = 0;

	if (only && strcmp(only, k->name))
		return;
	if (!disk_format_by_name(k->format))
		skip();
	for (uint64_t seed = first + job; seed < first + n; seed += jobs, done++)
		cuts += workload(k, seed, &ahead);
	if (k->fills && !one && done && !ahead)
		fail_msg("%s: nothing was written ahead", k->name);
	count(k->name, done, cuts);
}

#define STORE \
	.format = "lodgefs", .file = "store", .path = "store/disk", .snapshots = true, \
	.clones = true
#define QCOW2 .format = "qcow2", .path = "disk"

static const struct kind kinds[] = {
	{.name = "raw", .format = "raw", .path = "disk", .kill = true},
	{.name = "qcow2", QCOW2, .create = {{"cluster-size", "4K"}, {0}}, .snapshots = true},
	/* Where each few allocations are flushed, zeroes are written ahead of them, and entries before the flush comes. */
	{.name = "qcow2-synced",
		QCOW2,
		.create = {{"cluster-size", "4K"}, {0}},
		.snapshots = true,
		.synced = true},
	{.name = "qcow2-synced-overlay",
		QCOW2,
		.create = {{"cluster-size", "16K"}, {0}},
		.backing = true,
		.synced = true},
	/* Clusters that small writes fill one after the other: zeroes are written ahead of them. */
	{.name = "qcow2-filled",
		QCOW2,
		.create = {{"cluster-size", "64K"}, {0}},
		.snapshots = true,
		.fills = true},
	{.name = "qcow2-overlay",
		QCOW2,
		.create = {{"cluster-size", "64K"}, {0}},
		.backing = true,
		.snapshots = true},
	/* What lies below is longer: it is not seen when the disk grows. */
	{.name = "qcow2-overlay-longer",
		QCOW2,
		.create = {{"cluster-size", "16K"}, {0}},
		.backing = true,
		.backing_size = LARGEST - 36 * KiB,
		.snapshots = true},
	{.name = "qcow2-clones",
		QCOW2,
		.create = {{"cluster-size", "8K"}, {0}},
		.snapshots = true,
		.overlays = true},
	{.name = "qcow2-subclusters",
		QCOW2,
		.create = {{"cluster-size", "32K"}, {"extended-l2", "on"}, {0}},
		.snapshots = true},
	{.name = "qcow2-subclusters-overlay",
		QCOW2,
		.create = {{"cluster-size", "64K"}, {"extended-l2", "on"}, {0}},
		.backing = true,
		.snapshots = true},
	/* Guest data in a file of its own, where nothing is counted: no snapshots. */
	{.name = "qcow2-data",
		QCOW2,
		.create = {{"cluster-size", "4K"}, {"data-file", "data"}, {0}}},
	{.name = "qcow2-data-raw",
		QCOW2,
		.create = {{"cluster-size", "64K"}, {"data-file", "data"}, {"data-file-raw", "on"},
			{0}}},
	{.name = "qcow2-data-overlay",
		QCOW2,
		.create = {{"cluster-size", "32K"}, {"data-file", "data"}, {"extended-l2", "on"},
			{0}},
		.backing = true},
	/* Few entries in a table and few counts in a block: tables of tables grow, and header and tables lie close together. */
	{.name = "qcow2-small",
		QCOW2,
		.create = {{"cluster-size", "512B"}, {"refcount-bits", "64"}, {0}},
		.snapshots = true},
	/* No zero clusters. No dirty bit either: flags may not fit the counts where a snapshot was being made, until somebody repairs them. */
	{.name = "qcow2-v2", QCOW2, .create = {{"cluster-size", "64K"}, {"compat", "0.10"}, {0}}},
	{.name = "qcow2-v2-snapshots",
		QCOW2,
		.create = {{"cluster-size", "4K"}, {"compat", "0.10"}, {0}},
		.snapshots = true,
		.unmended = true},
	{.name = "qcow2-packed",
		QCOW2,
		.create = {{"cluster-size", "4K"}, {0}},
		.snapshots = true,
		.packed = 4096},
	{.name = "qcow2-bitmaps",
		QCOW2,
		.create = {{"cluster-size", "4K"}, {0}},
		.snapshots = true,
		.bitmaps = true},
	{.name = "qcow2-lazy",
		QCOW2,
		.create = {{"cluster-size", "4K"}, {"lazy-refcounts", "on"}, {0}},
		.snapshots = true},
	{.name = "lodgefs", STORE, .store = {{"entries", "63"}, {0}}, .atomic = true},
	{.name = "lodgefs-dense", STORE, .store = {{"entries", "63"}, {0}}, .dense = true},
	{.name = "lodgefs-filled", STORE, .store = {{"entries", "63"}, {0}}, .fills = true},
	{.name = "lodgefs-filled-sums",
		STORE,
		.create = {{"track", "on"}, {0}},
		.store = {{"entries", "63"}, {"sums", "on"}, {0}},
		.tracked = true,
		.fills = true},
	{.name = "lodgefs-tracked",
		STORE,
		.create = {{"track", "on"}, {0}},
		.store = {{"entries", "63"}, {0}},
		.atomic = true,
		.tracked = true},
	{.name = "lodgefs-sums",
		STORE,
		.create = {{"track", "on"}, {0}},
		.store = {{"entries", "63"}, {"sums", "on"}, {0}},
		.atomic = true,
		.tracked = true},
};

/* Entries are written late, or (commit=batch) before the acknowledgement: then nothing that was acknowledged goes with the process. */
static void kind(void **state)
{
	const struct kind *k = *state;
	struct kind batch = *k;
	char name[40];

	crash(k);
	if (k->kill)
		return; /* its writes are never late */
	snprintf(name, sizeof(name), "%s-batch", k->name);
	batch.name = name;
	batch.kill = true;
	batch.open[0] = (struct disk_kv){"commit", "batch"};
	batch.open[1] = (struct disk_kv){0};
	crash(&batch);
}

static void show(void)
{
	for (const struct total *t = total; t < total + KINDS && t->name[0]; t++) {
		struct total all = *t;

		for (unsigned i = 1; i < jobs; i++) {
			all.workloads += t[i * KINDS].workloads;
			all.cuts += t[i * KINDS].cuts;
		}
		print_message(
			"%s: %u workloads, %u power cuts\n", all.name, all.workloads, all.cuts);
	}
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(kinds)];
	const char *many = getenv("LODGE_CRASH_JOBS");
	int rc, status;
	bool bad = false;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		tests[i] = (struct CMUnitTest){.name = kinds[i].name,
			.test_func = kind,
			.initial_state = (void *)(uintptr_t)&kinds[i]};
	/* Memory that goes back to the system at each cut is zeroed again by it. */
	mallopt(M_MMAP_THRESHOLD, 1 << 30);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	jobs = many && atoi(many) > 1 ? (unsigned)atoi(many) : 1;
	total = mmap(NULL, jobs * KINDS * sizeof(*total), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (total == MAP_FAILED)
		return 1;
	for (unsigned i = 1; i < jobs && !job; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (!pid)
			job = i;
	}
	if (job && !freopen("/dev/null", "w", stdout)) /* the first one says what passes */
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	if (job)
		return rc;
	while (wait(&status) > 0)
		bad |= status != 0;
	if (bad)
		print_error("another process failed\n");
	show();
	return rc ?: bad;
}
