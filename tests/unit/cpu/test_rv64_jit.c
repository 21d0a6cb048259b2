/*
 * What the translator makes, and when: cold code that would keep a hart from its timers, code that was hot before it was removed, what a line
 * branches to, memory that is never writable and executable at one address, and names for perf.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "bare.h"
#include "cpu/rv64/jit/inside.h"

#define LONG (RAM + 0x10000) /* straight code */
#define LONG_INSNS 8000u
#define NEAR_FN (CODE + 0x400) /* in the page of CODE */
#define FAR_FN (RAM + 0x5000) /* in another */
#define ADD_ONE 0x00128293u /* addi t0, t0, 1 */

static struct jit *jit_of(struct bare *b)
{
	return ((struct rv64_vm *)b->vm)->jit;
}

/* NULL, and said why: this host interprets. */
static struct bare *translating(void)
{
	struct bare *b = bare_new(1, false);

	if (jit_of(b))
		return b;
	bare_free(b);
	print_message("SKIP: this host is no x86-64-v3\n");
	skip();
	return NULL;
}

static uint32_t jal(unsigned rd, uint64_t from, uint64_t to)
{
	uint32_t d = (uint32_t)(to - from);

	return 0x6f | rd << 7 | (d >> 20 & 1) << 31 | (d >> 1 & 0x3ff) << 21 | (d >> 11 & 1) << 20 |
	       (d >> 12 & 0xff) << 12;
}

/* Whatever a slice was to be, a budget that is over is seen after a few cold blocks, or once something was translated. */
static void cold_code_ends_a_slice(void **state)
{
	struct bare *b = translating();
	struct jit *j = jit_of(b);
	uint64_t end = LONG + 4 * LONG_INSNS;
	struct cpu_exit x;

	for (uint64_t at = LONG; at < end; at += 4)
		bare_put(b, at, ADD_ONE);
	bare_put(b, end, jal(0, end, LONG));
	b->h->pc = LONG;
	for (unsigned i = 0; j->st.insns < LONG_INSNS && i < 100000; i++) {
		uint64_t insns = j->st.insns, cold = b->h->j.cold_blocks;

		b->h->slice = 65536; /* as after a loop in registers */
		rv64_engine.vcpu_run(b->v[0], 2000, &x);
		assert_int_equal(x.reason, CPU_EXIT_BUDGET);
		assert_true(j->st.insns - insns <= 2 * JIT_PASS_INSNS);
		assert_true(b->h->j.cold_blocks - cold <= 100);
	}
	assert_true(j->st.insns >= LONG_INSNS);
	bare_free(b);
}

/* ---- what was hot ---- */

static void count(void *ctx, const char *name, uint64_t value)
{
	uint64_t *asked = ctx;

	if (!strcmp(name, "hot_asked"))
		*asked = value;
}

static uint64_t asked(struct jit *j)
{
	uint64_t n = 0;

	jit_counters(j, count, &n);
	return n;
}

/* Samples at CODE until the second tier is asked for. */
static unsigned samples(struct bare *b)
{
	uint64_t before = asked(jit_of(b));
	unsigned n = 0;

	while (asked(jit_of(b)) == before && n < 1000) {
		b->h->pc = CODE;
		jit_sample(b->h);
		n++;
	}
	return n;
}

/* So many turns of the loop at CODE. Has it been translated? */
static bool turns(struct bare *b, uint64_t n)
{
	b->h->x[9] = n;
	b->h->pc = CODE;
	rv64_set_priv(b->h, PRIV_M);
	assert_int_equal(bare_trap(b), 11);
	return jit_find(jit_of(b), CODE, 0);
}

static struct bare *counting_down(void)
{
	static const uint32_t code[] = {
		0xfff48493, /* addi s1, s1, -1 */
		0xfe049ee3, /* bnez s1, back */
		ECALL,
	};
	struct bare *b = translating();

	for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
		bare_put(b, CODE + 4 * i, code[i]);
	return b;
}

