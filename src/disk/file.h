/*
 * file.h: one file or block device as an array of bytes, behind an asynchronous contract: what formats are written on.
 *
 *   format (raw, qcow2, lodgefs) --file_submit()--> back end --done(), in the loop's thread--> format
 *                                                     |
 *             host (file_host.c: io.h, direct I/O)  --+-- memory with a record of every write (memdev.h), rules that make it fail
 *
 * A format never knows which back end it works on, so that what a test drives over the memory device is the code that runs.
 *
 * Files belong to a `struct files`, one for a disk with all its backing files (or for a store): the loop, the way of doing I/O and the
 * place where tests put their devices. Everything is opened when the disk is opened; afterwards nothing is (sandbox).
 *
 * Requests. Offsets and lengths are bytes, any value. What a request points to stays in place until `done`; the iovecs are not
 * changed. `done` is called exactly once, in the loop's thread, never from inside file_submit(), and may submit. A request
 * is done as a whole or has failed: there are no short transfers. Nothing is ordered against anything else that is in flight.
 *
 *   READ   past the end of the file reads zeroes (with `file_opts.strict`, and where another process has cut it off: -EIO)
 *   WRITE  past its end makes the file longer (on a block device: -ENOSPC); `fua`: it is durable when it is done
 *   FLUSH  makes durable whatever was done before it was submitted. Once one has failed, all fail where the page cache was used. Fails
 *          (-EIO) while the file is shorter than we have made it: somebody has cut it off
 *   ZERO   reads as zeroes afterwards; with `unmap` the space may be given back; never makes the file longer than `off + len`
 *   FILL   a WRITE of zeroes, of any length: the host has written them, and has space for what comes in their place
 *   DISCARD  the contents are not wanted any more; a hint that may do nothing (what they read as is not said)
 *
 * `result`: 0 or a negative errno. -EINTR and -EAGAIN are dealt with below.
 *
 * Atomicity that a format may count on: none above one 512-byte sector. What was not flushed may be lost, torn between sectors or
 * reach the medium in any order.
 */
#ifndef LODGE_DISK_FILE_H
#define LODGE_DISK_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "disk/gather.h"
#include "disk/io.h"

struct err;
struct file;

enum file_op { FILE_READ, FILE_WRITE, FILE_FLUSH, FILE_DISCARD, FILE_ZERO, FILE_FILL, FILE_OPS };

struct file_req {
	enum file_op op;
	bool fua, unmap;
	uint64_t off, len; /* len: also for READ and WRITE, the sum of the iovecs */
	const struct iovec *iov;
	unsigned niov; /* any number */
	void (*done)(struct file_req *r);
	int result;

	/* The file's own from here on; need not be set. */
	struct file *file;
	struct file_req *next;
	struct io_req io;
	struct iovec one, *cut; /* cut: what is left after a short transfer */
	void *bounce;
	struct gather_note note;
	bool gathers;
	uint64_t at;
	unsigned step;
};

struct file_opts {
	const char *path;
	const char *
		at; /* the host's file that is opened in its place: it will get the name; NULL: none. Of the call */
	bool readonly;
	bool direct; /* O_DIRECT where a request is aligned for it */
	bool discard; /* DISCARD and `unmap` give space back */
	bool sectors; /* all requests are whole sectors (direct I/O may then be used in such units) */
	bool strict; /* reading past the end fails */
	bool create; /* make it, empty; -EEXIST when it is there */
	bool no_lock; /* several openers are permitted by a lock of another kind (a store's lease) */
};

struct file_ops {
	void (*submit)(struct file *f, struct file_req *r);
	/* Blocks until nothing of this file is in flight; every `done` has been called then. */
	void (*drain)(struct file *f);
	/* io_ops.memory; NULL: makes no difference. */
	void (*memory)(struct file *f, const struct iovec *mem);
	/* Longer or shorter; blocks. Not durable before a flush. */
	int (*truncate)(struct file *f, uint64_t size, struct err *e);
	/* What it has now, for devices that grow under us. */
	int (*measure)(struct file *f, uint64_t *size, struct err *e);
	/* Where is data from `off` on? Sets *len, up to its own value, and *data. -EOPNOTSUPP: unknown, take all as data. Blocks. */
	int (*extent)(struct file *f, uint64_t off, uint64_t *len, bool *data);
	/* What the host has left for it. Blocks for a moment. NULL: nobody knows. */
	uint64_t (*room)(struct file *f);
	/* Takes the lock again that file_opts want, or gives it up. NULL: cannot be put aside. Nothing is in flight. */
	int (*lock)(struct file *f, bool on, struct err *e);
	void (*close)(struct file *f);
};

