/*
 * test_disks_in.c: images that come along: what is there stays as it is until the machine is ours, and what was made goes when it does not come; the end may
 * come at any time.
 */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "vm/config/config.h"
#include "vm/migrate/blocks.h"
#include "vm/migrate/disks_in.h"

#define SIZE (1u << 20)
#define OLD "what was here before"

struct rig {
	char dir[32], file[2][64], beside[2][80], other[2][80];
	uv_loop_t loop;
	struct vm_config cfg;
	json_t *hello;
	struct disks_in_opts o;
	struct disks_in *in;
	struct mig_blocks *blocks;
	unsigned named;
	struct err why;
	atomic_bool looked, seen;
};

static void put_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fputs(text, f) < 0, 0);
	assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct err e = {0};
	json_t *def;

	strcpy(r->dir, "/tmp/test-disks-in-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	for (unsigned i = 0; i < 2; i++) {
		snprintf(r->file[i], sizeof(r->file[i]), "%s/%u.raw", r->dir, i);
		snprintf(r->other[i], sizeof(r->other[i]), "%s.other", r->file[i]);
		snprintf(r->beside[i], sizeof(r->beside[i]), "%s.incoming", r->file[i]);
		put_file(r->file[i], OLD);
	}
	assert_int_equal(chmod(r->file[0], 0640), 0);
	uv_loop_init(&r->loop);
	def = json_pack("{s:[{s:s, s:s}, {s:s, s:s}]}", "disks", "file", r->file[0], "format",
		"raw", "file", r->file[1], "format", "raw");
	assert_int_equal(vm_config_init(&r->cfg, &e), 0);
	assert_int_equal(vm_config_from_json(&r->cfg, def, &e), 0);
	json_decref(def);
	r->hello = json_pack("{s:[{s:s, s:i}, {s:s, s:i}], s:[s, s]}", "disks", "id", "disk0",
		"size", SIZE, "id", "disk1", "size", SIZE, "copy", "disk0", "disk1");
	assert_int_equal(mig_blocks_create(&r->blocks, &e), 0);
	r->o = (struct disks_in_opts){.hello = r->hello,
		.cfg = &r->cfg,
		.overwrite = true,
		.own = true,
		.loop = &r->loop};
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	uv_run(&r->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&r->loop), 0);
	for (unsigned i = 0; i < 2; i++)
		unlink(r->file[i]);
	assert_int_equal(rmdir(r->dir), 0); /* nothing else is left in it */
	mig_blocks_free(r->blocks);
	json_decref(r->hello);
	vm_config_free(&r->cfg);
	free(r);
	return 0;
}

static bool is_old(const char *path)
{
	char text[64] = "";
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
	fclose(f);
	return !strcmp(text, OLD);
}

static void begin(struct rig *r)
{
	struct stat st;
	struct err e = {0};

	assert_int_equal(disks_in_create(&r->in, &r->o, &e), 0);
	assert_int_equal(disks_in_open(r->in, &e), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_string_equal(disks_in_at(r->in)[i], r->beside[i]);
		assert_int_equal(stat(r->beside[i], &st), 0);
		assert_int_equal(st.st_size, SIZE);
		assert_true(is_old(r->file[i]));
	}
}

static void give(struct rig *r, unsigned disk)
{
	static uint8_t data[SIZE / 2];
	const void *payload;
	struct err e = {0};
	uint32_t len;
	void *copy;

	memset(data, 0x5a, sizeof(data));
	len = mig_blocks_data(r->blocks, disk, 0, sizeof(data), data, false, &payload);
	copy = malloc(len);
	memcpy(copy, payload, len);
	assert_int_equal(disks_in_take(r->in, copy, len, &e), 0);
}

/* It does not come: a dry run, a refusal, a link that is cut. */
static void test_does_not_come(void **state)
{
	struct rig *r = *state;

	begin(r);
	give(r, 0);
	uv_run(&r->loop, UV_RUN_NOWAIT);
	disks_in_free(r->in);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(is_old(r->file[i]));
		assert_int_not_equal(access(r->beside[i], F_OK), 0);
	}
	/* RUNNING could not be said. */
	begin(r);
	disks_in_keep(r->in, true);
	disks_in_keep(r->in, false);
	disks_in_free(r->in);
	assert_true(is_old(r->file[0]) && is_old(r->file[1]));
}

static void test_comes(void **state)
{
	struct rig *r = *state;
	struct stat st;

	for (unsigned settled = 0; settled < 2; settled++) {
		put_file(r->file[0], OLD);
		put_file(r->file[1], OLD);
		begin(r);
		disks_in_keep(r->in, true);
		if (settled)
			disks_in_settle(r->in);
		disks_in_free(r->in);
		for (unsigned i = 0; i < 2; i++) {
			assert_int_equal(stat(r->file[i], &st), 0);
			assert_int_equal(st.st_size, SIZE);
			assert_int_not_equal(access(r->beside[i], F_OK), 0);
		}
		assert_int_equal(stat(r->file[0], &st), 0);
		assert_int_equal(st.st_mode & 0777, 0640);
	}
}

static unsigned open_here(const char *path)
{
	struct stat want, st;
	unsigned n = 0;

	assert_int_equal(stat(path, &want), 0);
	for (int fd = 3; fd < 256; fd++)
		n += !fstat(fd, &st) && st.st_ino == want.st_ino && st.st_dev == want.st_dev;
	return n;
}

