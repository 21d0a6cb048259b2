#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

/* How many bytes of UTF-8 one character has (RFC 3629, section 4); 0: it is none. */
static unsigned utf8_len(const unsigned char *c)
{
	static const struct {
		unsigned char first, last, low, high; /* of the first byte; of the second */
		unsigned len;
	} row[] = {{0x01, 0x7f, 0, 0xff, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2},
		{0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
		{0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
		{0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
		{0xf4, 0xf4, 0x80, 0x8f, 4}};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		if (c[0] < row[i].first || c[0] > row[i].last)
			continue;
		if (row[i].len > 1 && (c[1] < row[i].low || c[1] > row[i].high))
			return 0;
		for (unsigned k = 2; k < row[i].len; k++)
			if ((c[k] & 0xc0) != 0x80)
				return 0;
		return row[i].len;
	}
	return 0;
}

/* C0, DEL, C1 (some terminals take U+009B, or a byte of 0x9b, for an escape), and what is no UTF-8. */
char *text_one_line(char *text)
{
	unsigned n;

	for (unsigned char *c = (unsigned char *)text; *c; c += n) {
		n = utf8_len(c);
		if (n && *c >= ' ' && *c != 127 && (*c != 0xc2 || c[1] >= 0xa0))
			continue;
		n = MAX(n, 1u);
		memset(c, '?', n);
	}
	return text;
}

int err_vset(struct err *e, int code, const char *fmt, va_list ap)
{
	if (!e)
		return code;
	e->code = code;
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	text_one_line(e->msg);
	return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset(e, code, fmt, ap);
	va_end(ap);
	return code;
}

int err_sys(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;
	size_t len;

	if (!e)
		return code;
	va_start(ap, fmt);
	err_vset(e, code, fmt, ap);
	va_end(ap);
	len = strlen(e->msg);
	snprintf(e->msg + len, sizeof(e->msg) - len, ": %s",
		strerrordesc_np(-code) ?: "unknown error");
	return code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
	char tail[sizeof(e->msg)];
	va_list ap;
	size_t len;

	if (!e)
		return -EIO;
	memcpy(tail, e->msg, sizeof(tail));
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	text_one_line(e->msg);
	len = strlen(e->msg);
	if (len && !strncmp(tail, e->msg, len) && tail[len] == ':')
		memcpy(e->msg, tail, sizeof(tail));
	else
		snprintf(e->msg + len, sizeof(e->msg) - len, ": %s", tail);
	return e->code ? e->code : -EIO;
}

const char *err_msg(const struct err *e)
{
	if (e->msg[0])
		return e->msg;
	return strerrordesc_np(-e->code) ?: "unknown error";
}
