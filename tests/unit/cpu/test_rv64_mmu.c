/*
 * Translation and protection: page-table corner cases (privileged specification, "Virtual Address Translation Process", "Svnapot",
 * "Svpbmt", "Svadu") and PMP ("Physical Memory Protection").
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/util.h"
#include "bare.h"

#define V BIT(0)
#define R BIT(1)
#define W BIT(2)
#define X BIT(3)
#define U BIT(4)
#define G BIT(5)
#define A BIT(6)
#define D BIT(7)
#define N BIT(63)
#define PBMT(n) ((uint64_t)(n) << 61)
#define PTE(pa, bits) ((uint64_t)(pa) >> 12 << 10 | (bits))
#define RWX (V | R | W | X | A | D)

#define ROOT (RAM + 0x10000)
#define MID (RAM + 0x11000)
#define LOW (RAM + 0x12000)
#define DATA (RAM + 0x400000) /* 2 MiB aligned */
#define VA 0x40008000ull /* root slot 1, mid slot 0, low slot 8 */
#define SV39(root) (8ull << 60 | (root) >> 12)
#define SV48(root) (9ull << 60 | (root) >> 12)
#define MAGIC 0x1122334455667788ull

static void map(struct bare *b, unsigned code_bits)
{
	bare_put64(b, ROOT + 8, PTE(MID, V));
	bare_put64(b, ROOT + 2 * 8, PTE(RAM, RWX | code_bits)); /* code, as it is */
	bare_put64(b, MID, PTE(LOW, V));
	bare_put64(b, LOW + 8 * 8, PTE(DATA, RWX));
	bare_put64(b, DATA, MAGIC);
	bare_satp(b, SV39(ROOT));
}

static struct bare *paged(void)
{
	struct bare *b = bare_new(1, false);

	b->h->c.pmpaddr[0] = BIT(54) - 1;
	b->h->c.pmpcfg[0] = 0x1f;
	pmp_update(b->h);
	b->h->c.menvcfg = MENVCFG_ADUE | MENVCFG_PBMTE;
	map(b, 0);
	return b;
}

/* -1, or the cause. tval must be va. */
static int64_t touch(struct bare *b, unsigned priv, unsigned acc, uint64_t va)
{
	static const uint32_t ld = 3 << 12 | 3 | 5 << 7 | 6 << 15,
			      sd = 3 << 12 | 0x23 | 6 << 15 | 7 << 20;
	int64_t cause;

	b->h->x[6] = va;
	b->h->c.mtval = 1;
	bare_put64(b, ROOT + 2 * 8, PTE(RAM, RWX | (priv == PRIV_U ? U : 0)));
	mmu_flush(b->h);
	if (acc == MEM_EXEC) {
		cause = bare_one(b, priv, 0x00030067); /* jr x6 */
		assert_int_equal(b->h->c.mepc, va);
		if (cause == 8 + (int64_t)priv)
			return -1;
	} else {
		cause = bare_one(b, priv, acc == MEM_READ ? ld : sd);
		if (cause >= 0)
			assert_int_equal(b->h->c.mepc, CODE);
	}
	if (cause >= 0)
		assert_int_equal(b->h->c.mtval, va);
	return cause;
}

struct pte_case {
	const char *what;
	unsigned level;
	uint64_t pte;
	unsigned priv, acc;
	uint64_t status, env;
	int64_t want;
};

