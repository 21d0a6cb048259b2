/*
 * cache.c: memory for code, how it is found, and how it goes away.
 *
 *   one piece of shared memory, mapped twice (decision D10): rw for the translator, rx for the harts
 *   | stubs, segment 0 | segment 1 | ... | the last quarter: the second tier's |
 *
 * Segments are filled in turn. When one is nearly full the next is emptied, a few regions with each that is made: they can
 * no longer be found, jumps to them are undone. It is filled again when every hart has left translated code since (jit_hart.seen).
 * While some hart has not, nothing is translated; the interpreter goes on. So no step takes longer than JIT_SWEEP regions do.
 *
 * Entries are found without the lock: chains of a hash table whose links are atomic; entries, like code, stay readable until the
 * segment is used again.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "base/err.h"
#include "cpu/rv64/jit/inside.h"

#define REGION_ROOM \
	(96u << 10) /* the largest region fits surely: JIT_REGION_INSNS with their cold ends */

#define SWEEP_AHEAD \
	(64u << 10) /* of a segment, in which as many regions are made as sweep another */

struct meta {
	struct meta *next;
	size_t used, size;
	_Alignas(16) uint8_t bytes[];
};

int jit_cache_create(struct jit *j, struct err *e)
{
	struct x86 a;
	uint64_t each;

	/*
	 * Shared memory without a name, and the same pages once more: perf takes such memory, which the kernel calls /dev/zero, for
	 * code that was made and looks into the perf map for names; that of a memfd it does not.
	 */
	j->rw = mmap(NULL, j->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (j->rw == MAP_FAILED)
		return err_set(e, -errno, "code cache of %llu MiB: %s",
			(unsigned long long)(j->size >> 20), strerror(errno));
	j->rx = mremap(j->rw, 0, j->size, MREMAP_MAYMOVE);
	if (j->rx == MAP_FAILED || mprotect(j->rx, j->size, PROT_READ | PROT_EXEC))
		return err_set(e, -errno,
			"code cache: this host does not let memory be executed (%s); --engine "
			"interp does "
			"without",
			strerror(errno));
	a = (struct x86){.p = j->rw, .end = j->rw + PAGE_SIZE};
	jit_make_stubs(j, &a);
	j->nsegs = (unsigned)MAX((uint64_t)JIT_SEGMENTS, j->size / JIT_SEGMENT_MAX);
	j->nfirst = j->nown = j->nsegs - j->nsegs / 4;
	j->seg = calloc(j->nsegs, sizeof(*j->seg));
	j->gone = calloc(j->size / (16 * 64) + 1, sizeof(*j->gone));
	if (!j->seg || !j->gone) {
		j->nsegs = 0;
		return err_set(e, -ENOMEM, "code cache: out of memory");
	}
	each = (j->size - PAGE_SIZE) / j->nsegs & ~63ull;
	for (unsigned i = 0; i < j->nsegs; i++)
		j->seg[i].base = j->seg[i].used = j->seg[i].touched = j->rw + PAGE_SIZE + i * each;
	j->seg_bytes = each;
	j->cur[LANE_SECOND] = j->nfirst;
	return 0;
}

static void free_meta(struct jit_segment *s)
{
	for (struct meta *m = s->meta, *next; m; m = next) {
		next = m->next;
		free(m);
	}
	s->meta = NULL;
}

static void free_ops(struct jit_segment *s)
{
	for (struct jit_region *r = s->regions; r; r = r->next_in_segment)
		for (unsigned i = 0; i < r->nops; i++)
			free(r->ops[i]);
}

void jit_cache_destroy(struct jit *j)
{
	for (unsigned i = 0; i < j->nsegs; i++) {
		free_ops(&j->seg[i]);
		free_meta(&j->seg[i]);
	}
	for (unsigned i = 0; i < JIT_PAGES; i++)
		for (struct jit_page *p = j->pages[i], *next; p; p = next) {
			next = p->next_hash;
			free(p);
		}
	free(j->seg);
	free(j->gone);
	free(j->written);
	if (j->rw && j->rw != MAP_FAILED)
		munmap(j->rw, j->size);
	if (j->rx && j->rx != MAP_FAILED)
		munmap(j->rx, j->size);
}

/* A piece of the segment's with so much room. They are kept when it is emptied, since it will be as full again. */
static struct meta *meta_with(struct jit_segment *s, size_t n)
{
	struct meta *m = s->fill;

	while (m && m->size - m->used < n)
		m = m->next;
	if (!m) {
		size_t size = MAX(n, (size_t)(64 << 10));

		m = malloc(sizeof(*m) + size);
		if (!m)
			return NULL;
		*m = (struct meta){.next = s->fill ? s->fill->next : NULL, .size = size};
		if (s->fill)
			s->fill->next = m;
		else
			s->meta = m;
	}
	return s->fill = m;
}

void *jit_meta(struct jit *j, enum jit_lane lane, size_t n)
{
	struct meta *m;
	void *p;

	n = align_up(n, 16);
	m = meta_with(&j->seg[j->cur[lane]], n);
	if (!m)
		return NULL;
	p = m->bytes + m->used;
	m->used += n;
	memset(p, 0, n);
	return p;
}

/* ---- finding ---- */

static struct jit_entry *_Atomic *bucket(struct jit *j, uint64_t key)
{
	/* By address alone: the contexts of one place share a chain. */
	return &j->entries[(key << 6 >> 7) * 0x9e3779b97f4a7c15ull >> 49];
}

struct jit_entry *jit_find(struct jit *j, uint64_t pa, uint32_t fp)
{
	uint64_t any = jit_key(pa, JIT_FP_ANY), key = jit_key(pa, fp);
	struct jit_entry *e = atomic_load_explicit(bucket(j, key), memory_order_acquire);

	while (e && e->key != any && e->key != key)
		e = atomic_load_explicit(&e->next, memory_order_acquire);
	return e;
}

/* ---- links ---- */

static void unlink_in(struct jit_link *l)
{
	*l->prev_in = l->next_in;
	if (l->next_in)
		l->next_in->prev_in = l->prev_in;
	l->to = NULL;
}

static void set_rel32(uint8_t *at, const uint8_t *to)
{
	__atomic_store_n((uint32_t *)(void *)at, (uint32_t)(to - (at + 4)), __ATOMIC_RELEASE);
}

void jit_link_to(struct jit *j, struct jit_link *l, struct jit_entry *e)
{
	if (l->to || l->from->dead || e->region->dead)
		return;
	/* Code for every context must not lead into code for one: the hart's jump table knows its context's. */
	l->by_context = e->region->fp != JIT_FP_ANY && e->region->fp != l->from->fp;
	if (l->by_context)
		return;
	set_rel32(l->at, j->rw + (e->code - j->rx));
	l->to = e->region;
	l->next_in = e->region->in;
	if (l->next_in)
		l->next_in->prev_in = &l->next_in;
	l->prev_in = &e->region->in;
	e->region->in = l;
	j->st.links++;
}

/* ---- pages ---- */

static struct jit_page *find_page(struct jit *j, uint64_t page)
{
	struct jit_page *p = j->pages[jit_page_hash(page)];

	while (p && p->page != page)
		p = p->next_hash;
	return p;
}

static void make_unsure(struct jit *j, struct jit_page *p)
{
	p->quiet = 0;
	if (p->unsure)
		return;
	p->unsure = true;
	p->next_unsure = j->unsure;
	j->unsure = p;
}

bool jit_watch(struct jit *j, struct hart *h, uint64_t page)
{
	struct jit_page *p = find_page(j, page), **b = &j->pages[jit_page_hash(page)];

	if (p && p->regions)
		return true; /* watched, or looked at by each fence */
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return false;
		p->page = page;
		p->next_hash = *b;
		*b = p;
	}
	if (j->o.watch && !p->armed) {
		p->stamp = j->o.watch(j->o.ctx, h, page);
		p->armed = true;
	}
	/* Until every vCPU has heard of it, somebody may write unnoticed. */
	if (!p->armed || !j->o.settled(j->o.ctx, p->stamp))
		make_unsure(j, p);
	return true;
}

