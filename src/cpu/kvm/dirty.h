/*
 * dirty.h: writes of guests, for write tracking (memory/space.h).
 */
#ifndef LODGE_CPU_KVM_DIRTY_H
#define LODGE_CPU_KVM_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

struct kvm_slot;
struct kvm_vcpu;
struct kvm_vm;

/* Is anything tracked: do slots log? With the VM's lock. */
bool kvm_dirty_on(const struct kvm_vm *vm);
/* The slot is about to be removed: takes what it logged. With the VM's lock, vCPUs outside. */
void kvm_dirty_slot_goes(struct kvm_vm *vm, const struct kvm_slot *s);

/* KVM_EXIT_DIRTY_RING_FULL: empties every ring into the trackers. In the vCPU's thread, which is outside KVM_RUN. */
void kvm_dirty_ring_full(struct kvm_vcpu *c);

#endif
