#include "cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/place.h"
#include "cli/ui/signals.h"
#include "cli/update/successor.h"
#include "vm/config/config.h"
#include "vm/rundir.h"

/* A machine that has been asked to end gets this long; it needs a moment to flush its disks. */
#define KILL_AFTER_NS 5000000000ull

void launch_program(char *path, size_t size)
{
	static const char *const places[] = {"lodge-vm", "../vm/lodge-vm"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n > 0) {
		self[n] = 0;
		slash = strrchr(self, '/');
		*slash = 0;
		for (unsigned i = 0; i < ARRAY_SIZE(places); i++)
			if ((size_t)snprintf(path, size, "%s/%s", self, places[i]) < size &&
				!access(path, X_OK))
				return;
	}
	snprintf(path, size, "lodge-vm");
}

/* The definition as a memory file, which the child opens as /proc/self/fd/N. */
static int definition_fd(const struct vm_config *cfg, struct err *e)
{
	cleanup(json_drop) json_t *j = vm_config_to_json(cfg);
	cleanup(close_fd) int fd = memfd_create("definition", 0);

	if (!j)
		return err_set(e, -ENOMEM, "out of memory");
	if (fd < 0 || json_dumpfd(j, fd, 0))
		return err_sys(e, fd < 0 ? -errno : -EIO, "definition of %s", cfg->name);
	return steal_fd(&fd);
}

/* What goes over the leash. Its end without the first: who launched the machine has died. */
enum { LET_GO = 'd', END = 'e' };

#define WORD_MAX 2048 /* the line that says whether the machine runs */

/* What the keeper knows of its machine. */
struct keeper {
	const struct launch *l;
	pid_t vm;
	int leash, signals, pidfd;
	int word, ready; /* where lodge-vm says it, and to whom it goes */
	char said[WORD_MAX];
	size_t nsaid;
	bool runs; /* it was said */
	uint64_t kill_at; /* 0: nobody has asked it to end */
	bool alone; /* who launched it died, and has not let it go */
	struct successor next;
};

/* Instead of a definition, or beside it. */
static unsigned add_receive(
	const struct launch *l, const char **argv, unsigned n, const char *config, char fd[16])
{
	const struct launch_receive *r = l->receive;
	const char *const more[] = {r->own_definition ? "--config" : "--name",
		r->own_definition ? config : l->cfg->name, "--receive", fd,
		r->cert ? "--tls-cert" : NULL, r->cert, "--tls-key", r->key, "--tls-ca", r->ca};

	snprintf(fd, 16, "%d", r->fd);
	fcntl(r->fd, F_SETFD, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(more) && more[i]; i++)
		argv[n++] = more[i];
	for (unsigned i = 0; i < r->nplaces; i++) {
		argv[n++] = "--receive-disk";
		argv[n++] = r->places[i].text;
	}
	if (r->overwrite)
		argv[n++] = "--receive-overwrite";
	return n;
}

static void exec_vm(const struct launch *l, int def_fd, int ready_fd)
{
	char config[40], ready[16], listener[16], console[PATH_MAX], program[PATH_MAX + 32];
	const char *argv[24 + 2 * VM_MAX_DISKS] = {
		"lodge-vm", "--ready-fd", ready, "--console-log", console, "--config", config};
	unsigned n = 7;

	if (l->receive)
		n = add_receive(l, argv, 5, config, listener);
	if (l->paused)
		argv[n++] = "--paused";
	if (l->restore) {
		argv[n++] = "--restore";
		argv[n++] = l->restore;
	}
	argv[n] = NULL;

	signals_of_child();
	snprintf(config, sizeof(config), "/proc/self/fd/%d", def_fd);
	snprintf(ready, sizeof(ready), "%d", ready_fd);
	fcntl(ready_fd, F_SETFD, 0);
	launch_program(program, sizeof(program));
	if (!place_file(l->place, "console.log", console, sizeof(console), NULL))
		execvp(program, (char **)(uintptr_t)argv);
	dprintf(ready_fd, "{\"ok\":false,\"errno\":%d,\"error\":\"%s: %s\"}\n", errno, program,
		strerrordesc_np(errno) ?: "cannot be started");
	_exit(127); /* forked child */
}

/* Nothing of the terminal, or of the pipe that our output goes to, is held by a machine in the background. */
static void detach_stdio(const struct place *p)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int log = openat(
		p->lock, "machine.log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);

	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(log < 0 ? null : log, STDERR_FILENO);
}

static void end_machine(struct keeper *k)
{
	if (k->kill_at)
		return;
	kill(k->vm, SIGTERM);
	k->kill_at = clock_mono_ns() + KILL_AFTER_NS;
}

/* True: there is more to come. */
static bool hear_leash(struct keeper *k)
{
	char ch = 0;
	bool died = read(k->leash, &ch, 1) != 1;

	if (ch == LET_GO)
		return false;
	k->alone |= died;
	/* A machine that comes from elsewhere may be here by now, and nowhere else: it knows. */
	if (k->l->receive)
		kill(k->vm, SIGHUP);
	else
		end_machine(k);
	return !died;
}

