#include "cpu/rv64/decode.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "base/util.h"

static const struct rv64_row rows[RV_IDS] = {
#define INSN(id, text, match, mask, fmt, ext) \
	[RV_##id] = {text, match, mask, FMT_##fmt, EXT_##ext, RV_##id},
#define RVC(id, text, match, mask, fmt, ext, base) \
	[RV_##id] = {text, match, mask, FMT_##fmt, EXT_##ext, RV_##base},
#include "cpu/rv64/insn.def"
};

static const char *const ext_names[EXTS] = {
	[EXT_I] = "i",
	[EXT_M] = "m",
	[EXT_A] = "a",
	[EXT_F] = "f",
	[EXT_D] = "d",
	[EXT_C] = "c",
	[EXT_ZBA] = "zba",
	[EXT_ZBB] = "zbb",
	[EXT_ZBS] = "zbs",
	[EXT_ZICOND] = "zicond",
	[EXT_ZICSR] = "zicsr",
	[EXT_ZIFENCEI] = "zifencei",
	[EXT_ZIHINTPAUSE] = "zihintpause",
	[EXT_SVINVAL] = "svinval",
	[EXT_ZAWRS] = "zawrs",
	[EXT_ZICBOM] = "zicbom",
	[EXT_ZICBOZ] = "zicboz",
};

const struct rv64_row *rv64_row(unsigned id)
{
	return &rows[id];
}

const char *rv64_ext_name(enum rv64_ext ext)
{
	return (unsigned)ext < EXTS ? ext_names[ext] : NULL;
}

/* Major opcode and funct3; for 16-bit encodings quadrant and funct3. */
static unsigned bucket_of(uint32_t w)
{
	if ((w & 3) == 3)
		return ((w >> 2) & 31) << 3 | ((w >> 12) & 7);
	return 256 + ((w & 3) << 3 | ((w >> 13) & 7));
}

static bool row_in_bucket(const struct rv64_row *r, unsigned b)
{
	uint32_t shape = b < 256 ? 3 | (b >> 3) << 2 | (b & 7) << 12
				 : ((b - 256) >> 3) | ((b - 256) & 7) << 13;
	uint32_t care = b < 256 ? 0x707f : 0xe003;

	return !((shape ^ r->match) & r->mask & care);
}

void rv64_decoder_init(struct rv64_decoder *d, uint64_t exts)
{
	unsigned n = 0;

	memset(d, 0, sizeof(*d));
	d->exts = exts;
	for (unsigned b = 0; b < DECODER_BUCKETS; b++) {
		d->first[b] = (uint16_t)n;
		for (unsigned id = RV_ILLEGAL + 1; id < RV_IDS; id++) {
			const struct rv64_row *r = &rows[id];

			if (!(exts >> r->ext & 1) || !row_in_bucket(r, b))
				continue;
			assert(n < ARRAY_SIZE(d->rows));
			d->rows[n++] = (uint16_t)id;
		}
	}
	d->first[DECODER_BUCKETS] = (uint16_t)n;
}

/* Bits [hi:lo] of w, moved to bit `to`. */
#define BITS(w, hi, lo, to) ((((w) >> (lo)) & ((1u << ((hi) - (lo) + 1)) - 1)) << (to))
#define SEXT(v, bits) ((int32_t)((uint32_t)(v) << (32 - (bits))) >> (32 - (bits)))

static int32_t imm_b(uint32_t w)
{
	return SEXT(
		BITS(w, 31, 31, 12) | BITS(w, 7, 7, 11) | BITS(w, 30, 25, 5) | BITS(w, 11, 8, 1),
		13);
}

static int32_t imm_j(uint32_t w)
{
	return SEXT(BITS(w, 31, 31, 20) | BITS(w, 19, 12, 12) | BITS(w, 20, 20, 11) |
			    BITS(w, 30, 21, 1),
		21);
}

/* Static rounding modes 5 and 6 are reserved. */
static bool rm_ok(uint8_t rm)
{
	return rm != 5 && rm != 6;
}

static bool decode_32(uint32_t w, unsigned fmt, struct rv64_insn *o)
{
	o->rd = BITS(w, 11, 7, 0);
	o->rs1 = BITS(w, 19, 15, 0);
	o->rs2 = BITS(w, 24, 20, 0);
	o->rm = BITS(w, 14, 12, 0);
	o->imm = (int32_t)w >> 20;
	switch (fmt) {
	case FMT_SH6:
		o->imm &= 63;
		break;
	case FMT_SH5:
		o->imm &= 31;
		break;
	case FMT_U:
		o->imm = (int32_t)(w & 0xfffff000);
		break;
	case FMT_J:
		o->imm = imm_j(w);
		break;
	case FMT_B:
		o->imm = imm_b(w);
		break;
	case FMT_STORE:
	case FMT_FSTORE:
		o->imm = SEXT(BITS(w, 31, 25, 5) | BITS(w, 11, 7, 0), 12);
		break;
	case FMT_AMO:
	case FMT_LR:
		o->rm = BITS(w, 26, 25, 0);
		break;
	case FMT_FENCE:
	case FMT_CSR:
	case FMT_CSRI:
		o->imm &= 0xfff;
		break;
	case FMT_R4:
		o->rs3 = BITS(w, 31, 27, 0);
		return rm_ok(o->rm);
	case FMT_FR_RM:
	case FMT_FF_RM:
	case FMT_XF_RM:
	case FMT_FX_RM:
		return rm_ok(o->rm);
	default:
		break;
	}
	return true;
}

static int32_t imm_ci(uint32_t w)
{
	return SEXT(BITS(w, 12, 12, 5) | BITS(w, 6, 2, 0), 6);
}

static int32_t imm_cj(uint32_t w)
{
	return SEXT(BITS(w, 12, 12, 11) | BITS(w, 11, 11, 4) | BITS(w, 10, 9, 8) |
			    BITS(w, 8, 8, 10) | BITS(w, 7, 7, 6) | BITS(w, 6, 6, 7) |
			    BITS(w, 5, 3, 1) | BITS(w, 2, 2, 5),
		12);
}

static int32_t imm_cb(uint32_t w)
{
	return SEXT(BITS(w, 12, 12, 8) | BITS(w, 11, 10, 3) | BITS(w, 6, 5, 6) | BITS(w, 4, 3, 1) |
			    BITS(w, 2, 2, 5),
		9);
}

/* Quadrant 0 and the formats with three-bit register numbers. */
static bool decode_prime(uint32_t w, unsigned fmt, struct rv64_insn *o)
{
	uint8_t low = 8 + BITS(w, 4, 2, 0), high = 8 + BITS(w, 9, 7, 0);

	o->rd = o->rs2 = low;
	o->rs1 = high;
	switch (fmt) {
	case FMT_CIW:
		o->rs1 = 2;
		o->imm = BITS(w, 12, 11, 4) | BITS(w, 10, 7, 6) | BITS(w, 6, 6, 2) |
			 BITS(w, 5, 5, 3);
		return o->imm != 0;
	case FMT_CLW:
	case FMT_CSW:
		o->imm = BITS(w, 12, 10, 3) | BITS(w, 6, 6, 2) | BITS(w, 5, 5, 6);
		return true;
	case FMT_CLD:
	case FMT_CFLD:
	case FMT_CSD:
	case FMT_CFSD:
		o->imm = BITS(w, 12, 10, 3) | BITS(w, 6, 5, 6);
		return true;
	case FMT_CSHB:
		o->rd = high;
		o->imm = imm_ci(w) & 63;
		return true;
	case FMT_CANDI:
		o->rd = high;
		o->imm = imm_ci(w);
		return true;
	case FMT_CA:
		o->rd = high;
		return true;
	case FMT_CB:
		o->rd = 0;
		o->rs2 = 0;
		o->imm = imm_cb(w);
		return true;
	default:
		return false;
	}
}

/* Loads and stores relative to sp. */
static bool decode_sp(uint32_t w, unsigned fmt, struct rv64_insn *o)
{
	o->rs1 = 2;
	switch (fmt) {
	case FMT_CLWSP:
		o->imm = BITS(w, 12, 12, 5) | BITS(w, 6, 4, 2) | BITS(w, 3, 2, 6);
		return o->rd != 0;
	case FMT_CLDSP:
	case FMT_CFLDSP:
		o->imm = BITS(w, 12, 12, 5) | BITS(w, 6, 5, 3) | BITS(w, 4, 2, 6);
		return fmt == FMT_CFLDSP || o->rd != 0;
	case FMT_CSWSP:
		o->imm = BITS(w, 12, 9, 2) | BITS(w, 8, 7, 6);
		return true;
	default: /* CSDSP, CFSDSP */
		o->imm = BITS(w, 12, 10, 3) | BITS(w, 9, 7, 6);
		return true;
	}
}

static bool decode_16(uint32_t w, unsigned fmt, struct rv64_insn *o)
{
	o->rd = o->rs1 = BITS(w, 11, 7, 0);
	o->rs2 = BITS(w, 6, 2, 0);
	switch (fmt) {
	case FMT_NONE:
		return true;
	case FMT_CI:
		o->imm = imm_ci(w);
		return true;
	case FMT_CIW_NZ:
		o->imm = imm_ci(w);
		return o->rd != 0;
	case FMT_CLI:
		o->rs1 = 0;
		o->imm = imm_ci(w);
		return true;
	case FMT_CLUI:
		o->imm = imm_ci(w) * 4096;
		return o->imm != 0;
	case FMT_C16SP:
		o->imm = SEXT(BITS(w, 12, 12, 9) | BITS(w, 6, 6, 4) | BITS(w, 5, 5, 6) |
				      BITS(w, 4, 3, 7) | BITS(w, 2, 2, 5),
			10);
		return o->imm != 0;
	case FMT_CSLLI:
		o->imm = imm_ci(w) & 63;
		return true;
	case FMT_CJ:
		o->rd = 0;
		o->imm = imm_cj(w);
		return true;
	case FMT_CJR:
	case FMT_CJALR:
		o->rd = fmt == FMT_CJALR;
		return o->rs1 != 0;
	case FMT_CMV:
		o->rs1 = 0;
		return o->rs2 != 0;
	case FMT_CADD:
		return o->rs2 != 0;
	case FMT_CLWSP:
	case FMT_CLDSP:
	case FMT_CFLDSP:
	case FMT_CSWSP:
	case FMT_CSDSP:
	case FMT_CFSDSP:
		return decode_sp(w, fmt, o);
	default:
		return decode_prime(w, fmt, o);
	}
}

bool rv64_decode(const struct rv64_decoder *d, uint32_t w, struct rv64_insn *o)
{
	unsigned b;

	memset(o, 0, sizeof(*o));
	o->len = (uint8_t)rv64_insn_len(w);
	if (o->len == 2)
		w &= 0xffff;
	b = bucket_of(w);
	for (unsigned i = d->first[b]; i < d->first[b + 1]; i++) {
		const struct rv64_row *r = &rows[d->rows[i]];

		if ((w & r->mask) != r->match)
			continue;
		if (!(o->len == 4 ? decode_32(w, r->fmt, o) : decode_16(w, r->fmt, o)))
			break; /* a reserved form of this row; no other row matches it */
		o->row = d->rows[i];
		o->id = r->base;
		return true;
	}
	*o = (struct rv64_insn){.len = o->len};
	return false;
}
