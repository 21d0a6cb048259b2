#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/ui/print.h"
#include "cli/ui/progress.h"
#include "cli/ui/signals.h"
#include "cli/verb.h"
#include "image/image.h"

struct pull {
	char *arch, *mirror, *keyring, *with, *password, *machine;
	uint64_t size;
	bool force, json;
};

#define P(m) OPT_AT(struct pull, m)

static const struct opt pull_opts[] = {
	{"arch", .type = OPT_TEXT, P(arch), .arg = "ARCH",
		.help = "riscv64 or amd64; without it what the name says"},
	{"mirror", .type = OPT_TEXT, P(mirror), .arg = "URL",
		.help = "a Debian mirror; without it, that of the host's apt configuration"},
	{"keyring", .type = OPT_TEXT, P(keyring), .arg = "FILE", .complete = OPT_COMPLETE_FILE,
		.help = "trust this keyring instead of apt's keys for Debian"},
	{"with", .type = OPT_TEXT, P(with), .arg = "PKG,...",
		.help = "install further packages, such as openssh-server"},
	{"root-password", .type = OPT_TEXT, P(password), .arg = "WORD",
		.help = "root's password (- reads a line); without it the console needs none"},
	{"size", .type = OPT_SIZE, P(size), .arg = "SIZE", .min = GiB, .dflt = "8G",
		.help = "size of the disk that the guest sees"},
	{"force", .type = OPT_FLAG, P(force),
		.help = "build again, even when the cache has the result"},
	{"machine", .type = OPT_TEXT, P(machine), .arg = "PROGRAM", .complete = OPT_COMPLETE_FILE,
		.help = "what boots the second stage; without it lodge-vm"},
	{"json", .type = OPT_FLAG, P(json),
		.help = "print one JSON object a line instead of a progress bar"},
	OPT_DONE,
};
static const struct opt_group pull_groups[] = {{"Options", pull_opts}, {0}};

/* What a pull shows, and how Ctrl-C reaches it. */
struct watch {
	int sigfd;
	bool json;
	char stage[16];
	struct progress bar;
};

