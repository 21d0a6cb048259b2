#include "memory/frames.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "memory/uffd.h"

#define CHUNK_ORDER 9u
#define CHUNK_FRAMES (1u << CHUNK_ORDER)
#define WORDS (CHUNK_FRAMES / 64)

/* 2 MiB of frames: free, given out whole, or split into small runs (a bitmap, made when first needed). */
struct chunk {
	uint64_t *used; /* NULL: not split */
	uint16_t nused;
	bool whole;
	bool tables; /* lies over table_fd */
};

struct node {
	uint64_t first, chunks; /* in chunks */
	_Atomic uint64_t free; /* frames; changed under the lock, read by anybody */
	uint64_t low; /* no free chunk lies below this one */
	uint64_t started; /* the chunk that the last small run came from */
};

struct frames {
	pthread_mutex_t lock;
	int fd, table_fd;
	_Atomic bool borrowed;
	uint8_t *base;
	uint64_t count;
	struct chunk *chunks;
	struct node node[FRAMES_MAX_NODES];
	unsigned nodes;
	/* What lies over a file, in no order; and bounds of it, read by anybody. Its lock is the inner one. */
	pthread_mutex_t over_lock;
	struct over *over;
	unsigned novers, overs_max;
	_Atomic uint64_t over_first, over_end;
	struct uffd *fill; /* frames_fill(); or NULL */
};

/* Frames that lie over a file (frames_map_file()). */
struct over {
	uint64_t first, count;
	uint8_t *aside; /* moved there; NULL: in their place */
};

/* The host allows a process 65530 mappings; each piece that is taken back can make two more. */
#define OVERS_MAX 16384u

static int open_files(struct frames *f, const struct frames_opts *o, uint64_t bytes)
{
	f->fd = o->ram_fd > 0 ? o->ram_fd : memfd_create(o->name ?: "lodge-ram", MFD_CLOEXEC);
	if (f->fd < 0)
		return -errno;
	if (o->ram_fd > 0 && lseek(f->fd, 0, SEEK_END) != (off_t)bytes)
		return -EINVAL;
	if (o->ram_fd <= 0 && ftruncate(f->fd, (off_t)bytes))
		return -errno;
	f->table_fd = memfd_create("lodge-tables", MFD_CLOEXEC);
	return f->table_fd < 0 || ftruncate(f->table_fd, (off_t)bytes) ? -errno : 0;
}

int frames_create(struct frames **out, const struct frames_opts *o, struct err *e)
{
	struct frames *f;
	uint64_t bytes = 0;
	int rc;

	if (!o->nodes || o->nodes > FRAMES_MAX_NODES)
		return err_set(e, -EINVAL, "machine memory: %u nodes; 1 to %d are possible",
			o->nodes, FRAMES_MAX_NODES);
	for (unsigned i = 0; i < o->nodes; i++) {
		if (!o->node_bytes[i] || o->node_bytes[i] % (2 * MiB) ||
			bytes + o->node_bytes[i] < bytes)
			return err_set(e, -EINVAL,
				"machine memory: node %u has %llu bytes, not a multiple of 2 MiB",
				i, (unsigned long long)o->node_bytes[i]);
		bytes += o->node_bytes[i];
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(e, -ENOMEM, "machine memory: out of memory");
	pthread_mutex_init(&f->lock, NULL);
	pthread_mutex_init(&f->over_lock, NULL);
	f->count = bytes / PAGE_SIZE;
	f->nodes = o->nodes;
	f->chunks = calloc(f->count / CHUNK_FRAMES, sizeof(*f->chunks));
	f->base = MAP_FAILED;
	f->table_fd = -1;
	f->borrowed = o->ram_fd > 0;
	rc = open_files(f, o, bytes);
	if (!rc) {
		f->base = mmap(
			NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f->fd, 0);
		rc = f->base == MAP_FAILED ? -errno : 0;
	}
	if (!rc && !f->chunks)
		rc = -ENOMEM;
	if (rc) {
		if (o->ram_fd > 0)
			f->fd = -1; /* stays the caller's */
		frames_destroy(f);
		return err_sys(
			e, rc, "machine memory: %llu MiB", (unsigned long long)(bytes / MiB));
	}
	for (uint64_t i = 0, at = 0; i < o->nodes; i++) {
		f->node[i].first = f->node[i].low = f->node[i].started = at;
		f->node[i].chunks = o->node_bytes[i] / (2 * MiB);
		f->node[i].free = f->node[i].chunks * CHUNK_FRAMES;
		at += f->node[i].chunks;
	}
	*out = f;
	return 0;
}

void frames_destroy(struct frames *f)
{
	if (!f)
		return;
	for (uint64_t i = 0; f->chunks && i < f->count / CHUNK_FRAMES; i++)
		free(f->chunks[i].used);
	free(f->chunks);
	for (unsigned i = 0; i < f->novers; i++)
		if (f->over[i].aside)
			munmap(f->over[i].aside, f->over[i].count * PAGE_SIZE);
	free(f->over);
	frames_fill_close(f);
	if (f->base != MAP_FAILED)
		munmap(f->base, f->count * PAGE_SIZE);
	if (f->fd >= 0)
		close(f->fd);
	if (f->table_fd >= 0)
		close(f->table_fd);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->over_lock);
	free(f);
}

