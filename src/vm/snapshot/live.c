#include "vm/snapshot/live.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "memory/space.h"
#include "vm/snapshot/file.h"

#define QUEUE_DEFAULT (64 * MiB)
#define QUEUE_MIN 64u /* pages */
#define PACK_BATCH 32u
#define PACKED_MAX 16u /* records that wait for the writer */
#define BATCH 64u /* pages that the sweep takes at a time */
#define FLUSH_BYTES (16 * MiB) /* so much is handed to the host's writeback at a time */
#define WORKING_SET_MAX 65536u /* pages */
#define NICENESS 10 /* of the two threads beside the machine's own: they give way to vCPUs */
#define PACK_LEVEL 1

enum phase { PHASE_BUILT, PHASE_ARMED, PHASE_RUNNING, PHASE_OVER };

struct packed {
	int len;
	unsigned pages;
	void *rec;
};

struct snaplive {
	struct snaplive_opts o;
	struct snapfile_writer *w;
	struct tracker *t;
	struct snapfile_range range[SNAPFILE_RANGES_MAX];
	uint64_t first_page[SNAPFILE_RANGES_MAX];
	unsigned nranges;
	uint64_t pages;

	pthread_t writer, packer;
	bool have_writer, have_packer;
	pthread_mutex_t lock; /* all below, unless said */
	pthread_cond_t work, room; /* for the two threads; for writers that wait */
	enum phase phase;
	bool packing, sweep_done;
	int rc;
	struct err e;
	struct snaplive_stat st;

	/* The queue: a ring of slots; slot k holds page pool_page[k]. */
	uint8_t *pool;
	uint64_t *pool_page;
	uint32_t *ring, *free_slots;
	unsigned slots, nfree, head, queued;
	struct packed out[PACKED_MAX];
	unsigned nout, out_head;
	struct packed spare[PACKED_MAX];
	unsigned nspare;

	uint64_t *first_writes; /* pages in the order of their first write */
	unsigned nfirst;
	_Atomic bool giving_up; /* hooks do not copy any more */

	/* The writer's own. */
	uint64_t sweep_at, unflushed;
	unsigned sweep_range;
	uint8_t *batch;
	char *manifest;
	uint8_t *state;
	uint64_t *hot;
	size_t state_len, nhot;
};

static uint64_t page_number(const struct snaplive *l, uint64_t a)
{
	unsigned k = l->nranges - 1;

	while (k && l->range[k].gpa > a)
		k--;
	return l->first_page[k] + (a - l->range[k].gpa) / PAGE_SIZE;
}

static gpa_t page_gpa(const struct snaplive *l, uint64_t n)
{
	unsigned k = l->nranges - 1;

	while (k && l->first_page[k] > n)
		k--;
	return gpa(l->range[k].gpa + (n - l->first_page[k]) * PAGE_SIZE);
}

/* ---- the hook: in the thread of who writes ---- */

static void wait_for_room(struct snaplive *l)
{
	uint64_t began = clock_mono_ns(), ns;

	while (!l->nfree && !atomic_load(&l->giving_up))
		pthread_cond_wait(&l->room, &l->lock);
	ns = clock_mono_ns() - began;
	l->st.throttled++;
	l->st.throttled_ns += ns;
	l->st.throttled_max_ns = MAX(l->st.throttled_max_ns, ns);
}

static void before(void *ctx, gpa_t page, const void *host)
{
	struct snaplive *l = ctx;
	uint64_t n = page_number(l, page.v);
	uint32_t slot;

	if (atomic_load(&l->giving_up))
		return;
	pthread_mutex_lock(&l->lock);
	if (!l->nfree)
		wait_for_room(l);
	if (atomic_load(&l->giving_up)) {
		pthread_mutex_unlock(&l->lock);
		return;
	}
	slot = l->free_slots[--l->nfree];
	pthread_mutex_unlock(&l->lock);
	memcpy(l->pool + (size_t)slot * PAGE_SIZE, host, PAGE_SIZE);
	l->pool_page[slot] = n;
	pthread_mutex_lock(&l->lock);
	l->ring[(l->head + l->queued++) % l->slots] = slot;
	l->st.caught++;
	l->st.queue_max = MAX(l->st.queue_max, (uint64_t)(l->slots - l->nfree));
	if (l->nfirst < WORKING_SET_MAX)
		l->first_writes[l->nfirst++] = n;
	if (l->phase == PHASE_RUNNING)
		pthread_cond_broadcast(&l->work);
	pthread_mutex_unlock(&l->lock);
}

/* ---- locked helpers ---- */

