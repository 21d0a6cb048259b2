/* tlb.c: the software TLB; priv.h says what it is. */
#include "cpu/rv64/priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

#define EMPTY UINT64_MAX
#define SHIFT_2M 21
#define SHIFT_1G 30

_Static_assert(TLB_TABLES > 2 * TLB_USES, "there is always a space to take tables from");

static void forget_walks(struct mmu *m)
{
	for (unsigned i = 0; i < TLB_WALKS; i++)
		m->walks[i].number = EMPTY;
	m->giant = false;
}

int mmu_create(struct hart *h, struct err *e)
{
	struct mmu *m = calloc(1, sizeof(*m));

	if (m)
		m->room = calloc(1, TLB_TABLES * sizeof(struct tlb) + 64);
	if (!m || !m->room) {
		free(m);
		return err_set(e, -ENOMEM, "hart: out of memory for its TLB");
	}
	for (unsigned i = TLB_TABLES; i-- > 0;)
		m->free[m->nfree++] = (struct tlb *)align_up((uintptr_t)m->room, 64) + i;
	for (unsigned i = 0; i < TLB_SPACES; i++)
		m->spaces[i].key = UINT64_MAX;
	m->now = &m->spaces[0];
	m->now->key = 0;
	memset(m->ram, 0xff, sizeof(m->ram));
	forget_walks(m);
	h->mmu = m;
	return 0;
}

void mmu_destroy(struct hart *h)
{
	if (!h->mmu)
		return;
	free(h->mmu->room);
	free(h->mmu);
	h->mmu = NULL;
}

/* ---- one table ---- */

static void clear_side(struct tlb_entry *e)
{
	memset(e, 0xff, TLB_SIZE * sizeof(*e));
}

static struct tlb_entry *entry(struct tlb *t, unsigned i)
{
	return i < TLB_SIZE ? &t->r[i] : &t->w[i - TLB_SIZE];
}

static void clear(struct tlb *t)
{
	if (t->nused <= TLB_USED) {
		for (unsigned i = 0; i < t->nused; i++)
			entry(t, t->used[i])->tag = EMPTY;
	} else {
		clear_side(t->r);
		clear_side(t->w);
	}
	t->nused = 0;
	t->local = t->large = t->huge = false;
}

static void clear_writes(struct tlb *t)
{
	if (t->nused > TLB_USED) {
		clear_side(t->w);
		return;
	}
	for (unsigned i = 0; i < t->nused; i++)
		if (t->used[i] >= TLB_SIZE)
			entry(t, t->used[i])->tag = EMPTY;
}

static unsigned hash(uint64_t n)
{
	return (unsigned)(n * 0x9e3779b97f4a7c15ull >> 56);
}

static bool test(const uint64_t *set, uint64_t n)
{
	return set[hash(n) / 64] >> (hash(n) % 64) & 1;
}

static void note_large(struct tlb *t, uint64_t page, uint64_t span)
{
	uint64_t *set = span > 1ull << SHIFT_2M ? t->large_1g : t->large_2m;
	unsigned i = hash(page >> (set == t->large_1g ? SHIFT_1G : SHIFT_2M));

	if (!t->large) {
		memset(t->large_2m, 0, sizeof(t->large_2m));
		memset(t->large_1g, 0, sizeof(t->large_1g));
		t->large = true;
	}
	set[i / 64] |= 1ull << (i % 64);
	/* 512 GiB leaves of Sv48: nothing is known but that there is one. */
	t->huge |= span > 1ull << SHIFT_1G;
}

void tlb_fill(
	struct hart *h, bool write, uint64_t page, const void *host, uint64_t span, bool global)
{
	struct tlb *t = h->cur;
	unsigned i = (unsigned)(page >> PAGE_SHIFT) & (TLB_SIZE - 1);

	if (write)
		i += TLB_SIZE; /* w follows r */
	*entry(t, i) = (struct tlb_entry){page, (uint64_t)(uintptr_t)host - page};
	if (t->nused < TLB_USED)
		t->used[t->nused++] = (uint16_t)i;
	else
		t->nused = TLB_USED + 1;
	if (!global)
		t->local = true;
	if (unlikely(span > PAGE_SIZE))
		note_large(t, page, span);
}

