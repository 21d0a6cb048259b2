/*
 * file_host.c: a file or block device of the host.
 *
 * With `direct` the file is opened twice: file 1 with O_DIRECT, and file 0 without, for requests whose place or length is not a
 * multiple of what direct I/O is done in. The kernel keeps the two views of a file coherent page by page, so that direct I/O is done in
 * whole pages wherever the other kind may occur at any byte: two requests of different places then never share a page.
 * Buffers that are not aligned are copied, and large ones that are scattered where that is quicker (gather.h).
 *
 * Once fdatasync(2) has failed, the page cache may have dropped what it could not write and call it clean, and the next fdatasync succeeds without it
 * (fsync(2), Notes). So a file of which the page cache had something to write is durable no more until it is opened again: all its flushes fail. With
 * `direct` that are requests that are not in its units, since the last flush.
 *
 * A file system that its host has made read-only while we write is -EPERM, as a block device is: -EROFS is what disks say of themselves.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <linux/falloc.h>
#include <linux/fs.h>

#include "base/err.h"
#include "base/pages.h"
#include "base/util.h"
#include "disk/file.h"
#include "disk/gather.h"
#include "disk/lock.h"

#define ZEROES (2 * MiB)
#define PAGE 4096u

enum { BUFFERED, DIRECT };

struct host {
	struct file f;
	struct io *io;
	int fd[2]; /* BUFFERED, DIRECT; -1: none */
	unsigned mem_align, unit; /* of direct I/O */
	void *zeroes; /* never written: the host backs it by a page of zeroes, a large one if it has that */
	bool no_punch, no_zero_range; /* the file system refused it once */
	int lost; /* what the first fdatasync that failed said */
	unsigned failures; /* of flushes and durable writes */
	uint64_t begun, done,
		synced; /* writes through the page cache; how many of them a flush has made durable */
	struct gather *gather; /* NULL: not of direct I/O */
	struct iovec memory; /* that was named, and is in one piece */
};

static struct host *host_of(struct file *f)
{
	return container_of(f, struct host, f);
}

/* Does it leave something in the page cache that has to be written? */
static bool is_cached(const struct io_req *io)
{
	return io->op == IO_WRITE ? io->file == BUFFERED
				  : io->op == IO_FALLOCATE && (io->off | io->len) % PAGE;
}

static void send(struct file_req *r)
{
	struct host *h = host_of(r->file);

	h->begun += is_cached(&r->io);
	io_submit(h->io, &r->io);
}

static void note_lost(struct host *h, int code)
{
	h->failures++;
	if ((h->fd[DIRECT] < 0 || h->begun != h->synced) && !h->lost)
		h->lost = code;
	h->f.lost = h->lost;
}

static int ended_as(ssize_t code)
{
	return code == -EROFS ? -EPERM : (int)code;
}

static void ended(struct file_req *r, ssize_t code)
{
	file_done(r, ended_as(code));
}

/* ---- reads and writes ---- */

static void rw_next(struct file_req *r);

static void rw_over(struct file_req *r, int rc)
{
	if (!rc && r->bounce && r->op == FILE_READ)
		iov_write(r->iov, r->niov, 0, r->bounce, r->len);
	if (r->gathers)
		gather_end(
			host_of(r->file)->gather, &r->note, r->note.copied ? r->bounce : NULL, !rc);
	if (r->gathers && r->note.copied)
		r->bounce = NULL;
	file_done(r, rc);
}

/* The file ends inside the request. Before the place where we know it to end: somebody has cut it off, and what was there is gone. */
static void read_past_end(struct file_req *r)
{
	if (r->file->o.strict || r->off + r->at < r->file->size) {
		rw_over(r, -EIO);
		return;
	}
	if (r->bounce)
		memset((char *)r->bounce + r->at, 0, r->len - r->at);
	else
		iov_zero(r->iov, r->niov, r->at, r->len - r->at);
	rw_over(r, 0);
}

/* The host tells of what it could not write only once: what was under way beside one that failed may have failed as well. */
static void send_again(struct file_req *r)
{
	r->step = host_of(r->file)->failures;
	r->at = 0;
	rw_next(r);
}

