#include "cli/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "disk/lock.h"
#include "vm/rundir.h"

#define BUSY_TRIES 3000 /* of 10 ms: memory is taken back first, and disks are let go */

int place_path(const char *name, char *path, size_t size, struct err *e)
{
	int rc = fs_place_path(FS_DATA, path, size, e);
	size_t n;

	if (rc)
		return rc;
	n = strlen(path);
	if ((size_t)snprintf(path + n, size - n, "/vms%s%s", name ? "/" : "", name ?: "") >=
		size - n)
		return err_set(e, -ENAMETOOLONG,
			"machine %s: the path of its directory is too long; set LODGE_HOME to a "
			"shorter one",
			name ?: "");
	return 0;
}

int place_file(const struct place *p, const char *file, char *path, size_t size, struct err *e)
{
	if ((size_t)snprintf(path, size, "%s/%s", p->dir, file) >= size)
		return err_set(e, -ENAMETOOLONG, "%s/%s: the path is too long", p->dir, file);
	return 0;
}

static int start(struct place *p, const char *name, struct err *e)
{
	memset(p, 0, sizeof(*p));
	p->lock = -1;
	snprintf(p->name, sizeof(p->name), "%s", name);
	return rundir_check_name(name, e) ?: place_path(name, p->dir, sizeof(p->dir), e);
}

/* 0; -EAGAIN: it was removed before we had the lock. */
static int lock(struct place *p, struct err *e)
{
	cleanup(close_fd) int fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat mine, there;

	if (fd < 0 && errno == ENOENT)
		return -EAGAIN;
	if (fd < 0)
		return err_sys(e, -errno, "%s", p->dir);
	if (flock(fd, LOCK_EX | LOCK_NB))
		return err_set(e, -EBUSY,
			"machine %s is running, or being started or removed; choose another "
			"--name, or wait",
			p->name);
	if (fstat(fd, &mine) || stat(p->dir, &there) || mine.st_ino != there.st_ino)
		return -EAGAIN;
	p->lock = steal_fd(&fd);
	return 0;
}

