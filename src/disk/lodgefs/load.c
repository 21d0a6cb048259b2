/*
 * load.c: opening a store: superblock, lease, recovery, and all its metadata into memory.
 *
 * Everything that the file says is checked here, so that what works on it later need not: places lie inside the store, levels descend (so there
 * are no loops), counts follow from the references that are found.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define HASH 4096u

uint32_t lf_page_crc(const void *page)
{
	static const uint32_t zero = 0;
	const uint8_t *p = page;
	uint32_t c = crc32c(0, p, 4);

	c = crc32c(c, &zero, 4);
	return crc32c(c, p + 8, LF_PAGE - 8);
}

int lf_found(struct lf *fs, bool error, struct err *e, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!fs->check)
		return error ? err_set(e, -EUCLEAN,
				       "store %s: %s: `lodge store check --repair %s:lodgefs` "
				       "mends what can be mended",
				       fs->path, text, fs->path)
			     : 0;
	*(error ? &fs->check->errors : &fs->check->leaks) += 1;
	if (fs->repair)
		*(error ? &fs->check->fixed_errors : &fs->check->fixed_leaks) += 1;
	if (fs->watch && fs->watch->found)
		fs->watch->found(fs->watch->ctx, error, text);
	return 0;
}

/* ---- superblock ---- */

static uint32_t super_crc(const struct lf_super *s)
{
	uint8_t page[LF_PAGE] = {0};
	struct lf_super *c = (void *)page;

	memcpy(page, s, sizeof(*s));
	c->crc = 0;
	return crc32c(0, page, LF_PAGE);
}

/*
 * One copy, and when that is durable the other: whichever of them is damaged later, the one that is left says the same. They take turns to be the first, so
 * that what is written over is never the only one that is known to be durable.
 */
int lf_super_write(struct lf *fs)
{
	uint8_t *page;
	int rc;

	if (posix_memalign((void **)&page, LF_PAGE, LF_PAGE))
		return -ENOMEM;
	fs->s.change++;
	fs->s.crc = super_crc(&fs->s);
	memset(page, 0, LF_PAGE);
	memcpy(page, &fs->s, sizeof(fs->s));
	rc = lf_io(fs, FILE_WRITE, (fs->s.change & 1) * LF_PAGE, page, LF_PAGE);
	if (!rc)
		rc = lf_io(fs, FILE_FLUSH, 0, NULL, 0);
	if (rc) /* the other one may be the only good one: who tries again does so in the same place */
		fs->s.change--;
	else
		rc = lf_io(fs, FILE_WRITE, (~fs->s.change & 1) * LF_PAGE, page, LF_PAGE);
	free(page);
	return rc;
}

/* "": the file is too small. A device has to have all blocks; a file grows with what is written. */
static const char *super_wrong(const struct lf_super *s, const struct file *f)
{
	uint64_t end;

	if (s->journal_at != LF_AT_JOURNAL * LF_PAGE || s->journal_bytes < MiB ||
		s->journal_bytes > GiB || s->journal_bytes % MiB)
		return "its journal";
	end = s->journal_at + s->journal_bytes;
	if (s->dir_at != end || !s->dir_pages || s->dir_pages > 1u << 20)
		return "its directory";
	end += s->dir_pages * LF_PAGE;
	if (s->bitmap_at != end || !s->bitmap_pages || s->bitmap_pages > 1u << 18)
		return "its bitmap";
	end += s->bitmap_pages * LF_PAGE;
	if (!(s->incompatible & LF_INC_SUMS) != !s->sum_pages ||
		(s->sum_pages && (s->sums_at != end || s->max_blocks >= UINT32_MAX ||
					 s->sum_pages != (s->max_blocks + LF_SUM_BLOCKS - 1) /
								 LF_SUM_BLOCKS)))
		return "its checksums";
	end += s->sum_pages * LF_PAGE;
	if (s->data_at % MiB || s->data_at < end || s->data_at - end > MiB)
		return "the place of its blocks";
	if (!s->blocks || s->blocks > s->max_blocks || s->max_blocks > s->bitmap_pages * LF_BITS ||
		s->max_blocks >= UINT32_MAX)
		return "the number of its blocks";
	if (s->tail >= s->journal_bytes || s->tail % 512 || !s->seq)
		return "the journal's tail";
	end = f->block_device ? s->data_at + s->blocks * LF_BLOCK : s->data_at;
	return end > f->size ? "" : NULL;
}

static int cut_off(const struct lf *fs, uint64_t end, struct err *e)
{
	return err_set(e, -EUCLEAN, "store %s: has %llu bytes and should have %llu: it was cut off",
		fs->path, (unsigned long long)fs->f->size, (unsigned long long)end);
}

/* The good copy with the higher change. */
static int super_best(struct lf *fs, struct err *e)
{
	cleanup(free_ptr) uint8_t *page = NULL;
	bool magic = false, any = false;
	int rc = 0;

	if (posix_memalign((void **)&page, LF_PAGE, LF_PAGE))
		return err_set(e, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < 2; i++) {
		struct lf_super s;
		int bad = file_read(fs->f, i * LF_PAGE, page, LF_PAGE, e);

		if (bad) { /* there are two so that one will do */
			rc = bad;
			continue;
		}
		memcpy(&s, page, sizeof(s));
		if (memcmp(s.magic, LF_MAGIC, 8))
			continue;
		magic = true;
		if (s.crc != super_crc(&s) || (any && s.change < fs->s.change))
			continue;
		fs->s = s;
		any = true;
	}
	if (any)
		return 0;
	if (rc)
		return err_wrap(e, "store %s: its superblock", fs->path);
	if (magic)
		return err_set(e, -EUCLEAN, "store %s: both copies of the superblock are damaged",
			fs->path);
	return err_set(e, -EINVAL,
		"store %s: is not a lodgefs store: `lodge store create` makes one", fs->path);
}

