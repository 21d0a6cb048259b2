/*
 * hot.c: the monitor under a random program of tests/lockstep/gen.c. Starts it in M-, S- or U-mode, and takes its traps.
 *
 * A fault goes on behind its instruction; a fetch that failed where it was made possible again or at its caller; a timer interrupt sets
 * the next one. An ecall does something to the machine that translated code has to follow: code is patched, a window is mapped to
 * other code, pages lose or gain permissions, the rounding mode, mstatus.FS or the address space changes.
 */
#include "hot.h"
#include "rt.h"

#define HEAD ((struct hot_head *)HOT_HEAD)
#define V 1ul
#define R 2ul
#define W 4ul
#define X 8ul
#define U 16ul
#define G 32ul
#define A 64ul
#define D 128ul

static uint64_t rng;
static uint64_t user; /* U, or 0 */
static uint64_t counts[64], ticks, window;
static uint64_t *const root[2] = {(uint64_t *)HOT_TABLES, (uint64_t *)(HOT_TABLES + 0x1000)};
static uint64_t *const level1 = (uint64_t *)(HOT_TABLES + 0x2000);
static uint64_t *const level0 = (uint64_t *)(HOT_TABLES +
					     0x3000); /* 5 pages: 10 MiB from 0x80000000 */

static uint64_t next(void)
{
	uint64_t z = rng += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	return z ^ (z >> 31);
}

static uint64_t *pte(uint64_t va)
{
	return &level0[(va - 0x80000000) >> 12];
}

static void map(uint64_t va, uint64_t pa, unsigned pages, uint64_t flags)
{
	for (unsigned i = 0; i < pages; i++)
		*pte(va + 4096ul * i) = (pa + 4096ul * i) >> 12 << 10 | flags;
}

static void fence_va(uint64_t va)
{
	__asm__ volatile("sfence.vma %0, zero" ::"r"(va) : "memory");
}

static void fence_all(void)
{
	__asm__ volatile("sfence.vma" ::: "memory");
}

static uint64_t data_flags(void)
{
	uint64_t r = next();

	/* A fault costs a hundred instructions of this file: most pages are good. */
	if (r % 24 == 0)
		return (r >> 8 & (R | W | A | D | U | G)) | (r >> 20 & 1 ? V : 0);
	return V | R | W | user | (r >> 40 & 7 ? A | D : r >> 9 & (A | D));
}

static void set_window(void)
{
	window ^= 1;
	map(HOT_WINDOW, HOT_SETS + window * HOT_SET_PAGES * 4096, HOT_SET_PAGES,
		V | R | X | A | D | user);
}

static void make_tables(void)
{
	root[0][2] = root[1][2] = (uint64_t)level1 >> 12 << 10 | V;
	for (unsigned i = 0; i < 5; i++)
		level1[i] = ((uint64_t)level0 + 4096ul * i) >> 12 << 10 | V;
	map(HOT_CODE, HOT_CODE, HOT_CODE_PAGES, V | R | W | X | A | D | user);
	map(HOT_ALIAS, HOT_CODE, HOT_CODE_PAGES, V | R | W | X | A | D | user);
	map(HOT_STACK, HOT_STACK, HOT_STACK_PAGES, V | R | W | A | D | user);
	for (unsigned i = 0; i < HOT_DATA_PAGES; i++)
		map(HOT_DATA + 4096 * i, HOT_DATA + 4096 * i, 1, data_flags());
	set_window();
}

/* ---- what an ecall does ---- */

static void patch(void)
{
	uint64_t r = next(), n;
	uint32_t w;

	if (!HEAD->patches)
		return;
	n = r % HEAD->patches;
	w = HEAD->patch[n].words[(r >> 32) % HOT_WORDS];
	((volatile uint16_t *)HEAD->patch[n].at)[0] = (uint16_t)w;
	((volatile uint16_t *)HEAD->patch[n].at)[1] = (uint16_t)(w >> 16);
	__asm__ volatile("fence.i" ::: "memory");
}

static void data_page(void)
{
	uint64_t va = HOT_DATA + (next() % HOT_DATA_PAGES) * 4096;

	/* Sometimes another page's memory. */
	map(va, next() % 4 ? va : HOT_DATA + (next() % HOT_DATA_PAGES) * 4096, 1, data_flags());
	if (next() & 1)
		fence_va(va);
	else
		fence_all();
}

static void code_page(void)
{
	uint64_t va = (next() & 1 ? HOT_CODE : HOT_ALIAS) + (next() % HOT_CODE_PAGES) * 4096;

	*pte(va) &= ~(next() & 1 ? X : V);
	fence_va(va);
}

static void address_space(void)
{
	uint64_t r = next();

	csr_write(satp, 8ul << 60 | (r % 3) << 44 | (uint64_t)root[r >> 8 & 1] >> 12);
	if (r >> 9 & 1)
		fence_all();
}

