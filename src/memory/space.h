/*
 * space.h: a VM's guest-physical memory: the one way in for everybody (decision D6).
 *
 * A space owns the frames, the views and write tracking. Devices, loaders, the agent and debuggers use the
 * checked accessors below; CPU engines fill their software TLBs through space_page(). Nobody else
 * turns a gpa into a pointer.
 *
 *   loader, virtio, DMA --> space_read/write/span --+
 *                                                   +--> view --> frames
 *   vCPU store miss ------> space_page(WRITE) ------+
 *                               |
 *                               +--> write tracking: marks the page before it is written
 *
 * Write tracking. Each writer announces a write *before* it makes it. While a tracker is on, the first announced write to a page
 * since the tracker last looked at that page calls its `before` hook (which may copy the old contents, for a snapshot) and sets the page's bit.
 * An engine may keep writing through a cached translation only when space_page() said so; when a tracker starts or re-arms
 * pages, space_invalidate() makes engines drop cached write permission, and returns when they have.
 *
 * Invalidation: engines register a listener. space_invalidate() calls each; a listener returns only when no vCPU can use
 * an older translation of the range any more; then it waits for the accessors below that are at work (they are short).
 * It must not be called from a vCPU's own thread with device locks held, nor from a tracker's hook.
 *
 * Threads: all calls from any thread unless said. Errors: -EFAULT (nothing there, or not permitted), -EINVAL (wraps).
 */
#ifndef LODGE_MEMORY_SPACE_H
#define LODGE_MEMORY_SPACE_H

#include <stddef.h>
#include <sys/uio.h>

#include "memory/addr.h"
#include "memory/view.h"

struct err;
struct space;

enum mem_access { MEM_READ = VIEW_R, MEM_WRITE = VIEW_W, MEM_EXEC = VIEW_X };

int space_create(struct space **out, struct frames *f, struct err *e);
void space_destroy(struct space *s);
struct frames *space_frames(const struct space *s);

/*
 * What a machine adds to each node's frames above its RAM, for the tables of two second-level maps that are split to 4 KiB everywhere, and a
 * few replicas. Frames that are never touched cost the host nothing.
 */
uint64_t space_spare_bytes(uint64_t ram);

/* View 0 exists from the start. */
struct view *space_view(const struct space *s, unsigned tag);
int space_view_add(struct space *s, struct view **out, struct err *e);

/* Allocates frames of `node` and maps them RWX at a in view 0. The space frees them when it goes. */
int space_add_ram(
	struct space *s, gpa_t a, uint64_t len, int node, const char *name, struct err *e);

struct space_ram {
	gpa_t base;
	uint64_t len;
	int node;
	const char *name;
};
/* The i-th RAM range in address order, or NULL. */
const struct space_ram *space_ram(const struct space *s, unsigned i);

/*
 * Between the two, tables and frames that are taken out of a map stay what they were (space_invalidate() waits). The accessors below do
 * this themselves; it is for threads that call view_lookup(), view_walk() or space_page() and are no vCPU of a
 * listening engine. Short, no blocking; nests.
 */
unsigned space_hold(struct space *s);
void space_release(struct space *s, unsigned hold);

/* Copying accessors through view 0. Nothing is written unless the whole range may be. */
int space_read(struct space *s, gpa_t a, void *buf, uint64_t len);
int space_write(struct space *s, gpa_t a, const void *buf, uint64_t len);
int space_fill(struct space *s, gpa_t a, uint8_t byte, uint64_t len);

/* Naturally aligned single accesses that other vCPUs see whole (ring indices, PTEs). */
int space_load16(struct space *s, gpa_t a, uint16_t *out);
int space_store16(struct space *s, gpa_t a, uint16_t v);
int space_load64(struct space *s, gpa_t a, uint64_t *out);
int space_store64(struct space *s, gpa_t a, uint64_t v);

/*
 * Host addresses for I/O without a copy: appends at most `max - *n` pieces of [a, a+len) to iov, joining adjacent ones. With MEM_WRITE the
 * pages are announced as written now. The pointers stay valid while the RAM stays mapped (RAM is not removed while devices run).
 * -E2BIG when the pieces do not fit, -EFAULT when any byte is not RAM of that permission; *n is then unchanged.
 */
int space_span(struct space *s, gpa_t a, uint64_t len, enum mem_access acc, struct iovec *iov,
	unsigned *n, unsigned max);

/* [a, a+len) is about to be, or has just been, written through a pointer of space_span(): tells the trackers. */
void space_announce(struct space *s, gpa_t a, uint64_t len);

