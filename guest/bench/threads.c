/* Rows of threads: made, woken, and at work on the same words. */
#include "bench.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *one_more(void *arg)
{
	__atomic_add_fetch((uint64_t *)arg, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* One unit: 10 threads made and joined, in pairs. */
uint64_t bench_threads(uint64_t n)
{
	uint64_t sum = 0;

	for (n *= 5; n--;) {
		pthread_t t[2];

		for (int i = 0; i < 2; i++) {
			if (pthread_create(&t[i], NULL, one_more, &sum))
				bench_die("pthread_create");
		}
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
	}
	return sum;
}

struct rally {
	uint32_t ball; /* odd: the other thread's turn */
	uint64_t turns, seen;
};

static void wait_for(uint32_t *word, uint32_t parity)
{
	for (;;) {
		uint32_t v = __atomic_load_n(word, __ATOMIC_ACQUIRE);

		if ((v & 1) == parity)
			return;
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, v, NULL, NULL, 0);
	}
}

static void pass(uint32_t *word)
{
	__atomic_add_fetch(word, 1, __ATOMIC_ACQ_REL);
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *player(void *arg)
{
	struct rally *r = arg;

	for (uint64_t i = 0; i < r->turns; i++) {
		wait_for(&r->ball, 1);
		r->seen++;
		pass(&r->ball);
	}
	return NULL;
}

/* One unit: 100 times there and back between two threads, and 100 wakes that nobody waits for. */
uint64_t bench_futex(uint64_t n)
{
	struct rally r = {.turns = n * 100};
	uint64_t sum = 0;
	uint32_t lonely = 0;
	pthread_t t;

	if (pthread_create(&t, NULL, player, &r))
		bench_die("pthread_create");
	for (uint64_t i = 0; i < r.turns; i++) {
		pass(&r.ball);
		wait_for(&r.ball, 0);
		sum += (uint64_t)syscall(SYS_futex, &lonely, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
	pthread_join(t, NULL);
	return bench_fold(sum, r.seen + r.ball);
}

struct shared {
	uint64_t turns;
	uint64_t added __attribute__((aligned(64)));
	uint64_t swapped __attribute__((aligned(64)));
	uint32_t lock __attribute__((aligned(64)));
	uint64_t guarded;
};

static void *hammer(void *arg)
{
	struct shared *s = arg;

	for (uint64_t i = 0; i < s->turns; i++) {
		uint64_t old;

		__atomic_fetch_add(&s->added, i, __ATOMIC_ACQ_REL);
		__atomic_fetch_xor(&s->added, 0, __ATOMIC_RELAXED);
		old = __atomic_load_n(&s->swapped, __ATOMIC_RELAXED);
		while (!__atomic_compare_exchange_n(
			&s->swapped, &old, old * 3, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			;
		if (i & 7)
			continue;
		while (__atomic_exchange_n(&s->lock, 1, __ATOMIC_ACQUIRE))
			sched_yield();
		s->guarded++;
		__atomic_store_n(&s->lock, 0, __ATOMIC_RELEASE);
	}
	return NULL;
}

static uint64_t atomics(uint64_t turns, int threads)
{
	struct shared s = {.turns = turns, .swapped = 1};
	pthread_t t;

	if (threads == 2 && pthread_create(&t, NULL, hammer, &s))
		bench_die("pthread_create");
	hammer(&s);
	if (threads == 2)
		pthread_join(t, NULL);
	return bench_fold(s.added ^ s.swapped, s.guarded);
}

/* One unit: 1000 turns of an addition, an exclusive or, a compare and swap; each eighth takes a lock. */
uint64_t bench_atomics1(uint64_t n)
{
	return atomics(n * 1000, 1);
}

/* The same by each of two threads. */
uint64_t bench_atomics2(uint64_t n)
{
	return atomics(n * 1000, 2);
}
