/*
 * sorter.c: requests to sets to logical transactions to one physical one; what a thing means is in sorter.h.
 *
 *   submit -> job: cut into sets -> resolve each -> job_go(): plain elements out, the rest into the open batch
 *                      ^                               |
 *                      +--- blocked (a sealed tx) <----+
 *   turn's end -> seal: prepare all -> read fills -> write data (sorter_out.c) -> commit -> jobs done, blocked ones again
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/format.h"
#include "disk/sorter_priv.h"

#define MAX_TXS 256u
#define MAX_BYTES (8 * MiB)
#define SPARE_MAX MAX_BYTES

/* ---- epochs: who may still be on his way to space that was freed ---- */

static uint64_t *epoch_count(struct sorter *s, uint64_t epoch)
{
	return &s->epoch.count[epoch % SORTER_EPOCHS];
}

uint64_t sorter_enter(struct sorter *s)
{
	++*epoch_count(s, s->epoch.now);
	return s->epoch.now;
}

/* What waits in the present epoch need not wait for who comes from now on. With all counters in use it has to, until one is free. */
static bool next_epoch(struct sorter *s)
{
	if (!s->epoch.first || s->epoch.newest < s->epoch.now ||
		s->epoch.now - s->epoch.oldest == SORTER_EPOCHS - 1)
		return false;
	s->epoch.now++;
	return true;
}

static void epochs_end(struct sorter *s)
{
	struct sorter_quarantine *q;

	do {
		while (s->epoch.oldest < s->epoch.now && !*epoch_count(s, s->epoch.oldest))
			s->epoch.oldest++;
		while ((q = s->epoch.first) && q->epoch < s->epoch.oldest) {
			s->epoch.first = q->next;
			if (!q->next)
				s->epoch.last = &s->epoch.first;
			q->free(q);
		}
	} while (next_epoch(s));
}

void sorter_leave(struct sorter *s, uint64_t epoch)
{
	--*epoch_count(s, epoch);
	epochs_end(s);
}

void sorter_quarantine(struct sorter *s, struct sorter_quarantine *q)
{
	q->epoch = s->epoch.newest = s->epoch.now;
	q->next = NULL;
	*s->epoch.last = q;
	s->epoch.last = &q->next;
	epochs_end(s);
}

/* ---- arrays of elements that are sorted and do not overlap ---- */

static int room(struct sorter_elem **arr, unsigned *cap, unsigned n, bool *own)
{
	unsigned want = MAX(8u, 2 * *cap);
	struct sorter_elem *p;

	if (n <= *cap)
		return 0;
	p = realloc(*own ? *arr : NULL, MAX(want, n) * sizeof(*p));
	if (!p)
		return -ENOMEM;
	if (!*own && *cap)
		memcpy(p, *arr, *cap * sizeof(*p));
	*arr = p;
	*cap = MAX(want, n);
	*own = true;
	return 0;
}

static void drop_front(struct sorter_elem *el, uint64_t n)
{
	el->off += n;
	el->len -= n;
	el->iov_at += n;
	el->addr += n;
}

/* Puts `add` over what is there. The array has room for two more. */
static void overlay(struct sorter_elem *arr, unsigned *n, const struct sorter_elem *add)
{
	uint64_t end = add->off + add->len;
	unsigned i = *n;

	while (i && arr[i - 1].off + arr[i - 1].len > add->off)
		i--; /* the first that ends behind the new one's start */
	if (i < *n && arr[i].off < add->off) {
		if (arr[i].off + arr[i].len >
			end) { /* the new one lies inside: its end becomes one more */
			memmove(&arr[i + 1], &arr[i], (*n - i) * sizeof(*arr));
			++*n;
			drop_front(&arr[i + 1], end - arr[i + 1].off);
		}
		arr[i].len = add->off - arr[i].off;
		i++;
	}
	while (i < *n && arr[i].off + arr[i].len <= end) {
		memmove(&arr[i], &arr[i + 1], (*n - i - 1) * sizeof(*arr));
		--*n;
	}
	if (i < *n && arr[i].off < end)
		drop_front(&arr[i], end - arr[i].off);
	memmove(&arr[i + 1], &arr[i], (*n - i) * sizeof(*arr));
	arr[i] = *add;
	++*n;
}

