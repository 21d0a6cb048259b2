/*
 * test_crash.c: generated workloads on a device that a power cut may hit at every write.
 *
 * A workload is a sequence of steps: several requests in flight together (writes, scattered writes, zeroes, discards), flushes, snapshots made,
 * deleted and gone back to, the disk made longer and shorter, and in a store clones of it and of its snapshots, which are written to in turn with it; of
 * a qcow2 image overlays, each of which is written to instead of what is below it. Requests that are in flight at
 * once do not overlap, but for the dense kind: there they are neighbours or overlap, in blocks of which others share some parts. In the filled kinds small
 * writes follow one another, with flushes between them, so that blocks are made ready. Each write has a stamp of
 * its own in each of its sectors, and what is read behind it is that, or what was in flight at the same time. The record
 * of the device then gives the images that a power cut may leave behind each event that changes something, in several variants (nothing that was
 * not flushed, all of it, some sectors). On each:
 *
 *   - it opens, and a check finds no error (and after that no leak); a store's check finds neither, at once and at the end;
 *   - each sector holds one value as a whole: the last one that was flushed, or one that was written later; where all is there that was
 *     sent to the host (a process that was killed), the last one that was acknowledged, or later;
 *   - zeroes or a value of this sector, never another sector's;
 *   - snapshots that were made are there with exactly what the disk held then; clones begin with that; a size that was set is set;
 *   - of a scattered write into untouched blocks, all is mapped or nothing, where the format promises that;
 *   - where changes are recorded: what is not as it was when a generation began is named as changed since then; a bitmap of qcow2 that claims to be
 *     complete has all that was ever written;
 *   - it is the same when it is opened again.
 *
 *	LODGE_CRASH_WORKLOADS=200 test_crash          how many for each kind (default: a few)
 *	LODGE_CRASH_SEED=17 LODGE_CRASH_KIND=qcow2    one alone
 *	LODGE_CRASH_JOBS=2                            in so many processes
 *	LODGE_CRASH_SAVE=DIR                          keeps one image in 50, as the power cut left it, and what Lodge reads from it, for
 *	                                              witnesses (tests/system/qcow2-crash.py), and the one that fails
 */
#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/memdev.h"
#include "past.h"
#include "power.h"
#include "disk/tool.h"
#include "random.h"

#define SECTOR 512u
#define START (2 * MiB)
#define LARGEST (4 * MiB)
#define SECTORS (LARGEST / SECTOR)
#define TOGETHER 8
#define STEPS 24
#define FEW_STEPS 14
#define VOLUMES 3 /* a disk and its clones */
#define KINDS 48
#define NEAR (48 * KiB)
#define FILL (16 * KiB)
#define SUB 4096u
#define PART (64 * KiB) /* is read at once: it stays in the processor's cache */

struct kind {
	const char *name, *format, *path;
	const char *file; /* the store in which it is; NULL: none */
	struct disk_kv create[4], open[3], store[3];
	bool backing, snapshots, clones, atomic, tracked;
	uint64_t backing_size;
	bool overlays; /* clones are overlays: only the last one is written to */
	bool bitmaps; /* one tracks from the beginning; the disk is closed and opened again meanwhile */
	bool dense; /* requests near each other, some of them late: what one copies another one writes */
	bool fills; /* small writes in order: blocks are made ready ahead of them */
	bool synced; /* a flush after each step that writes */
	bool kill; /* what was acknowledged outlives the process, flushed or not */
};

/* What happened to a sector, in order. */
struct span {
	uint64_t submitted, done; /* events */
};

struct made {
	char name[16];
	unsigned volume;
	struct span made, deleted; /* deleted.done 0: it was not */
	uint64_t *stamp; /* of each sector then */
	uint64_t size;
};

/* A generation that was begun. */
struct mark {
	uint64_t generation;
	struct span when;
	uint64_t *stamp;
};

/* A scattered write into blocks that nobody had touched. */
struct probe {
	unsigned volume;
	struct span when;
	uint64_t at[TOGETHER];
	unsigned n;
};

/* The disk that all begins with, or a clone. */
struct volume {
	char path[32];
	struct disk *d;
	struct span made; /* a clone */
	struct history *sector;
	struct span flush[STEPS * 17]; /* one for each four of in_order() */
	unsigned nflush;
	struct span size[STEPS + 1];
	uint64_t size_value[STEPS + 1];
	unsigned nsizes;
	uint64_t filled; /* up to there, from the beginning of its MiB on */
};

struct world {
	const struct kind *k;
	uv_loop_t loop;
	struct memdevs devs;
	struct disk_stores stores;
	uint64_t rng, seed, stamp, order;
	struct volume volume[VOLUMES];
	unsigned nvolumes;
	struct made made[STEPS + VOLUMES];
	unsigned nmade;
	struct probe probe[STEPS];
	unsigned nprobes;
	struct mark mark[STEPS]; /* of the first volume */
	unsigned nmarks;
	unsigned complete; /* bitmaps that were seen complete behind a cut */
	uint64_t block;
	uint64_t *is, *again; /* stamps that were read */
	char *buf; /* PART */
};

static uint64_t rnd(struct world *w, uint64_t n)
{
	return random_below(&w->rng, n);
}

static uint64_t now(struct world *w)
{
	return memdevs_events(&w->devs);
}

static void fill(char *to, uint64_t stamp, uint64_t sector)
{
	for (unsigned i = 0; i < SECTOR; i += 8)
		put_le64(to + i, stamp ? stamp << 24 | sector : 0);
}

static struct volume *any_volume(struct world *w)
{
	if (w->k->overlays)
		return &w->volume[w->nvolumes - 1];
	return &w->volume[w->nvolumes > 1 ? rnd(w, w->nvolumes) : 0];
}

