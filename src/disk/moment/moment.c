#include "disk/moment/moment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/gate.h"
#include "disk/tool.h"

#define SLOTS 4u
#define SWEEP_SLOTS 2u /* at most so many of them for what nobody waits for */
#define LOOKS 64u /* at what the disk has, in one turn of the loop */

struct slot {
	struct disk_moment *m;
	struct disk_req r;
	struct iovec iov;
	uint64_t piece;
	bool busy, swept;
};

/* Lives until libuv has closed its handle. */
struct turn {
	uv_idle_t idle;
	struct disk_moment *m;
};

struct disk_moment {
	struct disk *d;
	int fd;
	void (*done)(void *ctx);
	void *ctx;
	uint64_t size, pieces, left; /* left: pieces that are not dealt with */
	uint64_t *copied; /* a bit for each piece */
	uint64_t at; /* the sweep: every piece before it is copied, or on its way */
	struct slot slot[SLOTS];
	uint8_t *buf;
	struct disk_req *first, **last; /* wait for their pieces */
	struct turn *turn;
	bool armed, over;
	int rc;
	struct err e;
};

static void turn_closed(uv_handle_t *h)
{
	free(container_of((uv_idle_t *)h, struct turn, idle));
}

/* ---- who waits ---- */

/* The first piece of [off, off + len) that is not copied; m->pieces: there is none. */
static uint64_t missing(const struct disk_moment *m, uint64_t off, uint64_t len)
{
	uint64_t end = MIN((off + len + MOMENT_PIECE - 1) / MOMENT_PIECE, m->pieces);
	uint64_t i = off / MOMENT_PIECE;

	if (!len || i >= end)
		return m->pieces;
	i = bitmap_next_clear(m->copied, end, i);
	return i < end ? i : m->pieces;
}

static uint64_t missing_of(const struct disk_moment *m, const struct disk_req *r)
{
	uint64_t i = m->pieces;

	if (!r->nranges)
		return missing(m, r->offset, r->len);
	for (unsigned k = 0; k < r->nranges && i == m->pieces; k++)
		i = missing(m, r->ranges[k].offset, r->ranges[k].len);
	return i;
}

/* Those for whom all is copied, in the order in which they came. */
static void let_go(struct disk_moment *m)
{
	struct disk_req *r = m->first, *next;

	m->first = NULL;
	m->last = &m->first;
	for (; r; r = next) {
		next = r->next;
		if (m->over || missing_of(m, r) == m->pieces) {
			disk_pass(r);
			continue;
		}
		r->next = NULL;
		*m->last = r;
		m->last = &r->next;
	}
}

/* ---- one piece ---- */

static uint64_t piece_len(const struct disk_moment *m, uint64_t i)
{
	return MIN(m->size - i * MOMENT_PIECE, (uint64_t)MOMENT_PIECE);
}

static void end(struct disk_moment *m, int rc)
{
	if (m->over)
		return;
	m->over = true;
	m->rc = rc;
	uv_idle_stop(&m->turn->idle);
	let_go(m);
	m->done(m->ctx);
}

static int put(const struct disk_moment *m, const struct slot *s)
{
	const uint8_t *p = s->iov.iov_base;
	uint64_t n = s->r.len, off = s->piece * MOMENT_PIECE;

	if (!*p && !memcmp(p, p + 1, n - 1))
		return 0;
	while (n) {
		ssize_t done = pwrite(m->fd, p, n, (off_t)off);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? -errno : -EIO;
		p += done;
		off += (uint64_t)done;
		n -= (uint64_t)done;
	}
	return 0;
}

static void work_for_waiters(struct disk_moment *m);

static void was_read(struct disk_req *r)
{
	struct slot *s = container_of(r, struct slot, r);
	struct disk_moment *m = s->m;
	int rc = m->over ? 0 : r->result;

	s->busy = false;
	if (m->over)
		return;
	if (rc)
		err_sys(&m->e, rc, "disk %s: reading it for its copy", m->d->o.path);
	else if ((rc = put(m, s)))
		err_sys(&m->e, rc, "disk %s: writing its copy", m->d->o.path);
	if (rc) {
		end(m, rc);
		return;
	}
	bitmap_set(m->copied, s->piece);
	let_go(m);
	if (!--m->left) {
		end(m, 0);
		return;
	}
	work_for_waiters(m);
	uv_idle_start(&m->turn->idle, m->turn->idle.idle_cb);
}

static bool on_its_way(const struct disk_moment *m, uint64_t i)
{
	for (unsigned k = 0; k < SLOTS; k++)
		if (m->slot[k].busy && m->slot[k].piece == i)
			return true;
	return false;
}

static struct slot *free_slot(struct disk_moment *m, bool sweep)
{
	unsigned swept = 0;
	struct slot *s = NULL;

	for (unsigned k = 0; k < SLOTS; k++) {
		swept += m->slot[k].busy && m->slot[k].swept;
		if (!m->slot[k].busy)
			s = &m->slot[k];
	}
	return sweep && swept >= SWEEP_SLOTS ? NULL : s;
}

/* Past all gates: it is not the guest's. */
static void start(struct slot *s, uint64_t i, bool swept)
{
	struct disk *d = s->m->d;

	s->piece = i;
	s->swept = swept;
	s->busy = true;
	s->iov.iov_len = piece_len(s->m, i);
	s->r = (struct disk_req){.op = DISK_READ,
		.offset = i * MOMENT_PIECE,
		.len = s->iov.iov_len,
		.iov = &s->iov,
		.niov = 1,
		.done = was_read,
		.disk = d};
	d->in_flight++;
	d->format->submit(d, &s->r);
}

