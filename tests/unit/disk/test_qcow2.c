/* test_qcow2.c: qcow2 on devices in memory: what is refused and in which words, transactions, damage and its repair, hosts that fail. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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
#include "disk/qcow2/qcow2.h"
#include "disk/qcow2/header.h"
#include "images.h"

#define SIZE (64 * MiB)
#define CLUSTER (64 * KiB)

static int make(const char *name, const struct disk_kv *kv, const char *backing, const char *format)
{
	struct disk_create_opts o = {.path = name,
		.size = SIZE,
		.kv = kv,
		.backing = backing,
		.backing_format = format,
		.loop = &rig.loop,
		.open_file = memdevs_open,
		.open_ctx = &rig.devs};

	rig.e = (struct err){0};
	return disk_qcow2.create(&o, &rig.e);
}

static int try_open(struct disk **d, const char *name, bool readonly, bool force)
{
	struct disk_opts o = {.path = name,
		.format = "qcow2",
		.readonly = readonly,
		.force = force,
		.discard = true,
		.offline = true,
		.loop = &rig.loop,
		.open_file = memdevs_open,
		.open_ctx = &rig.devs};

	*d = NULL;
	rig.e = (struct err){0};
	return disk_open(d, &o, &rig.e);
}

static struct disk *open_rw(const char *name)
{
	struct disk *d;

	if (try_open(&d, name, false, false))
		fail_msg("%s", err_msg(&rig.e));
	return d;
}

static void refused(const char *name, int code, const char *words)
{
	struct disk *d;

	assert_int_equal(try_open(&d, name, false, false), code);
	if (!strstr(rig.e.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", rig.e.msg, words);
}

static void poke(const char *name, uint64_t at, uint64_t v, unsigned bytes)
{
	uint8_t b[8];

	put_be64(b, v);
	assert_int_equal(memdev_poke(&rig.devs, name, at, b + 8 - bytes, bytes), 0);
}

static uint64_t peek(const char *name, uint64_t at)
{
	uint8_t b[8];

	assert_int_equal(memdev_peek(&rig.devs, name, at, b, 8), 0);
	return get_be64(b);
}

static void on_done(struct disk_req *r)
{
}

static int rw(struct disk *d, enum disk_op op, uint64_t off, void *buf, uint64_t len)
{
	struct iovec v = {buf, len};
	struct disk_req r = {
		.op = op, .offset = off, .len = len, .iov = &v, .niov = 1, .done = on_done};

	disk_submit(d, &r);
	disk_drain(d);
	return r.result;
}

static void fill(struct disk *d, uint64_t off, uint64_t len, int byte)
{
	char *buf = malloc(len);

	memset(buf, byte, len);
	assert_int_equal(rw(d, DISK_WRITE, off, buf, len), 0);
	free(buf);
}

static void expect(struct disk *d, uint64_t off, uint64_t len, int byte)
{
	char *buf = malloc(len);

	assert_int_equal(rw(d, DISK_READ, off, buf, len), 0);
	for (uint64_t i = 0; i < len; i++)
		if (buf[i] != (char)byte)
			fail_msg("byte %llu is %d instead of %d", (unsigned long long)(off + i),
				buf[i], byte);
	free(buf);
}

static void on_found(void *ctx, bool error, const char *text)
{
	if (getenv("LODGE_SHOW"))
		print_message("%s: %s\n", error ? "error" : "leak", text);
}

static struct disk_check check(const char *name, bool repair)
{
	const struct disk_watch watch = {.found = on_found};
	struct disk_check c;
	struct disk *d;

	assert_int_equal(try_open(&d, name, !repair, true), 0);
	assert_int_equal(disk_qcow2.check(d, repair, &watch, &c, &rig.e), 0);
	disk_close(d);
	return c;
}

/* ---- */

static void widths(void **state)
{
	uint8_t block[64], other;

	for (unsigned order = 0; order < 7; order++) {
		uint64_t n = 64 * 8 >> order,
			 max = order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;

		memset(block, 0, sizeof(block));
		for (uint64_t i = 0; i < n; i++)
			q_refcount_put(block, order, i, (i * 7 + 1) & max);
		for (uint64_t i = 0; i < n; i++)
			assert_int_equal(q_refcount_in(block, order, i), (i * 7 + 1) & max);
	}
	/* The lowest bits come first. */
	memset(block, 0, sizeof(block));
	q_refcount_put(block, 1, 1, 2);
	other = block[0];
	assert_int_equal(other, 2 << 2);
}

static void refusals(void **state)
{
	char table[48] = {0, 17, 'w', 'a', 'r', 'p'};

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	poke("a", 0, 1, 4);
	refused("a", -EINVAL, "not a qcow2 image");
	poke("a", 0, QCOW2_MAGIC, 4);
	poke("a", 4, 4, 4);
	refused("a", -EOPNOTSUPP, "version 4");
	poke("a", 4, 3, 4);
	poke("a", 20, 30, 4);
	refused("a", -EINVAL, "2^30");
	poke("a", 20, 16, 4);
	poke("a", 32, 2, 4);
	refused("a", -EOPNOTSUPP, "LUKS");
	poke("a", 32, 0, 4);
	poke("a", QCOW2_AT_INCOMPATIBLE, 1ull << 40, 8);
	refused("a", -EOPNOTSUPP, "bit 40");
	/* The image's own table has the name; its first entry is overwritten. */
	poke("a", QCOW2_AT_INCOMPATIBLE, 1ull << 17, 8);
	assert_int_equal(memdev_poke(&rig.devs, "a", 112 + 8, table, sizeof(table)), 0);
	refused("a", -EOPNOTSUPP, "warp");
	poke("a", QCOW2_AT_INCOMPATIBLE, QCOW2_CORRUPT, 8);
	refused("a", -EUCLEAN, "lodge disk repair a:qcow2");
	poke("a", QCOW2_AT_INCOMPATIBLE, 0, 8);
	poke("a", QCOW2_AT_L1, 1ull << 40, 8);
	refused("a", -EINVAL, "L1 table");
	poke("a", QCOW2_AT_L1, CLUSTER, 8);
	refused("a", -EUCLEAN, "overlap");
}

static void chains(void **state)
{
	assert_int_equal(make("base", NULL, NULL, NULL), 0);
	assert_int_equal(make("top", NULL, "base", NULL), -EINVAL);
	assert_int_equal(make("top", NULL, "base", "qcow2"), 0);
	disk_close(open_rw("top"));
	/* The type of the extension with the format: nobody knows that one. */
	assert_int_equal(peek("top", 112) >> 32, 0xe2792aca);
	poke("top", 112, 0x11111111, 4);
	refused("top", -EINVAL, "format");
	assert_int_equal(make("loop", NULL, "loop2", "qcow2"), 0);
	assert_int_equal(make("loop2", NULL, "loop2", "qcow2"), -EINVAL);
	assert_int_equal(make("loop2", NULL, "loop", "qcow2"), 0);
	assert_int_equal(make("over", NULL, "loop", "qcow2"), 0);
	refused("over", -EINVAL, "longer than");
}