void jit_written(struct jit *j, uint64_t page)
{
	pthread_mutex_lock(&j->written_lock);
	if (j->nwritten == j->written_room) {
		unsigned room = j->written_room ? 2 * j->written_room : 256;
		uint64_t *v = realloc(j->written, room * sizeof(*v));

		if (v) {
			j->written = v;
			j->written_room = room;
		}
	}
	if (j->nwritten < j->written_room)
		j->written[j->nwritten++] = page;
	else
		j->lost = true;
	pthread_mutex_unlock(&j->written_lock);
}

/* ---- coming and going ---- */

static bool same(const struct jit_region *r)
{
	const uint8_t *src = r->source;

	for (unsigned i = 0; i < r->npieces; i++) {
		if (memcmp(src, r->host + r->pieces[i].off, r->pieces[i].len))
			return false;
		src += r->pieces[i].len;
	}
	return true;
}

/* Under the lock; harts read. */
static void set_gone(struct jit *j, const struct jit_entry *e, bool gone)
{
	uint64_t at = (uint64_t)(e->code - j->rx) / 16, *word = &j->gone[at / 64];
	uint64_t bit = 1ull << at % 64;

	__atomic_store_n(word, gone ? *word | bit : *word & ~bit, __ATOMIC_RELAXED);
}

