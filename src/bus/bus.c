/*
 * bus.c: one sorted table of regions per address space.
 *
 * Readers take no lock: they search the table between two looks at a sequence number and search again when a
 * writer was there meanwhile. A table that has become too small is kept until the bus goes, since a reader may
 * still be searching it; tables double, so all old ones together are smaller than the newest.
 */
#include "bus/bus.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"

#define FIRST_CAPACITY 32

struct slot {
	_Atomic uint64_t base, last;
	struct bus_region *_Atomic region;
};

struct table {
	struct table *older;
	unsigned capacity;
	struct slot slot[];
};

struct map {
	_Atomic uint32_t seq; /* odd while a writer is at work */
	struct table *_Atomic table;
	_Atomic unsigned count;
};

struct bus {
	pthread_mutex_t lock; /* writers */
	struct map map[BUS_SPACES];
};

static struct table *table_new(unsigned capacity, struct table *older)
{
	struct table *t = calloc(1, sizeof(*t) + capacity * sizeof(t->slot[0]));

	if (t) {
		t->capacity = capacity;
		t->older = older;
	}
	return t;
}

int bus_create(struct bus **out, struct err *e)
{
	struct bus *b = calloc(1, sizeof(*b));

	if (!b)
		return err_set(e, -ENOMEM, "bus: no memory");
	pthread_mutex_init(&b->lock, NULL);
	for (unsigned i = 0; i < BUS_SPACES; i++) {
		struct table *t = table_new(FIRST_CAPACITY, NULL);

		atomic_init(&b->map[i].table, t);
		if (!t) {
			bus_destroy(b);
			return err_set(e, -ENOMEM, "bus: no memory");
		}
	}
	*out = b;
	return 0;
}

void bus_destroy(struct bus *b)
{
	if (!b)
		return;
	for (unsigned i = 0; i < BUS_SPACES; i++) {
		struct table *t = b->map[i].table;

		while (t) {
			struct table *older = t->older;

			free(t);
			t = older;
		}
	}
	pthread_mutex_destroy(&b->lock);
	free(b);
}

/* Index of the first slot that ends at or behind `addr`. */
static unsigned lower(const struct table *t, unsigned n, uint64_t addr)
{
	unsigned lo = 0, hi = n;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (atomic_load_explicit(&t->slot[mid].last, memory_order_relaxed) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct bus_region *find(struct map *m, uint64_t addr, uint64_t *base, uint64_t *last)
{
	for (;;) {
		uint32_t seq = atomic_load_explicit(&m->seq, memory_order_acquire);
		struct bus_region *r = NULL;
		struct table *t;
		unsigned n, i;

		if (seq & 1) {
			sched_yield();
			continue;
		}
		t = atomic_load_explicit(&m->table, memory_order_acquire);
		n = atomic_load_explicit(&m->count, memory_order_relaxed);
		/* A torn pair of the two is thrown away below, but must not be searched out of bounds. */
		n = MIN(n, t->capacity);
		i = lower(t, n, addr);
		if (i < n) {
			*base = atomic_load_explicit(&t->slot[i].base, memory_order_relaxed);
			*last = atomic_load_explicit(&t->slot[i].last, memory_order_relaxed);
			if (addr >= *base && addr <= *last)
				r = atomic_load_explicit(&t->slot[i].region, memory_order_relaxed);
		}
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&m->seq, memory_order_relaxed) == seq)
			return r;
	}
}

