/*
 * translate.c: a region's host code.
 *
 *   block:  sub fuel, n ; js -> cold: give it back, leave
 *           its instructions (emit_*.c)
 *           how it ends: jump inside the region | link (a jump that cache.c patches) | lookup by address | call | return
 *   cold ends of all blocks behind them: what is rarely needed, out of the way of the host's caches
 */
#include <stdlib.h>

#include "cpu/rv64/interp.h"
#include "cpu/rv64/jit/inside.h"
#include "cpu/rv64/jit/x86_sse.h"

/* ---- registers ---- */

int jit_src(struct jit_tr *t, unsigned r, int tmp)
{
	if (t->map[r])
		return t->map[r];
	jit_get(t, tmp, r);
	return tmp;
}

void jit_get(struct jit_tr *t, int tmp, unsigned r)
{
	if (t->map[r])
		x86_mov(&t->a, tmp, t->map[r]);
	else if (t->known >> r & 1)
		x86_mov_i(&t->a, tmp, t->value[r]);
	else
		x86_load(&t->a, X86_64, tmp, jit_x(t, r));
}

int jit_dst(const struct jit_tr *t, unsigned r, int tmp)
{
	return t->map[r] ? t->map[r] : tmp;
}

void jit_put(struct jit_tr *t, unsigned r, int reg)
{
	if (!r)
		return;
	t->known &= ~(1u << r);
	t->sx &= ~(1u << r);
	t->low &= ~(1u << r);
	if (t->nlate)
		jit_late_drop(t, r);
	if (reg >= 0 && (!t->map[r] || reg != t->map[r]))
		x86_store(&t->a, X86_64, jit_x(t, r), reg);
}

void jit_full(struct jit_tr *t, unsigned r)
{
	if (!(t->low >> r & 1))
		return;
	x86_op(&t->a, X86_64, 0x63, t->map[r], x86_reg(t->map[r])); /* movsxd */
	t->low &= ~(1u << r);
}

void jit_full_all(struct jit_tr *t)
{
	jit_late_make_all(t);
	while (t->low)
		jit_full(t, (unsigned)__builtin_ctz(t->low));
	jit_fp_settle(t);
}

void jit_put_low(struct jit_tr *t, unsigned r, int reg)
{
	if (!r)
		return;
	if (t->map[r]) {
		if (reg != t->map[r])
			x86_load(&t->a, X86_32, t->map[r], x86_reg(reg));
		jit_put(t, r, -1);
		t->low |= 1u << r;
	} else {
		x86_op(&t->a, X86_64, 0x63, RAX, x86_reg(reg));
		jit_put(t, r, RAX);
	}
	t->sx |= 1u << r;
}

void jit_put_const(struct jit_tr *t, unsigned r, uint64_t v)
{
	if (!r)
		return;
	if (t->nlate)
		jit_late_drop(t, r);
	if (t->map[r])
		x86_mov_i(&t->a, t->map[r], v);
	else if (x86_fits32((int64_t)v))
		x86_store_i(&t->a, X86_64, jit_x(t, r), (int32_t)v);
	else {
		x86_mov_i(&t->a, RAX, v);
		x86_store(&t->a, X86_64, jit_x(t, r), RAX);
	}
	t->known |= 1u << r;
	t->low &= ~(1u << r);
	t->sx = (t->sx & ~(1u << r)) | (uint32_t)x86_fits32((int64_t)v) << r;
	t->value[r] = v;
}

/* ---- mappings ---- */

