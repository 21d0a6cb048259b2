/* lodge snapshot create: the file is ours, the bytes are the machine's. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/client.h"
#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/disk/disk_session.h"
#include "cli/guest/guest.h"
#include "cli/snapshot/copy.h"
#include "cli/snapshot/create.h"
#include "cli/snapshot/store.h"
#include "cli/verb.h"

#define POLL_NS 20000000
#define STILL_MS 15000 /* the guest's own watchdog ends it after that */

struct create {
	char *name, *parent;
	bool memory_only, with_disks, quiesce, hold, json;
	uint64_t queue;
};

static const struct opt create_opts[] = {
	{"name", 'n', .type = OPT_TEXT, OPT_AT(struct create, name), .arg = "NAME",
		.help = "what it is called; without it VM-DATE-TIME"},
	{"parent", .type = OPT_TEXT, OPT_AT(struct create, parent), .arg = "SNAPSHOT",
		.names = "names snapshots",
		.help = "keep only what differs from this one, which is needed from then on"},
	{"memory-only", .type = OPT_FLAG, OPT_AT(struct create, memory_only),
		.help = "leave the disks out: nothing may write to them until it is restored"},
	{"with-disks", .type = OPT_FLAG, OPT_AT(struct create, with_disks),
		.help = "with the machine's disks, as they are at the same instant (the default "
			"where there are any)"},
	{"quiesce", .type = OPT_FLAG, OPT_AT(struct create, quiesce),
		.help = "have the guest's agent write out and freeze file systems for the moment"},
	{"hold", .type = OPT_FLAG, OPT_AT(struct create, hold),
		.help = "have the guest's agent hold its programs for the moment, so that clones "
			"of the snapshot have their identity before these go on"},
	{"queue", .type = OPT_SIZE, OPT_AT(struct create, queue), .arg = "SIZE", .dflt = "64M",
		.min = 256 * KiB, .max = 16 * GiB,
		.help = "at most so much memory for what the guest overwrites meanwhile"},
	{"json", .type = OPT_FLAG, OPT_AT(struct create, json), .help = "print JSON"},
	OPT_DONE,
};
static const struct opt_group create_groups[] = {{"Options", create_opts}, {0}};

