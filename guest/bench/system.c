/* System rows: what a kernel does for a process. */
#include "bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* One unit: 1000 calls. */
uint64_t bench_getpid(uint64_t n)
{
	uint64_t same = 0;
	long pid = getpid();

	for (n *= 1000; n--;)
		same += syscall(SYS_getpid) == pid;
	return same;
}

/* One unit: 1000 readings of the monotonic clock (the vDSO's); none may go back. */
uint64_t bench_clock(uint64_t n)
{
	struct timespec t;
	uint64_t forward = 0;
	int64_t last = 0;

	for (n *= 1000; n--;) {
		int64_t now;

		clock_gettime(CLOCK_MONOTONIC, &t);
		now = t.tv_sec * 1000000000ll + t.tv_nsec;
		forward += now >= last;
		last = now;
	}
	return forward;
}

static void must(int good, const char *what)
{
	if (!good)
		bench_die(what);
}

/* One unit: 100 round trips of one byte between two processes. */
uint64_t bench_pipe(uint64_t n)
{
	int there[2], back[2], status;
	uint64_t sum = 0;
	uint8_t c = 0;
	pid_t child;

	must(!pipe(there) && !pipe(back), "pipe");
	child = fork();
	must(child >= 0, "fork");
	if (!child) {
		close(there[1]);
		while (read(there[0], &c, 1) == 1) {
			c++;
			if (write(back[1], &c, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	close(there[0]);
	for (n *= 100; n--;) {
		must(write(there[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "pipe");
		sum += c;
	}
	close(there[1]);
	must(waitpid(child, &status, 0) == child, "waitpid");
	close(back[0]);
	close(back[1]);
	return bench_fold(sum, (uint64_t)status);
}

/* One unit: one process that starts this program anew and ends. */
uint64_t bench_forkexec(uint64_t n)
{
	uint64_t sum = 0;

	while (n--) {
		int status;
		pid_t child = fork();

		must(child >= 0, "fork");
		if (!child) {
			execl("/proc/self/exe", "bench", "nothing", (char *)NULL);
			_exit(1);
		}
		must(waitpid(child, &status, 0) == child, "waitpid");
		sum += (uint64_t)WEXITSTATUS(status);
	}
	return sum;
}

/* One unit: one process with 1 MiB of its own, of which it writes an eighth, and ends. */
uint64_t bench_fork(uint64_t n)
{
	uint8_t *p = bench_alloc(1 << 20);
	uint64_t sum = 0;

	memset(p, 1, 1 << 20);
	while (n--) {
		int status;
		pid_t child = fork();

		must(child >= 0, "fork");
		if (!child) {
			for (int i = 0; i < 1 << 20; i += 8 * 4096)
				p[i]++;
			_exit(p[0] + p[1]);
		}
		must(waitpid(child, &status, 0) == child, "waitpid");
		sum += (uint64_t)WEXITSTATUS(status);
	}
	free(p);
	return sum;
}

/* One unit: 1024 pages touched for the first time. */
uint64_t bench_faults(uint64_t n)
{
	enum { SIZE = 4 << 20 };
	uint64_t sum = 0;

	while (n--) {
		uint8_t *p = mmap(
			NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		must(p != MAP_FAILED, "mmap");
		madvise(p, SIZE, MADV_NOHUGEPAGE);
		for (int i = 0; i < SIZE; i += 4096) {
			sum += p[i];
			p[i] = 1;
			sum += p[i];
		}
		munmap(p, SIZE);
	}
	return sum;
}

/* One unit: 10 mappings of 16 pages made, one page of each touched, and taken away. */
uint64_t bench_mmap(uint64_t n)
{
	uint64_t sum = 0;

	for (n *= 10; n--;) {
		uint8_t *p = mmap(
			NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		must(p != MAP_FAILED, "mmap");
		p[(n & 15) * 4096] = 3;
		sum += p[(n & 15) * 4096];
		must(!munmap(p, 65536), "munmap");
	}
	return sum;
}

/* One unit: 10 times four pages made read-only, read, made writable, written. */
uint64_t bench_mprotect(uint64_t n)
{
	uint8_t *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t sum = 0;

	must(p != MAP_FAILED, "mmap");
	for (n *= 10; n--;) {
		uint8_t *q = p + (n & 3) * 16384;

		q[0]++;
		must(!mprotect(q, 16384, PROT_READ), "mprotect");
		sum += q[0];
		must(!mprotect(q, 16384, PROT_READ | PROT_WRITE), "mprotect");
		q[4096]++;
	}
	munmap(p, 65536);
	return sum;
}

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
	caught += number == SIGUSR1 ? 1 : 100;
}

static uint8_t *volatile guarded;

static void on_fault(int number, siginfo_t *info, void *context)
{
	caught += (uint8_t *)info->si_addr == guarded;
	mprotect(guarded, 4096, PROT_READ | PROT_WRITE);
}

/* One unit: 20 signals that the process sends to itself, and one fault of memory that it handles. */
uint64_t bench_signals(uint64_t n)
{
	struct sigaction usr = {.sa_handler = on_signal}, old_usr, old_segv;
	struct sigaction segv = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	uint64_t sum = 0;
	uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(p != MAP_FAILED, "mmap");
	guarded = p;
	must(!sigaction(SIGUSR1, &usr, &old_usr) && !sigaction(SIGSEGV, &segv, &old_segv),
		"sigaction");
	while (n--) {
		caught = 0;
		for (int i = 0; i < 20; i++)
			raise(SIGUSR1);
		must(!mprotect(p, 4096, PROT_NONE), "mprotect");
		*(volatile uint8_t *)p = (uint8_t)n;
		sum += (uint64_t)caught + p[0];
	}
	sigaction(SIGUSR1, &old_usr, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	munmap(p, 4096);
	return sum;
}
