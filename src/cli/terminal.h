/*
 * terminal.h: the guest's console on this terminal.
 *
 * Bytes go both ways unchanged but for one escape, Ctrl-A:
 *	Ctrl-A x  leaves        Ctrl-A h  helps        Ctrl-A Ctrl-A  sends one Ctrl-A
 *
 * The terminal is put into raw mode and back again on every way out, signals included. Standard input need not be a terminal: at
 * its end only input ends, and the console goes on until the machine does.
 */
#ifndef LODGE_CLI_TERMINAL_H
#define LODGE_CLI_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

struct client;
struct err;

/* The escape, byte by byte. */
struct escape {
	bool pending; /* Ctrl-A was the last byte */
};
enum escape_action { ESCAPE_NONE, ESCAPE_LEAVE, ESCAPE_HELP };
/* Filters in[0..n) into out (at least n + 1 bytes); *out_len bytes of it go to the guest. Stops at the first action; *used bytes were read. */
enum escape_action escape_filter(
	struct escape *s, const char *in, size_t n, char *out, size_t *out_len, size_t *used);

enum terminal_end { TERMINAL_GONE, TERMINAL_LEFT, TERMINAL_SIGNAL };
/* The client's connection is raw (method console). Returns why it ended. `leave` is what help says that Ctrl-A x does. */
enum terminal_end terminal_run(struct client *c, const char *leave);

#endif
