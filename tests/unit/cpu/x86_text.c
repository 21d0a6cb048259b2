#include "x86_text.h"

#include <stdio.h>
#include <capstone/capstone.h>

size_t x86_text(const uint8_t *code, size_t n, char *text, size_t size)
{
	size_t len = 0;
	cs_insn *in;
	csh cs;

	text[0] = 0;
	if (cs_open(CS_ARCH_X86, CS_MODE_64, &cs))
		return 0;
	if (cs_disasm(cs, code, n, 0, 1, &in)) {
		len = in->size;
		snprintf(text, size, "%s %s", in->mnemonic, in->op_str);
		cs_free(in, 1);
	}
	cs_close(&cs);
	return len;
}
