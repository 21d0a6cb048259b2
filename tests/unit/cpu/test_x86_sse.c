/*
 * x86_sse.h's encodings, read back by Capstone: every register in every place, and memory operands of each shape.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/util.h"
#include "cpu/rv64/jit/x86_sse.h"
#include "x86_text.h"

static const char *const r64[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8",
	"r9", "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const r32[] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d",
	"r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"};

/* Where operand m of a case is: one of 16 registers, or one of these. */
static const struct place {
	struct x86_rm m;
	const char *text;
} places[] = {
	{{.mem = true, .base = RBP, .index = -1, .disp = 0x18}, "[rbp + 0x18]"},
	{{.mem = true, .base = RBP, .index = -1, .disp = -0x80}, "[rbp - 0x80]"},
	{{.mem = true, .base = RAX, .index = -1}, "[rax]"},
	{{.mem = true, .base = R12, .index = -1}, "[r12]"},
	{{.mem = true, .base = R13, .index = -1}, "[r13]"},
	{{.mem = true, .base = RSP, .index = -1, .disp = 8}, "[rsp + 8]"},
	{{.mem = true, .base = R10, .index = -1, .disp = 0x12345}, "[r10 + 0x12345]"},
	{{.mem = true, .base = R15, .index = RCX, .scale = 3, .disp = 0x1000},
		"[r15 + rcx*8 + 0x1000]"},
	{{.mem = true, .base = RAX, .index = R9}, "[rax + r9]"},
};
#define PLACES (16 + ARRAY_SIZE(places))

struct operands {
	int r, s; /* registers */
	struct x86_rm m;
	char x[40], g32[40], g64[40]; /* m as xmm, or as a general register, or memory */
	char x32[40], x64[40], x256[40]; /* xmm or ymm, or memory of that size */
};

static struct operands operands(int r, int s, unsigned place)
{
	struct operands o = {.r = r, .s = s};

	if (place < 16) {
		o.m = x86_reg((int)place);
		snprintf(o.x32, sizeof(o.x32), "xmm%u", place);
		snprintf(o.x64, sizeof(o.x64), "xmm%u", place);
		snprintf(o.x256, sizeof(o.x256), "ymm%u", place);
		snprintf(o.x, sizeof(o.x), "xmm%u", place);
		snprintf(o.g32, sizeof(o.g32), "%s", r32[place]);
		snprintf(o.g64, sizeof(o.g64), "%s", r64[place]);
	} else {
		const char *text = places[place - 16].text;

		o.m = places[place - 16].m;
		snprintf(o.x, sizeof(o.x), "xmmword ptr %s", text);
		snprintf(o.x256, sizeof(o.x256), "ymmword ptr %s", text);
		snprintf(o.x32, sizeof(o.x32), "dword ptr %s", text);
		snprintf(o.x64, sizeof(o.x64), "qword ptr %s", text);
		snprintf(o.g32, sizeof(o.g32), "dword ptr %s", text);
		snprintf(o.g64, sizeof(o.g64), "qword ptr %s", text);
	}
	return o;
}

__attribute__((format(printf, 3, 4))) static void reads(
	const uint8_t *code, const struct x86 *a, const char *fmt, ...)
{
	char want[160], got[160];
	size_t n = (size_t)(a->p - code), len = x86_text(code, n, got, sizeof(got));
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(want, sizeof(want), fmt, ap);
	va_end(ap);
	if (a->full || len != n || strcmp(want, got))
		fail_msg("want \"%s\" of %zu bytes, got \"%s\" of %zu", want, n, got, len);
}

/* CASE(what is emitted, the text it has to read as) */
#define CASE(emit, ...) \
	do { \
		uint8_t code[32]; \
		struct x86 buffer = {.p = code, .end = code + sizeof(code)}, *a = &buffer; \
\
		emit; \
		reads(code, a, __VA_ARGS__); \
	} while (0)

static void three_operands(const struct operands *o)
{
	static const struct {
		enum x86_fp op;
		const char *name;
	} ops[] = {{FP_OP_SQRT, "sqrt"}, {FP_OP_ADD, "add"}, {FP_OP_MUL, "mul"}, {FP_OP_SUB, "sub"},
		{FP_OP_MIN, "min"}, {FP_OP_DIV, "div"}, {FP_OP_MAX, "max"}};
	static const struct {
		enum x86_fma op;
		const char *name;
	} fmas[] = {
		{FMA_MADD, "madd"}, {FMA_MSUB, "msub"}, {FMA_NMADD, "nmadd"}, {FMA_NMSUB, "nmsub"}};
	static const char *const bits[] = {"and", "andn", "or", "xor"};
	int r = o->r, s = o->s;

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		CASE(x86_fp(a, true, ops[i].op, r, s, o->m), "v%ssd xmm%d, xmm%d, %s", ops[i].name,
			r, s, o->x64);
		CASE(x86_fp(a, false, ops[i].op, r, s, o->m), "v%sss xmm%d, xmm%d, %s", ops[i].name,
			r, s, o->x32);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(fmas); i++) {
		CASE(x86_fma(a, true, fmas[i].op, r, s, o->m), "vf%s231sd xmm%d, xmm%d, %s",
			fmas[i].name, r, s, o->x64);
		CASE(x86_fma(a, false, fmas[i].op, r, s, o->m), "vf%s231ss xmm%d, xmm%d, %s",
			fmas[i].name, r, s, o->x32);
	}
	for (unsigned i = 0; i < 4; i++)
		CASE(x86_fbits(a, BITS_AND + i, r, s, o->m), "v%sps xmm%d, xmm%d, %s", bits[i], r,
			s, o->x);
	CASE(x86_from_int(a, true, X86_32, r, s, o->m), "vcvtsi2sd xmm%d, xmm%d, %s", r, s, o->g32);
	CASE(x86_from_int(a, true, X86_64, r, s, o->m), "vcvtsi2sd xmm%d, xmm%d, %s", r, s, o->g64);
	CASE(x86_from_int(a, false, X86_32, r, s, o->m), "vcvtsi2ss xmm%d, xmm%d, %s", r, s,
		o->g32);
	CASE(x86_from_int(a, false, X86_64, r, s, o->m), "vcvtsi2ss xmm%d, xmm%d, %s", r, s,
		o->g64);
	CASE(x86_to_double(a, r, s, o->m), "vcvtss2sd xmm%d, xmm%d, %s", r, s, o->x32);
	CASE(x86_to_single(a, r, s, o->m), "vcvtsd2ss xmm%d, xmm%d, %s", r, s, o->x64);
	CASE(x86_round(a, true, 2, r, s, o->m), "vroundsd xmm%d, xmm%d, %s, 2", r, s, o->x64);
	CASE(x86_round(a, false, 1, r, s, o->m), "vroundss xmm%d, xmm%d, %s, 1", r, s, o->x32);
	CASE(x86_finsert(a, r, s, o->m),
		o->m.mem ? "vinsertps xmm%d, xmm%d, %s, 0" : "vpinsrd xmm%d, xmm%d, %s, 0", r, s,
		o->g32);
}