#define BOTH (MENVCFG_ADUE | MENVCFG_PBMTE)
static const struct pte_case pte_cases[] = {
	{"plain", 0, PTE(DATA, RWX), PRIV_S, MEM_READ, 0, BOTH, -1},
	{"not valid", 0, PTE(DATA, RWX & ~V), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"W without R", 0, PTE(DATA, V | W | A | D), PRIV_S, MEM_WRITE, 0, BOTH, 15},
	{"W and X without R", 0, PTE(DATA, V | W | X | A | D), PRIV_S, MEM_EXEC, 0, BOTH, 12},
	{"no read", 0, PTE(DATA, V | X | A | D), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"X read with MXR", 0, PTE(DATA, V | X | A | D), PRIV_S, MEM_READ, MSTATUS_MXR, BOTH, -1},
	{"X write with MXR", 0, PTE(DATA, V | X | A | D), PRIV_S, MEM_WRITE, MSTATUS_MXR, BOTH, 15},
	{"no write", 0, PTE(DATA, V | R | A | D), PRIV_S, MEM_WRITE, 0, BOTH, 15},
	{"no execute", 0, PTE(DATA, V | R | W | A | D), PRIV_S, MEM_EXEC, 0, BOTH, 12},
	{"U page from S", 0, PTE(DATA, RWX | U), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"U page from S, SUM", 0, PTE(DATA, RWX | U), PRIV_S, MEM_READ, MSTATUS_SUM, BOTH, -1},
	{"U page from S, SUM, write", 0, PTE(DATA, RWX | U), PRIV_S, MEM_WRITE, MSTATUS_SUM, BOTH,
		-1},
	{"U page from S, SUM, fetch", 0, PTE(DATA, RWX | U), PRIV_S, MEM_EXEC, MSTATUS_SUM, BOTH,
		12},
	{"S page from U", 0, PTE(DATA, RWX), PRIV_U, MEM_READ, 0, BOTH, 13},
	{"U page from U", 0, PTE(DATA, RWX | U), PRIV_U, MEM_WRITE, 0, BOTH, -1},
	{"A clear, hardware", 0, PTE(DATA, RWX & ~A), PRIV_S, MEM_READ, 0, BOTH, -1},
	{"A clear, software", 0, PTE(DATA, RWX & ~A), PRIV_S, MEM_READ, 0, MENVCFG_PBMTE, 13},
	{"A clear, software, fetch", 0, PTE(DATA, RWX & ~A), PRIV_S, MEM_EXEC, 0, 0, 12},
	{"D clear, software, read", 0, PTE(DATA, RWX & ~D), PRIV_S, MEM_READ, 0, 0, -1},
	{"D clear, software, write", 0, PTE(DATA, RWX & ~D), PRIV_S, MEM_WRITE, 0, 0, 15},
	{"reserved bit 54", 0, PTE(DATA, RWX) | BIT(54), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"reserved bit 60", 0, PTE(DATA, RWX) | BIT(60), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"PBMT 1", 0, PTE(DATA, RWX) | PBMT(1), PRIV_S, MEM_READ, 0, BOTH, -1},
	{"PBMT 2", 0, PTE(DATA, RWX) | PBMT(2), PRIV_S, MEM_READ, 0, BOTH, -1},
	{"PBMT 3", 0, PTE(DATA, RWX) | PBMT(3), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"PBMT 1 without PBMTE", 0, PTE(DATA, RWX) | PBMT(1), PRIV_S, MEM_READ, 0, MENVCFG_ADUE,
		13},
	{"NAPOT 64 KiB", 0, PTE(DATA | 0x8000, RWX) | N, PRIV_S, MEM_READ, 0, BOTH, -1},
	{"NAPOT of another size", 0, PTE(DATA | 0x4000, RWX) | N, PRIV_S, MEM_READ, 0, BOTH, 13},
	{"NAPOT zero", 0, PTE(DATA, RWX) | N, PRIV_S, MEM_READ, 0, BOTH, 13},
	{"pointer at the last level", 0, PTE(LOW, V), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"2 MiB", 1, PTE(DATA, RWX), PRIV_S, MEM_READ, 0, BOTH, -1},
	{"2 MiB misaligned", 1, PTE(DATA + 0x1000, RWX), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"2 MiB NAPOT", 1, PTE(DATA, RWX) | N, PRIV_S, MEM_READ, 0, BOTH, 13},
	{"1 GiB", 2, PTE(RAM, RWX), PRIV_S, MEM_READ, 0, BOTH, -1},
	{"1 GiB misaligned", 2, PTE(RAM + 0x200000, RWX), PRIV_S, MEM_WRITE, 0, BOTH, 15},
	{"pointer with A", 1, PTE(LOW, V | A), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"pointer with D", 1, PTE(LOW, V | D), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"pointer with U", 1, PTE(LOW, V | U), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"pointer with N", 1, PTE(LOW, V) | N, PRIV_S, MEM_READ, 0, BOTH, 13},
	{"pointer with PBMT", 1, PTE(LOW, V) | PBMT(1), PRIV_S, MEM_READ, 0, BOTH, 13},
	{"pointer with G", 1, PTE(LOW, V | G), PRIV_S, MEM_READ, 0, BOTH, -1},
	{"table in no memory", 1, PTE(0x10000000, V), PRIV_S, MEM_READ, 0, BOTH, 5},
	{"table in no memory, write", 1, PTE(0x10000000, V), PRIV_S, MEM_WRITE, 0, BOTH, 7},
	{"table in no memory, fetch", 1, PTE(0x10000000, V), PRIV_S, MEM_EXEC, 0, BOTH, 1},
	{"code in no memory", 0, PTE(0x10000000, RWX), PRIV_S, MEM_EXEC, 0, BOTH, 1},
};

