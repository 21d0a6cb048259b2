/*
 * image.c: a vCPU's state between KVM's structs and ours (image.h).
 *
 * Order of putting (KVM API documentation and what each call clears): control registers first, because they say what the others
 * mean (EFER: the width of segments; APIC base: the form of the APIC's id); then general registers, which drop pending
 * exceptions; XCR0 before the registers that it enables; MSRs; the APIC; the deadline MSR, which wants the APIC's timer in its
 * mode and the TSC set; events, and what the vCPU waits for, last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "cpu/kvm/priv.h"

#define MSR_TSC_DEADLINE 0x6e0u

#define TRY(call, nr, what) \
	do { \
		int try_rc = (call); \
		if (try_rc < 0) \
			return kvm_fail(e, try_rc, nr, what); \
	} while (0)

/* ---- general registers: KVM's order is another one ---- */

static void regs_from(struct kvm_i_regs *o, const struct kvm_regs *k)
{
	*o = (struct kvm_i_regs){k->rax, k->rbx, k->rcx, k->rdx, k->rsi, k->rdi, k->rsp, k->rbp,
		k->r8, k->r9, k->r10, k->r11, k->r12, k->r13, k->r14, k->r15, k->rip, k->rflags};
}

static void regs_to(struct kvm_regs *k, const struct kvm_i_regs *o)
{
	*k = (struct kvm_regs){.rax = o->rax,
		.rbx = o->rbx,
		.rcx = o->rcx,
		.rdx = o->rdx,
		.rsi = o->rsi,
		.rdi = o->rdi,
		.rsp = o->rsp,
		.rbp = o->rbp,
		.r8 = o->r8,
		.r9 = o->r9,
		.r10 = o->r10,
		.r11 = o->r11,
		.r12 = o->r12,
		.r13 = o->r13,
		.r14 = o->r14,
		.r15 = o->r15,
		.rip = o->rip,
		.rflags = o->rflags};
}

static struct kvm_i_seg seg_from(const struct kvm_segment *k)
{
	return (struct kvm_i_seg){k->base, k->limit, k->selector, k->type, k->present, k->dpl,
		k->db, k->s, k->l, k->g, k->avl, k->unusable};
}

static struct kvm_segment seg_to(const struct kvm_i_seg *o)
{
	return (struct kvm_segment){.base = o->base,
		.limit = o->limit,
		.selector = o->selector,
		.type = o->type,
		.present = o->present,
		.dpl = o->dpl,
		.db = o->db,
		.s = o->s,
		.l = o->l,
		.g = o->g,
		.avl = o->avl,
		.unusable = o->unusable};
}

/* struct kvm_sregs and kvm_sregs2 begin alike. */
#define SREGS_FROM(o, k) \
	do { \
		(o)->cs = seg_from(&(k)->cs); \
		(o)->ds = seg_from(&(k)->ds); \
		(o)->es = seg_from(&(k)->es); \
		(o)->fs = seg_from(&(k)->fs); \
		(o)->gs = seg_from(&(k)->gs); \
		(o)->ss = seg_from(&(k)->ss); \
		(o)->tr = seg_from(&(k)->tr); \
		(o)->ldt = seg_from(&(k)->ldt); \
		(o)->gdt = (struct kvm_i_table){(k)->gdt.base, (k)->gdt.limit}; \
		(o)->idt = (struct kvm_i_table){(k)->idt.base, (k)->idt.limit}; \
		(o)->cr0 = (k)->cr0; \
		(o)->cr2 = (k)->cr2; \
		(o)->cr3 = (k)->cr3; \
		(o)->cr4 = (k)->cr4; \
		(o)->cr8 = (k)->cr8; \
		(o)->efer = (k)->efer; \
		(o)->apic_base = (k)->apic_base; \
	} while (0)

#define SREGS_TO(k, o) \
	do { \
		(k)->cs = seg_to(&(o)->cs); \
		(k)->ds = seg_to(&(o)->ds); \
		(k)->es = seg_to(&(o)->es); \
		(k)->fs = seg_to(&(o)->fs); \
		(k)->gs = seg_to(&(o)->gs); \
		(k)->ss = seg_to(&(o)->ss); \
		(k)->tr = seg_to(&(o)->tr); \
		(k)->ldt = seg_to(&(o)->ldt); \
		(k)->gdt = (struct kvm_dtable){.base = (o)->gdt.base, .limit = (o)->gdt.limit}; \
		(k)->idt = (struct kvm_dtable){.base = (o)->idt.base, .limit = (o)->idt.limit}; \
		(k)->cr0 = (o)->cr0; \
		(k)->cr2 = (o)->cr2; \
		(k)->cr3 = (o)->cr3; \
		(k)->cr4 = (o)->cr4; \
		(k)->cr8 = (o)->cr8; \
		(k)->efer = (o)->efer; \
		(k)->apic_base = (o)->apic_base; \
	} while (0)

