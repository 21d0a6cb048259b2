/*
 * csr.c: control and status registers: one table by number (privileged specification, chapter "CSR Listing"; AIA, chapter 2; "Sstc").
 *
 * A row reads, and may write a whole new value; set and clear are made of both. Read-only registers are told by their number
 * (bits 11:10), the least privilege too (bits 9:8). A row's `may` says when else an access is illegal.
 */
#include "cpu/rv64/block.h"
#include "cpu/rv64/priv.h"

struct csr {
	uint64_t (*read)(struct hart *h, unsigned n);
	void (*write)(struct hart *h, unsigned n, uint64_t v); /* NULL: writes are ignored */
	bool (*may)(struct hart *h, unsigned n);
	/*
	 * Instead of write, where other threads or hardware change bits too: only the bits in `mask` become those of `v`, so that
	 * setting one bit never takes back another that arrives meanwhile. `before` is what the instruction has read.
	 */
	void (*modify)(struct hart *h, unsigned n, uint64_t before, uint64_t mask, uint64_t v);
};

/* ---- when an access is illegal ---- */

static bool may_fp(struct hart *h, unsigned n)
{
	return h->fs;
}

static bool may_count(struct hart *h, unsigned n)
{
	uint64_t bit = BIT(n & 31);

	if (h->priv != PRIV_M && !(h->c.mcounteren & bit))
		return false;
	return h->priv != PRIV_U || h->c.scounteren & bit;
}

static bool may_satp(struct hart *h, unsigned n)
{
	return !(h->priv == PRIV_S && h->mstatus & MSTATUS_TVM);
}

static bool may_stimecmp(struct hart *h, unsigned n)
{
	return h->priv == PRIV_M || (h->c.menvcfg & MENVCFG_STCE && h->c.mcounteren & 2);
}

/* ---- plain storage ---- */

static uint64_t r_zero(struct hart *h, unsigned n)
{
	return 0;
}

#define STORE(name, field, mask) \
	static uint64_t r_##name(struct hart *h, unsigned n) \
	{ \
		return h->field; \
	} \
	static void w_##name(struct hart *h, unsigned n, uint64_t v) \
	{ \
		h->field = v & (mask); \
	}
STORE(mscratch, c.mscratch, ~0ull)
STORE(sscratch, c.sscratch, ~0ull)
STORE(mepc, c.mepc, ~1ull)
STORE(sepc, c.sepc, ~1ull)
STORE(mcause, c.mcause, ~0ull)
STORE(scause, c.scause, ~0ull)
STORE(mtval, c.mtval, ~0ull)
STORE(stval, c.stval, ~0ull)
STORE(mcounteren, c.mcounteren, 7)
STORE(scounteren, c.scounteren, 7)
STORE(miselect, c.miselect, 0xfff)
STORE(siselect, c.siselect, 0xfff)

/* Mode 2 and 3 are reserved: such a write keeps the old mode. */
static uint64_t tvec(uint64_t old, uint64_t v)
{
	return v & 2 ? (v & ~3ull) | (old & 3) : v;
}

static uint64_t r_mtvec(struct hart *h, unsigned n)
{
	return h->c.mtvec;
}

static void w_mtvec(struct hart *h, unsigned n, uint64_t v)
{
	h->c.mtvec = tvec(h->c.mtvec, v);
}

static uint64_t r_stvec(struct hart *h, unsigned n)
{
	return h->c.stvec;
}

static void w_stvec(struct hart *h, unsigned n, uint64_t v)
{
	h->c.stvec = tvec(h->c.stvec, v);
}

/* ---- floating point ---- */

static uint64_t r_fflags(struct hart *h, unsigned n)
{
	return fp_host_flags(&h->fp);
}

static void w_fflags(struct hart *h, unsigned n, uint64_t v)
{
	fp_host_set_flags(&h->fp, v & 31);
	h->fs = 3;
}

static uint64_t r_frm(struct hart *h, unsigned n)
{
	return h->fp.frm;
}

static void w_frm(struct hart *h, unsigned n, uint64_t v)
{
	fp_host_set_frm(&h->fp, v & 7);
	h->fs = 3;
}

static uint64_t r_fcsr(struct hart *h, unsigned n)
{
	return fp_host_flags(&h->fp) | (unsigned)h->fp.frm << 5;
}

