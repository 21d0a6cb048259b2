/* The console's escape, and that a terminal is put back on every way out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/client.h"
#include "cli/ui/terminal.h"

/* Feeds text in pieces of `step`; what the guest gets in out, the actions as letters in acts. */
static void feed(const char *text, size_t n, size_t step, char *out, size_t *len, char *acts)
{
	struct escape s = {0};

	*len = 0;
	for (size_t at = 0; at < n;) {
		size_t m = MIN(step, n - at), got, used;
		char piece[256];
		enum escape_action a = escape_filter(&s, text + at, m, piece, &got, &used);

		assert_true(used > 0 && used <= m && got <= m + 1);
		assert_true(a != ESCAPE_NONE || used == m);
		memcpy(out + *len, piece, got);
		*len += got;
		at += used;
		if (a != ESCAPE_NONE)
			*acts++ = "?xdh"[a];
	}
	*acts = 0;
}

static void escape_cases(void **state)
{
	static const struct {
		const char *in, *out, *acts;
	} t[] = {
		{"plain text\r", "plain text\r", ""}, {"\001x", "", "x"}, {"\001X", "", "x"},
		{"\001d", "", "d"}, {"\001h\001?", "", "hh"}, {"ab\001xcd", "abcd", "x"},
		{"\001\001", "\001", ""}, {"\001\001x", "\001x", ""},
		{"\001\001\001x", "\001", "x"}, {"\001b", "\001b", ""},
		{"\001b\001h", "\001b", "h"}, {"tail\001", "tail", ""}, /* waits for the next key */
		{"\003\004\032", "\003\004\032", ""}, /* Ctrl-C, Ctrl-D, Ctrl-Z are the guest's */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		for (size_t step = 1; step < 8; step++) {
			char out[64], acts[64];
			size_t len;

			feed(t[i].in, strlen(t[i].in), step, out, &len, acts);
			assert_int_equal(len, strlen(t[i].out));
			assert_memory_equal(out, t[i].out, len);
			assert_string_equal(acts, t[i].acts);
		}
	}
}

/* However the bytes are cut, the guest gets the same, and a 0 byte is one like others. */
static void escape_pieces(void **state)
{
	static const char alphabet[] = {1, 1, 'x', 'd', 'h', 'q', 0, '\r'};
	uint32_t r = 12345;

	for (unsigned round = 0; round < 2000; round++) {
		char text[100], whole[200], cut[200], acts[101], acts_cut[101];
		size_t len, len_cut;

		for (unsigned i = 0; i < sizeof(text); i++) {
			r = r * 1664525 + 1013904223;
			text[i] = alphabet[r >> 29];
		}
		feed(text, sizeof(text), sizeof(text), whole, &len, acts);
		feed(text, sizeof(text), 1 + round % 9, cut, &len_cut, acts_cut);
		assert_int_equal(len, len_cut);
		assert_memory_equal(whole, cut, len);
		assert_string_equal(acts, acts_cut);
	}
}

static void not_a_terminal(void **state)
{
	struct terminal_mode m;
	int null = open("/dev/null", O_RDWR);

	terminal_raw(&m, null);
	assert_false(m.raw);
	terminal_restore(&m);
	close(null);
}

/* terminal_run() in a child on a pseudo terminal. */
struct stage {
	int master, slave, guest;
	pid_t child;
	struct termios before;
};

static const int signals[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT};

