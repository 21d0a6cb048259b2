/*
 * progress.h: how far something is: one line on standard error, which is drawn over itself and leaves nothing behind.
 *
 *	fetching                 [######                        ] 12.0 MiB / 58.1 MiB  4.1 MiB/s
 *
 * Only a terminal gets it. Nothing is allocated; one thread. Whoever prints anything else clears the line first.
 */
#ifndef LODGE_CLI_PROGRESS_H
#define LODGE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	bool tty; /* standard error is one; the caller may take it away (--json, --quiet) */
	bool line; /* something stands there */
	uint64_t begun, shown; /* ns */
	uint64_t first; /* bytes that were there at the beginning: no part of the rate */
};

/* A piece of work begins, at so many bytes. */
void progress_begin(struct progress *p, uint64_t first);
/* Is it time to draw? Not in the first 0.3 s (what is quick needs no bar), then five times a second. */
bool progress_due(struct progress *p);
/* The bar, `part` of 1 full, with `doing` (may be NULL) before it and the text behind it. */
void progress_bar(struct progress *p, const char *doing, double part, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* The same with amounts and the rate since progress_begin(). `of` 0: not known. */
void progress_bytes(struct progress *p, const char *doing, uint64_t done, uint64_t of);
void progress_clear(struct progress *p);

#endif
