/*
 * lockstep: two machines run the same program, A translated and B interpreted, and are compared every few instructions.
 *
 *	lockstep --elf FILE | --kernel FILE [--initrd FILE] [--append TEXT] | --random MONITOR
 *		[--insns N] [--seed S] [--programs P] [--check-every N] [--memory-every N] [--ram MIB]
 *		[--tiers 1|2|thread] [--self] [--inject N] [--show] [--until TEXT] [--cache MIB]
 *
 * Slices are 1 to --check-every instructions long, as the seed says; after each all registers are compared, after each --memory-every
 * of them, and at the end, all memory. On a difference the run is made again to find the shortest slice that shows it, and
 * the last instructions of that slice are shown. Ends with 1 when a difference was found.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/rv64/disasm.h"
#include "cpu/rv64/jit/jit.h"
#include "program.h"

struct run {
	struct program program;
	uint64_t insns, seed, check_every, memory_every;
	uint64_t inject; /* A is spoilt at this instruction: a test of the test */
	bool self; /* A is interpreted, too */
	const char *until;
};

struct pair {
	struct side *a, *b;
	uint64_t rng, done, slices;
	bool injected;
};

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static struct pair *pair_new(const struct run *r)
{
	struct pair *p = calloc(1, sizeof(*p));
	struct side_opts o = r->program.side;

	o.interp = r->self;
	p->a = side_new(&o);
	o.interp = true;
	o.show = false;
	p->b = side_new(&o);
	program_load(&r->program, p->a);
	program_load(&r->program, p->b);
	p->rng = r->seed;
	return p;
}

static void pair_free(struct pair *p)
{
	side_free(p->a);
	side_free(p->b);
	free(p);
}

/* Short slices find more about edges, long ones let translated code run. */
static uint64_t slice_length(const struct run *r, struct pair *p)
{
	uint64_t v = next_random(&p->rng), top = r->check_every;

	if (v % 8 == 0)
		top = MIN(top, 64ull);
	return 1 + (v >> 8) % top;
}

static void run_a(const struct run *r, struct pair *p, uint64_t to)
{
	side_run(p->a, to);
	if (r->inject && !p->injected && side_insns(p->a) >= r->inject) {
		p->a->h->x[18] ^= 1ull << 40;
		p->injected = true;
	}
}

static bool same_registers(const struct pair *p)
{
	struct regs a, b;

	regs_of(p->a, &a);
	regs_of(p->b, &b);
	return !memcmp(&a, &b, sizeof(a)) && p->a->over == p->b->over && p->a->code == p->b->code &&
	       p->a->printed == p->b->printed;
}

static bool same(const struct pair *p, bool memory)
{
	return same_registers(p) && (!memory || !ram_diff(p->a, p->b));
}

/* Runs on to slice `stop`, which it does not run. False: they differ behind slice p->slices - 1. */
static bool run_to(const struct run *r, struct pair *p, uint64_t stop)
{
	while (p->slices < stop && p->done < r->insns && !p->a->over) {
		bool memory = r->memory_every && (p->slices + 1) % r->memory_every == 0;

		p->done += slice_length(r, p);
		run_a(r, p, p->done);
		side_run(p->b, p->done);
		p->slices++;
		if (!same(p, memory))
			return false;
		if (r->until && p->slices % 1024 == 0 && strstr(p->a->out, r->until))
			break;
	}
	return same(p, p->slices < stop);
}

/* ---- a difference ---- */

static void show_insn(const struct side *s, const struct rv64_decoder *d, uint64_t insns)
{
	uint32_t word = 0;
	gpa_t pa;
	char text[64];

	for (unsigned i = 0; i < 2; i++) {
		uint16_t half;

		if (mmu_probe(s->h, s->h->pc + 2 * i, MEM_EXEC, &pa) ||
			space_load16(s->space, pa, &half))
			break;
		word |= (uint32_t)half << 16 * i;
	}
	if (rv64_disasm(d, word, s->h->pc, text, sizeof(text)) == 2)
		word &= 0xffff;
	printf("    %12llu  %c %016llx  %08x  %s\n", (unsigned long long)insns, "US?M"[s->h->priv],
		(unsigned long long)s -> h -> pc, word, text);
}

