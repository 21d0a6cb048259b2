/*
 * lodge restore: a machine goes on from a snapshot.
 *
 *   open the container | definition, name, place | disks go back (each keeps what it had, until the machine runs) | lodge-vm --restore
 *
 * When a step fails the disks are what they were before.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/disk/disk_session.h"
#include "cli/launch.h"
#include "cli/place.h"
#include "cli/snapshot/create.h"
#include "cli/snapshot/store.h"
#include "cli/verb.h"
#include "vm/config.h"
#include "vm/rundir.h"
#include "vm/snapshot/file.h"

struct restore {
	char *name;
	bool detach;
	bool clone; /* beside the machine that it came from */
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

#define KEPT "lodge-before-restore"

static const char *text_of(const json_t *d, const char *key)
{
	return json_string_value(json_object_get(d, key)) ?: "";
}

/* One disk, opened for a moment. `from` NULL: only `op` with `name`. */
static int on_disk(const json_t *d, enum disk_snap_op op, const char *name, struct err *e)
{
	cleanup(session_end) struct session s = {0};
	char path[PATH_MAX + 16];
	struct disk *disk;
	int rc;

	snprintf(path, sizeof(path), "%s:%s", text_of(d, "file"), text_of(d, "format"));
	session_begin(&s, false, "disk");
	rc = session_open(&s, path, 0, &disk, e);
	return rc ?: disk_snapshot(disk, op, name, e);
}

static void put_back(const json_t *disks, size_t n)
{
	while (n--) {
		const json_t *d = json_array_get(disks, n);

		if (!json_is_string(json_object_get(d, "snapshot")))
			continue;
		if (!on_disk(d, DISK_SNAP_APPLY, KEPT, NULL))
			on_disk(d, DISK_SNAP_DELETE, KEPT, NULL);
		else
			fprintf(stderr,
				"lodge: disk %s could not be put back: what it had is in its "
				"snapshot " KEPT "\n",
				text_of(d, "file"));
	}
}

/* Each disk to the snapshot; all or none. */
static int revert_disks(const json_t *disks, struct err *e)
{
	for (size_t i = 0; i < json_array_size(disks); i++) {
		const json_t *d = json_array_get(disks, i);
		const char *snap = json_string_value(json_object_get(d, "snapshot"));
		int rc;

		if (!snap)
			continue;
		rc = on_disk(d, DISK_SNAP_CREATE, KEPT, e);
		if (!rc) {
			rc = on_disk(d, DISK_SNAP_APPLY, snap, e);
			if (rc)
				on_disk(d, DISK_SNAP_DELETE, KEPT, NULL);
		}
		if (rc) {
			put_back(disks, i);
			return err_wrap(e, "restore: disk %s", text_of(d, "id"));
		}
	}
	return 0;
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
		struct err e = {0};

		if (json_is_string(json_object_get(d, "snapshot")) &&
			client_call(&c, "disk_snapshot",
				json_pack("{s:s, s:s, s:b}", "id", text_of(d, "id"), "name", KEPT,
					"delete", 1),
				NULL, &e))
			fprintf(stderr, "lodge: disk %s keeps its snapshot " KEPT ": %s\n",
				text_of(d, "id"), err_msg(&e));
	}
}

/* ---- the machine ---- */

static int definition(
	const struct snapopen *s, const struct restore *o, struct vm_config *c, struct err *e)
{
	const char *dir = json_string_value(json_object_get(s->manifest, "directory"));
	json_t *j = json_object_get(s->manifest, "definition");
	char *name;
	int rc = vm_config_init(c, e);

	if (!rc)
		rc = j ? vm_config_from_json(c, j, e) : err_set(e, -EBADMSG, "has no definition");
	if (rc)
		return err_wrap(e, "%s", s->path);
	name = strdup(o->name ?: c->name ?: text_of(s->manifest, "machine"));
	if (!name)
		return err_set(e, -ENOMEM, "out of memory");
	free(c->name);
	c->name = name;
	for (unsigned i = 0; o->clone && i < c->nnets; i++)
		c->nets[i].nfwds = 0;
	if (rundir_alive(c->name))
		return err_set(e, -EBUSY,
			"a machine named %s is running already (pid %d): choose another --name, or "
			"stop it: lodge stop %s",
			c->name, rundir_pid(c->name), c->name);
	/* Names of files in the definition are relative to where it was started; on another host, to here. */
	if (dir && *dir && chdir(dir) && errno != ENOENT)
		return err_sys(e, -errno, "restore: %s, where the machine was started", dir);
	return 0;
}

static void unblock_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static int start(struct snapopen *s, const struct restore *o, struct vm_config *c,
	struct launched *m, struct err *e)
{
	cleanup(place_close) struct place p = {.lock = -1};
	json_t *disks = json_object_get(s->manifest, "disks");
	struct launch l = {c, &p, s->path, !o->detach};
	struct vm_host host;
	int rc = definition(s, o, c, e) ?: vm_host_read(&host, e);

