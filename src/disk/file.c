/* file.c: what all back ends of file.h share: opening, waiting, iovecs. */
#include "disk/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

static int open_new(struct file **out, struct files *fs, const struct file_opts *o, struct err *e)
{
	return fs->open ? fs->open(out, fs, o, e) : file_host_open(out, fs, o, e);
}

/* ---- the shelf ---- */

/* Of one that another process has: it may become ours to write, so it is opened for that where it can be. */
static int open_look(struct file **out, struct files *fs, const struct file_opts *o, struct err *e)
{
	struct file_opts look = *o;
	int rc;

	look.no_lock = true;
	look.readonly = false;
	rc = open_new(out, fs, &look, e);
	if (rc != -EROFS && rc != -EACCES && rc != -EPERM)
		return rc;
	look.readonly = true;
	return open_new(out, fs, &look, e);
}

static bool serves(const struct file *f, const struct file_opts *o)
{
	return !strcmp(f->path, o->path) && (o->readonly || f->can_write) &&
	       o->direct == f->o.direct && o->sectors == f->o.sectors && !o->create;
}

static void put_aside(struct file_shelf *s, struct file *f)
{
	f->owner = NULL;
	f->next = s->first;
	s->first = f;
}

static int take_down(struct file **at, struct files *fs, const struct file_opts *o, struct err *e)
{
	struct file *f = *at;
	int rc;

	*at = f->next;
	f->o = *o;
	f->o.path = f->path;
	f->o.at = NULL;
	f->o.no_lock |= fs->shelf->look;
	rc = f->o.no_lock ? 0 : f->ops->lock(f, true, e);
	if (!rc) {
		rc = f->ops->measure(f, &f->size, e);
		if (rc)
			f->ops->lock(f, false, NULL);
	}
	if (rc) {
		put_aside(fs->shelf, f);
		return rc;
	}
	f->owner = fs;
	f->next = fs->first;
	fs->first = f;
	return 0;
}

int file_open(struct file **out, struct files *fs, const struct file_opts *o, struct err *e)
{
	struct file **at;
	int rc;

	if (!fs->shelf)
		return open_new(out, fs, o, e);
	for (at = &fs->shelf->first; *at; at = &(*at)->next) {
		struct file *f = *at;

		if (!serves(f, o))
			continue;
		rc = take_down(at, fs, o, e);
		if (!rc)
			*out = f;
		return rc;
	}
	return fs->shelf->look ? open_look(out, fs, o, e) : open_new(out, fs, o, e);
}

void file_shelf_clear(struct file_shelf *s)
{
	for (struct file *f = s->first, *next; f; f = next) {
		next = f->next;
		free(f->path);
		f->ops->close(f);
	}
	s->first = NULL;
}

int file_init(struct file *f, const struct file_ops *ops, struct files *fs,
	const struct file_opts *o, struct err *e)
{
	f->path = strdup(o->path);
	if (!f->path)
		return err_set(e, -ENOMEM, "%s: out of memory", o->path);
	f->ops = ops;
	f->owner = fs;
	f->o = *o;
	f->o.path = f->path;
	f->can_write = !o->readonly;
	f->align = f->physical = 512;
	f->next = fs->first;
	fs->first = f;
	return 0;
}

int file_make(struct file **out, struct files *fs, const char *path, bool overwrite, struct err *e)
{
	struct file_opts o = {.path = path, .create = !overwrite, .sectors = true};
	int rc = file_open(out, fs, &o, e);

	if (rc != -ENOENT || !overwrite)
		return rc;
	o.create = true;
	if (e)
		*e = (struct err){0};
	return file_open(out, fs, &o, e);
}

int file_made(struct file *f, int rc)
{
	if (f && rc && f->o.create && !f->owner->open)
		(void)unlink(f->path);
	file_close(f);
	return rc;
}

void file_close(struct file *f)
{
	if (!f)
		return;
	if (f->in_flight)
		f->ops->drain(f);
	for (struct file **p = &f->owner->first; *p; p = &(*p)->next)
		if (*p == f) {
			*p = f->next;
			break;
		}
	if (f->owner->shelf && f->owner->shelf->keep && f->ops->lock) {
		f->ops->lock(f, false, NULL);
		put_aside(f->owner->shelf, f);
		return;
	}
	free(f->path);
	f->ops->close(f);
}

static bool writes(const struct file_req *r)
{
	return r->op == FILE_WRITE || r->op == FILE_FILL;
}

void file_submit(struct file *f, struct file_req *r)
{
	r->file = f;
	r->at = 0;
	r->step = 0;
	r->bounce = NULL;
	r->gathers = false;
	r->cut = NULL;
	r->next = NULL;
	f->in_flight++;
	if (writes(r))
		f->reach = MAX(f->reach, r->off + r->len);
	f->ops->submit(f, r);
}

void file_done(struct file_req *r, int result)
{
	struct file *f = r->file;

	free(r->bounce);
	free(r->cut);
	r->bounce = NULL;
	r->cut = NULL;
	if (!result && writes(r))
		f->size = MAX(f->size, r->off + r->len);
	r->result = result;
	f->in_flight--;
	r->done(r);
}

