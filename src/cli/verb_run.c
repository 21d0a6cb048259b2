#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/launch.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "image/image.h"
#include "vm/config.h"
#include "vm/rundir.h"

struct run {
	struct vm_config cfg;
	char *config;
	bool detach;
};

static const struct opt run_opts[] = {
	{"config", .type = OPT_TEXT, OPT_AT(struct run, config), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "read the definition from this YAML file; flags come on top"},
	{"detach", 'd', .type = OPT_FLAG, OPT_AT(struct run, detach),
		.help = "run in the background and print the machine's name"},
	OPT_DONE,
};

static const struct opt_group run_groups[] = {
	{"Running", run_opts, 0},
	{"Machine", vm_config_opts, offsetof(struct run, cfg)},
	{0},
};

/* What of this run lies where, and goes when it ends. */
struct place {
	char dir[PATH_MAX];
	bool keep; /* the machine has a name that somebody chose: its disk is its own for the next time */
};

static int parse_run(
	const struct command *c, void *opts, int argc, char **argv, struct args *a, struct err *e)
{
	struct run *r = opts;

	return vm_config_parse_args(c, opts, &r->cfg, argc, argv, a, e);
}

static int replace_text(char **at, char *text, struct err *e)
{
	if (!text)
		return err_set(e, -ENOMEM, "out of memory");
	free(*at);
	*at = text;
	return 0;
}

static int make_name(struct run *r, struct place *p, struct err *e)
{
	char name[VM_NAME_MAX + 1];
	uint16_t n = 0;

	p->keep = r->cfg.name != NULL;
	if (p->keep)
		return rundir_check_name(r->cfg.name, e);
	if (getrandom(&n, sizeof(n), 0) < 0)
		n = (uint16_t)getpid();
	snprintf(name, sizeof(name), "%.40s-%04x", r->cfg.image ?: "vm", n);
	for (char *c = name; *c; c++)
		if (*c == ':' || *c == '/')
			*c = '-';
	return replace_text(&r->cfg.name, strdup(name), e);
}

/* The image's disk comes first; the machine's own copy of it is made when there is none. */
static int add_image_disk(
	struct run *r, const struct image *im, const struct place *p, struct err *e)
{
	const struct opt *disks = options_by_key(vm_config_opts, "disks");
	char path[PATH_MAX + 16];
	struct vm_disk *d, first;
	struct stat st;
	int rc;

	snprintf(path, sizeof(path), "%s/disk.raw", p->dir);
	if (stat(path, &st)) {
		rc = image_disk_copy(im, path, e);
		if (rc)
			return err_wrap(e, "disk of %s", r->cfg.name);
	}
	d = options_append(disks, &r->cfg, e);
	if (!d)
		return -ENOMEM;
	d->file = strdup(path);
	d->format = VM_FORMAT_RAW;
	first = r->cfg.disks[r->cfg.ndisks - 1];
	memmove(r->cfg.disks + 1, r->cfg.disks, (r->cfg.ndisks - 1) * sizeof(*d));
	r->cfg.disks[0] = first;
	return d->file ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int apply_image(struct run *r, const struct place *p, struct err *e)
{
	cleanup(image_dirs_free) struct image_dirs dirs = {0};
	cleanup(image_close) struct image im = {0};
	struct vm_config *c = &r->cfg;
	char *append = NULL;
	int rc = image_dirs_default(&dirs, e);

	if (!rc)
		rc = image_open(&dirs, c->image, &im, e);
	if (!rc && !c->kernel && !c->firmware)
		rc = replace_text(&c->kernel, strdup(im.kernel), e);
	if (!rc && !c->initrd)
		rc = replace_text(&c->initrd, strdup(im.initrd), e);
	if (rc)
		return rc;
	if (asprintf(&append, "%s%s%s", im.append, c->append ? " " : "", c->append ?: "") < 0)
		append = NULL;
	rc = replace_text(&c->append, append, e);
	if (!rc && im.disk)
		rc = add_image_disk(r, &im, p, e);
	c->memory = MAX(c->memory, im.memory);
	/* The machine itself knows nothing of images. */
	free(c->image);
	c->image = NULL;
	return rc;
}

/* What a machine without a chosen name leaves is of no use to anybody. */
static void clear(const struct place *p)
{
	static const char *const files[] = {"disk.raw", "console.log", "machine.log"};
	char path[PATH_MAX + 32];

	if (p->keep || !p->dir[0])
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", p->dir, files[i]);
		unlink(path);
	}
	rmdir(p->dir);
}

