/* The verbs that are one call on the machine's control socket. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/verb.h"
#include "vm/rundir.h"

#define KILL_WAIT_MS 10000
#define PATIENCE_S 30u /* a busy host takes its time */

static int one_call(const void *method, const char *name)
{
	cleanup(client_close) struct client c = {.fd = -1};
	struct err e = {0};

	if (client_open(&c, name, &e) || client_call(&c, method, NULL, NULL, &e))
		return fail(&e);
	return EXIT_DONE;
}

static int run_pause(void *o, const struct args *a)
{
	return each_argument(a, "pause", one_call);
}

static int run_resume(void *o, const struct args *a)
{
	return each_argument(a, "resume", one_call);
}

static int run_reset(void *o, const struct args *a)
{
	return each_argument(a, "reset", one_call);
}

/* One that waits for its host does not answer; what it has not flushed is lost either way. */
static int ask_kill(const char *name)
{
	cleanup(client_close) struct client c = {.fd = -1};
	struct err e = {0};
	int rc = client_open(&c, name, &e), pid;

	if (!rc) {
		client_patience(&c, PATIENCE_S);
		rc = client_call(&c, "kill", NULL, NULL, &e);
	}
	pid = rundir_pid(name);
	if (rc == -ETIMEDOUT && pid > 0 && !kill(pid, SIGKILL)) {
		fprintf(stderr, "lodge: machine %s did not answer: its process was killed\n", name);
		return EXIT_DONE;
	}
	return rc ? fail(&e) : EXIT_DONE;
}

static int kill_one(const void *o, const char *name)
{
	int code = ask_kill(name);

	/* It answers first; who kills one wants its name and its disks back. */
	for (unsigned i = 0; !code && i < KILL_WAIT_MS / 10 && rundir_alive(name); i++)
		nanosleep(&(struct timespec){0, 10000000}, NULL);
	if (code || !rundir_alive(name))
		return code;
	fprintf(stderr, "lodge: machine %s does not end; its process is %d\n", name,
		rundir_pid(name));
	return EXIT_FAILED;
}

static int run_kill(void *o, const struct args *a)
{
	return each_argument(a, NULL, kill_one);
}

#define NAMES .cmd.min_args = 1, .cmd.max_args = 64, .cmd.names = "names machines"

const struct verb verbs_control[] = {
	{VERB("pause", "NAME...", "stop the vCPUs and the clock of machines"), NAMES,
		.run = run_pause},
	{VERB("resume", "NAME...", "let paused machines run on"), NAMES, .run = run_resume},
	{VERB("reset", "NAME...", "reset machines and boot them again"), NAMES, .run = run_reset},
	{VERB("kill", "NAME...",
		 "end machines at once; what their guests have not flushed is lost"),
		NAMES, .run = run_kill},
	VERBS_END,
};