static void page_table_entries(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(pte_cases); i++) {
		const struct pte_case *c = &pte_cases[i];
		static const uint64_t slot[] = {LOW + 8 * 8, MID, ROOT + 8};
		struct bare *b = paged();
		int64_t got;

		bare_put(b, DATA, ECALL);
		bare_put(b, DATA + 0x8000, ECALL);
		bare_put64(b, slot[c->level], c->pte);
		b->h->mstatus = c->status;
		b->h->c.menvcfg = c->env;
		got = touch(b, c->priv, c->acc, VA);
		if (got != c->want)
			fail_msg("%s: cause %ld, not %ld", c->what, (long)got, (long)c->want);
		bare_free(b);
	}
}

static void accessed_and_dirty(void **state)
{
	struct bare *b = paged();
	uint64_t at = LOW + 8 * 8, fresh = PTE(DATA, RWX & ~(A | D));

	bare_put64(b, at, fresh);
	assert_int_equal(touch(b, PRIV_S, MEM_READ, VA), -1);
	assert_int_equal(bare_get64(b, at), fresh | A);
	assert_int_equal(touch(b, PRIV_S, MEM_WRITE, VA), -1);
	assert_int_equal(bare_get64(b, at), fresh | A | D);
	/* A read fills the TLB; a write after it must still reach the walk. */
	bare_put64(b, at, fresh);
	mmu_flush(b->h);
	bare_put(b, CODE, 3 << 12 | 3 | 5 << 7 | 6 << 15);
	bare_put(b, CODE + 4, 3 << 12 | 0x23 | 6 << 15 | 7 << 20);
	bare_put(b, CODE + 8, ECALL);
	b->h->pc = CODE;
	rv64_set_priv(b->h, PRIV_S);
	bare_put64(b, ROOT + 2 * 8, PTE(RAM, RWX));
	assert_int_equal(bare_trap(b), 9);
	assert_int_equal(b->h->c.mepc, CODE + 8);
	assert_int_equal(bare_get64(b, at), fresh | A | D);
	/* Nothing is set where the access fails. */
	bare_put64(b, at, fresh & ~W);
	assert_int_equal(touch(b, PRIV_S, MEM_WRITE, VA), 15);
	assert_int_equal(bare_get64(b, at), fresh & ~W);
	/* Without the hardware's help: faults, and the entry stays. */
	b->h->c.menvcfg = 0;
	bare_put64(b, at, fresh);
	assert_int_equal(touch(b, PRIV_S, MEM_READ, VA), 13);
	assert_int_equal(bare_get64(b, at), fresh);
	/* A table in read-only memory cannot take the bits: an access fault of the access. */
	b->h->c.menvcfg = MENVCFG_ADUE;
	b->h->c.pmpaddr[0] = (LOW >> 2) | 0x1ff;
	b->h->c.pmpcfg[0] = 0x18 | 1;
	b->h->c.pmpaddr[1] = BIT(54) - 1;
	b->h->c.pmpcfg[1] = 0x1f;
	pmp_update(b->h);
	assert_int_equal(touch(b, PRIV_S, MEM_WRITE, VA), 7);
	assert_int_equal(bare_get64(b, at), fresh);
	/* And one that cannot be read at all: the same for a load. */
	b->h->c.pmpcfg[0] = 0x18;
	pmp_update(b->h);
	assert_int_equal(touch(b, PRIV_S, MEM_READ, VA), 5);
	assert_int_equal(touch(b, PRIV_S, MEM_EXEC, VA), 1);
	bare_free(b);
}

