/*
 * board_class.h: what a board class provides; for board.c and the board files only.
 */
#ifndef LODGE_MACHINE_BOARD_CLASS_H
#define LODGE_MACHINE_BOARD_CLASS_H

#include "machine/board.h"

struct board_class {
	const char *name;
	const char *isa; /* of the engines that it takes: cpu_engine_ops.isa */
	int (*create)(struct board **out, const struct board_opts *o, struct err *e);
	void (*destroy)(struct board *b);
	int (*boot)(struct board *b, struct err *e);
	void (*reset)(struct board *b);
	/* Controllers and bridges: fills objs[0..max), returns their number. vCPUs and devices are board.c's. */
	unsigned (*state)(struct board *b, struct state_obj *objs, unsigned max);
	/* Firmware tables, one by one. NULL: it has none. */
	int (*tables)(struct board *b,
		void (*each)(void *ctx, const char *name, const void *bytes, size_t len), void *ctx,
		struct err *e);
};

extern const struct board_class board_pc;
extern const struct board_class board_virt;

#endif
