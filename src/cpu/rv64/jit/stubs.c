/*
 * stubs.c: code that all regions share. Written once, at the beginning of the cache.
 *
 *   enter       C --> a block
 *   leave_*     a block --> C: pc known by offset; by link; by address
 *   look_again  an address is not in its first slot of the table of jumps: in the other?
 *   jump_va     an indirect jump that could not be predicted: forget the calls on the host's stack, look up, or leave
 *   slow_mem, slow_op   a block --> C --> the same block, or leave
 *
 * The host's stack holds, above what `enter` found, two words for each guest call that has not returned: the guest's return address and
 * the host's. So a guest's return is a host return, which the host predicts. Below them lies a pair that no guest
 * return matches usefully: address 1, which is odd; a guest that does return to 1 goes to 0, as jalr says.
 */
#include "cpu/rv64/jit/inside.h"

long jit_slow_mem(struct hart *h, uint64_t va, uint32_t where, uint32_t what);
long jit_slow_op(struct hart *h, struct rv64_block *b, uint32_t where);

static const uint8_t saved[] = {RBX, RBP, R12, R13, R14, R15};

static void move_ints(struct x86 *a, bool out)
{
	for (unsigned r = 1; r < 32; r++) {
		struct x86_rm m = x86_mem(
			RBP, (int32_t)(offsetof(struct hart, x) + 8 * r) - JIT_BIAS);

		if (jit_map[r])
			x86_op(a, X86_64, out ? 0x89 : 0x8b, jit_map[r], m);
	}
	x86_op(a, X86_32, out ? 0x89 : 0x8b, JIT_FUEL, HART(j.fuel));
}

static void move_floats(struct x86 *a, bool out)
{
	uint8_t *skip;

	x86_alu_i(a, X86_32, ALU_CMP, HART(j.fp_live), 0);
	skip = x86_jcc(a, CC_E, NULL);
	for (unsigned r = 0; r < 32; r++) {
		struct x86_rm m = x86_mem(
			RBP, (int32_t)(offsetof(struct hart, f) + 8 * r) - JIT_BIAS);

		if (jit_fmap[r]) /* vmovsd */
			x86_vex(a, 0, 0, 3, 1, out ? 0x11 : 0x10, jit_fmap[r], 0, m);
	}
	x86_here(a, skip);
}

static void call_c(struct x86 *a, const void *fn, const uint8_t *leave_clean)
{
	move_ints(a, true);
	move_floats(a, true);
	x86_mov(a, RBX, RSP);
	x86_mov(a, RSI, RAX);
	x86_lea(a, RDI, x86_mem(RBP, -JIT_BIAS));
	x86_alu_i(a, X86_64, ALU_AND, x86_reg(RSP), -16);
	x86_mov_i(a, RAX, (uintptr_t)fn);
	x86_call_rm(a, x86_reg(RAX));
	x86_mov(a, RSP, RBX);
	x86_test(a, X86_32, RAX, RAX);
	x86_jcc(a, CC_E, leave_clean);
	move_ints(a, false);
	move_floats(a, false);
	x86_load(a, X86_64, JIT_TLB, HART(cur));
	x86_ret(a);
}

