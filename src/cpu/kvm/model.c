/*
 * model.c: what CPUID says to a guest: a model (features.h) over what KVM supports here, and the topology.
 *
 * The model "host" is what KVM_GET_SUPPORTED_CPUID says, with every leaf. A named model is the same on each host that has its features: what
 * else differs between processors (signature, caches, sizes, frequencies, performance counters) is fixed or left out.
 * Source: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.4; KVM's own leaves: Documentation/virt/kvm/x86/cpuid.rst.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "cpu/kvm/priv.h"

#define LEAF_KVM_FEATURES 0x40000001u
/* clocksource, nop_io_delay, clocksource2, steal time, PV EOI, unhalt, TLB flush, send IPI, poll control, yield, stable clock */
#define KVM_NAMED_FEATURES 0x01003aebu
#define NAMED_MAX_LEAF 0xdu
#define NAMED_MAX_EXT 0x80000008u
#define NAMED_PHYS_BITS 40u

/* Leaves that a named model has; others say what this processor is. */
static bool keeps(const struct kvm_cpuid_entry2 *c)
{
	switch (c->function) {
	case 0:
	case 1:
	case 7:
	case 0xb:
	case 0xd:
	case 0x80000000:
	case 0x80000001:
	case 0x80000002 ... 0x80000004:
	case 0x80000007:
	case 0x80000008:
	case 0x40000000:
	case LEAF_KVM_FEATURES:
		return true;
	default:
		return false;
	}
}

static void name_leaf(struct kvm_cpuid_entry2 *c)
{
	static const char brand[48] = "Lodge virtual processor";

	memcpy(&c->eax, brand + 16 * (c->function - 0x80000002), 16);
}

/* Components of XSAVE that belong to features which the guest has. */
static uint32_t xcr0_of(const struct feature_set *f, uint32_t host)
{
	uint32_t may = 3;

	if (f->w[FW_1_ECX] >> 28 & 1)
		may |= 4;
	if (f->w[FW_7_EBX] >> 16 & 1)
		may |= 7u << 5;
	if (f->w[FW_7_EBX] >> 14 & 1)
		may |= 3u << 3;
	if (f->w[FW_7_ECX] >> 3 & 1)
		may |= 1u << 9;
	if (f->w[FW_7_EDX] >> 24 & 1)
		may |= 3u << 17;
	return host & may;
}

static void named(struct kvm_leaves *l, const struct feature_set *f)
{
	struct kvm_cpuid_entry2 *c = kvm_leaf(l, 0, 0);
	bool intel = c && c->ebx == 0x756e6547;
	unsigned n = 0;

	for (unsigned i = 0; i < l->head.nent; i++)
		if (keeps(&l->entry[i]))
			l->entry[n++] = l->entry[i];
	l->head.nent = n;
	for (unsigned i = 0; i < n; i++) {
		c = &l->entry[i];
		if (c->function == 0)
			c->eax = MIN(c->eax, NAMED_MAX_LEAF);
		else if (c->function == 1)
			c->eax = intel ? 0x000006f1 : 0x00800f11;
		else if (c->function == 7 && c->index > 1)
			c->eax = c->ebx = c->ecx = c->edx = 0;
		else if (c->function == 7)
			c->eax = c->index ? c->eax : 1;
		else if (c->function == 0xd && !c->index)
			c->eax = xcr0_of(f, c->eax);
		else if (c->function == 0x80000000)
			c->eax = MIN(c->eax, NAMED_MAX_EXT);
		else if (c->function >= 0x80000002 && c->function <= 0x80000004)
			name_leaf(c);
		else if (c->function == 0x80000008)
			c->eax = (c->eax & ~0xffu) | MIN(c->eax & 0xff, NAMED_PHYS_BITS);
		else if (c->function == LEAF_KVM_FEATURES)
			c->eax &= KVM_NAMED_FEATURES;
	}
}

/* Puts the sets into their leaves; other bits of those words go. */
static void apply(struct kvm_leaves *l, const struct feature_set *f)
{
	for (unsigned w = 0; w < FEATURE_WORDS; w++) {
		const struct feature_place *p = &feature_places[w];
		struct kvm_cpuid_entry2 *c = kvm_leaf(l, p->leaf, p->index);

		if (c)
			*kvm_leaf_reg(c, p->reg) = f->w[w];
	}
}

