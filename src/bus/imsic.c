#include "bus/imsic.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "bus/bus.h"

#define SETEIPNUM_LE 0

struct level {
	struct imsic *imsic;
	enum cpu_msi_file file;
	struct bus_region region;
};

struct imsic {
	struct bus *bus;
	struct irq_cpus cpus;
	struct level m, s;
};

static uint64_t file_read(void *dev, uint64_t off, unsigned size)
{
	return 0;
}

static void store(struct level *l, uint64_t off, uint32_t id)
{
	const struct irq_cpus *c = &l->imsic->cpus;

	if ((off & PAGE_MASK) == SETEIPNUM_LE)
		c->ops->vcpu_msi(c->vcpu[off >> PAGE_SHIFT], l->file, id);
}

/* By a vCPU: what it sends to itself and others are IPIs. */
static void file_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	if (!(val & CPU_MSI_FROM_VCPU))
		store(dev, off, (uint32_t)val | CPU_MSI_FROM_VCPU);
}

static void file_msi(void *dev, uint64_t off, uint32_t data)
{
	if (!(data & CPU_MSI_FROM_VCPU))
		store(dev, off, data);
}

static const struct bus_ops file_ops = {.read = file_read,
	.write = file_write,
	.min_size = 4,
	.max_size = 4,
	.msi_sink = true,
	.msi = file_msi};

static int level_claim(struct level *l, struct imsic *i, const char *name, enum cpu_msi_file file,
	uint64_t base, struct err *e)
{
	l->imsic = i;
	l->file = file;
	l->region = (struct bus_region){.name = name,
		.ops = &file_ops,
		.dev = l,
		.base = base,
		.len = (uint64_t)i->cpus.count << PAGE_SHIFT};
	return base ? bus_claim(i->bus, &l->region, e) : 0;
}

int imsic_create(struct imsic **out, struct bus *b, const struct imsic_opts *o, struct err *e)
{
	struct imsic *i = calloc(1, sizeof(*i));
	int rc;

	if (!i)
		return err_set(e, -ENOMEM, "IMSIC: no memory");
	i->bus = b;
	i->cpus = *o->cpus;
	rc = level_claim(&i->m, i, "imsic-m", CPU_MSI_M, o->m_base, e);
	if (!rc)
		rc = level_claim(&i->s, i, "imsic-s", CPU_MSI_S, o->s_base, e);
	if (rc) {
		bus_release(b, &i->m.region);
		free(i);
		return rc;
	}
	*out = i;
	return 0;
}

void imsic_destroy(struct imsic *i)
{
	if (!i)
		return;
	bus_release(i->bus, &i->s.region);
	bus_release(i->bus, &i->m.region);
	free(i);
}
