/*
 * print.h: what verbs print on standard output. main() looks whether it could be written.
 */
#ifndef LODGE_CLI_UI_PRINT_H
#define LODGE_CLI_UI_PRINT_H

#include <jansson.h>
#include <stdint.h>

/* One value on one line. Who goes on after it flushes: somebody may wait for it. */
void print_json(const json_t *j);
/* The same, and takes it over. */
void print_json_drop(json_t *j);
/* For people: "key value" a line, what is inside indented; keys that are known to be bytes also as print_size(). */
void print_fields(const json_t *o);

/* "1.5 GiB" for people; size_text() is exact. Returns `text`. */
#define PRINT_SIZE 32
const char *print_size(char text[PRINT_SIZE], uint64_t bytes);
/* What makes "disk" the word for n of them: "" or "s". */
const char *print_s(uint64_t n);

#endif