static void scattered(struct disk *d, uint64_t first, uint64_t step, int byte)
{
	struct disk_range ranges[64];
	struct iovec v = {malloc(64 * 4096), 64 * 4096};
	struct disk_req r = {.op = DISK_WRITE,
		.len = 64 * 4096,
		.iov = &v,
		.niov = 1,
		.ranges = ranges,
		.nranges = 64,
		.done = on_done};

	for (uint64_t i = 0; i < 64; i++)
		ranges[i] = (struct disk_range){first + (i * 37 % 64) * step, 4096};
	memset(v.iov_base, byte, v.iov_len);
	disk_submit(d, &r);
	disk_drain(d);
	assert_int_equal(r.result, 0);
	free(v.iov_base);
}

static struct disk *open_with(const char *name, const char *key, const char *value)
{
	const struct disk_kv kv[] = {{key, value}, {0}};
	struct disk_opts o = {.path = name,
		.format = "qcow2",
		.kv = kv,
		.loop = &rig.loop,
		.open_file = memdevs_open,
		.open_ctx = &rig.devs};
	struct disk *d;

	if (disk_open(&d, &o, &rig.e))
		fail_msg("%s", err_msg(&rig.e));
	return d;
}

/* The sorter: one write of 64 places is one transaction, which with commit=batch is in the file when it is acknowledged. */
static void one_transaction(void **state)
{
	struct sorter_stats s;
	struct qcow2 *q;
	struct disk *d;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_with("a", "commit", "batch");
	q = d->priv;
	scattered(d, 4096, CLUSTER, 3);
	sorter_stats(q->sorter, &s);
	assert_int_equal(s.logical, 64);
	assert_int_equal(s.physical, 1);
	assert_int_equal(q->stats.transactions, 1);
	assert_int_equal(q->cache.dirty_bytes, 0);
	/* Counts | barrier | tables: once for many clusters. */
	assert_int_equal(q->stats.barriers, 1);
	assert_int_equal(s.fill_bytes, 0);
	assert_int_equal(rw(d, DISK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(q->stats.barriers, 2);
	/* Once more: all in place. */
	scattered(d, 4096, CLUSTER, 3);
	assert_int_equal(rw(d, DISK_FLUSH, 0, NULL, 0), 0);
	sorter_stats(q->sorter, &s);
	assert_int_equal(s.plain, 64);
	assert_int_equal(q->stats.transactions, 1);
	assert_int_equal(q->stats.barriers, 3);
	/* Half and half. */
	scattered(d, 32 * CLUSTER + 4096, CLUSTER, 3);
	sorter_stats(q->sorter, &s);
	assert_int_equal(s.plain, 96);
	assert_int_equal(q->stats.transactions, 2);
	for (unsigned i = 0; i < 96; i++) {
		expect(d, i * CLUSTER, 4096, 0);
		expect(d, i * CLUSTER + 4096, 4096, 3);
		expect(d, i * CLUSTER + 8192, CLUSTER - 8192, 0);
	}
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

/* Data and entry of a new cluster are written at once: when the data fails, so does the request, and the place shows zeroes. */
static void data_fails(void **state)
{
	char *buf = malloc(CLUSTER);
	struct qcow2 *q;
	struct disk *d;
	uint64_t next;

	memset(buf, 9, CLUSTER);
	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_with("a", "commit", "batch");
	q = d->priv;
	fill(d, 0, 4096, 1);
	next = q->reserve.at * CLUSTER;
	assert_true(q->reserve.end > q->reserve.at);
	rig.devs.fault[0] = (struct memdev_fault){
		.ops = 1 << FILE_WRITE, .off = next, .len = CLUSTER, .count = 1, .error = -EIO};
	rig.devs.nfaults = 1;
	assert_int_equal(rw(d, DISK_WRITE, 5 * CLUSTER, buf, 8192), -EIO);
	assert_int_equal(rig.devs.faults_hit, 1);
	rig.devs.nfaults = 0;
	expect(d, 5 * CLUSTER, CLUSTER, 0);
	expect(d, 0, 4096, 1);
	assert_int_equal(rw(d, DISK_WRITE, 5 * CLUSTER, buf, 8192), 0);
	expect(d, 5 * CLUSTER, 8192, 9);
	/* The entry fails: nothing is acknowledged in place before it is in the file. */
	rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_WRITE,
		.off = q->l1[0] & Q_OFFSET,
		.len = CLUSTER,
		.count = 2,
		.error = -ENOSPC};
	rig.devs.nfaults = 1;
	assert_int_equal(rw(d, DISK_WRITE, 9 * CLUSTER, buf, 4096), -ENOSPC);
	assert_int_equal(rw(d, DISK_WRITE, 9 * CLUSTER, buf, 4096), -ENOSPC);
	rig.devs.nfaults = 0;
	assert_int_equal(rw(d, DISK_WRITE, 9 * CLUSTER, buf, 4096), 0);
	assert_int_equal(q->cache.dirty_bytes, 0);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	free(buf);
}

static void other_transactions(void **state)
{
	struct sorter_stats s;
	struct qcow2 *q;
	struct disk *d;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_with("a", "sorter", "off");
	q = d->priv;
	scattered(d, 0, CLUSTER, 5);
	sorter_stats(q->sorter, &s);
	assert_int_equal(s.physical, 64);
	assert_int_equal(q->stats.transactions, 64);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

static void ended(struct disk_req *r)
{
	r->priv = r;
}

/* As a guest would: the loop turns, nothing is drained. */
static int turn(struct disk *d, enum disk_op op, uint64_t off, void *buf, uint64_t len)
{
	struct iovec v = {buf, len};
	struct disk_req r = {
		.op = op, .offset = off, .len = len, .iov = &v, .niov = 1, .done = ended};

	disk_submit(d, &r);
	while (r.priv != &r)
		uv_run(&rig.loop, UV_RUN_ONCE);
	return r.result;
}

static void on_idle(uv_idle_t *h)
{
}

/* Entries stay in memory until a flush, a drain, or for a second: on a slow host that may come at any time. */
static void late(void **state)
{
	char *buf = malloc(CLUSTER);
	uv_idle_t awake; /* the disk's own handles do not keep a loop going */
	struct qcow2 *q;
	struct disk *d;

	uv_idle_init(&rig.loop, &awake);
	uv_idle_start(&awake, on_idle);
	memset(buf, 7, CLUSTER);
	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	q = d->priv;
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(turn(d, DISK_WRITE, 3 * i * CLUSTER, buf, 4096), 0);
	assert_int_equal(turn(d, DISK_READ, 3 * CLUSTER, buf, 8192), 0);
	assert_int_equal(buf[4095], 7);
	assert_int_equal(buf[4096], 0);
	assert_true(q->stats.transactions < 8);
	assert_int_equal(turn(d, DISK_FLUSH, 0, NULL, 0), 0);
	assert_true(q->stats.transactions > 0);
	assert_false(q->unlinked);
	assert_int_equal(turn(d, DISK_WRITE, CLUSTER, buf, 4096), 0);
	disk_drain(d);
	assert_false(q->unlinked);
	assert_int_equal(turn(d, DISK_WRITE, 2 * CLUSTER, buf, 4096), 0);
	/* By the timer alone. */
	while (q->unlinked || disk_in_flight(d))
		uv_run(&rig.loop, UV_RUN_NOWAIT);
	/* What cannot be written then is told by the next request, and is not lost. */
	rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_WRITE,
		.off = q->l1[0] & Q_OFFSET,
		.len = CLUSTER,
		.count = 2,
		.error = -ENOSPC};
	rig.devs.nfaults = 1;
	assert_int_equal(turn(d, DISK_WRITE, 4 * CLUSTER, buf, 4096), 0);
	disk_drain(d);
	assert_int_equal(turn(d, DISK_WRITE, 5 * CLUSTER, buf, 4096), -ENOSPC);
	rig.devs.nfaults = 0;
	assert_int_equal(turn(d, DISK_FLUSH, 0, NULL, 0), 0);
	expect(d, 4 * CLUSTER, 4096, 7);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	d = open_rw("a");
	expect(d, 4 * CLUSTER, 4096, 7);
	disk_close(d);
	uv_close((uv_handle_t *)&awake, NULL);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	free(buf);
}

/*
 * A flush after each allocation: after a few of them the next clusters are written with zeroes ahead, and the entry is in the file before the flush
 * comes. A host that cannot is not the guest's business; who writes much at a time gets neither; what is not used goes when the disk is closed.
 */
static void synced(void **state)
{
	char *buf = malloc(MiB);
	struct qcow2 *q;
	struct disk *d;
	uint64_t n, end;

	memset(buf, 9, MiB);
	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	q = d->priv;
	for (unsigned i = 0; i < 40; i++) {
		rig.devs.nfaults = i == Q_FEW_TIMES;
		rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_FILL, .error = -ENOSPC};
		assert_int_equal(turn(d, DISK_WRITE, 5 * i * CLUSTER + 512, buf, 4096), 0);
		while (q->few == Q_FEW_TIMES && q->unlinked)
			uv_run(&rig.loop, UV_RUN_ONCE);
		while (disk_in_flight(d))
			uv_run(&rig.loop, UV_RUN_ONCE);
		n = q->stats.transactions;
		assert_int_equal(turn(d, DISK_FLUSH, 0, NULL, 0), 0);
		if (i == Q_FEW_TIMES)
			assert_int_equal(q->few, 1);
		else if (i > 2 * Q_FEW_TIMES)
			assert_int_equal(q->stats.transactions, n);
	}
	n = q->stats.ahead_bytes;
	assert_in_range(n, 16 * CLUSTER, 80 * CLUSTER);
	assert_true(q->reserve.ahead > q->reserve.at);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(turn(d, DISK_WRITE, (201 + i) * CLUSTER, buf, CLUSTER), 0);
	assert_int_equal(turn(d, DISK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(q->few, 0);
	assert_int_equal(turn(d, DISK_WRITE, 512 * CLUSTER, buf, MiB), 0);
	assert_in_range(q->stats.ahead_bytes, n, n + MiB);
	end = q->reserve.at * CLUSTER;
	disk_close(d);
	assert_int_equal(memdev_size(&rig.devs, "a"), end);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	d = open_rw("a");
	for (unsigned i = 0; i < 40; i++) {
		expect(d, 5 * i * CLUSTER, 512, 0);
		expect(d, 5 * i * CLUSTER + 512, 4096, 9);
		expect(d, 5 * i * CLUSTER + 4608, CLUSTER - 4608, 0);
	}
	expect(d, 201 * CLUSTER, 16 * CLUSTER, 9);
	expect(d, 512 * CLUSTER, MiB, 9);
	disk_close(d);
	free(buf);
}

/* Nothing is in flight afterwards, of the disk's own neither. */
static void settled(struct disk *d, uint64_t off, char *buf, uint64_t len)
{
	assert_int_equal(turn(d, DISK_WRITE, off, buf, len), 0);
	while (disk_in_flight(d))
		uv_run(&rig.loop, UV_RUN_ONCE);
}

/*
 * Small writes that fill one cluster after the other find zeroes there, written ahead; those that jump over clusters, large ones, and those that come many at a
 * time do without.
 */
static void filled(void **state)
{
	char *buf = malloc(CLUSTER);
	struct qcow2 *q;
	struct disk *d;
	uint64_t end;

	memset(buf, 9, CLUSTER);
	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	q = d->priv;
	for (unsigned i = 0; i < 20; i++)
		settled(d, (100 + i) * CLUSTER + 512, buf, 4096);
	for (unsigned i = 0; i < 20; i++)
		settled(d, (150 + i) * CLUSTER, buf, CLUSTER);
	assert_int_equal(q->stats.ahead_bytes, 0);
	for (unsigned i = 0; i < 44 * CLUSTER / 4096; i++)
		settled(d, i * 4096, buf, 4096);
	assert_in_range(q->stats.ahead_bytes, 30 * CLUSTER, 70 * CLUSTER);
	assert_true(q->reserve.ahead > q->reserve.at);
	end = q->reserve.at * CLUSTER;
	disk_close(d);
	assert_int_equal(memdev_size(&rig.devs, "a"), end);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	d = open_rw("a");
	expect(d, 0, 44 * CLUSTER, 9);
	for (unsigned i = 0; i < 20; i++) {
		expect(d, (100 + i) * CLUSTER, 512, 0);
		expect(d, (100 + i) * CLUSTER + 512, 4096, 9);
		expect(d, (100 + i) * CLUSTER + 4608, CLUSTER - 4608, 0);
		expect(d, (150 + i) * CLUSTER, CLUSTER, 9);
	}
	disk_close(d);
	free(buf);
}

/* A host that has no space for zeroes ahead: the guest is told only of what has no place itself. */
static void filled_short(void **state)
{
	char *buf = malloc(4096);
	uint64_t n = 0;
	struct disk *d;
	int rc;

	memset(buf, 9, 4096);
	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	for (; n < 20 * CLUSTER; n += 4096)
		settled(d, n, buf, 4096);
	rig.devs.capacity = memdev_size(&rig.devs, "a") + 3 * CLUSTER;
	while (!(rc = turn(d, DISK_WRITE, n, buf, 4096)))
		n += 4096;
	assert_int_equal(rc, -ENOSPC);
	assert_true(n >= 23 * CLUSTER);
	assert_true(memdev_size(&rig.devs, "a") <= rig.devs.capacity);
	rig.devs.capacity = 0;
	for (; n < 60 * CLUSTER; n += 4096)
		settled(d, n, buf, 4096);
	expect(d, 0, 60 * CLUSTER, 9);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	free(buf);
}

static uint64_t place_of(struct disk *d, uint64_t off)
{
	struct disk_extent x;

	assert_int_equal(disk_block_status(d, off, CLUSTER, &x, &rig.e), 0);
	return x.flags & DISK_EXT_DATA ? x.addr : 0;
}

/* What is given up is not used again before the flush has ended that makes the loss of the last reference durable. */
static void freed_late(void **state)
{
	struct disk_req flush = {.op = DISK_FLUSH, .done = ended};
	char *buf = malloc(CLUSTER);
	uint64_t was, again = 0;
	struct disk *d;

	memset(buf, 9, CLUSTER);
	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	assert_int_equal(turn(d, DISK_WRITE, 0, buf, CLUSTER), 0);
	assert_int_equal(turn(d, DISK_FLUSH, 0, NULL, 0), 0);
	was = place_of(d, 0);
	assert_int_equal(turn(d, DISK_DISCARD, 0, NULL, CLUSTER), 0);
	rig.devs.seed = 1; /* others go past it */
	rig.devs.nfaults = 1;
	rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_FLUSH, .turns = 1000000};
	disk_submit(d, &flush);
	for (unsigned i = 1; i < 60; i++) {
		assert_int_equal(turn(d, DISK_WRITE, i * CLUSTER, buf, CLUSTER), 0);
		assert_int_not_equal(place_of(d, i * CLUSTER), was);
	}
	assert_null(flush.priv); /* not yet */
	rig.devs.nfaults = 0;
	disk_drain(d);
	for (unsigned i = 60; i < 400; i++) {
		assert_int_equal(turn(d, DISK_WRITE, i * CLUSTER, buf, CLUSTER), 0);
		again += place_of(d, i * CLUSTER) == was;
	}
	assert_int_equal(again, 1);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	free(buf);
}

/* Clusters that are larger than what is written ahead at a time: one of them. */
static void filled_large(void **state)
{
	const struct disk_kv kv[] = {{"cluster-size", "2M"}, {0}};
	char *buf = malloc(Q_SMALL_BYTES);
	struct qcow2 *q;
	struct disk *d;

	memset(buf, 9, Q_SMALL_BYTES);
	assert_int_equal(make("a", kv, NULL, NULL), 0);
	d = open_rw("a");
	q = d->priv;
	for (unsigned i = 0; i < 7 * 2 * MiB / Q_SMALL_BYTES; i++)
		settled(d, (uint64_t)i * Q_SMALL_BYTES, buf, Q_SMALL_BYTES);
	assert_in_range(q->stats.ahead_bytes, 2 * MiB, 4 * 2 * MiB);
	assert_int_equal(q->filled, Q_SMALL_TIMES);
	expect(d, 0, 7 * 2 * MiB, 9);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	free(buf);
}

static void repair(void **state)
{
	struct disk_check c;
	uint64_t l2, rt, rb, first;
	struct disk *d;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, 2 * CLUSTER, 1);
	disk_close(d);
	l2 = peek("a", peek("a", QCOW2_AT_L1)) & Q_OFFSET;
	rt = peek("a", QCOW2_AT_RT);
	rb = peek("a", rt);
	first = peek("a", l2);
	/* A count too high is a leak, one too low an error. */
	poke("a", rb + 2 * 100, 1, 2);
	poke("a", rb + 2 * ((first & Q_OFFSET) / CLUSTER), 0, 2);
	c = check("a", false);
	assert_int_equal(c.leaks, 1);
	assert_true(c.errors >= 1);
	c = check("a", true);
	assert_int_equal(c.errors + c.leaks, 0);
	assert_int_equal(c.fixed_leaks, 1);
	/* Two guest clusters in one place: both keep what they show, and a write separates them. */
	poke("a", l2 + 8, first, 8);
	assert_true(check("a", true).fixed_errors > 0);
	assert_int_equal(check("a", false).errors, 0);
	d = open_rw("a");
	expect(d, CLUSTER, CLUSTER, 1);
	fill(d, CLUSTER, 512, 2);
	expect(d, 0, CLUSTER, 1);
	disk_close(d);
	/* Without refcount blocks: a new table. */
	poke("a", rt, 0, 8);
	assert_true(check("a", false).errors > 0);
	assert_true(check("a", true).fixed_errors > 0);
	c = check("a", false);
	assert_int_equal(c.errors + c.leaks, 0);
	d = open_rw("a");
	expect(d, 0, CLUSTER, 1);
	expect(d, CLUSTER, 512, 2);
	fill(d, 8 * CLUSTER, CLUSTER, 9);
	disk_close(d);
	assert_int_equal(check("a", false).errors, 0);
}

static const struct disk_kv small[] = {{"cluster-size", "4K"}, {0}};

static void clean(const char *name)
{
	struct disk_check c = check(name, false);

	assert_int_equal(c.errors + c.leaks, 0);
}

static uint64_t l1_of(const char *name)
{
	return peek(name, QCOW2_AT_L1);
}

static uint64_t l2_of(const char *name)
{
	return peek(name, l1_of(name)) & Q_OFFSET;
}

/* An L1 entry leads to the guest's data: that stays, byte for byte, and the table, whatever it says, gets a place of its own. */
static void table_in_data(void **state)
{
	for (unsigned lazy = 0; lazy < 2; lazy++) {
		uint64_t entry, at;
		struct disk *d;

		memdevs_free(&rig.devs);
		assert_int_equal(make("a", small, NULL, NULL), 0);
		d = open_rw("a");
		fill(d, 0, 32 * KiB, 0x87);
		disk_close(d);
		entry = peek("a", l2_of("a") + 8);
		at = entry & Q_OFFSET;
		poke("a", l1_of("a") + 8, entry, 8);
		assert_true(check("a", false).errors);
		if (lazy) { /* what opening mends by itself is not that; but nothing is lost */
			poke("a", QCOW2_AT_INCOMPATIBLE, QCOW2_DIRTY, 8);
			disk_close(open_rw("a"));
			assert_int_equal(peek("a", at), 0x8787878787878787);
			assert_int_equal(peek("a", l1_of("a") + 8), at);
		}
		assert_true(check("a", true).fixed_errors);
		clean("a");
		assert_int_equal(peek("a", l2_of("a") + 8), entry);
		d = open_rw("a");
		expect(d, 0, 32 * KiB, 0x87);
		expect(d, 2 * MiB, 2 * MiB, 0);
		fill(d, 2 * MiB, 64 * KiB, 8);
		expect(d, 0, 32 * KiB, 0x87);
		disk_close(d);
		clean("a");
	}
}

/* The same in the table of a snapshot: what the disk shows stays. */
static void old_table_in_data(void **state)
{
	uint64_t entry, l1;
	struct disk *d;

	assert_int_equal(make("a", small, NULL, NULL), 0);
	d = open_rw("a");
	assert_int_equal(disk_snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), 0);
	fill(d, 0, 32 * KiB, 7);
	disk_close(d);
	entry = peek("a", l2_of("a") + 8);
	l1 = peek("a", peek("a", QCOW2_AT_SNAPSHOTS));
	poke("a", l1 + 8, entry & Q_OFFSET, 8);
	assert_true(check("a", false).errors);
	poke("a", QCOW2_AT_INCOMPATIBLE, QCOW2_DIRTY, 8);
	d = open_rw("a");
	expect(d, 0, 32 * KiB, 7);
	disk_close(d);
	assert_true(check("a", true).fixed_errors);
	clean("a");
	d = open_rw("a");
	expect(d, 0, 32 * KiB, 7);
	assert_int_equal(disk_snapshot(d, DISK_SNAP_APPLY, "s", &rig.e), 0);
	expect(d, 0, 4 * MiB, 0);
	disk_close(d);
	clean("a");
}

