#include "bus/aplic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

#define WORDS 4 /* of 32 sources; source 0 does not exist */
#define DOMAINCFG_FIXED 0x80000004u
#define DOMAINCFG_IE 0x100u
#define SOURCECFG_D 0x400u
#define TARGET_MASK 0xfffc07ffu
#define MMSICFGH_MASK 0x9f77ffffu
#define MMSICFGH_LOCK 0x80000000u
#define SMSICFGH_MASK 0x00700fffu

enum { SM_INACTIVE, SM_DETACHED, SM_EDGE1 = 4, SM_EDGE0, SM_LEVEL1, SM_LEVEL0 };

enum {
	DOMAINCFG = 0x0000,
	SOURCECFG = 0x0004, /* up to 0x0ffc */
	MMSIADDRCFG = 0x1bc0,
	MMSIADDRCFGH = 0x1bc4,
	SMSIADDRCFG = 0x1bc8,
	SMSIADDRCFGH = 0x1bcc,
	SETIP = 0x1c00,
	SETIPNUM = 0x1cdc,
	IN_CLRIP = 0x1d00,
	CLRIPNUM = 0x1ddc,
	SETIE = 0x1e00,
	SETIENUM = 0x1edc,
	CLRIE = 0x1f00,
	CLRIENUM = 0x1fdc,
	SETIPNUM_LE = 0x2000,
	GENMSI = 0x3000,
	TARGET = 0x3004, /* up to 0x3ffc */
	REGS_END = 0x4000,
};

struct domain {
	struct aplic *aplic;
	struct bus_region region;
	bool ie;
	uint32_t sourcecfg[APLIC_MAX_SOURCES + 1];
	uint32_t target[APLIC_MAX_SOURCES + 1];
	uint32_t pending[WORDS], enabled[WORDS];
	uint32_t genmsi;
};

struct aplic {
	struct bus *bus;
	struct aplic_opts opts;
	pthread_mutex_t lock;
	struct domain m, s;
	uint32_t wire[WORDS];
	uint32_t mmsicfg, mmsicfgh, smsicfg, smsicfgh;
};

static bool bit(const uint32_t *map, unsigned i)
{
	return map[i / 32] >> (i % 32) & 1;
}

static void bit_put(uint32_t *map, unsigned i, bool v)
{
	map[i / 32] = (map[i / 32] & ~(1u << (i % 32))) | (uint32_t)v << (i % 32);
}

/* Source mode in this domain; a delegated source is inactive in the domain that gave it away. */
static unsigned mode(const struct domain *d, unsigned i)
{
	return d->sourcecfg[i] & SOURCECFG_D ? SM_INACTIVE : d->sourcecfg[i];
}

static bool is_level(unsigned m)
{
	return m >= SM_LEVEL1;
}

static bool rectified(const struct domain *d, unsigned i)
{
	unsigned m = mode(d, i);

	return m >= SM_EDGE1 && bit(d->aplic->wire, i) != (m & 1);
}

static bool implemented(const struct domain *d, unsigned i)
{
	const struct aplic *a = d->aplic;

	return i && i <= a->opts.sources && (d == &a->m || (a->m.sourcecfg[i] & SOURCECFG_D));
}

static bool active(const struct domain *d, uint32_t i)
{
	return i <= APLIC_MAX_SOURCES && implemented(d, i) && mode(d, i) != SM_INACTIVE;
}

/* Section 4.9.1. Both domains use the machine level's hart numbering. */
static void send(struct domain *d, uint32_t target)
{
	const struct aplic *a = d->aplic;
	bool m = d == &a->m;
	uint32_t low = m ? a->mmsicfg : a->smsicfg, high = m ? a->mmsicfgh : a->smsicfgh;
	uint64_t base = (uint64_t)(high & 0xfff) << 32 | low;
	unsigned lhxs = high >> 20 & 7, hhxs = a->mmsicfgh >> 24 & 31;
	unsigned lhxw = a->mmsicfgh >> 12 & 15, hhxw = a->mmsicfgh >> 16 & 7;
	uint64_t hart = target >> 18;
	uint64_t group = hart >> lhxw & ((1u << hhxw) - 1);

	hart &= (1u << lhxw) - 1;
	bus_msi(a->bus, (base | group << (hhxs + 12) | hart << lhxs) << 12, target & 0x7ff);
}

static void forward(struct domain *d, unsigned i)
{
	if (!d->ie || !bit(d->pending, i) || !bit(d->enabled, i))
		return;
	bit_put(d->pending, i, false);
	send(d, d->target[i]);
}

