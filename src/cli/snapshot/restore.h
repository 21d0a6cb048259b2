/*
 * restore.h: a machine goes on from a snapshot: what `lodge restore` and `lodge clone` share.
 */
#ifndef LODGE_CLI_SNAPSHOT_RESTORE_H
#define LODGE_CLI_SNAPSHOT_RESTORE_H

struct clone_disks;
struct err;
struct launched;
struct snapopen;
struct vm_config;

enum restore_how {
	RESTORE_HERE, /* paused until its console is connected */
	RESTORE_DETACHED,
	RESTORE_CLONE, /* beside the machine that it came from: in a place of its own, which goes with it until place_keep() */
};

/* The definition that the snapshot has, with `name`, or the name that the machine had. vm_config_free() in any case. */
int restore_definition(
	const struct snapopen *s, const char *name, struct vm_config *c, struct err *e);
/* Starts it; all or nothing. -EBUSY: the name is taken. `disks`: of a clone; NULL: those of the definition. */
int restore_start(struct snapopen *s, struct vm_config *c, enum restore_how how,
	const struct clone_disks *disks, struct launched *m, struct err *e);
/* Names of files in the definition are relative to where it was started; on another host, to here. */
int restore_go_there(const struct snapopen *s, struct err *e);

#endif