/* Two entries have one cluster, as two L1 entries may have one table: each gets its own, and all flags are as they should be, also after a write to one. */
static void one_cluster_twice(void **state)
{
	static const char *const bits[] = {"16", "1"};

	for (unsigned i = 0; i < 6; i++) {
		const struct disk_kv kv[] = {
			{"cluster-size", "4K"}, {"refcount-bits", bits[i % 2]}, {0}};
		bool tables = i / 2 == 1, blocks = i / 2 == 2;
		uint64_t l2;
		struct disk *d;

		memdevs_free(&rig.devs);
		assert_int_equal(make("a", kv, NULL, NULL), 0);
		d = open_rw("a");
		fill(d, 0, 64 * KiB, 1);
		disk_close(d);
		l2 = l2_of("a");
		if (tables)
			poke("a", l1_of("a") + 8, l2 | Q_COPIED, 8);
		else
			poke("a", l2 + 16 * 8, peek("a", l2), 8);
		if (blocks)
			poke("a", peek("a", QCOW2_AT_RT), 0, 8);
		assert_true(check("a", false).errors);
		assert_true(check("a", true).fixed_errors);
		clean("a");
		d = open_rw("a");
		expect(d, tables ? 2 * MiB : 64 * KiB, 4096, 1);
		fill(d, tables ? 2 * MiB : 64 * KiB, 512, 2);
		expect(d, 0, 64 * KiB, 1);
		fill(d, 0, 512, 3);
		expect(d, tables ? 2 * MiB : 64 * KiB, 512, 2);
		disk_close(d);
		clean("a");
	}
}

