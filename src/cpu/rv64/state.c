/*
 * state.c: the hart's and the VM's described state (base/state.h): every register by its name.
 *
 * Before a save nothing is half done: a pending access has been completed (vcpu_run with budget 0), and flags have been
 * gathered from the host. A stream is hostile: values that the CSR rules would not let a guest write are refused or masked.
 */
#include <errno.h>

#include "base/err.h"
#include "cpu/rv64/block.h"
#include "cpu/rv64/priv.h"

static const struct state_field csr_fields[] = {
	STATE_U64(struct rv64_csrs, mtvec, 1),
	STATE_U64(struct rv64_csrs, mscratch, 1),
	STATE_U64(struct rv64_csrs, mepc, 1),
	STATE_U64(struct rv64_csrs, mcause, 1),
	STATE_U64(struct rv64_csrs, mtval, 1),
	STATE_U64(struct rv64_csrs, mcounteren, 1),
	STATE_U64(struct rv64_csrs, mcountinhibit, 1),
	STATE_U64(struct rv64_csrs, menvcfg, 1),
	STATE_U64(struct rv64_csrs, miselect, 1),
	STATE_U64(struct rv64_csrs, stvec, 1),
	STATE_U64(struct rv64_csrs, sscratch, 1),
	STATE_U64(struct rv64_csrs, sepc, 1),
	STATE_U64(struct rv64_csrs, scause, 1),
	STATE_U64(struct rv64_csrs, stval, 1),
	STATE_U64(struct rv64_csrs, scounteren, 1),
	STATE_U64(struct rv64_csrs, senvcfg, 1),
	STATE_U64(struct rv64_csrs, siselect, 1),
	STATE_U64(struct rv64_csrs, satp, 1),
	STATE_U64(struct rv64_csrs, stimecmp, 1),
	STATE_U64S(struct rv64_csrs, pmpaddr, 1),
	STATE_U64(struct rv64_csrs, instret_base, 1),
	STATE_U64(struct rv64_csrs, cycle_base, 1),
	STATE_BYTES(struct rv64_csrs, pmpcfg, 1),
	STATE_END,
};
static const struct state_desc csr_state = {
	.type = "rv64-csrs", .version = 1, .fields = csr_fields};

static const struct state_field hsm_fields[] = {
	STATE_U32(struct rv64_hsm, state, 1),
	STATE_U64(struct rv64_hsm, pc, 1),
	STATE_U64(struct rv64_hsm, arg, 1),
	STATE_BOOL(struct rv64_hsm, retentive, 1),
	STATE_BOOL_SINCE(struct rv64_hsm, system, 2, 0),
	STATE_END,
};
static const struct state_desc hsm_state = {.type = "rv64-hsm", .version = 2, .fields = hsm_fields};

static const struct state_field imsic_fields[] = {
	STATE_U64S(struct imsic_file, eip, 1),
	STATE_U64S(struct imsic_file, eie, 1),
	STATE_U64(struct imsic_file, delivery, 1),
	STATE_U64(struct imsic_file, threshold, 1),
	STATE_END,
};
static const struct state_desc imsic_state = {
	.type = "rv64-imsic-file", .version = 1, .fields = imsic_fields};

static const struct state_field hart_fields[] = {
	STATE_U64S(struct hart, x, 1),
	STATE_U64S(struct hart, f, 1),
	STATE_U64(struct hart, pc, 1),
	STATE_U32(struct hart, priv, 1),
	STATE_U32(struct hart, fs, 1),
	STATE_U32(struct hart, frm, 1),
	STATE_U32(struct hart, fflags, 1),
	STATE_U64(struct hart, instret, 1),
	STATE_U64(struct hart, mstatus, 1),
	STATE_U64(struct hart, mip, 1),
	STATE_U64(struct hart, mie, 1),
	STATE_U64(struct hart, mideleg, 1),
	STATE_U64(struct hart, medeleg, 1),
	STATE_U64(struct hart, mtimecmp, 1),
	STATE_U64(struct hart, resv_va, 1),
	STATE_U64(struct hart, resv_val, 1),
	STATE_U64_SINCE(struct hart, lines, 2, 0),
	STATE_STRUCT(struct hart, c, &csr_state, struct rv64_csrs, 1),
	STATE_STRUCT(struct hart, hsm, &hsm_state, struct rv64_hsm, 1),
	STATE_ARRAY(struct hart, imsic, &imsic_state, struct imsic_file, 1),
	STATE_END,
};