static struct past *note(struct world *w, struct volume *v, uint64_t sector, uint64_t stamp)
{
	struct past *p = past_add(&v->sector[sector]);

	*p = (struct past){.stamp = stamp,
		.submitted = now(w),
		.done = UINT64_MAX,
		.began = w->order,
		.ended = UINT64_MAX,
		.seen = UINT64_MAX};
	return p;
}

static uint64_t current(const struct volume *v, uint64_t sector)
{
	const struct history *h = &v->sector[sector];

	return h->n ? h->p[h->n - 1].stamp : 0;
}

/* ---- the workload ---- */

struct call {
	struct disk_req r;
	struct iovec iov[3];
	struct disk_range range[TOGETHER];
	char *buf;
	struct world *w;
	struct volume *v;
	uint64_t began;
	bool done;
};

static void ended(struct call *c, uint64_t off, uint64_t len)
{
	for (uint64_t s = off / SECTOR; s < (off + len) / SECTOR; s++) {
		struct past *p = c->v->sector[s].p + c->v->sector[s].n - 1;

		while (p->began != c->began)
			p--;
		p->done = now(c->w);
		p->ended = c->w->order;
	}
}

static void on_done(struct disk_req *r)
{
	struct call *c = container_of(r, struct call, r);

	c->done = true;
	c->w->order++;
	if (r->result)
		fail_msg("seed %llu: %s of %llu at %llu: %s", (unsigned long long)c->w->seed,
			disk_op_name(r->op), (unsigned long long)r->len,
			(unsigned long long)r->offset, strerror(-r->result));
	if (r->op == DISK_FLUSH) {
		c->v->flush[c->v->nflush - 1].done = now(c->w);
		return;
	}
	for (unsigned i = 0; i < r->nranges; i++)
		ended(c, r->ranges[i].offset, r->ranges[i].len);
	if (!r->nranges)
		ended(c, r->offset, r->len);
}

static void begin(struct world *w, struct call *c, uint64_t off, uint64_t len, char *buf)
{
	c->began = w->order;
	for (uint64_t s = off / SECTOR; s < (off + len) / SECTOR; s++) {
		struct past *p = note(w, c->v, s, c->r.op == DISK_WRITE ? w->stamp : 0);

		p->discard = c->r.op == DISK_DISCARD;
		p->fua = c->r.fua;
		if (buf)
			fill(buf + (s - off / SECTOR) * SECTOR, w->stamp, s);
	}
}

static void wait_for(struct world *w, struct call *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		while (!c[i].done)
			uv_run(&w->loop, UV_RUN_ONCE);
		free(c[i].buf);
	}
}

static void send_one(struct world *w, struct volume *v, struct call *c, enum disk_op op,
	uint64_t off, uint64_t len)
{
	*c = (struct call){.w = w, .v = v};
	w->stamp++;
	w->order++;
	c->r = (struct disk_req){.op = op,
		.unmap = rnd(w, 2),
		.fua = !rnd(w, 8),
		.offset = off,
		.len = len,
		.done = on_done};
	if (op == DISK_WRITE) {
		c->buf = malloc(len);
		c->iov[0] = (struct iovec){c->buf, SECTOR / 2};
		c->iov[1] = (struct iovec){c->buf + SECTOR / 2, len - SECTOR / 2};
		c->r.iov = c->iov;
		c->r.niov = 2;
	}
	begin(w, c, off, len, c->buf);
	disk_submit(v->d, &c->r);
}

static enum disk_op any_op(struct world *w)
{
	uint64_t k = rnd(w, 12);

	return k < 8 ? DISK_WRITE : k < 10 ? DISK_WRITE_ZEROES : DISK_DISCARD;
}

/* One request in [base, base + room). */
static void request(struct world *w, struct volume *v, struct call *c, uint64_t base, uint64_t room)
{
	uint64_t off = base + rnd(w, room / SECTOR) * SECTOR;
	uint64_t len = MIN(base + room - off, (1 + rnd(w, rnd(w, 3) ? 16 : 300)) * SECTOR);

	send_one(w, v, c, any_op(w), off, len);
}

/* One near all the others: mostly of whole sub-blocks. */
static void request_near(struct world *w, struct volume *v, struct call *c, uint64_t base)
{
	uint64_t sub = rnd(w, NEAR / SUB) * SUB,
		 off = rnd(w, 3) ? sub : sub + rnd(w, SUB / SECTOR) * SECTOR;
	uint64_t len = rnd(w, 4) ? (1 + rnd(w, rnd(w, 2) ? 1 : 3)) * SUB
				 : (1 + rnd(w, 24)) * SECTOR;

	send_one(w, v, c, any_op(w), base + off, MIN(len, NEAR - off));
}

/* What was acknowledged is there. */
static void look_back(struct world *w, const struct call *c)
{
	char *buf = malloc(c->r.len);
	struct err e = {0};

	w->order++;
	if (disk_rw(c->v->d, DISK_READ, c->r.offset, buf, c->r.len, &e))
		fail_msg("seed %llu: %s", (unsigned long long)w->seed, err_msg(&e));
	for (uint64_t i = 0; i < c->r.len / SECTOR; i++) {
		struct history *h = &c->v->sector[c->r.offset / SECTOR + i];
		uint64_t is = get_le64(buf + i * SECTOR) >> 24;

		if (!past_allows(h, is, UINT64_MAX - 1, NULL, NULL))
			fail_msg("LODGE_CRASH_KIND=%s LODGE_CRASH_SEED=%llu: %s: sector %llu reads "
				 "as %llu, and %llu was acknowledged",
				w->k->name, (unsigned long long)w->seed, c->v->path,
				(unsigned long long)(c->r.offset / SECTOR + i),
				(unsigned long long)is,
				(unsigned long long)current(c->v, c->r.offset / SECTOR + i));
		past_is_last(h, is, now(w), w->order);
	}
	free(buf);
}

