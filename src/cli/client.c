#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/json.h"
#include "base/spell.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "vm/rundir.h"
#include "vm/switchdir.h"

#define SWEEP_AFTER_S 60

int client_path(const char *name, const char *file, char *path, size_t size, struct err *e)
{
	return rundir_path(name, file, path, size, e);
}

/* A directory that nobody holds; not a young one, which somebody may be about to take. */
static void sweep(const char *name)
{
	char path[4096];
	struct stat st;
	int lock;

	/* Without a lock file it is nothing of ours. */
	if (rundir_path(name, "lock", path, sizeof(path), NULL) || stat(path, &st) ||
		time(NULL) - st.st_mtime < SWEEP_AFTER_S || rundir_claim(name, &lock, NULL))
		return;
	rundir_remove(name);
	close(lock);
}

static bool lives(char *name)
{
	if (rundir_alive(name))
		return true;
	sweep(name);
	return false;
}

int client_names(struct fs_names *names, struct err *e)
{
	char path[4096];

	*names = (struct fs_names){0};
	return fs_place_path(FS_RUNTIME, path, sizeof(path), e) ?: fs_list(path, lives, names, e);
}

static int no_such(const char *name, struct err *e)
{
	cleanup(fs_names_free) struct fs_names names;
	const char *near;

	if (client_names(&names, NULL))
		return err_set(e, -ENOENT, "no machine %s is running", name);
	near = spell_nearest(name, (const char *const *)names.v, names.n);
	if (near)
		return err_set(
			e, -ENOENT, "no machine %s is running; did you mean %s?", name, near);
	if (names.n)
		return err_set(e, -ENOENT,
			"no machine %s is running; `lodge ps` lists those that are", name);
	return err_set(e, -ENOENT,
		"no machine %s is running; in fact none is (start one: lodge run)", name);
}

static void client_begin(struct client *c, const char *name)
{
	memset(c, 0, sizeof(*c));
	c->fd = -1;
	snprintf(c->name, sizeof(c->name), "%s", name);
}

static int connect_to(struct client *c, const char *kind, const char *path, struct err *e)
{
	int rc = unix_connect(path, SOCK_STREAM, e);

	if (rc == -ENAMETOOLONG)
		return err_wrap(e, "%s %s", kind, c->name);
	if (rc < 0)
		return err_sys(e, rc, "%s %s: its control socket does not answer", kind, c->name);
	c->fd = rc;
	return 0;
}

int client_open(struct client *c, const char *name, struct err *e)
{
	char path[4096];
	int rc;

	client_begin(c, name);
	rc = rundir_check_name(name, e) ?: rundir_path(name, "control.sock", path, sizeof(path), e);
	if (rc)
		return rc;
	if (!rundir_alive(name))
		return no_such(name, e);
	return connect_to(c, "machine", path, e);
}

static int connect_switch(struct client *c, const char *name, struct err *e)
{
	char path[4096];

	client_begin(c, name);
	return switch_path(name, "ctl", path, sizeof(path), e) ?: connect_to(c, "switch", path, e);
}

/* The name of its control socket becomes the switch's. */
static bool switch_answers(char *name)
{
	cleanup(client_close) struct client c = {.fd = -1};
	char *dot = strrchr(name, '.');

	if (!dot || strcmp(dot, ".ctl"))
		return false;
	*dot = 0;
	return !connect_switch(&c, name, NULL);
}

int client_switch_names(struct fs_names *names, struct err *e)
{
	char path[4096];

	*names = (struct fs_names){0};
	return switch_path(NULL, NULL, path, sizeof(path), e)
		       ?: fs_list(path, switch_answers, names, e);
}

int client_open_switch(struct client *c, const char *name, struct err *e)
{
	cleanup(fs_names_free) struct fs_names names = {0};
	int rc = connect_switch(c, name, e);
	const char *near;

	if (rc != -ENOENT && rc != -ECONNREFUSED)
		return rc;
	(void)client_switch_names(&names, NULL);
	near = spell_nearest(name, (const char *const *)names.v, names.n);
	if (near)
		return err_set(e, -ENOENT, "there is no switch %s; did you mean %s?", name, near);
	return err_set(e, -ENOENT, "there is no switch %s: lodge switch ls", name);
}

void client_patience(struct client *c, unsigned seconds)
{
	struct timeval t = {.tv_sec = seconds};

	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	free(c->buf);
	c->buf = NULL;
}

static int send_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int make_room(struct client *c, size_t more)
{
	size_t cap = MAX(c->cap, 4096ul);
	char *p;

	while (cap < c->len + more)
		cap *= 2;
	if (cap == c->cap)
		return 0;
	p = realloc(c->buf, cap);
	if (!p)
		return -ENOMEM;
	c->buf = p;
	c->cap = cap;
	return 0;
}

