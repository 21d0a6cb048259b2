/*
 * track.c: which parts of a disk have changed since when.
 *
 * A disk that is tracked has a number, its generation, and for each 64 KiB the generation in which it was written last. So "what has changed since
 * generation G" is answered for every G, and beginning a new generation (a bitmap that is cleared, a snapshot) is one number in the directory.
 *
 * A change is never there without being recorded, whatever a power cut takes: what goes to a new place is recorded in the record that makes it count;
 * before something is written in place for the first time in a generation, that is recorded and flushed (lf_track_ahead(), once for all requests that wait).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define NAME "changes"

uint64_t lf_track_span(unsigned height)
{
	return lf_span(height) / LF_LEAF_ENTRIES * LF_TRACK_ENTRIES;
}

static unsigned height_for(uint64_t size)
{
	unsigned h = 0;

	while (lf_track_span(h) < (size + LF_BLOCK - 1) / LF_BLOCK)
		h++;
	return h;
}

struct lf_record *lf_track_of(struct lf *fs, const struct lf_record *disk)
{
	return lf_rec_find(fs, LF_TRACK, disk->id, NAME);
}

static uint32_t *leaf_at(struct lf_page *p, uint64_t mib)
{
	return (uint32_t *)lf_body(p) + mib * LF_TRACK_CHUNKS;
}

/* The generations of the 16 chunks of that MiB; NULL: all 0. */
static const uint32_t *look(struct lf *fs, const struct lf_record *t, uint64_t mib)
{
	uint64_t at = t->root, span = lf_track_span(t->height);

	if (mib >= span)
		return NULL;
	for (;;) {
		struct lf_page *p = at ? lf_page_at(fs, at) : NULL;

		if (!p)
			return NULL;
		if (!p->level)
			return leaf_at(p, mib);
		span /= LF_NODE_ENTRIES;
		at = *lf_node(p, mib / span);
		mib %= span;
	}
}

/* What a chunk is called among what is vouched for by records that are not marked. */
static uint64_t fresh_key(const struct lf_record *t, uint64_t chunk)
{
	return 1ull << 63 | t->id << 40 | chunk;
}
#define ALL ((1ull << 40) - 1)

static bool recorded(struct lf_disk *l, uint64_t off, uint64_t len)
{
	const uint32_t *g = look(l->fs, l->track, off / LF_BLOCK);

	for (uint64_t c = off / LF_CHUNK; c <= (off + len - 1) / LF_CHUNK; c++)
		if (!g || g[c % LF_TRACK_CHUNKS] != l->rec->generation)
			return false;
	return true;
}

bool lf_track_has(struct lf_disk *l, uint64_t off, uint64_t len)
{
	if (l->track->parent >= l->rec->generation)
		return lf_fresh_seq(l->fs, fresh_key(l->track, ALL)) <= l->fs->flushed;
	if (!recorded(l, off, len))
		return false;
	/* The record has to be on the medium: a power cut must not take it and leave what is written now. */
	for (uint64_t c = off / LF_CHUNK; c <= (off + len - 1) / LF_CHUNK; c++)
		if (lf_fresh_seq(l->fs, fresh_key(l->track, c)) > l->fs->flushed)
			return false;
	return true;
}

/* In a transaction: the leaf, made where it is not there. */
static struct lf_page *own_leaf(struct lf *fs, struct lf_record *t, uint64_t *mib)
{
	uint64_t span = lf_track_span(t->height);
	struct lf_page *p = t->root ? lf_page_at(fs, t->root) : NULL;

	if (!p) {
		p = lf_page_new(fs, LF_T_TRACK, t->height);
		if (!p)
			return NULL;
		t->root = p->at;
		lf_rec_touch(fs, t);
	}
	while (p && p->level) {
		uint64_t *slot;

		span /= LF_NODE_ENTRIES;
		slot = lf_node(p, *mib / span);
		*mib %= span;
		if (!*slot) {
			struct lf_page *child = lf_page_new(fs, LF_T_TRACK, p->level - 1u);

			if (!child)
				return NULL;
			*slot = child->at;
			lf_touch(fs, p, (unsigned)((uint8_t *)slot - p->data), 8);
		}
		p = lf_page_at(fs, *slot);
	}
	return p;
}