/* Some of what goes to blocks, or comes from there, is late. */
static void be_late(struct world *w)
{
	for (unsigned i = 0; i < 2; i++)
		w->devs.fault[i] = (struct memdev_fault){.ops = 1u << (i ? FILE_READ : FILE_WRITE),
			.off = 3 * MiB, /* blocks */
			.len = GiB,
			.after = rnd(w, 2) ? 0 : (unsigned)rnd(w, 4),
			.count = 1 + (unsigned)rnd(w, 3),
			.turns = 1 + (unsigned)rnd(w, 60)};
	w->devs.nfaults = 1 + (unsigned)rnd(w, 2);
}

static void wait_and_look(struct world *w, struct call *c, unsigned n)
{
	wait_for(w, c, n);
	w->devs.nfaults = 0;
	for (unsigned i = 0; i < n; i++)
		look_back(w, &c[i]);
}

static void together(struct world *w)
{
	struct call c[TOGETHER];
	unsigned n = 1 + (unsigned)rnd(w, TOGETHER);

	for (unsigned i = 0; i < n; i++) {
		struct volume *v = any_volume(w);
		uint64_t room = align_down(v->d->size / n, 4096);

		request(w, v, &c[i], i * room, room);
	}
	wait_and_look(w, c, n);
}

/* Near each other and late, of that volume; NULL: of all. */
static void near_together(struct world *w, struct volume *v, uint64_t base)
{
	struct call c[TOGETHER];
	unsigned n = 1 + (unsigned)rnd(w, TOGETHER);

	be_late(w);
	for (unsigned i = 0; i < n; i++) {
		request_near(w, v ?: any_volume(w), &c[i], base);
		for (uint64_t turns = rnd(w, 4); turns; turns--)
			uv_run(&w->loop, UV_RUN_NOWAIT);
	}
	wait_and_look(w, c, n);
}

static bool untouched(const struct world *w, const struct volume *v, uint64_t block)
{
	for (uint64_t s = 0; s < w->block / SECTOR; s++)
		if (v->sector[block * (w->block / SECTOR) + s].n)
			return false;
	return true;
}

static void scattered(struct world *w)
{
	struct probe *p = &w->probe[w->nprobes];
	struct volume *v = any_volume(w);
	struct call c = {.w = w, .v = v};
	uint64_t blocks = v->d->size / w->block;

	*p = (struct probe){.volume = (unsigned)(v - w->volume)};
	w->stamp++;
	w->order++;
	for (unsigned tries = 0; tries < 64 && p->n < TOGETHER; tries++) {
		uint64_t b = rnd(w, blocks);
		bool twice = false;

		for (unsigned i = 0; i < p->n; i++)
			twice |= p->at[i] == b * w->block;
		if (!twice && untouched(w, v, b))
			p->at[p->n++] = b * w->block;
	}
	if (!p->n)
		return;
	c.buf = malloc(TOGETHER * 4096);
	c.r = (struct disk_req){.op = DISK_WRITE,
		.len = p->n * MIN(w->block, 4096ul),
		.ranges = c.range,
		.nranges = p->n,
		.iov = c.iov,
		.niov = 1,
		.done = on_done};
	c.iov[0] = (struct iovec){c.buf, c.r.len};
	for (unsigned i = 0; i < p->n; i++) {
		c.range[i] = (struct disk_range){p->at[i], MIN(w->block, 4096ul)};
		begin(w, &c, p->at[i], c.range[i].len, c.buf + i * c.range[i].len);
	}
	p->when.submitted = now(w);
	disk_submit(v->d, &c.r);
	wait_for(w, &c, 1);
	p->when.done = now(w);
	w->nprobes++;
}

static void flush_of(struct world *w, struct volume *v)
{
	struct call c = {.w = w, .v = v};

	v->flush[v->nflush++] = (struct span){now(w), UINT64_MAX};
	c.r = (struct disk_req){.op = DISK_FLUSH, .done = on_done};
	disk_submit(v->d, &c.r);
	wait_for(w, &c, 1);
}

static void flush(struct world *w)
{
	flush_of(w, any_volume(w));
}

/* Small writes one behind the other, for a while; now and then from another MiB on. */
static void in_order(struct world *w)
{
	struct volume *v = any_volume(w);
	struct call c;

	if (!rnd(w, 6))
		v->filled = rnd(w, v->d->size / MiB) * MiB;
	for (uint64_t n = 16 + rnd(w, 48); n; n--) {
		v->filled = v->filled + FILL > v->d->size ? 0 : v->filled;
		send_one(w, v, &c, DISK_WRITE, v->filled, FILL);
		wait_and_look(w, &c, 1);
		v->filled += FILL;
		if (n % 4 == 0)
			flush_of(w, v);
	}
}

static uint64_t *stamps(const struct volume *v)
{
	uint64_t *all = calloc(SECTORS, sizeof(*all));

	for (uint64_t s = 0; s < SECTORS; s++) {
		const struct history *h = &v->sector[s];

		all[s] = h->n && h->p[h->n - 1].discard ? UINT64_MAX /* not said */
							: current(v, s);
	}
	return all;
}

static void generation(struct world *w)
{
	struct mark *m = &w->mark[w->nmarks++];
	struct disk_generation g;
	struct err e = {0};

	m->stamp = stamps(&w->volume[0]);
	m->when.submitted = now(w);
	if (disk_generation(w->volume[0].d, true, &g, &e))
		fail_msg("%s", err_msg(&e));
	m->when.done = now(w);
	m->generation = g.now;
}

