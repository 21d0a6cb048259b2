/*
 * pci.c: the host bridge, config space and BARs.
 */
#include "bus/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/pci_priv.h"

#define CAPS_START 0x40
#define EXP_CAP_LEN 0x3c
#define NO_FUNC 0xff /* what config reads see where nobody is */

uint32_t pci_cfg_get(const struct pci_func *f, unsigned off, unsigned size)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < size && i < 4 && off + i < PCI_CFG_SIZE; i++)
		v |= (uint32_t)f->cfg[off + i] << (8 * i);
	return v;
}

static void put_le(uint8_t *at, unsigned size, uint32_t v)
{
	for (unsigned i = 0; i < size; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

void pci_cfg_put(struct pci_func *f, unsigned off, unsigned size, uint32_t v)
{
	if (size <= 4 && off < PCI_CFG_SIZE && size <= PCI_CFG_SIZE - off)
		put_le(f->cfg + off, size, v);
}

void pci_cfg_set(struct pci_func *f, unsigned off, const void *bytes, unsigned len)
{
	if (off < PCI_CFG_SIZE && len <= PCI_CFG_SIZE - off)
		memcpy(f->cfg + off, bytes, len);
}

void pci_cfg_writable(struct pci_func *f, unsigned off, const void *mask, unsigned len)
{
	if (off < PCI_CFG_SIZE && len <= PCI_CFG_SIZE - off)
		memcpy(f->wmask + off, mask, len);
}

/* Capabilities. */

static int cap_add(struct pci_func *f, uint8_t id, unsigned len, unsigned *off, struct err *e)
{
	unsigned at = (f->cap_end + 3) & ~3u, link = PCI_CFG_CAPS;

	if (len < 2 || at + len > PCI_CFG_SAVED)
		return err_set(e, -ENOSPC, "PCI function %s: no room for capability 0x%02x",
			f->opts.name, id);
	while (f->cfg[link])
		link = f->cfg[link] + 1u;
	f->cfg[link] = (uint8_t)at;
	f->cfg[at] = id;
	f->cap_end = at + len;
	f->cfg[PCI_CFG_STATUS] |= PCI_STATUS_CAPS;
	*off = at;
	return 0;
}

int pci_cap_add(struct pci_func *f, uint8_t id, unsigned len, unsigned *off, struct err *e)
{
	if (!f->host || f->published)
		return err_set(e, -EINVAL, "PCI: capability of a function that is not being built");
	return cap_add(f, id, len, off, e);
}

static unsigned cap_find(const struct pci_func *f, uint8_t id)
{
	unsigned at = f->cfg[PCI_CFG_CAPS];

	while (at && f->cfg[at] != id)
		at = f->cfg[at + 1];
	return at;
}

/* PCI Express capability, version 2, root-complex integrated endpoint (no link registers in use). */
static int exp_cap_add(struct pci_func *f, struct err *e)
{
	unsigned at;
	int rc = cap_add(f, PCI_CAP_ID_EXP, EXP_CAP_LEN, &at, e);

	if (rc)
		return rc;
	put_le(f->cfg + at + 2, 2, 0x0092);
	put_le(f->cfg + at + 4, 4, 0x00008000); /* role-based error reporting */
	put_le(f->wmask + at + 8, 2, 0x7eff); /* device control; bit 8: extended tags, not there */
	put_le(f->w1c + at + 10, 2, 0x000f);
	return 0;
}

/* BARs. */

static bool powered(const struct pci_func *f)
{
	unsigned at = cap_find(f, PCI_CAP_ID_PM);

	return !at || !(f->cfg[at + 4] & 3);
}

bool pci_cfg_master(const struct pci_func *f)
{
	return f->published && powered(f) && (f->cfg[PCI_CFG_COMMAND] & PCI_CMD_MASTER);
}

static uint64_t bar_addr(const struct pci_func *f, unsigned i)
{
	unsigned reg = PCI_CFG_BAR0 + 4 * i;
	uint64_t v = pci_cfg_get(f, reg, 4);

	if (f->bar[i].flags & PCI_BAR_IO)
		return v & ~3ull;
	v &= ~15ull;
	if (f->bar[i].flags & PCI_BAR_64)
		v |= (uint64_t)pci_cfg_get(f, reg + 4, 4) << 32;
	return v;
}

static bool inside(uint64_t a, uint64_t len, uint64_t base, uint64_t blen)
{
	return blen && a >= base && len <= blen && a - base <= blen - len;
}

/* Does the function decode this BAR now, and at an address that the bridge forwards? */
static bool bar_wanted(const struct pci_func *f, unsigned i, uint64_t *addr)
{
	const struct pci_host_opts *o = &f->host->opts;
	const struct pci_bar *bar = &f->bar[i];
	unsigned cmd = f->cfg[PCI_CFG_COMMAND];

	if (!bar->size || !f->published || !powered(f))
		return false;
	*addr = bar_addr(f, i);
	if (bar->flags & PCI_BAR_IO)
		return (cmd & PCI_CMD_IO) && inside(*addr, bar->size, 0, o->io_len);
	if (!(cmd & PCI_CMD_MEM))
		return false;
	return inside(*addr, bar->size, o->mem[0].base, o->mem[0].len) ||
	       inside(*addr, bar->size, o->mem[1].base, o->mem[1].len);
}

/*
 * Brings the bus into line with every function's config space. First everything that went or moved is taken away,
 * so that two BARs may change places; a BAR that finds its place taken is tried again at the next change.
 */
static void bars_sync(struct pci_host *h)
{
	for (unsigned n = 0; n < 2 * PCI_FUNCS; n++) {
		struct pci_func *f = h->func[n % PCI_FUNCS];
		bool place = n >= PCI_FUNCS;

		for (unsigned i = 0; f && i < PCI_BARS; i++) {
			struct pci_bar *bar = &f->bar[i];
			uint64_t addr = 0;
			bool want = bar_wanted(f, i, &addr);

			if (bar->claimed && (!want || bar->region.base != addr)) {
				bus_release(h->bus, &bar->region);
				bar->claimed = false;
			}
			if (place && want && !bar->claimed)
				bar->claimed = !bus_move(h->bus, &bar->region, addr);
		}
	}
}

static bool bar_opts_ok(const struct pci_func *f, unsigned i, const struct pci_bar_opts *o)
{
	bool wide = o->flags & PCI_BAR_64;

	if (i >= PCI_BARS || f->bar[i].size || !o->ops || !is_pow2(o->size))
		return false;
	if (i && f->bar[i - 1].size && (f->bar[i - 1].flags & PCI_BAR_64))
		return false;
	if (wide && (i + 1 >= PCI_BARS || f->bar[i + 1].size))
		return false;
	if (o->flags & PCI_BAR_IO)
		return !wide && o->size >= 4 && o->size <= 256;
	return o->size >= 16 && (wide || o->size <= 2 * GiB);
}

int pci_bar_add(struct pci_func *f, unsigned bar, const struct pci_bar_opts *o, struct err *e)
{
	unsigned reg = PCI_CFG_BAR0 + 4 * bar;
	uint64_t mask;

	if (!f->host || f->published || !bar_opts_ok(f, bar, o))
		return err_set(e, -EINVAL, "PCI function: BAR %u of 0x%llx bytes is not possible",
			bar, (unsigned long long)o->size);
	mask = ~(o->size - 1);
	f->bar[bar] = (struct pci_bar){.size = o->size, .flags = o->flags};
	f->bar[bar].region = (struct bus_region){
		.name = o->name,
		.ops = o->ops,
		.dev = o->dev,
		.lock = o->lock,
		.space = o->flags & PCI_BAR_IO ? BUS_PIO : BUS_MMIO,
		.len = o->size,
	};
	if (o->flags & PCI_BAR_IO) {
		f->cfg[reg] = 1;
		put_le(f->wmask + reg, 4, (uint32_t)mask & ~3u);
		f->wmask[PCI_CFG_COMMAND] |= PCI_CMD_IO;
		return 0;
	}
	f->cfg[reg] = (uint8_t)((o->flags & PCI_BAR_64 ? 4 : 0) |
				(o->flags & PCI_BAR_PREFETCH ? 8 : 0));
	put_le(f->wmask + reg, 4, (uint32_t)mask & ~15u);
	if (o->flags & PCI_BAR_64)
		put_le(f->wmask + reg + 4, 4, (uint32_t)(mask >> 32));
	return 0;
}

/* Functions. */

static void header_init(struct pci_func *f)
{
	const struct pci_func_opts *o = &f->opts;

	put_le(f->cfg + PCI_CFG_VENDOR, 2, o->vendor);
	put_le(f->cfg + PCI_CFG_DEVICE, 2, o->device);
	f->cfg[PCI_CFG_REVISION] = o->revision;
	put_le(f->cfg + PCI_CFG_CLASS, 3, o->class_code);
	put_le(f->cfg + PCI_CFG_SUBVENDOR, 2, o->subvendor);
	put_le(f->cfg + PCI_CFG_SUBDEVICE, 2, o->subdevice);
	if (o->intx)
		f->cfg[PCI_CFG_INT_PIN] = (uint8_t)(1 + o->function % 4);
	put_le(f->wmask + PCI_CFG_COMMAND, 2,
		PCI_CMD_MEM | PCI_CMD_MASTER | PCI_CMD_INTX_OFF | 0x140);
	put_le(f->w1c + PCI_CFG_STATUS, 2, 0xf900);
	f->wmask[0x0c] = 0xff; /* cache line size */
	f->wmask[PCI_CFG_INT_LINE] = 0xff;
	f->cap_end = CAPS_START;
}

static int slot_choose(struct pci_host *h, const struct pci_func_opts *o, struct err *e)
{
	if (o->function > 7 || o->slot >= PCI_SLOTS || o->slot < PCI_SLOT_ANY)
		return err_set(e, -EINVAL, "PCI function %s: no such slot or function", o->name);
	if (o->slot != PCI_SLOT_ANY) {
		unsigned n = PCI_DEVFN(o->slot, o->function);

		if (h->func[n])
			return err_set(e, -EBUSY, "PCI slot %d.%u: taken by %s, %s cannot have it",
				o->slot, o->function, h->func[n]->opts.name, o->name);
		if (o->function && !h->func[PCI_DEVFN(o->slot, 0)])
			return err_set(e, -EINVAL, "PCI slot %d: function %u without function 0",
				o->slot, o->function);
		return (int)n;
	}
	for (unsigned s = 1; s < PCI_SLOTS; s++)
		if (!h->func[PCI_DEVFN(s, 0)])
			return (int)PCI_DEVFN(s, 0);
	return err_set(e, -ENOSPC, "PCI: no slot left for %s (31 devices are the most)", o->name);
}

static int func_add(struct pci_func *f, struct pci_host *h, const struct pci_func_opts *o,
	unsigned n, struct err *e)
{
	int rc;

	memset(f, 0, sizeof(*f));
	f->opts = *o;
	f->rid = (uint16_t)n;
	header_init(f);
	pthread_mutex_init(&f->msix.lock, NULL);
	f->host = h;
	pthread_mutex_lock(&h->lock);
	h->func[n] = f;
	pthread_mutex_unlock(&h->lock);
	rc = exp_cap_add(f, e);
	if (rc)
		pci_func_remove(f);
	return rc;
}

int pci_func_add(
	struct pci_func *f, struct pci_host *h, const struct pci_func_opts *o, struct err *e)
{
	int n = slot_choose(h, o, e);

	f->host = NULL;
	return n < 0 ? n : func_add(f, h, o, (unsigned)n, e);
}

int pci_pm_init(struct pci_func *f, struct err *e)
{
	unsigned at;
	int rc = pci_cap_add(f, PCI_CAP_ID_PM, 8, &at, e);

	if (rc)
		return rc;
	put_le(f->cfg + at + 2, 2, 0x0003); /* version 1.2; no PME, no D1, no D2 */
	f->cfg[at + 4] = 0x08; /* no soft reset: D3hot keeps config space */
	f->wmask[at + 4] = 0x03;
	return 0;
}

void pci_func_publish(struct pci_func *f)
{
	struct pci_host *h = f->host;
	struct pci_func *first = h->func[f->rid & ~7u];

	pthread_mutex_lock(&h->lock);
	memcpy(f->at_reset, f->cfg, sizeof(f->cfg));
	if (f->opts.function && first) {
		first->cfg[PCI_CFG_HEADER] |= 0x80;
		first->at_reset[PCI_CFG_HEADER] |= 0x80;
	}
	f->published = true;
	pthread_mutex_unlock(&h->lock);
}

/* Everything that follows from config space. Config lock held. */
static void func_update(struct pci_func *f)
{
	atomic_store_explicit(&f->master, pci_cfg_master(f), memory_order_release);
	bars_sync(f->host);
	pci_intx_update(f);
	pci_msix_update(f);
}

void pci_func_remove(struct pci_func *f)
{
	struct pci_host *h = f->host;

	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	f->published = false;
	func_update(f);
	h->func[f->rid] = NULL;
	pthread_mutex_unlock(&h->lock);
	pci_msix_free(f);
	f->host = NULL;
}

void pci_func_reset(struct pci_func *f)
{
	pthread_mutex_lock(&f->host->lock);
	memcpy(f->cfg, f->at_reset, sizeof(f->cfg));
	pci_msix_reset(f);
	pthread_mutex_lock(&f->host->intx_lock);
	f->intx_level = false;
	pthread_mutex_unlock(&f->host->intx_lock);
	func_update(f);
	pthread_mutex_unlock(&f->host->lock);
}

/* Config accesses. */

static struct pci_func *func_at(struct pci_host *h, uint64_t off)
{
	uint64_t n = off / PCI_CFG_SIZE;

	return n < PCI_FUNCS && h->func[n] && h->func[n]->published ? h->func[n] : NULL;
}

static void func_read(struct pci_func *f, unsigned off, unsigned n, uint8_t *to)
{
	if (f->opts.cfg_read)
		f->opts.cfg_read(f, off, n);
	if (f->opts.intx) {
		pthread_mutex_lock(&f->host->intx_lock);
		f->cfg[PCI_CFG_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
		if (f->intx_level)
			f->cfg[PCI_CFG_STATUS] |= PCI_STATUS_INTX;
		pthread_mutex_unlock(&f->host->intx_lock);
	}
	memcpy(to, f->cfg + off, n);
}

static void func_write(struct pci_func *f, unsigned off, unsigned n, const uint8_t *from)
{
	uint8_t was[8];

	memcpy(was, f->cfg + off, n);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *c = &f->cfg[off + i];

		*c = (uint8_t)((*c & ~f->wmask[off + i]) | (from[i] & f->wmask[off + i]));
		*c &= (uint8_t) ~(from[i] & f->w1c[off + i]);
	}
	if (memcmp(was, f->cfg + off, n))
		func_update(f);
	if (f->opts.cfg_write)
		f->opts.cfg_write(f, off, n);
}

/* Splits an access where it crosses from one function's space into the next. Config lock held. */
static void cfg_access(struct pci_host *h, uint64_t off, unsigned size, uint8_t *bytes, bool write)
{
	if (off > UINT64_MAX - size)
		off = UINT64_MAX - size; /* nobody is up there, and it must not wrap to 00:00.0 */
	for (unsigned done = 0, n; done < size; done += n) {
		struct pci_func *f = func_at(h, off + done);
		unsigned reg = (unsigned)((off + done) % PCI_CFG_SIZE);

		n = MIN(size - done, PCI_CFG_SIZE - reg);
		if (f && write)
			func_write(f, reg, n, bytes + done);
		else if (f)
			func_read(f, reg, n, bytes + done);
		else if (!write)
			memset(bytes + done, NO_FUNC, n);
	}
}

static uint64_t ecam_read(void *dev, uint64_t off, unsigned size)
{
	uint8_t bytes[8] = {0};
	uint64_t v = 0;

	cfg_access(dev, off, size, bytes, false);
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)bytes[i] << (8 * i);
	return v;
}

static void ecam_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < size; i++)
		bytes[i] = (uint8_t)(val >> (8 * i));
	cfg_access(dev, off, size, bytes, true);
}

