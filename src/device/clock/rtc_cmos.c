#include "device/clock/rtc_cmos.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "device/clock/alarm.h"
#include "device/classes.h"

enum {
	SEC,
	SEC_ALARM,
	MIN_,
	MIN_ALARM,
	HOUR,
	HOUR_ALARM,
	WDAY,
	MDAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	CENTURY = 0x32,
	REGS = 128,
};
enum { A_RATE = 0x0f, A_START = 0x26 };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQ = 0x80, C_PERIODIC = 0x40, C_ALARM = 0x20, C_UPDATE = 0x10 };
enum { D_VALID = 0x80, PM = 0x80, ANY = 0xc0 };

#define NS 1000000000ull
#define DAY 86400u
#define CRYSTAL_HZ 32768u

struct cmos {
	struct device dev;
	struct bus_region region;
	struct irq_line irq;
	struct alarm *alarm;
	bool fixed;
	uint64_t start_ns, offset; /* as in rtc.c */
	uint64_t guest_ns; /* described state: what the clock said when it was saved */
	uint64_t seen; /* up to when register C has been brought up to date */
	uint8_t index;
	uint8_t reg[REGS]; /* times: only while the guest sets them */
};

static uint64_t now(const struct cmos *r)
{
	return (r->fixed ? clock_mono_ns() : clock_wall_ns()) + r->offset;
}

/* Formats. */

static unsigned decode(const struct cmos *r, uint8_t v)
{
	return r->reg[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15u);
}

