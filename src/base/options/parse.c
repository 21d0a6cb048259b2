#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/size.h"
#include "base/spell.h"
#include "base/strbuf.h"
#include "base/util.h"

/* Where a flag was found. */
struct found {
	const struct opt *opt;
	size_t base;
};

static struct found find(const struct command *c, const char *name, size_t len, char letter)
{
	for (unsigned g = 0; c->groups && c->groups[g].title; g++) {
		for (const struct opt *o = c->groups[g].opts; o->type != OPT_END; o++) {
			if (letter ? o->letter == letter
				   : o->flag && !strncmp(o->flag, name, len) && !o->flag[len])
				return (struct found){o, c->groups[g].base};
		}
	}
	return (struct found){0};
}

/* Is `name`, in capitals, one of the arguments that the command takes? */
static bool is_argument(const struct command *c, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = len ? c->args : NULL; p && *p; p++) {
		size_t n = 0;

		while (n < len && toupper((unsigned char)name[n]) == p[n])
			n++;
		if (n == len && !isalpha((unsigned char)p[n]) &&
			(p == c->args || !isalpha((unsigned char)p[-1])))
			return true;
	}
	return false;
}

static int unknown(const struct command *c, const char *name, struct err *e)
{
	cleanup(strbuf_free) struct strbuf usage = {0};
	struct spell near = {0};

	if (is_argument(c, name)) {
		command_usage(c, &usage);
		return err_set(e, -EINVAL, "unknown flag --%s: it is an argument; usage: %s", name,
			strbuf_text(&usage));
	}
	spell_offer(&near, name, "help");
	for (unsigned g = 0; c->groups && c->groups[g].title; g++)
		for (const struct opt *o = c->groups[g].opts; o->type != OPT_END; o++)
			if (o->flag)
				spell_offer(&near, name, o->flag);
	if (near.best)
		return err_set(
			e, -EINVAL, "unknown flag --%s: did you mean --%s?", name, near.best);
	return err_set(e, -EINVAL, "unknown flag --%s: %s%s%s --help lists them", name, c->program,
		c->verb ? " " : "", c->verb ?: "");
}

/*
 * One step over the command line. Sets `f` and `value` when argv[*i] is a flag, or leaves f->opt
 * NULL for an argument; `*cluster` is the place inside "-abc". Advances *i past what was used.
 * Returns 1 for help.
 */
static int step(const struct command *c, int argc, char *const *argv, int *i, const char **cluster,
	struct found *f, const char **value, struct err *e)
{
	const char *arg = *cluster ?: argv[*i];
	char name[80];
	size_t len;

	*f = (struct found){0};
	*value = NULL;
	if (*cluster || (arg[0] == '-' && arg[1] && arg[1] != '-')) {
		arg += *cluster ? 0 : 1;
		if (*arg == 'h' && !find(c, NULL, 0, 'h').opt)
			return 1;
		*f = find(c, NULL, 0, *arg);
		if (!f->opt)
			return err_set(e, -EINVAL, "unknown flag -%c: %s%s%s --help lists them",
				*arg, c->program, c->verb ? " " : "", c->verb ?: "");
		snprintf(name, sizeof(name), "-%c", *arg);
		*cluster = f->opt->type == OPT_FLAG && arg[1] ? arg + 1 : NULL;
		*i += !*cluster;
		if (f->opt->type != OPT_FLAG && arg[1])
			*value = arg + 1;
	} else {
		len = strcspn(arg + 2, "=");
		snprintf(name, sizeof(name), "%.*s", (int)MIN(len + 2, sizeof(name) - 1), arg);
		if (!strcmp(name, "--help"))
			return 1;
		*f = find(c, arg + 2, len, 0);
		if (!f->opt)
			return unknown(c, name + 2, e);
		*value = arg[len + 2] ? arg + len + 3 : NULL;
		++*i;
	}
	if (f->opt->type == OPT_FLAG && *value)
		return err_set(e, -EINVAL, "%s takes no value", name);
	if (f->opt->type == OPT_FLAG)
		*value = "on";
	if (*value)
		return 0;
	if (*i >= argc)
		return err_set(e, -EINVAL, "%s needs a value: %s %s", name, name,
			f->opt->arg
				?: f->opt->type == OPT_BOOL ? "on|off"
							    : "VALUE");
	*value = argv[(*i)++];
	return 0;
}

