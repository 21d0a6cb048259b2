#include "cli/launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "cli/launch/keeper.h"
#include "cli/place.h"
#include "cli/ui/signals.h"
#include "vm/config/config.h"

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
	char line[KEEPER_LINE_MAX];
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
		keeper_run(l, def_fd, pipe_fd[1], leash[0]);
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
		say(m, KEEPER_END);
	m->ended = true; /* the leash stays: that we die before it has ended is to be seen */
}

void launch_release(struct launched *m)
{
	say(m, KEEPER_LET_GO);
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
