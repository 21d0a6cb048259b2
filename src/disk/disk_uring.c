/*
 * disk_uring.c: file operations through one io_uring for each disk.
 *
 *   io_submit() --> list --uv_prepare, once a loop turn--> ring --eventfd, uv_poll--> done
 *
 * The ring is restricted before it is enabled: registered files only, and four operations, so that it opens nothing that the sandbox closed.
 * Kernels without restrictions (before 5.10) or where io_uring is switched off use threads.
 *
 * Source: io_uring_setup(2), io_uring_register(2), io_uring_enter(2).
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/io.h"

#define ENTRIES 256u

/* Lives until libuv has closed both handles, which may be after the disk is gone. */
struct handles {
	uv_prepare_t prepare;
	uv_poll_t poll;
	struct uring *u;
	unsigned open;
};

struct uring {
	struct io io;
	struct io_uring ring;
	bool ring_ok;
	int event;
	struct handles *h;
	struct io_req *first, **last; /* wait for room in the ring */
	unsigned in_ring, waiting;
};

static struct uring *uring_of(struct io *io)
{
	return container_of(io, struct uring, io);
}

static void fill(struct io_uring_sqe *sqe, const struct io_req *r)
{
	switch (r->op) {
	case IO_READ:
		io_uring_prep_readv(sqe, (int)r->file, r->iov, r->niov, r->off);
		break;
	case IO_WRITE:
		io_uring_prep_writev2(
			sqe, (int)r->file, r->iov, r->niov, r->off, r->dsync ? RWF_DSYNC : 0);
		break;
	case IO_FDATASYNC:
		io_uring_prep_fsync(sqe, (int)r->file, IORING_FSYNC_DATASYNC);
		break;
	case IO_FALLOCATE:
		io_uring_prep_fallocate(sqe, (int)r->file, r->mode, (off_t)r->off, (off_t)r->len);
		break;
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, (void *)(uintptr_t)r);
}

/* Puts into the ring what fits: never more in flight than the completion queue holds. */
static void flush(struct uring *u)
{
	while (u->first && u->in_ring < ENTRIES) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
		struct io_req *r = u->first;

		if (!sqe)
			break;
		u->first = r->next;
		if (!u->first)
			u->last = &u->first;
		fill(sqe, r);
		u->waiting--;
		u->in_ring++;
	}
	/* What the kernel does not take now (EAGAIN, EBUSY) stays in the submission queue for the next turn. */
	if (io_uring_sq_ready(&u->ring))
		io_uring_submit(&u->ring);
}

static void submit(struct io *io, struct io_req *r)
{
	struct uring *u = uring_of(io);

	r->next = NULL;
	*u->last = r;
	u->last = &r->next;
	if (!u->waiting++ && !u->in_ring)
		uv_ref((uv_handle_t *)&u->h
				->poll); /* a loop with requests in flight does not end */
}

/* Returns how many ended. */
static unsigned reap(struct uring *u)
{
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	while (!io_uring_peek_cqe(&u->ring, &cqe)) {
		struct io_req *r = io_uring_cqe_get_data(cqe);

		r->result = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		if (!--u->in_ring && !u->waiting)
			uv_unref((uv_handle_t *)&u->h->poll);
		r->done(r);
		n++;
	}
	return n;
}

static void on_event(uv_poll_t *h, int status, int events)
{
	struct uring *u = container_of(h, struct handles, poll)->u;
	uint64_t count;

	if (read(u->event, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return;
	if (reap(u))
		u->io.o.batch(u->io.o.ctx);
}

/* Before the loop sleeps: everything that this turn has brought goes to the kernel in one call. */
static void on_prepare(uv_prepare_t *h)
{
	struct uring *u = container_of(h, struct handles, prepare)->u;

	if (u->waiting || io_uring_sq_ready(&u->ring))
		flush(u);
	/* Should the kernel have refused all of it, no event will come: do not sleep without having asked again. */
	if (io_uring_sq_ready(&u->ring) && eventfd_write(u->event, 1))
		return;
}

static void drain(struct io *io)
{
	struct uring *u = uring_of(io);

	while (u->in_ring || u->waiting) {
		flush(u);
		io_uring_submit_and_wait(&u->ring, 1);
		if (reap(u))
			io->o.batch(io->o.ctx);
	}
}

static void handle_closed(uv_handle_t *h)
{
	struct handles *hs = h->data;

	if (!--hs->open)
		free(hs);
}

static void destroy(struct io *io)
{
	struct uring *u = uring_of(io);

	if (u->h && !u->h->open) {
		free(u->h);
	} else if (u->h) {
		unsigned n = u->h->open;

		uv_close((uv_handle_t *)&u->h->prepare, handle_closed);
		if (n > 1)
			uv_close((uv_handle_t *)&u->h->poll, handle_closed);
	}
	if (u->ring_ok)
		io_uring_queue_exit(&u->ring);
	if (u->event >= 0)
		close(u->event);
	free(u);
}

/* liburing 2.3 has these two calls in its header, and Debian 12's shared library does not export them. */
static int ring_register(struct io_uring *r, unsigned what, void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, r->ring_fd, what, arg, n) < 0 ? -errno : 0;
}

static int make_ring(struct uring *u)
{
	static const unsigned char ops[] = {
		IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
	struct io_uring_restriction res[ARRAY_SIZE(ops) + 1] = {0};
	struct io_uring_params p = {.flags = IORING_SETUP_R_DISABLED};
	int rc = io_uring_queue_init_params(ENTRIES, &u->ring, &p);

	if (rc)
		return rc;
	u->ring_ok = true;
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		res[i].opcode = IORING_RESTRICTION_SQE_OP;
		res[i].sqe_op = ops[i];
	}
	res[ARRAY_SIZE(ops)].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	res[ARRAY_SIZE(ops)].sqe_flags = IOSQE_FIXED_FILE;
	rc = io_uring_register_files(&u->ring, u->io.o.fds, u->io.o.nfds);
	if (!rc)
		rc = io_uring_register_eventfd(&u->ring, u->event);
	if (!rc)
		rc = ring_register(&u->ring, IORING_REGISTER_RESTRICTIONS, res, ARRAY_SIZE(res));
	if (!rc)
		rc = ring_register(&u->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return rc;
}

static int make_handles(struct uring *u)
{
	struct handles *h = u->h = calloc(1, sizeof(*h));
	int rc;

	if (!h)
		return -ENOMEM;
	h->u = u;
	h->prepare.data = h->poll.data = h;
	rc = uv_prepare_init(u->io.o.loop, &h->prepare);
	if (rc)
		return rc;
	h->open++;
	rc = uv_poll_init(u->io.o.loop, &h->poll, u->event);
	if (rc)
		return rc;
	h->open++;
	uv_prepare_start(&h->prepare, on_prepare);
	uv_poll_start(&h->poll, UV_READABLE, on_event);
	uv_unref((uv_handle_t *)&h->prepare);
	uv_unref((uv_handle_t *)&h->poll);
	return 0;
}

static int create(struct io **out, const struct io_opts *o, struct err *e)
{
	struct uring *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return err_set(e, -ENOMEM, "io_uring: out of memory");
	u->io.ops = &io_uring_ops;
	u->io.o = *o;
	u->last = &u->first;
	u->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = u->event < 0 ? -errno : make_ring(u);
	if (!rc)
		rc = make_handles(u);
	if (rc) {
		destroy(&u->io);
		return err_sys(e, rc, "io_uring is not available here (io=threads does without)");
	}
	*out = &u->io;
	return 0;
}

const struct io_ops io_uring_ops = {
	.name = "io_uring", .create = create, .destroy = destroy, .submit = submit, .drain = drain};