/* All of its one line at once: what comes in pieces must not be cut by somebody's end. */
static void pass_on_word(struct keeper *k)
{
	ssize_t n = read(k->word, k->said + k->nsaid, sizeof(k->said) - k->nsaid);
	json_t *j;

	if (n < 0 && errno == EINTR)
		return;
	k->nsaid += n > 0 ? (size_t)n : 0;
	if (n > 0 && k->nsaid < sizeof(k->said) && !memchr(k->said, '\n', k->nsaid))
		return;
	j = json_loadb(k->said, k->nsaid, JSON_DISABLE_EOF_CHECK, NULL);
	k->runs = json_is_true(json_object_get(j, "ok"));
	json_decref(j);
	if (write(k->ready, k->said, k->nsaid) < 0)
		k->nsaid = 0; /* nobody waits any more */
	close(k->ready);
	close(k->word);
	k->word = -1;
}

/* Another process has the machine: that one is waited for from now on. The old one may serve networks for a while. */
static bool handed_over(struct keeper *k, bool ended)
{
	pid_t pid;
	int fd;

	if (!successor_has_it(&k->next, ended, &pid, &fd))
		return false;
	if (ended)
		waitpid(k->vm, NULL, 0);
	close(k->pidfd);
	k->vm = pid;
	k->pidfd = fd;
	return true;
}

/* Processes whose machine went on in another one. */
static void reap_old(struct keeper *k)
{
	siginfo_t i = {0};

	while (!waitid(P_ALL, 0, &i, WEXITED | WNOHANG | WNOWAIT) && i.si_pid &&
		i.si_pid != k->vm && i.si_pid != k->next.pid) {
		waitpid(i.si_pid, NULL, 0);
		i.si_pid = 0;
	}
}

static bool wants_end(struct keeper *k)
{
	struct signalfd_siginfo s;

	return read(k->signals, &s, sizeof(s)) == sizeof(s) && s.ssi_signo != SIGCHLD;
}