/* New code takes a dozen turns and some samples; what was removed comes back with the first of each. */
static void hotness_outlives_the_code(void **state)
{
	struct bare *b = counting_down();
	struct jit *j = jit_of(b);
	struct cpu_exit x;
	uint64_t list[4];
	bool second = false;

	assert_false(turns(b, 2));
	assert_true(turns(b, 100));
	assert_in_range(samples(b), 4, 10);
	b->h->x[9] = UINT64_MAX;
	for (unsigned i = 0; !second && i < 100000; i++) {
		b->h->pc = CODE;
		rv64_engine.vcpu_run(b->v[0], 1000000, &x);
		second = jit_hot_list(j, list, ARRAY_SIZE(list)) && list[0] >> 63;
	}
	assert_true(second);
	jit_drop(j, CODE & ~(uint64_t)PAGE_MASK, PAGE_SIZE);
	assert_null(jit_find(j, CODE, 0));
	assert_int_equal(jit_hot_list(j, list, ARRAY_SIZE(list)), 0);
	assert_true(turns(b, 2));
	assert_in_range(samples(b), 1, 2); /* two: what was on its way had to be refused */
	bare_free(b);
}

/* ---- sites ---- */

/* Runs a while. The region of CODE, when it is of the second tier. */
static const struct jit_region *second_tier(struct bare *b)
{
	const struct jit_entry *e;
	struct cpu_exit x;

	b->h->x[9] = UINT64_MAX;
	b->h->pc = CODE;
	rv64_engine.vcpu_run(b->v[0], 1000000, &x);
	e = jit_find(jit_of(b), CODE, 0);
	return e && e->region->tier == 2 ? e->region : NULL;
}

/* An access that found another page all the time is given up, and has its site again when it no longer does. */
static void sites_are_given_up_for_a_while(void **state)
{
	const uint32_t code[] = {
		enc(RV_mul, 28, 28, 29), /* t3 *= t4: which page, at random */
		enc(RV_addi, 28, 28, 1), enc(RV_srli, 30, 28, 40),
		enc(RV_and, 30, 30, 6), /* t5 = t3 >> 40 & t1 */
		enc(RV_add, 5, 31, 30), /* t0 = t6 + t5 */
		enc(RV_ld, 7, 5, 0), 0xfff48493, /* addi s1, s1, -1 */
		0xfe0492e3, /* bnez s1, back */
	};
	struct bare *b = translating();
	const struct jit_region *r = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
		bare_put(b, CODE + 4 * i, code[i]);
	b->h->x[6] = 0x1000; /* two pages */
	b->h->x[29] = 0x5851f42d4c957f2dull;
	b->h->x[31] = RAM + 0x10000;
	for (unsigned i = 0; !(r && r->given_up) && i < 100000; i++)
		r = second_tier(b);
	assert_non_null(r);
	assert_true(r->given_up);
	assert_int_equal(r->nsites, 0);
	b->h->x[6] = 0; /* one */
	for (unsigned i = 0; !(r && r->nsites) && i < 100000; i++)
		r = second_tier(b);
	assert_non_null(r);
	assert_false(r->given_up);
	assert_in_range(r->nsites, 1, 8);
	bare_free(b);
}

/* ---- lines and what they branch to ---- */

/*
 * A loop, and in its line, behind it, a call that is made once in the end: has `fn`, which ran once before, been translated with the loop?
 */
static bool comes_along(uint64_t fn, bool alone, bool ran)
{
	struct bare *b = counting_down();
	struct jit *j = jit_of(b);
	bool made;

	j->o.alone = alone;
	bare_put(b, fn, ADD_ONE);
	bare_put(b, fn + 4, ECALL);
	bare_put(b, CODE + 8, jal(1, CODE + 8, fn));
	if (ran) {
		b->h->pc = fn;
		assert_int_equal(bare_trap(b), 11);
	}
	assert_null(jit_find(j, fn, 0));
	turns(b, 100);
	made = jit_find(j, fn, 0);
	assert_int_equal(j->st.taken_along, made && fn == NEAR_FN);
	assert_int_equal(j->st.paired, made && fn == FAR_FN);
	bare_free(b);
	return made;
}

static void lines_take_their_targets_along(void **state)
{
	bare_free(translating());
	assert_true(comes_along(NEAR_FN, false, true));
	assert_true(comes_along(FAR_FN, false, true));
	/* Not without the table, nor what never ran. */
	assert_false(comes_along(NEAR_FN, true, true));
	assert_false(comes_along(FAR_FN, true, true));
	assert_false(comes_along(NEAR_FN, false, false));
	assert_false(comes_along(FAR_FN, false, false));
}

/* ---- tables of jumps ---- */

#define FNS 256u
#define FN(i) \
	(RAM + 0x100000 + (i)*0x1010ull) /* a page each, and a place of its own in the table */
#define TABLE (RAM + 0x80000)

