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

static int one_call(const char *name, const char *method)
{
	cleanup(client_close) struct client c;
	struct err e = {0};

	if (client_open(&c, name, &e) || client_call(&c, method, NULL, NULL, &e))
		return fail(&e);
	return EXIT_DONE;
}

static int run_pause(void *o, const struct args *a)
{
	return one_call(a->v[0], "pause");
}

static int run_resume(void *o, const struct args *a)
{
	return one_call(a->v[0], "resume");
}

static int run_reset(void *o, const struct args *a)
{
	return one_call(a->v[0], "reset");
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
	return rc ? (int)fail(&e) : EXIT_DONE;
}

static int run_kill(void *o, const struct args *a)
{
	int code = ask_kill(a->v[0]);

	/* It answers first; who kills one wants its name and its disks back. */
	for (unsigned i = 0; !code && i < KILL_WAIT_MS / 10 && rundir_alive(a->v[0]); i++)
		nanosleep(&(struct timespec){0, 10000000}, NULL);
	if (code || !rundir_alive(a->v[0]))
		return code;
	fprintf(stderr, "lodge: machine %s does not end; its process is %d\n", a->v[0],
		rundir_pid(a->v[0]));
	return EXIT_FAILED;
}

#define ONE_NAME .cmd.min_args = 1, .cmd.max_args = 1, .cmd.names = "names machines"

const struct verb verbs_control[] = {
	{VERB("pause", "NAME", "stop a machine's vCPUs and its clock"), ONE_NAME, .run = run_pause},
	{VERB("resume", "NAME", "let a paused machine run on"), ONE_NAME, .run = run_resume},
	{VERB("reset", "NAME", "reset a machine and boot it again"), ONE_NAME, .run = run_reset},
	{VERB("kill", "NAME", "end a machine at once; what its guest has not flushed is lost"),
		ONE_NAME, .run = run_kill},
	VERBS_END,
};
