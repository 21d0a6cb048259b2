/*
 * console.h: the guest's console between the device and people.
 *
 *   UART --console_poke(), take--> history ring <--console_output()-- SBI console (vCPU threads)
 *                                  | --async--> log file, attached connections
 *   attached connection (event loop)  --console_input()---> sink of the device
 *
 * The guest never waits for a reader: what is written goes into a ring of CONSOLE_HISTORY bytes. A reader that falls behind
 * further than the ring loses the oldest bytes and is told how many. A new reader first gets the history.
 *
 * Threads: console_output() from any thread; everything else in the event loop's.
 */
#ifndef LODGE_VM_CONSOLE_H
#define LODGE_VM_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>

#define CONSOLE_HISTORY (256u << 10)

struct err;
struct console;
struct rpc_conn;
struct uv_loop_s;

/* `log_fd` (owned from now on; -1: none) gets every byte. */
int console_create(struct console **out, struct uv_loop_s *loop, int log_fd, struct err *e);
/* Detaches everybody after they got what was written; freed at the next turn of the loop. */
void console_close(struct console *c);

void console_output(struct console *c, const void *buf, size_t len);

/*
 * The device's end. Both move what fits and return how much. Call console_poke() (any thread) when there is something to take,
 * or room again; input that found no room is kept, bounded, and offered again then.
 */
struct console_device {
	size_t (*take)(void *ctx, void *buf, size_t len);
	size_t (*give)(void *ctx, const void *buf, size_t len);
	void *ctx;
};
void console_set_device(struct console *c, const struct console_device *d);
void console_poke(struct console *c);
void console_input(struct console *c, const void *buf, size_t len);

/* Takes the connection over (rpc_conn_raw): output to it, its bytes to the device. */
int console_attach(struct console *c, struct rpc_conn *conn, bool history, struct err *e);

/*
 * The console goes on in another process (live update). What the reader of a connection has got is a position; what the ring holds,
 * what was typed and had no room, and the log's descriptor make up the rest. console_take_over() is for a console that has just been created.
 */
struct console_state {
	unsigned long long head; /* bytes written ever */
	const unsigned char *ring; /* the last ring_len of them */
	size_t ring_len;
	const unsigned char *input;
	size_t input_len;
};
/* *ring: malloc'ed, the callee's own until the caller frees it. Input is borrowed. -ENOMEM. */
int console_hand_over(struct console *c, struct console_state *st, unsigned char **ring);
/* -EINVAL: impossible lengths. */
int console_take_over(struct console *c, const struct console_state *st, struct err *e);
/* Where the reader of this connection is; false: it is none. */
bool console_reader(struct console *c, const struct rpc_conn *conn, unsigned long long *pos);
int console_attach_at(
	struct console *c, struct rpc_conn *conn, unsigned long long pos, struct err *e);
int console_log_fd(const struct console *c);

/* Total bytes that the guest wrote. Any thread. */
unsigned long long console_written(struct console *c);

#endif
