/*
 * receive.h: a machine comes from another process (migrate.h is where it goes out).
 *
 *   lodge receive -> lodge-vm: receive_open    waits for a connection and its HELLO: the definition      main thread, before the sandbox
 *                              (build)
 *                              receive_check   does it fit? WELCOME, or REFUSED with the reason
 *                              (sandbox)
 *                              receive_start   thread "receive" (and one a further stream) fills RAM
 *                                 STATE, SWITCH -> loop: load, take the disks -> READY; GO -> RUNNING, loop: run
 *
 * The machine does not run before GO. When anything fails before that, nothing has happened: the source goes on, and `over` is called with the
 * reason. What comes is hostile: it is checked, bounded, and can do no more than fill the machine's own memory.
 *
 * Threads: calls belong to the loop's; threads of its own.
 */
#ifndef LODGE_VM_MIGRATE_RECEIVE_H
#define LODGE_VM_MIGRATE_RECEIVE_H

#include <stdbool.h>
#include <stddef.h>

struct chan_tls;
struct disks_in;
struct err;
struct json_t;
struct receive;
struct vm;

/* `listener`: a listening socket, borrowed. Connections that are no migration are closed and forgotten. `tls` is owned from now on; NULL: plain. */
int receive_open(struct receive **out, int listener, struct chan_tls *tls, struct err *e);
/* What the source says of itself (shape.h). Borrowed. */
const struct json_t *receive_hello(const struct receive *r);
/* Tells the source that it cannot be. */
void receive_refuse(struct receive *r, const struct err *why);
int receive_check(struct receive *r, struct vm *vm, struct err *e);
/*
 * `over` is called from the loop: NULL: the machine runs here (or is paused, as it was). Else it must be destroyed. It is called once, but
 * after post-copy's switch-over receive_is_coming(), and it comes again when all memory is here. `disks`: that come along; borrowed; NULL: none.
 */
int receive_start(struct receive *r, struct vm *vm, struct disks_in *disks,
	void (*over)(void *ctx, const struct err *why), void *ctx, struct err *e);
/* Nobody waits for the machine here any more. False: it has been promised to run here already, and does. Else `over` comes with the reason. */
bool receive_give_up(struct receive *r);
/* Runs here, and pages of it are still to come: what serves them must not be freed, nor the machine taken down in order. */
bool receive_is_coming(const struct receive *r);
/* The source makes a new connection here, to another listening socket (owned from now on). -EINVAL: there is nothing to come. */
int receive_recover(struct vm *vm, int listener, struct err *e);
/* Ends its threads, also who waits for the disks. NULL is nothing. */
void receive_free(struct receive *r);

#endif
