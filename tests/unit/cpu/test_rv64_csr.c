/*
 * Control and status registers, delegation, interrupts and the interrupt files (privileged specification; "Sstc"; Advanced
 * Interrupt Architecture, chapters 2, 3 and 5).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/util.h"
#include "bare.h"

#define WFI 0x10500073u
#define NOP 0x00000013u

struct mask_case {
	unsigned csr;
	uint64_t ones, zeros; /* what it reads after a write of all ones, and of zero */
};

/* clang-format off */
static const struct mask_case masks[] = {
	{0x301, 0x800000000014112d, 0x800000000014112d}, /* misa: read-only here, IMAFDC, S, U */
	{0x302, 0xb3ff, 0}, /* medeleg: not ecall from M, not the reserved ones */
	{0x303, 0x222, 0}, {0x304, 0xaaa, 0},
	{0x305, ~3ull, 0}, /* mtvec: mode 3 is reserved and keeps the old one */
	 {0x306, 7, 0}, {0x106, 7, 0},
	{0x308, 0, 0}, {0x30a, 0xe0000000000000f1, 0}, {0x10a, 0xf1, 0},
	{0x320, 5, 0}, {0x323, 0, 0}, {0x33f, 0, 0}, {0xb03, 0, 0},
	{0x340, ~0ull, 0}, {0x341, ~1ull, 0}, {0x141, ~1ull, 0}, {0x143, ~0ull, 0}, {0x343, ~0ull, 0},
	{0x350, 0xfff, 0}, {0x150, 0xfff, 0}, {0x14d, ~0ull, 0},
	{0x100, 0x80000002000c6122, 0x200000000}, /* sstatus: SD, UXL, MXR, SUM, FS, SPP, SPIE, SIE */
	{0x300, 0x8000000a007e79aa, 0xa00000000},
};
/* clang-format on */

static void write_masks(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(masks); i++) {
		struct bare *b = bare_new(1, false);
		uint64_t got[2];

		/* Nothing is pending, so MIE may be set. Afterwards mtvec and MIE are put back, for the stop. */
		bare_put(b, CODE, enc_csr(RV_csrrw, 0, masks[i].csr, 6));
		bare_put(b, CODE + 4, enc_csr(RV_csrrs, 5, masks[i].csr, 0));
		bare_put(b, CODE + 8, enc_csr(RV_csrrw, 0, 0x305, 7));
		bare_put(b, CODE + 12, enc_csr(RV_csrrci, 0, 0x300, 8));
		bare_put(b, CODE + 16, ECALL);
		b->h->x[7] = VECTOR;
		for (unsigned k = 0; k < 2; k++) {
			b->h->x[6] = k ? ~0ull : 0;
			b->h->pc = CODE;
			rv64_set_priv(b->h, PRIV_M);
			assert_int_equal(bare_trap(b), 11);
			got[k] = b->h->x[5];
		}
		if (got[0] != masks[i].zeros || got[1] != masks[i].ones)
			fail_msg("csr %#x: %#lx and %#lx, not %#lx and %#lx", masks[i].csr,
				(unsigned long)got[1], (unsigned long)got[0],
				(unsigned long)masks[i].ones, (unsigned long)masks[i].zeros);
		bare_free(b);
	}
}

static void open_pmp(struct bare *b)
{
	b->h->c.pmpaddr[0] = BIT(54) - 1;
	b->h->c.pmpcfg[0] = 0x1f;
	pmp_update(b->h);
}

