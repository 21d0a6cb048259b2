/*
 * journal.c: transactions, marks, checkpoints; docs/lodgefs.md, "Journal", says why this is safe.
 *
 * Lock order: fs->lock; then fs->sums_lock or fs->pages_lock, which are also taken without it. lf_begin() and lf_join() take the first, lf_end() and
 * lf_leave() let it go. Who has it may wait: what needs no lock, reads and flushes, goes on meanwhile.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/util.h"
#include "disk/lodgefs/lodgefs.h"

#define FRESH_MAX 65536u /* sub-blocks that recovery may have to verify: 256 MiB */

/* ---- transfers ---- */

static void on_done(struct file_req *r)
{
	struct lf_wait *w = container_of(r, struct lf_xfer, req)->w;

	if (r->result && !w->rc)
		w->rc = r->result;
	if (!--w->left && w->co)
		co_wake(w->co);
}

void lf_start(struct lf_wait *w, struct lf_xfer *x, enum file_op op, uint64_t off, void *buf,
	uint64_t len)
{
	x->w = w;
	x->one = (struct iovec){buf, len};
	x->req = (struct file_req){.op = op,
		.off = off,
		.len = len,
		.iov = &x->one,
		.niov = buf ? 1 : 0,
		.done = on_done};
	w->left++;
	file_submit(w->fs->f, &x->req);
}

int lf_wait_all(struct lf_wait *w)
{
	struct lf *fs = w->fs;

	w->co = co_self(&fs->cs);
	while (w->left) {
		if (w->co)
			co_wait(&fs->cs);
		else
			files_drain(fs->files);
	}
	w->co = NULL;
	return w->rc;
}

int lf_io(struct lf *fs, enum file_op op, uint64_t off, void *buf, uint64_t len)
{
	struct lf_wait w = {.fs = fs};
	struct lf_xfer x;

	fs->stats.flushes += op == FILE_FLUSH;
	lf_start(&w, &x, op, off, buf, len);
	lf_wait_all(&w);
	/* The host forgets what it could not write: the next flush would succeed without it. */
	if (w.rc && op == FILE_FLUSH && fs->f->lost && !fs->lost) {
		fs->lost = true;
		lf_lease_doubt(fs);
	}
	return w.rc;
}

void lf_lock(struct lf *fs, struct co_mutex *m)
{
	if (co_self(&fs->cs)) {
		co_lock(&fs->cs, m);
		return;
	}
	while (m->held)
		files_drain(fs->files);
	m->held = true;
}

static int fail(struct lf *fs, int rc)
{
	if (rc && !fs->failed)
		fs->failed = rc;
	return rc;
}

/* ---- what is vouched for ---- */

static struct lf_fresh *fresh_slot(const struct lf *fs, uint64_t at)
{
	uint64_t i = (at * 0x9e3779b97f4a7c15ull) >> 20;

	for (;; i++) {
		struct lf_fresh *s = &fs->fresh[i & (fs->fresh_cap - 1)];

		if (!s->at || s->at == at)
			return s;
	}
}

static int fresh_grow(struct lf *fs)
{
	struct lf_fresh *old = fs->fresh;
	uint64_t n = fs->fresh_cap;

	if (fs->fresh_n * 2 < n)
		return 0;
	fs->fresh_cap = MAX(1024ull, n * 2);
	fs->fresh = calloc(fs->fresh_cap, sizeof(*fs->fresh));
	if (!fs->fresh) {
		fs->fresh = old;
		fs->fresh_cap = n;
		return -ENOMEM;
	}
	fs->fresh_n = 0;
	for (uint64_t i = 0; i < n; i++)
		if (old[i].at && old[i].seq > fs->marked) {
			*fresh_slot(fs, old[i].at) = old[i];
			fs->fresh_n++;
		}
	free(old);
	return 0;
}

