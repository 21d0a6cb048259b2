/*
 * traps.c: each exception with its cause and trap value, also those that the differential test leaves out because QEMU
 * has them wrong (tests/diff/KNOWN.md); page tables that point at devices and at nothing; nonsense in the PMP.
 * Source: privileged specification, "mcause", "Virtual-Memory", "Svpbmt", "Physical Memory Protection".
 */
#include "rt.h"

#define HOLE 0x90000000ul
#define V 1ul
#define R 2ul
#define W 4ul
#define X 8ul
#define A 64ul
#define D 128ul
#define LEAF (V | R | W | X | A | D)

static volatile uint64_t seen, got_cause, got_tval;
static uint64_t root[512] __attribute__((aligned(4096)));
static uint64_t low[512] __attribute__((aligned(4096)));
static uint64_t page[512] __attribute__((aligned(4096)));
static uint64_t checks;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	seen++;
	got_cause = cause;
	got_tval = tval;
	/* A failed fetch goes back to the caller; ra is x1. */
	if (cause == 1 || cause == 12)
		return regs[1];
	return epc + ((*(uint16_t *)epc & 3) == 3 ? 4 : 2);
}

static void check(const char *what, uint64_t cause, uint64_t tval)
{
	checks++;
	if (seen != 1)
		fail(what, 0x1000 + seen);
	if (got_cause != cause)
		fail(what, got_cause);
	if (got_tval != tval)
		fail(what, got_tval);
	seen = 0;
}

static uint64_t load(uint64_t at)
{
	uint64_t v = 0;

	__asm__ volatile(".option push\n.option norvc\n lw %0, 0(%1)\n.option pop"
			 : "+r"(v)
			 : "r"(at)
			 : "memory");
	return v;
}

static void store(uint64_t at)
{
	__asm__ volatile("sw zero, 0(%0)" ::"r"(at) : "memory");
}

static void jump(uint64_t at)
{
	__asm__ volatile("jalr ra, 0(%0)" ::"r"(at) : "ra", "memory");
}

/* The same as from S-mode, by MPRV. */
static void as_s(void (*what)(uint64_t), uint64_t at)
{
	csr_clear(mstatus, 0x1800);
	csr_set(mstatus, 0x800);
	csr_set(mstatus, 0x20000);
	what(at);
	csr_clear(mstatus, 0x20000);
}

static void load_v(uint64_t at)
{
	load(at);
}

static void plain(void)
{
	__asm__ volatile(".word 0xffffffff");
	check("illegal, all ones", 2, 0xffffffff);
	__asm__ volatile(".half 0" ::: "memory");
	check("illegal, all zeroes", 2, 0);
	__asm__ volatile("csrr t0, 0x5c0" ::: "t0");
	check("no such csr", 2, 0x5c0022f3);
	__asm__ volatile("csrw 0xf14, zero");
	check("write of a read-only csr", 2, 0xf1401073);
	__asm__ volatile("ecall");
	check("ecall", 11, 0);
	load(HOLE);
	check("load where nothing is", 5, HOLE);
	store(HOLE);
	check("store where nothing is", 7, HOLE);
	jump(HOLE);
	check("fetch where nothing is", 1, HOLE);
	__asm__ volatile("lr.w t0, (%0)" ::"r"((char *)page + 2) : "t0", "memory");
	check("lr misaligned", 4, (uint64_t)page + 2);
	__asm__ volatile("amoadd.d t0, t0, (%0)" ::"r"((char *)page + 4) : "t0", "memory");
	check("amo misaligned", 6, (uint64_t)page + 4);
	__asm__ volatile("amoadd.d t0, t0, (%0)" ::"r"(HOLE) : "t0", "memory");
	check("amo where nothing is", 7, HOLE);
}

static void map(unsigned n, uint64_t pte)
{
	low[n] = pte;
	__asm__ volatile("sfence.vma" ::: "memory");
}

/* Virtual 0x40000000 and up: 2 MiB entries of `low`. */
#define VA(n) (0x40000000ul + (n)*0x200000ul)

