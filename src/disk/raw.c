/*
 * raw.c: a file or block device whose bytes are the disk's bytes.
 *
 * With cache=none the file is opened twice: file 1 with O_DIRECT, and file 0 without, for requests whose place or length is
 * not a multiple of what the host wants of direct I/O. The kernel keeps the two views of a file coherent page by page, and the units of
 * direct I/O are no larger than a page, so that two requests of different places never share one. Buffers that are not aligned are copied.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <linux/falloc.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/lock.h"

#define ZEROES (1u << 20)
#define DIO_ALIGN 4096u /* where the host does not say */

enum { BUFFERED, DIRECT };

struct raw {
	int fd[2]; /* BUFFERED, DIRECT; -1: none */
	unsigned mem_align, off_align; /* of direct I/O */
	void *zeroes; /* never written: the host backs it by its zero page */
	bool no_punch, no_zero_range; /* the file system refused it once */
};

static struct raw *raw_of(const struct disk_req *r)
{
	return r->disk->priv;
}

/* ---- reads and writes ---- */

static void rw_next(struct disk_req *r);

static void finish(struct disk_req *r, int result)
{
	free(r->bounce);
	r->bounce = NULL;
	disk_done(r, result);
}

static void unbounce(struct disk_req *r)
{
	const char *from = r->bounce;

	for (unsigned i = 0; i < r->niov; i++) {
		memcpy(r->iov[i].iov_base, from, r->iov[i].iov_len);
		from += r->iov[i].iov_len;
	}
}

static void advance(struct disk_req *r, size_t n)
{
	r->at += n;
	if (r->bounce)
		return;
	while (r->niov && n >= r->iov->iov_len) {
		n -= r->iov->iov_len;
		r->iov++;
		r->niov--;
	}
	if (n) {
		r->iov->iov_base = (char *)r->iov->iov_base + n;
		r->iov->iov_len -= n;
	}
}

static void rw_done(struct io_req *io)
{
	struct disk_req *r = container_of(io, struct disk_req, io);

	if (io->result == -EINTR || io->result == -EAGAIN) {
		rw_next(r);
		return;
	}
	if (io->result <= 0) {
		/* Nothing at all: the file has become shorter than the disk. */
		finish(r, io->result ? (int)io->result : -EIO);
		return;
	}
	advance(r, (size_t)io->result);
	if (r->at < r->len) {
		rw_next(r);
		return;
	}
	if (r->bounce && r->op == DISK_READ)
		unbounce(r);
	finish(r, 0);
}

static bool aligned_memory(const struct disk_req *r, unsigned align)
{
	for (unsigned i = 0; i < r->niov; i++)
		if ((uintptr_t)r->iov[i].iov_base % align || r->iov[i].iov_len % align)
			return false;
	return true;
}

static int make_bounce(struct disk_req *r, unsigned align)
{
	char *to;

	if (posix_memalign(&r->bounce, MAX(align, (unsigned)sizeof(void *)), r->len)) {
		r->bounce = NULL;
		return -ENOMEM;
	}
	to = r->bounce;
	for (unsigned i = 0; r->op == DISK_WRITE && i < r->niov; i++) {
		memcpy(to, r->iov[i].iov_base, r->iov[i].iov_len);
		to += r->iov[i].iov_len;
	}
	return 0;
}

/* Sends what is left of a read or write. */
static void rw_next(struct disk_req *r)
{
	const struct raw *w = raw_of(r);
	struct io_req *io = &r->io;

	io->off = r->offset + r->at;
	if (r->bounce) {
		r->one = (struct iovec){(char *)r->bounce + r->at, r->len - r->at};
		io->iov = &r->one;
		io->niov = 1;
	} else {
		io->iov = r->iov;
		io->niov = MIN(r->niov, (unsigned)IO_VECS_MAX);
	}
	/* A short transfer may leave the rest unaligned. */
	io->file = w->fd[DIRECT] >= 0 && io->off % w->off_align == 0 &&
				   (r->len - r->at) % w->off_align == 0 &&
				   (r->bounce || aligned_memory(r, w->mem_align))
			   ? DIRECT
			   : BUFFERED;
	io_submit(r->disk->io, io);
}