/* What would need too many copies goes on sharing; where the counts have no room for that, nobody writes there. */
static void many_times(void **state)
{
	for (unsigned bits = 0; bits < 2; bits++) {
		const struct disk_kv kv[] = {
			{"cluster-size", "4K"}, {"refcount-bits", bits ? "16" : "1"}, {0}};
		struct disk_check c;
		uint64_t size, l2;
		struct disk *d;

		memdevs_free(&rig.devs);
		assert_int_equal(make("a", kv, NULL, NULL), 0);
		d = open_rw("a");
		fill(d, 0, 4096, 1);
		disk_close(d);
		l2 = l2_of("a");
		size = memdev_size(&rig.devs, "a");
		for (unsigned i = 1; i < 512; i++)
			poke("a", l2 + i * 8, peek("a", l2), 8);
		c = check("a", true);
		assert_true(c.fixed_errors && c.errors);
		assert_in_range(memdev_size(&rig.devs, "a"), size + 4096, 2 * size + 32 * 4096);
		assert_true(check("a", false).errors);
		if (!bits) {
			refused("a", -EUCLEAN, "damaged");
			assert_int_equal(try_open(&d, "a", true, false), 0);
		} else {
			d = open_rw("a");
			fill(d, MiB, 512, 2);
		}
		expect(d, 0, MiB, 1);
		expect(d, MiB + 4096, MiB - 4096, 1);
		disk_close(d);
	}
}

