#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/verb.h"

struct inspect {
	bool json;
};

static const struct opt opts[] = {
	{"json", .type = OPT_FLAG, OPT_AT(struct inspect, json), .help = "print one JSON object"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

static void print_value(const char *path, const json_t *v)
{
	char *text;

	if (json_is_object(v)) {
		const char *k;
		json_t *x;

		json_object_foreach((json_t *)(uintptr_t)v, k, x)
		{
			char sub[512];

			snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "." : "", k);
			print_value(sub, x);
		}
		return;
	}
	text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
	printf("%-36s %s\n", path, text ?: "");
	free(text);
}

static int run(void *o, const struct args *a)
{
	const struct inspect *in = o;
	cleanup(client_close) struct client c;
	cleanup(json_drop) json_t *st = NULL;
	cleanup(json_drop) json_t *all = NULL;
	struct err e = {0};
	bool running;
	int rc = client_open(&c, a->v[0], &e);

	if (!rc)
		rc = client_call(&c, "status", NULL, &st, &e);
	if (rc)
		return fail(&e);
	/* Registers are read while they stand still: a running machine is paused for that moment. */
	running = !strcmp(json_string_value(json_object_get(st, "state")) ?: "", "running");
	if (running)
		rc = client_call(&c, "pause", NULL, NULL, &e);
	if (!rc)
		rc = client_call(&c, "inspect", NULL, &all, &e);
	if (running && client_call(&c, "resume", NULL, NULL, rc ? NULL : &e) && !rc)
		rc = -1;
	if (rc)
		return fail(&e);
	json_object_update(json_object_get(all, "status"), st);
	if (in->json) {
		json_dumpf(all, stdout, JSON_INDENT(1));
		putchar('\n');
	} else {
		print_value("", all);
	}
	return EXIT_DONE;
}

const struct verb verbs_inspect[] = {
	{VERB("inspect", "NAME", "show every register and device field of a machine by name"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = groups,
		.size = sizeof(struct inspect), .cmd.names = "names machines", .run = run},
	VERBS_END,
};
