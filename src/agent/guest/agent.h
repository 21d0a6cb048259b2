/*
 * agent.h: what the files of lodge-agent share.
 *
 *   main.c: listens on vsock, one process a connection --> the request's handler --> ends with the connection
 *
 * A child that goes wrong takes nobody with it, and a connection that ends takes what it started (a command gets SIGHUP, frozen
 * file systems are thawed). The agent is static and starts nothing by itself. It runs as root: who may connect is decided on the
 * host, by the mode of the machine's socket.
 */
#ifndef LODGE_AGENT_GUEST_AGENT_H
#define LODGE_AGENT_GUEST_AGENT_H

#include "agent/proto.h"

/* One connection; big, so there is one, in main.c. */
struct peer {
	int fd;
	struct agent_in in;
	struct agent_out out;
};

/* All of these end the process when the peer is gone: there is nothing else to do. */
void peer_send(struct peer *p);
/* The next frame; blocks. */
void peer_next(struct peer *p);
void peer_ok(struct peer *p, uint64_t value);
/* ERROR with `err` (positive errno) and "what: path". */
void peer_error(struct peer *p, int err, const char *what, const char *path);
_Noreturn void peer_bad(struct peer *p, const char *what);
/* The request had more, or less, than it should. */
void peer_check(struct peer *p);

void serve_exec(struct peer *p);
void serve_put(struct peer *p);
void serve_get(struct peer *p);
void serve_list(struct peer *p);
void serve_mkdir(struct peer *p);
void serve_symlink(struct peer *p);
void serve_stat(struct peer *p);
void serve_time(struct peer *p);
void serve_identity(struct peer *p);
void serve_freeze(struct peer *p);
void serve_power(struct peer *p);
void serve_info(struct peer *p);
void serve_hold(struct peer *p);
void serve_release(struct peer *p);
void serve_address(struct peer *p);

#endif
