#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "cli/place.h"
#include "cli/verb.h"
#include "vm/rundir.h"

struct logs {
	bool follow, machine, console, some;
	uint64_t tail;
};

static const struct opt opts[] = {
	{"follow", 'f', .type = OPT_FLAG, OPT_AT(struct logs, follow),
		.help = "go on until the machine ends"},
	{"tail", .type = OPT_U64, OPT_AT(struct logs, tail),
		.set_offset = offsetof(struct logs, some), .arg = "N",
		.help = "begin with the last N lines; 0: with what comes now"},
	{"machine", 'm', .type = OPT_FLAG, OPT_AT(struct logs, machine),
		.help = "the log of lodge-vm instead of the guest's console"},
	{"console", 'c', .type = OPT_FLAG, OPT_AT(struct logs, console),
		.help = "the guest's console, as without it"},
	OPT_DONE,
};
static const struct opt_group groups[] = {{"Options", opts, 0}, {0}};

/* Goes to where the last `lines` lines begin. What is after the last newline is a line, too. */
static void seek_lines(int fd, uint64_t lines)
{
	off_t at = lseek(fd, 0, SEEK_END), end = at;
	char buf[16384];

	while (at > 0 && lines) {
		off_t from = at > (off_t)sizeof(buf) ? at - (off_t)sizeof(buf) : 0;
		ssize_t n = pread(fd, buf, (size_t)(at - from), from);

		if (n != at - from)
			return; /* it goes on from the end */
		while (at > from && (at == end || buf[at - from - 1] != '\n' || --lines))
			at--;
	}
	lseek(fd, at, SEEK_SET);
}

static bool copy(int fd)
{
	char buf[16384];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n)
			return false;
	return fflush(stdout) == 0;
}

static int run(void *o, const struct args *a)
{
	const struct logs *l = o;
	char dir[PATH_MAX], path[PATH_MAX + 16];
	cleanup(close_fd) int fd = -1;
	struct err e = {0};
	bool alive;

	if (l->machine && l->console)
		return usage("--machine and --console: take one");
	if (rundir_check_name(a->v[0], &e) || place_path(a->v[0], dir, sizeof(dir), &e))
		return fail(&e);
	snprintf(path, sizeof(path), "%s/%s.log", dir, l->machine ? "machine" : "console");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		err_set(&e, -errno,
			errno == ENOENT ? "no log of a machine %s; logs of machines without a "
					  "chosen name go when they end"
					: "%s: cannot be read",
			a->v[0]);
		return fail(&e);
	}
	if (l->some)
		seek_lines(fd, l->tail);
	do {
		alive = rundir_alive(a->v[0]); /* before the copy, so that the end is not missed */
		if (!copy(fd))
			return EXIT_FAILED;
		if (l->follow && alive)
			nanosleep(&(struct timespec){0, 100000000}, NULL);
	} while (l->follow && alive);
	return EXIT_DONE;
}

const struct verb verbs_logs[] = {
	{VERB("logs", "NAME", "print what a machine's guest wrote to its console"),
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.groups = groups,
		.size = sizeof(struct logs), .cmd.names = "names kept", .run = run},
	VERBS_END,
};
