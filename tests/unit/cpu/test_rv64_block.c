/*
 * The block cache: links, invalidation by fence.i and by translation changes, instructions across pages, running out of room.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/util.h"
#include "flat.h"

#define CODE (FLAT_BASE + 0x1000)
#define EBREAK 0x00100073u
#define FENCE_I 0x0000100fu
#define SFENCE 0x12000073u
#define LI(rd, v) (0x13u | (rd) << 7 | (uint32_t)(v) << 20)
#define ADDI(rd, rs, v) (LI(rd, v) | (rs) << 15)
#define JAL0(off) (0x6fu | ((uint32_t)(off)&0x7fe) << 20 | ((off) < 0 ? 0x800ff000u | 1u << 20 : 0))
#define BNE(a, b, off) \
	(0x1063u | (a) << 15 | (b) << 20 | ((uint32_t)(off)&0x1e) << 7 | \
		((uint32_t)(off) >> 5 & 63) << 25 | ((off) < 0 ? 0x80000080u : 0))

static void a_loop_decodes_once(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	uint32_t code[] = {LI(5, 1000), ADDI(6, 6, 3), ADDI(5, 5, -1), BNE(5, 0, -8), EBREAK};

	flat_put(f, CODE, code, ARRAY_SIZE(code));
	flat_run(f, CODE, 100000);
	assert_int_equal(f->cause, 3);
	assert_int_equal(f->h.x[6], 3000);
	assert_int_equal(f->h.instret, 1 + 3000);
	assert_true(f->h.ic->decoded <= 3);
	flat_free(f);
}

/* Without a bounded stack this recursion would be seen at once. */
static void *run_small_stack(void *arg)
{
	flat_run(arg, CODE, 3000000);
	return NULL;
}

static void long_runs_need_no_stack(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	uint32_t code[] = {
		ADDI(6, 6, 1), /* misaligned: the slow twins run every time */
		0x00733023, /* sd x7, 0(x6) */
		0x00033383, /* ld x7, 0(x6) */
		0x34039073, /* csrrw x0, mscratch, x7 */
		0x0072a02f, /* amoadd.w x0, x7, (x5) */
		0x1002b02f, /* lr.d x0, (x5) */
		0x1872b02f, /* sc.d x0, x7, (x5) */
		ADDI(6, 6, -1),
		JAL0(-32),
	};
	pthread_attr_t attr;
	pthread_t t;

	flat_put(f, CODE, code, ARRAY_SIZE(code));
	f->h.x[6] = CODE + 0x2000;
	f->h.x[5] = CODE + 0x3000;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10);
	assert_int_equal(pthread_create(&t, &attr, run_small_stack, f), 0);
	pthread_join(t, NULL);
	assert_false(f->trapped);
	assert_true(f->h.instret >= 3000000);
	flat_free(f);
}

static void fence_i_shows_new_code(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	/* Writes the word in x8 over its own next instruction, fence.i, runs it, loops once with the next word. */
	uint32_t code[] = {
		0x00872023, /* sw x8, 0(x14) */
		FENCE_I,
		LI(10, 1), /* <- x14 */
		ADDI(11, 11, 1),
		0x00090413, /* mv x8, x18 */
		BNE(11, 12, -20),
		EBREAK,
	};

	flat_put(f, CODE, code, ARRAY_SIZE(code));
	h->x[14] = CODE + 8;
	h->x[8] = LI(10, 1);
	h->x[18] = LI(10, 77);
	h->x[12] = 1;
	flat_run(f, CODE, 100);
	assert_int_equal(h->x[10], 1);
	h->x[12] = 3;
	flat_run(f, CODE, 100);
	assert_int_equal(f->cause, 3);
	assert_int_equal(h->x[10], 77);
	flat_free(f);
}

/* Code that did not change is found again after fence.i by comparing, not decoded anew. */
static void fence_i_keeps_what_is_the_same(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	uint32_t code[] = {LI(5, 500), FENCE_I, ADDI(5, 5, -1), BNE(5, 0, -8), EBREAK};

	flat_put(f, CODE, code, ARRAY_SIZE(code));
	flat_run(f, CODE, 100000);
	assert_int_equal(f->cause, 3);
	assert_true(f->h.ic->decoded <= 5);
	assert_true(f->h.ic->checked >= 499);
	flat_free(f);
}

