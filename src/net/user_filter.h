/*
 * user_filter.h: which frames of the guest libslirp gets to see (user.c).
 */
#ifndef LODGE_NET_USER_FILTER_H
#define LODGE_NET_USER_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum user_verdict {
	USER_PASS,
	USER_LOOPBACK, /* would become a connection to the host's own loopback */
	USER_OPENS, /* passes, but may make a new descriptor on the host */
};

struct user_filter {
	bool host_loopback;
	/* Is there a forwarding of UDP to this guest port? Its answers go to the gateway's address. */
	bool (*udp_forwarded)(void *ctx, uint16_t guest_port);
	void *ctx;
};

/* `p` is the Ethernet frame. Anything that is not IPv4 passes: libslirp answers ARP and drops the rest. */
enum user_verdict user_filter(const struct user_filter *f, const uint8_t *p, size_t len);

#endif
