/*
 * decode.h: from instruction words to rows of the one table (insn.def).
 *
 *   word --rv64_decode()--> struct rv64_insn -- block.c --> struct rv64_op     (what runs)
 *                                            -- disasm.c --> text
 *
 * A decoder is an index over the table for one set of extensions; it is built once for each VM or hart, constant after that, and
 * may be shared by threads. Decoding looks at nothing but the word: what depends on the hart's state (mode, mstatus.FS, frm) is
 * tested by the handlers.
 */
#ifndef LODGE_CPU_RV64_DECODE_H
#define LODGE_CPU_RV64_DECODE_H

#include <stdbool.h>
#include <stdint.h>

enum rv64_ext {
	EXT_I,
	EXT_M,
	EXT_A,
	EXT_F,
	EXT_D,
	EXT_C,
	EXT_CD, /* loads and stores of C that need D too */
	EXT_ZBA,
	EXT_ZBB,
	EXT_ZBS,
	EXT_ZICOND,
	EXT_ZICSR,
	EXT_ZIFENCEI,
	EXT_ZIHINTPAUSE,
	EXT_S, /* privileged instructions */
	EXT_SVINVAL,
	EXT_ZAWRS,
	EXT_ZICBOM,
	EXT_ZICBOZ,
	EXTS
};
#define RV64_EXT_ALL ((1ull << EXTS) - 1)

/* Operand formats. The comment says what is set beside rd, rs1, rs2 and how it is written. */
enum rv64_fmt {
	FMT_NONE,
	FMT_R, /* rd,rs1,rs2 */
	FMT_I, /* rd,rs1,imm */
	FMT_SH6, /* rd,rs1,0ximm */
	FMT_SH5,
	FMT_UNA, /* rd,rs1 */
	FMT_U, /* rd,0ximm; imm is shifted already */
	FMT_J, /* rd,target; imm is the distance */
	FMT_JALR, /* rd,imm(rs1) */
	FMT_B, /* rs1,rs2,target */
	FMT_LOAD, /* rd,imm(rs1) */
	FMT_STORE, /* rs2,imm(rs1) */
	FMT_AMO, /* rd,rs2,(rs1); rm = aq << 1 | rl */
	FMT_LR, /* rd,(rs1); rm as AMO */
	FMT_FENCE, /* imm = fm << 8 | pred << 4 | succ */
	FMT_CSR, /* rd,csr,rs1; imm = csr */
	FMT_CSRI, /* rd,csr,uimm; rs1 = uimm */
	FMT_RS1RS2, /* rs1,rs2 */
	FMT_CBO, /* (rs1) */
	FMT_FLOAD,
	FMT_FSTORE,
	FMT_R4, /* fd,fs1,fs2,fs3,rm */
	FMT_FR, /* fd,fs1,fs2 */
	FMT_FR_RM, /* fd,fs1,fs2,rm */
	FMT_FF_RM, /* fd,fs1,rm */
	FMT_XF, /* rd,fs1 */
	FMT_XF_RM,
	FMT_XFF, /* rd,fs1,fs2 */
	FMT_FX, /* fd,rs1 */
	FMT_FX_RM,
	FMT_CIW, /* the 16-bit formats; each sets the operands of its 32-bit equivalent */
	FMT_CLW,
	FMT_CLD,
	FMT_CFLD,
	FMT_CSW,
	FMT_CSD,
	FMT_CFSD,
	FMT_CI,
	FMT_CIW_NZ, /* c.addiw: rd must not be 0 */
	FMT_CLI,
	FMT_C16SP,
	FMT_CLUI,
	FMT_CSHB,
	FMT_CANDI,
	FMT_CA,
	FMT_CJ,
	FMT_CB,
	FMT_CSLLI,
	FMT_CLWSP,
	FMT_CLDSP,
	FMT_CFLDSP,
	FMT_CSWSP,
	FMT_CSDSP,
	FMT_CFSDSP,
	FMT_CJR,
	FMT_CJALR,
	FMT_CMV,
	FMT_CADD,
};

/* Every row of insn.def has a number, 16-bit encodings too. */
enum rv64_id {
	RV_ILLEGAL,
#define INSN(id, text, match, mask, fmt, ext) RV_##id,
#define RVC(id, text, match, mask, fmt, ext, base) RV_##id,
#include "cpu/rv64/insn.def"
	RV_IDS
};

struct rv64_row {
	const char *text;
	uint32_t match, mask;
	uint8_t fmt; /* enum rv64_fmt */
	uint8_t ext; /* enum rv64_ext */
	uint16_t base; /* what a 16-bit encoding stands for; itself for the others */
};
/* id < RV_IDS. Row RV_ILLEGAL has no match. */
const struct rv64_row *rv64_row(unsigned id);

struct rv64_insn {
	uint16_t id; /* what to execute: never a 16-bit row */
	uint16_t row; /* as it was written */
	uint8_t len; /* 2 or 4 */
	uint8_t rd, rs1, rs2, rs3;
	uint8_t rm;
	int32_t imm;
};

#define DECODER_BUCKETS (256 + 24)
struct rv64_decoder {
	uint16_t first[DECODER_BUCKETS + 1];
	uint16_t rows[1024];
	uint64_t exts;
};

/* `exts`: bit 1 << EXT_x for each extension that the hart has. */
void rv64_decoder_init(struct rv64_decoder *d, uint64_t exts);

/* Length in bytes of the instruction that begins with halfword `low`; longer encodings than 4 are illegal and count as 4. */
static inline unsigned rv64_insn_len(uint32_t low)
{
	return (low & 3) == 3 ? 4 : 2;
}

/*
 * Decodes `word` (for a 16-bit encoding only the low half counts). False when it is not an instruction of this decoder; *out
 * then has id RV_ILLEGAL and its len.
 */
bool rv64_decode(const struct rv64_decoder *d, uint32_t word, struct rv64_insn *out);

/* "zba" and so on; NULL for those that have no name of their own in an ISA string. */
const char *rv64_ext_name(enum rv64_ext ext);

#endif
