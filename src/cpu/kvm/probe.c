/*
 * probe.c: does this host's KVM run kernel code on hardware?
 *
 * Some hosts, which are guests themselves, offer a /dev/kvm that runs programs natively and interprets ring 0. No ioctl tells; so a machine of two
 * pages counts down in ring 0 of 32-bit protected mode (no tables are needed for that), and the same loop is timed on the host.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "cpu/kvm/caps.h"
#include "cpu/kvm/probe.h"
#include "cpu/kvm/sys.h"

#define CODE 0x1000u
#define PAGES 0x2000u
#define TURNS \
	400u /* interpreted, 0.2 ms; on hardware, enough to stand out of what an exit costs more or less */
#define ROUNDS 8u
#define ENOUGH_NS 400000u /* of rounds: whoever is so slow has shown it */

/* mov ecx, [esi]; dec ecx; jnz -3; out 0x10, al; jmp back to the start */
static const uint8_t code[] = {0x8b, 0x0e, 0x49, 0x75, 0xfd, 0xe6, 0x10, 0xeb, 0xf7};

struct probe {
	const struct kvm_sys *sys;
	int kvm, vm, vcpu;
	void *mem;
	struct kvm_run *run;
	size_t run_len;
};

static int call(struct probe *p, int fd, unsigned long nr, const void *arg, struct err *e)
{
	int rc = p->sys->ioctl(p->sys->ctx, fd, nr, (uintptr_t)arg);

	return rc < 0 ? err_sys(e, rc, "KVM probe: %s", kvm_sys_name(nr)) : rc;
}

static int set_registers(struct probe *p, struct err *e)
{
	struct kvm_segment flat = {.limit = 0xffffffff,
		.type = 3,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
		.selector = 16};
	struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsi = CODE + 0x800};
	struct kvm_sregs s;
	int rc = call(p, p->vcpu, KVM_GET_SREGS, &s, e);

	if (rc < 0)
		return rc;
	s.ds = s.es = s.fs = s.gs = s.ss = s.cs = flat;
	s.cs.type = 11;
	s.cs.selector = 8;
	s.cr0 |= 1; /* PE */
	rc = call(p, p->vcpu, KVM_SET_SREGS, &s, e);
	return rc < 0 ? rc : call(p, p->vcpu, KVM_SET_REGS, &regs, e);
}

static int build(struct probe *p, struct err *e)
{
	struct kvm_userspace_memory_region slot = {.memory_size = PAGES};
	int rc;

	p->mem = mmap(NULL, PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->mem == MAP_FAILED) {
		p->mem = NULL;
		return err_sys(e, -errno, "KVM probe: memory");
	}
	memcpy((char *)p->mem + CODE, code, sizeof(code));
	slot.userspace_addr = (uintptr_t)p->mem;
	p->vm = call(p, p->kvm, KVM_CREATE_VM, NULL, e);
	if (p->vm < 0)
		return p->vm;
	rc = call(p, p->vm, KVM_SET_USER_MEMORY_REGION, &slot, e);
	if (rc < 0)
		return rc;
	p->vcpu = call(p, p->vm, KVM_CREATE_VCPU, NULL, e);
	if (p->vcpu < 0)
		return p->vcpu;
	rc = call(p, p->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, e);
	if (rc < 0)
		return rc;
	p->run_len = (size_t)rc;
	rc = p->sys->map(p->sys->ctx, p->vcpu, p->run_len, 0, (void **)&p->run);
	if (rc < 0) {
		p->run = NULL;
		return err_sys(e, rc, "KVM probe: vCPU's memory");
	}
	return set_registers(p, e);
}

static void end(struct probe *p)
{
	if (p->run)
		p->sys->unmap(p->sys->ctx, p->run, p->run_len);
	if (p->vcpu >= 0)
		p->sys->close(p->sys->ctx, p->vcpu);
	if (p->vm >= 0)
		p->sys->close(p->sys->ctx, p->vm);
	if (p->kvm >= 0)
		p->sys->close(p->sys->ctx, p->kvm);
	if (p->mem)
		munmap(p->mem, PAGES);
}

/* Nanoseconds of one entry with so many turns of the loop: the best of a few. */
static int time_guest(struct probe *p, uint32_t turns, uint64_t *ns, struct err *e)
{
	uint64_t spent = 0;

	*ns = UINT64_MAX;
	memcpy((char *)p->mem + CODE + 0x800, &turns, sizeof(turns));
	for (unsigned i = 0; i < ROUNDS && spent < ENOUGH_NS; i++) {
		uint64_t t = clock_mono_ns();
		int rc;

		do
			rc = p->sys->ioctl(p->sys->ctx, p->vcpu, KVM_RUN, 0);
		while (rc == -EINTR || rc == -EAGAIN);
		t = clock_mono_ns() - t;
		if (rc < 0)
			return err_sys(e, rc, "KVM probe: KVM_RUN");
		if (p->run->exit_reason != KVM_EXIT_IO)
			return err_set(e, -EIO,
				"KVM probe: a loop of three instructions left by exit %u",
				p->run->exit_reason);
		*ns = MIN(*ns, t);
		spent += t;
	}
	return 0;
}

static uint64_t time_host(uint32_t turns)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t t = clock_mono_ns();
		uint32_t n = turns;

		__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(n) : : "cc");
		best = MIN(best, clock_mono_ns() - t);
	}
	return MAX(best, 1ull);
}

int kvm_privileged_on(const struct kvm_sys *sys, double *slower, struct err *e)
{
	struct probe p = {.sys = sys, .kvm = -1, .vm = -1, .vcpu = -1};
	uint64_t few = 0, many = 0;
	int rc = kvm_host_open(sys, &p.kvm, e);

	if (rc) {
		p.kvm = -1;
		return rc;
	}
	rc = build(&p, e);
	if (rc >= 0)
		rc = time_guest(&p, 1, &few, e); /* what going in and out costs */
	if (!rc)
		rc = time_guest(&p, TURNS, &many, e);
	if (!rc)
		*slower = (double)(many > few ? many - few : 0) / (double)time_host(TURNS);
	end(&p);
	return rc < 0 ? rc : 0;
}

int kvm_privileged(double *slower, struct err *e)
{
	return kvm_privileged_on(&kvm_sys_host, slower, e);
}
