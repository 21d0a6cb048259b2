/* The switch: learning, ageing, moving, VLANs, what one port may take, checksums for those who need them, capture; and wires between processes. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "fake_net.h"
#include "net/switch/switch.h"
#include "net/wire.h"

#define PORTS 3

static uint64_t clock_ns;
static uint64_t fake_now(void)
{
	return clock_ns;
}

struct rig {
	struct net_switch *s;
	struct fake_net f[PORTS];
	struct net_port *p[PORTS];
	unsigned gone;
};

static void on_gone(void *ctx, const char *name)
{
	((struct rig *)ctx)->gone++;
}

static void rig_open(struct rig *r, unsigned offers)
{
	struct err e = {0};

	clock_ns = 1;
	r->gone = 0;
	assert_int_equal(
		net_switch_create(&r->s, &(struct net_switch_opts){fake_now, on_gone, r}, &e), 0);
	for (unsigned i = 0; i < PORTS; i++) {
		char name[8];

		snprintf(name, sizeof(name), "p%u", i);
		fake_init(&r->f[i], offers, NET_OFF_CSUM);
		assert_int_equal(net_switch_add(r->s, name, &r->f[i].b, &r->p[i], &e), 0);
	}
}

static uint8_t frame[NET_HDR + 60];

static void say(struct rig *r, unsigned port, uint32_t from, uint32_t to, int vlan)
{
	uint8_t *eth = frame + NET_HDR;

	memset(frame, 0, sizeof(frame));
	put_be32(eth + 2, to);
	eth[0] = to == ~0u ? 0xff : 2;
	eth[1] = to == ~0u ? 0xff : 0;
	eth[6] = 2;
	put_be32(eth + 8, from);
	put_be16(eth + 12, vlan >= 0 ? 0x8100 : 0x0800);
	if (vlan >= 0)
		put_be16(eth + 14, (uint16_t)vlan);
	assert_true(net_deliver(&r->f[port].b, frame, sizeof(frame)));
}

static void sent(struct rig *r, unsigned a, unsigned b, unsigned c)
{
	assert_int_equal(r->f[0].sent, a);
	assert_int_equal(r->f[1].sent, b);
	assert_int_equal(r->f[2].sent, c);
	r->f[0].sent = r->f[1].sent = r->f[2].sent = 0;
}

static void frames_go_where_their_destination_was_heard(void **state)
{
	static struct rig r;

	rig_open(&r, NET_OFF_CSUM);
	say(&r, 0, 1, 2, -1); /* 2 is not known: to all others */
	sent(&r, 0, 1, 1);
	say(&r, 1, 2, 1, -1);
	sent(&r, 1, 0, 0);
	say(&r, 0, 1, 2, -1);
	sent(&r, 0, 1, 0);
	say(&r, 0, 1, ~0u, -1);
	sent(&r, 0, 1, 1);
	/* To somebody on the same port: not sent back. */
	say(&r, 0, 3, 9, -1);
	sent(&r, 0, 1, 1);
	say(&r, 0, 1, 3, -1);
	sent(&r, 0, 0, 0);
	/* 2 moves. */
	say(&r, 2, 2, 1, -1);
	sent(&r, 1, 0, 0);
	say(&r, 0, 1, 2, -1);
	sent(&r, 0, 0, 1);
	/* Addresses are forgotten, and go with their port. */
	clock_ns += NET_SWITCH_AGE_NS;
	say(&r, 0, 1, 2, -1);
	sent(&r, 0, 1, 1);
	say(&r, 2, 2, 1, -1);
	sent(&r, 1, 0, 0);
	net_switch_remove(r.p[2]);
	assert_int_equal(r.f[2].closed, 1);
	say(&r, 0, 1, 2, -1);
	sent(&r, 0, 1, 0);
	net_switch_destroy(r.s);
	assert_int_equal(r.f[0].closed, 1);
}

static void vlans_are_learned_apart(void **state)
{
	static struct rig r;

	rig_open(&r, NET_OFF_CSUM);
	say(&r, 1, 2, 9, 10);
	sent(&r, 1, 0, 1);
	say(&r, 0, 1, 2, 10);
	sent(&r, 0, 1, 0);
	say(&r, 0, 1, 2, 11);
	sent(&r, 0, 1, 1);
	net_switch_destroy(r.s);
}

