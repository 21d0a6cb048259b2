#include "disk/gather.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/pages.h"
#include "base/util.h"

#define SMALLEST (256 * KiB) /* below, few pieces are saved */
#define LARGEST MiB
#define PLACES 8u /* for so many at a time */
#define TRIES 16u
#define ROUND 512u

/* Of one way: what counted. */
struct took {
	uint64_t ns, bytes;
};

struct kind {
	unsigned n; /* requests */
	struct took way[2]; /* as it is, copied */
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

/* ns for a KiB. */
static uint64_t pace(const struct took *t)
{
	return t->ns / MAX(t->bytes / KiB, 1ull);
}

static bool better_copied(const struct kind *k)
{
	const struct took *plain = &k->way[false], *copied = &k->way[true];

	return plain->bytes && copied->bytes && pace(copied) + pace(copied) / 4 < pace(plain);
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
		k->way[0] = k->way[1] = (struct took){0};
	/* Those of the first half may share the device with ones that go the other way. */
	n->counts = at < 2 * TRIES && at % TRIES >= TRIES / 2;
	n->begun = n->counts ? clock_mono_ns() : 0;
	mem = at < TRIES || (at >= 2 * TRIES && !better_copied(k)) ? NULL : take(g);
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
	if (!n->counts || !ok)
		return;
	t->ns += clock_mono_ns() - n->begun;
	t->bytes += n->len;
}
