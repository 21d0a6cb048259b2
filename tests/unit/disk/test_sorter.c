/*
 * test_sorter.c: the sorter under a format that is as small as can be (a table of clusters at the start of a file) on devices in memory: what goes
 * out at once, what is batched, what happens when something fails, and random requests against an oracle. Parts of a cluster may be frozen, as what
 * others share is: a write to one moves the cluster, and all that is beside it comes along.
 */
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
#include "disk/sorter.h"
#include "random.h"

#define CLUSTER (64 * KiB)
#define CLUSTERS 256u
#define SIZE (CLUSTERS * CLUSTER)
#define TABLE (CLUSTERS * 8)
#define PARTS 16u /* of a cluster, which may be frozen one by one */
#define PART (CLUSTER / PARTS)

struct toy {
	struct file *file;
	struct sorter *s;
	uint64_t map[CLUSTERS]; /* address or 0 */
	uint16_t frozen[CLUSTERS];
	uint64_t end, freed[CLUSTERS];
	unsigned nfree;
	bool full;
	unsigned commits, aborts;
	int fail_commit;
	uint64_t no_space_for; /* block + 1 */
};

struct resv {
	uint64_t addr;
};

struct gone {
	struct sorter_quarantine q;
	struct toy *t;
	uint64_t addr;
};

/* What a test wants of the next disk that is opened. */
static struct rig {
	uv_loop_t loop;
	struct memdevs devs;
	struct disk *d;
	struct toy *t;
	bool one_by_one, stable, slow;
	uint64_t rng;
} rig;

static uint64_t rnd(uint64_t n)
{
	return random_below(&rig.rng, n);
}

/* ---- the format ---- */

struct later {
	struct file_req req;
	struct iovec iov;
	char byte;
	struct sorter_set *set;
	struct toy *t;
};

static bool frozen(const struct toy *t, uint64_t off)
{
	return t->frozen[off / CLUSTER] >> (off % CLUSTER / PART) & 1;
}

/* Cuts off what of the element is not as its beginning is. */
static void cut_at_thaw(struct toy *t, struct sorter_set *set, unsigned i)
{
	const struct sorter_elem *el = &set->elem[i];
	uint64_t at = el->off, end = el->off + el->len;

	while (at < end && frozen(t, at) == frozen(t, el->off))
		at = (at / PART + 1) * PART;
	if (at < end)
		assert_int_equal(sorter_cut(set, i, at - el->off), 0);
}

static void look_up(struct toy *t, struct sorter_set *set)
{
	uint64_t at = t->map[set->block];

	for (unsigned i = 0; i < set->n; i++) {
		struct sorter_elem *el;

		if (set->elem[i].kind == SORT_DATA)
			cut_at_thaw(t, set, i);
		el = &set->elem[i];
		el->file = t->file;
		el->addr = at + el->off % CLUSTER;
		if (el->kind == SORT_DATA)
			el->where = at && !frozen(t, el->off) ? SORT_PLAIN : SORT_META;
		else if (el->kind == SORT_ZERO)
			el->where = at ? SORT_PLAIN : SORT_NOTHING;
		else
			el->where = at && el->len == CLUSTER ? SORT_META : SORT_NOTHING;
	}
	sorter_resolved(set, 0);
}

static void later_done(struct file_req *r)
{
	struct later *l = container_of(r, struct later, req);

	look_up(l->t, l->set);
	free(l);
}

static void toy_resolve(void *ctx, struct sorter_set *set)
{
	struct toy *t = ctx;
	struct later *l;

	if (!rig.slow || rnd(2)) {
		look_up(t, set);
		return;
	}
	l = calloc(1, sizeof(*l));
	*l = (struct later){.set = set, .t = t, .iov = {&l->byte, 1}};
	l->req = (struct file_req){
		.op = FILE_READ, .len = 1, .iov = &l->iov, .niov = 1, .done = later_done};
	file_submit(t->file, &l->req);
}