static bool run_free(const uint64_t *used, unsigned at, unsigned n)
{
	for (unsigned i = at; i < at + n; i++)
		if (used[i / 64] >> (i % 64) & 1)
			return false;
	return true;
}

static void run_mark(uint64_t *used, unsigned at, unsigned n, bool set)
{
	for (unsigned i = at; i < at + n; i++)
		if (set)
			used[i / 64] |= 1ull << (i % 64);
		else
			used[i / 64] &= ~(1ull << (i % 64));
}

/* Which of the two files a chunk lies over. The chunk is empty. */
static int lay_over(struct frames *f, struct chunk *c, bool tables)
{
	off_t at = (off_t)((uint64_t)(c - f->chunks) * CHUNK_FRAMES * PAGE_SIZE);

	if (c->tables == tables)
		return 0;
	if (mmap(f->base + at, CHUNK_FRAMES * PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, tables ? f->table_fd : f->fd,
		    at) == MAP_FAILED)
		return -errno;
	c->tables = tables;
	return 0;
}

static bool take_small(struct frames *f, struct chunk *c, unsigned order, bool tables, unsigned *at)
{
	unsigned n = 1u << order;

	if (c->whole || c->nused + n > CHUNK_FRAMES || (c->nused && c->tables != tables))
		return false;
	if (!c->used) {
		c->used = calloc(WORDS, sizeof(*c->used));
		if (!c->used)
			return false;
	}
	if (lay_over(f, c, tables))
		return false;
	for (*at = 0; *at < CHUNK_FRAMES; *at += n)
		if (run_free(c->used, *at, n)) {
			run_mark(c->used, *at, n, true);
			c->nused += n;
			return true;
		}
	return false;
}

static int alloc_small(struct frames *f, struct node *nd, unsigned order, bool tables, mfn_t *out)
{
	unsigned at;

	if (f->chunks[nd->started].nused &&
		take_small(f, &f->chunks[nd->started], order, tables, &at)) {
		out->n = nd->started * CHUNK_FRAMES + at;
		return 0;
	}
	/* Started chunks first, and from the top, so that whole ones stay together at the bottom. */
	for (int split = 1; split >= 0; split--)
		for (uint64_t i = nd->chunks; i-- > 0;) {
			struct chunk *c = &f->chunks[nd->first + i];

			if ((c->nused > 0) == split && take_small(f, c, order, tables, &at)) {
				nd->started = nd->first + i;
				out->n = (nd->first + i) * CHUNK_FRAMES + at;
				return 0;
			}
		}
	return -ENOMEM;
}