static void two_operands(const struct operands *o)
{
	int r = o->r;

	CASE(x86_ucomis(a, true, r, o->m), "vucomisd xmm%d, %s", r, o->x64);
	CASE(x86_ucomis(a, false, r, o->m), "vucomiss xmm%d, %s", r, o->x32);
	/* Capstone is wrong about the width that these read (SDM: m64, m32). */
	CASE(x86_comis(a, true, r, o->m), "vcomisd xmm%d, %s", r, o->x);
	CASE(x86_comis(a, false, r, o->m), "vcomiss xmm%d, %s", r, o->x);
	CASE(x86_to_int(a, true, X86_32, false, r, o->m), "vcvtsd2si %s, %s", r32[r], o->x64);
	CASE(x86_to_int(a, true, X86_64, false, r, o->m), "vcvtsd2si %s, %s", r64[r], o->x64);
	CASE(x86_to_int(a, true, X86_32, true, r, o->m), "vcvttsd2si %s, %s", r32[r], o->x64);
	CASE(x86_to_int(a, true, X86_64, true, r, o->m), "vcvttsd2si %s, %s", r64[r], o->x64);
	CASE(x86_to_int(a, false, X86_32, false, r, o->m), "vcvtss2si %s, %s", r32[r], o->x32);
	CASE(x86_to_int(a, false, X86_64, true, r, o->m), "vcvttss2si %s, %s", r64[r], o->x32);
	CASE(x86_fmov_from(a, X86_32, r, o->m), "vmovd xmm%d, %s", r, o->g32);
	CASE(x86_fmov_from(a, X86_64, r, o->m), "vmovq xmm%d, %s", r, o->g64);
	CASE(x86_fmov_to(a, X86_32, o->m, r), "vmovd %s, xmm%d", o->g32, r);
	CASE(x86_fmov_to(a, X86_64, o->m, r), "vmovq %s, xmm%d", o->g64, r);
	CASE(x86_fextract(a, o->m, r, 1), "vpextrd %s, xmm%d, 1", o->g32, r);
	if (o->m.mem) {
		CASE(x86_fload(a, true, r, o->m), "vmovsd xmm%d, %s", r, o->x64);
		CASE(x86_fload(a, false, r, o->m), "vmovss xmm%d, %s", r, o->x32);
		CASE(x86_fstore_32(a, o->m, r), "vmovups %s, ymm%d", o->x256, r);
		CASE(x86_fstore(a, true, o->m, r), "vmovsd %s, xmm%d", o->x64, r);
		CASE(x86_fstore(a, false, o->m, r), "vmovss %s, xmm%d", o->x32, r);
	} else {
		if (r != o->m.base)
			CASE(x86_fmov(a, r, o->m.base), "vmovaps xmm%d, %s", r, o->x);
		CASE(x86_fshl(a, r, o->m.base, 32), "vpsllq xmm%d, %s, 0x20", r, o->x);
		CASE(x86_fshr(a, r, o->m.base, 1), "vpsrlq xmm%d, %s, 1", r, o->x);
	}
}

static void encodings(void **state)
{
	for (int r = 0; r < 16; r++) {
		for (unsigned m = 0; m < PLACES; m++) {
			struct operands o = operands(r, (int)((unsigned)r * 7 + m) & 15, m);

			three_operands(&o);
			two_operands(&o);
		}
		CASE(x86_fzero(a, r), "vxorps xmm%d, xmm%d, xmm%d", r, r, r);
		CASE(x86_fones(a, r), "vpcmpeqd xmm%d, xmm%d, xmm%d", r, r, r);
	}
}

static void no_move_to_itself(void **state)
{
	uint8_t code[4];
	struct x86 a = {.p = code, .end = code + 4};

	x86_fmov(&a, 5, 5);
	assert_ptr_equal(a.p, code);
	assert_false(a.full);
	x86_fp(&a, true, FP_OP_ADD, 1, 2, x86_mem(RBP, 1000)); /* does not fit */
	assert_true(a.full);
	assert_true(a.p <= a.end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encodings),
		cmocka_unit_test(no_move_to_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
