/* bench: one row of work, its checksum and the seconds it took. */
#include "bench.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

static const struct bench_row rows[] = {
	{"sort", "int", 8, 0, bench_sort},
	{"sha256", "int", 320, 0, bench_sha256},
	{"crc32", "int", 500, 0, bench_crc32},
	{"branchy", "int", 600, 0, bench_branchy},
	{"recursion", "int", 100, 0, bench_recursion},
	{"bytecode", "int", 120, 0, bench_bytecode},
	{"indirect", "int", 800, 0, bench_indirect},
	{"strings", "int", 400, 0, bench_strings},
	{"hashing", "int", 60, 0, bench_hashing},
	{"coremix", "int", 400, 0, bench_coremix},
	{"drymix", "int", 1200, 0, bench_drymix},
	{"matmul", "fp", 12, 0, bench_matmul},
	{"mandelbrot", "fp", 1000, 0, bench_mandelbrot},
	{"nbody", "fp", 400, 0, bench_nbody},
	{"saxpy", "fp", 12000, 0, bench_saxpy},
	{"fma", "fp", 6000, 0, bench_fma},
	{"memcpy", "mem", 3000, 0, bench_memcpy},
	{"memset", "mem", 8000, 0, bench_memset},
	{"chase", "mem", 100, 0, bench_chase},
	{"stride", "mem", 100, 0, bench_stride},
	{"getpid", "sys", 300, 0, bench_getpid},
	{"clock", "sys", 2000, 0, bench_clock},
	{"pipe", "sys", 80, 1, bench_pipe},
	{"forkexec", "sys", 100, 1, bench_forkexec},
	{"fork", "sys", 200, 1, bench_fork},
	{"faults", "sys", 15, 0, bench_faults},
	{"mmap", "sys", 500, 0, bench_mmap},
	{"mprotect", "sys", 600, 0, bench_mprotect},
	{"signals", "sys", 800, 0, bench_signals},
	{"threads", "sys", 300, 1, bench_threads},
	{"futex", "sys", 200, 1, bench_futex},
	{"atomics1", "sys", 4000, 0, bench_atomics1},
	{"atomics2", "sys", 1500, 0, bench_atomics2},
	{"smc", "code", 3000, 0, bench_smc},
	{"cold", "code", 1, 0, bench_cold},
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

_Noreturn void bench_die(const char *what)
{
	perror(what);
	exit(1);
}

void *bench_alloc(uint64_t bytes)
{
	void *p = calloc(1, bytes);

	if (!p)
		bench_die("calloc");
	return p;
}

static double cpu_now(void)
{
	struct rusage self, children;

	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &children);
	return (double)(self.ru_utime.tv_sec + self.ru_stime.tv_sec + children.ru_utime.tv_sec +
			children.ru_stime.tv_sec) +
	       1e-6 * (double)(self.ru_utime.tv_usec + self.ru_stime.tv_usec +
			       children.ru_utime.tv_usec + children.ru_stime.tv_usec);
}

static double wall_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int run(const struct bench_row *row, double scale)
{
	uint64_t n = (uint64_t)((double)row->n * scale + 0.5), sum;
	double cpu, wall;
	cpu_set_t one;
	int cpu_id = row->pin ? sched_getcpu() : -1;

	if (cpu_id >= 0) {
		CPU_ZERO(&one);
		CPU_SET(cpu_id, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	n = n ? n : 1;
	cpu = cpu_now();
	wall = wall_now();
	sum = row->run(n);
	wall = wall_now() - wall;
	cpu = cpu_now() - cpu;
	printf("BENCH %s n=%llu check=%016llx cpu=%.6f wall=%.6f\n", row->name,
		(unsigned long long)n, (unsigned long long)sum, cpu, wall);
	return 0;
}

int main(int argc, char **argv)
{
	double scale = argc > 2 ? strtod(argv[2], NULL) : 1;

	if (argc == 2 && !strcmp(argv[1], "nothing")) /* what the row forkexec starts */
		return 7;
	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (size_t i = 0; i < ROWS; i++)
			printf("%s %s\n", rows[i].name, rows[i].kind);
		return 0;
	}
	for (size_t i = 0; argc >= 2 && argc <= 3 && scale > 0 && i < ROWS; i++) {
		if (!strcmp(rows[i].name, argv[1]))
			return run(&rows[i], scale);
	}
	fprintf(stderr, "usage: bench ROW [SCALE], or bench list\n");
	return 2;
}