static int sregs_get(struct kvm_vcpu *c, struct kvm_i_sregs *o, struct err *e)
{
	struct kvm_sregs2 s2;
	struct kvm_sregs s;

	memset(o, 0, sizeof(*o));
	if (kvm_has(&c->vm->caps, KC_SREGS2)) {
		TRY(kvm_vcpu_ioctl(c, KVM_GET_SREGS2, KVM_PTR(&s2)), KVM_GET_SREGS2, "registers");
		SREGS_FROM(o, &s2);
		o->sregs2_flags = s2.flags;
		memcpy(o->pdptrs, s2.pdptrs, sizeof(o->pdptrs));
		return 0;
	}
	TRY(kvm_vcpu_ioctl(c, KVM_GET_SREGS, KVM_PTR(&s)), KVM_GET_SREGS, "registers");
	SREGS_FROM(o, &s);
	memcpy(o->interrupt_bitmap, s.interrupt_bitmap, sizeof(o->interrupt_bitmap));
	return 0;
}

static int sregs_put(struct kvm_vcpu *c, const struct kvm_i_sregs *o, struct err *e)
{
	struct kvm_sregs2 s2 = {0};
	struct kvm_sregs s = {0};

	if (kvm_has(&c->vm->caps, KC_SREGS2)) {
		SREGS_TO(&s2, o);
		s2.flags = o->sregs2_flags;
		memcpy(s2.pdptrs, o->pdptrs, sizeof(s2.pdptrs));
		TRY(kvm_vcpu_ioctl(c, KVM_SET_SREGS2, KVM_PTR(&s2)), KVM_SET_SREGS2, "registers");
		return 0;
	}
	SREGS_TO(&s, o);
	memcpy(s.interrupt_bitmap, o->interrupt_bitmap, sizeof(s.interrupt_bitmap));
	TRY(kvm_vcpu_ioctl(c, KVM_SET_SREGS, KVM_PTR(&s)), KVM_SET_SREGS, "registers");
	return 0;
}

/* ---- x87, SSE, AVX ---- */

/* The standard form of the XSAVE area (SDM volume 1, "XSAVE Area"): legacy region, header at 512, components where CPUID 0DH says. */
#define X_FCW 0
#define X_FSW 2
#define X_FTW 4
#define X_FOP 6
#define X_FIP 8
#define X_FDP 16
#define X_MXCSR 24
#define X_MXCSR_MASK 28
#define X_ST 32
#define X_XMM 160
#define X_BV 512
#define X_LEGACY 576

struct part {
	unsigned bit;
	uint8_t *p;
	unsigned size;
};

/* The components that have a field. Those of 0 and 1 are the legacy region. */
static unsigned parts_of(const struct kvm_i_fp *o, struct part *p)
{
	struct kvm_i_fp *f = (struct kvm_i_fp *)(uintptr_t)o;
	const struct part all[] = {
		{2, f->avx, sizeof(f->avx)},
		{3, f->bndregs, sizeof(f->bndregs)},
		{4, f->bndcsr, sizeof(f->bndcsr)},
		{5, f->opmask, sizeof(f->opmask)},
		{6, f->zmm_hi256, sizeof(f->zmm_hi256)},
		{7, f->hi16_zmm, sizeof(f->hi16_zmm)},
		{9, f->pkru, sizeof(f->pkru)},
		{17, f->tilecfg, sizeof(f->tilecfg)},
		{18, f->tiledata, f->tiledata_len},
	};

	memcpy(p, all, sizeof(all));
	return ARRAY_SIZE(all);
}

static const struct kvm_cpuid_entry2 *xsave_leaf(const struct kvm_vm *vm, unsigned bit)
{
	for (unsigned i = 0; i < vm->cpuid->head.nent; i++) {
		const struct kvm_cpuid_entry2 *c = &vm->cpuid->entry[i];

		if (c->function == 0xd && c->index == bit)
			return c;
	}
	return NULL;
}

#define PARTS 9
#define LEGACY_BITS 3ull

