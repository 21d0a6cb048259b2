#include "vm/migrate/receive.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/json.h"
#include "base/log.h"
#include "base/state.h"
#include "base/util.h"
#include "memory/uffd.h"
#include "vm/config/config.h"
#include "vm/internal.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/disks.h"
#include "vm/migrate/disks_in.h"
#include "vm/migrate/migrate.h"
#include "vm/migrate/ram.h"
#include "vm/migrate/receive_impl.h"
#include "vm/migrate/shape.h"
#include "vm/nets.h"

/* ---- the first connection ---- */

static int read_hello(struct receive *r, struct chan *c, struct err *e)
{
	cleanup(free_ptr) void *text = NULL;
	const char *id = NULL;
	uint64_t streams = 1;
	struct mig_head h;
	int rc = chan_want(c, MIG_HELLO, &h, &text, e);

	if (rc)
		return rc;
	if ((h.arg & 0xffff) < MIG_VERSION_OLDEST || h.arg >> 16 > MIG_VERSION)
		return err_set(e, -EPROTO,
			"the source speaks versions %llu to %llu of the stream, this Lodge "
			"(" LODGE_VERSION ") %u to %u: bring the older one up to date",
			(unsigned long long)(h.arg >> 16), (unsigned long long)(h.arg & 0xffff),
			MIG_VERSION_OLDEST, MIG_VERSION);
	rc = json_parse(text ?: "", h.len, &r->hello, e)
		     ?: json_want_text(r->hello, "hello", "id", true, &id, e)
		     ?: json_want_u64(r->hello, "hello", "streams", true, &streams, e);
	if (!rc && (strlen(id) != 2 * MIG_ID || !streams || streams > MIG_STREAMS_MAX))
		rc = err_set(e, -EBADMSG, "hello: impossible");
	if (rc)
		return rc;
	r->version = MIN((unsigned)(h.arg & 0xffff), MIG_VERSION);
	memcpy(r->id, id, sizeof(r->id));
	r->nstreams = (unsigned)streams;
	return 0;
}

int receive_connection(struct receive *r, int fd, uint64_t until_ns, uint32_t max,
	struct chan **out, struct err *e)
{
	struct chan_opts o = {.fd = fd,
		.cancel = r->cancel,
		.stall_ns = STRANGER_NS,
		.tls = r->tls,
		.server = true,
		.until_ns = until_ns,
		.max = max};

	if (r->late)
		o.beside = (struct chan_beside){arrive_serve, r, post_take_fd(r->post)};
	return chan_create(out, &o, e);
}

/* One that says what it should. What does not is told why, and forgotten. */
static int first_connection(struct receive *r, struct err *e)
{
	for (;;) {
		cleanup(chan_drop) struct chan *c = NULL;
		int fd, rc = chan_lobby_turn(&r->lobby, r->listener, NULL, 0, -1, &fd, e);

		if (rc < 0)
			return rc;
		if (!rc)
			continue;
		if (receive_connection(r, fd, clock_mono_ns() + STRANGER_NS,
			    mig_payload_max(MIG_HELLO), &c, e))
			continue;
		if (!read_hello(r, c, e)) {
			chan_known(c);
			r->stream[0].c = steal_ptr(c);
			return 0;
		}
		chan_refuse(c, e);
		json_decref(r->hello);
		r->hello = NULL;
	}
}

