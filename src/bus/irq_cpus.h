/*
 * irq_cpus.h: the vCPUs at the far end of interrupt controllers.
 *
 * The engine's calls used here (vcpu_irq, vcpu_msi, vcpu_mtimecmp, time_get) may come from any thread. The
 * array belongs to the board and lives as long as the controllers; index = hart id.
 */
#ifndef LODGE_BUS_IRQ_CPUS_H
#define LODGE_BUS_IRQ_CPUS_H

#include "cpu/cpu.h"

struct irq_cpus {
	const struct cpu_engine_ops *ops;
	struct cpu_vm *vm;
	struct vcpu *const *vcpu;
	unsigned count;
};

#endif
