/*
 * jitcases.c: what is hard for a machine that translates its guest's code, from inside a Linux guest: code that changes, code at two addresses,
 * mappings that change under code that runs, signals in the middle of floating point, forks, and a compiler at work.
 *
 *	jitcases CASE...     each prints PASS or FAIL; SUCCESS at the end when all passed
 *	jitcases all [ROUNDS]
 *
 * Sources: RISC-V unprivileged specification ("Zifencei"), riscv_flush_icache(2), mprotect(2).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define RET 0x00008067u

typedef long fn_t(long);

static long rounds = 1; /* multiplies how long each case takes */

static _Noreturn void bad(const char *what, long a, long b)
{
	printf("  %s: %ld (%#lx), wanted %ld (%#lx)\n", what, a, (unsigned long)a, b,
		(unsigned long)b);
	fflush(stdout);
	_exit(1);
}

static void check(const char *what, long got, long want)
{
	if (got != want)
		bad(what, got, want);
}

static uint32_t addi(unsigned rd, unsigned rs, int imm)
{
	return 0x13 | rd << 7 | rs << 15 | (uint32_t)imm << 20;
}

static void *map_at(void *at, int prot, int flags, int fd, long off)
{
	void *p = mmap(at, PAGE, prot, flags, fd, off);

	if (p == MAP_FAILED)
		bad("mmap", errno, 0);
	return p;
}

