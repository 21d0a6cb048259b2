/*
 * lodgefs.h: what the parts of lodgefs share. Nobody outside this folder includes it. docs/lodgefs.md specifies the format.
 *
 *   disk.c     the row of the table of formats: open, close, reads, flush
 *   write.c    what the sorter asks: resolve, prepare, fill, commit
 *   tree.c     trees of pointer pages: lookup, copy-on-write, counts; blocks
 *   pages.c    pointer pages: room for them, and which are in memory
 *   room.c     the host's space for metadata
 *   journal.c  transactions, marks, checkpoints
 *   load.c     superblock, recovery, loading; opening and closing a store; the lease
 *   track.c    what has changed since when: generations, bitmaps
 *   sums.c     checksums of data
 *   ready.c    blocks that are written with zeroes before they are wanted
 *   share.c    one store under several disks
 *   dir.c      the directory: disks, snapshots, clones, composed disks, bitmaps
 *   store.c    making, listing, checking, growing: the row of the table of stores
 *   trim.c     space that goes back to the host
 *
 * Directory, bitmap and the counts of references are in memory while a store is open (16 bytes for each MiB of it); of pages of pointers, of changes and of
 * checksums there is what was wanted last. Reference counts are not stored: they are the number of references found when the store was loaded, and are kept up
 * from then on.
 *
 * Who may change a page: only who has the lock, between lf_begin() and lf_end(), which write one record to the journal, or between lf_join() and
 * lf_leave(), which leave it to whoever writes the next one. Pages go to their places in a checkpoint. Nothing is freed for good before the record that
 * freed it is known to be durable ("marked").
 *
 * Functions that do I/O wait: inside a coroutine (co.h) they let others run, outside they block with nothing else of this store in flight.
 */
#ifndef LODGE_DISK_LODGEFS_LODGEFS_H
#define LODGE_DISK_LODGEFS_LODGEFS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/list.h"
#include "disk/co.h"
#include "disk/format.h"
#include "disk/sorter.h"

struct err;

#define LF_PAGE 4096u
#define LF_BLOCK (1u << 20)
#define LF_SUB 4096u
#define LF_SUBS 256u /* in a block */
#define LF_BLOCK_PAGES 256u
#define LF_HEAD 64u /* of a page */
#define LF_LEAF_ENTRIES 56u
#define LF_NODE_ENTRIES 504u
#define LF_DIR_RECORDS 7u
#define LF_BITS 32256u /* in a bitmap page */
#define LF_HEIGHT_MAX 4u /* 56 MiB x 504^3: more than 16 EiB are not addressed */
#define LF_SIZE_MAX (1ull << 56) /* of a disk */
#define LF_NAME 255u
#define LF_RANGES 12u
#define LF_VERSION 1u
#define LF_PAGES_MAX (1u << 20) /* of pointers and changes: 56 TiB */
#define LF_PAGES_IN 16384u /* in memory, without another option: 64 MiB, for 896 GiB */
#define LF_PAGES_LEAST 1024u
#define LF_PAGES_SPARE 32u /* of those that are free, left to requests that only let go */

#define LF_MAGIC "LodgeFS\1"
#define LF_PAGE_MAGIC 0x6770664cu /* "Lfpg" */
#define LF_RECORD_MAGIC 0x6e72664cu /* "Lfrn" */
#define LF_LEASE_MAGIC 0x736c664cu /* "Lfls" */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures below are the file's");

/* Places in the file, in pages. */
enum { LF_AT_SUPER = 0, LF_AT_LEASE = 2, LF_AT_JOURNAL = 4 };

struct lf_super {
	char magic[8];
	uint32_t crc; /* of the page with this field 0 */
	uint32_t version;
	uint64_t incompatible; /* features; unknown ones are refused */
	uint64_t change; /* the copy with the higher one counts */
	uint8_t uuid[16];
	uint64_t
		salt; /* in each page and record: what is left of another store is not taken for this one's */
	uint64_t journal_at, journal_bytes; /* bytes, as are the others */
	uint64_t dir_at, dir_pages;
	uint64_t bitmap_at, bitmap_pages;
	uint64_t data_at; /* of block 0; whole MiB */
	uint64_t blocks, max_blocks;
	uint64_t
		run; /* number of the opening that wrote this: records of others are not replayed */
	uint64_t tail; /* where the oldest record that counts begins; bytes into the journal */
	uint64_t seq; /* its number */
	uint64_t next_id; /* of a directory record */
	uint64_t sums_at, sum_pages; /* checksums of data; 0: there are none */
};

