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

struct ram {
	struct space_ram pub;
	uint64_t first_page; /* of the trackers' bitmaps */
};

struct space {
	struct frames *f;
	struct view *views[SPACE_VIEWS];
	unsigned nviews;
	struct ram rams[SPACE_RAMS];
	unsigned nrams;
	uint64_t pages; /* of all RAM */
	pthread_rwlock_t lock; /* listeners and the set of trackers: written rarely */
	struct space_listener *listeners;
	struct tracker *trackers[SPACE_TRACKERS];
	_Atomic unsigned ntrackers; /* without one, announcing costs one load */
};

/* Tells every tracker that the page is about to be written. True when none wants to hear of it again. */
bool track_write(struct space *s, gpa_t page, const void *host);

#endif
