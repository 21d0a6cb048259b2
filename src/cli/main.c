#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/spell.h"
#include "base/util.h"
#include "cli/verb.h"

static const struct verb *const tables[] = {verbs_image};

enum exit_code exit_code_of(int code)
{
	switch (code) {
	case 0:
		return EXIT_DONE;
	case -ENOENT:
		return EXIT_NOT_FOUND;
	case -EBUSY:
		return EXIT_LOCKED;
	default:
		return EXIT_FAILED;
	}
}

enum exit_code fail(const struct err *e)
{
	fprintf(stderr, "lodge: %s\n", err_msg(e));
	return exit_code_of(e->code ?: -EIO);
}

static void print_verbs(FILE *f)
{
	fputs("usage: lodge VERB [OPTIONS] [ARGUMENTS]\n\n", f);
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct verb *v = tables[t]; v->name; v++)
			fprintf(f, "  %-28s %s\n", v->name, v->help);
	fputs("\nlodge VERB --help tells more about one.\n", f);
}

static void print_verb(const struct verb *v)
{
	printf("usage: lodge %s%s%s%s\n\n%s\n", v->name, v->opts ? " [OPTIONS]" : "",
		v->args ? " " : "", v->args ?: "", v->help);
	if (v->opts)
		putchar('\n');
	for (const struct opt *o = v->opts; o && o->name; o++) {
		int n = printf("  --%s%s%s", o->name, o->arg ? " " : "", o->arg ?: "");

		printf("%*s%s\n", n < 30 ? 30 - n : 1, "", o->help);
	}
	if (v->more)
		printf("\n%s\n", v->more);
}

/* How many words of argv the verb's name takes; 0 when it is another verb. */
static int name_words(const struct verb *v, int argc, char **argv)
{
	const char *s = v->name;
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

static int find_opt(const struct verb *v, const char *name, size_t n)
{
	for (int i = 0; v->opts && v->opts[i].name; i++)
		if (strlen(v->opts[i].name) == n && !memcmp(v->opts[i].name, name, n))
			return i;
	return -1;
}

static enum exit_code usage(
	const struct verb *v, const char *what, const char *arg, const char *nearest)
{
	fprintf(stderr, "lodge %s: %s %s%s%s%s; see lodge %s --help\n", v->name, what, arg,
		nearest ? " (did you mean --" : "", nearest ?: "", nearest ? "?)" : "", v->name);
	return EXIT_USAGE;
}

static enum exit_code unknown_opt(const struct verb *v, const char *arg)
{
	struct spell s = {0};

	for (const struct opt *o = v->opts; o && o->name; o++)
		spell_offer(&s, arg + 2, o->name);
	return usage(v, "unknown option", arg, s.best);
}

static enum exit_code run_verb(const struct verb *v, int argc, char **argv)
{
	struct opt_value opt[32] = {0};
	const char *args[64] = {0};
	struct verb_call c = {opt, args, 0};

	for (int i = 0; i < argc; i++) {
		char *a = argv[i], *eq;
		int k;

		if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
			print_verb(v);
			return EXIT_DONE;
		}
		if (strncmp(a, "--", 2) || !a[2]) {
			if (c.nargs + 1 == ARRAY_SIZE(args))
				return usage(v, "too many arguments from", a, NULL);
			args[c.nargs++] = a;
			continue;
		}
		eq = strchr(a, '=');
		k = find_opt(v, a + 2, eq ? (size_t)(eq - a - 2) : strlen(a + 2));
		if (k < 0)
			return unknown_opt(v, a);
		opt[k].set = true;
		if (!v->opts[k].arg)
			continue;
		opt[k].text = eq ? eq + 1 : i + 1 < argc ? argv[++i] : NULL;
		if (!opt[k].text)
			return usage(v, "nothing follows", a, NULL);
	}
	if (c.nargs < v->min_args)
		return usage(v, "missing", v->args ?: "argument", NULL);
	if (c.nargs > v->max_args)
		return usage(v, "too many arguments from", args[v->max_args], NULL);
	return v->run(&c);
}

int main(int argc, char **argv)
{
	struct spell s = {0};

	if (argc < 2) {
		print_verbs(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_verbs(stdout);
		return EXIT_DONE;
	}
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		for (const struct verb *v = tables[t]; v->name; v++) {
			int n = name_words(v, argc - 1, argv + 1);

			if (n)
				return run_verb(v, argc - 1 - n, argv + 1 + n);
			spell_offer(&s, argv[1], v->name);
		}
	}
	fprintf(stderr, "lodge: unknown verb %s%s%s%s; see lodge --help\n", argv[1],
		s.best ? " (did you mean " : "", s.best ?: "", s.best ? "?)" : "");
	return EXIT_USAGE;
}
