#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/util.h"
#include "image/image.h"
#include "image/kernel.h"
#include "image/store.h"
#include "image/text.h"

static int set_up(void **state)
{
	struct image_dirs *d = calloc(1, sizeof(*d));
	char dir[] = "/tmp/lodge-store-XXXXXX";

	if (!mkdtemp(dir))
		return -1;
	d->cache = text_fmt("%s/cache", dir);
	d->data = text_fmt("%s/data", dir);
	*state = d;
	return dir_make(d->cache, 0755, NULL);
}

static int tear_down(void **state)
{
	struct image_dirs *d = *state;

	*strrchr(d->cache, '/') = 0;
	dir_remove(d->cache, NULL);
	image_dirs_free(d);
	free(d);
	return 0;
}

/* A finished image in the cache, with a sparse disk of 1 GiB. */
static char *make_built(const struct image_dirs *d, const char *manifest)
{
	char *dir = text_fmt("%s/built", d->cache);
	static const char *const files[] = {"vmlinux", "initrd", "disk.raw"};
	char path[256];

	dir_make(dir, 0755, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		whole_file_write(path, files[i], strlen(files[i]), 0644, false, NULL);
	}
	assert_int_equal(truncate(path, GiB), 0);
	snprintf(path, sizeof(path), "%s/manifest.json", dir);
	whole_file_write(path, manifest, strlen(manifest), 0644, false, NULL);
	return dir;
}

static const char good[] =
	"{\"name\":\"debian:trixie\",\"kernel\":\"vmlinux\",\"initrd\":\"initrd\","
	"\"append\":\"a "
	"b\",\"memory\":1048576,\"disk\":{\"file\":\"disk.raw\",\"format\":\"raw\",\"size\":"
	"1073741824}}";

static void publish_open_copy_remove(void **state)
{
	struct image_dirs *d = *state;
	char *built = make_built(d, good), *copy = text_fmt("%s/vm.raw", d->cache);
	struct image im;
	struct err e = {0};
	struct stat st;
	json_t *all;

	assert_int_equal(image_open(d, "debian", &im, &e), -ENOENT);
	assert_non_null(strstr(err_msg(&e), "lodge image pull debian"));
	/* Twice: the second replaces the first. */
	for (int i = 0; i < 2; i++)
		assert_int_equal(store_publish(d, "debian:trixie", built, &e), 0);
	assert_int_equal(image_open(d, "debian", &im, &e), 0);
	assert_string_equal(im.name, "debian:trixie");
	assert_string_equal(im.append, "a b");
	assert_int_equal(im.disk_size, GiB);
	assert_null(strchr(im.disk, ':'));
	assert_int_equal(access(im.kernel, R_OK), 0);
	assert_int_equal(image_disk_copy(&im, copy, &e), 0);
	assert_int_equal(stat(copy, &st), 0);
	assert_int_equal(st.st_size, GiB);
	assert_true(st.st_blocks * 512 < (int64_t)MiB);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Never over something that is there. */
	assert_int_equal(image_disk_copy(&im, copy, &e), -EEXIST);
	image_close(&im);
	all = image_list(d, &e);
	assert_int_equal(json_array_size(all), 1);
	json_decref(all);
	assert_int_equal(image_remove(d, "debian:trixie", &e), 0);
	assert_int_equal(image_remove(d, "debian:trixie", &e), -ENOENT);
	free(built);
	free(copy);
}

static void manifests_do_not_lead_out(void **state)
{
	struct image_dirs *d = *state;
	char *built = make_built(
		d, "{\"name\":\"debian:mini\",\"kernel\":\"../../x\",\"initrd\":\"initrd\"}");
	struct image im;
	struct err e = {0};

	assert_int_equal(store_publish(d, "debian:mini", built, &e), 0);
	assert_int_equal(image_open(d, "debian:mini", &im, &e), -EINVAL);
	free(built);
}

static void unknown_names_list_the_known(void **state)
{
	struct err e = {0};
	const char *name;

	assert_int_equal(image_name("ubuntu", &name, &e), -ENOENT);
	assert_non_null(strstr(err_msg(&e), "debian:mini, debian:trixie"));
	assert_int_equal(image_name("debian", &name, &e), 0);
	assert_string_equal(name, "debian:trixie");
}

static void one_pull_at_a_time(void **state)
{
	struct image_dirs *d = *state;
	struct image_pull o = {.name = "debian:mini", .etc_apt = "/nonexistent"};
	enum image_pulled how;
	struct err e = {0};
	int fd, other;

	assert_int_equal(store_lock(d, "debian:mini", &fd, &e), 0);
	assert_int_equal(store_lock(d, "debian:mini", &other, &e), -EBUSY);
	assert_non_null(strstr(err_msg(&e), "is being pulled"));
	assert_int_equal(image_pull(d, &o, &how, &e), -EBUSY);
	assert_int_equal(store_lock(d, "debian:trixie", &other, &e), 0);
	close(other);
	close(fd);
	/* Then it goes on, and fails for want of a mirror; nothing is left. */
	assert_int_equal(image_pull(d, &o, &how, &e), -ENOENT);
	assert_non_null(strstr(err_msg(&e), "--mirror"));
	o.mirror = "gopher://x";
	assert_int_equal(image_pull(d, &o, &how, &e), -EINVAL);
	o.mirror = "http://127.0.0.1:1";
	assert_int_equal(image_pull(d, &o, &how, &e), -ENETUNREACH);
	assert_int_equal(image_manifest(d, "debian:mini", &e) != NULL, 0);
}

static void applets_are_found_in_the_table(void **state)
{
	struct buf b = {0}, names = {0};
	struct err e = {0};
	char s[16];

	buf_add(&b, "junk [", 6);
	buf_add(&b, "", 1);
	buf_add(&b, "[[", 3);
	for (int i = 0; i < 120; i++) {
		snprintf(s, sizeof(s), "a%03d", i);
		buf_add(&b, s, 5);
	}
	buf_add(&b, "\1\0zz", 4);
	assert_int_equal(busybox_applets(&b, &names, &e), 0);
	assert_int_equal(strncmp(names.p, "[\n[[\na000\n", 10), 0);
	assert_string_equal(strrchr(names.p, 'a'), "a119\n");
	b.n = 100;
	names.n = 0;
	assert_int_equal(busybox_applets(&b, &names, &e), -ENOEXEC);
	buf_free(&b);
	buf_free(&names);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(publish_open_copy_remove),
		CASE(manifests_do_not_lead_out),
		CASE(unknown_names_list_the_known),
		CASE(one_pull_at_a_time),
		cmocka_unit_test(applets_are_found_in_the_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
