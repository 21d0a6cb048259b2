/* lodge snapshot ls, show, rm, verify, flatten, export, import. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/hex.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/disk/disk_session.h"
#include "cli/snapshot/copy.h"
#include "cli/snapshot/store.h"
#include "cli/verb.h"
#include "vm/snapshot/file.h"

/* ---- ls, show ---- */

static json_t *about(const struct snapopen *s, const char *name)
{
	static const char *const copied[] = {
		"machine", "created_ns", "lodge", "engine", "isa", "vcpus", "memory", "disks"};
	char id[2 * SNAPFILE_ID + 1], parent[2 * SNAPFILE_ID + 1];
	struct snapfile_stat fst;
	struct stat st = {0};
	json_t *j;

	snapfile_stat(s->file, &fst);
	fstat(s->file->fd, &st);
	hex_put(id, s->file->id, SNAPFILE_ID);
	hex_put(parent, s->file->parent, SNAPFILE_ID);
	j = json_pack("{s:s, s:s, s:s, s:s?, s:I, s:I, s:I, s:I, s:I}", "name", name, "file",
		s->path, "id", id, "parent", snapfile_has_parent(s->file) ? parent : NULL,
		"host_size", (json_int_t)st.st_blocks * 512, "pages",
		(json_int_t)fst.pages[SNAPFILE_RAW], "packed_pages",
		(json_int_t)fst.pages[SNAPFILE_PACKED], "zero_pages",
		(json_int_t)fst.pages[SNAPFILE_ZERO], "parent_pages",
		(json_int_t)fst.pages[SNAPFILE_PARENT]);
	for (size_t i = 0; i < ARRAY_SIZE(copied); i++)
		json_object_set(j, copied[i], json_object_get(s->manifest, copied[i]));
	return j;
}

static void date_of(const json_t *j, char *text, size_t size)
{
	time_t t = (time_t)(json_integer_value(json_object_get(j, "created_ns")) / 1000000000);
	struct tm tm;

	localtime_r(&t, &tm);
	strftime(text, size, "%Y-%m-%d %H:%M:%S", &tm);
}

static void print_one(json_t *j, bool json)
{
	char date[40], memory[PRINT_SIZE], size[PRINT_SIZE];

	if (json) {
		print_json(j);
	} else {
		date_of(j, date, sizeof(date));
		printf("%-32s %-16s %-19s %9s %9s\n", json_string_value(json_object_get(j, "name")),
			json_string_value(json_object_get(j, "machine")) ?: "", date,
			print_size(
				memory, (uint64_t)json_integer_value(json_object_get(j, "memory"))),
			print_size(size,
				(uint64_t)json_integer_value(json_object_get(j, "host_size"))));
	}
	json_decref(j);
}

static int run_ls(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(fs_names_free) struct fs_names names;
	int code = EXIT_DONE;
	struct err e = {0};

	if (snapstore_names(&names, &e))
		return fail(&e);
	if (!o->json)
		printf("%-32s %-16s %-19s %9s %9s\n", "NAME", "MACHINE", "TAKEN", "MEMORY",
			"ON DISK");
	for (size_t i = 0; i < names.n; i++) {
		cleanup(snapopen_close) struct snapopen s = {0};

		if (snapstore_open(names.v[i], &s, &e))
			code = fail(&e);
		else
			print_one(about(&s, names.v[i]), o->json);
	}
	return code;
}

static int run_show(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(snapopen_close) struct snapopen s = {0};
	struct err e = {0};
	json_t *j;

	if (snapstore_open(a->v[0], &s, &e))
		return fail(&e);
	j = about(&s, a->v[0]);
	json_object_set(j, "definition", json_object_get(s.manifest, "definition"));
	json_object_set(j, "cpu", json_object_get(s.manifest, "cpu"));
	if (o->json)
		print_json(j);
	else
		print_fields(j);
	json_decref(j);
	return EXIT_DONE;
}

/* ---- rm, verify ---- */

