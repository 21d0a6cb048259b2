/* The lines that guest/rv64/fp.c should print: made with fp_soft. */
#include <inttypes.h>
#include <stdio.h>

#include "cpu/rv64/fp_soft.h"
#include "fp_cases.h"

#define A a
#define B b
#define C c
#define SA fp32_unbox(a)
#define SB fp32_unbox(b)
#define SC fp32_unbox(c)
#define CASE(id, text, dst, args, src, n, has_rm, expr) \
	static uint64_t run_##id( \
		uint64_t a, uint64_t b, uint64_t c, unsigned mode, uint64_t *flags) \
	{ \
		unsigned rm = mode % 5; \
		uint32_t raised = 0, *fl = &raised; \
		uint64_t r = expr; \
\
		(void)rm; \
		(void)fl; \
		*flags = raised; \
		return r; \
	}
FP_TABLE(CASE)
#undef CASE

#define CASE(id, text, dst, args, src, n, has_rm, expr) {text, run_##id, SRC_##src, n, has_rm},
static const struct fp_case fp_case_list[] = {FP_TABLE(CASE)};
#undef CASE

static void fp_line(const char *text, const char *mode, uint64_t hash)
{
	printf("%s %s 0x%016" PRIx64 "\n", text, mode, hash);
}

int main(void)
{
	fp_cases(fp_case_list, FP_COUNT(fp_case_list));
	puts("END");
	return 0;
}
