#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/spell.h"
#include "base/util.h"
#include "cli/verb.h"

#define SUMMARY 30 /* its column in the list of verbs */

/* In the order of the help; a heading stands above the first table of its group. */
static const struct {
	const char *heading;
	const struct verb *verbs;
} tables[] = {
	{"Run machines", verbs_run},
	{NULL, verbs_ps},
	{NULL, verbs_stop},
	{NULL, verbs_control},
	{NULL, verbs_rm},
	{"Inside a guest", verbs_exec},
	{NULL, verbs_cp},
	{NULL, verbs_agent},
	{"Look at machines", verbs_console},
	{NULL, verbs_logs},
	{NULL, verbs_inspect},
	{NULL, verbs_stats},
	{NULL, verbs_trace},
	{"Save, restore, clone", verbs_snapshot_create},
	{NULL, verbs_snapshot},
	{NULL, verbs_restore},
	{NULL, verbs_clone},
	{"Move a running machine", verbs_migrate},
	{NULL, verbs_receive},
	{NULL, verbs_update},
	{"Networks", verbs_switch},
	{"Images", verbs_image},
	{"Disks", verbs_disk_make},
	{NULL, verbs_disk},
	{NULL, verbs_disk_changes},
	{NULL, verbs_store},
	{"This host, and lodge itself", verbs_cpu},
	{NULL, verbs_doctor},
	{NULL, verbs_names},
	{NULL, verbs_help},
};

size_t verbs_all(const struct verb **list, size_t max)
{
	size_t n = 0;

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct verb *v = tables[t].verbs; v->cmd.verb && n < max; v++)
			list[n++] = v;
	return n;
}

static const struct opt json_opts[] = {
	{"json", .type = OPT_FLAG, OPT_AT(struct json_only, json), .help = "print JSON"},
	OPT_DONE,
};
const struct opt_group json_groups[] = {{"Options", json_opts}, {0}};

int exit_code_of(int code)
{
	switch (code) {
	case 0:
		return EXIT_DONE;
	case -EINVAL:
		return EXIT_USAGE;
	case -ENOENT:
		return EXIT_NOT_FOUND;
	case -EBUSY:
		return EXIT_LOCKED;
	default:
		return EXIT_FAILED;
	}
}

int fail(const struct err *e)
{
	fprintf(stderr, "lodge: %s\n", err_msg(e));
	return exit_code_of(e->code ?: -EIO);
}

int usage(const char *fmt, ...)
{
	struct err e = {0};
	va_list ap;

	va_start(ap, fmt);
	err_vset(&e, -EINVAL, fmt, ap);
	va_end(ap);
	return fail(&e);
}

int each_argument(
	const struct args *a, const void *opts, int (*one)(const void *opts, const char *arg))
{
	int code = EXIT_DONE;

	for (unsigned i = 0; i < a->n; i++) {
		int now = one(opts, a->v[i]);

		code = code ?: now;
	}
	return code;
}

/* The verbs whose names begin with `word`, or all, below the headings of their groups. */
static void print_verbs(FILE *f, const char *word)
{
	const char *heading = NULL;

	fputs("Usage: lodge VERB [OPTION...] [ARGUMENT...]\n", f);
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		heading = tables[t].heading ?: heading;
		for (const struct verb *v = tables[t].verbs; v->cmd.verb; v++) {
			const struct command *c = &v->cmd;
			int col;

			if (strncmp(c->verb, word, strlen(word)))
				continue;
			if (heading)
				fprintf(f, "\n%s:\n", heading);
			heading = NULL;
			col = fprintf(f, "  %s%s%s", c->verb, c->args ? " " : "", c->args ?: "");
			fprintf(f, "%s%*s", col < SUMMARY - 1 ? "" : "\n",
				col < SUMMARY - 1 ? SUMMARY - col : SUMMARY, "");
			text_print_folded(f, c->summary, SUMMARY, SUMMARY);
		}
	}
	fputs("\nlodge VERB --help tells more about one.\n", f);
}

/* How many words of argv the verb's name takes; 0 when it is another verb. */
static int name_words(const struct verb *v, int argc, char **argv)
{
	const char *s = v->cmd.verb;
	int n = 0;

	while (*s) {
		size_t k = strcspn(s, " ");

		if (n >= argc || strlen(argv[n]) != k || memcmp(argv[n], s, k))
			return 0;
		s += k + (s[k] == ' ');
		n++;
	}
	return n;
}