/* The same address, another page under it: sfence.vma is enough when the code's own memory did not change. */
static void remapped_code_is_found_by_physical_address(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint32_t one[] = {LI(10, 1), EBREAK}, two[] = {LI(10, 2), EBREAK},
		 flush[] = {SFENCE, EBREAK};
	uint64_t decoded;

	flat_put(f, FLAT_BASE + 0x3000, one, 2);
	flat_put(f, FLAT_BASE + 0x4000, two, 2);
	flat_put(f, CODE, flush, 2);
	f->map[0] = 3;
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 1);
	f->map[0] = 4;
	flat_run(f, CODE, 10);
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 2);
	f->map[0] = 3;
	flat_run(f, CODE, 10);
	decoded = h->ic->decoded;
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 1);
	assert_int_equal(h->ic->decoded, decoded);
	/* And without a fence the old translation may be used, but never another address's block. */
	flat_run(f, FLAT_BASE + 0x4000, 10);
	assert_int_equal(h->x[10], 2);
	assert_int_equal(h->x[0], 0);
	flat_free(f);
}

/* Address spaces keep what they know of code while others run; a flush forgets it for all of them. */
static void spaces_and_modes_have_their_own_translations(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint32_t code[] = {LI(10, 0), EBREAK};
	unsigned fetches;

	for (unsigned i = 0; i < 40; i++) {
		code[0] = LI(10, i);
		flat_put(f, FLAT_BASE + 0x1000 * i, code, 2);
	}
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 40; i++) { /* more spaces than are remembered */
			rv64_code_space(h, 100 + i);
			rv64_code_mode(h, i & 1 ? PRIV_S : PRIV_U);
			f->map[0] = (uint16_t)i;
			flat_run(f, FLAT_ALIAS, 10);
			assert_int_equal(h->x[10], i);
		}
	}
	rv64_code_mode(h, PRIV_U);
	rv64_code_space(h, 1);
	f->map[0] = 1;
	flat_run(f, FLAT_ALIAS, 10);
	rv64_code_space(h, 2);
	f->map[0] = 2;
	flat_run(f, FLAT_ALIAS, 10);
	fetches = f->fetches;
	rv64_code_space(h, 1); /* as a TLB would: the old translation, without asking */
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 1);
	rv64_code_space(h, 2);
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 2);
	assert_true(f->fetches - fetches <= 2);
	f->map[0] = 7;
	rv64_code_flush(h);
	for (unsigned s = 1; s <= 2; s++) {
		rv64_code_space(h, s);
		flat_run(f, FLAT_ALIAS, 10);
		assert_int_equal(h->x[10], 7);
	}
	/* S-mode: code of global pages is known in every space, other code is not. */
	rv64_code_mode(h, PRIV_S);
	flat_run(f, FLAT_BASE, 10);
	fetches = f->fetches;
	rv64_code_space(h, 1);
	flat_run(f, FLAT_BASE, 10);
	assert_int_equal(f->fetches, fetches);
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 7);
	f->map[0] = 8;
	rv64_code_space(h, 2);
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 8);
	flat_free(f);
}

/* sfence.vma of an identifier: global code and other spaces stay. */
static void one_space_can_be_flushed(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint32_t code[] = {LI(10, 0), EBREAK}, flush[] = {SFENCE | 6 << 20, EBREAK};
	unsigned fetches;

	for (unsigned i = 0; i < 4; i++) {
		code[0] = LI(10, i);
		flat_put(f, FLAT_BASE + 0x2000 + 0x1000 * i, code, 2);
	}
	flat_put(f, CODE, flush, 2);
	h->x[6] = 5;
	for (uint64_t asid = 4; asid <= 5; asid++) {
		rv64_code_space(h, 8ull << 60 | asid << 44 | 1);
		rv64_code_mode(h, PRIV_U);
		f->map[0] = (uint16_t)(asid - 2);
		flat_run(f, FLAT_ALIAS, 10);
		assert_int_equal(h->x[10], asid - 4);
	}
	rv64_code_mode(h, PRIV_S);
	flat_run(f, CODE, 10); /* the flush itself is global code */
	fetches = f->fetches;
	flat_run(f, CODE, 10);
	assert_int_equal(f->fetches, fetches);
	f->map[0] = 4;
	rv64_code_mode(h, PRIV_U);
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 2);
	rv64_code_space(h, 8ull << 60 | 4ull << 44 | 1);
	flat_run(f, FLAT_ALIAS, 10);
	assert_int_equal(h->x[10], 0);
	flat_free(f);
}