static void toy_prepare(void *ctx, struct sorter_tx *tx)
{
	struct toy *t = ctx;
	struct resv *v;
	uint64_t at = tx->block * CLUSTER, end = at + CLUSTER, old = t->map[tx->block];

	tx->priv = NULL;
	if (tx->elem[0].kind == SORT_DISCARD && tx->n == 1) {
		sorter_prepared(tx, 0);
		return;
	}
	if (t->no_space_for == tx->block + 1) {
		sorter_prepared(tx, -ENOSPC);
		return;
	}
	assert_true(!old == !t->frozen[tx->block]);
	v = calloc(1, sizeof(*v));
	if (t->nfree) {
		v->addr = t->freed[--t->nfree];
	} else {
		v->addr = t->end;
		t->end += CLUSTER;
	}
	tx->priv = v;
	for (unsigned i = 0; i < tx->n; i++) {
		struct sorter_elem *el = &tx->elem[i];

		assert_true(el->off >= at && el->kind != SORT_ZERO);
		if (el->kind == SORT_DISCARD)
			continue;
		el->file = t->file;
		el->addr = v->addr + el->off % CLUSTER;
		assert_int_equal(sorter_add_fill(tx, at, el->off - at, old || rnd(2), t->file,
					 v->addr + at % CLUSTER, old ? old + at % CLUSTER : 0),
			0);
		at = el->off + el->len;
	}
	assert_int_equal(sorter_add_fill(tx, at, end - at, old, t->file, v->addr + at % CLUSTER,
				 old ? old + at % CLUSTER : 0),
		0);
	sorter_prepared(tx, 0);
}

static void toy_read_old(void *ctx, struct sorter_fill *f)
{
	struct toy *t = ctx;

	if (f->tag) {
		sorter_fill_from(f, t->file, f->tag);
		return;
	}
	memset(f->buf, 0, f->len);
	sorter_filled(f, 0);
}

struct commit {
	struct file_req req;
	struct iovec iov;
	char table[TABLE];
	struct sorter_batch *b;
	struct toy *t;
};

static void unquarantine(struct sorter_quarantine *q)
{
	struct gone *g = container_of(q, struct gone, q);

	g->t->freed[g->t->nfree++] = g->addr;
	free(g);
}

static void commit_done(struct file_req *r)
{
	struct commit *c = container_of(r, struct commit, req);
	struct toy *t = c->t;
	int rc = r->result;

	for (struct sorter_tx *tx = c->b->first; tx; tx = tx->next) {
		struct resv *v = tx->priv;

		if (!rc && t->map[tx->block]) {
			struct gone *g = calloc(1, sizeof(*g));

			*g = (struct gone){
				.q.free = unquarantine, .t = t, .addr = t->map[tx->block]};
			sorter_quarantine(t->s, &g->q);
		}
		if (!rc) {
			t->map[tx->block] = v ? v->addr : 0;
			t->frozen[tx->block] = 0;
		} else if (v)
			t->freed[t->nfree++] = v->addr;
		free(v);
	}
	sorter_account(t->s, 0, 1, TABLE, 0);
	sorter_committed(c->b, rc);
	free(c);
}

static void toy_commit(void *ctx, struct sorter_batch *b)
{
	struct toy *t = ctx;
	struct commit *c = calloc(1, sizeof(*c));

	t->commits++;
	*c = (struct commit){.b = b, .t = t, .iov = {c->table, TABLE}};
	for (unsigned i = 0; i < CLUSTERS; i++)
		put_le64(c->table + 8ul * i, t->map[i]);
	for (struct sorter_tx *tx = b->first; tx; tx = tx->next) {
		const struct resv *v = tx->priv;

		put_le64(c->table + 8 * tx->block, v ? v->addr : 0);
	}
	c->req = (struct file_req){
		.op = FILE_WRITE, .len = TABLE, .iov = &c->iov, .niov = 1, .done = commit_done};
	file_submit(t->file, &c->req);
}

static void toy_abort(void *ctx, struct sorter_tx *tx)
{
	struct toy *t = ctx;
	struct resv *v = tx->priv;

	t->aborts++;
	if (v)
		t->freed[t->nfree++] = v->addr;
	free(v);
}

static const struct sorter_ops toy_ops = {.resolve = toy_resolve,
	.prepare = toy_prepare,
	.read_old = toy_read_old,
	.commit = toy_commit,
	.abort = toy_abort};