static void delete_snapshot(struct world *w, struct made *m)
{
	struct err e = {0};

	m->deleted.submitted = now(w);
	if (disk_snapshot(w->volume[m->volume].d, DISK_SNAP_DELETE, m->name, &e))
		fail_msg("%s", err_msg(&e));
	m->deleted.done = now(w);
}

static void snapshot_of(struct world *w, struct volume *v)
{
	struct made *m = &w->made[w->nmade];
	struct err e = {0};

	snprintf(m->name, sizeof(m->name), "s%u", w->nmade);
	m->volume = (unsigned)(v - w->volume);
	m->stamp = stamps(v);
	m->size = v->d->size;
	m->made.submitted = now(w);
	if (disk_snapshot(v->d, DISK_SNAP_CREATE, m->name, &e))
		fail_msg("%s", err_msg(&e));
	m->made.done = now(w);
	w->nmade++;
}

static void set_size(struct volume *v, uint64_t size, struct span when)
{
	v->size[v->nsizes] = when;
	v->size_value[v->nsizes++] = size;
}

/* All at once, and durable when it was answered: sectors from `from` on have other contents. NULL: zeroes. */
static void becomes(
	struct world *w, struct volume *v, uint64_t from, const uint64_t *stamp, struct span when)
{
	w->order++;
	for (uint64_t s = from / SECTOR; s < SECTORS; s++) {
		struct past *p = note(w, v, s, stamp ? stamp[s] : 0);

		p->submitted = when.submitted;
		p->done = when.done;
		p->ended = w->order + 1;
		p->fua = true;
	}
	w->order += 2;
}

/* What was discarded reads as it happens to: that is looked at. */
static void go_back(struct world *w, struct made *m)
{
	struct volume *v = &w->volume[m->volume];
	struct span when = {now(w), 0};
	struct err e = {0};
	char buf[SECTOR];

	if (disk_snapshot(v->d, DISK_SNAP_APPLY, m->name, &e))
		fail_msg("%s", err_msg(&e));
	when.done = now(w);
	assert_int_equal(v->d->size, m->size);
	for (uint64_t s = 0; s < m->size / SECTOR; s++) {
		if (m->stamp[s] != UINT64_MAX)
			continue;
		if (disk_rw(v->d, DISK_READ, s * SECTOR, buf, SECTOR, &e))
			fail_msg("%s", err_msg(&e));
		m->stamp[s] = get_le64(buf) >> 24;
	}
	set_size(v, m->size, when);
	becomes(w, v, 0, m->stamp, when);
	becomes(w, v, m->size, NULL, when);
}

static void snapshot(struct world *w)
{
	for (unsigned i = 0; i < w->nmade; i++)
		if (!w->made[i].deleted.done && w->volume[w->made[i].volume].d && !rnd(w, 2)) {
			(rnd(w, 2) ? delete_snapshot : go_back)(w, &w->made[i]);
			return;
		}
	snapshot_of(w, any_volume(w));
}

static void resize(struct world *w)
{
	struct volume *v = any_volume(w);
	uint64_t old = v->d->size, by = (1 + rnd(w, 64)) * 4096;
	uint64_t least = w->k->dense ? START : MiB;
	uint64_t size = rnd(w, 3) ? MIN(old + by, LARGEST) : MAX(old - by, least);
	struct span when = {now(w), 0};
	struct err e = {0};

	if (size == old || !v->d->format->resize)
		return;
	if (disk_resize(v->d, size, &e))
		fail_msg("%s", err_msg(&e));
	when.done = now(w);
	set_size(v, size, when);
	if (size < old)
		becomes(w, v, size, NULL, when);
}

static struct disk_opts opts(
	struct world *w, const char *path, struct memdevs *devs, struct disk_stores *stores)
{
	return (struct disk_opts){.path = path,
		.format = w->k->format,
		.discard = true,
		.offline = true,
		.kv = w->k->open,
		.loop = &w->loop,
		.stores = stores,
		.open_file = memdevs_open,
		.open_ctx = devs};
}

static void open_again(struct world *w, struct volume *v)
{
	struct disk_opts o = opts(w, v->path, &w->devs, w->k->clones ? &w->stores : NULL);
	struct err e = {0};

	if (disk_open(&v->d, &o, &e))
		fail_msg("%s: %s", w->k->name, err_msg(&e));
}

static void open_volume(struct world *w, struct volume *v)
{
	open_again(w, v);
	v->size_value[0] = v->d->size;
	v->nsizes = 1;
}

static struct volume *add_volume(struct world *w)
{
	struct volume *v = &w->volume[w->nvolumes];

	snprintf(v->path, sizeof(v->path), w->nvolumes ? "%s%u" : "%s", w->k->path, w->nvolumes);
	w->nvolumes++;
	v->sector = calloc(SECTORS, sizeof(*v->sector));
	return v;
}

/* What came to `from` up to `upto` is durable where the clone is there. */
static void inherit(struct volume *v, const struct volume *from, uint64_t upto)
{
	for (uint64_t s = 0; s < SECTORS; s++) {
		const struct history *h = &from->sector[s];

		for (unsigned i = 0; i < h->n; i++)
			if (h->p[i].done <= upto) {
				struct past *p = past_add(&v->sector[s]);

				*p = h->p[i];
				p->fua = true;
			}
	}
}

