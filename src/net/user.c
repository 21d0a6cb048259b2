/*
 * user.c: user networking: libslirp in the event loop.
 *
 *   net_send() --> filter --> slirp_input() --> sockets of this process
 *   sockets --> epoll set --> uv_poll --> slirp_pollfds_poll() --> slirp_packet() --> queue --> net_deliver()
 *
 * libslirp names the descriptors that it wants to wait for anew each time. They are kept in an epoll set of our own, of which the
 * event loop sees one descriptor; only what changed costs a system call. libslirp is asked again only after something happened
 * to it (`dirty`), so other work of the loop does not cost a walk over all connections.
 *
 * The queue towards the guest is bounded. When it is half full, sockets are no longer read, so that their peers wait; when it
 * is full, frames are dropped, and TCP sends them again.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <jansson.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <uv.h>

#include "base/clock.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/list.h"
#include "base/util.h"
#include "net/net.h"
#include "net/user_filter.h"

#define QUEUE_BYTES (1u << 20)
#define FD_MAX \
	1024 /* descriptors from here on are not served; a process has no more unless told to */

/* One descriptor that libslirp waits for; the index, which libslirp keeps, is the descriptor. */
struct watch {
	uint32_t events; /* in the epoll set; 0: not in it */
	uint32_t ready;
	unsigned round; /* of the last fill that asked for it */
};

struct packet {
	struct list link;
	size_t len;
	uint8_t frame[];
};

struct fwd {
	bool udp;
	struct in_addr host, guest;
	uint16_t host_port, guest_port;
};

struct user {
	struct net_backend b;
	Slirp *slirp;
	const char *id;
	uv_loop_t *loop;
	uv_prepare_t prepare;
	uv_check_t check;
	uv_timer_t timer;
	uv_poll_t poll;
	uv_idle_t idle; /* active: there is work, do not wait */
	unsigned handles; /* open ones */
	int epoll;
	struct watch watch[FD_MAX];
	int nwatch; /* above the highest one in use */
	unsigned round, fds;
	bool dirty; /* what libslirp waits for may have changed */
	bool poll_now, expired;
	struct list queue;
	size_t queued;
	struct user_filter filter;
	struct fwd *fwds;
	unsigned nfwds;
	uint64_t refused,
		limited; /* frames that would reach loopback; beyond the descriptor bound */
	uint8_t out[NET_HDR + NET_FRAME_MAX];
};

static struct user *of(struct net_backend *b)
{
	return container_of(b, struct user, b);
}

/* ---- towards the guest ---- */

static ssize_t slirp_packet(const void *buf, size_t len, void *opaque)
{
	struct user *u = opaque;
	struct packet *p;

	if (len > NET_FRAME_MAX || u->queued + len > QUEUE_BYTES ||
		!(p = malloc(sizeof(*p) + NET_HDR + len))) {
		u->b.stats.rx_drops++;
		return (ssize_t)len;
	}
	memset(p->frame, 0, NET_HDR);
	/* It was made here or came through the host's own checks. */
	if (u->b.accepted & NET_OFF_CSUM)
		p->frame[NET_H_FLAGS] = NET_DATA_VALID;
	memcpy(p->frame + NET_HDR, buf, len);
	p->len = NET_HDR + len;
	u->queued += len;
	list_add_tail(&u->queue, &p->link);
	return (ssize_t)len;
}

static void deliver(struct user *u)
{
	bool was_full = u->queued > QUEUE_BYTES / 2;

	while (!list_empty(&u->queue)) {
		struct packet *p = list_entry(u->queue.next, struct packet, link);

		if (!net_deliver(&u->b, p->frame, p->len))
			break;
		u->queued -= p->len - NET_HDR;
		list_del(&p->link);
		free(p);
	}
	if (was_full && u->queued <= QUEUE_BYTES / 2)
		u->dirty = true; /* sockets may be read again */
}

/* ---- waiting ---- */

static uint32_t to_epoll(int events)
{
	return (events & SLIRP_POLL_IN ? EPOLLIN : 0u) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0u) |
	       (events & SLIRP_POLL_PRI ? EPOLLPRI : 0u);
}