static int fresh_put(struct lf *fs, uint64_t key, uint64_t seq)
{
	struct lf_fresh *s;

	if (fresh_grow(fs))
		return -ENOMEM;
	s = fresh_slot(fs, key);
	fs->fresh_n += !s->at;
	*s = (struct lf_fresh){key, seq};
	return 0;
}

static int fresh_add(struct lf *fs, uint64_t off, uint64_t len, uint64_t seq)
{
	int rc = 0;

	for (uint64_t i = off / LF_SUB; i <= (off + len - 1) / LF_SUB && !rc; i++)
		rc = fresh_put(fs, i + 1, seq);
	return rc;
}

int lf_fresh_put(struct lf *fs, uint64_t key)
{
	return fresh_put(fs, key, fs->seq);
}

uint64_t lf_fresh_seq(const struct lf *fs, uint64_t key)
{
	return fs->fresh_n ? fresh_slot(fs, key)->seq : 0;
}

static void fresh_clear(struct lf *fs)
{
	if (fs->fresh_n)
		memset(fs->fresh, 0, fs->fresh_cap * sizeof(*fs->fresh));
	fs->fresh_n = 0;
}

int lf_overwrites(struct lf *fs, uint64_t off, uint64_t len)
{
	if (!fs->fresh_n)
		return 0;
	for (uint64_t i = off / LF_SUB; i <= (off + len - 1) / LF_SUB; i++) {
		const struct lf_fresh *s = fresh_slot(fs, i + 1);

		if (!s->at || s->seq <= fs->marked)
			continue;
		if (s->seq <= fs->flushed)
			return 1;
		if (s->seq ==
			fs->seq) /* that record is not written yet: it will vouch for nothing */
			fs->ordered = true;
		else
			fs->overwritten = true;
	}
	return 0;
}

/* ---- what was freed ---- */

void lf_hold(struct lf *fs, uint32_t block)
{
	struct lf_freed *f = fs->freeing;

	fs->block[block].hold++;
	if (!f) {
		f = fs->freeing = calloc(1, sizeof(*f));
		if (!f)
			return; /* it stays held until the store is closed */
		f->fs = fs;
	}
	if (f->n == f->cap) {
		unsigned cap = MAX(16u, 2 * f->cap);
		uint32_t *p = realloc(f->block, cap * sizeof(*p));

		if (!p)
			return;
		f->block = p;
		f->cap = cap;
	}
	f->block[f->n++] = block;
}

static void readers_gone(struct sorter_quarantine *q)
{
	struct lf_freed *f = container_of(q, struct lf_freed, q);

	f->next = f->fs->freed;
	f->fs->freed = f;
}

static void send_freed(struct lf *fs, uint64_t seq)
{
	struct lf_freed *f = steal_ptr(fs->freeing);

	if (!f)
		return;
	f->seq = seq;
	f->q.free = readers_gone;
	if (fs->by)
		sorter_quarantine(fs->by, &f->q);
	else
		readers_gone(&f->q);
}

/* ---- space that goes back to the host ---- */

#define RUNS 8u /* at once */
#define RUN_MAX 64u /* blocks */

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void freed_end(struct lf_freed *f)
{
	free(f->block);
	free(f);
}

bool lf_unpunch(struct lf *fs)
{
	bool any = fs->punch;

	for (struct lf_freed *f; (f = fs->punch);) {
		fs->punch = f->next;
		for (unsigned i = 0; i < f->n; i++)
			lf_release(fs, f->block[i]);
		freed_end(f);
	}
	return any;
}

void lf_space(struct lf *fs)
{
	lf_ready_wait(fs);
	lf_lock(fs, &fs->punch_lock);
	(void)lf_unpunch(fs);
	co_unlock(&fs->punch_lock);
}

struct run {
	struct lf_xfer x;
	uint32_t first, n;
};

