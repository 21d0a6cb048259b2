/*
 * neighbour.h: ARP (RFC 826), RARP (RFC 903) and IPv6 neighbour discovery (RFC 4861) in Ethernet frames, as far as announcements need them;
 * and the acknowledgement that a Lodge switch gives for a RARP.
 *
 * RARP by Lodge has "LODGEANN" and a 64-bit number in its padding. Who acknowledges sends a frame of type 0x88b5 (IEEE 802: local experiments), to the
 * hardware address that was announced, with the same sixteen bytes.
 *
 * Frames here are Ethernet frames without anything in front. What comes in is checked; nothing is read beyond `len`.
 */
#ifndef LODGE_NET_ANNOUNCE_NEIGHBOUR_H
#define LODGE_NET_ANNOUNCE_NEIGHBOUR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEIGHBOUR_FRAME 128u /* the longest that is made; and what has to be looked at */

enum neighbour_kind {
	NEIGHBOUR_ARP_REQUEST,
	NEIGHBOUR_ARP_REPLY,
	NEIGHBOUR_NS,
	NEIGHBOUR_NA,
	NEIGHBOUR_RARP,
	NEIGHBOUR_ACK,
};

struct ip_addr {
	uint8_t len; /* 4, 16; 0: none */
	uint8_t b[16];
};

struct neighbour {
	enum neighbour_kind kind;
	uint16_t vlan; /* 0: no tag */
	uint8_t dst[6], src[6]; /* of the Ethernet header */
	uint8_t mac[6]; /* that the message tells of its sender */
	struct ip_addr
		from; /* ARP: sender (len 0: no host); NS: source (len 0: duplicate address detection); NA: target, whose address it is */
	struct ip_addr to; /* ARP, NS: target; NA: destination */
	bool solicited; /* NA */
	uint64_t number; /* RARP, ACK; RARP of somebody else: 0 */
};

bool neighbour_parse(const uint8_t *ether, size_t len, struct neighbour *out);
/* VLAN of any frame; 0 without a tag. */
uint16_t neighbour_vlan(const uint8_t *ether, size_t len);

/* Into `ether` (NEIGHBOUR_FRAME bytes), padded to 60; the length. */
size_t neighbour_ask(uint8_t *ether, uint16_t vlan, const uint8_t mac[6],
	const struct ip_addr *from, const struct ip_addr *to); /* ARP request or NS */
size_t neighbour_rarp(uint8_t *ether, uint16_t vlan, const uint8_t mac[6], uint64_t number);
size_t neighbour_ack(
	uint8_t *ether, uint16_t vlan, const uint8_t to[6], const uint8_t from[6], uint64_t number);

bool ip_equal(const struct ip_addr *a, const struct ip_addr *b);

#endif
