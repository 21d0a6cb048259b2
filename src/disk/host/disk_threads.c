/*
 * disk_threads.c: file operations in libuv's thread pool, for hosts that do not permit io_uring.
 *
 *   io_submit() --uv_queue_work--> pool thread: preadv2 ... --> list under a lock --uv_async / drain--> done, in the loop
 *
 * Results do not come back through the pool's own callback, because that needs a turn of the loop and drain() must not give it one.
 *
 * Lock: `lock` guards the list of results and is innermost; pool threads touch nothing else of the io.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/io.h"

struct threads;

/* Lives until libuv has closed the handle. */
struct bell {
	uv_async_t async;
	struct threads *t;
};

struct threads {
	struct io io;
	struct bell *bell;
	unsigned in_flight;
	struct {
		pthread_mutex_t lock;
		pthread_cond_t cond;
		struct io_req *first, **last;
	} shared; /* with the pool's threads */
};

struct job {
	uv_work_t work;
	struct threads *t; /* valid until the result is in the list */
	struct io_req *r;
};

static ssize_t perform(const struct io_req *r, int fd)
{
	ssize_t n = -1;

	switch (r->op) {
	case IO_READ:
		n = preadv(fd, r->iov, (int)r->niov, (off_t)r->off);
		break;
	case IO_WRITE:
		n = pwritev2(fd, r->iov, (int)r->niov, (off_t)r->off, r->dsync ? RWF_DSYNC : 0);
		break;
	case IO_FDATASYNC:
		n = fdatasync(fd);
		break;
	case IO_FALLOCATE:
		n = fallocate(fd, r->mode, (off_t)r->off, (off_t)r->len);
		break;
	}
	return n < 0 ? -errno : n;
}

/* Everything of `t` happens under its lock: once the result is in the list, t may go as soon as the lock is free. */
static void give(struct threads *t, struct io_req *r)
{
	pthread_mutex_lock(&t->shared.lock);
	r->next = NULL;
	*t->shared.last = r;
	t->shared.last = &r->next;
	uv_async_send(&t->bell->async);
	pthread_cond_signal(&t->shared.cond);
	pthread_mutex_unlock(&t->shared.lock);
}

static void work(uv_work_t *w)
{
	struct job *j = container_of(w, struct job, work);

	j->r->result = perform(j->r, j->t->io.o.fds[j->r->file]);
	give(j->t, j->r);
}

static void after(uv_work_t *w, int status)
{
	free(container_of(w, struct job, work));
}

static struct threads *threads_of(struct io *io)
{
	return container_of(io, struct threads, io);
}

static void submit(struct io *io, struct io_req *r)
{
	struct threads *t = threads_of(io);
	struct job *j = malloc(sizeof(*j));

	if (!t->in_flight++)
		uv_ref((uv_handle_t *)&t->bell->async);
	if (!j) {
		r->result = -ENOMEM;
		give(t, r);
		return;
	}
	j->t = t;
	j->r = r;
	uv_queue_work(io->o.loop, &j->work, work, after); /* fails only without a function */
}

static bool deliver(struct threads *t)
{
	struct io_req *r, *next;

	pthread_mutex_lock(&t->shared.lock);
	r = t->shared.first;
	t->shared.first = NULL;
	t->shared.last = &t->shared.first;
	pthread_mutex_unlock(&t->shared.lock);
	if (!r)
		return false;
	for (; r; r = next) {
		next = r->next;
		if (!--t->in_flight)
			uv_unref((uv_handle_t *)&t->bell->async);
		r->done(r);
	}
	t->io.o.batch(t->io.o.ctx);
	return true;
}

static void on_bell(uv_async_t *a)
{
	deliver(container_of(a, struct bell, async)->t);
}

static void drain(struct io *io)
{
	struct threads *t = threads_of(io);

	while (t->in_flight) {
		pthread_mutex_lock(&t->shared.lock);
		while (!t->shared.first)
			pthread_cond_wait(&t->shared.cond, &t->shared.lock);
		pthread_mutex_unlock(&t->shared.lock);
		deliver(t);
	}
}

static void bell_closed(uv_handle_t *h)
{
	free(container_of((uv_async_t *)h, struct bell, async));
}

static void destroy(struct io *io)
{
	struct threads *t = threads_of(io);

	/* The thread that gave the last result may still be about to leave the lock. */
	pthread_mutex_lock(&t->shared.lock);
	pthread_mutex_unlock(&t->shared.lock);
	uv_close((uv_handle_t *)&t->bell->async, bell_closed);
	pthread_cond_destroy(&t->shared.cond);
	pthread_mutex_destroy(&t->shared.lock);
	free(t);
}

static int create(struct io **out, const struct io_opts *o, struct err *e)
{
	struct threads *t = calloc(1, sizeof(*t));
	struct bell *b = calloc(1, sizeof(*b));
	int rc;

	if (!t || !b) {
		free(t);
		free(b);
		return err_set(e, -ENOMEM, "out of memory");
	}
	rc = uv_async_init(o->loop, &b->async, on_bell);
	if (rc) {
		free(t);
		free(b);
		return err_set(e, rc, "%s", uv_strerror(rc));
	}
	uv_unref((uv_handle_t *)&b->async);
	b->t = t;
	t->bell = b;
	t->io.ops = &io_threads_ops;
	t->io.o = *o;
	t->shared.last = &t->shared.first;
	pthread_mutex_init(&t->shared.lock, NULL);
	pthread_cond_init(&t->shared.cond, NULL);
	*out = &t->io;
	return 0;
}

const struct io_ops io_threads_ops = {
	.name = "threads", .create = create, .destroy = destroy, .submit = submit, .drain = drain};