static void rw_start(struct disk_req *r)
{
	const struct raw *w = raw_of(r);

	r->io.op = r->op == DISK_READ ? IO_READ : IO_WRITE;
	r->io.dsync = r->op == DISK_WRITE &&
		      (r->fua || r->disk->o.cache == DISK_CACHE_WRITETHROUGH);
	r->io.done = rw_done;
	if (w->fd[DIRECT] >= 0 && r->offset % w->off_align == 0 && r->len % w->off_align == 0 &&
		(!aligned_memory(r, w->mem_align) || r->niov > IO_VECS_MAX) &&
		make_bounce(r, MAX(w->mem_align, w->off_align))) {
		disk_done_soon(r, -ENOMEM);
		return;
	}
	rw_next(r);
}

/* ---- flush, discard, zeroes ---- */

static void plain_done(struct io_req *io)
{
	struct disk_req *r = container_of(io, struct disk_req, io);

	if (io->result == -EINTR || io->result == -EAGAIN)
		io_submit(r->disk->io, io);
	else
		finish(r, io->result < 0 ? (int)io->result : 0);
}

static void flush(struct disk_req *r)
{
	r->io.op = IO_FDATASYNC;
	r->io.file = BUFFERED;
	r->io.done = plain_done;
	io_submit(r->disk->io, &r->io);
}

static void fallocate_start(struct disk_req *r, int mode, void (*done)(struct io_req *))
{
	r->io.op = IO_FALLOCATE;
	r->io.file = BUFFERED;
	r->io.mode = mode | FALLOC_FL_KEEP_SIZE;
	r->io.off = r->offset;
	r->io.len = r->len;
	r->io.done = done;
	io_submit(r->disk->io, &r->io);
}

static void discard_done(struct io_req *io)
{
	struct disk_req *r = container_of(io, struct disk_req, io);

	if (io->result == -EOPNOTSUPP) {
		/* A hint that cannot be taken is not an error. */
		raw_of(r)->no_punch = true;
		finish(r, 0);
		return;
	}
	plain_done(io);
}

/* The ways to make zeroes, best first. Each that the file system refuses hands over to the next. */
enum { BY_PUNCH, BY_ZERO_RANGE, BY_WRITE };

static void zero_next(struct disk_req *r);

static void zero_end(struct disk_req *r)
{
	if (r->fua || r->disk->o.cache == DISK_CACHE_WRITETHROUGH)
		flush(r);
	else
		finish(r, 0);
}

static void zero_done(struct io_req *io)
{
	struct disk_req *r = container_of(io, struct disk_req, io);
	struct raw *w = raw_of(r);

	if (io->result == -EINTR || io->result == -EAGAIN) {
		zero_next(r);
	} else if (io->op == IO_FALLOCATE && io->result == -EOPNOTSUPP) {
		*(r->step == BY_PUNCH ? &w->no_punch : &w->no_zero_range) = true;
		r->step++;
		zero_next(r);
	} else if (io->result < 0 || (io->op == IO_WRITE && !io->result)) {
		finish(r, io->result ? (int)io->result : -EIO);
	} else if (io->op == IO_FALLOCATE) {
		zero_end(r);
	} else {
		r->at += (uint64_t)io->result;
		if (r->at < r->len)
			zero_next(r);
		else
			zero_end(r);
	}
}

