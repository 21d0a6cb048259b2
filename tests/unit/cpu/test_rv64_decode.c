/*
 * The decoder and the 16-bit encodings: what they expand to, which are reserved, and that extensions can be switched off. Operand
 * extraction over all encodings is compared with binutils by rv64_disasm_check.
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

#define CODE (FLAT_BASE + 0x1000)

/* Made with the assembler: the 16-bit form and the same instruction in 32 bits. */
static const struct {
	uint16_t small;
	uint32_t full;
} pairs[] = {
	{0x0028, 0x00810513}, /* addi x10, x2, 8 */
	{0x1ffc, 0x3fc10793}, /* addi x15, x2, 1020 */
	{0x216c, 0x0c053587}, /* fld f11, 192(x10) */
	{0x5d70, 0x07c52603}, /* lw x12, 124(x10) */
	{0x7d70, 0x0f853603}, /* ld x12, 248(x10) */
	{0xbd6c, 0x0eb53c27}, /* fsd f11, 248(x10) */
	{0xdd70, 0x06c52e23}, /* sw x12, 124(x10) */
	{0xfd70, 0x0ec53c23}, /* sd x12, 248(x10) */
	{0x0001, 0x00000013}, /* nop */
	{0x1579, 0xffe50513}, /* addi x10, x10, -2 */
	{0x357d, 0xfff5051b}, /* addiw x10, x10, -1 */
	{0x55fd, 0xfff00593}, /* li x11, -1 */
	{0x7139, 0xfc010113}, /* addi x2, x2, -64 */
	{0x75fd, 0xfffff5b7}, /* lui x11, 0xfffff */
	{0x917d, 0x03f55513}, /* srli x10, x10, 63 */
	{0x9575, 0x43d55513}, /* srai x10, x10, 61 */
	{0x9979, 0xffe57513}, /* andi x10, x10, -2 */
	{0x8d0d, 0x40b50533}, /* sub x10, x10, x11 */
	{0x8d2d, 0x00b54533}, /* xor */
	{0x8d4d, 0x00b56533}, /* or */
	{0x8d6d, 0x00b57533}, /* and */
	{0x9d0d, 0x40b5053b}, /* subw */
	{0x9d2d, 0x00b5053b}, /* addw */
	{0xb001, 0x801ff06f}, /* j -2048 */
	{0xc101, 0x00050063}, /* beqz x10, 0 */
	{0xf101, 0xf00510e3}, /* bnez x10, -256 */
	{0x157e, 0x03f51513}, /* slli x10, x10, 63 */
	{0x35fe, 0x1f813587}, /* fld f11, 504(x2) */
	{0x55fe, 0x0fc12583}, /* lw x11, 252(x2) */
	{0x75fe, 0x1f813583}, /* ld x11, 504(x2) */
	{0x8502, 0x00050067}, /* jr x10 */
	{0x852e, 0x00b00533}, /* add x10, x0, x11 */
	{0x9002, 0x00100073}, /* ebreak */
	{0x9502, 0x000500e7}, /* jalr x1, 0(x10) */
	{0x952e, 0x00b50533}, /* add x10, x10, x11 */
	{0xbfae, 0x1eb13c27}, /* fsd f11, 504(x2) */
	{0xdfae, 0x0eb12e23}, /* sw x11, 252(x2) */
	{0xffae, 0x1eb13c23}, /* sd x11, 504(x2) */
};

static void small_encodings_mean_their_full_ones(void **state)
{
	struct rv64_decoder d;

	rv64_decoder_init(&d, RV64_EXT_ALL);
	for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct rv64_insn a, b;
		unsigned fmt;

		assert_true(rv64_decode(&d, pairs[i].full, &b));
		if (!rv64_decode(&d, pairs[i].small, &a))
			fail_msg("%04x is no instruction", pairs[i].small);
		fmt = rv64_row(b.id)->fmt;
		if (a.id != b.id || a.len != 2 || b.len != 4)
			fail_msg("%04x is %s", pairs[i].small, rv64_row(a.id)->text);
		if (fmt == FMT_NONE)
			continue;
		if (fmt != FMT_STORE && fmt != FMT_FSTORE && fmt != FMT_B)
			assert_int_equal(a.rd, b.rd);
		if (fmt != FMT_U && fmt != FMT_J)
			assert_int_equal(a.rs1, b.rs1);
		if (fmt == FMT_R || fmt == FMT_STORE || fmt == FMT_FSTORE || fmt == FMT_B)
			assert_int_equal(a.rs2, b.rs2);
		if (fmt != FMT_R && a.imm != b.imm)
			fail_msg("%04x: imm %d, want %d", pairs[i].small, a.imm, b.imm);
	}
}