static void write_begin(struct map *m)
{
	atomic_store_explicit(&m->seq, m->seq + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
}

static void write_end(struct map *m)
{
	atomic_store_explicit(&m->seq, m->seq + 1, memory_order_release);
}

static void slot_copy(struct slot *to, const struct slot *from)
{
	atomic_store_explicit(&to->base, from->base, memory_order_relaxed);
	atomic_store_explicit(&to->last, from->last, memory_order_relaxed);
	atomic_store_explicit(&to->region, from->region, memory_order_relaxed);
}

/* With b->lock held. The region that has any byte of the range, or NULL. */
static struct bus_region *overlap(struct map *m, uint64_t base, uint64_t len)
{
	struct table *t = m->table;
	unsigned i = lower(t, m->count, base);

	if (i < m->count && t->slot[i].base <= base + (len - 1))
		return t->slot[i].region;
	return NULL;
}

static bool range_ok(uint64_t base, uint64_t len)
{
	return len && base + (len - 1) >= base;
}

/* With b->lock held; the table has room and the range is free. */
static void insert(struct map *m, struct bus_region *r)
{
	struct table *t = m->table;
	unsigned i = lower(t, m->count, r->base);

	write_begin(m);
	for (unsigned k = m->count; k > i; k--)
		slot_copy(&t->slot[k], &t->slot[k - 1]);
	atomic_store_explicit(&t->slot[i].base, r->base, memory_order_relaxed);
	atomic_store_explicit(&t->slot[i].last, r->base + (r->len - 1), memory_order_relaxed);
	atomic_store_explicit(&t->slot[i].region, r, memory_order_relaxed);
	atomic_store_explicit(&m->count, m->count + 1, memory_order_relaxed);
	write_end(m);
}

static bool take_out(struct map *m, struct bus_region *r)
{
	struct table *t = m->table;
	unsigned i = 0;

	while (i < m->count && t->slot[i].region != r)
		i++;
	if (i == m->count)
		return false;
	write_begin(m);
	for (; i + 1 < m->count; i++)
		slot_copy(&t->slot[i], &t->slot[i + 1]);
	atomic_store_explicit(&m->count, m->count - 1, memory_order_relaxed);
	write_end(m);
	return true;
}

static int make_room(struct map *m)
{
	struct table *t = m->table, *bigger;

	if (m->count < t->capacity)
		return 0;
	bigger = table_new(t->capacity * 2, t);
	if (!bigger)
		return -ENOMEM;
	for (unsigned i = 0; i < m->count; i++)
		slot_copy(&bigger->slot[i], &t->slot[i]);
	atomic_store_explicit(&m->table, bigger, memory_order_release);
	return 0;
}

int bus_claim(struct bus *b, struct bus_region *r, struct err *e)
{
	struct map *m = &b->map[r->space];
	struct bus_region *other;
	int rc = 0;

	if (!range_ok(r->base, r->len))
		return err_set(e, -EINVAL, "bus: region %s: no length, or it wraps", r->name);
	pthread_mutex_lock(&b->lock);
	other = overlap(m, r->base, r->len);
	if (other)
		rc = err_set(e, -EBUSY, "bus: region %s at 0x%llx overlaps %s at 0x%llx", r->name,
			(unsigned long long)r->base, other->name, (unsigned long long)other->base);
	else if (make_room(m))
		rc = err_set(e, -ENOMEM, "bus: no memory");
	else
		insert(m, r);
	pthread_mutex_unlock(&b->lock);
	return rc;
}

void bus_release(struct bus *b, struct bus_region *r)
{
	pthread_mutex_lock(&b->lock);
	take_out(&b->map[r->space], r);
	pthread_mutex_unlock(&b->lock);
}

int bus_move(struct bus *b, struct bus_region *r, uint64_t base)
{
	struct map *m = &b->map[r->space];
	int rc = 0;

	pthread_mutex_lock(&b->lock);
	take_out(m, r);
	r->base = base;
	if (!range_ok(base, r->len))
		rc = -EINVAL;
	else if (overlap(m, base, r->len))
		rc = -EBUSY;
	else
		rc = make_room(m);
	if (!rc)
		insert(m, r);
	pthread_mutex_unlock(&b->lock);
	return rc;
}

static bool width_ok(const struct bus_ops *ops, uint64_t off, unsigned size)
{
	unsigned min = ops->min_size ? ops->min_size : 1;
	unsigned max = ops->max_size ? ops->max_size : 8;

	if (!is_pow2(size) || size < min || size > max)
		return false;
	return ops->unaligned || !(off & (size - 1));
}

int bus_access(
	struct bus *b, enum bus_space sp, uint64_t addr, unsigned size, bool write, uint64_t *data)
{
	uint64_t base = 0, last = 0;
	struct bus_region *r = find(&b->map[sp], addr, &base, &last);
	uint64_t off = addr - base;

	if (!r || !size || last - addr < size - 1 || !width_ok(r->ops, off, size) ||
		(write ? !r->ops->write : !r->ops->read)) {
		if (!write)
			*data = UINT64_MAX;
		return -ENXIO;
	}
	if (r->lock)
		pthread_mutex_lock(r->lock);
	if (write)
		r->ops->write(r->dev, off, size, *data);
	else
		*data = r->ops->read(r->dev, off, size);
	if (r->lock)
		pthread_mutex_unlock(r->lock);
	return 0;
}

void bus_msi(struct bus *b, uint64_t addr, uint32_t data)
{
	uint64_t base = 0, last = 0;
	struct bus_region *r = find(&b->map[BUS_MMIO], addr, &base, &last);

	if (!r || !r->ops->msi_sink || last - addr < 3 || !width_ok(r->ops, addr - base, 4))
		return;
	if (r->ops->msi)
		r->ops->msi(r->dev, addr - base, data);
	else
		r->ops->write(r->dev, addr - base, 4, data);
}

void bus_each(struct bus *b, void (*fn)(void *ctx, const struct bus_region *r), void *ctx)
{
	for (unsigned sp = 0; sp < BUS_SPACES; sp++) {
		struct map *m = &b->map[sp];

		pthread_mutex_lock(&b->lock);
		for (unsigned i = 0; i < m->count; i++)
			fn(ctx, ((struct table *)m->table)->slot[i].region);
		pthread_mutex_unlock(&b->lock);
	}
}
