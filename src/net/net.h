/*
 * net.h: packet back ends: what a network card of a guest is plugged into.
 *
 *   guest --virtio-net--> net_send() --> user (NAT through libslirp) | tap (an interface of the host)
 *   guest <--virtio-net-- front.receive() <-- the back end, from the event loop
 *
 * Frames. A frame is an Ethernet frame without its check sequence, and before it, always, a struct net_hdr of NET_HDR bytes: the
 * header of virtio 1.2, section 5.1.6 (little-endian, num_buffers 0). It says what is left to do: a checksum to fill in, segments to cut.
 * A frame may only ask what the other side said that it can: `offers` of the back end for net_send(), net_accept() for receive().
 * With nothing accepted the header is zero. A frame that does not keep to this is dropped and counted.
 *
 * Back-pressure. receive() answers false when there is no room now; the back end then keeps the frame (and, as long as its
 * bounded queue has room, those after it) and offers it again after net_flush(). What does not fit any more is dropped and counted:
 * the network is allowed to lose.
 *
 * Nesting. A back end never calls its front from inside net_send(), net_flush(), net_accept() or net_attach(): a front may hold its own lock there.
 *
 * Ownership: whoever opened a back end closes it with net_close(), after the front is detached. Its event-loop handles
 * do not keep the loop alive. Threads: everything in the event loop's thread. Files are opened by the open functions and nowhere else, so that a
 * back end works inside the sandbox, but for /etc/resolv.conf, which libslirp reads again when it changes.
 */
#ifndef LODGE_NET_NET_H
#define LODGE_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct err;
struct json_t;
struct uv_loop_s;

#define NET_FRAME_MAX 65550u /* Ethernet header and an IP packet of 65535 bytes, rounded up */
#define NET_HDR 12u
#define NET_IOV_MAX 1100u /* pieces of one frame */

/* Fields of the header, by offset. */
enum { NET_H_FLAGS = 0, NET_H_GSO_TYPE = 1, NET_H_HDR_LEN = 2, NET_H_GSO_SIZE = 4 };
enum { NET_H_CSUM_START = 6, NET_H_CSUM_OFFSET = 8, NET_H_BUFFERS = 10 };
enum { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_ECN = 0x80 };

/* What a side can take over. */
enum net_offload {
	NET_OFF_CSUM = 1 << 0, /* NET_NEEDS_CSUM, and (towards the guest) NET_DATA_VALID */
	NET_OFF_TSO4 = 1 << 1,
	NET_OFF_TSO6 = 1 << 2,
	NET_OFF_ECN = 1 << 3, /* NET_GSO_ECN together with the two above */
};

struct net_stats {
	/* tx: from the guest */
	uint64_t tx_packets, tx_bytes, tx_drops;
	uint64_t rx_packets, rx_bytes, rx_drops;
};

struct net_front {
	/* One frame towards the guest: header and Ethernet frame in one piece. false: no room now. Dropping it is the front's to count. */
	bool (*receive)(void *ctx, const uint8_t *frame, size_t len);
	/* The link went up or down. May be NULL. */
	void (*link)(void *ctx, bool up);
	void *ctx;
};

struct net_backend;

struct net_backend_ops {
	const char *name; /* "user" */
	/* 0, or a negative errno: the frame is dropped (counted by net_send()). */
	int (*send)(struct net_backend *b, const struct iovec *iov, unsigned n, size_t len);
	void (*flush)(struct net_backend *b);
	void (*accept)(struct net_backend *b); /* b->accepted changed; may be NULL */
	void (*describe)(struct net_backend *b, struct json_t *into);
	void (*close)(struct net_backend *b);
	int (*fd)(struct net_backend *b); /* net_fd(); NULL: none */
};

/* Embedded first in each back end. */
struct net_backend {
	const struct net_backend_ops *ops;
	struct net_front front; /* receive NULL: detached */
	unsigned offers; /* enum net_offload that net_send() may ask for */
	unsigned can_accept; /* ... and that receive() could ask for */
	unsigned accepted; /* of those, what it may ask for (net_accept()) */
	bool link_up;
	struct net_stats stats;
};

/* NULL detaches. Frames that come while nobody is attached are dropped. */
void net_attach(struct net_backend *b, const struct net_front *front);
/* From the guest; iov begins with the header. -EMSGSIZE, -EINVAL, -ENETDOWN, or the back end's: dropped and counted. */
int net_send(struct net_backend *b, const struct iovec *iov, unsigned n);
/* There is room again. */
void net_flush(struct net_backend *b);
/* What receive() may ask of the front from now on. */
void net_accept(struct net_backend *b, unsigned offloads);
/* As if the cable were pulled: nothing passes while it is down. */
void net_link_set(struct net_backend *b, bool up);
/* {"backend": name, ...} into the object. */
void net_describe(struct net_backend *b, struct json_t *into);
void net_close(struct net_backend *b);
/*
 * What another process needs to go on with the back end (live update): the `fd` of its options there. Two processes have it for a moment, of which
 * one may turn its loop. -1: there is none; it is opened anew (a cable that is out), or cannot move (user: see splice.h).
 */
int net_fd(struct net_backend *b);

/*
 * For back ends: hands one frame to the front and counts. false: no room, keep it. Frames without a front, or
 * with the link down, are dropped and count as taken.
 */
bool net_deliver(struct net_backend *b, const uint8_t *frame, size_t len);

/*
 * Fills in the checksum that the header asks for, in the flat frame (header first), and clears the request. -EINVAL: it
 * would lie outside the frame.
 */
int net_finish_csum(uint8_t *frame, size_t len);

/* ---- user networking: NAT without privileges ---- */

/* Host port to guest port. IPv4 text; an empty guest is the guest's first address, an empty host all addresses. */
struct net_fwd {
	bool udp;
	const char *host;
	uint16_t host_port;
	const char *guest;
	uint16_t guest_port;
};

/*
 * A network 10.0.2.0/24 of the guest's own: gateway .2, name server .3, and DHCP that gives .15. TCP, UDP and echo requests go out as the
 * connections of this process. IPv4 only.
 *
 * The host's loopback is not in reach of the guest (libslirp would map it to the gateway address): services that
 * listen on 127.0.0.1 trust whoever can connect. Host descriptors are bounded by NET_USER_FDS.
 */
struct net_user_opts {
	const char *id; /* for messages */
	struct uv_loop_s *loop;
	const struct net_fwd *fwds;
	unsigned nfwds;
	bool host_loopback; /* let the guest reach the host's 127.0.0.1 as 10.0.2.2 */
};
#define NET_USER_FDS 448u
int net_user_open(struct net_backend **out, const struct net_user_opts *o, struct err *e);

/* ---- tap: an interface of the host that exists already ---- */

struct net_tap_opts {
	const char *id;
	struct uv_loop_s *loop;
	const char
		*name; /* of the interface; made by `ip tuntap add dev NAME mode tap user NAME` */
	int fd; /* from another process: net_fd(); 0: opens the interface. Owned on success */
	unsigned can_accept; /* with fd: net_backend.can_accept there */
};
int net_tap_open(struct net_backend **out, const struct net_tap_opts *o, struct err *e);

#endif
