#include "cpu/kvm/dirty.h"

#include "cpu/kvm/priv.h"

bool kvm_dirty_on(const struct kvm_vm *vm)
{
	return false;
}

void kvm_dirty_slot_goes(struct kvm_vm *vm, const struct kvm_slot *s)
{
}

void kvm_dirty_ring_full(struct kvm_vcpu *c)
{
}
