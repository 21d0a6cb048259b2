/*
 * qcow2.h: what the parts of the qcow2 format share. Nobody outside this folder includes it, but tests.
 *
 *   qcow2.c     opening, closing, requests: who runs when
 *   io.c        transfers that a coroutine (co.h) waits for
 *   meta.c      cache of L2 tables and refcount blocks; the transaction that writes them
 *   map.c       guest offset --> host offset, and its change
 *   refcount.c  clusters of the file: counting, finding free ones
 *   read.c      contents, from wherever they are
 *   write.c     what the sorter asks: resolve, prepare, fill, commit
 *   header.c compress.c snapshot.c bitmap.c check.c create.c admin.c
 *
 * Writes come through the sorter (sorter.h). prepare() allocates clusters (refcounts go up, in memory), the sorter writes the data and what
 * surrounds it there, commit() changes the L2 entries, in memory. Nothing in the file refers to the new clusters until a transaction
 * (q_link()) writes the tables:
 *
 *   refcount blocks | barrier | refcount table | barrier | L2 tables, L1 table
 *
 * where a barrier is fdatasync(2) and those are left out before which nothing was written that has to be durable first. All writes that were
 * linked since the last one share one transaction. A flush is a transaction and one more
 * barrier (q_commit()). Clusters are counted many at a time (reserve), so that few transactions have counts in them. A crash between any two of these leaves clusters that are counted and not used, never ones that are used
 * and not counted. Clusters that are given up are counted down only after a flush has made the loss of the reference durable and
 * the sorter's quarantine is over.
 *
 * Every function below may be called inside a coroutine (it waits there) and outside of one (it blocks; with nothing else in flight,
 * except where its comment says otherwise).
 *
 * What was written since the last flush may be lost with the host, as with the page cache. Requests are acknowledged when their data is in the
 * file and the entry is changed in memory; a transaction follows with the next flush, with Q_DIRTY_BYTES of tables, when the disk is drained, or
 * after Q_LATER_MS. With `commit=batch` it comes before the acknowledgement, and nothing is lost with the process either.
 */
#ifndef LODGE_DISK_QCOW2_H
#define LODGE_DISK_QCOW2_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "disk/co.h"
#include "disk/fill.h"
#include "disk/format.h"
#include "disk/qcow2/header.h"
#include "disk/sorter.h"

struct err;

#define Q_COPIED (1ull << 63)
#define Q_COMPRESSED (1ull << 62)
#define Q_ZERO 1ull
#define Q_OFFSET 0x00fffffffffffe00ull
#define Q_L1_RESERVED 0x7f000000000001ffull

#define Q_SLICE_MAX (64u << 10) /* tables are cached in pieces of up to this */
#define Q_GRAIN 4096u /* and written in pieces of this */
#define Q_CACHE_BYTES (32u << 20)
#define Q_DIRTY_BYTES (8u << 20) /* more than this starts a transaction */
#define Q_LATER_MS 1000u /* so long entries stay in memory at most */
#define Q_FEW_BYTES (256u << 10) /* of new clusters before each flush: q_synced() */
#define Q_FEW_TIMES 4u
#define Q_SMALL_BYTES (16u << 10) /* of one write: q_filled() */
#define Q_SMALL_TIMES 4u

enum q_kind { Q_L2, Q_REFS };

/* A piece of a table in memory. */
struct q_slice {
	struct q_slice *hnext;
	struct list lru, changed; /* changed: those with dirty grains */
	uint64_t off; /* in the file */
	unsigned pins;
	uint32_t dirty, writing; /* a bit for each grain */
	enum q_kind kind;
	bool loading, dead; /* dead: its cluster was freed, or it could not be read */
	struct co_queue waiters;
	uint8_t *data;
};

struct q_cache {
	struct q_slice **hash;
	unsigned hash_bits, count, max;
	uint64_t dirty_bytes;
	struct list lru; /* the one used longest ago first */
	struct list changed;
};

/* Clusters that are counted and belong to nobody yet, so that not every allocation has to change a count before its entry. */
struct q_reserve {
	uint64_t at, end; /* numbers of clusters */
	uint64_t next; /* how many the next reserve has */
	bool zero; /* they read as zeroes */
	uint64_t ahead; /* those before this one were written with zeroes ... */
	uint64_t ahead_end; /* ... and up to here they are being written */
	struct co_queue waiters;
};

/* Numbers of clusters. */
struct q_set {
	uint64_t *slot; /* n + 1; 0 is empty */
	uint64_t size, used; /* size: a power of two */
};

