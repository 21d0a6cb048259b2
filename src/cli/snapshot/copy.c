#include "cli/snapshot/copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/snapshot/store.h"
#include "vm/snapshot/file.h"

#define EXPORT_LEVEL 9

struct copy {
	const struct snapcopy_opts *o;
	struct snapfile_writer *w;
	struct snapfile_pack *pack; /* NULL: into the page store */
	uint8_t *pages; /* SNAPFILE_PACK_MAX */
	uint64_t index[SNAPFILE_PACK_MAX];
	unsigned n, level; /* of the chain that is read now */
	void *rec;
	uint64_t done, of;
	uint8_t *same; /* pages that are as in base, one bit each; or NULL */
};

static bool is_same(const struct copy *c, uint64_t i)
{
	return c->same && c->same[i / 8] >> i % 8 & 1;
}

/* Does page i of the whole come from that file of the chain? */
static bool is_of(const struct snapchain *chain, unsigned level, uint64_t i)
{
	for (unsigned k = 0; k < level; k++)
		if (snapfile_kind_of(chain->s[k].file, i) != SNAPFILE_PARENT)
			return false;
	return true;
}

static int flush(struct copy *c, struct err *e)
{
	const void *at[SNAPFILE_PACK_MAX];
	int len;

	if (!c->n)
		return 0;
	for (unsigned i = 0; i < c->n; i++)
		at[i] = c->pages + (size_t)i * SNAPFILE_PAGE;
	len = snapfile_pack(c->pack, c->index, at, c->n, c->rec);
	c->n = 0;
	return len < 0 ? err_set(e, len, "snapshot: cannot compress")
		       : snapfile_put_packed(c->w, c->rec, (size_t)len, e);
}

static int take(void *ctx, uint64_t index, const void *page, struct err *e)
{
	struct copy *c = ctx;

	if (is_same(c, index) || !is_of(c->o->from, c->level, index))
		return 0;
	if (c->o->progress && ++c->done % 256 == 0 && !c->o->progress(c->o->ctx, c->done, c->of))
		return err_set(e, -ECANCELED, "stopped; nothing was made");
	if (!c->pack)
		return snapfile_put(c->w, index, 1, &page, false, e);
	memcpy(c->pages + (size_t)c->n * SNAPFILE_PAGE, page, SNAPFILE_PAGE);
	c->index[c->n++] = index;
	return c->n == SNAPFILE_PACK_MAX ? flush(c, e) : 0;
}

static int copy_raw(struct copy *c, const struct snapfile *s, struct err *e)
{
	uint8_t page[SNAPFILE_PAGE];
	int rc = 0;

	for (uint64_t i = 0; !rc && i < s->nruns; i++) {
		const struct snapfile_run *r = &s->runs[i];

		for (uint64_t k = 0; !rc && r->kind == SNAPFILE_RAW && k < r->count; k++) {
			off_t at = (off_t)(s->store + (r->first + k) * SNAPFILE_PAGE);

			if (pread(s->fd, page, sizeof(page), at) != (ssize_t)sizeof(page))
				return err_sys(e, -EIO, "snapshot: reading");
			rc = take(c, r->first + k, page, e);
		}
	}
	return rc;
}

static int copy_pages(struct copy *c, struct err *e)
{
	int rc = 0;

	for (c->level = 0; !rc && c->level < c->o->from->n; c->level++) {
		struct snapfile *s = c->o->from->s[c->level].file;

		rc = copy_raw(c, s, e) ?: snapfile_unpack(s, take, c, e);
	}
	return rc ?: flush(c, e);
}

/* ---- what is as in the parent ---- */

struct digests {
	const struct snapchain *chain;
	unsigned level;
	uint8_t (*of)[SNAPFILE_DIGEST]; /* of each page; zero: of a zero page */
};

static void put_digest(void *ctx, uint64_t i, const uint8_t digest[SNAPFILE_DIGEST])
{
	struct digests *d = ctx;

	if (is_of(d->chain, d->level, i))
		memcpy(d->of[i], digest, SNAPFILE_DIGEST);
}

