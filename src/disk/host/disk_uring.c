/*
 * disk_uring.c: file operations through one io_uring for each file.
 *
 *   io_submit() --> list --uv_prepare, once a loop turn: neighbours become one operation--> ring --uv_poll--> done
 *
 * The ring is restricted before it is enabled: registered files only, and what enum io_op names, so that it opens nothing that the sandbox closed.
 * Kernels without restrictions (before 5.10) or where io_uring is switched off use threads.
 *
 * Source: io_uring_setup(2), io_uring_register(2), io_uring_enter(2).
 */
#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "disk/io.h"

#define ENTRIES 256u
#define MERGE_BYTES \
	(256 * KiB) /* of one operation; larger ones leave a device idle that could do several */
#define MERGE_VECS 256u
#define AT_ONCE 8u /* rounds */
#define GROUP 1ull /* in user_data: a struct group */
/*
 * Somebody who sends one operation after the other waits for each. To put a thread to sleep and to wake it may cost the host more than a quick device takes to
 * answer; or the loop that stays awake takes the processor from the kernel's thread that does the work, and with each sched_yield() forfeits its own
 * share where others want some. What is better is measured, for each kind of operation: the first TRIES of each ROUND are slept for, as many
 * awaited, and the others are done in the way that was quicker. Awake has to win by an eighth, as it takes a processor; none waits for longer than QUICK_NS.
 */
#define QUICK_NS 150000u
#define SLOW_NS (2 * QUICK_NS) /* what takes longer, waking included, is slept for */
#define TRIES 8u
#define ROUND 1024u

/* Lives until libuv has closed its handles, which may be after the disk is gone. */
struct handles {
	uv_prepare_t prepare;
	uv_poll_t poll; /* of the ring: readable when something has ended */
	uv_idle_t idle;
	struct uring *u;
	unsigned open;
};

/* Requests that lie one behind the other in one file, as one operation. */
struct group {
	struct io_req *first; /* chained by next */
	unsigned n;
	struct iovec iov[];
};

/* How long one operation by itself took lately: slept for, awaited. */
struct took {
	unsigned n;
	uint64_t ns[2];
};

struct uring {
	struct io io;
	struct io_uring ring;
	bool ring_ok;
	struct handles *h;
	struct io_req *first, **last; /* wait for room in the ring */
	unsigned in_ring, waiting; /* requests */
	unsigned sqes; /* operations in the ring */
	uint64_t since; /* something is in flight, or nothing */
	bool soon; /* the last question came quickly after an answer */
	bool alone; /* what is in flight, or was, is one operation */
	bool awake; /* and not slept for */
	struct took *took; /* of its kind */
	struct took kinds[IO_FALLOCATE + 1];
	struct iovec memory; /* registered as buffer 0; or of no length */
};

static struct uring *uring_of(struct io *io)
{
	return container_of(io, struct uring, io);
}

static bool registered(const struct uring *u, const struct io_req *r)
{
	uint64_t at = (uintptr_t)r->iov->iov_base - (uintptr_t)u->memory.iov_base;

	return r->niov == 1 && at < u->memory.iov_len && r->iov->iov_len <= u->memory.iov_len - at;
}

static void fill(const struct uring *u, struct io_uring_sqe *sqe, const struct io_req *r)
{
	int file = (int)r->file;

	switch (r->op) {
	case IO_READ:
		if (registered(u, r))
			io_uring_prep_read_fixed(
				sqe, file, r->iov->iov_base, (unsigned)r->iov->iov_len, r->off, 0);
		else
			io_uring_prep_readv(sqe, file, r->iov, r->niov, r->off);
		break;
	case IO_WRITE:
		if (registered(u, r))
			io_uring_prep_write_fixed(
				sqe, file, r->iov->iov_base, (unsigned)r->iov->iov_len, r->off, 0);
		else
			io_uring_prep_writev(sqe, file, r->iov, r->niov, r->off);
		sqe->rw_flags = r->dsync ? RWF_DSYNC : 0;
		break;
	case IO_FDATASYNC:
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
		break;
	case IO_FALLOCATE:
		io_uring_prep_fallocate(sqe, file, r->mode, (off_t)r->off, (off_t)r->len);
		break;
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, (void *)(uintptr_t)r);
}

/* ---- neighbours become one operation ---- */

static uint64_t bytes_of(const struct io_req *r)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < r->niov; i++)
		n += r->iov[i].iov_len;
	return n;
}

/* How many requests from `r` on lie one behind the other; sets how many vectors they have. */
static unsigned run_of(const struct io_req *r, unsigned *niov)
{
	uint64_t len, more;
	unsigned n = 1;

	*niov = r->niov;
	if ((r->op != IO_READ && r->op != IO_WRITE) || r->alone || !r->next)
		return 1;
	len = bytes_of(r);
	for (const struct io_req *x = r->next; x; x = x->next) {
		if (x->op != r->op || x->file != r->file || x->dsync != r->dsync || x->alone ||
			x->off != r->off + len || *niov + x->niov > MERGE_VECS)
			break;
		more = bytes_of(x);
		if (!len || !more || len + more > MERGE_BYTES)
			break;
		len += more;
		*niov += x->niov;
		n++;
	}
	return n;
}

