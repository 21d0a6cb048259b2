/*
 * HOLD, RELEASE: the guest's programs stand still, and this one does not, so that a copy of the machine can be given an identity of its own
 * before any of them draws a random number, looks at the clock or sends a packet.
 *
 *   the machine:  HOLD -> (moment) -> RELEASE, or the connection ends: all go on
 *   its copy:     the connection breaks, as the host's end stayed behind -> all stay held -> TIME, ADDRESS, IDENTITY -> RELEASE
 *
 * By control groups (Linux' cgroup v2, cgroup.freeze), which programs do not see: each topmost group without this program in it; what is in
 * the same group as this program (all, where nobody has made groups) is in a group below it meanwhile. After `ms` all go on in any case.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest/agent.h"

#define GROUPS_MAX 256
#define PATH 512
#define HELD_FILE "/run/lodge-agent.held"
#define MOUNT "/run/lodge-cgroup"
#define ASIDE "lodge-held"
#define SETTLE_US \
	50000 /* what takes longer is asleep in the kernel, and stops when it comes back */

static struct {
	char group[GROUPS_MAX][PATH];
	unsigned n;
	char own[PATH]; /* this program's group */
	char aside[PATH]; /* the others of it are here; "" when there were none */
	bool mounted;
} held;

static int write_text(const char *dir, const char *file, const char *text)
{
	char path[PATH + 32];
	int fd, err = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		err = errno;
	close(fd);
	return err;
}

static bool read_text(const char *dir, const char *file, char *text, size_t size)
{
	char path[PATH + 32];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, size - 1);
	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = 0;
	return n >= 0;
}

