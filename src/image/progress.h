/*
 * progress.h: what a pull is doing, for whoever watches.
 */
#ifndef LODGE_IMAGE_PROGRESS_H
#define LODGE_IMAGE_PROGRESS_H

#include <stdint.h>

/*
 * Called from the thread that pulls, often (several times a second while bytes arrive). `stage` is one
 * of "index", "fetch", "unpack", "disk", "configure", "publish"; done and total are in the unit that
 * `bytes` names (bytes, or steps); total 0: unknown. Return non-zero to stop the pull: it then
 * fails with -ECANCELED and keeps what was fetched.
 */
struct image_progress {
	int (*report)(void *ctx, const char *stage, uint64_t done, uint64_t total, int bytes);
	void *ctx;
};

static inline int progress(const struct image_progress *pg, const char *stage, uint64_t done,
	uint64_t total, int bytes)
{
	return pg && pg->report ? pg->report(pg->ctx, stage, done, total, bytes) : 0;
}

#endif
