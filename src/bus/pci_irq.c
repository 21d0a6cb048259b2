/*
 * pci_irq.c: MSI-X (PCI Local Bus 3.0, section 6.8.2) and the four wired pins.
 *
 * A message is sent with no lock held. What is masked, or comes while the function may not issue
 * memory requests, waits in its pending bit and goes out as soon as all of that is over.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/pci_priv.h"

#define MSIX_CAP_LEN 12
#define MSIX_ENTRY_SIZE 16u
#define MSIX_CTRL_MASKED 1u
#define MSIX_CAP_ENABLE 0x80 /* in the high byte of message control */
#define MSIX_CAP_MASKALL 0x40

/* With msix.lock held: takes what the vector would send now. */
static bool take(struct pci_func *f, unsigned n, uint64_t *addr, uint32_t *data)
{
	struct pci_msix_entry *v = &f->msix.vec[n];

	if (!v->pending || !f->msix.enabled || f->msix.masked || (v->ctrl & MSIX_CTRL_MASKED) ||
		!pci_bus_master(f))
		return false;
	v->pending = false;
	*addr = v->addr;
	*data = v->data;
	return true;
}

static void send_if_due(struct pci_func *f, unsigned n, bool raise)
{
	struct pci_msix *m = &f->msix;
	uint64_t addr = 0;
	uint32_t data = 0;
	bool due = false;

	pthread_mutex_lock(&m->lock);
	if (n < m->count) {
		if (raise && m->enabled)
			m->vec[n].pending = true;
		due = take(f, n, &addr, &data);
	}
	pthread_mutex_unlock(&m->lock);
	if (due)
		bus_msi(f->host->bus, addr, data);
}

void pci_msix_notify(struct pci_func *f, unsigned vector)
{
	send_if_due(f, vector, true);
}

bool pci_msix_on(struct pci_func *f)
{
	bool on;

	pthread_mutex_lock(&f->msix.lock);
	on = f->msix.enabled;
	pthread_mutex_unlock(&f->msix.lock);
	return on;
}

void pci_msix_update(struct pci_func *f)
{
	struct pci_msix *m = &f->msix;
	uint8_t ctrl;

	if (!m->made)
		return;
	ctrl = f->cfg[m->cap + 3];
	pthread_mutex_lock(&m->lock);
	m->enabled = ctrl & MSIX_CAP_ENABLE;
	m->masked = ctrl & MSIX_CAP_MASKALL;
	pthread_mutex_unlock(&m->lock);
	for (unsigned n = 0; n < m->count; n++)
		send_if_due(f, n, false);
}

void pci_msix_reset(struct pci_func *f)
{
	struct pci_msix *m = &f->msix;

	pthread_mutex_lock(&m->lock);
	for (unsigned n = 0; n < m->count; n++)
		m->vec[n] = (struct pci_msix_entry){.ctrl = MSIX_CTRL_MASKED};
	pthread_mutex_unlock(&m->lock);
}

void pci_msix_free(struct pci_func *f)
{
	free(f->msix.vec);
	f->msix.vec = NULL;
	f->msix.count = f->msix.made = 0;
	pthread_mutex_destroy(&f->msix.lock);
}

static uint32_t entry_read(const struct pci_msix *m, uint64_t off)
{
	const struct pci_msix_entry *v = &m->vec[off / MSIX_ENTRY_SIZE];

	switch (off % MSIX_ENTRY_SIZE) {
	case 0:
		return (uint32_t)v->addr;
	case 4:
		return (uint32_t)(v->addr >> 32);
	case 8:
		return v->data;
	default:
		return v->ctrl;
	}
}

static void entry_write(struct pci_msix *m, uint64_t off, uint32_t val)
{
	struct pci_msix_entry *v = &m->vec[off / MSIX_ENTRY_SIZE];

	switch (off % MSIX_ENTRY_SIZE) {
	case 0:
		v->addr = (v->addr & ~0xffffffffull) | (val & ~3u);
		break;
	case 4:
		v->addr = (v->addr & 0xffffffffull) | (uint64_t)val << 32;
		break;
	case 8:
		v->data = val;
		break;
	default:
		v->ctrl = val & MSIX_CTRL_MASKED;
	}
}

/* Dwords only: the bus has seen to that. What is neither table nor pending bits reads as zero. */
static uint32_t msix_read32(const struct pci_msix *m, uint64_t off)
{
	uint32_t v = 0;

	if (off / MSIX_ENTRY_SIZE < m->count && off < m->pba)
		return entry_read(m, off);
	if (off < m->pba)
		return 0;
	for (uint64_t i = 0, n = (off - m->pba) * 8; i < 32 && n + i < m->count; i++)
		v |= (uint32_t)m->vec[n + i].pending << i;
	return v;
}

