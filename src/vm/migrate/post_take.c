#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "memory/uffd.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/postcopy.h"
#include "vm/migrate/ram.h"

#define SEGS 256u
#define FAULTS 16u

/* RAM that is in one piece both for the guest and for this process. */
struct seg {
	uint8_t *host;
	uint64_t first, pages;
};

struct post_take {
	const struct mig_ram *ram;
	struct uffd *uffd;
	struct seg seg[SEGS];
	unsigned nsegs;
	bool begun;
	uint64_t words, of;
	_Atomic uint64_t *lacking,
		*asked; /* asked: since the page was lacking last; what is not lacking any more may still be in it */
	_Atomic uint64_t left, nasked, zero, last_ns;
	/* Of the page that was asked for first among those that have not come: enough to see how long one waits. */
	_Atomic uint64_t oldest, oldest_ns, worst_ns;

	pthread_mutex_t lock; /* below; innermost */
	bool broken;
	char why[256];
};

static int find_segs(struct post_take *t, struct err *e)
{
	struct space *s = t->ram->space;
	unsigned in = space_hold(s);
	uint64_t left, n;
	int rc = 0;

	for (uint64_t p = 0; !rc && p < t->ram->pages; p += n) {
		gpa_t a = mig_ram_gpa(t->ram, p, &left);
		struct seg *last = t->nsegs ? &t->seg[t->nsegs - 1] : NULL;
		struct view_leaf l;
		uint64_t size;
		uint8_t *host;

		n = 1;
		if (view_lookup(space_view(s, 0), a, &l)) {
			rc = err_set(e, -EFAULT, "post-copy: no memory at %#llx",
				(unsigned long long)a.v);
			break;
		}
		size = 1ull << l.order;
		n = MIN(left, size - (a.v / PAGE_SIZE & (size - 1)));
		host = frames_ptr(space_frames(s), l.mfn);
		if (last && last->host + last->pages * PAGE_SIZE == host)
			last->pages += n;
		else if (t->nsegs < SEGS)
			t->seg[t->nsegs++] = (struct seg){host, p, n};
		else
			rc = err_set(e, -E2BIG, "post-copy: memory in more than %u pieces", SEGS);
	}
	space_release(s, in);
	return rc;
}

int post_take_create(struct post_take **out, const struct mig_ram *ram, struct err *e)
{
	struct post_take *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return err_set(e, -ENOMEM, "post-copy: out of memory");
	pthread_mutex_init(&t->lock, NULL);
	t->ram = ram;
	t->words = (ram->pages + 63) / 64;
	t->lacking = calloc(t->words, sizeof(*t->lacking));
	t->asked = calloc(t->words, sizeof(*t->asked));
	rc = t->lacking && t->asked ? find_segs(t, e)
				    : err_set(e, -ENOMEM, "post-copy: out of memory");
	if (!rc) {
		rc = uffd_open(&t->uffd, UFFD_MISSING, e);
		if (rc)
			rc = err_wrap(e, "post-copy");
	}
	if (rc) {
		post_take_free(t);
		return rc;
	}
	/* A page that is dropped must be missing, and not a part of a large one that was cleared. */
	for (unsigned i = 0; i < t->nsegs; i++)
		(void)madvise(t->seg[i].host, t->seg[i].pages * PAGE_SIZE, MADV_NOHUGEPAGE);
	*out = t;
	return 0;
}

void post_take_end(struct post_take *t)
{
	for (unsigned i = 0; t->begun && i < t->nsegs; i++)
		uffd_unregister(t->uffd, t->seg[i].host, t->seg[i].pages * PAGE_SIZE);
	t->begun = false;
}

