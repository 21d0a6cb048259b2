/* crash_work.c: a generated sequence of steps, what each sector has been through, and when. */
#include "crash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "disk/lodgefs/lodgefs.h"
#include "disk/tool.h"
#include "random.h"

static uint64_t rnd(struct world *w, uint64_t n)
{
	return random_below(&w->rng, n);
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

/* ---- the workload ---- */

struct call {
	struct disk_req r;
	struct iovec iov[3];
	struct disk_range range[TOGETHER];
	char *buf;
	struct world *w;
	struct volume *v;
	struct span *flush;
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
		c->flush->done = now(c->w);
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

static void send_flush(struct world *w, struct volume *v, struct call *c)
{
	*c = (struct call){.w = w, .v = v, .flush = &v->flush[v->nflush++]};
	*c->flush = (struct span){now(w), UINT64_MAX};
	c->r = (struct disk_req){.op = DISK_FLUSH, .done = on_done};
	disk_submit(v->d, &c->r);
}

static void flush_of(struct world *w, struct volume *v)
{
	struct call c;

	send_flush(w, v, &c);
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
		/* What is written ahead is late now and then: others get to its places first. */
		w->devs.nfaults = 1;
		w->devs.fault[0] = (struct memdev_fault){
			.ops = 1 << FILE_FILL, .turns = (unsigned)rnd(w, 400)};
		send_one(w, v, &c, DISK_WRITE, v->filled, FILL);
		wait_and_look(w, &c, 1);
		v->filled += FILL;
		if (n % 4 == 0)
			flush_of(w, v);
	}
}

/* While some of them are still on their way. */
static void flush_among(struct world *w, struct call *c)
{
	struct call f;

	for (uint64_t turns = rnd(w, 12); turns; turns--)
		uv_run(&w->loop, UV_RUN_NOWAIT);
	send_flush(w, c->v, &f);
	wait_for(w, &f, 1);
}

/* As when the journal is full. */
static void checkpoint_among(struct world *w)
{
	const struct lf_disk *l = w->volume[0].d->priv;

	for (uint64_t turns = rnd(w, 12); turns; turns--)
		uv_run(&w->loop, UV_RUN_NOWAIT);
	assert_int_equal(lf_checkpoint(l->fs), 0);
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
	if (!rnd(w, 3))
		flush_among(w, c);
	else if (w->k->file && !rnd(w, 3))
		checkpoint_among(w);
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

/* The same, and of what was discarded: what it reads as now. A snapshot keeps that. */
static uint64_t *contents(struct world *w, const struct volume *v)
{
	uint64_t *all = stamps(v), size = v->d->size;
	struct err e = {0};

	for (uint64_t at = 0, n; at < size; at += n) {
		n = MIN(size - at, PART);
		if (disk_rw(v->d, DISK_READ, at, w->buf, n, &e))
			fail_msg("seed %llu: %s", (unsigned long long)w->seed, err_msg(&e));
		for (uint64_t i = 0; i < n / SECTOR; i++)
			if (all[at / SECTOR + i] == UINT64_MAX)
				all[at / SECTOR + i] = get_le64(w->buf + i * SECTOR) >> 24;
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
	m->stamp = contents(w, v);
	m->size = v->d->size;
	m->made.submitted = now(w);
	if (disk_snapshot(v->d, DISK_SNAP_CREATE, m->name, &e))
		fail_msg("%s", err_msg(&e));
	m->made.done = now(w);
	w->nmade++;
}

static void snapshot(struct world *w)
{
	for (unsigned i = 0; i < w->nmade; i++)
		if (!w->made[i].deleted.done && w->volume[w->made[i].volume].d && !rnd(w, 2)) {
			delete_snapshot(w, &w->made[i]);
			return;
		}
	snapshot_of(w, any_volume(w));
}

/* What the disk is from now on, without a request: zeroes (stamp NULL) or these. Durable when it is done. */
static void becomes(struct world *w, struct volume *v, uint64_t from, uint64_t end,
	const uint64_t *stamp, uint64_t submitted)
{
	w->order++;
	for (uint64_t s = from / SECTOR; s < end / SECTOR; s++) {
		struct past *p = note(w, v, s, stamp ? stamp[s] : 0);

		p->submitted = submitted;
		p->done = now(w);
		p->ended = w->order + 1;
		p->fua = true;
	}
	w->order++;
}

static void resized(struct volume *v, uint64_t submitted, uint64_t done)
{
	v->size[v->nsizes] = (struct span){submitted, done};
	v->size_value[v->nsizes++] = v->d->size;
}

static void resize(struct world *w)
{
	struct volume *v = any_volume(w);
	uint64_t old = v->d->size, by = (1 + rnd(w, rnd(w, 2) ? 64 : 300)) * 4096, begun = now(w);
	uint64_t least = w->k->dense ? START : w->k->fills ? MiB : START / 4;
	uint64_t size = rnd(w, 2) ? MIN(old + by, LARGEST) : MAX(old - MIN(by, old), least);
	struct err e = {0};
	int rc = size == old || !v->d->format->resize ? -EOPNOTSUPP : disk_resize(v->d, size, &e);

	if (rc == -EOPNOTSUPP) /* nor does qcow2 of version 2 become shorter with snapshots */
		return;
	if (rc)
		fail_msg("%s: from %llu to %llu: %s", w->k->name, (unsigned long long)old,
			(unsigned long long)size, err_msg(&e));
	if (size < old)
		becomes(w, v, size, old, NULL, begun);
	resized(v, begun, now(w));
}

static void go_back(struct world *w)
{
	struct back *b = &w->back[w->nbacks];
	const struct made *m = NULL;
	struct err e = {0};
	struct volume *v;
	uint64_t old;

	for (unsigned i = 0; i < w->nmade && (!m || rnd(w, 2)); i++)
		if (!w->made[i].deleted.done && w->volume[w->made[i].volume].d)
			m = &w->made[i];
	if (!m)
		return;
	v = &w->volume[m->volume];
	old = v->d->size;
	*b = (struct back){.to = m, .volume = m->volume, .when = {now(w), 0}};
	b->before = calloc(SECTORS, sizeof(*b->before));
	for (uint64_t s = 0; s < SECTORS; s++)
		b->before[s] = v->sector[s].n;
	if (disk_snapshot(v->d, DISK_SNAP_APPLY, m->name, &e))
		fail_msg("%s: %s: %s", w->k->name, m->name, err_msg(&e));
	b->when.done = now(w);
	becomes(w, v, 0, m->size, m->stamp, b->when.submitted);
	if (old > m->size)
		becomes(w, v, m->size, old, NULL, b->when.submitted);
	resized(v, b->when.submitted, b->when.done);
	w->nbacks++;
}

/* A bitmap is begun, or goes. */
static void bitmap(struct world *w)
{
	struct disk *d = w->volume[0].d;
	struct bits *b = NULL;
	struct err e = {0};

	for (unsigned i = 0; i < w->nbits && !b; i++)
		if (!w->bits[i].removed.done && !rnd(w, 4))
			b = &w->bits[i];
	if (b && rnd(w, 2)) { /* from here on it is another one */
		if (disk_bitmap(d, DISK_BITMAP_CLEAR, b->name, 0, &e))
			fail_msg("%s: %s", b->name, err_msg(&e));
		free(b->stamp);
		b->stamp = stamps(&w->volume[0]);
		b->cleared = now(w);
	} else if (b) {
		b->removed.submitted = now(w);
		if (disk_bitmap(d, DISK_BITMAP_REMOVE, b->name, 0, &e))
			fail_msg("%s: %s", b->name, err_msg(&e));
		b->removed.done = now(w);
	} else if (w->nbits < BITMAPS) {
		b = &w->bits[w->nbits];
		snprintf(b->name, sizeof(b->name), "b%u", w->nbits++);
		b->stamp = stamps(&w->volume[0]);
		b->added.submitted = now(w);
		if (disk_bitmap(d, DISK_BITMAP_ADD, b->name, rnd(w, 2) ? 512 : 65536, &e))
			fail_msg("%s: %s", b->name, err_msg(&e));
		b->added.done = now(w);
	}
}

/* As a tool does: nothing else is in flight, and it flushes. */
static void pack(struct world *w)
{
	struct volume *v = any_volume(w);
	uint64_t clusters = v->d->size / w->k->packed, first = rnd(w, clusters);
	uint64_t n = MIN(1 + rnd(w, 16), clusters - first);
	struct call c = {.w = w, .v = v, .r = {.op = DISK_WRITE}};
	uint64_t off = first * w->k->packed, len = n * w->k->packed;
	struct err e = {0};

	w->stamp++;
	w->order++;
	c.buf = malloc(len);
	begin(w, &c, off, len, c.buf);
	if (v->d->format->write_compressed(v->d, off, c.buf, len, &e) ||
		disk_rw(v->d, DISK_FLUSH, 0, NULL, 0, &e))
		fail_msg("%s: %s", w->k->name, err_msg(&e));
	w->order++;
	ended(&c, off, len);
	free(c.buf);
}

struct disk_opts crash_opts(
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
	struct disk_opts o = crash_opts(w, v->path, &w->devs, w->k->clones ? &w->stores : NULL);
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

static void reopen(struct world *w)
{
	struct volume *v = any_volume(w);
	uint64_t size = v->d->size;

	disk_close(steal_ptr(v->d));
	open_again(w, v);
	assert_int_equal(v->d->size, size);
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
}

static void step(struct world *w, uint64_t k)
{
	bool snapshots = w->k->snapshots && w->volume[w->nvolumes - 1].d->format->snapshot;

	if (w->k->dense && k < 9)
		near_together(w, NULL, rnd(w, START / MiB) * MiB);
	else if (w->k->fills && k < 4)
		in_order(w);
	else if (k < 7)
		together(w);
	else if (k < 9)
		scattered(w);
	else if (k < 12)
		flush(w);
	else if (k < 15 && snapshots)
		snapshot(w);
	else if (k == 15 && snapshots)
		go_back(w);
	else if (k < 18)
		resize(w);
	else if (k == 18)
		reopen(w);
	else
		together(w);
	if (w->k->synced && k < 9)
		flush(w);
}

void crash_run(struct world *w)
{
	create(w);
	for (unsigned i = 0; i < (w->k->synced ? STEPS : FEW_STEPS); i++) {
		if (w->k->tracked && !rnd(w, 4))
			generation(w);
		if (w->k->bitmaps && !rnd(w, 3))
			bitmap(w);
		if (w->k->packed && !rnd(w, 3))
			pack(w);
		if (w->k->clones && i && w->nvolumes < VOLUMES && !rnd(w, 4))
			(w->k->dense ? partly_shared : clone_one)(w);
		if (w->k->overlays && i && w->nvolumes < VOLUMES && !rnd(w, 4))
			overlay(w);
		/* A block's worth, before anything else gets in between. */
		step(w, w->k->fills && (i == 1 || i == 2) ? 0 : rnd(w, 20));
	}
	for (unsigned i = 0; i < w->nvolumes; i++)
		disk_close(steal_ptr(w->volume[i].d));
	disk_stores_clear(&w->stores);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	/* Requests are apart from each other: then what is made of them is, too. */
	if (w->devs.met && !w->k->dense)
		fail_msg("LODGE_CRASH_KIND=%s LODGE_CRASH_SEED=%llu: %llu changes were sent while "
			 "others "
			 "of the same bytes were on their way",
			w->k->name, (unsigned long long)w->seed, (unsigned long long)w->devs.met);
}
