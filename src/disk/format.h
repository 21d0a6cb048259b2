/*
 * format.h: what a disk format is, and what formats see of a disk.
 *
 * A format is a row of the table in disk.c. It opens its files by disk_file() (locks, cache mode and the tests' devices are dealt
 * with there) and sets size, can_discard and physical. Requests come checked (alignment to 512, bounds, read-only); the format ends each with
 * disk_done(), or, from inside submit, with disk_done_soon().
 *
 * Two kinds of callbacks. submit() is asynchronous. Everything else blocks (file_read() and friends), and except for
 * block_status() and bitmap_status() is called with nothing in flight: disk.c drains first, and holds back nothing else as it is one thread. So
 * a snapshot that is taken while a guest runs needs no further care, and metadata may be read at once there. block_status() is asked again and again
 * while a guest runs: what can be long (lodgefs) waits only with d->o.offline.
 *
 * A NULL callback: the format cannot do that; disk.c says so by name.
 *
 * Errors. Functions with `struct err *e` name the file, the place in it and the remedy. Unknown features are refused by name. Nothing that a file
 * says may lead to a crash, a read outside of it, memory without bound or a loop without end.
 *
 * Backing files are opened by disk_open_backing(), readonly and by the format that the image names. A request to it is a disk_req of one's own by
 * disk_read_backing(). Deeper than DISK_CHAIN_MAX is refused.
 */
#ifndef LODGE_DISK_FORMAT_H
#define LODGE_DISK_FORMAT_H

#include <uv.h>

#include <jansson.h>

#include "disk/disk.h"
#include "disk/file.h"

struct err;

#define DISK_CHAIN_MAX 200

/* What one key of create (`-o key=value`) or open (`--disk FILE:FORMAT,key=value`) means. */
struct disk_key {
	const char *key, *values, *help; /* values: "512..2M", "on|off" */
	bool sized; /* of a new disk: says how large it is, as well */
	bool once; /* of opening: matters at that moment only, so that the disk can go to sleep and wake without it */
};

struct disk_watch;
struct disk_create_opts {
	const char *path;
	uint64_t size; /* 0: that of the backing file */
	const char *backing, *backing_format; /* NULL: none */
	const struct disk_kv *kv; /* keys are known (create_keys); the format checks the values */
	struct uv_loop_s *loop;
	struct disk_stores *stores; /* or NULL: as of disk_opts */
	bool overwrite; /* what is there goes */
	const struct disk_watch *watch; /* or NULL: of preallocation */
	int (*open_file)(
		struct file **out, struct files *fs, const struct file_opts *o, struct err *e);
	void *open_ctx;
};

/* What a disk takes, in bytes: how long its file, or how large its block device, is; of a store, what that gives to it. */
struct disk_amount {
	uint64_t required; /* with what is to be there at first */
	uint64_t full; /* when all of it was written once */
	uint64_t bitmaps; /* what those of the source would take beside that */
	uint64_t store,
		store_full; /* how large a store has to be that holds nothing else; 0: it is in none */
};

/* What a range of a disk consists of. */
enum {
	DISK_EXT_DATA = 1, /* has bytes (else: reads as zeroes) */
	DISK_EXT_HERE = 2, /* this file says so (else: its backing file does, or nobody) */
	DISK_EXT_COMPRESSED = 4,
	DISK_EXT_PLACE = 8, /* `file` and `addr` are set: the bytes lie there as they are */
};
struct disk_extent {
	uint64_t offset, len;
	unsigned flags, depth; /* depth: 0 this file, 1 its backing file ... set by disk.c */
	struct file *file;
	uint64_t addr;
};

struct disk_snapshot {
	char id[24], name[256];
	uint64_t size, vm_size, date; /* date: seconds since 1970 */
	uint64_t clock_ns; /* of the guest */
};
enum disk_snap_op { DISK_SNAP_CREATE, DISK_SNAP_DELETE, DISK_SNAP_APPLY };

