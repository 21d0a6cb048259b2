#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/postcopy.h"
#include "vm/migrate/ram.h"

#define BLOCK 512u /* words of the map that are told together */

struct post_give {
	const struct mig_ram *ram;
	uint64_t words;
	_Atomic uint64_t *todo; /* still to be sent, and not taken by anybody */
	uint64_t *told; /* that the destination knows of */
	uint64_t of;
	_Atomic uint64_t left, cursor, asked, wire;
	uint8_t page[MIG_PAGE];
};

int post_give_create(struct post_give **out, const struct mig_ram *ram, struct err *e)
{
	struct post_give *g = calloc(1, sizeof(*g));

	if (g) {
		g->ram = ram;
		g->words = (ram->pages + 63) / 64;
		g->todo = calloc(g->words, sizeof(*g->todo));
		g->told = calloc(g->words, sizeof(*g->told));
	}
	if (!g || !g->todo || !g->told) {
		post_give_free(g);
		return err_set(e, -ENOMEM, "post-copy: out of memory");
	}
	*out = g;
	return 0;
}

void post_give_free(struct post_give *g)
{
	if (!g)
		return;
	free((void *)g->todo);
	free(g->told);
	free(g);
}

static void add(struct post_give *g, uint64_t w, uint64_t bits)
{
	uint64_t more = bits & ~g->told[w];

	g->told[w] |= more;
	atomic_fetch_or(&g->todo[w], more);
	atomic_fetch_add(&g->left, (uint64_t)__builtin_popcountll(more));
	g->of += (uint64_t)__builtin_popcountll(more);
}

int post_give_lack(struct post_give *g, struct chan *c, const uint64_t *map, struct err *e)
{
	uint64_t block[BLOCK];
	int rc = 0;

	for (uint64_t w = 0; !rc && w < g->words; w += BLOCK) {
		unsigned n = (unsigned)MIN((uint64_t)BLOCK, g->words - w);
		bool any = false;

		for (unsigned i = 0; i < n; i++) {
			uint64_t more = map[w + i] & ~g->told[w + i];

			put_le64(&block[i], more);
			any |= more != 0;
			add(g, w + i, more);
		}
		if (any)
			rc = chan_send(c, MIG_LACK, w * 64, block, n * 8, e);
	}
	return rc;
}

static int learn(struct post_give *g, const struct mig_head *h, const uint64_t *map, struct err *e)
{
	uint64_t w = h->arg / 64, last = g->ram->pages % 64;

	if (h->arg % 64 || h->len % 8 || w > g->words || h->len / 8 > g->words - w)
		return err_set(e, -EBADMSG, "post-copy: a map of pages that do not exist");
	for (uint32_t i = 0; i < h->len / 8; i++)
		add(g, w + i, get_le64(&map[i]));
	if (last && g->told[g->words - 1] >> last)
		return err_set(e, -EBADMSG, "post-copy: a map of pages that do not exist");
	return 0;
}

int post_give_learn(struct post_give *g, struct chan *c, struct err *e)
{
	for (;;) {
		cleanup(free_ptr) void *payload = NULL;
		struct mig_head h;
		int rc = chan_recv(c, &h, &payload, e);

		if (rc)
			return rc;
		if (h.type == MIG_ACK)
			return 0;
		if (h.type != MIG_LACK)
			return err_set(e, -EBADMSG, "the other side said %u where %u was its turn",
				h.type, MIG_LACK);
		rc = learn(g, &h, payload, e);
		if (rc)
			return rc;
	}
}

bool post_give_next(struct post_give *g, uint64_t *word, uint64_t *bits)
{
	while (atomic_load(&g->left)) {
		uint64_t w = atomic_fetch_add(&g->cursor, 1) % g->words;

		if (!atomic_load_explicit(&g->todo[w], memory_order_relaxed))
			continue;
		*bits = atomic_exchange(&g->todo[w], 0);
		*word = w;
		atomic_fetch_sub(&g->left, (uint64_t)__builtin_popcountll(*bits));
		if (*bits)
			return true;
	}
	return false;
}

/* One that somebody pushes already is on its way. */
static bool take_page(struct post_give *g, uint64_t page)
{
	uint64_t bit = 1ull << (page % 64);

	if (!(atomic_fetch_and(&g->todo[page / 64], ~bit) & bit))
		return false;
	atomic_fetch_sub(&g->left, 1);
	return true;
}

static int answer(struct post_give *g, struct chan *c, struct mig_pack *pack,
	const struct mig_head *h, const uint64_t *want, struct err *e)
{
	static const struct mig_pack_opts plain = {0};
	const void *payload;
	uint64_t about;
	uint32_t len;

	/* `arg` is whatever the other side says: h->arg * 8 may overflow. */
	if (!h->len || h->len % 8 || h->arg != h->len / 8)
		return err_set(e, -EBADMSG, "post-copy: a question of %u bytes", h->len);
	for (uint32_t i = 0; i < h->len / 8; i++) {
		uint64_t page = get_le64(&want[i]);
		int rc;

		if (page >= g->ram->pages)
			return err_set(e, -EBADMSG, "post-copy: there is no page %llu",
				(unsigned long long)page);
		atomic_fetch_add(&g->asked, 1);
		/* What is near it will be wanted next. */
		atomic_store(&g->cursor, page / 64);
		if (!take_page(g, page))
			continue;
		rc = mig_ram_read(g->ram, page, 1, g->page);
		if (rc)
			return err_sys(e, rc, "migration: guest memory at page %llu",
				(unsigned long long)page);
		if (!mig_pack_add(pack, &plain, page, 1, g->page, 1)) /* MIG_WANT_MAX pages fit */
			return err_set(e, -E2BIG, "post-copy: too much is asked for at once");
	}
	len = mig_pack_take(pack, &payload, &about);
	atomic_fetch_add(&g->wire, len);
	return len ? chan_send(c, MIG_PAGES, about, payload, len, e) : 0;
}

int post_give_until(
	struct post_give *g, struct chan *c, struct mig_pack *pack, unsigned type, struct err *e)
{
	for (;;) {
		cleanup(free_ptr) void *payload = NULL;
		struct mig_head h;
		int rc = chan_await(c, e);

		/* Nobody asks while nobody waits, and the push is seen to move elsewhere. */
		if (rc == -ETIMEDOUT && type == MIG_WHOLE && atomic_load(&g->left))
			continue;
		rc = rc ?: chan_recv(c, &h, &payload, e);
		if (!rc && h.type == type)
			return 0;
		if (!rc && h.type != MIG_WANT)
			rc = err_set(e, -EBADMSG, "the other side said %u where %u was its turn",
				h.type, type);
		rc = rc ?: answer(g, c, pack, &h, payload, e);
		if (rc)
			return rc;
	}
}

void post_give_stat(const struct post_give *g, struct post_give_stat *out)
{
	*out = (struct post_give_stat){.of = g->of,
		.left = atomic_load(&g->left),
		.asked = atomic_load(&g->asked),
		.wire = atomic_load(&g->wire)};
}
