#include "net/announce/announce.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <uv.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "net/announce/neighbour.h"
#include "net/net.h"

#define ETHER 14u
#define NS_PER_MS 1000000ull

/* What the guest is. Empty: mac is all zero and used 0. */
struct address {
	uint16_t vlan;
	uint8_t mac[6];
	struct ip_addr ip; /* len 0: a hardware address without one */
	uint64_t used;
};

/* Whom it talks to. */
struct peer {
	uint16_t vlan;
	uint8_t mac[6];
	struct ip_addr ip;
	bool known, wanted; /* its hardware address is known; the guest has asked for it */
	uint64_t frames, used;
};

struct item {
	struct address a;
	bool open;
	bool rides; /* is not asked for, but ends with others of its hardware address */
	unsigned tries;
	uint64_t due, number;
	uint32_t asked; /* bit i: of peers[i] */
};

struct announcer {
	struct net_backend b;
	struct net_backend *inner;
	struct announce_opts o;
	char id[32];
	uv_timer_t timer;
	struct address addresses[ANNOUNCE_ADDRESSES];
	struct peer peers[ANNOUNCE_PEERS];
	uint64_t clock; /* counts what was seen: for which entry is the oldest */
	struct item items[ANNOUNCE_ADDRESSES];
	unsigned nitems, open, confirmed;
	bool held;
	uint64_t began, frames, refused;
};

static struct announcer *of(const struct net_backend *b)
{
	return container_of(b, struct announcer, b);
}

/* ---- what is seen ---- */

static void note_address(
	struct announcer *a, uint16_t vlan, const uint8_t mac[6], const struct ip_addr *ip)
{
	struct address *old = &a->addresses[0];

	if (mac[0] & 1)
		return;
	for (unsigned i = 0; i < ANNOUNCE_ADDRESSES; i++) {
		struct address *x = &a->addresses[i];

		if (x->used && x->vlan == vlan && !memcmp(x->mac, mac, 6) && ip_equal(&x->ip, ip)) {
			x->used = ++a->clock;
			return;
		}
		if (x->used < old->used)
			old = x;
	}
	*old = (struct address){.vlan = vlan, .ip = *ip, .used = ++a->clock};
	memcpy(old->mac, mac, 6);
}

static struct peer *peer_of(struct announcer *a, uint16_t vlan, const struct ip_addr *ip, bool make)
{
	struct peer *old = &a->peers[0];

	for (unsigned i = 0; i < ANNOUNCE_PEERS; i++) {
		struct peer *p = &a->peers[i];

		if (p->used && p->vlan == vlan && ip_equal(&p->ip, ip))
			return p;
		if (p->used < old->used)
			old = p;
	}
	/* Bits of what was asked mean places in the table. */
	if (!make || a->open)
		return NULL;
	*old = (struct peer){.vlan = vlan, .ip = *ip, .used = ++a->clock};
	return old;
}

static bool is_ours(const struct announcer *a, uint16_t vlan, const struct ip_addr *ip)
{
	for (unsigned i = 0; i < ANNOUNCE_ADDRESSES; i++)
		if (a->addresses[i].used && a->addresses[i].vlan == vlan &&
			ip_equal(&a->addresses[i].ip, ip))
			return true;
	return false;
}

