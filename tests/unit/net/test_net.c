/* Packet back ends: the contract's checks, checksums, the loopback filter, libslirp behind it, and what a tap answers. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "fake_net.h"
#include "net/user_filter.h"

static const uint8_t guest_mac[6] = {0x52, 1, 2, 3, 4, 5};

static void only_what_is_offered_passes(void **state)
{
	uint8_t f[NET_HDR + 100] = {0};
	struct iovec iov[2] = {{f, NET_HDR}, {f + NET_HDR, 100}};
	static struct fake_net n;
	static uint8_t big[NET_FRAME_MAX];

	fake_init(&n, 0, 0);
	assert_int_equal(net_send(&n.b, iov, 2), 0);
	assert_int_equal(n.last_len, sizeof(f));
	f[NET_H_FLAGS] = NET_NEEDS_CSUM;
	assert_int_equal(net_send(&n.b, iov, 2), -EINVAL);
	n.b.offers = NET_OFF_CSUM;
	assert_int_equal(net_send(&n.b, iov, 2), 0);
	f[NET_H_GSO_TYPE] = NET_GSO_TCPV4;
	put_le16(f + NET_H_GSO_SIZE, 1400);
	assert_int_equal(net_send(&n.b, iov, 2), -EINVAL);
	n.b.offers |= NET_OFF_TSO4;
	assert_int_equal(net_send(&n.b, iov, 2), 0);
	f[NET_H_GSO_TYPE] = NET_GSO_TCPV4 | NET_GSO_ECN;
	assert_int_equal(net_send(&n.b, iov, 2), -EINVAL);
	f[NET_H_GSO_TYPE] = NET_GSO_TCPV6;
	assert_int_equal(net_send(&n.b, iov, 2), -EINVAL);
	f[NET_H_GSO_TYPE] = 77;
	assert_int_equal(net_send(&n.b, iov, 2), -EINVAL);
	f[NET_H_GSO_TYPE] = NET_GSO_TCPV4;
	f[NET_H_FLAGS] = 0; /* segments without a checksum to fill in */
	assert_int_equal(net_send(&n.b, iov, 2), -EINVAL);
	memset(f, 0, NET_HDR);
	assert_int_equal(net_send(&n.b, iov, 1), -EINVAL);
	assert_int_equal(net_send(&n.b, iov, 0), -EINVAL);
	iov[1] = (struct iovec){big, sizeof(big)};
	assert_int_equal(net_send(&n.b, iov, 2), 0);
	iov[1].iov_len++;
	assert_int_equal(net_send(&n.b, iov, 2), -EMSGSIZE);
	iov[1].iov_len = SIZE_MAX;
	assert_int_equal(net_send(&n.b, iov, 2), -EMSGSIZE);
	assert_int_equal(n.b.stats.tx_packets, n.sent);
	assert_int_equal(n.b.stats.tx_drops, 10);
}

static void checksums_are_those_of_the_rfc(void **state)
{
	/* RFC 1071, section 3: the sum of these words is ddf2. */
	uint8_t f[NET_HDR + 10] = {[NET_H_FLAGS] = NET_NEEDS_CSUM};
	static const uint8_t data[8] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};

	memcpy(f + NET_HDR, data, 8);
	put_le16(f + NET_H_CSUM_OFFSET, 8);
	assert_int_equal(net_finish_csum(f, sizeof(f)), 0);
	assert_int_equal(get_be16(f + NET_HDR + 8), 0xffff ^ 0xddf2);
	assert_int_equal(f[NET_H_FLAGS], 0);
	f[NET_H_FLAGS] = NET_NEEDS_CSUM;
	put_le16(f + NET_H_CSUM_OFFSET, 9);
	assert_int_equal(net_finish_csum(f, sizeof(f)), -EINVAL);
	put_le16(f + NET_H_CSUM_START, 0xffff);
	put_le16(f + NET_H_CSUM_OFFSET, 0xffff);
	assert_int_equal(net_finish_csum(f, sizeof(f)), -EINVAL);
}

/* ---- the filter ---- */

static bool forwarded(void *ctx, uint16_t port)
{
	return port == 53000;
}

static enum user_verdict judge(
	const char *dst, unsigned proto, unsigned sport, unsigned dport, unsigned flags)
{
	struct user_filter f = {.udp_forwarded = forwarded};
	uint8_t p[60] = {0};

	put_be16(p + 12, 0x0800);
	p[14] = 0x45;
	p[23] = (uint8_t)proto;
	inet_pton(AF_INET, dst, p + 30);
	put_be16(p + 34, (uint16_t)sport);
	put_be16(p + 36, (uint16_t)dport);
	p[47] = (uint8_t)flags;
	return user_filter(&f, p, sizeof(p));
}

