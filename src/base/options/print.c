#include "base/options.h"

#include <string.h>
#include <sys/ioctl.h>

#include "base/strbuf.h"
#include "base/util.h"

#define HELP_COLUMN 30
#define HELP_WIDTH 100u
#define HELP_NARROW \
	20u /* columns of text beside the flags, at least: below that it is continued where it is */

void command_usage(const struct command *c, struct strbuf *out)
{
	strbuf_adds(out, c->program);
	if (c->verb)
		strbuf_addf(out, " %s", c->verb);
	if (c->groups)
		strbuf_adds(out, " [OPTION...]");
	if (c->args)
		strbuf_addf(out, " %s", c->args);
}

/* What stands for the value: "FILE", "on|off", "host|model", or "" for flags. */
static void value_text(const struct opt *o, struct strbuf *out)
{
	if (o->type == OPT_FLAG)
		return;
	if (o->arg)
		strbuf_adds(out, o->arg);
	else if (o->type == OPT_BOOL)
		strbuf_adds(out, "on|off");
	else if (o->type == OPT_ENUM)
		for (int i = 0; o->values[i]; i++)
			strbuf_addf(out, "%s%s", i ? "|" : "", o->values[i]);
}

/* The help sentence with what the table knows besides: default and repetition. */
static void help_text(const struct opt *o, struct strbuf *out)
{
	strbuf_adds(out, o->help);
	if (o->dflt)
		strbuf_addf(out, " (default %s)", o->dflt);
	if (o->type == OPT_LIST && o->max != 1)
		strbuf_adds(out, " (may be repeated)");
}

unsigned text_columns(FILE *f, unsigned otherwise)
{
	struct winsize w = {0};

	return fileno(f) < 0 || ioctl(fileno(f), TIOCGWINSZ, &w) || !w.ws_col ? otherwise
									      : w.ws_col;
}

void text_print_folded(FILE *f, const char *text, size_t col, size_t indent)
{
	size_t width = MAX(MIN(text_columns(f, HELP_WIDTH), HELP_WIDTH), indent + HELP_NARROW);
	bool first = true;

	while (*text) {
		size_t n = strcspn(text, " \n");

		if (!first && col + 1 + n > width) {
			fprintf(f, "\n%*s", (int)indent, "");
			col = indent;
			first = true;
		}
		fprintf(f, "%s%.*s", first ? "" : " ", (int)n, text);
		col += n + !first;
		first = false;
		text += n;
		if (text[0] == '\n' && text[1] == '\n') {
			fprintf(f, "\n\n%*s", (int)indent, "");
			col = indent;
			first = true;
		}
		text += strspn(text, " \n");
	}
	fputc('\n', f);
}

static void print_opt(const struct opt *o, FILE *f)
{
	cleanup(strbuf_free) struct strbuf left = {0}, help = {0};

	if (o->letter)
		strbuf_addf(&left, "  -%c, --%s", o->letter, o->flag);
	else
		strbuf_addf(&left, "      --%s", o->flag);
	if (o->type != OPT_FLAG) {
		strbuf_addc(&left, ' ');
		value_text(o, &left);
	}
	help_text(o, &help);
	if (left.len + 2 > HELP_COLUMN)
		fprintf(f, "%s\n%*s", strbuf_text(&left), HELP_COLUMN, "");
	else
		fprintf(f, "%-*s", HELP_COLUMN, strbuf_text(&left));
	text_print_folded(f, strbuf_text(&help), HELP_COLUMN, HELP_COLUMN);
}

void command_print_help(const struct command *c, FILE *f)
{
	cleanup(strbuf_free) struct strbuf usage = {0};

	command_usage(c, &usage);
	fprintf(f, "Usage: %s\n\n", strbuf_text(&usage));
	text_print_folded(f, c->summary, 0, 0);
	if (c->text) {
		fputc('\n', f);
		text_print_folded(f, c->text, 0, 0);
	}
	for (const struct opt_group *g = c->groups; g && g->title; g++) {
		fprintf(f, "\n%s:\n", g->title);
		for (const struct opt *o = g->opts; o->type != OPT_END; o++)
			if (o->flag)
				print_opt(o, f);
	}
	fprintf(f, "\n  -h, --help%*sshow this text\n", HELP_COLUMN - 12, "");
}

