#include "base/spell.h"

#include <stdint.h>
#include <string.h>

#include "base/util.h"

#define LONGEST 63

size_t spell_distance(const char *a, const char *b)
{
	size_t na = strlen(a), nb = strlen(b);
	size_t rows[3][LONGEST + 1];
	size_t *before = rows[0], *above = rows[1], *row = rows[2];

	if (!strcmp(a, b))
		return 0;
	if (na > LONGEST || nb > LONGEST)
		return SIZE_MAX;
	for (size_t j = 0; j <= nb; j++)
		above[j] = before[j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t *free_row = before;

		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t d = above[j - 1] + (a[i - 1] != b[j - 1]);

			d = MIN(d, above[j] + 1);
			d = MIN(d, row[j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d = MIN(d, before[j - 2] + 1);
			row[j] = d;
		}
		before = above;
		above = row;
		row = free_row;
	}
	return above[nb];
}

void spell_offer(struct spell *s, const char *word, const char *candidate)
{
	size_t len = strlen(word);
	size_t d = spell_distance(word, candidate);
	size_t far = MIN(MAX(len / 3, (size_t)1), (size_t)3);

	if (d > far) {
		if (len < 3 || strncmp(word, candidate, len))
			return;
		d = far + 1; /* a beginning: worth naming when nothing is nearer */
	}
	if (s->best && s->distance <= d)
		return;
	s->best = candidate;
	s->distance = d;
}

const char *spell_nearest(const char *word, const char *const *names, size_t n)
{
	struct spell s = {0};

	for (size_t i = 0; i < n; i++)
		spell_offer(&s, word, names[i]);
	return s.best;
}