	if (!rc)
		rc = vm_config_validate(c, &host, false, e);
	if (rc)
		return rc;
	rc = place_open(&p, c->name, o->clone, e);
	if (!rc && !o->clone)
		rc = revert_disks(disks, e);
	if (!rc) {
		unblock_signals();
		rc = launch_machine(&l, m, e);
		if (rc && !o->clone)
			put_back(disks, json_array_size(disks));
	}
	if (rc)
		place_undo(&p);
	else if (!o->clone)
		let_go_of_kept(c->name, disks);
	return rc;
}

static int run_restore(void *opts, const struct args *a)
{
	const struct restore *o = opts;
	cleanup(snapopen_close) struct snapopen s = {0};
	cleanup(vm_config_free) struct vm_config c = {0};
	struct err e = {0};
	struct launched m;

	if (snapstore_open(a->v[0], &s, &e) || start(&s, o, &c, &m, &e))
		return fail(&e);
	if (!o->detach)
		return launch_foreground(c.name, &m);
	launch_release(&m);
	printf("%s\n", c.name);
	return EXIT_DONE;
}

/* ---- clone ---- */

struct clone {
	char *name;
	unsigned n;
};

static const struct opt clone_opts[] = {
	{"count", 'n', .type = OPT_UINT, OPT_AT(struct clone, n), .arg = "N", .dflt = "1", .min = 1,
		.max = 1000, .help = "how many"},
	{"name", .type = OPT_TEXT, OPT_AT(struct clone, name), .arg = "NAME",
		.help = "they are called NAME-1, NAME-2 ...; without it SOURCE-1 ..."},
	OPT_DONE,
};
static const struct opt_group clone_groups[] = {{"Options", clone_opts}, {0}};

/* Two machines cannot have one disk, or one tap. */
static int can_clone(const struct snapopen *s, struct err *e)
{
	const json_t *def = json_object_get(s->manifest, "definition");
	const json_t *d;
	size_t i;

	json_array_foreach(json_object_get(s->manifest, "disks"), i,
		d) if (!json_is_true(json_object_get(d, "readonly"))) return err_set(e, -EOPNOTSUPP,
		"clone: the machine writes to its disk %s (%s), and two machines cannot have one; "
		"machines without disks, or with readonly ones, can be cloned",
		text_of(d, "id"), text_of(d, "file"));
	json_array_foreach(json_object_get(def, "nets"), i,
		d) if (json_object_get(d, "tap")) return err_set(e, -EOPNOTSUPP,
		"clone: the machine has the host's interface %s, and its address; machines with "
		"user networking can be cloned",
		text_of(d, "tap"));
	return 0;
}

static int clone_one(struct snapopen *s, const char *base, unsigned i, struct err *e)
{
	cleanup(vm_config_free) struct vm_config c = {0};
	cleanup(free_ptr) char *name = NULL;
	struct restore o = {.detach = true, .clone = true};
	struct launched m;
	int rc;

	if (asprintf(&name, "%s-%u", base, i) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	o.name = name;
	rc = start(s, &o, &c, &m, e);
	if (rc)
		return rc;
	launch_release(&m);
	printf("%s\n", name);
	fflush(stdout);
	return 0;
}

static int run_clone(void *opts, const struct args *a)
{
	const struct clone *o = opts;
	cleanup(snapopen_close) struct snapopen s = {0};
	cleanup(close_fd) int fd = -1;
	struct err e = {0};
	char path[64];
	int rc = 0;

	/* A machine that runs comes before a snapshot of the same name. */
	if (!strchr(a->v[0], '/') && rundir_alive(a->v[0])) {
		rc = snapshot_unnamed(a->v[0], &fd, &e);
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fd);
	}
	if (!rc)
		rc = snapstore_open(fd >= 0 ? path : a->v[0], &s, &e) ?: can_clone(&s, &e);
	if (rc == -ENOENT && fd < 0) {
		struct err why = e;

		err_set(&e, rc, "no machine %s is running, and %s", a->v[0], err_msg(&why));
	}
	for (unsigned i = 1; !rc && i <= o->n; i++)
		rc = clone_one(&s, o->name ?: text_of(s.manifest, "machine"), i, &e);
	return rc ? (int)fail(&e) : EXIT_DONE;
}

const struct verb verbs_restore[] = {
	{VERB("clone", "VM|SNAPSHOT",
		 "more machines like one that runs, or was saved, in the background"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = clone_groups,
		.cmd.names = "names machines", .size = sizeof(struct clone), .run = run_clone,
		.cmd.text =
			"Each goes on from the same instant and shares the memory that it does not "
			"write with the others. The machine that is cloned stands still for a few "
			"milliseconds. Forwarded ports stay with the first one.\n\n"
			"They are alike in everything that the guest knows of itself: random "
			"state, "
			"keys, host name, hardware address. A machine that writes to a disk, or "
			"has "
			"a tap, cannot be cloned."},

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