static void default_name(const char *vm, char *name, size_t size)
{
	time_t now = time(NULL);
	struct tm tm;

	localtime_r(&now, &tm);
	snprintf(name, size, "%.40s-%04d%02d%02d-%02d%02d%02d", vm, tm.tm_year + 1900,
		tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* Until it is written. *st: how it went. */
static int follow(struct client *c, struct session *s, json_t **st, struct err *e)
{
	for (;;) {
		const char *state = json_string_value(json_object_get(*st, "state")) ?: "";

		if (!strcmp(state, "done"))
			return 0;
		if (strcmp(state, "writing"))
			return err_set(e, -EIO, "machine %s: %s", c->name,
				json_string_value(json_object_get(*st, "error"))
					?: "the snapshot "
					   "failed");
		/* Hanging up is what cancels it. */
		if (!s->watch.progress(s->watch.ctx,
			    (uint64_t)(json_int_at(*st, "done") * 4096 +
				       json_int_at(*st, "disk_done")),
			    (uint64_t)(json_int_at(*st, "pages") * 4096 +
				       json_int_at(*st, "disk_bytes"))))
			return err_set(e, -ECANCELED, "stopped; nothing is left of the snapshot");
		nanosleep(&(struct timespec){0, POLL_NS}, NULL);
		json_decref(*st);
		*st = NULL;
		if (client_call(c, "snapshot_status", NULL, st, e))
			return e->code;
	}
}

/* The file could not get its name: the disks forget it as well. */
static void forget_disks(struct client *c, int fd, const char *name)
{
	struct snapopen s = {0};
	json_t *d;
	size_t i;
	char self[40];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (snapstore_open(self, &s, NULL))
		return;
	json_array_foreach(json_object_get(s.manifest, "disks"), i, d)
	{
		const char *id = json_string_value(json_object_get(d, "id"));

		if (id && json_is_string(json_object_get(d, "snapshot")))
			client_call(c, "disk_snapshot",
				json_pack("{s:s, s:s, s:b}", "id", id, "name", name, "delete", 1),
				NULL, NULL);
	}
	snapopen_close(&s);
}

/* What the guest's agent keeps still at the moment. The end of a connection ends it as well. */
struct still {
	struct agent_client *hold, *freeze;
};

static void still_end(struct still *s)
{
	agent_close(s->freeze);
	agent_close(s->hold);
}

static int stand_still(struct still *s, const char *vm, bool hold, bool freeze, struct err *e)
{
	int rc = 0;

	if (hold)
		rc = guest_agent(&s->hold, vm, 0, e) ?: agent_hold(s->hold, STILL_MS, e);
	if (rc)
		return err_wrap(e, "holding the guest's programs");
	if (freeze)
		rc = guest_agent(&s->freeze, vm, 0, e)
			     ?: agent_freeze(s->freeze, STILL_MS, NULL, e);
	return rc ? err_wrap(e, "--quiesce") : 0;
}

/* An agent that lets go only now was still at the moment. */
static int go_on(struct still *s, struct err *e)
{
	struct err late = {0};

	if ((s->freeze && agent_thaw(s->freeze, &late)) ||
		(s->hold && agent_release(s->hold, &late)))
		return err_set(e, late.code,
			"the guest did not stand still until the moment (%s); nothing is left of "
			"the snapshot",
			err_msg(&late));
	return 0;
}

static bool pages_done(void *ctx, uint64_t done, uint64_t of)
{
	struct session *s = ctx;

	return s->watch.progress(s, done * 4096, of * 4096);
}

/* *fd becomes a file with what differs from the parent. */
static int leave_out(struct snapchain *parent, int *fd, struct session *s, struct err *e)
{
	cleanup(snapchain_close) struct snapchain c = {0};
	struct snapcopy_opts o = {
		.from = &c, .base = parent, .fd = -1, .progress = pages_done, .ctx = s};
	char self[40];
	int rc;

	snprintf(self, sizeof(self), "/proc/self/fd/%d", *fd);
	rc = snapchain_open(self, &c, e) ?: snapstore_create("being-compared", &o.fd, e);
	rc = rc ?: snapcopy(&o, e);
	if (rc) {
		if (o.fd >= 0)
			close(o.fd);
		return rc;
	}
	close(*fd);
	*fd = o.fd;
	return 0;
}

static int make(const struct create *o, const char *vm, const char *name, json_t **st,
	struct session *s, struct err *e)
{
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(still_end) struct still still = {0};
	cleanup(snapchain_close) struct snapchain parent = {0};
	cleanup(close_fd) int fd = -1;
	int rc = client_open(&c, vm, e) ?: snapstore_create(name, &fd, e);
	struct stat file;

	if (!rc && o->parent)
		rc = snapchain_open(o->parent, &parent, e);
	if (!rc)
		rc = stand_still(&still, vm, o->hold, o->quiesce, e);
	if (!rc)
		rc = client_call_fd(&c, "snapshot_create",
			json_pack("{s:s, s:s, s:I}", "name", name, "disks",
				o->memory_only	? "memory-only"
				: o->with_disks ? "with-disks"
						: "auto",
				"queue", (json_int_t)o->queue),
			fd, st, e);
	rc = rc ?: go_on(&still, e);
	if (!rc)
		rc = follow(&c, s, st, e);
	if (rc == -EPIPE && !o->memory_only)
		return err_set(e, rc,
			"machine %s ended in the middle of it: nothing is left of the snapshot, "
			"but disks in qcow2 and lodgefs may have theirs: lodge disk snapshot "
			"FILE:FORMAT --delete %s",
			vm, name);
	if (rc)
		return rc;
	if (o->parent)
		rc = leave_out(&parent, &fd, s, e);
	rc = rc ?: snapstore_publish(fd, name, e);
	if (rc)
		forget_disks(&c, fd, name);
	else if (!fstat(fd, &file))
		json_object_set_new(
			*st, "file_bytes", json_integer((json_int_t)file.st_blocks * 512));
	return rc;
}

int snapshot_unnamed(const char *vm, int *fd, const int *copies, unsigned ncopies,
	struct err *no_agent, struct err *e)
{
	int fds[CLIENT_FDS];
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(session_end) struct session s = {0};
	cleanup(still_end) struct still still = {0};
	cleanup(json_drop) json_t *st = NULL;
	int rc = client_open(&c, vm, e) ?: snapstore_create("being-cloned", fd, e);

	if (rc)
		return rc;
	session_begin(&s, false, "clone");
	rc = stand_still(&still, vm, true, false, no_agent);
	if (rc && rc != -ECONNREFUSED && rc != -ENOTSUP) {
		*e = *no_agent;
		return rc;
	}
	fds[0] = *fd;
	for (unsigned i = 0; i < ncopies; i++)
		fds[i + 1] = copies[i];
	rc = client_call_fds(&c, "snapshot_create",
		json_pack("{s:s, s:s}", "name", "being-cloned", "disks", "copy"), fds, ncopies + 1,
		&st, e);
	if (!rc && !no_agent->code)
		rc = go_on(&still, e);
	return rc ?: follow(&c, &s, &st, e);
}

static int run_create(void *opts, const struct args *a)
{
	const struct create *o = opts;
	cleanup(session_end) struct session s = {0};
	cleanup(json_drop) json_t *st = NULL;
	char name[80], size[PRINT_SIZE];
	struct err e = {0};

	if (o->memory_only && o->with_disks)
		return usage("--memory-only or --with-disks, not both");
	if (o->name)
		snprintf(name, sizeof(name), "%s", o->name);
	else
		default_name(a->v[0], name, sizeof(name));
	session_begin(&s, o->json, "snapshot");
	if (make(o, a->v[0], name, &st, &s, &e)) {
		session_clear(&s);
		return fail(&e);
	}
	session_clear(&s);
	if (o->json) {
		print_json(st);
		return EXIT_DONE;
	}
	printf("%s: %s in %.2f s; the guest stood still for %.2f ms\n", name,
		print_size(size, (uint64_t)json_int_at(st, "file_bytes")),
		(double)json_int_at(st, "took_ms") / 1e3,
		(double)json_int_at(st, "pause_us") / 1e3);
	return EXIT_DONE;
}

const struct verb verbs_snapshot_create[] = {
	{VERB("snapshot create", "VM", "save a running machine at one instant, while it runs on"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = create_groups,
		.cmd.names = "names machines", .size = sizeof(struct create), .run = run_create,
		.cmd.text =
			"The guest stands still for a few milliseconds, however large its memory "
			"is; its pages are written while it runs, and each page that it changes "
			"meanwhile is copied first.\n\n"
			"Disks in qcow2 and lodgefs get a snapshot of the same name at the same "
			"instant; with another format --memory-only has to be said. They are as "
			"after a power cut at that instant, and journals mend that; with "
			"--quiesce "
			"the guest's file systems are written out and clean.\n\n"
			"Ctrl-C stops it and leaves nothing behind."},
	VERBS_END,
};
