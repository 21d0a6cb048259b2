/*
 * moment.h: what a disk holds at one moment, copied to a file while the disk is written to: clones of disks of any format.
 *
 *   guest's write --disk_submit()--> is its piece copied? --yes--> format
 *                                        | no: it waits
 *                                        v
 *            first writers' pieces, then the others in order --read--> piece as it was --> file
 *
 * arm() is the moment; it costs nothing. After it each piece (MOMENT_PIECE bytes) is copied exactly once: before the first write to it, or by the
 * sweep. Nothing is dropped: a write waits for its pieces, a discard is done without giving anything back (it is a hint). What the
 * disk does not have, and what is zero, stays a hole in the file. Reads do not wait.
 *
 * The sweep goes on in turns of the loop only, so that disk_drain() does not wait for it. The file is written in the loop's thread: it is one that the
 * page cache takes.
 *
 * When it fails (the disk cannot be read, no room for the file) writers go on at once, and `done` says why: the disk is not harmed.
 *
 * Threads: the loop's.
 */
#ifndef LODGE_DISK_MOMENT_MOMENT_H
#define LODGE_DISK_MOMENT_MOMENT_H

#include <stdbool.h>
#include <stdint.h>

#define MOMENT_PIECE (256u << 10)

struct disk;
struct disk_moment;
struct disk_req;
struct err;

/*
 * Everything that can be done before the moment. `fd`: an empty file, owned from now on, also on failure; it gets the disk's size. `done` is
 * called once after arm(), from the loop, when all is copied or nothing more will be: disk_moment_result() then says which. -EBUSY: there is one already.
 */
int disk_moment_create(struct disk_moment **out, struct disk *d, int fd, void (*done)(void *ctx),
	void *ctx, struct err *e);
/* The moment. Nothing is in flight but what is held (disk_held()). */
void disk_moment_arm(struct disk_moment *m);
bool disk_moment_over(const struct disk_moment *m);
int disk_moment_result(const struct disk_moment *m, struct err *e);
/* Bytes of the disk, and of those the ones that are dealt with. */
void disk_moment_progress(const struct disk_moment *m, uint64_t *done, uint64_t *of);
/* Who waits goes on. NULL is nothing. Before disk_close(). */
void disk_moment_free(struct disk_moment *m);

/* disk.c: a request that is about to change the disk. True: it waits (or is done), and is passed on later. */
bool moment_holds(struct disk_moment *m, struct disk_req *r);

#endif
