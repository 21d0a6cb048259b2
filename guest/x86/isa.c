/*
 * isa.c: the long-mode side of guest/common/isa.h. Source: Intel SDM volume 3, chapters 6 (interrupts and exceptions), 8 (multiple processors), 10 (APIC).
 */
#include "guest/common/isa.h"

#define UART 0x3f8
#define FINISHER (*(volatile uint32_t *)0xfe000000ul)
#define APIC(reg) (*(volatile uint32_t *)(0xfee00000ul + (reg)))
#define TIMER 0x40
#define IPI 0x41
#define MESSAGE 0x42
#define STARTUP 0x8000ul

const uint64_t isa_ram = 0, isa_ecam = 0xe0000000, isa_pci_window = 0xc0000000,
	       isa_second = 2500000000;
volatile uint64_t isa_count[EVENTS];
volatile uint64_t isa_fault_address;
volatile int isa_fault_write;
static void (*volatile job[4])(unsigned);
static volatile int running[4];
static int wide; /* there is AVX */
static struct {
	uint16_t low, selector, type, mid;
	uint32_t high, zero;
} idt[256] __attribute__((aligned(16)));
/* Null, code and data of ring 0, of ring 3, task segment (two entries). */
static uint64_t gdt[7] = {
	0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff};
/* Intel SDM volume 3, "Task Management in 64-bit Mode": all that is used is the stack of ring 0. */
static struct {
	uint32_t reserved;
	uint64_t rsp0, rest[12];
} __attribute__((packed)) tss;
static uint8_t trap_stack[8192] __attribute__((aligned(16)));
void user_run(unsigned what, uint64_t address);
extern char user_out[], user_back[];
extern uint64_t user_stack;
extern char entries[], ap_page[], ap_end[], ap_cr3[], ap_stack[], ap_cpu[], __stacks[];

static void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}

static uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

void put_char(char c)
{
	while (!(inb(UART + 5) & 0x20))
		;
	outb(UART, (uint8_t)c);
}

void finish(unsigned code)
{
	FINISHER = code ? 0x3333 | code << 16 : 0x5555;
	for (;;)
		__asm__ volatile("cli; hlt");
}

uint64_t isa_ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

void isa_fence(void)
{
	__asm__ volatile("mfence" ::: "memory");
}

static void event(enum isa_event e)
{
	__atomic_add_fetch(&isa_count[e], 1, __ATOMIC_SEQ_CST);
}

struct frame {
	uint64_t rip, cs, rflags, rsp, ss;
};

void trapped(uint64_t vector, struct frame *f, uint64_t error);
void trapped(uint64_t vector, struct frame *f, uint64_t error)
{
	switch (vector) {
	case 3: /* a trap: rip is behind it already */
		event(EV_BREAK);
		return;
	case 6:
		if (f->rip == (uint64_t)user_out) {
			*f = (struct frame){(uint64_t)user_back, 8, 2, user_stack, 16};
			return;
		}
		f->rip += 2;
		event(EV_UNDEFINED);
		return;
	case 14:
		__asm__ volatile("mov %%cr2, %0" : "=r"(isa_fault_address));
		isa_fault_write = error >> 1 & 1;
		f->rip += 3; /* mov between rax and (rsi) */
		event(EV_PAGE);
		return;
	case TIMER:
	case IPI:
	case MESSAGE:
		event(vector == TIMER ? EV_TIMER : vector == IPI ? EV_IPI : EV_MESSAGE);
		APIC(0xb0) = 0;
		return;
	}
	put_text("rip ");
	put_hex(f->rip);
	fail(" trap", vector);
}

void isa_break(void)
{
	user_run(0, 0);
}

void isa_undefined(void)
{
	user_run(1, 0);
}

uint64_t isa_nowhere(void)
{
	return 0x2340001230;
}

uint64_t isa_memory_end(void)
{
	/* Linux' Documentation/arch/x86/zero-page.rst: the memory map and its length. */
	const volatile uint8_t *zero_page = (const volatile uint8_t *)0x7000;
	uint64_t end = 0;

	for (unsigned i = 0; i < zero_page[0x1e8]; i++) {
		const volatile uint32_t *e = (const volatile uint32_t *)(zero_page + 0x2d0 +
									 20 * i);
		uint64_t from = e[0] | (uint64_t)e[1] << 32, len = e[2] | (uint64_t)e[3] << 32;

		if (e[4] == 1 && from <= 1 << 20)
			end = from + len;
	}
	return end;
}

