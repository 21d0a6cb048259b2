/*
 * stamp.c: a guest by which a snapshot shows what moment it is of, and how long it held the guest up.
 *
 * Hart 0 ticks each millisecond and prints, twice a second, the longest gap between two ticks and how far the others are. Every other hart
 * goes over its share of all memory for ever: each page must hold the generation before this one, in three words, and gets this one. A page that
 * is older or newer than the moment at which the hart's registers were taken makes it fail in the next round.
 */
#include "rt.h"

#define MTIME (*(volatile uint64_t *)0x200bff8)
#define MTIMECMP (*(volatile uint64_t *)0x2004000)
#define MTI (1ul << 7)
#define FIRST 0x80400000ul
#define STEP (16ul << 20)
#define TICK 10000ul /* 1 ms */

static volatile uint64_t faulted, end, ready, rounds[16], at[16];

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	if (cause != 5)
		fail("an exception", cause);
	faulted = 1;
	return epc + 4;
}

static uint64_t find_end(void)
{
	uint64_t a = 0x80000000ul + STEP;

	for (;; a += STEP) {
		uint64_t v;

		faulted = 0;
		__asm__ volatile(".option push\n .option norvc\n ld %0, 0(%1)\n .option pop"
				 : "=r"(v)
				 : "r"(a - 8)
				 : "memory");
		if (faulted)
			return a - STEP;
	}
}

/* The three words of a page: its first, its last, and one that moves. */
static void stamp(volatile uint64_t *p, uint64_t n, uint64_t gen)
{
	unsigned k = 1 + (unsigned)((n * 7 + gen) % 510);

	if (gen > 1) {
		unsigned was = 1 + (unsigned)((n * 7 + gen - 1) % 510);

		if (p[0] != gen - 1 || p[511] != ~(gen - 1) || p[was] != ((gen - 1) ^ n)) {
			put_text("page ");
			put_hex((uint64_t)p);
			put_text(" in generation ");
			put_dec(gen);
			fail(": holds", p[0]);
		}
	}
	p[0] = gen;
	p[k] = gen ^ n;
	p[511] = ~gen;
}

static void run_stamper(uint64_t hart, uint64_t harts)
{
	uint64_t pages = (end - FIRST) >> 12, share = pages / (harts - 1);
	uint64_t from = (hart - 1) * share;

	for (uint64_t gen = 1;; gen++) {
		for (uint64_t i = 0; i < share; i++) {
			stamp((uint64_t *)(FIRST + ((from + i) << 12)), from + i, gen);
			at[hart] = i;
		}
		rounds[hart] = gen;
	}
}

static void report(uint64_t worst, uint64_t harts)
{
	uint64_t least = ~0ul;

	for (uint64_t h = 1; h < harts; h++)
		if (rounds[h] < least)
			least = rounds[h];
	put_text("gap ");
	put_dec(worst / 10);
	put_text(" us, rounds ");
	put_dec(harts > 1 ? least : 0);
	put_text("\n");
}

static void run_ticker(uint64_t harts)
{
	uint64_t last = MTIME, worst = 0, ticks = 0;

	csr_set(mie, MTI);
	for (;;) {
		uint64_t now;

		MTIMECMP = last + TICK;
		do {
			__asm__ volatile("wfi");
			now = MTIME;
		} while (now < last + TICK);
		if (now - last > worst)
			worst = now - last;
		last = now;
		if (++ticks % 500 == 0) {
			report(worst, harts);
			worst = 0;
			last = MTIME;
		}
	}
}

int main(uint64_t hart)
{
	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
	if (hart == 0) {
		uint64_t until = MTIME + 2000000, top;

		/* Whoever has come by now takes part. */
		while (MTIME < until)
			;
		top = find_end();
		put_text("stamp: harts ");
		put_dec(ready);
		put_text(" MiB ");
		put_dec((top - 0x80000000ul) >> 20);
		put_text("\n");
		__asm__ volatile("fence rw, rw");
		end = top;
		run_ticker(ready);
	}
	while (!end)
		;
	run_stamper(hart, ready);
	return 0;
}