static int toy_open(struct disk *d, struct err *e)
{
	struct toy *t = calloc(1, sizeof(*t));
	int rc;

	d->priv = rig.t = t;
	d->size = SIZE;
	t->end = CLUSTER;
	rc = disk_file(d, NULL, 0, &t->file, e);
	if (rc)
		return rc;
	return sorter_create(&t->s,
		&(struct sorter_opts){.disk = d,
			.block_size = CLUSTER,
			.ops = &toy_ops,
			.ctx = t,
			.stable = rig.stable ? UINT64_MAX : 0,
			.one_by_one = rig.one_by_one},
		e);
}

static int toy_close(struct disk *d)
{
	struct toy *t = d->priv;

	sorter_destroy(t->s);
	file_close(t->file);
	free(t);
	return 0;
}

/* Reads block by block, and waits: no test is about reading. */
static void toy_read(struct disk *d, struct disk_req *r)
{
	struct toy *t = d->priv;
	cleanup(free_ptr) char *buf = malloc(r->len);
	uint64_t off = r->offset;

	while (off < r->offset + r->len) {
		uint64_t part = MIN(CLUSTER - off % CLUSTER, r->offset + r->len - off);

		if (t->map[off / CLUSTER])
			memdev_peek(&rig.devs, "toy", t->map[off / CLUSTER] + off % CLUSTER,
				buf + (off - r->offset), part);
		else
			memset(buf + (off - r->offset), 0, part);
		off += part;
	}
	iov_write(r->iov, r->niov, 0, buf, r->len);
	disk_done_soon(r, 0);
}

static void toy_submit(struct disk *d, struct disk_req *r)
{
	struct toy *t = d->priv;

	if (r->op == DISK_READ)
		toy_read(d, r);
	else if (r->op == DISK_FLUSH)
		disk_done_soon(r, 0);
	else
		sorter_submit(t->s, r);
}

static void toy_kick(struct disk *d)
{
	sorter_kick(((struct toy *)d->priv)->s);
}

static const struct disk_format toy = {.name = "toy",
	.open = toy_open,
	.close = toy_close,
	.submit = toy_submit,
	.kick = toy_kick,
	.scattered = true};

/* ---- the rig ---- */

static void start(void)
{
	struct err e = {0};
	char zero[TABLE] = {0};

	memdev_poke(&rig.devs, "toy", 0, zero, TABLE);
	if (disk_open_as(&rig.d, &toy,
		    &(struct disk_opts){.path = "toy",
			    .loop = &rig.loop,
			    .open_file = memdevs_open,
			    .open_ctx = &rig.devs},
		    &e))
		fail_msg("%s", err_msg(&e));
}

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	rig.rng = RANDOM_SEED;
	uv_loop_init(&rig.loop);
	return 0;
}

static int teardown(void **state)
{
	disk_close(rig.d);
	uv_run(&rig.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&rig.loop), 0);
	memdevs_free(&rig.devs);
	return 0;
}

static struct sorter_stats stats(void)
{
	struct sorter_stats s;

	sorter_stats(rig.t->s, &s);
	return s;
}

struct call {
	struct disk_req r;
	struct iovec iov[4];
	struct disk_range range[64];
	char *buf;
	bool done;
};

static void on_done(struct disk_req *r)
{
	struct call *c = container_of(r, struct call, r);

	assert_false(c->done);
	c->done = true;
}

static void send_call(struct call *c)
{
	c->done = false;
	c->r.done = on_done;
	disk_submit(rig.d, &c->r);
	assert_false(c->done);
}

static void wait_all(struct call *c, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		while (!c[i].done)
			uv_run(&rig.loop, UV_RUN_ONCE);
}

static void make(struct call *c, enum disk_op op, uint64_t off, uint64_t len, int fill)
{
	c->r = (struct disk_req){.op = op, .offset = off, .len = len};
	if (op != DISK_WRITE && op != DISK_READ)
		return;
	c->buf = malloc(len);
	memset(c->buf, fill, len);
	c->iov[0] = (struct iovec){c->buf, len / 2};
	c->iov[1] = (struct iovec){c->buf + len / 2, len - len / 2};
	c->r.iov = c->iov;
	c->r.niov = 2;
}

static int one(enum disk_op op, uint64_t off, uint64_t len, int fill)
{
	struct call c = {0};

	make(&c, op, off, len, fill);
	send_call(&c);
	wait_all(&c, 1);
	free(c.buf);
	return c.r.result;
}

