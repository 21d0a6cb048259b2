/* store.c: stores as a whole: making, listing, measuring, checking. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/size.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"
#include "disk/tool.h"

#define JOURNAL_MAX GiB
#define STORE_MAX (3999 * 1024 * GiB) /* for which that is enough */

static const struct disk_key create_keys[] = {
	{"journal", "1M..1G", "size of the journal (32M, more where max-size wants it)"},
	{"entries", "7..1048576",
		"disks, snapshots and bitmaps that there can be (one for 64K, at most 16384)"},
	{"sums", "on|off", "checksums of all data, verified when it is read (off)"},
	{"max-size", "SIZE", "up to which the store can grow (16 times its size, 1T at least)"},
	{0},
};

/* ---- making ---- */

static int take_entries(const struct disk_kv *kv, uint64_t *out, struct err *e)
{
	const char *text = disk_kv_get(kv, "entries");
	char *end;

	if (!text)
		return 0;
	errno = 0;
	*out = strtoull(text, &end, 10);
	if (errno || *end || *text == '-' || *out < 7 || *out > MiB)
		return err_set(e, -EINVAL, "entries: '%s' is not a number from 7 to 1048576", text);
	return 0;
}

/* A page for three blocks that there can be. */
static void add_sums(struct lf_super *s)
{
	s->incompatible |= LF_INC_SUMS;
	s->sums_at = s->bitmap_at + s->bitmap_pages * LF_PAGE;
	s->sum_pages = (s->max_blocks + LF_SUM_BLOCKS - 1) / LF_SUM_BLOCKS;
	s->data_at = align_up(s->sums_at + s->sum_pages * LF_PAGE, MiB);
}

/* Blocks of the largest store that such a journal is enough for: one transaction may change every page of the bitmap, as a whole, and two of those fit. */
static uint64_t journal_room(uint64_t journal)
{
	uint64_t pages = (journal - 8192) / (2 * (LF_PAGE + 32));

	return pages > 32 ? MIN((pages - 32) * LF_BITS, UINT32_MAX - 1ull) : 0;
}

static int small_journal(uint64_t journal, uint64_t size, uint64_t most, struct err *e)
{
	char has[SIZE_TEXT], wants[SIZE_TEXT], grows[SIZE_TEXT], fits[SIZE_TEXT], or [48] = "";
	uint64_t room = journal_room(journal);

	if (size / LF_BLOCK <= room)
		snprintf(or, sizeof(or), ", or -o max-size=%s",
			size_text(fits, room * LF_BLOCK / GiB * GiB));
	size_text(has, journal);
	while (journal_room(journal) < most / LF_BLOCK)
		journal *= 2;
	return err_set(e, -EINVAL,
		"a journal of %s is too small for a store that may grow to %s: take -o "
		"journal=%s%s",
		has, size_text(grows, most), size_text(wants, journal), or);
}

/* How far it may grow, and the journal that this wants. Who names one of them gets the other to fit. */
static int take_sizes(struct lf_super *s, const struct disk_create_opts *o, uint64_t size,
	bool sums, struct err *e)
{
	uint64_t journal = size < 64 * MiB ? 2 * MiB : 32 * MiB, most, room = STORE_MAX;
	bool named = disk_kv_get(o->kv, "journal");
	char text[2][SIZE_TEXT];
	int rc = disk_kv_size(o->kv, "journal", MiB, JOURNAL_MAX, true, &journal, e);

	if (rc)
		return rc;
	if (size > STORE_MAX)
		return err_set(e, -EINVAL, "%s is too large: a store has at most %s",
			size_text(text[0], size), size_text(text[1], STORE_MAX));
	if (named)
		room = journal_room(journal) * LF_BLOCK;
	/* Of checksums the room is set aside for all of it. */
	most = MAX(MIN(sums ? 4 * size : MAX(16 * size, 1024 * GiB), room), size);
	rc = disk_kv_size(o->kv, "max-size", MiB, STORE_MAX, false, &most, e);
	if (rc)
		return rc;
	if (most < size)
		return err_set(e, -EINVAL, "max-size=%s is less than its size, %s",
			size_text(text[0], most), size_text(text[1], size));
	while (!named && journal_room(journal) < most / LF_BLOCK)
		journal *= 2;
	if (journal_room(journal) < most / LF_BLOCK)
		return small_journal(journal, size, most, e);
	s->journal_bytes = journal;
	s->max_blocks = most / LF_BLOCK;
	return 0;
}