static struct group *make_group(struct io_req *first, unsigned n, unsigned niov)
{
	struct group *g = malloc(sizeof(*g) + niov * sizeof(g->iov[0]));
	struct io_req *r = first;
	unsigned k = 0;

	if (!g)
		return NULL;
	g->first = first;
	g->n = n;
	for (unsigned i = 0; i < n; i++, r = r->next) {
		memcpy(&g->iov[k], r->iov, r->niov * sizeof(g->iov[0]));
		k += r->niov;
	}
	return g;
}

static struct io_req *take(struct uring *u, unsigned n)
{
	struct io_req *first = u->first;

	u->waiting -= n;
	u->in_ring += n;
	while (n--)
		u->first = u->first->next;
	if (!u->first)
		u->last = &u->first;
	return first;
}

static bool put_next(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	struct io_req *r = u->first, all;
	struct group *g = NULL;
	unsigned n, niov;

	if (!sqe)
		return false;
	n = run_of(r, &niov);
	if (n > 1)
		g = make_group(r, n, niov);
	take(u, g ? n : 1);
	u->alone = !u->sqes++;
	if (!g) {
		fill(u, sqe, r);
		return true;
	}
	all = *r;
	all.iov = g->iov;
	all.niov = niov;
	fill(u, sqe, &all);
	io_uring_sqe_set_data64(sqe, (uintptr_t)g | GROUP);
	return true;
}

static bool better_awake(struct took *t)
{
	unsigned n = t->n++ % ROUND;

	if (n < TRIES || t->ns[false] >= SLOW_NS)
		return false;
	return n < 2 * TRIES || t->ns[true] + t->ns[true] / 8 < t->ns[false];
}

/* From nothing in flight to something. */
static void begins(struct uring *u, enum io_op op)
{
	uint64_t now = clock_mono_ns();

	u->soon = now - u->since < QUICK_NS;
	u->since = now;
	u->took = &u->kinds[op];
	u->awake = better_awake(u->took);
}

/* And back. */
static void ends(struct uring *u)
{
	uint64_t now = clock_mono_ns(), *avg = &u->took->ns[u->awake];
	/* One that somebody held up says little. */
	uint64_t ns = MIN(now - u->since, (uint64_t)SLOW_NS);

	if (u->alone)
		*avg = *avg ? (3 * *avg + ns) / 4 : ns;
	u->since = now;
}

/* Puts into the ring what fits: never more in flight than the completion queue holds. */
static void flush(struct uring *u)
{
	if (u->first && !u->sqes)
		begins(u, u->first->op);
	while (u->first && u->sqes < ENTRIES && put_next(u))
		;
	/* What the kernel does not take now (EAGAIN, EBUSY) stays in the submission queue for the next turn. */
	if (io_uring_sq_ready(&u->ring))
		io_uring_submit(&u->ring);
}

static void submit(struct io *io, struct io_req *r)
{
	struct uring *u = uring_of(io);

	r->next = NULL;
	r->alone = false;
	*u->last = r;
	u->last = &r->next;
	if (!u->waiting++ && !u->in_ring)
		uv_ref((uv_handle_t *)&u->h
				->poll); /* a loop with requests in flight does not end */
}

static void end(struct uring *u, struct io_req *r, ssize_t result)
{
	r->result = result;
	if (!--u->in_ring && !u->waiting)
		uv_unref((uv_handle_t *)&u->h->poll);
	r->done(r);
}

/* Once more by itself: what happens to it is then its own. */
static void again(struct uring *u, struct io_req *r)
{
	u->in_ring--;
	u->waiting++;
	r->next = NULL;
	r->alone = true;
	*u->last = r;
	u->last = &r->next;
}

static void end_group(struct uring *u, struct group *g, ssize_t result)
{
	uint64_t left = result < 0 ? 0 : (uint64_t)result;
	struct io_req *r = g->first, *next;

	for (unsigned i = 0; i < g->n; i++, r = next) {
		uint64_t part = MIN(left, bytes_of(r));

		next = r->next;
		left -= part;
		if (part)
			end(u, r, (ssize_t)part);
		else
			again(u, r);
	}
	free(g);
}

/* Returns how many ended. */
static unsigned reap(struct uring *u)
{
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	while (!io_uring_peek_cqe(&u->ring, &cqe)) {
		uint64_t data = io_uring_cqe_get_data64(cqe);
		ssize_t result = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		if (!--u->sqes)
			ends(u);
		if (data & GROUP)
			end_group(u, (struct group *)(uintptr_t)(data & ~GROUP), result);
		else
			end(u, (struct io_req *)(uintptr_t)data, result);
		n++;
	}
	return n;
}