/* Text for troff: a backslash, a dash and a leading dot or quote would be read as commands. */
static void man_text(FILE *f, const char *text)
{
	bool start = true;

	for (; *text; text++) {
		if (text[0] == '\n' && text[1] == '\n') {
			fputs("\n.PP\n", f);
			text++;
			start = true;
			continue;
		}
		if (start && (*text == '.' || *text == '\''))
			fputs("\\&", f);
		if (*text == '\\')
			fputs("\\e", f);
		else if (*text == '-')
			fputs("\\-", f);
		else
			fputc(*text, f);
		start = *text == '\n';
	}
}

static void man_opt(const struct opt *o, FILE *f)
{
	cleanup(strbuf_free) struct strbuf value = {0}, help = {0};

	fputs(".TP\n", f);
	if (o->letter)
		fprintf(f, "\\fB\\-%c\\fR, ", o->letter);
	fputs("\\fB\\-\\-", f);
	man_text(f, o->flag);
	fputs("\\fR", f);
	value_text(o, &value);
	if (value.len) {
		fputs(" \\fI", f);
		man_text(f, strbuf_text(&value));
		fputs("\\fR", f);
	}
	fputc('\n', f);
	help_text(o, &help);
	man_text(f, strbuf_text(&help));
	fputs(".\n", f);
}

static void man_command(const struct command *c, FILE *f)
{
	cleanup(strbuf_free) struct strbuf usage = {0};

	command_usage(c, &usage);
	if (c->verb) {
		fputs(".SS \"", f);
		man_text(f, strbuf_text(&usage));
		fputs("\"\n", f);
		man_text(f, c->summary);
		fputs(".\n", f);
		if (c->text) {
			fputs(".PP\n", f);
			man_text(f, c->text);
			fputc('\n', f);
		}
	}
	for (const struct opt_group *g = c->groups; g && g->title; g++) {
		fputs(".PP\n\\fI", f);
		man_text(f, g->title);
		fputs("\\fR\n", f);
		for (const struct opt *o = g->opts; o->type != OPT_END; o++)
			if (o->flag)
				man_opt(o, f);
	}
}

void commands_print_man(
	const struct man_page *m, const struct command *const *cmds, unsigned n, FILE *f)
{
	bool verbs = n && cmds[0]->verb;

	fprintf(f, ".TH \"%s\" 1 \"%s\" \"Lodge %s\" \"Lodge\"\n.SH NAME\n", m->program, m->date,
		m->version);
	man_text(f, m->program);
	fputs(" \\- ", f);
	man_text(f, m->summary);
	fputs("\n.SH SYNOPSIS\n", f);
	for (unsigned i = 0; i < n; i++) {
		cleanup(strbuf_free) struct strbuf usage = {0};

		command_usage(cmds[i], &usage);
		if (i)
			fputs(".br\n", f);
		man_text(f, strbuf_text(&usage));
		fputc('\n', f);
	}
	if (m->text) {
		fputs(".SH DESCRIPTION\n", f);
		man_text(f, m->text);
		fputc('\n', f);
	}
	fprintf(f, ".SH %s\n", verbs ? "COMMANDS" : "OPTIONS");
	for (unsigned i = 0; i < n; i++)
		man_command(cmds[i], f);
	if (m->after)
		fputs(m->after, f);
}

/* The names of a shell function must not have dashes. */
static void shell_name(FILE *f, const char *program)
{
	fputs("_complete_", f);
	for (; *program; program++)
		fputc(*program == '-' ? '_' : *program, f);
}

/* Lines "CASE) COMPREPLY=... ;;" for the values of the flags of one command. */
static void complete_values(const char *program, const struct command *c, FILE *f)
{
	for (const struct opt_group *g = c->groups; g && g->title; g++) {
		for (const struct opt *o = g->opts; o->type != OPT_END; o++) {
			if (!o->flag || o->type == OPT_FLAG)
				continue;
			fprintf(f, "\t\t--%s", o->flag);
			if (o->letter)
				fprintf(f, "|-%c", o->letter);
			fputs(") COMPREPLY=($(compgen ", f);
			if (o->type == OPT_ENUM || o->type == OPT_BOOL) {
				fputs("-W '", f);
				for (int i = 0; o->values && o->values[i]; i++)
					fprintf(f, "%s%s", i ? " " : "", o->values[i]);
				fprintf(f, "%s'", o->values ? "" : "on off");
			} else if (o->names) {
				fprintf(f, "-W \"$(%s %s 2>/dev/null)\"", program, o->names);
			} else {
				fputs(o->complete == OPT_COMPLETE_FILE	  ? "-f"
					: o->complete == OPT_COMPLETE_DIR ? "-d"
									  : "-W ''",
					f);
			}
			fputs(" -- \"$cur\")); return ;;\n", f);
		}
	}
}

