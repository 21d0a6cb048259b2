/*
 * sbi.c: the built-in firmware: the SBI as a kernel in S-mode sees it (RISC-V Supervisor Binary Interface Specification 2.0).
 *
 * Calls are served in the calling hart's thread; what another hart must do travels through irq.c. Extensions: base, TIME, IPI,
 * RFENCE, HSM, SRST, SUSP, DBCN, PMU (which reports no counters).
 */
#include <string.h>

#include "cpu/rv64/block.h"
#include "cpu/rv64/priv.h"

enum {
	SBI_OK = 0,
	SBI_NOT_SUPPORTED = -2,
	SBI_INVALID_PARAM = -3,
	SBI_DENIED = -4,
	SBI_INVALID_ADDRESS = -5,
	SBI_ALREADY_AVAILABLE = -6,
};

#define EXT_BASE 0x10
#define EXT_TIME 0x54494d45
#define EXT_IPI 0x735049
#define EXT_RFENCE 0x52464e43
#define EXT_PMU 0x504d55
#define SBI_VERSION (2u << 24)
#define SBI_IMPL_ID 0x6c6f6467 /* "lodg": none is registered */

struct ret {
	int64_t error;
	uint64_t value;
};

/* Every call has one of these; `left` means that an exit was posted or the hart stops. */
struct call {
	struct hart *h;
	uint64_t fid, a[6];
	bool left;
};

static struct rv64_vcpu *target(const struct hart *h, uint64_t id)
{
	return id < h->vm->nvcpus ? h->vm->vcpus[id] : NULL;
}

/* hart_mask, hart_mask_base -> our mask; all harts when the base is -1. False: names a hart that does not exist. */
static bool hart_mask(const struct hart *h, uint64_t bits, uint64_t base, uint64_t mask[2])
{
	mask[0] = mask[1] = 0;
	for (unsigned i = 0; base == UINT64_MAX && i < h->vm->nvcpus; i++)
		mask[i / 64] |= BIT(i % 64);
	for (unsigned i = 0; base != UINT64_MAX && i < 64; i++) {
		if (!(bits >> i & 1))
			continue;
		if (base + i < base || !target(h, base + i))
			return false;
		mask[(base + i) / 64] |= BIT((base + i) % 64);
	}
	return true;
}

static struct ret sbi_base(struct call *c)
{
	static const uint32_t known[] = {EXT_BASE, EXT_TIME, EXT_IPI, EXT_RFENCE, EXT_HSM, EXT_SRST,
		EXT_SUSP, EXT_DBCN, EXT_PMU};

	switch (c->fid) {
	case 0:
		return (struct ret){SBI_OK, SBI_VERSION};
	case 1:
		return (struct ret){SBI_OK, SBI_IMPL_ID};
	case 2:
		return (struct ret){SBI_OK, 1};
	case 3:
		for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
			if (known[i] == c->a[0])
				return (struct ret){SBI_OK, 1};
		return (struct ret){SBI_OK, 0};
	case 4:
	case 5:
	case 6:
		return (struct ret){SBI_OK, 0}; /* mvendorid, marchid, mimpid */
	}
	return (struct ret){SBI_NOT_SUPPORTED, 0};
}

static struct ret sbi_time(struct call *c)
{
	if (c->fid)
		return (struct ret){SBI_NOT_SUPPORTED, 0};
	c->h->c.stimecmp = c->a[0];
	rv64_irq_changed(c->h);
	return (struct ret){SBI_OK, 0};
}

static struct ret sbi_ipi(struct call *c)
{
	uint64_t mask[2];

	if (c->fid)
		return (struct ret){SBI_NOT_SUPPORTED, 0};
	if (!hart_mask(c->h, c->a[0], c->a[1], mask))
		return (struct ret){SBI_INVALID_PARAM, 0};
	for (unsigned i = 0; i < c->h->vm->nvcpus; i++) {
		struct hart *t = &c->h->vm->vcpus[i]->h;

		if (!(mask[i / 64] >> (i % 64) & 1))
			continue;
		atomic_fetch_or(&t->mip, BIT(IRQ_SSI));
		rv64_poke(t, POLL_IRQ);
	}
	return (struct ret){SBI_OK, 0};
}

static struct ret sbi_rfence(struct call *c)
{
	uint64_t mask[2];

	if (c->fid > 2) /* the others are for harts with H */
		return (struct ret){SBI_NOT_SUPPORTED, 0};
	if (!hart_mask(c->h, c->a[0], c->a[1], mask))
		return (struct ret){SBI_INVALID_PARAM, 0};
	if (!c->fid)
		rv64_broadcast(c->h->vm, c->h, mask, POLL_FENCE_I);
	else
		rv64_fence_others(c->h->vm, c->h, mask, c->a[2], c->a[3],
			c->fid == 2 ? c->a[4] & 0xffff : UINT64_MAX);
	return (struct ret){SBI_OK, 0};
}

