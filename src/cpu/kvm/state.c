/*
 * state.c: the tables of what image.h holds (decision D5).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "cpu/kvm/priv.h"

static const struct state_field seg_fields[] = {
	STATE_U64(struct kvm_i_seg, base, 1),
	STATE_U32(struct kvm_i_seg, limit, 1),
	STATE_U16(struct kvm_i_seg, selector, 1),
	STATE_U8(struct kvm_i_seg, type, 1),
	STATE_U8(struct kvm_i_seg, present, 1),
	STATE_U8(struct kvm_i_seg, dpl, 1),
	STATE_U8(struct kvm_i_seg, db, 1),
	STATE_U8(struct kvm_i_seg, s, 1),
	STATE_U8(struct kvm_i_seg, l, 1),
	STATE_U8(struct kvm_i_seg, g, 1),
	STATE_U8(struct kvm_i_seg, avl, 1),
	STATE_U8(struct kvm_i_seg, unusable, 1),
	STATE_END,
};
static const struct state_desc seg_state = {
	.type = "x86-segment", .version = 1, .fields = seg_fields};

static const struct state_field table_fields[] = {
	STATE_U64(struct kvm_i_table, base, 1),
	STATE_U16(struct kvm_i_table, limit, 1),
	STATE_END,
};
static const struct state_desc table_state = {
	.type = "x86-table", .version = 1, .fields = table_fields};

static const struct state_field regs_fields[] = {
	STATE_U64(struct kvm_i_regs, rax, 1),
	STATE_U64(struct kvm_i_regs, rbx, 1),
	STATE_U64(struct kvm_i_regs, rcx, 1),
	STATE_U64(struct kvm_i_regs, rdx, 1),
	STATE_U64(struct kvm_i_regs, rsi, 1),
	STATE_U64(struct kvm_i_regs, rdi, 1),
	STATE_U64(struct kvm_i_regs, rsp, 1),
	STATE_U64(struct kvm_i_regs, rbp, 1),
	STATE_U64(struct kvm_i_regs, r8, 1),
	STATE_U64(struct kvm_i_regs, r9, 1),
	STATE_U64(struct kvm_i_regs, r10, 1),
	STATE_U64(struct kvm_i_regs, r11, 1),
	STATE_U64(struct kvm_i_regs, r12, 1),
	STATE_U64(struct kvm_i_regs, r13, 1),
	STATE_U64(struct kvm_i_regs, r14, 1),
	STATE_U64(struct kvm_i_regs, r15, 1),
	STATE_U64(struct kvm_i_regs, rip, 1),
	STATE_U64(struct kvm_i_regs, rflags, 1),
	STATE_END,
};
static const struct state_desc regs_state = {
	.type = "x86-registers", .version = 1, .fields = regs_fields};

static const struct state_field sregs_fields[] = {
	STATE_STRUCT(struct kvm_i_sregs, cs, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, ds, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, es, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, fs, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, gs, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, ss, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, tr, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, ldt, &seg_state, struct kvm_i_seg, 1),
	STATE_STRUCT(struct kvm_i_sregs, gdt, &table_state, struct kvm_i_table, 1),
	STATE_STRUCT(struct kvm_i_sregs, idt, &table_state, struct kvm_i_table, 1),
	STATE_U64(struct kvm_i_sregs, cr0, 1),
	STATE_U64(struct kvm_i_sregs, cr2, 1),
	STATE_U64(struct kvm_i_sregs, cr3, 1),
	STATE_U64(struct kvm_i_sregs, cr4, 1),
	STATE_U64(struct kvm_i_sregs, cr8, 1),
	STATE_U64(struct kvm_i_sregs, efer, 1),
	STATE_U64(struct kvm_i_sregs, apic_base, 1),
	STATE_U64(struct kvm_i_sregs, sregs2_flags, 1),
	STATE_U64S(struct kvm_i_sregs, pdptrs, 1),
	STATE_U64S(struct kvm_i_sregs, interrupt_bitmap, 1),
	STATE_END,
};
static const struct state_desc sregs_state = {
	.type = "x86-control", .version = 1, .fields = sregs_fields};

static const struct state_field fp_fields[] = {
	STATE_U16(struct kvm_i_fp, fcw, 1),
	STATE_U16(struct kvm_i_fp, fsw, 1),
	STATE_U16(struct kvm_i_fp, fop, 1),
	STATE_U8(struct kvm_i_fp, ftw, 1),
	STATE_U64(struct kvm_i_fp, fip, 1),
	STATE_U64(struct kvm_i_fp, fdp, 1),
	STATE_U32(struct kvm_i_fp, mxcsr, 1),
	STATE_U32(struct kvm_i_fp, mxcsr_mask, 1),
	STATE_BYTES(struct kvm_i_fp, st, 1),
	STATE_BYTES(struct kvm_i_fp, xmm, 1),
	STATE_U64(struct kvm_i_fp, xstate_bv, 1),
	STATE_U64(struct kvm_i_fp, xcr0, 1),
	STATE_BYTES(struct kvm_i_fp, avx, 1),
	STATE_BYTES(struct kvm_i_fp, bndregs, 1),
	STATE_BYTES(struct kvm_i_fp, bndcsr, 1),
	STATE_BYTES(struct kvm_i_fp, opmask, 1),
	STATE_BYTES(struct kvm_i_fp, zmm_hi256, 1),
	STATE_BYTES(struct kvm_i_fp, hi16_zmm, 1),
	STATE_BYTES(struct kvm_i_fp, pkru, 1),
	STATE_BYTES(struct kvm_i_fp, tilecfg, 1),
	STATE_BLOB(struct kvm_i_fp, tiledata, tiledata_len, KVM_TILEDATA_MAX, 1),
	STATE_END,
};
static const struct state_desc fp_state = {.type = "x86-fp", .version = 1, .fields = fp_fields};

static const struct state_field msr_fields[] = {
	STATE_U32(struct kvm_i_msr, index, 1),
	STATE_U64(struct kvm_i_msr, value, 1),
	STATE_END,
};
static const struct state_desc msr_state = {.type = "x86-msr", .version = 1, .fields = msr_fields};

static const struct state_field lapic_fields[] = {
	STATE_U32(struct kvm_i_lapic, id, 1),
	STATE_U32(struct kvm_i_lapic, version, 1),
	STATE_U32(struct kvm_i_lapic, tpr, 1),
	STATE_U32(struct kvm_i_lapic, arb, 1),
	STATE_U32(struct kvm_i_lapic, ppr, 1),
	STATE_U32(struct kvm_i_lapic, ldr, 1),
	STATE_U32(struct kvm_i_lapic, dfr, 1),
	STATE_U32(struct kvm_i_lapic, svr, 1),
	STATE_U32S(struct kvm_i_lapic, isr, 1),
	STATE_U32S(struct kvm_i_lapic, tmr, 1),
	STATE_U32S(struct kvm_i_lapic, irr, 1),
	STATE_U32(struct kvm_i_lapic, esr, 1),
	STATE_U32(struct kvm_i_lapic, lvt_cmci, 1),
	STATE_U32(struct kvm_i_lapic, icr_low, 1),
	STATE_U32(struct kvm_i_lapic, icr_high, 1),
	STATE_U32(struct kvm_i_lapic, lvt_timer, 1),
	STATE_U32(struct kvm_i_lapic, lvt_thermal, 1),
	STATE_U32(struct kvm_i_lapic, lvt_perf, 1),
	STATE_U32(struct kvm_i_lapic, lvt_lint0, 1),
	STATE_U32(struct kvm_i_lapic, lvt_lint1, 1),
	STATE_U32(struct kvm_i_lapic, lvt_error, 1),
	STATE_U32(struct kvm_i_lapic, timer_initial, 1),
	STATE_U32(struct kvm_i_lapic, timer_current, 1),
	STATE_U32(struct kvm_i_lapic, timer_divide, 1),
	STATE_END,
};
static const struct state_desc lapic_state = {
	.type = "x86-lapic", .version = 1, .fields = lapic_fields};

static const struct state_field events_fields[] = {
	STATE_U8(struct kvm_i_events, exception_injected, 1),
	STATE_U8(struct kvm_i_events, exception_nr, 1),
	STATE_U8(struct kvm_i_events, exception_has_error_code, 1),
	STATE_U8(struct kvm_i_events, exception_pending, 1),
	STATE_U8(struct kvm_i_events, exception_has_payload, 1),
	STATE_U32(struct kvm_i_events, exception_error_code, 1),
	STATE_U64(struct kvm_i_events, exception_payload, 1),
	STATE_U8(struct kvm_i_events, interrupt_injected, 1),
	STATE_U8(struct kvm_i_events, interrupt_nr, 1),
	STATE_U8(struct kvm_i_events, interrupt_soft, 1),
	STATE_U8(struct kvm_i_events, interrupt_shadow, 1),
	STATE_U8(struct kvm_i_events, nmi_injected, 1),
	STATE_U8(struct kvm_i_events, nmi_pending, 1),
	STATE_U8(struct kvm_i_events, nmi_masked, 1),
	STATE_U8(struct kvm_i_events, smi_smm, 1),
	STATE_U8(struct kvm_i_events, smi_pending, 1),
	STATE_U8(struct kvm_i_events, smi_inside_nmi, 1),
	STATE_U8(struct kvm_i_events, smi_latched_init, 1),
	STATE_U8(struct kvm_i_events, triple_fault_pending, 1),
	STATE_U32(struct kvm_i_events, sipi_vector, 1),
	STATE_U32(struct kvm_i_events, flags, 1),
	STATE_END,
};
static const struct state_desc events_state = {
	.type = "x86-events", .version = 1, .fields = events_fields};

static const struct state_field image_fields[] = {
	STATE_BOOL(struct kvm_image, whole, 1),
	STATE_STRUCT(struct kvm_image, regs, &regs_state, struct kvm_i_regs, 1),
	STATE_STRUCT(struct kvm_image, sregs, &sregs_state, struct kvm_i_sregs, 1),
	STATE_STRUCT(struct kvm_image, fp, &fp_state, struct kvm_i_fp, 1),
	STATE_VEC(struct kvm_image, msrs, nmsrs, KVM_IMAGE_MSRS, &msr_state, struct kvm_i_msr, 1),
	STATE_STRUCT(struct kvm_image, lapic, &lapic_state, struct kvm_i_lapic, 1),
	STATE_STRUCT(struct kvm_image, events, &events_state, struct kvm_i_events, 1),
	STATE_U32(struct kvm_image, mp_state, 1),
	STATE_U32(struct kvm_image, tsc_khz, 1),
	STATE_U64S(struct kvm_image, db, 1),
	STATE_U64(struct kvm_image, dr6, 1),
	STATE_U64(struct kvm_image, dr7, 1),
	STATE_END,
};

static const struct state_field pic_fields[] = {
	STATE_U8(struct kvm_i_pic, last_irr, 1),
	STATE_U8(struct kvm_i_pic, irr, 1),
	STATE_U8(struct kvm_i_pic, imr, 1),
	STATE_U8(struct kvm_i_pic, isr, 1),
	STATE_U8(struct kvm_i_pic, priority_add, 1),
	STATE_U8(struct kvm_i_pic, irq_base, 1),
	STATE_U8(struct kvm_i_pic, read_reg_select, 1),
	STATE_U8(struct kvm_i_pic, poll, 1),
	STATE_U8(struct kvm_i_pic, special_mask, 1),
	STATE_U8(struct kvm_i_pic, init_state, 1),
	STATE_U8(struct kvm_i_pic, auto_eoi, 1),
	STATE_U8(struct kvm_i_pic, rotate_on_auto_eoi, 1),
	STATE_U8(struct kvm_i_pic, special_fully_nested_mode, 1),
	STATE_U8(struct kvm_i_pic, init4, 1),
	STATE_U8(struct kvm_i_pic, elcr, 1),
	STATE_U8(struct kvm_i_pic, elcr_mask, 1),
	STATE_END,
};
static const struct state_desc pic_state = {.type = "i8259", .version = 1, .fields = pic_fields};

static const struct state_field pit_fields[] = {
	STATE_U32(struct kvm_i_pit, count, 1),
	STATE_U16(struct kvm_i_pit, latched_count, 1),
	STATE_U8(struct kvm_i_pit, count_latched, 1),
	STATE_U8(struct kvm_i_pit, status_latched, 1),
	STATE_U8(struct kvm_i_pit, status, 1),
	STATE_U8(struct kvm_i_pit, read_state, 1),
	STATE_U8(struct kvm_i_pit, write_state, 1),
	STATE_U8(struct kvm_i_pit, write_latch, 1),
	STATE_U8(struct kvm_i_pit, rw_mode, 1),
	STATE_U8(struct kvm_i_pit, mode, 1),
	STATE_U8(struct kvm_i_pit, bcd, 1),
	STATE_U8(struct kvm_i_pit, gate, 1),
	STATE_I64(struct kvm_i_pit, count_load_time, 1),
	STATE_END,
};
static const struct state_desc pit_state = {
	.type = "i8254-channel", .version = 1, .fields = pit_fields};

static const struct state_field ioapic_fields[] = {
	STATE_U64(struct kvm_i_ioapic, base, 1),
	STATE_U32(struct kvm_i_ioapic, ioregsel, 1),
	STATE_U32(struct kvm_i_ioapic, id, 1),
	STATE_U32(struct kvm_i_ioapic, irr, 1),
	STATE_U64S(struct kvm_i_ioapic, redirect, 1),
	STATE_END,
};
static const struct state_desc ioapic_state = {
	.type = "ioapic", .version = 1, .fields = ioapic_fields};

static const struct state_field leaf_fields[] = {
	STATE_U32(struct kvm_i_leaf, function, 1),
	STATE_U32(struct kvm_i_leaf, index, 1),
	STATE_U32(struct kvm_i_leaf, eax, 1),
	STATE_U32(struct kvm_i_leaf, ebx, 1),
	STATE_U32(struct kvm_i_leaf, ecx, 1),
	STATE_U32(struct kvm_i_leaf, edx, 1),
	STATE_END,
};
static const struct state_desc leaf_state = {
	.type = "x86-cpuid-leaf", .version = 1, .fields = leaf_fields};

static const struct state_field chips_fields[] = {
	STATE_BOOL(struct kvm_chips, whole, 1),
	STATE_BOOL(struct kvm_chips, split, 1),
	STATE_BOOL(struct kvm_chips, has_pit, 1),
	STATE_STRUCT(struct kvm_chips, pic, &pic_state, struct kvm_i_pic, 1),
	STATE_STRUCT(struct kvm_chips, ioapic, &ioapic_state, struct kvm_i_ioapic, 1),
	STATE_STRUCT(struct kvm_chips, pit, &pit_state, struct kvm_i_pit, 1),
	STATE_U32(struct kvm_chips, pit_flags, 1),
	STATE_U64(struct kvm_chips, clock_ns, 1),
	STATE_TEXT(struct kvm_chips, model, 1),
	STATE_VEC(struct kvm_chips, cpuid, ncpuid, KVM_IMAGE_LEAVES, &leaf_state, struct kvm_i_leaf,
		1),
	STATE_END,
};

/* ---- a vCPU ---- */