static uint32_t *code_page(int prot)
{
	return map_at(NULL, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void flush(void *p, size_t n)
{
	__builtin___clear_cache((char *)p, (char *)p + n);
}

static void put_li(uint32_t *code, int v) /* a0 += v; return */
{
	code[0] = addi(10, 10, v);
	code[1] = RET;
}

/* ---- code that changes ---- */

/* A function is written, called until it is hot, written anew: all at one address, and in the middle of a loop. */
static void self_modifying(void)
{
	uint32_t *code = code_page(PROT_READ | PROT_WRITE | PROT_EXEC);
	fn_t *f = (fn_t *)code;

	for (long n = 0; n < 1000 * rounds; n++) {
		int v = (int)(n * 7 % 4000) - 2000;
		unsigned at = (unsigned)(n % 50);

		/* nops before it, so that blocks of all lengths change at all places */
		for (unsigned i = 0; i < at; i++)
			code[i] = addi(0, 0, 0);
		put_li(code + at, v);
		flush(code, PAGE);
		for (long k = 0; k < 20 + n % 60; k++)
			check("a new function", f(k), k + v);
	}
	/* A loop whose body its own iteration changes: store, fence.i, the changed instruction. */
	static const uint32_t loop[] = {
		0x00000297, /* auipc t0, 0 */
		0x00000313, /* li t1, 0: the sum */
		0x00000013, /* nop */
		0x0202ae83, /* lw t4, 32(t0): the instruction */
		0x010e8eb3, /* 16: add t4, t4, a6: its immediate grows by one */
		0x03d2a023, /* sw t4, 32(t0) */
		0x0000100f, /* fence.i */
		0x00000013, /* nop */
		0x00130313, /* 32: addi t1, t1, 1 */
		0xfff50513, /* addi a0, a0, -1 */
		0xfe0514e3, /* bnez a0, to 16 */
		0x00030513, /* mv a0, t1 */
		RET,
	};
	memcpy(code, loop, sizeof(loop));
	flush(code, PAGE);
	register long a0 __asm__("a0") = 1500; /* the immediate grows by one each time */
	register long a6 __asm__("a6") = 1 << 20;
	register long t2 __asm__("t2") = (long)code;
	__asm__ volatile("jalr ra, 0(%2)"
			 : "+r"(a0)
			 : "r"(a6), "r"(t2)
			 : "ra", "t0", "t1", "t3", "t4", "memory");
	check("a loop that changes itself", a0, 1500l * 1501 / 2 + 1500);
}

static _Atomic long version;
static _Atomic int stop;
static uint32_t *shared;

static void *caller(void *arg)
{
	fn_t *f = (fn_t *)shared;
	long calls = 0;

	while (!stop) {
		long before = version, got, after;

		got = f(0);
		after = version;
		/* Whoever saw a version published runs that code or newer. */
		if (got < before || got > after + 1)
			bad("code from the other thread", got, before);
		calls++;
	}
	return (void *)calls;
}

/* One thread changes an instruction that others run. */
static void cross_modifying(void)
{
	pthread_t t[3];

	shared = code_page(PROT_READ | PROT_WRITE | PROT_EXEC);
	put_li(shared, 0);
	flush(shared, 8);
	version = 0;
	stop = 0;
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, caller, NULL);
	for (long v = 1; v < 300 * MIN(rounds, 6); v++) {
		__atomic_store_n(&shared[0], addi(10, 10, (int)v), __ATOMIC_RELEASE);
		flush(shared, 8); /* all threads: the kernel interrupts other harts */
		version = v;
		if (v % 100 == 0)
			usleep(1000);
	}
	stop = 1;
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	munmap(shared, PAGE);
}

/* One page of code at three addresses, changed through the fourth. */
static void two_addresses(void)
{
	int fd = memfd_create("code", 0);
	uint32_t *w, *x[3];

	if (ftruncate(fd, PAGE))
		bad("ftruncate", errno, 0);
	w = map_at(NULL, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (int i = 0; i < 3; i++)
		x[i] = map_at(NULL, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	for (long n = 0; n < 3000 * rounds; n++) {
		unsigned at = (unsigned)(n % 7) * 16;

		put_li(w + at, (int)(n % 2000));
		flush(w, PAGE);
		for (long k = 0; k < 60; k++)
			check("at one of three addresses", ((fn_t *)(x[k % 3] + at))(k),
				k + n % 2000);
	}
	/* pc-relative: the same code knows where it runs. */
	w[0] = 0x00000517; /* auipc a0, 0 */
	w[1] = RET;
	flush(w, PAGE);
	for (long k = 0; k < 3000; k++)
		check("auipc", ((fn_t *)x[k % 3])(0), (long)x[k % 3]);
	close(fd);
}

/* ---- mappings that change ---- */

static sigjmp_buf back;
static volatile sig_atomic_t faults;
static void *volatile fault_addr, *volatile fault_pc;
static void *volatile repair_page;

static void on_segv(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;

	faults++;
	fault_addr = si->si_addr;
	fault_pc = (void *)uc->uc_mcontext.__gregs[REG_PC];
	if (repair_page) {
		if (mprotect(repair_page, PAGE, PROT_READ | PROT_EXEC))
			bad("mprotect in the handler", errno, 0);
		return;
	}
	siglongjmp(back, 1);
}

static void catch_segv(void)
{
	struct sigaction sa = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	faults = 0;
	repair_page = NULL;
}

static void must_fault(fn_t *f, void *at)
{
	long before = faults;

	if (!sigsetjmp(back, 1)) {
		f(1);
		bad("code that is gone ran", 0, 1);
	}
	check("one fault", faults - before, 1);
	check("fault at the code", (long)fault_pc, (long)at);
	check("fault address", (long)fault_addr, (long)at);
}

/* 10^5 flips of the protection of a page of hot code. */
static void mprotect_flips(void)
{
	uint32_t *code = code_page(PROT_READ | PROT_WRITE | PROT_EXEC);
	fn_t *f = (fn_t *)code;
	long sum = 0, want = 0;

	catch_segv();
	put_li(code, 3);
	flush(code, 8);
	repair_page = code;
	for (long n = 0; n < 50000 * rounds; n++) {
		for (long k = 0; k < n % 3; k++) {
			sum += f(k);
			want += k + 3;
		}
		switch (n % 50 ? 0 : n / 50 % 3 + 1) {
		case 1: /* execution refused: the handler allows it again */
			mprotect(code, PAGE, PROT_READ);
			sum += f(n);
			want += n + 3;
			check("faults", faults, n / 150 + 1);
			break;
		case 2: /* new code while it may be written */
			mprotect(code, PAGE, PROT_READ | PROT_WRITE);
			put_li(code, 3);
			flush(code, 8);
			mprotect(code, PAGE, PROT_READ | PROT_EXEC);
			break;
		default:
			mprotect(code, PAGE,
				n & 1 ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE | PROT_EXEC);
			mprotect(code, PAGE, PROT_READ | PROT_EXEC);
			break;
		}
	}
	check("sum over flips", sum, want);
	repair_page = NULL;
	mprotect(code, PAGE, PROT_NONE);
	must_fault(f, code);
	munmap(code, PAGE);
}

/* Other pages under one address, without a store to code and without a flush by the program. */
static void remaps(void)
{
	int fd = memfd_create("code", 0);
	uint32_t *w, *x;

	if (ftruncate(fd, 2 * PAGE))
		bad("ftruncate", errno, 0);
	for (long i = 0; i < 2; i++) {
		w = map_at(NULL, PROT_READ | PROT_WRITE, MAP_SHARED, fd, i * (long)PAGE);
		put_li(w, (int)i + 1);
		flush(w, 8);
		munmap(w, PAGE);
	}
	catch_segv();
	x = map_at(NULL, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	for (long n = 0; n < 5000 * rounds; n++) {
		long which = n * 7 / 5 % 2;

		map_at(x, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, which * (long)PAGE);
		for (long k = 0; k < 1 + n % 30; k++)
			check("the page that is mapped", ((fn_t *)x)(k), k + which + 1);
		if (n % 10 == 0) {
			munmap(x, PAGE);
			must_fault((fn_t *)x, x);
		}
		if (n % 10 == 5) {
			/* The same memory moves away and back. */
			void *to = map_at(NULL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			if (mremap(x, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
				bad("mremap", errno, 0);
			check("where it moved to", ((fn_t *)to)(5), 5 + which + 1);
			must_fault((fn_t *)x, x);
			if (mremap(to, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, x) != x)
				bad("mremap back", errno, 0);
			must_fault((fn_t *)to, to);
		}
	}
	close(fd);
}

/* Code that takes its own page away: the next instruction is not executed. */
static void unmap_self(void)
{
	catch_segv();
	for (long n = 0; n < 500 * rounds; n++) {
		uint32_t *code = code_page(PROT_READ | PROT_WRITE | PROT_EXEC);
		long before = faults;
		register long a0 __asm__("a0"), a1 __asm__("a1"), a2 __asm__("a2"),
			a7 __asm__("a7"), t2 __asm__("t2");

		code[0] = 0x00000073; /* ecall: munmap or mprotect */
		code[1] = addi(10, 0, 77);
		code[2] = RET;
		flush(code, 12);
		/* Hot first: with a call that changes nothing. */
		for (int k = 0; k < 20; k++) {
			a0 = 0;
			a1 = 0;
			a2 = 0;
			a7 = SYS_getpid;
			t2 = (long)code;
			__asm__ volatile("jalr ra, 0(%1)"
					 : "+r"(a0)
					 : "r"(t2), "r"(a7), "r"(a1), "r"(a2)
					 : "ra", "memory");
			check("hot", a0, 77);
		}
		if (!sigsetjmp(back, 1)) {
			a0 = (long)code;
			a1 = PAGE;
			a2 = PROT_READ;
			a7 = n & 1 ? SYS_munmap : SYS_mprotect;
			t2 = (long)code;
			__asm__ volatile("jalr ra, 0(%1)"
					 : "+r"(a0)
					 : "r"(t2), "r"(a7), "r"(a1), "r"(a2)
					 : "ra", "memory");
			bad("code behind its own end ran", 0, 1);
		}
		check("one fault", faults - before, 1);
		check("at the next instruction", (long)fault_pc, (long)(code + 1));
		munmap(code, PAGE);
	}
}

/* ---- floating point and signals ---- */

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	/* Everything that FP code could hold is spoilt; the kernel gives it back. */
	static const double many[4] = {1e300, -0.0, 3.5, 1e-320};

	alarms++;
	__asm__ volatile(
		"fsrmi 3\n\tfsflagsi 31\n\t"
		"fld ft0, 0(%0)\n\tfld ft1, 8(%0)\n\tfld ft2, 16(%0)\n\tfld ft3, 24(%0)\n\t"
		"fmul.d ft4, ft0, ft0\n\tfdiv.d ft5, ft0, ft1\n\tfsqrt.d ft6, ft2\n\tfadd.d ft7, "
		"ft3, ft3\n\t"
		"fmv.d fa0, ft0\n\tfmv.d fa1, ft1\n\tfmv.d fa2, ft2\n\tfmv.d fa3, ft3\n\tfmv.d "
		"fa4, ft4\n\t"
		"fmv.d fa5, ft5\n\tfmv.d fa6, ft6\n\tfmv.d fa7, ft7\n\tfmv.d ft8, ft0\n\tfmv.d "
		"ft9, ft1\n\t"
		"fmv.d ft10, ft2\n\tfmv.d ft11, ft3" ::"r"(many)
		: "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "ft8", "ft9", "ft10",
		"ft11", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5", "fa6", "fa7", "memory");
}

struct fp_result {
	double v[6];
	unsigned flags, frm;
};

/* The same computation in a rounding mode of its own; nothing of it goes through memory for long. */
static void fp_work(struct fp_result *r, int mode, long n)
{
	double a = 1.0, b = 0.3, c = 1e-3, d = 7.0;
	float s = 1.5f, t = 0.1f;

	__asm__ volatile("fsrm %0\n\tfsflagsi 0" ::"r"(mode));
	for (long i = 0; i < n; i++) {
		__asm__ volatile("fmadd.d %0, %0, %1, %2\n\tfdiv.d %1, %2, %3\n\tfadd.d %2, %2, "
				 "%1\n\tfsub.d %3, %3, %1\n\t"
				 "fmul.s %4, %4, %5\n\tfmadd.s %5, %4, %5, %5\n\tfsgnj.s %4, %5, "
				 "%4\n\tfmax.d %3, %3, %2\n\tfnmsub.d %0, %0, %1, %3"
				 : "+f"(a), "+f"(b), "+f"(c), "+f"(d), "+f"(s), "+f"(t));
	}
	__asm__ volatile("frflags %0\n\tfrrm %1\n\tfsrmi 0"
			 : "=r"(r->flags), "=r"(r->frm)::"memory");
	r->v[0] = a;
	r->v[1] = b;
	r->v[2] = c;
	r->v[3] = d;
	r->v[4] = (double)s;
	r->v[5] = (double)t;
}

static void fp_signals(void)
{
	struct itimerval on = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};

	sigaction(SIGALRM, &sa, NULL);
	for (int mode = 0; mode < 5; mode++) {
		struct fp_result quiet, loud;

		memset(&quiet, 0, sizeof(quiet));
		memset(&loud, 0, sizeof(loud));
		fp_work(&quiet, mode, 20000);
		alarms = 0;
		setitimer(ITIMER_REAL, &on, NULL);
		for (long n = 0; n < 30 * rounds || alarms < 20; n++) {
			fp_work(&loud, mode, 20000);
			if (memcmp(&quiet, &loud, sizeof(quiet)))
				bad("floating point with signals, mode", mode, n);
		}
		setitimer(ITIMER_REAL, &off, NULL);
		check("the rounding mode", (long)loud.frm, mode);
		check("inexact", loud.flags & 1, 1);
	}
}

/* ---- processes ---- */

static void wait_for(pid_t pid, int want)
{
	int st;

	if (waitpid(pid, &st, 0) != pid)
		bad("waitpid", errno, 0);
	check("exit code", WIFEXITED(st) ? WEXITSTATUS(st) : 1000 + WTERMSIG(st), want);
}

/* Children change code that they share with their parent until they write it. */
static void forks(void)
{
	uint32_t *code = code_page(PROT_READ | PROT_WRITE | PROT_EXEC);
	fn_t *f = (fn_t *)code;

	put_li(code, 1);
	flush(code, 8);
	for (long n = 0; n < 60 * rounds; n++) {
		pid_t pid[4];

		for (int k = 0; k < 4; k++) {
			pid[k] = fork();
			if (pid[k])
				continue;
			for (int i = 0; i < 50; i++)
				check("as the parent left it", f(i), i + (n ? (n - 1) % 100 : 1));
			put_li(code, 100 + k);
			flush(code, 8);
			for (int i = 0; i < 50; i++)
				check("of the child", f(i), i + 100 + k);
			_exit(k + 3);
		}
		for (int i = 0; i < 20; i++)
			check("of the parent", f(i), i + (n ? (n - 1) % 100 : 1));
		for (int k = 0; k < 4; k++)
			wait_for(pid[k], k + 3);
		put_li(code, (int)(n % 100));
		flush(code, 8);
		check("changed by the parent", f(0), n % 100);
	}
}

static void execs(void)
{
	for (long n = 0; n < 100 * rounds; n++) {
		pid_t pid = fork();
		char arg[16];

		snprintf(arg, sizeof(arg), "%ld", n % 50);
		if (!pid) {
			execl("/proc/self/exe", "jitcases", "exit", arg, NULL);
			_exit(127);
		}
		wait_for(pid, (int)(n % 50));
	}
}

/* ---- a compiler ---- */

/* A small stack machine, interpreted and compiled; both must give the same. */
enum { PUSH, ADD, SUB, MUL, XOR, SHL, LT, SWAP, DUP, LOOP, OPS };

struct vm_insn {
	uint8_t op;
	int16_t v;
};

static uint64_t rng_step(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	return z ^ z >> 31;
}

/* No stack ever: two registers, a and b. */
static long interpret(const struct vm_insn *p, unsigned n, long a, long b)
{
	long count = 0;

	for (unsigned i = 0; i < n; i++) {
		long t;

		switch (p[i].op) {
		case PUSH:
			b = a;
			a = p[i].v;
			break;
		case ADD:
			a = (long)((unsigned long)a + (unsigned long)b);
			break;
		case SUB:
			a = (long)((unsigned long)a - (unsigned long)b);
			break;
		case MUL:
			a = (long)((unsigned long)a * (unsigned long)b);
			break;
		case XOR:
			a ^= b;
			break;
		case SHL:
			a = (long)((unsigned long)a << (p[i].v & 63));
			break;
		case LT:
			a = a < b;
			break;
		case SWAP:
			t = a;
			a = b;
			b = t;
			break;
		case DUP:
			b = a;
			break;
		default: /* back by v instructions, 12 times in all */
			if (count++ < 12)
				i -= (unsigned)p[i].v;
			else
				count = 0;
			break;
		}
	}
	return a ^ b;
}

/* a in a0, b in a1, count in t0 */
static unsigned compile(uint32_t *out, const struct vm_insn *p, unsigned n)
{
	static const uint32_t reg[] = {[ADD] = 0x00b50533,
		[SUB] = 0x40b50533,
		[MUL] = 0x02b50533,
		[XOR] = 0x00b54533,
		[LT] = 0x00b52533};
	unsigned at[256], w = 0;

	out[w++] = addi(5, 0, 0);
	out[w++] = addi(6, 0, 12);
	for (unsigned i = 0; i < n; i++) {
		at[i] = w;
		switch (p[i].op) {
		case PUSH:
			out[w++] = addi(11, 10, 0);
			out[w++] = addi(10, 0, p[i].v);
			break;
		case SHL:
			out[w++] = 0x00051513 | (uint32_t)(p[i].v & 63) << 20;
			break;
		case SWAP:
			out[w++] = addi(7, 10, 0);
			out[w++] = addi(10, 11, 0);
			out[w++] = addi(11, 7, 0);
			break;
		case DUP:
			out[w++] = addi(11, 10, 0);
			break;
		case LOOP: {
			int off = ((int)at[i - (unsigned)p[i].v + 1] - (int)(w + 2)) * 4;
			uint32_t u = (uint32_t)off;

			out[w++] = 0x0062d663; /* bge t0, t1, +12 */
			out[w++] = addi(5, 5, 1);
			out[w++] = 0x6f | (u >> 12 & 255) << 12 | (u >> 11 & 1) << 20 |
				   (u >> 1 & 1023) << 21 | (u >> 20 & 1) << 31;
			/* reached by the bge: +12 */
			out[w++] = addi(0, 0, 0);
			break;
		}
		default:
			out[w++] = reg[p[i].op];
			break;
		}
	}
	out[w++] = 0x00b54533; /* xor a0, a0, a1 */
	out[w++] = RET;
	return w;
}

static void compiler_at(uint64_t seed, long programs)
{
	uint32_t *code = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned at = 0;

	for (long k = 0; k < programs; k++) {
		struct vm_insn p[100];
		unsigned n = 10 + rng_step(&seed) % 90, words;
		bool looped = false;
		long (*f)(long, long);

		for (unsigned i = 0; i < n; i++) {
			p[i].op = (uint8_t)(rng_step(&seed) % OPS);
			p[i].v = (int16_t)(rng_step(&seed) % 4000 - 2000);
			/* One loop a program: its count is in a register. */
			if (p[i].op == LOOP && (looped || i < 3))
				p[i].op = ADD;
			if (p[i].op == LOOP) {
				looped = true;
				p[i].v = (int16_t)(2 + rng_step(&seed) % (i - 1));
			}
		}
		/* Code buffers are filled round about, as compilers do. */
		if (at + 420 > 16 * PAGE / 4)
			at = 0;
		words = compile(code + at, p, n);
		flush(code + at, words * 4ul);
		f = (long (*)(long, long))(code + at);
		for (long i = 0; i < 1 + (k % 4 ? 3 : 40); i++) {
			long a = (long)rng_step(&seed), b = (long)rng_step(&seed);

			check("compiled and interpreted", f(a, b), interpret(p, n, a, b));
		}
		at += words + (unsigned)(k % 3);
	}
	munmap(code, 16 * PAGE);
}

static void compiler(void)
{
	compiler_at(1, 1000 * rounds);
}

static void *compiler_thread(void *arg)
{
	compiler_at((uint64_t)(uintptr_t)arg * 77 + 5, 250 * rounds);
	return NULL;
}

static void compilers(void)
{
	pthread_t t[4];

	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, compiler_thread, (void *)i);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
}

/* ---- */

static const struct {
	const char *name;
	void (*fn)(void);
} cases[] = {{"self-modifying", self_modifying}, {"cross-modifying", cross_modifying},
	{"two-addresses", two_addresses}, {"mprotect-flips", mprotect_flips}, {"remaps", remaps},
	{"unmap-self", unmap_self}, {"fp-signals", fp_signals}, {"forks", forks}, {"execs", execs},
	{"compiler", compiler}, {"compilers", compilers}};

/* Each in a process of its own: one that hangs or dies leaves the others. */
static int run(const char *name, void (*fn)(void))
{
	struct timeval t0, t1;
	pid_t pid;
	int st;

	gettimeofday(&t0, NULL);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(200);
		fn();
		_exit(0);
	}
	waitpid(pid, &st, 0);
	gettimeofday(&t1, NULL);
	printf("%s %s %ld ms%s\n", st ? "FAIL" : "PASS", name,
		(t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_usec - t0.tv_usec) / 1000,
		WIFSIGNALED(st) ? " (killed by a signal)" : "");
	fflush(stdout);
	return st != 0;
}

int main(int argc, char **argv)
{
	int failed = 0, ran = 0;

	if (argc == 3 && !strcmp(argv[1], "exit"))
		return atoi(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "all"))
		rounds = atol(argv[2]);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool wanted = argc > 1 && !strcmp(argv[1], "all");

		for (int a = 1; a < argc; a++)
			wanted |= !strcmp(argv[a], cases[i].name);
		if (!wanted)
			continue;
		ran++;
		failed += run(cases[i].name, cases[i].fn);
	}
	printf(ran && !failed ? "SUCCESS\n" : "FAILURE\n");
	return ran && !failed ? 0 : 1;
}
