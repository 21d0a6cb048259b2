/*
 * Announcements through three switches: every address is confirmed by an answer, only those without one are asked for again, forged answers do not
 * count, a dead neighbour ends with an event, going back ends everything, duplicate address detection is left alone.
 */
#include <arpa/inet.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "net/announce/announce.h"
#include "net/announce/neighbour.h"
#include "net/net.h"
#include "net/switch/switch.h"

/* ---- a network in memory: cables with two ends, frames that wait in one queue ---- */

#define QUEUE 4096

struct cable {
	struct net_backend b;
	struct cable *other;
	unsigned lose; /* percent of what is sent from this end */
	uint32_t *seed;
	unsigned sent;
};

struct frame {
	struct cable *to;
	size_t len;
	uint8_t bytes[NET_HDR + NEIGHBOUR_FRAME];
};

struct net {
	uv_loop_t loop;
	uv_async_t alive;
	struct frame queue[QUEUE];
	unsigned head, tail;
};
static struct net net;

static uint32_t draw(uint32_t *s)
{
	*s = *s * 1664525u + 1013904223u;
	return *s >> 8;
}

static int cable_send(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len)
{
	struct cable *c = container_of(b, struct cable, b);
	struct frame *f = &net.queue[net.tail % QUEUE];
	size_t at = 0;

	c->sent++;
	if (c->seed && draw(c->seed) % 100 < c->lose)
		return 0;
	assert_true(len <= sizeof(f->bytes) && net.tail - net.head < QUEUE);
	for (unsigned i = 0; i < n; at += iov[i++].iov_len)
		memcpy(f->bytes + at, iov[i].iov_base, iov[i].iov_len);
	f->len = len;
	f->to = c->other;
	net.tail++;
	return 0;
}

static void cable_close(struct net_backend *b)
{
	struct cable *c = container_of(b, struct cable, b);

	if (c->other)
		c->other->other = NULL;
	free(c);
}

static const struct net_backend_ops cable_ops = {
	.name = "cable", .send = cable_send, .close = cable_close};

static void cable_new(struct cable **a, struct cable **b)
{
	struct cable **ends[2] = {a, b};

	for (unsigned i = 0; i < 2; i++) {
		*ends[i] = calloc(1, sizeof(**ends[i]));
		(*ends[i])->b = (struct net_backend){.ops = &cable_ops, .link_up = true};
	}
	(*a)->other = *b;
	(*b)->other = *a;
}

static void pump(void)
{
	while (net.head != net.tail) {
		struct frame *f = &net.queue[net.head++ % QUEUE];

		if (f->to)
			net_deliver(&f->to->b, f->bytes, f->len);
	}
}

static void turn(void)
{
	pump();
	uv_run(&net.loop, UV_RUN_NOWAIT);
}

/* ---- hosts ---- */

static struct ip_addr ip(const char *text)
{
	struct ip_addr a = {0};

	if (inet_pton(AF_INET, text, a.b) == 1)
		a.len = 4;
	else if (inet_pton(AF_INET6, text, a.b) == 1)
		a.len = 16;
	assert_true(a.len);
	return a;
}

static void put_frame(struct net_backend *b, const uint8_t *ether, size_t len)
{
	uint8_t bytes[NET_HDR + NEIGHBOUR_FRAME] = {0};
	struct iovec iov = {bytes, NET_HDR + len};

	memcpy(bytes + NET_HDR, ether, len);
	net_send(b, &iov, 1);
}

/* The answer to a question: ARP reply or neighbour advertisement. */
static size_t make_answer(
	uint8_t *e, const struct neighbour *q, const uint8_t src[6], const uint8_t mac[6])
{
	size_t len;

	if (q->kind == NEIGHBOUR_ARP_REQUEST) {
		len = neighbour_ask(e, q->vlan, mac, &q->to, &q->from);
		memcpy(e, q->mac, 6);
		memcpy(e + 6, src, 6);
		put_be16(e + (q->vlan ? 18 : 14) + 6, 2);
		return len;
	}
	memset(e, 0, NEIGHBOUR_FRAME);
	memcpy(e, q->mac, 6);
	memcpy(e + 6, src, 6);
	put_be16(e + 12, 0x86dd);
	e[14] = 0x60;
	put_be16(e + 18, 32);
	e[20] = 58;
	e[21] = 255;
	memcpy(e + 22, q->to.b, 16);
	memcpy(e + 38, q->from.b, 16);
	e[54] = 136;
	e[58] = 0x60;
	memcpy(e + 62, q->to.b, 16);
	e[78] = 2;
	e[79] = 1;
	memcpy(e + 80, mac, 6);
	return 86;
}

