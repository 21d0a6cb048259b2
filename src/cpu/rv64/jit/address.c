/*
 * address.c: from a guest address to the host's, in line.
 *
 * Alone, an access looks its page up in the TLB:
 *
 *	rorx, and       the slot of the first byte's page
 *	lea, and        the page of the last byte: an access across pages never matches
 *	cmp, jne        the slot's tag, or out of line
 *	mov             the difference between host and guest: the access is [address + difference]
 *
 * Accesses of a block that are near each other (the same base register but for constants: a stack frame, a structure, a step through an
 * array) share one look: the first of them asks for the page of all of them, and leaves the difference in hart.j.near for the others, which
 * need three instructions, or, right behind one of them, only their own. When they are not all in one page, or the page is not in the TLB, the first leaves 0, and each looks for itself,
 * out of line.
 *
 * In the second tier, when the base has its value already where the block begins, the look is made there, and its accesses need nothing of
 * their own: the difference is in a host register if there is one (jit_tr.holds). If such a look fails, the block's slow form runs instead,
 * in which each access looks for itself. A loop of one block is made several times over, so it looks once for several turns.
 *
 * No difference outlives its block, nor an instruction that may change what the TLB is for: so it is never
 * older than the hart's last look at its poll bits.
 */
#include "cpu/rv64/jit/inside.h"

#define NEAR_SPAN 128 /* bytes: few groups this small lie across two pages */
#define GROUPS 24
#define NEAR_FAR (1 << 20) /* offsets that are followed */

struct group {
	unsigned version; /* of the base's value */
	unsigned first, last, n; /* accesses; indices in the block */
	int32_t lo, hi; /* bytes, from that value */
	bool write;
	bool split; /* they were found to lie in two pages: each for itself */
	uint8_t slot;
};

/* ---- which accesses are near each other ---- */

static unsigned access_size(unsigned id, bool *write)
{
	*write = false;
	switch (id) {
	case RV_lb:
	case RV_lbu:
		return 1;
	case RV_lh:
	case RV_lhu:
		return 2;
	case RV_lw:
	case RV_lwu:
	case RV_flw:
		return 4;
	case RV_ld:
	case RV_fld:
		return 8;
	default:
		*write = true;
		return id == RV_sb		     ? 1
		       : id == RV_sh		     ? 2
		       : id == RV_sw || id == RV_fsw ? 4
		       : id == RV_sd || id == RV_fsd ? 8
						     : 0;
	}
}

/* The group that an access of [at, at + size) joins, or a new one; NULL: no room. */
static struct group *join(
	struct group *groups, unsigned *n, unsigned version, int32_t at, int32_t size)
{
	struct group *g;

	for (unsigned i = *n; i-- > 0;) {
		g = &groups[i];
		if (g->version == version && MAX(g->hi, at + size) - MIN(g->lo, at) <= NEAR_SPAN) {
			g->lo = MIN(g->lo, at);
			g->hi = MAX(g->hi, at + size);
			return g;
		}
	}
	if (*n == GROUPS)
		return NULL;
	g = &groups[(*n)++];
	*g = (struct group){.version = version, .lo = at, .hi = at + size};
	return g;
}

/*
 * Groups whose base has its value already when the block begins: those with most accesses have the first slots. Whose first access is not
 * sure to be made, being behind a branch, is not looked for: nothing may be there.
 */
static void settle_early(
	struct jit_tr *t, struct group *groups, unsigned n, unsigned *free_at, unsigned sure)
{
	struct group *best;

	for (t->nearly = 0; t->nearly < JIT_NEAR; t->nearly++) {
		best = NULL;
		for (struct group *g = groups; g < groups + n; g++)
			if (g->version < 32 && !g->slot && !g->split && g->first < sure &&
				g->n > (best ? best->n : 1))
				best = g;
		if (!best)
			return;
		free_at[t->nearly] = best->last + 1;
		best->slot = (uint8_t)(t->nearly + 1);
		t->early[t->nearly] = (struct jit_early){.slot = best->slot,
			.reg = (uint8_t)best->version,
			.n = (uint8_t)best->n,
			.span = (uint8_t)(best->hi - best->lo),
			.write = best->write,
			.index = (uint16_t)best->first,
			.lo = best->lo};
	}
}

