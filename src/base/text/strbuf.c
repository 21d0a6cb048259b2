#include "base/strbuf.h"

#include <stdio.h>
#include <string.h>

#include "base/util.h"

/* Room for n more bytes and the NUL. */
static bool room(struct strbuf *sb, size_t n)
{
	size_t cap;
	char *s;

	if (sb->failed)
		return false;
	if (sb->cap > n && sb->cap - n > sb->len)
		return true;
	if (n > SIZE_MAX / 4 || sb->len > SIZE_MAX / 4) {
		sb->failed = true;
		return false;
	}
	cap = MAX(sb->cap * 2, align_up(sb->len + n + 1, 64));
	s = realloc(sb->s, cap);
	if (!s) {
		sb->failed = true;
		return false;
	}
	sb->s = s;
	sb->cap = cap;
	return true;
}

void strbuf_add(struct strbuf *sb, const char *data, size_t n)
{
	if (!room(sb, n))
		return;
	if (n)
		memcpy(sb->s + sb->len, data, n);
	sb->len += n;
	sb->s[sb->len] = '\0';
}

void strbuf_adds(struct strbuf *sb, const char *text)
{
	strbuf_add(sb, text, strlen(text));
}

void strbuf_addc(struct strbuf *sb, char c)
{
	strbuf_add(sb, &c, 1);
}

void strbuf_addv(struct strbuf *sb, const char *fmt, va_list ap)
{
	va_list again;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0 || !room(sb, (size_t)n))
		return;
	vsnprintf(sb->s + sb->len, (size_t)n + 1, fmt, ap);
	sb->len += (size_t)n;
}

void strbuf_addf(struct strbuf *sb, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	strbuf_addv(sb, fmt, ap);
	va_end(ap);
}

const char *strbuf_text(const struct strbuf *sb)
{
	return sb->s ?: "";
}

char *strbuf_steal(struct strbuf *sb)
{
	char *s = NULL;

	strbuf_add(sb, "", 0); /* an empty text is a text too */
	if (!sb->failed)
		s = steal_ptr(sb->s);
	strbuf_free(sb);
	return s;
}

void strbuf_free(struct strbuf *sb)
{
	free(sb->s);
	*sb = (struct strbuf){0};
}
