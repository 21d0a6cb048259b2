/*
 * libslirp turns what the guest sends to 10.0.2.2, and to 255.255.255.255, into connections to 127.0.0.1 of the host, and does not
 * stop the guest from naming 127.0.0.1 or 0.0.0.0 itself. Its own switch (disable_host_loopback) knows only the first and
 * breaks forwarded UDP, so the decision is made here, before it.
 *
 * Sources: RFC 791 (IPv4), RFC 9293 (TCP), RFC 768 (UDP), RFC 2131 (DHCP).
 */
#include "net/user_filter.h"

#include "base/bytes.h"

enum { ETHER = 14, ETHERTYPE_IPV4 = 0x0800 };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17 };
enum { TCP_SYN = 0x02, TCP_ACK = 0x10 };
enum { DHCP_SERVER = 67 };
#define GATEWAY 0x0a000202u

static bool is_loopback(uint32_t dst)
{
	/* Linux takes a connection to 0.0.0.0 for one to itself. */
	return dst == GATEWAY || dst == 0xffffffff || dst >> 24 == 127 || dst >> 24 == 0;
}

enum user_verdict user_filter(const struct user_filter *f, const uint8_t *p, size_t len)
{
	const uint8_t *ip = p + ETHER, *l4;
	size_t head;
	uint32_t dst;
	bool loop;

	if (len < ETHER + 20 || get_be16(p + 12) != ETHERTYPE_IPV4)
		return USER_PASS;
	head = (size_t)(ip[0] & 15) * 4;
	if (ip[0] >> 4 != 4 || head < 20 || ETHER + head > len)
		return USER_PASS; /* libslirp drops it */
	dst = get_be32(ip + 16);
	loop = is_loopback(dst) && !f->host_loopback;
	l4 = ip + head;
	/* Of a fragment the ports may be elsewhere; nothing that is allowed to loopback needs to be that long. */
	if (get_be16(ip + 6) & 0x3fff)
		return loop ? USER_LOOPBACK : USER_OPENS;
	switch (ip[9]) {
	case PROTO_TCP:
		if (ETHER + head + 14 > len)
			return USER_PASS;
		if ((l4[13] & (TCP_SYN | TCP_ACK)) != TCP_SYN)
			return USER_PASS;
		return loop ? USER_LOOPBACK : USER_OPENS;
	case PROTO_UDP:
		if (ETHER + head + 8 > len)
			return USER_PASS;
		if (get_be16(l4 + 2) == DHCP_SERVER)
			return USER_PASS;
		if (loop && dst == GATEWAY && f->udp_forwarded(f->ctx, get_be16(l4)))
			return USER_PASS;
		return loop ? USER_LOOPBACK : USER_OPENS;
	case PROTO_ICMP:
		/* libslirp answers echo requests to the gateway itself. */
		return loop && dst != GATEWAY ? USER_LOOPBACK : USER_OPENS;
	default:
		return loop ? USER_LOOPBACK : USER_PASS;
	}
}
