#include "vm/migrate/ram.h"

#include <errno.h>

#include "base/util.h"

#define FILL_MAX 64u /* pages: fewer are not worth a call to the host */

void mig_ram_init(struct mig_ram *r, struct space *s)
{
	const struct space_ram *ram;

	*r = (struct mig_ram){.space = s};
	while (r->nranges < ARRAY_SIZE(r->range) && (ram = space_ram(s, r->nranges))) {
		r->range[r->nranges].gpa = ram->base.v;
		r->range[r->nranges].pages = ram->len / PAGE_SIZE;
		r->range[r->nranges++].first = r->pages;
		r->pages += ram->len / PAGE_SIZE;
	}
}

uint64_t mig_ram_page(const struct mig_ram *r, gpa_t a)
{
	unsigned k = r->nranges - 1;

	while (k && r->range[k].gpa > a.v)
		k--;
	return r->range[k].first + (a.v - r->range[k].gpa) / PAGE_SIZE;
}

gpa_t mig_ram_gpa(const struct mig_ram *r, uint64_t page, uint64_t *left)
{
	unsigned k = r->nranges - 1;

	while (k && r->range[k].first > page)
		k--;
	*left = r->range[k].first + r->range[k].pages - page;
	return gpa(r->range[k].gpa + (page - r->range[k].first) * PAGE_SIZE);
}

int mig_ram_read(const struct mig_ram *r, uint64_t first, unsigned n, void *to)
{
	char *at = to;
	uint64_t left;
	int rc = 0;

	for (unsigned k; !rc && n; first += k, n -= k, at += k * PAGE_SIZE) {
		gpa_t a = mig_ram_gpa(r, first, &left);

		k = (unsigned)MIN((uint64_t)n, left);
		rc = space_read(r->space, a, at, k * PAGE_SIZE);
	}
	return rc;
}

int mig_ram_write(const struct mig_ram *r, uint64_t first, unsigned n, const void *from)
{
	const char *at = from;
	uint64_t left;
	int rc = 0;

	for (unsigned k; !rc && n; first += k, n -= k, at += k * PAGE_SIZE) {
		gpa_t a = mig_ram_gpa(r, first, &left);

		k = (unsigned)MIN((uint64_t)n, left);
		rc = space_write(r->space, a, at, k * PAGE_SIZE);
	}
	return rc;
}

/* In leaves: what lies behind each other for the guest need not do so in the file. */
int mig_ram_fill(const struct mig_ram *r, uint64_t first, unsigned n, const void *from)
{
	unsigned in = space_hold(r->space);
	const char *at = from;
	struct view_leaf l;
	uint64_t left, k;
	int rc = 0;

	for (; !rc && n; first += k, n -= (unsigned)k, at += k * PAGE_SIZE) {
		gpa_t a = mig_ram_gpa(r, first, &left);

		rc = view_lookup(space_view(r->space, 0), a, &l);
		if (rc)
			break;
		k = (1ull << l.order) - (a.v / PAGE_SIZE & ((1ull << l.order) - 1));
		k = MIN(k, left);
		k = MIN(k, (uint64_t)n);
		space_announce(r->space, a, k * PAGE_SIZE);
		rc = frames_fill(space_frames(r->space), l.mfn, k, at);
	}
	space_release(r->space, in);
	return rc;
}

int mig_ram_zero(const struct mig_ram *r, uint64_t first, uint64_t n)
{
	uint64_t left, k;
	int rc = 0;

	for (; !rc && n; first += k, n -= k) {
		gpa_t a = mig_ram_gpa(r, first, &left);

		k = MIN(n, left);
		rc = k < FILL_MAX ? space_fill(r->space, a, 0, k * PAGE_SIZE)
				  : space_discard(r->space, a, k * PAGE_SIZE);
	}
	return rc;
}

uint64_t mig_ram_untouched(const struct mig_ram *r, uint64_t page, uint64_t max)
{
	uint64_t left;
	gpa_t a = mig_ram_gpa(r, page, &left);

	return space_untouched(r->space, a, MIN(max, left));
}
