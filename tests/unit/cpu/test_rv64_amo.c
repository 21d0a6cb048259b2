/*
 * A: every read-modify-write with its edge values, LR/SC, and real threads.
 */
#include <pthread.h>
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

static uint32_t enc(unsigned id, unsigned rd, unsigned rs1, unsigned rs2)
{
	return rv64_row(id)->match | rd << 7 | rs1 << 15 | rs2 << 20;
}

/* mem: before; b: x[rs2]; after: memory; rd: what the register gets */
static const struct {
	unsigned id;
	uint64_t mem, b, after, rd;
} cases[] = {
	{RV_amoswap_w, 0x1111111180000000, 0x2222222200000005, 0x1111111100000005,
		0xffffffff80000000},
	{RV_amoadd_w, 0x11111111ffffffff, 1, 0x1111111100000000, UINT64_MAX},
	{RV_amoxor_w, 0xffffffffffffffff, 0xf, 0xfffffffffffffff0, UINT64_MAX},
	{RV_amoand_w, 0xffffffff0000ffff, 0xff00, 0xffffffff0000ff00, 0xffff},
	{RV_amoor_w, 1, 0x80000000, 0x80000001, 1},
	{RV_amomin_w, 0x80000000, 1, 0x80000000, 0xffffffff80000000},
	{RV_amomin_w, 5, 0xffffffff, 0xffffffff, 5},
	{RV_amomax_w, 0x80000000, 1, 1, 0xffffffff80000000},
	{RV_amomax_w, 5, 0xf00000004, 5, 5},
	{RV_amominu_w, 0x80000000, 1, 1, 0xffffffff80000000},
	{RV_amominu_w, 3, 0xffffffff80000000, 3, 3},
	{RV_amomaxu_w, 1, 0xffffffff80000000, 0x80000000, 1},
	{RV_amoswap_d, 1, UINT64_MAX, UINT64_MAX, 1},
	{RV_amoadd_d, UINT64_MAX, 2, 1, UINT64_MAX},
	{RV_amoxor_d, 0xff, 0xf0, 0x0f, 0xff},
	{RV_amoand_d, 0xff, 0xf0f, 0x0f, 0xff},
	{RV_amoor_d, 0xf0, 0x0f, 0xff, 0xf0},
	{RV_amomin_d, 1ull << 63, 0, 1ull << 63, 1ull << 63},
	{RV_amomax_d, 1ull << 63, 0, 0, 1ull << 63},
	{RV_amominu_d, 1ull << 63, 0, 0, 1ull << 63},
	{RV_amomaxu_d, 1ull << 63, 0, 1ull << 63, 1ull << 63},
};

static void run(struct flat *f, uint32_t word)
{
	uint32_t code[] = {word, EBREAK};

	flat_put(f, CODE, code, 2);
	rv64_code_fence_i(&f->h);
	flat_run(f, CODE, 10);
}

static void read_modify_write(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint64_t got;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		for (unsigned k = 0; k < 10; k++) {
			/* k: all four orders, rd x0, rd = rs2, rd = rs1, and with a TLB entry */
			uint32_t order = (k & 3) << 25;
			unsigned rd = k == 4 ? 0 : k == 5 ? 6 : k == 6 ? 5 : 7;

			memcpy(f->ram + (DATA - FLAT_BASE), &cases[i].mem, 8);
			if (k == 9)
				run(f, 0x0002b003 | 8 << 7); /* ld x8: fills the TLB */
			h->x[5] = DATA;
			h->x[6] = cases[i].b;
			run(f, enc(cases[i].id, rd, 5, 6) | order);
			assert_int_equal(f->cause, 3);
			memcpy(&got, f->ram + (DATA - FLAT_BASE), 8);
			if (got != cases[i].after || h->x[rd] != (rd ? cases[i].rd : 0))
				fail_msg("%s: memory %#llx, rd %#llx", rv64_row(cases[i].id)->text,
					(long long)got, (long long)h->x[rd]);
		}
	flat_free(f);
}

static void misaligned_ones_trap(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);

	f->h.x[5] = DATA + 2;
	f->h.x[6] = 0;
	run(f, enc(RV_amoadd_w, 7, 5, 6));
	assert_int_equal(f->cause, 6);
	assert_int_equal(f->tval, DATA + 2);
	f->h.x[5] = DATA + 4;
	run(f, enc(RV_amoadd_w, 7, 5, 6));
	assert_int_equal(f->cause, 3);
	run(f, enc(RV_amoadd_d, 7, 5, 6));
	assert_int_equal(f->cause, 6);
	run(f, enc(RV_sc_d, 7, 5, 6));
	assert_int_equal(f->cause, 6);
	run(f, enc(RV_lr_d, 7, 5, 0));
	assert_int_equal(f->cause, 4);
	assert_int_equal(f->epc, CODE);
	flat_free(f);
}

