/*
 * irq.c: pending interrupts, the time counter, and how other threads reach a hart.
 *
 * The parties: the hart's thread (T), which is inside or outside run(), and anybody else (O). Shared: `poll`, `in_run`,
 * `in_service`, and what an interrupt is made of (mip, lines, eip, mtimecmp, hsm.state). All accesses named below are sequentially
 * consistent, or are made so by a fence, so there is one order of all of them.
 *
 * No lost interrupt.	O: [1] store the cause  [2] set POLL_IRQ  [3] read in_run; false: wake
 *			T: [a] in_run = true  [b] read poll  ... guest ...  [c] in_run = false  [d] read the causes again
 *   If 3 reads true it comes before c, so 1 comes before d: either the guest ran on and left at a block's end because of 2, or d sees
 *   the cause and IDLE (STOPPED) becomes BUDGET. If 3 reads false, O wakes; the scheduler keeps a wake that comes before the
 *   task is asleep (sched.h). Wakes may be superfluous, never missing.
 *
 * No stale translation after rv64_broadcast().	O: [1] change the tables  [2] set poll bits  [3] read in_run  [4] read poll
 *						   [5] read in_service; wait while 3 && (4 has the bits || 5)
 *			T: [a] in_run = true  [b] read poll  [c] in_service = true  [d] take the bits out of poll  [e] flush
 *			   [f] in_service = false  ... guest ...  [g] in_run = false
 *   If 3 reads false, then T is before a or behind g: before it runs the guest again it reads poll (b), after 2, and flushes.
 *   Otherwise, if 4 does not have the bits, d came before 4, so c too: 5 reads true (wait) or comes after f, so after the flush.
 *   What T stores through translations it had before e has then been stored: nothing is half done at a block's end. Outside run() a hart
 *   holds no host address. So on return nobody uses, or will use, what was there before 1.
 *   Bits that a third party sets meanwhile can only make O wait longer, for a hart that will serve them at its block's end.
 *
 * No deadlock between harts that broadcast at the same time: while one waits it serves its own bits. Nobody waits for a hart
 * with a lock that this hart may want inside run() (space.h: invalidation is called without locks).
 */
#include <sched.h>

#include "base/clock.h"
#include "cpu/rv64/block.h"
#include "cpu/rv64/priv.h"

uint64_t rv64_time(const struct rv64_vm *vm)
{
	uint64_t ns;

	if (vm->time_stopped)
		return vm->time_at_stop;
	ns = clock_mono_ns() - vm->origin_ns;
	return (uint64_t)((unsigned __int128)ns * vm->o.timebase_hz / 1000000000u);
}

uint64_t rv64_time_to_host(const struct rv64_vm *vm, uint64_t t)
{
	unsigned __int128 ns = ((unsigned __int128)t * 1000000000u + vm->o.timebase_hz - 1) /
			       vm->o.timebase_hz;

	ns += vm->origin_ns;
	return ns > UINT64_MAX - 1 ? UINT64_MAX : (uint64_t)ns;
}

static bool stce(const struct hart *h)
{
	return h->c.menvcfg & MENVCFG_STCE;
}

uint64_t rv64_mip(struct hart *h)
{
	uint64_t v = atomic_load_explicit(&h->mip, memory_order_acquire) |
		     atomic_load_explicit(&h->lines, memory_order_acquire);
	uint64_t mtimecmp = atomic_load_explicit(&h->mtimecmp, memory_order_relaxed);

	/* Reading the clock costs more than all the rest: only for timers that are set. */
	if ((stce(h) && h->c.stimecmp != UINT64_MAX) || mtimecmp != UINT64_MAX) {
		uint64_t now = rv64_time(h->vm);

		if (stce(h))
			v = (v & ~BIT(IRQ_STI)) | (now >= h->c.stimecmp ? BIT(IRQ_STI) : 0);
		if (now >= mtimecmp)
			v |= BIT(IRQ_MTI);
	} else if (stce(h)) {
		v &= ~BIT(IRQ_STI);
	}
	if (h->imsic[CPU_MSI_S].delivery == 1 && imsic_top(&h->imsic[CPU_MSI_S]))
		v |= BIT(IRQ_SEI);
	if (h->imsic[CPU_MSI_M].delivery == 1 && imsic_top(&h->imsic[CPU_MSI_M]))
		v |= BIT(IRQ_MEI);
	return v;
}

