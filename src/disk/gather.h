/*
 * gather.h: large requests whose data is scattered over the host's memory.
 *
 *   file_host.c --gather_begin()--> memory in one piece, or none --copy, direct I/O, copy-- gather_end() --> which way was quicker
 *
 * A guest's memory lies wherever the host had pages of 4 KiB, so 1 MiB of it is 256 pieces for the host's device. One that is virtual itself may work on each
 * piece by itself and take twice as long as for one piece (docs/disk.md, "Scattered memory"); another one, and the processor, only lose by a copy. So it is
 * measured, for reads and writes apart: of each ROUND requests the first go as they are, as many are copied, and the rest goes the way whose median took less
 * time, the copy included. The copy has to win by a quarter: it takes a processor and memory.
 *
 * Belongs to the thread of the loop.
 */
#ifndef LODGE_DISK_GATHER_H
#define LODGE_DISK_GATHER_H

#include <stdbool.h>
#include <stdint.h>

struct gather;

/* Of one request, from begin to end. */
struct gather_note {
	uint64_t begun; /* ns */
	uint64_t len;
	bool write, copied, counts;
};

/* NULL: out of memory; nothing is gathered then. */
struct gather *gather_create(void);
/* Nothing is under way. NULL is nothing. */
void gather_destroy(struct gather *g);

/* Memory of `len` bytes for the data of a read or write; NULL: it goes as it is. What got memory ends by gather_end(). */
void *gather_begin(struct gather *g, bool write, uint64_t len, struct gather_note *n);
/* It is done, and what was read is copied. `mem`: what begin gave; `ok`: its time means something. */
void gather_end(struct gather *g, const struct gather_note *n, void *mem, bool ok);

#endif
