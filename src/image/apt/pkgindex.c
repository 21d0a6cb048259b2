#include "image/apt/pkgindex.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"

static uint32_t hash_of(struct slice s)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < s.n; i++)
		h = (h ^ (unsigned char)s.p[i]) * 16777619u;
	return h;
}

void pkgindex_free(struct pkgindex *ix)
{
	free(ix->text);
	free(ix->pkgs);
	free(ix->provs);
	free(ix->by_name);
	free(ix->by_prov);
	*ix = (struct pkgindex){0};
}

/* Decimal, saturating: sizes are only compared and summed for display, and checked when fetched. */
static uint64_t number(struct slice s)
{
	uint64_t v = 0;

	for (size_t i = 0; i < s.n && s.p[i] >= '0' && s.p[i] <= '9' && v < (1ull << 50); i++)
		v = v * 10 + (uint64_t)(s.p[i] - '0');
	return v;
}

static void pkg_fill(struct pkg *p, const struct deb822 *d)
{
	*p = (struct pkg){
		.name = deb822_get(d, "Package"),
		.version = deb822_get(d, "Version"),
		.arch = deb822_get(d, "Architecture"),
		.priority = deb822_get(d, "Priority"),
		.filename = deb822_get(d, "Filename"),
		.sha256 = deb822_get(d, "SHA256"),
		.source = deb822_get(d, "Source"),
		.depends = deb822_get(d, "Depends"),
		.pre_depends = deb822_get(d, "Pre-Depends"),
		.provides = deb822_get(d, "Provides"),
		.conflicts = deb822_get(d, "Conflicts"),
		.breaks = deb822_get(d, "Breaks"),
		.size = number(deb822_get(d, "Size")),
		.installed = number(deb822_get(d, "Installed-Size")) * KiB,
		.essential = slice_is(deb822_get(d, "Essential"), "yes"),
	};
}

/* Names become file names and lines of scripts: nothing but what Policy 5.6.7 allows. */
static bool name_ok(struct slice s)
{
	if (s.n < 2 || s.n > 200 || s.p[0] == '-' || s.p[0] == '.')
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= '0' && s.p[i] <= '9') ||
			    strchr("+-.", s.p[i])))
			return false;
	return true;
}

static int read_all(struct pkgindex *ix, size_t n, struct err *e)
{
	cleanup(free_ptr) struct deb822 *d = malloc(sizeof(*d));
	size_t cap = 0;
	int r;

	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	deb822_init(d, "Packages", ix->text, n);
	while ((r = deb822_next(d, e)) > 0) {
		if (ix->n == cap) {
			struct pkg *q;

			cap = cap ? cap * 2 : 4096;
			q = realloc(ix->pkgs, cap * sizeof(*q));
			if (!q)
				return err_set(e, -ENOMEM, "out of memory");
			ix->pkgs = q;
		}
		pkg_fill(&ix->pkgs[ix->n], d);
		if (!name_ok(ix->pkgs[ix->n].name) || !ix->pkgs[ix->n].version.n)
			return err_set(e, -EINVAL,
				"Packages: the paragraph that ends at line %u has no valid name "
				"and version",
				d->line);
		ix->n++;
	}
	return r;
}

static int add_prov(struct pkgindex *ix, size_t *cap, uint32_t pkg, const struct debrel *r)
{
	uint32_t *head;

	if (ix->nprov == *cap) {
		struct pkgprov *q;

		*cap = *cap ? *cap * 2 : 4096;
		q = realloc(ix->provs, *cap * sizeof(*q));
		if (!q)
			return -ENOMEM;
		ix->provs = q;
	}
	head = &ix->by_prov[hash_of(r->name) & ix->mask];
	ix->provs[ix->nprov++] = (struct pkgprov){r->name, r->version, pkg, *head};
	*head = (uint32_t)ix->nprov;
	return 0;
}

