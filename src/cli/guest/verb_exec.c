/*
 * verb_exec.c: a command inside a guest, by its agent.
 *
 *   stdin --> STDIN frames --> vsock --> lodge-agent --> command
 *   stdout, stderr <-- STDOUT, STDERR frames <--          EXIT: our exit code
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "agent/client.h"
#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "cli/guest/guest.h"
#include "cli/ui/signals.h"
#include "cli/ui/terminal.h"
#include "cli/verb.h"

#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NO_COMMAND 127

struct var {
	char *text;
};

struct exec {
	bool tty, no_tty, no_stdin;
	char *dir, *user;
	struct var *env;
	unsigned nenv, wait;
};

static int var_parse(void *elem, const char *text, struct err *e)
{
	struct var *v = elem;

	if (!strchr(text, '=') || *text == '=')
		return err_set(e, -EINVAL, "\"%s\": write NAME=VALUE", text);
	free(v->text);
	v->text = strdup(text);
	return v->text ? 0 : -ENOMEM;
}

static const struct opt var_opts[] = {
	{.key = "text", .type = OPT_TEXT, OPT_AT(struct var, text), .help = "NAME=VALUE"},
	OPT_DONE,
};

static const struct opt opts[] = {
	{"tty", 't', .type = OPT_FLAG, OPT_AT(struct exec, tty),
		.help = "give the command a terminal (as when standard input and output are one)"},
	{"no-tty", 'T', .type = OPT_FLAG, OPT_AT(struct exec, no_tty), .help = "give it none"},
	{"no-stdin", 'n', .type = OPT_FLAG, OPT_AT(struct exec, no_stdin),
		.help = "do not read standard input"},
	{"env", 'e', .type = OPT_LIST, OPT_LIST_AT(struct exec, env, nenv), .arg = "NAME=VALUE",
		.max = 256, .sub = var_opts, .parse = var_parse,
		.help = "a variable for the command; may be given several times"},
	{"dir", 'C', .type = OPT_TEXT, OPT_AT(struct exec, dir), .arg = "DIR",
		.help = "where it runs; else the user's home"},
	{"user", 'u', .type = OPT_TEXT, OPT_AT(struct exec, user), .arg = "USER",
		.help = "who runs it; else root"},
	{"wait", .type = OPT_UINT, OPT_AT(struct exec, wait), .arg = "SECONDS", .max = 3600,
		.dflt = "0", .help = "how long to wait for a guest that is still coming up"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

struct session {
	struct agent_client *agent;
	bool tty, stdin_open;
	int signals;
	bool sending; /* a frame is on its way, `at` bytes of it gone: nothing else is begun */
	size_t at;
	unsigned asked; /* times that we were told to end */
};

static void get_winsize(struct winsize *w)
{
	*w = (struct winsize){.ws_row = 24, .ws_col = 80};
	ioctl(STDOUT_FILENO, TIOCGWINSZ, w);
}

static int ask(struct session *s, const struct exec *x, const struct args *a, struct err *e)
{
	struct agent_out *o = &s->agent->out;
	struct winsize w;

	get_winsize(&w);
	agent_begin(o, AGENT_EXEC);
	agent_put_u32(o, s->tty ? AGENT_EXEC_TTY : 0);
	agent_put_u32(o, w.ws_row);
	agent_put_u32(o, w.ws_col);
	agent_put_text(o, x->dir ?: "");
	agent_put_text(o, x->user ?: "");
	agent_put_u32(o, x->nenv + (s->tty && getenv("TERM")));
	if (s->tty && getenv("TERM")) {
		char term[128];

		snprintf(term, sizeof(term), "TERM=%s", getenv("TERM"));
		agent_put_text(o, term);
	}
	for (unsigned i = 0; i < x->nenv; i++)
		agent_put_text(o, x->env[i].text);
	agent_put_u32(o, a->n - 1);
	for (unsigned i = 1; i < a->n; i++)
		agent_put_text(o, a->v[i]);
	return agent_send(s->agent, AGENT_F_EXEC, e);
}

/* The frame in out. */
static int begin_sending(struct session *s, struct err *e)
{
	int rc;

	agent_finish(&s->agent->out);
	s->at = 0;
	rc = agent_push(s->agent, &s->at, e);
	s->sending = rc == 0;
	return MIN(rc, 0);
}

static int send_input(struct session *s, struct err *e)
{
	char buf[AGENT_DATA_MAX];
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0)
		s->stdin_open = false;
	agent_begin(&s->agent->out, n > 0 ? AGENT_STDIN : AGENT_STDIN_END);
	if (n > 0)
		agent_put_rest(&s->agent->out, buf, (size_t)n);
	return begin_sending(s, e);
}

static int send_signal(struct session *s, struct err *e)
{
	struct signalfd_siginfo si;
	struct winsize w;

	if (read(s->signals, &si, sizeof(si)) != sizeof(si))
		return 0;
	if (si.ssi_signo == SIGWINCH) {
		get_winsize(&w);
		agent_begin(&s->agent->out, AGENT_WINSIZE);
		agent_put_u32(&s->agent->out, w.ws_row);
		agent_put_u32(&s->agent->out, w.ws_col);
	} else if (++s->asked == 3) {
		/* Neither the command nor the guest heeds it; the agent ends the command when we go. */
		return err_set(e, -EINTR, "ended by signal %u", si.ssi_signo);
	} else {
		agent_begin(&s->agent->out, AGENT_SIGNAL);
		agent_put_u32(&s->agent->out, si.ssi_signo);
	}
	return begin_sending(s, e);
}

