#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/verb.h"
#include "vm/rundir.h"

struct stop {
	uint64_t timeout;
	bool force;
};

static const struct opt opts[] = {
	{"timeout", 't', .type = OPT_U64, OPT_AT(struct stop, timeout), .arg = "SECONDS",
		.dflt = "90", .max = 86400, .help = "how long the guest may take"},
	{"force", 'f', .type = OPT_FLAG, OPT_AT(struct stop, force),
		.help = "kill it when that time is over"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

static int stop_one(const void *o, const char *name)
{
	const struct stop *s = o;
	cleanup(client_close) struct client c = {.fd = -1};
	uint64_t began = clock_mono_ns(), limit = began + s->timeout * 1000000000ull;
	bool tty = isatty(STDERR_FILENO);
	struct err e = {0};
	int rc = client_open(&c, name, &e);

	if (!rc)
		rc = client_call(&c, "stop", NULL, NULL, &e);
	if (rc && !(s->force && c.fd >= 0))
		return fail(&e);
	while (!rc && rundir_alive(name) && clock_mono_ns() < limit) {
		nanosleep(&(struct timespec){0, 50000000}, NULL);
		if (tty)
			fprintf(stderr, "\rlodge: %s is shutting down, %llu s ", name,
				(unsigned long long)((clock_mono_ns() - began) / 1000000000ull));
	}
	if (tty)
		fputs("\r\033[K", stderr);
	if (!rundir_alive(name))
		return EXIT_DONE;
	if (!s->force) {
		err_set(&e, -ETIMEDOUT,
			"%s: its guest has not shut down within %llu s; look at lodge console %s, "
			"or end it: lodge kill %s",
			name, (unsigned long long)s->timeout, name, name);
		return fail(&e);
	}
	if (client_call(&c, "kill", NULL, NULL, &e))
		return fail(&e);
	return EXIT_DONE;
}

static int run(void *o, const struct args *a)
{
	return each_argument(a, o, stop_one);
}

const struct verb verbs_stop[] = {
	{VERB("stop", "NAME...", "press the power button and wait until the guest has shut down"),
		.cmd.min_args = 1, .cmd.max_args = 64, .cmd.groups = groups,
		.size = sizeof(struct stop), .cmd.names = "names machines", .run = run},
	VERBS_END,
};
