/*
 * verb.h: the table that the command line, its help, the man pages and shell completion are made from.
 *
 * One struct verb for each verb, in a file of its own, named in the table of main.c. Options are declared,
 * not parsed by hand: the parser fills one `struct opt_value` for each row, in the same order.
 */
#ifndef LODGE_CLI_VERB_H
#define LODGE_CLI_VERB_H

#include <stdbool.h>
#include <stddef.h>

/* Exit codes of `lodge` (docs: DESIGN section 6). */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_FOUND = 3,
	EXIT_LOCKED = 4
};

struct opt {
	const char *name; /* "mirror", typed as --mirror */
	const char *arg; /* what it takes, as help shows it ("URL"); NULL: a switch */
	const char *help; /* one line, no final dot */
	const char *words; /* values to complete, blanks between; NULL: none */
};

struct opt_value {
	bool set;
	const char *text; /* of the last time it was given; NULL for a switch */
};

struct verb_call {
	const struct opt_value *opt; /* by the row of the table */
	const char *const *args; /* what is not an option, NULL-terminated */
	size_t nargs;
};

struct verb {
	const char *name; /* "image pull": words as typed */
	const char *args; /* "IMAGE", "[IMAGE...]"; NULL: none */
	const char *help; /* one line */
	const char *more; /* paragraphs for the man page and `--help` of the verb; may be NULL */
	const struct opt *opts; /* ends with a row whose name is NULL; NULL: none */
	size_t min_args, max_args;
	enum exit_code (*run)(const struct verb_call *c);
};

/* The verbs of each file, each ending with a row whose name is NULL. */
extern const struct verb verbs_image[];

/* The exit code that fits a negative errno. */
enum exit_code exit_code_of(int code);

/* Prints "lodge: <message>" and returns the exit code for the error. */
struct err;
enum exit_code fail(const struct err *e);

#endif