static void illegal_and_reserved_values(void **state)
{
	struct bare *b = bare_new(1, false);

	open_pmp(b);
	b->h->mstatus = (uint64_t)PRIV_S << 11;
	b->h->x[6] = 2ull << 11;
	bare_put(b, CODE, enc_csr(RV_csrrw, 0, 0x300, 6));
	bare_put(b, CODE + 4, enc_csr(RV_csrrs, 5, 0x300, 0));
	bare_put(b, CODE + 8, ECALL);
	b->h->pc = CODE;
	bare_trap(b);
	assert_int_equal(b->h->x[5] >> 11 & 3, PRIV_S);
	/* satp: a mode that is not supported changes nothing at all */
	assert_int_equal(bare_csr_write(b, 0x180, 8ull << 60 | 0x1234ull << 44 | 5),
		8ull << 60 | 0x1234ull << 44 | 5);
	assert_int_equal(
		bare_csr_write(b, 0x180, 10ull << 60 | 7), 8ull << 60 | 0x1234ull << 44 | 5);
	assert_int_equal(bare_csr_write(b, 0x180, 9ull << 60 | 0xffffull << 44),
		9ull << 60 | 0xffffull << 44);
	assert_int_equal(bare_csr_write(b, 0x180, 0), 0);
	/* CBIE 2 is reserved */
	assert_int_equal(bare_csr_write(b, 0x30a, 1 << 4), 1 << 4);
	assert_int_equal(bare_csr_write(b, 0x30a, 2 << 4), 1 << 4);
	/* read-only registers: reading by csrrs x0 is fine, any write is not */
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 0xf14, 0)), -1);
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 0xf14, 6)), 2);
	assert_int_equal(b->h->c.mtval, enc_csr(RV_csrrs, 5, 0xf14, 6));
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrw, 0, 0xc00, 6)), 2);
	/* privilege, and numbers that are nothing */
	assert_int_equal(bare_one(b, PRIV_S, enc_csr(RV_csrrs, 5, 0x300, 0)), 2);
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 0x5a8, 0)), 2);
	assert_int_equal(bare_one(b, PRIV_U, enc_csr(RV_csrrs, 5, 0x100, 0)), 2);
	assert_int_equal(bare_one(b, PRIV_S, enc_csr(RV_csrrs, 5, 0x100, 0)), -1);
	bare_free(b);
}

static void gates(void **state)
{
	struct bare *b = bare_new(1, false);
	const uint32_t time = enc_csr(RV_csrrs, 5, 0xc01, 0), cmp = enc_csr(RV_csrrs, 5, 0x14d, 0);
	const uint32_t satp = enc_csr(RV_csrrs, 5, 0x180, 0);

	open_pmp(b);
	/* counters: S needs mcounteren, U both */
	assert_int_equal(bare_one(b, PRIV_S, time), 2);
	b->h->c.mcounteren = 2;
	assert_int_equal(bare_one(b, PRIV_S, time), -1);
	assert_int_equal(bare_one(b, PRIV_U, time), 2);
	b->h->c.scounteren = 2;
	assert_int_equal(bare_one(b, PRIV_U, time), -1);
	b->h->c.mcounteren = 0;
	assert_int_equal(bare_one(b, PRIV_U, time), 2);
	/* Sstc: STCE and mcounteren.TM */
	assert_int_equal(bare_one(b, PRIV_S, cmp), 2);
	b->h->c.mcounteren = 2;
	assert_int_equal(bare_one(b, PRIV_S, cmp), 2);
	b->h->c.menvcfg = MENVCFG_STCE;
	assert_int_equal(bare_one(b, PRIV_S, cmp), -1);
	b->h->c.mcounteren = 5;
	assert_int_equal(bare_one(b, PRIV_S, cmp), 2);
	assert_int_equal(bare_one(b, PRIV_M, cmp), -1);
	/* TVM, TW, TSR */
	assert_int_equal(bare_one(b, PRIV_S, satp), -1);
	b->h->mstatus |= MSTATUS_TVM;
	assert_int_equal(bare_one(b, PRIV_S, satp), 2);
	assert_int_equal(bare_one(b, PRIV_M, satp), -1);
	assert_int_equal(bare_one(b, PRIV_S, enc(RV_sfence_vma, 0, 0, 0)), 2);
	assert_int_equal(bare_one(b, PRIV_S, enc(RV_sinval_vma, 0, 0, 0)), 2);
	assert_int_equal(bare_one(b, PRIV_S, enc(RV_sfence_w_inval, 0, 0, 0)), -1);
	assert_int_equal(bare_one(b, PRIV_U, enc(RV_sfence_w_inval, 0, 0, 0)), 2);
	assert_int_equal(bare_one(b, PRIV_M, enc(RV_sfence_vma, 0, 0, 0)), -1);
	b->h->mstatus |= MSTATUS_TW;
	assert_int_equal(bare_one(b, PRIV_S, WFI), 2);
	assert_int_equal(b->h->c.mtval, WFI);
	b->h->mstatus |= MSTATUS_TSR;
	assert_int_equal(bare_one(b, PRIV_S, enc(RV_sret, 0, 0, 0)), 2);
	assert_int_equal(bare_one(b, PRIV_S, enc(RV_mret, 0, 0, 0)), 2);
	/* FP registers while FS is off */
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 3, 0)), 2);
	b->h->fs = 1;
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 3, 0)), -1);
	assert_int_equal(b->h->fs, 1);
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrw, 5, 3, 0)), -1);
	assert_int_equal(b->h->fs, 3);
	bare_free(b);
}

