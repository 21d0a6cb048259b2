#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/disk/disk_session.h"
#include "cli/verb.h"

/* "FILE:lodgefs" to its parts. */
static int split(const char *name, char **path, const struct disk_store_format **f, struct err *e)
{
	const char *colon = strrchr(name, ':');
	char list[128] = "";

	*f = NULL;
	for (unsigned i = 0; disk_store_at(i); i++) {
		size_t n = strlen(list);

		snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", disk_store_at(i)->name);
		if (colon && !strcmp(colon + 1, disk_store_at(i)->name))
			*f = disk_store_at(i);
	}
	if (!*list)
		return err_set(e, -EOPNOTSUPP, "this lodge was built without any format of stores");
	if (!*f)
		return err_set(e, -EINVAL,
			"'%s' names no format of a store: write FILE:FORMAT; there is: %s", name,
			list);
	*path = strndup(name, (size_t)(colon - name));
	return *path ? 0 : err_set(e, -ENOMEM, "out of memory");
}

/* A verb at work on the store that its first argument names. */
struct job {
	struct session s;
	struct files files;
	const struct disk_store_format *f;
	char *path;
	struct err e;
};

static int begin(struct job *j, const struct args *a, bool json, const char *doing)
{
	session_begin(&j->s, json, doing);
	j->files.loop = &j->s.loop;
	return split(a->v[0], &j->path, &j->f, &j->e);
}

static int ended(struct job *j, int rc)
{
	session_clear(&j->s);
	return rc ? session_failed(&j->s, &j->e) : EXIT_DONE;
}

static void job_end(struct job *j)
{
	free(j->path);
	session_end(&j->s);
}

/* ---- create ---- */

struct create {
	uint64_t size;
	char *options;
	bool force, json;
};
#define P(m) OPT_AT(struct create, m)
static const struct opt create_opts[] = {
	{"size", 's', .type = OPT_SIZE, P(size), .arg = "SIZE",
		.help = "of the store; a block device is taken whole without it"},
	{"options", 'o', .type = OPT_TEXT, P(options), .arg = "KEY=VALUE,...", .joins = true,
		.help = "of the format; `lodge disk formats` lists them"},
	{"force", 'f', .type = OPT_FLAG, P(force),
		.help = "replace what is there, with all its disks"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group create_groups[] = {{"Options", create_opts}, {0}};

static int run_create(void *opts, const struct args *a)
{
	struct create *c = opts;
	cleanup(job_end) struct job j = {0};
	struct disk_kv kv[SESSION_KEYS];
	int rc = begin(&j, a, c->json, "creating");

	if (!rc)
		rc = session_options(c->options, kv, SESSION_KEYS, &j.e);
	if (!rc)
		rc = disk_kv_known(kv, j.f->create_keys, j.f->name, NULL, &j.e);
	if (!rc)
		rc = j.f->create(&(struct disk_create_opts){.path = j.path,
					 .size = c->size,
					 .kv = kv,
					 .loop = &j.s.loop,
					 .overwrite = c->force},
			&j.e);
	if (!rc && c->json)
		print_json_drop(json_pack("{s:o}", "created", json_text(a->v[0])));
	return ended(&j, rc);
}

/* ---- ls, df, check, trim, rm, rename ---- */

static int run_ls(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(free_ptr) struct disk_store_entry *list = NULL;
	cleanup(job_end) struct job j = {0};
	json_t *out = json_array();
	unsigned n = 0;
	int rc = begin(&j, a, o->json, "reading");

	if (!rc)
		rc = j.f->list(&j.files, j.path, &list, &n, &j.e);
	if (!rc && !o->json)
		printf("%-24s %12s %12s %12s %6s  %s\n", "NAME", "SIZE", "ALLOCATED", "SHARED",
			"SNAPS", "PARENT");
	for (unsigned i = 0; i < n && !rc; i++) {
		struct disk_store_entry *d = &list[i];
		char x[3][PRINT_SIZE];

		if (o->json)
			json_array_append_new(out,
				json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "name",
					json_text(d->name), "parent", json_text(d->parent), "size",
					(json_int_t)d->size, "allocated", (json_int_t)d->allocated,
					"shared", (json_int_t)d->shared, "snapshots",
					(json_int_t)d->snapshots, "generation",
					(json_int_t)d->generation));
		else
			printf("%-24s %12s %12s %12s %6" PRIu64 "  %s\n", text_one_line(d->name),
				print_size(x[0], d->size), print_size(x[1], d->allocated),
				print_size(x[2], d->shared), d->snapshots,
				text_one_line(d->parent));
	}
	if (!rc && o->json)
		print_json(out);
	json_decref(out);
	return ended(&j, rc);
}

static int run_df(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(job_end) struct job j = {0};
	struct disk_store_space v = {0};
	int rc = begin(&j, a, o->json, "reading");

	if (!rc)
		rc = j.f->space(&j.files, j.path, &v, &j.e);
	if (!rc && o->json) {
		print_json_drop(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "total",
			(json_int_t)v.total, "used", (json_int_t)v.used, "free", (json_int_t)v.free,
			"metadata", (json_int_t)v.metadata, "journal", (json_int_t)v.journal,
			"quarantined", (json_int_t)v.quarantined, "disks", (json_int_t)v.disks,
			"snapshots", (json_int_t)v.snapshots));
	} else if (!rc) {
		char x[5][PRINT_SIZE];

		printf("%12s %12s %12s %12s %12s\n", "TOTAL", "USED", "FREE", "METADATA",
			"JOURNAL");
		printf("%12s %12s %12s %12s %12s\n", print_size(x[0], v.total),
			print_size(x[1], v.used), print_size(x[2], v.free),
			print_size(x[3], v.metadata), print_size(x[4], v.journal));
		printf("%" PRIu64 " disk%s, %" PRIu64 " snapshot%s\n", v.disks, print_s(v.disks),
			v.snapshots, print_s(v.snapshots));
	}
	return ended(&j, rc);
}