static int super_read(struct lf *fs, struct err *e)
{
	const char *wrong;
	int rc;

	if (fs->f->size < 4 * LF_PAGE)
		return err_set(e, -EINVAL,
			"store %s: is not a lodgefs store: `lodge store create` makes one",
			fs->path);
	rc = super_best(fs, e);
	if (rc)
		return rc;
	if (fs->s.version != LF_VERSION ||
		fs->s.incompatible & ~(uint64_t)(LF_INC_TRACK | LF_INC_SUMS))
		return err_set(e, -EOPNOTSUPP,
			"store %s: is of version %u with features %#llx, of which this lodge knows "
			"nothing",
			fs->path, fs->s.version, (unsigned long long)fs->s.incompatible);
	wrong = super_wrong(&fs->s, fs->f);
	if (wrong && !*wrong)
		return cut_off(
			fs, fs->s.data_at + (fs->f->block_device ? fs->s.blocks * LF_BLOCK : 0), e);
	return wrong ? err_set(e, -EUCLEAN, "store %s: the superblock is wrong about %s", fs->path,
			       wrong)
		     : 0;
}

/* ---- lease ---- */

static uint32_t lease_crc(const struct lf_lease *l)
{
	uint8_t sector[512] = {0};

	memcpy(sector, l, sizeof(*l));
	((struct lf_lease *)(void *)sector)->crc = 0;
	return crc32c(0, sector, 512);
}

/* A whole page: with cache=none it is then read from the device, where another host may have written it. */
static int lease_io(struct lf *fs, enum file_op op, struct lf_lease *l)
{
	void *page;
	int rc;

	if (posix_memalign(&page, LF_PAGE, LF_PAGE))
		return -ENOMEM;
	memset(page, 0, LF_PAGE);
	if (op == FILE_WRITE) {
		l->crc = lease_crc(l);
		memcpy(page, l, sizeof(*l));
	}
	rc = lf_io(fs, op, LF_AT_LEASE * LF_PAGE, page, LF_PAGE);
	if (!rc && op == FILE_READ)
		memcpy(l, page, sizeof(*l));
	if (!rc && op == FILE_WRITE)
		rc = lf_io(fs, FILE_FLUSH, 0, NULL, 0);
	free(page);
	return rc;
}

void lf_lease_look(struct lf *fs, struct lf_look *k)
{
	*k = (struct lf_look){.w.fs = fs};
	if (posix_memalign(&k->page, LF_PAGE, LF_PAGE)) {
		k->page = NULL;
		k->w.rc = -ENOMEM;
		return;
	}
	lf_start(&k->w, &k->x, FILE_READ, LF_AT_LEASE * LF_PAGE, k->page, LF_PAGE);
}

int lf_lease_seen(struct lf *fs, struct lf_look *k)
{
	cleanup(free_ptr) struct lf_lease *l = k->page;
	uint64_t size;
	int rc = lf_wait_all(&k->w);

	if (!rc && (l->magic != LF_LEASE_MAGIC || l->fence != fs->fence ||
			   memcmp(l->owner, fs->owner, 16)))
		rc = -ESTALE;
	/* Somebody cut the file off: were it to grow again, zeroes would be taken for data. */
	if (!rc && !fs->f->block_device && fs->f->ops->measure &&
		!fs->f->ops->measure(fs->f, &size, NULL) && size < fs->f->size) {
		fs->lost = true;
		rc = -EIO;
	}
	if (rc && !fs->failed)
		fs->failed = rc;
	return rc;
}

int lf_lease_check(struct lf *fs)
{
	struct lf_look k;

	lf_lease_look(fs, &k);
	return lf_lease_seen(fs, &k);
}

/* Another one after each boot; "" when the kernel does not say. */
static void boot_id(char id[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, id, 39);

	memset(id + MAX(n, 0), 0, 40 - (size_t)MAX(n, 0));
	id[strcspn(id, "\n")] = 0;
	if (fd >= 0)
		close(fd);
}

/*
 * Was the journal's run written under the kernel that runs now? Then only its process ended: each record that is there has its data, which was
 * given to the kernel before it, also where that was overwritten in place since.
 */
static void look_at_lease(struct lf *fs, const struct lf_lease *l)
{
	char boot[40];

	boot_id(boot);
	fs->unbroken = l->magic == LF_LEASE_MAGIC && l->crc == lease_crc(l) && *boot &&
		       !memcmp(l->boot, boot, sizeof(boot)) &&
		       (l->run == fs->s.run || l->from == fs->s.run);
}

static void fill_lease(const struct lf *fs, struct lf_lease *l)
{
	*l = (struct lf_lease){.magic = LF_LEASE_MAGIC,
		.fence = fs->fence,
		.held = 1,
		.since = (uint64_t)time(NULL),
		.pid = (uint64_t)getpid(),
		.run = fs->s.run + 1,
		/* Who comes after us, when we do not get to the end of recovery, knows what we know. */
		.from = fs->unbroken ? fs->s.run : 0};
	memcpy(l->owner, fs->owner, 16);
	boot_id(l->boot);
	gethostname(l->host, sizeof(l->host) - 1);
}