static void counters(void **state)
{
	struct bare *b = bare_new(1, false);

	/* csrw minstret, x6; nop; csrr x5 */
	b->h->x[6] = 1000;
	bare_put(b, CODE, enc_csr(RV_csrrw, 0, 0xb02, 6));
	bare_put(b, CODE + 4, NOP);
	bare_put(b, CODE + 8, enc_csr(RV_csrrs, 5, 0xb02, 0));
	bare_put(b, CODE + 12, enc_csr(RV_csrrwi, 0, 0x320, 4)); /* IR stands still */
	bare_put(b, CODE + 16, enc_csr(RV_csrrs, 7, 0xb02, 0));
	bare_put(b, CODE + 20, NOP);
	bare_put(b, CODE + 24, enc_csr(RV_csrrs, 28, 0xb02, 0));
	bare_put(b, CODE + 28, enc_csr(RV_csrrw, 0, 0xb02, 6));
	bare_put(b, CODE + 32, enc_csr(RV_csrrwi, 0, 0x320, 0));
	bare_put(b, CODE + 36, NOP);
	bare_put(b, CODE + 40, enc_csr(RV_csrrs, 29, 0xb02, 0));
	bare_put(b, CODE + 44, ECALL);
	b->h->pc = CODE;
	assert_int_equal(bare_trap(b), 11);
	assert_int_equal(b->h->x[5], 1001);
	assert_int_equal(b->h->x[7], b->h->x[28]);
	assert_in_range(b->h->x[7], 1002, 1003);
	assert_int_equal(b->h->x[29], 1001);
	bare_free(b);
}