/* Changed-block bitmaps. */
#define DISK_DIRTY_UNKNOWN UINT64_MAX /* a machine's disk has more to look at than that is worth */
struct disk_bitmap {
	char name[256];
	uint64_t granularity, generation, dirty; /* dirty: bytes */
	bool enabled, busy /* was not closed: incomplete, only to be removed */, persistent;
};
enum disk_bitmap_op {
	DISK_BITMAP_ADD,
	DISK_BITMAP_REMOVE,
	DISK_BITMAP_ENABLE,
	DISK_BITMAP_DISABLE,
	DISK_BITMAP_CLEAR
};

/*
 * Generations: a disk whose changes are recorded has a number that grows. A backup that begins with generation(next) and is told G has what the disk held
 * before G; what it has to take the next time is what changed in G or later. `id` tells another recording (after copies, or when it was
 * switched off in between): generations of another id mean nothing.
 */
struct disk_generation {
	uint64_t now, first; /* first: since which changes are known */
	uint64_t id, granularity;
};

/* Progress and findings of what takes long. Each may be NULL. Returns of progress(): true goes on, false stops (-ECANCELED). */
struct disk_watch {
	bool (*progress)(void *ctx, uint64_t done, uint64_t of);
	void (*found)(void *ctx, bool error /* else a leak */, const char *text);
	void *ctx;
};

struct disk_check {
	uint64_t errors, leaks; /* leaks: units of `unit` bytes that nothing refers to */
	uint64_t fixed_errors, fixed_leaks;
	uint64_t unit, total, allocated, fragmented, compressed; /* units */
	uint64_t end; /* of what is used of the file */
};

struct disk_format {
	const char *name, *help;
	const struct disk_key *create_keys, *open_keys; /* key NULL ends the list; NULL: none */

	/* Looks at d->o; leaves nothing behind that close() does not remove. */
	int (*open)(struct disk *d, struct err *e);
	/*
	 * Nothing is in flight. Also after an open that failed half way. Writes what says that it was closed well. Not 0: what was acknowledged and
	 * not flushed could not be written.
	 */
	int (*close)(struct disk *d);
	void (*submit)(struct disk *d, struct disk_req *r);
	/* What is held back to be done together is to be started now: disk_drain() is waiting. Also after an open that failed. May be NULL. */
	void (*kick)(struct disk *d);

	int (*create)(const struct disk_create_opts *o, struct err *e);
	/*
	 * What create() would make, and then needs for what `from` holds (NULL: nothing), which is not longer. Nothing is made. `path`, `backing` and
	 * `overwrite` are not looked at. `required` is never too low for disk_copy().
	 */
	int (*measure)(const struct disk_create_opts *o, struct disk *from, struct disk_amount *out,
		struct err *e);
	/* Grows to `size`, shrinks only with d->o.offline; for 0 looks how large it is now. Sets d->size. */
	int (*resize)(struct disk *d, uint64_t size, struct err *e);
	/* The first run of like bytes at `off`, at most `len` long; it may end early. What is not known at once may count as data. Not set: all is. */
	int (*block_status)(
		struct disk *d, uint64_t off, uint64_t len, struct disk_extent *out, struct err *e);

	int (*snapshot)(struct disk *d, enum disk_snap_op op, const char *name, struct err *e);
	/* Disks of one store, for which store() is alike: all get the snapshot in one transaction, or none does. Both or neither are set. */
	const void *(*store)(const struct disk *d);
	int (*snapshot_all)(struct disk *const *d, unsigned n, const char *name, struct err *e);
	/* *out: malloc'ed array of *n. */
	int (*snapshots)(struct disk *d, struct disk_snapshot **out, unsigned *n, struct err *e);

	int (*bitmap)(struct disk *d, enum disk_bitmap_op op, const char *name,
		uint64_t granularity, struct err *e);
	int (*bitmaps)(struct disk *d, struct disk_bitmap **out, unsigned *n, struct err *e);
	/* The first run of like state at `off`: *dirty, *len. */
	int (*bitmap_status)(struct disk *d, const char *name, uint64_t off, uint64_t *len,
		bool *dirty, struct err *e);

	/* These bytes count as changed as well. NULL: only what was written does. */
	int (*bitmap_set)(
		struct disk *d, const char *name, uint64_t off, uint64_t len, struct err *e);
	/* What `source` of this disk has counts as changed in `name`, too. NULL: that is bitmap_set() of it all. */
	int (*bitmap_merge)(struct disk *d, const char *name, const char *source, struct err *e);

