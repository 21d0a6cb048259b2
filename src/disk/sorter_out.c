/* sorter_out.c: the data of elements and fills, sorted by where it goes and merged into few writes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "disk/sorter_priv.h"

#define MERGE_BYTES (2 * MiB)
#define ZEROES (64 * KiB) /* more than that is zeroed by the file */

/* Bytes that go to one place. */
struct sorter_piece {
	struct file *file;
	uint64_t addr, len;
	enum file_op op; /* WRITE, ZERO, DISCARD */
	bool unmap;
	const struct iovec *iov; /* NULL: zeroes */
	unsigned niov;
	uint64_t iov_at;
	struct iovec one;
	struct sorter_tx *tx;
};

/* One write of some pieces. */
struct out {
	struct file_req req;
	struct sorter *s;
	struct sorter_job *job; /* of plain elements; else */
	struct sorter_batch *batch; /* its pieces [from, to) */
	unsigned from, to;
	struct iovec iov[];
};

static unsigned count_iov(const struct sorter_piece *p)
{
	uint64_t at = p->iov_at, left = p->len;
	unsigned n = 0;

	if (!p->iov)
		return (unsigned)((p->len + ZEROES - 1) / ZEROES);
	for (unsigned i = 0; i < p->niov && left; i++) {
		uint64_t part;

		if (at >= p->iov[i].iov_len) {
			at -= p->iov[i].iov_len;
			continue;
		}
		part = MIN(left, p->iov[i].iov_len - at);
		left -= part;
		at = 0;
		n++;
	}
	return n;
}

static unsigned zero_iov(struct iovec *out, void *zeroes, uint64_t len)
{
	unsigned n = 0;

	for (; len; n++) {
		out[n] = (struct iovec){zeroes, MIN(len, ZEROES)};
		len -= out[n].iov_len;
	}
	return n;
}

/* What lies one behind the other in memory is one vector: for direct I/O it may then be aligned. */
static unsigned join_iov(struct iovec *iov, unsigned n)
{
	unsigned k = 0;

	for (unsigned i = 1; i < n; i++) {
		if ((char *)iov[k].iov_base + iov[k].iov_len == iov[i].iov_base)
			iov[k].iov_len += iov[i].iov_len;
		else
			iov[++k] = iov[i];
	}
	return n ? k + 1 : 0;
}

static void out_done(struct file_req *r)
{
	struct out *o = container_of(r, struct out, req);
	struct sorter_batch *b = o->batch;
	struct sorter_job *j = o->job;

	if (b)
		for (unsigned i = o->from; r->result && i < o->to; i++)
			if (!b->piece[i].tx->error)
				b->piece[i].tx->error = r->result;
	if (j && r->result && !j->error)
		j->error = r->result;
	free(o);
	if (j) {
		sorter_plain_arrived(j);
		sorter_job_part_done(j);
	} else if (!--b->pending) {
		sorter_data_done(b);
	}
}

/* Sends pieces [from, to), which lie one behind the other, as one request. */
static int send_out(struct sorter *s, struct sorter_piece *p, unsigned from, unsigned to,
	struct sorter_job *j, struct sorter_batch *b)
{
	unsigned niov = 0;
	struct out *o;

	for (unsigned i = from; i < to && p[i].op == FILE_WRITE; i++)
		niov += count_iov(&p[i]);
	o = calloc(1, sizeof(*o) + niov * sizeof(o->iov[0]));
	if (!o)
		return -ENOMEM;
	*o = (struct out){.s = s, .job = j, .batch = b, .from = from, .to = to};
	o->req = (struct file_req){.op = p[from].op,
		.off = p[from].addr,
		.unmap = p[from].unmap,
		.iov = o->iov,
		.done = out_done};
	for (unsigned i = from; i < to; i++) {
		struct iovec *at = &o->iov[o->req.niov];

		o->req.len += p[i].len;
		if (p[i].op != FILE_WRITE)
			continue;
		o->req.niov += p[i].iov ? iov_slice(at, niov - o->req.niov, p[i].iov, p[i].niov,
						  p[i].iov_at, p[i].len)
					: zero_iov(at, s->zeroes, p[i].len);
	}
	o->req.niov = join_iov(o->iov, o->req.niov);
	*(j ? &j->pending : &b->pending) += 1;
	if (j)
		sorter_plain_sent(j);
	if (o->req.op == FILE_WRITE) {
		s->stats.data_writes++;
		s->stats.data_bytes += o->req.len;
	}
	file_submit(p[from].file, &o->req);
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct sorter_piece *x = a, *y = b;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* Sends all; what could not be sent fails its owner. */
static void send_all(struct sorter *s, struct sorter_piece *p, unsigned n, struct sorter_job *j,
	struct sorter_batch *b)
{
	for (unsigned from = 0, to; from < n; from = to) {
		uint64_t end = p[from].addr + p[from].len;
		int rc;

		for (to = from + 1; to < n && p[from].op == FILE_WRITE && p[to].op == FILE_WRITE &&
				    p[to].file == p[from].file && p[to].addr == end &&
				    end + p[to].len - p[from].addr <= MERGE_BYTES;
			to++)
			end += p[to].len;
		rc = send_out(s, p, from, to, j, b);
		if (rc && j)
			j->error = rc;
		for (unsigned i = from; rc && b && i < to; i++)
			p[i].tx->error = rc;
	}
}

/* ---- plain elements ---- */

static struct sorter_piece plain_piece(const struct sorter_elem *el)
{
	struct sorter_piece p = {.file = el->file,
		.addr = el->addr,
		.len = el->len,
		.iov = el->iov,
		.niov = el->niov,
		.iov_at = el->iov_at,
		.unmap = el->unmap};

