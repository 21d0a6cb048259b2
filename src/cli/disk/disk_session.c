#include "cli/disk/disk_session.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/ui/signals.h"

void session_clear(struct session *s)
{
	progress_clear(&s->bar);
}

int session_failed(struct session *s, const struct err *e)
{
	session_clear(s);
	return fail(e);
}

static bool progress(void *ctx, uint64_t done, uint64_t of)
{
	struct session *s = ctx;

	if (signals_came(s->sigfd))
		return false;
	if (!progress_due(&s->bar))
		return true;
	if (s->json) {
		printf("{\"event\":\"progress\",\"done\":%" PRIu64 ",\"total\":%" PRIu64 "}\n",
			done, of);
		fflush(stdout);
	} else {
		progress_bytes(&s->bar, s->doing, done, of);
	}
	return true;
}

static void found(void *ctx, bool error, const char *text)
{
	struct session *s = ctx;
	char line[512];

	/* It may have a name out of the image, which somebody else chose. */
	snprintf(line, sizeof(line), "%s", text);
	text_one_line(line);
	session_clear(s);
	if (s->json)
		json_array_append_new(s->found,
			json_pack("{s:s, s:s}", "kind", error ? "error" : "leak", "text", line));
	else
		fprintf(stderr, "%s: %s\n", error ? "error" : "leak", line);
}

void session_begin(struct session *s, bool json, const char *doing)
{
	memset(s, 0, sizeof(*s));
	uv_loop_init(&s->loop);
	s->json = json;
	s->doing = doing;
	progress_begin(&s->bar, 0);
	s->found = json_array();
	s->watch = (struct disk_watch){progress, found, s};
	/* Ctrl-C is looked at between steps, so that nothing stops half way through a change. */
	(void)signals_hold(&s->sigfd, NULL, NULL); /* without, it cannot be stopped */
	/* A limit of file sizes is an error that says which file, not the end. */
	signal(SIGXFSZ, SIG_IGN);
}