/* Clusters that lose a reference. */
struct q_free {
	uint64_t cluster, n;
	bool punch;
};
struct q_frees {
	struct q_free *a;
	size_t n, cap;
};

struct q_stats {
	uint64_t transactions, barriers, flushes, meta_writes, meta_bytes;
	uint64_t allocated, freed; /* clusters */
	uint64_t ahead_bytes; /* zeroes */
	uint64_t cache_hits, cache_misses;
};

struct q_bitmap; /* bitmap.c */
struct q_snaps;

struct qcow2 {
	struct disk *d;
	struct file *file,
		*data; /* data: where guest clusters are; the same without an external data file */
	struct sorter *sorter; /* NULL when readonly */
	struct qcow2_header h;
	struct co_sched cs;
	bool writable, extended, data_file, raw_data, v3;
	bool lazy, dirty_set; /* lazy refcounts; the dirty bit stands in the file */
	bool corrupt; /* no more writes */
	unsigned cluster_bits, l2_bits, l2_entry, slice_bits, sub_bits;
	uint64_t cluster_size;
	uint64_t
		zero_from; /* bytes of the file from here on were never written and read as zeroes */

	uint64_t *l1;
	uint64_t *l1_dirty; /* bitmap: a bit for 64 entries */
	uint64_t *rt; /* refcount table */
	uint64_t *rt_dirty;
	uint64_t rt_entries;
	unsigned rb_bits; /* log2 of the counts in a refcount block */
	uint64_t refcount_max;
	uint64_t free_at; /* no cluster below is free */
	struct q_reserve reserve;
	unsigned few; /* flushes in a row that had a little to say about new clusters (q_synced) */
	uint64_t recent; /* clusters that were allocated since the last flush */
	uint64_t small; /* bytes of small writes, each by itself, since the last allocation */
	unsigned
		filled; /* allocations in a row that followed when small writes had filled what the one before gave (q_filled) */
	struct q_snaps *snaps; /* snapshot.c; NULL: not wanted yet */
	struct {
		uint64_t done, of; /* tables */
		bool stops; /* it can be undone */
	} steps; /* of what is done to one */
	uint64_t snapshots_bytes; /* of the snapshot table, once it was loaded */
	uint64_t packed_at, packed_end; /* where the next compressed cluster goes */

	struct q_cache cache;
	struct q_set meta_set; /* clusters that hold metadata */
	struct co_mutex meta, commit, flush;
	bool data_first; /* data of this transaction has to be durable before its L2 entries */
	bool behind; /* counts were written that no barrier followed yet */
	bool link_failed; /* what was acknowledged last is in memory only: a transaction failed */
	bool one_by_one; /* sorter=off */
	bool late; /* entries stay in memory for a while (not commit=batch) */
	bool unlinked; /* some do: what was acknowledged is not in the file yet */
	bool linking; /* q_link_soon() is at it */
	struct q_later *later;
	uint64_t commit_begun,
		commit_good; /* numbers of flushes: the last one begun; the last one that is durable */
	struct q_frees frees; /* wait for the transaction that removes the entry ... */
	struct q_frees unflushed; /* ... and for the flush that makes it durable */
	struct q_frees idle; /* may be counted down now */
	unsigned jobs; /* coroutines that run */

	uint8_t *unpacked; /* the compressed cluster that was read last */
	uint64_t unpacked_entry; /* 0: none */

	struct q_bitmap *bitmaps;
	unsigned nbitmaps;
	struct q_stats stats;
};

static inline uint64_t q_in_cluster(const struct qcow2 *q, uint64_t off)
{
	return off & (q->cluster_size - 1);
}

/* ---- io.c ---- */

/* Counts transfers that one coroutine waits for. */
struct q_wait {
	struct qcow2 *q;
	struct co *co;
	unsigned left;
	int rc; /* the first error */
};

struct q_xfer {
	struct file_req req;
	struct q_wait *w;
	struct iovec one;
};

/* x->req has op, off, len, iov, niov; x stays until q_wait_all() has returned. */
void q_xfer_start(struct q_wait *w, struct q_xfer *x, struct file *f);
int q_wait_all(struct q_wait *w);

int q_pread(struct qcow2 *q, struct file *f, uint64_t off, void *buf, uint64_t len);
int q_pwrite(struct qcow2 *q, struct file *f, uint64_t off, const void *buf, uint64_t len);
int q_make_zero(struct qcow2 *q, struct file *f, uint64_t off, uint64_t len, bool unmap);
int q_fill(struct qcow2 *q, struct file *f, uint64_t off, uint64_t len);
int q_punch(struct qcow2 *q, struct file *f, uint64_t off, uint64_t len);
int q_sync(struct qcow2 *q);
/* Lets others run until something has happened. */
void q_pause(struct qcow2 *q, struct co_queue *wait);

