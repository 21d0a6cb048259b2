/*
 * pmp.c: physical memory protection (privileged specification, section "Physical Memory Protection").
 *
 * 16 entries, granularity 4 bytes. Entries are decoded when they are written; most guests have one that allows
 * everything, and then nothing is checked at all.
 */
#include "cpu/rv64/block.h"
#include "cpu/rv64/priv.h"

#define PMP_R 1u
#define PMP_W 2u
#define PMP_X 4u
#define PMP_A(cfg) ((cfg) >> 3 & 3)
#define PMP_L 0x80u
enum { PMP_OFF, PMP_TOR, PMP_NA4, PMP_NAPOT };

static bool decode(const struct hart *h, unsigned i, struct pmp_range *r)
{
	uint64_t addr = h->c.pmpaddr[i], below = i ? h->c.pmpaddr[i - 1] : 0;

	r->cfg = h->c.pmpcfg[i];
	switch (PMP_A(r->cfg)) {
	case PMP_TOR:
		if (below >= addr)
			return false;
		r->lo = below << 2;
		r->hi = (addr << 2) - 1;
		return true;
	case PMP_NA4:
		r->lo = addr << 2;
		r->hi = r->lo + 3;
		return true;
	case PMP_NAPOT: {
		uint64_t ones = addr ^ (addr + 1); /* the low ones and the zero above them */

		r->lo = (addr & ~ones) << 2;
		r->hi = r->lo + (ones << 2 | 3);
		return true;
	}
	default:
		return false;
	}
}

void pmp_update(struct hart *h)
{
	h->pmp_n = 0;
	for (unsigned i = 0; i < PMP_ENTRIES; i++)
		if (decode(h, i, &h->pmp[h->pmp_n]))
			h->pmp_n++;
	h->pmp_open = h->pmp_n && h->pmp[0].lo == 0 && h->pmp[0].hi >= (1ull << 56) - 1 &&
		      (h->pmp[0].cfg & 7) == 7;
	mmu_flush(h);
	rv64_code_flush(h);
}

bool pmp_check(const struct hart *h, uint64_t pa, uint64_t len, unsigned acc, unsigned priv)
{
	uint64_t end = pa + len - 1;

	if (h->pmp_open)
		return true;
	for (unsigned i = 0; i < h->pmp_n; i++) {
		const struct pmp_range *r = &h->pmp[i];

		if (end < r->lo || pa > r->hi)
			continue;
		/* The lowest entry that matches any byte decides, and must match all of them. */
		if (pa < r->lo || end > r->hi)
			return false;
		if (priv == PRIV_M && !(r->cfg & PMP_L))
			return true;
		return ((r->cfg & PMP_R ? MEM_READ : 0) | (r->cfg & PMP_W ? MEM_WRITE : 0) |
			       (r->cfg & PMP_X ? MEM_EXEC : 0)) &
		       acc;
	}
	return priv == PRIV_M;
}

bool pmp_page_uniform(const struct hart *h, uint64_t pa)
{
	uint64_t lo = align_down(pa, PAGE_SIZE), hi = lo + PAGE_SIZE - 1;

	if (h->pmp_open)
		return true;
	for (unsigned i = 0; i < h->pmp_n; i++) {
		const struct pmp_range *r = &h->pmp[i];

		if (hi < r->lo || lo > r->hi)
			continue;
		return lo >= r->lo && hi <= r->hi;
	}
	return true;
}
