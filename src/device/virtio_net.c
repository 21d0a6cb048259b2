/*
 * virtio_net.c: a network card (virtio 1.2, section 5.1).
 *
 *   driver --transmit queue--> net_send()          net_backend --net_front--> filter --> receive queue --> driver
 *
 * Frames that come while the driver has no buffers stay in the back end, whose queue is bounded (net.h); the driver's next kick of the
 * receive queue asks for them again. A frame that needs several buffers (MRG_RXBUF) becomes visible to the driver whole or not at all.
 *
 * Of a request only the header is copied: checked here and in net_send(), it cannot change any more. The payload goes to the back end from
 * guest memory; a guest that changes it meanwhile changes its own frame.
 */
#include "device/virtio_net.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "device/classes.h"
#include "device/virtio.h"
#include "net/net.h"

enum { RX, TX, CTRL, QUEUES };

#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MAC (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_GUEST_TSO6 (1ull << 8)
#define F_GUEST_ECN (1ull << 9)
#define F_HOST_TSO4 (1ull << 11)
#define F_HOST_TSO6 (1ull << 12)
#define F_HOST_ECN (1ull << 13)
#define F_MRG_RXBUF (1ull << 15)
#define F_STATUS (1ull << 16)
#define F_CTRL_VQ (1ull << 17)
#define F_CTRL_RX (1ull << 18)
#define F_CTRL_RX_EXTRA (1ull << 20)
#define F_GUEST_ANNOUNCE (1ull << 21)
#define F_CTRL_MAC_ADDR (1ull << 23)

enum { CFG_MAC = 0, CFG_STATUS = 6, CFG_PAIRS = 8, CFG_LEN = 12 };
enum { S_LINK_UP = 1, S_ANNOUNCE = 2 };

/* Control commands (section 5.1.6.5). */
enum { C_RX = 0, C_MAC = 1, C_ANNOUNCE = 3 };
enum { C_RX_MODES = 6, C_MAC_TABLE = 0, C_MAC_ADDR = 1 };
enum { ACK_OK = 0, ACK_ERR = 1 };

/* Order of the receive modes in the control commands. */
enum { PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST };

#define TABLE_MAX 64u /* addresses; with more, all of the kind are taken */
#define BUFFERS_MAX 128u /* of one frame: 64 KiB in the smallest buffers that make sense */
#define TX_BATCH 256 /* requests of one turn of the event loop */

struct mac_table {
	uint32_t n;
	bool overflow;
	uint8_t addr[TABLE_MAX * 6];
};

struct netdev {
	struct virtio v;
	struct net_backend *net;
	uint8_t config[CFG_LEN];
	uint8_t first_mac[6]; /* what the options said */
	bool mode[C_RX_MODES];
	struct mac_table uni, multi;
	bool announce; /* the driver is asked to announce the guest, and has not said that it has seen that */
	bool fresh; /* the driver has just started: tell the back end what it takes */
	uint64_t tx_packets, tx_bytes, tx_drops, rx_packets, rx_bytes, rx_drops, rx_filtered,
		rx_waits;
	uint64_t bad_control;
};

static struct netdev *of(struct virtio *v)
{
	return container_of(v, struct netdev, v);
}

/* ---- transmit ---- */

static void send_one(struct netdev *n, struct vreq *r)
{
	struct iovec iov[NET_IOV_MAX];
	uint8_t head[NET_HDR];
	uint64_t skip = NET_HDR;
	unsigned k = 1;

	vreq_read(r, head, sizeof(head));
	if (r->out_len > NET_HDR + NET_FRAME_MAX) {
		n->tx_drops++;
		return;
	}
	put_le16(head + NET_H_BUFFERS, 0);
	/* DATA_VALID is for frames to the driver (section 5.1.6.2). */
	head[NET_H_FLAGS] &= NET_NEEDS_CSUM;
	if (!virtio_has(&n->v, F_CSUM))
		head[NET_H_FLAGS] = 0;
	iov[0] = (struct iovec){head, sizeof(head)};
	for (unsigned i = 0; i < r->nout && k < NET_IOV_MAX; i++) {
		uint64_t len = r->out[i].iov_len, cut = MIN(skip, len);

		skip -= cut;
		if (len > cut)
			iov[k++] = (struct iovec){(char *)r->out[i].iov_base + cut, len - cut};
	}
	if (net_send(n->net, iov, k)) {
		n->tx_drops++;
		return;
	}
	n->tx_packets++;
	n->tx_bytes += r->out_len - NET_HDR;
}

