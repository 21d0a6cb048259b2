/*
 * internal.h: what the files of a running VM share among themselves.
 *
 * Threads: fields marked (any) may be touched by workers; the rest is the event loop's.
 */
#ifndef LODGE_VM_INTERNAL_H
#define LODGE_VM_INTERNAL_H

#include <stdatomic.h>
#include <uv.h>

#include "cpu/cpu.h"
#include "cpu/sched.h"
#include "machine/board.h"
#include "vm/console.h"
#include "vm/exits/trace.h"
#include "vm/vm.h"

struct vm_vcpu {
	struct vm *vm;
	struct vcpu *cpu;
	struct sched_task *task;
	_Atomic uint64_t exits[CPU_EXIT_REASONS]; /* (any) */
	_Atomic uint64_t types[CPU_TYPES]; /* (any) the same exits, finer */
	uint64_t rest_until; /* held back until then; the worker's */
};

/* What a worker wants the event loop to do. One at a time: the first one wins. */
struct vm_post {
	bool set;
	int event; /* enum cpu_system_event, or VM_POST_ERROR */
	uint64_t code;
	char text[256];
};
#define VM_POST_ERROR (-1)

/*
 * Whose the machine is. Where it is not ours it stands still here (VM_PAUSED), and its disks are another process's, or may be. A migration that is
 * under way (`mig`) changes nothing before it ends.
 *
 *   how it comes                                             state            how it goes
 *
 *   a machine that is migrated here                      --> VM_COMING      --GO--> VM_OURS (post-copy: with `coming`, until all its pages are here)
 *
 *   VM_OURS: failed before GO, its disks are not free    --> VM_DISKLESS    --resume--> VM_OURS
 *   VM_OURS: GO was sent, and then the connection lost   --> VM_UNSURE      --take-back (somebody knows that it does not run there)--> VM_OURS
 *   VM_OURS: the same, of a post-copy                    --> VM_UNSURE_POST --take-back--> VM_OURS, --recover--> it has ended here; VM_AWAY; the same
 *   VM_OURS: runs there, connection for its pages lost   --> VM_AWAY        --recover--> it has ended here; the same
 */
enum vm_owner { VM_OURS, VM_COMING, VM_DISKLESS, VM_UNSURE, VM_UNSURE_POST, VM_AWAY };

struct vm {
	struct vm_opts o;
	struct board *board;
	struct sched *sched;
	struct vm_vcpu *vcpus;
	unsigned nvcpus;
	struct console *console;
	struct chardev *uart;
	struct vm_nets *nets;
	struct trace *trace;
	const void *tracer; /* who follows; NULL: nobody */
	uint64_t traced_ns; /* when he last asked */
	uv_timer_t trace_timer; /* looks whether he still does */
	int proc_fd; /* /proc/self/status; -1: none */
	enum vm_state state;
	enum vm_cause cause;
	int code;
	bool unsliced; /* idle vCPUs stay inside run(), and each has a worker: no time slices */
	bool held; /* the vCPUs are paused in the scheduler */
	uint64_t started_ns;
	uint64_t reboots;

	struct vm_snapshot *snap; /* the one that is being written; NULL */
	struct vm_migration *mig; /* the one that is going on; NULL */
	struct json_t *last_mig; /* how the last one went; or NULL */
	enum vm_owner owner;
	uint8_t post_id[16]; /* VM_UNSURE_POST, VM_AWAY: of the migration whose pages are here */
	struct receive *receive; /* with `coming` */
	struct post_take *coming; /* pages of this machine are still to come; NULL */
	_Atomic unsigned throttle; /* (any) thousandths of their time that vCPUs do not run */
	struct vm_restored *restored; /* came from a snapshot; or NULL */
	struct json_t *last_snap; /* how the last one went; or NULL */
	char directory
		[4096]; /* where the process was started: relative names in the definition are of it */

	uv_async_t async;
	bool kill_wanted;
	pthread_mutex_t post_lock;
	struct vm_post post; /* (any) under post_lock */
	bool stop_wanted; /* (any) under post_lock */
	char stop_device[32], stop_text[192];
	_Atomic bool halted; /* (any) an event is posted: vCPUs stay out until the loop has acted */
};

/* What the scheduler is to do after an exit; EXIT_GO_ON re-enters the guest. */
enum exit_verdict { EXIT_GO_ON, EXIT_AGAIN, EXIT_YIELD, EXIT_IDLE, EXIT_PARK };

/* The one table of handlers (decision D3). In the worker's thread. */
enum exit_verdict exit_handle(struct vm_vcpu *vc, struct cpu_exit *x);

/* From any thread: halts the vCPUs and gets the loop to act. */
void vm_post_event(struct vm *vm, int event, uint64_t code, const char *text);

/* The vCPUs out of run(), without stopping the guest's clock; and back. Loop thread. Does nothing on a machine that is held. */
void vm_stand_still(struct vm *vm);
void vm_go_on(struct vm *vm);
/* The guest's clocks go on as if these nanoseconds, in which it stood still elsewhere, had passed here. It is held. */
void vm_clock_forward(struct vm *vm, uint64_t ns);
/* Holds the vCPUs back by thousandths of their time; 0: not any more. Any thread. */
void vm_throttle(struct vm *vm, unsigned permille);
/* The vCPUs become tasks, which run from vm_let_go() on. */
int vm_add_tasks(struct vm *vm, struct err *e);
void vm_let_go(struct vm *vm);
void vm_emit(struct vm *vm, const char *name, struct json_t *params); /* steals params */

#endif
