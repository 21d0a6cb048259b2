#include "disk/io.h"

#include <errno.h>

#include "base/err.h"

int io_create(struct io **out, enum io_kind kind, const struct io_opts *o, struct err *e)
{
	int rc;

	if (kind == IO_THREADS)
		return io_threads_ops.create(out, o, e);
	rc = io_uring_ops.create(out, o, e);
	if (!rc || kind == IO_URING)
		return rc;
	/* Containers, older kernels, no memory that may be locked: not an error, only slower. */
	if (e)
		*e = (struct err){0};
	return io_threads_ops.create(out, o, e);
}