static int lay_out(
	struct lf_super *s, const struct disk_create_opts *o, uint64_t size, struct err *e)
{
	uint64_t entries = MIN(16384ull, MAX(512ull, size / (64 * KiB)));
	char text[SIZE_TEXT];
	bool sums = false;
	int rc = disk_kv_bool(o->kv, "sums", &sums, e);

	*s = (struct lf_super){
		.magic = LF_MAGIC, .version = LF_VERSION, .seq = 1, .next_id = 1, .run = 1};
	rc = rc ?: take_sizes(s, o, size, sums, e);
	rc = rc ?: take_entries(o->kv, &entries, e);
	if (rc)
		return err_wrap(e, "store %s", o->path);
	s->journal_at = LF_AT_JOURNAL * LF_PAGE;
	s->dir_at = s->journal_at + s->journal_bytes;
	s->dir_pages = (entries + LF_DIR_RECORDS - 1) / LF_DIR_RECORDS;
	s->bitmap_at = s->dir_at + s->dir_pages * LF_PAGE;
	s->bitmap_pages = (s->max_blocks + LF_BITS - 1) / LF_BITS;
	s->data_at = align_up(s->bitmap_at + s->bitmap_pages * LF_PAGE, MiB);
	if (sums)
		add_sums(s);
	if (size < s->data_at + 2 * MiB)
		return err_set(e, -EINVAL,
			"store %s: %s is too small: its tables alone are %llu MiB (-o journal, "
			"entries and max-size make them smaller)",
			o->path, size_text(text, size), (unsigned long long)(s->data_at / MiB));
	s->blocks = MIN((size - s->data_at) / LF_BLOCK, s->max_blocks);
	return getrandom(s->uuid, 16, 0) == 16 && getrandom(&s->salt, 8, 0) == 8
		       ? 0
		       : err_set(e, -EIO, "no random numbers");
}

static int write_tables(struct file *f, const struct lf_super *s, struct err *e)
{
	uint64_t n = s->dir_pages + s->bitmap_pages;
	cleanup(free_ptr) uint8_t *buf = NULL;
	int rc = 0;

	if (posix_memalign((void **)&buf, LF_PAGE, 256 * LF_PAGE))
		return err_set(e, -ENOMEM, "out of memory");
	memset(buf, 0, 256 * LF_PAGE);
	for (uint64_t i = 0; i < n && !rc; i += 256) {
		uint64_t some = MIN(n - i, 256ull);

		for (uint64_t k = 0; k < some; k++) {
			struct lf_page_head *h = (void *)(buf + k * LF_PAGE);

			*h = (struct lf_page_head){.magic = LF_PAGE_MAGIC,
				.at = s->dir_at / LF_PAGE + i + k,
				.salt = s->salt,
				.type = i + k < s->dir_pages ? LF_T_DIR : LF_T_BITMAP};
			h->crc = lf_page_crc(h);
		}
		rc = file_write(f, s->dir_at + i * LF_PAGE, buf, some * LF_PAGE, e);
	}
	return rc;
}

