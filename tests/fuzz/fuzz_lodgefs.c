/*
 * fuzz_lodgefs.c: a store is hostile input: superblock, lease, journal, directory, bitmap, pointer pages.
 *
 * A small store with a disk, a snapshot and a journal that is not empty is made; the input is what is then changed: eight bytes each, page (2), offset
 * (2), what to do (1), three bytes. The checksum of what was changed is made right again unless told otherwise, as whoever makes a store to harm us
 * would. 4 in the first `what`: the store has checksums of data; 8: changes are recorded, and there is a bitmap. It is opened, read, also as it was at a snapshot, cloned, composed from, grown,
 * checked, repaired and written to, goes back and becomes shorter. What a repair calls good has to stay good.
 */
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "disk/tool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGE 4096u
#define PART (256u << 10)

struct rig {
	uv_loop_t loop;
	struct memdevs devs, after;
	struct memdevs *now;
	uint8_t *buf;
};

static const struct disk_store_format *store(void)
{
	for (unsigned i = 0; disk_store_at(i); i++)
		if (!strcmp(disk_store_at(i)->name, "lodgefs"))
			return disk_store_at(i);
	abort();
}

static struct disk *open_snapshot(struct rig *r, bool readonly, const char *snapshot)
{
	const struct disk_kv kv[] = {{snapshot ? "snapshot" : NULL, snapshot}, {0}};
	struct disk_opts o = {.path = "s/a",
		.format = "lodgefs",
		.kv = kv,
		.readonly = readonly,
		.discard = true,
		.offline = true,
		.loop = &r->loop,
		.open_file = memdevs_open,
		.open_ctx = r->now};
	struct disk *d = NULL;
	struct err e = {0};

	if (disk_open(&d, &o, &e) && !e.msg[0])
		abort();
	return d;
}

static struct disk *open_disk(struct rig *r, bool readonly)
{
	return open_snapshot(r, readonly, NULL);
}

static int rw(struct rig *r, struct disk *d, enum disk_op op, uint64_t off, uint64_t len)
{
	if (off >= disk_size(d))
		return 0;
	return disk_rw(d, op, off, r->buf, MIN(len, disk_size(d) - off), NULL);
}

static void make(struct rig *r, bool sums, bool track)
{
	struct disk_kv kv[] = {
		{"entries", "14"}, {"journal", "1M"}, {"sums", sums ? "on" : "off"}, {0}};
	struct disk_create_opts o = {.path = "s",
		.size = 16 * MiB,
		.kv = kv,
		.loop = &r->loop,
		.open_file = memdevs_open,
		.open_ctx = &r->devs};
	struct disk *d;

	if (store()->create(&o, NULL))
		abort();
	o.path = "s/a";
	o.kv = (const struct disk_kv[]){{track ? "track" : NULL, "on"}, {0}};
	o.size = 70 * MiB;
	if (disk_create("lodgefs", &o, NULL))
		abort();
	r->now = &r->devs;
	d = open_disk(r, false);
	if (!d || memdevs_record(&r->devs))
		abort();
	if (track && disk_bitmap(d, DISK_BITMAP_ADD, "b", 65536, NULL))
		abort();
	rw(r, d, DISK_WRITE, 512, 8192);
	rw(r, d, DISK_WRITE, 60 * MiB, 512);
	if (disk_snapshot(d, DISK_SNAP_CREATE, "s", NULL))
		abort();
	rw(r, d, DISK_WRITE, 4096, 8192);
	rw(r, d, DISK_FLUSH, 0, 0);
	/* As a power cut leaves it: with records to replay. */
	if (memdevs_crash(&r->devs, memdevs_events(&r->devs), 1, &r->after))
		abort();
	disk_close(d);
	r->now = &r->after;
}

static void mend(uint8_t *page, uint64_t at)
{
	uint32_t len = at == 2 ? 512 : PAGE, crc_at = at < 2 ? 8 : 4;

	if (at >= 4 && get_le32(page) == 0x6e72664c)
		len = MIN(get_le32(page + 48), PAGE);
	put_le32(page + crc_at, 0);
	put_le32(page + crc_at, crc32c(0, page, len));
}

static void change(struct rig *r, const uint8_t *in)
{
	uint64_t pages = memdev_size(r->now, "s") / PAGE, at = get_le16(in) % MAX(pages, 1ull);
	uint64_t off = get_le16(in + 2) % PAGE;
	uint8_t page[PAGE];

	memdev_peek(r->now, "s", at * PAGE, page, PAGE);
	if (in[4] & 2)
		page[off] ^= in[5];
	else
		memcpy(page + off, in + 5, MIN(3ul, PAGE - off));
	if (!(in[4] & 1))
		mend(page, at);
	memdev_poke(r->now, "s", at * PAGE, page, PAGE);
}

