/*
 * fits.h: can this machine go on as one that was described elsewhere? For restore, migration and update. Loop thread.
 */
#ifndef LODGE_VM_SNAPSHOT_FITS_H
#define LODGE_VM_SNAPSHOT_FITS_H

struct err;
struct json_t;
struct vm;

/*
 * `j` has "engine", "isa" and "cpu" of the other one: every CPU extension that its guest may have found must be here. `doing` stands in front of messages.
 * -EINVAL, -ENOTSUP.
 */
int vm_fits_cpu(struct vm *vm, const struct json_t *j, const char *doing, struct err *e);

#endif