/* The superblocks come last, behind a flush: what has the magic number is whole. */
static int write_store(struct file *f, struct lf_super *s, struct err *e)
{
	cleanup(free_ptr) uint8_t *head = NULL;
	struct lf_lease lease = {.magic = LF_LEASE_MAGIC};
	int rc;

	if (posix_memalign((void **)&head, LF_PAGE, 4 * LF_PAGE))
		return err_set(e, -ENOMEM, "out of memory");
	memset(head, 0, 4 * LF_PAGE);
	memcpy(head + LF_AT_LEASE * LF_PAGE, &lease, sizeof(lease));
	lease.crc = crc32c(0, head + LF_AT_LEASE * LF_PAGE, 512);
	memcpy(head + LF_AT_LEASE * LF_PAGE, &lease, sizeof(lease));
	rc = file_write(f, 0, head, 4 * LF_PAGE, e);
	if (!rc)
		rc = write_tables(f, s, e);
	if (!rc)
		rc = file_flush(f, e);
	for (unsigned i = 0; i < 2 && !rc; i++) {
		struct lf_super *p = (void *)(head + i * LF_PAGE);

		s->change = i;
		memcpy(p, s, sizeof(*s));
		p->crc = 0;
		p->crc = crc32c(0, p, LF_PAGE);
	}
	if (!rc)
		rc = file_write(f, 0, head, 2 * LF_PAGE, e);
	return rc ?: file_flush(f, e);
}

static int store_create(const struct disk_create_opts *o, struct err *e)
{
	struct files fs = {
		.loop = o->loop, .io = IO_THREADS, .open = o->open_file, .open_ctx = o->open_ctx};
	struct file *f = NULL;
	struct lf_super s;
	uint64_t size;
	int rc = file_make(&f, &fs, o->path, o->overwrite, e);

	if (rc)
		return rc;
	size = o->size ?: f->block_device ? f->size : 0;
	if (!size || (f->block_device && size > f->size))
		rc = err_set(e, -EINVAL, "store %s: %s", o->path,
			size ? "the device is smaller" : "how large? add --size 100G");
	if (!rc)
		rc = lay_out(&s, o, size, e);
	if (!rc && !f->block_device && o->overwrite)
		rc = file_truncate(f, 0, e);
	if (!rc && !f->block_device)
		rc = file_truncate(f, s.data_at, e); /* it grows with what is written */
	/*
	 * Space for the journal is there from the beginning: a host that is full does not stop overwriting for want of it. Pages get theirs when they
	 * are reserved (room.c).
	 */
	if (!rc)
		rc = file_zero(f, s.journal_at, s.journal_bytes, false, e);
	if (!rc && s.sum_pages)
		rc = file_zero(f, s.sums_at, s.sum_pages * LF_PAGE, true, e);
	if (!rc)
		rc = write_store(f, &s, e);
	return file_made(f, rc);
}

/* ---- measuring ---- */

#define SPARE 2u /* blocks: what is reserved beyond what is used */

static uint64_t data_blocks(const uint64_t *n, unsigned units)
{
	uint64_t pages = 0;

	for (unsigned i = 1; i < units; i++)
		pages += n[i];
	return n[0] + (pages * LF_PAGE + LF_BLOCK - 1) / LF_BLOCK;
}

/* The tables grow with the store, so this comes to rest. */
static int store_for(uint64_t blocks, uint64_t *size, struct err *e)
{
	const struct disk_create_opts o = {.path = ""};
	uint64_t need = (blocks + SPARE) * LF_BLOCK, last;
	struct lf_super s;
	int rc;

	*size = need + 8 * MiB;
	do {
		last = *size;
		rc = lay_out(&s, &o, last, e);
		*size = s.data_at + need;
	} while (!rc && *size != last);
	return rc;
}

