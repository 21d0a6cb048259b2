/* memdev.c: devices in memory; see memdev.h. Pages are counted and shared, so that a copy of a device costs a list of pointers. */
#include "disk/memdev.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"

#define PAGE (16 * KiB)
#define SECTOR 512u

struct page {
	unsigned users;
	char data[PAGE];
};

struct memdev {
	struct memdev *next;
	char *path;
	uint64_t size;
	struct page **page;
	uint64_t npages;
	unsigned writers, readers;
};

enum kind { SUBMIT, DONE, TRUNCATE };

/* Of one submission; its completion is another event that names it. */
struct memdev_event {
	enum kind kind;
	enum file_op op;
	bool fua, certain;
	struct memdev *dev; /* of the recorded devices */
	uint64_t off, len;
	char *data;
	uint64_t of; /* DONE: the submission; SUBMIT: the completion, or UINT64_MAX */
};

struct queued {
	struct file_req *r;
	char *data;
	uint64_t event;
	unsigned turns;
	int error;
	bool torn;
};

/* Lives until libuv has closed its handle. */
struct bell {
	uv_idle_t idle;
	struct memfile *m;
};

struct memfile {
	struct file f;
	struct memdevs *devs;
	struct memdev *dev;
	struct bell *bell;
	struct queued *q;
	unsigned n, cap;
};

/* ---- memory ---- */

static struct memdev *find(const struct memdevs *d, const char *path)
{
	struct memdev *m = d->first;

	while (m && strcmp(m->path, path))
		m = m->next;
	return m;
}

static struct memdev *add(struct memdevs *d, const char *path)
{
	struct memdev *m = calloc(1, sizeof(*m)), **p = &d->first;

	if (!m || !(m->path = strdup(path))) {
		free(m);
		return NULL;
	}
	while (*p)
		p = &(*p)->next;
	*p = m;
	return m;
}

static void put_page(struct page *p)
{
	if (p && !--p->users)
		free(p);
}

static int grow(struct memdev *m, uint64_t size)
{
	uint64_t n = (size + PAGE - 1) / PAGE;

	if (n > m->npages) {
		uint64_t cap = MAX(n, m->npages + m->npages / 4);
		struct page **p = realloc(m->page, cap * sizeof(struct page *));

		if (!p)
			return -ENOMEM;
		memset(p + m->npages, 0, (cap - m->npages) * sizeof(*p));
		m->page = p;
		m->npages = cap;
	}
	return 0;
}

/* A page of one's own to write to. */
static char *own_page(struct memdev *m, uint64_t i)
{
	struct page *old = m->page[i], *p;

	if (old && old->users == 1)
		return old->data;
	p = malloc(sizeof(*p));
	if (!p)
		return NULL;
	p->users = 1;
	if (old)
		memcpy(p->data, old->data, PAGE);
	else
		memset(p->data, 0, PAGE);
	put_page(old);
	m->page[i] = p;
	return p->data;
}

/* data NULL: zeroes, and whole pages go. */
static int put(struct memdev *m, uint64_t off, const char *data, uint64_t len)
{
	if (data && grow(m, off + len))
		return -ENOMEM;
	if (data)
		m->size = MAX(m->size, off + len);
	while (len) {
		uint64_t i = off / PAGE, at = off % PAGE, part = MIN(len, PAGE - at);

		if (i >= m->npages)
			return 0; /* zeroes behind the end */
		if (!data && (part == PAGE || !m->page[i])) {
			put_page(m->page[i]);
			m->page[i] = NULL;
		} else {
			char *p = own_page(m, i);

			if (!p)
				return -ENOMEM;
			if (data)
				memcpy(p + at, data, part);
			else
				memset(p + at, 0, part);
		}
		if (data)
			data += part;
		off += part;
		len -= part;
	}
	return 0;
}

static void get(const struct memdev *m, uint64_t off, char *to, uint64_t len)
{
	while (len) {
		uint64_t i = off / PAGE, at = off % PAGE, part = MIN(len, PAGE - at);

		if (i < m->npages && m->page[i])
			memcpy(to, m->page[i]->data + at, part);
		else
			memset(to, 0, part);
		to += part;
		off += part;
		len -= part;
	}
}

static int set_size(struct memdev *m, uint64_t size)
{
	if (size < m->size)
		put(m, size, NULL, m->size - size);
	if (grow(m, size))
		return -ENOMEM;
	m->size = size;
	return 0;
}