static void views_of_mip(void **state)
{
	struct bare *b = bare_new(1, false);
	const uint64_t soft = BIT(IRQ_SSI) | BIT(IRQ_STI) | BIT(IRQ_SEI);

	assert_int_equal(bare_csr_write(b, 0x344, ~0ull), soft);
	assert_int_equal(bare_csr(b, 0x309), soft); /* mvip: aliases */
	assert_int_equal(bare_csr_write(b, 0x309, 0), 0);
	assert_int_equal(bare_csr(b, 0x344), 0);
	/* sip and sie show and take only what is delegated; of sip only SSIP can be written */
	assert_int_equal(bare_csr_write(b, 0x344, soft), soft);
	assert_int_equal(bare_csr(b, 0x144), 0);
	assert_int_equal(bare_csr_write(b, 0x104, ~0ull), 0);
	b->h->mideleg = BIT(IRQ_SSI) | BIT(IRQ_STI);
	assert_int_equal(bare_csr_write(b, 0x144, 0), BIT(IRQ_STI));
	assert_int_equal(bare_csr(b, 0x344), BIT(IRQ_STI) | BIT(IRQ_SEI));
	assert_int_equal(bare_csr_write(b, 0x104, ~0ull), BIT(IRQ_SSI) | BIT(IRQ_STI));
	assert_int_equal(bare_csr(b, 0x304), BIT(IRQ_SSI) | BIT(IRQ_STI));
	/* with STCE, STIP is the timer's alone */
	b->h->c.menvcfg = MENVCFG_STCE;
	bare_csr_write(b, 0x14d, ~0ull);
	assert_int_equal(bare_csr_write(b, 0x344, ~0ull) & BIT(IRQ_STI), 0);
	assert_int_equal(bare_csr(b, 0x309), BIT(IRQ_SSI) | BIT(IRQ_SEI));
	bare_csr_write(b, 0x14d, 0);
	assert_int_equal(bare_csr(b, 0x344) & BIT(IRQ_STI), BIT(IRQ_STI));
	/* SEIP: the wire shows in reads; setting another bit must not turn it into software's */
	bare_csr_write(b, 0x344, 0);
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 3);
	b->h->imsic[CPU_MSI_S].delivery = 1;
	b->h->imsic[CPU_MSI_S].eie[0] = 8;
	b->h->x[6] = BIT(IRQ_SSI);
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 0x344, 6)), -1);
	assert_int_equal(b->h->x[5] & BIT(IRQ_SEI), BIT(IRQ_SEI));
	b->h->imsic[CPU_MSI_S].eie[0] = 0;
	assert_int_equal(bare_csr(b, 0x344) & S_IRQS, BIT(IRQ_SSI) | BIT(IRQ_STI));
	bare_free(b);
}

/* ---- interrupts ---- */

static void all_pending(struct bare *b)
{
	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_M_EXT, true);
	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_M_SOFT, true);
	rv64_engine.vcpu_mtimecmp(b->v[0], 0);
	atomic_fetch_or(&b->h->mip, S_IRQS);
}

static void priority(void **state)
{
	static const uint8_t order[] = {IRQ_MEI, IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI};
	struct bare *b = bare_new(1, false);

	open_pmp(b);
	bare_put(b, CODE, NOP);
	all_pending(b);
	b->h->mie = S_IRQS | M_IRQS;
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		assert_int_equal(bare_csr(b, 0xfb0), (uint64_t)order[i] << 16 | 1);
		b->h->pc = CODE;
		b->h->mstatus = MSTATUS_MIE;
		rv64_set_priv(b->h, PRIV_M);
		assert_int_equal(bare_trap(b), CAUSE_IRQ | order[i]);
		assert_int_equal(b->h->c.mepc, CODE);
		assert_int_equal(b->h->c.mtval, 0);
		b->h->mie &= ~BIT(order[i]);
	}
	assert_int_equal(bare_csr(b, 0xfb0), 0);
	/* Delegated ones: S-mode's order, and only below M. */
	b->h->mie = b->h->mideleg = S_IRQS;
	for (unsigned i = 3; i < ARRAY_SIZE(order); i++) {
		assert_int_equal(bare_csr(b, 0xdb0), (uint64_t)order[i] << 16 | 1);
		b->h->c.scause = 0;
		b->h->mstatus = MSTATUS_MIE;
		assert_int_equal(bare_one(b, PRIV_M, NOP), -1);
		b->h->mstatus = 0; /* SIE off in S-mode: no */
		assert_int_equal(bare_one(b, PRIV_S, NOP), -1);
		assert_int_equal(b->h->c.scause, 0);
		b->h->mstatus = MSTATUS_SIE;
		b->h->pc = CODE;
		rv64_set_priv(b->h, PRIV_S);
		assert_int_equal(bare_trap(b), 9);
		assert_int_equal(b->h->c.mepc, SVECTOR);
		assert_int_equal(b->h->c.scause, CAUSE_IRQ | order[i]);
		assert_int_equal(b->h->c.sepc, CODE);
		b->h->mstatus = 0; /* in U-mode SIE does not matter */
		b->h->pc = CODE;
		rv64_set_priv(b->h, PRIV_U);
		assert_int_equal(bare_trap(b), 9);
		assert_int_equal(b->h->c.scause, CAUSE_IRQ | order[i]);
		b->h->mie &= ~BIT(order[i]);
	}
	/* M's interrupts come before S's whatever the order, and with MIE off below M. */
	b->h->mie = S_IRQS | BIT(IRQ_MTI);
	b->h->mstatus = MSTATUS_SIE;
	b->h->pc = CODE;
	rv64_set_priv(b->h, PRIV_S);
	assert_int_equal(bare_trap(b), CAUSE_IRQ | IRQ_MTI);
	bare_free(b);
}