static void swap(struct jit_tr *t, bool out)
{
	struct x86 *a = &t->a;

	for (const struct jit_hold *h = t->holds; h < t->holds + t->nholds; h++) {
		if (out)
			x86_load(a, X86_64, h->host, h->theirs ? jit_home(h->theirs) : HART(cur));
		else if (h->theirs)
			x86_store(a, X86_64, jit_home(h->theirs), h->host);
	}
	for (unsigned i = 0; i < t->nswaps; i++)
		x86_store(a, X86_64, jit_home(out ? t->swaps[i].ours : t->swaps[i].theirs),
			t->swaps[i].host);
	for (unsigned i = 0; i < t->nfswaps; i++)
		x86_fstore(a, true, jit_fhome(out ? t->fswaps[i].ours : t->fswaps[i].theirs),
			t->fswaps[i].host);
	for (unsigned i = 0; i < t->nswaps; i++)
		x86_load(a, X86_64, t->swaps[i].host,
			jit_home(out ? t->swaps[i].theirs : t->swaps[i].ours));
	for (unsigned i = 0; i < t->nfswaps; i++)
		x86_fload(a, true, t->fswaps[i].host,
			jit_fhome(out ? t->fswaps[i].theirs : t->fswaps[i].ours));
}

void jit_swap_out(struct jit_tr *t)
{
	swap(t, true);
}

void jit_swap_in(struct jit_tr *t)
{
	swap(t, false);
}

static bool swaps(const struct jit_tr *t)
{
	return t->nswaps || t->nfswaps || t->nholds;
}

/* To C, by a stub, and back. */
static void call_stub(struct jit_tr *t, const uint8_t *stub)
{
	for (const struct jit_hold *h = t->holds; h < t->holds + t->nholds; h++)
		x86_store(&t->a, X86_64, jit_near_home(h->slot), h->host);
	jit_swap_out(t);
	x86_call(&t->a, stub);
	jit_swap_in(t);
	for (const struct jit_hold *h = t->holds; h < t->holds + t->nholds; h++)
		x86_load(&t->a, X86_64, h->host, jit_near_home(h->slot));
}

/* ---- ways out of line ---- */

struct jit_cold *jit_cold(struct jit_tr *t, enum jit_cold_kind kind, uint8_t *from)
{
	struct jit_cold *c = &t->colds[t->ncolds];

	if (t->ncolds + 1 < ARRAY_SIZE(t->colds))
		t->ncolds++;
	else
		t->a.full = true;
	*c = (struct jit_cold){
		.kind = kind, .from = from, .back = t->a.p, .low = t->low, .fp = t->fp_late};
	memcpy(c->late, t->late, sizeof(c->late));
	c->nlate = t->nlate;
	if (t->insn)
		c->a = jit_here(t);
	if (kind == COLD_OP)
		c->op = rv64_block_single(&t->insn->in, t->insn->word);
	return c;
}

void jit_cold_op(struct jit_tr *t, uint8_t *from)
{
	jit_cold(t, COLD_OP, from);
}

static struct rv64_block *keep_op(struct jit_tr *t, struct rv64_block *b)
{
	if (!b || t->nops == ARRAY_SIZE(t->ops)) {
		free(b);
		t->a.full = true;
		return NULL;
	}
	return t->ops[t->nops++] = b;
}

static void call_op(struct jit_tr *t, uint32_t where, struct rv64_block *b)
{
	b = keep_op(t, b);
	x86_mov_i(&t->a, RAX, (uintptr_t)b);
	x86_mov_i(&t->a, RDX, where);
	call_stub(t, t->j->slow_op);
}

void jit_emit_op(struct jit_tr *t)
{
	jit_full_all(t);
	call_op(t, jit_here(t), rv64_block_single(&t->insn->in, t->insn->word));
	t->known = t->sx = 1;
	t->boxed = 0;
}

/* A place whose rel32 can be written in one piece while another vCPU runs into it. `before`: bytes of the jump in front of the rel32. */
static void align_rel32(struct jit_tr *t, unsigned before)
{
	static const uint8_t nops[4][3] = {{0}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}};
	unsigned n = -(unsigned)((uintptr_t)t->a.p + before) & 3;

	x86_bytes(&t->a, nops[n], n);
}

static void add_link(struct jit_tr *t, uint8_t *at, uint16_t target)
{
	struct jit_cold *c = jit_cold(t, COLD_LINK, at);

	c->a = t->nlinks;
	if (t->nlinks == ARRAY_SIZE(t->links)) {
		t->a.full = true;
		return;
	}
	t->links[t->nlinks].at = at;
	t->links[t->nlinks++].target = target;
}

