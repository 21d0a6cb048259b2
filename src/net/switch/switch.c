#include "net/switch/switch.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/util.h"
#include "net/announce/neighbour.h"
#include "net/net.h"
#include "net/switch/capture.h"

#define ETHER 14u
#define WAYS 4u
#define SETS (NET_SWITCH_ADDRESSES / WAYS)
#define NAME 64u

struct net_port {
	struct list link;
	struct net_switch *sw;
	struct net_backend *b;
	char name[NAME];
	unsigned interface; /* of the capture */
	unsigned learned;
	bool trunk, stays;
	uint64_t in, out, dropped; /* frames */
	uint64_t forged; /* answers for somebody else: dropped */
};

/* Where an address was heard last. Empty: port NULL. */
struct entry {
	uint64_t key; /* VLAN << 48 | address */
	struct net_port *port;
	uint64_t seen;
};

struct net_switch {
	struct net_switch_opts o;
	struct list ports;
	unsigned nports, interfaces;
	struct entry table[SETS][WAYS];
	struct capture capture;
	uint64_t acked;
	uint8_t mac[6]; /* acknowledgements come from it */
	uint64_t flooded, moved, refused; /* refused: not learned, the port's share is used up */
	uint8_t copy[NET_HDR + NET_FRAME_MAX]; /* with its checksum filled in */
};

static uint64_t now(struct net_switch *s)
{
	return s->o.now ? s->o.now() : clock_mono_ns();
}

/* ---- addresses ---- */

static struct entry *set_of(struct net_switch *s, uint64_t key)
{
	return s->table[(key * 0x9e3779b97f4a7c15ull) >> 32 & (SETS - 1)];
}

static void forget(struct entry *en)
{
	if (en->port)
		en->port->learned--;
	en->port = NULL;
}

static void forget_port(struct net_switch *s, const struct net_port *p)
{
	for (unsigned i = 0; i < SETS; i++)
		for (unsigned j = 0; j < WAYS; j++)
			if (s->table[i][j].port == p)
				forget(&s->table[i][j]);
}

static struct net_port *lookup(struct net_switch *s, uint64_t key)
{
	struct entry *set = set_of(s, key);
	uint64_t t = now(s);

	for (unsigned i = 0; i < WAYS; i++)
		if (set[i].port && set[i].key == key) {
			if (t - set[i].seen < NET_SWITCH_AGE_NS)
				return set[i].port;
			forget(&set[i]);
		}
	return NULL;
}

static void learn(struct net_switch *s, struct net_port *p, uint64_t key)
{
	struct entry *set = set_of(s, key), *old = NULL;
	uint64_t t = now(s);

	for (unsigned i = 0; i < WAYS; i++) {
		if (set[i].port && set[i].key == key) {
			set[i].seen = t;
			if (set[i].port != p) { /* a machine that moved */
				s->moved++;
				set[i].port->learned--;
				set[i].port = p;
				p->learned++;
			}
			return;
		}
		if (!old || (old->port && (!set[i].port || set[i].seen < old->seen)))
			old = &set[i];
	}
	/* In a full set a port displaces others' only within its share, its own always. */
	if (p->learned >= NET_SWITCH_PORT_ADDRESSES && old->port != p) {
		s->refused++;
		return;
	}
	forget(old);
	*old = (struct entry){key, p, t};
	p->learned++;
}

/* ---- frames ---- */

static void send_to(struct net_switch *s, struct net_port *p, const uint8_t *frame, size_t len)
{
	struct iovec iov = {(void *)frame, len};

	if (frame[NET_H_FLAGS] & NET_NEEDS_CSUM && !(p->b->offers & NET_OFF_CSUM)) {
		memcpy(s->copy, frame, len);
		if (net_finish_csum(s->copy, len)) {
			p->dropped++;
			return;
		}
		iov.iov_base = s->copy;
	}
	if (net_send(p->b, &iov, 1))
		p->dropped++;
	else
		p->out++;
}