static void fail(struct snaplive *l, int rc, const struct err *e)
{
	if (l->rc)
		return;
	l->rc = rc;
	l->e = *e;
	atomic_store(&l->giving_up, true);
	pthread_cond_broadcast(&l->room);
	pthread_cond_broadcast(&l->work);
}

static unsigned take_slots(struct snaplive *l, uint32_t *slot, unsigned max)
{
	unsigned n = MIN(l->queued, max);

	for (unsigned i = 0; i < n; i++)
		slot[i] = l->ring[(l->head + i) % l->slots];
	l->head = (l->head + n) % l->slots;
	l->queued -= n;
	return n;
}

static void give_slots(struct snaplive *l, const uint32_t *slot, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		l->free_slots[l->nfree++] = slot[i];
	pthread_cond_broadcast(&l->room);
}

/* Enough waits for the disk that compressing it is worth the time. */
static bool want_pack(const struct snaplive *l)
{
	return l->queued >= PACK_BATCH && l->nspare &&
	       (uint64_t)l->queued * 100 >= (uint64_t)l->slots * l->o.pack_percent;
}

/* ---- the packer ---- */

static void pack_one(struct snaplive *l, struct snapfile_pack *p)
{
	struct packed rec = l->spare[--l->nspare];
	const void *pages[PACK_BATCH];
	uint64_t index[PACK_BATCH];
	uint32_t slot[PACK_BATCH];
	unsigned n = take_slots(l, slot, PACK_BATCH);
	struct err e = {0};

	l->packing = true;
	pthread_mutex_unlock(&l->lock);
	for (unsigned i = 0; i < n; i++) {
		pages[i] = l->pool + (size_t)slot[i] * PAGE_SIZE;
		index[i] = l->pool_page[slot[i]];
	}
	rec.len = snapfile_pack(p, index, pages, n, rec.rec);
	rec.pages = n;
	pthread_mutex_lock(&l->lock);
	l->packing = false;
	give_slots(l, slot, n);
	if (rec.len < 0) {
		l->spare[l->nspare++] = rec;
		err_set(&e, rec.len, "snapshot: cannot compress");
		fail(l, rec.len, &e);
		return;
	}
	l->out[(l->out_head + l->nout++) % PACKED_MAX] = rec;
	pthread_cond_broadcast(&l->work);
}

static void lower_priority(const char *name)
{
	id_t me = (id_t)syscall(SYS_gettid);

	pthread_setname_np(pthread_self(), name);
	setpriority(PRIO_PROCESS, me, getpriority(PRIO_PROCESS, me) + NICENESS);
}