static const struct bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write, .unaligned = true};

uint64_t pci_host_read(struct pci_host *h, uint64_t off, unsigned size)
{
	uint64_t v;

	pthread_mutex_lock(&h->lock);
	v = ecam_read(h, off, MIN(size, 8u));
	pthread_mutex_unlock(&h->lock);
	return v;
}

void pci_host_write(struct pci_host *h, uint64_t off, unsigned size, uint64_t v)
{
	pthread_mutex_lock(&h->lock);
	ecam_write(h, off, MIN(size, 8u), v);
	pthread_mutex_unlock(&h->lock);
}

/* The I/O window: ports that nobody claims read as ones, as on a PC; an access fault would kill probing drivers. */
static uint64_t io_read(void *dev, uint64_t off, unsigned size)
{
	struct pci_host *h = dev;
	uint64_t v;

	bus_access(h->bus, BUS_PIO, off, size, false, &v);
	return size < 8 ? v & ((1ull << (8 * size)) - 1) : v;
}

static void io_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_host *h = dev;

	bus_access(h->bus, BUS_PIO, off, size, true, &val);
}

static const struct bus_ops io_ops = {
	.read = io_read, .write = io_write, .max_size = 4, .unaligned = true};

/* The host. */

static int host_claim(struct pci_host *h, struct err *e)
{
	const struct pci_host_opts *o = &h->opts;
	int rc;

	h->ecam = (struct bus_region){.name = "pci-ecam",
		.ops = &ecam_ops,
		.dev = h,
		.lock = &h->lock,
		.base = o->ecam,
		.len = (uint64_t)o->buses << 20};
	rc = bus_claim(h->bus, &h->ecam, e);
	if (rc || !o->io_window)
		return rc;
	h->io = (struct bus_region){
		.name = "pci-io", .ops = &io_ops, .dev = h, .base = o->io_window, .len = o->io_len};
	rc = bus_claim(h->bus, &h->io, e);
	if (rc)
		bus_release(h->bus, &h->ecam);
	return rc;
}

