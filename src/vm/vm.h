/*
 * vm.h: a running virtual machine: a board whose vCPUs are tasks, with a life cycle.
 *
 *             vm_start            vm_pause
 *   BUILT ------------> RUNNING <----------> PAUSED
 *                          |    vm_resume      |
 *                          +---- ENDED <-------+      (guest shut down, failed, killed: cause and code say which)
 *
 * Data flow: workers (cpu/sched) run vCPUs and handle their exits by one table (exits.c) in the worker's thread. What
 * concerns the whole machine (shutdown, reboot, errors) is posted to the event loop, which pauses the workers and acts.
 *
 * What an operation needs of the machine is looked at before it is called, by the row of its control method (needs.h); start, pause and resume look themselves.
 *
 * Threads: every call belongs to the event loop's thread. `cfg`, `loop` and `log` must outlive the VM.
 */
#ifndef LODGE_VM_VM_H
#define LODGE_VM_VM_H

#include <stdbool.h>
#include <stdint.h>

struct console;
struct cpu_engine_ops;
struct err;
struct json_t;
struct log;
struct uv_loop_s;
struct vm;
struct vm_config;
struct vm_handed;
struct vm_nets;

enum vm_state { VM_BUILT, VM_RUNNING, VM_PAUSED, VM_ENDED };

enum vm_cause {
	VM_CAUSE_NONE,
	VM_CAUSE_SHUTDOWN, /* the guest powered off; code from the guest (test finisher), else 0 */
	VM_CAUSE_CRASH, /* the guest said that it failed */
	VM_CAUSE_ERROR, /* the engine could not go on */
	VM_CAUSE_KILLED, /* somebody said kill */
	VM_CAUSE_MIGRATED, /* it goes on in another process */
};

struct vm_opts {
	const struct vm_config *cfg;
	struct uv_loop_s *loop;
	struct log *log;
	const char *
		vsock; /* path of the Unix socket of the guest's sockets (device/vsock/vsock_host.h); NULL: none */
	int console_fd; /* console log, owned from now on; -1: none */
	/* Something happened; `params` is borrowed. May be NULL. */
	void (*event)(void *ctx, const char *name, struct json_t *params);
	/* The machine has ended. Called once, from the loop; the callee may vm_destroy(). */
	void (*ended)(void *ctx, enum vm_cause cause, int code);
	void *ctx;
	bool restore; /* vm_restore() or receive_start() follows: nothing is loaded to boot from */
	bool asleep; /* another process has the disks (disk_sleep()) */
	const char *const *
		disk_at; /* by number: where the file of a disk lies until it gets its name (disk_opts.at); NULL: none does. vm_create() only */
	const struct vm_handed *handed; /* it has the machine still (update/update.h); NULL */
};

/* Opens and builds everything; nothing runs yet. After this no file needs to be opened any more (sandbox). */
int vm_create(struct vm **out, const struct vm_opts *o, struct err *e);
void vm_destroy(struct vm *vm);

int vm_start(struct vm *vm, bool paused, struct err *e);
int vm_pause(struct vm *vm, struct err *e);
int vm_resume(struct vm *vm, struct err *e);
/* Presses the power button; -ENOTSUP when the machine has none. What the guest makes of it is its business. */
int vm_power_button(struct vm *vm, struct err *e);
/* Asks the guest to make do with `target` bytes of memory and to give the rest back. */
int vm_balloon(struct vm *vm, uint64_t target, struct err *e);
int vm_reset(struct vm *vm, struct err *e);
struct disk;
/* A disk by its id, for snapshots and bitmaps (disk/tool.h); it stays the device's. -ENOENT. */
int vm_disk(struct vm *vm, const char *id, struct disk **out, struct err *e);
/* Grows a disk while the guest runs, and tells it; 0: to what its file or device has now. -ENOENT, and the errors of disk_resize(). */
int vm_disk_resize(struct vm *vm, const char *id, uint64_t size, struct err *e);
/* The machine is over: vm_opts.ended is called, which may destroy it. */
void vm_end(struct vm *vm, enum vm_cause cause, int code, const char *text);
/* Ends at once, as pulling the plug. */
void vm_kill(struct vm *vm);

enum vm_state vm_state(const struct vm *vm);
const char *vm_state_name(enum vm_state s);
const char *vm_cause_name(enum vm_cause c);
struct console *vm_console(struct vm *vm);
struct vm_nets *vm_nets(struct vm *vm);
const struct cpu_engine_ops *vm_engine(const struct vm *vm);

/* New references. */
struct json_t *vm_status(struct vm *vm);
struct json_t *vm_stats(struct vm *vm);
/*
 * Exits and what the guest was given without one, since this was last called (trace.h). The first call begins, with `types`
 * (trace_types()); `who` is whoever asks: another
 * one is refused with -EBUSY until he stops, or has not asked for five seconds.
 */
int vm_trace_exits(struct vm *vm, const void *who, const char *types, bool stop,
	struct json_t **out, struct err *e);
/*
 * The topology, and every register and device field by name, of one moment: a running machine stands still meanwhile, and
 * devices are quiesced. -EBUSY: it has ended, or is on its way to another process.
 */
int vm_inspect(struct vm *vm, struct json_t **out, struct err *e);
/* ACPI tables by signature, as hexadecimal text. -ENOTSUP: the board has none. New reference. */
int vm_acpi(struct vm *vm, struct json_t **out, struct err *e);

#endif
