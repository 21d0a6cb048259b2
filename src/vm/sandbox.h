/*
 * sandbox.h: what lodge-vm may still do once its guest runs.
 *
 * Entered once, after everything has been opened and before the first thread is started (capabilities and Landlock are a
 * thread's own; later threads inherit them), thus before the first guest instruction:
 *
 *   1. no new privileges, all capabilities dropped (also from the bounding set)
 *   2. Landlock (Linux 5.13+): no file may be opened but the name-server configuration, nothing may be made or
 *      removed outside the machine's own runtime directory
 *   3. seccomp for all threads: an allow-list with a reason for each rule (sandbox.c); no execve, no PROT_EXEC mapping,
 *      no ptrace; anything else ends the process
 *
 * What the kernel does not offer is said in the log and left out, except seccomp, without which the sandbox is refused.
 * Source: landlock(7), seccomp(2), capabilities(7).
 */
#ifndef LODGE_VM_SANDBOX_H
#define LODGE_VM_SANDBOX_H

struct cpu_engine_ops;
struct err;
struct log;
struct json_t;

struct sandbox_opts {
	const char *runtime_dir; /* where the control socket lies; may be removed from at the end */
	struct log *log;
	const struct cpu_engine_ops
		*engine; /* whose requests of the kernel are let through (cpu_engine_ops.ioctls) */
};

int sandbox_enter(const struct sandbox_opts *o, struct err *e);

/* {"syscall": "reason"} of every rule but an engine's: `lodge-vm --sandbox=explain`. New reference. */
struct json_t *sandbox_explain(void);

#endif
