/*
 * pages.h: memory for data on its way to and from devices.
 *
 * In large pages where the host has them (transparent ones, so none has to be set aside): what is one behind the other for us is so for the device as well. A
 * device that is given 1 MiB in 256 pieces may take twice as long as for one (docs/disk.md, "Scattered memory").
 */
#ifndef LODGE_BASE_PAGES_H
#define LODGE_BASE_PAGES_H

#include <stddef.h>

/* Zeroes, at a multiple of 2 MiB, which is also what it takes at least. NULL: out of memory. Any thread. */
void *pages_alloc(size_t len);
/* `len` as it was asked for. NULL is nothing. */
void pages_free(void *p, size_t len);

#endif
