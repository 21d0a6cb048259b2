/*
 * litmus.c: the memory model as harts see it. Pairs of harts run small racing programs over and over; each
 * round's outcome is looked up among those that RVWMO (unprivileged specification, chapter "RVWMO Memory Consistency
 * Model") forbids. Outcomes that it allows are counted and printed, so that one sees that the harts really met.
 *
 *   MP      message passing, fences on both sides: flag seen, data not seen is forbidden
 *   SB      store buffering with fence rw,rw: both reading 0 is forbidden
 *   SB-     the same without fences: allowed; counted only
 *   LB      load buffering with dependencies: both reading 1 is forbidden
 *   CoRR    two reads of one place never go back in time
 *   AMO     amoadd by every hart: nothing lost
 *   LRSC    lr/sc counter by every hart: nothing lost
 *   SPIN    a lock of amoswap.aq/.rl protects a plain counter
 */
#include "rt.h"

#ifndef ROUNDS
#define ROUNDS 200000u
#endif
#define HARTS_MAX 16

static volatile struct {
	uint64_t x __attribute__((aligned(64)));
	uint64_t y __attribute__((aligned(64)));
	uint64_t r0 __attribute__((aligned(64)));
	uint64_t r1 __attribute__((aligned(64)));
} cell[64];
static volatile uint64_t arrived __attribute__((aligned(64)));
static volatile uint64_t phase __attribute__((aligned(64)));
static volatile uint64_t counter __attribute__((aligned(64)));
static volatile uint64_t lock __attribute__((aligned(64)));
static volatile uint64_t plain __attribute__((aligned(64)));
static volatile uint64_t alive __attribute__((aligned(64)));
static uint64_t harts;

static inline uint64_t amoadd(volatile uint64_t *p, uint64_t v)
{
	uint64_t old;

	__asm__ volatile("amoadd.d.aqrl %0, %2, (%1)" : "=r"(old) : "r"(p), "r"(v) : "memory");
	return old;
}

/* Everybody waits for everybody. */
static void meet(void)
{
	uint64_t ph = phase;

	if (amoadd(&arrived, 1) == harts - 1) {
		arrived = 0;
		__asm__ volatile("fence rw, rw" ::: "memory");
		phase = ph + 1;
	} else {
		/* pause: harts that share a core let the others arrive. */
		for (unsigned n = 0; phase == ph; n++)
			if (n > 200)
				__asm__ volatile(".word 0x0100000f");
	}
	__asm__ volatile("fence rw, rw" ::: "memory");
}

enum { MP, SB, SB_PLAIN, LB, CORR, TESTS };
static const char *const names[TESTS] = {"MP", "SB", "SB-", "LB", "CoRR"};

static void left(int test, unsigned i)
{
	uint64_t r;

	switch (test) {
	case MP:
	case CORR:
		__asm__ volatile("sd %2, 0(%0)\n fence w, w\n sd %2, 0(%1)" ::"r"(&cell[i].x),
				 "r"(&cell[i].y), "r"(1ul)
				 : "memory");
		break;
	case SB:
		__asm__ volatile("sd %3, 0(%1)\n fence rw, rw\n ld %0, 0(%2)"
				 : "=&r"(r)
				 : "r"(&cell[i].x), "r"(&cell[i].y), "r"(1ul)
				 : "memory");
		cell[i].r0 = r;
		break;
	case SB_PLAIN:
		__asm__ volatile("sd %3, 0(%1)\n ld %0, 0(%2)"
				 : "=&r"(r)
				 : "r"(&cell[i].x), "r"(&cell[i].y), "r"(1ul)
				 : "memory");
		cell[i].r0 = r;
		break;
	case LB:
		__asm__ volatile("ld %0, 0(%1)\n xor t0, %0, %0\n addi t0, t0, 1\n sd t0, 0(%2)"
				 : "=&r"(r)
				 : "r"(&cell[i].x), "r"(&cell[i].y)
				 : "memory", "t0");
		cell[i].r0 = r;
		break;
	}
}