void jit_publish(struct jit *j, struct jit_region *r, uint64_t code_len)
{
	struct jit_segment *s = &j->seg[j->cur[r->lane]];
	struct jit_page *pg = find_page(j, r->page);

	s->used += align_up(code_len, 16);
	s->touched = MAX(s->touched, s->used);
	r->next_in_segment = s->regions;
	s->regions = r;
	r->in_page = pg;
	r->next_in_page = pg->regions;
	pg->regions = r;
	for (unsigned i = 0; i < r->nentries; i++) {
		struct jit_entry *_Atomic *b = bucket(j, r->entries[i].key);

		__atomic_fetch_or(&j->lines[jit_page_hash(r->page)],
			1ull << (r->entries[i].key & PAGE_MASK) / 64, __ATOMIC_RELAXED);
		set_gone(j, &r->entries[i], false);
		atomic_store_explicit(&r->entries[i].next, *b, memory_order_relaxed);
		atomic_store_explicit(b, &r->entries[i], memory_order_release);
	}
}

static void hide(struct jit *j, struct jit_entry *e)
{
	struct jit_entry *_Atomic *p = bucket(j, e->key);

	while (*p && *p != e)
		p = &(*p)->next;
	if (*p)
		*p = e->next;
}

/* Its memory stays until its segment is used again. */
void jit_remove(struct jit *j, struct jit_region *r)
{
	struct jit_region **p = &r->in_page->regions;

	if (r->dead)
		return;
	r->dead = true;
	while (*p != r)
		p = &(*p)->next_in_page;
	*p = r->next_in_page;
	for (unsigned i = 0; i < r->nentries; i++) {
		hide(j, &r->entries[i]);
		set_gone(j, &r->entries[i], true);
	}
	while (r->in) {
		struct jit_link *l = r->in;

		unlink_in(l);
		set_rel32(l->at, l->unlinked);
	}
	for (unsigned i = 0; i < r->nlinks; i++)
		if (r->links[i].to)
			unlink_in(&r->links[i]);
	j->st.removed++;
	atomic_fetch_add(&j->removals, 1);
}

/* Removes some of the segment's regions; in the end it is empty, and waits for the harts. */
static void sweep(struct jit *j, struct jit_segment *s)
{
	if (!s->regions || s->drained_at)
		return;
	if (!s->sweep)
		s->sweep = s->regions;
	for (unsigned n = 0; s->sweep && n < JIT_SWEEP; n++, s->sweep = s->sweep->next_in_segment)
		jit_remove(j, s->sweep);
	if (s->sweep)
		return;
	/* Before it is counted: whoever has seen that many removals knows that they were the last of a segment. */
	s->drained_at = atomic_load(&j->removals) + 1;
	atomic_store(&j->drained, s->drained_at);
	atomic_fetch_add(&j->removals, 1);
	j->st.evictions++;
	if (s >= &j->seg[j->nfirst])
		return;
	/*
	 * What is no longer there is interpreted for a while before it comes back, or a cache smaller than what runs would spend all
	 * its time on translating.
	 */
	memset(j->heat, 0, sizeof(j->heat));
}

