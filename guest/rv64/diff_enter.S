/*
 * diff_enter(ctx): runs the program in ctx from ctx->pc in the mode of ctx->status (mstatus.MPP) until it traps; then all of its
 * state is in ctx again and diff_enter() returns. MPRV needs no care: mret to S or U clears it, and a trap from M sets MPP to M.
 */
	.equ F, 256
	.equ FCSR, 512
	.globl diff_enter
diff_enter:
	addi	sp, sp, -128
	sd	ra, 0(sp)
	sd	gp, 8(sp)
	sd	tp, 16(sp)
	sd	s0, 24(sp)
	sd	s1, 32(sp)
	.irp	n, 2,3,4,5,6,7,8,9,10,11
	sd	s\n, 8*(\n+3)(sp)
	.endr
	la	t0, monitor_sp
	sd	sp, 0(t0)
	la	t0, trap_back
	csrw	mtvec, t0
	csrw	mscratch, a0
	ld	t0, FCSR+8(a0)
	csrw	mepc, t0
	ld	t0, FCSR(a0)
	fscsr	t0
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	fld	f\n, F+8*\n(a0)
	.endr
	ld	t0, FCSR+32(a0)
	csrw	mstatus, t0
	.irp	n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	ld	x\n, 8*\n(a0)
	.endr
	ld	x10, 80(x10)
	mret

	.balign 4
trap_back:
	csrrw	x10, mscratch, x10	/* x10 = ctx, mscratch = the program's x10 */
	.irp	n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	sd	x\n, 8*\n(x10)
	.endr
	csrr	t0, mscratch
	sd	t0, 80(x10)
	csrr	t0, mstatus
	sd	t0, FCSR+32(x10)
	li	t1, 0x6000		/* FS on, for the monitor */
	csrs	mstatus, t1
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	fsd	f\n, F+8*\n(x10)
	.endr
	frcsr	t0
	sd	t0, FCSR(x10)
	csrr	t0, mepc
	sd	t0, FCSR+8(x10)
	csrr	t0, mcause
	sd	t0, FCSR+16(x10)
	csrr	t0, mtval
	sd	t0, FCSR+24(x10)
	la	t0, trap_entry
	csrw	mtvec, t0
	la	t0, monitor_sp
	ld	sp, 0(t0)
	ld	ra, 0(sp)
	ld	gp, 8(sp)
	ld	tp, 16(sp)
	ld	s0, 24(sp)
	ld	s1, 32(sp)
	.irp	n, 2,3,4,5,6,7,8,9,10,11
	ld	s\n, 8*(\n+3)(sp)
	.endr
	addi	sp, sp, 128
	ret

	.bss
	.balign 8
monitor_sp: .space 8
