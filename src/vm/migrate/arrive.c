/*
 * arrive.c: post-copy at the destination, in the first stream's thread: the machine is loaded and runs while pages of it are still to come.
 *
 *   faults (userfaultfd) --WANT--> source --PAGES--> in their place, who waits goes on
 *   broken: who waits waits; a connection to the listening socket that says RECOVER and the migration's id brings the rest
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hex.h"
#include "base/util.h"
#include "vm/config/config.h"
#include "vm/internal.h"
#include "vm/migrate/receive_impl.h"

#define TURN_MS 1000
#define STRANGER_MAX \
	(64u << 10) /* what who is not known may send at once: what is no RECOVER is told so */
#define ADIEU_NS \
	60000000000ull /* how long a source that did not hear that it is not needed may come back */
#define STILL_NS \
	20000000000ull /* no page for so long, while some are lacking: the connection is dead */

static void drain(int fd)
{
	uint64_t n;

	while (read(fd, &n, sizeof(n)) < 0 && errno == EINTR)
		;
}

/* Why the threads of this migration are to end. */
static int first_failure(struct receive *r, struct err *e)
{
	int rc;

	pthread_mutex_lock(&r->lock);
	rc = r->gone || !r->rc ? err_set(e, -ECANCELED, "cancelled") : r->rc;
	if (!r->gone && r->rc)
		*e = r->e;
	pthread_mutex_unlock(&r->lock);
	return rc;
}

int arrive_serve(void *ctx, struct err *e)
{
	struct receive *r = ctx;

	(void)post_take_faults(r->post, NULL, NULL);
	return 0;
}

/* The same with a connection: a message may be long in coming, and others wait meanwhile. */
static int serve_and_ask(void *ctx, struct err *e)
{
	struct receive *r = ctx;

	return post_take_faults(r->post, r->stream[0].c, e);
}

/*
 * Waits for something, and serves what are faults and pages. 1: the source has said *type, with *arg; 0: look around.
 */
static int turn(struct receive *r, struct mig_head *h, struct err *e)
{
	struct pollfd more[] = {
		{post_take_fd(r->post), POLLIN, 0}, {r->wake, POLLIN, 0}, {r->cancel, POLLIN, 0}};
	struct stream *st = &r->stream[0];
	cleanup(free_ptr) void *payload = NULL;
	int rc = chan_poll(st->c, more, ARRAY_SIZE(more), TURN_MS);
	int said = rc;

	if (rc < 0)
		return err_sys(e, rc, "receive: poll");
	if (more[2].revents)
		return first_failure(r, e);
	if (more[1].revents)
		drain(r->wake);
	rc = more[0].revents ? post_take_faults(r->post, st->c, e) : 0;
	if (rc || !said)
		return rc;
	chan_serve(st->c, &(struct chan_beside){serve_and_ask, r, post_take_fd(r->post)});
	rc = chan_recv(st->c, h, &payload, e);
	chan_serve(st->c, NULL);
	if (!rc && h->type == MIG_PAGES)
		return receive_common(st, h, payload, e);
	return rc ?: 1;
}

/* ---- the switch-over ---- */

static bool answered(struct receive *r, int *rc, struct err *e)
{
	bool yes;

	pthread_mutex_lock(&r->lock);
	yes = r->answered;
	*rc = r->rc;
	if (r->rc)
		*e = r->e;
	pthread_mutex_unlock(&r->lock);
	return yes;
}

static int out_of_turn(const struct mig_head *h, struct err *e)
{
	return err_set(e, -EBADMSG, "the source says %u out of turn", h->type);
}

/* Loading may touch pages that are lacking. */
static int load(struct receive *r, struct err *e)
{
	struct mig_head h;
	int rc = 0;

	receive_ask(r, ASK_LOAD);
	while (!answered(r, &rc, e) && !rc) {
		rc = turn(r, &h, e);
		if (rc > 0)
			rc = out_of_turn(&h, e);
	}
	return rc;
}

static int await_go(struct receive *r, struct err *e)
{
	uint64_t began = clock_mono_ns();
	struct mig_head h;
	int rc;

	do
		rc = turn(r, &h, e);
	while (!rc && clock_mono_ns() - began < WAIT_STALL_NS);
	if (rc < 0)
		return rc;
	if (!rc)
		return err_set(e, -ETIMEDOUT, "the source does not let the machine go");
	if (h.type != MIG_GO)
		return out_of_turn(&h, e);
	r->gap_at = clock_mono_ns();
	r->gap_ns = MIN(h.arg, WAIT_STALL_NS);
	return 0;
}

int arrive_switch(struct receive *r, struct err *e)
{
	struct chan *c = r->stream[0].c;
	int rc = post_take_begin(r->post, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&r->lock);
	r->late = r->stream[0].late = true;
	pthread_cond_broadcast(&r->cond);
	pthread_mutex_unlock(&r->lock);
	rc = load(r, e) ?: chan_send(c, MIG_READY, 0, NULL, 0, e) ?: await_go(r, e);
	return rc ?: receive_running(r, e);
}

/* ---- the rest ---- */

