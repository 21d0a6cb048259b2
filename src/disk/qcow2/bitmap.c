#include "disk/qcow2/bitmap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/qcow2/admin.h"

#define FIXED 24u
#define DIRECTORY_MAX (64u << 20)
#define TABLE_MAX (32u << 20) /* bytes of one table */

enum { IN_USE = 1, AUTO = 2, EXTRA_OK = 4, FLAGS_KNOWN = 7 };

/* ---- loading ---- */

static void bitmap_free(struct q_bitmap *b)
{
	free(b->name);
	free(b->extra);
	free(b->map);
}

void q_bitmaps_free(struct qcow2 *q)
{
	for (unsigned i = 0; i < q->nbitmaps; i++)
		bitmap_free(&q->bitmaps[i]);
	free(q->bitmaps);
	q->bitmaps = NULL;
	q->nbitmaps = 0;
}

static int bad(struct qcow2 *q, struct err *e, unsigned i)
{
	return err_set(e, -EUCLEAN, "disk %s: bitmap %u is damaged", q->d->o.path, i);
}

static int load_one(struct qcow2 *q, const uint8_t *p, uint64_t left, uint64_t *used, uint64_t off,
	struct err *e)
{
	struct q_bitmap *b = &q->bitmaps[q->nbitmaps];
	uint64_t name, len;

	if (left < FIXED)
		return bad(q, e, q->nbitmaps);
	*b = (struct q_bitmap){.table_off = get_be64(p),
		.entry_off = off,
		.table_size = get_be32(p + 8),
		.flags = get_be32(p + 12),
		.type = p[16],
		.bits = p[17],
		.extra_len = get_be32(p + 20)};
	name = get_be16(p + 18);
	len = align_up(FIXED + (uint64_t)b->extra_len + name, 8);
	if (!name || name > QCOW2_NAME_MAX || len > left || b->bits > 63 ||
		memchr(p + FIXED + b->extra_len, 0, name) || b->table_size > TABLE_MAX / 8 ||
		(b->table_off & (q->cluster_size - 1)) || b->table_off > q->file->size ||
		b->table_size * 8ull > q->file->size - b->table_off ||
		(b->table_size && !b->table_off))
		return bad(q, e, q->nbitmaps);
	b->extra = malloc(b->extra_len + 1u);
	b->name = strndup((const char *)p + FIXED + b->extra_len, name);
	q->nbitmaps++;
	if (!b->extra || !b->name)
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	memcpy(b->extra, p + FIXED, b->extra_len);
	*used = len;
	return 0;
}

int q_bitmaps_load(struct qcow2 *q, struct err *e)
{
	cleanup(free_ptr) uint8_t *dir = NULL;
	const struct qcow2_header *h = &q->h;
	uint64_t at = 0, used = 0;
	int rc;

	if (!h->has_bitmaps || !(h->autoclear & QCOW2_BITMAPS) || q->bitmaps)
		return 0;
	if (h->bitmaps_size > DIRECTORY_MAX)
		return err_set(e, -EFBIG, "disk %s: a bitmap directory of %llu bytes is too large",
			q->d->o.path, (unsigned long long)h->bitmaps_size);
	dir = malloc(h->bitmaps_size);
	q->bitmaps = calloc(h->nb_bitmaps, sizeof(*q->bitmaps));
	if (!dir || !q->bitmaps)
		return err_set(e, -ENOMEM, "disk %s: out of memory", q->d->o.path);
	rc = file_read(q->file, h->bitmaps_off, dir, h->bitmaps_size, e);
	for (uint32_t i = 0; i < h->nb_bitmaps && !rc; i++) {
		rc = load_one(q, dir + at, h->bitmaps_size - at, &used, h->bitmaps_off + at, e);
		at += used;
	}
	return rc;
}

/* ---- tables ---- */

static int read_table(struct qcow2 *q, const struct q_bitmap *b, uint64_t **out)
{
	uint64_t *t = calloc(MAX(b->table_size, 1u), 8);
	int rc = t ? q_pread(q, q->file, b->table_off, t, b->table_size * 8ull) : -ENOMEM;

	for (uint32_t i = 0; i < b->table_size && !rc; i++)
		t[i] = get_be64(&t[i]);
	*out = rc ? NULL : t;
	if (rc)
		free(t);
	return rc;
}

