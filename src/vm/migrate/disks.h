/*
 * disks.h: all disks of a machine change hands together (disk_sleep(), disk_wake()). Loop thread.
 */
#ifndef LODGE_VM_MIGRATE_DISKS_H
#define LODGE_VM_MIGRATE_DISKS_H

struct board;
struct disks_out;
struct err;

/* Before anything is stopped: -EBUSY, -EOPNOTSUPP with the disk and the reason. */
int mig_disks_can(struct board *b, struct err *e);
/* What they hold back goes out now, so that the moment does not wait for it. */
int mig_disks_flush(struct board *b, struct err *e);
/* The devices are quiesced. All or none, but for those that are copied (NULL: none is): they stay as they are. */
int mig_disks_sleep(struct board *b, const struct disks_out *copied, struct err *e);
int mig_disks_wake(struct board *b, struct err *e);

#endif