/* Gives groups of two and more a slot, and tells their members. */
static void settle(struct jit_tr *t, struct group *groups, unsigned n, const uint8_t *of,
	const int32_t *at, unsigned sure)
{
	unsigned free_at[JIT_NEAR] = {0};

	t->nearly = 0;
	if (t->tier > 1)
		settle_early(t, groups, n, free_at, sure);
	for (unsigned i = 0; i < n; i++) {
		struct group *g = &groups[i];
		bool early = g->slot;

		if (g->n < 2 || g->split)
			continue;
		for (unsigned s = 0; s < JIT_NEAR && !g->slot; s++) {
			if (free_at[s] <= g->first) {
				free_at[s] = g->last + 1;
				g->slot = (uint8_t)(s + 1);
			}
		}
		for (unsigned k = g->first; g->slot && k <= g->last; k++) {
			if (of[k] == i + 1)
				t->near[k] = (struct jit_near){.slot = g->slot,
					.first = k == g->first && !early,
					.early = early,
					.write = g->write,
					.before = (uint8_t)(at[k] - g->lo),
					.span = (uint8_t)(g->hi - g->lo)};
		}
	}
}

struct values {
	unsigned version[32], next; /* registers with the same version differ by their offsets */
	int32_t off[32];
};

static void renew(struct values *v, unsigned rd)
{
	v->version[rd] = v->next++;
	v->off[rd] = 0;
}

/* What an instruction that is no access does to the registers. False: also to what the TLB is for. */
static bool follow(struct values *v, const struct rv64_insn *in)
{
	unsigned fmt = rv64_row(in->id)->fmt;

	if (fmt == FMT_B || (!in->rd && rv64_writes_only_x(in)))
		return true;
	if (in->id == RV_addi && in->rs1) {
		int32_t off = v->off[in->rs1] + in->imm;

		v->version[in->rd] = v->version[in->rs1];
		v->off[in->rd] = off;
		if (off > NEAR_FAR || off < -NEAR_FAR)
			renew(v, in->rd);
		return true;
	}
	if (in->id == RV_add && !in->rs1) {
		v->version[in->rd] = v->version[in->rs2];
		v->off[in->rd] = v->off[in->rs2];
		return true;
	}
	if (rv64_is_fp(in)) {
		if (fmt == FMT_XF || fmt == FMT_XF_RM || fmt == FMT_XFF)
			renew(v, in->rd);
		return true;
	}
	renew(v, in->rd);
	return rv64_writes_only_x(in);
}

void jit_find_near(struct jit_tr *t, const struct jit_block *b)
{
	unsigned insns = b->n * b->copies;
	struct group groups[GROUPS];
	uint8_t of[JIT_BLOCK_INSNS] = {0};
	int32_t at[JIT_BLOCK_INSNS];
	struct values v = {.next = 32};
	unsigned n = 0, sure = insns;

	memset(t->near, 0, (insns + 1) * sizeof(t->near[0]));
	for (unsigned r = 0; r < 32; r++)
		v.version[r] = r;
	for (unsigned i = 0; i < insns; i++) {
		const struct rv64_insn *in = &t->sorted[b->first + i % b->n].in;
		bool write;
		int32_t size = (int32_t)access_size(in->id, &write);
		struct group *g;

		if (jit_is_branch(in->id))
			sure = MIN(sure, i);
		if (!size || (!t->fp && rv64_is_fp(in))) { /* or the interpreter's */
			if (!follow(&v, in))
				for (unsigned r = 0; r < 32; r++)
					renew(&v, r);
			continue;
		}
		at[i] = v.off[in->rs1] + in->imm;
		g = in->rs1 ? join(groups, &n, v.version[in->rs1], at[i], size) : NULL;
		if (g) {
			of[i] = (uint8_t)(g - groups + 1);
			if (!g->n++) {
				g->first = i;
				g->split = jit_split_site(
					t, t->page + t->sorted[b->first + i % b->n].off);
			}
			g->last = i;
			g->write |= write;
		}
		if (!write && !rv64_is_fp(in))
			renew(&v, in->rd);
	}
	settle(t, groups, n, of, at, sure);
	for (unsigned i = 1; i < insns; i++)
		t->near[i].chained = t->near[i].slot && t->near[i].slot == t->near[i - 1].slot &&
				     !t->near[i].first;
}

/* ---- code ---- */

void jit_emit_va(struct jit_tr *t, unsigned rs1, int32_t imm)
{
	struct x86 *a = &t->a;

	if (t->known >> rs1 & 1) {
		x86_mov_i(a, RAX, t->value[rs1] + (uint64_t)(int64_t)imm);
	} else if (t->map[rs1] && imm) {
		x86_lea(a, RAX, x86_mem(t->map[rs1], imm));
	} else {
		x86_load(a, X86_64, RAX, jit_x(t, rs1));
		if (imm)
			x86_alu_i(a, X86_64, ALU_ADD, x86_reg(RAX), imm);
	}
}