static void tables(void)
{
	root[1] = (uint64_t)low >> 12 << 10 | V;
	root[2] = 0x80000000ul >> 12 << 10 | LEAF;
	csr_write(menvcfg, 1ul << 62);
	csr_write(satp, 8ul << 60 | (uint64_t)root >> 12);
	map(0, 0x80000000ul >> 12 << 10 | LEAF);
	as_s(load_v, VA(0));
	if (seen)
		fail("a good leaf", got_cause);
	map(1, 0x80000000ul >> 12 << 10 | LEAF | 3ul << 61);
	as_s(load_v, VA(1));
	check("PBMT 3", 13, VA(1));
	as_s(store, VA(1));
	check("PBMT 3, store", 15, VA(1));
	map(1, HOLE >> 12 << 10 | V);
	as_s(load_v, VA(1));
	check("pointer to nothing", 5, VA(1));
	as_s(store, VA(1) + 4);
	check("pointer to nothing, store", 7, VA(1) + 4);
	map(1, 0x3ffffffffffc00ul | V);
	as_s(load_v, VA(1));
	check("pointer to the end of all addresses", 5, VA(1));
	map(1, (0x80000000ul + 0x1000) >> 12 << 10 | LEAF);
	as_s(load_v, VA(1));
	check("misaligned superpage", 13, VA(1));
	map(1, 0x80000000ul >> 12 << 10 | V | W | A | D);
	as_s(load_v, VA(1));
	check("W without R", 13, VA(1));
	map(1, 0);
	as_s(load_v, 0x8000000000ul);
	check("not canonical", 13, 0x8000000000ul);
	csr_write(menvcfg, 0);
	map(1, 0x80000000ul >> 12 << 10 | LEAF | 1ul << 61);
	as_s(load_v, VA(1));
	check("PBMT with PBMTE off", 13, VA(1));
	map(1, 0x80000000ul >> 12 << 10 | V | R | W);
	as_s(load_v, VA(1));
	check("A=0 with ADUE off", 13, VA(1));
	csr_write(menvcfg, 1ul << 61);
	__asm__ volatile("sfence.vma" ::: "memory");
	as_s(load_v, VA(1));
	if (seen || !(low[1] & A) || low[1] & D)
		fail("A by hardware", low[1]);
}

/* Tables, roots and leaves in the windows of devices: an answer or a fault, and the next access works. */
static void devices(void)
{
	static const uint64_t windows[] = {0x100000, 0x101000, 0x2000000, 0x200b000, 0xc000000,
		0xd000000, 0x10000000, 0x24000000, 0x28000000, 0x30000000, 0x40000000, 0x7ffff000,
		0x10100000, 0x20000000};

	for (unsigned i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
		map(2, windows[i] >> 12 << 10 | V);
		as_s(load_v, VA(2));
		as_s(store, VA(2) + 0x1238);
		map(2, (windows[i] & ~0x1ffffful) >> 12 << 10 | V | R | X | A);
		as_s(load_v, VA(2) + (windows[i] & 0x1fffff) + 4);
		csr_write(satp, 8ul << 60 | windows[i] >> 12);
		__asm__ volatile("sfence.vma" ::: "memory");
		as_s(load_v, 0x1000);
		as_s(store, 0x7fff0000);
		csr_write(satp, 8ul << 60 | (uint64_t)root >> 12);
		__asm__ volatile("sfence.vma" ::: "memory");
		seen = 0;
		as_s(load_v, VA(0));
		if (seen)
			fail("after a table in a device", windows[i]);
	}
	csr_write(satp, 0);
}

static uint64_t rnd(void)
{
	static uint64_t s = 88172645463325252ul;

	s ^= s << 13;
	s ^= s >> 7;
	return s ^= s << 17;
}

static void pmp(void)
{
	for (unsigned round = 0; round < 3000; round++) {
		csr_write(pmpaddr0, rnd() >> (rnd() & 63));
		csr_write(pmpaddr1, rnd() >> (rnd() & 63));
		csr_write(pmpaddr2, ((uint64_t)page >> 2) + (rnd() & 255) - 128);
		csr_write(pmpaddr3, rnd());
		csr_write(pmpcfg0, rnd() & 0x1f1f1f1f1f1f1f1f); /* nothing locked */
		csr_write(pmpcfg2, rnd() & 0x1f1f1f1f1f1f1f1f);
		seen = 0;
		load((uint64_t)page);
		store((uint64_t)page);
		if (seen)
			fail("PMP without L stops M-mode", got_cause);
		as_s(load_v, (uint64_t)page + (rnd() & 0xfff));
		as_s(store, (uint64_t)page + (rnd() & 0xfff));
		if (seen > 2)
			fail("PMP traps", seen);
	}
	csr_write(pmpcfg0, 0);
	csr_write(pmpcfg2, 0);
	/* A locked entry binds M-mode and cannot be changed. */
	csr_write(pmpaddr0, (uint64_t)page >> 2 | 0x1ff);
	csr_write(pmpcfg0, 0x99); /* L, NAPOT, R: 4 KiB */
	seen = 0;
	load((uint64_t)page);
	if (seen)
		fail("locked, readable", got_cause);
	store((uint64_t)page + 8);
	check("locked, not writable", 7, (uint64_t)page + 8);
	csr_write(pmpcfg0, 0);
	csr_write(pmpaddr0, 0);
	store((uint64_t)page + 16);
	check("a locked entry stays", 7, (uint64_t)page + 16);
}

int main(uint64_t hart)
{
	if (hart)
		return 0;
	csr_write(pmpaddr0, ~0ul);
	csr_write(pmpcfg0, 0x1f); /* S-mode may do everything */
	plain();
	tables();
	devices();
	pmp();
	put_dec(checks);
	put_text(" traps as the specification has them\n");
	return 0;
}