static int alloc_chunks(struct frames *f, struct node *nd, unsigned order, mfn_t *out)
{
	uint64_t n = 1ull << (order - CHUNK_ORDER);

	for (uint64_t i = align_up(nd->low, n); i + n <= nd->first + nd->chunks; i += n) {
		uint64_t k = 0;

		while (k < n && !f->chunks[i + k].whole && !f->chunks[i + k].nused)
			k++;
		if (k < n)
			continue;
		for (k = 0; k < n; k++)
			f->chunks[i + k].whole = true;
		if (n == 1)
			nd->low = i + 1;
		out->n = i * CHUNK_FRAMES;
		return 0;
	}
	return -ENOMEM;
}

static int alloc(struct frames *f, int node, unsigned order, bool tables, mfn_t *out)
{
	int rc = -ENOMEM;

	if (order > FRAME_ORDER_1G || node < FRAMES_NODE_ANY || node >= (int)f->nodes)
		return -EINVAL;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; rc && i < f->nodes; i++) {
		struct node *nd = &f->node[i];

		if (node != FRAMES_NODE_ANY && node != (int)i)
			continue;
		rc = order < CHUNK_ORDER ? alloc_small(f, nd, order, tables, out)
					 : alloc_chunks(f, nd, order, out);
		if (!rc)
			nd->free -= 1ull << order;
	}
	pthread_mutex_unlock(&f->lock);
	/* Larger runs were never touched, or were punched out when they were freed. */
	if (!rc && order < CHUNK_ORDER && (tables || !f->borrowed))
		memset(frames_ptr(f, *out), 0, PAGE_SIZE << order);
	return rc;
}

int frames_alloc(struct frames *f, int node, unsigned order, mfn_t *out)
{
	return alloc(f, node, order, false, out);
}

int frames_alloc_table(struct frames *f, int node, unsigned order, mfn_t *out)
{
	return order < CHUNK_ORDER ? alloc(f, node, order, true, out) : -EINVAL;
}

void frames_borrow(struct frames *f, bool on)
{
	f->borrowed = on;
}

void frames_free(struct frames *f, mfn_t m, unsigned order)
{
	struct chunk *c;
	struct node *nd;

	if (m.n + (1ull << order) > f->count)
		abort(); /* broken invariant */
	nd = &f->node[frames_node_of(f, m)];
	if (order >= CHUNK_ORDER)
		frames_discard(f, m, 1ull << order);
	pthread_mutex_lock(&f->lock);
	c = &f->chunks[m.n / CHUNK_FRAMES];
	nd->free += 1ull << order;
	nd->low = MIN(nd->low, m.n / CHUNK_FRAMES);
	if (order < CHUNK_ORDER) {
		if (!c->used)
			abort(); /* broken invariant */
		run_mark(c->used, m.n % CHUNK_FRAMES, 1u << order, false);
		c->nused -= 1u << order;
		/* It may be given out whole next, unlooked at: so it must be empty, before anybody else can have it. */
		if (!c->nused)
			frames_discard(f, mfn(align_down(m.n, CHUNK_FRAMES)), CHUNK_FRAMES);
		if (!c->nused && lay_over(f, c, false))
			c->whole = true; /* the host has no mapping left: never given out again */
	} else {
		for (uint64_t k = 0; k < 1ull << (order - CHUNK_ORDER); k++)
			c[k].whole = false;
	}
	pthread_mutex_unlock(&f->lock);
}

/* ---- over a file ---- */

static bool over_file(const struct frames *f, mfn_t m, uint64_t count)
{
	return m.n < f->over_end && m.n + count > f->over_first;
}

/* Under the lock. */
static bool over_add(struct frames *f, uint64_t first, uint64_t count, uint8_t *aside)
{
	if (f->novers == f->overs_max) {
		unsigned max = MAX(2 * f->overs_max, 16u);
		struct over *p = max > 2 * OVERS_MAX ? NULL : realloc(f->over, max * sizeof(*p));

		if (!p)
			return false;
		f->over = p;
		f->overs_max = max;
	}
	f->over[f->novers++] = (struct over){first, count, aside};
	f->over_first = f->over_end ? MIN(f->over_first, first) : first;
	f->over_end = MAX(f->over_end, first + count);
	return true;
}