/* Begins each back end's own struct. */
struct file {
	const struct file_ops *ops;
	const char *kind; /* "io_uring", "threads", "crash" ... */
	struct files *owner;
	struct file *next; /* owner's list */
	char *path;
	struct file_opts o; /* path: the one above */
	uint64_t size; /* as far as writes that are done and truncates have made it */
	uint64_t
		reach; /* where the last of all writes ends that were submitted: what makes the file shorter than that may cut one off */
	bool block_device, can_write; /* can_write: whatever `o` says of this user */
	bool lost; /* a flush failed, and the host may have dropped what it should have written: all flushes fail from then on */
	unsigned in_flight;
	unsigned align; /* of memory and place, for direct I/O without a copy; 512 and more */
	unsigned physical; /* block size that is best for the host */
};

/*
 * Files that are put aside while another process has the disk: open, with what they need to work (rings, threads), and without their locks, so
 * that inside the sandbox they can be taken again. All zero at first.
 */
struct file_shelf {
	struct file *first;
	bool keep; /* what is closed now comes here */
	bool look; /* what is opened now is only looked at: no lock, but fit for writing later where the host permits it */
};

struct files {
	struct uv_loop_s *loop;
	struct file_shelf *shelf; /* or NULL; outlives this */
	enum io_kind io;
	void (*batch)(void *ctx); /* after each group of completions; may be NULL */
	void *ctx;
	/* NULL: the host's files. Tests put crash and fault devices here. */
	int (*open)(struct file **out, struct files *fs, const struct file_opts *o, struct err *e);
	void *open_ctx;
	struct file *first;
};

/*
 * Opens and locks (lock.h: one writer, or any number of readers). Errors name the file and the remedy: -ENOENT, -EACCES, -EROFS,
 * -EINVAL (neither file nor block device), -EBUSY (in use), -EOPNOTSUPP (no direct I/O here).
 */
int file_open(struct file **out, struct files *fs, const struct file_opts *o, struct err *e);
/* For a new disk: -EEXIST when the file is there; with `overwrite` what is there is opened (as it is), and made if nothing is. */
int file_make(struct file **out, struct files *fs, const char *path, bool overwrite, struct err *e);
/* Closes it when that is done; a file that was not there before goes again when `rc` says that it failed. Returns rc. */
int file_made(struct file *f, int rc);
/* The host's, for those who put something in front of it. */
int file_host_open(struct file **out, struct files *fs, const struct file_opts *o, struct err *e);
/* Waits for what is in flight. NULL is nothing. */
void file_close(struct file *f);
/* Closes what was put aside and not taken again. */
void file_shelf_clear(struct file_shelf *s);

void file_submit(struct file *f, struct file_req *r);
int file_truncate(struct file *f, uint64_t size, struct err *e);
int file_extent(struct file *f, uint64_t off, uint64_t *len, bool *data);
/* How many bytes the host has left to give to it; UINT64_MAX where that is not known. */
uint64_t file_room(struct file *f);
/* How much of the host's space it takes; what the host does not tell counts as taken. */
uint64_t file_allocated(struct file *f);
/* Until nothing is in flight on any file of `fs`. Returns whether anything was. */
bool files_drain(struct files *fs);
/* For all files that are open now: io_ops.memory. Waits for what is in flight. */
void files_memory(struct files *fs, const struct iovec *mem);

/*
 * The same, waited for: for opening, checking and tools. Other requests that are in flight end as well (their `done` is called).
 * 0 or negative errno with a message that names file, place and operation. `e` may be NULL.
 */
int file_read(struct file *f, uint64_t off, void *buf, uint64_t len, struct err *e);
int file_write(struct file *f, uint64_t off, const void *buf, uint64_t len, struct err *e);
int file_zero(struct file *f, uint64_t off, uint64_t len, bool unmap, struct err *e);
int file_fill(struct file *f, uint64_t off, uint64_t len, struct err *e);
int file_flush(struct file *f, struct err *e);

/* For back ends: fills the common part; ends a request. */
int file_init(struct file *f, const struct file_ops *ops, struct files *fs,
	const struct file_opts *o, struct err *e);
void file_done(struct file_req *r, int result);

/* ---- iovecs ---- */

/* What of [off, off + len) of `iov` fits into `max` iovecs at `out`; returns how many. */
unsigned iov_slice(struct iovec *out, unsigned max, const struct iovec *iov, unsigned niov,
	uint64_t off, uint64_t len);
void iov_read(const struct iovec *iov, unsigned niov, uint64_t off, void *to,
	uint64_t len); /* iov -> memory */
void iov_write(const struct iovec *iov, unsigned niov, uint64_t off, const void *from,
	uint64_t len); /* memory -> iov */
void iov_zero(const struct iovec *iov, unsigned niov, uint64_t off, uint64_t len);

#endif