static void on_event(uv_poll_t *h, int status, int events)
{
	struct uring *u = container_of(h, struct handles, poll)->u;

	if (reap(u))
		u->io.o.batch(u->io.o.ctx);
}

static bool stays_awake(const struct uring *u)
{
	return u->alone && u->awake && (u->sqes || u->soon) &&
	       clock_mono_ns() - u->since < QUICK_NS;
}

/* Keeps the loop from sleeping. Where it only waits, others who want this processor go first. */
static void on_idle(uv_idle_t *h)
{
	uv_idle_stop(h);
	if (stays_awake(container_of(h, struct handles, idle)->u))
		sched_yield();
}

/*
 * Before the loop sleeps: everything that this turn has brought goes to the kernel in one call. What the page cache answered at once is
 * ended here, a few times, before others have their turn.
 */
static void on_prepare(uv_prepare_t *h)
{
	struct uring *u = container_of(h, struct handles, prepare)->u;
	bool awake = false;

	for (unsigned i = 0; i < AT_ONCE && (u->waiting || io_uring_sq_ready(&u->ring)); i++) {
		flush(u);
		if (!io_uring_cq_ready(&u->ring) || !reap(u))
			break;
		awake = true;
		u->io.o.batch(u->io.o.ctx);
	}
	/* Who turned the loop waits for what was ended; what is left, or was refused, is for the next turn, which no event brings about. */
	if (awake || stays_awake(u) || (u->waiting && u->sqes < ENTRIES) ||
		io_uring_sq_ready(&u->ring))
		uv_idle_start(&u->h->idle, on_idle);
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

/* liburing 2.3 has two of these calls in its header only: Debian 12's shared library does not export them. */
static int ring_register(struct io_uring *r, unsigned what, const void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, r->ring_fd, what, arg, n) < 0 ? -errno : 0;
}

static int memory(struct io *io, const struct iovec *mem)
{
	struct uring *u = uring_of(io);
	int rc;

	if (u->memory.iov_len)
		(void)ring_register(&u->ring, IORING_UNREGISTER_BUFFERS, NULL, 0);
	u->memory = (struct iovec){0};
	rc = mem ? ring_register(&u->ring, IORING_REGISTER_BUFFERS, mem, 1) : 0;
	if (!rc && mem)
		u->memory = *mem;
	return rc;
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
			uv_close((uv_handle_t *)&u->h->idle, handle_closed);
		if (n > 2)
			uv_close((uv_handle_t *)&u->h->poll, handle_closed);
	}
	if (u->ring_ok)
		io_uring_queue_exit(&u->ring);
	free(u);
}

/*
 * Completions are worked on at our next system call (5.19) instead of interrupting us. Not IORING_SETUP_DEFER_TASKRUN: such a ring does not
 * wake who waits for it by epoll.
 */
static int init_ring(struct uring *u)
{
	struct io_uring_params p = {.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN};
	int rc = io_uring_queue_init_params(ENTRIES, &u->ring, &p);

	if (rc != -EINVAL)
		return rc;
	p = (struct io_uring_params){.flags = IORING_SETUP_R_DISABLED};
	return io_uring_queue_init_params(ENTRIES, &u->ring, &p);
}

static int make_ring(struct uring *u)
{
	static const unsigned char ops[] = {IORING_OP_READV, IORING_OP_READ_FIXED, IORING_OP_WRITEV,
		IORING_OP_WRITE_FIXED, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
	static const unsigned char calls[] = {IORING_REGISTER_BUFFERS, IORING_UNREGISTER_BUFFERS};
	struct io_uring_restriction res[ARRAY_SIZE(ops) + ARRAY_SIZE(calls) + 1] = {0}, *x = res;
	int rc = init_ring(u);

	if (rc)
		return rc;
	u->ring_ok = true;
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++, x++) {
		x->opcode = IORING_RESTRICTION_SQE_OP;
		x->sqe_op = ops[i];
	}
	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++, x++) {
		x->opcode = IORING_RESTRICTION_REGISTER_OP;
		x->register_op = calls[i];
	}
	x->opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	x->sqe_flags = IOSQE_FIXED_FILE;
	rc = io_uring_register_files(&u->ring, u->io.o.fds, u->io.o.nfds);
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
	h->prepare.data = h->idle.data = h->poll.data = h;
	rc = uv_prepare_init(u->io.o.loop, &h->prepare);
	if (rc)
		return rc;
	h->open++;
	rc = uv_idle_init(u->io.o.loop, &h->idle);
	if (rc)
		return rc;
	h->open++;
	rc = uv_poll_init(u->io.o.loop, &h->poll, u->ring.ring_fd);
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
	rc = make_ring(u);
	if (!rc)
		rc = make_handles(u);
	if (rc) {
		destroy(&u->io);
		return err_sys(e, rc, "io_uring is not available here (io=threads does without)");
	}
	*out = &u->io;
	return 0;
}

const struct io_ops io_uring_ops = {.name = "io_uring",
	.create = create,
	.destroy = destroy,
	.submit = submit,
	.drain = drain,
	.memory = memory};