/* ---- meta.c ---- */

int q_cache_init(struct qcow2 *q);
void q_cache_free(struct qcow2 *q);
/* Pins the slice that holds byte `off` of the file; *at is the place in its data. Waits. */
int q_slice_get(struct qcow2 *q, enum q_kind kind, uint64_t off, struct q_slice **out);
/* The same when it is in memory; NULL when not. Never waits. */
struct q_slice *q_slice_try(struct qcow2 *q, uint64_t off);
void q_slice_put(struct q_slice *s);
void q_slice_dirty(struct qcow2 *q, struct q_slice *s, uint64_t at, uint64_t len);
/* Its cluster holds something else from now on. */
void q_cache_drop(struct qcow2 *q, uint64_t cluster_off);
/* Forgets everything; nothing in flight or dirty. */
void q_cache_clear(struct qcow2 *q);
/* One physical transaction: everything that was linked is in the file (not: durable) when it answers 0. */
int q_link(struct qcow2 *q);
/* The same, and it and all data written before is durable. */
int q_commit(struct qcow2 *q);
/* Many clusters wait for a flush before they can be used again. */
bool q_frees_wait(const struct qcow2 *q);
bool q_meta_dirty(const struct qcow2 *q);
/* Until nothing waits any more; nothing in flight. */
int q_settle(struct qcow2 *q);
int q_header_field(struct qcow2 *q, unsigned at, uint64_t value, unsigned bytes);
/*
 * Makes the header point elsewhere, durably. When that fails nobody knows which of the two is there: it is put back to what q->h says, before
 * anything is written that only one of them allows; when that fails as well, nothing is written any more.
 */
int q_header_switch(struct qcow2 *q, unsigned at, const void *field, unsigned bytes);
int q_set_incompatible(struct qcow2 *q, uint64_t set, uint64_t clear);
/* The image is damaged: says so in the header and allows no more writes. -EIO. */
int q_damaged(struct qcow2 *q);
void q_lock(struct qcow2 *q, struct co_mutex *m);
static inline void q_unlock(struct co_mutex *m)
{
	co_unlock(m);
}

bool q_set_has(const struct q_set *s, uint64_t v);
int q_set_add(struct q_set *s, uint64_t v); /* 1: was there; 0; -ENOMEM */
void q_set_del(struct q_set *s, uint64_t v);
int q_frees_add(struct q_frees *f, uint64_t cluster, uint64_t n, bool punch);

/* ---- refcount.c ---- */

uint64_t q_refcount_in(const void *block, unsigned order, uint64_t i);
void q_refcount_put(void *block, unsigned order, uint64_t i, uint64_t v);
int q_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *out);
int q_refcount_add(struct qcow2 *q, uint64_t cluster, uint64_t n, int delta);
/* Up to n clusters in a row; *got says how many. *zero: they read as zeroes. */
int q_alloc(struct qcow2 *q, uint64_t n, uint64_t *host, uint64_t *got, bool *zero);
/* The same, out of the reserve only. 0 where it is empty. */
uint64_t q_alloc_now(struct qcow2 *q, uint64_t n, uint64_t *host, bool *zero);
/* Counts down what nobody took. Under `meta`. */
int q_reserve_return(struct qcow2 *q);
/* A flush begins. */
void q_count_flush(struct qcow2 *q);
/* Does who writes flush after each few allocations? Then what a flush has to do is done before it comes, where that is possible. */
static inline bool q_synced(const struct qcow2 *q)
{
	return q->few >= Q_FEW_TIMES && q->recent << q->cluster_bits <= Q_FEW_BYTES;
}

/*
 * Are clusters filled one after the other, by small writes that each wait for the one before? Each of those is slower where the file has no blocks yet
 * than where it has, and what was written ahead for them is used.
 */
static inline bool q_filled(const struct qcow2 *q)
{
	return q->filled >= Q_SMALL_TIMES;
}
/* Exactly n. */
int q_alloc_exact(struct qcow2 *q, uint64_t n, uint64_t *host, bool *zero);
/* For compressed data. */
int q_alloc_bytes(struct qcow2 *q, uint64_t n, uint64_t *host);
/* Was allocated and never linked. */
void q_unalloc(struct qcow2 *q, uint64_t host, uint64_t clusters);
/* A reference to these clusters goes with the next transaction. */
int q_release(struct qcow2 *q, uint64_t host, uint64_t clusters, bool punch);
static inline uint64_t q_end(const struct qcow2 *q) /* of what of the file may be referred to */
{
	return q->zero_from == UINT64_MAX ? q->file->size : MAX(q->zero_from, q->file->size);
}
int q_frees_append(struct q_frees *to, struct q_frees *from); /* empties `from` */
/* Counts down what may be. Under `meta`. */
int q_reap(struct qcow2 *q);
/* Cuts off what nobody uses at the end of the file, and blocks of counts that count nothing; durable. Nothing is in flight, and nothing is dirty but in memory. */
int q_cut_file(struct qcow2 *q);

