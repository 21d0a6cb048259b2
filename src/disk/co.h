/*
 * co.h: functions that wait for input and output in the middle, all in the loop's thread.
 *
 *   co_start(s, fn, after, arg) --> fn runs on a stack of its own --co_wait()--> back to who started or woke it
 *                                        ^-------------- co_wake(), from a completion
 *
 * A format whose metadata has to be read before it knows where data lies is written as if it could block. Only one of them runs at a
 * time and only co_wait(), co_lock() and what calls them let others run, so that what lies between needs no lock.
 *
 * `after` is called on the starter's stack (the loop's) when fn has returned: requests are ended there, so that their owners never run
 * on one of these stacks. co_start() and co_wake() from inside a running one only queue: it goes on first.
 *
 * A switch is a few instructions: swapcontext(3) would be a system call each time, for a signal mask that is always the same.
 *
 * Stacks are CO_STACK bytes with a page that faults below them, and are kept for the next one.
 */
#ifndef LODGE_DISK_CO_H
#define LODGE_DISK_CO_H

#include <stdbool.h>
#include <stddef.h>

#define CO_STACK (128u << 10)
#define CO_KEEP 128u /* stacks that are kept */

struct co {
	struct co *next;
	struct co_sched *sched;
	void *sp; /* while it does not run */
	void *stack;
	void (*fn)(void *arg);
	void (*after)(void *arg);
	void *arg;
	bool ended;
};

struct co_queue {
	struct co *first, **last; /* last: NULL means empty and not yet used */
};

struct co_sched {
	struct co *current, *kept;
	unsigned nkept;
	struct co_queue ready;
	void *base; /* the loop's stack pointer, while one runs */
};

/* -ENOMEM: no stack; nothing was run. `after` may be NULL. */
int co_start(struct co_sched *s, void (*fn)(void *), void (*after)(void *), void *arg);
/* Frees the stacks that are kept. None may be alive. */
void co_sched_destroy(struct co_sched *s);

/* Inside one: sleeps until co_wake(). The waker must know it: keep co_self(). */
void co_wait(struct co_sched *s);
void co_wake(struct co *c);
static inline struct co *co_self(const struct co_sched *s)
{
	return s->current;
}

/* Sleeps in the queue until somebody wakes the queue. */
void co_queue_wait(struct co_sched *s, struct co_queue *q);
void co_queue_wake_all(struct co_queue *q);
static inline bool co_queue_empty(const struct co_queue *q)
{
	return !q->first;
}

/* First come, first served; not recursive. */
struct co_mutex {
	bool held;
	struct co_queue waiters;
};
void co_lock(struct co_sched *s, struct co_mutex *m);
void co_unlock(struct co_mutex *m);

#endif