int sorter_cut(struct sorter_set *set, unsigned i, uint64_t len)
{
	if (room(&set->elem, &set->cap, set->n + 1, &set->own))
		return -ENOMEM;
	memmove(&set->elem[i + 1], &set->elem[i], (set->n - i) * sizeof(*set->elem));
	set->n++;
	set->elem[i].len = len;
	drop_front(&set->elem[i + 1], len);
	return 0;
}

void sorter_elem_read(const struct sorter_elem *el, uint64_t at, void *to, uint64_t len)
{
	iov_read(el->iov, el->niov, el->iov_at + at, to, len);
}

/* ---- transactions and batches ---- */

static unsigned hash(uint64_t block)
{
	return (unsigned)((block * 0x9e3779b97f4a7c15ull) >> (64 - SORTER_HASH_BITS));
}

static struct sorter_tx **bucket(struct sorter *s, uint64_t block)
{
	return &s->hash[hash(block)];
}

static struct sorter_tx *find_tx(struct sorter *s, uint64_t block)
{
	struct sorter_tx *tx = *bucket(s, block);

	while (tx && tx->block != block)
		tx = tx->hash_next;
	return tx;
}

static bool sealed(const struct sorter *s, const struct sorter_tx *tx)
{
	return tx->batch == s->writing || tx->batch == s->committing;
}

static void free_tx(struct sorter *s, struct sorter_tx *tx)
{
	struct sorter_tx **p = bucket(s, tx->block);

	while (*p != tx)
		p = &(*p)->hash_next;
	*p = tx->hash_next;
	s->lane[hash(tx->block)].copies -= tx->copies;
	for (unsigned i = 0; i < tx->nfill; i++)
		free(tx->fill[i].buf);
	free(tx->fill);
	free(tx->elem);
	free(tx);
}

static void free_batch(struct sorter_batch *b)
{
	struct sorter *s = b->sorter;

	if (b->copy.len > s->spare.len && b->copy.len <= SPARE_MAX) {
		free(s->spare.mem);
		s->spare = b->copy;
	} else {
		free(b->copy.mem);
	}
	free(b->job);
	free(b->piece);
	free(b);
}

static struct sorter_batch *new_batch(struct sorter *s)
{
	struct sorter_batch *b = calloc(1, sizeof(*b)), **p = &s->open;

	if (!b)
		return NULL;
	b->sorter = s;
	while (*p)
		p = &(*p)->next;
	*p = b;
	return b;
}

/* The batch that has room for `n` more transactions of `bytes`. */
static struct sorter_batch *batch_for(struct sorter *s, unsigned n, uint64_t bytes)
{
	struct sorter_batch *b = s->open;

	while (b && b->next)
		b = b->next;
	if (b && (!b->ntx || (b->ntx + n <= s->o.max_txs && b->bytes + bytes <= s->o.max_bytes)))
		return b;
	return new_batch(s);
}

static struct sorter_tx *new_tx(struct sorter *s, struct sorter_batch *b, uint64_t block)
{
	struct sorter_tx *tx = calloc(1, sizeof(*tx)), **p = bucket(s, block);

	if (!tx)
		return NULL;
	tx->block = block;
	tx->batch = b;
	tx->next = b->first;
	b->first = tx;
	b->ntx++;
	tx->hash_next = *p;
	*p = tx;
	return tx;
}

/* ---- a request's end ---- */

static void free_sets(struct sorter_job *j)
{
	for (unsigned i = 0; i < j->nsets; i++)
		if (j->set[i].own)
			free(j->set[i].elem);
	free(j->set);
	free(j->elem);
	j->set = NULL;
	j->elem = NULL;
	j->nsets = 0;
}

static void window_start(struct sorter_job *j);

