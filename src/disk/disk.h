/*
 * disk.h: disks: a number of 512-byte sectors behind an asynchronous contract, whatever format holds them.
 *
 *   virtio-blk --disk_submit()--> disk.c: checks, statistics --> format (raw.c) --> file.h --> io.h: ring or threads
 *        ^                                                                                     |
 *        +---- req->done(), then client.batch() once for a group, in the loop's thread <-------+
 *
 * Formats are named by whoever opens a disk, never guessed: a guest that writes another format's header into a raw disk must not
 * change what the file is. They are rows of one table (disk.c).
 *
 * Some formats have a chain of backing files (`qcow2`); each is named with its format, and opened with the disk.
 *
 * Requests. `offset` and `len` are bytes, multiples of 512, inside the disk. For READ and WRITE the iovecs hold exactly `len` bytes;
 * the array stays in place from submit to done and is not changed. Nothing is ordered: who needs A before B submits B in A's
 * `done`. FLUSH makes durable every write that was done before it was submitted. DISCARD says that the contents are no longer
 * wanted; what they read as afterwards is not said. WRITE_ZEROES reads as zeroes afterwards, and with `unmap` may give the space back.
 * A WRITE with `ranges` is scattered: the bytes of the iovecs go to the ranges one after the other; `offset` is not looked at, and
 * `len` is the sum. What overlaps is written in the order of the ranges. To a format with metadata it is one change (sorter.h).
 * `fua`: the write (or the zeroes) is durable when it is done.
 *
 * `done` is called exactly once for each request that was submitted, in the loop's thread, never from inside disk_submit(). `result` is 0 or
 * a negative errno: -EINVAL (length, alignment), -ERANGE (outside the disk), -EROFS, -EIO, -ENOSPC and what else the host says.
 *
 * Cache modes: WRITEBACK goes through the host's page cache and is durable after FLUSH; NONE is the same without the page cache
 * (O_DIRECT; what is not aligned for it is copied, or goes through the page cache); WRITETHROUGH makes every write `fua`.
 *
 * Locks. One writer, or any number of readers: an open file description lock on the whole file (fcntl(2), F_OFD_SETLK), taken when it
 * is opened and gone with the last descriptor, also when the process is killed. QEMU's image locks and these exclude each other.
 *
 * After disk_open() no file is opened any more, so that it works inside the sandbox.
 *
 * Threads: everything belongs to the loop's thread.
 */
#ifndef LODGE_DISK_DISK_H
#define LODGE_DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "disk/file.h"

#define DISK_SECTOR 512u

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES, DISK_OPS };
enum disk_cache { DISK_CACHE_WRITEBACK, DISK_CACHE_NONE, DISK_CACHE_WRITETHROUGH };

struct disk;
struct disk_watch;

struct disk_range {
	uint64_t offset, len;
};

struct disk_req {
	enum disk_op op;
	bool fua, unmap;
	bool waited; /* its owner waits for it, and is told of a failure: with on_error PAUSE it is not held, with IGNORE it is not called done */
	uint64_t offset, len;
	const struct iovec *iov;
	unsigned niov;
	const struct disk_range *ranges; /* WRITE; NULL: one, at offset */
	unsigned nranges;
	void (*done)(struct disk_req *r);
	int result;

	/* The disk's own from here on; need not be set. */
	struct disk *disk;
	struct disk_req *next;
	uint64_t start_ns;
	bool then_flush, flushing; /* fua, where the format leaves that to disk.c */
	enum disk_op was;
	struct file_req file; /* for formats that need one */
	void *priv; /* the format's */
	uint64_t cookie;
};

/* Who uses the disk. Called in the loop's thread; each may be NULL. */
struct disk_client {
	void (*batch)(void *ctx); /* a group of requests was completed */
	void (*resized)(void *ctx);
	void *ctx;
	/* With on_error PAUSE: the host failed this request, and it is held (result says why). */
	void (*failed)(void *ctx, const struct disk_req *r);
	/* From disk_close(): writes that were acknowledged, and that nobody flushed, could not be written: why (negative errno). */
	void (*lost)(void *ctx, int why);
	/* From there, and from disk_sleep(): a record of changes could not be written, and is marked as not complete. `what` says which, why, and what to do. */
	void (*bitmap_lost)(void *ctx, const struct err *what);
};

/* Per second; 0: none. A burst is what may pass at once; 0: a tenth of a second's worth. gate.h */
struct disk_limits {
	uint64_t ops, bytes, ops_burst, bytes_burst;
};
enum disk_on_error { DISK_ERROR_REPORT, DISK_ERROR_PAUSE, DISK_ERROR_IGNORE };

struct disk_kv {
	const char *key, *value; /* key NULL ends a list */
};

/*
 * What disks of one owner share. Stores (lodgefs): one has one writer, so that all disks of it that a process has open are opened with the
 * same of these. Files that are put aside while disks sleep. All zero at first; outlives the disks (then disk_stores_clear()); belongs to
 * the loop's thread.
 */
struct disk_stores {
	void *first;
	struct file_shelf shelf;
};
void disk_stores_clear(struct disk_stores *s);