static void zero_next(struct disk_req *r)
{
	const struct raw *w = raw_of(r);

	if (r->step == BY_PUNCH && (w->no_punch || !r->unmap || !r->disk->o.discard))
		r->step = BY_ZERO_RANGE;
	if (r->step == BY_ZERO_RANGE && w->no_zero_range)
		r->step = BY_WRITE;
	if (r->step != BY_WRITE) {
		fallocate_start(r,
			r->step == BY_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE,
			zero_done);
		return;
	}
	r->one = (struct iovec){w->zeroes, MIN(r->len - r->at, (uint64_t)ZEROES)};
	r->io.op = IO_WRITE;
	r->io.file = BUFFERED;
	r->io.dsync = false;
	r->io.off = r->offset + r->at;
	r->io.iov = &r->one;
	r->io.niov = 1;
	r->io.done = zero_done;
	io_submit(r->disk->io, &r->io);
}

static void raw_submit(struct disk *d, struct disk_req *r)
{
	const struct raw *w = d->priv;

	switch (r->op) {
	case DISK_READ:
	case DISK_WRITE:
		rw_start(r);
		return;
	case DISK_FLUSH:
		flush(r);
		return;
	case DISK_DISCARD:
		if (!d->o.discard || w->no_punch)
			disk_done_soon(r, 0);
		else
			fallocate_start(r, FALLOC_FL_PUNCH_HOLE, discard_done);
		return;
	default:
		zero_next(r);
	}
}

/* ---- life ---- */

static int open_error(const char *path, bool write, int code, struct err *e)
{
	switch (code) {
	case -ENOENT:
		return err_set(e, code,
			"disk %s: there is no such file; `truncate -s 8G %s` makes an empty disk",
			path, path);
	case -EACCES:
	case -EPERM:
	case -EROFS:
		if (write && !access(path, R_OK))
			return err_set(e, -EROFS,
				"disk %s may only be read: add readonly=on, or allow writing "
				"(chmod u+w)",
				path);
		return err_sys(e, code, "disk %s cannot be opened", path);
	case -EISDIR:
		return err_set(e, -EINVAL, "disk %s is a directory, not a disk image", path);
	default:
		return err_sys(e, code, "disk %s cannot be opened", path);
	}
}

static int read_size(const struct disk *d, uint64_t *size, struct err *e)
{
	const struct raw *w = d->priv;
	off_t end = lseek(w->fd[BUFFERED], 0, SEEK_END); /* also of block devices */

	if (end < 0)
		return err_sys(e, -errno, "disk %s: its size cannot be read", d->o.path);
	if (!end)
		return err_set(e, -EINVAL,
			"disk %s is empty; `truncate -s 8G %s` makes it 8 GiB large", d->o.path,
			d->o.path);
	if (end % DISK_SECTOR)
		return err_set(e, -EINVAL,
			"disk %s: %lld bytes are not a multiple of %u: is the file cut off? Was it "
			"copied "
			"completely? Is it a raw image?",
			d->o.path, (long long)end, DISK_SECTOR);
	*size = (uint64_t)end;
	return 0;
}

static int open_direct(struct disk *d, struct err *e)
{
	struct raw *w = d->priv;
	char self[40];
	struct statx sx = {0};

	/* By descriptor: the name may mean another file by now. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", w->fd[BUFFERED]);
	w->fd[DIRECT] = open(self, (d->o.readonly ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (w->fd[DIRECT] < 0)
		return err_set(e, errno == EINVAL ? -EOPNOTSUPP : -errno,
			"disk %s: this file system has no direct I/O: use cache=writeback instead "
			"of cache=none",
			d->o.path);
	w->mem_align = w->off_align = DIO_ALIGN;
	if (!statx(w->fd[DIRECT], "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) &&
		(sx.stx_mask & STATX_DIOALIGN) && is_pow2(sx.stx_dio_offset_align) &&
		is_pow2(sx.stx_dio_mem_align)) {
		w->mem_align = sx.stx_dio_mem_align;
		w->off_align = sx.stx_dio_offset_align;
	}
	/* Above a page the two views of the file could meet in one unit. */
	if (w->off_align > DIO_ALIGN)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: direct I/O in units of %u bytes: use cache=writeback", d->o.path,
			w->off_align);
	return 0;
}