/* The guest says something. */
static void see_out(struct announcer *a, const uint8_t *ether, size_t len)
{
	uint16_t vlan = neighbour_vlan(ether, len);
	static const struct ip_addr none;
	struct neighbour n;
	struct peer *p;

	/* No VLAN (IEEE 802.1Q, 9.6): another host would refuse all that is known because of it. */
	if (vlan == 0xfff)
		return;
	if (!(ether[0] & 1))
		for (unsigned i = 0; i < ANNOUNCE_PEERS; i++)
			if (a->peers[i].known && a->peers[i].vlan == vlan &&
				!memcmp(a->peers[i].mac, ether, 6)) {
				a->peers[i].frames++;
				a->peers[i].used = ++a->clock;
			}
	note_address(a, vlan, ether + 6, &none);
	if (!neighbour_parse(ether, len, &n) || n.kind > NEIGHBOUR_NA)
		return;
	/* A source of length 0: duplicate address detection, the address is not its yet. */
	if (n.from.len)
		note_address(a, vlan, n.src, &n.from);
	if (n.kind != NEIGHBOUR_ARP_REQUEST && n.kind != NEIGHBOUR_NS)
		return;
	/* It asks for itself (gratuitous ARP) or for somebody. */
	if (!n.from.len || ip_equal(&n.from, &n.to) || is_ours(a, vlan, &n.to))
		return;
	p = peer_of(a, vlan, &n.to, true);
	if (p)
		p->wanted = true;
}

static void confirm(struct announcer *a, struct item *it, const struct ip_addr *by);

static bool answers(
	const struct item *it, const struct neighbour *n, const struct peer *p, unsigned at)
{
	return it->open && it->asked >> at & 1 && it->a.vlan == n->vlan &&
	       !memcmp(n->dst, it->a.mac, 6) && ip_equal(&n->to, &it->a.ip) &&
	       !memcmp(n->mac, p->mac, 6) && !memcmp(n->src, p->mac, 6);
}

static void see_answer(struct announcer *a, const struct neighbour *n)
{
	struct peer *p = peer_of(a, n->vlan, &n->from, false);
	bool good = false, asked = false;

	if (!p)
		return;
	for (unsigned i = 0; i < a->nitems; i++) {
		struct item *it = &a->items[i];

		asked = asked || (it->open && it->asked >> (p - a->peers) & 1);
		if (!answers(it, n, p, (unsigned)(p - a->peers)))
			continue;
		good = true;
		confirm(a, it, &n->from);
	}
	/* It claims to be a neighbour that was asked, and is at another hardware address, or answers what was not asked. */
	if (asked && !good)
		a->refused++;
	/* Only what the guest itself has asked for changes where a neighbour is, and nothing while answers are awaited. */
	if (a->open || good || !p->wanted)
		return;
	memcpy(p->mac, n->mac, 6);
	p->known = true;
	p->wanted = false;
	p->used = ++a->clock;
}

/* Somebody says something to the guest. False: it is not for the guest. */
static bool see_in(struct announcer *a, const uint8_t *ether, size_t len)
{
	struct neighbour n;
	struct peer *p;

	if (!neighbour_parse(ether, len, &n))
		return true;
	switch (n.kind) {
	case NEIGHBOUR_ACK:
		for (unsigned i = 0; i < a->nitems; i++)
			if (a->items[i].open && a->items[i].number == n.number && n.number &&
				!memcmp(a->items[i].a.mac, n.dst, 6))
				confirm(a, &a->items[i], NULL);
		return false;
	case NEIGHBOUR_ARP_REPLY:
	case NEIGHBOUR_NA:
		see_answer(a, &n);
		return true;
	case NEIGHBOUR_ARP_REQUEST:
	case NEIGHBOUR_NS:
		/* Who asks for the guest, and has not taken its address, is a neighbour; a known one is not moved by it. */
		p = n.from.len && is_ours(a, n.vlan, &n.to) && !ip_equal(&n.from, &n.to)
			    ? peer_of(a, n.vlan, &n.from, true)
			    : NULL;
		if (p && !p->known) {
			memcpy(p->mac, n.mac, 6);
			p->known = !memcmp(n.mac, n.src, 6);
		}
		return true;
	default:
		return true;
	}
}

/* ---- announcing ---- */

static void mac_text(char text[18], const uint8_t m[6])
{
	snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}

static json_t *ip_json(const struct ip_addr *ip)
{
	char text[INET6_ADDRSTRLEN];

	if (!ip || !ip->len)
		return NULL;
	inet_ntop(ip->len == 4 ? AF_INET : AF_INET6, ip->b, text, sizeof(text));
	return json_string(text);
}

