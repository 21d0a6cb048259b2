/*
 * start.S: first instructions of a bare test program. Hart 0 clears .bss and lets the others in; each hart
 * has a stack of 16 KiB and calls main(hart). What main returns on hart 0 is the verdict. A trap that nobody expects ends the test.
 */
	.section .text.start, "ax"
	.globl _start
_start:
	csrr	s0, mhartid
	la	t0, trap_entry
	csrw	mtvec, t0
	li	t0, 0x6600		/* FS and VS dirty, so that floating point works */
	csrs	mstatus, t0
	li	t0, 16
	bgeu	s0, t0, park
	la	sp, __stacks
	addi	t0, s0, 1
	slli	t0, t0, 14
	add	sp, sp, t0
	bnez	s0, wait
	la	t0, __bss
	la	t1, __bss_end
1:	bgeu	t0, t1, 2f
	sd	zero, 0(t0)
	addi	t0, t0, 8
	j	1b
2:	fence	rw, rw
	la	t0, started
	li	t1, 1
	sw	t1, 0(t0)
	j	go
wait:	la	t0, started
	lw	t1, 0(t0)
	beqz	t1, wait
	fence	rw, rw
go:	mv	a0, s0
	call	main
	bnez	s0, park
	call	test_done
park:	wfi
	j	park

	/* A trap calls trap(cause, epc, tval, regs) on the interrupted stack and goes on at the pc it returns. */
	.balign 4
	.globl trap_entry
trap_entry:
	addi	sp, sp, -256
	.irp	n, 1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	sd	x\n, 8*\n(sp)
	.endr
	csrr	a0, mcause
	csrr	a1, mepc
	csrr	a2, mtval
	mv	a3, sp
	call	trap
	csrw	mepc, a0
	.irp	n, 1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	ld	x\n, 8*\n(sp)
	.endr
	addi	sp, sp, 256
	mret

	.data
	.balign 4
	.globl started
started: .word 0
