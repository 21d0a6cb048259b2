/*
 * isa.c: the M-mode side of guest/common/isa.h. Source: privileged specification; AIA chapter 3; ACLINT specification.
 */
#include "rt.h"

#include "guest/common/isa.h"

#define ACLINT 0x2000000ul
#define MSIP(h) (*(volatile uint32_t *)(ACLINT + 4 * (h)))
#define MTIMECMP(h) (*(volatile uint64_t *)(ACLINT + 0x4000 + 8 * (h)))
#define IMSIC 0x24000000ul
#define MESSAGE 7

const uint64_t isa_ram = 0x80000000, isa_ecam = 0x30000000, isa_pci_window = 0x40000000,
	       isa_second = 10000000;
volatile uint64_t isa_count[EVENTS];
volatile uint64_t isa_fault_address;
volatile int isa_fault_write;
static volatile uint64_t here[16], nobody;
static void (*volatile job[16])(unsigned);
static uint64_t tables[512] __attribute__((aligned(4096)));

uint64_t isa_ticks(void)
{
	return csr_read(time);
}

void isa_fence(void)
{
	__asm__ volatile("fence rw, rw" ::: "memory");
}

static void event(enum isa_event e)
{
	__atomic_add_fetch(&isa_count[e], 1, __ATOMIC_SEQ_CST);
}

static void interrupt(uint64_t cause)
{
	uint64_t hart = csr_read(mhartid), id;

	switch (cause) {
	case 3:
		MSIP(hart) = 0;
		event(EV_IPI);
		return;
	case 7:
		MTIMECMP(hart) = ~0ul;
		event(EV_TIMER);
		return;
	case 11:
		__asm__ volatile("csrrw %0, 0x35c, zero" : "=r"(id)::"memory");
		if (id >> 16 != MESSAGE)
			fail("identity of a message", id);
		event(EV_MESSAGE);
		return;
	}
	fail("interrupt", cause);
}

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	uint64_t len = 4;

	if (cause >> 63) {
		interrupt(cause & ~(1ul << 63));
		return epc;
	}
	switch (cause) {
	case 4 ... 7: /* of an access to what is not there, or not for it */
		nobody = 1;
		break;
	case 3:
		event(EV_BREAK);
		break;
	case 2:
		event(EV_UNDEFINED);
		break;
	case 13:
	case 15:
		isa_fault_address = tval;
		isa_fault_write = cause == 15;
		event(EV_PAGE);
		break;
	default:
		put_text("epc ");
		put_hex(epc);
		fail(" trap", cause);
	}
	return epc + len;
}

void isa_break(void)
{
	__asm__ volatile(".option push\n.option norvc\nebreak\n.option pop");
}

void isa_undefined(void)
{
	__asm__ volatile(".word 0xffffffff");
}

uint64_t isa_nowhere(void)
{
	return 0x2340001230;
}

/* M-mode has no page tables of its own: the access is made as S-mode's (MPRV). */
void isa_touch(uint64_t address, int write)
{
	for (unsigned i = 0; i < 4; i++)
		tables[i] = (i << 28) | 0xcf; /* GiB i, where it is */
	csr_write(pmpaddr0, ~0ul >> 10);
	csr_write(pmpcfg0, 0x1f);
	csr_write(satp, 8ul << 60 | (uint64_t)tables >> 12);
	__asm__ volatile("sfence.vma" ::: "memory");
	csr_clear(mstatus, 3ul << 11);
	csr_set(mstatus, 1ul << 17 | 1ul << 11);
	if (write)
		__asm__ volatile(
			".option push\n.option norvc\nsd zero, 0(%0)\n.option pop" ::"r"(address)
			: "memory");
	else
		__asm__ volatile(
			".option push\n.option norvc\nld zero, 0(%0)\n.option pop" ::"r"(address)
			: "memory");
	csr_clear(mstatus, 1ul << 17);
	csr_write(satp, 0);
}

void isa_timer_in(uint64_t microseconds)
{
	csr_set(mie, 1 << 7);
	MTIMECMP(csr_read(mhartid)) = isa_ticks() + microseconds * 10;
}

void isa_wait(void)
{
	__asm__ volatile("wfi");
	csr_set(mstatus, 8);
	csr_clear(mstatus, 8);
}

void isa_message(uint64_t *address, uint32_t *data)
{
	__asm__ volatile("csrw 0x350, %0\n csrw 0x351, %1" ::"r"(0x70ul), "r"(1ul));
	__asm__ volatile("csrw 0x350, %0\n csrw 0x351, %1" ::"r"(0x72ul), "r"(0ul));
	__asm__ volatile("csrw 0x350, %0\n csrw 0x351, %1" ::"r"(0xc0ul), "r"(1ul << MESSAGE));
	csr_set(mie, 1 << 11);
	*address = IMSIC;
	*data = MESSAGE;
}