/* [first, first + count) is over nothing any more. False: no room to say so. Under the lock. */
static bool over_cut(struct frames *f, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;

	for (unsigned i = 0; i < f->novers;) {
		struct over o = f->over[i];
		uint64_t from = MAX(first, o.first), to = MIN(end, o.first + o.count);

		if (from >= to) {
			i++;
			continue;
		}
		if (to < o.first + o.count &&
			!over_add(f, to, o.first + o.count - to,
				o.aside ? o.aside + (to - o.first) * PAGE_SIZE : NULL))
			return false;
		f->over[i].count = from - o.first;
		if (!f->over[i].count)
			f->over[i] = f->over[--f->novers];
	}
	if (!f->novers)
		f->over_first = f->over_end = 0;
	return true;
}

/* The piece that frame n is in; NULL. Under the lock. */
static struct over *over_of(struct frames *f, uint64_t n)
{
	for (unsigned i = 0; i < f->novers; i++)
		if (n >= f->over[i].first && n - f->over[i].first < f->over[i].count)
			return &f->over[i];
	return NULL;
}

/* The memory file's own pages, in place of whatever is there. */
static bool map_own(struct frames *f, uint64_t first, uint64_t count)
{
	return mmap(f->base + first * PAGE_SIZE, count * PAGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED | MAP_NORESERVE, f->fd,
		       (off_t)(first * PAGE_SIZE)) != MAP_FAILED;
}

int frames_map_file(struct frames *f, mfn_t m, uint64_t count, int fd, uint64_t off, struct err *e)
{
	void *at;
	bool noted;

	if (!count || m.n > f->count || count > f->count - m.n || off & PAGE_MASK)
		return err_set(e, -EINVAL, "machine memory: frames %#llx+%#llx over a file",
			(unsigned long long)m.n, (unsigned long long)count);
	pthread_mutex_lock(&f->over_lock);
	noted = over_add(f, m.n, count, NULL);
	pthread_mutex_unlock(&f->over_lock);
	if (!noted)
		return err_set(e, -ENOMEM, "machine memory: too many pieces of a file");
	at = mmap(f->base + m.n * PAGE_SIZE, count * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)off);
	if (at == MAP_FAILED)
		return err_sys(e, -errno, "machine memory: mapping %llu MiB of a file",
			(unsigned long long)(count * PAGE_SIZE / MiB));
	return 0;
}

static int set_aside(struct frames *f, uint64_t first, uint64_t count)
{
	uint8_t *at = f->base + first * PAGE_SIZE, *to;
	size_t len = count * PAGE_SIZE;

	if (!over_cut(f, first, count) || !over_add(f, first, count, NULL))
		return -ENOMEM;
	/* The old place stays mapped until the new pages come: nobody else can get it in between. */
	to = mremap(at, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (to == MAP_FAILED)
		return -errno;
	f->over[f->novers - 1].aside = to;
	return map_own(f, first, count) ? 0 : -errno;
}

int frames_set_aside(struct frames *f, mfn_t m, uint64_t count, struct err *e)
{
	int rc = 0;

	if (!over_file(f, m, count))
		return 0;
	pthread_mutex_lock(&f->over_lock);
	for (uint64_t n = m.n; !rc && n < m.n + count;) {
		uint64_t next = m.n + count;
		const struct over *o = over_of(f, n);

		if (o && !o->aside) {
			next = MIN(next, o->first + o->count);
			rc = set_aside(f, n, next - n);
		} else if (o) {
			next = o->first + o->count;
		} else {
			for (unsigned i = 0; i < f->novers; i++)
				if (f->over[i].first > n)
					next = MIN(next, f->over[i].first);
		}
		n = next;
	}
	pthread_mutex_unlock(&f->over_lock);
	return rc ? err_sys(e, rc, "machine memory: moving what lies over a file") : 0;
}

const void *frames_aside(struct frames *f, mfn_t m, uint64_t *count)
{
	const uint8_t *p = NULL;
	const struct over *o;

	if (!over_file(f, m, *count))
		return NULL;
	pthread_mutex_lock(&f->over_lock);
	o = over_of(f, m.n);
	if (o) {
		p = o->aside ? o->aside + (m.n - o->first) * PAGE_SIZE : NULL;
		*count = MIN(*count, o->first + o->count - m.n);
	}
	for (unsigned i = 0; !o && i < f->novers; i++)
		if (f->over[i].first > m.n)
			*count = MIN(*count, f->over[i].first - m.n);
	pthread_mutex_unlock(&f->over_lock);
	return p;
}

void frames_aside_end(struct frames *f, mfn_t m, uint64_t count)
{
	pthread_mutex_lock(&f->over_lock);
	for (unsigned i = 0; i < f->novers; i++) {
		struct over o = f->over[i];
		uint64_t from = MAX(m.n, o.first), to = MIN(m.n + count, o.first + o.count);

		if (!o.aside || from >= to)
			continue;
		/* Without room for the rest's place it is kept: nobody asks for it again. Another piece may stand here now. */
		if (!over_cut(f, from, to - from))
			continue;
		munmap(o.aside + (from - o.first) * PAGE_SIZE, (to - from) * PAGE_SIZE);
		i--;
	}
	pthread_mutex_unlock(&f->over_lock);
}

static bool all_zero(const uint8_t *p)
{
	const uint64_t *w = (const uint64_t *)(const void *)p;

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*w); i += 8)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] |
			w[i + 7])
			return false;
	return true;
}

