/*
 * Integer instructions with the edge cases of the specification's chapters, run through decoder, block cache and handlers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/util.h"
#include "flat.h"

#define MIN64 0x8000000000000000ull
#define MAX64 0x7fffffffffffffffull
#define ONES UINT64_MAX
#define CODE (FLAT_BASE + 0x1000)
#define DATA (FLAT_BASE + 0x8000)

static uint32_t enc(unsigned id, unsigned rd, unsigned rs1, unsigned rs2)
{
	return rv64_row(id)->match | rd << 7 | rs1 << 15 | rs2 << 20;
}

static uint32_t enc_i(unsigned id, unsigned rd, unsigned rs1, int imm)
{
	return rv64_row(id)->match | rd << 7 | rs1 << 15 | (uint32_t)imm << 20;
}

#define EBREAK 0x00100073u

struct alu_case {
	unsigned id;
	uint64_t a, b, want;
};

/* clang-format off */
static const struct alu_case reg_cases[] = {
	{RV_add, MAX64, 1, MIN64}, {RV_sub, 0, 1, ONES}, {RV_add, ONES, ONES, ONES - 1},
	{RV_sll, 1, 63, MIN64}, {RV_sll, 1, 64, 1}, {RV_srl, MIN64, 63, 1}, {RV_srl, MIN64, 64 + 63, 1},
	{RV_sra, MIN64, 63, ONES}, {RV_sra, MAX64, 62, 1},
	{RV_slt, MIN64, 0, 1}, {RV_slt, 0, MIN64, 0}, {RV_sltu, MIN64, 0, 0}, {RV_sltu, 0, MIN64, 1},
	{RV_xor, ONES, 0xff, ONES ^ 0xff}, {RV_or, 0xf0, 0x0f, 0xff}, {RV_and, ONES, 5, 5},
	{RV_addw, 0x7fffffff, 1, 0xffffffff80000000}, {RV_addw, 0x1ffffffff, 1, 0},
	{RV_subw, 0x80000000, 1, 0x7fffffff}, {RV_subw, 0, 1, ONES},
	{RV_sllw, 1, 31, 0xffffffff80000000}, {RV_sllw, 1, 32, 1}, {RV_sllw, 0x3, 31, 0xffffffff80000000},
	{RV_srlw, 0xffffffff80000000, 31, 1}, {RV_srlw, 0x80000000, 0, 0xffffffff80000000},
	{RV_sraw, 0x80000000, 31, ONES}, {RV_sraw, 0x180000000, 32, 0xffffffff80000000},
	{RV_mul, MIN64, ONES, MIN64}, {RV_mul, 0xffffffff, 0xffffffff, 0xfffffffe00000001},
	{RV_mulh, MIN64, MIN64, 0x4000000000000000}, {RV_mulh, ONES, ONES, 0}, {RV_mulh, ONES, 1, ONES},
	{RV_mulhu, ONES, ONES, ONES - 1}, {RV_mulhu, MIN64, 2, 1}, {RV_mulhu, 0, ONES, 0},
	{RV_mulhsu, ONES, ONES, ONES}, {RV_mulhsu, MIN64, ONES, 0x8000000000000000}, {RV_mulhsu, 2, ONES, 1},
	{RV_mulw, 0x10000, 0x8000, 0xffffffff80000000}, {RV_mulw, 0x100000003, 5, 15},
	{RV_div, 7, (uint64_t)-2, (uint64_t)-3}, {RV_div, 5, 0, ONES}, {RV_div, MIN64, ONES, MIN64},
	{RV_div, (uint64_t)-7, 2, (uint64_t)-3}, {RV_div, 7, ONES, (uint64_t)-7},
	{RV_divu, 5, 0, ONES}, {RV_divu, ONES, 2, MAX64}, {RV_divu, MIN64, ONES, 0},
	{RV_rem, 7, (uint64_t)-2, 1}, {RV_rem, (uint64_t)-7, 2, ONES}, {RV_rem, 5, 0, 5}, {RV_rem, MIN64, ONES, 0},
	{RV_remu, 5, 0, 5}, {RV_remu, ONES, 10, 5}, {RV_remu, MIN64, ONES, MIN64},
	{RV_divw, 0x80000000, ONES, 0xffffffff80000000}, {RV_divw, 5, 0xf00000000, ONES},
	{RV_divw, 0x1fffffff9, 2, (uint64_t)-3}, {RV_divuw, 0xfffffffe, 2, 0x7fffffff},
	{RV_divuw, 0xffffffff, 1, ONES}, {RV_divuw, 1, 0x100000000, ONES},
	{RV_remw, 0x80000000, ONES, 0}, {RV_remw, 0x80000000, 0, 0xffffffff80000000},
	{RV_remw, (uint64_t)-7, 2, ONES}, {RV_remuw, 0xffffffff, 0, ONES}, {RV_remuw, 0xffffffff, 16, 15},
	{RV_remuw, 0x80000000, 0x100000000, 0xffffffff80000000},
	/* Zba */
	{RV_add_uw, ONES, 1, 0x100000000}, {RV_sh1add, MIN64 | 1, 3, 5}, {RV_sh2add, 3, ONES, 11},
	{RV_sh3add, 1, 0, 8}, {RV_sh1add_uw, ONES, 0, 0x1fffffffe}, {RV_sh2add_uw, ONES, 4, 0x400000000},
	{RV_sh3add_uw, 0xf80000000, 1, 0x400000001},
	/* Zbb */
	{RV_andn, 0xff, 0x0f, 0xf0}, {RV_orn, 0, 0, ONES}, {RV_xnor, 0xff, 0xff, ONES},
	{RV_max, ONES, 1, 1}, {RV_maxu, ONES, 1, ONES}, {RV_min, MIN64, MAX64, MIN64}, {RV_minu, MIN64, MAX64, MAX64},
	{RV_rol, MIN64 | 1, 1, 3}, {RV_rol, 5, 64, 5}, {RV_ror, 1, 1, MIN64}, {RV_ror, 1, 0, 1},
	{RV_rolw, 0x80000000, 1, 1}, {RV_rolw, 0x40000000, 1, 0xffffffff80000000}, {RV_rolw, 0x80000001, 32, 0xffffffff80000001},
	{RV_rorw, 1, 1, 0xffffffff80000000}, {RV_rorw, 0xf00000001, 32, 1},
	/* Zbs */
	{RV_bclr, ONES, 63, MAX64}, {RV_bclr, ONES, 64, ONES - 1}, {RV_bext, MIN64, 127, 1}, {RV_bext, MIN64, 62, 0},
	{RV_binv, 0, 63, MIN64}, {RV_binv, 1, 64, 0}, {RV_bset, 0, 32, 0x100000000},
	/* Zicond */
	{RV_czero_eqz, 7, 0, 0}, {RV_czero_eqz, 7, MIN64, 7}, {RV_czero_nez, 7, 0, 7}, {RV_czero_nez, 7, 0x100000000, 0},
};

