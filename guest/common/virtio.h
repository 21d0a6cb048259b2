/*
 * virtio.h: virtio 1.2 over PCI for bare guests of either ISA: finds devices on bus 0, gives their BARs places, drives their queues.
 * One driver's mistakes end the guest by fail(). Polling or message interrupts: that is the caller's, by the vectors that it gives.
 * Source: PCI Express base specification 5.0 section 7; virtio 1.2 sections 2.7 and 4.1.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include "guest/common/text.h"

#define PCI8(dev, off) (*(volatile uint8_t *)pci_config(dev, off))
#define PCI16(dev, off) (*(volatile uint16_t *)pci_config(dev, off))
#define PCI32(dev, off) (*(volatile uint32_t *)pci_config(dev, off))

/* Where configuration space lies, and where memory BARs go, from there upwards. */
void pci_start(uint64_t ecam, uint64_t window);
volatile void *pci_config(unsigned dev, unsigned off);

enum { VIRTIO_NET = 1, VIRTIO_BLK = 2, VIRTIO_CONSOLE = 3, VIRTIO_RNG = 4, VIRTIO_BALLOON = 5 };
/* What virtio device sits in this slot; 0: none. */
unsigned virtio_type(unsigned dev);

struct virtio {
	volatile uint8_t *common, *notify, *config;
	volatile uint32_t *table; /* of MSI-X; NULL: it has none */
	uint32_t multiplier;
};

#define VIRTQ_SIZE 8
#define VIRTQ_WRITE 2u /* by the device */
#define VIRTQ_NEXT 1u
#define VIRTQ_NO_VECTOR 0xffff

struct virtq {
	struct virtq_desc {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} desc[VIRTQ_SIZE];
	struct {
		uint16_t flags, idx, ring[VIRTQ_SIZE];
	} avail __attribute__((aligned(64)));
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, len;
		} ring[VIRTQ_SIZE];
	} used __attribute__((aligned(64)));
	/* The driver's own. */
	volatile uint16_t *bell __attribute__((aligned(64)));
	uint16_t index, taken;
} __attribute__((aligned(4096)));

/* Places its BARs and finds its registers. */
void virtio_open(struct virtio *v, unsigned dev);
/* Message number n, of its MSI-X table. */
void virtio_message(struct virtio *v, unsigned n, uint64_t address, uint32_t data);
/* Reset, and features: VIRTIO_F_VERSION_1 and, of the low 32, `want`. Returns which of them it has. */
uint32_t virtio_begin(struct virtio *v, uint32_t want);
/* How long this queue may be. */
unsigned virtq_most(struct virtio *v, unsigned index);
/* Puts a queue of such a length there, good or bad. */
void virtq_place(struct virtio *v, unsigned index, unsigned size, const volatile void *desc,
	const volatile void *avail, const volatile void *used);
/* As it should be. */
void virtq_set_up(struct virtio *v, struct virtq *q, unsigned index, unsigned vector);
void virtio_go(struct virtio *v); /* DRIVER_OK */
void virtio_stop(struct virtio *v); /* reset: it is silent from then on */
uint8_t virtio_status(struct virtio *v);

/* Gives the device the chain that begins at descriptor `head`, and rings. */
void virtq_publish(struct virtq *q, unsigned head);
/* One used chain: its head, and how much was written. -1: none yet. */
int virtq_take(struct virtq *q, uint32_t *len);

#endif
