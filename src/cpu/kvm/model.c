/*
 * model.c: what CPUID says to a guest.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cpu/kvm/priv.h"

int kvm_model_init(struct kvm_vm *vm, struct err *e)
{
	int rc;

	vm->cpuid = calloc(1, sizeof(*vm->cpuid));
	if (!vm->cpuid)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	vm->cpuid->head.nent = KVM_CPUID_MAX;
	rc = vm->sys.ioctl(vm->sys.ctx, vm->dev, KVM_GET_SUPPORTED_CPUID, KVM_PTR(vm->cpuid));
	if (rc < 0)
		return kvm_fail(e, rc, KVM_GET_SUPPORTED_CPUID, "CPU model");
	snprintf(vm->model, sizeof(vm->model), "host");
	return 0;
}

int kvm_cpuid_for(struct kvm_vm *vm, unsigned index, struct kvm_leaves *out)
{
	unsigned id = kvm_apic_id((struct cpu_vm *)vm, index);

	*out = *vm->cpuid;
	for (unsigned i = 0; i < out->head.nent; i++) {
		struct kvm_cpuid_entry2 *c = &out->entry[i];

		if (c->function == 1)
			c->ebx = (c->ebx & 0xffffff) | id << 24;
	}
	return 0;
}

void kvm_model_digest(struct kvm_vm *vm, uint8_t out[32])
{
	memset(out, 0, 32);
}

unsigned kvm_apic_id(struct cpu_vm *v, unsigned index)
{
	return index;
}