int file_truncate(struct file *f, uint64_t size, struct err *e)
{
	int rc = f->ops->truncate(f, size, e);

	if (!rc)
		f->size = size;
	return rc;
}

int file_extent(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	if (off >= f->size) {
		*data = false;
		return 0;
	}
	*len = MIN(*len, f->size - off);
	return f->ops->extent ? f->ops->extent(f, off, len, data) : -EOPNOTSUPP;
}

uint64_t file_room(struct file *f)
{
	return f->ops->room ? f->ops->room(f) : UINT64_MAX;
}

uint64_t file_allocated(struct file *f)
{
	uint64_t used = 0;

	for (uint64_t at = 0; at < f->size;) {
		uint64_t len = f->size - at;
		bool data = true;

		if (file_extent(f, at, &len, &data) || !len)
			return f->size;
		used += data ? len : 0;
		at += len;
	}
	return used;
}

bool files_drain(struct files *fs)
{
	bool any = false, again;

	do {
		again = false;
		/* A `done` may open or close nothing, so that the list stays as it is. */
		for (struct file *f = fs->first; f; f = f->next)
			if (f->in_flight) {
				f->ops->drain(f);
				again = any = true;
			}
	} while (again);
	return any;
}

void files_memory(struct files *fs, const struct iovec *mem)
{
	files_drain(fs);
	for (struct file *f = fs->first; f; f = f->next)
		if (f->ops->memory)
			f->ops->memory(f, mem);
}

/* ---- waiting ---- */

struct waited {
	struct file_req r;
	struct iovec iov;
	bool done;
};

static void waited_done(struct file_req *r)
{
	container_of(r, struct waited, r)->done = true;
}

static int wait_for(struct file *f, struct waited *w, struct err *e)
{
	static const char *const what[] = {
		"reading", "writing", "flushing", "discarding", "zeroing", "filling"};

	w->r.done = waited_done;
	file_submit(f, &w->r);
	while (!w->done)
		f->ops->drain(f);
	if (!w->r.result)
		return 0;
	return err_sys(e, w->r.result, "%s: %s %llu bytes at %llu", f->path, what[w->r.op],
		(unsigned long long)w->r.len, (unsigned long long)w->r.off);
}

int file_read(struct file *f, uint64_t off, void *buf, uint64_t len, struct err *e)
{
	struct waited w = {.r = {.op = FILE_READ, .off = off, .len = len, .iov = &w.iov, .niov = 1},
		.iov = {buf, len}};

	return len ? wait_for(f, &w, e) : 0;
}

int file_write(struct file *f, uint64_t off, const void *buf, uint64_t len, struct err *e)
{
	struct waited w = {
		.r = {.op = FILE_WRITE, .off = off, .len = len, .iov = &w.iov, .niov = 1},
		.iov = {(void *)(uintptr_t)buf, len}};

	return len ? wait_for(f, &w, e) : 0;
}

int file_zero(struct file *f, uint64_t off, uint64_t len, bool unmap, struct err *e)
{
	struct waited w = {.r = {.op = FILE_ZERO, .off = off, .len = len, .unmap = unmap}};

	return len ? wait_for(f, &w, e) : 0;
}

int file_fill(struct file *f, uint64_t off, uint64_t len, struct err *e)
{
	struct waited w = {.r = {.op = FILE_FILL, .off = off, .len = len}};

	return len ? wait_for(f, &w, e) : 0;
}

int file_flush(struct file *f, struct err *e)
{
	struct waited w = {.r = {.op = FILE_FLUSH}};

	return wait_for(f, &w, e);
}

/* ---- iovecs ---- */

unsigned iov_slice(struct iovec *out, unsigned max, const struct iovec *iov, unsigned niov,
	uint64_t off, uint64_t len)
{
	unsigned n = 0;

	for (unsigned i = 0; i < niov && len && n < max; i++) {
		uint64_t part;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = MIN(len, iov[i].iov_len - off);
		out[n++] = (struct iovec){(char *)iov[i].iov_base + off, part};
		len -= part;
		off = 0;
	}
	return n;
}

enum copy { COPY_OUT, COPY_IN, COPY_ZERO };

static void copy(const struct iovec *iov, unsigned niov, uint64_t off, char *mem, uint64_t len,
	enum copy how)
{
	for (unsigned i = 0; i < niov && len; i++) {
		uint64_t part;
		char *at;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = MIN(len, iov[i].iov_len - off);
		at = (char *)iov[i].iov_base + off;
		if (how == COPY_ZERO) {
			memset(at, 0, part);
		} else {
			memcpy(how == COPY_OUT ? mem : at, how == COPY_OUT ? at : mem, part);
			mem += part;
		}
		len -= part;
		off = 0;
	}
}

void iov_read(const struct iovec *iov, unsigned niov, uint64_t off, void *to, uint64_t len)
{
	copy(iov, niov, off, to, len, COPY_OUT);
}

void iov_write(const struct iovec *iov, unsigned niov, uint64_t off, const void *from, uint64_t len)
{
	copy(iov, niov, off, (char *)(uintptr_t)from, len, COPY_IN);
}

void iov_zero(const struct iovec *iov, unsigned niov, uint64_t off, uint64_t len)
{
	copy(iov, niov, off, NULL, len, COPY_ZERO);
}