static void transmit(struct netdev *n)
{
	struct vreq *r = NULL;

	for (int i = 0; i < TX_BATCH && (r = virtq_pop(&n->v, TX, 0)); i++) {
		if (r->out_len < NET_HDR)
			virtio_break(&n->v, "a frame without its header");
		else
			send_one(n, r);
		vreq_done(r, 0);
	}
	virtq_notify(&n->v, TX);
	if (r)
		virtio_kick(&n->v, TX); /* others first */
}

/* ---- receive ---- */

static bool in_table(const struct mac_table *t, const uint8_t *mac)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (!memcmp(t->addr + 6 * i, mac, 6))
			return true;
	return t->overflow;
}

static bool wanted(const struct netdev *n, const uint8_t *dst)
{
	static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	if (n->mode[PROMISC])
		return true;
	if (!memcmp(dst, broadcast, 6))
		return !n->mode[NOBCAST];
	if (dst[0] & 1)
		return !n->mode[NOMULTI] && (n->mode[ALLMULTI] || in_table(&n->multi, dst));
	return !n->mode[NOUNI] &&
	       (n->mode[ALLUNI] || !memcmp(dst, n->config + CFG_MAC, 6) || in_table(&n->uni, dst));
}

/* Spreads the frame over buffers of the driver. -EAGAIN: too few now; -EMSGSIZE: it can never fit. */
static int put_frame(struct netdev *n, const uint8_t *frame, size_t len)
{
	unsigned max = virtio_has(&n->v, F_MRG_RXBUF) ? BUFFERS_MAX : 1, k = 0;
	struct vreq *r[BUFFERS_MAX] = {NULL};
	uint32_t written[BUFFERS_MAX];
	size_t room = 0, at = 0;
	uint8_t count[2];
	int rc = 0;

	while (room < len && k < max) {
		r[k] = virtq_pop(&n->v, RX, 0);
		if (!r[k]) {
			rc = -EAGAIN;
			break;
		}
		room += r[k++]->in_len;
	}
	if (!rc && (room < len || r[0]->in_len < NET_HDR))
		rc = -EMSGSIZE;
	if (rc) {
		while (k)
			vreq_undo(r[--k]);
		return rc;
	}
	put_le16(count, (uint16_t)k);
	for (unsigned i = 0; i < k; i++) {
		written[i] = 0;
		if (!i) {
			written[i] = (uint32_t)vreq_write(r[i], frame, NET_H_BUFFERS);
			written[i] += (uint32_t)vreq_write(r[i], count, sizeof(count));
			at = NET_HDR;
		}
		if (at < len) {
			size_t done = vreq_write(r[i], frame + at, len - at);

			written[i] += (uint32_t)done;
			at += done;
		}
	}
	vreq_done_all(r, written, k);
	return 0;
}

static bool receive(void *ctx, const uint8_t *frame, size_t len)
{
	struct netdev *n = ctx;
	int rc = 0;

	pthread_mutex_lock(&n->v.dev.lock);
	if (!n->v.quiesced && !virtq_ready(&n->v, RX)) {
		n->rx_drops++; /* nobody is there; holding it would only make it old */
	} else if (!wanted(n, frame + NET_HDR)) {
		n->rx_filtered++;
	} else {
		rc = put_frame(n, frame, len);
		if (!rc) {
			n->rx_packets++;
			n->rx_bytes += len - NET_HDR;
			virtq_notify(&n->v, RX);
		} else if (rc == -EAGAIN && (n->v.quiesced || virtq_ready(&n->v, RX))) {
			n->rx_waits++;
		} else {
			n->rx_drops++;
			rc = 0;
		}
	}
	pthread_mutex_unlock(&n->v.dev.lock);
	return !rc;
}

static void set_link(struct netdev *n)
{
	put_le16(n->config + CFG_STATUS,
		(uint16_t)((n->net->link_up ? S_LINK_UP : 0) | (n->announce ? S_ANNOUNCE : 0)));
}

static void link_changed(void *ctx, bool up)
{
	struct netdev *n = ctx;

	pthread_mutex_lock(&n->v.dev.lock);
	set_link(n);
	virtio_config_changed(&n->v);
	pthread_mutex_unlock(&n->v.dev.lock);
}

/* ---- control ---- */

static bool read_table(struct vreq *r, struct mac_table *t)
{
	uint8_t count[4];
	uint32_t n;

	*t = (struct mac_table){0};
	if (vreq_read(r, count, sizeof(count)) != sizeof(count))
		return false;
	n = get_le32(count);
	if (n > (r->out_len - r->out_at) / 6)
		return false;
	if (n > TABLE_MAX) {
		t->overflow = true;
		r->out_at += 6ull * n;
		return true;
	}
	t->n = n;
	return vreq_read(r, t->addr, 6ull * n) == 6ull * n;
}

