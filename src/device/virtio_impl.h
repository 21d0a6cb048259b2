/*
 * virtio_impl.h: between virtio.c (queues) and virtio_pci.c (transport). Nobody else includes it.
 *
 * Threads: with the device's lock held, all but add and remove, which are realize and unrealize. Source: virtio 1.2, sections 2.1 (status), 4.1.4.5 (ISR).
 */
#ifndef LODGE_DEVICE_VIRTIO_IMPL_H
#define LODGE_DEVICE_VIRTIO_IMPL_H

#include "device/virtio.h"

enum {
	VIRTIO_ACKNOWLEDGE = 1,
	VIRTIO_DRIVER = 2,
	VIRTIO_DRIVER_OK = 4,
	VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 64,
	VIRTIO_FAILED = 128,
};

enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };

int virtio_pci_add(struct virtio *v, struct err *e);
void virtio_pci_remove(struct virtio *v);
/* Interrupts by MSI-X vector, or by ISR and pin. */
void virtio_pci_interrupt(struct virtio *v, uint16_t vector, uint8_t isr);

/* Status writes. */
void virtio_set_status(struct virtio *v, uint8_t status);
/* Puts queues and registers to their reset state; no request may be open. */
void virtio_clear(struct virtio *v);

#endif
