#include "net/net.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/bytes.h"
#include "base/util.h"

#define ETHER_MIN 14u

void net_attach(struct net_backend *b, const struct net_front *front)
{
	b->front = front ? *front : (struct net_front){0};
	if (front && b->ops->flush)
		b->ops->flush(b);
}

/* Does the header ask only for what the other side takes? */
static bool header_ok(const uint8_t h[NET_HDR], unsigned offloads)
{
	unsigned type = h[NET_H_GSO_TYPE] & ~(unsigned)NET_GSO_ECN;

	if (h[NET_H_FLAGS] & NET_NEEDS_CSUM && !(offloads & NET_OFF_CSUM))
		return false;
	if (h[NET_H_GSO_TYPE] & NET_GSO_ECN && !(offloads & NET_OFF_ECN))
		return false;
	if (type == NET_GSO_NONE)
		return true;
	/* A segment needs its own checksum, and a size. */
	if (!(h[NET_H_FLAGS] & NET_NEEDS_CSUM) || !get_le16(h + NET_H_GSO_SIZE))
		return false;
	return (type == NET_GSO_TCPV4 && offloads & NET_OFF_TSO4) ||
	       (type == NET_GSO_TCPV6 && offloads & NET_OFF_TSO6);
}

static int check_frame(struct net_backend *b, const struct iovec *iov, unsigned n, size_t *len)
{
	*len = 0;
	for (unsigned i = 0; i < n; i++) {
		if (iov[i].iov_len > NET_HDR + NET_FRAME_MAX - *len)
			return -EMSGSIZE;
		*len += iov[i].iov_len;
	}
	if (!n || n > NET_IOV_MAX || iov[0].iov_len < NET_HDR || *len < NET_HDR + ETHER_MIN)
		return -EINVAL;
	if (!header_ok(iov[0].iov_base, b->offers))
		return -EINVAL;
	return b->link_up ? 0 : -ENETDOWN;
}

int net_send(struct net_backend *b, const struct iovec *iov, unsigned n)
{
	size_t len;
	int rc = check_frame(b, iov, n, &len);

	if (!rc)
		rc = b->ops->send(b, iov, n, len);
	if (rc) {
		b->stats.tx_drops++;
		return rc;
	}
	b->stats.tx_packets++;
	b->stats.tx_bytes += len - NET_HDR;
	return 0;
}

bool net_deliver(struct net_backend *b, const uint8_t *frame, size_t len)
{
	if (!b->front.receive || !b->link_up) {
		b->stats.rx_drops++;
		return true;
	}
	if (!b->front.receive(b->front.ctx, frame, len))
		return false;
	b->stats.rx_packets++;
	b->stats.rx_bytes += len - NET_HDR;
	return true;
}

void net_flush(struct net_backend *b)
{
	if (b->ops->flush)
		b->ops->flush(b);
}

void net_accept(struct net_backend *b, unsigned offloads)
{
	offloads &= b->can_accept;
	/* Segments come with their checksum open: one is nothing without the other. */
	b->accepted = offloads & NET_OFF_CSUM ? offloads : 0;
	if (b->ops->accept)
		b->ops->accept(b);
}

void net_link_set(struct net_backend *b, bool up)
{
	if (b->link_up == up)
		return;
	b->link_up = up;
	if (b->front.link)
		b->front.link(b->front.ctx, up);
	net_flush(b);
}

int net_fd(struct net_backend *b)
{
	return b->ops->fd ? b->ops->fd(b) : -1;
}

void net_describe(struct net_backend *b, json_t *into)
{
	json_object_set_new(into, "backend", json_string(b->ops->name));
	json_object_set_new(into, "link", json_string(b->link_up ? "up" : "down"));
	if (b->ops->describe)
		b->ops->describe(b, into);
}

void net_close(struct net_backend *b)
{
	if (!b)
		return;
	net_attach(b, NULL);
	b->ops->close(b);
}

/* The Internet checksum, RFC 1071. */
static uint16_t ones_sum(const uint8_t *p, size_t len)
{
	uint64_t sum = 0;

	for (; len >= 4; p += 4, len -= 4)
		sum += get_be32(p);
	if (len >= 2) {
		sum += get_be16(p);
		p += 2;
		len -= 2;
	}
	if (len)
		sum += (uint64_t)*p << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

int net_finish_csum(uint8_t *frame, size_t len)
{
	size_t start, at;
	uint16_t sum;

	if (!(frame[NET_H_FLAGS] & NET_NEEDS_CSUM))
		return 0;
	start = NET_HDR + get_le16(frame + NET_H_CSUM_START);
	at = start + get_le16(frame + NET_H_CSUM_OFFSET);
	if (at + 2 > len)
		return -EINVAL;
	/* The field holds the sum of the pseudo header, so that it counts with the rest. */
	sum = (uint16_t)~ones_sum(frame + start, len - start);
	put_be16(frame + at, sum ?: 0xffff);
	frame[NET_H_FLAGS] &= (uint8_t)~NET_NEEDS_CSUM;
	return 0;
}