static int clone_into(struct memdevs *to, const struct memdevs *from)
{
	for (const struct memdev *m = from->first; m; m = m->next) {
		struct memdev *c = add(to, m->path);

		if (!c || grow(c, m->npages * PAGE))
			return -ENOMEM;
		c->size = m->size;
		for (uint64_t i = 0; i < m->npages; i++) {
			c->page[i] = m->page[i];
			if (c->page[i])
				c->page[i]->users++;
		}
	}
	return 0;
}

static void free_devs(struct memdevs *d)
{
	struct memdev *m, *next;

	for (m = d->first; m; m = next) {
		next = m->next;
		for (uint64_t i = 0; i < m->npages; i++)
			put_page(m->page[i]);
		free(m->page);
		free(m->path);
		free(m);
	}
	d->first = NULL;
}

static void forget(struct memdevs *d)
{
	for (uint64_t i = 0; i < d->nevents; i++)
		free(d->event[i].data);
	free(d->event);
	d->event = NULL;
	d->nevents = d->cap = d->at = 0;
	if (d->base) {
		free_devs(d->base);
		free(d->base);
		d->base = NULL;
	}
}

void memdevs_free(struct memdevs *d)
{
	forget(d);
	free_devs(d);
}

/* ---- the record ---- */

int memdevs_record(struct memdevs *d)
{
	forget(d);
	d->base = calloc(1, sizeof(*d->base));
	d->record = true;
	return d->base ? clone_into(d->base, d) : -ENOMEM;
}

uint64_t memdevs_events(const struct memdevs *d)
{
	return d->nevents;
}

bool memdevs_is_write(const struct memdevs *d, uint64_t i)
{
	const struct memdev_event *ev = &d->event[i];

	return ev->kind == TRUNCATE ||
	       (ev->kind == SUBMIT && ev->op != FILE_READ && ev->op != FILE_FLUSH);
}

static uint64_t record(struct memdevs *d, const struct memdev_event *ev)
{
	if (!d->record)
		return UINT64_MAX;
	if (d->nevents == d->cap) {
		uint64_t cap = MAX((uint64_t)256, 2 * d->cap);
		struct memdev_event *p = realloc(d->event, cap * sizeof(*p));

		if (!p)
			abort(); /* broken invariant */
		d->event = p;
		d->cap = cap;
	}
	d->event[d->nevents] = *ev;
	return d->nevents++;
}

/* ---- requests ---- */

static struct memfile *file_of(struct file *f)
{
	return container_of(f, struct memfile, f);
}

