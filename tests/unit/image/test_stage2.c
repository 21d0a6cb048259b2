/* The second stage on this host: what it can reach, and what is left of it. Root only. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "image/ext4.h"
#include "image/run.h"
#include "image/stage2/host.h"

struct seen {
	struct buf text;
};

static int on_line(void *ctx, const char *line)
{
	struct seen *s = ctx;

	if (*line) {
		buf_str(&s->text, line);
		buf_str(&s->text, "\n");
	}
	return 0;
}

static void sh(const char *text)
{
	const char *argv[] = {"sh", "-c", text, NULL};
	struct err e = {0};

	if (run_ok(argv, NULL, &e))
		fail_msg("%s: %s", text, err_msg(&e));
}

/* A disk with a shell (the host's, with its libraries) and this script. */
static char *make_disk(const char *dir, const char *script, bool shell)
{
	cleanup(free_ptr) char *text = text_fmt("%s/root/var/lib/lodge/stage2", dir);
	cleanup(free_ptr) char *cmd = text_fmt(
		"cd %s && mkdir -p root/bin root/dev root/proc root/run root/var/lib/lodge && "
		"if %s; then cp -L /bin/sh root/bin/sh && ldd /bin/sh | grep -o '/[^ ]*' | while "
		"read f; "
		"do mkdir -p root${f%%/*}; cp -L $f root$f; done; fi",
		dir, shell ? "true" : "false");
	cleanup(free_ptr) char *mk = text_fmt(
		"cd %s && rm -f disk && truncate -s 32M disk && mke2fs -q -F -t ext4 -d root disk",
		dir);
	struct err e = {0};

	sh(cmd);
	assert_int_equal(whole_file_write(text, script, strlen(script), 0755, false, &e), 0);
	sh(mk);
	return text_fmt("%s/disk", dir);
}

static void run(const char *dir, const char *disk, struct seen *s, int want)
{
	cleanup(free_ptr) char *mount = text_fmt("%s/mount", dir);
	struct image_boot b = {
		.arch = "amd64", .disk = disk, .timeout_s = 60, .line = on_line, .ctx = s};
	struct err e = {0};
	int rc = stage2_host(mount, &b, &e);

	if (rc != want)
		fail_msg("%d: %s; %s", rc, err_msg(&e), s->text.p ?: "");
	/* Nothing of it is to be seen here. */
	assert_int_equal(rmdir(mount), 0);
}

/* Has something to be read, ignores SIGPIPE, blocks another signal. */
static void be_a_bad_caller(void)
{
	sigset_t some;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "typed\n", 6), 6);
	assert_int_equal(dup2(fds[0], STDIN_FILENO), STDIN_FILENO);
	close(fds[0]);
	close(fds[1]);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&some);
	sigaddset(&some, SIGUSR2);
	sigprocmask(SIG_BLOCK, &some, NULL);
}

static void test_what_it_reaches(void **state)
{
	char dir[] = "/tmp/stage2-XXXXXX";
	cleanup(free_ptr) char *script = NULL, *disk = NULL, *rm = NULL;
	cleanup(buf_free) struct buf result = {0};
	struct seen s = {{0}};
	struct err e = {0};

	if (stage2_host_can("amd64", &e)) {
		printf("SKIP: %s\n", err_msg(&e));
		skip();
	}
	assert_non_null(mkdtemp(dir));
	rm = text_fmt("rm -rf %s", dir);
	script = text_fmt(
		"echo pid $$\n"
		"[ -e %s ] && echo the host is here\n"
		"n=0; while read l; do n=$((n + 1)); done < /proc/net/dev; echo lines $n\n"
		"while read a b; do case $a$b in CapBnd:*) echo bound $b;; "
		"SigBlk:0000000000000000) ;;\n"
		"SigBlk:*|SigIgn:*[13579bdf]\?\?\?) echo the host has $a $b;; esac\n"
		"done < /proc/self/status\n"
		"read x && echo the host was read: $x\n"
		"echo 1 > /proc/sys/vm/drop_caches && echo the host was written\n"
		"echo gone > /dev/null && echo null\n"
		"while :; do :; done &\n" /* somebody who stays */
		"echo done > /var/lib/lodge/result\n",
		dir);
	disk = make_disk(dir, script, true);
	be_a_bad_caller();
	run(dir, disk, &s, 0);
	assert_non_null(strstr(s.text.p, "pid 2\n"));
	assert_null(strstr(s.text.p, "the host"));
	assert_non_null(strstr(s.text.p, "lines 3\n")); /* two of heading, the loopback */
	assert_non_null(strstr(s.text.p, "bound 00000000800400fb\n"));
	assert_non_null(strstr(s.text.p, "null\n"));
	assert_int_equal(ext4_read(disk, "var/lib/lodge/result", dir, &result, &e), 0);
	assert_string_equal(result.p, "done\n");
	assert_int_equal(ext4_check(disk, &e), 0);
	buf_free(&s.text);
	sh(rm);
}

static void test_what_fails(void **state)
{
	char dir[] = "/tmp/stage2-XXXXXX";
	cleanup(free_ptr) char *disk = NULL, *rm = NULL;
	struct seen s = {{0}};
	struct err e = {0};

	assert_int_equal(stage2_host_can("riscv64", &e), -ENOTSUP);
	if (stage2_host_can("amd64", &e))
		skip();
	assert_non_null(mkdtemp(dir));
	rm = text_fmt("rm -rf %s", dir);
	disk = make_disk(dir, "echo\n", false);
	/* A disk without a shell ends like a guest that does nothing: what it left behind says so (stage2.c). */
	run(dir, disk, &s, 0);
	assert_non_null(strstr(s.text.p, "lodge: /bin/sh of the image: No such file"));
	buf_free(&s.text);
	assert_int_equal(truncate(disk, 4096), 0);
	s.text = (struct buf){0};
	run(dir, disk, &s, -EIO);
	assert_non_null(strstr(s.text.p, "lodge: "));
	buf_free(&s.text);
	sh(rm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_it_reaches),
		cmocka_unit_test(test_what_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
