/*
 * FP instructions as instructions: registers, boxes, rounding-mode fields, flags, mstatus.FS. The arithmetic itself is test_fp.c's.
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
#define DATA (FLAT_BASE + 0x8000)
#define EBREAK 0x00100073u
#define ONE32 0x3f800000u
#define ONE64 0x3ff0000000000000ull
#define TWO64 0x4000000000000000ull
#define BOX(v) (0xffffffff00000000ull | (v))

static uint32_t enc(unsigned id, unsigned rd, unsigned rs1, unsigned rs2)
{
	return rv64_row(id)->match | rd << 7 | rs1 << 15 | rs2 << 20;
}

static void run(struct flat *f, uint32_t word)
{
	uint32_t code[] = {rv64_insn_len(word) == 2 ? word | 1u << 16 : word, EBREAK};

	flat_put(f, CODE, code, 2);
	rv64_code_fence_i(&f->h);
	fp_host_enter(&f->h.fp);
	flat_run(f, CODE, 10);
	fp_host_leave(&f->h.fp);
}

static struct flat *make(void)
{
	struct flat *f = flat_new(RV64_EXT_ALL);

	fp_host_init(&f->h.fp);
	return f;
}

static void off_means_illegal(void **state)
{
	struct flat *f = make();

	for (unsigned id = RV_ILLEGAL + 1; id < RV_IDS; id++) {
		const struct rv64_row *r = rv64_row(id);
		uint32_t w = r->match;

		if (r->ext != EXT_F && r->ext != EXT_D && r->ext != EXT_CD)
			continue;
		if (r->fmt == FMT_FLOAD || r->fmt == FMT_FSTORE)
			w |= 8 << 15;
		for (unsigned i = 1; i < 32; i++)
			f->h.x[i] = DATA;
		f->h.fs = 0;
		run(f, w);
		if (f->cause != 2 || f->epc != CODE || f->tval != w)
			fail_msg("%s ran with FS off", r->text);
		f->h.fs = 1;
		run(f, w);
		if (f->cause != 3)
			fail_msg("%s did not run", r->text);
	}
	flat_free(f);
}

/* One case for each shape of instruction. */
static void operands_and_results(void **state)
{
	struct flat *f = make();
	struct hart *h = &f->h;

	h->fs = 1;
	h->f[1] = ONE64;
	h->f[2] = TWO64;
	h->f[3] = 0x4008000000000000; /* 3.0 */
	h->f[11] = BOX(ONE32);
	h->f[12] = BOX(0x40000000u); /* 2.0f */
	run(f, enc(RV_fadd_d, 4, 1, 2));
	assert_int_equal(h->f[4], 0x4008000000000000);
	assert_int_equal(h->fs, 3);
	run(f, enc(RV_fsub_s, 4, 11, 12));
	assert_int_equal(h->f[4], BOX(0xbf800000u));
	run(f, enc(RV_fmadd_d, 4, 2, 3) | 1u << 27); /* 2 * 3 + 1 */
	assert_int_equal(h->f[4], 0x401c000000000000);
	run(f, enc(RV_fmsub_d, 4, 2, 3) | 1u << 27);
	assert_int_equal(h->f[4], 0x4014000000000000);
	run(f, enc(RV_fnmsub_d, 4, 2, 3) | 1u << 27);
	assert_int_equal(h->f[4], 0xc014000000000000);
	run(f, enc(RV_fnmadd_d, 4, 2, 3) | 1u << 27);
	assert_int_equal(h->f[4], 0xc01c000000000000);
	for (uint32_t rm = 0; rm < 8; rm++) { /* the same by the slow twins */
		if (rm == 5 || rm == 6)
			continue;
		run(f, enc(RV_fnmsub_d, 4, 2, 3) | 1u << 27 | rm << 12);
		assert_int_equal(h->f[4], 0xc014000000000000);
		run(f, enc(RV_fmsub_s, 4, 12, 12) | 11u << 27 | rm << 12); /* 2 * 2 - 1 */
		assert_int_equal(h->f[4], BOX(0x40400000u));
	}
	run(f, enc(RV_fsqrt_d, 4, 2, 0));
	assert_int_equal(h->f[4], 0x3ff6a09e667f3bcd);
	run(f, enc(RV_feq_d, 5, 1, 1));
	assert_int_equal(h->x[5], 1);
	run(f, enc(RV_flt_d, 5, 2, 1));
	assert_int_equal(h->x[5], 0);
	run(f, enc(RV_fle_s, 0, 11, 12));
	assert_int_equal(h->x[0], 0);
	run(f, enc(RV_fclass_d, 5, 1, 0));
	assert_int_equal(h->x[5], 1 << 6);
	h->x[6] = (uint64_t)-3;
	run(f, enc(RV_fcvt_d_l, 4, 6, 0));
	assert_int_equal(h->f[4], 0xc008000000000000);
	run(f, enc(RV_fcvt_w_d, 5, 4, 0) | 1 << 12);
	assert_int_equal(h->x[5], (uint64_t)-3);
	run(f, enc(RV_fcvt_d_s, 4, 12, 0));
	assert_int_equal(h->f[4], TWO64);
	run(f, enc(RV_fcvt_s_d, 4, 3, 0) | 7 << 12);
	assert_int_equal(h->f[4], BOX(0x40400000u));
	flat_free(f);
}