static uint64_t msix_read(void *dev, uint64_t off, unsigned size)
{
	struct pci_func *f = dev;
	struct pci_msix *m = &f->msix;
	uint64_t v;

	pthread_mutex_lock(&m->lock);
	v = msix_read32(m, off);
	if (size == 8)
		v |= (uint64_t)msix_read32(m, off + 4) << 32;
	pthread_mutex_unlock(&m->lock);
	return v;
}

static void msix_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_func *f = dev;
	struct pci_msix *m = &f->msix;
	unsigned n = (unsigned)(off / MSIX_ENTRY_SIZE);
	bool entry;

	pthread_mutex_lock(&m->lock);
	entry = off < m->pba && n < m->count;
	if (entry)
		entry_write(m, off, (uint32_t)val);
	if (entry && size == 8)
		entry_write(m, off + 4, (uint32_t)(val >> 32));
	pthread_mutex_unlock(&m->lock);
	if (entry)
		send_if_due(f, n, false);
}

static const struct bus_ops msix_ops = {.read = msix_read, .write = msix_write, .min_size = 4};

/* The next power of two that holds the table, and then its pending bits. */
static uint64_t msix_bar_size(unsigned vectors, uint32_t *pba)
{
	uint64_t half = 2 * KiB;

	while (half < vectors * (uint64_t)MSIX_ENTRY_SIZE)
		half *= 2;
	*pba = (uint32_t)half;
	return 2 * half;
}

int pci_msix_init(struct pci_func *f, unsigned bar, unsigned vectors, struct err *e)
{
	struct pci_bar_opts o = {.name = "pci-msix", .ops = &msix_ops, .dev = f};
	struct pci_msix *m = &f->msix;
	uint8_t cap[10] = {0}, mask = MSIX_CAP_ENABLE | MSIX_CAP_MASKALL;
	unsigned at;
	int rc;

	if (m->made || !vectors || vectors > PCI_MSIX_MAX)
		return err_set(e, -EINVAL, "PCI function: %u MSI-X vectors; 1 to %u are possible",
			vectors, PCI_MSIX_MAX);
	o.size = msix_bar_size(vectors, &m->pba);
	rc = pci_bar_add(f, bar, &o, e);
	if (!rc)
		rc = pci_cap_add(f, PCI_CAP_ID_MSIX, MSIX_CAP_LEN, &at, e);
	if (rc)
		return rc;
	m->vec = calloc(vectors, sizeof(*m->vec));
	if (!m->vec)
		return err_set(e, -ENOMEM, "PCI function %s: no memory", f->opts.name);
	m->count = m->made = vectors;
	m->cap = at;
	pci_msix_reset(f);
	cap[0] = (uint8_t)(vectors - 1);
	cap[1] = (uint8_t)((vectors - 1) >> 8);
	cap[2] = (uint8_t)bar; /* table at offset 0 */
	for (unsigned i = 0; i < 4; i++)
		cap[6 + i] = (uint8_t)((m->pba | bar) >> (8 * i));
	pci_cfg_set(f, at + 2, cap, sizeof(cap));
	pci_cfg_writable(f, at + 3, &mask, 1);
	return 0;
}

/* Wired pins. */

static void intx_drive(struct pci_func *f, bool on)
{
	struct pci_host *h = f->host;
	unsigned line = ((f->rid >> 3) + f->opts.function) % 4;

	if (f->intx_out == on)
		return;
	f->intx_out = on;
	h->intx_count[line] += on ? 1 : -1u;
	if (h->intx_count[line] == (on ? 1u : 0u))
		irq_set(&h->opts.intx[line], on);
}

void pci_intx_update(struct pci_func *f)
{
	pthread_mutex_lock(&f->host->intx_lock);
	f->intx_off = !f->published || (pci_cfg_get(f, PCI_CFG_COMMAND, 2) & PCI_CMD_INTX_OFF);
	intx_drive(f, f->intx_level && !f->intx_off);
	pthread_mutex_unlock(&f->host->intx_lock);
}

void pci_intx_set(struct pci_func *f, bool level)
{
	if (!f->opts.intx)
		return;
	pthread_mutex_lock(&f->host->intx_lock);
	f->intx_level = level;
	intx_drive(f, level && !f->intx_off);
	pthread_mutex_unlock(&f->host->intx_lock);
}
