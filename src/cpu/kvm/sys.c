#include "cpu/kvm/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"

static int host_open(void *ctx, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int host_ioctl(void *ctx, int fd, unsigned long nr, uintptr_t arg)
{
	int rc = ioctl(fd, nr, arg);

	return rc < 0 ? -errno : rc;
}

static int host_map(void *ctx, int fd, size_t len, uint64_t off, void **out)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)off);

	if (p == MAP_FAILED)
		return -errno;
	*out = p;
	return 0;
}

static void host_unmap(void *ctx, void *p, size_t len)
{
	munmap(p, len);
}

static void host_close(void *ctx, int fd)
{
	close(fd);
}

const struct kvm_sys kvm_sys_host = {host_open, host_ioctl, host_map, host_unmap, host_close, NULL};

#define NAME(nr) \
	{ \
		nr, #nr \
	}
static const struct {
	unsigned long nr;
	const char *name;
} names[] = {
	NAME(KVM_GET_API_VERSION),
	NAME(KVM_CREATE_VM),
	NAME(KVM_CHECK_EXTENSION),
	NAME(KVM_GET_VCPU_MMAP_SIZE),
	NAME(KVM_GET_SUPPORTED_CPUID),
	NAME(KVM_GET_MSR_INDEX_LIST),
	NAME(KVM_CREATE_VCPU),
	NAME(KVM_SET_USER_MEMORY_REGION),
	NAME(KVM_SET_TSS_ADDR),
	NAME(KVM_SET_IDENTITY_MAP_ADDR),
	NAME(KVM_CREATE_IRQCHIP),
	NAME(KVM_CREATE_PIT2),
	NAME(KVM_ENABLE_CAP),
	NAME(KVM_SET_GSI_ROUTING),
	NAME(KVM_IRQ_LINE),
	NAME(KVM_SIGNAL_MSI),
	NAME(KVM_IRQFD),
	NAME(KVM_IOEVENTFD),
	NAME(KVM_NMI),
	NAME(KVM_RUN),
	NAME(KVM_GET_REGS),
	NAME(KVM_SET_REGS),
	NAME(KVM_GET_SREGS),
	NAME(KVM_SET_SREGS),
	NAME(KVM_GET_SREGS2),
	NAME(KVM_SET_SREGS2),
	NAME(KVM_GET_FPU),
	NAME(KVM_SET_FPU),
	NAME(KVM_GET_XSAVE),
	NAME(KVM_SET_XSAVE),
	NAME(KVM_GET_XSAVE2),
	NAME(KVM_GET_XCRS),
	NAME(KVM_SET_XCRS),
	NAME(KVM_GET_MSRS),
	NAME(KVM_SET_MSRS),
	NAME(KVM_GET_LAPIC),
	NAME(KVM_SET_LAPIC),
	NAME(KVM_GET_VCPU_EVENTS),
	NAME(KVM_SET_VCPU_EVENTS),
	NAME(KVM_GET_MP_STATE),
	NAME(KVM_SET_MP_STATE),
	NAME(KVM_GET_DEBUGREGS),
	NAME(KVM_SET_DEBUGREGS),
	NAME(KVM_SET_CPUID2),
	NAME(KVM_GET_TSC_KHZ),
	NAME(KVM_SET_TSC_KHZ),
	NAME(KVM_GET_IRQCHIP),
	NAME(KVM_SET_IRQCHIP),
	NAME(KVM_GET_PIT2),
	NAME(KVM_SET_PIT2),
	NAME(KVM_GET_CLOCK),
	NAME(KVM_SET_CLOCK),
	NAME(KVM_KVMCLOCK_CTRL),
	NAME(KVM_GET_DEVICE_ATTR),
	NAME(KVM_SET_DEVICE_ATTR),
	NAME(KVM_GET_DIRTY_LOG),
	NAME(KVM_CLEAR_DIRTY_LOG),
	NAME(KVM_RESET_DIRTY_RINGS),
	NAME(KVM_TRANSLATE),
	NAME(KVM_SET_GUEST_DEBUG),
	NAME(KVM_X86_SET_MSR_FILTER),
};

const char *kvm_sys_name(unsigned long nr)
{
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].nr == nr)
			return names[i].name;
	return "ioctl";
}