static void source_clear(struct domain *d, unsigned i)
{
	bit_put(d->pending, i, false);
	bit_put(d->enabled, i, false);
	d->target[i] = 0;
}

static void sourcecfg_write(struct domain *d, unsigned i, uint32_t v)
{
	struct aplic *a = d->aplic;
	bool root = d == &a->m;

	if (!implemented(d, i))
		return;
	if (v & SOURCECFG_D)
		v = root ? SOURCECFG_D : SM_INACTIVE;
	else if ((v &= 7) == 2 || v == 3)
		v = SM_INACTIVE;
	if (root && (d->sourcecfg[i] & SOURCECFG_D) && !(v & SOURCECFG_D)) {
		source_clear(&a->s, i);
		a->s.sourcecfg[i] = SM_INACTIVE;
	}
	d->sourcecfg[i] = v;
	if (mode(d, i) == SM_INACTIVE)
		source_clear(d, i);
	else if (is_level(mode(d, i)))
		bit_put(d->pending, i, rectified(d, i));
	forward(d, i);
}

static void set_pending(struct domain *d, uint32_t i)
{
	if (!active(d, i) || (is_level(mode(d, i)) && !rectified(d, i)))
		return;
	bit_put(d->pending, i, true);
	forward(d, i);
}

static void clear_pending(struct domain *d, uint32_t i)
{
	if (active(d, i))
		bit_put(d->pending, i, false);
}

static void set_enabled(struct domain *d, uint32_t i)
{
	if (!active(d, i))
		return;
	bit_put(d->enabled, i, true);
	forward(d, i);
}

static void clear_enabled(struct domain *d, uint32_t i)
{
	if (active(d, i))
		bit_put(d->enabled, i, false);
}

static void each_bit(
	struct domain *d, uint64_t off, uint32_t v, void (*fn)(struct domain *d, uint32_t i))
{
	uint32_t first = (uint32_t)(off % 0x80) * 8;

	for (; v; v &= v - 1)
		fn(d, first + (uint32_t)__builtin_ctz(v));
}

static void wire_set(void *ctrl, unsigned i, bool level)
{
	struct aplic *a = ctrl;
	struct domain *d;
	bool before, now;

	pthread_mutex_lock(&a->lock);
	d = a->m.sourcecfg[i] & SOURCECFG_D ? &a->s : &a->m;
	before = rectified(d, i);
	bit_put(a->wire, i, level);
	now = rectified(d, i);
	if (now && !before)
		bit_put(d->pending, i, true);
	else if (!now && is_level(mode(d, i)))
		bit_put(d->pending, i, false);
	forward(d, i);
	pthread_mutex_unlock(&a->lock);
}

struct irq_line aplic_line(struct aplic *a, unsigned source)
{
	if (!source || source > a->opts.sources)
		return (struct irq_line){0};
	return (struct irq_line){.set = wire_set, .ctrl = a, .pin = source};
}

/* Registers. */

static uint32_t bits_read(const struct domain *d, uint64_t off)
{
	uint64_t word = off % 0x80 / 4;
	uint32_t v = 0;

	if (word >= WORDS)
		return 0;
	switch (off & ~0x7full) {
	case SETIP:
		return d->pending[word];
	case SETIE:
		return d->enabled[word];
	case IN_CLRIP:
		for (unsigned i = 0; i < 32; i++)
			v |= (uint32_t)rectified(d, (unsigned)word * 32 + i) << i;
		return v;
	default:
		return 0;
	}
}

static uint32_t cfg_read(const struct domain *d, uint64_t off)
{
	const struct aplic *a = d->aplic;

	if (d != &a->m)
		return 0;
	switch (off) {
	case MMSIADDRCFG:
		return a->mmsicfg;
	case MMSIADDRCFGH:
		return a->mmsicfgh;
	case SMSIADDRCFG:
		return a->smsicfg;
	case SMSIADDRCFGH:
		return a->smsicfgh;
	default:
		return 0;
	}
}

