/*
 * place.h: what `lodge run` keeps of a machine on disk: <data place>/vms/NAME.
 *
 *   disk.raw      the machine's own copy of its image's disk
 *   image         the name of that image
 *   console.log   what the guest wrote; machine.log: what lodge-vm wrote
 *   disk0.qcow2   a clone's own disk; disk0.base: what it and other clones began with
 *   temporary     there when nobody chose the name, or a clone is not complete: the directory goes when the machine ends
 *
 * The directory itself is locked (flock) while somebody makes, runs or removes the machine. A temporary
 * one that nobody has locked is what a killed machine left, and place_sweep() removes it.
 *
 * One thread. Errors: -EBUSY somebody else has it, else the errno of the file.
 */
#ifndef LODGE_CLI_PLACE_H
#define LODGE_CLI_PLACE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

struct err;
struct fs_names;

struct place {
	char name[64];
	char dir[PATH_MAX];
	int lock; /* the directory, locked; -1: not open */
	bool temporary;
	bool made; /* this call made the directory */
	bool made_disk; /* set by who made disk.raw, for place_undo() */
};

/* <data place>/vms/NAME, or vms itself (name NULL); makes nothing. */
int place_path(const char *name, char *path, size_t size, struct err *e);
/*
 * Makes the directory if it is not there, and locks it. `temporary`: it must not be there (-EEXIST: take
 * another name).
 */
int place_open(struct place *p, const char *name, bool temporary, struct err *e);
/* Locks what is there already; -ENOENT. */
int place_find(struct place *p, const char *name, struct err *e);
/* Lets the lock go; the directory stays. Fit for cleanup() after place_open() was tried. */
void place_close(struct place *p);
/* Is it still? Whoever made it may have decided to keep it. */
bool place_is_temporary(const struct place *p);
/* From now on it stays when its machine ends. */
int place_keep(const char *name, struct err *e);
/* Removes what this opener made: a start that failed leaves nothing. */
void place_undo(struct place *p);
/* The same when nobody is left who knows what came of it: only logs go, and the directory when it held nothing else. */
void place_undo_logs(struct place *p);
/* Removes the directory with everything in it. -EBUSY: a machine of another name has a disk that lies in it. */
int place_remove(struct place *p, struct err *e);
/* Path of a file in it. */
int place_file(const struct place *p, const char *file, char *path, size_t size, struct err *e);

/* Names of all places, of machines that run and of others; the caller frees them. */
int place_names(struct fs_names *names, struct err *e);

/* Removes temporary places that nobody uses, and empty ones. Errors are not worth a message. */
void place_sweep(void);

#endif
