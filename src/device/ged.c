#include "device/ged.h"

#include <errno.h>

#include "base/err.h"
#include "base/system_event.h"
#include "device/classes.h"

#define SLEEP_ENABLE 0x20u
#define SLEEP_TYPE_OFF 5u

struct ged {
	struct device dev;
	struct bus_region region;
	struct irq_line irq;
	uint32_t events;
};

static uint64_t ged_read(void *dev, uint64_t off, unsigned size)
{
	struct ged *g = dev;
	uint32_t v = 0;

	if (!off && size == 4) {
		v = g->events;
		g->events = 0;
	}
	return v;
}

static void ged_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct ged *g = dev;
	struct device_env *env = g->dev.env;

	if (size != 1)
		return;
	if (off == GED_SLEEP_CONTROL && (val & SLEEP_ENABLE) && (val >> 2 & 7) == SLEEP_TYPE_OFF)
		env->system_event(env->ctx, CPU_SYSTEM_SHUTDOWN, 0);
	if (off == GED_RESET && val == GED_RESET_VALUE)
		env->system_event(env->ctx, CPU_SYSTEM_REBOOT, 0);
}

static const struct bus_ops ged_ops = {.read = ged_read, .write = ged_write, .max_size = 4};

static int ged_realize(struct device *d, const void *opts, struct err *e)
{
	struct ged *g = (struct ged *)d;
	const struct ged_opts *o = opts;

	g->irq = o->irq;
	g->region = (struct bus_region){.name = "acpi-ged",
		.ops = &ged_ops,
		.dev = g,
		.lock = &d->lock,
		.base = o->base,
		.len = GED_SIZE};
	return bus_claim(d->env->bus, &g->region, e);
}

static void ged_unrealize(struct device *d)
{
	bus_release(d->env->bus, &((struct ged *)d)->region);
}

static void ged_reset(struct device *d)
{
	struct ged *g = (struct ged *)d;

	pthread_mutex_lock(&d->lock);
	g->events = 0;
	pthread_mutex_unlock(&d->lock);
}

/* The interrupt is an edge: nothing tells whether the guest listens. */
static void happen(struct ged *g, uint32_t event)
{
	pthread_mutex_lock(&g->dev.lock);
	g->events |= event;
	irq_set(&g->irq, true);
	irq_set(&g->irq, false);
	pthread_mutex_unlock(&g->dev.lock);
}

static int ged_power_button(struct device *d, struct err *e)
{
	happen((struct ged *)d, GED_POWER_BUTTON);
	return 0;
}

static void wired(void *ctrl, unsigned pin, bool level)
{
	if (level)
		happen(ctrl, pin);
}

struct irq_line ged_line(struct device *ged, uint32_t event)
{
	return (struct irq_line){wired, ged, event};
}

static int ged_post_load(void *obj, unsigned version, struct err *e)
{
	const struct ged *g = obj;

	if (g->events & ~(GED_POWER_BUTTON | GED_GENERATION))
		return err_set(
			e, -EINVAL, "event device: unknown events 0x%x in the stream", g->events);
	return 0;
}

static const struct state_field ged_fields[] = {
	STATE_U32(struct ged, events, 1),
	STATE_END,
};
static const struct state_desc ged_state = {"acpi-ged", 1, ged_fields, .post_load = ged_post_load};

const struct device_class ged_class = {
	.name = "acpi-ged",
	.help = "power button, power off and reset by ACPI registers",
	.size = sizeof(struct ged),
	.realize = ged_realize,
	.unrealize = ged_unrealize,
	.reset = ged_reset,
	.state = &ged_state,
	.power_button = ged_power_button,
};
