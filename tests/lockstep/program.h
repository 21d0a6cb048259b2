/*
 * program.h: what the two machines run.
 */
#ifndef LODGE_TESTS_LOCKSTEP_PROGRAM_H
#define LODGE_TESTS_LOCKSTEP_PROGRAM_H

#include "side.h"

struct program {
	struct side_opts side; /* for both sides */
	const char *elf; /* a bare program, M-mode; with `random` the monitor of one */
	const char *kernel, *initrd, *append; /* Linux on the built-in firmware */
	bool random;
	uint64_t seed;
};

/* Puts the program into the machine and its hart at the start. Ends the test when files cannot be read. */
void program_load(const struct program *p, struct side *s);

/* gen.c: puts a random program in the place where guest/rv64/hot.c expects it. */
void gen_program(struct side *s, uint64_t seed);

#endif
