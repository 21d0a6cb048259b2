/*
 * irq.c: interrupts into the machine, and doorbells out of it.
 *
 *   vm_irq(gsi) --- full: KVM_IRQ_LINE (PIC and IOAPIC in the kernel)
 *               +-- split: ioapic.c --> message
 *   vm_msi      --- KVM_SIGNAL_MSI
 *   irqfd       --- a row of the routing table (a GSI of its own above the pins) + KVM_IRQFD
 *   doorbell    --- KVM_IOEVENTFD
 *
 * The routing table: rows 0..23 are the pins (full: to PIC and IOAPIC; split: what the IOAPIC's entry would send, so that
 * the kernel knows which EOIs to tell of), the rest are messages of irqfds. It is handed to the kernel whole at each change. A message
 * in an irqfd's row changes at one stroke for the kernel (it swaps tables under RCU), so none is lost.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "cpu/kvm/ioapic.h"
#include "cpu/kvm/priv.h"

static bool used(const struct kvm_vm *vm, unsigned gsi)
{
	return vm->route_used[gsi / 32] >> (gsi % 32) & 1;
}

static void set_used(struct kvm_vm *vm, unsigned gsi, bool on)
{
	if (on)
		vm->route_used[gsi / 32] |= 1u << (gsi % 32);
	else
		vm->route_used[gsi / 32] &= ~(1u << (gsi % 32));
}

static struct kvm_irq_routing_entry msi_entry(const struct kvm_vm *vm, unsigned gsi)
{
	const struct kvm_route *r = &vm->routes[gsi];

	return (struct kvm_irq_routing_entry){.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {.address_lo = (uint32_t)r->addr,
			.address_hi = (uint32_t)(r->addr >> 32),
			.data = r->data}};
}

static struct kvm_irq_routing_entry chip_entry(unsigned gsi, unsigned chip, unsigned pin)
{
	return (struct kvm_irq_routing_entry){.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = {.irqchip = chip, .pin = pin}};
}

static unsigned fill(struct kvm_vm *vm, struct kvm_irq_routing_entry *t)
{
	unsigned n = 0;

	for (unsigned g = 0; g < KVM_ROUTES; g++) {
		if (g >= KVM_PINS || vm->split) {
			if (g < KVM_PINS ? vm->routes[g].there : used(vm, g))
				t[n++] = msi_entry(vm, g);
			continue;
		}
		if (g < 16)
			t[n++] = chip_entry(
				g, g < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, g & 7);
		/* ISA interrupt 0, the i8254's, is on pin 2 of the IOAPIC (the MADT says so, too). */
		if (g != 2)
			t[n++] = chip_entry(g, KVM_IRQCHIP_IOAPIC, g ? g : 2);
	}
	return n;
}

/* With the lock. */
static int push(struct kvm_vm *vm)
{
	cleanup(free_ptr) struct kvm_irq_routing *t = calloc(
		1, sizeof(*t) + (KVM_ROUTES + 16) * sizeof(t->entries[0]));

	if (!t)
		return -ENOMEM;
	t->nr = fill(vm, t->entries);
	return kvm_vm_ioctl(vm, KVM_SET_GSI_ROUTING, KVM_PTR(t));
}

/* ---- the split irqchip's IOAPIC ---- */

static void ioapic_msi(void *ctx, uint64_t addr, uint32_t data)
{
	kvm_msi(ctx, addr, data);
}

static void ioapic_route(void *ctx, unsigned pin, uint64_t addr, uint32_t data, bool masked)
{
	struct kvm_vm *vm = ctx;
	struct kvm_route want = {!masked, addr, data};
	struct kvm_route *r = &vm->routes[pin];

	pthread_mutex_lock(&vm->lock);
	if (r->there != want.there || (want.there && (r->addr != addr || r->data != data))) {
		*r = want;
		vm->routes_changed = true;
	}
	pthread_mutex_unlock(&vm->lock);
}

static void ioapic_commit(void *ctx)
{
	struct kvm_vm *vm = ctx;
	int rc;

	pthread_mutex_lock(&vm->lock);
	rc = vm->routes_changed ? push(vm) : 0;
	vm->routes_changed = false;
	pthread_mutex_unlock(&vm->lock);
	if (rc < 0)
		kvm_break(vm, "IOAPIC: KVM refuses its routes: %s", strerrordesc_np(-rc));
}

/* ---- the engine's calls ---- */