static bool is_ram(struct hart *h, uint64_t pa)
{
	struct space_page pg;

	return !(pa & 1) && !space_page(h->vm->o.space, 0, gpa(pa), MEM_EXEC, &pg);
}

static struct ret hsm_start(struct call *c)
{
	struct rv64_vcpu *t = target(c->h, c->a[0]);
	uint32_t stopped = HSM_STOPPED;

	if (!t)
		return (struct ret){SBI_INVALID_PARAM, 0};
	if (!is_ram(c->h, c->a[1]))
		return (struct ret){SBI_INVALID_ADDRESS, 0};
	if (!atomic_compare_exchange_strong(&t->h.hsm.state, &stopped, HSM_STOP_PENDING))
		return (struct ret){SBI_ALREADY_AVAILABLE, 0};
	/* In between nobody else may touch it: the state says so. */
	t->h.hsm.pc = c->a[1];
	t->h.hsm.arg = c->a[2];
	atomic_store(&t->h.hsm.state, HSM_START_PENDING);
	rv64_poke(&t->h, POLL_IRQ);
	return (struct ret){SBI_OK, 0};
}

static struct ret hsm_suspend(struct call *c)
{
	struct hart *h = c->h;
	uint32_t type = (uint32_t)c->a[0];
	bool retentive = type == 0;

	if (type != 0 && type != 0x80000000)
		return (struct ret){SBI_INVALID_PARAM, 0};
	if (!retentive && !is_ram(h, c->a[1]))
		return (struct ret){SBI_INVALID_ADDRESS, 0};
	h->hsm.retentive = retentive;
	h->hsm.pc = c->a[1];
	h->hsm.arg = c->a[2];
	h->x[10] = h->x[11] = 0;
	h->pc += 4;
	h->instret++;
	atomic_store(&h->hsm.state, HSM_SUSPENDED);
	/* The run loop looks at the state only when there is something to look at. */
	atomic_fetch_or(&h->poll, POLL_IRQ);
	c->left = true;
	return (struct ret){0};
}

static struct ret sbi_hsm(struct call *c)
{
	struct rv64_vcpu *t;

	switch (c->fid) {
	case 0:
		return hsm_start(c);
	case 1:
		/*
		 * From here on another hart may start this one again, and must find nothing more that we do: the run loop, which the
		 * poll bit brings about, does not come back to this instruction.
		 */
		atomic_fetch_or(&c->h->poll, POLL_IRQ);
		atomic_store(&c->h->hsm.state, HSM_STOPPED);
		c->left = true;
		return (struct ret){0};
	case 2:
		t = target(c->h, c->a[0]);
		if (!t)
			return (struct ret){SBI_INVALID_PARAM, 0};
		return (struct ret){SBI_OK, t->h.hsm.state};
	case 3:
		return hsm_suspend(c);
	}
	return (struct ret){SBI_NOT_SUPPORTED, 0};
}

/* The monitor's to serve: it gets the call as it is. */
static void leave(struct call *c)
{
	memcpy(rv64_leave(c->h, CAUSE_ECALL_S, 0)->reg, &c->h->x[10], sizeof(c->h->st.reg));
	c->left = true;
}

static void leave_for_answer(struct call *c, enum rv64_pend kind)
{
	leave(c);
	c->h->pend = (struct rv64_pending){.active = true, .kind = kind};
}

static struct ret sbi_srst(struct call *c)
{
	uint32_t type = (uint32_t)c->a[0], reason = (uint32_t)c->a[1];

	if (c->fid)
		return (struct ret){SBI_NOT_SUPPORTED, 0};
	if (type > 2 || reason > 1)
		return (struct ret){SBI_INVALID_PARAM, 0};
	leave(c);
	return (struct ret){0};
}

static struct ret sbi_susp(struct call *c)
{
	struct hart *h = c->h;

	if (c->fid)
		return (struct ret){SBI_NOT_SUPPORTED, 0};
	if ((uint32_t)c->a[0])
		return (struct ret){SBI_INVALID_PARAM, 0};
	if (!is_ram(h, c->a[1]))
		return (struct ret){SBI_INVALID_ADDRESS, 0};
	for (unsigned i = 0; i < h->vm->nvcpus; i++)
		if (i != h->id && h->vm->vcpus[i]->h.hsm.state != HSM_STOPPED)
			return (struct ret){SBI_DENIED, 0}; /* the others must be stopped first */
	h->hsm.retentive = false;
	h->hsm.pc = c->a[1];
	h->hsm.arg = c->a[2];
	h->hsm.system = true;
	atomic_store(&h->hsm.state, HSM_SUSPENDED);
	leave(c);
	return (struct ret){0};
}

static struct ret sbi_dbcn(struct call *c)
{
	struct hart *h = c->h;

