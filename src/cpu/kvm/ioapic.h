/*
 * ioapic.h: an IOAPIC (82093AA, 24 pins) for machines whose local APICs alone are in the kernel (split irqchip).
 *
 * It turns levels of pins into messages, as the chip does over the bus. The kernel tells it of an EOI for a vector that a level-triggered
 * entry uses (the routes of the first 24 GSIs tell the kernel which those are), so that a pin which is still high fires
 * again. No i8259: machines that start in protected mode do not use one.
 *
 * Threads: any. The lock is innermost but for the calls to `msi`, `route` and `commit`, which must not come back.
 */
#ifndef LODGE_CPU_KVM_IOAPIC_H
#define LODGE_CPU_KVM_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/kvm/image.h"

struct kvm_ioapic;
struct err;

struct ioapic_opts {
	uint64_t base;
	void (*msi)(void *ctx, uint64_t addr, uint32_t data);
	/* The entry of a pin is now this: what a message of it would be. Several come before one commit(). */
	void (*route)(void *ctx, unsigned pin, uint64_t addr, uint32_t data, bool masked);
	void (*commit)(void *ctx);
	void *ctx;
};

int ioapic_create(struct kvm_ioapic **out, const struct ioapic_opts *o, struct err *e);
void ioapic_destroy(struct kvm_ioapic *i);
void ioapic_reset(struct kvm_ioapic *i);
void ioapic_set(struct kvm_ioapic *i, unsigned pin, bool level);
void ioapic_eoi(struct kvm_ioapic *i, unsigned vector);
/* True when the address is the chip's and the access has been made. */
bool ioapic_access(struct kvm_ioapic *i, uint64_t addr, unsigned len, bool write, uint8_t *data);
void ioapic_get(struct kvm_ioapic *i, struct kvm_i_ioapic *out);
void ioapic_put(struct kvm_ioapic *i, const struct kvm_i_ioapic *in);

#endif
