/*
 * tool_copy.c: copying and comparing whole disks.
 *
 * Copying keeps SLOTS pieces on their way, each read, looked at for zeroes, and written; the loop runs meanwhile. Where the source says that
 * there is nothing, nothing is read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/pages.h"
#include "base/util.h"
#include "disk/tool.h"

#define SLOTS 8u
#define PIECE (2 * MiB) /* the largest cluster of any format: compressed ones are written whole */
#define ZERO_GRAIN 4096u /* smaller runs of zeroes are written as data */

struct slot {
	struct copy *c;
	struct disk_req rd, wr[2];
	struct iovec iov, out;
	char *buf;
	uint64_t off, len, at; /* at: what is written, in the piece */
	bool busy;
};

struct copy {
	struct disk *from, *to;
	struct disk_copy *o;
	struct slot slot[SLOTS];
	uint64_t next, end, done, shown;
	uint64_t begun, asked; /* ns; bytes that were read, or will be */
	unsigned busy;
	int rc;
	struct err *e;
};

/* Pieces of data of two disks that are copied or compared. */
struct memory {
	struct iovec at;
	struct disk *a, *b; /* b: or NULL */
};

static void name(const struct memory *m, const struct iovec *at)
{
	disk_memory(m->a, at);
	if (m->b)
		disk_memory(m->b, at);
}

static void memory_free(struct memory *m)
{
	if (!m->at.iov_base)
		return;
	name(m, NULL);
	pages_free(m->at.iov_base, m->at.iov_len);
}

static int memory_get(
	struct memory *m, unsigned pieces, struct disk *a, struct disk *b, struct err *e)
{
	uint64_t len = pieces * PIECE;

	*m = (struct memory){{pages_alloc(len), len}, a, b};
	if (!m->at.iov_base)
		return err_set(e, -ENOMEM, "out of memory");
	name(m, &m->at);
	return 0;
}

static bool is_zero(const char *p, uint64_t n)
{
	return !n || (!*p && !memcmp(p, p + 1, n - 1));
}

/* The run of grains at `at` that are all zero, or all not. */
static uint64_t run_at(const struct slot *s, uint64_t at, bool *zero)
{
	uint64_t n = MIN(s->len - at, (uint64_t)ZERO_GRAIN), total = n;

	*zero = is_zero(s->buf + at, n);
	while (at + total < s->len) {
		n = MIN(s->len - at - total, (uint64_t)ZERO_GRAIN);
		if (is_zero(s->buf + at + total, n) != *zero)
			break;
		total += n;
	}
	return total;
}

static void slot_end(struct slot *s, int rc)
{
	struct copy *c = s->c;

	if (rc && !c->rc)
		c->rc = rc;
	c->done += s->len;
	s->busy = false;
	c->busy--;
}

static void write_next(struct slot *s);

static void written(struct disk_req *r)
{
	struct slot *s = container_of(r, struct slot, wr[0]);

	if (r->result) {
		slot_end(s, r->result);
		return;
	}
	s->at += r->len;
	write_next(s);
}

static void write_next(struct slot *s)
{
	struct copy *c = s->c;
	uint64_t n = 0;
	bool zero;

	while (s->at < s->len) {
		n = run_at(s, s->at, &zero);
		if (!zero || !c->o->blank || c->o->no_sparse)
			break;
		c->o->skipped += n;
		s->at += n;
	}
	if (s->at == s->len) {
		slot_end(s, 0);
		return;
	}
	zero = zero && !c->o->no_sparse;
	s->out = (struct iovec){s->buf + s->at, n};
	s->wr[0] = (struct disk_req){.op = zero ? DISK_WRITE_ZEROES : DISK_WRITE,
		.unmap = zero,
		.offset = s->off + s->at,
		.len = n,
		.iov = &s->out,
		.niov = 1,
		.done = written};
	c->o->copied += zero ? 0 : n;
	disk_submit(c->to, &s->wr[0]);
}

static void compressed(struct slot *s)
{
	struct copy *c = s->c;
	int rc = 0;

	if (is_zero(s->buf, s->len) && c->o->blank && !c->o->no_sparse) {
		c->o->skipped += s->len;
	} else {
		rc = c->to->format->write_compressed(c->to, s->off, s->buf, s->len, c->e);
		c->o->copied += s->len;
	}
	slot_end(s, rc);
}

