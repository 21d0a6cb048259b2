/*
 * rv64-speed: how fast the isa half runs by itself: the kernels of rv64-speed-guest.c over flat memory, no MMU, no devices.
 *
 *	rv64-speed GUEST.bin [ROUNDS]
 *
 * Prints for each kernel the best of ROUNDS (3): instructions, seconds, million instructions a second, instructions a block.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/cpu/flat.h"
#include "base/clock.h"
#include "base/util.h"

static const char *const kernels[] = {"xorshift", "shellsort", "crc32 by bits", "fib, recursive",
	"random switch", "copy 64-bit words", "double stencil", "pointer chase", "many functions"};

#define STOP (FLAT_BASE + FLAT_SIZE - 16)

/* Nanoseconds; 0: the kernel did not end as it should. */
static uint64_t run(
	const uint8_t *code, size_t n, unsigned which, uint64_t *instret, uint64_t *result)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint64_t t;

	memcpy(f->ram, code, n);
	flat_put(f, STOP, &(uint32_t){0x00100073}, 1);
	h->x[1] = STOP;
	h->x[2] = STOP - 64;
	h->x[10] = which;
	h->fs = 1;
	fp_host_init(&h->fp);
	t = clock_mono_ns();
	fp_host_enter(&h->fp);
	flat_run(f, FLAT_BASE, 1ull << 40);
	fp_host_leave(&h->fp);
	t = clock_mono_ns() - t;
	*instret = h->instret;
	*result = h->x[10];
	if (f->epc != STOP)
		t = 0;
	flat_free(f);
	return t;
}

int main(int argc, char **argv)
{
	static uint8_t code[FLAT_SIZE / 2];
	unsigned rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 3;
	FILE *in = argc > 1 ? fopen(argv[1], "rb") : NULL;
	size_t n;

	if (!in) {
		fprintf(stderr, "usage: rv64-speed GUEST.bin [ROUNDS]\n");
		return 2;
	}
	n = fread(code, 1, sizeof(code), in);
	fclose(in);
	for (unsigned k = 0; k < ARRAY_SIZE(kernels); k++) {
		uint64_t best = UINT64_MAX, instret = 0, result = 0;

		for (unsigned i = 0; i < rounds; i++) {
			uint64_t t = run(code, n, k, &instret, &result);

			if (!t) {
				fprintf(stderr, "%s: trapped\n", kernels[k]);
				return 1;
			}
			best = MIN(best, t);
		}
		printf("%-18s %11llu instr %7.3f s %7.1f M/s  result %llx\n", kernels[k],
			(unsigned long long)instret, (double)best / 1e9,
			(double)instret * 1e3 / (double)best, (unsigned long long)result);
	}
	return 0;
}