/* Entries lead into tables: what they show they go on showing, elsewhere. */
static void entries_into_tables(void **state)
{
	struct disk *d;
	uint64_t at[5], l2;

	assert_int_equal(make("a", small, NULL, NULL), 0);
	d = open_rw("a");
	assert_int_equal(disk_qcow2.bitmap(d, DISK_BITMAP_ADD, "b", 65536, &rig.e), 0);
	assert_int_equal(disk_snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), 0);
	fill(d, 0, 4096, 1);
	disk_close(d);
	l2 = l2_of("a");
	at[0] = l1_of("a");
	at[1] = l2;
	at[2] = peek("a", QCOW2_AT_RT);
	at[3] = peek("a", at[2]);
	at[4] = peek("a", QCOW2_AT_SNAPSHOTS);
	for (unsigned i = 0; i < 5; i++)
		poke("a", l2 + (1 + i) * 8, at[i] | Q_COPIED, 8);
	assert_true(check("a", false).errors >= 5);
	assert_true(check("a", true).fixed_errors >= 5);
	clean("a");
	d = open_rw("a");
	expect(d, 0, 4096, 1);
	for (unsigned i = 0; i < 5; i++)
		fill(d, (1 + i) * 4096, 512, 2);
	expect(d, 0, 4096, 1);
	disk_close(d);
	clean("a");
	d = open_rw("a");
	assert_int_equal(disk_snapshot(d, DISK_SNAP_APPLY, "s", &rig.e), 0);
	expect(d, 0, 64 * KiB, 0);
	disk_close(d);
	clean("a");
}

/* A snapshot may claim to be of any size: one that no disk can have is not gone back to, and looking at it ends. */
static void snapshot_of_any_size(void **state)
{
	static const uint64_t sizes[] = {1ull << 61, SIZE + 1, SIZE};
	const struct disk_kv kv[] = {{"snapshot", "s"}, {0}};
	struct disk_opts o = {.path = "a",
		.format = "qcow2",
		.readonly = true,
		.kv = kv,
		.loop = &rig.loop,
		.open_file = memdevs_open,
		.open_ctx = &rig.devs};
	struct disk_extent x;
	struct disk *d;

	assert_int_equal(make("a", small, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, 4096, 1);
	assert_int_equal(disk_snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), 0);
	disk_close(d);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		poke("a", peek("a", QCOW2_AT_SNAPSHOTS) + 40 + 8, sizes[i], 8);
		assert_int_equal(disk_open(&d, &o, &rig.e), 0);
		assert_int_equal(
			disk_block_status(d, 4096, sizes[i] / 512 * 512 - 4096, &x, &rig.e), 0);
		assert_false(x.flags & DISK_EXT_DATA);
		disk_close(d);
		d = open_rw("a");
		assert_int_equal(
			disk_snapshot(d, DISK_SNAP_APPLY, "s", &rig.e), i < 2 ? -EUCLEAN : 0);
		expect(d, 0, 4096, 1);
		disk_close(d);
		clean("a");
	}
}

static int open_device(
	struct file **out, struct files *fs, const struct file_opts *o, struct err *e)
{
	int rc = memdevs_open(out, fs, o, e);

	if (!rc)
		(*out)->block_device = true;
	return rc;
}

static struct disk *device(const char *name, bool force)
{
	struct disk_opts o = {.path = name,
		.format = "qcow2",
		.force = force,
		.offline = true,
		.loop = &rig.loop,
		.open_file = open_device,
		.open_ctx = &rig.devs};
	struct disk *d;

	assert_int_equal(disk_open(&d, &o, &rig.e), 0);
	return d;
}

static int repair_device(const char *name, struct disk_check *c)
{
	struct disk *d = device(name, true);
	int rc = disk_qcow2.check(d, true, NULL, c, &rig.e);

	disk_close(d);
	return rc;
}

