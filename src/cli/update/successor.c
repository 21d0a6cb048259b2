#include "cli/update/successor.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fdlist.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "cli/ui/signals.h"
#include "vm/update/channel.h"

/* A Unix socket's path is short, a place's may be long: by the descriptor of its directory. */
void successor_open(struct successor *s, int place)
{
	char path[64];

	*s = (struct successor){-1, -1, 0, -1, NULL};
	unlinkat(place, SUCCESSOR_SOCKET, 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d/" SUCCESSOR_SOCKET, place);
	s->listening = unix_listen(path, SOCK_SEQPACKET | SOCK_NONBLOCK, 8, NULL);
}

void successor_poll(const struct successor *s, struct pollfd *p)
{
	p[0] = (struct pollfd){s->conn < 0 ? s->listening : -1, POLLIN, 0};
	p[1] = (struct pollfd){s->conn, POLLIN, 0};
	p[2] = (struct pollfd){s->pid ? s->pidfd : -1, POLLIN, 0};
}

/* How many seccomp filters a process is under; -1: unknown. */
static long filters_of(pid_t pid)
{
	cleanup(free_ptr) char *text = NULL;
	const char *at;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	if (fs_read_file(path, 65536, &text, NULL, NULL))
		return -1;
	at = strstr(text, "Seccomp_filters:");
	return at ? strtol(at + 16, NULL, 10) : 0;
}

static bool may_ask(int conn)
{
	struct ucred u;
	socklen_t len = sizeof(u);
	long theirs;

	if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &u, &len) || u.uid != geteuid())
		return false;
	theirs = filters_of(u.pid);
	return theirs >= 0 && theirs <= filters_of(getpid());
}

static void exec_new(int program, int sock)
{
	char arg[16], *argv[] = {(char[]){"lodge-vm"}, (char[]){"--take-over"}, arg, NULL};

	signals_of_child();
	snprintf(arg, sizeof(arg), "%d", sock);
	fcntl(sock, F_SETFD, 0);
	fexecve(program, argv, environ);
	channel_send(sock,
		json_pack("{s:s, s:i, s:s+}", "t", "failed", "errno", errno, "error",
			"update: the program cannot be started: ", strerrordesc_np(errno) ?: "?"),
		NULL, NULL);
	_exit(127); /* forked child */
}

/* The page both decide by, and a channel whose first message is the page. */
static int make_channel(struct successor *s, int pair[2], struct err *e)
{
	cleanup(close_fd) int page = memfd_create("update", MFD_CLOEXEC);
	struct fdlist fds = {0};
	int rc;

	if (page < 0 || ftruncate(page, 4096) || !(s->page = update_page_map(page)))
		return err_sys(e, -errno, "update");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, -errno, "update");
	fdlist_add(&fds, page);
	rc = channel_send(pair[1], json_pack("{s:s}", "t", "page"), &fds, e);
	fdlist_free(&fds);
	return rc;
}

static int start(struct successor *s, int program, struct err *e)
{
	struct fdlist fds = {0};
	int pair[2] = {-1, -1};
	int rc = make_channel(s, pair, e);

	if (!rc) {
		s->pid = fork();
		if (!s->pid)
			exec_new(program, pair[0]);
		if (s->pid < 0) {
			s->pid = 0;
			rc = err_sys(e, -errno, "update: fork");
		}
	}
	if (!rc) {
		s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
		fdlist_add(&fds, pair[1]);
		rc = channel_send(s->conn,
			json_pack("{s:s, s:i}", "t", "started", "pid", (int)s->pid), &fds, e);
		fdlist_free(&fds);
	}
	for (unsigned i = 0; i < 2; i++)
		if (pair[i] >= 0)
			close(pair[i]);
	return rc;
}

static void on_request(struct successor *s)
{
	cleanup(json_drop) json_t *msg = NULL;
	struct fdlist fds = {0};
	struct err e = {0};
	int rc = channel_receive(s->conn, 1000, &msg, &fds, &e), program = fdlist_take(&fds, 0);

	fdlist_close(&fds);
	if (rc) {
		successor_drop(s);
	} else if (s->pid || program < 0) {
		err_set(&e, -EBUSY, "update: another one is under way");
		rc = -EBUSY;
	} else {
		rc = start(s, program, &e);
	}
	if (program >= 0)
		close(program);
	if (rc && s->conn >= 0)
		channel_send(s->conn,
			json_pack("{s:s, s:i, s:s}", "t", "failed", "errno", -rc, "error",
				err_msg(&e)),
			NULL, NULL);
}

static void forget(struct successor *s)
{
	if (s->conn >= 0)
		close(s->conn);
	if (s->pidfd >= 0)
		close(s->pidfd);
	update_page_unmap(s->page);
	*s = (struct successor){s->listening, -1, 0, -1, NULL};
}

void successor_drop(struct successor *s)
{
	int status;

	if (s->pid && update_page_decide(s->page, UPDATE_KEPT) == UPDATE_GIVEN)
		return;
	if (s->pid) {
		kill(s->pid, SIGKILL);
		while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	forget(s);
}

bool successor_has_it(struct successor *s, bool last, pid_t *pid, int *pidfd)
{
	uint32_t word;

	if (!s->pid)
		return false;
	word = last ? update_page_decide(s->page, UPDATE_KEPT) : atomic_load(&s->page->word);
	if (word != UPDATE_GIVEN)
		return false;
	*pid = s->pid;
	*pidfd = s->pidfd;
	s->pidfd = -1;
	forget(s);
	return true;
}

void successor_serve(struct successor *s, const struct pollfd *p)
{
	if (p[0].revents && s->conn < 0) {
		s->conn = accept4(s->listening, NULL, NULL, SOCK_CLOEXEC);
		if (s->conn >= 0 && !may_ask(s->conn)) {
			close(s->conn);
			s->conn = -1;
		}
	}
	if (p[1].revents && s->conn >= 0)
		on_request(s);
	/* Ended before it got the machine: the old process hears of it by the channel. */
	if (p[2].revents && s->pid)
		successor_drop(s);
}
