/*
 * rom.S: the smallest firmware for QEMU's microvm board: enters long mode and jumps to what tests/tools/pc-image has put into memory, in the
 * state in which Lodge starts a vCPU (cpu/cpu.h, CPU_BOOT_LONG and CPU_BOOT_PVH). 64 KiB, the last bytes below 4 GiB and 1 MiB.
 *
 * At 0x500 the image says: entry, argument, page tables, stack (8 bytes each), and 1 for PVH.
 */
#define PARAMS 0x500

	.section .text
	.code16
rom:
start16:
	cli
	lgdtl	%cs:(gdt_pointer - rom)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x08, $(0xf0000 + start32 - rom)

	.code32
start32:
	movw	$0x18, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	cmpl	$0, PARAMS + 32
	jne	pvh
	movl	PARAMS + 16, %eax
	movl	%eax, %cr3
	movl	%cr4, %eax
	orl	$0x20, %eax
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000000, %eax
	movl	%eax, %cr0
	ljmpl	$0x10, $(0xf0000 + start64 - rom)
pvh:
	movl	PARAMS + 8, %ebx
	jmp	*PARAMS

	.code64
start64:
	movq	PARAMS + 24, %rsp
	movq	PARAMS + 8, %rsi
	jmp	*PARAMS

	.balign 8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00af9b000000ffff
	.quad	0x00cf93000000ffff
gdt_pointer:
	.word	31
	.long	0xf0000 + gdt - rom

	.section .reset, "ax"
	.code16
	ljmp	$0xf000, $(start16 - rom)
