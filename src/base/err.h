/*
 * err.h: the one error object.
 *
 * A function that can fail returns 0 or a negative errno and, where the caller passed a `struct
 * err`, leaves in it one line that says what failed, on what, why, and where it helps what to do
 * next.
 *
 *	return err_set(e, -EINVAL, "disk %s: size %llu is not a multiple of 512", path, size);
 *
 * A caller that knows more puts it in front: `return err_wrap(e, "VM %s", name)`.
 *
 * `e` may be NULL everywhere: the caller then only wants the number. A struct err is owned by its
 * caller, holds no memory, and is not shared between threads.
 */
#ifndef LODGE_BASE_ERR_H
#define LODGE_BASE_ERR_H

#include <stdarg.h>

struct err {
	int code; /* negative errno of the first failure; 0 while nothing failed */
	char msg[512];
};

/* Sets the error and returns `code` (which must be negative). The message is one line: control characters in it become '?'. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_vset(struct err *e, int code, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));

/* As err_set(), and appends ": " and the text of errno `-code`. */
int err_sys(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<text>: " in front of the message that is there, unless it begins so already; returns the code that is there. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * What a file, a guest or a peer is called must not make a second line, nor speak to the terminal: control characters, and what is no UTF-8, become '?'. In
 * place; returns the text.
 */
char *text_one_line(char *text);

/* The message, or the errno's text where nobody wrote one. Never NULL. */
const char *err_msg(const struct err *e);

#endif
