/*
 * test_faults.c: the same small workload again and again, and each time another operation on the device fails: every read, write, flush, discard of
 * data and of metadata, once or three times in a row. What is told to who asked is true: what was acknowledged is there, now and after the disk was
 * opened again, what failed is there or is not; a check finds no damage; and what comes later is not the worse for it.
 * With the policy pause nothing fails that is sent once more when the cause is gone: all is there, as if nothing had been. With ignore nothing fails,
 * each sector is of one write, and there is no damage.
 *
 *	LODGE_FAULTS=all test_faults          every operation (default: one in several)
 *	LODGE_FAULTS_SEED=N                   another workload
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"
#include "random.h"

#define SECTOR 512u
#define SIZE (4 * MiB)
#define SECTORS (SIZE / SECTOR)
#define STEPS 48u

struct kind {
	const char *name, *format, *path;
	struct disk_kv create[3], store[3];
	bool backing;
};

static const struct kind kinds[] = {
	{.name = "qcow2", .format = "qcow2", .path = "disk", .create = {{"cluster-size", "4K"}}},
	{.name = "qcow2, upon another",
		.format = "qcow2",
		.path = "disk",
		.create = {{"cluster-size", "64K"}},
		.backing = true},
	{.name = "qcow2, lazy counts",
		.format = "qcow2",
		.path = "disk",
		.create = {{"lazy-refcounts", "on"}, {"extended-l2", "on"}}},
	{.name = "lodgefs", .format = "lodgefs", .path = "store/disk", .create = {{"track", "on"}}},
	{.name = "lodgefs with checksums",
		.format = "lodgefs",
		.path = "store/disk",
		.store = {{"sums", "on"}, {"max-size", "64M"}}},
};

/*
 * What a sector may hold: what was acknowledged last (v[acked]), and what failed since. Where flushes fail, errors are ignored, or closing the disk has said that
 * something is lost: anything since the last flush.
 */
struct may {
	uint8_t v[STEPS + 1];
	unsigned n, acked;
};

struct world {
	const struct kind *k;
	uv_loop_t loop;
	struct memdevs devs;
	struct may sector[SECTORS];
	bool snapshot[STEPS], unsure[STEPS]; /* of that step: is there; may be there */
	struct may *held[STEPS]; /* by the snapshot */
	unsigned op, after, count;
	enum disk_on_error policy;
	unsigned paused;
	bool lost;
	uint64_t rng;
	unsigned failed;
};

static uint64_t rnd(struct world *w, uint64_t n)
{
	return random_below(&w->rng, n);
}

static void ok(struct world *w, int rc, const struct err *e, const char *what)
{
	if (rc)
		fail_msg("%s: policy %u, %u faults of operation %u after %u: %s: %d %s", w->k->name,
			w->policy, w->count, w->op, w->after, what, rc, err_msg(e));
}

static void on_failed(void *ctx, const struct disk_req *r)
{
	(void)r;
	((struct world *)ctx)->paused++;
}

static void on_lost(void *ctx, int why)
{
	(void)why;
	((struct world *)ctx)->lost = true;
}

static int open_disk(struct world *w, struct disk **d, struct err *e)
{
	return disk_open(d,
		&(struct disk_opts){.path = w->k->path,
			.format = w->k->format,
			.discard = true,
			.offline = true,
			.on_error = w->policy,
			/* Else a flush that failed has failed for good. */
			.cache = w->policy == DISK_ERROR_PAUSE ? DISK_CACHE_NONE
							       : DISK_CACHE_WRITEBACK,
			.client = {.failed = on_failed, .lost = on_lost, .ctx = w},
			.loop = &w->loop,
			.open_file = memdevs_open,
			.open_ctx = &w->devs},
		e);
}

struct call {
	struct disk_req r;
	struct iovec iov;
	bool done;
};

static void on_done(struct disk_req *r)
{
	container_of(r, struct call, r)->done = true;
}

/* What is held is sent again until it is done: a store looks ten times a second whether it can go on. */
static int rw(
	struct world *w, struct disk *d, enum disk_op op, uint64_t off, void *buf, uint64_t len)
{
	struct call c = {.r = {.op = op,
				 .offset = off,
				 .len = len,
				 .iov = &c.iov,
				 .niov = 1,
				 .unmap = true,
				 .done = on_done},
		.iov = {buf, len}};