struct disk_opts {
	const char *path;
	const char *format; /* "raw", "qcow2", "lodgefs" */
	const char *
		at; /* where the file lies until it gets its name, `path`; NULL: there. Not of disks in stores, and not looked at after disk_open() */
	bool readonly;
	bool offline; /* no guest looks at it: it may shrink, be repaired, have snapshots applied */
	bool no_backing; /* leaves the backing file shut: for info, and rebase of a chain that is broken */
	bool asleep; /* another process has it: see disk_sleep(); with `stores` */
	bool force; /* opens a disk that is marked as damaged or not closed; readonly, or for repair */
	bool discard; /* DISCARD and `unmap` give space back; without it they do nothing more than they must */
	enum disk_cache cache;
	enum io_kind io;
	struct uv_loop_s *loop;
	struct disk_stores *stores; /* or NULL: it shares nothing */
	struct disk_client client;
	struct disk_limits limits;
	enum disk_on_error on_error;
	const struct disk_watch *
		watch; /* shows, and may stop, what is asked of the disk and takes long: a new size, snapshots. Or NULL; outlives the disk */
	/* Of the format: "sorter" = "off" ... ; NULL ends the list. NULL: none. */
	const struct disk_kv *kv;
	/* Tests put their devices below the format: see struct files. */
	int (*open_file)(
		struct file **out, struct files *fs, const struct file_opts *o, struct err *e);
	void *open_ctx;
};

struct disk_info {
	const char *path, *format, *io; /* io: "io_uring" or "threads" */
	uint64_t size; /* bytes */
	bool readonly, discard;
	enum disk_cache cache;
	unsigned physical; /* block size that is best for the host, a power of two from 512 */
};

/*
 * Errors name the file and the remedy: -ENOENT, -EACCES, -EROFS (it may only be read, and is to be written), -EINVAL (no or unknown
 * format, a size that is not whole sectors, not a file), -EBUSY (in use: names the process where it can be found), -EOPNOTSUPP (no
 * direct I/O here).
 */
int disk_open(struct disk **out, const struct disk_opts *o, struct err *e);
/* Waits for what is in flight (its `done` is called). NULL is nothing. */
void disk_close(struct disk *d);

void disk_submit(struct disk *d, struct disk_req *r);
/* Blocks until nothing is in flight; every `done` has been called then. For quiesce. */
void disk_drain(struct disk *d);
unsigned disk_in_flight(const struct disk *d); /* with those that are held */
/*
 * Names memory that stays where it is until other memory, or none (NULL), is named, and that requests will mostly lie in: they cost the host less (docs/disk.md).
 * A hint, which no host has to take. Drains the disk. Not for guest memory, of which pages come and go.
 */
void disk_memory(struct disk *d, const struct iovec *mem);

/*
 * A disk goes from one process to another (migration, update). sleep: everything is flushed, what says that it was closed well is written, locks and
 * lease are given up; the files stay open, also inside the sandbox. wake: takes lock or lease, which waits a few seconds for another
 * process that goes, and reads the format's metadata anew. A disk that is opened `asleep` knows its size and shape by looking at it while another
 * process writes to it. While it sleeps nothing may be submitted. The disk was opened with `stores`. sleep: -EBUSY (requests that the host
 * failed are held), what the flush answered; the disk is awake then. wake: as disk_open(), and -EINVAL when it is another disk by now; it sleeps then.
 */
int disk_sleep(struct disk *d, struct err *e);
int disk_wake(struct disk *d, struct err *e);

/* Requests that the host failed, with on_error PAUSE. They stay through disk_drain(). */
unsigned disk_held(const struct disk *d);
void disk_retry(struct disk *d);
void disk_fail_held(struct disk *d); /* reports them after all */

void disk_info(const struct disk *d, struct disk_info *out);
uint64_t disk_size(const struct disk *d); /* as its client was told */
const char *disk_op_name(enum disk_op op);

/*
 * Makes the disk `size` bytes long, durably, and tells the client. Only growing: a guest does not survive the loss of the end of
 * its disk. A size of 0 takes what the file has now (a block device that was extended). Where the host fails, the disk goes on being used with the size
 * that it had; the same again is right when the host works. -ECANCELED: o.watch has stopped it; what it was to lose may be gone in part, and it has the size that it had.
 */
int disk_resize(struct disk *d, uint64_t size, struct err *e);

#define DISK_LATENCY_BUCKETS 24
struct disk_op_stats {
	uint64_t ops, bytes, errors;
	uint64_t total_ns, max_ns;
	uint64_t latency
		[DISK_LATENCY_BUCKETS]; /* [i]: from 2^i up to 2^(i+1) microseconds; first and last take what is beyond */
};
struct disk_stats {
	struct disk_op_stats op[DISK_OPS];
	unsigned in_flight, in_flight_max;
	unsigned held;
	uint64_t delayed, delayed_ns; /* by limits */
	uint64_t ignored; /* errors */
};
void disk_stats(const struct disk *d, struct disk_stats *out);
/* Adds what the format counts: caches, transactions. */
struct json_t;
void disk_format_stats(struct disk *d, struct json_t *into);

#endif