void kvm_irq(struct cpu_vm *v, unsigned gsi, bool level)
{
	struct kvm_vm *vm = kvm_vm_of(v);
	struct kvm_irq_level l = {.irq = gsi, .level = level};

	if (gsi >= KVM_PINS)
		return;
	if (vm->split)
		ioapic_set(vm->ioapic, gsi, level);
	else if (atomic_exchange(&vm->pin[gsi], level ? KVM_PIN_HIGH : KVM_PIN_LOW) !=
		 (level ? KVM_PIN_HIGH : KVM_PIN_LOW))
		kvm_vm_ioctl(vm, KVM_IRQ_LINE, KVM_PTR(&l));
}

void kvm_pins_forget(struct kvm_vm *vm)
{
	for (unsigned i = 0; i < KVM_PINS; i++)
		atomic_store(&vm->pin[i], KVM_PIN_UNKNOWN);
}

void kvm_msi(struct cpu_vm *v, uint64_t addr, uint32_t data)
{
	struct kvm_msi m = {
		.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};

	/* What no local APIC listens for, or one that is off, is lost, as on the bus. */
	kvm_vm_ioctl(kvm_vm_of(v), KVM_SIGNAL_MSI, KVM_PTR(&m));
}

void kvm_nmi(struct vcpu *v)
{
	kvm_vcpu_ioctl(kvm_vcpu_of(v), KVM_NMI, 0);
}

static struct kvm_ioeventfd bell(const struct cpu_doorbell *d)
{
	struct kvm_ioeventfd b = {
		.datamatch = d->value, .addr = d->addr, .len = d->size, .fd = d->fd};

	if (d->pio)
		b.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (d->match)
		b.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	return b;
}

int kvm_doorbell_add(struct cpu_vm *v, const struct cpu_doorbell *d, struct err *e)
{
	struct kvm_vm *vm = kvm_vm_of(v);
	struct kvm_ioeventfd b = bell(d);
	int rc;

	if (d->size & (d->size - 1) || d->size > 8 || (!d->size && d->match))
		return err_set(e, -EINVAL, "doorbell at %#llx: width %u",
			(unsigned long long)d->addr, d->size);
	if (!kvm_has(&vm->caps, d->size ? KC_IOEVENTFD : KC_IOEVENTFD_ANY))
		return -EOPNOTSUPP;
	rc = kvm_vm_ioctl(vm, KVM_IOEVENTFD, KVM_PTR(&b));
	/* The kernel has a table of 1000; what does not fit comes out as an exit. */
	if (rc == -ENOSPC || rc == -ENOMEM)
		return -EOPNOTSUPP;
	return rc < 0 ? kvm_fail(e, rc, KVM_IOEVENTFD, "doorbell") : 0;
}

void kvm_doorbell_remove(struct cpu_vm *v, const struct cpu_doorbell *d)
{
	struct kvm_ioeventfd b = bell(d);

	b.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	kvm_vm_ioctl(kvm_vm_of(v), KVM_IOEVENTFD, KVM_PTR(&b));
}

static int irqfd_ioctl(struct kvm_vm *vm, int fd, unsigned gsi, unsigned flags)
{
	struct kvm_irqfd f = {.fd = (uint32_t)fd, .gsi = gsi, .flags = flags};

	return kvm_vm_ioctl(vm, KVM_IRQFD, KVM_PTR(&f));
}

int kvm_irqfd_add(struct cpu_vm *v, const struct cpu_irqfd *f, struct err *e)
{
	struct kvm_vm *vm = kvm_vm_of(v);
	unsigned gsi = f->gsi;
	int rc = 0;

	if (!kvm_has(&vm->caps, KC_IRQFD))
		return -EOPNOTSUPP;
	if (f->wired) {
		/* Of the split irqchip's pins the kernel knows only what they would send now. */
		if (vm->split || gsi >= KVM_PINS)
			return -EOPNOTSUPP;
		pthread_mutex_lock(&vm->lock);
		rc = vm->irqfd[gsi] >= 0 ? -EEXIST : irqfd_ioctl(vm, f->fd, gsi, 0);
		if (rc >= 0)
			vm->irqfd[gsi] = f->fd;
		pthread_mutex_unlock(&vm->lock);
		return rc < 0 ? kvm_fail(e, rc, KVM_IRQFD, "interrupt eventfd") : (int)gsi;
	}
	pthread_mutex_lock(&vm->lock);
	for (gsi = KVM_PINS; gsi < KVM_ROUTES && used(vm, gsi); gsi++)
		;
	if (gsi == KVM_ROUTES) {
		pthread_mutex_unlock(&vm->lock);
		return err_set(e, -ENOSPC, "engine kvm: more than %d interrupt eventfds",
			KVM_ROUTES - KVM_PINS);
	}
	vm->routes[gsi] = (struct kvm_route){true, f->addr, f->data};
	set_used(vm, gsi, true);
	rc = push(vm);
	if (rc < 0)
		kvm_fail(e, rc, KVM_SET_GSI_ROUTING, "interrupt eventfd");
	if (rc >= 0) {
		rc = irqfd_ioctl(vm, f->fd, gsi, 0);
		if (rc < 0)
			kvm_fail(e, rc, KVM_IRQFD, "interrupt eventfd");
	}
	if (rc < 0)
		set_used(vm, gsi, false);
	else
		vm->irqfd[gsi] = f->fd;
	pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? rc : (int)gsi;
}

