/*
 * test_lodgefs.c: stores against an oracle in memory: everything that changes a disk, in random order, with reopening and power cuts in between; and
 * one by one what the sorter promises, and what goes wrong: no space, I/O errors, a lease that is taken, two openers.
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

#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "power.h"
#include "disk/tool.h"
#include "expect.h"
#include "store.h"

#define SECTOR 512u

/* ---- the model ---- */

#define MODEL_MAX (6 * MiB)
#define MODELS 5
#define SNAPS 6

struct model {
	char path[32];
	uint8_t *data; /* MODEL_MAX */
	uint64_t size;
	bool there;
	struct {
		char name[16];
		uint8_t *data;
		uint64_t size;
	} snap[SNAPS];
};

struct req {
	struct disk_req r;
	struct iovec iov[2];
	uint8_t *buf;
	unsigned *left;
};

static void req_done(struct disk_req *r)
{
	struct req *q = container_of(r, struct req, r);

	if (r->result)
		fail_msg("%s %llu+%llu: %d", disk_op_name(r->op), (unsigned long long)r->offset,
			(unsigned long long)r->len, r->result);
	--*q->left;
}

/* Some requests at once, in parts of the disk that do not overlap. */
static void traffic(struct fix *f, struct model *m, struct disk *d)
{
	struct req q[8] = {0};
	unsigned n = 1 + (unsigned)rnd(f, 8), left = n;
	uint64_t room = align_down(m->size / n, SECTOR);

	for (unsigned i = 0; i < n; i++) {
		uint64_t off = i * room + rnd(f, room / SECTOR) * SECTOR, k = rnd(f, 10);
		uint64_t len = MIN(
			(i + 1) * room - off, (1 + rnd(f, rnd(f, 4) ? 24 : 3000)) * SECTOR);

		q[i].left = &left;
		q[i].buf = malloc(len);
		q[i].r = (struct disk_req){.op = k < 6	 ? DISK_WRITE
						 : k < 8 ? DISK_WRITE_ZEROES
							 : DISK_READ,
			.unmap = k & 1,
			.offset = off,
			.len = len,
			.iov = q[i].iov,
			.niov = 2,
			.done = req_done};
		q[i].iov[0] = (struct iovec){q[i].buf, len / 3};
		q[i].iov[1] = (struct iovec){q[i].buf + len / 3, len - len / 3};
		for (uint64_t b = 0; k < 6 && b < len; b += 8) {
			uint64_t v = rnd(f, UINT64_MAX);

			memcpy(q[i].buf + b, &v, 8);
		}
		if (k < 6)
			memcpy(m->data + off, q[i].buf, len);
		else if (k < 8)
			memset(m->data + off, 0, len);
		disk_submit(d, &q[i].r);
	}
	while (left)
		uv_run(&f->loop, UV_RUN_ONCE);
	for (unsigned i = 0; i < n; i++) {
		if (q[i].r.op == DISK_READ)
			assert_memory_equal(q[i].buf, m->data + q[i].r.offset, q[i].r.len);
		free(q[i].buf);
	}
}

static void compare(struct fix *f, struct memdevs *devs, const struct model *m)
{
	struct disk *d;
	uint8_t *buf = malloc(MODEL_MAX);
	struct err e = {0};

	ok(open_in(f, devs, &d, m->path, NULL, true, &e), &e, m->path);
	assert_int_equal(disk_size(d), m->size);
	ok(disk_rw(d, DISK_READ, 0, buf, m->size, &e), &e, "read");
	assert_memory_equal(buf, m->data, m->size);
	put(f, d);
	free(buf);
}

static void model_snapshot(struct fix *f, struct model *m, struct disk *d)
{
	unsigned i = (unsigned)rnd(f, SNAPS);
	struct err e = {0};

	if (!m->snap[i].data) {
		snprintf(m->snap[i].name, sizeof(m->snap[i].name), "s%u", i);
		ok(disk_snapshot(d, DISK_SNAP_CREATE, m->snap[i].name, &e), &e, "snapshot");
		m->snap[i].data = malloc(MODEL_MAX);
		memcpy(m->snap[i].data, m->data, MODEL_MAX);
		m->snap[i].size = m->size;
	} else if (rnd(f, 2)) {
		ok(disk_snapshot(d, DISK_SNAP_APPLY, m->snap[i].name, &e), &e, "apply");
		memcpy(m->data, m->snap[i].data, MODEL_MAX);
		m->size = m->snap[i].size;
	} else {
		ok(disk_snapshot(d, DISK_SNAP_DELETE, m->snap[i].name, &e), &e, "delete");
		free(m->snap[i].data);
		m->snap[i].data = NULL;
	}
}

static void model_resize(struct fix *f, struct model *m, struct disk *d)
{
	uint64_t size = (1 + rnd(f, MODEL_MAX / SECTOR)) * SECTOR;
	struct err e = {0};

	ok(disk_resize(d, size, &e), &e, "resize");
	if (size < m->size)
		memset(m->data + size, 0, MODEL_MAX - size);
	m->size = size;
}

static void model_drop(struct model *m)
{
	for (unsigned i = 0; i < SNAPS; i++) {
		free(m->snap[i].data);
		m->snap[i].data = NULL;
	}
	m->there = false;
}

/* Makes, clones or removes a disk. */
static void model_disks(struct fix *f, struct model *all)
{
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	struct model *m = &all[rnd(f, MODELS)], *from = &all[rnd(f, MODELS)];
	unsigned s = (unsigned)rnd(f, SNAPS);
	struct err e = {0};
	char name[64];

	if (m->there) {
		ok(disk_store_lodgefs.remove(&fs, "store", strrchr(m->path, '/') + 1, &e), &e,
			"remove");
		model_drop(m);
		return;
	}
	m->there = true;
	if (from == m || !from->there) {
		m->size = (1 + rnd(f, MODEL_MAX / SECTOR)) * SECTOR;
		memset(m->data, 0, MODEL_MAX);
		ok(make(f, m->path, m->size, NULL, NULL, &e), &e, "create");
		return;
	}
	snprintf(name, sizeof(name), "%s", strrchr(from->path, '/') + 1);
	if (from->snap[s].data)
		snprintf(name + strlen(name), 20, "@%s", from->snap[s].name);
	memcpy(m->data, from->snap[s].data ?: from->data, MODEL_MAX);
	m->size = from->snap[s].data ? from->snap[s].size : from->size;
	ok(make(f, m->path, 0, "clone", name, &e), &e, name);
}

