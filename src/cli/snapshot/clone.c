/*
 * lodge clone: more machines from one moment of a machine, each with an identity of its own.
 *
 *   hold the guest's programs | moment | the parent's go on | for each: start -> clock, addresses, random numbers, ids, keys, name -> its programs go on
 *
 * Before a program of a copy takes its next instruction all that is done: the programs are held by the guest's agent at the moment, and the
 * copy's agent lets them go at the end. A copy for which it fails is ended: there is none with its parent's identity. The
 * kernel's own random numbers need no agent (device/vmgenid).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/client.h"
#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/guest/guest.h"
#include "cli/launch/launch.h"
#include "cli/place.h"
#include "cli/snapshot/clone_disks.h"
#include "cli/snapshot/create.h"
#include "cli/snapshot/restore.h"
#include "cli/snapshot/store.h"
#include "cli/verb.h"
#include "vm/config/config.h"
#include "vm/rundir.h"

#define AGENT_WAIT_S 10
#define KEYS_MS 120000 /* RSA keys in an interpreted guest */

struct clone {
	char *name;
	unsigned n;
	bool keep_ip, keep_hostname;
};

static const struct opt clone_opts[] = {
	{"count", 'n', .type = OPT_UINT, OPT_AT(struct clone, n), .arg = "N", .dflt = "1", .min = 1,
		.max = 1000, .help = "how many; what they are called is --name"},
	{"name", .type = OPT_TEXT, OPT_AT(struct clone, name), .arg = "NAME",
		.help = "they are called NAME-1, NAME-2 ...; without it SOURCE-1 ..."},
	{"keep-ip", .type = OPT_FLAG, OPT_AT(struct clone, keep_ip),
		.help = "leave IPv4 addresses; without it number N takes the Nth behind the "
			"machine's own"},
	{"keep-hostname", .type = OPT_FLAG, OPT_AT(struct clone, keep_hostname),
		.help = "leave the guest's name; without it the machine's new name is taken"},
	OPT_DONE,
};
static const struct opt_group clone_groups[] = {{"Options", clone_opts}, {0}};

/* Two machines cannot have one tap. */
static int can_clone(const json_t *definition, struct err *e)
{
	const json_t *d;
	size_t i;

	json_array_foreach(json_object_get(definition, "nets"), i, d)
	{
		if (json_object_get(d, "tap"))
			return err_set(e, -EOPNOTSUPP,
				"clone: the machine has the host's interface %s, and its address; "
				"machines with user networking can be cloned",
				json_text_at(d, "tap"));
	}
	return 0;
}

/* Of a machine that runs. What can be refused is before anything stands still. */
static int take_running(
	const char *name, struct clone_disks *disks, int *fd, struct err *no_agent, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	cleanup(json_drop) json_t *j = NULL;
	char path[PATH_MAX];
	size_t len;
	int rc = rundir_path(name, "config.json", path, sizeof(path), e);

	rc = rc ?: fs_read_file(path, 4 << 20, &text, &len, e) ?: json_parse(text, len, &j, e);
	rc = rc ?: can_clone(j, e) ?: clone_disks_make(disks, j, e);
	return rc ?: snapshot_unnamed(name, fd, disks->fd, disks->n, no_agent, e);
}

struct copy {
	struct vm_config c;
	unsigned number;
	uint8_t mac[VM_MAX_NETS][2][6]; /* what each card had, and has now */
};

static void copy_drop(struct copy *k)
{
	vm_config_free(&k->c);
}

/* What two machines cannot have both is made anew from the name. */
static int define(struct copy *k, const struct snapopen *s, const char *base, struct err *e)
{
	cleanup(free_ptr) char *name = NULL;
	struct vm_config *c = &k->c;
	int rc = restore_definition(s, NULL, c, e);

	for (unsigned i = 0; !rc && i < c->nnets; i++)
		rc = vm_net_mac(c, i, k->mac[i][0], e);
	if (!rc && asprintf(&name, "%s-%u", base, k->number) < 0)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc)
		return rc;
	free(c->name);
	c->name = steal_ptr(name);
	c->has_seed = false;
	for (unsigned i = 0; !rc && i < c->nnets; i++) {
		free(c->nets[i].mac);
		c->nets[i].mac = NULL;
		c->nets[i].nfwds = 0;
		rc = vm_net_mac(c, i, k->mac[i][1], e);
	}
	return rc;
}

