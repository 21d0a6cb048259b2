/* lodge receive: waits for a machine that comes from elsewhere. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/launch.h"
#include "cli/migrate/address.h"
#include "cli/migrate/tls.h"
#include "cli/place.h"
#include "cli/verb.h"
#include "vm/config/config.h"
#include "vm/rundir.h"

struct receive {
	char *config;
	struct tls_opts tls;
};

static const struct opt receive_opts[] = {
	{"config", .type = OPT_TEXT, OPT_AT(struct receive, config), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "a definition to which the machine must fit, with this host's files and "
			"networks; without it the machine's own, with the paths that it names"},
	OPT_DONE,
};
static const struct opt_group receive_groups[] = {
	{"Options", receive_opts, 0},
	{"Security", tls_opts, offsetof(struct receive, tls)},
	{0},
};

static int definition(const struct receive *o, const char *name, struct vm_config *c, struct err *e)
{
	int rc = rundir_check_name(name, e) ?: vm_config_init(c, e);

	if (!rc && o->config)
		rc = vm_config_load(c, o->config, e);
	if (rc)
		return rc;
	free(c->name);
	c->name = strdup(name);
	if (!c->name)
		return err_set(e, -ENOMEM, "out of memory");
	if (rundir_alive(name))
		return err_set(e, -EBUSY,
			"a machine named %s is running here already (pid %d): choose another name",
			name, rundir_pid(name));
	return 0;
}

/* A dry run of the source ends the machine that was built for it; the next one may be the real one. */
static int wait_for_it(const struct launch *l, struct launched *m, struct err *e)
{
	int rc;

	do
		rc = launch_machine(l, m, e);
	while (rc == -EAGAIN);
	return rc;
}

static int receive(const struct receive *o, const char *name, struct address *a, struct launched *m,
	struct err *e)
{
	cleanup(place_close) struct place p = {.lock = -1};
	cleanup(vm_config_free) struct vm_config c = {0};
	cleanup(close_fd) int fd = -1;
	struct launch_receive r = {.own_definition = o->config,
		.cert = o->tls.cert,
		.key = o->tls.key,
		.ca = o->tls.ca};
	struct launch l = {.cfg = &c, .place = &p, .receive = &r};
	int rc = definition(o, name, &c, e) ?: address_listen(a, &fd, e);

	rc = rc ?: place_open(&p, name, false, e);
	if (!rc) {
		printf("waiting for machine %s at %s\n", name, a->text);
		fflush(stdout);
		r.fd = fd;
		rc = wait_for_it(&l, m, e);
		if (rc)
			place_undo(&p);
	}
	if (fd >= 0 && a->sa.ss_family == AF_UNIX)
		unlink(((struct sockaddr_un *)&a->sa)->sun_path);
	return rc;
}

static int run_receive(void *opts, const struct args *a)
{
	const struct receive *o = opts;
	struct address at;
	struct launched m;
	struct err e = {0};
	int rc = tls_opts_check(&o->tls, &e) ?: address_parse(&at, a->v[1], &e)
			 ?: address_allowed(&at, o->tls.cert, o->tls.plain, &e);

	if (rc)
		return fail(&e);
	if (receive(o, a->v[0], &at, &m, &e))
		return fail(&e);
	launch_release(&m);
	printf("%s runs here\n", a->v[0]);
	return EXIT_DONE;
}

const struct verb verbs_receive[] = {
	{VERB("receive", "NAME ADDRESS", "wait for a machine that is migrated here"),
		.cmd.min_args = 2, .cmd.max_args = 2, .cmd.groups = receive_groups,
		.size = sizeof(struct receive), .run = run_receive,
		.cmd.text =
			"Listens at unix:PATH or tcp:HOST:PORT until `lodge migrate` brings a "
			"machine, which then is called NAME here and runs in the background. "
			"Whatever cannot be (a CPU extension, a file, a device that is missing "
			"here) is said to both sides before the machine is paused.\n\n"
			"Ctrl-C ends the waiting, and a migration that is on its way: the machine "
			"then goes on where it was.\n\n"
			"Who may connect decides what is opened here: a Unix socket is for its "
			"owner, TCP wants TLS with client certificates unless it is this host's "
			"own address."},
	VERBS_END,
};
