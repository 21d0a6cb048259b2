/* test_unix_socket.c: sockets with a path, on the host's own. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "folder.h"

static void who_connects_is_heard(void **state)
{
	static const int types[] = {SOCK_STREAM, SOCK_SEQPACKET};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		int l = unix_listen("s", types[i] | SOCK_NONBLOCK, 8, NULL), a, b;
		char got = 0;

		assert_true(l >= 0);
		assert_true(fcntl(l, F_GETFL) & O_NONBLOCK && fcntl(l, F_GETFD) & FD_CLOEXEC);
		assert_true(accept(l, NULL, NULL) < 0 && errno == EAGAIN);
		a = unix_connect("s", types[i], NULL);
		assert_true(a >= 0);
		assert_true(!(fcntl(a, F_GETFL) & O_NONBLOCK) && fcntl(a, F_GETFD) & FD_CLOEXEC);
		b = accept(l, NULL, NULL);
		assert_true(b >= 0);
		assert_int_equal(write(a, "x", 1), 1);
		assert_int_equal(read(b, &got, 1), 1);
		assert_int_equal(got, 'x');
		close(a);
		close(b);
		close(l);
		assert_int_equal(unlink("s"), 0);
	}
}

static void the_file_is_its_owners(void **state)
{
	mode_t was = umask(0);
	int l = unix_listen("s", SOCK_STREAM, 1, NULL);
	struct stat st;

	umask(was);
	assert_int_equal(stat("s", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	close(l);
	unlink("s");
}

static void a_path_that_is_too_long_says_so(void **state)
{
	char path[128];
	struct err e = {0};
	int l;

	memset(path, 'p', sizeof(path));
	path[UNIX_PATH_LONGEST] = 0;
	l = unix_listen(path, SOCK_STREAM, 1, &e);
	assert_true(l >= 0);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(unix_clear(path), -EADDRINUSE);
	close(l);
	assert_int_equal(unix_clear(path), 0);
	assert_int_equal(access(path, F_OK), -1);

	path[UNIX_PATH_LONGEST] = 'p';
	path[UNIX_PATH_LONGEST + 1] = 0;
	assert_int_equal(unix_listen(path, SOCK_STREAM, 1, &e), -ENAMETOOLONG);
	assert_non_null(strstr(err_msg(&e), "108 bytes"));
	assert_non_null(strstr(err_msg(&e), "may have 107"));
	e = (struct err){0};
	assert_int_equal(unix_connect(path, SOCK_STREAM, &e), -ENAMETOOLONG);
	assert_non_null(strstr(err_msg(&e), "may have 107"));
}

static void nobody_is_said_to_be_there(void **state)
{
	struct err e = {0};

	assert_int_equal(unix_connect("none", SOCK_STREAM, &e), -ENOENT);
	assert_non_null(strstr(err_msg(&e), "none: "));
	close(unix_listen("s", SOCK_STREAM, 1, &e));
	assert_int_equal(unix_connect("s", SOCK_STREAM, &e), -ECONNREFUSED);
	assert_int_equal(unix_listen("s", SOCK_STREAM, 1, &e), -EADDRINUSE);
	unlink("s");
}

static void only_what_is_dead_is_cleared(void **state)
{
	int l, waits[4];

	assert_int_equal(unix_clear("none"), 0);
	close(open("f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(unix_clear("f"), 0);
	assert_int_equal(access("f", F_OK), 0);
	/* Of another type than the one it is looked at with; and with no room for one more. */
	l = unix_listen("s", SOCK_SEQPACKET, 1, NULL);
	assert_int_equal(unix_clear("s"), -EADDRINUSE);
	close(l);
	assert_int_equal(unix_clear("s"), 0);
	assert_int_equal(access("s", F_OK), -1);
	l = unix_listen("s", SOCK_STREAM, 1, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(waits); i++)
		waits[i] = unix_connect("s", SOCK_STREAM | SOCK_NONBLOCK, NULL);
	assert_int_equal(waits[3], -EAGAIN);
	assert_int_equal(unix_clear("s"), -EADDRINUSE);
	close(l);
	for (unsigned i = 0; i < ARRAY_SIZE(waits); i++)
		if (waits[i] >= 0)
			close(waits[i]);
	assert_int_equal(unix_clear("s"), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(who_connects_is_heard),
		cmocka_unit_test(the_file_is_its_owners),
		cmocka_unit_test(a_path_that_is_too_long_says_so),
		cmocka_unit_test(nobody_is_said_to_be_there),
		cmocka_unit_test(only_what_is_dead_is_cleared)};

	return cmocka_run_group_tests_name("unix_socket", tests, make_top, drop_top);
}
