/*
 * exits.c: what an exit from an x86 guest costs, and how soon the first instruction runs. For `bench/run kvm`: the host takes the time of each
 * letter that comes out of the serial port; between two letters lie EXITS exits of one kind.
 *
 *	S: the first instructions; then for each kind of exit: before it 'a', behind it 'b'; at the end "END".
 *
 * 32-bit protected mode without paging, entered as PVH says (xen/include/public/arch-x86/hvm/start_info.h of Xen, docs: "HVM direct boot
 * ABI"): flat segments, ebx has the start info, which is not needed here. Addresses are those that the pc board and QEMU's microvm (pcie=on)
 * have in common.
 */
#define EXITS 20000u
#define COM1 0x3f8u
#define ECAM 0xe0000000u

/* The note that makes a PVH kernel: XEN_ELFNOTE_PHYS32_ENTRY (18), of 8 bytes as in a 64-bit file, which the build makes of this. */
__asm__(".pushsection .note.pvh, \"a\", @note\n"
	".long 4, 8, 18\n"
	".asciz \"Xen\"\n"
	".long start, 0\n"
	".popsection\n"
	".pushsection .text.start, \"ax\"\n"
	".globl start\n"
	"start:\n"
	"	mov $0x3f8, %dx\n"
	"	mov $'S', %al\n"
	"	out %al, %dx\n"
	"	mov $stack_end, %esp\n"
	"	call main\n"
	"1:	cli\n"
	"	hlt\n"
	"	jmp 1b\n"
	".popsection\n"
	".pushsection .bss\n"
	".skip 4096\n"
	"stack_end:\n"
	".popsection\n");

static inline void outb(unsigned short port, unsigned char v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline unsigned char inb(unsigned short port)
{
	unsigned char v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline unsigned load(unsigned addr)
{
	return *(volatile unsigned *)addr;
}

void main(void)
{
	unsigned sum = 0;

	/* A register that a device answers: the line status of the UART. */
	outb(COM1, 'a');
	for (unsigned i = 0; i < EXITS; i++)
		sum += inb(COM1 + 5);
	outb(COM1, 'b');
	/* A port of nobody. */
	outb(COM1, 'a');
	for (unsigned i = 0; i < EXITS; i++)
		outb(0x5f0, 0);
	outb(COM1, 'b');
	/* MMIO: identity of the PCI host bridge. */
	outb(COM1, 'a');
	for (unsigned i = 0; i < EXITS; i++)
		sum += load(ECAM);
	outb(COM1, 'b');
	/* No exit: the loop itself, as the host's interpretation or hardware runs it. */
	outb(COM1, 'a');
	for (unsigned i = 0; i < EXITS; i++)
		sum += *(volatile unsigned *)&sum;
	outb(COM1, 'b');
	for (const char *p = "END\n"; *p; p++)
		outb(COM1, (unsigned char)*p);
}