struct lf_lease {
	uint32_t magic, crc; /* of 512 bytes with crc 0 */
	uint64_t fence; /* grows with each owner */
	uint64_t held; /* 1: in use, 0: given back */
	uint64_t since; /* seconds since 1970 */
	uint64_t pid;
	uint8_t owner[16]; /* of this opening */
	char host[64], boot[40]; /* boot: of the host's kernel, as text; "" not known */
	uint64_t run; /* that the holder's records have */
	uint64_t
		from; /* or, until it has begun: the run that it recovers and that was written under this boot; 0: none */
};

/* Begins every page of directory, bitmap and pointers. */
struct lf_page_head {
	uint32_t magic, crc; /* crc: of the page with this field 0 */
	uint64_t at; /* the page's own place, in pages */
	uint64_t salt;
	uint64_t seq; /* of the record that changed it last */
	uint8_t type, level; /* level: of pointer pages; 0: leaf */
	uint8_t zero[30];
};
enum { LF_T_POINTERS = 1, LF_T_DIR, LF_T_BITMAP, LF_T_TRACK, LF_T_SUMS };

/* Of a leaf: 1 MiB of a disk. Sub-block i is at `own` if own_valid has bit i; else at `base` if base_valid has; else zero. */
struct lf_entry {
	uint32_t own, base; /* number of a block + 1; 0: none */
	uint64_t own_valid[4], base_valid[4];
};

struct lf_range {
	uint32_t at, len; /* MiB */
};

/*
 * CBT: a name for the generation in which it was made or cleared. TRACK: since which generation changes are recorded, and the root of a tree whose leaves
 * hold the generation of each chunk; `parent`: everything counts as changed in that generation; ranges[0]: random, tells one tracking from another.
 */
enum { LF_FREE, LF_DISK, LF_SNAPSHOT, LF_CBT, LF_TRACK };
enum { LF_F_STAYS = 4 /* a TRACK that does not go with the last bitmap */ };
#define LF_CHUNK 65536u /* that has a generation */
#define LF_TRACK_CHUNKS 16u /* in a MiB */
#define LF_TRACK_ENTRIES 63u /* MiB in a leaf */
#define LF_INC_TRACK 1u /* lf_super.incompatible: there are TRACK records */
#define LF_INC_SUMS 2u /* data has checksums */
#define LF_SUM_BLOCKS 3u /* whose checksums are in a page */
struct lf_record {
	uint64_t id;
	uint8_t type, height, nranges, zero0;
	uint32_t flags;
	uint64_t size, root; /* root: page, 0: none */
	uint64_t owner; /* snapshots, bitmaps: the disk's id */
	uint64_t parent; /* the disk or snapshot that it was cloned from */
	uint64_t generation; /* grows with each opening for writing, and each change of identity */
	uint64_t created, granularity;
	struct lf_range ranges[LF_RANGES]; /* may only be read */
	char name[256];
	uint8_t zero[576 - 72 - 96 - 256];
};

/* A record of the journal; then `pages` changes, `checks` checks; padded with zeroes to 512. */
struct lf_rec_head {
	uint32_t magic, crc; /* crc: of the whole record with this field 0 */
	uint64_t salt, run, seq,
		durable; /* durable: this record and all before it are known to be on the medium */
	uint64_t fence;
	uint32_t len, pages, checks, kind;
};
enum { LF_R_CHANGE = 1, LF_R_MARK, LF_R_PAD };
struct lf_rec_page { /* then len bytes; the next begins at a multiple of 8 */
	uint64_t at;
	uint16_t off, len;
	uint32_t zero;
};
struct lf_rec_check {
	uint64_t at; /* of data, in bytes */
	uint32_t len, crc;
};

_Static_assert(sizeof(struct lf_page_head) == LF_HEAD, "page head");
_Static_assert(sizeof(struct lf_entry) == 72, "entry");
_Static_assert(sizeof(struct lf_record) == 576, "directory record");
_Static_assert(sizeof(struct lf_rec_head) == 64, "record head");
_Static_assert(sizeof(struct lf_lease) <= 512, "lease");

/* ---- in memory ---- */

struct lf_page {
	uint64_t at; /* in pages */
	uint32_t refs; /* directory records and pages that point here */
	uint8_t type, level;
	bool dirty; /* changed since the last checkpoint: then its image is in the journal */
	bool touched; /* in the record that is being made; lo, hi: what of it */
	bool wanted; /* since it was looked at last, by who wants its memory */
	uint16_t lo, hi, pins;
	uint64_t gone; /* number of the record in which it lost a reference */
	struct lf_page *next; /* dirty list */
	struct list lru; /* pages.c; empty: it stays */
	uint8_t *data; /* NULL: not in memory */
};

/* The pages of a block that holds pages. */
struct lf_pages {
	struct lf_page *page[LF_BLOCK_PAGES];
	unsigned used;
	uint64_t block;
	struct lf_pages *next; /* list of those with room */
	bool listed;
};

struct lf_block {
	uint32_t refs; /* entries of leaves */
	uint32_t
		hold; /* references that are gone, but whose end is not durable; and reservations */
	struct lf_pages *pages; /* it holds pages */
};

