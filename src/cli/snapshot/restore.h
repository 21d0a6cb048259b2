/*
 * restore.h: a machine goes on from a snapshot: what `lodge restore` and `lodge clone` share.
 */
#ifndef LODGE_CLI_SNAPSHOT_RESTORE_H
#define LODGE_CLI_SNAPSHOT_RESTORE_H

struct err;
struct launched;
struct snapopen;
struct vm_config;

enum restore_how {
	RESTORE_HERE, /* paused until its console is connected */
	RESTORE_DETACHED,
	RESTORE_CLONE, /* beside the machine that it came from: in a place of its own, and disks stay as they are */
};

/* The definition that the snapshot has, with `name`, or the name that the machine had. vm_config_free() in any case. */
int restore_definition(
	const struct snapopen *s, const char *name, struct vm_config *c, struct err *e);
/* Starts it; all or nothing. -EBUSY: the name is taken. */
int restore_start(struct snapopen *s, struct vm_config *c, enum restore_how how, struct launched *m,
	struct err *e);

#endif
