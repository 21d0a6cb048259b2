/*
 * boot.c: reset, and the states in which a board starts a vCPU.
 *
 * The reset state is the one that the kernel gives a new vCPU, read back once (pristine): SDM volume 3, "Processor State After
 * Reset". Boot states: "x86/HVM direct boot ABI" of Xen's documentation (PVH), and Linux' Documentation/arch/x86/boot.rst,
 * "64-bit Boot Protocol".
 */
#include <string.h>

#include "base/err.h"
#include "cpu/kvm/ioapic.h"
#include "cpu/kvm/priv.h"

#define CR0_PE 1ull
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_ONE 2ull

#define CODE_SELECTOR 0x10
#define DATA_SELECTOR 0x18
#define TASK_SELECTOR 0x20

static struct kvm_i_seg flat(uint16_t selector, uint8_t type)
{
	return (struct kvm_i_seg){.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1};
}

static void protected_mode(struct kvm_image *im)
{
	struct kvm_i_sregs *s = &im->sregs;

	s->cs = flat(CODE_SELECTOR, 0xb); /* code, readable, accessed */
	s->ds = flat(DATA_SELECTOR, 0x3); /* data, writable, accessed */
	s->es = s->fs = s->gs = s->ss = s->ds;
	s->tr = (struct kvm_i_seg){
		.limit = 0x67, .selector = TASK_SELECTOR, .type = 0xb, .present = 1};
	s->ldt = (struct kvm_i_seg){.unusable = 1};
	s->gdt = (struct kvm_i_table){0, 0};
	s->idt = (struct kvm_i_table){0, 0};
	s->cr0 = CR0_PE | CR0_ET;
	s->cr4 = 0;
}

static void long_mode(struct kvm_image *im, uint64_t tables)
{
	struct kvm_i_sregs *s = &im->sregs;

	protected_mode(im);
	s->cs.db = 0;
	s->cs.l = 1;
	s->cr0 |= CR0_NE | CR0_PG;
	s->cr3 = tables;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}

static void boot_state(struct kvm_image *im, const struct cpu_boot *b)
{
	struct kvm_i_regs *r = &im->regs;

	if (b->mode == CPU_BOOT_NATIVE)
		return;
	memset(r, 0, sizeof(*r));
	r->rip = b->pc;
	r->rflags = RFLAGS_ONE;
	if (b->mode == CPU_BOOT_PVH) {
		protected_mode(im);
		r->rbx = b->arg0;
		return;
	}
	long_mode(im, b->tables);
	r->rsp = b->stack;
	r->rsi = b->arg0;
	r->rdi = b->arg1;
	r->rdx = b->arg2;
}

void kvm_reset(struct vcpu *v, const struct cpu_boot *boot)
{
	struct kvm_vcpu *c = kvm_vcpu_of(v);
	struct kvm_vm *vm = c->vm;
	struct err e = {0};
	int rc = kvm_image_copy(&c->image, &c->pristine);

	memset(&c->acc, 0, sizeof(c->acc));
	atomic_store(&c->kicked, false);
	if (rc) {
		kvm_break(vm, "vCPU %u: out of memory", c->head.index);
		return;
	}
	if (boot->running)
		boot_state(&c->image, boot);
	c->image.mp_state = boot->running ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
	if (!c->head.index) {
		/* The controllers are the machine's; vCPU 0 stands for it, and what the board has mapped since it was made is seen here. */
		pthread_mutex_lock(&vm->lock);
		rc = kvm_slots_sync(vm, &e);
		pthread_mutex_unlock(&vm->lock);
		if (!rc)
			rc = kvm_chips_reset(vm, &e);
	}
	if (!rc)
		rc = kvm_image_put(c, &c->image, &e);
	if (rc)
		kvm_break(vm, "vCPU %u: reset: %s", c->head.index, err_msg(&e));
}
