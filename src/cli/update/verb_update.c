#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fdlist.h"
#include "base/json.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "cli/client.h"
#include "cli/launch/launch.h"
#include "cli/place.h"
#include "cli/update/successor.h"
#include "cli/ui/print.h"
#include "cli/verb.h"
#include "vm/update/channel.h"

struct update {
	char *program;
	bool json;
};

static const struct opt update_opts[] = {
	{"program", .type = OPT_TEXT, OPT_AT(struct update, program), .arg = "FILE",
		.complete = OPT_COMPLETE_FILE,
		.help = "the lodge-vm that goes on with the machine; without it the installed one"},
	{"json", .type = OPT_FLAG, OPT_AT(struct update, json), .help = "print one object"},
	OPT_DONE,
};

static const struct opt_group update_groups[] = {{"Options", update_opts, 0}, {0}};

static int open_program(const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return err_sys(e, -errno, "update: program %s", path);
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_mode & 0111)
		return fd;
	close(fd);
	return err_set(e, -EACCES, "update: %s is not a program", path);
}

static int no_keeper(const char *name, struct err *e)
{
	return err_set(e, -EOPNOTSUPP,
		"update: machine %s was started by hand, without the keeper that would start and "
		"wait for "
		"its new process: shut it down and use `lodge run`",
		name);
}

static int connect_keeper(const char *name, struct err *e)
{
	cleanup(close_fd) int dir = -1;
	char path[PATH_MAX];
	int rc = place_path(name, path, sizeof(path), e), fd;

	if (rc)
		return rc;
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return no_keeper(name, e);
	snprintf(path, sizeof(path), "/proc/self/fd/%d/" SUCCESSOR_SOCKET, dir);
	fd = unix_connect(path, SOCK_SEQPACKET, NULL);
	return fd < 0 ? no_keeper(name, e) : fd;
}

/* The new process is started and waits; the other end of its channel. */
static int start_new(int keeper, int program, struct err *e)
{
	cleanup(json_drop) json_t *msg = NULL;
	struct fdlist fds = {0};
	int rc, fd;

	fdlist_add(&fds, program);
	rc = channel_send(keeper, json_pack("{s:s}", "t", "start"), &fds, e);
	fdlist_free(&fds);
	if (!rc)
		rc = channel_receive(keeper, 30000, &msg, &fds, e);
	fd = rc ? -1 : fdlist_take(&fds, 0);
	fdlist_close(&fds);
	if (rc == -EPIPE)
		return err_set(
			e, -EPERM, "update: the machine's keeper does not take orders from here");
	if (rc)
		return rc;
	return fd >= 0 ? fd
		       : err_set(e, -(int)json_integer_value(json_object_get(msg, "errno")) ?: -EIO,
				 "%s",
				 json_string_value(json_object_get(msg, "error"))
					 ?: "update: failed");
}

static int update(const char *name, const char *program, json_t **res, struct err *e)
{
	cleanup(client_close) struct client c = {.fd = -1};
	cleanup(close_fd) int keeper = -1, fd = -1, channel = -1;
	int rc = client_open(&c, name, e);

	if (rc)
		return rc;
	fd = open_program(program, e);
	if (fd < 0)
		return fd;
	keeper = connect_keeper(name, e);
	if (keeper < 0)
		return keeper;
	channel = start_new(keeper, fd, e);
	if (channel < 0)
		return channel;
	return client_call_fd(&c, "update", NULL, channel, res, e);
}

static int run_update(void *opts, const struct args *a)
{
	cleanup(json_drop) json_t *res = NULL;
	struct update *u = opts;
	struct err e = {0};
	char program[PATH_MAX + 32];

	launch_program(program, sizeof(program));
	if (update(a->v[0], u->program ?: program, &res, &e))
		return fail(&e);
	if (u->json) {
		print_json(res);
	} else {
		printf("%s: lodge-vm %s goes on from %s; the guest stood still for %.1f ms\n",
			a->v[0], json_string_value(json_object_get(res, "version")),
			json_string_value(json_object_get(res, "from")),
			(double)json_integer_value(json_object_get(res, "pause_us")) / 1000);
	}
	return EXIT_DONE;
}

const struct verb verbs_update[] = {
	{VERB("update", "NAME", "replace the lodge-vm of a running machine by another build"),
		.cmd.text = "The guest runs on; memory is not copied. Connections to the console, "
			    "to the "
			    "guest's sockets and through its networks stay. What fails leaves the "
			    "machine "
			    "with the lodge-vm that it has.",
		.cmd.min_args = 1, .cmd.max_args = 1, .cmd.names = "names machines",
		.cmd.groups = update_groups, .size = sizeof(struct update), .run = run_update},
	VERBS_END,
};