void sorter_job_part_done(struct sorter_job *j)
{
	struct sorter *s = j->s;
	struct disk_req *r = j->r;
	int rc = j->error;

	if (--j->pending)
		return;
	if (j->entered)
		sorter_leave(s, j->epoch);
	j->entered = false;
	free_sets(j);
	if (!rc && j->at < j->end) {
		if (j->frame)
			j->frame->again = true; /* no recursion over a large disk */
		else
			window_start(j);
		return;
	}
	if (j->frame)
		j->frame->gone = true;
	free(j);
	s->jobs--;
	if (s->in_submit)
		disk_done_soon(r, rc);
	else
		disk_done(r, rc);
}

/* ---- resolved: plain elements out, the others into a batch ---- */

static void block_job(struct sorter_job *j)
{
	struct sorter *s = j->s;

	/* Nothing of it is on its way, unless it began again. */
	if (j->entered && j->pending == 1) {
		sorter_leave(s, j->epoch);
		j->entered = false;
	}
	j->next = NULL;
	*s->blocked_last = j;
	s->blocked_last = &j->next;
}

static bool has_meta(const struct sorter_set *set)
{
	for (unsigned i = 0; i < set->n; i++)
		if (set->elem[i].where == SORT_META)
			return true;
	return false;
}

/*
 * May the job join? Its blocks' transactions have to be open, and all in one batch, which is *b (NULL: none is there).
 * `need`: how many transactions it would add.
 */
static bool may_join(struct sorter_job *j, struct sorter_batch **b, unsigned *need, uint64_t *bytes)
{
	struct sorter *s = j->s;

	*b = NULL;
	*need = 0;
	*bytes = 0;
	for (unsigned i = 0; i < j->nsets; i++) {
		struct sorter_tx *tx = find_tx(s, j->set[i].block);

		if (s->lane[hash(j->set[i].block)].copies)
			return false;
		/* What a tx writes at the same time, and copies nothing, overlaps with what is plain, or is beside it. What it frees is quarantined. */
		if (!has_meta(&j->set[i])) {
			if (tx && tx->batch == s->committing && s->o.early)
				return false;
			continue;
		}
		if (tx && (sealed(s, tx) || s->o.one_by_one))
			return false;
		if (tx && *b && tx->batch != *b)
			return false;
		if (tx)
			*b = tx->batch;
		else
			++*need;
		for (unsigned k = 0; k < j->set[i].n; k++)
			*bytes += j->set[i].elem[k].len;
	}
	return true;
}

static int join_tx(struct sorter_set *set, struct sorter_tx *tx)
{
	bool own = true;

	if (room(&tx->elem, &tx->cap, tx->n + 2 * set->n + 2, &own))
		return -ENOMEM;
	for (unsigned i = 0; i < set->n; i++)
		if (set->elem[i].where == SORT_META)
			overlay(tx->elem, &tx->n, &set->elem[i]);
	set->tx = tx;
	return 0;
}

static int add_job(struct sorter_batch *b, struct sorter_job *j)
{
	if (b->njobs && b->job[b->njobs - 1] == j)
		return 0;
	if (b->njobs == b->jobs_cap) {
		unsigned cap = MAX(16u, 2 * b->jobs_cap);
		struct sorter_job **p = realloc(b->job, cap * sizeof(struct sorter_job *));

		if (!p)
			return -ENOMEM;
		b->job = p;
		b->jobs_cap = cap;
	}
	b->job[b->njobs++] = j;
	j->pending++;
	return 0;
}

/* Out of memory half way leaves an empty tx or one of others: both are harmless. The job fails when its batch is done. */
static int join(struct sorter_job *j, struct sorter_batch *b, unsigned need, uint64_t bytes)
{
	struct sorter *s = j->s;

	for (unsigned i = 0; i < j->nsets; i++) {
		struct sorter_set *set = &j->set[i];
		struct sorter_tx *tx;

		if (!has_meta(set))
			continue;
		tx = find_tx(s, set->block);
		if (s->o.one_by_one)
			b = new_batch(s);
		else if (!b)
			b = batch_for(s, need, bytes);
		if (!b || add_job(b, j))
			return -ENOMEM;
		if (!tx)
			tx = new_tx(s, b, set->block);
		if (!tx || join_tx(set, tx))
			return -ENOMEM;
		for (unsigned k = 0; k < set->n; k++)
			b->bytes += set->elem[k].len;
	}
	return 0;
}