static void a_port_that_makes_addresses_up_floods_itself(void **state)
{
	static struct rig r;
	json_t *j;

	rig_open(&r, NET_OFF_CSUM);
	say(&r, 1, 2, 9, -1);
	for (uint32_t i = 0; i < 100000; i++)
		say(&r, 0, 0x10000 + i, 2, -1);
	sent(&r, 1, 100000, 1);
	j = net_switch_describe(r.s);
	assert_true(
		json_integer_value(json_object_get(json_array_get(json_object_get(j, "ports"), 0),
			"addresses")) <= NET_SWITCH_PORT_ADDRESSES);
	assert_true(json_integer_value(json_object_get(j, "refused")) > 0);
	json_decref(j);
	net_switch_destroy(r.s);
}

static void checksums_are_filled_in_where_they_must_be(void **state)
{
	static struct rig r;
	static uint8_t f[NET_HDR + 60];

	rig_open(&r, 0);
	memset(f, 0, sizeof(f));
	memset(f + NET_HDR, 0xff, 6);
	f[NET_HDR + 6] = 2;
	f[NET_H_FLAGS] = NET_NEEDS_CSUM;
	put_le16(f + NET_H_CSUM_START, 34);
	put_le16(f + NET_H_CSUM_OFFSET, 6);
	assert_true(net_deliver(&r.f[0].b, f, sizeof(f)));
	sent(&r, 0, 1, 1);
	assert_int_equal(r.f[1].last[NET_H_FLAGS], 0);
	assert_int_equal(get_be16(r.f[1].last + NET_HDR + 40), 0xffff);
	/* One that lies outside the frame, segments, and what is too short: lost. */
	put_le16(f + NET_H_CSUM_START, 59);
	assert_true(net_deliver(&r.f[0].b, f, sizeof(f)));
	f[NET_H_FLAGS] = 0;
	f[NET_H_GSO_TYPE] = NET_GSO_TCPV4;
	assert_true(net_deliver(&r.f[0].b, f, sizeof(f)));
	assert_true(net_deliver(&r.f[0].b, f, NET_HDR + 13));
	sent(&r, 0, 0, 0);
	net_switch_destroy(r.s);
}

static void ports_go_with_their_link_and_have_names_of_their_own(void **state)
{
	static struct rig r;
	static struct fake_net again;
	struct err e = {0};

	rig_open(&r, NET_OFF_CSUM);
	fake_init(&again, 0, 0);
	assert_int_equal(net_switch_add(r.s, "p1", &again.b, NULL, &e), -EEXIST);
	net_link_set(&r.f[1].b, false);
	assert_int_equal(r.gone, 1);
	assert_int_equal(r.f[1].closed, 1);
	assert_int_equal(net_switch_add(r.s, "p1", &again.b, NULL, &e), 0);
	net_switch_destroy(r.s);
}

static void a_capture_is_pcapng(void **state)
{
	static struct rig r;
	static uint8_t b[4096];
	struct err e = {0};
	int fd = memfd_create("capture", 0), copy = dup(fd);
	ssize_t n;
	unsigned types[16], count = 0;

	rig_open(&r, NET_OFF_CSUM);
	assert_int_equal(net_switch_capture(r.s, fd, &e), 0);
	say(&r, 1, 1, 2, -1);
	net_switch_capture(r.s, -1, &e);
	say(&r, 1, 1, 2, -1);
	n = pread(copy, b, sizeof(b), 0);
	/* Blocks, each with its length in front and behind. */
	for (ssize_t at = 0; at < n; count++) {
		uint32_t len = get_le32(b + at + 4);

		assert_true(len >= 12 && len % 4 == 0 && at + (ssize_t)len <= n);
		assert_int_equal(get_le32(b + at + len - 4), len);
		types[count] = get_le32(b + at);
		if (types[count] == 6) {
			assert_int_equal(get_le32(b + at + 8), 1); /* port p1 */
			assert_int_equal(get_le32(b + at + 20), 60);
			assert_memory_equal(b + at + 28, frame + NET_HDR, 60);
		}
		at += len;
	}
	assert_int_equal(count, 5);
	assert_int_equal(types[0], 0x0a0d0d0a);
	assert_int_equal(types[3], 1);
	assert_int_equal(types[4], 6);
	close(copy);
	net_switch_destroy(r.s);
}

/* ---- wires ---- */

