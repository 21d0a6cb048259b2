#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "cpu/sched.h"

/* A task that spins until its slice ends or it is kicked, and notes what it saw. */
struct spinner {
	_Atomic bool kicked;
	_Atomic bool inside;
	_Atomic unsigned overlaps; /* entered by two workers at once: must stay 0 */
	_Atomic uint64_t slices;
	enum sched_verdict verdict;
	uint64_t idle_ns;
};

static enum sched_verdict spin(void *ctx, uint64_t budget, uint64_t *deadline)
{
	struct spinner *s = ctx;
	uint64_t end = clock_mono_ns() + MIN(budget, 1000000ull);

	if (atomic_exchange(&s->inside, true))
		s->overlaps++;
	while (s->verdict == VERDICT_AGAIN && !s->kicked && clock_mono_ns() < end)
		;
	s->kicked = false;
	s->slices++;
	*deadline = s->idle_ns ? clock_mono_ns() + s->idle_ns : UINT64_MAX;
	s->inside = false;
	return s->verdict;
}

static void kick(void *ctx)
{
	((struct spinner *)ctx)->kicked = true;
}

static struct sched_task *add(struct sched *s, struct spinner *sp)
{
	struct sched_task *t;
	struct sched_task_ops ops = {spin, kick, sp};
	struct err e = {0};

	assert_int_equal(sched_add(s, &ops, &t, &e), 0);
	return t;
}

static struct sched *make(unsigned workers)
{
	struct sched *s;
	struct err e = {0};

	assert_int_equal(sched_create(&s, &(struct sched_opts){workers, 1000000, "t"}, &e), 0);
	return s;
}

static void two_workers_share_four_tasks_fairly(void **state)
{
	struct sched *s = make(2);
	struct spinner sp[4] = {0};
	struct sched_task *t[4];
	bool fair = false;

	for (int i = 0; i < 4; i++)
		t[i] = add(s, &sp[i]);
	/* A busy host may keep a worker from running for longer than many slices; fairness is what comes of it in time. */
	for (int round = 0; !fair && round < 10; round++) {
		uint64_t least = UINT64_MAX, most = 0;

		sched_resume(s);
		usleep(400000);
		sched_pause(s);
		for (int i = 0; i < 4; i++) {
			struct sched_task_stat st;

			sched_task_stat(t[i], &st);
			least = MIN(least, st.run_ns);
			most = MAX(most, st.run_ns);
			assert_int_equal(sp[i].overlaps, 0);
		}
		fair = least > 0 && most < 2 * least;
	}
	assert_true(fair);
	sched_destroy(s);
}

static void one_task_a_worker_stays_there(void **state)
{
	struct sched *s = make(2);
	struct spinner sp[2] = {0};
	struct sched_task *t[2];

	for (int i = 0; i < 2; i++)
		t[i] = add(s, &sp[i]);
	sched_resume(s);
	usleep(100000);
	/* A busy host may take its time. */
	for (int i = 0; i < 3000 && (sp[0].slices < 2 || sp[1].slices < 2); i++)
		usleep(10000);
	sched_pause(s);
	for (int i = 0; i < 2; i++) {
		struct sched_task_stat st;

		sched_task_stat(t[i], &st);
		assert_int_equal(st.moves, 0);
		assert_true(st.slices > 1);
	}
	sched_destroy(s);
}

static void pause_means_nobody_runs(void **state)
{
	struct sched *s = make(2);
	struct spinner sp[3] = {0};

	for (int i = 0; i < 3; i++)
		add(s, &sp[i]);
	for (int round = 0; round < 200; round++) {
		uint64_t before;

		sched_resume(s);
		usleep(100);
		sched_pause(s);
		before = sp[0].slices + sp[1].slices + sp[2].slices;
		assert_false(sp[0].inside || sp[1].inside || sp[2].inside);
		usleep(50);
		assert_int_equal(before, sp[0].slices + sp[1].slices + sp[2].slices);
	}
	sched_destroy(s);
}