/* Of a volume as it is, or of a snapshot (m). Nothing is in flight. */
static void clone_it(struct world *w, const struct volume *from, const struct made *m)
{
	uint64_t upto = m ? m->made.submitted : now(w);
	char source[64];
	struct disk_kv kv[] = {{"clone", source}, {0}};
	struct disk_create_opts c = {.kv = kv,
		.loop = &w->loop,
		.stores = &w->stores,
		.open_file = memdevs_open,
		.open_ctx = &w->devs};
	struct err e = {0};
	struct volume *v;

	snprintf(source, sizeof(source), "%s%s%s", strrchr(from->path, '/') + 1, m ? "@" : "",
		m ? m->name : "");
	v = add_volume(w);
	c.path = v->path;
	v->made.submitted = now(w);
	if (disk_create(w->k->format, &c, &e))
		fail_msg("%s of %s: %s", v->path, source, err_msg(&e));
	v->made.done = now(w);
	inherit(v, from, upto);
	open_volume(w, v);
	assert_int_equal(v->d->size, m ? m->size : from->d->size);
}

/* Upon the last one, which is durable then, and only read from now on. */
static void overlay(struct world *w)
{
	struct volume *below = &w->volume[w->nvolumes - 1], *v;
	struct disk_create_opts c = {.kv = w->k->create,
		.backing = below->path,
		.backing_format = w->k->format,
		.loop = &w->loop,
		.open_file = memdevs_open,
		.open_ctx = &w->devs};
	struct err e = {0};

	flush(w);
	disk_close(steal_ptr(below->d));
	v = add_volume(w);
	c.path = v->path;
	v->made.submitted = now(w);
	if (disk_create(w->k->format, &c, &e))
		fail_msg("%s upon %s: %s", v->path, below->path, err_msg(&e));
	v->made.done = now(w);
	inherit(v, below, v->made.done);
	open_volume(w, v);
}

/* The bitmap is complete while the disk is closed. From here on it has everything, or all that comes from now on. */
static void bitmap(struct world *w, bool first)
{
	struct volume *v = &w->volume[0];
	struct mark *m = &w->mark[w->nmarks++];
	struct err e = {0};

	if (!first && rnd(w, 3)) {
		w->nmarks--;
		disk_close(steal_ptr(v->d));
		open_again(w, v);
		return;
	}
	m->when.submitted = now(w);
	if (disk_bitmap(v->d, first ? DISK_BITMAP_ADD : DISK_BITMAP_CLEAR, "b", 4096, &e))
		fail_msg("%s", err_msg(&e));
	m->stamp = stamps(v);
	m->when.done = now(w);
}

static int make_store(struct world *w, struct err *e)
{
	return disk_store_lodgefs.create(&(struct disk_create_opts){.path = w->k->file,
						 .size = (w->k->fills ? 128 : 32) * MiB,
						 .kv = w->k->store,
						 .loop = &w->loop,
						 .open_file = memdevs_open,
						 .open_ctx = &w->devs},
		e);
}

static void clone_one(struct world *w)
{
	const struct made *m = NULL;

	for (unsigned i = 0; i < w->nmade && !m; i++)
		if (!w->made[i].deleted.done && rnd(w, 2))
			m = &w->made[i];
	clone_it(w, m ? &w->volume[m->volume] : any_volume(w), m);
}

/* Most of every other sub-block of those that are near each other, in each block. */
static void write_some(struct world *w, struct volume *v, unsigned first)
{
	struct call c[NEAR / SUB];
	unsigned n;

	for (uint64_t near = 0; near < START; near += MiB) {
		n = 0;
		for (uint64_t at = first * SUB; at < NEAR; at += 2 * SUB)
			if (rnd(w, 8))
				send_one(w, v, &c[n++], DISK_WRITE, near + at, SUB);
		wait_for(w, c, n);
	}
}

/*
 * A clone beside a disk whose blocks are in part its own: a snapshot made it take a second block for each, and is gone; and of the two the clone, which was
 * written since, has kept one.
 */
static void partly_shared(struct world *w)
{
	struct volume *v = any_volume(w);
	unsigned first = (unsigned)rnd(w, 2);

	write_some(w, v, first);
	snapshot_of(w, v);
	write_some(w, v, !first);
	delete_snapshot(w, &w->made[w->nmade - 1]);
	clone_it(w, v, NULL);
	write_some(w, rnd(w, 2) ? v : &w->volume[w->nvolumes - 1], (unsigned)rnd(w, 2));
	for (unsigned i = 0; i < w->nvolumes; i++)
		for (uint64_t near = 0; near < START; near += MiB)
			near_together(w, &w->volume[i], near);
}

static void create(struct world *w)
{
	struct volume *v = add_volume(w);
	struct disk_create_opts c = {.path = v->path,
		.size = START,
		.kv = w->k->create,
		.loop = &w->loop,
		.open_file = memdevs_open,
		.open_ctx = &w->devs};
	struct err e = {0};
	char buf[SECTOR];

	if (w->k->backing) {
		for (uint64_t s = 0; s < (w->k->backing_size ?: START / 2) / SECTOR; s++) {
			struct past *p = note(w, v, s, 1);

			p->submitted = p->done = 0;
			p->ended = 1;
			p->fua = true;
			if (s >= START / SECTOR) /* is not seen */
				v->sector[s].n = 0;
			fill(buf, 1, s);
			memdev_poke(&w->devs, "base", s * SECTOR, buf, SECTOR);
		}
		w->stamp = 1;
		c.backing = "base";
		c.backing_format = "raw";
	}
	if ((w->k->file && make_store(w, &e)) || disk_create(w->k->format, &c, &e) ||
		memdevs_record(&w->devs))
		fail_msg("%s: %s", w->k->name, err_msg(&e));
	open_volume(w, v);
	if (w->k->bitmaps)
		bitmap(w, true);
}

