/* Names alone, one a line, for shell completion and scripts. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/spell.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/place.h"
#include "cli/snapshot/store.h"
#include "cli/verb.h"
#include "disk/tool.h"
#include "image/image.h"

static int print_names(int rc, const struct fs_names *names)
{
	for (size_t i = 0; i < names->n; i++)
		puts(names->v[i]);
	return rc;
}

static int machines(struct err *e)
{
	cleanup(fs_names_free) struct fs_names names;

	return print_names(client_names(&names, e), &names);
}

static int kept(struct err *e)
{
	cleanup(fs_names_free) struct fs_names names;

	return print_names(place_names(&names, e), &names);
}

static int snapshots(struct err *e)
{
	cleanup(fs_names_free) struct fs_names names;

	return print_names(snapstore_names(&names, e), &names);
}

static int switches(struct err *e)
{
	cleanup(fs_names_free) struct fs_names names;

	return print_names(client_switch_names(&names, e), &names);
}

static int images(struct err *e)
{
	cleanup(image_dirs_free) struct image_dirs d = {0};
	cleanup(json_drop) json_t *all = NULL;
	int rc = image_dirs_default(&d, e);
	json_t *m;
	size_t i;

	if (rc)
		return rc;
	all = image_list(&d, e);
	if (!all)
		return e->code;
	json_array_foreach(all, i, m) puts(json_string_value(json_object_get(m, "name")) ?: "");
	return 0;
}

static int pullable(struct err *e)
{
	size_t n;
	const struct image_kind *k = image_kinds(&n);

	for (size_t i = 0; i < n; i++)
		puts(k[i].name);
	return 0;
}

static int formats(struct err *e)
{
	const struct disk_format *f;

	(void)e;
	for (unsigned i = 0; (f = disk_format_at(i)); i++)
		puts(f->name);
	return 0;
}

static int stores(struct err *e)
{
	const struct disk_store_format *f;

	(void)e;
	for (unsigned i = 0; (f = disk_store_at(i)); i++)
		puts(f->name);
	return 0;
}

static const struct {
	const char *name;
	int (*print)(struct err *e);
} kinds[] = {
	{"machines", machines},
	{"snapshots", snapshots},
	{"kept", kept},
	{"switches", switches},
	{"images", images},
	{"pullable", pullable},
	{"formats", formats},
	{"stores", stores},
};

static int run(void *o, const struct args *a)
{
	struct err e = {0};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].name, a->v[0]))
			return kinds[i].print(&e) ? fail(&e) : EXIT_DONE;
	return usage("no kind \"%s\": give machines, kept, snapshots, switches, images, pullable, "
		     "formats or stores",
		a->v[0]);
}

const struct verb verbs_names[] = {
	{VERB("names", "KIND", "print names, one a line, for scripts and completion"),
		.cmd.text = "KIND is machines (those that run), kept (also those that do not), "
			    "snapshots, switches, images, pullable (images that can be made), "
			    "formats (of "
			    "disks) or stores (formats of those).",
		.cmd.min_args = 1, .cmd.max_args = 1, .run = run},
	VERBS_END,
};