/* VLAN << 48 | address, of the source or the destination. */
static uint64_t key_at(const uint8_t *ether, size_t len, unsigned off)
{
	uint64_t vlan = 0, mac = 0;

	if (len >= ETHER + 4 && get_be16(ether + 12) == 0x8100)
		vlan = get_be16(ether + 14) & 0xfff;
	for (unsigned i = 0; i < 6; i++)
		mac = mac << 8 | ether[off + i];
	return vlan << 48 | mac;
}

/* Another switch's machine says where it is now: it is heard. */
static void acknowledge(struct net_switch *s, struct net_port *p, const struct neighbour *n)
{
	uint8_t frame[NET_HDR + NEIGHBOUR_FRAME] = {0};
	size_t len = neighbour_ack(frame + NET_HDR, n->vlan, n->mac, s->mac, n->number);

	s->acked++;
	send_to(s, p, frame, NET_HDR + len);
}

/* False: it is not what such a port may say. */
static bool believable(struct net_switch *s, struct net_port *p, const uint8_t *ether, size_t len)
{
	struct net_port *at;
	struct neighbour n;

	if (!neighbour_parse(ether, len, &n))
		return true;
	if (p->trunk) {
		if (n.kind == NEIGHBOUR_RARP && n.number && !memcmp(n.src, n.mac, 6))
			acknowledge(s, p, &n);
		return true;
	}
	if (n.kind == NEIGHBOUR_ACK)
		return false;
	if (n.kind != NEIGHBOUR_ARP_REPLY && n.kind != NEIGHBOUR_NA)
		return true;
	at = lookup(s, key_at(ether, len, 6));
	return !at || at == p;
}

/* From the port's back end. Never "no room": what another port does not take is lost, as on a wire. */
static bool on_frame(void *ctx, const uint8_t *frame, size_t len)
{
	struct net_port *p = ctx, *to;
	struct net_switch *s = p->sw;
	const uint8_t *ether = frame + NET_HDR;

	if (len < NET_HDR + ETHER || len > NET_HDR + NET_FRAME_MAX || frame[NET_H_GSO_TYPE]) {
		p->dropped++;
		return true;
	}
	p->in++;
	capture_frame(&s->capture, p->interface, clock_wall_ns(), ether, len - NET_HDR);
	if (!believable(s, p, ether, len - NET_HDR)) {
		p->forged++;
		return true;
	}
	if (!(ether[6] & 1))
		learn(s, p, key_at(ether, len - NET_HDR, 6));
	to = ether[0] & 1 ? NULL : lookup(s, key_at(ether, len - NET_HDR, 0));
	if (to) {
		if (to != p)
			send_to(s, to, frame, len);
		return true;
	}
	s->flooded++;
	list_for_each (it, &s->ports) {
		struct net_port *q = list_entry(it, struct net_port, link);

		if (q != p)
			send_to(s, q, frame, len);
	}
	return true;
}

static void on_link(void *ctx, bool up)
{
	struct net_port *p = ctx;
	struct net_switch *s = p->sw;
	char name[NAME];

	if (up)
		return;
	if (p->stays) {
		forget_port(s, p);
		return;
	}
	memcpy(name, p->name, sizeof(name));
	net_switch_remove(p);
	if (s->o.gone)
		s->o.gone(s->o.ctx, name);
}

/* ---- ports ---- */

int net_switch_add(struct net_switch *s, const char *name, struct net_backend *b,
	struct net_port **out, struct err *e)
{
	struct net_port *p;

	list_for_each (it, &s->ports) {
		if (!strcmp(list_entry(it, struct net_port, link)->name, name))
			return err_set(e, -EEXIST, "switch: there is a port %s already", name);
	}
	if (s->nports >= NET_SWITCH_PORTS)
		return err_set(e, -ENOSPC, "switch: it has %u ports, the most there can be",
			NET_SWITCH_PORTS);
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(e, -ENOMEM, "switch: out of memory");
	p->sw = s;
	p->b = b;
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->interface = s->interfaces++;
	capture_interface(&s->capture, p->name);
	list_add_tail(&s->ports, &p->link);
	s->nports++;
	net_accept(b, NET_OFF_CSUM);
	net_attach(b, &(struct net_front){.receive = on_frame, .link = on_link, .ctx = p});
	if (out)
		*out = p;
	return 0;
}