static void w_fcsr(struct hart *h, unsigned n, uint64_t v)
{
	fp_host_set_frm(&h->fp, v >> 5 & 7);
	fp_host_set_flags(&h->fp, v & 31);
	h->fs = 3;
}

/* ---- counters ---- */

static uint64_t r_time(struct hart *h, unsigned n)
{
	return rv64_time(h->vm);
}

#define INHIBIT_CY 1u
#define INHIBIT_IR 4u

/* A counter that stands still is its base alone; one that counts adds what the hart has retired. */
static uint64_t count_from(const struct hart *h, unsigned inhibit)
{
	return h->c.mcountinhibit & inhibit ? 0 : h->instret;
}

/* The write itself retires after it. */
static uint64_t base_for(const struct hart *h, unsigned inhibit, uint64_t v)
{
	return h->c.mcountinhibit & inhibit ? v : v - h->instret - 1;
}

static uint64_t r_instret(struct hart *h, unsigned n)
{
	return count_from(h, INHIBIT_IR) + h->c.instret_base;
}

static void w_instret(struct hart *h, unsigned n, uint64_t v)
{
	h->c.instret_base = base_for(h, INHIBIT_IR, v);
}

/* One cycle an instruction: there is no model of time yet that could say better. */
static uint64_t r_cycle(struct hart *h, unsigned n)
{
	return count_from(h, INHIBIT_CY) + h->c.cycle_base;
}

static void w_cycle(struct hart *h, unsigned n, uint64_t v)
{
	h->c.cycle_base = base_for(h, INHIBIT_CY, v);
}

static uint64_t r_mcountinhibit(struct hart *h, unsigned n)
{
	return h->c.mcountinhibit;
}

static void w_mcountinhibit(struct hart *h, unsigned n, uint64_t v)
{
	uint64_t cycle = r_cycle(h, 0), instret = r_instret(h, 0);

	uint64_t changed = (v ^ h->c.mcountinhibit) & (INHIBIT_CY | INHIBIT_IR);

	h->c.mcountinhibit ^= changed;
	if (changed & INHIBIT_CY)
		w_cycle(h, 0, cycle);
	if (changed & INHIBIT_IR)
		w_instret(h, 0, instret);
}

/* ---- status ---- */

#define MSTATUS_W \
	(MSTATUS_SIE | MSTATUS_MIE | MSTATUS_SPIE | MSTATUS_MPIE | MSTATUS_SPP | MSTATUS_MPP | \
		MSTATUS_FS | MSTATUS_MPRV | MSTATUS_SUM | MSTATUS_MXR | MSTATUS_TVM | MSTATUS_TW | \
		MSTATUS_TSR)
#define SSTATUS_W \
	(MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_FS | MSTATUS_SUM | MSTATUS_MXR)

/* FS lives in a word of its own, where handlers get at it quickly; SD follows from it. */
static uint64_t status(const struct hart *h)
{
	return h->mstatus | (uint64_t)h->fs << MSTATUS_FS_SHIFT | (h->fs == 3 ? MSTATUS_SD : 0);
}

