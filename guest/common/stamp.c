/*
 * stamp.c: a guest by which a snapshot shows what moment it is of, and how long it held the guest up. On both engines.
 *
 * CPU 0 ticks each millisecond and prints, ten times a second, the longest gap between two ticks, how far the others are, in rounds and pages, and the time; its floating-point
 * or vector registers hold a pattern from one tick to the next. With TOUCH it writes to a page in each tick, as somebody's session does. Every other CPU goes over its share of all memory for ever: each page must
 * hold the generation before this one, in three words, and gets this one. A page that is older or newer than the moment at which the
 * CPU's registers were taken makes it fail in the next round.
 */
#include "guest/common/isa.h"

/* MiB of pages a second that all of them together write at most; 0: as fast as they can. */
#ifndef RATE
#define RATE 0
#endif
/* After the first generation only one page of so many is written. */
#ifndef PART
#define PART 1
#endif
/* MiB behind the program of which the ticker writes a page in each tick; nobody else does. */
#ifndef TOUCH
#define TOUCH 0ul
#endif
#define PACE 16u /* pages between two looks at the clock */

#define FIRST (8ul << 20) /* of RAM: behind the program and what its board has there */

static volatile uint64_t end, rounds[16], pages[16];
static uint64_t cpus = 1;

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

static void wait_until(uint64_t when)
{
	while (isa_ticks() < when)
		;
}

static void run_stamper(unsigned cpu)
{
	uint64_t first = isa_ram + FIRST + (TOUCH << 20), share, from, pace, next;

	while (!end)
		;
	share = ((end - first) >> 12) / (cpus - 1);
	from = (cpu - 1) * share;
	pace = RATE ? isa_second * PACE * (cpus - 1) / (RATE * 256 + !RATE) : 0;
	next = isa_ticks();
	for (uint64_t gen = 1;; gen++) {
		for (uint64_t i = 0; i < (gen > 1 ? share / PART : share); i++) {
			stamp((uint64_t *)(first + ((from + i) << 12)), from + i, gen);
			pages[cpu]++;
			if (!pace || i % PACE)
				continue;
			wait_until(next);
			/* What was missed while the guest stood still is not made up for. */
			next = (next + pace > isa_ticks() ? next : isa_ticks()) + pace;
		}
		rounds[cpu] = gen;
	}
}

/* What the registers must hold in this tick. */
static void check_vectors(uint64_t tick)
{
	static uint64_t v[ISA_VECTOR_WORDS];
	unsigned n = isa_vectors(1, v);

	for (unsigned i = 0; i < n; i++) {
		if (tick > 1 && ((volatile uint64_t *)v)[i] != (tick - 1) * 0x9e3779b97f4a7c15 + i)
			fail("vector registers", i);
		((volatile uint64_t *)v)[i] = tick * 0x9e3779b97f4a7c15 + i;
	}
	isa_vectors(0, v);
}

static void report(uint64_t worst)
{
	uint64_t least = ~0ul, all = 0;

	for (uint64_t c = 1; c < cpus; c++) {
		all += pages[c];
		if (rounds[c] < least)
			least = rounds[c];
	}
	put_text("gap ");
	put_dec(worst * 1000 / (isa_second / 1000));
	put_text(" us, rounds ");
	put_dec(cpus > 1 ? least : 0);
	put_text(", pages ");
	put_dec(all);
	put_text(", at ");
	put_dec(isa_ticks() * 1000 / isa_second);
	put_text(" ms\n");
}

static void run_ticker(void)
{
	uint64_t last = isa_ticks(), worst = 0;

	for (uint64_t tick = 1;; tick++) {
		uint64_t now;

		isa_timer_in(1000);
		while (isa_count[EV_TIMER] < tick)
			isa_wait();
		check_vectors(tick);
		if (TOUCH)
			*(volatile uint64_t *)(isa_ram + FIRST +
					       tick * 4096 % ((TOUCH << 20) + !TOUCH)) = tick;
		now = isa_ticks();
		if (now - last > worst)
			worst = now - last;
		last = now;
		if (tick % 100 == 0) {
			report(worst);
			worst = 0;
			last = isa_ticks();
		}
	}
}

int both(void)
{
	uint64_t top = isa_memory_end();

	while (cpus < 16 && isa_start((unsigned)cpus, run_stamper))
		cpus++;
	put_text("stamp: CPUs ");
	put_dec(cpus);
	put_text(", MiB ");
	put_dec((top - isa_ram) >> 20);
	put_text(", words in registers ");
	put_dec(isa_vectors(1, 0));
	put_text("\n");
	isa_fence();
	end = top;
	run_ticker();
	return 0;
}