int lf_disk_measure(
	const struct disk_create_opts *o, struct disk *from, struct disk_amount *out, struct err *e)
{
	uint64_t unit[DISK_UNITS] = {LF_BLOCK}, n[DISK_UNITS], mib = (o->size + MiB - 1) / MiB;
	unsigned units = 1;
	bool track = false;
	int rc = disk_kv_bool(o->kv, "track", &track, e);

	if (!rc && (disk_kv_get(o->kv, "clone") || disk_kv_get(o->kv, "compose")))
		rc = err_set(e, -EINVAL, "what is shared takes nothing: without clone and compose");
	if (!rc && o->size > LF_SIZE_MAX)
		rc = err_set(e, -EFBIG, "a disk of a store has at most 64 PiB");
	if (rc)
		return rc;
	/* The pages of each level that lead there, and, at most as many, those of changes. */
	for (unsigned h = 0; h <= LF_HEIGHT_MAX; h++) {
		unit[units++] = lf_span(h) * MiB;
		if (track)
			unit[units++] = lf_track_span(h) * MiB;
		if (lf_span(h) >= mib)
			break;
	}
	rc = disk_count_data(from, unit, n, units, o->watch, e);
	if (rc)
		return rc;
	out->required = data_blocks(n, units) * LF_BLOCK;
	for (unsigned i = 0; i < units; i++)
		n[i] = (o->size + unit[i] - 1) / unit[i];
	out->full = data_blocks(n, units) * LF_BLOCK;
	rc = store_for(out->required / LF_BLOCK, &out->store, e);
	return rc ?: store_for(out->full / LF_BLOCK, &out->store_full, e);
}

/* ---- looking ---- */

struct usage {
	uint64_t all, shared;
};

static void count_ref(const struct lf *fs, uint32_t ref, bool own, struct usage *u)
{
	if (!ref)
		return;
	u->all += LF_BLOCK;
	if (!own || fs->block[ref - 1].refs > 1)
		u->shared += LF_BLOCK;
}

static void count_tree(struct lf *fs, uint64_t root, bool own, struct usage *u)
{
	struct lf_page *p = root ? lf_page_at(fs, root) : NULL;

	if (!p || lf_page_pin(fs, p))
		return;
	own &= p->refs == 1;
	for (unsigned i = 0; p->level && i < LF_NODE_ENTRIES; i++)
		count_tree(fs, *lf_node(p, i), own, u);
	for (unsigned i = 0; !p->level && i < LF_LEAF_ENTRIES; i++) {
		count_ref(fs, lf_leaf(p, i)->own, own, u);
		count_ref(fs, lf_leaf(p, i)->base, own, u);
	}
	lf_page_unpin(p);
}

static int open_to_read(struct lf **fs, struct files *files, const char *path, struct err *e)
{
	return lf_open(fs, files, &(struct lf_open){.path = path}, e);
}

static void fill_entry(struct lf *fs, const struct lf_record *r, struct disk_store_entry *x)
{
	const struct lf_record *from = r->parent ? lf_rec_by_id(fs, r->parent) : NULL;
	const struct lf_record *of = from && from->type == LF_SNAPSHOT
					     ? lf_rec_by_id(fs, from->owner)
					     : NULL;
	struct usage u = {0};

	memcpy(x->name, r->name, sizeof(x->name));
	if (from)
		snprintf(x->parent, sizeof(x->parent), "%s%s%s", of ? of->name : "", of ? "@" : "",
			from->name);
	x->size = r->size;
	x->generation = r->generation;
	count_tree(fs, r->root, true, &u);
	x->allocated = u.all;
	x->shared = u.shared;
}

/* In the order in which they were made. */
static int list_disks(struct lf *fs, struct disk_store_entry **out, unsigned *n, struct err *e)
{
	cleanup(free_ptr) uint64_t *snapshots = calloc(MAX(fs->nids, 1ull), sizeof(*snapshots));
	int rc = lf_rec_list(fs, LF_DISK, 0, sizeof(**out), (void **)out, e);

	if (!rc && !snapshots)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc)
		return rc;
	for (uint64_t i = 0; i < fs->nids; i++)
		if (fs->by_id[i]->type == LF_SNAPSHOT)
			snapshots[lf_rec_place(fs, fs->by_id[i]->owner)]++;
	for (uint64_t i = 0; i < fs->nids; i++) {
		if (fs->by_id[i]->type != LF_DISK)
			continue;
		fill_entry(fs, fs->by_id[i], &(*out)[*n]);
		(*out)[(*n)++].snapshots = snapshots[i];
	}
	return 0;
}

