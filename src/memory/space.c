#include "memory/space.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/space_impl.h"
#include "memory/view_reclaim.h"

int space_create(struct space **out, struct frames *f, struct err *e)
{
	struct space *s = aligned_alloc(_Alignof(struct space), sizeof(*s));
	struct view *v;
	int rc;

	if (!s)
		return err_set(e, -ENOMEM, "guest memory: out of memory");
	memset(s, 0, sizeof(*s));
	s->f = f;
	pthread_rwlock_init(&s->lock, NULL);
	pthread_mutex_init(&s->wait_lock, NULL);
	rc = space_view_add(s, &v, e);
	if (rc) {
		space_destroy(s);
		return rc;
	}
	*out = s;
	return 0;
}

uint64_t space_spare_bytes(uint64_t ram)
{
	return align_up(ram / 256, 2 * MiB) + 4 * MiB;
}

unsigned space_hold(struct space *s)
{
	return space_enter(s);
}

void space_release(struct space *s, unsigned hold)
{
	space_leave(s, hold);
}

void space_wait(struct space *s)
{
	unsigned e;

	pthread_mutex_lock(&s->wait_lock);
	e = atomic_fetch_add(&s->epoch, 1) & 1;
	while (atomic_load(&s->inside[e]))
		sched_yield();
	pthread_mutex_unlock(&s->wait_lock);
}

/* By what was allocated, not by what is mapped now: a leaf may have been split, removed or replaced. */
static void free_runs(struct space *s, struct ram *r)
{
	for (unsigned i = 0; i < r->nruns; i++)
		for (uint64_t k = 0; k < r->runs[i].n; k++)
			frames_free(s->f, mfn(r->runs[i].first.n + (k << r->runs[i].order)),
				r->runs[i].order);
	free(r->runs);
}

void space_destroy(struct space *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->nviews; i++)
		view_destroy(s->views[i]);
	for (unsigned i = 0; i < s->nrams; i++)
		free_runs(s, &s->rams[i]);
	pthread_mutex_destroy(&s->wait_lock);
	pthread_rwlock_destroy(&s->lock);
	free(s);
}

struct frames *space_frames(const struct space *s)
{
	return s->f;
}

struct view *space_view(const struct space *s, unsigned tag)
{
	return tag < s->nviews ? s->views[tag] : NULL;
}

int space_view_add(struct space *s, struct view **out, struct err *e)
{
	int rc;

	if (s->nviews == SPACE_VIEWS)
		return err_set(e, -E2BIG, "guest memory: more than %d views", SPACE_VIEWS);
	rc = view_create(out, s->f, FRAMES_NODE_ANY, s->nviews, e);
	if (!rc)
		s->views[s->nviews++] = *out;
	return rc;
}

/* The largest order that fits alignment and rest. */
static unsigned order_for(uint64_t at, uint64_t left)
{
	static const unsigned orders[] = {FRAME_ORDER_1G, FRAME_ORDER_2M};

	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		uint64_t size = PAGE_SIZE << orders[i];

		if (!(at & (size - 1)) && left >= size)
			return orders[i];
	}
	return FRAME_ORDER_4K;
}

