/*
 * pci.h: a PCI Express host bridge and what a function on it is.
 *
 * The host bridge serves ECAM (PCI Express Base 4.0, section 7.2.2): a config access at
 * ecam + (bus << 20 | device << 15 | function << 12 | register). Every width and misalignment is
 * safe there: bytes that nobody answers read as ones, writes to them are lost. Functions sit on
 * bus 0 as root-complex integrated endpoints, with type-0 headers; 00:00.0 is the bridge.
 *
 * A device author's part (in realize, in this order; after a failure call pci_func_remove()):
 *
 *	pci_func_add(&d->pci, env->pci, &(struct pci_func_opts){...}, e);
 *	pci_bar_add(&d->pci, 4, &(struct pci_bar_opts){.size = 0x4000, .ops = &my_ops, ...}, e);
 *	pci_cap_add(&d->pci, PCI_CAP_ID_VNDR, sizeof(cap), &off, e);
 *	pci_cfg_set(&d->pci, off + 2, &cap, sizeof(cap)); pci_cfg_writable(...)
 *	pci_msix_init(&d->pci, 1, nvectors, e);
 *	pci_func_publish(&d->pci);
 *
 *  reset: pci_func_reset()      unrealize: pci_func_remove()
 *  state: STATE_STRUCT(struct my_dev, pci, &pci_func_state, struct pci_func, 1)
 *  events: pci_msix_notify(), or pci_intx_set() while !pci_msix_on()
 *
 * BARs. Sized and moved by the guest with the usual protocol. A BAR's region is claimed on the
 * machine's bus while the command register decodes it and its address lies in one of the bridge's
 * windows; where two overlap the first one wins, and the other appears as soon as there is room.
 *
 * Locks, outermost first: host config lock (held around config accesses and thus around
 * cfg_read/cfg_write hooks) -> the device's own lock -> MSI-X and INTx locks (inside this module). So a device
 * may call pci_msix_notify(), pci_intx_set(), pci_bus_master() with its own lock held, and must
 * not call anything else here then. Message interrupts reach only regions with bus_ops.msi_sink
 * (interrupt files): a guest that aims a vector at a device register hits nothing.
 *
 * DMA and message interrupts carry the requester id (pci_func_rid()), which an IOMMU will look up;
 * today all DMA goes straight to the machine's space. A device makes no DMA while pci_bus_master() is false.
 *
 * Source: PCI Local Bus 3.0 chapter 6; PCI Express Base 4.0 chapters 6.1.4, 7.5, 7.7, 7.9.
 */
#ifndef LODGE_BUS_PCI_H
#define LODGE_BUS_PCI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"
#include "bus/bus.h"

struct err;
struct pci_host;
struct pci_func;

#define PCI_CFG_SIZE 4096u
#define PCI_CFG_SAVED 256u /* beyond it config space is constant today */
#define PCI_BARS 6
#define PCI_MSIX_MAX 2048u
#define PCI_DEVFN(dev, fn) ((unsigned)(dev) << 3 | (unsigned)(fn))
#define PCI_SLOT_ANY (-1)

/* Config registers of a type-0 header that code outside this module has a use for. */
enum {
	PCI_CFG_VENDOR = 0x00,
	PCI_CFG_DEVICE = 0x02,
	PCI_CFG_COMMAND = 0x04,
	PCI_CFG_STATUS = 0x06,
	PCI_CFG_REVISION = 0x08,
	PCI_CFG_CLASS = 0x09,
	PCI_CFG_HEADER = 0x0e,
	PCI_CFG_BAR0 = 0x10,
	PCI_CFG_SUBVENDOR = 0x2c,
	PCI_CFG_SUBDEVICE = 0x2e,
	PCI_CFG_CAPS = 0x34,
	PCI_CFG_INT_LINE = 0x3c,
	PCI_CFG_INT_PIN = 0x3d,
};

enum {
	PCI_CMD_IO = 0x001,
	PCI_CMD_MEM = 0x002,
	PCI_CMD_MASTER = 0x004,
	PCI_CMD_INTX_OFF = 0x400,
	PCI_STATUS_INTX = 0x008,
	PCI_STATUS_CAPS = 0x010,
};

enum {
	PCI_CAP_ID_PM = 0x01,
	PCI_CAP_ID_VNDR = 0x09, /* virtio's structures */
	PCI_CAP_ID_EXP = 0x10,
	PCI_CAP_ID_MSIX = 0x11,
};

/* BAR flags. None: 32-bit memory, not prefetchable. */
enum { PCI_BAR_IO = 1, PCI_BAR_64 = 2, PCI_BAR_PREFETCH = 4 };

struct pci_bar_opts {
	const char *name; /* must live as long as the function */
	uint64_t size; /* a power of two; memory >= 16, I/O 4..256 */
	unsigned flags; /* PCI_BAR_64 takes the next BAR too */
	const struct bus_ops *ops; /* offsets count from the BAR's start */
	void *dev;
	pthread_mutex_t *lock; /* held around ops; NULL: ops are safe by themselves */
};

struct pci_bar {
	struct bus_region region;
	uint64_t size; /* 0: not there */
	unsigned flags;
	bool claimed;
};

struct pci_msix_entry {
	uint64_t addr;
	uint32_t data, ctrl; /* ctrl bit 0: masked */
	bool pending;
};

struct pci_msix {
	struct pci_msix_entry *vec; /* NULL: the function has no MSI-X */
	uint32_t count, made; /* made: as realized; a stream must agree */
	uint32_t pba; /* offset of the pending bits in the BAR */
	unsigned cap; /* offset of the capability */
	bool enabled, masked; /* copies of the capability's control bits */
	pthread_mutex_t lock;
};

