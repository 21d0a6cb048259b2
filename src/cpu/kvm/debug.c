/*
 * debug.c: for debuggers: registers in gdb's order, translation, stops.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/err.h"
#include "cpu/kvm/priv.h"

int kvm_translate(struct vcpu *v, uint64_t gva, enum mem_access acc, gpa_t *out)
{
	struct kvm_translation t = {.linear_address = gva};
	int rc = kvm_vcpu_ioctl(kvm_vcpu_of(v), KVM_TRANSLATE, KVM_PTR(&t));

	/* The kernel walks as a supervisor's read; it does not say what a write would find. */
	if (rc < 0 || !t.valid)
		return -EFAULT;
	*out = gpa(t.physical_address);
	return 0;
}

/*
 * gdb's feature org.gnu.gdb.i386.core for amd64: rax rbx rcx rdx rsi rdi rbp rsp r8-r15 rip eflags cs ss ds es fs gs; then, of
 * org.gnu.gdb.i386.segments, fs_base gs_base; then cr0 cr2 cr3 cr4 cr8 efer.
 */
static const uint16_t general[] = {
	offsetof(struct kvm_regs, rax),
	offsetof(struct kvm_regs, rbx),
	offsetof(struct kvm_regs, rcx),
	offsetof(struct kvm_regs, rdx),
	offsetof(struct kvm_regs, rsi),
	offsetof(struct kvm_regs, rdi),
	offsetof(struct kvm_regs, rbp),
	offsetof(struct kvm_regs, rsp),
	offsetof(struct kvm_regs, r8),
	offsetof(struct kvm_regs, r9),
	offsetof(struct kvm_regs, r10),
	offsetof(struct kvm_regs, r11),
	offsetof(struct kvm_regs, r12),
	offsetof(struct kvm_regs, r13),
	offsetof(struct kvm_regs, r14),
	offsetof(struct kvm_regs, r15),
	offsetof(struct kvm_regs, rip),
	offsetof(struct kvm_regs, rflags),
};

enum { R_SEGMENTS = 18, R_FS_BASE = 24, R_CR0 = 26, R_END = 32 };

static struct kvm_segment *segment(struct kvm_sregs *s, unsigned i)
{
	struct kvm_segment *const all[] = {&s->cs, &s->ss, &s->ds, &s->es, &s->fs, &s->gs};

	return all[i];
}

static __u64 *special(struct kvm_sregs *s, unsigned n)
{
	__u64 *const all[] = {
		&s->fs.base, &s->gs.base, &s->cr0, &s->cr2, &s->cr3, &s->cr4, &s->cr8, &s->efer};

	return all[n - R_FS_BASE];
}

int kvm_reg_get(struct vcpu *v, unsigned n, uint64_t *val)
{
	struct kvm_vcpu *c = kvm_vcpu_of(v);
	struct kvm_regs r;
	struct kvm_sregs s;
	int rc;

	if (n >= R_END)
		return -ENOENT;
	if (n < R_SEGMENTS) {
		rc = kvm_vcpu_ioctl(c, KVM_GET_REGS, KVM_PTR(&r));
		if (!rc)
			memcpy(val, (char *)&r + general[n], sizeof(*val));
		return rc;
	}
	rc = kvm_vcpu_ioctl(c, KVM_GET_SREGS, KVM_PTR(&s));
	if (!rc)
		*val = n < R_FS_BASE ? segment(&s, n - R_SEGMENTS)->selector : *special(&s, n);
	return rc;
}

int kvm_reg_set(struct vcpu *v, unsigned n, uint64_t val)
{
	struct kvm_vcpu *c = kvm_vcpu_of(v);
	struct kvm_regs r;
	struct kvm_sregs s;
	int rc;

	if (n >= R_END)
		return -ENOENT;
	if (n < R_SEGMENTS) {
		rc = kvm_vcpu_ioctl(c, KVM_GET_REGS, KVM_PTR(&r));
		if (rc)
			return rc;
		memcpy((char *)&r + general[n], &val, sizeof(val));
		return kvm_vcpu_ioctl(c, KVM_SET_REGS, KVM_PTR(&r));
	}
	/* A selector without the descriptor behind it would be no segment. */
	if (n < R_FS_BASE)
		return -EPERM;
	rc = kvm_vcpu_ioctl(c, KVM_GET_SREGS, KVM_PTR(&s));
	if (rc)
		return rc;
	*special(&s, n) = val;
	return kvm_vcpu_ioctl(c, KVM_SET_SREGS, KVM_PTR(&s));
}

int kvm_debug(struct vcpu *v, const struct cpu_debug *d, struct err *e)
{
	struct kvm_vcpu *c = kvm_vcpu_of(v);
	struct kvm_guest_debug g = {0};
	uint64_t dr7 = 1u << 10; /* the bit that is always one */
	bool any = false;
	int rc;

	if (!kvm_has(&c->vm->caps, KC_GUEST_DEBUG))
		return err_set(e, -ENOTSUP, "engine kvm: this host's KVM has no guest debugging");
	for (unsigned i = 0; i < CPU_DEBUG_POINTS; i++) {
		const struct cpu_debug_point *p = &d->point[i];
		static const uint8_t lens[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
		unsigned rw = p->access == MEM_EXEC ? 0 : p->access == MEM_WRITE ? 1 : 3;

		if (!p->len)
			continue;
		if (p->len > 8 || (p->len & (p->len - 1)) || p->gva & (p->len - 1u) ||
			(!rw && p->len != 1))
			return err_set(e, -EINVAL,
				"stop at %#llx: 1, 2, 4 or 8 aligned bytes, and 1 for instructions",
				(unsigned long long)p->gva);
		/* SDM volume 3, "Debug Control Register (DR7)": global enable, then R/W and LEN. */
		dr7 |= 2ull << (2 * i) | (uint64_t)(rw | lens[p->len] << 2) << (16 + 4 * i);
		g.arch.debugreg[i] = p->gva;
		any = true;
	}
	if (d->step)
		g.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	if (d->soft)
		g.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	if (any)
		g.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	g.arch.debugreg[7] = dr7;
	rc = kvm_vcpu_ioctl(c, KVM_SET_GUEST_DEBUG, KVM_PTR(&g));
	return rc < 0 ? kvm_fail(e, rc, KVM_SET_GUEST_DEBUG, "debug") : 0;
}