	disk_submit(d, &c.r);
	disk_drain(d);
	for (unsigned i = 0; !c.done; i++) {
		if (i == 500)
			fail_msg("%s: %u faults of operation %u after %u: %s of %llu at %llu is "
				 "held for ever: %d",
				w->k->name, w->count, w->op, w->after, disk_op_name(op),
				(unsigned long long)len, (unsigned long long)off, c.r.result);
		if (i > 2)
			nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
		disk_retry(d);
		disk_drain(d);
	}
	return c.r.result;
}

static void make(struct world *w)
{
	struct disk_create_opts o = {.path = "base",
		.size = SIZE,
		.loop = &w->loop,
		.open_file = memdevs_open,
		.open_ctx = &w->devs};
	struct err e = {0};

	if (w->k->backing) {
		ok(w, disk_create("raw", &o, &e), &e, "backing");
		o.backing = "base";
		o.backing_format = "raw";
	}
	if (!strcmp(w->k->format, "lodgefs")) {
		o.path = "store";
		o.size = 64 * MiB; /* it is not about room */
		o.kv = w->k->store[0].key ? w->k->store : NULL;
		ok(w, disk_store_lodgefs.create(&o, &e), &e, "store");
	}
	o.path = w->k->path;
	o.size = SIZE;
	o.kv = w->k->create[0].key ? w->k->create : NULL;
	ok(w, disk_create(w->k->format, &o, &e), &e, "create");
	for (unsigned s = 0; s < SECTORS; s++)
		w->sector[s] = (struct may){.n = 1};
}

/* ---- the workload ---- */

static void note(struct world *w, uint64_t off, uint64_t len, uint8_t v, int rc)
{
	w->failed += rc != 0;
	for (uint64_t s = off / SECTOR; s < (off + len) / SECTOR; s++) {
		struct may *m = &w->sector[s];

		if (!rc)
			m->acked = m->n;
		m->v[m->n++] = v;
	}
}

static bool may_hold(const struct world *w, const struct may *m, uint8_t v)
{
	bool any = w->lost || w->policy == DISK_ERROR_IGNORE ||
		   (w->op == FILE_FLUSH && w->policy == DISK_ERROR_REPORT);

	for (unsigned i = any ? 0 : m->acked; i < m->n; i++)
		if (m->v[i] == v)
			return true;
	return false;
}

static void look_at(struct world *w, struct disk *d, const struct may *may, uint64_t off,
	uint64_t len, bool must)
{
	static const uint8_t none[SECTOR];
	uint8_t *buf = malloc(len);
	struct err e = {0};
	int rc = rw(w, d, DISK_READ, off, buf, len);

	if (must)
		ok(w, rc, &e, "read");
	for (uint64_t s = 0; !rc && s < len / SECTOR; s++) {
		const uint8_t *p = buf + s * SECTOR;

		if (memcmp(p, p + 1, SECTOR - 1) && memcmp(p, none, SECTOR))
			fail_msg("%s: a sector is of two writes", w->k->name);
		/* What could not be read and is ignored is zeroes. */
		if (!p[0] && !must && w->policy == DISK_ERROR_IGNORE)
			continue;
		if (!may_hold(w, &may[off / SECTOR + s], p[0]))
			fail_msg("%s: policy %u, %u faults of operation %u after %u: sector %llu "
				 "has %u, and may not",
				w->k->name, w->policy, w->count, w->op, w->after,
				(unsigned long long)(off / SECTOR + s), p[0]);
	}
	free(buf);
}

static void look(struct world *w, struct disk *d, uint64_t off, uint64_t len, bool must)
{
	look_at(w, d, w->sector, off, len, must);
}