static void rw_done(struct io_req *io)
{
	struct file_req *r = container_of(io, struct file_req, io);

	host_of(r->file)->done += is_cached(io);
	if (io->result == -EINTR || io->result == -EAGAIN) {
		rw_next(r);
		return;
	}
	if (!io->result && r->op == FILE_READ) {
		read_past_end(r);
		return;
	}
	if (io->result <= 0) {
		/* It may be told of what others wrote before. */
		if (r->io.dsync && io->result == -EIO)
			note_lost(host_of(r->file), -EIO);
		rw_over(r, ended_as(io->result ?: -EIO));
		return;
	}
	r->at += (uint64_t)io->result;
	if (r->at == r->len && io->dsync && is_cached(io) && r->step != host_of(r->file)->failures)
		send_again(r);
	else if (r->at < r->len)
		rw_next(r);
	else
		rw_over(r, 0);
}

static bool aligned_memory(const struct file_req *r, unsigned align)
{
	for (unsigned i = 0; i < r->niov; i++)
		if ((uintptr_t)r->iov[i].iov_base % align || r->iov[i].iov_len % align)
			return false;
	return true;
}

static int make_bounce(struct file_req *r, unsigned align)
{
	if (posix_memalign(&r->bounce, MAX(align, (unsigned)sizeof(void *)), r->len)) {
		r->bounce = NULL;
		return -ENOMEM;
	}
	if (r->op == FILE_WRITE)
		iov_read(r->iov, r->niov, 0, r->bounce, r->len);
	return 0;
}

/* What is left of a request that was sent in part, or has more vectors than a system call takes. Memory for it was got at the start. */
static void set_vectors(struct file_req *r)
{
	struct io_req *io = &r->io;

	if (r->bounce) {
		r->one = (struct iovec){(char *)r->bounce + r->at, r->len - r->at};
		io->iov = &r->one;
		io->niov = 1;
	} else if (r->niov == 1) {
		r->one = (struct iovec){(char *)r->iov->iov_base + r->at, r->iov->iov_len - r->at};
		io->iov = &r->one;
		io->niov = 1;
	} else if (!r->at && r->niov <= IO_VECS_MAX) {
		io->iov = r->iov;
		io->niov = r->niov;
	} else {
		io->niov = iov_slice(r->cut, MIN(r->niov, (unsigned)IO_VECS_MAX), r->iov, r->niov,
			r->at, r->len - r->at);
		io->iov = r->cut;
	}
}

static void rw_next(struct file_req *r)
{
	struct host *h = host_of(r->file);
	struct io_req *io = &r->io;

	if (r->at && r->niov > 1 && !r->bounce && !r->cut) {
		r->cut = malloc(MIN(r->niov, (unsigned)IO_VECS_MAX) * sizeof(*r->cut));
		if (!r->cut) {
			rw_over(r, -ENOMEM);
			return;
		}
	}
	io->off = r->off + r->at;
	set_vectors(r);
	/* A short transfer may leave the rest unaligned. */
	io->file = h->fd[DIRECT] >= 0 && io->off % h->unit == 0 &&
				   (r->len - r->at) % h->unit == 0 &&
				   (r->bounce || aligned_memory(r, h->mem_align))
			   ? DIRECT
			   : BUFFERED;
	send(r);
}

static void fail_soon(struct file_req *r, int code);

/* Not in memory that was named, which is in one piece. */
static bool may_be_scattered(const struct host *h, const struct file_req *r)
{
	return r->niov > 1 ||
	       (uintptr_t)r->iov->iov_base - (uintptr_t)h->memory.iov_base >= h->memory.iov_len;
}