unsigned isa_vectors(int store, uint64_t *v)
{
	if (v)
		user_run((wide ? 6 : 4) + (store ? 1 : 0), (uint64_t)v);
	return wide ? 64 : 32;
}

void isa_touch(uint64_t address, int write)
{
	user_run(write ? 3 : 2, address);
}

/* SSE, and AVX where there is XSAVE (SDM volume 1, "Managing State Using the XSAVE Feature Set"). */
static void vectors_on(void)
{
	uint32_t a = 1, b, c = 0, d;
	uint64_t cr4;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	wide = c >> 26 & c >> 28 & 1;
	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	cr4 |= 3 << 9 | (wide ? 1 << 18 : 0);
	__asm__ volatile("mov %0, %%cr4" ::"r"(cr4));
	if (wide)
		__asm__ volatile("xsetbv" ::"a"(7), "d"(0), "c"(0));
}

/* Each processor's own: segments, vectors, its APIC. */
static void set_up(void)
{
	struct {
		uint16_t len;
		uint64_t base;
	} __attribute__((packed)) g = {sizeof(gdt) - 1, (uint64_t)gdt},
				  i = {sizeof(idt) - 1, (uint64_t)idt};

	__asm__ volatile(
		"lgdt %0\n\tlidt %1\n\tpushq $8\n\tlea 1f(%%rip), %%rax\n\tpushq "
		"%%rax\n\tlretq\n1:\n\t"
		"mov $16, %%eax\n\tmov %%eax, %%ds\n\tmov %%eax, %%es\n\tmov %%eax, %%ss" ::"m"(g),
		"m"(i)
		: "rax", "memory");
	/* Nobody has set the old controllers up: what came through them would come as vectors 0 to 7. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	APIC(0xf0) = 0x1ff;
	APIC(0x80) = 0;
	APIC(0x3e0) = 11; /* divide by 1 */
	APIC(0x320) = TIMER;
}

void isa_timer_in(uint64_t microseconds)
{
	APIC(0x380) = (uint32_t)(microseconds * 1000); /* KVM's counts nanoseconds */
}

void isa_wait(void)
{
	__asm__ volatile("sti; hlt; cli" ::: "memory");
}

void isa_message(uint64_t *address, uint32_t *data)
{
	*address = 0xfee00000;
	*data = MESSAGE;
}

static void command(unsigned cpu, uint32_t what)
{
	APIC(0x310) = cpu << 24;
	APIC(0x300) = what;
	while (APIC(0x300) & 0x1000)
		;
}

static void pause_for(uint64_t ticks)
{
	uint64_t end = isa_ticks() + ticks;

	while (isa_ticks() < end)
		;
}

int isa_start(unsigned cpu, void (*fn)(unsigned cpu))
{
	volatile char *to = (volatile char *)STARTUP;
	uint64_t cr3, end;

	__asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
	*(uint64_t *)ap_cr3 = cr3;
	*(uint64_t *)ap_stack = (uint64_t)__stacks + 16384 * (cpu + 1);
	*(uint32_t *)ap_cpu = cpu;
	for (unsigned long k = 0; k < (unsigned long)(ap_end - ap_page); k++)
		to[k] = ap_page[k];
	job[cpu] = fn;
	isa_fence();
	command(cpu, 0x4500); /* INIT */
	pause_for(isa_second / 100);
	command(cpu, 0x4600 | STARTUP >> 12);
	end = isa_ticks() + isa_second;
	while (!running[cpu])
		if (isa_ticks() > end)
			return 0;
	return 1;
}

void isa_ipi(unsigned cpu)
{
	command(cpu, 0x4000 | IPI);
}

void isa_reboot(void)
{
	outb(0xcf9, 2);
	outb(0xcf9, 6);
	for (;;)
		__asm__ volatile("cli; hlt");
}

uint8_t isa_scratch(int write, uint8_t v)
{
	if (write)
		outb(UART + 7, v);
	return inb(UART + 7);
}

const struct isa_window isa_windows[] = {{"the clock", 0xfe001000, 0x1000, 64, 0},
	{"the finisher", 0xfe000000, 0x1000, 128, 0},
	{"the event device", 0xfea00000, 0x1000, 128, 0}, {"ioapic", 0xfec00000, 0x1000, 64, 1},
	{"the local APIC", 0xfee00000, 0x1000, 64, 1}, {"ports", ISA_PORTS, 0x10000, 256, 0},
	{"the UART", ISA_PORTS + 0x3f8, 16, 8, 0}, {"CMOS", ISA_PORTS + 0x70, 16, 8, 0},
	{"memory of PCI", 0xc0000000, 0x20000000, 0x1000000, 0},
	{"bus 0", 0xe0000000, 0x40000, 1024, 0}, {"ecam", 0xe0000000, 0x10000000, 0x800000, 0},
	{"bars", 0xc0000000, 0x100000, 4096, 0}, {0}};

