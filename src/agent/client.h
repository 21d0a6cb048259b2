/*
 * client.h: the host's end of a conversation with lodge-agent (proto.h), blocking with a deadline.
 *
 *   agent_open(machine's vsock.sock) --> "CONNECT 1024" --> HELLO --> one request after the other --> agent_close()
 *
 * What comes from a guest is hostile: each answer is checked for type, length and completeness; each step has a deadline; nothing is
 * allocated by a length that the guest names beyond one frame.
 *
 * Threads: a client belongs to one. Errors: -ECONNREFUSED nobody answers in the guest (no agent, or not up yet), -ETIMEDOUT,
 * -EPROTO what came makes no sense, else what the agent said, as a negative errno with its text.
 */
#ifndef LODGE_AGENT_CLIENT_H
#define LODGE_AGENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/proto.h"

struct err;

struct agent_client {
	int fd;
	unsigned timeout_ms; /* of one answer */
	uint32_t version, features;
	char build[64];
	struct agent_in in;
	struct agent_out out;
};

/* Big (two frames): allocated. Tries again until the timeout while the guest is still coming up, if `wait`. */
int agent_open(struct agent_client **out, const char *vsock_path, unsigned timeout_ms, bool wait,
	struct err *e);
void agent_close(struct agent_client *c); /* NULL is fine */
void agent_closep(struct agent_client **c); /* fit for cleanup() */

/* What follows agent_begin(&c->out, ...) is sent; -ENOTSUP when the agent lacks the feature (0: any has it). */
int agent_send(struct agent_client *c, uint32_t feature, struct err *e);
/* The next frame; an ERROR frame is returned as that error. timeout_ms 0: for ever. */
int agent_receive(struct agent_client *c, unsigned timeout_ms, struct err *e);
/*
 * For a stream that goes both ways, where waiting in agent_send() could be waiting for each other: begin with agent_finish(&c->out), then
 * push until it is all gone. 1: gone, 0: poll for POLLOUT and come back.
 */
int agent_push(struct agent_client *c, size_t *at, struct err *e);
/* Is another whole frame here already, which poll() would not tell? */
bool agent_pending(const struct agent_client *c);
/* The next frame must be of the type. */
int agent_expect(struct agent_client *c, enum agent_type t, struct err *e);
/* Sends, and waits for OK. `value` may be NULL. */
int agent_call(struct agent_client *c, uint32_t feature, uint64_t *value, struct err *e);
/* -EPROTO: the frame has more or less than it should. */
int agent_checked(struct agent_client *c, struct err *e);

/* The guest's clock becomes the host's, within 100 ms also where both are busy: it is set again while asking takes longer, 8 times at most. *off_ns: how far it was behind. */
int agent_set_time(struct agent_client *c, int64_t *off_ns, struct err *e);
/* A new identity, seeded by the host's random numbers; flags of enum agent_identity_flag; host_name "": unchanged. */
int agent_identity(struct agent_client *c, uint32_t flags, const char *host_name, struct err *e);
/* File systems stand still until agent_thaw(), the end of the connection, or `ms` later. */
int agent_freeze(struct agent_client *c, uint32_t ms, uint64_t *count, struct err *e);
int agent_thaw(struct agent_client *c, struct err *e);
/* All programs of the guest stand still but its agent, until agent_release() or `ms` later (AGENT_HOLD). */
int agent_hold(struct agent_client *c, uint32_t ms, struct err *e);
int agent_release(struct agent_client *c, struct err *e);
/* Interfaces with the hardware address mac[i][0] get mac[i][1]; IPv4 addresses by rule from the copy's `number` (guest/address.c). */
int agent_address(struct agent_client *c, uint32_t number, const uint8_t (*mac)[2][6], uint32_t n,
	struct err *e);
int agent_power(struct agent_client *c, enum agent_power what, struct err *e);

#endif
