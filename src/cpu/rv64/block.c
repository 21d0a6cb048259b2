#include "cpu/rv64/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "cpu/rv64/interp.h"
#include "cpu/rv64/jit/jit.h"

#define BLOCK_LARGEST \
	(sizeof(struct rv64_block) + (BLOCK_MAX + 2) * sizeof(struct rv64_op) + 4 * BLOCK_MAX)

static rv64_fn *const handlers[RV_IDS] = {
	[RV_ILLEGAL] = do_illegal,
#define INSN(id, text, match, mask, fmt, ext) [RV_##id] = do_##id,
#include "cpu/rv64/insn.def"
};

static void drop_all(struct rv64_icache *ic)
{
	for (unsigned i = 0; i < ARRAY_SIZE(ic->jump); i++)
		ic->jump[i] = &ic->none;
	memset(ic->hash, 0, sizeof(ic->hash));
	ic->used = 0;
	ic->drops++;
}

int rv64_icache_create(struct rv64_icache **out, uint64_t exts, uint64_t arena, struct err *e)
{
	struct rv64_icache *ic = calloc(1, sizeof(*ic));

	if (!ic)
		return err_set(e, -ENOMEM, "hart: out of memory for its block cache");
	/* Touched only as it fills. */
	ic->arena = malloc(arena);
	ic->arena_bytes = arena;
	if (!ic->arena) {
		free(ic);
		return err_set(e, -ENOMEM, "hart: out of memory for %llu MiB of decoded blocks",
			(unsigned long long)arena >> 20);
	}
	ic->none.va = 1; /* no pc is odd */
	for (unsigned i = 1; i < BLOCK_SPACES; i++)
		ic->spaces[i].key = UINT64_MAX; /* no satp: its mode would be reserved */
	ic->super_lo = UINT64_MAX;
	ic->epoch = 1;
	rv64_decoder_init(&ic->decoder, exts);
	drop_all(ic);
	*out = ic;
	return 0;
}

void rv64_icache_destroy(struct rv64_icache *ic)
{
	if (!ic)
		return;
	free(ic->arena);
	free(ic);
}

/* Numbers are given when they are first wanted and never again: 64 bits do not run out. */
static void choose_gen(struct hart *h)
{
	struct rv64_icache *ic = h->ic;
	bool u = ic->mode == PRIV_U;
	uint64_t *gen = u ? &ic->spaces[ic->space].gen : &ic->gens[ic->mode];
	uint64_t *map = u ? &ic->spaces[ic->space].map : &ic->maps[ic->mode];

	if (!*gen)
		*gen = ++ic->last_gen;
	if (!*map)
		*map = ++ic->last_gen;
	h->code_gen = *gen;
	h->map_gen = *map;
}

void rv64_code_mode(struct hart *h, unsigned mode)
{
	h->ic->mode = mode;
	choose_gen(h);
}

void rv64_code_space(struct hart *h, uint64_t key)
{
	struct rv64_icache *ic = h->ic;
	unsigned i = 0;

	while (i < BLOCK_SPACES && ic->spaces[i].key != key)
		i++;
	if (i == BLOCK_SPACES) {
		/* Replaces the one after the current: the oldest, when they are used in turn. */
		i = (ic->space + 1) % BLOCK_SPACES;
		ic->spaces[i] = (struct code_space){.key = key};
	}
	ic->space = i;
	if (ic->s_local) {
		ic->gens[PRIV_S] = ic->maps[PRIV_S] = 0;
		ic->s_local = false;
	}
	choose_gen(h);
}

void rv64_code_flush(struct hart *h)
{
	struct rv64_icache *ic = h->ic;

	for (unsigned i = 0; i < BLOCK_SPACES; i++)
		ic->spaces[i].gen = ic->spaces[i].map = 0;
	memset(ic->gens, 0, sizeof(ic->gens));
	memset(ic->maps, 0, sizeof(ic->maps));
	ic->s_local = false;
	memset(ic->seen, 0, sizeof(ic->seen));
	ic->super_lo = UINT64_MAX;
	ic->super_hi = 0;
	choose_gen(h);
}

