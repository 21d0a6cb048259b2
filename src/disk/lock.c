#include "disk/lock.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define LINGER_NS 20000000000ull
#define BLIND_NS 3000000000ull /* where it may be held by a process that may not be looked at */
#define STEP_NS 20000000

static void close_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Does this descriptor of process `pid` hold an open file description lock? */
static bool holds_lock(const char *pid, const char *fd)
{
	char path[64], text[2048];
	cleanup(close_fd) int f = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, fd);
	f = open(path, O_RDONLY | O_CLOEXEC);
	n = f < 0 ? -1 : read(f, text, sizeof(text) - 1);
	if (n < 0)
		return false;
	text[n] = 0;
	return strstr(text, "OFDLCK") != NULL;
}

static bool process_has(const char *pid, const struct stat *want, bool *blind)
{
	char path[64];
	cleanup(close_dir) DIR *d = NULL;
	const struct dirent *de;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	d = opendir(path);
	*blind |= !d && errno == EACCES;
	while (d && (de = readdir(d))) {
		struct stat st;

		if (fstatat(dirfd(d), de->d_name, &st, 0) || st.st_dev != want->st_dev ||
			st.st_ino != want->st_ino)
			continue;
		if (holds_lock(pid, de->d_name))
			return true;
	}
	return false;
}

/*
 * The kernel does not tell who holds an open file description lock: the processes that have the file open with one are looked through. 0: not found;
 * blind: among those that we may look at.
 */
static long find_holder(int fd, bool *blind)
{
	cleanup(close_dir) DIR *d = opendir("/proc");
	const struct dirent *de;
	struct stat st;

	if (!d || fstat(fd, &st))
		return 0;
	while ((de = readdir(d)))
		if (isdigit((unsigned char)de->d_name[0]) && process_has(de->d_name, &st, blind))
			return strtol(de->d_name, NULL, 10);
	return 0;
}

/*
 * A lock that nobody seems to hold is that of a process which was just killed: the kernel takes its ring down in the background, and
 * until then its last writes may still be going to the file. That is worth waiting for: files that others have let go are closed there, too, one behind
 * the other, which may take seconds.
 */
static int wait_for_lock(int fd, const struct flock *fl, long *pid)
{
	uint64_t began = clock_mono_ns();
	bool blind = false;

	*pid = 0;
	while (fcntl(fd, F_OFD_SETLK, fl)) {
		if (errno != EAGAIN && errno != EACCES)
			return -errno;
		*pid = find_holder(fd, &blind);
		if (*pid || clock_mono_ns() - began > (blind ? BLIND_NS : LINGER_NS))
			return -EAGAIN;
		nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
	}
	return 0;
}

void disk_unlock(int fd)
{
	struct flock fl = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	fcntl(fd, F_OFD_SETLK, &fl);
}

int disk_lock(int fd, const char *path, bool write, struct err *e)
{
	struct flock fl = {.l_type = write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
	char who[48] = "";
	long pid;
	int rc = wait_for_lock(fd, &fl, &pid);

	if (!rc)
		return 0;
	if (rc != -EAGAIN)
		return err_sys(e, rc,
			"disk %s: cannot be locked, so that another machine could write to it: "
			"keep it "
			"on a file system with locks",
			path);
	if (pid)
		snprintf(who, sizeof(who), " (pid %ld)", pid);
	return err_set(e, -EBUSY,
		"disk %s is in use by another machine%s: stop that one, or give this one a copy%s",
		path, who, write ? "" : ", or open it readonly in both");
}