/* A block device does not become longer: new counts come where there is room in it, and copies too. */
static void repair_in_device(void **state)
{
	struct disk_check c;
	char last = 0;
	struct disk *d;
	uint64_t l2, rt;

	assert_int_equal(make("a", small, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, 64 * KiB, 1);
	disk_close(d);
	rig.devs.capacity = memdev_size(&rig.devs, "a") + 256 * KiB;
	assert_int_equal(memdev_poke(&rig.devs, "a", rig.devs.capacity - 1, &last, 1), 0);
	l2 = l2_of("a");
	rt = peek("a", QCOW2_AT_RT);
	poke("a", rt, 0, 8);
	poke("a", l2 + 16 * 8, peek("a", l2), 8);
	assert_int_equal(repair_device("a", &c), 0);
	assert_true(c.fixed_errors && !c.errors);
	assert_int_equal(memdev_size(&rig.devs, "a"), rig.devs.capacity);
	clean("a");
	d = device("a", false);
	expect(d, 0, 68 * KiB, 1);
	/* When it is full there is no room, and it stays as it is. */
	for (uint64_t at = 128 * KiB; !rw(d, DISK_WRITE, at, rig.e.msg, 512); at += 4096)
		;
	disk_close(d);
	clean("a");
	poke("a", peek("a", QCOW2_AT_RT), 1, 8);
	assert_int_equal(repair_device("a", &c), -ENOSPC);
	assert_non_null(strstr(rig.e.msg, "in a row"));
	d = device("a", true);
	expect(d, 0, 68 * KiB, 1);
	disk_close(d);
}

static void dirty_bit(void **state)
{
	struct disk *d;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, CLUSTER, 1);
	disk_close(d);
	poke("a", peek("a", peek("a", QCOW2_AT_RT)) + 2 * 4, 0, 2);
	poke("a", QCOW2_AT_INCOMPATIBLE, QCOW2_DIRTY, 8);
	assert_true(check("a", false).errors > 0);
	d = open_rw("a");
	assert_int_equal(peek("a", QCOW2_AT_INCOMPATIBLE), 0);
	expect(d, 0, CLUSTER, 1);
	disk_close(d);
	assert_int_equal(check("a", false).errors, 0);
}

/* An entry that leads into a table is found when it is met; nothing is written there, and the header says so. */
static void entry_into_table(void **state)
{
	struct disk *d;
	uint64_t l2;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, CLUSTER, 1);
	disk_close(d);
	l2 = peek("a", peek("a", QCOW2_AT_L1)) & Q_OFFSET;
	poke("a", l2, l2 | Q_COPIED, 8);
	d = open_rw("a");
	assert_int_equal(rw(d, DISK_WRITE, 0, rig.e.msg, 512), -EIO);
	disk_close(d);
	assert_int_equal(peek("a", l2), l2 | Q_COPIED);
	assert_int_equal(peek("a", QCOW2_AT_INCOMPATIBLE), QCOW2_CORRUPT);
	refused("a", -EUCLEAN, "damaged");
}

static void packed(void **state)
{
	for (unsigned zstd = 0; zstd < 2; zstd++) {
		struct disk_kv kv[] = {{"compression-type", zstd ? "zstd" : "zlib"}, {0}};
		const char *name = zstd ? "z" : "d";
		char *buf = malloc(4 * CLUSTER);
		struct disk *d;

		assert_int_equal(make(name, kv, NULL, NULL), 0);
		d = open_rw(name);
		memset(buf, 7, 4 * CLUSTER);
		for (unsigned i = 0; i < CLUSTER; i++) /* one that does not get smaller */
			buf[CLUSTER + i] = (char)(i * 2654435761u >> 13);
		assert_int_equal(disk_qcow2.write_compressed(d, 0, buf, 4 * CLUSTER, &rig.e), 0);
		expect(d, 0, CLUSTER, 7);
		fill(d, 3 * CLUSTER + 512, 512, 8);
		expect(d, 3 * CLUSTER, 512, 7);
		expect(d, 3 * CLUSTER + 512, 512, 8);
		expect(d, 3 * CLUSTER + 1024, CLUSTER - 1024, 7);
		disk_close(d);
		free(buf);
		assert_int_equal(check(name, false).errors + check(name, false).leaks, 0);
		assert_true(check(name, false).compressed >= 2);
	}
}

static void host_full(void **state)
{
	struct disk *d;
	unsigned good = 0;
	char buf[4096];

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	memset(buf, 5, sizeof(buf));
	rig.devs.capacity = 2 * MiB;
	for (unsigned i = 0; i < 64; i++)
		if (!rw(d, DISK_WRITE, i * CLUSTER, buf, sizeof(buf)))
			good++;
	assert_in_range(good, 8, 40);
	rig.devs.capacity = 0;
	/* There is room again: what failed can be written, what was acknowledged is there. */
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(rw(d, DISK_WRITE, i * CLUSTER + 4096, buf, sizeof(buf)), 0);
	assert_int_equal(rw(d, DISK_FLUSH, 0, NULL, 0), 0);
	for (unsigned i = 0; i < good; i++)
		expect(d, i * CLUSTER, 8192, 5);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

static void flush_fails(void **state)
{
	struct disk *d;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, CLUSTER, 1);
	rig.devs.fault[0] = (struct memdev_fault){
		.ops = 1u << FILE_FLUSH, .error = -EIO, .count = 1};
	rig.devs.nfaults = 1;
	assert_int_equal(rw(d, DISK_FLUSH, 0, NULL, 0), -EIO);
	/* What could not be made durable is tried again. */
	assert_int_equal(rw(d, DISK_FLUSH, 0, NULL, 0), 0);
	disk_close(d);
	d = open_rw("a");
	expect(d, 0, CLUSTER, 1);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

static void snapshots_and_bitmaps(void **state)
{
	struct disk_bitmap *b;
	uint64_t len = SIZE;
	bool dirty;
	struct disk *d;
	unsigned n;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, CLUSTER, 1);
	assert_int_equal(disk_qcow2.snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), 0);
	assert_int_equal(disk_qcow2.snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), -EEXIST);
	assert_int_equal(disk_qcow2.bitmap(d, DISK_BITMAP_ADD, "b", 65536, &rig.e), 0);
	fill(d, 4096, 4096, 2);
	disk_close(d);
	d = open_rw("a");
	assert_int_equal(disk_qcow2.bitmaps(d, &b, &n, &rig.e), 0);
	assert_int_equal(n, 1);
	assert_int_equal(b->dirty, 65536);
	assert_false(b->busy);
	free(b);
	assert_int_equal(disk_qcow2.bitmap_status(d, "b", 0, &len, &dirty, &rig.e), 0);
	assert_true(dirty);
	assert_int_equal(len, 65536);
	assert_int_equal(disk_qcow2.snapshot(d, DISK_SNAP_APPLY, "s", &rig.e), 0);
	expect(d, 0, CLUSTER, 1);
	assert_int_equal(disk_qcow2.snapshot(d, DISK_SNAP_DELETE, "s", &rig.e), 0);
	assert_int_equal(disk_qcow2.snapshot(d, DISK_SNAP_DELETE, "s", &rig.e), -ENOENT);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