static void was_read(struct disk_req *r)
{
	struct slot *s = container_of(r, struct slot, rd);

	s->at = 0;
	if (r->result)
		slot_end(s, r->result);
	else if (!s->c->o->compress)
		write_next(s);
	/* else by the copying loop: it blocks, which `done` must not */
}

static void start_slot(struct slot *s, uint64_t off, uint64_t len)
{
	struct copy *c = s->c;

	s->off = off;
	s->len = len;
	s->busy = true;
	c->busy++;
	c->asked += len;
	s->iov = (struct iovec){s->buf, len};
	s->wr[1].len = 0; /* not being zeroed */
	s->rd = (struct disk_req){.op = DISK_READ,
		.offset = off,
		.len = len,
		.iov = &s->iov,
		.niov = 1,
		.done = was_read};
	disk_submit(c->from, &s->rd);
}

static void zeroed(struct disk_req *r)
{
	struct slot *s = container_of(r, struct slot, wr[1]);

	slot_end(s, r->result);
}

static void start_zero(struct slot *s, uint64_t off, uint64_t len)
{
	struct copy *c = s->c;

	s->off = off;
	s->len = len;
	s->busy = true;
	c->busy++;
	s->wr[1] = (struct disk_req){
		.op = DISK_WRITE_ZEROES, .unmap = true, .offset = off, .len = len, .done = zeroed};
	disk_submit(c->to, &s->wr[1]);
}

/* Gives the slot something to do. Skips what needs nothing. */
static int feed(struct copy *c, struct slot *s, struct err *e)
{
	while (c->next < c->end) {
		struct disk_extent x;
		uint64_t off = c->next;
		int rc = disk_block_status(c->from, off, c->end - off, &x, e);

		if (rc)
			return rc;
		if (c->o->only_here && !(x.flags & DISK_EXT_HERE) && !x.depth) {
			c->next += x.len;
		} else if (x.flags & DISK_EXT_DATA || c->o->no_sparse) {
			/* Pieces end at multiples of their size, so that clusters are written whole. */
			x.len = MIN(x.len, PIECE - off % PIECE);
			/* Compressed ones whole: what was left out of this piece so far are holes, and counted. */
			if (c->o->compress) {
				c->done -= off % PIECE;
				c->o->skipped -= off % PIECE;
				off -= off % PIECE;
				x.len = MIN(PIECE, c->end - off);
				c->next = off;
			}
			c->next += x.len;
			start_slot(s, off, x.len);
			return 0;
		} else if (c->o->blank) {
			c->next += x.len;
		} else {
			c->next += x.len;
			start_zero(s, off, x.len);
			return 0;
		}
		c->done += x.len;
		c->o->skipped += x.len;
	}
	return 0;
}

static bool show(struct copy *c)
{
	const struct disk_watch *w = &c->o->watch;

	if (!w->progress || (c->done < c->shown && c->done < c->end && !c->o->rate))
		return true;
	c->shown = c->done + MAX(c->end / 1000, PIECE);
	return w->progress(w->ctx, c->done, c->end);
}

/* Requests of both disks go on: their loops run, or, with one of them idle, the other's. */
static void turn(struct copy *c)
{
	uv_run(c->from->o.loop, c->from->o.loop == c->to->o.loop ? UV_RUN_ONCE : UV_RUN_NOWAIT);
	if (c->from->o.loop != c->to->o.loop)
		uv_run(c->to->o.loop, UV_RUN_NOWAIT);
}

static bool too_fast(const struct copy *c)
{
	double s = (double)(clock_mono_ns() - c->begun) / 1e9;

	return c->o->rate && (double)c->asked > s * (double)c->o->rate;
}

static int go(struct copy *c, struct err *e)
{
	int rc = 0;

	do {
		for (unsigned i = 0; i < SLOTS && !rc && !c->rc; i++) {
			struct slot *s = &c->slot[i];

			if (!s->busy && !too_fast(c))
				rc = feed(c, s, e);
			if (s->busy && c->o->compress && s->wr[1].len == 0) {
				/* In order, so that compressed clusters lie one behind the other. */
				disk_drain(c->from);
				if (s->busy)
					compressed(s);
			}
		}
		if (!show(c))
			rc = err_set(e, -ECANCELED, "stopped");
		if (c->busy)
			turn(c);
		else if (!rc && !c->rc && c->next < c->end && too_fast(c))
			nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	} while (c->busy || (!rc && !c->rc && c->next < c->end));
	if (!rc && c->rc && c->o->compress && e && e->code)
		rc = c->rc;
	if (!rc && c->rc == -ENOSPC && c->to->format->store &&
		file_room(c->to->files->first) >= PIECE)
		rc = err_set(e, c->rc,
			"copying disk %s to %s: the store is full: `lodge store df` shows how, "
			"`lodge "
			"disk measure` what the copy takes",
			c->from->o.path, c->to->o.path);
	else if (!rc && c->rc)
		rc = err_sys(e, c->rc, "copying disk %s to %s", c->from->o.path, c->to->o.path);
	return rc;
}