static void rw_start(struct file_req *r)
{
	struct host *h = host_of(r->file);
	bool direct = h->fd[DIRECT] >= 0 && r->off % h->unit == 0 && r->len % h->unit == 0;

	r->io.op = r->op == FILE_READ ? IO_READ : IO_WRITE;
	r->io.dsync = r->op == FILE_WRITE && r->fua;
	r->io.done = rw_done;
	r->step = h->failures;
	r->gathers = direct && h->gather && may_be_scattered(h, r);
	if (r->gathers)
		r->bounce = gather_begin(h->gather, r->op == FILE_WRITE, r->len, &r->note);
	if (r->bounce) {
		if (r->op == FILE_WRITE)
			iov_read(r->iov, r->niov, 0, r->bounce, r->len);
	} else if (direct && (!aligned_memory(r, h->mem_align) || r->niov > IO_VECS_MAX)) {
		if (make_bounce(r, MAX(h->mem_align, h->unit))) {
			fail_soon(r, -ENOMEM);
			return;
		}
	} else if (r->niov > IO_VECS_MAX) {
		r->cut = malloc(IO_VECS_MAX * sizeof(*r->cut));
		if (!r->cut) {
			fail_soon(r, -ENOMEM);
			return;
		}
	}
	rw_next(r);
}

/* ---- flush, discard, zeroes ---- */

static void plain_done(struct io_req *io)
{
	struct file_req *r = container_of(io, struct file_req, io);

	if (io->result == -EINTR || io->result == -EAGAIN)
		send(r);
	else
		ended(r, io->result < 0 ? io->result : 0);
}

/* Were it to grow again by what is written behind the cut, zeroes would be taken for what was there. */
static bool cut_off(struct file *f)
{
	off_t end = f->block_device ? -1 : lseek(host_of(f)->fd[BUFFERED], 0, SEEK_END);

	return end >= 0 && (uint64_t)end < f->size;
}

static void flush_done(struct io_req *io)
{
	struct file_req *r = container_of(io, struct file_req, io);
	struct host *h = host_of(r->file);

	if (io->result < 0 && io->result != -EINTR && io->result != -EAGAIN)
		note_lost(h, (int)io->result);
	/* Also that of one which was under way beside the one that failed: only one of them is told. */
	else if (h->lost)
		io->result = h->lost;
	else if (!io->result && cut_off(&h->f))
		io->result = -EIO;
	else if (!io->result)
		h->synced = MAX(h->synced, r->at);
	plain_done(io);
}

static void flush(struct file_req *r)
{
	r->at = host_of(r->file)->done; /* others are not promised */
	r->io.op = IO_FDATASYNC;
	r->io.file = BUFFERED;
	r->io.done = flush_done;
	io_submit(host_of(r->file)->io, &r->io);
}

static void fail_done(struct io_req *io)
{
	struct file_req *r = container_of(io, struct file_req, io);

	file_done(r, (int)r->step * -1);
}

/* A read of nothing carries the error to the loop's next turn. */
static void fail_soon(struct file_req *r, int code)
{
	r->step = (unsigned)-code;
	r->one = (struct iovec){NULL, 0};
	r->io.op = IO_READ;
	r->io.file = BUFFERED;
	r->io.off = 0;
	r->io.iov = &r->one;
	r->io.niov = 0;
	r->io.done = fail_done;
	io_submit(host_of(r->file)->io, &r->io);
}

static void fallocate_start(struct file_req *r, int mode, void (*done)(struct io_req *))
{
	r->io.op = IO_FALLOCATE;
	r->io.file = BUFFERED;
	r->io.mode = mode | FALLOC_FL_KEEP_SIZE;
	r->io.off = r->off;
	r->io.len = r->len;
	r->io.done = done;
	send(r);
}

static void discard_done(struct io_req *io)
{
	struct file_req *r = container_of(io, struct file_req, io);

	host_of(r->file)->done += is_cached(io);
	if (io->result == -EOPNOTSUPP || io->result == -EBUSY) {
		/* A hint that cannot be taken is not an error. */
		host_of(r->file)->no_punch = true;
		file_done(r, 0);
		return;
	}
	if (io->result == -EINVAL) {
		file_done(r, 0); /* not whole sectors of the device */
		return;
	}
	plain_done(io);
}

/* The ways to make zeroes, best first. Each that the file system refuses hands over to the next. FILE_FILL begins with the last. */
enum { BY_PUNCH, BY_ZERO_RANGE, BY_WRITE };

static void zero_next(struct file_req *r);

static void zero_end(struct file_req *r)
{
	if (r->fua)
		flush(r);
	else
		file_done(r, 0);
}