/* Where control groups are; they are mounted when nobody has. */
static int find_root(char *root)
{
	char line[1024];
	FILE *f = fopen("/proc/self/mounts", "re");

	*root = 0;
	while (f && !*root && fgets(line, sizeof(line), f)) {
		char dir[PATH], type[32];

		if (sscanf(line, "%*s %511s %31s", dir, type) == 2 && !strcmp(type, "cgroup2"))
			strcpy(root, dir);
	}
	if (f)
		fclose(f);
	if (*root)
		return 0;
	mkdir(MOUNT, 0700);
	if (mount("none", MOUNT, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return errno;
	held.mounted = true;
	strcpy(root, MOUNT);
	return 0;
}

static int find_own(const char *root)
{
	char text[1024], *p;

	if (!read_text("/proc/self", "cgroup", text, sizeof(text)))
		return errno;
	p = strstr(text, "0::/");
	if (!p)
		return ENOTSUP;
	p[strcspn(p, "\n")] = 0;
	p += 3;
	return snprintf(held.own, sizeof(held.own), "%s%s", root, strcmp(p, "/") ? p : "") >=
			       (int)sizeof(held.own)
		       ? ENAMETOOLONG
		       : 0;
}

static bool is_frozen(const char *dir)
{
	char text[256];

	return read_text(dir, "cgroup.events", text, sizeof(text)) && strstr(text, "frozen 1");
}

static int freeze_group(const char *dir)
{
	char text[8];
	int err;

	if (!read_text(dir, "cgroup.freeze", text, sizeof(text)) || text[0] == '1')
		return 0; /* gone, or somebody else's business */
	if (held.n == GROUPS_MAX)
		return E2BIG;
	err = write_text(dir, "cgroup.freeze", "1");
	if (!err)
		strcpy(held.group[held.n++], dir);
	return err == ENOENT ? 0 : err;
}

/* Below `dir`, which this program is in or below. */
static int freeze_around(const char *dir)
{
	size_t len = strlen(dir);
	struct dirent *de;
	int err = 0;
	DIR *d;

	if (!strcmp(dir, held.own))
		return 0;
	d = opendir(dir);
	if (!d)
		return errno;
	while (!err && (de = readdir(d))) {
		char path[PATH];
		size_t n;

		if (de->d_type != DT_DIR || de->d_name[0] == '.')
			continue;
		n = (size_t)snprintf(path, sizeof(path), "%s/%s", dir, de->d_name);
		if (n >= sizeof(path) || n <= len)
			err = ENAMETOOLONG;
		else if (!strncmp(held.own, path, n) && (!held.own[n] || held.own[n] == '/'))
			err = freeze_around(path);
		else
			err = freeze_group(path);
	}
	closedir(d);
	return err;
}

/* A program, and not the kernel's or this one. */
static bool is_other(const char *pid, const char *self)
{
	char path[64], exe[PATH];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%.20s/exe", pid);
	n = readlink(path, exe, sizeof(exe) - 1);
	exe[n < 0 ? 0 : n] = 0;
	return n > 0 && strcmp(exe, self);
}

static int move_all(const char *from, const char *to, const char *but)
{
	char path[PATH + 32], line[32];
	int err = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/cgroup.procs", from);
	f = fopen(path, "re");
	if (!f)
		return errno;
	while (!err && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (!but || is_other(line, but))
			err = write_text(to, "cgroup.procs", line);
		if (err == ESRCH)
			err = 0;
	}
	fclose(f);
	return err;
}

static int hold_own_group(void)
{
	char self[PATH];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int err;

	if (n < 0)
		return errno;
	self[n] = 0;
	n = snprintf(held.aside, sizeof(held.aside), "%s/" ASIDE, held.own);
	if (n >= (ssize_t)sizeof(held.aside) || (mkdir(held.aside, 0700) && errno != EEXIST)) {
		held.aside[0] = 0;
		return ENAMETOOLONG;
	}
	/* Twice: what a program started while it was moved is still where it was. */
	err = move_all(held.own, held.aside, self);
	if (!err)
		err = move_all(held.own, held.aside, self);
	return err ? err : freeze_group(held.aside);
}

static void let_go(void)
{
	while (held.n)
		write_text(held.group[--held.n], "cgroup.freeze", "0");
	if (held.aside[0]) {
		move_all(held.aside, held.own, NULL);
		rmdir(held.aside);
		held.aside[0] = 0;
	}
	if (held.mounted) {
		umount2(MOUNT, MNT_DETACH);
		rmdir(MOUNT);
		held.mounted = false;
	}
	unlink(HELD_FILE);
}

static int hold_all(void)
{
	char root[PATH];
	int err = find_root(root);

	if (!err)
		err = find_own(root);
	if (!err)
		err = freeze_around(root);
	if (!err)
		err = hold_own_group();
	for (unsigned i = 0, us = 0; !err && i < held.n && us < SETTLE_US; us += 200) {
		if (is_frozen(held.group[i]))
			i++;
		else
			nanosleep(&(struct timespec){0, 200000}, NULL);
	}
	return err;
}

/* Who holds is found by it. -EEXIST: somebody does already. */
static int say_held(void)
{
	char text[16];
	int fd = open(HELD_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), err = 0;

	if (fd < 0)
		return errno;
	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (write(fd, text, strlen(text)) < 0)
		err = errno;
	close(fd);
	if (err)
		unlink(HELD_FILE);
	return err;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	/* Not the wall clock, which is going to be set. */
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Until it is released: by this connection, by its orderly end, by another connection (a signal), or by the time. */
static bool wait_for_release(struct peer *p, int sig, uint64_t until)
{
	struct pollfd fd[2] = {{sig, POLLIN, 0}, {p->fd, POLLIN, 0}};

	for (;;) {
		uint64_t t = now_ms();
		char byte;
		ssize_t n;

		if (t >= until || poll(fd, 2, (int)(until - t)) < 0 || fd[0].revents)
			return false;
		if (!fd[1].revents)
			continue;
		n = recv(p->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
		if (n > 0)
			return true;
		if (!n)
			return false;
		/* It did not end, it broke: this is the copy, and somebody will come. */
		fd[1].fd = -1;
	}
}

void serve_hold(struct peer *p)
{
	uint32_t ms = agent_get_u32(&p->in);
	sigset_t set;
	int err, sig;

	peer_check(p);
	if (!ms || ms > 600000)
		peer_bad(p, "hold: 1 to 600000 milliseconds");
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sig = signalfd(-1, &set, SFD_CLOEXEC);
	err = sig < 0 ? errno : say_held();
	if (err) {
		peer_error(p, err, "hold", NULL);
		return;
	}
	err = hold_all();
	if (err) {
		let_go();
		peer_error(p, err, "hold", "control groups");
		return;
	}
	peer_ok(p, held.n);
	if (!wait_for_release(p, sig, now_ms() + ms)) {
		let_go();
		exit(0);
	}
	atexit(let_go);
	peer_next(p);
	if (p->in.type != AGENT_RELEASE)
		peer_bad(p, "held: only a release can come now");
	peer_check(p);
	let_go();
	close(sig);
	peer_ok(p, 1);
}

/* From another connection than the one that holds. */
void serve_release(struct peer *p)
{
	char text[16];
	int pid;

	peer_check(p);
	if (!read_text("/run", "lodge-agent.held", text, sizeof(text)) || (pid = atoi(text)) <= 1) {
		peer_ok(p, 0);
		return;
	}
	kill(pid, SIGTERM);
	for (unsigned i = 0; i < 10000 && !access(HELD_FILE, F_OK); i++) {
		if (kill(pid, 0) && errno == ESRCH)
			break;
		nanosleep(&(struct timespec){0, 500000}, NULL);
	}
	if (access(HELD_FILE, F_OK))
		peer_ok(p, 1);
	else
		peer_error(p, ETIMEDOUT, "release", NULL);
}