/* Entries of [lo, lo + span), which is aligned to its power of two. */
static void drop_range(struct tlb *t, uint64_t lo, uint64_t span)
{
	unsigned first = 0, n = TLB_SIZE;

	if (span >> PAGE_SHIFT < TLB_SIZE) {
		first = (unsigned)(lo >> PAGE_SHIFT) & (TLB_SIZE - 1);
		n = (unsigned)(span >> PAGE_SHIFT);
	}
	for (unsigned i = first; i < first + n; i++) {
		if ((t->r[i].tag & ~(span - 1)) == lo)
			t->r[i].tag = EMPTY;
		if ((t->w[i].tag & ~(span - 1)) == lo)
			t->w[i].tag = EMPTY;
	}
}

static void drop_page(struct tlb *t, uint64_t page)
{
	unsigned i = (unsigned)(page >> PAGE_SHIFT) & (TLB_SIZE - 1);

	if (t->r[i].tag == page)
		t->r[i].tag = EMPTY;
	if (t->w[i].tag == page)
		t->w[i].tag = EMPTY;
	if (!t->large)
		return;
	/* An address inside a large page stands for all of it. */
	if (t->huge)
		clear(t);
	else if (test(t->large_1g, page >> SHIFT_1G))
		drop_range(t, page & ~((1ull << SHIFT_1G) - 1), 1ull << SHIFT_1G);
	else if (test(t->large_2m, page >> SHIFT_2M))
		drop_range(t, page & ~((1ull << SHIFT_2M) - 1), 1ull << SHIFT_2M);
}

/* ---- spaces ---- */

/* The lowest bit of a set that is not empty. Sets are gone through by taking it away. */
static unsigned low(uint32_t set)
{
	return (unsigned)__builtin_ctz(set);
}

static void clear_space(struct tlb_space *s)
{
	for (uint32_t left = s->has; left; left &= left - 1)
		clear(s->tab[low(left)]);
}

/* What is not global. */
static void clear_local(struct tlb_space *s)
{
	for (uint32_t left = s->has; left; left &= left - 1)
		if (s->tab[low(left)]->local)
			clear(s->tab[low(left)]);
}

static void give_back(struct mmu *m, struct tlb_space *s)
{
	for (uint32_t left = s->has; left; left &= left - 1) {
		m->free[m->nfree++] = s->tab[low(left)];
		s->tab[low(left)] = NULL;
	}
	s->has = 0;
	m->have &= ~(1u << (s - m->spaces));
}

/* The space that was left longest ago; with tables to give back, if so wanted. */
static struct tlb_space *oldest(struct mmu *m, bool with_tables)
{
	struct tlb_space *best = NULL;

	for (unsigned i = 0; i < TLB_SPACES; i++) {
		struct tlb_space *s = &m->spaces[i];

		if (s != m->now && (s->has || !with_tables) && (!best || s->left < best->left))
			best = s;
	}
	return best;
}

static struct tlb *take_table(struct mmu *m)
{
	struct tlb *t;

	if (!m->nfree)
		give_back(m, oldest(m, true));
	t = m->free[--m->nfree];
	/* Memory that was never used reads as zero, which is a page. */
	if (!t->made)
		t->nused = TLB_USED + 1;
	t->made = true;
	clear(t);
	return t;
}

void mmu_choose(struct hart *h)
{
	struct mmu *m = h->mmu;
	unsigned use = h->regime;
	struct tlb_space *s = m->now;

	if (h->regime == REGIME_M) {
		s = &m->machine;
	} else {
		use += h->mstatus & MSTATUS_MXR ? REGIMES : 0;
		if (h->regime == REGIME_S && s->key)
			s = &m->super[s->key >> 60 == SATP_SV48];
	}
	if (unlikely(!s->tab[use])) {
		s->tab[use] = take_table(m);
		s->has |= 1u << use;
		if (s >= m->spaces && s < m->spaces + TLB_SPACES)
			m->have |= 1u << (s - m->spaces);
	}
	h->cur = s->tab[use];
}

