/*
 * verb.h: the verbs of `lodge`.
 *
 * One table of struct verb in each verb_*.c, named in main.c. Options are declared
 * (base/options.h), not parsed by hand; the parser fills an object of `size` bytes and main.c
 * releases it. Help, man page and completion come from the same tables.
 *
 *	struct stop { bool force; };
 *	static const struct opt stop_opts[] = {...};
 *	static const struct opt_group stop_groups[] = {{"Options", stop_opts}, {0}};
 *	const struct verb verbs_stop[] = {
 *		{VERB("stop", "NAME", "shut a machine down"), .cmd.min_args = 1, .cmd.max_args = 1,
 *			.cmd.groups = stop_groups, .size = sizeof(struct stop), .run = run_stop},
 *		VERBS_END,
 *	};
 */
#ifndef LODGE_CLI_VERB_H
#define LODGE_CLI_VERB_H

#include <stdbool.h>
#include <stddef.h>

#include "base/options.h"

/* Exit codes of `lodge` (docs/cli.md). */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_FOUND = 3,
	EXIT_LOCKED = 4
};

/* For verbs with no option but --json; main.c. */
struct json_only {
	bool json;
};
extern const struct opt_group json_groups[];

struct verb {
	struct command cmd; /* cmd.verb: "image pull", words as typed; NULL ends a table */
	size_t size; /* of the object that the groups describe; 0 without options */
	/* The exit code is 0..255, so that `lodge run` can pass the guest's on. */
	int (*run)(void *opts, const struct args *a);
	/* Instead of command_parse(), for what must be read before flags; may be NULL. */
	int (*parse)(const struct command *c, void *opts, int argc, char **argv, struct args *a,
		struct err *e);
};

#define VERB(name, arguments, text) \
	.cmd.program = "lodge", .cmd.verb = name, .cmd.args = arguments, .cmd.summary = text

#define VERBS_END \
	{ \
		.cmd.verb = NULL \
	}

/* The verbs of each file, each ending with VERBS_END. */
extern const struct verb verbs_image[];
extern const struct verb verbs_disk[];
extern const struct verb verbs_disk_make[];
extern const struct verb verbs_disk_changes[];
extern const struct verb verbs_store[];
extern const struct verb verbs_switch[];
extern const struct verb verbs_exec[];
extern const struct verb verbs_cp[];
extern const struct verb verbs_agent[];
extern const struct verb verbs_help[];
extern const struct verb verbs_run[];
extern const struct verb verbs_ps[];
extern const struct verb verbs_stop[];
extern const struct verb verbs_control[];
extern const struct verb verbs_console[];
extern const struct verb verbs_logs[];
extern const struct verb verbs_inspect[];
extern const struct verb verbs_stats[];
extern const struct verb verbs_trace[];
extern const struct verb verbs_rm[];
extern const struct verb verbs_names[];
extern const struct verb verbs_doctor[];
extern const struct verb verbs_cpu[];
extern const struct verb verbs_clone[];
extern const struct verb verbs_snapshot[];
extern const struct verb verbs_snapshot_create[];
extern const struct verb verbs_restore[];
extern const struct verb verbs_migrate[];
extern const struct verb verbs_receive[];
extern const struct verb verbs_update[];

/* All verbs in the order of the help; fills at most `max`, returns how many there are. main.c. */
size_t verbs_all(const struct verb **list, size_t max);
#define VERBS_MAX 128

/* The exit code that fits a negative errno: -EINVAL is that what was asked for cannot be. */
int exit_code_of(int code);

/* Prints "lodge: <message>" and returns the exit code for the error. */
struct err;
int fail(const struct err *e);
/* The same for what the options' tables cannot say: returns EXIT_USAGE. */
int usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* For each argument, whatever became of those before. `one` answers with an exit code; the first that is not 0. */
int each_argument(
	const struct args *a, const void *opts, int (*one)(const void *opts, const char *arg));

#endif