static int lease_take(struct lf *fs, const struct lf_open *o, struct err *e)
{
	struct lf_lease l, mine;
	int rc = lease_io(fs, FILE_READ, &l);

	if (rc)
		return err_sys(e, rc, "store %s: its lease", fs->path);
	if (getrandom(fs->owner, 16, 0) != 16)
		return err_set(e, -EIO, "store %s: no random numbers", fs->path);
	if (l.magic != LF_LEASE_MAGIC || l.crc != lease_crc(&l)) {
		if (!(o->flags & LF_O_TAKE) || !o->fence)
			return err_set(e, -EUCLEAN,
				"store %s: its lease is damaged: with a number N above all that "
				"were given out `lodge store take %s:lodgefs --fence N` makes "
				"another",
				fs->path, fs->path);
		l = (struct lf_lease){0};
	}
	look_at_lease(fs, &l);
	l.host[sizeof(l.host) - 1] = 0;
	if (o->fence && l.fence >= o->fence)
		return err_set(e, -ESTALE,
			"store %s: the fencing number %llu is not newer than the store's %llu: "
			"somebody else was "
			"given it meanwhile",
			fs->path, (unsigned long long)o->fence, (unsigned long long)l.fence);
	fs->fence = o->fence ?: l.fence + 1;
	fill_lease(fs, &mine);
	/* On this host our lock on the file says that nobody is there. */
	if (l.held == 1 && strcmp(l.host, mine.host) && !(o->flags & LF_O_TAKE) && !o->fence)
		return err_set(e, -EBUSY,
			"store %s: is held by process %llu of host '%s'; when that is gone for "
			"sure: `lodge store take %s:lodgefs`, or --disk ...,take",
			fs->path, (unsigned long long)l.pid, l.host, fs->path);
	rc = lease_io(fs, FILE_WRITE, &mine);
	if (!rc)
		rc = lf_lease_check(fs);
	fs->failed = 0;
	return rc ? err_sys(e, rc, "store %s: its lease", fs->path) : 0;
}

/* Our records get another run, as they are loaded anew. */
static int lease_again(struct lf *fs)
{
	struct lf_lease l;
	int rc = lease_io(fs, FILE_READ, &l);

	l.from = fs->s.run;
	l.run = fs->s.run + 1;
	return rc ?: lease_io(fs, FILE_WRITE, &l);
}

void lf_lease_doubt(struct lf *fs)
{
	struct lf_lease l;

	if (lease_io(fs, FILE_READ, &l) || memcmp(l.owner, fs->owner, 16) || !*l.boot)
		return;
	memset(l.boot, 0, sizeof(l.boot));
	(void)lease_io(fs, FILE_WRITE, &l);
}

/* Inside the sandbox the host's name cannot be asked for: what stands there is ours. */
static void lease_give(struct lf *fs)
{
	struct lf_lease l;

	if (lf_lease_check(fs) || lease_io(fs, FILE_READ, &l))
		return;
	l.held = 0;
	if (fs->writable) /* the run has begun; programs that know nothing of it take the rest of the sector for 0 */
		l.from = 0;
	(void)lease_io(fs, FILE_WRITE, &l);
}

/* ---- recovery ---- */

static bool place_ok(const struct lf *fs, uint64_t at)
{
	uint64_t dir = fs->s.dir_at / LF_PAGE, data = fs->s.data_at / LF_PAGE;

	if (at >= dir && at < dir + fs->s.dir_pages + fs->s.bitmap_pages + fs->s.sum_pages)
		return true;
	return at >= data && at - data < fs->s.blocks * LF_BLOCK_PAGES;
}

static struct lf_page **overlay_at(struct lf *fs, uint64_t at)
{
	struct lf_page **p = &fs->overlay_hash[at % HASH];

	while (*p && (*p)->at != at)
		p = &(*p)->next;
	return p;
}

static int apply_page(struct lf *fs, const struct lf_rec_page *c, struct err *e)
{
	struct lf_page **p = overlay_at(fs, c->at);

	if (!*p) {
		if (c->off || c->len != LF_PAGE)
			return err_set(e, -EUCLEAN,
				"store %s: the journal changes page %llu without having it",
				fs->path, (unsigned long long)c->at);
		*p = lf_page_make(fs, c->at, 0, 0);
		if (!*p)
			return err_set(e, -ENOMEM, "out of memory");
	}
	memcpy((*p)->data + c->off, c + 1, c->len);
	return 0;
}

/* The changes of a record; `e` NULL: only looks whether they are sane. *checks: where the checks begin. */
static int walk_record(struct lf *fs, const uint8_t *rec, bool apply, size_t *checks, struct err *e)
{
	const struct lf_rec_head *h = (const void *)rec;
	size_t at = sizeof(*h);

	for (uint32_t i = 0; i < h->pages; i++) {
		const struct lf_rec_page *c = (const void *)(rec + at);
		int rc;

		if (h->len - at < sizeof(*c) || c->off + c->len > LF_PAGE || !place_ok(fs, c->at) ||
			h->len - at - sizeof(*c) < align_up(c->len, 8))
			return -EUCLEAN;
		rc = apply ? apply_page(fs, c, e) : 0;
		if (rc)
			return rc;
		at += sizeof(*c) + align_up(c->len, 8);
	}
	if ((h->len - at) / sizeof(struct lf_rec_check) < h->checks)
		return -EUCLEAN;
	*checks = at;
	return 0;
}

/*
 * Did the data of this record reach the medium? What cannot be read is not known to be missing: then nobody opens the store, unless to mend it, as what is
 * dropped is dropped for good.
 */