static json_t *place_json(uint16_t vlan, const uint8_t mac[6], const struct ip_addr *ip)
{
	char text[18];

	mac_text(text, mac);
	return json_pack("{s:s, s:i, s:o*}", "mac", text, "vlan", (int)vlan, "ip", ip_json(ip));
}

static json_int_t since(const struct announcer *a)
{
	return (json_int_t)((clock_mono_ns() - a->began) / NS_PER_MS);
}

static void emit(struct announcer *a, json_t *j)
{
	json_object_set_new(j, "card", json_string(a->id));
	json_object_set_new(j, "ms", json_integer(since(a)));
	if (a->o.event)
		a->o.event(a->o.ctx, j);
	json_decref(j);
}

/* `by` NULL and confirmed: another switch said so. */
static void tell(struct announcer *a, struct item *it, bool good, const struct ip_addr *by)
{
	json_t *j = place_json(it->a.vlan, it->a.mac, &it->a.ip);

	it->open = false;
	a->open--;
	a->confirmed += good;
	json_object_set_new(j, "state", json_string(good ? "confirmed" : "unconfirmed"));
	json_object_set_new(j, "tries", json_integer(it->tries));
	if (by)
		json_object_set_new(j, "by", ip_json(by));
	emit(a, j);
}

static bool same_place(const struct item *x, const struct item *y)
{
	return x->a.vlan == y->a.vlan && !memcmp(x->a.mac, y->a.mac, 6);
}

/* Who rides along ends with the first that is confirmed, or with the last. The last one of all tells how it went. */
static void end_item(struct announcer *a, struct item *it, bool good, const struct ip_addr *by)
{
	bool last = true;

	tell(a, it, good, by);
	for (unsigned i = 0; i < a->nitems; i++)
		last = last &&
		       !(a->items[i].open && !a->items[i].rides && same_place(&a->items[i], it));
	for (unsigned i = 0; i < a->nitems; i++) {
		struct item *x = &a->items[i];

		if (!x->open || !x->rides || !same_place(x, it) || !(good || last))
			continue;
		x->tries = it->tries;
		tell(a, x, good, by);
	}
	if (a->open)
		return;
	uv_timer_stop(&a->timer);
	emit(a, json_pack("{s:s, s:i, s:i, s:I}", "state", "done", "confirmed", (int)a->confirmed,
			"unconfirmed", (int)(a->nitems - a->confirmed), "frames",
			(json_int_t)a->frames));
}

static void confirm(struct announcer *a, struct item *it, const struct ip_addr *by)
{
	end_item(a, it, true, by);
}

/* The neighbours that can be asked from this address, the one that most frames go to first; the `turn`th, round and round. -1: there is none. */
static int choose_peer(const struct announcer *a, const struct address *x, unsigned turn)
{
	int order[ANNOUNCE_PEERS];
	unsigned n = 0;

	for (unsigned i = 0; i < ANNOUNCE_PEERS; i++) {
		const struct peer *p = &a->peers[i];
		unsigned k = n;

		if (!p->used || !p->known || p->vlan != x->vlan || p->ip.len != x->ip.len)
			continue;
		for (; k && a->peers[order[k - 1]].frames < p->frames; k--)
			order[k] = order[k - 1];
		order[k] = (int)i;
		n++;
	}
	return n ? order[turn % n] : -1;
}

static void ask(struct announcer *a, struct item *it)
{
	uint8_t frame[NET_HDR + NEIGHBOUR_FRAME] = {0};
	int peer = it->a.ip.len ? choose_peer(a, &it->a, it->tries) : -1;
	struct iovec iov = {frame, NET_HDR};

	if (peer >= 0) {
		it->asked |= 1u << peer;
		iov.iov_len += neighbour_ask(
			frame + NET_HDR, it->a.vlan, it->a.mac, &it->a.ip, &a->peers[peer].ip);
	} else {
		iov.iov_len += neighbour_rarp(frame + NET_HDR, it->a.vlan, it->a.mac, it->number);
	}
	a->frames++;
	net_send(a->inner, &iov, 1);
}

