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
	struct snapfile *from;
	struct snapfile_writer *w;
	struct snapfile_pack *pack; /* NULL: into the page store */
	uint8_t *pages; /* SNAPFILE_PACK_MAX */
	uint64_t index[SNAPFILE_PACK_MAX];
	unsigned n;
	void *rec;
	uint64_t done;
	bool (*progress)(void *ctx, uint64_t done, uint64_t of);
	void *ctx;
};

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

	if (c->progress && ++c->done % 256 == 0 && !c->progress(c->ctx, c->done, c->from->pages))
		return err_set(e, -ECANCELED, "stopped; nothing was made");
	if (!c->pack)
		return snapfile_put(c->w, index, 1, page, e);
	memcpy(c->pages + (size_t)c->n * SNAPFILE_PAGE, page, SNAPFILE_PAGE);
	c->index[c->n++] = index;
	return c->n == SNAPFILE_PACK_MAX ? flush(c, e) : 0;
}

static int copy_raw(struct copy *c, struct err *e)
{
	struct snapfile *s = c->from;
	uint8_t page[SNAPFILE_PAGE];
	int rc = 0;

	for (uint64_t i = 0; !rc && i < s->nruns; i++) {
		const struct snapfile_run *r = &s->runs[i];

		if (r->kind == SNAPFILE_PARENT)
			return err_set(
				e, -ENOTSUP, "snapshot: is only a part: its parent is needed");
		for (uint64_t k = 0; !rc && r->kind == SNAPFILE_RAW && k < r->count; k++) {
			off_t at = (off_t)(s->store + (r->first + k) * SNAPFILE_PAGE);

			if (pread(s->fd, page, sizeof(page), at) != (ssize_t)sizeof(page))
				return err_sys(e, -EIO, "snapshot: reading");
			rc = take(c, r->first + k, page, e);
		}
	}
	return rc;
}

static int copy_sections(struct copy *c, struct err *e)
{
	static const enum snapfile_section types[] = {
		SNAPFILE_S_MANIFEST, SNAPFILE_S_STATE, SNAPFILE_S_WORKING_SET, SNAPFILE_S_HOT_CODE};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		cleanup(free_ptr) char *buf = NULL;
		size_t len;
		int rc = snapfile_section(c->from, types[i], &buf, &len, e);

		if (rc == -ENOENT)
			continue;
		if (!rc)
			rc = snapfile_put_section(c->w, types[i], buf, len, e);
		if (rc)
			return rc;
	}
	return 0;
}

int snapcopy(struct snapopen *from, int fd, bool packed,
	bool (*progress)(void *ctx, uint64_t done, uint64_t of), void *ctx, struct err *e)
{
	struct copy c = {.from = from->file, .progress = progress, .ctx = ctx};
	struct snapfile_writer_opts o = {.fd = fd,
		.ranges = from->file->range,
		.nranges = from->file->nranges,
		.no_store = packed,
		.id = from->file->id};
	int rc = snapfile_writer_create(&c.w, &o, e);

	if (!rc && packed) {
		c.pages = malloc((size_t)SNAPFILE_PACK_MAX * SNAPFILE_PAGE);
		c.rec = malloc(snapfile_pack_bound());
		rc = c.pages && c.rec ? snapfile_pack_create(&c.pack, EXPORT_LEVEL, e)
				      : err_set(e, -ENOMEM, "snapshot: out of memory");
	}
	if (!rc)
		rc = copy_raw(&c, e) ?: snapfile_unpack(from->file, take, &c, e) ?: flush(&c, e);
	if (!rc)
		rc = copy_sections(&c, e) ?: snapfile_finish(c.w, e);
	snapfile_writer_free(c.w);
	snapfile_pack_free(c.pack);
	free(c.pages);
	free(c.rec);
	return rc;
}
