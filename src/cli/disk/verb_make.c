/* verb_make.c: new disks, empty ones and copies of others. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
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
	/* A block device; what a link leads to. */
	return access(path, F_OK) ? why : err_wrap(e, "a part of the copy is left on %s", path);
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
	return 0;
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
	if (session_closed(&s))
		return EXIT_FAILED;
	if (c->json)
		print_json_drop(json_pack("{s:I, s:I}", "copied", (json_int_t)copy.copied,
			"skipped", (json_int_t)copy.skipped));
	else
		printf("%s: %s copied, %s of zeroes left out\n", text_one_line(a->v[1]),
			print_size(x, copy.copied), print_size(y, copy.skipped));
	return EXIT_DONE;
}

/* ---- measure ---- */

struct measure {
	uint64_t size;
	char *to, *options, *snapshot;
	bool json;
};
#define P(m) OPT_AT(struct measure, m)
static const struct opt measure_opts[] = {
	{"to", 't', .type = OPT_TEXT, P(to), .arg = "FORMAT", .names = "names formats",
		.help = "format of the disk that would be made"},
	{"size", 's', .type = OPT_SIZE, P(size), .arg = "SIZE",
		.help = "what the guest sees; of a copy, when it is to be larger"},
	{"snapshot", .type = OPT_TEXT, P(snapshot), .arg = "NAME",
		.help = "a copy of what the disk held when this snapshot was made"},
	{"options", 'o', .type = OPT_TEXT, P(options), .arg = "KEY=VALUE,...", .joins = true,
		.help = "of that format, as for disk create and convert"},
	{"json", .type = OPT_FLAG, P(json), .help = "print JSON"},
	OPT_DONE,
};
#undef P
static const struct opt_group measure_groups[] = {{"Options", measure_opts}, {0}};

static int measure(struct session *s, const struct measure *m, const struct args *a,
	struct disk_create_opts *o, struct disk_amount *out, struct err *e)
{
	struct disk_kv kv[SESSION_KEYS];
	struct disk *from = NULL;
	int rc = session_options(m->options, kv, SESSION_KEYS, e);

	if (!rc && a->n)
		rc = session_open_snapshot(s, a->v[0], m->snapshot, &from, e);
	if (rc)
		return rc;
	*o = (struct disk_create_opts){.size = m->size
						       ?: from ? disk_size(from)
							       : 0,
		.kv = kv,
		.watch = &s->watch};
	return disk_measure(m->to, o, from, out, e);
}

static int run_measure(void *opts, const struct args *a)
{
	const struct measure *m = opts;
	cleanup(session_end) struct session s = {0};
	struct disk_create_opts o;
	struct disk_amount v;
	struct err e = {0};
	json_t *j;

	if (!m->to || !disk_format_by_name(m->to))
		return usage("--to FORMAT: %s%s%s; `lodge disk formats` lists them",
			m->to ? "there is no format '" : "which one", m->to ?: "",
			m->to ? "'" : "");
	if (!a->n && !m->size)
		return usage("of what? name the disk that is to be copied (FILE:FORMAT), or --size "
			     "SIZE for an empty one");
	if (!a->n && m->snapshot)
		return usage("--snapshot: of which disk? name it (FILE:FORMAT)");
	session_begin(&s, m->json, "measuring");
	if (measure(&s, m, a, &o, &v, &e))
		return session_failed(&s, &e);
	session_clear(&s);
	j = json_pack("{s:s, s:I, s:I, s:I}", "format", m->to, "size", (json_int_t)o.size,
		"required", (json_int_t)v.required, "fully_allocated", (json_int_t)v.full);
	if (v.bitmaps)
		json_object_set_new(j, "bitmaps", json_integer((json_int_t)v.bitmaps));
	if (v.store) {
		json_object_set_new(j, "store_required", json_integer((json_int_t)v.store));
		json_object_set_new(
			j, "store_fully_allocated", json_integer((json_int_t)v.store_full));
	}
	if (m->json)
		print_json(j);
	else
		print_fields(j);
	json_decref(j);
	return EXIT_DONE;
}

#define FORMATS .cmd.suffixes = "names formats"
#define ONE_DISK FORMATS, .cmd.min_args = 1, .cmd.max_args = 1
#define TWO_ARGS FORMATS, .cmd.min_args = 2, .cmd.max_args = 2

const struct verb verbs_disk_make[] = {
	{VERB("disk create", "FILE:FORMAT", "make an empty disk, or one upon another"), ONE_DISK,
		.cmd.groups = create_groups, .size = sizeof(struct create), .run = run_create},
	{VERB("disk convert", "FILE:FORMAT FILE:FORMAT", "copy a disk to a new one of any format"),
		TWO_ARGS, .cmd.groups = convert_groups, .size = sizeof(struct convert),
		.run = run_convert},
	{VERB("disk measure", "[FILE:FORMAT]",
		 "how much a copy of a disk would take, or an empty one"),
		.cmd.suffixes = "names formats",
		.cmd.text =
			"required is how long the file will be, or how large the block device "
			"must be; fully_allocated, when all of the disk was written once; bitmaps, "
			"what "
			"convert --bitmaps adds. In a store "
			"they are what the disk takes of it, and store_required and "
			"store_fully_allocated "
			"the size of a store (lodge store create) that holds nothing else. Nothing "
			"is read but where the data lies.",
		.cmd.max_args = 1, .cmd.groups = measure_groups, .size = sizeof(struct measure),
		.run = run_measure},
	VERBS_END,
};
