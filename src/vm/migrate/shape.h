/*
 * shape.h: what two machines must have in common for one to go on as the other: compared before anything is paused.
 *
 *	{"lodge", "name", "directory", "engine", "isa", "cpu", "memory": [[address, length] ...],
 *	 "objects": [{"id", "type", "version", "younger"} ...], "disks": [{"id", "size", "format", "readonly", "file"} ...], "definition"}
 *
 * `objects` is all that publishes described state: vCPUs, controllers, devices. Threads: the loop's.
 */
#ifndef LODGE_VM_MIGRATE_SHAPE_H
#define LODGE_VM_MIGRATE_SHAPE_H

struct err;
struct json_t;
struct vm;

/* New reference; NULL: out of memory. */
struct json_t *mig_shape(struct vm *vm);
/* `vm` is the destination's, built; `from` is hostile. -EINVAL, -ENOTSUP: which device or part, what, and why. */
int mig_shape_fits(struct vm *vm, const struct json_t *from, struct err *e);

#endif
