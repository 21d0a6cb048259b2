/*
 * text.h: what bare guests of either ISA have: a UART, a test finisher, a verdict. put_char() and finish() are the ISA's.
 */
#ifndef GUEST_TEXT_H
#define GUEST_TEXT_H

#include <stdint.h>

void put_char(char c);
void put_text(const char *s);
/* Where put_text() writes, too; NULL: nowhere else. */
extern void (*text_also)(const char *s);
void put_hex(uint64_t v);
void put_dec(uint64_t v);

/* Prints FAIL with the text and ends with a non-zero code. */
void fail(const char *what, uint64_t value) __attribute__((noreturn));
void finish(unsigned code) __attribute__((noreturn));

int main(uint64_t cpu); /* 0: SUCCESS */

#endif