/* The register that holds rs1 + imm: rs1's own, or rax. */
static int address_in(struct jit_tr *t, unsigned rs1, int32_t imm)
{
	if (!imm && t->map[rs1])
		return t->map[rs1];
	jit_emit_va(t, rs1, imm);
	return RAX;
}

/* rcx = offset of the TLB's slot for the address in `reg`; its address, where JIT_TLB is given away. */
static void slot_of(struct jit_tr *t, int reg)
{
	struct x86 *a = &t->a;

	x86_rorx(a, X86_32, RCX, x86_reg(reg), PAGE_SHIFT - 4);
	x86_alu_i(a, X86_32, ALU_AND, x86_reg(RCX), (TLB_SIZE - 1) << 4);
	if (t->nholds)
		x86_alu(a, X86_64, ALU_ADD, RCX, HART(cur));
}

static struct x86_rm entry(const struct jit_tr *t, bool write, size_t field)
{
	int32_t at = (int32_t)((write ? offsetof(struct tlb, w) : offsetof(struct tlb, r)) + field);

	return t->nholds ? x86_mem(RCX, at) : x86_sib(JIT_TLB, RCX, 0, at);
}

#define TAG offsetof(struct tlb_entry, tag)
#define ADD offsetof(struct tlb_entry, add)

/* rcx = the difference for the page of [reg, reg + span); the jump when there is none. */
static uint8_t *look(struct jit_tr *t, int reg, unsigned span, bool write)
{
	struct x86 *a = &t->a;
	uint8_t *miss;

	slot_of(t, reg);
	if (span > 1)
		x86_lea(a, RDX, x86_mem(reg, (int32_t)span - 1));
	else
		x86_mov(a, RDX, reg);
	x86_alu_i(a, X86_64, ALU_AND, x86_reg(RDX), -(int32_t)PAGE_SIZE);
	x86_alu(a, X86_64, ALU_CMP, RDX, entry(t, write, TAG));
	miss = x86_jcc(a, CC_NE, NULL);
	x86_load(a, X86_64, RCX, entry(t, write, ADD));
	return miss;
}

static struct x86_rm site(size_t field, unsigned slot)
{
	return x86_mem(RBP, (int32_t)(field + sizeof(struct jit_found) * slot) - JIT_BIAS);
}

#define SITE(field, slot) site(offsetof(struct hart, j.site[0].field), slot)
/* Slots are for short spans or for long ones: how many bytes may begin at an access's place. */
#define SHORT_SPAN 32
static unsigned site_span(unsigned span)
{
	return span > SHORT_SPAN ? NEAR_SPAN : SHORT_SPAN;
}

/* arg[0]: host register, and what is added to it << 32: the address; arg[1]: span, site << 16, write << 32. Finds the page in the TLB, and remembers it. */
static void cold_site(struct jit_tr *t, struct jit_cold *c)
{
	unsigned span = c->arg[1] & 0xffff, slot = c->arg[1] >> 16 & 0xffff;
	int reg = (int)(c->arg[0] & 0xff);
	int32_t off = (int32_t)(c->arg[0] >> 32);
	struct x86 *a = &t->a;
	uint8_t *known, *full;

	x86_alu_i(a, X86_32, ALU_ADD, SITE(missed, slot), 1);
	/* The end of the access itself comes next in the list. */
	if (off)
		x86_lea(a, RAX, x86_mem(reg, off));
	c[1].from = look(t, off ? RAX : reg, span, c->arg[1] >> 32);
	x86_store(a, X86_64, SITE(tag, slot), RDX);
	x86_store(a, X86_64, SITE(add, slot), RCX);
	x86_alu_i(a, X86_32, ALU_CMP, SITE(limit, slot), 0);
	known = x86_jcc8(a, CC_NE);
	x86_store_i(a, X86_64, SITE(limit, slot), (int32_t)(PAGE_SIZE + 1 - site_span(span)));
	x86_load(a, X86_32, RCX, HART(j.nfilled));
	x86_alu_i(a, X86_32, ALU_CMP, x86_reg(RCX), JIT_FILLED);
	full = x86_jcc8(a, CC_AE);
	x86_store_i(a, X86_32,
		x86_sib(RBP, RCX, 2, (int32_t)offsetof(struct hart, j.filled) - JIT_BIAS),
		(int32_t)slot);
	x86_alu_i(a, X86_32, ALU_ADD, HART(j.nfilled), 1);
	x86_here8(a, full);
	x86_here8(a, known);
	x86_jmp(a, c->back);
}

