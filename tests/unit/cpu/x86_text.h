/*
 * x86_text.h: host code as text, by Capstone. Behind a header of its own, because Capstone's names meet those of x86.h.
 */
#ifndef LODGE_TESTS_UNIT_CPU_X86_TEXT_H
#define LODGE_TESTS_UNIT_CPU_X86_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* "add rax, rcx" of the first instruction; its length, 0 when it is none. */
size_t x86_text(const uint8_t *code, size_t n, char *text, size_t size);

#endif