/* Neighbours that nobody uses, from the end of the first list. They stay held. */
static bool take_run(struct lf *fs, struct run *r)
{
	struct lf_freed *f;

	for (r->n = 0; (f = fs->punch); freed_end(f)) {
		for (; f->n; f->n--) {
			uint32_t at = f->block[f->n - 1];
			const struct lf_block *b = &fs->block[at];
			bool goes = !b->refs && !b->pages && b->hold == 1;

			if (r->n && (!goes || at != r->first - 1 || r->n == RUN_MAX))
				return true;
			if (!goes) {
				lf_release(fs, at);
				continue;
			}
			r->first = at;
			r->n++;
		}
		fs->punch = f->next;
		if (fs->punch)
			qsort(fs->punch->block, fs->punch->n, sizeof(*f->block), by_number);
	}
	return r->n;
}

/* Few at a time, without the journal's lock: a hint, which nobody waits for. */
static void punch_job(void *arg)
{
	struct lf *fs = arg;
	struct run run[RUNS];

	while (fs->punch && !fs->failed) {
		struct lf_wait w = {.fs = fs};
		unsigned n = 0;

		lf_lock(fs, &fs->punch_lock);
		for (; n < RUNS && take_run(fs, &run[n]); n++)
			lf_start(&w, &run[n].x, FILE_DISCARD, lf_block_at(fs, run[n].first), NULL,
				(uint64_t)run[n].n * LF_BLOCK);
		(void)lf_wait_all(&w);
		for (unsigned i = 0; i < n; i++)
			for (uint32_t k = 0; k < run[i].n; k++)
				lf_release(fs, run[i].first + k);
		co_unlock(&fs->punch_lock);
	}
}

static void punch_after(void *arg)
{
	struct lf *fs = arg;

	fs->punching = false;
	fs->jobs--;
}

static void punch(struct lf *fs)
{
	if (!fs->punch || fs->punching || fs->failed)
		return;
	fs->punching = true;
	fs->jobs++;
	qsort(fs->punch->block, fs->punch->n, sizeof(*fs->punch->block), by_number);
	lf_start_job(fs, punch_job, punch_after, fs);
}

void lf_give_back(struct lf *fs, uint32_t block)
{
	struct lf_freed *f = fs->discard ? calloc(1, sizeof(*f)) : NULL;

	if (f)
		f->block = malloc(sizeof(*f->block));
	if (!f || !f->block) {
		free(f);
		lf_release(fs, block);
		return;
	}
	f->fs = fs;
	f->block[f->n++] = block;
	f->next = fs->punch;
	fs->punch = f;
	punch(fs);
}

static void reap(struct lf *fs)
{
	struct lf_freed **p = &fs->freed, *f, *ripe = NULL;

	while ((f = *p)) {
		if (f->seq > fs->marked) {
			p = &f->next;
			continue;
		}
		*p = f->next;
		f->next = ripe;
		ripe = f;
	}
	while ((f = ripe)) {
		ripe = f->next;
		f->next = fs->punch;
		fs->punch = f;
	}
	if (fs->discard)
		punch(fs);
	else
		(void)lf_unpunch(fs);
}

static void set_marked(struct lf *fs, uint64_t seq)
{
	if (seq > fs->marked)
		fs->marked = seq;
}

/* ---- records ---- */

static uint64_t room(const struct lf *fs)
{
	return fs->s.journal_bytes - fs->used;
}

static int want_buf(struct lf *fs, size_t n)
{
	void *p;

	if (n <= fs->buf_cap)
		return 0;
	n = align_up(n, 64 * KiB);
	if (posix_memalign(&p, LF_PAGE, n))
		return -ENOMEM;
	free(fs->buf);
	fs->buf = p;
	fs->buf_cap = n;
	return 0;
}

