/*
 * Time of one floating-point operation, on the host's unit and in integers: docs/rv64-fp.md has the figures. Not a test.
 *
 * Operands come from a table of normal numbers and results go to memory, as in an interpreter; operations do not wait for each other.
 * The columns: fp_host, fp_soft, and the _rm calls of fp_host in the mode RMM, which leave their flags in MXCSR. They alternate; the median
 * of nine rounds counts, in CPU time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cpu/rv64/fp_host.h"

enum { OPERANDS = 256, OPS = 1 << 16, ROUNDS = 9 };

struct bench {
	struct fp_host h;
	uint64_t in[OPERANDS], out[OPERANDS];
	uint32_t flags;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

typedef void run_fn(struct bench *b, unsigned rm);

#define RUN(id, expr) \
	static void id(struct bench *q, unsigned rm) \
	{ \
		for (unsigned i = 0; i < OPS; i++) { \
			uint64_t a = q->in[i % OPERANDS], b = q->in[(i + 7) % OPERANDS]; \
			uint64_t c = q->in[(i + 31) % OPERANDS]; \
\
			(void)b, (void)c, (void)rm; \
			q->out[i % OPERANDS] = expr; \
		} \
	}
#define BOTH(op, host, soft, any) RUN(host_##op, host) RUN(soft_##op, soft) RUN(any_##op, any)
#define FL &q->flags

BOTH(add64, fp64_add(a, b), fp64_soft_add(a, b, rm, FL), fp64_add_rm(a, b, rm))
BOTH(mul64, fp64_mul(a, b), fp64_soft_mul(a, b, rm, FL), fp64_mul_rm(a, b, rm))
BOTH(div64, fp64_div(a, b), fp64_soft_div(a, b, rm, FL), fp64_div_rm(a, b, rm))
BOTH(sqrt64, fp64_sqrt(a), fp64_soft_sqrt(a, rm, FL), fp64_sqrt_rm(a, rm))
BOTH(fmadd64, fp64_fmadd(a, b, c), fp64_soft_fma(a, b, c, rm, FL), fp64_fma_rm(a, b, c, rm))
BOTH(min64, fp64_min(a, b), fp64_soft_min(a, b, FL), fp64_min(a, b))
BOTH(lt64, fp64_lt(a, b), fp64_soft_lt(a, b, FL), fp64_lt(a, b))
BOTH(to_l64, fp64_to_l(a), fp64_soft_to_int(a, FP_L, rm, FL), fp64_to_int_rm(a, FP_L, rm))
BOTH(from_l64, fp64_from_l(a), fp64_soft_from_int(a, FP_L, rm, FL), fp64_from_int_rm(a, FP_L, rm))
BOTH(add32, fp32_box(fp32_add(fp32_unbox(a), fp32_unbox(b))),
	fp32_box(fp32_soft_add(fp32_unbox(a), fp32_unbox(b), rm, FL)),
	fp32_box(fp32_add_rm(fp32_unbox(a), fp32_unbox(b), rm)))
BOTH(mul32, fp32_box(fp32_mul(fp32_unbox(a), fp32_unbox(b))),
	fp32_box(fp32_soft_mul(fp32_unbox(a), fp32_unbox(b), rm, FL)),
	fp32_box(fp32_mul_rm(fp32_unbox(a), fp32_unbox(b), rm)))

#define ROW(op, single) \
	{ \
#op, single, \
		{ \
			host_##op, soft_##op, any_##op \
		} \
	}
static const struct {
	const char *name;
	bool single;
	run_fn *run[3];
} rows[] = {ROW(add64, false), ROW(mul64, false), ROW(div64, false), ROW(sqrt64, false),
	ROW(fmadd64, false), ROW(min64, false), ROW(lt64, false), ROW(to_l64, false),
	ROW(from_l64, false), ROW(add32, true), ROW(mul32, true)};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(void)
{
	struct bench b = {0};
	double t[3][ROUNDS];

	fp_host_init(&b.h);
	printf("ns an operation; fma %d\n%-10s %8s %8s %8s\n", b.h.fma, "", "host", "soft", "_rm");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (unsigned k = 0; k < OPERANDS; k++) {
			uint64_t r = (k + 1) * 0x9e3779b97f4a7c15ull;

			b.in[k] = rows[i].single ? fp32_box(0x3f000000 + (r >> 39 & 0xffffff))
						 : 0x3fe0000000000000 + (r >> 11);
		}
		for (int round = 0; round < ROUNDS; round++) {
			for (int way = 0; way < 3; way++) {
				double start = now();

				fp_host_enter(&b.h);
				rows[i].run[way](&b, way == 2 ? FP_RMM : FP_RNE);
				fp_host_leave(&b.h);
				t[way][round] = (now() - start) / OPS;
			}
		}
		printf("%-10s", rows[i].name);
		for (int way = 0; way < 3; way++) {
			qsort(t[way], ROUNDS, sizeof(double), by_value);
			printf(" %8.2f", t[way][ROUNDS / 2]);
		}
		printf("\n");
	}
	return 0;
}
