/*
 * random.h: numbers that are the same at every run (xorshift64, G. Marsaglia, "Xorshift RNGs"). The state is the caller's, and never 0.
 */
#ifndef LODGE_TESTS_RANDOM_H
#define LODGE_TESTS_RANDOM_H

#include <stdint.h>

#define RANDOM_SEED 88172645463325252ull

/* One of 0 .. n - 1. */
static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state % n;
}

#endif
