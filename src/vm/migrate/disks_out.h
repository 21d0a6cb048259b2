/*
 * disks_out.h: disks that the other side has not got are read while the guest writes to them (disks_in.h is where they are written).
 *
 *   thread "migrate"                     loop thread
 *   disks_out_begin(MEASURE)  ---------> where is data? (block status)
 *   disks_out_begin(ALL)      ---------> every write is marked from now on (disk/dirty.h); reads all that has data, says where nothing is
 *   disks_out_next() <--- pieces ------- a few ahead
 *   disks_out_begin(DIRTY)    ---------> takes what is marked, reads it; again, until little is left; and once more when the guest stands still
 *
 * A copied disk is never put to sleep: the other side has a file of its own. The disks stay open and locked here until this process ends.
 *
 * Threads: create, free, json: the loop's; the others: the one that sends. cancel: any. One lock, innermost.
 */
#ifndef LODGE_VM_MIGRATE_DISKS_OUT_H
#define LODGE_VM_MIGRATE_DISKS_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/migrate/blocks.h"

struct board;
struct disk;
struct disks_out;
struct err;
struct json_t;
struct uv_loop_s;

enum disks_pass { DISKS_MEASURE, DISKS_ALL, DISKS_DIRTY };

struct disks_piece {
	unsigned disk; /* its place in disks_out_ids() */
	uint64_t off, len;
	const uint8_t *data; /* NULL: it reads as zeroes */
};

/* All disks but those with an id in `shared`, a list of texts or NULL. -ENOENT: one is no disk's id; -EINVAL: none is left. */
int disks_out_create(struct disks_out **out, struct board *b, struct uv_loop_s *loop,
	const struct json_t *shared, struct err *e);
/* Nothing waits in it any more. NULL is nothing. */
void disks_out_free(struct disks_out *o);
/* Who waits, and whoever waits later, gets -ECANCELED. */
void disks_out_cancel(struct disks_out *o);
/* Is it one of these? */
bool disks_out_has(const struct disks_out *o, const struct disk *d);
/* Their ids, for the HELLO; new reference. */
struct json_t *disks_out_ids(const struct disks_out *o);

/* Begins a pass; the one before is over. */
void disks_out_begin(struct disks_out *o, enum disks_pass pass);
/* Waits. *piece NULL: the pass is over. Else disks_out_put() gives it back. -ECANCELED; what the disk answered. */
int disks_out_next(struct disks_out *o, struct disks_piece **piece, struct err *e);
void disks_out_put(struct disks_out *o, struct disks_piece *piece);
/* Bytes that are marked now; that may have data by the pass MEASURE. */
uint64_t disks_out_dirty(struct disks_out *o);
uint64_t disks_out_data(struct disks_out *o);

/* [{"id", "file", "size", "data", "sent", "zero", "left"} ...]: bytes. left: of the present pass. New reference. */
struct json_t *disks_out_json(struct disks_out *o);

#endif