/* Writes what is in buf; its head has to be filled but for the common fields. `durable`: what it says is. */
static int put_record(struct lf *fs, uint32_t len, uint64_t durable)
{
	struct lf_rec_head *h = (void *)fs->buf;
	uint64_t left = fs->s.journal_bytes - fs->head, head = fs->head, used = fs->used;
	struct lf_wait w = {.fs = fs};
	struct lf_rec_head *pad = NULL;
	struct lf_xfer x[2];
	int rc;

	if (len > left) { /* records do not go around the corner */
		if (posix_memalign((void **)&pad, 512, 512))
			return -ENOMEM;
		memset(pad, 0, 512);
		*pad = (struct lf_rec_head){.magic = LF_RECORD_MAGIC,
			.salt = fs->s.salt,
			.run = fs->s.run,
			.seq = fs->seq,
			.len = 512,
			.kind = LF_R_PAD};
		pad->crc = crc32c(0, pad, 512);
		lf_start(&w, &x[1], FILE_WRITE, fs->s.journal_at + fs->head, pad, 512);
		fs->head = 0;
		fs->used += left;
		fs->stats.journal_bytes += 512;
	}
	h->magic = LF_RECORD_MAGIC;
	h->crc = 0;
	h->salt = fs->s.salt;
	h->run = fs->s.run;
	h->seq = fs->seq;
	h->fence = fs->fence;
	h->durable = durable;
	h->len = len;
	h->crc = crc32c(0, h, len);
	lf_start(&w, &x[0], FILE_WRITE, fs->s.journal_at + fs->head, h, len);
	fs->head = (fs->head + len) % fs->s.journal_bytes;
	fs->used += len;
	fs->seq++;
	fs->stats.journal_bytes += len;
	rc = lf_wait_all(&w);
	free(pad);
	if (rc) { /* whoever tries again does so in the same place */
		fs->seq--;
		fs->head = head;
		fs->used = used;
		return rc;
	}
	fs->written = fs->seq - 1;
	fs->tail_durable = durable;
	fs->tail_durable_seq = fs->written;
	return 0;
}

/* Makes durable what is written, and the data that was. */
static int flush_file(struct lf *fs)
{
	uint64_t upto = fs->written, adds = fs->adds;
	int rc = lf_io(fs, FILE_FLUSH, 0, NULL, 0);

	if (rc)
		return rc;
	fs->flushed = MAX(fs->flushed, upto);
	fs->adds_flushed = MAX(fs->adds_flushed, adds);
	return 0;
}

/* The same, while the lease is looked at. */
static int flush_ours(struct lf *fs)
{
	struct lf_look k;
	int rc, ours;

	lf_lease_look(fs, &k);
	rc = flush_file(fs);
	ours = lf_lease_seen(fs, &k);
	return ours ?: rc;
}

static int put_mark(struct lf *fs)
{
	uint64_t all = fs->written;
	int rc = want_buf(fs, 512);

	if (!rc)
		rc = flush_ours(fs);
	if (!rc) {
		memset(fs->buf, 0, 512);
		((struct lf_rec_head *)(void *)fs->buf)->kind = LF_R_MARK;
		/* Others must not see it yet: they would write in place what only the mark makes safe. */
		rc = put_record(fs, 512, all);
	}
	if (!rc)
		rc = lf_io(fs, FILE_FLUSH, 0, NULL, 0);
	if (rc)
		return fail(fs, rc);
	set_marked(fs, all);
	fs->overwritten = false;
	fresh_clear(fs);
	fs->stats.marks++;
	return 0;
}

/* ---- the record that is being made ---- */

static bool pending(const struct lf *fs)
{
	return fs->ntouch || fs->nchecks;
}

/* That it may have. */
static uint64_t bytes_max(const struct lf *fs)
{
	return sizeof(struct lf_rec_head) + 512 +
	       fs->ntouch * (sizeof(struct lf_rec_page) + (uint64_t)LF_PAGE) +
	       fs->nchecks * sizeof(struct lf_rec_check);
}

