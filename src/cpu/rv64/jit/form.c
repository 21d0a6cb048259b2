/*
 * form.c: which instructions make a region: everything that can be reached from its first instruction by direct jumps and branches within
 * the page and has been executed before (it is warm in the heat table), so that code that never runs is not translated.
 *
 * The first tier takes a line together with where its far branches go (branch_info.h): what it calls in the page becomes part of the region, and
 * targets in other pages are left in jit_tr.pairs, to be translated in the same pass. Regions do not cross pages: two pages
 * that lie next to each other now need not tomorrow, and the way between them is the jump table, which belongs to the translations of now.
 */
#include "cpu/rv64/jit/inside.h"

static uint32_t halfword(const struct jit_tr *t, unsigned off)
{
	return __atomic_load_n((const uint16_t *)(t->host + off), __ATOMIC_RELAXED);
}

static bool never_goes_on(unsigned id)
{
	switch (id) {
	case RV_ILLEGAL:
	case RV_ecall:
	case RV_ebreak:
	case RV_sret:
	case RV_mret:
		return true;
	default:
		return false;
	}
}

/* c.mv is add with x0: as addi, which emitters and address.c take for what it is. */
static void plain_move(struct rv64_insn *in)
{
	if (in->id != RV_add || (in->rs1 && in->rs2))
		return;
	in->id = RV_addi;
	in->rs1 |= in->rs2;
	in->rs2 = 0;
	in->imm = 0;
}

struct todo {
	uint16_t off[2 * JIT_REGION_BLOCKS];
	unsigned n;
};

/* A block begins there. */
static void lead(struct jit_tr *t, unsigned off)
{
	if (t->leader[off / 2] || t->nled == ARRAY_SIZE(t->led))
		return;
	t->leader[off / 2] = 1;
	t->led[t->nled++] = (uint16_t)(off / 2);
}

/* Is there code already, to which a jump will be linked? The second tier replaces that of the first. */
static bool there(struct jit_tr *t, unsigned off)
{
	const struct jit_entry *e = jit_find(t->j, t->page + off, t->fp);

	return e && e->region->tier >= t->tier && e->region != t->replaces;
}

/* Has it run? */
static bool warm(struct jit_tr *t, unsigned off)
{
	return jit_heat(t->j, t->page + off) ||
	       (t->tier > 1 && jit_find(t->j, t->page + off, t->fp));
}

/* `sure`: it runs whenever what leads there does. */
static void want(struct jit_tr *t, struct todo *w, int64_t off, bool sure)
{
	if (off < 0 || off >= (int64_t)PAGE_SIZE)
		return;
	if (!sure && !warm(t, (unsigned)off))
		return;
	if (t->at[off / 2]) {
		lead(t, (unsigned)off);
		return;
	}
	if (there(t, (unsigned)off))
		return;
	if (w->n == ARRAY_SIZE(w->off) || t->nblocks >= JIT_REGION_BLOCKS / 2)
		return;
	t->nblocks++;
	lead(t, (unsigned)off);
	w->off[w->n++] = (uint16_t)off;
}

/* Something of a line is decoded: what it branches to, far away, is wanted too. */
static void take_along(struct jit_tr *t, struct todo *w, unsigned off)
{
	unsigned start = off & ~(BRANCH_LINE - 1);
	uint64_t pa = t->page + start;
	const struct branch_line *l = branch_find(t->j->branches, pa);

	if (!l || l->first > off - start)
		l = branch_fill(t->j->branches, &t->j->decoder, pa, t->host + start,
			PAGE_SIZE - start, off - start);
	for (unsigned i = 0; i < l->n; i++) {
		int64_t to = (int64_t)start + l->far[i].to;
		unsigned n = w->n;

		/* Branches are followed where they are reached. */
		if (l->far[i].kind != BRANCH_CALL && l->far[i].kind != BRANCH_JUMP)
			continue;
		if (to >= 0 && to < (int64_t)PAGE_SIZE) {
			want(t, w, to, false);
			t->j->st.taken_along += w->n - n;
		} else if (t->npairs < ARRAY_SIZE(t->pairs)) {
			t->pairs[t->npairs++] = to;
		}
	}
}

/* Decodes from `off` to the end of its straight line. */
static void line(struct jit_tr *t, struct todo *w, unsigned off)
{
	unsigned start = off, seen = UINT32_MAX;
	unsigned most = t->tier == 1 ? JIT_PASS_INSNS : JIT_REGION_INSNS;
	uint64_t lines = __atomic_load_n(&t->j->lines[jit_page_hash(t->page)], __ATOMIC_RELAXED);

	while (off + 2 <= PAGE_SIZE && !t->at[off / 2] && t->ninsns < most) {
		struct jit_insn *i = &t->insns[t->ninsns];
		uint32_t word = halfword(t, off);

		if (off != start && lines >> off / 64 & 1 && there(t, off))
			return;

		if (rv64_insn_len(word) == 4) {
			if (off + 4 > PAGE_SIZE)
				return;
			word |= halfword(t, off + 2) << 16;
		}
		if (off / BRANCH_LINE != seen && t->lane == LANE_FIRST && !t->j->o.alone)
			take_along(t, w, off);
		seen = off / BRANCH_LINE;
		rv64_decode(&t->j->decoder, word, &i->in);
		plain_move(&i->in);
		i->word = word;
		i->off = (uint16_t)off;
		t->at[off / 2] = (uint16_t)++t->ninsns;
		t->lo = MIN(t->lo, off / 2);
		t->hi = MAX(t->hi, off / 2);
		if (jit_is_branch(i->in.id)) {
			want(t, w, (int64_t)off + i->in.imm, false);
			want(t, w, off + i->in.len, false);
			return;
		}
		if (i->in.id == RV_jal) {
			if (i->in.rd)
				want(t, w, off + i->in.len, true);
			else
				want(t, w, (int64_t)off + i->in.imm, true);
			return;
		}
		if (i->in.id == RV_jalr) {
			if (i->in.rd)
				want(t, w, off + i->in.len, true);
			return;
		}
		off += i->in.len;
		if (never_goes_on(i->in.id))
			return;
	}
	if (off < PAGE_SIZE && t->at[off / 2])
		lead(t, off);
}

