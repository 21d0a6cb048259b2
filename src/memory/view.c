#include "memory/view.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/view_reclaim.h"

/* Entry bits (privileged specification, Sv48x4: as Sv48 with U set in leaves). NONE is ours, in an RSW bit: mapped, no access. */
#define PTE_V 1ull
#define PTE_R 2ull
#define PTE_W 4ull
#define PTE_X 8ull
#define PTE_U 16ull
#define PTE_A 64ull
#define PTE_D 128ull
#define PTE_NONE 256ull
#define PPN_SHIFT 10
#define ROOT_ORDER 2 /* 16 KiB */
#define LEVELS 4 /* 3: root ... 0: 4 KiB leaves */

typedef _Atomic uint64_t pte_t;

/* Table frames that a change emptied; readers may still be in them until the next invalidation. */
struct view_retired {
	struct view_retired *next;
	mfn_t mfn;
	uint64_t base, len; /* what it translated */
};

struct view {
	struct frames *f;
	int node;
	unsigned tag;
	mfn_t root;
	pthread_mutex_t lock;
	uint64_t tables;
	struct view_retired *retired;
};

static unsigned level_shift(unsigned level)
{
	return PAGE_SHIFT + 9 * level;
}

static uint64_t leaf_len(unsigned level)
{
	return 1ull << level_shift(level);
}

static unsigned index_of(gpa_t a, unsigned level)
{
	uint64_t i = a.v >> level_shift(level);

	return (unsigned)(level == LEVELS - 1 ? i & 2047 : i & 511);
}

static pte_t *table(const struct view *v, mfn_t m)
{
	return frames_ptr(v->f, m);
}

static bool pte_is_leaf(uint64_t p)
{
	return p & (PTE_R | PTE_W | PTE_X | PTE_NONE);
}

static bool pte_is_table(uint64_t p)
{
	return (p & PTE_V) && !pte_is_leaf(p);
}

static mfn_t pte_mfn(uint64_t p)
{
	return mfn(p >> PPN_SHIFT);
}

static uint64_t leaf_pte(mfn_t m, unsigned perm)
{
	uint64_t p = m.n << PPN_SHIFT | PTE_U | PTE_A | PTE_D;

	if (!perm)
		return p | PTE_NONE;
	return p | PTE_V | (perm & VIEW_R ? PTE_R : 0) | (perm & VIEW_W ? PTE_W : 0) |
	       (perm & VIEW_X ? PTE_X : 0);
}

static unsigned pte_perm(uint64_t p)
{
	return (p & PTE_R ? VIEW_R : 0) | (p & PTE_W ? VIEW_W : 0) | (p & PTE_X ? VIEW_X : 0);
}

static int alloc_table(struct view *v, unsigned order, mfn_t *m)
{
	int rc = frames_alloc_table(v->f, v->node, order, m);

	/* A table on the wrong node is slow, none at all is the end. */
	if (rc && v->node != FRAMES_NODE_ANY)
		rc = frames_alloc_table(v->f, FRAMES_NODE_ANY, order, m);
	if (!rc)
		v->tables++;
	return rc;
}

int view_create(struct view **out, struct frames *f, int node, unsigned tag, struct err *e)
{
	struct view *v = calloc(1, sizeof(*v));
	int rc;

	if (!v)
		return err_set(e, -ENOMEM, "second-level map: out of memory");
	v->f = f;
	v->node = node;
	v->tag = tag;
	pthread_mutex_init(&v->lock, NULL);
	rc = alloc_table(v, ROOT_ORDER, &v->root);
	if (rc) {
		pthread_mutex_destroy(&v->lock);
		free(v);
		return err_set(e, rc, "second-level map: no machine frames left for its root");
	}
	*out = v;
	return 0;
}

static void free_tables(struct view *v, mfn_t m, unsigned level)
{
	unsigned n = level == LEVELS - 1 ? 2048 : 512;

	for (unsigned i = 0; level > 0 && i < n; i++) {
		uint64_t p = table(v, m)[i];

		if (pte_is_table(p))
			free_tables(v, pte_mfn(p), level - 1);
	}
	frames_free(v->f, m, level == LEVELS - 1 ? ROOT_ORDER : 0);
}

struct view_retired *view_retired_take(struct view *v, gpa_t a, uint64_t len)
{
	struct view_retired *mine = NULL;