/* Blocks that lost a reference in one transaction. */
struct lf_freed {
	struct sorter_quarantine q;
	struct lf *fs;
	struct lf_freed *next;
	uint64_t seq;
	unsigned n, cap;
	uint32_t *block;
};

/* Places whose checksum stands in a record that is not marked. */
struct lf_fresh {
	uint64_t at, seq; /* at: sub-block number of the file + 1; 0: empty */
};

/* A page of checksums, 0: none. wrote: sub-blocks that were written in place and are without one; old: those whose turn it is to be read. */
struct lf_sums {
	struct lf_page *page;
	uint64_t wrote[LF_SUM_BLOCKS * LF_SUBS / 64], old[LF_SUM_BLOCKS * LF_SUBS / 64];
};

/* Sub-blocks that are to be written in place: in part, as a whole; may: they can lose their checksum. */
struct lf_sum_want {
	unsigned n;
	struct lf_sum_block {
		uint64_t number, part[4], whole[4], may[4];
	} block[2];
};

struct lf_stats {
	uint64_t transactions, journal_bytes, marks, checkpoints, flushes, page_writes;
	uint64_t replayed, dropped; /* records, at opening */
	uint64_t page_reads,
		page_looks; /* of pointers and changes: reads after opening; looks for one that may go */
	uint64_t
		sum_errors; /* sub-blocks that did not fit their checksum, and were not handed out */
	uint64_t ahead_bytes; /* zeroes, into blocks that nobody had asked for yet */
	uint64_t room_bytes; /* zeroes, into blocks for pages */
};

/* Blocks that have been written with zeroes, and the one that is; held. */
#define LF_READY 4u
struct lf_ready {
	uint32_t block[LF_READY];
	unsigned n;
	uint32_t busy; /* number + 1; 0: none */
	struct co_queue waiters; /* until there is none */
};

struct lf {
	/* share.c: */
	char *key; /* what other disks find it by */
	struct disk_stores *stores;
	struct files *own_files;
	struct lf_revive *revive;
	struct lf *next;
	struct lf_disk *disks;
	unsigned users;

	struct files *files;
	struct file *f;
	char *path;
	bool writable, repair, discard, direct;
	int failed; /* the error after which nothing more is written, until it is loaded again */
	bool lost; /* a flush failed, and the host may have dropped what it should have written */
	uint64_t
		trust; /* loading again: records up to here are ours and need no proof by their data */
	bool unbroken; /* the kernel that the records were given to still runs: what it was given is there */
	bool unmarked; /* loading: records count that are not known to be durable, and whose data was not looked at */
	struct lf_super s;
	uint8_t owner[16];
	uint64_t fence; /* of our lease */

	struct lf_block *block; /* s.blocks */
	uint64_t free_blocks, cursor; /* free: neither referred to nor held nor reserved */
	struct lf_pages *roomy;
	uint64_t pages_used, pages_free, pages_reserved, page_blocks;
	struct list pages_lru;
	uint64_t pages_in, pages_clean,
		pages_max; /* in memory; of those on the list, which there are `max` of at most */
	struct co_mutex pages_lock; /* they are read; inside of `lock` */
	struct co_mutex room_lock; /* a block for pages gets its space */
	struct lf_page **dir, **bitmap;
	struct lf_sums **sums; /* NULL: the store has none. s.sum_pages; NULL: not in memory */
	uint64_t sums_in, sums_hand, sums_wrote; /* in memory; bits in `wrote` */
	uint64_t *sums_room; /* a bit for each 256 pages of them: they have their space */
	struct co_mutex sums_lock; /* pages come and go; inside of `lock` */
	bool settling;
	struct lf_record **rec; /* pointers into dir pages; in order */
	struct lf_record **by_id; /* those that are in use, by their ids */
	uint64_t nrec, nids;

	struct co_sched cs;
	struct co_mutex lock; /* the journal */
	uint64_t head, used; /* bytes into the journal; bytes between tail and head */
	uint64_t seq; /* of the next record */
	uint64_t written; /* records up to here are written */
	uint64_t flushed; /* and durable, by a flush that was answered */
	uint64_t marked; /* and known to be so */
	bool overwritten; /* something of a record that is not marked was written over in place */
	uint64_t
		tail_durable; /* the highest `durable` in a record that is written; and that record */
	uint64_t tail_durable_seq;
	/* The record that is being made; its number is `seq`. */
	struct lf_page **touch;
	unsigned ntouch, touch_cap;
	struct lf_rec_check *checks;
	unsigned nchecks, checks_cap;
	/* Changes so far; those whose data is on the medium; those in a record that is written. */
	uint64_t adds, adds_flushed, adds_written;
	bool ordered; /* its data is flushed before it, and it has no checks: some of its data is in none, or was written over since */
	bool undone; /* what is in memory is not what those were told who changed it: it is not written, but loaded again */
	struct lf_page *dirty;
	uint8_t *buf; /* of the record */
	size_t buf_cap;
	struct lf_freed *freeing, *freed; /* of this record; those that wait for the mark */
	struct lf_freed *punch; /* whose space the host is to have first: then they are free */
	bool punching;
	struct co_mutex punch_lock; /* held while some of it is on its way */
	struct lf_fresh *fresh;
	uint64_t fresh_cap, fresh_n;
	struct sorter *by; /* in a transaction: whose readers may still want what it frees */
	unsigned jobs;
	struct lf_ready ready;
	struct lf_ahead *ahead;
	bool ahead_busy;
	struct lf_stats stats;

