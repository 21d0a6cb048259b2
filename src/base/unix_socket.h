/*
 * unix_socket.h: Unix sockets that have a path: who connects, who listens, what a dead process has left.
 *
 * `type` is SOCK_STREAM or SOCK_SEQPACKET, with SOCK_NONBLOCK or without. Descriptors close on exec and are the caller's. What fails answers a negative
 * errno and names the path; -ENAMETOOLONG also says how long one may be. Any thread.
 */
#ifndef LODGE_BASE_UNIX_SOCKET_H
#define LODGE_BASE_UNIX_SOCKET_H

#include <sys/un.h>

struct err;

#define UNIX_PATH_LONGEST ((unsigned)sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

/* -ENAMETOOLONG. sun_path ends with a NUL. */
int unix_address(struct sockaddr_un *sa, const char *path, struct err *e);
/* A descriptor. -ENOENT, -ECONNREFUSED: nobody listens there; -EAGAIN: SOCK_NONBLOCK, and who listens has too many who wait. */
int unix_connect(const char *path, int type, struct err *e);
/* A descriptor. The socket's file is made, with mode 0600 from its first moment on. -EADDRINUSE: there is something of that name: unix_clear(). */
int unix_listen(const char *path, int type, int backlog, struct err *e);
/* Removes a socket at which nobody listens any more; anything else stays. -EADDRINUSE: somebody does, perhaps one who has no time to answer. */
int unix_clear(const char *path);

#endif
