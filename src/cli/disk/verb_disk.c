#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/disk/disk_session.h"
#include "cli/verb.h"

/* ---- create ---- */

struct create {
	uint64_t size;
	char *backing, *options;
	bool force, json;
};

#define P(m) OPT_AT(struct create, m)
static const struct opt create_opts[] = {
	{"size", 's', .type = OPT_SIZE, P(size), .arg = "SIZE",
		.help = "what the guest sees; with --backing that of the backing file is the "
			"default"},
	{"backing", 'b', .type = OPT_TEXT, P(backing), .arg = "FILE:FORMAT",
		.complete = OPT_COMPLETE_FILE,
		.help = "holds only what differs from this disk, which must not change any more"},
	{"options", 'o', .type = OPT_TEXT, P(options), .arg = "KEY=VALUE,...", .joins = true,
		.help = "of the format; lodge disk formats lists them"},
	{"force", 'f', .type = OPT_FLAG, P(force), .help = "replace what is there"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group create_groups[] = {{"Options", create_opts}, {0}};

/* The backing file has to be there and of that format; gives its size. */
static int look_at_backing(struct session *s, const char *path, const char *format, const char *of,
	uint64_t *size, struct err *e)
{
	cleanup(free_ptr) char *full = disk_backing_path(of, path);
	struct disk_opts o = {.path = full,
		.format = format,
		.readonly = true,
		.loop = &s->loop,
		.offline = true};
	struct disk *d;
	int rc = full ? disk_open(&d, &o, e) : err_set(e, -ENOMEM, "out of memory");

	if (rc)
		return err_wrap(e, "backing file");
	if (!*size)
		*size = disk_size(d);
	/* A new image in the place of an old one, which is below its own backing file. */
	for (const struct disk *i = d->backing; i && !rc; i = i->backing)
		if (session_same_file(i->o.path, of))
			rc = err_set(e, -EINVAL,
				"disk %s: %s is made of it: it cannot be its backing file", of,
				path);
	disk_close(d);
	return rc;
}

/* `pack`: what will be written to it is compressed. */
static int create(
	struct session *s, const char *name, const struct create *c, bool pack, struct err *e)
{
	cleanup(free_ptr) char *path = NULL, *below = NULL;
	struct disk_kv kv[SESSION_KEYS];
	struct disk_create_opts o = {.size = c->size,
		.kv = kv,
		.loop = &s->loop,
		.stores = &s->stores,
		.overwrite = c->force,
		.watch = &s->watch};
	const char *format, *space;
	int rc = disk_split_name(name, &path, &format, e);

	if (!rc)
		rc = session_options(c->options, kv, SESSION_KEYS, e);
	space = rc ? NULL : disk_kv_get(kv, "preallocation");
	if (pack && space && strcmp(space, "off"))
		rc = err_set(e, -EINVAL,
			"disk %s: compressed data goes elsewhere: --compress or preallocation=%s, "
			"not both",
			path, space);
	if (!rc && c->backing)
		rc = disk_split_name(c->backing, &below, &o.backing_format, e);
	if (!rc && c->backing && disk_format_by_name(format)->set_backing)
		rc = look_at_backing(s, below, o.backing_format, path, &o.size, e);
	rc = rc ?: session_unused(s, path, e);
	if (rc)
		return rc;
	o.path = path;
	o.backing = below;
	return disk_create(format, &o, e);
}

static int run_create(void *opts, const struct args *a)
{
	struct create *c = opts;
	cleanup(session_end) struct session s = {0};
	struct err e = {0};

	session_begin(&s, c->json, "creating");
	if (create(&s, a->v[0], c, false, &e))
		return session_failed(&s, &e);
	if (c->json)
		print_json_drop(json_pack("{s:o}", "created", json_text(a->v[0])));
	return EXIT_DONE;
}

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
	if (json)
		print_json_drop(check_json(&c, s.found));
	else
		session_print_check(name, &c, repair ? NULL : "lodge disk repair");
	return c.errors ? EXIT_FAILED : EXIT_DONE;
}

static int run_check(void *opts, const struct args *a)
{
	return check(a->v[0], ((struct json_only *)opts)->json, false);
}

static int run_repair(void *opts, const struct args *a)
{
	return check(a->v[0], ((struct json_only *)opts)->json, true);
}

/* ---- convert ---- */

struct convert {
	uint64_t size, rate;
	char *backing, *options, *snapshot;
	bool compress, no_sparse, bitmaps, skip_broken, force, json;
};
#define P(m) OPT_AT(struct convert, m)
static const struct opt convert_opts[] = {
	{"compress", 'c', .type = OPT_FLAG, P(compress),
		.help = "write compressed, where the format can"},
	{"no-sparse", .type = OPT_FLAG, P(no_sparse),
		.help = "write zeroes as data, leave no holes"},
	{"backing", 'b', .type = OPT_TEXT, P(backing), .arg = "FILE:FORMAT",
		.complete = OPT_COMPLETE_FILE,
		.help = "the new disk holds only what differs from this one"},
	{"snapshot", 's', .type = OPT_TEXT, P(snapshot), .arg = "NAME",
		.help = "what the disk held when this snapshot was made, by name or id"},
	{"bitmaps", .type = OPT_FLAG, P(bitmaps),
		.help = "its records of changes too (lodge disk bitmap)"},
	{"skip-broken-bitmaps", .type = OPT_FLAG, P(skip_broken),
		.help = "with --bitmaps: leave out those that are not complete"},
	{"size", .type = OPT_SIZE, P(size), .arg = "SIZE",
		.help = "of the new disk, when it is to be larger; zeroes are behind what is "
			"copied"},
	{"rate", .type = OPT_SIZE, P(rate), .arg = "SIZE",
		.help = "reads at most so much a second, to leave the host to others"},
	{"options", 'o', .type = OPT_TEXT, P(options), .arg = "KEY=VALUE,...", .joins = true,
		.help = "of the new disk's format; lodge disk formats lists them"},
	{"force", 'f', .type = OPT_FLAG, P(force), .help = "replace what is there"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group convert_groups[] = {{"Options", convert_opts}, {0}};

/* A file that was not there reads as zeroes; a block device has what it had. */
static bool is_blank(const struct disk *d)
{
	return !d->files->first || !d->files->first->block_device || d->format != &disk_raw;
}

/* A part of a copy looks like a disk. All disks are closed first: they may be of one store. */
static int forget_copy(struct session *s, const char *name, struct disk *to, int why, struct err *e)
{
	cleanup(json_decrefp) json_t *what = NULL;
	cleanup(free_ptr) char *path = NULL, *data = NULL;
	const char *format;
	struct err left = {0};
	char first[sizeof(e->msg)];

	s->forgotten = true;
	if (!disk_describe(to, &what, NULL) && json_object_get(what, "data_file"))
		data = disk_backing_path(to->o.path, json_text_at(what, "data_file"));
	while (s->n)
		session_close(s);
	if (disk_split_name(name, &path, &format, &left) ||
		disk_remove(format, path, &s->loop, &left) ||
		(data && disk_remove("raw", data, &s->loop, &left))) {
		snprintf(first, sizeof(first), "%s", err_msg(e));
		return err_set(e, why, "%.300s; a part of the copy is left there: %.150s", first,
			err_msg(&left));
	}
	return why;
}

/* A bitmap is written when its disk is closed, and is marked until then. `bitmap` NULL: all of them. */
static int bitmaps_written(struct session *s, const char *name, const char *bitmap, struct err *e)
{
	cleanup(free_ptr) struct disk_bitmap *list = NULL;
	struct disk *d;
	unsigned n = 0;
	int rc;

	while (s->n)
		session_close(s);
	rc = session_open(s, name, SESSION_READONLY | SESSION_NO_BACKING, &d, e);
	rc = rc ?: disk_bitmaps(d, &list, &n, e);
	for (unsigned i = 0; i < n && !rc; i++)
		if (list[i].busy && (!bitmap || !strcmp(bitmap, list[i].name)))
			rc = err_set(e, -EIO,
				"disk %s: bitmap %s could not be written and is not complete: "
				"`lodge disk bitmap %s --remove %s`",
				d->o.path, list[i].name, name, list[i].name);
	return rc;
}

/* What cannot be is said before anything is made. */
static int look_at_bitmaps(struct disk *from, const char *to, const struct convert *c,
	struct disk_bitmap **list, unsigned *n, struct err *e)
{
	cleanup(free_ptr) char *path = NULL;
	const char *format;
	unsigned k = 0;
	int rc = disk_split_name(to, &path, &format, e);

	if (!rc && c->snapshot)
		rc = err_set(e, -EINVAL,
			"--bitmaps tell what changed up to now, and not up to a snapshot: without "
			"--snapshot");
	if (!rc && !disk_format_by_name(format)->bitmap_set)
		rc = err_set(e, -EOPNOTSUPP,
			"disk %s: the format %s cannot take bitmaps: qcow2 can, or without "
			"--bitmaps",
			path, format);
	rc = rc ?: disk_bitmaps(from, list, n, e);
	for (unsigned i = 0; i < *n && !rc; i++) {
		if ((*list)[i].busy && !c->skip_broken)
			return err_set(e, -EUCLEAN,
				"disk %s: bitmap %s is not complete: --skip-broken-bitmaps leaves "
				"it out",
				from->o.path, (*list)[i].name);
		if (!(*list)[i].busy)
			(*list)[k++] = (*list)[i];
	}
	*n = k;
	return rc;
}

/* They are there, and record nothing while the copy is made. */
static int make_bitmaps(struct disk *to, const struct disk_bitmap *list, unsigned n, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++) {
		rc = disk_bitmap(to, DISK_BITMAP_ADD, list[i].name, list[i].granularity, e);
		rc = rc ?: disk_bitmap(to, DISK_BITMAP_DISABLE, list[i].name, 0, e);
	}
	return rc;
}

static int fill_bitmaps(struct disk *from, struct disk *to, const struct disk_bitmap *list,
	unsigned n, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++) {
		rc = disk_bitmap_merge(to, list[i].name, from, list[i].name, e);
		if (!rc && list[i].enabled)
			rc = disk_bitmap(to, DISK_BITMAP_ENABLE, list[i].name, 0, e);
	}
	return rc;
}

static int may_convert(const struct convert *c, const struct disk *from, struct err *e)
{
	if (c->backing && (c->compress || c->no_sparse || c->rate))
		return err_set(e, -EINVAL,
			"--backing writes what differs, as it is: none of --compress, --no-sparse "
			"and --rate");
	if (c->skip_broken && !c->bitmaps)
		return err_set(e, -EINVAL, "--skip-broken-bitmaps goes with --bitmaps");
	if (c->size && c->size < from->size)
		return err_set(e, -EINVAL,
			"disk %s has %" PRIu64 " bytes, and --size is less: lodge disk resize can "
			"cut a copy",
			from->o.path, from->size);
	return 0;
}

static int convert(struct session *s, const struct convert *c, const struct args *a,
	struct disk_copy *copy, struct err *e)
{
	cleanup(free_ptr) struct disk_bitmap *list = NULL;
	struct disk *from, *to;
	unsigned n = 0;
	int rc = session_open_snapshot(s, a->v[0], c->snapshot, &from, e);

	rc = rc ?: may_convert(c, from, e);
	if (!rc && c->bitmaps)
		rc = look_at_bitmaps(from, a->v[1], c, &list, &n, e);
	if (!rc)
		rc = create(s, a->v[1],
			&(struct create){.size = c->size ?: from->size,
				.backing = c->backing,
				.options = c->options,
				.force = c->force},
			c->compress, e);
	if (!rc)
		rc = session_open(s, a->v[1], 0, &to, e);
	if (rc)
		return rc;
	copy->compress = c->compress;
	copy->no_sparse = c->no_sparse;
	copy->rate = c->rate;
	copy->blank = !to->backing && is_blank(to);
	copy->watch = s->watch;
	rc = make_bitmaps(to, list, n, e);
	if (!rc)
		rc = c->backing ? disk_copy_differing(from, to, &s->watch, &copy->copied, e)
				: disk_copy(from, to, copy, e);
	rc = rc ?: fill_bitmaps(from, to, list, n, e);
	if (rc)
		return forget_copy(s, a->v[1], to, rc, e);
	return !n ? 0 : bitmaps_written(s, a->v[1], NULL, e);
}

static int run_convert(void *opts, const struct args *a)
{
	const struct convert *c = opts;
	cleanup(session_end) struct session s = {0};
	struct disk_copy copy = {0};
	char x[PRINT_SIZE], y[PRINT_SIZE];
	struct err e = {0};

	session_begin(&s, c->json, "converting");
	signal(SIGPIPE, SIG_IGN); /* who looks on may leave: a part of a copy must not */
	if (convert(&s, c, a, &copy, &e))
		return session_failed(&s, &e);
	session_clear(&s);
	if (c->json)
		print_json_drop(json_pack("{s:I, s:I}", "copied", (json_int_t)copy.copied,
			"skipped", (json_int_t)copy.skipped));
	else
		printf("%s: %s copied, %s of zeroes left out\n", text_one_line(a->v[1]),
			print_size(x, copy.copied), print_size(y, copy.skipped));
	return EXIT_DONE;
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

static int resize(struct session *s, const struct args *a, bool shrink, struct err *e)
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
	return disk_resize(d, size, e);
}

static int run_resize(void *opts, const struct args *a)
{
	const struct resize *r = opts;
	cleanup(session_end) struct session s = {0};
	struct err e = {0};

	session_begin(&s, r->json, "resizing");
	if (resize(&s, a, r->shrink, &e))
		return session_failed(&s, &e);
	if (r->json)
		print_json_drop(json_pack("{s:I}", "size", (json_int_t)disk_size(s.open[0])));
	return EXIT_DONE;
}

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
		printf("%-6s %-24s %-20s %s\n", "ID", "NAME", "MADE", "SIZE");
	for (unsigned i = 0; i < n && !rc; i++) {
		struct disk_snapshot *s = &list[i];
		char when[32] = "", size[PRINT_SIZE];
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
		printf("%-6s %-24s %-20s %s\n", text_one_line(s->id), text_one_line(s->name), when,
			print_size(size, s->size));
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
	if (!rc && name)
		rc = bitmaps_written(&s, a->v[0], name, &e);
	if (rc)
		return session_failed(&s, &e);
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
	{VERB("disk create", "FILE:FORMAT", "make an empty disk, or one upon another"), ONE_DISK,
		.cmd.groups = create_groups, .size = sizeof(struct create), .run = run_create},
	{VERB("disk info", "FILE:FORMAT", "what a disk is"), ONE_DISK, .cmd.groups = info_groups,
		.size = sizeof(struct info), .run = run_info},
	{VERB("disk check", "FILE:FORMAT", "look for damage; ends with 1 when there is some"),
		ONE_DISK, .cmd.groups = json_groups, .size = sizeof(struct json_only),
		.run = run_check},
	{VERB("disk repair", "FILE:FORMAT", "mend what check finds"), ONE_DISK,
		.cmd.groups = json_groups, .size = sizeof(struct json_only), .run = run_repair},
	{VERB("disk convert", "FILE:FORMAT FILE:FORMAT", "copy a disk to a new one of any format"),
		TWO_ARGS, .cmd.groups = convert_groups, .size = sizeof(struct convert),
		.run = run_convert},
	{VERB("disk resize", "FILE:FORMAT [+]SIZE", "make a disk larger, or smaller"), TWO_ARGS,
		.cmd.groups = resize_groups, .size = sizeof(struct resize), .run = run_resize},
	{VERB("disk snapshot", "FILE:FORMAT...",
		 "list, make (of several disks at one instant), delete, go back to snapshots"),
		FORMATS, .cmd.min_args = 1, .cmd.max_args = SESSION_DISKS,
		.cmd.groups = snapshot_groups, .size = sizeof(struct snapshot),
		.run = run_snapshot},
	{VERB("disk bitmap", "FILE:FORMAT", "list and work on records of changed blocks"), ONE_DISK,
		.cmd.groups = bitmap_groups, .size = sizeof(struct bitmap), .run = run_bitmap},
	{VERB("disk commit", "FILE:FORMAT", "copy a disk's own part into its backing file"),
		ONE_DISK, .cmd.groups = commit_groups, .size = sizeof(struct commit),
		.run = run_commit},
	{VERB("disk rebase", "FILE:FORMAT", "give a disk another backing file, or none"), ONE_DISK,
		.cmd.groups = rebase_groups, .size = sizeof(struct rebase), .run = run_rebase},
	{VERB("disk map", "FILE:FORMAT", "where each part of a disk lies"), ONE_DISK,
		.cmd.groups = map_groups, .size = sizeof(struct map), .run = run_map},
	{VERB("disk generation", "FILE:FORMAT", "which generation its changes are in"), ONE_DISK,
		.cmd.groups = generation_groups, .size = sizeof(struct generation),
		.run = run_generation},
	{VERB("disk compare", "FILE:FORMAT FILE:FORMAT", "ends with 1 when the contents differ"),
		TWO_ARGS, .cmd.groups = compare_groups, .size = sizeof(struct compare),
		.run = run_compare},
	{VERB("disk formats", "", "the formats and their options"),
		.cmd.text = "create: for --options of disk create, disk convert and store create. "
			    "open: behind the format of a disk that is there, as in "
			    "a.qcow2:qcow2,snapshot=monday; lodge run --disk takes commit, sorter, "
			    "metadata, fence and take.",
		.cmd.groups = json_groups, .size = sizeof(struct json_only), .run = run_formats},
	VERBS_END,
};
