#include "cpu/kvm/ioapic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

/* 82093AA data sheet, "Register description"; EOI register: version 0x20 (ICH). */
#define PINS 24u
#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI 0x40
#define VERSION (0x20u | (PINS - 1) << 16)

#define E_VECTOR 0xffull
#define E_MODE (7ull << 8)
#define E_LOGICAL (1ull << 11)
#define E_STATUS (1ull << 12)
#define E_REMOTE_IRR (1ull << 14)
#define E_LEVEL (1ull << 15)
#define E_MASKED (1ull << 16)
#define E_READONLY (E_STATUS | E_REMOTE_IRR)

#define MSI_BASE 0xfee00000ull

struct kvm_ioapic {
	struct ioapic_opts o;
	pthread_mutex_t lock;
	struct kvm_i_ioapic r;
};

/* The message that an entry stands for (SDM volume 3, "Message Signalled Interrupts"): the entry's fields, moved. */
static uint64_t entry_addr(uint64_t e)
{
	return MSI_BASE | (e >> 56) << 12 | (e & E_LOGICAL ? 1u << 2 : 0);
}

static uint32_t entry_data(uint64_t e)
{
	return (uint32_t)((e & E_VECTOR) | (e & E_MODE) | (e & E_LEVEL ? 1u << 15 | 1u << 14 : 0));
}

static void fire(struct kvm_ioapic *i, unsigned pin)
{
	uint64_t *e = &i->r.redirect[pin];

	if (!(i->r.irr >> pin & 1) || *e & E_MASKED)
		return;
	if (*e & E_LEVEL) {
		if (*e & E_REMOTE_IRR)
			return;
		*e |= E_REMOTE_IRR;
	} else {
		i->r.irr &= ~(1u << pin);
	}
	i->o.msi(i->o.ctx, entry_addr(*e), entry_data(*e));
}

static void tell(struct kvm_ioapic *i, unsigned pin)
{
	uint64_t e = i->r.redirect[pin];

	i->o.route(i->o.ctx, pin, entry_addr(e), entry_data(e), e & E_MASKED);
}

void ioapic_set(struct kvm_ioapic *i, unsigned pin, bool level)
{
	bool was;

	if (pin >= PINS)
		return;
	pthread_mutex_lock(&i->lock);
	was = i->r.irr >> pin & 1;
	if (!level) {
		/* An edge that was seen stays until it is sent. */
		if (i->r.redirect[pin] & E_LEVEL)
			i->r.irr &= ~(1u << pin);
	} else if (!was || i->r.redirect[pin] & E_LEVEL) {
		i->r.irr |= 1u << pin;
		fire(i, pin);
	}
	pthread_mutex_unlock(&i->lock);
}

void ioapic_eoi(struct kvm_ioapic *i, unsigned vector)
{
	pthread_mutex_lock(&i->lock);
	for (unsigned p = 0; p < PINS; p++) {
		uint64_t *e = &i->r.redirect[p];

		if ((*e & E_VECTOR) != vector || !(*e & E_REMOTE_IRR))
			continue;
		*e &= ~E_REMOTE_IRR;
		fire(i, p);
	}
	pthread_mutex_unlock(&i->lock);
}

static uint32_t reg_read(struct kvm_ioapic *i)
{
	unsigned r = i->r.ioregsel, pin = (r - 0x10) / 2;

	if (r == 0 || r == 2)
		return i->r.id << 24;
	if (r == 1)
		return VERSION;
	if (r < 0x10 || pin >= PINS)
		return 0xffffffff;
	return (uint32_t)(i->r.redirect[pin] >> (r & 1 ? 32 : 0));
}

static void reg_write(struct kvm_ioapic *i, uint32_t v)
{
	unsigned r = i->r.ioregsel, pin = (r - 0x10) / 2;
	uint64_t *e;

	if (r == 0)
		i->r.id = v >> 24 & 0xf;
	if (r < 0x10 || pin >= PINS)
		return;
	e = &i->r.redirect[pin];
	if (r & 1)
		*e = (*e & 0xffffffff) | (uint64_t)v << 32;
	else
		*e = (*e & (0xffffffff00000000ull | E_READONLY)) | (v & ~E_READONLY & 0x1ffff);
	if (!(*e & E_LEVEL))
		*e &= ~E_REMOTE_IRR;
	tell(i, pin);
	i->o.commit(i->o.ctx);
	fire(i, pin);
}

static uint32_t chip_read(struct kvm_ioapic *i, uint64_t off)
{
	if (off == REG_SELECT)
		return i->r.ioregsel;
	return off == REG_WINDOW ? reg_read(i) : 0xffffffff;
}

bool ioapic_access(struct kvm_ioapic *i, uint64_t addr, unsigned len, bool write, uint8_t *data)
{
	uint64_t off = addr - i->o.base;
	uint32_t v = 0;
	unsigned eoi = 256;

	if (addr < i->o.base || off >= 0x100)
		return false;
	pthread_mutex_lock(&i->lock);
	if (!write) {
		v = chip_read(i, off);
		memset(data, 0xff, len);
		memcpy(data, &v, len < 4 ? len : 4);
	} else {
		memcpy(&v, data, len < 4 ? len : 4);
		if (off == REG_SELECT)
			i->r.ioregsel = v & 0xff;
		else if (off == REG_WINDOW)
			reg_write(i, v);
		else if (off == REG_EOI)
			eoi = v & 0xff;
	}
	pthread_mutex_unlock(&i->lock);
	if (eoi < 256)
		ioapic_eoi(i, eoi);
	return true;
}

void ioapic_reset(struct kvm_ioapic *i)
{
	pthread_mutex_lock(&i->lock);
	memset(&i->r, 0, sizeof(i->r));
	i->r.base = i->o.base;
	for (unsigned p = 0; p < PINS; p++) {
		i->r.redirect[p] = E_MASKED;
		tell(i, p);
	}
	i->o.commit(i->o.ctx);
	pthread_mutex_unlock(&i->lock);
}

void ioapic_get(struct kvm_ioapic *i, struct kvm_i_ioapic *out)
{
	pthread_mutex_lock(&i->lock);
	*out = i->r;
	pthread_mutex_unlock(&i->lock);
}

void ioapic_put(struct kvm_ioapic *i, const struct kvm_i_ioapic *in)
{
	pthread_mutex_lock(&i->lock);
	i->r = *in;
	i->r.base = i->o.base;
	for (unsigned p = 0; p < PINS; p++)
		tell(i, p);
	i->o.commit(i->o.ctx);
	pthread_mutex_unlock(&i->lock);
}

int ioapic_create(struct kvm_ioapic **out, const struct ioapic_opts *o, struct err *e)
{
	struct kvm_ioapic *i = calloc(1, sizeof(*i));

	if (!i)
		return err_set(e, -ENOMEM, "IOAPIC: out of memory");
	i->o = *o;
	pthread_mutex_init(&i->lock, NULL);
	*out = i;
	ioapic_reset(i);
	return 0;
}

void ioapic_destroy(struct kvm_ioapic *i)
{
	if (i)
		pthread_mutex_destroy(&i->lock);
	free(i);
}
