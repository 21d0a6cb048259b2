/*
 * test_lodgefs_many.c: several disks of one store that are written at once, with clones between them and snapshots of all at one instant; and a power
 * cut behind every write of that. On each: all disks have a snapshot or none has, and it holds what each disk held at that instant; what was flushed is there.
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
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "power.h"
#include "disk/tool.h"
#include "expect.h"
#include "store.h"

#define DISKS 4
#define SIZE (4 * MiB)
#define UNIT 4096u
#define UNITS (SIZE / UNIT)
#define ROUNDS 24
#define SNAPS 8

struct past {
	uint64_t stamp, submitted, done;
};
struct unit {
	struct past p[ROUNDS * 2 + 2];
	unsigned n;
};
struct snap {
	char name[8];
	uint64_t submitted, done;
	uint64_t stamp[DISKS][UNITS];
};
struct world {
	struct fix *f;
	struct disk *d[DISKS];
	struct unit unit[DISKS][UNITS];
	struct snap snap[SNAPS];
	unsigned nsnaps, left;
	struct {
		uint64_t submitted, done;
	} flush[ROUNDS];
	unsigned nflush;
	uint64_t stamp;
};

static uint64_t now(struct world *w)
{
	return memdevs_events(&w->f->devs);
}

static void make_one(struct world *w, unsigned i)
{
	char path[16];
	struct err e = {0};

	snprintf(path, sizeof(path), "store/d%u", i);
	ok(i == 1 ? make(w->f, path, 0, "clone", "d0", &e) : make(w->f, path, SIZE, NULL, NULL, &e),
		&e, path);
}

static int open_one(struct world *w, struct memdevs *devs, struct disk_stores *s, const char *path,
	bool readonly, struct disk **d, struct err *e)
{
	return open_as(w->f, d,
		(struct disk_opts){.path = path,
			.offline = true,
			.readonly = readonly,
			.stores = s,
			.open_ctx = devs},
		e);
}

static void open_all(struct world *w, struct memdevs *devs, struct disk_stores *s, struct disk **d)
{
	struct err e = {0};
	char path[16];

	for (unsigned i = 0; i < DISKS; i++) {
		snprintf(path, sizeof(path), "store/d%u", i);
		ok(open_one(w, devs, s, path, false, &d[i], &e), &e, path);
	}
}

struct call {
	struct disk_req r;
	struct iovec iov;
	struct world *w;
	unsigned disk;
	uint64_t *buf;
};

static void plain_done(struct disk_req *r)
{
	struct call *c = container_of(r, struct call, r);

	if (r->result)
		fail_msg("write: %d", r->result);
	c->w->left--;
	free(c->buf);
}

static void on_done(struct disk_req *r)
{
	struct call *c = container_of(r, struct call, r);

	if (r->result)
		fail_msg("write: %d", r->result);
	for (uint64_t u = r->offset / UNIT; u < (r->offset + r->len) / UNIT; u++) {
		struct unit *x = &c->w->unit[c->disk][u];

		x->p[x->n - 1].done = now(c->w);
	}
	c->w->left--;
	free(c->buf);
	free(c);
}

static void write_one(struct world *w, unsigned disk, uint64_t at, uint64_t n)
{
	struct call *c = calloc(1, sizeof(*c));

	c->w = w;
	c->disk = disk;
	c->buf = malloc(n * UNIT);
	c->iov = (struct iovec){c->buf, n * UNIT};
	w->stamp++;
	for (uint64_t u = at; u < at + n; u++) {
		struct unit *x = &w->unit[disk][u];

		x->p[x->n++] = (struct past){w->stamp, now(w), UINT64_MAX};
		for (unsigned k = 0; k < UNIT / 8; k++)
			c->buf[(u - at) * (UNIT / 8) + k] = w->stamp << 16 | disk << 12 | u;
	}
	c->r = (struct disk_req){.op = DISK_WRITE,
		.offset = at * UNIT,
		.len = n * UNIT,
		.iov = &c->iov,
		.niov = 1,
		.done = on_done};
	w->left++;
	disk_submit(w->d[disk], &c->r);
}

static void traffic(struct world *w)
{
	for (unsigned i = 0; i < DISKS; i++)
		for (unsigned k = 0; k < 4; k++) {
			uint64_t room = UNITS / 4;

			if (rnd(w->f, 3))
				write_one(w, i, k * room + rnd(w->f, room - 8), 1 + rnd(w->f, 8));
		}
}

static void wait_all(struct world *w)
{
	while (w->left)
		uv_run(&w->f->loop, UV_RUN_ONCE);
}

/* While requests of all are in flight. */
static void snapshot(struct world *w)
{
	struct snap *s = &w->snap[w->nsnaps];
	struct err e = {0};

	snprintf(s->name, sizeof(s->name), "s%u", w->nsnaps);
	for (unsigned i = 0; i < DISKS; i++)
		for (unsigned u = 0; u < UNITS; u++) {
			const struct unit *x = &w->unit[i][u];

			s->stamp[i][u] = x->n ? x->p[x->n - 1].stamp : 0;
		}
	s->submitted = now(w);
	ok(disk_snapshot_all(w->d, DISKS, s->name, &e), &e, "snapshot");
	assert_int_equal(w->left, 0);
	s->done = now(w);
	w->nsnaps++;
}