static int area_split(struct kvm_vm *vm, const uint8_t *a, struct kvm_i_fp *o, struct err *e)
{
	struct part part[PARTS];
	const struct kvm_cpuid_entry2 *tile = xsave_leaf(vm, 18);
	uint64_t rest;
	unsigned n;

	memcpy(&o->fcw, a + X_FCW, 2);
	memcpy(&o->fsw, a + X_FSW, 2);
	o->ftw = a[X_FTW];
	memcpy(&o->fop, a + X_FOP, 2);
	memcpy(&o->fip, a + X_FIP, 8);
	memcpy(&o->fdp, a + X_FDP, 8);
	memcpy(&o->mxcsr, a + X_MXCSR, 4);
	memcpy(&o->mxcsr_mask, a + X_MXCSR_MASK, 4);
	memcpy(o->st, a + X_ST, sizeof(o->st));
	memcpy(o->xmm, a + X_XMM, sizeof(o->xmm));
	memcpy(&o->xstate_bv, a + X_BV, 8);
	if (o->xstate_bv >> 18 & 1 && tile && tile->eax <= KVM_TILEDATA_MAX) {
		o->tiledata = calloc(1, tile->eax);
		if (!o->tiledata)
			return err_set(e, -ENOMEM, "engine kvm: out of memory");
		o->tiledata_len = tile->eax;
	}
	rest = o->xstate_bv & ~LEGACY_BITS;
	n = parts_of(o, part);
	for (unsigned i = 0; i < n; i++) {
		const struct kvm_cpuid_entry2 *c = xsave_leaf(vm, part[i].bit);

		if (!(rest >> part[i].bit & 1) || !c || !part[i].size)
			continue;
		if ((uint64_t)c->ebx + c->eax > vm->xsave_size)
			continue;
		memcpy(part[i].p, a + c->ebx, MIN(part[i].size, c->eax));
		rest &= ~(1ull << part[i].bit);
	}
	return rest ? err_set(e, -ENOTSUP,
			      "engine kvm: this processor has extended registers (XSTATE %#llx) "
			      "that "
			      "Lodge cannot save",
			      (unsigned long long)rest)
		    : 0;
}

static int area_join(struct kvm_vm *vm, uint8_t *a, const struct kvm_i_fp *o, struct err *e)
{
	struct part part[PARTS];
	uint64_t rest = o->xstate_bv & ~LEGACY_BITS;
	unsigned n = parts_of(o, part);

	memset(a, 0, vm->xsave_size);
	memcpy(a + X_FCW, &o->fcw, 2);
	memcpy(a + X_FSW, &o->fsw, 2);
	a[X_FTW] = o->ftw;
	memcpy(a + X_FOP, &o->fop, 2);
	memcpy(a + X_FIP, &o->fip, 8);
	memcpy(a + X_FDP, &o->fdp, 8);
	memcpy(a + X_MXCSR, &o->mxcsr, 4);
	memcpy(a + X_MXCSR_MASK, &o->mxcsr_mask, 4);
	memcpy(a + X_ST, o->st, sizeof(o->st));
	memcpy(a + X_XMM, o->xmm, sizeof(o->xmm));
	memcpy(a + X_BV, &o->xstate_bv, 8);
	for (unsigned i = 0; i < n; i++) {
		const struct kvm_cpuid_entry2 *c = xsave_leaf(vm, part[i].bit);

		if (!(rest >> part[i].bit & 1) || !c || (uint64_t)c->ebx + c->eax > vm->xsave_size)
			continue;
		memcpy(a + c->ebx, part[i].p, MIN(part[i].size, c->eax));
		rest &= ~(1ull << part[i].bit);
	}
	return rest ? err_set(e, -ENOTSUP,
			      "CPU: the saved machine uses extended registers (XSTATE %#llx) that "
			      "this "
			      "host does not have",
			      (unsigned long long)rest)
		    : 0;
}

static void fpu_from(struct kvm_i_fp *o, const struct kvm_fpu *k)
{
	o->fcw = k->fcw;
	o->fsw = k->fsw;
	o->ftw = k->ftwx;
	o->fop = k->last_opcode;
	o->fip = k->last_ip;
	o->fdp = k->last_dp;
	o->mxcsr = k->mxcsr;
	memcpy(o->st, k->fpr, sizeof(o->st));
	memcpy(o->xmm, k->xmm, sizeof(o->xmm));
	o->xstate_bv = LEGACY_BITS;
}