static void job_start(struct sorter_job *j);
static void want_turn(struct sorter *s);

static void job_go(struct sorter_job *j)
{
	struct sorter *s = j->s;
	struct sorter_batch *b;
	unsigned need;
	uint64_t bytes;

	if (!j->error && j->seq != s->seq) { /* a commit went by while it was looked up */
		job_start(j);
		return;
	}
	if (!j->error && !may_join(j, &b, &need, &bytes)) {
		block_job(j);
		return;
	}
	if (!j->error)
		j->error = join(j, b, need, bytes);
	if (!j->error) {
		for (unsigned i = 0; i < j->nsets; i++)
			for (unsigned k = 0; k < j->set[i].n; k++)
				*(j->set[i].elem[k].where == SORT_META ? &s->stats.meta
								       : &s->stats.plain) += 1;
		sorter_plain_out(j);
	}
	if (s->open)
		want_turn(s);
	sorter_job_part_done(j);
}

void sorter_resolved(struct sorter_set *set, int rc)
{
	struct sorter_job *j = set->job;

	if (rc && !j->error)
		j->error = rc;
	if (!--j->unresolved)
		job_go(j);
}

static void job_start(struct sorter_job *j)
{
	struct sorter *s = j->s;

	if (!j->entered)
		j->epoch = sorter_enter(s);
	j->entered = true;
	j->seq = s->seq;
	j->unresolved = 1 + j->nsets;
	for (unsigned i = 0; i < j->nsets; i++)
		s->o.ops->resolve(s->o.ctx, &j->set[i]);
	if (!--j->unresolved)
		job_go(j);
}

/* ---- cutting into sets ---- */

static uint64_t blocks_of(const struct sorter *s, uint64_t off, uint64_t len)
{
	return len ? (off + len - 1) / s->o.block_size - off / s->o.block_size + 1 : 0;
}

/* Elements of one range, cut at blocks. */
static void cut_range(
	struct sorter_job *j, unsigned *n, uint64_t off, uint64_t len, uint64_t iov_at)
{
	const struct disk_req *r = j->r;
	uint64_t size = j->s->o.block_size;

	while (len) {
		uint64_t part = MIN(len, size - off % size);
		struct sorter_elem el = {.off = off,
			.len = part,
			.kind = r->op == DISK_WRITE	? SORT_DATA
				: r->op == DISK_DISCARD ? SORT_DISCARD
							: SORT_ZERO,
			.unmap = r->unmap,
			.iov = r->iov,
			.niov = r->niov,
			.iov_at = iov_at,
			.job = j};

		overlay(j->elem, n, &el);
		off += part;
		iov_at += part;
		len -= part;
	}
}

/* Out of sorted elements, sets: one for each block. */
static int group(struct sorter_job *j, unsigned n)
{
	struct sorter *s = j->s;
	unsigned sets = 0;

	for (unsigned i = 0; i < n; i++)
		sets += !i ||
			j->elem[i].off / s->o.block_size != j->elem[i - 1].off / s->o.block_size;
	j->set = calloc(MAX(sets, 1u), sizeof(*j->set));
	if (!j->set)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		uint64_t block = j->elem[i].off / s->o.block_size;

		if (!j->nsets || j->set[j->nsets - 1].block != block)
			j->set[j->nsets++] = (struct sorter_set){
				.block = block, .elem = &j->elem[i], .job = j};
		j->set[j->nsets - 1].n++;
		j->set[j->nsets - 1].cap++;
	}
	s->stats.elements += n;
	s->stats.sets += sets;
	return 0;
}

