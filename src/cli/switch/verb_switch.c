/* verb_switch.c: switches of this host: start one, look at it, capture its frames, end it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/switch/serve.h"
#include "cli/ui/print.h"
#include "cli/verb.h"

struct run {
	bool user, detach;
	struct switch_tap *taps;
	unsigned ntaps;
	struct switch_tap *uplinks;
	unsigned nuplinks;
};

static int tap_parse(void *elem, const char *text, struct err *e)
{
	struct switch_tap *t = elem;

	free(t->name);
	t->name = strdup(text);
	return t->name ? 0 : -ENOMEM;
}

static const struct opt tap_opts[] = {
	{.key = "name", .type = OPT_TEXT, OPT_AT(struct switch_tap, name), .help = "its name"},
	OPT_DONE,
};
static const struct opt run_opts[] = {
	{"user", .type = OPT_FLAG, OPT_AT(struct run, user),
		.help = "plug in user networking: NAT, DHCP and names for all guests on it"},
	{"tap", .type = OPT_LIST, OPT_LIST_AT(struct run, taps, ntaps), .arg = "NAME", .max = 16,
		.sub = tap_opts, .parse = tap_parse,
		.help = "plug in an interface of the host; may be given several times"},
	{"uplink", .type = OPT_LIST, OPT_LIST_AT(struct run, uplinks, nuplinks), .arg = "SWITCH",
		.max = 16, .sub = tap_opts, .parse = tap_parse, .names = "names switches",
		.help = "a cable to another switch of this host; several switches make a tree"},
	{"detach", 'd', .type = OPT_FLAG, OPT_AT(struct run, detach),
		.help = "in the background, once it serves"},
	OPT_DONE,
};
static const struct opt_group run_groups[] = {{"Options", run_opts, 0}, {0}};

/* The child says by the end of a pipe that it serves, and by its exit that it does not. */
static int serve_behind(const struct switch_opts *o, struct err *e)
{
	struct switch_opts child = *o;
	int fd[2], status;
	char text[512];
	ssize_t n;
	pid_t pid;

	if (pipe2(fd, O_CLOEXEC))
		return err_sys(e, -errno, "pipe");
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return err_sys(e, -errno, "fork");
	if (!pid) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		struct err why = {0};

		close(fd[0]);
		setsid();
		for (int i = 0; i < 3; i++)
			dup2(null, i);
		child.ready_fd = fd[1];
		if (switch_serve(&child, &why) &&
			write(fd[1], err_msg(&why), strlen(err_msg(&why))) < 0)
			_exit(2); /* forked child */
		_exit(why.code ? exit_code_of(why.code) : 0); /* forked child */
	}
	close(fd[1]);
	n = read(fd[0], text, sizeof(text) - 1);
	close(fd[0]);
	if (n <= 0)
		return 0;
	text[n] = 0;
	waitpid(pid, &status, 0);
	return err_set(e,
		WEXITSTATUS(status) == EXIT_LOCKED	? -EBUSY
		: WEXITSTATUS(status) == EXIT_NOT_FOUND ? -ENOENT
							: -EIO,
		"%s", text);
}

static int run_run(void *opts, const struct args *a)
{
	const struct run *r = opts;
	struct switch_opts o = {.name = a->v[0],
		.user = r->user,
		.taps = r->taps,
		.ntaps = r->ntaps,
		.uplinks = r->uplinks,
		.nuplinks = r->nuplinks,
		.ready_fd = -1};
	struct err e = {0};

	if (r->detach ? serve_behind(&o, &e) : switch_serve(&o, &e))
		return fail(&e);
	return EXIT_DONE;
}

static int call(const char *name, const char *method, json_t *params, json_t **res, struct err *e)
{
	cleanup(client_close) struct client c = {.fd = -1};
	int rc = client_open_switch(&c, name, e);

	if (rc) {
		json_decref(params);
		return rc;
	}
	return client_call(&c, method, params, res, e);
}