/* Harts other than 0 come here from start.S. */
static void wait_for_job(uint64_t hart)
{
	csr_set(mie, 1 << 3);
	here[hart] = 1;
	for (;;) {
		void (*fn)(unsigned) = job[hart];

		if (fn) {
			job[hart] = 0;
			fn((unsigned)hart);
		} else {
			isa_wait();
		}
	}
}

int isa_start(unsigned cpu, void (*fn)(unsigned cpu))
{
	uint64_t end = isa_ticks() + isa_second / 2;

	while (!here[cpu])
		if (isa_ticks() > end)
			return 0;
	job[cpu] = fn;
	isa_fence();
	MSIP(cpu) = 1;
	return 1;
}

void isa_ipi(unsigned cpu)
{
	MSIP(cpu) = 1;
}

void isa_reboot(void)
{
	*(volatile uint32_t *)0x100000 = 0x7777;
	for (;;)
		__asm__ volatile("wfi");
}

uint8_t isa_scratch(int write, uint8_t v)
{
	volatile uint8_t *uart = (volatile uint8_t *)0x10000000;

	if (write)
		uart[7] = v;
	return uart[7];
}

uint64_t isa_memory_end(void)
{
	uint64_t at, v;

	for (at = isa_ram, nobody = 0; !nobody; at += 16 << 20)
		__asm__ volatile(".option push\n .option norvc\n ld %0, -8(%1)\n .option pop"
				 : "=r"(v)
				 : "r"(at + (16 << 20))
				 : "memory");
	return at - (16 << 20);
}

unsigned isa_vectors(int store, uint64_t *v)
{
	if (v && store)
		__asm__ volatile(
			".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,"
			"25,26,27,28,29,30,31\n\tfsd f\\n, 8*\\n(%0)\n\t.endr" ::"r"(v)
			: "memory");
	else if (v)
		__asm__ volatile(
			".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,"
			"25,26,27,28,29,30,31\n\tfld f\\n, 8*\\n(%0)\n\t.endr" ::"r"(v)
			: "memory");
	return 32;
}

const struct isa_window isa_windows[] = {{"nothing", 0, 0x1000, 256, 0},
	{"the finisher", 0x100000, 0x1000, 128, 0}, {"the clock", 0x101000, 0x1000, 8, 0},
	{"aclint", ACLINT, 0x10000, 128, 0}, {"ports", 0x3000000, 0x10000, 256, 0},
	{"aplic-m", 0xc000000, 0x8000, 64, 0}, {"aplic-s", 0xd000000, 0x8000, 64, 0},
	{"the UART", 0x10000000, 0x100, 8, 0}, {"flash", 0x20000000, 0x4000000, 0x100000, 0},
	{"imsic-m", IMSIC, 0x4000000, 0x100000, 0}, {"imsic-s", 0x28000000, 0x4000000, 0x100000, 0},
	{"memory of PCI", 0x40000000, 0x40000000, 0x1000000, 0},
	{"bus 0", 0x30000000, 0x40000, 64, 0}, {"ecam", 0x30000000, 0x10000000, 0x200000, 0},
	{"bars", 0x40000000, 0x100000, 256, 0}, {"behind memory", 1ul << 40, 0x1000, 512, 0}, {0}};

int isa_harmless(uint64_t at, unsigned bytes)
{
	uint64_t last = at + bytes - 1;

	return !(at < 0x100008 && last >= 0x100000) && !(at < 0x10000001 && last >= 0x10000000);
}

#define ACCESS(insn) \
	__asm__ volatile(".option push\n .option norvc\n " insn "\n .option pop" \
			 : "+r"(v) \
			 : "r"(at) \
			 : "memory")

void isa_load(uint64_t at, unsigned width)
{
	uint64_t v = 0;

	csr_write(mie, 0);
	switch (width) {
	case 0:
		ACCESS("lb %0, 0(%1)");
		return;
	case 1:
		ACCESS("lhu %0, 0(%1)");
		return;
	case 2:
		ACCESS("lw %0, 0(%1)");
		return;
	default:
		ACCESS("ld %0, 0(%1)");
	}
}

void isa_store(uint64_t at, unsigned width, uint64_t v)
{
	switch (width) {
	case 0:
		ACCESS("sb %0, 0(%1)");
		return;
	case 1:
		ACCESS("sh %0, 0(%1)");
		return;
	case 2:
		ACCESS("sw %0, 0(%1)");
		return;
	default:
		ACCESS("sd %0, 0(%1)");
	}
}

void isa_uart_again(void)
{
	volatile uint8_t *uart = (volatile uint8_t *)0x10000000;

	uart[3] = 3;
	uart[1] = 0;
	uart[2] = 1;
	uart[4] = 0;
}

int both(void);
int main(uint64_t hart)
{
	if (hart)
		wait_for_job(hart);
	return both();
}
