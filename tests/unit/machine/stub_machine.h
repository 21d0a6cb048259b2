/*
 * stub_machine.h: an engine that runs nothing and remembers everything, for tests of boards and of devices behind a
 * board's bus.
 */
#ifndef LODGE_TESTS_STUB_MACHINE_H
#define LODGE_TESTS_STUB_MACHINE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "cpu/cpu.h"

struct vcpu {
	struct vcpu_head head;
	struct cpu_vm *vm;
	struct cpu_boot boot;
	bool irq[CPU_IRQS];
	uint32_t last[2]; /* by file */
	unsigned messages[2], resets;
	uint64_t mtimecmp;
};

struct cpu_vm {
	struct cpu_vm_opts opts;
	struct vcpu *vcpu[CPU_MAX_VCPUS];
	uint64_t time;
	unsigned fail_at; /* vcpu_create of this index fails; 0: none */
};

static inline int stub_vm_create(struct cpu_vm **out, const struct cpu_vm_opts *o, struct err *e)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->opts = *o;
	if (o->cpu_model && !strncmp(o->cpu_model, "fail=", 5))
		(*out)->fail_at = (unsigned)atoi(o->cpu_model + 5);
	return 0;
}

static inline void stub_vm_destroy(struct cpu_vm *vm)
{
	for (unsigned i = 0; i < CPU_MAX_VCPUS; i++)
		free(vm->vcpu[i]);
	free(vm);
}

static inline int stub_vcpu_create(
	struct vcpu **out, struct cpu_vm *vm, unsigned index, struct err *e)
{
	if (vm->fail_at && vm->fail_at == index)
		return err_set(e, -ENOMEM, "vCPU %u: told to fail", index);
	*out = vm->vcpu[index] = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->head.index = index;
	(*out)->vm = vm;
	return 0;
}

static inline void stub_vcpu_reset(struct vcpu *v, const struct cpu_boot *boot)
{
	v->boot = *boot;
	v->resets++;
}

static inline void stub_irq(struct vcpu *v, enum cpu_irq line, bool level)
{
	v->irq[line] = level;
}

static inline void stub_msi(struct vcpu *v, enum cpu_msi_file file, uint32_t id)
{
	v->last[file] = id;
	v->messages[file]++;
}

static inline void stub_mtimecmp(struct vcpu *v, uint64_t when)
{
	v->mtimecmp = when;
}

static inline uint64_t stub_mtimecmp_get(struct vcpu *v)
{
	return v->mtimecmp;
}

static inline uint64_t stub_time(struct cpu_vm *vm)
{
	return vm->time;
}

static const struct state_field stub_vcpu_fields[] = {
	STATE_U64(struct vcpu, mtimecmp, 1),
	STATE_END,
};
static const struct state_desc stub_vcpu_desc = {"stub-vcpu", 1, stub_vcpu_fields};
static const struct state_field stub_vm_fields[] = {
	STATE_U64(struct cpu_vm, time, 1),
	STATE_END,
};
static const struct state_desc stub_vm_desc = {"stub-vm", 1, stub_vm_fields};

static inline const struct state_desc *stub_vcpu_state(void)
{
	return &stub_vcpu_desc;
}

static inline const struct state_desc *stub_vm_state(void)
{
	return &stub_vm_desc;
}

static inline void *stub_vcpu_obj(struct vcpu *v)
{
	return v;
}

static inline void *stub_vm_obj(struct cpu_vm *vm)
{
	return vm;
}

static inline const char *stub_isa(struct cpu_vm *vm)
{
	return "rv64imafdc_zicbom_zicboz_zicsr_zba_zbb_smaia_ssaia_sstc_svadu";
}

static inline const char *stub_mmu(struct cpu_vm *vm)
{
	return "riscv,sv48";
}

static inline unsigned stub_ids(struct cpu_vm *vm)
{
	return 255;
}

static const struct cpu_engine_ops stub_engine = {
	.name = "stub",
	.isa = "riscv64",
	.vm_create = stub_vm_create,
	.vm_destroy = stub_vm_destroy,
	.vcpu_create = stub_vcpu_create,
	.vcpu_reset = stub_vcpu_reset,
	.vcpu_irq = stub_irq,
	.vcpu_msi = stub_msi,
	.vcpu_mtimecmp = stub_mtimecmp,
	.vcpu_mtimecmp_get = stub_mtimecmp_get,
	.time_get = stub_time,
	.vcpu_state = stub_vcpu_state,
	.vm_state = stub_vm_state,
	.vcpu_state_obj = stub_vcpu_obj,
	.vm_state_obj = stub_vm_obj,
	.isa_string = stub_isa,
	.mmu_type = stub_mmu,
	.msi_ids = stub_ids,
};

#endif