static int open_files(struct disk *d, struct err *e)
{
	struct raw *w = d->priv;
	struct stat st;
	int rc;

	/* Not blocking: a pipe by that name would wait for its other end for ever. */
	w->fd[BUFFERED] = open(
		d->o.path, (d->o.readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (w->fd[BUFFERED] < 0)
		return open_error(d->o.path, !d->o.readonly, -errno, e);
	/* From here on it may block: a ring would answer EAGAIN instead of doing the work. */
	if (fstat(w->fd[BUFFERED], &st) || fcntl(w->fd[BUFFERED], F_SETFL, 0))
		return err_sys(e, -errno, "disk %s", d->o.path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, -EINVAL, "disk %s is %s: a file or a block device is needed",
			d->o.path,
			S_ISDIR(st.st_mode) ? "a directory" : "neither a file nor a block device");
	rc = disk_lock(w->fd[BUFFERED], d->o.path, !d->o.readonly, e);
	if (!rc)
		rc = read_size(d, &d->size, e);
	if (rc)
		return rc;
	if (is_pow2((uint64_t)st.st_blksize) && st.st_blksize >= DISK_SECTOR &&
		st.st_blksize <= 1 << 20)
		d->physical = (unsigned)st.st_blksize;
	return d->o.cache == DISK_CACHE_NONE ? open_direct(d, e) : 0;
}

static int raw_open(struct disk *d, struct err *e)
{
	struct raw *w = calloc(1, sizeof(*w));
	struct io_opts o = {.loop = d->o.loop, .batch = disk_batch, .ctx = d};
	int rc;

	if (!w)
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	w->fd[BUFFERED] = w->fd[DIRECT] = -1;
	d->priv = w;
	rc = open_files(d, e);
	if (rc)
		return rc;
	w->zeroes = mmap(NULL, ZEROES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->zeroes == MAP_FAILED) {
		w->zeroes = NULL;
		return err_set(e, -ENOMEM, "disk %s: out of memory", d->o.path);
	}
	d->can_discard = d->o.discard && !d->o.readonly;
	o.fds[o.nfds++] = w->fd[BUFFERED];
	if (w->fd[DIRECT] >= 0)
		o.fds[o.nfds++] = w->fd[DIRECT];
	rc = io_create(&d->io, d->o.io, &o, e);
	return rc ? err_wrap(e, "disk %s", d->o.path) : 0;
}

static void raw_close(struct disk *d)
{
	struct raw *w = d->priv;

	if (d->io)
		d->io->ops->destroy(d->io);
	if (!w)
		return;
	if (w->fd[BUFFERED] >= 0)
		disk_unlock(w->fd[BUFFERED]); /* unlocking what is not locked is fine */
	if (w->zeroes)
		munmap(w->zeroes, ZEROES);
	for (unsigned i = 0; i < ARRAY_SIZE(w->fd); i++)
		if (w->fd[i] >= 0)
			close(w->fd[i]);
	free(w);
}

static int raw_resize(struct disk *d, uint64_t size, struct err *e)
{
	const struct raw *w = d->priv;
	uint64_t now;
	int rc = read_size(d, &now, e);

	if (rc)
		return rc;
	if (!size && now < d->size)
		return err_set(e, -EINVAL,
			"disk %s has shrunk from %llu to %llu bytes under its machine", d->o.path,
			(unsigned long long)d->size, (unsigned long long)now);
	if (size > now && ftruncate(w->fd[BUFFERED], (off_t)size))
		return errno == EINVAL
			       ? err_set(e, -EINVAL,
					 "disk %s: is not a file that can be grown here: extend "
					 "the device, then "
					 "resize to 0",
					 d->o.path)
			       : err_sys(e, -errno, "disk %s: cannot be grown to %llu bytes",
					 d->o.path, (unsigned long long)size);
	d->size = size ?: now;
	return 0;
}

const struct disk_format disk_raw = {
	.name = "raw",
	.help = "the file's bytes are the disk's",
	.open = raw_open,
	.close = raw_close,
	.submit = raw_submit,
	.resize = raw_resize,
};