struct host {
	struct cable *c;
	uint8_t mac[6];
	struct ip_addr ip[2];
	bool dead, liar,
		thief; /* answers for everybody: with its own hardware address; with that of who was asked */
	const uint8_t *stolen;
	unsigned asked;
};

static bool host_hears(void *ctx, const uint8_t *frame, size_t len)
{
	struct host *h = ctx;
	uint8_t e[NEIGHBOUR_FRAME];
	struct neighbour q;

	if (!neighbour_parse(frame + NET_HDR, len - NET_HDR, &q) ||
		(q.kind != NEIGHBOUR_ARP_REQUEST && q.kind != NEIGHBOUR_NS))
		return true;
	if (h->liar)
		put_frame(&h->c->b, e, make_answer(e, &q, h->mac, h->mac));
	if (h->thief)
		put_frame(&h->c->b, e, make_answer(e, &q, h->stolen, h->stolen));
	for (unsigned i = 0; i < 2 && !h->liar && !h->thief; i++)
		if (ip_equal(&q.to, &h->ip[i])) {
			h->asked++;
			if (!h->dead)
				put_frame(&h->c->b, e, make_answer(e, &q, h->mac, h->mac));
		}
	return true;
}

/* ---- three nodes, a gateway and a neighbour, a machine with three cards ---- */

#define CARDS 3

struct rig {
	struct net_switch *sw[3];
	struct host gateway, neighbour, tenant;
	struct cable *card[CARDS];
	struct net_backend *port[CARDS];
	unsigned confirmed, unconfirmed, done;
	json_t *last;
};

static void on_event(void *ctx, const json_t *p)
{
	const char *state = json_string_value(json_object_get(p, "state"));
	struct rig *r = ctx;

	r->confirmed += !strcmp(state, "confirmed");
	r->unconfirmed += !strcmp(state, "unconfirmed");
	r->done += !strcmp(state, "done");
	if (strcmp(state, "done")) {
		json_decref(r->last);
		r->last = json_deep_copy(p);
	}
}

static struct net_port *plug(struct net_switch *s, const char *name, struct cable *c)
{
	struct net_port *p;

	assert_int_equal(net_switch_add(s, name, &c->b, &p, NULL), 0);
	return p;
}

static void add_host(struct rig *r, struct host *h, unsigned sw, const char *name, uint8_t last,
	const char *four, const char *six)
{
	struct cable *end;

	*h = (struct host){.mac = {2, 0, 0, 0, 1, last}};
	h->ip[0] = ip(four);
	h->ip[1] = ip(six);
	cable_new(&h->c, &end);
	plug(r->sw[sw], name, end);
	net_attach(&h->c->b, &(struct net_front){host_hears, NULL, h});
}

static bool nothing(void *ctx, const uint8_t *frame, size_t len)
{
	return true;
}

static const uint8_t *card_mac(unsigned i)
{
	static const uint8_t macs[CARDS][6] = {
		{2, 0, 0, 0, 2, 0}, {2, 0, 0, 0, 2, 1}, {2, 0, 0, 0, 2, 2}};

	return macs[i];
}