static int meets(uint64_t at, unsigned bytes, uint64_t first, uint64_t last)
{
	return at <= last && at + bytes - 1 >= first;
}

/* Not: characters, resets and power (ports 0xf4, 0xcf9; the registers of finisher and event device), what holds interrupts. */
int isa_harmless(uint64_t at, unsigned bytes)
{
	return !meets(at, bytes, ISA_PORTS + 0x3f8, ISA_PORTS + 0x3f8) &&
	       !meets(at, bytes, ISA_PORTS + 0xf4, ISA_PORTS + 0xf7) &&
	       !meets(at, bytes, ISA_PORTS + 0xcf9, ISA_PORTS + 0xcf9) &&
	       !meets(at, bytes, 0xfe000000, 0xfe000007) &&
	       !meets(at, bytes, 0xfea00200, 0xfea00203);
}

void isa_load(uint64_t at, unsigned width)
{
	uint16_t port = (uint16_t)at;

	if (at >= ISA_PORTS) {
		if (width == 0)
			inb(port);
		else if (width == 1)
			__asm__ volatile("inw %0, %%ax" ::"d"(port) : "eax");
		else
			__asm__ volatile("inl %0, %%eax" ::"d"(port) : "eax");
		return;
	}
	switch (width) {
	case 0:
		(void)*(volatile uint8_t *)at;
		return;
	case 1:
		(void)*(volatile uint16_t *)at;
		return;
	case 2:
		(void)*(volatile uint32_t *)at;
		return;
	default:
		(void)*(volatile uint64_t *)at;
	}
}

void isa_store(uint64_t at, unsigned width, uint64_t v)
{
	uint16_t port = (uint16_t)at;

	if (at >= ISA_PORTS) {
		if (width == 0)
			outb(port, (uint8_t)v);
		else if (width == 1)
			__asm__ volatile("outw %%ax, %0" ::"d"(port), "a"(v));
		else
			__asm__ volatile("outl %%eax, %0" ::"d"(port), "a"(v));
		return;
	}
	switch (width) {
	case 0:
		*(volatile uint8_t *)at = (uint8_t)v;
		return;
	case 1:
		*(volatile uint16_t *)at = (uint16_t)v;
		return;
	case 2:
		*(volatile uint32_t *)at = (uint32_t)v;
		return;
	default:
		*(volatile uint64_t *)at = v;
	}
}

void isa_uart_again(void)
{
	outb(UART + 3, 3);
	outb(UART + 1, 0);
	outb(UART + 2, 1);
	outb(UART + 4, 0);
}

int both(void);
void test_done(int rc);
void enter(unsigned cpu);
void enter(unsigned cpu)
{
	if (!cpu) {
		uint64_t at = (uint64_t)&tss, *table;

		tss.rsp0 = (uint64_t)(trap_stack + sizeof(trap_stack));
		gdt[5] = (sizeof(tss) - 1) | (at & 0xffffff) << 16 | 0x89ul << 40 |
			 (at >> 24 & 0xff) << 56;
		gdt[6] = at >> 32;
		/* The board's tables are for ring 0: this program's 2 MiB are for ring 3 too. */
		__asm__ volatile("mov %%cr3, %0" : "=r"(table));
		table[0] |= 4;
		table = (uint64_t *)(table[0] & ~0xffful);
		table[0] |= 4;
		table = (uint64_t *)(table[0] & ~0xffful);
		table[(uint64_t)entries >> 21] |= 4;
		__asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" ::: "rax", "memory");
	}
	if (!cpu)
		for (unsigned n = 0; n < 256; n++) {
			uint64_t at = (uint64_t)entries + 16 * n;

			idt[n].low = (uint16_t)at;
			idt[n].selector = 8;
			idt[n].type = n == 3 ? 0xee00 : 0x8e00;
			idt[n].mid = (uint16_t)(at >> 16);
			idt[n].high = (uint32_t)(at >> 32);
		}
	set_up();
	if (!cpu)
		__asm__ volatile("ltr %w0" ::"r"(0x28));
	vectors_on();
	running[cpu & 3] = 1;
	if (!cpu)
		test_done(both());
	job[cpu & 3](cpu);
}