static int data_there(struct lf *fs, const uint8_t *rec, bool *there, struct err *e)
{
	const struct lf_rec_head *h = (const void *)rec;
	uint64_t end = MIN(lf_block_at(fs, fs->s.blocks), fs->f->size);
	cleanup(free_ptr) void *buf = NULL;
	size_t at;
	int rc;

	*there = false;
	if (walk_record(fs, rec, false, &at, NULL))
		return 0;
	if (posix_memalign(&buf, LF_PAGE, LF_BLOCK))
		return err_set(e, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < h->checks; i++, at += sizeof(struct lf_rec_check)) {
		const struct lf_rec_check *c = (const void *)(rec + at);

		if (c->at < fs->s.data_at || c->at > end || c->len > MIN(end - c->at, LF_BLOCK))
			return 0;
		rc = file_read(fs->f, c->at, buf, c->len, e);
		if (rc && fs->check)
			return lf_found(fs, true, e, "data of record %llu cannot be read",
				(unsigned long long)h->seq);
		if (rc)
			return err_wrap(e, "store %s: data of record %llu", fs->path,
				(unsigned long long)h->seq);
		if (crc32c(0, buf, c->len) != c->crc)
			return 0;
	}
	*there = true;
	return 0;
}

struct journal {
	struct found {
		uint8_t *rec;
		uint64_t next, used; /* where the one behind it is; bytes from the tail to there */
	} * found;
	unsigned n, cap;
	uint64_t durable;
};

static void journal_end(struct journal *j)
{
	for (unsigned i = 0; i < j->n; i++)
		free(j->found[i].rec);
	free(j->found);
}