static void addresses(void **state)
{
	struct bare *b = paged();

	/* Not sign-extended from bit 38. */
	assert_int_equal(touch(b, PRIV_S, MEM_READ, BIT(39) | VA), 13);
	assert_int_equal(touch(b, PRIV_S, MEM_WRITE, BIT(63) | VA), 15);
	assert_int_equal(touch(b, PRIV_S, MEM_EXEC, BIT(38)), 12);
	/* 64 KiB pages keep all sixteen low bits of the address. */
	for (unsigned i = 0; i < 16; i++) {
		bare_put64(b, LOW + i * 8, PTE(DATA | 0x8000, RWX) | N);
		bare_put64(b, DATA + 0x1000 * i, i);
	}
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(touch(b, PRIV_S, MEM_READ, 0x40000000 + 0x1000 * i), -1);
		assert_int_equal(b->h->x[5], i);
	}
	/* Four levels: the 39-bit root becomes the second. */
	bare_put64(b, RAM + 0x14000, PTE(ROOT, V));
	bare_satp(b, SV48(RAM + 0x14000));
	assert_int_equal(touch(b, PRIV_S, MEM_READ, 0x40003000), -1);
	assert_int_equal(b->h->x[5], 3);
	assert_int_equal(touch(b, PRIV_S, MEM_READ, BIT(39) | VA), 13);
	assert_int_equal(touch(b, PRIV_S, MEM_READ, BIT(48) | VA), 13);
	bare_free(b);
}

static void across_pages(void **state)
{
	struct bare *b = paged();

	/* The next page is mapped to a frame that is not the next one. */
	bare_put64(b, LOW + 9 * 8, PTE(DATA + 0x5000, RWX));
	bare_put64(b, DATA + 0xff8, 0xaabbccdd00000000);
	bare_put64(b, DATA + 0x5000, 0x11223344);
	assert_int_equal(touch(b, PRIV_S, MEM_READ, VA + 0xffc), -1);
	assert_int_equal(b->h->x[5], 0x11223344aabbccdd);
	b->h->x[7] = MAGIC;
	assert_int_equal(touch(b, PRIV_S, MEM_WRITE, VA + 0xffd), -1);
	assert_int_equal(bare_get64(b, DATA + 0xff8) >> 40, MAGIC & 0xffffff);
	assert_int_equal(bare_get64(b, DATA + 0x5000) & 0xffffffffff, MAGIC >> 24);
	/* The second page is missing: its address is reported, and the first keeps what it had. */
	bare_put64(b, LOW + 9 * 8, 0);
	bare_put64(b, DATA + 0xff8, 1);
	b->h->x[6] = VA + 0xffc;
	mmu_flush(b->h);
	assert_int_equal(bare_one(b, PRIV_S, 3 << 12 | 0x23 | 6 << 15 | 7 << 20), 15);
	assert_int_equal(b->h->c.mtval, VA + 0x1000);
	assert_int_equal(b->h->c.mepc, CODE);
	assert_int_equal(bare_get64(b, DATA + 0xff8), 1);
	/* A 4-byte instruction over the edge faults with the second address too, at its own pc. */
	bare_put(b, DATA + 0xffc, 0x00730001); /* c.nop, then half of an ecall */
	b->h->x[6] = VA + 0xffe;
	assert_int_equal(bare_one(b, PRIV_S, 0x00030067), 12);
	assert_int_equal(b->h->c.mtval, VA + 0x1000);
	assert_int_equal(b->h->c.mepc, VA + 0xffe);
	bare_free(b);
}

static void fences_forget(void **state)
{
	struct bare *b = paged();
	const uint32_t ld = 3 << 12 | 3 | 5 << 7 | 6 << 15, ld2 = 3 << 12 | 3 | 28 << 7 | 6 << 15;
	/* ld x5; sd x7 -> PTE at x29; sfence.vma x9 or x0; ld x28; ecall */
	const uint32_t sd_pte = 3 << 12 | 0x23 | 29 << 15 | 7 << 20;
	static const uint64_t at[] = {
		VA, 0, 0x40080000}; /* same page; all; another address of a superpage */

	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		uint64_t pte = i == 2 ? MID : LOW + 8 * 8, to = i == 2 ? 0x200000 : 0x5000;

		bare_put64(b, MID, i == 2 ? PTE(DATA, RWX) : PTE(LOW, V));
		bare_put64(b, LOW + 8 * 8, PTE(DATA, RWX));
		bare_put64(b, DATA + (VA & (i == 2 ? 0x1fffff : 0xfff)), 1);
		bare_put64(b, DATA + to + (VA & (i == 2 ? 0x1fffff : 0xfff)), 2);
		b->h->x[6] = VA;
		b->h->x[7] = PTE(DATA + to, RWX);
		b->h->x[29] = pte;
		b->h->x[9] = at[i];
		bare_put(b, CODE, ld);
		bare_put(b, CODE + 4, sd_pte);
		bare_put(b, CODE + 8, enc(RV_sfence_vma, 0, at[i] ? 9 : 0, 0));
		bare_put(b, CODE + 12, ld2);
		bare_put(b, CODE + 16, ECALL);
		mmu_flush(b->h);
		b->h->pc = CODE;
		rv64_set_priv(b->h, PRIV_S);
		assert_int_equal(bare_trap(b), 9);
		assert_int_equal(b->h->x[5], 1);
		assert_int_equal(b->h->x[28], 2);
	}
	bare_free(b);
}

