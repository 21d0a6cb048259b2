#include "kvm_bare.h"

#include <linux/kvm.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/err.h"

static int shim_open(void *ctx, const char *path)
{
	struct kb_shim *s = ctx;

	return s->open_with ?: kvm_sys_host.open(NULL, path);
}

/* Is it this call's turn? */
static bool fails(struct kb_shim *s, unsigned long nr)
{
	if (!s->fail_at || (s->fail_nr && s->fail_nr != nr))
		return false;
	s->calls++;
	if (s->calls < s->fail_at || s->calls >= s->fail_at + (s->fail_times ?: 1))
		return false;
	s->failed++;
	s->last = nr;
	return true;
}

static int shim_ioctl(void *ctx, int fd, unsigned long nr, uintptr_t arg)
{
	struct kb_shim *s = ctx;
	int rc;

	if (nr == KVM_GET_API_VERSION && s->version)
		return s->version;
	if (nr == KVM_CHECK_EXTENSION) {
		for (unsigned i = 0; s->hide && kvm_cap_row(i); i++)
			if ((uintptr_t)kvm_cap_row(i)->nr == arg &&
				!strcmp(kvm_cap_row(i)->name, s->hide))
				return 0;
		return kvm_sys_host.ioctl(NULL, fd, nr, arg);
	}
	if (nr == KVM_SET_CPUID2) {
		const struct kvm_cpuid2 *c = (const void *)arg;

		memcpy(s->cpuid, c, sizeof(*c) + c->nent * sizeof(c->entries[0]));
	}
	/* The search for MSRs asks for each alone; one of them stands for all. */
	if (nr == KVM_GET_MSRS && ((const struct kvm_msrs *)arg)->nmsrs == 1 && s->msrs++)
		return kvm_sys_host.ioctl(NULL, fd, nr, arg);
	if (fails(s, nr))
		return s->fail_with;
	if (nr == KVM_SET_DEVICE_ATTR)
		s->tsc_is = *(uint64_t *)((const struct kvm_device_attr *)arg)->addr;
	rc = kvm_sys_host.ioctl(NULL, fd, nr, arg);
	if (nr == KVM_GET_DEVICE_ATTR && rc >= 0)
		s->tsc_was = *(uint64_t *)((const struct kvm_device_attr *)arg)->addr;
	return rc;
}

static int shim_map(void *ctx, int fd, size_t len, uint64_t off, void **out)
{
	struct kb_shim *s = ctx;

	if (fails(s, KB_MAP))
		return s->fail_with;
	return kvm_sys_host.map(NULL, fd, len, off, out);
}

const struct kvm_sys *kb_shim(struct kb_shim *s)
{
	s->sys = kvm_sys_host;
	s->sys.open = shim_open;
	s->sys.ioctl = shim_ioctl;
	s->sys.map = shim_map;
	s->sys.ctx = s;
	return &s->sys;
}

uint32_t *kb_shim_leaf(struct kb_shim *s, uint32_t function, uint32_t index)
{
	struct kvm_cpuid2 *c = (void *)s->cpuid;

	for (unsigned i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i].eax;
	return NULL;
}

static void tables(struct kvm_bare *b)
{
	kb_put(b, KB_TABLES, (KB_TABLES + 0x1000) | 7);
	for (unsigned i = 0; i < 4; i++) {
		kb_put(b, KB_TABLES + 0x1000 + 8 * i, (KB_TABLES + 0x2000 + 0x1000 * i) | 7);
		for (unsigned k = 0; k < 512; k++)
			kb_put(b, KB_TABLES + 0x2000 + 0x1000 * i + 8 * k,
				((uint64_t)(i * 512 + k) << 21) | 0x87);
	}
}