/* Pages to buf; where they end. */
static size_t put_pages(struct lf *fs, size_t at, uint32_t *n)
{
	for (unsigned i = 0; i < fs->ntouch; i++) {
		struct lf_page *p = fs->touch[i];
		struct lf_rec_page *c = (void *)(fs->buf + at);

		if (!p->refs)
			continue;
		/* After a checkpoint a page comes as a whole: one that is torn in its place needs nothing from there. */
		if (!p->dirty) {
			p->lo = 0;
			p->hi = LF_PAGE;
		}
		*c = (struct lf_rec_page){
			.at = p->at, .off = p->lo, .len = (uint16_t)(p->hi - p->lo)};
		memcpy(c + 1, p->data + p->lo, c->len);
		memset((uint8_t *)(c + 1) + c->len, 0, align_up(c->len, 8) - c->len);
		at += sizeof(*c) + align_up(c->len, 8);
		++*n;
	}
	return at;
}

static int put_change(struct lf *fs)
{
	struct lf_rec_head *h;
	size_t at, end, sums;
	int rc = want_buf(fs, bytes_max(fs));

	if (rc)
		return rc;
	h = (void *)fs->buf;
	*h = (struct lf_rec_head){.kind = LF_R_CHANGE, .checks = fs->ordered ? 0 : fs->nchecks};
	sums = h->checks * sizeof(*fs->checks);
	at = put_pages(fs, sizeof(*h), &h->pages);
	if (sums)
		memcpy(fs->buf + at, fs->checks, sums);
	at += sums;
	end = align_up(at, 512);
	memset(fs->buf + at, 0, end - at);
	if (end + 4096 > room(fs) ||
		(end > fs->s.journal_bytes - fs->head &&
			end + 4096 + fs->s.journal_bytes - fs->head > room(fs)))
		return -EFBIG; /* lf_begin() was told too little */
	return put_record(fs, (uint32_t)end, fs->flushed);
}

/* It is written. */
static void change_done(struct lf *fs)
{
	for (unsigned i = 0; i < fs->ntouch; i++) {
		struct lf_page *p = fs->touch[i];

		p->touched = false;
		if (p->dirty)
			continue;
		if (!p->refs) {
			lf_page_gone(p);
			continue;
		}
		p->dirty = true;
		p->next = fs->dirty;
		fs->dirty = p;
	}
	fs->ntouch = fs->nchecks = 0;
	fs->adds_written = fs->adds;
	fs->ordered = false;
	fs->stats.transactions++;
}

/* Writes what has collected. When that fails it stays, and the next attempt has it. With the lock held. */
static int write_out(struct lf *fs)
{
	int rc = fs->failed;

	if (rc || !pending(fs))
		return rc;
	if (fs->ordered && fs->adds_flushed != fs->adds)
		rc = flush_file(fs);
	if (!rc)
		rc = put_change(fs);
	if (rc)
		return fail(fs, rc);
	change_done(fs);
	return 0;
}

/* ---- checkpoint ---- */

#define AT_ONCE 64u

static int write_dirty(struct lf *fs)
{
	struct lf_xfer *x = calloc(AT_ONCE, sizeof(*x));
	struct lf_wait w = {.fs = fs};
	struct lf_page *p, *next;
	unsigned n = 0;
	int rc = x ? 0 : -ENOMEM;

	for (p = fs->dirty; p && !rc; p = p->next) {
		struct lf_page_head *h = (void *)p->data;

		if (!p->refs)
			continue;
		h->seq = fs->written;
		h->crc = 0;
		h->crc = crc32c(0, h, LF_PAGE);
		lf_start(&w, &x[n++], FILE_WRITE, p->at * LF_PAGE, h, LF_PAGE);
		fs->stats.page_writes++;
		if (n == AT_ONCE) {
			rc = lf_wait_all(&w);
			n = 0;
		}
	}
	rc = lf_wait_all(&w) ?: rc;
	free(x);
	if (rc)
		return rc;
	for (p = fs->dirty, fs->dirty = NULL; p; p = next) {
		next = p->next;
		p->dirty = false;
		p->next = NULL;
		if (p->refs)
			lf_page_may_go(fs, p);
		else
			lf_page_gone(p);
	}
	lf_make_way(fs);
	return 0;
}