static void right(int test, unsigned i)
{
	uint64_t r, s;

	switch (test) {
	case MP:
		__asm__ volatile("ld %0, 0(%2)\n fence r, r\n ld %1, 0(%3)"
				 : "=&r"(r), "=&r"(s)
				 : "r"(&cell[i].y), "r"(&cell[i].x)
				 : "memory");
		cell[i].r0 = r;
		cell[i].r1 = s;
		break;
	case CORR:
		__asm__ volatile("ld %0, 0(%2)\n ld %1, 0(%2)"
				 : "=&r"(r), "=&r"(s)
				 : "r"(&cell[i].x)
				 : "memory");
		cell[i].r0 = r;
		cell[i].r1 = s;
		break;
	case SB:
		__asm__ volatile("sd %3, 0(%1)\n fence rw, rw\n ld %0, 0(%2)"
				 : "=&r"(s)
				 : "r"(&cell[i].y), "r"(&cell[i].x), "r"(1ul)
				 : "memory");
		cell[i].r1 = s;
		break;
	case SB_PLAIN:
		__asm__ volatile("sd %3, 0(%1)\n ld %0, 0(%2)"
				 : "=&r"(s)
				 : "r"(&cell[i].y), "r"(&cell[i].x), "r"(1ul)
				 : "memory");
		cell[i].r1 = s;
		break;
	case LB:
		__asm__ volatile("ld %0, 0(%1)\n xor t0, %0, %0\n addi t0, t0, 1\n sd t0, 0(%2)"
				 : "=&r"(s)
				 : "r"(&cell[i].y), "r"(&cell[i].x)
				 : "memory", "t0");
		cell[i].r1 = s;
		break;
	}
}

static int forbidden(int test, uint64_t r0, uint64_t r1)
{
	switch (test) {
	case MP:
		return r0 == 1 && r1 == 0;
	case SB:
		return r0 == 0 && r1 == 0;
	case LB:
		return r0 == 1 && r1 == 1;
	case CORR:
		return r0 == 1 && r1 == 0;
	}
	return 0;
}

static void race(uint64_t hart, int test)
{
	uint64_t seen[2][2] = {{0}};

	for (unsigned round = 0; round < ROUNDS / 64; round++) {
		if (hart == 0)
			for (unsigned i = 0; i < 64; i++)
				cell[i].x = cell[i].y = cell[i].r0 = cell[i].r1 = 0;
		meet();
		/* The two walk towards each other, so that they meet in the middle whatever their speed. */
		if (hart == 0)
			for (unsigned i = 0; i < 64; i++)
				left(test, i);
		else if (hart == 1)
			for (unsigned i = 0; i < 64; i++)
				right(test, round & 1 ? 63 - i : i);
		meet();
		for (unsigned i = 0; hart == 0 && i < 64; i++) {
			if (forbidden(test, cell[i].r0, cell[i].r1))
				fail(names[test], round);
			seen[cell[i].r0 & 1][cell[i].r1 & 1]++;
		}
	}
	if (hart)
		return;
	put_text(names[test]);
	for (int i = 0; i < 4; i++) {
		put_text(i ? " " : "\t00/01/10/11: ");
		put_dec(seen[i >> 1][i & 1]);
	}
	put_text("\n");
}

static void count_amo(void)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		__asm__ volatile("amoadd.d zero, %1, (%0)" ::"r"(&counter), "r"(1ul) : "memory");
}

static void count_lrsc(void)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		__asm__ volatile(
			"1: lr.d t0, (%0)\n addi t0, t0, 1\n sc.d t1, t0, (%0)\n bnez t1, 1b" ::"r"(
				&counter)
			: "memory", "t0", "t1");
}

static void count_locked(void)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		__asm__ volatile("1: amoswap.d.aq t0, %2, (%0)\n bnez t0, 1b\n"
				 "ld t0, 0(%1)\n addi t0, t0, 1\n sd t0, 0(%1)\n"
				 "amoswap.d.rl zero, zero, (%0)" ::"r"(&lock),
				 "r"(&plain), "r"(1ul)
				 : "memory", "t0");
}

static void check(uint64_t hart, const char *name, uint64_t got)
{
	if (hart)
		return;
	put_text(name);
	put_text("\t");
	put_dec(got);
	put_text("\n");
	if (got != harts * ROUNDS)
		fail(name, got);
}

int main(uint64_t hart)
{
	/* How many harts are there: everybody says so within a while. */
	amoadd(&alive, 1);
	if (hart == 0) {
		uint64_t last = 0, since = csr_read(time);

		/* 0.3 s without another one: by the clock, since nobody knows how fast it is executed. */
		while (csr_read(time) - since < 3000000)
			if (alive != last) {
				last = alive;
				since = csr_read(time);
			}
		put_text("harts ");
		put_dec(last);
		put_text("\n");
		__asm__ volatile("fence rw, rw" ::: "memory");
		harts = last;
	}
	while (!*(volatile uint64_t *)&harts)
		;
	if (harts < 2)
		fail("needs at least two harts", harts);
	for (int t = 0; t < TESTS; t++)
		race(hart, t);
	meet();
	count_amo();
	meet();
	check(hart, "AMO", counter);
	meet();
	if (hart == 0)
		counter = 0;
	meet();
	count_lrsc();
	meet();
	check(hart, "LRSC", counter);
	count_locked();
	meet();
	check(hart, "SPIN", plain);
	return 0;
}
