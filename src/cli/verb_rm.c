#include <errno.h>
#include <time.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/place.h"
#include "cli/verb.h"
#include "vm/rundir.h"

#define ENDING_MS 30000

/* A machine that has just ended is held by its process for a moment longer, until the kernel has taken its memory back, and by its keeper, who clears up. */
static int find(struct place *p, const char *name, struct err *e)
{
	for (int i = 0;; i++) {
		int rc = place_find(p, name, e);

		if (rc != -EBUSY || i == ENDING_MS / 20 || rundir_alive(name))
			return rc;
		nanosleep(&(struct timespec){0, 20000000}, NULL);
	}
}

static int remove_one(const void *o, const char *name)
{
	cleanup(place_close) struct place p = {.lock = -1};
	struct err e = {0};
	int rc = rundir_check_name(name, &e);

	if (!rc && rundir_alive(name))
		rc = err_set(&e, -EBUSY, "machine %s is running: end it first: lodge stop %s", name,
			name);
	rc = rc ?: find(&p, name, &e) ?: place_remove(&p, &e);
	return rc ? fail(&e) : EXIT_DONE;
}

static int run(void *o, const struct args *a)
{
	return each_argument(a, o, remove_one);
}

const struct verb verbs_rm[] = {
	{VERB("rm", "NAME...", "remove the disk and the logs of machines that do not run"),
		.cmd.min_args = 1, .cmd.max_args = 64, .cmd.names = "names kept", .run = run},
	VERBS_END,
};