static void flush(struct world *w)
{
	struct err e = {0};

	wait_all(w);
	w->flush[w->nflush].submitted = now(w);
	ok(disk_rw(w->d[rnd(w->f, DISKS)], DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	w->flush[w->nflush++].done = now(w);
}

static void run(struct world *w)
{
	for (unsigned i = 0; i < DISKS; i++)
		make_one(w, i);
	assert_null(w->f->stores.first);
	assert_int_equal(memdevs_record(&w->f->devs), 0);
	open_all(w, &w->f->devs, &w->f->stores, w->d);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t k = rnd(w->f, 8);

		traffic(w);
		if (k < 2 && w->nsnaps < SNAPS)
			snapshot(w);
		else if (k < 5)
			flush(w);
		wait_all(w);
	}
	for (unsigned i = 0; i < DISKS; i++)
		disk_close(w->d[i]);
	assert_null(w->f->stores.first);
	uv_run(&w->f->loop, UV_RUN_DEFAULT);
}

static bool permitted(const struct world *w, const struct unit *x, uint64_t stamp, uint64_t point)
{
	for (unsigned i = x->n; i--;) {
		if (x->p[i].submitted >= point)
			continue;
		if (x->p[i].stamp == stamp)
			return true;
		for (unsigned k = 0; k < w->nflush; k++)
			if (w->flush[k].submitted >= x->p[i].done && w->flush[k].done <= point)
				return false;
		for (unsigned k = 0; k < w->nsnaps; k++)
			if (w->snap[k].submitted >= x->p[i].done && w->snap[k].done <= point)
				return false;
	}
	return !stamp;
}

static void read_disk(struct disk *d, unsigned disk, uint64_t *stamps)
{
	uint64_t *buf = malloc(SIZE);
	struct err e = {0};

	ok(disk_rw(d, DISK_READ, 0, buf, SIZE, &e), &e, "read");
	for (unsigned u = 0; u < UNITS; u++) {
		uint64_t v = buf[u * (UNIT / 8)];

		if (v)
			assert_int_equal(v & 0xffff, disk << 12 | u);
		stamps[u] = v >> 16;
	}
	free(buf);
}

static unsigned has(struct disk *d, const char *name)
{
	struct disk_snapshot *s;
	struct err e = {0};
	unsigned n, there = 0;

	ok(disk_snapshots(d, &s, &n, &e), &e, "snapshots");
	for (unsigned i = 0; i < n; i++)
		there += !strcmp(s[i].name, name);
	free(s);
	return there;
}

static void look_at_snap(struct disk **d, const struct snap *s, uint64_t point)
{
	static uint64_t got[UNITS];
	struct err e = {0};
	unsigned there = 0;

	for (unsigned i = 0; i < DISKS; i++)
		there += has(d[i], s->name);
	assert_true(there == 0 || there == DISKS); /* one transaction */
	if (s->done <= point)
		assert_int_equal(there, DISKS);
	for (unsigned i = 0; i < DISKS && there; i++) {
		ok(disk_snapshot(d[i], DISK_SNAP_APPLY, s->name, &e), &e, "apply");
		read_disk(d[i], i, got);
		assert_memory_equal(got, s->stamp[i], sizeof(got));
	}
}

static void look(struct world *w, struct memdevs *devs, uint64_t point)
{
	static uint64_t got[UNITS];
	struct disk_stores stores = {0};
	struct disk *d[DISKS];

	check_in(w->f, devs, false);
	open_all(w, devs, &stores, d);
	for (unsigned i = 0; i < DISKS; i++) {
		read_disk(d[i], i, got);
		for (unsigned u = 0; u < UNITS; u++)
			if (!permitted(w, &w->unit[i][u], got[u], point))
				fail_msg("point %llu: disk %u, unit %u: stamp %llu",
					(unsigned long long)point, i, u,
					(unsigned long long)got[u]);
	}
	for (unsigned i = 0; i < w->nsnaps; i++)
		look_at_snap(d, &w->snap[i], point);
	for (unsigned i = 0; i < DISKS; i++)
		disk_close(d[i]);
	uv_run(&w->f->loop, UV_RUN_DEFAULT);
}

static unsigned workload(uint64_t seed, unsigned step)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned cuts = 0;

	w->f = begin(512 * MiB, NULL);
	w->f->rng += seed * 0x9e3779b97f4a7c15ull;
	w->f->devs.seed = seed;
	run(w);
	for (uint64_t p = seed % step; p <= now(w); p += step)
		for (unsigned v = 0; v < 3; v++) {
			struct memdevs after = {0};

			if (p && p < now(w) && !memdevs_is_write(&w->f->devs, p - 1))
				break;
			assert_int_equal(
				memdevs_crash(&w->f->devs, p, v < 2 ? v : 2 + seed, &after), 0);
			lose_power(&after);
			look(w, &after, p);
			memdevs_free(&after);
			cuts++;
		}
	end(w->f);
	free(w);
	return cuts;
}