static uint64_t aplic_read(void *dev, uint64_t off, unsigned size)
{
	struct domain *d = dev;
	struct aplic *a = d->aplic;
	uint32_t v = 0;

	pthread_mutex_lock(&a->lock);
	if (off == DOMAINCFG)
		v = DOMAINCFG_FIXED | (d->ie ? DOMAINCFG_IE : 0);
	else if (off < 0x1000)
		v = off / 4 <= APLIC_MAX_SOURCES ? d->sourcecfg[off / 4] : 0;
	else if (off >= MMSIADDRCFG && off <= SMSIADDRCFGH)
		v = cfg_read(d, off);
	else if (off >= SETIP && off < SETIPNUM_LE)
		v = bits_read(d, off);
	else if (off == GENMSI)
		v = d->genmsi;
	else if (off >= TARGET && off < REGS_END && (off - GENMSI) / 4 <= APLIC_MAX_SOURCES)
		v = d->target[(off - GENMSI) / 4];
	pthread_mutex_unlock(&a->lock);
	return v;
}

static void cfg_write(struct domain *d, uint64_t off, uint32_t v)
{
	struct aplic *a = d->aplic;

	if (d != &a->m || (a->mmsicfgh & MMSICFGH_LOCK))
		return;
	switch (off) {
	case MMSIADDRCFG:
		a->mmsicfg = v;
		break;
	case MMSIADDRCFGH:
		a->mmsicfgh = v & MMSICFGH_MASK;
		break;
	case SMSIADDRCFG:
		a->smsicfg = v;
		break;
	case SMSIADDRCFGH:
		a->smsicfgh = v & SMSICFGH_MASK;
		break;
	default:
		break;
	}
}

static void bits_write(struct domain *d, uint64_t off, uint32_t v)
{
	switch (off) {
	case SETIPNUM:
	case SETIPNUM_LE:
		set_pending(d, v);
		return;
	case CLRIPNUM:
		clear_pending(d, v);
		return;
	case SETIENUM:
		set_enabled(d, v);
		return;
	case CLRIENUM:
		clear_enabled(d, v);
		return;
	default:
		break;
	}
	switch (off & ~0x7full) {
	case SETIP:
		each_bit(d, off, v, set_pending);
		return;
	case IN_CLRIP:
		each_bit(d, off, v, clear_pending);
		return;
	case SETIE:
		each_bit(d, off, v, set_enabled);
		return;
	case CLRIE:
		each_bit(d, off, v, clear_enabled);
		return;
	default:
		return;
	}
}

static void reg_write(struct domain *d, uint64_t off, uint32_t v)
{
	if (off == DOMAINCFG) {
		d->ie = v & DOMAINCFG_IE;
		for (unsigned i = 1; d->ie && i <= d->aplic->opts.sources; i++)
			forward(d, i);
	} else if (off < 0x1000) {
		if (off / 4 <= APLIC_MAX_SOURCES)
			sourcecfg_write(d, (unsigned)off / 4, v);
	} else if (off >= MMSIADDRCFG && off <= SMSIADDRCFGH) {
		cfg_write(d, off, v);
	} else if (off >= SETIP && off <= SETIPNUM_LE) {
		bits_write(d, off, v);
	} else if (off == GENMSI) {
		d->genmsi = v & TARGET_MASK;
		send(d, d->genmsi);
	} else if (off >= TARGET && off < REGS_END && active(d, (uint32_t)(off - GENMSI) / 4)) {
		d->target[(off - GENMSI) / 4] = v & TARGET_MASK;
	}
}

static void aplic_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct domain *d = dev;

	pthread_mutex_lock(&d->aplic->lock);
	reg_write(d, off, (uint32_t)val);
	pthread_mutex_unlock(&d->aplic->lock);
}

/* Not a message sink: a machine-level domain that aims a message at the APLIC would enter its own lock. */
static const struct bus_ops aplic_ops = {
	.read = aplic_read, .write = aplic_write, .min_size = 4, .max_size = 4};

/* Life. */

static int domain_claim(
	struct aplic *a, struct domain *d, const char *name, uint64_t base, struct err *e)
{
	d->aplic = a;
	d->region = (struct bus_region){
		.name = name, .ops = &aplic_ops, .dev = d, .base = base, .len = APLIC_SIZE};
	return bus_claim(a->bus, &d->region, e);
}

int aplic_create(struct aplic **out, struct bus *b, const struct aplic_opts *o, struct err *e)
{
	struct aplic *a;
	int rc;

	if (!o->sources || o->sources > APLIC_MAX_SOURCES || o->hart_bits > 15)
		return err_set(e, -EINVAL, "APLIC: %u sources; 1 to %u are possible", o->sources,
			APLIC_MAX_SOURCES);
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(e, -ENOMEM, "APLIC: no memory");
	a->bus = b;
	a->opts = *o;
	pthread_mutex_init(&a->lock, NULL);
	rc = domain_claim(a, &a->m, "aplic-m", o->m_base, e);
	if (!rc)
		rc = domain_claim(a, &a->s, "aplic-s", o->s_base, e);
	if (rc) {
		aplic_destroy(a);
		return rc;
	}
	aplic_reset(a);
	*out = a;
	return 0;
}

