#include "machine/pc_ports.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/system_event.h"
#include "bus/pci.h"

#define ENABLE 0x80000000u
#define DATA 4u
#define RESET 1u
#define RESET_CPU 4u
#define NOBODY UINT64_MAX

struct pc_ports {
	struct pc_ports_opts o;
	struct bus_region region;
	pthread_mutex_t lock;
	uint32_t address;
};

/* Offset in ECAM of the register that the address names, or NOBODY. */
static uint64_t target(const struct pc_ports *p, uint64_t off)
{
	uint32_t a = p->address;

	if (!(a & ENABLE))
		return NOBODY;
	return (uint64_t)(a >> 8 & 0xffff) << 12 | (a & 0xfc) | (off - DATA);
}

static uint64_t ports_read(void *dev, uint64_t off, unsigned size)
{
	struct pc_ports *p = dev;
	uint64_t at;

	if (off < DATA)
		return !off && size == 4 ? p->address : UINT64_MAX;
	at = target(p, off);
	return at == NOBODY ? UINT64_MAX : pci_host_read(p->o.pci, at, size);
}

static void ports_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pc_ports *p = dev;
	uint64_t at;

	if (!off && size == 4)
		p->address = (uint32_t)val & (ENABLE | 0xfffffcu);
	if (off == RESET && size == 1 && (val & RESET_CPU))
		p->o.system_event(p->o.ctx, CPU_SYSTEM_REBOOT, 0);
	if (off < DATA)
		return;
	at = target(p, off);
	if (at != NOBODY)
		pci_host_write(p->o.pci, at, size, val);
}

static const struct bus_ops ports_ops = {
	.read = ports_read, .write = ports_write, .min_size = 1, .max_size = 4, .unaligned = true};

int pc_ports_create(struct pc_ports **out, const struct pc_ports_opts *o, struct err *e)
{
	struct pc_ports *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(e, -ENOMEM, "PCI ports: no memory");
	p->o = *o;
	pthread_mutex_init(&p->lock, NULL);
	p->region = (struct bus_region){.name = "pci-ports",
		.ops = &ports_ops,
		.dev = p,
		.lock = &p->lock,
		.space = BUS_PIO,
		.base = o->port,
		.len = 8};
	rc = bus_claim(o->bus, &p->region, e);
	if (rc) {
		pthread_mutex_destroy(&p->lock);
		free(p);
		return rc;
	}
	*out = p;
	return 0;
}

void pc_ports_destroy(struct pc_ports *p)
{
	if (!p)
		return;
	bus_release(p->o.bus, &p->region);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void pc_ports_reset(struct pc_ports *p)
{
	p->address = 0;
}

static const struct state_field ports_fields[] = {
	STATE_U32(struct pc_ports, address, 1),
	STATE_END,
};
const struct state_desc pc_ports_state = {"pci-ports", 1, ports_fields};