struct check {
	bool repair, json;
};
static const struct opt check_opts[] = {
	{"repair", .type = OPT_FLAG, OPT_AT(struct check, repair), .help = "mend what is found"},
	{"json", .type = OPT_FLAG, OPT_AT(struct check, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group check_groups[] = {{"Options", check_opts}, {0}};

static int run_check(void *opts, const struct args *a)
{
	const struct check *o = opts;
	cleanup(job_end) struct job j = {0};
	struct disk_check c = {0};
	int rc = begin(&j, a, o->json, "checking");

	if (!rc)
		rc = j.f->check(&j.files, j.path, o->repair, &j.s.watch, &c, &j.e);
	session_clear(&j.s);
	c.end = 0; /* a store has a size of its own */
	if (!rc && o->json)
		print_json_drop(json_pack("{s:I, s:I, s:I, s:I, s:O}", "errors",
			(json_int_t)c.errors, "leaks", (json_int_t)c.leaks, "fixed_errors",
			(json_int_t)c.fixed_errors, "fixed_leaks", (json_int_t)c.fixed_leaks,
			"found", j.s.found));
	else if (!rc)
		session_print_check(a->v[0], &c, o->repair ? NULL : "lodge store check --repair");
	return rc || !c.errors ? ended(&j, rc) : EXIT_FAILED;
}

static int run_trim(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(job_end) struct job j = {0};
	char text[PRINT_SIZE];
	uint64_t given = 0;
	int rc = begin(&j, a, o->json, "trimming");

	if (!rc)
		rc = j.f->trim(&j.files, j.path, &j.s.watch, &given, &j.e);
	session_clear(&j.s);
	if (!rc && o->json)
		print_json_drop(json_pack("{s:I}", "given_back", (json_int_t)given));
	else if (!rc)
		printf("%s: %s given back to the host\n", text_one_line(a->v[0]),
			print_size(text, given));
	return ended(&j, rc);
}

static int run_info(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(json_decrefp) json_t *out = NULL;
	cleanup(job_end) struct job j = {0};
	int rc = begin(&j, a, o->json, "reading");

	if (!rc) {
		out = json_pack("{s:o, s:s}", "store", json_text(j.path), "format", j.f->name);
		rc = j.f->info(&j.files, j.path, out, &j.e);
	}
	if (!rc && o->json)
		print_json(out);
	else if (!rc)
		print_fields(out);
	return ended(&j, rc);
}

static int run_rm(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(job_end) struct job j = {0};
	int rc = begin(&j, a, o->json, "removing");

	if (!rc)
		rc = j.f->remove(&j.files, j.path, a->v[1], &j.e);
	if (!rc && o->json)
		print_json_drop(json_pack("{s:o}", "removed", json_text(a->v[1])));
	return ended(&j, rc);
}

static int run_rename(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(job_end) struct job j = {0};
	int rc = begin(&j, a, o->json, "renaming");

	if (!rc)
		rc = j.f->rename(&j.files, j.path, a->v[1], a->v[2], &j.e);
	if (!rc && o->json)
		print_json_drop(json_pack(
			"{s:o, s:o}", "renamed", json_text(a->v[1]), "to", json_text(a->v[2])));
	return ended(&j, rc);
}

struct take {
	uint64_t fence;
	bool json;
};
static const struct opt take_opts[] = {
	{"fence", .type = OPT_U64, OPT_AT(struct take, fence), .arg = "N",
		.help = "the number that it has from now on; it has to be above the store's"},
	{"json", .type = OPT_FLAG, OPT_AT(struct take, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group take_groups[] = {{"Options", take_opts}, {0}};

static int run_take(void *opts, const struct args *a)
{
	const struct take *o = opts;
	cleanup(job_end) struct job j = {0};
	uint64_t now = 0;
	int rc = begin(&j, a, o->json, "taking");

	if (!rc)
		rc = j.f->take(&j.files, j.path, o->fence, &now, &j.e);
	if (!rc && o->json)
		print_json_drop(json_pack("{s:I}", "fence", (json_int_t)now));
	else if (!rc)
		printf("%s: fencing number %" PRIu64 "; nobody holds it\n", text_one_line(a->v[0]),
			now);
	return ended(&j, rc);
}

static int run_resize(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	const char *text = a->n > 1 ? a->v[1] : NULL;
	cleanup(job_end) struct job j = {0};
	uint64_t now = 0, size = 0;
	bool more = text && *text == '+';
	int rc = begin(&j, a, o->json, "resizing");

	if (!rc && text)
		rc = size_parse(text + more, &size, &j.e);
	if (!rc && text && !size)
		rc = err_set(&j.e, -EINVAL, "store %s: '%s' is no size to grow to", j.path, text);
	if (!rc)
		rc = j.f->resize(&j.files, j.path, size, more, &now, &j.e);
	if (!rc && o->json)
		print_json_drop(json_pack("{s:I}", "size", (json_int_t)now));
	return ended(&j, rc);
}

#define IN_STORE .cmd.suffixes = "names stores"
#define STORE \
	IN_STORE, .cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = json_groups, \
		  .size = sizeof(struct json_only)

const struct verb verbs_store[] = {
	{VERB("store create", "FILE:FORMAT", "make a store that holds many disks"), IN_STORE,
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = create_groups,
		.size = sizeof(struct create), .run = run_create},
	{VERB("store info", "FILE:FORMAT", "what a store is"), STORE, .run = run_info},
	{VERB("store ls", "FILE:FORMAT", "the disks of a store"), STORE, .run = run_ls},
	{VERB("store df", "FILE:FORMAT", "how much of a store is used"), STORE, .run = run_df},
	{VERB("store check", "FILE:FORMAT", "look for damage; ends with 1 when there is some"),
		IN_STORE, .cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = check_groups,
		.size = sizeof(struct check), .run = run_check},
	{VERB("store trim", "FILE:FORMAT",
		 "give back to the host what no disk has in use, such as what a kill left behind"),
		STORE, .run = run_trim},
	{VERB("store resize", "FILE:FORMAT [[+]SIZE]", "make a store larger"), IN_STORE,
		.cmd.text = "Without a size it has all of a block device that was made larger.",
		.cmd.min_args = 1, .cmd.max_args = 2, .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_resize},
	{VERB("store take", "FILE:FORMAT",
		 "take a store from a host that is gone: what still writes there fails"),
		IN_STORE, .cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = take_groups,
		.size = sizeof(struct take), .run = run_take},
	{VERB("store rm", "FILE:FORMAT DISK", "delete a disk and its snapshots"), IN_STORE,
		.cmd.min_args = 2, .cmd.max_args = 2, .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_rm},
	{VERB("store rename", "FILE:FORMAT DISK NAME", "give a disk another name"), IN_STORE,
		.cmd.min_args = 3, .cmd.max_args = 3, .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_rename},
	VERBS_END,
};