static void expect(uint64_t off, uint64_t len, int fill)
{
	struct call c = {0};

	make(&c, DISK_READ, off, len, 0x77);
	send_call(&c);
	wait_all(&c, 1);
	for (uint64_t i = 0; i < len; i++)
		if (c.buf[i] != (char)fill)
			fail_msg("byte %llu is %d, not %d", (unsigned long long)(off + i), c.buf[i],
				fill);
	free(c.buf);
}

/* ---- tests ---- */

/* One write with 64 elements in 64 blocks. */
static struct call *scattered(uint64_t step)
{
	struct call *c = calloc(1, sizeof(*c));

	make(c, DISK_WRITE, 0, 64 * 4096, 0x5a);
	for (unsigned i = 0; i < 64; i++)
		c->range[i] = (struct disk_range){((i * 37) % 64) * step + 8192, 4096};
	c->r.ranges = c->range;
	c->r.nranges = 64;
	send_call(c);
	wait_all(c, 1);
	assert_int_equal(c->r.result, 0);
	free(c->buf);
	return c;
}

static void one_transaction(void **state)
{
	start();
	free(scattered(CLUSTER));
	assert_int_equal(stats().logical, 64);
	assert_int_equal(stats().physical, 1);
	assert_int_equal(rig.t->commits, 1);
	assert_int_equal(stats().meta, 64);
	/* The allocated clusters lie one behind the other: 4 MiB in two writes. */
	assert_int_equal(stats().data_writes, 2);
	expect(8192, 4096, 0x5a);
	expect(0, 8192, 0);
	expect(63 * CLUSTER + 8192 + 4096, CLUSTER - 12288, 0);
}

static void one_per_block(void **state)
{
	rig.one_by_one = true;
	start();
	free(scattered(CLUSTER));
	assert_int_equal(stats().logical, 64);
	assert_int_equal(stats().physical, 64);
	expect(8192, 4096, 0x5a);
}

static void same_block_once(void **state)
{
	struct call c[16] = {0};

	start();
	for (unsigned i = 0; i < 16; i++) {
		make(&c[i], DISK_WRITE, i * 4096ull, 4096, (int)i);
		send_call(&c[i]);
	}
	wait_all(c, 16);
	assert_int_equal(stats().logical, 1);
	assert_int_equal(stats().physical, 1);
	assert_int_equal(stats().data_writes, 1);
	assert_int_equal(stats().fill_bytes, 0);
	for (unsigned i = 0; i < 16; i++) {
		expect(i * 4096ull, 4096, (int)i);
		free(c[i].buf);
	}
}

static void plain_bypasses(void **state)
{
	struct call c = {0};
	uint64_t commits;

	start();
	assert_int_equal(one(DISK_WRITE, 0, CLUSTER, 1), 0);
	commits = stats().physical;
	assert_int_equal(one(DISK_WRITE, 4096, 4096, 2), 0);
	assert_int_equal(stats().plain, 1);
	assert_int_equal(stats().physical, commits);
	/* Half plain, half not. */
	make(&c, DISK_WRITE, CLUSTER - 4096, 8192, 3);
	send_call(&c);
	assert_int_equal(stats().plain, 2);
	wait_all(&c, 1);
	free(c.buf);
	assert_int_equal(stats().physical, commits + 1);
	expect(CLUSTER - 4096, 8192, 3);
	expect(4096, 4096, 2);
}

/* Ranges of one request that overlap: the last one wins, on new blocks and on old ones. */
static void overlap_keeps_order(void **state)
{
	start();
	for (unsigned round = 0; round < 2; round++) {
		struct call c = {0};

		make(&c, DISK_WRITE, 0, 5 * 4096, 0);
		for (unsigned i = 0; i < 5; i++)
			memset(c.buf + i * 4096ul, (int)(round * 16 + i + 1), 4096);
		c.range[0] = (struct disk_range){4096, 4096};
		c.range[1] = (struct disk_range){6144, 4096};
		c.range[2] = (struct disk_range){4096, 4096}; /* the same once more */
		c.range[3] = (struct disk_range){CLUSTER - 2048, 4096};
		c.range[4] = (struct disk_range){CLUSTER - 1024, 4096};
		c.r.ranges = c.range;
		c.r.nranges = 5;
		send_call(&c);
		wait_all(&c, 1);
		assert_int_equal(c.r.result, 0);
		expect(4096, 4096, (int)(round * 16 + 3));
		expect(8192, 2048, (int)(round * 16 + 2));
		expect(CLUSTER - 2048, 1024, (int)(round * 16 + 4));
		expect(CLUSTER - 1024, 4096, (int)(round * 16 + 5));
		free(c.buf);
	}
}

