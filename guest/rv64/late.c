/*
 * late.c: how late timer interrupts come while a hart runs loops that leave nothing: integers, floating point, memory that misses caches,
 * a long stretch without a branch. For each a line
 *
 *	LATE name p50 p90 p99 max        in ticks of the timer, 100 ns each
 */
#include "rt.h"

#define MTIME (*(volatile uint64_t *)0x200bff8)
#define MTIMECMP (*(volatile uint64_t *)0x2004000)
#define MTI (1ul << 7)
#define TIMES 500u
#define WAIT 1000u /* ticks from one to the next, at least */
#define WORDS (1u << 19) /* 4 MiB */

static volatile uint64_t came;
static uint64_t deadline, late[TIMES], chain[WORDS];

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	uint64_t now = csr_read(time);

	if (cause != (1ul << 63 | 7))
		fail("a trap", cause);
	late[came] = now - deadline;
	came++;
	/* Never the same distance: a machine that looks every so often is not to be met in step. */
	deadline = now + WAIT + came * 7919 % 1000;
	MTIMECMP = came < TIMES ? deadline : ~0ul;
	return epc;
}

static void report(const char *name)
{
	static const uint16_t per_mille[] = {500, 900, 990, 1000};

	for (unsigned i = 1; i < TIMES; i++) {
		uint64_t v = late[i];
		unsigned k = i;

		for (; k && late[k - 1] > v; k--)
			late[k] = late[k - 1];
		late[k] = v;
	}
	put_text("LATE ");
	put_text(name);
	for (unsigned i = 0; i < 4; i++) {
		put_char(' ');
		put_dec(late[(TIMES - 1) * per_mille[i] / 1000]);
	}
	put_char('\n');
}

static void begin(void)
{
	came = 0;
	deadline = csr_read(time) + WAIT;
	MTIMECMP = deadline;
}

static void integers(void)
{
	uint64_t a = 1, b = 2;

	while (came < TIMES) {
		for (unsigned i = 0; i < 1000; i++) {
			a = a * 6364136223846793005ul + b;
			b ^= a >> 7;
		}
		__asm__ volatile("" ::"r"(a), "r"(b));
	}
}

static void floats(void)
{
	double a = 0.5, b = 0.25;

	while (came < TIMES) {
		for (unsigned i = 0; i < 1000; i++) {
			a = a * 0.75 + b;
			b = b * 0.5 + a * 0.125;
		}
		__asm__ volatile("" ::"f"(a), "f"(b));
	}
}

static void memory(void)
{
	uint64_t at = 0;

	while (came < TIMES) {
		for (unsigned i = 0; i < 100; i++)
			at = chain[at];
		__asm__ volatile("" ::"r"(at));
	}
}

static void straight(void)
{
	while (came < TIMES)
		__asm__ volatile(".rept 4000\n\taddi t0, t0, 1\n\txor t1, t1, t0\n\t.endr" ::
					 : "t0", "t1");
}

int main(uint64_t hart)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} loops[] = {{"int", integers}, {"fp", floats}, {"memory", memory}, {"straight", straight}};

	if (hart)
		for (;;)
			__asm__ volatile("wfi");
	csr_set(mstatus, 0x6000);
	/* One cycle through all words, in no order that a cache likes: odd multiples modulo a power of two. */
	for (uint32_t i = 0; i < WORDS; i++)
		chain[i * 0x9e3779b1u % WORDS] = (i + 1) * 0x9e3779b1u % WORDS;
	MTIMECMP = ~0ul;
	csr_set(mie, MTI);
	for (unsigned i = 0; i < 4; i++) {
		begin();
		csr_set(mstatus, 8);
		loops[i].run();
		csr_clear(mstatus, 8);
		report(loops[i].name);
	}
	return 0;
}
