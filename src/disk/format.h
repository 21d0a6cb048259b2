/*
 * format.h: what a disk format is, and what formats see of a disk.
 *
 * A format is a row of the table in disk.c. It opens its files (lock.h for each that it opens), makes an io on them, and
 * sets size, can_discard, physical. Requests come in checked; the format ends each with disk_done(), never from inside submit.
 */
#ifndef LODGE_DISK_FORMAT_H
#define LODGE_DISK_FORMAT_H

#include <uv.h>

#include "disk/disk.h"

struct err;

struct disk_format {
	const char *name, *help;
	int (*open)(struct disk *d, struct err *e);
	/* Nothing is in flight. Also after an open that failed half way. */
	void (*close)(struct disk *d);
	void (*submit)(struct disk *d, struct disk_req *r);
	/* Grows to `size`, or for 0 looks how large it is now; sets d->size. */
	int (*resize)(struct disk *d, uint64_t size, struct err *e);
};

extern const struct disk_format disk_raw;

struct disk_ready;

struct disk {
	struct disk_opts o; /* path is owned; format is the row's name */
	const struct disk_format *format;
	struct io *io;
	uint64_t size;
	unsigned physical;
	bool can_discard;
	void *priv; /* the format's own */
	unsigned in_flight;
	struct disk_stats stats;
	struct disk_ready *ready; /* requests that ended at once */
};

/* Ends a request: statistics, then its owner. */
void disk_done(struct disk_req *r, int result);
/* The same from the loop's next turn on, for what ends inside submit. */
void disk_done_soon(struct disk_req *r, int result);
/* For io_opts.batch; ctx is the disk. */
void disk_batch(void *ctx);

#endif