static void fpu_to(struct kvm_fpu *k, const struct kvm_i_fp *o)
{
	memset(k, 0, sizeof(*k));
	k->fcw = o->fcw;
	k->fsw = o->fsw;
	k->ftwx = o->ftw;
	k->last_opcode = o->fop;
	k->last_ip = o->fip;
	k->last_dp = o->fdp;
	k->mxcsr = o->mxcsr;
	memcpy(k->fpr, o->st, sizeof(k->fpr));
	memcpy(k->xmm, o->xmm, sizeof(k->xmm));
}

static int fp_get(struct kvm_vcpu *c, struct kvm_i_fp *o, struct err *e)
{
	struct kvm_vm *vm = c->vm;
	cleanup(free_ptr) uint8_t *area = NULL;
	struct kvm_xcrs xcrs = {0};
	struct kvm_fpu fpu;

	free(o->tiledata);
	memset(o, 0, sizeof(*o));
	o->xcr0 = 1;
	if (kvm_has(&vm->caps, KC_XCRS)) {
		TRY(kvm_vcpu_ioctl(c, KVM_GET_XCRS, KVM_PTR(&xcrs)), KVM_GET_XCRS, "XCR0");
		for (unsigned i = 0; i < MIN(xcrs.nr_xcrs, (unsigned)KVM_MAX_XCRS); i++)
			if (!xcrs.xcrs[i].xcr)
				o->xcr0 = xcrs.xcrs[i].value;
	}
	if (!kvm_has(&vm->caps, KC_XSAVE)) {
		TRY(kvm_vcpu_ioctl(c, KVM_GET_FPU, KVM_PTR(&fpu)), KVM_GET_FPU, "FP registers");
		fpu_from(o, &fpu);
		return 0;
	}
	area = calloc(1, vm->xsave_size);
	if (!area)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	if (kvm_has(&vm->caps, KC_XSAVE2))
		TRY(kvm_vcpu_ioctl(c, KVM_GET_XSAVE2, KVM_PTR(area)), KVM_GET_XSAVE2,
			"FP registers");
	else
		TRY(kvm_vcpu_ioctl(c, KVM_GET_XSAVE, KVM_PTR(area)), KVM_GET_XSAVE, "FP registers");
	return area_split(vm, area, o, e);
}

static int fp_put(struct kvm_vcpu *c, const struct kvm_i_fp *o, struct err *e)
{
	struct kvm_vm *vm = c->vm;
	cleanup(free_ptr) uint8_t *area = NULL;
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = o->xcr0}}};
	struct kvm_fpu fpu;
	int rc;

	if (kvm_has(&vm->caps, KC_XCRS))
		TRY(kvm_vcpu_ioctl(c, KVM_SET_XCRS, KVM_PTR(&xcrs)), KVM_SET_XCRS, "XCR0");
	if (!kvm_has(&vm->caps, KC_XSAVE)) {
		if (o->xstate_bv & ~LEGACY_BITS)
			return err_set(e, -ENOTSUP,
				"CPU: the saved machine uses AVX, which this host's KVM cannot "
				"load");
		fpu_to(&fpu, o);
		TRY(kvm_vcpu_ioctl(c, KVM_SET_FPU, KVM_PTR(&fpu)), KVM_SET_FPU, "FP registers");
		return 0;
	}
	area = malloc(vm->xsave_size);
	if (!area)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	rc = area_join(vm, area, o, e);
	if (rc)
		return rc;
	TRY(kvm_vcpu_ioctl(c, KVM_SET_XSAVE, KVM_PTR(area)), KVM_SET_XSAVE, "FP registers");
	return 0;
}

/* ---- MSRs ---- */

#define MSR_BATCH 128u

struct msr_batch {
	struct kvm_msrs head;
	struct kvm_msr_entry e[MSR_BATCH];
};

/* What says what the host is rather than how the guest is (feature MSRs): not state. */
static bool msr_is_state(uint32_t i)
{
	return i != 0x8b && i != 0xce && i != 0x10a && i != 0x345 && i != 0xcf &&
	       !(i >= 0x480 && i <= 0x493);
}

