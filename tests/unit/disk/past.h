/*
 * past.h: what was written to one sector in a workload (test_crash.c), in order, and what may therefore be read there.
 */
#ifndef LODGE_TESTS_PAST_H
#define LODGE_TESTS_PAST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/util.h"

struct past {
	uint64_t stamp; /* 0: zeroes */
	uint64_t submitted, done; /* events */
	uint64_t began,
		ended; /* in the order of requests: what had ended before another one began is under it */
	uint64_t seen,
		last; /* it was read at that event: it is the last one of those that were in flight together */
	bool discard, fua;
};

struct history {
	struct past *p;
	unsigned n, cap;
};

static inline struct past *past_add(struct history *h)
{
	if (h->n == h->cap) {
		h->cap = MAX(8u, 2 * h->cap);
		h->p = realloc(h->p, h->cap * sizeof(*h->p));
	}
	return &h->p[h->n++];
}

/* What a reader sees, if of `certain` ones (NULL: of all that have ended) the effect has to be there. */
static inline bool past_allows(const struct history *h, uint64_t stamp, uint64_t point,
	bool (*certain)(const void *ctx, const struct past *p), const void *ctx)
{
	uint64_t under = 0; /* what had ended then is no more */
	bool fresh = true;

	for (unsigned i = 0; i < h->n; i++) {
		const struct past *p = &h->p[i];

		if (p->discard || (certain ? !certain(ctx, p) : p->ended == UINT64_MAX))
			continue;
		under = MAX(under, p->seen <= point ? p->last : p->began);
		fresh = false;
	}
	for (unsigned i = 0; i < h->n; i++) {
		const struct past *p = &h->p[i];
		uint64_t ended = p->seen <= point ? UINT64_MAX : p->ended;

		/* submitted 0: it was there before */
		if (p->stamp == stamp && (!p->submitted || p->submitted < point) && ended > under)
			return true;
	}
	return fresh && !stamp; /* as it was made */
}

/* Of those that were in flight together one is the last: it is from now on. */
static inline void past_is_last(struct history *h, uint64_t stamp, uint64_t now, uint64_t order)
{
	unsigned i = h->n;

	while (i && h->p[i - 1].stamp != stamp)
		i--;
	if (!i)
		return;
	h->p[i - 1].seen = now;
	h->p[i - 1].last = order;
	for (struct past p = h->p[i - 1]; i < h->n; i++) {
		h->p[i - 1] = h->p[i];
		h->p[i] = p;
	}
}

#endif
