/*
 * host.h: what this host's KVM offers to guests: CPUID as KVM would have it.
 */
#ifndef LODGE_CPU_KVM_HOST_H
#define LODGE_CPU_KVM_HOST_H

#include <linux/kvm.h>

#include "cpu/kvm/features.h"
#include "cpu/kvm/sys.h"

#define KVM_CPUID_MAX 256

struct kvm_leaves {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[KVM_CPUID_MAX];
};

/* KVM_GET_SUPPORTED_CPUID; *out is malloc'ed. */
int kvm_supported(const struct kvm_sys *sys, int dev, struct kvm_leaves **out, struct err *e);
/* NULL when it is not there. */
struct kvm_cpuid_entry2 *kvm_leaf(struct kvm_leaves *l, uint32_t function, uint32_t index);
/* 0 eax .. 3 edx */
uint32_t *kvm_leaf_reg(struct kvm_cpuid_entry2 *c, unsigned reg);
struct feature_set kvm_features_of(struct kvm_leaves *l);

#endif