/* Until lodge-vm has ended; its wait status. */
static int watch(struct keeper *k)
{
	struct pollfd p[4 + SUCCESSOR_POLLS] = {{k->pidfd, POLLIN, 0}, {k->leash, POLLIN, 0},
		{k->signals, POLLIN, 0}, {k->word, POLLIN, 0}};
	int status = 0;

	for (;;) {
		p[0].fd = k->pidfd;
		successor_poll(&k->next, p + 4);
		poll(p, ARRAY_SIZE(p), k->kill_at ? 100 : -1);
		if (p[3].revents)
			pass_on_word(k);
		p[3].fd = k->word;
		if (p[0].revents && !handed_over(k, true))
			break;
		successor_serve(&k->next, p + 4);
		handed_over(k, false);
		reap_old(k);
		if (k->kill_at && clock_mono_ns() > k->kill_at)
			kill(k->vm, SIGKILL);
		if (p[1].revents && !hear_leash(k))
			p[1].fd = -1;
		if (p[2].revents && wants_end(k))
			end_machine(k);
	}
	/* Who launched it may have died at the same time. */
	while (p[1].fd >= 0 && poll(&p[1], 1, 0) > 0 && hear_leash(k))
		;
	successor_drop(&k->next);
	while (waitpid(k->vm, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static void clear_up(const struct keeper *k, int status)
{
	const struct launch *l = k->l;
	int lock;

	/* It clears up itself unless it was killed. */
	if (WIFSIGNALED(status) && !rundir_claim(l->cfg->name, &lock, NULL)) {
		rundir_remove(l->cfg->name);
		close(lock);
	}
	if (place_is_temporary(l->place))
		place_remove(l->place, NULL);
	else if (k->alone && l->receive && !k->runs)
		place_undo_logs(l->place);
}

static void keep(const struct launch *l, int def_fd, int ready_fd, int leash)
{
	struct keeper k = {.l = l, .leash = leash, .ready = ready_fd};
	sigset_t set;
	int word[2], status;

	setsid(); /* Ctrl-C in the terminal is the guest's, or this program's; never the machine's */
	prctl(PR_SET_NAME, "lodge-keeper");
	detach_stdio(l->place);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGCHLD); /* of processes that are only reaped */
	k.signals = signalfd(-1, &set, SFD_CLOEXEC);
	/* Held back, not ignored: that of hear_leash() must reach a child that is not lodge-vm yet. */
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_SETMASK, &set, NULL);
	signal(SIGPIPE, SIG_IGN); /* who waits for the ready line may have gone */
	k.vm = pipe2(word, O_CLOEXEC) ? -1 : fork();
	if (k.vm == 0)
		exec_vm(l, def_fd, word[1]);
	close(def_fd);
	if (k.vm < 0)
		_exit(127); /* forked child */ /* who waits for the ready line sees it end */
	close(word[1]);
	k.word = word[0];
	k.pidfd = (int)syscall(SYS_pidfd_open, k.vm, 0);
	successor_open(&k.next, l->place->lock);
	status = watch(&k);
	while (k.word >= 0 && poll(&(struct pollfd){k.word, POLLIN, 0}, 1, 0) > 0)
		pass_on_word(&k); /* it came with its end */
	clear_up(&k, status);
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	_exit(status); /* forked child */
}

/* Its last line of log says why, and may be gone a moment later. */
static int died(const struct launch *l, struct err *e)
{
	cleanup(free_ptr) char *text = NULL;
	char path[PATH_MAX];
	char *last = NULL;

	if (!place_file(l->place, "machine.log", path, sizeof(path), NULL) &&
		!fs_read_file(path, 1 << 20, &text, NULL, NULL)) {
		for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n"))
			last = p;
	}
	return err_set(e, -ECHILD, "machine %s: its process ended before the guest ran%s%s",
		l->cfg->name, last ? ": " : "; was it killed, or is the host out of memory?",
		last ?: "");
}

/*
 * A signal that comes first ends the machine. One that comes from elsewhere may have come meanwhile: then what it says still counts. It is not
 * ended by force for the same reason: who does not want to wait until it has gone ends this program by a second signal.
 */
static void await_word(int fd, const struct launch *l, struct launched *m)
{
	struct pollfd p[2] = {{fd, POLLIN, 0}, {m->ended ? -1 : l->signals, POLLIN, 0}};
	struct signalfd_siginfo s;

	while (poll(p, l->signals ? 2 : 1, -1) < 0 && errno == EINTR)
		;
	if (!p[1].revents || (p[0].revents && l->receive) ||
		read(l->signals, &s, sizeof(s)) != sizeof(s))
		return;
	launch_end(m);
	if (l->receive)
		signals_let_go();
}

/* Its one line of JSON; end of file without one: it died. */
static int await_ready(int fd, const struct launch *l, struct launched *m, struct err *e)
{
	cleanup(json_drop) json_t *j = NULL;
	const char *warning;
	char line[WORD_MAX];
	size_t n = 0;
	bool ok;
	int rc;

	while (n < sizeof(line) - 1) {
		ssize_t got;

		await_word(fd, l, m);
		got = read(fd, line + n, sizeof(line) - 1 - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
		if (memchr(line, '\n', n))
			break;
	}
	j = json_loadb(line, n, JSON_DISABLE_EOF_CHECK, NULL);
	ok = json_is_true(json_object_get(j, "ok"));
	m->coming = json_is_true(json_object_get(j, "coming"));
	m->again = !m->ended && json_is_true(json_object_get(j, "again"));
	warning = json_string_value(json_object_get(j, "warning"));
	if (warning)
		fprintf(stderr, "lodge: %s\n", warning);
	if (m->ended && !(ok && l->receive))
		return err_set(e, -ECANCELED, "stopped; there is no machine %s", l->cfg->name);
	if (ok)
		return 0;
	if (!j)
		return died(l, e);
	rc = -(int)json_integer_value(json_object_get(j, "errno"));
	return err_set(e, rc < 0 ? rc : -EIO, "%s",
		json_string_value(json_object_get(j, "error")) ?: "failed");
}

int launch_machine(const struct launch *l, struct launched *out, struct err *e)
{
	cleanup(close_fd) int def_fd = definition_fd(l->cfg, e);
	cleanup(close_fd) int ready = -1;
	int pipe_fd[2], leash[2], rc;

	*out = (struct launched){.leash = -1};
	if (def_fd < 0)
		return def_fd;
	if (pipe2(pipe_fd, O_CLOEXEC))
		return err_sys(e, -errno, "pipe");
	ready = pipe_fd[0];
	if (pipe2(leash, O_CLOEXEC)) {
		close(pipe_fd[1]);
		return err_sys(e, -errno, "pipe");
	}
	out->leash = leash[1];
	out->keeper = fork();
	if (out->keeper == 0) {
		close(leash[1]);
		close(ready);
		keep(l, def_fd, pipe_fd[1], leash[0]);
	}
	close(leash[0]);
	close(pipe_fd[1]);
	if (out->keeper < 0) {
		close(leash[1]);
		return err_sys(e, -errno, "fork");
	}
	rc = await_ready(ready, l, out, e);
	if (rc) {
		launch_end(out);
		launch_wait(out);
	}
	return rc;
}

static void say(struct launched *m, char word)
{
	if (m->leash < 0)
		return;
	/* A keeper that has gone needs no word. */
	signal(SIGPIPE, SIG_IGN);
	while (write(m->leash, &word, 1) < 0 && errno == EINTR)
		;
}

static void drop_leash(struct launched *m)
{
	if (m->leash >= 0)
		close(m->leash);
	m->leash = -1;
}

void launch_end(struct launched *m)
{
	if (!m->ended)
		say(m, END);
	m->ended = true; /* the leash stays: that we die before it has ended is to be seen */
}

void launch_release(struct launched *m)
{
	say(m, LET_GO);
	drop_leash(m);
}

int launch_wait(struct launched *m)
{
	int status;

	while (waitpid(m->keeper, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	drop_leash(m);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
