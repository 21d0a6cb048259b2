#include "cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/util.h"
#include "vm/config.h"

int launch_dir(const char *name, bool make, char *path, size_t size, struct err *e)
{
	int rc = make ? fs_place_make(FS_DATA, path, size, e)
		      : fs_place_path(FS_DATA, path, size, e);
	size_t n;

	if (rc)
		return rc;
	n = strlen(path);
	if ((size_t)snprintf(path + n, size - n, "/vms/%s", name) >= size - n)
		return err_set(e, -ENAMETOOLONG,
			"machine %s: the path of its directory is too long", name);
	return make ? fs_mkdir_p(path, 0700, e) : 0;
}

/* Beside this program, as installed or in a build tree; else in PATH. */
static void find_program(char *path, size_t size)
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

static void in_child(const struct launch *l, int def_fd, int ready_fd, const char *program)
{
	char config[40], ready[16], console[PATH_MAX + 16], log[PATH_MAX + 16];
	char *argv[] = {"lodge-vm", "--config", config, "--ready-fd", ready, "--console-log",
		console, "--log", log, NULL};
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(config, sizeof(config), "/proc/self/fd/%d", def_fd);
	snprintf(ready, sizeof(ready), "%d", ready_fd);
	snprintf(console, sizeof(console), "%s/console.log", l->dir);
	snprintf(log, sizeof(log), "%s/machine.log", l->dir);
	fcntl(ready_fd, F_SETFD, 0);
	setsid(); /* Ctrl-C in the terminal is the guest's, or this program's; never the machine's */
	if (!l->background)
		prctl(PR_SET_PDEATHSIG, SIGTERM);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (l->cfg->log)
		argv[7] = NULL; /* the definition names another log */
	execvp(program, argv);
	dprintf(ready_fd, "{\"ok\":false,\"errno\":%d,\"error\":\"%s: %s\"}\n", errno, program,
		strerrordesc_np(errno) ?: "cannot be started");
	_exit(127); /* forked child */
}

/* Its one line of JSON; end of file without one: it died. */
static int await_ready(int fd, const char *dir, struct err *e)
{
	char line[2048];
	size_t n = 0;
	json_t *j;
	int rc;

	while (n < sizeof(line) - 1) {
		ssize_t got = read(fd, line + n, sizeof(line) - 1 - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
		if (memchr(line, '\n', n))
			break;
	}
	j = json_loadb(line, n, JSON_DISABLE_EOF_CHECK, NULL);
	if (!j)
		return err_set(e, -ECHILD,
			"the machine's process ended before its guest ran; %s/machine.log may tell "
			"why",
			dir);
	if (json_is_true(json_object_get(j, "ok"))) {
		json_decref(j);
		return 0;
	}
	rc = -(int)json_integer_value(json_object_get(j, "errno"));
	rc = err_set(e, rc < 0 ? rc : -EIO, "%s",
		json_string_value(json_object_get(j, "error")) ?: "failed");
	json_decref(j);
	return rc;
}

int launch_machine(const struct launch *l, pid_t *pid, struct err *e)
{
	char program[PATH_MAX + 32];
	cleanup(close_fd) int def_fd = definition_fd(l->cfg, e);
	int ready[2];
	int rc;

	if (def_fd < 0)
		return def_fd;
	if (pipe2(ready, O_CLOEXEC))
		return err_sys(e, -errno, "pipe");
	find_program(program, sizeof(program));
	*pid = fork();
	if (*pid == 0)
		in_child(l, def_fd, ready[1], program);
	close(ready[1]);
	if (*pid < 0) {
		close(ready[0]);
		return err_sys(e, -errno, "fork");
	}
	rc = await_ready(ready[0], l->dir, e);
	close(ready[0]);
	if (rc)
		launch_wait(*pid);
	return rc;
}

int launch_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
