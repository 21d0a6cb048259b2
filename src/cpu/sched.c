#include "cpu/sched.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define SLICE_NS 4000000ull
#define HOST_SLICE_NS 100000ull /* the least that Linux gives */
#define MAX_TASKS 128
#define FOREVER UINT64_MAX

enum task_state { TASK_RUNNABLE, TASK_RUNNING, TASK_IDLE, TASK_STOPPED };

struct sched_task {
	struct sched *s;
	struct sched_task_ops ops;
	enum task_state state;
	bool woken; /* a wake came while it ran: do not let it go idle */
	unsigned home; /* the worker that ran it last */
	uint64_t vruntime;
	uint64_t deadline; /* while TASK_IDLE */
	uint64_t since; /* when it entered its state */
	struct sched_task_stat stat;
};

struct worker {
	struct sched *s;
	unsigned index;
	char name[16]; /* which only the thread itself may give itself in the sandbox */
	pthread_t thread;
	pthread_cond_t wake;
	bool sleeping;
	bool timekeeper; /* its sleep ends at the earliest idle deadline */
	struct sched_task *current;
};

struct sched {
	pthread_mutex_t lock;
	pthread_cond_t quiet; /* the last running task has left run() */
	struct worker *workers;
	unsigned nworkers, started;
	struct sched_task *tasks[MAX_TASKS];
	unsigned ntasks, nrunning;
	unsigned paused; /* depth */
	bool stopping;
	uint64_t slice_ns;
	uint64_t min_vruntime;
};

static void task_enter(struct sched_task *t, enum task_state st, uint64_t now)
{
	uint64_t spent = now - t->since;

	if (t->state == TASK_RUNNING) {
		t->stat.run_ns += spent;
		t->vruntime += spent;
	} else if (t->state == TASK_RUNNABLE) {
		t->stat.wait_ns += spent;
	} else {
		t->stat.idle_ns += spent;
	}
	t->state = st;
	t->since = now;
}

static void task_wake_locked(struct sched_task *t, uint64_t now)
{
	struct sched *s = t->s;
	uint64_t floor = s->min_vruntime > s->slice_ns ? s->min_vruntime - s->slice_ns : 0;

	/* A sleeper does not save up its time: it gets at most one slice of advantage. */
	if (t->vruntime < floor)
		t->vruntime = floor;
	task_enter(t, TASK_RUNNABLE, now);
}

/* Makes tasks whose deadline has passed runnable; returns the earliest deadline that is left. */
static uint64_t expire_idle(struct sched *s, uint64_t now)
{
	uint64_t next = FOREVER;

	for (unsigned i = 0; i < s->ntasks; i++) {
		struct sched_task *t = s->tasks[i];

		if (t->state != TASK_IDLE)
			continue;
		if (t->deadline <= now)
			task_wake_locked(t, now);
		else
			next = MIN(next, t->deadline);
	}
	return next;
}

/*
 * The runnable task with the least virtual run time. A task whose own worker is free is left to it (and that worker
 * is told); taking one from a busy worker costs a slice in the comparison.
 */
static struct sched_task *pick(struct sched *s, const struct worker *w)
{
	struct sched_task *best = NULL;
	uint64_t best_key = FOREVER;

	for (unsigned i = 0; i < s->ntasks; i++) {
		struct sched_task *t = s->tasks[i];
		uint64_t key;

		struct worker *home = &s->workers[t->home];

		if (t->state != TASK_RUNNABLE)
			continue;
		if (home != w && !home->current) {
			pthread_cond_signal(&home->wake);
			continue;
		}
		key = t->vruntime + (home == w ? 0 : s->slice_ns);
		if (key < best_key) {
			best = t;
			best_key = key;
		}
	}
	return best;
}

/*
 * Who is to look at the queues: the task's last worker if it sleeps, else any sleeper, whom the caller signals; else
 * the worker whose task has run furthest ahead is told to stop.
 */
static struct worker *rouse(struct sched *s, const struct sched_task *t)
{
	struct worker *victim = NULL;

	if (s->workers[t->home].sleeping)
		return &s->workers[t->home];
	for (unsigned i = 0; i < s->nworkers; i++) {
		struct worker *w = &s->workers[i];

		if (w->sleeping)
			return w;
		if (w->current && (!victim || w->current->vruntime > victim->current->vruntime))
			victim = w;
	}
	if (victim && victim->current->vruntime > t->vruntime)
		victim->current->ops.kick(victim->current->ops.ctx);
	return NULL;
}

