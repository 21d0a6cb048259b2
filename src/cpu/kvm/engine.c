/*
 * engine.c: the kvm engine behind the contract of cpu/cpu.h: life, and the table of calls.
 *
 *   vm_create: open, capabilities, VM, CPU model, controllers, slots    each undone in reverse when a later one fails
 *   vcpu_create: vCPU, shared page, CPUID, which MSRs there are, reset state
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "cpu/kvm/dirty.h"
#include "cpu/kvm/ioapic.h"
#include "cpu/kvm/priv.h"
#include "cpu/kvm/probe.h"

int kvm_vm_ioctl(struct kvm_vm *vm, unsigned long nr, uintptr_t arg)
{
	int rc;

	do
		rc = vm->sys.ioctl(vm->sys.ctx, vm->fd, nr, arg);
	while (rc == -EINTR);
	return rc;
}

int kvm_vcpu_ioctl(const struct kvm_vcpu *c, unsigned long nr, uintptr_t arg)
{
	const struct kvm_sys *s = &c->vm->sys;
	int rc;

	do
		rc = s->ioctl(s->ctx, c->fd, nr, arg);
	while (rc == -EINTR && nr != KVM_RUN);
	return rc;
}

int kvm_fail(struct err *e, int rc, unsigned long nr, const char *what)
{
	return err_sys(e, rc, "engine kvm: %s: %s", what, kvm_sys_name(nr));
}

int kvm_enable_cap(struct kvm_vm *vm, unsigned cap, uint64_t a0)
{
	struct kvm_enable_cap c = {.cap = cap, .args = {a0}};

	return kvm_vm_ioctl(vm, KVM_ENABLE_CAP, KVM_PTR(&c));
}

void kvm_break(struct kvm_vm *vm, const char *fmt, ...)
{
	char text[KVM_TEXT];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_error(vm->o.log, "kvm", "%s", text);
	pthread_mutex_lock(&vm->gate_lock);
	if (!vm->broken) {
		memcpy(vm->text, text, sizeof(vm->text));
		atomic_store(&vm->broken, true);
	}
	pthread_mutex_unlock(&vm->gate_lock);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		kvm_kick((struct vcpu *)vm->vcpus[i]);
}

/* ---- life of a VM ---- */

static void vcpu_free(struct kvm_vcpu *c)
{
	const struct kvm_sys *s = &c->vm->sys;

	kvm_timer_drop(c);
	kvm_dirty_vcpu_free(c);
	if (c->run)
		s->unmap(s->ctx, c->run, c->vm->run_size);
	if (c->fd >= 0)
		s->close(s->ctx, c->fd);
	kvm_image_free(&c->image);
	kvm_image_free(&c->pristine);
	free(c);
}

static void vm_destroy(struct cpu_vm *v)
{
	struct kvm_vm *vm = kvm_vm_of(v);

	if (!vm)
		return;
	kvm_slots_free(vm);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_free(vm->vcpus[i]);
	kvm_dirty_free(vm);
	kvm_irq_free(vm);
	if (vm->fd >= 0)
		vm->sys.close(vm->sys.ctx, vm->fd);
	if (vm->dev >= 0)
		vm->sys.close(vm->sys.ctx, vm->dev);
	pthread_cond_destroy(&vm->gate_open);
	pthread_cond_destroy(&vm->gate_empty);
	pthread_mutex_destroy(&vm->gate_lock);
	pthread_mutex_destroy(&vm->lock);
	free(vm->cpuid);
	free(vm->chips.cpuid);
	free(vm->pristine.cpuid);
	free(vm->msrs);
	free(vm);
}

static int make_vm(struct kvm_vm *vm, struct err *e)
{
	unsigned tries = 0;
	int rc;

	/* Making a VM waits for the host's processors in a way that a signal interrupts. */
	do
		rc = vm->sys.ioctl(vm->sys.ctx, vm->dev, KVM_CREATE_VM, 0);
	while (rc == -EINTR && ++tries < 1000);
	if (rc < 0)
		return kvm_fail(e, rc, KVM_CREATE_VM,
			rc == -EBUSY ? "another hypervisor has this processor's virtualization"
				     : "the machine");
	vm->fd = rc;
	rc = vm->sys.ioctl(vm->sys.ctx, vm->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (rc < (int)sizeof(struct kvm_run))
		return rc < 0 ? kvm_fail(e, rc, KVM_GET_VCPU_MMAP_SIZE, "the machine")
			      : err_set(e, -EINVAL, "engine kvm: KVM shares %d bytes a vCPU", rc);
	vm->run_size = (size_t)rc;
	/* Some are the VM's to say, and differ from the device's. */
	return kvm_caps_read(&vm->sys, vm->fd, &vm->caps, e);
}

/* On VMX without "unrestricted guest" real mode runs in a task of its own, with pages that the guest must not use. */
static int reserved(struct kvm_vm *vm, struct err *e)
{
	uint64_t map = CPU_X86_RESERVED;
	int rc = kvm_vm_ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, KVM_PTR(&map));

	if (rc < 0)
		return kvm_fail(e, rc, KVM_SET_IDENTITY_MAP_ADDR, "reserved pages");
	rc = kvm_vm_ioctl(vm, KVM_SET_TSS_ADDR, CPU_X86_RESERVED + PAGE_SIZE);
	return rc < 0 ? kvm_fail(e, rc, KVM_SET_TSS_ADDR, "reserved pages") : 0;
}

