#include "disk/gather.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/pages.h"
#include "base/util.h"

#define SMALLEST (256 * KiB) /* below, few pieces are saved */
#define LARGEST MiB
#define PLACES 8u /* for so many at a time */
#define SETTLE 8u /* so many share the device with ones that go the other way */
#define COUNT 16u
#define TRIES (SETTLE + COUNT)
#define ROUND 512u

/* Of one way: ns for a KiB, of each request that counted. */
struct took {
	unsigned n;
	uint64_t pace[COUNT];
};

struct kind {
	unsigned n; /* requests */
	struct took way[2]; /* as it is, copied */
	bool copies; /* what this round has shown */
};

struct gather {
	char *mem; /* PLACES * LARGEST; NULL until it is wanted */
	uint32_t busy; /* bits */
	struct kind kind[2]; /* reads, writes */
};

struct gather *gather_create(void)
{
	return calloc(1, sizeof(struct gather));
}

void gather_destroy(struct gather *g)
{
	if (g)
		pages_free(g->mem, PLACES * LARGEST);
	free(g);
}

/* The lowest place: the host backs those that are used. */
static void *take(struct gather *g)
{
	if (!g->mem)
		g->mem = pages_alloc(PLACES * LARGEST);
	for (unsigned i = 0; g->mem && i < PLACES; i++) {
		if (g->busy >> i & 1)
			continue;
		g->busy |= 1u << i;
		return g->mem + i * LARGEST;
	}
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* The median: what held up a few says nothing. 0: none counted. */
static uint64_t pace(struct took *t)
{
	qsort(t->pace, t->n, sizeof(t->pace[0]), by_value);
	return t->n ? t->pace[t->n / 2] : 0;
}

static bool better_copied(struct kind *k)
{
	uint64_t plain = pace(&k->way[false]), copied = pace(&k->way[true]);

	return copied && copied + copied / 4 < plain;
}

void *gather_begin(struct gather *g, bool write, uint64_t len, struct gather_note *n)
{
	struct kind *k = &g->kind[write];
	unsigned at;
	void *mem;

	*n = (struct gather_note){.write = write, .len = len};
	if (len < SMALLEST || len > LARGEST)
		return NULL;
	at = k->n++ % ROUND;
	if (!at)
		k->way[0].n = k->way[1].n = 0;
	if (at == 2 * TRIES)
		k->copies = better_copied(k);
	n->counts = at < 2 * TRIES && at % TRIES >= SETTLE;
	n->begun = n->counts ? clock_mono_ns() : 0;
	mem = at < TRIES || (at >= 2 * TRIES && !k->copies) ? NULL : take(g);
	n->copied = mem;
	/* None is left. */
	if (at >= TRIES && !mem)
		n->counts = false;
	return mem;
}

void gather_end(struct gather *g, const struct gather_note *n, void *mem, bool ok)
{
	struct took *t = &g->kind[n->write].way[n->copied];

	if (mem)
		g->busy &= ~(1u << ((char *)mem - g->mem) / LARGEST);
	if (n->counts && ok && t->n < COUNT)
		t->pace[t->n++] = (clock_mono_ns() - n->begun) / (n->len / KiB);
}