static void worker_sleep(struct worker *w, uint64_t until)
{
	struct sched *s = w->s;

	w->sleeping = true;
	/* One sleeper keeps the time for all; the others wait to be signalled. */
	for (unsigned i = 0; until != FOREVER && i < s->nworkers; i++)
		if (s->workers[i].timekeeper)
			until = FOREVER;
	if (until == FOREVER) {
		pthread_cond_wait(&w->wake, &s->lock);
	} else {
		struct timespec ts = {.tv_sec = (time_t)(until / 1000000000ull),
			.tv_nsec = (long)(until % 1000000000ull)};

		w->timekeeper = true;
		pthread_cond_timedwait(&w->wake, &s->lock, &ts);
		w->timekeeper = false;
	}
	w->sleeping = false;
}

static void apply_verdict(struct sched_task *t, enum sched_verdict v, uint64_t deadline)
{
	uint64_t now = clock_mono_ns();
	struct sched *s = t->s;

	task_enter(t, TASK_RUNNABLE, now);
	switch (v) {
	case VERDICT_AGAIN:
		break;
	case VERDICT_YIELD:
		/* Behind everybody who waits. */
		for (unsigned i = 0; i < s->ntasks; i++)
			if (s->tasks[i]->state == TASK_RUNNABLE)
				t->vruntime = MAX(t->vruntime, s->tasks[i]->vruntime + 1);
		break;
	case VERDICT_IDLE:
		if (t->woken || deadline <= now)
			break;
		t->state = TASK_IDLE;
		t->deadline = deadline;
		break;
	case VERDICT_STOP:
		if (!t->woken)
			t->state = TASK_STOPPED;
		break;
	}
	t->woken = false;
}

static void run_task(struct worker *w, struct sched_task *t)
{
	struct sched *s = w->s;
	uint64_t deadline = FOREVER;
	enum sched_verdict v;

	if (t->home != w->index) {
		t->home = w->index;
		t->stat.moves++;
	}
	task_enter(t, TASK_RUNNING, clock_mono_ns());
	t->stat.slices++;
	t->woken = false;
	w->current = t;
	s->nrunning++;
	s->min_vruntime = MAX(s->min_vruntime, t->vruntime);
	pthread_mutex_unlock(&s->lock);

	v = t->ops.run(t->ops.ctx, s->slice_ns, &deadline);

	pthread_mutex_lock(&s->lock);
	w->current = NULL;
	apply_verdict(t, v, deadline);
	if (--s->nrunning == 0 && s->paused)
		pthread_cond_broadcast(&s->quiet);
}

/* A task that this worker leaves behind must not wait for a worker that sleeps without a deadline. */
static void hand_over_time(struct sched *s, uint64_t next)
{
	if (next == FOREVER)
		return;
	for (unsigned i = 0; i < s->nworkers; i++)
		if (s->workers[i].timekeeper) {
			pthread_cond_signal(&s->workers[i].wake);
			return;
		}
	for (unsigned i = 0; i < s->nworkers; i++)
		if (s->workers[i].sleeping) {
			pthread_cond_signal(&s->workers[i].wake);
			return;
		}
}

/* The first of what sched_setattr(2) takes. */
struct host_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

/*
 * From Linux 6.12 on a thread may ask for slices of another length. Its share of the processor stays what it is; but when it wakes it need not wait until
 * one that has longer slices has used its own up, which shows at the host's next tick only: 4 ms late for a guest whose timer fires. Older ones do not look at it.
 */
static void ask_for_short_slices(void)
{
	struct host_attr a = {.size = sizeof(a)};

	if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) || a.policy != SCHED_OTHER)
		return;
	a.runtime = HOST_SLICE_NS;
	syscall(SYS_sched_setattr, 0, &a, 0);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct sched *s = w->s;
	uint64_t known = FOREVER; /* earliest deadline that somebody has been told of */

	pthread_setname_np(pthread_self(), w->name);
	ask_for_short_slices();
	pthread_mutex_lock(&s->lock);
	while (!s->stopping) {
		uint64_t next = expire_idle(s, clock_mono_ns());
		struct sched_task *t = s->paused ? NULL : pick(s, w);

		if (!t) {
			worker_sleep(w, s->paused ? FOREVER : next);
			known = FOREVER;
			continue;
		}
		if (next < known)
			hand_over_time(s, next);
		known = next;
		run_task(w, t);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int sched_create(struct sched **out, const struct sched_opts *o, struct err *e)
{
	struct sched *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;
	cpu_set_t set;
	unsigned n = o->workers;

	if (!s)
		return err_set(e, -ENOMEM, "scheduler: out of memory");
	if (!n)
		n = sched_getaffinity(0, sizeof(set), &set) ? 1 : (unsigned)CPU_COUNT(&set);
	s->workers = calloc(n, sizeof(*s->workers));
	if (!s->workers) {
		free(s);
		return err_set(e, -ENOMEM, "scheduler: out of memory for %u workers", n);
	}
	s->slice_ns = o->slice_ns ?: SLICE_NS;
	s->paused = 1; /* until the first sched_resume() */
	s->nworkers = n;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->quiet, &attr);
	for (unsigned i = 0; i < n; i++) {
		s->workers[i].s = s;
		s->workers[i].index = i;
		pthread_cond_init(&s->workers[i].wake, &attr);
	}
	pthread_condattr_destroy(&attr);
	for (; s->started < n; s->started++) {
		struct worker *w = &s->workers[s->started];
		int rc;

		snprintf(
			w->name, sizeof(w->name), "%.10s-%u", o->name ?: "vcpu", s->started % 1000);
		rc = pthread_create(&w->thread, NULL, worker_main, w);
		if (rc) {
			sched_destroy(s);
			return err_sys(
				e, -rc, "scheduler: cannot start worker %u of %u", s->started, n);
		}
	}
	*out = s;
	return 0;
}