static const char *stage_text(const char *stage)
{
	static const struct {
		const char *stage, *text;
	} t[] = {
		{"wait", "waiting for another pull"},
		{"index", "package index"},
		{"fetch", "fetching"},
		{"unpack", "unpacking"},
		{"disk", "making the disk"},
		{"configure", "configuring packages"},
		{"publish", "publishing"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		if (!strcmp(t[i].stage, stage))
			return t[i].text;
	return stage;
}

static void draw(struct watch *w, uint64_t done, uint64_t total, bool bytes)
{
	if (bytes)
		progress_bytes(&w->bar, stage_text(w->stage), done, total);
	else if (total)
		progress_bar(&w->bar, stage_text(w->stage), (double)done / (double)total,
			"%" PRIu64 " / %" PRIu64, done, total);
	else
		progress_bar(&w->bar, stage_text(w->stage), 0, "%s", "");
}

static void print_progress(const struct watch *w, uint64_t done, uint64_t total, bool bytes)
{
	printf("{\"event\":\"progress\",\"stage\":\"%s\",\"done\":%" PRIu64 ",\"total\":%" PRIu64
	       ",\"unit\":\"%s\"}\n",
		w->stage, done, total, bytes ? "bytes" : "steps");
	fflush(stdout);
}

static int on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total, int bytes)
{
	struct watch *w = ctx;
	bool fresh = strcmp(stage, w->stage) != 0;

	if (fresh) {
		snprintf(w->stage, sizeof(w->stage), "%s", stage);
		progress_begin(&w->bar, done);
	}
	if (fresh || progress_due(&w->bar)) {
		if (w->json)
			print_progress(w, done, total, bytes);
		else if (w->bar.tty)
			draw(w, done, total, bytes);
		else if (fresh)
			fprintf(stderr, "%s\n", stage_text(stage));
	}
	return signals_came(w->sigfd);
}

static const char *read_password(const char *opt, char *line, size_t n)
{
	if (!opt || strcmp(opt, "-"))
		return opt;
	if (!fgets(line, (int)n, stdin))
		return "";
	line[strcspn(line, "\n")] = 0;
	return line;
}

static int pulled(
	const struct image_dirs *d, const char *name, enum image_pulled how, bool json, double s)
{
	static const char *const text[] = {"built", "taken from the cache", "up to date"};
	struct err e = {0};
	cleanup(json_drop) json_t *m = image_manifest(d, name, &e);

	if (!m)
		return fail(&e);
	name = json_string_value(json_object_get(m, "name"));
	if (json)
		printf("{\"event\":\"done\",\"image\":\"%s\",\"how\":\"%s\",\"seconds\":%.1f}\n",
			name, text[how], s);
	else
		printf("%s: %s in %.1f s; login: %s\n", name, text[how], s,
			json_string_value(json_object_get(m, "login")) ?: "");
	return EXIT_DONE;
}

static int run_pull(void *opts, const struct args *a)
{
	const struct pull *p = opts;
	cleanup(image_dirs_free) struct image_dirs d = {0};
	struct err e = {0};
	char pw[256];
	struct watch w = {.sigfd = -1, .json = p->json};
	uint64_t t0 = clock_mono_ns();
	enum image_pulled how;
	struct image_pull o = {
		.name = a->v[0],
		.arch = p->arch,
		.mirror = p->mirror,
		.keyring = p->keyring,
		.with = p->with,
		.root_password = read_password(p->password, pw, sizeof(pw)),
		.disk_size = p->size,
		.force = p->force,
		.machine = p->machine,
		.progress = {on_progress, &w},
	};
	int r;

	if (image_dirs_default(&d, &e) || signals_hold(&w.sigfd, NULL, &e))
		return fail(&e);
	r = image_pull(&d, &o, &how, &e);
	progress_clear(&w.bar);
	if (w.sigfd >= 0)
		close(w.sigfd);
	if (r)
		return fail(&e);
	return pulled(&d, image_kind(o.name, o.arch, &e)->name, how, w.json,
		(double)(clock_mono_ns() - t0) / 1e9);
}

static uint64_t total_size(const json_t *m, const char *key)
{
	uint64_t n = 0;
	size_t i;
	json_t *f;

	json_array_foreach(json_object_get(m, "files"), i, f)
		n += (uint64_t)json_integer_value(json_object_get(f, key));
	return n;
}

static const char *str(const json_t *m, const char *key)
{
	return json_string_value(json_object_get(m, key)) ?: "-";
}

static int run_ls(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(image_dirs_free) struct image_dirs d = {0};
	cleanup(json_drop) json_t *all = NULL;
	struct err e = {0};
	size_t i;
	json_t *m;

	if (image_dirs_default(&d, &e))
		return fail(&e);
	all = image_list(&d, &e);
	if (!all)
		return fail(&e);
	if (o->json) {
		print_json(all);
		return EXIT_DONE;
	}
	if (!json_array_size(all)) {
		printf("no images yet: lodge image pull debian:mini\n");
		return EXIT_DONE;
	}
	printf("%-26s %-8s %-28s %10s  %s\n", "IMAGE", "ARCH", "KERNEL", "ON DISK", "CREATED");
	json_array_foreach(all, i, m) printf("%-26s %-8s %-28s %6" PRIu64 " MiB  %s\n",
		str(m, "name"), str(m, "arch"), str(m, "kernel_release"),
		(uint64_t)(total_size(m, "allocated") / MiB), str(m, "created"));
	return EXIT_DONE;
}

static int run_show(void *opts, const struct args *a)
{
	const struct json_only *o = opts;
	cleanup(image_dirs_free) struct image_dirs d = {0};
	cleanup(json_drop) json_t *m = NULL;
	struct err e = {0};
	const json_t *disk;
	json_t *note;
	size_t i;

	if (image_dirs_default(&d, &e))
		return fail(&e);
	m = image_manifest(&d, a->v[0], &e);
	if (!m)
		return fail(&e);
	if (o->json) {
		print_json(m);
		return EXIT_DONE;
	}
	disk = json_object_get(m, "disk");
	printf("image      %s (%s)\n", str(m, "name"), str(m, "arch"));
	printf("made       %s from %s\n", str(m, "created"), str(m, "mirror"));
	printf("directory  %s\n", str(m, "directory"));
	printf("kernel     %s (Linux %s)\n", str(m, "kernel"), str(m, "kernel_release"));
	printf("initrd     %s\n", str(m, "initrd"));
	printf("append     %s\n", str(m, "append"));
	if (disk)
		printf("disk       %s (%s, %" PRIu64 " MiB)\n", str(disk, "file"),
			str(disk, "format"),
			(uint64_t)((uint64_t)json_integer_value(json_object_get(disk, "size")) /
				   MiB));
	printf("memory     %" PRIu64 " MiB or more\n",
		(uint64_t)((uint64_t)json_integer_value(json_object_get(m, "memory")) / MiB));
	printf("packages   %zu\n", json_array_size(json_object_get(m, "packages")));
	printf("login      %s\n", str(m, "login"));
	json_array_foreach(json_object_get(m, "notes"), i, note)
		printf("note       %s\n", json_string_value(note));
	return EXIT_DONE;
}

static int remove_one(const void *opts, const char *name)
{
	const struct json_only *o = opts;
	cleanup(image_dirs_free) struct image_dirs d = {0};
	struct err e = {0};

	if (image_dirs_default(&d, &e) || image_remove(&d, name, &e))
		return fail(&e);
	if (o->json)
		print_json_drop(json_pack("{s:s}", "removed", name));
	else
		printf("%s removed\n", name);
	return EXIT_DONE;
}

static int run_rm(void *opts, const struct args *a)
{
	return each_argument(a, opts, remove_one);
}

const struct verb verbs_image[] = {
	{VERB("image pull", "IMAGE", "build or renew an image from Debian's own packages"),
		.cmd.text = "IMAGE is debian:mini (kernel and busybox) or debian:trixie (also: "
			    "debian); each also for amd64. "
			    "Signatures are checked with apt's keys. An interrupted pull goes on "
			    "where it was.",
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = pull_groups,
		.cmd.names = "names pullable", .size = sizeof(struct pull), .run = run_pull},
	{VERB("image ls", NULL, "list the images that are here"), .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .run = run_ls},
	{VERB("image show", "IMAGE", "show what an image is made of and how to log in"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = json_groups,
		.size = sizeof(struct json_only), .cmd.names = "names images", .run = run_show},
	{VERB("image rm", "IMAGE...", "remove images"), .cmd.min_args = 1, .cmd.max_args = 64,
		.cmd.groups = json_groups, .size = sizeof(struct json_only),
		.cmd.names = "names images", .run = run_rm},
	VERBS_END,
};
