/* dir.c: the directory: disks, their snapshots, clones, composed disks. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"
#include "disk/tool.h"

const struct disk_key lf_disk_keys[] = {
	{"clone", "DISK[@SNAPSHOT]", "a linked clone: shares everything until it is written",
		.sized = true},
	{"track", "on|off", "records changes from the beginning: `lodge disk map --changed-since`"},
	{"compose", "DISK[@SNAPSHOT]/OFFSET/LENGTH[/ro]+...",
		"ranges of other disks, `-/LENGTH` for an empty one", .sized = true},
	{0},
};

int lf_fail(const struct lf *fs, int rc, struct err *e)
{
	if (!rc)
		return 0;
	if (rc == -ENOSPC && fs->free_blocks && file_room(fs->f) < 2 * LF_BLOCK)
		return err_set(e, rc,
			"store %s: its host has no space left: make some there, or remove disks or "
			"snapshots of the store, which needs none",
			fs->path);
	if (rc == -ENOSPC)
		return err_set(e, rc,
			"store %s is full: `lodge store df` shows how; remove disks or snapshots",
			fs->path);
	if (rc == -EFBIG)
		return err_set(e, rc,
			"store %s: its journal of %llu MiB is too small for this at once", fs->path,
			(unsigned long long)(fs->s.journal_bytes / MiB));
	if (rc == -ESTALE)
		return err_set(e, rc,
			"store %s: its lease was taken by somebody else: nothing more is written",
			fs->path);
	return err_sys(e, rc, "store %s", fs->path);
}

int lf_split(const char *path, char **store, const char **name, struct err *e)
{
	const char *slash = strrchr(path, '/');

	if (!slash || slash == path || !slash[1] || strlen(slash + 1) > LF_NAME)
		return err_set(e, -EINVAL,
			"disk %s: a disk of a lodgefs store is named STORE/NAME, with 1 to 255 "
			"bytes of name",
			path);
	*name = slash + 1;
	*store = strndup(path, (size_t)(slash - path));
	return *store ? 0 : err_set(e, -ENOMEM, "out of memory");
}

/* ---- records ---- */

struct lf_record *lf_rec_next(const struct lf *fs, uint64_t *i, unsigned type, uint64_t owner)
{
	while (*i < fs->nrec) {
		struct lf_record *r = fs->rec[(*i)++];

		if (r->type == type && r->owner == owner)
			return r;
	}
	return NULL;
}

int lf_rec_list(
	const struct lf *fs, unsigned type, uint64_t owner, size_t size, void **out, struct err *e)
{
	const struct lf_record *r;
	size_t n = 0;

	lf_rec_each(r, i, fs, type, owner) n++;
	*out = calloc(MAX(n, 1u), size);
	return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}

struct lf_record *lf_rec_find(struct lf *fs, unsigned type, uint64_t owner, const char *name)
{
	struct lf_record *r;

	lf_rec_each(r, i, fs, type, owner) if (!strcmp(r->name, name)) return r;
	return NULL;
}

