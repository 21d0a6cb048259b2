/*
 * cpu.h: what this host's processor offers to guests, and what several hosts have in common (cpu/kvm/features.h). No machine is
 * needed.
 */
#ifndef LODGE_VM_HOST_CPU_H
#define LODGE_VM_HOST_CPU_H

struct err;
struct json_t;

/* {"vendor", "features": [...], "model": text for --cpu}; new reference. */
int host_cpu(struct json_t **out, struct err *e);
/* The same of what all hosts of a list have. */
int host_cpu_common(const struct json_t *hosts, struct json_t **out, struct err *e);

#endif