static bool all_have_left(struct jit *j, uint64_t since)
{
	for (unsigned i = 0; i < j->nharts; i++)
		if (atomic_load(&j->harts[i]->j.inside) &&
			atomic_load(&j->harts[i]->j.seen) < since)
			return false;
	return jit_hot_has_left(j, since);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* Its memory again, if it is swept and nobody is there. */
static bool take_next(struct jit *j, struct jit_segment *s)
{
	if (s->regions && (!s->drained_at || !all_have_left(j, s->drained_at)))
		return false;
	free_ops(s);
	for (struct meta *m = s->meta; m; m = m->next)
		m->used = 0;
	s->fill = s->meta;
	s->regions = NULL;
	s->drained_at = 0;
	s->used = s->base;
	return true;
}

bool jit_lane_open(struct jit *j)
{
	unsigned own = j->nfirst - j->nfirst / 2;

	for (unsigned i = own; i < j->nfirst; i++)
		if (j->seg[i].used != j->seg[i].base)
			return false;
	if (j->cur[LANE_FIRST] >= own)
		return false;
	j->nown = j->cur[LANE_AHEAD] = own;
	return true;
}

void jit_lane_close(struct jit *j)
{
	j->nown = j->nfirst;
}

uint8_t *jit_code_room(struct jit *j, enum jit_lane lane, uint64_t *room)
{
	unsigned first = lane == LANE_FIRST ? 0 : lane == LANE_AHEAD ? j->nown : j->nfirst;
	unsigned end = lane == LANE_FIRST ? j->nown : lane == LANE_AHEAD ? j->nfirst : j->nsegs;
	unsigned *cur = &j->cur[lane], then = *cur + 1 < end ? *cur + 1 : first;
	struct jit_segment *s = &j->seg[*cur], *next;
	uint64_t left = (uint64_t)(s->base + j->seg_bytes - s->used), t0, took;

	/* A small cache would be mostly room that no region fits into any more. */
	*room = MIN((uint64_t)REGION_ROOM, j->seg_bytes / 4);
	if (left >= *room + MIN((uint64_t)SWEEP_AHEAD, j->seg_bytes / 4))
		return s->used;
	t0 = cpu_ns();
	next = &j->seg[then];
	sweep(j, next);
	if (left < *room)
		s = take_next(j, next) ? next : NULL;
	if (s == next)
		*cur = then;
	took = cpu_ns() - t0;
	j->st.longest_eviction_ns = MAX(j->st.longest_eviction_ns, took);
	return s ? s->used : NULL;
}

bool jit_still_right(struct jit *j, const struct jit_region *r)
{
	const struct jit_page *p = find_page(j, r->page);

	return p && (p->regions || p->armed) && same(r);
}

void jit_make_way(struct jit *j, const struct jit_region *r)
{
	struct jit_page *p = find_page(j, r->page);

	for (struct jit_region *o = p->regions, *next; o; o = next) {
		bool meet = false;

		next = o->next_in_page;
		for (unsigned i = 0; i < o->nentries && !meet; i++)
			for (unsigned k = 0; k < r->nentries && !meet; k++)
				meet = !((o->entries[i].key ^ r->entries[k].key) << 6);
		if (meet && (o->fp == r->fp || o->fp == JIT_FP_ANY || r->fp == JIT_FP_ANY))
			jit_remove(j, o);
	}
}

/* What writers have told since the last time. */
static void take_written(struct jit *j)
{
	pthread_mutex_lock(&j->written_lock);
	for (unsigned i = 0; i < j->nwritten; i++) {
		struct jit_page *p = find_page(j, j->written[i]);

		if (p) {
			p->armed = false;
			make_unsure(j, p);
		}
	}
	j->nwritten = 0;
	if (j->lost)
		for (unsigned i = 0; i < JIT_PAGES; i++)
			for (struct jit_page *p = j->pages[i]; p; p = p->next_hash) {
				p->armed = false;
				make_unsure(j, p);
			}
	j->lost = false;
	pthread_mutex_unlock(&j->written_lock);
}

/* Removes what has changed. True: the page stays on the list. */
static bool look_at(struct jit *j, struct hart *h, struct jit_page *p)
{
	/* Asked before the comparison: whoever wrote unnoticed has done so by now. */
	bool sure = p->armed && j->o.settled(j->o.ctx, p->stamp);
	bool changed = false;

	for (struct jit_region *r = p->regions, *next; r; r = next) {
		next = r->next_in_page;
		if (!same(r)) {
			jit_remove(j, r);
			changed = true;
		}
	}
	if (!p->regions || sure)
		return false;
	p->quiet = changed ? 0 : p->quiet + 1;
	if (j->o.watch && !p->armed && p->quiet >= JIT_QUIET) {
		p->stamp = j->o.watch(j->o.ctx, h, p->page);
		p->armed = true;
	}
	return true;
}

/* With the lock. Whoever asked before this has its fence done by it, too: what it wrote is there to be compared. */
static void look_at_all(struct jit *j, struct hart *h)
{
	uint64_t asked = atomic_load(&j->fence_asked);

	take_written(j);
	for (struct jit_page **at = &j->unsure, *p; (p = *at);) {
		if (look_at(j, h, p)) {
			at = &p->next_unsure;
		} else {
			p->unsure = false;
			*at = p->next_unsure;
		}
	}
	atomic_store(&j->fence_done, asked);
}

bool jit_settle(struct jit *j, struct hart *h)
{
	if (atomic_load(&j->fence_done) < h->j.fence) {
		if (pthread_mutex_trylock(&j->lock))
			return false;
		look_at_all(j, h);
		pthread_mutex_unlock(&j->lock);
	}
	h->j.fence = 0;
	return true;
}

void jit_fence(struct jit *j, struct hart *h)
{
	h->j.fence = atomic_fetch_add(&j->fence_asked, 1) + 1;
	h->j.fences_owed += !jit_settle(j, h);
}

void jit_drop(struct jit *j, uint64_t a, uint64_t len)
{
	pthread_mutex_lock(&j->lock);
	__atomic_store_n(&j->drops, j->drops + 1, __ATOMIC_RELEASE);
	for (unsigned s = 0; s < j->nsegs; s++)
		for (struct jit_region *r = j->seg[s].regions; r; r = r->next_in_segment)
			if (!r->dead && r->page + PAGE_SIZE > a && r->page - a < len)
				jit_remove(j, r);
	pthread_mutex_unlock(&j->lock);
}
