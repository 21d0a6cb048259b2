#include "cli/snapshot/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/spell.h"
#include "base/util.h"
#include "vm/rundir.h"
#include "vm/snapshot/file.h"

#define SUFFIX ".snap"

static int folder(char *path, size_t size, struct err *e)
{
	int rc = fs_place_path(FS_DATA, path, size, e);
	size_t n;

	if (rc)
		return rc;
	n = strlen(path);
	if ((size_t)snprintf(path + n, size - n, "/snapshots") >= size - n)
		return err_set(e, -ENAMETOOLONG, "snapshots: the path of their folder is too long");
	return 0;
}

int snapstore_path(const char *name, char *path, size_t size, struct err *e)
{
	int rc = rundir_check_name(name, NULL);
	size_t n;

	if (rc)
		return err_set(e, rc,
			"snapshot name \"%.80s\": 1 to 63 letters, digits, '.', '_' and '-', and a "
			"letter or digit first",
			name);
	rc = folder(path, size, e);
	if (rc)
		return rc;
	n = strlen(path);
	if ((size_t)snprintf(path + n, size - n, "/%s" SUFFIX, name) >= size - n)
		return err_set(e, -ENAMETOOLONG, "snapshot %s: its path is too long", name);
	return 0;
}

static bool is_snapshot(char *name)
{
	size_t len = strlen(name), cut = strlen(SUFFIX);

	if (len <= cut || strcmp(name + len - cut, SUFFIX))
		return false;
	name[len - cut] = 0;
	return !rundir_check_name(name, NULL);
}

int snapstore_names(struct fs_names *names, struct err *e)
{
	char path[PATH_MAX];

	*names = (struct fs_names){0};
	return folder(path, sizeof(path), e) ?: fs_list(path, is_snapshot, names, e);
}

int snapstore_create_at(const char *path, int *fd, struct err *e)
{
	char dir[PATH_MAX];
	char *slash;

	if (!*path)
		return err_set(e, -EINVAL, "the name of the file is empty: give it one");
	if (!access(path, F_OK))
		return err_set(e, -EEXIST, "%s is there already", path);
	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = 0;
	else
		snprintf(dir, sizeof(dir), ".");
	*fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return *fd < 0 ? err_sys(e, -errno, "folder %s", dir) : 0;
}

int snapstore_create(const char *name, int *fd, struct err *e)
{
	char path[PATH_MAX], dir[PATH_MAX];
	int rc = snapstore_path(name, path, sizeof(path), e);

	if (!rc)
		rc = fs_place_make(FS_DATA, dir, sizeof(dir), e);
	if (!rc)
		rc = folder(dir, sizeof(dir), e);
	if (!rc)
		rc = fs_mkdir_p(dir, 0700, e);
	if (rc)
		return rc;
	if (!access(path, F_OK))
		return err_set(e, -EEXIST,
			"a snapshot %s is there already: choose another --name, or remove it: "
			"lodge "
			"snapshot rm %s",
			name, name);
	return snapstore_create_at(path, fd, e);
}

int snapstore_publish_at(int fd, const char *path, struct err *e)
{
	char self[40];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (fchmod(fd, 0400))
		return err_sys(e, -errno, "%s", path);
	if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW))
		return err_sys(e, -errno, "%s: giving the snapshot its name", path);
	return fs_sync_parent(path, e);
}

int snapstore_replace(int fd, const char *name, struct err *e)
{
	char path[PATH_MAX], temp[PATH_MAX + 16];
	int rc = snapstore_path(name, path, sizeof(path), e);

	snprintf(temp, sizeof(temp), "%s.%d", path, (int)getpid());
	rc = rc ?: snapstore_publish_at(fd, temp, e);
	if (!rc && rename(temp, path)) {
		rc = err_sys(e, -errno, "%s", path);
		unlink(temp);
	}
	return rc ?: fs_sync_parent(path, e);
}

int snapstore_publish(int fd, const char *name, struct err *e)
{
	char path[PATH_MAX];

	return snapstore_path(name, path, sizeof(path), e) ?: snapstore_publish_at(fd, path, e);
}

static int no_such(const char *name, struct err *e)
{
	cleanup(fs_names_free) struct fs_names names;
	const char *near;

	if (snapstore_names(&names, NULL))
		return err_set(e, -ENOENT, "there is no snapshot %s", name);
	near = spell_nearest(name, (const char *const *)names.v, names.n);
	return err_set(e, -ENOENT, "there is no snapshot %s%s%s%s", name,
		near ? "; did you mean " : "", near ?: "",
		near ? "?" : "; lodge snapshot ls lists those that there are");
}

int snapstore_remove(const char *name, struct err *e)
{
	char path[PATH_MAX];
	int rc = snapstore_path(name, path, sizeof(path), e);

	if (rc)
		return rc;
	if (unlink(path))
		return errno == ENOENT ? no_such(name, e) : err_sys(e, -errno, "%s", path);
	return fs_sync_parent(path, e);
}

static int read_manifest(struct snapopen *s, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	size_t len;
	int rc = snapfile_section(s->file, SNAPFILE_S_MANIFEST, &text, &len, e);

	if (!rc)
		rc = json_parse(text, len, &s->manifest, e);
	if (!rc && !json_is_object(s->manifest))
		rc = err_set(e, -EBADMSG, "its manifest is not an object");
	return rc;
}

int snapstore_open(const char *arg, struct snapopen *out, struct err *e)
{
	int rc = 0;

	memset(out, 0, sizeof(*out));
	if (!strchr(arg, '/'))
		rc = snapstore_path(arg, out->path, sizeof(out->path), e);
	else if (!strncmp(arg, "/proc/", 6)) /* a file without a name has no other path */
		snprintf(out->path, sizeof(out->path), "%s", arg);
	else if (!realpath(arg, out->path))
		rc = err_sys(e, -errno, "%s", arg);
	if (rc)
		return rc;
	if (!strchr(arg, '/') && access(out->path, F_OK) && errno == ENOENT)
		return no_such(arg, e);
	rc = snapfile_open_path(&out->file, out->path, e);
	if (rc)
		return rc;
	rc = read_manifest(out, e);
	if (rc) {
		snapopen_close(out);
		return err_wrap(e, "%s", arg);
	}
	return 0;
}

void snapopen_close(struct snapopen *s)
{
	snapfile_close(s->file);
	json_decref(s->manifest);
	s->file = NULL;
	s->manifest = NULL;
}
