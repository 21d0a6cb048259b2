/*
 * vdriver.h: a virtio driver in miniature, for tests: finds the device on PCI, negotiates, makes rings in guest memory, and may write
 * into them what no real driver would.
 *
 * Everything in one thread: bell() turns the event loop once, as the doorbell would make it.
 */
#ifndef LODGE_TESTS_VDRIVER_H
#define LODGE_TESTS_VDRIVER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "bus/pci.h"
#include "device/device.h"
#include "memory/space.h"

#define VD_RAM 0x80000000ull
#define VD_RAM_LEN (4ull << 20)
#define VD_BAR 0x40000000ull
#define VD_DESC (VD_RAM + 0x1000)
#define VD_AVAIL (VD_RAM + 0x8000)
#define VD_USED (VD_RAM + 0xa000)
#define VD_DATA (VD_RAM + 0x10000)

enum { VD_NEXT = 1, VD_WRITE = 2, VD_INDIRECT = 4 };
enum { VD_NEEDS_RESET = 64 };

struct vdriver {
	uv_loop_t loop;
	uv_async_t keep; /* devices alone do not keep a loop alive */
	struct frames *frames;
	struct space *space;
	struct bus *bus;
	struct pci_host *pci;
	struct device_env env;
	struct device *dev;
	unsigned slot; /* PCI device number */
	uint64_t bar;
	uint16_t avail_idx;
	unsigned reports; /* times that a device said it is broken */
};

/* A machine of memory, bus and PCI without devices. Aborts on failure. */
void vd_machine(struct vdriver *d);
/* Adds a device and finds it; several may be added, the last is the current one. */
struct device *vd_add(
	struct vdriver *d, const char *cls, const char *id, const void *opts, unsigned slot);
void vd_close(struct vdriver *d, struct device **devs, unsigned n);

uint64_t vd_read(struct vdriver *d, unsigned off, unsigned size); /* BAR 0 */
void vd_write(struct vdriver *d, unsigned off, unsigned size, uint64_t val);
uint8_t vd_status(struct vdriver *d);
/* Resets, accepts the features, sets queue 0 up with `size` entries at VD_DESC..., and says DRIVER_OK. */
void vd_start(struct vdriver *d, uint64_t features, uint16_t size);
void vd_queue(
	struct vdriver *d, uint16_t q, uint16_t size, uint64_t desc, uint64_t avail, uint64_t used);

void vd_desc(
	struct vdriver *d, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next);
void vd_desc_at(struct vdriver *d, uint64_t table, unsigned i, uint64_t addr, uint32_t len,
	uint16_t flags, uint16_t next);
/* Makes the chain available on queue 0 and rings. */
void vd_submit(struct vdriver *d, uint16_t size, uint16_t head);
void vd_bell(struct vdriver *d, unsigned q);
uint16_t vd_used(struct vdriver *d); /* index of queue 0's used ring */
uint32_t vd_used_len(struct vdriver *d, uint16_t size, uint16_t i);

#endif