static enum jit_end end_of(const struct rv64_insn *in)
{
	return jit_is_branch(in->id)   ? END_BRANCH
	       : in->id == RV_jal      ? END_JAL
	       : in->id == RV_jalr     ? END_JALR
	       : never_goes_on(in->id) ? END_STOP
				       : END_FALL;
}

/* Instructions in address order, as blocks. */
static void cut(struct jit_tr *t)
{
	struct jit_insn *sorted = t->sorted;
	struct jit_block *b = NULL;
	unsigned n = 0;

	t->nblocks = 0;
	for (unsigned hw = t->lo; hw <= t->hi; hw++) {
		const struct jit_insn *i;

		if (!t->at[hw])
			continue;
		i = &t->insns[t->at[hw] - 1];
		if (!b || t->leader[hw] || b->next != i->off || b->n == JIT_BLOCK_INSNS) {
			if (t->nblocks == JIT_REGION_BLOCKS)
				break;
			b = &t->blocks[t->nblocks++];
			*b = (struct jit_block){.off = i->off, .first = (uint16_t)n};
			t->block_at[hw] = (uint16_t)t->nblocks;
		}
		sorted[n++] = *i;
		b->n++;
		b->next = (uint16_t)(i->off + i->in.len);
		b->end = end_of(&i->in);
		if (b->end != END_FALL)
			b = NULL;
	}
}

static int64_t target(const struct jit_insn *i)
{
	return (int64_t)i->off + i->in.imm;
}

/* Which blocks have another way to them than from the block before. */
static void find_targets(struct jit_tr *t, bool *is_target)
{
	for (unsigned i = 0; i < t->nblocks; i++) {
		const struct jit_block *b = &t->blocks[i], *to = NULL;
		const struct jit_insn *end = &t->sorted[b->first + b->n - 1];
		int64_t at = target(end);

		is_target[i] |= b->off == t->start || !i || b->end == END_STOP;
		if ((b->end == END_BRANCH || b->end == END_JAL) && at >= 0 &&
			at < (int64_t)PAGE_SIZE)
			to = jit_block_at(t, (unsigned)at);
		if (to)
			is_target[to - t->blocks] = true;
	}
}

/*
 * The second tier: a block that is reached from the one before only, when its branch is not taken, becomes part of it: one charge, and what
 * is known of registers and pages goes on. Not when the branch closes a loop, nor when it skips just this block: then both ways are as likely.
 */
static void merge(struct jit_tr *t)
{
	bool is_target[JIT_REGION_BLOCKS] = {false};
	unsigned n = 0;

	find_targets(t, is_target);
	for (unsigned i = 1; i < t->nblocks; i++) {
		struct jit_block *a = &t->blocks[n], *b = &t->blocks[i];
		int64_t other = target(&t->sorted[a->first + a->n - 1]);

		if (a->end == END_BRANCH && a->next == b->off && !is_target[i] && other > a->next &&
			other != b->next && a->n + b->n <= JIT_BLOCK_INSNS) {
			t->block_at[b->off / 2] = 0;
			a->n += b->n;
			a->next = b->next;
			a->end = b->end;
		} else {
			t->blocks[++n] = *b;
			t->block_at[b->off / 2] = (uint16_t)(n + 1);
		}
	}
	t->nblocks = n + 1;
}

struct jit_block *jit_block_at(struct jit_tr *t, unsigned off)
{
	unsigned i = t->block_at[off / 2];

	return i ? &t->blocks[i - 1] : NULL;
}

bool jit_form(struct jit_tr *t, unsigned off)
{
	struct todo w = {0};

	/* The tables are empty, but for what the last region used, and for leaders that were never reached. */
	if (t->lo <= t->hi) {
		memset(t->at + t->lo, 0, (t->hi - t->lo + 1) * sizeof(t->at[0]));
		memset(t->block_at + t->lo, 0, (t->hi - t->lo + 1) * sizeof(t->block_at[0]));
	}
	for (unsigned i = 0; i < t->nled; i++)
		t->leader[t->led[i]] = 0;
	t->nled = 0;
	t->lo = PAGE_SIZE;
	t->hi = 0;
	t->ninsns = t->nblocks = t->npairs = 0;
	t->start = (uint16_t)off;
	want(t, &w, off, true);
	while (w.n)
		line(t, &w, w.off[--w.n]);
	if (!t->ninsns)
		return false;
	cut(t);
	if (t->tier > 1)
		merge(t);
	return true;
}