/* 1: the command has ended, *code is ours. */
static int take_answer(struct session *s, int *code, struct err *e)
{
	struct agent_in *in = &s->agent->in;
	uint32_t signaled, n;
	int rc;

	switch (in->type) {
	case AGENT_STDOUT:
	case AGENT_STDERR:
		rc = fs_write_all(in->type == AGENT_STDOUT ? STDOUT_FILENO : STDERR_FILENO,
			in->payload, in->left);
		return rc ? err_sys(e, rc, "standard output") : 0;
	case AGENT_EXIT:
		signaled = agent_get_u32(in);
		n = agent_get_u32(in);
		*code = (int)(signaled ? 128 + (n & 127) : n & 255);
		return agent_checked(s->agent, e) ?: 1;
	default:
		return err_set(e, -EPROTO, "the guest's agent sent %d while a command runs",
			(int)in->type);
	}
}

/* Until EXIT. What has already been read may hold several frames. */
static int carry(struct session *s, int *code, struct err *e)
{
	/* A command that cannot be started says so before it has read anything. */
	s->agent->timeout_ms = 0;
	for (;;) {
		struct pollfd f[3] = {
			{s->agent->fd, (short)(POLLIN | (s->sending ? POLLOUT : 0)), 0},
			{s->stdin_open && !s->sending ? STDIN_FILENO : -1, POLLIN, 0},
			{s->sending ? -1 : s->signals, POLLIN, 0}};
		int rc = 0;

		if (poll(f, 3, -1) < 0)
			continue;
		if (s->sending && (f[0].revents & POLLOUT)) {
			rc = agent_push(s->agent, &s->at, e);
			s->sending = rc == 0;
			rc = MIN(rc, 0);
		} else if (f[2].revents) {
			rc = send_signal(s, e);
		} else if (f[1].revents) {
			rc = send_input(s, e);
		}
		/* The agent may have ended in between: what it said last is still to be read. */
		if (rc && rc != -EPIPE && rc != -ECONNRESET)
			return rc;
		if (!(f[0].revents & ~POLLOUT) && !rc)
			continue;
		do
			rc = agent_receive(s->agent, 0, e) ?: take_answer(s, code, e);
		while (!rc && agent_pending(s->agent));
		if (rc)
			return rc < 0 ? rc : 0;
	}
}

/* As a shell says it: what could not be run is not taken for what lodge did not find. */
static int not_started(const struct err *e)
{
	fail(e);
	switch (e->code) {
	case -ENOENT:
		return EXIT_NO_COMMAND;
	case -EACCES:
	case -ENOEXEC:
		return EXIT_NOT_EXECUTABLE;
	default:
		return EXIT_FAILED;
	}
}

static int run(void *o, const struct args *a)
{
	const struct exec *x = o;
	cleanup(agent_closep) struct agent_client *agent = NULL;
	struct session s = {.stdin_open = !x->no_stdin, .signals = -1};
	struct terminal_mode mode = {.fd = -1};
	static const int more[] = {SIGQUIT, SIGWINCH, 0};
	struct err e = {0};
	int rc, code = EXIT_FAILED;

	if (x->tty && x->no_tty)
		return usage("--tty and --no-tty exclude each other");
	if (guest_agent(&agent, a->v[0], x->wait, &e))
		return fail(&e);
	s.agent = agent;
	s.tty = x->tty ||
		(!x->no_tty && !x->no_stdin && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO));
	rc = signals_hold(&s.signals, more, &e) ?: ask(&s, x, a, &e);
	if (!rc && !s.stdin_open) {
		agent_begin(&agent->out, AGENT_STDIN_END);
		rc = agent_send(agent, 0, &e);
	}
	if (!rc && s.tty)
		terminal_raw(&mode, STDIN_FILENO);
	if (!rc)
		rc = carry(&s, &code, &e);
	terminal_restore(&mode);
	close(s.signals);
	return rc ? not_started(&e) : code;
}

const struct verb verbs_exec[] = {
	{VERB("exec", "NAME COMMAND [ARGUMENT...]", "run a command inside a guest"),
		.cmd.min_args = 2, .cmd.max_args = AGENT_WORDS_MAX, .cmd.groups = groups,
		.cmd.flags_first = true, .cmd.names = "names machines",
		.cmd.text =
			"The guest's lodge-agent starts the command as root, without a shell, and "
			"passes its streams on over virtio-vsock: no network is needed. Flags of "
			"lodge stand before NAME. The exit code is the command's (128 and its "
			"number for a signal); 127 when it, or what --dir or --user names, is not "
			"in the guest, 126 when it cannot be run. Signals that lodge gets go to "
			"the command.",
		.size = sizeof(struct exec), .run = run},
	VERBS_END,
};