/* Turns of a loop that calls all functions by their addresses; each adds one to a2. */
static struct bare *calling_all(void)
{
	const uint32_t code[] = {
		enc(RV_addi, 5, 8, 0), /* t0 = s0 */
		enc(RV_ld, 6, 5, 0), /* back: t1 = [t0] */
		enc(RV_jalr, 1, 6, 0), /* call t1 */
		enc(RV_addi, 5, 5, 8), /* t0 += 8 */
		0xfeb29ae3, /* bne t0, a1, back */
		0xfff48493, /* addi s1, s1, -1 */
		0xfe0494e3, /* bnez s1, to the start */
		ECALL,
	};
	struct bare *b = translating();

	for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
		bare_put(b, CODE + 4 * i, code[i]);
	for (unsigned i = 0; i < FNS; i++) {
		bare_put64(b, TABLE + 8 * i, FN(i));
		bare_put(b, FN(i), enc(RV_addi, 12, 12, 1));
		bare_put(b, FN(i) + 4, enc(RV_jalr, 0, 1, 0));
	}
	jit_of(b)->o.tiers = JIT_TIERS_ONE;
	b->h->x[8] = TABLE;
	b->h->x[11] = TABLE + 8 * FNS;
	return b;
}

/* So many turns with FP registers in use or not: each has a table of its own. Returns how often it did not know; *sum: what was added. */
static uint64_t unknown(struct bare *b, uint64_t n, bool fp, uint64_t *sum)
{
	uint64_t before = b->h->j.lookups;

	b->h->fs = fp ? 3 : 0;
	b->h->x[12] = 0;
	turns(b, n);
	*sum = b->h->x[12];
	return b->h->j.lookups - before;
}

/* Code that is removed is forgotten, and what else the tables know is not. */
static void removal_forgets_what_was_removed(void **state)
{
	struct bare *b = calling_all();
	uint64_t sum;

	for (unsigned fp = 0; fp < 2; fp++)
		assert_true(unknown(b, 100, fp, &sum) >= FNS);
	for (unsigned i = 0; i < 8; i++) {
		bare_put(b, FN(i), enc(RV_addi, 12, 12, 2));
		jit_drop(jit_of(b), FN(i) & ~(uint64_t)PAGE_MASK, PAGE_SIZE);
		assert_null(jit_find(jit_of(b), FN(i), 0));
		for (unsigned fp = 0; fp < 2; fp++) {
			assert_true(unknown(b, 100, (fp + i) & 1, &sum) < FNS / 2);
			assert_int_equal(sum, 100 * (FNS + i + 1));
		}
	}
	bare_free(b);
}

/* ---- memory ---- */

/* How the address is mapped: "rw-s". */
static void mapping(const void *at, char *how)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned long from, to;
	char line[512];

	assert_non_null(f);
	how[0] = 0;
	while (fgets(line, sizeof(line), f)) {
		char perm[5];

		assert_int_equal(sscanf(line, "%lx-%lx %4s", &from, &to, perm), 3);
		assert_false(perm[1] == 'w' && perm[2] == 'x');
		if ((uintptr_t)at >= from && (uintptr_t)at < to)
			strcpy(how, perm);
	}
	fclose(f);
}

static void writable_xor_executable(void **state)
{
	struct bare *b = counting_down();
	struct jit *j = jit_of(b);
	const struct jit_entry *e;
	char how[5];

	assert_true(turns(b, 100));
	e = jit_find(j, CODE, 0);
	mapping(e->code, how);
	assert_string_equal(how, "r-xs");
	mapping(j->rw + (e->code - j->rx), how);
	assert_string_equal(how, "rw-s");
	/* The same memory. */
	assert_memory_equal(e->code, j->rw + (e->code - j->rx), 16);
	bare_free(b);
}

/* ---- CSRs ---- */

#define SSTATUS 0x100
#define SSCRATCH 0x140
#define SEPC 0x141
#define SCAUSE 0x142
#define STVAL 0x143

/* PMP lets everybody do everything. */
static void let(struct hart *h)
{
	h->c.pmpaddr[0] = BIT(54) - 1;
	h->c.pmpcfg[0] = 0x1f;
	pmp_update(h);
}

