/*
 * space_impl.h: what space.c and track.c share.
 */
#ifndef LODGE_MEMORY_SPACE_IMPL_H
#define LODGE_MEMORY_SPACE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "memory/space.h"

#define SPACE_VIEWS 8
#define SPACE_RAMS 64
#define SPACE_TRACKERS 4

/* n runs of frames of one order, one after the other. */
struct run {
	mfn_t first;
	uint64_t n;
	unsigned order;
};

struct ram {
	struct space_ram pub;
	uint64_t first_page; /* of the trackers' bitmaps */
	struct run *runs; /* what frames_alloc() gave; maps may change, these do not */
	unsigned nruns;
};

struct space {
	struct frames *f;
	struct view *views[SPACE_VIEWS];
	unsigned nviews;
	struct ram rams[SPACE_RAMS];
	unsigned nrams;
	uint64_t pages; /* of all RAM */
	pthread_rwlock_t lock; /* listeners: written rarely */
	struct space_listener *listeners;
	_Atomic(struct tracker *) trackers[SPACE_TRACKERS];
	_Atomic unsigned ntrackers; /* without one, announcing costs one load */
	pthread_mutex_t wait_lock; /* one space_wait() at a time */
	/* Accessors that are inside, by the parity of the epoch in which they came. */
	_Alignas(64) _Atomic unsigned epoch;
	_Atomic unsigned inside[2];
};

/*
 * Sections. An accessor is inside from before it looks at trackers and maps until after its last store. space_wait()
 * returns when everybody who was inside when it was called has left; newcomers do not hold it up. Thus a tracker that has been
 * put up and waited for hears of every later write, a page that a collect has taken holds all that was written
 * before, and a table that was taken out of a map has nobody in it. Must not be called from inside.
 */
static inline unsigned space_enter(struct space *s)
{
	for (;;) {
		unsigned e = atomic_load(&s->epoch) & 1;

		atomic_fetch_add(&s->inside[e], 1);
		/* Counted in an epoch that is already over, nobody would wait for us. */
		if ((atomic_load(&s->epoch) & 1) == e)
			return e;
		atomic_fetch_sub(&s->inside[e], 1);
	}
}

static inline void space_leave(struct space *s, unsigned e)
{
	atomic_fetch_sub_explicit(&s->inside[e], 1, memory_order_release);
}

void space_wait(struct space *s);

/* Inside: tells every tracker that the page is about to be written. True when none wants to hear of it again. */
bool track_write(struct space *s, gpa_t page, const void *host);
/* Inside: true when every tracker has heard of a write to it already. */
bool track_seen(struct space *s, gpa_t page);

#endif
