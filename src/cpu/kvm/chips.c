/*
 * chips.c: the machine's state that no single vCPU owns: interrupt controllers, i8254, clock.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "cpu/kvm/ioapic.h"
#include "cpu/kvm/priv.h"

static void pic_from(struct kvm_i_pic *o, const struct kvm_pic_state *k)
{
	*o = (struct kvm_i_pic){k->last_irr, k->irr, k->imr, k->isr, k->priority_add, k->irq_base,
		k->read_reg_select, k->poll, k->special_mask, k->init_state, k->auto_eoi,
		k->rotate_on_auto_eoi, k->special_fully_nested_mode, k->init4, k->elcr,
		k->elcr_mask};
}

static void pic_to(struct kvm_pic_state *k, const struct kvm_i_pic *o)
{
	*k = (struct kvm_pic_state){.last_irr = o->last_irr,
		.irr = o->irr,
		.imr = o->imr,
		.isr = o->isr,
		.priority_add = o->priority_add,
		.irq_base = o->irq_base,
		.read_reg_select = o->read_reg_select,
		.poll = o->poll,
		.special_mask = o->special_mask,
		.init_state = o->init_state,
		.auto_eoi = o->auto_eoi,
		.rotate_on_auto_eoi = o->rotate_on_auto_eoi,
		.special_fully_nested_mode = o->special_fully_nested_mode,
		.init4 = o->init4,
		.elcr = o->elcr,
		.elcr_mask = o->elcr_mask};
}

/* When a channel was loaded is said in the host's monotonic time; saved is how long ago that is. */
static void pit_from(struct kvm_i_pit *o, const struct kvm_pit_channel_state *k, int64_t now)
{
	*o = (struct kvm_i_pit){k->count, k->latched_count, k->count_latched, k->status_latched,
		k->status, k->read_state, k->write_state, k->write_latch, k->rw_mode, k->mode,
		k->bcd, k->gate, now - k->count_load_time};
}

static void pit_to(struct kvm_pit_channel_state *k, const struct kvm_i_pit *o, int64_t now)
{
	*k = (struct kvm_pit_channel_state){.count = o->count,
		.latched_count = o->latched_count,
		.count_latched = o->count_latched,
		.status_latched = o->status_latched,
		.status = o->status,
		.read_state = o->read_state,
		.write_state = o->write_state,
		.write_latch = o->write_latch,
		.rw_mode = o->rw_mode,
		.mode = o->mode,
		.bcd = o->bcd,
		.gate = o->gate,
		.count_load_time = (int64_t)((uint64_t)now - (uint64_t)o->count_load_time)};
}

static int full_get(struct kvm_vm *vm, struct kvm_chips *ch, struct err *e)
{
	struct kvm_irqchip k;
	int rc;

	for (unsigned id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
		memset(&k, 0, sizeof(k));
		k.chip_id = id;
		rc = kvm_vm_ioctl(vm, KVM_GET_IRQCHIP, KVM_PTR(&k));
		if (rc < 0)
			return kvm_fail(e, rc, KVM_GET_IRQCHIP, "interrupt controllers");
		if (id != KVM_IRQCHIP_IOAPIC) {
			pic_from(&ch->pic[id - KVM_IRQCHIP_PIC_MASTER], &k.chip.pic);
			continue;
		}
		ch->ioapic.base = k.chip.ioapic.base_address;
		ch->ioapic.ioregsel = k.chip.ioapic.ioregsel;
		ch->ioapic.id = k.chip.ioapic.id;
		ch->ioapic.irr = k.chip.ioapic.irr;
		for (unsigned i = 0; i < KVM_PINS; i++)
			ch->ioapic.redirect[i] = k.chip.ioapic.redirtbl[i].bits;
	}
	return 0;
}

static int full_put(struct kvm_vm *vm, const struct kvm_chips *ch, struct err *e)
{
	struct kvm_irqchip k;
	int rc;

	for (unsigned id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
		memset(&k, 0, sizeof(k));
		k.chip_id = id;
		if (id != KVM_IRQCHIP_IOAPIC) {
			pic_to(&k.chip.pic, &ch->pic[id - KVM_IRQCHIP_PIC_MASTER]);
		} else {
			k.chip.ioapic.base_address = ch->ioapic.base;
			k.chip.ioapic.ioregsel = ch->ioapic.ioregsel;
			k.chip.ioapic.id = ch->ioapic.id;
			k.chip.ioapic.irr = ch->ioapic.irr;
			for (unsigned i = 0; i < KVM_PINS; i++)
				k.chip.ioapic.redirtbl[i].bits = ch->ioapic.redirect[i];
		}
		rc = kvm_vm_ioctl(vm, KVM_SET_IRQCHIP, KVM_PTR(&k));
		if (rc < 0)
			return kvm_fail(e, rc, KVM_SET_IRQCHIP, "interrupt controllers");
	}
	kvm_pins_forget(vm);
	return 0;
}

static int pit_get(struct kvm_vm *vm, struct kvm_chips *ch, struct err *e)
{
	struct kvm_pit_state2 k;
	int rc = kvm_vm_ioctl(vm, KVM_GET_PIT2, KVM_PTR(&k));

	if (rc < 0)
		return kvm_fail(e, rc, KVM_GET_PIT2, "i8254");
	for (unsigned i = 0; i < 3; i++)
		pit_from(&ch->pit[i], &k.channels[i], (int64_t)clock_mono_ns());
	ch->pit_flags = k.flags;
	return 0;
}

