#include "vm/snapshot/live.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "memory/space.h"
#include "vm/snapshot/file.h"

#define QUEUE_DEFAULT (64 * MiB)
#define QUEUE_MIN 64u /* pages */
#define BATCH SNAPFILE_PUT_MAX /* pages that are written, or swept, at a time */
#define PACK_BATCH 32u
#define PACK_LEVEL 1
#define FLUSH_PAGES (16 * MiB / PAGE_SIZE) /* so much is handed to the host's writeback at a time */
#define WORKING_SET_MAX 65536u /* pages */
#define NICENESS 10 /* of the two threads beside the machine's own: they give way to vCPUs */
#define RESERVE 8u /* one slot of so many is kept for who writes less than one page of so many */
#define WHO_WRITES 64u
#define BUSY_NS 50000 /* all slots are in other hands: how long until the next look */
#define NO_SLOT UINT32_MAX

enum phase { PHASE_BUILT, PHASE_ARMED, PHASE_RUNNING, PHASE_OVER };

/*
 * Slots that many threads put on and take off without a lock: a thread that is niced and has been put aside in the middle must not hold up a
 * vCPU. The lower half is the topmost slot + 1, the upper half counts changes: the same slot on top may be another stack.
 */
struct stack {
	_Atomic uint64_t top;
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
	sem_t work, pack; /* something for the writer, for the packer */
	_Atomic enum phase phase;
	_Atomic bool pack_asked;
	_Atomic bool giving_up; /* hooks do not copy any more */
	_Atomic int rc;
	pthread_mutex_t lock; /* of `e`; taken by who fails */
	struct err e;

	/* The queue: slot k holds page pool_page[k]; next[] links the slots of a stack. */
	uint8_t *pool;
	uint64_t *pool_page;
	_Atomic uint32_t *next;
	unsigned slots;
	struct stack empty, full;
	_Atomic uint64_t used; /* slots that are not empty */
	_Atomic uint64_t caught_of[WHO_WRITES]; /* by a thread's number */

	_Atomic uint64_t *first_writes; /* pages in the order of their first write */
	_Atomic uint64_t caught, swept, untouched, packed, done;
	_Atomic uint64_t queue_max, throttled, throttled_ns, throttled_max_ns, file_bytes;