/* b: the immediate, for the one-source instructions unused */
static const struct alu_case imm_cases[] = {
	{RV_addi, 0, (uint64_t)-2048, (uint64_t)-2048}, {RV_addi, MAX64, 2047, MIN64 + 2046}, {RV_addi, 77, 0, 77},
	{RV_slti, (uint64_t)-2049, (uint64_t)-2048, 1}, {RV_sltiu, 5, ONES, 1}, {RV_sltiu, ONES, ONES, 0},
	{RV_xori, 0x5a, ONES, ~0x5aull}, {RV_ori, MIN64, ONES, ONES}, {RV_andi, ONES, (uint64_t)-2048, (uint64_t)-2048},
	{RV_slli, 1, 63, MIN64}, {RV_srli, MIN64, 63, 1}, {RV_srai, MIN64, 63, ONES}, {RV_srai, 0xff, 0, 0xff},
	{RV_addiw, 0x7fffffff, 1, 0xffffffff80000000}, {RV_addiw, 0xdeadbeef, 0, 0xffffffffdeadbeef},
	{RV_slliw, 0x180000001, 31, 0xffffffff80000000}, {RV_srliw, 0xf80000000, 31, 1}, {RV_srliw, 0x80000000, 0, 0xffffffff80000000},
	{RV_sraiw, 0x80000000, 31, ONES}, {RV_slli_uw, ONES, 32, 0xffffffff00000000}, {RV_slli_uw, ONES, 0, 0xffffffff},
	{RV_rori, 1, 63, 2}, {RV_rori, 3, 0, 3}, {RV_roriw, 1, 31, 2}, {RV_roriw, 2, 2, 0xffffffff80000000},
	{RV_bclri, ONES, 63, MAX64}, {RV_bexti, MIN64, 63, 1}, {RV_binvi, 1, 0, 0}, {RV_bseti, 0, 63, MIN64},
};