/* One line without its newline, in c's memory until the next call. Nothing behind it is taken: a raw stream may follow. */
static int read_line(struct client *c, char **line, size_t *len, struct err *e)
{
	const char *end = NULL;

	while (!end) {
		char part[16384];
		ssize_t n = recv(c->fd, part, sizeof(part), MSG_PEEK);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return err_set(e, -ETIMEDOUT, "machine %s does not answer", c->name);
		if (n <= 0)
			return err_set(e, -EPIPE, "machine %s has gone", c->name);
		end = memchr(part, '\n', (size_t)n);
		n = end ? end - part + 1 : n;
		if (make_room(c, (size_t)n))
			return err_set(e, -ENOMEM, "out of memory");
		if (recv(c->fd, c->buf + c->len, (size_t)n, MSG_WAITALL) != n)
			return err_set(e, -EPIPE, "machine %s has gone", c->name);
		c->len += (size_t)n;
	}
	*line = c->buf;
	*len = c->len - 1;
	c->len = 0;
	return 0;
}

static int read_message(struct client *c, json_t **msg, struct err *e)
{
	char *line = NULL;
	size_t len = 0;
	int rc = read_line(c, &line, &len, e);

	if (rc)
		return rc;
	*msg = json_loadb(line, len, 0, NULL);
	return *msg ? 0
		    : err_set(e, -EPROTO, "machine %s answered something that is not JSON",
			      c->name);
}

static int take_error(const struct client *c, const json_t *error, struct err *e)
{
	const char *text = json_string_value(json_object_get(error, "message"));
	const char *num = json_string_value(
		json_object_get(json_object_get(error, "data"), "errno"));
	int code = num && !strcmp(num, "EBUSY")	   ? -EBUSY
		   : num && !strcmp(num, "ENOENT") ? -ENOENT
						   : -EREMOTEIO;

	return err_set(e, code, "machine %s: %s", c->name, text ?: "it refused");
}

/* The first byte, with the descriptors. */
static int send_fds(int sock, const char *p, const int *fds, unsigned n)
{
	struct iovec iov = {(void *)(uintptr_t)p, 1};
	union {
		char buf[CMSG_SPACE(CLIENT_FDS * sizeof(int))];
		struct cmsghdr align;
	} u = {{0}};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = u.buf,
		.msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	while (sendmsg(sock, &m, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int client_call(
	struct client *c, const char *method, json_t *params, json_t **result, struct err *e)
{
	return client_call_fds(c, method, params, NULL, 0, result, e);
}

int client_call_fd(struct client *c, const char *method, json_t *params, int fd, json_t **result,
	struct err *e)
{
	return client_call_fds(c, method, params, &fd, 1, result, e);
}

int client_call_fds(struct client *c, const char *method, json_t *params, const int *fds,
	unsigned nfds, json_t **result, struct err *e)
{
	json_t *req = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", (int)++c->id,
		"method", method, "params", params);
	char *text = json_dumps(req, JSON_COMPACT);
	int rc;

	json_decref(req);
	if (!text)
		return err_set(e, -ENOMEM, "out of memory");
	rc = nfds ? send_fds(c->fd, text, fds, nfds) : 0;
	if (!rc)
		rc = send_all(c->fd, text + (nfds > 0), strlen(text) - (nfds > 0))
			     ?: send_all(c->fd, "\n", 1);
	free(text);
	if (rc)
		return rc == -EPIPE ? err_set(e, rc, "machine %s has gone", c->name)
				    : err_sys(e, rc, "machine %s", c->name);
	for (;;) {
		cleanup(json_drop) json_t *msg = NULL;

		rc = read_message(c, &msg, e);
		if (rc)
			return rc;
		if (json_integer_value(json_object_get(msg, "id")) != (json_int_t)c->id)
			continue;
		if (json_object_get(msg, "error"))
			return take_error(c, json_object_get(msg, "error"), e);
		if (result)
			*result = json_incref(json_object_get(msg, "result"));
		return 0;
	}
}

int client_event(struct client *c, char *event, size_t size, json_t **params, struct err *e)
{
	for (;;) {
		cleanup(json_drop) json_t *msg = NULL;
		const char *name;
		int rc = read_message(c, &msg, e);

		if (rc)
			return rc;
		name = json_string_value(json_object_get(msg, "method"));
		if (!name)
			continue;
		snprintf(event, size, "%s", name);
		*params = json_incref(json_object_get(msg, "params"));
		return 0;
	}
}
