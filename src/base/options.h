/*
 * options.h: one table of options, from which come the flag parser, `--help`, the man page, shell
 * completion, and (in vm/) the YAML and JSON of a machine's definition.
 *
 *	struct stop_opts { bool force; uint64_t timeout; };
 *	static const struct opt stop_opts[] = {
 *		{"force", 'f', .type = OPT_FLAG, OPT_AT(struct stop_opts, force),
 *			.help = "do not wait"},
 *		{"timeout", .type = OPT_U64, OPT_AT(struct stop_opts, timeout), .arg = "SECONDS",
 *			.max = 3600, .dflt = "30", .help = "how long to wait"},
 *		OPT_DONE
 *	};
 *	static const struct opt_group stop_groups[] = {{"Options", stop_opts}, {0}};
 *	static const struct command stop = {.program = "lodge", .verb = "stop", .args = "NAME",
 *		.min_args = 1, .max_args = 1, .summary = "shut a machine down", .groups = stop_groups};
 *
 *	struct stop_opts o = {0};
 *	struct args a;
 *	r = command_defaults(&stop, &o, &e) ?: command_parse(&stop, &o, argc, argv, &a, &e);
 *	...
 *	command_free(&stop, &o);
 *
 * Values live in the caller's struct at the offsets that the table names. Texts and lists are
 * malloc'ed and belong to that struct; options_free() releases them. Tables are static and never
 * written. A struct belongs to one thread.
 *
 * Errors are one line with what, where and what to do: they name the nearest flag, the allowed
 * values or the range. -EINVAL stands for every error of the user, -ENOMEM for ours.
 */
#ifndef LODGE_BASE_OPTIONS_H
#define LODGE_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct err;
struct strbuf;

enum opt_type {
	OPT_END,
	OPT_FLAG, /* bool: the flag alone sets it; as a key it is on or off */
	OPT_BOOL, /* bool: on|off (also true|false, yes|no) */
	OPT_UINT, /* unsigned, min..max */
	OPT_U64, /* uint64_t, min..max */
	OPT_SIZE, /* uint64_t bytes, min..max, written as 512M */
	OPT_ENUM, /* int: index into `values` */
	OPT_TEXT, /* char *; NULL when never set */
	/*
	 * pointer to `elem_size` elements, their number an unsigned at count_offset; each use
	 * appends
	 */
	OPT_LIST,
};

enum opt_complete { OPT_COMPLETE_NONE, OPT_COMPLETE_FILE, OPT_COMPLETE_DIR };

struct opt {
	const char *flag; /* without dashes; NULL: not on the command line */
	char letter; /* 0: no short form */
	const char *key; /* in YAML and JSON; NULL: not there */
	enum opt_type type;
	size_t offset;
	size_t width; /* of the member; options_check() compares it with the type */
	/* a bool that becomes true when a value is given; 0: none (so never the first member) */
	size_t set_offset;
	const char *arg; /* how help calls the value: "FILE" */
	const char *help; /* one sentence without final stop; lower case */
	const char *dflt; /* in the same writing as the user's; NULL: zero */
	uint64_t min,
		max; /* numbers; max 0 is no upper bound. Lists: at most `max` elements (0: 64) */
	const char *const *values; /* OPT_ENUM: ends with NULL */
	enum opt_complete complete;
	bool joins; /* OPT_TEXT: given again, it goes on behind a comma; else the last one counts */
	/* What the shell runs to complete the value, as command.names; or NULL. */
	const char *names;
	/* OPT_TEXT: may this be a value? Message without the name of the option. */
	int (*check)(const char *text, struct err *e);
	/*
	 * OPT_LIST: elements have the options of `sub` (a mapping in YAML, "k=v,k,k=v" in a flag,
	 * where `sub` flags have names as keys), or parse and format themselves, or both: then
	 * `parse` takes the text of a flag.
	 */
	const struct opt *sub;
	size_t elem_size;
	size_t count_offset;
	int (*parse)(void *elem, const char *text, struct err *e);
	void (*format)(const void *elem, struct strbuf *out);
};

#define OPT_AT(T, f) .offset = offsetof(T, f), .width = sizeof(((T *)0)->f)
#define OPT_LIST_AT(T, f, n) \
	OPT_AT(T, f), .count_offset = offsetof(T, n), .elem_size = sizeof(*((T *)0)->f)
#define OPT_DONE \
	{ \
		.type = OPT_END \
	}

