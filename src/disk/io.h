/*
 * io.h: asynchronous operations on open files of the host: what file_host.c is written on.
 *
 *   file_host.c --io_submit()--> uring (disk_uring.c) or threads (disk_threads.c) --done(), in the loop--> file_host.c
 *
 * An io serves one file: a small fixed table of its descriptors (with and without direct I/O), which it is given when it is made and never extends. It
 * runs no system call on any other, and a ring is restricted to these and to the operations below, so that a process that was taken over cannot use
 * the ring to step around its seccomp filter (io_uring_register(2), restrictions).
 *
 * Rules. submit, drain, destroy: loop thread. `done` is called in the loop thread, never from inside io_submit(), and may submit.
 * What a request points to stays in place until `done`. Nothing is ordered against anything else. A read or write may be short.
 * After each group of completions `batch` is called once.
 */
#ifndef LODGE_DISK_IO_H
#define LODGE_DISK_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct err;
struct uv_loop_s;

enum io_op { IO_READ, IO_WRITE, IO_FDATASYNC, IO_FALLOCATE };
#define IO_FILES_MAX 4
#define IO_VECS_MAX 1024 /* of one request: the kernel's UIO_MAXIOV */

struct io_req {
	enum io_op op;
	unsigned file; /* index into the io's files */
	bool dsync; /* a write that is on the medium when it completes */
	int mode; /* of fallocate(2) */
	uint64_t off, len; /* len: fallocate only */
	const struct iovec *iov;
	unsigned niov;
	void (*done)(struct io_req *r);
	ssize_t result; /* bytes or 0; negative errno */
	struct io_req *next; /* the io's own, from submit to done */
	bool alone; /* the io's own: is not merged with others */
};

enum io_kind { IO_AUTO, IO_URING, IO_THREADS };

struct io;
struct io_opts {
	struct uv_loop_s *loop;
	int fds[IO_FILES_MAX]; /* borrowed: must outlive the io */
	unsigned nfds;
	void (*batch)(void *ctx);
	void *ctx;
};

struct io_ops {
	const char *name;
	/* -ENOSYS, -EPERM and the like: this host does not have it. */
	int (*create)(struct io **out, const struct io_opts *o, struct err *e);
	/* Nothing may be in flight. */
	void (*destroy)(struct io *io);
	void (*submit)(struct io *io, struct io_req *r);
	/* Blocks until nothing is in flight; every `done` has been called then. */
	void (*drain)(struct io *io);
	/*
	 * Memory that stays where it is until other memory is named (NULL: none): for operations of one vector in it the kernel need not look up page by
	 * page what the data is (io_uring_register(2), IORING_REGISTER_BUFFERS). Nothing is in flight. On failure (RLIMIT_MEMLOCK) there is none.
	 * NULL: makes no difference here.
	 */
	int (*memory)(struct io *io, const struct iovec *mem);
};

/* Begins each back end's own struct. */
struct io {
	const struct io_ops *ops;
	struct io_opts o;
};

extern const struct io_ops io_uring_ops, io_threads_ops;

/* IO_AUTO: the ring where the host permits one, else threads. */
int io_create(struct io **out, enum io_kind kind, const struct io_opts *o, struct err *e);

static inline void io_submit(struct io *io, struct io_req *r)
{
	io->ops->submit(io, r);
}

#endif
