#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/hex.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/ui/print.h"
#include "cli/verb.h"

struct inspect {
	bool json;
	char *acpi;
};

static const struct opt opts[] = {
	{"json", .type = OPT_FLAG, OPT_AT(struct inspect, json), .help = "print one JSON object"},
	{"acpi", .type = OPT_TEXT, OPT_AT(struct inspect, acpi), .arg = "DIR",
		.complete = OPT_COMPLETE_FILE,
		.help = "write the machine's ACPI tables into DIR instead, a file each"},
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

/* facp.dat, dsdt.dat, ...: as acpidump(1) names them. */
static int write_table(const char *dir, const char *name, const char *text, struct err *e)
{
	size_t len = strlen(text) / 2;
	cleanup(free_ptr) uint8_t *bytes = malloc(len + 1);
	char path[4096], low[8] = "";

	for (size_t i = 0; i < 4 && name[i]; i++)
		low[i] = (char)tolower((unsigned char)name[i]);
	if (!bytes)
		return err_set(e, -ENOMEM, "no memory");
	if (strlen(name) != 4 || !isalpha((unsigned char)name[0]) || strchr(name, '/') ||
		hex_get(bytes, len, text))
		return err_set(e, -EPROTO, "the machine sent no ACPI table");
	if ((size_t)snprintf(path, sizeof(path), "%s/%s.dat", dir, low) >= sizeof(path))
		return err_set(e, -ENAMETOOLONG, "%s: the path is too long", dir);
	return fs_write_file_atomic(path, bytes, len, 0644, e);
}

static int write_tables(struct client *c, const char *dir, struct err *e)
{
	cleanup(json_drop) json_t *all = NULL;
	const char *name;
	json_t *v;
	int rc = client_call(c, "acpi", NULL, &all, e);

	if (!rc)
		rc = fs_mkdir_p(dir, 0755, e);
	json_object_foreach(all, name, v)
	{
		if (!rc)
			rc = write_table(dir, name, json_string_value(v) ?: "", e);
	}
	if (!rc)
		printf("%zu tables in %s\n", json_object_size(all), dir);
	return rc;
}

static int run(void *o, const struct args *a)
{
	const struct inspect *in = o;
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(json_drop) json_t *all = NULL;
	struct err e = {0};
	int rc = client_open(&c, a->v[0], &e);

	if (!rc && in->acpi)
		return write_tables(&c, in->acpi, &e) ? fail(&e) : EXIT_DONE;
	if (!rc)
		rc = client_call(&c, "inspect", NULL, &all, &e);
	if (rc)
		return fail(&e);
	if (in->json)
		print_json(all);
	else
		print_value("", all);
	return EXIT_DONE;
}

const struct verb verbs_inspect[] = {
	{VERB("inspect", "NAME", "show every register and device field of a machine by name"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = groups,
		.size = sizeof(struct inspect), .cmd.names = "names machines", .run = run},
	VERBS_END,
};
