#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/ui/print.h"
#include "cli/verb.h"

struct stats {
	bool json, follow, jit, exits;
};

static const struct opt opts[] = {
	{"follow", 'f', .type = OPT_FLAG, OPT_AT(struct stats, follow),
		.help = "again every second, until the machine ends"},
	{"jit", .type = OPT_FLAG, OPT_AT(struct stats, jit),
		.help = "also what the translator of guest code did"},
	{"exits", .type = OPT_FLAG, OPT_AT(struct stats, exits),
		.help = "also why vCPUs left their guest, and what the guest was given without "
			"that"},
	{"json", .type = OPT_FLAG, OPT_AT(struct stats, json),
		.help = "print one JSON object a line"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

struct events {
	bool json, follow;
};

static const struct opt events_opts[] = {
	{"follow", 'f', .type = OPT_FLAG, OPT_AT(struct events, follow),
		.help = "and what happens from now on, as it does, until the machine ends"},
	{"json", .type = OPT_FLAG, OPT_AT(struct events, json),
		.help = "one JSON object a line, which is how they are printed anyhow"},
	OPT_DONE,
};
static const struct opt_group events_groups[] = {{"Options", events_opts, 0}, {0}};

static double num(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

/* Sums over the vCPUs, by type. */
static void print_exits(const json_t *now, const json_t *before)
{
	json_t *names = json_object();
	const char *name;
	json_t *v, *one;
	size_t i;

	json_array_foreach(json_object_get(now, "vcpu"), i, v)
		json_object_foreach(json_object_get(v, "types"), name, one)
			json_object_set_new(names, name, json_null());
	printf("  %-18s %14s %14s\n", "type", "exits", "without one");
	json_object_foreach(names, name, one)
	{
		double exits = 0, given = 0;

		json_array_foreach(json_object_get(now, "vcpu"), i, v)
		{
			const json_t *old =
				before ? json_array_get(json_object_get(before, "vcpu"), i) : NULL;
			const json_t *a = json_object_get(json_object_get(v, "types"), name);
			const json_t *b = json_object_get(json_object_get(old, "types"), name);

			exits += num(a, "exits") - num(b, "exits");
			given += num(a, "given") - num(b, "given");
		}
		printf("  %-18s %14.0f %14.0f\n", name, exits, given);
	}
	json_decref(names);
}

/* `before` may be NULL: then the figures are since the start. */
static void print(const json_t *now, const json_t *before, const struct stats *s)
{
	const json_t *host = json_object_get(now, "host");
	double dt = num(now, "uptime_ms") - (before ? num(before, "uptime_ms") : 0);
	const json_t *engine = json_object_get(now, "engine");
	const char *id;
	json_t *v, *d;
	size_t i;

	printf("%s, guest RAM in use %.0f MiB, lodge-vm itself %.1f MiB\n",
		json_string_value(json_object_get(now, "state")), num(host, "guest_ram_kib") / 1024,
		num(host, "own_kib") / 1024);
	json_array_foreach(json_object_get(now, "vcpu"), i, v)
	{
		const json_t *old = before ? json_array_get(json_object_get(before, "vcpu"), i)
					   : NULL;
		double run = num(v, "run_ms") - num(old, "run_ms");
		double insns = num(v, "instructions") - num(old, "instructions");

		printf("  vCPU %zu  busy %5.1f %%  %8.1f M instructions/s  %7.0f traps  %7.0f "
		       "interrupts\n",
			i, dt > 0 ? 100 * run / dt : 0, dt > 0 ? insns / dt / 1000 : 0,
			num(v, "traps") - num(old, "traps"),
			num(v, "interrupts") - num(old, "interrupts"));
	}
	json_object_foreach(json_object_get(now, "devices"), id, d)
	{
		char *text = json_dumps(d, JSON_COMPACT);

		printf("  %-10s %s\n", id, text ?: "");
		free(text);
	}
	if (s->exits)
		print_exits(now, before);
	if (s->jit && !json_object_size(engine))
		printf("  translator: off (--engine interp, or see `lodge doctor`: rv64 JIT)\n");
	if (s->jit)
		json_object_foreach((json_t *)engine, id, d)
			printf("  %-24s %14.0f\n", id, json_number_value(d));
}

static int run(void *o, const struct args *a)
{
	const struct stats *s = o;
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(json_drop) json_t *before = NULL;
	struct err e = {0};

	if (client_open(&c, a->v[0], &e))
		return fail(&e);
	for (;;) {
		json_t *now = NULL;

		if (client_call(&c, "stats", NULL, &now, &e))
			return before ? EXIT_DONE : fail(&e); /* it has ended while we followed */
		if (s->json)
			print_json(now);
		else
			print(now, before, s);
		fflush(stdout);
		json_decref(before);
		before = now;
		if (!s->follow)
			return EXIT_DONE;
		nanosleep(&(struct timespec){1, 0}, NULL);
	}
}

static int run_events(void *o, const struct args *a)
{
	const struct events *s = o;
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(json_drop) json_t *past = NULL;
	struct err e = {0};
	json_t *one;
	size_t i;

	if (client_open(&c, a->v[0], &e) ||
		client_call(&c, "events", json_pack("{s:b}", "follow", s->follow), &past, &e))
		return fail(&e);
	json_array_foreach(json_object_get(past, "events"), i, one)
	{
		print_json(one);
	}
	while (s->follow) {
		char name[64];
		json_t *params;

		fflush(stdout);
		if (client_event(&c, name, sizeof(name), &params, &e))
			break;
		one = json_pack("{s:s, s:o}", "event", name, "params", params);
		print_json(one);
		json_decref(one);
	}
	return EXIT_DONE;
}

const struct verb verbs_stats[] = {
	{VERB("stats", "NAME", "show what a machine is doing"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.groups = groups, .cmd.names = "names machines",
		.size = sizeof(struct stats), .run = run},
	{VERB("events", "NAME", "show what happened to a machine, one JSON object a line"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = events_groups,
		.cmd.names = "names machines", .size = sizeof(struct events), .run = run_events},
	VERBS_END,
};