static bool entry_ok(const struct qcow2 *q, uint64_t t)
{
	uint64_t off = t & Q_OFFSET;

	return !(t & ~(Q_OFFSET | 1)) && !(off & (q->cluster_size - 1)) && !(off && (t & 1)) &&
	       off < q_end(q);
}

int q_bitmaps_clusters(struct qcow2 *q, int (*fn)(void *ctx, uint64_t off, uint64_t bytes),
	void *ctx, struct err *e)
{
	int rc = q_bitmaps_load(q, e);

	if (!q->nbitmaps || rc)
		return rc;
	rc = fn(ctx, q->h.bitmaps_off, q->h.bitmaps_size);
	for (unsigned i = 0; i < q->nbitmaps && !rc; i++) {
		const struct q_bitmap *b = &q->bitmaps[i];
		uint64_t *t;

		rc = read_table(q, b, &t);
		if (rc)
			return err_sys(e, rc, "disk %s: bitmap %s", q->d->o.path, b->name);
		rc = fn(ctx, b->table_off, b->table_size * 8ull);
		for (uint32_t k = 0; k < b->table_size && !rc; k++) {
			if (!entry_ok(q, t[k]))
				rc = bad(q, e, i);
			else if (t[k] & Q_OFFSET)
				rc = fn(ctx, t[k] & Q_OFFSET, q->cluster_size);
		}
		free(t);
	}
	return rc;
}

/* ---- tracking ---- */

static uint64_t bytes_of(const struct qcow2 *q, const struct q_bitmap *b)
{
	uint64_t bits = q->d->size ? ((q->d->size - 1) >> b->bits) + 1 : 0;

	return (bits + 7) / 8;
}

/* Its bits into memory. */
static int read_map(struct qcow2 *q, struct q_bitmap *b, uint8_t **out)
{
	uint64_t bytes = bytes_of(q, b), *t, cs = q->cluster_size;
	uint8_t *map;
	int rc;

	if (bytes > Q_BITMAP_MAX)
		return -EFBIG;
	if (b->table_size != (bytes + cs - 1) >> q->cluster_bits)
		return -EUCLEAN;
	rc = read_table(q, b, &t);
	if (rc)
		return rc;
	map = calloc(MAX((uint64_t)b->table_size, 1ull), cs);
	if (!map)
		rc = -ENOMEM;
	for (uint32_t i = 0; i < b->table_size && !rc; i++) {
		if (!entry_ok(q, t[i]))
			rc = -EUCLEAN;
		else if (t[i] & Q_OFFSET)
			rc = q_pread(q, q->file, t[i] & Q_OFFSET, map + i * cs, cs);
		else if (t[i] & 1)
			memset(map + i * cs, 0xff, cs);
	}
	free(t);
	*out = rc ? NULL : map;
	if (rc)
		free(map);
	return rc;
}

/* Do so many bytes more fit beside those that are in memory? */
static bool fits(const struct qcow2 *q, uint64_t bytes)
{
	for (unsigned i = 0; i < q->nbitmaps; i++)
		bytes += q->bitmaps[i].map ? q->bitmaps[i].map_bytes : 0;
	return bytes <= Q_BITMAPS_MAX;
}

/* Its bits into memory, to stay there. */
static int keep_map(struct qcow2 *q, struct q_bitmap *b)
{
	int rc = fits(q, bytes_of(q, b)) ? read_map(q, b, &b->map) : -EFBIG;

	b->map_bytes = rc ? 0 : bytes_of(q, b);
	return rc;
}

static bool usable(const struct q_bitmap *b)
{
	return b->type == 1 && !(b->flags & ~(uint32_t)FLAGS_KNOWN) && b->bits >= 9 &&
	       (!b->extra_len || (b->flags & EXTRA_OK));
}

static int write_flags(struct qcow2 *q, struct q_bitmap *b, uint32_t flags)
{
	uint8_t f[4];
	int rc;

	put_be32(f, flags);
	rc = q_pwrite(q, q->file, b->entry_off + 12, f, sizeof(f));
	if (rc)
		return rc;
	b->ours |= (flags & IN_USE) && !(b->flags & IN_USE);
	b->flags = flags;
	return 0;
}