static int keep(struct journal *j, const struct found *f)
{
	if (j->n == j->cap) {
		unsigned cap = MAX(64u, 2 * j->cap);
		struct found *p = realloc(j->found, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		j->found = p;
		j->cap = cap;
	}
	j->found[j->n++] = *f;
	return 0;
}

/* The record at `at`, when there is one with that number. *next: where the one behind it is. */
static int record_at(struct lf *fs, uint64_t at, uint64_t seq, uint8_t **out, uint64_t *next)
{
	uint64_t left = fs->s.journal_bytes - at;
	cleanup(free_ptr) uint8_t *rec = NULL;
	struct lf_rec_head *h;
	uint32_t len, crc;

	if (posix_memalign((void **)&rec, LF_PAGE, LF_PAGE) ||
		file_read(fs->f, fs->s.journal_at + at, rec, 512, NULL))
		return -EIO;
	h = (void *)rec;
	len = h->len;
	if (h->magic != LF_RECORD_MAGIC || h->salt != fs->s.salt || h->run != fs->s.run ||
		h->seq != seq || len < 512 || len % 512 || len > left || h->kind < LF_R_CHANGE ||
		h->kind > LF_R_PAD)
		return -ENOENT;
	free(steal_ptr(rec));
	if (posix_memalign((void **)&rec, LF_PAGE, len))
		return -ENOMEM;
	if (file_read(fs->f, fs->s.journal_at + at, rec, len, NULL))
		return -EIO;
	h = (void *)rec;
	crc = h->crc;
	h->crc = 0;
	if (h->len != len || crc32c(0, rec, len) != crc)
		return -ENOENT;
	*next = h->kind == LF_R_PAD ? 0 : (at + len) % fs->s.journal_bytes;
	*out = steal_ptr(rec);
	return 0;
}

static int scan(struct lf *fs, struct journal *j, struct err *e)
{
	uint64_t at = fs->s.tail, seq = fs->s.seq, seen = 0, next;

	while (seen < fs->s.journal_bytes) {
		uint8_t *rec;
		const struct lf_rec_head *h;
		int rc = record_at(fs, at, seq, &rec, &next);

		if (rc == -ENOENT)
			break;
		if (rc)
			return err_sys(e, rc, "store %s: its journal", fs->path);
		h = (const void *)rec;
		seen += next > at ? next - at : fs->s.journal_bytes - at;
		at = next;
		if (h->kind == LF_R_PAD) {
			free(rec);
			continue;
		}
		j->durable = MAX(j->durable, h->durable);
		seq++;
		if (keep(j, &(struct found){rec, at, seen})) {
			free(rec);
			return err_set(e, -ENOMEM, "out of memory");
		}
	}
	return 0;
}

static int replay(struct lf *fs, struct err *e)
{
	cleanup(journal_end) struct journal j = {0};
	int rc = scan(fs, &j, e);
	size_t at;

	fs->overlay_hash = calloc(HASH, sizeof(struct lf_page *));
	if (!rc && !fs->overlay_hash)
		rc = err_set(e, -ENOMEM, "out of memory");
	fs->seq = fs->s.seq;
	fs->head = fs->s.tail;
	for (unsigned i = 0; i < j.n && !rc; i++) {
		const struct found *f = &j.found[i];
		const struct lf_rec_head *h = (const void *)f->rec;
		bool known = fs->unbroken || h->seq <= fs->trust, there = true;

		if (h->seq > j.durable && !known)
			rc = data_there(fs, f->rec, &there, e);
		if (rc)
			break;
		if (!there) {
			fs->stats.dropped = j.n - i;
			break;
		}
		fs->unmarked |= h->seq > j.durable && known && h->kind == LF_R_CHANGE;
		rc = walk_record(fs, f->rec, true, &at, e);
		if (rc == -EUCLEAN)
			err_set(e, rc, "store %s: record %llu of the journal is damaged", fs->path,
				(unsigned long long)h->seq);
		fs->seq = h->seq + 1;
		fs->head = f->next;
		fs->used = f->used;
		fs->stats.replayed++;
	}
	fs->written = fs->flushed = fs->marked = fs->seq - 1;
	return rc;
}

/* ---- pages ---- */

const char *lf_page_wrong(
	const struct lf *fs, const struct lf_page *p, unsigned type, unsigned level, bool crc)
{
	const struct lf_page_head *h = (const void *)p->data;

	if (h->magic != LF_PAGE_MAGIC || h->salt != fs->s.salt || h->at != p->at)
		return "is none of this store's";
	if (crc && h->crc != lf_page_crc(p->data))
		return "has a wrong checksum";
	return h->type != type || h->level != level ? "is of another kind" : NULL;
}

static void set_dirty(struct lf *fs, struct lf_page *p)
{
	if (p->dirty)
		return;
	lf_page_stays(fs, p);
	p->dirty = true;
	p->next = fs->dirty;
	fs->dirty = p;
}

int lf_load_page(struct lf *fs, uint64_t at, unsigned type, unsigned level, const void *have,
	struct lf_page **out, struct err *e)
{
	struct lf_page **o = overlay_at(fs, at), *p = *o;
	const char *wrong;
	bool fresh = p;
	int rc;

	*out = NULL;
	if (p) {
		*o = p->next;
		p->next = NULL;
	} else {
		p = lf_page_make(fs, at, type, level);
		if (!p)
			return err_set(e, -ENOMEM, "out of memory");
		if (have)
			memcpy(p->data, have, LF_PAGE);
		else if ((at + 1) * LF_PAGE > fs->f->size) {
			lf_page_free(p);
			return cut_off(fs, (at + 1) * LF_PAGE, e);
		}
		rc = have ? 0 : file_read(fs->f, at * LF_PAGE, p->data, LF_PAGE, e);
		if (rc) {
			lf_page_free(p);
			return rc;
		}
	}
	p->type = (uint8_t)type;
	p->level = (uint8_t)level;
	wrong = lf_page_wrong(fs, p, type, level, !fresh);
	if (wrong) {
		lf_page_free(p);
		return lf_found(fs, true, e, "page %llu %s", (unsigned long long)at, wrong);
	}
	if (fresh)
		set_dirty(fs, p);
	*out = p;
	return 0;
}

static int load_region(
	struct lf *fs, struct lf_page ***out, uint64_t at, uint64_t n, unsigned type, struct err *e)
{
	struct lf_page **v = *out = calloc(n, sizeof(struct lf_page *));
	cleanup(free_ptr) uint8_t *buf = NULL;
	const uint64_t some = LF_BLOCK_PAGES;

	if (!v || posix_memalign((void **)&buf, LF_PAGE, some * LF_PAGE))
		return err_set(e, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < n; i++) {
		int rc = 0;

		if (i % some == 0)
			rc = file_read(fs->f, at + i * LF_PAGE, buf, MIN(some, n - i) * LF_PAGE, e);
		if (!rc)
			rc = lf_load_page(
				fs, at / LF_PAGE + i, type, 0, buf + i % some * LF_PAGE, &v[i], e);
		if (rc)
			return rc;
		if (!v[i]) { /* found, and counted */
			v[i] = lf_page_make(fs, at / LF_PAGE + i, type, 0);
			if (!v[i])
				return err_set(e, -ENOMEM, "out of memory");
			set_dirty(fs, v[i]);
		}
		v[i]->refs = 1;
	}
	return 0;
}

static int load_tree(struct lf *fs, uint64_t *root, unsigned type, unsigned level,
	struct lf_page *from, struct err *e);

/* Of what is valid. */
static uint64_t end_of(const uint64_t *map)
{
	unsigned w = 3;

	while (!map[w])
		w--;
	return (w * 64ull + 64 - (unsigned)__builtin_clzll(map[w])) * LF_SUB;
}

static int load_entry(struct lf *fs, struct lf_page *p, struct lf_entry *x, struct err *e)
{
	uint32_t *ref[] = {&x->own, &x->base};
	uint64_t *map[] = {x->own_valid, x->base_valid};

	for (unsigned i = 0; i < 2; i++) {
		bool wrong = *ref[i] > fs->s.blocks || (!*ref[i] && !lf_none(map[i]));
		int rc;

		if (wrong) {
			rc = lf_found(fs, true, e, "page %llu refers to block %u of %llu",
				(unsigned long long)p->at, *ref[i] - 1,
				(unsigned long long)fs->s.blocks);
			if (rc)
				return rc;
			*ref[i] = 0;
			memset(map[i], 0, 32);
			set_dirty(fs, p);
		}
		if (*ref[i])
			fs->block[*ref[i] - 1].refs++;
		if (*ref[i] && !lf_none(map[i]))
			fs->end = MAX(fs->end, lf_block_at(fs, *ref[i] - 1) + end_of(map[i]));
		for (unsigned w = 0; fs->valid && *ref[i] && w < 4; w++)
			fs->valid[4 * (*ref[i] - 1ull) + w] |= map[i][w];
	}
	return 0;
}

static int load_children(struct lf *fs, struct lf_page *p, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; p->level && i < LF_NODE_ENTRIES && !rc; i++)
		if (*lf_node(p, i))
			rc = load_tree(fs, lf_node(p, i), p->type, p->level - 1u, p, e);
	for (unsigned i = 0; !p->level && p->type == LF_T_POINTERS && i < LF_LEAF_ENTRIES && !rc;
		i++)
		rc = load_entry(fs, p, lf_leaf(p, i), e);
	return rc;
}

/* Recursion is as deep as trees are high: levels descend. */
static int load_tree(struct lf *fs, uint64_t *root, unsigned type, unsigned level,
	struct lf_page *from, struct err *e)
{
	struct lf_page *p;
	int rc = 0;