static const struct alu_case one_cases[] = {
	{RV_clz, 0, 0, 64}, {RV_clz, 1, 0, 63}, {RV_clz, MIN64, 0, 0}, {RV_ctz, 0, 0, 64}, {RV_ctz, MIN64, 0, 63},
	{RV_cpop, ONES, 0, 64}, {RV_cpop, 0, 0, 0}, {RV_clzw, 0xf00000000, 0, 32}, {RV_clzw, 1, 0, 31},
	{RV_ctzw, 0xf00000000, 0, 32}, {RV_ctzw, 0x80000000, 0, 31}, {RV_cpopw, ONES, 0, 32}, {RV_cpopw, 0xf00000001, 0, 1},
	{RV_sext_b, 0x180, 0, (uint64_t)-128}, {RV_sext_b, 0x7f, 0, 0x7f}, {RV_sext_h, 0x18000, 0, (uint64_t)-32768},
	{RV_zext_h, ONES, 0, 0xffff}, {RV_orc_b, 0x0100800000010203, 0, 0xff00ff0000ffffff}, {RV_orc_b, 0, 0, 0},
	{RV_orc_b, 0x7f80ff0001020408, 0, 0xffffff00ffffffff}, {RV_rev8, 0x0102030405060708, 0, 0x0807060504030201},
};
/* clang-format on */

/* Runs one word with a and b in x5 and x6; also with rd = rs1, and with rd = x0, which must stay zero. */
static void try_word(struct flat *f, const struct alu_case *c, uint32_t word)
{
	struct hart *h = &f->h;

	for (unsigned rd = 0; rd <= 7; rd++) {
		uint32_t code[] = {word | rd << 7, EBREAK};

		flat_put(f, CODE, code, 2);
		rv64_code_fence_i(h);
		for (unsigned i = 1; i < 32; i++)
			h->x[i] = 0x1111 * i;
		h->x[5] = c->a;
		h->x[6] = c->b;
		flat_run(f, CODE, 10);
		if (f->cause != 3 || h->x[rd] != (rd ? c->want : 0))
			fail_msg("%s a=%#llx b=%#llx: got %#llx, want %#llx (rd x%u, cause %llu)",
				rv64_row(c->id)->text, (long long)c->a, (long long)c->b,
				(long long)h->x[rd], (long long)(rd ? c->want : 0), rd,
				(long long)f->cause);
		assert_int_equal(f->epc, CODE + 4);
		assert_int_equal(h->x[0], 0);
		assert_int_equal(h->x[8], 0x8888);
	}
}

static void register_operations(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);

	for (unsigned i = 0; i < ARRAY_SIZE(reg_cases); i++)
		try_word(f, &reg_cases[i], enc(reg_cases[i].id, 0, 5, 6));
	for (unsigned i = 0; i < ARRAY_SIZE(imm_cases); i++)
		try_word(f, &imm_cases[i], enc_i(imm_cases[i].id, 0, 5, (int)imm_cases[i].b));
	for (unsigned i = 0; i < ARRAY_SIZE(one_cases); i++)
		try_word(f, &one_cases[i], enc(one_cases[i].id, 0, 5, 0));
	flat_free(f);
}