static int check_opts(const struct kvm_vm *vm, struct err *e)
{
	const struct cpu_vm_opts *o = &vm->o;
	unsigned max = kvm_has(&vm->caps, KC_MAX_VCPUS) ? (unsigned)vm->caps.v[KC_MAX_VCPUS] : 4;

	if (o->clock != CPU_CLOCK_HOST)
		return err_set(e, -ENOTSUP,
			"clock model: only engines that interpret have one; use --clock host");
	max = MIN(max, (unsigned)CPU_MAX_VCPUS);
	if (!o->vcpus || o->vcpus > max)
		return err_set(
			e, -EINVAL, "%u vCPUs: engine kvm can have 1 to %u here", o->vcpus, max);
	return 0;
}

/* How a vCPU that does nothing waits: as the host does, unless it was asked for something else. */
static int idle_policy(struct kvm_vm *vm, struct err *e)
{
	int may = vm->caps.v[KC_DISABLE_EXITS];
	int rc;

	if (vm->o.halt_poll_ns) {
		if (!kvm_has(&vm->caps, KC_HALT_POLL))
			log_info(vm->o.log, "kvm",
				"this host's KVM does not let a machine say how long it polls");
		else if ((rc = kvm_enable_cap(vm, KVM_CAP_HALT_POLL, vm->o.halt_poll_ns)) < 0)
			return kvm_fail(e, rc, KVM_ENABLE_CAP, "halt polling");
	}
	may &= KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_HLT |
	       KVM_X86_DISABLE_EXITS_PAUSE;
	if (!vm->o.own_cpus || !may)
		return 0;
	rc = kvm_enable_cap(vm, KVM_CAP_X86_DISABLE_EXITS, (uint64_t)may);
	return rc < 0 ? kvm_fail(e, rc, KVM_ENABLE_CAP, "waiting inside the guest") : 0;
}

static int build(struct kvm_vm *vm, struct err *e)
{
	int rc = kvm_signal_setup(e);

	if (!rc)
		rc = kvm_host_open(&vm->sys, &vm->dev, e);
	if (!rc)
		rc = kvm_caps_read(&vm->sys, vm->dev, &vm->caps, e);
	if (!rc)
		rc = check_opts(vm, e);
	if (!rc)
		rc = make_vm(vm, e);
	if (!rc)
		rc = reserved(vm, e);
	if (!rc)
		rc = kvm_model_init(vm, e);
	if (!rc)
		rc = kvm_msr_filter(vm, vm->counters, e);
	if (!rc)
		rc = kvm_irq_init(vm, e);
	if (!rc)
		rc = kvm_dirty_init(vm, e);
	if (!rc)
		rc = idle_policy(vm, e);
	if (!rc)
		rc = kvm_slots_init(vm, e);
	return rc;
}

int kvm_vm_create_on(
	struct cpu_vm **out, const struct cpu_vm_opts *o, const struct kvm_sys *sys, struct err *e)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	vm->o = *o;
	vm->sys = *sys;
	vm->dev = vm->fd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->gate_lock, NULL);
	pthread_cond_init(&vm->gate_open, NULL);
	pthread_cond_init(&vm->gate_empty, NULL);
	rc = build(vm, e);
	vm->o.cpu_model = NULL; /* the caller's, and used */
	if (rc) {
		vm_destroy((struct cpu_vm *)vm);
		return rc;
	}
	vm->xsave_size = MAX(kvm_has(&vm->caps, KC_XSAVE2) ? (size_t)vm->caps.v[KC_XSAVE2] : 0,
		sizeof(struct kvm_xsave));
	*out = (struct cpu_vm *)vm;
	return 0;
}

static int vm_create(struct cpu_vm **out, const struct cpu_vm_opts *o, struct err *e)
{
	return kvm_vm_create_on(out, o, &kvm_sys_host, e);
}

int kvm_available_on(const struct kvm_sys *sys, struct err *e)
{
	struct kvm_caps caps;
	int fd;
	int rc = kvm_host_open(sys, &fd, e);

	if (rc)
		return rc;
	rc = kvm_caps_read(sys, fd, &caps, e);
	sys->close(sys->ctx, fd);
	return rc;
}

