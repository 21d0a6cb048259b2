/*
 * gen.c: random programs whose code is hot: loops, calls, tables of jumps, code on many pages and at two addresses, code that changes
 * itself, accesses that miss and fault in mid-block. What runs under them is guest/rv64/hot.c. A program never ends.
 *
 * Functions call only those made before them, and each has a bound on what it executes, so all of them are entered again and again.
 * Registers: x1 link, x2 stack, x3 and x4 data, x5 addresses and second link, x8 and x9 loop counters; the rest is anybody's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hot.h"
#include "program.h"

#define CODE_BYTES (HOT_CODE_PAGES * PAGE_SIZE)
#define FUNCTIONS 40u
#define COST 6000u /* instructions that one call may execute, about */
#define FRAME 576
#define SAVED 528 /* in the frame: link and counters; below is scratch */

struct gen {
	uint64_t rng;
	uint8_t *code;
	uint32_t at, end; /* offsets in code */
	uint64_t base; /* address of code[0] */
	struct hot_head *head;
	struct rv64_decoder decoder;
	uint16_t rows[32][128], nrows[32]; /* by format, without 16-bit rows */
	struct {
		uint32_t at, cost;
	} fn[FUNCTIONS];
	unsigned nfn, depth;
	bool sets; /* makes functions of a set: no calls, nothing patched */
};

