/*
 * start.S: first instructions of a bare program in long mode, ring 0; the entries of its exceptions and interrupts; and the page from
 * which another processor starts (Intel SDM volume 3, "MP Initialization").
 */
	.section .text.start, "ax"
	.code64
	.globl _start
_start:
	cli
	cld
	mov	$__bss, %rdi
	mov	$__bss_end, %rcx
	sub	%rdi, %rcx
	xor	%eax, %eax
	rep stosb
	mov	$__stacks + 16384, %rsp
	xor	%edi, %edi
	call	enter
1:	hlt
	jmp	1b

	/* 48 entries of 16 bytes; vectors with an error code of their own: 8, 10-14, 17, 21 */
	.balign 16
	.globl entries
entries:
	.set	n, 0
	.rept	256
	.balign	16
	.if	(n == 8) || (n >= 10 && n <= 14) || (n == 17) || (n == 21)
	nop
	.else
	push	$0
	.endif
	push	$n
	jmp	common
	.set	n, n + 1
	.endr

common:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	mov	72(%rsp), %rdi		/* vector */
	lea	88(%rsp), %rsi		/* rip, cs, rflags, rsp, ss */
	mov	80(%rsp), %rdx		/* error code */
	cld
	call	trapped
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

	/*
	 * user_run(what, address): an instruction in ring 3, where every KVM runs it natively: some that interpret ring 0 do not know int3
	 * there. The way back is an undefined instruction at a known place (trapped() in isa.c).
	 */
	.globl user_run, user_out, user_back, user_stack
user_run:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, user_stack
	pushq	$0x23
	pushq	$user_top
	pushq	$2
	pushq	$0x1b
	pushq	$user_entry
	iretq
user_entry:
	cmp	$1, %edi
	jb	1f
	je	2f
	cmp	$4, %edi
	jb	3f
	je	4f
	cmp	$6, %edi
	jb	5f
	je	6f
	jmp	7f
4:	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movdqu	16*\n(%rsi), %xmm\n
	.endr
	jmp	user_out
5:	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movdqu	%xmm\n, 16*\n(%rsi)
	.endr
	jmp	user_out
6:	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu	32*\n(%rsi), %ymm\n
	.endr
	jmp	user_out
7:	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu	%ymm\n, 32*\n(%rsi)
	.endr
	jmp	user_out
3:	cmp	$3, %edi
	je	3f
	mov	(%rsi), %rax
	jmp	user_out
1:	int3
	jmp	user_out
2:	ud2
	jmp	user_out
3:	mov	%rax, (%rsi)
user_out:
	ud2
user_back:
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	.bss
	.balign 16
	.skip	4096
user_top:
	.balign 8
user_stack: .skip 8
	.section .note.GNU-stack, "", @progbits
	.text

	/* Copied to 0x8000. ap_gdt .. ap_args lie in the same page. */
	.globl ap_page, ap_end, ap_cr3, ap_stack, ap_cpu
	.code16
ap_page:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	lgdtl	0x8000 + ap_gdtr - ap_page
	mov	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	0x8000 + ap_cr3 - ap_page, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	$0x80000011, %eax	/* PG, ET, PE */
	mov	%eax, %cr0
	ljmpl	$8, $0x8000 + ap_long - ap_page
	.code64
ap_long:
	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	0x8000 + ap_stack - ap_page, %rsp
	mov	0x8000 + ap_cpu - ap_page, %edi
	mov	$enter, %rax
	call	*%rax
1:	hlt
	jmp	1b
	.balign 8
ap_gdt:	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
ap_gdtr: .word	23
	.long	0x8000 + ap_gdt - ap_page
	.balign 8
ap_cr3:	.quad	0
ap_stack: .quad	0
ap_cpu:	.long	0
ap_end:
