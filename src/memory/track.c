/*
 * track.c: write tracking (space.h). One bit a page; a writer sets it before it writes.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/space_impl.h"

struct tracker {
	struct space *s;
	bool quiet;
	struct tracker_ops ops;
	/* Two bits a page: `seen` is what writers test; `busy` makes the others wait while one runs the hook. */
	_Atomic uint64_t *seen, *busy;
	uint64_t words;
};

static bool page_index(const struct space *s, gpa_t page, uint64_t *i)
{
	for (unsigned k = 0; k < s->nrams; k++) {
		const struct ram *r = &s->rams[k];

		if (page.v >= r->pub.base.v && page.v - r->pub.base.v < r->pub.len) {
			*i = r->first_page + (page.v - r->pub.base.v) / PAGE_SIZE;
			return true;
		}
	}
	return false;
}

/* With the page's busy bit: nobody else runs a hook for it, and nobody writes to it, until it is done. */
static bool run_held(struct tracker *t, uint64_t i, gpa_t page, const void *host,
	void (*hook)(void *ctx, gpa_t page, const void *host), void *ctx)
{
	uint64_t bit = 1ull << (i % 64);
	bool mine = !(atomic_load(&t->seen[i / 64]) & bit);

	if (mine) {
		hook(ctx, page, host);
		atomic_fetch_or(&t->seen[i / 64], bit);
	}
	atomic_fetch_and(&t->busy[i / 64], ~bit);
	return mine;
}

static void mark(struct tracker *t, uint64_t i, gpa_t page, const void *host)
{
	uint64_t bit = 1ull << (i % 64);
	_Atomic uint64_t *busy = &t->busy[i / 64];

	if (atomic_load_explicit(&t->seen[i / 64], memory_order_acquire) & bit)
		return;
	if (!t->ops.before) {
		atomic_fetch_or(&t->seen[i / 64], bit);
		return;
	}
	/* The hook may be copying the page, and before that wait for room to copy to. */
	while (atomic_fetch_or(busy, bit) & bit)
		for (unsigned n = 0; atomic_load_explicit(busy, memory_order_acquire) & bit; n++)
			if (n > 1000)
				sched_yield();
	run_held(t, i, page, host, t->ops.before, t->ops.ctx);
}

static void fetch(struct space *s, const void *host)
{
	pthread_rwlock_rdlock(&s->lock);
	for (struct space_listener *l = s->listeners; l; l = l->next)
		if (l->fetch)
			l->fetch(l, host);
	pthread_rwlock_unlock(&s->lock);
}

int tracker_claim(struct tracker *t, gpa_t page,
	void (*fn)(void *ctx, gpa_t page, const void *host), void *ctx)
{
	struct view_leaf l;
	uint64_t i, bit;
	unsigned in;
	bool there;
	int rc = -EAGAIN;

	if (!page_index(t->s, page, &i))
		return -EFAULT;
	bit = 1ull << (i % 64);
	if (atomic_load_explicit(&t->seen[i / 64], memory_order_acquire) & bit)
		return 0;
	in = space_enter(t->s);
	there = !view_lookup(t->s->views[0], page, &l);
	if (there)
		fetch(t->s, frames_ptr(t->s->f, l.mfn));
	if (!(atomic_fetch_or(&t->busy[i / 64], bit) & bit)) {
		rc = run_held(t, i, page, there ? frames_ptr(t->s->f, l.mfn) : NULL, fn, ctx);
	}
	space_leave(t->s, in);
	return rc;
}

bool track_write(struct space *s, gpa_t page, const void *host)
{
	uint64_t i;

	if (!page_index(s, page, &i))
		return false;
	for (unsigned k = 0; k < SPACE_TRACKERS; k++) {
		struct tracker *t = atomic_load_explicit(&s->trackers[k], memory_order_acquire);

		if (t)
			mark(t, i, page, host);
	}
	return true;
}

bool track_seen(struct space *s, gpa_t page)
{
	uint64_t i;

	if (!page_index(s, page, &i))
		return false;
	for (unsigned k = 0; k < SPACE_TRACKERS; k++) {
		struct tracker *t = atomic_load_explicit(&s->trackers[k], memory_order_acquire);

		if (t && !(atomic_load(&t->seen[i / 64]) >> (i % 64) & 1))
			return false;
	}
	return true;
}

static void invalidate_all(struct space *s)
{
	for (unsigned v = 0; v < s->nviews; v++)
		for (unsigned k = 0; k < s->nrams; k++)
			space_invalidate(s, v, s->rams[k].pub.base, s->rams[k].pub.len, MEM_WRITE);
}