static uint8_t encode(const struct cmos *r, unsigned v)
{
	return (uint8_t)(r->reg[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode_hour(const struct cmos *r, uint8_t v)
{
	if (r->reg[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & (uint8_t)~PM) % 12 + (v & PM ? 12 : 0);
}

static uint8_t encode_hour(const struct cmos *r, unsigned h)
{
	if (r->reg[REG_B] & B_24H)
		return encode(r, h);
	return (uint8_t)(encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? PM : 0));
}

/* The time registers from the clock. */
static void fill(struct cmos *r, uint64_t t)
{
	time_t s = (time_t)(t / NS);
	struct tm tm;

	gmtime_r(&s, &tm);
	r->reg[SEC] = encode(r, (unsigned)tm.tm_sec);
	r->reg[MIN_] = encode(r, (unsigned)tm.tm_min);
	r->reg[HOUR] = encode_hour(r, (unsigned)tm.tm_hour);
	r->reg[WDAY] = encode(r, (unsigned)tm.tm_wday + 1);
	r->reg[MDAY] = encode(r, (unsigned)tm.tm_mday);
	r->reg[MONTH] = encode(r, (unsigned)tm.tm_mon + 1);
	r->reg[YEAR] = encode(r, (unsigned)tm.tm_year % 100);
	r->reg[CENTURY] = encode(r, ((unsigned)tm.tm_year + 1900) / 100);
}

/* The clock from the time registers. What is no date counts on, as timegm(3) does. */
static void take(struct cmos *r)
{
	struct tm tm = {.tm_sec = (int)decode(r, r->reg[SEC]),
		.tm_min = (int)decode(r, r->reg[MIN_]),
		.tm_hour = (int)decode_hour(r, r->reg[HOUR]),
		.tm_mday = (int)decode(r, r->reg[MDAY]),
		.tm_mon = (int)decode(r, r->reg[MONTH]) - 1,
		.tm_year = (int)(decode(r, r->reg[CENTURY]) * 100 + decode(r, r->reg[YEAR])) -
			   1900};

	r->offset += (uint64_t)timegm(&tm) * NS - now(r);
	r->seen = now(r);
}

static bool is_time(unsigned reg)
{
	return reg == SEC || reg == MIN_ || (reg >= HOUR && reg <= YEAR && reg != HOUR_ALARM) ||
	       reg == CENTURY;
}

/* Interrupts. */

static bool alarm_at(const struct cmos *r, uint64_t second)
{
	unsigned s = (unsigned)(second % DAY);

	return (r->reg[SEC_ALARM] >= ANY || decode(r, r->reg[SEC_ALARM]) == s % 60) &&
	       (r->reg[MIN_ALARM] >= ANY || decode(r, r->reg[MIN_ALARM]) == s / 60 % 60) &&
	       (r->reg[HOUR_ALARM] >= ANY || decode_hour(r, r->reg[HOUR_ALARM]) == s / 3600);
}

/* Seconds from `second` (exclusive) to the next alarm; 0: none within `most`, at most a day. */
static unsigned alarm_in(const struct cmos *r, uint64_t second, uint64_t most)
{
	for (unsigned k = 1; k <= most && k <= DAY; k++)
		if (alarm_at(r, second + k))
			return k;
	return 0;
}

static uint64_t period(const struct cmos *r)
{
	unsigned rate = r->reg[REG_A] & A_RATE;

	if (!rate)
		return 0;
	if (rate < 3)
		rate += 7;
	return MAX(NS * (1u << (rate - 1)) / CRYSTAL_HZ, 1000000ull);
}

static void update(struct cmos *r)
{
	bool on = r->reg[REG_C] & r->reg[REG_B] & (C_PERIODIC | C_ALARM | C_UPDATE);

	r->reg[REG_C] = (uint8_t)((r->reg[REG_C] & ~C_IRQ) | (on ? C_IRQ : 0));
	irq_set(&r->irq, on);
}

/* Brings register C up to date. Lock held. */
static void catch_up(struct cmos *r)
{
	uint64_t t = now(r), was = r->seen / NS, is = t / NS, p = period(r);

	if (t <= r->seen || r->reg[REG_B] & B_SET) {
		r->seen = t; /* the wall clock was set back, or the guest holds the clock */
		update(r);
		return;
	}
	if (p && r->seen / p != t / p)
		r->reg[REG_C] |= C_PERIODIC;
	if (is != was) {
		r->reg[REG_C] |= C_UPDATE;
		if (alarm_in(r, was, is - was))
			r->reg[REG_C] |= C_ALARM;
	}
	r->seen = t;
	update(r);
}

static uint64_t cmos_due(void *dev)
{
	struct cmos *r = dev;
	uint64_t t, in = UINT64_MAX, p;
	unsigned s;
	uint8_t b;

	pthread_mutex_lock(&r->dev.lock);
	catch_up(r);
	t = r->seen;
	b = r->reg[REG_B];
	p = period(r);
	if ((b & B_PIE) && p)
		in = p - t % p;
	if (b & B_UIE)
		in = MIN(in, NS - t % NS);
	if ((b & B_AIE) && (s = alarm_in(r, t / NS, DAY)))
		in = MIN(in, s * NS - t % NS);
	if (b & B_SET)
		in = UINT64_MAX;
	pthread_mutex_unlock(&r->dev.lock);
	/* At most a minute: the wall clock may be set meanwhile. */
	return in == UINT64_MAX ? 0 : MIN(in / 1000000 + 1, 60000ull);
}

/* Ports. */

static uint64_t cmos_read(void *dev, uint64_t off, unsigned size)
{
	struct cmos *r = dev;
	uint8_t v;

	if (!off)
		return 0xff; /* the index cannot be read */
	catch_up(r);
	if (is_time(r->index) && !(r->reg[REG_B] & B_SET))
		fill(r, r->seen);
	v = r->reg[r->index];
	if (r->index == REG_C) {
		r->reg[REG_C] = 0;
		update(r);
	}
	return v;
}

static void write_b(struct cmos *r, uint8_t v)
{
	uint8_t was = r->reg[REG_B];

	if ((v & B_SET) && !(was & B_SET))
		fill(r, now(r));
	r->reg[REG_B] = v & B_SET ? v & (uint8_t)~B_UIE : v;
	if (!(v & B_SET) && (was & B_SET))
		take(r);
}

static void cmos_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct cmos *r = dev;
	uint8_t v = (uint8_t)val;

	if (!off) {
		r->index = v & (REGS - 1); /* bit 7 would mask NMIs */
		return;
	}
	catch_up(r);
	switch (r->index) {
	case REG_A:
		r->reg[REG_A] = v & 0x7f;
		break;
	case REG_B:
		write_b(r, v);
		break;
	case REG_C:
	case REG_D:
		break;
	default:
		if (is_time(r->index) && !(r->reg[REG_B] & B_SET)) {
			fill(r, now(r));
			r->reg[r->index] = v;
			take(r);
		} else {
			r->reg[r->index] = v;
		}
	}
	update(r);
	alarm_poke(r->alarm);
}

static const struct bus_ops cmos_ops = {
	.read = cmos_read, .write = cmos_write, .min_size = 1, .max_size = 1};

static int cmos_realize(struct device *d, const void *opts, struct err *e)
{
	struct cmos *r = (struct cmos *)d;
	const struct rtc_cmos_opts *o = opts;
	int rc;

	r->irq = o->irq;
	r->fixed = o->fixed_ns;
	r->start_ns = o->fixed_ns;
	r->offset = r->fixed ? r->start_ns - clock_mono_ns() : 0;
	r->seen = now(r);
	r->reg[REG_A] = A_START;
	r->reg[REG_B] = B_24H;
	r->reg[REG_D] = D_VALID;
	r->region = (struct bus_region){.name = "rtc-cmos",
		.ops = &cmos_ops,
		.dev = r,
		.lock = &d->lock,
		.space = BUS_PIO,
		.base = o->port,
		.len = RTC_CMOS_PORTS};
	rc = bus_claim(d->env->bus, &r->region, e);
	if (rc || !d->env->loop)
		return rc;
	rc = alarm_open(&r->alarm, d->env->loop, cmos_due, r, e);
	if (rc)
		bus_release(d->env->bus, &r->region);
	return rc;
}

static void cmos_unrealize(struct device *d)
{
	struct cmos *r = (struct cmos *)d;

	bus_release(d->env->bus, &r->region);
	alarm_close(r->alarm);
}

/* Time, formats and memory survive: a battery holds them. */
static void cmos_reset(struct device *d)
{
	struct cmos *r = (struct cmos *)d;

	pthread_mutex_lock(&d->lock);
	if (r->reg[REG_B] & B_SET)
		take(r);
	r->reg[REG_B] &= B_BINARY | B_24H;
	r->reg[REG_C] = 0;
	r->index = 0;
	r->seen = now(r);
	update(r);
	alarm_poke(r->alarm);
	pthread_mutex_unlock(&d->lock);
}

static void cmos_pre_save(void *obj)
{
	struct cmos *r = obj;

	r->guest_ns = now(r);
}

static int cmos_post_load(void *obj, unsigned version, struct err *e)
{
	struct cmos *r = obj;

	if (r->index >= REGS || r->reg[REG_D] != D_VALID)
		return err_set(e, -EINVAL, "clock: impossible register values in the stream");
	if (r->fixed)
		r->offset = r->guest_ns - clock_mono_ns();
	update(r);
	alarm_poke(r->alarm);
	return 0;
}

static const struct state_field cmos_fields[] = {
	STATE_U64(struct cmos, offset, 1),
	STATE_U64(struct cmos, guest_ns, 1),
	STATE_U64(struct cmos, seen, 1),
	STATE_U8(struct cmos, index, 1),
	STATE_BYTES(struct cmos, reg, 1),
	STATE_END,
};
static const struct state_desc cmos_state = {
	"rtc-cmos", 1, cmos_fields, .pre_save = cmos_pre_save, .post_load = cmos_post_load};

const struct device_class rtc_cmos_class = {
	.name = "rtc-cmos",
	.help = "real-time clock of a PC (MC146818)",
	.size = sizeof(struct cmos),
	.realize = cmos_realize,
	.unrealize = cmos_unrealize,
	.reset = cmos_reset,
	.state = &cmos_state,
};
