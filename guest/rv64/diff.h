/*
 * diff.h: what tests/diff/gen.py writes and diff.c runs. Keep the two in step: offsets are named in gen.py's LAYOUT.
 */
#ifndef GUEST_DIFF_H
#define GUEST_DIFF_H

#include <stdint.h>

#define DIFF_MAGIC 0x6666696465676f6cul
#define DIFF_HEAD 0x80100000ul /* struct diff_head */
#define DIFF_POOL 0x80101000ul /* 256 interesting values for x and f registers */
#define DIFF_CHUNKS 0x80110000ul /* struct diff_chunk[] */
#define DIFF_TABLES 0x80200000ul /* page tables; the first two pages are the special ones */
#define DIFF_PRISTINE 0x80240000ul /* copies of the two special tables */
#define DIFF_SCRATCH 0x80300000ul /* 16 pages that the programs read and write */
#define DIFF_HANDLER 0x80320000ul /* stvec of chunks with delegation: one ecall */

struct diff_head {
	uint64_t magic, nchunks, scratch_bytes;
	uint64_t dump_from, dump_to; /* chunk runs whose every event is printed whole */
	uint64_t every; /* a line of hash each so many chunk runs */
	uint64_t passes; /* the chunks run so many times, each time with other registers */
	uint64_t seed;
	uint64_t quirks; /* defects of the machine that this copy runs on, by tests/diff/KNOWN.md */
};

enum {
	QUIRK_STALE_TVAL =
		1, /* mtval of an illegal mret, sret and so on is some other instruction's word */
};

enum {
	DIFF_TABLES_TOO = 1, /* special tables are restored before and hashed after this chunk */
	DIFF_FOLD = 2, /* the scratch memory is hashed after this chunk */
};

struct diff_chunk {
	uint64_t entry, end;
	uint64_t mode; /* 0 U, 1 S, 3 M */
	uint64_t satp, mstatus, menvcfg, senvcfg, medeleg, counteren;
	uint64_t pmpcfg, pmpaddr[3]; /* entries 0..2; entry 7 allows everything */
	uint64_t flags, fcsr;
	uint64_t
		base[7]; /* start values of x2 x8 x9 x18 x19 x20 x21: what loads and stores go by */
	uint64_t reserved[2];
};

/* The whole state of the program under test; start of the struct is what diff_enter.S knows. */
struct diff_ctx {
	uint64_t x[32]; /* x[0] is unused */
	uint64_t f[32];
	uint64_t fcsr, pc, cause, tval, status;
};

void diff_enter(struct diff_ctx *c);

#endif
