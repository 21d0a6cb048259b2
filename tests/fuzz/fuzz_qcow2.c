/*
 * fuzz_qcow2.c: a qcow2 image is hostile input: header, tables, snapshots, bitmaps, compressed clusters.
 *
 * The input is the image in pieces: four bytes of sector number (little endian, below 8192), then 512 bytes, and so on; the rest is zero. (A
 * program that makes seeds: qcow2-pack.py.) It is read in every way there is, then repaired and written to. What a repair calls good has
 * to stay good: after writes, snapshots and a new size, and after its own snapshots and bitmaps were worked on, the check must find nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SECTORS 8192u
#define PART (128u << 10)

struct rig {
	uv_loop_t loop;
	struct memdevs devs;
	uint8_t *buf;
};

static void make(struct rig *r, const char *name, const uint8_t *data, size_t size)
{
	struct files fs = {.loop = &r->loop, .open = memdevs_open, .open_ctx = &r->devs};
	struct file_opts o = {.path = name, .create = true};
	struct file *f;

	if (file_open(&f, &fs, &o, NULL))
		abort();
	for (size_t at = 0; at + 4 < size; at += 516)
		if (file_write(f, get_le32(data + at) % SECTORS * 512ull, data + at + 4,
			    MIN(size - at - 4, (size_t)512), NULL))
			abort();
	file_close(f);
}

static struct disk *open_snapshot(struct rig *r, bool readonly, bool force, const char *snapshot)
{
	const struct disk_kv kv[] = {{snapshot ? "snapshot" : NULL, snapshot}, {0}};
	struct disk_opts o = {.path = "i",
		.format = "qcow2",
		.kv = kv,
		.readonly = readonly,
		.force = force,
		.discard = true,
		.offline = true,
		.loop = &r->loop,
		.open_file = memdevs_open,
		.open_ctx = &r->devs};
	struct disk *d = NULL;
	struct err e = {0};

	/* Errors have words. */
	if (disk_open(&d, &o, &e) && !e.msg[0])
		abort();
	return d;
}

static struct disk *open_image(struct rig *r, bool readonly, bool force)
{
	return open_snapshot(r, readonly, force, NULL);
}

static void done(struct disk_req *r)
{
}

static int request(struct rig *r, struct disk *d, enum disk_op op, uint64_t off, uint64_t len)
{
	struct iovec iov = {r->buf, len};
	struct disk_req q = {.op = op, .offset = off, .len = len, .done = done, .unmap = true};

	if (op == DISK_READ || op == DISK_WRITE) {
		q.iov = &iov;
		q.niov = 1;
	}
	disk_submit(d, &q);
	disk_drain(d);
	return q.result;
}

/* A few places that are likely to have something: beginning, end, and between. */
static uint64_t place(const struct disk *d, unsigned i, uint64_t *len)
{
	uint64_t size = disk_size(d), at = i == 0 ? 0 : i == 1 ? size : size / 7 * i;

	*len = MIN(size, (uint64_t)PART);
	at = MIN(at, size - *len);
	return at / 512 * 512;
}

static void look_at_snapshot(struct rig *r, const char *name)
{
	struct disk *d = open_snapshot(r, true, false, name);
	uint64_t len, off;

	for (unsigned i = 0; d && i < 6; i++) {
		off = place(d, i, &len);
		request(r, d, DISK_READ, off, len);
	}
	disk_close(d);
}

static void look(struct rig *r, struct disk *d)
{
	struct disk_snapshot *snaps = NULL;
	struct disk_bitmap *bitmaps = NULL;
	struct disk_check c;
	struct disk_extent x;
	json_t *info = json_object();
	uint64_t off = 0, len;
	unsigned n = 0;
	bool dirty;

	for (unsigned i = 0; i < 6; i++) {
		off = place(d, i, &len);
		request(r, d, DISK_READ, off, len);
	}
	off = 0;
	for (unsigned i = 0; i < 300 && off < disk_size(d); i++, off += x.len)
		if (d->format->block_status(d, off, disk_size(d) - off, &x, NULL) || !x.len)
			break;
	if (!d->format->snapshots(d, &snaps, &n, NULL)) {
		for (unsigned i = 0; i < MIN(n, 4u); i++)
			look_at_snapshot(r, snaps[i].name);
		free(snaps);
	}
	n = 0;
	if (!d->format->bitmaps(d, &bitmaps, &n, NULL)) {
		len = MIN(disk_size(d), 1ull << 20);
		for (unsigned i = 0; i < n && i < 10 && len; i++)
			d->format->bitmap_status(d, bitmaps[i].name, 0, &len, &dirty, NULL);
		free(bitmaps);
	}
	d->format->info(d, info, NULL);
	d->format->check(d, false, NULL, &c, NULL);
	json_decref(info);
}