void lf_track_set(struct lf_disk *l, uint64_t off, uint64_t len)
{
	uint64_t mib = off / LF_BLOCK, first = off % LF_BLOCK / LF_CHUNK,
		 last = (off % LF_BLOCK + len - 1) / LF_CHUNK;
	struct lf_page *p;
	uint32_t *g;

	if (recorded(l, off, len))
		return;
	p = own_leaf(l->fs, l->track, &mib);
	if (!p) {
		l->fs->failed = l->fs->failed ?: -ENOMEM;
		return;
	}
	g = leaf_at(p, mib);
	for (uint64_t c = first; c <= last; c++) {
		g[c] = (uint32_t)l->rec->generation;
		if (lf_fresh_put(l->fs, fresh_key(l->track, off / LF_BLOCK * LF_TRACK_CHUNKS + c)))
			l->fs->failed = l->fs->failed ?: -ENOMEM;
	}
	lf_touch(l->fs, p, (unsigned)((uint8_t *)&g[first] - p->data),
		(unsigned)(last - first + 1) * 4);
}

unsigned lf_track_pages(const struct lf_disk *l)
{
	return l->track ? l->track->height + 1u : 0;
}

/* ---- ahead of writes in place ---- */

static int clear_sums(struct lf *fs, const struct lf_ahead *some)
{
	int rc = 0;

	for (const struct lf_ahead *a = some; a && !rc; a = a->next)
		rc = lf_sums_clear(fs, &a->want);
	if (rc)
		fs->failed = fs->failed ?: rc;
	return rc;
}

/* No room for the pages: then all of these disks counts as changed, and what is there can be written nevertheless. */
static int record_all(struct lf *fs, struct lf_ahead *some, unsigned others)
{
	unsigned disks = 0;
	int rc;

	for (const struct lf_disk *l = fs->disks; l; l = l->next) /* a record of each */
		disks++;
	rc = lf_begin(fs, lf_need((unsigned)MIN(fs->s.dir_pages, disks) + others));
	if (rc)
		return rc;
	for (struct lf_ahead *a = some; a; a = a->next)
		if (a->set && a->l->track)
			lf_track_all(fs, a->l->rec);
	(void)clear_sums(fs, some);
	return lf_end(fs, NULL, 0) ?: lf_flush(fs);
}

static int pin_all(struct lf *fs, const struct lf_ahead *some, struct lf_pins *pins)
{
	int rc = 0;

	for (const struct lf_ahead *a = some; a && !rc; a = a->next)
		if (a->set && a->l->track)
			rc = lf_pins_way(fs, pins, a->l->track, a->set->block);
	return rc;
}

static int record_some(struct lf *fs, struct lf_ahead *some, unsigned pages, unsigned others)
{
	cleanup(lf_pins_drop) struct lf_pins pins = {0};
	int rc = lf_reserve(fs, pages, LF_PAGES_SPARE);

	if (rc == -ENOSPC)
		return record_all(fs, some, others);
	if (rc)
		return rc;
	rc = lf_begin(fs, lf_need(2 * pages + 2 + others));
	if (!rc) {
		rc = pin_all(fs, some, &pins) ?: fs->failed;
		if (rc)
			co_unlock(&fs->lock);
	}
	if (rc) {
		lf_unreserve(fs, pages);
		return rc;
	}
	for (struct lf_ahead *a = some; a; a = a->next)
		for (unsigned i = 0; a->set && a->l->track && i < a->set->n; i++)
			if (a->set->elem[i].where == SORT_PLAIN)
				lf_track_set(a->l, a->set->elem[i].off, a->set->elem[i].len);
	(void)clear_sums(fs, some);
	rc = lf_end(fs, NULL, 0);
	lf_unreserve(fs, pages);
	return rc ?: lf_flush(fs);
}