static void zero_done(struct io_req *io)
{
	struct file_req *r = container_of(io, struct file_req, io);
	struct host *h = host_of(r->file);

	h->done += is_cached(io);
	if (io->result == -EINTR || io->result == -EAGAIN) {
		zero_next(r);
	} else if (io->op == IO_FALLOCATE && io->result == -EOPNOTSUPP) {
		*(r->step == BY_PUNCH ? &h->no_punch : &h->no_zero_range) = true;
		r->step++;
		zero_next(r);
	} else if (io->op == IO_FALLOCATE && io->result == -EINVAL) {
		r->step = BY_WRITE; /* not whole sectors of the device */
		zero_next(r);
	} else if (io->result < 0 || (io->op == IO_WRITE && !io->result)) {
		ended(r, io->result ?: -EIO);
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

static void zero_next(struct file_req *r)
{
	struct host *h = host_of(r->file);

	if (r->step == BY_PUNCH && (h->no_punch || !r->unmap || !r->file->o.discard))
		r->step = BY_ZERO_RANGE;
	if (r->step == BY_ZERO_RANGE && h->no_zero_range)
		r->step = BY_WRITE;
	if (r->step != BY_WRITE) {
		fallocate_start(r,
			r->step == BY_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE,
			zero_done);
		return;
	}
	r->one = (struct iovec){h->zeroes, MIN(r->len - r->at, (uint64_t)ZEROES)};
	r->io.op = IO_WRITE;
	r->io.dsync = false;
	r->io.off = r->off + r->at;
	/* As data, so that what is written beside it shares no page with it. */
	r->io.file = h->fd[DIRECT] >= 0 && r->io.off % h->unit == 0 && r->one.iov_len % h->unit == 0
			     ? DIRECT
			     : BUFFERED;
	r->io.iov = &r->one;
	r->io.niov = 1;
	r->io.done = zero_done;
	send(r);
}

static void submit(struct file *f, struct file_req *r)
{
	switch (r->op) {
	case FILE_READ:
	case FILE_WRITE:
		rw_start(r);
		return;
	case FILE_FLUSH:
		flush(r);
		return;
	case FILE_DISCARD:
		if (!f->o.discard || host_of(f)->no_punch)
			fail_soon(r, 0);
		else
			fallocate_start(r, FALLOC_FL_PUNCH_HOLE, discard_done);
		return;
	case FILE_FILL:
		r->step = BY_WRITE;
		zero_next(r);
		return;
	default:
		zero_next(r);
	}
}

static void drain(struct file *f)
{
	struct host *h = host_of(f);

	h->io->ops->drain(h->io);
}

static void memory(struct file *f, const struct iovec *mem)
{
	struct host *h = host_of(f);

	h->memory = mem ? *mem : (struct iovec){0};
	/* Without it everything works as well. */
	if (h->io->ops->memory)
		(void)h->io->ops->memory(h->io, mem);
}

/* ---- size ---- */

static int measure(struct file *f, uint64_t *size, struct err *e)
{
	off_t end = lseek(host_of(f)->fd[BUFFERED], 0, SEEK_END); /* also of block devices */

	if (end < 0)
		return err_sys(e, -errno, "%s: its size cannot be read", f->path);
	*size = (uint64_t)end;
	return 0;
}

static int resize(struct file *f, uint64_t size, struct err *e)
{
	if (!ftruncate(host_of(f)->fd[BUFFERED], (off_t)size))
		return 0;
	if (errno == EINVAL && f->block_device)
		return err_set(e, -EINVAL,
			"%s: is a block device, which only its own tools make larger or smaller; a "
			"machine that runs sees that by disk_resize with a size of 0",
			f->path);
	return err_sys(
		e, -errno, "%s: cannot be made %llu bytes long", f->path, (unsigned long long)size);
}

static int extent(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	int fd = host_of(f)->fd[BUFFERED];
	off_t at = lseek(fd, (off_t)off, SEEK_DATA), end;

	if (at < 0 && errno == ENXIO) {
		*data = false; /* up to the end */
		return 0;
	}
	if (at < 0)
		return -errno == -EINVAL ? -EOPNOTSUPP : -errno;
	*data = (uint64_t)at == off;
	end = *data ? lseek(fd, (off_t)off, SEEK_HOLE) : at;
	if (end < 0)
		return -errno;
	*len = MIN(*len, (uint64_t)end - off);
	return 0;
}

static uint64_t room(struct file *f)
{
	struct statfs s;

	if (f->block_device || fstatfs(host_of(f)->fd[BUFFERED], &s))
		return UINT64_MAX;
	return (uint64_t)s.f_bavail * (uint64_t)s.f_bsize;
}

/* ---- life ---- */

/* What is in the way of a new file. */
static int is_there(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st))
		return err_set(e, -EEXIST,
			"disk %s is a link that leads to no file: remove it, or name the file",
			path);
	if (S_ISDIR(st.st_mode))
		return err_set(e, -EEXIST, "disk %s: is there already, as a directory", path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, -EEXIST,
			"disk %s: is there already, and neither a file nor a block device", path);
	return err_set(e, -EEXIST,
		S_ISBLK(st.st_mode) ? "disk %s: is a block device: --force writes over what it has"
				    : "disk %s: is there already (--force replaces it)",
		path);
}