/* One block has no space: its requests fail as a whole, the others do not. */
static void no_space(void **state)
{
	struct call c[4] = {0};

	start();
	rig.t->no_space_for = 3 + 1;
	make(&c[0], DISK_WRITE, 0, 4096, 1); /* alone */
	make(&c[1], DISK_WRITE, 2 * CLUSTER, 2 * CLUSTER, 2); /* blocks 2 and 3 */
	make(&c[2], DISK_WRITE, 2 * CLUSTER + 4096, 4096, 3); /* shares block 2 */
	make(&c[3], DISK_WRITE, 3 * CLUSTER, 4096, 4); /* block 3 */
	for (unsigned i = 0; i < 4; i++)
		send_call(&c[i]);
	wait_all(c, 4);
	assert_int_equal(c[0].r.result, 0);
	assert_int_equal(c[1].r.result, -ENOSPC);
	assert_int_equal(c[2].r.result, 0);
	assert_int_equal(c[3].r.result, -ENOSPC);
	assert_int_equal(rig.t->map[3], 0);
	expect(2 * CLUSTER, 4096, 0); /* nothing of the failed one */
	expect(2 * CLUSTER + 4096, 4096, 3);
	expect(0, 4096, 1);
	assert_int_equal(stats().restarted, 1);
	assert_true(rig.t->aborts >= 2);
	/* No leak: what was reserved is used again. */
	assert_int_equal(rig.t->end, CLUSTER * 3);
	for (unsigned i = 0; i < 4; i++)
		free(c[i].buf);
}

static void data_write_fails(void **state)
{
	start();
	rig.devs.fault[0] = (struct memdev_fault){
		.ops = 1 << FILE_WRITE, .off = CLUSTER, .len = SIZE, .count = 1, .error = -EIO};
	rig.devs.nfaults = 1;
	assert_int_equal(one(DISK_WRITE, 0, 4096, 1), -EIO);
	assert_int_equal(rig.t->commits, 0);
	assert_int_equal(rig.t->aborts, 1);
	assert_int_equal(one(DISK_WRITE, 0, 4096, 2), 0);
	expect(0, 4096, 2);
}

static void commit_fails(void **state)
{
	start();
	rig.devs.fault[0] = (struct memdev_fault){
		.ops = 1 << FILE_WRITE, .off = 0, .len = TABLE, .count = 1, .error = -EIO};
	rig.devs.nfaults = 1;
	assert_int_equal(one(DISK_WRITE, 0, 4096, 1), -EIO);
	expect(0, 4096, 0);
	assert_int_equal(one(DISK_WRITE, 0, 4096, 2), 0);
	expect(0, 4096, 2);
	assert_int_equal(rig.t->end, 2 * CLUSTER);
}

/* Freed space waits for readers that had it in their hands. */
static void quarantine(void **state)
{
	uint64_t epoch, was;

	start();
	assert_int_equal(one(DISK_WRITE, 0, CLUSTER, 1), 0);
	was = rig.t->map[0];
	epoch = sorter_enter(rig.t->s);
	assert_int_equal(one(DISK_DISCARD, 0, CLUSTER, 0), 0);
	assert_int_equal(rig.t->map[0], 0);
	assert_int_equal(one(DISK_WRITE, CLUSTER, CLUSTER, 1), 0);
	assert_true(rig.t->map[1] != was);
	sorter_leave(rig.t->s, epoch);
	assert_int_equal(one(DISK_WRITE, 2 * CLUSTER, CLUSTER, 1), 0);
	assert_int_equal(rig.t->map[2], was);
}

struct waiting {
	struct sorter_quarantine q;
	unsigned *left;
};

static void let_go(struct sorter_quarantine *q)
{
	--*container_of(q, struct waiting, q)->left;
}