static void session(struct fix *f, struct model *all, struct model *m)
{
	struct disk *d = get(f, m->path);
	struct err e = {0};

	for (unsigned i = 0; i < 12; i++) {
		uint64_t k = rnd(f, 16);

		if (k < 10)
			traffic(f, m, d);
		else if (k < 12)
			ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
		else if (k < 14)
			model_snapshot(f, m, d);
		else if (k < 15)
			model_resize(f, m, d);
	}
	if (rnd(f, 2)) { /* the power goes while it is open: everything was flushed */
		struct memdevs after = {0};

		ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
		assert_int_equal(
			memdevs_crash(&f->devs, memdevs_events(&f->devs), 2 + rnd(f, 5), &after),
			0);
		lose_power(&after);
		for (unsigned i = 0; i < MODELS; i++)
			if (all[i].there)
				compare(f, &after, &all[i]);
		check_in(f, &after, true);
		memdevs_free(&after);
	}
	put(f, d);
	assert_int_equal(memdevs_record(&f->devs), 0);
}

static void model_of(const struct disk_kv *kv)
{
	uint64_t rounds = getenv("LODGE_MODEL_ROUNDS")
				  ? strtoull(getenv("LODGE_MODEL_ROUNDS"), NULL, 10)
				  : 40;
	struct fix *f = begin(96 * MiB, kv);
	struct model all[MODELS] = {0};

	if (getenv("LODGE_MODEL_SEED"))
		f->rng ^= strtoull(getenv("LODGE_MODEL_SEED"), NULL, 10) * 0x9e3779b97f4a7c15ull;
	f->devs.seed = f->rng;
	for (unsigned i = 0; i < MODELS; i++) {
		snprintf(all[i].path, sizeof(all[i].path), "store/disk%u", i);
		all[i].data = calloc(1, MODEL_MAX);
	}
	assert_int_equal(memdevs_record(&f->devs), 0);
	for (uint64_t round = 0; round < rounds; round++) {
		struct model *m = &all[rnd(f, MODELS)];

		if (!m->there || !rnd(f, 3))
			model_disks(f, all);
		if (m->there)
			session(f, all, m);
		for (unsigned i = 0; i < MODELS; i++)
			if (all[i].there)
				compare(f, &f->devs, &all[i]);
		check_in(f, &f->devs, true);
	}
	for (unsigned i = 0; i < MODELS; i++) {
		model_drop(&all[i]);
		free(all[i].data);
	}
	end(f);
}

static void model(void **state)
{
	(void)state;
	model_of((struct disk_kv[]){{"journal", "2M"}, {"entries", "200"}, {0}});
}

static void model_sums(void **state)
{
	(void)state;
	model_of((struct disk_kv[]){{"journal", "2M"}, {"entries", "200"}, {"sums", "on"}, {0}});
}

/* ---- the sorter ---- */

static void write_scattered(
	struct fix *f, struct disk *d, unsigned n, uint64_t step, uint64_t at, uint8_t byte)
{
	struct disk_range range[64];
	struct req q = {0};
	unsigned left = 1;

	q.left = &left;
	q.buf = malloc(64 * 4096);
	memset(q.buf, byte, 64 * 4096);
	q.iov[0] = (struct iovec){q.buf, n * 4096ull};
	for (unsigned i = 0; i < n; i++)
		range[i] = (struct disk_range){at + i * step, 4096};
	q.r = (struct disk_req){.op = DISK_WRITE,
		.len = n * 4096ull,
		.iov = q.iov,
		.niov = 1,
		.ranges = range,
		.nranges = n,
		.done = req_done};
	disk_submit(d, &q.r);
	while (left)
		uv_run(&f->loop, UV_RUN_ONCE);
	free(q.buf);
}

