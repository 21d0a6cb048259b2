/*
 * capture.h: frames as a pcapng file (draft-ietf-opsawg-pcapng), which tshark and Wireshark read: one interface a port.
 */
#ifndef LODGE_NET_SWITCH_CAPTURE_H
#define LODGE_NET_SWITCH_CAPTURE_H

#include <stddef.h>
#include <stdint.h>

struct err;

struct capture {
	int fd; /* -1: off */
	uint64_t frames, failed;
};

/* Takes fd over, also on failure. */
int capture_start(struct capture *c, int fd, struct err *e);
void capture_stop(struct capture *c);
/* Interfaces are numbered in the order of these calls, from 0. */
void capture_interface(struct capture *c, const char *name);
/* A frame without virtio header, that came in on the interface. wall_ns since 1970. */
void capture_frame(
	struct capture *c, unsigned interface, uint64_t wall_ns, const void *frame, size_t len);

#endif
