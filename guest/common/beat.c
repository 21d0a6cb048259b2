/*
 * beat.c: a guest that shows whoever reads its console for how long it stood still, without anything that its VMM would have to tell (bench/migrate).
 *
 * Each millisecond it prints its clock in microseconds: six digits of base 64, lowest first, and a line end. When a line came, less what it says, is the same for all lines of one
 * process but for what held them up on their way: the least of it is how far the two clocks are apart. One CPU, which never sleeps, so that no timer has to come along.
 *
 * Before that it has written to all memory; meanwhile it writes (as stamp.c does, three words of each) to RATE MiB of pages a second, one behind the other; 0: none;
 * -1: as many as it can. With SWEEP it reads instead, one word of each page of all memory, times each, and prints how long each sweep took and how many took up to 1 us, 10 us, 100 us, 1 ms,
 * longer (bench/arrive).
 */
#include "guest/common/isa.h"

#ifndef RATE
#define RATE 0
#endif
#ifndef SWEEP
#define SWEEP 0
#endif
#define PACE 16u /* pages between two looks at the clock */
#define FIRST (8ul << 20) /* of RAM: behind the program and what its board has there */

static void say(uint64_t us)
{
	for (unsigned i = 0; i < 6; i++, us >>= 6)
		put_char((char)('0' + (us & 63)));
	put_char('\n');
}

static void write_page(volatile uint64_t *p, uint64_t n, uint64_t gen)
{
	p[0] = gen;
	p[1 + (n * 7 + gen) % 510] = gen ^ n;
	p[511] = ~gen;
}

static void write_all(uint64_t at, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		write_page((uint64_t *)(at + (i << 12)), i, 1);
}

static void run_writer(uint64_t at, uint64_t pages)
{
	uint64_t ms = isa_second / 1000, us = ms / 1000, now = isa_ticks(), beat = now, next = now;
	uint64_t pace = RATE > 0 ? isa_second * PACE / (RATE * 256 + !RATE) : 0, n = 0, gen = 1;

	for (;; now = isa_ticks()) {
		if (now >= beat) {
			say(now / us);
			beat = now + ms;
		}
		if (!RATE || now < next)
			continue;
		for (unsigned i = 0; i < PACE; i++) {
			write_page((uint64_t *)(at + (n << 12)), n, gen);
			n = n + 1 < pages ? n + 1 : 0;
			gen += !n;
		}
		/* What was missed while the guest stood still is not made up for. */
		next = (next + pace > now ? next : now) + pace;
	}
}

static void run_reader(uint64_t at, uint64_t pages)
{
	uint64_t ms = isa_second / 1000, us = ms / 1000;

	for (;;) {
		uint64_t class[5] = {0}, began = isa_ticks(), last = began;

		for (uint64_t i = 0; i < pages; i++) {
			uint64_t now, t;

			(void)*(volatile uint64_t *)(at + (i << 12));
			now = isa_ticks();
			t = now - last;
			last = now;
			class[(t > us) + (t > 10 * us) + (t > 100 * us) + (t > ms)]++;
		}
		put_text("sweep ");
		put_dec((last - began) / us);
		put_text(" us:");
		for (unsigned k = 0; k < 5; k++) {
			put_text(" ");
			put_dec(class[k]);
		}
		put_text("\n");
	}
}

int both(void)
{
	uint64_t at = isa_ram + FIRST, pages = (isa_memory_end() - at) >> 12;

	write_all(at, pages);
	put_text("beat\n");
	if (SWEEP)
		run_reader(at, pages);
	run_writer(at, pages);
	return 0;
}