static void on_timer(uv_timer_t *t);

static void arm(struct announcer *a)
{
	uint64_t next = UINT64_MAX, now = clock_mono_ns();

	for (unsigned i = 0; i < a->nitems; i++)
		if (a->items[i].open && !a->items[i].rides)
			next = MIN(next, a->items[i].due);
	if (!a->open || a->held)
		return;
	uv_update_time(a->o.loop);
	uv_timer_start(&a->timer, on_timer, next > now ? (next - now) / NS_PER_MS + 1 : 0, 0);
}

static void on_timer(uv_timer_t *t)
{
	struct announcer *a = t->data;
	uint64_t now = clock_mono_ns();

	for (unsigned i = 0; i < a->nitems && a->open && !a->held; i++) {
		struct item *it = &a->items[i];

		if (!it->open || it->rides || it->due > now)
			continue;
		if (it->tries == (a->o.tries ?: ANNOUNCE_TRIES)) {
			end_item(a, it, false, NULL);
			continue;
		}
		ask(a, it);
		it->tries++;
		it->due = now + NS_PER_MS * MIN((a->o.step_ms ?: ANNOUNCE_STEP_MS) * it->tries,
						    ANNOUNCE_LAST_MS);
	}
	arm(a);
}

static bool has_ip(const struct announcer *a, const struct address *x)
{
	for (unsigned i = 0; i < ANNOUNCE_ADDRESSES; i++) {
		const struct address *y = &a->addresses[i];

		if (y->used && y->ip.len && y->vlan == x->vlan && !memcmp(y->mac, x->mac, 6))
			return true;
	}
	return false;
}

/* ---- from host to host ---- */

static int take_place(
	const json_t *j, uint16_t *vlan, uint8_t mac[6], struct ip_addr *ip, struct err *e)
{
	const char *text = json_string_value(json_object_get(j, "mac")) ?: "";
	const char *addr = json_string_value(json_object_get(j, "ip"));
	json_int_t v = json_integer_value(json_object_get(j, "vlan"));
	unsigned m[6];
	char end;

	*ip = (struct ip_addr){0};
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", m, m + 1, m + 2, m + 3, m + 4, m + 5, &end) !=
			6 ||
		v < 0 || v > 4094)
		return err_set(e, -EINVAL, "announce: an address that is none");
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)m[i];
	*vlan = (uint16_t)v;
	if (!addr)
		return 0;
	if (inet_pton(AF_INET, addr, ip->b) == 1)
		ip->len = 4;
	else if (inet_pton(AF_INET6, addr, ip->b) == 1)
		ip->len = 16;
	return ip->len ? 0 : err_set(e, -EINVAL, "announce: \"%s\" is not an IP address", addr);
}

static int take_known(struct announcer *a, const json_t *known, struct err *e)
{
	const json_t *addresses = json_object_get(known, "addresses"),
		     *peers = json_object_get(known, "peers"), *one;
	struct ip_addr ip;
	uint16_t vlan;
	uint8_t mac[6];
	size_t i;
	int rc = 0;

	if (!json_is_array(addresses) || !json_is_array(peers))
		return err_set(e, -EINVAL, "announce: not what a port knows of its guest");
	json_array_foreach(addresses, i, one)
	{
		rc = rc ?: take_place(one, &vlan, mac, &ip, e);
		if (!rc)
			note_address(a, vlan, mac, &ip);
	}
	json_array_foreach(peers, i, one)
	{
		struct peer *p;

		rc = rc ?: take_place(one, &vlan, mac, &ip, e);
		p = rc || !ip.len ? NULL : peer_of(a, vlan, &ip, true);
		if (!p)
			continue;
		memcpy(p->mac, mac, 6);
		p->known = true;
		p->frames = (uint64_t)json_integer_value(json_object_get(one, "frames"));
	}
	return rc;
}

