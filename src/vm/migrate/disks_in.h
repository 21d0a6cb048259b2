/*
 * disks_in.h: images that a machine brings along: made, filled while it still runs elsewhere, and gone again when it does not come.
 *
 *   main thread: disks_in_create()   HELLO's "copy": guard, images      (then the machine is built: it looks at them asleep, as at shared ones)
 *                disks_in_open()     their writers, with their locks    (then the sandbox)
 *   "receive":   disks_in_take()     records (blocks.h) -> queue ------> loop: writes
 *                disks_in_round()    waits until all is written and durable
 *   loop:        disks_in_sleep()    the writers let go; then the machine's own disks wake (disks.h)
 *   "receive":   disks_in_keep()     the machine is ours: the images stay; disks_in_settle(): it runs
 *
 * The guard is a process of one purpose: it was forked before the sandbox, knows which images were made, and removes them when this process closes its end
 * without having kept them, or was killed. It holds nothing else open but what makes way.
 *
 * An image that is to take the place of a file is made beside it, as FILE.incoming, and the guard gives it the name when the machine is ours: until then, and
 * whatever fails, FILE is as it was. Its machine knows it as FILE from the beginning (disk_opts.at). Of a block device this cannot be: what comes is written to
 * it at once (but in a dry run: never).
 *
 * What comes is hostile: it can fill the images that it is about, and nothing else. Without a definition of our own the paths are its as well: then it
 * chooses where, as this user, a new file is made. A file that is there makes way only when it was named here (`own`, `places`).
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

struct disks_in_opts {
	const struct json_t *hello;
	const struct vm_config *
		cfg; /* that the machine will have here: it says where each image is to be, and of which format */
	bool overwrite; /* files that are there may make way, where their paths are ours: */
	bool own; /* all of cfg is */
	const struct vm_place *places; /* or these disks are */
	unsigned nplaces;
	struct uv_loop_s *loop;
};
/*
 * *out NULL: nothing is copied. -EEXIST: a file is there, and may not make way; -EBUSY: somebody uses it (the source itself, on the same host). All of `o` but
 * the loop is the caller's.
 */
int disks_in_create(struct disks_in **out, const struct disks_in_opts *o, struct err *e);
/* For vm_opts.disk_at, as long as `in` lives. NULL of NULL. */
const char *const *disks_in_at(const struct disks_in *in);
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
/* They stay, and get their names from now on: nothing changes that any more. NULL is nothing. */
void disks_in_settle(struct disks_in *in);
/*
 * After that, in the loop, when the machine goes on with them: `named` is called once all have their names, perhaps at once. `why`: one has not. Then, or
 * before it, disks_in_free().
 */
void disks_in_end(struct disks_in *in, void (*named)(void *ctx, const struct err *why), void *ctx);
/*
 * Nothing waits in it, and the machine has let go of its disks or goes on with them. Waits until the images are gone, or have their names. NULL is
 * nothing.
 */
void disks_in_free(struct disks_in *in);

#endif
