/*
 * fake_engine.h: an engine that plays a script, for tests of what is above the engine contract (cpu/cpu.h).
 *
 * Each vCPU has a list of exits. Every vcpu_run() gives the next one; the run after it first hands the answer, as the handler
 * left it, to the step's `check`. A kick, and an interrupt or message that comes while it idles, make the next run leave with
 * CPU_EXIT_BUDGET and use no step up. After the last step the vCPU is stopped. A budget of 0 only finishes, as the contract says.
 *
 * Threads: as in the contract; kick, irq and msi from any.
 */
#ifndef LODGE_TESTS_UNIT_CPU_FAKE_ENGINE_H
#define LODGE_TESTS_UNIT_CPU_FAKE_ENGINE_H

#include <stdatomic.h>

#include "cpu/cpu.h"

struct fake_step {
	struct cpu_exit exit;
	/* The answer to this exit; may be NULL. `x` is what the handler left. */
	void (*check)(void *ctx, const struct cpu_exit *x);
	void *ctx;
};

extern const struct cpu_engine_ops fake_engine;

/* Before the vCPU runs. The steps are the caller's and must outlive it. */
void fake_script(struct vcpu *v, const struct fake_step *steps, unsigned n);
unsigned fake_steps_done(const struct vcpu *v); /* answered too */
uint32_t fake_lines(const struct vcpu *v); /* wired inputs, bit by enum cpu_irq */
uint32_t fake_last_msi(const struct vcpu *v);

#endif