void net_port_trunk(struct net_port *p, bool stays)
{
	p->trunk = true;
	p->stays = stays;
}

void net_switch_remove(struct net_port *p)
{
	struct net_switch *s = p->sw;

	forget_port(s, p);
	list_del(&p->link);
	s->nports--;
	net_close(p->b);
	free(p);
}

int net_switch_create(struct net_switch **out, const struct net_switch_opts *o, struct err *e)
{
	struct net_switch *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, -ENOMEM, "switch: out of memory");
	s->o = *o;
	s->capture.fd = -1;
	if (getrandom(s->mac, sizeof(s->mac), 0) != sizeof(s->mac))
		s->mac[5] = 1;
	s->mac[0] = 0x52; /* locally administered, unicast */
	list_init(&s->ports);
	*out = s;
	return 0;
}

void net_switch_destroy(struct net_switch *s)
{
	if (!s)
		return;
	while (!list_empty(&s->ports))
		net_switch_remove(list_entry(s->ports.next, struct net_port, link));
	capture_stop(&s->capture);
	free(s);
}

int net_switch_capture(struct net_switch *s, int fd, struct err *e)
{
	unsigned at = 0;
	int rc;

	if (fd < 0) {
		capture_stop(&s->capture);
		return 0;
	}
	rc = capture_start(&s->capture, fd, e);
	if (rc)
		return rc;
	list_for_each (it, &s->ports) {
		struct net_port *p = list_entry(it, struct net_port, link);

		p->interface = at++;
		capture_interface(&s->capture, p->name);
	}
	s->interfaces = at;
	return 0;
}

struct json_t *net_switch_describe(struct net_switch *s)
{
	json_t *ports = json_array(), *addresses = json_array();
	uint64_t t = now(s);

	list_for_each (it, &s->ports) {
		struct net_port *p = list_entry(it, struct net_port, link);
		json_t *j = json_pack("{s:s, s:I, s:I, s:I, s:i, s:b, s:I}", "name", p->name, "in",
			(json_int_t)p->in, "out", (json_int_t)p->out, "dropped",
			(json_int_t)p->dropped, "addresses", (int)p->learned, "trunk", p->trunk,
			"forged", (json_int_t)p->forged);

		net_describe(p->b, j);
		json_array_append_new(ports, j);
	}
	for (unsigned i = 0; i < SETS * WAYS; i++) {
		const struct entry *en = &s->table[i / WAYS][i % WAYS];
		char mac[18];

		if (!en->port || t - en->seen >= NET_SWITCH_AGE_NS)
			continue;
		snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x",
			(unsigned)(en->key >> 40 & 255), (unsigned)(en->key >> 32 & 255),
			(unsigned)(en->key >> 24 & 255), (unsigned)(en->key >> 16 & 255),
			(unsigned)(en->key >> 8 & 255), (unsigned)(en->key & 255));
		json_array_append_new(
			addresses, json_pack("{s:s, s:i, s:s, s:I}", "address", mac, "vlan",
					   (int)(en->key >> 48), "port", en->port->name, "age_ms",
					   (json_int_t)((t - en->seen) / 1000000)));
	}
	return json_pack("{s:o, s:o, s:I, s:I, s:I, s:b, s:I, s:I}", "ports", ports, "addresses",
		addresses, "flooded", (json_int_t)s->flooded, "moved", (json_int_t)s->moved,
		"refused", (json_int_t)s->refused, "capturing", s->capture.fd >= 0, "captured",
		(json_int_t)s->capture.frames, "acknowledged", (json_int_t)s->acked);
}
