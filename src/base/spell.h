/*
 * spell.h: which of the known names did the user mean?
 *
 * Distance: insertions, deletions, changes and swaps of neighbours (optimal string alignment, the
 * restricted Damerau-Levenshtein distance), each 1.
 */
#ifndef LODGE_BASE_SPELL_H
#define LODGE_BASE_SPELL_H

#include <stddef.h>

/* Texts longer than 63 bytes count as infinitely far (SIZE_MAX) unless they are equal. */
size_t spell_distance(const char *a, const char *b);

/*
 * Offers a candidate to the search for the name nearest to `word`. Start with {0}; `best` is NULL
 * while nothing is near enough to be worth naming (a third of the word's length, at least 1, at
 * most 3 away; or the word is a prefix of at least 3 letters).
 */
struct spell {
	const char *best;
	size_t distance;
};
void spell_offer(struct spell *s, const char *word, const char *candidate);

/* The nearest of n names, or NULL. */
const char *spell_nearest(const char *word, const char *const *names, size_t n);

#endif
