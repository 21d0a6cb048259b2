/* PUT, GET, LIST, MKDIR, SYMLINK, STAT: files. What is put appears at once or not at all (temporary name, then rename). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fsutil.h"
#include "guest/agent.h"

static uint64_t ns(struct timespec t)
{
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void tell_file(struct peer *p, const char *path, const struct stat *st)
{
	char target[PATH_MAX] = "";

	if (S_ISLNK(st->st_mode) && readlink(path, target, sizeof(target) - 1) < 0)
		target[0] = 0;
	agent_begin(&p->out, AGENT_FILE);
	agent_put_u32(&p->out, st->st_mode);
	agent_put_u64(&p->out, (uint64_t)st->st_size);
	agent_put_u64(&p->out, ns(st->st_mtim));
	agent_put_text(&p->out, target);
	peer_send(p);
}

void serve_stat(struct peer *p)
{
	char *path = agent_get_text(&p->in);
	struct stat st;

	peer_check(p);
	if (lstat(path, &st))
		peer_error(p, errno, "stat", path);
	else
		tell_file(p, path, &st);
	free(path);
}

void serve_mkdir(struct peer *p)
{
	char *path = agent_get_text(&p->in);
	mode_t mode = agent_get_u32(&p->in) & 07777;
	struct stat st;

	peer_check(p);
	if (mkdir(path, mode) && (errno != EEXIST || stat(path, &st) || !S_ISDIR(st.st_mode)))
		peer_error(p, errno, "mkdir", path);
	else
		peer_ok(p, 0);
	free(path);
}

void serve_symlink(struct peer *p)
{
	char *path = agent_get_text(&p->in), *target = agent_get_text(&p->in);
	struct stat st;

	peer_check(p);
	if (!lstat(path, &st) && S_ISLNK(st.st_mode))
		unlink(path);
	if (symlink(target, path))
		peer_error(p, errno, "symlink", path);
	else
		peer_ok(p, 0);
	free(path);
	free(target);
}

void serve_list(struct peer *p)
{
	char *path = agent_get_text(&p->in);
	struct dirent *d;
	struct stat st;
	DIR *dir;

	peer_check(p);
	dir = opendir(path);
	if (!dir) {
		peer_error(p, errno, "list", path);
		free(path);
		return;
	}
	while ((d = readdir(dir))) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, "..") ||
			fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		agent_begin(&p->out, AGENT_ENTRY);
		agent_put_u32(&p->out, st.st_mode);
		agent_put_u64(&p->out, (uint64_t)st.st_size);
		agent_put_u64(&p->out, ns(st.st_mtim));
		agent_put_text(&p->out, d->d_name);
		peer_send(p);
	}
	closedir(dir);
	agent_begin(&p->out, AGENT_END);
	peer_send(p);
	free(path);
}

void serve_get(struct peer *p)
{
	char *path = agent_get_text(&p->in), buf[AGENT_DATA_MAX];
	struct stat st;
	ssize_t n;
	int fd;

	peer_check(p);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hold us */
	if (fd < 0 || fstat(fd, &st)) {
		peer_error(p, errno, "open", path);
	} else if (!S_ISREG(st.st_mode)) {
		peer_error(p, S_ISDIR(st.st_mode) ? EISDIR : EINVAL, "not a regular file", path);
	} else {
		tell_file(p, path, &st);
		while ((n = read(fd, buf, sizeof(buf))) > 0) {
			agent_begin(&p->out, AGENT_DATA);
			agent_put_rest(&p->out, buf, (size_t)n);
			peer_send(p);
		}
		if (n < 0) {
			peer_error(p, errno, "read", path);
		} else {
			agent_begin(&p->out, AGENT_END);
			peer_send(p);
		}
	}
	if (fd >= 0)
		close(fd);
	free(path);
}

static char put_temp[PATH_MAX + 16]; /* the file that is being written; "" none */

static void drop_temp(void)
{
	if (*put_temp)
		unlink(put_temp);
}

/* Takes the data to its end even when writing failed, so that the client hears why. */
static int take_data(struct peer *p, int fd)
{
	int err = 0;

	for (;;) {
		peer_next(p);
		if (p->in.type == AGENT_END)
			return err;
		if (p->in.type != AGENT_DATA)
			peer_bad(p, "not the data of a file");
		if (!err)
			err = -fs_write_all(fd, p->in.payload, p->in.left);
	}
}

void serve_put(struct peer *p)
{
	char *path = agent_get_text(&p->in);
	mode_t mode = agent_get_u32(&p->in) & 07777;
	uint64_t mtime = agent_get_u64(&p->in);
	struct timespec t[2] = {{.tv_nsec = UTIME_NOW},
		{(time_t)(mtime / 1000000000u), (long)(mtime % 1000000000u)}};
	static bool registered;
	struct stat st;
	int fd = -1, err = 0, taken;
	bool other;

	peer_check(p);
	if (!registered)
		registered = !atexit(drop_temp);
	/* A device would make way for a file of its name. */
	other = !stat(path, &st) && !S_ISREG(st.st_mode);
	if (other)
		err = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
	snprintf(put_temp, sizeof(put_temp), "%.*s.XXXXXX", PATH_MAX, path);
	if (!err && (fd = mkostemp(put_temp, O_CLOEXEC)) < 0)
		err = errno;
	if (err)
		put_temp[0] = 0;
	taken = take_data(p, fd); /* the data comes in any case */
	err = err ?: taken;
	if (!err && (fchmod(fd, mode) || (mtime && futimens(fd, t)) || fsync(fd) ||
			    rename(put_temp, path)))
		err = errno;
	if (fd >= 0)
		close(fd);
	if (err)
		drop_temp();
	put_temp[0] = 0;
	if (err)
		peer_error(p, err, other ? "not a regular file" : "put", path);
	else
		peer_ok(p, 0);
	free(path);
}