static void crash(void **state)
{
	const char *many = getenv("LODGE_CRASH_WORKLOADS");
	uint64_t n = many ? strtoull(many, NULL, 10) : 1;
	unsigned cuts = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= n; seed++)
		cuts += workload(seed, many ? 1 : 16); /* all cuts of one: 30 s */
	print_message(
		"%llu workloads on %u disks, %u power cuts\n", (unsigned long long)n, DISKS, cuts);
}

static struct world *new_world(uint64_t size)
{
	struct world *w = calloc(1, sizeof(*w));

	w->f = begin(size, NULL);
	return w;
}

static void end_world(struct world *w)
{
	end(w->f);
	free(w);
}

/* Who may open what beside what. */
static void sharing(void **state)
{
	struct world *w = new_world(64 * MiB);
	struct disk_stores other = {0};
	struct disk *a, *b, *c;
	struct err e = {0};
	char buf[4096] = {7}, back[4096];

	(void)state;
	make_one(w, 0);
	make_one(w, 2);
	/* A reader is there first, and goes on when a writer comes. */
	ok(open_one(w, &w->f->devs, &w->f->stores, "store/d0", true, &a, &e), &e, "reader");
	ok(open_one(w, &w->f->devs, &w->f->stores, "store/d2", false, &b, &e), &e, "writer");
	ok(disk_rw(b, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	ok(disk_rw(a, DISK_READ, 0, back, 4096, &e), &e, "read");
	assert_int_equal(back[0], 0);
	assert_int_equal(disk_rw(a, DISK_WRITE, 0, buf, 4096, &e), -EROFS);
	/* One disk has one writer, or readers. */
	assert_int_equal(open_one(w, &w->f->devs, &w->f->stores, "store/d2", true, &c, &e), -EBUSY);
	assert_int_equal(
		open_one(w, &w->f->devs, &w->f->stores, "store/d0", false, &c, &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "open here already"));
	/* Another owner is kept out, and told what to do. */
	assert_int_equal(open_one(w, &w->f->devs, &other, "store/d0", false, &c, &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "one process writes to a store"));
	ok(open_one(w, &w->f->devs, &w->f->stores, "store/d0", true, &c, &e), &e, "second reader");
	make_one(w, 3); /* in a store that is in use here */
	disk_close(b);
	ok(disk_rw(c, DISK_READ, 0, back, 4096, &e), &e, "read");
	disk_close(a);
	disk_close(c);
	ok(open_one(w, &w->f->devs, &other, "store/d2", false, &c, &e), &e, "later");
	ok(disk_rw(c, DISK_READ, 0, back, 4096, &e), &e, "read");
	assert_memory_equal(buf, back, 4096);
	disk_close(c);
	end_world(w);
}

static struct disk *open_with(struct world *w, const char *key, const char *value, bool readonly)
{
	struct disk_kv kv[] = {{key, value}, {0}};

	return get_as(w->f, (struct disk_opts){.path = "store/d0",
				    .offline = true,
				    .readonly = readonly,
				    .kv = kv,
				    .stores = &w->f->stores});
}

static void reads(struct disk *d, char what)
{
	struct err e = {0};
	char back[4096];

	ok(disk_rw(d, DISK_READ, 0, back, sizeof(back), &e), &e, "read");
	assert_int_equal(back[0], what);
}

static int overwrite(struct world *w, const char *path, struct err *e)
{
	return make_as(
		w->f, (struct disk_create_opts){.path = path, .size = SIZE, .overwrite = true}, e);
}

/* A snapshot that is read stays while it is, whatever happens to its disk; who came first does not matter. */
static void snapshot_is_read(void **state)
{
	struct world *w = new_world(64 * MiB);
	struct disk *d, *s;
	struct err e = {0};
	char buf[4096] = {1};

	(void)state;
	make_one(w, 0);
	d = open_with(w, "commit", "batch", false);
	ok(disk_rw(d, DISK_WRITE, 0, buf, sizeof(buf), &e), &e, "write");
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "x", &e), &e, "snapshot");
	buf[0] = 2;
	ok(disk_rw(d, DISK_WRITE, 0, buf, sizeof(buf), &e), &e, "write");
	s = open_with(w, "snapshot", "x", true); /* behind the writer */
	reads(s, 1);
	disk_close(d);
	assert_int_equal(overwrite(w, "store/d0", &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "its snapshot 'x' is open here"));
	disk_close(s);
	s = open_with(w, "snapshot", "x", true); /* before it: the store is opened again */
	d = open_with(w, "commit", "batch", false);
	reads(s, 1);
	reads(d, 2);
	assert_int_equal(disk_snapshot(d, DISK_SNAP_DELETE, "x", &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "is open here"));
	/* The store is loaded anew. */
	w->f->devs.fault[0] = (struct memdev_fault){
		.ops = 1u << FILE_WRITE, .off = 16384, .len = MiB, .count = 1, .error = -EIO};
	w->f->devs.nfaults = 1;
	assert_int_equal(disk_rw(d, DISK_WRITE, MiB, buf, sizeof(buf), &e), -EIO);
	usleep(120000);
	buf[0] = 3;
	ok(disk_rw(d, DISK_WRITE, 0, buf, sizeof(buf), &e), &e, "write");
	reads(s, 1);
	reads(d, 3);
	disk_close(s);
	ok(disk_snapshot(d, DISK_SNAP_DELETE, "x", &e), &e, "delete");
	disk_close(d);
	end_world(w);
}