	if (c->fid > 2)
		return (struct ret){SBI_NOT_SUPPORTED, 0};
	if (c->fid < 2 && c->a[0] == 0)
		return (struct ret){SBI_OK, 0};
	if (c->fid < 2 &&
		(c->a[2] || !gpa_range_ok(gpa(c->a[1]), c->a[0]) || !is_ram(h, c->a[1] & ~1ull) ||
			!is_ram(h, (c->a[1] + c->a[0] - 1) & ~1ull)))
		return (struct ret){SBI_INVALID_PARAM, 0};
	leave_for_answer(c, PEND_CONSOLE);
	return (struct ret){0};
}

static struct ret sbi_pmu(struct call *c)
{
	return c->fid ? (struct ret){SBI_NOT_SUPPORTED, 0} : (struct ret){SBI_OK, 0};
}

static const struct {
	uint64_t eid;
	struct ret (*fn)(struct call *c);
} extensions[] = {
	{EXT_TIME, sbi_time},
	{EXT_IPI, sbi_ipi},
	{EXT_RFENCE, sbi_rfence},
	{EXT_HSM, sbi_hsm},
	{EXT_BASE, sbi_base},
	{EXT_SRST, sbi_srst},
	{EXT_SUSP, sbi_susp},
	{EXT_DBCN, sbi_dbcn},
	{EXT_PMU, sbi_pmu},
};

void sbi_call(struct hart *h)
{
	struct call c = {.h = h, .fid = h->x[16]};
	struct ret r = {SBI_NOT_SUPPORTED, 0};
	bool known = false;

	memcpy(c.a, &h->x[10], sizeof(c.a));
	for (unsigned i = 0; i < ARRAY_SIZE(extensions); i++)
		if (extensions[i].eid == h->x[17]) {
			r = extensions[i].fn(&c);
			known = true;
			break;
		}
	if (!known)
		leave_for_answer(&c, PEND_CALL);
	if (c.left)
		return;
	h->x[10] = (uint64_t)r.error;
	h->x[11] = r.value;
	h->pc += 4;
	h->instret++;
}

void sbi_complete(struct hart *h, const struct cpu_exit *x)
{
	h->pend.active = false;
	if (h->pend.kind == PEND_CALL) {
		h->x[10] = x->hcall.ret[0];
		h->x[11] = x->hcall.ret[1];
	} else {
		h->x[10] = SBI_OK;
		h->x[11] = x->console.byte ? 0 : x->console.done;
	}
	h->pc += 4;
	h->instret++;
}

/* S-mode as the specification has it at a hart's start: MMU off, interrupts off, a0 hart, a1 argument. */
static void start_at(struct hart *h, uint64_t pc, uint64_t arg)
{
	h->mstatus &= ~(MSTATUS_SIE | MSTATUS_SPP | MSTATUS_SPIE | MSTATUS_MPRV | MSTATUS_SUM |
			MSTATUS_MXR);
	h->c.satp = 0;
	mmu_flush(h);
	mmu_space(h);
	rv64_code_space(h, 0);
	rv64_code_flush(h);
	rv64_code_fence_i(h);
	h->x[10] = h->id;
	h->x[11] = arg;
	h->pc = pc;
	rv64_set_priv(h, PRIV_S);
	h->hsm.system = false;
	atomic_store(&h->hsm.state, HSM_STARTED);
}

bool sbi_may_run(struct hart *h)
{
	switch (atomic_load(&h->hsm.state)) {
	case HSM_STARTED:
		return true;
	case HSM_START_PENDING:
		start_at(h, h->hsm.pc, h->hsm.arg);
		return true;
	case HSM_SUSPENDED:
		if (!h->hsm.system && !(rv64_mip(h) & h->mie))
			return false;
		if (h->hsm.retentive)
			atomic_store(&h->hsm.state, HSM_STARTED);
		else
			start_at(h, h->hsm.pc, h->hsm.arg);
		return true;
	default:
		return false;
	}
}

/* What firmware leaves behind for a kernel: everything delegated, everything that S-mode may use switched on. */
void sbi_reset(struct hart *h, bool running)
{
	h->medeleg = 0xb1ff & ~BIT(CAUSE_ECALL_S);
	h->mideleg = S_IRQS;
	h->c.mcounteren = 7;
	h->c.menvcfg = ENVCFG_CBIE | ENVCFG_CBCFE | ENVCFG_CBZE | MENVCFG_ADUE | MENVCFG_PBMTE |
		       MENVCFG_STCE;
	h->c.pmpaddr[0] = (1ull << 54) - 1;
	h->c.pmpcfg[0] = 0x1f;
	h->c.stimecmp = UINT64_MAX;
	pmp_update(h);
	rv64_set_priv(h, PRIV_S);
	atomic_store(&h->hsm.state, running ? HSM_STARTED : HSM_STOPPED);
}