enum how { JUMP, CALL, COND };

/* To an address: hart.j.page + off. */
static void jump_out(struct jit_tr *t, enum how how, int32_t off)
{
	struct x86 *a = &t->a;
	uint8_t *miss;

	x86_load(a, X86_64, RAX, HART(j.page));
	if (off)
		x86_alu_i(a, X86_64, ALU_ADD, x86_reg(RAX), off);
	jit_emit_lookup(a, &miss);
	jit_cold(t, COLD_MISS, miss);
	if (how == CALL)
		x86_call_rm(a, x86_sib(RDX, RCX, 3, 8));
	else
		x86_jmp_rm(a, x86_sib(RDX, RCX, 3, 8));
}

static bool in_region(struct jit_tr *t, int64_t off)
{
	return off >= 0 && off < (int64_t)PAGE_SIZE && jit_block_at(t, (unsigned)off);
}

/*
 * Jumps, calls or branches to an offset from the page's start, wherever that is. Calls, and what leaves the region, by the common
 * mapping, which holds already when the region has none of its own.
 */
static void go_common(struct jit_tr *t, enum how how, enum x86_cc cc, int64_t off)
{
	struct x86 *a = &t->a;
	bool outside = off < 0 || off >= (int64_t)PAGE_SIZE;
	bool inside = in_region(t, off);
	unsigned before = how == COND ? 2 : 1;
	uint8_t *at;

	if (outside && how == COND) {
		struct jit_cold *c = jit_cold(t, COLD_VA, x86_jcc(a, cc, NULL));

		c->a = (uint32_t)off;
		return;
	}
	if (outside) {
		jump_out(t, how, (int32_t)off);
		return;
	}
	if (!inside)
		align_rel32(t, before);
	at = how == COND   ? x86_jcc(a, cc, NULL)
	     : how == CALL ? x86_call(a, NULL)
			   : x86_jmp(a, NULL);
	if (!inside) {
		add_link(t, at, (uint16_t)off);
	} else if (t->nfixes < ARRAY_SIZE(t->fixes)) {
		t->fixes[t->nfixes].at = at;
		t->fixes[t->nfixes].entry = how == CALL;
		t->fixes[t->nfixes++].target = (uint16_t)off;
	} else {
		a->full = true;
	}
}

static void go(struct jit_tr *t, enum how how, enum x86_cc cc, int64_t off)
{
	struct jit_cold *c;

	if (!swaps(t) || (how != CALL && in_region(t, off))) {
		go_common(t, how, cc, off);
	} else if (how == COND) {
		c = jit_cold(t, COLD_GO, x86_jcc(&t->a, cc, NULL));
		c->arg[0] = (uint64_t)off;
	} else {
		jit_swap_out(t);
		go_common(t, how, cc, off);
	}
}

static bool is_link_reg(unsigned r)
{
	return r == 1 || r == 5;
}

/* rd = address behind the instruction, which is in rax or rdx afterwards too; pushed for the return when it is a call. */
static void put_return(struct jit_tr *t, const struct rv64_insn *in, int tmp)
{
	struct x86 *a = &t->a;

	x86_load(a, X86_64, tmp, HART(j.page));
	x86_alu_i(a, X86_64, ALU_ADD, x86_reg(tmp), t->insn->off + in->len);
	jit_put(t, in->rd, tmp);
	if (is_link_reg(in->rd))
		x86_push(a, tmp);
}

/* Where a guest call comes back to. */
static void landing(struct jit_tr *t, const struct jit_block *b, bool last)
{
	x86_lea(&t->a, RSP, x86_mem(RSP, 8));
	/* The return has set hart.j.page to where it came back to: the next page, if the call was the last of this one. */
	if (b->next == PAGE_SIZE) {
		jump_out(t, JUMP, 0);
	} else if (last && !in_region(t, b->next)) {
		go_common(t, JUMP, 0, b->next);
	} else {
		jit_swap_in(t);
		if (last)
			go(t, JUMP, 0, b->next);
	}
}