int pci_host_create(
	struct pci_host **out, struct bus *b, const struct pci_host_opts *o, struct err *e)
{
	static const struct pci_func_opts bridge = {
		.name = "pci-host", .vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000};
	struct pci_host *h;
	int rc;

	if (!o->buses || o->buses > 256)
		return err_set(e, -EINVAL, "PCI host: %u buses; 1 to 256 are possible", o->buses);
	h = calloc(1, sizeof(*h));
	if (!h)
		return err_set(e, -ENOMEM, "PCI host: no memory");
	h->bus = b;
	h->opts = *o;
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->intx_lock, NULL);
	rc = func_add(&h->bridge, h, &bridge, 0, e);
	if (!rc) {
		pci_func_publish(&h->bridge);
		rc = host_claim(h, e);
		if (rc)
			pci_func_remove(&h->bridge);
	}
	if (rc) {
		pthread_mutex_destroy(&h->lock);
		pthread_mutex_destroy(&h->intx_lock);
		free(h);
		return rc;
	}
	*out = h;
	return 0;
}

void pci_host_destroy(struct pci_host *h)
{
	if (!h)
		return;
	bus_release(h->bus, &h->ecam);
	bus_release(h->bus, &h->io);
	pci_func_remove(&h->bridge);
	pthread_mutex_destroy(&h->lock);
	pthread_mutex_destroy(&h->intx_lock);
	free(h);
}