/* sfence.vma of an address: code there is found anew, code elsewhere is not disturbed; in a superpage, all of it. */
static void one_address_can_be_flushed(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint32_t code[] = {LI(10, 0), EBREAK}, flush[] = {SFENCE | 5 << 15, EBREAK};

	for (unsigned i = 0; i < 8; i++) {
		code[0] = LI(10, i);
		flat_put(f, FLAT_BASE + 0x2000 + 0x1000 * i, code, 2);
	}
	flat_put(f, CODE, flush, 2);
	for (unsigned round = 0; round < 2; round++) {
		uint64_t gen;

		f->span = round ? 0x10000 : 0x1000;
		f->map[0] = 2;
		f->map[1] = 3;
		rv64_code_flush(h);
		flat_run(f, FLAT_ALIAS, 10);
		flat_run(f, FLAT_ALIAS + 0x1000, 10);
		assert_int_equal(h->x[10], 1);
		f->map[1] = 5;
		gen = h->code_gen;
		h->x[5] = 0x7fff0000; /* nobody ran code there */
		flat_run(f, CODE, 10);
		assert_int_equal(h->code_gen, gen);
		h->x[5] = FLAT_ALIAS + 0x5000;
		flat_run(f, CODE, 10);
		assert_int_equal(h->code_gen != gen, round); /* only as part of a superpage */
		h->x[5] = FLAT_ALIAS + 0x1008;
		flat_run(f, CODE, 10);
		flat_run(f, FLAT_ALIAS + 0x1000, 10);
		assert_int_equal(h->x[10], 3);
	}
	flat_free(f);
}

/* auipc in one block that runs under two addresses: everything relative to pc must follow. */
static void one_block_under_two_addresses(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	uint32_t code[] = {
		0x00000517 /* auipc x10, 0 */, 0x008005ef /* jal x11, +8 */, EBREAK, EBREAK};

	flat_put(f, CODE, code, 4);
	for (unsigned i = 0; i < 6; i++) {
		uint64_t at = i & 1 ? FLAT_ALIAS + 0x1000 : CODE;

		flat_run(f, at, 10);
		assert_int_equal(f->h.x[10], at);
		assert_int_equal(f->h.x[11], at + 8);
		assert_int_equal(f->epc, at + 12);
	}
	flat_free(f);
}

static void an_instruction_across_pages(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint64_t at = FLAT_ALIAS + 0x1ffe;
	uint32_t li = LI(10, 55), li2 = LI(10, 99);
	uint16_t small_nop = 1;
	uint32_t flush[] = {FENCE_I, EBREAK};

	/* alias page 1 -> 5, page 2 -> 9 (not adjacent) */
	f->map[1] = 5;
	f->map[2] = 9;
	memcpy(f->ram + 0x5ffc, &small_nop, 2);
	memcpy(f->ram + 0x5ffe, &li, 2);
	memcpy(f->ram + 0x9000, (uint8_t *)&li + 2, 2);
	memcpy(f->ram + 0x9002, &(uint32_t){EBREAK}, 4);
	flat_run(f, at - 2, 10);
	assert_int_equal(f->cause, 3);
	assert_int_equal(f->epc, at + 4);
	assert_int_equal(h->x[10], 55);
	assert_int_equal(h->instret, 2);

	/* Only the second half changes: seen after fence.i. */
	memcpy(f->ram + 0x9000, (uint8_t *)&li2 + 2, 2);
	flat_put(f, CODE, flush, 2);
	flat_run(f, CODE, 10);
	flat_run(f, at, 10);
	assert_int_equal(h->x[10], 99);

	/* Only the second page moves. */
	memcpy(f->ram + 0xa000, (uint8_t *)&li + 2, 2);
	memcpy(f->ram + 0xa002, &(uint32_t){EBREAK}, 4);
	f->map[2] = 10;
	rv64_code_flush(h);
	flat_run(f, at, 10);
	assert_int_equal(h->x[10], 55);
	flat_free(f);
}

