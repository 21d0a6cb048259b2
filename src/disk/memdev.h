/*
 * memdev.h: devices in memory that remember, tear, drop and fail: what formats are tested on.
 *
 *   struct memdevs devs;  disk_opts.open_file = memdevs_open, .open_ctx = &devs       (files by name, several if there is a chain)
 *        ... run a workload; note memdevs_events() at each acknowledgement ...
 *   for each point: memdevs_crash(&devs, point, variant, &after)  ->  devices as a power cut at that point may have left them
 *
 * The model of the power cut. An event is the submission or the completion of a request. At a point (so many events have happened)
 * a write is certain when it was completed before a flush was submitted that is completed as well, or when it was `fua` and is
 * completed. Every other write that was submitted is uncertain: each of its 512-byte sectors is there or not, one by one. Among writes to one
 * sector the order of submission is kept. Zeroing, discarding and truncating are the same, a truncate as a whole. A discard is never certain: it leaves
 * zeroes or what was there.
 *
 * Faults. Rules by file, operation and place: the n-th such request and those after it fail (EIO, ENOSPC), or take longer. A capacity makes
 * writes beyond it -ENOSPC. What fails has no effect, or (`torn`) has had half of it.
 *
 * Completions come in the loop's next turn (or in drain), in an order that the seed makes, but for changes of the same bytes, which keep theirs.
 *
 * Threads: one. For tests and benches: nothing here is made for speed, but pages are shared between a device and its crashed copies.
 */
#ifndef LODGE_DISK_MEMDEV_H
#define LODGE_DISK_MEMDEV_H

#include "disk/file.h"

struct memdev;

struct memdev_fault {
	const char *path; /* NULL: any */
	unsigned ops; /* 1 << enum file_op ... */
	uint64_t off, len; /* touches this range; len 0: anywhere */
	unsigned after, count; /* lets so many pass, then hits so many (0: all that follow) */
	int error; /* negative errno; 0: only later */
	bool torn;
	unsigned turns; /* of the loop that it is delayed by */
};
#define MEMDEV_FAULTS 8

struct memdevs {
	struct memdev *first;
	struct memdev_event *event;
	uint64_t nevents, cap;
	bool record;
	uint64_t seed; /* 0: completions keep the order of submission */
	struct memdev_fault fault[MEMDEV_FAULTS];
	unsigned nfaults;
	uint64_t faults_hit;
	uint64_t capacity; /* of each device, 0: no limit */
	uint64_t ops[FILE_OPS]; /* requests so far */
	uint64_t
		met; /* changes that were sent while another one of the same bytes was on its way: a host does them in any order */
	/* The cursor of memdevs_crash(): */
	struct memdevs *base;
	uint64_t at;
};

/* For struct files and disk_opts: open_ctx is the memdevs. `create` makes the device; one writer or many readers. */
int memdevs_open(struct file **out, struct files *fs, const struct file_opts *o, struct err *e);

/* Forgets the record so far, and records from here on: what the devices hold now is certain. */
int memdevs_record(struct memdevs *d);
uint64_t memdevs_events(const struct memdevs *d);
/* Is event `i` the submission of something that changes a device? A crash point right behind it is worth a look. */
bool memdevs_is_write(const struct memdevs *d, uint64_t i);
/*
 * The devices after a power cut when `point` events had happened. Points in ascending order are cheap. `variant` 0: nothing uncertain is there,
 * 1: all of it, others: some. `out` is empty before; -ENOMEM.
 */
int memdevs_crash(struct memdevs *d, uint64_t point, uint64_t variant, struct memdevs *out);
/* Frees all devices; none may be open. */
void memdevs_free(struct memdevs *d);

/* Direct access, for oracles: 0 past the end. -ENOENT. */
int memdev_peek(struct memdevs *d, const char *path, uint64_t off, void *buf, uint64_t len);
int memdev_poke(struct memdevs *d, const char *path, uint64_t off, const void *buf, uint64_t len);
uint64_t memdev_size(struct memdevs *d, const char *path);
uint64_t memdev_allocated(struct memdevs *d, const char *path); /* bytes that take up memory */
/* Writes the device to a file of the host, with holes. */
int memdev_save(struct memdevs *d, const char *path, const char *to, struct err *e);

#endif