static int prepare(struct run *r, const struct args *a, struct place *p, struct err *e)
{
	struct vm_host host;
	int rc = 0;

	if (a->n)
		rc = replace_text(&r->cfg.image, strdup(a->v[0]), e);
	if (!rc)
		rc = vm_host_read(&host, e);
	if (!rc)
		rc = vm_config_validate(&r->cfg, &host, true, e);
	if (!rc)
		rc = make_name(r, p, e);
	if (!rc && rundir_alive(r->cfg.name))
		rc = err_set(e, -EBUSY,
			"a machine named %s is running already (pid %d): choose another --name, or "
			"stop it: lodge stop %s",
			r->cfg.name, rundir_pid(r->cfg.name), r->cfg.name);
	if (!rc)
		rc = launch_dir(r->cfg.name, true, p->dir, sizeof(p->dir), e);
	if (!rc && r->cfg.image)
		rc = apply_image(r, p, e);
	return rc ?: vm_config_validate(&r->cfg, &host, false, e);
}

static int attach(struct run *r, pid_t pid)
{
	cleanup(client_close) struct client c;
	struct err e = {0};
	enum terminal_end end;
	int rc = client_open(&c, r->cfg.name, &e);

	if (!rc)
		rc = client_call(&c, "console", json_pack("{s:b}", "history", 1), NULL, &e);
	if (rc) {
		/* A guest that was quicker than we were is no failure. */
		if (!rundir_alive(r->cfg.name))
			return launch_wait(pid);
		kill(pid, SIGTERM);
		launch_wait(pid);
		return fail(&e);
	}
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "lodge: console of %s; Ctrl-A x ends the machine, Ctrl-A h helps\n",
			r->cfg.name);
	end = terminal_run(&c, "end the machine and leave");
	if (end != TERMINAL_GONE)
		kill(pid, SIGTERM);
	rc = launch_wait(pid);
	if (end == TERMINAL_LEFT)
		fprintf(stderr, "\nlodge: %s was ended\n", r->cfg.name);
	return rc;
}

static int run_run(void *opts, const struct args *a)
{
	struct run *r = opts;
	struct place p = {0};
	struct err e = {0};
	struct launch l = {&r->cfg, p.dir, r->detach};
	pid_t pid;
	int rc = prepare(r, a, &p, &e);

	if (!rc)
		rc = launch_machine(&l, &pid, &e);
	if (rc) {
		clear(&p);
		return fail(&e);
	}
	if (r->detach) {
		printf("%s\n", r->cfg.name);
		return EXIT_DONE;
	}
	rc = attach(r, pid);
	clear(&p);
	return rc;
}

const struct verb verbs_run[] = {
	{VERB("run", "[IMAGE]",
		 "run a machine; its console is here until it ends, or with -d in the background"),
		.cmd.max_args = 1, .cmd.groups = run_groups, .size = sizeof(struct run),
		.run = run_run, .parse = parse_run,
		.cmd.text = "Runs an image (see lodge image), or a kernel, or firmware. A machine "
			    "with a --name keeps its disk for the next "
			    "time; one without gets a name, and its disk goes when it ends. The "
			    "exit code is the guest's: 0 after "
			    "a clean power-off, 137 when the machine was killed.\n\nOn the console "
			    "Ctrl-A x ends the machine and Ctrl-A h helps."},
	VERBS_END,
};
