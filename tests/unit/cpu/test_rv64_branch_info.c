/* The table of far branches: what a line has, by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/rv64/frontend/branch_info.h"

static void put(uint8_t *at, uint32_t word)
{
	memcpy(at, &word, 4);
}

static uint32_t jal(unsigned rd, int32_t to)
{
	uint32_t v = (uint32_t)to;

	return 0x6f | rd << 7 | (v >> 20 & 1) << 31 | (v >> 1 & 0x3ff) << 21 | (v >> 11 & 1) << 20 |
	       (v >> 12 & 0xff) << 12;
}

static uint32_t beq(int32_t to)
{
	uint32_t v = (uint32_t)to;

	return 0x63 | 10u << 15 | (v >> 12 & 1) << 31 | (v >> 5 & 0x3f) << 25 |
	       (v >> 1 & 0xf) << 8 | (v >> 11 & 1) << 7;
}

static void line_by_hand(void **state)
{
	struct branch_table *b = malloc(branch_table_bytes(16));
	struct rv64_decoder d;
	const struct branch_line *l;
	uint8_t line[2 * BRANCH_LINE];

	rv64_decoder_init(&d, RV64_EXT_ALL);
	branch_table_init(b, 16);
	for (unsigned i = 0; i < sizeof(line); i += 4)
		put(line + i, 0x13);
	put(line + 4, beq(40)); /* in this line */
	put(line + 8, beq(80)); /* in the next */
	put(line + 12, beq(120)); /* beyond */
	put(line + 16, jal(1, -4096));
	put(line + 20, jal(0, 2048));
	put(line + 24, 0x00008067); /* ret */
	put(line + 28, 0x000500e7); /* jalr ra, (a0): the fifth */

	assert_null(branch_find(b, 0x80001040));
	l = branch_fill(b, &d, 0x80001044, line, sizeof(line), 0);
	assert_ptr_equal(l, branch_find(b, 0x8000107f));
	assert_null(branch_find(b, 0x80001080));
	assert_int_equal(l->n, BRANCH_FAR);
	assert_int_equal(l->far[0].off, 12);
	assert_int_equal(l->far[0].kind, BRANCH_COND);
	assert_int_equal(l->far[0].to, 132);
	assert_int_equal(l->far[1].kind, BRANCH_CALL);
	assert_int_equal(l->far[1].to, 16 - 4096);
	assert_int_equal(l->far[2].kind, BRANCH_JUMP);
	assert_int_equal(l->far[2].to, 20 + 2048);
	assert_int_equal(l->far[3].kind, BRANCH_RETURN);
	assert_int_equal(l->far[3].to, BRANCH_UNKNOWN);

	branch_learn(b, 0x80001040 + 24, 4000);
	branch_learn(b, 0x80001040 + 12, 4000); /* not indirect */
	assert_int_equal(l->far[3].to, 4000);
	assert_int_equal(l->far[0].to, 132);

	/* From a later instruction on: what comes before is not known. */
	l = branch_fill(b, &d, 0x80001040, line, sizeof(line), 20);
	assert_int_equal(l->n, 3);
	assert_int_equal(l->far[2].kind, BRANCH_INDIRECT_CALL);

	/* Another line in its place; then nothing. */
	branch_fill(b, &d, 0x80001440, line, sizeof(line), 0);
	assert_null(branch_find(b, 0x80001040));
	branch_forget(b, 0x80001400, 4096);
	assert_null(branch_find(b, 0x80001440));
	free(b);
}

/* The last instruction reaches out of what may be read; encodings that are none are passed over. */
static void ends(void **state)
{
	struct branch_table *b = malloc(branch_table_bytes(1));
	struct rv64_decoder d;
	uint8_t line[BRANCH_LINE];

	rv64_decoder_init(&d, RV64_EXT_ALL);
	branch_table_init(b, 1);
	for (unsigned i = 0; i < sizeof(line); i += 2)
		memcpy(line + i, &(uint16_t){0x0001}, 2); /* c.nop */
	memcpy(line + 62, &(uint16_t){0x006f}, 2); /* half a jal */
	assert_int_equal(branch_fill(b, &d, 0, line, sizeof(line), 2)->n, 0);
	put(line + 8, 0);
	put(line + 12, jal(1, 4096));
	assert_int_equal(branch_fill(b, &d, 0, line, sizeof(line), 0)->n, 1);
	assert_int_equal(branch_fill(b, &d, 0, line, sizeof(line), 12)->n, 1);
	assert_int_equal(b->fills, 3);
	free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(line_by_hand), cmocka_unit_test(ends)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
