/*
 * announce.h: a machine that has moved tells the network where it is now, and hears whether the network has understood.
 *
 *   virtio-net -- net_announcer_open(): snoops both ways; asks; matches answers -- wire.c or tap.c -- switches -- gateway, peers
 *
 * A back end in front of another one (net/net.h). While the guest talks it learns, within bounds, what the guest is: hardware addresses by VLAN, IPv4
 * addresses (senders of its ARP), IPv6 addresses (sources of its neighbour discovery, but not of duplicate address detection), and whom it talks to: the
 * gateway is the neighbour that most of its frames go to.
 *
 * announce_start() asks, for each address, one neighbour at a time from that address: ARP request, or neighbour solicitation. Every switch on the way
 * learns the new place from the question, and the answer, which comes back as unicast to it, proves that the way is open. An address without
 * an answer is asked for again, of the next neighbour, after 50 ms, then 100 ms, 150 ms ... 2 s; those that were answered are left alone. A hardware address with
 * no IP address, or none with a neighbour, is announced by RARP with a number in its padding, which other Lodge switches acknowledge (switch.h). An IP address
 * without a neighbour beside one that has some is not asked for: the network knows of both by the hardware address, so it is confirmed, or given up, with that one. After
 * ANNOUNCE_TRIES an address is given up, and reported; the guest is not affected.
 *
 * An answer counts only when it is to what was asked: from the neighbour asked, at the hardware address that it had, to the address asked from. Answers go
 * on to the guest, acknowledgements do not.
 *
 * Ownership: the announcer owns the back end behind it. Threads: the event loop's.
 */
#ifndef LODGE_NET_ANNOUNCE_ANNOUNCE_H
#define LODGE_NET_ANNOUNCE_ANNOUNCE_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct json_t;
struct net_backend;
struct uv_loop_s;

#define ANNOUNCE_TRIES 30u /* after 50 ms, 100 ms, 150 ms ... at most 2 s: 23 s in all */
#define ANNOUNCE_STEP_MS 50u
#define ANNOUNCE_LAST_MS 2000u
#define ANNOUNCE_ADDRESSES 64u
#define ANNOUNCE_PEERS 32u

struct announce_opts {
	const char *id; /* of the card, for events */
	struct uv_loop_s *loop;
	/*
	 * {"card", "state": "confirmed" | "unconfirmed", "mac", "vlan", "ip"?, "by"?, "tries", "ms"} for each address, then {"card", "state": "done",
	 * "confirmed": n, "unconfirmed": n, "frames": n, "ms"}. `params` is borrowed. May be NULL.
	 */
	void (*event)(void *ctx, const struct json_t *params);
	void *ctx;
	unsigned tries, step_ms; /* for tests; 0: those above */
};

/* `inner` is the announcer's on success. -ENOMEM. */
int net_announcer_open(struct net_backend **out, struct net_backend *inner,
	const struct announce_opts *o, struct err *e);

/*
 * What is known of the guest and its neighbours, for another host: {"addresses": [...], "peers": [...]}; "open": it is being asked for. NULL when `port` is no announcer.
 */
struct json_t *announce_addresses(struct net_backend *port);

/*
 * To be called when the guest runs here: `addresses` from announce_addresses() where it was before (NULL: what this port has seen), together with
 * what this port has seen. What an earlier call began is cancelled. -EINVAL: not such an object; -ENOTSUP: `port` is no announcer.
 */
int announce_start(struct net_backend *port, const struct json_t *addresses, struct err *e);
/*
 * Another process goes on with the same port (live update): the same knowledge, and what was asked for there is asked for here, at the loop's next turn.
 * Nothing else is: the guest has not moved.
 */
int announce_go_on(struct net_backend *port, const struct json_t *addresses, struct err *e);
/*
 * The guest stands still, to run elsewhere: not one more frame, whatever was begun or is begun. false: it goes on here after all, and what has no
 * answer is asked for again.
 */
void announce_hold(struct net_backend *port, bool held);
bool announce_running(const struct net_backend *port);

#endif
