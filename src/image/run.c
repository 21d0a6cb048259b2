#include "image/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"

static char *find_in(const char *path, const char *prog)
{
	while (*path) {
		size_t n = strcspn(path, ":");
		char *s = text_fmt("%.*s/%s", (int)n, path, prog);

		if (s && n && !access(s, X_OK))
			return s;
		free(s);
		path += n + (path[n] == ':');
	}
	return NULL;
}

char *run_find(const char *prog)
{
	char *s;

	if (strchr(prog, '/'))
		return access(prog, X_OK) ? NULL : strdup(prog);
	s = find_in(getenv("PATH") ?: "/usr/bin:/bin", prog);
	return s ?: find_in("/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", prog);
}

static const char *package_of(const char *prog)
{
	static const struct {
		const char *prog, *pkg;
	} known[] = {
		{"gpgv", "gpgv"},
		{"mke2fs", "e2fsprogs"},
		{"debugfs", "e2fsprogs"},
		{"e2fsck", "e2fsprogs"},
		{"depmod", "kmod"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(known[i].prog, prog))
			return known[i].pkg;
	return NULL;
}

static int spawn(const char *path, const struct run_opts *o, int out, pid_t *pid, struct err *e)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none, dfl;
	int r;

	sigemptyset(&none);
	sigemptyset(&dfl);
	sigaddset(&dfl, SIGPIPE);
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&at);
	posix_spawn_file_actions_addopen(&fa, 0, o->stdin_path ?: "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, out, 1);
	posix_spawn_file_actions_adddup2(&fa, out, 2);
	/* Own process group: the terminal's Ctrl-C reaches us alone, and we end the program. */
	posix_spawnattr_setflags(
		&at, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	posix_spawnattr_setsigmask(&at, &none);
	posix_spawnattr_setsigdefault(&at, &dfl);
	posix_spawnattr_setpgroup(&at, 0);
	r = posix_spawn(pid, path, &fa, &at, (char *const *)(uintptr_t)o->argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&at);
	return r ? err_sys(e, -r, "start %s", path) : 0;
}

static int fork_child(const struct run_opts *o, int out, pid_t *pid, struct err *e)
{
	sigset_t none;

	*pid = fork();
	if (*pid < 0)
		return err_sys(e, -errno, "fork");
	if (*pid)
		return 0;
	setpgid(0, 0);
	/* As spawn(): nothing of the caller's terminal and signals. */
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	close(STDIN_FILENO);
	if (open("/dev/null", O_RDONLY) != STDIN_FILENO)
		_exit(127); /* forked child */
	_exit(o->child(o->child_ctx)); /* forked child */
}

/* Hands whole lines on and keeps the rest at the front of b. */
static int feed_lines(const struct run_opts *o, char *b, size_t *n, size_t cap, bool end)
{
	size_t start = 0;
	int r = 0;

	for (size_t i = 0; i < *n && !r; i++) {
		if (b[i] != '\n')
			continue;
		b[i] = 0;
		if (i > start && b[i - 1] == '\r')
			b[i - 1] = 0;
		if (o->line)
			r = o->line(o->ctx, b + start);
		start = i + 1;
	}
	*n -= start;
	memmove(b, b + start, *n);
	if (!r && *n && (end || *n == cap)) {
		b[*n] = 0;
		if (o->line)
			r = o->line(o->ctx, b);
		*n = 0;
	}
	return r;
}

/* Until end of file. An empty call (line NULL) is not made for silence: cancelling waits for output. */
static int pump(const struct run_opts *o, int fd, struct err *e)
{
	uint64_t limit = clock_mono_ns() + o->timeout_s * 1000000000ull;
	char b[4097];
	size_t n = 0;

	for (;;) {
		struct pollfd p = {fd, POLLIN, 0};
		int r = poll(&p, 1, 200);
		ssize_t k;

		if (r < 0 && errno != EINTR)
			return err_sys(e, -errno, "poll");
		if (o->timeout_s && clock_mono_ns() > limit)
			return err_set(e, -ETIME, "%s did not end within %u s",
				o->child ? "it" : o->argv[0], o->timeout_s);
		if (r <= 0) {
			/* An empty line now and then lets the caller cancel while nothing is written. */
			if (o->line && o->line(o->ctx, ""))
				return err_set(e, -ECANCELED, "interrupted");
			continue;
		}
		k = read(fd, b + n, sizeof(b) - 1 - n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k > 0)
			n += (size_t)k;
		if (feed_lines(o, b, &n, sizeof(b) - 1, k <= 0))
			return err_set(e, -ECANCELED, "interrupted");
		if (k <= 0)
			return 0;
	}
}

int run_prog(const struct run_opts *o, int *status, struct err *e)
{
	cleanup(free_ptr) char *path = o->child ? NULL : run_find(o->argv[0]);
	cleanup(close_fd) int rd = -1, wr = -1;
	const char *pkg = o->child ? NULL : package_of(o->argv[0]);
	int fds[2], ws = 0, r;
	pid_t pid;

	if (!path && pkg)
		return err_set(e, -ENOENT, "the program %s is missing: apt-get install %s",
			o->argv[0], pkg);
	if (!path && !o->child)
		return err_set(e, -ENOENT, "the program %s is missing", o->argv[0]);
	if (pipe2(fds, O_CLOEXEC))
		return err_sys(e, -errno, "pipe");
	rd = fds[0];
	wr = fds[1];
	r = o->child ? fork_child(o, wr, &pid, e) : spawn(path, o, wr, &pid, e);
	if (r)
		return r;
	close(steal_fd(&wr));
	r = pump(o, rd, e);
	if (r)
		kill(-pid, SIGKILL);
	while (waitpid(pid, &ws, 0) < 0 && errno == EINTR)
		;
	*status = WIFEXITED(ws) ? WEXITSTATUS(ws) : 128 + WTERMSIG(ws);
	return r;
}

static int keep_last(void *ctx, const char *line)
{
	struct buf *b = ctx;

	if (*line) {
		b->n = 0;
		buf_str(b, line);
	}
	return 0;
}

static int run_quiet(struct run_opts *o, const char *name, struct err *e)
{
	cleanup(buf_free) struct buf last = {0};
	int status, r;

	o->line = keep_last;
	o->ctx = &last;
	r = run_prog(o, &status, e);
	if (!r && status)
		r = err_set(e, -EIO, "%s failed: %s", name, last.n ? last.p : "it did not say why");
	return r;
}

int run_ok(const char *const *argv, const char *stdin_path, struct err *e)
{
	struct run_opts o = {.argv = argv, .stdin_path = stdin_path};

	return run_quiet(&o, argv[0], e);
}

int run_child(int (*child)(void *ctx), void *ctx, struct err *e)
{
	struct run_opts o = {.child = child, .child_ctx = ctx};

	return run_quiet(&o, "a child process", e);
}
