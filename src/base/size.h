/*
 * size.h: sizes as people write them: 512M, 2G, 64KiB, 4096B. Units are powers of 1024.
 *
 * A number without unit is refused (but 0), because "memory 512" never means what it says; the
 * message names what to write.
 */
#ifndef LODGE_BASE_SIZE_H
#define LODGE_BASE_SIZE_H

#include <stdint.h>

struct err;

/*
 * B, K, M, G, T in either case, each also as KiB or KB. 0 or -EINVAL; the message starts with the
 * text itself.
 */
int size_parse(const char *text, uint64_t *bytes, struct err *e);

#define SIZE_TEXT 24

/* The shortest exact writing that size_parse() reads back: 2G, 1536M, 3B. Returns `text`. */
const char *size_text(char text[SIZE_TEXT], uint64_t bytes);

/* A decimal (or 0x hexadecimal) number that is all of `text`; no sign, no blanks. 0 or -EINVAL. */
int uint_parse(const char *text, uint64_t *v, struct err *e);

#endif
