/* The agent's protocol and its client, against agents of every kind: one that answers, and many that should not be trusted. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/client.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"

static struct agent_out out;
static struct agent_in in;

static void fields_come_back(void **state)
{
	size_t room, n;
	char *text;

	agent_begin(&out, AGENT_FILE);
	agent_put_u32(&out, 0x12345678);
	agent_put_u64(&out, 0x123456789abcdef0);
	agent_put_text(&out, "name");
	agent_put_bytes(&out, "\0\1", 2);
	assert_true(agent_finish(&out));
	in = (struct agent_in){0};
	/* Two frames, in pieces of every size. */
	for (size_t at = 0; at < 2 * out.len; at++) {
		uint8_t *to = agent_room(&in, &room);

		assert_true(room > 0);
		*to = out.buf[at % out.len];
		agent_got(&in, 1);
		assert_int_equal(agent_next(&in), (at + 1) % out.len ? 0 : 1);
	}
	assert_int_equal(in.type, AGENT_FILE);
	assert_int_equal(agent_get_u32(&in), 0x12345678);
	assert_int_equal(agent_get_u64(&in), 0x123456789abcdef0);
	text = agent_get_text(&in);
	assert_string_equal(text, "name");
	free(text);
	assert_false(agent_complete(&in));
	assert_memory_equal(agent_get_bytes(&in, &n), "\0\1", 2);
	assert_int_equal(n, 2);
	assert_true(agent_complete(&in));
	assert_int_equal(agent_get_u32(&in), 0);
	assert_false(agent_complete(&in));
}

static int feed(const void *p, size_t n)
{
	size_t room;

	in = (struct agent_in){0};
	memcpy(agent_room(&in, &room), p, n);
	agent_got(&in, n);
	return agent_next(&in);
}

static void bad_frames_are_seen(void **state)
{
	static const uint8_t big[8] = {1, 0, 1, 0, 80}, flags[8] = {0, 0, 0, 0, 80, 0, 1};
	static const uint8_t nul[15] = {7, 0, 0, 0, 80, 0, 0, 0, 3, 0, 0, 0, 'a', 0, 'b'};
	static const uint8_t longer[12] = {4, 0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0};
	char *text;

	assert_int_equal(feed(big, 8), -1);
	assert_int_equal(feed(flags, 8), -1);
	assert_int_equal(feed(nul, 15), 1);
	text = agent_get_text(&in);
	assert_string_equal(text, "");
	free(text);
	assert_false(agent_complete(&in));
	assert_int_equal(feed(longer, 12), 1);
	text = agent_get_text(&in);
	assert_string_equal(text, "");
	free(text);
	assert_false(agent_complete(&in));
}

static void what_does_not_fit_is_not_sent(void **state)
{
	static char big[AGENT_FRAME_MAX];

	agent_begin(&out, AGENT_DATA);
	agent_put_rest(&out, big, sizeof(big));
	assert_true(agent_finish(&out));
	agent_put_u32(&out, 1);
	assert_false(agent_finish(&out));
}

/* ---- the client ---- */

struct fake {
	char dir[32], path[64];
	int lfd;
	pthread_t thread;
	const uint8_t *say; /* after "OK 1\n" */
	size_t len;
	const char *greeting;
	bool hold; /* keep the connection open */
};

static void *fake_run(void *p)
{
	struct fake *f = p;
	int fd = accept(f->lfd, NULL, NULL);
	char line[64];
	ssize_t n = read(fd, line, sizeof(line));

	assert_int_equal(n, 13);
	assert_memory_equal(line, "CONNECT 1024\n", 13);
	/* The client may have gone already: what it makes of what came is its own matter. */
	if (send(fd, f->greeting, strlen(f->greeting), MSG_NOSIGNAL) >= 0)
		send(fd, f->say, f->len, MSG_NOSIGNAL);
	if (f->hold) /* until the client goes */
		while (read(fd, line, sizeof(line)) > 0)
			;
	close(fd);
	return NULL;
}

static int fake_open(struct fake *f, struct agent_client **c, struct err *e)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	strcpy(f->dir, "/tmp/lodge-agent.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/v", f->dir);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", f->path);
	f->lfd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(f->lfd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(f->lfd, 1), 0);
	f->greeting = f->greeting ?: "OK 1\n";
	pthread_create(&f->thread, NULL, fake_run, f);
	return agent_open(c, f->path, 300, false, e);
}