static void delegation_and_vectors(void **state)
{
	struct bare *b = bare_new(1, false);

	open_pmp(b);
	b->h->medeleg = BIT(CAUSE_BREAK) | BIT(CAUSE_ECALL_U);
	/* to S: status stacks SPP, SPIE; tval of ebreak is its pc */
	b->h->mstatus = MSTATUS_SIE;
	bare_put(b, CODE, 0x00100073);
	b->h->pc = CODE;
	rv64_set_priv(b->h, PRIV_S);
	assert_int_equal(bare_trap(b), 9);
	assert_int_equal(b->h->c.scause, CAUSE_BREAK);
	assert_int_equal(b->h->c.stval, CODE);
	assert_int_equal(b->h->mstatus & (MSTATUS_SPP | MSTATUS_SPIE | MSTATUS_SIE),
		MSTATUS_SPP | MSTATUS_SPIE);
	assert_int_equal(
		bare_one(b, PRIV_M, 0x00100073), CAUSE_BREAK); /* M's own are never delegated */
	/* vectored: interrupts to base + 4 * cause, exceptions to the base */
	bare_put(b, SVECTOR + 4 * IRQ_SSI, ECALL);
	b->h->c.stvec = SVECTOR | 1;
	b->h->mie = b->h->mideleg = S_IRQS;
	atomic_store(&b->h->mip, BIT(IRQ_SSI));
	bare_put(b, CODE, NOP);
	b->h->pc = CODE;
	rv64_set_priv(b->h, PRIV_U);
	assert_int_equal(bare_trap(b), 9);
	assert_int_equal(b->h->c.mepc, SVECTOR + 4 * IRQ_SSI);
	atomic_store(&b->h->mip, 0);
	bare_put(b, CODE, ECALL);
	b->h->pc = CODE;
	rv64_set_priv(b->h, PRIV_U);
	assert_int_equal(bare_trap(b), 9);
	assert_int_equal(b->h->c.mepc, SVECTOR);
	assert_int_equal(b->h->c.scause, CAUSE_ECALL_U);
	/* sret and mret: to the saved mode, MPRV off below M */
	b->h->mstatus = MSTATUS_MPRV | MSTATUS_MPIE | (uint64_t)PRIV_U << 11;
	b->h->c.mepc = CODE;
	b->h->medeleg = 0;
	bare_put(b, CODE + 0x100, enc(RV_mret, 0, 0, 0));
	b->h->pc = CODE + 0x100;
	rv64_set_priv(b->h, PRIV_M);
	assert_int_equal(bare_trap(b), CAUSE_ECALL_U);
	assert_int_equal(b->h->mstatus & (MSTATUS_MPRV | MSTATUS_MPIE | MSTATUS_MIE), MSTATUS_MPIE);
	bare_free(b);
}

