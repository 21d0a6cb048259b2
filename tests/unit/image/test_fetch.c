#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/util.h"
#include "image/apt/fetch.h"
#include "image/text.h"
#include "image/apt/verify.h"

#define SIZE 300000

struct place {
	char dir[64];
	char data[SIZE];
	char sha[SHA256_HEX];
};

static int set_up(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	char path[128];

	for (size_t i = 0; i < SIZE; i++)
		p->data[i] = (char)(i * 7 + (i >> 9));
	snprintf(p->dir, sizeof(p->dir), "/tmp/lodge-fetch-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	snprintf(path, sizeof(path), "%s/src", p->dir);
	sha256_mem(p->data, SIZE, p->sha);
	*state = p;
	return whole_file_write(path, p->data, SIZE, 0644, false, NULL);
}

static int tear_down(void **state)
{
	struct place *p = *state;

	dir_remove(p->dir, NULL);
	free(p);
	return 0;
}

static struct fetch_item item_of(const struct place *p, const char *url)
{
	struct fetch_item it = {.size = SIZE, .what = strdup("package x")};

	it.url = url ? strdup(url) : text_fmt("file://%s/src", p->dir);
	it.path = text_fmt("%s/dst", p->dir);
	memcpy(it.sha256, p->sha, SHA256_HEX);
	return it;
}

static void drop(struct fetch_item *it)
{
	free(it->url);
	free(it->path);
	free(it->what);
}

static bool there(const struct place *p, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	return !access(path, F_OK);
}

static void put_part(const struct place *p, const void *data, size_t n)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/dst.part", p->dir);
	assert_int_equal(whole_file_write(path, data, n, 0644, false, NULL), 0);
}

static void fetches_and_publishes(void **state)
{
	struct fetch_item it = item_of(*state, NULL);
	struct err e = {0};
	char got[SHA256_HEX];

	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), 0);
	assert_int_equal(sha256_file(it.path, got, &e), 0);
	assert_string_equal(got, it.sha256);
	assert_false(there(*state, "dst.part"));
	drop(&it);
}

static void goes_on_where_it_was(void **state)
{
	struct place *p = *state;
	struct fetch_item it = item_of(p, NULL);
	struct err e = {0};
	char *half = calloc(1, SIZE / 2);

	put_part(p, p->data, SIZE / 2);
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), 0);
	unlink(it.path);
	/* Wrong bytes that were there stay there: so it did not start again, and the digest tells. */
	put_part(p, half, SIZE / 2);
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), -EBADMSG);
	assert_false(there(p, "dst.part"));
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), 0);
	free(half);
	drop(&it);
}

/* Stopped between the last byte and the rename: nothing is fetched again, and a bad one is not believed. */
static void a_whole_part_is_checked_and_taken(void **state)
{
	struct place *p = *state;
	struct fetch_item it = item_of(p, "file:///nonexistent/x");
	struct err e = {0};

	put_part(p, p->data, SIZE);
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), 0);
	assert_true(there(p, "dst"));
	unlink(it.path);
	p->data[5]++;
	put_part(p, p->data, SIZE);
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), -ENOENT);
	assert_false(there(p, "dst"));
	drop(&it);
}

static void wrong_digest_deletes_the_file(void **state)
{
	struct fetch_item it = item_of(*state, NULL);
	struct err e = {0};

	it.sha256[0] = it.sha256[0] == '0' ? '1' : '0';
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), -EBADMSG);
	assert_non_null(strstr(err_msg(&e), "package x is corrupt"));
	assert_non_null(strstr(err_msg(&e), "deleted"));
	assert_false(there(*state, "dst"));
	assert_false(there(*state, "dst.part"));
	drop(&it);
}

static void wrong_length_is_refused(void **state)
{
	struct fetch_item it = item_of(*state, NULL);
	struct err e = {0};

	it.size = SIZE - 1;
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), -EBADMSG);
	it.size = SIZE + 1;
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), -EBADMSG);
	assert_false(there(*state, "dst"));
	drop(&it);
}

static void what_is_missing_and_no_network(void **state)
{
	struct fetch_item it = item_of(*state, "file:///nonexistent/x");
	struct err e = {0};

	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), -ENOENT);
	assert_non_null(strstr(err_msg(&e), "--mirror"));
	drop(&it);
	it = item_of(*state, "http://127.0.0.1:1/x");
	assert_int_equal(fetch_all(&it, 1, 4, NULL, &e), -ENETUNREACH);
	drop(&it);
}

