/*
 * Translated floating point against the interpreter: the same instructions on the same operands, bit for bit, with flags, in every
 * rounding mode. The interpreter's arithmetic is test_fp.c's matter.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/rv64/disasm.h"
#include "cpu/rv64/jit/inside.h"
#include "flat.h"

#define CODE (FLAT_BASE + 0x1000)
#define DATA (FLAT_BASE + 0x8000)
#define DATA_LEN 512
#define EBREAK 0x00100073u
#define BASE 8 /* x register that holds DATA */
#define COUNT 31 /* of turns that a loop has yet to make */
#define PROGRAM 24

struct pair {
	struct flat *i, *j; /* interpreted, translated */
	struct jit *jit;
};

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1d;
}

static unsigned below(unsigned n)
{
	return (unsigned)(rnd() >> 32) % n;
}

/* Few registers in one program meet each other often. */
static uint8_t pool[32];
static unsigned pooled;

static void choose_registers(unsigned n)
{
	pooled = n;
	for (unsigned i = 0; i < n; i++)
		pool[i] = (uint8_t)below(32);
}

static unsigned reg(void)
{
	return pool[below(pooled)];
}

static uint32_t special32(void)
{
	static const uint32_t v[] = {0, 1, 0x7fffff, 0x800000, 0x3f800000, 0x3f800001, 0x3f000000,
		0x40200000, 0x4b000001, 0x4effffff, 0x4f000000, 0x4f7fffff, 0x4f800000, 0x5effffff,
		0x5f000000, 0x5f7fffff, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fa00000, 0x7fc00000,
		0x7fffffff};
	uint32_t w = below(3) ? v[below(ARRAY_SIZE(v))] : (uint32_t)rnd();

	return w ^ (below(2) ? 0x80000000 : 0);
}

static uint64_t special64(void)
{
	static const uint64_t v[] = {0, 1, 0xfffffffffffff, 0x10000000000000, 0x3ff0000000000000,
		0x3ff0000000000001, 0x3fe0000000000000, 0x4004000000000000, 0x41dfffffffc00000,
		0x41e0000000000000, 0x41efffffffe00000, 0x41efffffffe00001, 0x41f0000000000000,
		0x43dfffffffffffff, 0x43e0000000000000, 0x43f0000000000000, 0x47efffffe0000000,
		0x36a0000000000000, 0x3690000000000000, 0x7fefffffffffffff, 0x7ff0000000000000,
		0x7ff0000000000001, 0x7ff4000000000000, 0x7ff8000000000000, 0x7fffffffffffffff};
	uint64_t w = below(3) ? v[below(ARRAY_SIZE(v))] : rnd();

	return w ^ (below(2) ? 1ull << 63 : 0);
}

static uint64_t special_int(void)
{
	static const uint64_t v[] = {0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
		0x1000001, 0x20000000000001, 0x7fffffffffffffff, 0x8000000000000000,
		0x8000000000000001, 0xfffffffffffffbff, 0xffffffffffffffff};

	return below(3) ? v[below(ARRAY_SIZE(v))] : rnd() >> below(64);
}

static struct pair make(void)
{
	struct pair p = {.i = flat_new(RV64_EXT_ALL), .j = flat_new(RV64_EXT_ALL)};
	struct jit_opts o = {.cache_bytes = JIT_CACHE_MIN, .exts = RV64_EXT_ALL};

	fp_host_init(&p.i->h.fp);
	fp_host_init(&p.j->h.fp);
	if (jit_create(&p.jit, &o, NULL) || jit_hart_init(p.jit, &p.j->h, NULL))
		fail_msg("no translator");
	return p;
}

static void drop(struct pair *p)
{
	jit_hart_destroy(&p->j->h);
	jit_destroy(p->jit);
	flat_free(p->i);
	flat_free(p->j);
}

/* Both harts get the same operands: `mix` of singles, doubles and anything. */
static void fill(struct pair *p, unsigned frm, bool boxed)
{
	struct hart *h = &p->i->h;

	for (unsigned r = 1; r < 32; r++)
		h->x[r] = special_int();
	h->x[BASE] = DATA;
	h->x[COUNT] = 1 + below(9);
	for (unsigned r = 0; r < 32; r++)
		h->f[r] = boxed || below(2) ? fp32_box(special32()) : special64();
	for (unsigned k = 0; k < DATA_LEN / 8; k++) {
		uint64_t v = special64();

		memcpy(p->i->ram + (DATA - FLAT_BASE) + 8 * k, &v, 8);
	}
	memcpy(p->j->ram + (DATA - FLAT_BASE), p->i->ram + (DATA - FLAT_BASE), DATA_LEN);
	memcpy(p->j->h.x, h->x, sizeof(h->x));
	memcpy(p->j->h.f, h->f, sizeof(h->f));
	h->fs = p->j->h.fs = 3;
	fp_host_set_frm(&h->fp, frm);
	fp_host_set_frm(&p->j->h.fp, frm);
	fp_host_set_flags(&h->fp, 0);
	fp_host_set_flags(&p->j->h.fp, 0);
}

