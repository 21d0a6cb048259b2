/*
 * hot.h: where things are in a program of tests/lockstep/gen.c, for the generator and for its monitor (hot.c).
 */
#ifndef GUEST_HOT_H
#define GUEST_HOT_H

#include <stdint.h>

#define HOT_HEAD 0x80200000ull /* struct hot_head */
#define HOT_CODE 0x80300000ull /* code, mapped where it is */
#define HOT_CODE_PAGES 24u
#define HOT_ALIAS 0x80400000ull /* the same pages again, virtual only */
#define HOT_SETS 0x80500000ull /* two sets of pages with functions of the same entries */
#define HOT_SET_PAGES 2u
#define HOT_WINDOW 0x80600000ull /* virtual: one of the sets */
#define HOT_DATA 0x80700000ull
#define HOT_DATA_PAGES 32u
#define HOT_STACK 0x80800000ull /* grows down from the end; traps use it too */
#define HOT_STACK_PAGES 4u
#define HOT_TABLES 0x80900000ull

enum hot_mode { HOT_M, HOT_S, HOT_U, HOT_MODES };
#define HOT_PATCHES 32u
#define HOT_WORDS 8u

struct hot_head {
	uint64_t mode, seed, entry, patches;
	uint64_t fcsr;
	struct {
		uint64_t at; /* physical; 2-byte aligned */
		uint32_t words[HOT_WORDS]; /* one of them is put there */
	} patch[HOT_PATCHES];
};

#endif