/* A guest whose vector traps again retires nothing; it must still leave in time, and see its timer. */
static void endless_traps(void **state)
{
	struct bare *b = bare_new(1, false);
	struct cpu_exit x;
	uint64_t t0 = clock_mono_ns();

	b->h->c.mtvec = 0x1000; /* no memory */
	b->h->pc = 0x2000;
	rv64_engine.vcpu_run(b->v[0], 2000000, &x);
	assert_int_equal(x.reason, CPU_EXIT_BUDGET);
	assert_true(clock_mono_ns() - t0 < 10000000000);
	/* S-mode in such a loop, and M-mode's timer for a watchdog */
	open_pmp(b);
	b->h->c.mtvec = VECTOR;
	b->h->c.stvec = 0x1000;
	b->h->medeleg = 0xb1ff;
	b->h->mie = BIT(IRQ_MTI);
	b->h->pc = 0x2000;
	rv64_set_priv(b->h, PRIV_S);
	rv64_engine.vcpu_mtimecmp(b->v[0], rv64_engine.time_get(b->vm) + 10000);
	assert_int_equal(bare_trap(b), CAUSE_IRQ | IRQ_MTI);
	bare_free(b);
}

static void waiting(void **state)
{
	struct bare *b = bare_new(1, false);
	struct cpu_exit x;
	uint64_t when;

	b->h->c.menvcfg = MENVCFG_STCE;
	b->h->mie = BIT(IRQ_STI);
	when = rv64_engine.time_get(b->vm) + 100000000; /* 10 s */
	b->h->c.stimecmp = when;
	bare_put(b, CODE, WFI);
	bare_put(b, CODE + 4, ECALL);
	b->h->pc = CODE;
	rv64_engine.vcpu_run(b->v[0], 1000000, &x);
	assert_int_equal(x.reason, CPU_EXIT_IDLE);
	assert_true(x.idle.deadline_ns > clock_mono_ns());
	assert_true(x.idle.deadline_ns < clock_mono_ns() + 10000000000);
	assert_int_equal(b->h->pc, CODE + 4);
	/* What is pending but cannot be taken ends the wait as well. */
	b->h->c.stimecmp = 0;
	assert_int_equal(bare_one(b, PRIV_M, WFI), -1);
	/* Messages from other threads wake. */
	b->h->mie = BIT(IRQ_SEI);
	b->h->imsic[CPU_MSI_S].delivery = 1;
	b->h->imsic[CPU_MSI_S].eie[1] = ~0ull;
	bare_put(b, CODE, WFI);
	b->h->pc = CODE;
	rv64_code_fence_i(b->h);
	rv64_engine.vcpu_run(b->v[0], 1000000, &x);
	assert_int_equal(x.reason, CPU_EXIT_IDLE);
	assert_int_equal(x.idle.deadline_ns, UINT64_MAX);
	b->woken = 0;
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 256); /* no such identity */
	assert_int_equal(b->woken, 0);
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 100);
	assert_int_equal(b->woken, 1);
	bare_free(b);
}

/* ---- interrupt files ---- */

static uint64_t ireg(struct bare *b, unsigned sel, uint64_t v)
{
	bare_csr_write(b, 0x150, sel);
	return bare_csr_write(b, 0x151, v);
}

static int64_t ireg_cause(struct bare *b, unsigned sel)
{
	bare_csr_write(b, 0x150, sel);
	return bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 0x151, 0));
}

