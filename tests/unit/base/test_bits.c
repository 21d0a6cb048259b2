#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <pthread.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/hex.h"
#include "base/pages.h"
#include "base/util.h"

#define BITS 200

static void ranges_touch_only_their_bits(void **state)
{
	for (size_t first = 0; first < BITS; first += 7) {
		for (size_t n = 0; first + n <= BITS; n += 9) {
			uint64_t set[BITMAP_WORDS(BITS)] = {0}, atomic[BITMAP_WORDS(BITS)] = {0};
			uint64_t clear[BITMAP_WORDS(BITS)];

			memset(clear, 0xff, sizeof(clear));
			bitmap_set_range(set, first, n);
			bitmap_atomic_set_range(atomic, first, n);
			bitmap_clear_range(clear, first, n);
			for (size_t i = 0; i < BITS; i++) {
				bool in = i >= first && i < first + n;

				assert_int_equal(bitmap_test(set, i), in);
				assert_int_equal(bitmap_atomic_test(atomic, i), in);
				assert_int_equal(bitmap_test(clear, i), !in);
			}
			assert_int_equal(bitmap_count(set, BITS), n);
			assert_int_equal(bitmap_next(set, BITS, 0), n ? first : BITS);
			assert_int_equal(bitmap_next_clear(clear, BITS, 0), n ? first : BITS);
			assert_int_equal(bitmap_next(set, BITS, first + n), BITS);
		}
	}
}

static void next_ignores_bits_above_the_size(void **state)
{
	uint64_t map[2] = {0, 1ull << 20};

	assert_int_equal(bitmap_next(map, 70, 0), 70);
	assert_int_equal(bitmap_next(map, 85, 0), 84);
	assert_int_equal(bitmap_next(map, 85, 85), 85);
	assert_int_equal(bitmap_count(map, 84), 0);
	assert_int_equal(bitmap_count(map, 85), 1);
	assert_int_equal(bitmap_next(map, 0, 0), 0);
}

static void set_tells_who_was_first(void **state)
{
	uint64_t map[2] = {0};

	assert_true(bitmap_atomic_set(map, 77));
	assert_false(bitmap_atomic_set(map, 77));
	assert_true(bitmap_atomic_clear(map, 77));
	assert_false(bitmap_atomic_clear(map, 77));
	bitmap_set(map, 3);
	assert_int_equal(bitmap_atomic_take(map, 0), 8);
	assert_int_equal(bitmap_atomic_take(map, 0), 0);
	bitmap_set(map, 3);
	bitmap_clear(map, 3);
	assert_int_equal(map[0], 0);
}

struct race {
	uint64_t map[64];
	unsigned wins;
};

static void *racer(void *arg)
{
	struct race *r = arg;
	unsigned wins = 0;

	for (size_t i = 0; i < 64 * 64; i++)
		wins += bitmap_atomic_set(r->map, i);
	__atomic_fetch_add(&r->wins, wins, __ATOMIC_RELAXED);
	return NULL;
}

static void every_bit_has_one_winner(void **state)
{
	struct race r = {.wins = 0};
	pthread_t t[3];

	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, racer, &r), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(r.wins, 64 * 64);
	assert_int_equal(bitmap_count(r.map, 64 * 64), 64 * 64);
}

static void bytes_have_the_named_order(void **state)
{
	uint8_t b[11] = {0};

	put_le32(b + 1, 0x01020304);
	assert_int_equal(b[1], 4);
	assert_int_equal(get_le32(b + 1), 0x01020304);
	put_be32(b + 1, 0x01020304);
	assert_int_equal(b[1], 1);
	assert_int_equal(get_be32(b + 1), 0x01020304);
	assert_int_equal(get_le16(b + 1), 0x0201);
	put_le64(b + 3, 0x1122334455667788);
	assert_int_equal(b[3], 0x88);
	assert_true(get_le64(b + 3) == 0x1122334455667788);
	assert_true(get_be64(b + 3) == 0x8877665544332211);
	put_le16(b, 0xabcd);
	assert_int_equal(get_be16(b), 0xcdab);
}

static void hex_goes_both_ways(void **state)
{
	const uint8_t in[] = {0, 0x1f, 0xab, 0xff};
	uint8_t out[4];
	char text[9];

	hex_put(text, in, 4);
	assert_string_equal(text, "001fabff");
	assert_int_equal(hex_get(out, 4, "001FABff"), 0);
	assert_memory_equal(in, out, 4);
	assert_int_equal(hex_get(out, 4, "001fabf"), -EINVAL);
	assert_int_equal(hex_get(out, 4, "001fabff0"), -EINVAL);
	assert_int_equal(hex_get(out, 4, "001fabfg"), -EINVAL);
	assert_int_equal(hex_get(out, 0, ""), 0);
}

static void pages_are_large_and_zero(void **state)
{
	static const size_t len[] = {1, 4096, 2 * MiB, 2 * MiB + 1, 5 * MiB};

	for (size_t i = 0; i < ARRAY_SIZE(len); i++) {
		char *p = pages_alloc(len[i]);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % (2 * MiB), 0);
		for (size_t k = 0; k < len[i]; k += 1024)
			assert_int_equal(p[k], 0);
		memset(p, 1, len[i]);
		pages_free(p, len[i]);
	}
	pages_free(NULL, 4096);
	assert_null(pages_alloc(SIZE_MAX / 2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_large_and_zero),
		cmocka_unit_test(ranges_touch_only_their_bits),
		cmocka_unit_test(next_ignores_bits_above_the_size),
		cmocka_unit_test(set_tells_who_was_first),
		cmocka_unit_test(every_bit_has_one_winner),
		cmocka_unit_test(bytes_have_the_named_order),
		cmocka_unit_test(hex_goes_both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