static int run_show(void *opts, const struct args *a)
{
	const struct json_only *s = opts;
	json_t *j = NULL, *v;
	struct err e = {0};
	size_t i;

	if (call(a->v[0], "status", NULL, &j, &e))
		return fail(&e);
	if (s->json) {
		print_json(j);
	} else {
		printf("%-32s %-6s %12s %12s %10s %s\n", "PORT", "LINK", "IN", "OUT", "DROPPED",
			"ADDRESSES");
		json_array_foreach(json_object_get(j, "ports"), i, v)
		{
			printf("%-32s %-6s %12lld %12lld %10lld %lld\n", json_text_at(v, "name"),
				json_text_at(v, "link"), (long long)json_int_at(v, "in"),
				(long long)json_int_at(v, "out"),
				(long long)json_int_at(v, "dropped"),
				(long long)json_int_at(v, "addresses"));
		}
		json_array_foreach(json_object_get(j, "addresses"), i, v)
		{
			printf("%s%-17s  vlan %-4lld %-32s %lld s ago\n", i ? "" : "\n",
				json_text_at(v, "address"), (long long)json_int_at(v, "vlan"),
				json_text_at(v, "port"),
				(long long)json_int_at(v, "age_ms") / 1000);
		}
	}
	json_decref(j);
	return EXIT_DONE;
}

static int run_ls(void *opts, const struct args *a)
{
	const struct json_only *s = opts;
	cleanup(fs_names_free) struct fs_names names = {0};
	json_t *all = json_array();
	struct err e = {0};

	if (client_switch_names(&names, &e)) {
		json_decref(all);
		return fail(&e);
	}
	for (size_t i = 0; i < names.n; i++) {
		json_t *j = NULL;
		struct err gone = {0};

		if (call(names.v[i], "status", NULL, &j, &gone))
			continue;
		json_object_set_new(j, "name", json_string(names.v[i]));
		json_array_append_new(all, j);
	}
	if (s->json) {
		print_json(all);
	} else {
		json_t *j;
		size_t i;

		json_array_foreach(all, i, j)
		{
			size_t ports = json_array_size(json_object_get(j, "ports")),
			       addresses = json_array_size(json_object_get(j, "addresses"));

			printf("%-24s %zu port%s, %zu address%s%s\n", json_text_at(j, "name"),
				ports, print_s(ports), addresses, addresses == 1 ? "" : "es",
				json_is_true(json_object_get(j, "capturing")) ? ", capturing" : "");
		}
	}
	json_decref(all);
	return EXIT_DONE;
}

static int run_capture(void *opts, const struct args *a)
{
	char path[PATH_MAX + 1] = "";
	struct err e = {0};

	/* The switch has another current directory. */
	if (a->n > 1 && a->v[1][0] != '/') {
		if (!getcwd(path, PATH_MAX - 1 - strlen(a->v[1])))
			return fail((err_sys(&e, -errno, "current directory"), &e));
		strcat(path, "/");
	}
	if (a->n > 1)
		strncat(path, a->v[1], PATH_MAX - strlen(path));
	if (call(a->v[0], "capture", a->n > 1 ? json_pack("{s:s}", "path", path) : NULL, NULL, &e))
		return fail(&e);
	return EXIT_DONE;
}

static int run_stop(void *opts, const struct args *a)
{
	struct err e = {0};

	return call(a->v[0], "stop", NULL, NULL, &e) ? fail(&e) : EXIT_DONE;
}

const struct verb verbs_switch[] = {
	{VERB("switch run", "NAME", "start a switch between machines of this host"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = run_groups,
		.cmd.text =
			"Machines plug in by --net switch=NAME. The switch learns where addresses "
			"are; what is on it forms one network, separate from the host's unless "
			"an interface or user networking is plugged in too.",
		.size = sizeof(struct run), .run = run_run},
	{VERB("switch ls", NULL, "the switches of this host"), .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_ls},
	{VERB("switch show", "NAME", "a switch's ports, addresses and counters"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.names = "names switches", .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_show},
	{VERB("switch capture", "NAME [FILE]",
		 "write every frame into a pcapng file; without FILE: stop"),
		.cmd.min_args = 1, .cmd.max_args = 2, .cmd.names = "names switches",
		.run = run_capture},
	{VERB("switch stop", "NAME", "end a switch; its machines lose their link"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.names = "names switches",
		.run = run_stop},
	VERBS_END,
};