static void set_status(struct hart *h, uint64_t v, uint64_t mask)
{
	uint64_t old = status(h) & ~MSTATUS_SD;
	uint64_t now = (old & ~mask) | (v & mask);

	/* MPP 2 is no mode: such a write keeps the old one. */
	if ((now & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT == 2)
		now = (now & ~MSTATUS_MPP) | (old & MSTATUS_MPP);
	h->mstatus = now & ~MSTATUS_FS;
	h->fs = (now & MSTATUS_FS) >> MSTATUS_FS_SHIFT;
	if ((now ^ old) & (MSTATUS_MPRV | MSTATUS_MPP | MSTATUS_SUM | MSTATUS_MXR))
		rv64_update_regime(h);
	if (now & ~old & (MSTATUS_SIE | MSTATUS_MIE))
		rv64_irq_allowed(h);
}

static uint64_t r_mstatus(struct hart *h, unsigned n)
{
	return status(h) | MSTATUS_UXL | MSTATUS_SXL;
}

static void w_mstatus(struct hart *h, unsigned n, uint64_t v)
{
	set_status(h, v, MSTATUS_W);
}

static uint64_t r_sstatus(struct hart *h, unsigned n)
{
	return (status(h) & (SSTATUS_W | MSTATUS_SD)) | MSTATUS_UXL;
}

static void w_sstatus(struct hart *h, unsigned n, uint64_t v)
{
	set_status(h, v, SSTATUS_W);
}

static uint64_t r_misa(struct hart *h, unsigned n)
{
	static const char letters[] = "ACDFIMSU";
	uint64_t v = 2ull << 62;

	for (const char *p = letters; *p; p++)
		v |= BIT(*p - 'A');
	return v;
}

static uint64_t r_mhartid(struct hart *h, unsigned n)
{
	return h->id;
}

#define MENVCFG_W \
	(ENVCFG_FIOM | ENVCFG_CBIE | ENVCFG_CBCFE | ENVCFG_CBZE | MENVCFG_ADUE | MENVCFG_PBMTE | \
		MENVCFG_STCE)
#define SENVCFG_W (ENVCFG_FIOM | ENVCFG_CBIE | ENVCFG_CBCFE | ENVCFG_CBZE)

/* CBIE 2 is reserved: the field then stays as it was. */
static uint64_t envcfg(uint64_t old, uint64_t v, uint64_t mask)
{
	if ((v & ENVCFG_CBIE) == 2ull << 4)
		v = (v & ~ENVCFG_CBIE) | (old & ENVCFG_CBIE);
	return v & mask;
}

static uint64_t r_menvcfg(struct hart *h, unsigned n)
{
	return h->c.menvcfg;
}

static void w_menvcfg(struct hart *h, unsigned n, uint64_t v)
{
	uint64_t old = h->c.menvcfg;

	h->c.menvcfg = envcfg(old, v, MENVCFG_W);
	h->may_zero = mem_may_zero(h);
	if ((old ^ h->c.menvcfg) & (MENVCFG_ADUE | MENVCFG_PBMTE)) {
		mmu_flush(h);
		rv64_code_flush(h);
	}
	rv64_irq_changed(h);
}

static uint64_t r_senvcfg(struct hart *h, unsigned n)
{
	return h->c.senvcfg;
}

static void w_senvcfg(struct hart *h, unsigned n, uint64_t v)
{
	h->c.senvcfg = envcfg(h->c.senvcfg, v, SENVCFG_W);
	h->may_zero = mem_may_zero(h);
}

static uint64_t r_satp(struct hart *h, unsigned n)
{
	return h->c.satp;
}

static void w_satp(struct hart *h, unsigned n, uint64_t v)
{
	uint64_t mode = v >> 60;

	/* An unsupported mode makes the whole write do nothing. */
	if (mode != SATP_BARE && mode != SATP_SV39 && mode != SATP_SV48)
		return;
	if (h->c.satp == v)
		return;
	h->c.satp = v;
	h->resv_va = UINT64_MAX;
	mmu_space(h);
	rv64_code_space(h, v);
}

/* ---- interrupts ---- */

/* Standard exceptions that can come from below M; ecall from M cannot be delegated. */
#define MEDELEG_W 0xb3ffull

static uint64_t r_medeleg(struct hart *h, unsigned n)
{
	return h->medeleg;
}

static void w_medeleg(struct hart *h, unsigned n, uint64_t v)
{
	h->medeleg = v & MEDELEG_W;
}

static uint64_t r_mideleg(struct hart *h, unsigned n)
{
	return h->mideleg;
}

static void w_mideleg(struct hart *h, unsigned n, uint64_t v)
{
	h->mideleg = v & S_IRQS;
	rv64_irq_changed(h);
}

static uint64_t r_mie(struct hart *h, unsigned n)
{
	return h->mie;
}

static void w_mie(struct hart *h, unsigned n, uint64_t v)
{
	h->mie = v & (S_IRQS | M_IRQS);
	rv64_irq_changed(h);
}

static uint64_t r_sie(struct hart *h, unsigned n)
{
	return h->mie & h->mideleg;
}

static void w_sie(struct hart *h, unsigned n, uint64_t v)
{
	h->mie = (h->mie & ~h->mideleg) | (v & h->mideleg);
	rv64_irq_changed(h);
}

static void set_mip(struct hart *h, uint64_t v, uint64_t mask)
{
	uint64_t old = h->mip;

	while (!atomic_compare_exchange_weak(&h->mip, &old, (old & ~mask) | (v & mask)))
		;
	rv64_irq_changed(h);
}

static uint64_t r_mip(struct hart *h, unsigned n)
{
	return rv64_mip(h);
}

/* STIP belongs to stimecmp when STCE says so. */
static uint64_t mip_writable(const struct hart *h)
{
	return BIT(IRQ_SSI) | BIT(IRQ_SEI) | (h->c.menvcfg & MENVCFG_STCE ? 0 : BIT(IRQ_STI));
}

/* Reads show hardware's pending bits too; a set or clear concerns software's alone (specification, SEIP). */
static void m_mip(struct hart *h, unsigned n, uint64_t before, uint64_t mask, uint64_t v)
{
	set_mip(h, v, mask & mip_writable(h));
}

/* AIA, "Interrupt filtering": the least there may be: mvien zero, and in mvip aliases of what software may write in mip. */
static uint64_t r_mvip(struct hart *h, unsigned n)
{
	return h->mip & mip_writable(h);
}

static uint64_t r_sip(struct hart *h, unsigned n)
{
	return rv64_mip(h) & h->mideleg;
}

static void m_sip(struct hart *h, unsigned n, uint64_t before, uint64_t mask, uint64_t v)
{
	set_mip(h, v, mask & BIT(IRQ_SSI) & h->mideleg);
}

static uint64_t r_stimecmp(struct hart *h, unsigned n)
{
	return h->c.stimecmp;
}

static void w_stimecmp(struct hart *h, unsigned n, uint64_t v)
{
	h->c.stimecmp = v;
	rv64_irq_changed(h);
}

/* ---- PMP ---- */

static uint64_t r_pmpcfg(struct hart *h, unsigned n)
{
	uint64_t v = 0;
	unsigned first = (n - 0x3a0) * 4;

	for (unsigned i = 0; first < PMP_ENTRIES && i < 8; i++)
		v |= (uint64_t)h->c.pmpcfg[first + i] << (8 * i);
	return v;
}

static void w_pmpcfg(struct hart *h, unsigned n, uint64_t v)
{
	unsigned first = (n - 0x3a0) * 4;

	for (unsigned i = 0; first < PMP_ENTRIES && i < 8; i++) {
		uint8_t b = (uint8_t)(v >> (8 * i)) & 0x9f;

		/* Locked entries stay; W without R is reserved and drops W. */
		if (h->c.pmpcfg[first + i] & 0x80)
			continue;
		if ((b & 3) == 2)
			b &= ~2;
		h->c.pmpcfg[first + i] = b;
	}
	pmp_update(h);
}

static uint64_t r_pmpaddr(struct hart *h, unsigned n)
{
	return n - 0x3b0 < PMP_ENTRIES ? h->c.pmpaddr[n - 0x3b0] : 0;
}

static void w_pmpaddr(struct hart *h, unsigned n, uint64_t v)
{
	unsigned i = n - 0x3b0;

	if (i >= PMP_ENTRIES || h->c.pmpcfg[i] & 0x80)
		return;
	/* The base of a locked TOR entry is locked with it. */
	if (i + 1 < PMP_ENTRIES && h->c.pmpcfg[i + 1] & 0x80 && (h->c.pmpcfg[i + 1] >> 3 & 3) == 1)
		return;
	h->c.pmpaddr[i] = v & ((1ull << 54) - 1);
	pmp_update(h);
}

/* ---- AIA ---- */

/* xtopi with iprio read-only zero: priority 1 whenever there is something (AIA section 2.3 / 5.4). */
static uint64_t topi(uint64_t pending, const uint8_t *order, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (pending >> order[i] & 1)
			return (uint64_t)order[i] << 16 | 1;
	return 0;
}

static uint64_t r_mtopi(struct hart *h, unsigned n)
{
	static const uint8_t order[] = {IRQ_MEI, IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI};

	return topi(rv64_mip(h) & h->mie & ~h->mideleg, order, ARRAY_SIZE(order));
}

static uint64_t r_stopi(struct hart *h, unsigned n)
{
	static const uint8_t order[] = {IRQ_SEI, IRQ_SSI, IRQ_STI};
	uint64_t top = topi(rv64_mip(h) & h->mie & h->mideleg, order, ARRAY_SIZE(order));

	rv64_told(h, (unsigned)(top >> 16));
	return top;
}

static uint64_t topei(struct hart *h, unsigned file)
{
	uint64_t id = imsic_top(&h->imsic[file]);

	return id << 16 | id;
}

/*
 * Any write claims, whatever its value: the identity that the same instruction has read (AIA, "Top external interrupt CSRs"). A message of a
 * lower number that arrives between the two must stay.
 */
static void m_topei(struct hart *h, unsigned n, uint64_t before, uint64_t mask, uint64_t v)
{
	unsigned file = n == 0x35c ? CPU_MSI_M : CPU_MSI_S, id = before >> 16 & 0x7ff;

	if (id) {
		atomic_fetch_and(&h->imsic[file].eip[id / 64], ~BIT(id % 64));
		imsic_claimed(h, file, id);
	}
	rv64_irq_changed(h);
}

static uint64_t r_mtopei(struct hart *h, unsigned n)
{
	return topei(h, CPU_MSI_M);
}

static uint64_t r_stopei(struct hart *h, unsigned n)
{
	return topei(h, CPU_MSI_S);
}

static bool indirect(
	struct hart *h, unsigned file, bool write, uint64_t mask, uint64_t v, uint64_t *old)
{
	unsigned sel = (unsigned)(file == CPU_MSI_M ? h->c.miselect : h->c.siselect);

	*old = 0;
	if (sel >= 0x30 && sel <= 0x3f)
		return !(sel & 1); /* iprio: read-only zero */
	return imsic_reg(&h->imsic[file], sel, write, v, mask, old);
}

static bool may_mireg(struct hart *h, unsigned n)
{
	uint64_t old;

	return indirect(h, CPU_MSI_M, false, 0, 0, &old);
}

static bool may_sireg(struct hart *h, unsigned n)
{
	uint64_t old;

	return indirect(h, CPU_MSI_S, false, 0, 0, &old);
}

static uint64_t r_ireg(struct hart *h, unsigned n)
{
	uint64_t old;

	indirect(h, n == 0x351 ? CPU_MSI_M : CPU_MSI_S, false, 0, 0, &old);
	return old;
}

static void m_ireg(struct hart *h, unsigned n, uint64_t before, uint64_t mask, uint64_t v)
{
	uint64_t old;

	indirect(h, n == 0x351 ? CPU_MSI_M : CPU_MSI_S, true, mask, v, &old);
	rv64_irq_changed(h);
}

/* ---- the table ---- */

static const struct csr csrs[4096] = {
	[0x001] = {r_fflags, w_fflags, may_fp},
	[0x002] = {r_frm, w_frm, may_fp},
	[0x003] = {r_fcsr, w_fcsr, may_fp},
	[0xc00] = {r_cycle, NULL, may_count},
	[0xc01] = {r_time, NULL, may_count},
	[0xc02] = {r_instret, NULL, may_count},
	[0xc03 ... 0xc1f] = {r_zero, NULL, may_count},

	[0x100] = {r_sstatus, w_sstatus},
	[0x104] = {r_sie, w_sie},
	[0x105] = {r_stvec, w_stvec},
	[0x106] = {r_scounteren, w_scounteren},
	[0x10a] = {r_senvcfg, w_senvcfg},
	[0x140] = {r_sscratch, w_sscratch},
	[0x141] = {r_sepc, w_sepc},
	[0x142] = {r_scause, w_scause},
	[0x143] = {r_stval, w_stval},
	[0x144] = {r_sip, .modify = m_sip},
	[0x14d] = {r_stimecmp, w_stimecmp, may_stimecmp},
	[0x150] = {r_siselect, w_siselect},
	[0x151] = {r_ireg, .may = may_sireg, .modify = m_ireg},
	[0x15c] = {r_stopei, .modify = m_topei},
	[0xdb0] = {r_stopi},
	[0x180] = {r_satp, w_satp, may_satp},

	[0xf11 ... 0xf13] = {r_zero},
	[0xf14] = {r_mhartid},
	[0xf15] = {r_zero},
	[0x300] = {r_mstatus, w_mstatus},
	[0x301] = {r_misa},
	[0x302] = {r_medeleg, w_medeleg},
	[0x303] = {r_mideleg, w_mideleg},
	[0x304] = {r_mie, w_mie},
	[0x305] = {r_mtvec, w_mtvec},
	[0x306] = {r_mcounteren, w_mcounteren},
	[0x308] = {r_zero}, /* mvien: nothing can be made virtual */
	[0x309] = {r_mvip, .modify = m_mip},
	[0x30a] = {r_menvcfg, w_menvcfg},
	[0x320] = {r_mcountinhibit, w_mcountinhibit},
	[0x323 ... 0x33f] = {r_zero},
	[0x340] = {r_mscratch, w_mscratch},
	[0x341] = {r_mepc, w_mepc},
	[0x342] = {r_mcause, w_mcause},
	[0x343] = {r_mtval, w_mtval},
	[0x344] = {r_mip, .modify = m_mip},
	[0x350] = {r_miselect, w_miselect},
	[0x351] = {r_ireg, .may = may_mireg, .modify = m_ireg},
	[0x35c] = {r_mtopei, .modify = m_topei},
	[0xfb0] = {r_mtopi},
	[0x3a0] = {r_pmpcfg, w_pmpcfg},
	[0x3a2] = {r_pmpcfg, w_pmpcfg},
	[0x3a4] = {r_pmpcfg, w_pmpcfg},
	[0x3a6] = {r_pmpcfg, w_pmpcfg},
	[0x3a8] = {r_pmpcfg, w_pmpcfg},
	[0x3aa] = {r_pmpcfg, w_pmpcfg},
	[0x3ac] = {r_pmpcfg, w_pmpcfg},
	[0x3ae] = {r_pmpcfg, w_pmpcfg},
	[0x3b0 ... 0x3ef] = {r_pmpaddr, w_pmpaddr},
	[0xb00] = {r_cycle, w_cycle},
	[0xb02] = {r_instret, w_instret},
	[0xb03 ... 0xb1f] = {r_zero},
};

bool csr_access(struct hart *h, const struct rv64_op *op, unsigned csr, enum csr_kind kind,
	bool write, uint64_t val, uint64_t *old)
{
	const struct csr *c = &csrs[csr & 4095];
	uint64_t before, saved;

	if (!c->read || (csr >> 8 & 3) > h->priv || (write && csr >> 10 == 3) ||
		(c->may && !c->may(h, csr))) {
		rv64_illegal(h, op);
		return false;
	}
	/* Counters read what has retired before this instruction. */
	saved = h->instret;
	h->instret += op_index(op);
	before = c->read(h, csr);
	if (write && c->modify)
		c->modify(h, csr, before, kind == CSR_RW ? ~0ull : val, kind == CSR_RC ? 0 : val);
	else if (write && c->write)
		c->write(h, csr,
			kind == CSR_RW	 ? val
			: kind == CSR_RS ? before | val
					 : before & ~val);
	h->instret = saved;
	*old = before;
	return true;
}

/* Brings state that came from a stream to what a guest could have written. */
void csr_sanitize(struct hart *h)
{
	uint64_t mpp = (h->mstatus & MSTATUS_MPP) >> MSTATUS_MPP_SHIFT;

	h->mstatus &= MSTATUS_W & ~(MSTATUS_FS | (mpp == 2 ? MSTATUS_MPP : 0));
	h->fs &= 3;
	h->mie &= S_IRQS | M_IRQS;
	h->mip &= S_IRQS;
	h->lines &= BIT(IRQ_MSI) | BIT(IRQ_MEI) | BIT(IRQ_SEI);
	h->mideleg &= S_IRQS;
	h->medeleg &= MEDELEG_W;
	h->c.menvcfg = envcfg(0, h->c.menvcfg, MENVCFG_W);
	h->c.senvcfg = envcfg(0, h->c.senvcfg, SENVCFG_W);
	h->c.mtvec = tvec(0, h->c.mtvec);
	h->c.stvec = tvec(0, h->c.stvec);
	h->c.mcounteren &= 7;
	h->c.scounteren &= 7;
	h->c.mcountinhibit &= INHIBIT_CY | INHIBIT_IR;
	h->c.miselect &= 0xfff;
	h->c.siselect &= 0xfff;
	for (unsigned i = 0; i < PMP_ENTRIES; i++) {
		h->c.pmpaddr[i] &= (1ull << 54) - 1;
		h->c.pmpcfg[i] &= (h->c.pmpcfg[i] & 3) == 2 ? 0x9d : 0x9f;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(h->imsic); i++) {
		h->imsic[i].eip[0] &= ~1ull;
		h->imsic[i].eie[0] &= ~1ull;
		h->imsic[i].delivery &= 1;
		h->imsic[i].threshold &= IMSIC_IDS;
	}
}