static void change_snapshots(struct world *w, struct disk *d, unsigned step)
{
	char name[16];

	snprintf(name, sizeof(name), "s%u", step);
	w->snapshot[step] = !disk_snapshot(d, DISK_SNAP_CREATE, name, NULL);
	w->unsure[step] = !w->snapshot[step];
	w->failed += !w->snapshot[step] && w->policy != DISK_ERROR_IGNORE;
	if (!w->held[step]) {
		w->held[step] = malloc(sizeof(w->sector));
		memcpy(w->held[step], w->sector, sizeof(w->sector));
	}
	if (step < 20 || !rnd(w, 2))
		return;
	for (unsigned i = 0; i < step; i++) {
		if (!w->snapshot[i])
			continue;
		snprintf(name, sizeof(name), "s%u", i);
		w->unsure[i] = disk_snapshot(d, DISK_SNAP_DELETE, name, NULL) != 0;
		w->failed += w->unsure[i] && w->policy != DISK_ERROR_IGNORE;
		w->snapshot[i] = false;
		return;
	}
}

/* Policies are about requests: with one, the host is well while snapshots are made. A store is told so by the next request. */
static void snapshot(struct world *w, struct disk *d, unsigned step)
{
	unsigned faults = w->devs.nfaults;

	if (w->policy != DISK_ERROR_REPORT) {
		w->devs.nfaults = 0;
		(void)rw(w, d, DISK_FLUSH, 0, NULL, 0);
	}
	change_snapshots(w, d, step);
	w->devs.nfaults = faults;
}

static void flush(struct world *w, struct disk *d)
{
	if (rw(w, d, DISK_FLUSH, 0, NULL, 0)) {
		w->failed++;
		return;
	}
	if (w->policy == DISK_ERROR_IGNORE)
		return;
	for (unsigned s = 0; s < SECTORS; s++) {
		struct may *m = &w->sector[s];

		m->n -= m->acked;
		memmove(m->v, m->v + m->acked, m->n);
		m->acked = 0;
	}
}

static void steps(struct world *w, struct disk *d)
{
	static uint8_t buf[256 * KiB];

	for (unsigned i = 1; i < STEPS; i++) {
		/* Few places, so that what is there is written again. */
		uint64_t off = rnd(w, 8) * 512 * KiB + rnd(w, 24) * SECTOR, k = rnd(w, 16);
		uint64_t len = (1 + rnd(w, rnd(w, 3) ? 20 : 300)) * SECTOR;

		if (k < 9) {
			memset(buf, (int)i, len);
			note(w, off, len, (uint8_t)i, rw(w, d, DISK_WRITE, off, buf, len));
		} else if (k < 11) {
			note(w, off, len, 0, rw(w, d, DISK_WRITE_ZEROES, off, NULL, len));
		} else if (k < 12) {
			snapshot(w, d, i);
		} else if (k < 14) {
			flush(w, d);
		} else {
			look(w, d, off, len, false);
		}
	}
}

static void look_at_snapshots(struct world *w, struct disk *d)
{
	cleanup(free_ptr) struct disk_snapshot *s = NULL;
	struct err e = {0};
	unsigned n;

	ok(w, disk_snapshots(d, &s, &n, &e), &e, "snapshots");
	for (unsigned i = 1; i < STEPS; i++) {
		bool there = false;
		char name[16];

		snprintf(name, sizeof(name), "s%u", i);
		for (unsigned k = 0; k < n; k++)
			there |= !strcmp(s[k].name, name);
		if (!w->unsure[i] && there != w->snapshot[i])
			fail_msg("%s: snapshot %s is%s there", w->k->name, name,
				there ? "" : " not");
	}
}

static void found(void *ctx, bool error, const char *text)
{
	(void)ctx;
	if (error)
		print_message("error: %s\n", text);
}

static struct disk_check check(struct world *w)
{
	struct files fs = {
		.loop = &w->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &w->devs};
	struct disk_watch watch = {.found = found};
	struct disk_check c = {0};
	struct err e = {0};
	struct disk *d;

	if (!strcmp(w->k->format, "lodgefs")) {
		ok(w, disk_store_lodgefs.check(&fs, "store", false, &watch, &c, &e), &e, "check");
		return c;
	}
	ok(w,
		disk_open(&d,
			&(struct disk_opts){.path = w->k->path,
				.format = w->k->format,
				.readonly = true,
				.force = true,
				.offline = true,
				.loop = &w->loop,
				.open_file = memdevs_open,
				.open_ctx = &w->devs},
			&e),
		&e, "open to check");
	ok(w, d->format->check(d, false, &watch, &c, &e), &e, "check");
	disk_close(d);
	return c;
}

