/* EXEC: a command with its streams, on pipes or on a terminal of its own. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "guest/agent.h"

struct command {
	uint32_t flags, rows, cols;
	char *dir, *user;
	char *env[AGENT_WORDS_MAX + 1], *argv[AGENT_WORDS_MAX + 1];
	pid_t pid;
	int in, out, err; /* our ends; -1: closed. On a terminal in and out are its master */
	size_t pending_at, pending_len; /* of what the client sent and the command has not read */
	char pending[AGENT_FRAME_MAX];
	bool in_end; /* close `in` when that is written */
};

static struct command cmd;

static void words(struct peer *p, char **list)
{
	uint32_t n = agent_get_u32(&p->in);

	if (n > AGENT_WORDS_MAX)
		peer_bad(p, "too many words");
	for (uint32_t i = 0; i < n; i++)
		list[i] = agent_get_text(&p->in);
	list[n] = NULL;
}

/* Straight from the files: name services need shared libraries, which a static program should not load. */
static struct passwd *find_user(const char *name)
{
	FILE *f = fopen("/etc/passwd", "re");
	struct passwd *pw = NULL;

	while (f && (pw = fgetpwent(f)) && strcmp(pw->pw_name, name))
		;
	return pw; /* in static storage; the file closes with the exec */
}

static int join_groups(const struct passwd *pw)
{
	gid_t list[64] = {pw->pw_gid};
	size_t n = 1;
	FILE *f = fopen("/etc/group", "re");
	struct group *g;

	while (f && n < 64 && (g = fgetgrent(f)))
		for (char **m = g->gr_mem; *m; m++)
			if (!strcmp(*m, pw->pw_name) && n < 64)
				list[n++] = g->gr_gid;
	return setgroups(n, list);
}

/* In the child. Returns the name of the step that failed, for the parent's ERROR. */
static const char *become(struct command *c)
{
	const struct passwd *pw = find_user(*c->user ? c->user : "root");

	if (*c->user && !pw) {
		errno = ENOENT;
		return "user";
	}
	if (pw) {
		setenv("HOME", pw->pw_dir, 1);
		setenv("USER", pw->pw_name, 1);
		setenv("LOGNAME", pw->pw_name, 1);
		setenv("SHELL", *pw->pw_shell ? pw->pw_shell : "/bin/sh", 1);
	} else {
		setenv("HOME", "/root", 1);
	}
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
	if (*c->user && (join_groups(pw) || setgid(pw->pw_gid) || setuid(pw->pw_uid)))
		return "user";
	for (char **v = c->env; *v; v++) {
		char *eq = strchr(*v, '=');

		if (!eq || eq == *v) {
			errno = EINVAL;
			return "variable";
		}
		putenv(*v);
	}
	if (chdir(*c->dir ? c->dir : getenv("HOME")) && (*c->dir || chdir("/")))
		return "directory";
	return NULL;
}

static _Noreturn void child(struct command *c, const int fd[3], int report)
{
	const char *why;
	char text[128];

	setsid();
	for (int i = 0; i < 3; i++)
		dup2(fd[i], i);
	if (c->flags & AGENT_EXEC_TTY)
		ioctl(0, TIOCSCTTY, 0);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	why = become(c);
	if (!why) {
		execvp(c->argv[0], c->argv);
		why = "command";
	}
	snprintf(text, sizeof(text), "%d %s", errno, why);
	if (write(report, text, strlen(text)) < 0)
		_exit(126); /* forked child */
	_exit(127); /* forked child */
}

static int open_terminal(struct command *c, int fd[3])
{
	struct winsize w = {.ws_row = (unsigned short)c->rows, .ws_col = (unsigned short)c->cols};
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (master < 0 || grantpt(master) || unlockpt(master))
		return -1;
	fd[0] = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd[0] < 0)
		return -1;
	fd[1] = fd[2] = fd[0];
	ioctl(master, TIOCSWINSZ, &w);
	if (!getenv("TERM"))
		setenv("TERM", "linux", 1);
	c->in = c->out = master;
	c->err = -1;
	return 0;
}

static int open_pipes(struct command *c, int fd[3])
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		return -1;
	fd[0] = in[0];
	fd[1] = out[1];
	fd[2] = err[1];
	c->in = in[1];
	c->out = out[0];
	c->err = err[0];
	return 0;
}

/* False: the client was told why not. */
static bool start(struct peer *p, struct command *c)
{
	int fd[3], report[2], n;
	char text[129] = "";

	if ((c->flags & AGENT_EXEC_TTY ? open_terminal(c, fd) : open_pipes(c, fd)) ||
		pipe2(report, O_CLOEXEC)) {
		peer_error(p, errno, "streams", NULL);
		return false;
	}
	c->pid = fork();
	if (!c->pid)
		child(c, fd, report[1]);
	close(report[1]);
	for (int i = 0; i < 3; i++)
		if (!i || fd[i] != fd[0])
			close(fd[i]);
	n = c->pid < 0 ? 0 : (int)read(report[0], text, sizeof(text) - 1);
	close(report[0]);
	if (c->pid < 0) {
		peer_error(p, errno, "fork", NULL);
		return false;
	}
	if (n > 0) { /* nothing comes when execvp() succeeds */
		char *why;
		int err = (int)strtol(text, &why, 10);

		waitpid(c->pid, NULL, 0);
		why += *why == ' ';
		peer_error(p, err, why,
			!strcmp(why, "user")	    ? c->user
			: !strcmp(why, "directory") ? c->dir
						    : c->argv[0]);
		return false;
	}
	fcntl(c->in, F_SETFL, O_NONBLOCK | fcntl(c->in, F_GETFL));
	return true;
}

