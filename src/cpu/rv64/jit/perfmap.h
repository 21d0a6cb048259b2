/*
 * perfmap.h: names of translated code for perf(1): the file /tmp/perf-PID.map that perf reads, one line a block (Linux,
 * tools/perf/Documentation/jit-interface.txt: START SIZE NAME, hexadecimal).
 *
 * A name is that of the guest's function, by a System.map, or the page of the code when there is none. Blocks whose memory is used again
 * get a new line; perf takes the last one that fits.
 *
 * Threads: the caller's lock.
 */
#ifndef LODGE_CPU_RV64_JIT_PERFMAP_H
#define LODGE_CPU_RV64_JIT_PERFMAP_H

#include <stdint.h>

struct err;
struct jit_perf;

/* `symbols`: a System.map, or "-" for none. Opens the file; nothing is opened later. */
int jit_perf_open(struct jit_perf **out, const char *symbols, struct err *e);
void jit_perf_close(struct jit_perf *p); /* NULL is nothing */
/* The code of the block at guest-virtual `va`. */
void jit_perf_note(struct jit_perf *p, const void *code, unsigned len, uint64_t va);

#endif
