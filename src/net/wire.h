/*
 * wire.h: a cable between two processes of one host: a packet back end over a Unix socket (SOCK_SEQPACKET), one message a frame.
 *
 *   lodge-vm: net_wire_open(PATH) ---connect---> wire_listener (lodge switch): "LODGE1 <name of the port>", then frames both ways
 *
 * A frame is that of net.h, its 12-byte header in front, checksums may be open (NET_OFF_CSUM both ways; no segments). A message that is no
 * frame, or too long, ends the connection: the other end is not trusted.
 *
 * The side that connected goes on without the other: its link is down, and it connects again when the other is back (every second).
 */
#ifndef LODGE_NET_WIRE_H
#define LODGE_NET_WIRE_H

#include "net/net.h"

#define NET_WIRE_NAME 48u

struct net_wire_opts {
	const char *id; /* for messages */
	const char *name; /* of the port, as the switch shows it */
	const char *path; /* NULL: the cable is not put in again when it is out */
	struct uv_loop_s *loop;
	int fd; /* that is connected already: net_fd() of another process, or one of a SOCK_SEQPACKET pair; 0: connects. Owned on success */
};
/* -ENOENT, -ECONNREFUSED: there is no switch at the path. */
int net_wire_open(struct net_backend **out, const struct net_wire_opts *o, struct err *e);

/* The switch's side. `b` is the callee's; `name` is what the other end calls itself, checked for length and characters. */
struct net_wire_listener;
int net_wire_listen(struct net_wire_listener **out, const char *path, struct uv_loop_s *loop,
	void (*plugged)(void *ctx, const char *name, struct net_backend *b), void *ctx,
	struct err *e);
void net_wire_listener_close(struct net_wire_listener *l);

#endif
