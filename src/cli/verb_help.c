#include <stdio.h>

#include "base/err.h"
#include "cli/verb.h"

static unsigned commands(const struct command **list)
{
	const struct verb *all[VERBS_MAX];
	size_t n = verbs_all(all, VERBS_MAX);

	for (size_t i = 0; i < n; i++)
		list[i] = &all[i]->cmd;
	return (unsigned)n;
}

static int run_completion(void *opts, const struct args *a)
{
	const struct command *list[VERBS_MAX];

	commands_print_completion("lodge", list, commands(list), stdout);
	return EXIT_DONE;
}

static int run_version(void *opts, const struct args *a)
{
	puts("lodge " LODGE_VERSION);
	return EXIT_DONE;
}

static int run_man(void *opts, const struct args *a)
{
	static const struct man_page page = {
		.program = "lodge",
		.version = LODGE_VERSION,
		.date = LODGE_DATE,
		.summary = "run and manage virtual machines",
		.text = "Lodge runs virtual machines: each in a confined process of its own, "
			"lodge-vm, that this "
			"program starts and speaks to. No daemon and no privileges are needed.",
		.after = ".SH EXIT STATUS\n0 done, 1 failed, 2 what was asked for cannot be, 3 not "
			 "found, 4 locked or taken.\n"
			 ".SH ENVIRONMENT\n.TP\n\\fBLODGE_HOME\\fR\nIf set, what belongs to "
			 "machines "
			 "is kept "
			 "below this directory, in run and data; images are not.\n.TP\n"
			 "\\fBXDG_RUNTIME_DIR\\fR, \\fBXDG_DATA_HOME\\fR, "
			 "\\fBXDG_CACHE_HOME\\fR\nIf set, files are kept in lodge below them; else "
			 "in /run/lodge, /var/lib/lodge and /var/cache/lodge for root, and in "
			 "/tmp/lodge\\-UID, ~/.local/share/lodge and ~/.cache/lodge for others.\n"
			 ".SH SEE ALSO\n\\fBlodge\\-vm\\fR(1)\n",
	};
	const struct command *list[VERBS_MAX];
	unsigned n = commands(list);
	struct err e = {0};

	/* the build makes the page, so a table that is not well formed stops the build */
	for (unsigned i = 0; i < n; i++)
		if (command_check(list[i], &e))
			return fail(&e);
	commands_print_man(&page, list, n, stdout);
	return EXIT_DONE;
}

const struct verb verbs_help[] = {
	{VERB("completion", NULL, "print the completion script for bash (zsh: after bashcompinit)"),
		.run = run_completion},
	{VERB("version", NULL, "print the version"), .run = run_version},
	{VERB("man", NULL, "print the manual page (lodge man | man -l -)"), .run = run_man},
	VERBS_END,
};
