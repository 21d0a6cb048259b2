/*
 * chan.h: one connection of a migration: messages (wire.h) over a Unix socket or TCP, with TLS or without.
 *
 * Every call waits for the other side, at most as long as nothing moves for `stall_ns`, and ends early (-ECANCELED) when `cancel`, an eventfd, is
 * signalled. A connection belongs to one thread at a time. After an error it is of no use any more.
 *
 * Errors: -ECANCELED, -ETIMEDOUT (nothing moved, or not enough until `until_ns`), -EMSGSIZE (more than `max`), -ENOTCONN (the other side closed it in good order, between two messages), -EPIPE and
 * -ECONNRESET (it broke), -EBADMSG (damaged), -EREMOTEIO (the other side refused; the message is its own), -EACCES (TLS: who is that?).
 */
#ifndef LODGE_VM_MIGRATE_CHAN_H
#define LODGE_VM_MIGRATE_CHAN_H

#include <stdbool.h>

#include "vm/migrate/wire.h"

struct err;
struct chan;
struct chan_tls;

#define CHAN_STALL_NS 30000000000ull

struct chan_opts {
	int fd; /* connected; owned from now on, also on failure */
	int cancel; /* eventfd, borrowed; -1: none */
	uint64_t stall_ns; /* 0: CHAN_STALL_NS */
	struct chan_tls *tls; /* NULL: plain */
	bool server; /* of TLS */
	/* Until chan_known(), for whoever connects: */
	uint64_t
		until_ns; /* of clock_mono_ns(): by then all that is waited for is over, however often something moves; 0: no limit */
	uint32_t max; /* bytes of a payload; 0: what its type permits */
	struct chan_beside {
		int (*serve)(void *ctx, struct err *e); /* NULL: none */
		void *ctx;
		int fd;
	} beside;
};
/* With TLS, both sides have shown their certificates when it returns. */
int chan_create(struct chan **out, const struct chan_opts *o, struct err *e);
void chan_free(struct chan *c);
/* The other side is who it should be: none of the above limits it any more, and nothing is served beside it. */
void chan_known(struct chan *c);
/*
 * While a call waits, `serve` is called whenever `fd` is readable; it may chan_send() when the call is a chan_recv(). What it answers other than 0 ends the
 * call. NULL: nothing.
 */
void chan_serve(struct chan *c, const struct chan_beside *b);
static inline void chan_drop(struct chan **c)
{
	chan_free(*c);
}
void chan_cancel_by(struct chan *c, int cancel);
void chan_stall(struct chan *c, uint64_t ns);

int chan_send(struct chan *c, enum mig_type type, uint64_t arg, const void *payload, uint32_t len,
	struct err *e);
/* *payload: malloc'ed with a NUL behind, or NULL when there is none. MIG_REFUSED is answered as -EREMOTEIO. */
int chan_recv(struct chan *c, struct mig_head *head, void **payload, struct err *e);
/* Waits for something to receive. After -ETIMEDOUT, of this call alone, the connection is as before. */
int chan_await(struct chan *c, struct err *e);
/* The same, and the message must be one of this type. */
int chan_want(
	struct chan *c, enum mig_type type, struct mig_head *head, void **payload, struct err *e);
/*
 * Waits until there is something to receive, or one of `more` (at most CHAN_MORE, as for poll(2); their revents are set) has something, or `ms` have passed
 * (-1: no limit). 1: chan_recv() would begin at once; 0: it would wait; -errno. Does not look at `cancel`.
 */
#define CHAN_MORE 3u
struct pollfd;
int chan_poll(struct chan *c, struct pollfd *more, unsigned n, int ms);
/* Tells the other side why, as well as it goes. */
void chan_refuse(struct chan *c, const struct err *why);
/* Who has connected to a listening socket, and has said nothing yet: oldest first. He costs nobody any time. */
#define CHAN_LOBBY_MAX 16u
struct chan_lobby {
	int fd[CHAN_LOBBY_MAX];
	unsigned n;
};
/*
 * One look at it, as by poll() with `more` (at most CHAN_MORE): 1: *fd has something to say, or has gone, and is the caller's; 0: look around, and come
 * again. In a full one the newest takes the place of the oldest.
 */
int chan_lobby_turn(struct chan_lobby *l, int listener, struct pollfd *more, unsigned n, int ms,
	int *fd, struct err *e);
void chan_lobby_clear(struct chan_lobby *l);
/*
 * Who writes to somebody who has gone gets -EPIPE or -ECONNRESET (`rc`, `e`), and what that one said before it went may wait unread: a reason is
 * worth more. Returns -EREMOTEIO with it in `e`, or `rc`. The last thing that is done with a connection; it takes a second at most.
 */
int chan_last_word(struct chan *c, int rc, struct err *e);
/*
 * Is the other end of this Unix socket process `pid` of this host itself, with nobody in between? Then the end of the connection is the end of that
 * process, and nothing that it had said before is lost.
 */
bool chan_is_direct(const struct chan *c, int pid);

struct chan_stat {
	uint64_t sent, received; /* bytes, with heads, without what TLS adds */
	uint64_t wait_ns; /* in which the other side or the link was waited for */
};
void chan_stat(const struct chan *c, struct chan_stat *out);

/* ---- TLS ---- */

/* PEM: the side's own certificate (with its chain) and key, and what must have signed the other's. -EINVAL names what does not fit. */
int chan_tls_create(struct chan_tls **out, const char *cert, const char *key, const char *ca,
	const char *peer, struct err *e);
void chan_tls_free(struct chan_tls *t);

#endif
