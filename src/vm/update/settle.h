/*
 * settle.h: the memory of a machine that came from a snapshot, before another process gets it.
 *
 * It lies over the snapshot's file, copy-on-write, which no other process can be given. So it is written to the memory file (frames_settle()) as a
 * migration would send it: all of it, then what was written meanwhile, again and again until that is little; the rest in the moment. The guest runs
 * on over the snapshot's file until then, and for good when the update comes to nothing.
 *
 * Threads: the event loop's.
 */
#ifndef LODGE_VM_UPDATE_SETTLE_H
#define LODGE_VM_UPDATE_SETTLE_H

#include <stdbool.h>

struct err;
struct settle;
struct vm;

/* *out NULL: it came from nowhere; there is nothing to do. */
int settle_begin(struct settle **out, struct vm *vm, struct err *e);
/* Up to a MiB of it. *enough: the rest is little, or does not become less. */
int settle_step(struct settle *s, bool *enough, struct err *e);
/* All of the rest: the machine stands still and is quiet. */
int settle_rest(struct settle *s, struct err *e);
/* `kept`: this process goes on with the machine. Takes NULL. */
void settle_end(struct settle *s, bool kept);

#endif
