#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/place.h"
#include "cli/ui/print.h"
#include "cli/verb.h"
#include "vm/rundir.h"

struct ps {
	bool json, all;
};

#define PATIENCE_S 15u

static const struct opt opts[] = {
	{"all", 'a', .type = OPT_FLAG, OPT_AT(struct ps, all),
		.help = "also those that do not run and whose disk or logs are kept"},
	{"json", .type = OPT_FLAG, OPT_AT(struct ps, json), .help = "print one JSON object a line"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

static void print_row(const json_t *st)
{
	long long up = json_integer_value(json_object_get(st, "uptime_ms")) / 1000;
	char mem[SIZE_TEXT];

	printf("%-24s %-8s %8lld %5lld %8s  %lldh%02lldm%02llds\n",
		json_string_value(json_object_get(st, "name")),
		json_string_value(json_object_get(st, "state")),
		(long long)json_integer_value(json_object_get(st, "pid")),
		(long long)json_integer_value(json_object_get(st, "vcpus")),
		size_text(mem, (uint64_t)json_integer_value(json_object_get(st, "memory"))),
		up / 3600, up / 60 % 60, up % 60);
}

/* What is kept of machines that do not run. */
static int print_kept(const struct ps *p, struct err *e)
{
	cleanup(fs_names_free) struct fs_names names;
	int rc = place_names(&names, e);

	if (rc)
		return rc;
	for (size_t i = 0; i < names.n; i++) {
		if (rundir_alive(names.v[i]))
			;
		else if (p->json)
			printf("{\"name\":\"%s\",\"state\":\"off\"}\n", names.v[i]);
		else
			printf("%-24s %-8s\n", names.v[i], "off");
	}
	return 0;
}

static int run(void *o, const struct args *a)
{
	const struct ps *p = o;
	cleanup(fs_names_free) struct fs_names names;
	struct err e = {0};

	if (client_names(&names, &e))
		return fail(&e);
	if (!p->json)
		printf("%-24s %-8s %8s %5s %8s  %s\n", "NAME", "STATE", "PID", "VCPUS", "MEMORY",
			"UPTIME");
	for (size_t i = 0; i < names.n; i++) {
		cleanup(client_close) struct client c = {.fd = -1};
		cleanup(json_drop) json_t *st = NULL;

		int rc = client_open(&c, names.v[i], NULL);

		if (!rc) {
			client_patience(&c, PATIENCE_S);
			rc = client_call(&c, "status", NULL, &st, NULL);
		}
		/* It waits for its host: storage that hangs, a page of its memory that is still elsewhere. */
		if (rc == -ETIMEDOUT)
			st = json_pack("{s:s, s:s, s:i}", "name", names.v[i], "state", "stuck",
				"pid", rundir_pid(names.v[i]));
		/* One that ends while we look is simply not listed. */
		if (st) {
			if (p->json)
				print_json(st);
			else
				print_row(st);
		}
	}
	return p->all && print_kept(p, &e) ? fail(&e) : EXIT_DONE;
}

const struct verb verbs_ps[] = {
	{VERB("ps", NULL, "list the machines that run"), .cmd.groups = groups,
		.size = sizeof(struct ps), .run = run},
	VERBS_END,
};