static void idle_tasks_wake_by_deadline_and_by_hand(void **state)
{
	struct sched *s = make(1);
	struct spinner timed = {.verdict = VERDICT_IDLE, .idle_ns = 2000000};
	struct spinner asleep = {.verdict = VERDICT_IDLE};
	struct sched_task *t;
	uint64_t n;

	add(s, &timed);
	t = add(s, &asleep);
	sched_resume(s);
	for (int i = 0; i < 3000 && (timed.slices < 5 || !asleep.slices); i++)
		usleep(10000);
	assert_true(timed.slices >= 5);
	n = asleep.slices;
	assert_int_equal(n, 1);
	for (int i = 0; i < 50 && asleep.slices == n; i++) {
		sched_wake(t);
		usleep(10000);
	}
	assert_true(asleep.slices > n);
	sched_destroy(s);
}

/* Two tasks wake each other for ever; one lost wake and the count stands still. */
struct pong {
	struct sched_task *other;
	_Atomic uint64_t n;
};

static enum sched_verdict pong_run(void *ctx, uint64_t budget, uint64_t *deadline)
{
	struct pong *p = ctx;

	p->n++;
	sched_wake(p->other);
	*deadline = UINT64_MAX;
	return VERDICT_IDLE;
}

static void pong_kick(void *ctx)
{
}

static void no_wake_is_lost(void **state)
{
	struct sched *s = make(2);
	struct pong p[2] = {0};
	struct err e = {0};
	uint64_t seen = 0;

	for (int i = 0; i < 2; i++)
		assert_int_equal(sched_add(s, &(struct sched_task_ops){pong_run, pong_kick, &p[i]},
					 &p[!i].other, &e),
			0);
	sched_resume(s);
	for (int i = 0; i < 20; i++) {
		usleep(20000);
		/* They go on by themselves or never: a busy host may take its time. */
		for (int wait = 0; wait < 3000 && p[0].n + p[1].n <= seen; wait++)
			usleep(10000);
		assert_true(p[0].n + p[1].n > seen);
		seen = p[0].n + p[1].n;
	}
	sched_destroy(s);
}

static void run_inside(void *ctx)
{
	struct spinner *sp = ctx;

	assert_false(sp->inside);
}

static void quiesced_runs_outside_the_guest(void **state)
{
	struct sched *s = make(2);
	struct spinner sp = {0};

	add(s, &sp);
	sched_resume(s);
	for (int i = 0; i < 100; i++)
		assert_int_equal(sched_quiesced(s, run_inside, &sp), 0);
	sched_destroy(s);
}

struct attr {
	uint32_t size, policy;
	uint64_t flags, nice_and_priority, runtime, deadline, period;
};

struct asked {
	_Atomic bool done;
	struct attr a;
	char name[16];
};

static enum sched_verdict ask(void *ctx, uint64_t budget, uint64_t *deadline)
{
	struct asked *k = ctx;

	syscall(SYS_sched_getattr, 0, &k->a, sizeof(k->a), 0);
	pthread_getname_np(pthread_self(), k->name, sizeof(k->name));
	k->done = true;
	return VERDICT_STOP;
}

static void workers_have_names_and_short_slices(void **state)
{
	struct sched *s = make(1);
	struct asked k = {0};
	struct attr own = {0};
	struct sched_task *t;
	struct err e = {0};

	assert_int_equal(sched_add(s, &(struct sched_task_ops){ask, kick, &k}, &t, &e), 0);
	sched_resume(s);
	while (!k.done)
		usleep(1000);
	sched_destroy(s);
	assert_string_equal(k.name, "t-0");
	/* Hosts before Linux 6.12 have one length for all, and do not say which. */
	assert_int_equal(syscall(SYS_sched_getattr, 0, &own, sizeof(own), 0), 0);
	if (own.runtime)
		assert_int_equal(k.a.runtime, 100000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_workers_share_four_tasks_fairly),
		cmocka_unit_test(one_task_a_worker_stays_there),
		cmocka_unit_test(pause_means_nobody_runs),
		cmocka_unit_test(idle_tasks_wake_by_deadline_and_by_hand),
		cmocka_unit_test(no_wake_is_lost),
		cmocka_unit_test(quiesced_runs_outside_the_guest),
		cmocka_unit_test(workers_have_names_and_short_slices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
