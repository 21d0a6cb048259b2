/*
 * trace.h: what vCPUs leave their guests for, and what the guests are given without that, one by one.
 *
 *   worker: exit, note --> the vCPU's buffer --trace_take(), event loop--> JSON --> control socket --> lodge trace
 *
 * Nothing is kept unless somebody follows; he asks again and again, and who has not asked for TRACE_KEEP_NS follows no longer. A buffer that
 * is full loses what comes, and says how many.
 *
 * Threads: trace_exit() and trace_note() in the vCPU's thread; the rest in the event loop's. Lock: one per vCPU, innermost.
 */
#ifndef LODGE_VM_TRACE_H
#define LODGE_VM_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/exit.h"

#define TRACE_KEEP_NS 5000000000ull

struct err;
struct json_t;
struct trace;
struct vm_vcpu;

int trace_create(struct trace **out, unsigned vcpus, struct err *e);
void trace_destroy(struct trace *t);

bool trace_on(const struct trace *t);
void trace_exit(struct trace *t, unsigned vcpu, const struct cpu_exit *x);
void trace_note(struct trace *t, unsigned vcpu, const struct cpu_note *n);

/* "timer,page fault" -> bits; "": all. -EINVAL names what there is no such type of. */
int trace_types(const char *list, uint64_t *types, struct err *e);
/* From now on, with empty buffers, what is of these types. -ENOMEM. */
int trace_start(struct trace *t, uint64_t types, struct err *e);
/* Buffers are freed; no vCPU may be inside trace_exit() that saw it on: their lock sees to that. */
void trace_stop(struct trace *t);

/*
 * What there is, oldest first for each vCPU: {"exits": [...], "lost": number, "more": bool}. New reference. An entry:
 * {"time_ns", "vcpu", "given": bool, "raw": "0x7", "basic", "vector", "error", "qualification": "0x2", "code": text, "type", "pc", "address", "physical", "count"}.
 */
struct json_t *trace_take(struct trace *t);

#endif
