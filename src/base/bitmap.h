/*
 * bitmap.h: bits in an array of 64-bit words; bit 0 is the lowest of word 0.
 *
 * The caller owns the words (BITMAP_WORDS(n) of them) and says in each call how many bits there are
 * where that matters; bits of the last word above that are never looked at. No function checks a
 * single bit number against the size: that is the caller's.
 *
 * Plain calls want the owner's lock. The bitmap_atomic_* calls may run in any number of threads at
 * once; they order nothing but the bit itself unless said otherwise.
 */
#ifndef LODGE_BASE_BITMAP_H
#define LODGE_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITMAP_WORDS(bits) (((size_t)(bits) + 63) / 64)

static inline void bitmap_set(uint64_t *map, size_t bit)
{
	map[bit / 64] |= 1ull << (bit % 64);
}

static inline void bitmap_clear(uint64_t *map, size_t bit)
{
	map[bit / 64] &= ~(1ull << (bit % 64));
}

static inline bool bitmap_test(const uint64_t *map, size_t bit)
{
	return map[bit / 64] >> (bit % 64) & 1;
}

/* Bits [first, first + n). */
void bitmap_set_range(uint64_t *map, size_t first, size_t n);
void bitmap_clear_range(uint64_t *map, size_t first, size_t n);

/* The first set (clear) bit at or after `from`; `bits` when there is none. */
size_t bitmap_next(const uint64_t *map, size_t bits, size_t from);
size_t bitmap_next_clear(const uint64_t *map, size_t bits, size_t from);

/* How many bits are set. */
size_t bitmap_count(const uint64_t *map, size_t bits);

/* Sets (clears) the bit; true when this call changed it. Release and acquire on the word. */
static inline bool bitmap_atomic_set(uint64_t *map, size_t bit)
{
	uint64_t mask = 1ull << (bit % 64);

	/* many writers mark the same page again and again: do not take the cache line for that */
	if (__atomic_load_n(&map[bit / 64], __ATOMIC_ACQUIRE) & mask)
		return false;
	return !(__atomic_fetch_or(&map[bit / 64], mask, __ATOMIC_ACQ_REL) & mask);
}

static inline bool bitmap_atomic_clear(uint64_t *map, size_t bit)
{
	uint64_t mask = 1ull << (bit % 64);

	return __atomic_fetch_and(&map[bit / 64], ~mask, __ATOMIC_ACQ_REL) & mask;
}

static inline bool bitmap_atomic_test(const uint64_t *map, size_t bit)
{
	return __atomic_load_n(&map[bit / 64], __ATOMIC_ACQUIRE) >> (bit % 64) & 1;
}

void bitmap_atomic_set_range(uint64_t *map, size_t first, size_t n);

/* Takes word `i` and leaves zero, so that each set bit is seen by exactly one taker. */
static inline uint64_t bitmap_atomic_take(uint64_t *map, size_t i)
{
	if (!__atomic_load_n(&map[i], __ATOMIC_RELAXED))
		return 0;
	return __atomic_exchange_n(&map[i], 0, __ATOMIC_ACQ_REL);
}

#endif