void rv64_irq_changed(struct hart *h)
{
	h->irq_unsure = true;
	rv64_irq_allowed(h);
}

void rv64_irq_allowed(struct hart *h)
{
	/* Kernels switch interrupts off and on all the time, and hardly ever is one waiting. */
	if (h->irq_unsure && rv64_interrupt(h))
		atomic_fetch_or_explicit(&h->poll, POLL_IRQ, memory_order_relaxed);
}

void rv64_poke(struct hart *h, uint32_t poll_bits)
{
	atomic_fetch_or(&h->poll, poll_bits | POLL_SOON);
	if (!atomic_load(&h->in_run) && h->vm->o.wake)
		h->vm->o.wake(h->vm->o.wake_ctx, h->id);
}

uint64_t rv64_next_deadline(struct hart *h)
{
	uint64_t t = UINT64_MAX, mtimecmp = h->mtimecmp;

	if (stce(h) && h->mie & BIT(IRQ_STI))
		t = h->c.stimecmp;
	if (h->mie & BIT(IRQ_MTI))
		t = MIN(t, mtimecmp);
	return t == UINT64_MAX ? t : rv64_time_to_host(h->vm, t);
}

/* ---- asking ---- */

#define ASK_PAGES 64u /* more than this: the whole space */

static void asks_lock(struct rv64_asks *q)
{
	while (atomic_exchange_explicit(&q->busy, true, memory_order_acquire))
		sched_yield();
}

static void asks_unlock(struct rv64_asks *q)
{
	atomic_store_explicit(&q->busy, false, memory_order_release);
}

/* The caller sets POLL_ASKED afterwards. */
static void ask(struct hart *h, const struct rv64_ask *a)
{
	struct rv64_asks *q = &h->asks;

	asks_lock(q);
	if (q->n < RV64_ASKS)
		q->ask[q->n++] = *a;
	else if (a->host)
		q->writes = true;
	else
		q->all = true;
	asks_unlock(q);
}

static void serve_ask(struct hart *h, const struct rv64_ask *a)
{
	const uint64_t *asid = a->asid == UINT64_MAX ? NULL : &a->asid;

	if (a->host) {
		mmu_drop_writes_to(h, a->host);
	} else if (!a->pages && asid) {
		mmu_flush_asid(h, *asid);
		rv64_code_flush_asid(h, *asid);
	} else if (!a->pages) {
		mmu_flush(h);
		rv64_code_flush(h);
	}
	for (uint64_t i = 0; i < a->pages; i++) {
		mmu_flush_va(h, a->va + i * PAGE_SIZE, asid);
		rv64_code_flush_va(h, a->va + i * PAGE_SIZE);
	}
}

/* Also takes what somebody has put there who has not set the bit yet: it is then served twice. */
static void serve_asks(struct hart *h)
{
	struct rv64_ask list[RV64_ASKS];
	struct rv64_asks *q = &h->asks;
	bool writes, all;
	unsigned n;

	asks_lock(q);
	n = q->n;
	for (unsigned i = 0; i < n; i++)
		list[i] = q->ask[i];
	writes = q->writes;
	all = q->all;
	q->n = 0;
	q->writes = q->all = false;
	asks_unlock(q);
	if (all) {
		mmu_flush(h);
		rv64_code_flush(h);
		return;
	}
	if (writes)
		mmu_flush_writes(h);
	for (unsigned i = 0; i < n; i++)
		serve_ask(h, &list[i]);
}

