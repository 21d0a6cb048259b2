/*
 * frames.h: machine frames, the memory of the machine that a lodge-vm process is.
 *
 * Frames lie in one range of addresses, shared, with no reserve: the host gives a page when it is first touched. Frames are numbered from 0;
 * node k owns one contiguous range. Guest RAM, the tables of second-level maps and replicas all come from here, so that "which node is
 * it on" has an answer for each.
 *
 * Two memory files (memfd) lie below them: one for what guests see, which can go to another process as it is (`ram_fd`: live update), and one
 * for tables, which each process makes for itself.
 *
 * Allocation is by order: 0 (4 KiB), 9 (2 MiB), 18 (1 GiB), naturally aligned, and gives zeroed memory.
 * Threads: all calls may be made from any thread. Errors: -ENOMEM when the node (or every node) has no run of
 * that order; -EINVAL for nonsense.
 *
 * Bookkeeping is small and lazily touched: it must not cost more than 1 byte a frame in use.
 */
#ifndef LODGE_MEMORY_FRAMES_H
#define LODGE_MEMORY_FRAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "memory/addr.h"

#define FRAMES_MAX_NODES 16
#define FRAME_ORDER_4K 0
#define FRAME_ORDER_2M 9
#define FRAME_ORDER_1G 18
#define FRAMES_NODE_ANY (-1)

struct err;
struct frames;
struct uffd;

struct frames_opts {
	unsigned nodes; /* 1..FRAMES_MAX_NODES */
	uint64_t node_bytes[FRAMES_MAX_NODES]; /* each a multiple of 2 MiB */
	const char *name; /* of the memory file, for /proc/PID/maps */
	/*
	 * frames_fd() of another process (taken over on success; 0: make one). It has to have been made with the same nodes, and allocations
	 * in the same order give the same frames, with what is in them. They are borrowed: see frames_borrow().
	 */
	int ram_fd;
};

struct frames_node_stat {
	uint64_t total, free; /* frames */
};

int frames_create(struct frames **out, const struct frames_opts *opts, struct err *e);
void frames_destroy(struct frames *f);

/* `node` may be FRAMES_NODE_ANY. A named node is strict: no fall back to another. */
int frames_alloc(struct frames *f, int node, unsigned order, mfn_t *out);
/* For tables: below 2 MiB, never part of frames_fd(). Freed as the others. */
int frames_alloc_table(struct frames *f, int node, unsigned order, mfn_t *out);
void frames_free(struct frames *f, mfn_t m, unsigned order);

/*
 * Another process has the memory of `f` now (on), or `f` alone has it (off): while it is borrowed, nothing that is allocated, freed or
 * discarded is cleared or given back.
 */
void frames_borrow(struct frames *f, bool on);

/* Gives the host its pages back (hole punch); the frames stay allocated and read as zero. */
int frames_discard(struct frames *f, mfn_t m, uint64_t count);

/*
 * Frames [m, m + count) get the contents of `fd` from `off` on, copy-on-write: the host reads a page when it is first touched, shares it with
 * everybody who maps the file, and copies it when it is written. The frames must be allocated and not in use yet. The file must not
 * change or shrink while `f` lives; the descriptor may be closed. -EINVAL when count or off is not whole pages inside what there is.
 */
int frames_map_file(struct frames *f, mfn_t m, uint64_t count, int fd, uint64_t off, struct err *e);

/*
 * What lies over a file is no memory that userfaultfd protects. frames_set_aside() moves it out of the way and puts empty pages of the
 * memory file in its place, which the caller fills by a userfaultfd when they are touched (UFFD_MISSING), each from where frames_aside() says; when all
 * are filled, frames_aside_end() drops what was moved. The move copies nothing. Meanwhile frames_discard() clears pages, and
 * gives nothing back. Nobody writes to the frames during frames_set_aside(). One caller at a time.
 */
int frames_set_aside(struct frames *f, mfn_t m, uint64_t count, struct err *e);
/* Where the contents of frame m are: NULL: in its place. *count: how many frames that is so of, at most as many as it was. Any thread. */
const void *frames_aside(struct frames *f, mfn_t m, uint64_t *count);
void frames_aside_end(struct frames *f, mfn_t m, uint64_t count);

/*
 * For who will have frames_fd(): of frames that lie over a file, what is in them is written to the memory file too, where this process does not
 * look; of the others it is there already. `first`: nothing has been written of these, so that pages of zeros can stay holes. Nobody writes to the
 * frames meanwhile, or it is done again afterwards. frames_unsettle(): drops all that was written so, because this process keeps the machine.
 * Returns how many frames from m on are done, at most `count`, or -errno.
 */
int64_t frames_settle(struct frames *f, mfn_t m, uint64_t count, bool first, struct err *e);
void frames_unsettle(struct frames *f);

/*
 * Contents for frames that nobody has touched yet: made, copied into and mapped in one go (userfaultfd), so that the host neither clears them first nor serves a fault for each. From
 * frames_fill_begin() to frames_fill_end() (any thread) of this process nobody but the callers of frames_fill() (any threads) is to touch many others: they are made by a
 * thread, one by one. `u`: of uffd_open(UFFD_MISSING | UFFD_USER), owned from now on. frames_fill_close(): nobody calls frames_fill() any more; its
 * thread ends.
 * frames_fill(): frames that somebody has touched may be among them. -errno (-ENOTSUP: it has not begun, or is over; or memory is short): some may be written.
 */
int frames_fill_begin(struct frames *f, struct uffd *u, struct err *e);
void frames_fill_end(struct frames *f);
void frames_fill_close(struct frames *f);
int frames_fill(struct frames *f, mfn_t m, uint64_t count, const void *from);

/* How many frames from m on, at most `count`, have never been touched: they read as zero, without having been made for that. */
uint64_t frames_untouched(struct frames *f, mfn_t m, uint64_t count);

/* How many from m on, at most `count`, the host has pages for; 0: it has none for m. */
uint64_t frames_touched(struct frames *f, mfn_t m, uint64_t count);

/* Host address of frame m; adjacent frames are adjacent there. Aborts on a frame that does not exist (broken invariant). */
void *frames_ptr(const struct frames *f, mfn_t m);
/* First host address of frame 0; constant for the life of `f`. The JIT and the software TLB add to it. */
void *frames_base(const struct frames *f);
uint64_t frames_count(const struct frames *f);
unsigned frames_nodes(const struct frames *f);
unsigned frames_node_of(const struct frames *f, mfn_t m);
void frames_node_stat(const struct frames *f, unsigned node, struct frames_node_stat *st);
/* Of what guests see; tables are not in it. */
int frames_fd(const struct frames *f);

#endif
