/*
 * msr.c: MSRs that guests may not touch, whatever the host's KVM would let them see: energy meters, by which one guest watches another
 * ("PLATYPUS", CVE-2020-8694), and performance counters where the CPU model has none. A guest that tries takes #GP. And one that firmware sets.
 */
#include <string.h>

#include "base/err.h"
#include "cpu/kvm/priv.h"

static const struct {
	uint32_t base, n;
	bool counters;
} denied[] = {
	{0x606, 1, false}, /* RAPL_POWER_UNIT; SDM volume 4, table 2-20 */
	{0x610, 0x20, false}, /* PKG_POWER_LIMIT .. DRAM_PERF_STATUS */
	{0x638, 0x0b, false}, /* PP0, PP1 */
	{0xc0010299, 3, false}, /* AMD: RAPL_PWR_UNIT, CORE_ENERGY_STAT, PKG_ENERGY_STAT */
	{0xc1, 8, true}, /* PMC0.. */
	{0x186, 8, true}, /* PERFEVTSEL0.. */
	{0x309, 3, true}, /* FIXED_CTR0.. */
	{0x38d, 4, true}, /* FIXED_CTR_CTRL .. GLOBAL_OVF_CTRL */
};

int kvm_msr_filter(struct kvm_vm *vm, bool counters, struct err *e)
{
	static const uint8_t none[16]; /* a clear bit denies */
	struct kvm_msr_filter f = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
	unsigned n = 0;
	int rc = 0;

	if (!kvm_has(&vm->caps, KC_MSR_FILTER))
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(denied) && n < KVM_MSR_FILTER_MAX_RANGES; i++)
		if (!denied[i].counters || !counters)
			f.ranges[n++] = (struct kvm_msr_filter_range){
				.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
				.nmsrs = denied[i].n,
				.base = denied[i].base,
				.bitmap = (uint8_t *)(uintptr_t)none};
	if (kvm_has(&vm->caps, KC_USER_SPACE_MSR))
		rc = kvm_enable_cap(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER);
	if (rc < 0)
		return kvm_fail(e, rc, KVM_ENABLE_CAP, "MSR filter");
	rc = kvm_vm_ioctl(vm, KVM_X86_SET_MSR_FILTER, KVM_PTR(&f));
	return rc < 0 ? kvm_fail(e, rc, KVM_X86_SET_MSR_FILTER, "MSR filter") : 0;
}

/*
 * AMD: the time stamp counter runs at the frequency of P0 (HWCR.TscFreqSel; BKDG of family 10h, MSRC001_0015). Linux calls its absence a firmware bug. Hosts
 * before Linux 6.7 do not let it be set, which changes nothing but that message.
 */
void kvm_msr_firmware(struct kvm_vcpu *c, struct kvm_leaves *cpuid)
{
	const struct kvm_cpuid_entry2 *vendor = kvm_leaf(cpuid, 0, 0);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} hwcr = {.head.nmsrs = 1, .e = {{.index = 0xc0010015, .data = 1u << 24}}};

	if (vendor && vendor->ebx == 0x68747541) /* "Auth" */
		(void)kvm_vcpu_ioctl(c, KVM_SET_MSRS, KVM_PTR(&hwcr));
}