/* The second page is not there: the trap is at the instruction, its value the address that failed. */
static void a_fault_in_the_second_half(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	uint64_t last = FLAT_BASE + FLAT_SIZE - 2;
	uint32_t li = LI(10, 55);

	memcpy(f->ram + FLAT_SIZE - 2, &li, 2);
	flat_run(f, last, 10);
	assert_int_equal(f->cause, 1);
	assert_int_equal(f->epc, last);
	assert_int_equal(f->tval, last + 2);

	/* A 16-bit instruction there is fine; the fault is the next one's. */
	memcpy(f->ram + FLAT_SIZE - 2, &(uint16_t){1}, 2);
	rv64_code_fence_i(&f->h);
	flat_run(f, last, 10);
	assert_int_equal(f->epc, last + 2);
	assert_int_equal(f->tval, last + 2);
	flat_free(f);
}

/* More code than the cache holds, again and again, with every block linked to the next. */
static void the_cache_runs_over(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint64_t at = FLAT_BASE, n = 0;
	uint32_t body[] = {ADDI(10, 10, 1), JAL0(8), EBREAK};

	for (; at + 0x20 < FLAT_BASE + FLAT_SIZE; at += 12, n++)
		flat_put(f, at, body, 3);
	flat_put(f, at, &(uint32_t){EBREAK}, 1);
	for (unsigned round = 1; round <= 3; round++) {
		rv64_code_fence_i(h);
		flat_run(f, FLAT_BASE, UINT32_MAX);
		assert_int_equal(f->cause, 3);
		assert_int_equal(f->epc, at);
		assert_int_equal(h->x[10], n * round);
	}
	assert_true(h->ic->drops > 1);
	flat_free(f);
}

/* Random straight and looping code, interrupted after every so many instructions, gives the same as in one run. */
static void stopping_anywhere_changes_nothing(void **state)
{
	uint32_t code[] = {LI(5, 90), ADDI(6, 6, 3), ADDI(7, 6, 5), 0x00638333 /* add x6, x7, x6 */,
		ADDI(5, 5, -1), BNE(5, 0, -16), EBREAK};
	uint64_t want = 0, count = 0;

	for (uint64_t step = 1000; step > 0; step = step * 2 / 3) {
		struct flat *f = flat_new(RV64_EXT_ALL);
		uint64_t pc = CODE;

		flat_put(f, CODE, code, ARRAY_SIZE(code));
		do {
			flat_run(f, pc, step);
			pc = f->h.pc;
		} while (!f->trapped);
		if (!want) {
			want = f->h.x[6];
			count = f->h.instret;
		}
		assert_int_equal(f->h.x[6], want);
		assert_int_equal(f->h.instret, count);
		flat_free(f);
	}
}

static void *run_for_ever(void *arg)
{
	flat_run(arg, CODE, UINT64_MAX / 2);
	return NULL;
}

static void poll_stops_an_endless_loop(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	uint32_t code[] = {0x0000006f /* j . */};
	pthread_t t;

	flat_put(f, CODE, code, 1);
	/* Again, with more patience, where the thread had not begun. */
	for (unsigned us = 20000; f->h.instret <= 1000 && us < 10000000; us *= 2) {
		assert_int_equal(pthread_create(&t, NULL, run_for_ever, f), 0);
		/* It begins with a clean slate: a kick from before that is lost. */
		do {
			usleep(us);
			atomic_fetch_or(&f->h.poll, POLL_KICK);
		} while (pthread_tryjoin_np(t, NULL));
		assert_int_equal(f->h.pc, CODE);
	}
	assert_true(f->h.instret > 1000);
	flat_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_loop_decodes_once),
		cmocka_unit_test(long_runs_need_no_stack),
		cmocka_unit_test(fence_i_shows_new_code),
		cmocka_unit_test(fence_i_keeps_what_is_the_same),
		cmocka_unit_test(remapped_code_is_found_by_physical_address),
		cmocka_unit_test(spaces_and_modes_have_their_own_translations),
		cmocka_unit_test(one_space_can_be_flushed),
		cmocka_unit_test(one_address_can_be_flushed),
		cmocka_unit_test(one_block_under_two_addresses),
		cmocka_unit_test(an_instruction_across_pages),
		cmocka_unit_test(a_fault_in_the_second_half),
		cmocka_unit_test(the_cache_runs_over),
		cmocka_unit_test(stopping_anywhere_changes_nothing),
		cmocka_unit_test(poll_stops_an_endless_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