/* argv[0] is the last word of the verb. */
static int run_verb(const struct verb *v, int argc, char **argv)
{
	cleanup(free_ptr) void *opts = calloc(1, v->size ?: 1);
	struct err e = {0};
	struct args a;
	int r, code;

	if (!opts)
		return EXIT_FAILED;
	r = command_defaults(&v->cmd, opts, &e);
	if (!r)
		r = (v->parse ?: command_parse)(&v->cmd, opts, argc, argv, &a, &e);
	if (r) {
		fprintf(stderr, "lodge %s: %s\n", v->cmd.verb, err_msg(&e));
		code = exit_code_of(r);
	} else if (a.help) {
		command_print_help(&v->cmd, stdout);
		code = EXIT_DONE;
	} else {
		code = v->run(opts, &a);
	}
	command_free(&v->cmd, opts);
	return code;
}

/* Is it the first word of such verbs as "image pull"? */
static bool is_of(const struct verb *v, const char *word)
{
	size_t len = strlen(word);

	return !strncmp(v->cmd.verb, word, len) && v->cmd.verb[len] == ' ';
}

static bool is_family(const struct verb *const *all, size_t n, const char *word)
{
	bool found = false;

	for (size_t i = 0; i < n; i++)
		found |= is_of(all[i], word);
	return found;
}

/* What programs that people come from call it. */
static const char *called_here(const char *word)
{
	static const char *const names[][2] = {{"list", "ls"}, {"delete", "rm"}, {"remove", "rm"},
		{"info", "show"}, {"inspect", "show"}, {"start", "run"}, {"boot", "run"},
		{"shutdown", "stop"}, {"poweroff", "stop"}, {"destroy", "kill"},
		{"suspend", "pause"}, {"ssh", "exec"}, {"shell", "exec"}, {"attach", "console"},
		{"save", "create"}};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i][0], word))
			return names[i][1];
	return word;
}

/* argv[0] and what follows name no verb. */
static int unknown_verb(int argc, char **argv, const struct verb *const *all, size_t n)
{
	const char *first = argv[0], *second = argc > 1 ? argv[1] : "", *word;
	bool family = is_family(all, n, first);
	struct spell near = {0};
	char two[80];

	word = called_here(family ? second : first);
	snprintf(two, sizeof(two), "%s %s", word, second);
	for (size_t i = 0; i < n; i++) {
		if (family && is_of(all[i], first))
			spell_offer(&near, word, all[i]->cmd.verb + strlen(first) + 1);
		if (family)
			continue;
		spell_offer(&near, word, all[i]->cmd.verb);
		spell_offer(&near, two, all[i]->cmd.verb);
	}
	return usage("unknown verb %s%s%s%s%s%s; see lodge %s%s--help", first, family ? " " : "",
		family ? second : "", near.best ? " (did you mean " : "", near.best ?: "",
		near.best ? "?)" : "", family ? first : "", family ? " " : "");
}

/* Who asked for something and cannot have it must not be told that all went well. */
static int flushed(int code)
{
	bool before = ferror(stdout);

	if (!fflush(stdout) && !before)
		return code;
	fprintf(stderr, "lodge: standard output cannot be written%s%s\n", before ? "" : ": ",
		before ? "" : strerrordesc_np(errno) ?: "");
	return code ?: EXIT_FAILED;
}

static bool is_help(const char *word)
{
	return !strcmp(word, "--help") || !strcmp(word, "-h");
}

/* "lodge help image pull" is "lodge image pull --help". */
static int help(int argc, char **argv, const struct verb *const *all, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (name_words(all[i], argc, argv)) {
			command_print_help(&all[i]->cmd, stdout);
			return EXIT_DONE;
		}
	}
	if (argc == 1 && is_family(all, n, argv[0])) {
		print_verbs(stdout, argv[0]);
		return EXIT_DONE;
	}
	return unknown_verb(argc, argv, all, n);
}

static int run(int argc, char **argv)
{
	const struct verb *all[VERBS_MAX];
	size_t n = verbs_all(all, VERBS_MAX);

	if (argc < 2) {
		print_verbs(stderr, "");
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "help") && argc > 2 && argv[2][0] != '-')
		return help(argc - 2, argv + 2, all, n);
	if (is_help(argv[1]) || !strcmp(argv[1], "help")) {
		print_verbs(stdout, "");
		return EXIT_DONE;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("lodge " LODGE_VERSION);
		return EXIT_DONE;
	}
	for (size_t i = 0; i < n; i++) {
		int words = name_words(all[i], argc - 1, argv + 1);

		if (words)
			return run_verb(all[i], argc - words, argv + words);
	}
	if (is_family(all, n, argv[1]) && (argc == 2 || is_help(argv[2]))) {
		print_verbs(argc == 2 ? stderr : stdout, argv[1]);
		return argc == 2 ? EXIT_USAGE : EXIT_DONE;
	}
	return unknown_verb(argc - 1, argv + 1, all, n);
}

int main(int argc, char **argv)
{
	fs_hold_stdio();
	return flushed(run(argc, argv));
}
