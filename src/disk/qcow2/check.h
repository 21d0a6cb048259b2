/*
 * check.h: is a qcow2 image what it says; and making it so.
 *
 * Counts every reference to every cluster (header, tables, snapshots, bitmaps, data) and compares with the counts in the file. Work and
 * memory are bounded by the size of the file: each table is read once, however many point to it.
 *
 * Repair, in this order: entries that point nowhere are emptied; the counts are set to what was counted, in place where the blocks that hold
 * them are sound, else by a new table behind the end of the file; COPIED flags follow the counts; then the dirty and the
 * corrupt bit go. Nothing of it needs the tables to be sound to begin with, except the L1 table's place in the header.
 */
#ifndef LODGE_DISK_QCOW2_CHECK_H
#define LODGE_DISK_QCOW2_CHECK_H

#include "disk/qcow2/qcow2.h"

/* Blocks; nothing in flight, nothing dirty in memory. After a repair the refcount table in memory is the new one. */
int q_check(struct qcow2 *q, bool repair, const struct disk_watch *w, struct disk_check *out,
	struct err *e);

#endif