static int build_tables(struct pkgindex *ix, struct err *e)
{
	uint32_t size = 1024;
	size_t cap = 0;

	while (size < ix->n * 2 && size < 1u << 24)
		size *= 2;
	ix->mask = size - 1;
	ix->by_name = calloc(size, sizeof(uint32_t));
	ix->by_prov = calloc(size, sizeof(uint32_t));
	if (!ix->by_name || !ix->by_prov)
		return err_set(e, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < ix->n; i++) {
		uint32_t *head = &ix->by_name[hash_of(ix->pkgs[i].name) & ix->mask];
		struct slice rest = ix->pkgs[i].provides;
		struct debrel r;

		ix->pkgs[i].next = *head;
		*head = i + 1;
		while (debrel_next(&rest, &r) > 0)
			if (add_prov(ix, &cap, i, &r))
				return err_set(e, -ENOMEM, "out of memory");
	}
	return 0;
}

int pkgindex_parse(struct pkgindex *ix, char *text, size_t n, struct err *e)
{
	int r;

	*ix = (struct pkgindex){.text = text};
	r = read_all(ix, n, e);
	if (!r)
		r = build_tables(ix, e);
	if (r)
		pkgindex_free(ix);
	return r;
}

const struct pkg *pkgindex_find(const struct pkgindex *ix, struct slice name)
{
	const struct pkg *best = NULL;

	if (!ix->by_name)
		return NULL;
	for (uint32_t i = ix->by_name[hash_of(name) & ix->mask]; i; i = ix->pkgs[i - 1].next) {
		const struct pkg *p = &ix->pkgs[i - 1];

		if (slice_eq(p->name, name) && (!best || debver_cmp(p->version, best->version) > 0))
			best = p;
	}
	return best;
}

void pkgset_free(struct pkgset *s)
{
	free(s->v);
	*s = (struct pkgset){0};
}

bool pkgset_has(const struct pkgset *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (slice_is(s->v[i]->name, name))
			return true;
	return false;
}

/* The state of one resolution: chosen packages are a queue that is worked through once. */
struct resolver {
	const struct pkgindex *ix;
	struct pkgset *set;
	unsigned char *in; /* by package index */
};

static bool chosen(const struct resolver *rs, const struct pkg *p)
{
	return rs->in[p - rs->ix->pkgs];
}

static void choose(struct resolver *rs, const struct pkg *p)
{
	if (chosen(rs, p))
		return;
	rs->in[p - rs->ix->pkgs] = 1;
	rs->set->v[rs->set->n++] = p;
}

/* Whether a package's Provides satisfies the relation: with a bound, only a versioned Provides does. */
static bool prov_holds(const struct pkgprov *pr, const struct debrel *r)
{
	if (!slice_eq(pr->name, r->name))
		return false;
	return r->op == DEBREL_ANY || (pr->version.n && debrel_holds(r, pr->version));
}

/* The next package that satisfies r and (if only_chosen) is chosen already; NULL when there is none. */
static const struct pkg *satisfier(const struct resolver *rs, const struct debrel *r,
	bool only_chosen, const struct pkg *not_this)
{
	const struct pkgindex *ix = rs->ix;
	const struct pkg *p = pkgindex_find(ix, r->name), *best = NULL;

	if (p && p != not_this && debrel_holds(r, p->version) && (!only_chosen || chosen(rs, p)))
		return p;
	for (uint32_t i = ix->by_prov[hash_of(r->name) & ix->mask]; i; i = ix->provs[i - 1].next) {
		const struct pkgprov *pr = &ix->provs[i - 1];

		p = &ix->pkgs[pr->pkg];
		if (p == not_this || !prov_holds(pr, r) || (only_chosen && !chosen(rs, p)))
			continue;
		if (pkgindex_find(ix, p->name) != p)
			continue; /* an older version */
		/* Of several providers the first by name: the same choice each time. */
		if (!best || slice_cmp(p->name, best->name) < 0)
			best = p;
	}
	return best;
}

