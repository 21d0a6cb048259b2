/*
 * fdlist.h: descriptors that go from one process to another beside a message, which names them by their place in the list.
 *
 * Who sends adds borrowed ones; who receives owns those in the list, and takes each at most once. Not synchronized.
 */
#ifndef LODGE_BASE_FDLIST_H
#define LODGE_BASE_FDLIST_H

#define FDLIST_MAX 4096u

struct fdlist {
	int *fd;
	unsigned n, room;
};

/* The place of `fd` in the list; -1: fd is negative, or there is no room. */
int fdlist_add(struct fdlist *l, int fd);
/* The descriptor at a place, now the caller's; -1: there is none, or it was taken. */
int fdlist_take(struct fdlist *l, long long place);
/*
 * The same for what must be a connected stream socket; -1 as well when it is something else, which stays in the list: an event loop ends the
 * process over what it cannot wait for.
 */
int fdlist_take_stream(struct fdlist *l, long long place);
/* Closes those that are left, and frees. */
void fdlist_close(struct fdlist *l);
/* Frees; the descriptors are somebody else's. */
void fdlist_free(struct fdlist *l);

#endif
