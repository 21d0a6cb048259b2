/* io.c: transfers on the files of an image: waited for in a coroutine, blocking outside. */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "disk/qcow2/qcow2.h"

static void on_done(struct file_req *r)
{
	struct q_wait *w = container_of(r, struct q_xfer, req)->w;

	if (r->result && !w->rc)
		w->rc = r->result;
	if (!--w->left && w->co)
		co_wake(w->co);
}

void q_xfer_start(struct q_wait *w, struct q_xfer *x, struct file *f)
{
	w->left++;
	x->w = w;
	x->req.done = on_done;
	file_submit(f, &x->req);
}

int q_wait_all(struct q_wait *w)
{
	struct qcow2 *q = w->q;

	w->co = co_self(&q->cs);
	while (w->left) {
		if (w->co)
			co_wait(&q->cs);
		else
			files_drain(q->d->files);
	}
	w->co = NULL;
	return w->rc;
}

static int transfer(struct qcow2 *q, struct file *f, enum file_op op, uint64_t off, void *buf,
	uint64_t len, bool unmap)
{
	struct q_wait w = {.q = q};
	struct q_xfer x = {.req = {.op = op, .off = off, .len = len, .unmap = unmap}};

	if (buf) {
		x.one = (struct iovec){buf, len};
		x.req.iov = &x.one;
		x.req.niov = 1;
	}
	q_xfer_start(&w, &x, f);
	return q_wait_all(&w);
}

int q_pread(struct qcow2 *q, struct file *f, uint64_t off, void *buf, uint64_t len)
{
	return len ? transfer(q, f, FILE_READ, off, buf, len, false) : 0;
}

int q_pwrite(struct qcow2 *q, struct file *f, uint64_t off, const void *buf, uint64_t len)
{
	return len ? transfer(q, f, FILE_WRITE, off, (void *)(uintptr_t)buf, len, false) : 0;
}

int q_make_zero(struct qcow2 *q, struct file *f, uint64_t off, uint64_t len, bool unmap)
{
	return len ? transfer(q, f, FILE_ZERO, off, NULL, len, unmap) : 0;
}

int q_fill(struct qcow2 *q, struct file *f, uint64_t off, uint64_t len)
{
	return len ? transfer(q, f, FILE_FILL, off, NULL, len, false) : 0;
}

int q_punch(struct qcow2 *q, struct file *f, uint64_t off, uint64_t len)
{
	return len ? transfer(q, f, FILE_DISCARD, off, NULL, len, true) : 0;
}

int q_sync(struct qcow2 *q)
{
	struct q_wait w = {.q = q};
	struct q_xfer x[2] = {{.req = {.op = FILE_FLUSH}}, {.req = {.op = FILE_FLUSH}}};

	q->stats.barriers++;
	q_xfer_start(&w, &x[0], q->file);
	if (q->data != q->file)
		q_xfer_start(&w, &x[1], q->data);
	return q_wait_all(&w);
}

void q_pause(struct qcow2 *q, struct co_queue *wait)
{
	if (co_self(&q->cs))
		co_queue_wait(&q->cs, wait);
	else
		files_drain(q->d->files);
}