static bool is_open(const struct announcer *a, const struct address *x)
{
	for (unsigned i = 0; i < a->nitems; i++) {
		const struct address *y = &a->items[i].a;

		if (a->items[i].open && y->vlan == x->vlan && !memcmp(y->mac, x->mac, 6) &&
			ip_equal(&y->ip, &x->ip))
			return true;
	}
	return false;
}

static const struct net_backend_ops ops;

json_t *announce_addresses(struct net_backend *port)
{
	json_t *addresses, *peers;
	struct announcer *a = of(port);

	if (port->ops != &ops)
		return NULL;
	addresses = json_array();
	peers = json_array();
	for (unsigned i = 0; i < ANNOUNCE_ADDRESSES; i++) {
		const struct address *x = &a->addresses[i];
		json_t *j;

		if (!x->used || (!x->ip.len && has_ip(a, x)))
			continue;
		j = place_json(x->vlan, x->mac, &x->ip);
		if (is_open(a, x))
			json_object_set_new(j, "open", json_true());
		json_array_append_new(addresses, j);
	}
	for (unsigned i = 0; i < ANNOUNCE_PEERS; i++) {
		const struct peer *p = &a->peers[i];
		json_t *j;

		if (!p->used || !p->known)
			continue;
		j = place_json(p->vlan, p->mac, &p->ip);
		json_object_set_new(j, "frames", json_integer((json_int_t)p->frames));
		json_array_append_new(peers, j);
	}
	return json_pack("{s:o, s:o}", "addresses", addresses, "peers", peers);
}

void announce_hold(struct net_backend *port, bool held)
{
	struct announcer *a = of(port);

	if (port->ops != &ops)
		return;
	a->held = held;
	if (held)
		uv_timer_stop(&a->timer);
	else if (a->open)
		on_timer(&a->timer);
}

bool announce_running(const struct net_backend *port)
{
	return port->ops == &ops && of(port)->open;
}

/* An address that no neighbour can be asked from is, to switches, its hardware address. RARP is for the first of those that have no other to ride with. */
static void find_rides(struct announcer *a)
{
	for (unsigned i = 0; i < a->nitems; i++)
		a->items[i].rides = choose_peer(a, &a->items[i].a, 0) < 0;
	for (unsigned i = 0; i < a->nitems; i++) {
		struct item *it = &a->items[i];
		bool with = false;

		for (unsigned j = 0; it->rides && j < a->nitems; j++)
			with = with || (j != i && same_place(&a->items[j], it) &&
					       (!a->items[j].rides || j < i));
		it->rides = with;
	}
}

/* NULL: what is known already. Nothing is asked for yet. */
static int prepare(struct net_backend *port, const json_t *addresses, struct err *e)
{
	struct announcer *a = of(port);

	if (port->ops != &ops)
		return err_set(e, -ENOTSUP, "announce: this network needs none");
	uv_timer_stop(&a->timer);
	a->nitems = a->open = a->confirmed = 0;
	a->frames = 0;
	a->began = clock_mono_ns();
	return addresses ? take_known(a, addresses, e) : 0;
}

static void add_item(struct announcer *a, const struct address *x)
{
	struct item *it = &a->items[a->nitems++];

	*it = (struct item){.a = *x, .open = true, .due = a->began};
	if (getrandom(&it->number, sizeof(it->number), 0) != sizeof(it->number))
		it->number = a->began + a->nitems;
	a->open++;
}

