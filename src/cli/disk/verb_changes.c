/* verb_changes.c: what a disk was, and what has changed since: snapshots, bitmaps, generations. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/disk/disk_session.h"
#include "cli/verb.h"

/* ---- snapshot ---- */

struct snapshot {
	char *create, *remove, *apply;
	bool json;
};
#define P(m) OPT_AT(struct snapshot, m)
static const struct opt snapshot_opts[] = {
	{"create", 'c', .type = OPT_TEXT, P(create), .arg = "SNAPSHOT", .help = "make one"},
	{"delete", 'd', .type = OPT_TEXT, P(remove), .arg = "SNAPSHOT",
		.help = "delete one, by name or id"},
	{"apply", 'a', .type = OPT_TEXT, P(apply), .arg = "SNAPSHOT",
		.help = "go back to one: what the disk holds now is lost"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group snapshot_groups[] = {{"Options", snapshot_opts}, {0}};

static int list_snapshots(struct disk *d, bool json, struct err *e)
{
	cleanup(free_ptr) struct disk_snapshot *list = NULL;
	unsigned n;
	int rc = disk_snapshots(d, &list, &n, e);
	json_t *out = json_array();

	if (!rc && !json)
		printf("%-6s %-24s %-20s %-10s %s\n", "ID", "NAME", "MADE", "SIZE", "MACHINE");
	for (unsigned i = 0; i < n && !rc; i++) {
		struct disk_snapshot *s = &list[i];
		char when[32] = "", size[PRINT_SIZE], vm[PRINT_SIZE] = "-";
		time_t t = (time_t)s->date;
		struct tm tm;

		if (json) {
			json_array_append_new(
				out, json_pack("{s:o, s:o, s:I, s:I, s:I}", "id", json_text(s->id),
					     "name", json_text(s->name), "size",
					     (json_int_t)s->size, "vm_size", (json_int_t)s->vm_size,
					     "date", (json_int_t)s->date));
			continue;
		}
		if (localtime_r(&t, &tm))
			strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
		if (s->vm_size)
			print_size(vm, s->vm_size);
		printf("%-6s %-24s %-20s %-10s %s\n", text_one_line(s->id), text_one_line(s->name),
			when, print_size(size, s->size), vm);
	}
	if (json && !rc)
		print_json(out);
	json_decref(out);
	return rc;
}

static int run_snapshot(void *opts, const struct args *a)
{
	const struct snapshot *o = opts;
	const char *name = o->create ?: o->remove ?: o->apply;
	enum disk_snap_op op = o->create   ? DISK_SNAP_CREATE
			       : o->remove ? DISK_SNAP_DELETE
					   : DISK_SNAP_APPLY;
	cleanup(session_end) struct session s = {0};
	struct err e = {0};
	struct disk *d[SESSION_DISKS];
	int rc = 0;

	if (!!o->create + !!o->remove + !!o->apply > 1)
		return usage("one of --create, --delete, --apply at a time");
	if (a->n > 1 && !o->create)
		return usage("only --create takes several disks; a snapshot's name stands behind "
			     "its flag: --create %s",
			a->v[1]);
	session_begin(&s, o->json, "snapshot");
	for (unsigned i = 0; i < a->n && !rc; i++)
		rc = session_open(
			&s, a->v[i], name ? 0 : SESSION_READONLY | SESSION_NO_BACKING, &d[i], &e);
	if (!rc && o->create)
		rc = disk_snapshot_all(d, a->n, name, &e);
	else if (!rc)
		rc = name ? disk_snapshot(d[0], op, name, &e) : list_snapshots(d[0], o->json, &e);
	if (rc)
		return session_failed(&s, &e);
	if (session_closed(&s))
		return EXIT_FAILED;
	if (name && o->json)
		print_json_drop(json_pack("{s:o}",
			o->create   ? "created"
			: o->remove ? "deleted"
				    : "applied",
			json_text(name)));
	return EXIT_DONE;
}

/* ---- bitmap ---- */

struct bitmap {
	char *add, *remove, *clear, *enable, *disable, *merge, *from, *of;
	uint64_t granularity;
	bool has_granularity, json;
};
#define P(m) OPT_AT(struct bitmap, m)
static const struct opt bitmap_opts[] = {
	{"add", .type = OPT_TEXT, P(add), .arg = "BITMAP", .help = "record changes from now on"},
	{"remove", .type = OPT_TEXT, P(remove), .arg = "BITMAP", .help = "forget it"},
	{"clear", .type = OPT_TEXT, P(clear), .arg = "BITMAP",
		.help = "nothing has changed as from now"},
	{"enable", .type = OPT_TEXT, P(enable), .arg = "BITMAP", .help = "record changes again"},
	{"disable", .type = OPT_TEXT, P(disable), .arg = "BITMAP", .help = "keep it as it is"},
	{"merge", .type = OPT_TEXT, P(merge), .arg = "BITMAP",
		.help = "what the one that --from names has counts as changed in it, too"},
	{"from", .type = OPT_TEXT, P(from), .arg = "BITMAP",
		.help = "with --merge: the other one, which stays as it is"},
	{"of", .type = OPT_TEXT, P(of), .arg = "FILE:FORMAT", .complete = OPT_COMPLETE_FILE,
		.help = "with --merge: the disk that has the other one; without, this one"},
	{"granularity", .type = OPT_SIZE, P(granularity), .arg = "SIZE", .dflt = "64K",
		.set_offset = offsetof(struct bitmap, has_granularity),
		.help = "with --add: bytes that one bit stands for"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group bitmap_groups[] = {{"Options", bitmap_opts}, {0}};

static int list_bitmaps(struct disk *d, bool json, struct err *e)
{
	cleanup(free_ptr) struct disk_bitmap *list = NULL;
	unsigned n;
	int rc = disk_bitmaps(d, &list, &n, e);
	json_t *out = json_array();

	if (!rc && !json)
		printf("%-24s %-8s %-11s %s\n", "NAME", "STATE", "GRANULARITY", "CHANGED");
	for (unsigned i = 0; i < n && !rc; i++) {
		struct disk_bitmap *b = &list[i];
		char dirty[PRINT_SIZE], grain[PRINT_SIZE];

		if (json)
			json_array_append_new(out,
				json_pack("{s:o, s:I, s:I, s:I, s:b, s:b}", "name",
					json_text(b->name), "granularity",
					(json_int_t)b->granularity, "generation",
					(json_int_t)b->generation, "dirty", (json_int_t)b->dirty,
					"enabled", b->enabled, "busy", b->busy));
		else
			printf("%-24s %-8s %-11s %s\n", text_one_line(b->name),
				b->busy	     ? "broken"
				: b->enabled ? "on"
					     : "off",
				print_size(grain, b->granularity), print_size(dirty, b->dirty));
	}
	if (json && !rc)
		print_json(out);
	json_decref(out);
	return rc;
}

static int merge(struct session *s, struct disk *d, const struct bitmap *o, struct err *e)
{
	struct disk *from = d;
	int rc = 0;

	if (o->of)
		rc = session_open(s, o->of, SESSION_READONLY | SESSION_NO_BACKING, &from, e);
	return rc ?: disk_bitmap_merge(d, o->merge, from, o->from, e);
}

#define MERGE (DISK_BITMAP_CLEAR + 1u)

/* *name NULL: they are listed. */
static const char *wrong_bitmap(const struct bitmap *o, unsigned *op, const char **name)
{
	const char *const names[] = {[DISK_BITMAP_ADD] = o->add,
		[DISK_BITMAP_REMOVE] = o->remove,
		[DISK_BITMAP_ENABLE] = o->enable,
		[DISK_BITMAP_DISABLE] = o->disable,
		[DISK_BITMAP_CLEAR] = o->clear,
		[MERGE] = o->merge};
	unsigned n = 0;

	*name = NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i]) {
			*op = i;
			*name = names[i];
			n++;
		}
	if (n > 1)
		return "one of --add, --remove, --clear, --enable, --disable, --merge at a time";
	if (!o->merge != !o->from)
		return "--merge BITMAP --from BITMAP: what the second has goes into the first";
	if (o->of && !o->merge)
		return "--of goes with --merge";
	return o->has_granularity && !o->add ? "--granularity goes with --add" : NULL;
}

static int run_bitmap(void *opts, const struct args *a)
{
	const struct bitmap *o = opts;
	static const char *const done[] = {[DISK_BITMAP_ADD] = "added",
		[DISK_BITMAP_REMOVE] = "removed",
		[DISK_BITMAP_ENABLE] = "enabled",
		[DISK_BITMAP_DISABLE] = "disabled",
		[DISK_BITMAP_CLEAR] = "cleared",
		[MERGE] = "merged"};
	cleanup(session_end) struct session s = {0};
	const char *name, *wrong;
	struct err e = {0};
	unsigned op = 0;
	struct disk *d;
	int rc;

	wrong = wrong_bitmap(o, &op, &name);
	if (wrong)
		return usage("%s", wrong);
	session_begin(&s, o->json, "bitmap");
	rc = session_open(&s, a->v[0], SESSION_NO_BACKING | (name ? 0u : SESSION_READONLY), &d, &e);
	if (!rc && !name)
		rc = list_bitmaps(d, o->json, &e);
	else if (!rc)
		rc = op == MERGE
			     ? merge(&s, d, o, &e)
			     : disk_bitmap(d, (enum disk_bitmap_op)op, name, o->granularity, &e);
	if (rc)
		return session_failed(&s, &e);
	if (session_closed(&s))
		return EXIT_FAILED;
	if (name && o->json)
		print_json_drop(json_pack("{s:o}", done[op], json_text(name)));
	return EXIT_DONE;
}

/* ---- generation ---- */

struct generation {
	bool next, json;
};
static const struct opt generation_opts[] = {
	{"next", .type = OPT_FLAG, OPT_AT(struct generation, next),
		.help = "begin a new one: what changes from now on has its number"},
	{"json", .type = OPT_FLAG, OPT_AT(struct generation, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group generation_groups[] = {{"Options", generation_opts}, {0}};

static int run_generation(void *opts, const struct args *a)
{
	const struct generation *o = opts;
	cleanup(session_end) struct session s = {0};
	struct disk_generation g;
	struct err e = {0};
	struct disk *d;
	char id[20];
	int rc;

	session_begin(&s, o->json, "generation");
	rc = session_open(
		&s, a->v[0], SESSION_NO_BACKING | (o->next ? 0u : SESSION_READONLY), &d, &e);
	if (!rc)
		rc = disk_generation(d, o->next, &g, &e);
	if (rc)
		return session_failed(&s, &e);
	snprintf(id, sizeof(id), "%016" PRIx64, g.id);
	if (o->json)
		print_json_drop(json_pack("{s:I, s:I, s:s, s:I}", "generation", (json_int_t)g.now,
			"first", (json_int_t)g.first, "id", id, "granularity",
			(json_int_t)g.granularity));
	else
		printf("%" PRIu64 " (changes are known since %" PRIu64 "; id %s)\n", g.now, g.first,
			id);
	return EXIT_DONE;
}

#define FORMATS .cmd.suffixes = "names formats"
#define ONE_DISK FORMATS, .cmd.min_args = 1, .cmd.max_args = 1

const struct verb verbs_disk_changes[] = {
	{VERB("disk snapshot", "FILE:FORMAT...",
		 "list, make (of several disks at one instant), delete, go back to snapshots"),
		FORMATS, .cmd.min_args = 1, .cmd.max_args = SESSION_DISKS,
		.cmd.groups = snapshot_groups, .size = sizeof(struct snapshot),
		.run = run_snapshot},
	{VERB("disk bitmap", "FILE:FORMAT", "list and work on records of changed blocks"), ONE_DISK,
		.cmd.groups = bitmap_groups, .size = sizeof(struct bitmap), .run = run_bitmap},
	{VERB("disk generation", "FILE:FORMAT", "which generation its changes are in"), ONE_DISK,
		.cmd.groups = generation_groups, .size = sizeof(struct generation),
		.run = run_generation},
	VERBS_END,
};
