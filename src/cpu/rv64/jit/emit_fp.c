/* emit_fp.c: floating point. */
#include "cpu/rv64/jit/inside.h"

bool jit_emit_fp(struct jit_tr *t, const struct rv64_insn *in)
{
	return false;
}
