/* The snapshot container: what is written is read back, and every damage is found. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "vm/snapshot/file.h"

#define PAGES 48
static const struct snapfile_range ranges[] = {{0x80000000, 32 * 4096}, {0x100000000, 16 * 4096}};

/* Pages 3..9 and 40 raw, 12, 13 and 33 packed, 20..22 of the parent, the others zero. */
static uint8_t byte_of(unsigned page, unsigned i)
{
	return (uint8_t)(page * 7 + (i >> 3) * (page + 1) + 1);
}

static void fill(uint8_t *p, unsigned page)
{
	for (unsigned i = 0; i < 4096; i++)
		p[i] = byte_of(page, i);
}

static void put_pages(struct snapfile_writer *w, struct err *e)
{
	uint8_t *buf = calloc(10, 4096);
	const void *at[10];

	/* Anywhere in memory, in a row in the file. */
	for (unsigned i = 0; i < 10; i++) {
		at[i] = buf + (9 - i) * 4096;
		if (i >= 3)
			fill(buf + (9 - i) * 4096, i);
	}
	assert_int_equal(snapfile_put(w, 0, 10, at, true, e), 0);
	fill(buf, 40);
	at[0] = buf;
	assert_int_equal(snapfile_put(w, 40, 1, at, false, e), 0);
	free(buf);
}

static void put_packed(struct snapfile_writer *w, struct err *e)
{
	static const uint64_t index[] = {33, 12, 14, 13};
	uint8_t *pages = calloc(4, 4096), *rec = malloc(snapfile_pack_bound());
	const void *at[4];
	struct snapfile_pack *pack;
	int len;

	for (unsigned i = 0; i < 4; i++) {
		at[i] = pages + i * 4096;
		if (index[i] != 14)
			fill(pages + i * 4096, (unsigned)index[i]);
	}
	assert_int_equal(snapfile_pack_create(&pack, 1, e), 0);
	len = snapfile_pack(pack, index, at, 4, rec);
	assert_true(len > 0 && (size_t)len <= snapfile_pack_bound());
	assert_int_equal(snapfile_put_packed(w, rec, (size_t)len, e), 0);
	snapfile_pack_free(pack);
	free(pages);
	free(rec);
}

static int write_one(bool finish)
{
	int fd = memfd_create("snap", MFD_CLOEXEC);
	static const uint8_t parent[SNAPFILE_ID] = {1, 2, 3};
	struct snapfile_writer_opts o = {
		.fd = fd, .ranges = ranges, .nranges = 2, .store_align = 4096, .parent = parent};
	struct snapfile_writer *w;
	struct err e = {0};

	assert_int_equal(snapfile_writer_create(&w, &o, &e), 0);
	assert_int_equal(snapfile_writer_pages(w), PAGES);
	put_pages(w, &e);
	put_packed(w, &e);
	snapfile_put_parent(w, 20, 3);
	assert_int_equal(snapfile_put_section(w, SNAPFILE_S_MANIFEST, "{}", 2, &e), 0);
	assert_int_equal(snapfile_put_section(w, SNAPFILE_S_STATE, "state", 5, &e), 0);
	if (finish)
		assert_int_equal(snapfile_finish(w, &e), 0);
	snapfile_writer_free(w);
	return fd;
}

static int count_page(void *ctx, uint64_t index, const void *page, struct err *e)
{
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(((const uint8_t *)page)[i], byte_of((unsigned)index, i));
	++*(unsigned *)ctx;
	return 0;
}

