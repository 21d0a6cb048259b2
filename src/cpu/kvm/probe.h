/*
 * probe.h: how long kernel code takes in this host's KVM (cpu_engine_ops.privileged).
 */
#ifndef LODGE_CPU_KVM_PROBE_H
#define LODGE_CPU_KVM_PROBE_H

struct err;
struct kvm_sys;

int kvm_privileged(double *slower, struct err *e);
int kvm_privileged_on(const struct kvm_sys *sys, double *slower, struct err *e);

#endif