/* More waits for one slow reader than there are epochs: all of it goes when he has gone, and nobody else need come for that. */
static void slow_reader(void **state)
{
	struct waiting w[200];
	unsigned left = ARRAY_SIZE(w);
	uint64_t epoch;

	start();
	epoch = sorter_enter(rig.t->s);
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
		w[i] = (struct waiting){.q.free = let_go, .left = &left};
		sorter_quarantine(rig.t->s, &w[i].q);
	}
	assert_int_equal(left, ARRAY_SIZE(w));
	sorter_leave(rig.t->s, epoch);
	assert_int_equal(left, 0);
}

static void large_discard(void **state)
{
	start();
	assert_int_equal(one(DISK_WRITE, 5 * CLUSTER, CLUSTER, 1), 0);
	assert_int_equal(one(DISK_WRITE, SIZE - CLUSTER, CLUSTER, 1), 0);
	assert_int_equal(one(DISK_DISCARD, 0, SIZE, 0), 0);
	for (unsigned i = 0; i < CLUSTERS; i++)
		assert_int_equal(rig.t->map[i], 0);
	assert_int_equal(one(DISK_WRITE_ZEROES, 0, SIZE, 0), 0);
}

/*
 * Many at once in shuffled order, with slow lookups and failing writes; those in flight together do not overlap, so
 * that an oracle can tell what has to be there. What failed may have written anything in its own range.
 */
static void random_requests(void **state)
{
	enum { DEPTH = 32, SLOT = 8 * CLUSTER };
	cleanup(free_ptr) char *want = calloc(1, SIZE), *got = malloc(SIZE);
	cleanup(free_ptr) bool *unsure = calloc(SIZE / 512, sizeof(bool));
	struct call c[DEPTH];
	struct call rd = {0};

	rig.slow = rig.stable = true;
	rig.devs.seed = 7;
	start();
	for (unsigned round = 0; round < 120; round++) {
		rig.devs.nfaults = round % 5 == 4;
		rig.devs.fault[0] = (struct memdev_fault){.ops = 1 << FILE_WRITE,
			.after = (unsigned)rnd(8),
			.count = 1 + (unsigned)rnd(3),
			.error = -EIO,
			.torn = rnd(2)};
		memset(c, 0, sizeof(c));
		for (unsigned i = 0; i < DEPTH;
			i++) { /* each in its own sixteenth of 2 clusters, sharing blocks */
			uint64_t base = i * (SIZE / DEPTH), room = SIZE / DEPTH;
			uint64_t off = base + rnd(room / 512) * 512;
			uint64_t len = MIN(base + room - off, (1 + rnd(200)) * 512);
			unsigned k = (unsigned)rnd(10);

			make(&c[i],
				k < 7	? DISK_WRITE
				: k < 9 ? DISK_WRITE_ZEROES
					: DISK_DISCARD,
				off, len, (int)(1 + rnd(250)));
			if (c[i].r.op ==
				DISK_DISCARD) { /* whole clusters only, so that it reads as zeroes */
				c[i].r.offset = align_up(off, CLUSTER);
				c[i].r.len = c[i].r.offset + CLUSTER <= base + room ? CLUSTER : 0;
			}
		}
		for (unsigned i = 0; i < DEPTH; i++)
			send_call(&c[i]);
		if (rnd(4))
			wait_all(c, DEPTH);
		else
			disk_drain(rig.d);
		for (unsigned i = 0; i < DEPTH; i++) {
			struct disk_req *r = &c[i].r;

			assert_true(c[i].done);
			for (uint64_t s = r->offset / 512; s < (r->offset + r->len) / 512; s++)
				unsure[s] = r->result;
			if (!r->result && r->len)
				memset(want + r->offset, r->op == DISK_WRITE ? c[i].buf[0] : 0,
					r->len);
			free(c[i].buf);
		}
	}
	make(&rd, DISK_READ, 0, SIZE, 0);
	free(rd.buf);
	rd.buf = got;
	rd.iov[0] = (struct iovec){got, SIZE};
	rd.r.niov = 1;
	send_call(&rd);
	wait_all(&rd, 1);
	for (uint64_t s = 0; s < SIZE / 512; s++)
		if (!unsure[s] && memcmp(got + s * 512, want + s * 512, 512))
			fail_msg("sector %llu: %d, not %d", (unsigned long long)s, got[s * 512],
				want[s * 512]);
	assert_true(stats().physical < stats().logical / 2);
	assert_true(rig.devs.faults_hit > 10);
	/* Every cluster belongs to one owner, and none is lost. */
	{
		uint64_t used = 0;

		for (unsigned i = 0; i < CLUSTERS; i++)
			used += rig.t->map[i] != 0;
		assert_int_equal(used + rig.t->nfree, rig.t->end / CLUSTER - 1);
	}
}