#define AT_ONCE 128

/* Waits by turns of the loop: what is delayed stays so. */
static void submit_at(struct world *w, struct call *c, struct disk *d, uint64_t off)
{
	c->w = w;
	c->iov = (struct iovec){c->buf, UNIT};
	c->r = (struct disk_req){.op = DISK_WRITE,
		.offset = off,
		.len = UNIT,
		.iov = &c->iov,
		.niov = 1,
		.done = plain_done};
	w->left++;
	disk_submit(d, &c->r);
}

static struct disk *disk_x(struct world *w, struct memdevs *devs, struct disk_stores *s, unsigned i)
{
	struct disk *d;
	struct err e = {0};
	char path[16];

	snprintf(path, sizeof(path), "store/x%u", i);
	if (devs == &w->f->devs)
		ok(overwrite(w, path, &e), &e, path);
	ok(open_one(w, devs, s, path, false, &d, &e), &e, path);
	return d;
}

/*
 * The file is made longer for a batch whose blocks lie behind what is written, while writes far beyond that are on their way: those are not to be
 * cut off. Blocks are given out in a circle, so all but the first three are taken, and those come last.
 */
static void reaches_over(void **state)
{
	struct world *w = new_world(128 * MiB);
	struct call *c = calloc(AT_ONCE + 3, sizeof(*c));
	struct disk *d[AT_ONCE];
	struct memdevs after = {0};
	struct disk_stores other = {0};
	uint64_t total = space(w->f).total;
	struct err e = {0};
	uint64_t word[UNIT / 8] = {0}, data_at;
	unsigned n;

	(void)state;
	n = (unsigned)(total / MiB) - 3; /* one has the pages, and d[0] three */
	assert_in_range(n, 70, AT_ONCE);
	data_at = align_down(128 * MiB - total, MiB);
	for (unsigned i = 0; i < n; i++)
		d[i] = disk_x(w, &w->f->devs, &w->f->stores, i);
	w->f->devs.seed = 7; /* what is delayed does not delay what came after it */
	assert_int_equal(memdevs_record(&w->f->devs), 0);
	for (unsigned i = 0; i < 3; i++)
		ok(disk_rw(d[0], DISK_WRITE, i * MiB, word, UNIT, &e), &e, "write");
	for (unsigned i = 0; i < 3; i++)
		ok(disk_rw(d[0], DISK_DISCARD, i * MiB, NULL, MiB, &e), &e, "discard");
	w->f->devs.fault[0] = (struct memdev_fault){
		.ops = 1u << FILE_WRITE, .off = data_at, .len = 128 * MiB, .turns = 2000};
	w->f->devs.nfaults = 1;
	for (unsigned i = 1; i < n; i++) {
		c[i].buf = malloc(UNIT);
		memset(c[i].buf, (int)i, UNIT);
		submit_at(w, &c[i], d[i], 0);
	}
	while (w->f->devs.faults_hit < n - 1)
		uv_run(&w->f->loop, UV_RUN_NOWAIT);
	w->f->devs.nfaults = 0;
	for (unsigned i = 0; i < 3; i++) {
		c[AT_ONCE + i].buf = calloc(1, UNIT);
		submit_at(w, &c[AT_ONCE + i], d[0], i * MiB);
	}
	while (w->left)
		uv_run(&w->f->loop, UV_RUN_NOWAIT);
	ok(disk_rw(d[0], DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	assert_int_equal(memdevs_crash(&w->f->devs, now(w), 1, &after), 0);
	for (unsigned i = 0; i < n; i++)
		disk_close(d[i]);
	lose_power(&after);
	for (unsigned i = 1; i < n; i++) {
		d[0] = disk_x(w, &after, &other, i);
		reads(d[0], (char)i);
		disk_close(d[0]);
	}
	memdevs_free(&after);
	free(c);
	end_world(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sharing),
		cmocka_unit_test(snapshot_is_read),
		cmocka_unit_test(reaches_over),
		cmocka_unit_test(crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