void rv64_code_flush_asid(struct hart *h, uint64_t asid)
{
	struct rv64_icache *ic = h->ic;

	for (unsigned i = 0; i < BLOCK_SPACES; i++)
		if ((ic->spaces[i].key >> 44 & 0xffff) == (asid & 0xffff))
			ic->spaces[i].gen = ic->spaces[i].map = 0;
	if (ic->s_local) {
		ic->gens[PRIV_S] = ic->maps[PRIV_S] = 0;
		ic->s_local = false;
	}
	choose_gen(h);
}

void rv64_code_fence_i(struct hart *h)
{
	struct rv64_icache *ic = h->ic;

	ic->epoch++;
	/* The pages stay where they are: only blocks must be looked at again. */
	for (unsigned i = 0; i < BLOCK_SPACES; i++)
		ic->spaces[i].gen = 0;
	memset(ic->gens, 0, sizeof(ic->gens));
	choose_gen(h);
	if (h->j.jit)
		jit_fence(h->j.jit, h);
}

/* Formats whose rd names an integer register. */
static bool writes_x(unsigned fmt)
{
	switch (fmt) {
	case FMT_R:
	case FMT_I:
	case FMT_SH6:
	case FMT_SH5:
	case FMT_UNA:
	case FMT_U:
	case FMT_J:
	case FMT_JALR:
	case FMT_LOAD:
	case FMT_AMO:
	case FMT_LR:
	case FMT_CSR:
	case FMT_CSRI:
	case FMT_XF:
	case FMT_XF_RM:
	case FMT_XFF:
		return true;
	default:
		return false;
	}
}

/* Formats that do nothing but write rd. */
static bool pure(unsigned fmt)
{
	return fmt == FMT_R || fmt == FMT_I || fmt == FMT_SH6 || fmt == FMT_SH5 || fmt == FMT_UNA ||
	       fmt == FMT_U;
}

static bool ends_block(unsigned id)
{
	switch (id) {
	case RV_ILLEGAL:
	case RV_jal:
	case RV_jalr:
	case RV_beq:
	case RV_bne:
	case RV_blt:
	case RV_bge:
	case RV_bltu:
	case RV_bgeu:
	case RV_ecall:
	case RV_ebreak:
	case RV_sret:
	case RV_mret:
	case RV_wfi:
	case RV_wrs_nto:
	case RV_wrs_sto:
	case RV_pause:
	case RV_fence_i:
	case RV_sfence_vma:
	case RV_sinval_vma:
	case RV_sfence_w_inval:
	case RV_sfence_inval_ir:
	case RV_csrrw:
	case RV_csrrs:
	case RV_csrrc:
	case RV_csrrwi:
	case RV_csrrsi:
	case RV_csrrci:
		return true;
	default:
		return false;
	}
}

/* Jumps and branches leave through their own links; everything else falls into an end op. */
static bool is_jump(unsigned id)
{
	switch (id) {
	case RV_jal:
	case RV_jalr:
	case RV_beq:
	case RV_bne:
	case RV_blt:
	case RV_bge:
	case RV_bltu:
	case RV_bgeu:
		return true;
	default:
		return false;
	}
}

/* Cheaper handlers for common special cases. */
static void simplify(struct rv64_op *op, unsigned id, unsigned fmt)
{
	if (op->rd == 32 && pure(fmt)) {
		op->fn = do_nop;
	} else if (id == RV_lui || (id == RV_addi && op->rs1 == 0)) {
		op->fn = do_li;
	} else if ((id == RV_addi && op->imm == 0) || (id == RV_add && op->rs2 == 0)) {
		op->fn = do_mv;
	} else if (id == RV_add && op->rs1 == 0) {
		op->rs1 = op->rs2;
		op->fn = do_mv;
	}
}

