/*
 * fake_net.h: a back end that keeps what it was sent, and says what the test tells it to.
 */
#ifndef LODGE_TESTS_FAKE_NET_H
#define LODGE_TESTS_FAKE_NET_H

#include <string.h>

#include "base/util.h"
#include "net/net.h"

struct fake_net {
	struct net_backend b;
	int answer; /* of send */
	unsigned sent, flushed, closed;
	size_t last_len;
	uint8_t last[NET_HDR + NET_FRAME_MAX];
};

static inline int fake_send(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len)
{
	struct fake_net *f = container_of(b, struct fake_net, b);

	if (f->answer)
		return f->answer;
	f->sent++;
	f->last_len = 0;
	for (unsigned i = 0; i < n; i++) {
		memcpy(f->last + f->last_len, iov[i].iov_base, iov[i].iov_len);
		f->last_len += iov[i].iov_len;
	}
	return 0;
}

static inline void fake_flush(struct net_backend *b)
{
	container_of(b, struct fake_net, b)->flushed++;
}

static inline void fake_close(struct net_backend *b)
{
	container_of(b, struct fake_net, b)->closed++;
}

static const struct net_backend_ops fake_ops = {
	.name = "fake", .send = fake_send, .flush = fake_flush, .close = fake_close};

static inline void fake_init(struct fake_net *f, unsigned offers, unsigned can_accept)
{
	memset(f, 0, sizeof(*f));
	f->b.ops = &fake_ops;
	f->b.link_up = true;
	f->b.offers = offers;
	f->b.can_accept = can_accept;
}

#endif