bool session_same_file(const char *a, const char *b)
{
	struct stat x, y;

	return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int session_unused(const struct session *s, const char *path, struct err *e)
{
	for (unsigned i = 0; i < s->n; i++)
		for (const struct disk *d = s->open[i]; d; d = d->backing)
			if (session_same_file(path, d->o.path))
				return err_set(e, -EBUSY,
					"disk %s is named twice, or below the other one: it cannot "
					"be read and written at once",
					path);
	return 0;
}

void session_close(struct session *s)
{
	disk_close(s->open[--s->n]);
}

int session_closed(struct session *s)
{
	while (s->n)
		session_close(s);
	return s->lost ? EXIT_FAILED : EXIT_DONE;
}

void session_end(struct session *s)
{
	if (!s->bar.begun)
		return;
	session_clear(s);
	(void)session_closed(s);
	uv_run(&s->loop, UV_RUN_DEFAULT);
	uv_loop_close(&s->loop);
	json_decref(s->found);
	if (s->sigfd >= 0)
		close(s->sigfd);
}

static void on_lost(void *ctx, int why)
{
	struct session *s = ctx;

	if (s->forgotten)
		return;
	s->lost = true;
	session_clear(s);
	fprintf(stderr, "error: what was written last is lost: it cannot be written: %s\n",
		strerrordesc_np(-why) ?: "error");
}

static void on_bitmap_lost(void *ctx, const struct err *what)
{
	struct session *s = ctx;

	if (s->forgotten)
		return;
	s->lost = true;
	session_clear(s);
	fprintf(stderr, "error: %s\n", err_msg(what));
}

/* What stands behind FILE:FORMAT and a comma, cut off; NULL: nothing. A name that ends with a format has none; values may have colons. */
static char *cut_keys(char *name)
{
	const char *last = strrchr(name, ':');

	if (last && disk_format_by_name(last + 1))
		return NULL;
	for (char *c = strchr(name, ':'), *comma; c; c = strchr(c + 1, ':')) {
		comma = strchr(c, ',');
		if (!comma)
			break;
		*comma = 0;
		if (disk_format_by_name(c + 1))
			return comma + 1;
		*comma = ',';
	}
	return NULL;
}

static int open_as(struct session *s, const char *text, unsigned flags, const char *snapshot,
	struct disk **out, struct err *e)
{
	cleanup(free_ptr) char *path = NULL, *name = strdup(text);
	struct disk_kv kv[SESSION_KEYS + 1];
	struct disk_opts o = {.readonly = flags & SESSION_READONLY,
		.no_backing = flags & SESSION_NO_BACKING,
		.force = flags & SESSION_FORCE,
		.offline = true,
		.discard = true,
		.kv = kv,
		.loop = &s->loop,
		.stores = &s->stores,
		.watch = &s->watch,
		.client = {.lost = on_lost, .bitmap_lost = on_bitmap_lost, .ctx = s}};
	unsigned n = 0;
	int rc = name ? session_options(cut_keys(name), kv, SESSION_KEYS, e)
		      : err_set(e, -ENOMEM, "out of memory");

	rc = rc ?: disk_split_name(name, &path, &o.format, e);
	if (rc)
		return rc;
	while (kv[n].key)
		n++;
	if (snapshot) {
		kv[n] = (struct disk_kv){"snapshot", snapshot};
		kv[n + 1].key = NULL;
	}
	if (s->n == ARRAY_SIZE(s->open))
		return err_set(e, -EMFILE, "%s: too many disks at once", name);
	o.path = path;
	if (s->n && !o.readonly)
		rc = session_unused(s, path, e);
	rc = rc ?: disk_open(out, &o, e);
	if (!rc)
		s->open[s->n++] = *out;
	return rc;
}

int session_open(
	struct session *s, const char *name, unsigned flags, struct disk **out, struct err *e)
{
	return open_as(s, name, flags, NULL, out, e);
}

int session_open_snapshot(
	struct session *s, const char *name, const char *snapshot, struct disk **out, struct err *e)
{
	return open_as(s, name, SESSION_READONLY, snapshot, out, e);
}

static double percent(uint64_t part, uint64_t of)
{
	return of ? 100.0 * (double)part / (double)of : 0;
}

void session_print_check(char *name, const struct disk_check *c, const char *mends)
{
	bool fixed = c->fixed_errors || c->fixed_leaks;
	char unit[PRINT_SIZE], total[PRINT_SIZE], used[PRINT_SIZE], end[PRINT_SIZE];

	text_one_line(name);
	if (fixed)
		printf("%s: repaired %" PRIu64 " error%s and %" PRIu64 " leak%s\n", name,
			c->fixed_errors, print_s(c->fixed_errors), c->fixed_leaks,
			print_s(c->fixed_leaks));
	if (!c->errors && !c->leaks)
		printf("%s: nothing is wrong%s\n", name, fixed ? " any more" : "");
	else
		printf("%s: %" PRIu64 " error%s, %" PRIu64 " leak%s of %s%s%s%s\n", name, c->errors,
			print_s(c->errors), c->leaks, print_s(c->leaks), print_size(unit, c->unit),
			mends ? ": `" : "", mends ?: "", mends ? "` mends them" : "");
	if (!c->total)
		return;
	printf("%s of %s is allocated (%.1f %%)", print_size(used, c->allocated * c->unit),
		print_size(total, c->total * c->unit), percent(c->allocated, c->total));
	if (c->compressed)
		printf(", %.1f %% of it compressed", percent(c->compressed, c->allocated));
	if (c->fragmented)
		printf(", %.1f %% of it not behind what is before it",
			percent(c->fragmented, c->allocated));
	if (c->end)
		printf("; the file is in use up to %s", print_size(end, c->end));
	putchar('\n');
}

/* Cuts the next part off "a,b,,c", where two commas are one that belongs to the part. NULL: there is none. */
static char *next_part(char **at)
{
	char *part = *at, *from = *at, *to = *at;

	while (*from && (*from != ',' || from[1] == ',')) {
		from += *from == ',';
		*to++ = *from++;
	}
	*at = *from ? from + 1 : from;
	*to = 0;
	return *part || **at ? part : NULL;
}

int session_options(char *text, struct disk_kv *kv, unsigned max, struct err *e)
{
	unsigned n = 0;

	kv[0].key = NULL;
	for (char *p; text && (p = next_part(&text));) {
		char *eq = strchr(p, '=');

		if (!*p)
			continue;
		if (!eq || eq == p)
			return err_set(e, -EINVAL, "'%s' is not KEY=VALUE", p);
		if (n + 1 == max)
			return err_set(e, -EINVAL, "more than %u options", max - 1);
		*eq = 0;
		/* QEMU's options have underscores. */
		for (char *c = p; *c; c++)
			*c = *c == '_' ? '-' : *c;
		kv[n++] = (struct disk_kv){p, eq + 1};
		kv[n].key = NULL;
	}
	return 0;
}
