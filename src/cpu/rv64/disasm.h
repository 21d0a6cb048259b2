/*
 * disasm.h: instruction words as text, in the words of `objdump -M no-aliases,numeric`: mnemonic, a tab, operands.
 */
#ifndef LODGE_CPU_RV64_DISASM_H
#define LODGE_CPU_RV64_DISASM_H

#include <stddef.h>

#include "cpu/rv64/decode.h"

/*
 * Writes the text of `word` at `pc` to buf (always terminated; 64 bytes are enough) and returns the length of the instruction. What is
 * no instruction of this decoder becomes ".4byte" or ".2byte".
 */
unsigned rv64_disasm(
	const struct rv64_decoder *d, uint32_t word, uint64_t pc, char *buf, size_t size);

/* "mstatus"; NULL when the specification has no name for it. */
const char *rv64_csr_name(unsigned csr);

#endif
