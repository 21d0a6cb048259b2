#include "agent/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/unix_socket.h"
#include "base/util.h"

#define RETRY_MS 50
#define TIME_SLACK_NS 100000000ull /* a busy host: asked again */
#define TIME_TRIES 8u
#define SEED 64

static uint64_t now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* Waits for `events` until `end` (0: for ever). */
static int wait_for(struct agent_client *c, short events, uint64_t end, struct err *e)
{
	for (;;) {
		uint64_t t = now_ms();
		struct pollfd p = {c->fd, events, 0};
		int rc;

		if (end && t >= end)
			return err_set(e, -ETIMEDOUT, "the guest's agent does not answer in time");
		rc = poll(&p, 1, end ? (int)MIN(end - t, 1000000u) : -1);
		if (rc > 0)
			return 0;
		if (rc < 0 && errno != EINTR)
			return err_sys(e, -errno, "poll");
	}
}

static int send_all(
	struct agent_client *c, const void *buf, size_t len, uint64_t end, struct err *e)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = send(
			c->fd, (const char *)buf + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		int rc;

		if (n >= 0) {
			at += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return err_sys(e, -errno, "the guest's agent");
		rc = wait_for(c, POLLOUT, end, e);
		if (rc)
			return rc;
	}
	return 0;
}

int agent_send(struct agent_client *c, uint32_t feature, struct err *e)
{
	if (feature && !(c->features & feature))
		return err_set(e, -ENOTSUP, "the guest's agent (%s) cannot do that", c->build);
	if (!agent_finish(&c->out))
		return err_set(
			e, -E2BIG, "the request does not fit into %u bytes", AGENT_FRAME_MAX);
	return send_all(c, c->out.buf, c->out.len, c->timeout_ms ? now_ms() + c->timeout_ms : 0, e);
}

int agent_push(struct agent_client *c, size_t *at, struct err *e)
{
	while (*at < c->out.len) {
		ssize_t n = send(
			c->fd, c->out.buf + *at, c->out.len - *at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0)
			return err_sys(e, -errno, "the guest's agent");
		*at += (size_t)n;
	}
	return 1;
}