static void one_transaction(void **state)
{
	struct fix *f = begin(256 * MiB, NULL);
	struct disk_kv off[] = {{"sorter", "off"}, {0}};
	uint64_t with, bytes;
	struct err e = {0};
	struct disk *d;

	(void)state;
	ok(make(f, "store/a", 128 * MiB, NULL, NULL, &e), &e, "create");
	ok(make(f, "store/b", 128 * MiB, NULL, NULL, &e), &e, "create");
	d = get_batch(f, "store/a");
	write_scattered(f, d, 64, MiB, 0, 1);
	assert_int_equal(stat_of(d, "physical_transactions"), 1);
	assert_int_equal(stat_of(d, "logical_transactions"), 64);
	with = stat_of(d, "journal_bytes");
	/* What is there already goes out without any metadata. */
	write_scattered(f, d, 64, MiB, 0, 2);
	assert_int_equal(stat_of(d, "physical_transactions"), 1);
	assert_int_equal(stat_of(d, "plain_elements"), 64);
	assert_int_equal(stat_of(d, "journal_bytes"), with);
	/* Half and half: one more transaction with 32. */
	write_scattered(f, d, 64, MiB / 2, 0, 3);
	assert_int_equal(stat_of(d, "physical_transactions"), 2);
	assert_int_equal(stat_of(d, "plain_elements"), 96);
	bytes = stat_of(d, "fill_bytes");
	assert_int_equal(bytes, 0); /* nothing was zeroed or copied */
	put(f, d);
	ok(open_in(f, &f->devs, &d, "store/b", off, false, &e), &e, "open");
	write_scattered(f, d, 64, MiB, 0, 1);
	assert_int_equal(stat_of(d, "physical_transactions"), 64);
	print_message("journal bytes for 64 elements: %llu in one, %llu in 64 transactions\n",
		(unsigned long long)with, (unsigned long long)stat_of(d, "journal_bytes"));
	assert_true(stat_of(d, "journal_bytes") > 2 * with);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

static void flushes(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct err e = {0};
	uint64_t before;
	struct disk *d;
	char buf[4096] = {1};

	(void)state;
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	before = stat_of(d, "flushes");
	for (unsigned i = 0; i < 10; i++) { /* allocates each time */
		ok(disk_rw(d, DISK_WRITE, i * 4096ull, buf, 4096, &e), &e, "write");
		ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	}
	assert_int_equal(stat_of(d, "flushes") - before, 10);
	assert_int_equal(stat_of(d, "marks"), 0);
	put(f, d);
	end(f);
}

/* What was allocated shares records until somebody flushes; a place that is written again meanwhile costs no mark. */
static void late(void **state)
{
	struct fix *f = begin(256 * MiB, NULL);
	uint64_t records, events;
	struct memdevs after;
	struct err e = {0};
	struct disk *d;
	static char buf[256 * KiB], back[256 * KiB], other[4096];

	(void)state;
	memset(buf, 7, sizeof(buf));
	memset(other, 9, sizeof(other));
	ok(make(f, "store/a", 128 * MiB, NULL, NULL, &e), &e, "create");
	assert_int_equal(memdevs_record(&f->devs), 0);
	d = get(f, "store/a");
	records = stat_of(d, "transactions");
	for (unsigned i = 0; i < 100; i++)
		ok(disk_rw(d, DISK_WRITE, i * MiB, buf, 4096, &e), &e, "write");
	assert_true(stat_of(d, "transactions") - records <= 1); /* on a host that took a second */
	for (unsigned i = 0; i < 100; i += 3)
		ok(disk_rw(d, DISK_WRITE, i * MiB, other, 4096, &e), &e, "again");
	ok(disk_rw(d, DISK_WRITE, 100 * MiB, buf, sizeof(buf), &e), &e, "a long one");
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	assert_in_range(stat_of(d, "transactions") - records, 1, 2);
	assert_int_equal(stat_of(d, "marks"), 0);
	records = stat_of(d, "journal_bytes");
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	assert_int_equal(stat_of(d, "journal_bytes"), records);
	events = memdevs_events(&f->devs);
	/* The power goes: all of it is there. */
	for (uint64_t v = 0; v < 4; v++) {
		struct disk *c;

		memset(&after, 0, sizeof(after));
		assert_int_equal(memdevs_crash(&f->devs, events, v, &after), 0);
		lose_power(&after);
		ok(open_in(f, &after, &c, "store/a", NULL, false, &e), &e, "open");
		for (unsigned i = 0; i < 100; i++) {
			ok(disk_rw(c, DISK_READ, i * MiB, back, 4096, &e), &e, "read");
			assert_memory_equal(back, i % 3 ? buf : other, 4096);
		}
		ok(disk_rw(c, DISK_READ, 100 * MiB, back, sizeof(back), &e), &e, "read");
		assert_memory_equal(back, buf, sizeof(back));
		put(f, c);
		check_in(f, &after, true);
		uv_run(&f->loop, UV_RUN_NOWAIT);
		memdevs_free(&after);
	}
	put(f, d);
	end(f);
}

static void nothing(uv_timer_t *t)
{
	(void)t;
}

/* Nobody flushes: a second later it is in the journal nevertheless. */
static void a_second_later(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	uv_timer_t alive; /* a loop in which nothing happens looks at no timer */
	uint64_t records;
	char buf[4096] = {1};

	(void)state;
	uv_timer_init(&f->loop, &alive);
	uv_timer_start(&alive, nothing, 1, 1);
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	records = stat_of(d, "transactions");
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	for (unsigned i = 0; i < 30000 && stat_of(d, "transactions") == records; i++)
		uv_run(&f->loop, UV_RUN_ONCE);
	assert_int_equal(stat_of(d, "transactions"), records + 1);
	uv_close((uv_handle_t *)&alive, NULL);
	put(f, d);
	end(f);
}

/* ---- what goes wrong ---- */

static void no_space(void **state)
{
	struct fix *f = begin(32 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	uint64_t wrote = 0, blocks = space(f).total / MiB, i;
	char buf[4096] = {1};

	(void)state;
	ok(make(f, "store/a", 64 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	for (i = 0; i < 64; i++) {
		int rc = disk_rw(d, DISK_WRITE, i * MiB, buf, 4096, &e);

		if (rc) {
			assert_int_equal(rc, -ENOSPC);
			break;
		}
		wrote++;
	}
	assert_int_equal(wrote, blocks - 1); /* one has pages */
	/* What is there can be written, and what is given back is there again. */
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "in place");
	ok(disk_rw(d, DISK_DISCARD, 0, NULL, MiB, &e), &e, "discard");
	ok(disk_rw(d, DISK_WRITE, 63 * MiB, buf, 4096, &e), &e, "after discard");
	assert_int_equal(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), -ENOSPC);
	put(f, d);
	check_in(f, &f->devs, true);
	assert_int_equal(space(f).used, wrote * MiB);
	end(f);
}

/* A block that was let go holds something else only when nothing that a power cut may bring back refers to it. */
static void reuse(void **state)
{
	struct fix *f = begin(8 * MiB, NULL);
	struct err e = {0};
	char *a = malloc(MiB), *b = malloc(MiB);
	unsigned cuts = 0;
	struct disk *d;

	(void)state;
	ok(make(f, "store/a", 32 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	memset(a, 'a', MiB);
	ok(disk_rw(d, DISK_WRITE, 0, a, MiB, &e), &e, "write");
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	assert_int_equal(memdevs_record(&f->devs), 0);
	memset(b, 'b', MiB);
	ok(disk_rw(d, DISK_DISCARD, 0, NULL, MiB, &e), &e, "discard");
	for (unsigned i = 1; i < 16 && !disk_rw(d, DISK_WRITE, i * MiB, b, MiB, &e); i++)
		;
	put(f, d);
	for (uint64_t point = 1; point < memdevs_events(&f->devs); point++)
		for (unsigned variant = 0; variant < 6; variant++, cuts++) {
			struct memdevs after = {0};

			if (!memdevs_is_write(&f->devs, point - 1))
				break;
			assert_int_equal(memdevs_crash(&f->devs, point, variant, &after), 0);
			lose_power(&after);
			ok(open_in(f, &after, &d, "store/a", NULL, true, &e), &e, "open");
			ok(disk_rw(d, DISK_READ, 0, b, MiB, &e), &e, "read");
			for (unsigned i = 0; i < MiB; i++)
				assert_true(b[i] == 'a' || !b[i]);
			put(f, d);
			memdevs_free(&after);
		}
	assert_true(cuts > 20);
	free(a);
	free(b);
	end(f);
}

static void io_error(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	char buf[4096] = {1}, back[4096];

	(void)state;
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = get_batch(f, "store/a");
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	/* Data: this request fails, nothing else does. */
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
		.off = 8 * MiB,
		.len = 56 * MiB,
		.count = 1,
		.error = -EIO};
	f->devs.nfaults = 1;
	assert_int_equal(disk_rw(d, DISK_WRITE, 2 * MiB, buf, 4096, &e), -EIO);
	f->devs.nfaults = 0;
	ok(disk_rw(d, DISK_WRITE, 2 * MiB, buf, 4096, &e), &e, "again");
	/* The journal: nothing more is written while that lasts; then the store goes on by itself. */
	f->devs.fault[0] = (struct memdev_fault){
		.ops = 1u << FILE_WRITE, .off = 16384, .len = MiB, .error = -EIO};
	f->devs.nfaults = 1;
	assert_int_equal(disk_rw(d, DISK_WRITE, 4 * MiB, buf, 4096, &e), -EIO);
	assert_int_equal(disk_rw(d, DISK_WRITE, 5 * MiB, buf, 4096, &e), -EIO);
	assert_int_equal(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), -EIO);
	ok(disk_rw(d, DISK_READ, 0, back, 4096, &e), &e, "read");
	f->devs.nfaults = 0;
	usleep(120000);
	ok(disk_rw(d, DISK_WRITE, 5 * MiB, buf, 4096, &e), &e, "again");
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	ok(disk_rw(d, DISK_READ, 5 * MiB, back, 4096, &e), &e, "read");
	assert_memory_equal(buf, back, 4096);
	put(f, d);
	check_in(f, &f->devs, true);
	/* A flush: the host may have dropped what it could not write. Nothing more until the store is opened again. */
	d = get(f, "store/a");
	f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_FLUSH, .error = -EIO};
	f->devs.nfaults = 1;
	assert_int_equal(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), -EIO);
	f->devs.nfaults = 0;
	usleep(120000);
	assert_int_equal(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), -EIO);
	assert_int_equal(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), -EIO);
	ok(disk_rw(d, DISK_READ, 0, back, 4096, &e), &e, "read");
	put(f, d);
	check_in(f, &f->devs, true);
	d = get(f, "store/a");
	ok(disk_rw(d, DISK_READ, 0, back, 4096, &e), &e, "read");
	assert_memory_equal(buf, back, 4096);
	put(f, d);
	end(f);
}

