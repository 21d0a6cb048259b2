/*
 * host.c: what this host's KVM offers to guests.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/kvm/caps.h"
#include "cpu/kvm/host.h"

uint32_t *kvm_leaf_reg(struct kvm_cpuid_entry2 *c, unsigned reg)
{
	uint32_t *const all[] = {&c->eax, &c->ebx, &c->ecx, &c->edx};

	return all[reg];
}

struct kvm_cpuid_entry2 *kvm_leaf(struct kvm_leaves *l, uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < l->head.nent; i++)
		if (l->entry[i].function == function && l->entry[i].index == index)
			return &l->entry[i];
	return NULL;
}

struct feature_set kvm_features_of(struct kvm_leaves *l)
{
	struct feature_set s = {{0}};

	for (unsigned w = 0; w < FEATURE_WORDS; w++) {
		const struct feature_place *p = &feature_places[w];
		struct kvm_cpuid_entry2 *c = kvm_leaf(l, p->leaf, p->index);

		if (c)
			s.w[w] = *kvm_leaf_reg(c, p->reg);
	}
	return s;
}

int kvm_supported(const struct kvm_sys *sys, int dev, struct kvm_leaves **out, struct err *e)
{
	struct kvm_leaves *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "engine kvm: out of memory");
	l->head.nent = KVM_CPUID_MAX;
	rc = sys->ioctl(sys->ctx, dev, KVM_GET_SUPPORTED_CPUID, (uintptr_t)l);
	if (rc < 0) {
		free(l);
		return err_sys(e, rc, "engine kvm: CPU model: KVM_GET_SUPPORTED_CPUID");
	}
	l->head.nent = MIN(l->head.nent, (unsigned)KVM_CPUID_MAX);
	*out = l;
	return 0;
}

/* ---- lodge cpu ---- */

int kvm_host_cpu(json_t **out, struct err *e)
{
	const struct kvm_sys *sys = &kvm_sys_host;
	struct kvm_leaves *l = NULL;
	struct kvm_cpuid_entry2 *c;
	struct feature_set f;
	char vendor[13] = "";
	int dev;
	int rc = kvm_host_open(sys, &dev, e);

	if (rc)
		return rc;
	rc = kvm_supported(sys, dev, &l, e);
	sys->close(sys->ctx, dev);
	if (rc)
		return rc;
	c = kvm_leaf(l, 0, 0);
	if (c) {
		memcpy(vendor, &c->ebx, 4);
		memcpy(vendor + 4, &c->edx, 4);
		memcpy(vendor + 8, &c->ecx, 4);
	}
	f = kvm_features_of(l);
	f.w[FW_1_ECX] |= 1u << 31;
	*out = features_json(vendor, &f);
	free(l);
	return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}