void jit_make_stubs(struct jit *j, struct x86 *a)
{
	const uint8_t *leave, *leave_clean;
	uint8_t *miss, *sentinel;

	/* leave: rax is what enter() returns */
	leave = a->p;
	move_ints(a, true);
	move_floats(a, true);
	leave_clean = a->p;
	x86_load(a, X86_64, RSP, HART(j.host_sp));
	x86_alu_i(a, X86_64, ALU_ADD, x86_reg(RSP), 16);
	for (unsigned i = ARRAY_SIZE(saved); i-- > 0;)
		x86_pop(a, saved[i]);
	x86_ret(a);

	j->leave_fuel = a->p; /* the same as leave_pc, and enter() returns 1 */
	x86_alu(a, X86_64, ALU_ADD, RAX, HART(j.page));
	x86_store(a, X86_64, HART(pc), RAX);
	x86_mov_i(a, RAX, 1);
	x86_jmp(a, leave);

	j->leave_pc = a->p; /* rax: offset in the page */
	x86_alu(a, X86_64, ALU_ADD, RAX, HART(j.page));
	j->leave_va = a->p; /* rax: address */
	x86_store(a, X86_64, HART(pc), RAX);
	x86_zero(a, RAX);
	x86_jmp(a, leave);
	j->leave_link = a->p; /* rax: struct jit_link */
	x86_jmp(a, leave);

	/* rax: address, rcx: its slot, times two. jit_jump_other(); the flags say whether it is there. */
	j->look_again = a->p;
	x86_rorx(a, X86_64, RDX, x86_reg(RAX), 12);
	x86_op_i(a, X86_32, 0x69, RDX, x86_reg(RDX), (int32_t)0x9e3779b1, 4); /* imul */
	x86_rorx(a, X86_32, RDX, x86_reg(RDX), 19);
	x86_alu_i(a, X86_32, ALU_AND, x86_reg(RDX), (JIT_JUMPS - 1) << 1);
	x86_alu_i(a, X86_32, ALU_OR, x86_reg(RDX), 2);
	x86_alu(a, X86_32, ALU_XOR, RCX, x86_reg(RDX));
	x86_load(a, X86_64, RDX, HART(j.jumps));
	x86_alu(a, X86_64, ALU_CMP, RAX, x86_sib(RDX, RCX, 3, 0));
	x86_ret(a);

	j->look_link =
		a->p; /* rax: struct jit_link of code for every context; pc serves to keep it */
	x86_op(a, X86_32, 0x80, ALU_CMP, x86_mem(RAX, offsetof(struct jit_link, by_context)));
	x86_u8(a, 0);
	x86_jcc(a, CC_E, j->leave_link);
	x86_store(a, X86_64, HART(pc), RAX);
	x86_op(a, X86_32, 0x0fb7, RAX, x86_mem(RAX, offsetof(struct jit_link, target)));
	x86_alu(a, X86_64, ALU_ADD, RAX, HART(j.page));
	jit_emit_lookup(a, &miss);
	x86_jmp_rm(a, x86_sib(RDX, RCX, 3, 8));
	x86_here(a, miss);
	jit_emit_look_again(j, a, miss);
	x86_load(a, X86_64, RAX, HART(pc));
	x86_jmp(a, j->leave_link);

	j->jump_va = a->p;
	x86_load(a, X86_64, RSP, HART(j.host_sp));
	jit_emit_lookup(a, &miss);
	x86_jmp_rm(a, x86_sib(RDX, RCX, 3, 8));
	x86_here(a, miss);
	jit_emit_look_again(j, a, miss);
	x86_jmp(a, j->leave_va);

	j->slow_mem = a->p;
	call_c(a, (const void *)(uintptr_t)jit_slow_mem, leave_clean);
	j->slow_op = a->p;
	call_c(a, (const void *)(uintptr_t)jit_slow_op, leave_clean);

	sentinel = a->p;
	x86_zero(a, RAX);
	x86_jmp(a, j->jump_va);

	/* enter(rdi hart, rsi code) */
	j->enter = (void (*)(void))(uintptr_t)jit_rx(j, a->p);
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		x86_push(a, saved[i]);
	x86_lea(a, RBP, x86_mem(RDI, JIT_BIAS));
	x86_mov(a, RAX, RSI);
	move_ints(a, false);
	move_floats(a, false);
	x86_load(a, X86_64, JIT_TLB, HART(cur));
	x86_mov_i(a, RCX, 1);
	x86_push(a, RCX);
	x86_mov_i(a, RCX, (uintptr_t)jit_rx(j, sentinel));
	x86_push(a, RCX);
	x86_store(a, X86_64, HART(j.host_sp), RSP);
	x86_jmp_rm(a, x86_reg(RAX));
}

void jit_emit_lookup(struct x86 *a, uint8_t **miss)
{
	/* jit_jump_slot(), times two: pc bit 0 is zero */
	x86_rorx(a, X86_64, RCX, x86_reg(RAX), 10);
	x86_alu(a, X86_32, ALU_XOR, RCX, x86_reg(RAX));
	x86_alu_i(a, X86_32, ALU_AND, x86_reg(RCX), (JIT_JUMPS - 1) << 1);
	x86_load(a, X86_64, RDX, HART(j.jumps));
	x86_alu(a, X86_64, ALU_CMP, RAX, x86_sib(RDX, RCX, 3, 0));
	*miss = x86_jcc(a, CC_NE, NULL);
	x86_alu_i(a, X86_64, ALU_AND, x86_reg(RAX), -4096);
	x86_store(a, X86_64, HART(j.page), RAX);
}

void jit_emit_look_again(struct jit *j, struct x86 *a, uint8_t *miss)
{
	x86_call(a, j->look_again);
	x86_jcc(a, CC_E, miss + 4);
}
