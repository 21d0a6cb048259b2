/*
 * sorter_priv.h: what sorter.c (who waits for whom) and sorter_out.c (what is written) share. Nobody else includes it. Everything here is the
 * loop's, and belongs to its sorter; a job ends exactly once, with its request.
 */
#ifndef LODGE_DISK_SORTER_PRIV_H
#define LODGE_DISK_SORTER_PRIV_H

#include <uv.h>

#include "disk/sorter.h"

#define SORTER_HASH_BITS 10
#define SORTER_EPOCHS 64u

struct sorter_frame {
	bool again, gone;
};

/*
 * Blocks with the same hash share a lane: what is on its way in place to one of them, and sealed txs that copy from one of them, keep each other out.
 * The latter wait until `plain` is 0 and let no more in meanwhile, so that they need not wait for ever.
 */
struct sorter_lane {
	uint32_t plain, copies;
};

/* A request on its way; a large discard is one window of blocks after the other. */
struct sorter_job {
	struct sorter *s;
	struct disk_req *r;
	struct sorter_elem *elem; /* memory of all sets that have none of their own */
	struct sorter_set *set;
	unsigned nsets, unresolved, pending;
	unsigned plain; /* writes in place that are on their way: all of its blocks' lanes know */
	uint64_t at, end; /* WRITE_ZEROES, DISCARD: next window */
	uint64_t epoch, seq;
	int error;
	bool entered, restart, marked;
	struct sorter_frame *frame; /* of the window_start() that is below us on the stack */
	struct sorter_job *next; /* blocked */
};

/* Lives until libuv has closed its handle. */
struct sorter_turn {
	uv_idle_t idle;
	struct sorter *s;
};

struct sorter {
	struct sorter_opts o;
	struct sorter_stats stats;
	struct sorter_batch *open, *writing,
		*committing; /* open: a queue; the last takes what is new */
	struct sorter_tx *hash[1 << SORTER_HASH_BITS];
	struct sorter_lane lane[1 << SORTER_HASH_BITS];
	struct sorter_job *blocked, **blocked_last;
	struct sorter_turn *turn;
	uint64_t seq; /* commits so far: what was looked up before one is looked up again */
	uint64_t jobs;
	bool in_submit;
	void *zeroes;
	struct sorter_copy
		spare; /* of the last batch, for the next one: fresh memory would be faulted in page by page */
	struct {
		uint64_t now, oldest, newest, count[SORTER_EPOCHS]; /* newest: of those that wait */
		struct sorter_quarantine *first, **last;
	} epoch;
};

/* One thing that the job waited for is done. It may be gone afterwards. */
void sorter_job_part_done(struct sorter_job *j);
/* A write of its plain elements is sent; it has arrived. */
void sorter_plain_sent(struct sorter_job *j);
void sorter_plain_arrived(struct sorter_job *j);
/* Writes the plain elements of a job; each write is a part of it. */
void sorter_plain_out(struct sorter_job *j);
/* Writes data and fills of all good txs of a batch, then sorter_data_done(), never at once unless there is nothing to write. */
void sorter_data_out(struct sorter_batch *b);
void sorter_data_done(struct sorter_batch *b);
/* The data is about to be sent: the metadata goes with it, if it need not wait. */
void sorter_commit_along(struct sorter_batch *b);

#endif