static void change(struct rig *r, struct disk *d)
{
	uint64_t len, off, size = disk_size(d);

	for (unsigned i = 0; i < 6; i++) {
		off = place(d, i, &len);
		request(r, d, i % 3 ? DISK_WRITE : DISK_WRITE_ZEROES, off, len);
		if (i == 2)
			d->format->snapshot(d, DISK_SNAP_CREATE, "fuzz", NULL);
		if (i == 4)
			request(r, d, DISK_DISCARD, off, len);
		request(r, d, DISK_FLUSH, 0, 0);
	}
	if (size < 1ull << 40)
		disk_resize(d, size + (1 << 20), NULL);
	d->format->snapshot(d, DISK_SNAP_DELETE, "fuzz", NULL);
	d->format->bitmap(d, DISK_BITMAP_ADD, "fuzz", 65536, NULL);
	d->format->write_compressed(d, 0, r->buf, MIN(disk_size(d), 4096ull) / 4096 * 4096, NULL);
}

/* What the image brought with it, and what is rarely done. */
static void administer(struct rig *r, struct disk *d)
{
	struct disk_snapshot *snaps = NULL;
	struct disk_bitmap *bitmaps = NULL;
	uint64_t size = disk_size(d), len, off;
	unsigned n = 0;

	if (!d->format->bitmaps(d, &bitmaps, &n, NULL)) {
		for (unsigned i = 0; i < MIN(n, 6u); i++)
			d->format->bitmap(
				d, (enum disk_bitmap_op)(1 + i % 4), bitmaps[i].name, 65536, NULL);
		free(bitmaps);
	}
	off = place(d, 2, &len);
	request(r, d, DISK_WRITE, off, len);
	n = 0;
	if (!disk_snapshots(d, &snaps, &n, NULL) && n) {
		disk_snapshot(d, DISK_SNAP_APPLY, snaps[0].name, NULL);
		off = place(d, 1, &len);
		request(r, d, DISK_WRITE, off, len);
		disk_snapshot(d, DISK_SNAP_DELETE, snaps[n - 1].name, NULL);
		if (n > 1)
			disk_snapshot(d, DISK_SNAP_APPLY, snaps[1].name, NULL);
	}
	free(snaps);
	disk_resize(d, MAX(size / 3 / 512 * 512, 512ull), NULL);
	if (size < 1ull << 40)
		disk_resize(d, size + 4096, NULL);
	d->format->set_backing(d, "b", "raw", NULL);
	d->format->set_backing(d, NULL, NULL, NULL);
	if (d->format->empty)
		d->format->empty(d, NULL);
	off = place(d, 3, &len);
	request(r, d, DISK_WRITE, off, len);
}

static bool repaired(struct rig *r)
{
	struct disk *d = open_image(r, false, true);
	struct disk_check c = {0};
	bool good;

	if (!d)
		return false;
	good = !d->format->check(d, true, NULL, &c, NULL) && !c.errors;
	disk_close(d);
	return good;
}

static void must_be_good(struct rig *r, const char *when)
{
	struct disk *d = open_image(r, true, false);
	struct disk_check c = {0};

	if (!d)
		return;
	if (d->format->check(d, false, NULL, &c, NULL) || c.errors) {
		fprintf(stderr, "%s: %llu errors\n", when, (unsigned long long)c.errors);
		abort();
	}
	disk_close(d);
}

/* Opened anew, worked on, and good afterwards. */
static void work(
	struct rig *r, const uint8_t *data, size_t size, void (*fn)(struct rig *, struct disk *))
{
	struct disk *d;

	memdevs_free(&r->devs);
	r->devs = (struct memdevs){0};
	make(r, "i", data, size);
	make(r, "b", data, MIN(size, (size_t)2000));
	if (!repaired(r))
		return;
	must_be_good(r, "repaired");
	d = open_image(r, false, false);
	if (!d)
		return;
	fn(r, d);
	disk_close(d);
	/* What could not be finished is marked, and mended when it is opened. */
	disk_close(open_image(r, false, false));
	must_be_good(r, "written");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = {.devs = {0}};
	struct disk *d;

	uv_loop_init(&r.loop);
	r.buf = malloc(PART);
	memset(r.buf, 0x5a, PART);
	make(&r, "i", data, size);
	make(&r, "b", data, MIN(size, (size_t)2000));
	d = open_image(&r, true, false);
	if (d)
		look(&r, d);
	disk_close(d);
	work(&r, data, size, change);
	work(&r, data, size, administer);
	free(r.buf);
	uv_run(&r.loop, UV_RUN_DEFAULT);
	uv_loop_close(&r.loop);
	memdevs_free(&r.devs);
	return 0;
}