/* What was acknowledged and is not in the journal is not lost when the journal fails for a while. */
static void late_error(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	char buf[4096] = {1}, back[4096];

	(void)state;
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	for (unsigned ops = 0; ops < 2; ops++) {
		d = get(f, "store/a");
		ok(disk_rw(d, DISK_WRITE, ops * 8 * MiB, buf, 4096, &e), &e, "write");
		f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
			.off = 16384,
			.len = MiB,
			.error = -EIO,
			.torn = ops};
		f->devs.nfaults = 1;
		assert_int_equal(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), -EIO);
		assert_int_equal(disk_rw(d, DISK_WRITE, 5 * MiB, buf, 4096, &e), -EIO);
		ok(disk_rw(d, DISK_READ, ops * 8 * MiB, back, 4096, &e), &e, "read");
		assert_memory_equal(buf, back, 4096);
		f->devs.nfaults = 0;
		usleep(120000);
		ok(disk_rw(d, DISK_WRITE, ops * 8 * MiB + MiB, buf, 4096, &e), &e, "again");
		ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
		put(f, d);
		check_in(f, &f->devs, true);
		d = get(f, "store/a");
		for (unsigned i = 0; i < 2; i++) {
			ok(disk_rw(d, DISK_READ, ops * 8 * MiB + i * MiB, back, 4096, &e), &e,
				"read");
			assert_memory_equal(buf, back, 4096);
		}
		put(f, d);
	}
	end(f);
}

struct unit {
	uint8_t is;
	uint64_t maybe; /* a bit for each value that a request which failed may have left */
};

static bool may_be(const struct unit *u, uint8_t v)
{
	return v == u->is || (v && u->maybe >> (v - 1) & 1);
}

struct flaky {
	struct disk_req r;
	struct iovec iov;
	uint8_t *buf;
	unsigned *left;
};

static void flaky_done(struct disk_req *r)
{
	--*container_of(r, struct flaky, r)->left;
}

