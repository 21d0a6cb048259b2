#include "memory/space.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/space_impl.h"
#include "memory/view_reclaim.h"

int space_create(struct space **out, struct frames *f, struct err *e)
{
	struct space *s = calloc(1, sizeof(*s));
	struct view *v;
	int rc;

	if (!s)
		return err_set(e, -ENOMEM, "guest memory: out of memory");
	s->f = f;
	pthread_rwlock_init(&s->lock, NULL);
	rc = space_view_add(s, &v, e);
	if (rc) {
		space_destroy(s);
		return rc;
	}
	*out = s;
	return 0;
}

static int free_leaf(void *ctx, gpa_t a, uint64_t len, const struct view_leaf *l)
{
	frames_free(ctx, l->mfn, l->order);
	return 0;
}

void space_destroy(struct space *s)
{
	if (!s)
		return;
	if (s->nviews)
		view_walk(s->views[0], free_leaf, s->f);
	for (unsigned i = 0; i < s->nviews; i++)
		view_destroy(s->views[i]);
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

static int back_ram(struct space *s, gpa_t a, uint64_t len, int node, uint64_t *done, struct err *e)
{
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
		rc = view_map(s->views[0], gpa(a.v + *done), m, PAGE_SIZE << order, VIEW_RWX, e);
		if (rc) {
			frames_free(s->f, m, order);
			return rc;
		}
		*done += PAGE_SIZE << order;
	}
	return 0;
}

int space_add_ram(struct space *s, gpa_t a, uint64_t len, int node, const char *name, struct err *e)
{
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
	rc = back_ram(s, a, len, node, &done, e);
	if (rc) {
		for (uint64_t off = 0; off < done;) {
			struct view_leaf l;

			view_lookup(s->views[0], gpa(a.v + off), &l);
			view_unmap(s->views[0], gpa(a.v + off), PAGE_SIZE << l.order, NULL);
			frames_free(s->f, l.mfn, l.order);
			off += PAGE_SIZE << l.order;
		}
		return rc;
	}
	while (at > 0 && s->rams[at - 1].pub.base.v > a.v) {
		s->rams[at] = s->rams[at - 1];
		at--;
	}
	s->rams[at].pub = (struct space_ram){a, len, node, name};
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
	if (acc == MEM_WRITE && atomic_load_explicit(&s->ntrackers, memory_order_acquire))
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

int space_read(struct space *s, gpa_t a, void *buf, uint64_t len)
{
	int rc = check(s, a, len, MEM_READ);

	for (uint64_t off = 0, n; !rc && off < len; off += n) {
		void *p = piece(s, gpa(a.v + off), len - off, MEM_READ, &n);

		if (!p)
			return -EFAULT;
		memcpy((char *)buf + off, p, n);
	}
	return rc;
}

int space_write(struct space *s, gpa_t a, const void *buf, uint64_t len)
{
	int rc = check(s, a, len, MEM_WRITE);

	for (uint64_t off = 0, n; !rc && off < len; off += n) {
		void *p = piece(s, gpa(a.v + off), len - off, MEM_WRITE, &n);

		if (!p)
			return -EFAULT;
		memcpy(p, (const char *)buf + off, n);
	}
	return rc;
}

int space_fill(struct space *s, gpa_t a, uint8_t byte, uint64_t len)
{
	int rc = check(s, a, len, MEM_WRITE);

	for (uint64_t off = 0, n; !rc && off < len; off += n) {
		void *p = piece(s, gpa(a.v + off), len - off, MEM_WRITE, &n);

		if (!p)
			return -EFAULT;
		memset(p, byte, n);
	}
	return rc;
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
	uint16_t *p = single(s, a, sizeof(*p), MEM_READ);

	if (!p)
		return -EFAULT;
	*out = __atomic_load_n(p, __ATOMIC_ACQUIRE);
	return 0;
}

int space_store16(struct space *s, gpa_t a, uint16_t v)
{
	uint16_t *p = single(s, a, sizeof(*p), MEM_WRITE);

	if (!p)
		return -EFAULT;
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
	return 0;
}

int space_load64(struct space *s, gpa_t a, uint64_t *out)
{
	uint64_t *p = single(s, a, sizeof(*p), MEM_READ);

	if (!p)
		return -EFAULT;
	*out = __atomic_load_n(p, __ATOMIC_ACQUIRE);
	return 0;
}

int space_store64(struct space *s, gpa_t a, uint64_t v)
{
	uint64_t *p = single(s, a, sizeof(*p), MEM_WRITE);

	if (!p)
		return -EFAULT;
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
	return 0;
}

int space_span(struct space *s, gpa_t a, uint64_t len, enum mem_access acc, struct iovec *iov,
	unsigned *n, unsigned max)
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

void space_announce(struct space *s, gpa_t a, uint64_t len)
{
	if (!atomic_load_explicit(&s->ntrackers, memory_order_acquire))
		return;
	for (uint64_t off = 0, n; off < len; off += n)
		if (!piece(s, gpa(a.v + off), len - off, MEM_WRITE, &n))
			return;
}

int space_page(
	struct space *s, unsigned view_tag, gpa_t a, enum mem_access acc, struct space_page *out)
{
	gpa_t page = gpa(align_down(a.v, PAGE_SIZE));
	struct view_leaf l;

	out->perm = 0;
	if (view_tag >= s->nviews || view_lookup(s->views[view_tag], page, &l))
		return -EFAULT;
	out->perm = l.perm;
	if ((l.perm & acc) != acc)
		return -EFAULT;
	out->mfn = l.mfn;
	out->order = l.order;
	out->host = frames_ptr(s->f, l.mfn);
	if (!atomic_load_explicit(&s->ntrackers, memory_order_acquire))
		out->write_free = true;
	else
		out->write_free = acc == MEM_WRITE && track_write(s, page, out->host);
	return 0;
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
	pthread_rwlock_rdlock(&s->lock);
	for (struct space_listener *l = s->listeners; l; l = l->next)
		l->invalidate(l, view_tag, a, len, what);
	pthread_rwlock_unlock(&s->lock);
	if (view_tag < s->nviews)
		view_reclaim(s->views[view_tag]);
}

int space_discard(struct space *s, gpa_t a, uint64_t len)
{
	int rc = check(s, a, len, MEM_WRITE);

	if (rc || (a.v | len) & PAGE_MASK)
		return rc ?: -EINVAL;
	for (uint64_t off = 0, n; !rc && off < len; off += n) {
		char *p = piece(s, gpa(a.v + off), len - off, MEM_WRITE, &n);

		if (!p)
			return -EFAULT;
		rc = frames_discard(s->f,
			mfn((uint64_t)(p - (char *)frames_base(s->f)) / PAGE_SIZE), n / PAGE_SIZE);
	}
	return rc;
}
