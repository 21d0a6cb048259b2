/*
 * console.h: the guest's console between the device and people.
 *
 *   UART / SBI console (vCPU threads) --console_output()--> history ring --async--> log file, attached connections
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

/* Where input goes: returns how many bytes the device took; the rest is kept (bounded) and offered again by console_input_ready(). */
void console_set_sink(
	struct console *c, size_t (*sink)(void *ctx, const void *buf, size_t len), void *ctx);
/* The device has room again. Any thread. */
void console_input_ready(struct console *c);
void console_input(struct console *c, const void *buf, size_t len);

/* Takes the connection over (rpc_conn_raw): output to it, its bytes to the device. */
int console_attach(struct console *c, struct rpc_conn *conn, bool history, struct err *e);

/* Total bytes that the guest wrote. Any thread. */
unsigned long long console_written(struct console *c);

#endif
