#include "device/clock/rtc.h"

#include "base/clock.h"
#include "base/util.h"
#include "device/clock/alarm.h"
#include "device/classes.h"

enum {
	TIME_LOW = 0x00,
	TIME_HIGH = 0x04,
	ALARM_LOW = 0x08,
	ALARM_HIGH = 0x0c,
	IRQ_ENABLED = 0x10,
	CLEAR_ALARM = 0x14,
	ALARM_STATUS = 0x18,
	CLEAR_INTERRUPT = 0x1c,
};

struct rtc {
	struct device dev;
	struct bus_region region;
	struct irq_line irq;
	struct alarm *clock;
	bool fixed;
	uint64_t start_ns;
	uint64_t offset; /* guest time - host time, wraps */
	uint64_t guest_ns; /* described state: what the guest's clock said when it was saved */
	uint64_t alarm;
	uint32_t time_high, alarm_high, time_high_set;
	bool armed, pending, enabled;
};

static uint64_t now(const struct rtc *r)
{
	return (r->fixed ? clock_mono_ns() : clock_wall_ns()) + r->offset;
}

static void update(struct rtc *r)
{
	irq_set(&r->irq, r->pending && r->enabled);
}

/* Device lock held. What is left until the alarm, in ns; 0: it is not armed, or this was it. */
static uint64_t check_alarm(struct rtc *r)
{
	uint64_t t = now(r), left = 0;

	if (r->armed && t < r->alarm) {
		left = r->alarm - t;
	} else if (r->armed) {
		r->armed = false;
		r->pending = true;
	}
	update(r);
	return left;
}

static void reschedule(struct rtc *r)
{
	check_alarm(r);
	alarm_poke(r->clock);
}

static uint64_t rtc_due(void *dev)
{
	struct rtc *r = dev;
	uint64_t left;

	pthread_mutex_lock(&r->dev.lock);
	left = check_alarm(r);
	pthread_mutex_unlock(&r->dev.lock);
	/* At most a minute: the wall clock may be set meanwhile. */
	return left ? MIN(left / 1000000 + 1, 60000ull) : 0;
}

static uint64_t rtc_read(void *dev, uint64_t off, unsigned size)
{
	struct rtc *r = dev;
	uint64_t t;

	check_alarm(r);
	switch (off) {
	case TIME_LOW:
		t = now(r);
		r->time_high = (uint32_t)(t >> 32);
		return (uint32_t)t;
	case TIME_HIGH:
		return r->time_high;
	case ALARM_LOW:
		return (uint32_t)r->alarm;
	case ALARM_HIGH:
		return (uint32_t)(r->alarm >> 32);
	case IRQ_ENABLED:
		return r->enabled;
	case ALARM_STATUS:
		return r->armed;
	default:
		return 0;
	}
}

static void rtc_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct rtc *r = dev;

	switch (off) {
	case TIME_LOW:
		r->offset += ((uint64_t)r->time_high_set << 32 | val) - now(r);
		break;
	case TIME_HIGH:
		r->time_high_set = (uint32_t)val;
		return;
	case ALARM_LOW:
		r->alarm = (uint64_t)r->alarm_high << 32 | val;
		r->armed = true;
		break;
	case ALARM_HIGH:
		r->alarm_high = (uint32_t)val;
		return;
	case IRQ_ENABLED:
		r->enabled = val & 1;
		break;
	case CLEAR_ALARM:
		r->armed = false;
		break;
	case CLEAR_INTERRUPT:
		r->pending = false;
		break;
	default:
		return;
	}
	reschedule(r);
}

static const struct bus_ops rtc_ops = {
	.read = rtc_read, .write = rtc_write, .min_size = 4, .max_size = 4};

static void clock_start(struct rtc *r)
{
	r->offset = r->fixed ? r->start_ns - clock_mono_ns() : 0;
}

static int rtc_realize(struct device *d, const void *opts, struct err *e)
{
	struct rtc *r = (struct rtc *)d;
	const struct rtc_opts *o = opts;
	int rc;

	r->irq = o->irq;
	r->fixed = o->fixed_ns;
	r->start_ns = o->fixed_ns;
	clock_start(r);
	r->region = (struct bus_region){.name = "rtc",
		.ops = &rtc_ops,
		.dev = r,
		.lock = &d->lock,
		.base = o->base,
		.len = RTC_SIZE};
	rc = bus_claim(d->env->bus, &r->region, e);
	if (rc || !d->env->loop)
		return rc;
	rc = alarm_open(&r->clock, d->env->loop, rtc_due, r, e);
	if (rc)
		bus_release(d->env->bus, &r->region);
	return rc;
}

static void rtc_unrealize(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	bus_release(d->env->bus, &r->region);
	alarm_close(r->clock);
}

/* The clock keeps the time that the guest has set: a battery holds it over a reset. */
static void rtc_reset(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	pthread_mutex_lock(&d->lock);
	r->alarm = 0;
	r->time_high = r->alarm_high = r->time_high_set = 0;
	r->armed = r->pending = r->enabled = false;
	reschedule(r);
	pthread_mutex_unlock(&d->lock);
}

static void rtc_pre_save(void *obj)
{
	struct rtc *r = obj;

	r->guest_ns = now(r);
}

/* The offset is to the wall clock, which other hosts share; a fixed clock goes on where it stood. */
static int rtc_post_load(void *obj, unsigned version, struct err *e)
{
	struct rtc *r = obj;

	if (r->fixed)
		r->offset = r->guest_ns - clock_mono_ns();
	reschedule(r);
	return 0;
}

static const struct state_field rtc_fields[] = {
	STATE_U64(struct rtc, offset, 1),
	STATE_U64(struct rtc, guest_ns, 1),
	STATE_U64(struct rtc, alarm, 1),
	STATE_U32(struct rtc, time_high, 1),
	STATE_U32(struct rtc, alarm_high, 1),
	STATE_U32(struct rtc, time_high_set, 1),
	STATE_BOOL(struct rtc, armed, 1),
	STATE_BOOL(struct rtc, pending, 1),
	STATE_BOOL(struct rtc, enabled, 1),
	STATE_END,
};
static const struct state_desc rtc_state = {
	"rtc-goldfish", 1, rtc_fields, .pre_save = rtc_pre_save, .post_load = rtc_post_load};

const struct device_class rtc_class = {
	.name = "rtc-goldfish",
	.help = "real-time clock with an alarm (Goldfish)",
	.size = sizeof(struct rtc),
	.realize = rtc_realize,
	.unrealize = rtc_unrealize,
	.reset = rtc_reset,
	.state = &rtc_state,
};