static int note_run(struct ram *r, mfn_t m, unsigned order)
{
	struct run *last = r->nruns ? &r->runs[r->nruns - 1] : NULL;
	struct run *more;

	if (last && last->order == order && last->first.n + (last->n << order) == m.n) {
		last->n++;
		return 0;
	}
	more = realloc(r->runs, (r->nruns + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	r->runs = more;
	r->runs[r->nruns++] = (struct run){m, 1, order};
	return 0;
}

/* Allocates and maps; *done is how much is mapped when it fails. */
static int back_ram(struct space *s, struct ram *r, uint64_t *done, struct err *e)
{
	gpa_t a = r->pub.base;
	uint64_t len = r->pub.len;
	int node = r->pub.node;

	for (*done = 0; *done < len;) {
		unsigned order = order_for(a.v + *done, len - *done);
		mfn_t m = MFN_NONE;
		int rc = frames_alloc(s->f, node, order, &m);

		if (rc && order == FRAME_ORDER_1G) {
			order = FRAME_ORDER_2M;
			rc = frames_alloc(s->f, node, order, &m);
		}
		if (rc)
			return err_set(e, rc,
				"guest memory: node %d has no frames left for %llu MiB at %#llx",
				node, (unsigned long long)(len / MiB), (unsigned long long)a.v);
		rc = note_run(r, m, order);
		if (rc) {
			frames_free(s->f, m, order);
			return err_set(e, rc, "guest memory: out of memory");
		}
		rc = view_map(s->views[0], gpa(a.v + *done), m, PAGE_SIZE << order, VIEW_RWX, e);
		if (rc)
			return rc;
		*done += PAGE_SIZE << order;
	}
	return 0;
}

int space_add_ram(struct space *s, gpa_t a, uint64_t len, int node, const char *name, struct err *e)
{
	struct ram r = {.pub = {a, len, node, name}};
	uint64_t done;
	unsigned at = s->nrams;
	int rc;

	if (!len || (a.v | len) & PAGE_MASK || !gpa_range_ok(a, len))
		return err_set(e, -EINVAL, "guest memory: %#llx+%#llx is not whole pages",
			(unsigned long long)a.v, (unsigned long long)len);
	if (s->nrams == SPACE_RAMS)
		return err_set(e, -E2BIG, "guest memory: more than %d RAM ranges", SPACE_RAMS);
	if (s->ntrackers)
		return err_set(
			e, -EBUSY, "guest memory: RAM cannot be added while writes are tracked");
	for (unsigned i = 0; i < s->nrams; i++)
		if (a.v < s->rams[i].pub.base.v + s->rams[i].pub.len &&
			s->rams[i].pub.base.v < a.v + len)
			return err_set(e, -EEXIST, "guest memory: %#llx+%#llx overlaps %s",
				(unsigned long long)a.v, (unsigned long long)len,
				s->rams[i].pub.name);
	rc = back_ram(s, &r, &done, e);
	if (rc) {
		if (done) /* whole leaves: needs no frames */
			view_unmap(s->views[0], a, done, NULL);
		free_runs(s, &r);
		return rc;
	}
	while (at > 0 && s->rams[at - 1].pub.base.v > a.v) {
		s->rams[at] = s->rams[at - 1];
		at--;
	}
	s->rams[at] = r;
	s->nrams++;
	s->pages = 0;
	for (unsigned i = 0; i < s->nrams; i++) {
		s->rams[i].first_page = s->pages;
		s->pages += s->rams[i].pub.len / PAGE_SIZE;
	}
	return 0;
}

const struct space_ram *space_ram(const struct space *s, unsigned i)
{
	return i < s->nrams ? &s->rams[i].pub : NULL;
}

/*
 * The longest piece of [a, a+len) that lies in one leaf: its host address and length. Announces it when it is
 * for writing. Leaves are contiguous in the host because frames are.
 */
static void *piece(struct space *s, gpa_t a, uint64_t len, enum mem_access acc, uint64_t *n)
{
	struct view_leaf l;
	uint64_t size;
	uint8_t *host;

	if (view_lookup(s->views[0], a, &l) || (l.perm & acc) != acc)
		return NULL;
	size = PAGE_SIZE << l.order;
	*n = MIN(len, size - (a.v & (size - 1)));
	host = frames_ptr(s->f, l.mfn);
	if (acc == MEM_WRITE && atomic_load(&s->ntrackers))
		for (uint64_t p = align_down(a.v, PAGE_SIZE); p < a.v + *n; p += PAGE_SIZE)
			track_write(s, gpa(p), host + (p - align_down(a.v, PAGE_SIZE)));
	return host + (a.v & PAGE_MASK);
}

static int check(struct space *s, gpa_t a, uint64_t len, enum mem_access acc)
{
	struct view_leaf l;

	if (!gpa_range_ok(a, len))
		return -EINVAL;
	for (uint64_t off = 0; off < len;) {
		if (view_lookup(s->views[0], gpa(a.v + off), &l) || (l.perm & acc) != acc)
			return -EFAULT;
		off += (PAGE_SIZE << l.order) - ((a.v + off) & ((PAGE_SIZE << l.order) - 1));
	}
	return 0;
}

enum copy { COPY_OUT, COPY_IN, COPY_FILL };

static void copy_piece(enum copy how, void *p, const void *buf, uint64_t off, uint64_t n)
{
	switch (how) {
	case COPY_OUT:
		memcpy((char *)(uintptr_t)buf + off, p, n);
		return;
	case COPY_IN:
		memcpy(p, (const char *)buf + off, n);
		return;
	case COPY_FILL:
		memset(p, *(const uint8_t *)buf, n);
		return;
	}
}

static int copy_inside(
	struct space *s, gpa_t a, const void *buf, uint64_t len, enum copy how, enum mem_access acc)
{
	uint64_t off = 0, n;
	int rc;

	if (!gpa_range_ok(a, len))
		return -EINVAL;
	if (!len)
		return 0;
	/* Nearly always all of it lies in one leaf, and one look is enough. */
	if (((a.v ^ (a.v + (len - 1))) & ~PAGE_MASK) != 0) {
		rc = check(s, a, len, acc);
		if (rc)
			return rc;
	}
	for (; off < len; off += n) {
		void *p = piece(s, gpa(a.v + off), len - off, acc, &n);

		if (!p)
			return -EFAULT;
		copy_piece(how, p, buf, off, n);
	}
	return 0;
}

static int copy(
	struct space *s, gpa_t a, const void *buf, uint64_t len, enum copy how, enum mem_access acc)
{
	unsigned in = space_enter(s);
	int rc = copy_inside(s, a, buf, len, how, acc);

	space_leave(s, in);
	return rc;
}

int space_read(struct space *s, gpa_t a, void *buf, uint64_t len)
{
	return copy(s, a, buf, len, COPY_OUT, MEM_READ);
}

int space_write(struct space *s, gpa_t a, const void *buf, uint64_t len)
{
	return copy(s, a, buf, len, COPY_IN, MEM_WRITE);
}

int space_fill(struct space *s, gpa_t a, uint8_t byte, uint64_t len)
{
	return copy(s, a, &byte, len, COPY_FILL, MEM_WRITE);
}

static void *single(struct space *s, gpa_t a, unsigned size, enum mem_access acc)
{
	uint64_t n;

	if (a.v & (size - 1))
		return NULL;
	return piece(s, a, size, acc, &n);
}

int space_load16(struct space *s, gpa_t a, uint16_t *out)
{
	unsigned in = space_enter(s);
	uint16_t *p = single(s, a, sizeof(*p), MEM_READ);

	if (p)
		*out = __atomic_load_n(p, __ATOMIC_ACQUIRE);
	space_leave(s, in);
	return p ? 0 : -EFAULT;
}

int space_store16(struct space *s, gpa_t a, uint16_t v)
{
	unsigned in = space_enter(s);
	uint16_t *p = single(s, a, sizeof(*p), MEM_WRITE);

	if (p)
		__atomic_store_n(p, v, __ATOMIC_RELEASE);
	space_leave(s, in);
	return p ? 0 : -EFAULT;
}

int space_load64(struct space *s, gpa_t a, uint64_t *out)
{
	unsigned in = space_enter(s);
	uint64_t *p = single(s, a, sizeof(*p), MEM_READ);

	if (p)
		*out = __atomic_load_n(p, __ATOMIC_ACQUIRE);
	space_leave(s, in);
	return p ? 0 : -EFAULT;
}

int space_store64(struct space *s, gpa_t a, uint64_t v)
{
	unsigned in = space_enter(s);
	uint64_t *p = single(s, a, sizeof(*p), MEM_WRITE);

	if (p)
		__atomic_store_n(p, v, __ATOMIC_RELEASE);
	space_leave(s, in);
	return p ? 0 : -EFAULT;
}

static int span_inside(struct space *s, gpa_t a, uint64_t len, enum mem_access acc,
	struct iovec *iov, unsigned *n, unsigned max)
{
	unsigned at = *n;
	int rc = check(s, a, len, acc);

	if (rc)
		return rc;
	for (uint64_t off = 0, got; off < len; off += got) {
		void *p = piece(s, gpa(a.v + off), len - off, acc, &got);

		if (!p)
			return -EFAULT;
		if (at > *n && (char *)iov[at - 1].iov_base + iov[at - 1].iov_len == p) {
			iov[at - 1].iov_len += got;
			continue;
		}
		if (at == max)
			return -E2BIG;
		iov[at++] = (struct iovec){p, got};
	}
	*n = at;
	return 0;
}

int space_span(struct space *s, gpa_t a, uint64_t len, enum mem_access acc, struct iovec *iov,
	unsigned *n, unsigned max)
{
	unsigned in = space_enter(s);
	int rc = span_inside(s, a, len, acc, iov, n, max);

	space_leave(s, in);
	return rc;
}

void space_announce(struct space *s, gpa_t a, uint64_t len)
{
	unsigned in;

	if (!atomic_load(&s->ntrackers))
		return;
	in = space_enter(s);
	for (uint64_t off = 0, n; off < len; off += n)
		if (!piece(s, gpa(a.v + off), len - off, MEM_WRITE, &n))
			break;
	space_leave(s, in);
}

int space_page(
	struct space *s, unsigned view_tag, gpa_t a, enum mem_access acc, struct space_page *out)
{
	gpa_t page = gpa(align_down(a.v, PAGE_SIZE));
	struct view_leaf l;
	unsigned in;

	out->perm = 0;
	if (view_tag >= s->nviews || view_lookup(s->views[view_tag], page, &l))
		return -EFAULT;
	out->perm = l.perm;
	if ((l.perm & acc) != acc)
		return -EFAULT;
	out->mfn = l.mfn;
	out->order = l.order;
	out->host = frames_ptr(s->f, l.mfn);
	if (!atomic_load(&s->ntrackers)) {
		out->write_free = true;
		return 0;
	}
	out->write_free = false;
	if (acc != MEM_WRITE)
		return 0;
	in = space_enter(s);
	out->write_free = track_write(s, page, out->host);
	space_leave(s, in);
	return 0;
}

bool space_write_free(struct space *s, gpa_t page)
{
	unsigned in;
	bool seen;

	if (!atomic_load(&s->ntrackers))
		return true;
	in = space_enter(s);
	seen = track_seen(s, page);
	space_leave(s, in);
	return seen;
}

void space_listen(struct space *s, struct space_listener *l)
{
	pthread_rwlock_wrlock(&s->lock);
	l->next = s->listeners;
	s->listeners = l;
	pthread_rwlock_unlock(&s->lock);
}

void space_unlisten(struct space *s, struct space_listener *l)
{
	pthread_rwlock_wrlock(&s->lock);
	for (struct space_listener **p = &s->listeners; *p; p = &(*p)->next)
		if (*p == l) {
			*p = l->next;
			break;
		}
	pthread_rwlock_unlock(&s->lock);
}

void space_invalidate(struct space *s, unsigned view_tag, gpa_t a, uint64_t len, unsigned what)
{
	struct view *v = space_view(s, view_tag);
	struct view_retired *tables = v ? view_retired_take(v, a, len) : NULL;

	pthread_rwlock_rdlock(&s->lock);
	for (struct space_listener *l = s->listeners; l; l = l->next)
		l->invalidate(l, view_tag, a, len, what);
	pthread_rwlock_unlock(&s->lock);
	space_wait(s);
	if (tables)
		view_retired_free(v, tables);
}

void space_wrote(struct space *s, unsigned view_tag, gpa_t page)
{
	struct view *v = space_view(s, view_tag);
	unsigned in = space_enter(s);
	struct view_leaf l;

	if (v && !view_lookup(v, page, &l))
		track_write(s, page, frames_ptr(s->f, l.mfn));
	space_leave(s, in);
}

uint64_t space_untouched(struct space *s, gpa_t a, uint64_t max)
{
	unsigned in = space_enter(s);
	struct view_leaf l;
	uint64_t n = 0;

	if (!view_lookup(space_view(s, 0), a, &l)) {
		uint64_t size = 1ull << l.order, left = size - (a.v / PAGE_SIZE & (size - 1));

		n = frames_untouched(s->f, l.mfn, MIN(max, left));
	}
	space_leave(s, in);
	return n;
}

static int discard_inside(struct space *s, gpa_t a, uint64_t len)
{
	int rc = (a.v | len) & PAGE_MASK ? -EINVAL : check(s, a, len, MEM_WRITE);

	for (uint64_t off = 0, n; !rc && off < len; off += n) {
		char *p = piece(s, gpa(a.v + off), len - off, MEM_WRITE, &n);

		if (!p)
			return -EFAULT;
		rc = frames_discard(s->f,
			mfn((uint64_t)(p - (char *)frames_base(s->f)) / PAGE_SIZE), n / PAGE_SIZE);
	}
	return rc;
}

int space_discard(struct space *s, gpa_t a, uint64_t len)
{
	unsigned in = space_enter(s);
	int rc = discard_inside(s, a, len);

	space_leave(s, in);
	return rc;
}
