/*
 * copy.h: a container into another one of the same contents, or of less: packed (to carry) or with a page store (to be mapped); whole, or
 * with only those pages that differ from another snapshot's.
 */
#ifndef LODGE_CLI_SNAPSHOT_COPY_H
#define LODGE_CLI_SNAPSHOT_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct snapchain;

struct snapcopy_opts {
	struct snapchain *from;
	struct snapchain *base; /* NULL: whole; else its first is the parent of what is made */
	int fd; /* empty; borrowed */
	bool packed;
	bool (*progress)(void *ctx, uint64_t done, uint64_t of); /* NULL; false: -ECANCELED */
	void *ctx;
};

/* The id stays. -EINVAL: base is of a machine with other memory. */
int snapcopy(const struct snapcopy_opts *o, struct err *e);

#endif
