/*
 * ram.h: a machine's RAM by page number, as the stream names it: from 0 over all ranges in address order.
 *
 * Threads: any, after mig_ram_init(). Errors: those of space.h.
 */
#ifndef LODGE_VM_MIGRATE_RAM_H
#define LODGE_VM_MIGRATE_RAM_H

#include <stdint.h>

#include "memory/space.h"

struct mig_ram {
	struct space *space;
	struct {
		uint64_t gpa, pages, first;
	} range[64];
	unsigned nranges;
	uint64_t pages;
};

void mig_ram_init(struct mig_ram *r, struct space *s);
uint64_t mig_ram_page(const struct mig_ram *r, gpa_t a);
/* The page's address, and how many pages of its range begin with it. */
gpa_t mig_ram_gpa(const struct mig_ram *r, uint64_t page, uint64_t *left);
int mig_ram_read(const struct mig_ram *r, uint64_t first, unsigned n, void *to);
int mig_ram_write(const struct mig_ram *r, uint64_t first, unsigned n, const void *from);
/* The same for pages that have not been touched, which is quicker (frames_fill()), and leaves them mapped. -errno: some may be written, and mig_ram_write() may do it all. */
int mig_ram_fill(const struct mig_ram *r, uint64_t first, unsigned n, const void *from);
/* They read as zero afterwards, and cost the host nothing where that can be. */
int mig_ram_zero(const struct mig_ram *r, uint64_t first, uint64_t n);
/* How many pages from `page` on, at most `max`, nobody has ever touched: they are zero. */
uint64_t mig_ram_untouched(const struct mig_ram *r, uint64_t page, uint64_t max);

#endif
