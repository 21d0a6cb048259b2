/* branch_info.c: the table of far branches; branch_info.h says what it is. */
#include "cpu/rv64/frontend/branch_info.h"

#include <string.h>

size_t branch_table_bytes(uint32_t lines)
{
	return sizeof(struct branch_table) + (size_t)lines * sizeof(struct branch_line);
}

void branch_table_init(struct branch_table *b, uint32_t lines)
{
	memset(b, 0, branch_table_bytes(lines));
	b->mask = lines - 1;
}

static bool is_link(unsigned r)
{
	return r == 1 || r == 5;
}

bool branch_is_far(const struct rv64_insn *in, unsigned off, struct branch *out)
{
	int64_t to = (int64_t)off + in->imm;

	*out = (struct branch){.off = (uint8_t)off, .to = (int32_t)to};
	if (in->id == RV_jalr) {
		out->to = BRANCH_UNKNOWN;
		out->kind = is_link(in->rd)    ? BRANCH_INDIRECT_CALL
			    : is_link(in->rs1) ? BRANCH_RETURN
					       : BRANCH_INDIRECT;
		return true;
	}
	if (in->id == RV_jal)
		out->kind = is_link(in->rd) ? BRANCH_CALL : BRANCH_JUMP;
	else if (in->id >= RV_beq && in->id <= RV_bgeu)
		out->kind = BRANCH_COND;
	else
		return false;
	return to < 0 || to >= 2 * (int64_t)BRANCH_LINE;
}

static struct branch_line *slot(const struct branch_table *b, uint64_t pa)
{
	uint64_t n = pa / BRANCH_LINE;

	return (struct branch_line *)&b->lines[(n ^ n >> 12) & b->mask];
}

/* By the opcode alone: most words need no more than this. Unprivileged specification, tables of opcodes and of the C extension. */
static bool may_branch(uint32_t word)
{
	unsigned f3 = word >> 13 & 7;

	switch (word & 3) {
	case 1:
		return f3 >= 5; /* c.j, c.beqz, c.bnez */
	case 2:
		return f3 == 4; /* c.jr, c.jalr, and others */
	case 3:
		return (word & 0x63) == 0x63;
	default:
		return false;
	}
}

const struct branch_line *branch_fill(struct branch_table *b, const struct rv64_decoder *d,
	uint64_t pa, const uint8_t *line, size_t left, unsigned first)
{
	struct branch_line *l = slot(b, pa);

	*l = (struct branch_line){
		.pa = pa & ~(uint64_t)(BRANCH_LINE - 1), .valid = 1, .first = (uint8_t)first};
	b->fills++;
	for (unsigned off = first; off < BRANCH_LINE && l->n < BRANCH_FAR;) {
		struct rv64_insn in;
		uint32_t word = line[off] | (uint32_t)line[off + 1] << 8;
		unsigned len = rv64_insn_len(word);

		if (off + len > left)
			break;
		if (len == 4)
			word |= (uint32_t)line[off + 2] << 16 | (uint32_t)line[off + 3] << 24;
		if (may_branch(word) && rv64_decode(d, word, &in))
			l->n += branch_is_far(&in, off, &l->far[l->n]);
		off += len;
	}
	return l;
}

const struct branch_line *branch_find(const struct branch_table *b, uint64_t pa)
{
	const struct branch_line *l = slot(b, pa);

	return l->valid && l->pa == (pa & ~(uint64_t)(BRANCH_LINE - 1)) ? l : NULL;
}

void branch_learn(struct branch_table *b, uint64_t pa, int32_t to)
{
	struct branch_line *l = slot(b, pa);

	if (branch_find(b, pa) != l)
		return;
	for (unsigned i = 0; i < l->n; i++)
		if (l->far[i].off == pa % BRANCH_LINE && l->far[i].kind >= BRANCH_INDIRECT)
			l->far[i].to = to;
}

void branch_forget(struct branch_table *b, uint64_t pa, uint64_t len)
{
	for (uint64_t at = pa & ~(uint64_t)(BRANCH_LINE - 1); at < pa + len; at += BRANCH_LINE)
		if (branch_find(b, at))
			slot(b, at)->valid = 0;
}