int q_bitmaps_begin(struct qcow2 *q, struct err *e)
{
	bool any = false;
	int rc = 0;

	for (unsigned i = 0; i < q->nbitmaps && !rc; i++) {
		struct q_bitmap *b = &q->bitmaps[i];

		if (!(b->flags & AUTO) || (b->flags & IN_USE))
			continue;
		b->why = usable(b) ? keep_map(q, b) : -EOPNOTSUPP;
		if (b->why != -EFBIG && b->why != -EUCLEAN && b->why != -EOPNOTSUPP)
			rc = b->why; /* else: not tracked, and it stays marked */
		rc = rc ?: write_flags(q, b, b->flags | IN_USE);
		any = true;
	}
	if (any)
		rc = rc ?: q_sync(q);
	return rc ? err_sys(e, rc, "disk %s: its bitmaps", q->d->o.path) : 0;
}

static void set_bits(struct q_bitmap *b, uint64_t off, uint64_t len)
{
	for (uint64_t k = off >> b->bits; k <= (off + len - 1) >> b->bits && k / 8 < b->map_bytes;
		k++)
		b->map[k / 8] |= (uint8_t)(1u << k % 8);
}

void q_bitmaps_mark(struct qcow2 *q, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		struct q_bitmap *b = &q->bitmaps[i];

		if (b->map && (b->flags & AUTO) && len)
			set_bits(b, off, len);
	}
}

void q_bitmaps_mark_all(struct qcow2 *q)
{
	q_bitmaps_mark(q, 0, q->d->size);
}

/* ---- saving ---- */

static bool all_zero(const uint8_t *p, uint64_t n)
{
	return !*p && !memcmp(p, p + 1, n - 1);
}

static uint64_t table_clusters(const struct qcow2 *q, const struct q_bitmap *b)
{
	return MAX((b->table_size * 8ull + q->cluster_size - 1) >> q->cluster_bits, 1ull);
}

/* Everything is written to new clusters; the directory entry changes with the flag, in one sector or not: it is in use until then. */
static int save_map(struct qcow2 *q, struct q_bitmap *b, uint64_t *table, uint64_t *table_off)
{
	uint64_t cs = q->cluster_size, n = b->table_size, clusters, host;
	cleanup(free_ptr) uint8_t *buf = NULL;
	bool zero;
	int rc = 0;

	for (uint64_t i = 0; i < n && !rc; i++) {
		table[i] = 0;
		if (all_zero(b->map + i * cs, cs))
			continue;
		rc = q_alloc_exact(q, 1, &table[i], &zero);
		rc = rc ?: q_pwrite(q, q->file, table[i], b->map + i * cs, cs);
	}
	clusters = (n * 8 + cs - 1) >> q->cluster_bits;
	buf = calloc(MAX(clusters, 1ull), cs);
	if (!rc)
		rc = !buf ? -ENOMEM : clusters ? q_alloc_exact(q, clusters, &host, &zero) : 0;
	if (rc || !clusters)
		return rc;
	for (uint64_t i = 0; i < n; i++)
		put_be64(buf + i * 8, table[i]);
	*table_off = host;
	return q_pwrite(q, q->file, host, buf, clusters << q->cluster_bits);
}

static int release_map(struct qcow2 *q, const struct q_bitmap *b)
{
	uint64_t *t, cs = q->cluster_size;
	int rc = read_table(q, b, &t);

	for (uint32_t i = 0; i < b->table_size && !rc; i++)
		if (entry_ok(q, t[i]) && (t[i] & Q_OFFSET))
			rc = q_release(q, t[i] & Q_OFFSET, 1, false);
	if (!rc && b->table_size)
		rc = q_release(
			q, b->table_off, (b->table_size * 8ull + cs - 1) >> q->cluster_bits, false);
	free(t);
	return rc;
}

