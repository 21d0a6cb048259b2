#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/ui/print.h"
#include "cli/verb.h"

struct trace {
	bool json, follow;
	unsigned seconds;
	char *types;
	bool asked; /* already */
};

static const struct opt opts[] = {
	{"follow", 'f', .type = OPT_FLAG, OPT_AT(struct trace, follow),
		.help = "until the machine ends or Ctrl-C"},
	{"seconds", .type = OPT_UINT, OPT_AT(struct trace, seconds), .arg = "N", .dflt = "1",
		.min = 1, .max = 86400, .help = "so long, without --follow"},
	{"type", .type = OPT_TEXT, OPT_AT(struct trace, types), .arg = "TYPE,...",
		.help = "only these, as stats --exits names them"},
	{"json", .type = OPT_FLAG, OPT_AT(struct trace, json),
		.help = "print one JSON object a line"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

static const char *text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key)) ?: "";
}

static void print(const json_t *x, double since_ns)
{
	double t = (json_number_value(json_object_get(x, "time_ns")) - since_ns) / 1e9;
	json_int_t count = json_integer_value(json_object_get(x, "count"));

	printf("%10.6f  vCPU %-3lld %-5s %-16s %-18s %-36s pc %s", t,
		(long long)json_integer_value(json_object_get(x, "vcpu")),
		json_is_true(json_object_get(x, "given")) ? "given" : "exit", text(x, "type"),
		text(x, "raw"), text(x, "code"), text(x, "pc"));
	if (strcmp(text(x, "address"), "0"))
		printf(" address %s", text(x, "address"));
	if (strcmp(text(x, "physical"), "0"))
		printf(" physical %s", text(x, "physical"));
	if (count > 1)
		printf(" x%lld", (long long)count);
	putchar('\n');
}

/* False: the machine has ended. */
static int ask(
	struct client *c, struct trace *t, bool stop, double *since, bool *more, struct err *e)
{
	cleanup(json_drop) json_t *got = NULL;
	json_int_t lost;
	json_t *x;
	size_t i;
	int rc = client_call(c, "exits",
		json_pack("{s:b, s:s}", "stop", stop, "types", t->types ?: ""), &got, e);

	if (rc)
		return rc;
	json_array_foreach(json_object_get(got, "exits"), i, x)
	{
		if (!*since)
			*since = json_number_value(json_object_get(x, "time_ns"));
		if (t->json)
			print_json(x);
		else
			print(x, *since);
	}
	fflush(stdout);
	*more = json_is_true(json_object_get(got, "more"));
	if (t->asked && json_is_true(json_object_get(got, "fresh")))
		fprintf(stderr, "lodge: this program was held up for seconds: what came meanwhile "
				"is lost\n");
	t->asked = true;
	lost = json_integer_value(json_object_get(got, "lost"));
	if (lost)
		fprintf(stderr, "lodge: %lld came faster than they could be told: lost\n",
			(long long)lost);
	return 0;
}

static int run(void *o, const struct args *a)
{
	struct trace *t = o;
	cleanup(client_close) struct client c = {.fd = -1};
	struct err e = {0};
	uint64_t end;
	double since = 0;
	bool more;
	int rc;

	if (strcmp(a->v[1], "exits"))
		return usage("no such subject \"%s\": exits is the one there is", a->v[1]);
	if (client_open(&c, a->v[0], &e))
		return fail(&e);
	rc = ask(&c, t, false, &since, &more, &e);
	if (rc)
		return fail(&e);
	end = clock_mono_ns() + 1000000000ull * t->seconds;
	while (!rc && !ferror(stdout) && (t->follow || clock_mono_ns() < end)) {
		if (!more)
			nanosleep(&(struct timespec){0, 20000000}, NULL);
		rc = ask(&c, t, false, &since, &more, &e);
	}
	while (!rc && more)
		rc = ask(&c, t, false, &since, &more, &e);
	if (!rc)
		rc = ask(&c, t, true, &since, &more, &e);
	/* It has ended while we followed: that is what was waited for. */
	return !rc || rc == -EPIPE || rc == -ENOENT ? EXIT_DONE : fail(&e);
}

const struct verb verbs_trace[] = {
	{VERB("trace", "NAME exits",
		 "show why a machine's vCPUs leave their guest, one by one, with both codes"),
		.cmd.min_args = 2, .cmd.max_args = 2, .cmd.groups = groups,
		.cmd.names = "names machines", .size = sizeof(struct trace), .run = run,
		.cmd.text =
			"Each line is an exit, or something that the guest was given without one "
			"(interrupts, exceptions): the code of the guest's ISA, the code of the "
			"primary ISA that it was translated to, and the type that follows from "
			"that. "
			"x3 after an interrupt: three messages that came as one. What the kvm "
			"engine "
			"gives its guests happens in the kernel and is not seen."},
	VERBS_END,
};