struct wired {
	uv_loop_t loop;
	uv_async_t keep;
	struct net_switch *s;
	struct net_wire_listener *l;
	char dir[32], path[48];
	unsigned got;
	size_t len;
};

static void nothing(uv_async_t *a)
{
}

static void plugged(void *ctx, const char *name, struct net_backend *b)
{
	struct wired *w = ctx;
	struct err e = {0};

	if (net_switch_add(w->s, name, b, NULL, &e))
		net_close(b);
}

static bool take(void *ctx, const uint8_t *f, size_t len)
{
	struct wired *w = ctx;

	w->got++;
	w->len = len;
	return true;
}

static void turn(struct wired *w)
{
	for (int i = 0; i < 10; i++)
		uv_run(&w->loop, UV_RUN_NOWAIT);
}

static size_t ports(struct wired *w)
{
	json_t *j = net_switch_describe(w->s);
	size_t n = json_array_size(json_object_get(j, "ports"));

	json_decref(j);
	return n;
}

static void two_machines_on_wires(void **state)
{
	static struct wired w;
	struct net_backend *a, *b;
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct err e = {0};
	struct iovec iov = {frame, sizeof(frame)};
	int junk;

	uv_loop_init(&w.loop);
	uv_async_init(&w.loop, &w.keep, nothing);
	strcpy(w.dir, "/tmp/lodge-wire.XXXXXX");
	assert_non_null(mkdtemp(w.dir));
	snprintf(w.path, sizeof(w.path), "%s/s", w.dir);
	assert_int_equal(net_switch_create(&w.s, &(struct net_switch_opts){0}, &e), 0);
	assert_int_equal(
		net_wire_open(&a, &(struct net_wire_opts){"net0", "a", w.path, &w.loop}, &e),
		-ENOENT);
	assert_int_equal(net_wire_listen(&w.l, w.path, &w.loop, plugged, &w, &e), 0);
	assert_int_equal(
		net_wire_open(&a, &(struct net_wire_opts){"net0", "a", w.path, &w.loop}, &e), 0);
	assert_int_equal(
		net_wire_open(&b, &(struct net_wire_opts){"net0", "b", w.path, &w.loop}, &e), 0);
	turn(&w);
	assert_int_equal(ports(&w), 2);
	net_attach(b, &(struct net_front){.receive = take, .ctx = &w});
	memset(frame, 0, sizeof(frame));
	memset(frame + NET_HDR, 0xff, 6);
	assert_int_equal(net_send(a, &iov, 1), 0);
	turn(&w);
	assert_int_equal(w.got, 1);
	assert_int_equal(w.len, sizeof(frame));
	/* Who does not say who it is, or sends what is no frame, is let go; the others stay. */
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", w.path);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const says[] = {"hello", "LODGE1 c", "LODGE1 a\"b"};
		char c;

		junk = socket(AF_UNIX, SOCK_SEQPACKET, 0);
		assert_int_equal(connect(junk, (struct sockaddr *)&sa, sizeof(sa)), 0);
		assert_true(send(junk, says[i], strlen(says[i]), 0) > 0);
		turn(&w);
		if (i == 1) {
			assert_int_equal(ports(&w), 3);
			assert_true(send(junk, "short", 5, 0) > 0);
			turn(&w);
		}
		assert_true(recv(junk, &c, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN);
		close(junk);
		assert_int_equal(ports(&w), 2);
	}
	/* One that waits with its name when the switch ends. */
	junk = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	assert_int_equal(connect(junk, (struct sockaddr *)&sa, sizeof(sa)), 0);
	turn(&w);
	net_close(a);
	turn(&w);
	assert_int_equal(ports(&w), 1);
	net_wire_listener_close(w.l);
	net_switch_destroy(w.s);
	turn(&w);
	assert_false(b->link_up);
	net_close(b);
	close(junk);
	uv_close((uv_handle_t *)&w.keep, NULL);
	uv_run(&w.loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&w.loop), 0);
	assert_int_equal(rmdir(w.dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_go_where_their_destination_was_heard),
		cmocka_unit_test(vlans_are_learned_apart),
		cmocka_unit_test(a_port_that_makes_addresses_up_floods_itself),
		cmocka_unit_test(checksums_are_filled_in_where_they_must_be),
		cmocka_unit_test(ports_go_with_their_link_and_have_names_of_their_own),
		cmocka_unit_test(a_capture_is_pcapng),
		cmocka_unit_test(two_machines_on_wires),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