static void interrupt_file(void **state)
{
	struct bare *b = bare_new(1, false);

	for (unsigned sel = 0; sel < 0x110; sel++) {
		bool iprio = sel >= 0x30 && sel <= 0x3f, file = sel >= 0x70 && sel <= 0xff;
		bool there = (iprio && !(sel & 1)) || (file && (sel < 0x80 || !(sel & 1)));
		int64_t got = ireg_cause(b, sel);

		if (got != (there ? -1 : 2))
			fail_msg("siselect %#x: cause %ld", sel, (long)got);
	}
	assert_int_equal(ireg(b, 0x30, ~0ull), 0);
	assert_int_equal(ireg(b, 0x71, ~0ull), 0);
	assert_int_equal(ireg(b, 0x70, 1), 1);
	assert_int_equal(ireg(b, 0x70, 2), 1); /* only 0 and 1 */
	assert_int_equal(ireg(b, 0x72, 255), 255);
	assert_int_equal(ireg(b, 0x72, 256), 255);
	assert_int_equal(ireg(b, 0x80, ~0ull), ~1ull); /* identity 0 is none */
	assert_int_equal(ireg(b, 0xc0, ~0ull), ~1ull);
	assert_int_equal(ireg(b, 0x86, ~0ull), ~0ull);
	assert_int_equal(ireg(b, 0x88, ~0ull), 0);
	assert_int_equal(ireg(b, 0xc8, ~0ull), 0);
	/* the lowest number first; the threshold hides numbers from it on, but not from eip */
	ireg(b, 0x72, 0);
	ireg(b, 0x80, 0);
	ireg(b, 0x86, 0);
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 40);
	rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, 9);
	assert_int_equal(bare_csr(b, 0x15c), 9 << 16 | 9);
	assert_int_equal(bare_csr(b, 0x344) & BIT(IRQ_SEI), BIT(IRQ_SEI));
	ireg(b, 0x72, 9);
	assert_int_equal(bare_csr(b, 0x15c), 0);
	assert_int_equal(bare_csr(b, 0x344) & BIT(IRQ_SEI), 0);
	ireg(b, 0x72, 10);
	/* a write claims what a read gives, whatever is written */
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrw, 5, 0x15c, 0)), -1);
	assert_int_equal(b->h->x[5], 9 << 16 | 9);
	ireg(b, 0x72, 0);
	assert_int_equal(bare_csr(b, 0x15c), 40 << 16 | 40);
	/* eidelivery gates the interrupt, not stopei */
	ireg(b, 0x70, 0);
	assert_int_equal(bare_csr(b, 0x344) & BIT(IRQ_SEI), 0);
	assert_int_equal(bare_csr(b, 0x15c), 40 << 16 | 40);
	bare_free(b);
}

static void *send_all(void *arg)
{
	struct bare *b = arg;

	for (unsigned id = 65; id < 128; id++)
		rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, id);
	return NULL;
}

/* csrs on eip of other identities, while messages arrive: none may be lost. */
static void messages_are_not_lost(void **state)
{
	struct bare *b = bare_new(1, false);

	bare_csr_write(b, 0x150, 0x82);
	bare_put(b, CODE, enc_csr(RV_csrrs, 5, 0x151, 6));
	bare_put(b, CODE + 4, enc_csr(RV_csrrc, 5, 0x151, 6));
	bare_put(b, CODE + 8, 0xff9ff06f); /* j -8 */
	b->h->x[6] = 1; /* identity 64 */
	for (unsigned round = 0; round < 300; round++) {
		pthread_t t;
		struct cpu_exit x;

		b->h->imsic[CPU_MSI_S].eip[1] = 0;
		b->h->pc = CODE;
		rv64_code_fence_i(b->h);
		assert_int_equal(pthread_create(&t, NULL, send_all, b), 0);
		rv64_engine.vcpu_run(b->v[0], 300000, &x);
		pthread_join(t, NULL);
		assert_int_equal(b->h->imsic[CPU_MSI_S].eip[1] | 1, ~0ull);
	}
	bare_free(b);
}

static void *send_down(void *arg)
{
	struct bare *b = arg;

	for (unsigned id = IMSIC_IDS; id; id--)
		rv64_engine.vcpu_msi(b->v[0], CPU_MSI_S, id);
	return NULL;
}

/* A claim takes the identity that the same instruction reads, though a lower one arrives in between. */
static bool unclaimed(const struct bare *b)
{
	uint64_t any = 0;

	for (unsigned k = 0; k < 4; k++)
		any |= b->h->imsic[CPU_MSI_S].eip[k];
	return any;
}

