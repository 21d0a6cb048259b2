#include "vm/rundir.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"

static const char *const files[] = {"control.sock", "vsock.sock", "pid", "config.json", "lock"};

int rundir_check_name(const char *name, struct err *e)
{
	size_t n = strlen(name);

	if (!n || n > 63)
		return err_set(
			e, -EINVAL, "machine name \"%.80s\": give it 1 to 63 characters", name);
	if (!isalnum((unsigned char)name[0]))
		return err_set(
			e, -EINVAL, "machine name \"%s\": start it with a letter or digit", name);
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return err_set(e, -EINVAL,
				"machine name \"%s\": only letters, digits, '.', '_' and '-'",
				name);
	return 0;
}

int rundir_path(const char *name, const char *file, char *path, size_t size, struct err *e)
{
	int rc = fs_place_path(FS_RUNTIME, path, size, e);
	size_t n;

	if (rc)
		return rc;
	n = strlen(path);
	if ((size_t)snprintf(path + n, size - n, "/%s%s%s", name, file ? "/" : "", file ?: "") >=
		size - n)
		return err_set(e, -ENAMETOOLONG, "machine %s: its runtime path is too long", name);
	return 0;
}

/* The descriptor of the lock file, or a negative errno. */
static int open_lock(const char *name, int flags)
{
	char path[PATH_MAX];
	int fd;

	if (rundir_path(name, "lock", path, sizeof(path), NULL))
		return -ENAMETOOLONG;
	fd = open(path, flags | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

bool rundir_alive(const char *name)
{
	cleanup(close_fd) int fd = open_lock(name, O_RDONLY);

	if (fd < 0)
		return false;
	return flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

int rundir_pid(const char *name)
{
	char path[PATH_MAX];
	cleanup(free_ptr) char *text = NULL;

	if (rundir_path(name, "pid", path, sizeof(path), NULL) ||
		fs_read_file(path, 32, &text, NULL, NULL))
		return 0;
	return atoi(text);
}

int rundir_claim(const char *name, int *lock_fd, struct err *e)
{
	char path[PATH_MAX], pid[16];
	cleanup(close_fd) int fd = -1;
	int rc = rundir_check_name(name, e);

	if (!rc)
		rc = fs_place_make(FS_RUNTIME, path, sizeof(path), e);
	if (!rc)
		rc = rundir_path(name, NULL, path, sizeof(path), e);
	if (rc)
		return rc;
	if (mkdir(path, 0700) && errno != EEXIST)
		return err_sys(e, -errno, "%s", path);
	fd = open_lock(name, O_RDWR | O_CREAT);
	if (fd < 0)
		return err_sys(e, fd, "%s/lock", path);
	if (flock(fd, LOCK_EX | LOCK_NB))
		return err_set(e, -EBUSY,
			"a machine named %s is running already (pid %d): choose another --name, or "
			"stop it: lodge stop %s",
			name, rundir_pid(name), name);
	for (unsigned i = 0; i < ARRAY_SIZE(files) - 1; i++)
		if (!rundir_path(name, files[i], path, sizeof(path), NULL))
			unlink(path);
	rc = rundir_path(name, "pid", path, sizeof(path), e);
	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (!rc)
		rc = fs_write_file_volatile(path, pid, strlen(pid), 0600, e);
	if (rc)
		return rc;
	*lock_fd = steal_fd(&fd);
	return 0;
}

void rundir_remove(const char *name)
{
	char path[PATH_MAX];

	for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
		if (!rundir_path(name, files[i], path, sizeof(path), NULL))
			unlink(path);
	if (!rundir_path(name, NULL, path, sizeof(path), NULL))
		rmdir(path);
}