static void *packer_main(void *arg)
{
	struct snaplive *l = arg;
	struct snapfile_pack *p = NULL;
	struct err e = {0};
	int rc;

	lower_priority("snap-packer");
	rc = snapfile_pack_create(&p, PACK_LEVEL, &e);
	pthread_mutex_lock(&l->lock);
	if (rc)
		fail(l, rc, &e);
	while (l->phase != PHASE_OVER && !l->rc) {
		if (l->phase == PHASE_RUNNING && want_pack(l))
			pack_one(l, p);
		else
			pthread_cond_wait(&l->work, &l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	snapfile_pack_free(p);
	return NULL;
}

/* ---- the writer ---- */

/* Hands what was written to the host's writeback, so that it does not all come at the end, or stop us in the middle. */
static void written(struct snaplive *l, uint64_t bytes)
{
	l->unflushed += bytes;
	if (l->unflushed < FLUSH_BYTES)
		return;
	l->unflushed = 0;
	sync_file_range(l->o.fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

struct item {
	uint64_t page;
	uint32_t slot;
};

/* By page. Few and nearly in order; and the C library's qsort() makes system calls that the sandbox does not know. */
static void sort(struct item *v, unsigned n)
{
	for (unsigned i = 1; i < n; i++) {
		struct item x = v[i];
		unsigned k = i;

		for (; k && v[k - 1].page > x.page; k--)
			v[k] = v[k - 1];
		v[k] = x;
	}
}

/* Called with the lock, which is let go meanwhile. */
static void write_queued(struct snaplive *l)
{
	struct item item[BATCH];
	uint32_t slot[BATCH];
	unsigned n = take_slots(l, slot, BATCH);
	struct err e = {0};
	int rc = 0;

	pthread_mutex_unlock(&l->lock);
	for (unsigned i = 0; i < n; i++) {
		item[i].slot = slot[i];
		item[i].page = l->pool_page[slot[i]];
	}
	sort(item, n);
	for (unsigned i = 0, run; !rc && i < n; i += run) {
		for (run = 0; i + run < n && item[i + run].page == item[i].page + run; run++)
			memcpy(l->batch + (size_t)run * PAGE_SIZE,
				l->pool + (size_t)item[i + run].slot * PAGE_SIZE, PAGE_SIZE);
		rc = snapfile_put(l->w, item[i].page, run, l->batch, &e);
	}
	written(l, n * PAGE_SIZE);
	pthread_mutex_lock(&l->lock);
	give_slots(l, slot, n);
	l->st.done += n;
	if (rc)
		fail(l, rc, &e);
}

static void write_packed(struct snaplive *l)
{
	struct packed rec = l->out[l->out_head];
	struct err e = {0};
	int rc;

	l->out_head = (l->out_head + 1) % PACKED_MAX;
	l->nout--;
	pthread_mutex_unlock(&l->lock);
	rc = snapfile_put_packed(l->w, rec.rec, (size_t)rec.len, &e);
	written(l, (uint64_t)rec.len);
	pthread_mutex_lock(&l->lock);
	l->spare[l->nspare++] = rec;
	pthread_cond_broadcast(&l->work);
	l->st.packed += rec.pages;
	l->st.done += rec.pages;
	if (rc)
		fail(l, rc, &e);
}

struct sweep {
	struct snaplive *l;
	uint64_t first; /* page number of batch[0] */
	unsigned n;
	uint64_t claimed, untouched;
	int rc;
	struct err *e;
};

static void flush_batch(struct sweep *s)
{
	if (s->n && !s->rc)
		s->rc = snapfile_put(s->l->w, s->first, s->n, s->l->batch, s->e);
	written(s->l, s->n * PAGE_SIZE);
	s->n = 0;
}

static void copy_page(void *ctx, gpa_t page, const void *host)
{
	struct sweep *s = ctx;

	if (host)
		memcpy(s->l->batch + (size_t)s->n * PAGE_SIZE, host, PAGE_SIZE);
	else
		memset(s->l->batch + (size_t)s->n * PAGE_SIZE, 0, PAGE_SIZE);
	s->n++;
}

static void skip_page(void *ctx, gpa_t page, const void *host)
{
	struct sweep *s = ctx;

	s->untouched++;
}

/* Some pages of the sweep, in the writer's thread without the lock. True at the end. */
static bool sweep_some(struct snaplive *l, struct sweep *s)
{
	uint64_t budget = 16 * BATCH;

	while (l->sweep_range < l->nranges && budget && s->n < BATCH && !s->rc) {
		const struct snapfile_range *r = &l->range[l->sweep_range];
		uint64_t a = r->gpa + l->sweep_at * PAGE_SIZE;
		uint64_t page = l->first_page[l->sweep_range] + l->sweep_at;
		uint64_t left = r->len / PAGE_SIZE - l->sweep_at;
		/* Between this look and the claim a writer would have been heard. */
		uint64_t empty = s->n ? 0 : space_untouched(l->o.space, gpa(a), MIN(left, budget));
		uint64_t n = empty ?: 1;

		if (!s->n)
			s->first = page;
		for (uint64_t i = 0; i < n; i++) {
			int rc = tracker_claim(
				l->t, gpa(a + i * PAGE_SIZE), empty ? skip_page : copy_page, s);

			if (rc == -EAGAIN) {
				/* Its writer may be waiting for room in the queue, which is ours to make. */
				n = i;
				budget = n;
				break;
			}
			s->claimed += rc > 0;
			/* A hole in the batch: what was collected goes first. */
			if (rc <= 0 && !empty)
				flush_batch(s);
		}
		budget -= n;
		l->sweep_at += n;
		if (l->sweep_at * PAGE_SIZE == r->len) {
			flush_batch(s);
			l->sweep_range++;
			l->sweep_at = 0;
		}
	}
	flush_batch(s);
	return l->sweep_range == l->nranges;
}

static void sweep(struct snaplive *l)
{
	struct err e = {0};
	struct sweep s = {.l = l, .e = &e};
	bool end;

	pthread_mutex_unlock(&l->lock);
	end = sweep_some(l, &s);
	pthread_mutex_lock(&l->lock);
	l->st.swept += s.claimed;
	l->st.untouched += s.untouched;
	l->st.done += s.claimed;
	l->sweep_done = end;
	if (s.rc)
		fail(l, s.rc, &e);
}

/* Copies of what is written come before the sweep: somebody may be waiting for room. */
static void copy_all(struct snaplive *l)
{
	while (!l->rc) {
		if (l->nout)
			write_packed(l);
		else if (l->queued)
			write_queued(l);
		else if (!l->sweep_done)
			sweep(l);
		else if (l->packing)
			pthread_cond_wait(&l->work, &l->lock);
		else
			return;
	}
}

/*
 * Runs of page numbers that follow each other, in the order of their first write. Not what the guest's first write was to give back: free
 * page reporting gives back a guest's memory by the hundred MiB.
 */
static int put_working_set(struct snaplive *l, struct err *e)
{
	cleanup(free_ptr) uint8_t *buf = malloc((size_t)l->nfirst * 16 + 1);
	size_t n = 0;

	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	for (unsigned i = 0, k; i < l->nfirst; i = k) {
		uint64_t gone;

		for (k = i + 1;
			k < l->nfirst && l->first_writes[k] == l->first_writes[i] + (k - i);)
			k++;
		gone = space_untouched(l->o.space, page_gpa(l, l->first_writes[i]), k - i);
		if (gone) {
			k = i + (unsigned)gone;
			continue;
		}
		put_le64(buf + n * 16, l->first_writes[i]);
		put_le32(buf + n * 16 + 8, k - i);
		put_le32(buf + n * 16 + 12, 1);
		n++;
	}
	return snapfile_put_section(l->w, SNAPFILE_S_WORKING_SET, buf, n * 16, e);
}

static int put_hot_code(struct snaplive *l, struct err *e)
{
	if (!l->hot)
		return 0;
	for (size_t i = 0; i < l->nhot; i++)
		put_le64(&l->hot[i], l->hot[i]);
	return snapfile_put_section(l->w, SNAPFILE_S_HOT_CODE, l->hot, l->nhot * 8, e);
}

static int finish(struct snaplive *l, struct err *e)
{
	struct stat st;
	int rc = snapfile_put_section(
		l->w, SNAPFILE_S_MANIFEST, l->manifest, strlen(l->manifest), e);

	if (!rc)
		rc = snapfile_put_section(l->w, SNAPFILE_S_STATE, l->state, l->state_len, e);
	if (!rc)
		rc = put_working_set(l, e) ?: put_hot_code(l, e);
	if (!rc)
		rc = snapfile_finish(l->w, e);
	if (!rc && !fstat(l->o.fd, &st))
		l->st.file_bytes = (uint64_t)st.st_blocks * 512;
	return rc;
}

static void *writer_main(void *arg)
{
	struct snaplive *l = arg;
	struct err e = {0};
	int rc;

	lower_priority("snap-writer");
	pthread_mutex_lock(&l->lock);
	while (l->phase < PHASE_RUNNING && !l->rc)
		pthread_cond_wait(&l->work, &l->lock);
	copy_all(l);
	rc = l->rc;
	pthread_mutex_unlock(&l->lock);
	/* Whatever came of it: from here on the guest's writes are its own again. */
	atomic_store(&l->giving_up, true);
	tracker_stop(l->t);
	l->t = NULL;
	if (!rc)
		rc = finish(l, &e);
	pthread_mutex_lock(&l->lock);
	if (rc)
		fail(l, rc, &e);
	l->st.failed = l->rc != 0;
	l->st.finished = true;
	l->phase = PHASE_OVER;
	pthread_cond_broadcast(&l->work);
	pthread_mutex_unlock(&l->lock);
	l->o.done(l->o.ctx);
	return NULL;
}

/* ---- from outside ---- */

static int make_queue(struct snaplive *l)
{
	l->slots = (unsigned)MAX(l->o.queue_bytes / PAGE_SIZE, (uint64_t)QUEUE_MIN);
	l->pool = mmap(NULL, (size_t)l->slots * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (l->pool == MAP_FAILED)
		l->pool = NULL;
	l->pool_page = calloc(l->slots, sizeof(*l->pool_page));
	l->ring = calloc(l->slots, sizeof(*l->ring));
	l->free_slots = calloc(l->slots, sizeof(*l->free_slots));
	l->first_writes = calloc(WORKING_SET_MAX, sizeof(*l->first_writes));
	l->batch = malloc((size_t)BATCH * PAGE_SIZE);
	for (unsigned i = 0; i < PACKED_MAX; i++) {
		l->spare[i].rec = malloc(snapfile_pack_bound());
		if (!l->spare[i].rec)
			return -ENOMEM;
		l->nspare++;
	}
	if (!l->pool || !l->pool_page || !l->ring || !l->free_slots || !l->first_writes ||
		!l->batch)
		return -ENOMEM;
	/* The lowest first, so that a short snapshot touches little of it. */
	for (l->nfree = 0; l->nfree < l->slots; l->nfree++)
		l->free_slots[l->nfree] = l->slots - 1 - l->nfree;
	return 0;
}

static int start_threads(struct snaplive *l, struct err *e)
{
	int rc = pthread_create(&l->writer, NULL, writer_main, l);

	if (rc)
		return err_sys(e, -rc, "snapshot: cannot start its writer");
	l->have_writer = true;
	if (l->o.pack_percent <= 100) {
		rc = pthread_create(&l->packer, NULL, packer_main, l);
		if (rc)
			return err_sys(e, -rc, "snapshot: cannot start its packer");
		l->have_packer = true;
	}
	return 0;
}

int snaplive_create(struct snaplive **out, const struct snaplive_opts *o, struct err *e)
{
	struct snaplive *l = calloc(1, sizeof(*l));
	struct snapfile_writer_opts wo = {.fd = o->fd};
	const struct space_ram *ram;
	int rc;

	if (!l) {
		close(o->fd);
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	}
	l->o = *o;
	l->o.queue_bytes = o->queue_bytes ?: QUEUE_DEFAULT;
	l->o.pack_percent = o->pack_percent ?: 50;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->work, NULL);
	pthread_cond_init(&l->room, NULL);
	for (unsigned i = 0; (ram = space_ram(o->space, i)) && i < SNAPFILE_RANGES_MAX; i++) {
		l->range[i] = (struct snapfile_range){ram->base.v, ram->len};
		l->first_page[i] = l->pages;
		l->pages += ram->len / PAGE_SIZE;
		l->nranges++;
	}
	l->st.pages = l->pages;
	wo.ranges = l->range;
	wo.nranges = l->nranges;
	rc = make_queue(l) ? err_set(e, -ENOMEM, "snapshot: out of memory for its queue") : 0;
	if (!rc)
		rc = snapfile_writer_create(&l->w, &wo, e);
	if (!rc)
		rc = start_threads(l, e);
	if (rc) {
		snaplive_free(l);
		return rc;
	}
	*out = l;
	return 0;
}

int snaplive_arm(struct snaplive *l, struct err *e)
{
	struct tracker_ops ops = {.before = before, .ctx = l};
	int rc = tracker_start(&l->t, l->o.space, &ops, e);

	if (!rc)
		l->phase = PHASE_ARMED;
	return rc;
}

void snaplive_run(struct snaplive *l, char *manifest, uint8_t *state, size_t state_len,
	uint64_t *hot, size_t nhot)
{
	pthread_mutex_lock(&l->lock);
	l->manifest = manifest;
	l->state = state;
	l->state_len = state_len;
	l->hot = hot;
	l->nhot = nhot;
	l->phase = PHASE_RUNNING;
	pthread_cond_broadcast(&l->work);
	pthread_mutex_unlock(&l->lock);
}

void snaplive_cancel(struct snaplive *l)
{
	struct err e = {0};

	err_set(&e, -ECANCELED, "snapshot: was cancelled");
	pthread_mutex_lock(&l->lock);
	if (l->phase != PHASE_OVER)
		fail(l, -ECANCELED, &e);
	pthread_mutex_unlock(&l->lock);
}

void snaplive_stat(struct snaplive *l, struct snaplive_stat *st)
{
	pthread_mutex_lock(&l->lock);
	*st = l->st;
	pthread_mutex_unlock(&l->lock);
}

int snaplive_result(struct snaplive *l, struct err *e)
{
	if (l->rc && e)
		*e = l->e;
	return l->rc;
}

void snaplive_free(struct snaplive *l)
{
	if (!l)
		return;
	snaplive_cancel(l);
	if (l->have_writer)
		pthread_join(l->writer, NULL);
	if (l->have_packer)
		pthread_join(l->packer, NULL);
	snapfile_writer_free(l->w);
	if (l->pool)
		munmap(l->pool, (size_t)l->slots * PAGE_SIZE);
	for (unsigned i = 0; i < l->nspare; i++)
		free(l->spare[i].rec);
	for (unsigned i = 0; i < l->nout; i++)
		free(l->out[(l->out_head + i) % PACKED_MAX].rec);
	free(l->pool_page);
	free(l->ring);
	free(l->free_slots);
	free(l->first_writes);
	free(l->batch);
	free(l->manifest);
	free(l->state);
	free(l->hot);
	close(l->o.fd);
	pthread_cond_destroy(&l->work);
	pthread_cond_destroy(&l->room);
	pthread_mutex_destroy(&l->lock);
	free(l);
}