static int said_error(struct agent_client *c, struct err *e)
{
	uint32_t code = agent_get_u32(&c->in);
	cleanup(free_ptr) char *text = agent_get_text(&c->in);

	if (!agent_complete(&c->in) || !code || code > 4095)
		return err_set(e, -EPROTO, "the guest's agent sent an error that makes no sense");
	/* The text is the guest's: it must not be able to paint on a terminal. */
	for (char *p = text; p && *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return err_set(e, -(int)code, "in the guest: %s", text ?: "");
}

int agent_receive(struct agent_client *c, unsigned timeout_ms, struct err *e)
{
	uint64_t end = timeout_ms ? now_ms() + timeout_ms : 0;
	int r;

	while (!(r = agent_next(&c->in))) {
		size_t room;
		void *to = agent_room(&c->in, &room);
		ssize_t n = recv(c->fd, to, room, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			int rc = wait_for(c, POLLIN, end, e);

			if (rc)
				return rc;
			continue;
		}
		if (n <= 0)
			return err_set(e, -ECONNRESET, "the guest's agent has gone");
		agent_got(&c->in, (size_t)n);
	}
	if (r < 0)
		return err_set(e, -EPROTO, "what the guest's agent says is not its protocol");
	return c->in.type == AGENT_ERROR ? said_error(c, e) : 0;
}

int agent_checked(struct agent_client *c, struct err *e)
{
	if (agent_complete(&c->in))
		return 0;
	return err_set(e, -EPROTO, "the guest's agent sent an answer (%d) of the wrong length",
		(int)c->in.type);
}

int agent_expect(struct agent_client *c, enum agent_type t, struct err *e)
{
	int rc = agent_receive(c, c->timeout_ms, e);

	if (!rc && c->in.type != t)
		rc = err_set(e, -EPROTO, "the guest's agent answered %d where %d should come",
			(int)c->in.type, (int)t);
	return rc;
}

int agent_call(struct agent_client *c, uint32_t feature, uint64_t *value, struct err *e)
{
	int rc = agent_send(c, feature, e) ?: agent_expect(c, AGENT_OK, e);
	uint64_t v;

	if (rc)
		return rc;
	v = agent_get_u64(&c->in);
	if (value)
		*value = v;
	return agent_checked(c, e);
}

/* "OK <port>\n", byte by byte: the agent's HELLO follows it. */
static int greeting(struct agent_client *c, struct err *e)
{
	uint64_t end = now_ms() + c->timeout_ms;
	char line[32];

	for (size_t n = 0; n < sizeof(line) - 1;) {
		ssize_t got = recv(c->fd, line + n, 1, MSG_DONTWAIT);
		int rc;

		if (got < 0 && errno == EAGAIN) {
			rc = wait_for(c, POLLIN, end, e);
			if (rc)
				return rc;
			continue;
		}
		if (got <= 0)
			return err_set(e, -ECONNREFUSED,
				"no agent answers in the guest (is lodge-agent installed, and the "
				"guest up?)");
		if (line[n++] == '\n')
			return strncmp(line, "OK ", 3)
				       ? err_set(e, -EPROTO, "this is not a machine's vsock socket")
				       : 0;
	}
	return err_set(e, -EPROTO, "this is not a machine's vsock socket");
}

static int hello(struct agent_client *c, struct err *e)
{
	cleanup(free_ptr) char *build = NULL;
	int rc = agent_expect(c, AGENT_HELLO, e);

	if (rc)
		return rc;
	c->version = agent_get_u32(&c->in);
	c->features = agent_get_u32(&c->in);
	build = agent_get_text(&c->in);
	snprintf(c->build, sizeof(c->build), "%s", build ?: "");
	for (char *p = c->build; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	rc = agent_checked(c, e);
	if (!rc && (!c->version || c->version > AGENT_VERSION))
		rc = err_set(e, -ENOTSUP,
			"the guest's agent (%s) speaks version %u, this program up to %u", c->build,
			c->version, AGENT_VERSION);
	return rc;
}

static int connect_once(struct agent_client *c, const char *path, struct err *e)
{
	static const char ask[] = "CONNECT 1024\n";
	int rc;

	_Static_assert(AGENT_PORT == 1024, "the line above");
	c->fd = unix_connect(path, SOCK_STREAM, e);
	if (c->fd < 0)
		return c->fd;
	rc = send_all(c, ask, sizeof(ask) - 1, now_ms() + c->timeout_ms, e);
	return rc == -EPIPE || rc == -ECONNRESET
		       ? err_set(e, -ECONNREFUSED, "the guest has no vsock driver yet")
		       : rc ?: greeting(c, e) ?: hello(c, e);
}

int agent_open(struct agent_client **out, const char *vsock_path, unsigned timeout_ms, bool wait,
	struct err *e)
{
	struct agent_client *c = calloc(1, sizeof(*c));
	uint64_t end = now_ms() + timeout_ms;
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "agent: out of memory");
	c->fd = -1;
	c->timeout_ms = timeout_ms;
	for (;;) {
		struct err last = {0};

		rc = connect_once(c, vsock_path, &last);
		if (!rc) {
			*out = c;
			return 0;
		}
		if (c->fd >= 0)
			close(c->fd);
		c->fd = -1;
		c->in = (struct agent_in){0};
		if (!wait || (rc != -ECONNREFUSED && rc != -ECONNRESET) ||
			now_ms() + RETRY_MS > end) {
			if (e)
				*e = last;
			break;
		}
		nanosleep(&(struct timespec){0, RETRY_MS * 1000000l}, NULL);
	}
	agent_close(c);
	return rc;
}

void agent_close(struct agent_client *c)
{
	if (c && c->fd >= 0)
		close(c->fd);
	free(c);
}

void agent_closep(struct agent_client **c)
{
	agent_close(*c);
}

/* What asking took is how late the guest heard it, at most. */
static int set_time_once(struct agent_client *c, int64_t *off_ns, uint64_t *took_ns, struct err *e)
{
	uint64_t was, host = clock_wall_ns(), began = clock_mono_ns();
	int rc;

	agent_begin(&c->out, AGENT_TIME);
	agent_put_u64(&c->out, host);
	rc = agent_call(c, AGENT_F_TIME, &was, e);
	*took_ns = clock_mono_ns() - began;
	*off_ns = rc ? 0 : (int64_t)(host - was);
	return rc;
}

int agent_set_time(struct agent_client *c, int64_t *off_ns, struct err *e)
{
	uint64_t took = 0;
	int64_t first, again;
	int rc = set_time_once(c, &first, &took, e);

	for (unsigned i = 0; !rc && took > TIME_SLACK_NS && i < TIME_TRIES; i++)
		rc = set_time_once(c, &again, &took, e);
	if (!rc && off_ns)
		*off_ns = first;
	return rc;
}

int agent_identity(struct agent_client *c, uint32_t flags, const char *host_name, struct err *e)
{
	uint8_t seed[SEED];

	if (getrandom(seed, sizeof(seed), 0) != sizeof(seed))
		return err_sys(e, -errno, "random numbers");
	agent_begin(&c->out, AGENT_IDENTITY);
	agent_put_u32(&c->out, flags);
	agent_put_bytes(&c->out, seed, sizeof(seed));
	agent_put_text(&c->out, host_name);
	explicit_bzero(seed, sizeof(seed));
	return agent_call(c, AGENT_F_IDENTITY, NULL, e);
}

int agent_freeze(struct agent_client *c, uint32_t ms, uint64_t *count, struct err *e)
{
	agent_begin(&c->out, AGENT_FREEZE);
	agent_put_u32(&c->out, ms);
	return agent_call(c, AGENT_F_FREEZE, count, e);
}

int agent_thaw(struct agent_client *c, struct err *e)
{
	agent_begin(&c->out, AGENT_THAW);
	return agent_call(c, AGENT_F_FREEZE, NULL, e);
}

int agent_hold(struct agent_client *c, uint32_t ms, struct err *e)
{
	agent_begin(&c->out, AGENT_HOLD);
	agent_put_u32(&c->out, ms);
	return agent_call(c, AGENT_F_CLONE, NULL, e);
}

int agent_release(struct agent_client *c, struct err *e)
{
	agent_begin(&c->out, AGENT_RELEASE);
	return agent_call(c, AGENT_F_CLONE, NULL, e);
}

int agent_address(struct agent_client *c, uint32_t number, const uint8_t (*mac)[2][6], uint32_t n,
	struct err *e)
{
	agent_begin(&c->out, AGENT_ADDRESS);
	agent_put_u32(&c->out, number);
	agent_put_u32(&c->out, n);
	for (uint32_t i = 0; i < n; i++) {
		agent_put_bytes(&c->out, mac[i][0], 6);
		agent_put_bytes(&c->out, mac[i][1], 6);
	}
	return agent_call(c, AGENT_F_CLONE, NULL, e);
}

int agent_power(struct agent_client *c, enum agent_power what, struct err *e)
{
	agent_begin(&c->out, AGENT_POWER);
	agent_put_u32(&c->out, what);
	return agent_call(c, AGENT_F_POWER, NULL, e);
}

bool agent_pending(const struct agent_client *c)
{
	const struct agent_in *in = &c->in;

	return in->len - in->frame >= AGENT_HEAD &&
	       in->len - in->frame >= AGENT_HEAD + get_le32(in->buf + in->frame);
}
