/*
 * probe.h: how long kernel code takes in this host's KVM (cpu_engine_ops.privileged).
 *
 * Makes a machine of two pages, runs a loop in its ring 0 and the same loop here, and takes the machine away. Any thread, before the
 * sandbox; takes milliseconds where KVM interprets. 0 with *slower (1 on hardware), or a negative errno: there is no KVM, or it refuses.
 */
#ifndef LODGE_CPU_KVM_PROBE_H
#define LODGE_CPU_KVM_PROBE_H

struct err;
struct kvm_sys;

int kvm_privileged(double *slower, struct err *e);
/* The same on a kernel that tests make up. */
int kvm_privileged_on(const struct kvm_sys *sys, double *slower, struct err *e);

#endif