static void rig_open(struct rig *r, unsigned tries, unsigned step_ms)
{
	struct cable *a, *b;

	memset(r, 0, sizeof(*r));
	net.head = net.tail = 0;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(
			net_switch_create(&r->sw[i], &(struct net_switch_opts){0}, NULL), 0);
	for (unsigned i = 1; i < 3; i++) {
		cable_new(&a, &b);
		net_port_trunk(plug(r->sw[0], i == 1 ? "+b" : "+c", a), false);
		net_port_trunk(plug(r->sw[i], "+a", b), true);
	}
	add_host(r, &r->gateway, 0, "gateway", 1, "10.0.0.1", "fe80::1");
	add_host(r, &r->neighbour, 1, "neighbour", 2, "10.0.0.2", "fd00::2");
	add_host(r, &r->tenant, 2, "tenant", 3, "10.0.0.3", "fd00::3");
	for (unsigned i = 0; i < CARDS; i++) {
		char name[8];

		snprintf(name, sizeof(name), "vm.%u", i);
		cable_new(&r->card[i], &b);
		plug(r->sw[2], name, b);
		assert_int_equal(net_announcer_open(&r->port[i], &r->card[i]->b,
					 &(struct announce_opts){
						 name, &net.loop, on_event, r, tries, step_ms},
					 NULL),
			0);
		net_attach(r->port[i], &(struct net_front){nothing, NULL, NULL});
	}
}

static void rig_close(struct rig *r)
{
	for (unsigned i = 0; i < CARDS; i++)
		net_close(r->port[i]);
	net_close(&r->gateway.c->b);
	net_close(&r->neighbour.c->b);
	net_close(&r->tenant.c->b);
	for (unsigned i = 0; i < 3; i++)
		net_switch_destroy(r->sw[i]);
	uv_run(&net.loop, UV_RUN_NOWAIT);
	uv_run(&net.loop, UV_RUN_NOWAIT);
	json_decref(r->last);
}

/* What the guest asks for, as it would before it moves: so its port learns whose addresses it has and whom it talks to. */
static void guest_asks(struct rig *r, unsigned card, const char *from, const char *to)
{
	uint8_t e[NEIGHBOUR_FRAME];
	struct ip_addr a = ip(from), b = ip(to);

	put_frame(r->port[card], e, neighbour_ask(e, 0, card_mac(card), &a, &b));
	turn();
}

/* Five IP addresses on three cards. */
static void guest_talks(struct rig *r)
{
	guest_asks(r, 0, "10.0.0.10", "10.0.0.1");
	guest_asks(r, 0, "10.0.0.11", "10.0.0.1");
	guest_asks(r, 0, "fd00::10", "fd00::2");
	guest_asks(r, 1, "10.0.0.12", "10.0.0.2");
	guest_asks(r, 2, "fd00::12", "fe80::1");
}

static void start_all(struct rig *r)
{
	for (unsigned i = 0; i < CARDS; i++)
		assert_int_equal(announce_start(r->port[i], NULL, NULL), 0);
}

static unsigned sent(const struct rig *r)
{
	return r->card[0]->sent + r->card[1]->sent + r->card[2]->sent;
}

static bool running(const struct rig *r)
{
	return announce_running(r->port[0]) || announce_running(r->port[1]) ||
	       announce_running(r->port[2]);
}

static json_int_t forged(struct rig *r)
{
	json_t *j = net_switch_describe(r->sw[2]), *one;
	json_int_t sum = 0;
	size_t i;

	json_array_foreach(json_object_get(j, "ports"), i, one)
		sum += json_integer_value(json_object_get(one, "forged"));
	json_decref(j);
	return sum;
}

static void each_address_once(void **state)
{
	struct rig r;
	unsigned before;

	rig_open(&r, 0, 0);
	guest_talks(&r);
	before = sent(&r);
	start_all(&r);
	while (running(&r))
		turn();
	assert_int_equal(r.confirmed, 5);
	assert_int_equal(r.unconfirmed, 0);
	assert_int_equal(r.done, 3);
	/* Not one frame more than there are addresses. */
	assert_int_equal(sent(&r) - before, 5);
	rig_close(&r);
}

/* What is known goes along to another host, as text. */
static void on_another_host(void **state)
{
	struct rig r, s;
	json_t *known[CARDS];

	rig_open(&r, 0, 0);
	guest_talks(&r);
	for (unsigned i = 0; i < CARDS; i++) {
		known[i] = announce_addresses(r.port[i]);
		assert_non_null(known[i]);
	}
	rig_close(&r);
	rig_open(&s, 0, 0);
	for (unsigned i = 0; i < CARDS; i++) {
		assert_int_equal(announce_start(s.port[i], known[i], NULL), 0);
		json_decref(known[i]);
	}
	while (running(&s))
		turn();
	assert_int_equal(s.confirmed, 5);
	rig_close(&s);
}