static int mark_temporary(const struct place *p, struct err *e)
{
	cleanup(close_fd) int fd = openat(
		p->lock, "temporary", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	return fd < 0 ? err_sys(e, -errno, "%s/temporary", p->dir) : 0;
}

int place_open(struct place *p, const char *name, bool temporary, struct err *e)
{
	char path[PATH_MAX];
	unsigned tries = 0;
	int rc = start(p, name, e);

	if (!rc)
		rc = fs_place_make(FS_DATA, path, sizeof(path), e);
	if (!rc)
		rc = place_path(NULL, path, sizeof(path), e);
	if (!rc)
		rc = fs_mkdir_p(path, 0700, e);
	if (rc)
		return rc;
	do {
		p->made = mkdir(p->dir, 0700) == 0;
		if (!p->made && (errno != EEXIST || temporary))
			return err_sys(e, -errno, "%s", p->dir);
		rc = lock(p, e);
		/* Behind a machine that has ended somebody clears up for a moment. */
		if (rc == -EBUSY && !rundir_alive(p->name) && tries++ < BUSY_TRIES) {
			nanosleep(&(struct timespec){0, 10000000}, NULL);
			rc = -EAGAIN;
		}
	} while (rc == -EAGAIN);
	if (rc)
		return rc;
	p->temporary = temporary;
	rc = temporary ? mark_temporary(p, e) : 0;
	if (rc)
		place_undo(p);
	return rc;
}

bool place_is_temporary(const struct place *p)
{
	return p->temporary && !faccessat(p->lock, "temporary", F_OK, 0);
}

int place_keep(const char *name, struct err *e)
{
	char dir[PATH_MAX - 16], path[PATH_MAX];
	int rc = place_path(name, dir, sizeof(dir), e);

	if (rc)
		return rc;
	snprintf(path, sizeof(path), "%s/temporary", dir);
	return unlink(path) ? err_sys(e, -errno, "%s", path) : 0;
}

int place_find(struct place *p, const char *name, struct err *e)
{
	int rc = start(p, name, e) ?: lock(p, e);

	if (rc == -EAGAIN)
		return err_set(e, -ENOENT,
			"no machine %s is kept here; lodge ps --all lists those that are", name);
	return rc;
}

void place_close(struct place *p)
{
	if (p->dir[0] && p->lock >= 0)
		close(p->lock);
	p->lock = -1;
}

/* Lodge makes no directories in it; somebody's own stay, and with them the place. */
static int clear(struct place *p)
{
	DIR *d = p->lock < 0 ? NULL : opendir(p->dir);

	if (!d)
		return -errno;
	for (struct dirent *de; (de = readdir(d));)
		if (de->d_name[0] != '.')
			unlinkat(p->lock, de->d_name, 0);
	closedir(d);
	return rmdir(p->dir) ? -errno : 0;
}

void place_undo(struct place *p)
{
	if (p->lock < 0)
		return;
	if (p->made) {
		clear(p);
	} else if (p->made_disk) {
		unlinkat(p->lock, "disk.raw", 0);
		unlinkat(p->lock, "image", 0);
	}
	place_close(p);
}

void place_undo_logs(struct place *p)
{
	static const char *const logs[] = {"console.log", "machine.log", "keeper.sock"};

	for (unsigned i = 0; p->made && i < ARRAY_SIZE(logs); i++)
		unlinkat(p->lock, logs[i], 0);
	if (p->made)
		rmdir(p->dir);
}

/* Not by a process that was killed. */
static bool is_locked(const struct place *p, const char *file)
{
	cleanup(close_fd) int fd = openat(p->lock, file, O_RDWR | O_CLOEXEC);

	return fd >= 0 && disk_lock(fd, file, true, NULL) == -EBUSY;
}

/* A machine that was migrated, or restored under another name, has it. Who began with the same .base has a name for it as well. */
static bool disk_in_use(const struct place *p)
{
	DIR *d = p->lock < 0 ? NULL : opendir(p->dir);
	bool used = false;

	for (struct dirent *de; d && !used && (de = readdir(d));) {
		const char *dot = strrchr(de->d_name, '.');

		used = !strncmp(de->d_name, "disk", 4) && dot && strcmp(dot, ".base") &&
		       is_locked(p, de->d_name);
	}
	if (d)
		closedir(d);
	return used;
}

int place_remove(struct place *p, struct err *e)
{
	int rc;

	if (disk_in_use(p)) {
		place_close(p);
		return err_set(e, -EBUSY,
			"%s: another machine has its disk (it was moved or restored under another "
			"name): it can go when that one has ended",
			p->dir);
	}
	rc = clear(p);
	place_close(p);
	return rc ? err_sys(e, rc, "%s", p->dir) : 0;
}

static bool is_name(char *name)
{
	return !rundir_check_name(name, NULL);
}

int place_names(struct fs_names *names, struct err *e)
{
	char path[PATH_MAX];

	*names = (struct fs_names){0};
	return place_path(NULL, path, sizeof(path), e) ?: fs_list(path, is_name, names, e);
}

/* Made by somebody who was killed the next moment, or is about to lock it. */
static bool is_empty(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n == 2; /* itself and its parent */
}

void place_sweep(void)
{
	char path[PATH_MAX];
	DIR *d = place_path(NULL, path, sizeof(path), NULL) ? NULL : opendir(path);

	if (!d)
		return;
	for (struct dirent *de; (de = readdir(d));) {
		char mark[PATH_MAX];
		struct place p;
		bool empty;

		/* Looked at before it is locked: a lock for a moment is in the way of who starts one. */
		if (de->d_name[0] == '.' ||
			place_path(de->d_name, mark, sizeof(mark) - sizeof("/temporary"), NULL))
			continue;
		empty = is_empty(mark);
		strcat(mark, "/temporary");
		if ((!empty && access(mark, F_OK)) || place_find(&p, de->d_name, NULL))
			continue;
		if (!rundir_alive(p.name))
			clear(&p);
		place_close(&p);
	}
	closedir(d);
}