static void loopback_is_out_of_reach(void **state)
{
	static const char *const local[] = {
		"10.0.2.2", "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "255.255.255.255"};
	struct user_filter open = {.host_loopback = true};
	uint8_t frag[60] = {0};

	for (unsigned i = 0; i < ARRAY_SIZE(local); i++) {
		assert_int_equal(judge(local[i], 6, 1000, 80, 0x02), USER_LOOPBACK);
		assert_int_equal(judge(local[i], 6, 1000, 80, 0xc2), USER_LOOPBACK); /* ECN */
		assert_int_equal(judge(local[i], 6, 1000, 80, 0x12), USER_PASS); /* an answer */
		assert_int_equal(judge(local[i], 17, 1000, 53, 0), USER_LOOPBACK);
		assert_int_equal(judge(local[i], 17, 68, 67, 0), USER_PASS); /* DHCP */
	}
	assert_int_equal(judge("10.0.2.2", 17, 53000, 4000, 0), USER_PASS); /* forwarded */
	assert_int_equal(judge("127.0.0.1", 17, 53000, 4000, 0), USER_LOOPBACK);
	assert_int_equal(judge("10.0.2.2", 1, 0x800, 0, 0), USER_OPENS);
	assert_int_equal(judge("127.0.0.1", 1, 0x800, 0, 0), USER_LOOPBACK);
	assert_int_equal(judge("127.0.0.1", 132, 1, 2, 0), USER_LOOPBACK); /* SCTP */
	assert_int_equal(judge("10.0.2.3", 17, 1000, 53, 0), USER_OPENS);
	assert_int_equal(judge("192.0.2.1", 6, 1000, 80, 0x02), USER_OPENS);
	assert_int_equal(judge("192.0.2.1", 6, 1000, 80, 0x10), USER_PASS);
	/* Ports hidden in fragments. */
	put_be16(frag + 12, 0x0800);
	frag[14] = 0x45;
	frag[20] = 0x20;
	frag[23] = 6;
	inet_pton(AF_INET, "127.0.0.1", frag + 30);
	assert_int_equal(user_filter(&(struct user_filter){.udp_forwarded = forwarded}, frag, 60),
		USER_LOOPBACK);
	assert_int_equal(user_filter(&open, frag, 60), USER_OPENS);
	/* Any cut of any frame is survived; ASan watches. */
	for (size_t n = 0; n < 60; n++) {
		uint8_t *cut = malloc(n + !n);

		memcpy(cut, frag, n);
		if (n > 21)
			cut[20] = 0;
		user_filter(&(struct user_filter){.udp_forwarded = forwarded}, cut, n);
		free(cut);
	}
}

/* ---- libslirp ---- */

struct guest {
	uv_loop_t loop;
	struct net_backend *net;
	uint8_t got[64][1600];
	size_t len[64];
	unsigned n;
	bool full; /* answers that there is no room */
};

static bool take(void *ctx, const uint8_t *frame, size_t len)
{
	struct guest *g = ctx;

	if (g->full)
		return false;
	if (g->n < 64 && len <= 1600) {
		memcpy(g->got[g->n], frame, len);
		g->len[g->n++] = len;
	}
	return true;
}

static void stop(uv_timer_t *t)
{
	uv_stop(t->loop);
}

/* Turns the loop until n frames are there, or half a minute has passed. */
static void turn(struct guest *g, unsigned n)
{
	uint64_t end = clock_mono_ns() + 30000000000;
	uv_timer_t t;

	uv_timer_init(&g->loop, &t);
	do {
		uv_timer_start(&t, stop, 10, 0);
		uv_run(&g->loop, UV_RUN_DEFAULT);
	} while (g->n < n && clock_mono_ns() < end);
	uv_close((uv_handle_t *)&t, NULL);
	uv_run(&g->loop, UV_RUN_NOWAIT);
}

static int open_with(struct guest *g, const struct net_fwd *fwds, unsigned n, struct err *e)
{
	struct net_user_opts o = {.id = "net0", .loop = &g->loop, .fwds = fwds, .nfwds = n};
	int rc;

	memset(g, 0, sizeof(*g));
	uv_loop_init(&g->loop);
	rc = net_user_open(&g->net, &o, e);
	if (!rc)
		net_attach(g->net, &(struct net_front){take, NULL, g});
	return rc;
}

static void done(struct guest *g)
{
	net_close(g->net);
	uv_run(&g->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&g->loop), 0);
}

