/*
 * postcopy.h: a machine runs at its destination before its memory is there. docs/migration.md has the sequence, and what may fail.
 *
 *   source                                          destination
 *   post_give: map of what is still to be sent      post_take: map of what it lacks; userfaultfd over RAM
 *     next: background push      == PAGES =====>      put: a page is in its place at once (UFFDIO_COPY), who waits goes on
 *     until: WANT, at once       == PAGES =====>      faults: a page that it lacks is asked for: WANT; another one is zero
 *
 * What the guest waits for has the first connection to itself, and no limit of bandwidth; the push goes over the others, and goes on from
 * where the guest last asked. Both engines, devices and the kernel (io_uring, KVM) meet the same fault. When the connections break,
 * whoever needs a page waits in its fault, the others run on; the destination's map says what a new connection has to bring.
 *
 * Threads: the maps are atomic; calls about a connection belong to its thread. Errors: -EBADMSG, -ENOTSUP, what the host says.
 */
#ifndef LODGE_VM_MIGRATE_POSTCOPY_H
#define LODGE_VM_MIGRATE_POSTCOPY_H

#include <stdbool.h>
#include <stdint.h>

struct chan;
struct err;
struct mig_head;
struct mig_pack;
struct mig_ram;

/* ---- the source's side ---- */

struct post_give;

/* `ram` is borrowed. */
int post_give_create(struct post_give **out, const struct mig_ram *ram, struct err *e);
void post_give_free(struct post_give *g);
/* Tells the destination that the pages of `map` (a bit each) are not what they are here any more. What it was told before is not repeated. */
int post_give_lack(struct post_give *g, struct chan *c, const uint64_t *map, struct err *e);
/* After a broken connection: the destination says what it lacks, until MIG_ACK. */
int post_give_learn(struct post_give *g, struct chan *c, struct err *e);
/* The next pages to push: all of one word of the map. They are the caller's to send. False: there are none left. Any thread. */
bool post_give_next(struct post_give *g, uint64_t *word, uint64_t *bits);
/* Answers what the destination asks for until it says `type`. */
int post_give_until(
	struct post_give *g, struct chan *c, struct mig_pack *pack, unsigned type, struct err *e);

struct post_give_stat {
	uint64_t of, left; /* pages that were to be sent then; that are still to be */
	uint64_t asked; /* pages that the guest waited for */
	uint64_t wire; /* bytes of answers */
};
void post_give_stat(const struct post_give *g, struct post_give_stat *out);

/* ---- the destination's side ---- */

struct post_take;

/*
 * Before the sandbox: opening a userfaultfd wants rights that are given up there. -ENOTSUP, -EPERM say what is missing. `ram` is borrowed;
 * nothing of it may have been used yet.
 */
int post_take_create(struct post_take **out, const struct mig_ram *ram, struct err *e);
/* Whoever waits for a page gets zeroes: nobody may. */
void post_take_free(struct post_take *t);
/* MIG_LACK: these pages are lacking; what was here of them is dropped. */
int post_take_lack(struct post_take *t, const struct mig_head *h, const void *map, struct err *e);
/* From now on who touches a page that is not there waits for it. */
int post_take_begin(struct post_take *t, struct err *e);
/* Readable when somebody does. */
int post_take_fd(const struct post_take *t);
/* Asks the source for what is waited for; `c` NULL: there is no connection, it is asked for later (post_take_again()). */
int post_take_faults(struct post_take *t, struct chan *c, struct err *e);
int post_take_again(struct post_take *t, struct chan *c, struct err *e);
/* Says all that is lacking, and MIG_ACK. */
int post_take_tell(struct post_take *t, struct chan *c, struct err *e);
/* n pages from `first` on have come; NULL: zeroes. Any thread. 0 or -errno. */
int post_take_put(struct post_take *t, uint64_t first, uint64_t n, const void *pages);
uint64_t post_take_left(const struct post_take *t);
/* Nothing is lacking any more: memory is as any other. */
void post_take_end(struct post_take *t);

/* Why the connection broke; NULL: there is one again. */
void post_take_set_broken(struct post_take *t, const struct err *why);

struct post_take_stat {
	uint64_t of, left; /* pages that were lacking when it began; that are still */
	uint64_t asked, zero; /* pages that were waited for; that were zero and not asked for */
	uint64_t last_ns; /* when a page last came */
	uint64_t worst_ns; /* the longest time from a question to its page */
	bool broken;
	char why[256];
};
void post_take_stat(struct post_take *t, struct post_take_stat *out);

#endif
