/*
 * block.h: the decoded-block cache of one hart.
 *
 *   pc --> jump cache (direct-mapped, by virtual pc) --hit--> block
 *            | miss
 *            v
 *          code page cache --> physical table (by guest-physical pc) --hit--> block
 *            | miss: mem_fetch_page(), may trap     | miss
 *            v                                      v
 *                                                 decode, up to a jump, the end of the page or BLOCK_MAX instructions
 *
 * A block is entered only when its `va` is the pc and its `gen` is h->code_gen. That one comparison also guards the links
 * by which jumps remember where they went, so links need no undoing.
 *
 * Invalidation:
 *   - translations change (sfence.vma, PMP, unmap): rv64_code_flush() takes new generation numbers; blocks stay and are
 *     found again through the physical table.
 *   - another address space (satp): rv64_code_space(). The last few spaces keep a generation for their U-mode code. S-mode
 *     has one for all of them, as long as it runs code of global pages only, which are the same in every space; so a
 *     switch of processes forgets neither the kernel nor the processes.
 *   - mode changes: rv64_code_mode(); each mode has a generation of its own, so that a trap and its return cost nothing.
 *   - fence.i (or another frame under the same address): rv64_code_fence_i() begins a new epoch; a block of an older epoch is
 *     compared with memory before its first use. Stores to code therefore need no watching.
 *   - memory of the cache used up: everything is dropped.
 *
 * Threads: the hart's own. Others ask through hart.poll.
 */
#ifndef LODGE_CPU_RV64_BLOCK_H
#define LODGE_CPU_RV64_BLOCK_H

#include "cpu/rv64/decode.h"
#include "cpu/rv64/hart.h"

struct err;

#define BLOCK_MAX 64 /* instructions */
#define BLOCK_JUMP_BITS 12
#define BLOCK_HASH_BITS \
	15 /* more than the arena has blocks: a step along a chain is a cache miss */
#define BLOCK_PAGES 512
#define BLOCK_SPACES 8
#define BLOCK_SEEN 4096
#define BLOCK_ARENA (4ull << 20)
#define BLOCK_ARENA_COLD (1ull << 20) /* where what runs often is translated */

struct rv64_block {
	uint64_t va; /* virtual pc under which it was last found */
	uint64_t gen; /* generation for which `va` is right; 0: none */
	uint64_t pa; /* guest-physical address of its first byte */
	uint64_t pa2; /* of the second page, when its one instruction crosses into it; else 0 */
	struct rv64_block *hash_next;
	uint32_t epoch; /* in which it was last compared with memory */
	uint16_t bytes; /* of guest code */
	uint8_t nops; /* instructions */
	uint8_t slots; /* nops, an end op unless the last is a jump, the links */
	/* ... then a copy of the guest code */
	struct rv64_op ops[];
};

/* Behind the last op: where the block went last. Never NULL; only to be entered after comparing va and gen. */
struct rv64_links {
	struct rv64_block *taken, *fall;
};
_Static_assert(
	sizeof(struct rv64_links) == sizeof(struct rv64_op), "links take the place of an op");

struct rv64_icache {
	struct rv64_block *jump[1u << BLOCK_JUMP_BITS];
	struct rv64_block *hash[1u << BLOCK_HASH_BITS];
	struct code_page {
		uint64_t va, gen;
		const uint8_t *host;
		uint64_t pa;
	} pages[BLOCK_PAGES];
	struct code_space {
		uint64_t key;
		uint64_t gen, map; /* of U-mode; 0: not entered yet */
	} spaces[BLOCK_SPACES];
	unsigned space; /* the one that is current */
	uint64_t gens[4], maps[4]; /* of the other modes, for all spaces */
	bool s_local; /* S-mode has run code from a page that is not global */
	/* Virtual pages that code was fetched from since the last flush (a Bloom filter), and the range of superpages among them. */
	uint64_t seen[BLOCK_SEEN / 64];
	uint64_t super_lo, super_hi;
	uint64_t last_gen;
	unsigned mode;
	uint32_t epoch;
	uint8_t *arena;
	uint64_t arena_bytes;
	uint64_t used;
	uint64_t drops; /* times everything was dropped */
	uint64_t decoded, checked; /* blocks; statistics */
	struct rv64_decoder decoder;
	struct rv64_block
		none; /* what empty slots point to: never matches; last, because a block has no fixed size */
};