static int available(struct err *e)
{
	return kvm_available_on(&kvm_sys_host, e);
}

/* ---- life of a vCPU ---- */

static int vcpu_build(struct kvm_vcpu *c, struct err *e)
{
	struct kvm_vm *vm = c->vm;
	cleanup(free_ptr) struct kvm_leaves *cpuid = malloc(sizeof(*cpuid));
	void *run;
	int rc;

	if (!cpuid)
		return err_set(e, -ENOMEM, "out of memory");
	rc = kvm_vm_ioctl(vm, KVM_CREATE_VCPU, kvm_apic_id((struct cpu_vm *)vm, c->head.index));
	if (rc < 0)
		return kvm_fail(e, rc, KVM_CREATE_VCPU, "vCPU");
	c->fd = rc;
	rc = vm->sys.map(vm->sys.ctx, c->fd, vm->run_size, 0, &run);
	if (rc < 0)
		return err_sys(e, rc, "engine kvm: vCPU: shared page");
	c->run = run;
	rc = kvm_dirty_vcpu(c, e);
	if (rc)
		return rc;
	rc = kvm_cpuid_for(vm, c->head.index, cpuid);
	if (!rc)
		rc = kvm_vcpu_ioctl(c, KVM_SET_CPUID2, KVM_PTR(cpuid));
	if (rc < 0)
		return kvm_fail(e, rc, KVM_SET_CPUID2, "CPU model");
	kvm_msr_firmware(c, cpuid);
	rc = vm->msrs ? 0 : kvm_msrs_find(vm, c, e);
	if (!rc)
		rc = kvm_image_get(c, &c->pristine, e);
	if (!rc && !c->head.index)
		rc = kvm_chips_get(vm, &vm->pristine, e);
	return rc;
}

static int vcpu_create(struct vcpu **out, struct cpu_vm *v, unsigned index, struct err *e)
{
	struct kvm_vm *vm = kvm_vm_of(v);
	struct kvm_vcpu *c;
	int rc;

	if (index != vm->nvcpus || index >= vm->o.vcpus)
		return err_set(e, -EINVAL, "vCPU %u: they are made in order, and there are %u",
			index, vm->o.vcpus);
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(e, -ENOMEM, "vCPU %u: out of memory", index);
	c->head = (struct vcpu_head){&kvm_engine, index};
	c->vm = vm;
	c->fd = -1;
	rc = vcpu_build(c, e);
	if (rc) {
		vcpu_free(c);
		return err_wrap(e, "vCPU %u", index);
	}
	vm->vcpus[vm->nvcpus++] = c;
	*out = (struct vcpu *)c;
	return 0;
}

/* ---- what x86 has not ---- */

static void no_irq(struct vcpu *v, enum cpu_irq line, bool level)
{
}

static void no_msi(struct vcpu *v, enum cpu_msi_file file, uint32_t id)
{
}

static void no_mtimecmp(struct vcpu *v, uint64_t when)
{
}

static uint64_t no_mtimecmp_get(struct vcpu *v)
{
	return UINT64_MAX;
}

/* ---- description ---- */

static const struct state_desc *vcpu_state(void)
{
	return &kvm_image_state;
}

static const struct state_desc *vm_state(void)
{
	return &kvm_vm_state;
}

static void *vcpu_state_obj(struct vcpu *v)
{
	return &kvm_vcpu_of(v)->image;
}

static void *vm_state_obj(struct cpu_vm *vm)
{
	return &kvm_vm_of(vm)->chips;
}

static void vcpu_stats(struct vcpu *v, struct cpu_stats *st)
{
	*st = kvm_vcpu_of(v)->stats;
}

static const char *isa_string(struct cpu_vm *vm)
{
	return kvm_vm_of(vm)->model;
}

static const char *mmu_type(struct cpu_vm *vm)
{
	return "x86-64";
}

static unsigned msi_ids(struct cpu_vm *vm)
{
	return 255; /* vectors */
}