static void load(struct pair *p, const uint32_t *words, unsigned n)
{
	flat_put(p->i, CODE, words, n);
	flat_put(p->j, CODE, words, n);
	rv64_code_fence_i(&p->i->h);
	rv64_code_fence_i(&p->j->h);
	jit_heat_set(p->jit, CODE, 200);
}

static void run_both(struct pair *p)
{
	struct hart *h = &p->j->h;

	fp_host_enter(&p->i->h.fp);
	flat_run(p->i, CODE, 1000);
	fp_host_leave(&p->i->h.fp);
	h->pc = CODE;
	h->poll = 0;
	p->j->trapped = false;
	fp_host_enter(&h->fp);
	/* Translating ends a slice, as does a slow access. */
	for (unsigned slices = 0; !p->j->trapped && slices < 100; slices++) {
		uint64_t entries = 100;

		h->instret_stop = h->instret + 1000;
		jit_run(h, &entries);
	}
	fp_host_leave(&h->fp);
}

static const char *text(uint32_t w)
{
	static char buf[100];
	struct rv64_decoder d;

	rv64_decoder_init(&d, RV64_EXT_ALL);
	rv64_disasm(&d, w, CODE, buf, sizeof(buf));
	return buf;
}

static void explain(const struct pair *p, const uint32_t *words, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		print_error("  %08x %s\n", words[k], text(words[k]));
	for (unsigned r = 0; r < 32; r++) {
		if (p->i->h.x[r] != p->j->h.x[r])
			print_error(
				"x%u: %016lx, translated %016lx\n", r, p->i->h.x[r], p->j->h.x[r]);
		if (p->i->h.f[r] != p->j->h.f[r])
			print_error(
				"f%u: %016lx, translated %016lx\n", r, p->i->h.f[r], p->j->h.f[r]);
	}
	print_error("flags %x, translated %x; epc %lx %lx cause %lu %lu instret %lu %lu\n",
		fp_host_flags(&p->i->h.fp), fp_host_flags(&p->j->h.fp), p->i->epc, p->j->epc,
		p->i->cause, p->j->cause, p->i->h.instret, p->j->h.instret);
}

static void same(const struct pair *p, const uint32_t *words, unsigned n, const char *what)
{
	const struct hart *a = &p->i->h, *b = &p->j->h;

	if (memcmp(a->x, b->x, 32 * 8) || memcmp(a->f, b->f, sizeof(a->f)) ||
		fp_host_flags(&a->fp) != fp_host_flags(&b->fp) || !p->j->trapped ||
		p->i->epc != p->j->epc || p->i->cause != p->j->cause || a->instret != b->instret ||
		memcmp(p->i->ram + (DATA - FLAT_BASE), p->j->ram + (DATA - FLAT_BASE), DATA_LEN)) {
		explain(p, words, n);
		fail_msg("%s: not as interpreted (frm %u)", what, a->fp.frm);
	}
}

/* An instruction of this row, registers and mode at random. */
static uint32_t encode(unsigned id, unsigned frm)
{
	const struct rv64_row *row = rv64_row(id);
	uint32_t w = row->match, rd = reg(), rm = below(4) ? 7 : below(3) ? frm : below(5);

	switch (row->fmt) {
	case FMT_FLOAD:
		return w | rd << 7 | BASE << 15 |
		       (below(DATA_LEN / 8 - 1) * 8 + 4 * below(2)) << 20;
	case FMT_FSTORE: {
		uint32_t imm = below(DATA_LEN / 8 - 1) * 8 + 4 * below(2);

		return w | (imm & 31) << 7 | BASE << 15 | rd << 20 | imm >> 5 << 25;
	}
	case FMT_R4:
		w |= reg() << 27;
		break;
	case FMT_XF:
	case FMT_XF_RM:
	case FMT_XFF:
		if (rd == BASE || rd == COUNT)
			rd = 0;
		break;
	default:
		break;
	}
	w |= rd << 7 | reg() << 15;
	if (!(row->mask & 0x1f00000))
		w |= reg() << 20;
	if (!(row->mask & 0x7000))
		w |= rm << 12;
	return w;
}

