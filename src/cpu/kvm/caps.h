/*
 * caps.h: what this host's KVM can do. Found out once for each VM, when it is made; every use of the rest of the engine asks here.
 *
 * The table (caps.c) says for each capability what it is for and which way is gone without it. docs/kvm-engine.md is written from it.
 */
#ifndef LODGE_CPU_KVM_CAPS_H
#define LODGE_CPU_KVM_CAPS_H

#include <stdbool.h>

#include "cpu/kvm/sys.h"

struct err;
struct log;

enum kvm_cap_id {
	/* needed */
	KC_USER_MEMORY,
	KC_IRQCHIP,
	KC_EXT_CPUID,
	KC_IMMEDIATE_EXIT,
	KC_MP_STATE,
	KC_VCPU_EVENTS,
	KC_DEBUGREGS,
	KC_IRQ_ROUTING,
	KC_SIGNAL_MSI,
	/* used where present */
	KC_READONLY_MEM,
	KC_NR_MEMSLOTS,
	KC_MAX_VCPUS,
	KC_MAX_VCPU_ID,
	KC_SPLIT_IRQCHIP,
	KC_PIT2,
	KC_PIT_STATE2,
	KC_SYNC_REGS,
	KC_XSAVE,
	KC_XSAVE2,
	KC_XCRS,
	KC_SREGS2,
	KC_ADJUST_CLOCK,
	KC_KVMCLOCK_CTRL,
	KC_TSC_DEADLINE,
	KC_GET_TSC_KHZ,
	KC_TSC_CONTROL,
	KC_EXCEPTION_PAYLOAD,
	KC_TRIPLE_FAULT_EVENT,
	KC_X2APIC_API,
	KC_IRQFD,
	KC_IOEVENTFD,
	KC_IOEVENTFD_ANY,
	KC_DIRTY_RING,
	KC_DIRTY_PROTECT2,
	KC_EXIT_ON_EMULATION_FAILURE,
	KC_USER_SPACE_MSR,
	KC_MSR_FILTER,
	KC_GUEST_DEBUG,
	KC_DISABLE_EXITS,
	KC_HALT_POLL,
	KC_STEAL_TIME,
	KC_MEMORY_FAULT_INFO,
	KC_PRE_FAULT,
	KC_VCPU_ATTRIBUTES,
	KC_GUEST_MEMFD,
	KC_GUEST_MEMFD_FLAGS,
	KC_SYNC_MMU,
	KC_N
};

struct kvm_caps {
	int v[KC_N]; /* what KVM_CHECK_EXTENSION said; 0: not there */
};

struct kvm_cap_row {
	int nr;
	bool needed;
	const char *name; /* as in the kernel's documentation */
	const char *serves; /* what for */
	const char *without; /* what is done without it */
};

/* Row `i`, or NULL beyond the last. */
const struct kvm_cap_row *kvm_cap_row(unsigned i);

/* Opens /dev/kvm and checks the version. The descriptor is the caller's. */
int kvm_host_open(const struct kvm_sys *sys, int *fd, struct err *e);
/* Asks for all of them; -ENOTSUP names the first needed one that is missing. `fd`: the device's or a VM's. */
int kvm_caps_read(const struct kvm_sys *sys, int fd, struct kvm_caps *out, struct err *e);

/* cpu_engine_ops.features */
int kvm_features(void (*each)(void *ctx, const char *name, int value, const char *serves,
			 const char *without),
	void *ctx, struct err *e);

static inline bool kvm_has(const struct kvm_caps *c, enum kvm_cap_id id)
{
	return c->v[id] > 0;
}

#endif
