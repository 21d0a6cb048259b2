/*
 * tlb.h: the pool of software TLB tables of one hart, inside the privileged half.
 *
 *	satp --> space (one of TLB_SPACES) --> a table for each way to use it (regime, MXR), made when first wanted
 *	h->cur --> the table of the current space and regime
 *
 * A change of mode or of space is a change of h->cur. S-mode without SUM sees no U pages, so one table serves it in all spaces: kernels mark what
 * they map there as global (G), and where one does not, the table is emptied when the space changes. When tables run out, the space that
 * was left longest ago gives its own back.
 *
 * What must be emptied is found by lists, not by looking at everything: a table remembers its first entries, and in which large pages
 * (by hash) entries lie that come of a leaf larger than 4 KiB, so that sfence.vma of one address finds all entries of its leaf.
 *
 * Threads: the hart's own, but for creation. About 0.8 MiB a hart, touched as it is used.
 */
#ifndef LODGE_CPU_RV64_TLB_H
#define LODGE_CPU_RV64_TLB_H

#include "cpu/rv64/priv.h"

#define TLB_TABLES 24u
#define TLB_SPACES 16u
#define TLB_USES 8u /* regime, MXR */
#define TLB_WALKS 64u
#define TLB_RAMS 256u /* 2 MiB pieces of RAM whose host addresses are known */

struct tlb_space {
	uint64_t key; /* satp; 0 when bare; UINT64_MAX: none */
	uint64_t left; /* when it was last current */
	struct tlb *tab[TLB_USES];
	unsigned has; /* bit i: tab[i] is there */
};

/* 2 MiB of guest-physical memory that is one piece of host memory and may be read. */
struct tlb_ram {
	uint64_t number; /* address >> 21; UINT64_MAX: empty */
	char *host;
	unsigned perm;
};

/* The last-level page table of 2 MiB of a space. */
struct tlb_walk {
	uint64_t number; /* address >> 21; UINT64_MAX: empty */
	uint64_t satp;
	uint64_t pa; /* of the table */
	char *host;
	bool global; /* an entry above it has G */
};

struct mmu {
	void *room; /* of the tables */
	struct tlb *free[TLB_TABLES];
	unsigned nfree;
	uint64_t clock;
	struct tlb_space *now;
	uint32_t have; /* spaces with tables */
	struct tlb_space machine; /* M-mode */
	struct tlb_space super[2]; /* S-mode without SUM in all spaces of Sv39, of Sv48 */
	struct tlb_space spaces[TLB_SPACES];
	struct tlb_ram ram[TLB_RAMS];
	struct tlb_walk walks[TLB_WALKS];
};

/* Takes the translation of `page` into one side (`write`) of h->cur. `span`: bytes that its leaf maps; 0: none. */
void tlb_fill(
	struct hart *h, bool write, uint64_t page, const void *host, uint64_t span, bool global);

#endif