static bool set_table(struct netdev *n, struct vreq *r)
{
	struct mac_table uni, multi;

	if (!read_table(r, &uni) || !read_table(r, &multi))
		return false;
	n->uni = uni;
	n->multi = multi;
	return true;
}

static bool command(struct netdev *n, struct vreq *r, unsigned class, unsigned cmd)
{
	uint8_t on, mac[6];

	if (class == C_RX && virtio_has(&n->v, F_CTRL_RX) && cmd < C_RX_MODES) {
		if ((cmd > ALLMULTI && !virtio_has(&n->v, F_CTRL_RX_EXTRA)) ||
			vreq_read(r, &on, 1) != 1)
			return false;
		n->mode[cmd] = on & 1;
		return true;
	}
	if (class == C_ANNOUNCE && cmd == 0 && virtio_has(&n->v, F_GUEST_ANNOUNCE)) {
		n->announce = false;
		set_link(n);
		return true;
	}
	if (class == C_MAC && cmd == C_MAC_TABLE && virtio_has(&n->v, F_CTRL_RX))
		return set_table(n, r);
	if (class == C_MAC && cmd == C_MAC_ADDR && virtio_has(&n->v, F_CTRL_MAC_ADDR)) {
		if (vreq_read(r, mac, 6) != 6 || mac[0] & 1)
			return false;
		memcpy(n->config + CFG_MAC, mac, 6);
		return true;
	}
	return false;
}

static void control(struct netdev *n)
{
	struct vreq *r;

	while ((r = virtq_pop(&n->v, CTRL, 0))) {
		uint8_t head[2], ack = ACK_ERR;

		if (!r->in_len) {
			virtio_break(&n->v, "a control request without room for the answer");
			vreq_done(r, 0);
			break;
		}
		if (vreq_read(r, head, 2) == 2 && command(n, r, head[0], head[1]))
			ack = ACK_OK;
		n->bad_control += ack != ACK_OK;
		vreq_write(r, &ack, 1);
		vreq_done(r, 1);
	}
	virtq_notify(&n->v, CTRL);
}

/* ---- the device ---- */

static unsigned accepted(const struct virtio *v)
{
	return (virtio_has(v, F_GUEST_CSUM) ? NET_OFF_CSUM : 0u) |
	       (virtio_has(v, F_GUEST_TSO4) ? NET_OFF_TSO4 : 0u) |
	       (virtio_has(v, F_GUEST_TSO6) ? NET_OFF_TSO6 : 0u) |
	       (virtio_has(v, F_GUEST_ECN) ? NET_OFF_ECN : 0u);
}

static void serve(struct virtio *v, unsigned q)
{
	struct netdev *n = of(v);

	if (n->fresh) {
		n->fresh = false;
		net_accept(n->net, accepted(v));
	}
	if (q == TX)
		transmit(n);
	else if (q == RX)
		net_flush(n->net);
	else
		control(n);
}

/* In a vCPU's thread: the back end is told from the loop (serve). */
static void started(struct virtio *v)
{
	of(v)->fresh = true;
}

static void stopped(struct virtio *v)
{
	struct netdev *n = of(v);

	memset(n->mode, 0, sizeof(n->mode));
	n->mode[PROMISC] = true; /* until the driver says otherwise */
	n->uni = n->multi = (struct mac_table){0};
	memcpy(n->config + CFG_MAC, n->first_mac, 6);
	n->announce = false;
	set_link(n);
	n->fresh = true;
}

static const struct virtio_class net_virtio = {
	.name = "virtio-net",
	.id = 1,
	.pci_class = 0x020000,
	.queue = serve,
	.started = started,
	.stopped = stopped,
};

static uint64_t offered(const struct virtio_net_opts *o)
{
	unsigned tx = o->net->offers, rx = o->net->can_accept;
	uint64_t f = F_MAC | F_STATUS | F_MRG_RXBUF | F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA |
		     F_CTRL_MAC_ADDR | F_GUEST_ANNOUNCE;

	f |= (tx & NET_OFF_CSUM ? F_CSUM : 0) | (tx & NET_OFF_TSO4 ? F_HOST_TSO4 : 0) |
	     (tx & NET_OFF_TSO6 ? F_HOST_TSO6 : 0) | (tx & NET_OFF_ECN ? F_HOST_ECN : 0);
	f |= (rx & NET_OFF_CSUM ? F_GUEST_CSUM : 0) | (rx & NET_OFF_TSO4 ? F_GUEST_TSO4 : 0) |
	     (rx & NET_OFF_TSO6 ? F_GUEST_TSO6 : 0) | (rx & NET_OFF_ECN ? F_GUEST_ECN : 0);
	return f;
}