/* A request has one piece on its way at a time; those behind it theirs. */
static void work_for_waiters(struct disk_moment *m)
{
	for (const struct disk_req *r = m->first; r; r = r->next) {
		uint64_t i = missing_of(m, r);
		struct slot *s = free_slot(m, false);

		if (!s)
			return;
		if (i < m->pieces && !on_its_way(m, i))
			start(s, i, false);
	}
}

bool moment_holds(struct disk_moment *m, struct disk_req *r)
{
	if (!m->armed || m->over || missing_of(m, r) == m->pieces)
		return false;
	if (r->op == DISK_DISCARD) {
		disk_done_soon(r, 0);
		return true;
	}
	r->next = NULL;
	*m->last = r;
	m->last = &r->next;
	work_for_waiters(m);
	return true;
}

/* ---- the sweep ---- */

/* Whole pieces of which the disk has nothing are zero in the file already. Nobody writes to them: who would is held. */
static int skip_hole(struct disk_moment *m)
{
	struct disk_extent x;
	uint64_t off = m->at * MOMENT_PIECE, to;
	int rc = disk_block_status(m->d, off, m->size - off, &x, &m->e);

	if (rc || (x.flags & DISK_EXT_DATA))
		return rc;
	to = off + x.len >= m->size ? m->pieces : (off + x.len) / MOMENT_PIECE;
	for (; m->at < to && !m->over; m->at++) {
		if (bitmap_test(m->copied, m->at) || on_its_way(m, m->at))
			continue;
		bitmap_set(m->copied, m->at);
		m->left--;
	}
	return 0;
}

static void sweep(struct disk_moment *m)
{
	struct slot *s;

	for (unsigned looks = 0; looks < LOOKS && !m->over && (s = free_slot(m, true)); looks++) {
		uint64_t was;
		int rc;

		m->at = bitmap_next_clear(m->copied, m->pieces, m->at);
		if (m->at >= m->pieces)
			break;
		if (on_its_way(m, m->at)) {
			m->at++;
			continue;
		}
		was = m->at;
		rc = skip_hole(m);
		if (rc) {
			end(m, rc);
			return;
		}
		/* The look may have turned other requests. */
		s = free_slot(m, true);
		if (!m->over && m->at == was && s && !bitmap_test(m->copied, was) &&
			!on_its_way(m, was))
			start(s, m->at++, true);
	}
}

static void on_turn(uv_idle_t *h)
{
	struct disk_moment *m = container_of(h, struct turn, idle)->m;

	sweep(m);
	let_go(m);
	if (!m->over && !m->left)
		end(m, 0);
	else if (!m->over && (m->at >= m->pieces || !free_slot(m, true)))
		uv_idle_stop(h); /* a piece that comes starts it again */
}

/* ---- life ---- */

int disk_moment_create(struct disk_moment **out, struct disk *d, int fd, void (*done)(void *ctx),
	void *ctx, struct err *e)
{
	struct disk_moment *m = calloc(1, sizeof(*m));
	uint64_t pieces = (d->size + MOMENT_PIECE - 1) / MOMENT_PIECE;
	int rc = 0;

	if (m) {
		*m = (struct disk_moment){.d = d,
			.fd = fd,
			.done = done,
			.ctx = ctx,
			.size = d->size,
			.pieces = pieces,
			.left = pieces,
			.copied = calloc(BITMAP_WORDS(pieces) + 1, 8),
			.buf = malloc((size_t)SLOTS * MOMENT_PIECE),
			.turn = calloc(1, sizeof(*m->turn))};
		m->last = &m->first;
	}
	if (!m || !m->copied || !m->buf || !m->turn)
		rc = err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	else if (d->moment)
		rc = err_set(e, -EBUSY, "disk %s: is being copied already", d->o.path);
	else if (ftruncate(fd, (off_t)d->size))
		rc = err_sys(e, -errno, "disk %s: its copy", d->o.path);
	if (rc) {
		close(fd);
		if (m) {
			free(m->copied);
			free(m->buf);
			free(m->turn);
		}
		free(m);
		return rc;
	}
	for (unsigned k = 0; k < SLOTS; k++) {
		m->slot[k].m = m;
		m->slot[k].iov.iov_base = m->buf + (size_t)k * MOMENT_PIECE;
	}
	m->turn->m = m;
	uv_idle_init(d->o.loop, &m->turn->idle);
	d->moment = m;
	*out = m;
	return 0;
}

void disk_moment_arm(struct disk_moment *m)
{
	m->armed = true;
	uv_idle_start(&m->turn->idle, on_turn);
}

bool disk_moment_over(const struct disk_moment *m)
{
	return m->over;
}

int disk_moment_result(const struct disk_moment *m, struct err *e)
{
	if (m->rc && e)
		*e = m->e;
	return m->rc;
}

void disk_moment_progress(const struct disk_moment *m, uint64_t *done, uint64_t *of)
{
	*of = m->size;
	*done = m->left ? (m->pieces - m->left) * MOMENT_PIECE : m->size;
}

static bool busy(const struct disk_moment *m)
{
	for (unsigned k = 0; k < SLOTS; k++)
		if (m->slot[k].busy)
			return true;
	return false;
}

void disk_moment_free(struct disk_moment *m)
{
	if (!m)
		return;
	m->over = true;
	uv_idle_stop(&m->turn->idle);
	let_go(m);
	m->d->moment = NULL;
	if (busy(m))
		disk_drain(m->d);
	uv_close((uv_handle_t *)&m->turn->idle, turn_closed);
	close(m->fd);
	free(m->copied);
	free(m->buf);
	free(m);
}
