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
 * out of line. No difference outlives its block, nor an instruction that may change what the TLB is for: so it is never
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

/* Gives groups of two and more a slot, and tells their members. */
static void settle(
	struct jit_tr *t, struct group *groups, unsigned n, const uint8_t *of, const int32_t *at)
{
	unsigned free_at[JIT_NEAR] = {0};
	uint8_t slot[GROUPS];

	for (unsigned i = 0; i < n; i++) {
		slot[i] = 0;
		if (groups[i].n < 2)
			continue;
		for (unsigned s = 0; s < JIT_NEAR && !slot[i]; s++) {
			if (free_at[s] <= groups[i].first) {
				free_at[s] = groups[i].last + 1;
				slot[i] = (uint8_t)(s + 1);
			}
		}
		for (unsigned k = groups[i].first; slot[i] && k <= groups[i].last; k++) {
			if (of[k] == i + 1)
				t->near[k] = (struct jit_near){.slot = slot[i],
					.first = k == groups[i].first,
					.write = groups[i].write,
					.before = (uint8_t)(at[k] - groups[i].lo),
					.span = (uint8_t)(groups[i].hi - groups[i].lo)};
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

void jit_find_near(struct jit_tr *t, const struct jit_block *b, unsigned insns)
{
	struct group groups[GROUPS];
	uint8_t of[JIT_BLOCK_INSNS] = {0};
	int32_t at[JIT_BLOCK_INSNS];
	struct values v = {.next = 32};
	unsigned n = 0;

	memset(t->near, 0, (insns + 1) * sizeof(t->near[0]));
	for (unsigned r = 0; r < 32; r++)
		v.version[r] = r;
	for (unsigned i = 0; i < insns; i++) {
		const struct rv64_insn *in = &t->sorted[b->first + i % b->n].in;
		bool write;
		int32_t size = (int32_t)access_size(in->id, &write);
		struct group *g;

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
			g->first = g->n++ ? g->first : i;
			g->last = i;
			g->write |= write;
		}
		if (!write && !rv64_is_fp(in))
			renew(&v, in->rd);
	}
	settle(t, groups, n, of, at);
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

/* rcx = offset of the TLB's slot for the address in `reg`. */
static void slot_of(struct x86 *a, int reg)
{
	x86_rorx(a, X86_32, RCX, x86_reg(reg), PAGE_SHIFT - 4);
	x86_alu_i(a, X86_32, ALU_AND, x86_reg(RCX), (TLB_SIZE - 1) << 4);
}

static struct x86_rm entry(bool write, size_t field)
{
	return x86_sib(JIT_TLB, RCX, 0,
		(int32_t)((write ? offsetof(struct tlb, w) : offsetof(struct tlb, r)) + field));
}

#define TAG offsetof(struct tlb_entry, tag)
#define ADD offsetof(struct tlb_entry, add)

/* rcx = the difference for the page of [reg, reg + span); the jump when there is none. */
static uint8_t *look(struct x86 *a, int reg, unsigned span, bool write)
{
	uint8_t *miss;

	slot_of(a, reg);
	if (span > 1)
		x86_lea(a, RDX, x86_mem(reg, (int32_t)span - 1));
	else
		x86_mov(a, RDX, reg);
	x86_alu_i(a, X86_64, ALU_AND, x86_reg(RDX), -(int32_t)PAGE_SIZE);
	x86_alu(a, X86_64, ALU_CMP, RDX, entry(write, TAG));
	miss = x86_jcc(a, CC_NE, NULL);
	x86_load(a, X86_64, RCX, entry(write, ADD));
	return miss;
}

static struct x86_rm site(size_t array, unsigned size, unsigned slot)
{
	return x86_mem(RBP, (int32_t)(array + size * slot) - JIT_BIAS);
}

#define SITE(field, slot) \
	site(offsetof(struct hart, j.field), sizeof(((struct hart *)0)->j.field[0]), slot)
#define SITE_LIMIT (PAGE_SIZE + 1 - NEAR_SPAN)

/* arg[0]: host register of the address; arg[1]: span, site << 16, write << 24. Finds the page in the TLB, and remembers it. */
static void cold_site(struct jit_tr *t, struct jit_cold *c)
{
	unsigned span = c->arg[1] & 0xffff, slot = c->arg[1] >> 16 & 0xff;
	struct x86 *a = &t->a;

	x86_alu_i(a, X86_32, ALU_ADD, SITE(site_missed, slot), 1);
	/* The end of the access itself comes next in the list. */
	c[1].from = look(a, (int)c->arg[0], span, c->arg[1] >> 24);
	x86_store(a, X86_64, SITE(site_tag, slot), RDX);
	x86_store_i(a, X86_32, SITE(site_limit, slot), SITE_LIMIT);
	x86_store(a, X86_64, SITE(site_add, slot), RCX);
	x86_jmp(a, c->back);
}

/*
 * look() for hot code: what the same access found last time is tried first. Then the difference does not wait for the address, and
 * there is no slot to work out. alone: an access of a power of two, which is aligned or else looked up.
 */
static uint8_t *look_again(struct jit_tr *t, int reg, unsigned span, bool write, bool alone)
{
	struct x86 *a = &t->a;
	struct jit_cold *c;
	uint8_t *from;
	unsigned slot;

	if (t->tier < 2 || t->nsites == ARRAY_SIZE(t->sites) ||
		jit_bad_site(t->j, t->page + t->insn->off))
		return look(a, reg, span, write);
	/* Slots are for reads or for writes: that a page can be read says nothing about writing. */
	slot = t->next_site++ % (JIT_SITES / 2) * 2 + write;
	t->sites[t->nsites++] = (struct jit_site){.off = t->insn->off, .slot = (uint8_t)slot};
	if (alone) {
		x86_op(a, X86_64, 0xc7, 0, x86_reg(RDX));
		x86_u32(a, (uint32_t)(int32_t)(~(int64_t)PAGE_MASK | (int64_t)(span - 1)));
		x86_alu(a, X86_64, ALU_AND, RDX, x86_reg(reg));
		x86_alu(a, X86_64, ALU_CMP, RDX, SITE(site_tag, slot));
		from = x86_jcc(a, CC_NE, NULL);
	} else {
		x86_mov(a, RDX, reg);
		x86_alu(a, X86_64, ALU_SUB, RDX, SITE(site_tag, slot));
		x86_load(a, X86_32, RCX, SITE(site_limit, slot));
		x86_alu(a, X86_64, ALU_CMP, RDX, x86_reg(RCX));
		from = x86_jcc(a, CC_AE, NULL);
	}
	x86_load(a, X86_64, RCX, SITE(site_add, slot));
	c = jit_cold(t, COLD_CUSTOM, from);
	c->custom = cold_site;
	c->low = 0; /* nothing leaves here */
	c->fp = (struct jit_fp){0};
	c->arg[0] = (unsigned)reg;
	c->arg[1] = span | slot << 16 | (unsigned)write << 24;
	return from;
}

static struct x86_rm near_slot(unsigned slot)
{
	return x86_mem(RBP, (int32_t)(offsetof(struct hart, j.near) + 8 * (slot - 1)) - JIT_BIAS);
}

/* Accesses that could not share a look do their own, and all that rely on the same test. */
static void cold_alone(struct jit_tr *t, struct jit_cold *c)
{
	unsigned slot = c->arg[1] & 0xff, chain = (unsigned)(c->arg[1] >> 8);

	if (slot)
		x86_store_i(&t->a, X86_64, near_slot(slot), 0);
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
		miss = t->alone ? look(a, reg, size, write) : look_again(t, reg, size, write, true);
		*m = x86_sib(reg, RCX, 0, 0);
		c = jit_cold(t, COLD_MEM, miss);
		c->b = what;
		c->arg[0] = (unsigned)reg;
		return c;
	}
	if (n->chained) {
		reg = t->map[rs1];
		if (!reg)
			jit_emit_va(t, rs1, imm);
		*m = reg ? x86_sib(reg, RCX, 0, imm) : x86_sib(RAX, RCX, 0, 0);
		return t->chain;
	}
	if (n->first) {
		reg = address_in(t, rs1, imm - n->before);
		miss = look_again(t, reg, n->span, n->write, false);
		x86_store(a, X86_64, near_slot(n->slot), RCX);
		*m = x86_sib(reg, RCX, 0, n->before);
	} else {
		x86_load(a, X86_64, RCX, near_slot(n->slot));
		if (t->map[rs1]) {
			*m = x86_sib(t->map[rs1], RCX, 0, imm);
		} else {
			jit_emit_va(t, rs1, imm);
			*m = x86_sib(RAX, RCX, 0, 0);
		}
		x86_test(a, X86_64, RCX, RCX);
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
	slot_of(a, RAX);
	x86_op(a, X86_64, 0xc7, 0, x86_reg(RDX));
	x86_u32(a, (uint32_t)(int32_t)(~(int64_t)PAGE_MASK | (int64_t)(size - 1)));
	x86_alu(a, X86_64, ALU_AND, RDX, x86_reg(RAX));
	x86_alu(a, X86_64, ALU_CMP, RDX, entry(write, TAG));
	c = jit_cold(t, COLD_OP, x86_jcc(a, CC_NE, NULL));
	x86_alu(a, X86_64, ALU_ADD, RAX, entry(write, ADD));
	return c;
}