static void boxes(void **state)
{
	struct flat *f = make();
	struct hart *h = &f->h;
	uint64_t mem = 0x1122334455667788;

	h->fs = 1;
	memcpy(f->ram + (DATA - FLAT_BASE), &mem, 8);
	h->x[6] = DATA;
	for (unsigned i = 0; i < 2; i++) { /* miss and hit */
		run(f, enc(RV_flw, 4, 6, 0));
		assert_int_equal(h->f[4], BOX(0x55667788u));
		run(f, enc(RV_fld, 4, 6, 0));
		assert_int_equal(h->f[4], mem);
	}
	/* An unboxed single is the canonical NaN to arithmetic and comparisons, but not to moves and stores. */
	h->f[1] = 0x123456783f800000;
	h->f[2] = BOX(ONE32);
	run(f, enc(RV_fadd_s, 3, 1, 2));
	assert_int_equal(h->f[3], BOX(0x7fc00000u));
	run(f, enc(RV_fsgnj_s, 3, 1, 2));
	assert_int_equal(h->f[3], BOX(0x7fc00000u));
	run(f, enc(RV_fclass_s, 5, 1, 0));
	assert_int_equal(h->x[5], 1 << 9);
	run(f, enc(RV_fmv_x_w, 5, 1, 0));
	assert_int_equal(h->x[5], 0x3f800000);
	h->x[7] = 0xaaaaaaaa80000001;
	run(f, enc(RV_fmv_w_x, 3, 7, 0));
	assert_int_equal(h->f[3], BOX(0x80000001u));
	run(f, enc(RV_fmv_x_w, 5, 3, 0));
	assert_int_equal(h->x[5], 0xffffffff80000001);
	for (unsigned i = 0; i < 2; i++) {
		mem = 0;
		memcpy(f->ram + (DATA - FLAT_BASE), &mem, 8);
		run(f, enc(RV_fsw, 0, 6, 1));
		memcpy(&mem, f->ram + (DATA - FLAT_BASE), 8);
		assert_int_equal(mem, 0x3f800000);
		run(f, enc(RV_fsd, 0, 6, 1));
		memcpy(&mem, f->ram + (DATA - FLAT_BASE), 8);
		assert_int_equal(mem, 0x123456783f800000);
	}
	flat_free(f);
}

static void rounding_modes(void **state)
{
	struct flat *f = make();
	struct hart *h = &f->h;
	/* 2.5 to an integer in each mode: even, zero, down, up, away */
	static const uint64_t want[] = {2, 2, 2, 3, 3};

	h->fs = 1;
	h->f[1] = 0x4004000000000000;
	for (uint32_t frm = 0; frm < 8; frm++) {
		fp_host_set_frm(&h->fp, frm);
		for (uint32_t rm = 0; rm < 5; rm++) {
			fp_host_set_flags(&h->fp, 0);
			run(f, enc(RV_fcvt_l_d, 5, 1, 0) | rm << 12);
			assert_int_equal(f->cause, 3);
			assert_int_equal(h->x[5], want[rm]);
			assert_int_equal(fp_host_flags(&h->fp), FP_NX);
		}
		h->x[5] = 99;
		run(f, enc(RV_fcvt_l_d, 5, 1, 0) | 7 << 12);
		if (frm < 5) {
			assert_int_equal(f->cause, 3);
			assert_int_equal(h->x[5], want[frm]);
		} else {
			assert_int_equal(f->cause, 2);
			assert_int_equal(h->x[5], 99);
			run(f, enc(RV_fcvt_d_w, 4, 5, 0) | 7 << 12);
			assert_int_equal(f->cause, 2);
			run(f, enc(RV_fadd_s, 4, 5, 0) | 7 << 12);
			assert_int_equal(f->cause, 2);
			run(f, enc(RV_fmin_d, 4, 5, 0));
			assert_int_equal(f->cause, 3);
		}
		run(f, enc(RV_fadd_s, 4, 5, 0) | 5 << 12);
		assert_int_equal(f->cause, 2);
	}
	flat_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(off_means_illegal),
		cmocka_unit_test(operands_and_results),
		cmocka_unit_test(boxes),
		cmocka_unit_test(rounding_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