int kvm_irqfd_change(struct cpu_vm *v, int id, uint64_t addr, uint32_t data, struct err *e)
{
	struct kvm_vm *vm = kvm_vm_of(v);
	struct kvm_route old;
	int rc;

	if (id < KVM_PINS || id >= KVM_ROUTES)
		return err_set(e, -EINVAL, "interrupt eventfd %d is not a message's", id);
	pthread_mutex_lock(&vm->lock);
	old = vm->routes[id];
	vm->routes[id] = (struct kvm_route){true, addr, data};
	rc = push(vm);
	if (rc < 0)
		vm->routes[id] = old;
	pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? kvm_fail(e, rc, KVM_SET_GSI_ROUTING, "interrupt eventfd") : 0;
}

void kvm_irqfd_remove(struct cpu_vm *v, int id)
{
	struct kvm_vm *vm = kvm_vm_of(v);

	if (id < 0 || id >= KVM_ROUTES)
		return;
	pthread_mutex_lock(&vm->lock);
	if (vm->irqfd[id] >= 0) {
		irqfd_ioctl(vm, vm->irqfd[id], (unsigned)id, KVM_IRQFD_FLAG_DEASSIGN);
		vm->irqfd[id] = -1;
		if (id >= KVM_PINS) {
			set_used(vm, (unsigned)id, false);
			push(vm);
		}
	}
	pthread_mutex_unlock(&vm->lock);
}

/* ---- life ---- */

static int full_up(struct kvm_vm *vm, struct err *e)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int rc = kvm_vm_ioctl(vm, KVM_CREATE_IRQCHIP, 0);

	if (rc < 0)
		return kvm_fail(e, rc, KVM_CREATE_IRQCHIP, "interrupt controllers");
	if (!kvm_has(&vm->caps, KC_PIT2) || !kvm_has(&vm->caps, KC_PIT_STATE2))
		return 0;
	rc = kvm_vm_ioctl(vm, KVM_CREATE_PIT2, KVM_PTR(&pit));
	vm->has_pit = rc >= 0;
	return rc < 0 ? kvm_fail(e, rc, KVM_CREATE_PIT2, "i8254") : 0;
}

static int split_up(struct kvm_vm *vm, struct err *e)
{
	struct ioapic_opts io = {CPU_X86_IOAPIC, ioapic_msi, ioapic_route, ioapic_commit, vm};
	int rc = kvm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, KVM_PINS);

	if (rc < 0)
		return kvm_fail(e, rc, KVM_ENABLE_CAP, "split interrupt controllers");
	vm->split = true;
	return ioapic_create(&vm->ioapic, &io, e);
}

int kvm_irq_init(struct kvm_vm *vm, struct err *e)
{
	bool split = vm->o.irqchip == CPU_IRQCHIP_SPLIT;
	int rc;

	if (split && !kvm_has(&vm->caps, KC_SPLIT_IRQCHIP))
		return err_set(e, -ENOTSUP, "engine kvm: this host's KVM has no split irqchip");
	vm->routes = calloc(KVM_ROUTES, sizeof(struct kvm_route));
	if (!vm->routes)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	for (unsigned i = 0; i < KVM_ROUTES; i++)
		vm->irqfd[i] = -1;
	rc = split ? split_up(vm, e) : full_up(vm, e);
	/* A kernel built without the i8259 (CONFIG_KVM_IOAPIC=n) has only the other half. */
	if (rc && !split && vm->o.irqchip == CPU_IRQCHIP_AUTO && !vm->has_pit &&
		kvm_has(&vm->caps, KC_SPLIT_IRQCHIP))
		rc = split_up(vm, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&vm->lock);
	rc = push(vm);
	pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? kvm_fail(e, rc, KVM_SET_GSI_ROUTING, "interrupt routes") : 0;
}

void kvm_irq_free(struct kvm_vm *vm)
{
	ioapic_destroy(vm->ioapic);
	free(vm->routes);
}