static const struct cpu_ioctl *ioctls(unsigned *n)
{
	static const struct cpu_ioctl list[] = {
		{KVM_RUN, "vCPUs run"},
		{KVM_SET_USER_MEMORY_REGION, "views, protection, write tracking"},
		{KVM_GET_DIRTY_LOG, "write tracking"},
		{KVM_CLEAR_DIRTY_LOG, "write tracking"},
		{KVM_RESET_DIRTY_RINGS, "write tracking"},
		{UFFDIO_REGISTER, "write tracking with a copy before the write"},
		{UFFDIO_UNREGISTER, "write tracking with a copy before the write"},
		{UFFDIO_WRITEPROTECT, "write tracking with a copy before the write"},
		{UFFDIO_COPY, "the same on memory of a snapshot"},
		{UFFDIO_WAKE, "the same on memory of a snapshot"},
		{KVM_IRQ_LINE, "interrupts"},
		{KVM_SIGNAL_MSI, "interrupts"},
		{KVM_NMI, "interrupts"},
		{KVM_SET_GSI_ROUTING, "interrupts: MSI-X tables"},
		{KVM_IRQFD, "interrupts: MSI-X tables"},
		{KVM_IOEVENTFD, "doorbells of PCI devices move with their BARs"},
		{KVM_GET_REGS, "save, inspect, debug"},
		{KVM_SET_REGS, "load, reset, debug"},
		{KVM_GET_SREGS, "save, inspect"},
		{KVM_SET_SREGS, "load, reset"},
		{KVM_GET_SREGS2, "save, inspect"},
		{KVM_SET_SREGS2, "load, reset"},
		{KVM_GET_FPU, "save, inspect"},
		{KVM_SET_FPU, "load, reset"},
		{KVM_GET_XSAVE, "save, inspect"},
		{KVM_GET_XSAVE2, "save, inspect"},
		{KVM_SET_XSAVE, "load, reset"},
		{KVM_GET_XCRS, "save, inspect"},
		{KVM_SET_XCRS, "load, reset"},
		{KVM_GET_MSRS, "save, inspect"},
		{KVM_SET_MSRS, "load, reset"},
		{KVM_GET_LAPIC, "save, inspect"},
		{KVM_SET_LAPIC, "load, reset"},
		{KVM_GET_VCPU_EVENTS, "save, inspect"},
		{KVM_SET_VCPU_EVENTS, "load, reset"},
		{KVM_GET_MP_STATE, "save, inspect"},
		{KVM_SET_MP_STATE, "load, reset"},
		{KVM_GET_DEBUGREGS, "save, inspect"},
		{KVM_SET_DEBUGREGS, "load, reset"},
		{KVM_GET_TSC_KHZ, "save, load"},
		{KVM_SET_TSC_KHZ, "load"},
		{KVM_GET_IRQCHIP, "save, inspect"},
		{KVM_SET_IRQCHIP, "load, reset"},
		{KVM_GET_PIT2, "save, inspect"},
		{KVM_SET_PIT2, "load, reset"},
		{KVM_GET_CLOCK, "the guest's clock stands in pauses"},
		{KVM_SET_CLOCK, "the guest's clock stands in pauses"},
		{KVM_KVMCLOCK_CTRL, "guests are told of pauses"},
		{KVM_GET_DEVICE_ATTR, "the guest's TSC goes on after a move"},
		{KVM_SET_DEVICE_ATTR, "the guest's TSC goes on after a move"},
		{KVM_PREFILL, "prefill of second-level tables"},
		{KVM_TRANSLATE, "debug; instruction bytes of a failed emulation"},
		{KVM_SET_GUEST_DEBUG, "debug"},
	};

	*n = ARRAY_SIZE(list);
	return list;
}

const struct cpu_engine_ops kvm_engine = {
	.name = "kvm",
	.isa = "x86-64",
	.available = available,
	.privileged = kvm_privileged,
	.features = kvm_features,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_reset = kvm_reset,
	.vcpu_run = kvm_run_vcpu,
	.vcpu_kick = kvm_kick,
	.vcpu_irq = no_irq,
	.vcpu_msi = no_msi,
	.vcpu_mtimecmp = no_mtimecmp,
	.vcpu_mtimecmp_get = no_mtimecmp_get,
	.time_get = kvm_time_get,
	.time_set = kvm_time_set,
	.time_stop = kvm_time_stop,
	.time_start = kvm_time_start,
	.vcpu_state = vcpu_state,
	.vm_state = vm_state,
	.vcpu_state_obj = vcpu_state_obj,
	.vm_state_obj = vm_state_obj,
	.vcpu_stats = vcpu_stats,
	.vcpu_translate = kvm_translate,
	.vcpu_reg_get = kvm_reg_get,
	.vcpu_reg_set = kvm_reg_set,
	.isa_string = isa_string,
	.mmu_type = mmu_type,
	.msi_ids = msi_ids,
	.idle_inside = true,
	.vm_irq = kvm_irq,
	.vm_msi = kvm_msi,
	.vcpu_nmi = kvm_nmi,
	.doorbell_add = kvm_doorbell_add,
	.doorbell_remove = kvm_doorbell_remove,
	.irqfd_add = kvm_irqfd_add,
	.irqfd_change = kvm_irqfd_change,
	.irqfd_remove = kvm_irqfd_remove,
	.vcpu_hw_id = kvm_apic_id,
	.vm_view = kvm_view,
	.vcpu_debug = kvm_debug,
	.vcpu_prefill = kvm_prefill,
	.ioctls = ioctls,
};