struct opt_group {
	const char *title; /* heading in help; NULL ends the groups */
	const struct opt *opts;
	size_t base; /* where the object of this table lies in the object of the command */
};

/* A program, or one verb of it. */
struct command {
	const char *program; /* "lodge" */
	const char *verb; /* "run", "image pull"; NULL for a program without verbs */
	const char *args; /* "[IMAGE]"; NULL: takes none */
	unsigned min_args, max_args;
	const char *summary; /* one line, lower case, no final stop */
	const char *text; /* paragraphs, separated by empty lines; may be NULL */
	const struct opt_group *groups; /* may be NULL */
	bool flags_first; /* flags end at the first argument: what follows belongs to another program */
	/* What the shell runs to complete an argument, without the program: "names images"; or NULL. */
	const char *names;
	/* The same for what comes after a colon, in arguments and values: "names formats"; or NULL. */
	const char *suffixes;
};

/* What is left of a command line. `v` points into argv, which command_parse() reorders. */
struct args {
	char **v;
	unsigned n;
	bool help; /* -h or --help was there: nothing else was checked */
};

/* Is the table well formed (widths, defaults in range, names unique)? For unit tests. */
int options_check(const struct opt *opts, struct err *e);

/* Puts the defaults into a zeroed object. */
int options_defaults(const struct opt *opts, void *obj, struct err *e);
void options_free(const struct opt *opts, void *obj);

/* Options by name; NULL when there is none. Keys have dashes, as flags do; an underscore is taken for one. */
const struct opt *options_by_flag(const struct opt *opts, const char *flag);
const struct opt *options_by_key(const struct opt *opts, const char *key);

/* Sets one value from text (for a list: appends an element). The message has no name in front. */
int options_set(const struct opt *o, void *obj, const char *text, struct err *e);
/* "key=value,flag,key=value" over a table; a comma inside a value is written twice. */
int options_set_many(const struct opt *opts, void *obj, const char *text, struct err *e);
/* A new element at the end of a list, with its defaults; the list owns it. NULL with a message. */
void *options_append(const struct opt *o, void *obj, struct err *e);
/* The value in the user's writing; not for lists. */
void options_get(const struct opt *o, const void *obj, struct strbuf *out);
/* Has it the value that options_defaults() gives? (a list: is it empty?) */
bool options_is_default(const struct opt *o, const void *obj);
unsigned options_count(const struct opt *o, const void *obj);
void *options_elem(const struct opt *o, const void *obj, unsigned i);

/* options_defaults(), options_free() and options_check() for all groups of a command. */
int command_defaults(const struct command *c, void *obj, struct err *e);
void command_free(const struct command *c, void *obj);
int command_check(const struct command *c, struct err *e);

/*
 * Reads argv[1..]: "--flag value", "--flag=value", "-f value", "-fvalue", "-ab" for flags; "--"
 * ends the flags. `obj` has its defaults already. Also checks the number of arguments. -EINVAL: a
 * usage error (exit code 2).
 */
int command_parse(
	const struct command *c, void *obj, int argc, char **argv, struct args *a, struct err *e);

/*
 * The last value of a flag on this line, without setting anything; NULL when it is not there (for
 * --config).
 */
const char *command_peek(const struct command *c, int argc, char *const *argv, const char *flag);

void command_print_help(const struct command *c, FILE *f);
/* How many columns f has; `otherwise` where it is no terminal, or one that does not say. */
unsigned text_columns(FILE *f, unsigned otherwise);
/* The text's words and a newline, from column `col` on, where f stands, continued at `indent`: 100 columns, or as many as f has when that is less. */
void text_print_folded(FILE *f, const char *text, size_t col, size_t indent);
/* "lodge run [OPTION...] [IMAGE]" */
void command_usage(const struct command *c, struct strbuf *out);

/*
 * A page of section 1 in man(7) macros over one program and its n commands (n = 1 and no verb: a
 * plain program).
 */
struct man_page {
	const char *program, *version, *date, *summary;
	const char *text; /* DESCRIPTION; paragraphs */
	const char *after; /* more sections in man(7) macros, may be NULL */
};
void commands_print_man(
	const struct man_page *m, const struct command *const *cmds, unsigned n, FILE *f);

/* A completion script for bash (4 or later); for zsh through bashcompinit. */
void commands_print_completion(
	const char *program, const struct command *const *cmds, unsigned n, FILE *f);

#endif
