/*
 * migrate.h: a running machine moves to another process, on this host or another one.
 *
 *   lodge migrate --control socket: connected sockets--> vm_migrate_start() --> thread (source.h) ==stream==> receive.h --> vm
 *
 * One migration at a time. Until the other side runs it, the machine is ours: whatever fails before that, it goes on here, with its disks and
 * their locks. docs/migration.md has the sequence, and what happens when each step fails.
 *
 * Threads: the event loop's.
 */
#ifndef LODGE_VM_MIGRATE_MIGRATE_H
#define LODGE_VM_MIGRATE_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/migrate/source.h"

struct chan_tls;
struct err;
struct json_t;
struct vm;

struct vm_migrate_opts {
	int fd[MIG_STREAMS_MAX]; /* connected; owned from now on, also on failure */
	unsigned nfds;
	struct chan_tls *tls; /* owned from now on; NULL: plain */
	uint64_t bandwidth; /* bytes a second; 0: no limit */
	uint64_t downtime_ns; /* 0: MIG_DOWNTIME_NS */
	bool dry_run, no_throttle;
	enum mig_post post;
	bool recover; /* to where an earlier one has gone, whose pages are still here */
	bool copy_disks; /* the destination makes files of its own, and what is in them goes over as well */
	const struct json_t
		*shared; /* ids of disks that are not copied: both sides reach them; or NULL */
};
#define MIG_DOWNTIME_NS 50000000ull

/* Answers at once; the rest goes on behind the guest's back and ends with the event "migration". -EBUSY, -EOPNOTSUPP (which device, why). */
int vm_migrate_start(struct vm *vm, const struct vm_migrate_opts *o, struct err *e);
/* {"phase": "none" | mig_phase_name(), ...} of the present or the last one. New reference. */
struct json_t *vm_migrate_status(struct vm *vm);
/* What lodge ps says of a machine whose memory is in two places: "postcopy", "postcopy-paused"; NULL: of any other. */
const char *vm_migrate_state(const struct vm *vm);
/* -EBUSY while pages of this machine are still to come: nothing may read all of its memory. `broken`: only while it waits for a connection. */
int vm_migrate_whole(const struct vm *vm, bool broken, struct err *e);
/* The event follows. After the point of no return it does nothing. False: there is nothing to cancel. */
bool vm_migrate_cancel(struct vm *vm);
/*
 * For vm_resume(): takes back what a migration has left asleep. `force`: also after one of which nobody knows how it ended. 0, -EBUSY (somebody
 * else has the disks), -EPERM (it may be running elsewhere).
 */
int vm_migrate_take_back(struct vm *vm, bool force, struct err *e);
/* -EBUSY while the machine stands still for a migration: nothing else may touch it. */
int vm_migrate_idle(const struct vm *vm, struct err *e);
/* For vm_destroy(). */
void vm_migrate_drop(struct vm *vm);

#endif
