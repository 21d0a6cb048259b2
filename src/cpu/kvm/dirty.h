/*
 * dirty.h: writes of guests, for write tracking (memory/space.h). Three ways, of which one is on at a time:
 *
 *   bitmap  KVM's log of each slot, fetched and re-armed when a tracker collects
 *   ring    a ring of page numbers for each vCPU; what a collect costs depends on what was written, not on how much memory there is. A vCPU
 *           whose ring is full empties all
 *   hook    a tracker wants to be asked before a page is written (tracker_ops.before): KVM's logs tell only afterwards, so the pages are
 *           write-protected in this process' own map (userfaultfd), and the first writer of each waits for the hook
 *
 * Which of the first two is an option (cpu_vm_opts.dirty); the third takes their place while a tracker has a hook.
 *
 * Threads. The VM's lock serialises changes of slots and of the way. The thread that serves faults takes hook_lock alone, because a vCPU
 * that waits for it may be waited for by somebody who holds the VM's lock. Order: VM's lock, hook_lock.
 */
#ifndef LODGE_CPU_KVM_DIRTY_H
#define LODGE_CPU_KVM_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct kvm_slot;
struct kvm_vcpu;
struct kvm_vm;

/* When the VM is made, before its vCPUs; and of each vCPU: maps its ring. */
int kvm_dirty_init(struct kvm_vm *vm, struct err *e);
int kvm_dirty_vcpu(struct kvm_vcpu *c, struct err *e);
void kvm_dirty_vcpu_free(struct kvm_vcpu *c);
void kvm_dirty_free(struct kvm_vm *vm);

/* Do slots log? With the VM's lock. */
bool kvm_dirty_on(const struct kvm_vm *vm);
/* The slot is about to be removed: takes what it logged. With the VM's lock, vCPUs outside. */
void kvm_dirty_slot_goes(struct kvm_vm *vm, const struct kvm_slot *s);
/* The table of slots is another one. With the VM's lock. */
void kvm_dirty_slots_changed(struct kvm_vm *vm);
/* Trackers have re-armed pages: protects again where that is the way. With the VM's lock. */
void kvm_dirty_rearm(struct kvm_vm *vm, uint64_t addr, uint64_t len);

/* KVM_EXIT_DIRTY_RING_FULL: empties every ring into the trackers. In the vCPU's thread, which is outside KVM_RUN. */
void kvm_dirty_ring_full(struct kvm_vcpu *c);

#endif