/*
 * Many in a few clusters of which parts are frozen: what goes out in place, and what comes along with a cluster that moves, are the same parts at the same
 * time, with delays here and there. They share parts, not sectors: each sector is what was written to it last.
 */
static void moving_clusters(void **state)
{
	enum { DEPTH = 24, AREA = 4 * CLUSTER, SLOT = 3 * 512, SLOTS = AREA / SLOT };
	cleanup(free_ptr) char *want = calloc(1, AREA), *got = malloc(AREA);
	struct call *c = calloc(DEPTH, sizeof(*c)), rd = {0};
	uint64_t moved = 0;

	rig.slow = true;
	rig.devs.seed = 11;
	start();
	for (unsigned round = 0; round < 400; round++) {
		unsigned first = (unsigned)rnd(SLOTS);

		for (unsigned i = 0; i < AREA / CLUSTER; i++)
			if (rig.t->map[i])
				rig.t->frozen[i] = rnd(2) ? (uint16_t)rnd(65536) : 0;
		for (unsigned i = 0; i < AREA / CLUSTER; i++)
			moved += rig.t->frozen[i] != 0;
		rig.devs.nfaults = 1;
		rig.devs.fault[0] = (struct memdev_fault){
			.ops = 1u << (rnd(2) ? FILE_WRITE : FILE_READ),
			.after = (unsigned)rnd(12),
			.count = 1 + (unsigned)rnd(4),
			.turns = 1 + (unsigned)rnd(60)};
		memset(c, 0, DEPTH * sizeof(*c));
		for (unsigned i = 0; i < DEPTH; i++) { /* near each other, or far */
			uint64_t slot = (first + i * (round % 2 ? 7 : 1)) % SLOTS;
			bool zero = !rnd(8);

			make(&c[i], zero ? DISK_WRITE_ZEROES : DISK_WRITE, slot * SLOT, SLOT,
				(int)(1 + rnd(250)));
			memset(want + slot * SLOT, zero ? 0 : c[i].buf[0], SLOT);
			send_call(&c[i]);
			if (!rnd(3))
				uv_run(&rig.loop, UV_RUN_NOWAIT);
		}
		wait_all(c, DEPTH);
		for (unsigned i = 0; i < DEPTH; i++) {
			assert_int_equal(c[i].r.result, 0);
			free(c[i].buf);
		}
		rd = (struct call){.iov = {{got, AREA}}};
		rd.r = (struct disk_req){.op = DISK_READ, .len = AREA, .iov = rd.iov, .niov = 1};
		send_call(&rd);
		wait_all(&rd, 1);
		for (unsigned s = 0; s < AREA / 512; s++)
			if (memcmp(got + 512 * s, want + 512 * s, 512))
				fail_msg("round %u, sector %u: %d, not %d", round, s, got[512 * s],
					want[512 * s]);
	}
	assert_true(moved > 400 && stats().plain > 1000 && stats().fill_bytes > MiB);
	free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_transaction, setup, teardown),
		cmocka_unit_test_setup_teardown(one_per_block, setup, teardown),
		cmocka_unit_test_setup_teardown(same_block_once, setup, teardown),
		cmocka_unit_test_setup_teardown(plain_bypasses, setup, teardown),
		cmocka_unit_test_setup_teardown(overlap_keeps_order, setup, teardown),
		cmocka_unit_test_setup_teardown(no_space, setup, teardown),
		cmocka_unit_test_setup_teardown(data_write_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(commit_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(quarantine, setup, teardown),
		cmocka_unit_test_setup_teardown(slow_reader, setup, teardown),
		cmocka_unit_test_setup_teardown(large_discard, setup, teardown),
		cmocka_unit_test_setup_teardown(random_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(moving_clusters, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