uint64_t lf_rec_place(const struct lf *fs, uint64_t id)
{
	uint64_t lo = 0, hi = fs->nids;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (fs->by_id[mid]->id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct lf_record *lf_rec_by_id(const struct lf *fs, uint64_t id)
{
	uint64_t i = lf_rec_place(fs, id);

	return i < fs->nids && fs->by_id[i]->id == id ? fs->by_id[i] : NULL;
}

struct lf_record *lf_rec_again(const struct lf *fs, const struct lf_record *was)
{
	struct lf_record *r = lf_rec_by_id(fs, was->id);

	return r && r->type == was->type && r->owner == was->owner ? r : NULL;
}

void lf_rec_touch(struct lf *fs, struct lf_record *r)
{
	/* The page that it lies in is one of memory, too. */
	const struct lf_page_head *h = (const void *)((const uint8_t *)r - (uintptr_t)r % LF_PAGE);

	lf_touch(fs, fs->dir[h->at - fs->s.dir_at / LF_PAGE], (unsigned)((uintptr_t)r % LF_PAGE),
		sizeof(*r));
}

/* In a transaction. */
void lf_rec_put(struct lf *fs, struct lf_record *slot, const struct lf_record *r)
{
	*slot = *r;
	slot->id = fs->s.next_id++;
	slot->created = (uint64_t)time(NULL);
	fs->by_id[fs->nids++] = slot; /* no other has a higher one */
	lf_rec_touch(fs, slot);
}

void lf_rec_clear(struct lf *fs, struct lf_record *r)
{
	uint64_t i;

	lf_tree_put(fs, r->root);
	i = lf_rec_place(fs, r->id);
	memmove(&fs->by_id[i], &fs->by_id[i + 1], (--fs->nids - i) * sizeof(*fs->by_id));
	memset(r, 0, sizeof(*r));
	lf_rec_touch(fs, r);
}

static int no_record(const struct lf *fs, struct err *e)
{
	return err_set(e, -ENOSPC,
		"store %s: its directory has %llu entries, all in use (`lodge store create -o "
		"entries=N`)",
		fs->path, (unsigned long long)fs->nrec);
}

static struct lf_record *free_record(struct lf *fs, struct err *e)
{
	for (uint64_t i = 0; i < fs->nrec; i++)
		if (fs->rec[i]->type == LF_FREE)
			return fs->rec[i];
	no_record(fs, e);
	return NULL;
}

int lf_rec_room(struct lf *fs, struct lf_record **slot, unsigned n, struct err *e)
{
	for (uint64_t i = 0; i < fs->nrec && n; i++)
		if (fs->rec[i]->type == LF_FREE)
			slot[--n] = fs->rec[i];
	return n ? no_record(fs, e) : 0;
}

static uint64_t need_put(const struct lf *fs)
{
	return lf_need((unsigned)fs->s.bitmap_pages + 8);
}

int lf_finish(struct lf *fs, struct err *e)
{
	int rc = lf_end(fs, NULL, 0);

	return lf_fail(fs, rc ?: lf_mark(fs), e);
}

/* What was written in place has to be there before a record that shares it, and does not change any more. */
static int at_rest(struct lf *fs, struct err *e)
{
	return lf_fail(fs, lf_flush(fs) ?: lf_sums_settle(fs), e);
}

/* ---- what goes ---- */

static bool is_open(const struct lf *fs, const struct lf_record *r)
{
	const struct lf_disk *l = fs->disks;

	while (l && l->rec != r)
		l = l->next;
	return l;
}

/* Nobody has the disk or a snapshot of it open. *need: bytes of the journal that clear_disk() wants. */
static int may_go(struct lf *fs, const struct lf_record *r, uint64_t *need, struct err *e)
{
	uint64_t pages = 1, last = UINT64_MAX;
	const struct lf_record *s;

	if (is_open(fs, r))
		return err_set(e, -EBUSY, "disk %s/%s: is open here", fs->path, r->name);
	lf_rec_each(s, i, fs, LF_SNAPSHOT, r->id)
	{
		if (is_open(fs, s))
			return err_set(e, -EBUSY, "disk %s/%s: its snapshot '%s' is open here",
				fs->path, r->name, s->name);
	}
	for (uint64_t i = 0; i < fs->nrec; i++) {
		if (fs->rec[i]->type <= LF_DISK || fs->rec[i]->owner != r->id ||
			i / LF_DIR_RECORDS == last)
			continue;
		last = i / LF_DIR_RECORDS;
		pages++;
	}
	*need = need_put(fs) + pages * (LF_PAGE + 32);
	return 0;
}

/* In a transaction: the disk, and all that is of it. */
static void clear_disk(struct lf *fs, struct lf_record *r)
{
	uint64_t id = r->id;

	for (uint64_t i = 0; i < fs->nrec; i++)
		if (fs->rec[i]->type > LF_DISK && fs->rec[i]->owner == id)
			lf_rec_clear(fs, fs->rec[i]);
	lf_rec_clear(fs, r);
}

/* ---- making disks ---- */

int lf_no_disk(const struct lf *fs, const char *name, struct err *e)
{
	if (strchr(name, '@'))
		return err_set(e, -ENOENT,
			"store %s has no disk '%s': a snapshot is read as "
			"%s/DISK:lodgefs,snapshot=NAME",
			fs->path, name, fs->path);
	return err_set(e, -ENOENT,
		"store %s has no disk '%s': `lodge store ls %s:lodgefs` lists them", fs->path, name,
		fs->path);
}

/* "disk" or "disk@snapshot". */
static struct lf_record *find_source(struct lf *fs, const char *text, struct err *e)
{
	cleanup(free_ptr) char *name = strdup(text);
	char *snap = name ? strchr(name, '@') : NULL;
	struct lf_record *r;

	if (!name) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	/* A disk's own name may have an @. */
	r = lf_rec_find(fs, LF_DISK, 0, name);
	if (r || !snap) {
		if (!r)
			lf_no_disk(fs, name, e);
		return r;
	}
	*snap++ = 0;
	r = lf_rec_find(fs, LF_DISK, 0, name);
	if (!r) {
		lf_no_disk(fs, name, e);
		return NULL;
	}
	r = lf_snapshot_find(fs, r->id, snap);
	if (!r)
		err_set(e, -ENOENT, "disk %s/%s has no snapshot '%s'", fs->path, name, snap);
	return r;
}

static int too_large(const char *what, struct err *e)
{
	return err_set(e, -EINVAL, "disk %s: a disk has at most 64 PiB", what);
}

struct part {
	struct lf_record *from; /* NULL: empty */
	uint64_t at, len; /* MiB */
	bool readonly;
};
struct parts {
	struct part part[64];
	unsigned n;
	uint64_t mib;
};

static int part_size(const char *text, uint64_t *mib, struct err *e)
{
	uint64_t v;
	int rc = text ? size_parse(text, &v, e)
		      : err_set(e, -EINVAL, "compose: DISK[@SNAPSHOT]/OFFSET/LENGTH[/ro]");

	if (rc)
		return rc;
	if (v % MiB)
		return err_set(e, -EINVAL, "compose: %s is not whole MiB", text);
	*mib = v / MiB;
	return 0;
}

static int parse_part(struct lf *fs, char *text, struct part *p, struct err *e)
{
	char *save, *name = strtok_r(text, "/", &save);
	uint64_t have;
	int rc;

	*p = (struct part){0};
	if (!name)
		return err_set(e, -EINVAL, "compose: an empty part");
	if (strcmp(name, "-")) {
		p->from = find_source(fs, name, e);
		if (!p->from)
			return -ENOENT;
		rc = part_size(strtok_r(NULL, "/", &save), &p->at, e);
		if (rc)
			return rc;
	}
	rc = part_size(strtok_r(NULL, "/", &save), &p->len, e);
	if (!rc && !p->len)
		rc = err_set(e, -EINVAL, "compose: a part of 0 bytes is none");
	if (rc)
		return rc;
	name = strtok_r(NULL, "/", &save);
	p->readonly = name && !strcmp(name, "ro");
	if (name && !p->readonly)
		return err_set(e, -EINVAL, "compose: '%s' is not 'ro'", name);
	have = p->from ? align_up(p->from->size, MiB) / MiB : 0;
	if (p->from && (p->len > have || p->at > have - p->len))
		return err_set(e, -ERANGE, "compose: '%s' has only %llu bytes", p->from->name,
			(unsigned long long)p->from->size);
	return 0;
}

static int parse_parts(
	struct lf *fs, const char *text, struct parts *out, struct lf_record *r, struct err *e)
{
	cleanup(free_ptr) char *copy = strdup(text);
	char *save, *one;

	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	for (one = strtok_r(copy, "+", &save); one; one = strtok_r(NULL, "+", &save)) {
		struct part *p = &out->part[out->n];
		int rc;

		if (out->n == ARRAY_SIZE(out->part))
			return err_set(
				e, -E2BIG, "compose: more than %zu parts", ARRAY_SIZE(out->part));
		rc = parse_part(fs, one, p, e);
		if (rc)
			return rc;
		if (p->len > LF_SIZE_MAX / MiB - out->mib)
			return too_large(one, e);
		if (p->readonly && out->mib + p->len > UINT32_MAX)
			return err_set(e, -E2BIG,
				"compose: what may only be read lies within the first 4 PiB");
		if (p->readonly && r->nranges == LF_RANGES)
			return err_set(e, -E2BIG,
				"compose: more than %u parts that may only be read", LF_RANGES);
		if (p->readonly)
			r->ranges[r->nranges++] = (struct lf_range){
				(uint32_t)out->mib, (uint32_t)p->len};
		out->mib += p->len;
		out->n++;
	}
	return out->n ? 0 : err_set(e, -EINVAL, "compose: no parts");
}

/* The first entry that refers to something, from *i and *m on, which say where it is: MiB *m of part *i. 0: none. */
static int next_entry(
	struct lf *fs, const struct parts *parts, unsigned *i, uint64_t *m, struct lf_entry *out)
{
	for (; *i < parts->n; ++*i, *m = 0) {
		const struct part *p = &parts->part[*i];

		for (uint64_t hole; p->from && *m < p->len; *m += MAX(hole, 1ull)) {
			int rc = lf_bring(fs, p->from, p->at + *m);
			const struct lf_entry *x;
			bool own;

			if (rc)
				return rc;
			hole = MIN(lf_hole(fs, p->from, p->at + *m), p->len);
			x = hole ? NULL : lf_find(fs, p->from, p->at + *m, &own);
			if (!x || (!x->own && !x->base))
				continue;
			*out = *x;
			return 1;
		}
	}
	return 0;
}

/* The entries of all parts, shared: in a transaction. r NULL: only counts the pages that a tree of that height wants for them. */
static int share_parts(struct lf *fs, struct lf_record *r, unsigned height,
	const struct parts *parts, uint64_t *pages)
{
	uint64_t to = 0, last[LF_HEIGHT_MAX + 1], m = 0;
	unsigned i = 0, in = 0;
	struct lf_entry x;
	int rc;

	memset(last, 0xff, sizeof(last));
	for (*pages = 0; (rc = next_entry(fs, parts, &i, &m, &x)) > 0; m++) {
		while (in < i)
			to += parts->part[in++].len;
		for (unsigned h = 0; h <= height; h++) {
			*pages += (to + m) / lf_span(h) != last[h];
			last[h] = (to + m) / lf_span(h);
		}
		if (r)
			lf_set_entry(fs, r, to + m, &x);
		if (fs->failed)
			return fs->failed;
	}
	return rc;
}

/* In a transaction. slot[1]: NULL, or for the record of changes. */
static void put_disk(struct lf *fs, struct lf_record **slot, const struct lf_record *r)
{
	int rc = slot[1] ? lf_track_feature(fs) : 0;

	if (rc)
		fs->failed = fs->failed ?: rc;
	lf_rec_put(fs, slot[0], r);
	if (slot[1])
		lf_track_begin(fs, slot[0], slot[1]);
}

/* The disk that a new one takes the place of, or NULL, and what clear_disk() wants. */
struct old {
	struct lf_record *r;
	uint64_t need;
};

static int compose(struct lf *fs, struct lf_record **slot, struct lf_record *r, const char *text,
	const struct old *old, struct err *e)
{
	struct parts parts = {.n = 0};
	uint64_t pages;
	int rc = parse_parts(fs, text, &parts, r, e);

	if (rc)
		return rc;
	if (r->size && r->size < parts.mib * MiB)
		return err_set(e, -EINVAL, "compose: the parts have %llu MiB, more than the disk",
			(unsigned long long)parts.mib);
	r->size = r->size ?: parts.mib * MiB;
	if (r->size > LF_SIZE_MAX)
		return too_large(r->name, e);
	while (lf_span(r->height) < (r->size + MiB - 1) / MiB)
		r->height++;
	rc = at_rest(fs, e) ?: lf_fail(fs, share_parts(fs, NULL, r->height, &parts, &pages), e);
	if (!rc && pages > LF_PAGES_MAX)
		rc = lf_fail(fs, -ENOSPC, e);
	rc = rc ?: lf_fail(fs, lf_reserve(fs, (unsigned)pages, LF_PAGES_SPARE), e);
	if (rc)
		return rc;
	rc = lf_fail(fs, lf_begin(fs, need_put(fs) + lf_need((unsigned)pages) + old->need), e);
	if (!rc) {
		put_disk(fs, slot, r);
		rc = share_parts(fs, slot[0], r->height, &parts, &(uint64_t){0});
		if (rc)
			fs->failed = fs->failed ?: rc;
		if (old->r)
			clear_disk(fs, old->r);
		rc = lf_finish(fs, e);
	}
	lf_unreserve(fs, (unsigned)pages);
	return rc;
}

static int make_disk(
	struct lf *fs, const char *name, const struct disk_create_opts *o, struct err *e)
{
	const char *clone = disk_kv_get(o->kv, "clone"), *parts = disk_kv_get(o->kv, "compose");
	struct lf_record r = {.type = LF_DISK, .size = o->size, .generation = 1}, *slot[2] = {NULL},
			 *from = NULL;
	struct old old = {.r = lf_rec_find(fs, LF_DISK, 0, name)};
	bool track = false;
	int rc = disk_kv_bool(o->kv, "track", &track, e);

	if (!rc && old.r && !o->overwrite)
		rc = err_set(
			e, -EEXIST, "disk %s: is there already (--force replaces it)", o->path);
	if (!rc && old.r)
		rc = may_go(fs, old.r, &old.need, e);
	if (!rc)
		rc = lf_rec_room(fs, slot, track ? 2 : 1, e);
	if (rc)
		return rc;
	snprintf(r.name, sizeof(r.name), "%s", name);
	if (parts)
		return compose(fs, slot, &r, parts, &old, e);
	if (clone) {
		from = find_source(fs, clone, e);
		if (!from)
			return -ENOENT;
		r.size = r.size ?: from->size;
		if (r.size < from->size)
			return err_set(e, -EINVAL,
				"disk %s: a clone is not smaller than what it is cloned from",
				o->path);
		r.height = from->height;
		r.root = from->root;
		r.parent = from->id;
		r.nranges = from->nranges;
		memcpy(r.ranges, from->ranges, sizeof(r.ranges));
	}
	if (r.size > LF_SIZE_MAX)
		return too_large(o->path, e);
	rc = (from ? at_rest(fs, e) : 0)
		     ?: lf_fail(fs, lf_reserve(fs, LF_HEIGHT_MAX, LF_PAGES_SPARE), e);
	if (rc)
		return rc;
	rc = lf_fail(fs, lf_begin(fs, lf_need(16) + old.need), e);
	if (!rc) {
		put_disk(fs, slot, &r);
		lf_tree_get(fs, r.root);
		if (lf_grow_tree(fs, slot[0], r.size))
			fs->failed = -ENOMEM;
		if (old.r)
			clear_disk(fs, old.r);
		rc = lf_finish(fs, e);
	}
	lf_unreserve(fs, LF_HEIGHT_MAX);
	return rc;
}

int lf_disk_create(const struct disk_create_opts *o, struct err *e)
{
	struct lf_env env = {o->loop, IO_THREADS, o->open_file, o->open_ctx, o->stores};
	cleanup(free_ptr) char *store = NULL;
	struct lf_open how = {.flags = LF_O_WRITE};
	const char *name;
	struct lf *fs;
	int rc;

	if (o->backing)
		return err_set(e, -EINVAL,
			"disk %s: lodgefs has no backing files: `-o clone=DISK@SNAPSHOT` makes a "
			"linked clone in the "
			"same store",
			o->path);
	rc = lf_split(o->path, &store, &name, e);
	how.path = store;
	if (!rc)
		rc = lf_get(&fs, &env, &how, e);
	if (rc)
		return rc;
	rc = make_disk(fs, name, o, e);
	lf_put(fs);
	return rc;
}

int lf_disk_remove(struct lf *fs, const char *name, struct err *e)
{
	struct lf_record *r = lf_rec_find(fs, LF_DISK, 0, name);
	uint64_t need;
	int rc;

	if (!r)
		return lf_no_disk(fs, name, e);
	rc = may_go(fs, r, &need, e) ?: lf_fail(fs, lf_begin(fs, need), e);
	if (rc)
		return rc;
	clear_disk(fs, r);
	return lf_finish(fs, e);
}

int lf_disk_rename(struct lf *fs, const char *from, const char *to, struct err *e)
{
	struct lf_record *r = lf_rec_find(fs, LF_DISK, 0, from);
	int rc;

	if (!r)
		return lf_no_disk(fs, from, e);
	if (!*to || strlen(to) > LF_NAME || strchr(to, '/'))
		return err_set(
			e, -EINVAL, "'%s': the name of a disk has 1 to 255 bytes, without /", to);
	if (lf_rec_find(fs, LF_DISK, 0, to))
		return err_set(e, -EEXIST, "store %s has a disk '%s' already", fs->path, to);
	rc = lf_fail(fs, lf_begin(fs, lf_need(2)), e);
	if (rc)
		return rc;
	memset(r->name, 0, sizeof(r->name));
	memcpy(r->name, to, strlen(to));
	lf_rec_touch(fs, r);
	return lf_finish(fs, e);
}

/* ---- a disk that is open ---- */

#define CUT GiB /* between two looks at whether to go on */

/* What is cut off does not come back when it grows again. */
static int cut(struct disk *d, uint64_t size, struct err *e)
{
	int rc = 0;

	for (uint64_t at = size, n; at < d->size && !rc; at += n) {
		n = MIN(d->size - at, CUT);
		if (!disk_go_on(d, at - size, d->size - size))
			return disk_stopped(d, size, e);
		rc = disk_rw(d, DISK_WRITE_ZEROES, at, NULL, n, e);
	}
	return rc;
}

int lf_resize(struct disk *d, uint64_t size, struct err *e)
{
	struct lf_disk *l = d->priv;
	struct lf *fs = l->fs;
	int rc = 0;

	if (!size || size == d->size)
		return 0;
	if (size > LF_SIZE_MAX)
		return err_set(e, -EFBIG, "disk %s: is not made larger than 64 PiB", d->o.path);
	rc = cut(d, size, e);
	if (!rc)
		rc = lf_fail(fs,
			lf_reserve(fs, 2 * LF_HEIGHT_MAX, size < d->size ? 0 : LF_PAGES_SPARE), e);
	if (rc)
		return rc;
	rc = lf_fail(fs, lf_begin(fs, lf_need(16)), e);
	if (!rc) {
		l->rec->size = size;
		if (lf_grow_tree(fs, l->rec, size) ||
			(l->track && lf_track_grow(fs, l->track, size)))
			fs->failed = -ENOMEM;
		rc = lf_finish(fs, e);
	}
	lf_unreserve(fs, 2 * LF_HEIGHT_MAX);
	if (!rc)
		d->size = size;
	return rc;
}

/* In a transaction. */
static void put_snapshot(struct lf_disk *l, struct lf_record *slot, const char *name)
{
	struct lf_record r;

	if (l->track) /* what is written from now on is "since this snapshot" */
		lf_track_next(l->fs, l->rec);
	r = *l->rec;
	r.type = LF_SNAPSHOT;
	r.owner = l->rec->id;
	memset(r.name, 0, sizeof(r.name));
	memcpy(r.name, name, strlen(name));
	lf_rec_put(l->fs, slot, &r);
	lf_tree_get(l->fs, r.root);
}

int lf_snapshot_all(struct disk *const *d, unsigned n, const char *name, struct err *e)
{
	struct lf *fs = ((struct lf_disk *)d[0]->priv)->fs;
	uint64_t room = 0;
	int rc;

	for (unsigned i = 0; i < n; i++) {
		const struct lf_disk *l = d[i]->priv;

		if (lf_rec_find(fs, LF_SNAPSHOT, l->rec->id, name))
			return err_set(e, -EEXIST, "disk %s: has a snapshot '%s' already",
				d[i]->o.path, name);
	}
	if (strchr(name, '/'))
		return err_set(
			e, -EINVAL, "disk %s: the name of a snapshot has no /", d[0]->o.path);
	for (unsigned i = 0; i < n; i++) {
		rc = lf_track_may_next(((struct lf_disk *)d[i]->priv)->rec, e);
		if (rc)
			return rc;
	}
	for (uint64_t i = 0; i < fs->nrec; i++)
		room += fs->rec[i]->type == LF_FREE;
	if (room < n)
		return no_record(fs, e);
	rc = at_rest(fs, e);
	if (!rc)
		rc = lf_fail(fs, lf_begin(fs, lf_need(4 + 2 * n)), e);
	if (rc)
		return rc;
	for (unsigned i = 0; i < n; i++)
		put_snapshot(d[i]->priv, free_record(fs, e), name);
	return lf_finish(fs, e);
}

static int snapshot_apply(struct disk *d, const struct lf_record *s, struct err *e)
{
	struct lf_disk *l = d->priv;
	struct lf *fs = l->fs;
	uint64_t old;
	int rc = lf_fail(fs, lf_reserve(fs, LF_HEIGHT_MAX, 0), e);

	if (rc)
		return rc;
	rc = lf_fail(fs, lf_begin(fs, need_put(fs)), e);
	lf_unreserve(fs, LF_HEIGHT_MAX);
	if (rc)
		return rc;
	old = l->rec->root;
	lf_tree_get(fs, s->root);
	l->rec->root = s->root;
	l->rec->height = s->height;
	l->rec->size = s->size;
	l->rec->generation++;
	lf_rec_touch(fs, l->rec);
	lf_track_all(fs, l->rec);
	if (l->track && lf_track_grow(fs, l->track, s->size))
		fs->failed = -ENOMEM;
	lf_tree_put(fs, old);
	rc = lf_finish(fs, e);
	if (!rc)
		d->size = s->size;
	return rc;
}

struct lf_record *lf_snapshot_find(struct lf *fs, uint64_t disk, const char *name)
{
	struct lf_record *s = lf_rec_find(fs, LF_SNAPSHOT, disk, name);
	uint64_t id;

	if (s || uint_parse(name, &id, NULL))
		return s;
	s = lf_rec_by_id(fs, id);
	return s && s->type == LF_SNAPSHOT && s->owner == disk ? s : NULL;
}

int lf_snapshot(struct disk *d, enum disk_snap_op op, const char *name, struct err *e)
{
	struct lf_disk *l = d->priv;
	struct lf_record *s;
	int rc;

	if (op == DISK_SNAP_CREATE)
		return lf_snapshot_all(&d, 1, name, e);
	s = lf_snapshot_find(l->fs, l->rec->id, name);
	if (!s)
		return err_set(e, -ENOENT, "disk %s: has no snapshot '%s'", d->o.path, name);
	if (op == DISK_SNAP_APPLY)
		return snapshot_apply(d, s, e);
	if (is_open(l->fs, s))
		return err_set(
			e, -EBUSY, "disk %s: its snapshot '%s' is open here", d->o.path, name);
	rc = lf_fail(l->fs, lf_begin(l->fs, need_put(l->fs)), e);
	if (rc)
		return rc;
	lf_rec_clear(l->fs, s);
	return lf_finish(l->fs, e);
}

int lf_snapshots(struct disk *d, struct disk_snapshot **out, unsigned *n, struct err *e)
{
	struct lf_disk *l = d->priv;
	const struct lf_record *r;
	int rc = lf_rec_list(l->fs, LF_SNAPSHOT, l->rec->id, sizeof(**out), (void **)out, e);

	*n = 0;
	if (rc)
		return rc;
	lf_rec_each(r, i, l->fs, LF_SNAPSHOT, l->rec->id)
	{
		struct disk_snapshot *s = &(*out)[(*n)++];

		snprintf(s->id, sizeof(s->id), "%llu", (unsigned long long)r->id);
		memcpy(s->name, r->name, sizeof(s->name));
		s->size = r->size;
		s->date = r->created;
	}
	return 0;
}
