/*
 * sorter.h: turns scattered writes into few changes of metadata.
 *
 *   disk_req --sorter_submit()--> cut at blocks, sorted into SETS (one for each block) --resolve()--> format
 *      |                                                                                  |
 *      |     PLAIN elements (mapped, writable in place): written at once <----------------+
 *      |     META elements (allocation, copy-on-write, zeroing, freeing) --> one TX (logical transaction) for each block,
 *      |           in the open BATCH; elements of other requests to the same block join the same tx
 *      |                       | sealed at the end of the loop's turn, as soon as the batch before has its data written
 *      |     prepare(tx): the format reserves space and says where data and fills go  --> data of ALL txs is sorted by address,
 *      |                       merged and written
 *      |     commit(batch): ONE physical transaction with the metadata of all its txs
 *      +<--- done: when all its plain elements are written and its batch is committed
 *
 * Three batches exist at most: one collects, one writes data, one commits. So what arrives while a commit runs shares the next one.
 *
 * Requests: WRITE (with one range or with several: disk_req.ranges), WRITE_ZEROES, DISCARD. Everything else is the format's.
 *
 * What the sorter promises to the format
 *   - resolve(), prepare(), commit(), abort() are called in the loop's thread, never two commits at once, in the order of batches.
 *   - In a set and in a tx the elements are sorted by offset and do not overlap: of overlapping elements of one request the last wins,
 *     of different requests the one that was submitted last.
 *   - All txs of a request are in one batch: what commit() makes all-or-nothing is so for each request.
 *   - Of a block with a tx that is sealed (preparing, writing or committing) requests with META elements wait, and are resolved again after. PLAIN ones
 *     go on: the tx moves nothing that they are written to, unless it copies.
 *   - A tx that copies (a fill of read_old()) has its block for itself: read_old() is called when all that was on its way to the block in place has
 *     arrived, and until the tx is committed or aborted nothing more goes there in place; requests wait and are resolved again. (A few blocks share
 *     that: sorter_priv.h, lanes.) So it does not matter which bytes beside those of a request a tx takes along, nor when the disk comes to own a place.
 *   - Data is written before commit() is called, unless unordered() has said that this need not be.
 *   - A tx is either committed, or aborted, or neither prepared. When one fails (prepare, fill or data write), each request in it fails with
 *     its error, and other txs of these requests are aborted; requests that shared those are started again from resolve().
 *
 * What the format promises
 *   - Each callback is answered exactly once, at once or later, in the loop's thread: resolve by sorter_resolved(), prepare by
 *     sorter_prepared(), read_old by sorter_filled(), commit by sorter_committed().
 *   - After sorter_committed(b, error) its state in memory is as before the batch (or it refuses everything from then on).
 *   - Space that a commit frees is reused only after sorter_quarantine() has let it go: reads, and plain writes of requests that overlap, may
 *     still be on their way to it. The format brackets its own reads by sorter_enter() and sorter_leave().
 *   - Durability: a request that is done is on its way to the medium; DISK_FLUSH is the format's: it makes durable what was done before.
 *     `fua` does not come here: a format that sorts leaves it to disk.c (disk_format.fua).
 *
 * Threads: the loop's. docs/disk.md, "The sorter".
 */
#ifndef LODGE_DISK_SORTER_H
#define LODGE_DISK_SORTER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "disk/disk.h"
#include "disk/file.h"

struct sorter;
struct sorter_tx;
struct sorter_batch;
struct sorter_job; /* a request on its way; the sorter's own */

enum sorter_kind { SORT_DATA, SORT_ZERO, SORT_DISCARD };
enum sorter_where {
	SORT_META,
	SORT_PLAIN,
	SORT_NOTHING /* has its effect already (zeroes on a hole) */
};