void post_take_free(struct post_take *t)
{
	if (!t)
		return;
	post_take_end(t);
	uffd_close(t->uffd);
	free((void *)t->lacking);
	free((void *)t->asked);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static uint8_t *host_of(const struct post_take *t, uint64_t page, uint64_t *left)
{
	unsigned i = t->nsegs - 1;

	while (i && t->seg[i].first > page)
		i--;
	*left = t->seg[i].first + t->seg[i].pages - page;
	return t->seg[i].host + (page - t->seg[i].first) * PAGE_SIZE;
}

static bool page_of(const struct post_take *t, uintptr_t host, uint64_t *page)
{
	for (unsigned i = 0; i < t->nsegs; i++) {
		uint64_t off = host - (uintptr_t)t->seg[i].host;

		if (host >= (uintptr_t)t->seg[i].host && off < t->seg[i].pages * PAGE_SIZE) {
			*page = t->seg[i].first + off / PAGE_SIZE;
			return true;
		}
	}
	return false;
}

static bool bit_of(_Atomic uint64_t *map, uint64_t page)
{
	return atomic_load(&map[page / 64]) >> (page % 64) & 1;
}

/* ---- what is lacking ---- */

static int drop(struct post_take *t, uint64_t w, uint64_t bits)
{
	int rc = 0;

	for (unsigned i = 0, n; !rc && bits; bits = n < 64 ? bits >> n : 0, i += n) {
		unsigned skip = (unsigned)__builtin_ctzll(bits);
		uint64_t left;
		gpa_t a;

		bits >>= skip;
		i += skip;
		n = ~bits ? (unsigned)__builtin_ctzll(~bits) : 64;
		a = mig_ram_gpa(t->ram, w * 64 + i, &left);
		n = (unsigned)MIN((uint64_t)n, left);
		rc = space_discard(t->ram->space, a, n * PAGE_SIZE);
	}
	return rc;
}

int post_take_lack(struct post_take *t, const struct mig_head *h, const void *map, struct err *e)
{
	const uint64_t *bits = map;
	uint64_t w = h->arg / 64, last = t->ram->pages % 64;
	int rc = 0;

	if (t->begun || h->arg % 64 || h->len % 8 || w > t->words || h->len / 8 > t->words - w)
		return err_set(e, -EBADMSG, "post-copy: a map of pages that do not exist");
	for (uint32_t i = 0; !rc && i < h->len / 8; i++) {
		uint64_t more = get_le64(&bits[i]) & ~atomic_load(&t->lacking[w + i]);

		if (w + i == t->words - 1 && last && more >> last)
			return err_set(e, -EBADMSG, "post-copy: a map of pages that do not exist");
		atomic_fetch_or(&t->lacking[w + i], more);
		t->of += (uint64_t)__builtin_popcountll(more);
		atomic_fetch_add(&t->left, (uint64_t)__builtin_popcountll(more));
		rc = drop(t, w + i, more);
	}
	return rc ? err_sys(e, rc, "post-copy: memory cannot be given back") : 0;
}

int post_take_begin(struct post_take *t, struct err *e)
{
	int rc = 0;

	t->begun = true;
	for (unsigned i = 0; !rc && i < t->nsegs; i++)
		rc = uffd_register(
			t->uffd, t->seg[i].host, t->seg[i].pages * PAGE_SIZE, UFFD_MISSING, e);
	atomic_store(&t->last_ns, clock_mono_ns());
	return rc ? err_wrap(e, "post-copy") : 0;
}

/* ---- what is waited for ---- */

int post_take_fd(const struct post_take *t)
{
	return uffd_fd(t->uffd);
}

static int fill_zero(struct post_take *t, uint64_t page)
{
	uint64_t left;

	return uffd_fill_missing(t->uffd, host_of(t, page, &left), NULL, PAGE_SIZE, false);
}

/* 1: it is to be asked for. A page may become zero meanwhile: one of the two sides of this sees the other's bit. */
static int one_fault(struct post_take *t, uint64_t page)
{
	uint64_t bit = 1ull << (page % 64), none = 0;
	bool again = bit_of(t->lacking, page) && (atomic_fetch_or(&t->asked[page / 64], bit) & bit);

	if (!bit_of(t->lacking, page))
		return fill_zero(t, page);
	if (again)
		return 0; /* another one waits for it already */
	atomic_fetch_add(&t->nasked, 1);
	if (atomic_compare_exchange_strong(&t->oldest_ns, &none, clock_mono_ns()))
		atomic_store(&t->oldest, page);
	return 1;
}

static int ask(struct chan *c, const uint64_t *pages, unsigned n, struct err *e)
{
	return c && n ? chan_send(c, MIG_WANT, n, pages, n * 8, e) : 0;
}

int post_take_faults(struct post_take *t, struct chan *c, struct err *e)
{
	struct uffd_fault f[FAULTS];
	uint64_t want[FAULTS], page;
	unsigned n = uffd_take(t->uffd, f, FAULTS), k = 0;

	for (unsigned i = 0; i < n; i++) {
		int rc;

		if (!page_of(t, f[i].page, &page))
			continue;
		rc = one_fault(t, page);
		if (rc < 0)
			return err_sys(e, rc, "post-copy: page %llu", (unsigned long long)page);
		if (rc)
			put_le64(&want[k++], page);
	}
	return ask(c, want, k, e);
}

int post_take_again(struct post_take *t, struct chan *c, struct err *e)
{
	uint64_t want[MIG_WANT_MAX];
	unsigned n = 0;
	int rc = 0;

	for (uint64_t w = 0; !rc && w < t->words; w++)
		for (uint64_t b = atomic_load(&t->asked[w]) & atomic_load(&t->lacking[w]); !rc && b;
			b &= b - 1) {
			put_le64(&want[n++], w * 64 + (unsigned)__builtin_ctzll(b));
			if (n == MIG_WANT_MAX) {
				rc = ask(c, want, n, e);
				n = 0;
			}
		}
	atomic_store(&t->last_ns, clock_mono_ns());
	return rc ?: ask(c, want, n, e);
}

int post_take_tell(struct post_take *t, struct chan *c, struct err *e)
{
	enum { BLOCK = 512 };
	uint64_t map[BLOCK];
	int rc = 0;

	for (uint64_t w = 0; !rc && w < t->words; w += BLOCK) {
		unsigned n = (unsigned)MIN((uint64_t)BLOCK, t->words - w);
		uint64_t any = 0;

		for (unsigned i = 0; i < n; i++) {
			uint64_t bits = atomic_load(&t->lacking[w + i]);

			any |= bits;
			put_le64(&map[i], bits);
		}
		if (any)
			rc = chan_send(c, MIG_LACK, w * 64, map, n * 8, e);
	}
	return rc ?: chan_send(c, MIG_ACK, 0, NULL, 0, e);
}

/* ---- what comes ---- */

static void note_wait(struct post_take *t, uint64_t first, uint64_t n, uint64_t now)
{
	uint64_t since = atomic_load(&t->oldest_ns), page = atomic_load(&t->oldest);

	if (!since || since > now || page < first || page - first >= n)
		return;
	if (now - since > atomic_load(&t->worst_ns))
		atomic_store(&t->worst_ns, now - since);
	atomic_store(&t->oldest_ns, 0);
}

/* Pages of one word are not lacking any more; those that are zero are made only where somebody waits. */
static int clear(struct post_take *t, uint64_t w, uint64_t mask, bool zero)
{
	uint64_t was = atomic_fetch_and(&t->lacking[w], ~mask) & mask;
	int rc = 0;

	if (zero) {
		for (uint64_t b = was & atomic_load(&t->asked[w]); !rc && b; b &= b - 1)
			rc = fill_zero(t, w * 64 + (unsigned)__builtin_ctzll(b));
		atomic_fetch_add(&t->zero, (uint64_t)__builtin_popcountll(was));
	}
	atomic_fetch_sub(&t->left, (uint64_t)__builtin_popcountll(was));
	return rc;
}

int post_take_put(struct post_take *t, uint64_t first, uint64_t n, const void *pages)
{
	const char *from = pages;
	uint64_t now = clock_mono_ns(), left;
	int rc = 0;

	for (uint64_t p = first, k; !rc && from && p < first + n; p += k, from += k * PAGE_SIZE) {
		uint8_t *to = host_of(t, p, &left);

		k = MIN(first + n - p, left);
		rc = uffd_fill_missing(t->uffd, to, from, k * PAGE_SIZE, false);
	}
	for (uint64_t p = first, k; !rc && p < first + n; p += k) {
		k = MIN(first + n - p, 64 - p % 64);
		rc = clear(t, p / 64, (k == 64 ? ~0ull : (1ull << k) - 1) << (p % 64), !pages);
	}
	note_wait(t, first, n, now);
	atomic_store(&t->last_ns, now);
	return rc;
}

uint64_t post_take_left(const struct post_take *t)
{
	return atomic_load(&t->left);
}

void post_take_set_broken(struct post_take *t, const struct err *why)
{
	pthread_mutex_lock(&t->lock);
	t->broken = why != NULL;
	snprintf(t->why, sizeof(t->why), "%s", why ? err_msg(why) : "");
	pthread_mutex_unlock(&t->lock);
}

void post_take_stat(struct post_take *t, struct post_take_stat *out)
{
	*out = (struct post_take_stat){.of = t->of,
		.left = atomic_load(&t->left),
		.asked = atomic_load(&t->nasked),
		.zero = atomic_load(&t->zero),
		.last_ns = atomic_load(&t->last_ns),
		.worst_ns = atomic_load(&t->worst_ns)};
	pthread_mutex_lock(&t->lock);
	out->broken = t->broken;
	memcpy(out->why, t->why, sizeof(out->why));
	pthread_mutex_unlock(&t->lock);
}