static int store_list(struct files *files, const char *path, struct disk_store_entry **out,
	unsigned *n, struct err *e)
{
	struct lf *fs;
	int rc = open_to_read(&fs, files, path, e);

	*out = NULL;
	*n = 0;
	if (rc)
		return rc;
	rc = list_disks(fs, out, n, e);
	lf_close(fs);
	return rc;
}

static void measure(const struct lf *fs, struct disk_store_space *out)
{
	*out = (struct disk_store_space){.total = fs->s.blocks * LF_BLOCK,
		.free = fs->free_blocks * LF_BLOCK,
		.metadata = fs->page_blocks * LF_BLOCK,
		.journal = fs->s.journal_bytes};
	for (uint64_t i = 0; i < fs->s.blocks; i++) {
		const struct lf_block *b = &fs->block[i];

		out->used += b->refs ? LF_BLOCK : 0;
		out->quarantined += !b->refs && !b->pages && b->hold ? LF_BLOCK : 0;
	}
	for (uint64_t i = 0; i < fs->nrec; i++) {
		out->disks += fs->rec[i]->type == LF_DISK;
		out->snapshots += fs->rec[i]->type == LF_SNAPSHOT;
	}
}

static int store_space(
	struct files *files, const char *path, struct disk_store_space *out, struct err *e)
{
	struct lf *fs;
	int rc = open_to_read(&fs, files, path, e);

	if (rc)
		return rc;
	measure(fs, out);
	lf_close(fs);
	return 0;
}

static int store_check(struct files *files, const char *path, bool repair,
	const struct disk_watch *w, struct disk_check *out, struct err *e)
{
	struct lf_open o = {
		.path = path, .flags = repair ? LF_O_WRITE : 0, .check = out, .watch = w};
	struct disk_store_space space;
	struct lf *fs;
	int rc;

	*out = (struct disk_check){.unit = LF_BLOCK};
	rc = lf_open(&fs, files, &o, e);
	if (rc)
		return rc;
	if (fs->sums)
		rc = lf_sums_check(fs, e);
	if (repair)
		out->fixed_errors -= fs->unmended;
	measure(fs, &space);
	out->total = fs->s.blocks;
	out->allocated = space.used / LF_BLOCK;
	out->end = fs->s.data_at + fs->s.blocks * LF_BLOCK;
	lf_close(fs);
	return rc;
}

static int change(
	struct files *files, const char *path, const char *from, const char *to, struct err *e)
{
	struct lf *fs;
	int rc = lf_open(
		&fs, files, &(struct lf_open){.path = path, .flags = LF_O_WRITE | LF_O_DISCARD}, e);

	if (rc)
		return rc;
	rc = to ? lf_disk_rename(fs, from, to, e) : lf_disk_remove(fs, from, e);
	lf_close(fs);
	return rc;
}

static int store_remove(struct files *files, const char *path, const char *name, struct err *e)
{
	return change(files, path, name, NULL, e);
}

static int store_rename(
	struct files *files, const char *path, const char *from, const char *to, struct err *e)
{
	return change(files, path, from, to, e);
}

static int store_trim(struct files *files, const char *path, const struct disk_watch *w,
	uint64_t *given, struct err *e)
{
	struct lf_open o = {
		.path = path, .flags = LF_O_WRITE | LF_O_DISCARD | LF_O_MAP, .watch = w};
	struct lf *fs;
	uint64_t had;
	int rc = lf_open(&fs, files, &o, e);

	*given = 0;
	if (rc)
		return rc;
	had = file_allocated(fs->f);
	rc = lf_trim(fs, e);
	*given = had - MIN(had, file_allocated(fs->f));
	lf_close(fs);
	return rc;
}

/* ---- growing ---- */

static int more_blocks(struct lf *fs, uint64_t blocks, struct err *e)
{
	struct lf_block *p = realloc(fs->block, blocks * sizeof(*p));

	if (!p)
		return err_set(e, -ENOMEM, "out of memory");
	memset(p + fs->s.blocks, 0, (blocks - fs->s.blocks) * sizeof(*p));
	fs->block = p;
	fs->s.blocks = blocks;
	lf_count_free(fs);
	return 0;
}

