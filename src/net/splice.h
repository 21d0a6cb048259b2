/*
 * splice.h: two back ends joined: what one receives, the other sends. For user networking whose machine has gone to another process (live
 * update): its connections stay where they are, and reach the machine through a cable (wire.h).
 *
 *   libslirp of the old lodge-vm -- user.c --splice-- wire.c ==SOCK_SEQPACKET== wire.c -- virtio-net of the new one
 *
 * Frames that the other side does not take are lost, as on a wire. Ends, with both closed, when the link of `cable` goes down. It keeps the loop
 * alive. Threads: the loop's.
 */
#ifndef LODGE_NET_SPLICE_H
#define LODGE_NET_SPLICE_H

struct err;
struct net_backend;
struct uv_loop_s;

/* Both are the splice's on success. */
int net_splice(struct net_backend *inner, struct net_backend *cable, struct uv_loop_s *loop,
	struct err *e);

#endif