/* Its disks keep theirs: who removes those says so to the disk, which may be in use. */
static void tell_of_disks(const char *name)
{
	cleanup(snapopen_close) struct snapopen s = {0};
	json_t *d;
	size_t i;

	if (snapstore_open(name, &s, NULL))
		return;
	json_array_foreach(json_object_get(s.manifest, "disks"), i, d)
	{
		const char *snap = json_string_value(json_object_get(d, "snapshot"));

		if (snap)
			fprintf(stderr,
				"lodge: disk %s keeps its snapshot: lodge disk snapshot %s:%s "
				"--delete %s\n",
				json_string_value(json_object_get(d, "id")),
				json_string_value(json_object_get(d, "file")),
				json_string_value(json_object_get(d, "format")), snap);
	}
}

/* Nobody loses what another snapshot needs. */
static int is_needed(const char *name, struct err *e)
{
	cleanup(snapopen_close) struct snapopen s = {0};
	cleanup(free_ptr) char *child = NULL;

	if (snapstore_open(name, &s, NULL))
		return 0; /* nobody can need one that cannot be read */
	child = snapstore_child(s.file);
	return child ? err_set(e, -EBUSY,
			       "snapshot %s holds only what changed since %s: remove it first, or "
			       "make "
			       "it whole: lodge snapshot flatten %s",
			       child, name, child)
		     : 0;
}

static int remove_one(const void *opts, const char *name)
{
	struct err e = {0};
	int rc = is_needed(name, &e);

	if (!rc) {
		tell_of_disks(name);
		rc = snapstore_remove(name, &e);
	}
	return rc ? fail(&e) : EXIT_DONE;
}

static int run_rm(void *opts, const struct args *a)
{
	return each_argument(a, opts, remove_one);
}

static bool pages_done(void *ctx, uint64_t done, uint64_t of)
{
	struct session *s = ctx;

	return s->watch.progress(s, done * SNAPFILE_PAGE, of * SNAPFILE_PAGE);
}

static int run_verify(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(snapchain_close) struct snapchain c = {0};
	cleanup(session_end) struct session s = {0};
	struct err e = {0};
	int rc;

	session_begin(&s, o->json, "verify");
	rc = snapchain_open(a->v[0], &c, &e);
	for (unsigned i = 0; !rc && i < c.n; i++)
		if (snapfile_verify(c.s[i].file, pages_done, &s, &e))
			rc = err_wrap(&e, "%s", i ? c.s[i].path : a->v[0]);
	session_clear(&s);
	if (o->json)
		print_json_drop(rc ? json_pack("{s:b, s:s}", "good", 0, "error", err_msg(&e))
				   : json_pack("{s:b}", "good", 1));
	else if (!rc)
		printf("%s: every byte is as it was written\n", a->v[0]);
	if (rc)
		return o->json ? exit_code_of(e.code) : fail(&e);
	return EXIT_DONE;
}

/* ---- flatten ---- */

static int run_flatten(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(snapchain_close) struct snapchain c = {0};
	cleanup(session_end) struct session s = {0};
	cleanup(close_fd) int fd = -1;
	struct snapcopy_opts co = {.from = &c, .progress = pages_done, .ctx = &s};
	struct err e = {0};
	int rc;

	if (strchr(a->v[0], '/'))
		return usage("flatten wants a snapshot's name; a file is joined by lodge snapshot "
			     "import");
	session_begin(&s, o->json, "flatten");
	rc = snapchain_open(a->v[0], &c, &e);
	if (!rc && c.n > 1) {
		rc = snapstore_create("being-flattened", &fd, &e);
		co.fd = fd;
		rc = rc ?: snapcopy(&co, &e) ?: snapstore_replace(fd, a->v[0], &e);
	}
	session_clear(&s);
	if (rc)
		return fail(&e);
	if (o->json)
		print_json_drop(json_pack("{s:s}", "flattened", a->v[0]));
	return EXIT_DONE;
}

/* ---- export, import ---- */