static int save_one(struct qcow2 *q, struct q_bitmap *b)
{
	uint64_t size = (bytes_of(q, b) + q->cluster_size - 1) >> q->cluster_bits, off = 0;
	struct q_bitmap old = *b;
	cleanup(free_ptr) uint64_t *table = calloc(MAX(size, 1ull), 8);
	uint8_t field[16];
	int rc = table ? 0 : -ENOMEM;

	b->table_size = (uint32_t)size;
	rc = rc ?: save_map(q, b, table, &off);
	/* Counts and contents before what refers to them. */
	rc = rc ?: q_commit(q);
	if (rc) {
		for (uint64_t i = 0; table && i < size; i++)
			if (table[i])
				q_unalloc(q, table[i], 1);
		if (off)
			q_unalloc(q, off, table_clusters(q, b));
		b->table_size = old.table_size;
		return rc;
	}
	put_be64(field, off);
	put_be32(field + 8, b->table_size);
	put_be32(field + 12, b->flags & ~(uint32_t)IN_USE);
	/* In two sectors: the flag goes last. */
	if (b->entry_off / 512 != (b->entry_off + sizeof(field) - 1) / 512) {
		rc = rc ?: q_pwrite(q, q->file, b->entry_off, field, 8);
		rc = rc ?: q_sync(q);
	}
	rc = rc ?: q_pwrite(q, q->file, b->entry_off, field, sizeof(field));
	rc = rc ?: q_sync(q);
	if (rc) {
		b->table_size = old.table_size;
		return rc;
	}
	b->table_off = off;
	b->flags &= ~(uint32_t)IN_USE;
	return release_map(q, &old);
}

/* What changed while we had it is not known. */
static void tell(const struct qcow2 *q, const struct q_bitmap *b, int why)
{
	const struct disk *d = q->d;
	struct err e = {0};

	if (!d->o.client.bitmap_lost)
		return;
	err_set(&e, why,
		"disk %s: bitmap %s could not be written (%s): it is not complete any more, and a "
		"backup by it would miss changes: make a full one, and `lodge disk bitmap %s:qcow2 "
		"--remove %s`",
		d->o.path, b->name, strerrordesc_np(-why) ?: "error", d->o.path, b->name);
	d->o.client.bitmap_lost(d->o.client.ctx, &e);
}

int q_bitmaps_save(struct qcow2 *q)
{
	int rc = 0;

	for (unsigned i = 0; i < q->nbitmaps; i++) {
		struct q_bitmap *b = &q->bitmaps[i];
		/* One that is as long as a size which the disk did not get stays marked. */
		bool fits_disk = b->map && b->map_bytes == bytes_of(q, b);
		int one = fits_disk && !q->corrupt ? save_one(q, b) : 0;

		rc = rc ?: one;
		if ((b->flags & IN_USE) && b->ours)
			tell(q, b, one ?: b->why ?: -EIO);
	}
	return rc;
}

/* ---- the directory ---- */

static uint64_t entry_bytes(const struct q_bitmap *b)
{
	return align_up(FIXED + (uint64_t)b->extra_len + strlen(b->name), 8);
}

static void put_entry(uint8_t *p, const struct q_bitmap *b)
{
	put_be64(p, b->table_off);
	put_be32(p + 8, b->table_size);
	put_be32(p + 12, b->flags);
	p[16] = b->type;
	p[17] = b->bits;
	put_be16(p + 18, (uint16_t)strlen(b->name));
	put_be32(p + 20, b->extra_len);
	memcpy(p + FIXED, b->extra, b->extra_len);
	memcpy(p + FIXED + b->extra_len, b->name, strlen(b->name));
}

/* The header points to a directory at `host`, and so does what is in memory. */
static int switch_directory(
	struct qcow2 *q, uint64_t host, uint64_t bytes, uint64_t clusters, struct err *e)
{
	struct qcow2_header was = q->h;
	uint64_t first = host >> q->cluster_bits, at = host;
	int rc = 0;

	for (uint64_t c = 0; c < clusters && !rc; c++)
		rc = q_set_add(&q->meta_set, first + c) < 0 ? -ENOMEM : 0;
	if (!rc) {
		q->h.has_bitmaps = q->nbitmaps;
		q->h.nb_bitmaps = q->nbitmaps;
		q->h.bitmaps_size = bytes;
		q->h.bitmaps_off = host;
		q->h.autoclear &= ~(uint64_t)QCOW2_BITMAPS;
		q->h.autoclear |= q->nbitmaps ? QCOW2_BITMAPS : 0;
		rc = q_write_header(q, e);
	}
	if (rc)
		q->h = was;
	for (uint64_t c = 0; c < clusters && rc; c++)
		q_set_del(&q->meta_set, first + c);
	if (rc)
		return rc;
	for (unsigned i = 0; i < q->nbitmaps; at += entry_bytes(&q->bitmaps[i]), i++)
		q->bitmaps[i].entry_off = at;
	if (!was.has_bitmaps)
		return 0;
	clusters = (was.bitmaps_size + q->cluster_size - 1) >> q->cluster_bits;
	for (uint64_t c = 0; c < clusters; c++)
		q_set_del(&q->meta_set, (was.bitmaps_off >> q->cluster_bits) + c);
	/* No memory: the old one stays counted. */
	if (was.autoclear & QCOW2_BITMAPS)
		(void)q_release(q, was.bitmaps_off, clusters, false);
	return 0;
}