static int read_digests(struct digests *d, const struct snapchain *chain, struct err *e)
{
	int rc = 0;

	d->chain = chain;
	d->of = calloc(chain->s[0].file->pages, SNAPFILE_DIGEST);
	if (!d->of)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	for (d->level = 0; !rc && d->level < chain->n; d->level++)
		rc = snapfile_digests(chain->s[d->level].file, put_digest, d, e);
	return rc;
}

static bool like(const struct snapfile *a, const struct snapfile *b)
{
	return a->nranges == b->nranges &&
	       !memcmp(a->range, b->range, a->nranges * sizeof(a->range[0]));
}

/* By their digests: nobody has to have watched the machine since. */
static int compare(struct copy *c, struct err *e)
{
	static const uint8_t zero[SNAPFILE_DIGEST];
	const struct snapfile *s = c->o->from->s[0].file;
	struct digests now = {0}, was = {0};
	int rc = 0;

	if (!c->o->base)
		return 0;
	if (!like(s, c->o->base->s[0].file))
		return err_set(e, -EINVAL,
			"%s is of a machine with other memory: it cannot be the parent",
			c->o->base->s[0].path);
	c->same = calloc(s->pages / 8 + 1, 1);
	rc = c->same ? read_digests(&now, c->o->from, e) ?: read_digests(&was, c->o->base, e)
		     : err_set(e, -ENOMEM, "snapshot: out of memory");
	for (uint64_t i = 0; !rc && i < s->pages; i++) {
		if (memcmp(now.of[i], was.of[i], SNAPFILE_DIGEST) ||
			!memcmp(now.of[i], zero, SNAPFILE_DIGEST))
			continue;
		c->same[i / 8] |= (uint8_t)(1 << i % 8);
		snapfile_put_parent(c->w, i, 1);
	}
	free(now.of);
	free(was.of);
	return rc;
}

/* ---- all of it ---- */

static int copy_sections(struct copy *c, struct err *e)
{
	static const enum snapfile_section types[] = {
		SNAPFILE_S_MANIFEST, SNAPFILE_S_STATE, SNAPFILE_S_WORKING_SET, SNAPFILE_S_HOT_CODE};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		cleanup(free_ptr) char *buf = NULL;
		size_t len;
		int rc = snapfile_section(c->o->from->s[0].file, types[i], &buf, &len, e);

		if (rc == -ENOENT)
			continue;
		if (!rc)
			rc = snapfile_put_section(c->w, types[i], buf, len, e);
		if (rc)
			return rc;
	}
	return 0;
}

int snapcopy(const struct snapcopy_opts *o, struct err *e)
{
	const struct snapfile *s = o->from->s[0].file;
	struct copy c = {.o = o, .of = s->pages};
	struct snapfile_writer_opts w = {.fd = o->fd,
		.ranges = s->range,
		.nranges = s->nranges,
		.no_store = o->packed,
		.id = s->id,
		.parent = o->base ? o->base->s[0].file->id : NULL};
	int rc = snapfile_writer_create(&c.w, &w, e);

	if (!rc && o->packed) {
		c.pages = malloc((size_t)SNAPFILE_PACK_MAX * SNAPFILE_PAGE);
		c.rec = malloc(snapfile_pack_bound());
		rc = c.pages && c.rec ? snapfile_pack_create(&c.pack, EXPORT_LEVEL, e)
				      : err_set(e, -ENOMEM, "snapshot: out of memory");
	}
	if (!rc)
		rc = compare(&c, e) ?: copy_pages(&c, e);
	if (!rc)
		rc = copy_sections(&c, e) ?: snapfile_finish(c.w, e);
	snapfile_writer_free(c.w);
	snapfile_pack_free(c.pack);
	free(c.pages);
	free(c.rec);
	free(c.same);
	return rc;
}
