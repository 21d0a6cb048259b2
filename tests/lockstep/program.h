/*
 * program.h: what the two machines run.
 */
#ifndef LODGE_TESTS_LOCKSTEP_PROGRAM_H
#define LODGE_TESTS_LOCKSTEP_PROGRAM_H

#include "side.h"

struct program {
	struct side_opts side; /* for both sides */
	const char *elf; /* a bare program, M-mode */
	const char *kernel, *initrd, *append; /* Linux on the built-in firmware */
	uint64_t seed; /* neither: a random program of gen.c */
	bool random;
};

/* Puts the program into the machine and its hart at the start. Ends the test when files cannot be read. */
void program_load(const struct program *p, struct side *s);

/* gen.c: writes a random program at RAM_BASE and returns where it begins. */
uint64_t gen_program(struct side *s, uint64_t seed);

#endif