static void reserved_and_conditional(void **state)
{
	struct flat *f = flat_new(RV64_EXT_ALL);
	struct hart *h = &f->h;
	uint32_t pair[] = {
		enc(RV_lr_w, 7, 5, 0), enc(RV_sc_w, 8, 5, 6), enc(RV_sc_w, 9, 5, 6), EBREAK};
	uint32_t other[] = {enc(RV_lr_w, 7, 5, 0), 0x00428293 /* addi x5, x5, 4 */,
		enc(RV_sc_w, 8, 5, 6), 0xffc28293, enc(RV_sc_w, 9, 5, 6), EBREAK};
	uint32_t changed[] = {enc(RV_lr_d, 7, 5, 0), 0x0062b023 /* sd x6, 0(x5) */,
		enc(RV_sc_d, 8, 5, 0), EBREAK};
	uint64_t mem = 0x1111111180000000;

	memcpy(f->ram + (DATA - FLAT_BASE), &mem, 8);
	h->x[5] = DATA;
	h->x[6] = 0x7fffffffff;
	flat_put(f, CODE, pair, 4);
	flat_run(f, CODE, 10);
	assert_int_equal(h->x[7], 0xffffffff80000000);
	assert_int_equal(h->x[8], 0);
	assert_int_equal(h->x[9], 1); /* the reservation is used up */
	memcpy(&mem, f->ram + (DATA - FLAT_BASE), 8);
	assert_int_equal(mem, 0x11111111ffffffff);

	/* The same with both in the TLB. */
	mem = 0x1111111180000000;
	memcpy(f->ram + (DATA - FLAT_BASE), &mem, 8);
	run(f, 0x0002b003 | 20 << 7); /* ld x20, 0(x5) */
	h->x[20] = mem;
	run(f, 0x0142b023); /* sd x20, 0(x5) */
	flat_put(f, CODE, pair, 4);
	rv64_code_fence_i(h);
	flat_run(f, CODE, 10);
	assert_int_equal(h->x[7], 0xffffffff80000000);
	assert_int_equal(h->x[8], 0);
	assert_int_equal(h->x[9], 1);
	memcpy(&mem, f->ram + (DATA - FLAT_BASE), 8);
	assert_int_equal(mem, 0x11111111ffffffff);

	/* Another address: fails, and ends the reservation. */
	flat_put(f, CODE, other, ARRAY_SIZE(other));
	rv64_code_fence_i(h);
	flat_run(f, CODE, 10);
	assert_int_equal(h->x[8], 1);
	assert_int_equal(h->x[9], 1);

	/* Memory has another value by then. */
	flat_put(f, CODE, changed, ARRAY_SIZE(changed));
	rv64_code_fence_i(h);
	flat_run(f, CODE, 10);
	assert_int_equal(h->x[8], 1);
	memcpy(&mem, f->ram + (DATA - FLAT_BASE), 8);
	assert_int_equal(mem, h->x[6]);
	flat_free(f);
}

/* Two harts, one word: amoadd, and an LR/SC loop, lose nothing. */
#define ROUNDS 200000

static void *count(void *arg)
{
	flat_run(arg, CODE, UINT64_MAX / 2);
	return NULL;
}

static void harts_lose_no_update(void **state)
{
	/* x10: rounds; x5: amoadd counter; x5 + 8: LR/SC counter */
	uint32_t code[] = {
		0x00100313, /* li x6, 1 */
		0x0062a02f, /* amoadd.w x0, x6, (x5) */
		0x00828393, /* addi x7, x5, 8 */
		0x1003b42f, /* lr.d x8, (x7) */
		0x00140413, /* addi x8, x8, 1 */
		0x1883b4af, /* sc.d x9, x8, (x7) */
		0xfe049ae3, /* bnez x9, -12 */
		0xfff50513, /* addi x10, x10, -1 */
		0xfe0512e3, /* bnez x10, -28 */
		EBREAK,
	};
	struct flat *f[2];
	uint8_t *own;
	pthread_t t;
	uint64_t v[2];

	for (unsigned i = 0; i < 2; i++) {
		f[i] = flat_new(RV64_EXT_ALL);
		f[i]->h.x[5] = DATA;
		f[i]->h.x[10] = ROUNDS;
	}
	own = f[1]->ram;
	f[1]->ram = f[0]->ram;
	flat_put(f[0], CODE, code, ARRAY_SIZE(code));
	assert_int_equal(pthread_create(&t, NULL, count, f[1]), 0);
	count(f[0]);
	pthread_join(t, NULL);
	memcpy(v, f[0]->ram + (DATA - FLAT_BASE), 16);
	assert_int_equal(f[0]->cause, 3);
	assert_int_equal(f[1]->cause, 3);
	assert_int_equal(v[0], 2 * ROUNDS);
	assert_int_equal(v[1], 2 * ROUNDS);
	f[1]->ram = own;
	flat_free(f[0]);
	flat_free(f[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_modify_write),
		cmocka_unit_test(misaligned_ones_trap),
		cmocka_unit_test(reserved_and_conditional),
		cmocka_unit_test(harts_lose_no_update),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