int disk_copy(struct disk *from, struct disk *to, struct disk_copy *o, struct err *e)
{
	cleanup(free_ptr) struct copy *c = calloc(1, sizeof(*c));
	cleanup(memory_free) struct memory mem = {0};
	int rc;

	if (to->size < from->size)
		return err_set(e, -ENOSPC, "disk %s has %llu bytes, and %llu are to go there",
			to->o.path, (unsigned long long)to->size, (unsigned long long)from->size);
	if (o->compress && !to->format->write_compressed)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: the format %s has no compression: qcow2 has", to->o.path,
			to->format->name);
	rc = c ? memory_get(&mem, SLOTS, from, to, e) : err_set(e, -ENOMEM, "out of memory");
	if (rc)
		return rc;
	c->from = from;
	c->to = to;
	c->o = o;
	c->end = from->size;
	c->begun = clock_mono_ns();
	c->e = e;
	for (unsigned i = 0; i < SLOTS; i++) {
		c->slot[i].c = c;
		c->slot[i].buf = (char *)mem.at.iov_base + i * PIECE;
	}
	rc = go(c, e);
	if (!rc)
		rc = disk_rw(to, DISK_FLUSH, 0, NULL, 0, e);
	return rc;
}

/* ---- comparing ---- */

struct compare {
	struct disk *a, *b;
	char *ba, *bb;
};

/* What of [off, off + len) reads as zeroes on d without looking; behind its end everything does. */
static int look(struct disk *d, uint64_t off, uint64_t *len, bool *zero, struct err *e)
{
	struct disk_extent x;
	int rc;

	*zero = true;
	if (off >= d->size)
		return 0;
	rc = disk_block_status(d, off, *len, &x, e);
	if (!rc) {
		*len = MIN(*len, x.len);
		*zero = !(x.flags & DISK_EXT_DATA);
	}
	return rc;
}

static int fetch(struct disk *d, uint64_t off, char *buf, uint64_t len, bool zero, struct err *e)
{
	uint64_t have = off >= d->size ? 0 : MIN(len, d->size - off);

	if (zero)
		have = 0;
	memset(buf + have, 0, len - have);
	return have ? disk_rw(d, DISK_READ, off, buf, have, e) : 0;
}

/* Compares up to PIECE bytes. *n: how many were; *at: where they differ, or UINT64_MAX. */
static int compare_piece(
	struct compare *c, uint64_t off, uint64_t end, uint64_t *n, uint64_t *at, struct err *e)
{
	uint64_t len = end - off;
	bool za, zb;
	int rc = look(c->a, off, &len, &za, e);

	*at = UINT64_MAX;
	if (!rc)
		rc = look(c->b, off, &len, &zb, e);
	if (rc)
		return rc;
	*n = len;
	if (za && zb)
		return 0;
	*n = len = MIN(len, PIECE);
	rc = fetch(c->a, off, c->ba, len, za, e);
	if (!rc)
		rc = fetch(c->b, off, c->bb, len, zb, e);
	if (rc || !memcmp(c->ba, c->bb, len))
		return rc;
	*at = off;
	while (c->ba[*at - off] == c->bb[*at - off])
		++*at;
	return 0;
}

int disk_compare(
	struct disk *a, struct disk *b, const struct disk_watch *w, uint64_t *at, struct err *e)
{
	uint64_t end = MAX(a->size, b->size), off = 0, n = 0;
	cleanup(memory_free) struct memory mem = {0};
	struct compare c = {.a = a, .b = b};
	int rc = memory_get(&mem, 2, a, b, e);