/* One turn of a program at CODE in S- or U-mode, with registers that differ from turn to turn; where it ends is in x20. */
static void turn(struct bare *b, unsigned priv, unsigned n)
{
	struct hart *h = b->h;

	h->x[10] = 0x1111;
	h->x[11] = n & 1 ? MSTATUS_SIE : n & 2 ? 0xfffffffffffff00d * n : 0;
	h->c.sscratch = 0x1234567890 + n;
	h->c.sepc = 0x8000 + 2ull * n;
	h->c.scause = n;
	h->c.stval = ~(uint64_t)n;
	h->mstatus = (h->mstatus & ~MSTATUS_SIE) | (n & 4 ? MSTATUS_SIE : 0);
	h->fs = n & 3;
	h->pc = CODE;
	rv64_set_priv(h, priv);
	h->x[20] = bare_trap(b) << 32 | (h->c.mepc & 0xffff);
}

/* Translated and interpreted, each does the same. */
static void csrs_are_the_interpreters(void **state)
{
	static const unsigned csrs[] = {SSTATUS, SSCRATCH, SEPC, SCAUSE, STVAL, 0x104 /* sie */};
	static const unsigned ids[] = {
		RV_csrrw, RV_csrrs, RV_csrrc, RV_csrrwi, RV_csrrsi, RV_csrrci};
	static const uint8_t sources[] = {0, 2, 10, 11};
	struct bare *jit = translating(), *interp = bare_new_jit(1, false, CPU_JIT_OFF);
	struct bare *both[] = {jit, interp};

	let(jit->h);
	let(interp->h);
	for (unsigned k = 0; k < ARRAY_SIZE(csrs) * ARRAY_SIZE(ids) * ARRAY_SIZE(sources) * 4;
		k++) {
		unsigned rd = k & 2 ? 10 : 0, priv = k & 1 ? PRIV_S : PRIV_U, i = k / 4;
		unsigned src = sources[i % ARRAY_SIZE(sources)];
		unsigned id = ids[i / ARRAY_SIZE(sources) % ARRAY_SIZE(ids)];
		unsigned csr = csrs[i / ARRAY_SIZE(sources) / ARRAY_SIZE(ids)];
		uint64_t ops;

		for (unsigned which = 0; which < 2; which++) {
			struct bare *b = both[which];

			bare_put(b, CODE, 0x00150513); /* addi a0, a0, 1 */
			bare_put(b, CODE + 4, enc_csr(id, rd, csr, src));
			bare_put(b, CODE + 8, ECALL);
		}
		for (unsigned n = 0; n < 40; n++) {
			ops = jit->h->j.slow_op;
			for (unsigned which = 0; which < 2; which++)
				turn(both[which], priv, n);
			assert_memory_equal(jit->h->x, interp->h->x, 32 * 8);
			assert_int_equal(jit->h->mstatus, interp->h->mstatus);
			assert_int_equal(jit->h->fs, interp->h->fs);
			assert_int_equal(jit->h->mie, interp->h->mie);
			assert_memory_equal(&jit->h->c, &interp->h->c, sizeof(interp->h->c));
			assert_int_equal(jit->h->regime, interp->h->regime);
		}
		/* The last turn: none but the ecall was the interpreter's, where it has a form of its own. */
		if (priv == PRIV_S && csr == SSCRATCH && id == RV_csrrw)
			assert_int_equal(jit->h->j.slow_op - ops, 1);
	}
	bare_free(jit);
	bare_free(interp);
}

/* Upper and lower half as one, at every edge. */
static void constants_are_the_interpreters(void **state)
{
	static const uint32_t upper[] = {0, 1, 2, 0x7fffe, 0x7ffff, 0x80000, 0x80001, 0xfffff};
	static const uint32_t lower[] = {0, 1, 0x7ff, 0x800, 0x801, 0xfff};
	static const unsigned ids[][2] = {
		{RV_lui, RV_addi}, {RV_lui, RV_addiw}, {RV_auipc, RV_addi}, {RV_auipc, RV_addiw}};
	struct bare *jit = translating(), *interp = bare_new_jit(1, false, CPU_JIT_OFF);
	struct bare *both[] = {jit, interp};
	unsigned cases = ARRAY_SIZE(upper) * ARRAY_SIZE(lower) * ARRAY_SIZE(ids);

	let(jit->h);
	let(interp->h);
	for (unsigned k = 0; k < 2 * cases; k++) {
		unsigned rd = k & 1 ? 10 : 28, rs = k % 3 ? rd : 11, i = k / 2;
		const unsigned *id = ids[i % ARRAY_SIZE(ids)];
		uint32_t lo = lower[i / ARRAY_SIZE(ids) % ARRAY_SIZE(lower)];
		uint32_t hi = upper[i / ARRAY_SIZE(ids) / ARRAY_SIZE(lower)];

		for (unsigned which = 0; which < 2; which++) {
			struct bare *b = both[which];

			bare_put(b, CODE, enc(id[0], rd, 0, 0) | hi << 12);
			bare_put(b, CODE + 4, enc(id[1], rd, rs, 0) | lo << 20);
			bare_put(b, CODE + 8, ECALL);
			for (unsigned n = 0; n < 20; n++)
				turn(b, PRIV_S, n);
		}
		assert_memory_equal(jit->h->x, interp->h->x, 32 * 8);
		assert_non_null(jit_find(jit_of(jit), CODE, jit_fp_of(jit->h)));
	}
	bare_free(jit);
	bare_free(interp);
}