/* A directory beside the one that is there, then the header. When it fails all is as before. */
static int write_directory(struct qcow2 *q, struct err *e)
{
	uint64_t bytes = 0, clusters, host = 0, at = 0, cs = q->cluster_size;
	cleanup(free_ptr) uint8_t *buf = NULL;
	bool zero;
	int rc = 0;

	for (unsigned i = 0; i < q->nbitmaps; i++)
		bytes += entry_bytes(&q->bitmaps[i]);
	clusters = (bytes + cs - 1) >> q->cluster_bits;
	buf = calloc(MAX(clusters, 1ull), cs);
	if (!buf)
		return -ENOMEM;
	if (clusters)
		rc = q_alloc_exact(q, clusters, &host, &zero);
	if (rc)
		return rc;
	for (unsigned i = 0; i < q->nbitmaps; at += entry_bytes(&q->bitmaps[i]), i++)
		put_entry(buf + at, &q->bitmaps[i]);
	rc = q_pwrite(q, q->file, host, buf, clusters << q->cluster_bits);
	rc = rc ?: q_commit(q);
	rc = rc ?: switch_directory(q, host, bytes, clusters, e);
	if (rc && !q->corrupt && clusters)
		q_unalloc(q, host, clusters);
	return rc;
}

static struct q_bitmap *find(const struct qcow2 *q, const char *name)
{
	for (unsigned i = 0; i < q->nbitmaps; i++)
		if (!strcmp(q->bitmaps[i].name, name))
			return &q->bitmaps[i];
	return NULL;
}

static int empty_table(struct qcow2 *q, struct q_bitmap *b)
{
	uint64_t n = (bytes_of(q, b) + q->cluster_size - 1) >> q->cluster_bits;
	bool zero;
	int rc;

	b->table_size = (uint32_t)n;
	rc = q_alloc_exact(q, table_clusters(q, b), &b->table_off, &zero);
	if (rc)
		b->table_off = 0;
	return rc
		       ?: q_make_zero(q, q->file, b->table_off,
				  table_clusters(q, b) << q->cluster_bits, false);
}

/* The file's table is an empty one until the disk is closed: the bitmap is in use. */
static int add(struct qcow2 *q, const char *name, uint64_t granularity, struct err *e)
{
	struct q_bitmap *more = realloc(q->bitmaps, (q->nbitmaps + 1) * sizeof(*more)), *b;
	int rc = 0;

	if (!more)
		return -ENOMEM;
	q->bitmaps = more;
	b = &more[q->nbitmaps];
	*b = (struct q_bitmap){.flags = IN_USE | AUTO,
		.ours = true,
		.type = 1,
		.bits = (uint8_t)__builtin_ctzll(granularity),
		.name = strdup(name),
		.extra = malloc(1)};
	b->map_bytes = bytes_of(q, b);
	if (b->map_bytes <= Q_BITMAP_MAX)
		b->map = calloc(1, align_up(MAX(b->map_bytes, 1ull), q->cluster_size));
	if (!b->name || !b->extra || !b->map)
		rc = b->map_bytes > Q_BITMAP_MAX ? -EFBIG : -ENOMEM;
	rc = rc ?: empty_table(q, b);
	q->nbitmaps++;
	rc = rc ?: write_directory(q, e);
	if (!rc)
		return 0;
	/* Nothing in the file knows of it. */
	q->nbitmaps--;
	if (b->table_off && !q->corrupt)
		q_unalloc(q, b->table_off, table_clusters(q, b));
	bitmap_free(b);
	return rc;
}

static int drop(struct qcow2 *q, struct q_bitmap *b, struct err *e)
{
	size_t behind = (size_t)(&q->bitmaps[q->nbitmaps] - (b + 1)) * sizeof(*b);
	struct q_bitmap old = *b;
	int rc;

	memmove(b, b + 1, behind);
	q->nbitmaps--;
	rc = write_directory(q, e);
	if (rc) {
		memmove(b + 1, b, behind);
		*b = old;
		q->nbitmaps++;
		return rc;
	}
	(void)release_map(q, &old); /* it is gone, and what cannot be read of it leaks */
	bitmap_free(&old);
	return 0;
}