static int checkpoint_locked(struct lf *fs)
{
	int rc = write_out(fs);

	if (rc)
		return rc;
	/* Pages must not say what the journal may take back. */
	if (fs->used)
		rc = put_mark(fs);
	if (!rc)
		rc = write_dirty(fs);
	if (!rc)
		rc = lf_io(fs, FILE_FLUSH, 0, NULL, 0);
	if (!rc) {
		fs->s.tail = fs->head;
		fs->s.seq = fs->seq;
		rc = lf_super_write(fs);
	}
	if (rc)
		return fail(fs, rc);
	fs->used = 0;
	fs->stats.checkpoints++;
	set_marked(fs, fs->written);
	reap(fs);
	return 0;
}

int lf_checkpoint(struct lf *fs)
{
	int rc;

	lf_lock(fs, &fs->lock);
	rc = checkpoint_locked(fs);
	co_unlock(&fs->lock);
	return rc;
}

/* ---- transactions ---- */

#define CHECKS_MAX 16384u /* of one record */

/* Nothing is pending. */
static int make_room(struct lf *fs, uint64_t need)
{
	int rc = 0;

	/* A mark, and the end of the journal that a record does not fit into. */
	if (2 * need + 4096 > fs->s.journal_bytes)
		rc = -EFBIG;
	else if (fs->used && room(fs) < 2 * need + 4096)
		rc = checkpoint_locked(fs);
	else if (fs->fresh_n > FRESH_MAX)
		rc = put_mark(fs);
	return fs->failed ?: rc;
}

/* May a transaction of `need` bytes go into the record that is pending? */
static bool joins(const struct lf *fs, uint64_t need)
{
	uint64_t all = bytes_max(fs) + need;

	return all <= fs->s.journal_bytes / 8 && fs->nchecks <= CHECKS_MAX &&
	       fs->fresh_n <= FRESH_MAX && room(fs) >= 2 * all + 4096;
}

static int begin(struct lf *fs, uint64_t need, bool join)
{
	int rc;

	lf_lock(fs, &fs->lock);
	fs->by = NULL;
	rc = fs->failed;
	if (!rc && !(join && joins(fs, need))) {
		rc = write_out(fs);
		if (!rc)
			rc = make_room(fs, need);
	}
	if (rc)
		co_unlock(&fs->lock);
	return rc;
}

int lf_begin(struct lf *fs, uint64_t need)
{
	return begin(fs, need, false);
}

int lf_join(struct lf *fs, uint64_t need)
{
	return begin(fs, need, true);
}

void lf_touch(struct lf *fs, struct lf_page *p, unsigned off, unsigned len)
{
	if (p->touched) {
		p->lo = (uint16_t)MIN(p->lo, off);
		p->hi = (uint16_t)MAX(p->hi, off + len);
		return;
	}
	if (fs->ntouch == fs->touch_cap) {
		unsigned cap = MAX(64u, 2 * fs->touch_cap);
		struct lf_page **t = realloc(fs->touch, cap * sizeof(struct lf_page *));

		if (!t) {
			fail(fs, -ENOMEM);
			return;
		}
		fs->touch = t;
		fs->touch_cap = cap;
	}
	lf_page_stays(fs, p);
	p->touched = true;
	p->lo = (uint16_t)off;
	p->hi = (uint16_t)(off + len);
	fs->touch[fs->ntouch++] = p;
}