/* A live update in the middle of it: what had no answer is asked for by who goes on, and nothing else. */
static void another_process(void **state)
{
	struct rig r, s;
	json_t *known;

	rig_open(&r, 0, 1);
	guest_talks(&r);
	r.neighbour.dead = true; /* whom fd00::10 talks to */
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (r.confirmed < 2)
		turn();
	known = announce_addresses(r.port[0]);
	rig_close(&r);
	rig_open(&s, 0, 1);
	assert_int_equal(announce_go_on(s.port[0], known, NULL), 0);
	assert_int_equal(sent(&s), 0); /* the guest is not this process's yet */
	while (running(&s))
		turn();
	assert_int_equal(s.confirmed, 1);
	assert_string_equal(json_string_value(json_object_get(s.last, "ip")), "fd00::10");
	assert_int_equal(sent(&s), 1);
	json_decref(known);
	/* Nothing was under way: nothing is. */
	known = announce_addresses(s.port[0]);
	assert_int_equal(announce_go_on(s.port[0], known, NULL), 0);
	assert_false(running(&s));
	json_decref(known);
	rig_close(&s);
}

static void bad_knowledge(void **state)
{
	static const char *const bad[] = {"{}", "[]", "{\"addresses\": 1, \"peers\": []}",
		"{\"addresses\": [{\"mac\": \"x\"}], \"peers\": []}",
		"{\"addresses\": [{\"mac\": \"02:00:00:00:00:01\", \"ip\": \"10.0.0.300\"}], "
		"\"peers\": []}",
		"{\"addresses\": [{\"mac\": \"02:00:00:00:00:01\", \"vlan\": 5000}], \"peers\": "
		"[]}"};
	struct rig r;

	rig_open(&r, 0, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		json_t *j = json_loads(bad[i], 0, NULL);

		assert_int_equal(announce_start(r.port[0], j, NULL), -EINVAL);
		assert_false(announce_running(r.port[0]));
		json_decref(j);
	}
	rig_close(&r);
}

/* Of what the machine announces, 70 % are lost: it converges, and asks again only for what nobody has answered. Beside five blind RARPs, as QEMU sends
 * them, with the same luck. Time in steps of 50 ms. bench/announce does it with migrations. */
static void most_are_lost(void **state)
{
	unsigned frames = 0, blind_frames = 0, blind_black = 0, worse = 0;

	for (uint32_t run = 0; run < 20; run++) {
		uint32_t seed = run * 7919 + 17, luck = seed;
		static const unsigned blind[5] = {0, 1, 4, 9, 16};
		unsigned n = 0, at = 0, blind_at = 0, blind_n = 0;
		struct rig r;

		rig_open(&r, 60, 1);
		guest_asks(&r, 0, "10.0.0.10", "10.0.0.1");
		r.card[0]->lose = 70;
		r.card[0]->seed = &seed;
		n = r.card[0]->sent;
		assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
		while (running(&r))
			turn();
		assert_int_equal(r.confirmed, 1);
		n = r.card[0]->sent - n;
		/* Try k (from 0) comes k (k + 1) / 2 steps after the first. */
		at = (n - 1) * n / 2;
		while (draw(&luck) % 100 < 70)
			blind_n++;
		blind_at = blind_n < 5 ? blind[blind_n] : UINT32_MAX;
		worse += at > blind_at;
		blind_black += blind_n >= 5;
		frames += n;
		blind_frames += 5;
		rig_close(&r);
	}
	print_message("20 runs with 70 %% lost: %u frames, all confirmed, never later than blind; "
		      "five blind RARPs: %u "
		      "frames, %u never heard\n",
		frames, blind_frames, blind_black);
	assert_int_equal(worse, 0);
	assert_true(frames < blind_frames);
}