/* Bitmaps are as long as the disk: made longer, shorter, gone back to a snapshot of another size; and know of all that a snapshot has changed. */
static void bitmaps_and_sizes(void **state)
{
	struct disk_bitmap *b;
	uint64_t len;
	struct disk *d;
	unsigned n;
	bool dirty;

	/* A map of exactly one cluster. */
	assert_int_equal(
		make("a", (struct disk_kv[]){{"cluster-size", "512B"}, {0}}, NULL, NULL), 0);
	d = open_rw("a");
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_ADD, "b", 16384, &rig.e), 0);
	fill(d, 0, 512, 1);
	assert_int_equal(disk_snapshot(d, DISK_SNAP_CREATE, "s", &rig.e), 0);
	fill(d, SIZE - 512, 512, 1);
	assert_int_equal(disk_resize(d, SIZE + 4 * MiB, &rig.e), 0);
	fill(d, SIZE + MiB, 512, 2);
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_CLEAR, "b", 0, &rig.e), 0);
	assert_int_equal(disk_bitmaps(d, &b, &n, &rig.e), 0);
	assert_int_equal(b->dirty, 0);
	free(b);
	/* Shorter, then cleared: the map is not what it was. */
	assert_int_equal(disk_resize(d, 8 * MiB, &rig.e), 0);
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_CLEAR, "b", 0, &rig.e), 0);
	assert_int_equal(disk_snapshot(d, DISK_SNAP_APPLY, "s", &rig.e), 0);
	assert_int_equal(disk_size(d), SIZE);
	fill(d, SIZE - 512, 512, 3);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
	d = open_rw("a");
	len = SIZE;
	assert_int_equal(disk_bitmap_status(d, "b", 0, &len, &dirty, &rig.e), 0);
	assert_true(dirty);
	assert_int_equal(len, SIZE);
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_CLEAR, "b", 0, &rig.e), 0);
	assert_int_equal(disk_resize(d, SIZE - MiB, &rig.e), 0);
	disk_close(d);
	d = open_rw("a");
	len = SIZE - MiB;
	assert_int_equal(disk_bitmap_status(d, "b", 0, &len, &dirty, &rig.e), 0);
	assert_false(dirty);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

/* However many bitmaps an image has, what of them is in memory is bounded. */
static void many_bitmaps(void **state)
{
	struct disk_kv kv[] = {{"cluster-size", "2M"}, {0}};
	struct disk *d;
	char name[8];

	assert_int_equal(make("a", kv, NULL, NULL), 0);
	d = open_rw("a");
	assert_int_equal(disk_resize(d, 256 * GiB, &rig.e), 0); /* 64 MiB for each */
	for (unsigned i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		assert_int_equal(
			disk_bitmap(d, DISK_BITMAP_ADD, name, 512, &rig.e), i < 4 ? 0 : -EFBIG);
	}
	assert_non_null(strstr(rig.e.msg, "256 MiB"));
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_ADD, "small", 1 << 30, &rig.e), -EFBIG);
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_REMOVE, "b0", 0, &rig.e), 0);
	assert_int_equal(disk_bitmap(d, DISK_BITMAP_ADD, "small", 1 << 30, &rig.e), 0);
	disk_close(d);
	d = open_rw("a");
	fill(d, GiB, 512, 1);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

/* What another process finds behind a power cut: the backing file's name, and how many bitmaps there are. -1: it does not open. */
static int found(struct memdevs *devs, char *name, size_t size)
{
	struct disk_opts o = {.path = "a",
		.format = "qcow2",
		.readonly = true,
		.no_backing = true,
		.loop = &rig.loop,
		.open_file = memdevs_open,
		.open_ctx = devs};
	struct disk_bitmap *b;
	struct disk *d;
	unsigned n;

	if (disk_open(&d, &o, &rig.e))
		return -1;
	snprintf(name, size, "%s:%s", d->backing_path ?: "", d->backing_format ?: "");
	assert_int_equal(disk_bitmaps(d, &b, &n, &rig.e), 0);
	free(b);
	disk_close(d);
	return (int)n;
}

/* Each change of the header's names is there as a whole or not at all, whichever sectors a power cut leaves. */
static void header_and_power(void **state)
{
	char name[1200], was[1200], now[1200], longest[901];
	const struct {
		const char *path, *format;
		bool bitmap;
	} steps[] = {{"base", "raw", false}, {"base", "raw", true}, {longest, "qcow2", true},
		{"b", "raw", true}, {NULL, NULL, true}, {longest, "raw", true},
		{longest, "raw", false}, {NULL, NULL, false}};
	struct disk *d;
	unsigned cuts = 0;

	memset(longest, 'l', sizeof(longest) - 1);
	longest[900] = 0;
	for (unsigned k = 0; k < 2; k++) {
		struct disk_kv kv[] = {{"cluster-size", k ? "4K" : "64K"}, {0}};

		assert_int_equal(make("a", kv, NULL, NULL), 0);
		snprintf(was, sizeof(was), ":");
		for (unsigned i = 0, had = 0; i < ARRAY_SIZE(steps); i++) {
			if (try_open(&d, "a", false, false) == -ENOENT) { /* as `rebase --unsafe` */
				struct disk_opts o = {.path = "a",
					.format = "qcow2",
					.no_backing = true,
					.offline = true,
					.loop = &rig.loop,
					.open_file = memdevs_open,
					.open_ctx = &rig.devs};

				assert_int_equal(disk_open(&d, &o, &rig.e), 0);
			}
			assert_int_equal(memdevs_record(&rig.devs), 0);
			if (steps[i].bitmap != (had > 0))
				assert_int_equal(disk_bitmap(d,
							 steps[i].bitmap ? DISK_BITMAP_ADD
									 : DISK_BITMAP_REMOVE,
							 "b", 65536, &rig.e),
					0);
			else
				assert_int_equal(disk_qcow2.set_backing(
							 d, steps[i].path, steps[i].format, &rig.e),
					0);
			snprintf(now, sizeof(now), "%s:%s", steps[i].path ?: "",
				steps[i].format ?: "");
			for (uint64_t p = 0; p <= memdevs_events(&rig.devs); p++)
				for (unsigned v = 0; v < 8; v++, cuts++) {
					struct memdevs after = {0};
					int n;

					assert_int_equal(memdevs_crash(&rig.devs, p, v, &after), 0);
					n = found(&after, name, sizeof(name));
					if (n != (int)had && n != steps[i].bitmap)
						fail_msg("step %u, point %llu: %d bitmaps: %s", i,
							(unsigned long long)p, n, err_msg(&rig.e));
					if (strcmp(name, was) && strcmp(name, now))
						fail_msg("step %u, point %llu: %.40s", i,
							(unsigned long long)p, name);
					memdevs_free(&after);
				}
			disk_close(d);
			had = (unsigned)found(&rig.devs, name, sizeof(name));
			assert_int_equal(had, steps[i].bitmap);
			assert_string_equal(name, now);
			snprintf(was, sizeof(was), "%s", now);
		}
		assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
		memdevs_free(&rig.devs);
		rig.devs = (struct memdevs){0};
	}
	print_message("%u power cuts\n", cuts);
}

