/* read.c: the contents of the disk, from wherever they are. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "disk/qcow2/qcow2.h"

#define AT_ONCE 32u /* transfers of one request */

/* A stretch that is being read. */
struct piece {
	struct piece *next;
	struct q_xfer x; /* from the file */
	struct disk_req child; /* from the backing file */
	struct iovec iov[];
};

static void child_done(struct disk_req *r)
{
	struct q_wait *w = container_of(r, struct piece, child)->x.w;

	if (r->result && !w->rc)
		w->rc = r->result;
	if (!--w->left && w->co)
		co_wake(w->co);
}

static struct piece *piece_make(
	const struct iovec *iov, unsigned niov, uint64_t at, uint64_t len, unsigned *n)
{
	struct piece *p = calloc(1, sizeof(*p) + niov * sizeof(p->iov[0]));

	if (p)
		*n = iov_slice(p->iov, niov, iov, niov, at, len);
	return p;
}

static void read_backing(struct q_wait *w, struct piece *p, unsigned n, uint64_t off, uint64_t len)
{
	p->x.w = w;
	p->child = (struct disk_req){.op = DISK_READ,
		.offset = off,
		.len = len,
		.iov = p->iov,
		.niov = n,
		.done = child_done};
	w->left++;
	disk_read_backing(w->q->d, &p->child);
}

static int read_packed(struct qcow2 *q, const struct q_map *m)
{
	uint64_t len = q_packed_len(q, m->entry);
	uint8_t *in;
	int rc;

	if (q->unpacked && q->unpacked_entry == m->entry)
		return 0;
	in = malloc(len);
	if (!in)
		return -ENOMEM;
	rc = q_pread(q, q->file, m->host, in, len);
	/* Others may have been here meanwhile. */
	if (!rc && !q->unpacked)
		q->unpacked = malloc(q->cluster_size);
	q->unpacked_entry = 0;
	if (!rc)
		rc = q->unpacked ? q_unpack(q, q->unpacked, in, len) : -ENOMEM;
	if (!rc)
		q->unpacked_entry = m->entry;
	free(in);
	return rc;
}

static bool hole_is_zero(const struct qcow2 *q, uint64_t off)
{
	return !q->d->backing || off >= disk_size(q->d->backing);
}

static int read_piece(struct q_wait *w, const struct q_map *m, uint64_t off, uint64_t at,
	const struct iovec *iov, unsigned niov, struct piece **list)
{
	struct qcow2 *q = w->q;
	struct piece *p;
	unsigned n;
	int rc;

	if (m->type == Q_ZEROES || (m->type == Q_UNALLOCATED && hole_is_zero(q, off))) {
		iov_zero(iov, niov, at, m->len);
		return 0;
	}
	if (m->type == Q_PACKED) {
		rc = read_packed(q, m);
		if (!rc)
			iov_write(iov, niov, at, q->unpacked + q_in_cluster(q, off), m->len);
		return rc;
	}
	p = piece_make(iov, niov, at, m->len, &n);
	if (!p)
		return -ENOMEM;
	p->next = *list;
	*list = p;
	if (m->type == Q_UNALLOCATED) {
		read_backing(w, p, n, off, m->len);
		return 0;
	}
	p->x.req = (struct file_req){
		.op = FILE_READ, .off = m->host, .len = m->len, .iov = p->iov, .niov = n};
	q_xfer_start(w, &p->x, q->data);
	return 0;
}

static void drop(struct piece **list)
{
	while (*list) {
		struct piece *p = *list;

		*list = p->next;
		free(p);
	}
}

int q_readv(struct qcow2 *q, uint64_t off, uint64_t len, const struct iovec *iov, unsigned niov)
{
	struct q_wait w = {.q = q};
	struct piece *list = NULL;
	uint64_t at = 0;
	int rc = 0;

	while (at < len && !rc) {
		struct q_map m;

		rc = q_map(q, off + at, len - at, false, &m);
		if (!rc)
			rc = read_piece(&w, &m, off + at, at, iov, niov, &list);
		if (rc)
			break;
		at += m.len;
		if (w.left == AT_ONCE) {
			rc = q_wait_all(&w);
			drop(&list);
		}
	}
	rc = q_wait_all(&w) ?: rc;
	drop(&list);
	return rc;
}

int q_read(struct qcow2 *q, uint64_t off, void *buf, uint64_t len)
{
	struct iovec v = {buf, len};

	return q_readv(q, off, len, &v, 1);
}

/* ---- requests ---- */

struct reading {
	struct qcow2 *q;
	struct disk_req *r;
	uint64_t epoch;
	int rc;
	bool in_submit;
};

static void read_job(void *arg)
{
	struct reading *j = arg;

	j->rc = q_readv(j->q, j->r->offset, j->r->len, j->r->iov, j->r->niov);
}

static void read_after(void *arg)
{
	struct reading *j = arg;
	struct disk_req *r = j->r;
	bool soon = j->in_submit;
	int rc = j->rc;

	q_leave(j->q, j->epoch);
	if (j->in_submit)
		j->r = NULL; /* q_submit_read() frees it */
	else
		free(j);
	if (soon)
		disk_done_soon(r, rc);
	else
		disk_done(r, rc);
}

static void plain_done(struct file_req *f)
{
	struct disk_req *r = container_of(f, struct disk_req, file);
	struct qcow2 *q = r->disk->priv;

	if (f->op == FILE_WRITE)
		sorter_bypassed(q->sorter, r->offset, r->len);
	q_leave(q, r->cookie);
	disk_done(r, f->result);
}

void q_submit_plain(struct qcow2 *q, struct disk_req *r, enum file_op op, uint64_t host)
{
	r->cookie = q_enter(q);
	r->file.op = op;
	r->file.fua = false;
	r->file.off = host;
	r->file.len = r->len;
	r->file.iov = r->iov;
	r->file.niov = r->niov;
	r->file.done = plain_done;
	file_submit(q->data, &r->file);
}

void q_submit_read(struct qcow2 *q, struct disk_req *r)
{
	struct reading *j;
	struct q_map m;

	/* The common case needs neither a stack nor memory. */
	if (!q_map(q, r->offset, r->len, true, &m) && m.len == r->len && m.type == Q_NORMAL) {
		q_submit_plain(q, r, FILE_READ, m.host);
		return;
	}
	j = calloc(1, sizeof(*j));
	if (!j) {
		disk_done_soon(r, -ENOMEM);
		return;
	}
	*j = (struct reading){.q = q, .r = r, .in_submit = true, .epoch = q_enter(q)};
	if (co_start(&q->cs, read_job, read_after, j)) {
		j->rc = -ENOMEM;
		read_after(j);
	}
	if (!j->r)
		free(j);
	else
		j->in_submit = false;
}