static void hart_pre_save(void *obj)
{
	struct hart *h = obj;

	h->frm = h->fp.frm;
	h->fflags = fp_host_flags(&h->fp);
}

/* What no hart can be in. What a CSR would not hold is brought to what it would: csr_sanitize(). */
static int hart_check(const void *staged, unsigned version, struct err *e)
{
	const struct hart *h = staged;
	uint64_t mode = h->c.satp >> 60;

	if (h->priv > PRIV_M || h->priv == 2)
		return err_set(e, -EINVAL, "hart: priv %u is no privilege mode", h->priv);
	if (mode != SATP_BARE && mode != SATP_SV39 && mode != SATP_SV48)
		return err_set(e, -EINVAL, "hart: satp mode %llu is not supported",
			(unsigned long long)mode);
	if (h->hsm.state > HSM_RESUME_PENDING)
		return err_set(e, -EINVAL, "hart: hsm state %u does not exist", h->hsm.state);
	if ((h->pc | h->c.mepc | h->c.sepc) & 1)
		return err_set(e, -EINVAL, "hart: a pc is odd");
	return 0;
}

static int hart_post_load(void *obj, unsigned version, struct err *e)
{
	struct hart *h = obj;

	h->x[0] = 0;
	if (version < 2)
		h->lines = h->mip & (BIT(IRQ_MSI) | BIT(IRQ_MEI)); /* they were one word */
	csr_sanitize(h);
	fp_host_set_frm(&h->fp, h->frm & 7);
	fp_host_set_flags(&h->fp, h->fflags & 31);
	h->pend.active = false;
	h->posted = false;
	pmp_update(h); /* flushes translations and blocks */
	mmu_space(h);
	rv64_code_space(h, h->c.satp);
	rv64_code_fence_i(h);
	rv64_set_priv(h, h->priv);
	atomic_fetch_or(&h->poll, POLL_IRQ);
	return 0;
}

const struct state_desc rv64_hart_state = {
	.type = "rv64-hart",
	.version = 2,
	.fields = hart_fields,
	.check = hart_check,
	.pre_save = hart_pre_save,
	.post_load = hart_post_load,
};

static const struct state_field vm_fields[] = {
	STATE_U64(struct rv64_vm, saved_time, 1),
	STATE_U64_SINCE(struct rv64_vm, saved_exts, 2, 0),
	STATE_END,
};

static void vm_pre_save(void *obj)
{
	struct rv64_vm *vm = obj;

	vm->saved_time = rv64_time(vm);
	vm->saved_exts = vm->exts;
}

static int vm_post_load(void *obj, unsigned version, struct err *e)
{
	struct rv64_vm *vm = obj;
	uint64_t differ = vm->saved_exts ^ vm->exts;

	/* A guest asks once what there is, and then relies on it. */
	for (unsigned i = 0; version >= 2 && i < EXTS; i++)
		if (differ >> i & 1)
			return err_set(e, -EINVAL,
				"CPU: extension %s is %s in the saved machine and %s here: use the "
				"same --cpu",
				rv64_ext_name(i) ?: "?", vm->exts >> i & 1 ? "off" : "on",
				vm->exts >> i & 1 ? "on" : "off");
	rv64_time_set(vm, vm->saved_time);
	return 0;
}

const struct state_desc rv64_vm_state = {
	.type = "rv64-vm",
	.version = 2,
	.fields = vm_fields,
	.pre_save = vm_pre_save,
	.post_load = vm_post_load,
};