/* A file grows with what is written; a device has to be there. */
static int grow(struct lf *fs, uint64_t size, struct err *e)
{
	uint64_t blocks;
	char text[SIZE_TEXT];
	int rc;

	if (fs->f->block_device && size > fs->f->size)
		return err_set(e, -EINVAL, "store %s: the device is smaller", fs->path);
	if (!size)
		size = fs->f->block_device
			       ? fs->f->size
			       : MAX(fs->f->size, fs->s.data_at + fs->s.blocks * LF_BLOCK);
	blocks = size < fs->s.data_at ? 0 : (size - fs->s.data_at) / LF_BLOCK;
	if (blocks < fs->s.blocks)
		return err_set(e, -EINVAL, "store %s: has %s and can only grow", fs->path,
			size_text(text, fs->s.data_at + fs->s.blocks * LF_BLOCK));
	if (blocks > fs->s.max_blocks)
		return err_set(e, -EFBIG,
			"store %s: was made for at most %s (`lodge store create -o max-size=SIZE`)",
			fs->path, size_text(text, fs->s.data_at + fs->s.max_blocks * LF_BLOCK));
	if (blocks == fs->s.blocks)
		return 0;
	rc = more_blocks(fs, blocks, e);
	return rc ?: lf_fail(fs, lf_super_write(fs), e);
}

static uint64_t end_of_store(const struct lf *fs)
{
	return fs->s.data_at + fs->s.blocks * LF_BLOCK;
}

static int store_resize(struct files *files, const char *path, uint64_t size, bool more,
	uint64_t *now, struct err *e)
{
	struct lf *fs;
	int rc = lf_open(&fs, files, &(struct lf_open){.path = path, .flags = LF_O_WRITE}, e);

	if (rc)
		return rc;
	if (more && __builtin_add_overflow(size, end_of_store(fs), &size))
		rc = err_set(e, -EINVAL, "store %s: no store has so many bytes", path);
	rc = rc ?: grow(fs, size, e);
	*now = end_of_store(fs);
	lf_close(fs);
	return rc;
}

static int store_take(
	struct files *files, const char *path, uint64_t fence, uint64_t *now, struct err *e)
{
	struct lf *fs;
	int rc = lf_open(&fs, files,
		&(struct lf_open){.path = path, .flags = LF_O_WRITE | LF_O_TAKE, .fence = fence},
		e);

	if (rc)
		return rc;
	*now = fs->fence;
	lf_close(fs);
	return 0;
}

static int store_info(struct files *files, const char *path, json_t *obj, struct err *e)
{
	struct lf *fs;
	int rc = open_to_read(&fs, files, path, e);

	if (rc)
		return rc;
	json_object_set_new(obj, "version", json_integer(fs->s.version));
	json_object_set_new(obj, "blocks", json_integer((json_int_t)fs->s.blocks));
	json_object_set_new(obj, "block_size", json_integer(LF_BLOCK));
	json_object_set_new(obj, "journal", json_integer((json_int_t)fs->s.journal_bytes));
	json_object_set_new(obj, "entries", json_integer((json_int_t)fs->nrec));
	json_object_set_new(obj, "sums", json_boolean(fs->sums));
	json_object_set_new(
		obj, "max_size", json_integer((json_int_t)(fs->s.max_blocks * LF_BLOCK)));
	lf_close(fs);
	return 0;
}

const struct disk_store_format disk_store_lodgefs = {
	.name = "lodgefs",
	.help = "Lodge's own: 1 MiB blocks, a journal, snapshots and linked clones",
	.create_keys = create_keys,
	.create = store_create,
	.list = store_list,
	.space = store_space,
	.check = store_check,
	.remove = store_remove,
	.rename = store_rename,
	.info = store_info,
	.trim = store_trim,
	.take = store_take,
	.resize = store_resize,
};