static void mprv(void **state)
{
	struct bare *b = paged();

	b->h->mstatus = MSTATUS_MPRV | (uint64_t)PRIV_S << MSTATUS_MPP_SHIFT;
	assert_int_equal(touch(b, PRIV_M, MEM_READ, VA), -1);
	assert_int_equal(b->h->x[5], MAGIC);
	/* Fetches are M-mode's own: the bare address has no memory. */
	b->h->mstatus = MSTATUS_MPRV | (uint64_t)PRIV_S << MSTATUS_MPP_SHIFT;
	assert_int_equal(touch(b, PRIV_M, MEM_EXEC, VA), 1);
	b->h->mstatus = MSTATUS_MPRV; /* MPP = U: a supervisor's page */
	assert_int_equal(touch(b, PRIV_M, MEM_READ, VA), 13);
	b->h->mstatus = MSTATUS_MPRV | MSTATUS_MPP; /* M: nothing changes */
	assert_int_equal(touch(b, PRIV_M, MEM_READ, DATA), -1);
	bare_free(b);
}

/* ---- PMP ---- */

#define TOR 0x08
#define NA4 0x10
#define NAPOT 0x18
#define LOCK 0x80

struct pmp_case {
	const char *what;
	uint64_t addr[3];
	uint8_t cfg[3];
	unsigned priv, acc;
	uint64_t at;
	int64_t want;
};

#define P(a) ((a) >> 2)
#define ALL (BIT(54) - 1)
static const struct pmp_case pmp_cases[] = {
	{"no entry, M", {0}, {0}, PRIV_M, MEM_READ, DATA, -1},
	{"no entry, S", {P(CODE) | 0x1ff}, {NAPOT | 7}, PRIV_S, MEM_READ, DATA, 5},
	{"no entry, U, write", {P(CODE) | 0x1ff}, {NAPOT | 7}, PRIV_U, MEM_WRITE, DATA, 7},
	{"the whole", {ALL}, {NAPOT | 7}, PRIV_S, MEM_READ, DATA, -1},
	{"the first decides: denied", {P(DATA) | 0x1ff, ALL}, {NAPOT, NAPOT | 7}, PRIV_S, MEM_READ,
		DATA, 5},
	{"the first decides: allowed", {P(DATA) | 0x1ff, P(DATA) | 0x3ff, ALL},
		{NAPOT | 1, NAPOT, NAPOT | 7}, PRIV_S, MEM_READ, DATA, -1},
	{"read only, write", {P(DATA) | 0x1ff, ALL}, {NAPOT | 1, NAPOT | 7}, PRIV_S, MEM_WRITE,
		DATA, 7},
	{"read only, fetch", {P(DATA) | 0x1ff, ALL}, {NAPOT | 1, NAPOT | 7}, PRIV_S, MEM_EXEC, DATA,
		1},
	{"not locked, M", {P(DATA) | 0x1ff, ALL}, {NAPOT, NAPOT | 7}, PRIV_M, MEM_WRITE, DATA, -1},
	{"locked, M", {P(DATA) | 0x1ff, ALL}, {LOCK | NAPOT | 1, NAPOT | 7}, PRIV_M, MEM_WRITE,
		DATA, 7},
	{"locked, M, read", {P(DATA) | 0x1ff, ALL}, {LOCK | NAPOT | 1, NAPOT | 7}, PRIV_M, MEM_READ,
		DATA, -1},
	/* eight bytes, four of them matched: fails for everybody, whatever the permissions (section "Priority and Matching Logic") */
	{"part of it", {P(DATA), ALL}, {NA4 | 7, NAPOT | 7}, PRIV_S, MEM_READ, DATA, 5},
	{"part of it, M", {P(DATA), ALL}, {NA4 | 7, NAPOT | 7}, PRIV_M, MEM_READ, DATA, 5},
	{"second half, M", {P(DATA) + 1, ALL}, {NA4 | 7, NAPOT | 7}, PRIV_M, MEM_WRITE, DATA, 7},
	{"beside it", {P(DATA), ALL}, {NA4, NAPOT | 7}, PRIV_S, MEM_READ, DATA + 8, -1},
	{"TOR", {P(DATA), P(DATA) + 4, ALL}, {0, TOR, NAPOT | 7}, PRIV_S, MEM_READ, DATA + 8, 5},
	{"below TOR", {P(DATA), P(DATA) + 4, ALL}, {0, TOR, NAPOT | 7}, PRIV_S, MEM_READ, DATA - 8,
		-1},
	{"at the top of TOR", {P(DATA), P(DATA) + 4, ALL}, {0, TOR, NAPOT | 7}, PRIV_S, MEM_READ,
		DATA + 16, -1},
	{"TOR upside down", {P(DATA) + 4, P(DATA), ALL}, {0, TOR, NAPOT | 7}, PRIV_S, MEM_READ,
		DATA, -1},
	{"TOR from zero", {P(DATA) + 4, ALL, 0}, {TOR | 7, NAPOT | 5, 0}, PRIV_S, MEM_WRITE,
		DATA + 16, 7},
};

