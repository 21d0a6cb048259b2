/*
 * lodge restore: a machine goes on from a snapshot.
 *
 *   open the container | definition, name, place | disks go back (each keeps what it had, until the machine runs) | lodge-vm --restore
 *
 * When a step fails the disks are what they were before. What a restore that was killed has left stays, beside what this one keeps, until one has come through.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/client.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/disk/disk_session.h"
#include "cli/guest/guest.h"
#include "cli/launch/launch.h"
#include "cli/place.h"
#include "cli/snapshot/clone_disks.h"
#include "cli/snapshot/restore.h"
#include "cli/snapshot/store.h"
#include "cli/ui/signals.h"
#include "cli/verb.h"
#include "vm/config/config.h"
#include "vm/rundir.h"
#include "vm/snapshot/file.h"

struct restore {
	char *name;
	bool detach;
};

static const struct opt restore_opts[] = {
	{"name", 'n', .type = OPT_TEXT, OPT_AT(struct restore, name), .arg = "NAME",
		.help = "name of the machine; without it the one that it had"},
	{"detach", 'd', .type = OPT_FLAG, OPT_AT(struct restore, detach),
		.help = "run in the background and print the machine's name"},
	OPT_DONE,
};
static const struct opt_group restore_groups[] = {{"Options", restore_opts}, {0}};

/* ---- disks ---- */

#define RESUME_WAIT_S 5
#define TELL_NS \
	30000000000ull /* a guest that has much to do answers late, and a connection may break on the way */
#define GONE_TRIES 10
#define KEPT "lodge-before-restore"
#define KEPT_MAX 9
#define AGAIN_NS 100000000l

/* One disk, opened for a moment. `from` NULL: only `op` with `name`. */
static int on_disk(const json_t *d, enum disk_snap_op op, const char *name, struct err *e)
{
	cleanup(session_end) struct session s = {0};
	char path[PATH_MAX + 16];
	struct disk *disk;
	int rc;

	snprintf(path, sizeof(path), "%s:%s", json_text_at(d, "file"), json_text_at(d, "format"));
	session_begin(&s, false, "disk");
	rc = session_open(&s, path, 0, &disk, e);
	return rc ?: disk_snapshot(disk, op, name, e);
}

struct kept {
	char name[sizeof(KEPT) + 16];
};

static struct kept kept_name(unsigned i)
{
	struct kept k = {KEPT};

	if (i > 1)
		snprintf(k.name, sizeof(k.name), KEPT "-%u", i);
	return k;
}

/* By which number it keeps what it had: its last one. */
static unsigned kept_of(const json_t *d)
{
	return (unsigned)json_integer_value(json_object_get(d, "kept"));
}

static void put_back(const json_t *disks, size_t n)
{
	while (n--) {
		const json_t *d = json_array_get(disks, n);
		struct kept k = kept_name(kept_of(d));

		if (!json_is_string(json_object_get(d, "snapshot")))
			continue;
		if (!on_disk(d, DISK_SNAP_APPLY, k.name, NULL))
			on_disk(d, DISK_SNAP_DELETE, k.name, NULL);
		else
			fprintf(stderr,
				"lodge: disk %s could not be put back: what it had is in its "
				"snapshot %s\n",
				json_text_at(d, "file"), k.name);
	}
}

/* What a restore that was killed has left may be all that there is of what was before it: it stays beside. */
static int keep_disk(json_t *d, struct err *e)
{
	int rc = -EEXIST;

	for (unsigned i = 1; rc == -EEXIST && i <= KEPT_MAX; i++) {
		rc = on_disk(d, DISK_SNAP_CREATE, kept_name(i).name, e);
		if (!rc)
			rc = json_object_set_new(d, "kept", json_integer(i));
	}
	return rc;
}

