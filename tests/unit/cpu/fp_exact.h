/*
 * fp_exact.h: a judge of floating-point results that does not compute them.
 *
 * Whether r is x correctly rounded is a question of comparing x with r's neighbours and the points half-way to them. Every operation's
 * exact result can be compared with a dyadic number by adding and multiplying integers (for a / b: a with y * b; for sqrt: a with
 * y * y), in fixed point of 4,600 bits. Nothing of fp_soft's method (unpacking, sticky bits, shifting) is used, nor the host's arithmetic.
 */
#ifndef LODGE_TESTS_FP_EXACT_H
#define LODGE_TESTS_FP_EXACT_H

#include <stdbool.h>
#include <stdint.h>

enum fp_exact {
	EXACT_NOT,
	EXACT_ADD,
	EXACT_SUB,
	EXACT_MUL,
	EXACT_DIV,
	EXACT_SQRT,
	EXACT_FMA, /* signs: 1 negates the product, 2 the addend */
	EXACT_TO_INT, /* signs: enum fp_int */
	EXACT_FROM_INT,
	EXACT_WIDEN,
	EXACT_NARROW,
};

/* Has the operation with these operands an exact result? (Not with NaNs, infinities, division by zero, roots of negatives.) */
bool fp_exact_applies(enum fp_exact op, int from, const uint64_t v[3]);

/*
 * NULL if `got` and `flags` are right for the operation in mode `rm` (or it does not apply), else what is wrong. from, to:
 * widths of operands and result, 0 for integers. The sign of an exact zero is not judged.
 */
const char *fp_exact_judge(enum fp_exact op, int signs, int from, int to, const uint64_t v[3],
	unsigned rm, uint64_t got, uint32_t flags);

#endif
