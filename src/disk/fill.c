#include "disk/fill.h"

#include <errno.h>

#include "base/err.h"
#include "base/util.h"

#define ASIDE (256 * MiB) /* between two looks at whether to go on */
#define WRITTEN (4 * MiB)

const char *const fill_names[FILL_VALUES] = {"off", "metadata", "falloc", "full"};

int fill_file(struct file *f, enum fill how, uint64_t off, uint64_t len, uint64_t before,
	uint64_t all, const struct disk_watch *w, struct err *e)
{
	uint64_t piece = how == FILL_ZEROES ? WRITTEN : ASIDE;
	int rc = 0;

	for (uint64_t at = 0, n; at < len && !rc; at += n) {
		n = MIN(len - at, piece);
		rc = how == FILL_ZEROES ? file_fill(f, off + at, n, e)
					: file_zero(f, off + at, n, false, e);
		if (!rc && w && w->progress && !w->progress(w->ctx, before + at + n, all))
			rc = err_set(e, -ECANCELED, "stopped");
	}
	return rc;
}
