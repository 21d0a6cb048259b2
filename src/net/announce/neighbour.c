#include "net/announce/neighbour.h"

#include <string.h>

#include "base/bytes.h"
#include "base/util.h"

#define ETHER 14u
#define MIN_FRAME 60u
#define ARP_LEN 28u
#define IP6_LEN 40u

enum { T_ARP = 0x0806, T_RARP = 0x8035, T_VLAN = 0x8100, T_IP6 = 0x86dd, T_ACK = 0x88b5 };
enum { ICMP6 = 58, ND_SOLICIT = 135, ND_ADVERT = 136, OPT_SOURCE = 1, OPT_TARGET = 2 };
static const char mark[8] = {'L', 'O', 'D', 'G', 'E', 'A', 'N', 'N'};

bool ip_equal(const struct ip_addr *a, const struct ip_addr *b)
{
	return a->len == b->len && !memcmp(a->b, b->b, a->len);
}

uint16_t neighbour_vlan(const uint8_t *ether, size_t len)
{
	return len >= ETHER + 4 && get_be16(ether + 12) == T_VLAN ? get_be16(ether + 14) & 0xfff
								  : 0;
}

static struct ip_addr ip_of(const uint8_t *p, uint8_t len)
{
	struct ip_addr a = {.len = len};

	memcpy(a.b, p, len);
	return a;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

static bool parse_arp(const uint8_t *p, size_t len, bool reverse, struct neighbour *n)
{
	unsigned op = len < ARP_LEN ? 0 : get_be16(p + 6);

	if (!op || get_be16(p) != 1 || get_be16(p + 2) != 0x0800 || p[4] != 6 || p[5] != 4)
		return false;
	memcpy(n->mac, p + 8, 6);
	if (reverse) {
		n->kind = NEIGHBOUR_RARP;
		n->number = len >= ARP_LEN + 16 && !memcmp(p + ARP_LEN, mark, 8)
				    ? get_be64(p + ARP_LEN + 8)
				    : 0;
		return op == 3;
	}
	n->kind = op == 1 ? NEIGHBOUR_ARP_REQUEST : NEIGHBOUR_ARP_REPLY;
	n->from = ip_of(p + 14, all_zero(p + 14, 4) || p[14] >= 224 ? 0 : 4);
	n->to = ip_of(p + 24, 4);
	return op == 1 || op == 2;
}

/* The link-layer address in the options; else that of the frame. */
static void take_option(const uint8_t *p, size_t len, uint8_t type, struct neighbour *n)
{
	memcpy(n->mac, n->src, 6);
	for (size_t at = 24; at + 8 <= len && p[at + 1]; at += 8u * p[at + 1])
		if (p[at] == type && p[at + 1] == 1)
			memcpy(n->mac, p + at + 2, 6);
}

/* p: the IPv6 header. Only without extension headers, as neighbour discovery is sent. */
static bool parse_nd(const uint8_t *p, size_t len, struct neighbour *n)
{
	const uint8_t *icmp = p + IP6_LEN;
	size_t left;

	if (len < IP6_LEN + 24 || p[0] >> 4 != 6 || p[6] != ICMP6 || p[7] != 255)
		return false;
	left = MIN(len - IP6_LEN, (size_t)get_be16(p + 4));
	/* RFC 4861, 7.1: a source or target is somebody's address, or (DAD's source) none. */
	if (left < 24 || icmp[1] || p[8] == 0xff || icmp[8] == 0xff || all_zero(icmp + 8, 16))
		return false;
	if (icmp[0] == ND_SOLICIT) {
		n->kind = NEIGHBOUR_NS;
		n->from = ip_of(p + 8, all_zero(p + 8, 16) ? 0 : 16);
		n->to = ip_of(icmp + 8, 16);
		take_option(icmp, left, OPT_SOURCE, n);
	} else if (icmp[0] == ND_ADVERT) {
		n->kind = NEIGHBOUR_NA;
		n->from = ip_of(icmp + 8, 16);
		n->to = ip_of(p + 24, 16);
		n->solicited = icmp[4] & 0x40;
		take_option(icmp, left, OPT_TARGET, n);
	} else {
		return false;
	}
	return true;
}

bool neighbour_parse(const uint8_t *ether, size_t len, struct neighbour *n)
{
	size_t at = ETHER;
	unsigned type;

	if (len < ETHER)
		return false;
	*n = (struct neighbour){.vlan = neighbour_vlan(ether, len)};
	type = get_be16(ether + 12);
	if (type == T_VLAN) {
		if (len < ETHER + 4)
			return false;
		type = get_be16(ether + 16);
		at += 4;
	}
	memcpy(n->dst, ether, 6);
	memcpy(n->src, ether + 6, 6);
	switch (type) {
	case T_ARP:
	case T_RARP:
		return parse_arp(ether + at, len - at, type == T_RARP, n);
	case T_IP6:
		return parse_nd(ether + at, len - at, n);
	case T_ACK:
		n->kind = NEIGHBOUR_ACK;
		if (len - at < 16 || memcmp(ether + at, mark, 8))
			return false;
		n->number = get_be64(ether + at + 8);
		return true;
	default:
		return false;
	}
}

/* ---- making them ---- */

static uint8_t *head(
	uint8_t *ether, uint16_t vlan, const uint8_t dst[6], const uint8_t src[6], unsigned type)
{
	uint8_t *p = ether + 12;

	memset(ether, 0, NEIGHBOUR_FRAME);
	memcpy(ether, dst, 6);
	memcpy(ether + 6, src, 6);
	if (vlan) {
		put_be16(p, T_VLAN);
		put_be16(p + 2, vlan);
		p += 4;
	}
	put_be16(p, (uint16_t)type);
	return p + 2;
}

static size_t size_of(const uint8_t *ether, const uint8_t *end)
{
	return MAX((size_t)(end - ether), (size_t)MIN_FRAME);
}

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static uint8_t *put_arp(uint8_t *p, unsigned op, const uint8_t mac[6])
{
	put_be16(p, 1);
	put_be16(p + 2, 0x0800);
	p[4] = 6;
	p[5] = 4;
	put_be16(p + 6, (uint16_t)op);
	memcpy(p + 8, mac, 6);
	return p + ARP_LEN;
}

/* RFC 4443, 2.3: over the pseudo header and the message. */
static uint16_t icmp6_sum(const uint8_t *ip6, size_t len)
{
	uint32_t sum = (uint32_t)len + ICMP6;

	for (size_t i = 8; i < IP6_LEN + len; i += 2)
		sum += get_be16(ip6 + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static size_t put_ns(uint8_t *ether, uint16_t vlan, const uint8_t mac[6],
	const struct ip_addr *from, const struct ip_addr *to)
{
	static const uint8_t solicited_node[13] = {0xff, 2, [11] = 1, [12] = 0xff};
	const uint8_t dst[6] = {0x33, 0x33, 0xff, to->b[13], to->b[14], to->b[15]};
	uint8_t *p = head(ether, vlan, dst, mac, T_IP6), *icmp = p + IP6_LEN;

	p[0] = 0x60;
	put_be16(p + 4, 32);
	p[6] = ICMP6;
	p[7] = 255;
	memcpy(p + 8, from->b, 16);
	memcpy(p + 24, solicited_node, 13);
	memcpy(p + 37, to->b + 13, 3);
	icmp[0] = ND_SOLICIT;
	memcpy(icmp + 8, to->b, 16);
	icmp[24] = OPT_SOURCE;
	icmp[25] = 1;
	memcpy(icmp + 26, mac, 6);
	put_be16(icmp + 2, icmp6_sum(p, 32));
	return size_of(ether, icmp + 32);
}

size_t neighbour_ask(uint8_t *ether, uint16_t vlan, const uint8_t mac[6],
	const struct ip_addr *from, const struct ip_addr *to)
{
	uint8_t *p, *end;

	if (from->len == 16)
		return put_ns(ether, vlan, mac, from, to);
	p = head(ether, vlan, everybody, mac, T_ARP);
	end = put_arp(p, 1, mac);
	memcpy(p + 14, from->b, 4);
	memcpy(p + 24, to->b, 4);
	return size_of(ether, end);
}

static uint8_t *put_number(uint8_t *p, uint64_t number)
{
	memcpy(p, mark, 8);
	put_be64(p + 8, number);
	return p + 16;
}

size_t neighbour_rarp(uint8_t *ether, uint16_t vlan, const uint8_t mac[6], uint64_t number)
{
	uint8_t *p = head(ether, vlan, everybody, mac, T_RARP);

	put_arp(p, 3, mac);
	memcpy(p + 18, mac, 6);
	return size_of(ether, put_number(p + ARP_LEN, number));
}

size_t neighbour_ack(
	uint8_t *ether, uint16_t vlan, const uint8_t to[6], const uint8_t from[6], uint64_t number)
{
	return size_of(ether, put_number(head(ether, vlan, to, from, T_ACK), number));
}
