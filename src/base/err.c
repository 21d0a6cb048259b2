#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

/* What a file, a guest or a peer is called must not make a second line, nor speak to the terminal. */
static void one_line(char *msg)
{
	for (unsigned char *c = (unsigned char *)msg; *c; c++)
		if (*c < ' ' || *c == 127)
			*c = '?';
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	one_line(e->msg);
	return code;
}

int err_sys(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;
	size_t len;

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	one_line(e->msg);
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
	one_line(e->msg);
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