/* Runs one word; false: illegal instruction, with the right trap value. */
static bool legal(struct flat *f, uint32_t word)
{
	/* A 16-bit one is followed by c.nop. */
	uint32_t pad = rv64_insn_len(word) == 2 && !(word >> 16) ? 1u << 16 : 0;
	uint32_t code[] = {word | pad, 0x00100073, 0x00100073};
	uint64_t want = rv64_insn_len(word) == 2 ? word & 0xffff : word;

	flat_put(f, CODE, code, 3);
	rv64_code_fence_i(&f->h);
	f->h.x[2] = f->h.x[8] = f->h.x[9] = CODE + 0x100;
	f->cause = 0;
	flat_run(f, CODE, 1);
	if (f->trapped && f->cause == 2) {
		assert_int_equal(f->epc, CODE);
		assert_int_equal(f->tval, want);
		return false;
	}
	return true;
}

static void reserved_encodings_trap(void **state)
{
	static const uint32_t bad[] = {
		0x0000, 0xffff0000, /* all zeros, whatever follows */
		0x0004, /* c.addi4spn with 0 */
		0x6101, 0x6081, /* c.addi16sp, c.lui with 0 */
		0x2001, 0x2005, /* c.addiw x0 */
		0x4002, 0x6002, /* c.lwsp, c.ldsp to x0 */
		0x8002, /* c.jr x0 */
		0x8000, /* quadrant 0, funct3 4 */
		0x9c41, 0x9c61, /* quadrant 1, the two beside c.addw */
		0xffffffff, 0x0000007f, /* longer than 32 bits */
		0x00000077, 0x0000000b, /* custom-0 and a hole */
	};
	static const uint32_t good[] = {
		0x02001013,
		0x0001,
		0x0009, /* c.addi x0: a hint */
		0x4001,
		0x6005,
		0x8006,
		0x9006,
		0x0002,
		0x8001, /* hints: c.li, c.lui, c.mv, c.add, c.slli x0; c.srli by 0 */
		0x1013,
		0x0000000f,
		0x0ff0000f,
		0xfff0000f,
		0x8330000f,
		0x0100000f,
	};
	struct flat *f = flat_new(RV64_EXT_ALL);

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		if (legal(f, bad[i]))
			fail_msg("%08x ran", bad[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		if (!legal(f, good[i]))
			fail_msg("%08x did not run", good[i]);
	flat_free(f);
}

static void extensions_can_be_off(void **state)
{
	static const struct {
		enum rv64_ext ext;
		uint32_t word;
	} t[] = {
		{EXT_M, 0x02000033},
		{EXT_A, 0x1000202f},
		{EXT_F, 0x00000053},
		{EXT_D, 0x02000053},
		{EXT_C, 0x0001},
		{EXT_CD, 0x2000},
		{EXT_ZBA, 0x20002033},
		{EXT_ZBB, 0x60001013},
		{EXT_ZBS, 0x48001033},
		{EXT_ZICOND, 0x0e005033},
		{EXT_ZICBOZ, 0x0040200f},
		{EXT_ZAWRS, 0x00d00073},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		struct rv64_decoder with, without;
		struct rv64_insn in;

		rv64_decoder_init(&with, RV64_EXT_ALL);
		rv64_decoder_init(&without, RV64_EXT_ALL & ~(1ull << t[i].ext));
		assert_true(rv64_decode(&with, t[i].word, &in));
		assert_int_equal(rv64_row(in.row)->ext, t[i].ext);
		assert_false(rv64_decode(&without, t[i].word, &in));
		assert_int_equal(in.id, RV_ILLEGAL);
	}
}

/* A row that another one hides would never run. Each match must decode to itself, and no two rows may want one word unless nested. */
static void every_row_is_reachable(void **state)
{
	struct rv64_decoder d;
	struct rv64_insn in;

	rv64_decoder_init(&d, RV64_EXT_ALL);
	for (unsigned id = RV_ILLEGAL + 1; id < RV_IDS; id++) {
		const struct rv64_row *r = rv64_row(id);
		bool found = false;

		assert_int_equal(r->match & ~r->mask, 0);
		/* Some rows reserve zero operands: try a few patterns of operand bits. */
		for (unsigned k = 0; k < 64 && !found; k++) {
			uint32_t w = r->match | (~r->mask & (k * 0x9e3779b1u | k << 7));

			if ((r->match & 3) != 3)
				w &= 0xffff;
			found = rv64_decode(&d, w, &in) && in.row == id;
		}
		if (!found)
			fail_msg("%s cannot be reached", r->text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_encodings_mean_their_full_ones),
		cmocka_unit_test(reserved_encodings_trap),
		cmocka_unit_test(extensions_can_be_off),
		cmocka_unit_test(every_row_is_reachable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
