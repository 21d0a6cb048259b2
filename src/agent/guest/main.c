/*
 * lodge-agent: Lodge's hand inside a guest. Listens on virtio-vsock, port 1024; proto.h says what it answers.
 *
 *	lodge-agent [--fork]	--fork: into the background once it listens (init scripts without a supervisor)
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest/agent.h"

#ifndef AGENT_BUILD
#define AGENT_BUILD "unknown"
#endif
#define CHILDREN_MAX 64

static struct peer peer;

void peer_send(struct peer *p)
{
	size_t at = 0;

	if (!agent_finish(&p->out))
		_exit(1);
	while (at < p->out.len) {
		ssize_t n = send(p->fd, p->out.buf + at, p->out.len - at, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			poll(&(struct pollfd){p->fd, POLLOUT, 0}, 1, -1);
			continue;
		}
		if (n <= 0)
			_exit(1);
		at += (size_t)n;
	}
}

void peer_next(struct peer *p)
{
	int r;

	while (!(r = agent_next(&p->in))) {
		size_t room;
		void *to = agent_room(&p->in, &room);
		ssize_t n = read(p->fd, to, room);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			poll(&(struct pollfd){p->fd, POLLIN, 0}, 1, -1);
			continue;
		}
		if (n <= 0)
			exit(0); /* runs what was registered: a thaw */
		agent_got(&p->in, (size_t)n);
	}
	if (r < 0)
		peer_bad(p, "not a frame");
}

void peer_ok(struct peer *p, uint64_t value)
{
	agent_begin(&p->out, AGENT_OK);
	agent_put_u64(&p->out, value);
	peer_send(p);
}

void peer_error(struct peer *p, int err, const char *what, const char *path)
{
	char text[512];

	snprintf(text, sizeof(text), "%s%s%.300s: %s", what, path ? ": " : "", path ?: "",
		strerror(err));
	agent_begin(&p->out, AGENT_ERROR);
	agent_put_u32(&p->out, (uint32_t)err);
	agent_put_text(&p->out, text);
	peer_send(p);
}

_Noreturn void peer_bad(struct peer *p, const char *what)
{
	peer_error(p, EPROTO, what, NULL);
	exit(1);
}

void peer_check(struct peer *p)
{
	if (!agent_complete(&p->in))
		peer_bad(p, "a request that is too short or too long");
}

static const struct {
	enum agent_type type;
	void (*serve)(struct peer *p);
} requests[] = {
	{AGENT_EXEC, serve_exec},
	{AGENT_PUT, serve_put},
	{AGENT_GET, serve_get},
	{AGENT_LIST, serve_list},
	{AGENT_MKDIR, serve_mkdir},
	{AGENT_SYMLINK, serve_symlink},
	{AGENT_STAT, serve_stat},
	{AGENT_TIME, serve_time},
	{AGENT_IDENTITY, serve_identity},
	{AGENT_FREEZE, serve_freeze},
	{AGENT_POWER, serve_power},
	{AGENT_INFO, serve_info},
	{AGENT_HOLD, serve_hold},
	{AGENT_RELEASE, serve_release},
	{AGENT_ADDRESS, serve_address},
};

static _Noreturn void serve(int fd)
{
	struct peer *p = &peer;

	p->fd = fd;
	agent_begin(&p->out, AGENT_HELLO);
	agent_put_u32(&p->out, AGENT_VERSION);
	agent_put_u32(&p->out, AGENT_F_EXEC | AGENT_F_FILES | AGENT_F_TIME | AGENT_F_IDENTITY |
				       AGENT_F_FREEZE | AGENT_F_POWER | AGENT_F_CLONE);
	agent_put_text(&p->out, AGENT_BUILD);
	peer_send(p);
	/* Requests follow each other until the client goes. */
	for (;;) {
		size_t i = 0;

		peer_next(p);
		while (i < sizeof(requests) / sizeof(*requests) && requests[i].type != p->in.type)
			i++;
		if (i == sizeof(requests) / sizeof(*requests))
			peer_bad(p, "an unknown request");
		requests[i].serve(p);
	}
}

static int listen_on(void)
{
	struct sockaddr_vm sa = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		fprintf(stderr, "lodge-agent: vsock: %s (is vmw_vsock_virtio_transport loaded?)\n",
			strerror(errno));
		exit(1);
	}
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) || listen(fd, 64)) {
		fprintf(stderr, "lodge-agent: vsock port %u: %s\n", AGENT_PORT, strerror(errno));
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	int lfd, children = 0;

	if (argc > 1 && !strcmp(argv[1], "--version")) {
		printf("lodge-agent %s, protocol %u\n", AGENT_BUILD, AGENT_VERSION);
		return 0;
	}
	if (argc > 2 || (argc == 2 && strcmp(argv[1], "--fork"))) {
		fprintf(stderr, "usage: lodge-agent [--fork | --version]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	lfd = listen_on();
	if (argc == 2 && daemon(0, 0))
		return 1;
	for (;;) {
		int fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
		pid_t pid;

		while (children && waitpid(-1, NULL, children >= CHILDREN_MAX ? 0 : WNOHANG) > 0)
			children--;
		if (fd < 0) {
			/* Out of descriptors or memory: for a while. */
			if (errno != EINTR && errno != ECONNABORTED)
				nanosleep(&(struct timespec){0, 100000000}, NULL);
			continue;
		}
		pid = fork();
		if (!pid) {
			close(lfd);
			serve(fd);
		}
		if (pid > 0)
			children++;
		close(fd);
	}
}