/* Another backing file with data where nothing was: the zeroes stay, in each version of the format. */
static void rebase(void **state)
{
	static const struct disk_kv old[] = {{"compat", "0.10"}, {0}},
				    sub[] = {{"extended-l2", "on"}, {0}},
				    *const kinds[] = {NULL, old, sub};
	struct disk *d, *now;
	uint64_t copied;

	assert_int_equal(make("base", NULL, NULL, NULL), 0);
	d = open_rw("base");
	fill(d, 0, SIZE, 9);
	disk_close(d);
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		char name[] = {(char)('a' + i), 0};

		assert_int_equal(make(name, kinds[i], NULL, NULL), 0);
		d = open_rw(name);
		fill(d, CLUSTER + 4096, 4096, 1);
		assert_int_equal(try_open(&now, "base", true, false), 0);
		assert_int_equal(disk_rebase(d, now, NULL, &copied, &rig.e), 0);
		assert_int_equal(disk_qcow2.set_backing(d, "base", "qcow2", &rig.e), 0);
		disk_close(now);
		disk_close(d);
		d = open_rw(name);
		assert_non_null(d->backing);
		expect(d, 0, CLUSTER + 4096, 0);
		expect(d, CLUSTER + 4096, 4096, 1);
		expect(d, CLUSTER + 8192, SIZE - CLUSTER - 8192, 0);
		disk_close(d);
		assert_int_equal(check(name, false).errors + check(name, false).leaks, 0);
	}
}

/* Giving space back is a hint, once for all that lies together: when the host fails that, nobody's write does. */
static void punch_fails(void **state)
{
	struct disk *d;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	fill(d, 0, 4 * CLUSTER, 1);
	assert_int_equal(rw(d, DISK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(rw(d, DISK_DISCARD, 0, NULL, 4 * CLUSTER), 0);
	assert_int_equal(rw(d, DISK_FLUSH, 0, NULL, 0), 0);
	rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_DISCARD, .error = -EIO};
	rig.devs.nfaults = 1;
	fill(d, 8 * CLUSTER, 4096, 2);
	assert_int_equal(rig.devs.faults_hit, 1);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

/* An entry of the refcount table points to the guest's data: counts are made anew elsewhere, and the data stays. */
static void block_in_data(void **state)
{
	struct disk_check c;
	struct q_map m;
	struct qcow2 *q;
	struct disk *d;
	uint64_t rt;

	assert_int_equal(make("a", NULL, NULL, NULL), 0);
	d = open_rw("a");
	q = d->priv;
	fill(d, 0, CLUSTER, 7);
	assert_int_equal(q_map(q, 0, CLUSTER, false, &m), 0);
	rt = q->h.rt_off;
	disk_close(d);
	poke("a", rt, m.host, 8);
	assert_true(check("a", false).errors);
	c = check("a", true);
	assert_true(c.fixed_errors && !c.errors);
	d = open_rw("a");
	expect(d, 0, CLUSTER, 7);
	fill(d, CLUSTER, 4 * CLUSTER, 8);
	expect(d, 0, CLUSTER, 7);
	disk_close(d);
	assert_int_equal(check("a", false).errors + check("a", false).leaks, 0);
}

/* Adding or removing a bitmap fails at each operation of the file in turn: the header stays, what the disk holds and the other bitmap too. */
static void bitmap_fails(void **state)
{
	static const enum disk_bitmap_op what[] = {
		DISK_BITMAP_ADD, DISK_BITMAP_REMOVE, DISK_BITMAP_DISABLE, DISK_BITMAP_CLEAR};
	bool failed = true;

	for (unsigned at = 0; failed; at++) {
		failed = false;
		for (unsigned i = 0; i < 3 * ARRAY_SIZE(what); i++) {
			enum disk_bitmap_op op = what[i / 3];
			uint64_t len = SIZE;
			struct disk *d;
			bool dirty;

			memdevs_free(&rig.devs);
			assert_int_equal(make("a", NULL, NULL, NULL), 0);
			d = open_rw("a");
			fill(d, 0, CLUSTER, 1);
			assert_int_equal(
				disk_qcow2.bitmap(d, DISK_BITMAP_ADD, "old", 65536, &rig.e), 0);
			if (op != DISK_BITMAP_ADD)
				assert_int_equal(
					disk_qcow2.bitmap(d, DISK_BITMAP_ADD, "b", 512, &rig.e), 0);
			rig.devs.fault[0] = (struct memdev_fault){
				.ops = (unsigned[]){1 << FILE_WRITE, 1 << FILE_ZERO,
					1 << FILE_FLUSH}[i % 3],
				.after = at,
				.count = 1,
				.error = -EIO};
			rig.devs.nfaults = 1;
			failed |= disk_qcow2.bitmap(d, op, "b", 512, &rig.e) != 0;
			rig.devs.nfaults = 0;
			if (!((struct qcow2 *)d->priv)->corrupt)
				fill(d, 4 * CLUSTER, 4096, 2);
			disk_close(d);
			assert_int_equal(peek("a", 0) >> 32, QCOW2_MAGIC);
			d = open_rw("a");
			expect(d, 0, CLUSTER, 1);
			assert_int_equal(
				disk_qcow2.bitmap_status(d, "old", 0, &len, &dirty, &rig.e), 0);
			assert_false(dirty);
			assert_int_equal(len, 4 * CLUSTER);
			disk_close(d);
			assert_int_equal(check("a", false).errors, 0);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(widths),
		cmocka_unit_test_setup_teardown(refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(chains, setup, teardown),
		cmocka_unit_test_setup_teardown(one_transaction, setup, teardown),
		cmocka_unit_test_setup_teardown(other_transactions, setup, teardown),
		cmocka_unit_test_setup_teardown(late, setup, teardown),
		cmocka_unit_test_setup_teardown(data_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(synced, setup, teardown),
		cmocka_unit_test_setup_teardown(filled, setup, teardown),
		cmocka_unit_test_setup_teardown(filled_large, setup, teardown),
		cmocka_unit_test_setup_teardown(filled_short, setup, teardown),
		cmocka_unit_test_setup_teardown(freed_late, setup, teardown),
		cmocka_unit_test_setup_teardown(repair, setup, teardown),
		cmocka_unit_test_setup_teardown(table_in_data, setup, teardown),
		cmocka_unit_test_setup_teardown(old_table_in_data, setup, teardown),
		cmocka_unit_test_setup_teardown(one_cluster_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(many_times, setup, teardown),
		cmocka_unit_test_setup_teardown(entries_into_tables, setup, teardown),
		cmocka_unit_test_setup_teardown(snapshot_of_any_size, setup, teardown),
		cmocka_unit_test_setup_teardown(repair_in_device, setup, teardown),
		cmocka_unit_test_setup_teardown(dirty_bit, setup, teardown),
		cmocka_unit_test_setup_teardown(entry_into_table, setup, teardown),
		cmocka_unit_test_setup_teardown(packed, setup, teardown),
		cmocka_unit_test_setup_teardown(host_full, setup, teardown),
		cmocka_unit_test_setup_teardown(flush_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(snapshots_and_bitmaps, setup, teardown),
		cmocka_unit_test_setup_teardown(bitmaps_and_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(many_bitmaps, setup, teardown),
		cmocka_unit_test_setup_teardown(header_and_power, setup, teardown),
		cmocka_unit_test_setup_teardown(rebase, setup, teardown),
		cmocka_unit_test_setup_teardown(punch_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(block_in_data, setup, teardown),
		cmocka_unit_test_setup_teardown(bitmap_fails, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