void aplic_destroy(struct aplic *a)
{
	if (!a)
		return;
	bus_release(a->bus, &a->s.region);
	bus_release(a->bus, &a->m.region);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static void domain_reset(struct domain *d)
{
	d->ie = false;
	d->genmsi = 0;
	memset(d->sourcecfg, 0, sizeof(d->sourcecfg));
	memset(d->target, 0, sizeof(d->target));
	memset(d->pending, 0, sizeof(d->pending));
	memset(d->enabled, 0, sizeof(d->enabled));
}

void aplic_reset(struct aplic *a)
{
	const struct aplic_opts *o = &a->opts;

	pthread_mutex_lock(&a->lock);
	domain_reset(&a->m);
	domain_reset(&a->s);
	a->mmsicfg = a->mmsicfgh = a->smsicfg = a->smsicfgh = 0;
	if (o->preset) {
		for (unsigned i = 1; i <= o->sources; i++)
			a->m.sourcecfg[i] = SOURCECFG_D;
		a->mmsicfg = (uint32_t)(o->imsic_m >> 12);
		a->mmsicfgh = MMSICFGH_LOCK | o->hart_bits << 12 |
			      (uint32_t)(o->imsic_m >> 44 & 0xfff);
		a->smsicfg = (uint32_t)(o->imsic_s >> 12);
		a->smsicfgh = (uint32_t)(o->imsic_s >> 44 & 0xfff);
	}
	pthread_mutex_unlock(&a->lock);
}

/* Described state. */

static int domain_check(const struct domain *d, const char *name, struct err *e)
{
	for (unsigned i = 0; i <= APLIC_MAX_SOURCES; i++) {
		uint32_t c = d->sourcecfg[i];
		bool root = d == &d->aplic->m;
		bool bad = c && !implemented(d, i);

		bad |= c == 2 || c == 3 || (c > 7 && (!root || c != SOURCECFG_D));
		bad |= d->target[i] & ~TARGET_MASK;
		bad |= !active(d, i) && (bit(d->pending, i) || bit(d->enabled, i) || d->target[i]);
		bad |= is_level(mode(d, i)) && bit(d->pending, i) && !rectified(d, i);
		if (bad)
			return err_set(
				e, -EINVAL, "APLIC %s domain: source %u is not possible", name, i);
	}
	return d->genmsi & ~TARGET_MASK ? err_set(e, -EINVAL, "APLIC %s domain: genmsi", name) : 0;
}

static int aplic_post_load(void *obj, unsigned version, struct err *e)
{
	struct aplic *a = obj;
	int rc;

	if ((a->mmsicfgh & ~MMSICFGH_MASK) || (a->smsicfgh & ~SMSICFGH_MASK))
		return err_set(e, -EINVAL, "APLIC: address configuration has reserved bits");
	rc = domain_check(&a->m, "machine", e);
	return rc ? rc : domain_check(&a->s, "supervisor", e);
}

static const struct state_field domain_fields[] = {
	STATE_BOOL(struct domain, ie, 1),
	STATE_U32S(struct domain, sourcecfg, 1),
	STATE_U32S(struct domain, target, 1),
	STATE_U32S(struct domain, pending, 1),
	STATE_U32S(struct domain, enabled, 1),
	STATE_U32(struct domain, genmsi, 1),
	STATE_END,
};
static const struct state_desc domain_state = {"aplic-domain", 1, domain_fields};

static const struct state_field aplic_fields[] = {
	STATE_STRUCT(struct aplic, m, &domain_state, struct domain, 1),
	STATE_STRUCT(struct aplic, s, &domain_state, struct domain, 1),
	STATE_U32S(struct aplic, wire, 1),
	STATE_U32(struct aplic, mmsicfg, 1),
	STATE_U32(struct aplic, mmsicfgh, 1),
	STATE_U32(struct aplic, smsicfg, 1),
	STATE_U32(struct aplic, smsicfgh, 1),
	STATE_END,
};
const struct state_desc aplic_state = {"aplic", 1, aplic_fields, .post_load = aplic_post_load};