/* Each snapshot holds what the disk held then; the disk as it is now is one more. */
static void go_back(struct world *w, struct disk *d)
{
	struct err e = {0};
	char name[16];

	ok(w, disk_snapshot(d, DISK_SNAP_CREATE, "now", &e), &e, "snapshot");
	for (unsigned i = 1; i < STEPS; i++) {
		if (!w->snapshot[i])
			continue;
		snprintf(name, sizeof(name), "s%u", i);
		ok(w, disk_snapshot(d, DISK_SNAP_APPLY, name, &e), &e, "going back");
		look_at(w, d, w->held[i], 0, SIZE, true);
	}
	ok(w, disk_snapshot(d, DISK_SNAP_APPLY, "now", &e), &e, "going back");
	look(w, d, 0, SIZE, true);
}

/* Operations of that kind that a run without faults makes; `after` of them pass in one with. */
static uint64_t run(const struct kind *k, enum disk_on_error policy, unsigned op, unsigned after,
	unsigned count, bool fault, unsigned *paused)
{
	struct world *w = calloc(1, sizeof(*w));
	struct disk *d;
	struct err e = {0};
	uint64_t ops;

	w->k = k;
	w->op = op;
	w->after = after;
	w->count = fault ? count : 0;
	w->policy = policy;
	w->rng = RANDOM_SEED;
	if (getenv("LODGE_FAULTS_SEED"))
		w->rng ^= strtoull(getenv("LODGE_FAULTS_SEED"), NULL, 10) * 0x9e3779b97f4a7c15ull;
	uv_loop_init(&w->loop);
	make(w);
	ok(w, open_disk(w, &d, &e), &e, "open");
	ops = w->devs.ops[op];
	w->devs.fault[0] = (struct memdev_fault){
		.ops = 1u << op, .after = after, .count = count, .error = -EIO};
	w->devs.nfaults = fault;
	steps(w, d);
	disk_close(d);
	ops = w->devs.ops[op] - ops;
	w->devs.nfaults = 0;
	if (!fault || policy != DISK_ERROR_REPORT)
		assert_int_equal(w->failed, 0);
	*paused += w->paused;
	if (!strcmp(k->format,
		    "lodgefs")) /* qcow2 may say that it wants to be mended when it is opened */
		assert_int_equal(check(w).errors, 0);
	ok(w, open_disk(w, &d, &e), &e, "open again");
	look(w, d, 0, SIZE, true);
	look_at_snapshots(w, d);
	go_back(w, d);
	for (unsigned i = 0; i < STEPS; i++)
		free(w->held[i]);
	disk_close(d);
	assert_int_equal(check(w).errors, 0);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	memdevs_free(&w->devs);
	free(w);
	return ops;
}

static void every_operation(void **state)
{
	static const enum file_op all[] = {
		FILE_READ, FILE_WRITE, FILE_FLUSH, FILE_DISCARD, FILE_ZERO, FILE_FILL};
	static const unsigned parts[] = {
		[DISK_ERROR_REPORT] = 24, [DISK_ERROR_PAUSE] = 8, [DISK_ERROR_IGNORE] = 8};
	unsigned runs[ARRAY_SIZE(parts)] = {0}, paused = 0;
	const struct kind *k = *state;

	for (unsigned o = 0; o < ARRAY_SIZE(all); o++) {
		uint64_t n = run(k, DISK_ERROR_REPORT, all[o], 0, 1, false, &paused);

		for (unsigned p = 0; p < ARRAY_SIZE(parts); p++) {
			uint64_t step = getenv("LODGE_FAULTS") ? 1 : MAX(1ull, n / parts[p]);

			for (uint64_t i = 0; i < n; i += step, runs[p]++)
				run(k, p, all[o], (unsigned)i, runs[p] % 3 ? 1 : 3, true, &paused);
		}
	}
	print_message("%s: runs with faults: %u reported, %u paused (%u times), %u ignored\n",
		k->name, runs[0], runs[1], paused, runs[2]);
	assert_true(runs[0] > 30 && paused > 10);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_SIZE(kinds)];

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		tests[i] = (struct CMUnitTest){.name = kinds[i].name,
			.test_func = every_operation,
			.initial_state = (void *)&kinds[i]};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