/* In the same way: FILE: and then one of these. */
static void complete_suffixes(const char *program, const struct command *c, FILE *f)
{
	fprintf(f,
		"\t\tlocal word=${COMP_LINE:0:COMP_POINT}\n\t\tword=${word##*[[:space:]]}\n"
		"\t\tif [[ $word == *:* && $word != -* ]]; then\n"
		"\t\t\tCOMPREPLY=($(compgen -W \"$(%s %s 2>/dev/null)\" -- \"${word##*:}\"))\n"
		"\t\t\treturn\n\t\tfi\n",
		program, c->suffixes);
}

/*
 * The names that the program knows now. bash takes a word apart at its colons and wants only what
 * comes behind the last one, hence the whole word from the line.
 */
static void complete_names(const char *program, const struct command *c, FILE *f)
{
	fprintf(f,
		"\t\tlocal word=${COMP_LINE:0:COMP_POINT}\n\t\tword=${word##*[[:space:]]}\n"
		"\t\tCOMPREPLY=($(compgen -W \"$(%s %s 2>/dev/null)\" -- \"$word\"))\n"
		"\t\t[[ $word == *:* ]] && COMPREPLY=(\"${COMPREPLY[@]#\"${word%%:*}:\"}\")\n",
		program, c->names);
}

static void complete_flags(const struct command *c, FILE *f)
{
	fputs("--help", f);
	for (const struct opt_group *g = c->groups; g && g->title; g++)
		for (const struct opt *o = g->opts; o->type != OPT_END; o++)
			if (o->flag)
				fprintf(f, " --%s", o->flag);
}

/* The verbs, a line each, inside a $'' text. */
static void complete_verbs(const struct command *const *cmds, unsigned n, FILE *f)
{
	for (unsigned i = 0; i < n; i++)
		fprintf(f, "%s%s", i ? "\\n" : "", cmds[i]->verb);
}

void commands_print_completion(
	const char *program, const struct command *const *cmds, unsigned n, FILE *f)
{
	fprintf(f, "# bash completion for %s; made from the option tables\n", program);
	shell_name(f, program);
	fputs("()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= "
	      "w\n",
		f);
	fputs("\tCOMPREPLY=()\n", f);
	if (n && cmds[0]->verb) {
		fputs("\tlocal verbs=$'", f);
		complete_verbs(cmds, n, f);
		fputs("'\n\tfor w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
		      "\t\tgrep -q \"^${verb:+$verb }$w\\( \\|\\$\\)\" <<<\"$verbs\" || break\n"
		      "\t\tverb=${verb:+$verb }$w\n\tdone\n"
		      "\tif ! grep -qx -- \"$verb\" <<<\"$verbs\"; then\n"
		      "\t\tCOMPREPLY=($(compgen -W \"$(sed -n \"s/^${verb:+$verb }\\([^ "
		      "]*\\).*/\\1/p\" <<<\"$verbs\" | "
		      "sort -u)\" -- \"$cur\"))\n\t\treturn\n\tfi\n",
			f);
	}
	fputs("\tcase \"$verb\" in\n", f);
	for (unsigned i = 0; i < n; i++) {
		fprintf(f, "\t'%s')\n", cmds[i]->verb ?: "");
		if (cmds[i]->suffixes)
			complete_suffixes(program, cmds[i], f);
		fputs("\t\tcase \"$prev\" in\n", f);
		complete_values(program, cmds[i], f);
		fputs("\t\tesac\n\t\t[[ $cur == -* ]] && COMPREPLY=($(compgen -W '", f);
		complete_flags(cmds[i], f);
		fputs("' -- \"$cur\")) && return\n", f);
		if (cmds[i]->names)
			complete_names(program, cmds[i], f);
		fputs("\t\t;;\n", f);
	}
	fputs("\tesac\n}\ncomplete -o default -F ", f);
	shell_name(f, program);
	fprintf(f, " %s\n", program);
}