/* ---- map.c ---- */

enum q_type { Q_UNALLOCATED, Q_ZEROES, Q_NORMAL, Q_PACKED };

struct q_map {
	enum q_type type;
	uint64_t host; /* of the offset asked for; Q_PACKED: of the data, Q_ZEROES: or 0 */
	uint64_t len; /* bytes that are alike */
	uint64_t entry;
};

/* The longest stretch from `off` (up to `max` bytes) that is alike. Waits unless `try`: -EAGAIN then. */
int q_map(struct qcow2 *q, uint64_t off, uint64_t max, bool try, struct q_map *out);
/* Pins the L2 slice that holds the entry; NULL when there is no table. */
int q_l2_get(struct qcow2 *q, uint64_t cluster, struct q_slice **out, uint64_t *at);
/* The same, with a table of its own for this disk: allocates, copies. Under `meta`. */
int q_l2_make(struct qcow2 *q, uint64_t cluster, struct q_slice **out, uint64_t *at);
int q_entry_check(struct qcow2 *q, uint64_t entry, uint64_t bitmap, uint64_t cluster);
/* How many entries of that slice follow `at`, this one included. */
static inline uint64_t q_slice_left(const struct qcow2 *q, uint64_t at)
{
	return ((1ull << q->slice_bits) - at) / q->l2_entry;
}
enum q_type q_entry_type(const struct qcow2 *q, uint64_t entry);
uint64_t q_packed_host(const struct qcow2 *q, uint64_t entry);
uint64_t q_packed_len(const struct qcow2 *q, uint64_t entry); /* bytes to read */
/* Gives up what the entry refers to. */
int q_release_entry(struct qcow2 *q, uint64_t entry, bool punch);

/* ---- compress.c ---- */

int q_unpack(const struct qcow2 *q, void *out, const void *in, size_t len);
/* *n: bytes used of `out`; -ENOSPC: does not get smaller. */
int q_pack(const struct qcow2 *q, void *out, size_t *n, const void *in);

/* ---- read.c ---- */

/* Guest-visible contents. */
int q_read(struct qcow2 *q, uint64_t off, void *buf, uint64_t len);
int q_readv(struct qcow2 *q, uint64_t off, uint64_t len, const struct iovec *iov, unsigned niov);

void q_submit_read(struct qcow2 *q, struct disk_req *r);
/* One transfer for the whole request, at `host` of the data file. */
void q_submit_plain(struct qcow2 *q, struct disk_req *r, enum file_op op, uint64_t host);

/* ---- snapshot.c ---- */

/* A new L1 table of n entries for a disk of `size` bytes; nothing in flight. */
int q_resize_l1(struct qcow2 *q, uint32_t n, uint64_t size);

/* ---- create.c ---- */

extern const struct disk_key q_create_keys[];
int q_create(const struct disk_create_opts *o, struct err *e);
int q_measure(const struct disk_create_opts *o, struct disk *from, struct disk_amount *out,
	struct err *e);
/* A place for each cluster of the disk, and what `fill` says beyond that. */
int q_preallocate(struct qcow2 *q, enum fill fill, const struct disk_watch *w, struct err *e);

/* ---- write.c ---- */

/* Between these no cluster that was reachable at the beginning is used for something else. */
uint64_t q_enter(struct qcow2 *q);
void q_leave(struct qcow2 *q, uint64_t epoch);
/* What is in `frees` may be counted down once all have left that entered before; empties it. */
void q_quarantine(struct qcow2 *q, struct q_frees *frees);
/* For writes, zeroes and discards. */
void q_submit_write(struct qcow2 *q, struct disk_req *r);
int q_writer_create(struct qcow2 *q, struct err *e);
void q_writer_destroy(struct qcow2 *q);

/* Starts a transaction when entries wait in memory for one; disk_drain() waits for it. */
void q_link_soon(struct qcow2 *q);

int q_write_compressed(struct disk *d, uint64_t off, const void *buf, uint64_t len, struct err *e);

#endif