static void send_frame(struct guest *g, const uint8_t *frame, size_t len)
{
	uint8_t head[NET_HDR] = {0};
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)(uintptr_t)frame, len}};

	assert_int_equal(net_send(g->net, iov, 2), 0);
}

static void arp_who_has(struct guest *g, const char *whom)
{
	uint8_t p[60] = {0};

	memset(p, 0xff, 6);
	memcpy(p + 6, guest_mac, 6);
	put_be16(p + 12, 0x0806);
	put_be16(p + 14, 1);
	put_be16(p + 16, 0x0800);
	p[18] = 6;
	p[19] = 4;
	put_be16(p + 20, 1);
	memcpy(p + 22, guest_mac, 6);
	inet_pton(AF_INET, "10.0.2.15", p + 28);
	inet_pton(AF_INET, whom, p + 38);
	send_frame(g, p, sizeof(p));
}

static void the_gateway_answers(void **state)
{
	static struct guest g;
	struct err e = {0};
	uint32_t addr;

	assert_int_equal(open_with(&g, NULL, 0, &e), 0);
	g.full = true;
	arp_who_has(&g, "10.0.2.2");
	turn(&g, 0);
	assert_int_equal(g.n, 0);
	g.full = false;
	net_flush(g.net);
	assert_int_equal(g.n, 0); /* never from inside */
	turn(&g, 1);
	assert_int_equal(g.n, 1);
	assert_int_equal(get_be16(g.got[0] + NET_HDR + 20), 2); /* a reply */
	inet_pton(AF_INET, "10.0.2.2", &addr);
	assert_memory_equal(g.got[0] + NET_HDR + 28, &addr, 4);
	assert_int_equal(g.got[0][NET_H_FLAGS], 0); /* DATA_VALID only where it was accepted */
	net_accept(g.net, ~0u);
	arp_who_has(&g, "10.0.2.3");
	turn(&g, 2);
	assert_int_equal(g.got[1][NET_H_FLAGS], NET_DATA_VALID);
	done(&g);
}

static void frames_beyond_the_queue_are_dropped(void **state)
{
	static struct guest g;
	struct err e = {0};

	assert_int_equal(open_with(&g, NULL, 0, &e), 0);
	g.full = true;
	for (int i = 0; i < 40000; i++)
		arp_who_has(&g, "10.0.2.2");
	assert_true(g.net->stats.rx_drops > 0);
	assert_true(g.net->stats.rx_drops < 40000);
	done(&g);
}

static int listen_on(bool udp, uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_true(udp || !listen(fd, 1));
	getsockname(fd, (struct sockaddr *)&a, &len);
	*port = ntohs(a.sin_port);
	return fd;
}

static void a_taken_port_is_named(void **state)
{
	for (int udp = 0; udp < 2; udp++) {
		static struct guest g;
		struct net_fwd fwd = {udp, "127.0.0.1", 0, "", 22};
		struct err e = {0};
		char text[16];
		int fd = listen_on(udp, &fwd.host_port);

		assert_int_equal(open_with(&g, &fwd, 1, &e), -EADDRINUSE);
		snprintf(text, sizeof(text), "port %u", fwd.host_port);
		assert_non_null(strstr(err_msg(&e), text));
		assert_non_null(strstr(err_msg(&e), "net0"));
		assert_non_null(strstr(err_msg(&e), "hostfwd="));
		uv_run(&g.loop, UV_RUN_DEFAULT);
		assert_int_equal(uv_loop_close(&g.loop), 0);
		close(fd);
	}
}

static void a_forwarded_connection_reaches_the_guest(void **state)
{
	struct net_fwd fwd = {false, "127.0.0.1", 0, "", 2200};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	static struct guest g;
	struct err e = {0};
	int fd = listen_on(false, &fwd.host_port);

	close(fd);
	assert_int_equal(open_with(&g, &fwd, 1, &e), 0);
	arp_who_has(&g, "10.0.2.2"); /* so that the guest is known */
	turn(&g, 1);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	a.sin_port = htons(fwd.host_port);
	connect(fd, (struct sockaddr *)&a, sizeof(a));
	turn(&g, 2);
	assert_true(g.n >= 2);
	assert_int_equal(g.got[1][NET_HDR + 23], 6); /* TCP */
	assert_int_equal(get_be16(g.got[1] + NET_HDR + 36), 2200);
	assert_int_equal(g.got[1][NET_HDR + 47] & 0x12, 0x02); /* SYN */
	close(fd);
	done(&g);
}