static void pmp(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(pmp_cases); i++) {
		const struct pmp_case *c = &pmp_cases[i];
		struct bare *b = bare_new(1, false);
		int64_t got;

		bare_put(b, c->at, ECALL);
		/* Through the registers; locked entries are written last, as they must be. */
		for (unsigned k = 0; k < 3; k++)
			bare_csr_write(b, 0x3b0 + k, c->addr[k]);
		bare_csr_write(b, 0x3a0, c->cfg[0] | c->cfg[1] << 8 | c->cfg[2] << 16);
		/* The stop must stay reachable, and ROOT is put in touch(). */
		got = touch(b, c->priv, c->acc, c->at);
		if (got != c->want)
			fail_msg("%s: cause %ld, not %ld", c->what, (long)got, (long)c->want);
		/* Once more, now that a TLB entry may have been made by a neighbour. */
		if (c->acc != MEM_EXEC) {
			touch(b, c->priv, c->acc, c->at ^ 0x800);
			assert_int_equal(touch(b, c->priv, c->acc, c->at), c->want);
		}
		bare_free(b);
	}
}

static void pmp_registers(void **state)
{
	struct bare *b = bare_new(1, false);

	assert_int_equal(bare_csr_write(b, 0x3b0, ~0ull), BIT(54) - 1);
	assert_int_equal(bare_csr_write(b, 0x3a0, ~0ull & ~0x8080808080808080), 0x1f1f1f1f1f1f1f1f);
	assert_int_equal(bare_csr_write(b, 0x3a0, 2), 0); /* W without R is reserved */
	assert_int_equal(bare_csr_write(b, 0x3a4, ~0ull), 0); /* entries from 16 on are not there */
	assert_int_equal(bare_csr_write(b, 0x3c0, ~0ull), 0);
	assert_int_equal(bare_one(b, PRIV_M, enc_csr(RV_csrrs, 5, 0x3a1, 0)), 2); /* odd: RV32's */
	/* A locked entry, and the base of a locked range, stay. */
	bare_csr_write(b, 0x3b1, P(RAM + RAM_SIZE));
	bare_csr_write(b, 0x3b0, P(0x1000));
	assert_int_equal(bare_csr_write(b, 0x3a0, (LOCK | TOR | 7) << 8), (LOCK | TOR | 7) << 8);
	assert_int_equal(bare_csr_write(b, 0x3b1, 0), P(RAM + RAM_SIZE));
	assert_int_equal(bare_csr_write(b, 0x3b0, 0), P(0x1000));
	assert_int_equal(bare_csr_write(b, 0x3a0, 0x1f), (LOCK | TOR | 7) << 8 | 0x1f);
	bare_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(page_table_entries),
		cmocka_unit_test(accessed_and_dirty),
		cmocka_unit_test(addresses),
		cmocka_unit_test(across_pages),
		cmocka_unit_test(fences_forget),
		cmocka_unit_test(mprv),
		cmocka_unit_test(pmp),
		cmocka_unit_test(pmp_registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
