#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/disk/disk_session.h"
#include "cli/verb.h"

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

const struct verb verbs_measure[] = {
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