/* Journal and pages fail and recover, again and again, with requests in flight: what was acknowledged is there. */
static void comes_and_goes_with(bool batch)
{
	static struct unit unit[512];
	struct fix *f = begin(64 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	uint8_t back[4096];
	unsigned failed = 0, good = 0;

	memset(unit, 0, sizeof(unit));
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = batch ? get_batch(f, "store/a") : get(f, "store/a");
	for (unsigned round = 0; round < 60; round++) {
		struct flaky q[8] = {0};
		unsigned left = 8, first = (unsigned)rnd(f, 504);

		f->devs.fault[0] = (struct memdev_fault){.ops = 1u << FILE_WRITE,
			.len = 4 * MiB,
			.after = (unsigned)rnd(f, 4),
			.count = 1 + (unsigned)rnd(f, 2),
			.error = -ENOSPC,
			.torn = rnd(f, 2)};
		f->devs.nfaults = rnd(f, 2);
		for (unsigned i = 0; i < 8; i++) {
			q[i].left = &left;
			q[i].buf = malloc(4096);
			memset(q[i].buf, (int)(1 + round), 4096);
			q[i].iov = (struct iovec){q[i].buf, 4096};
			q[i].r = (struct disk_req){.op = DISK_WRITE,
				.offset = (first + i) * 32768ull,
				.len = 4096,
				.iov = &q[i].iov,
				.niov = 1,
				.done = flaky_done};
			disk_submit(d, &q[i].r);
		}
		while (left)
			uv_run(&f->loop, UV_RUN_ONCE);
		if (!batch)
			(void)disk_rw(d, DISK_FLUSH, 0, NULL, 0, NULL);
		for (unsigned i = 0; i < 8; i++) {
			struct unit *u = &unit[first + i];

			if (q[i].r.result)
				u->maybe |= 1ull << round;
			else
				*u = (struct unit){q[i].buf[0], 0};
			*(q[i].r.result ? &failed : &good) += 1;
			free(q[i].buf);
		}
		f->devs.nfaults = 0;
		usleep(110000 * !(round % 4));
		for (unsigned i = 0; i < 512; i++) {
			ok(disk_rw(d, DISK_READ, i * 32768ull, back, 4096, &e), &e, "read");
			assert_true(back[0] == back[4095] || unit[i].maybe);
			assert_true(may_be(&unit[i], back[0]));
		}
	}
	usleep(120000);
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	put(f, d);
	print_message("%u requests failed, %u did not\n", failed, good);
	assert_true(failed > 20 && good > 100);
	check_in(f, &f->devs, true);
	d = get(f, "store/a");
	for (unsigned i = 0; i < 512; i++) {
		ok(disk_rw(d, DISK_READ, i * 32768ull, back, 4096, &e), &e, "read");
		assert_true(may_be(&unit[i], back[0]));
	}
	put(f, d);
	end(f);
}

static void comes_and_goes(void **state)
{
	(void)state;
	comes_and_goes_with(true);
	comes_and_goes_with(false);
}

static void lease(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct disk_kv old[] = {{"fence", "7"}, {0}}, take[] = {{"take", "on"}, {0}};
	struct err e = {0};
	struct disk *d, *other;
	char buf[4096] = {1};
	uint8_t sector[512];
	uint64_t fence;

	(void)state;
	ok(make(f, "store/a", 16 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	assert_int_equal(open_in(f, &f->devs, &other, "store/a", NULL, false, &e), -EBUSY);
	assert_int_equal(open_in(f, &f->devs, &other, "store/a", NULL, true, &e), -EBUSY);
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	ok(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), &e, "flush");
	/* Another host takes it: a higher number. */
	memdev_peek(&f->devs, "store", 8192, sector, 512);
	memcpy(&fence, sector + 8, 8);
	fence += 100;
	memcpy(sector + 8, &fence, 8);
	strcpy((char *)sector + 56, "elsewhere");
	memset(sector + 4, 0, 4);
	memcpy(sector + 4, &(uint32_t){crc32c(0, sector, 512)}, 4);
	memdev_poke(&f->devs, "store", 8192, sector, 512);
	assert_int_equal(disk_rw(d, DISK_FLUSH, 0, NULL, 0, &e), -ESTALE);
	assert_int_equal(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), -ESTALE);
	assert_int_equal(disk_rw(d, DISK_WRITE, 8 * MiB, buf, 4096, &e), -ESTALE);
	put(f, d);
	/* It is held by that host; numbers that are too old do not open it. */
	assert_int_equal(open_in(f, &f->devs, &d, "store/a", NULL, false, &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "elsewhere"));
	assert_int_equal(open_in(f, &f->devs, &d, "store/a", old, false, &e), -ESTALE);
	ok(open_in(f, &f->devs, &d, "store/a", take, false, &e), &e, "take");
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	put(f, d);
	end(f);
}

/* ---- changes ---- */

static uint64_t changed(struct disk *d, uint64_t since, uint64_t *first)
{
	uint64_t n = 0, len;
	bool dirty;
	struct err e = {0};

	for (uint64_t at = 0; at < disk_size(d); at += len) {
		len = disk_size(d) - at;
		ok(disk_changed(d, since, at, &len, &dirty, &e), &e, "changed");
		if (dirty && !n && first)
			*first = at;
		n += dirty ? len : 0;
	}
	return n;
}

static uint64_t next(struct disk *d)
{
	struct disk_generation g;
	struct err e = {0};

	ok(disk_generation(d, true, &g, &e), &e, "generation");
	return g.now;
}

static void changes(void **state)
{
	struct fix *f = begin(256 * MiB, NULL);
	struct disk_generation g;
	struct disk_bitmap *b;
	struct err e = {0};
	struct disk *d;
	char buf[8192] = {1};
	uint64_t g1, g2, first, len = 512;
	unsigned n;
	bool dirty;

	(void)state;
	ok(make(f, "store/a", 128 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	assert_int_equal(disk_generation(d, false, &g, &e), -ENODATA);
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "before");
	ok(disk_bitmap(d, DISK_BITMAP_ADD, "backup", 64 * KiB, &e), &e, "add");
	ok(disk_generation(d, false, &g, &e), &e, "generation");
	g1 = g.now;
	assert_int_equal(changed(d, g1, NULL), 0);
	/* In place, allocating across two chunks, zeroes on nothing. */
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "in place");
	ok(disk_rw(d, DISK_WRITE, 70 * MiB + 60 * KiB, buf, 8192, &e), &e, "two chunks");
	ok(disk_rw(d, DISK_WRITE_ZEROES, 100 * MiB, NULL, MiB, &e), &e, "nothing");
	assert_int_equal(changed(d, g1, NULL), 3 * 64 * KiB);
	g2 = next(d);
	assert_int_equal(changed(d, g2, NULL), 0);
	ok(disk_rw(d, DISK_WRITE, 70 * MiB + 64 * KiB, buf, 4096, &e), &e, "again");
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	put(f, d);
	d = get(f, "store/a");
	assert_int_equal(changed(d, g2, &first), 64 * KiB);
	assert_int_equal(first, 70 * MiB + 64 * KiB);
	assert_int_equal(changed(d, g1, NULL), 3 * 64 * KiB);
	/* Every generation that is known can be asked for, others are refused. */
	assert_int_equal(disk_changed(d, g1 - 1, 0, &len, &dirty, &e), -ESTALE);
	assert_int_equal(disk_changed(d, g2 + 2, 0, &len, &dirty, &e), -ESTALE);
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_DISABLE, "backup", 0, &e), -EOPNOTSUPP);
	ok(disk_bitmap(d, DISK_BITMAP_CLEAR, "backup", 0, &e), &e, "clear");
	ok(disk_rw(d, DISK_DISCARD, 0, NULL, MiB, &e), &e, "discard");
	ok(disk_bitmaps(d, &b, &n, &e), &e, "bitmaps");
	assert_int_equal(n, 1);
	assert_int_equal(b[0].dirty, 64 * KiB); /* only what was there */
	free(b);
	ok(disk_resize(d, 255 * MiB * 63, &e), &e, "another level");
	ok(disk_rw(d, DISK_WRITE, 254 * MiB * 63, buf, 4096, &e), &e, "far");
	/* Going back changes everything. */
	ok(disk_snapshot(d, DISK_SNAP_APPLY, "s", &e), &e, "apply");
	assert_int_equal(changed(d, g2, NULL), 128 * MiB);
	g2 = next(d);
	assert_int_equal(changed(d, g2, NULL), 0);
	ok(disk_bitmap(d, DISK_BITMAP_REMOVE, "backup", 0, &e), &e, "remove");
	assert_int_equal(disk_generation(d, false, &g, &e), -ENODATA);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

/* In a full store what is there can be written all the same: then everything counts as changed. */
static void changes_no_space(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	char *buf = calloc(1, MiB);
	unsigned n = 0;

	(void)state;
	ok(make(f, "store/a", 62ull * GiB, "track", "on", &e), &e, "create");
	d = get(f, "store/a");
	while (!disk_rw(d, DISK_WRITE, n * MiB, buf, MiB, &e))
		n++;
	/* Uses up what is left of the block of pages. */
	for (unsigned i = 0; i < 300; i++)
		ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	next(d);
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "in place");
	assert_true(changed(d, next(d) - 1, NULL) > 0);
	put(f, d);
	check_in(f, &f->devs, true);
	free(buf);
	end(f);
}

/* ---- many ---- */

