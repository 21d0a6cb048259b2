/*
 * clone_disks.h: the disks of clones. What a disk of the machine held at the moment is a raw file without a name, made once; in the place of each clone it
 * has a name (a hard link, so that it goes with the last of them), and a qcow2 overlay on it is the clone's disk:
 *
 *   <data>/vms/NAME/disk0.base    shared, readonly
 *   <data>/vms/NAME/disk0.qcow2   backing file disk0.base, format raw
 *
 * Nothing leads back to the machine's own disk, which may change, move or go.
 *
 * One thread. Errors: -E2BIG more disks than there may be, -EOPNOTSUPP a snapshot without the disks, -EBUSY a snapshot's disk is in use.
 */
#ifndef LODGE_CLI_SNAPSHOT_CLONE_DISKS_H
#define LODGE_CLI_SNAPSHOT_CLONE_DISKS_H

#include <jansson.h>

struct err;
struct place;
struct snapopen;
struct vm_config;

#define CLONE_DISKS 7u

/* All zero: none. */
struct clone_disks {
	unsigned n;
	unsigned index[CLONE_DISKS]; /* in the definition */
	int fd[CLONE_DISKS];
};

/* Empty files for the disks of a definition that are written to. */
int clone_disks_make(struct clone_disks *c, const json_t *definition, struct err *e);
/* The same, with what the disks held at a snapshot that was kept. In the folder where the machine was started (restore_go_there()). */
int clone_disks_of_snapshot(struct clone_disks *c, const struct snapopen *s, struct err *e);
/* Disks of one clone, in its place and its definition. */
int clone_disks_give(
	const struct clone_disks *c, const struct place *p, struct vm_config *cfg, struct err *e);
/* What the clones rely on is on the medium. */
int clone_disks_sync(const struct clone_disks *c, struct err *e);
void clone_disks_close(struct clone_disks *c); /* fit for cleanup() */

#endif