static int run_export(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(snapchain_close) struct snapchain c = {0};
	cleanup(session_end) struct session s = {0};
	cleanup(close_fd) int fd = -1;
	struct snapcopy_opts co = {.from = &c, .packed = true, .progress = pages_done, .ctx = &s};
	struct err e = {0};
	int rc;

	session_begin(&s, o->json, "export");
	rc = snapchain_open(a->v[0], &c, &e) ?: snapstore_create_at(a->v[1], &fd, &e);
	co.fd = fd;
	if (!rc)
		rc = snapcopy(&co, &e);
	if (!rc)
		rc = snapstore_publish_at(fd, a->v[1], &e);
	session_clear(&s);
	if (rc)
		return fail(&e);
	if (o->json)
		print_json_drop(json_pack("{s:o}", "exported", json_text(a->v[1])));
	return EXIT_DONE;
}

struct import {
	char *name;
	bool json;
};
static const struct opt import_opts[] = {
	{"name", 'n', .type = OPT_TEXT, OPT_AT(struct import, name), .arg = "NAME",
		.help = "another name than it had"},
	{"json", .type = OPT_FLAG, OPT_AT(struct import, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group import_groups[] = {{"Options", import_opts}, {0}};

static int run_import(void *opts, const struct args *a)
{
	const struct import *o = opts;
	cleanup(snapchain_close) struct snapchain c = {0};
	cleanup(session_end) struct session s = {0};
	cleanup(close_fd) int fd = -1;
	struct snapcopy_opts co = {.from = &c, .progress = pages_done, .ctx = &s};
	char path[PATH_MAX];
	struct err e = {0};
	const char *name;
	int rc;

	session_begin(&s, o->json, "import");
	/* A file in this folder has no slash in its name. */
	snprintf(path, sizeof(path), "%s%s", strchr(a->v[0], '/') ? "" : "./", a->v[0]);
	rc = snapchain_open(path, &c, &e);
	name = o->name ? o->name
	       : rc    ? NULL
		       : json_string_value(json_object_get(c.s[0].manifest, "name"));
	if (!rc && !name)
		rc = err_set(&e, -EINVAL, "%s: has no name: give it one: --name", a->v[0]);
	if (!rc)
		rc = snapstore_create(name, &fd, &e);
	/* What comes from elsewhere is looked at whole, once. */
	for (unsigned i = 0; !rc && i < c.n; i++)
		rc = snapfile_verify(c.s[i].file, pages_done, &s, &e);
	co.fd = fd;
	if (!rc)
		rc = snapcopy(&co, &e);
	if (!rc)
		rc = snapstore_publish(fd, name, &e);
	session_clear(&s);
	if (rc)
		return fail(&e);
	if (o->json)
		print_json_drop(json_pack("{s:s}", "imported", name));
	else
		puts(name);
	return EXIT_DONE;
}

#define SNAPSHOTS .cmd.names = "names snapshots"
#define ONE_NAME .cmd.min_args = 1, .cmd.max_args = 1, SNAPSHOTS

const struct verb verbs_snapshot[] = {
	{VERB("snapshot ls", NULL, "list the snapshots that there are"), .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_ls},
	{VERB("snapshot show", "NAME", "what a snapshot holds, with the machine's definition"),
		ONE_NAME, .cmd.groups = json_groups, .size = sizeof(struct json_only),
		.run = run_show},
	{VERB("snapshot rm", "NAME...", "remove snapshots; machines that came from one go on"),
		.cmd.min_args = 1, .cmd.max_args = 1000, SNAPSHOTS, .run = run_rm},
	{VERB("snapshot verify", "NAME", "read all of a snapshot and compare it with its digests"),
		ONE_NAME, .cmd.groups = json_groups, .size = sizeof(struct json_only),
		.run = run_verify},
	{VERB("snapshot flatten", "NAME",
		 "make a snapshot whole that holds only what changed since another"),
		ONE_NAME, .cmd.groups = json_groups, .size = sizeof(struct json_only),
		.run = run_flatten},
	{VERB("snapshot export", "NAME FILE",
		 "one compressed file, to be kept or carried elsewhere"),
		.cmd.min_args = 2, .cmd.max_args = 2, SNAPSHOTS, .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_export},
	{VERB("snapshot import", "FILE", "verify such a file and take it in"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.groups = import_groups, .size = sizeof(struct import),
		.run = run_import},
	VERBS_END,
};