	p.op = el->kind == SORT_DATA   ? FILE_WRITE
	       : el->kind == SORT_ZERO ? FILE_ZERO
				       : FILE_DISCARD;
	return p;
}

void sorter_plain_out(struct sorter_job *j)
{
	struct sorter_piece few[8], *p = few;
	unsigned n = 0, k = 0;

	for (unsigned i = 0; i < j->nsets; i++)
		for (unsigned e = 0; e < j->set[i].n; e++)
			n += j->set[i].elem[e].where == SORT_PLAIN;
	if (n > ARRAY_SIZE(few))
		p = malloc(n * sizeof(*p));
	if (!p) {
		j->error = -ENOMEM;
		return;
	}
	for (unsigned i = 0; i < j->nsets; i++)
		for (unsigned e = 0; e < j->set[i].n; e++)
			if (j->set[i].elem[e].where == SORT_PLAIN)
				p[k++] = plain_piece(&j->set[i].elem[e]);
	qsort(p, n, sizeof(*p), by_place);
	send_all(j->s, p, n, j, NULL);
	if (p != few)
		free(p);
}

/* ---- a batch ---- */

static unsigned count_pieces(const struct sorter_batch *b)
{
	unsigned n = 0;

	for (const struct sorter_tx *tx = b->first; tx; tx = tx->next)
		n += tx->n + tx->nfill;
	return n;
}

static void add_fill(struct sorter_batch *b, struct sorter_tx *tx, struct sorter_fill *f)
{
	struct sorter_piece *p = &b->piece[b->npieces++];

	*p = (struct sorter_piece){
		.file = f->file, .addr = f->addr, .len = f->len, .op = FILE_WRITE, .tx = tx};
	b->sorter->stats.fill_bytes += f->len;
	if (f->copy) {
		p->one = (struct iovec){f->buf, f->len};
		p->niov = 1; /* iov: when the array has its final order */
	} else if (f->len > 4 * ZEROES) {
		p->op = FILE_ZERO;
	}
}

static void collect(struct sorter_batch *b)
{
	for (struct sorter_tx *tx = b->first; tx; tx = tx->next) {
		if (tx->error)
			continue;
		for (unsigned i = 0; i < tx->n; i++) {
			const struct sorter_elem *el = &tx->elem[i];

			if (el->kind != SORT_DATA || !el->file)
				continue;
			b->piece[b->npieces++] = (struct sorter_piece){.file = el->file,
				.addr = el->addr,
				.len = el->len,
				.op = FILE_WRITE,
				.iov = el->iov,
				.niov = el->niov,
				.iov_at = el->iov_at,
				.tx = tx};
		}
		for (unsigned i = 0; i < tx->nfill; i++)
			if (tx->fill[i].file)
				add_fill(b, tx, &tx->fill[i]);
	}
	qsort(b->piece, b->npieces, sizeof(*b->piece), by_place);
	for (unsigned i = 0; i < b->npieces; i++)
		if (!b->piece[i].iov && b->piece[i].niov)
			b->piece[i].iov = &b->piece[i].one;
}

static bool to_copy(const struct sorter_batch *b, const struct sorter_elem *el)
{
	return el->kind == SORT_DATA && el->len <= b->sorter->o.stable;
}

/* So that the bytes that are summed, compressed and written are the same ones. */
static int copy_data(struct sorter_batch *b)
{
	uint64_t total = 0;
	char *to;

	for (struct sorter_tx *tx = b->first; tx; tx = tx->next)
		for (unsigned i = 0; i < tx->n; i++)
			total += to_copy(b, &tx->elem[i]) ? tx->elem[i].len : 0;
	if (!total)
		return 0;
	if (b->sorter->spare.len >= total) {
		b->copy = b->sorter->spare;
		b->sorter->spare = (struct sorter_copy){0};
	} else if (posix_memalign(&b->copy.mem, 4096, total)) {
		b->copy.mem = NULL;
		return -ENOMEM;
	} else {
		b->copy.len = total;
	}
	to = b->copy.mem;
	for (struct sorter_tx *tx = b->first; tx; tx = tx->next)
		for (unsigned i = 0; i < tx->n; i++) {
			struct sorter_elem *el = &tx->elem[i];

			if (!to_copy(b, el))
				continue;
			iov_read(el->iov, el->niov, el->iov_at, to, el->len);
			el->copied = (struct iovec){to, el->len};
			el->iov = &el->copied;
			el->niov = 1;
			el->iov_at = 0;
			to += el->len;
		}
	return 0;
}

void sorter_data_out(struct sorter_batch *b)
{
	struct sorter *s = b->sorter;
	int rc = 0;

	b->pending = 1;
	b->piece = calloc(MAX(count_pieces(b), 1u), sizeof(*b->piece));
	if (!s->zeroes)
		s->zeroes = calloc(1, ZEROES);
	if (!b->piece || !s->zeroes)
		rc = -ENOMEM;
	if (!rc && s->o.stable)
		rc = copy_data(b);
	for (struct sorter_tx *tx = b->first; rc && tx; tx = tx->next)
		tx->error = tx->error ?: rc;
	if (!rc) {
		sorter_commit_along(b);
		collect(b);
		send_all(s, b->piece, b->npieces, NULL, b);
	}
	if (!--b->pending)
		sorter_data_done(b);
}