void sched_destroy(struct sched *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	for (unsigned i = 0; i < s->nworkers; i++) {
		if (s->workers[i].current)
			s->workers[i].current->ops.kick(s->workers[i].current->ops.ctx);
		pthread_cond_signal(&s->workers[i].wake);
	}
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->started; i++)
		pthread_join(s->workers[i].thread, NULL);
	for (unsigned i = 0; i < s->nworkers; i++)
		pthread_cond_destroy(&s->workers[i].wake);
	for (unsigned i = 0; i < s->ntasks; i++)
		free(s->tasks[i]);
	pthread_cond_destroy(&s->quiet);
	pthread_mutex_destroy(&s->lock);
	free(s->workers);
	free(s);
}

int sched_add(
	struct sched *s, const struct sched_task_ops *ops, struct sched_task **out, struct err *e)
{
	struct sched_task *t;
	int rc = 0;

	t = calloc(1, sizeof(*t));
	if (!t)
		return err_set(e, -ENOMEM, "scheduler: out of memory for a task");
	pthread_mutex_lock(&s->lock);
	if (s->ntasks == MAX_TASKS) {
		rc = err_set(e, -E2BIG, "scheduler: more than %d tasks", MAX_TASKS);
	} else {
		t->s = s;
		t->ops = *ops;
		t->state = TASK_RUNNABLE;
		t->home = s->ntasks % s->nworkers;
		t->vruntime = s->min_vruntime;
		t->since = clock_mono_ns();
		s->tasks[s->ntasks++] = t;
		*out = t;
	}
	pthread_mutex_unlock(&s->lock);
	if (rc)
		free(t);
	return rc;
}

void sched_wake(struct sched_task *t)
{
	struct sched *s = t->s;
	struct worker *w = NULL;

	pthread_mutex_lock(&s->lock);
	if (t->state == TASK_IDLE || t->state == TASK_STOPPED) {
		task_wake_locked(t, clock_mono_ns());
		if (!s->paused)
			w = rouse(s, t);
	} else {
		t->woken = true;
	}
	pthread_mutex_unlock(&s->lock);
	/* Not before: it would wake up only to wait for the lock. */
	if (w)
		pthread_cond_signal(&w->wake);
}

static void pause_locked(struct sched *s)
{
	s->paused++;
	for (unsigned i = 0; i < s->nworkers; i++)
		if (s->workers[i].current)
			s->workers[i].current->ops.kick(s->workers[i].current->ops.ctx);
	while (s->nrunning)
		pthread_cond_wait(&s->quiet, &s->lock);
}

static void resume_locked(struct sched *s)
{
	if (--s->paused)
		return;
	for (unsigned i = 0; i < s->nworkers; i++)
		pthread_cond_signal(&s->workers[i].wake);
}

void sched_pause(struct sched *s)
{
	pthread_mutex_lock(&s->lock);
	pause_locked(s);
	pthread_mutex_unlock(&s->lock);
}

void sched_resume(struct sched *s)
{
	pthread_mutex_lock(&s->lock);
	resume_locked(s);
	pthread_mutex_unlock(&s->lock);
}

int sched_quiesced(struct sched *s, void (*fn)(void *ctx), void *ctx)
{
	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < s->started; i++)
		if (pthread_equal(s->workers[i].thread, pthread_self())) {
			pthread_mutex_unlock(&s->lock);
			return -EDEADLK;
		}
	pause_locked(s);
	pthread_mutex_unlock(&s->lock);
	fn(ctx);
	sched_resume(s);
	return 0;
}

void sched_task_stat(struct sched_task *t, struct sched_task_stat *st)
{
	pthread_mutex_lock(&t->s->lock);
	*st = t->stat;
	pthread_mutex_unlock(&t->s->lock);
}
