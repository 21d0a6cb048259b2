/*
 * blocks.h: blocks of disks in the migration stream: the payload of a DISK message (wire.h; docs/migration.md is the specification).
 *
 *   record of 24 bytes, data; record, data ...       about at most MIG_PIECE bytes that are not zero
 *
 *	0   1   kind: MIG_ZERO (no data), MIG_RAW, MIG_ZSTD (one frame)
 *	1   1   number of the disk: its place in the HELLO's "copy"
 *	2   2   0
 *	4   4   length of the data
 *	8   8   first byte on the disk
 *	16  8   how many bytes: a multiple of 512
 *
 * Nothing here does I/O. Threads: a packer belongs to one. Errors: -EBADMSG (damaged, impossible), -ENOMEM.
 */
#ifndef LODGE_VM_MIGRATE_BLOCKS_H
#define LODGE_VM_MIGRATE_BLOCKS_H

#include <stdbool.h>

#include "vm/migrate/wire.h"

#define MIG_PIECE (1u << 20)
#define MIG_BLOCK_RECORD 24u
#define MIG_BLOCK_GRAIN 4096u /* shorter runs of zeroes go as they are */
#define MIG_BLOCK_RECORDS (MIG_PIECE / MIG_BLOCK_GRAIN + 1u) /* in a message */
#define MIG_BLOCK_MAX (MIG_PIECE + MIG_BLOCK_RECORDS * MIG_BLOCK_RECORD)
#define MIG_DISKS_MAX 64u

struct mig_blocks;
int mig_blocks_create(struct mig_blocks **out, struct err *e);
void mig_blocks_free(struct mig_blocks *b);
/* These begin a payload, valid until the next call. Returns its length. `data`: len bytes, at most MIG_PIECE; runs of zeroes become records without data. */
uint32_t mig_blocks_zero(
	struct mig_blocks *b, unsigned disk, uint64_t off, uint64_t len, const void **payload);
uint32_t mig_blocks_data(struct mig_blocks *b, unsigned disk, uint64_t off, uint32_t len,
	const void *data, bool zstd, const void **payload);

struct mig_block {
	enum mig_kind kind;
	unsigned disk;
	uint32_t data_len;
	uint64_t off, len;
	const uint8_t *data;
};
/* The record at *at, which goes on to the next one. 1; 0: there are no more. What it says is possible, but for the number of the disk and its size. */
int mig_block_next(
	const void *payload, uint32_t len, uint32_t *at, struct mig_block *out, struct err *e);
/* For MIG_RAW and MIG_ZSTD: its len bytes. */
struct mig_unblock;
int mig_unblock_create(struct mig_unblock **out, struct err *e);
void mig_unblock_free(struct mig_unblock *u);
int mig_block_get(struct mig_unblock *u, const struct mig_block *b, void *out, struct err *e);

#endif