/* In memory, with these flags from now on, and marked in the file. */
static int begin_change(struct qcow2 *q, struct q_bitmap *b, uint32_t flags)
{
	int rc = 0;

	if (!b->map)
		rc = keep_map(q, b);
	/* Who only asked for it has it in memory, too. */
	if (!rc && !(b->flags & IN_USE)) {
		rc = write_flags(q, b, flags | IN_USE);
		rc = rc ?: q_sync(q);
	}
	return rc;
}

static int change(struct qcow2 *q, struct q_bitmap *b, enum disk_bitmap_op op)
{
	uint32_t flags = op == DISK_BITMAP_DISABLE  ? b->flags & ~(uint32_t)AUTO
			 : op == DISK_BITMAP_ENABLE ? b->flags | AUTO
						    : b->flags;
	int rc = begin_change(q, b, flags);

	if (!rc && op == DISK_BITMAP_CLEAR)
		memset(b->map, 0, b->map_bytes);
	if (!rc)
		b->flags = (flags & ~(uint32_t)IN_USE) | (b->flags & IN_USE);
	return rc;
}

static int refuse(struct qcow2 *q, enum disk_bitmap_op op, const char *name, uint64_t granularity,
	struct err *e)
{
	const struct q_bitmap *b = find(q, name);
	const char *path = q->d->o.path;

	if (!q->v3)
		return err_set(e, -EOPNOTSUPP, "disk %s: version 2 has no bitmaps", path);
	if (!q->writable || q->corrupt)
		return err_set(e, -EROFS, "disk %s: is not open for writing", path);
	if (op != DISK_BITMAP_ADD) {
		if (!b)
			return err_set(e, -ENOENT, "disk %s: there is no bitmap %s", path, name);
		if (op != DISK_BITMAP_REMOVE && (!usable(b) || ((b->flags & IN_USE) && !b->map)))
			return err_set(e, -EUCLEAN,
				"disk %s: bitmap %s is not complete: it can only be removed", path,
				name);
		return 0;
	}
	if (b)
		return err_set(e, -EEXIST, "disk %s: there is a bitmap %s already", path, name);
	if (!*name || strlen(name) > 255)
		return err_set(e, -EINVAL, "disk %s: names of bitmaps have 1 to 255 bytes", path);
	if (!is_pow2(granularity) || granularity < 512 || granularity > 1ull << 31)
		return err_set(e, -EINVAL,
			"disk %s: a granularity is a power of two from 512 to 2 GiB", path);
	if (!q->d->size)
		return err_set(
			e, -EINVAL, "disk %s: of a disk of 0 bytes nothing can change", path);
	if (q->nbitmaps == QCOW2_BITMAPS_MAX)
		return err_set(e, -EFBIG, "disk %s: at most %u bitmaps", path, QCOW2_BITMAPS_MAX);
	if (!fits(q, (q->d->size / granularity + 7) / 8))
		return err_set(e, -EFBIG,
			"disk %s: its bitmaps would need more than %u MiB of memory: take a larger "
			"granularity, or remove one",
			path, Q_BITMAPS_MAX >> 20);
	return 0;
}

int q_bitmap_op(struct disk *d, enum disk_bitmap_op op, const char *name, uint64_t granularity,
	struct err *e)
{
	struct qcow2 *q = d->priv;
	int rc = refuse(q, op, name, granularity ?: (granularity = 65536), e);

	if (rc)
		return rc;
	if (op == DISK_BITMAP_ADD)
		rc = add(q, name, granularity, e);
	else if (op == DISK_BITMAP_REMOVE)
		rc = drop(q, find(q, name), e);
	else
		rc = change(q, find(q, name), op);
	return rc ? err_sys(e, rc, "disk %s: bitmap %s", d->o.path, name) : 0;
}

