/* What processors offer to guests, and the model that several hosts have in common. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/ui/print.h"
#include "cli/verb.h"
#include "vm/host/cpu.h"

#define HOST_MAX (1u << 20) /* bytes of one file */

static void print(const json_t *j)
{
	const json_t *list = json_object_get(j, "features"), *f;
	const char *model = json_string_value(json_object_get(j, "model"));
	size_t i;

	printf("vendor    %s\nmodel     %s\nfeatures ",
		json_string_value(json_object_get(j, "vendor")), model ?: "none: less than x86-64");
	json_array_foreach(list, i, f) printf(" %s", json_string_value(f));
	putchar('\n');
}

static int run_show(void *o, const struct args *a)
{
	const struct json_only *c = o;
	cleanup(json_drop) json_t *j = NULL;
	struct err e = {0};

	if (host_cpu(&j, &e))
		return fail(&e);
	if (c->json)
		print_json(j);
	else
		print(j);
	return EXIT_DONE;
}

static int read_host(json_t *hosts, const char *path, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	json_error_t je;
	json_t *j;
	int rc = fs_read_file(path, HOST_MAX, &text, NULL, e);

	if (rc)
		return rc;
	j = json_loads(text, JSON_REJECT_DUPLICATES, &je);
	if (!j)
		return err_set(e, -EINVAL, "%s: line %d: %s; write it with lodge cpu show --json",
			path, je.line, je.text);
	json_array_append_new(hosts, j);
	return 0;
}

static int run_baseline(void *o, const struct args *a)
{
	const struct json_only *c = o;
	cleanup(json_drop) json_t *hosts = json_array(), *common = NULL;
	json_t *here = NULL;
	struct err e = {0};
	int rc = 0;

	if (!a->n) {
		rc = host_cpu(&here, &e);
		if (!rc)
			json_array_append_new(hosts, here);
	}
	for (int i = 0; !rc && i < (int)a->n; i++)
		rc = read_host(hosts, a->v[i], &e);
	if (!rc)
		rc = host_cpu_common(hosts, &common, &e);
	if (rc)
		return fail(&e);
	if (c->json)
		print_json(common);
	else
		puts(json_string_value(json_object_get(common, "model")));
	return EXIT_DONE;
}

const struct verb verbs_cpu[] = {
	{VERB("cpu show", "", "what this host's processor offers to guests of the kvm engine"),
		.cmd.groups = json_groups, .size = sizeof(struct json_only), .run = run_show},
	{VERB("cpu baseline", "[FILE...]",
		 "the greatest CPU model that all hosts have (files of lodge cpu show --json)"),
		.cmd.max_args = 64, .cmd.groups = json_groups, .size = sizeof(struct json_only),
		.run = run_baseline},
	VERBS_END,
};