static int make_sets(struct sorter_job *j)
{
	struct sorter *s = j->s;
	const struct disk_req *r = j->r;
	uint64_t max = 0, at = 0, size = s->o.block_size, stop = j->end;
	unsigned n = 0;

	if (r->nranges) {
		for (unsigned i = 0; i < r->nranges; i++)
			max += blocks_of(s, r->ranges[i].offset, r->ranges[i].len);
	} else {
		/* A disk of many TiB may be discarded in one request. */
		if (r->op != DISK_WRITE)
			stop = MIN(stop, (j->at / size + s->o.max_txs) * size);
		max = blocks_of(s, j->at, stop - j->at);
	}
	/* Each that is laid over others may split one of them. */
	max = 2 * max + 2;
	if (max > UINT32_MAX)
		return -ENOMEM;
	j->elem = malloc(max * sizeof(*j->elem));
	if (!j->elem)
		return -ENOMEM;
	for (unsigned i = 0; i < r->nranges; i++) {
		cut_range(j, &n, r->ranges[i].offset, r->ranges[i].len, at);
		at += r->ranges[i].len;
	}
	if (!r->nranges)
		cut_range(j, &n, j->at, stop - j->at, j->at - r->offset);
	j->at = stop;
	return group(j, n);
}

static void window_start(struct sorter_job *j)
{
	struct sorter_frame f;

	j->frame = &f;
	do {
		uint64_t skip = j->s->o.ops->skip && j->r->op != DISK_WRITE
					? j->s->o.ops->skip(j->s->o.ctx, j->at, j->end - j->at)
					: 0;

		f = (struct sorter_frame){0};
		j->at += MIN(skip, j->end - j->at);
		j->pending = 1; /* whoever drives it; then each part that is on its way */
		j->error = make_sets(j);
		if (j->error)
			sorter_job_part_done(j);
		else
			job_start(j);
	} while (f.again);
	if (!f.gone)
		j->frame = NULL;
}

void sorter_submit(struct sorter *s, struct disk_req *r)
{
	struct sorter_job *j = calloc(1, sizeof(*j));
	bool nested = s->in_submit;

	s->stats.requests++;
	if (!j) {
		disk_done_soon(r, -ENOMEM);
		return;
	}
	j->s = s;
	j->r = r;
	j->at = r->nranges ? 0 : r->offset;
	j->end = r->nranges ? 0 : r->offset + r->len;
	s->jobs++;
	s->in_submit = true;
	window_start(j);
	s->in_submit = nested;
}

/* ---- lanes: what is written in place, and what is copied ---- */

static void fills_start(struct sorter_batch *b);

/* Nothing is on its way to the places of some block any more. */
static void lane_quiet(struct sorter *s)
{
	if (s->writing && s->writing->quiet)
		fills_start(s->writing);
}

static bool lane_leave(struct sorter *s, uint64_t block)
{
	struct sorter_lane *l = &s->lane[hash(block)];

	return !--l->plain && l->copies;
}

void sorter_plain_sent(struct sorter_job *j)
{
	for (unsigned i = 0; !j->plain && i < j->nsets; i++)
		j->s->lane[hash(j->set[i].block)].plain++;
	j->plain++;
}

void sorter_plain_arrived(struct sorter_job *j)
{
	bool quiet = false;

	if (--j->plain)
		return;
	for (unsigned i = 0; i < j->nsets; i++)
		quiet |= lane_leave(j->s, j->set[i].block);
	if (quiet)
		lane_quiet(j->s);
}

bool sorter_bypass(struct sorter *s, uint64_t off, uint64_t len)
{
	uint64_t first = off / s->o.block_size, n = blocks_of(s, off, len);

	for (uint64_t i = 0; i < n; i++)
		if (s->lane[hash(first + i)].copies)
			return false;
	for (uint64_t i = 0; s->committing && s->o.early && i < n; i++) {
		const struct sorter_tx *tx = find_tx(s, first + i);

		if (tx && tx->batch == s->committing)
			return false;
	}
	for (uint64_t i = 0; i < n; i++)
		s->lane[hash(first + i)].plain++;
	s->stats.requests++;
	s->stats.elements += n;
	s->stats.sets += n;
	s->stats.plain += n;
	s->stats.data_writes++;
	s->stats.data_bytes += len;
	return true;
}