/* A part of one request inside one block. */
struct sorter_elem {
	uint64_t off, len; /* in the disk */
	enum sorter_kind kind;
	bool unmap; /* ZERO: the space may go */
	/* DATA: its bytes. Belongs to the request. */
	const struct iovec *iov;
	unsigned niov;
	uint64_t iov_at; /* they begin so many bytes into iov */
	/* Set by resolve(): */
	enum sorter_where where;
	/* PLAIN: set by resolve(); META with data: set by prepare(). file NULL: META data that has no place (compressed by commit). */
	struct file *file;
	uint64_t addr;
	uint64_t tag; /* the format's, kept from resolve() to commit() */
	struct sorter_job *job;
	struct iovec copied; /* the sorter's own */
};

/* The elements of one request in one block, while they are resolved. */
struct sorter_set {
	uint64_t block; /* number of the block: off / block_size */
	struct sorter_elem *elem;
	unsigned n;
	void *priv; /* the format's, while it resolves */
	struct sorter_job *job;
	/* The sorter's own: */
	struct sorter_tx *tx;
	unsigned cap;
	bool own; /* elem is malloc'ed */
};

/* Bytes that are not from a request but have to be written beside them: the rest of a cluster. */
struct sorter_fill {
	uint64_t off, len; /* in the disk */
	struct file *file;
	uint64_t addr;
	bool copy; /* read_old() gives the bytes; else zeroes */
	void *buf; /* len bytes; for read_old() to fill */
	uint64_t tag;
	struct sorter_tx *tx;
	struct file_req req; /* of sorter_fill_from() */
	struct iovec iov;
};

/* Logical transaction: everything that changes the metadata of one block. */
struct sorter_tx {
	uint64_t block;
	struct sorter_elem *elem;
	unsigned n;
	struct sorter_fill *fill;
	unsigned nfill;
	void *priv; /* the format's, from prepare() to commit() or abort() */
	struct sorter_batch *batch;
	struct sorter_tx *next; /* in the batch */
	/* The sorter's own: */
	struct sorter_tx *hash_next;
	unsigned cap, fill_cap, pending;
	int error;
	bool prepared, copies;
};

/* Memory with the data of a batch (sorter_opts.stable). */
struct sorter_copy {
	void *mem;
	uint64_t len;
};

/* Physical transaction. */
struct sorter_batch {
	struct sorter_tx *first; /* those that are to be committed */
	unsigned ntx;
	void *priv; /* the format's, during commit */
	struct sorter *sorter;
	/* The sorter's own: */
	struct sorter_batch *next;
	struct sorter_job **job;
	unsigned njobs, jobs_cap, pending;
	uint64_t bytes;
	struct sorter_piece *piece;
	unsigned npieces;
	struct sorter_copy copy;
	bool quiet; /* it waits for what is on its way to the blocks that it copies */
	bool ready; /* its data is written */
	bool both; /* data and metadata are written at once; then: */
	bool data_done, commit_done;
	int commit_rc;
};

struct sorter_ops {
	/* Says for each element whether it is PLAIN (where), META or NOTHING. May cut elements by sorter_cut(). */
	void (*resolve)(void *ctx, struct sorter_set *set);
	/* Reserves what the tx needs; sets file and addr of its DATA elements; sorter_add_fill(). Must not change what reads see. */
	void (*prepare)(void *ctx, struct sorter_tx *tx);
	/* Fills fill->buf with what the disk has at fill->off now. NULL when no fill is a copy. */
	void (*read_old)(void *ctx, struct sorter_fill *fill);
	/* All data is written (not flushed), or need not be. Writes the metadata of all txs, once, then makes reads see it. */
	void (*commit)(void *ctx, struct sorter_batch *b);
	/*
	 * Need the metadata of this batch not wait for its data? Then commit() may come before the data is written. When data fails then, the
	 * requests fail and the metadata stays. May be NULL: it waits.
	 */
	bool (*unordered)(void *ctx, const struct sorter_batch *b);
	/* How many bytes from `off` on are such that zeroing or discarding changes nothing; 0 is always right. May be NULL. */
	uint64_t (*skip)(void *ctx, uint64_t off, uint64_t len);
	/* Gives back what prepare() took. Also after a prepare that failed half way (then tx->priv is what it left). */
	void (*abort)(void *ctx, struct sorter_tx *tx);
};