/*
 * look() at reg + off for hot code: what the same access found last time is tried first. Then the difference does not wait for the address, and
 * there is no slot to work out. alone: an access of a power of two, which is aligned or else looked up. The difference comes into `to`.
 */
static uint8_t *look_again(
	struct jit_tr *t, int reg, int32_t off, unsigned span, bool write, bool alone, int to)
{
	struct x86 *a = &t->a;
	struct jit_cold *c;
	uint8_t *from;
	unsigned slot;

	if (t->tier < 2 || t->nsites == ARRAY_SIZE(t->sites) ||
		jit_bad_site(t, t->page + t->insn->off)) {
		if (off)
			x86_lea(a, RAX, x86_mem(reg, off));
		from = look(t, off ? RAX : reg, span, write);
		x86_mov(a, to, RCX);
		return from;
	}
	/* Slots are for reads or for writes: that a page can be read says nothing about writing. */
	slot = t->next_site++ % (JIT_SITES / 4) * 4 + (span > SHORT_SPAN) * 2 + write;
	t->sites[t->nsites++] = (struct jit_site){.off = t->insn->off, .slot = (uint16_t)slot};
	if (alone) {
		x86_op(a, X86_64, 0xc7, 0, x86_reg(RDX));
		x86_u32(a, (uint32_t)(int32_t)(~(int64_t)PAGE_MASK | (int64_t)(span - 1)));
		x86_alu(a, X86_64, ALU_AND, RDX, x86_reg(reg));
		x86_alu(a, X86_64, ALU_CMP, RDX, SITE(tag, slot));
		from = x86_jcc(a, CC_NE, NULL);
	} else {
		if (off)
			x86_lea(a, RDX, x86_mem(reg, off));
		else
			x86_mov(a, RDX, reg);
		x86_alu(a, X86_64, ALU_SUB, RDX, SITE(tag, slot));
		x86_alu(a, X86_64, ALU_CMP, RDX, SITE(limit, slot));
		from = x86_jcc(a, CC_AE, NULL);
	}
	c = jit_cold(t, COLD_CUSTOM, from);
	x86_load(a, X86_64, to, SITE(add, slot));
	c->custom = cold_site;
	c->low = c->nlate = 0; /* nothing leaves here */
	c->fp = (struct jit_fp){0};
	c->arg[0] = (unsigned)reg | (uint64_t)(uint32_t)off << 32;
	c->arg[1] = span | slot << 16 | (uint64_t)write << 32;
	return from;
}

/* The slot's difference = `reg`. */
static void put_near(struct jit_tr *t, unsigned slot, int reg)
{
	if (t->near_host[slot])
		x86_mov(&t->a, t->near_host[slot], reg);
	else
		x86_store(&t->a, X86_64, jit_near_home(slot), reg);
}

/* A register that has it: its own, or rcx. */
static int get_near(struct jit_tr *t, unsigned slot)
{
	if (t->near_host[slot])
		return t->near_host[slot];
	x86_load(&t->a, X86_64, RCX, jit_near_home(slot));
	return RCX;
}

/* Accesses that could not share a look do their own, and all that rely on the same test. */
static void cold_alone(struct jit_tr *t, struct jit_cold *c)
{
	unsigned slot = c->arg[1] & 0xff, chain = (unsigned)(c->arg[1] >> 8);

	if (slot && t->near_host[slot])
		x86_zero(&t->a, t->near_host[slot]);
	else if (slot)
		x86_store_i(&t->a, X86_64, jit_near_home(slot), 0);
	t->insn = (const struct jit_insn *)c->arg[0];
	t->left = c->a >> 12 & 0xff;
	t->alone = true;
	for (; chain--; t->insn++, t->left--) {
		t->known = 1;
		if (!jit_emit_mem(t, &t->insn->in))
			jit_emit_fp(t, &t->insn->in);
	}
	t->alone = false;
	t->insn = NULL;
	x86_jmp(&t->a, c->back);
}

/* This access and those right behind it that find the difference still in rcx. */
static unsigned chain_of(const struct jit_tr *t)
{
	unsigned n = 1;

	while (t->near[t->index + n].chained)
		n++;
	return n;
}