static uint64_t mix(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void inject(struct memfile *m, struct queued *q)
{
	struct memdevs *d = m->devs;
	const struct file_req *r = q->r;

	for (unsigned i = 0; i < d->nfaults; i++) {
		struct memdev_fault *f = &d->fault[i];

		if (f->path && strcmp(f->path, m->dev->path))
			continue;
		if (!(f->ops & 1u << r->op))
			continue;
		if (f->len && (r->off >= f->off + f->len || r->off + r->len <= f->off))
			continue;
		if (f->after) {
			f->after--;
			continue;
		}
		if (f->count && !--f->count)
			f->ops = 0;
		q->error = f->error;
		q->torn = f->torn;
		q->turns = f->turns;
		d->faults_hit++;
	}
	if (d->capacity && (r->op == FILE_WRITE || r->op == FILE_FILL) &&
		r->off + r->len > d->capacity)
		q->error = -ENOSPC;
}

static void perform(struct memfile *m, struct queued *q)
{
	struct file_req *r = q->r;
	uint64_t len = q->error ? align_down(r->len / 2, SECTOR) : r->len;

	if (q->error && (!q->torn || r->op == FILE_READ || r->op == FILE_FLUSH))
		return;
	switch (r->op) {
	case FILE_READ:
		if (m->f.o.strict && r->off + r->len > m->dev->size) {
			q->error = -EIO;
			return;
		}
		for (uint64_t at = 0, i = 0; at < len; at += r->iov[i++].iov_len)
			get(m->dev, r->off + at, r->iov[i].iov_base,
				MIN(len - at, r->iov[i].iov_len));
		return;
	case FILE_WRITE:
	case FILE_FILL:
		q->error = q->error ?: put(m->dev, r->off, q->data, len);
		return;
	case FILE_ZERO:
	case FILE_DISCARD:
		q->error = q->error ?: put(m->dev, r->off, NULL, len);
		return;
	default:
		return;
	}
}

static void finish(struct memfile *m, unsigned i)
{
	struct queued q = m->q[i];

	memmove(&m->q[i], &m->q[i + 1], (--m->n - i) * sizeof(q));
	if (!m->n)
		uv_idle_stop(&m->bell->idle);
	perform(m, &q);
	m->f.lost |= q.error && q.r->op == FILE_FLUSH && !m->f.o.direct;
	if (q.event != UINT64_MAX) {
		struct memdev_event done = {
			.kind = DONE, .op = q.r->op, .dev = m->dev, .of = q.event};

		/* What failed stays uncertain for ever. */
		if (!q.error)
			m->devs->event[q.event].of = m->devs->nevents;
		if (!q.error)
			record(m->devs, &done);
	} else {
		free(q.data);
	}
	file_done(q.r, q.error);
}

static unsigned choose(struct memfile *m)
{
	return m->devs->seed ? (unsigned)(mix(&m->devs->seed) % m->n) : 0;
}

static bool meet(const struct file_req *a, const struct file_req *b)
{
	return a->op != FILE_READ && a->op != FILE_FLUSH && b->op != FILE_READ &&
	       b->op != FILE_FLUSH && a->off < b->off + b->len && b->off < a->off + a->len;
}

/* Of changes to the same bytes the one that came first is the first: what is read is what a power cut leaves when all of it was flushed. */
static unsigned first_there(const struct memfile *m, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		if (meet(m->q[k].r, m->q[i].r)) {
			i = k;
			k = UINT_MAX; /* and from the beginning again */
		}
	return i;
}

static void deliver(struct memfile *m, bool all)
{
	struct files *fs = m->f.owner;
	unsigned n = all || !m->devs->seed ? m->n : 1 + choose(m);

	while (n-- && m->n) {
		unsigned i = first_there(m, choose(m));

		if (m->q[i].turns && !all)
			m->q[i].turns--;
		else
			finish(m, i);
	}
	if (fs->batch)
		fs->batch(fs->ctx);
}

static void on_idle(uv_idle_t *h)
{
	deliver(container_of(h, struct bell, idle)->m, false);
}

static void submit(struct file *f, struct file_req *r)
{
	struct memfile *m = file_of(f);
	struct queued q = {.r = r, .event = UINT64_MAX};

	m->devs->ops[r->op]++;
	if (m->n == m->cap) {
		m->cap = MAX(64u, 2 * m->cap);
		m->q = realloc(m->q, m->cap * sizeof(*m->q));
		if (!m->q)
			abort(); /* broken invariant */
	}
	if (r->op == FILE_WRITE || r->op == FILE_FILL) {
		q.data = calloc(1, MAX(r->len, (uint64_t)1));
		if (!q.data)
			abort(); /* broken invariant */
		if (r->op == FILE_WRITE)
			iov_read(r->iov, r->niov, 0, q.data, r->len);
	}
	for (unsigned i = 0; i < m->n; i++)
		m->devs->met += meet(m->q[i].r, r);
	inject(m, &q);
	if (r->op != FILE_READ)
		q.event = record(m->devs, &(struct memdev_event){.kind = SUBMIT,
						  .op = r->op,
						  .fua = r->fua,
						  .dev = m->dev,
						  .off = r->off,
						  .len = r->len,
						  .data = q.data,
						  .of = UINT64_MAX});
	m->q[m->n++] = q;
	uv_idle_start(&m->bell->idle, on_idle);
}

static void drain(struct file *f)
{
	struct memfile *m = file_of(f);

	while (m->n)
		deliver(m, true);
}

static int truncate_dev(struct file *f, uint64_t size, struct err *e)
{
	struct memfile *m = file_of(f);

	if (m->devs->capacity && size > m->devs->capacity)
		return err_sys(e, -ENOSPC, "%s: cannot be made longer", f->path);
	if (set_size(m->dev, size))
		return err_set(e, -ENOMEM, "out of memory");
	record(m->devs, &(struct memdev_event){
				.kind = TRUNCATE, .dev = m->dev, .len = size, .of = UINT64_MAX});
	return 0;
}

static int measure(struct file *f, uint64_t *size, struct err *e)
{
	*size = file_of(f)->dev->size;
	return 0;
}

static int extent(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	const struct memdev *m = file_of(f)->dev;
	uint64_t i = off / PAGE, end = off + *len, at = off;

	*data = i < m->npages && m->page[i];
	while (at < end && (i < m->npages && m->page[i]) == *data)
		at = ++i * PAGE;
	*len = MIN(at, end) - off;
	return 0;
}

static uint64_t room(struct file *f)
{
	uint64_t has = file_of(f)->dev->size, capacity = file_of(f)->devs->capacity;

	return capacity ? capacity - MIN(has, capacity) : UINT64_MAX;
}

static void bell_closed(uv_handle_t *h)
{
	free(container_of((uv_idle_t *)h, struct bell, idle));
}

static void close_dev(struct file *f)
{
	struct memfile *m = file_of(f);

	if (m->dev)
		*(f->o.readonly ? &m->dev->readers : &m->dev->writers) -= 1;
	if (m->bell)
		uv_close((uv_handle_t *)&m->bell->idle, bell_closed);
	free(m->q);
	free(m);
}

static const struct file_ops ops = {.submit = submit,
	.drain = drain,
	.truncate = truncate_dev,
	.measure = measure,
	.extent = extent,
	.room = room,
	.close = close_dev};

static int attach(struct memfile *m, const struct file_opts *o, struct err *e)
{
	struct memdev *dev = find(m->devs, o->path);

	if (dev && o->create)
		return err_set(e, -EEXIST, "disk %s: is there already", o->path);
	if (!dev && !o->create)
		return err_set(e, -ENOENT, "disk %s: there is no such file", o->path);
	if (!dev)
		dev = add(m->devs, o->path);
	m->bell = calloc(1, sizeof(*m->bell));
	if (!dev || !m->bell)
		return err_set(e, -ENOMEM, "out of memory");
	m->bell->m = m;
	uv_idle_init(m->f.owner->loop, &m->bell->idle);
	if (!o->no_lock && (dev->writers || (!o->readonly && dev->readers)))
		return err_set(e, -EBUSY, "disk %s is in use", o->path);
	m->dev = dev;
	*(o->readonly ? &dev->readers : &dev->writers) += 1;
	m->f.size = dev->size;
	m->f.kind = "memory";
	return 0;
}

int memdevs_open(struct file **out, struct files *fs, const struct file_opts *o, struct err *e)
{
	struct memfile *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return err_set(e, -ENOMEM, "out of memory");
	m->devs = fs->open_ctx;
	rc = file_init(&m->f, &ops, fs, o, e);
	if (rc) {
		free(m);
		return rc;
	}
	rc = attach(m, o, e);
	if (rc) {
		file_close(&m->f);
		return rc;
	}
	*out = &m->f;
	return 0;
}

/* ---- the power cut ---- */

/* Some sectors of an uncertain event, by the seed. */
static int apply(struct memdevs *to, const struct memdev_event *ev, unsigned how, uint64_t *seed)
{
	struct memdev *m = find(to, ev->dev->path);
	uint64_t off = ev->off, end = ev->off + ev->len;

	if (!m)
		m = add(to, ev->dev->path);
	if (!m)
		return -ENOMEM;
	if (ev->kind == TRUNCATE)
		return how ? set_size(m, ev->len) : 0;
	if (how == 1)
		return put(m, off, ev->data, ev->len);
	while (how && off < end) {
		uint64_t part = MIN(end, (off / SECTOR + 1) * SECTOR) - off;

		if (mix(seed) & 1 &&
			put(m, off, ev->data ? ev->data + (off - ev->off) : NULL, part))
			return -ENOMEM;
		off += part;
	}
	return 0;
}

static bool changes(const struct memdev_event *ev)
{
	return ev->kind == TRUNCATE ||
	       (ev->kind == SUBMIT && ev->op != FILE_FLUSH && ev->op != FILE_READ);
}

/* Event `i` has happened now: what does it make certain? */
static int settle(struct memdevs *d, uint64_t i)
{
	const struct memdev_event *ev = &d->event[i];
	uint64_t unused = 0;
	bool over = false;
	int rc = 0;

	if (ev->kind != DONE)
		return 0;
	if (d->event[ev->of].fua && changes(&d->event[ev->of])) {
		d->event[ev->of].certain = true;
		return apply(d->base, &d->event[ev->of], 1, &unused);
	}
	if (ev->op != FILE_FLUSH)
		return 0;
	for (uint64_t k = 0; k < ev->of && !rc; k++) {
		struct memdev_event *w = &d->event[k];

		/* Nobody says what a discard leaves, whenever it was. */
		if (!changes(w) || w->dev != ev->dev || w->op == FILE_DISCARD)
			continue;
		if (!w->certain && (w->kind == TRUNCATE || (w->of != UINT64_MAX && w->of < ev->of)))
			w->certain = over = true;
		else if (!w->certain || !over)
			continue;
		rc = apply(
			d->base, w, 1, &unused); /* also what was certain before, and came later */
	}
	return rc;
}

/* What was laid over what is certain: of a few each, of many nothing but that they are. */
struct over {
	const struct memdev_event *ev[64];
	unsigned n;
};

static bool is_over(const struct over *o, const struct memdev_event *ev)
{
	for (unsigned i = 0; i < MIN(o->n, ARRAY_SIZE(o->ev)); i++) {
		const struct memdev_event *x = o->ev[i];

		if (x->dev == ev->dev &&
			(x->kind == TRUNCATE || ev->kind == TRUNCATE ||
				(x->off < ev->off + ev->len && ev->off < x->off + x->len)))
			return true;
	}
	return o->n > ARRAY_SIZE(o->ev);
}

static void lay_over(struct over *o, const struct memdev_event *ev)
{
	if (o->n < ARRAY_SIZE(o->ev))
		o->ev[o->n] = ev;
	o->n++;
}

int memdevs_crash(struct memdevs *d, uint64_t point, uint64_t variant, struct memdevs *out)
{
	uint64_t seed = variant * 7919 + point;
	struct over over = {.n = 0};
	int rc = 0;

	if (point < d->at)
		return -EINVAL;
	for (; d->at < point && !rc; d->at++)
		rc = settle(d, d->at);
	if (!rc)
		rc = clone_into(out, d->base);
	for (uint64_t i = 0; i < point && !rc; i++) {
		const struct memdev_event *ev = &d->event[i];
		unsigned how = variant < 2 ? (unsigned)variant : (unsigned)(mix(&seed) % 3);

		if (!changes(ev))
			continue;
		if (!ev->certain) {
			rc = apply(out, ev, how, &seed);
			if (how)
				lay_over(&over, ev);
		} else if (
			is_over(&over,
				ev)) { /* what came after it stays on top of it, and of that again */
			rc = apply(out, ev, 1, &seed);
			lay_over(&over, ev);
		}
	}
	return rc;
}

/* ---- for oracles ---- */

int memdev_peek(struct memdevs *d, const char *path, uint64_t off, void *buf, uint64_t len)
{
	const struct memdev *m = find(d, path);

	if (!m)
		return -ENOENT;
	get(m, off, buf, len);
	return 0;
}

int memdev_poke(struct memdevs *d, const char *path, uint64_t off, const void *buf, uint64_t len)
{
	struct memdev *m = find(d, path);

	if (!m)
		m = add(d, path);
	return m ? put(m, off, buf, len) : -ENOMEM;
}

uint64_t memdev_size(struct memdevs *d, const char *path)
{
	const struct memdev *m = find(d, path);

	return m ? m->size : 0;
}

uint64_t memdev_allocated(struct memdevs *d, const char *path)
{
	const struct memdev *m = find(d, path);
	uint64_t n = 0;

	for (uint64_t i = 0; m && i < m->npages; i++)
		n += m->page[i] ? PAGE : 0;
	return n;
}

int memdev_save(struct memdevs *d, const char *path, const char *to, struct err *e)
{
	cleanup(close_fd) int fd = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	const struct memdev *m = find(d, path);

	if (!m || fd < 0 || ftruncate(fd, (off_t)m->size))
		return err_sys(e, -errno, "%s", to);
	for (uint64_t i = 0; i < m->npages && i * PAGE < m->size; i++) {
		size_t n = MIN(PAGE, m->size - i * PAGE);

		if (m->page[i] && pwrite(fd, m->page[i]->data, n, (off_t)(i * PAGE)) != (ssize_t)n)
			return err_sys(e, -errno, "%s", to);
	}
	return 0;
}
