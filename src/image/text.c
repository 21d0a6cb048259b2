#include "image/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsutil.h"
#include "base/util.h"

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

struct slice slice_trim(struct slice s)
{
	while (s.n && blank(s.p[0])) {
		s.p++;
		s.n--;
	}
	while (s.n && blank(s.p[s.n - 1]))
		s.n--;
	return s;
}

bool slice_word(struct slice *rest, struct slice *word)
{
	size_t n = 0;

	*rest = slice_trim(*rest);
	if (!rest->n)
		return false;
	while (n < rest->n && !blank(rest->p[n]))
		n++;
	*word = (struct slice){rest->p, n};
	rest->p += n;
	rest->n -= n;
	return true;
}

char *slice_dup(struct slice s)
{
	char *t = malloc(s.n + 1);

	/* Not strndup(): a slice has no NUL, and checkers of strings look for one. */
	if (!t)
		return NULL;
	memcpy(t, s.p ?: "", s.n);
	t[s.n] = 0;
	return t;
}

int slice_cmp(struct slice a, struct slice b)
{
	size_t n = MIN(a.n, b.n);
	int r = n ? memcmp(a.p, b.p, n) : 0;

	if (r)
		return r;
	return a.n < b.n ? -1 : a.n > b.n;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
	if (b->oom || n > SIZE_MAX / 4 - b->n) {
		b->oom = true;
		return;
	}
	if (b->n + n + 1 > b->cap) {
		size_t cap = MAX(b->cap * 2 + 64, b->n + n + 1);
		char *q = realloc(b->p, cap);

		if (!q) {
			b->oom = true;
			return;
		}
		b->p = q;
		b->cap = cap;
	}
	if (n)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	b->p[b->n] = 0;
}

void buf_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_slice(struct buf *b, struct slice s)
{
	buf_add(b, s.p, s.n);
}

void buf_fmt(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->oom = true;
		return;
	}
	buf_add(b, s, (size_t)n);
	free(s);
}

void buf_free(struct buf *b)
{
	free(b->p);
	*b = (struct buf){0};
}

int buf_err(const struct buf *b, struct err *e)
{
	return b->oom ? err_set(e, -ENOMEM, "out of memory") : 0;
}

char *text_fmt(const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return s;
}

int whole_file_read(const char *path, size_t max, struct buf *out, struct err *e)
{
	cleanup(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
	char tmp[65536];
	ssize_t r;

	if (fd < 0)
		return err_sys(e, -errno, "read %s", path);
	while ((r = read(fd, tmp, sizeof(tmp))) != 0) {
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_sys(e, -errno, "read %s", path);
		if ((size_t)r > max - out->n)
			return err_set(
				e, -EFBIG, "read %s: larger than the %zu bytes allowed", path, max);
		buf_add(out, tmp, (size_t)r);
	}
	buf_add(out, "", 0);
	return buf_err(out, e);
}

int fd_write_all(int fd, const void *p, size_t n, const char *path, struct err *e)
{
	int rc = fs_write_all(fd, p, n);

	if (rc == -ENOSPC || rc == -EDQUOT)
		return err_sys(e, rc,
			"write %s (free some space, or put cache and images on another disk with "
			"XDG_CACHE_HOME and XDG_DATA_HOME; what was fetched is kept)",
			path);
	return rc ? err_sys(e, rc, "write %s", path) : 0;
}

int whole_file_write(
	const char *path, const void *p, size_t n, mode_t mode, bool sync, struct err *e)
{
	cleanup(free_ptr) char *tmp = text_fmt("%s.new%d", path, (int)getpid());
	cleanup(close_fd) int fd = -1;
	int r;

	if (!tmp)
		return err_set(e, -ENOMEM, "out of memory");
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0)
		return err_sys(e, -errno, "create %s", tmp);
	r = fd_write_all(fd, p, n, path, e);
	if (!r && sync && fsync(fd))
		r = err_sys(e, -errno, "write %s", path);
	if (!r && rename(tmp, path))
		r = err_sys(e, -errno, "rename %s", tmp);
	if (r)
		unlink(tmp);
	return r;
}

int dir_make(const char *path, mode_t mode, struct err *e)
{
	cleanup(free_ptr) char *s = strdup(path);
	char *c;

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	for (c = s + 1; *c; c++) {
		if (*c != '/')
			continue;
		*c = 0;
		if (mkdir(s, mode) && errno != EEXIST)
			return err_sys(e, -errno, "make directory %s", s);
		*c = '/';
	}
	if (mkdir(s, mode) && errno != EEXIST)
		return err_sys(e, -errno, "make directory %s", s);
	return 0;
}

/* Takes fd. Directories without search permission (0500 from a package) are opened for us first. */
static int remove_below(int fd, const char *what, struct err *e)
{
	DIR *d = fdopendir(fd);
	struct dirent *de;
	int r = 0;

	if (!d) {
		close(fd);
		return err_sys(e, -errno, "remove %s", what);
	}
	fchmod(dirfd(d), 0700);
	while (!r && (de = readdir(d))) {
		int sub;

		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		if (!unlinkat(dirfd(d), de->d_name, 0))
			continue;
		if (errno != EISDIR && errno != EPERM) {
			r = err_sys(e, -errno, "remove %s/%s", what, de->d_name);
			break;
		}
		fchmodat(dirfd(d), de->d_name, 0700, 0);
		sub = openat(dirfd(d), de->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub < 0)
			r = err_sys(e, -errno, "remove %s/%s", what, de->d_name);
		else
			r = remove_below(sub, what, e);
		if (!r && unlinkat(dirfd(d), de->d_name, AT_REMOVEDIR))
			r = err_sys(e, -errno, "remove %s/%s", what, de->d_name);
	}
	closedir(d);
	return r;
}

int dir_remove(const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return err_sys(e, -errno, "remove %s", path);
	r = remove_below(fd, path, e);
	if (!r && rmdir(path) && errno != ENOENT)
		r = err_sys(e, -errno, "remove %s", path);
	return r;
}
