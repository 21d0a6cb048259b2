#include "image/stage2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/util.h"
#include "image/ext4.h"
#include "image/run.h"

/* An interpreted guest on a slow host takes minutes; longer than this means that it hangs. */
#define TIMEOUT_S 3600

/* The one place that knows the flags of the machine's program. */
static int boot_program(void *ctx, const struct image_boot *b, struct err *e)
{
	cleanup(free_ptr) char *disk = text_fmt("%s:raw", b->disk);
	const char *prog = ctx;
	const char *argv[] = {prog, "--kernel", b->kernel, "--initrd", b->initrd, "--append",
		b->append, "--memory", b->memory, "--smp", "1", "--disk", disk, "--net", "user",
		NULL};
	struct run_opts o = {
		.argv = argv, .line = b->line, .ctx = b->ctx, .timeout_s = b->timeout_s};
	int status, r;

	if (!disk)
		return err_set(e, -ENOMEM, "out of memory");
	r = run_prog(&o, &status, e);
	if (!r && status)
		r = err_set(e, -EIO, "%s ended with code %d", prog, status);
	return r;
}

/* The machine that belongs to this program: beside it, else in PATH. */
static char *find_machine(void)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *s = NULL, *slash;

	if (n > 0) {
		self[n] = 0;
		slash = strrchr(self, '/');
		s = text_fmt("%.*s/lodge-vm", (int)(slash - self), self);
		if (s && access(s, X_OK)) {
			/* In the build tree each program has the folder of its layer. */
			free(s);
			s = text_fmt("%.*s/../vm/lodge-vm", (int)(slash - self), self);
		}
	}
	if (s && !access(s, X_OK))
		return s;
	free(s);
	return run_find("lodge-vm");
}

int stage2_check(const struct pull *p, struct err *e)
{
	cleanup(free_ptr) char *machine = p->o->machine ? run_find(p->o->machine) : find_machine();

	if (p->o->boot || machine)
		return 0;
	return err_set(e, -ENOENT,
		"the program %s is missing: it boots the image once to configure its packages%s",
		p->o->machine ?: "lodge-vm", p->o->machine ? "" : "; name one with --machine");
}

struct console {
	struct pull *p;
	int log;
	size_t done, total;
	char last[200];
};

static int on_line(void *ctx, const char *line)
{
	struct console *c = ctx;
	char nl = '\n';

	if (*line) {
		if (write(c->log, line, strlen(line)) < 0 || write(c->log, &nl, 1) < 0)
			c->log = c->log; /* the log is a help, not a need */
		/* What the guest's own scripts say explains more than what comes after it. */
		if (strncmp(c->last, "lodge: ", 7) || !strncmp(line, "lodge: ", 7))
			snprintf(c->last, sizeof(c->last), "%s", line);
	}
	c->done += !strncmp(line, "Setting up ", 11);
	return pull_step(c->p, "configure", MIN(c->done, c->total), c->total, NULL);
}

static int keep_log(struct pull *p, const char *log, struct console *c, struct err *e)
{
	cleanup(free_ptr) char *to = text_fmt("%s/stage2-failed.log", p->dirs->cache);
	size_t n = e ? strlen(e->msg) : 0;

	if (!to || rename(log, to))
		return -EIO;
	if (e && e->code != -ECANCELED && c->last[0])
		snprintf(e->msg + n, sizeof(e->msg) - n, " (the guest said \"%s\"; all of it: %s)",
			c->last, to);
	return e ? e->code : -EIO;
}

static int check_result(struct pull *p, const char *disk, struct err *e)
{
	cleanup(buf_free) struct buf b = {0}, cmds = {0};

	if (ext4_read(disk, "var/lib/lodge/result", p->work, &b, NULL) || strcmp(b.p, "ok\n"))
		return err_set(e, -EIO, "the second stage did not finish");
	buf_str(&cmds,
		"rm /var/lib/lodge/result\nrm /var/lib/lodge/stage2\nrmdir /var/lib/lodge\n");
	return buf_err(&cmds, e) ?: ext4_edit(disk, &cmds, p->work, e);
}

int stage2_run(struct pull *p, const char *disk, size_t packages, struct err *e)
{
	cleanup(free_ptr) char *kernel = text_fmt("%s/vmlinux", p->out);
	cleanup(free_ptr) char *initrd = text_fmt("%s/initrd", p->out);
	cleanup(free_ptr) char *log = text_fmt("%s/stage2.log", p->work);
	cleanup(free_ptr) char *machine = p->o->machine ? strdup(p->o->machine) : find_machine();
	cleanup(close_fd) int fd = -1;
	struct console c = {.p = p, .total = packages};
	struct image_boot b = {.kernel = kernel,
		.initrd = initrd,
		.disk = disk,
		.memory = "512M",
		.append = "root=LABEL=lodge-root lodge.stage2 console=ttyS0 quiet panic=-1",
		.timeout_s = TIMEOUT_S,
		.line = on_line,
		.ctx = &c};
	image_boot_fn boot = p->o->boot ?: boot_program;
	int r;

	if (!kernel || !initrd || !log)
		return err_set(e, -ENOMEM, "out of memory");
	if (!p->o->boot && !machine)
		return stage2_check(p, e);
	c.log = fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, -errno, "create %s", log);
	r = boot(p->o->boot ? p->o->boot_ctx : machine, &b, e);
	if (!r)
		r = check_result(p, disk, e);
	return r ? keep_log(p, log, &c, e) : 0;
}