void sorter_bypassed(struct sorter *s, uint64_t off, uint64_t len)
{
	uint64_t first = off / s->o.block_size, n = blocks_of(s, off, len);
	bool quiet = false;

	for (uint64_t i = 0; i < n; i++)
		quiet |= lane_leave(s, first + i);
	if (quiet)
		lane_quiet(s);
}

/* ---- a batch on its way ---- */

static void advance(struct sorter *s);

static void retry_blocked(struct sorter *s)
{
	struct sorter_job *j = s->blocked, *next;

	s->blocked = NULL;
	s->blocked_last = &s->blocked;
	for (; j; j = next) {
		next = j->next;
		job_start(j);
	}
}

/* Takes the batch apart; its jobs end, or begin again. */
static void end_batch(struct sorter *s, struct sorter_batch *b)
{
	struct sorter_tx *tx, *next;

	for (unsigned i = 0; i < b->njobs; i++)
		for (unsigned k = 0; k < b->job[i]->nsets; k++)
			if (b->job[i]->set[k].tx && b->job[i]->set[k].tx->batch == b)
				b->job[i]->set[k].tx = NULL;
	for (tx = b->first; tx; tx = next) {
		next = tx->next;
		free_tx(s, tx);
	}
	b->first = NULL;
	for (unsigned i = 0; i < b->njobs; i++) {
		struct sorter_job *j = b->job[i];

		j->marked = false;
		if (!j->restart || j->error) {
			sorter_job_part_done(j);
			continue;
		}
		/* What was plain is written once more. The batch's part in `pending` is now the driver's. */
		j->restart = false;
		s->stats.restarted++;
		job_start(j);
	}
	free_batch(b);
}

static void committed(struct sorter_batch *b, int rc)
{
	struct sorter *s = b->sorter;

	if (!rc) {
		s->stats.physical++;
		s->stats.logical += b->ntx;
	} else {
		s->stats.aborted += b->ntx;
	}
	for (unsigned i = 0; rc && i < b->njobs; i++)
		if (!b->job[i]->error && !b->job[i]->restart)
			b->job[i]->error = rc;
	s->committing = NULL;
	s->seq++;
	end_batch(s, b);
	retry_blocked(s);
	advance(s);
}

void sorter_committed(struct sorter_batch *b, int rc)
{
	b->commit_done = true;
	b->commit_rc = rc;
	if (!b->both || b->data_done)
		committed(b, rc);
}

/* The requests of what failed; the metadata is there and stays. */
static void note_errors(struct sorter_batch *b)
{
	for (unsigned i = 0; i < b->njobs; i++)
		for (unsigned k = 0; k < b->job[i]->nsets; k++) {
			struct sorter_tx *tx = b->job[i]->set[k].tx;

			if (tx && tx->batch == b && tx->error && !b->job[i]->error)
				b->job[i]->error = tx->error;
		}
}

/* Every request of a failed tx fails; every tx of such a request goes, and whoever shares it begins again. */
static void spread_failure(struct sorter_batch *b)
{
	bool again = true;

	note_errors(b);
	while (again) {
		again = false;
		for (unsigned i = 0; i < b->njobs; i++) {
			struct sorter_job *j = b->job[i];
			bool bad = j->error || j->restart;

			for (unsigned k = 0; k < j->nsets && !bad; k++)
				bad = j->set[k].tx && j->set[k].tx->batch == b &&
				      j->set[k].tx->error;
			if (!bad || j->marked)
				continue;
			j->restart = !j->error;
			j->marked = again = true;
			for (unsigned k = 0; k < j->nsets; k++)
				if (j->set[k].tx && j->set[k].tx->batch == b &&
					!j->set[k].tx->error)
					j->set[k].tx->error = -ECANCELED;
		}
	}
}

/* Leaves the good ones in the batch. Those that failed are aborted, and freed. */
static void drop_failed(struct sorter *s, struct sorter_batch *b)
{
	struct sorter_tx **p = &b->first, *tx;

	while ((tx = *p)) {
		if (!tx->error && tx->n) {
			p = &tx->next;
			continue;
		}
		*p = tx->next;
		b->ntx--;
		s->stats.aborted++;
		if (tx->prepared)
			s->o.ops->abort(s->o.ctx, tx);
		for (unsigned i = 0; i < b->njobs; i++)
			for (unsigned k = 0; k < b->job[i]->nsets; k++)
				if (b->job[i]->set[k].tx == tx)
					b->job[i]->set[k].tx = NULL;
		free_tx(s, tx);
	}
}