/* `off`: bytes from the block's start; `n`: instructions before this one. */
static void make_op(
	struct rv64_op *op, const struct rv64_insn *in, uint32_t word, unsigned off, unsigned n)
{
	unsigned fmt = rv64_row(in->id)->fmt;

	*op = (struct rv64_op){.fn = handlers[in->id],
		.imm = in->imm,
		.rd = in->rd,
		.rs1 = in->rs1,
		.rs2 = in->rs2,
		.pc2 = (uint8_t)(off / 2)};
	if (!in->rd && writes_x(fmt))
		op->rd = 32;
	switch (fmt) {
	case FMT_B:
		op->imm = (int32_t)((uint32_t)(in->imm + (int32_t)off) << 8 | (n + 1));
		op->rd = (uint8_t)((off + in->len) / 2);
		return;
	case FMT_J:
		op->imm = in->imm + (int32_t)off;
		op->rs1 = (uint8_t)(n + 1);
		op->rs2 = (uint8_t)((off + in->len) / 2);
		return;
	case FMT_JALR:
		op->imm = (int32_t)((uint32_t)in->imm << 8 | (n + 1));
		op->rs2 = (uint8_t)((off + in->len) / 2);
		return;
	case FMT_AMO:
	case FMT_LR:
		op->imm = in->rm;
		return;
	case FMT_R4:
	case FMT_FR_RM:
	case FMT_FF_RM:
	case FMT_XF_RM:
	case FMT_FX_RM:
		op->imm = in->rm | in->rs3 << 8;
		return;
	default:
		break;
	}
	if (in->id == RV_ILLEGAL)
		op->imm = (int32_t)(in->len == 2 ? word & 0xffff : word);
	if (in->id == RV_auipc)
		op->imm += (int32_t)off;
	simplify(op, in->id, fmt);
}

static unsigned seen_slot(uint64_t va)
{
	uint64_t k = va >> PAGE_SHIFT;

	return (unsigned)(k ^ k >> 12 ^ k >> 24) & (BLOCK_SEEN - 1);
}

static void note_page(struct rv64_icache *ic, uint64_t page, const struct code_at *at)
{
	unsigned i = seen_slot(page);

	ic->seen[i / 64] |= 1ull << i % 64;
	if (ic->mode == PRIV_S && !at->global)
		ic->s_local = true;
	if (at->span > PAGE_SIZE) {
		ic->super_lo = MIN(ic->super_lo, page & ~(at->span - 1));
		ic->super_hi = MAX(ic->super_hi, page | (at->span - 1));
	}
}

void rv64_code_flush_va(struct hart *h, uint64_t va)
{
	const struct rv64_icache *ic = h->ic;
	unsigned i = seen_slot(va);

	if (ic->seen[i / 64] >> i % 64 & 1 || (va >= ic->super_lo && va <= ic->super_hi))
		rv64_code_flush(h);
}

static bool fetch(struct hart *h, uint64_t va, struct rv64_code_at *s)
{
	/* Spaces that use the same addresses should not meet in one slot. */
	struct code_page *p = &h->ic->pages[((va >> PAGE_SHIFT) + h->map_gen * 17) % BLOCK_PAGES];
	uint64_t page = va & ~PAGE_MASK, off = va & PAGE_MASK;

	if (p->va != page || p->gen != h->map_gen) {
		struct code_at at;

		if (!mem_fetch_page(h, va, &at))
			return false;
		note_page(h->ic, page, &at);
		if (at.alone) {
			*s = (struct rv64_code_at){.host = at.host, .pa = at.gpa.v, .left = 2};
			return true;
		}
		/* Filled after the call: a trap may have changed the generation. */
		p->va = page;
		p->gen = h->map_gen;
		p->host = (const uint8_t *)at.host - off;
		p->pa = at.gpa.v - off;
	}
	s->host = p->host + off;
	s->pa = p->pa + off;
	s->left = (unsigned)(PAGE_SIZE - off);
	return true;
}

