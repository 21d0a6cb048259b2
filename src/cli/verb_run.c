#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/size.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/launch/launch.h"
#include "cli/place.h"
#include "cli/ui/terminal.h"
#include "cli/verb.h"
#include "image/image.h"
#include "vm/config/config.h"
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

/* The place of a machine that somebody named, or of one with a name that is not taken. */
static int open_place(struct run *r, struct place *p, struct err *e)
{
	char name[VM_NAME_MAX + 1];
	int rc;

	place_sweep();
	if (r->cfg.name) {
		if (!rundir_alive(r->cfg.name))
			return place_open(p, r->cfg.name, false, e);
		return err_set(e, -EBUSY,
			"a machine named %s is running already (pid %d): choose another --name, or "
			"stop it: lodge stop %s",
			r->cfg.name, rundir_pid(r->cfg.name), r->cfg.name);
	}
	do {
		uint16_t n = 0;

		if (getrandom(&n, sizeof(n), 0) < 0)
			return err_sys(e, -errno, "name of the machine");
		snprintf(name, sizeof(name), "%.40s-%04x", r->cfg.image ?: "vm", n);
		for (char *c = name; *c; c++)
			if (*c == ':' || *c == '/')
				*c = '-';
		rc = rundir_alive(name) ? -EEXIST : place_open(p, name, true, e);
	} while (rc == -EEXIST);
	return rc ?: replace_text(&r->cfg.name, strdup(name), e);
}

/* The machine's own copy of the image's disk, made when it has none. */
static int own_disk(
	const struct image *im, struct place *p, const char *path, const char *mark, struct err *e)
{
	cleanup(free_ptr) char *of = NULL;
	int rc;

	if (!access(path, F_OK)) {
		rc = fs_read_file(mark, 256, &of, NULL, NULL);
		if (!rc && strcmp(of, im->name))
			return err_set(e, -EEXIST,
				"machine %s has a disk of %s, not of %s: choose another --name, or "
				"remove it: lodge rm %s",
				p->name, of, im->name, p->name);
		return 0;
	}
	rc = fs_write_file_atomic(mark, im->name, strlen(im->name), 0600, e);
	if (!rc)
		rc = image_disk_copy(im, path, e);
	p->made_disk = true;
	return rc ? err_wrap(e, "disk of machine %s", p->name) : 0;
}

/* The image's disk comes first, before those of the definition. */
static int add_image_disk(struct run *r, const struct image *im, struct place *p, struct err *e)
{
	const struct opt *disks = options_by_key(vm_config_opts, "disks");
	char path[PATH_MAX], mark[PATH_MAX];
	struct vm_disk *d, first;
	int rc = place_file(p, "disk.raw", path, sizeof(path), e);

	if (!rc)
		rc = place_file(p, "image", mark, sizeof(mark), e);
	if (!rc)
		rc = own_disk(im, p, path, mark, e);
	if (rc)
		return rc;
	d = options_append(disks, &r->cfg, e);
	if (!d)
		return -ENOMEM;
	d->file = strdup(path);
	d->format = VM_FORMAT_RAW;
	first = r->cfg.disks[r->cfg.ndisks - 1];
	memmove(r->cfg.disks + 1, r->cfg.disks, (r->cfg.ndisks - 1) * sizeof(*d));
	r->cfg.disks[0] = first;
	return first.file ? 0 : err_set(e, -ENOMEM, "out of memory");
}

/* A guest that was given no memory by name gets what its image needs. */
static void image_memory(struct vm_config *c, const struct image *im)
{
	char has[SIZE_TEXT], needs[SIZE_TEXT];

	if (c->memory >= im->memory)
		return;
	if (options_is_default(options_by_key(vm_config_opts, "memory"), c))
		c->memory = im->memory;
	else
		fprintf(stderr, "lodge: %s wants %s of memory and gets %s; it may not start\n",
			im->name, size_text(needs, im->memory), size_text(has, c->memory));
}

static int apply_image(struct run *r, struct place *p, struct err *e)
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
	if (!rc && !c->initrd && im.initrd)
		rc = replace_text(&c->initrd, strdup(im.initrd), e);
	if (rc)
		return rc;
	if (asprintf(&append, "%s%s%s", im.append ?: "", c->append ? " " : "", c->append ?: "") < 0)
		append = NULL;
	rc = replace_text(&c->append, append, e);
	if (!rc && im.disk)
		rc = add_image_disk(r, &im, p, e);
	image_memory(c, &im);
	/* The machine itself knows nothing of images. */
	free(c->image);
	c->image = NULL;
	return rc;
}