/* What is pending is taken right behind the instruction that lets it in, though that was translated when nothing was. */
static void interrupts_come_when_let_in(void **state)
{
	static const uint32_t on[] = {
		0x10016073, /* csrrsi x0, sstatus, 2 */
		0x1005a073, /* csrrs x0, sstatus, a1 */
		0x10200073, /* sret, with SPIE set */
	};
	struct cpu_exit x;

	for (unsigned k = 0; k < 2 * ARRAY_SIZE(on); k++) {
		struct bare *b = translating();
		struct hart *h = b->h;

		bare_put(b, CODE, on[k / 2]);
		bare_put(b, CODE + 4, 0x00150513); /* addi a0, a0, 1 */
		bare_put(b, CODE + 8, ECALL);
		rv64_engine.time_stop(b->vm);
		let(h);
		h->c.menvcfg = MENVCFG_STCE;
		h->c.stimecmp = UINT64_MAX;
		h->mideleg = S_IRQS;
		h->mie = S_IRQS;
		h->imsic[CPU_MSI_S].delivery = 1;
		h->imsic[CPU_MSI_S].eie[0] = ~1ull;
		for (unsigned n = 0; n < 50; n++) {
			bool last = n == 49;

			if (last && k & 1)
				h->c.stimecmp = 0;
			else if (last)
				rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 5);
			h->x[10] = 0;
			h->x[11] = MSTATUS_SIE;
			h->mstatus = MSTATUS_SPIE | MSTATUS_SPP;
			h->c.sepc = CODE + 4;
			h->pc = CODE;
			rv64_set_priv(h, PRIV_S);
			/* Its handler makes an ecall, too. */
			bare_exit(b, 0, &x);
			rv64_engine.vcpu_run(b->v[0], 0, &x);
			assert_int_equal(h->c.mcause, 9);
			assert_int_equal(h->c.mepc, last ? SVECTOR : CODE + 8);
			assert_int_equal(h->x[10], last ? 0 : 1);
			if (last)
				assert_int_equal(h->c.sepc, CODE + 4);
		}
		assert_non_null(jit_find(jit_of(b), CODE, 0));
		bare_free(b);
	}
}

/* ---- names ---- */

/* The file that perf reads has a line for the code that was made, with the guest's name for it. */
static void perf_is_told_names(void **state)
{
	struct bare *b = counting_down();
	struct jit *j = jit_of(b);
	char symbols[] = "/tmp/lodge-symbols-XXXXXX", path[64], line[256], want[256];
	const struct jit_entry *e;
	struct err err = {0};
	bool found = false;
	FILE *f;
	int fd = mkstemp(symbols);

	assert_true(fd >= 0);
	assert_true(dprintf(fd, "%llx T before\n%llx t countdown\n%llx d data\n", RAM, CODE,
			    CODE + 4) > 0);
	close(fd);
	assert_int_equal(jit_perf_open(&j->perf, symbols, &err), 0);
	unlink(symbols);
	assert_true(turns(b, 100));
	e = jit_find(j, CODE, 0);
	snprintf(want, sizeof(want), "%llx ", (unsigned long long)(uintptr_t)e->code);
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		found |= !strncmp(line, want, strlen(want)) && strstr(line, " guest:countdown\n");
	fclose(f);
	unlink(path);
	assert_true(found);
	bare_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cold_code_ends_a_slice),
		cmocka_unit_test(hotness_outlives_the_code),
		cmocka_unit_test(sites_are_given_up_for_a_while),
		cmocka_unit_test(lines_take_their_targets_along),
		cmocka_unit_test(removal_forgets_what_was_removed),
		cmocka_unit_test(writable_xor_executable),
		cmocka_unit_test(csrs_are_the_interpreters),
		cmocka_unit_test(constants_are_the_interpreters),
		cmocka_unit_test(interrupts_come_when_let_in),
		cmocka_unit_test(perf_is_told_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