static void stage_up(struct stage *s)
{
	int sv[2];

	assert_int_equal(openpty(&s->master, &s->slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(s->slave, &s->before), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	s->guest = sv[0];
	s->child = fork();
	if (s->child == 0) {
		struct client c = {.fd = sv[1], .name = "t"};
		int null = open("/dev/null", O_RDWR);
		struct terminal t = {.console = &c,
			.name = "t",
			.owner = true,
			.in = s->slave,
			.out = s->slave,
			.err = null};
		enum terminal_end end;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Tests in the background of a script, or under nohup, are born without some. */
		for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
			signal(signals[i], SIG_DFL);
		close(sv[0]);
		end = terminal_run(&t);
		_exit(end == TERMINAL_SIGNAL ? 100 + t.signum : (int)end);
	}
	close(sv[1]);
}

static bool is_raw(const struct stage *s)
{
	struct termios now;

	assert_int_equal(tcgetattr(s->slave, &now), 0);
	return !(now.c_lflag & (ICANON | ECHO | ISIG));
}

static void await_raw(const struct stage *s)
{
	for (unsigned i = 0; i < 3000 && !is_raw(s); i++)
		nanosleep(&(struct timespec){0, 10000000}, NULL);
	assert_true(is_raw(s));
}

static void assert_restored(const struct stage *s)
{
	struct termios now;

	assert_int_equal(tcgetattr(s->slave, &now), 0);
	assert_int_equal(now.c_iflag, s->before.c_iflag);
	assert_int_equal(now.c_oflag, s->before.c_oflag);
	assert_int_equal(now.c_cflag, s->before.c_cflag);
	assert_int_equal(now.c_lflag, s->before.c_lflag);
	assert_memory_equal(now.c_cc, s->before.c_cc, sizeof(now.c_cc));
}

static void stage_down(struct stage *s, int code)
{
	int status;

	assert_int_equal(waitpid(s->child, &status, 0), s->child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), code);
	assert_restored(s);
	close(s->master);
	close(s->slave);
	if (s->guest >= 0)
		close(s->guest);
}

static void restored_on_signals(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
		struct stage s;

		stage_up(&s);
		await_raw(&s);
		kill(s.child, signals[i]);
		stage_down(&s, 100 + signals[i]);
	}
}

static void restored_on_keys(void **state)
{
	struct stage s;

	stage_up(&s);
	await_raw(&s);
	assert_int_equal(write(s.master, "\001x", 2), 2);
	stage_down(&s, TERMINAL_LEFT);

	stage_up(&s);
	await_raw(&s);
	assert_int_equal(write(s.master, "\001", 1), 1);
	assert_int_equal(write(s.master, "d", 1), 1);
	stage_down(&s, TERMINAL_DETACHED);
}

static void restored_at_the_end(void **state)
{
	struct stage s;
	char buf[16] = "";

	stage_up(&s);
	await_raw(&s);
	/* Ctrl-C is a byte for the guest, not a signal for us. */
	assert_int_equal(write(s.master, "a\003", 2), 2);
	for (size_t n = 0; n < 2;)
		n += (size_t)read(s.guest, buf + n, sizeof(buf) - n);
	assert_string_equal(buf, "a\003");
	assert_int_equal(write(s.guest, "out", 3), 3);
	memset(buf, 0, sizeof(buf));
	for (size_t n = 0; n < 3;)
		n += (size_t)read(s.master, buf + n, sizeof(buf) - n);
	assert_string_equal(buf, "out");
	close(s.guest);
	s.guest = -1;
	stage_down(&s, TERMINAL_GONE);
}

static void given_back_while_stopped(void **state)
{
	struct stage s;
	int status;

	stage_up(&s);
	await_raw(&s);
	kill(s.child, SIGTSTP);
	assert_int_equal(waitpid(s.child, &status, WUNTRACED), s.child);
	assert_true(WIFSTOPPED(status));
	assert_restored(&s);
	kill(s.child, SIGCONT);
	await_raw(&s);
	assert_int_equal(write(s.master, "\001x", 2), 2);
	stage_down(&s, TERMINAL_LEFT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(escape_cases),
		cmocka_unit_test(escape_pieces),
		cmocka_unit_test(not_a_terminal),
		cmocka_unit_test(restored_on_signals),
		cmocka_unit_test(restored_on_keys),
		cmocka_unit_test(restored_at_the_end),
		cmocka_unit_test(given_back_while_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