static int realize(struct device *d, const void *opts, struct err *e)
{
	struct netdev *n = container_of(d, struct netdev, v.dev);
	const struct virtio_net_opts *o = opts;
	int rc;

	if (o->mac[0] & 1)
		return err_set(e, -EINVAL, "%s: a multicast address", d->id);
	n->net = o->net;
	memcpy(n->first_mac, o->mac, 6);
	put_le16(n->config + CFG_PAIRS, 1);
	set_link(n);
	stopped(&n->v);
	rc = virtio_realize(&n->v, &net_virtio, QUEUES, offered(o), n->config, CFG_LEN, e);
	if (!rc)
		net_attach(n->net, &(struct net_front){receive, link_changed, n});
	return rc;
}

static void unrealize(struct device *d)
{
	struct netdev *n = container_of(d, struct netdev, v.dev);

	net_attach(n->net, NULL);
	virtio_unrealize(&n->v);
}

static void reset(struct device *d)
{
	struct netdev *n = container_of(d, struct netdev, v.dev);

	stopped(&n->v);
	virtio_device_reset(d);
}

static const struct state_field table_fields[] = {
	STATE_U32(struct mac_table, n, 1),
	STATE_BOOL(struct mac_table, overflow, 1),
	STATE_BYTES(struct mac_table, addr, 1),
	STATE_END,
};

static int table_check(const void *staged, unsigned version, struct err *e)
{
	const struct mac_table *t = staged;

	return t->n <= TABLE_MAX
		       ? 0
		       : err_set(e, -EINVAL, "%u addresses in a table of %u", t->n, TABLE_MAX);
}

static const struct state_desc table_state = {
	.type = "mac-table", .version = 1, .fields = table_fields, .check = table_check};

static const struct state_field fields[] = {
	STATE_STRUCT(struct netdev, v, &virtio_state, struct virtio, 1),
	STATE_BYTES(struct netdev, config, 1),
	STATE_BOOLS(struct netdev, mode, 1),
	STATE_STRUCT(struct netdev, uni, &table_state, struct mac_table, 1),
	STATE_STRUCT(struct netdev, multi, &table_state, struct mac_table, 1),
	STATE_END,
};

static int post_load(void *obj, unsigned version, struct err *e)
{
	struct netdev *n = obj;

	/* The cable and the back end are those of this host. */
	set_link(n);
	n->fresh = true;
	return 0;
}

static const struct state_desc state = {
	.type = "virtio-net", .version = 1, .fields = fields, .post_load = post_load};

static void describe(struct device *d, json_t *into)
{
	struct netdev *n = container_of(d, struct netdev, v.dev);
	const uint8_t *m = n->config + CFG_MAC;

	virtio_describe(&n->v, into);
	json_object_set_new(into, "mac",
		json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]));
	net_describe(n->net, into);
}

static void stats(struct device *d, json_t *into)
{
	struct netdev *n = container_of(d, struct netdev, v.dev);
	const struct {
		const char *name;
		uint64_t value;
	} all[] = {
		{"tx_packets", n->tx_packets},
		{"tx_bytes", n->tx_bytes},
		{"tx_drops", n->tx_drops},
		{"rx_packets", n->rx_packets},
		{"rx_bytes", n->rx_bytes},
		{"rx_drops", n->rx_drops + n->net->stats.rx_drops},
		{"rx_filtered", n->rx_filtered},
		{"rx_waits", n->rx_waits},
		{"bad_control", n->bad_control},
	};

	virtio_stats(&n->v, into);
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		json_object_set_new(into, all[i].name, json_integer((json_int_t)all[i].value));
}

const struct device_class virtio_net_class = {
	.name = "virtio-net",
	.help = "a network card on user networking or a tap",
	.size = sizeof(struct netdev),
	.realize = realize,
	.unrealize = unrealize,
	.reset = reset,
	.quiesce = virtio_device_quiesce,
	.resume = virtio_device_resume,
	.state = &state,
	.describe = describe,
	.stats = stats,
};

bool virtio_net_announce(struct device *d)
{
	struct netdev *n = container_of(d, struct netdev, v.dev);
	bool can;

	if (d->cls != &virtio_net_class)
		return false;
	pthread_mutex_lock(&d->lock);
	can = virtio_live(&n->v) && virtio_has(&n->v, F_GUEST_ANNOUNCE);
	if (can) {
		n->announce = true;
		set_link(n);
		virtio_config_changed(&n->v);
	}
	pthread_mutex_unlock(&d->lock);
	return can;
}