int kvm_msrs_find(struct kvm_vm *vm, struct kvm_vcpu *c, struct err *e)
{
	struct kvm_msr_list ask = {.nmsrs = 0};
	cleanup(free_ptr) struct kvm_msr_list *list = NULL;
	int rc = vm->sys.ioctl(vm->sys.ctx, vm->dev, KVM_GET_MSR_INDEX_LIST, KVM_PTR(&ask));

	/* It says how many there are, by failing. */
	if (rc < 0 && rc != -E2BIG)
		return kvm_fail(e, rc, KVM_GET_MSR_INDEX_LIST, "MSRs");
	if (ask.nmsrs > 4096)
		return err_set(e, -E2BIG, "engine kvm: KVM lists %u MSRs", ask.nmsrs);
	list = calloc(1, sizeof(*list) + ask.nmsrs * sizeof(list->indices[0]));
	vm->msrs = calloc(KVM_IMAGE_MSRS, sizeof(*vm->msrs));
	if (!list || !vm->msrs)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	list->nmsrs = ask.nmsrs;
	rc = vm->sys.ioctl(vm->sys.ctx, vm->dev, KVM_GET_MSR_INDEX_LIST, KVM_PTR(list));
	if (rc < 0)
		return kvm_fail(e, rc, KVM_GET_MSR_INDEX_LIST, "MSRs");
	for (uint32_t i = 0; i < MIN(list->nmsrs, ask.nmsrs); i++) {
		struct msr_batch one = {.head.nmsrs = 1, .e = {{.index = list->indices[i]}}};

		/* The list is the kernel's; which of them this CPU model has, only reading tells. */
		if (msr_is_state(list->indices[i]) && vm->nmsrs < KVM_IMAGE_MSRS &&
			kvm_vcpu_ioctl(c, KVM_GET_MSRS, KVM_PTR(&one)) == 1)
			vm->msrs[vm->nmsrs++].index = list->indices[i];
	}
	return 0;
}

static int msrs_get(struct kvm_vcpu *c, struct kvm_image *im, struct err *e)
{
	const struct kvm_vm *vm = c->vm;
	struct msr_batch b;

	if (!im->msrs)
		im->msrs = calloc(KVM_IMAGE_MSRS, sizeof(*im->msrs));
	if (!im->msrs)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	im->nmsrs = vm->nmsrs;
	for (uint32_t at = 0, n; at < vm->nmsrs; at += n) {
		int rc;

		n = MIN(vm->nmsrs - at, MSR_BATCH);
		memset(&b, 0, sizeof(b));
		b.head.nmsrs = n;
		for (uint32_t i = 0; i < n; i++)
			b.e[i].index = vm->msrs[at + i].index;
		rc = kvm_vcpu_ioctl(c, KVM_GET_MSRS, KVM_PTR(&b));
		if (rc < 0)
			return kvm_fail(e, rc, KVM_GET_MSRS, "MSRs");
		if ((uint32_t)rc != n)
			return err_set(e, -EIO, "engine kvm: MSR %#x cannot be read any more",
				b.e[rc].index);
		for (uint32_t i = 0; i < n; i++)
			im->msrs[at + i] = (struct kvm_i_msr){b.e[i].index, b.e[i].data};
	}
	return 0;
}

static int msr_put(struct kvm_vcpu *c, const struct kvm_i_msr *m, struct err *e)
{
	struct msr_batch b = {.head.nmsrs = 1, .e = {{.index = m->index, .data = m->value}}};
	int rc = kvm_vcpu_ioctl(c, KVM_SET_MSRS, KVM_PTR(&b));

	if (rc == 1)
		return 0;
	if (rc < 0)
		return kvm_fail(e, rc, KVM_SET_MSRS, "MSRs");
	/* Read-only ones are fine as long as they say the same here; and so is nothing, where they do not exist. */
	b.e[0].data = 0;
	rc = kvm_vcpu_ioctl(c, KVM_GET_MSRS, KVM_PTR(&b));
	if (rc == 1 ? b.e[0].data == m->value : !m->value)
		return 0;
	return err_set(e, -EINVAL,
		"CPU: MSR %#x cannot be %#llx on this host: run the machine with a CPU model that "
		"both "
		"hosts have",
		m->index, (unsigned long long)m->value);
}

/* All but the deadline, or the deadline alone. */
static int msrs_put(struct kvm_vcpu *c, const struct kvm_image *im, bool deadline, struct err *e)
{
	struct msr_batch b;
	uint32_t n = 0;

	for (uint32_t i = 0; i <= im->nmsrs; i++) {
		int rc;

		if (n && (i == im->nmsrs || n == MSR_BATCH)) {
			uint32_t done;

			b.head = (struct kvm_msrs){.nmsrs = n};
			rc = kvm_vcpu_ioctl(c, KVM_SET_MSRS, KVM_PTR(&b));
			done = rc < 0 ? 0 : (uint32_t)rc;
			for (; done < n; done++) {
				struct kvm_i_msr m = {b.e[done].index, b.e[done].data};

				rc = msr_put(c, &m, e);
				if (rc)
					return rc;
			}
			n = 0;
		}
		if (i < im->nmsrs && (im->msrs[i].index == MSR_TSC_DEADLINE) == deadline)
			b.e[n++] = (struct kvm_msr_entry){
				.index = im->msrs[i].index, .data = im->msrs[i].value};
	}
	return 0;
}

