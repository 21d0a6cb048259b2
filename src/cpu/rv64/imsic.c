/*
 * imsic.c: interrupt files (Advanced Interrupt Architecture, chapter 3 "Incoming MSI Controller").
 *
 * Pending bits are set by any thread; everything else is the hart's own.
 */
#include "cpu/rv64/priv.h"

enum {
	EIDELIVERY = 0x70,
	EITHRESHOLD = 0x72,
	EIP0 = 0x80,
	EIP63 = 0xbf,
	EIE0 = 0xc0,
	EIE63 = 0xff
};

unsigned imsic_top(const struct imsic_file *f)
{
	for (unsigned k = 0; k < 4; k++) {
		uint64_t m = atomic_load_explicit(&f->eip[k], memory_order_relaxed) &
			     atomic_load_explicit(&f->eie[k], memory_order_relaxed);

		if (m) {
			unsigned id = 64 * k + (unsigned)__builtin_ctzll(m);

			return f->threshold && id >= f->threshold ? 0 : id;
		}
	}
	return 0;
}

bool imsic_set(struct imsic_file *f, uint32_t id)
{
	if (!id || id > IMSIC_IDS)
		return false;
	atomic_fetch_or(&f->eip[id / 64], BIT(id % 64));
	return true;
}

void imsic_sent(struct hart *h, unsigned file, uint32_t id)
{
	if (!id || id > IMSIC_IDS)
		return;
	atomic_fetch_add(&h->ipis[file].waiting, 1);
	atomic_fetch_or(&h->ipis[file].ids[id / 64], BIT(id % 64));
}

void imsic_claimed(struct hart *h, unsigned file, unsigned id)
{
	struct rv64_ipis *p = &h->ipis[file];
	uint64_t irq = file == CPU_MSI_M ? IRQ_MEI : IRQ_SEI, count;

	if (likely(!(atomic_load(&p->ids[id / 64]) >> (id % 64) & 1))) {
		rv64_count(h, CAUSE_IRQ | irq, id, h->c.sepc, 1);
		return;
	}
	/*
	 * Of several messages that harts sent since the last claim, all count now; of one that was counted before it was here (imsic_sent()
	 * comes first), none: kernels find nothing to do then, and do not count it either. An identity that harts use stays one of theirs.
	 */
	count = atomic_exchange(&p->waiting, 0);
	if (count)
		rv64_count(h, CAUSE_IRQ | (file == CPU_MSI_M ? IRQ_MSI : IRQ_SSI), id, h->c.sepc,
			count);
}

/* Bits of a 64-bit register that exist: identity 0 does not. */
static uint64_t implemented(unsigned k)
{
	return k ? ~0ull : ~1ull;
}

/* *old = value; with `write` its bits in `mask` become those of val. False: no such register (RV64: odd numbers are none). */
bool imsic_reg(
	struct imsic_file *f, unsigned sel, bool write, uint64_t val, uint64_t mask, uint64_t *old)
{
	_Atomic uint64_t *reg;
	unsigned k;

	if (sel == EIDELIVERY || sel == EITHRESHOLD) {
		uint64_t *p = sel == EIDELIVERY ? &f->delivery : &f->threshold;
		uint64_t v;

		*old = *p;
		v = (*old & ~mask) | (val & mask);
		if (write && (sel == EITHRESHOLD ? v <= IMSIC_IDS : v <= 1))
			*p = v;
		return true;
	}
	*old = 0;
	if (sel > EIDELIVERY && sel < EIP0)
		return true; /* reserved numbers: zero, and writes are ignored (section "Registers in an interrupt file") */
	if (sel < EIP0 || sel > EIE63 || sel & 1)
		return false;
	k = (sel & 0x3f) / 2;
	if (k >= 4)
		return true; /* identities that are not there: read-only zero */
	reg = sel <= EIP63 ? &f->eip[k] : &f->eie[k];
	if (!write) {
		*old = atomic_load(reg);
		return true;
	}
	/* Others may set pending bits meanwhile: never lose one that this write does not name. */
	*old = atomic_load(reg);
	while (!atomic_compare_exchange_weak(
		reg, old, (*old & ~(mask & implemented(k))) | (val & mask & implemented(k))))
		;
	return true;
}