void pci_host_reset(struct pci_host *h)
{
	pci_func_reset(&h->bridge);
}

/* Described state. */

static void func_pre_save(void *obj)
{
	struct pci_func *f = obj;

	memcpy(f->saved, f->cfg, sizeof(f->saved));
	f->saved[PCI_CFG_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
}

static int func_post_load(void *obj, unsigned version, struct err *e)
{
	struct pci_func *f = obj;

	if (f->msix.count != f->msix.made)
		return err_set(e, -EINVAL,
			"PCI function %s: %u MSI-X vectors in the stream, %u here", f->opts.name,
			f->msix.count, f->msix.made);
	for (unsigned i = 0; i < PCI_CFG_SAVED; i++) {
		uint8_t fixed = (uint8_t) ~(f->wmask[i] | f->w1c[i]);

		if ((f->saved[i] ^ f->at_reset[i]) & fixed)
			return err_set(e, -EINVAL,
				"PCI function %s: constant config byte 0x%02x is 0x%02x in the "
				"stream, 0x%02x here: not the same device",
				f->opts.name, i, f->saved[i], f->at_reset[i]);
	}
	pthread_mutex_lock(&f->host->lock);
	memcpy(f->cfg, f->saved, PCI_CFG_SAVED);
	func_update(f);
	pthread_mutex_unlock(&f->host->lock);
	return 0;
}

static const struct state_field entry_fields[] = {
	STATE_U64(struct pci_msix_entry, addr, 1),
	STATE_U32(struct pci_msix_entry, data, 1),
	STATE_U32(struct pci_msix_entry, ctrl, 1),
	STATE_BOOL(struct pci_msix_entry, pending, 1),
	STATE_END,
};
static const struct state_desc entry_state = {"pci-msix-vector", 1, entry_fields};

static const struct state_field msix_fields[] = {
	STATE_VEC(
		struct pci_msix, vec, count, PCI_MSIX_MAX, &entry_state, struct pci_msix_entry, 1),
	STATE_END,
};
static const struct state_desc msix_state = {"pci-msix", 1, msix_fields};

static const struct state_field func_fields[] = {
	STATE_BYTES(struct pci_func, saved, 1),
	STATE_BOOL(struct pci_func, intx_level, 1),
	STATE_STRUCT(struct pci_func, msix, &msix_state, struct pci_msix, 1),
	STATE_END,
};

const struct state_desc pci_func_state = {
	"pci-function", 1, func_fields, .pre_save = func_pre_save, .post_load = func_post_load};

static const struct state_field host_fields[] = {
	STATE_STRUCT(struct pci_host, bridge, &pci_func_state, struct pci_func, 1),
	STATE_END,
};

const struct state_desc pci_host_state = {"pci-host", 1, host_fields};
