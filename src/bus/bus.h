/*
 * bus.h: who answers at which address, and how an interrupt gets to a vCPU.
 *
 * A bus has two address spaces, MMIO and PIO (x86 ports; the PCI I/O window on rv64). A device claims regions; the bus finds the region,
 * enforces the widths and alignment that the device declared, and calls it. What nobody claims, or a width that is not
 * allowed, is an error that the engine turns into the ISA's answer (access fault on rv64; all ones on x86).
 *
 * Threads: bus_access() from any thread (vCPU threads, mostly). A region with a lock is called with that lock
 * held: it is the device's own, so that a device's handlers never run beside its event-loop work. A region without a lock must be safe by
 * itself (interrupt controllers: atomics). No bus lock is held during the call; regions may be moved from inside one.
 * Devices live as long as the machine, so a region that is just being moved may still be called once more.
 */
#ifndef LODGE_BUS_BUS_H
#define LODGE_BUS_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "memory/addr.h"

struct err;
struct bus;

enum bus_space { BUS_MMIO, BUS_PIO, BUS_SPACES };

struct bus_ops {
	/* `off` from the region's start; size 1, 2, 4 or 8; the bus has checked widths and alignment. */
	uint64_t (*read)(void *dev, uint64_t off, unsigned size);
	void (*write)(void *dev, uint64_t off, unsigned size, uint64_t val);
	uint8_t min_size, max_size; /* 0, 0: 1..8 */
	bool unaligned; /* also unaligned accesses inside the region */
	bool msi_sink; /* bus_msi() may store here: takes no lock, calls no device (interrupt files) */
	void (*msi)(void *dev, uint64_t off, uint32_t data); /* such a store; NULL: write */
};

struct bus_region {
	const char *name;
	const struct bus_ops *ops;
	void *dev;
	pthread_mutex_t *lock; /* NULL: safe by itself */
	enum bus_space space;
	uint64_t base, len; /* the bus's while claimed */
};

int bus_create(struct bus **out, struct err *e);
void bus_destroy(struct bus *b);

/* The region object is the device's and must stay until bus_release(). -EBUSY names the region that it would overlap. */
int bus_claim(struct bus *b, struct bus_region *r, struct err *e);
void bus_release(struct bus *b, struct bus_region *r);
/* Moves a claimed region, claims an unclaimed one (PCI BAR). On overlap the region is left unclaimed and -EBUSY returned: the guest did it. */
int bus_move(struct bus *b, struct bus_region *r, uint64_t base);

/* 0, or -ENXIO (nobody, or width refused; *data of a read is then all ones). */
int bus_access(
	struct bus *b, enum bus_space sp, uint64_t addr, unsigned size, bool write, uint64_t *data);

/* Calls fn for each claimed region in address order (lodge inspect), with the bus locked: fn claims and moves nothing. */
void bus_each(struct bus *b, void (*fn)(void *ctx, const struct bus_region *r), void *ctx);

/* Wired interrupts: one input pin of a controller. Level-sensitive callers say 1 and later 0. */
struct irq_line {
	void (*set)(void *ctrl, unsigned pin, bool level);
	void *ctrl;
	unsigned pin;
};

static inline void irq_set(const struct irq_line *l, bool level)
{
	if (l->set)
		l->set(l->ctrl, l->pin, level);
}

/*
 * A message-signalled interrupt: a 32-bit little-endian store to the MMIO space. Any thread, also
 * with device locks held: it reaches only regions whose ops say msi_sink, so that a guest which aims a message at a
 * device's registers cannot make a device wait for itself. Anywhere else it is lost.
 */
void bus_msi(struct bus *b, uint64_t addr, uint32_t data);

#endif
