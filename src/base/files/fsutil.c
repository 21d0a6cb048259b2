#include "base/fsutil.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/util.h"

static int read_all(int fd, const char *path, size_t max, char **out, size_t *len, struct err *e)
{
	size_t cap = MIN((size_t)4096, max) + 2, n = 0;
	cleanup(free_ptr) char *buf = malloc(cap);

	while (buf) {
		ssize_t got = read(fd, buf + n, cap - 1 - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_sys(e, -errno, "read %s", path);
		n += (size_t)got;
		if (n > max)
			return err_set(e, -EFBIG, "%s is larger than %zu bytes", path, max);
		if (!got) {
			buf[n] = '\0';
			*out = steal_ptr(buf);
			if (len)
				*len = n;
			return 0;
		}
		if (n == cap - 1) {
			/* one byte more than allowed, so that too large is told from just fits */
			size_t bigger = MIN(cap * 2, max + 2);
			char *p = realloc(buf, bigger);

			if (!p)
				break;
			buf = p;
			cap = bigger;
		}
	}
	return err_set(e, -ENOMEM, "%s: out of memory", path);
}

int fs_read_file(const char *path, size_t max, char **out, size_t *len, struct err *e)
{
	/* O_NONBLOCK: a FIFO without writer must not hang us */
	cleanup(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return err_sys(e, -errno, "open %s", path);
	if (fstat(fd, &st))
		return err_sys(e, -errno, "stat %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
			"%s is not a regular file", path);
	return read_all(fd, path, MIN(max, (size_t)SSIZE_MAX - 2), out, len, e);
}

/* The directory part of `path`: "." when it has none. */
static int parent(char *dir, size_t size, const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;

	if (n >= size)
		return err_sys(e, -ENAMETOOLONG, "%s", path);
	if (!slash)
		return snprintf(dir, size, "."), 0;
	memcpy(dir, path, n);
	dir[n] = '\0';
	if (!n)
		snprintf(dir, size, "/");
	return 0;
}

int fs_sync_parent(const char *path, struct err *e)
{
	char dir[PATH_MAX];
	cleanup(close_fd) int fd = -1;
	int r = parent(dir, sizeof(dir), path, e);

	if (r)
		return r;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		return err_sys(e, -errno, "sync %s", dir);
	return 0;
}

static int replace(
	const char *path, const void *data, size_t len, mode_t mode, bool durable, struct err *e)
{
	char tmp[PATH_MAX];
	cleanup(close_fd) int fd = -1;
	int r;

	if (snprintf(tmp, sizeof(tmp), "%s.XXXXXX", path) >= (int)sizeof(tmp))
		return err_sys(e, -ENAMETOOLONG, "%s", path);
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, -errno, "write %s", path);
	r = fchmod(fd, mode) ? -errno : fs_write_all(fd, data, len);
	if (!r && durable && fsync(fd))
		r = -errno;
	if (!r && rename(tmp, path))
		r = -errno;
	if (r) {
		unlink(tmp);
		return err_sys(e, r, "write %s", path);
	}
	return 0;
}

int fs_write_file_atomic(const char *path, const void *data, size_t len, mode_t mode, struct err *e)
{
	return replace(path, data, len, mode, true, e) ?: fs_sync_parent(path, e);
}

int fs_write_file_volatile(
	const char *path, const void *data, size_t len, mode_t mode, struct err *e)
{
	return replace(path, data, len, mode, false, e);
}

int fs_mkdir_p(const char *path, mode_t mode, struct err *e)
{
	char part[PATH_MAX];
	size_t len = strlen(path);
	struct stat st;

	if (!len || len >= sizeof(part))
		return err_sys(e, len ? -ENAMETOOLONG : -ENOENT, "make directory \"%s\"", path);
	memcpy(part, path, len + 1);
	for (char *p = part + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = '\0';
		if (mkdir(part, mode) && errno != EEXIST)
			return err_sys(e, -errno, "make directory %s", part);
		*p = c;
		if (!c)
			break;
	}
	if (stat(path, &st) || !S_ISDIR(st.st_mode))
		return err_sys(e, -ENOTDIR, "make directory %s", path);
	return 0;
}

static const char *env(const char *name)
{
	const char *v = getenv(name);

	/* the XDG specification: paths that are not absolute are ignored */
	return v && v[0] == '/' ? v : NULL;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_name(struct fs_names *names, const char *name)
{
	char **more = realloc(names->v, (names->n + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	names->v = more;
	more[names->n] = strdup(name);
	return more[names->n] ? (names->n++, 0) : -ENOMEM;
}

int fs_list(const char *path, bool (*accept)(char *name), struct fs_names *out, struct err *e)
{
	DIR *d = opendir(path);
	int rc = 0;

	*out = (struct fs_names){0};
	if (!d)
		return errno == ENOENT ? 0 : err_sys(e, -errno, "%s", path);
	for (struct dirent *de; !rc && (de = readdir(d));)
		if (de->d_name[0] != '.' && accept(de->d_name))
			rc = add_name(out, de->d_name);
	closedir(d);
	if (rc)
		return err_set(e, rc, "%s: no memory for its names", path);
	if (out->n)
		qsort(out->v, out->n, sizeof(*out->v), by_text);
	return 0;
}

void fs_names_free(struct fs_names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->v[i]);
	free(names->v);
	*names = (struct fs_names){0};
}

int fs_place_path(enum fs_place place, char *path, size_t size, struct err *e)
{
	static const struct {
		const char *sub, *root, *xdg, *home;
	} places[] = {
		[FS_RUNTIME] = {"run", "/run/lodge", "XDG_RUNTIME_DIR", NULL},
		[FS_DATA] = {"data", "/var/lib/lodge", "XDG_DATA_HOME", ".local/share"},
		[FS_CACHE] = {"cache", "/var/cache/lodge", "XDG_CACHE_HOME", ".cache"},
	};
	int n;

	if (env("LODGE_HOME"))
		n = snprintf(path, size, "%s/%s", env("LODGE_HOME"), places[place].sub);
	else if (env(places[place].xdg))
		n = snprintf(path, size, "%s/lodge", env(places[place].xdg));
	else if (geteuid() == 0)
		n = snprintf(path, size, "%s", places[place].root);
	else if (place == FS_RUNTIME)
		n = snprintf(path, size, "/tmp/lodge-%u", (unsigned)geteuid());
	else if (env("HOME"))
		n = snprintf(path, size, "%s/%s/lodge", env("HOME"), places[place].home);
	else
		return err_set(e, -ENOENT, "cannot tell where to keep files: set HOME or %s",
			places[place].xdg);
	if (n < 0 || (size_t)n >= size)
		return err_set(e, -ENAMETOOLONG, "the path of Lodge's %s directory is too long",
			places[place].sub);
	return 0;
}

int fs_place_make(enum fs_place place, char *path, size_t size, struct err *e)
{
	mode_t mode = geteuid() == 0 && place != FS_RUNTIME ? 0755 : 0700;
	struct stat st;
	int r = fs_place_path(place, path, size, e);

	if (r || (r = fs_mkdir_p(path, mode, e)))
		return r;
	/* /tmp is everybody's: a directory that another user put there is not ours to trust */
	if (lstat(path, &st))
		return err_sys(e, -errno, "stat %s", path);
	if (place == FS_RUNTIME && (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
					   (st.st_mode & (S_IWGRP | S_IWOTH))))
		return err_set(e, -EPERM,
			"%s is a link, belongs to another user or is writable for others: remove "
			"it",
			path);
	return 0;
}

void fs_hold_stdio(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0) /* the lowest that is free is this one */
			open("/dev/null", fd ? O_RDONLY : O_WRONLY);
}
