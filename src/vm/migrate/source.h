/*
 * source.h: the thread that sends a running machine (migrate.c is its loop-side half).
 *
 *   thread "migrate"              loop thread
 *   hello, welcome
 *   disks, while the guest writes to them (disks_out.h)
 *   rounds of dirty pages  (further streams: threads "migrate-1" ...)
 *   MIG_ASK_STOP  --------------> stand still, quiesce, state, disks to sleep
 *   last pages, state, switch, ready, go, running
 *   MIG_ASK_END   --------------> the machine is the other side's; or goes on here
 *
 * Ownership: the connections belong to the source from source_create() on. One lock, innermost.
 */
#ifndef LODGE_VM_MIGRATE_SOURCE_H
#define LODGE_VM_MIGRATE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/migrate/wire.h"

struct chan_tls;
struct disks_out;
struct err;
struct source;
struct space;

enum mig_phase {
	MIG_CONNECTING,
	MIG_COPYING,
	MIG_SWITCHING, /* the guest stands still */
	MIG_POST, /* it runs at the destination, and pages of it are still here */
	MIG_DONE, /* the machine is the destination's */
	MIG_FAILED, /* it is ours, and nothing happened to it */
	MIG_LOST, /* nobody can tell from here whether it runs there */
	MIG_BROKEN, /* it runs there, and waits for pages that are here: MIG_POST without a connection */
	MIG_TRIED, /* --dry-run: it could be done */
};
const char *mig_phase_name(enum mig_phase p);

/* When the machine goes: when nearly all of it is there; or before, and its memory follows (postcopy.h): after one round, or at once. */
enum mig_post { MIG_PRE_COPY, MIG_POST_AFTER_ROUND, MIG_POST_AT_ONCE };

struct source_opts {
	int fd[MIG_STREAMS_MAX]; /* connected; owned from now on, also when create fails */
	unsigned nfds;
	struct chan_tls *tls; /* owned from now on; NULL: plain */
	uint8_t id[MIG_ID]; /* that is in the hello */
	char *hello; /* JSON, malloc'ed; owned from now on */
	struct space *space;
	uint64_t bandwidth; /* bytes a second over all streams; 0: no limit */
	uint64_t downtime_ns;
	bool dry_run;
	bool no_throttle;
	enum mig_post post;
	bool recover; /* the connections are for what MIG_BROKEN, or MIG_LOST, has left; `away`: the former */
	bool away;
	struct disks_out *disks; /* that go over as well; borrowed; NULL: none */

	/* In the thread "migrate"; each asks the loop's thread, which answers by source_stopped(). */
	void (*ask_stop)(void *ctx);
	void (*ask_end)(void *ctx);
	/* It runs at the destination, the rest follows. Nothing is to be answered. */
	void (*tell_post)(void *ctx);
	/* Slows the guest's vCPUs down, by thousandths of their time. Any thread. */
	void (*throttle)(void *ctx, unsigned permille);
	/* Which code is hot: at most `max` addresses; how many. In the thread "migrate", while the machine runs. NULL: nobody knows. */
	size_t (*hot)(void *ctx, uint64_t *gpa, size_t max);
	void *ctx;
};

struct source_stat {
	enum mig_phase phase;
	unsigned round, throttle /* of 1000 */, streams;
	uint64_t pages; /* of the machine */
	uint64_t touched; /* that the first round had to look at */
	uint64_t left, of; /* pages of this round */
	uint64_t sent[MIG_KINDS]; /* pages, as what */
	uint64_t wire; /* bytes */
	uint64_t rate; /* bytes of the wire a second, of the last round */
	uint64_t page_rate; /* pages a second */
	uint64_t dirty; /* bytes a second that the guest writes to, by pages */
	uint64_t predicted_ns; /* downtime, if it stopped now */
	uint64_t downtime_ns; /* as it was: from standing still until the destination ran */
	uint64_t blocks_ns, last_ns, load_ns,
		go_ns; /* of it: last blocks of disks; last pages; state until READY; GO until RUNNING */
	bool disks; /* that are copied: memory waits for them */
	uint64_t disk_data, disk_rate; /* bytes that have to go; a second */
	uint64_t disk_dirty; /* of a dry run: bytes a second that the guest wrote meanwhile */
	uint64_t total_ns;
	uint64_t asked; /* post-copy: pages that the guest waited for */
	bool zstd;
	char error[512];
	int code; /* negative errno */
};

int source_create(struct source **out, const struct source_opts *o, struct err *e);
/* What the machine was when it stood still. */
struct source_moment {
	uint8_t *state; /* malloc'ed */
	size_t len;
	char *neighbours; /* JSON (vm/nets.h), malloc'ed; NULL: nothing is known */
	uint64_t since, saved; /* when it stood still, and of when its clock in the state is */
	bool was_paused;
};
/* The answer to ask_stop: what is malloc'ed in `m` is owned from now on. rc: it could not; -EAGAIN: not now. */
void source_stopped(struct source *s, int rc, const struct err *why, const struct source_moment *m);
/* After that: the disks may be taken by the other side (rc 0), or not. */
void source_disks_free(struct source *s, int rc, const struct err *why);
/* Ends soon, if it still can; ask_end is called as always. Not once it runs at the destination, unless the machine `ends` here. */
void source_cancel(struct source *s, bool ends);
void source_stat(struct source *s, struct source_stat *out);
/* Waits for the threads. */
void source_free(struct source *s);

#endif