static uint64_t rnd(struct gen *g)
{
	uint64_t z = g->rng += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static unsigned below(struct gen *g, unsigned n)
{
	return (unsigned)(rnd(g) >> 20) % n;
}

static bool chance(struct gen *g, unsigned percent)
{
	return below(g, 100) < percent;
}

static void half(struct gen *g, uint32_t w)
{
	memcpy(g->code + g->at, &w, 2);
	g->at += 2;
}

static void word(struct gen *g, uint32_t w)
{
	memcpy(g->code + g->at, &w, 4);
	g->at += 4;
}

/* ---- words ---- */

static uint32_t itype(uint32_t match, unsigned rd, unsigned rs1, int imm)
{
	return match | rd << 7 | rs1 << 15 | (uint32_t)imm << 20;
}

static uint32_t stype(uint32_t match, unsigned rs1, unsigned rs2, int imm)
{
	return match | rs1 << 15 | rs2 << 20 | ((uint32_t)imm & 31) << 7 |
	       ((uint32_t)imm >> 5 & 127) << 25;
}

static uint32_t btype(uint32_t match, unsigned rs1, unsigned rs2, int32_t off)
{
	uint32_t u = (uint32_t)off;

	return match | rs1 << 15 | rs2 << 20 | (u >> 11 & 1) << 7 | (u >> 1 & 15) << 8 |
	       (u >> 5 & 63) << 25 | (u >> 12 & 1) << 31;
}

static uint32_t jal(unsigned rd, int32_t off)
{
	uint32_t u = (uint32_t)off;

	return 0x6f | rd << 7 | (u >> 12 & 255) << 12 | (u >> 11 & 1) << 20 |
	       (u >> 1 & 1023) << 21 | (u >> 20 & 1) << 31;
}

#define M(id) (rv64_row(RV_##id)->match)

/* rd = an address in [0x80000000, 0x81000000) */
static void address(struct gen *g, unsigned rd, uint64_t to)
{
	word(g, M(lui) | rd << 7 | (uint32_t)(to >> 20) << 12);
	word(g, itype(M(slli), rd, rd, 8));
	if (to & 0xff000) {
		/* Registers that nobody needs are few: two additions of what fits. */
		for (uint64_t left = to & 0xfffff; left;) {
			uint64_t step = left > 2047 ? 2047 : left;

			if (left > 16384) {
				word(g, M(lui) | 7u << 7 | (uint32_t)(left >> 12) << 12);
				word(g, M(add) | rd << 7 | rd << 15 | 7u << 20);
				left &= 0xfff;
				continue;
			}
			word(g, itype(M(addi), rd, rd, (int)step));
			left -= step;
		}
	} else if (to & 0xfff) {
		word(g, itype(M(addi), rd, rd, (int)(to & 0x7ff)));
		if (to & 0x800) {
			word(g, itype(M(addi), rd, rd, 0x7ff));
			word(g, itype(M(addi), rd, rd, 1));
		}
	}
}

static unsigned rd(struct gen *g)
{
	static const uint8_t free_regs[] = {6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
		22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 0};

	/* Mostly a few, so that values depend on each other and addresses fold. */
	return chance(g, 60) ? 10 + below(g, 6) : free_regs[below(g, sizeof(free_regs))];
}

static unsigned rs(struct gen *g)
{
	return chance(g, 60) ? 10 + below(g, 6) : below(g, 32);
}

static unsigned rm(struct gen *g)
{
	return chance(g, 70) ? 7 : chance(g, 95) ? below(g, 5) : 5 + below(g, 2);
}

static unsigned fr(struct gen *g)
{
	return chance(g, 60) ? 10 + below(g, 4) : below(g, 32);
}

static uint32_t pick(struct gen *g, unsigned fmt)
{
	return rv64_row(g->rows[fmt][below(g, g->nrows[fmt])])->match;
}

static uint32_t alu_word(struct gen *g)
{
	switch (below(g, 10)) {
	case 0:
	case 1:
	case 2:
		return itype(pick(g, FMT_I), rd(g), rs(g), (int)rnd(g));
	case 3:
		return pick(g, FMT_SH6) | rd(g) << 7 | rs(g) << 15 | below(g, 64) << 20;
	case 4:
		return pick(g, FMT_SH5) | rd(g) << 7 | rs(g) << 15 | below(g, 32) << 20;
	case 5:
		return pick(g, FMT_UNA) | rd(g) << 7 | rs(g) << 15;
	case 6:
		return pick(g, FMT_U) | rd(g) << 7 | (uint32_t)rnd(g) << 12;
	default:
		return pick(g, FMT_R) | rd(g) << 7 | rs(g) << 15 | rs(g) << 20;
	}
}

static uint32_t fp_word(struct gen *g)
{
	static const uint8_t fmts[] = {FMT_R4, FMT_R4, FMT_FR, FMT_FR_RM, FMT_FR_RM, FMT_FR_RM,
		FMT_FR_RM, FMT_FF_RM, FMT_XF, FMT_XF_RM, FMT_XFF, FMT_FX, FMT_FX_RM};
	unsigned fmt = fmts[below(g, sizeof(fmts))];
	uint32_t w = pick(g, fmt);

	switch (fmt) {
	case FMT_R4:
		return w | fr(g) << 7 | rm(g) << 12 | fr(g) << 15 | fr(g) << 20 | fr(g) << 27;
	case FMT_FR:
		return w | fr(g) << 7 | fr(g) << 15 | fr(g) << 20;
	case FMT_FR_RM:
		return w | fr(g) << 7 | rm(g) << 12 | fr(g) << 15 | fr(g) << 20;
	case FMT_FF_RM:
		return w | fr(g) << 7 | rm(g) << 12 | fr(g) << 15;
	case FMT_XF:
		return w | rd(g) << 7 | fr(g) << 15;
	case FMT_XF_RM:
		return w | rd(g) << 7 | rm(g) << 12 | fr(g) << 15;
	case FMT_XFF:
		return w | rd(g) << 7 | fr(g) << 15 | fr(g) << 20;
	case FMT_FX:
		return w | fr(g) << 7 | rs(g) << 15;
	default:
		return w | fr(g) << 7 | rm(g) << 12 | rs(g) << 15;
	}
}

static bool is_free(unsigned r)
{
	return r == 6 || r == 7 || r >= 10;
}

/* A 16-bit instruction that computes something. */
static void compressed(struct gen *g)
{
	for (;;) {
		uint32_t w = (uint32_t)rnd(g) & 0xffff;
		struct rv64_insn in;
		unsigned fmt;

		if ((w & 3) == 3 || !rv64_decode(&g->decoder, w, &in) || !is_free(in.rd))
			continue;
		fmt = rv64_row(in.id)->fmt;
		if (fmt == FMT_R || fmt == FMT_I || fmt == FMT_SH6 || fmt == FMT_U) {
			half(g, w);
			return;
		}
	}
}

/* ---- memory ---- */

static int offset(struct gen *g)
{
	int off = (int)below(g, 4096) - 2048;

	return chance(g, 85) ? off & ~7 : off;
}

/*
 * One load or store at off(base). A load leaves the base alone: others follow, and what was loaded is no address. In M-mode nothing would
 * stop a store to the monitor's code, which nobody fences.
 */
static void access_keeping(struct gen *g, unsigned base, int off, unsigned other)
{
	unsigned to;

	switch (below(g, 10)) {
	case 0:
		word(g, itype(pick(g, FMT_FLOAD), 0, base, off) | fr(g) << 7);
		break;
	case 1:
		word(g, stype(pick(g, FMT_FSTORE), base, fr(g), off));
		break;
	case 2:
	case 3:
	case 4:
		word(g, stype(pick(g, FMT_STORE), base, rs(g), off));
		break;
	default:
		to = rd(g);
		word(g, itype(pick(g, FMT_LOAD), to == base || to == other ? 0 : to, base, off));
		break;
	}
}

static void access_at(struct gen *g, unsigned base, int off)
{
	access_keeping(g, base, off, base);
}

static void mem(struct gen *g)
{
	unsigned k = below(g, 10);

	if (k < 6) {
		access_at(g, chance(g, 50) ? 3 : 4, offset(g));
	} else if (k < 8) {
		access_at(g, 2, (int)below(g, 64) * 8);
	} else if (k < 9) {
		/* Anywhere in the data pages: 17 bits of a register. */
		unsigned shift = 47, r = rs(g);

		word(g, itype(M(slli), 6, r, (int)shift));
		word(g, itype(M(srli), 6, 6, (int)shift));
		if (chance(g, 80))
			word(g, itype(M(andi), 6, 6, -8));
		address(g, 5, HOT_DATA);
		word(g, M(add) | 6u << 7 | 6u << 15 | 5u << 20);
		for (unsigned n = below(g, 3) + 1; n; n--)
			access_at(g, 6, (int)below(g, 4) * 8);
	} else {
		/* Through a register of the short forms. */
		unsigned r = 2 + below(g, 6);

		word(g, itype(M(addi), 8 + r, 3, offset(g)));
		static const uint16_t forms[] = {0x2000, 0x4000, 0x6000, 0xa000, 0xc000, 0xe000};
		for (unsigned n = below(g, 4) + 1; n; n--) {
			unsigned form = forms[below(g, 6)], to = 2 + below(g, 6);

			if (to == r && (form == 0x4000 || form == 0x6000))
				to = r == 7 ? 2 : r + 1;
			half(g, form | r << 7 | to << 2 | below(g, 8) << 10 | below(g, 4) << 5);
		}
	}
}

/* What compilers write where the instruction set has no rotation, no extension, no scaled index. Sometimes not quite that. */
static void idiom(struct gen *g)
{
	unsigned x = rs(g), d = rd(g), e = rd(g), n, size = chance(g, 70) ? 32 : 64;
	uint32_t left = size == 32 ? M(slliw) : M(slli), right = size == 32 ? M(srliw) : M(srli);
	static const uint8_t widths[] = {8, 16, 32, 34, 61};

	switch (below(g, 4)) {
	case 0:
		n = size - widths[below(g, size == 32 ? 2 : 5)];
		word(g, itype(left, d, x, (int)n));
		if (chance(g, 50))
			right = size == 32 ? M(sraiw) : M(srai);
		word(g, right | d << 7 | d << 15 | (chance(g, 80) ? n : below(g, size)) << 20);
		break;
	case 1:
		word(g, itype(M(slli), d, x, (int)below(g, 5)));
		word(g, M(add) | d << 7 |
				(chance(g, 50) ? d << 15 | rs(g) << 20 : rs(g) << 15 | d << 20));
		break;
	default:
		n = below(g, size);
		word(g, itype(left, d, x, (int)n));
		if (chance(g, 30))
			mem(g);
		if (chance(g, 30))
			word(g, alu_word(g));
		word(g, itype(right, e, x, (int)((size - n) & (size - 1))));
		if (chance(g, 30))
			word(g, chance(g, 50) ? alu_word(g) : fp_word(g));
		word(g, (chance(g, 50)		? M(or)
				: chance(g, 50) ? M(xor)
						: M(addw)) |
				rd(g) << 7 |
				(chance(g, 50) ? d << 15 | e << 20 : e << 15 | d << 20));
		break;
	}
}

static void amo(struct gen *g)
{
	word(g, itype(M(addi), 6, chance(g, 50) ? 3 : 4, offset(g)));
	if (chance(g, 20)) {
		word(g, (chance(g, 80) ? M(cbo_zero) : M(cbo_clean)) | 6u << 15);
		return;
	}
	if (chance(g, 90))
		word(g, itype(M(andi), 6, 6, -8));
	if (chance(g, 30)) {
		uint32_t wide = below(g, 2) << 12;

		word(g, M(lr_w) | wide | rd(g) << 7 | 6u << 15 | below(g, 4) << 25);
		for (unsigned n = below(g, 3); n; n--)
			word(g, itype(M(addi), 10, 10, 1));
		word(g, M(sc_w) | wide | rd(g) << 7 | 6u << 15 | rs(g) << 20 | below(g, 4) << 25);
		return;
	}
	for (;;) {
		uint16_t id = g->rows[FMT_AMO][below(g, g->nrows[FMT_AMO])];

		if (id == RV_sc_w || id == RV_sc_d)
			continue;
		word(g, rv64_row(id)->match | rd(g) << 7 | 6u << 15 | rs(g) << 20 |
				below(g, 4) << 25);
		return;
	}
}

/* ---- system ---- */

static void csr(struct gen *g)
{
	switch (below(g, 9)) {
	case 0:
		word(g, itype(M(csrrs), rd(g), 0, 0xc02)); /* instret */
		break;
	case 1:
		word(g, itype(M(csrrs), rd(g), 0, 0xc00 + (int)below(g, 2)));
		break;
	case 2:
		word(g, itype(M(csrrwi), rd(g), chance(g, 90) ? below(g, 5) : below(g, 8),
				2)); /* frm */
		break;
	case 3:
		word(g, itype(M(csrrs), rd(g), 0, 1)); /* fflags */
		break;
	case 4:
		word(g, itype(M(csrrw), rd(g), rs(g), 1));
		break;
	case 5:
		word(g, itype(M(csrrs), rd(g), 0, 3)); /* fcsr */
		break;
	case 6:
		word(g, itype(M(csrrw), rd(g), rs(g), 0x140)); /* sscratch: traps in U-mode */
		break;
	case 7:
		word(g, M(fence) | 0x0ff00000);
		break;
	default:
		word(g, g->head->mode == HOT_U ? M(fence_i) : M(sfence_vma) | 3u << 15);
		break;
	}
}

static void note_patch(struct gen *g)
{
	struct hot_head *h = g->head;

	if (h->patches < HOT_PATCHES) {
		h->patch[h->patches].at = g->base + g->at;
		for (unsigned i = 0; i < HOT_WORDS; i++)
			h->patch[h->patches].words[i] = chance(g, 80) ? alu_word(g) : fp_word(g);
		h->patches++;
	}
	word(g, alu_word(g));
}

/* Turns one instruction that follows into another, and back the next time. */
static void self_modify(struct gen *g)
{
	uint32_t a = alu_word(g), b = alu_word(g), at = g->at;

	word(g, M(auipc) | 5u << 7);
	word(g, 0); /* addi x5, x5, to the place */
	word(g, itype(M(lw), 6, 5, 0));
	word(g, M(lui) | 7u << 7 | ((a ^ b) + 0x800) >> 12 << 12);
	word(g, itype(M(addi), 7, 7, (int)((a ^ b) & 0xfff)));
	word(g, M(xor) | 6u << 7 | 6u << 15 | 7u << 20);
	word(g, stype(M(sw), 5, 6, 0));
	word(g, M(fence_i));
	for (unsigned n = below(g, 4); n; n--)
		chance(g, 50) ? word(g, alu_word(g)) : compressed(g);
	uint32_t place = g->at;
	word(g, a);
	g->at = at + 4;
	word(g, itype(M(addi), 5, 5, (int)(place - at)));
	g->at = place + 4;
}

/* ---- flow ---- */

static uint32_t items(struct gen *g, unsigned n, uint32_t budget);

static void forward(struct gen *g, uint32_t budget, uint32_t *cost)
{
	uint32_t at = g->at, w = pick(g, FMT_B);
	unsigned a = rs(g), b = chance(g, 30) ? 0 : rs(g);

	word(g, 0);
	*cost += items(g, 1 + below(g, 6), budget);
	if (g->at - at > 4000) {
		uint32_t end = g->at;

		g->at = at;
		word(g, M(addi)); /* too far: nothing */
		g->at = end;
		return;
	}
	uint32_t end = g->at;
	g->at = at;
	word(g, btype(w, a, b, (int32_t)(end - at)));
	g->at = end;
}

static void loop(struct gen *g, uint32_t budget, uint32_t *cost)
{
	unsigned counter = g->depth ? 8 : 9, n = 2 + below(g, chance(g, 20) ? 60 : 12);
	uint32_t head, c;

	if (g->depth > 1)
		return;
	g->depth++;
	word(g, itype(M(addi), counter, 0, (int)n));
	head = g->at;
	c = items(g, 1 + below(g, 12), budget / n);
	word(g, itype(M(addi), counter, counter, -1));
	if (g->at - head < 4000) {
		word(g, btype(M(bne), counter, 0, (int32_t)(head - g->at)));
	} else {
		word(g, btype(M(beq), counter, 0, 8));
		word(g, jal(0, (int32_t)(head - g->at)));
	}
	*cost += n * (c + 2);
	g->depth--;
}

/* A loop that steps through pages by two pointers, as over arrays: steps and places that are aligned, and some that are not. */
static void walk(struct gen *g, uint32_t *cost)
{
	static const int8_t steps[] = {4, 8, 8, 16, 24, -8, 56, 1, 13, 64};
	unsigned counter = g->depth ? 8 : 9, n = 2 + below(g, chance(g, 50) ? 60 : 6);
	unsigned p = 10 + below(g, 3), q = chance(g, 50) ? 13 + below(g, 3) : 18;
	unsigned body = 2 + below(g, 7);
	uint32_t head;

	if (g->depth > 1)
		return;
	for (unsigned i = 0; i < 2; i++) {
		uint64_t at = HOT_DATA + (2 + below(g, HOT_DATA_PAGES - 4)) * PAGE_SIZE;

		at += chance(g, 50) ? -(uint64_t)below(g, 256) : below(g, PAGE_SIZE);
		address(g, i ? q : p, chance(g, 80) ? at & ~7ull : at);
	}
	word(g, itype(M(addi), counter, 0, (int)n));
	head = g->at;
	for (unsigned i = 0; i < body; i++) {
		unsigned base = chance(g, 50) ? p : q;

		if (chance(g, 70))
			access_keeping(g, base, (int)below(g, 6) * 8, base == p ? q : p);
		else if (chance(g, 70))
			word(g, pick(g, FMT_FR_RM) | fr(g) << 7 | 7u << 12 | fr(g) << 15 |
					fr(g) << 20);
		else
			word(g, itype(M(addi), base, base, steps[below(g, sizeof(steps))]));
	}
	word(g, itype(M(addi), p, p, steps[below(g, sizeof(steps))]));
	word(g, itype(M(addi), counter, counter, -1));
	word(g, btype(M(bne), counter, 0, (int32_t)(head - g->at)));
	*cost += n * (body + 3) + 24;
}

/* Four arms of 16 bytes behind a computed jump. */
static void table(struct gen *g)
{
	word(g, itype(M(andi), 6, rs(g), 3));
	word(g, itype(M(slli), 6, 6, 4));
	word(g, M(auipc) | 5u << 7);
	word(g, M(add) | 5u << 7 | 5u << 15 | 6u << 20);
	word(g, itype(M(jalr), 0, 5, 12));
	for (int arm = 0; arm < 4; arm++) {
		for (unsigned n = 0; n < 3; n++)
			word(g, alu_word(g));
		word(g, jal(0, 4 + 16 * (3 - arm)));
	}
}

static void call_set(struct gen *g)
{
	unsigned k = below(g, HOT_SET_PAGES * PAGE_SIZE / 512);
	uint64_t to = (g->head->mode == HOT_M ? HOT_SETS : HOT_WINDOW) + 512 * k;

	address(g, 5, to);
	word(g, itype(M(jalr), k & 1 ? 5 : 1, 5, 0));
}

static void call(struct gen *g, uint32_t budget, uint32_t *cost)
{
	unsigned i = g->nfn ? below(g, g->nfn) : 0;

	if (!g->nfn || g->fn[i].cost + 8 > budget || chance(g, 25)) {
		call_set(g);
		*cost += 100;
		return;
	}
	*cost += g->fn[i].cost + 8;
	switch (below(g, 4)) {
	case 0:
		address(g, 5, g->base + g->fn[i].at);
		word(g, itype(M(jalr), 1, 5, 0));
		break;
	case 1:
		if (g->head->mode != HOT_M) {
			address(g, 5, HOT_ALIAS + g->fn[i].at);
			word(g, itype(M(jalr), 1, 5, 0));
			break;
		}
		__attribute__((fallthrough));
	default:
		word(g, jal(1, (int32_t)(g->fn[i].at - g->at)));
		break;
	}
}

static void one(struct gen *g, uint32_t budget, uint32_t *cost)
{
	unsigned k = below(g, 100);

	*cost += 2;
	if (k < 22)
		word(g, alu_word(g));
	else if (k < 28)
		idiom(g);
	else if (k < 40)
		compressed(g);
	else if (k < 56)
		word(g, fp_word(g));
	else if (k < 70)
		mem(g);
	else if (k < 72 && !g->sets)
		walk(g, cost);
	else if (k < 74)
		amo(g);
	else if (k < 76)
		csr(g);
	else if (g->sets)
		word(g, alu_word(g));
	else if (k < 84)
		forward(g, budget, cost);
	else if (k < 89)
		loop(g, budget, cost);
	else if (k < 91)
		table(g);
	else if (k < 96)
		call(g, budget, cost);
	else if (k < 97)
		note_patch(g);
	else if (k < 98 && budget > 100)
		self_modify(g);
	else if (k < 99 && chance(g, 20))
		for (unsigned n = 150; n; n--, ++*cost)
			word(g, alu_word(g));
	else if (chance(g, 20))
		word(g, M(ecall)), *cost += 100;
	else
		word(g, alu_word(g));
}

/* About what they execute. `budget`: what they may. */
static uint32_t items(struct gen *g, unsigned n, uint32_t budget)
{
	uint32_t cost = 0;

	for (; n && g->at < g->end && (cost < budget || g->sets); n--)
		one(g, budget > cost ? budget - cost : 0, &cost);
	return cost;
}

static void function(struct gen *g)
{
	static const uint8_t kept[] = {1, 8, 9};
	uint32_t start = g->at;
	uint32_t cost;

	word(g, itype(M(addi), 2, 2, -FRAME));
	for (unsigned i = 0; i < sizeof(kept); i++)
		word(g, stype(M(sd), 2, kept[i], SAVED + 8 * (int)i));
	g->depth = 0;
	cost = items(g, 4 + below(g, 40), COST);
	for (unsigned i = 0; i < sizeof(kept); i++)
		word(g, itype(M(ld), kept[i], 2, SAVED + 8 * (int)i));
	word(g, itype(M(addi), 2, 2, FRAME));
	if (g->nfn && chance(g, 10) && cost + g->fn[0].cost < COST)
		word(g, jal(0, (int32_t)(g->fn[0].at - g->at)));
	else if (chance(g, 50))
		half(g, 0x8082); /* ret */
	else
		word(g, itype(M(jalr), 0, 1, 0));
	g->fn[g->nfn].at = start;
	g->fn[g->nfn++].cost = cost + 12;
}

/* For ever: each of the last functions, and an ecall now and then. */
static uint64_t main_loop(struct gen *g)
{
	uint32_t start = g->at;

	address(g, 3,
		HOT_DATA + below(g, HOT_DATA_PAGES - 2) * PAGE_SIZE + 2048 + below(g, 512) * 8);
	address(g, 4,
		HOT_DATA + below(g, HOT_DATA_PAGES - 2) * PAGE_SIZE + 4096 - 8 * below(g, 32));
	for (unsigned i = 0; i < 12 && i < g->nfn; i++) {
		word(g, jal(1, (int32_t)(g->fn[g->nfn - 1 - i].at - g->at)));
		if (chance(g, 50))
			word(g, M(ecall));
	}
	word(g, jal(0, (int32_t)(start - g->at)));
	return g->base + start;
}

/* Entries every 512 bytes, the odd ones returning by x5. */
static void make_set(struct gen *g)
{
	g->sets = true;
	for (unsigned k = 0; k < HOT_SET_PAGES * PAGE_SIZE / 512; k++) {
		g->at = 512 * k;
		g->end = g->at + 300;
		if (k & 1) {
			word(g, itype(M(addi), 2, 2, -FRAME));
			word(g, stype(M(sd), 2, 5, SAVED));
		}
		items(g, 4 + below(g, 24), COST);
		if (k & 1) {
			word(g, itype(M(ld), 5, 2, SAVED));
			word(g, itype(M(addi), 2, 2, FRAME));
		}
		word(g, itype(M(jalr), 0, k & 1 ? 5 : 1, 0));
	}
	g->sets = false;
}

static uint64_t data_word(struct gen *g)
{
	static const uint64_t some[] = {0, 1, UINT64_MAX, 1ull << 63, INT64_MAX, 0x7ff0000000000000,
		0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001, 0x3ff0000000000000,
		0x0010000000000000, 0x000fffffffffffff, 0x7fefffffffffffff, 0xffffffff7f800000,
		0xffffffff7fc00000, 0xffffffff3f800000, 0xffffffff00800000, 0xffffffff7f7fffff,
		0xffffffff7f800001, 0x43e0000000000000, 0xc3e0000000000000, 0xffffffff4f000000};
	uint64_t r = rnd(g);

	switch (below(g, 5)) {
	case 0:
		return some[below(g, ARRAY_SIZE(some))];
	case 1:
		return 0xffffffff00000000 | (0x3f000000 + (r & 0x81ffffff));
	case 2:
		return (r & 0x800fffffffffffff) | (uint64_t)(1000 + below(g, 50)) << 52;
	case 3:
		return r & 0xffff;
	default:
		return r;
	}
}

static void must(int rc)
{
	if (rc) {
		fprintf(stderr, "lockstep: a random program needs more memory\n");
		exit(2);
	}
}

void gen_program(struct side *s, uint64_t seed)
{
	struct gen *g = calloc(1, sizeof(*g));
	struct hot_head head = {.seed = seed};

	g->rng = seed * 0x2545f4914f6cdd1d;
	g->head = &head;
	g->code = calloc(1, CODE_BYTES);
	rv64_decoder_init(&g->decoder, RV64_EXT_ALL);
	for (unsigned id = 1; id < RV_IDS; id++) {
		const struct rv64_row *row = rv64_row(id);

		if (row->base == id && row->fmt < 32)
			g->rows[row->fmt][g->nrows[row->fmt]++] = (uint16_t)id;
	}
	head.mode = seed % HOT_MODES;
	head.fcsr = below(g, 5) << 5;
	for (unsigned set = 0; set < 2; set++) {
		memset(g->code, 0, CODE_BYTES);
		g->base = HOT_SETS + set * HOT_SET_PAGES * PAGE_SIZE;
		make_set(g);
		must(space_write(s->space, gpa(g->base), g->code, HOT_SET_PAGES * PAGE_SIZE));
	}
	memset(g->code, 0, CODE_BYTES);
	g->base = HOT_CODE;
	g->at = 2 * below(g, 8);
	g->end = CODE_BYTES - 8192;
	while (g->nfn < FUNCTIONS && g->at < g->end)
		function(g);
	g->depth = 0;
	head.entry = main_loop(g);
	must(space_write(s->space, gpa(HOT_CODE), g->code, CODE_BYTES));
	must(space_write(s->space, gpa(HOT_HEAD), &head, sizeof(head)));
	for (uint64_t at = 0; at < HOT_DATA_PAGES * PAGE_SIZE; at += 8) {
		uint64_t v = data_word(g);

		must(space_write(s->space, gpa(HOT_DATA + at), &v, 8));
	}
	free(g->code);
	free(g);
}
