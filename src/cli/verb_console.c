#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/ui/terminal.h"
#include "cli/verb.h"

struct console {
	bool no_history;
};

static const struct opt opts[] = {
	{"no-history", .type = OPT_FLAG, OPT_AT(struct console, no_history),
		.help = "do not show first what the guest wrote before"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

static int run(void *o, const struct args *a)
{
	const struct console *k = o;
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(client_close) struct client events = {.fd = -1};
	struct terminal t = {.console = &c,
		.events = &events,
		.name = a->v[0],
		.in = STDIN_FILENO,
		.out = STDOUT_FILENO,
		.err = STDERR_FILENO};
	struct err e = {0};
	enum terminal_end end;

	if (client_open(&events, a->v[0], &e) || client_open(&c, a->v[0], &e) ||
		client_call(&events, "events", json_pack("{s:b}", "follow", 1), NULL, &e) ||
		client_call(&c, "console", json_pack("{s:b}", "history", !k->no_history), NULL, &e))
		return fail(&e);
	end = terminal_run(&t);
	fprintf(stderr,
		end == TERMINAL_GONE ? "\nlodge: machine %s has ended\n"
				     : "\nlodge: machine %s runs on\n",
		a->v[0]);
	if (end == TERMINAL_SIGNAL)
		return 128 + t.signum;
	return end == TERMINAL_NO_OUTPUT ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verbs_console[] = {
	{VERB("console", "NAME", "use a machine's console; Ctrl-A x leaves it"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.groups = groups, .size = sizeof(struct console),
		.cmd.names = "names machines", .run = run},
	VERBS_END,
};