struct pci_func_opts {
	const char *name; /* for messages; must live as long as the function */
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code; /* 24 bits: 0x010000 SCSI storage, 0x020000 Ethernet ... */
	uint8_t revision;
	int slot; /* device number 1..31 of bus 0, or PCI_SLOT_ANY */
	uint8_t function; /* 0..7; function 0 of a slot must exist */
	bool intx; /* has an interrupt pin (A + function % 4) */
	/*
	 * Hooks for capabilities with a life of their own (virtio's config window). Called with the
	 * host config lock held and the device's own lock not. `off` and `size` are those of the access
	 * (clipped to config space; possibly misaligned); read: before the bytes are taken from
	 * cfg[]; write: after cfg[] has changed.
	 */
	void (*cfg_read)(struct pci_func *f, unsigned off, unsigned size);
	void (*cfg_write)(struct pci_func *f, unsigned off, unsigned size);
};

/* Embedded in the device. Read it as you like; change it through the calls below only. */
struct pci_func {
	struct pci_host *host; /* NULL: not added */
	struct pci_func_opts opts;
	uint16_t rid; /* bus << 8 | device << 3 | function */
	bool published;
	uint8_t cfg[PCI_CFG_SIZE];
	uint8_t wmask[PCI_CFG_SIZE]; /* bits that the guest may change */
	uint8_t w1c[PCI_CFG_SIZE]; /* bits that a written one clears */
	uint8_t at_reset[PCI_CFG_SIZE];
	uint8_t saved[PCI_CFG_SAVED]; /* described state: cfg[] as it goes into a stream */
	unsigned cap_end; /* first free byte for capabilities */
	struct pci_bar bar[PCI_BARS];
	struct pci_msix msix;
	_Atomic bool master; /* copy of the command register's bus master bit */
	bool intx_level, intx_off, intx_out; /* asked for, disabled by command, driven. INTx lock */
};

/*
 * Puts the function into its slot (invisible to the guest until pci_func_publish()) and fills
 * `f` from zero. -EBUSY: slot taken; -ENOSPC: no slot left; -EINVAL.
 */
int pci_func_add(
	struct pci_func *f, struct pci_host *h, const struct pci_func_opts *o, struct err *e);
void pci_func_publish(struct pci_func *f);
/* Undoes all of the above; does nothing for a function that was never added. */
void pci_func_remove(struct pci_func *f);
/* As after power-on: nothing decoded, MSI-X off and masked, INTx low. Event loop, vCPUs stopped. */
void pci_func_reset(struct pci_func *f);
static inline uint16_t pci_func_rid(const struct pci_func *f)
{
	return f->rid;
}
/* ANY thread. False: the guest has not (or no longer) allowed DMA. */
static inline bool pci_bus_master(struct pci_func *f)
{
	return atomic_load_explicit(&f->master, memory_order_acquire);
}

int pci_bar_add(struct pci_func *f, unsigned bar, const struct pci_bar_opts *o, struct err *e);

/* Appends a capability of `len` bytes (with its two header bytes, which it fills). *off: where it is. */
int pci_cap_add(struct pci_func *f, uint8_t id, unsigned len, unsigned *off, struct err *e);
/* Before publish: sets constant bytes and which of them the guest may change. */
void pci_cfg_set(struct pci_func *f, unsigned off, const void *bytes, unsigned len);
void pci_cfg_writable(struct pci_func *f, unsigned off, const void *mask, unsigned len);
/* Little-endian register, 1, 2 or 4 bytes; for hooks. */
uint32_t pci_cfg_get(const struct pci_func *f, unsigned off, unsigned size);
void pci_cfg_put(struct pci_func *f, unsigned off, unsigned size, uint32_t v);

/* Optional: power management with D0 and D3hot (nothing decoded, no DMA; config space is kept). */
int pci_pm_init(struct pci_func *f, struct err *e);

/* MSI-X with `vectors` (1..2048) whose table and pending bits fill BAR `bar`, which must be free (32-bit memory). */
int pci_msix_init(struct pci_func *f, unsigned bar, unsigned vectors, struct err *e);
/* ANY thread. Sends the vector's message, or makes it pending while masked. Vectors that do not exist, and all while MSI-X is off, are lost. */
void pci_msix_notify(struct pci_func *f, unsigned vector);
/* ANY thread. MSI-X is enabled by the guest: INTx must not be used. */
bool pci_msix_on(struct pci_func *f);
/* ANY thread. Level of the interrupt pin. */
void pci_intx_set(struct pci_func *f, bool level);

extern const struct state_desc pci_func_state;

/* The bridge; the board's part. */
struct pci_window {
	enum bus_space space;
	uint64_t base, len; /* addresses on the machine's bus; PCI addresses are the same */
};

struct pci_host_opts {
	uint64_t ecam;
	unsigned buses; /* 1..256; ECAM is buses << 20 long */
	uint64_t io_window; /* MMIO address of the I/O window; 0: none (PIO reaches it) */
	uint64_t io_len;
	struct pci_window mem[2]; /* 32-bit and 64-bit windows; len 0: absent */
	struct irq_line intx[4]; /* pin A of device 0 is intx[0]: swizzled by (device + pin) % 4 */
};

int pci_host_create(
	struct pci_host **out, struct bus *b, const struct pci_host_opts *o, struct err *e);
void pci_host_destroy(struct pci_host *h); /* every function must be removed */
void pci_host_reset(struct pci_host *h); /* the bridge itself; devices reset their functions */
/* Config access as ECAM makes it: any width 1..8 and alignment. For tests and for x86's port pair. */
uint64_t pci_host_read(struct pci_host *h, uint64_t off, unsigned size);
void pci_host_write(struct pci_host *h, uint64_t off, unsigned size, uint64_t v);
extern const struct state_desc pci_host_state; /* object: the pci_host */

#endif
