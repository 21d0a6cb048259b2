/*
 * check.h: is a qcow2 image what it says; and making it so.
 *
 * Counts every reference to every cluster (header, tables, snapshots, bitmaps, data) and compares with the counts in the file. Work and
 * memory are bounded by the size of the file: each table is read once, however many point to it.
 *
 * Repair, in this order: entries that point nowhere are emptied; what shares a cluster with something else of the disk gets a copy of it, so that each goes on
 * showing what it shows; the counts are set to what was counted, in place where the blocks that hold them are sound, else by a new table behind the end of the
 * file (in a block device: where it is free); COPIED flags follow the counts; then the dirty and the corrupt bit go. Nothing of it needs the tables to be
 * sound to begin with, except the L1 table's place in the header.
 *
 * An L2 table whose cluster is something else, too, is never written to: that may be the guest's data. Copies make the file at most twice as long; what is not
 * copied then goes on sharing, which the count of 2 makes safe, and is reported as an error that stays. So are tables of snapshots. Where counts
 * have too few bits for what was counted, the image stays marked as damaged.
 */
#ifndef LODGE_DISK_QCOW2_CHECK_H
#define LODGE_DISK_QCOW2_CHECK_H

#include "disk/qcow2/qcow2.h"

enum q_check_kind {
	Q_LOOK,
	Q_RECOVER, /* what a crash leaves is mended; nothing gets another place */
	Q_REPAIR,
};

/*
 * Blocks; nothing in flight, nothing dirty in memory. After a repair the L1 and the refcount table in memory are the new ones; what is known of the places of
 * tables (meta_set) is not.
 */
int q_check(struct qcow2 *q, enum q_check_kind kind, const struct disk_watch *w,
	struct disk_check *out, struct err *e);

#endif
