/*
 * Integer instructions: bodies made from the expressions in insn.def.
 */
#include "cpu/rv64/interp.h"

static inline uint64_t mulh_uu(uint64_t a, uint64_t b)
{
	return (uint64_t)((unsigned __int128)a * b >> 64);
}

static inline uint64_t mulh_ss(uint64_t a, uint64_t b)
{
	return (uint64_t)((__int128)(int64_t)a * (int64_t)b >> 64);
}

static inline uint64_t mulh_su(uint64_t a, uint64_t b)
{
	return mulh_uu(a, b) - ((int64_t)a < 0 ? b : 0);
}

static inline uint64_t div_s64(uint64_t a, uint64_t b)
{
	if (!b)
		return UINT64_MAX;
	if (b == UINT64_MAX) /* also the one overflow: INT64_MIN / -1 */
		return 0 - a;
	return (uint64_t)((int64_t)a / (int64_t)b);
}

static inline uint64_t rem_s64(uint64_t a, uint64_t b)
{
	if (!b)
		return a;
	return b == UINT64_MAX ? 0 : (uint64_t)((int64_t)a % (int64_t)b);
}

static inline uint64_t div_s32(uint64_t a, uint64_t b)
{
	if (!(uint32_t)b)
		return UINT64_MAX;
	if ((uint32_t)b == UINT32_MAX)
		return sext32(0 - a);
	return (uint64_t)(int64_t)((int32_t)a / (int32_t)b);
}

static inline uint64_t rem_s32(uint64_t a, uint64_t b)
{
	if (!(uint32_t)b)
		return sext32(a);
	return (uint32_t)b == UINT32_MAX ? 0 : (uint64_t)(int64_t)((int32_t)a % (int32_t)b);
}

static inline uint64_t rol64(uint64_t a, uint64_t b)
{
	return a << (b & 63) | a >> (-b & 63);
}

static inline uint64_t ror64(uint64_t a, uint64_t b)
{
	return a >> (b & 63) | a << (-b & 63);
}

static inline uint32_t rol32(uint32_t a, uint64_t b)
{
	return a << (b & 31) | a >> (-b & 31);
}

static inline uint32_t ror32(uint32_t a, uint64_t b)
{
	return a >> (b & 31) | a << (-b & 31);
}

/* Each byte that is not zero becomes all ones. */
static inline uint64_t orc_b(uint64_t a)
{
	uint64_t low7 = 0x7f7f7f7f7f7f7f7full;
	uint64_t set = ((a & low7) + low7) | a; /* bit 7 of each byte: byte is not zero */

	return ((set & ~low7) >> 7) * 0xff;
}

/* May blocks go on, or does the run loop have something to do? */
static inline bool chain_ok(struct hart *h)
{
	return RV64_CHAIN && !atomic_load_explicit(&h->poll, memory_order_relaxed) &&
	       h->instret < h->instret_stop;
}

/* A block's last op has set pc: goes straight on where a link is right. `twin` looks for the block, or returns to the run loop. */
#define GO(link, twin) \
	do { \
		struct rv64_block *go_b = (link); \
		if (likely(rv64_block_is(go_b, h, h->pc) && chain_ok(h))) \
			TAIL go_b->ops[0].fn(h, go_b->ops); \
		TAIL twin(h, op); \
	} while (0)

#define OPR(id, text, match, ext, expr) \
	HANDLER(id) \
	{ \
		uint64_t a = RS1, b = RS2; \
		RD = (uint64_t)(expr); \
		NEXT; \
	}
#define OPI(id, text, match, ext, expr) \
	HANDLER(id) \
	{ \
		uint64_t a = RS1, b = (uint64_t)(int64_t)op->imm; \
		RD = (uint64_t)(expr); \
		NEXT; \
	}
/* `b` is unsigned 32-bit here: shift counts need no widening. */
#define SH6(id, text, match, ext, expr) \
	HANDLER(id) \
	{ \
		uint64_t a = RS1; \
		uint32_t b = (uint32_t)op->imm & 63; \
		RD = (uint64_t)(expr); \
		NEXT; \
	}
#define SH5(id, text, match, ext, expr) \
	HANDLER(id) \
	{ \
		uint64_t a = RS1; \
		uint32_t b = (uint32_t)op->imm & 31; \
		RD = (uint64_t)(expr); \
		NEXT; \
	}
#define UNA(id, text, match, ext, expr) \
	HANDLER(id) \
	{ \
		uint64_t a = RS1; \
		RD = (uint64_t)(expr); \
		NEXT; \
	}
/* imm = distance from the block's start << 8 | instructions of the block; rd: halfwords to the next instruction */
#define BR(id, text, match, cond) \
	HANDLER(id) \
	{ \
		uint64_t a = RS1, b = RS2; \
		h->instret += (uint8_t)op->imm; \
		if (cond) { \
			h->pc += (uint64_t)(int64_t)(op->imm >> 8); \
			GO(LINKS(op)->taken, chain_taken); \
		} \
		h->pc += 2u * op->rd; \
		GO(LINKS(op)->fall, chain_fall); \
	}
#include "cpu/rv64/insn.def"

HANDLER(nop)
{
	NEXT;
}

HANDLER(mv)
{
	RD = RS1;
	NEXT;
}

HANDLER(li)
{
	RD = (uint64_t)(int64_t)op->imm;
	NEXT;
}

HANDLER(lui)
{
	TAIL do_li(h, op);
}

HANDLER(auipc)
{
	RD = h->pc + (uint64_t)(int64_t)op->imm;
	NEXT;
}

HANDLER(jal)
{
	uint64_t pc = h->pc;

	RD = pc + 2u * op->rs2;
	h->instret += op->rs1;
	h->pc = pc + (uint64_t)(int64_t)op->imm;
	GO(LINKS(op)->taken, chain_taken);
}

HANDLER(jalr)
{
	uint64_t to = (RS1 + (uint64_t)(int64_t)(op->imm >> 8)) & ~1ull;

	RD = h->pc + 2u * op->rs2;
	h->instret += (uint8_t)op->imm;
	h->pc = to;
	GO(h->ic->jump[rv64_jump_slot(to)], chain_jump);
}

HANDLER(end)
{
	h->instret += (uint32_t)op->imm;
	h->pc += 2u * op->rd;
	GO(LINKS(op)->fall, chain_fall);
}

/*
 * Links that are not right yet. Looking for a block may drop the whole cache, this op included: then there is nothing to remember.
 */

#define CHAIN(name, remember) \
	void name(struct hart *h, const struct rv64_op *op) \
	{ \
		uint64_t drops = h->ic->drops; \
		struct rv64_block *b; \
		if (!chain_ok(h)) \
			return; \
		b = rv64_block_find(h); \
		if (!b) \
			return; \
		if (h->ic->drops == drops) { \
			remember; \
		} \
		TAIL b->ops[0].fn(h, b->ops); \
	}
CHAIN(chain_taken, LINKS(op)->taken = b)
CHAIN(chain_fall, LINKS(op)->fall = b)
CHAIN(chain_jump, )
