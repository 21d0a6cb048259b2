/*
 * bench.h: the rows of the benchmark program.
 *
 * One plain C program, the same source and flags for the host and for the guest. A row is a function
 * that does `n` units of work and returns a checksum of what it computed; the checksum depends on n
 * alone, so that every machine must print the same one. A row takes no input and leaves nothing
 * behind. The program measures CPU and wall time around the one call: what the process itself,
 * its threads and its reaped children took.
 *
 * Floating point is compiled with -ffp-contract=off: without it the compiler would fuse on one
 * machine and not on the other, and the results would differ. The row `fma` fuses on both.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

struct bench_row {
	const char *name;
	const char *kind; /* int, fp, mem, sys, code: what the geometric means are taken over */
	uint64_t n; /* units of work at scale 1 */
	int pin; /* 1: its threads or processes stay on one processor, as on one vCPU */
	uint64_t (*run)(uint64_t n);
};

/* A step of a 64-bit linear congruential generator; the high bits are the good ones. */
static inline uint64_t bench_next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return *seed >> 33;
}

/* Folds `v` into a checksum. */
static inline uint64_t bench_fold(uint64_t sum, uint64_t v)
{
	sum ^= v + 0x9e3779b97f4a7c15u + (sum << 6) + (sum >> 2);
	return sum;
}

/* Ends the program with a message: a row that cannot run has no figure. */
_Noreturn void bench_die(const char *what);

/* Zeroed memory of its own; never NULL. */
void *bench_alloc(uint64_t bytes);

/* integer.c */
uint64_t bench_sort(uint64_t n);
uint64_t bench_sha256(uint64_t n);
uint64_t bench_crc32(uint64_t n);
uint64_t bench_branchy(uint64_t n);
uint64_t bench_recursion(uint64_t n);
uint64_t bench_bytecode(uint64_t n);
uint64_t bench_indirect(uint64_t n);
uint64_t bench_strings(uint64_t n);
uint64_t bench_hashing(uint64_t n);

/* float.c */
uint64_t bench_matmul(uint64_t n);
uint64_t bench_mandelbrot(uint64_t n);
uint64_t bench_nbody(uint64_t n);
uint64_t bench_saxpy(uint64_t n);
uint64_t bench_fma(uint64_t n);

/* mem.c */
uint64_t bench_memcpy(uint64_t n);
uint64_t bench_memset(uint64_t n);
uint64_t bench_chase(uint64_t n);
uint64_t bench_stride(uint64_t n);

/* system.c */
uint64_t bench_getpid(uint64_t n);
uint64_t bench_clock(uint64_t n);
uint64_t bench_pipe(uint64_t n);
uint64_t bench_forkexec(uint64_t n);
uint64_t bench_fork(uint64_t n);
uint64_t bench_faults(uint64_t n);
uint64_t bench_mmap(uint64_t n);
uint64_t bench_mprotect(uint64_t n);
uint64_t bench_signals(uint64_t n);

/* threads.c */
uint64_t bench_threads(uint64_t n);
uint64_t bench_futex(uint64_t n);
uint64_t bench_atomics1(uint64_t n);
uint64_t bench_atomics2(uint64_t n);

/* code.c */
uint64_t bench_smc(uint64_t n);
uint64_t bench_cold(uint64_t n);

/* mixes.c */
uint64_t bench_coremix(uint64_t n);
uint64_t bench_drymix(uint64_t n);

#endif