static void fp_on(void)
{
	if (!(csr_read(mstatus) & 0x6000))
		csr_set(mstatus, 0x2000);
}

static void act(void)
{
	switch (next() % 12) {
	case 0:
		patch();
		break;
	case 1:
		set_window();
		fence_all();
		break;
	case 2:
	case 3:
		data_page();
		break;
	case 4:
		code_page();
		break;
	case 5:
		address_space();
		break;
	case 6:
		fp_on();
		csr_write(fcsr, next() % 5 << 5 | (next() & 31));
		break;
	case 7:
		csr_clear(mstatus, 0x6000);
		csr_set(mstatus, (next() & 3) << 13);
		break;
	case 8:
		csr_clear(mstatus, 0xc0000);
		csr_set(mstatus, next() & 0xc0000); /* SUM, MXR */
		break;
	case 9:
		csr_write(0x14d, csr_read(time) + next() % 16); /* stimecmp */
		break;
	case 10:
		fp_on();
		csr_write(frm, next() % 32 ? next() % 5
					   : 5); /* 5 is reserved: FP with the dynamic mode traps */
		break;
	case 11:
		csr_write(0x10a, next() & 1 ? 0xf1 : next() & 0xf1); /* senvcfg: cache blocks */
		break;
	default:
		break;
	}
}

static unsigned length_at(uint64_t va)
{
	uint64_t h, old;

	/* As the interrupted mode would, but execute-only pages can be read, too. */
	__asm__ volatile("csrrs %1, mstatus, %2\n\tlhu %0, 0(%3)\n\tcsrw mstatus, %1"
			 : "=&r"(h), "=&r"(old)
			 : "r"((HEAD->mode == HOT_M ? 0 : 0x20000ul) | 0xc0000), "r"(va)
			 : "memory");
	return (h & 3) == 3 ? 4 : 2;
}

/* The page of a fetch is made good; false: it is none of the code's. */
static int repair(uint64_t va)
{
	uint64_t in;

	if (HEAD->mode == HOT_M)
		return 0;
	in = va & ~4095ul;
	if ((in >= HOT_CODE && in < HOT_CODE + HOT_CODE_PAGES * 4096) ||
		(in >= HOT_ALIAS && in < HOT_ALIAS + HOT_CODE_PAGES * 4096)) {
		*pte(in) |= V | X;
		fence_va(in);
		return 1;
	}
	return 0;
}

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	counts[cause & 63]++;
	if (HEAD->mode != HOT_M && (csr_read(mstatus) & 0x1800) == 0x1800)
		fail("a trap in the monitor", epc);
	if (cause >> 63) {
		ticks++;
		csr_write(0x14d, csr_read(time) + 1 + next() % 64);
		return epc;
	}
	switch (cause) {
	case 0:
	case 1:
	case 12:
		return repair(tval) ? epc : regs[1];
	case 2:
		if ((csr_read(mstatus) & 0x6000) == 0) {
			csr_set(mstatus, 0x2000); /* initial */
			return epc;
		}
		if (csr_read(frm) > 4)
			csr_write(frm, 0);
		break;
	case 8:
	case 9:
	case 11:
		act();
		return epc + 4;
	}
	return epc + length_at(epc);
}

int main(uint64_t hart)
{
	uint64_t mpp = HEAD->mode == HOT_M ? 3 : HEAD->mode == HOT_S ? 1 : 0;

	if (hart)
		for (;;)
			__asm__ volatile("wfi");
	rng = HEAD->seed;
	user = HEAD->mode == HOT_U ? U : 0;
	csr_write(pmpaddr0, ~0ul >> 10);
	csr_write(pmpcfg0, 0x1f);
	csr_write(0x306, 7); /* mcounteren */
	csr_write(0x106, 7); /* scounteren */
	csr_write(0x30a,
		0x80000000000000f1ul | (next() & 1) << 61); /* STCE, sometimes ADUE, cache blocks */
	csr_write(0x10a, 0xf1);
	make_tables();
	if (HEAD->mode != HOT_M)
		csr_write(satp, 8ul << 60 | (uint64_t)root[0] >> 12);
	csr_write(fcsr, HEAD->fcsr);
	csr_write(mideleg, 0);
	csr_write(medeleg, 0);
	csr_write(0x14d, 10);
	csr_write(mie, 0x20);
	csr_clear(mstatus, 0x1800 | 0x80);
	csr_set(mstatus, mpp << 11 | 0x80); /* MPIE */
	csr_write(mepc, HEAD->entry);
	__asm__ volatile("fence.i\n\tsfence.vma\n\tmv sp, %0\n\tmret" ::"r"(
		HOT_STACK + HOT_STACK_PAGES * 4096 - 2048));
	__builtin_unreachable();
}