/* A return that the host's stack has foretold. */
static void ret(struct jit_tr *t, const struct rv64_insn *in)
{
	struct x86 *a = &t->a;
	struct jit_cold *c;

	jit_get(t, RAX, in->rs1);
	jit_swap_out(t);
	x86_alu(a, X86_64, ALU_CMP, RAX, x86_mem(RSP, 8));
	c = jit_cold(t, COLD_JUMP, x86_jcc(a, CC_NE, NULL));
	(void)c;
	x86_alu_i(a, X86_64, ALU_AND, x86_reg(RAX), -4096);
	x86_store(a, X86_64, HART(j.page), RAX);
	x86_ret(a);
}

static void jalr(struct jit_tr *t, const struct rv64_insn *in, const struct jit_block *b, bool last)
{
	struct x86 *a = &t->a;
	uint8_t *miss;

	if (!in->rd && is_link_reg(in->rs1) && !in->imm) {
		ret(t, in);
		return;
	}
	jit_emit_va(t, in->rs1, in->imm);
	x86_alu_i(a, X86_64, ALU_AND, x86_reg(RAX), -2);
	if (in->rd)
		put_return(t, in, RDX);
	jit_swap_out(t);
	jit_emit_lookup(a, &miss);
	jit_cold(t, COLD_MISS, miss);
	if (is_link_reg(in->rd)) {
		x86_call_rm(a, x86_sib(RDX, RCX, 3, 8));
		landing(t, b, last);
	} else {
		x86_jmp_rm(a, x86_sib(RDX, RCX, 3, 8));
	}
}

/* Do the low halves of what it compares say all? Both are sign-extended, which keeps their order, and one is not whole. */
static bool narrow(const struct jit_tr *t, const struct rv64_insn *in)
{
	uint32_t both = 1u << in->rs1 | 1u << in->rs2;

	return (t->sx & both) == both && t->low & both;
}

/* Compares for a branch. */
static enum x86_cc compare(struct jit_tr *t, const struct rv64_insn *in)
{
	static const uint8_t cc[] = {[RV_beq - RV_beq] = CC_E,
		[RV_bne - RV_beq] = CC_NE,
		[RV_blt - RV_beq] = CC_L,
		[RV_bge - RV_beq] = CC_GE,
		[RV_bltu - RV_beq] = CC_B,
		[RV_bgeu - RV_beq] = CC_AE};
	/* the same with the sides exchanged */
	static const uint8_t xc[] = {CC_E, CC_NE, CC_G, CC_LE, CC_A, CC_BE};
	unsigned i = in->id - RV_beq, w = narrow(t, in) ? X86_32 : X86_64;
	struct x86 *a = &t->a;

	if (!in->rs2 && t->map[in->rs1]) {
		if (i >= 2 || a->p != t->zero_at || t->map[in->rs1] != t->zero_reg)
			x86_test(a, w, t->map[in->rs1], t->map[in->rs1]);
		return cc[i];
	}
	if (!in->rs1) {
		if (t->map[in->rs2] && i < 2)
			x86_test(a, w, t->map[in->rs2], t->map[in->rs2]);
		else
			x86_alu_i(a, w, ALU_CMP, jit_x(t, in->rs2), 0);
		return xc[i];
	}
	if (t->known >> in->rs2 & 1 && x86_fits32((int64_t)t->value[in->rs2])) {
		x86_alu_i(a, w, ALU_CMP, jit_x(t, in->rs1), (int32_t)t->value[in->rs2]);
		return cc[i];
	}
	if (t->map[in->rs1])
		x86_alu(a, w, ALU_CMP, t->map[in->rs1], jit_x(t, in->rs2));
	else if (t->map[in->rs2])
		x86_alu_to(a, w, ALU_CMP, jit_x(t, in->rs1), t->map[in->rs2]);
	else {
		jit_get(t, RAX, in->rs1);
		x86_alu(a, w, ALU_CMP, RAX, jit_x(t, in->rs2));
	}
	return cc[i];
}