static void interrupts(struct kvm_bare *b)
{
	kb_put(b, KB_GDT + 0x10, 0x00af9b000000ffff); /* code, 64-bit */
	kb_put(b, KB_GDT + 0x18, 0x00cf93000000ffff);
	kb_put(b, KB_GDT + 0x100, 0x1f | KB_GDT << 16);
	kb_put(b, KB_GDT + 0x108, 0);
	kb_put(b, KB_GDT + 0x110, 0xfff | KB_IDT << 16);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t at = KB_STUBS + 32 * v;
		uint32_t count = (uint32_t)KB_COUNT(v);
		/* inc qword [count]; push rax; mov eax, 0xfee000b0; mov dword [rax], 0; pop rax; iretq */
		uint8_t stub[] = {0x48, 0xff, 0x04, 0x25, 0, 0, 0, 0, 0x50, 0xb8, 0xb0, 0, 0xe0,
			0xfe, 0xc7, 0, 0, 0, 0, 0, 0x58, 0x48, 0xcf};

		memcpy(stub + 4, &count, 4);
		assert_int_equal(space_write(b->space, gpa(at), stub, sizeof(stub)), 0);
		kb_put(b, KB_IDT + 16 * v, (at & 0xffff) | 0x10 << 16 | 0x8e00ull << 32);
		kb_put(b, KB_IDT + 16 * v + 8, 0);
	}
}

struct kvm_bare *kb_new_with(const struct cpu_vm_opts *opts, const struct kvm_sys *sys)
{
	struct frames_opts fo = {.nodes = 1, .node_bytes = {4 * KB_RAM}, .name = "bare"};
	struct cpu_vm_opts o = *opts;
	struct kvm_bare *b;
	struct err e = {0};

	if (kvm_available_on(&kvm_sys_host, &e)) {
		print_message("SKIP: %s\n", err_msg(&e));
		skip();
	}
	b = calloc(1, sizeof(*b));
	assert_int_equal(frames_create(&b->frames, &fo, &e), 0);
	assert_int_equal(space_create(&b->space, b->frames, &e), 0);
	assert_int_equal(space_add_ram(b->space, gpa(0), KB_RAM, 0, "ram", &e), 0);
	tables(b);
	interrupts(b);
	o.space = b->space;
	if (kvm_vm_create_on(&b->vm, &o, sys, &e))
		fail_msg("%s", err_msg(&e));
	for (b->n = 0; b->n < o.vcpus; b->n++)
		if (kvm_engine.vcpu_create(&b->v[b->n], b->vm, b->n, &e))
			fail_msg("%s", err_msg(&e));
	return b;
}

struct kvm_bare *kb_new(unsigned vcpus)
{
	return kb_new_with(&(struct cpu_vm_opts){.vcpus = vcpus}, &kvm_sys_host);
}

void kb_free(struct kvm_bare *b)
{
	kvm_engine.vm_destroy(b->vm);
	space_destroy(b->space);
	frames_destroy(b->frames);
	free(b);
}

void kb_load(struct kvm_bare *b, const uint8_t *from, const uint8_t *to)
{
	assert_int_equal(space_write(b->space, gpa(KB_CODE), from, (size_t)(to - from)), 0);
	for (unsigned i = 0; i < b->n; i++)
		kvm_engine.vcpu_reset(b->v[i], &(struct cpu_boot){.pc = KB_CODE,
						       .mode = CPU_BOOT_LONG,
						       .tables = KB_TABLES,
						       .stack = KB_STACK,
						       .running = !i});
}

void kb_exit(struct kvm_bare *b, unsigned i, struct cpu_exit *x)
{
	uint64_t end = clock_mono_ns() + 5000000000ull;

	do {
		kvm_engine.vcpu_run(b->v[i], 100000000, x);
		if (x->reason != CPU_EXIT_BUDGET)
			return;
	} while (clock_mono_ns() < end);
	fail_msg("vCPU %u does not leave: pc %#lx", i, (unsigned long)x->pc);
}

unsigned kb_end(struct kvm_bare *b, unsigned i, struct cpu_exit *x)
{
	kb_exit(b, i, x);
	if (x->reason == CPU_EXIT_ERROR)
		fail_msg("%s", x->text);
	assert_int_equal(x->reason, CPU_EXIT_PIO);
	assert_int_equal(x->mmio.gpa.v, KB_END);
	assert_true(x->mmio.write);
	kvm_engine.vcpu_run(b->v[i], 0, x);
	return x->mmio.data & 0xff;
}

uint64_t kb_get(struct kvm_bare *b, uint64_t addr)
{
	uint64_t v;

	assert_int_equal(space_read(b->space, gpa(addr), &v, sizeof(v)), 0);
	return v;
}

void kb_put(struct kvm_bare *b, uint64_t addr, uint64_t v)
{
	assert_int_equal(space_write(b->space, gpa(addr), &v, sizeof(v)), 0);
}