/* Whoever finds nobody at it records what has collected, for all who wait. */
static void lead(struct lf *fs)
{
	uint64_t most = fs->s.journal_bytes / 8;
	struct lf_ahead *some = NULL, *a;
	unsigned pages = 0, others = 0;
	int rc;

	fs->ahead_busy = true;
	while ((a = fs->ahead) && (!some || lf_need(2 * pages + others + 32) < most)) {
		fs->ahead = a->next;
		a->next = some;
		some = a;
		pages += lf_track_pages(a->l);
		others += a->want.n;
	}
	rc = record_some(fs, some, pages, others);
	fs->ahead_busy = false;
	while ((a = some)) {
		some = a->next;
		a->rc = rc;
		a->done = true;
		if (a->co)
			co_wake(a->co);
	}
	if (fs->ahead && fs->ahead->co) /* the next one leads */
		co_wake(fs->ahead->co);
}

int lf_track_ahead(struct lf_ahead *a)
{
	struct lf *fs = a->l->fs;
	struct lf_ahead **last;
	int rc = a->want.n ? lf_sums_look(fs, &a->want) : 0;

	if (rc)
		return rc;
	for (last = &fs->ahead; *last; last = &(*last)->next)
		;
	*last = a;
	while (!a->done) {
		if (!fs->ahead_busy) {
			lead(fs);
			continue;
		}
		a->co = co_self(&fs->cs);
		co_wait(&fs->cs);
		a->co = NULL;
	}
	return a->rc;
}

/* ---- generations ---- */

/* In a transaction. */
void lf_track_next(struct lf *fs, struct lf_record *disk)
{
	disk->generation++;
	lf_rec_touch(fs, disk);
}

int lf_track_may_next(const struct lf_record *disk, struct err *e)
{
	return disk->generation < UINT32_MAX - 1
		       ? 0
		       : err_set(e, -EOVERFLOW, "disk %s: has no more generations: copy it",
				 disk->name);
}

void lf_track_all(struct lf *fs, struct lf_record *disk)
{
	struct lf_record *t = lf_track_of(fs, disk);

	if (!t)
		return;
	t->parent = disk->generation;
	lf_rec_touch(fs, t);
	if (lf_fresh_put(fs, fresh_key(t, ALL)))
		fs->failed = fs->failed ?: -ENOMEM;
}

/* In a transaction: what is new is in the present generation. */
static void begin(struct lf *fs, const struct lf_record *disk, struct lf_record *slot, bool stays)
{
	struct lf_record r = {.type = LF_TRACK,
		.flags = stays ? LF_F_STAYS : 0,
		.owner = disk->id,
		.generation = disk->generation,
		.granularity = LF_CHUNK,
		.height = (uint8_t)height_for(disk->size),
		.size = disk->size,
		.name = NAME};

	(void)!getrandom(&r.ranges[0], sizeof(r.ranges[0]), 0);
	lf_rec_put(fs, slot, &r);
}

void lf_track_begin(struct lf *fs, const struct lf_record *disk, struct lf_record *slot)
{
	begin(fs, disk, slot, true);
}

int lf_track_grow(struct lf *fs, struct lf_record *t, uint64_t size)
{
	while (lf_track_span(t->height) < (size + LF_BLOCK - 1) / LF_BLOCK) {
		if (t->root) {
			struct lf_page *p = lf_page_new(fs, LF_T_TRACK, t->height + 1u);

			if (!p)
				return -ENOMEM;
			*lf_node(p, 0) = t->root;
			t->root = p->at;
		}
		t->height++;
	}
	t->size = size;
	lf_rec_touch(fs, t);
	return 0;
}

/* Older programs would not record: they are kept out from now on. */
int lf_track_feature(struct lf *fs)
{
	if (fs->s.incompatible & LF_INC_TRACK)
		return 0;
	fs->s.incompatible |= LF_INC_TRACK;
	return lf_super_write(fs);
}

/* ---- bitmaps: names for generations ---- */