/*
 * By its offset: what is written to the TSC's MSR within a second of what another vCPU has is taken for the same time, and moves nothing. What it
 * was to interrupt at is looked at anew when it is written.
 */
void kvm_tsc_move(struct kvm_vcpu *c, int64_t ns)
{
	struct msr_batch b = {.head.nmsrs = 1, .e = {{.index = MSR_TSC_DEADLINE}}};
	uint64_t offset;
	struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset};
	int khz = kvm_vcpu_ioctl(c, KVM_GET_TSC_KHZ, 0);

	if (khz <= 0 || !kvm_has(&c->vm->caps, KC_VCPU_ATTRIBUTES) ||
		kvm_vcpu_ioctl(c, KVM_GET_DEVICE_ATTR, KVM_PTR(&a)) < 0)
		return;
	offset += (uint64_t)(int64_t)((__int128)ns * khz / 1000000);
	if (kvm_vcpu_ioctl(c, KVM_SET_DEVICE_ATTR, KVM_PTR(&a)) < 0)
		return;
	if (kvm_vcpu_ioctl(c, KVM_GET_MSRS, KVM_PTR(&b)) == 1 && b.e[0].data)
		kvm_vcpu_ioctl(c, KVM_SET_MSRS, KVM_PTR(&b));
}

/* ---- local APIC: a register each 16 bytes ---- */

struct lapic_reg {
	uint16_t at, count;
	size_t offset;
};
#define LR(at, f, n) \
	{ \
		at, n, offsetof(struct kvm_i_lapic, f) \
	}
static const struct lapic_reg lapic_regs[] = {
	LR(0x20, id, 1),
	LR(0x30, version, 1),
	LR(0x80, tpr, 1),
	LR(0x90, arb, 1),
	LR(0xa0, ppr, 1),
	LR(0xd0, ldr, 1),
	LR(0xe0, dfr, 1),
	LR(0xf0, svr, 1),
	LR(0x100, isr, 8),
	LR(0x180, tmr, 8),
	LR(0x200, irr, 8),
	LR(0x280, esr, 1),
	LR(0x2f0, lvt_cmci, 1),
	LR(0x300, icr_low, 1),
	LR(0x310, icr_high, 1),
	LR(0x320, lvt_timer, 1),
	LR(0x330, lvt_thermal, 1),
	LR(0x340, lvt_perf, 1),
	LR(0x350, lvt_lint0, 1),
	LR(0x360, lvt_lint1, 1),
	LR(0x370, lvt_error, 1),
	LR(0x380, timer_initial, 1),
	LR(0x390, timer_current, 1),
	LR(0x3e0, timer_divide, 1),
};

static int lapic_get(struct kvm_vcpu *c, struct kvm_i_lapic *o, struct err *e)
{
	struct kvm_lapic_state s;

	TRY(kvm_vcpu_ioctl(c, KVM_GET_LAPIC, KVM_PTR(&s)), KVM_GET_LAPIC, "local APIC");
	for (unsigned i = 0; i < ARRAY_SIZE(lapic_regs); i++)
		for (unsigned k = 0; k < lapic_regs[i].count; k++)
			memcpy((char *)o + lapic_regs[i].offset + 4 * k,
				s.regs + lapic_regs[i].at + 16 * k, 4);
	return 0;
}

static int lapic_put(struct kvm_vcpu *c, const struct kvm_i_lapic *o, struct err *e)
{
	struct kvm_lapic_state s;

	memset(&s, 0, sizeof(s));
	for (unsigned i = 0; i < ARRAY_SIZE(lapic_regs); i++)
		for (unsigned k = 0; k < lapic_regs[i].count; k++)
			memcpy(s.regs + lapic_regs[i].at + 16 * k,
				(const char *)o + lapic_regs[i].offset + 4 * k, 4);
	TRY(kvm_vcpu_ioctl(c, KVM_SET_LAPIC, KVM_PTR(&s)), KVM_SET_LAPIC, "local APIC");
	return 0;
}