	p = lf_page_at(fs, *root);
	if (p && p->level == level && p->type == type && type == LF_T_POINTERS) {
		p->refs++;
		return 0;
	}
	if (p || *root < fs->s.data_at / LF_PAGE || !place_ok(fs, *root)) {
		p = NULL;
		rc = lf_found(fs, true, e,
			"page %llu refers to page %llu, which is none of level %u",
			(unsigned long long)from->at, (unsigned long long)*root, level);
	} else {
		rc = lf_load_page(fs, *root, type, level, NULL, &p, e);
	}
	if (rc)
		return rc;
	if (!p) {
		*root = 0;
		set_dirty(fs, from);
		return 0;
	}
	p->refs = 1;
	if (fs->pages_used == LF_PAGES_MAX) {
		if (!p->dirty)
			lf_page_free(p);
		return err_set(e, -EFBIG,
			"store %s: has more than %u pages of metadata, which are held in memory",
			fs->path, LF_PAGES_MAX);
	}
	if (lf_page_adopt(fs, p)) {
		if (!p->dirty)
			lf_page_free(p);
		return err_set(e, -ENOMEM, "out of memory");
	}
	p->pins++;
	rc = load_children(fs, p, e);
	p->pins--;
	return rc;
}

/* ---- directory ---- */

static int by_name(const void *a, const void *b)
{
	const struct lf_record *x = *(struct lf_record *const *)a,
			       *y = *(struct lf_record *const *)b;

	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	if (x->owner != y->owner)
		return x->owner < y->owner ? -1 : 1;
	return strcmp(x->name, y->name);
}

static const char *record_wrong(struct lf *fs, const struct lf_record *r)
{
	const struct lf_record *d;

	if (r->type > LF_TRACK || !r->id || r->id == UINT64_MAX)
		return "is of an unknown kind";
	if (!memchr(r->name, 0, sizeof(r->name)) || !r->name[0] || strchr(r->name, '/'))
		return "has no proper name";
	if (r->height > LF_HEIGHT_MAX || r->size % DISK_SECTOR || r->size > 1ull << 60 ||
		lf_rec_span(r) < (r->size + LF_BLOCK - 1) / LF_BLOCK || r->nranges > LF_RANGES)
		return "has a wrong size";
	if (r->type == LF_CBT && r->root)
		return "has a tree";
	if ((r->type == LF_CBT || r->type == LF_TRACK) && r->generation > UINT32_MAX)
		return "has a wrong generation";
	if (r->type != LF_DISK && (!(d = lf_rec_by_id(fs, r->owner)) || d->type != LF_DISK))
		return "belongs to no disk";
	return NULL;
}

static int load_record(struct lf *fs, struct lf_record *r, struct lf_page *p, struct err *e)
{
	uint64_t found = fs->check ? fs->check->errors : 0;
	int rc = r->root ? load_tree(fs, &r->root, r->type == LF_TRACK ? LF_T_TRACK : LF_T_POINTERS,
				   r->height, p, e)
			 : 0;

	/* Where it cannot be read what has changed, everything has. */
	if (!rc && r->type == LF_TRACK && fs->check && fs->check->errors > found) {
		r->parent = lf_rec_by_id(fs, r->owner)->generation;
		set_dirty(fs, p);
	}
	fs->s.next_id = MAX(fs->s.next_id, r->id + 1);
	return rc;
}

