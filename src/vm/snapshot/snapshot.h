/*
 * snapshot.h: a snapshot of a running machine, and a machine made from one.
 *
 *   lodge snapshot create --control socket, file descriptor--> vm_snapshot_start()
 *     prepare (memory, threads, refusals) | stand still: quiesce, state, disks, arm | run on -- live.h writes --> event
 *
 * One snapshot at a time. What is refused is refused before anything stands still. When anything fails, the disks' snapshots of this
 * one are removed, tracking is off, and the machine is what it was.
 *
 * Threads: the event loop's.
 */
#ifndef LODGE_VM_SNAPSHOT_SNAPSHOT_H
#define LODGE_VM_SNAPSHOT_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct json_t;
struct vm;

enum vm_snapshot_disks {
	VM_SNAPSHOT_AUTO, /* with the disks; refused when one cannot */
	VM_SNAPSHOT_MEMORY_ONLY,
	VM_SNAPSHOT_WITH_DISKS, /* the same, and there must be one */
	VM_SNAPSHOT_COPY_DISKS, /* what they hold goes to files of their own (disk/moment/moment.h) */
};

#define VM_SNAPSHOT_COPIES 7u

struct vm_snapshot_opts {
	const char *name; /* also of the disks' snapshots */
	int fd; /* empty file, readable and writable; owned from now on, also on failure */
	enum vm_snapshot_disks disks;
	/* COPY_DISKS: empty files for the disks that the machine writes to, in their order; owned from now on, also on failure. */
	int copy_fd[VM_SNAPSHOT_COPIES];
	unsigned ncopies;
	uint64_t queue_bytes; /* 0: the default of live.h */
	unsigned pack_percent; /* the same */
};

/* The moment is over when it returns 0; the rest goes on behind the guest's back. -EOPNOTSUPP (and which device). Who calls has looked at needs.h. */
int vm_snapshot_start(struct vm *vm, const struct vm_snapshot_opts *o, struct err *e);
/* {"state": "none"|"writing"|"done"|"failed", ...} of the present or the last one. New reference. */
struct json_t *vm_snapshot_status(struct vm *vm);
/* Of the one that is being written; NULL: none is. */
const char *vm_snapshot_name(const struct vm *vm);
/* The event "snapshot" follows. Nothing to cancel is fine. */
void vm_snapshot_cancel(struct vm *vm);
/* For vm_destroy(). */
void vm_snapshot_drop(struct vm *vm);

/*
 * Into a VM just created with `restore` from the definition of the same container. `fd` is borrowed. RAM is mapped from it copy-on-write; the
 * file must not change while the machine lives. Returns when the machine can be started. What makes it fast from then on, as bits of `warm`: the
 * working set, brought in by a thread of its own, and the hot code, translated when it is first met.
 */
enum vm_warm { VM_WARM_MEMORY = 1, VM_WARM_CODE = 2 };
int vm_restore(struct vm *vm, int fd, unsigned warm, struct err *e);

#endif
