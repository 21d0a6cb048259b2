/*
 * sweep.c: a hostile guest that loads and stores with every width and misalignment over the window of every device and over ECAM.
 * Each access answers or faults; afterwards the UART, memory and the finisher still work. What it must not do is end the machine:
 * so it never stores to the finisher, nor characters to the UART.
 */
#include "rt.h"

#define UART ((volatile uint8_t *)0x10000000)

static volatile uint64_t faults, answers;
static volatile uint64_t expected;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	if (cause != 4 && cause != 5 && cause != 6 && cause != 7)
		fail("a trap that no access makes", cause);
	faults++;
	return epc + ((*(uint16_t *)epc & 3) == 3 ? 4 : 2);
}

static uint64_t rnd(void)
{
	static uint64_t s = 88172645463325252ul;

	s ^= s << 13;
	s ^= s >> 7;
	return s ^= s << 17;
}

static void access(uint64_t at, unsigned width, int write)
{
	uint64_t v = rnd();

	answers++;
	if (write)
		switch (width) {
		case 0:
			__asm__ volatile("sb %0, 0(%1)" ::"r"(v), "r"(at) : "memory");
			return;
		case 1:
			__asm__ volatile("sh %0, 0(%1)" ::"r"(v), "r"(at) : "memory");
			return;
		case 2:
			__asm__ volatile("sw %0, 0(%1)" ::"r"(v), "r"(at) : "memory");
			return;
		case 3:
			__asm__ volatile("sd %0, 0(%1)" ::"r"(v), "r"(at) : "memory");
			return;
		case 4:
			__asm__ volatile("amoadd.w zero, %0, (%1)" ::"r"(v), "r"(at) : "memory");
			return;
		case 5:
			__asm__ volatile("amoswap.d zero, %0, (%1)" ::"r"(v), "r"(at) : "memory");
			return;
		case 6:
			__asm__ volatile("lr.w t0, (%0)\n sc.w t0, t0, (%0)" ::"r"(at)
					 : "t0", "memory");
			return;
		default:
			__asm__ volatile("fmv.d.x ft0, %0\n fsd ft0, 0(%1)" ::"r"(v), "r"(at)
					 : "ft0", "memory");
			return;
		}
	switch (width & 3) {
	case 0:
		__asm__ volatile("lb t0, 0(%0)" ::"r"(at) : "t0", "memory");
		return;
	case 1:
		__asm__ volatile("lhu t0, 0(%0)" ::"r"(at) : "t0", "memory");
		return;
	case 2:
		__asm__ volatile("lw t0, 0(%0)" ::"r"(at) : "t0", "memory");
		return;
	default:
		__asm__ volatile("ld t0, 0(%0)" ::"r"(at) : "t0", "memory");
		return;
	}
}

static int harmless(uint64_t at, unsigned width, int write)
{
	uint64_t end = at + (1u << (width & 3)) - 1;

	if (!write)
		return 1;
	if (width >= 4)
		end = at + 7;
	/* Not the finisher; not a character or a divisor; not the other harts' bell. */
	return !(at < 0x100008 && end >= 0x100000) && !(at < 0x10000001 && end >= 0x10000000);
}

static void sweep(const char *name, uint64_t base, uint64_t size, uint64_t step, unsigned extra)
{
	uint64_t before = faults;

	answers = 0;
	for (uint64_t off = 0; off < size; off += step)
		for (unsigned width = 0; width < 8; width++)
			for (unsigned skew = 0; skew < 8; skew++) {
				uint64_t at = base + off + skew;

				if (harmless(at, width, 0))
					access(at, width, 0);
				if (harmless(at, width, 1))
					access(at, width, 1);
			}
	for (unsigned i = 0; i < extra; i++) {
		uint64_t at = base + rnd() % size;
		unsigned width = rnd() & 7;
		int write = rnd() & 1;

		if (harmless(at, width, write))
			access(at, width, write);
	}
	/* The console may have been left in any state. */
	UART[3] = 3;
	UART[1] = 0;
	UART[2] = 1;
	UART[4] = 0;
	put_text(name);
	put_text("\t");
	put_dec(answers);
	put_text(" accesses, ");
	put_dec(faults - before);
	put_text(" faults\n");
}

int main(uint64_t hart)
{
	if (hart)
		return 0;
	csr_write(mie, 0);
	sweep("below", 0, 0x1000, 256, 1000);
	sweep("finisher", 0x100000, 0x1000, 128, 2000);
	sweep("rtc", 0x101000, 0x1000, 8, 2000);
	sweep("aclint", 0x2000000, 0x10000, 128, 2000);
	sweep("pci i/o", 0x3000000, 0x10000, 256, 2000);
	sweep("aplic-m", 0xc000000, 0x8000, 64, 4000);
	sweep("aplic-s", 0xd000000, 0x8000, 64, 4000);
	sweep("uart", 0x10000000, 0x100, 8, 2000);
	sweep("fw_cfg", 0x10100000, 0x20, 8, 200);
	sweep("flash", 0x20000000, 0x4000000, 0x100000, 1000);
	sweep("imsic-m", 0x24000000, 0x4000000, 0x100000, 4000);
	sweep("imsic-s", 0x28000000, 0x4000000, 0x100000, 4000);
	/* Memory windows before ECAM, which moves them, and after it. */
	sweep("pci memory", 0x40000000, 0x40000000, 0x1000000, 5000);
	sweep("bus 0", 0x30000000, 0x40000, 64, 10000);
	sweep("ecam", 0x30000000, 0x10000000, 0x200000, 10000);
	sweep("pci memory", 0x40000000, 0x100000, 256, 20000);
	sweep("after memory", 0x80000000 + (1ul << 40), 0x1000, 512, 1000);
	return 0;
}