/* Makes a loop of the program: COUNT turns. Returns its length. */
static unsigned repeat(uint32_t *words, unsigned n)
{
	uint32_t back = -4u * (n + 1);

	words[n] = rv64_row(RV_addi)->match | COUNT << 7 | COUNT << 15 | 0xfffu << 20;
	words[n + 1] = rv64_row(RV_bne)->match | COUNT << 15 | (back >> 12 & 1) << 31 |
		       (back >> 5 & 63) << 25 | (back >> 1 & 15) << 8 | (back >> 11 & 1) << 7;
	return n + 2;
}

/* Each instruction alone, many operands. */
static void one_by_one(void **state)
{
	struct pair p = make();

	for (unsigned id = RV_flw; id <= RV_fmv_d_x; id++) {
		for (unsigned variant = 0; variant < 24; variant++) {
			unsigned frm = below(8) ? below(5) : below(8);

			choose_registers(1 + below(6));
			uint32_t words[] = {encode(id, frm), EBREAK};

			load(&p, words, 2);
			for (unsigned k = 0; k < 40; k++) {
				fill(&p, frm, k & 1);
				run_both(&p);
				same(&p, words, 1, rv64_row(id)->text);
			}
		}
	}
	drop(&p);
}

/* Random straight lines, each run a few times. */
static void programs(void **state)
{
	struct pair p = make();

	for (unsigned k = 0; k < 20000; k++) {
		uint32_t words[PROGRAM + 3];
		unsigned n = 1 + below(PROGRAM), frm = below(5);

		choose_registers(2 + below(10));
		for (unsigned i = 0; i < n; i++)
			words[i] = encode(RV_flw + below(RV_fmv_d_x + 1 - RV_flw), frm);
		if (below(2))
			n = repeat(words, n);
		words[n] = EBREAK;
		load(&p, words, n + 1);
		for (unsigned i = 0; i < 4; i++) {
			if (!below(4)) {
				memset(&p.i->tlb, 0xff, sizeof(p.i->tlb));
				memset(&p.j->tlb, 0xff, sizeof(p.j->tlb));
			}
			fill(&p, frm, i & 1);
			run_both(&p);
			same(&p, words, n, "program");
		}
	}
	drop(&p);
}

/* Made here though the instruction's own mode is not frm's: what floor() and the like are made of. */
static bool in_any_mode(unsigned id)
{
	return id == RV_fcvt_l_d || id == RV_fcvt_l_s || id == RV_fcvt_w_s || id == RV_fcvt_d_l ||
	       id == RV_fcvt_d_w || id == RV_fcvt_s_l || id == RV_fcvt_s_w;
}

/* Instructions of everyday life do not go to the interpreter. */
static void native(void **state)
{
	struct pair p = make();

	for (unsigned id = RV_flw; id <= RV_fmv_d_x; id++) {
		struct jit_hart before, after;
		uint32_t words[2];
		const struct rv64_row *row = rv64_row(id);
		bool single = row->text[strlen(row->text) - 1] != 'd';

		if (id == RV_fclass_s || id == RV_fclass_d)
			continue;
		for (unsigned rm = 0; rm < 5; rm++) {
			choose_registers(4);
			words[0] = encode(id, 0);
			if (!(row->mask & 0x7000)) {
				words[0] &= ~0x7000u;
				words[0] |= (rm == 4 ? 7u : rm) << 12;
			}
			words[1] = EBREAK;
			load(&p, words, 2);
			fill(&p, in_any_mode(id) ? below(4) : rm & 3, true);
			for (unsigned r = 1; r < 32; r++)
				p.i->h.x[r] = p.j->h.x[r] = r == BASE ? DATA : r;
			for (unsigned r = 0; r < 32; r++)
				p.i->h.f[r] = p.j->h.f[r] = single && id != RV_fcvt_s_d
								    ? fp32_box(0x3fc00000 + r)
								    : 0x3ff8000000000000u + r;
			if (id == RV_fcvt_d_s)
				for (unsigned r = 0; r < 32; r++)
					p.i->h.f[r] = p.j->h.f[r] = fp32_box(0x3fc00000 + r);
			before = p.j->h.j;
			run_both(&p);
			same(&p, words, 1, rv64_row(id)->text);
			after = p.j->h.j;
			if (after.slow_op - before.slow_op != 1 ||
				after.cold_blocks != before.cold_blocks)
				fail_msg("%s: %lu by the interpreter, %lu cold", text(words[0]),
					after.slow_op - before.slow_op,
					after.cold_blocks - before.cold_blocks);
		}
	}
	drop(&p);
}

