/*
 * copy.h: a container into another one of the same contents: packed (to carry) or with a page store (to be mapped).
 */
#ifndef LODGE_CLI_SNAPSHOT_COPY_H
#define LODGE_CLI_SNAPSHOT_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct snapopen;

/* `fd` is empty, and borrowed. The id stays. */
int snapcopy(struct snapopen *from, int fd, bool packed,
	bool (*progress)(void *ctx, uint64_t done, uint64_t of), void *ctx, struct err *e);

#endif