/* The last instruction. `last`: no block follows in memory at b->next. */
static void finish(struct jit_tr *t, const struct jit_block *b, bool last)
{
	const struct rv64_insn *in = &t->insn->in;

	jit_full_all(t);
	switch (b->end) {
	case END_BRANCH:
		go(t, COND, compare(t, in), (int64_t)t->insn->off + in->imm);
		if (last)
			go(t, JUMP, 0, b->next);
		break;
	case END_JAL:
		if (in->rd)
			put_return(t, in, RAX);
		go(t, is_link_reg(in->rd) ? CALL : JUMP, 0, (int64_t)t->insn->off + in->imm);
		if (is_link_reg(in->rd))
			landing(t, b, last);
		break;
	case END_JALR:
		jalr(t, in, b, last);
		break;
	default:
		break;
	}
}

static void one(struct jit_tr *t)
{
	const struct rv64_insn *in = &t->insn->in;

	/* Whatever else it does, writing x0 does nothing; loads still have to be made. */
	if (!in->rd && rv64_writes_only_x(in))
		return;
	if (jit_late_take(t, in))
		return;
	if (t->low) {
		unsigned low = jit_reads_low(t, in);

		if (!(low & 1))
			jit_full(t, in->rs1);
		if (!(low & 2))
			jit_full(t, in->rs2);
	}
	if (jit_emit_int(t, in) || jit_emit_mem(t, in) || jit_emit_csr(t, in))
		return;
	if (t->fp && jit_emit_fp(t, in))
		return;
	jit_emit_op(t);
}

/* A loop of one block is made several times over: copies share looks at the TLB, what is known, and one charge. */
static unsigned copies_of(struct jit_tr *t, const struct jit_block *b)
{
	const struct jit_insn *end = &t->sorted[b->first + b->n - 1];
	unsigned copies = JIT_LOOP_INSNS / b->n;

	copies = copies >= 8 ? 8 : copies >= 4 ? 4 : copies >= 2 ? 2 : 1;

	if (b->end != END_BRANCH || end->off + end->in.imm != b->off)
		return 1;
	if (t->repeated + (copies - 1) * b->n > JIT_REPEATED)
		return 1;
	t->repeated += (copies - 1) * b->n;
	return copies;
}

static void begin_block(struct jit_tr *t)
{
	t->insn = NULL;
	t->known = t->sx = 1;
	t->low = 0;
	t->value[0] = 0;
	t->boxed = 0;
	t->fp_late = (struct jit_fp){0};
	t->nlate = 0;
	t->zero_at = NULL;
}

static void end_block(struct jit_tr *t, const struct jit_block *b, bool last)
{
	if (b->end == END_BRANCH || b->end == END_JAL || b->end == END_JALR) {
		finish(t, b, last);
		return;
	}
	jit_full_all(t);
	if (b->end == END_FALL && last)
		go(t, JUMP, 0, b->next);
	else if (b->end == END_STOP)
		x86_u8(&t->a, 0x0f), x86_u8(&t->a, 0x0b); /* ud2: never reached */
}

static bool jumps(const struct jit_block *b)
{
	return b->end == END_BRANCH || b->end == END_JAL || b->end == END_JALR;
}

/* Out of a block before its end: what was charged for the rest is given back. */
static void cold_side(struct jit_tr *t, struct jit_cold *c)
{
	if (c->arg[0])
		x86_alu_i(&t->a, X86_32, ALU_ADD, x86_reg(JIT_FUEL), (int32_t)c->arg[0]);
	go(t, JUMP, 0, (int64_t)c->arg[1]);
}