static bool any_failed(const struct sorter_batch *b)
{
	for (const struct sorter_tx *tx = b->first; tx; tx = tx->next)
		if (tx->error || !tx->n)
			return true;
	for (unsigned i = 0; i < b->njobs; i++)
		if (b->job[i]->error)
			return true;
	return false;
}

void sorter_commit_along(struct sorter_batch *b)
{
	struct sorter *s = b->sorter;

	if (s->committing || any_failed(b) || !s->o.ops->unordered ||
		!s->o.ops->unordered(s->o.ctx, b))
		return;
	b->both = true;
	s->committing = b;
	s->o.ops->commit(s->o.ctx, b);
}

void sorter_data_done(struct sorter_batch *b)
{
	struct sorter *s = b->sorter;

	if (b->both) {
		note_errors(b);
		b->data_done = true;
		s->writing = NULL;
		if (b->commit_done)
			committed(b, b->commit_rc);
		else
			advance(s);
		return;
	}
	if (any_failed(b)) {
		spread_failure(b);
		drop_failed(s, b);
	}
	if (!b->first) {
		s->writing = NULL;
		end_batch(s, b);
		retry_blocked(s);
	} else {
		b->ready = true;
	}
	advance(s);
}

/* Prepare, fills and data: each ends in the next when its last part is done. */
static void fills_start(struct sorter_batch *b)
{
	struct sorter *s = b->sorter;

	b->quiet = false;
	for (const struct sorter_tx *tx = b->first; tx && !b->quiet; tx = tx->next)
		b->quiet = tx->copies && s->lane[hash(tx->block)].plain;
	if (b->quiet) /* lane_quiet() comes back */
		return;
	b->pending = 1;
	for (struct sorter_tx *tx = b->first; tx; tx = tx->next) {
		for (unsigned i = 0; i < tx->nfill && !tx->error; i++) {
			struct sorter_fill *f = &tx->fill[i];

			if (!f->copy)
				continue;
			if (posix_memalign(&f->buf, 4096, f->len)) {
				f->buf = NULL;
				tx->error = -ENOMEM;
				continue;
			}
			f->tx = tx;
			b->pending++;
			s->o.ops->read_old(s->o.ctx, f);
		}
	}
	if (!--b->pending)
		sorter_data_out(b);
}

static void prepared_all(struct sorter_batch *b)
{
	for (struct sorter_tx *tx = b->first; tx; tx = tx->next) {
		for (unsigned i = 0; i < tx->nfill && !tx->error; i++)
			tx->copies |= tx->fill[i].copy;
		b->sorter->lane[hash(tx->block)].copies += tx->copies;
	}
	fills_start(b);
}

void sorter_filled(struct sorter_fill *f, int rc)
{
	struct sorter_batch *b = f->tx->batch;

	if (rc && !f->tx->error)
		f->tx->error = rc;
	if (!--b->pending)
		sorter_data_out(b);
}

static void fill_read(struct file_req *r)
{
	sorter_filled(container_of(r, struct sorter_fill, req), r->result);
}

void sorter_fill_from(struct sorter_fill *f, struct file *file, uint64_t addr)
{
	f->iov = (struct iovec){f->buf, f->len};
	f->req = (struct file_req){.op = FILE_READ,
		.off = addr,
		.len = f->len,
		.iov = &f->iov,
		.niov = 1,
		.done = fill_read};
	file_submit(file, &f->req);
}

void sorter_prepared(struct sorter_tx *tx, int rc)
{
	struct sorter_batch *b = tx->batch;

	tx->error = tx->error ?: rc;
	if (!--b->pending)
		prepared_all(b);
}