static int add(struct lf_disk *l, const char *name, struct err *e)
{
	struct lf *fs = l->fs;
	struct lf_record r = {.type = LF_CBT, .owner = l->rec->id, .granularity = LF_CHUNK},
			 *slot[2];
	unsigned n = l->track ? 1 : 2;
	int rc;

	if (strlen(name) > LF_NAME || strchr(name, '/') || !*name)
		return err_set(e, -EINVAL,
			"'%s': the name of a bitmap has 1 to 255 bytes, without /", name);
	if (lf_rec_find(fs, LF_CBT, l->rec->id, name))
		return err_set(
			e, -EEXIST, "disk %s: has a bitmap '%s' already", l->d->o.path, name);
	rc = lf_rec_room(fs, slot, n, e);
	if (!rc)
		rc = lf_fail(fs, lf_begin(fs, lf_need(8)), e);
	if (rc)
		return rc;
	rc = lf_track_feature(fs);
	if (rc)
		fs->failed = fs->failed ?: rc;
	lf_track_next(fs, l->rec);
	if (!l->track)
		begin(fs, l->rec, slot[1], false);
	r.generation = l->rec->generation;
	memcpy(r.name, name, strlen(name));
	lf_rec_put(fs, slot[0], &r);
	rc = lf_finish(fs, e);
	if (!rc && !l->track)
		l->track = slot[1];
	return rc;
}

static bool others(const struct lf *fs, const struct lf_record *r)
{
	const struct lf_record *o;

	lf_rec_each(o, i, fs, LF_CBT, r->owner) if (o != r) return true;
	return false;
}

static int change(struct lf_disk *l, struct lf_record *r, bool clear, struct err *e)
{
	struct lf *fs = l->fs;
	bool last = !clear && l->track && !(l->track->flags & LF_F_STAYS) && !others(fs, r);
	int rc = lf_fail(fs, lf_begin(fs, lf_need((unsigned)fs->s.bitmap_pages + 8)), e);

	if (rc)
		return rc;
	if (clear) {
		lf_track_next(fs, l->rec);
		r->generation = l->rec->generation;
		lf_rec_touch(fs, r);
		return lf_finish(fs, e);
	}
	lf_rec_clear(fs, r);
	if (last)
		lf_rec_clear(fs, steal_ptr(l->track));
	return lf_finish(fs, e);
}

int lf_bitmap(struct disk *d, enum disk_bitmap_op op, const char *name, uint64_t granularity,
	struct err *e)
{
	struct lf_disk *l = d->priv;
	struct lf_record *r = lf_rec_find(l->fs, LF_CBT, l->rec->id, name);
	int rc = lf_track_may_next(l->rec, e);

	if (rc)
		return rc;
	if (op == DISK_BITMAP_ADD && granularity != LF_CHUNK)
		return err_set(
			e, -EINVAL, "disk %s: lodgefs records changes in units of 64K", d->o.path);
	if (op == DISK_BITMAP_ADD)
		return add(l, name, e);
	if (!r)
		return err_set(e, -ENOENT, "disk %s: has no bitmap '%s'", d->o.path, name);
	if (op == DISK_BITMAP_DISABLE)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: the bitmaps of lodgefs record as long as they are there",
			d->o.path);
	return op == DISK_BITMAP_ENABLE ? 0 : change(l, r, op == DISK_BITMAP_CLEAR, e);
}

/* What has changed since the earlier of two generations is what has changed since either. */
int lf_bitmap_merge(struct disk *d, const char *name, const char *source, struct err *e)
{
	struct lf_disk *l = d->priv;
	struct lf_record *r = lf_rec_find(l->fs, LF_CBT, l->rec->id, name);
	const struct lf_record *from = lf_rec_find(l->fs, LF_CBT, l->rec->id, source);
	int rc;

	if (!r || !from)
		return err_set(
			e, -ENOENT, "disk %s: has no bitmap '%s'", d->o.path, r ? source : name);
	rc = lf_fail(l->fs, lf_begin(l->fs, lf_need(2)), e);
	if (rc)
		return rc;
	r->generation = MIN(r->generation, from->generation);
	lf_rec_touch(l->fs, r);
	return lf_finish(l->fs, e);
}

/* ---- asking ---- */

#define LOOK_MAX 16u /* leaves of a machine's disk at once, which may have to be read */

/* Where it is not any more as it is at `off`, in this MiB. *is: how that is. */
static uint64_t alike(
	const struct lf_record *t, const uint32_t *g, uint64_t off, uint64_t since, bool *is)
{
	uint64_t c = off / LF_CHUNK, end = align_up(c + 1, LF_TRACK_CHUNKS);

	*is = t->parent >= since || (g && g[c % LF_TRACK_CHUNKS] >= since);
	while (++c < end && *is == (t->parent >= since || (g && g[c % LF_TRACK_CHUNKS] >= since)))
		;
	return c * LF_CHUNK;
}

