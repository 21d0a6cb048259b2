/* lodge migrate: the sockets are ours, the bytes are the machine's. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/migrate/address.h"
#include "cli/migrate/tls.h"
#include "cli/ui/print.h"
#include "cli/ui/progress.h"
#include "cli/ui/signals.h"
#include "cli/verb.h"
#include "vm/rundir.h"

#define TICK_MS 100
#define END_MS 3000 /* how long the process of a machine that has gone may take to end */

struct migrate {
	unsigned streams, downtime;
	uint64_t bandwidth;
	bool copy_disks, no_throttle, dry_run, post, at_once, recover, cancel, take_back, json;
	char *shared;
	struct tls_opts tls;
};

static const struct opt migrate_opts[] = {
	{"streams", .type = OPT_UINT, OPT_AT(struct migrate, streams), .arg = "N", .dflt = "2",
		.min = 1, .max = CLIENT_FDS,
		.help = "connections that carry memory, each with a thread on both sides"},
	{"bandwidth", .type = OPT_SIZE, OPT_AT(struct migrate, bandwidth), .arg = "SIZE",
		.min = 64 * KiB, .max = 1024 * GiB,
		.help = "at most so much a second while the guest runs; without it no limit"},
	{"downtime", .type = OPT_UINT, OPT_AT(struct migrate, downtime), .arg = "MS", .dflt = "50",
		.min = 1, .max = 100000,
		.help = "how long the guest may stand still, in milliseconds"},
	{"copy-disks", .type = OPT_FLAG, OPT_AT(struct migrate, copy_disks),
		.help = "the disks go over as well: the destination makes files of its own, and "
			"those here are left behind as they are then"},
	{"shared", .type = OPT_TEXT, OPT_AT(struct migrate, shared), .arg = "ID,ID",
		.help = "with --copy-disks: these disks are not copied, both sides reach them"},
	{"no-throttle", .type = OPT_FLAG, OPT_AT(struct migrate, no_throttle),
		.help = "do not slow down a guest that writes faster than the connection carries"},
	{"post-copy", .type = OPT_FLAG, OPT_AT(struct migrate, post),
		.help = "run the machine there after one round, and bring the rest of its memory "
			"while it runs: it moves however much it writes, but needs both sides "
			"until all is there"},
	{"at-once", .type = OPT_FLAG, OPT_AT(struct migrate, at_once),
		.help = "with --post-copy: without that round"},
	{"recover", .type = OPT_FLAG, OPT_AT(struct migrate, recover),
		.help = "go on with a --post-copy whose connection broke: DEST is where `lodge "
			"receive` still waits, or waits again"},
	{"dry-run", .type = OPT_FLAG, OPT_AT(struct migrate, dry_run),
		.help = "only say whether it could be done, how long it would take, and how long "
			"the guest would stand still"},
	{"cancel", .type = OPT_FLAG, OPT_AT(struct migrate, cancel),
		.help = "end the migration of the machine that is on its way; it stays here"},
	{"take-back", .type = OPT_FLAG, OPT_AT(struct migrate, take_back),
		.help = "after a connection that broke in the last moment: run the machine here. "
			"Only when it does not run at its destination"},
	{"json", .type = OPT_FLAG, OPT_AT(struct migrate, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group migrate_groups[] = {
	{"Options", migrate_opts, 0},
	{"Security", tls_opts, offsetof(struct migrate, tls)},
	{0},
};

struct run {
	const struct migrate *o;
	struct client c, events;
	int sigfd;
	struct progress bar;
	bool said, cancelled, there /* it runs there, and that was said */;
	uint64_t said_disks; /* bit i: the prediction for disk i was printed */
	json_t *st; /* the last status */
};

static double num(const json_t *j, const char *key)
{
	return (double)json_integer_value(json_object_get(j, key));
}

static const char *phase_of(const json_t *j)
{
	return json_string_value(json_object_get(j, "phase")) ?: "";
}

#define MB(x) ((x) / 1048576.0)

/* Seconds until the end if nothing changes: what is left, and what is written meanwhile, and meanwhile ... */
static double left_s(const json_t *st)
{
	double rate = num(st, "page_rate") * 4096, dirty = num(st, "dirty");

	if (rate <= 0)
		return -1;
	return num(st, "left") * 4096 / rate / (dirty < rate * 0.95 ? 1 - dirty / rate : 0.05);
}

/* Post-copy: it runs there already. */
static void draw_rest(struct run *r)
{
	double of = num(r->st, "of"), left = num(r->st, "left"), s;

	if (strcmp(phase_of(r->st), "postcopy"))
		return;
	if (!r->there && !r->o->json) {
		progress_clear(&r->bar);
		fprintf(stderr, "%s runs at the destination; %.0f MiB follow\n", r->c.name,
			MB(of * 4096));
	}
	r->there = true;
	if (!r->bar.tty)
		return;
	s = num(r->st, "page_rate") > 0 ? left / num(r->st, "page_rate") : 0;
	progress_bar(&r->bar, NULL, of > 0 ? 1 - left / of : 1,
		"%.0f MiB left, %.0f MiB/s: %.0f s; the guest waited for %.0f pages",
		MB(left * 4096), MB(num(r->st, "page_rate") * 4096), s, num(r->st, "asked"));
}

/* The disk that is being read. */
static void draw_disk(struct run *r)
{
	double rate = num(r->st, "disk_rate");
	char speed[64] = "";
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(r->st, "disks"), i, j)
	{
		double left = num(j, "left"), size = num(j, "size");

		if (left <= 0)
			continue;
		if (rate > 0)
			snprintf(speed, sizeof(speed), ", %.0f MiB/s, about %.1f s", MB(rate),
				left / rate);
		progress_bar(&r->bar, NULL, 1 - left / size, "%s: %.0f MiB sent, %.0f MiB to go%s",
			json_string_value(json_object_get(j, "id")), MB(num(j, "sent")), MB(left),
			speed);
		return;
	}
}

static void draw(struct run *r)
{
	const json_t *st = r->st;
	double of = num(st, "of"), done = of > 0 ? 1 - num(st, "left") / of : 0;
	char pause[48] = "", slow[48] = "";

	draw_rest(r);
	if (!r->bar.tty || strcmp(phase_of(st), "copying"))
		return;
	if (json_is_true(json_object_get(st, "at_disks"))) {
		draw_disk(r);
		return;
	}
	if (num(st, "round") > 0)
		snprintf(pause, sizeof(pause), "; pause now %.0f ms",
			num(st, "predicted_us") / 1000);
	if (num(st, "throttle") > 0)
		snprintf(slow, sizeof(slow), "; slowed down by %.1f %%", num(st, "throttle") / 10);
	progress_bar(&r->bar, NULL, done,
		"round %d: %.0f MiB left, %.0f MiB/s; the guest writes %.0f MiB/s%s%s",
		(int)num(st, "round"), MB(num(st, "left") * 4096), MB(num(st, "page_rate") * 4096),
		MB(num(st, "dirty")), pause, slow);
}

/* For each disk once, when it is seen how fast it goes. */
static void predict_disks(struct run *r)
{
	const json_t *j;
	size_t i;

	if (r->o->json || num(r->st, "disk_rate") <= 0)
		return;
	json_array_foreach(json_object_get(r->st, "disks"), i, j)
	{
		if (r->said_disks >> i & 1 || num(j, "left") <= 0)
			continue;
		r->said_disks |= 1ull << i;
		progress_clear(&r->bar);
		fprintf(stderr, "%s: %.0f MiB of %.0f have data, %.0f MiB/s: about %.1f s\n",
			json_string_value(json_object_get(j, "id")), MB(num(j, "data")),
			MB(num(j, "size")), MB(num(r->st, "disk_rate")),
			MAX(num(j, "data") - num(j, "sent"), 0.0) / num(r->st, "disk_rate"));
	}
}

/* Once something is known of guest and connection. */
static void predict(struct run *r)
{
	double s = left_s(r->st);

	predict_disks(r);
	if (r->said || r->o->json || s < 0 || strcmp(phase_of(r->st), "copying") ||
		num(r->st, "total_ms") < 200)
		return;
	r->said = true;
	progress_clear(&r->bar);
	fprintf(stderr,
		"%.0f MiB of %.0f in use, %.0f MiB/s over the connection, the guest writes %.0f "
		"MiB/s: about %.1f s\n",
		MB(num(r->st, "touched") * 4096), MB(num(r->st, "pages") * 4096),
		MB(num(r->st, "page_rate") * 4096), MB(num(r->st, "dirty")), s);
}

static void ask_cancel(struct run *r)
{
	cleanup(client_close) struct client c = {.fd = -1};
	struct signalfd_siginfo si;

	while (read(r->sigfd, &si, sizeof(si)) == sizeof(si))
		;
	r->cancelled = true;
	if (r->there) {
		progress_clear(&r->bar);
		fprintf(stderr, "%s runs at the destination already, and needs the rest\n",
			r->c.name);
	}
	if (!client_open(&c, r->c.name, NULL))
		client_call(&c, "migrate_cancel", NULL, NULL, NULL);
}

static bool over(const json_t *st)
{
	const char *p = phase_of(st);

	return !strcmp(p, "done") || !strcmp(p, "failed") || !strcmp(p, "lost") ||
	       !strcmp(p, "tried") || !strcmp(p, "postcopy-paused");
}

/* The event tells how it ended; the machine that told it may be gone the next moment. */
static int take_event(struct run *r, struct err *e)
{
	char name[64];
	json_t *p = NULL;
	int rc = client_event(&r->events, name, sizeof(name), &p, e);

	if (rc)
		return err_set(e, -EPIPE,
			"machine %s has gone in the middle of it: its guest ended, or it was "
			"killed; it does not run at the destination unless that says so",
			r->c.name);
	if (!strcmp(name, "migration")) {
		json_decref(r->st);
		r->st = p;
	} else {
		json_decref(p);
	}
	return 0;
}

static int follow(struct run *r, struct err *e)
{
	while (!over(r->st)) {
		struct pollfd p[2] = {{r->events.fd, POLLIN, 0}, {r->sigfd, POLLIN, 0}};
		json_t *st = NULL;

		predict(r);
		draw(r);
		if (poll(p, 2, TICK_MS) > 0) {
			if (p[1].revents)
				ask_cancel(r);
			if (p[0].revents && take_event(r, e))
				return e->code;
			continue;
		}
		if (client_call(&r->c, "migrate_status", NULL, &st, NULL))
			continue; /* the event says more */
		json_decref(r->st);
		r->st = st;
	}
	return 0;
}

/* Its name is free when this returns, unless its process takes very long. */
static void wait_for_end(struct run *r)
{
	for (unsigned i = 0; i < END_MS / TICK_MS; i++) {
		struct pollfd p = {r->events.fd, POLLIN, 0};

		if (poll(&p, 1, TICK_MS) > 0 && take_event(r, NULL))
			break;
	}
	for (unsigned i = 0; i < END_MS && rundir_alive(r->c.name); i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- beginning and end ---- */

static void close_fds(int *fd, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (fd[i] >= 0)
			close(fd[i]);
}

static json_t *split_ids(const char *text)
{
	json_t *list = json_array();
	size_t n;

	for (; *text; text += n + (text[n] == ',')) {
		n = strcspn(text, ",");
		json_array_append_new(list, json_stringn(text, n));
	}
	return list;
}

static int begin(struct run *r, const struct address *to, struct err *e)
{
	const struct migrate *o = r->o;
	json_t *tls = NULL, *p;
	json_t *shared = o->shared ? split_ids(o->shared) : NULL;
	int fd[CLIENT_FDS], rc;
	unsigned n = 0;

	rc = tls_opts_read(&o->tls, to->host, &tls, e);
	/* Post-copy has one for itself, for what the guest waits for. */
	while (!rc && n < o->streams + (o->post || o->recover)) {
		rc = address_connect(to, &fd[n], e);
		n += !rc;
	}
	/* Ctrl-C ended it at once until here: who does not answer is waited for long. */
	rc = rc ?: signals_hold(&r->sigfd, NULL, e);
	if (!rc)
		rc = client_call(&r->events, "events", json_pack("{s:b}", "follow", 1), NULL, e);
	p = json_pack("{s:I, s:I, s:b, s:b, s:b, s:s*, s:b, s:o*, s:o*}", "bandwidth",
		(json_int_t)o->bandwidth, "downtime_us", (json_int_t)o->downtime * 1000, "dry_run",
		o->dry_run, "throttle", !o->no_throttle, "recover", o->recover, "post_copy",
		!o->post     ? NULL
		: o->at_once ? "at-once"
			     : "after-round",
		"copy_disks", o->copy_disks, "shared", shared, "tls", tls);
	if (!rc)
		rc = client_call_fds(&r->c, "migrate_start", p, fd, n, &r->st, e);
	else
		json_decref(p);
	close_fds(fd, n);
	return rc;
}

/* What to do now. */
static void print_broken(const struct run *r, const char *to, const char *why)
{
	double left = MB(num(r->st, "left") * 4096);

	fprintf(stderr,
		"lodge: %s: the connection broke (%s). The machine runs at %s, as far as it gets "
		"without what is only here (%.0f MiB were not sent yet); this side keeps it, and "
		"stands still. Go on: lodge migrate %s DEST --recover, where DEST is as before, or "
		"where `lodge receive NAME ADDRESS --recover` waits there. If its process there "
		"has "
		"ended, what the guest has done since it moved is lost, but for its disks: lodge "
		"kill %s, and start it anew%s\n",
		r->c.name, why, to, left, r->c.name, r->c.name,
		left > 0 ? ""
			 : ". If `lodge ps --json` there has it without \"coming\", all of it is "
			   "there: end it here");
}

static void print_disks(const json_t *st)
{
	const json_t *j;
	size_t i;

	json_array_foreach(json_object_get(st, "disks"), i, j)
	{
		printf("%s went along: %.0f MiB of %.0f; %s is of no use to it any more\n",
			json_string_value(json_object_get(j, "id")), MB(num(j, "sent")),
			MB(num(j, "size")), json_string_value(json_object_get(j, "file")));
	}
}

/* Of what a dry run has sent and measured: memory and disks go one after the other, each as fast as it was seen to go. */
static void print_tried(const struct run *r, const char *to)
{
	const json_t *st = r->st;
	double memory = num(st, "page_rate") * 4096 + 1, disk = num(st, "disk_rate") + 1;
	char disks[96] = "";

	if (num(st, "disk_data") > 0)
		snprintf(disks, sizeof(disks), " and %.0f MiB on its disks (%.0f MiB/s)",
			MB(num(st, "disk_data")), MB(disk));
	printf("%s could move to %s: %.0f MiB in use%s, %.0f MiB/s over the connection, the guest "
	       "writes %.0f MiB/s: about %.1f s, and a pause of about %.0f ms\n",
		r->c.name, to, MB(num(st, "touched") * 4096), disks, MB(memory),
		MB(num(st, "dirty")),
		num(st, "touched") * 4096 / memory + num(st, "disk_data") / disk,
		3 + num(st, "dirty") * 0.01 / memory * 1000 +
			num(st, "disk_dirty") * 0.01 / disk * 1000);
}

static int print_end(struct run *r, const char *to)
{
	const json_t *st = r->st;
	const struct migrate *o = r->o;
	const char *why = json_string_value(json_object_get(st, "error")) ?: "failed";
	const char *paused = json_string_value(json_object_get(st, "paused"));
	bool done = !strcmp(phase_of(st), "done"), tried = !strcmp(phase_of(st), "tried");

	if (r->o->json) {
		print_json(st);
	} else if (done && o->recover) {
		printf("all of %s is at %s now\n", r->c.name, to);
	} else if (done) {
		printf("%s moved to %s in %.2f s; the guest stood still for %.1f ms\n", r->c.name,
			to, num(st, "total_ms") / 1e3, num(st, "downtime_us") / 1e3);
		print_disks(st);
	} else if (tried) {
		print_tried(r, to);
	}
	if (done || tried)
		return EXIT_DONE;
	if (!strcmp(phase_of(st), "postcopy-paused"))
		print_broken(r, to, why);
	else if (!strcmp(phase_of(st), "lost") && o->recover)
		fprintf(stderr,
			"lodge: %s: nothing has changed: %s. Look at the destination, and try "
			"again, "
			"or: lodge migrate --take-back %s, only if it does not run there\n",
			r->c.name, why, r->c.name);
	else if (!strcmp(phase_of(st), "lost"))
		fprintf(stderr,
			"lodge: %s: the connection broke when the machine was to begin to run at "
			"%s "
			"(%s). It stands still here. Look there: if it runs, end it here: lodge "
			"kill %s; only if it does not: lodge migrate --take-back %s\n",
			r->c.name, to, why, r->c.name, r->c.name);
	else if (paused)
		fprintf(stderr, "lodge: %s did not move: %s; %s\n", r->c.name, why, paused);
	else
		fprintf(stderr, "lodge: %s did not move, and goes on here: %s\n", r->c.name,
			r->cancelled ? "cancelled" : why);
	return EXIT_FAILED;
}

static int move(const struct migrate *o, const char *vm, const char *dest)
{
	struct run r = {.o = o, .c = {.fd = -1}, .events = {.fd = -1}, .sigfd = -1};
	struct address to;
	struct err e = {0};
	int rc = tls_opts_check(&o->tls, &e) ?: address_parse(&to, dest, &e)
			 ?: address_allowed(&to, o->tls.cert, o->tls.plain, &e);

	if (rc)
		return fail(&e);
	rc = client_open(&r.c, vm, &e) ?: client_open(&r.events, vm, &e);
	progress_begin(&r.bar, 0);
	r.bar.tty &= !o->json;
	rc = rc ?: begin(&r, &to, &e) ?: follow(&r, &e);
	if (!rc && !strcmp(phase_of(r.st), "done"))
		wait_for_end(&r);
	progress_clear(&r.bar);
	rc = rc ? fail(&e) : print_end(&r, to.text);
	json_decref(r.st);
	client_close(&r.c);
	client_close(&r.events);
	if (r.sigfd >= 0)
		close(r.sigfd);
	return rc;
}

static int only_call(const char *vm, const char *method)
{
	cleanup(client_close) struct client c = {.fd = -1};
	struct err e = {0};
	int rc = client_open(&c, vm, &e) ?: client_call(&c, method, NULL, NULL, &e);

	return rc ? fail(&e) : EXIT_DONE;
}

static int run_migrate(void *opts, const struct args *a)
{
	const struct migrate *o = opts;

	if (o->cancel || o->take_back) {
		if (a->n == 1 && o->cancel != o->take_back)
			return only_call(
				a->v[0], o->cancel ? "migrate_cancel" : "migrate_take_back");
		return usage("--cancel VM or --take-back VM, and nothing else");
	}
	if (a->n != 2)
		return usage("where to? lodge migrate VM unix:PATH, or "
			     "tcp:HOST:PORT");
	if ((o->at_once && !o->post) || (o->recover && (o->post || o->dry_run)))
		return usage("--at-once goes with --post-copy, --recover with "
			     "neither it nor --dry-run");
	if ((o->post || o->recover) && o->streams >= CLIENT_FDS)
		return usage("--streams: at most %u with post-copy", CLIENT_FDS - 1);
	return move(o, a->v[0], a->v[1]);
}

const struct verb verbs_migrate[] = {
	{VERB("migrate", "VM DEST", "move a running machine to another process or host"),
		.cmd.min_args = 1, .cmd.max_args = 2, .cmd.groups = migrate_groups,
		.cmd.names = "names machines", .size = sizeof(struct migrate), .run = run_migrate,
		.cmd.text =
			"DEST is where `lodge receive` waits: unix:PATH or tcp:HOST:PORT. Memory "
			"goes over while the guest runs; then it stands still for a moment, and "
			"goes on there. Disks and their locks change hands with it: their files "
			"must be reachable from both sides under the same names. With "
			"--copy-disks they go over as well, before memory: the destination "
			"makes its own, what the guest writes meanwhile is sent again, and the "
			"last of it while the guest stands still. What travels is what the guest "
			"sees of a disk: backing files are made part of it; snapshots and "
			"bitmaps of changes stay here.\n\n"
			"Whatever cannot be is said before the guest is paused. Ctrl-C, or "
			"--cancel from elsewhere, ends it at any time before the machine runs at "
			"its destination; it then goes on here.\n\n"
			"With --post-copy it runs at its destination first, and what is missing "
			"of its memory follows: at once where the guest waits for it. It then "
			"always ends, and the guest stands still for a few milliseconds, but until "
			"the end it needs both sides and the connection. When that breaks, who "
			"needs a page that is missing waits (lodge ps: postcopy-paused), and "
			"--recover makes a new connection.\n\n"
			"Connections of user networking end with the machine that had them; those "
			"through a tap or a switch stay."},
	VERBS_END,
};
