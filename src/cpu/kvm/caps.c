#include "cpu/kvm/caps.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

/* Newer than the oldest header that Lodge is built with (Linux 6.1); numbers from the kernel's API documentation. */
#define CAP_MEMORY_FAULT_INFO 232
#define CAP_GUEST_MEMFD 234
#define CAP_PRE_FAULT_MEMORY 236
#define CAP_GUEST_MEMFD_FLAGS 244

#define ROW(id, cap, need, serves_, without_) \
	[id] = {.nr = cap, .needed = need, .name = #cap, .serves = serves_, .without = without_}

static const struct kvm_cap_row rows[KC_N] = {
	ROW(KC_USER_MEMORY, KVM_CAP_USER_MEMORY, true, "guest memory", "refused"),
	ROW(KC_IRQCHIP, KVM_CAP_IRQCHIP, true, "local APICs in the kernel", "refused"),
	ROW(KC_EXT_CPUID, KVM_CAP_EXT_CPUID, true, "CPU models", "refused"),
	ROW(KC_IMMEDIATE_EXIT, KVM_CAP_IMMEDIATE_EXIT, true, "kicks without a race", "refused"),
	ROW(KC_MP_STATE, KVM_CAP_MP_STATE, true, "state: halted, waiting for SIPI", "refused"),
	ROW(KC_VCPU_EVENTS, KVM_CAP_VCPU_EVENTS, true, "state: pending events", "refused"),
	ROW(KC_DEBUGREGS, KVM_CAP_DEBUGREGS, true, "state: debug registers", "refused"),
	ROW(KC_IRQ_ROUTING, KVM_CAP_IRQ_ROUTING, true, "pins and messages: where they go",
		"refused"),
	ROW(KC_SIGNAL_MSI, KVM_CAP_SIGNAL_MSI, true, "messages of devices", "refused"),
	ROW(KC_READONLY_MEM, KVM_CAP_READONLY_MEM, false, "pages that may only be read",
		"not mapped: each access leaves the guest"),
	ROW(KC_NR_MEMSLOTS, KVM_CAP_NR_MEMSLOTS, false, "number of memory slots", "32"),
	ROW(KC_MAX_VCPUS, KVM_CAP_MAX_VCPUS, false, "number of vCPUs", "4"),
	ROW(KC_MAX_VCPU_ID, KVM_CAP_MAX_VCPU_ID, false, "highest APIC id", "number of vCPUs"),
	ROW(KC_SPLIT_IRQCHIP, KVM_CAP_SPLIT_IRQCHIP, false, "IOAPIC in this process",
		"all controllers in the kernel"),
	ROW(KC_PIT2, KVM_CAP_PIT2, false, "i8254 timer", "none: guests use the local APIC's"),
	ROW(KC_PIT_STATE2, KVM_CAP_PIT_STATE2, false, "state of the i8254", "no i8254"),
	ROW(KC_SYNC_REGS, KVM_CAP_SYNC_REGS, false, "rip at each exit without a call",
		"rip is read when it is asked for (errors, stops)"),
	ROW(KC_XSAVE, KVM_CAP_XSAVE, false, "state: extended registers",
		"KVM_GET_FPU: x87 and SSE only; AVX is taken from the CPU model"),
	ROW(KC_XSAVE2, KVM_CAP_XSAVE2, false, "state: extended registers above 4 KiB",
		"KVM_GET_XSAVE"),
	ROW(KC_XCRS, KVM_CAP_XCRS, false, "state: XCR0", "XCR0 does not exist there"),
	ROW(KC_SREGS2, KVM_CAP_SREGS2, false, "state: PDPTRs exactly",
		"KVM_GET_SREGS: the kernel reads them again"),
	ROW(KC_ADJUST_CLOCK, KVM_CAP_ADJUST_CLOCK, false, "the guest's clock stands in pauses",
		"it goes on"),
	ROW(KC_KVMCLOCK_CTRL, KVM_CAP_KVMCLOCK_CTRL, false,
		"guests are told of pauses (no false lockup reports)", "they are not told"),
	ROW(KC_TSC_DEADLINE, KVM_CAP_TSC_DEADLINE_TIMER, false, "TSC deadline timer",
		"not in CPUID"),
	ROW(KC_GET_TSC_KHZ, KVM_CAP_GET_TSC_KHZ, false, "state: TSC frequency", "not saved"),
	ROW(KC_TSC_CONTROL, KVM_CAP_TSC_CONTROL, false, "TSC frequency of another host",
		"a machine from a host with another frequency is refused"),
	ROW(KC_EXCEPTION_PAYLOAD, KVM_CAP_EXCEPTION_PAYLOAD, false, "state: pending #PF and #DB",
		"pending exceptions are saved as injected"),
	ROW(KC_TRIPLE_FAULT_EVENT, KVM_CAP_X86_TRIPLE_FAULT_EVENT, false,
		"state: a triple fault not yet reported", "it happens again after load"),
	ROW(KC_X2APIC_API, KVM_CAP_X2APIC_API, false, "32-bit APIC ids", "ids up to 254"),
	ROW(KC_IRQFD, KVM_CAP_IRQFD, false,
		"interrupts from other processes (no device of Lodge's needs it yet)",
		"-EOPNOTSUPP: this process raises them"),
	ROW(KC_IOEVENTFD, KVM_CAP_IOEVENTFD, false,
		"doorbells to other processes (no device of Lodge's needs it yet)",
		"-EOPNOTSUPP: the bus serves them"),
	ROW(KC_IOEVENTFD_ANY, KVM_CAP_IOEVENTFD_ANY_LENGTH, false, "doorbells of any width",
		"-EOPNOTSUPP: the bus serves them"),
	ROW(KC_DIRTY_RING, KVM_CAP_DIRTY_LOG_RING, false, "write tracking by rings", "bitmaps"),
	ROW(KC_DIRTY_PROTECT2, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, false,
		"bitmaps: protect only what was taken", "one call takes and protects"),
	ROW(KC_EXIT_ON_EMULATION_FAILURE, KVM_CAP_EXIT_ON_EMULATION_FAILURE, false,
		"failed emulation is reported with its bytes", "the guest may take #UD instead"),
	ROW(KC_USER_SPACE_MSR, KVM_CAP_X86_USER_SPACE_MSR, false, "filtered MSRs come out",
		"the guest takes #GP"),
	ROW(KC_MSR_FILTER, KVM_CAP_X86_MSR_FILTER, false, "MSRs that guests may not touch",
		"what the CPU model leaves out is all there is"),
	ROW(KC_GUEST_DEBUG, KVM_CAP_SET_GUEST_DEBUG, false, "debuggers", "-ENOTSUP"),
	ROW(KC_DISABLE_EXITS, KVM_CAP_X86_DISABLE_EXITS, false, "PAUSE stays inside",
		"it may leave"),
	ROW(KC_HALT_POLL, KVM_CAP_HALT_POLL, false, "how long a halted vCPU is polled for",
		"the host's setting"),
	ROW(KC_STEAL_TIME, KVM_CAP_STEAL_TIME, false, "steal time", "not in CPUID"),
	ROW(KC_MEMORY_FAULT_INFO, CAP_MEMORY_FAULT_INFO, false,
		"failed accesses to guest memory say where", "only that one failed"),
	ROW(KC_PRE_FAULT, CAP_PRE_FAULT_MEMORY, false, "second-level tables filled ahead",
		"filled at first touch"),
	ROW(KC_VCPU_ATTRIBUTES, KVM_CAP_VCPU_ATTRIBUTES, false,
		"the guest's TSC moves on with its other clocks", "it stands still in a move"),
	ROW(KC_GUEST_MEMFD, CAP_GUEST_MEMFD, false,
		"not used: it cannot be mapped copy-on-write, nor go to another machine of KVM",
		"a memory file, as with it"),
	ROW(KC_GUEST_MEMFD_FLAGS, CAP_GUEST_MEMFD_FLAGS, false,
		"not used: guest_memfd that this process can map", "a memory file, as with it"),
	ROW(KC_SYNC_MMU, KVM_CAP_SYNC_MMU, false, "pages given back and protected while running",
		"refused"),
};

const struct kvm_cap_row *kvm_cap_row(unsigned i)
{
	return i < KC_N ? &rows[i] : NULL;
}

int kvm_host_open(const struct kvm_sys *sys, int *out, struct err *e)
{
	int fd = sys->open(sys->ctx, "/dev/kvm");
	int version;

	if (fd == -ENOENT || fd == -ENODEV || fd == -ENXIO)
		return err_set(e, fd,
			"engine kvm: this host has no /dev/kvm: load kvm_intel or kvm_amd, or "
			"switch on "
			"virtualization in its firmware");
	if (fd == -EACCES || fd == -EPERM)
		return err_set(e, fd,
			"engine kvm: no permission to open /dev/kvm: join the group that owns it "
			"(kvm)");
	if (fd < 0)
		return err_sys(e, fd, "engine kvm: /dev/kvm");
	version = sys->ioctl(sys->ctx, fd, KVM_GET_API_VERSION, 0);
	if (version == KVM_API_VERSION) {
		*out = fd;
		return 0;
	}
	sys->close(sys->ctx, fd);
	if (version < 0)
		return err_sys(e, version, "engine kvm: /dev/kvm does not say its version");
	return err_set(e, -ENOTSUP, "engine kvm: /dev/kvm speaks version %d, Lodge speaks %d",
		version, KVM_API_VERSION);
}

int kvm_features(void (*each)(void *ctx, const char *name, int value, const char *serves,
			 const char *without),
	void *ctx, struct err *e)
{
	const struct kvm_sys *sys = &kvm_sys_host;
	struct kvm_caps caps;
	int fd, rc = kvm_host_open(sys, &fd, e);

	if (rc)
		return rc;
	rc = kvm_caps_read(sys, fd, &caps, e);
	sys->close(sys->ctx, fd);
	for (unsigned i = 0; !rc && i < KC_N; i++)
		if (!rows[i].needed)
			each(ctx, strstr(rows[i].name, "CAP_") + 4, caps.v[i], rows[i].serves,
				rows[i].without);
	return rc;
}

int kvm_caps_read(const struct kvm_sys *sys, int fd, struct kvm_caps *out, struct err *e)
{
	for (unsigned i = 0; i < KC_N; i++) {
		int v = sys->ioctl(sys->ctx, fd, KVM_CHECK_EXTENSION, (uintptr_t)rows[i].nr);

		/* An error is a "no": kernels differ in which they give for numbers that they do not know. */
		out->v[i] = MAX(v, 0);
		if (rows[i].needed && !out->v[i])
			return err_set(e, -ENOTSUP, "engine kvm: this host's KVM has no %s (%s)",
				rows[i].name, rows[i].serves);
	}
	return 0;
}