	/* -ENODATA: not recorded. `next` begins a new generation first. */
	int (*generation)(struct disk *d, bool next, struct disk_generation *out, struct err *e);
	/* As bitmap_status(): in generation `since` or later? -ESTALE: that is not known. */
	int (*changed)(struct disk *d, uint64_t since, uint64_t off, uint64_t *len, bool *dirty,
		struct err *e);

	/* d was opened with `force`; readonly unless `repair`. Not finding anything wrong is 0, and so is finding something. */
	int (*check)(struct disk *d, bool repair, const struct disk_watch *w,
		struct disk_check *out, struct err *e);
	/* Adds what is particular to the format: cluster size, features ... */
	int (*info)(struct disk *d, json_t *obj, struct err *e);
	/* Metadata and data caches, transactions: for `lodge stats`. May be NULL. */
	void (*stats)(struct disk *d, json_t *obj);
	/* Gives up all that the disk itself has, durably: it shows its backing file again. NULL: cannot. Nothing is in flight. */
	int (*empty)(struct disk *d, struct err *e);
	/* Names another backing file (NULL: none) without looking at contents: what convert and rebase end with. */
	int (*set_backing)(struct disk *d, const char *path, const char *format, struct err *e);
	/* Writes `len` bytes at `off` compressed. NULL: cannot. */
	int (*write_compressed)(
		struct disk *d, uint64_t off, const void *buf, uint64_t len, struct err *e);
	/*
	 * Does `fua` itself. Else disk.c turns such a request into one without, and a flush: a write in place is
	 * durable only with the metadata that an earlier one has changed.
	 */
	bool fua;
	bool scattered; /* takes WRITE with ranges; else disk.c takes them apart */
};

/* As disk_open(), with a format that need not be in the table: for tests. */
int disk_open_as(
	struct disk **out, const struct disk_format *f, const struct disk_opts *o, struct err *e);

/* The stores that there are; NULL behind the last. */
struct disk_store_format;
const struct disk_store_format *disk_store_at(unsigned i);

extern const struct disk_format disk_raw, disk_qcow2, disk_lodgefs;
extern const struct disk_store_format disk_store_lodgefs;

/*
 * Stores hold many disks in one file or block device (lodgefs). A disk in one is named STORE/NAME: "/srv/pool.lodge/web1" where
 * /srv/pool.lodge is the file. `lodge store` works on these.
 */
struct disk_store_entry {
	char name[256], parent[512]; /* parent: of a linked clone, DISK or DISK@SNAPSHOT */
	uint64_t size, allocated, shared; /* bytes; shared: with others */
	uint64_t snapshots, generation;
};
struct disk_store_space {
	uint64_t total, used, free, metadata, journal, quarantined;
	uint64_t disks, snapshots;
};
struct disk_store_format {
	const char *name, *help;
	const struct disk_key *create_keys;
	int (*create)(const struct disk_create_opts *o,
		struct err *e); /* size 0: that of the block device */
	int (*list)(struct files *fs, const char *path, struct disk_store_entry **out, unsigned *n,
		struct err *e);
	int (*space)(
		struct files *fs, const char *path, struct disk_store_space *out, struct err *e);
	int (*check)(struct files *fs, const char *path, bool repair, const struct disk_watch *w,
		struct disk_check *out, struct err *e);
	int (*remove)(struct files *fs, const char *path, const char *name, struct err *e);
	int (*rename)(struct files *fs, const char *path, const char *from, const char *to,
		struct err *e);
	int (*info)(struct files *fs, const char *path, json_t *obj, struct err *e);
	/* Gives back to the host what nothing refers to. *given: bytes of its space, as far as it tells. */
	int (*trim)(struct files *fs, const char *path, const struct disk_watch *w, uint64_t *given,
		struct err *e);
	/* Ends another host's hold, which fails from its next flush on. `fence`: the new number, 0: the next one. *now: which it is. */
	int (*take)(
		struct files *fs, const char *path, uint64_t fence, uint64_t *now, struct err *e);
	/* Longer. `more`: by `size`. 0: what the block device has now. *now: what it has afterwards. */
	int (*resize)(struct files *fs, const char *path, uint64_t size, bool more, uint64_t *now,
		struct err *e);
};