static int give_identity(const struct copy *k, const struct clone *o, struct err *e)
{
	cleanup(agent_closep) struct agent_client *agent = NULL;
	int rc = guest_agent(&agent, k->c.name, AGENT_WAIT_S, e);

	if (rc)
		return rc;
	agent->timeout_ms = KEYS_MS;
	rc = agent_set_time(agent, NULL, e)
		     ?: agent_address(agent, o->keep_ip ? 0 : k->number,
				(const uint8_t(*)[2][6])k->mac, k->c.nnets, e);
	return rc ?: agent_identity(agent, AGENT_ID_MACHINE_ID | AGENT_ID_HOST_KEYS,
			     o->keep_hostname ? "" : k->c.name, e)
			     ?: agent_release(agent, e);
}

static int clone_one(struct snapopen *s, const struct clone *o, const struct clone_disks *disks,
	unsigned number, bool agent, struct err *e)
{
	cleanup(copy_drop) struct copy k = {.number = number};
	const char *base = o->name ?: json_text_at(s->manifest, "machine");
	struct launched m;
	int rc = define(&k, s, base, e);

	rc = rc ?: restore_start(s, &k.c, RESTORE_CLONE, disks, &m, e);
	if (rc)
		return rc;
	rc = agent ? give_identity(&k, o, e) : 0;
	if (rc)
		err_wrap(e, "clone %s got no identity of its own, and was ended", k.c.name);
	/* What it writes is not lost when it ends. */
	if (!rc && disks->n)
		rc = place_keep(k.c.name, e);
	if (rc) {
		launch_end(&m);
		launch_wait(&m);
		return rc;
	}
	launch_release(&m);
	printf("%s\n", k.c.name);
	fflush(stdout);
	return 0;
}

static bool has_no_agent(int rc)
{
	return rc == -ECONNREFUSED || rc == -ENOTSUP;
}

static int run_clone(void *opts, const struct args *a)
{
	const struct clone *o = opts;
	cleanup(snapopen_close) struct snapopen s = {0};
	cleanup(clone_disks_close) struct clone_disks disks = {0};
	cleanup(close_fd) int fd = -1;
	struct err e = {0}, no_agent = {0};
	char path[64];
	int rc = 0;

	place_sweep();
	/* A machine that runs comes before a snapshot of the same name. */
	if (!strchr(a->v[0], '/') && rundir_alive(a->v[0])) {
		rc = take_running(a->v[0], &disks, &fd, &no_agent, &e);
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fd);
	}
	if (!rc)
		rc = snapstore_open_whole(fd >= 0 ? path : a->v[0], &s, NULL, NULL, &e)
			     ?: can_clone(json_object_get(s.manifest, "definition"), &e);
	if (rc == -ENOENT && fd < 0) {
		struct err why = e;

		err_set(&e, rc, "no machine %s is running, and %s", a->v[0], err_msg(&why));
	}
	if (!rc && fd < 0)
		rc = restore_go_there(&s, &e) ?: clone_disks_of_snapshot(&disks, &s, &e);
	for (unsigned i = 1; !rc && i <= o->n; i++) {
		rc = clone_one(&s, o, &disks, i, !no_agent.code, &e);
		/* A snapshot does not tell. */
		if (rc && i == 1 && fd < 0 && has_no_agent(rc)) {
			no_agent = e;
			rc = clone_one(&s, o, &disks, i, false, &e);
		}
	}
	rc = rc ?: clone_disks_sync(&disks, &e);
	if (!rc && no_agent.code)
		fprintf(stderr,
			"lodge clone: the guest keeps the machine id, keys, name, addresses and "
			"clock of "
			"the machine it was: %s\n",
			err_msg(&no_agent));
	return rc ? fail(&e) : EXIT_DONE;
}

const struct verb verbs_clone[] = {
	{VERB("clone", "VM|SNAPSHOT",
		 "more machines like one that runs, or was saved, in the background"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = clone_groups,
		.cmd.names = "names machines", .size = sizeof(struct clone), .run = run_clone,
		.cmd.text =
			"Each goes on from the same instant and shares the memory that it does not "
			"write with the others. The machine that is cloned stands still for a few "
			"milliseconds. Forwarded ports stay with the first one.\n\n"
			"Each has an identity of its own before any of its programs goes on: "
			"random "
			"numbers, clock, hardware and IPv4 addresses, machine id, SSH host keys, "
			"host name. The guest's agent does that; without one only the kernel's "
			"random numbers differ. Of a snapshot the programs may run for a moment "
			"before, "
			"unless it was made with --hold.\n\n"
			"Disks that the machine writes to, of any format, are as they were at that "
			"instant: what they hold is copied once while the machine runs, and each "
			"clone gets a qcow2 overlay on the copy. A clone with such disks is kept "
			"when it ends, until lodge rm. A machine that has a tap cannot be cloned."},
	VERBS_END,
};
