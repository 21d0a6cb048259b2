/*
 * switch.h: a small learning switch (mechanism M14): frames from any port go where their destination was last heard.
 *
 *   back end (wire from a VM, tap, user) --receive()--> port --> learn source, look up destination --> net_send() of other ports
 *                                                         \--> capture (pcapng)
 *
 * A port is any packet back end (net/net.h), so VMs, interfaces of the host, NAT and other switches are plugged in alike. Learning is by
 * VLAN (802.1Q tag as it comes, 0 without) and address; an address that was not heard for NET_SWITCH_AGE_NS is forgotten. What one port may
 * occupy of the table is bounded, so that a guest which makes addresses up floods itself, not the others.
 *
 * Checksums: ports that can take open checksums get frames as they are; for the others they are filled in. Segments (TSO) are not
 * offered to anybody. Frames longer than NET_FRAME_MAX do not exist (net.h).
 *
 * Trunks are ports that lead to other switches: uplinks, interfaces of the host. A RARP of an announcing machine (announce/neighbour.h) that comes in
 * there is acknowledged to it. Acknowledgements, and answers (ARP replies, neighbour advertisements) under a hardware address that was heard at another
 * port, are believed of trunks only: one guest cannot answer for another. A machine that has moved says something else first.
 *
 * Switches may be joined as a tree; there is nothing against loops.
 *
 * Ownership: a port's back end belongs to the switch from net_switch_add() on. Threads: the event loop's.
 */
#ifndef LODGE_NET_SWITCH_SWITCH_H
#define LODGE_NET_SWITCH_SWITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_t;
struct net_backend;
struct net_port;
struct net_switch;

#define NET_SWITCH_PORTS 256u
#define NET_SWITCH_ADDRESSES 4096u
#define NET_SWITCH_PORT_ADDRESSES 512u /* that one port may hold */
#define NET_SWITCH_AGE_NS 300000000000ull

struct net_switch_opts {
	uint64_t (*now)(void); /* nanoseconds, monotonic; NULL: the host's */
	/* A port's link went down, so it was removed: its user is gone. Its back end is closed after the call. May be NULL. */
	void (*gone)(void *ctx, const char *name);
	void *ctx;
};

int net_switch_create(struct net_switch **out, const struct net_switch_opts *o, struct err *e);
void net_switch_destroy(struct net_switch *s);

/* -ENOSPC; -EEXIST when there is a port of that name. On an error the back end stays the caller's. */
int net_switch_add(struct net_switch *s, const char *name, struct net_backend *b,
	struct net_port **out, struct err *e);
void net_switch_remove(struct net_port *p);
/* `stays`: also while its link is down. Others are removed then: who was plugged in plugs in again. */
void net_port_trunk(struct net_port *p, bool stays);

/* Every frame that comes in, into `fd` (taken over; a regular file or pipe) as pcapng; -1 ends it. Stops by itself when writing fails. */
int net_switch_capture(struct net_switch *s, int fd, struct err *e);

/* {"ports": [...], "addresses": [...], counters}. New reference. */
struct json_t *net_switch_describe(struct net_switch *s);

#endif