/* Which kinds of trackers there are now, to the engines that must note writes for them. */
static int tell_listeners(struct space *s, struct err *e)
{
	bool on = false, before = false;
	int rc = 0;

	pthread_rwlock_rdlock(&s->lock);
	for (unsigned k = 0; k < SPACE_TRACKERS; k++) {
		struct tracker *t = atomic_load(&s->trackers[k]);

		if (t && !t->quiet) {
			on = true;
			before |= t->ops.before != NULL;
		}
	}
	for (struct space_listener *l = s->listeners; !rc && l; l = l->next)
		if (l->track)
			rc = l->track(l, on, before, e);
	pthread_rwlock_unlock(&s->lock);
	return rc;
}

static void harvest(struct space *s)
{
	pthread_rwlock_rdlock(&s->lock);
	for (struct space_listener *l = s->listeners; l; l = l->next)
		if (l->harvest)
			l->harvest(l);
	pthread_rwlock_unlock(&s->lock);
}

static void tracker_free(struct tracker *t)
{
	free((void *)t->seen);
	free((void *)t->busy);
	free(t);
}

static int start(struct tracker **out, struct space *s, const struct tracker_ops *ops, bool quiet,
	struct err *e)
{
	struct tracker *t = calloc(1, sizeof(*t));
	unsigned slot = 0;

	if (!t)
		return err_set(e, -ENOMEM, "write tracking: out of memory");
	t->s = s;
	t->quiet = quiet;
	if (ops)
		t->ops = *ops;
	t->words = (s->pages + 63) / 64;
	t->seen = calloc(t->words, sizeof(*t->seen));
	t->busy = calloc(t->words, sizeof(*t->busy));
	if (!t->seen || !t->busy) {
		tracker_free(t);
		return err_set(e, -ENOMEM, "write tracking: out of memory");
	}
	if (quiet)
		memset((void *)t->seen, 0xff, t->words * sizeof(*t->seen));
	pthread_rwlock_wrlock(&s->lock);
	while (slot < SPACE_TRACKERS && s->trackers[slot])
		slot++;
	if (slot < SPACE_TRACKERS) {
		s->trackers[slot] = t;
		atomic_fetch_add(&s->ntrackers, 1);
	}
	pthread_rwlock_unlock(&s->lock);
	if (slot == SPACE_TRACKERS) {
		tracker_free(t);
		return err_set(
			e, -EBUSY, "write tracking: %d trackers are on already", SPACE_TRACKERS);
	}
	if (!quiet) {
		int rc = tell_listeners(s, e);

		if (rc) {
			tracker_stop(t);
			return rc;
		}
		invalidate_all(s);
	}
	*out = t;
	return 0;
}

int tracker_start(
	struct tracker **out, struct space *s, const struct tracker_ops *ops, struct err *e)
{
	return start(out, s, ops, false, e);
}

int tracker_start_quiet(
	struct tracker **out, struct space *s, const struct tracker_ops *ops, struct err *e)
{
	return start(out, s, ops, true, e);
}

void tracker_arm(struct tracker *t, gpa_t page)
{
	uint64_t i;

	if (page_index(t->s, page, &i))
		atomic_fetch_and(&t->seen[i / 64], ~(1ull << (i % 64)));
}

void tracker_stop(struct tracker *t)
{
	struct space *s;

	if (!t)
		return;
	s = t->s;
	pthread_rwlock_wrlock(&s->lock);
	for (unsigned k = 0; k < SPACE_TRACKERS; k++)
		if (s->trackers[k] == t) {
			s->trackers[k] = NULL;
			atomic_fetch_sub(&s->ntrackers, 1);
		}
	pthread_rwlock_unlock(&s->lock);
	if (!t->quiet)
		tell_listeners(s, NULL);
	space_wait(s);
	tracker_free(t);
}

static gpa_t page_at(const struct space *s, uint64_t i)
{
	unsigned k = s->nrams - 1;

	while (s->rams[k].first_page > i)
		k--;
	return gpa(s->rams[k].pub.base.v + (i - s->rams[k].first_page) * PAGE_SIZE);
}

uint64_t tracker_collect(struct tracker *t, void (*fn)(void *ctx, gpa_t page), void *ctx)
{
	uint64_t *got = calloc(t->words, sizeof(*got));
	uint64_t n = 0;

	/* Without memory for a copy nothing is taken: the bits stay for the next time. */
	if (!got)
		return 0;
	harvest(t->s);
	for (uint64_t w = 0; w < t->words; w++)
		if (atomic_load_explicit(&t->seen[w], memory_order_relaxed))
			got[w] = atomic_exchange(&t->seen[w], 0);
	/* Only now can no writer go on through a cached translation or finish an old store: what fn reads includes what it wrote. */
	invalidate_all(t->s);
	for (uint64_t w = 0; w < t->words; w++)
		for (uint64_t bits = got[w]; bits; bits &= bits - 1) {
			n++;
			if (fn)
				fn(ctx, page_at(t->s, w * 64 + (uint64_t)__builtin_ctzll(bits)));
		}
	free(got);
	return n;
}