/* ---- events ---- */

static int events_get(struct kvm_vcpu *c, struct kvm_i_events *o, struct err *e)
{
	struct kvm_vcpu_events k;

	memset(&k, 0, sizeof(k));
	TRY(kvm_vcpu_ioctl(c, KVM_GET_VCPU_EVENTS, KVM_PTR(&k)), KVM_GET_VCPU_EVENTS, "events");
	*o = (struct kvm_i_events){
		.exception_injected = k.exception.injected,
		.exception_nr = k.exception.nr,
		.exception_has_error_code = k.exception.has_error_code,
		.exception_pending = k.exception.pending,
		.exception_has_payload = k.exception_has_payload,
		.exception_error_code = k.exception.error_code,
		.exception_payload = k.exception_payload,
		.interrupt_injected = k.interrupt.injected,
		.interrupt_nr = k.interrupt.nr,
		.interrupt_soft = k.interrupt.soft,
		.interrupt_shadow = k.interrupt.shadow,
		.nmi_injected = k.nmi.injected,
		.nmi_pending = k.nmi.pending,
		.nmi_masked = k.nmi.masked,
		.smi_smm = k.smi.smm,
		.smi_pending = k.smi.pending,
		.smi_inside_nmi = k.smi.smm_inside_nmi,
		.smi_latched_init = k.smi.latched_init,
		.triple_fault_pending = k.triple_fault.pending,
		.sipi_vector = k.sipi_vector,
		.flags = k.flags,
	};
	return 0;
}

static int events_put(struct kvm_vcpu *c, const struct kvm_i_events *o, struct err *e)
{
	const struct kvm_caps *caps = &c->vm->caps;
	struct kvm_vcpu_events k;
	uint32_t may = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
		       KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;

	if (kvm_has(caps, KC_EXCEPTION_PAYLOAD))
		may |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (kvm_has(caps, KC_TRIPLE_FAULT_EVENT))
		may |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	memset(&k, 0, sizeof(k));
	k.exception.injected = o->exception_injected;
	k.exception.nr = o->exception_nr;
	k.exception.has_error_code = o->exception_has_error_code;
	k.exception.pending = o->exception_pending;
	k.exception.error_code = o->exception_error_code;
	k.exception_has_payload = o->exception_has_payload;
	k.exception_payload = o->exception_payload;
	k.interrupt.injected = o->interrupt_injected;
	k.interrupt.nr = o->interrupt_nr;
	k.interrupt.soft = o->interrupt_soft;
	k.interrupt.shadow = o->interrupt_shadow;
	k.nmi.injected = o->nmi_injected;
	k.nmi.pending = o->nmi_pending;
	k.nmi.masked = o->nmi_masked;
	k.smi.smm = o->smi_smm;
	k.smi.pending = o->smi_pending;
	k.smi.smm_inside_nmi = o->smi_inside_nmi;
	k.smi.latched_init = o->smi_latched_init;
	k.triple_fault.pending = o->triple_fault_pending;
	k.sipi_vector = o->sipi_vector;
	k.flags = (o->flags | KVM_VCPUEVENT_VALID_NMI_PENDING) & may;
	TRY(kvm_vcpu_ioctl(c, KVM_SET_VCPU_EVENTS, KVM_PTR(&k)), KVM_SET_VCPU_EVENTS, "events");
	return 0;
}

/* ---- all of it ---- */

static int parts_get(struct kvm_vcpu *c, struct kvm_image *im, struct err *e)
{
	struct kvm_debugregs dr;
	struct kvm_mp_state mp;
	struct kvm_regs regs;
	int rc;

	/* Asking for the state of waiting first lets the kernel take an INIT or SIPI that is on its way. */
	TRY(kvm_vcpu_ioctl(c, KVM_GET_MP_STATE, KVM_PTR(&mp)), KVM_GET_MP_STATE, "state");
	im->mp_state = mp.mp_state;
	TRY(kvm_vcpu_ioctl(c, KVM_GET_REGS, KVM_PTR(&regs)), KVM_GET_REGS, "registers");
	regs_from(&im->regs, &regs);
	rc = sregs_get(c, &im->sregs, e);
	if (!rc)
		rc = fp_get(c, &im->fp, e);
	if (!rc)
		rc = msrs_get(c, im, e);
	if (!rc)
		rc = lapic_get(c, &im->lapic, e);
	if (!rc)
		rc = events_get(c, &im->events, e);
	if (rc)
		return rc;
	TRY(kvm_vcpu_ioctl(c, KVM_GET_DEBUGREGS, KVM_PTR(&dr)), KVM_GET_DEBUGREGS,
		"debug registers");
	memcpy(im->db, dr.db, sizeof(im->db));
	im->dr6 = dr.dr6;
	im->dr7 = dr.dr7;
	im->tsc_khz = 0;
	if (kvm_has(&c->vm->caps, KC_GET_TSC_KHZ)) {
		rc = kvm_vcpu_ioctl(c, KVM_GET_TSC_KHZ, 0);
		im->tsc_khz = rc < 0 ? 0 : (uint32_t)rc;
	}
	return 0;
}

