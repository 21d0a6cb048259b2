/* write_all.c: fs_write_all() (fsutil.h) alone: lodge-agent is built with it, and with nothing else of base. */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "base/fsutil.h"

int fs_write_all(int fd, const void *buf, size_t len)
{
	const char *data = buf;

	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			poll(&(struct pollfd){fd, POLLOUT, 0}, 1, -1);
			continue;
		}
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}