/* Each disk to the snapshot; all or none. */
static int revert_disks(const json_t *disks, struct err *e)
{
	for (size_t i = 0; i < json_array_size(disks); i++) {
		json_t *d = json_array_get(disks, i);
		const char *snap = json_string_value(json_object_get(d, "snapshot"));
		int rc;

		if (!snap)
			continue;
		rc = keep_disk(d, e);
		if (!rc) {
			rc = on_disk(d, DISK_SNAP_APPLY, snap, e);
			if (rc)
				on_disk(d, DISK_SNAP_DELETE, kept_name(kept_of(d)).name, NULL);
		}
		if (rc) {
			put_back(disks, i);
			return err_wrap(e, "restore: disk %s", json_text_at(d, "id"));
		}
	}
	return 0;
}

static void let_go(struct client *c, const char *disk, const char *name)
{
	struct err e = {0};

	if (client_call(c, "disk_snapshot",
		    json_pack("{s:s, s:s, s:b}", "id", disk, "name", name, "delete", 1), NULL, &e))
		fprintf(stderr, "lodge: disk %s keeps its snapshot %s: %s\n", disk, name,
			err_msg(&e));
}

/* The machine runs: what the disks had before is no longer needed. The disks are the machine's now, so it does that. */
static void let_go_of_kept(const char *machine, const json_t *disks)
{
	cleanup(client_close) struct client c = {.fd = -1};
	const json_t *d;
	size_t i;

	if (!json_array_size(disks) || client_open(&c, machine, NULL))
		return;
	json_array_foreach(disks, i, d)
	{
		for (unsigned k = kept_of(d); k; k--)
			let_go(&c, json_text_at(d, "id"), kept_name(k).name);
	}
}

/* ---- the machine ---- */

int restore_definition(
	const struct snapopen *s, const char *name, struct vm_config *c, struct err *e)
{
	json_t *j = json_object_get(s->manifest, "definition");
	int rc = vm_config_init(c, e);

	if (!rc)
		rc = j ? vm_config_from_json(c, j, e) : err_set(e, -EBADMSG, "has no definition");
	if (rc)
		return err_wrap(e, "%s", s->path);
	if (!name && c->name)
		return 0;
	free(c->name);
	c->name = strdup(name ?: json_text_at(s->manifest, "machine"));
	return c->name ? 0 : err_set(e, -ENOMEM, "out of memory");
}

int restore_go_there(const struct snapopen *s, struct err *e)
{
	const char *dir = json_text_at(s->manifest, "directory");

	return *dir && chdir(dir) && errno != ENOENT
		       ? err_sys(e, -errno, "restore: %s, where the machine was started", dir)
		       : 0;
}

/* Its place, and disks in it. Everything is looked at before the machine is started. */
static int prepare(struct place *p, struct vm_config *c, enum restore_how how,
	const struct clone_disks *disks, struct err *e)
{
	struct vm_host host;
	int rc = vm_host_read(&host, e);

	if (!rc && !disks)
		rc = vm_config_validate(c, &host, false, e);
	if (rc)
		return rc;
	rc = place_open(p, c->name, how == RESTORE_CLONE, e);
	if (rc == -EEXIST)
		return err_set(e, rc,
			"a machine %s is kept here: choose another --name, or remove it: lodge rm "
			"%s",
			c->name, c->name);
	if (!rc && disks)
		rc = clone_disks_give(disks, p, c, e) ?: vm_config_validate(c, &host, false, e);
	return rc;
}

