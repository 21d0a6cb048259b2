/*
 * rpc.h: JSON-RPC 2.0, one object a line, on a Unix socket (docs/control.md).
 *
 * The transport only: which methods there are is said by the caller's tables (control/). Everything runs in the event loop
 * thread. A connection may turn into one of two other things for good:
 *
 *   subscribed: it also gets notifications (rpc_notify)
 *   raw:        after the reply, bytes flow both ways without framing (console)
 *
 * Limits: a line of at most RPC_LINE_MAX bytes, RPC_CONNS_MAX connections, RPC_QUEUE_MAX bytes waiting to be read by a
 * slow peer; beyond these the connection is closed. A peer cannot make the machine wait.
 *
 * Errors on the wire: -32700 not JSON, -32600 not a request, -32601 no such method (nearest named), -32602 parameters, and
 * -32000 with the message of `struct err` and {"errno": "ENOENT"} in data.
 */
#ifndef LODGE_VM_RPC_H
#define LODGE_VM_RPC_H

#include <stdbool.h>
#include <stddef.h>

#define RPC_LINE_MAX (1u << 20)
#define RPC_CONNS_MAX 64
#define RPC_QUEUE_MAX (4u << 20)

struct err;
struct json_t;
struct uv_loop_s;
struct rpc_server;
struct rpc_conn;

struct rpc_request {
	void *ctx; /* of the service */
	const struct rpc_method *method;
	struct rpc_conn *conn;
	const struct json_t *params; /* an object or NULL; borrowed */
};

struct rpc_method {
	const char *name;
	unsigned needs; /* what it wants, in the service's own bits: for admit */
	/* *result: new reference, or NULL for {}. RPC_LATER: rpc_conn_answer() follows. */
	int (*call)(const struct rpc_request *q, struct json_t **result, struct err *e);
	const char *help;
	const char *params; /* "{follow: bool}"; NULL: none */
};

struct rpc_service {
	const struct rpc_method *const *tables; /* ends with NULL; each ends with a NULL name */
	/* Before a method is called: 0, or why it cannot be. NULL: all can. */
	int (*admit)(const struct rpc_request *q, struct err *e);
	void *ctx;
};

/* The service is copied; its tables must outlive the server. The socket is made with mode 0600; -EADDRINUSE when a live server has it. */
int rpc_server_create(struct rpc_server **out, struct uv_loop_s *loop, const char *path,
	const struct rpc_service *service, struct err *e);
/* Removes the socket file; connections close when what is queued for them has gone out. Not from inside a method call. */
void rpc_server_close(struct rpc_server *s);

/* To each subscriber: {"jsonrpc":"2.0","method":event,"params":params}. Steals `params`. */
void rpc_notify(struct rpc_server *s, const char *event, struct json_t *params);
void rpc_conn_subscribe(struct rpc_conn *c);

#define RPC_LATER 1
/* The answer to the request that a method left for later; `result` is stolen, of rc 0 only. One at a time for each connection. */
void rpc_conn_answer(struct rpc_conn *c, int rc, struct json_t *result, struct err *e);

struct rpc_raw {
	void (*data)(void *ctx, struct rpc_conn *c, const char *buf, size_t len);
	void (*closed)(void *ctx, struct rpc_conn *c);
	/* Everything that was queued has gone out. May be NULL. */
	void (*drained)(void *ctx, struct rpc_conn *c);
	void *ctx;
};
/*
 * From inside a method call: the next descriptor that came with the request (SCM_RIGHTS), now the caller's; -1: there is no more. Those that
 * nobody takes are closed after the call. This is how files come into the sandbox.
 */
#define RPC_FDS_MAX 8
int rpc_conn_take_fd(struct rpc_conn *c);
/* `gone` is called once when the connection closes, whoever closes it. NULL: nobody waits any more. */
void rpc_conn_watch(struct rpc_conn *c, void (*gone)(void *ctx), void *ctx);
/* From inside a method call: the connection is raw once the reply is sent. */
void rpc_conn_raw(struct rpc_conn *c, const struct rpc_raw *raw);
/* Queues a copy of the bytes. */
void rpc_conn_write(struct rpc_conn *c, const void *buf, size_t len);
size_t rpc_conn_queued(const struct rpc_conn *c);
void rpc_conn_close(struct rpc_conn *c);
/* Closes when everything that was queued has gone out. */
void rpc_conn_finish(struct rpc_conn *c);

/*
 * A server goes on in another process (live update). The listening socket and the connections are handed over as descriptors: both processes
 * have them for a moment, and only one of them may turn its loop. Then the old one calls rpc_server_forget(): the path stays when it closes.
 */
int rpc_server_adopt(struct rpc_server **out, struct uv_loop_s *loop, int listening,
	const char *path, const struct rpc_service *service, struct err *e);
int rpc_server_fd(const struct rpc_server *s);
void rpc_server_forget(struct rpc_server *s);

/* What makes up a connection whose output has all gone out. */
struct rpc_conn_state {
	int fd;
	bool subscribed, raw;
	const char *line; /* what has come of a request so far */
	size_t line_len;
	struct json_t
		*later; /* id of a request whose answer is left for later; NULL: none. Borrowed */
};
/* Those that are open. Connections with output queued are not shown: a peer that reads slowly is lost. */
void rpc_server_each(struct rpc_server *s,
	void (*fn)(void *ctx, struct rpc_conn *c, const struct rpc_conn_state *st), void *ctx);
/* `raw` is not looked at: rpc_conn_raw() may follow. The descriptor is taken over, whatever comes of it. -ENOMEM, -EINVAL. */
int rpc_conn_adopt(struct rpc_server *s, const struct rpc_conn_state *st, struct rpc_conn **out);

#endif
