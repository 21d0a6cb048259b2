/* verb_agent.c: what a guest's agent knows and can do beside exec and cp. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/client.h"
#include "base/err.h"
#include "base/util.h"
#include "cli/guest/guest.h"
#include "cli/ui/print.h"
#include "cli/verb.h"

struct common {
	bool json;
	unsigned wait;
};

#define COMMON \
	{"json", .type = OPT_FLAG, OPT_AT(struct common, json), .help = "print one JSON object"}, \
	{ \
		"wait", .type = OPT_UINT, OPT_AT(struct common, wait), .arg = "SECONDS", \
			.max = 3600, .dflt = "0", \
			.help = "how long to wait for a guest that is still coming up" \
	}

static const struct opt common_opts[] = {COMMON, OPT_DONE};
static const struct opt_group common_groups[] = {{"Options", common_opts, 0}, {0}};

/* Lines of "key=value" that a guest wrote; what is not printable is not printed. */
static json_t *lines(const uint8_t *p, size_t len)
{
	json_t *j = json_object();

	for (size_t at = 0; at < len;) {
		const uint8_t *nl = memchr(p + at, '\n', len - at);
		size_t n = nl ? (size_t)(nl - p) - at : len - at;
		const uint8_t *eq = memchr(p + at, '=', n);
		char key[32] = "", value[256] = "";

		if (eq) {
			snprintf(key, sizeof(key), "%.*s", (int)(eq - p - (ptrdiff_t)at), p + at);
			snprintf(value, sizeof(value), "%.*s", (int)(p + at + n - eq - 1), eq + 1);
			for (char *c = key; *c; c++)
				*c = *c < ' ' || *c > '~' ? '?' : *c;
			for (char *c = value; *c; c++)
				*c = *c < ' ' || *c > '~' ? '?' : *c;
			json_object_set_new(j, key, json_string(value));
		}
		at += n + 1;
	}
	return j;
}

static int run_info(void *o, const struct args *a)
{
	const struct common *c = o;
	cleanup(agent_closep) struct agent_client *agent = NULL;
	struct err e = {0};
	const char *key;
	json_t *j, *v;

	if (guest_agent(&agent, a->v[0], c->wait, &e))
		return fail(&e);
	agent_begin(&agent->out, AGENT_INFO);
	if (agent_send(agent, 0, &e) || agent_expect(agent, AGENT_TEXT, &e))
		return fail(&e);
	j = lines(agent->in.payload, agent->in.left);
	json_object_set_new(j, "agent", json_string(agent->build));
	json_object_set_new(j, "protocol", json_integer(agent->version));
	if (c->json) {
		print_json_drop(j);
		return EXIT_DONE;
	}
	json_object_foreach(j, key, v)
	{
		if (json_is_string(v))
			printf("%-12s %s\n", key, json_string_value(v));
		else
			printf("%-12s %lld\n", key, (long long)json_integer_value(v));
	}
	json_decref(j);
	return EXIT_DONE;
}

static int run_time(void *o, const struct args *a)
{
	const struct common *c = o;
	cleanup(agent_closep) struct agent_client *agent = NULL;
	struct err e = {0};
	int64_t off;

	if (guest_agent(&agent, a->v[0], c->wait, &e) || agent_set_time(agent, &off, &e))
		return fail(&e);
	if (c->json)
		print_json_drop(json_pack("{s:I}", "was_behind_ns", (json_int_t)off));
	else
		printf("the guest's clock was %.3f s %s\n", (double)(off < 0 ? -off : off) / 1e9,
			off < 0 ? "ahead" : "behind");
	return EXIT_DONE;
}

struct identity {
	struct common c;
	char *hostname;
	bool keep_machine_id, keep_host_keys;
};
static const struct opt identity_opts[] = {
	COMMON,
	{"hostname", .type = OPT_TEXT, OPT_AT(struct identity, hostname), .arg = "NAME",
		.help = "the guest's new name"},
	{"keep-machine-id", .type = OPT_FLAG, OPT_AT(struct identity, keep_machine_id),
		.help = "leave /etc/machine-id"},
	{"keep-host-keys", .type = OPT_FLAG, OPT_AT(struct identity, keep_host_keys),
		.help = "leave the SSH host keys"},
	OPT_DONE,
};
static const struct opt_group identity_groups[] = {{"Options", identity_opts, 0}, {0}};

static int run_identity(void *o, const struct args *a)
{
	const struct identity *x = o;
	cleanup(agent_closep) struct agent_client *agent = NULL;
	struct err e = {0};
	uint32_t flags = (x->keep_machine_id ? 0 : AGENT_ID_MACHINE_ID) |
			 (x->keep_host_keys ? 0 : AGENT_ID_HOST_KEYS);

	if (guest_agent(&agent, a->v[0], x->c.wait, &e))
		return fail(&e);
	agent->timeout_ms = 120000; /* RSA keys in an interpreted guest */
	if (agent_identity(agent, flags, x->hostname ?: "", &e))
		return fail(&e);
	if (x->c.json)
		print_json_drop(json_object());
	return EXIT_DONE;
}

const struct verb verbs_agent[] = {
	{VERB("agent info", "NAME", "what a guest's agent says of its guest"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.groups = common_groups, .cmd.names = "names machines",
		.size = sizeof(struct common), .run = run_info},
	{VERB("agent time", "NAME", "set a guest's clock to this host's"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.groups = common_groups, .cmd.names = "names machines",
		.size = sizeof(struct common), .run = run_time},
	{VERB("agent identity", "NAME", "give a guest an identity of its own"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.groups = identity_groups, .cmd.names = "names machines",
		.cmd.text =
			"Seeds the guest's random number generator anew, then makes a new machine "
			"id and new SSH host keys: for a disk or a machine that was copied.",
		.size = sizeof(struct identity), .run = run_identity},
	VERBS_END,
};
