/*
 * stub_engine.h: an engine that only remembers what interrupt controllers told it.
 */
#ifndef LODGE_TESTS_STUB_ENGINE_H
#define LODGE_TESTS_STUB_ENGINE_H

#include <string.h>

#include "bus/irq_cpus.h"

#define STUB_CPUS 4

struct vcpu {
	struct vcpu_head head;
	bool irq[CPU_IRQS];
	uint32_t last[2]; /* by file */
	unsigned messages[2];
	uint64_t mtimecmp;
};

struct stub {
	struct vcpu cpu[STUB_CPUS];
	struct vcpu *list[STUB_CPUS];
	struct irq_cpus cpus;
};

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
	return 0x123456789a;
}

static const struct cpu_engine_ops stub_ops = {
	.name = "stub",
	.isa = "riscv64",
	.vcpu_irq = stub_irq,
	.vcpu_msi = stub_msi,
	.vcpu_mtimecmp = stub_mtimecmp,
	.vcpu_mtimecmp_get = stub_mtimecmp_get,
	.time_get = stub_time,
};

static inline void stub_init(struct stub *s)
{
	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < STUB_CPUS; i++)
		s->list[i] = &s->cpu[i];
	s->cpus = (struct irq_cpus){.ops = &stub_ops, .vcpu = s->list, .count = STUB_CPUS};
}

#endif