	if (rc)
		return rc;
	c.ba = mem.at.iov_base;
	c.bb = c.ba + PIECE;
	*at = UINT64_MAX;
	for (; off < end && !rc && *at == UINT64_MAX; off += n) {
		rc = compare_piece(&c, off, end, &n, at, e);
		if (!rc && w && w->progress && !w->progress(w->ctx, off, end))
			rc = err_set(e, -ECANCELED, "stopped");
	}
	return rc;
}

/* ---- another parent ---- */

#define REBASE_GRAIN (64 * KiB)

enum difference { SAME, ZEROES, DATA };

/* What the grain at `at` becomes, which is *n bytes long. */
static enum difference grain(
	const char *old, const char *new, uint64_t at, uint64_t len, uint64_t *n)
{
	*n = MIN(len - at, REBASE_GRAIN);
	if (!memcmp(old + at, new + at, *n))
		return SAME;
	return is_zero(old + at, *n) ? ZEROES : DATA;
}

/* A piece of `from`: what `now` does not show (NULL: zeroes) goes into `to`. */
static int differing_piece(struct disk *from, struct disk *now, struct disk *to, uint64_t off,
	uint64_t len, char *mem, uint64_t *copied, struct err *e)
{
	char *old = mem, *new = mem + PIECE;
	int rc = fetch(from, off, old, len, false, e);

	if (!rc && now)
		rc = fetch(now, off, new, len, false, e);
	else if (!rc)
		memset(new, 0, len);
	for (uint64_t at = 0, n; at < len && !rc; at += n) {
		enum difference what = grain(old, new, at, len, &n);
		uint64_t more;

		/* What is alike goes there at once. */
		while (at + n < len && grain(old, new, at + n, len, &more) == what)
			n += more;
		if (what == SAME)
			continue;
		rc = what == ZEROES ? disk_rw(to, DISK_WRITE_ZEROES, off + at, NULL, n, e)
				    : disk_rw(to, DISK_WRITE, off + at, old + at, n, e);
		*copied += n;
	}
	return rc;
}

int disk_copy_differing(struct disk *from, struct disk *to, const struct disk_watch *w,
	uint64_t *copied, struct err *e)
{
	cleanup(memory_free) struct memory mem = {0};
	uint64_t off = 0;
	int rc = memory_get(&mem, 2, from, to, e);

	*copied = 0;
	if (rc)
		return rc;
	while (off < to->size && !rc) {
		uint64_t len = to->size - off;
		bool zf, zt = false;

		/* What `from` does not reach is zeroes. */
		if (off < from->size)
			len = MIN(len, from->size - off);
		rc = look(from, off, &len, &zf, e);
		if (!rc)
			rc = look(to, off, &len, &zt, e);
		if (!rc && !(zf && zt)) {
			len = MIN(len, PIECE - off % PIECE);
			rc = differing_piece(from, to, to, off, len, mem.at.iov_base, copied, e);
		}
		off += len;
		if (!rc && w && w->progress && !w->progress(w->ctx, off, to->size))
			rc = err_set(e, -ECANCELED, "stopped");
	}
	return rc ?: disk_rw(to, DISK_FLUSH, 0, NULL, 0, e);
}

int disk_rebase(struct disk *d, struct disk *now, const struct disk_watch *w, uint64_t *copied,
	struct err *e)
{
	cleanup(memory_free) struct memory mem = {0};
	uint64_t off = 0;
	int rc = memory_get(&mem, 2, d, now, e);

	*copied = 0;
	if (rc)
		return rc;
	d->hard_zeroes = true;
	while (off < d->size && !rc) {
		struct disk_extent x;
		bool zero = true;

		rc = disk_block_status(d, off, d->size - off, &x, e);
		if (!rc && (x.depth || !(x.flags & DISK_EXT_HERE))) {
			if (now)
				rc = look(now, off, &x.len, &zero, e);
			/* Where neither shows anything nothing is read. */
			if (!rc && (!zero || x.flags & DISK_EXT_DATA)) {
				x.len = MIN(x.len, PIECE - off % PIECE);
				rc = differing_piece(
					d, now, d, off, x.len, mem.at.iov_base, copied, e);
			}
		}
		off += x.len;
		if (!rc && w && w->progress && !w->progress(w->ctx, off, d->size))
			rc = err_set(e, -ECANCELED, "stopped");
	}
	d->hard_zeroes = false;
	return rc ?: disk_rw(d, DISK_FLUSH, 0, NULL, 0, e);
}
