/*
 * receive_impl.h: what receive.c (until the machine runs here) and arrive.c (post-copy: from then on) share.
 *
 * Threads: fields marked so are under the lock, or the loop's; the rest is the first stream's thread's.
 */
#ifndef LODGE_VM_MIGRATE_RECEIVE_IMPL_H
#define LODGE_VM_MIGRATE_RECEIVE_IMPL_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "base/err.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/postcopy.h"
#include "vm/migrate/ram.h"
#include "vm/migrate/receive.h"

#define STRANGER_NS 10000000000ull /* for who begins to speak to say who he is */
#define WAIT_STALL_NS \
	60000000000ull /* a source that waits for its bandwidth is silent for a while */
#define PUSH_STALL_NS \
	1000000000000000ull /* of a further stream: nothing need come over it; arrive.c looks whether any moves, and ends it */

/* What the loop's thread is asked for. */
enum ask {
	ASK_LOAD = 1,
	ASK_RUN = 2,
	ASK_OVER = 4,
	ASK_TELL = 8, /* post-copy: how it stands has changed */
	ASK_WHOLE = 16
};

struct stream {
	struct receive *r;
	unsigned index;
	struct chan *c;
	struct mig_unpack *unpack;
	pthread_t thread;
	bool running;
	bool late; /* post-copy: its pages are of the time after the switch-over */
};

struct receive {
	int listener, cancel;
	int wake; /* eventfd: the first stream looks around */
	struct chan_lobby lobby; /* of the listener */
	struct chan_tls *tls;
	json_t *hello;
	unsigned version; /* of the stream */
	char id[2 * MIG_ID + 1];
	unsigned nstreams;
	struct stream stream[MIG_STREAMS_MAX];
	struct vm *vm;
	struct disks_in *disks; /* that come along; NULL: none */
	struct mig_ram ram;
	struct uffd *fill; /* until it is the memory's (frames_fill_begin()); or NULL */
	struct post_take *post; /* NULL: not post-copy */
	void *state; /* described state */
	uint32_t state_len;
	json_t *neighbours; /* what came of the guest's networks after HELLO; NULL: nothing */
	uint64_t *hot; /* code to be translated first */
	size_t nhot;
	bool was_paused;
	_Atomic uint64_t *fresh; /* pages that came since tables were filled last: a bit each */
	uint64_t words;
	_Atomic bool prefill_failed; /* it was said */

	void (*over)(void *ctx, const struct err *why);
	void *ctx;
	uv_async_t async;
	pthread_mutex_t lock; /* below */
	pthread_cond_t cond;
	unsigned asks; /* enum ask */
	bool answered, gone;
	bool ours; /* RUNNING is said, or about to be */
	bool late; /* post-copy: what is lacking is known, pages may come */
	uint64_t gap_ns, gap_at; /* how long it stood still before GO came, and when that was */
	int rc; /* the first failure, of a further stream or of the loop's work */
	struct err e;
};

/*
 * From the listener: whoever it is. Until chan_known() he has until `until_ns` and may send `max` bytes at once; faults are served meanwhile when the
 * machine runs here already.
 */
int receive_connection(struct receive *r, int fd, uint64_t until_ns, uint32_t max,
	struct chan **out, struct err *e);
/* Waits for the further streams, and starts their threads. */
int receive_streams(struct receive *r, struct err *e);
/* A chan_beside.serve: what waits for a page that never was is let go; what is to be asked for waits for post_take_again(). */
int arrive_serve(void *ctx, struct err *e);
/* What every stream may carry; -ENOMSG: another message. */
int receive_common(struct stream *st, const struct mig_head *h, const void *payload, struct err *e);
/* GO has come: the machine is ours when this gets out. */
int receive_running(struct receive *r, struct err *e);
/* Does not wait for it. */
void receive_ask(struct receive *r, enum ask ask);
void receive_wake(struct receive *r);

/* SWITCH has come: until RUNNING is said. */
int arrive_switch(struct receive *r, struct err *e);
/* The machine runs here: until all its pages are here, over as many connections as it takes, or receive_free(). */
void arrive_rest(struct receive *r);

#endif
