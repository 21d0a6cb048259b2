#include "device/vmgenid/vmgenid.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/hex.h"
#include "device/classes.h"

struct vmgenid {
	struct device dev;
	struct bus_region region;
	struct irq_line irq;
	uint8_t id[VMGENID_BYTES];
};

static uint64_t vmgenid_read(void *dev, uint64_t off, unsigned size)
{
	const struct vmgenid *g = dev;
	uint64_t v = 0;

	for (unsigned i = 0; i < size && off + i < VMGENID_BYTES; i++)
		v |= (uint64_t)g->id[off + i] << 8 * i;
	return v;
}

static void vmgenid_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
}

static const struct bus_ops vmgenid_ops = {
	.read = vmgenid_read, .write = vmgenid_write, .min_size = 1, .max_size = 8};

static int draw(struct vmgenid *g, struct err *e)
{
	if (getrandom(g->id, sizeof(g->id), 0) != sizeof(g->id))
		return err_sys(e, -errno, "generation identifier: random numbers");
	return 0;
}

static int vmgenid_realize(struct device *d, const void *opts, struct err *e)
{
	struct vmgenid *g = (struct vmgenid *)d;
	const struct vmgenid_opts *o = opts;
	int rc;

	g->irq = o->irq;
	g->region = (struct bus_region){.name = "vmgenid",
		.ops = &vmgenid_ops,
		.dev = g,
		.lock = &d->lock,
		.base = o->base,
		.len = VMGENID_SIZE};
	/* A run that is to be repeatable has the same one each time. */
	if (d->env->seed)
		put_le64(g->id, d->env->seed);
	rc = d->env->seed ? 0 : draw(g, e);
	return rc ?: bus_claim(d->env->bus, &g->region, e);
}

static void vmgenid_unrealize(struct device *d)
{
	bus_release(d->env->bus, &((struct vmgenid *)d)->region);
}

static void vmgenid_reset(struct device *d)
{
	/* A machine that reboots is the one that it was. */
}

static int vmgenid_reborn(struct device *d, struct err *e)
{
	struct vmgenid *g = (struct vmgenid *)d;
	int rc;

	pthread_mutex_lock(&d->lock);
	rc = draw(g, e);
	pthread_mutex_unlock(&d->lock);
	if (rc)
		return rc;
	irq_set(&g->irq, true);
	irq_set(&g->irq, false);
	return 0;
}

static void vmgenid_describe(struct device *d, json_t *into)
{
	char text[2 * VMGENID_BYTES + 1];

	hex_put(text, ((struct vmgenid *)d)->id, VMGENID_BYTES);
	json_object_set_new(into, "generation", json_string(text));
}

static const struct state_field vmgenid_fields[] = {
	STATE_BYTES(struct vmgenid, id, 1),
	STATE_END,
};
static const struct state_desc vmgenid_state = {"vmgenid", 1, vmgenid_fields, .younger = true};

const struct device_class vmgenid_class = {
	.name = "vmgenid",
	.help = "tells a guest that it goes on as another machine than it was",
	.size = sizeof(struct vmgenid),
	.realize = vmgenid_realize,
	.unrealize = vmgenid_unrealize,
	.reset = vmgenid_reset,
	.reborn = vmgenid_reborn,
	.state = &vmgenid_state,
	.describe = vmgenid_describe,
};
