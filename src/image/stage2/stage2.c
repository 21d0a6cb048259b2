#include "image/stage2/stage2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "image/ext4.h"
#include "image/run.h"
#include "image/stage2/host.h"

/* An interpreted guest on a slow host takes minutes; longer than this means that it hangs. */
#define TIMEOUT_S 3600

static const char *engine_of(const char *arch)
{
	return strcmp(arch, "amd64") ? "rv64" : "kvm";
}

/* Here and in can_run(): the places that know the flags of the machine's program. */
static int boot_program(void *ctx, const struct image_boot *b, struct err *e)
{
	cleanup(free_ptr) char *disk = text_fmt("%s:raw", b->disk);
	const char *prog = ctx;
	const char *argv[] = {prog, "--engine", engine_of(b->arch), "--kernel", b->kernel,
		"--initrd", b->initrd, "--append", b->append, "--memory", b->memory, "--smp", "1",
		"--disk", disk, "--net", "user", NULL};
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

/*
 * An ELF program of 30 bytes: CMPXCHG16B, which every kernel since 2013 may use and which a KVM that interprets ring 0 does not know, and
 * a store to the test finisher's port.
 *
 *	lea rdi, [rsp - 32]; xor eax, eax; xor edx, edx; xor ebx, ebx; xor ecx, ecx; cmpxchg16b [rdi];
 *	mov eax, 0x5555; mov dx, 0xf4; out dx, eax; 1: hlt; jmp 1b
 */
static const unsigned char probe[150] = {[0] = 0x7f,
	'E',
	'L',
	'F',
	2,
	1,
	1,
	[16] = 2,
	[18] = 62,
	[20] = 1,
	[26] = 0x20,
	[32] = 64,
	[52] = 64,
	[54] = 56,
	[56] = 1,
	[64] = 1,
	[68] = 5,
	[72] = 120,
	[82] = 0x20,
	[90] = 0x20,
	[96] = 30,
	[104] = 30,
	[112] = 16,
	/* code: */[120] = 0x48,
	0x8d,
	0x7c,
	0x24,
	0xe0,
	0x31,
	0xc0,
	0x31,
	0xd2,
	0x31,
	0xdb,
	0x31,
	0xc9,
	0x48,
	0x0f,
	0xc7,
	0x0f,
	0xb8,
	0x55,
	0x55,
	0x00,
	0x00,
	0x66,
	0xba,
	0xf4,
	0x00,
	0xef,
	0xf4,
	0xeb,
	0xfd};

/* The machine's own words; what the engine cannot go on with ends the probe, which would wait for people else. */
static int probe_line(void *ctx, const char *line)
{
	struct buf *why = ctx;
	const char *error = strstr(line, " error vm: ");

	if (!*line)
		return 0;
	why->n = 0;
	buf_str(why, error ? error + 11 : line);
	return error != NULL;
}

/* Whether a machine for the architecture runs kernels here: asked before anything is fetched, since it takes milliseconds. */
static int can_run(const struct pull *p, const char *machine, struct err *e)
{
	cleanup(free_ptr) char *file = text_fmt("%s/probe.elf", p->work);
	cleanup(buf_free) struct buf why = {0};
	const char *argv[] = {machine, "--engine", engine_of(p->kind->arch), "--memory", "16M",
		"--kernel", file, NULL};
	struct run_opts o = {.argv = argv, .line = probe_line, .ctx = &why, .timeout_s = 30};
	struct err none = {0};
	int status = 0, r;

	if (!file)
		return err_set(e, -ENOMEM, "out of memory");
	r = whole_file_write(file, probe, sizeof(probe), 0600, false, e);
	if (r)
		return r;
	r = run_prog(&o, &status, &none);
	unlink(file);
	if (!r && !status)
		return 0;
	return err_set(e, -ENOTSUP, "this host does not run kernels for %s (%.200s)", p->kind->arch,
		why.n ? why.p : err_msg(&none));
}

/* A machine is asked for first: what packages run stays inside it. */
static int choose(const struct pull *p, char **machine, image_boot_fn *boot, struct err *e)
{
	struct err no_machine = {0}, no_host = {0};

	*machine = p->o->machine ? run_find(p->o->machine) : find_machine();
	*boot = p->o->boot ?: boot_program;
	if (p->o->boot)
		return 0;
	if (!*machine)
		err_set(&no_machine, -ENOENT, "the program %s is missing",
			p->o->machine ?: "lodge-vm");
	else if (!strcmp(p->kind->arch, "riscv64") || !can_run(p, *machine, &no_machine))
		return 0;
	*boot = stage2_host;
	if (!p->o->machine && !stage2_host_can(p->kind->arch, &no_host))
		return 0;
	return err_set(e, no_machine.code,
		"its packages are configured by booting it once: %s%s%s; pull it on a host that "
		"can, "
		"name a program that boots it with --machine, or take debian:mini",
		err_msg(&no_machine), no_host.code ? "; nor without a machine: " : "",
		no_host.code ? err_msg(&no_host) : "");
}

int stage2_check(const struct pull *p, struct err *e)
{
	cleanup(free_ptr) char *machine = NULL;
	image_boot_fn boot;

	return choose(p, &machine, &boot, e);
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
	cleanup(free_ptr) char *mount = text_fmt("%s/mount", p->work);
	cleanup(free_ptr) char *machine = NULL;
	cleanup(close_fd) int fd = -1;
	struct console c = {.p = p, .total = packages};
	struct image_boot b = {.arch = p->kind->arch,
		.kernel = kernel,
		.initrd = initrd,
		.disk = disk,
		.memory = "512M",
		.append = "root=LABEL=lodge-root lodge.stage2 console=ttyS0 quiet panic=-1",
		.timeout_s = TIMEOUT_S,
		.line = on_line,
		.ctx = &c};
	image_boot_fn boot;
	int r;

	if (!kernel || !initrd || !log || !mount)
		return err_set(e, -ENOMEM, "out of memory");
	r = choose(p, &machine, &boot, e);
	if (r)
		return r;
	c.log = fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, -errno, "create %s", log);
	r = boot(p->o->boot ? p->o->boot_ctx : boot == stage2_host ? mount : machine, &b, e);
	if (!r)
		r = check_result(p, disk, e);
	return r ? keep_log(p, log, &c, e) : 0;
}
