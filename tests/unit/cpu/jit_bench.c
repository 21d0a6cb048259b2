/*
 * Not a test: what translating cold code costs, in times that it is interpreted (docs/rv64-jit.md). `make bench` prints it.
 *
 * Much code, of which little is hot: functions of some thirty instructions as compilers make them, called in turn. Nanoseconds of
 * CPU for each instruction: decoded and interpreted once; interpreted 30 times, by the engine without its translator and by the engine as it
 * is, while the code is cold; translated, and run once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "bare.h"
#include "base/err.h"
#include "memory/frames.h"

#define FUNCTIONS 1024u
#define ROOM 192u /* bytes of a function */
#define FIRST (RAM + 0x100000)
#define TIMES 30u
#define ROUNDS 5u

static double cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static uint32_t next(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static uint32_t branch(unsigned id, unsigned rs1, unsigned rs2, unsigned to)
{
	return enc(id, 0, rs1, rs2) | (to & 0x1e) << 7 | (to >> 5 & 0x3f) << 25;
}

static uint32_t store(unsigned rs1, unsigned rs2, unsigned off)
{
	return enc(RV_sd, 0, rs1, rs2) | (off & 0x1f) << 7 | off >> 5 << 25;
}

/* A frame, three branches over a bit of arithmetic, loads and stores; the number of instructions that a call makes. */
static void function(struct bare *b, uint64_t at, uint32_t *seed)
{
	uint64_t end = at;

	bare_put(b, end += 0, enc(RV_addi, 2, 2, 0) | 0xfe0u << 20);
	bare_put(b, end += 4, store(2, 1, 24));
	bare_put(b, end += 4, store(2, 8, 16));
	for (unsigned i = 0; i < 3; i++) {
		unsigned r = 10 + next(seed) % 6, s = 10 + next(seed) % 6;

		bare_put(b, end += 4, enc(RV_ld, r, 2, 0) | 8u << 20);
		bare_put(b, end += 4, enc(RV_addi, r, r, 0) | next(seed) % 1024 << 20);
		bare_put(b, end += 4, enc(RV_add, s, s, r));
		bare_put(b, end += 4, enc(RV_xori, s, s, 0) | 3u << 20);
		bare_put(b, end += 4, branch(RV_blt, r, s, 12));
		bare_put(b, end += 4, enc(RV_add, 8, r, s));
		bare_put(b, end += 4, store(2, s, 8));
	}
	bare_put(b, end += 4, enc(RV_ld, 8, 2, 0) | 16u << 20);
	bare_put(b, end += 4, enc(RV_ld, 1, 2, 0) | 24u << 20);
	bare_put(b, end += 4, enc(RV_addi, 2, 2, 0) | 32u << 20);
	bare_put(b, end += 4, 0x00008067);
}

static void fill(struct bare *b)
{
	static const uint32_t driver[] = {
		0x000280e7, /* jalr ra, 0(t0) */
		0x0c028293, /* addi t0, t0, ROOM */
		0xfff48493, /* addi s1, s1, -1 */
		0xfe049ae3, /* bnez s1, back to the call */
		ECALL,
	};
	uint32_t seed = 1;

	for (unsigned i = 0; i < ARRAY_SIZE(driver); i++)
		bare_put(b, CODE + 4 * i, driver[i]);
	for (unsigned i = 0; i < FUNCTIONS; i++)
		function(b, FIRST + i * ROOM, &seed);
}

/* One pass over them all: ns. */
static double pass(struct bare *b)
{
	struct cpu_exit x;
	double began;

	b->h->x[9] = FUNCTIONS;
	b->h->x[5] = FIRST;
	b->h->x[2] = RAM + 0xf0000;
	b->h->pc = CODE;
	rv64_set_priv(b->h, PRIV_M);
	began = cpu_ns();
	bare_exit(b, 0, &x);
	began = cpu_ns() - began;
	rv64_engine.vcpu_run(b->v[0], 0, &x); /* its store is answered */
	return began;
}

static void counter(void *ctx, const char *name, uint64_t v)
{

	if (!strcmp(name, "instructions_translated"))
		*(double *)ctx = (double)v;
}

static double translated(struct bare *b)
{
	double n = 0;

	rv64_engine.vm_counters(b->vm, counter, &n);
	return n;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* The engine without its translator: *first: the first time, *all: TIMES times. */
static void interpret(double *first, double *all)
{
	struct bare *b = bare_new_jit(1, false, CPU_JIT_OFF);
	uint64_t insns = b->h->instret;

	fill(b);
	*all = *first = pass(b);
	insns = b->h->instret - insns;
	for (unsigned i = 1; i < TIMES; i++)
		*all += pass(b);
	*first /= (double)insns;
	*all /= (double)insns;
	bare_free(b);
}

/* The engine as it is: *cold: TIMES times what it does with cold code; *made: the pass in which all is translated, and run once. */
static void translate(double *cold, double *made)
{
	struct bare *b = bare_new_jit(1, false, CPU_JIT_AUTO);
	double before, took, spent = 0;
	uint64_t insns = b->h->instret;
	unsigned passes = 0;

	fill(b);
	for (*made = 0; passes < TIMES && *made == 0; passes++) {
		before = translated(b);
		took = pass(b);
		if (translated(b) - before > (double)FUNCTIONS * 20)
			*made = took / (translated(b) - before);
		else
			spent += took;
	}
	insns = (b->h->instret - insns) / passes;
	*cold = passes > 1 ? spent / (passes - 1) / (double)insns * TIMES : 0;
	bare_free(b);
}

int main(void)
{
	double v[4][ROUNDS];

	for (unsigned r = 0; r < ROUNDS; r++) {
		interpret(&v[0][r], &v[1][r]);
		translate(&v[2][r], &v[3][r]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(v); i++)
		qsort(v[i], ROUNDS, sizeof(double), by_value);
	printf("%.1f %.1f %.1f %.1f\n", v[0][ROUNDS / 2], v[1][ROUNDS / 2], v[2][ROUNDS / 2],
		v[3][ROUNDS / 2]);
	return 0;
}