static int write_own(struct frames *f, uint64_t first, uint64_t count)
{
	size_t len = count * PAGE_SIZE;

	for (size_t done = 0; done < len;) {
		off_t at = (off_t)(first * PAGE_SIZE + done);
		ssize_t n = pwrite(f->fd, f->base + at, len - done, at);

		if (n <= 0 && errno != EINTR)
			return n ? -errno : -EIO;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Runs of pages that are not all zero. */
static int settle(struct frames *f, uint64_t at, uint64_t end, bool first)
{
	int rc = 0;

	while (!rc && at < end) {
		uint64_t to = at;

		while (to < end && !(first && all_zero(f->base + to * PAGE_SIZE)))
			to++;
		rc = to > at ? write_own(f, at, to - at) : 0;
		at = to + (to < end);
	}
	return rc;
}

int64_t frames_settle(struct frames *f, mfn_t m, uint64_t count, bool first, struct err *e)
{
	const struct over *o;
	uint64_t n = MIN(count, f->count - m.n);
	int rc = 0;

	if (!over_file(f, m, n))
		return (int64_t)n;
	pthread_mutex_lock(&f->over_lock);
	o = over_of(f, m.n);
	if (o)
		n = MIN(n, o->first + o->count - m.n);
	for (unsigned i = 0; !o && i < f->novers; i++)
		if (f->over[i].first > m.n)
			n = MIN(n, f->over[i].first - m.n);
	/* Under the lock: a page that is discarded now would be written to its own place. */
	if (o)
		rc = settle(f, m.n, m.n + n, first);
	pthread_mutex_unlock(&f->over_lock);
	return rc ? err_sys(e, rc, "machine memory: memory that came from a file") : (int64_t)n;
}

void frames_unsettle(struct frames *f)
{
	pthread_mutex_lock(&f->over_lock);
	for (unsigned i = 0; i < f->novers; i++)
		fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)(f->over[i].first * PAGE_SIZE),
			(off_t)(f->over[i].count * PAGE_SIZE));
	pthread_mutex_unlock(&f->over_lock);
}

/* Somebody else's touch. Where no page can be made it is served as if nobody had asked to see it. */
static void on_fault(void *ctx, const struct uffd_fault *fault)
{
	struct frames *f = ctx;

	if (uffd_fill_missing(f->fill, (void *)fault->page, NULL, PAGE_SIZE, false))
		frames_fill_end(f);
}

int frames_fill_begin(struct frames *f, struct uffd *u, struct err *e)
{
	int rc;

	f->fill = u;
	rc = uffd_serve(u, on_fault, f, e);
	return rc ?: uffd_register(u, f->base, f->count * PAGE_SIZE, UFFD_MISSING, e);
}

void frames_fill_end(struct frames *f)
{
	if (f->fill)
		uffd_unregister(f->fill, f->base, f->count * PAGE_SIZE);
}