static int by_id(const void *a, const void *b)
{
	const struct lf_record *x = *(struct lf_record *const *)a,
			       *y = *(struct lf_record *const *)b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static int index_records(struct lf *fs, struct err *e)
{
	fs->by_id = calloc(fs->nrec, sizeof(struct lf_record *));
	if (!fs->by_id)
		return err_set(e, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < fs->nrec; i++)
		if (fs->rec[i]->type != LF_FREE)
			fs->by_id[fs->nids++] = fs->rec[i];
	qsort(fs->by_id, fs->nids, sizeof(*fs->by_id), by_id);
	return 0;
}

/* Out of the index, and out of the directory, go those that are not taken. */
static void drop_wrong(struct lf *fs)
{
	uint64_t n = fs->nids;

	fs->nids = 0;
	for (uint64_t i = 0; i < n; i++) {
		struct lf_record *r = fs->by_id[i];

		if (r->type != LF_FREE)
			fs->by_id[fs->nids++] = r;
		else
			memset(r, 0, sizeof(*r));
	}
}

/* A disk or snapshot is known by its id, and by its name. */
static int find_twins(struct lf *fs, struct err *e)
{
	cleanup(free_ptr) struct lf_record **named = NULL;
	int rc = 0;

	for (uint64_t i = fs->nids; i-- > 1 && !rc;) {
		struct lf_record *r = fs->by_id[i];

		if (r->id != fs->by_id[i - 1]->id)
			continue;
		rc = lf_found(
			fs, true, e, "two entries have the id %llu", (unsigned long long)r->id);
		r->id = fs->s.next_id++;
		lf_rec_touch(fs, r);
	}
	if (rc)
		return rc;
	qsort(fs->by_id, fs->nids, sizeof(*fs->by_id), by_id);
	named = malloc(MAX(fs->nids, 1ull) * sizeof(*named));
	if (!named)
		return err_set(e, -ENOMEM, "out of memory");
	memcpy(named, fs->by_id, fs->nids * sizeof(*named));
	qsort(named, fs->nids, sizeof(*named), by_name);
	for (uint64_t i = 1; i < fs->nids && !rc; i++)
		if (!by_name(&named[i - 1], &named[i])) {
			rc = lf_found(fs, true, e, "two entries are called '%s'", named[i]->name);
			snprintf(named[i]->name, sizeof(named[i]->name), "found-%llu",
				(unsigned long long)named[i]->id);
			lf_rec_touch(fs, named[i]);
		}
	return rc;
}

static int load_records(struct lf *fs, struct err *e)
{
	int rc = index_records(fs, e);

	for (uint64_t i = 0; i < fs->nrec && !rc; i++) {
		struct lf_record *r = fs->rec[i];
		struct lf_page *p = fs->dir[i / LF_DIR_RECORDS];
		const char *wrong;

		if (r->type == LF_FREE)
			continue;
		wrong = record_wrong(fs, r);
		if (wrong)
			rc = lf_found(fs, true, e, "record %llu of the directory %s",
				(unsigned long long)i, wrong);
		if (!rc && wrong) {
			r->type = LF_FREE;
			set_dirty(fs, p);
			continue;
		}
		if (!rc)
			rc = load_record(fs, r, p, e);
	}
	if (rc)
		return rc;
	drop_wrong(fs);
	return find_twins(fs, e);
}

static int load_dir(struct lf *fs, struct err *e)
{
	int rc = load_region(fs, &fs->dir, fs->s.dir_at, fs->s.dir_pages, LF_T_DIR, e);

	if (!rc)
		rc = load_region(
			fs, &fs->bitmap, fs->s.bitmap_at, fs->s.bitmap_pages, LF_T_BITMAP, e);
	if (rc)
		return rc;
	fs->nrec = fs->s.dir_pages * LF_DIR_RECORDS;
	fs->rec = calloc(fs->nrec, sizeof(struct lf_record *));
	if (!fs->rec)
		return err_set(e, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < fs->nrec; i++)
		fs->rec[i] = (struct lf_record *)(void *)(fs->dir[i / LF_DIR_RECORDS]->data +
							  LF_HEAD) +
			     i % LF_DIR_RECORDS;
	return load_records(fs, e);
}

/* What the bitmap says has to be what is referred to. */
static int compare_bitmap(struct lf *fs, struct err *e)
{
	int rc = 0;

	for (uint64_t i = 0; i < fs->s.blocks && !rc; i++) {
		const struct lf_block *b = &fs->block[i];
		bool used = b->refs || b->pages, says = lf_bitmap_get(fs, i);

		if (b->refs && b->pages)
			rc = lf_found(fs, true, e, "block %llu holds data and pages",
				(unsigned long long)i);
		if (!rc && used && !says)
			rc = lf_found(fs, true, e, "block %llu is in use and marked as free",
				(unsigned long long)i);
		if (!rc && !used && says)
			rc = lf_found(fs, false, e,
				"block %llu is marked as used, and nothing refers to it",
				(unsigned long long)i);
		if (rc || used == says)
			continue;
		lf_bitmap_put(fs, i, used);
		set_dirty(fs, fs->bitmap[i / LF_BITS]);
	}
	return rc;
}

/* Those that the journal has; all others are read when they are wanted. */
static int load_sums(struct lf *fs, struct err *e)
{
	uint64_t first = fs->s.sums_at / LF_PAGE;

	if (!fs->s.sum_pages)
		return 0;
	fs->sums = calloc(fs->s.sum_pages, sizeof(*fs->sums));
	fs->sums_room = calloc(BITMAP_WORDS(fs->s.sum_pages / LF_BLOCK_PAGES + 1), 8);
	if (!fs->sums || !fs->sums_room)
		return err_set(e, -ENOMEM, "store %s: out of memory", fs->path);
	for (unsigned i = 0; i < HASH; i++)
		for (struct lf_page *p = fs->overlay_hash[i], *next; p; p = next) {
			int rc;

			next = p->next;
			if (p->at < first || p->at - first >= fs->s.sum_pages)
				continue;
			rc = lf_load_page(fs, p->at, LF_T_SUMS, 0, NULL, &p, e);
			if (!rc && p && lf_sums_adopt(fs, p))
				rc = err_set(e, -ENOMEM,
					"out of memory"); /* it is in the list of dirty pages */
			if (rc)
				return rc;
		}
	return 0;
}

/* ---- a store ---- */

static int load(struct lf *fs, struct err *e)
{
	int rc;

	fs->block = calloc(fs->s.blocks, sizeof(*fs->block));
	if (!fs->block)
		return err_set(e, -ENOMEM, "store %s: out of memory", fs->path);
	if (fs->map) {
		fs->valid = calloc(fs->s.blocks, 4 * sizeof(*fs->valid));
		if (!fs->valid)
			return err_set(e, -ENOMEM, "store %s: out of memory", fs->path);
	}
	rc = replay(fs, e);
	if (!rc)
		rc = load_sums(fs, e);
	if (!rc)
		rc = load_dir(fs, e);
	if (!rc && fs->end > fs->f->size)
		rc = cut_off(fs, fs->end, e);
	if (!rc)
		rc = compare_bitmap(fs, e);
	for (unsigned i = 0; i < fs->ntouch;
		i++) { /* by repairs: there is no transaction, they go to their places */
		fs->touch[i]->touched = false;
		set_dirty(fs, fs->touch[i]);
	}
	fs->ntouch = 0;
	lf_count_free(fs);
	return rc;
}

/* From here on the journal is ours and empty. */
static int begin_run(struct lf *fs, struct err *e)
{
	int rc;

	/*
	 * From the first page that goes to its place on, every record that was taken has to be taken again, whatever ends us, and wherever the store is
	 * opened then. Those whose data we have looked at are, when that is on the medium: what we read need not be. Of the others the journal says so.
	 */
	if (fs->unmarked)
		rc = lf_mark(fs);
	else
		rc = fs->dirty ? lf_io(fs, FILE_FLUSH, 0, NULL, 0) : 0;
	fs->s.run++;
	fs->head = fs->used = 0;
	if (!rc)
		rc = lf_checkpoint(fs);
	return rc ? err_sys(e, rc, "store %s: recovery", fs->path) : 0;
}

int lf_open(struct lf **out, struct files *files, const struct lf_open *o, struct err *e)
{
	struct lf *fs = calloc(1, sizeof(*fs));
	bool write = o->flags & LF_O_WRITE;
	struct file_opts fo = {.path = o->path,
		.readonly = !write,
		.direct = o->direct,
		.discard = o->flags & LF_O_DISCARD,
		.sectors = true,
		.strict = true};
	int rc;

	if (!fs)
		return err_set(e, -ENOMEM, "out of memory");
	fs->files = files;
	fs->check = o->check;
	fs->watch = o->watch;
	fs->repair = write && o->check;
	fs->discard = o->flags & LF_O_DISCARD;
	fs->direct = o->direct;
	list_init(&fs->pages_lru);
	fs->pages_max = o->pages ?: LF_PAGES_IN;
	fs->path = strdup(o->path);
	rc = fs->path ? file_open(&fs->f, files, &fo, e) : err_set(e, -ENOMEM, "out of memory");
	if (rc == -ENOENT)
		err_set(e, rc,
			"store %s: there is no such file: `lodge store create %s:lodgefs --size "
			"100G` "
			"makes one",
			o->path, o->path);
	if (!rc)
		rc = super_read(fs, e);
	fs->map = o->flags & LF_O_MAP || (o->check && fs->s.sum_pages);
	if (!rc && write) {
		rc = lease_take(fs, o, e);
	} else if (!rc) {
		struct lf_lease l;

		if (!lease_io(fs, FILE_READ, &l))
			look_at_lease(fs, &l);
	}
	if (!rc)
		rc = load(fs, e);
	if (!rc && write)
		rc = begin_run(fs, e);
	fs->writable = !rc && write;
	if (fs->writable)
		lf_room_all(fs);
	if (rc) {
		fs->failed = fs->failed ?: rc;
		lf_close(fs);
		return rc;
	}
	*out = fs;
	return 0;
}

int lf_reload(struct lf **out, struct lf *old, struct err *e)
{
	struct lf *fs = calloc(1, sizeof(*fs));
	int rc;

	if (!fs)
		return err_set(e, -ENOMEM, "out of memory");
	fs->files = old->files;
	fs->f = old->f;
	fs->fence = old->fence;
	memcpy(fs->owner, old->owner, sizeof(fs->owner));
	fs->discard = old->discard;
	fs->direct = old->direct;
	fs->trust = old->written;
	list_init(&fs->pages_lru);
	fs->pages_max = old->pages_max;
	fs->path = strdup(old->path);
	rc = fs->path ? lf_lease_check(fs) : -ENOMEM;
	if (rc)
		err_sys(e, rc, "store %s", old->path);
	else
		rc = super_read(fs, e);
	if (!rc)
		rc = lease_again(fs);
	if (!rc)
		rc = load(fs, e);
	if (!rc)
		rc = begin_run(fs, e);
	if (rc) {
		fs->f = NULL;
		fs->fence = 0;
		lf_close(fs);
		return rc;
	}
	fs->writable = true;
	old->f = NULL;
	old->fence = 0;
	*out = fs;
	return 0;
}

static void free_pages(struct lf *fs)
{
	for (unsigned i = 0; fs->overlay_hash && i < HASH; i++)
		for (struct lf_page *p = fs->overlay_hash[i], *next; p; p = next) {
			next = p->next;
			lf_page_free(p);
		}
	for (uint64_t i = 0; fs->dir && i < fs->s.dir_pages; i++)
		lf_page_free(fs->dir[i]);
	for (uint64_t i = 0; fs->bitmap && i < fs->s.bitmap_pages; i++)
		lf_page_free(fs->bitmap[i]);
	for (uint64_t i = 0; fs->block && i < fs->s.blocks; i++) {
		struct lf_pages *b = fs->block[i].pages;

		for (unsigned k = 0; b && k < LF_BLOCK_PAGES; k++)
			lf_page_free(b->page[k]);
		free(b);
	}
	lf_sums_free(fs);
}

int lf_close(struct lf *fs)
{
	int lost;

	if (!fs)
		return 0;
	while (fs->jobs) /* that nobody asked for */
		files_drain(fs->files);
	/* Nobody comes after these attempts to write what was acknowledged. */
	for (unsigned i = 0;
		i < 3 && fs->writable && lf_unwritten(fs) && !fs->lost && fs->failed != -ESTALE;
		i++) {
		fs->failed = 0;
		(void)lf_write_out(fs);
	}
	lost = fs->writable && lf_unwritten(fs) ? fs->failed : 0;
	lf_ready_drop(fs);
	if (fs->writable && !fs->failed)
		(void)lf_sums_settle(fs);
	if (fs->writable && !fs->failed)
		(void)lf_checkpoint(fs);
	while (fs->jobs) /* what became free goes back to the host */
		files_drain(fs->files);
	if (fs->fence && (!fs->failed || !fs->writable))
		lease_give(fs);
	lf_journal_free(fs);
	free_pages(fs);
	co_sched_destroy(&fs->cs);
	file_close(fs->f);
	free(fs->overlay_hash);
	free(fs->valid);
	free(fs->dir);
	free(fs->bitmap);
	free(fs->rec);
	free(fs->by_id);
	free(fs->block);
	free(fs->path);
	free(fs->key);
	free(fs);
	return lost;
}