	/* While loading and checking: */
	struct lf_page *overlay; /* pages from the journal, a list */
	struct lf_page **overlay_hash;
	const struct disk_watch *watch;
	struct disk_check *check; /* or NULL: the first finding ends it */
	bool map; /* is it wanted? */
	uint64_t *valid; /* of each block four words: what of it is data */
	uint64_t unmended; /* findings that a repair has to leave */
	uint64_t end; /* of the data that is referred to, in the file */
};

/* What has to be recorded before something is written in place: that it changes (of the set's plain elements), that its checksums go. */
struct lf_ahead {
	struct lf_ahead *next;
	struct lf_disk *l;
	struct sorter_set *set; /* or NULL */
	struct lf_sum_want want;
	struct co *co;
	bool done;
	int rc;
};

/* A block that is filled by small writes. */
struct lf_stream {
	uint32_t own; /* number + 1; 0: none */
	unsigned n, got,
		flushes; /* sub-blocks that are valid; how many came in small transactions, and in how many of these a flush had come before */
	uint64_t flushed, turn; /* flushes so far; when it got something last */
};
#define LF_STREAMS 4u

/* An open disk. */
struct lf_disk {
	struct lf *fs;
	struct lf_disk *next;
	bool shared; /* fs is from lf_get() */
	struct disk *d;
	struct lf_record *rec;
	struct sorter *sorter;
	bool late; /* a write that is acknowledged may be without its record for a while (not commit=batch) */
	struct lf_record *track; /* or NULL */
	int lost; /* something that was acknowledged is gone: the next flush, or closing, says so */
	struct lf_stream stream[LF_STREAMS];
	uint64_t turns;
};

static inline uint64_t lf_block_at(const struct lf *fs, uint64_t block)
{
	return fs->s.data_at + block * LF_BLOCK;
}