static void fake_close(struct fake *f)
{
	pthread_join(f->thread, NULL);
	close(f->lfd);
	unlink(f->path);
	rmdir(f->dir);
}

static void add_hello(struct agent_out *o, uint32_t version)
{
	agent_begin(o, AGENT_HELLO);
	agent_put_u32(o, version);
	agent_put_u32(o, AGENT_F_TIME);
	agent_put_text(o, "test \033[2J");
	agent_finish(o);
}

static size_t script(uint8_t *to, uint32_t version, const struct agent_out *then)
{
	static struct agent_out hello;

	add_hello(&hello, version);
	memcpy(to, hello.buf, hello.len);
	if (then)
		memcpy(to + hello.len, then->buf, then->len);
	return hello.len + (then ? then->len : 0);
}

static void the_client_asks_and_hears(void **state)
{
	static uint8_t say[4096];
	struct agent_client *c = NULL;
	struct fake f = {.say = say, .hold = true};
	struct err e = {0};
	int64_t off;

	agent_begin(&out, AGENT_OK);
	agent_put_u64(&out, 1000);
	agent_finish(&out);
	f.len = script(say, 1, &out);
	assert_int_equal(fake_open(&f, &c, &e), 0);
	assert_string_equal(c->build, "test ?[2J");
	assert_int_equal(agent_set_time(c, &off, &e), 0);
	assert_true(off > 1000000000ll);
	/* It never said that it can freeze. */
	assert_int_equal(agent_freeze(c, 1000, NULL, &e), -ENOTSUP);
	agent_close(c);
	fake_close(&f);
}

static void the_guests_errors_are_told_without_its_control_characters(void **state)
{
	static uint8_t say[4096];
	struct agent_client *c = NULL;
	struct fake f = {.say = say, .hold = true};
	struct err e = {0};

	agent_begin(&out, AGENT_ERROR);
	agent_put_u32(&out, EPERM);
	agent_put_text(&out, "clock: \033]0;x\a no");
	agent_finish(&out);
	f.len = script(say, 1, &out);
	assert_int_equal(fake_open(&f, &c, &e), 0);
	assert_int_equal(agent_set_time(c, NULL, &e), -EPERM);
	assert_string_equal(err_msg(&e), "in the guest: clock: ?]0;x? no");
	agent_close(c);
	fake_close(&f);
}

static void agents_that_cannot_be_trusted_are_refused(void **state)
{
	static uint8_t say[4096], ff[64];
	static const struct {
		const char *greeting;
		uint32_t version; /* 0: `raw` instead of a hello */
		bool hold;
		int code;
	} rows[] = {
		{"HTTP/1.0 400\n", 1, true, -EPROTO},
		{"no line ends here, and it goes on and on and on", 1, true, -EPROTO},
		{"", 0, false, -EPROTO},
		{"OK 1\n", 99, true, -ENOTSUP},
		{"OK 1\n", 0, true, -EPROTO},
	};

	memset(ff, 0xff, sizeof(ff));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct agent_client *c = NULL;
		struct fake f = {.say = rows[i].version ? say : ff,
			.greeting = rows[i].greeting,
			.hold = rows[i].hold};
		struct err e = {0};

		f.len = rows[i].version ? script(say, rows[i].version, NULL) : sizeof(ff);
		assert_int_equal(fake_open(&f, &c, &e), rows[i].code);
		assert_null(c);
		fake_close(&f);
	}
}

static void silence_ends_at_the_deadline(void **state)
{
	static uint8_t say[4096];
	struct agent_client *c = NULL;
	struct fake f = {.say = say, .hold = true};
	struct err e = {0};

	f.len = script(say, 1, NULL) - 1; /* a hello without its last byte */
	assert_int_equal(fake_open(&f, &c, &e), -ETIMEDOUT);
	fake_close(&f);
	assert_int_equal(agent_open(&c, "/nonexistent/v", 100, true, &e), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_come_back),
		cmocka_unit_test(bad_frames_are_seen),
		cmocka_unit_test(what_does_not_fit_is_not_sent),
		cmocka_unit_test(the_client_asks_and_hears),
		cmocka_unit_test(the_guests_errors_are_told_without_its_control_characters),
		cmocka_unit_test(agents_that_cannot_be_trusted_are_refused),
		cmocka_unit_test(silence_ends_at_the_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