static int check(struct rig *r, bool repair, struct disk_check *c)
{
	struct files fs = {
		.loop = &r->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = r->now};

	*c = (struct disk_check){0};
	return store()->check(&fs, "s", repair, NULL, c, NULL);
}

/* What is asked of a disk, and of its snapshot, without changing it. */
static void ask(struct disk *d)
{
	struct disk_snapshot *snaps = NULL;
	struct disk_bitmap *bitmaps = NULL;
	struct disk_generation g;
	struct disk_extent x;
	json_t *all = NULL;
	unsigned n;

	for (uint64_t off = 0, i = 0; off < disk_size(d) && i < 300; off += x.len, i++)
		if (disk_block_status(d, off, disk_size(d) - off, &x, NULL) || !x.len)
			break;
	(void)disk_snapshots(d, &snaps, &n, NULL);
	(void)disk_bitmaps(d, &bitmaps, &n, NULL);
	if (!disk_generation(d, false, &g, NULL) && !disk_changes_json(d, g.first, 0, &all, NULL))
		json_decref(all);
	free(snaps);
	free(bitmaps);
}

static void use(struct rig *r, struct disk *d)
{
	ask(d);
	for (uint64_t off = 0; off < MIN(disk_size(d), 72 * MiB); off += 5 * MiB)
		rw(r, d, DISK_READ, off, PART);
	if (d->o.readonly)
		return;
	rw(r, d, DISK_WRITE, 0, 12288);
	rw(r, d, DISK_WRITE, 60 * MiB, 4096);
	(void)disk_snapshot(d, DISK_SNAP_CREATE, "t", NULL);
	rw(r, d, DISK_WRITE, 512, 512);
	rw(r, d, DISK_DISCARD, 0, MiB);
	(void)disk_bitmap(d, DISK_BITMAP_CLEAR, "b", 0, NULL);
	(void)disk_snapshot(d, DISK_SNAP_APPLY, "s", NULL);
	rw(r, d, DISK_WRITE, 8192, 12288);
	(void)disk_snapshot(d, DISK_SNAP_DELETE, "s", NULL);
	(void)disk_bitmap(d, DISK_BITMAP_REMOVE, "b", 0, NULL);
	(void)disk_resize(d, 33 * MiB + 512, NULL);
	rw(r, d, DISK_FLUSH, 0, 0);
}

/* What `lodge store` and `lodge disk create` do to it. */
static void administer(struct rig *r)
{
	struct files fs = {
		.loop = &r->loop, .io = IO_THREADS, .open = memdevs_open, .open_ctx = r->now};
	struct disk_kv kv[] = {{"clone", "a"}, {0}};
	struct disk_create_opts o = {.path = "s/c",
		.kv = kv,
		.loop = &r->loop,
		.open_file = memdevs_open,
		.open_ctx = r->now};
	struct disk_store_entry *all = NULL;
	struct disk_store_space space;
	uint64_t size;
	unsigned n;

	(void)store()->list(&fs, "s", &all, &n, NULL);
	free(all);
	(void)store()->space(&fs, "s", &space, NULL);
	(void)disk_create("lodgefs", &o, NULL);
	o.path = "s/d";
	kv[0] = (struct disk_kv){"compose", "a/0/2M+a@s/1M/1M/ro+c/60M/1M"};
	(void)disk_create("lodgefs", &o, NULL);
	(void)store()->rename(&fs, "s", "c", "e", NULL);
	(void)store()->remove(&fs, "s", "e", NULL);
	(void)store()->resize(&fs, "s", 20 * MiB, false, &size, NULL);
	(void)store()->trim(&fs, "s", NULL, &size, NULL);
	(void)store()->take(&fs, "s", 0, &size, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = {.buf = calloc(1, MiB)};
	struct disk_check c;
	struct disk *d;
	bool good;

	uv_loop_init(&r.loop);
	make(&r, size >= 8 && data[4] & 4, size >= 8 && data[4] & 8);
	for (size_t i = 0; i + 8 <= size && i < 512; i += 8)
		change(&r, data + i);
	for (unsigned readonly = 2; readonly--;) {
		d = open_disk(&r, readonly);
		if (d)
			use(&r, d);
		disk_close(d);
		d = readonly ? open_snapshot(&r, true, "s") : NULL;
		if (d)
			use(&r, d);
		disk_close(d);
	}
	administer(&r);
	(void)check(&r, false, &c);
	good = !check(&r, true, &c) && !check(&r, false, &c) && !c.errors;
	d = open_disk(&r, false);
	if (d)
		use(&r, d);
	disk_close(d);
	if (good && (check(&r, false, &c) || c.errors))
		abort();
	uv_run(&r.loop, UV_RUN_DEFAULT);
	uv_loop_close(&r.loop);
	memdevs_free(&r.after);
	memdevs_free(&r.devs);
	free(r.buf);
	return 0;
}
