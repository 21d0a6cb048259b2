#include "device/finisher.h"

#include "base/system_event.h"
#include "device/classes.h"

struct finisher {
	struct device dev;
	struct bus_region region;
	uint32_t last; /* what the guest wrote last; there is no other state */
};

static uint64_t finisher_read(void *dev, uint64_t off, unsigned size)
{
	return 0;
}

static void finisher_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct finisher *f = dev;
	struct device_env *env = f->dev.env;
	uint32_t code = (uint32_t)val >> 16;

	if (off)
		return;
	f->last = (uint32_t)val;
	switch (val & 0xffff) {
	case FINISHER_PASS:
		env->system_event(env->ctx, CPU_SYSTEM_SHUTDOWN, 0);
		break;
	case FINISHER_FAIL:
		env->system_event(env->ctx, CPU_SYSTEM_CRASH, code ? code : 1);
		break;
	case FINISHER_RESET:
		env->system_event(env->ctx, CPU_SYSTEM_REBOOT, 0);
		break;
	default:
		break;
	}
}

static const struct bus_ops finisher_ops = {
	.read = finisher_read, .write = finisher_write, .min_size = 2, .max_size = 4};

static int finisher_realize(struct device *d, const void *opts, struct err *e)
{
	struct finisher *f = (struct finisher *)d;
	const struct finisher_opts *o = opts;

	f->region = (struct bus_region){.name = "test-finisher",
		.ops = &finisher_ops,
		.dev = f,
		.lock = &d->lock,
		.space = o->space,
		.base = o->base,
		.len = o->space == BUS_PIO ? FINISHER_PORTS : FINISHER_SIZE};
	return bus_claim(d->env->bus, &f->region, e);
}

static void finisher_unrealize(struct device *d)
{
	bus_release(d->env->bus, &((struct finisher *)d)->region);
}

static void finisher_reset(struct device *d)
{
	((struct finisher *)d)->last = 0;
}

static const struct state_field finisher_fields[] = {
	STATE_U32(struct finisher, last, 1),
	STATE_END,
};
static const struct state_desc finisher_state = {"test-finisher", 1, finisher_fields};

const struct device_class finisher_class = {
	.name = "test-finisher",
	.help = "ends the machine: pass, fail with a code, or reboot",
	.size = sizeof(struct finisher),
	.realize = finisher_realize,
	.unrealize = finisher_unrealize,
	.reset = finisher_reset,
	.state = &finisher_state,
};