/* Until nothing is lacking, or the connections are of no more use. */
static int take_rest(struct receive *r, struct err *e)
{
	struct post_take_stat st;
	struct mig_head h;

	while (post_take_left(r->post)) {
		int rc = turn(r, &h, e);

		if (rc == -ECANCELED)
			return first_failure(r, e);
		if (rc)
			return rc > 0 ? out_of_turn(&h, e) : rc;
		post_take_stat(r->post, &st);
		if (clock_mono_ns() - st.last_ns > STILL_NS && st.left)
			return err_set(e, -ETIMEDOUT, "no page has come for %llu s",
				(unsigned long long)(STILL_NS / 1000000000));
	}
	return 0;
}

/* The source may end. Until it has heard of it, it counts as needed. */
static int say_whole(struct receive *r, struct err *e)
{
	int rc = chan_send(r->stream[0].c, MIG_WHOLE, 0, NULL, 0, e);
	uint64_t began = clock_mono_ns();
	struct mig_head h;

	while (!rc) {
		rc = turn(r, &h, e);
		if (rc == 1)
			return h.type == MIG_ACK ? 0 : out_of_turn(&h, e);
		if (!rc && clock_mono_ns() - began > STILL_NS)
			rc = err_set(e, -ETIMEDOUT, "the source does not answer");
	}
	return rc;
}

static void end_streams(struct receive *r)
{
	uint64_t one = 1;

	while (write(r->cancel, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	for (unsigned i = 1; i < MIG_STREAMS_MAX; i++) {
		struct stream *st = &r->stream[i];

		if (st->running)
			pthread_join(st->thread, NULL);
		st->running = st->late = false;
		chan_free(steal_ptr(st->c));
	}
	chan_free(steal_ptr(r->stream[0].c));
	/* What ended them is over, unless all of it ends. */
	pthread_mutex_lock(&r->lock);
	r->rc = 0;
	if (!r->gone)
		drain(r->cancel);
	pthread_mutex_unlock(&r->lock);
}

/* Somebody who knows the migration's id: what is lacking is told, and asked for anew. */
static int take_up(struct receive *r, int fd, struct err *e)
{
	cleanup(chan_drop) struct chan *c = NULL;
	cleanup(free_ptr) void *payload = NULL;
	char id[2 * MIG_ID + 1];
	struct mig_head h;
	int rc = receive_connection(r, fd, clock_mono_ns() + STRANGER_NS, STRANGER_MAX, &c, e)
			 ?: chan_recv(c, &h, &payload, e);

	if (rc)
		return rc;
	if (h.type == MIG_RECOVER && h.len == MIG_ID)
		hex_put(id, payload, MIG_ID);
	if (h.type != MIG_RECOVER || h.len != MIG_ID || strcmp(id, r->id) || h.arg < 2 ||
		h.arg > MIG_STREAMS_MAX) {
		rc = err_set(e, -EBUSY,
			"machine %s waits here for the rest of its own memory, not for another "
			"machine",
			r->vm->o.cfg->name ?: "");
		chan_refuse(c, e);
		return rc;
	}
	r->nstreams = (unsigned)h.arg;
	chan_known(c);
	chan_stall(c, STILL_NS);
	chan_serve(c, &(struct chan_beside){arrive_serve, r, post_take_fd(r->post)});
	rc = post_take_tell(r->post, c, e) ?: receive_streams(r, e);
	chan_serve(c, NULL);
	r->stream[0].c = steal_ptr(c);
	return rc ?: post_take_again(r->post, r->stream[0].c, e);
}

/* 0: there are connections again. -ETIMEDOUT: nothing is lacking, and the source has not come to hear it: it has ended, or will be by hand. */
static int wait_for_source(struct receive *r)
{
	uint64_t end = clock_mono_ns() + ADIEU_NS;

	for (;;) {
		struct pollfd p[] = {{post_take_fd(r->post), POLLIN, 0}, {r->wake, POLLIN, 0},
			{r->cancel, POLLIN, 0}};
		cleanup(close_fd) int fd = -1;
		struct err e = {0};
		int rc = chan_lobby_turn(
			&r->lobby, r->listener, p, ARRAY_SIZE(p), TURN_MS, &fd, NULL);

		if (!post_take_left(r->post) && clock_mono_ns() > end)
			return -ETIMEDOUT;
		if (p[2].revents)
			return -ECANCELED;
		if (p[1].revents)
			drain(r->wake);
		if (p[0].revents)
			(void)post_take_faults(r->post, NULL, NULL);
		if (rc <= 0)
			continue; /* also where nobody can be let in: the guest waits here, and nowhere else */
		if (!take_up(r, steal_fd(&fd), &e))
			return 0;
		end_streams(r);
	}
}

static bool gone(struct receive *r)
{
	bool yes;

	pthread_mutex_lock(&r->lock);
	yes = r->gone;
	pthread_mutex_unlock(&r->lock);
	return yes;
}

void arrive_rest(struct receive *r)
{
	struct err e = {0};
	int rc = 0;

	chan_stall(r->stream[0].c, STILL_NS);
	receive_ask(r, ASK_RUN);
	while (!rc && (take_rest(r, &e) || say_whole(r, &e))) {
		if (gone(r))
			return;
		end_streams(r);
		if (post_take_left(r->post)) {
			post_take_set_broken(r->post, &e);
			receive_ask(r, ASK_TELL);
		}
		rc = wait_for_source(r);
		if (rc && rc != -ETIMEDOUT)
			return;
		if (!rc) {
			post_take_set_broken(r->post, NULL);
			receive_ask(r, ASK_TELL);
		}
	}
	post_take_end(r->post);
	receive_ask(r, ASK_WHOLE);
}