static void run(struct world *w)
{
	create(w);
	for (unsigned i = 0; i < (w->k->synced ? STEPS : FEW_STEPS); i++) {
		uint64_t k = rnd(w, 16);

		if (w->k->tracked && !rnd(w, 4))
			generation(w);
		if (w->k->clones && i && w->nvolumes < VOLUMES && !rnd(w, 4))
			(w->k->dense ? partly_shared : clone_one)(w);
		if (w->k->overlays && i && w->nvolumes < VOLUMES && !rnd(w, 4))
			overlay(w);
		if (w->k->bitmaps && !rnd(w, 4))
			bitmap(w, false);
		if (w->k->dense && k < 9)
			near_together(w, NULL, rnd(w, START / MiB) * MiB);
		else if (w->k->fills && k < 4)
			in_order(w);
		else if (k < 7)
			together(w);
		else if (k < 9)
			scattered(w);
		else if (k < 13)
			flush(w);
		else if (k < 15 && w->k->snapshots &&
			 w->volume[w->nvolumes - 1].d->format->snapshot)
			snapshot(w);
		else
			resize(w);
		if (w->k->synced && k < 9)
			flush(w);
	}
	for (unsigned i = 0; i < w->nvolumes; i++)
		disk_close(steal_ptr(w->volume[i].d));
	disk_stores_clear(&w->stores);
	uv_run(&w->loop, UV_RUN_DEFAULT);
}

/* ---- what a power cut may leave ---- */

struct cut {
	struct world *w;
	const struct volume *v; /* that is looked at */
	uint64_t point, variant;
	struct memdevs devs;
};