static inline bool lf_bit(const uint64_t *map, unsigned i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static inline bool lf_none(const uint64_t *map)
{
	return !(map[0] | map[1] | map[2] | map[3]);
}

/* ---- load.c ---- */

enum {
	LF_O_WRITE = 1,
	LF_O_FORCE = 2 /* what is damaged is not a reason to refuse */,
	LF_O_TAKE = 4,
	LF_O_DISCARD = 8,
	LF_O_MAP = 16 /* fs->valid is wanted */
};
struct lf_open {
	const char *path;
	unsigned flags;
	uint64_t fence; /* our number; 0: the next one */
	uint64_t pages; /* in memory; 0: LF_PAGES_IN */
	bool direct;
	struct disk_check *check;
	const struct disk_watch *watch;
};
int lf_open(struct lf **out, struct files *files, const struct lf_open *o, struct err *e);
/* The same file and lease, with everything read anew: after an error whose cause may be gone. Nothing is in flight; `old` is as it was, without its file. */
int lf_reload(struct lf **out, struct lf *old, struct err *e);
/* Checkpoints and gives the lease back, unless it failed. Not 0: why what was acknowledged and waited for its record is lost. NULL is nothing. */
int lf_close(struct lf *fs);
/* The host may have forgotten what it was given: whoever opens the store next has to look at its data (as far as that can be written). */
void lf_lease_doubt(struct lf *fs);
int lf_super_write(struct lf *fs);
/* A finding of check: 0 when it is only counted. */
int lf_found(struct lf *fs, bool error, struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
uint32_t lf_page_crc(const void *page);
/* What is wrong with it, or NULL. */
const char *lf_page_wrong(
	const struct lf *fs, const struct lf_page *p, unsigned type, unsigned level, bool crc);
/* The page as it is after recovery; *out is NULL when it is damaged and that was only counted. `have`: its bytes in the file, when they were read. */
int lf_load_page(struct lf *fs, uint64_t at, unsigned type, unsigned level, const void *have,
	struct lf_page **out, struct err *e);

/* ---- share.c ---- */

struct lf_env {
	struct uv_loop_s *loop;
	enum io_kind io;
	int (*open_file)(
		struct file **out, struct files *fs, const struct file_opts *o, struct err *e);
	void *open_ctx;
	struct disk_stores *stores; /* or NULL */
};
/* lf_open(), or the store that is open already. lf_put() when it is not used any more; NULL is nothing. */
int lf_get(struct lf **out, const struct lf_env *env, const struct lf_open *o, struct err *e);
int lf_put(struct lf *fs); /* as lf_close() */
/* The store has failed: takes the request if it is worth trying whether the cause is gone, and submits it again, or fails it, in the loop's next turn. */
bool lf_park(struct lf *fs, struct disk_req *r);
/* That, now. */
void lf_unpark(struct lf *fs);
/* lf_write_out() in a second, and where the host is short of space lf_mark() for what was let go. false: there is nobody to do it. */
bool lf_write_later(struct lf *fs);
void lf_disk_list(struct lf_disk *l);
void lf_disk_unlist(struct lf_disk *l);

/* ---- journal.c ---- */

struct lf_wait {
	struct lf *fs;
	struct co *co;
	unsigned left;
	int rc;
};
struct lf_xfer {
	struct file_req req;
	struct lf_wait *w;
	struct iovec one;
};
void lf_start(struct lf_wait *w, struct lf_xfer *x, enum file_op op, uint64_t off, void *buf,
	uint64_t len);
int lf_wait_all(struct lf_wait *w);
int lf_io(struct lf *fs, enum file_op op, uint64_t off, void *buf, uint64_t len);

/* load.c: is the store still ours? -ESTALE and nothing more is written. A look is begun, and what was seen is judged: each begun one has to be. */
struct lf_look {
	struct lf_wait w;
	struct lf_xfer x;
	void *page;
};
void lf_lease_look(struct lf *fs, struct lf_look *k);
int lf_lease_seen(struct lf *fs, struct lf_look *k);
int lf_lease_check(struct lf *fs); /* both */
/* co_unlock() lets it go. */
void lf_lock(struct lf *fs, struct co_mutex *m);

/* Begins a transaction for which the journal has `need` bytes; may wait for a checkpoint. On error nothing is to be ended. */
int lf_begin(struct lf *fs, uint64_t need);
/*
 * The same for one that need not be in the journal when it ends: it shares the next record with others, which is written when somebody flushes or has a
 * transaction of his own, when it is large, or a second later. Who waits in the middle looks at fs->failed before he changes anything.
 */
int lf_join(struct lf *fs, uint64_t need);
/* Bytes [off, off + len) of the page were or will be changed in this transaction. */
void lf_touch(struct lf *fs, struct lf_page *p, unsigned off, unsigned len);
/*
 * Writes it. After an error the store is not written to any more, until it is loaded again: what was changed in memory is undone with that
 * (fs->undone), as who asked was told so.
 */
int lf_end(struct lf *fs, const struct lf_rec_check *checks, unsigned nchecks);
/*
 * Ends what lf_join() began. fs->ordered: has it data of which there are no checks? An error from inside of the change is as one of lf_end(), and those who
 * shared the record lose theirs; otherwise the record stays, whatever fails later, until it is written.
 */
int lf_leave(struct lf *fs, const struct lf_rec_check *checks, unsigned nchecks);
/* Writes what lf_leave() has left. After an error that stays to be written by another attempt: lf_unwritten(). */
int lf_write_out(struct lf *fs);
bool lf_unwritten(const struct lf *fs);
/* Everything that was done is durable, and known to be. */
int lf_mark(struct lf *fs);
/* What DISK_FLUSH asks. */
int lf_flush(struct lf *fs);
int lf_checkpoint(struct lf *fs);
/* A block lost a reference in this transaction. */
void lf_hold(struct lf *fs, uint32_t block);
/* What waits to be given back to the host is free at once; what is on its way is waited for (space), or is not counted (unpunch: was there any?). */
void lf_space(struct lf *fs);
bool lf_unpunch(struct lf *fs);
/* A block that is held and was not used: it is free, and its space the host's again. */
void lf_give_back(struct lf *fs, uint32_t block);
/* Is somebody about to write over what a record that is not marked vouches for? 0: no; 1: a mark has to come first. */
int lf_overwrites(struct lf *fs, uint64_t off, uint64_t len);
/* Other things that a record vouches for, by a key from 2^63 on: in a transaction; the number of the record that did so last, 0: it is marked. */
int lf_fresh_put(struct lf *fs, uint64_t key);
uint64_t lf_fresh_seq(const struct lf *fs, uint64_t key);
void lf_journal_free(struct lf *fs);

/* ---- tree.c ---- */

/* What it holds. It has been brought, and nobody has waited since. */
static inline void *lf_body(const struct lf_page *p)
{
	if (!p->data)
		abort(); /* broken invariant */
	return p->data + LF_HEAD;
}
static inline struct lf_entry *lf_leaf(struct lf_page *p, uint64_t i)
{
	return (struct lf_entry *)lf_body(p) + i;
}
static inline uint64_t *lf_node(struct lf_page *p, uint64_t i)
{
	return (uint64_t *)lf_body(p) + i;
}
struct lf_page *lf_page_at(const struct lf *fs, uint64_t at);
/* MiB that a tree of that height spans. */
uint64_t lf_span(unsigned height);
/* The entry of that MiB, or NULL. *own: the way to it belongs to this disk alone. */
struct lf_entry *lf_find(struct lf *fs, const struct lf_record *r, uint64_t mib, bool *own);
/* In a transaction: the same, to be changed; makes pages. NULL: no room (never after lf_reserve()). */
struct lf_entry *lf_find_own(
	struct lf *fs, struct lf_record *r, uint64_t mib, struct lf_page **leaf);
/* In a transaction: gives the entry new contents and counts. */
void lf_set_entry(struct lf *fs, struct lf_record *r, uint64_t mib, const struct lf_entry *now);
/* In a transaction: one more reference to the tree; one fewer. The latter reads what is left without one: it waits, and what was found and not pinned may go. */
void lf_tree_get(struct lf *fs, uint64_t root);
void lf_tree_put(struct lf *fs, uint64_t root);
static inline bool lf_alone(const struct lf *fs, uint32_t ref)
{
	return ref && fs->block[ref - 1].refs == 1 && !fs->block[ref - 1].hold;
}
/*
 * Room for n pages, promised, while `spare` more stay free: 0 for who only lets go, else LF_PAGES_SPARE. May wait for the host; -ENOSPC, and what else it says.
 * The other one never waits: -EAGAIN. lf_unreserve() when they were used or are not needed.
 */
int lf_reserve(struct lf *fs, unsigned n, unsigned spare);
int lf_reserve_now(struct lf *fs, unsigned n, unsigned spare);
void lf_unreserve(struct lf *fs, unsigned n);
/* A block that nobody uses, held; -ENOSPC. lf_set_entry() takes a reference; lf_release() ends the hold. */
int lf_alloc(struct lf *fs, uint32_t *block);
void lf_release(struct lf *fs, uint32_t block);
/* The file is made to reach over that block, and some more. Best effort. */
void lf_reach_over(struct lf *fs, uint32_t block);
void lf_bitmap_put(struct lf *fs, uint64_t block, bool used);
bool lf_bitmap_get(const struct lf *fs, uint64_t block);
/* ---- pages.c ---- */

/* Its bytes are in memory until lf_page_unpin(); may wait. -EIO: they cannot be read, or are damaged. */
int lf_page_pin(struct lf *fs, struct lf_page *p);
void lf_page_unpin(struct lf_page *p);
/* It is changed: it stays until a checkpoint has written it; then it may go. (Pages of directory, bitmap and checksums are not meant: nothing is done.) */
void lf_page_stays(struct lf *fs, struct lf_page *p);
void lf_page_may_go(struct lf *fs, struct lf_page *p);
/*
 * Gives up what was not wanted since it was looked at last, of what may go. What was changed since the checkpoint comes on top: there is no more of it
 * than fits into the journal. Whoever calls it loses what he has not pinned, as if he had waited.
 */
void lf_make_way(struct lf *fs);
uint64_t lf_rec_span(const struct lf_record *r); /* MiB */
/* How many MiB from that one on are in no leaf. 0: it is in one, or that is not known: lf_bring() first. */
uint64_t lf_hole(const struct lf *fs, const struct lf_record *r, uint64_t mib);
/* Is the way to that MiB in memory? */
bool lf_here(const struct lf *fs, const struct lf_record *r, uint64_t mib);
/* Brings it; may wait. It is there until somebody waits again. */
int lf_bring(struct lf *fs, const struct lf_record *r, uint64_t mib);
int lf_bring_both(struct lf *fs, const struct lf_record *a, const struct lf_record *b,
	uint64_t mib); /* b: or NULL */
/* Pages that are pinned together: {0} is none; lf_pins_drop() at the end, also after an error. */
struct lf_pins {
	struct lf_page **page;
	unsigned n, cap;
};
int lf_pins_add(struct lf *fs, struct lf_pins *pins, struct lf_page *p);
/* The way to that MiB. With fs->lock held all of it; without, as far as it was there while nobody changed the tree. */
int lf_pins_way(struct lf *fs, struct lf_pins *pins, const struct lf_record *r, uint64_t mib);
void lf_pins_drop(struct lf_pins *pins);
/* Nobody refers to it: out of its block; freed when nobody has it any more. */
void lf_page_drop(struct lf *fs, struct lf_page *p);
void lf_page_gone(struct lf_page *p);
/* In a transaction that has reserved: a page that is referred to once. */
struct lf_page *lf_page_new(struct lf *fs, unsigned type, unsigned level);
struct lf_page *lf_page_make(struct lf *fs, uint64_t at, unsigned type, unsigned level);
/* For loading: puts a page into its block. -ENOMEM. */
int lf_page_adopt(struct lf *fs, struct lf_page *p);
void lf_page_free(struct lf_page *p);
void lf_count_free(struct lf *fs);
/* Makes the tree span the disk. In a transaction. */
int lf_grow_tree(struct lf *fs, struct lf_record *r, uint64_t size);
static inline uint64_t lf_need(unsigned pages)
{
	return 4096 + pages * (uint64_t)(LF_PAGE + 32);
}

/* ---- dir.c ---- */

/* The first record of that type and owner (disks have none: 0) from number *i on; *i goes behind it. NULL: no more. */
struct lf_record *lf_rec_next(const struct lf *fs, uint64_t *i, unsigned type, uint64_t owner);
#define lf_rec_each(r, i, fs, type, owner) \
	for (uint64_t i = 0; ((r) = lf_rec_next(fs, &(i), type, owner));)
/* An array for as many as there are: *out is calloc'ed, with `size` bytes for each. */
int lf_rec_list(
	const struct lf *fs, unsigned type, uint64_t owner, size_t size, void **out, struct err *e);
struct lf_record *lf_rec_find(struct lf *fs, unsigned type, uint64_t owner, const char *name);
/* Of any type, or NULL. Its place in fs->by_id, or where it would be. */
struct lf_record *lf_rec_by_id(const struct lf *fs, uint64_t id);
uint64_t lf_rec_place(const struct lf *fs, uint64_t id);
/* The same disk or snapshot in a store that was loaded anew, or NULL. */
struct lf_record *lf_rec_again(const struct lf *fs, const struct lf_record *was);
void lf_rec_touch(struct lf *fs, struct lf_record *r);
/* In a transaction: fills a free record, with a number of its own; frees one, and its tree (waits). */
void lf_rec_put(struct lf *fs, struct lf_record *slot, const struct lf_record *r);
void lf_rec_clear(struct lf *fs, struct lf_record *r);
/* n free records. -ENOSPC. */
int lf_rec_room(struct lf *fs, struct lf_record **slot, unsigned n, struct err *e);
/* "STORE/NAME" to its parts; *store is malloc'ed. */
int lf_split(const char *path, char **store, const char **name, struct err *e);
extern const struct disk_key lf_disk_keys[];
int lf_disk_create(const struct disk_create_opts *o, struct err *e);
/* store.c */
int lf_disk_measure(const struct disk_create_opts *o, struct disk *from, struct disk_amount *out,
	struct err *e);
int lf_disk_remove(struct lf *fs, const char *name, struct err *e);
int lf_disk_rename(struct lf *fs, const char *from, const char *to, struct err *e);
int lf_resize(struct disk *d, uint64_t size, struct err *e);
int lf_no_disk(const struct lf *fs, const char *name, struct err *e); /* -ENOENT */
/* By name, or else by the id that lists show; NULL. */
struct lf_record *lf_snapshot_find(struct lf *fs, uint64_t disk, const char *name);
int lf_snapshot(struct disk *d, enum disk_snap_op op, const char *name, struct err *e);
int lf_snapshot_all(struct disk *const *d, unsigned n, const char *name, struct err *e);
int lf_snapshots(struct disk *d, struct disk_snapshot **out, unsigned *n, struct err *e);
int lf_fail(const struct lf *fs, int rc, struct err *e);
int lf_finish(struct lf *fs, struct err *e); /* lf_end(), and it is durable */

/* ---- track.c ---- */

uint64_t lf_track_span(unsigned height); /* MiB */
struct lf_record *lf_track_of(
	struct lf *fs, const struct lf_record *disk); /* NULL: nobody records, or a snapshot */
/* Of a disk that is tracked; inside one MiB. Is all of it recorded in the present generation? */
bool lf_track_has(struct lf_disk *l, uint64_t off, uint64_t len); /* durably */
/* In a transaction that has reserved lf_track_pages(). */
void lf_track_set(struct lf_disk *l, uint64_t off, uint64_t len);
unsigned lf_track_pages(const struct lf_disk *l);
/* Records what is in a->l, a->set and a->want, durably. In a coroutine. */
int lf_track_ahead(struct lf_ahead *a);
/* In a transaction, nothing of the disk in flight: the next generation; all is changed in the present one; a taller tree. */
void lf_track_next(struct lf *fs, struct lf_record *disk);
void lf_track_all(struct lf *fs, struct lf_record *disk);
int lf_track_grow(struct lf *fs, struct lf_record *t, uint64_t size);
int lf_track_may_next(const struct lf_record *disk, struct err *e);
/* In a transaction: tracks from now on. */
void lf_track_begin(struct lf *fs, const struct lf_record *disk, struct lf_record *slot);
int lf_track_feature(struct lf *fs);
int lf_bitmap(struct disk *d, enum disk_bitmap_op op, const char *name, uint64_t granularity,
	struct err *e);
int lf_bitmaps(struct disk *d, struct disk_bitmap **out, unsigned *n, struct err *e);
int lf_bitmap_merge(struct disk *d, const char *name, const char *source, struct err *e);
int lf_bitmap_status(
	struct disk *d, const char *name, uint64_t off, uint64_t *len, bool *dirty, struct err *e);
int lf_generation(struct disk *d, bool next, struct disk_generation *out, struct err *e);
int lf_changed(
	struct disk *d, uint64_t since, uint64_t off, uint64_t *len, bool *dirty, struct err *e);

/* ---- sums.c: nothing of it is called for a store without sums, but lf_sums_free(), lf_sums_settle() ---- */

uint32_t lf_sum(const void *sub); /* of 4 KiB; never 0 */
/* The page that has the checksum of that sub-block of the store. Waits; what it gives is there until somebody waits again. */
int lf_sums_get(struct lf *fs, uint64_t sub, struct lf_sums **out);
/* Takes over a page that recovery has brought. */
int lf_sums_adopt(struct lf *fs, struct lf_page *p);
void lf_sums_free(struct lf *fs);
/* Whole sub-blocks that were read from `addr`. -EBADMSG: they are not what was written; *bad: where. Waits. */
int lf_sums_verify(struct lf *fs, uint64_t addr, const void *buf, uint64_t len, uint64_t *bad);
/* May that be written in place: has it no checksum, durably? Then it is taken as written. */
bool lf_sums_clear_of(struct lf *fs, uint64_t addr, uint64_t len);
/* Before such a write: what it wants; reads and proves what stays of it (-EIO: is damaged); in a transaction: takes the checksums away. */
void lf_sums_want(struct lf *fs, struct lf_sum_want *w, uint64_t addr, uint64_t len);
int lf_sums_look(struct lf *fs, struct lf_sum_want *w);
int lf_sums_clear(struct lf *fs, const struct lf_sum_want *w);
/* In a transaction: what is new in the entry. taken: its `own` is a block that nobody had. Waits only for a page that is not there. */
int lf_sums_put(struct lf *fs, const struct sorter_tx *tx, const struct lf_entry *old,
	const struct lf_entry *now, bool taken);
/* Gives those that were written in place a checksum again; in a coroutine, or with nothing in flight. relieve: starts that when there are many. */
int lf_sums_settle(struct lf *fs);
void lf_sums_relieve(struct lf *fs);
int lf_sums_check(struct lf *fs, struct err *e);

/* ---- room.c: those that make room wait ---- */

bool lf_room_short(struct lf *fs); /* has the host little left? */
/* Of a block that is held, and nobody's. Adds what is written to *wrote. */
int lf_room_block(struct lf *fs, uint32_t block, uint64_t *wrote);
/* Have the checksums of that block theirs? Makes it so; not with the lock. */
bool lf_room_has_sums(const struct lf *fs, uint32_t block);
int lf_room_sums(struct lf *fs, uint32_t block);
/* Of all metadata that there is. Best effort; nothing is in flight, and nothing in the journal. */
void lf_room_all(struct lf *fs);

/* ---- ready.c ---- */

/* In a commit: the entry that the transaction has made; taken: its `own` is a block that nobody had. May begin to make another one ready. */
void lf_ready_note(
	struct lf_disk *l, const struct sorter_tx *tx, const struct lf_entry *now, bool taken);
/* Is it one that begins a MiB with a small write, and is to have the block that is ready? */
bool lf_ready_wanted(const struct sorter_tx *tx);
/* As lf_alloc(). false: there is none. */
bool lf_ready_take(struct lf *fs, uint32_t *block);
/* In a coroutine: until none is being written. */
void lf_ready_wait(struct lf *fs);
/* Those that are ready are not wanted any more. */
void lf_ready_drop(struct lf *fs);

/* ---- trim.c ---- */

int lf_trim(struct lf *fs, struct err *e); /* opened with LF_O_MAP, and nothing done since */

/* ---- write.c ---- */

#define LF_CHECKED \
	(32u << 10) /* what is longer is not copied and summed: a flush comes between it and its record */
int lf_writer_create(struct lf_disk *l, bool one_by_one, struct err *e);
void lf_start_job(struct lf *fs, void (*fn)(void *), void (*after)(void *), void *arg);
/* Which part of the disk from `off` on comes from one place; *addr 0: zeroes. */
uint64_t lf_map(struct lf *fs, const struct lf_record *r, uint64_t off, uint64_t len,
	uint64_t *addr, bool *own);

#endif
