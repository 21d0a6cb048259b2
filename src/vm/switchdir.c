#include "vm/switchdir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "vm/rundir.h"

int switch_path(const char *name, const char *suffix, char *path, size_t size, struct err *e)
{
	char place[PATH_MAX];
	int n, rc = name ? rundir_check_name(name, NULL) : 0;

	if (rc)
		return err_set(e, rc,
			"switch name \"%.80s\": 1 to 63 letters, digits, '.', '_' and '-', and a "
			"letter or digit first",
			name);
	rc = fs_place_path(FS_RUNTIME, place, sizeof(place), e);
	if (rc)
		return rc;
	n = snprintf(path, size, "%s/.switches%s%s%s%s", place, name ? "/" : "", name ?: "",
		suffix ? "." : "", suffix ?: "");
	return n >= 0 && (size_t)n < size
		       ? 0
		       : err_set(e, -ENAMETOOLONG, "switch %s: its path is too long", name ?: "");
}

int switch_claim(const char *name, int *lock_fd, struct err *e)
{
	char path[PATH_MAX];
	cleanup(close_fd) int fd = -1;
	int rc = fs_place_make(FS_RUNTIME, path, sizeof(path), e);

	rc = rc ?: switch_path(NULL, NULL, path, sizeof(path), e) ?: fs_mkdir_p(path, 0700, e);
	rc = rc ?: switch_path(name, "lock", path, sizeof(path), e);
	if (rc)
		return rc;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, -errno, "switch %s: %s", name, path);
	if (flock(fd, LOCK_EX | LOCK_NB))
		return err_set(e, -EBUSY, "switch %s runs already", name);
	for (unsigned i = 0; i < 2; i++)
		if (!switch_path(name, i ? "ctl" : "sock", path, sizeof(path), e))
			unlink(path);
	*lock_fd = steal_fd(&fd);
	return 0;
}