static void on_named(void *ctx, const struct err *why)
{
	struct rig *r = ctx;

	r->named++;
	if (why)
		r->why = *why;
	disks_in_free(r->in);
}

/* Nobody waits in the loop's thread: not for names, nor for the room of what made way, which whoever closes it last gives back. */
static void test_end(void **state)
{
	struct rig *r = *state;

	begin(r);
	assert_int_equal(open_here(r->file[0]), 1);
	disks_in_keep(r->in, true);
	disks_in_settle(r->in);
	disks_in_end(r->in, on_named, r);
	uv_run(&r->loop, UV_RUN_DEFAULT);
	assert_int_equal(r->named, 1);
	assert_int_equal(r->why.code, 0);
	assert_false(is_old(r->file[0]) || is_old(r->file[1]));
}

static void test_is_the_last(void **state)
{
	struct rig *r = *state;

	begin(r);
	for (unsigned i = 0; i < 2; i++) { /* other names for what makes way */
		assert_int_equal(link(r->file[i], r->other[i]), 0);
		assert_int_equal(open_here(r->other[i]), 1);
	}
	disks_in_keep(r->in, true);
	disks_in_settle(r->in);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(open_here(r->other[i]), 0);
		assert_int_equal(unlink(r->other[i]), 0);
	}
	disks_in_free(r->in);
}

/* It runs, and that its disk has not the name that it should have is said. */
static void test_no_way(void **state)
{
	struct rig *r = *state;

	begin(r);
	assert_int_equal(unlink(r->file[0]), 0);
	assert_int_equal(mkdir(r->file[0], 0700), 0);
	disks_in_keep(r->in, true);
	disks_in_settle(r->in);
	disks_in_end(r->in, on_named, r);
	uv_run(&r->loop, UV_RUN_DEFAULT);
	assert_int_equal(r->named, 1);
	assert_int_equal(r->why.code, -EIO);
	assert_non_null(strstr(err_msg(&r->why), "disk0"));
	assert_non_null(strstr(err_msg(&r->why), r->beside[0]));
	assert_non_null(strstr(err_msg(&r->why), "Is a directory"));
	assert_false(is_old(r->file[1]));
	assert_int_equal(access(r->beside[0], F_OK), 0);
	assert_int_equal(unlink(r->beside[0]), 0);
	assert_int_equal(rmdir(r->file[0]), 0);
}

static void *look_at(void *arg)
{
	struct rig *r = arg;
	struct stat st;

	while (!atomic_load(&r->looked))
		if (!stat(r->beside[0], &st) && st.st_mode & 077)
			atomic_store(&r->seen, true);
	return NULL;
}

/* What only he could read nobody else can, at no moment. */
static void test_private(void **state)
{
	struct rig *r = *state;
	struct err e = {0};
	mode_t was = umask(0);
	pthread_t t;

	assert_int_equal(chmod(r->file[0], 0600), 0);
	assert_int_equal(pthread_create(&t, NULL, look_at, r), 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(disks_in_create(&r->in, &r->o, &e), 0);
		disks_in_free(r->in);
	}
	atomic_store(&r->looked, true);
	pthread_join(t, NULL);
	assert_false(r->seen);
	assert_int_equal(umask(was), 0);
}

/* Whose path the other side chose stays; what is named here may go. */
static void test_named(void **state)
{
	struct rig *r = *state;
	struct vm_place place[] = {{(char *)"disk0=x:raw"}, {(char *)"disk1=x:raw"}};
	struct err e = {0};

	r->o.own = false;
	assert_int_equal(disks_in_create(&r->in, &r->o, &e), -EEXIST);
	r->o.places = place;
	r->o.nplaces = 1;
	assert_int_equal(disks_in_create(&r->in, &r->o, &e), -EEXIST);
	assert_non_null(strstr(err_msg(&e), "disk1"));
	assert_true(is_old(r->file[0]) && is_old(r->file[1]));
	r->o.nplaces = 2;
	begin(r);
	disks_in_free(r->in);
	r->o.overwrite = false;
	assert_int_equal(disks_in_create(&r->in, &r->o, &e), -EEXIST);
	/* Somebody is at it already. */
	r->o.overwrite = true;
	put_file(r->beside[1], "somebody else's");
	assert_int_equal(disks_in_create(&r->in, &r->o, &e), -EEXIST);
	assert_int_equal(unlink(r->beside[1]), 0);
	assert_true(is_old(r->file[0]) && is_old(r->file[1]));
}

/* Both disks are still being written to when nobody waits for the round any more: what ends at the second begins nothing at the first. */
static void test_ends_in_a_round(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	begin(r);
	give(r, 0);
	give(r, 1);
	uv_run(&r->loop, UV_RUN_NOWAIT);
	disks_in_cancel(r->in);
	assert_int_equal(disks_in_round(r->in, &e), -ECANCELED);
	disks_in_free(r->in);
	assert_true(is_old(r->file[0]) && is_old(r->file[1]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_does_not_come, setup, teardown),
		cmocka_unit_test_setup_teardown(test_comes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_is_the_last, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_way, setup, teardown),
		cmocka_unit_test_setup_teardown(test_private, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ends_in_a_round, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
