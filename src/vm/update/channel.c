#include "vm/update/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fdlist.h"
#include "base/util.h"

#define PER_PACKET 100u

static int packet(int sock, const void *buf, size_t len, const int *fds, unsigned nfds)
{
	struct iovec iov = {(void *)(uintptr_t)buf, len};
	union {
		char buf[CMSG_SPACE(PER_PACKET * sizeof(int))];
		struct cmsghdr align;
	} u = {{0}};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds) {
		struct cmsghdr *c;

		m.msg_control = u.buf;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	while (sendmsg(sock, &m, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int channel_send(int sock, json_t *msg, const struct fdlist *fds, struct err *e)
{
	cleanup(free_ptr) char *text = json_dumps(msg, JSON_COMPACT);
	int rc = 0;

	json_decref(msg);
	if (!text || strlen(text) > CHANNEL_MAX)
		return err_set(e, -EMSGSIZE, "update: a message is too long");
	for (unsigned i = 0; !rc && fds && i < fds->n; i += PER_PACKET)
		rc = packet(sock, "+", 1, fds->fd + i, MIN(fds->n - i, PER_PACKET));
	if (!rc)
		rc = packet(sock, text, strlen(text), NULL, 0);
	return rc ? err_sys(e, rc, "update: the other process") : 0;
}

/* Descriptors that nobody expects are closed. */
static void take_fds(struct msghdr *m, struct fdlist *fds)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		unsigned n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (unsigned i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (!fds || fdlist_add(fds, fd) < 0)
				close(fd);
		}
	}
}

/* The length of a packet; 0: the other side has gone. */
static ssize_t next(int sock, int timeout_ms, char *buf, size_t size, struct fdlist *fds)
{
	struct pollfd p = {sock, POLLIN, 0};
	struct iovec iov = {buf, size};
	union {
		char buf[CMSG_SPACE(PER_PACKET * sizeof(int))];
		struct cmsghdr align;
	} u;
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = u.buf,
		.msg_controllen = sizeof(u.buf)};
	ssize_t n;
	int rc;

	do
		rc = poll(&p, 1, timeout_ms);
	while (rc < 0 && errno == EINTR);
	if (rc <= 0)
		return rc ? -errno : -ETIMEDOUT;
	do
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	/* ECONNRESET, once: the other side ended with something unread. What it had said before is still there. */
	while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n < 0)
		return -errno;
	take_fds(&m, fds);
	return m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EPROTO : n;
}

int channel_receive(int sock, int timeout_ms, json_t **msg, struct fdlist *fds, struct err *e)
{
	cleanup(free_ptr) char *buf = malloc(CHANNEL_MAX);
	ssize_t n;

	if (!buf)
		return err_set(e, -ENOMEM, "update: out of memory");
	do
		n = next(sock, timeout_ms, buf, CHANNEL_MAX, fds);
	while (n == 1 && *buf == '+');
	*msg = n > 0 ? json_loadb(buf, (size_t)n, JSON_REJECT_DUPLICATES, NULL) : NULL;
	if (json_is_object(*msg))
		return 0;
	json_decref(*msg);
	*msg = NULL;
	if (fds)
		fdlist_close(fds);
	if (!n)
		return err_set(e, -EPIPE, "update: the other process has gone");
	if (n == -ETIMEDOUT)
		return err_set(e, -ETIMEDOUT, "update: the other process does not answer");
	return err_set(e, n < 0 ? (int)n : -EPROTO,
		"update: the other process said something that is "
		"not of an update");
}

struct update_page *update_page_map(int fd)
{
	void *p = mmap(NULL, sizeof(struct update_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

void update_page_unmap(struct update_page *p)
{
	if (p)
		munmap(p, sizeof(*p));
}

uint32_t update_page_decide(struct update_page *p, uint32_t want)
{
	uint32_t open = UPDATE_OPEN;

	return atomic_compare_exchange_strong(&p->word, &open, want) ? want : open;
}