static int from_epoll(uint32_t events)
{
	return (events & EPOLLIN ? SLIRP_POLL_IN : 0) | (events & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
	       (events & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (events & EPOLLERR ? SLIRP_POLL_ERR : 0) |
	       (events & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

static struct watch *watch_find(struct user *u, int fd)
{
	return fd >= 0 && fd < FD_MAX ? &u->watch[fd] : NULL;
}

static void watch_set(struct user *u, struct watch *w, uint32_t events)
{
	int fd = (int)(w - u->watch);
	struct epoll_event ev = {.events = events, .data.fd = fd};

	if (w->events == events)
		return;
	if (!events)
		epoll_ctl(u->epoll, EPOLL_CTL_DEL, fd, NULL);
	else if (!w->events || epoll_ctl(u->epoll, EPOLL_CTL_MOD, fd, &ev))
		/* Not watched yet, or the number belongs to another socket by now. */
		if (epoll_ctl(u->epoll, EPOLL_CTL_ADD, fd, &ev))
			events = 0;
	w->events = events;
}

static int add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;
	struct watch *w = watch_find(u, fd);

	if (!w)
		return -1;
	u->nwatch = MAX(u->nwatch, fd + 1);
	if (u->queued > QUEUE_BYTES / 2)
		events &= ~SLIRP_POLL_IN;
	w->round = u->round;
	w->ready = 0;
	watch_set(u, w, to_epoll(events));
	return fd;
}

static int get_revents(int idx, void *opaque)
{
	struct user *u = opaque;

	if (idx < 0 || idx >= u->nwatch)
		return 0;
	return from_epoll(u->watch[idx].ready & (u->watch[idx].events | EPOLLERR | EPOLLHUP));
}

static void fd_opened(int fd, void *opaque)
{
	struct user *u = opaque;

	u->fds++;
	u->dirty = true;
}

static void fd_closing(int fd, void *opaque)
{
	struct user *u = opaque;
	struct watch *w = watch_find(u, fd);

	u->fds -= u->fds > 0;
	u->dirty = true;
	if (!w)
		return;
	watch_set(u, w, 0);
	w->ready = 0;
}

static void on_timer(uv_timer_t *t)
{
	struct user *u = t->data;

	u->expired = true;
}

static void on_poll(uv_poll_t *h, int status, int events)
{
	struct user *u = h->data;

	u->poll_now = true;
}

static void on_idle(uv_idle_t *h)
{
	/* Only there so that the loop does not wait. */
}

static void collect_ready(struct user *u)
{
	struct epoll_event ev[64];
	int n = epoll_wait(u->epoll, ev, ARRAY_SIZE(ev), 0);

	for (int i = 0; i < n; i++) {
		struct watch *w = watch_find(u, ev[i].data.fd);

		if (w)
			w->ready = ev[i].events;
	}
}

/* Asks libslirp what it waits for, and for how long. */
static void fill(struct user *u)
{
	uint32_t timeout = UINT32_MAX;

	u->dirty = false;
	u->round++;
	slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
	for (int i = 0; i < u->nwatch; i++)
		if (u->watch[i].events && u->watch[i].round != u->round)
			watch_set(u, &u->watch[i], 0);
	if (timeout == UINT32_MAX) {
		uv_timer_stop(&u->timer);
		return;
	}
	uv_update_time(u->loop);
	uv_timer_start(&u->timer, on_timer, timeout, 0);
}

/* After the loop has waited: lets libslirp work, and hands over what came of it. */
static void on_check(uv_check_t *c)
{
	struct user *u = c->data;

	uv_idle_stop(&u->idle);
	if (u->poll_now || u->expired) {
		/* Its indices are those of the last fill. */
		if (u->dirty)
			fill(u);
		if (u->poll_now)
			collect_ready(u);
		u->poll_now = u->expired = false;
		u->dirty = true;
		slirp_pollfds_poll(u->slirp, 0, get_revents, u);
	}
	deliver(u);
}

static void on_prepare(uv_prepare_t *p)
{
	struct user *u = p->data;

	deliver(u);
	if (u->expired) { /* the timer ran before this: work now instead of after waiting */
		uv_idle_start(&u->idle, on_idle);
		return;
	}
	if (u->dirty)
		fill(u);
}

/* ---- from the guest ---- */

static bool udp_forwarded(void *ctx, uint16_t guest_port)
{
	struct user *u = ctx;

	for (unsigned i = 0; i < u->nfwds; i++)
		if (u->fwds[i].udp && u->fwds[i].guest_port == guest_port)
			return true;
	return false;
}

static int user_send(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len)
{
	struct user *u = of(b);
	size_t at = 0;

	for (unsigned i = 0; i < n; at += iov[i++].iov_len)
		memcpy(u->out + at, iov[i].iov_base, iov[i].iov_len);
	if (net_finish_csum(u->out, len))
		return -EINVAL;
	switch (user_filter(&u->filter, u->out + NET_HDR, len - NET_HDR)) {
	case USER_PASS:
		break;
	case USER_LOOPBACK:
		u->refused++;
		return -EACCES;
	case USER_OPENS:
		if (u->fds < NET_USER_FDS)
			break;
		u->limited++;
		return -EMFILE;
	}
	u->dirty = true;
	slirp_input(u->slirp, u->out + NET_HDR, (int)(len - NET_HDR));
	/* It says where frames go that wait for that: libslirp sends them when it is polled next. */
	if (get_be16(u->out + NET_HDR + 12) == ETHERTYPE_ARP) {
		u->poll_now = true;
		uv_idle_start(&u->idle, on_idle);
	}
	return 0;
}

static void user_flush(struct net_backend *b)
{
	struct user *u = of(b);

	/* Frames go out from the loop, never from here. */
	if (!list_empty(&u->queue))
		uv_idle_start(&u->idle, on_idle);
}

static void user_describe(struct net_backend *b, json_t *into)
{
	struct user *u = of(b);
	json_t *fwds = json_array();

	for (unsigned i = 0; i < u->nfwds; i++) {
		char host[INET_ADDRSTRLEN], guest[INET_ADDRSTRLEN];
		const struct fwd *f = &u->fwds[i];

		inet_ntop(AF_INET, &f->host, host, sizeof(host));
		inet_ntop(AF_INET, &f->guest, guest, sizeof(guest));
		json_array_append_new(fwds, json_sprintf("%s:%s:%u-%s:%u", f->udp ? "udp" : "tcp",
						    host, f->host_port, guest, f->guest_port));
	}
	json_object_set_new(into, "forwarded", fwds);
	json_object_set_new(into, "host_sockets", json_integer(u->fds));
	json_object_set_new(into, "queued_bytes", json_integer((json_int_t)u->queued));
	json_object_set_new(into, "refused_loopback", json_integer((json_int_t)u->refused));
	json_object_set_new(into, "refused_sockets", json_integer((json_int_t)u->limited));
}

/* ---- what libslirp wants of us ---- */

static void guest_error(const char *msg, void *opaque)
{
	/* The guest's own mistake; it sees the frame go unanswered. */
}

static int64_t clock_ns(void *opaque)
{
	return (int64_t)clock_mono_ns();
}

/* Router advertisements only, which need IPv6; it asks for the timer all the same. */
static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	return opaque;
}

static void timer_free(void *timer, void *opaque)
{
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
}

static void notify(void *opaque)
{
	struct user *u = opaque;

	u->dirty = true;
}

static void init_completed(Slirp *slirp, void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = slirp_packet,
	.guest_error = guest_error,
	.clock_get_ns = clock_ns,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = fd_opened,
	.unregister_poll_fd = fd_closing,
	.notify = notify,
	.init_completed = init_completed,
	.timer_new_opaque = timer_new,
};

/* ---- life ---- */

static void release(struct user *u)
{
	if (u->handles)
		return;
	if (u->slirp)
		slirp_cleanup(u->slirp);
	if (u->epoll >= 0)
		close(u->epoll);
	list_for_each_safe (it, tmp, &u->queue)
		free(list_entry(it, struct packet, link));
	free(u->fwds);
	free(u);
}

static void on_closed(uv_handle_t *h)
{
	struct user *u = h->data;

	u->handles--;
	release(u);
}

static void user_close(struct net_backend *b)
{
	struct user *u = of(b);
	uv_handle_t *all[] = {(uv_handle_t *)&u->prepare, (uv_handle_t *)&u->check,
		(uv_handle_t *)&u->timer, (uv_handle_t *)&u->idle, (uv_handle_t *)&u->poll};
	unsigned n = u->handles;

	if (!n)
		release(u);
	else
		for (unsigned i = 0; i < n; i++)
			uv_close(all[i], on_closed);
}

static const struct net_backend_ops ops = {
	.name = "user",
	.send = user_send,
	.flush = user_flush,
	.describe = user_describe,
	.close = user_close,
};

static int add_handles(struct user *u, struct err *e)
{
	int rc;

	u->prepare.data = u->check.data = u->timer.data = u->idle.data = u->poll.data = u;
	uv_prepare_init(u->loop, &u->prepare);
	uv_check_init(u->loop, &u->check);
	uv_timer_init(u->loop, &u->timer);
	uv_idle_init(u->loop, &u->idle);
	u->handles = 4;
	rc = uv_poll_init(u->loop, &u->poll, u->epoll);
	if (rc)
		return err_set(e, rc, "%s: %s", u->id, uv_strerror(rc));
	u->handles = 5;
	uv_prepare_start(&u->prepare, on_prepare);
	uv_check_start(&u->check, on_check);
	uv_poll_start(&u->poll, UV_READABLE, on_poll);
	uv_unref((uv_handle_t *)&u->prepare);
	uv_unref((uv_handle_t *)&u->check);
	uv_unref((uv_handle_t *)&u->timer);
	uv_unref((uv_handle_t *)&u->idle);
	uv_unref((uv_handle_t *)&u->poll);
	return 0;
}

static int add_slirp(struct user *u, struct err *e)
{
	SlirpConfig cfg = {
		.version = 4,
		.in_enabled = true,
		.vhostname = "lodge",
	};

	inet_pton(AF_INET, "10.0.2.0", &cfg.vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &cfg.vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &cfg.vhost);
	inet_pton(AF_INET, "10.0.2.3", &cfg.vnameserver);
	inet_pton(AF_INET, "10.0.2.15", &cfg.vdhcp_start);
	u->slirp = slirp_new(&cfg, &callbacks, u);
	return u->slirp ? 0 : err_set(e, -ENOMEM, "%s: user networking: out of memory", u->id);
}

static int add_fwd(struct user *u, const struct net_fwd *o, struct err *e)
{
	struct fwd *f = &u->fwds[u->nfwds];
	const char *proto = o->udp ? "udp" : "tcp";
	int rc;

	*f = (struct fwd){.udp = o->udp, .host_port = o->host_port, .guest_port = o->guest_port};
	if (o->host && *o->host && inet_pton(AF_INET, o->host, &f->host) != 1)
		return err_set(
			e, -EINVAL, "%s: hostfwd: \"%s\" is not an IPv4 address", u->id, o->host);
	if (inet_pton(AF_INET, o->guest && *o->guest ? o->guest : "10.0.2.15", &f->guest) != 1)
		return err_set(
			e, -EINVAL, "%s: hostfwd: \"%s\" is not an IPv4 address", u->id, o->guest);
	errno = 0;
	if (!slirp_add_hostfwd(u->slirp, o->udp, f->host, o->host_port, f->guest, o->guest_port)) {
		u->nfwds++;
		return 0;
	}
	rc = -(errno ?: EADDRINUSE);
	if (rc == -EADDRINUSE)
		return err_set(e, rc,
			"%s: %s port %u of the host is taken: give another one in hostfwd=, or "
			"find who "
			"has it with `ss -lnp 'sport = :%u'`",
			u->id, proto, o->host_port, o->host_port);
	if (rc == -EACCES)
		return err_set(e, rc,
			"%s: %s port %u of the host is for root only: give one from 1024 on in "
			"hostfwd=",
			u->id, proto, o->host_port);
	return err_sys(e, rc, "%s: cannot listen on %s port %u of %s", u->id, proto, o->host_port,
		o->host && *o->host ? o->host : "the host");
}

int net_user_open(struct net_backend **out, const struct net_user_opts *o, struct err *e)
{
	struct user *u = calloc(1, sizeof(*u));
	int rc = 0;

	if (!u)
		return err_set(e, -ENOMEM, "%s: out of memory", o->id);
	u->b.ops = &ops;
	u->b.link_up = true;
	u->b.offers = u->b.can_accept = NET_OFF_CSUM;
	u->id = o->id;
	u->loop = o->loop;
	u->dirty = true;
	list_init(&u->queue);
	u->filter = (struct user_filter){o->host_loopback, udp_forwarded, u};
	u->epoll = epoll_create1(EPOLL_CLOEXEC);
	u->fwds = calloc(o->nfwds ?: 1, sizeof(*u->fwds));
	if (u->epoll < 0)
		rc = err_sys(e, -errno, "%s: epoll", o->id);
	else if (!u->fwds)
		rc = err_set(e, -ENOMEM, "%s: out of memory", o->id);
	if (!rc)
		rc = add_slirp(u, e);
	if (!rc)
		rc = add_handles(u, e);
	for (unsigned i = 0; !rc && i < o->nfwds; i++)
		rc = add_fwd(u, &o->fwds[i], e);
	u->id = NULL; /* the caller's; for messages of this call only */
	if (rc) {
		user_close(&u->b);
		return rc;
	}
	*out = &u->b;
	return 0;
}