static int pit_put(struct kvm_vm *vm, const struct kvm_chips *ch, struct err *e)
{
	struct kvm_pit_state2 k;
	int rc;

	memset(&k, 0, sizeof(k));
	for (unsigned i = 0; i < 3; i++)
		pit_to(&k.channels[i], &ch->pit[i], (int64_t)clock_mono_ns());
	k.flags = ch->pit_flags;
	rc = kvm_vm_ioctl(vm, KVM_SET_PIT2, KVM_PTR(&k));
	return rc < 0 ? kvm_fail(e, rc, KVM_SET_PIT2, "i8254") : 0;
}

int kvm_chips_get(struct kvm_vm *vm, struct kvm_chips *ch, struct err *e)
{
	int rc = 0;

	if (!ch->cpuid)
		ch->cpuid = calloc(KVM_IMAGE_LEAVES, sizeof(*ch->cpuid));
	ch->whole = false;
	if (!ch->cpuid)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	ch->split = vm->split;
	ch->has_pit = vm->has_pit;
	if (vm->split)
		ioapic_get(vm->ioapic, &ch->ioapic);
	else
		rc = full_get(vm, ch, e);
	if (!rc && vm->has_pit)
		rc = pit_get(vm, ch, e);
	ch->clock_ns = kvm_clock(vm);
	memcpy(ch->model, vm->model, sizeof(ch->model));
	kvm_leaves_save(vm, ch->cpuid, &ch->ncpuid);
	ch->whole = !rc;
	return rc;
}

int kvm_chips_put(struct kvm_vm *vm, const struct kvm_chips *ch, struct err *e)
{
	int rc = 0;

	if (ch->split != vm->split)
		return err_set(e, -ENOTSUP,
			"interrupt controllers: the saved machine has them %s, this one %s",
			ch->split ? "split" : "in the kernel",
			vm->split ? "split" : "in the kernel");
	if (vm->split)
		ioapic_put(vm->ioapic, &ch->ioapic);
	else
		rc = full_put(vm, ch, e);
	if (!rc && ch->has_pit && vm->has_pit)
		rc = pit_put(vm, ch, e);
	if (!rc)
		kvm_clock_set(vm, ch->clock_ns);
	return rc;
}

/* To what they were when they were made; the clock goes on. */
int kvm_chips_reset(struct kvm_vm *vm, struct err *e)
{
	int rc = 0;

	if (vm->split)
		ioapic_reset(vm->ioapic);
	else
		rc = full_put(vm, &vm->pristine, e);
	return !rc && vm->has_pit ? pit_put(vm, &vm->pristine, e) : rc;
}

/* ---- kvmclock ---- */

static uint64_t read_clock(struct kvm_vm *vm)
{
	struct kvm_clock_data d;

	memset(&d, 0, sizeof(d));
	if (!kvm_has(&vm->caps, KC_ADJUST_CLOCK) ||
		kvm_vm_ioctl(vm, KVM_GET_CLOCK, KVM_PTR(&d)) < 0)
		return clock_mono_ns();
	return d.clock;
}

uint64_t kvm_clock(struct kvm_vm *vm)
{
	return vm->time_stopped ? vm->stopped_clock : read_clock(vm);
}

static void write_clock(struct kvm_vm *vm, uint64_t ns)
{
	struct kvm_clock_data d = {.clock = ns};

	if (kvm_has(&vm->caps, KC_ADJUST_CLOCK))
		kvm_vm_ioctl(vm, KVM_SET_CLOCK, KVM_PTR(&d));
}

void kvm_clock_set(struct kvm_vm *vm, uint64_t ns)
{
	vm->stopped_clock = ns;
	if (!vm->time_stopped)
		write_clock(vm, ns);
}

static uint64_t ticks(const struct kvm_vm *vm, uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * (vm->o.timebase_hz ?: 1000000000u) / 1000000000u);
}

uint64_t kvm_time_get(struct cpu_vm *v)
{
	return ticks(kvm_vm_of(v), kvm_clock(kvm_vm_of(v)));
}

void kvm_time_set(struct cpu_vm *v, uint64_t t)
{
	struct kvm_vm *vm = kvm_vm_of(v);

	uint64_t ns = (uint64_t)((unsigned __int128)t * 1000000000u /
				 (vm->o.timebase_hz ?: 1000000000u));
	int64_t moved = (int64_t)(ns - kvm_clock(vm));

	kvm_clock_set(vm, ns);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		kvm_tsc_move(vm->vcpus[i], moved);
}

void kvm_time_stop(struct cpu_vm *v)
{
	struct kvm_vm *vm = kvm_vm_of(v);

	if (vm->time_stopped)
		return;
	vm->stopped_clock = read_clock(vm);
	vm->time_stopped = true;
}

void kvm_time_start(struct cpu_vm *v)
{
	struct kvm_vm *vm = kvm_vm_of(v);

	if (!vm->time_stopped)
		return;
	vm->time_stopped = false;
	write_clock(vm, vm->stopped_clock);
	/* -EINVAL: that vCPU's guest has no kvmclock on, so there is nothing to tell. */
	for (unsigned i = 0; kvm_has(&vm->caps, KC_KVMCLOCK_CTRL) && i < vm->nvcpus; i++)
		kvm_vcpu_ioctl(vm->vcpus[i], KVM_KVMCLOCK_CTRL, 0);
}