static int open_error(const char *path, bool write, bool create, int code, struct err *e)
{
	switch (code) {
	case -ENOENT:
		if (create)
			return err_set(e, code, "disk %s: there is no such folder", path);
		return err_set(e, code,
			"disk %s: there is no such file; `lodge disk create %s:FORMAT --size 8G` "
			"makes an empty disk",
			path, path);
	case -EEXIST:
		return is_there(path, e);
	case -EACCES:
	case -EPERM:
	case -EROFS:
		if (write && !access(path, R_OK))
			return err_set(e, -EROFS,
				"disk %s may only be read: allow writing (chmod u+w); a machine "
				"that needs no more takes it with readonly=on",
				path);
		return err_sys(e, code, "disk %s cannot be %s", path, create ? "made" : "opened");
	case -EISDIR:
		return err_set(e, -EINVAL, "disk %s is a directory, not a disk image", path);
	default:
		return err_sys(e, code, "disk %s cannot be opened", path);
	}
}

/* Linux opens such a device for writing, and fails what is written. */
static int may_write(const struct host *h, struct err *e)
{
	int only_read = 0;

	if (!h->f.block_device || h->f.o.readonly || ioctl(h->fd[BUFFERED], BLKROGET, &only_read) ||
		!only_read)
		return 0;
	return err_set(e, -EROFS,
		"disk %s is a device that may only be read: a machine that needs no more takes it "
		"with readonly=on",
		h->f.path);
}

static int open_direct(struct host *h, struct err *e)
{
	char self[40];
	struct statx sx = {0};

	/* By descriptor: the name may mean another file by now. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", h->fd[BUFFERED]);
	h->fd[DIRECT] = open(self, (h->f.o.readonly ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (h->fd[DIRECT] < 0)
		return err_set(e, errno == EINVAL ? -EOPNOTSUPP : -errno,
			"disk %s: this file system has no direct I/O: use cache=writeback instead "
			"of cache=none",
			h->f.path);
	h->mem_align = h->unit = PAGE;
	if (!statx(h->fd[DIRECT], "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) &&
		(sx.stx_mask & STATX_DIOALIGN) && is_pow2(sx.stx_dio_offset_align) &&
		is_pow2(sx.stx_dio_mem_align)) {
		h->mem_align = sx.stx_dio_mem_align;
		h->unit = sx.stx_dio_offset_align;
	}
	/* Above a page the two views of the file could meet in one unit. */
	if (h->unit > PAGE)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: direct I/O in units of %u bytes: use cache=writeback", h->f.path,
			h->unit);
	if (!h->f.o.sectors || h->unit > 512)
		h->unit = PAGE;
	h->f.align = MAX(h->unit, h->mem_align);
	return 0;
}

