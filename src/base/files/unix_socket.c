#include "base/unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

int unix_address(struct sockaddr_un *sa, const char *path, struct err *e)
{
	size_t n = strlen(path);

	*sa = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (n > UNIX_PATH_LONGEST)
		return err_set(e, -ENAMETOOLONG,
			"%s: these are %zu bytes, and the path of a Unix socket may have %u", path,
			n, UNIX_PATH_LONGEST);
	memcpy(sa->sun_path, path, n + 1);
	return 0;
}

/* Not yet at its path. */
static int make(struct sockaddr_un *sa, const char *path, int type, struct err *e)
{
	int rc = unix_address(sa, path, e), fd = rc ? -1 : socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	return rc || fd >= 0 ? rc ?: fd : err_sys(e, -errno, "%s", path);
}

int unix_connect(const char *path, int type, struct err *e)
{
	struct sockaddr_un sa;
	cleanup(close_fd) int fd = make(&sa, path, type, e);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)&sa, sizeof(sa)))
		return err_sys(e, -errno, "%s", path);
	return steal_fd(&fd);
}

int unix_listen(const char *path, int type, int backlog, struct err *e)
{
	struct sockaddr_un sa;
	cleanup(close_fd) int fd = make(&sa, path, type, e);
	int rc;

	if (fd < 0)
		return fd;
	/* The file takes the mode that the socket has. */
	if (fchmod(fd, 0600) || bind(fd, (const struct sockaddr *)&sa, sizeof(sa)))
		return err_sys(e, -errno, "%s", path);
	if (listen(fd, backlog)) {
		rc = err_sys(e, -errno, "%s", path);
		unlink(path);
		return rc;
	}
	return steal_fd(&fd);
}

int unix_clear(const char *path)
{
	struct stat st;
	int fd;

	if (lstat(path, &st) || !S_ISSOCK(st.st_mode))
		return 0;
	fd = unix_connect(path, SOCK_STREAM | SOCK_NONBLOCK, NULL);
	if (fd >= 0)
		close(fd);
	if (fd == -ECONNREFUSED)
		return unlink(path) ? -errno : 0;
	return fd == -ENOENT ? 0 : -EADDRINUSE;
}