	pthread_mutex_lock(&v->lock);
	for (struct view_retired **p = &v->retired; *p;) {
		struct view_retired *r = *p;

		if (r->base + r->len <= a.v || (len < UINT64_MAX - a.v && a.v + len <= r->base)) {
			p = &r->next;
			continue;
		}
		*p = r->next;
		r->next = mine;
		mine = r;
	}
	pthread_mutex_unlock(&v->lock);
	return mine;
}

void view_retired_free(struct view *v, struct view_retired *r)
{
	for (struct view_retired *next; r; r = next) {
		next = r->next;
		frames_free(v->f, r->mfn, 0);
		free(r);
	}
}

void view_destroy(struct view *v)
{
	if (!v)
		return;
	view_retired_free(v, view_retired_take(v, gpa(0), UINT64_MAX));
	free_tables(v, v->root, LEVELS - 1);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

unsigned view_tag(const struct view *v)
{
	return v->tag;
}

int view_lookup(const struct view *v, gpa_t a, struct view_leaf *out)
{
	pte_t *t = table(v, v->root);

	if (a.v >> VIEW_GPA_BITS)
		return -ENOENT;
	for (int level = LEVELS - 1; level >= 0; level--) {
		uint64_t p = atomic_load_explicit(
			&t[index_of(a, (unsigned)level)], memory_order_acquire);

		if (pte_is_leaf(p)) {
			uint64_t off = a.v & (leaf_len((unsigned)level) - 1);

			out->mfn = mfn(pte_mfn(p).n + (off >> PAGE_SHIFT));
			out->perm = pte_perm(p);
			out->order = 9 * (unsigned)level;
			return 0;
		}
		if (!pte_is_table(p))
			return -ENOENT;
		t = table(v, pte_mfn(p));
	}
	return -ENOENT;
}

static int check_range(gpa_t a, uint64_t len, struct err *e)
{
	if ((a.v | len) & PAGE_MASK)
		return err_set(e, -EINVAL, "second-level map: %#llx+%#llx is not whole pages",
			(unsigned long long)a.v, (unsigned long long)len);
	if (!len || !gpa_range_ok(a, len) || (a.v + (len - 1)) >> VIEW_GPA_BITS)
		return err_set(e, -EINVAL, "second-level map: %#llx+%#llx is beyond %d bits",
			(unsigned long long)a.v, (unsigned long long)len, VIEW_GPA_BITS);
	return 0;
}

/* The entry for `a` at `level`, making tables (and splitting leaves) on the way. NULL: no frames left. */
static pte_t *entry_make(struct view *v, gpa_t a, unsigned level)
{
	pte_t *t = table(v, v->root);

	for (unsigned l = LEVELS - 1; l > level; l--) {
		pte_t *e = &t[index_of(a, l)];
		uint64_t p = *e;
		mfn_t m;

		if (pte_is_table(p)) {
			t = table(v, pte_mfn(p));
			continue;
		}
		if (alloc_table(v, 0, &m))
			return NULL;
		t = table(v, m);
		/* A leaf that is being split: the same frames and bits, in 512 smaller leaves. */
		for (unsigned i = 0; pte_is_leaf(p) && i < 512; i++)
			t[i] = p + ((uint64_t)i << (9 * (l - 1)) << PPN_SHIFT);
		atomic_store_explicit(e, m.n << PPN_SHIFT | PTE_V, memory_order_release);
	}
	return &t[index_of(a, level)];
}

/* The entry that decides about `a` and its level; NULL and the level of the hole when nothing is mapped. */
static pte_t *entry_find(struct view *v, gpa_t a, unsigned *level)
{
	pte_t *t = table(v, v->root);

	for (*level = LEVELS - 1;; --*level) {
		pte_t *e = &t[index_of(a, *level)];
		uint64_t p = *e;

		if (pte_is_leaf(p))
			return e;
		if (!pte_is_table(p))
			return NULL;
		t = table(v, pte_mfn(p));
	}
}

static uint64_t step(gpa_t a, unsigned level)
{
	return leaf_len(level) - (a.v & (leaf_len(level) - 1));
}

static bool range_empty(struct view *v, gpa_t a, uint64_t len)
{
	for (uint64_t off = 0; off < len;) {
		unsigned level;

		if (entry_find(v, gpa(a.v + off), &level))
			return false;
		off += step(gpa(a.v + off), level);
	}
	return true;
}

/* Keeps a table of `level` on the path of `a`, which is no longer in the tree. */
static void retire(struct view *v, mfn_t m, gpa_t a, unsigned level)
{
	struct view_retired *r = malloc(sizeof(*r));

	/* Without memory to remember it the frame is lost until the view goes, which is better than a use after free. */
	if (!r)
		return;
	r->mfn = m;
	r->len = leaf_len(level + 1);
	r->base = align_down(a.v, r->len);
	r->next = v->retired;
	v->retired = r;
	v->tables--;
}

/* Takes empty tables on the path of `a` out of the tree. */
static void prune(struct view *v, gpa_t a)
{
	pte_t *path[LEVELS];
	pte_t *t = table(v, v->root);
	int level = LEVELS - 1;

	for (; level > 0; level--) {
		uint64_t p;

		path[level] = &t[index_of(a, (unsigned)level)];
		p = *path[level];
		if (!pte_is_table(p))
			break;
		t = table(v, pte_mfn(p));
	}
	for (level++; level < LEVELS; level++) {
		mfn_t m = pte_mfn(*path[level]);

		for (unsigned i = 0; i < 512; i++)
			if (table(v, m)[i])
				return;
		atomic_store_explicit(path[level], 0, memory_order_release);
		retire(v, m, a, (unsigned)level - 1);
	}
}

/* Unmaps what is there; never needs frames when [a, a+len) covers whole leaves. */
static int unmap_locked(struct view *v, gpa_t a, uint64_t len)
{
	for (uint64_t off = 0; off < len;) {
		gpa_t at = gpa(a.v + off);
		unsigned level;
		pte_t *e = entry_find(v, at, &level);
		uint64_t n = step(at, level);

		while (e && (n < leaf_len(level) || n > len - off)) {
			e = entry_make(v, at, --level);
			if (!e)
				return -ENOMEM;
			n = step(at, level);
		}
		if (e) {
			atomic_store_explicit(e, 0, memory_order_release);
			prune(v, at);
		}
		off += n;
	}
	return 0;
}

static unsigned best_level(gpa_t a, mfn_t m, uint64_t len)
{
	for (unsigned level = 2; level > 0; level--)
		if (!((a.v | m.n << PAGE_SHIFT) & (leaf_len(level) - 1)) && len >= leaf_len(level))
			return level;
	return 0;
}

int view_map(struct view *v, gpa_t a, mfn_t m, uint64_t len, unsigned perm, struct err *e)
{
	int rc = check_range(a, len, e);

	if (rc)
		return rc;
	if (m.n + len / PAGE_SIZE > frames_count(v->f) || m.n + len / PAGE_SIZE < m.n)
		return err_set(e, -EINVAL, "second-level map: frames %#llx.. do not exist",
			(unsigned long long)m.n);
	pthread_mutex_lock(&v->lock);
	if (!range_empty(v, a, len))
		rc = err_set(e, -EEXIST, "second-level map: something is mapped in %#llx+%#llx",
			(unsigned long long)a.v, (unsigned long long)len);
	for (uint64_t off = 0; !rc && off < len;) {
		gpa_t at = gpa(a.v + off);
		mfn_t f = mfn(m.n + off / PAGE_SIZE);
		unsigned level = best_level(at, f, len - off);
		pte_t *p = entry_make(v, at, level);

		if (!p) {
			unmap_locked(v, a, off);
			prune(v, at);
			rc = err_set(
				e, -ENOMEM, "second-level map: no machine frames left for tables");
			break;
		}
		atomic_store_explicit(p, leaf_pte(f, perm), memory_order_release);
		off += leaf_len(level);
	}
	pthread_mutex_unlock(&v->lock);
	return rc;
}

int view_unmap(struct view *v, gpa_t a, uint64_t len, struct err *e)
{
	int rc = check_range(a, len, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&v->lock);
	rc = unmap_locked(v, a, len);
	pthread_mutex_unlock(&v->lock);
	return rc ? err_set(e, rc, "second-level map: no machine frames left to split a leaf") : 0;
}

int view_protect(struct view *v, gpa_t a, uint64_t len, unsigned perm, struct err *e)
{
	int rc = check_range(a, len, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&v->lock);
	for (uint64_t off = 0; !rc && off < len;) {
		gpa_t at = gpa(a.v + off);
		unsigned level;
		pte_t *p = entry_find(v, at, &level);
		uint64_t n = step(at, level);

		while (p && pte_perm(*p) != perm && (n < leaf_len(level) || n > len - off)) {
			p = entry_make(v, at, --level);
			if (!p) {
				rc = err_set(e, -ENOMEM,
					"second-level map: no machine frames left to split a leaf");
				break;
			}
			n = step(at, level);
		}
		if (p)
			atomic_store_explicit(p, leaf_pte(pte_mfn(*p), perm), memory_order_release);
		off += n;
	}
	pthread_mutex_unlock(&v->lock);
	return rc;
}

int view_remap(struct view *v, gpa_t a, mfn_t m, unsigned perm, struct err *e)
{
	unsigned level;
	pte_t *p;
	int rc = check_range(a, PAGE_SIZE, e);

	if (rc)
		return rc;
	if (m.n >= frames_count(v->f))
		return err_set(e, -EINVAL, "second-level map: frame %#llx does not exist",
			(unsigned long long)m.n);
	pthread_mutex_lock(&v->lock);
	p = entry_find(v, a, &level);
	if (!p)
		rc = err_set(e, -ENOENT, "second-level map: nothing is mapped at %#llx",
			(unsigned long long)a.v);
	if (p && level)
		p = entry_make(v, a, 0);
	if (!p && !rc)
		rc = err_set(
			e, -ENOMEM, "second-level map: no machine frames left to split a leaf");
	if (!rc)
		atomic_store_explicit(p, leaf_pte(m, perm), memory_order_release);
	pthread_mutex_unlock(&v->lock);
	return rc;
}

/* True when the 512 entries of the table are one contiguous, aligned leaf of the next level. */
static bool joinable(struct view *v, mfn_t m, unsigned level)
{
	pte_t *t = table(v, m);
	uint64_t first = t[0];

	if (!pte_is_leaf(first) || pte_mfn(first).n & ((1ull << (9 * (level + 1))) - 1))
		return false;
	for (unsigned i = 1; i < 512; i++)
		if (t[i] != first + ((uint64_t)i << (9 * level) << PPN_SHIFT))
			return false;
	return true;
}

unsigned view_coalesce(struct view *v, gpa_t a, uint64_t len)
{
	unsigned joined = 0;

	if (check_range(a, len, NULL))
		return 0;
	pthread_mutex_lock(&v->lock);
	for (unsigned level = 0; level < 2; level++) {
		uint64_t big = leaf_len(level + 1);

		for (uint64_t at = align_up(a.v, big); at + big <= a.v + len; at += big) {
			pte_t *t = table(v, v->root);
			pte_t *p = NULL;
			unsigned l;

			for (l = LEVELS - 1; l > level; l--) {
				p = &t[index_of(gpa(at), l)];
				if (!pte_is_table(*p))
					break;
				t = table(v, pte_mfn(*p));
			}
			if (l == level && joinable(v, pte_mfn(*p), level)) {
				mfn_t old = pte_mfn(*p);

				atomic_store_explicit(p, table(v, old)[0], memory_order_release);
				retire(v, old, gpa(at), level);
				joined++;
			}
		}
	}
	pthread_mutex_unlock(&v->lock);
	return joined;
}

static int walk(const struct view *v, mfn_t m, unsigned level, uint64_t base,
	int (*fn)(void *, gpa_t, uint64_t, const struct view_leaf *), void *ctx)
{
	unsigned n = level == LEVELS - 1 ? 2048 : 512;

	for (unsigned i = 0; i < n; i++) {
		uint64_t p = table(v, m)[i];
		uint64_t at = base + ((uint64_t)i << level_shift(level));
		int rc = 0;

		if (pte_is_leaf(p))
			rc = fn(ctx, gpa(at), leaf_len(level),
				&(struct view_leaf){pte_mfn(p), pte_perm(p), 9 * level});
		else if (pte_is_table(p))
			rc = walk(v, pte_mfn(p), level - 1, at, fn, ctx);
		if (rc)
			return rc;
	}
	return 0;
}

int view_walk(const struct view *v,
	int (*fn)(void *ctx, gpa_t a, uint64_t len, const struct view_leaf *), void *ctx)
{
	return walk(v, v->root, LEVELS - 1, 0, fn, ctx);
}

static int count_leaf(void *ctx, gpa_t a, uint64_t len, const struct view_leaf *l)
{
	struct view_stat *st = ctx;

	st->leaves_4k += l->order == FRAME_ORDER_4K;
	st->leaves_2m += l->order == FRAME_ORDER_2M;
	st->leaves_1g += l->order == FRAME_ORDER_1G;
	return 0;
}

void view_stat(const struct view *v, struct view_stat *st)
{
	*st = (struct view_stat){.tables = v->tables};
	view_walk(v, count_leaf, st);
}