static int stop_now(void *ctx, const char *stage, uint64_t done, uint64_t total, int bytes)
{
	return 1;
}

static void stops_when_told_and_keeps_the_part(void **state)
{
	struct image_progress pg = {stop_now, NULL};
	struct fetch_item it = item_of(*state, "http://127.0.0.1:1/x");
	struct err e = {0};

	put_part(*state, "abc", 3);
	it.url[0] = 'h';
	assert_int_not_equal(fetch_all(&it, 1, 4, &pg, &e), 0);
	assert_true(there(*state, "dst.part"));
	drop(&it);
}

/* A server of the loopback; it knows no Range, and answers such a request with the whole file. */
static pid_t serve(const char *dir, int *port)
{
	char line[256] = "";
	int fds[2];
	pid_t pid;
	size_t n = 0;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (!pid) {
		dup2(fds[1], 1);
		close(fds[0]);
		freopen("/dev/null", "w", stderr);
		execlp("python3", "python3", "-u", "-m", "http.server", "0", "--bind", "127.0.0.1",
			"--directory", dir, (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	while (n < sizeof(line) - 1 && read(fds[0], line + n, 1) == 1 && line[n] != '\n')
		n++;
	close(fds[0]);
	*port = 0;
	if (strstr(line, " port "))
		*port = atoi(strstr(line, " port ") + 6);
	return pid;
}

static void over_http_with_a_server_that_knows_no_range(void **state)
{
	struct place *p = *state;
	struct fetch_item it[2];
	struct err e = {0};
	char url[128];
	int port;
	pid_t pid = serve(p->dir, &port);

	if (!port) {
		waitpid(pid, NULL, 0);
		print_message("no python3: the test over http is skipped\n");
		skip();
	}
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/src", port);
	it[0] = item_of(p, url);
	put_part(p, "garbage", 7);
	assert_int_equal(fetch_all(it, 1, 4, NULL, &e), 0);
	snprintf(url, sizeof(url), "http://127.0.0.1:%d/none", port);
	it[1] = item_of(p, url);
	unlink(it[0].path);
	assert_int_equal(fetch_all(&it[1], 1, 4, NULL, &e), -ENOENT);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	drop(&it[0]);
	drop(&it[1]);
}

static void a_release_names_digest_and_size(void **state)
{
	struct buf b = {0};
	char sha[65];
	unsigned long long size;
	struct err e = {0};

	buf_str(&b, "Codename: trixie\nMD5Sum:\n x 1 main/a\nSHA256:\n ");
	for (int i = 0; i < 64; i++)
		buf_str(&b, "A");
	buf_str(&b, " 123 main/a\n");
	assert_int_equal(release_find(&b, "main/a", sha, &size, &e), 0);
	assert_int_equal(size, 123);
	assert_int_equal(sha[0], 'a');
	assert_int_equal(release_find(&b, "main/b", sha, &size, &e), -ENOENT);
	buf_free(&b);
}

static void unsigned_text_is_not_trusted(void **state)
{
	struct place *p = *state;
	struct keyrings k = {NULL, "/usr/share/keyrings", "/nonexistent"};
	struct buf out = {0};
	struct err e = {0};
	char path[128];
	int r;

	snprintf(path, sizeof(path), "%s/src", p->dir);
	whole_file_write(path, "Codename: trixie\n", 17, 0644, false, NULL);
	r = verify_inrelease(path, &k, p->dir, &out, &e);
	/* Where gpgv or the keys are missing it says so; never success. */
	assert_true(r == -EKEYREJECTED || r == -ENOENT);
	assert_int_equal(out.n, 0);
	buf_free(&out);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(fetches_and_publishes),
		CASE(goes_on_where_it_was),
		CASE(a_whole_part_is_checked_and_taken),
		CASE(wrong_digest_deletes_the_file),
		CASE(wrong_length_is_refused),
		CASE(what_is_missing_and_no_network),
		CASE(stops_when_told_and_keeps_the_part),
		CASE(over_http_with_a_server_that_knows_no_range),
		CASE(a_release_names_digest_and_size),
		CASE(unsigned_text_is_not_trusted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
