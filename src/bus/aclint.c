#include "bus/aclint.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "bus/bus.h"

#define MTIMECMP 0x4000
#define MTIME 0xbff8

struct aclint {
	struct bus *bus;
	struct irq_cpus cpus;
	pthread_mutex_t lock;
	struct bus_region region;
	uint8_t msip[CPU_MAX_VCPUS];
};

/* The doubleword register that contains `off`; what is not there reads as zero. */
static uint64_t get(struct aclint *a, uint64_t off)
{
	const struct irq_cpus *c = &a->cpus;
	uint64_t n;

	if (off < MTIMECMP) {
		n = off / 4;
		return (n < c->count ? a->msip[n] : 0) |
		       (uint64_t)(n + 1 < c->count ? a->msip[n + 1] : 0) << 32;
	}
	n = (off - MTIMECMP) / 8;
	if (n < c->count)
		return c->ops->vcpu_mtimecmp_get(c->vcpu[n]);
	return off == MTIME ? c->ops->time_get(c->vm) : 0;
}

static uint64_t aclint_read(void *dev, uint64_t off, unsigned size)
{
	uint64_t v = get(dev, off & ~7ull);

	return size == 8 ? v : (uint32_t)(v >> (off & 4 ? 32 : 0));
}

static void msip_write(struct aclint *a, uint64_t n, bool up)
{
	if (n >= a->cpus.count)
		return;
	a->msip[n] = up;
	a->cpus.ops->vcpu_irq(a->cpus.vcpu[n], CPU_IRQ_M_SOFT, up);
}

static void aclint_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct aclint *a = dev;
	uint64_t n = (off - MTIMECMP) / 8, old;

	if (off < MTIMECMP) {
		msip_write(a, off / 4, val & 1);
		if (size == 8)
			msip_write(a, off / 4 + 1, val >> 32 & 1);
		return;
	}
	if (n >= a->cpus.count)
		return;
	if (size == 4) {
		old = a->cpus.ops->vcpu_mtimecmp_get(a->cpus.vcpu[n]);
		if (off & 4)
			val = (old & 0xffffffffull) | val << 32;
		else
			val = (old & ~0xffffffffull) | (uint32_t)val;
	}
	a->cpus.ops->vcpu_mtimecmp(a->cpus.vcpu[n], val);
}

static const struct bus_ops aclint_ops = {
	.read = aclint_read, .write = aclint_write, .min_size = 4};

int aclint_create(struct aclint **out, struct bus *b, uint64_t base, const struct irq_cpus *cpus,
	struct err *e)
{
	struct aclint *a;
	int rc;

	if (cpus->count > CPU_MAX_VCPUS)
		return err_set(e, -EINVAL, "ACLINT: %u harts; %u are the most", cpus->count,
			CPU_MAX_VCPUS);
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(e, -ENOMEM, "ACLINT: no memory");
	a->bus = b;
	a->cpus = *cpus;
	pthread_mutex_init(&a->lock, NULL);
	a->region = (struct bus_region){.name = "aclint",
		.ops = &aclint_ops,
		.dev = a,
		.lock = &a->lock,
		.base = base,
		.len = ACLINT_SIZE};
	rc = bus_claim(b, &a->region, e);
	if (rc) {
		pthread_mutex_destroy(&a->lock);
		free(a);
		return rc;
	}
	*out = a;
	return 0;
}

void aclint_destroy(struct aclint *a)
{
	if (!a)
		return;
	bus_release(a->bus, &a->region);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

void aclint_reset(struct aclint *a)
{
	for (unsigned n = 0; n < a->cpus.count; n++) {
		msip_write(a, n, false);
		a->cpus.ops->vcpu_mtimecmp(a->cpus.vcpu[n], UINT64_MAX);
	}
}

static int aclint_post_load(void *obj, unsigned version, struct err *e)
{
	struct aclint *a = obj;

	for (unsigned n = 0; n < CPU_MAX_VCPUS; n++)
		if (a->msip[n] > (n < a->cpus.count))
			return err_set(e, -EINVAL, "ACLINT: msip of hart %u is %u", n, a->msip[n]);
	for (unsigned n = 0; n < a->cpus.count; n++)
		a->cpus.ops->vcpu_irq(a->cpus.vcpu[n], CPU_IRQ_M_SOFT, a->msip[n]);
	return 0;
}

static const struct state_field aclint_fields[] = {
	STATE_BYTES(struct aclint, msip, 1), /* mtimecmp is in the vCPU's state */
	STATE_END,
};
const struct state_desc aclint_state = {"aclint", 1, aclint_fields, .post_load = aclint_post_load};
