#include "base/fdlist.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int fdlist_add(struct fdlist *l, int fd)
{
	if (fd < 0 || l->n == FDLIST_MAX)
		return -1;
	if (l->n == l->room) {
		unsigned room = l->room ? 2 * l->room : 16;
		int *more = realloc(l->fd, room * sizeof(*more));

		if (!more)
			return -1;
		l->fd = more;
		l->room = room;
	}
	l->fd[l->n] = fd;
	return (int)l->n++;
}

int fdlist_take(struct fdlist *l, long long place)
{
	int fd;

	if (place < 0 || place >= l->n)
		return -1;
	fd = l->fd[place];
	l->fd[place] = -1;
	return fd;
}

int fdlist_take_stream(struct fdlist *l, long long place)
{
	int type = 0, listens = 0;
	socklen_t len = sizeof(type);

	if (place < 0 || place >= l->n || l->fd[place] < 0 ||
		getsockopt(l->fd[place], SOL_SOCKET, SO_TYPE, &type, &len) ||
		getsockopt(l->fd[place], SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) ||
		type != SOCK_STREAM || listens)
		return -1;
	return fdlist_take(l, place);
}

void fdlist_free(struct fdlist *l)
{
	free(l->fd);
	*l = (struct fdlist){0};
}

void fdlist_close(struct fdlist *l)
{
	for (unsigned i = 0; i < l->n; i++)
		if (l->fd[i] >= 0)
			close(l->fd[i]);
	fdlist_free(l);
}
