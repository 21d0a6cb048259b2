#include "cpu/rv64/disasm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * How operands are written. d s t: integer rd, rs1, rs2; D S T R: FP; i: decimal; x: hexadecimal; u: upper 20 bits; p: target; c: CSR;
 * z: rs1 as a number; m: rounding mode with its comma, unless dynamic; F: fence sets; anything else is itself.
 */
static const char *const operands[] = {
	[FMT_NONE] = "",
	[FMT_R] = "d,s,t",
	[FMT_I] = "d,s,i",
	[FMT_SH6] = "d,s,x",
	[FMT_SH5] = "d,s,x",
	[FMT_UNA] = "d,s",
	[FMT_U] = "d,u",
	[FMT_J] = "d,p",
	[FMT_JALR] = "d,i(s)",
	[FMT_B] = "s,t,p",
	[FMT_LOAD] = "d,i(s)",
	[FMT_STORE] = "t,i(s)",
	[FMT_AMO] = "d,t,(s)",
	[FMT_LR] = "d,(s)",
	[FMT_FENCE] = "F",
	[FMT_CSR] = "d,c,s",
	[FMT_CSRI] = "d,c,z",
	[FMT_RS1RS2] = "s,t",
	[FMT_CBO] = "(s)",
	[FMT_FLOAD] = "D,i(s)",
	[FMT_FSTORE] = "T,i(s)",
	[FMT_R4] = "D,S,T,Rm",
	[FMT_FR] = "D,S,T",
	[FMT_FR_RM] = "D,S,Tm",
	[FMT_FF_RM] = "D,Sm",
	[FMT_XF] = "d,S",
	[FMT_XF_RM] = "d,Sm",
	[FMT_XFF] = "d,S,T",
	[FMT_FX] = "D,s",
	[FMT_FX_RM] = "D,sm",
	[FMT_CIW] = "d,s,i",
	[FMT_CLW] = "d,i(s)",
	[FMT_CLD] = "d,i(s)",
	[FMT_CFLD] = "D,i(s)",
	[FMT_CSW] = "t,i(s)",
	[FMT_CSD] = "t,i(s)",
	[FMT_CFSD] = "T,i(s)",
	[FMT_CI] = "d,i",
	[FMT_CIW_NZ] = "d,i",
	[FMT_CLI] = "d,i",
	[FMT_C16SP] = "d,i",
	[FMT_CLUI] = "d,u",
	[FMT_CSHB] = "d,x",
	[FMT_CANDI] = "d,i",
	[FMT_CA] = "d,t",
	[FMT_CJ] = "p",
	[FMT_CB] = "s,p",
	[FMT_CSLLI] = "d,x",
	[FMT_CLWSP] = "d,i(s)",
	[FMT_CLDSP] = "d,i(s)",
	[FMT_CFLDSP] = "D,i(s)",
	[FMT_CSWSP] = "t,i(s)",
	[FMT_CSDSP] = "t,i(s)",
	[FMT_CFSDSP] = "T,i(s)",
	[FMT_CJR] = "s",
	[FMT_CJALR] = "s",
	[FMT_CMV] = "d,t",
	[FMT_CADD] = "d,t",
};

struct text {
	char *buf;
	size_t size, n;
};

static void __attribute__((format(printf, 2, 3))) put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->n, t->size - t->n, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->n += (size_t)n;
	if (t->n >= t->size)
		t->n = t->size - 1;
}

const char *rv64_csr_name(unsigned csr)
{
	switch (csr) {
#define CSR(name, number) \
	case number: \
		return #name;
#include "cpu/rv64/csrs.def"
	default:
		return NULL;
	}
}

static void put_rm(struct text *t, const struct rv64_insn *in)
{
	static const char *const names[] = {"rne", "rtz", "rdn", "rup", "rmm", "5", "6", NULL};
	bool exact = in->row == RV_fcvt_d_s || in->row == RV_fcvt_d_w || in->row == RV_fcvt_d_wu;

	/* Conversions that never round are written without a mode when it is 0. */
	if (exact ? in->rm != 0 : in->rm != 7)
		put(t, ",%s", names[in->rm] ?: "dyn");
}

static void put_fence_set(struct text *t, unsigned set)
{
	if (!set)
		put(t, "unknown");
	put(t, "%s%s%s%s", set & 8 ? "i" : "", set & 4 ? "o" : "", set & 2 ? "r" : "",
		set & 1 ? "w" : "");
}

static void put_csr(struct text *t, unsigned csr)
{
	const char *name = rv64_csr_name(csr);

	if (name)
		put(t, "%s", name);
	else
		put(t, "0x%x", csr);
}

static void put_operand(struct text *t, const struct rv64_insn *in, uint64_t pc, char what)
{
	switch (what) {
	case 'd':
		put(t, "x%u", in->rd);
		break;
	case 's':
		put(t, "x%u", in->rs1);
		break;
	case 't':
		put(t, "x%u", in->rs2);
		break;
	case 'D':
		put(t, "f%u", in->rd);
		break;
	case 'S':
		put(t, "f%u", in->rs1);
		break;
	case 'T':
		put(t, "f%u", in->rs2);
		break;
	case 'R':
		put(t, "f%u", in->rs3);
		break;
	case 'i':
		put(t, "%d", in->imm);
		break;
	case 'x':
		put(t, "0x%x", (unsigned)in->imm);
		break;
	case 'u':
		put(t, "0x%x", (unsigned)in->imm >> 12);
		break;
	case 'p':
		put(t, "0x%llx", (unsigned long long)(pc + (uint64_t)(int64_t)in->imm));
		break;
	case 'c':
		put_csr(t, (unsigned)in->imm);
		break;
	case 'z':
		put(t, "%u", in->rs1);
		break;
	case 'm':
		put_rm(t, in);
		break;
	case 'F':
		put_fence_set(t, (unsigned)in->imm >> 4 & 15);
		put(t, ",");
		put_fence_set(t, (unsigned)in->imm & 15);
		break;
	default:
		put(t, "%c", what);
	}
}

unsigned rv64_disasm(
	const struct rv64_decoder *d, uint32_t word, uint64_t pc, char *buf, size_t size)
{
	static const char *const order[] = {"", ".rl", ".aq", ".aqrl"};
	struct text t = {buf, size, 0};
	const struct rv64_row *row;
	struct rv64_insn in;
	const char *ops;

	if (!rv64_decode(d, word, &in)) {
		if (in.len == 4)
			put(&t, ".4byte\t0x%x", word);
		else if (word & 0xffff)
			put(&t, ".2byte\t0x%x", word & 0xffff);
		else
			put(&t, "c.unimp");
		return in.len;
	}
	row = rv64_row(in.row);
	ops = operands[row->fmt];
	put(&t, "%s", row->text);
	if (row->fmt == FMT_AMO || row->fmt == FMT_LR)
		put(&t, "%s", order[in.rm]);
	/* A 16-bit shift by nothing is a hint, with a name of its own. */
	if ((row->fmt == FMT_CSHB || row->fmt == FMT_CSLLI) && !in.imm) {
		put(&t, "64");
		ops = "d";
	}
	if (*ops)
		put(&t, "\t");
	for (; *ops; ops++)
		put_operand(&t, &in, pc, *ops);
	return in.len;
}