int announce_start(struct net_backend *port, const json_t *addresses, struct err *e)
{
	struct announcer *a = of(port);
	int rc = prepare(port, addresses, e);

	if (rc)
		return rc;
	for (unsigned i = 0; i < ANNOUNCE_ADDRESSES; i++) {
		const struct address *x = &a->addresses[i];

		if (x->used && (x->ip.len || !has_ip(a, x)))
			add_item(a, x);
	}
	find_rides(a);
	if (a->open)
		on_timer(&a->timer);
	return 0;
}

int announce_go_on(struct net_backend *port, const json_t *addresses, struct err *e)
{
	struct announcer *a = of(port);
	const json_t *one;
	size_t i;
	int rc = prepare(port, addresses, e);

	if (rc)
		return rc;
	json_array_foreach(json_object_get(addresses, "addresses"), i, one)
	{
		struct address x = {.used = 1};

		if (json_is_true(json_object_get(one, "open")) && a->nitems < ANNOUNCE_ADDRESSES &&
			!take_place(one, &x.vlan, x.mac, &x.ip, NULL))
			add_item(a, &x);
	}
	find_rides(a);
	arm(a);
	return 0;
}

/* ---- the back end ---- */

static int announcer_send(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len)
{
	struct announcer *a = of(b);
	uint8_t start[NET_HDR + NEIGHBOUR_FRAME];
	size_t have = 0;

	for (unsigned i = 0; i < n && have < sizeof(start); i++) {
		size_t part = MIN(iov[i].iov_len, sizeof(start) - have);

		memcpy(start + have, iov[i].iov_base, part);
		have += part;
	}
	see_out(a, start + NET_HDR, have - NET_HDR);
	return net_send(a->inner, iov, n);
}

static void announcer_flush(struct net_backend *b)
{
	net_flush(of(b)->inner);
}

static void announcer_accept(struct net_backend *b)
{
	net_accept(of(b)->inner, b->accepted);
}

static int announcer_fd(struct net_backend *b)
{
	return net_fd(of(b)->inner);
}

static void announcer_describe(struct net_backend *b, json_t *into)
{
	struct announcer *a = of(b);

	net_describe(a->inner, into);
	json_object_set_new(into, "known", announce_addresses(b));
	json_object_set_new(into, "announcing", json_integer(a->open));
	json_object_set_new(into, "refused_answers", json_integer((json_int_t)a->refused));
}

static void closed(uv_handle_t *h)
{
	free(h->data);
}

static void announcer_close(struct net_backend *b)
{
	struct announcer *a = of(b);

	net_close(a->inner);
	uv_timer_stop(&a->timer);
	uv_close((uv_handle_t *)&a->timer, closed);
}

static const struct net_backend_ops ops = {
	.name = "announcer",
	.send = announcer_send,
	.flush = announcer_flush,
	.accept = announcer_accept,
	.describe = announcer_describe,
	.close = announcer_close,
	.fd = announcer_fd,
};

static bool from_inner(void *ctx, const uint8_t *frame, size_t len)
{
	struct announcer *a = ctx;

	return !see_in(a, frame + NET_HDR, len - NET_HDR) || net_deliver(&a->b, frame, len);
}

static void on_link(void *ctx, bool up)
{
	net_link_set(&((struct announcer *)ctx)->b, up);
}

int net_announcer_open(struct net_backend **out, struct net_backend *inner,
	const struct announce_opts *o, struct err *e)
{
	struct announcer *a = calloc(1, sizeof(*a));

	if (!a)
		return err_set(e, -ENOMEM, "%s: out of memory", o->id);
	a->b.ops = &ops;
	a->b.offers = inner->offers;
	a->b.can_accept = inner->can_accept;
	a->b.link_up = inner->link_up;
	a->inner = inner;
	a->o = *o;
	snprintf(a->id, sizeof(a->id), "%s", o->id);
	uv_timer_init(o->loop, &a->timer);
	uv_unref((uv_handle_t *)&a->timer);
	a->timer.data = a;
	net_attach(inner, &(struct net_front){from_inner, on_link, a});
	*out = &a->b;
	return 0;
}
