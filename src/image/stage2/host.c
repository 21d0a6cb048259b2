#include "image/stage2/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "image/run.h"

#define NAMESPACES \
	(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

/*
 * What `dpkg --configure` does with files and users; nothing of it reaches beyond the disk. Not CAP_DAC_READ_SEARCH: open_by_handle_at(2) would find
 * any file of a file system of which one is to be seen, as the host's nodes in /dev are; CAP_DAC_OVERRIDE reads and searches.
 */
static const unsigned char kept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL,
	CAP_SETGID, CAP_SETUID, CAP_SETFCAP, CAP_SYS_CHROOT};

/* In the child, for who reads its output. */
static int say(const char *what, int error)
{
	char line[300];
	int n = snprintf(line, sizeof(line), "lodge: %s: %s\n", what, strerrordesc_np(error));

	return write(STDERR_FILENO, line, (size_t)n) < 0 ? -1 : 1;
}

/* A device over the disk's file, which goes when nobody has it any more. */
static int attach(const char *disk, char *path, size_t size)
{
	cleanup(close_fd) int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	cleanup(close_fd) int file = open(disk, O_RDWR | O_CLOEXEC);
	struct loop_config c = {.fd = (unsigned)file, .info.lo_flags = LO_FLAGS_AUTOCLEAR};

	if (control < 0 || file < 0)
		return -1;
	/* Another program may be faster with the one that was free. */
	for (unsigned tries = 0; tries < 64; tries++) {
		int n = ioctl(control, LOOP_CTL_GET_FREE), fd;

		if (n < 0)
			return -1;
		snprintf(path, size, "/dev/loop%d", n);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return -1;
		if (!ioctl(fd, LOOP_CONFIGURE, &c))
			return fd;
		close(fd);
		if (errno != EBUSY)
			return -1;
	}
	return -1;
}

static int make_dev(void)
{
	static const char *const nodes[] = {
		"dev/null", "dev/zero", "dev/full", "dev/random", "dev/urandom", "dev/tty"};
	static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"},
		{"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
		{"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};

	if (mount("dev", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755"))
		return -1;
	for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++) {
		char from[32];
		int fd = open(nodes[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

		if (fd < 0)
			return -1;
		close(fd);
		snprintf(from, sizeof(from), "/%s", nodes[i]);
		if (mount(from, nodes[i], NULL, MS_BIND, NULL))
			return -1;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]))
			return -1;
	return mkdir("dev/pts", 0755) || mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
						 "newinstance,ptmxmode=0666,mode=0620");
}

/* The disk becomes all that there is. */
static int move_in(const char *disk, const char *dir)
{
	char dev[32];
	int fd;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return say("a mount namespace", errno);
	fd = attach(disk, dev, sizeof(dev));
	if (fd < 0)
		return say("a loop device", errno);
	if (mount(dev, dir, "ext4", MS_NODEV, NULL) || chdir(dir))
		return say("mounting the disk", errno);
	close(fd);
	if (make_dev() || mount("run", "run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"))
		return say("/dev and /run of the image", errno);
	/* What is below stays, on top of nothing: pivot_root(2), "pivot_root(".", ".")". */
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return say("pivot_root", errno);
	if (mount("proc", "/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return say("/proc of the image", errno);
	return sethostname("lodge", 5) ? say("host name", errno) : 0;
}

static int configure(void)
{
	char *const argv[] = {"sh", "/var/lib/lodge/stage2", NULL}, *const env[] = {
									    "TERM=dumb", NULL};

	for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		if (!memchr(kept, cap, sizeof(kept)) && prctl(PR_CAPBSET_DROP, cap))
			return say("dropping capabilities", errno);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return say("no_new_privs", errno);
	setsid();
	execve("/bin/sh", argv, env);
	return say("/bin/sh of the image", errno);
}

/* Process 1 of the namespace: what it leaves is a file system that nobody has open. */
static int first(const char *disk, const char *dir)
{
	int status = 0, rc;
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	rc = move_in(disk, dir);
	if (rc)
		return rc;
	pid = fork();
	if (!pid)
		_exit(configure()); /* forked child */
	if (pid < 0)
		return say("fork", errno);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	/* Not umount: the root cannot be; and the end of a namespace is not waited for. */
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NODEV, NULL))
		return say("writing the disk back", errno);
	return WIFEXITED(status) ? 0 : say("the second stage was killed", ECHILD);
}

struct stage {
	const char *disk, *dir;
};

static int child(void *ctx)
{
	const struct stage *s = ctx;
	int status;
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(NAMESPACES))
		return say("namespaces", errno);
	pid = fork();
	if (!pid)
		_exit(first(s->disk, s->dir)); /* forked child */
	if (pid < 0)
		return say("fork", errno);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* ---- whether ---- */

static int try_it(void *ctx)
{
	int fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return say("/dev/loop-control", errno);
	if (unshare(NAMESPACES))
		return say("namespaces", errno);
	return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ? say("mount", errno) : 0;
}

int stage2_host_can(const char *arch, struct err *e)
{
	struct utsname u;

	if (uname(&u) || strcmp(u.machine, strcmp(arch, "amd64") ? arch : "x86_64"))
		return err_set(e, -ENOTSUP, "this host is no %s", arch);
	if (geteuid())
		return err_set(e, -EPERM, "on this host itself only root can");
	return run_child(try_it, NULL, e);
}

int stage2_host(void *ctx, const struct image_boot *b, struct err *e)
{
	struct stage s = {b->disk, ctx};
	struct run_opts o = {.child = child,
		.child_ctx = &s,
		.line = b->line,
		.ctx = b->ctx,
		.timeout_s = b->timeout_s};
	int status, rc;

	if (mkdir(s.dir, 0700) && errno != EEXIST)
		return err_sys(e, -errno, "create %s", s.dir);
	rc = run_prog(&o, &status, e);
	if (!rc && status)
		rc = err_set(e, -EIO, "configuring the packages on this host ended with code %d",
			status);
	return rc;
}