static int prepare(struct run *r, const struct args *a, struct place *p, struct err *e)
{
	struct vm_host host;
	const char *known;
	int rc = 0;

	if (a->n)
		rc = replace_text(&r->cfg.image, strdup(a->v[0]), e);
	if (!rc && r->cfg.image)
		rc = image_name(r->cfg.image, &known, e);
	if (!rc)
		rc = vm_host_read(&host, e);
	if (!rc)
		rc = vm_config_validate(&r->cfg, &host, true, e);
	if (!rc)
		rc = open_place(r, p, e);
	if (!rc && r->cfg.image)
		rc = apply_image(r, p, e);
	return rc ?: vm_config_validate(&r->cfg, &host, false, e);
}

/* The guest waits until its console is here: nothing that it writes is missed. */
static int attach(struct terminal *t, struct err *e)
{
	int rc = client_open(t->events, t->name, e);

	if (!rc)
		rc = client_open(t->console, t->name, e);
	if (!rc)
		rc = client_call(t->events, "events", json_pack("{s:b}", "follow", 1), NULL, e);
	if (!rc)
		rc = client_call(t->console, "console", json_pack("{s:b}", "history", 1), NULL, e);
	return rc ?: client_call(t->events, "resume", NULL, NULL, e);
}

int launch_foreground(const char *name, struct launched *m)
{
	cleanup(client_close) struct client console = {.fd = -1};
	cleanup(client_close) struct client events = {.fd = -1};
	struct terminal t = {.console = &console,
		.events = &events,
		.name = name,
		.owner = true,
		.in = STDIN_FILENO,
		.out = STDOUT_FILENO,
		.err = STDERR_FILENO};
	struct err e = {0};
	int rc;

	if (attach(&t, &e)) {
		launch_end(m);
		launch_wait(m);
		return fail(&e);
	}
	switch (terminal_run(&t)) {
	case TERMINAL_GONE:
		return launch_wait(m);
	case TERMINAL_LEFT:
		launch_end(m);
		rc = launch_wait(m);
		fprintf(stderr, "\nlodge: machine %s was ended\n", name);
		return rc;
	case TERMINAL_DETACHED:
		launch_release(m);
		fprintf(stderr, "\nlodge: machine %s runs on; lodge console %s comes back\n", name,
			name);
		return EXIT_DONE;
	case TERMINAL_SIGNAL:
		launch_end(m);
		launch_wait(m);
		return 128 + t.signum;
	case TERMINAL_NO_OUTPUT:
		fprintf(stderr, "lodge: nobody reads the console of %s: machine ended\n", name);
		break;
	case TERMINAL_STUCK:
		break;
	}
	launch_end(m);
	launch_wait(m);
	return EXIT_FAILED;
}

static int run_run(void *opts, const struct args *a)
{
	struct run *r = opts;
	cleanup(place_close) struct place p = {.lock = -1};
	struct launch l = {.cfg = &r->cfg, .place = &p, .paused = !r->detach};
	struct launched m;
	struct err e = {0};
	int rc = prepare(r, a, &p, &e);

	if (!rc)
		rc = launch_machine(&l, &m, &e);
	if (rc) {
		place_undo(&p);
		return fail(&e);
	}
	if (!r->detach)
		return launch_foreground(r->cfg.name, &m);
	launch_release(&m);
	printf("%s\n", r->cfg.name);
	return EXIT_DONE;
}

const struct verb verbs_run[] = {
	{VERB("run", "[IMAGE]",
		 "run a machine; its console is here until it ends, or with -d in the background"),
		.cmd.max_args = 1, .cmd.groups = run_groups, .size = sizeof(struct run),
		.cmd.names = "names images", .run = run_run, .parse = parse_run,
		.cmd.text =
			"Runs an image (see lodge image), or a kernel, or firmware.\n\n"
			"A machine with a --name keeps its disk, a copy of the image's, for the "
			"next "
			"time; lodge rm removes it. One without gets a name, and its disk goes "
			"when it "
			"ends. What --append has is added to the image's command line. Without "
			"--memory an image gets as much as it needs.\n\n"
			"The exit code is the guest's: 0 after a clean power-off, 137 when the "
			"machine "
			"was killed.\n\n"
			"On the console Ctrl-A x ends the machine, Ctrl-A d leaves it running in "
			"the "
			"background, Ctrl-A h helps, and Ctrl-A Ctrl-A sends one Ctrl-A. When "
			"lodge "
			"run itself is ended, so is its machine, unless it is in the background."},
	VERBS_END,
};