static uint16_t halfword(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

/*
 * Decodes from `s` until the block ends or has `max` instructions. `high`: the second half of an instruction that crosses the page, when
 * it is the first; NULL otherwise. The guest may write the code meanwhile: every halfword is read once, into `code`.
 */
static void decode_block(struct rv64_icache *ic, struct rv64_block *b, const struct rv64_code_at *s,
	const uint8_t *high, unsigned max, uint16_t *code)
{
	unsigned off = 0, n = 0, id = RV_ILLEGAL;

	while (n < max && off + 2 <= s->left) {
		struct rv64_insn in;
		uint32_t word = halfword(s->host + off);
		unsigned len = rv64_insn_len(word);

		if (off + len > s->left && !high)
			break;
		code[off / 2] = (uint16_t)word;
		if (len == 4) {
			const uint8_t *p = off + 4 > s->left ? high : s->host + off + 2;

			code[off / 2 + 1] = halfword(p);
			word |= (uint32_t)code[off / 2 + 1] << 16;
		}
		rv64_decode(&ic->decoder, word, &in);
		make_op(&b->ops[n], &in, word, off, n);
		off += len;
		n++;
		id = in.id;
		if (high || ends_block(id))
			break;
	}
	b->bytes = (uint16_t)off;
	b->nops = (uint8_t)n;
	b->slots = (uint8_t)n;
	if (!is_jump(id))
		b->ops[b->slots++] = (struct rv64_op){.fn = do_end,
			.imm = (int32_t)n,
			.rd = (uint8_t)(off / 2),
			.pc2 = (uint8_t)(off / 2)};
	*(struct rv64_links *)&b->ops[b->slots++] = (struct rv64_links){&ic->none, &ic->none};
}

static void *raw_of(const struct rv64_block *b)
{
	return (void *)&b->ops[b->slots];
}

uint32_t rv64_op_raw(const struct rv64_op *op)
{
	const struct rv64_block *b = container_of(op - op_index(op), struct rv64_block, ops[0]);
	const uint16_t *code = raw_of(b);
	uint32_t w = code[op->pc2];

	return rv64_insn_len(w) == 2 ? w : w | (uint32_t)code[op->pc2 + 1] << 16;
}

/* Is the guest's code still what the block was made from? */
static bool same_code(const struct rv64_block *b, const struct rv64_code_at *s, const uint8_t *high)
{
	const uint8_t *raw = raw_of(b);
	unsigned here = b->bytes <= s->left ? b->bytes : s->left;

	if (memcmp(raw, s->host, here))
		return false;
	return here == b->bytes || (high && !memcmp(raw + here, high, b->bytes - here));
}

static struct rv64_block **hash_slot(struct rv64_icache *ic, uint64_t pa)
{
	/* Fibonacci hashing: code lies close together, and at the same offsets in many pages. */
	return &ic->hash[(pa >> 1) * 0x9e3779b97f4a7c15ull >> (64 - BLOCK_HASH_BITS)];
}

static struct rv64_block *find_physical(
	struct rv64_icache *ic, const struct rv64_code_at *s, const struct rv64_code_at *second)
{
	struct rv64_block **p = hash_slot(ic, s->pa);
	uint64_t pa2 = second ? second->pa : 0;

	for (; *p; p = &(*p)->hash_next) {
		struct rv64_block *b = *p;

		if (b->pa != s->pa || b->pa2 != pa2)
			continue;
		/* Made when more of the page could be fetched than now. */
		if (s->left == 2 && b->bytes > (second ? 4 : 2))
			continue;
		if (b->epoch == ic->epoch)
			return b;
		ic->checked++;
		if (same_code(b, s, second ? second->host : NULL)) {
			b->epoch = ic->epoch;
			return b;
		}
		*p = b->hash_next; /* its memory comes back with the whole arena */
		return NULL;
	}
	return NULL;
}

static struct rv64_block *make_block(
	struct rv64_icache *ic, const struct rv64_code_at *s, const struct rv64_code_at *second)
{
	struct rv64_block **slot, *b;
	uint16_t code[2 * BLOCK_MAX];

	if (ic->used + BLOCK_LARGEST > ic->arena_bytes)
		drop_all(ic);
	b = (struct rv64_block *)(ic->arena + ic->used);
	decode_block(ic, b, s, second ? second->host : NULL, BLOCK_MAX, code);
	memcpy(raw_of(b), code, b->bytes);
	ic->used += align_up(sizeof(*b) + b->slots * sizeof(b->ops[0]) + b->bytes, 16);
	b->pa = s->pa;
	b->pa2 = second ? second->pa : 0;
	b->epoch = ic->epoch;
	slot = hash_slot(ic, s->pa);
	b->hash_next = *slot;
	*slot = b;
	ic->decoded++;
	return b;
}

/* Where the instruction at h->pc is; *cross: `second` has its other half, on the next page. False: a trap was taken. */
static bool fetch_first(
	struct hart *h, struct rv64_code_at *s, struct rv64_code_at *second, bool *cross)
{
	if (!fetch(h, h->pc, s))
		return false;
	*cross = s->left == 2 && rv64_insn_len(halfword(s->host)) == 4;
	return !*cross || fetch(h, h->pc + 2, second);
}

struct rv64_block *rv64_block_lookup(struct hart *h)
{
	struct rv64_icache *ic = h->ic;
	struct rv64_code_at s, second;
	struct rv64_block *b;
	bool cross;

	if (!fetch_first(h, &s, &second, &cross))
		return NULL;
	b = find_physical(ic, &s, cross ? &second : NULL);
	if (!b)
		b = make_block(ic, &s, cross ? &second : NULL);
	b->va = h->pc;
	b->gen = h->code_gen;
	ic->jump[rv64_jump_slot(h->pc)] = b;
	return b;
}

/* ---- for the translator ---- */

bool rv64_code_known(struct hart *h, uint64_t va, struct rv64_code_at *out)
{
	const struct code_page *p =
		&h->ic->pages[((va >> PAGE_SHIFT) + h->map_gen * 17) % BLOCK_PAGES];

	return p->va == (va & ~PAGE_MASK) && p->gen == h->map_gen && fetch(h, va, out);
}

bool rv64_code_where(struct hart *h, struct rv64_code_at *out)
{
	return fetch(h, h->pc, out);
}

struct rv64_block *rv64_block_single(const struct rv64_insn *in, uint32_t word)
{
	struct rv64_block *b = calloc(1, sizeof(*b) + 3 * sizeof(b->ops[0]));

	if (!b)
		return NULL;
	b->bytes = in->len;
	b->nops = 1;
	b->slots = 2;
	make_op(&b->ops[0], in, word, 0, 0);
	b->ops[1] = (struct rv64_op){.fn = do_stop, .rd = in->len / 2, .pc2 = in->len / 2};
	memcpy(raw_of(b), &word, in->len);
	return b;
}

bool rv64_writes_only_x(const struct rv64_insn *in)
{
	return pure(rv64_row(in->id)->fmt);
}

bool rv64_is_fp(const struct rv64_insn *in)
{
	unsigned fmt = rv64_row(in->id)->fmt;

	return fmt >= FMT_FLOAD && fmt <= FMT_FX_RM;
}

void rv64_block_step(struct hart *h)
{
	/* The op, an end op, links, a copy of the code. */
	_Alignas(16) uint8_t room[sizeof(struct rv64_block) + 4 * sizeof(struct rv64_op)] = {0};
	struct rv64_block *one = (struct rv64_block *)room;
	struct rv64_code_at s, second;
	uint64_t stop = h->instret_stop;
	uint16_t code[2];
	bool cross;

	if (!fetch_first(h, &s, &second, &cross))
		return;
	decode_block(h->ic, one, &s, cross ? second.host : NULL, 1, code);
	memcpy(raw_of(one), code, one->bytes);
	h->instret_stop = 0; /* nothing follows it */
	one->ops[0].fn(h, one->ops);
	h->instret_stop = stop;
}