#define PAGES 16 /* of the alias, mapped in any order: what is near is not near in host memory */
#define EDGE (FLAT_ALIAS + 0x88000)

/* A load, a store, or a step of a base register: those in `bases`. Other registers are data. */
static uint32_t encode_access(const uint8_t *bases, unsigned nbases)
{
	static const uint16_t loads[] = {
		RV_lb, RV_lh, RV_lw, RV_ld, RV_lbu, RV_lhu, RV_lwu, RV_flw, RV_fld};
	static const uint16_t stores[] = {RV_sb, RV_sh, RV_sw, RV_sd, RV_fsw, RV_fsd};
	uint32_t base = bases[below(nbases)], imm = below(128) - 64u, data = 16 + below(15);

	if (below(2))
		imm &= ~7u;
	switch (below(8)) {
	case 0:
		return rv64_row(RV_addi)->match | base << 7 | base << 15 | (imm / 2 * 2) << 20;
	case 1:
		if (below(2)) /* mv */
			return rv64_row(RV_add)->match | (uint32_t)bases[below(nbases)] << 7 |
			       base << 20;
		return rv64_row(RV_add)->match | data << 7 | base << 15 | (16 + below(16)) << 20;
	case 2:
	case 3:
	case 4:
		return rv64_row(stores[below(ARRAY_SIZE(stores))])->match | (imm & 31) << 7 |
		       base << 15 | data << 20 | (imm >> 5 & 127) << 25;
	default:
		if (!below(16))
			data = below(2) ? base : 0;
		return rv64_row(loads[below(ARRAY_SIZE(loads))])->match | data << 7 | base << 15 |
		       imm << 20;
	}
}

static void forget(struct tlb_entry *e, bool really)
{
	if (really)
		memset(e, 0xff, sizeof(*e));
}

/* Accesses that share a look at the TLB: within a page, across two, with pages and permissions missing. */
static void near_each_other(void **state)
{
	struct pair p = make();
	uint8_t bases[3];

	for (unsigned i = 0; i < PAGES; i++)
		p.i->map[0x80 + i] = p.j->map[0x80 + i] = (uint16_t)(0x80 + i * 5 % PAGES);

	for (unsigned k = 0; k < 10000; k++) {
		uint32_t words[PROGRAM + 3];
		unsigned n = 1 + below(PROGRAM), nbases = 1 + below(3);

		for (unsigned i = 0; i < nbases; i++)
			bases[i] = (uint8_t)(1 + below(15));
		for (unsigned i = 0; i < n; i++)
			words[i] = encode_access(bases, nbases);
		n = repeat(words, n);
		words[n] = EBREAK;
		load(&p, words, n + 1);
		for (unsigned i = 0; i < 4; i++) {
			fill(&p, 0, false);
			p.i->h.fs = p.j->h.fs = 2 + k % 2;
			for (unsigned r = 1; r < 16; r++)
				p.i->h.x[r] = p.j->h.x[r] = EDGE + below(2) * 4096 +
							    below(2) * 1024 + below(200) - 100;
			for (unsigned r = 0x80; r < 0x80 + PAGES; r++) {
				forget(&p.j->tlb.r[r], !below(4));
				forget(&p.j->tlb.w[r], i == 3 || !below(4));
				forget(&p.i->tlb.w[r], i == 3);
			}
			run_both(&p);
			same(&p, words, n, "accesses");
			/* Permission to write is asked for where the interpreter asks. */
			for (unsigned r = 0x80; i == 3 && r < 0x80 + PAGES; r++)
				assert_int_equal(p.i->tlb.w[r].tag, p.j->tlb.w[r].tag);
			if (memcmp(p.i->ram + 0x80000, p.j->ram + 0x80000, (PAGES + 1) * 4096)) {
				explain(&p, words, n);
				fail_msg("memory is not as interpreted");
			}
		}
	}
	drop(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_by_one),
		cmocka_unit_test(programs),
		cmocka_unit_test(native),
		cmocka_unit_test(near_each_other),
	};

	if (jit_available(NULL)) {
		print_message("skipped: this host has not what translated code needs\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