static void only_the_unanswered(void **state)
{
	struct rig r;
	unsigned before;

	rig_open(&r, 6, 1);
	guest_talks(&r);
	r.neighbour.dead = true; /* whom fd00::10 and 10.0.0.12 talk to */
	before = sent(&r);
	start_all(&r);
	while (running(&r))
		turn();
	/* fd00::10 has no other neighbour of its family; 10.0.0.12 none at all on its card. */
	assert_int_equal(r.confirmed, 3);
	assert_int_equal(r.unconfirmed, 2);
	assert_int_equal(sent(&r) - before, 3 + 2 * 6);
	assert_int_equal(json_integer_value(json_object_get(r.last, "tries")), 6);
	assert_string_equal(json_string_value(json_object_get(r.last, "state")), "unconfirmed");
	rig_close(&r);
}

static void another_neighbour(void **state)
{
	struct rig r;

	rig_open(&r, 6, 1);
	guest_asks(&r, 0, "10.0.0.10", "10.0.0.1");
	guest_asks(&r, 0, "10.0.0.10", "10.0.0.2");
	r.gateway.dead = true;
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (running(&r))
		turn();
	assert_int_equal(r.confirmed, 1);
	assert_string_equal(json_string_value(json_object_get(r.last, "by")), "10.0.0.2");
	assert_int_equal(json_integer_value(json_object_get(r.last, "tries")), 2);
	rig_close(&r);
}

static void forged_answers(void **state)
{
	struct rig r;

	rig_open(&r, 4, 1);
	guest_asks(&r, 0, "10.0.0.10", "10.0.0.1");
	guest_asks(&r, 0, "fd00::10", "fe80::1");
	r.gateway.dead = true;
	r.tenant.liar = true;
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (running(&r))
		turn();
	assert_int_equal(r.confirmed, 0);
	assert_int_equal(r.unconfirmed, 2);
	/* Under the gateway's own hardware address: the switch knows where that is. */
	r.tenant.liar = false;
	r.tenant.thief = true;
	r.tenant.stolen = r.gateway.mac;
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (running(&r))
		turn();
	assert_int_equal(r.confirmed, 0);
	assert_int_equal(r.unconfirmed, 4);
	assert_int_equal(forged(&r), 8);
	rig_close(&r);
}

static void bare_address(void **state)
{
	static const uint8_t hello[60] = {2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 2, 0, 0x88, 0xb6};
	uint8_t e[NEIGHBOUR_FRAME];
	struct rig r;

	rig_open(&r, 4, 1);
	put_frame(r.port[0], hello, sizeof(hello));
	turn();
	r.card[0]->sent = 0;
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (running(&r))
		turn();
	/* By both other switches; one is enough. */
	assert_int_equal(r.confirmed, 1);
	assert_int_equal(r.card[0]->sent, 1);
	/* A tenant acknowledges with a number that it has seen go by: not forwarded. */
	put_frame(&r.tenant.c->b, e, neighbour_ack(e, 0, card_mac(0), r.tenant.mac, 42));
	turn();
	assert_int_equal(forged(&r), 1);
	rig_close(&r);
}

static void still_quiet(struct rig *r)
{
	unsigned before = r->card[0]->sent;

	for (unsigned i = 0; i < 200; i++) {
		turn();
		uv_sleep(1);
	}
	assert_int_equal(r->card[0]->sent, before);
}

static void going_back(void **state)
{
	struct rig r;

	rig_open(&r, 0, 1);
	guest_asks(&r, 0, "10.0.0.10", "10.0.0.1");
	r.gateway.dead = true;
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (r.card[0]->sent < 4)
		turn();
	announce_hold(r.port[0], true);
	still_quiet(&r);
	assert_int_equal(r.confirmed + r.unconfirmed + r.done, 0);
	/* Who asks for it meanwhile has to wait. */
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	still_quiet(&r);
	/* It stays here after all. */
	r.gateway.dead = false;
	announce_hold(r.port[0], false);
	while (running(&r))
		turn();
	assert_int_equal(r.confirmed, 1);
	assert_int_equal(r.done, 1);
	rig_close(&r);
}