/* An IPv4 header checksum, and none for UDP, which may be left out. */
static void finish_ip(uint8_t *ip)
{
	uint32_t sum = 0;

	put_be16(ip + 10, 0);
	for (int i = 0; i < 20; i += 2)
		sum += get_be16(ip + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	put_be16(ip + 10, (uint16_t)~sum);
}

static void a_forwarded_datagram_is_answered(void **state)
{
	struct net_fwd fwd = {true, "127.0.0.1", 0, "", 5353};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	uint8_t *p, back[NET_HDR + 60], swap[6];
	static struct guest g;
	struct err e = {0};
	char text[8] = {0};
	int fd = listen_on(true, &fwd.host_port);

	close(fd);
	assert_int_equal(open_with(&g, &fwd, 1, &e), 0);
	arp_who_has(&g, "10.0.2.2");
	turn(&g, 1);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	a.sin_port = htons(fwd.host_port);
	sendto(fd, "ping", 4, 0, (struct sockaddr *)&a, sizeof(a));
	turn(&g, 2);
	assert_int_equal(g.n, 2);
	p = g.got[1] + NET_HDR;
	assert_int_equal(p[23], 17);
	assert_int_equal(get_be16(p + 36), 5353);
	assert_memory_equal(p + 42, "ping", 4);
	/* The same frame, the other way round. */
	memcpy(back, p, 46);
	memcpy(back, p + 6, 6);
	memcpy(back + 6, guest_mac, 6);
	memcpy(swap, back + 26, 4);
	memcpy(back + 26, back + 30, 4);
	memcpy(back + 30, swap, 4);
	memcpy(swap, back + 34, 2);
	memcpy(back + 34, back + 36, 2);
	memcpy(back + 36, swap, 2);
	put_be16(back + 40, 0);
	memcpy(back + 42, "pong", 4);
	finish_ip(back + 14);
	send_frame(&g, back, 46);
	turn(&g, 2);
	assert_int_equal(recv(fd, text, 7, 0), 4);
	assert_string_equal(text, "pong");
	/* From a port that is not forwarded it would be the host's loopback. */
	put_be16(back + 34, 5354);
	finish_ip(back + 14);
	memmove(back + NET_HDR, back, 46);
	memset(back, 0, NET_HDR);
	assert_int_equal(net_send(g.net, &(struct iovec){back, NET_HDR + 46}, 1), -EACCES);
	close(fd);
	done(&g);
}

static void a_network_at_rest_costs_nothing(void **state)
{
	static struct guest g;
	struct err e = {0};
	uint64_t before, spent;
	uv_timer_t t;

	assert_int_equal(open_with(&g, NULL, 0, &e), 0);
	turn(&g, 0);
	uv_timer_init(&g.loop, &t);
	uv_timer_start(&t, stop, 300, 0);
	before = (uint64_t)clock();
	uv_run(&g.loop, UV_RUN_DEFAULT);
	spent = (uint64_t)clock() - before;
	assert_true(spent < CLOCKS_PER_SEC / 20); /* of 300 ms, below 50 */
	uv_close((uv_handle_t *)&t, NULL);
	done(&g);
}

/* ---- tap ---- */

static void a_tap_that_is_missing_is_named(void **state)
{
	struct net_backend *b;
	struct err e = {0};
	uv_loop_t loop;

	uv_loop_init(&loop);
	assert_int_equal(net_tap_open(&b, &(struct net_tap_opts){"net0", &loop, "no-such-tap"}, &e),
		-ENODEV);
	assert_non_null(strstr(err_msg(&e), "no-such-tap"));
	assert_non_null(strstr(err_msg(&e), "ip tuntap add"));
	assert_int_equal(
		net_tap_open(&b, &(struct net_tap_opts){"net0", &loop, "../x"}, &e), -EINVAL);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_what_is_offered_passes),
		cmocka_unit_test(checksums_are_those_of_the_rfc),
		cmocka_unit_test(loopback_is_out_of_reach),
		cmocka_unit_test(the_gateway_answers),
		cmocka_unit_test(frames_beyond_the_queue_are_dropped),
		cmocka_unit_test(a_taken_port_is_named),
		cmocka_unit_test(a_forwarded_connection_reaches_the_guest),
		cmocka_unit_test(a_forwarded_datagram_is_answered),
		cmocka_unit_test(a_network_at_rest_costs_nothing),
		cmocka_unit_test(a_tap_that_is_missing_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
