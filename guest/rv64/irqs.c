/*
 * irqs.c: what interrupts a hart: ACLINT timer and software interrupts, Sstc, MSIs between harts, a wired interrupt by way of the
 * APLIC, and WFI woken by each. Any number of harts.
 * Source: ACLINT specification 1.0-rc4, AIA specification 1.0 chapters 3 and 4, Sstc.
 */
#include "rt.h"

#define MTIME (*(volatile uint64_t *)0x200bff8)
#define MTIMECMP(h) (((volatile uint64_t *)0x2004000)[h])
#define MSIP(h) (((volatile uint32_t *)0x2000000)[h])
#define IMSIC_M(h) (*(volatile uint32_t *)(0x24000000ul + (h)*0x1000))
#define APLIC(off) (*(volatile uint32_t *)(0xc000000ul + (off)))
#define UART ((volatile uint8_t *)0x10000000)
#define UART_IRQ 10
#define MSI (1ul << 3)
#define MTI (1ul << 7)
#define MEI (1ul << 11)
#define STI (1ul << 5)

static volatile uint64_t taken[16], last[16];
static volatile uint64_t alive, ready, answers;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	uint64_t hart = csr_read(mhartid);

	if (!(cause >> 63))
		fail("an exception", cause);
	taken[hart]++;
	last[hart] = cause & 63;
	csr_clear(mie, 1ul << (cause & 63));
	return epc;
}

static void imsic(uint64_t reg, uint64_t v)
{
	__asm__ volatile("csrw 0x350, %0\n csrw 0x351, %1" ::"r"(reg), "r"(v) : "memory");
}

static uint64_t claim(void)
{
	uint64_t v;

	__asm__ volatile("csrrw %0, 0x35c, zero" : "=r"(v)::"memory");
	return v >> 16;
}

static void expect(const char *what, uint64_t cause)
{
	uint64_t hart = csr_read(mhartid), end = MTIME + 50000000;

	while (!taken[hart])
		if (MTIME > end)
			fail(what, csr_read(mip));
	if (last[hart] != cause || taken[hart] != 1)
		fail(what, last[hart]);
	taken[hart] = 0;
}

static void sleep_until(const char *what, uint64_t bit)
{
	csr_clear(mstatus, 8);
	csr_set(mie, bit);
	while (!(csr_read(mip) & bit))
		__asm__ volatile("wfi");
	csr_clear(mie, bit);
	if (taken[csr_read(mhartid)])
		fail(what, last[csr_read(mhartid)]);
}

static void timers(void)
{
	MTIMECMP(0) = MTIME + 20000;
	csr_set(mie, MTI);
	csr_set(mstatus, 8);
	expect("mtimecmp", 7);
	MTIMECMP(0) = ~0ul;
	MTIMECMP(0) = MTIME + 200000;
	sleep_until("wfi, mtimecmp", MTI);
	MTIMECMP(0) = ~0ul;
	if (csr_read(mip) & MTI)
		fail("mtimecmp in the future", csr_read(mip));
	/* Sstc: stimecmp drives STIP, visible in mip; not delegated, so it comes to M-mode. */
	csr_write(menvcfg, 1ul << 63);
	csr_write(0x14d, ~0ul);
	if (csr_read(mip) & STI)
		fail("stimecmp in the future", csr_read(mip));
	csr_write(0x14d, csr_read(time) + 200000);
	sleep_until("wfi, stimecmp", STI);
	csr_set(mie, STI);
	csr_set(mstatus, 8);
	expect("stimecmp", 5);
	csr_write(0x14d, ~0ul);
	if (csr_read(mip) & STI)
		fail("stimecmp again in the future", csr_read(mip));
}

static void software(uint64_t harts)
{
	csr_set(mie, MSI);
	csr_set(mstatus, 8);
	MSIP(0) = 1;
	expect("msip", 3);
	MSIP(0) = 0;
	for (uint64_t h = 1; h < harts; h++) {
		uint64_t end = MTIME + 50000000;

		MSIP(h) = 1;
		while (answers != h)
			if (MTIME > end)
				fail("msip of another hart", h);
	}
}

static void msi_on(void)
{
	imsic(0x70, 1); /* eidelivery */
	imsic(0x72, 0); /* eithreshold */
	imsic(0xc0, 1ul << 5 | 1ul << 6 | 1ul << UART_IRQ); /* eie0 */
}

static void msis(uint64_t harts)
{
	msi_on();
	IMSIC_M(0) = 7; /* not enabled */
	IMSIC_M(0) = 4095; /* no such identity, or not enabled */
	if (csr_read(mip) & MEI)
		fail("an MSI that is not enabled", 0);
	csr_set(mie, MEI);
	csr_set(mstatus, 8);
	IMSIC_M(0) = 6;
	IMSIC_M(0) = 5;
	expect("MSI to itself", 11);
	/* Low numbers come first. */
	if (claim() != 5 || claim() != 6 || claim() != 0)
		fail("order of MSIs", 0);
	for (uint64_t h = 1; h < harts; h++) {
		IMSIC_M(h) = 5;
		sleep_until("MSI from another hart", MEI);
		if (claim() != 6)
			fail("which MSI came", h);
	}
}

static void wired(void)
{
	APLIC(0) = 1u << 8 | 1u << 2; /* domaincfg: IE, MSI delivery */
	APLIC(0x1bc0) = 0x24000; /* mmsiaddrcfg: page of hart 0's file */
	APLIC(0x1bc4) = 0;
	APLIC(4 * UART_IRQ) = 6; /* sourcecfg: level high */
	APLIC(0x3000 + 4 * UART_IRQ) = UART_IRQ; /* target: hart 0, that identity */
	APLIC(0x1edc) = UART_IRQ; /* setienum */
	UART[1] = 2; /* transmitter empty */
	sleep_until("UART by APLIC", MEI);
	UART[1] = 0;
	if (claim() != UART_IRQ)
		fail("which source", 0);
	APLIC(4 * UART_IRQ) = 0;
}

static void other(uint64_t hart)
{
	sleep_until("msip", MSI);
	MSIP(hart) = 0;
	__asm__ volatile("fence rw, rw" ::: "memory");
	answers = hart;
	msi_on();
	__asm__ volatile("amoadd.d zero, %0, (%1)" ::"r"(1ul), "r"(&ready) : "memory");
	sleep_until("MSI", MEI);
	if (claim() != 5)
		fail("which MSI came", hart);
	IMSIC_M(0) = 6;
}

int main(uint64_t hart)
{
	uint64_t harts, end;

	csr_write(mie, 0);
	__asm__ volatile("amoadd.d zero, %0, (%1)" ::"r"(1ul), "r"(&alive) : "memory");
	if (hart) {
		other(hart);
		return 0;
	}
	/* Harts number up in a quarter of a second. */
	end = MTIME + 2500000;
	while (MTIME < end)
		;
	harts = alive;
	put_dec(harts);
	put_text(" harts\n");
	timers();
	software(harts);
	while (ready != harts - 1)
		;
	msis(harts);
	wired();
	return 0;
}