struct disk_ready;

struct disk {
	struct disk_opts o; /* path is owned; format is the row's name */
	const struct disk_format *format;
	struct files *files; /* shared with the whole chain, or with the other disks of a store */
	struct files *own_files; /* freed with the disk; NULL: of the disk above */
	struct disk *backing; /* or NULL; its client is nobody */
	char *backing_path,
		*backing_format; /* as disk_open_backing() was told, also with no_backing */
	unsigned depth;
	uint64_t size;
	uint64_t
		told; /* 0: size. Else what its client was told last: the longer one may not be durable */
	unsigned physical;
	bool asleep,
		writes; /* writes: what o.readonly is when it is awake (asleep it is readonly) */
	bool has_keys; /* was opened with options of its format, which are not kept */
	bool can_discard;
	bool hard_zeroes; /* zeroes are written down also where nothing is: it gets another backing file */
	void *priv; /* the format's own */
	unsigned in_flight;
	struct disk_stats stats;
	struct disk_gate *gate; /* or NULL */
	struct disk_moment *moment; /* what it holds now is being copied; or NULL */
	struct disk_dirty *dirty; /* or NULL: somebody copies it (dirty.h) */
	struct disk_ready *ready; /* requests that ended at once */
};

/* Ends a request: statistics, then its owner. */
void disk_done(struct disk_req *r, int result);
/* The same from the loop's next turn on, for what ends inside submit. */
void disk_done_soon(struct disk_req *r, int result);

/* For what d->o.watch is about. False: it is to stop. */
bool disk_go_on(const struct disk *d, uint64_t done, uint64_t of);
/* A disk that was to become shorter, and keeps its size: -ECANCELED. */
int disk_stopped(const struct disk *d, uint64_t size, struct err *e);

/* Tells the client that a group of requests has ended. Those that end in a file's `done` are told by the file. */
void disk_batch(struct disk *d);

/* Opens a file of the disk as its options (cache, discard, readonly) say; `path` NULL: the disk's own. It ends with file_close(). */
enum {
	DISK_FILE_READONLY = 1, /* even where the disk is not */
	DISK_FILE_RAW = 2, /* whole sectors only; past the end is an error */
	DISK_FILE_NO_LOCK = 4,
};
int disk_file(struct disk *d, const char *path, unsigned flags, struct file **out, struct err *e);

/*
 * Opens d->backing, unless d->o.no_backing. `path` is as the image says: relative to the folder of d. -EINVAL without a format, or when the
 * chain is too deep. disk_close(d) closes it.
 */
int disk_open_backing(struct disk *d, const char *path, const char *format, struct err *e);
/* The path that the name `path` in image `of` means; malloc'ed. "file:" before it is QEMU's way to name a file from the present folder. */
char *disk_backing_path(const char *of, const char *path);
/* The name for `path` in an image, as QEMU, too, takes it for a file's; malloc'ed. */
char *disk_backing_name(const char *path);
/* A READ of d->backing: offset, len, iov, niov, done are set by the caller; the array at iov is the caller's own and may be cut. What is beyond its end, or without one, reads as zeroes. */
void disk_read_backing(struct disk *d, struct disk_req *child);

/* -EINVAL: has a key that is none of `keys`, or one twice. *sized (or NULL) is set when one of them says how large a disk is. */
int disk_kv_known(const struct disk_kv *kv, const struct disk_key *keys, const char *format,
	bool *sized, struct err *e);
/* The value of a key, or NULL. */
const char *disk_kv_get(const struct disk_kv *kv, const char *key);
/* "64k" in [min, max], a power of two if `pow2`; *out is left as it is when the key is absent. */
int disk_kv_size(const struct disk_kv *kv, const char *key, uint64_t min, uint64_t max, bool pow2,
	uint64_t *out, struct err *e);
int disk_kv_bool(const struct disk_kv *kv, const char *key, bool *out, struct err *e);
/* Which of the `n` names the value is. */
int disk_kv_choice(const struct disk_kv *kv, const char *key, const char *const *names, unsigned n,
	unsigned *out, struct err *e);

#endif
