/* lodge receive: waits for a machine that comes from elsewhere. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <limits.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "base/json.h"
#include "cli/client.h"
#include "cli/launch/launch.h"
#include "cli/migrate/address.h"
#include "cli/migrate/tls.h"
#include "cli/place.h"
#include "cli/ui/signals.h"
#include "cli/verb.h"
#include "vm/config/config.h"
#include "vm/rundir.h"

struct receive {
	char *config;
	bool recover;
	struct vm_place *places;
	unsigned nplaces;
	bool overwrite;
	struct tls_opts tls;
};

static const struct opt receive_opts[] = {
	{"config", .type = OPT_TEXT, OPT_AT(struct receive, config), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "a definition to which the machine must fit, with this host's files and "
			"networks; without it the machine's own, with the paths that it names"},
	{"recover", .type = OPT_FLAG, OPT_AT(struct receive, recover),
		.help = "NAME runs here and waits for pages of a --post-copy whose connection "
			"broke: take the new connection at ADDRESS"},
	{"disk", .type = OPT_LIST, OPT_LIST_AT(struct receive, places, nplaces),
		.arg = "ID=FILE:FORMAT", .max = VM_MAX_DISKS, .sub = vm_place_opts,
		.parse = vm_place_parse,
		.help = "this disk of the machine lies here, or is made here when it comes along "
			"(disk0=/srv/web.qcow2:qcow2); may be given several times"},
	{"overwrite", .type = OPT_FLAG, OPT_AT(struct receive, overwrite),
		.help = "disks that come along may take the place of files that are there, where "
			"--disk or --config names them; such a file is lost only when the machine "
			"runs here (a block device: at once)"},
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
	while (rc && m->again);
	return rc;
}

static void remove_socket(const struct address *a)
{
	if (a->sa.ss_family == AF_UNIX)
		unlink(((const struct sockaddr_un *)&a->sa)->sun_path);
}

static int receive(const struct receive *o, const char *name, struct address *a, struct launched *m,
	struct err *e)
{
	cleanup(place_close) struct place p = {.lock = -1};
	cleanup(vm_config_free) struct vm_config c = {0};
	cleanup(close_fd) int fd = -1, signals = -1;
	struct launch_receive r = {.own_definition = o->config,
		.cert = o->tls.cert,
		.key = o->tls.key,
		.ca = o->tls.ca,
		.places = o->places,
		.nplaces = o->nplaces,
		.overwrite = o->overwrite};
	struct launch l = {.cfg = &c, .place = &p, .receive = &r};
	cleanup(json_drop) json_t *tls = NULL; /* only whether it can be read */
	int rc = tls_opts_read(&o->tls, NULL, &tls, e) ?: definition(o, name, &c, e)
			 ?: signals_hold(&signals, NULL, e) ?: address_listen(a, &fd, e);

	place_sweep();
	rc = rc ?: place_open(&p, name, false, e);
	if (!rc) {
		printf("waiting for machine %s at %s\n", name, a->text);
		fflush(stdout);
		r.fd = fd;
		l.signals = signals;
		rc = wait_for_it(&l, m, e);
		if (rc)
			place_undo(&p);
	}
	if (fd >= 0 && rc)
		remove_socket(a);
	return rc;
}

/* ---- post-copy: what follows the machine ---- */

static double missing(const json_t *coming)
{
	return (double)json_integer_value(json_object_get(coming, "left")) * 4096 / 1048576.0;
}

static bool event_is(const char *name, const json_t *p, const char *phase)
{
	const char *is = json_string_value(json_object_get(p, "phase"));

	return !strcmp(name, "migration") && is && !strcmp(is, phase);
}

/* Until all of its memory is here. It does not need us: it may be left alone at any time. */
static int follow(struct client *c, const char *name, struct err *e)
{
	char event[64] = "";
	json_t *p = NULL;
	int rc = 0;

	while (!rc && !event_is(event, p, "done")) {
		json_decref(p);
		p = NULL;
		rc = client_event(c, event, sizeof(event), &p, NULL);
		if (!rc && event_is(event, p, "postcopy-paused"))
			fprintf(stderr,
				"lodge: %s: the connection broke (%s): who needs one of the %.0f "
				"MiB that are missing waits. At the source: lodge migrate VM DEST "
				"--recover. If its process there has ended, they are lost: lodge "
				"kill %s, and start it anew from its disks\n",
				name, json_string_value(json_object_get(p, "error")) ?: "",
				missing(p), name);
		else if (!rc && event_is(event, p, "postcopy"))
			fprintf(stderr, "lodge: %s: the rest comes again\n", name);
	}
	json_decref(p);
	return rc ? err_set(e, -EPIPE, "machine %s ended before all its memory was here", name) : 0;
}

static int wait_for_rest(const char *name, struct err *e)
{
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(json_drop) json_t *st = NULL;
	const json_t *coming;

	/* When it has ended meanwhile, it did so as a whole. */
	if (client_open(&c, name, NULL) ||
		client_call(&c, "events", json_pack("{s:b}", "follow", 1), NULL, NULL) ||
		client_call(&c, "status", NULL, &st, NULL))
		return 0;
	coming = json_object_get(st, "coming");
	if (!coming)
		return 0;
	printf("%.0f MiB of it are still to come\n", missing(coming));
	fflush(stdout);
	return follow(&c, name, e);
}

static int run_recover(const char *name, struct address *a)
{
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(close_fd) int fd = -1;
	struct err e = {0};
	int rc = client_open(&c, name, &e) ?: address_listen(a, &fd, &e);

	if (!rc) {
		rc = client_call_fd(&c, "receive_recover", NULL, fd, NULL, &e);
		if (!rc) {
			printf("waiting for the rest of machine %s at %s\n", name, a->text);
			fflush(stdout);
			rc = wait_for_rest(name, &e);
		}
		remove_socket(a);
	}
	return rc ? fail(&e) : EXIT_DONE;
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
	if (o->overwrite && !o->config && !o->nplaces)
		return usage("--overwrite goes with --disk or --config: which "
			     "files may make way is said here, not by who comes");
	if (o->recover)
		return run_recover(a->v[0], &at);
	if (receive(o, a->v[0], &at, &m, &e))
		return fail(&e);
	launch_release(&m);
	printf("%s runs here\n", a->v[0]);
	fflush(stdout);
	/* The socket is the machine's until all of it is here; who waits for that may leave at any time. */
	if (m.coming && m.ended)
		return EXIT_DONE;
	if (m.coming) {
		signals_let_go();
		rc = wait_for_rest(a->v[0], &e);
	}
	remove_socket(&at);
	return rc ? fail(&e) : EXIT_DONE;
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
			"Disks that come along (lodge migrate --copy-disks) are made under the "
			"paths and in the formats of the definition, or where --disk says; what "
			"was made goes again when the machine does not come. With --overwrite an "
			"image is made as FILE.incoming, and takes FILE's place when the machine "
			"runs here: until then both need room. Without --config and --disk the "
			"paths are those of who sends the machine.\n\n"
			"Ctrl-C ends the waiting, and a migration that is on its way: the machine "
			"then goes on where it was.\n\n"
			"A machine that comes by --post-copy runs here before its memory is here; "
			"this waits until all is, and may be ended: what it waits for is the "
			"machine's, which takes a new connection at ADDRESS when the first one "
			"breaks.\n\n"
			"Who may connect decides what is opened here: a Unix socket is for its "
			"owner, TCP wants TLS with client certificates unless it is this host's "
			"own address."},
	VERBS_END,
};
