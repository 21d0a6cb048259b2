/*
 * disks_in.h: images that a machine brings along: made, filled while it still runs elsewhere, and gone again when it does not come.
 *
 *   main thread: disks_in_create()   HELLO's "copy": guard, images      (then the machine is built: it looks at them asleep, as at shared ones)
 *                disks_in_open()     their writers, with their locks    (then the sandbox)
 *   "receive":   disks_in_take()     records (blocks.h) -> queue ------> loop: writes
 *                disks_in_round()    waits until all is written and durable
 *   loop:        disks_in_sleep()    the writers let go; then the machine's own disks wake (disks.h)
 *                disks_in_keep()     the machine is ours: the images stay
 *
 * The guard is a process of one purpose: it was forked before the sandbox, knows which images were made, and removes them when this process closes its end
 * without having kept them, or was killed. It holds nothing else open.
 *
 * What comes is hostile: it can fill the images that it is about, and nothing else.
 *
 * Threads: as above; cancel: any. One lock, innermost. Errors name the disk and its file.
 */
#ifndef LODGE_VM_MIGRATE_DISKS_IN_H
#define LODGE_VM_MIGRATE_DISKS_IN_H

#include <stdbool.h>
#include <stdint.h>

struct disks_in;
struct err;
struct json_t;
struct uv_loop_s;
struct vm_config;

/*
 * `cfg`: the definition that the machine will have here: it says where each image is to be, and of which format. *out NULL: nothing is copied. -EEXIST: a file is
 * there and `overwrite` is not set; -EBUSY: somebody uses it (the source itself, on the same host).
 */
int disks_in_create(struct disks_in **out, const struct json_t *hello, const struct vm_config *cfg,
	bool overwrite, struct uv_loop_s *loop, struct err *e);
int disks_in_open(struct disks_in *in, struct err *e);
/* `payload` of a DISK message, malloc'ed; owned from now on. Waits while much is on its way. */
int disks_in_take(struct disks_in *in, void *payload, uint32_t len, struct err *e);
int disks_in_round(struct disks_in *in, struct err *e);
/* Who waits gets -ECANCELED. NULL is nothing. */
void disks_in_cancel(struct disks_in *in);
/* After a disks_in_round(). Gives up the locks; what takes time to be closed stays until disks_in_free(). NULL is nothing. */
int disks_in_sleep(struct disks_in *in, struct err *e);
/* Whether the images stay when this process ends. NULL is nothing. */
void disks_in_keep(struct disks_in *in, bool keep);
/* Nothing waits in it, and the machine has let go of its disks. Waits until the images are gone, when they are not kept. NULL is nothing. */
void disks_in_free(struct disks_in *in);

#endif