int lf_changed(
	struct disk *d, uint64_t since, uint64_t off, uint64_t *len, bool *dirty, struct err *e)
{
	struct lf_disk *l = d->priv;
	uint64_t end = off + *len, at = off, next;
	unsigned looks = 0;

	if (!l->track)
		return err_set(e, -ENODATA,
			"disk %s: its changes are not recorded: `lodge disk bitmap --add NAME` "
			"begins",
			d->o.path);
	if (since < l->track->generation || since > l->rec->generation)
		return err_set(e, -ESTALE,
			"disk %s: its changes are known since generation %llu, and it is %llu now: "
			"since %llu "
			"everything counts as changed",
			d->o.path, (unsigned long long)l->track->generation,
			(unsigned long long)l->rec->generation, (unsigned long long)since);
	for (; at < end; at = MIN(end, next)) {
		uint64_t mib = at / LF_BLOCK, hole;
		bool is;
		int rc;

		looks += at == off || !(mib % LF_TRACK_ENTRIES);
		if (looks > LOOK_MAX && !d->o.offline)
			break;
		rc = lf_bring(l->fs, l->track, mib);
		if (rc)
			return lf_fail(l->fs, rc, e);
		hole = lf_hole(l->fs, l->track, mib);
		next = alike(l->track, look(l->fs, l->track, mib), at, since, &is);
		if (hole)
			next = mib + hole < end / LF_BLOCK + 1 ? (mib + hole) * LF_BLOCK : end;
		if (at == off)
			*dirty = is;
		else if (is != *dirty)
			break;
	}
	*len = MIN(at, end) - off;
	return 0;
}

int lf_generation(struct disk *d, bool next, struct disk_generation *out, struct err *e)
{
	struct lf_disk *l = d->priv;
	struct lf *fs = l->fs;
	int rc = 0;

	if (!l->track)
		return err_set(e, -ENODATA,
			"disk %s: its changes are not recorded: `lodge disk bitmap --add NAME` "
			"begins",
			d->o.path);
	if (next) {
		rc = lf_track_may_next(l->rec, e);
		if (!rc)
			rc = lf_fail(fs, lf_begin(fs, lf_need(2)), e);
		if (rc)
			return rc;
		lf_track_next(fs, l->rec);
		rc = lf_finish(fs, e);
	}
	*out = (struct disk_generation){
		.now = l->rec->generation, .first = l->track->generation, .granularity = LF_CHUNK};
	memcpy(&out->id, &l->track->ranges[0], sizeof(out->id));
	return rc;
}

static uint64_t count_dirty(struct disk *d, uint64_t since)
{
	uint64_t n = 0, len;
	bool dirty;

	for (uint64_t at = 0; at < d->size; at += len) {
		len = d->size - at;
		if (lf_changed(d, since, at, &len, &dirty, NULL))
			return d->size;
		n += dirty ? len : 0;
	}
	return n;
}

int lf_bitmaps(struct disk *d, struct disk_bitmap **out, unsigned *n, struct err *e)
{
	struct lf_disk *l = d->priv;
	const struct lf_record *r;
	int rc = lf_rec_list(l->fs, LF_CBT, l->rec->id, sizeof(**out), (void **)out, e);

	*n = 0;
	if (rc)
		return rc;
	lf_rec_each(r, i, l->fs, LF_CBT, l->rec->id)
	{
		struct disk_bitmap *b = &(*out)[(*n)++];

		memcpy(b->name, r->name, sizeof(b->name));
		b->granularity = LF_CHUNK;
		b->generation = r->generation;
		b->enabled = b->persistent = true;
		b->dirty = d->o.offline ? count_dirty(d, r->generation) : DISK_DIRTY_UNKNOWN;
	}
	return 0;
}

int lf_bitmap_status(
	struct disk *d, const char *name, uint64_t off, uint64_t *len, bool *dirty, struct err *e)
{
	struct lf_disk *l = d->priv;
	const struct lf_record *r = lf_rec_find(l->fs, LF_CBT, l->rec->id, name);

	if (!r)
		return err_set(e, -ENOENT, "disk %s: has no bitmap '%s'", d->o.path, name);
	return lf_changed(d, r->generation, off, len, dirty, e);
}
