/*
 * sched.h: vCPUs are tasks, workers are host threads (decision D4).
 *
 * A task is run by at most one worker at a time, in slices. With at least as many workers as runnable tasks, each
 * task keeps its worker. With fewer, the fair class runs the runnable task with the least virtual run time next.
 * An idle task costs nothing: its worker runs another task or sleeps on a condition variable until the deadline.
 *
 *   worker: pick task --> task->run(budget) --> RUN_AGAIN | RUN_IDLE(deadline) | RUN_STOP
 *   any thread: sched_wake(task), sched_pause(all), sched_resume(all)
 *
 * Lock: one per scheduler, innermost (no call out while it is held).
 */
#ifndef LODGE_CPU_SCHED_H
#define LODGE_CPU_SCHED_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct sched;
struct sched_task;

enum sched_verdict { VERDICT_AGAIN, VERDICT_YIELD, VERDICT_IDLE, VERDICT_STOP };

struct sched_task_ops {
	/* One slice; with VERDICT_IDLE sets *deadline_ns (host monotonic; UINT64_MAX: until woken). */
	enum sched_verdict (*run)(void *ctx, uint64_t budget_ns, uint64_t *deadline_ns);
	/* Makes a run() in progress return soon. ANY thread. */
	void (*kick)(void *ctx);
	void *ctx;
};

struct sched_opts {
	unsigned workers; /* 0: as many as the host has processors, at most one a task */
	uint64_t slice_ns; /* 0: 4 ms */
	const char *name; /* threads are called name-0, name-1 ... */
};

int sched_create(struct sched **out, const struct sched_opts *o, struct err *e);
void sched_destroy(struct sched
		*s); /* stops and joins the workers; tasks must not be running guests any more */
/* Tasks are added parked; all before sched_resume(). */
int sched_add(
	struct sched *s, const struct sched_task_ops *ops, struct sched_task **out, struct err *e);
/* ANY. An idle task becomes runnable; a wake that comes while it is going idle is not lost. */
void sched_wake(struct sched_task *t);
/* Returns when no task runs and none will. Nestable. Must not be called by a worker. */
void sched_pause(struct sched *s);
void sched_resume(struct sched *s);
/* Runs fn(ctx) in the caller's thread at a moment when every task is outside run(). From a worker (inside run() of a task) it is refused with -EDEADLK. */
int sched_quiesced(struct sched *s, void (*fn)(void *ctx), void *ctx);

struct sched_task_stat {
	uint64_t run_ns, wait_ns, idle_ns;
	uint64_t slices, moves; /* moves: times it changed its worker */
};
void sched_task_stat(struct sched_task *t, struct sched_task_stat *st);

#endif
