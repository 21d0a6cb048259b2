#include "cli/ui/terminal.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/ui/signals.h"

#define CTRL_A 1
#define INPUT_CHUNK 1024
/* How long the reason of a machine's end may come behind the end of its console. */
#define LAST_EVENT_MS 500

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
		case 'd':
		case 'D':
			return ESCAPE_DETACH;
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

void terminal_raw(struct terminal_mode *m, int fd)
{
	struct termios raw;

	m->fd = fd;
	m->raw = isatty(fd) && !tcgetattr(fd, &m->old);
	if (!m->raw)
		return;
	raw = m->old;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST; /* for our own lines; the guest sends \r\n itself */
	tcsetattr(fd, TCSADRAIN, &raw);
}

void terminal_restore(struct terminal_mode *m)
{
	sigset_t ttou, before;

	if (!m->raw)
		return;
	/* From a background process group it would stop us instead. */
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	sigprocmask(SIG_BLOCK, &ttou, &before);
	tcsetattr(m->fd, TCSADRAIN, &m->old);
	sigprocmask(SIG_SETMASK, &before, NULL);
	m->raw = false;
}

__attribute__((format(printf, 2, 3))) static void say(
	const struct terminal *t, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fs_write_all(t->err, text, MIN((size_t)MAX(n, 0), sizeof(text) - 1));
}

static void help(const struct terminal *t)
{
	say(t,
		"\r\nCtrl-A x  %s\r\n"
		"Ctrl-A d  detach: the machine runs on; lodge console %s comes back\r\n"
		"Ctrl-A h  this help\r\n"
		"Ctrl-A Ctrl-A  send one Ctrl-A to the guest\r\n",
		t->owner ? "end the machine and leave" : "leave; the machine runs on", t->name);
}

/* What was typed. ESCAPE_NONE: go on. */
static enum escape_action take_input(
	const struct terminal *t, struct escape *s, const char *buf, size_t n)
{
	while (n) {
		char out[INPUT_CHUNK + 1];
		size_t len, used;
		enum escape_action a = escape_filter(s, buf, n, out, &len, &used);

		if (len && send(t->console->fd, out, len, MSG_NOSIGNAL) < 0)
			return ESCAPE_NONE; /* the other side will tell */
		if (a == ESCAPE_HELP)
			help(t);
		else if (a != ESCAPE_NONE)
			return a;
		buf += used;
		n -= used;
	}
	return ESCAPE_NONE;
}

/* 0: nothing to say; 1: the machine stopped on an error; negative: no more events. */
static int take_event(const struct terminal *t)
{
	cleanup(json_drop) json_t *params = NULL;
	char event[32];
	const char *text;

	if (client_event(t->events, event, sizeof(event), &params, NULL))
		return -1;
	text = json_string_value(json_object_get(params, "text")) ?: "";
	if (!strcmp(event, "error")) {
		say(t,
			"\r\nlodge: machine %s stopped: %s; lodge inspect %s shows its state, "
			"lodge "
			"reset or kill goes on\r\n",
			t->name, text, t->name);
		return 1;
	}
	if (!strcmp(event, "ended") &&
		!strcmp(json_string_value(json_object_get(params, "cause")) ?: "", "error"))
		say(t, "\r\nlodge: machine %s ended: %s\r\n", t->name, text);
	return 0;
}

/* The console is at its end; the reason may still be on its way. */
static enum terminal_end gone(const struct terminal *t, int events_fd)
{
	struct pollfd p = {events_fd, POLLIN, 0};

	while (events_fd >= 0 && poll(&p, 1, LAST_EVENT_MS) > 0)
		if (take_event(t) < 0)
			break;
	return TERMINAL_GONE;
}

/* True: this process was stopped and goes on now. */
static bool take_signal(struct terminal *t, int sigfd, struct terminal_mode *mode)
{
	struct signalfd_siginfo si;
	bool raw = mode->raw;

	if (read(sigfd, &si, sizeof(si)) != sizeof(si))
		return true;
	t->signum = (int)si.ssi_signo;
	if (t->signum != SIGTSTP)
		return false;
	terminal_restore(mode);
	raise(SIGSTOP);
	if (raw)
		terminal_raw(mode, mode->fd);
	return true;
}

static enum terminal_end loop(struct terminal *t, int sigfd, struct terminal_mode *mode)
{
	struct pollfd p[4] = {{t->in, POLLIN, 0}, {t->console->fd, POLLIN, 0}, {sigfd, POLLIN, 0},
		{t->events ? t->events->fd : -1, POLLIN, 0}};
	struct escape s = {0};
	char buf[16384];
	ssize_t n;

	for (;;) {
		if (poll(p, 4, -1) < 0 && errno != EINTR)
			return TERMINAL_GONE;
		if (p[2].revents && !take_signal(t, sigfd, mode))
			return TERMINAL_SIGNAL;
		if (p[1].revents) {
			n = read(t->console->fd, buf, sizeof(buf));
			if (n <= 0)
				return gone(t, p[3].fd);
			if (fs_write_all(t->out, buf, (size_t)n))
				return TERMINAL_NO_OUTPUT;
		}
		if (p[3].revents) {
			int rc = take_event(t);

			if (rc < 0)
				p[3].fd = -1;
			else if (rc && !mode->raw && t->owner)
				return TERMINAL_STUCK;
		}
		if (p[0].revents) {
			enum escape_action a = ESCAPE_NONE;

			n = read(t->in, buf, INPUT_CHUNK);
			if (n <= 0)
				p[0].fd = -1; /* input has ended, the guest has not */
			else
				a = take_input(t, &s, buf, (size_t)n);
			if (a != ESCAPE_NONE)
				return a == ESCAPE_LEAVE ? TERMINAL_LEFT : TERMINAL_DETACHED;
		}
	}
}

enum terminal_end terminal_run(struct terminal *t)
{
	static const int signals[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGTSTP};
	struct terminal_mode mode = {.fd = -1};
	enum terminal_end end;
	sigset_t set, before;
	int sigfd;

	signals_not_ignored(&set, signals, ARRAY_SIZE(signals));
	sigaddset(&set, SIGPIPE);
	sigprocmask(SIG_BLOCK, &set, &before);
	/* A pipe whose reader has gone is seen by write(). */
	sigdelset(&set, SIGPIPE);
	sigfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	/* Who reads this may count on our catching signals. */
	if (isatty(t->in))
		dprintf(t->err, "lodge: console of %s; Ctrl-A x %s, Ctrl-A h helps\n", t->name,
			t->owner ? "ends the machine" : "leaves it");
	terminal_raw(&mode, t->in);
	end = loop(t, sigfd, &mode);
	terminal_restore(&mode);
	close(sigfd);
	/* What is pending would end us before the machine is told: the caller does as it would. */
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return end;
}