/* An address that has no neighbour of its family says nothing to switches that its sibling does not; one with no such sibling is announced by RARP. */
static void riding_along(void **state)
{
	uint8_t e[NEIGHBOUR_FRAME], e2[NEIGHBOUR_FRAME];
	struct ip_addr self = ip("fe80::10"), other = ip("fe80::11");
	struct rig r;
	unsigned before;

	rig_open(&r, 4, 1);
	guest_asks(&r, 0, "10.0.0.10", "10.0.0.1");
	/* They say so to everybody; the other card, who hears it, takes nobody of that address for its neighbour. */
	for (unsigned i = 0; i < 2; i++) {
		put_frame(r.port[i], e, neighbour_ask(e, 0, card_mac(i), &self, &self));
		put_frame(r.port[i], e2, neighbour_ask(e2, 0, card_mac(i), &other, &other));
	}
	turn();
	before = sent(&r);
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (running(&r))
		turn();
	assert_int_equal(r.confirmed, 3);
	assert_int_equal(sent(&r) - before, 1);
	/* One RARP for two addresses, acknowledged by switches. */
	assert_int_equal(announce_start(r.port[1], NULL, NULL), 0);
	while (running(&r))
		turn();
	assert_int_equal(r.confirmed, 5);
	assert_int_equal(sent(&r) - before, 2);
	assert_int_equal(r.done, 2);
	/* Nobody answers: all of them are given up, and asked for once a turn. */
	r.gateway.dead = true;
	before = sent(&r);
	assert_int_equal(announce_start(r.port[0], NULL, NULL), 0);
	while (running(&r))
		turn();
	assert_int_equal(r.unconfirmed, 3);
	assert_int_equal(sent(&r) - before, 4);
	rig_close(&r);
}

/* An address that is only tried out is neither announced nor known. */
static void duplicate_detection(void **state)
{
	uint8_t e[NEIGHBOUR_FRAME];
	struct ip_addr any = ip("::"), own = ip("fd00::77");
	struct rig r;
	json_t *known;

	rig_open(&r, 0, 1);
	put_frame(r.port[0], e, neighbour_ask(e, 0, card_mac(0), &any, &own));
	turn();
	known = announce_addresses(r.port[0]);
	assert_int_equal(json_array_size(json_object_get(known, "addresses")), 1);
	assert_null(json_object_get(json_array_get(json_object_get(known, "addresses"), 0), "ip"));
	assert_int_equal(json_array_size(json_object_get(known, "peers")), 0);
	json_decref(known);
	rig_close(&r);
}

/* Nothing is read beyond its end, whatever it says. */
static void any_bytes(void **state)
{
	uint32_t seed = 5;

	for (unsigned i = 0; i < 200000; i++) {
		size_t len = draw(&seed) % NEIGHBOUR_FRAME;
		uint8_t *e = malloc(len + 1);
		struct neighbour n;

		for (size_t k = 0; k < len; k++)
			e[k] = (uint8_t)draw(&seed);
		if (len > 14) {
			static const uint16_t types[] = {0x0806, 0x8035, 0x8100, 0x86dd, 0x88b5};

			put_be16(e + 12, types[draw(&seed) % 5]);
		}
		neighbour_parse(e, len, &n);
		free(e);
	}
}

static void never(uv_async_t *a)
{
}

/* Timers of back ends do not keep the loop alive: something else has to. */
static int setup(void **state)
{
	return uv_loop_init(&net.loop) ?: uv_async_init(&net.loop, &net.alive, never);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_address_once),
		cmocka_unit_test(on_another_host),
		cmocka_unit_test(another_process),
		cmocka_unit_test(bad_knowledge),
		cmocka_unit_test(most_are_lost),
		cmocka_unit_test(only_the_unanswered),
		cmocka_unit_test(another_neighbour),
		cmocka_unit_test(forged_answers),
		cmocka_unit_test(bare_address),
		cmocka_unit_test(going_back),
		cmocka_unit_test(riding_along),
		cmocka_unit_test(duplicate_detection),
		cmocka_unit_test(any_bytes),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
