/*
 * virtio_vsock.c: the guest's side of virtio-vsock: packets, connections, credit (virtio 1.2, section 5.10.6).
 *
 *   guest --transmit queue--> packet --> connection --> vsock_stream_write() --> program
 *   program --> readable --> connection, if the guest gave credit --> receive queue --> guest
 *
 * Credit. The guest may send what fits into the connection's ring (VSOCK_RING) and is told how far the ring was emptied; who
 * sends more is cut off. The device sends what the guest's buf_alloc says, and reads from the program only that much.
 *
 * What the device has to say (answers, resets, credit) waits in the connection as a bit each, or in a bounded list for ports that
 * have no connection, so a guest that gives no receive buffers costs no memory.
 *
 * Threads: the event loop's, with the device's lock, as for every virtio device; callbacks of the host's side take it.
 */
#include "device/vsock/virtio_vsock.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fdlist.h"
#include "base/list.h"
#include "base/util.h"
#include "device/classes.h"
#include "device/virtio.h"
#include "device/vsock/vsock_host.h"

enum { RX, TX, EVENT, QUEUES };
#define EVENTS_MAX 64u /* buffers; Linux gives 8 */
#define SETTLE_NS \
	20000000000ull /* for a driver that never puts them back; on a busy host one may take seconds */
enum op { INVALID, REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { NO_RECEIVE = 1, NO_SEND = 2 }; /* flags of SHUTDOWN */
#define TYPE_STREAM 1u
#define HDR 44u
#define CHUNK (64u << 10) /* of one packet to the guest */
#define CONNS_MAX 1024u
#define STRAY_MAX 256u
#define PORT_FIRST 0x40000000u /* host ports of programs that ask */

struct packet { /* in host order */
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};

struct conn {
	struct list link; /* in vsock.conns */
	struct list ready; /* in vsock.ready, when it has something for the guest */
	struct vsock *dev;
	struct vsock_stream *stream; /* NULL: gone, what is left is to be told */
	uint32_t guest_port, host_port;
	bool open; /* the guest agreed */
	bool guest_reads, guest_writes; /* no SHUTDOWN said otherwise */
	bool readable; /* the program has sent something, or ended */
	bool asked_credit;
	uint32_t buf_alloc, peer_fwd; /* the guest's ring and how much of it is free again */
	uint32_t sent, forwarded,
		told; /* bytes to the guest; to the program; and what the guest knows of that */
	uint16_t say; /* 1 << op of packets that wait for a buffer */
	uint32_t shutdown; /* flags of the SHUTDOWN that waits */
};

struct stray {
	uint32_t guest_port, host_port;
};

struct vsock {
	struct virtio v;
	uint8_t config[8]; /* guest_cid */
	uint32_t cid;
	bool reset_event; /* to be told: the transport was reset */
	unsigned
		settling; /* event buffers that there are when the driver has dealt with it; 0: it has */
	uint64_t settle_until;
	struct vsock_host *host;
	struct list conns, ready;
	unsigned nconns;
	uint32_t next_port;
	struct stray stray[STRAY_MAX];
	unsigned nstray;
	uint64_t tx_bytes, rx_bytes, opened, refused;
	uint8_t buf[CHUNK];
};

static struct vsock *of(struct virtio *v)
{
	return container_of(v, struct vsock, v);
}

/* ---- connections ---- */

static struct conn *conn_find(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
	list_for_each (it, &s->conns) {
		struct conn *c = list_entry(it, struct conn, link);

		if (c->guest_port == guest_port && c->host_port == host_port)
			return c;
	}
	return NULL;
}

static struct conn *conn_new(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
	struct conn *c = s->nconns < CONNS_MAX ? calloc(1, sizeof(*c)) : NULL;

	if (!c)
		return NULL;
	c->dev = s;
	c->guest_port = guest_port;
	c->host_port = host_port;
	c->guest_reads = c->guest_writes = true;
	list_add_tail(&s->conns, &c->link);
	list_init(&c->ready);
	s->nconns++;
	s->opened++;
	return c;
}

static void conn_free(struct conn *c)
{
	if (c->stream)
		vsock_stream_close(c->stream);
	list_del(&c->link);
	list_del(&c->ready);
	c->dev->nconns--;
	free(c);
}

static void conn_ready(struct conn *c)
{
	if (list_empty(&c->ready))
		list_add_tail(&c->dev->ready, &c->ready);
}

static void conn_say(struct conn *c, enum op op)
{
	c->say |= (uint16_t)(1u << op);
	conn_ready(c);
}

/* The connection is over; the guest is told, then it is freed. */
static void conn_reset(struct conn *c)
{
	if (c->stream)
		vsock_stream_close(c->stream);
	c->stream = NULL;
	c->readable = false;
	c->say = 0;
	conn_say(c, RST);
}

static uint32_t conn_credit(const struct conn *c)
{
	uint32_t used = c->sent - c->peer_fwd;

	return used < c->buf_alloc ? c->buf_alloc - used : 0;
}

static void close_all(struct vsock *s)
{
	while (!list_empty(&s->conns))
		conn_free(list_entry(s->conns.next, struct conn, link));
	s->nstray = 0;
}

/* A packet for nobody: "no such connection". Dropped when the guest reads none of these answers. */
static void say_stray(struct vsock *s, const struct packet *p)
{
	s->refused++;
	if (p->op != RST && s->nstray < STRAY_MAX)
		s->stray[s->nstray++] = (struct stray){p->src_port, p->dst_port};
}

/* ---- to the guest ---- */

static void fill_header(
	struct vsock *s, uint8_t h[HDR], uint32_t guest_port, uint32_t host_port, enum op op)
{
	memset(h, 0, HDR);
	put_le64(h, VSOCK_CID_HOST);
	put_le64(h + 8, s->cid);
	put_le32(h + 16, host_port);
	put_le32(h + 20, guest_port);
	put_le16(h + 28, TYPE_STREAM);
	put_le16(h + 30, (uint16_t)op);
}

static void conn_header(struct conn *c, uint8_t h[HDR], enum op op, uint32_t len)
{
	fill_header(c->dev, h, c->guest_port, c->host_port, op);
	put_le32(h + 24, len);
	put_le32(h + 32, op == SHUTDOWN ? c->shutdown : 0);
	put_le32(h + 36, VSOCK_RING);
	put_le32(h + 40, c->forwarded);
	c->told = c->forwarded;
}

static void put_packet(struct vreq *r, const uint8_t h[HDR], const void *data, size_t len)
{
	size_t n = vreq_write(r, h, HDR);

	n += vreq_write(r, data, len);
	vreq_done(r, (uint32_t)n);
}

/* One of the packets that wait. */
static void tell(struct conn *c, struct vreq *r)
{
	enum op op = (enum op)__builtin_ctz(c->say);
	uint8_t h[HDR];

	c->say &= (uint16_t) ~(1u << op);
	conn_header(c, h, op, 0);
	put_packet(r, h, NULL, 0);
	if (op == RST)
		conn_free(c);
}

/* The program's bytes. False: nothing was there, and the buffer is still ours. */
static bool carry(struct conn *c, struct vreq *r)
{
	struct vsock *s = c->dev;
	uint64_t room = MIN(r->in_len - HDR, (uint64_t)CHUNK);
	ssize_t n = vsock_stream_read(c->stream, s->buf, MIN(room, conn_credit(c)));
	uint8_t h[HDR];

	c->readable = false;
	if (n == -EAGAIN) {
		vsock_stream_want(c->stream, true);
		return false;
	}
	if (n < 0) {
		conn_reset(c);
		return false;
	}
	if (n == 0) { /* it will send no more; may be it still reads */
		c->shutdown |= NO_SEND;
		conn_say(c, SHUTDOWN);
		return false;
	}
	c->readable = true; /* perhaps: the next read tells */
	c->sent += (uint32_t)n;
	s->rx_bytes += (uint64_t)n;
	conn_header(c, h, RW, (uint32_t)n);
	put_packet(r, h, s->buf, (size_t)n);
	return true;
}

/* Does the connection's next packet need a buffer now? */
static bool conn_has(struct conn *c)
{
	if (c->say)
		return true;
	if (!c->readable || !c->open || !c->guest_reads || (c->shutdown & NO_SEND))
		return false;
	if (conn_credit(c))
		return true;
	if (c->asked_credit)
		return false; /* CREDIT_UPDATE brings it back */
	c->asked_credit = true;
	c->say |= 1u << CREDIT_REQUEST;
	return true;
}

static struct vreq *buffer(struct vsock *s)
{
	struct vreq *r;

	while ((r = virtq_pop(&s->v, RX, 0))) {
		if (r->in_len > HDR)
			return r;
		virtio_break(&s->v, "a receive buffer has no room for a packet");
		vreq_done(r, 0);
		return NULL;
	}
	return NULL;
}

/*
 * The driver ends every connection that it knows when it hears of the reset, which may be after it has seen packets that were sent later: a new
 * connection would be among them, and nobody be told. It puts its event buffer back when it is done.
 */
static bool settled(struct vsock *s)
{
	if (s->settling &&
		(virtq_waiting(&s->v, EVENT) >= s->settling || clock_mono_ns() > s->settle_until))
		s->settling = 0;
	return !s->settling;
}

static void pump(struct vsock *s)
{
	struct vreq *r = NULL;
	unsigned given = 0;

	if (!settled(s))
		return;
	while (s->nstray && (r = buffer(s))) {
		uint8_t h[HDR];

		s->nstray--;
		fill_header(
			s, h, s->stray[s->nstray].guest_port, s->stray[s->nstray].host_port, RST);
		put_packet(r, h, NULL, 0);
		r = NULL;
		given++;
	}
	while (!list_empty(&s->ready)) {
		struct conn *c = list_entry(s->ready.next, struct conn, ready);

		if (!conn_has(c)) {
			list_del(&c->ready);
			continue;
		}
		if (!r)
			r = buffer(s);
		if (!r)
			break;
		/* To the end of the line: one busy stream does not starve the others. */
		list_del(&c->ready);
		list_add_tail(&s->ready, &c->ready);
		if (c->say)
			tell(c, r);
		else if (!carry(c, r))
			continue;
		r = NULL;
		given++;
	}
	if (r)
		vreq_undo(r);
	if (given)
		virtq_notify(&s->v, RX);
}

/* The next event buffer is announced: that is asked for by whoever finds the queue empty. */
static void want_bell(struct vsock *s)
{
	struct vreq *r[EVENTS_MAX];
	unsigned n = 0;

	while (n < EVENTS_MAX && (r[n] = virtq_pop(&s->v, EVENT, 0)))
		n++;
	while (n)
		vreq_undo(r[--n]);
}

static void tell_reset(struct vsock *s)
{
	struct vreq *r = s->reset_event ? virtq_pop(&s->v, EVENT, 0) : NULL;
	uint8_t id[4] = {0}; /* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET */

	if (!r)
		return;
	s->reset_event = false;
	s->settling = virtq_waiting(&s->v, EVENT) + 1;
	s->settle_until = clock_mono_ns() + SETTLE_NS;
	want_bell(s);
	vreq_done(r, (uint32_t)vreq_write(r, id, sizeof(id)));
	virtq_notify(&s->v, EVENT);
}

/* ---- from the guest ---- */

static void on_request(struct vsock *s, const struct packet *p)
{
	struct conn *c = conn_new(s, p->src_port, p->dst_port);

	if (c)
		c->stream = vsock_stream_open(s->host, p->dst_port, c);
	if (!c || !c->stream) {
		if (c)
			conn_free(c);
		return say_stray(s, p);
	}
	c->open = true;
	c->buf_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	conn_say(c, RESPONSE);
	vsock_stream_want(c->stream, true);
}

static void on_data(struct conn *c, const struct packet *p, struct vreq *r)
{
	struct vsock *s = c->dev;

	/* In pieces, since a packet may be larger than the buffer; the ring bounds the sum. */
	for (uint32_t left = p->len; left;) {
		size_t n = vreq_read(r, s->buf, MIN(left, CHUNK));

		if (!n || !vsock_stream_write(c->stream, s->buf, n))
			return conn_reset(c); /* shorter than it says, or beyond its credit */
		left -= (uint32_t)n;
		s->tx_bytes += n;
	}
}

static void on_shutdown(struct conn *c, uint32_t flags)
{
	if (flags & NO_RECEIVE)
		c->guest_reads = false;
	if ((flags & NO_SEND) && c->guest_writes) {
		c->guest_writes = false;
		vsock_stream_end(c->stream);
	}
	/* Both directions are over: done when the program has had everything. */
	if (!c->guest_writes && (!c->guest_reads || (c->shutdown & NO_SEND)) &&
		!vsock_stream_queued(c->stream))
		conn_reset(c);
}

static void on_packet(struct vsock *s, const struct packet *p, struct vreq *r)
{
	struct conn *c = conn_find(s, p->src_port, p->dst_port);

	if (p->src_cid != s->cid || p->dst_cid != VSOCK_CID_HOST || p->type != TYPE_STREAM)
		return say_stray(s, p);
	if (p->op == RST) {
		if (c)
			conn_free(c);
		return;
	}
	if (!c && p->op == REQUEST)
		return on_request(s, p);
	if (!c || !c->stream || p->op == REQUEST || p->op == INVALID || p->op > CREDIT_REQUEST ||
		(p->op == RESPONSE) == c->open) {
		if (!c)
			say_stray(s, p);
		else if (c->stream)
			conn_reset(c);
		return;
	}
	/* Every packet carries the guest's credit. */
	c->buf_alloc = p->buf_alloc;
	c->peer_fwd = p->fwd_cnt;
	c->asked_credit = false;
	conn_ready(c);
	switch ((enum op)p->op) {
	case RESPONSE:
		c->open = true;
		vsock_stream_accepted(c->stream, c->host_port);
		vsock_stream_want(c->stream, true);
		break;
	case RW:
		if (c->guest_writes)
			on_data(c, p, r);
		else
			conn_reset(c);
		break;
	case SHUTDOWN:
		on_shutdown(c, p->flags);
		break;
	case CREDIT_REQUEST:
		conn_say(c, CREDIT_UPDATE);
		break;
	default:
		break;
	}
}

static void transmit(struct vsock *s)
{
	struct vreq *r;

	while ((r = virtq_pop(&s->v, TX, 0))) {
		uint8_t h[HDR];
		struct packet p;

		if (vreq_read(r, h, HDR) == HDR) {
			p = (struct packet){get_le64(h), get_le64(h + 8), get_le32(h + 16),
				get_le32(h + 20), get_le32(h + 24), get_le16(h + 28),
				get_le16(h + 30), get_le32(h + 32), get_le32(h + 36),
				get_le32(h + 40)};
			on_packet(s, &p, r);
		}
		vreq_done(r, 0);
	}
	virtq_notify(&s->v, TX);
}

static void serve(struct virtio *v, unsigned q)
{
	struct vsock *s = of(v);

	if (q == TX)
		transmit(s);
	if (q == EVENT)
		tell_reset(s);
	pump(s);
}

/* ---- from the host ---- */

static void on_asked(void *ctx, struct vsock_stream *stream, uint32_t port)
{
	struct vsock *s = ctx;
	struct conn *c = NULL;

	pthread_mutex_lock(&s->v.dev.lock);
	if (virtio_live(&s->v)) {
		do
			s->next_port = s->next_port == UINT32_MAX - 1 ? PORT_FIRST
								      : s->next_port + 1;
		while (conn_find(s, port, s->next_port));
		c = conn_new(s, port, s->next_port);
	}
	if (c) {
		c->stream = stream;
		vsock_stream_owner_set(stream, c);
		conn_say(c, REQUEST);
		pump(s);
	} else {
		s->refused++;
		vsock_stream_close(stream); /* no driver yet, or too many */
	}
	pthread_mutex_unlock(&s->v.dev.lock);
}

static void on_readable(void *ctx, struct vsock_stream *stream)
{
	struct vsock *s = ctx;
	struct conn *c = vsock_stream_owner(stream);

	pthread_mutex_lock(&s->v.dev.lock);
	/* Not again before it was read: without a buffer of the guest it waits in the kernel. */
	vsock_stream_want(stream, false);
	c->readable = true;
	conn_ready(c);
	pump(s);
	pthread_mutex_unlock(&s->v.dev.lock);
}

static void on_drained(void *ctx, struct vsock_stream *stream, size_t n, bool ok)
{
	struct vsock *s = ctx;
	struct conn *c = vsock_stream_owner(stream);

	pthread_mutex_lock(&s->v.dev.lock);
	c->forwarded += (uint32_t)n;
	if (!ok)
		conn_reset(c);
	else if (!c->guest_writes)
		on_shutdown(c, 0);
	else if (c->forwarded - c->told >= VSOCK_RING / 4)
		conn_say(c, CREDIT_UPDATE);
	pump(s);
	pthread_mutex_unlock(&s->v.dev.lock);
}

/* ---- the device ---- */

static void stopped(struct virtio *v)
{
	close_all(of(v));
}

static const struct virtio_class vsock_virtio = {.name = "virtio-vsock",
	.id = 19,
	.pci_class = 0x078000,
	.queue = serve,
	.stopped = stopped};

static int realize(struct device *d, const void *opts, struct err *e)
{
	struct vsock *s = container_of(d, struct vsock, v.dev);
	const struct vsock_host_ops ops = {on_asked, on_readable, on_drained, s};
	const struct virtio_vsock_opts *o = opts;
	int rc;

	list_init(&s->conns);
	list_init(&s->ready);
	s->next_port = PORT_FIRST;
	s->cid = o->cid;
	put_le64(s->config, o->cid);
	if (o->cid <= VSOCK_CID_HOST || o->cid == UINT32_MAX)
		return err_set(e, -EINVAL, "vsock: a guest's context id is 3 to 4294967294, not %u",
			o->cid);
	rc = o->listening > 0
		     ? vsock_host_adopt(&s->host, o->listening, o->path, d->env->loop, &ops, e)
		     : vsock_host_open(&s->host, o->path, d->env->loop, &ops, e);
	if (rc)
		return rc;
	rc = virtio_realize(&s->v, &vsock_virtio, QUEUES, 0, s->config, sizeof(s->config), e);
	if (rc && o->listening > 0)
		vsock_host_forget(s->host);
	if (rc)
		vsock_host_close(s->host);
	return rc;
}

static void unrealize(struct device *d)
{
	struct vsock *s = container_of(d, struct vsock, v.dev);

	close_all(s);
	vsock_host_close(s->host);
	virtio_unrealize(&s->v);
}

static void reset(struct device *d)
{
	struct vsock *s = container_of(d, struct vsock, v.dev);

	close_all(s);
	s->reset_event = false;
	s->settling = 0;
	virtio_device_reset(d);
}

static void describe(struct device *d, json_t *into)
{
	struct vsock *s = container_of(d, struct vsock, v.dev);

	json_object_set_new(into, "cid", json_integer(s->cid));
	virtio_device_describe(d, into);
}

static void stats(struct device *d, json_t *into)
{
	struct vsock *s = container_of(d, struct vsock, v.dev);

	json_object_set_new(into, "connections", json_integer(s->nconns));
	json_object_set_new(into, "opened", json_integer((json_int_t)s->opened));
	json_object_set_new(into, "refused", json_integer((json_int_t)s->refused));
	json_object_set_new(into, "to_guest_bytes", json_integer((json_int_t)s->rx_bytes));
	json_object_set_new(into, "from_guest_bytes", json_integer((json_int_t)s->tx_bytes));
	virtio_device_stats(d, into);
}

static const struct state_field fields[] = {
	STATE_STRUCT(struct vsock, v, &virtio_state, struct virtio, 1),
	STATE_BOOL(struct vsock, reset_event, 1),
	STATE_END,
};

/* The programs at the other end are not in the stream. */
static int post_load(void *obj, unsigned version, struct err *e)
{
	struct vsock *s = obj;

	s->reset_event = true;
	s->settling = 0;
	return 0;
}

static const struct state_desc state = {
	.type = "virtio-vsock", .version = 1, .fields = fields, .post_load = post_load};

const struct device_class virtio_vsock_class = {
	.name = "virtio-vsock",
	.help = "sockets between guest and host, without a network",
	.size = sizeof(struct vsock),
	.realize = realize,
	.unrealize = unrealize,
	.reset = reset,
	.quiesce = virtio_device_quiesce,
	.resume = virtio_device_resume,
	.state = &state,
	.describe = describe,
	.stats = stats,
};

/* ---- from one process to another ---- */

static struct vsock *vsock_of(struct device *d)
{
	return d->cls == &virtio_vsock_class ? container_of(d, struct vsock, v.dev) : NULL;
}

static json_t *conn_hand_over(struct conn *c, struct fdlist *fds)
{
	json_t *j = json_pack(
		"{s:I, s:I, s:b, s:b, s:b, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:i, s:I}", "guest",
		(json_int_t)c->guest_port, "host", (json_int_t)c->host_port, "open", c->open,
		"reads", c->guest_reads, "writes", c->guest_writes, "readable", c->readable,
		"asked", c->asked_credit, "buf_alloc", (json_int_t)c->buf_alloc, "peer_fwd",
		(json_int_t)c->peer_fwd, "sent", (json_int_t)c->sent, "forwarded",
		(json_int_t)c->forwarded, "told", (json_int_t)c->told, "say", (int)c->say,
		"shutdown", (json_int_t)c->shutdown);

	if (c->stream)
		json_object_set_new(j, "stream", vsock_stream_hand_over(c->stream, fds));
	return j;
}

json_t *virtio_vsock_hand_over(struct device *d, struct fdlist *fds)
{
	struct vsock *s = vsock_of(d);
	json_t *conns, *strays;

	if (!s)
		return NULL;
	conns = json_array();
	strays = json_array();
	list_for_each (it, &s->conns) {
		json_array_append_new(
			conns, conn_hand_over(list_entry(it, struct conn, link), fds));
	}
	for (unsigned i = 0; i < s->nstray; i++)
		json_array_append_new(
			strays, json_pack("[I, I]", (json_int_t)s->stray[i].guest_port,
					(json_int_t)s->stray[i].host_port));
	return json_pack("{s:o, s:o, s:o, s:I, s:b, s:I, s:I, s:I, s:I}", "host",
		vsock_host_hand_over(s->host, fds), "conns", conns, "strays", strays, "next_port",
		(json_int_t)s->next_port, "reset_event", s->reset_event, "tx_bytes",
		(json_int_t)s->tx_bytes, "rx_bytes", (json_int_t)s->rx_bytes, "opened",
		(json_int_t)s->opened, "refused", (json_int_t)s->refused);
}

static uint32_t u32_of(const json_t *j, const char *key)
{
	return (uint32_t)json_integer_value(json_object_get(j, key));
}

static int conn_take_over(struct vsock *s, const json_t *j, struct fdlist *fds)
{
	const json_t *stream = json_object_get(j, "stream");
	struct conn *c = conn_find(s, u32_of(j, "guest"), u32_of(j, "host"))
				 ? NULL
				 : conn_new(s, u32_of(j, "guest"), u32_of(j, "host"));

	if (!c)
		return -EINVAL;
	c->open = json_is_true(json_object_get(j, "open"));
	c->guest_reads = json_is_true(json_object_get(j, "reads"));
	c->guest_writes = json_is_true(json_object_get(j, "writes"));
	c->readable = json_is_true(json_object_get(j, "readable"));
	c->asked_credit = json_is_true(json_object_get(j, "asked"));
	c->buf_alloc = u32_of(j, "buf_alloc");
	c->peer_fwd = u32_of(j, "peer_fwd");
	c->sent = u32_of(j, "sent");
	c->forwarded = u32_of(j, "forwarded");
	c->told = u32_of(j, "told");
	c->shutdown = u32_of(j, "shutdown");
	c->say = (uint16_t)(u32_of(j, "say") & ((1u << (CREDIT_REQUEST + 1)) - 2));
	if (stream)
		c->stream = vsock_stream_take_over(s->host, stream, fds, c);
	/* Without one, all that is left is to say so. */
	if (!c->stream) {
		c->readable = false;
		c->say = 1u << RST;
	}
	conn_ready(c);
	return !stream || c->stream ? 0 : -EINVAL;
}

int virtio_vsock_take_over(struct device *d, const json_t *j, struct fdlist *fds, struct err *e)
{
	const json_t *conns = json_object_get(j, "conns"), *strays = json_object_get(j, "strays"),
		     *one;
	struct vsock *s = vsock_of(d);
	size_t i;
	int rc = 0;

	if (!s || !json_is_array(conns) || !json_is_array(strays))
		return err_set(e, -EINVAL, "vsock: not what a vsock device hands over");
	json_array_foreach(conns, i, one) rc = rc ?: conn_take_over(s, one, fds);
	json_array_foreach(strays, i, one) if (s->nstray < STRAY_MAX) s->stray[s->nstray++] =
		(struct stray){(uint32_t)json_integer_value(json_array_get(one, 0)),
			(uint32_t)json_integer_value(json_array_get(one, 1))};
	s->next_port = u32_of(j, "next_port");
	s->reset_event = json_is_true(json_object_get(j, "reset_event"));
	s->tx_bytes = (uint64_t)json_integer_value(json_object_get(j, "tx_bytes"));
	s->rx_bytes = (uint64_t)json_integer_value(json_object_get(j, "rx_bytes"));
	s->opened = (uint64_t)json_integer_value(json_object_get(j, "opened"));
	s->refused = (uint64_t)json_integer_value(json_object_get(j, "refused"));
	if (rc)
		return err_set(e, rc, "vsock: a connection that cannot be taken over");
	return vsock_host_take_over(s->host, json_object_get(j, "host"), fds, e);
}

void virtio_vsock_forget(struct device *d)
{
	if (vsock_of(d))
		vsock_host_forget(vsock_of(d)->host);
}

int virtio_vsock_listening(struct device *d)
{
	return vsock_of(d) ? vsock_host_fd(vsock_of(d)->host) : -1;
}