uint64_t rv64_ask_no_writes(struct rv64_vm *vm, struct hart *self, const void *host)
{
	struct rv64_ask a = {.host = host, .asid = UINT64_MAX};
	uint64_t stamp;

	/* In this order: who reads this number and then looks at its list finds the page there. */
	for (unsigned i = 0; i < vm->nvcpus; i++)
		if (&vm->vcpus[i]->h != self)
			ask(&vm->vcpus[i]->h, &a);
	stamp = atomic_fetch_add(&vm->watched, 1) + 1;
	for (unsigned i = 0; i < vm->nvcpus; i++)
		if (&vm->vcpus[i]->h != self)
			atomic_fetch_or(&vm->vcpus[i]->h.poll, POLL_ASKED);
	return stamp;
}

uint32_t rv64_serve_poll(struct hart *h)
{
	uint64_t watched;
	uint32_t bits;

	if (!atomic_load(&h->poll))
		return 0;
	atomic_store(&h->in_service, true);
	bits = atomic_fetch_and(&h->poll, POLL_KICK);
	watched = atomic_load(&h->vm->watched);
	if (bits & POLL_TLB_ALL) {
		mmu_flush(h);
		rv64_code_flush(h);
	} else if (bits & POLL_TLB_W) {
		mmu_flush_writes(h);
	}
	if (bits & POLL_ASKED)
		serve_asks(h);
	if (bits & (POLL_TLB_ALL | POLL_TLB_W | POLL_ASKED))
		atomic_store(&h->j.w_flushed, watched);
	if (bits & POLL_FENCE_I)
		rv64_code_fence_i(h);
	atomic_store(&h->in_service, false);
	return bits;
}

/* What rv64_serve_poll() has done when it returns. */
#define SERVED ((uint32_t)(POLL_TLB_ALL | POLL_TLB_W | POLL_FENCE_I | POLL_ASKED))

static bool in_mask(const uint64_t mask[2], unsigned id)
{
	return !mask || (mask[id / 64] >> (id % 64) & 1);
}

void rv64_broadcast(
	struct rv64_vm *vm, struct hart *self, const uint64_t mask[2], uint32_t poll_bits)
{
	for (unsigned i = 0; i < vm->nvcpus; i++)
		if (in_mask(mask, i))
			atomic_fetch_or(&vm->vcpus[i]->h.poll, poll_bits | POLL_SOON);
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		struct hart *h = &vm->vcpus[i]->h;

		if (h == self || !in_mask(mask, i))
			continue;
		/* A hart outside run() serves its bits before it runs the guest again. */
		for (unsigned spins = 0;
			atomic_load(&h->in_run) &&
			((atomic_load(&h->poll) & poll_bits) || atomic_load(&h->in_service));
			spins++) {
			/* Two harts may wait for each other. */
			if (self)
				atomic_fetch_or(&self->poll, rv64_serve_poll(self) & ~SERVED);
			if (spins > 100)
				sched_yield();
		}
	}
	if (self && in_mask(mask, self->id))
		atomic_fetch_or(&self->poll, rv64_serve_poll(self) & ~SERVED);
}

void rv64_fence_others(struct rv64_vm *vm, struct hart *self, const uint64_t mask[2], uint64_t va,
	uint64_t size, uint64_t asid)
{
	struct rv64_ask a = {.va = va & ~PAGE_MASK, .asid = asid};

	if (size && size != UINT64_MAX) {
		a.pages = (size + (va & PAGE_MASK) + PAGE_MASK) >> PAGE_SHIFT;
		if (a.pages > ASK_PAGES || size > ASK_PAGES * PAGE_SIZE)
			a.pages = 0;
	}
	for (unsigned i = 0; i < vm->nvcpus; i++)
		if (in_mask(mask, i))
			ask(&vm->vcpus[i]->h, &a);
	rv64_broadcast(vm, self, mask, POLL_ASKED);
}