int kvm_image_get(struct kvm_vcpu *c, struct kvm_image *im, struct err *e)
{
	int rc;

	im->whole = false;
	rc = parts_get(c, im, e);
	im->whole = !rc;
	return rc;
}

static int put_tsc_khz(struct kvm_vcpu *c, uint32_t khz, struct err *e)
{
	const struct kvm_caps *caps = &c->vm->caps;
	int now;

	if (!khz || !kvm_has(caps, KC_GET_TSC_KHZ))
		return 0;
	now = kvm_vcpu_ioctl(c, KVM_GET_TSC_KHZ, 0);
	/* Two hosts of one kind are measured a little differently; guests correct for 250 ppm and more. */
	if (now < 0 || labs((long)now - (long)khz) <= (long)khz / 4000)
		return 0;
	if (kvm_has(caps, KC_TSC_CONTROL) && kvm_vcpu_ioctl(c, KVM_SET_TSC_KHZ, khz) >= 0)
		return 0;
	return err_set(e, -ENOTSUP,
		"CPU: the saved machine's time-stamp counter runs at %u kHz, this host's at %d and "
		"it "
		"cannot scale it",
		khz, now);
}

int kvm_image_put(struct kvm_vcpu *c, const struct kvm_image *im, struct err *e)
{
	struct kvm_debugregs dr = {.dr6 = im->dr6, .dr7 = im->dr7};
	struct kvm_mp_state mp = {.mp_state = im->mp_state};
	struct kvm_regs regs;
	int rc = put_tsc_khz(c, im->tsc_khz, e);

	if (!rc)
		rc = sregs_put(c, &im->sregs, e);
	if (rc)
		return rc;
	regs_to(&regs, &im->regs);
	TRY(kvm_vcpu_ioctl(c, KVM_SET_REGS, KVM_PTR(&regs)), KVM_SET_REGS, "registers");
	rc = fp_put(c, &im->fp, e);
	if (!rc)
		rc = msrs_put(c, im, false, e);
	if (!rc)
		rc = lapic_put(c, &im->lapic, e);
	if (!rc)
		rc = msrs_put(c, im, true, e);
	if (rc)
		return rc;
	memcpy(dr.db, im->db, sizeof(dr.db));
	TRY(kvm_vcpu_ioctl(c, KVM_SET_DEBUGREGS, KVM_PTR(&dr)), KVM_SET_DEBUGREGS,
		"debug registers");
	/* Before the events: setting it drops a pending SIPI, which they carry. */
	TRY(kvm_vcpu_ioctl(c, KVM_SET_MP_STATE, KVM_PTR(&mp)), KVM_SET_MP_STATE, "state");
	return events_put(c, &im->events, e);
}

int kvm_image_copy(struct kvm_image *to, const struct kvm_image *from)
{
	struct kvm_i_msr *m = to->msrs ?: calloc(KVM_IMAGE_MSRS, sizeof(*m));
	uint8_t *tile = NULL;

	if (from->fp.tiledata_len) {
		tile = malloc(from->fp.tiledata_len);
		if (tile)
			memcpy(tile, from->fp.tiledata, from->fp.tiledata_len);
	}
	if (!m || (from->fp.tiledata_len && !tile)) {
		if (!to->msrs)
			free(m);
		free(tile);
		return -ENOMEM;
	}
	free(to->fp.tiledata);
	*to = *from;
	to->msrs = m;
	to->fp.tiledata = tile;
	memcpy(m, from->msrs, from->nmsrs * sizeof(*m));
	return 0;
}

void kvm_image_free(struct kvm_image *im)
{
	free(im->msrs);
	free(im->fp.tiledata);
	im->msrs = NULL;
	im->fp.tiledata = NULL;
}
