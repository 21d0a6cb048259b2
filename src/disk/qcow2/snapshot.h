/*
 * snapshot.h: internal snapshots of a qcow2 image: their table, and what changes when one comes or goes.
 *
 * A snapshot is a copy of the L1 table; every table and cluster that can be reached from it has one reference more. All of this happens with
 * nothing in flight. What touches many counts is not one step in the file: the dirty bit stands while it goes on, so that a crash
 * leaves an image whose counts and flags are made anew when it is opened (version 2 has no such bit: there `lodge disk repair` is needed).
 *
 * Source: qcow2.rst, "Snapshots".
 */
#ifndef LODGE_DISK_QCOW2_SNAPSHOT_H
#define LODGE_DISK_QCOW2_SNAPSHOT_H

#include "disk/qcow2/qcow2.h"

struct q_snap {
	uint64_t l1_off;
	uint32_t l1_size; /* entries */
	uint32_t date_s, date_ns;
	uint64_t clock_ns, vm_size, size, icount;
	uint8_t *extra; /* behind the fields that are known */
	uint32_t extra_len;
	char *id, *name;
};

/* Everything in bounds of the file; sets q->snapshots_bytes. Ends with q_snaps_free(). */
int q_snaps_load(struct qcow2 *q, struct q_snap **out, unsigned *n, struct err *e);
void q_snaps_free(struct q_snap *s, unsigned n);
/* What q_snapshot() keeps of the table. */
void q_snaps_forget(struct qcow2 *q);
/* Its L1 table, in the host's byte order. */
int q_snap_l1(struct qcow2 *q, const struct q_snap *s, uint64_t **out, struct err *e);

int q_snapshot(struct disk *d, enum disk_snap_op op, const char *name, struct err *e);
int q_snapshots(struct disk *d, struct disk_snapshot **out, unsigned *n, struct err *e);

#endif