static void many_snapshots(void **state)
{
	unsigned n = getenv("LODGE_SNAPSHOTS") ? (unsigned)atoi(getenv("LODGE_SNAPSHOTS")) : 1000;
	struct fix *f = begin(
		12 * GiB, (struct disk_kv[]){{"entries", "10100"}, {"journal", "8M"}, {0}});
	struct err e = {0};
	struct disk *d;
	char buf[4096], name[32];

	(void)state;
	ok(make(f, "store/a", 128 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	for (unsigned i = 0; i < n; i++) {
		memset(buf, (int)i + 1, sizeof(buf));
		ok(disk_rw(d, DISK_WRITE, i % 64 * 4096, buf, 4096, &e), &e, "write");
		snprintf(name, sizeof(name), "s%u", i);
		ok(disk_snapshot(d, DISK_SNAP_CREATE, name, &e), &e, "snapshot");
	}
	put(f, d);
	check_in(f, &f->devs, true);
	d = get(f, "store/a");
	snprintf(name, sizeof(name), "s%u", n / 2);
	ok(disk_snapshot(d, DISK_SNAP_APPLY, name, &e), &e, "apply");
	ok(disk_rw(d, DISK_READ, n / 2 % 64 * 4096, buf, 4096, &e), &e, "read");
	assert_int_equal((uint8_t)buf[0], (uint8_t)(n / 2 + 1));
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		ok(disk_snapshot(d, DISK_SNAP_DELETE, name, &e), &e, "delete");
	}
	put(f, d);
	check_in(f, &f->devs, true);
	assert_true(space(f).used <= 2 * MiB);
	end(f);
}

static void full_directory(void **state)
{
	struct fix *f = begin(64 * MiB, (struct disk_kv[]){{"entries", "7"}, {0}});
	struct err e = {0};
	char name[32];

	(void)state;
	for (unsigned i = 0; i < 7; i++) {
		snprintf(name, sizeof(name), "store/d%u", i);
		ok(make(f, name, MiB, NULL, NULL, &e), &e, name);
	}
	assert_int_equal(make(f, "store/more", MiB, NULL, NULL, &e), -ENOSPC);
	assert_non_null(strstr(err_msg(&e), "7 entries"));
	end(f);
}

static void composed(void **state)
{
	struct fix *f = begin(256 * MiB, NULL);
	struct err e = {0};
	struct disk *d;
	char buf[4096], back[4096];
	uint64_t used;

	(void)state;
	ok(make(f, "store/os", 16 * MiB, NULL, NULL, &e), &e, "os");
	ok(make(f, "store/app", 8 * MiB, NULL, NULL, &e), &e, "app");
	d = get(f, "store/os");
	memset(buf, 'o', sizeof(buf));
	ok(disk_rw(d, DISK_WRITE, 3 * MiB, buf, 4096, &e), &e, "write");
	put(f, d);
	d = get(f, "store/app");
	memset(buf, 'a', sizeof(buf));
	ok(disk_rw(d, DISK_WRITE, MiB, buf, 4096, &e), &e, "write");
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "v1", &e), &e, "v1");
	memset(buf, 'b', sizeof(buf));
	ok(disk_rw(d, DISK_WRITE, MiB, buf, 4096, &e), &e, "write");
	put(f, d);
	used = space(f).used;
	ok(make(f, "store/c", 0, "compose", "os/0/16M/ro+app@v1/0/8M/ro+-/8M", &e), &e, "compose");
	assert_int_equal(space(f).used, used);
	d = get(f, "store/c");
	assert_int_equal(disk_size(d), 32 * MiB);
	ok(disk_rw(d, DISK_READ, 3 * MiB, back, 4096, &e), &e, "read");
	assert_int_equal(back[0], 'o');
	ok(disk_rw(d, DISK_READ, 17 * MiB, back, 4096, &e), &e, "read");
	assert_int_equal(back[0], 'a');
	assert_int_equal(disk_rw(d, DISK_WRITE, 17 * MiB, buf, 4096, &e), -EROFS);
	assert_int_equal(disk_rw(d, DISK_DISCARD, 3 * MiB, NULL, MiB, &e), -EROFS);
	ok(disk_rw(d, DISK_WRITE, 24 * MiB, buf, 4096, &e), &e, "private");
	put(f, d);
	assert_int_equal(make(f, "store/x", 0, "compose", "os/0/17M/ro", &e), -ERANGE);
	assert_int_equal(make(f, "store/x", 0, "compose", "no/0/1M", &e), -ENOENT);
	check_in(f, &f->devs, true);
	end(f);
}

