/*
 * needs.h: what an operation wants of the machine. Control methods say it in their rows (control/control_impl.h); what has other callers, or may have to be
 * asked twice, asks by itself.
 *
 * Threads: the event loop's.
 */
#ifndef LODGE_VM_NEEDS_H
#define LODGE_VM_NEEDS_H

#include <stdbool.h>

struct err;
struct vm;

/* In the order in which they are looked at. */
enum vm_need {
	VM_NEED_MACHINE = 1, /* it is built: nothing more */
	VM_NEED_LIVE = 2, /* it has not ended */
	VM_NEED_RUNNING = 4, /* and is not paused */
	VM_NEED_UNMOVED = 8, /* no migration of it is under way */
	VM_NEED_OURS = 16, /* vm_owner: it is here, with its disks */
	VM_NEED_LOOSE = 32, /* it does not stand still for a migration */
	VM_NEED_WHOLE = 64, /* no page of it is still to come */
	VM_NEED_LINKED =
		128, /* or none whose connection is broken: nobody waits for one that does not come */
	VM_NEED_UNSNAPPED = 256, /* no snapshot of it is being written */
	VM_NEED_STEADY = 512, /* it is not about to end or to reboot */
};

/* 0, or -EBUSY with what is in the way and what to do about it. `needs`: bits. */
int vm_need(const struct vm *vm, unsigned needs, struct err *e);
/* Of one bit, in a word, for docs; NULL: there is no such. */
const char *vm_need_name(unsigned bit);

#endif