static bool is_flag(const char *arg)
{
	return arg[0] == '-' && arg[1];
}

/* Programs that people come from take a size as an argument: how it is given here, or nothing. */
static void size_instead(const struct command *c, const char *text, struct strbuf *out)
{
	uint64_t bytes;

	if (!isdigit((unsigned char)text[0]))
		return;
	for (const struct opt_group *g = c->groups; g && g->title; g++)
		for (const struct opt *o = g->opts; o->type != OPT_END; o++) {
			if (o->type != OPT_SIZE || !o->flag)
				continue;
			strbuf_addf(out, ": write --%s %s", o->flag,
				size_parse(text, &bytes, NULL) ? o->arg : text);
			return;
		}
}

static int check_count(const struct command *c, const struct args *a, struct err *e)
{
	cleanup(strbuf_free) struct strbuf usage = {0}, instead = {0};

	if (a->n >= c->min_args && a->n <= c->max_args)
		return 0;
	command_usage(c, &usage);
	if (a->n > c->max_args) {
		size_instead(c, a->v[c->max_args], &instead);
		return err_set(e, -EINVAL, "\"%s\" is one argument too many%s; usage: %s",
			a->v[c->max_args], strbuf_text(&instead), strbuf_text(&usage));
	}
	return err_set(e, -EINVAL, "an argument is missing; usage: %s", strbuf_text(&usage));
}

int command_parse(
	const struct command *c, void *obj, int argc, char **argv, struct args *a, struct err *e)
{
	const char *cluster = NULL, *value;
	struct found f;
	int i = 1, r;

	*a = (struct args){.v = argv + 1};
	while (i < argc) {
		if (!cluster && !strcmp(argv[i], "--")) {
			i++;
			break;
		}
		if (!cluster && !is_flag(argv[i])) {
			/* arguments move to the front; i is always ahead of where they go */
			a->v[a->n++] = argv[i++];
			if (!c->flags_first)
				continue;
			i += i < argc && !strcmp(argv[i], "--");
			break;
		}
		r = step(c, argc, argv, &i, &cluster, &f, &value, e);
		if (r == 1) {
			a->help = true;
			return 0;
		}
		if (r)
			return r;
		r = options_set(f.opt, (char *)obj + f.base, value, e);
		if (r)
			return err_wrap(e, "--%s", f.opt->flag);
	}
	while (i < argc)
		a->v[a->n++] = argv[i++];
	return check_count(c, a, e);
}

const char *command_peek(const struct command *c, int argc, char *const *argv, const char *flag)
{
	const char *cluster = NULL, *value, *last = NULL;
	struct found f;

	for (int i = 1; i < argc;) {
		if (!cluster && !strcmp(argv[i], "--"))
			break;
		if (!cluster && !is_flag(argv[i])) {
			if (c->flags_first)
				break;
			i++;
			continue;
		}
		if (step(c, argc, argv, &i, &cluster, &f, &value, NULL))
			break; /* command_parse() will say what is wrong */
		if (f.opt->flag && !strcmp(f.opt->flag, flag))
			last = value;
	}
	return last;
}

int command_defaults(const struct command *c, void *obj, struct err *e)
{
	int r = 0;

	for (const struct opt_group *g = c->groups; !r && g && g->title; g++)
		r = options_defaults(g->opts, (char *)obj + g->base, e);
	return r;
}

void command_free(const struct command *c, void *obj)
{
	for (const struct opt_group *g = c->groups; g && g->title; g++)
		options_free(g->opts, (char *)obj + g->base);
}

int command_check(const struct command *c, struct err *e)
{
	for (const struct opt_group *g = c->groups; g && g->title; g++) {
		int r = options_check(g->opts, e);

		if (r)
			return err_wrap(e, "%s %s", c->program, c->verb ?: "");
		for (const struct opt_group *h = c->groups; h != g; h++)
			for (const struct opt *o = h->opts; o->type != OPT_END; o++)
				if (o->flag && options_by_flag(g->opts, o->flag))
					return err_set(e, -EINVAL, "%s %s: --%s is in two groups",
						c->program, c->verb ?: "", o->flag);
	}
	if (c->min_args > c->max_args || (c->max_args && !c->args))
		return err_set(
			e, -EINVAL, "%s %s: arguments do not agree", c->program, c->verb ?: "");
	return 0;
}