static unsigned bits_for(unsigned n)
{
	unsigned b = 0;

	while (1u << b < n)
		b++;
	return b;
}

static int topology(struct kvm_vm *vm, struct err *e)
{
	unsigned threads = vm->o.threads ?: 1;
	unsigned cores = vm->o.cores ?: (vm->o.vcpus + threads - 1) / threads;
	unsigned top;

	vm->o.threads = threads;
	vm->o.cores = cores;
	vm->apic_core_shift = bits_for(threads);
	vm->apic_pkg_shift = vm->apic_core_shift + bits_for(cores);
	top = kvm_apic_id((struct cpu_vm *)vm, vm->o.vcpus - 1);
	/* 255 is everybody, and messages have 8 bits for whom they are for. */
	if (top > 254 ||
		(kvm_has(&vm->caps, KC_MAX_VCPU_ID) && top >= (unsigned)vm->caps.v[KC_MAX_VCPU_ID]))
		return err_set(e, -EINVAL,
			"%u vCPUs as packages of %u cores of %u threads need APIC ids up to %u; "
			"254 is the "
			"highest",
			vm->o.vcpus, cores, threads, top);
	return 0;
}

/* What cannot be saved is not offered: everything that lives in XSAVE's components beyond SSE. */
static void without_xsave(struct feature_set *f)
{
	struct cpu_model xsave;

	if (model_parse(&xsave,
		    "host,xsave=off,avx=off,f16c=off,fma=off,avx2=off,avx512f=off,avx512dq=off,"
		    "avx512cd=off,avx512bw=off,avx512vl=off,pku=off,amx_tile=off,amx_int8=off,"
		    "amx_bf16=off,vaes=off,vpclmulqdq=off,mpx=off",
		    NULL))
		return;
	*f = model_features(&xsave, f);
	f->w[FW_D_1_EAX] = 0;
}

int kvm_model_init(struct kvm_vm *vm, struct err *e)
{
	struct cpu_model m;
	struct feature_set host, guest;
	int rc = topology(vm, e);

	if (!rc)
		rc = kvm_supported(&vm->sys, vm->dev, &vm->cpuid, e);
	if (!rc)
		rc = model_parse(&m, vm->o.cpu_model, e);
	if (rc)
		return rc;
	host = kvm_features_of(vm->cpuid);
	/* KVM says these by capabilities, or leaves them to us. */
	if (kvm_has(&vm->caps, KC_TSC_DEADLINE))
		host.w[FW_1_ECX] |= 1u << 24;
	host.w[FW_1_ECX] |= 1u << 31;
	host.w[FW_1_ECX] &= ~(1u << 27); /* OSXSAVE follows CR4; KVM sets it */
	if (!kvm_has(&vm->caps, KC_XSAVE))
		without_xsave(&host);
	if (!kvm_has(&vm->caps, KC_STEAL_TIME))
		host.w[FW_KVM_EAX] &= ~(1u << KVM_FEATURE_STEAL_TIME);
	rc = model_check(&m, &host, e);
	if (rc)
		return rc;
	guest = model_features(&m, &host);
	if (!m.host)
		named(vm->cpuid, &guest);
	apply(vm->cpuid, &guest);
	vm->counters = kvm_leaf(vm->cpuid, 0xa, 0) && kvm_leaf(vm->cpuid, 0xa, 0)->eax & 0xff;
	memcpy(vm->model, m.name, sizeof(vm->model));
	return 0;
}

/* ---- topology of one vCPU ---- */

static void extended_topology(struct kvm_leaves *l, const struct kvm_vm *vm, unsigned id)
{
	const struct kvm_cpuid_entry2 levels[] = {
		{.eax = vm->apic_core_shift, .ebx = vm->o.threads, .ecx = 0 | 1 << 8},
		{.eax = vm->apic_pkg_shift, .ebx = vm->o.threads * vm->o.cores, .ecx = 1 | 2 << 8},
		{.ecx = 2},
	};
	unsigned n = 0;

	for (unsigned i = 0; i < l->head.nent; i++)
		if (l->entry[i].function != 0xb && l->entry[i].function != 0x1f)
			l->entry[n++] = l->entry[i];
	l->head.nent = n;
	for (unsigned i = 0; i < ARRAY_SIZE(levels) && n < KVM_CPUID_MAX; i++) {
		struct kvm_cpuid_entry2 *c = &l->entry[n++];

		*c = levels[i];
		c->function = 0xb;
		c->index = i;
		c->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		c->edx = id;
	}
	l->head.nent = n;
}

