/*
 * hex.h: bytes as lower-case hexadecimal text and back.
 */
#ifndef LODGE_BASE_HEX_H
#define LODGE_BASE_HEX_H

#include <stddef.h>

/* Writes 2 * n digits and a NUL to `text`. */
void hex_put(char *text, const void *data, size_t n);

/*
 * Reads exactly n bytes from the 2 * n digits (either case) of `text`, which must end there. 0, or
 * -EINVAL with `data` undefined.
 */
int hex_get(void *data, size_t n, const char *text);

#endif
