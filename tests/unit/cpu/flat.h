/*
 * flat.h: a hart over flat memory, for tests of the isa half alone: no MMU, no CSRs but mscratch, traps stop it.
 */
#ifndef LODGE_TESTS_UNIT_CPU_FLAT_H
#define LODGE_TESTS_UNIT_CPU_FLAT_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/rv64/block.h"

#define FLAT_BASE 0x80000000ull
#define FLAT_SIZE (1ull << 20)
#define FLAT_ALIAS 0xc0000000ull /* the same memory again, page by page as flat.map says */
#define FLAT_PAGES (FLAT_SIZE >> 12)

struct flat {
	struct hart h;
	struct tlb tlb;
	uint8_t *ram;
	uint16_t map[FLAT_PAGES];
	uint64_t span; /* what mem_fetch_page() says of the alias */
	bool trapped;
	uint64_t cause, epc, tval;
	uint64_t mscratch;
	unsigned fetches; /* calls of mem_fetch_page() */
};

struct flat *flat_new(uint64_t exts);
void flat_free(struct flat *f);
/* Puts code at `at` and runs from there until a trap or `max` instructions. */
void flat_put(struct flat *f, uint64_t at, const uint32_t *words, unsigned n);
void flat_run(struct flat *f, uint64_t pc, uint64_t max);

#endif
