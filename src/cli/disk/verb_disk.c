/* verb_disk.c: what a disk is, whether it is whole, its size, its backing file. */
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

/* ---- formats ---- */

static json_t *keys_json(const struct disk_key *k)
{
	json_t *list = json_array();

	for (; k && k->key; k++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "key", k->key, "values",
						    k->values, "help", k->help));
	return list;
}

#define KEY_HELP 54 /* its column */

static void print_keys(const char *head, const struct disk_key *k)
{
	for (; k && k->key; k++) {
		int col = printf("  %-8s %-16s %-24s ", head, k->key, k->values);

		if (col > KEY_HELP) {
			putchar('\n');
			col = 0;
		}
		printf("%*s", KEY_HELP - col, "");
		text_print_folded(stdout, k->help, KEY_HELP, KEY_HELP);
	}
}

static int run_formats(void *opts, const struct args *a)
{
	const struct json_only *j = opts;
	cleanup(json_decrefp) json_t *list = json_array();
	const struct disk_format *f;

	for (unsigned i = 0; (f = disk_format_at(i)); i++) {
		if (j->json) {
			json_array_append_new(
				list, json_pack("{s:s, s:s, s:o, s:o}", "format", f->name, "help",
					      f->help, "create", keys_json(f->create_keys), "open",
					      keys_json(f->open_keys)));
			continue;
		}
		printf("%-10s %s\n", f->name, f->help);
		print_keys("create", f->create_keys);
		print_keys("open", f->open_keys);
	}
	for (unsigned i = 0; disk_store_at(i); i++) {
		const struct disk_store_format *t = disk_store_at(i);

		if (j->json)
			json_array_append_new(
				list, json_pack("{s:s, s:s, s:o}", "store", t->name, "help",
					      t->help, "create", keys_json(t->create_keys)));
		else
			printf("store %-4s %s\n", t->name, t->help);
		if (!j->json)
			print_keys("create", t->create_keys);
	}
	if (j->json)
		print_json(list);
	return EXIT_DONE;
}

/* ---- info ---- */

struct info {
	bool chain, json;
};
static const struct opt info_opts[] = {
	{"chain", .type = OPT_FLAG, OPT_AT(struct info, chain),
		.help = "the backing files as well; they have to be there"},
	{"json", .type = OPT_FLAG, OPT_AT(struct info, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group info_groups[] = {{"Options", info_opts}, {0}};

static int run_info(void *opts, const struct args *a)
{
	const struct info *in = opts;
	cleanup(session_end) struct session s = {0};
	struct err e = {0};
	struct disk *d;
	json_t *j;
	int rc;

	session_begin(&s, in->json, "reading");
	rc = session_open(&s, a->v[0],
		SESSION_READONLY | SESSION_FORCE | (in->chain ? 0u : SESSION_NO_BACKING), &d, &e);
	if (!rc)
		rc = disk_describe(d, &j, &e);
	if (rc)
		return session_failed(&s, &e);
	if (in->json) {
		print_json_drop(j);
	} else {
		print_fields(j);
		json_decref(j);
	}
	return EXIT_DONE;
}

/* ---- check, repair ---- */

static json_t *check_json(const struct disk_check *c, json_t *found)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "errors",
		(json_int_t)c->errors, "leaks", (json_int_t)c->leaks, "fixed_errors",
		(json_int_t)c->fixed_errors, "fixed_leaks", (json_int_t)c->fixed_leaks, "unit",
		(json_int_t)c->unit, "total", (json_int_t)c->total, "allocated",
		(json_int_t)c->allocated, "fragmented", (json_int_t)c->fragmented, "compressed",
		(json_int_t)c->compressed, "end", (json_int_t)c->end, "found", found);
}

static int no_check(const struct disk *d, bool repair, struct err *e)
{
	const char *slash = strrchr(d->o.path, '/');

	if (slash && d->format->store)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: is checked with all of its store: `lodge store check %.*s:%s%s`",
			d->o.path, (int)(slash - d->o.path), d->o.path, d->format->name,
			repair ? " --repair" : "");
	return err_set(e, -EOPNOTSUPP,
		"disk %s: the format %s has no metadata that could be checked", d->o.path,
		d->format->name);
}

