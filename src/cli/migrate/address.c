#include "cli/migrate/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/unix_socket.h"
#include "base/util.h"

#define BACKLOG 8

static int parse_unix(struct address *a, const char *path, struct err *e)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&a->sa;

	if (!*path || unix_address(un, path, NULL))
		return err_set(e, -EINVAL, "unix:PATH: a path of 1 to %u bytes", UNIX_PATH_LONGEST);
	a->len = sizeof(*un);
	return 0;
}

/* Only what nobody could resolve is wrong usage: a name server may be there again, a name be made. */
static int gai_code(int rc)
{
	switch (rc) {
	case EAI_NONAME:
		return -ENOENT;
	case EAI_AGAIN:
		return -EAGAIN;
	case EAI_SERVICE:
		return -EINVAL;
	default:
		return -EIO;
	}
}

static int parse_tcp(struct address *a, const char *text, struct err *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai = NULL;
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	int rc;

	if (n > 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	if (!n || !colon[1] || n >= sizeof(a->host))
		return err_set(e, -EINVAL, "tcp:HOST:PORT, as in tcp:node2:7070");
	memcpy(a->host, text, n);
	a->host[n] = 0;
	/* What resolves names takes 99999 for 34463. */
	if (strspn(colon + 1, "0123456789") == strlen(colon + 1) &&
		strtoul(colon + 1, NULL, 10) > UINT16_MAX)
		return err_set(e, -EINVAL, "%s: a port is a number up to %u", a->text, UINT16_MAX);
	rc = getaddrinfo(a->host, colon + 1, &hints, &ai);
	if (rc)
		return err_set(e, gai_code(rc), "%s: %s", a->text, gai_strerror(rc));
	memcpy(&a->sa, ai->ai_addr, ai->ai_addrlen);
	a->len = ai->ai_addrlen;
	freeaddrinfo(ai);
	return 0;
}

int address_parse(struct address *a, const char *text, struct err *e)
{
	*a = (struct address){0};
	snprintf(a->text, sizeof(a->text), "%s", text);
	if (!strncmp(text, "unix:", 5))
		return parse_unix(a, text + 5, e);
	if (!strncmp(text, "tcp:", 4))
		return parse_tcp(a, text + 4, e);
	return err_set(e, -EINVAL, "'%s' is no address: unix:PATH or tcp:HOST:PORT", text);
}

static bool is_here(const struct address *a)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&a->sa;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->sa;

	if (a->sa.ss_family == AF_INET)
		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	return a->sa.ss_family == AF_UNIX || IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

int address_allowed(const struct address *a, bool tls, bool plain, struct err *e)
{
	if (tls || plain || is_here(a))
		return 0;
	return err_set(e, -EPERM,
		"%s: without TLS everybody on the way can read the guest's memory and change it: "
		"give --tls-cert, --tls-key and --tls-ca on both sides, or --plain where the "
		"network is trusted",
		a->text);
}

int address_connect(const struct address *a, int *fd, struct err *e)
{
	*fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return err_sys(e, -errno, "%s", a->text);
	while (connect(*fd, (const struct sockaddr *)&a->sa, a->len)) {
		int code = -errno;

		if (code == -EINTR)
			continue;
		close(*fd);
		*fd = -1;
		return code == -ENOENT || code == -ECONNREFUSED
			       ? err_set(e, code,
					 "%s: nobody waits there for a machine: begin with `lodge "
					 "receive NAME %s`",
					 a->text, a->text)
			       : err_sys(e, code, "%s", a->text);
	}
	return 0;
}

/* A descriptor, or a negative errno. */
static int listen_at(const struct address *a)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
	cleanup(close_fd) int fd = -1;
	int one = 1;

	if (a->sa.ss_family == AF_UNIX) {
		unix_clear(un->sun_path); /* what a receiver that was killed has left */
		return unix_listen(un->sun_path, SOCK_STREAM, BACKLOG, NULL);
	}
	fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
		bind(fd, (const struct sockaddr *)&a->sa, a->len) || listen(fd, BACKLOG))
		return -errno;
	return steal_fd(&fd);
}

int address_listen(struct address *a, int *fd, struct err *e)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&a->sa;
	socklen_t len = sizeof(a->sa);
	int rc = listen_at(a);

	*fd = MAX(rc, -1);
	if (rc == -EADDRINUSE)
		return err_set(e, -EBUSY, "%s: somebody has it already: choose another address%s",
			a->text,
			a->sa.ss_family == AF_UNIX ? ", or remove a file of that name" : "");
	if (rc < 0)
		return err_sys(e, rc, "%s", a->text);
	if (a->sa.ss_family != AF_UNIX && !getsockname(*fd, (struct sockaddr *)&a->sa, &len))
		snprintf(a->text, sizeof(a->text),
			strchr(a->host, ':') ? "tcp:[%s]:%u" : "tcp:%s:%u", a->host,
			ntohs(in->sin_port)); /* where both kinds have it */
	return 0;
}