/* Satisfies each group of alternatives of one field. */
static int satisfy(struct resolver *rs, const struct pkg *p, struct slice field, struct err *e)
{
	const struct pkg *first = NULL;
	struct slice group = field;
	struct debrel r;
	bool done = false;
	int k;

	while ((k = debrel_next(&field, &r)) > 0) {
		if (satisfier(rs, &r, true, NULL))
			done = true;
		if (!first)
			first = satisfier(rs, &r, false, NULL);
		if (r.more)
			continue;
		if (!done && !first) {
			group.n -= field.n;
			group = slice_trim(group);
			return err_set(e, -ENOPKG,
				"package " SLICE_FMT " needs " SLICE_FMT
				", which the mirror does not have",
				SLICE_ARG(p->name), SLICE_ARG(group));
		}
		if (!done)
			choose(rs, first);
		first = NULL;
		done = false;
		group = field;
	}
	if (k < 0)
		return err_set(e, -EINVAL,
			"package " SLICE_FMT ": malformed dependency \"" SLICE_FMT "\"",
			SLICE_ARG(p->name), SLICE_ARG(group));
	return 0;
}

static int check_conflicts(
	const struct resolver *rs, const struct pkg *p, struct slice field, struct err *e)
{
	struct debrel r;

	while (debrel_next(&field, &r) > 0) {
		const struct pkg *other = satisfier(rs, &r, true, p);

		if (other)
			return err_set(e, -EEXIST,
				"packages " SLICE_FMT " and " SLICE_FMT
				" cannot be installed together: leave one of them out",
				SLICE_ARG(p->name), SLICE_ARG(other->name));
	}
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return slice_cmp(
		(*(const struct pkg *const *)a)->name, (*(const struct pkg *const *)b)->name);
}

static bool left_out(const struct pkgwant *want, const struct pkg *p)
{
	for (const char *const *w = want->without; w && *w; w++)
		if (slice_is(p->name, *w))
			return true;
	return false;
}

static int choose_wanted(struct resolver *rs, const struct pkgwant *want, struct err *e)
{
	for (const char *const *n = want->names; n && *n; n++) {
		const struct pkg *p = pkgindex_find(rs->ix, slice_of(*n));

		if (!p)
			return err_set(e, -ENOENT, "the mirror has no package %s", *n);
		choose(rs, p);
	}
	for (size_t i = 0; i < rs->ix->n; i++) {
		const struct pkg *p = &rs->ix->pkgs[i];
		bool by_priority = (want->essential && slice_is(p->priority, "required")) ||
				   (want->important && slice_is(p->priority, "important"));

		if (!(want->essential && p->essential) && !by_priority)
			continue;
		if (!left_out(want, p) && pkgindex_find(rs->ix, p->name) == p)
			choose(rs, p);
	}
	return 0;
}

int pkgset_resolve(
	struct pkgset *s, const struct pkgindex *ix, const struct pkgwant *want, struct err *e)
{
	cleanup(free_ptr) unsigned char *in = calloc(ix->n + 1, 1);
	struct resolver rs = {ix, s, in};
	int r = 0;

	*s = (struct pkgset){.v = calloc(ix->n + 1, sizeof(*s->v))};
	if (!in || !s->v) {
		pkgset_free(s);
		return err_set(e, -ENOMEM, "out of memory");
	}
	r = choose_wanted(&rs, want, e);
	for (size_t i = 0; !r && i < s->n; i++) {
		r = satisfy(&rs, s->v[i], s->v[i]->pre_depends, e);
		if (!r)
			r = satisfy(&rs, s->v[i], s->v[i]->depends, e);
	}
	for (size_t i = 0; !r && i < s->n; i++) {
		r = check_conflicts(&rs, s->v[i], s->v[i]->conflicts, e);
		if (!r)
			r = check_conflicts(&rs, s->v[i], s->v[i]->breaks, e);
	}
	if (r)
		pkgset_free(s);
	else
		qsort(s->v, s->n, sizeof(*s->v), by_name);
	return r;
}