static int check(char *name, bool json, bool repair)
{
	cleanup(session_end) struct session s = {0};
	struct disk_check c = {0};
	struct err e = {0};
	struct disk *d;
	int rc;

	session_begin(&s, json, repair ? "repairing" : "checking");
	rc = session_open(&s, name,
		SESSION_FORCE | SESSION_NO_BACKING | (repair ? 0u : SESSION_READONLY), &d, &e);
	if (!rc && !d->format->check)
		rc = no_check(d, repair, &e);
	if (!rc)
		rc = d->format->check(d, repair, &s.watch, &c, &e);
	if (rc)
		return session_failed(&s, &e);
	session_clear(&s);
	rc = session_closed(&s);
	if (json)
		print_json_drop(check_json(&c, s.found));
	else
		session_print_check(name, &c, repair ? NULL : "lodge disk repair");
	return c.errors ? EXIT_FAILED : rc;
}

static int run_check(void *opts, const struct args *a)
{
	return check(a->v[0], ((struct json_only *)opts)->json, false);
}

static int run_repair(void *opts, const struct args *a)
{
	return check(a->v[0], ((struct json_only *)opts)->json, true);
}

/* ---- resize ---- */

struct resize {
	bool shrink, json;
};
static const struct opt resize_opts[] = {
	{"shrink", .type = OPT_FLAG, OPT_AT(struct resize, shrink),
		.help = "permits to cut the disk's end off, with what is there"},
	{"json", .type = OPT_FLAG, OPT_AT(struct resize, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group resize_groups[] = {{"Options", resize_opts}, {0}};

static int resize(
	struct session *s, const struct args *a, bool shrink, uint64_t *now, struct err *e)
{
	const char *text = a->v[1];
	struct disk *d;
	uint64_t size;
	int rc = size_parse(text + (*text == '+'), &size, e);

	if (!rc)
		rc = session_open(s, a->v[0], 0, &d, e);
	if (rc)
		return rc;
	if (*text == '+' && __builtin_add_overflow(size, d->size, &size))
		return err_set(e, -EINVAL, "disk %s: no disk has so many bytes", a->v[0]);
	if (!size)
		return err_set(e, -EINVAL, "disk %s: a disk of no bytes is none", a->v[0]);
	if (size < d->size && !shrink)
		return err_set(e, -EINVAL,
			"disk %s has %" PRIu64
			" bytes: --shrink permits to lose what is behind %" PRIu64,
			a->v[0], d->size, size);
	rc = disk_resize(d, size, e);
	*now = disk_size(d);
	return rc;
}

static int run_resize(void *opts, const struct args *a)
{
	const struct resize *r = opts;
	cleanup(session_end) struct session s = {0};
	struct err e = {0};
	uint64_t now = 0;

	session_begin(&s, r->json, "resizing");
	if (resize(&s, a, r->shrink, &now, &e))
		return session_failed(&s, &e);
	if (session_closed(&s))
		return EXIT_FAILED;
	if (r->json)
		print_json_drop(json_pack("{s:I}", "size", (json_int_t)now));
	return EXIT_DONE;
}

/* ---- map ---- */

struct map {
	uint64_t since;
	char *bitmap;
	bool json;
};
static const struct opt map_opts[] = {
	{"changed-since", .type = OPT_U64, OPT_AT(struct map, since), .arg = "GENERATION", .min = 1,
		.help = "what has changed in that generation or later (lodge disk generation)"},
	{"bitmap", .type = OPT_TEXT, OPT_AT(struct map, bitmap), .arg = "BITMAP",
		.help = "what has changed as this record has it (lodge disk bitmap)"},
	{"json", .type = OPT_FLAG, OPT_AT(struct map, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group map_groups[] = {{"Options", map_opts}, {0}};

static int bitmap_json(struct disk *d, const char *name, json_t **out, struct err *e)
{
	json_t *list = json_array();
	uint64_t at = 0, len;
	bool dirty;
	int rc = 0;

	for (; at < d->size && !rc; at += len) {
		len = d->size - at;
		rc = disk_bitmap_status(d, name, at, &len, &dirty, e);
		if (!rc && dirty)
			json_array_append_new(list, json_pack("{s:I, s:I}", "start", (json_int_t)at,
							    "length", (json_int_t)len));
	}
	*out = json_pack("{s:o, s:o}", "bitmap", json_text(name), "changed", list);
	if (rc)
		json_decref(*out);
	return rc;
}

static int map_changes(struct disk *d, const struct map *o, struct err *e)
{
	const json_t *x;
	json_t *all;
	size_t i;
	int rc = o->bitmap ? bitmap_json(d, o->bitmap, &all, e)
			   : disk_changes_json(d, o->since, 0, &all, e);

	if (rc)
		return rc;
	if (o->json) {
		print_json_drop(all);
		return 0;
	}
	printf("%-18s %s\n", "START", "LENGTH");
	json_array_foreach(json_object_get(all, "changed"), i, x) printf("%#-18llx %#llx\n",
		(unsigned long long)json_integer_value(json_object_get(x, "start")),
		(unsigned long long)json_integer_value(json_object_get(x, "length")));
	json_decref(all);
	return 0;
}

static json_t *extent_json(const struct disk_extent *x)
{
	json_t *o = json_pack("{s:I, s:I, s:I, s:b, s:b, s:b}", "start", (json_int_t)x->offset,
		"length", (json_int_t)x->len, "depth", (json_int_t)x->depth, "present",
		(x->flags & DISK_EXT_HERE) != 0, "zero", !(x->flags & DISK_EXT_DATA), "data",
		(x->flags & DISK_EXT_DATA) != 0);

	json_object_set_new(o, "compressed", json_boolean(x->flags & DISK_EXT_COMPRESSED));
	if (x->flags & DISK_EXT_PLACE) {
		json_object_set_new(o, "offset", json_integer((json_int_t)x->addr));
		json_object_set_new(o, "file", json_text(x->file->path));
	}
	return o;
}

static void print_extent(const struct disk_extent *x)
{
	printf("%#-18" PRIx64 " %#-14" PRIx64 " %-5u %-10s", x->offset, x->len, x->depth,
		x->flags & DISK_EXT_COMPRESSED ? "compressed"
		: x->flags & DISK_EXT_DATA     ? "data"
		: x->flags & DISK_EXT_HERE     ? "zero"
					       : "hole");
	if (x->flags & DISK_EXT_PLACE)
		printf(" %#-18" PRIx64 " %s", x->addr, x->file->path);
	putchar('\n');
}

static bool follows(const struct disk_extent *a, const struct disk_extent *b)
{
	return a->len && a->flags == b->flags && a->depth == b->depth &&
	       (!(a->flags & DISK_EXT_PLACE) ||
		       (a->file == b->file && a->addr + a->len == b->addr));
}

static int run_map(void *opts, const struct args *a)
{
	const struct map *o = opts;
	cleanup(session_end) struct session s = {0};
	struct disk_extent run = {0}, x;
	struct err e = {0};
	json_t *list = json_array();
	struct disk *d;
	int rc;

	if (o->since && o->bitmap) {
		json_decref(list);
		return usage("--changed-since or --bitmap: take one");
	}
	session_begin(&s, false, "map");
	rc = session_open(&s, a->v[0], SESSION_READONLY, &d, &e);
	if (o->since || o->bitmap) {
		json_decref(list);
		rc = rc ?: map_changes(d, o, &e);
		return rc ? session_failed(&s, &e) : EXIT_DONE;
	}
	if (!rc && !o->json)
		printf("%-18s %-14s %-5s %-10s %s\n", "START", "LENGTH", "DEPTH", "WHAT", "PLACE");
	for (uint64_t at = 0; !rc && at <= d->size; at += x.len) {
		x = (struct disk_extent){0};
		if (at < d->size)
			rc = disk_block_status(d, at, d->size - at, &x, &e);
		if (rc)
			break;
		if (at < d->size && follows(&run, &x)) {
			run.len += x.len;
			continue;
		}
		if (run.len && o->json)
			json_array_append_new(list, extent_json(&run));
		else if (run.len)
			print_extent(&run);
		run = x;
		if (at == d->size)
			break;
	}
	if (!rc && o->json)
		print_json(list);
	json_decref(list);
	return rc ? session_failed(&s, &e) : EXIT_DONE;
}

/* ---- compare ---- */

struct compare {
	bool strict, json;
};
static const struct opt compare_opts[] = {
	{"strict", .type = OPT_FLAG, OPT_AT(struct compare, strict),
		.help = "disks of different sizes differ, even where one is longer by zeroes"},
	{"json", .type = OPT_FLAG, OPT_AT(struct compare, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group compare_groups[] = {{"Options", compare_opts}, {0}};

static int run_compare(void *opts, const struct args *a)
{
	const struct compare *o = opts;
	cleanup(session_end) struct session s = {0};
	struct disk *x, *y;
	struct err e = {0};
	uint64_t at;
	int rc;

	session_begin(&s, o->json, "comparing");
	rc = session_open(&s, a->v[0], SESSION_READONLY, &x, &e);
	if (!rc)
		rc = session_open(&s, a->v[1], SESSION_READONLY, &y, &e);
	if (!rc)
		rc = disk_compare(x, y, &s.watch, &at, &e);
	if (rc)
		return session_failed(&s, &e);
	if (o->strict)
		at = MIN(at, x->size == y->size ? UINT64_MAX : MIN(x->size, y->size));
	session_clear(&s);
	if (o->json)
		print_json_drop(at == UINT64_MAX ? json_pack("{s:b}", "same", 1)
						 : json_pack("{s:b, s:I}", "same", 0, "differs_at",
							   (json_int_t)at));
	else if (at == UINT64_MAX)
		printf("the disks have the same contents%s\n",
			x->size == y->size ? "" : "; one is longer, by zeroes");
	else
		printf("the disks differ at byte %" PRIu64 "\n", at);
	return at == UINT64_MAX ? EXIT_DONE : EXIT_FAILED;
}

/* ---- commit, rebase ---- */

struct commit {
	bool keep, json;
};
#define P(m) OPT_AT(struct commit, m)
static const struct opt commit_opts[] = {
	{"keep", 'k', .type = OPT_FLAG, P(keep),
		.help = "leave the disk as it is, do not empty it"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group commit_groups[] = {{"Options", commit_opts}, {0}};

/* The backing file is flushed before the disk gives up what went there: at any time it shows the same. */
static int commit(
	struct session *s, const char *name, bool keep, struct disk_copy *copy, struct err *e)
{
	cleanup(free_ptr) char *below = NULL;
	struct disk *d, *b;
	int rc = session_open(s, name, (keep ? SESSION_READONLY : 0u) | SESSION_NO_BACKING, &d, e);

	if (rc)
		return rc;
	if (!d->backing_path)
		return err_set(e, -EINVAL, "disk %s has no backing file", name);
	if (asprintf(&below, "%s:%s", d->backing_path, d->backing_format) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	rc = session_open(s, below, 0, &b, e);
	if (!rc && b->size < d->size)
		rc = disk_resize(b, d->size, e);
	copy->only_here = true;
	copy->watch = s->watch;
	rc = rc ?: disk_copy(d, b, copy, e);
	if (rc || keep)
		return rc;
	if (!d->format->empty)
		return err_set(e, -EOPNOTSUPP,
			"disk %s: all was copied; the format %s cannot be emptied (--keep)", name,
			d->format->name);
	return d->format->empty(d, e);
}

static int run_commit(void *opts, const struct args *a)
{
	const struct commit *o = opts;
	cleanup(session_end) struct session s = {0};
	struct disk_copy copy = {0};
	struct err e = {0};
	char n[PRINT_SIZE];

	session_begin(&s, o->json, "committing");
	if (commit(&s, a->v[0], o->keep, &copy, &e))
		return session_failed(&s, &e);
	session_clear(&s);
	if (session_closed(&s))
		return EXIT_FAILED;
	if (o->json)
		print_json_drop(json_pack("{s:I}", "copied", (json_int_t)copy.copied));
	else
		printf("%s copied to the backing file, which now has all that %s %s\n",
			print_size(n, copy.copied), text_one_line(a->v[0]),
			o->keep ? "has" : "had");
	return EXIT_DONE;
}

struct rebase {
	char *backing;
	bool alone, unsafe, json;
};
#define P(m) OPT_AT(struct rebase, m)
static const struct opt rebase_opts[] = {
	{"backing", 'b', .type = OPT_TEXT, P(backing), .arg = "FILE:FORMAT",
		.complete = OPT_COMPLETE_FILE, .help = "the new backing file"},
	{"alone", .type = OPT_FLAG, P(alone),
		.help = "no backing file any more: the disk gets all"},
	{"unsafe", 'u', .type = OPT_FLAG, P(unsafe),
		.help = "only change the name; for a backing file that was moved, with the same "
			"contents"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group rebase_groups[] = {{"Options", rebase_opts}, {0}};

/* The new backing file first: the disk cannot be opened for writing when it is below that. */
static int rebase(struct session *s, const struct rebase *r, const char *name, uint64_t *copied,
	struct err *e)
{
	cleanup(free_ptr) char *own = NULL, *path = NULL, *full = NULL, *whole = NULL;
	const char *format = NULL;
	struct disk *d, *now = NULL;
	int rc = disk_split_name(name, &own, &format, e);

	if (!rc && r->backing)
		rc = disk_split_name(r->backing, &path, &format, e);
	if (rc)
		return rc;
	full = path ? disk_backing_path(own, path) : NULL;
	if (path && (!full || asprintf(&whole, "%s:%s", full, format) < 0))
		return err_set(e, -ENOMEM, "out of memory");
	if (full && session_same_file(full, own))
		return err_set(e, -EINVAL, "disk %s: cannot be its own backing file", own);
	if (path && !r->unsafe)
		rc = session_open(s, whole, SESSION_READONLY, &now, e);
	rc = rc ?: session_open(s, name, r->unsafe ? SESSION_NO_BACKING : 0, &d, e);
	if (!rc && !d->format->set_backing)
		rc = err_set(e, -EOPNOTSUPP, "disk %s: the format %s has no backing files", own,
			d->format->name);
	if (!rc && !r->unsafe)
		rc = disk_rebase(d, now, &s->watch, copied, e);
	return rc ?: d->format->set_backing(d, path, path ? format : NULL, e);
}

static int run_rebase(void *opts, const struct args *a)
{
	const struct rebase *r = opts;
	cleanup(session_end) struct session s = {0};
	struct err e = {0};
	uint64_t copied = 0;
	char n[PRINT_SIZE];

	if (!r->backing == !r->alone)
		return usage("either --backing FILE:FORMAT or --alone");
	session_begin(&s, r->json, "rebasing");
	if (rebase(&s, r, a->v[0], &copied, &e))
		return session_failed(&s, &e);
	session_clear(&s);
	if (session_closed(&s))
		return EXIT_FAILED;
	if (r->json)
		print_json_drop(json_pack("{s:I}", "copied", (json_int_t)copied));
	else
		printf("%s: %s copied\n", text_one_line(a->v[0]), print_size(n, copied));
	return EXIT_DONE;
}

#define FORMATS .cmd.suffixes = "names formats"
#define ONE_DISK FORMATS, .cmd.min_args = 1, .cmd.max_args = 1
#define TWO_ARGS FORMATS, .cmd.min_args = 2, .cmd.max_args = 2

const struct verb verbs_disk[] = {
	{VERB("disk info", "FILE:FORMAT", "what a disk is"), ONE_DISK, .cmd.groups = info_groups,
		.size = sizeof(struct info), .run = run_info},
	{VERB("disk check", "FILE:FORMAT", "look for damage; ends with 1 when there is some"),
		ONE_DISK, .cmd.groups = json_groups, .size = sizeof(struct json_only),
		.run = run_check},
	{VERB("disk repair", "FILE:FORMAT", "mend what check finds"), ONE_DISK,
		.cmd.groups = json_groups, .size = sizeof(struct json_only), .run = run_repair},
	{VERB("disk resize", "FILE:FORMAT [+]SIZE", "make a disk larger, or smaller"), TWO_ARGS,
		.cmd.groups = resize_groups, .size = sizeof(struct resize), .run = run_resize},
	{VERB("disk commit", "FILE:FORMAT", "copy a disk's own part into its backing file"),
		ONE_DISK, .cmd.groups = commit_groups, .size = sizeof(struct commit),
		.run = run_commit},
	{VERB("disk rebase", "FILE:FORMAT", "give a disk another backing file, or none"), ONE_DISK,
		.cmd.groups = rebase_groups, .size = sizeof(struct rebase), .run = run_rebase},
	{VERB("disk map", "FILE:FORMAT", "where each part of a disk lies"), ONE_DISK,
		.cmd.groups = map_groups, .size = sizeof(struct map), .run = run_map},
	{VERB("disk compare", "FILE:FORMAT FILE:FORMAT", "ends with 1 when the contents differ"),
		TWO_ARGS, .cmd.groups = compare_groups, .size = sizeof(struct compare),
		.run = run_compare},
	{VERB("disk formats", "", "the formats and their options"),
		.cmd.text =
			"create: for --options of disk create, disk convert and store create. "
			"open: behind the format of a disk that is there, as in "
			"a.qcow2:qcow2,snapshot=monday; lodge run --disk takes all of these, too.",
		.cmd.groups = json_groups, .size = sizeof(struct json_only), .run = run_formats},
	VERBS_END,
};