/* Full, then larger; and a power cut behind each step of that leaves the one or the other. */
static void growing(void **state)
{
	struct fix *f = begin(32 * MiB, (struct disk_kv[]){{"max-size", "100M"}, {0}});
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	uint64_t now, before = space(f).total, n = 0;
	struct err e = {0};
	struct disk *d;
	char buf[4096] = {1};

	(void)state;
	ok(make(f, "store/a", 90 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	while (!disk_rw(d, DISK_WRITE, n * MiB, buf, 4096, &e))
		n++;
	put(f, d);
	assert_int_equal(memdevs_record(&f->devs), 0);
	assert_int_equal(
		disk_store_lodgefs.resize(&fs, "store", 16 * MiB, false, &now, &e), -EINVAL);
	assert_int_equal(disk_store_lodgefs.resize(&fs, "store", GiB, false, &now, &e), -EFBIG);
	assert_non_null(strstr(err_msg(&e), "max-size"));
	ok(disk_store_lodgefs.resize(&fs, "store", 64 * MiB, false, &now, &e), &e, "resize");
	assert_int_equal(now, 64 * MiB);
	assert_int_equal(space(f).total, before + 32 * MiB);
	for (uint64_t point = 0; point <= memdevs_events(&f->devs); point++)
		for (unsigned variant = 0; variant < 3; variant++) {
			struct memdevs after = {0};

			assert_int_equal(memdevs_crash(&f->devs, point, variant, &after), 0);
			lose_power(&after);
			check_in(f, &after, true);
			ok(open_in(f, &after, &d, "store/a", NULL, true, &e), &e, "open");
			ok(disk_rw(d, DISK_READ, (n - 1) * MiB, buf, 4096, &e), &e, "read");
			assert_int_equal(buf[0], 1);
			put(f, d);
			memdevs_free(&after);
		}
	d = get(f, "store/a");
	ok(disk_rw(d, DISK_WRITE, (n + 20) * MiB, buf, 4096, &e), &e, "there is room");
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

/* ---- the directory, under power cuts ---- */

enum { CLONE, RENAME, COMPOSE, REPLACE, APPLY, SHRINK, REMOVE, STEPS };

static int replace(
	struct fix *f, const char *path, const char *key, const char *value, struct err *e)
{
	return disk_create("lodgefs",
		&(struct disk_create_opts){.path = path,
			.kv = (struct disk_kv[]){{key, value}, {0}},
			.overwrite = true,
			.loop = &f->loop,
			.open_file = memdevs_open,
			.open_ctx = &f->devs},
		e);
}

static void change(struct fix *f, unsigned step)
{
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	struct err e = {0};
	struct disk *d;
	int rc = 0;

	if (step == CLONE)
		rc = make(f, "store/b", 0, "clone", "a@s", &e);
	else if (step == RENAME)
		rc = disk_store_lodgefs.rename(&fs, "store", "b", "c", &e);
	else if (step == COMPOSE)
		rc = make(f, "store/d", 0, "compose", "a/0/4M+a@s/0/4M", &e);
	else if (step == REPLACE)
		rc = replace(f, "store/d", "clone", "a@s", &e);
	else if (step == REMOVE)
		rc = disk_store_lodgefs.remove(&fs, "store", "c", &e);
	ok(rc, &e, "change");
	if (step != APPLY && step != SHRINK)
		return;
	d = get(f, "store/a");
	rc = step == APPLY ? disk_snapshot(d, DISK_SNAP_APPLY, "s", &e)
			   : disk_resize(d, 4 * MiB, &e);
	ok(rc, &e, "change");
	put(f, d);
}

/* Its first byte at `off`, or -1 when there is no such disk. */
static int first_byte(
	struct fix *f, struct memdevs *devs, const char *path, uint64_t off, uint64_t *size)
{
	struct err e = {0};
	struct disk *d;
	uint8_t buf[512];
	int rc = open_in(f, devs, &d, path, NULL, true, &e);

	if (rc == -ENOENT)
		return -1;
	ok(rc, &e, path);
	ok(disk_rw(d, DISK_READ, off, buf, sizeof(buf), &e), &e, "read");
	*size = disk_size(d);
	put(f, d);
	return buf[0];
}

/* What has been done, is there; what has not begun, is not. */
static bool is(
	bool there, const uint64_t *from, const uint64_t *done, unsigned step, uint64_t point)
{
	return there ? from[step] < point : point < done[step];
}

static void look_at_directory(struct fix *f, struct memdevs *devs, const uint64_t *from,
	const uint64_t *done, uint64_t point)
{
	uint64_t size = 0;
	int b, c, d, a;

	check_in(f, devs, true);
	b = first_byte(f, devs, "store/b", 0, &size);
	c = first_byte(f, devs, "store/c", 0, &size);
	assert_true((b == 'a' || b == -1) && (c == 'a' || c == -1) && (b == -1 || c == -1));
	assert_true(is(b != -1 || c != -1, from, done, CLONE, point) || from[REMOVE] < point);
	assert_true(is(c != -1, from, done, RENAME, point) || from[REMOVE] < point);
	if (done[REMOVE] <= point)
		assert_true(b == -1 && c == -1);
	d = first_byte(f, devs, "store/d", 0, &size);
	assert_true(is(d != -1, from, done, COMPOSE, point));
	assert_true(d == -1 || is(d == 'a', from, done, REPLACE, point));
	if (d != -1) {
		assert_int_equal(
			first_byte(f, devs, "store/d", 4 * MiB, &size), d == 'b' ? 'a' : 0);
		assert_int_equal(size, 8 * MiB);
	}
	a = first_byte(f, devs, "store/a", 0, &size);
	assert_true(a == 'a' || a == 'b');
	assert_true(is(a == 'a', from, done, APPLY, point));
	assert_true(size == 8 * MiB || size == 4 * MiB);
	assert_true(is(size == 4 * MiB, from, done, SHRINK, point));
}

static void directory(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	uint64_t from[STEPS], done[STEPS];
	struct err e = {0};
	struct disk *d;
	char buf[8192];
	unsigned cuts = 0;

	(void)state;
	ok(make(f, "store/a", 8 * MiB, "track", "on", &e), &e, "create");
	d = get(f, "store/a");
	memset(buf, 'a', sizeof(buf));
	ok(disk_rw(d, DISK_WRITE, 0, buf, sizeof(buf), &e), &e, "write");
	ok(disk_rw(d, DISK_WRITE, 7 * MiB, buf, sizeof(buf), &e), &e, "write");
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	memset(buf, 'b', sizeof(buf));
	ok(disk_rw(d, DISK_WRITE, 0, buf, sizeof(buf), &e), &e, "write");
	put(f, d);
	f->devs.seed = 5;
	assert_int_equal(memdevs_record(&f->devs), 0);
	for (unsigned i = 0; i < STEPS; i++) {
		from[i] = memdevs_events(&f->devs);
		change(f, i);
		done[i] = memdevs_events(&f->devs);
	}
	for (uint64_t point = 1; point <= memdevs_events(&f->devs); point++)
		for (unsigned variant = 0; variant < 4; variant++, cuts++) {
			struct memdevs after = {0};

			if (!memdevs_is_write(&f->devs, point - 1))
				break;
			assert_int_equal(memdevs_crash(&f->devs, point, variant, &after), 0);
			lose_power(&after);
			look_at_directory(f, &after, from, done, point);
			memdevs_free(&after);
		}
	print_message("%u power cuts\n", cuts);
	assert_true(cuts > 100);
	end(f);
}

/* What is to be replaced is there until its successor is. */
static void replaced(void **state)
{
	struct fix *f = begin(64 * MiB, NULL);
	struct err e = {0};
	struct disk *d;

	(void)state;
	ok(make(f, "store/a", 8 * MiB, "track", "on", &e), &e, "create");
	d = get(f, "store/a");
	write_now(d, 0, 4096, 1);
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	write_now(d, 0, 4096, 2);
	put(f, d);
	assert_int_equal(replace(f, "store/a", "clone", "none", &e), -ENOENT);
	assert_int_equal(replace(f, "store/a", "clone", "a@none", &e), -ENOENT);
	assert_int_equal(replace(f, "store/a", "compose", "a/0/9M", &e), -ERANGE);
	d = get(f, "store/a");
	is_now(d, 0, 4096, 2);
	put(f, d);
	/* By what is made of itself, too. */
	ok(replace(f, "store/a", "compose", "a@s/0/4M+a/0/4M", &e), &e, "compose");
	d = get(f, "store/a");
	is_now(d, 0, 4096, 1);
	is_now(d, 4 * MiB, 4096, 2);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

static void checksums(void **state)
{
	static uint8_t data[10000]; /* more than twice what goes side by side */

	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 251);
	for (unsigned i = 0; i < sizeof(data); i += 1 + i / 300)
		assert_int_equal(crc32c(i, data, i), crc32c_plain(i, data, i));
}

/* A byte anywhere in what metadata there is: it is seen, named and, as far as it can be, mended. */
static void damage(void **state)
{
	struct fix *f = begin(32 * MiB, NULL);
	struct files fs = {
		.loop = &f->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = &f->devs};
	struct disk_check c;
	struct err e = {0};
	struct disk *d;
	char buf[4096] = {1};
	uint64_t at;

	(void)state;
	ok(make(f, "store/a", 8 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	put(f, d);
	/* The bitmap: behind journal and directory. */
	for (at = 16384 + 2 * MiB;; at += 4096) {
		memdev_peek(&f->devs, "store", at, buf, 64);
		if (buf[32] == 3)
			break;
	}
	buf[0] ^= 1;
	memdev_poke(&f->devs, "store", at + 100, buf, 1);
	assert_int_equal(open_in(f, &f->devs, &d, "store/a", NULL, false, &e), -EUCLEAN);
	assert_non_null(strstr(err_msg(&e), "checksum"));
	ok(disk_store_lodgefs.check(&fs, "store", false, NULL, &c, &e), &e, "check");
	assert_true(c.errors > 0);
	ok(disk_store_lodgefs.check(&fs, "store", true, NULL, &c, &e), &e, "repair");
	check_in(f, &f->devs, true);
	d = get(f, "store/a");
	ok(disk_rw(d, DISK_READ, 0, buf, 4096, &e), &e, "read");
	assert_int_equal(buf[0], 1);
	put(f, d);
	end(f);
}

/* ---- memory ---- */

#define PLACES 2500u
#define APART (5 * GiB) /* each has a leaf of its own */

static void place_bytes(uint8_t *buf, unsigned i, unsigned round)
{
	memset(buf, (int)(1 + (i * 7 + round) % 250), 4096);
}

static void look_at_places(struct disk *d, const unsigned *round)
{
	uint8_t buf[4096], want[4096];
	struct err e = {0};

	for (unsigned k = 0; k < PLACES; k++) {
		unsigned i = k * 7 % PLACES;

		ok(disk_rw(d, DISK_READ, i * APART, buf, 4096, &e), &e, "read");
		place_bytes(want, i, round[i]);
		assert_memory_equal(buf, want, 4096);
	}
}

static uint64_t most_pages(struct disk *d, uint64_t most)
{
	return MAX(most, stat_of(d, "pages_in_memory"));
}

/* Of more pages than there is memory for there is what was wanted last; all of them say what they said. */
static void bounded_memory(void **state)
{
	struct disk_kv kv[] = {{"metadata", "4M"}, {0}};
	struct disk_kv journal[] = {{"journal", "2M"}, {0}};
	struct fix *f = begin(6 * GiB, journal);
	static unsigned round[PLACES];
	struct err e = {0};
	struct disk *d;
	uint64_t most = 0;
	uint8_t buf[4096];

	(void)state;
	memset(round, 0, sizeof(round));
	ok(make(f, "store/a", 16384 * GiB, "track", "on", &e), &e, "create");
	ok(open_in(f, &f->devs, &d, "store/a", kv, false, &e), &e, "open");
	for (unsigned i = 0; i < PLACES; i++) {
		place_bytes(buf, i, 0);
		ok(disk_rw(d, DISK_WRITE, i * APART, buf, 4096, &e), &e, "write");
		most = most_pages(d, most);
	}
	look_at_places(d, round);
	ok(disk_snapshot(d, DISK_SNAP_CREATE, "s", &e), &e, "snapshot");
	for (unsigned k = 0; k < PLACES; k += 3) { /* copies shared pages */
		unsigned i = k * 11 % PLACES;

		place_bytes(buf, i, ++round[i]);
		ok(disk_rw(d, DISK_WRITE, i * APART, buf, 4096, &e), &e, "write");
		most = most_pages(d, most);
	}
	look_at_places(d, round);
	assert_true(stat_of(d, "page_reads") > PLACES);
	put(f, d);
	/* Opening reads all of them, and a process that has gone leaves them in the journal. */
	ok(open_in(f, &f->devs, &d, "store/a", kv, false, &e), &e, "open");
	most = most_pages(d, most);
	look_at_places(d, round);
	ok(disk_snapshot(d, DISK_SNAP_DELETE, "s", &e), &e, "delete");
	look_at_places(d, round);
	for (unsigned i = 0; i < PLACES; i += 2)
		ok(disk_rw(d, DISK_DISCARD, i * APART, NULL, 4096, &e), &e, "discard");
	most = most_pages(d, most);
	put(f, d);
	print_message("%llu pages in memory at most\n", (unsigned long long)most);
	/* 4 MiB, and what was changed since a checkpoint: no more than the journal has. */
	assert_in_range(most, 512, 1024 + 512 + 64);
	check_in(f, &f->devs, true);
	assert_int_equal(space(f).used, PLACES / 2 * MiB);
	end(f);
}

/* A part that may only be read is refused also when the page that has it has left the memory. */
static void readonly_part(void **state)
{
	struct disk_kv kv[] = {{"metadata", "4M"}, {0}}, journal[] = {{"journal", "2M"}, {0}};
	struct fix *f = begin(6 * GiB, journal);
	struct err e = {0};
	struct disk *d;
	uint8_t buf[4096] = {1};

	(void)state;
	ok(make(f, "store/a", 4 * MiB, NULL, NULL, &e), &e, "create");
	d = get(f, "store/a");
	ok(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), &e, "write");
	put(f, d);
	ok(make(f, "store/b", 16384 * GiB, "compose", "a/0/1M/ro", &e), &e, "compose");
	ok(open_in(f, &f->devs, &d, "store/b", kv, false, &e), &e, "open");
	for (unsigned i = 1; i < PLACES; i++)
		ok(disk_rw(d, DISK_WRITE, i * APART, buf, 4096, &e), &e, "write");
	assert_int_equal(disk_rw(d, DISK_WRITE, 0, buf, 4096, &e), -EROFS);
	ok(disk_rw(d, DISK_READ, 0, buf, 4096, &e), &e, "read");
	assert_int_equal(buf[0], 1);
	put(f, d);
	check_in(f, &f->devs, true);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replaced),
		cmocka_unit_test(checksums),
		cmocka_unit_test(one_transaction),
		cmocka_unit_test(flushes),
		cmocka_unit_test(late),
		cmocka_unit_test(a_second_later),
		cmocka_unit_test(no_space),
		cmocka_unit_test(reuse),
		cmocka_unit_test(io_error),
		cmocka_unit_test(late_error),
		cmocka_unit_test(bounded_memory),
		cmocka_unit_test(readonly_part),
		cmocka_unit_test(comes_and_goes),
		cmocka_unit_test(lease),
		cmocka_unit_test(changes),
		cmocka_unit_test(changes_no_space),
		cmocka_unit_test(many_snapshots),
		cmocka_unit_test(full_directory),
		cmocka_unit_test(growing),
		cmocka_unit_test(directory),
		cmocka_unit_test(composed),
		cmocka_unit_test(damage),
		cmocka_unit_test(model),
		cmocka_unit_test(model_sums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