/* In the order in which they came: formats allocate in this order, and what is written in sequence is to lie in sequence. */
static void put_in_order(struct sorter_batch *b)
{
	struct sorter_tx *tx = b->first, *next, *out = NULL;

	for (; tx; tx = next) {
		next = tx->next;
		tx->next = out;
		out = tx;
	}
	b->first = out;
}

static void seal(struct sorter *s)
{
	struct sorter_batch *b = s->open;
	struct sorter_tx *tx, *next;

	s->open = b->next;
	b->next = NULL;
	put_in_order(b);
	s->writing = b;
	b->pending = 1;
	for (tx = b->first; tx; tx = next) {
		next = tx->next;
		if (!tx->n)
			continue; /* memory ran out when its only request joined */
		b->pending++;
		tx->prepared = true;
		s->o.ops->prepare(s->o.ctx, tx);
	}
	if (!--b->pending)
		prepared_all(b);
}

/* What can go on goes on. New batches are sealed at the end of the turn only: more may come. */
static void advance(struct sorter *s)
{
	struct sorter_batch *b = s->writing;

	if (b && b->ready && !s->committing) {
		s->writing = NULL;
		s->committing = b;
		s->o.ops->commit(s->o.ctx, b);
	}
	if (!s->writing && s->open)
		want_turn(s);
}

void sorter_kick(struct sorter *s)
{
	if (!s->writing && s->open)
		seal(s);
}

/* ---- the loop ---- */

static void on_idle(uv_idle_t *h)
{
	struct sorter *s = container_of(h, struct sorter_turn, idle)->s;

	uv_idle_stop(h);
	sorter_kick(s);
	disk_batch(s->o.disk);
}

static void want_turn(struct sorter *s)
{
	uv_idle_start(&s->turn->idle, on_idle);
}

static void turn_closed(uv_handle_t *h)
{
	free(container_of((uv_idle_t *)h, struct sorter_turn, idle));
}

int sorter_create(struct sorter **out, const struct sorter_opts *o, struct err *e)
{
	struct sorter *s = calloc(1, sizeof(*s));
	struct sorter_turn *t = calloc(1, sizeof(*t));

	if (!s || !t) {
		free(s);
		free(t);
		return err_set(e, -ENOMEM, "out of memory");
	}
	s->o = *o;
	s->o.max_txs = o->max_txs ?: MAX_TXS;
	s->o.max_bytes = o->max_bytes ?: MAX_BYTES;
	s->blocked_last = &s->blocked;
	s->epoch.last = &s->epoch.first;
	s->turn = t;
	t->s = s;
	uv_idle_init(o->disk->o.loop, &t->idle);
	*out = s;
	return 0;
}

void sorter_destroy(struct sorter *s)
{
	if (!s)
		return;
	epochs_end(s);
	uv_close((uv_handle_t *)&s->turn->idle, turn_closed);
	free(s->zeroes);
	free(s->spare.mem);
	free(s);
}

bool sorter_busy(const struct sorter *s)
{
	return s->jobs;
}

int sorter_add_fill(struct sorter_tx *tx, uint64_t off, uint64_t len, bool copy, struct file *file,
	uint64_t addr, uint64_t tag)
{
	if (!len)
		return 0;
	if (tx->nfill == tx->fill_cap) {
		unsigned cap = MAX(4u, 2 * tx->fill_cap);
		struct sorter_fill *p = realloc(tx->fill, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		tx->fill = p;
		tx->fill_cap = cap;
	}
	tx->fill[tx->nfill++] = (struct sorter_fill){.off = off,
		.len = len,
		.copy = copy,
		.file = file,
		.addr = addr,
		.tag = tag,
		.tx = tx};
	return 0;
}

void sorter_account(struct sorter *s, uint64_t journal_bytes, uint64_t meta_writes,
	uint64_t meta_bytes, uint64_t flushes)
{
	s->stats.journal_bytes += journal_bytes;
	s->stats.meta_writes += meta_writes;
	s->stats.meta_bytes += meta_bytes;
	s->stats.flushes += flushes;
}

void sorter_stats(const struct sorter *s, struct sorter_stats *out)
{
	*out = s->stats;
}
