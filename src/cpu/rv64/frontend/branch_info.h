/*
 * branch_info.h: where the far taken branches of guest code are.
 *
 *   a line's 64 bytes --branch_fill()--> its first BRANCH_FAR far branches: where, of what kind, where to --branch_find()--> who fetches ahead
 *
 * A branch is *far* when its target lies neither in its own line nor in the next: fetching on in a straight line does not find it. The
 * table answers before anything of the line has run: take the line together with the next one, or with the target's. Users:
 *   - the translator (jit/form.c): fills a line when it first decodes something of it, and takes what the line calls or jumps to along;
 *   - a model of a front end: fills a line when it moves from the second cache to the first, with a table of the size of that cache.
 *
 * Lines are of guest-physical memory, so that a line serves all addresses under which it is mapped. Targets are distances from the line's first
 * byte: right under every mapping as long as they stay in the page, and beyond it the reader translates the address. The target of an
 * indirect branch is not known until branch_learn() says where it went last.
 *
 * Nobody tells the table that code was changed: who relies on an answer checks it, as the translator does by decoding; or calls
 * branch_forget() where it hears of it.
 *
 * Memory: branch_table_bytes(), by the caller; direct-mapped, a line that meets another takes its place. Threads: none; the translator's is used under the
 * translator's lock.
 */
#ifndef LODGE_CPU_RV64_FRONTEND_BRANCH_INFO_H
#define LODGE_CPU_RV64_FRONTEND_BRANCH_INFO_H

#include <stddef.h>

#include "cpu/rv64/decode.h"

#define BRANCH_LINE 64u
#define BRANCH_FAR 4u /* of a line that are kept, in order of address */
#define BRANCH_UNKNOWN INT32_MIN

enum branch_kind {
	BRANCH_COND, /* beq and the like */
	BRANCH_JUMP, /* jal without a link register */
	BRANCH_CALL, /* jal with one */
	BRANCH_INDIRECT, /* jalr: a jump, */
	BRANCH_INDIRECT_CALL, /* a call, */
	BRANCH_RETURN /* a return, by the hints of the unprivileged specification, section 2.5.1 */
};

struct branch {
	uint8_t off; /* in the line */
	uint8_t kind; /* enum branch_kind */
	int32_t to; /* from the line's first byte; BRANCH_UNKNOWN */
};

struct branch_line {
	uint64_t pa; /* of its first byte */
	uint8_t valid, first, n; /* first: offset from which instructions were decoded */
	struct branch far[BRANCH_FAR];
};

struct branch_table {
	uint32_t mask; /* lines - 1 */
	uint64_t fills;
	struct branch_line lines[];
};

/* lines: a power of two. */
size_t branch_table_bytes(uint32_t lines);
void branch_table_init(struct branch_table *b, uint32_t lines);

/* Is the instruction at `off` of a line a far branch? *out: as it would be in the table. */
bool branch_is_far(const struct rv64_insn *in, unsigned off, struct branch *out);

/*
 * Decodes a line. `line`: its bytes; `left`: how many of them and of what follows may be read, at least BRANCH_LINE; `first`: offset of the
 * first instruction that begins in it (2 when one from the line before reaches into it). Data that looks like a branch counts as one. The
 * answer stays until the next fill.
 */
const struct branch_line *branch_fill(struct branch_table *b, const struct rv64_decoder *d,
	uint64_t pa, const uint8_t *line, size_t left, unsigned first);
/* The line that pa lies in; NULL: not in the table. */
const struct branch_line *branch_find(const struct branch_table *b, uint64_t pa);
/* The indirect branch at pa went to a place `to` bytes from its line's first byte. */
void branch_learn(struct branch_table *b, uint64_t pa, int32_t to);
/* Lines of [pa, pa + len). */
void branch_forget(struct branch_table *b, uint64_t pa, uint64_t len);

#endif
