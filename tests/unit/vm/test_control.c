/* test_control.c: docs/control.md names each method as the tables in src/vm/control/ do; and their needs are looked at. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/strbuf.h"
#include "base/unix_socket.h"
#include "base/util.h"
#include "vm/control/control.h"

#define HEAD "| method | parameters | what it does | needs |\n| --- | --- | --- | --- |\n"

/* The table as it ought to be; a `|` inside a cell would end it. */
static void rows(struct strbuf *out)
{
	json_t *all = control_methods(), *m, *need;
	const char *name;
	size_t i;

	json_object_foreach(all, name, m)
	{
		const char *params = json_string_value(json_object_get(m, "params"));
		const char *help = json_string_value(json_object_get(m, "help"));

		assert_null(strchr(params, '|'));
		assert_null(strchr(help, '|'));
		strbuf_addf(out, "| `%s` | %s%s%s | %s | ", name, strcmp(params, "{}") ? "`" : "",
			strcmp(params, "{}") ? params : "", strcmp(params, "{}") ? "`" : "", help);
		json_array_foreach(json_object_get(m, "needs"), i, need)
			strbuf_addf(out, "%s%s", i ? ", " : "", json_string_value(need));
		strbuf_addf(out, " |\n");
	}
	json_decref(all);
}

static void the_page_has_every_method(void **state)
{
	cleanup(strbuf_free) struct strbuf want = {0};
	cleanup(free_ptr) char *page = NULL;
	struct err e = {0};
	char *table, *end;

	rows(&want);
	if (fs_read_file(LODGE_DOCS "/control.md", 1 << 20, &page, NULL, &e))
		fail_msg("%s", err_msg(&e));
	table = strstr(page, HEAD);
	assert_non_null(table);
	table += strlen(HEAD);
	end = strstr(table, "\n\n");
	assert_non_null(end);
	end[1] = '\0';
	if (strcmp(table, strbuf_text(&want))) {
		puts(strbuf_text(&want));
		fail_msg("docs/control.md, \"Methods\": the table has to be as above");
	}
}

/* What the socket answers, as the loop turns. */
static json_t *ask(uv_loop_t *loop, int fd, const char *method)
{
	char line[65536];
	size_t n = (size_t)snprintf(line, sizeof(line),
		"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"%s\"}\n", method);

	assert_int_equal(fs_write_all(fd, line, n), 0);
	for (n = 0; !n || line[n - 1] != '\n';) {
		ssize_t got;

		uv_run(loop, UV_RUN_NOWAIT);
		got = recv(fd, line + n, sizeof(line) - n, MSG_DONTWAIT);
		n += got > 0 ? (size_t)got : 0;
		assert_true(got != 0 && n < sizeof(line));
	}
	return json_loadb(line, n, 0, NULL);
}

static void before_there_is_a_machine(void **state)
{
	json_t *all = control_methods(), *m;
	char dir[] = "/tmp/lodge-test-XXXXXX", path[64];
	struct control *c;
	struct err e = {0};
	const char *name;
	uv_loop_t loop;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(uv_loop_init(&loop), 0);
	assert_int_equal(control_create(&c, &loop, path, -1, "early", &e), 0);
	json_object_foreach(all, name, m)
	{
		int fd = unix_connect(path, SOCK_STREAM, &e);
		json_t *j = ask(&loop, fd, name), *error = json_object_get(j, "error");

		if (json_array_size(json_object_get(m, "needs"))) {
			assert_string_equal(json_string_value(json_object_get(error, "message")),
				"machine early is still being built");
			assert_string_equal(json_string_value(json_object_get(
						    json_object_get(error, "data"), "errno")),
				"EBUSY");
		} else {
			assert_null(error);
		}
		json_decref(j);
		close(fd);
	}
	control_close(c);
	while (uv_run(&loop, UV_RUN_DEFAULT))
		;
	assert_int_equal(uv_loop_close(&loop), 0);
	assert_int_equal(rmdir(dir), 0);
	json_decref(all);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(the_page_has_every_method),
		cmocka_unit_test(before_there_is_a_machine)};

	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