static void close_in(struct command *c)
{
	if (c->in >= 0 && c->in != c->out)
		close(c->in);
	else if (c->in >= 0 && write(c->in, "\x04", 1) < 0) /* a terminal's end of input */
		return;
	c->in = -1;
}

static void feed(struct command *c)
{
	while (c->pending_len && c->in >= 0) {
		ssize_t n = write(c->in, c->pending + c->pending_at, c->pending_len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) { /* the command reads no more */
			c->pending_len = 0;
			break;
		}
		c->pending_at += (size_t)n;
		c->pending_len -= (size_t)n;
	}
	if (c->in_end && !c->pending_len)
		close_in(c);
}

static void control(struct peer *p, struct command *c)
{
	struct winsize w = {0};

	switch (p->in.type) {
	case AGENT_STDIN:
		memcpy(c->pending, p->in.payload, p->in.left);
		c->pending_at = 0;
		c->pending_len = p->in.left;
		feed(c);
		break;
	case AGENT_STDIN_END:
		c->in_end = true;
		feed(c);
		break;
	case AGENT_SIGNAL:
		kill(-c->pid, (int)agent_get_u32(&p->in));
		break;
	case AGENT_WINSIZE:
		w.ws_row = (unsigned short)agent_get_u32(&p->in);
		w.ws_col = (unsigned short)agent_get_u32(&p->in);
		if (c->flags & AGENT_EXEC_TTY)
			ioctl(c->out, TIOCSWINSZ, &w);
		break;
	default:
		kill(-c->pid, SIGHUP);
		peer_bad(p, "not for a command");
	}
}

/* What the client sent; while the command has not read what came before, it waits in the transport. */
static void from_client(struct peer *p, struct command *c, bool readable)
{
	size_t room;
	void *to = agent_room(&p->in, &room);
	ssize_t n = readable && room ? read(p->fd, to, room) : -1;
	int r;

	if (readable && room && n <= 0 && (n == 0 || (errno != EINTR && errno != EAGAIN))) {
		kill(-c->pid, SIGHUP);
		_exit(0);
	}
	if (n > 0)
		agent_got(&p->in, (size_t)n);
	while (!c->pending_len && (r = agent_next(&p->in))) {
		if (r < 0) {
			kill(-c->pid, SIGHUP);
			peer_bad(p, "not a frame");
		}
		control(p, c);
	}
}

static void to_client(struct peer *p, int *fd, enum agent_type t)
{
	char buf[AGENT_DATA_MAX];
	ssize_t n = read(*fd, buf, sizeof(buf));

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) { /* EIO: nobody has the terminal any more */
		close(*fd);
		*fd = -1;
		return;
	}
	agent_begin(&p->out, t);
	agent_put_rest(&p->out, buf, (size_t)n);
	peer_send(p);
}

static void carry(struct peer *p, struct command *c)
{
	int status;

	from_client(p, c, false); /* what came together with the request */
	while (c->out >= 0 || c->err >= 0) {
		struct pollfd f[4] = {{c->pending_len ? -1 : p->fd, POLLIN, 0}, {c->out, POLLIN, 0},
			{c->err, POLLIN, 0}, {c->pending_len ? c->in : -1, POLLOUT, 0}};
		bool was_pending = c->pending_len != 0;

		if (poll(f, 4, -1) < 0)
			continue;
		if (f[1].revents)
			to_client(p, &c->out, AGENT_STDOUT);
		if (c->out < 0 && (c->flags & AGENT_EXEC_TTY))
			c->in = -1;
		if (f[2].revents)
			to_client(p, &c->err, AGENT_STDERR);
		if (f[3].revents)
			feed(c);
		if (f[0].revents || (was_pending && !c->pending_len))
			from_client(p, c, f[0].revents != 0);
	}
	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	agent_begin(&p->out, AGENT_EXIT);
	agent_put_u32(&p->out, WIFSIGNALED(status));
	agent_put_u32(
		&p->out, (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
	peer_send(p);
	exit(0);
}

void serve_exec(struct peer *p)
{
	struct command *c = &cmd;

	c->flags = agent_get_u32(&p->in);
	c->rows = agent_get_u32(&p->in);
	c->cols = agent_get_u32(&p->in);
	c->dir = agent_get_text(&p->in);
	c->user = agent_get_text(&p->in);
	words(p, c->env);
	words(p, c->argv);
	peer_check(p);
	if (!c->argv[0])
		peer_bad(p, "no command");
	if (start(p, c))
		carry(p, c);
}