__attribute__((format(printf, 2, 3))) static void wrong(struct cut *c, const char *fmt, ...)
{
	const char *dir = getenv("LODGE_CRASH_SAVE");
	char text[400], path[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (dir) {
		snprintf(path, sizeof(path), "%s/failed-%s", dir, c->w->k->name);
		memdev_save(&c->devs, c->w->k->file ?: c->w->k->path, path, NULL);
	}
	fail_msg("LODGE_CRASH_KIND=%s LODGE_CRASH_SEED=%llu, behind event %llu of %llu, variant "
		 "%llu: %s: %s",
		c->w->k->name, (unsigned long long)c->w->seed, (unsigned long long)c->point,
		(unsigned long long)now(c->w), (unsigned long long)c->variant, c->v->path, text);
}

static bool flushed(const struct cut *c, const struct past *p)
{
	const struct world *w = c->w;
	const struct volume *v = c->v;

	if (p->done > c->point)
		return false;
	if (p->fua)
		return true;
	for (unsigned i = 0; i < v->nflush; i++)
		if (v->flush[i].submitted >= p->done && v->flush[i].done <= c->point)
			return true;
	for (unsigned i = 0; i < w->nmade; i++) {
		const struct made *m = &w->made[i];

		if (&w->volume[m->volume] == v && m->made.submitted >= p->done &&
			m->made.done <= c->point)
			return true;
	}
	return false;
}

/* Variant 1 has everything that was sent to the host: it is a process that was killed. Then whatever was done is there. */
static bool certain(const void *ctx, const struct past *p)
{
	const struct cut *c = ctx;

	if (p->done && p->submitted >= c->point)
		return false;
	return c->w->k->kill && c->variant == 1 ? p->done <= c->point : flushed(c, p);
}

static bool permitted(const struct cut *c, uint64_t s, uint64_t stamp)
{
	return past_allows(&c->v->sector[s], stamp, c->point, certain, c);
}

static uint64_t stamp_of(struct cut *c, uint64_t s, const char *data)
{
	uint64_t v = get_le64(data);

	if (memcmp(data, data + 8, SECTOR - 8)) /* not one value all through */
		wrong(c, "sector %llu has more than one value: %llx, and %llx at the end",
			(unsigned long long)s, (unsigned long long)v,
			(unsigned long long)get_le64(data + SECTOR - 8));
	if (v && (v & 0xffffff) != s)
		wrong(c, "sector %llu has what belongs to sector %llu (stamp %llu)",
			(unsigned long long)s, (unsigned long long)(v & 0xffffff),
			(unsigned long long)(v >> 24));
	return v >> 24;
}

static struct disk *open_cut(struct cut *c)
{
	struct disk_opts o = opts(c->w, c->v->path, &c->devs, NULL);
	struct disk *d = NULL;
	struct err e = {0};

	if (disk_open(&d, &o, &e))
		wrong(c, "does not open: %s", err_msg(&e));
	return d;
}

static void read_stamps(struct cut *c, struct disk *d, uint64_t *to)
{
	struct err e = {0};
	char *buf = c->w->buf;

	for (uint64_t at = 0, n; at < d->size; at += n) {
		n = MIN(d->size - at, PART);
		if (disk_rw(d, DISK_READ, at, buf, n, &e))
			wrong(c, "does not read: %s", err_msg(&e));
		for (uint64_t i = 0; i < n / SECTOR; i++)
			*to++ = stamp_of(c, at / SECTOR + i, buf + i * SECTOR);
	}
}

static void look_at_size(struct cut *c, const struct disk *d)
{
	const struct volume *v = c->v;
	bool ok = false;

	for (unsigned i = v->nsizes; i-- && !ok;) {
		ok = v->size[i].submitted < c->point + !i && v->size_value[i] == d->size;
		if (v->size[i].done <= c->point)
			break;
	}
	if (!ok)
		wrong(c, "has %llu bytes", (unsigned long long)d->size);
}

static void look_at_probes(struct cut *c, struct disk *d)
{
	struct err e = {0};

	for (unsigned i = 0; i < c->w->nprobes && c->w->k->atomic; i++) {
		const struct probe *p = &c->w->probe[i];
		unsigned there = 0;

		/* As long as nothing else has come there. */
		if (p->when.submitted > c->point || &c->w->volume[p->volume] != c->v)
			continue;
		for (unsigned k = 0; k < p->n; k++) {
			const struct history *h = &c->v->sector[p->at[k] / SECTOR];
			struct disk_extent x;

			if (h->n > 1 && h->p[1].submitted < c->point) {
				there = 0;
				break;
			}
			if (disk_block_status(d, p->at[k], SECTOR, &x, &e))
				wrong(c, "%s", err_msg(&e));
			there += (x.flags & DISK_EXT_HERE) && (x.flags & DISK_EXT_DATA) && !x.depth;
			if (k + 1 == p->n && there && there != p->n)
				wrong(c, "%u of %u blocks of a request are mapped", there, p->n);
		}
	}
}

static void collect(void *ctx, bool error, const char *text)
{
	struct cut *c = ctx;

	if (error)
		wrong(c, "check: %s", text);
}

static void look_at_metadata(struct cut *c, struct disk *d)
{
	struct disk_watch watch = {.found = collect, .ctx = c};
	struct disk_check k = {0};
	struct err e = {0};

	if (!d->format->check)
		return;
	disk_drain(d);
	if (d->format->check(d, true, &watch, &k, &e))
		wrong(c, "check: %s", err_msg(&e));
	if (k.errors || k.fixed_errors)
		wrong(c, "check: %llu errors", (unsigned long long)(k.errors + k.fixed_errors));
	if (k.leaks)
		wrong(c, "check: %llu leaks stay", (unsigned long long)k.leaks);
}

/* What `lodge store check` says. */
static void look_at_store(struct cut *c)
{
	const struct kind *k = c->w->k;
	struct files files = {.loop = &c->w->loop, .open = memdevs_open, .open_ctx = &c->devs};
	struct disk_watch watch = {.found = collect, .ctx = c};
	struct disk_check found = {0};
	struct err e = {0};

	if (k->file && disk_store_lodgefs.check(&files, k->file, false, &watch, &found, &e))
		wrong(c, "check of the store: %s", err_msg(&e));
	if (found.errors || found.leaks)
		wrong(c, "check of the store: %llu errors, %llu leaks",
			(unsigned long long)found.errors, (unsigned long long)found.leaks);
}

static bool listed(struct cut *c, struct disk *d, const char *name)
{
	struct disk_snapshot *s;
	struct err e = {0};
	unsigned n;
	bool there = false;

	if (disk_snapshots(d, &s, &n, &e))
		wrong(c, "snapshots: %s", err_msg(&e));
	for (unsigned i = 0; i < n; i++)
		there |= !strcmp(s[i].name, name);
	free(s);
	return there;
}

static void look_at_snapshot(struct cut *c, const struct made *m)
{
	struct disk *d = open_cut(c);
	bool there = listed(c, d, m->name);
	struct err e = {0};

	if (m->made.done <= c->point && !(m->deleted.done && m->deleted.submitted < c->point) &&
		!there)
		wrong(c, "snapshot %s is lost", m->name);
	if ((m->made.submitted >= c->point || (m->deleted.done && m->deleted.done <= c->point)) &&
		there)
		wrong(c, "snapshot %s is there", m->name);
	if (there) {
		if (disk_snapshot(d, DISK_SNAP_APPLY, m->name, &e))
			wrong(c, "snapshot %s cannot be gone back to: %s", m->name, err_msg(&e));
		read_stamps(c, d, c->w->again);
		for (uint64_t s = 0; s < m->size / SECTOR; s++)
			if (m->stamp[s] != UINT64_MAX && c->w->again[s] != m->stamp[s])
				wrong(c, "snapshot %s, sector %llu: stamp %llu, not %llu", m->name,
					(unsigned long long)s, (unsigned long long)c->w->again[s],
					(unsigned long long)m->stamp[s]);
	}
	disk_close(d);
}

static void look_at_contents(struct cut *c, struct disk *d)
{
	const uint64_t *is = c->w->is;

	read_stamps(c, d, c->w->is);
	for (uint64_t s = 0; s < d->size / SECTOR; s++)
		if (!permitted(c, s, is[s]))
			wrong(c, "sector %llu: stamp %llu; the last one is %llu",
				(unsigned long long)s, (unsigned long long)is[s],
				(unsigned long long)current(c->v, s));
}

/* What is in w->is now. */
static void look_at_changes(struct cut *c, struct disk *d)
{
	struct err e = {0};
	bool dirty = false;

	for (unsigned i = 0; i < c->w->nmarks; i++) {
		const struct mark *m = &c->w->mark[i];
		uint64_t end = 0, len;

		if (m->when.done > c->point)
			continue;
		for (uint64_t s = 0; s < d->size / SECTOR; s++) {
			if (s * SECTOR >= end) {
				len = d->size - s * SECTOR;
				if (disk_changed(d, m->generation, s * SECTOR, &len, &dirty, &e))
					wrong(c, "changes: %s", err_msg(&e));
				end = s * SECTOR + len;
			}
			if (!dirty && m->stamp[s] != UINT64_MAX && c->w->is[s] != m->stamp[s])
				wrong(c,
					"sector %llu is not as it was when generation %llu began, "
					"and not named as changed",
					(unsigned long long)s, (unsigned long long)m->generation);
		}
	}
}

/* What is in w->is now, and d was just opened. */
static void look_at_bitmap(struct cut *c, struct disk *d)
{
	const struct mark *m = c->w->mark;
	struct disk_bitmap *b;
	struct err e = {0};
	bool dirty = false, complete = false;
	uint64_t end = 0, len;
	unsigned n;

	if (disk_bitmaps(d, &b, &n, &e))
		wrong(c, "bitmaps: %s", err_msg(&e));
	for (unsigned i = 0; i < n; i++)
		complete |= !b[i].busy;
	free(b);
	if (!complete)
		return;
	c->w->complete++;
	while (m + 1 < c->w->mark + c->w->nmarks && m[1].when.done <= c->point)
		m++;
	for (uint64_t s = 0; s < d->size / SECTOR; s++) {
		if (s * SECTOR >= end) {
			len = d->size - s * SECTOR;
			if (disk_bitmap_status(d, "b", s * SECTOR, &len, &dirty, &e))
				wrong(c, "bitmap: %s", err_msg(&e));
			end = s * SECTOR + len;
		}
		if (!dirty && m->stamp[s] != UINT64_MAX && c->w->is[s] != m->stamp[s])
			wrong(c,
				"sector %llu has changed, and the bitmap that says so is not "
				"marked as "
				"incomplete",
				(unsigned long long)s);
	}
}

/* The files of the host that an image has, and what it reads as: NAME.image, .base, .data, .contents. */
static void save_file(struct cut *c, const char *device, const char *what)
{
	char path[300];

	if (memdev_size(&c->devs, device) == 0)
		return;
	snprintf(path, sizeof(path), "%s/%s-%llu-%llu-%llu.%s", getenv("LODGE_CRASH_SAVE"),
		c->w->k->name, (unsigned long long)c->w->seed, (unsigned long long)c->point,
		(unsigned long long)c->variant, what);
	memdev_save(&c->devs, device, path, NULL);
}

static void save_image(struct cut *c)
{
	save_file(c, c->w->k->file ?: c->w->k->path, "image");
	save_file(c, "base", "base");
	save_file(c, "data", "data");
}

static void save_contents(struct cut *c, struct disk *d)
{
	cleanup(free_ptr) char *all = malloc(LARGEST);
	struct err e = {0};

	if (disk_rw(d, DISK_READ, 0, all, d->size, &e))
		wrong(c, "does not read: %s", err_msg(&e));
	memdev_poke(&c->devs, "contents", 0, all, d->size);
	save_file(c, "contents", "contents");
}

static void look_at_volume(struct cut *c, bool keep)
{
	struct disk *d = open_cut(c);
	uint64_t size = d->size;

	look_at_size(c, d);
	look_at_probes(c, d);
	look_at_contents(c, d);
	if (keep)
		save_contents(c, d);
	if (c->w->k->tracked && c->v == c->w->volume)
		look_at_changes(c, d);
	if (c->w->k->bitmaps)
		look_at_bitmap(c, d);
	look_at_metadata(c, d);
	disk_close(d);
	d = open_cut(c);
	read_stamps(c, d, c->w->again);
	if (d->size != size || memcmp(c->w->again, c->w->is, size / SECTOR * sizeof(*c->w->is)))
		wrong(c, "is another one when it is opened again");
	disk_close(d);
}

/* Nothing when it is not there, and need not be. */
static void look_at_clone(struct cut *c)
{
	struct disk_opts o = opts(c->w, c->v->path, &c->devs, NULL);
	struct disk *d = NULL;
	struct err e = {0};
	int rc = disk_open(&d, &o, &e);

	disk_close(d);
	if (!rc && c->v->made.submitted >= c->point)
		wrong(c, "is there");
	if (!rc)
		look_at_volume(c, false);
	else if ((rc != -ENOENT && c->w->k->file) || c->v->made.done <= c->point)
		wrong(c, "is lost: %s", err_msg(&e));
}

static void look(struct cut *c, unsigned n)
{
	struct world *w = c->w;
	bool keep = getenv("LODGE_CRASH_SAVE") && n % 50 == 0;

	c->v = w->volume;
	if (keep)
		save_image(c);
	look_at_store(c);
	look_at_volume(c, keep);
	for (unsigned i = 1; i < w->nvolumes; i++) {
		c->v = &w->volume[i];
		look_at_clone(c);
	}
	/* Backwards: what goes back lies under none that is still to be looked at. */
	for (unsigned i = w->nmade; i--;) {
		const struct made *m = &w->made[i];

		c->v = &w->volume[m->volume];
		if (c->v->made.done <= c->point)
			look_at_snapshot(c, m);
	}
	look_at_store(c);
	uv_run(&w->loop, UV_RUN_DEFAULT);
}

static unsigned all_cuts(struct world *w)
{
	unsigned n = 0;

	for (uint64_t p = 0; p <= now(w); p++) {
		if (p && p < now(w) && !memdevs_is_write(&w->devs, p - 1))
			continue;
		for (uint64_t v = 0; v < 3; v++) {
			struct cut c = {.w = w, .point = p, .variant = v < 2 ? v : 2 + w->seed};

			assert_int_equal(memdevs_crash(&w->devs, p, c.variant, &c.devs), 0);
			if (w->k->file && c.variant != 1)
				lose_power(&c.devs);
			look(&c, n++);
			memdevs_free(&c.devs);
		}
	}
	return n;
}

static unsigned workload(const struct kind *k, uint64_t seed)
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
	run(w);
	n = all_cuts(w);
	if (k->bitmaps)
		assert_true(w->complete);
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
	uint64_t n = many ? strtoull(many, NULL, 10) : one || k->fills ? 1 : 3;
	unsigned cuts = 0, done = 0;

	if (only && strcmp(only, k->name))
		return;
	if (!disk_format_by_name(k->format))
		skip();
	for (uint64_t seed = first + job; seed < first + n; seed += jobs, done++)
		cuts += workload(k, seed);
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
	{.name = "qcow2-bitmaps",
		QCOW2,
		.create = {{"cluster-size", "4K"}, {0}},
		.snapshots = true,
		.bitmaps = true},
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