/* What an engine needs to fill a TLB entry for one 4 KiB page. */
struct space_page {
	void *host; /* start of the page */
	mfn_t mfn;
	unsigned perm; /* of the leaf */
	unsigned order; /* size of the leaf */
	bool write_free; /* may cache a write entry: no tracker wants to hear of the next write */
};
/*
 * acc is what is about to happen; with MEM_WRITE the write is announced. -EFAULT: no RAM there, or not permitted (out->perm tells).
 * For vCPU threads: the result holds until the engine's listener has been called and has waited for this vCPU.
 */
int space_page(
	struct space *s, unsigned view_tag, gpa_t a, enum mem_access acc, struct space_page *out);

/*
 * May a write entry for the page be cached without announcing a write, because nobody wants to hear of the next one? Permissions are the
 * caller's to look at. For vCPU threads; holds as long as the result of space_page().
 */
bool space_write_free(struct space *s, gpa_t page);

/* Write tracking, one bit a 4 KiB page of RAM in the order of space_ram(). */
struct tracker;
struct tracker_ops {
	/*
	 * Called in the writer's thread before a page is first written; other writers of the page wait. May block briefly; may
	 * read the space, but neither write, invalidate nor touch trackers. May be NULL.
	 */
	void (*before)(void *ctx, gpa_t page, const void *host);
	void *ctx;
};
int tracker_start(
	struct tracker **out, struct space *s, const struct tracker_ops *ops, struct err *e);
void tracker_stop(struct tracker *t);
/*
 * Calls fn for each page written since the start or the last collect, and re-arms it. Returns their number. When fn
 * runs, every write that was announced before the page was taken has reached memory; later ones mark the page again.
 * (What is written through pointers of space_span() counts from the space_announce() after it.) One caller at a time.
 */
uint64_t tracker_collect(struct tracker *t, void (*fn)(void *ctx, gpa_t page), void *ctx);

/*
 * Does what the first write to the page would do, for who wants all pages and not only those that are written: unless the page has been
 * written since the start, calls fn with it (not `before`), and then the page counts as written. Writers of the page wait meanwhile. `host` is
 * NULL where nothing is mapped. 1: fn was called; 0: it had been written; -EAGAIN: its first writer is in `before` right now (which
 * may be waiting for the caller); -EFAULT: no RAM. Any thread but one in a tracker's hook.
 */
int tracker_claim(struct tracker *t, gpa_t page,
	void (*fn)(void *ctx, gpa_t page, const void *host), void *ctx);

/*
 * A tracker that hears of nothing until it is told which pages: an engine's, for the pages that it translated code of.
 * tracker_arm(): from now on the next announced write to the page calls `before`. It does not invalidate: a vCPU that has a cached write
 * entry is the caller's to deal with. Never collected.
 */
int tracker_start_quiet(
	struct tracker **out, struct space *s, const struct tracker_ops *ops, struct err *e);
void tracker_arm(struct tracker *t, gpa_t page);

/*
 * A page is named by its guest-physical address in the view that it was written through: a frame that is mapped at
 * several addresses is tracked under the one that was used.
 */
struct space_listener {
	/* what was taken away: MEM_WRITE only (tracking), or MEM_READ|MEM_WRITE|MEM_EXEC (unmap, remap) */
	void (*invalidate)(
		struct space_listener *l, unsigned view_tag, gpa_t a, uint64_t len, unsigned what);
	/*
	 * Engines whose guests write without announcing it. Trackers have come or gone: are writes to be noted from now on (`on`), and is
	 * there one that wants to be asked before a page is written (`before`)? -errno refuses the new tracker. May be NULL.
	 */
	int (*track)(struct space_listener *l, bool on, bool before, struct err *e);
	/* Passes on, by space_wrote(), what was noted, and notes anew. May be NULL. */
	void (*harvest)(struct space_listener *l);
	/* A sweep (tracker_claim()) is about to read this page: reading it must wait for nobody from then on. Lock-free. May be NULL. */
	void (*fetch)(struct space_listener *l, const void *host);
	struct space_listener *next; /* the space's */
};
void space_listen(struct space *s, struct space_listener *l);
void space_unlisten(struct space *s, struct space_listener *l);
/* A page was written, or is about to be, by a writer that could not announce it itself: tells the trackers. */
void space_wrote(struct space *s, unsigned view_tag, gpa_t page);
void space_invalidate(struct space *s, unsigned view_tag, gpa_t a, uint64_t len, unsigned what);

/* How many pages from a on, at most max, have never been touched: they read as zero. Any thread; a moment later it may be otherwise. */
uint64_t space_untouched(struct space *s, gpa_t a, uint64_t max);

/* Balloon and free page reporting: the contents of whole pages are no longer wanted. */
int space_discard(struct space *s, gpa_t a, uint64_t len);

#endif