static int open_files(struct host *h, struct err *e)
{
	const struct file_opts *o = &h->f.o;
	int flags = (o->readonly ? O_RDONLY : O_RDWR) | (o->create ? O_CREAT | O_EXCL : 0);
	struct stat st;
	int rc;

	/* Not blocking: a pipe by that name would wait for its other end for ever. */
	h->fd[BUFFERED] = open(o->at ?: o->path, flags | O_CLOEXEC | O_NONBLOCK, 0644);
	h->f.o.at = NULL;
	if (h->fd[BUFFERED] < 0)
		return open_error(o->path, !o->readonly, o->create, -errno, e);
	/* From here on it may block: a ring would answer EAGAIN instead of doing the work. */
	if (fstat(h->fd[BUFFERED], &st) || fcntl(h->fd[BUFFERED], F_SETFL, 0))
		return err_sys(e, -errno, "disk %s", o->path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, -EINVAL, "disk %s is %s: a file or a block device is needed",
			o->path,
			S_ISDIR(st.st_mode) ? "a directory" : "neither a file nor a block device");
	h->f.block_device = S_ISBLK(st.st_mode);
	if (is_pow2((uint64_t)st.st_blksize) && st.st_blksize >= 512 && st.st_blksize <= 1 << 20)
		h->f.physical = (unsigned)st.st_blksize;
	rc = may_write(h, e);
	if (!rc && !o->no_lock)
		rc = disk_lock(h->fd[BUFFERED], o->path, !o->readonly, e);
	if (!rc)
		rc = measure(&h->f, &h->f.size, e);
	if (!rc && o->direct)
		rc = open_direct(h, e);
	return rc;
}

static void on_batch(void *ctx)
{
	struct host *h = ctx;
	struct files *fs = h->f.owner;

	if (fs->batch)
		fs->batch(fs->ctx);
}

static int host_lock(struct file *f, bool on, struct err *e)
{
	struct host *h = host_of(f);

	if (on)
		return disk_lock(h->fd[BUFFERED], f->path, !f->o.readonly, e);
	if (!f->o.no_lock)
		disk_unlock(h->fd[BUFFERED]); /* unlocking what is not locked is fine */
	return 0;
}

static void host_close(struct file *f)
{
	struct host *h = host_of(f);

	if (h->io)
		h->io->ops->destroy(h->io);
	if (h->fd[BUFFERED] >= 0)
		host_lock(f, false, NULL);
	gather_destroy(h->gather);
	pages_free(h->zeroes, ZEROES);
	for (unsigned i = 0; i < ARRAY_SIZE(h->fd); i++)
		if (h->fd[i] >= 0)
			close(h->fd[i]);
	free(h);
}

static const struct file_ops host_ops = {.submit = submit,
	.drain = drain,
	.memory = memory,
	.truncate = resize,
	.measure = measure,
	.extent = extent,
	.room = room,
	.lock = host_lock,
	.close = host_close};

static int start(struct host *h, struct err *e)
{
	struct io_opts io = {.loop = h->f.owner->loop, .batch = on_batch, .ctx = h};
	int rc = open_files(h, e);

	if (rc)
		return rc;
	h->zeroes = pages_alloc(ZEROES);
	if (!h->zeroes || mprotect(h->zeroes, ZEROES, PROT_READ))
		return err_set(e, -ENOMEM, "disk %s: out of memory", h->f.path);
	io.fds[io.nfds++] = h->fd[BUFFERED];
	if (h->fd[DIRECT] >= 0) {
		io.fds[io.nfds++] = h->fd[DIRECT];
		h->gather = gather_create();
	}
	rc = io_create(&h->io, h->f.owner->io, &io, e);
	if (rc)
		return err_wrap(e, "disk %s", h->f.path);
	h->f.kind = h->io->ops->name;
	return 0;
}

int file_host_open(struct file **out, struct files *fs, const struct file_opts *o, struct err *e)
{
	struct host *h = calloc(1, sizeof(*h));
	int rc;

	if (!h)
		return err_set(e, -ENOMEM, "disk %s: out of memory", o->path);
	h->fd[BUFFERED] = h->fd[DIRECT] = -1;
	rc = file_init(&h->f, &host_ops, fs, o, e);
	if (rc) {
		free(h);
		return rc;
	}
	rc = start(h, e);
	if (rc) {
		file_close(&h->f);
		return rc;
	}
	*out = &h->f;
	return 0;
}