static struct kvm_vcpu *vcpu_of(void *image)
{
	return container_of((struct kvm_image *)image, struct kvm_vcpu, image);
}

static void image_pre_save(void *obj)
{
	struct kvm_vcpu *c = vcpu_of(obj);
	struct err e = {0};

	if (kvm_image_get(c, obj, &e))
		log_error(c->vm->o.log, "kvm", "vCPU %u: %s", c->head.index, err_msg(&e));
}

/* A processor's checks are the kernel's to make; here is what would make it read outside of what was given. */
static int image_check(const void *staged, unsigned version, struct err *e)
{
	const struct kvm_image *im = staged;

	if (!im->whole)
		return err_set(e, -EINVAL,
			"vCPU: the machine was saved without its registers, which could not be "
			"read");
	for (uint32_t i = 0; i < im->nmsrs; i++)
		for (uint32_t k = 0; k < i; k++)
			if (im->msrs[i].index == im->msrs[k].index)
				return err_set(e, -EINVAL, "vCPU: MSR %#x is there twice",
					im->msrs[i].index);
	if (im->mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		return err_set(e, -EINVAL, "vCPU: state %u does not exist", im->mp_state);
	return 0;
}

/* A load brings vectors of its own; the engine wants room in them. */
static int widen(struct kvm_image *im)
{
	struct kvm_i_msr *m = realloc(im->msrs, KVM_IMAGE_MSRS * sizeof(*m));

	if (!m)
		return -ENOMEM;
	im->msrs = m;
	return 0;
}

static int image_post_load(void *obj, unsigned version, struct err *e)
{
	struct kvm_vcpu *c = vcpu_of(obj);
	int rc = widen(obj);

	if (rc)
		return err_set(e, rc, "vCPU %u: out of memory", c->head.index);
	memset(&c->acc, 0, sizeof(c->acc));
	rc = kvm_image_put(c, obj, e);
	return rc ? err_wrap(e, "vCPU %u", c->head.index) : 0;
}

const struct state_desc kvm_image_state = {
	.type = "kvm-vcpu",
	.version = 1,
	.fields = image_fields,
	.pre_save = image_pre_save,
	.check = image_check,
	.post_load = image_post_load,
};

/* ---- the machine ---- */

static void chips_pre_save(void *obj)
{
	struct kvm_vm *vm = container_of((struct kvm_chips *)obj, struct kvm_vm, chips);
	struct err e = {0};

	if (kvm_chips_get(vm, obj, &e))
		log_error(vm->o.log, "kvm", "%s", err_msg(&e));
}

static int chips_check(const void *staged, unsigned version, struct err *e)
{
	const struct kvm_chips *ch = staged;

	if (!ch->whole)
		return err_set(e, -EINVAL,
			"machine: it was saved without its interrupt controllers, which could not "
			"be "
			"read");
	return 0;
}

static int chips_post_load(void *obj, unsigned version, struct err *e)
{
	struct kvm_vm *vm = container_of((struct kvm_chips *)obj, struct kvm_vm, chips);
	struct kvm_i_leaf *room;
	int rc = kvm_leaves_check(vm, vm->chips.cpuid, vm->chips.ncpuid, vm->chips.model, e);

	if (rc)
		return rc;
	room = realloc(vm->chips.cpuid, KVM_IMAGE_LEAVES * sizeof(*room));
	if (!room)
		return err_set(e, -ENOMEM, "machine: out of memory");
	vm->chips.cpuid = room;
	return kvm_chips_put(vm, obj, e);
}

const struct state_desc kvm_vm_state = {
	.type = "kvm-vm",
	.version = 1,
	.fields = chips_fields,
	.pre_save = chips_pre_save,
	.check = chips_check,
	.post_load = chips_post_load,
};
