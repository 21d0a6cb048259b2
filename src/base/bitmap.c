#include "base/bitmap.h"

#include "base/util.h"

/* The bits of word `w` that are in [first, end). */
static uint64_t word_mask(size_t w, size_t first, size_t end)
{
	uint64_t mask = ~0ull;

	if (w == first / 64)
		mask &= ~0ull << (first % 64);
	if (w == end / 64)
		mask &= (1ull << (end % 64)) - 1;
	return mask;
}

void bitmap_set_range(uint64_t *map, size_t first, size_t n)
{
	for (size_t w = first / 64; n && w <= (first + n - 1) / 64; w++)
		map[w] |= word_mask(w, first, first + n);
}

void bitmap_clear_range(uint64_t *map, size_t first, size_t n)
{
	for (size_t w = first / 64; n && w <= (first + n - 1) / 64; w++)
		map[w] &= ~word_mask(w, first, first + n);
}

void bitmap_atomic_set_range(uint64_t *map, size_t first, size_t n)
{
	for (size_t w = first / 64; n && w <= (first + n - 1) / 64; w++) {
		uint64_t mask = word_mask(w, first, first + n);

		if ((__atomic_load_n(&map[w], __ATOMIC_ACQUIRE) & mask) != mask)
			__atomic_fetch_or(&map[w], mask, __ATOMIC_ACQ_REL);
	}
}

/* `flip` is 0 to look for set bits and ~0 for clear ones. */
static size_t next(const uint64_t *map, size_t bits, size_t from, uint64_t flip)
{
	uint64_t mask = ~0ull << (from % 64);

	if (from >= bits)
		return bits;
	for (size_t w = from / 64; w < BITMAP_WORDS(bits); w++) {
		uint64_t v = (map[w] ^ flip) & mask;

		if (v)
			return MIN(w * 64 + (size_t)__builtin_ctzll(v), bits);
		mask = ~0ull;
	}
	return bits;
}

size_t bitmap_next(const uint64_t *map, size_t bits, size_t from)
{
	return next(map, bits, from, 0);
}

size_t bitmap_next_clear(const uint64_t *map, size_t bits, size_t from)
{
	return next(map, bits, from, ~0ull);
}

size_t bitmap_count(const uint64_t *map, size_t bits)
{
	size_t n = 0;

	for (size_t w = 0; w < bits / 64; w++)
		n += (size_t)__builtin_popcountll(map[w]);
	if (bits % 64)
		n += (size_t)__builtin_popcountll(map[bits / 64] & ((1ull << (bits % 64)) - 1));
	return n;
}