/* The special handlers that the decoder chooses (li, mv, nop) with x0 as a source. */
static void zero_register_forms(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	uint32_t code[] = {
		enc_i(RV_addi, 10, 0, -5),
		enc(RV_add, 11, 0, 10),
		enc(RV_add, 12, 10, 0),
		enc(RV_add, 13, 0, 0),
		enc_i(RV_addi, 0, 10, 1),
		enc(RV_sub, 14, 0, 10),
		0x800002b7u | 0xfffff000, /* lui x5, 0xfffff */
		0x80000317, /* auipc x6, 0x80000 */
		EBREAK,
	};
	struct hart *h = &f->h;

	h->x[13] = 9;
	flat_put(f, CODE, code, ARRAY_SIZE(code));
	flat_run(f, CODE, 100);
	assert_int_equal(h->x[10], (uint64_t)-5);
	assert_int_equal(h->x[11], (uint64_t)-5);
	assert_int_equal(h->x[12], (uint64_t)-5);
	assert_int_equal(h->x[13], 0);
	assert_int_equal(h->x[14], 5);
	assert_int_equal(h->x[0], 0);
	assert_int_equal(h->x[5], 0xfffffffffffff000);
	assert_int_equal(h->x[6], CODE + 28 + 0xffffffff80000000);
	assert_int_equal(h->instret, 8);
	flat_free(f);
}

static uint32_t enc_b(unsigned id, unsigned rs1, unsigned rs2, int off)
{
	uint32_t o = (uint32_t)off;

	return rv64_row(id)->match | rs1 << 15 | rs2 << 20 | (o >> 12 & 1) << 31 |
	       (o >> 5 & 63) << 25 | (o >> 1 & 15) << 8 | (o >> 11 & 1) << 7;
}

static uint32_t enc_j(unsigned rd, int off)
{
	uint32_t o = (uint32_t)off;

	return 0x6f | rd << 7 | (o >> 20 & 1) << 31 | (o >> 1 & 0x3ff) << 21 | (o >> 11 & 1) << 20 |
	       (o >> 12 & 0xff) << 12;
}

static void branches(void **state)
{
	static const struct {
		unsigned id;
		uint64_t a, b;
		bool taken;
	} c[] = {
		{RV_beq, 1, 1, true},
		{RV_beq, 1, 0x100000001, false},
		{RV_bne, 1, 2, true},
		{RV_bne, 1, 1, false},
		{RV_blt, ONES, 0, true},
		{RV_blt, 0, ONES, false},
		{RV_blt, 3, 3, false},
		{RV_bge, 0, ONES, true},
		{RV_bge, MIN64, MAX64, false},
		{RV_bge, 3, 3, true},
		{RV_bltu, 0, ONES, true},
		{RV_bltu, ONES, 0, false},
		{RV_bgeu, ONES, 0, true},
		{RV_bgeu, 0, 0, true},
		{RV_bgeu, 0, 1, false},
	};
	static const int offs[] = {8, 4094, -4096, -4, 2046};

	for (unsigned i = 0; i < ARRAY_SIZE(c); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(offs); k++) {
			struct flat *f = flat_new(RV64_EXT_ALL);
			uint64_t at = FLAT_BASE + 0x4000;
			uint32_t code[] = {enc_i(RV_addi, 7, 0, 1), enc_b(c[i].id, 5, 6, offs[k])};

			flat_put(f, at, code, 2);
			f->h.x[5] = c[i].a;
			f->h.x[6] = c[i].b;
			flat_run(f, at, 2);
			assert_int_equal(f->h.pc, c[i].taken ? at + 4 + (uint64_t)offs[k] : at + 8);
			assert_int_equal(f->h.instret, 2);
			flat_free(f);
		}
}