int restore_start(struct snapopen *s, struct vm_config *c, enum restore_how how,
	const struct clone_disks *own, struct launched *m, struct err *e)
{
	cleanup(place_close) struct place p = {.lock = -1};
	cleanup(close_fd) int signals = -1;
	json_t *disks = how == RESTORE_CLONE ? NULL : json_object_get(s->manifest, "disks");
	struct launch l = {c, &p, s->path, how == RESTORE_HERE};
	int rc = 0;

	/* Behind a machine that was killed somebody clears up for a moment. */
	for (unsigned i = 0; i < GONE_TRIES && rundir_alive(c->name); i++)
		nanosleep(&(struct timespec){0, 20000000}, NULL);
	if (rundir_alive(c->name))
		rc = err_set(e, -EBUSY,
			"a machine named %s is running already (pid %d): choose another --name, or "
			"stop it: lodge stop %s",
			c->name, rundir_pid(c->name), c->name);
	rc = rc ?: restore_go_there(s, e) ?: prepare(&p, c, how, own, e);
	rc = rc ?: signals_hold(&signals, NULL, e) ?: revert_disks(disks, e);
	if (!rc) {
		l.signals = signals;
		rc = launch_machine(&l, m, e);
		if (rc)
			put_back(disks, json_array_size(disks));
	}
	if (rc) {
		place_undo(&p);
		return rc;
	}
	/* From here on it goes on, whatever becomes of us: what the disks had is let go of after that. */
	if (how == RESTORE_DETACHED)
		launch_release(m);
	let_go_of_kept(c->name, disks);
	signals_let_go();
	return 0;
}

static int tell_once(const char *name, unsigned wait_s, struct err *e)
{
	cleanup(agent_closep) struct agent_client *agent = NULL;
	int rc = guest_agent(&agent, name, wait_s, e) ?: agent_set_time(agent, NULL, e);

	if (!rc)
		agent_release(agent, NULL);
	return rc;
}

/* The guest's clock has stood still, and who was held at the moment goes on. A guest without an agent helps itself. */
static void tell_guest(const char *name, unsigned wait_s)
{
	uint64_t end = clock_mono_ns() + TELL_NS;
	struct err e = {0};
	int rc = tell_once(name, wait_s, &e);

	while ((rc == -ECONNRESET || rc == -ETIMEDOUT) && clock_mono_ns() < end) {
		nanosleep(&(struct timespec){0, AGAIN_NS}, NULL);
		rc = tell_once(name, wait_s, &e);
	}
	if (rc == -ECONNRESET || rc == -ETIMEDOUT)
		fprintf(stderr,
			"lodge: the guest's clock was not set: %s. Later: lodge agent time %s\n",
			err_msg(&e), name);
}

/* Beside the console, which the machine waits for. */
static int foreground(const char *name, struct launched *m)
{
	pid_t pid = fork();

	if (pid == 0) {
		tell_guest(name, RESUME_WAIT_S);
		_exit(0); /* forked child */
	}
	return launch_foreground(name, m);
}

static int run_restore(void *opts, const struct args *a)
{
	const struct restore *o = opts;
	cleanup(snapopen_close) struct snapopen s = {0};
	cleanup(vm_config_free) struct vm_config c = {0};
	enum restore_how how = o->detach ? RESTORE_DETACHED : RESTORE_HERE;
	struct err e = {0};
	struct launched m;

	if (snapstore_open_whole(a->v[0], &s, NULL, NULL, &e) ||
		restore_definition(&s, o->name, &c, &e) || restore_start(&s, &c, how, NULL, &m, &e))
		return fail(&e);
	if (!o->detach)
		return foreground(c.name, &m);
	tell_guest(c.name, 0);
	printf("%s\n", c.name);
	return EXIT_DONE;
}

const struct verb verbs_restore[] = {
	{VERB("restore", "NAME|FILE", "let a machine go on from a snapshot"), .cmd.min_args = 1,
		.cmd.max_args = 1, .cmd.groups = restore_groups, .cmd.names = "names snapshots",
		.size = sizeof(struct restore), .run = run_restore,
		.cmd.text =
			"Memory is mapped from the snapshot, not read, so that the machine runs at "
			"once; machines that come from one snapshot share what they do not write. "
			"Disks that were part of it go back to that instant; what they have now is "
			"lost when the machine runs, and kept when it does not start.\n\n"
			"A snapshot that was taken with --memory-only fits the disks as they were "
			"then: nothing may have written to them since."},
	VERBS_END,
};