struct sorter_opts {
	struct disk *disk; /* its requests are ended by disk_done() */
	uint64_t block_size; /* power of two */
	const struct sorter_ops *ops;
	void *ctx;
	/* Data of META elements of at most so many bytes is copied first, so that it cannot change between checksum and write: sorter_copied(). */
	uint64_t stable;
	/* resolve() sees what commit() changes before sorter_committed(): plain elements of a block in commit wait for it. */
	bool early;
	bool one_by_one; /* a physical transaction for each logical one: to compare with */
	unsigned
		max_txs; /* in a batch, and blocks that are zeroed or discarded at a time; 0: 256 */
	uint64_t max_bytes; /* data of a batch; 0: 8 MiB */
};

struct sorter_stats {
	uint64_t requests, elements, sets;
	uint64_t plain; /* elements that changed no metadata and went out at once */
	uint64_t meta;
	uint64_t logical, physical; /* transactions; committed ones only */
	uint64_t aborted, restarted; /* logical transactions; requests */
	uint64_t data_writes, data_bytes; /* after merging, plain ones too */
	uint64_t fill_bytes;
	/* Counted by the format (sorter_account): */
	uint64_t journal_bytes, meta_writes, meta_bytes, flushes;
};

int sorter_create(struct sorter **out, const struct sorter_opts *o, struct err *e);
/* Nothing may be in flight. NULL is nothing. */
void sorter_destroy(struct sorter *s);

/* From the format's submit(), for WRITE, WRITE_ZEROES and DISCARD. Ends by disk_done(). */
void sorter_submit(struct sorter *s, struct disk_req *r);
/*
 * For a format that has found by itself that all of [off, off + len) may be written in place: true when it may do so now, without a
 * request of the sorter's; counted as plain. Then sorter_bypassed() says that it is written; the format brackets the write by sorter_enter() and
 * sorter_leave(), too.
 */
bool sorter_bypass(struct sorter *s, uint64_t off, uint64_t len);
void sorter_bypassed(struct sorter *s, uint64_t off, uint64_t len);
/* Do not wait for the end of the turn: seal what has collected. For drain. */
void sorter_kick(struct sorter *s);
bool sorter_busy(const struct sorter *s);

/* Answers. */
void sorter_resolved(struct sorter_set *set, int rc);
void sorter_prepared(struct sorter_tx *tx, int rc);
void sorter_filled(struct sorter_fill *fill, int rc);
/* The same later, with the bytes that lie there. */
void sorter_fill_from(struct sorter_fill *fill, struct file *file, uint64_t addr);
void sorter_committed(struct sorter_batch *b, int rc);

/* In resolve(): element i becomes two, the first `len` long; the second is i + 1 and looks the same. -ENOMEM. */
int sorter_cut(struct sorter_set *set, unsigned i, uint64_t len);
/* In prepare(). -ENOMEM. */
int sorter_add_fill(struct sorter_tx *tx, uint64_t off, uint64_t len, bool copy, struct file *file,
	uint64_t addr, uint64_t tag);
static inline bool sorter_copied(const struct sorter_elem *el)
{
	return el->iov == &el->copied;
}
/* Copies `len` bytes, `at` bytes into the element's data, to memory: for checksums and compression. */
void sorter_elem_read(const struct sorter_elem *el, uint64_t at, void *to, uint64_t len);

/*
 * Reading brackets and reuse. sorter_quarantine() calls `free` in the loop's thread, perhaps at once, when every reader
 * that had entered, and every plain write that was on its way, is gone. `q` is the caller's and stays until then.
 */
struct sorter_quarantine {
	void (*free)(struct sorter_quarantine *q);
	struct sorter_quarantine *next;
	uint64_t epoch;
};
uint64_t sorter_enter(struct sorter *s); /* returns what sorter_leave() wants */
void sorter_leave(struct sorter *s, uint64_t epoch);
void sorter_quarantine(struct sorter *s, struct sorter_quarantine *q);

void sorter_account(struct sorter *s, uint64_t journal_bytes, uint64_t meta_writes,
	uint64_t meta_bytes, uint64_t flushes);
void sorter_stats(const struct sorter *s, struct sorter_stats *out);

#endif