void mmu_space(struct hart *h)
{
	struct mmu *m = h->mmu;
	uint64_t key = h->c.satp >> 60 == SATP_BARE ? 0 : h->c.satp;
	struct tlb_space *s = m->spaces;

	if (m->now->key == key)
		return;
	m->now->left = ++m->clock;
	for (unsigned i = 0; i < ARRAY_SIZE(m->super); i++)
		clear_local(&m->super[i]);
	while (s < m->spaces + TLB_SPACES && s->key != key)
		s++;
	if (s == m->spaces + TLB_SPACES) {
		s = oldest(m, false);
		give_back(m, s);
		s->key = key;
	}
	m->now = s;
	mmu_choose(h);
}

/* ---- flushes ---- */

void mmu_flush(struct hart *h)
{
	struct mmu *m = h->mmu;

	clear_space(&m->machine);
	for (unsigned i = 0; i < ARRAY_SIZE(m->super); i++)
		clear_space(&m->super[i]);
	for (uint32_t left = m->have; left; left &= left - 1)
		clear_space(&m->spaces[low(left)]);
	memset(m->ram, 0xff, sizeof(m->ram));
	forget_walks(m);
}

static void clear_space_writes(struct tlb_space *s)
{
	for (uint32_t left = s->has; left; left &= left - 1)
		clear_writes(s->tab[low(left)]);
}

void mmu_flush_writes(struct hart *h)
{
	struct mmu *m = h->mmu;

	clear_space_writes(&m->machine);
	for (unsigned i = 0; i < ARRAY_SIZE(m->super); i++)
		clear_space_writes(&m->super[i]);
	for (uint32_t left = m->have; left; left &= left - 1)
		clear_space_writes(&m->spaces[low(left)]);
}

static void drop_writes_to(struct tlb_space *s, uint64_t host)
{
	for (unsigned i = 0; i < TLB_USES; i++) {
		struct tlb *t = s->tab[i];

		if (!t || !t->nused)
			continue;
		for (unsigned k = 0; k < TLB_SIZE; k++)
			if (t->w[k].tag + t->w[k].add == host && t->w[k].tag != EMPTY)
				t->w[k].tag = EMPTY;
	}
}

void mmu_drop_writes_to(struct hart *h, const void *host)
{
	struct mmu *m = h->mmu;
	uint64_t at = (uintptr_t)host;

	drop_writes_to(&m->machine, at);
	for (unsigned i = 0; i < ARRAY_SIZE(m->super); i++)
		drop_writes_to(&m->super[i], at);
	for (unsigned i = 0; i < TLB_SPACES; i++)
		drop_writes_to(&m->spaces[i], at);
}

static bool has_asid(const struct tlb_space *s, uint64_t asid)
{
	return s->key && (s->key >> 44 & 0xffff) == (asid & 0xffff);
}

void mmu_flush_asid(struct hart *h, uint64_t asid)
{
	struct mmu *m = h->mmu;

	forget_walks(m);
	for (unsigned i = 0; i < ARRAY_SIZE(m->super); i++)
		clear_local(&m->super[i]);
	for (uint32_t left = m->have; left; left &= left - 1)
		if (has_asid(&m->spaces[low(left)], asid))
			clear_local(&m->spaces[low(left)]);
}

static void drop_in_space(struct tlb_space *s, uint64_t page)
{
	for (uint32_t left = s->has; left; left &= left - 1)
		drop_page(s->tab[low(left)], page);
}

void mmu_flush_va(struct hart *h, uint64_t va, const uint64_t *asid)
{
	struct mmu *m = h->mmu;
	uint64_t page = va & ~PAGE_MASK;

	/* Such a fence is about leaves only, but not every guest knows. An address in a leaf stands for all of it. */
	if (m->giant)
		forget_walks(m);
	else
		m->walks[va >> SHIFT_2M & (TLB_WALKS - 1)].number = EMPTY;
	for (unsigned i = 0; i < ARRAY_SIZE(m->super); i++)
		drop_in_space(&m->super[i], page);
	for (uint32_t left = m->have; left; left &= left - 1)
		if (!asid || has_asid(&m->spaces[low(left)], *asid))
			drop_in_space(&m->spaces[low(left)], page);
}