	/* The writer's own. */
	uint64_t sweep_at, flushed;
	unsigned sweep_range;
	bool sweep_done;
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

static void raise_to(_Atomic uint64_t *max, uint64_t v)
{
	uint64_t was = atomic_load_explicit(max, memory_order_relaxed);

	while (was < v && !atomic_compare_exchange_weak(max, &was, v))
		;
}

static void fail(struct snaplive *l, int rc, const struct err *e)
{
	pthread_mutex_lock(&l->lock);
	if (!l->rc) {
		l->e = *e;
		atomic_store(&l->rc, rc);
	}
	pthread_mutex_unlock(&l->lock);
	atomic_store(&l->giving_up, true);
	sem_post(&l->work);
	sem_post(&l->pack);
}

/* ---- the queue ---- */

static void put(struct snaplive *l, struct stack *s, uint32_t slot)
{
	uint64_t was = atomic_load(&s->top);

	do
		atomic_store_explicit(&l->next[slot], (uint32_t)was, memory_order_relaxed);
	while (!atomic_compare_exchange_weak(&s->top, &was, ((was >> 32) + 1) << 32 | (slot + 1)));
}

static uint32_t get(struct snaplive *l, struct stack *s)
{
	uint64_t was = atomic_load(&s->top);
	uint32_t next;

	do {
		if (!(uint32_t)was)
			return NO_SLOT;
		next = atomic_load_explicit(&l->next[(uint32_t)was - 1], memory_order_relaxed);
	} while (!atomic_compare_exchange_weak(&s->top, &was, ((was >> 32) + 1) << 32 | next));
	return (uint32_t)was - 1;
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

/* Takes at most `max` of what waits, the latest first: of who writes in a row that is a row, too. */
static unsigned take(struct snaplive *l, struct item *item, unsigned max)
{
	unsigned n = 0;
	uint32_t slot;

	while (n < max && (slot = get(l, &l->full)) != NO_SLOT) {
		item[max - 1 - n].slot = slot;
		item[max - 1 - n++].page = l->pool_page[slot];
	}
	memmove(item, item + max - n, n * sizeof(*item));
	sort(item, n);
	return n;
}

/* It is in the file, or fail() was called. */
static void settle(struct snaplive *l, const struct item *item, unsigned n)
{
	atomic_fetch_sub(&l->used, n);
	for (unsigned i = 0; i < n; i++)
		put(l, &l->empty, item[i].slot);
	atomic_fetch_add(&l->done, n);
	sem_post(&l->work);
}

static const void *slot_at(const struct snaplive *l, uint32_t slot)
{
	return l->pool + (size_t)slot * PAGE_SIZE;
}

/* Some of what waits goes into the file as it is. Any thread; false: nothing waits. */
static bool write_queued(struct snaplive *l)
{
	struct item item[BATCH];
	const void *pages[BATCH];
	unsigned n = take(l, item, BATCH);
	struct err e = {0};
	int rc = 0;

	for (unsigned i = 0, run; !rc && i < n; i += run) {
		for (run = 0; i + run < n && item[i + run].page == item[i].page + run; run++)
			pages[run] = slot_at(l, item[i + run].slot);
		rc = snapfile_put(l->w, item[i].page, run, pages, true, &e);
	}
	if (rc)
		fail(l, rc, &e);
	if (n)
		settle(l, item, n);
	return n;
}

/* ---- the hook: in the thread of who writes ---- */

static _Atomic uint64_t *caught_of_this_thread(struct snaplive *l)
{
	return &l->caught_of[(unsigned)syscall(SYS_gettid) % WHO_WRITES];
}

/* The last slots are not for who fills the queue: another vCPU, in which somebody types, must not write a file for each page. */
static uint32_t slot_for(struct snaplive *l, _Atomic uint64_t *mine)
{
	if (atomic_load(&l->used) < l->slots - l->slots / RESERVE ||
		*mine * RESERVE <= atomic_load(&l->caught))
		return get(l, &l->empty);
	return NO_SLOT;
}

/*
 * Who fills the queue empties it: the guest then writes at the pace of the file, and not at that of a thread which is niced and
 * waits for a processor.
 */
static uint32_t make_room(struct snaplive *l, _Atomic uint64_t *mine)
{
	static const struct timespec busy = {.tv_nsec = BUSY_NS};
	uint64_t began = clock_mono_ns(), ns;
	uint32_t slot;

	while ((slot = slot_for(l, mine)) == NO_SLOT && !atomic_load(&l->giving_up))
		if (!write_queued(l))
			nanosleep(&busy, NULL);
	ns = clock_mono_ns() - began;
	atomic_fetch_add(&l->throttled, 1);
	atomic_fetch_add(&l->throttled_ns, ns);
	raise_to(&l->throttled_max_ns, ns);
	return slot;
}

/* Enough waits for the file that compressing it is worth the time. */
static bool want_pack(struct snaplive *l)
{
	return atomic_load(&l->used) * 100 >= (uint64_t)l->slots * l->o.pack_percent;
}

static void before(void *ctx, gpa_t page, const void *host)
{
	struct snaplive *l = ctx;
	_Atomic uint64_t *mine = caught_of_this_thread(l);
	uint64_t n = page_number(l, page.v), k;
	uint32_t slot;

	if (atomic_load(&l->giving_up))
		return;
	slot = slot_for(l, mine);
	if (slot == NO_SLOT)
		slot = make_room(l, mine);
	if (slot == NO_SLOT)
		return;
	atomic_fetch_add(mine, 1);
	raise_to(&l->queue_max, atomic_fetch_add(&l->used, 1) + 1);
	memcpy(l->pool + (size_t)slot * PAGE_SIZE, host, PAGE_SIZE);
	l->pool_page[slot] = n;
	put(l, &l->full, slot);
	k = atomic_fetch_add(&l->caught, 1);
	if (k < WORKING_SET_MAX)
		l->first_writes[k] = n;
	if (l->have_packer && want_pack(l) && !l->pack_asked &&
		!atomic_exchange(&l->pack_asked, true))
		sem_post(&l->pack);
}

/* ---- the packer ---- */

/* False: nothing waits. */
static bool pack_queued(struct snaplive *l, struct snapfile_pack *p, void *rec)
{
	struct item item[PACK_BATCH];
	const void *pages[PACK_BATCH];
	uint64_t index[PACK_BATCH];
	unsigned n = take(l, item, PACK_BATCH);
	struct err e = {0};
	int rc;

	if (!n)
		return false;
	for (unsigned i = 0; i < n; i++) {
		pages[i] = slot_at(l, item[i].slot);
		index[i] = item[i].page;
	}
	rc = snapfile_pack(p, index, pages, n, rec);
	rc = rc < 0 ? err_set(&e, rc, "snapshot: cannot compress")
		    : snapfile_put_packed(l->w, rec, (size_t)rc, &e);
	atomic_fetch_add(&l->packed, n);
	if (rc)
		fail(l, rc, &e);
	settle(l, item, n);
	return true;
}

static void lower_priority(const char *name)
{
	id_t me = (id_t)syscall(SYS_gettid);

	pthread_setname_np(pthread_self(), name);
	setpriority(PRIO_PROCESS, me, getpriority(PRIO_PROCESS, me) + NICENESS);
}

static void *packer_main(void *arg)
{
	cleanup(free_ptr) void *rec = malloc(snapfile_pack_bound());
	struct snaplive *l = arg;
	struct snapfile_pack *p = NULL;
	struct err e = {0};
	int rc;

	lower_priority("snap-packer");
	rc = rec ? snapfile_pack_create(&p, PACK_LEVEL, &e)
		 : err_set(&e, -ENOMEM, "snapshot: out of memory");
	if (rc)
		fail(l, rc, &e);
	while (atomic_load(&l->phase) != PHASE_OVER && !atomic_load(&l->giving_up)) {
		sem_wait(&l->pack);
		atomic_store(&l->pack_asked, false);
		while (want_pack(l) && !atomic_load(&l->giving_up) && pack_queued(l, p, rec))
			;
	}
	snapfile_pack_free(p);
	return NULL;
}

/* ---- the writer ---- */

/* Hands what was written to the host's writeback, so that it does not all come at the end, or stop us in the middle. */
static void flush_written(struct snaplive *l)
{
	uint64_t done = atomic_load(&l->done);

	if (done - l->flushed < FLUSH_PAGES)
		return;
	l->flushed = done;
	sync_file_range(l->o.fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

struct sweep {
	struct snaplive *l;
	uint64_t first; /* page number of batch[0] */
	unsigned n;
	int rc;
	struct err *e;
};

static void flush_batch(struct sweep *s)
{
	const void *pages[BATCH];

	for (unsigned i = 0; i < s->n; i++)
		pages[i] = s->l->batch + (size_t)i * PAGE_SIZE;
	if (s->n && !s->rc)
		s->rc = snapfile_put(s->l->w, s->first, s->n, pages, false, s->e);
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

	atomic_fetch_add(&s->l->untouched, 1);
}

/* True at the end. */
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
			if (rc > 0) {
				atomic_fetch_add(&l->swept, 1);
				atomic_fetch_add(&l->done, 1);
			}
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

	l->sweep_done = sweep_some(l, &s);
	if (s.rc)
		fail(l, s.rc, &e);
}

/* Copies of what is written come before the sweep: somebody may be waiting for room. */
static void copy_all(struct snaplive *l)
{
	while (!atomic_load(&l->rc)) {
		flush_written(l);
		if (write_queued(l))
			continue;
		if (!l->sweep_done)
			sweep(l);
		else if (atomic_load(&l->done) < l->pages)
			sem_wait(&l->work); /* the rest is in other hands */
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
	uint64_t count = MIN(atomic_load(&l->caught), (uint64_t)WORKING_SET_MAX);
	cleanup(free_ptr) uint8_t *buf = malloc((size_t)count * 16 + 1);
	size_t n = 0;

	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	for (uint64_t i = 0, k; i < count; i = k) {
		uint64_t gone, first = l->first_writes[i];

		for (k = i + 1; k < count && l->first_writes[k] == first + (k - i);)
			k++;
		gone = space_untouched(l->o.space, page_gpa(l, first), k - i);
		if (gone) {
			k = i + gone;
			continue;
		}
		put_le64(buf + n * 16, first);
		put_le32(buf + n * 16 + 8, (uint32_t)(k - i));
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
		l->file_bytes = (uint64_t)st.st_blocks * 512;
	return rc;
}

static void *writer_main(void *arg)
{
	struct snaplive *l = arg;
	struct err e = {0};
	int rc;

	lower_priority("snap-writer");
	while (atomic_load(&l->phase) < PHASE_RUNNING && !atomic_load(&l->rc))
		sem_wait(&l->work);
	copy_all(l);
	/* Whatever came of it: from here on the guest's writes are its own again. */
	atomic_store(&l->giving_up, true);
	tracker_stop(l->t);
	l->t = NULL;
	rc = atomic_load(&l->rc) ? 0 : finish(l, &e);
	if (rc)
		fail(l, rc, &e);
	atomic_store(&l->phase, PHASE_OVER);
	sem_post(&l->pack);
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
	l->next = calloc(l->slots, sizeof(*l->next));
	l->first_writes = calloc(WORKING_SET_MAX, sizeof(*l->first_writes));
	l->batch = malloc((size_t)BATCH * PAGE_SIZE);
	if (!l->pool || !l->pool_page || !l->next || !l->first_writes || !l->batch)
		return -ENOMEM;
	/* The lowest on top, so that a short snapshot touches little of it. */
	for (unsigned i = l->slots; i-- > 0;)
		put(l, &l->empty, i);
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
	sem_init(&l->work, 0, 0);
	sem_init(&l->pack, 0, 0);
	for (unsigned i = 0; (ram = space_ram(o->space, i)) && i < SNAPFILE_RANGES_MAX; i++) {
		l->range[i] = (struct snapfile_range){ram->base.v, ram->len};
		l->first_page[i] = l->pages;
		l->pages += ram->len / PAGE_SIZE;
		l->nranges++;
	}
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
	l->manifest = manifest;
	l->state = state;
	l->state_len = state_len;
	l->hot = hot;
	l->nhot = nhot;
	atomic_store(&l->phase, PHASE_RUNNING);
	sem_post(&l->work);
}

void snaplive_cancel(struct snaplive *l)
{
	struct err e = {0};

	err_set(&e, -ECANCELED, "snapshot: was cancelled");
	if (atomic_load(&l->phase) != PHASE_OVER)
		fail(l, -ECANCELED, &e);
}

void snaplive_stat(struct snaplive *l, struct snaplive_stat *st)
{
	*st = (struct snaplive_stat){.pages = l->pages,
		.swept = l->swept,
		.caught = l->caught,
		.packed = l->packed,
		.untouched = l->untouched,
		.done = l->done,
		.queue_max = l->queue_max,
		.throttled = l->throttled,
		.throttled_ns = l->throttled_ns,
		.throttled_max_ns = l->throttled_max_ns,
		.file_bytes = l->file_bytes,
		.finished = l->phase == PHASE_OVER,
		.failed = l->rc != 0};
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
	free(l->pool_page);
	free((void *)l->next);
	free((void *)l->first_writes);
	free(l->batch);
	free(l->manifest);
	free(l->state);
	free(l->hot);
	close(l->o.fd);
	sem_destroy(&l->work);
	sem_destroy(&l->pack);
	pthread_mutex_destroy(&l->lock);
	free(l);
}
