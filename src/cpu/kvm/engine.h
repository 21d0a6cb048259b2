/*
 * engine.h: what the kvm engine shows to the table of engines, and to its own tests.
 */
#ifndef LODGE_CPU_KVM_ENGINE_H
#define LODGE_CPU_KVM_ENGINE_H

#include "cpu/cpu.h"

struct kvm_sys;

extern const struct cpu_engine_ops kvm_engine;

/* vm_create() over another way to the kernel (sys.h): for tests that make calls fail. `sys` is copied. */
int kvm_vm_create_on(
	struct cpu_vm **out, const struct cpu_vm_opts *o, const struct kvm_sys *sys, struct err *e);
int kvm_available_on(const struct kvm_sys *sys, struct err *e);

#endif