/* A branch that is not its block's end: on to the next instruction, or to where it leads; `back`: the other way round. */
static void side(struct jit_tr *t, bool back)
{
	const struct jit_insn *i = t->insn;
	struct jit_cold *c;
	enum x86_cc cc;

	jit_late_need(t, i->in.rs1);
	jit_late_need(t, i->in.rs2);
	if (!narrow(t, &i->in)) {
		jit_full(t, i->in.rs1);
		jit_full(t, i->in.rs2);
	}
	cc = compare(t, &i->in);
	c = jit_cold(t, COLD_CUSTOM, x86_jcc(&t->a, back ? cc ^ 1 : cc, NULL));
	c->custom = cold_side;
	c->arg[0] = t->left - 1;
	c->arg[1] = (uint64_t)(back ? i->off + i->in.len : i->off + i->in.imm);
}

/* Copy number i / b->n of its instruction i % b->n, of n in all. Returns how many were done. */
static unsigned step(struct jit_tr *t, const struct jit_block *b, unsigned i, unsigned n)
{
	bool last = (i + 1) % b->n == 0;

	t->insn = &t->sorted[b->first + i % b->n];
	t->left = n - i;
	t->index = i;
	if (last && jumps(b)) {
		if (i + 1 < n)
			side(t, true);
	} else if (jit_is_branch(t->insn->in.id)) {
		side(t, false);
	} else if (!last && jit_emit_pair(t, &t->insn->in, &t->insn[1].in)) {
		return 2;
	} else {
		one(t);
	}
	return 1;
}

void jit_emit_slow(struct jit_tr *t, struct jit_block *b)
{
	b->slow = t->a.p;
	begin_block(t);
	if (b->copies > 1)
		x86_alu_i(&t->a, X86_32, ALU_ADD, x86_reg(JIT_FUEL), (b->copies - 1) * b->n);
	t->alone = true;
	for (unsigned i = 0; i < b->n;)
		i += step(t, b, i, b->n);
	end_block(t, b, true);
	t->alone = false;
	begin_block(t);
}

static void block(struct jit_tr *t, struct jit_block *b, bool last)
{
	unsigned n = b->n * b->copies;
	struct jit_cold *c;

	b->code = t->a.p;
	b->slow = NULL;
	begin_block(t);
	jit_find_near(t, b);
	x86_alu_i(&t->a, X86_32, ALU_SUB, x86_reg(JIT_FUEL), (int32_t)n);
	c = jit_cold(t, COLD_FUEL, x86_jcc(&t->a, CC_S, NULL));
	c->a = b->off;
	c->b = n;
	jit_emit_early(t, (unsigned)(b - t->blocks));
	for (unsigned i = 0; i < n;)
		i += step(t, b, i, n);
	end_block(t, b, last);
}

