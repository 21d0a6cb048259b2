#include "cli/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "cli/client.h"

#define CTRL_A 1

enum escape_action escape_filter(
	struct escape *s, const char *in, size_t n, char *out, size_t *out_len, size_t *used)
{
	*out_len = 0;
	for (*used = 0; *used < n;) {
		char ch = in[(*used)++];

		if (!s->pending) {
			if (ch == CTRL_A)
				s->pending = true;
			else
				out[(*out_len)++] = ch;
			continue;
		}
		s->pending = false;
		switch (ch) {
		case 'x':
		case 'X':
			return ESCAPE_LEAVE;
		case 'h':
		case 'H':
		case '?':
			return ESCAPE_HELP;
		case CTRL_A:
			out[(*out_len)++] = CTRL_A;
			break;
		default: /* no command: the guest gets both */
			out[(*out_len)++] = CTRL_A;
			out[(*out_len)++] = ch;
			break;
		}
	}
	return ESCAPE_NONE;
}

static bool put(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (w < 0)
			return false;
		p += w;
		n -= (size_t)w;
	}
	return true;
}

static void help(const char *leave)
{
	char text[256];
	int n = snprintf(text, sizeof(text),
		"\r\nCtrl-A x  %s\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  send one Ctrl-A to the "
		"guest\r\n",
		leave);

	put(STDERR_FILENO, text, (size_t)n);
}

/* What was typed. False: leave. */
static bool take_input(
	struct client *c, struct escape *s, const char *buf, size_t n, const char *leave)
{
	while (n) {
		char out[2 * 1024 + 1];
		size_t len, used;
		enum escape_action a = escape_filter(s, buf, n, out, &len, &used);

		if (len && send(c->fd, out, len, MSG_NOSIGNAL) < 0)
			return true; /* the other side will tell */
		if (a == ESCAPE_LEAVE)
			return false;
		if (a == ESCAPE_HELP)
			help(leave);
		buf += used;
		n -= used;
	}
	return true;
}

static enum terminal_end loop(struct client *c, int sigfd, const char *leave)
{
	struct pollfd p[3] = {{STDIN_FILENO, POLLIN, 0}, {c->fd, POLLIN, 0}, {sigfd, POLLIN, 0}};
	struct escape s = {0};
	char buf[16384];

	for (;;) {
		if (poll(p, 3, -1) < 0 && errno != EINTR)
			return TERMINAL_GONE;
		if (p[2].revents)
			return TERMINAL_SIGNAL;
		if (p[1].revents) {
			ssize_t n = read(c->fd, buf, sizeof(buf));

			if (n <= 0 || !put(STDOUT_FILENO, buf, (size_t)n))
				return TERMINAL_GONE;
		}
		if (p[0].revents) {
			ssize_t n = read(STDIN_FILENO, buf, 1024);

			if (n <= 0)
				p[0].fd = -1; /* input has ended, the guest has not */
			else if (!take_input(c, &s, buf, (size_t)n, leave))
				return TERMINAL_LEFT;
		}
	}
}

enum terminal_end terminal_run(struct client *c, const char *leave)
{
	bool tty = isatty(STDIN_FILENO);
	struct termios old, raw;
	enum terminal_end end;
	sigset_t set, before;
	int sigfd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, &before);
	sigfd = signalfd(-1, &set, SFD_CLOEXEC);
	if (tty && !tcgetattr(STDIN_FILENO, &old)) {
		raw = old;
		cfmakeraw(&raw);
		raw.c_oflag |= OPOST; /* our own lines; the guest sends \r\n itself */
		tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	} else {
		tty = false;
	}
	end = loop(c, sigfd, leave);
	if (tty)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &old);
	close(sigfd);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return end;
}
