#include "base/fdlist.h"

#include <stdlib.h>
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