static void emit_cold(struct jit_tr *t, struct jit_cold *c)
{
	struct x86 *a = &t->a;
	uint8_t *miss;

	if (c->from)
		x86_here(a, c->from);
	for (uint32_t low = c->low; low; low &= low - 1) {
		int r = t->map[__builtin_ctz(low)];

		x86_op(a, X86_64, 0x63, r, x86_reg(r)); /* movsxd */
	}
	jit_fp_mend(t, &c->fp);
	t->fp_late = (struct jit_fp){0};
	jit_late_cold(t, c);
	t->nlate = 0;
	switch (c->kind) {
	case COLD_MEM:
		x86_mov(a, RAX, (int)c->arg[0]);
		x86_mov_i(a, RDX, c->a);
		x86_mov_i(a, RCX, c->b);
		call_stub(t, t->j->slow_mem);
		x86_jmp(a, c->back);
		break;
	case COLD_OP:
		call_op(t, c->a, c->op);
		x86_jmp(a, c->back);
		break;
	case COLD_LINK:
		t->links[c->a].unlinked = a->p;
		x86_u8(a, 0x48);
		x86_u8(a, 0xb8); /* mov rax, imm64: the link, when there is one */
		x86_u64(a, 0);
		x86_jmp(a, t->uses_fp ? t->j->leave_link : t->j->look_link);
		break;
	case COLD_FUEL:
		x86_alu_i(a, X86_32, ALU_ADD, x86_reg(JIT_FUEL), (int32_t)c->b);
		jit_swap_out(t);
		x86_mov_i(a, RAX, c->a);
		x86_jmp(a, t->j->leave_fuel);
		break;
	case COLD_VA:
		x86_load(a, X86_64, RAX, HART(j.page));
		x86_alu_i(a, X86_64, ALU_ADD, x86_reg(RAX), (int32_t)c->a);
		jit_emit_lookup(a, &miss);
		x86_jmp_rm(a, x86_sib(RDX, RCX, 3, 8));
		x86_here(a, miss);
		jit_emit_look_again(t->j, a, miss);
		x86_jmp(a, t->j->leave_va);
		break;
	case COLD_MISS:
		jit_emit_look_again(t->j, a, c->from);
		x86_jmp(a, t->j->leave_va);
		break;
	case COLD_JUMP:
		x86_alu_i(a, X86_64, ALU_AND, x86_reg(RAX), -2);
		x86_jmp(a, t->j->jump_va);
		break;
	case COLD_ENTRY:
		t->blocks[c->arg[0]].entry = a->p;
		jit_swap_in(t);
		x86_jmp(a, t->blocks[c->arg[0]].code);
		break;
	case COLD_GO:
		jit_swap_out(t);
		go_common(t, JUMP, 0, (int64_t)c->arg[0]);
		break;
	case COLD_CUSTOM:
		c->custom(t, c);
		break;
	}
}

static void drop_ops(struct jit_tr *t)
{
	for (unsigned i = 0; i < t->ncolds; i++)
		if (t->colds[i].kind == COLD_OP && t->colds[i].op)
			free(t->colds[i].op);
	for (unsigned i = 0; i < t->nops; i++)
		free(t->ops[i]);
}

/* What can be found later: entries, links, what it was made from. */
static struct jit_region *record(struct jit_tr *t, const uint8_t *code)
{
	struct jit *j = t->j;
	struct jit_region *r = jit_meta(j, t->lane, sizeof(*r));
	unsigned bytes = 0, n = 0;
	uint8_t *src;

	if (!r)
		return NULL;
	*r = (struct jit_region){.page = t->page,
		.fp = t->uses_fp ? t->fp : JIT_FP_ANY,
		.tier = (uint8_t)t->tier,
		.lane = (uint8_t)t->lane,
		.start = t->start,
		.given_up = t->given_up,
		.nsites = t->nsites,
		.host = t->live,
		.code = jit_rx(j, code),
		.code_len = (uint32_t)(t->a.p - code),
		.insns = t->ninsns,
		.nlinks = t->nlinks,
		.nentries = t->nblocks,
		.nops = t->nops,
		.npieces = t->nblocks};
	for (unsigned i = 0; i < t->nblocks; i++)
		bytes += (unsigned)(t->blocks[i].next - t->blocks[i].off);
	r->links = jit_meta(j, t->lane, t->nlinks * sizeof(*r->links) + 1);
	r->entries = jit_meta(j, t->lane, t->nblocks * sizeof(*r->entries));
	r->ops = jit_meta(j, t->lane, t->nops * sizeof(*r->ops) + 1);
	r->pieces = jit_meta(j, t->lane, t->nblocks * sizeof(*r->pieces));
	r->sites = jit_meta(j, t->lane, t->nsites * sizeof(*r->sites) + 1);
	src = jit_meta(j, t->lane, bytes);
	if (!r->sites || !r->links || !r->entries || !r->ops || !r->pieces || !src)
		return NULL;
	r->source = src;
	memcpy(r->sites, t->sites, t->nsites * sizeof(*r->sites));
	memcpy(r->ops, t->ops, t->nops * sizeof(*r->ops));
	for (unsigned i = 0; i < t->nlinks; i++) {
		r->links[i] = (struct jit_link){.at = t->links[i].at,
			.unlinked = t->links[i].unlinked,
			.from = r,
			.target = t->links[i].target};
		memcpy(t->links[i].unlinked + 2, &(struct jit_link *){&r->links[i]}, 8);
	}
	for (unsigned i = 0; i < t->nblocks; i++) {
		const struct jit_block *b = &t->blocks[i];

		r->entries[i].key = jit_key(t->page + b->off, r->fp);
		r->entries[i].code = jit_rx(j, b->entry);
		r->entries[i].region = r;
		r->pieces[i] = (struct jit_piece){b->off, (uint16_t)(b->next - b->off)};
		/* The words that were decoded, not what memory holds by now. */
		for (unsigned k = 0; k < b->n; k++) {
			const struct jit_insn *in = &t->sorted[b->first + k];

			memcpy(src + n, &in->word, in->in.len);
			n += in->in.len;
		}
	}
	return r;
}

