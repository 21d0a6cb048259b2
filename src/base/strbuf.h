/*
 * strbuf.h: a text that grows.
 *
 *	cleanup(strbuf_free) struct strbuf sb = {0};
 *	strbuf_addf(&sb, "%u disks", n);
 *	...
 *	char *text = strbuf_steal(&sb);		// malloc'ed, or NULL when memory ran out
 *
 * All-zero is empty and ready. When memory runs out the buffer stays valid, `failed` is set and
 * later additions do nothing, so that one check at the end is enough. One thread at a time.
 */
#ifndef LODGE_BASE_STRBUF_H
#define LODGE_BASE_STRBUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct strbuf {
	char *s; /* NUL-terminated once anything was added; use strbuf_text() */
	size_t len, cap;
	bool failed;
};

void strbuf_add(struct strbuf *sb, const char *data, size_t n);
void strbuf_adds(struct strbuf *sb, const char *text);
void strbuf_addc(struct strbuf *sb, char c);
void strbuf_addf(struct strbuf *sb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strbuf_addv(struct strbuf *sb, const char *fmt, va_list ap);

/* The text so far; "" when there is none. Valid until the next call. */
const char *strbuf_text(const struct strbuf *sb);

/* Hands the text over (free() it) and leaves the buffer empty. NULL when memory ran out. */
char *strbuf_steal(struct strbuf *sb);

void strbuf_free(struct strbuf *sb);

#endif