static void test_round_trip(void **state)
{
	struct snapfile *s;
	struct snapfile_stat st;
	struct err e = {0};
	unsigned unpacked = 0;
	uint8_t page[4096];
	char *text;
	size_t len;

	assert_int_equal(snapfile_open(&s, write_one(true), &e), 0);
	assert_int_equal(s->pages, PAGES);
	assert_int_equal(s->nranges, 2);
	assert_int_equal(s->range[1].gpa, 0x100000000);
	assert_int_equal(s->first_page[1], 32);
	assert_true(snapfile_has_parent(s));
	snapfile_stat(s, &st);
	assert_int_equal(st.pages[SNAPFILE_RAW], 8);
	assert_int_equal(st.pages[SNAPFILE_PACKED], 3);
	assert_int_equal(st.pages[SNAPFILE_PARENT], 3);
	assert_int_equal(st.pages[SNAPFILE_ZERO], PAGES - 14);
	assert_int_equal(snapfile_kind_of(s, 2), SNAPFILE_ZERO);
	assert_int_equal(snapfile_kind_of(s, 9), SNAPFILE_RAW);
	assert_int_equal(snapfile_kind_of(s, 13), SNAPFILE_PACKED);
	assert_int_equal(snapfile_kind_of(s, 14), SNAPFILE_ZERO);
	assert_int_equal(snapfile_kind_of(s, 22), SNAPFILE_PARENT);
	assert_int_equal(pread(s->fd, page, 4096, (off_t)(s->store + 40 * 4096)), 4096);
	assert_int_equal(page[77], byte_of(40, 77));
	assert_int_equal(snapfile_unpack(s, count_page, &unpacked, &e), 0);
	assert_int_equal(unpacked, 3);
	assert_int_equal(snapfile_section(s, SNAPFILE_S_STATE, &text, &len, &e), 0);
	assert_string_equal(text, "state");
	free(text);
	assert_int_equal(snapfile_section(s, SNAPFILE_S_HOT_CODE, &text, &len, &e), -ENOENT);
	assert_int_equal(snapfile_verify(s, NULL, NULL, &e), 0);
	snapfile_close(s);
}

static int open_and_verify(int fd, struct err *e)
{
	struct snapfile *s;
	int rc = snapfile_open(&s, dup(fd), e);

	if (rc)
		return rc;
	rc = snapfile_verify(s, NULL, NULL, e);
	snapfile_close(s);
	return rc;
}

/* Every byte of the file matters, also in holes and between sections. */
static void test_any_bit(void **state)
{
	int fd = write_one(true);
	off_t size = lseek(fd, 0, SEEK_END);
	unsigned missed = 0;

	for (off_t at = 0; at < size; at += at < 4096 || at > size - 2048 ? 3 : 241) {
		struct err e = {0};
		uint8_t b, flipped;

		assert_int_equal(pread(fd, &b, 1, at), 1);
		flipped = b ^ (uint8_t)(1 << (at % 8));
		assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
		if (!open_and_verify(fd, &e) || !e.msg[0])
			missed++;
		assert_int_equal(pwrite(fd, &b, 1, at), 1);
	}
	assert_int_equal(missed, 0);
	assert_int_equal(open_and_verify(fd, NULL), 0);
	close(fd);
}

static void test_cut_and_long(void **state)
{
	int fd = write_one(true);
	off_t size = lseek(fd, 0, SEEK_END);
	struct err e = {0};

	assert_int_equal(ftruncate(fd, size + 1), 0);
	assert_int_equal(open_and_verify(fd, &e), -EBADMSG);
	for (off_t at = size - 1; at >= 0; at -= at > 5000 ? 997 : 61) {
		assert_int_equal(ftruncate(fd, at), 0);
		assert_int_equal(open_and_verify(fd, &e), -EBADMSG);
	}
	close(fd);
}

static void test_unfinished(void **state)
{
	struct err e = {0};
	int fd = write_one(false);

	assert_int_equal(open_and_verify(fd, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "never finished"));
	close(fd);
}

static void test_full(void **state)
{
	int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	struct snapfile_writer_opts o = {.fd = fd, .ranges = ranges, .nranges = 2};
	struct snapfile_writer *w;
	struct err e = {0};
	uint8_t page[4096] = {1};
	const void *at = page;

	assert_int_equal(snapfile_writer_create(&w, &o, &e), 0);
	assert_int_equal(snapfile_put(w, 0, 1, &at, false, &e), -ENOSPC);
	assert_non_null(strstr(e.msg, "No space"));
	snapfile_writer_free(w);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_any_bit),
		cmocka_unit_test(test_cut_and_long),
		cmocka_unit_test(test_unfinished),
		cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests_name("vm/snapfile", tests, NULL, NULL);
}
