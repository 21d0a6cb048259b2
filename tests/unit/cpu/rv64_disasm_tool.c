/* Reads instruction words (32-bit little-endian), each taken to be at pc 8 * its number, and writes their text, one a line. */
#include <stdio.h>

#include "cpu/rv64/disasm.h"

int main(void)
{
	struct rv64_decoder d;
	uint32_t word;
	char text[64];

	rv64_decoder_init(&d, RV64_EXT_ALL);
	for (uint64_t pc = 0; fread(&word, 4, 1, stdin) == 1; pc += 8) {
		rv64_disasm(&d, word, pc, text, sizeof(text));
		puts(text);
	}
	return 0;
}