/* A look at the block's start has failed: arg[0] is the block; arg[1]: 1 + its slot, if it has one. */
static void cold_early(struct jit_tr *t, struct jit_cold *c)
{
	struct jit_block *b = &t->blocks[c->arg[0]];

	if (c->arg[1])
		x86_alu_i(&t->a, X86_32, ALU_ADD, SITE(failed, (unsigned)c->arg[1] - 1), 1);
	if (b->slow)
		x86_jmp(&t->a, b->slow);
	else
		jit_emit_slow(t, b);
}

void jit_emit_early(struct jit_tr *t, unsigned number)
{
	struct jit_block *b = &t->blocks[number];

	for (struct jit_early *e = t->early; e < t->early + t->nearly; e++) {
		int reg = t->map[e->reg] ? t->map[e->reg] : address_in(t, e->reg, e->lo);
		int32_t off = t->map[e->reg] ? e->lo : 0;
		int near = t->near_host[e->slot];
		unsigned sites = t->nsites;
		struct jit_cold *c;
		uint8_t *miss;

		t->insn = &t->sorted[b->first + e->index % b->n];
		miss = look_again(t, reg, off, e->span, e->write, false, near ? near : RCX);
		if (!near)
			put_near(t, e->slot, RCX);
		c = jit_cold(t, COLD_CUSTOM, miss);
		c->custom = cold_early;
		c->arg[0] = number;
		c->arg[1] = t->nsites > sites ? 1u + t->sites[sites].slot : 0;
	}
}

/* [rs1 + imm] with the difference in a register. */
static struct x86_rm with(struct jit_tr *t, unsigned rs1, int32_t imm, int near)
{
	if (t->map[rs1])
		return x86_sib(t->map[rs1], near, 0, imm);
	jit_emit_va(t, rs1, imm);
	return x86_sib(RAX, near, 0, 0);
}

struct jit_cold *jit_emit_access(struct jit_tr *t, unsigned rs1, int32_t imm, unsigned size,
	bool write, uint32_t what, struct x86_rm *m)
{
	const struct jit_near *n = &t->near[t->index];
	struct x86 *a = &t->a;
	struct jit_cold *c;
	uint8_t *miss;
	int reg;

	if (t->alone || !n->slot) {
		reg = address_in(t, rs1, imm);
		miss = t->alone ? look(t, reg, size, write)
				: look_again(t, reg, 0, size, write, true, RCX);
		*m = x86_sib(reg, RCX, 0, 0);
		c = jit_cold(t, COLD_MEM, miss);
		c->b = what;
		c->arg[0] = (unsigned)reg;
		return c;
	}
	if (n->early) {
		*m = with(t, rs1, imm,
			n->chained && !t->near_host[n->slot] ? RCX : get_near(t, n->slot));
		return &t->nowhere;
	}
	if (n->chained) {
		*m = with(t, rs1, imm, t->near_host[n->slot] ? t->near_host[n->slot] : RCX);
		return t->chain;
	}
	if (n->first) {
		reg = address_in(t, rs1, imm - n->before);
		miss = look_again(t, reg, 0, n->span, n->write, false, RCX);
		put_near(t, n->slot, RCX);
		*m = x86_sib(reg, RCX, 0, n->before);
	} else {
		int near = get_near(t, n->slot);

		*m = with(t, rs1, imm, near);
		x86_test(a, X86_64, near, near);
		miss = x86_jcc(a, CC_E, NULL);
	}
	c = jit_cold(t, COLD_CUSTOM, miss);
	c->custom = cold_alone;
	c->arg[0] = (uintptr_t)t->insn;
	c->arg[1] = (n->first ? n->slot : 0) | chain_of(t) << 8;
	t->chain = c;
	return c;
}

struct jit_cold *jit_emit_aligned(struct jit_tr *t, unsigned rs1, unsigned size, bool write)
{
	struct x86 *a = &t->a;
	struct jit_cold *c;

	jit_emit_va(t, rs1, 0);
	if (size > 8)
		x86_alu_i(a, X86_64, ALU_AND, x86_reg(RAX), -(int32_t)size);
	slot_of(t, RAX);
	x86_op(a, X86_64, 0xc7, 0, x86_reg(RDX));
	x86_u32(a, (uint32_t)(int32_t)(~(int64_t)PAGE_MASK | (int64_t)(size - 1)));
	x86_alu(a, X86_64, ALU_AND, RDX, x86_reg(RAX));
	x86_alu(a, X86_64, ALU_CMP, RDX, entry(t, write, TAG));
	c = jit_cold(t, COLD_OP, x86_jcc(a, CC_NE, NULL));
	x86_alu(a, X86_64, ALU_ADD, RAX, entry(t, write, ADD));
	return c;
}