int kvm_cpuid_for(struct kvm_vm *vm, unsigned index, struct kvm_leaves *out)
{
	unsigned id = kvm_apic_id((struct cpu_vm *)vm, index);
	unsigned logical = 1u << vm->apic_pkg_shift;

	*out = *vm->cpuid;
	for (unsigned i = 0; i < out->head.nent; i++) {
		struct kvm_cpuid_entry2 *c = &out->entry[i];

		switch (c->function) {
		case 1:
			c->ebx = (c->ebx & 0xffff) | MIN(logical, 255u) << 16 | id << 24;
			c->edx = (c->edx & ~(1u << 28)) |
				 (vm->o.cores * vm->o.threads > 1 ? 1u << 28 : 0);
			break;
		case 4: /* who shares a cache: L1 and L2 a core, the rest the package */
			if (!(c->eax & 0x1f))
				break;
			c->eax &= 0x3fff;
			c->eax |= MIN((1u << (vm->apic_pkg_shift - vm->apic_core_shift)) - 1, 63u)
				  << 26;
			c->eax |= ((c->eax >> 5 & 7) < 3 ? (1u << vm->apic_core_shift) - 1
							 : logical - 1)
				  << 14;
			break;
		case 0x80000008:
			c->ecx = (vm->o.cores * vm->o.threads - 1) | vm->apic_pkg_shift << 12;
			break;
		case 0x8000001e:
			c->eax = id;
			c->ebx = id >> vm->apic_core_shift | (vm->o.threads - 1) << 8;
			c->ecx = 0;
			break;
		}
	}
	extended_topology(out, vm, id);
	return 0;
}

unsigned kvm_apic_id(struct cpu_vm *v, unsigned index)
{
	const struct kvm_vm *vm = kvm_vm_of(v);
	unsigned thread = index % vm->o.threads, core = index / vm->o.threads;

	return (core / vm->o.cores) << vm->apic_pkg_shift |
	       (core % vm->o.cores) << vm->apic_core_shift | thread;
}

/* ---- what the state says of it ---- */

void kvm_leaves_save(struct kvm_vm *vm, struct kvm_i_leaf *out, uint32_t *n)
{
	*n = 0;
	for (unsigned i = 0; i < vm->cpuid->head.nent && i < KVM_IMAGE_LEAVES; i++) {
		const struct kvm_cpuid_entry2 *c = &vm->cpuid->entry[i];

		out[(*n)++] = (struct kvm_i_leaf){
			c->function, c->index, c->eax, c->ebx, c->ecx, c->edx};
	}
}

int kvm_leaves_check(
	struct kvm_vm *vm, const struct kvm_i_leaf *l, uint32_t n, const char *model, struct err *e)
{
	struct kvm_leaves *was = calloc(1, sizeof(*was));
	struct feature_set here = kvm_features_of(vm->cpuid), there;
	char name[32];
	int rc = 0;

	if (!was)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	for (uint32_t i = 0; i < n && i < KVM_CPUID_MAX; i++)
		was->entry[was->head.nent++] = (struct kvm_cpuid_entry2){.function = l[i].function,
			.index = l[i].index,
			.eax = l[i].eax,
			.ebx = l[i].ebx,
			.ecx = l[i].ecx,
			.edx = l[i].edx};
	there = kvm_features_of(was);
	/* A guest asks once what there is, and then relies on it. */
	if (feature_missing(&there, &here, name))
		rc = err_set(e, -EINVAL,
			"CPU: the saved machine (model %s) has %s and this one (%s) has not: use a "
			"model that both hosts have, see lodge cpu baseline",
			model, name, vm->model);
	else if (feature_missing(&here, &there, name))
		rc = err_set(e, -EINVAL,
			"CPU: this machine (model %s) has %s and the saved one (%s) has not: use "
			"the "
			"same --cpu",
			vm->model, name, model);
	free(was);
	return rc;
}
