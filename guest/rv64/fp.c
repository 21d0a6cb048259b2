/* Executes what fp_cases.h lists and prints its lines, then END: the host knows what they should be. */
#include "fp_cases.h"
#include "rt.h"

#define STEP(post, insn) \
	__asm__ volatile("fmv.d.x ft0, %2\n\tfmv.d.x ft1, %3\n\tfmv.d.x ft2, %4\n\t" \
			 "csrw fflags, zero\n\t" insn "\n\tcsrr %1, fflags\n\t" post \
			 : "=&r"(r), "=&r"(*flags) \
			 : "r"(a), "r"(b), "r"(c) \
			 : "ft0", "ft1", "ft2", "ft3")
#define POST_F "fmv.x.d %0, ft3"
#define POST_X ""
#define BODY_0(dst, insn) STEP(POST_##dst, insn)
#define BODY_1(dst, insn) \
	do { \
		csr_write(frm, mode < 5 ? (mode + 2) % 5 : mode - 5); \
		switch (mode) { \
		case 0: \
			STEP(POST_##dst, insn ", rne"); \
			break; \
		case 1: \
			STEP(POST_##dst, insn ", rtz"); \
			break; \
		case 2: \
			STEP(POST_##dst, insn ", rdn"); \
			break; \
		case 3: \
			STEP(POST_##dst, insn ", rup"); \
			break; \
		case 4: \
			STEP(POST_##dst, insn ", rmm"); \
			break; \
		default: \
			STEP(POST_##dst, insn ", dyn"); \
		} \
	} while (0)
#define CASE(id, text, dst, args, src, n, has_rm, expr) \
	static uint64_t run_##id( \
		uint64_t a, uint64_t b, uint64_t c, unsigned mode, uint64_t *flags) \
	{ \
		uint64_t r; \
\
		BODY_##has_rm(dst, text " " args); \
		return r; \
	}
FP_TABLE(CASE)
#undef CASE

#define CASE(id, text, dst, args, src, n, has_rm, expr) {text, run_##id, SRC_##src, n, has_rm},
static const struct fp_case fp_case_list[] = {FP_TABLE(CASE)};
#undef CASE

static void fp_line(const char *text, const char *mode, uint64_t hash)
{
	put_text(text);
	put_text(" ");
	put_text(mode);
	put_text(" ");
	put_hex(hash);
	put_text("\n");
}

int main(uint64_t hart)
{
	if (hart)
		return 0;
	fp_cases(fp_case_list, FP_COUNT(fp_case_list));
	put_text("END\n");
	return 0;
}
