/*
 * Not a test: nanoseconds of an exit on its way from the hart to the monitor (docs/exits.md): translation by the table alone, and with the
 * copies into and out of the ring. `make bench` prints it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/util.h"
#include "cpu/rv64/exits/exits.h"

#define ROUNDS 9u
#define TURNS 200000u

static const struct {
	const char *name;
	struct rv64_status st;
} kinds[] = {
	{"mmio load", {.cause = CAUSE_LOAD_ACCESS, .htinst = 0x2003, .htval = 0x4000000}},
	{"mmio store", {.cause = CAUSE_STORE_ACCESS, .htinst = 0x2023, .htval = 0x4000000}},
	{"view fault", {.cause = CAUSE_STORE_GUEST_PAGE, .htval = 0x20000000}},
	{"wfi", {.cause = CAUSE_VIRTUAL_INSN, .tval = INSN_WFI}},
	{"console call", {.cause = CAUSE_ECALL_S, .reg = {1, 0, 0, 0, 0, 0, 2, EXT_DBCN}}},
	{"page fault", {.cause = CAUSE_LOAD_PAGE, .tval = 0x1000}},
	{"timer", {.cause = CAUSE_IRQ | IRQ_STI}},
	{"unknown", {.cause = 63}},
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(unsigned kind, bool whole)
{
	struct rv64_ring *ring = mmap(
		NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct rv64_reader q = {.ring = ring, .causes = &rv64_causes};
	struct rv64_status st = kinds[kind].st;
	uint64_t posted = 0;
	double ns[ROUNDS];

	for (unsigned r = 0; r < ROUNDS; r++) {
		uint64_t begin = clock_mono_ns();

		for (unsigned i = 0; i < TURNS; i++) {
			struct cpu_exit x;

			st.pc = i;
			if (whole) {
				rv64_post(ring, &posted, 0, RV64_RECORD_EXIT, &st);
				if (!rv64_take(&q, &x, NULL, NULL))
					abort(); /* broken invariant */
			} else {
				rv64_translate(&rv64_causes, &st, &x);
			}
			__asm__ volatile("" ::"m"(x), "m"(st) : "memory");
		}
		ns[r] = (double)(clock_mono_ns() - begin) / TURNS;
	}
	munmap(ring, sizeof(*ring));
	qsort(ns, ROUNDS, sizeof(ns[0]), by_value);
	return ns[ROUNDS / 2];
}

int main(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		printf("%-14s %6.1f %6.1f\n", kinds[i].name, median(i, false), median(i, true));
	return 0;
}
