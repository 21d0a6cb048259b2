#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fsutil.h"
#include "base/util.h"
#include "folder.h"

static unsigned entries(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void files_are_replaced_in_one_step(void **state)
{
	struct err e = {0};
	struct stat st;
	char *text;
	size_t len;

	assert_int_equal(fs_mkdir_p("a/b//c/", 0700, &e), 0);
	assert_int_equal(fs_mkdir_p("a/b/c", 0700, &e), 0);
	assert_int_equal(fs_write_file_atomic("a/b/f", "one", 3, 0640, &e), 0);
	assert_int_equal(fs_write_file_atomic("a/b/f", "second", 6, 0600, &e), 0);
	assert_int_equal(stat("a/b/f", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(fs_read_file("a/b/f", 6, &text, &len, &e), 0);
	assert_int_equal(len, 6);
	assert_string_equal(text, "second");
	free(text);
	assert_int_equal(fs_read_file("a/b/f", 5, &text, &len, &e), -EFBIG);
	assert_string_equal(e.msg, "a/b/f is larger than 5 bytes");
	assert_int_equal(entries("a/b"), 2);
	assert_int_equal(fs_write_file_atomic("a/b/c", "x", 1, 0600, &e), -EISDIR);
	assert_int_equal(entries("a/b"), 2);
	assert_int_equal(fs_write_file_atomic("none/f", "x", 1, 0600, &e), -ENOENT);
	assert_int_equal(fs_mkdir_p("a/b/f/x", 0700, &e), -ENOTDIR);
	assert_int_equal(fs_mkdir_p("a/b/f", 0700, &e), -ENOTDIR);
	assert_int_equal(fs_mkdir_p("", 0700, &e), -ENOENT);
}

static void reading_is_bounded_and_honest(void **state)
{
	struct err e = {0};
	cleanup(free_ptr) char *big = calloc(1, 100001);
	char *text;
	size_t len;

	assert_int_equal(fs_write_file_atomic("big", big, 100001, 0600, &e), 0);
	assert_int_equal(fs_read_file("big", 200000, &text, &len, &e), 0);
	assert_int_equal(len, 100001);
	free(text);
	assert_int_equal(fs_read_file("big", 100000, &text, &len, &e), -EFBIG);
	assert_int_equal(fs_read_file("big", 0, &text, &len, &e), -EFBIG);
	assert_int_equal(fs_write_file_volatile("big", "x", 1, 0600, &e), 0);
	assert_int_equal(fs_read_file("big", 10, &text, &len, &e), 0);
	assert_int_equal(len, 1);
	free(text);
	assert_int_equal(fs_write_file_atomic("empty", NULL, 0, 0600, &e), 0);
	assert_int_equal(fs_read_file("empty", 0, &text, NULL, &e), 0);
	assert_string_equal(text, "");
	free(text);
	assert_int_equal(fs_read_file(".", 10, &text, NULL, &e), -EISDIR);
	assert_int_equal(fs_read_file("absent", 10, &text, NULL, &e), -ENOENT);
	assert_string_equal(e.msg, "open absent: No such file or directory");
	assert_int_equal(mkfifo("fifo", 0600), 0);
	assert_int_equal(fs_read_file("fifo", 10, &text, NULL, &e), -EINVAL);
	assert_int_equal(fs_read_file("/proc/self/status", 100000, &text, &len, &e), 0);
	assert_true(len > 10);
	free(text);
}

static void places(void **state)
{
	char path[PATH_MAX], want[PATH_MAX], few[8];
	struct err e = {0};
	struct stat st;

	setenv("LODGE_HOME", top, 1);
	assert_int_equal(fs_place_make(FS_RUNTIME, path, sizeof(path), &e), 0);
	snprintf(want, sizeof(want), "%s/run", top);
	assert_string_equal(path, want);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(fs_place_make(FS_RUNTIME, path, sizeof(path), &e), -EPERM);
	assert_int_equal(fs_place_path(FS_DATA, few, sizeof(few), &e), -ENAMETOOLONG);
	unsetenv("LODGE_HOME");
	setenv("XDG_DATA_HOME", "/x/data", 1);
	setenv("XDG_CACHE_HOME", "relative", 1);
	setenv("HOME", "/x/home", 1);
	assert_int_equal(fs_place_path(FS_DATA, path, sizeof(path), &e), 0);
	assert_string_equal(path, "/x/data/lodge");
	unsetenv("XDG_DATA_HOME");
	assert_int_equal(fs_place_path(FS_DATA, path, sizeof(path), &e), 0);
	assert_string_equal(path, geteuid() ? "/x/home/.local/share/lodge" : "/var/lib/lodge");
	assert_int_equal(fs_place_path(FS_CACHE, path, sizeof(path), &e), 0);
	assert_string_equal(path, geteuid() ? "/x/home/.cache/lodge" : "/var/cache/lodge");
	unsetenv("XDG_RUNTIME_DIR");
	assert_int_equal(fs_place_path(FS_RUNTIME, path, sizeof(path), &e), 0);
	snprintf(want, sizeof(want), "/tmp/lodge-%u", geteuid());
	assert_string_equal(path, geteuid() ? want : "/run/lodge");
}

static bool ends_in_x(char *name)
{
	size_t len = strlen(name);

	if (!len || name[len - 1] != 'x')
		return false;
	name[len - 1] = 0;
	return true;
}

static void names_are_filtered_and_sorted(void **state)
{
	static const char *const made[] = {"l/cx", "l/ax", "l/no", "l/.hiddenx", "l/bx"};
	struct fs_names names;
	struct err e = {0};

	assert_int_equal(fs_list("l", ends_in_x, &names, &e), 0);
	assert_int_equal(names.n, 0);
	assert_int_equal(fs_mkdir_p("l", 0700, &e), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(made); i++)
		assert_int_equal(fs_write_file_atomic(made[i], "", 0, 0600, &e), 0);
	assert_int_equal(fs_list("l", ends_in_x, &names, &e), 0);
	assert_int_equal(names.n, 3);
	assert_string_equal(names.v[0], "a");
	assert_string_equal(names.v[1], "b");
	assert_string_equal(names.v[2], "c");
	fs_names_free(&names);
	assert_int_equal(fs_list("l/no", ends_in_x, &names, &e), -ENOTDIR);
	assert_non_null(strstr(err_msg(&e), "l/no"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_are_replaced_in_one_step),
		cmocka_unit_test(reading_is_bounded_and_honest),
		cmocka_unit_test(places),
		cmocka_unit_test(names_are_filtered_and_sorted),
	};

	return cmocka_run_group_tests(tests, make_top, drop_top);
}
