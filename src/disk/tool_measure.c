/* tool_measure.c: what a disk takes, before it is made. */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/tool.h"

int disk_measure(const char *format, const struct disk_create_opts *o, struct disk *from,
	struct disk_amount *out, struct err *e)
{
	const struct disk_format *f = disk_format_by_name(format);
	int rc = disk_may_create(f, o, e);

	*out = (struct disk_amount){0};
	if (rc)
		return rc;
	if (!f->measure)
		return err_set(e, -EOPNOTSUPP, "the format %s does not say what it takes", f->name);
	if (from && from->size > o->size)
		return err_set(e, -EINVAL, "disk %s has %llu bytes, and %llu are less",
			from->o.path, (unsigned long long)from->size, (unsigned long long)o->size);
	return f->measure(o, from, out, e);
}

int disk_count_data(struct disk *from, const uint64_t *unit, uint64_t *count, unsigned n,
	const struct disk_watch *w, struct err *e)
{
	uint64_t next[DISK_UNITS] = {0}; /* the first that was not counted */
	struct disk_extent x;

	memset(count, 0, n * sizeof(*count));
	for (uint64_t at = 0; from && at < from->size; at += x.len) {
		int rc = disk_block_status(from, at, from->size - at, &x, e);

		if (rc)
			return rc;
		if (w && w->progress && !w->progress(w->ctx, at, from->size))
			return err_set(e, -ECANCELED, "stopped");
		for (unsigned i = 0; i < n && (x.flags & DISK_EXT_DATA); i++) {
			uint64_t first = MAX(at / unit[i], next[i]);

			next[i] = (at + x.len - 1) / unit[i] + 1;
			count[i] += next[i] - MIN(first, next[i]);
		}
	}
	return 0;
}
