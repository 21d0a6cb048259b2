/* crash_look.c: images that a power cut may leave behind, and what has to be in them. */
#include "crash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "disk/tool.h"
#include "power.h"

struct cut {
	struct world *w;
	const struct volume *v; /* that is looked at */
	uint64_t point, variant;
	unsigned n; /* of them all; some of what takes long is done in turns */
	struct memdevs devs;
};

__attribute__((format(printf, 2, 3))) static void wrong(struct cut *c, const char *fmt, ...)
{
	const char *dir = getenv("LODGE_CRASH_SAVE");
	char text[400], path[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (dir) {
		snprintf(path, sizeof(path), "%s/failed-%s", dir, c->w->k->name);
		memdev_save(&c->devs, c->w->k->file ?: c->w->k->path, path, NULL);
	}
	fail_msg("LODGE_CRASH_KIND=%s LODGE_CRASH_SEED=%llu, behind event %llu of %llu, variant "
		 "%llu: %s: %s",
		c->w->k->name, (unsigned long long)c->w->seed, (unsigned long long)c->point,
		(unsigned long long)now(c->w), (unsigned long long)c->variant, c->v->path, text);
}

static bool flushed(const struct cut *c, const struct past *p)
{
	const struct world *w = c->w;
	const struct volume *v = c->v;

	if (p->done > c->point)
		return false;
	if (p->fua)
		return true;
	for (unsigned i = 0; i < v->nflush; i++)
		if (v->flush[i].submitted >= p->done && v->flush[i].done <= c->point)
			return true;
	for (unsigned i = 0; i < w->nmade; i++) {
		const struct made *m = &w->made[i];

		if (&w->volume[m->volume] == v && m->made.submitted >= p->done &&
			m->made.done <= c->point)
			return true;
	}
	return false;
}

/* Variant 1 has everything that was sent to the host: it is a process that was killed. Then whatever was done is there. */
static bool certain(const void *ctx, const struct past *p)
{
	const struct cut *c = ctx;

	if (p->done && p->submitted >= c->point)
		return false;
	return c->w->k->kill && c->variant == 1 ? p->done <= c->point : flushed(c, p);
}

static bool permitted(const struct cut *c, uint64_t s, uint64_t stamp)
{
	return past_allows(&c->v->sector[s], stamp, c->point, certain, c);
}

static uint64_t stamp_of(struct cut *c, uint64_t s, const char *data)
{
	uint64_t v = get_le64(data);

	if (memcmp(data, data + 8, SECTOR - 8)) /* not one value all through */
		wrong(c, "sector %llu has more than one value: %llx, and %llx at the end",
			(unsigned long long)s, (unsigned long long)v,
			(unsigned long long)get_le64(data + SECTOR - 8));
	if (v && (v & 0xffffff) != s)
		wrong(c, "sector %llu has what belongs to sector %llu (stamp %llu)",
			(unsigned long long)s, (unsigned long long)(v & 0xffffff),
			(unsigned long long)(v >> 24));
	return v >> 24;
}

static struct disk *open_cut(struct cut *c)
{
	struct disk_opts o = crash_opts(c->w, c->v->path, &c->devs, NULL);
	struct disk *d = NULL;
	struct err e = {0};

	if (disk_open(&d, &o, &e))
		wrong(c, "does not open: %s", err_msg(&e));
	return d;
}

static void read_stamps(struct cut *c, struct disk *d, uint64_t *to)
{
	struct err e = {0};
	char *buf = c->w->buf;

	for (uint64_t at = 0, n; at < d->size; at += n) {
		n = MIN(d->size - at, PART);
		if (disk_rw(d, DISK_READ, at, buf, n, &e))
			wrong(c, "does not read: %s", err_msg(&e));
		for (uint64_t i = 0; i < n / SECTOR; i++)
			*to++ = stamp_of(c, at / SECTOR + i, buf + i * SECTOR);
	}
}

static uint64_t size_before(const struct cut *c, const struct back *b)
{
	uint64_t size = c->v->size_value[0];

	for (unsigned i = 1; i < c->v->nsizes && c->v->size[i].done <= b->when.submitted; i++)
		size = c->v->size_value[i];
	return size;
}

static void look_at_size(struct cut *c, const struct disk *d)
{
	const struct volume *v = c->v;
	bool ok = false;

	for (unsigned i = v->nsizes; i-- && !ok;) {
		ok = v->size[i].submitted < c->point + !i && v->size_value[i] == d->size;
		if (v->size[i].done <= c->point)
			break;
	}
	if (!ok)
		wrong(c, "has %llu bytes", (unsigned long long)d->size);
}

static void look_at_probes(struct cut *c, struct disk *d)
{
	struct err e = {0};

	for (unsigned i = 0; i < c->w->nprobes && c->w->k->atomic; i++) {
		const struct probe *p = &c->w->probe[i];
		unsigned there = 0;

		/* As long as nothing else has come there. */
		if (p->when.submitted > c->point || &c->w->volume[p->volume] != c->v)
			continue;
		for (unsigned k = 0; k < p->n; k++) {
			const struct history *h = &c->v->sector[p->at[k] / SECTOR];
			struct disk_extent x;

			if (h->n > 1 && h->p[1].submitted < c->point) {
				there = 0;
				break;
			}
			if (disk_block_status(d, p->at[k], SECTOR, &x, &e))
				wrong(c, "%s", err_msg(&e));
			there += (x.flags & DISK_EXT_HERE) && (x.flags & DISK_EXT_DATA) && !x.depth;
			if (k + 1 == p->n && there && there != p->n)
				wrong(c, "%u of %u blocks of a request are mapped", there, p->n);
		}
	}
}

static void collect(void *ctx, bool error, const char *text)
{
	struct cut *c = ctx;

	if (error)
		wrong(c, "check: %s", text);
}

/* Where a flag says wrongly that nobody else has a cluster, that would change a snapshot. */
static void write_here_and_there(struct cut *c, struct disk *d)
{
	char data[SECTOR];
	struct err e = {0};

	memset(data, 0xee, sizeof(data));
	for (uint64_t at = c->n % 64 * SECTOR; at < d->size; at += 64 * SECTOR)
		if (disk_rw(d, DISK_WRITE, at, data, SECTOR, &e))
			wrong(c, "cannot be written to: %s", err_msg(&e));
}

/* Counts may be too high, and flags not fit them; a repair makes all right. */
static void mend(struct cut *c)
{
	struct disk_check k = {0};
	struct disk *d = open_cut(c);
	struct err e = {0};

	disk_drain(d);
	for (unsigned i = 0; i < 2; i++)
		if (d->format->check(d, true, NULL, &k, &e))
			wrong(c, "check: %s", err_msg(&e));
	if (k.errors || k.leaks || k.fixed_errors || k.fixed_leaks)
		wrong(c, "a second repair finds %llu errors and %llu leaks",
			(unsigned long long)(k.errors + k.fixed_errors),
			(unsigned long long)(k.leaks + k.fixed_leaks));
	disk_close(d);
}

static void look_at_metadata(struct cut *c, struct disk *d)
{
	struct disk_watch watch = {.found = collect, .ctx = c};
	struct disk_check k = {0};
	struct err e = {0};

	if (!d->format->check)
		return;
	disk_drain(d);
	if (d->format->check(d, true, &watch, &k, &e))
		wrong(c, "check: %s", err_msg(&e));
	if (k.errors || k.fixed_errors)
		wrong(c, "check: %llu errors", (unsigned long long)(k.errors + k.fixed_errors));
	if (k.leaks)
		wrong(c, "check: %llu leaks stay", (unsigned long long)k.leaks);
}

/* What `lodge store check` says. */
static void look_at_store(struct cut *c)
{
	const struct kind *k = c->w->k;
	struct files files = {.loop = &c->w->loop, .open = memdevs_open, .open_ctx = &c->devs};
	struct disk_watch watch = {.found = collect, .ctx = c};
	struct disk_check found = {0};
	struct err e = {0};

	if (k->file && disk_store_lodgefs.check(&files, k->file, false, &watch, &found, &e))
		wrong(c, "check of the store: %s", err_msg(&e));
	if (found.errors || found.leaks)
		wrong(c, "check of the store: %llu errors, %llu leaks",
			(unsigned long long)found.errors, (unsigned long long)found.leaks);
}

static bool listed(struct cut *c, struct disk *d, const char *name)
{
	struct disk_snapshot *s;
	struct err e = {0};
	unsigned n;
	bool there = false;

	if (disk_snapshots(d, &s, &n, &e))
		wrong(c, "snapshots: %s", err_msg(&e));
	for (unsigned i = 0; i < n; i++)
		there |= !strcmp(s[i].name, name);
	free(s);
	return there;
}

static void look_at_snapshot(struct cut *c, const struct made *m)
{
	struct disk *d = open_cut(c);
	bool there = listed(c, d, m->name);
	struct err e = {0};

	if (m->made.done <= c->point && !(m->deleted.done && m->deleted.submitted < c->point) &&
		!there)
		wrong(c, "snapshot %s is lost", m->name);
	if ((m->made.submitted >= c->point || (m->deleted.done && m->deleted.done <= c->point)) &&
		there)
		wrong(c, "snapshot %s is there", m->name);
	if (there) {
		if (disk_snapshot(d, DISK_SNAP_APPLY, m->name, &e))
			wrong(c, "snapshot %s cannot be gone back to: %s", m->name, err_msg(&e));
		if (d->size != m->size)
			wrong(c, "snapshot %s has %llu bytes", m->name,
				(unsigned long long)d->size);
		read_stamps(c, d, c->w->again);
		for (uint64_t s = 0; s < m->size / SECTOR; s++)
			if (c->w->again[s] != m->stamp[s])
				wrong(c, "snapshot %s, sector %llu: stamp %llu, not %llu", m->name,
					(unsigned long long)s, (unsigned long long)c->w->again[s],
					(unsigned long long)m->stamp[s]);
	}
	disk_close(d);
}

static void look_at_contents(struct cut *c, struct disk *d)
{
	const uint64_t *is = c->w->is;

	read_stamps(c, d, c->w->is);
	for (uint64_t s = 0; s < d->size / SECTOR; s++)
		if (!permitted(c, s, is[s]))
			wrong(c, "sector %llu: stamp %llu; the last one is %llu",
				(unsigned long long)s, (unsigned long long)is[s],
				(unsigned long long)current(c->v, s));
}

/* Of a disk that was going back to a snapshot all is as it was before, or all as it was then. What is in w->is now. */
static void look_at_backs(struct cut *c, const struct disk *d)
{
	for (unsigned i = 0; i < c->w->nbacks; i++) {
		const struct back *b = &c->w->back[i];
		uint64_t before = UINT64_MAX, then = UINT64_MAX;

		if (&c->w->volume[b->volume] != c->v || b->when.submitted >= c->point ||
			b->when.done <= c->point)
			continue;
		for (uint64_t s = 0; s < d->size / SECTOR; s++) {
			struct history h = {c->v->sector[s].p, b->before[s], 0};
			uint64_t is = c->w->is[s];

			if (is != (s < b->to->size / SECTOR ? b->to->stamp[s] : 0))
				before = s;
			else if (!past_allows(&h, is, c->point, certain, c))
				then = s;
		}
		if (before != UINT64_MAX && then != UINT64_MAX)
			wrong(c,
				"has gone back to %s in part: sector %llu has, sector %llu has not",
				b->to->name, (unsigned long long)then, (unsigned long long)before);
		if ((before != UINT64_MAX && d->size != size_before(c, b)) ||
			(then != UINT64_MAX && d->size != b->to->size))
			wrong(c, "has %llu bytes, and is not as it was with these",
				(unsigned long long)d->size);
	}
}

/* What was cut off does not come back. The last look at this disk. */
static void look_behind_end(struct cut *c, struct disk *d)
{
	uint64_t size = d->size, most = 0, n;
	struct err e = {0};

	for (unsigned i = 0; i < c->v->nsizes; i++)
		if (c->v->size[i].submitted < c->point)
			most = MAX(most, c->v->size_value[i]);
	if (most <= size || !d->format->resize)
		return;
	if (disk_resize(d, most, &e))
		wrong(c, "cannot be made longer: %s", err_msg(&e));
	for (uint64_t at = size; at < most; at += n) {
		n = MIN(most - at, PART);
		if (disk_rw(d, DISK_READ, at, c->w->buf, n, &e))
			wrong(c, "does not read: %s", err_msg(&e));
		if (c->w->buf[0] || memcmp(c->w->buf, c->w->buf + 1, n - 1))
			wrong(c, "what was cut off at %llu is there again",
				(unsigned long long)size);
	}
}

/* A bitmap that claims to be complete names what is not as it was. What is in w->is now. */
static void look_at_bits(struct cut *c, struct disk *d, const struct bits *b)
{
	struct disk_bitmap *all;
	struct err e = {0};
	bool there = false, busy = false, dirty = false;
	uint64_t end = 0, len;
	unsigned n;

	if (disk_bitmaps(d, &all, &n, &e))
		wrong(c, "bitmaps: %s", err_msg(&e));
	for (unsigned i = 0; i < n; i++) {
		there |= !strcmp(all[i].name, b->name);
		busy |= !strcmp(all[i].name, b->name) && all[i].busy;
	}
	free(all);
	if (there != (b->added.done <= c->point &&
			     !(b->removed.done && b->removed.submitted < c->point)) &&
		there != (b->added.submitted < c->point &&
				 !(b->removed.done && b->removed.done <= c->point)))
		wrong(c, "bitmap %s is %s", b->name, there ? "there" : "lost");
	for (uint64_t s = 0; s < d->size / SECTOR && there && !busy && b->cleared <= c->point;
		s++) {
		if (s * SECTOR >= end) {
			len = d->size - s * SECTOR;
			if (disk_bitmap_status(d, b->name, s * SECTOR, &len, &dirty, &e))
				wrong(c, "bitmap %s: %s", b->name, err_msg(&e));
			end = s * SECTOR + len;
		}
		if (!dirty && b->stamp[s] != UINT64_MAX && c->w->is[s] != b->stamp[s])
			wrong(c, "sector %llu has changed, and bitmap %s does not have it",
				(unsigned long long)s, b->name);
	}
}

/* What is in w->is now. */
static void look_at_changes(struct cut *c, struct disk *d)
{
	struct err e = {0};
	bool dirty = false;

	for (unsigned i = 0; i < c->w->nmarks; i++) {
		const struct mark *m = &c->w->mark[i];
		uint64_t end = 0, len;

		if (m->when.done > c->point)
			continue;
		for (uint64_t s = 0; s < d->size / SECTOR; s++) {
			if (s * SECTOR >= end) {
				len = d->size - s * SECTOR;
				if (disk_changed(d, m->generation, s * SECTOR, &len, &dirty, &e))
					wrong(c, "changes: %s", err_msg(&e));
				end = s * SECTOR + len;
			}
			if (!dirty && m->stamp[s] != UINT64_MAX && c->w->is[s] != m->stamp[s])
				wrong(c,
					"sector %llu is not as it was when generation %llu began, "
					"and not named as changed",
					(unsigned long long)s, (unsigned long long)m->generation);
		}
	}
}

/* The files of the host that an image has, and what it reads as: NAME.image, .base, .data, .contents. */
static void save_file(struct cut *c, const char *device, const char *what)
{
	char path[300];

	if (memdev_size(&c->devs, device) == 0)
		return;
	snprintf(path, sizeof(path), "%s/%s-%llu-%llu-%llu.%s", getenv("LODGE_CRASH_SAVE"),
		c->w->k->name, (unsigned long long)c->w->seed, (unsigned long long)c->point,
		(unsigned long long)c->variant, what);
	memdev_save(&c->devs, device, path, NULL);
}

static void save_image(struct cut *c)
{
	save_file(c, c->w->k->file ?: c->w->k->path, "image");
	save_file(c, "base", "base");
	save_file(c, "data", "data");
}

static void save_contents(struct cut *c, struct disk *d)
{
	cleanup(free_ptr) char *all = malloc(LARGEST);
	struct err e = {0};

	if (disk_rw(d, DISK_READ, 0, all, d->size, &e))
		wrong(c, "does not read: %s", err_msg(&e));
	memdev_poke(&c->devs, "contents", 0, all, d->size);
	save_file(c, "contents", "contents");
}

static void look_at_volume(struct cut *c, bool keep)
{
	struct disk *d = open_cut(c);
	uint64_t size = d->size;

	look_at_size(c, d);
	look_at_probes(c, d);
	look_at_contents(c, d);
	look_at_backs(c, d);
	if (keep)
		save_contents(c, d);
	if (c->w->k->tracked && c->v == c->w->volume)
		look_at_changes(c, d);
	for (unsigned i = 0; i < c->w->nbits; i++)
		look_at_bits(c, d, &c->w->bits[i]);
	if (c->w->k->unmended) {
		write_here_and_there(c, d);
		disk_close(d);
		return;
	}
	look_at_metadata(c, d);
	disk_close(d);
	d = open_cut(c);
	if (d->size != size)
		wrong(c, "has another size when it is opened again");
	if (c->n % 2 == 0)
		read_stamps(c, d, c->w->again);
	if (c->n % 2 == 0 && memcmp(c->w->again, c->w->is, size / SECTOR * sizeof(*c->w->is)))
		wrong(c, "is another one when it is opened again");
	look_behind_end(c, d);
	disk_close(d);
}

/* Nothing when it is not there, and need not be. */
static void look_at_clone(struct cut *c)
{
	struct disk_opts o = crash_opts(c->w, c->v->path, &c->devs, NULL);
	struct disk *d = NULL;
	struct err e = {0};
	int rc = disk_open(&d, &o, &e);

	disk_close(d);
	if (!rc && c->v->made.submitted >= c->point)
		wrong(c, "is there");
	if (!rc)
		look_at_volume(c, false);
	else if ((rc != -ENOENT && c->w->k->file) || c->v->made.done <= c->point)
		wrong(c, "is lost: %s", err_msg(&e));
}

/* It is being made or deleted, or was a moment ago. */
static bool is_new(const struct cut *c, const struct made *m)
{
	uint64_t from = c->point > 8 ? c->point - 8 : 0;

	return (m->made.submitted < c->point && m->made.done >= from) ||
	       (m->deleted.done && m->deleted.submitted < c->point && m->deleted.done >= from);
}

static void look(struct cut *c, unsigned n)
{
	struct world *w = c->w;
	bool keep = getenv("LODGE_CRASH_SAVE") && n % 50 == 0;

	c->n = n;
	c->v = w->volume;
	if (keep)
		save_image(c);
	look_at_store(c);
	look_at_volume(c, keep);
	for (unsigned i = 1; i < w->nvolumes; i++) {
		c->v = &w->volume[i];
		look_at_clone(c);
	}
	/* Backwards: what goes back lies under none that is still to be looked at. */
	for (unsigned i = w->nmade; i--;) {
		const struct made *m = &w->made[i];

		c->v = &w->volume[m->volume];
		if (c->v->made.done <= c->point && ((i + n) % 2 || is_new(c, m) || w->k->unmended))
			look_at_snapshot(c, m);
	}
	c->v = w->volume;
	if (w->k->unmended)
		mend(c);
	look_at_store(c);
	uv_run(&w->loop, UV_RUN_DEFAULT);
}

/* And another one while it is opened, and mended, and closed. Both take what was not flushed. */
static unsigned cut_twice(struct world *w, uint64_t point, uint64_t variant, unsigned n)
{
	struct cut first = {.w = w, .point = point, .variant = variant, .v = w->volume};
	uint64_t events;

	assert_int_equal(memdevs_crash(&w->devs, point, variant, &first.devs), 0);
	if (w->k->file)
		lose_power(&first.devs);
	assert_int_equal(memdevs_record(&first.devs), 0);
	disk_close(open_cut(&first));
	uv_run(&w->loop, UV_RUN_DEFAULT);
	events = memdevs_events(&first.devs);
	for (uint64_t i = 0; i < 3 && events; i++) {
		struct cut c = {.w = w, .point = point, .variant = MAX(variant, 2ull)};

		assert_int_equal(
			memdevs_crash(&first.devs, events * (i + 1) / 4, 2 + n, &c.devs), 0);
		if (w->k->file)
			lose_power(&c.devs);
		look(&c, 1);
		memdevs_free(&c.devs);
	}
	memdevs_free(&first.devs);
	return events ? 3 : 0;
}

unsigned crash_cuts(struct world *w)
{
	unsigned n = 0, twice = 0;

	for (uint64_t p = 0; p <= now(w); p++) {
		if (p && p < now(w) && !memdevs_is_write(&w->devs, p - 1))
			continue;
		for (uint64_t v = 0; v < 3; v++) {
			struct cut c = {.w = w, .point = p, .variant = v < 2 ? v : 2 + w->seed};

			assert_int_equal(memdevs_crash(&w->devs, p, c.variant, &c.devs), 0);
			if (w->k->file && c.variant != 1)
				lose_power(&c.devs);
			look(&c, n++);
			memdevs_free(&c.devs);
			if (n % 32 == 0)
				twice += cut_twice(w, p, c.variant, n);
		}
	}
	return n + twice;
}