int q_bitmap_set(struct disk *d, const char *name, uint64_t off, uint64_t len, struct err *e)
{
	struct qcow2 *q = d->priv;
	int rc = refuse(q, DISK_BITMAP_CLEAR, name, 0, e);
	struct q_bitmap *b = rc ? NULL : find(q, name);

	if (rc)
		return rc;
	rc = begin_change(q, b, b->flags);
	if (rc)
		return err_sys(e, rc, "disk %s: bitmap %s", d->o.path, name);
	if (len)
		set_bits(b, off, len);
	return 0;
}

/* Those that are not in memory yet are, from here on: their tables will have another length. */
int q_bitmaps_resize(struct qcow2 *q, uint64_t size)
{
	for (unsigned i = 0; i < q->nbitmaps; i++) {
		struct q_bitmap *b = &q->bitmaps[i];
		uint64_t bytes = ((size - 1) >> b->bits) / 8 + 1, old;
		uint8_t *more;
		int rc = 0;

		if (!usable(b) || ((b->flags & IN_USE) && !b->map))
			continue;
		if (!b->map)
			rc = keep_map(q, b);
		rc = rc ?: write_flags(q, b, b->flags | IN_USE);
		if (!rc && bytes > Q_BITMAP_MAX)
			rc = -EFBIG;
		if (rc)
			return rc;
		old = MIN(b->map_bytes, bytes);
		more = calloc(1, align_up(bytes, q->cluster_size));
		if (!more)
			return -ENOMEM;
		memcpy(more, b->map, old);
		if (old == bytes && ((size - 1) >> b->bits) % 8 != 7)
			more[old - 1] &= (uint8_t)((2u << ((size - 1) >> b->bits) % 8) - 1);
		free(b->map);
		b->map = more;
		b->map_bytes = bytes;
	}
	/* It may have been longer before, and then something else stood there. */
	if (size > q->d->size)
		q_bitmaps_mark(q, q->d->size, size - q->d->size);
	return 0;
}

/* ---- looking ---- */

static uint64_t dirty_bytes(const struct q_bitmap *b, const uint8_t *map, uint64_t bytes)
{
	uint64_t bits = 0;

	for (uint64_t i = 0; i < bytes; i++)
		bits += (uint64_t)__builtin_popcount(map[i]);
	return bits << b->bits;
}

int q_bitmap_list(struct disk *d, struct disk_bitmap **out, unsigned *n, struct err *e)
{
	struct qcow2 *q = d->priv;
	int rc = q_bitmaps_load(q, e);

	if (rc)
		return rc;
	*n = q->nbitmaps;
	*out = calloc(MAX(*n, 1u), sizeof(**out));
	if (!*out)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	for (unsigned i = 0; i < *n; i++) {
		struct q_bitmap *b = &q->bitmaps[i];
		struct disk_bitmap *o = &(*out)[i];
		uint8_t *map = b->map;

		snprintf(o->name, sizeof(o->name), "%.255s", b->name);
		o->granularity = 1ull << b->bits;
		o->enabled = b->flags & AUTO;
		o->busy = (b->flags & IN_USE) && !b->map;
		o->persistent = true;
		if (!map && usable(b) && read_map(q, b, &map))
			map = NULL;
		if (map)
			o->dirty = dirty_bytes(b, map, bytes_of(q, b));
		if (map != b->map)
			free(map);
	}
	return 0;
}

int q_bitmap_status(
	struct disk *d, const char *name, uint64_t off, uint64_t *len, bool *dirty, struct err *e)
{
	struct qcow2 *q = d->priv;
	int rc = q_bitmaps_load(q, e);
	struct q_bitmap *b = rc ? NULL : find(q, name);
	uint64_t first, last, k;

	if (rc)
		return rc;
	if (!b)
		return err_set(e, -ENOENT, "disk %s: there is no bitmap %s", d->o.path, name);
	if (!usable(b) || ((b->flags & IN_USE) && !b->map))
		return err_set(e, -EUCLEAN, "disk %s: bitmap %s is not complete", d->o.path, name);
	/* A reader keeps it: the next question is about the same. */
	if (!b->map)
		rc = keep_map(q, b);
	if (rc)
		return err_sys(e, rc, "disk %s: bitmap %s", d->o.path, name);
	first = off >> b->bits;
	last = (off + *len - 1) >> b->bits;
	*dirty = b->map[first / 8] >> first % 8 & 1;
	for (k = first; k <= last && (b->map[k / 8] >> k % 8 & 1) == *dirty; k++)
		;
	*len = MIN(*len, (k << b->bits) - off);
	return 0;
}