/* arena: bytes for decoded blocks; when they are used up, all are decoded again. */
int rv64_icache_create(struct rv64_icache **out, uint64_t exts, uint64_t arena, struct err *e);
void rv64_icache_destroy(struct rv64_icache *ic);

/* The hart now runs in `mode` (enum rv64_priv). */
void rv64_code_mode(struct hart *h, unsigned mode);
/* Code is now translated as `key` says: all of satp, so that address-space identifiers tell spaces apart as in a TLB. */
void rv64_code_space(struct hart *h, uint64_t key);
/* Forgets the translations of every mode and space. */
void rv64_code_flush(struct hart *h);
/* Of the spaces with this identifier (bits 59:44 of the key), but for global pages. */
void rv64_code_flush_asid(struct hart *h, uint64_t asid);
/* Of one address (a page, or the superpage that it is in). Free for addresses that no code came from: most are of data. */
void rv64_code_flush_va(struct hart *h, uint64_t va);
/* Also: code may have changed in memory. */
void rv64_code_fence_i(struct hart *h);

static inline unsigned rv64_jump_slot(uint64_t pc)
{
	return (unsigned)((pc >> 1) ^ (pc >> (BLOCK_JUMP_BITS + 1))) &
	       ((1u << BLOCK_JUMP_BITS) - 1);
}

static inline bool rv64_block_is(const struct rv64_block *b, const struct hart *h, uint64_t pc)
{
	return b->va == pc && b->gen == h->code_gen;
}

/* The block at h->pc; NULL: a trap was taken instead (h->pc is its vector). */
struct rv64_block *rv64_block_lookup(struct hart *h);

static inline struct rv64_block *rv64_block_find(struct hart *h)
{
	struct rv64_block *b = h->ic->jump[rv64_jump_slot(h->pc)];

	return __builtin_expect(rv64_block_is(b, h, h->pc), 1) ? b : rv64_block_lookup(h);
}

/* For the translator. Where the code at h->pc is. False: a trap was taken. */
struct rv64_code_at {
	const uint8_t *host; /* of the first byte */
	uint64_t pa;
	unsigned left; /* bytes to the end of the page, or of what PMP has allowed */
};
bool rv64_code_where(struct hart *h, struct rv64_code_at *out);
/* Where the code at va is, if h has fetched from that page under the translations of now. No trap, no side effect. */
bool rv64_code_known(struct hart *h, uint64_t va, struct rv64_code_at *out);
/*
 * A block of its own for one instruction that is no jump: to be run with h->pc and h->instret right, outside the cache. When it
 * is done h->j.stopped is set, pc and instret are behind it. NULL: out of memory. free() it.
 */
struct rv64_block *rv64_block_single(const struct rv64_insn *in, uint32_t word);
/* Does nothing but write an integer register? Needs the FP state? */
bool rv64_writes_only_x(const struct rv64_insn *in);
bool rv64_is_fp(const struct rv64_insn *in);

/* The word of an op of a block, for the trap value of an illegal instruction. 16-bit encodings are zero-extended. */
uint32_t rv64_op_raw(const struct rv64_op *op);

/* Runs from h->pc until a poll bit, instret_stop, a trap or an exit. */
static inline void rv64_block_run(struct hart *h)
{
	struct rv64_block *b = rv64_block_find(h);

	if (b)
		b->ops[0].fn(h, b->ops);
}

/*
 * Runs one instruction at h->pc, decoded for this once: it retires, traps or posts an exit. It follows no link and leaves none. The way to
 * stop at an exact instruction.
 */
void rv64_block_step(struct hart *h);

#endif