/* Both to the beginning of the slice, then A at once and B by single steps, the last of them shown. */
static void show(const struct run *r, uint64_t slice, uint64_t len)
{
	struct pair *p = pair_new(r);
	struct rv64_decoder d;
	struct regs a, b, before;
	uint64_t from, at;

	p->a->o.show = false;
	rv64_decoder_init(&d, RV64_EXT_ALL);
	run_to(r, p, slice);
	from = p->done;
	regs_of(p->b, &before);
	printf("  slice %llu: instructions %llu to %llu; B's last instructions:\n",
		(unsigned long long)slice, (unsigned long long)from,
		(unsigned long long)(from + len));
	for (uint64_t n = 0; n < len && !p->b->over; n++) {
		if (n + 200 >= len)
			show_insn(p->b, &d, from + n);
		side_run(p->b, from + n + 1);
		p->b->hold = true;
	}
	run_a(r, p, from + len);
	regs_of(p->a, &a);
	regs_of(p->b, &b);
	printf("  differences at its end:\n");
	regs_diff(&a, &b, &before);
	if (p->a->over != p->b->over || p->a->code != p->b->code)
		printf("    A: %s (%#llx)  B: %s (%#llx)\n", p->a->over ? p->a->why : "goes on",
			(unsigned long long)p->a->code, p->b->over ? p->b->why : "goes on",
			(unsigned long long)p->b->code);
	at = ram_diff(p->a, p->b);
	if (at) {
		uint64_t va = 0, vb = 0;

		space_read(p->a->space, gpa(at & ~7ull), &va, 8);
		space_read(p->b->space, gpa(at & ~7ull), &vb, 8);
		printf("    memory %#llx  A %#018llx  B %#018llx\n",
			(unsigned long long)(at & ~7ull), (unsigned long long)va,
			(unsigned long long)vb);
	}
	pair_free(p);
}

/*
 * Does the slice differ when it is only so long, or, with len 0, the machines before it? All memory is compared. *full: the
 * slice's own length.
 */
static bool differs(const struct run *r, uint64_t slice, uint64_t len, uint64_t *full)
{
	struct pair *p = pair_new(r);
	bool bad;

	p->a->o.show = false;
	bad = !run_to(r, p, slice) || !same(p, true);
	if (!bad && len) {
		run_a(r, p, p->done + len);
		side_run(p->b, p->done + len);
		bad = !same(p, true);
	}
	*full = slice_length(r, p);
	pair_free(p);
	return bad;
}

/*
 * Halving keeps two things true: the machines are the same at `lo` and not at `hi`. So what it finds is where a difference
 * begins, even if another came and went before, or one in memory was there long before a register showed it.
 */
static void explain(struct run *r, struct pair *p)
{
	uint64_t lo = 0, hi = p->slices, len;
	struct run q = *r;

	printf("DIFFERENT: seed %llu, after %llu instructions\n", (unsigned long long)r->seed,
		(unsigned long long)p->done);
	fflush(stdout);
	q.until = NULL;
	q.memory_every = 0;
	if (differs(&q, 0, 0, &len) || !differs(&q, hi, 0, &len)) {
		printf("  a second run does not differ there: not deterministic\n");
		return;
	}
	while (hi - lo > 1) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (differs(&q, mid, 0, &len))
			hi = mid;
		else
			lo = mid;
	}
	differs(&q, lo, 0, &len);
	for (uint64_t same_at = 0, mid; len - same_at > 1;) {
		mid = same_at + (len - same_at) / 2;
		if (differs(&q, lo, mid, &(uint64_t){0}))
			len = mid;
		else
			same_at = mid;
	}
	show(&q, lo, len);
}

static void counter(void *ctx, const char *name, uint64_t value)
{
	uint64_t *left = ctx;

	if (!strcmp(name, "leaves"))
		*left = value;
}

static void print_counter(void *ctx, const char *name, uint64_t value)
{
	printf("  A: %s %llu\n", name, (unsigned long long)value);
}

/* A test in which nothing was translated would show nothing. */
static bool translated(const struct run *r, const struct pair *p)
{
	struct rv64_vm *vm = (struct rv64_vm *)p->a->vm;
	uint64_t left = 0;

	if (r->self || !vm->jit)
		return true;
	if (!r->program.random)
		jit_counters(vm->jit, print_counter, NULL);
	jit_counters(vm->jit, counter, &left);
	return left;
}