int receive_open(struct receive **out, int listener, struct chan_tls *tls, struct err *e)
{
	struct receive *r = calloc(1, sizeof(*r));
	int rc;

	if (!r) {
		chan_tls_free(tls);
		return err_set(e, -ENOMEM, "receive: out of memory");
	}
	r->listener = listener;
	r->tls = tls;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->cond, NULL);
	r->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Who connects sees by this whom he has: chan_is_direct(). */
	rc = r->cancel < 0 || r->wake < 0 || listen(listener, MIG_STREAMS_MAX)
		     ? err_sys(e, -errno, "receive")
		     : 0;
	for (unsigned i = 0; !rc && i < MIG_STREAMS_MAX; i++) {
		r->stream[i].r = r;
		r->stream[i].index = i;
		rc = mig_unpack_create(&r->stream[i].unpack, e);
	}
	rc = rc ?: first_connection(r, e);
	if (rc) {
		receive_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

const json_t *receive_hello(const struct receive *r)
{
	return r->hello;
}

void receive_refuse(struct receive *r, const struct err *why)
{
	chan_refuse(r->stream[0].c, why);
}

int receive_check(struct receive *r, struct vm *vm, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	cleanup(json_drop) json_t *j = NULL;
	int rc = mig_shape_fits(vm, r->hello, e);

	mig_ram_init(&r->ram, vm->board->space);
	/* Without it each page is made by a fault. */
	if (!rc)
		(void)uffd_open(&r->fill, UFFD_MISSING | UFFD_USER, NULL);
	if (!rc && json_is_true(json_object_get(r->hello, "post_copy")))
		rc = r->nstreams < 2 ? err_set(e, -EBADMSG, "hello: impossible")
				     : post_take_create(&r->post, &r->ram, e);
	if (rc)
		return rc;
	state_prepare();
	j = json_pack("{s:s, s:i, s:s}", "lodge", LODGE_VERSION, "pid", (int)getpid(), "name",
		vm->o.cfg->name ?: "");
	text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	if (!text)
		return err_set(e, -ENOMEM, "receive: out of memory");
	return chan_send(r->stream[0].c, MIG_WELCOME, r->version, text, (uint32_t)strlen(text), e);
}

/* ---- filling memory: in the streams' threads ---- */

static int zero(void *ctx, uint64_t first, uint64_t n)
{
	struct receive *r = ctx;

	return mig_ram_zero(&r->ram, first, n);
}

/* Memory is short: said once, and no more is made ahead. */
static void leave_to_touch(struct receive *r, const char *why)
{
	if (atomic_exchange(&r->prefill_failed, true))
		return;
	frames_fill_end(space_frames(r->ram.space));
	log_warn(r->vm->o.log, "receive", "%s: the rest is left to the first touch", why);
}

static bool fill(struct receive *r, uint64_t first, unsigned n, const void *pages)
{
	int rc = atomic_load(&r->prefill_failed) ? -EAGAIN : mig_ram_fill(&r->ram, first, n, pages);

	if (rc && rc != -EAGAIN && rc != -ENOTSUP)
		leave_to_touch(r, strerrordesc_np(-rc));
	return !rc;
}

static int put(void *ctx, uint64_t first, unsigned n, const void *pages)
{
	struct receive *r = ctx;
	bool known = atomic_load_explicit(&r->fresh[first / 64], memory_order_relaxed) >>
			     (first % 64) &
		     1;

	for (uint64_t i = first; i < first + n; i++)
		atomic_fetch_or_explicit(&r->fresh[i / 64], 1ull << (i % 64), memory_order_relaxed);
	if (!known && fill(r, first, n, pages))
		return 0;
	return mig_ram_write(&r->ram, first, n, pages);
}

static int get(void *ctx, uint64_t page, void *out)
{
	struct receive *r = ctx;

	return mig_ram_read(&r->ram, page, 1, out);
}

/* After the switch-over: the guest runs meanwhile. */
static int zero_late(void *ctx, uint64_t first, uint64_t n)
{
	struct receive *r = ctx;

	return post_take_put(r->post, first, n, NULL);
}

static int put_late(void *ctx, uint64_t first, unsigned n, const void *pages)
{
	struct receive *r = ctx;

	return post_take_put(r->post, first, n, pages);
}

static int get_late(void *ctx, uint64_t page, void *out)
{
	return -EBADMSG; /* what is lacking has nothing to compare with */
}

/*
 * The second-level tables of what has come are filled while more comes, so that the guest's first touches do not fault. What has not come
 * stays empty. Without memory, or an engine that has such tables, it is left to the first touch.
 */
static void prefill(struct receive *r)
{
	const struct cpu_engine_ops *ops = r->vm->board->engine;
	struct err e = {0};
	int rc = 0;

	if (!ops->vcpu_prefill || atomic_load(&r->prefill_failed))
		return;
	for (uint64_t w = 0; !rc && w < r->words; w++) {
		uint64_t bits = atomic_exchange(&r->fresh[w], 0), left;

		for (unsigned i = 0, n; !rc && bits; bits = n < 64 ? bits >> n : 0, i += n) {
			unsigned skip = (unsigned)__builtin_ctzll(bits);
			gpa_t a = mig_ram_gpa(&r->ram, w * 64 + i + skip, &left);

			bits >>= skip;
			i += skip;
			n = ~bits ? (unsigned)__builtin_ctzll(~bits) : 64;
			n = (unsigned)MIN((uint64_t)n, left);
			rc = ops->vcpu_prefill(r->vm->board->vcpus[0], a, n * PAGE_SIZE, &e);
		}
	}
	if (rc)
		leave_to_touch(r, err_msg(&e));
}

static int take_pages(struct stream *st, const void *payload, uint32_t len, struct err *e)
{
	struct receive *r = st->r;
	const struct mig_sink early = {r->ram.pages, zero, put, get, r},
			      late = {r->ram.pages, zero_late, put_late, get_late, r};
	int rc = mig_unpack(st->unpack, payload, len, st->late ? &late : &early, e);

	if (st->late && !post_take_left(r->post))
		receive_wake(r); /* that was the last one */
	return rc;
}

int receive_common(struct stream *st, const struct mig_head *h, const void *payload, struct err *e)
{
	struct receive *r = st->r;

	switch (h->type) {
	case MIG_PAGES:
		return take_pages(st, payload, h->len, e);
	case MIG_ROUND:
		if (!st->index && !st->late)
			prefill(r);
		if (!st->index && r->disks && disks_in_round(r->disks, e))
			return e->code;
		return chan_send(st->c, MIG_ACK, h->arg, NULL, 0, e);
	default:
		return -ENOMSG;
	}
}

static void fail(struct receive *r, int rc, const struct err *e)
{
	uint64_t one = 1;

	pthread_mutex_lock(&r->lock);
	if (!r->rc) {
		r->rc = rc;
		r->e = *e;
	}
	pthread_cond_broadcast(&r->cond);
	pthread_mutex_unlock(&r->lock);
	while (write(r->cancel, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void receive_wake(struct receive *r)
{
	uint64_t one = 1;

	while (write(r->wake, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* The first stream may be behind: until it has begun, a page that comes would be dropped again. */
static int wait_for_switch(struct stream *st, struct err *e)
{
	struct receive *r = st->r;

	pthread_mutex_lock(&r->lock);
	while (r->post && !r->late && !r->gone && !r->rc)
		pthread_cond_wait(&r->cond, &r->lock);
	st->late = r->late;
	pthread_mutex_unlock(&r->lock);
	chan_stall(st->c, PUSH_STALL_NS);
	return st->late ? 0 : err_set(e, -EBADMSG, "a further stream is early");
}

static void *stream_main(void *arg)
{
	struct stream *st = arg;
	struct err e = {0};
	bool quiet;
	int rc = 0;

	pthread_setname_np(pthread_self(), "receive-n");
	while (!rc) {
		cleanup(free_ptr) void *payload = NULL;
		struct mig_head h;

		rc = chan_recv(st->c, &h, &payload, &e);
		rc = rc ?: receive_common(st, &h, payload, &e);
		if (rc == -ENOMSG && h.type == MIG_PUSH)
			rc = wait_for_switch(st, &e);
		if (rc == -ENOMSG)
			err_set(&e, -EBADMSG, "a further stream says %u", h.type);
	}
	/* The source closes it when all is over; before that the first stream sees the end as well. */
	quiet = st->late ? !post_take_left(st->r->post) : rc == -ENOTCONN;
	if (!quiet && rc != -ECANCELED)
		fail(st->r, rc, &e);
	return NULL;
}

/* In whatever order they come. */
static int take_stream(struct receive *r, int fd, uint64_t until_ns, struct err *e)
{
	cleanup(chan_drop) struct chan *c = NULL;
	cleanup(free_ptr) void *payload = NULL;
	char id[2 * MIG_ID + 1];
	struct mig_head h;
	struct stream *st;

	if (receive_connection(r, fd, until_ns, MIG_ID, &c, NULL) ||
		chan_want(c, MIG_JOIN, &h, &payload, NULL))
		return 0; /* somebody else */
	if (h.len != MIG_ID || !h.arg || h.arg >= r->nstreams || r->stream[h.arg].running)
		return 0;
	hex_put(id, payload, MIG_ID);
	if (strcmp(id, r->id))
		return 0;
	st = &r->stream[h.arg];
	chan_known(c);
	st->c = steal_ptr(c);
	chan_stall(st->c, WAIT_STALL_NS);
	if (chan_send(st->c, MIG_ACK, 0, NULL, 0, e))
		return e->code;
	if (pthread_create(&st->thread, NULL, stream_main, st))
		return err_set(e, -EAGAIN, "receive: no thread");
	st->running = true;
	return 1;
}

int receive_streams(struct receive *r, struct err *e)
{
	uint64_t end = clock_mono_ns() + STRANGER_NS; /* of the next one */
	unsigned left = r->nstreams - 1;

	while (left) {
		struct pollfd more[] = {
			{r->cancel, POLLIN, 0}, {r->late ? post_take_fd(r->post) : -1, POLLIN, 0}};
		uint64_t now = clock_mono_ns();
		int fd, rc;

		if (now > end)
			return err_set(e, -ETIMEDOUT, "%u further streams did not come", left);
		rc = chan_lobby_turn(&r->lobby, r->listener, more, ARRAY_SIZE(more),
			(int)((end - now) / 1000000) + 1, &fd, e);
		if (rc < 0)
			return rc;
		now = clock_mono_ns();
		rc = rc ? take_stream(r, fd, now + STRANGER_NS, e) : 0;
		if (rc < 0)
			return rc;
		if (more[0].revents)
			return err_set(e, -ECANCELED, "cancelled");
		if (more[1].revents)
			(void)arrive_serve(r, NULL);
		left -= (unsigned)rc;
		/* What somebody else took is not its fault. */
		end = rc ? clock_mono_ns() + STRANGER_NS : end + (clock_mono_ns() - now);
	}
	return 0;
}

/* ---- what the loop's thread does ---- */

static int load(struct receive *r, struct err *e)
{
	cleanup(free_ptr) struct state_obj *objs = NULL;
	struct board *b = r->vm->board;
	unsigned n;
	int rc = disks_in_sleep(r->disks, e) ?: mig_disks_wake(b, e);

	if (rc)
		return rc;
	rc = board_state(b, &objs, &n);
	rc = rc ?: state_load(objs, n, r->state, r->state_len, e);
	if (!rc && r->nhot && b->engine->hot_code_put)
		b->engine->hot_code_put(b->cpu_vm, r->hot, r->nhot);
	return rc;
}

/* The guest's clock goes on as if it had not stood still, but for what the last message took. */
static void set_clock(struct receive *r)
{
	if (!r->was_paused)
		vm_clock_forward(r->vm, r->gap_ns + (clock_mono_ns() - r->gap_at));
}

static void run(struct receive *r)
{
	struct vm *vm = r->vm;
	struct err e = {0};

	set_clock(r);
	vm->owner = VM_OURS;
	vm->coming = r->post;
	vm->receive = r;
	if (!r->was_paused)
		vm_resume(vm, NULL);
	if (vm_announce(vm, r->neighbours ?: json_object_get(r->hello, "neighbours"), &e))
		log_warn(vm->o.log, "receive", "%s", err_msg(&e));
}

/* What the other side, the guest and who asks are told of a machine that is here only in part. */
static void tell(struct receive *r)
{
	vm_emit(r->vm, "migration", vm_migrate_status(r->vm));
}

static void whole(struct receive *r)
{
	struct post_take_stat st;

	post_take_stat(r->post, &st);
	r->vm->coming = NULL;
	vm_emit(r->vm, "migration",
		json_pack("{s:s, s:s, s:I, s:I, s:I}", "phase", "done", "side", "destination", "of",
			(json_int_t)st.of, "asked", (json_int_t)st.asked, "worst_us",
			(json_int_t)(st.worst_ns / 1000)));
}

static void on_async(uv_async_t *a)
{
	struct receive *r = container_of(a, struct receive, async);
	struct err e = {0};
	unsigned asks;
	int rc = 0;

	pthread_mutex_lock(&r->lock);
	asks = r->asks;
	r->asks = 0;
	pthread_mutex_unlock(&r->lock);
	if (asks & ASK_LOAD)
		rc = load(r, &e);
	if (asks & ASK_RUN)
		run(r);
	if (asks) {
		pthread_mutex_lock(&r->lock);
		if (rc && !r->rc) {
			r->rc = rc;
			r->e = e;
		}
		r->answered = true;
		pthread_cond_broadcast(&r->cond);
		pthread_mutex_unlock(&r->lock);
		receive_wake(r);
	}
	e = r->e;
	if (asks & ASK_TELL)
		tell(r);
	if (asks & ASK_WHOLE)
		whole(r);
	if (asks & (ASK_RUN | ASK_WHOLE))
		r->over(r->ctx, NULL); /* unless more is to come r is gone */
	else if (asks & ASK_OVER)
		r->over(r->ctx, &e);
}

void receive_ask(struct receive *r, enum ask ask)
{
	pthread_mutex_lock(&r->lock);
	r->asks |= ask;
	r->answered = false;
	pthread_mutex_unlock(&r->lock);
	uv_async_send(&r->async);
}

static int ask_loop(struct receive *r, enum ask ask, struct err *e)
{
	int rc;

	receive_ask(r, ask);
	pthread_mutex_lock(&r->lock);
	while (!r->answered && !r->gone)
		pthread_cond_wait(&r->cond, &r->lock);
	rc = r->answered ? r->rc : err_set(e, -ECANCELED, "cancelled");
	if (r->answered && rc)
		*e = r->e;
	pthread_mutex_unlock(&r->lock);
	return rc;
}

/* ---- the first stream ---- */

int receive_running(struct receive *r, struct err *e)
{
	bool stop;
	int rc;

	pthread_mutex_lock(&r->lock);
	stop = r->rc || r->gone;
	r->ours = !stop;
	pthread_mutex_unlock(&r->lock);
	if (stop)
		return err_set(e, -ECANCELED, "cancelled");
	disks_in_keep(r->disks, true);
	rc = chan_send(r->stream[0].c, MIG_RUNNING, 0, NULL, 0, e);
	if (rc)
		disks_in_keep(r->disks, false);
	else
		disks_in_settle(r->disks);
	return rc;
}

static int switch_over(struct receive *r, const struct mig_head *sw, struct err *e)
{
	struct chan *c = r->stream[0].c;
	struct mig_head h;
	int rc;

	if (!r->state)
		return err_set(e, -EBADMSG, "the machine's state is missing");
	r->was_paused = sw->arg & 1;
	frames_fill_end(space_frames(r->ram.space));
	if (r->post)
		return arrive_switch(r, e);
	rc = ask_loop(r, ASK_LOAD, e) ?: chan_send(c, MIG_READY, 0, NULL, 0, e)
		?: chan_want(c, MIG_GO, &h, NULL, e);
	if (rc)
		return rc;
	r->gap_at = clock_mono_ns();
	r->gap_ns = MIN(h.arg, WAIT_STALL_NS);
	return receive_running(r, e);
}

static void take_hot(struct receive *r, void *list, size_t n)
{
	r->hot = list; /* malloc'ed, hence aligned */
	r->nhot = n;
	for (size_t i = 0; i < n; i++)
		r->hot[i] = get_le64(&r->hot[i]);
}

/* What is lacking must not be touched: a page that is made to fill a table would be there, and zero. */
static int take_lack(
	struct receive *r, const struct mig_head *h, const uint64_t *map, struct err *e)
{
	int rc = post_take_lack(r->post, h, map, e);

	for (uint32_t i = 0; !rc && i < h->len / 8; i++)
		atomic_fetch_and(&r->fresh[h->arg / 64 + i], ~get_le64(&map[i]));
	return rc;
}

static int take_all(struct receive *r, struct err *e)
{
	struct stream *st = &r->stream[0];
	int rc = receive_streams(r, e);

	while (!rc) {
		cleanup(free_ptr) void *payload = NULL;
		struct mig_head h;

		rc = chan_recv(st->c, &h, &payload, e);
		if (rc)
			break;
		if (h.type == MIG_SWITCH)
			return switch_over(r, &h, e);
		if (h.type == MIG_LACK && r->post) {
			rc = take_lack(r, &h, payload, e);
			continue;
		}
		if (h.type == MIG_HOT && !r->hot && h.len % 8 == 0) {
			take_hot(r, steal_ptr(payload), h.len / 8);
			continue;
		}
		if (h.type == MIG_NEIGHBOURS && !r->neighbours) {
			rc = json_parse(payload ?: "", h.len, &r->neighbours, e);
			continue;
		}
		if (h.type == MIG_DISK && r->disks) {
			rc = disks_in_take(r->disks, steal_ptr(payload), h.len, e);
			continue;
		}
		if (h.type == MIG_STATE && !r->state && h.len) {
			r->state = steal_ptr(payload);
			r->state_len = h.len;
			continue;
		}
		rc = receive_common(st, &h, payload, e);
		if (rc == -ENOMSG)
			rc = err_set(e, -EBADMSG, "the source says %u out of turn", h.type);
	}
	if (rc == -ENOTCONN)
		err_set(e, rc, "the source has ended the migration");
	return rc;
}

static void *receive_main(void *arg)
{
	struct receive *r = arg;
	struct err e = {0};
	int rc;

	pthread_setname_np(pthread_self(), "receive");
	rc = take_all(r, &e);
	if (!rc && r->post) {
		arrive_rest(r);
		return NULL;
	}
	if (!rc) {
		(void)ask_loop(r, ASK_RUN, &e);
		return NULL;
	}
	if (r->post)
		post_take_end(r->post); /* who loads does not wait any more: it will not run */
	pthread_mutex_lock(&r->lock);
	if (!r->rc) {
		r->rc = rc;
		r->e = e;
	}
	e = r->e;
	pthread_mutex_unlock(&r->lock);
	if (rc != -EREMOTEIO && rc != -ENOTCONN)
		chan_refuse(r->stream[0].c, &e);
	(void)ask_loop(r, ASK_OVER, &e);
	return NULL;
}

/* ---- life ---- */

int receive_start(struct receive *r, struct vm *vm, struct disks_in *disks,
	void (*over)(void *ctx, const struct err *why), void *ctx, struct err *e)
{
	int rc = uv_async_init(vm->o.loop, &r->async, on_async);
	struct err why = {0};

	if (rc)
		return err_set(e, rc, "receive: %s", uv_strerror(rc));
	r->vm = vm;
	r->disks = disks;
	r->over = over;
	r->ctx = ctx;
	vm->owner = VM_COMING;
	chan_stall(r->stream[0].c, WAIT_STALL_NS);
	r->words = (r->ram.pages + 63) / 64;
	r->fresh = calloc(r->words, sizeof(*r->fresh));
	if (!r->fresh)
		return err_set(e, -ENOMEM, "receive: out of memory");
	if (r->fill && frames_fill_begin(space_frames(r->ram.space), steal_ptr(r->fill), &why))
		log_warn(vm->o.log, "receive", "%s", err_msg(&why));
	if (pthread_create(&r->stream[0].thread, NULL, receive_main, r))
		return err_set(e, -EAGAIN, "receive: no thread");
	r->stream[0].running = true;
	return 0;
}

bool receive_give_up(struct receive *r)
{
	struct err e = {0};
	bool ours;

	pthread_mutex_lock(&r->lock);
	ours = r->ours;
	if (!ours && !r->rc)
		r->rc = err_set(&r->e, -ECANCELED, "nobody waits for the machine any more");
	e = r->e;
	pthread_mutex_unlock(&r->lock);
	if (!ours)
		fail(r, e.code, &e);
	return !ours;
}

bool receive_is_coming(const struct receive *r)
{
	return r && r->vm && r->vm->coming;
}

int receive_recover(struct vm *vm, int listener, struct err *e)
{
	struct receive *r = vm->receive;
	int rc = 0;

	if (!vm->coming)
		rc = err_set(e, -EINVAL,
			"no page of this machine is missing: nothing is to be waited for");
	else if (listen(listener, MIG_STREAMS_MAX) || dup3(listener, r->listener, O_CLOEXEC) < 0)
		rc = err_sys(e, -errno, "receive");
	if (!rc)
		receive_wake(r);
	close(listener);
	return rc;
}

static void closed(uv_handle_t *h)
{
	free(container_of((uv_async_t *)h, struct receive, async));
}

void receive_free(struct receive *r)
{
	uint64_t one = 1;

	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->gone = true;
	pthread_cond_broadcast(&r->cond);
	pthread_mutex_unlock(&r->lock);
	disks_in_cancel(r->disks);
	while (r->cancel >= 0 && write(r->cancel, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	for (unsigned i = 0; i < MIG_STREAMS_MAX; i++) {
		if (r->stream[i].running)
			pthread_join(r->stream[i].thread, NULL);
		chan_free(r->stream[i].c);
		mig_unpack_free(r->stream[i].unpack);
	}
	if (r->cancel >= 0)
		close(r->cancel);
	if (r->wake >= 0)
		close(r->wake);
	post_take_free(r->post);
	uffd_close(r->fill);
	if (r->vm)
		frames_fill_close(space_frames(r->ram.space));
	chan_tls_free(r->tls);
	chan_lobby_clear(&r->lobby);
	json_decref(r->hello);
	json_decref(r->neighbours);
	free(r->state);
	free(r->hot);
	free((void *)r->fresh);
	pthread_cond_destroy(&r->cond);
	pthread_mutex_destroy(&r->lock);
	if (r->vm)
		uv_close((uv_handle_t *)&r->async, closed);
	else
		free(r);
}
