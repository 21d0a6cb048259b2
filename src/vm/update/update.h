/*
 * update.h: live update: another lodge-vm, of another build, goes on with a machine whose guest runs.
 *
 *   lodge update ---binary---> keeper --fork, exec--> new lodge-vm (take.c) ==channel==> old lodge-vm (give.c)
 *        \------------- control method "update", with the channel's end --------------->/
 *
 * Both sides, the messages and what may fail: docs/update.md. In short: the new process builds the machine over the old one's memory file while the
 * guest runs on in the old one; then the old one stands still, hands over described state and descriptors, and the word in the shared
 * page (channel.h) says which of the two goes on. Whatever fails before it says GIVEN leaves the old one running.
 *
 * Threads: the event loop's of each process. The guest stands still for at most UPDATE_WINDOW_MS, if the new process hangs just then.
 */
#ifndef LODGE_VM_UPDATE_UPDATE_H
#define LODGE_VM_UPDATE_UPDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/fdlist.h"
#include "vm/config/config.h"

struct control;
struct json_t;
struct log;
struct net_backend;
struct rpc_conn;
struct uv_loop_s;
struct vm;

/*
 * UPDATE_PROTOCOL (meson.build) is the version of the messages. A build takes over from those that speak UPDATE_PROTOCOL_OLDEST and later, and never
 * from a newer one.
 */
#define UPDATE_WINDOW_MS 1000
#define UPDATE_BUILD_MS 60000

/* What a machine is built over that another process has: descriptors, 0: none. */
struct vm_handed {
	int ram, vsock;
	int net[VM_MAX_NETS];
	unsigned net_accepts[VM_MAX_NETS];
};

/* ---- the old process ---- */

struct update_giver;
struct update_parts {
	struct vm *vm;
	const struct vm_config *cfg;
	struct control *control;
	const char *name;
	struct uv_loop_s *loop;
	int lock_fd; /* of the name */
	/* The other process has the machine. `nat[i]`: the cable's end for network i, now the callee's; 0: none. Called from the loop. */
	void (*given)(void *ctx, const int nat[VM_MAX_NETS]);
	/* It came to nothing; the guest runs here. Frees the giver before the call. */
	void (*kept)(void *ctx);
	void *ctx;
};
/*
 * `sock` is taken over. The request of `conn` is answered when it is over: by the other process, or here with what was wrong. Refused at once:
 * -EBUSY (a snapshot is being written, the machine is ending), -EOPNOTSUPP (something cannot move: says what and what to do).
 */
int update_give(struct update_giver **out, const struct update_parts *p, int sock,
	struct rpc_conn *conn, struct err *e);
/* The machine ends here, or who asked has gone. Not from inside `given`. */
void update_give_cancel(struct update_giver *g);
/* After `given`, before vm_destroy(): what the other process has is not taken down. */
void update_forget(struct vm *vm, struct control *control);

/* ---- the new process ---- */

struct update_taker;
/* Says hello on `sock` (owned) and gets what the machine consists of. */
int update_take(struct update_taker **out, int sock, struct err *e);
/* Of the offer; borrowed. */
const struct json_t *update_definition(const struct update_taker *t);
const struct vm_handed *update_handed(const struct update_taker *t);
/* "lock", "console_log", "control": the descriptor, now the caller's; -1: there is none. */
int update_fd(struct update_taker *t, const char *what);
/* The machine is built, the sandbox entered: waits for the moment, and runs it. */
int update_go_on(struct update_taker *t, struct vm *vm, struct control *control, struct err *e);
/* Answers who asked, and tells who listens; frees `t`. */
void update_took(struct update_taker *t, struct vm *vm, struct control *control);
/* Tells the old process that it came to nothing here. */
void update_take_failed(struct update_taker *t, const struct err *e);
void update_taker_free(struct update_taker *t);

/* stage.c: does nothing. A test's program has its own, which fails at the stage that it was told. */
void update_stage(const char *stage);

#endif