static void jumps_link_and_clear_bit_0(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint32_t far_code[] = {enc_i(RV_jalr, 5, 5, -1)}; /* rd = rs1: target from the old value */
	uint32_t code[] = {enc_i(RV_addi, 8, 0, 3), enc_j(1, 0x7fffe - 4)};

	flat_put(f, CODE, code, 2);
	flat_run(f, CODE, 2);
	assert_int_equal(h->pc, CODE + 0x7fffe);
	assert_int_equal(h->x[1], CODE + 8);
	flat_put(f, CODE + 0x1000, far_code, 1);
	h->x[5] = CODE + 6;
	flat_run(f, CODE + 0x1000, 1);
	assert_int_equal(h->pc, CODE + 4); /* (CODE + 5) & ~1 */
	assert_int_equal(h->x[5], CODE + 0x1004);
	flat_free(f);
}

static void loads_and_stores(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	static const struct {
		unsigned id;
		uint64_t want;
	} loads[] = {
		{RV_lb, (uint64_t)-8},
		{RV_lbu, 0xf8},
		{RV_lh, (uint64_t)(int64_t)(int16_t)0xf7f8},
		{RV_lhu, 0xf7f8},
		{RV_lw, 0xfffffffff5f6f7f8},
		{RV_lwu, 0xf5f6f7f8},
		{RV_ld, 0xf1f2f3f4f5f6f7f8},
	};
	static const struct {
		unsigned id;
		uint64_t want;
	} stores[] = {
		{RV_sb, 0x00000000000000f8},
		{RV_sh, 0x000000000000f7f8},
		{RV_sw, 0x00000000f5f6f7f8},
		{RV_sd, 0xf1f2f3f4f5f6f7f8},
	};

	for (unsigned way = 0; way < 16; way++) /* misaligned, across pages, miss and hit */
		for (unsigned i = 0; i < ARRAY_SIZE(loads); i++) {
			uint64_t v = 0xf1f2f3f4f5f6f7f8, va = DATA - 8 + way;
			uint32_t code[] = {enc_i(loads[i].id, 7, 6, -16),
				enc_i(loads[i].id, 0, 6, -16), EBREAK};

			memcpy(f->ram + (va - FLAT_BASE), &v, 8);
			h->x[6] = va + 16;
			flat_put(f, CODE, code, 3);
			rv64_code_fence_i(h);
			flat_run(f, CODE, 10);
			assert_int_equal(h->x[7], loads[i].want);
			assert_int_equal(h->x[0], 0);
		}
	for (unsigned way = 0; way < 16; way++)
		for (unsigned i = 0; i < ARRAY_SIZE(stores); i++) {
			uint64_t v = 0, va = DATA - 8 + way;
			uint32_t code[] = {
				rv64_row(stores[i].id)->match | 6 << 15 | 5 << 20 | 4 << 7, EBREAK};

			memset(f->ram + (DATA - 16 - FLAT_BASE), 0, 64);
			h->x[6] = va - 4;
			h->x[5] = 0xf1f2f3f4f5f6f7f8;
			flat_put(f, CODE, code, 2);
			rv64_code_fence_i(h);
			flat_run(f, CODE, 10);
			memcpy(&v, f->ram + (va - FLAT_BASE), 8);
			assert_int_equal(v, stores[i].want);
		}
	flat_free(f);
}

static void faulting_access_is_precise(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint32_t code[] = {
		0x00010001, /* two c.nop */
		enc_i(RV_addi, 7, 0, 1),
		enc_i(RV_ld, 8, 5, 8),
		enc_i(RV_addi, 7, 0, 2),
		EBREAK,
	};

	flat_put(f, CODE, code, ARRAY_SIZE(code));
	h->x[5] = 0x1000;
	h->x[8] = 55;
	flat_run(f, CODE, 100);
	assert_int_equal(f->cause, 5);
	assert_int_equal(f->tval, 0x1008);
	assert_int_equal(f->epc, CODE + 8);
	assert_int_equal(h->x[7], 1);
	assert_int_equal(h->x[8], 55);
	assert_int_equal(h->instret, 3);
	flat_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(register_operations),
		cmocka_unit_test(zero_register_forms),
		cmocka_unit_test(branches),
		cmocka_unit_test(jumps_link_and_clear_bit_0),
		cmocka_unit_test(loads_and_stores),
		cmocka_unit_test(faulting_access_is_precise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
