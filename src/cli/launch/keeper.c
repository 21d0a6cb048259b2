#include "cli/launch/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "cli/launch/launch.h"
#include "cli/place.h"
#include "cli/ui/signals.h"
#include "cli/update/successor.h"
#include "vm/config/config.h"
#include "vm/rundir.h"

/* A machine that has been asked to end gets this long; it needs a moment to flush its disks. */
#define KILL_AFTER_NS 5000000000ull

/* What the keeper knows of its machine. */
struct keeper {
	const struct launch *l;
	pid_t vm;
	int leash, signals, pidfd;
	int word, ready; /* where lodge-vm says it, and to whom it goes */
	char said[KEEPER_LINE_MAX];
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

	if (ch == KEEPER_LET_GO)
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

_Noreturn void keeper_run(const struct launch *l, int def_fd, int ready_fd, int leash)
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