static int take_checks(struct lf *fs, const struct lf_rec_check *checks, unsigned n)
{
	int rc = 0;

	fs->adds++; /* whose data is in the file */
	if (fs->nchecks + n > fs->checks_cap) {
		unsigned cap = MAX(fs->nchecks + n, 2 * fs->checks_cap);
		struct lf_rec_check *p = realloc(fs->checks, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		fs->checks = p;
		fs->checks_cap = cap;
	}
	if (n)
		memcpy(fs->checks + fs->nchecks, checks, n * sizeof(*checks));
	fs->nchecks += n;
	for (unsigned i = 0; !rc && i < n; i++)
		rc = fresh_add(fs, checks[i].at, checks[i].len, fs->seq);
	return rc;
}

int lf_leave(struct lf *fs, const struct lf_rec_check *checks, unsigned nchecks)
{
	bool others = fs->adds != fs->adds_written;
	int rc = take_checks(fs, checks, nchecks) ?: fs->failed;

	/* It failed inside of the change: what is in memory is no whole, and is never to be written. Those who shared the record are told. */
	fs->undone |= rc != 0;
	for (struct lf_disk *l = fs->disks; rc && others && l; l = l->next)
		l->lost = rc;
	send_freed(fs, fs->seq);
	fail(fs, rc);
	if (!rc && !lf_write_later(fs))
		rc = write_out(fs);
	co_unlock(&fs->lock);
	return rc;
}

int lf_end(struct lf *fs, const struct lf_rec_check *checks, unsigned nchecks)
{
	int rc = fs->failed ?: take_checks(fs, checks, nchecks);

	send_freed(fs, fs->seq);
	fail(fs, rc);
	if (!rc)
		rc = write_out(fs);
	fs->undone |= rc != 0; /* who asked is told that it failed */
	co_unlock(&fs->lock);
	return rc;
}

int lf_write_out(struct lf *fs)
{
	int rc;

	/* What takes long is done before others have to wait. */
	if (!fs->failed && fs->ordered)
		fail(fs, flush_file(fs));
	lf_lock(fs, &fs->lock);
	rc = write_out(fs);
	co_unlock(&fs->lock);
	return rc;
}

bool lf_unwritten(const struct lf *fs)
{
	return pending(fs) && !fs->undone;
}

int lf_mark(struct lf *fs)
{
	int rc;

	lf_lock(fs, &fs->lock);
	rc = write_out(fs);
	/* One has to be left for the checkpoint. */
	if (!rc)
		rc = room(fs) < 4096 ? checkpoint_locked(fs) : put_mark(fs);
	if (!rc)
		reap(fs);
	co_unlock(&fs->lock);
	return rc;
}

/*
 * What is not written is. One flush of the file, and a mark only when something that an earlier record vouches for was written over in the meantime. What such a flush made durable
 * is said by the next record.
 */
int lf_flush(struct lf *fs)
{
	uint64_t upto, said, by;
	int rc = fs->failed;

	if (!rc && (fs->lock.held || pending(fs))) { /* held: perhaps by who writes it out */
		lf_lock(fs, &fs->lock);
		rc = write_out(fs);
		co_unlock(&fs->lock);
	}
	upto = fs->written;
	said = fs->tail_durable;
	by = fs->tail_durable_seq;
	if (!rc)
		rc = flush_ours(fs);
	if (rc)
		return fail(fs, rc);
	if (fs->overwritten)
		return lf_mark(fs);
	if (by <= upto)
		set_marked(fs, said);
	reap(fs);
	/* Else it would wait for the next record, which who has no space may never write. */
	if (fs->freed && fs->discard && lf_room_short(fs))
		(void)lf_write_later(fs);
	return fs->failed;
}

void lf_journal_free(struct lf *fs)
{
	struct lf_page *p, *next;
	struct lf_freed *f;

	for (p = fs->dirty; p; p = next) {
		next = p->next;
		if (!p->refs)
			lf_page_free(p);
	}
	while ((f = fs->freed)) {
		fs->freed = f->next;
		freed_end(f);
	}
	while ((f = fs->punch)) {
		fs->punch = f->next;
		freed_end(f);
	}
	if (fs->freeing)
		free(fs->freeing->block);
	free(fs->freeing);
	for (unsigned i = 0; i < fs->ntouch; i++)
		if (!fs->touch[i]->refs && !fs->touch[i]->dirty)
			lf_page_free(fs->touch[i]);
	free(fs->checks);
	free(fs->fresh);
	free(fs->touch);
	free(fs->buf);
}
