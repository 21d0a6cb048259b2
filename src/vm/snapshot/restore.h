/*
 * restore.h: what the life cycle (vm.c) does for a machine that came from a snapshot. Both do nothing for others. Loop thread.
 */
#ifndef LODGE_VM_SNAPSHOT_RESTORE_H
#define LODGE_VM_SNAPSHOT_RESTORE_H

struct vm;

/* In the sandbox, right before the vCPUs run: brings in the working set, in a thread of its own. */
void vm_restore_started(struct vm *vm);
void vm_restore_drop(struct vm *vm);

#endif
