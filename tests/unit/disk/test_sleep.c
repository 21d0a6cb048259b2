/*
 * test_sleep.c: a disk goes from one owner to another and back (disk_sleep(), disk_wake()), in every format, with a backing file, while the other
 * one has its files open: what one has written the other one reads, and only one can have it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>
#include <uv.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/tool.h"
#include "expect.h"

#define SIZE (8 * MiB)
#define PIECE (64 * KiB)

struct side {
	struct disk_stores stores;
	struct disk *d;
};
struct world {
	uv_loop_t loop;
	char dir[64], path[96];
	struct side a, b;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	strcpy(w->dir, "/tmp/lodge-sleep-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	uv_loop_init(&w->loop);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	char cmd[128];

	disk_close(w->a.d);
	disk_close(w->b.d);
	disk_stores_clear(&w->a.stores);
	disk_stores_clear(&w->b.stores);
	/* The threads of what was put aside end behind us. */
	while (uv_loop_close(&w->loop) == UV_EBUSY)
		uv_run(&w->loop, UV_RUN_NOWAIT);
	snprintf(cmd, sizeof(cmd), "rm -r %s", w->dir);
	assert_int_equal(system(cmd), 0);
	free(w);
	return 0;
}

static void open_side(struct world *w, struct side *s, const char *format, bool asleep)
{
	struct err e = {0};

	ok(disk_open(&s->d,
		   &(struct disk_opts){.path = w->path,
			   .format = format,
			   .asleep = asleep,
			   .discard = true,
			   .io = IO_THREADS,
			   .loop = &w->loop,
			   .stores = &s->stores},
		   &e),
		&e, asleep ? "open asleep" : "open");
}

static void put(struct side *s, uint64_t at, uint8_t byte)
{
	cleanup(free_ptr) uint8_t *buf = malloc(PIECE);
	struct err e = {0};

	memset(buf, byte, PIECE);
	ok(disk_rw(s->d, DISK_WRITE, at, buf, PIECE, &e), &e, "write");
}

static void has(struct side *s, uint64_t at, uint8_t byte)
{
	cleanup(free_ptr) uint8_t *buf = malloc(PIECE);
	struct err e = {0};

	ok(disk_rw(s->d, DISK_READ, at, buf, PIECE, &e), &e, "read");
	for (unsigned i = 0; i < PIECE; i++)
		if (buf[i] != byte)
			fail_msg("byte %llu is %#x, not %#x", (unsigned long long)(at + i), buf[i],
				byte);
}

static void give(struct side *from, struct side *to)
{
	struct err e = {0};

	ok(disk_sleep(from->d, &e), &e, "sleep");
	ok(disk_wake(to->d, &e), &e, "wake");
	assert_int_equal(disk_size(from->d), SIZE);
}

static void go(struct world *w, const char *format)
{
	struct rlimit none = {0, 0}, was;
	struct err e = {0};

	open_side(w, &w->a, format, false);
	put(&w->a, 0, 1);
	open_side(w, &w->b, format, true);
	disk_close(w->b.d); /* what it has left on the shelf serves the next look */
	open_side(w, &w->b, format, true);
	assert_int_equal(disk_size(w->b.d), SIZE);
	/* From here on no file can be opened any more, as in the sandbox. */
	getrlimit(RLIMIT_NOFILE, &was);
	none.rlim_max = was.rlim_max;
	setrlimit(RLIMIT_NOFILE, &none);
	for (unsigned i = 1; i < 6; i++) {
		struct side *now = i % 2 ? &w->b : &w->a, *then = i % 2 ? &w->a : &w->b;

		put(then, i * PIECE, (uint8_t)(0x10 + i));
		put(then, 40 * PIECE, (uint8_t)i);
		give(then, now);
		has(now, 0, 1);
		has(now, 40 * PIECE, (uint8_t)i);
		for (unsigned k = 1; k <= i; k++)
			has(now, k * PIECE, (uint8_t)(0x10 + k));
	}
	setrlimit(RLIMIT_NOFILE, &was);
	if (disk_wake(w->a.d, &e) != -EBUSY)
		fail_msg("%s", err_msg(&e));
}

static void test_raw(void **state)
{
	struct world *w = *state;
	struct err e = {0};

	snprintf(w->path, sizeof(w->path), "%s/disk.raw", w->dir);
	ok(disk_create("raw",
		   &(struct disk_create_opts){.path = w->path, .size = SIZE, .loop = &w->loop}, &e),
		&e, "create");
	go(w, "raw");
}

static void test_qcow2(void **state)
{
	struct world *w = *state;
	char base[96];
	struct err e = {0};

	snprintf(base, sizeof(base), "%s/base.qcow2", w->dir);
	snprintf(w->path, sizeof(w->path), "%s/top.qcow2", w->dir);
	ok(disk_create("qcow2",
		   &(struct disk_create_opts){.path = base, .size = SIZE, .loop = &w->loop}, &e),
		&e, "create the base");
	ok(disk_create("qcow2",
		   &(struct disk_create_opts){.path = w->path,
			   .backing = base,
			   .backing_format = "qcow2",
			   .loop = &w->loop},
		   &e),
		&e, "create");
	go(w, "qcow2");
}

static void test_lodgefs(void **state)
{
	struct world *w = *state;
	char store[96];
	struct err e = {0};

	snprintf(store, sizeof(store), "%s/store", w->dir);
	snprintf(w->path, sizeof(w->path), "%s/store/d", w->dir);
	ok(disk_store_at(0)->create(
		   &(struct disk_create_opts){.path = store, .size = 64 * MiB, .loop = &w->loop},
		   &e),
		&e, "create the store");
	ok(disk_create("lodgefs",
		   &(struct disk_create_opts){
			   .path = w->path, .size = SIZE, .loop = &w->loop, .stores = &w->a.stores},
		   &e),
		&e, "create");
	go(w, "lodgefs");
}

static void test_refused(void **state)
{
	struct world *w = *state;
	struct err e = {0};

	test_raw(state);
	disk_close(w->a.d);
	w->a.d = NULL;
	ok(disk_sleep(w->b.d, &e), &e, "sleep");
	/* Another disk lies there now. */
	assert_int_equal(truncate(w->path, SIZE / 2), 0);
	assert_int_equal(disk_wake(w->b.d, &e), -EINVAL);
	assert_non_null(strstr(err_msg(&e), "has 4194304 now"));
	assert_int_equal(truncate(w->path, SIZE), 0);
	ok(disk_wake(w->b.d, &e), &e, "wake");
	put(&w->b, 0, 9);
	has(&w->b, 0, 9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_raw, setup, teardown),
		cmocka_unit_test_setup_teardown(test_qcow2, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lodgefs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