bool jit_emit(struct jit_tr *t, uint8_t *code, uint64_t room)
{
	t->a = (struct x86){.p = code, .end = code + room};
	t->ncolds = t->nfixes = t->nlinks = t->nops = t->repeated = 0;
	t->nswaps = t->nfswaps = t->nsites = t->nholds = 0;
	memset(t->near_host, 0, sizeof(t->near_host));
	t->uses_fp = t->given_up = false;
	t->frm = t->fp & 7;
	for (unsigned i = 0; i < t->ninsns && !t->uses_fp; i++)
		t->uses_fp = rv64_is_fp(&t->sorted[i].in);
	for (unsigned i = 0; i < t->nblocks; i++)
		t->blocks[i].copies = (uint8_t)copies_of(t, &t->blocks[i]);
	if (t->tier > 1)
		jit_choose_map(t);
	for (unsigned i = 0; i < t->nblocks && !t->a.full; i++) {
		struct jit_block *b = &t->blocks[i];

		block(t, b, i + 1 == t->nblocks || t->blocks[i + 1].off != b->next);
		b->entry = b->code;
	}
	t->insn = NULL;
	t->low = 0;
	for (unsigned i = 0; i < t->nblocks && swaps(t) && !t->a.full; i++)
		jit_cold(t, COLD_ENTRY, NULL)->arg[0] = i;
	for (unsigned i = 0; i < t->ncolds && !t->a.full; i++) {
		emit_cold(t, &t->colds[i]);
		t->colds[i].op = NULL;
	}
	for (unsigned i = 0; i < t->nfixes && !t->a.full; i++) {
		const struct jit_block *to = jit_block_at(t, t->fixes[i].target);

		x86_patch(t->fixes[i].at, t->fixes[i].entry ? to->entry : to->code);
	}
	if (t->a.full)
		drop_ops(t);
	return !t->a.full;
}

struct jit_region *jit_record(struct jit_tr *t, uint8_t *code)
{
	struct jit_region *r = record(t, code);

	if (!r)
		drop_ops(t);
	return r;
}

void jit_tell_perf(struct jit_tr *t, const struct jit_region *r)
{
	struct jit *j = t->j;

	for (unsigned i = 0; j->perf && i < t->nblocks; i++) {
		const uint8_t *from = jit_rx(j, t->blocks[i].code);
		const uint8_t *to = i + 1 < t->nblocks ? jit_rx(j, t->blocks[i + 1].code)
						       : r->code + r->code_len;

		jit_perf_note(j->perf, from, (unsigned)(to - from), t->va + t->blocks[i].off);
	}
}

struct jit_region *jit_translate(struct jit_tr *t)
{
	struct jit *j = t->j;
	struct jit_region *r;
	uint64_t room;
	uint8_t *code = jit_code_room(j, LANE_FIRST, &room);

	t->a.full = false;
	if (!code || !jit_emit(t, code, room))
		return NULL;
	r = jit_record(t, code);
	if (!r)
		return NULL;
	jit_publish(j, r, r->code_len);
	jit_tell_perf(t, r);
	j->st.regions++;
	j->st.blocks += t->nblocks;
	j->st.insns += t->ninsns;
	return r;
}