static int run(struct run *r, uint64_t *total)
{
	struct pair *p = pair_new(r);
	bool good = run_to(r, p, UINT64_MAX);

	*total += side_insns(p->b);
	if (!translated(r, p)) {
		printf("A has translated nothing\n");
		good = false;
	} else if (r->program.random && p->b->over) {
		printf("seed %llu: a program that should never end: %s\n%.600s\n",
			(unsigned long long)r->seed, p->b->why, p->b->out);
		good = false;
	} else if (!good) {
		explain(r, p);
	} else if (!r->program.random) {
		printf("%llu instructions, %llu comparisons, the same; %s%s\n",
			(unsigned long long)side_insns(p->b), (unsigned long long)p->slices,
			p->a->over ? "it ended: " : "it runs on", p->a->over ? p->a->why : "");
		if (r->until && !strstr(p->a->out, r->until)) {
			printf("the text \"%s\" did not come\n", r->until);
			good = false;
		}
	}
	pair_free(p);
	return good ? 0 : 1;
}

static void usage(void)
{
	fprintf(stderr, "usage: lockstep --elf FILE | --kernel FILE [--initrd FILE] [--append "
			"TEXT] | --random MONITOR, see main.c\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"elf", 1, NULL, 'e'}, {"kernel", 1, NULL, 'k'},
		{"initrd", 1, NULL, 'i'}, {"append", 1, NULL, 'a'}, {"random", 1, NULL, 'r'},
		{"insns", 1, NULL, 'n'}, {"seed", 1, NULL, 's'}, {"programs", 1, NULL, 'p'},
		{"check-every", 1, NULL, 'c'}, {"memory-every", 1, NULL, 'm'},
		{"ram", 1, NULL, 'R'}, {"self", 0, NULL, 'S'}, {"inject", 1, NULL, 'I'},
		{"show", 0, NULL, 'v'}, {"until", 1, NULL, 'u'}, {"cache", 1, NULL, 'C'},
		{"tiers", 1, NULL, 'T'}, {0}};
	struct run r = {.insns = 10000000, .seed = 1, .check_every = 5000};
	uint64_t programs = 1, total = 0;
	struct timespec t0, t1;
	int c, rc = 0;

	r.program.side.ram = 128 << 20;
	r.program.side.tiers = CPU_TIERS_AT_ONCE;
	r.program.append = "earlycon=sbi console=ttyS0";
	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		uint64_t v = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (c) {
		case 'e':
			r.program.elf = optarg;
			break;
		case 'k':
			r.program.kernel = optarg;
			break;
		case 'i':
			r.program.initrd = optarg;
			break;
		case 'a':
			r.program.append = optarg;
			break;
		case 'r':
			r.program.random = true;
			r.program.elf = optarg;
			break;
		case 'n':
			r.insns = v;
			break;
		case 's':
			r.seed = v;
			break;
		case 'p':
			programs = v;
			break;
		case 'c':
			r.check_every = v ?: 1;
			break;
		case 'm':
			r.memory_every = v;
			break;
		case 'R':
			r.program.side.ram = v << 20;
			break;
		case 'S':
			r.self = true;
			break;
		case 'I':
			r.inject = v;
			break;
		case 'v':
			r.program.side.show = true;
			break;
		case 'C':
			r.program.side.cache = v << 20;
			break;
		case 'T':
			r.program.side.tiers = !strcmp(optarg, "thread") ? CPU_TIERS_ALL
					       : v == 1			 ? CPU_TIERS_FIRST
									 : CPU_TIERS_AT_ONCE;
			break;
		case 'u':
			r.until = optarg;
			break;
		default:
			usage();
		}
	}
	if (!r.program.elf + !r.program.kernel != 1)
		usage();
	r.program.side.builtin_firmware = r.program.kernel;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (uint64_t n = 0; n < programs && !rc; n++, r.seed++) {
		r.program.seed = r.seed;
		rc = run(&r, &total);
	}
	clock_gettime(CLOCK_MONOTONIC, &t1);
	printf("%s: %llu instructions on both sides, %.1f s\n", rc ? "FAIL" : "SUCCESS",
		(unsigned long long)total,
		(double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9);
	return rc;
}