static void claims_are_what_was_read(void **state)
{
	static const uint32_t code[] = {
		0x15c012f3, /* csrrw x5, stopei, x0 */
		0x0102d293, /* srli x5, x5, 16 */
		0x007282b3, /* add x5, x5, x7 */
		0x0002c303, /* lbu x6, 0(x5) */
		0x00130313, /* addi x6, x6, 1 */
		0x00628023, /* sb x6, 0(x5) */
		0xfe9ff06f, /* j -24 */
	};
	struct bare *b = bare_new(1, false);
	uint8_t marks[256];
	struct cpu_exit x;

	for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
		bare_put(b, CODE + 4 * i, code[i]);
	for (unsigned k = 0; k < 4; k++)
		b->h->imsic[CPU_MSI_S].eie[k] = ~0ull;
	b->h->imsic[CPU_MSI_S].eie[0] = ~1ull;
	for (unsigned round = 0; round < 300; round++) {
		pthread_t t;

		memset(marks, 0, sizeof(marks));
		assert_int_equal(space_write(b->space, gpa(RAM + 0x8000), marks, 256), 0);
		b->h->pc = CODE;
		b->h->x[7] = RAM + 0x8000;
		rv64_code_fence_i(b->h);
		assert_int_equal(pthread_create(&t, NULL, send_down, b), 0);
		rv64_engine.vcpu_run(b->v[0], 300000, &x);
		pthread_join(t, NULL);
		/* Who was poked takes short slices: until all are claimed, and the last of them is marked. */
		for (unsigned n = 0, after = 0; n < 10000 && after < 2; n++, after += !unclaimed(b))
			rv64_engine.vcpu_run(b->v[0], 2000, &x);
		assert_int_equal(space_read(b->space, gpa(RAM + 0x8000), marks, 256), 0);
		for (unsigned id = 1; id < 256; id++)
			if (marks[id] != 1)
				fail_msg("round %u: identity %u came %u times", round, id,
					marks[id]);
	}
	bare_free(b);
}

/* mip.SEIP reads as the OR of the wire and of software's bit, and a write changes only the latter. */
static void wire_and_software(void **state)
{
	struct bare *b = bare_new(1, false);

	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_S_EXT, true);
	assert_int_equal(bare_csr(b, 0x344), BIT(IRQ_SEI));
	assert_int_equal(bare_csr_write(b, 0x344, 0), BIT(IRQ_SEI));
	b->h->x[6] = BIT(IRQ_SSI);
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 0x344, 6)), -1);
	assert_int_equal(b->h->x[5], BIT(IRQ_SEI));
	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_S_EXT, false);
	assert_int_equal(
		bare_csr(b, 0x344), BIT(IRQ_SSI)); /* the set of SSIP did not latch the wire */
	assert_int_equal(bare_csr_write(b, 0x344, BIT(IRQ_SEI)), BIT(IRQ_SEI));
	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_S_EXT, true);
	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_S_EXT, false);
	assert_int_equal(bare_csr(b, 0x344), BIT(IRQ_SEI)); /* the wire did not take software's */
	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_M_SOFT, true);
	rv64_engine.vcpu_irq(b->v[0], CPU_IRQ_M_EXT, true);
	assert_int_equal(bare_csr_write(b, 0x344, 0), BIT(IRQ_MSI) | BIT(IRQ_MEI));
	bare_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(write_masks),
		cmocka_unit_test(illegal_and_reserved_values),
		cmocka_unit_test(gates),
		cmocka_unit_test(counters),
		cmocka_unit_test(views_of_mip),
		cmocka_unit_test(priority),
		cmocka_unit_test(delegation_and_vectors),
		cmocka_unit_test(endless_traps),
		cmocka_unit_test(waiting),
		cmocka_unit_test(interrupt_file),
		cmocka_unit_test(messages_are_not_lost),
		cmocka_unit_test(claims_are_what_was_read),
		cmocka_unit_test(wire_and_software),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