void frames_fill_close(struct frames *f)
{
	frames_fill_end(f);
	uffd_close(f->fill);
	f->fill = NULL;
}

int frames_fill(struct frames *f, mfn_t m, uint64_t count, const void *from)
{
	const uint8_t *src = from;
	uint8_t *to = f->base + m.n * PAGE_SIZE;

	if (m.n > f->count || count > f->count - m.n)
		return -EINVAL;
	if (!f->fill)
		return -ENOTSUP;
	for (uint64_t done = 0, len = count * PAGE_SIZE; done < len;) {
		int64_t n = uffd_fill_some(f->fill, to + done, src + done, len - done, false);

		if (n == -EEXIST) {
			memcpy(to + done, src + done, PAGE_SIZE);
			n = PAGE_SIZE;
		}
		if (n < 0 && n != -EAGAIN && n != -EINTR)
			return n == -ENOENT || n == -EINVAL ? -ENOTSUP : (int)n;
		done += n > 0 ? (uint64_t)n : 0;
	}
	return 0;
}

uint64_t frames_untouched(struct frames *f, mfn_t m, uint64_t count)
{
	off_t data;

	if (m.n >= f->count || over_file(f, m, count))
		return 0;
	data = lseek(f->fd, (off_t)(m.n * PAGE_SIZE), SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? MIN(count, f->count - m.n) : 0;
	return MIN(count, (uint64_t)data / PAGE_SIZE - m.n);
}

uint64_t frames_touched(struct frames *f, mfn_t m, uint64_t count)
{
	off_t hole = m.n < f->count ? lseek(f->fd, (off_t)(m.n * PAGE_SIZE), SEEK_HOLE) : -1;

	return hole < 0 ? 0 : MIN(count, (uint64_t)hole / PAGE_SIZE - m.n);
}

/* What lies over a file would show the file again: the memory file comes back in its place. What is aside, or cannot, is cleared. */
static bool discard_over(struct frames *f, mfn_t m, uint64_t count)
{
	bool gone = true;

	pthread_mutex_lock(&f->over_lock);
	for (unsigned i = 0; i < f->novers; i++)
		if (f->over[i].aside && m.n < f->over[i].first + f->over[i].count &&
			m.n + count > f->over[i].first)
			gone = false;
	gone = gone && f->novers < OVERS_MAX && map_own(f, m.n, count) && over_cut(f, m.n, count);
	pthread_mutex_unlock(&f->over_lock);
	if (!gone)
		memset(f->base + m.n * PAGE_SIZE, 0, count * PAGE_SIZE);
	return gone;
}

int frames_discard(struct frames *f, mfn_t m, uint64_t count)
{
	int fd = f->fd;

	if (m.n > f->count || count > f->count - m.n)
		return -EINVAL;
	if (!count)
		return 0;
	if (f->chunks[m.n / CHUNK_FRAMES].tables)
		fd = f->table_fd;
	else if (f->borrowed)
		return 0;
	if (over_file(f, m, count) && !discard_over(f, m, count))
		return 0;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(m.n * PAGE_SIZE),
		    (off_t)(count * PAGE_SIZE)))
		return -errno;
	return 0;
}

void *frames_ptr(const struct frames *f, mfn_t m)
{
	if (m.n >= f->count)
		abort(); /* broken invariant */
	return f->base + m.n * PAGE_SIZE;
}

void *frames_base(const struct frames *f)
{
	return f->base;
}

uint64_t frames_count(const struct frames *f)
{
	return f->count;
}

unsigned frames_nodes(const struct frames *f)
{
	return f->nodes;
}

unsigned frames_node_of(const struct frames *f, mfn_t m)
{
	for (unsigned i = f->nodes; i-- > 0;)
		if (m.n / CHUNK_FRAMES >= f->node[i].first)
			return i;
	return 0;
}

void frames_node_stat(const struct frames *f, unsigned node, struct frames_node_stat *st)
{
	st->total = f->node[node].chunks * CHUNK_FRAMES;
	st->free = f->node[node].free;
}

int frames_fd(const struct frames *f)
{
	return f->fd;
}
